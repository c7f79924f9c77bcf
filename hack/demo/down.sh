#!/usr/bin/env bash
# Ends a demo that `make demo KEEP=1` left running, and removes all it made. Where there is none, that is fine too.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

if ! lock_demo; then
  complain "A demo of this checkout runs at this moment." "End it with Ctrl-C where it runs, or wait for its end."
  exit 1
fi
if [[ ! -e $RUN ]]; then
  rm -rf --one-file-system -- "$DEMO"
  say "there is no demo to end"
  exit 0
fi
heading "Cleaning up"
take_down
rm -rf --one-file-system -- "$DEMO"
say "done"
