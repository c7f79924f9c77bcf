#!/usr/bin/env bash
# What `make test` needs beside this repository. Missing tools are installed where that is possible (Debian, as root);
# elsewhere the list of what to install is printed.
set -euo pipefail

# Command and the Debian package that brings it.
needed=(
  "cargo:rustup" "cc:build-essential" "c++:build-essential" "go:golang" "node:nodejs" "npm:npm" "python3:python3"
  "openssl:openssl" "curl:curl" "jq:jq" "shellcheck:shellcheck" "git:git" "flock:util-linux" "rclone:rclone"
)
# Moves the operator's clock, by a library that is preloaded.
[[ $(uname -s) != Linux ]] || needed+=("faketime:faketime")

missing=()
for entry in "${needed[@]}"; do
  command -v "${entry%%:*}" >/dev/null || missing+=("$entry")
done
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=("python3-venv:python3-venv")
((${#missing[@]})) || exit 0

echo "missing: ${missing[*]%%:*}"
# A toolchain of Rust, Go or Node from the distribution may be too old: those are the user's to choose.
installable=()
for entry in "${missing[@]}"; do
  case "${entry%%:*}" in
  cargo | go | node | npm) ;;
  *) installable+=("${entry#*:}") ;;
  esac
done
if ((${#installable[@]})) && command -v apt-get >/dev/null && [[ $(id -u) == 0 ]]; then
  echo "installing ${installable[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${installable[@]}" >/dev/null
fi
for entry in "${missing[@]}"; do
  [[ $entry == python3-venv:* ]] && continue
  if ! command -v "${entry%%:*}" >/dev/null; then
    echo "cannot go on without ${entry%%:*}: install it (Debian: ${entry#*:}; Rust 1.95 by rustup, Go 1.26, Node 20) and run \`make test\` again" >&2
    exit 1
  fi
done
