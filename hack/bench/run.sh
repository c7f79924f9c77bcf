#!/usr/bin/env bash
# `make bench`: measures the operator on a control plane of its own, in a temporary folder, that goes with all that was put
# on it. One JSON object a figure on stdout, and in target/bench/results.jsonl; progress and a table on stderr.
# SHORT=1 measures little of everything, of unoptimised programs: to see that it works. Arguments go to the program
# (graphtoken-bench --help).
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

SHORT=${SHORT:-}
profile=release build=(hack/build.sh)
if [[ -n $SHORT ]]; then
  profile=debug build=(cargo build --locked)
  set -- --short "$@"
fi
# The operator by itself: the bench's dependencies must not give it features that it does not have.
"${build[@]}" --quiet -p graphtoken --bin graphtoken
"${build[@]}" --quiet -p graphtoken-bench
target=${CARGO_TARGET_DIR:-target}

folder=$(mktemp -d)
cleanup() {
  local code=$?
  trap '' INT TERM
  "$folder/hack/cluster/down.sh" >&2 || true
  rm -rf --one-file-system -- "$folder"
  exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The scripts keep a cluster's state beside hack/, so a copy of them has one to itself.
mkdir -- "$folder/hack"
cp -R -- hack/cluster "$folder/hack/"
eval "$("$folder/hack/cluster/up.sh" | tail -n 1)"

results=$target/bench/results.jsonl
if [[ -n $SHORT ]]; then
  results=$target/bench/short.jsonl
fi
mkdir -p -- "$target/bench"
if [[ -z $SHORT ]]; then
  if image=$(BINARY=$target/release/graphtoken hack/image/build.sh | tail -n 1); then
    set -- --image "$image" "$@"
  else
    echo "bench: no image could be built, for the reason above: its size is not measured" >&2
  fi
fi
"$target/$profile/graphtoken-bench" "$@" | tee -- "$results"
