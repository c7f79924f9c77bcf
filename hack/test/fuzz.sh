#!/usr/bin/env bash
# Coverage-guided fuzzing of the pure core by libFuzzer, on the stable toolchain.
#   hack/test/fuzz.sh                        every target for as long as stands below, two at a time, from one seed: what
#                                            it finds of the same code is much the same each time
#   hack/test/fuzz.sh TARGET SECONDS         one of them, for longer
#   hack/test/fuzz.sh TARGET FILE            one input: how a failure is reproduced
#   hack/test/fuzz.sh minimise TARGET        the kept corpus, and what was found since, as few files as cover as much
# Finds go to target/fuzz/corpus, and what fails to target/fuzz/failures: a run never changes the tree.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Target, seconds, and the largest input. Side by side in pairs, as two cores have it.
targets=("response 30 65536" "seed 30 65536" "secrets 15 32768" "spec 15 16384")

home=$PWD/target/fuzz
triple=$(rustc -vV | sed -n 's/^host: //p')
built=$home/$triple/release

# The instrumentation that libFuzzer needs. These are options of LLVM, which a stable rustc passes on. As the triple is
# named, they are not for build scripts and macros.
build() {
  local flags=(
    -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-sanitizer-coverage-stack-depth
    # Each comparison is a branch of its own.
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0
  )
  RUSTFLAGS="${flags[*]}" CARGO_TARGET_DIR=$home \
    cargo build --locked --quiet --release --manifest-path tests/fuzz/Cargo.toml --target "$triple"
}

# An input that takes 5 s, or 512 MiB in all, is a failure; what it may hold for its size is in tests/fuzz/targets/memory.rs.
fuzzer() {
  local target=$1
  shift
  "$built/$target" -timeout=5 -rss_limit_mb=512 -artifact_prefix="$home/failures/$target-" "$@"
}

# fuzz TARGET SECONDS LARGEST OPTION...: one line about it; all that libFuzzer says goes to a file.
fuzz() {
  local target=$1 seconds=$2 largest=$3 log=$home/$1.log found=$home/corpus/$1
  shift 3
  mkdir -p "$found" "$home/failures"
  if ! fuzzer "$target" -max_total_time="$seconds" -max_len="$largest" -print_final_stats=1 \
    -dict="tests/fuzz/dictionaries/$target" "$@" "$found" "tests/fuzz/corpus/$target" >"$log" 2>&1; then
    failed "$target" "$log"
    return 1
  fi
  local runs coverage inputs peak
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  peak=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
  coverage=$(grep -o 'cov: [0-9]*' "$log" | tail -n 1 | cut -d ' ' -f 2)
  inputs=$(grep -o 'corp: [0-9]*' "$log" | tail -n 1 | cut -d ' ' -f 2)
  printf '%-9s %4s s %9s executions %6s edges %5s inputs %4s MiB\n' \
    "$target" "$seconds" "$runs" "$coverage" "$inputs" "$peak"
}

# failed TARGET LOG: everything needed to see it again, though the machine be gone.
failed() {
  local target=$1 log=$2 input
  tail -n 40 "$log"
  input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
  echo "fuzz.sh: error: target $target failed; libFuzzer's output is in $log" >&2
  if [[ -n $input && -e $input ]]; then
    if (($(stat -c %s "$input") <= 8192)); then
      echo "fuzz.sh:   the input, if that file is gone: base64 -d >$(basename "$input") <<<$(base64 -w0 "$input")" >&2
    fi
    echo "fuzz.sh:   next: hack/test/fuzz.sh $target $input" >&2
    echo "fuzz.sh:   next: once mended, keep that file in tests/fuzz/corpus/$target/ under a name that says what it was" >&2
  fi
}

largest_of() {
  local entry
  for entry in "${targets[@]}"; do
    [[ $entry == "$1 "* ]] && echo "${entry##* }" && return
  done
  echo "fuzz.sh: error: no target $1; there are: ${targets[*]%% *}" >&2
  return 1
}

minimise() {
  local target=$1 few=$home/few/$1
  rm -rf "$few"
  mkdir -p "$few" "$home/corpus/$target"
  fuzzer "$target" -merge=1 "$few" "tests/fuzz/corpus/$target" "$home/corpus/$target" 2>&1 | tail -n 2
  echo "$(find "$few" -type f | wc -l) files in $few: keep what is small and says something"
}

mkdir -p "$home/failures"
case $# in
0)
  rustfmt --check --edition 2024 --config-path . tests/fuzz/targets/*.rs
  build
  for ((i = 0; i < ${#targets[@]}; i += 2)); do
    running=()
    for entry in "${targets[@]:i:2}"; do
      read -r target seconds largest <<<"$entry"
      fuzz "$target" "$seconds" "$largest" -seed=1 &
      running+=($!)
    done
    bad=0
    for one in "${running[@]}"; do wait "$one" || bad=1; done
    ((bad == 0)) || exit 1
  done
  ;;
2)
  if [[ $1 == minimise ]]; then
    largest_of "$2" >/dev/null
    build
    minimise "$2"
  elif [[ -f $2 ]]; then
    largest_of "$1" >/dev/null
    input=$(realpath "$2")
    build
    RUST_BACKTRACE=1 fuzzer "$1" "$input"
  else
    largest=$(largest_of "$1")
    build
    fuzz "$1" "$2" "$largest"
  fi
  ;;
*)
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac
