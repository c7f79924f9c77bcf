#!/usr/bin/env bash
# Makes all files of a release's page of the binaries that were built for it: an archive for each platform, krew's manifest, the
# manifests of deploy/ in one file, and SHA256SUMS of all of these.
# Usage: gather.sh BINARIES FOLDER REPOSITORY
#   BINARIES: a folder with plugin-OS-ARCHITECTURE/kubectl-graphtoken[.exe] for each; FOLDER: is made anew
#   REPOSITORY: where it is released, such as https://github.com/OWNER/NAME

set -euo pipefail
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
SAY_NAME=release
# shellcheck source-path=SCRIPTDIR source=../lib/say.sh
source "$ROOT/hack/lib/say.sh"
(($# == 3)) || { complain "Not understood: $*" "Usage: gather.sh BINARIES FOLDER REPOSITORY"; exit 1; }

rm -rf -- "$2"
for os in linux darwin windows; do
  for architecture in amd64 arm64; do
    program=kubectl-graphtoken
    if [[ $os == windows ]]; then program=$program.exe; fi
    "$ROOT/hack/release/archive.sh" "$1/plugin-$os-$architecture/$program" "$os" "$architecture" "$2"
  done
done
"$ROOT/hack/release/krew.sh" "$2" "$3" >"$2/graphtoken.yaml"
cat -- "$ROOT"/deploy/*.yaml >"$2/graphtoken-operator.yaml"
cd -- "$2"
sums=$(sha256sum -- *)
printf '%s\n' "$sums" >SHA256SUMS
