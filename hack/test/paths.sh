#!/usr/bin/env bash
# That no path of the machine that built a release is in its binaries.
# Usage: hack/test/paths.sh [FOLDER]     the folder of the binaries; default: target/release. Status 77: nothing is there.
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=${1:-target/release}
status=77
for binary in "$folder/graphtoken" "$folder/kubectl-graphtoken"; do
  [[ -e $binary ]] || continue
  # A build by `cargo build` alone is nobody's release.
  if ! grep -aqF /cargo/registry/src/ "$binary"; then
    echo "$binary was not built by hack/build.sh (make build)" >&2
    continue
  fi
  ((status == 77)) && status=0
  for path in "$PWD" "$HOME" "${CARGO_HOME:-$HOME/.cargo}"; do
    # A home of / is in everything.
    if ((${#path} > 1)) && found=$(grep -aoE -m 3 "$path/[[:print:]]{0,80}" "$binary"); then
      printf '%s names a path of this machine: %s\n' "$binary" "$found" >&2
      status=1
    fi
  done
done
exit "$status"
