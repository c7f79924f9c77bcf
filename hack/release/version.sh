#!/usr/bin/env bash
# Prints the version of this checkout, once all places that state one agree: Cargo.toml, Cargo.lock, the chart and CHANGELOG.md.
# Usage: version.sh [TAG]     TAG, such as v0.1.0: must be of that version too

set -euo pipefail
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
cd -- "${RELEASE_ROOT:-$ROOT}"
SAY_NAME=release
# shellcheck source-path=SCRIPTDIR source=../lib/say.sh
source "$ROOT/hack/lib/say.sh"

chart=charts/graphtoken-operator/Chart.yaml
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
wrong=()
# is WHERE VERSION
is() { [[ $2 == "$version" ]] || wrong+=("$1 says ${2:-nothing}"); }
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] || wrong+=("Cargo.toml's is no semantic version")
is Cargo.lock "$(awk '$0 == "name = \"graphtoken\"" {getline; gsub(/"/, "", $3); print $3; exit}' Cargo.lock)"
is "$chart (version)" "$(sed -n 's/^version: *//p' "$chart" | tr -d '"')"
is "$chart (appVersion)" "$(sed -n 's/^appVersion: *//p' "$chart" | tr -d '"')"
# The newest that is not Unreleased.
is CHANGELOG.md "$(sed -n 's/^## \[\([0-9][^]]*\)\].*/\1/p' CHANGELOG.md | head -n 1)"
if (($#)); then is "the tag" "${1#v}"; fi
if ((${#wrong[@]})); then
  complain "The versions differ: Cargo.toml says ${version:-nothing}; $(printf '%s; ' "${wrong[@]}" | sed 's/; $//')." \
    "Let all say the same (the chart's by hand, Cargo.lock by cargo check), then: make generate"
  exit 1
fi
printf '%s\n' "$version"
