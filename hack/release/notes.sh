#!/usr/bin/env bash
# Prints what CHANGELOG.md says of a version, without its heading: the notes of its release.
# Usage: notes.sh VERSION     with or without a v in front

set -euo pipefail
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
SAY_NAME=release
# shellcheck source-path=SCRIPTDIR source=../lib/say.sh
source "$ROOT/hack/lib/say.sh"
(($# == 1)) || { complain "Not understood: $*" "Usage: notes.sh VERSION"; exit 1; }
version=${1#v}

# Between its heading and the next one, or the list of links; blank lines at both ends go.
notes=$(awk -v heading="## [$version]" '
  /^## / || /^\[[^]]+\]: / {inside = index($0, heading) == 1; next}
  inside && (NF || kept) {kept = 1; print}' "${RELEASE_ROOT:-$ROOT}/CHANGELOG.md")
[[ -n $notes ]] || { complain "CHANGELOG.md says nothing of $version." "Write its section: ## [$version] - YYYY-MM-DD"; exit 1; }
printf '%s\n' "$notes"
