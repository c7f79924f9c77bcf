#!/usr/bin/env bash
# Licences, bans and sources of all dependencies; advisories too, where their database can be reached. Installs cargo-deny
# into the cache, once a machine.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=0.20.2
tools=${XDG_CACHE_HOME:-$HOME/.cache}/graphtoken-operator/tools
deny=$tools/bin/cargo-deny
if [[ $("$deny" --version 2>/dev/null) != "cargo-deny $version" ]]; then
  echo "building cargo-deny $version, once a machine (some minutes)"
  # Unoptimised: it builds in a third of the time, and runs for seconds.
  cargo install cargo-deny --locked --debug --version "$version" --root "$tools" --quiet
fi
# It has a deny.toml of its own.
fuzz=(--manifest-path tests/fuzz/Cargo.toml)
"$deny" --log-level warn check licenses bans sources
"$deny" --log-level warn "${fuzz[@]}" check licenses bans sources
if ! timeout 60 "$deny" fetch db >/dev/null 2>&1; then
  echo "SKIPPED: advisories: their database cannot be reached from here"
  exit 0
fi
"$deny" --log-level warn check advisories
"$deny" --log-level warn "${fuzz[@]}" check advisories
