#!/usr/bin/env bash
# Tests clients/python, the package graphtoken: types and tests with the oldest python-o365 and azure-core that it takes and
# with the newest that were tried, its style, and that what is built of it can be installed and imported alone.
# Makes the virtual environments for that once a machine, and again when their list changes.
# Heeds PYTHON (the interpreter, default python3), XDG_CACHE_HOME and pip's own settings.
# Usage: client.sh

set -euo pipefail
SAY_NAME=client
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
cd -- "$ROOT/clients/python"
NEWEST=$CACHE/venv-client-newest
export PYTHONDONTWRITEBYTECODE=1

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

# The package itself is content with 3.9; what it is tested with is not.
check_python
for which in oldest newest; do
  environment "$CACHE/venv-client-$which" "clients/python/tests/requirements-$which.txt" \
    'O365, azure.core, kiota_authentication_azure, mypy, pytest'
  check "$CACHE/venv-client-$which"
done
style
SCRATCH=$(mktemp -d)
trap 'rm -rf -- "$SCRATCH"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
package "$SCRATCH"
