#!/usr/bin/env bash
# Prints the manifest by which krew installs the plugin, made of the archives in a folder: all six must be there.
# Usage: krew.sh FOLDER REPOSITORY     REPOSITORY: where it is released, such as https://github.com/OWNER/NAME

set -euo pipefail
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
SAY_NAME=release
# shellcheck source-path=SCRIPTDIR source=../lib/say.sh
source "$ROOT/hack/lib/say.sh"

[[ $# == 2 && $2 == https://* ]] || die "Not understood: $*" "Usage: krew.sh FOLDER https://HOST/OWNER/NAME"
folder=$1 repository=${2%/}
version=v$("$ROOT/hack/release/version.sh")

# platform OS ARCHITECTURE
platform() {
  local name=kubectl-graphtoken-$version-$1-$2.tar.gz program=kubectl-graphtoken sum
  if [[ $1 == windows ]]; then name=${name%.tar.gz}.zip program=$program.exe; fi
  [[ -s $folder/$name ]] || die "There is no archive $folder/$name." "Make it: hack/release/archive.sh BINARY $1 $2 $folder"
  sum=$(sha256sum <"$folder/$name")
  cat <<YAML
    - selector:
        matchLabels:
          os: $1
          arch: $2
      uri: $repository/releases/download/$version/$name
      sha256: ${sum%% *}
      files:
        - from: $program
          to: .
        - from: LICENSE
          to: .
      bin: $program
YAML
}

platforms=''
for os in linux darwin windows; do
  for architecture in amd64 arm64; do
    one=$(platform "$os" "$architecture")
    platforms+=$one$'\n'
  done
done
cat <<YAML
apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: graphtoken
spec:
  version: $version
  homepage: $repository
  shortDescription: Sign in to GraphTokens and see how they are
  description: |
    Works with GraphTokens, by which graphtoken-operator keeps Microsoft Graph
    access tokens fresh in Secrets: shows how they are and who must act,
    signs a person in from the terminal, takes up token files of python-o365
    and MSAL, asks for a new token, and says what is wrong and what to do.
  caveats: |
    It works on clusters that have graphtoken-operator, with the rights of
    your kubeconfig. Begin with: kubectl graphtoken status -A
  platforms:
${platforms%$'\n'}
YAML
