#!/usr/bin/env bash
# Tests what makes a release: the workflows, by two linters, and the scripts that they run. Installs the linters and krew into the
# cache, once a machine.
set -euo pipefail
SAY_NAME=release
# shellcheck source-path=SCRIPTDIR source=../python/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../python/environment.sh"
cd -- "$ROOT"

# tool NAME MODULE VERSION: sets TOOL to a Go program's path, installed if need be. Go checks what it loads by its checksum database.
tool() {
  local folder=$CACHE/tools/$1-$3
  TOOL=$folder/$1
  if [[ -x $TOOL ]]; then return; fi
  say "building $1 $3, once a machine"
  mkdir -p -- "$CACHE/tools"
  rm -rf -- "$folder.new"
  GOBIN=$folder.new go install "$2@$3" || die "$1 could not be built: see above." "It needs Go's module proxy, once: see GOPROXY."
  rm -rf -- "$folder"
  mv -T -- "$folder.new" "$folder"
}

tool actionlint github.com/rhysd/actionlint/cmd/actionlint v1.7.12
"$TOOL"
# For what an attacker could use: unpinned actions, wide permissions, text of others in scripts.
environment "$CACHE/venv-zizmor-1.32.0" hack/release/requirements.txt sys
"$CACHE/venv-zizmor-1.32.0/bin/zizmor" --offline --quiet --no-progress .github
tool validate-krew-manifest sigs.k8s.io/krew/cmd/validate-krew-manifest v0.4.3
VALIDATE_KREW_MANIFEST=$TOOL
tool krew sigs.k8s.io/krew/cmd/krew v0.4.3
export VALIDATE_KREW_MANIFEST KREW=$TOOL
tests/hack/release_test.sh
