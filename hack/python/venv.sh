#!/usr/bin/env bash
# Makes a virtual environment that holds a real consumer of tokens and what it needs, as a file in tests/clients lists it;
# once a machine, and again when that file changes. Prints its folder to stdout and everything else to stderr.
# Heeds PYTHON (the interpreter, default python3), XDG_CACHE_HOME and pip's own settings.
# Usage: venv.sh [--check] [o365|o365-2.0|airflow]
#   o365: python-o365 2.1 and MSAL, the default; o365-2.0: python-o365 2.0; airflow: Airflow and python-o365 2.1
#   --check: only says whether Python is good enough for it

set -euo pipefail
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
PYTHON=${PYTHON:-python3}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/graphtoken-operator

say() { printf 'venv: %s\n' "$1" >&2; }
die() {
  say "error: $1"
  say "  next: $2"
  exit 1
}

# choose ENVIRONMENT: what is in it, what shows that it is whole, and where it is.
choose() {
  case $1 in
  o365) WHAT=python-o365 LIST=requirements.txt NAME=venv-o365-2.1.10 IMPORTS='O365, msal' ;;
  o365-2.0) WHAT='python-o365 2.0' LIST=requirements-o365-2.0.txt NAME=venv-o365-2.0.38 IMPORTS='O365' ;;
  airflow) WHAT=Airflow LIST=requirements-airflow.txt NAME=venv-airflow-3.3.2 IMPORTS='airflow.sdk, O365' ;;
  *) die "There is no environment $1." "Usage: venv.sh [--check] [o365|o365-2.0|airflow]" ;;
  esac
  REQUIREMENTS=$ROOT/tests/clients/$LIST
  VENV=$CACHE/$NAME
}

check_python() {
  command -v "$PYTHON" >/dev/null ||
    die "$PYTHON is not installed." "Install Python 3.11.5 or newer, or name one: PYTHON=python3.12"
  # The newest that a listed package asks for (soupsieve).
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11, 5))' ||
    die "$PYTHON is $("$PYTHON" --version 2>&1 || true); 3.11.5 or newer is needed." \
      "Install one, or name it: PYTHON=python3.12"
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
    die "$PYTHON has no venv." "Install it (Debian, Ubuntu: package python3-venv)."
}

is_good() {
  [[ -e $VENV/requirements.sha256 && $(<"$VENV/requirements.sha256") == "$WANTED" ]] || return 1
  # The Python that it was made with may be gone.
  "$VENV/bin/python" -I -c '' 2>/dev/null
}

# install FOLDER: a whole environment, made so that it works from $VENV.
install() {
  "$PYTHON" -m venv -- "$1"
  "$1/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --requirement "$REQUIREMENTS" >&2 ||
    die "pip could not install tests/clients/$LIST: see above." \
      "It needs a package index, once: see HTTPS_PROXY, and PIP_INDEX_URL or pip.conf for one of your own."
  "$1/bin/python" -I -c "import $IMPORTS" ||
    die "What pip installed cannot be imported: see above." "Try another interpreter: PYTHON=python3.12"
  local file
  while IFS= read -r file; do
    sed -i "s|$1|$VENV|g" "$file"
  done < <(grep -rlIF -- "$1" "$1/bin" "$1/pyvenv.cfg")
  printf '%s\n' "$WANTED" >"$1/requirements.sha256"
}

CHECK=
if [[ ${1:-} == --check ]]; then
  CHECK=yes
  shift
fi
choose "${1:-o365}"
if [[ -n $CHECK ]]; then
  check_python
  exit 0
fi
WANTED=$(sha256sum <"$REQUIREMENTS" | cut -d' ' -f1)
if ! is_good; then
  check_python
  mkdir -p -- "$CACHE"
  exec {LOCK}>"$CACHE/.$NAME.lock"
  if ! flock -n "$LOCK"; then
    say "another process is making $VENV; waiting for it"
    flock -w 900 "$LOCK" || die "It still is after 15 minutes." "See what it does: ps aux | grep pip"
  fi
  if ! is_good; then
    say "installing $WHAT and what it needs into $VENV, once a machine"
    rm -rf -- "$CACHE/.$NAME".tmp.* # of one that was killed: we hold the lock
    SCRATCH=$(mktemp -d -- "$CACHE/.$NAME.tmp.XXXXXX")
    trap 'rm -rf -- "$SCRATCH"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    install "$SCRATCH/venv"
    if [[ -e $VENV ]]; then mv -T -- "$VENV" "$SCRATCH/old"; fi
    mv -T -- "$SCRATCH/venv" "$VENV"
  fi
fi
printf '%s\n' "$VENV"
