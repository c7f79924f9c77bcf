#!/usr/bin/env bash
# Adds a real node (containerd, kubelet, kube-scheduler) to this checkout's cluster, and starts that where it is not up.
# Prints the same line to stdout as cluster-up; everything else goes to stderr. Status 77 where no node can run.
# Heeds what cluster-up does, and NODE_SYNC_FREQUENCY (kubelet's syncFrequency, default 1m), NODE_START_TIMEOUT (120 s).
# Usage: up.sh [--check]     --check: only says whether a node can run here

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=../cluster/configure.sh
source "$HERE/configure.sh"
# shellcheck source-path=SCRIPTDIR source=configure.sh
source "$NODE_SCRIPTS/configure.sh"

START_TIMEOUT=${NODE_START_TIMEOUT:-120}

trap undo_start EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

node_is_up() {
  local name
  for name in "${NODE_COMPONENTS[@]}"; do pid_of "$name" >/dev/null || return 1; done
  node_is_ready
}

# failed NAME WHAT
failed() {
  die_of "$1" "$2" "Read the lines above; then run this again (the control plane is still up)." \
    "If the machine is slow: NODE_START_TIMEOUT=600 make node-up"
}

# await NAME WHAT COMMAND...: until the command says yes. Status 75 when NAME ended because its port was taken meanwhile.
await() {
  local name=$1 what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    if ! pid_of "$name" >/dev/null; then
      if grep -q 'address already in use' "$LOG/$name.log"; then return 75; fi
      failed "$name" 'ended while starting'
    fi
    ((SECONDS < DEADLINE)) || failed "$name" "$what within $START_TIMEOUT s"
    sleep 0.1
  done
}

# register: the node's entry, made before kubelet looks for it: with an address, which also is that of its pods. One that
# is there already is of a node that died, and would be believed.
register() {
  forget_node || failed kube-apiserver 'did not forget the node that was'
  send POST /api/v1/nodes application/json \
    "{\"metadata\":{\"name\":\"$NODE_NAME\",\"labels\":{\"kubernetes.io/hostname\":\"$NODE_NAME\"}}}" ||
    failed kube-apiserver 'did not take the node'
  send PATCH "/api/v1/nodes/$NODE_NAME/status" application/merge-patch+json \
    "{\"status\":{\"addresses\":[{\"type\":\"InternalIP\",\"address\":\"127.0.0.1\"},{\"type\":\"Hostname\",\"address\":\"$NODE_NAME\"}]}}" ||
    failed kube-apiserver "did not take the node's address"
}

start() {
  DEADLINE=$((SECONDS + START_TIMEOUT))
  make_cgroups
  register
  launch kube-scheduler
  launch node
  await node "made no namespaces" test -e "$NODE/ready" || return
  launch containerd
  await containerd "opened no socket" test -S "$NODE/run/containerd.sock" || return
  launch kubelet
  "$NODE_SCRIPTS/images.sh" pause || die "The pause image could not be imported." "Read the lines above, and $LOG/containerd.log"
  await kubelet "brought no Ready node" node_is_ready || return
}

status=0
if [[ ${1:-} == --check ]]; then exec "$NODE_SCRIPTS/can.sh"; fi
(($# == 0)) || die "Not understood: $*" "Usage: up.sh [--check]"
"$NODE_SCRIPTS/can.sh" --install || exit
line=$("$HERE/up.sh")
lock_checkout
begun=$SECONDS
[[ -e $RUN/port ]] || die "The cluster was ended meanwhile." "Run this again."
if [[ -e $RUN/node.pid ]]; then
  if node_is_up; then
    say "the node is already up (node-down ends it)"
    printf '%s\n' "$line"
    exit 0
  fi
  say "a node that did not come up or died is there; starting again from nothing"
fi
"$HERE/binaries.sh" "$BIN" kubelet kube-scheduler
umask 077

UNDO=stop_node
stop_node
say "starting a node: ${NODE_COMPONENTS[*]}"
for attempt in 1 2 3; do
  for name in "${NODE_COMPONENTS[@]}"; do rm -f -- "$LOG/$name.log"; done
  configure_node
  status=0
  start || status=$?
  ((status == 75)) || break
  say "another process took a port meanwhile; trying others"
  stop_node
  ((attempt < 3)) || die "No free ports in three attempts." "Run this again."
done
UNDO=''
say "the node is Ready after $((SECONDS - begun)) s; logs in .cluster/log; images: hack/node/images.sh"
printf '%s\n' "$line"
