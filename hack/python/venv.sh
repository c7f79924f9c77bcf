#!/usr/bin/env bash
# Makes a virtual environment that holds a real consumer of tokens and what it needs, as a file in tests/clients lists it;
# once a machine, and again when that file changes. Prints its folder to stdout and everything else to stderr.
# Heeds PYTHON (the interpreter, default python3), XDG_CACHE_HOME and pip's own settings.
# Usage: venv.sh [--check] [o365|o365-2.0|airflow]
#   o365: python-o365 2.1 and MSAL, the default; o365-2.0: python-o365 2.0; airflow: Airflow and python-o365 2.1
#   --check: only says whether Python is good enough for it

set -euo pipefail
SAY_NAME=venv
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

# choose ENVIRONMENT: what is in it, what shows that it is whole, and where it is.
choose() {
  case $1 in
  o365) LIST=requirements.txt NAME=venv-o365-2.1.10 IMPORTS='O365, msal' ;;
  o365-2.0) LIST=requirements-o365-2.0.txt NAME=venv-o365-2.0.38 IMPORTS='O365' ;;
  airflow) LIST=requirements-airflow.txt NAME=venv-airflow-3.3.2 IMPORTS='airflow.sdk, O365' ;;
  *) die "There is no environment $1." "Usage: venv.sh [--check] [o365|o365-2.0|airflow]" ;;
  esac
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
environment "$CACHE/$NAME" "tests/clients/$LIST" "$IMPORTS"
printf '%s\n' "$CACHE/$NAME"
