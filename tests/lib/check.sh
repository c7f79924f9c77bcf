# shellcheck shell=bash
# shellcheck disable=SC2034  # what is set here is read by the scripts that source this
# What tests in shell share: a scratch folder, behaviours that are checked and counted, and what to check them with. A script
# that leaves more than files behind defines `cleanup`; the scratch folder goes after it. Sourced, never run.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
T=$(mktemp -d)
PASSED=0 FAILED=0

cleanup() { :; }
end_of_test() {
  cleanup || true
  rm -rf --one-file-system -- "$T"
}
trap end_of_test EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# check NAME COMMAND...: one behaviour; its output is shown only when it fails.
check() {
  local name=$1
  shift
  # Not in a condition: `set -e` must hold inside.
  set +e
  (set -e && "$@") >"$T/.check" 2>&1
  local status=$?
  set -e
  if ((status == 0)); then
    PASSED=$((PASSED + 1))
    printf 'ok      %s\n' "$name"
  else
    FAILED=$((FAILED + 1))
    printf 'FAILED  %s\n' "$name"
    sed 's/^/        | /' "$T/.check"
  fi
}
# conclude: the last command of a test; its status is that of all behaviours.
conclude() {
  printf '%d passed, %d failed\n' "$PASSED" "$FAILED"
  ((PASSED > 0 && FAILED == 0))
}

# has FILE TEXT, has_not FILE TEXT, shows FILE REGEX, equals TEXT TEXT, fails COMMAND...
has() { grep -qF -- "$2" "$1" || { echo "expected '$2' in:"; cat "$1"; return 1; }; }
has_not() { ! grep -F -- "$2" "$1" || { echo "unexpected: '$2'"; return 1; }; }
shows() { grep -qE -- "$2" "$1" || { echo "expected /$2/ in:"; cat "$1"; return 1; }; }
equals() { [[ $1 == "$2" ]] || { echo "'$1' is not '$2'"; return 1; }; }
fails() { if "$@"; then echo "should have failed: $*"; return 1; fi; }
# within SECONDS COMMAND...: until the command says yes.
within() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || { echo "not within the time: $*"; return 1; }
    sleep 0.2
  done
}
# lives PID: as a process that is more than its zombie.
lives() { [[ -r /proc/$1/stat ]] && ! grep -q '^State:[[:space:]]*[ZX]' "/proc/$1/status"; }
# version: the crate's.
version() { sed -n 's/^version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml" | head -n 1; }
