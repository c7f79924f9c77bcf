#!/usr/bin/env bash
# Ends the playground and removes all of it: the simulator, the node, the cluster. Where there is none, that is fine too.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

end_recorded "$PLAYGROUND/simulator.pid" 10
"$ROOT/hack/cluster/down.sh"
rm -rf --one-file-system -- "$PLAYGROUND"
