#!/usr/bin/env bash
# Tests hack/node: the life of a real node and of pods on it, and that nothing stays behind. Everything happens in copies
# of hack/ in a temporary folder, one at a path too long for a socket; the checkout's own cluster is not touched.
# Status 77, with the reason, where no node can run. Usage: tests/hack/node_test.sh

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/check.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/check.sh"
# Some users may pass through the temporary folder: one check is of a run by nobody.
chmod 755 "$T"
ONE="$T/a check out whose path is far longer than the hundred and eight bytes that the name of a unix socket may have/one"
TWO="$T/two"

cleanup() {
  for dir in "$ONE" "$TWO"; do
    if [[ -d $dir ]]; then "$dir/hack/cluster/down.sh" >/dev/null 2>&1 || true; fi
  done
}

copy() { mkdir -p -- "$1/hack" && cp -R -- "$ROOT/hack/cluster" "$ROOT/hack/node" "$1/hack/" && cp -- "$ROOT/Makefile" "$1/"; }
pids() { cut -d' ' -f1 "$1"/.cluster/run/*.pid; }
in_one() { (eval "$(<"$T/one.export")" && "$@"); }

# pod NAME: as users run theirs; it prints its Secret whenever that is another one, and says when it is asked to end.
pod() {
  cat <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $1}
spec:
  hostNetwork: true
  automountServiceAccountToken: false
  securityContext: {runAsUser: 50000, runAsGroup: 0, runAsNonRoot: true}
  containers:
    - name: client
      image: docker.io/library/python:3.12-slim
      command:
        - sh
        - -c
        - |
          trap 'echo ended; exit 0' TERM
          if touch /written; then echo writable; fi
          id
          while :; do
            now=\$(cat /secret/token)
            if [ "\$now" != "\$last" ]; then echo "read \$now"; last=\$now; fi
            sleep 0.2 & wait \$!
          done
          exit 1 # marked $T
      securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
      volumeMounts: [{name: secret, mountPath: /secret, readOnly: true}]
  volumes: [{name: secret, secret: {secretName: token}}]
YAML
}
said() { in_one kubectl logs reader >"$T/said" && grep -qF -- "$1" "$T/said"; }
pod_processes() { grep -lsaF "marked $T" /proc/[0-9]*/cmdline; }
# nothing_of CHECKOUT: of its node, on the whole machine.
nothing_of() {
  local cgroup
  cgroup=graphtoken-node-$(printf '%s' "$1/.cluster" | sha256sum | cut -c1-12)
  fails pod_processes
  # The kernel writes a space in a path as \040.
  fails grep -lsF -- "${1// /\\040}/.cluster" /proc/[0-9]*/mountinfo
  fails grep -lsF -- "$1/.cluster/node" /proc/[0-9]*/cmdline
  fails compgen -G "/sys/fs/cgroup/*/$cgroup"
  [[ ! -e /sys/fs/cgroup/$cgroup && ! -e $1/.cluster/node ]]
}

