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
exec tests/docs/run.py "$@"
