# shellcheck shell=bash
# Makes virtual environments of lists of packages: once a machine, and again when a list changes. Sourced, never run. Heeds
# PYTHON (the interpreter, default python3), XDG_CACHE_HOME and pip's own settings; SAY_NAME is what each line begins with.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
PYTHON=${PYTHON:-python3}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/graphtoken-operator

say() { printf '%s: %s\n' "$SAY_NAME" "$1" >&2; }
die() {
  say "error: $1"
  say "  next: $2"
  exit 1
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

# is_good VENV HASH: it was made of the list with this hash, by a Python that is still there.
is_good() {
  [[ -e $1/requirements.sha256 && $(<"$1/requirements.sha256") == "$2" ]] || return 1
  "$1/bin/python" -I -c '' 2>/dev/null
}

# install FOLDER VENV LIST HASH IMPORTS: a whole environment in FOLDER, made so that it works from VENV.
install() {
  local file
  "$PYTHON" -m venv -- "$1"
  "$1/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --requirement "$ROOT/$3" >&2 ||
    die "pip could not install $3: see above." \
      "It needs a package index, once: see HTTPS_PROXY, and PIP_INDEX_URL or pip.conf for one of your own."
  "$1/bin/python" -I -c "import $5" ||
    die "What pip installed cannot be imported: see above." "Try another interpreter: PYTHON=python3.12"
  while IFS= read -r file; do
    sed -i "s|$1|$2|g" "$file"
  done < <(grep -rlIF -- "$1" "$1/bin" "$1/pyvenv.cfg")
  printf '%s\n' "$4" >"$1/requirements.sha256"
}

# environment VENV LIST IMPORTS: makes it unless it is there. LIST is a path in the checkout; IMPORTS show that the
# environment is whole. In a subshell, for the lock and the traps.
environment() (
  wanted=$(sha256sum <"$ROOT/$2" | cut -d' ' -f1)
  if is_good "$1" "$wanted"; then return; fi
  check_python
  command -v flock >/dev/null || die "flock is not installed." "Install it (Debian, Ubuntu: package util-linux)."
  name=${1##*/}
  mkdir -p -- "$CACHE"
  exec {lock}>"$CACHE/.$name.lock"
  if ! flock -n "$lock"; then
    say "another process is making $1; waiting for it"
    flock -w 900 "$lock" || die "It still is after 15 minutes." "See what it does: ps aux | grep pip"
  fi
  if is_good "$1" "$wanted"; then return; fi
  say "installing $2 into $1, once a machine"
  rm -rf -- "$CACHE/.$name".tmp.* # of one that was killed: we hold the lock
  scratch=$(mktemp -d -- "$CACHE/.$name.tmp.XXXXXX")
  trap 'rm -rf -- "$scratch"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  install "$scratch/venv" "$1" "$2" "$wanted" "$3"
  if [[ -e $1 ]]; then mv -T -- "$1" "$scratch/old"; fi
  mv -T -- "$scratch/venv" "$1"
)