node_up_brings_a_ready_node() {
  copy "$ONE"
  NODE_SYNC_FREQUENCY=2s make -sC "$ONE" node-up >"$T/up"
  tail -1 "$T/up" >"$T/one.export"
  [[ $(in_one printenv KUBECONFIG) == "$ONE/.cluster/kubeconfig" ]]
  in_one kubectl wait --for=condition=Ready node/local --timeout=1s
}
it_listens_on_loopback_alone() {
  local pid inodes
  for pid in $(pids "$ONE"); do
    inodes=$(find "/proc/$pid/fd" -lname 'socket:*' -printf '%l\n' 2>/dev/null | tr -dc '0-9\n' | tr '\n' '|')
    # shellcheck disable=SC2016  # $2, $4 and $10 are awk's
    # State 0A is LISTEN; the addresses are hexadecimal: 127.0.0.1 and ::1.
    fails awk -v own="|$inodes" '$4 == "0A" && index(own, "|" $10 "|") && $2 !~ /^0100007F:/ && $2 !~ /^000000000000000000000000(01000000|FFFF00000100007F):/ {print; bad = 1} END {exit !bad}' \
      /proc/net/tcp /proc/net/tcp6
  done
}
up_again_changes_nothing() {
  pids "$ONE" >"$T/before"
  make -sC "$ONE" node-up >"$T/again" 2>"$T/again.said"
  has "$T/again.said" 'the node is already up'
  cmp "$T/before" <(pids "$ONE")
  cmp <(tail -1 "$T/again") "$T/one.export"
}
what_the_node_has_is_not_imported_again() {
  "$ONE/hack/node/images.sh" clients --tag graphtoken.test/clients:local --tag python:3.12-slim
  "$ONE/hack/node/images.sh" clients 2>&1 | tee "$T/image.said"
  has "$T/image.said" 'the node has it already'
  fails grep 'making' "$T/image.said"
  fails "$ONE/hack/node/images.sh" tag no.such/image:1 other:1
}
a_pod_reads_its_secret() {
  in_one kubectl create secret generic token --from-literal=token=one
  pod reader | in_one kubectl create -f -
  in_one kubectl wait --for=condition=Ready pod/reader --timeout=30s
  within 10 said 'read one'
  has "$T/said" 'uid=50000(client) gid=0(root)'
  fails has "$T/said" writable
}
python_and_clients_run_in_it() {
  in_one kubectl exec reader -- python3 -I -c 'import ssl, sqlite3, zoneinfo; assert ssl.create_default_context().cert_store_stats()["x509_ca"] > 9'
  in_one kubectl exec reader -- curl --version
  in_one kubectl exec reader -- rclone version
}
it_sees_the_secret_change() {
  in_one kubectl patch secret token -p '{"stringData":{"token":"two"}}'
  within 20 said 'read two'
}
a_deleted_pod_is_asked_to_end() {
  pod asked | sed 's/name: asked/name: asked, labels: {a: b}/' | in_one kubectl create -f -
  in_one kubectl wait --for=condition=Ready pod/asked --timeout=30s
  (in_one kubectl logs -f asked >"$T/asked") &
  in_one kubectl delete pod asked --timeout=20s
  wait "$!"
  has "$T/asked" ended
}
two_checkouts_have_a_node_each() {
  copy "$TWO"
  make -sC "$TWO" node-up >"$T/two.up"
  (eval "$(tail -1 "$T/two.up")" && kubectl wait --for=condition=Ready node/local --timeout=1s)
  in_one kubectl wait --for=condition=Ready node/local --timeout=1s
}
cluster_down_takes_the_node_along() {
  local pid
  pids "$TWO" >"$T/pids"
  make -sC "$TWO" cluster-down
  while read -r pid; do fails lives "$pid"; done <"$T/pids"
  [[ ! -e $TWO/.cluster ]]
  fails grep -lsF -- "$TWO/.cluster" /proc/[0-9]*/mountinfo
  fails compgen -G '/sys/fs/cgroup/*/'"graphtoken-node-$(printf '%s' "$TWO/.cluster" | sha256sum | cut -c1-12)"
  in_one kubectl wait --for=condition=Ready node/local --timeout=1s
}
node_down_leaves_the_control_plane_alone() {
  pod_processes
  make -sC "$ONE" node-down
  nothing_of "$ONE"
  in_one kubectl get secret token
  [[ -z $(in_one kubectl get nodes,pods -o name) ]]
}
down_twice_is_fine() { make -sC "$ONE" node-down; }
a_node_that_was_killed_comes_back() {
  make -sC "$ONE" node-up >"$T/up"
  kill -s KILL "$(cut -d' ' -f1 "$ONE/.cluster/run/node.pid")"
  # As users do, with the cluster's programs first in their PATH.
  in_one make -sC "$ONE" node-up >"$T/up" 2>"$T/up.said"
  has "$T/up.said" 'starting again from nothing'
  in_one kubectl wait --for=condition=Ready node/local --timeout=1s
  make -sC "$ONE" cluster-down
  nothing_of "$ONE"
}
another_user_is_told_why_not() {
  local status=0
  copy "$TWO"
  setpriv --reuid=65534 --regid=65534 --clear-groups "$TWO/hack/node/up.sh" >"$T/nobody" 2>"$T/nobody.said" || status=$?
  [[ $status == 77 && ! -s $T/nobody && ! -e $TWO/.cluster ]]
  has "$T/nobody.said" 'it needs root'
  has "$T/nobody.said" 'next:'
}

if ! "$ROOT/hack/node/up.sh" --check; then exit 77; fi
for behaviour in \
  another_user_is_told_why_not node_up_brings_a_ready_node it_listens_on_loopback_alone up_again_changes_nothing \
  what_the_node_has_is_not_imported_again a_pod_reads_its_secret python_and_clients_run_in_it it_sees_the_secret_change \
  a_deleted_pod_is_asked_to_end two_checkouts_have_a_node_each cluster_down_takes_the_node_along \
  node_down_leaves_the_control_plane_alone down_twice_is_fine a_node_that_was_killed_comes_back; do
  check "${behaviour//_/ }" "$behaviour"
done
conclude
