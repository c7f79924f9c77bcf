#!/usr/bin/env bash
# Makes the archive that the plugin is given out in: the binary, under the name that kubectl looks for, and the licence. The same
# files give the same archive, byte by byte, but for the time: SOURCE_DATE_EPOCH, by default that of the last commit.
# Prints the archive's path.
# Usage: archive.sh BINARY OS ARCHITECTURE FOLDER     OS: linux, darwin or windows (a zip); ARCHITECTURE: amd64 or arm64

set -euo pipefail
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
SAY_NAME=release
# shellcheck source-path=SCRIPTDIR source=../lib/say.sh
source "$ROOT/hack/lib/say.sh"

usage="Usage: archive.sh BINARY OS ARCHITECTURE FOLDER"
(($# == 4)) || die "Not understood: $*" "$usage"
binary=$1 os=$2 architecture=$3
[[ -s $binary ]] || die "There is no program $binary." "Build it: cargo build --locked --release --bin kubectl-graphtoken"
[[ $os == linux || $os == darwin || $os == windows ]] || die "$os is no system that the plugin is made for." "$usage"
[[ $architecture == amd64 || $architecture == arm64 ]] || die "$architecture is no architecture that the plugin is made for." "$usage"
mkdir -p -- "$4"
folder=$(cd -- "$4" && pwd -P)
epoch=${SOURCE_DATE_EPOCH:-$(git -C "$ROOT" log -1 --format=%ct)}
name=kubectl-graphtoken-v$("$ROOT/hack/release/version.sh")-$os-$architecture
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT

program=kubectl-graphtoken
if [[ $os == windows ]]; then program=$program.exe; fi
install -m 0755 -- "$binary" "$scratch/$program"
install -m 0644 -- "$ROOT/LICENSE" "$scratch/LICENSE"
cd -- "$scratch"
if [[ $os == windows ]]; then
  archive=$folder/$name.zip
  python3 - "$archive" "$epoch" LICENSE "$program" <<'PYTHON'
import sys, time, zipfile

archive, epoch, *names = sys.argv[1:]
with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
    for name in names:
        entry = zipfile.ZipInfo(name, time.gmtime(int(epoch))[:6])
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.external_attr = (0o644 if name == "LICENSE" else 0o755) << 16
        with open(name, "rb") as file:
            made.writestr(entry, file.read())
PYTHON
else
  archive=$folder/$name.tar.gz
  tar --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --format=gnu -cf - LICENSE "$program" | gzip -9n >"$archive"
fi
printf '%s\n' "$archive"
