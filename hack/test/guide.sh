#!/usr/bin/env bash
# Runs the docs: the guide for newcomers in an empty environment, then every other command and manifest (tests/docs). Needs
# amtool; where it is missing, Debian's package is unpacked into a cache folder.
# Usage: guide.sh [ARGUMENT...]     those of tests/docs/run.py
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source-path=SCRIPTDIR source=../lib/debian.sh
source hack/lib/debian.sh

python3 -m unittest discover -q -s tests/docs -p '*_test.py'
bring amtool prometheus-alertmanager
# In the newcomer's folder cargo would do all of it again: the folder's name is a part of what it is told.
if [[ -z ${PLAYGROUND_PROGRAMS:-} ]]; then
  make -s build
  cargo build --locked --quiet -p entra-simulator
  target=$(cargo metadata --locked --no-deps --format-version 1 | jq -r .target_directory)
  PLAYGROUND_PROGRAMS=$target/playground
  mkdir -p -- "$PLAYGROUND_PROGRAMS"
  ln -sf -- "$target"/release/{graphtoken,kubectl-graphtoken} "$target/debug/entra-simulator" "$PLAYGROUND_PROGRAMS/"
  export PLAYGROUND_PROGRAMS
fi
exec tests/docs/run.py "$@"
