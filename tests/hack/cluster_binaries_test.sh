#!/usr/bin/env bash
# Tests hack/cluster: where its programs come from (with stand-ins for programs, releases and the Go compiler, so that
# nothing outside this machine matters), and the life of real clusters, two side by side. Everything happens in copies
# of hack/cluster in a temporary folder; the checkout's own cluster is not touched. Needs python3 (a web server).
# Usage: tests/hack/cluster_binaries_test.sh

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/check.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/check.sh"
ONE="$T/check out one" TWO="$T/two"
SERVER=''

cleanup() {
  for dir in "$ONE" "$TWO" "$T"/copy-*; do
    if [[ -d $dir ]]; then "$dir/hack/cluster/down.sh" >/dev/null 2>&1 || true; fi
  done
  if [[ -n $SERVER ]]; then kill "$SERVER" 2>/dev/null || true; fi
}

copy() { mkdir -p -- "$1/hack" && cp -R -- "$ROOT/hack/cluster" "$1/hack/" && cp -- "$ROOT/Makefile" "$1/"; }

# ---- where programs come from --------------------------------------------------------------------------------------

version_of() { awk -v m="$1" '$1 == m && $2 ~ /^v/ {print $2; exit}' "$ROOT/hack/cluster/go.mod"; }
KUBE=$(version_of k8s.io/kubernetes) ETCD=$(version_of go.etcd.io/etcd/server/v3)
case $(uname -m) in x86_64) ARCH=amd64 ;; *) ARCH=arm64 ;; esac
ALL=(kube-apiserver etcd kubectl kube-controller-manager)

stand_in() { printf '#!/bin/sh\necho "%s"\n' "$2" >"$1" && chmod +x "$1"; }
checksum() { sha256sum "$1" | cut -d' ' -f1; }

# A release without kube-controller-manager, a Go that "builds" by writing a file, and a machine without Go.
make_stand_ins() {
  local dir=$T/www/$KUBE/bin/linux/$ARCH name
  mkdir -p "$dir" "$T/www/$ETCD" "$T/assets" "$T/go" "$T/no-go"
  for name in kube-apiserver kubectl; do
    stand_in "$dir/$name" "$name from the release"
    checksum "$dir/$name" >"$dir/$name.sha256"
  done
  local inner=etcd-$ETCD-linux-$ARCH
  mkdir "$T/$inner"
  stand_in "$T/$inner/etcd" 'etcd from the release'
  tar -czf "$T/www/$ETCD/$inner.tar.gz" -C "$T" "$inner"
  printf '%064d  other.tar.gz\n%s  %s\n' 0 "$(checksum "$T/www/$ETCD/$inner.tar.gz")" "$inner.tar.gz" >"$T/www/$ETCD/SHA256SUMS"
  stand_in "$T/assets/kube-apiserver" 'Kubernetes v1.2.3 from the assets'

  cat >"$T/go/go" <<'EOF'
#!/bin/bash
echo "$*" >>"$GO_CALLS"
sleep "${GO_SLOW:-0}"
while [[ $1 != -o ]]; do shift; done
printf '#!/bin/sh\necho "built by go"\n' >"$2" && chmod +x "$2"
EOF
  chmod +x "$T/go/go"
  for name in awk bash cat curl cut dirname env flock grep head ln mkdir mktemp mv rm sed sha256sum sleep stat tail tar tr uname gzip chmod; do
    ln -s "$(type -P "$name")" "$T/no-go/$name"
  done
}

serve() {
  : >"$T/server.log"
  python3 -u -m http.server 0 --bind 127.0.0.1 --directory "$T/www" >"$T/server.log" 2>&1 &
  SERVER=$!
  until URL=http://127.0.0.1:$(grep -oP '(?<=port )\d+' "$T/server.log"); do
    kill -0 "$SERVER" || { cat "$T/server.log"; exit 1; }
    sleep 0.05
  done
}

# binaries CACHE NAME...: with the stand-ins; links into CACHE/bin, says into CACHE.said.
binaries() {
  local cache=$1
  shift
  env PATH="${USE_PATH:-$T/go:$PATH}" XDG_CACHE_HOME="$cache" KUBEBUILDER_ASSETS="${ASSETS-}" NO_PROXY='*' no_proxy='*' \
    CLUSTER_KUBERNETES_URL="${SOURCE-$URL}" CLUSTER_ETCD_URL="${SOURCE-$URL}" GO_CALLS="$cache.calls" \
    "$ROOT/hack/cluster/binaries.sh" "$cache/bin" "$@" 2>&1 | tee "$cache.said"
}
prints() { [[ $("$1") == "$2" ]] || { echo "$1 prints '$("$1")', not '$2'"; return 1; }; }

