#!/usr/bin/env bash
# Ends this checkout's cluster and removes all it left (.cluster/). Where there is none, that is fine too.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

check_platform
need flock
lock_checkout
if [[ ! -e $STATE ]]; then
  say "not up"
  exit 0
fi
stop_all
remove_state
say "down"
