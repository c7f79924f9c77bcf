#!/usr/bin/env bash
# Starts a real control plane (etcd, kube-apiserver, kube-controller-manager) for this checkout on loopback, with its
# state in .cluster/. Prints one line to stdout: an `export` for eval. Everything else goes to stderr.
# Heeds these variables: KUBEBUILDER_ASSETS (a folder of programs that go first), CLUSTER_KUBERNETES_URL,
# CLUSTER_ETCD_URL, CLUSTER_HELM_URL (mirrors of the releases; empty: no download), CLUSTER_CONNECT_TIMEOUT (3 s, of a download),
# CLUSTER_START_TIMEOUT (120 s), XDG_CACHE_HOME, and curl's and Go's own (HTTPS_PROXY, GOPROXY, ...).

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=configure.sh
source "$HERE/configure.sh"

START_TIMEOUT=${CLUSTER_START_TIMEOUT:-120} # seconds until everything must answer; slow, busy machines need many

healthy() {
  local name
  for name in "${COMPONENTS[@]}"; do pid_of "$name" >/dev/null || return 1; done
  api /readyz >/dev/null
}

# shellcheck disable=SC2016  # $PATH is for the shell that evaluates it
print_export() { printf 'export KUBECONFIG=%s PATH=%s:"$PATH"\n' "$(quoted "$STATE/kubeconfig")" "$(quoted "$BIN")"; }

trap undo_start EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# failed NAME WHAT
failed() {
  die_of "$1" "$2" "Read the lines above; then run this again (it begins from nothing)." \
    "If the machine is slow: CLUSTER_START_TIMEOUT=600 make cluster-up"
}

# await NAME: status 75 when it ended because another process had taken its port meanwhile.
await() {
  await_answer "$1" "$((DEADLINE > SECONDS ? DEADLINE - SECONDS : 0))" && return
  if pid_of "$1" >/dev/null; then failed "$1" "did not get ready within $START_TIMEOUT s"; fi
  if grep -q 'address already in use' "$LOG/$1.log"; then return 75; fi
  failed "$1" 'ended while starting'
}

# start: all at once where that works: the API server waits for etcd by itself.
start() {
  DEADLINE=$((SECONDS + START_TIMEOUT))
  launch etcd
  launch kube-apiserver
  await etcd || return
  await kube-apiserver || return
  launch kube-controller-manager
  # Without this service account no pod can be created: it is the last thing to appear.
  until api /api/v1/namespaces/default/serviceaccounts/default >/dev/null; do
    pid_of kube-controller-manager >/dev/null || failed kube-controller-manager 'ended while starting'
    ((SECONDS < DEADLINE)) || failed kube-controller-manager "made no default service account within $START_TIMEOUT s"
    sleep 0.1
  done
}

check_platform
need awk base64 curl flock openssl setsid sha256sum tar
lock_checkout
begun=$SECONDS
if [[ -e $STATE ]]; then
  if healthy 2>/dev/null; then
    say "already up (cluster-down ends it)"
    print_export
    exit 0
  fi
  say "a cluster that did not come up or died is in .cluster; starting again from nothing"
  stop_all
  remove_state
fi

mkdir -m 0700 -- "$STATE"
"$HERE/binaries.sh" "$BIN" "${COMPONENTS[@]}" kubectl
umask 077

UNDO=stop_all
say "starting ${COMPONENTS[*]}"
for attempt in 1 2 3; do
  configure
  status=0
  start || status=$?
  ((status == 75)) || break
  say "another process took a port meanwhile; trying others"
  stop_all
  rm -rf -- "$STATE/etcd" "$LOG"
  ((attempt < 3)) || die "No free ports in three attempts." "Run this again."
done
UNDO=''
say "up after $((SECONDS - begun)) s: https://127.0.0.1:$(<"$RUN/port"); logs in .cluster/log, requests in .cluster/audit.log"
print_export