each_source_gives_what_the_one_before_lacks() {
  ASSETS=$T/assets binaries "$T/c1" "${ALL[@]}"
  prints "$T/c1/bin/kube-apiserver" 'Kubernetes v1.2.3 from the assets'
  has "$T/c1.said" "tested with $KUBE"
  has_not "$T/server.log" "/kube-apiserver"
  prints "$T/c1/bin/etcd" 'etcd from the release'
  prints "$T/c1/bin/kubectl" 'kubectl from the release'
  has "$T/c1.said" "kubectl $KUBE: downloaded from $URL"
  has "$T/c1.said" 'checksum verified'
  prints "$T/c1/bin/kube-controller-manager" 'built by go'
  has "$T/c1.said" "has no kube-controller-manager $KUBE"
  [[ $(wc -l <"$T/c1.calls") == 1 ]]
  has "$T/c1.calls" "component-base/version.gitVersion=$KUBE"
}
what_is_cached_is_not_fetched_again() {
  local requests
  requests=$(wc -l <"$T/server.log")
  binaries "$T/c1" etcd kubectl kube-controller-manager
  [[ $(wc -l <"$T/server.log") == "$requests" && $(wc -l <"$T/c1.calls") == 1 ]]
  has "$T/c1.said" 'from the cache'
}
a_wrong_checksum_stops_everything() {
  local sums=$T/www/$KUBE/bin/linux/$ARCH/kubectl.sha256
  cp "$sums" "$T/sums" && printf '%064d\n' 7 >"$sums"
  fails binaries "$T/c2" kubectl
  cp "$T/sums" "$sums"
  has "$T/c2.said" 'Wrong checksum'
  has "$T/c2.said" 'next:'
  [[ ! -e $T/c2.calls && ! -e $T/c2/bin/kubectl ]]
  # Neither the program nor a temporary file of it.
  [[ -z $(find "$T/c2" -name '*kubectl*' ! -name '*.lock') ]]
}
refused_downloads_are_built_soon() {
  local begun=$SECONDS
  SOURCE=http://127.0.0.1:9 binaries "$T/c3" "${ALL[@]}"
  prints "$T/c3/bin/etcd" 'built by go'
  has "$T/c3.said" 'cannot be reached'
  ((SECONDS - begun < 10)) && [[ $(wc -l <"$T/c3.calls") == 4 ]]
}
downloads_can_be_switched_off() {
  SOURCE='' binaries "$T/c4" kubectl
  has "$T/c4.said" 'switched off'
  prints "$T/c4/bin/kubectl" 'built by go'
}
without_any_source_it_says_what_to_do() {
  USE_PATH=$T/no-go fails binaries "$T/c5" kube-controller-manager
  has "$T/c5.said" 'is to be had nowhere'
  has "$T/c5.said" 'Set KUBEBUILDER_ASSETS'
}
two_at_once_build_once() {
  local first
  (SOURCE='' GO_SLOW=2 binaries "$T/c6" kubectl >/dev/null) &
  first=$!
  sleep 0.7
  copy "$T/copy-a"
  env PATH="$T/go:$PATH" XDG_CACHE_HOME="$T/c6" CLUSTER_KUBERNETES_URL='' GO_CALLS="$T/c6.calls" \
    KUBEBUILDER_ASSETS='' "$T/copy-a/hack/cluster/binaries.sh" "$T/c6/bin2" kubectl 2>&1 | tee "$T/c6.said2"
  wait "$first"
  has "$T/c6.said2" 'waiting for that'
  [[ $(wc -l <"$T/c6.calls") == 1 ]]
  prints "$T/c6/bin2/kubectl" 'built by go'
}

# ---- real clusters ---------------------------------------------------------------------------------------------------

in_one() { (eval "$(<"$T/one.export")" && "$@"); }
in_two() { (eval "$(<"$T/two.export")" && "$@"); }
component() { "$ONE/hack/cluster/component.sh" "$@"; }
pid() { cut -d' ' -f1 "$1/.cluster/run/$2.pid"; }
runs() { [[ -r /proc/$1/stat ]] && ! grep -q '^State:[[:space:]]*[ZX]' "/proc/$1/status"; }

