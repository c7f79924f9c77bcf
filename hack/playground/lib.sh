# shellcheck shell=bash
# shellcheck disable=SC2034  # what is set here is read by the scripts that source this
# What up.sh and down.sh share. Sourced, never run.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
PLAYGROUND=$ROOT/.playground
SAY_NAME=playground

# shellcheck source-path=SCRIPTDIR source=../lib/say.sh
source "$ROOT/hack/lib/say.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/process.sh
source "$ROOT/hack/lib/process.sh"

# The scripts below us are no part of the make that may have started us, nor of its job slots.
unset MAKEFLAGS MFLAGS MAKELEVEL

# step TEXT: to stderr, with the seconds since the start; stdout is for the result alone.
step() { printf '[%3d s] %s\n' "$SECONDS" "$1" >&2; }
