#!/usr/bin/env bash
# Two builds of one commit give the same binaries, byte by byte: in folders of different names and depth, with cargo's home in
# different places, and at different times. It takes two release builds, one after the other: 5 to 10 minutes each on two cores.
# Usage: tests/hack/reproducible_test.sh [FOLDER]     where it works; default: a temporary folder, gone afterwards.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [[ -n $(git status --porcelain --untracked-files=no) ]]; then
  echo "reproducible: what is not committed is not built" >&2
fi
work=${1:-$(mktemp -d)}
if [[ -z ${1-} ]]; then trap 'rm -rf --one-file-system -- "$work"' EXIT; fi
mkdir -p "$work"
work=$(cd -- "$work" && pwd -P)
cargo fetch --locked --quiet
home=$(cd -- "${CARGO_HOME:-$HOME/.cargo}" && pwd -P)

# build NUMBER FOLDER HOME
build() {
  local folder=$work/$2 began=$SECONDS
  mkdir -p "$folder"
  git archive HEAD | tar -x -C "$folder"
  (
    cd "$folder"
    CARGO_HOME=$3 CARGO_TARGET_DIR=$folder/target hack/build.sh --quiet
    CARGO_HOME=$3 hack/test/paths.sh "$folder/target/release"
  )
  echo "build $1, in $folder: $((SECONDS - began)) s"
  for binary in graphtoken kubectl-graphtoken; do
    mv "$folder/target/release/$binary" "$work/$binary.$1"
  done
  rm -rf --one-file-system -- "$folder"
}

# The sources that cargo has fetched, in another home.
mkdir -p "$work/elsewhere/registry"
cp -a "$home/registry/index" "$home/registry/cache" "$work/elsewhere/registry/"

build 1 a "$home"
build 2 b/is/deeper/and-longer "$work/elsewhere"
different=0
for binary in graphtoken kubectl-graphtoken; do
  if cmp "$work/$binary.1" "$work/$binary.2"; then
    echo "$binary: $(sha256sum <"$work/$binary.1" | cut -d ' ' -f 1), twice"
  else
    different=1
  fi
done
exit "$different"
