#!/usr/bin/env bash
# The release build: target/release/graphtoken and target/release/kubectl-graphtoken. One commit gives the same bytes
# whoever builds it and where, if the compiler is the same; `make reproducible` shows it. So no path of this machine may
# be in them: a panic's place in a dependency would name the folder of its sources.
# Usage: hack/build.sh [OPTION OF CARGO BUILD]...     Heeds CARGO_TARGET_DIR and RUSTFLAGS.
set -euo pipefail
cd "$(dirname "$0")/.."

pinned=$(sed -n 's/^ARG RUST=//p' Dockerfile)
present=$(rustc --version | cut -d ' ' -f 2)
if [[ $present != "$pinned" ]]; then
  echo "build: rustc $present is not $pinned, which releases are built with: other bytes come of it" >&2
fi

# Cargo names its folder as it was told, and some tools as it really is.
home=${CARGO_HOME:-$HOME/.cargo}
real=$(cd -- "$home" && pwd -P)
# Between flags stands a separator of units, for folders may have spaces in their names.
read -ra flags <<<"${RUSTFLAGS:-}"
flags+=("--remap-path-prefix=$real=/cargo" "--remap-path-prefix=$PWD=/source")
if [[ $home != "$real" ]]; then flags+=("--remap-path-prefix=$home=/cargo"); fi
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && printf %s "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS
# glibc reads them since 2.36: see build.rs.
GRAPHTOKEN_PACKED_RELOCATIONS=
libc=$(getconf GNU_LIBC_VERSION 2>/dev/null || true)
if [[ $libc == "glibc "* ]] && printf '%s\n' "glibc 2.36" "$libc" | sort --version-sort --check=quiet; then
  GRAPHTOKEN_PACKED_RELOCATIONS=1
fi
export GRAPHTOKEN_PACKED_RELOCATIONS
# Cryptography in C takes the time for a part of its input.
unset SOURCE_DATE_EPOCH
exec cargo build --locked --release "$@"
