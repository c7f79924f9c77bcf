#!/usr/bin/env bash
# Builds the check for Go's oauth2 as one static file, target/clients/go-oauth2, and prints its path.
# Heeds Go's own settings, and CARGO_TARGET_DIR. Usage: tests/clients/go/build.sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
out=${CARGO_TARGET_DIR:-$PWD/../../../target}/clients
mkdir -p -- "$out"
out=$(cd -- "$out" && pwd -P)
# A work file of somebody's own, above this folder, is nothing to us.
CGO_ENABLED=0 GOWORK=off GOFLAGS="${GOFLAGS:+$GOFLAGS }-mod=readonly" go build -trimpath -o "$out/go-oauth2" . >&2
printf '%s\n' "$out/go-oauth2"
