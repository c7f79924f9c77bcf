#!/usr/bin/env bash
# Ends this checkout's node, with its pods and all it left. The control plane stays. Where there is none, that is fine too.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

check_platform
need flock
lock_checkout
if [[ ! -e $NODE && ! -e $RUN/node.pid ]]; then
  say "there is no node"
  exit 0
fi
[[ $(id -u) == 0 ]] || die "The node was started by root; this is $(id -un)." "Run it as root, as node-up."
stop_node
forget_node || say "note: the API server still lists the node and its pods; it does not answer"
say "the node is down; the control plane stays up (cluster-down ends it)"
