#!/usr/bin/env bash
# Tests clients/python, the package graphtoken: types and tests with the oldest python-o365 and azure-core that it takes and
# with the newest that were tried, its style, and that what is built of it can be installed and imported alone.
# Makes the virtual environments for that once a machine, and again when their list changes.
# Heeds PYTHON (the interpreter, default python3), XDG_CACHE_HOME and pip's own settings.
# Usage: client.sh

set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../../clients/python"
PYTHON=${PYTHON:-python3}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/graphtoken-operator
NEWEST=$CACHE/venv-client-newest
export PYTHONDONTWRITEBYTECODE=1

say() { printf 'client: %s\n' "$1" >&2; }
die() {
  say "error: $1"
  say "  next: $2"
  exit 1
}

check_python() {
  command -v "$PYTHON" >/dev/null ||
    die "$PYTHON is not installed." "Install Python 3.11.5 or newer, or name one: PYTHON=python3.12"
  # The newest that a listed package asks for (soupsieve). The package itself is content with 3.9.
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

# install FOLDER VENV LIST HASH: a whole environment in FOLDER, made so that it works from VENV.
install() {
  local file
  "$PYTHON" -m venv -- "$1"
  "$1/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --requirement "$3" >&2 ||
    die "pip could not install clients/python/$3: see above." \
      "It needs a package index, once: see HTTPS_PROXY, and PIP_INDEX_URL or pip.conf for one of your own."
  "$1/bin/python" -I -c 'import O365, azure.core, kiota_authentication_azure, mypy, pytest' ||
    die "What pip installed cannot be imported: see above." "Try another interpreter: PYTHON=python3.12"
  while IFS= read -r file; do
    sed -i "s|$1|$2|g" "$file"
  done < <(grep -rlIF -- "$1" "$1/bin" "$1/pyvenv.cfg")
  printf '%s\n' "$4" >"$1/requirements.sha256"
}

# environment VENV LIST: makes it unless it is there. In a subshell, for the lock and the traps.
environment() (
  wanted=$(sha256sum <"$2" | cut -d' ' -f1)
  if is_good "$1" "$wanted"; then return; fi
  name=${1##*/}
  mkdir -p -- "$CACHE"
  exec {lock}>"$CACHE/.$name.lock"
  if ! flock -n "$lock"; then
    say "another process is making $1; waiting for it"
    flock -w 900 "$lock" || die "It still is after 15 minutes." "See what it does: ps aux | grep pip"
  fi
  if is_good "$1" "$wanted"; then return; fi
  say "installing clients/python/$2 into $1, once a machine"
  rm -rf -- "$CACHE/.$name".tmp.* # of one that was killed: we hold the lock
  scratch=$(mktemp -d -- "$CACHE/.$name.tmp.XXXXXX")
  trap 'rm -rf -- "$scratch"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  install "$scratch/venv" "$1" "$2" "$wanted"
  if [[ -e $1 ]]; then mv -T -- "$1" "$scratch/old"; fi
  mv -T -- "$scratch/venv" "$1"
)

# check VENV: types and tests, with what is installed there.
check() {
  say "types and tests with $("$1/bin/python" -I -c 'from importlib.metadata import version as v
print("O365", v("O365"), "MSAL", v("msal"), "azure-core", v("azure-core"))')"
  "$1/bin/python" -m mypy --no-error-summary --cache-dir "$1/.mypy_cache" ||
    die "The types do not fit." "See above; alone: cd clients/python && $1/bin/python -m mypy"
  "$1/bin/python" -m pytest -q ||
    die "A test fails." "See above; alone: cd clients/python && $1/bin/python -m pytest -k NAME"
}

style() {
  "$NEWEST/bin/ruff" check --quiet --no-cache . ||
    die "ruff complains." "See above; it can mend some: cd clients/python && $NEWEST/bin/ruff check --fix ."
  "$NEWEST/bin/ruff" format --quiet --no-cache --check . ||
    die "ruff would format it differently." "cd clients/python && $NEWEST/bin/ruff format ."
}

# package FOLDER: builds the sdist and of that the wheel, and installs the wheel where nothing else is.
package() {
  local wheel=()
  "$NEWEST/bin/hatchling" build -t sdist -d "$1" >"$1/log" 2>&1 || die "The sdist cannot be built: $(<"$1/log")" \
    "See what clients/python/pyproject.toml says about it."
  tar -xzf "$1"/graphtoken-*.tar.gz -C "$1"
  (cd -- "$1"/graphtoken-*/ && "$NEWEST/bin/hatchling" build -t wheel -d "$1") >"$1/log" 2>&1 ||
    die "The wheel cannot be built of the sdist: $(<"$1/log")" "See what clients/python/pyproject.toml puts into the sdist."
  wheel=("$1"/graphtoken-*.whl)
  "$PYTHON" -m venv --without-pip -- "$1/venv"
  "$NEWEST/bin/python" -m pip --python "$1/venv/bin/python" install --quiet --no-input --disable-pip-version-check \
    --no-index "${wheel[@]}" || die "The wheel cannot be installed alone." "See above: it may depend on what no extra names."
  "$1/venv/bin/python" -I - <<'CODE' || die "What is installed from the wheel is not what it should be." "See above."
from importlib import import_module
from importlib.metadata import files, version

import graphtoken

assert graphtoken.__version__ == version("graphtoken")
assert "graphtoken/py.typed" in map(str, files("graphtoken"))
for extra in ("o365", "azure"):
    try:
        import_module(f"graphtoken.{extra}")
    except ImportError as error:
        assert f'pip install "graphtoken[{extra}]"' in str(error), error
    else:
        raise AssertionError(f"graphtoken.{extra} was imported without what it needs")
CODE
  say "${wheel[0]##*/} can be installed and imported alone"
}

command -v flock >/dev/null || die "flock is not installed." "Install it (Debian, Ubuntu: package util-linux)."
check_python
for which in oldest newest; do
  environment "$CACHE/venv-client-$which" "tests/requirements-$which.txt"
  check "$CACHE/venv-client-$which"
done
style
SCRATCH=$(mktemp -d)
trap 'rm -rf -- "$SCRATCH"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
package "$SCRATCH"