two_checkouts_come_up_side_by_side() {
  copy "$ONE" && copy "$TWO"
  local other
  # Through a pipe that ends only when nobody holds it any more.
  (make -sC "$ONE" cluster-up | cat >"$T/one.out") &
  other=$!
  make -sC "$TWO" cluster-up | cat >"$T/two.out"
  wait "$other"
  tail -1 "$T/one.out" >"$T/one.export" && tail -1 "$T/two.out" >"$T/two.export"
  [[ $(in_one printenv KUBECONFIG) == "$ONE/.cluster/kubeconfig" ]]
  [[ $(in_one sh -c 'command -v kubectl') == "$ONE/.cluster/bin/kubectl" ]]
  in_one kubectl create configmap here --from-literal=a=b
  fails in_two kubectl get configmap here
  in_two kubectl get serviceaccount default
}
up_again_finds_it_up() {
  make -sC "$ONE" cluster-up >"$T/again" 2>"$T/again.said"
  has "$T/again.said" 'already up'
  cmp <(tail -1 "$T/again") "$T/one.export"
}
secrets_are_for_the_owner_alone() {
  [[ -z $(find "$ONE/.cluster" -type f -perm /077) && $(stat -c %a "$ONE/.cluster") == 700 ]]
  # etcd answers nobody without a certificate.
  fails curl -sfk --noproxy '*' "https://127.0.0.1:$(<"$ONE/.cluster/run/etcd-port")/health"
}
requests_are_in_the_audit_log_at_once() {
  in_one kubectl get secrets --namespace=kube-public
  grep '"verb":"list"' "$ONE/.cluster/audit.log" | grep '"userAgent":"kubectl/' | grep '"resource":"secrets","namespace":"kube-public"'
  has_not "$ONE/.cluster/audit.log" '"username":"system:kube-controller-manager"'
  has_not "$ONE/.cluster/audit.log" '"stage":"RequestReceived"'
}
owners_take_their_objects_along() {
  local uid
  in_one kubectl create configmap owner
  uid=$(in_one kubectl get configmap owner -o 'jsonpath={.metadata.uid}')
  in_one kubectl create configmap owned
  in_one kubectl patch configmap owned -p \
    "{\"metadata\":{\"ownerReferences\":[{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"name\":\"owner\",\"uid\":\"$uid\"}]}}"
  in_one kubectl delete configmap owner
  in_one kubectl wait --for=delete configmap/owned --timeout=20s
}
components_fail_and_come_back() {
  component stop kube-apiserver
  fails in_one kubectl get configmap here --request-timeout=1s
  component cont kube-apiserver
  in_one kubectl get configmap here
  component kill etcd
  component kill kube-apiserver
  fails in_one kubectl get configmap here
  component start etcd
  component start kube-apiserver
  in_one kubectl get configmap here
  component kill kube-controller-manager
  component start kube-controller-manager
  fails component burn etcd
}
up_after_a_death_starts_afresh() {
  local old_etcd
  old_etcd=$(pid "$ONE" etcd)
  component kill kube-apiserver
  component stop etcd
  make -sC "$ONE" cluster-up | tail -1 >"$T/one.export"
  fails runs "$old_etcd"
  fails in_one kubectl get configmap here
}
down_of_one_leaves_the_other() {
  local pids name
  pids=$(for name in etcd kube-apiserver kube-controller-manager; do pid "$ONE" "$name"; done)
  make -sC "$ONE" cluster-down
  for name in $pids; do fails runs "$name"; done
  [[ ! -e $ONE/.cluster ]]
  in_two kubectl get namespace default
}
down_twice_is_fine() {
  make -sC "$ONE" cluster-down
  make -sC "$TWO" cluster-down && make -sC "$TWO" cluster-down
}
foreign_processes_are_let_be() {
  local stranger
  sleep 60 &
  stranger=$!
  copy "$T/copy-b"
  mkdir -p "$T/copy-b/.cluster/run"
  echo "$stranger 12345" >"$T/copy-b/.cluster/run/etcd.pid"
  # Even with the right start time: it is not of this cluster.
  echo "$stranger $(sed 's/.*) //' "/proc/$stranger/stat" | cut -d' ' -f20)" >"$T/copy-b/.cluster/run/kube-apiserver.pid"
  make -sC "$T/copy-b" cluster-down
  kill -0 "$stranger" && kill "$stranger"
}
a_failed_start_shows_why_and_leaves_nothing() {
  mkdir "$T/broken"
  printf '#!/bin/sh\necho "boom: the reason" >&2\nexit 1\n' >"$T/broken/kube-apiserver" && chmod +x "$T/broken/kube-apiserver"
  copy "$T/copy-c"
  KUBEBUILDER_ASSETS=$T/broken fails make -sC "$T/copy-c" cluster-up >"$T/fail.out" 2>"$T/fail.said"
  has "$T/fail.said" 'boom: the reason'
  has "$T/fail.said" 'next:'
  [[ ! -s $T/fail.out ]] # nothing that an eval would take
  fails grep -sqF "$T/copy-c/.cluster" /proc/[0-9]*/cmdline
}

make_stand_ins
serve
for behaviour in \
  each_source_gives_what_the_one_before_lacks what_is_cached_is_not_fetched_again a_wrong_checksum_stops_everything \
  refused_downloads_are_built_soon downloads_can_be_switched_off without_any_source_it_says_what_to_do two_at_once_build_once \
  two_checkouts_come_up_side_by_side up_again_finds_it_up secrets_are_for_the_owner_alone requests_are_in_the_audit_log_at_once \
  owners_take_their_objects_along components_fail_and_come_back up_after_a_death_starts_afresh down_of_one_leaves_the_other \
  down_twice_is_fine foreign_processes_are_let_be a_failed_start_shows_why_and_leaves_nothing; do
  check "${behaviour//_/ }" "$behaviour"
done
conclude
