#!/usr/bin/env bash
# Builds the operator's image without a registry, from this machine's own files and the Dockerfile's last stage:
#   target/image/graphtoken-operator.tar     an OCI archive; hack/node/images.sh import FILE NAME takes it, and so do
#                                            `skopeo copy oci-archive:FILE docker://…`, `podman load` and `ctr image import`
# The same files give the same image, byte by byte. Prints size and digest; its last line is the archive's path.
# Needs buildah, which is installed where that is possible (Debian, as root). Elsewhere and for other architectures: the
# Dockerfile with docker or buildah, and a registry. Heeds BINARY (a binary that is built already; default: a release build
# of this checkout), SOURCE_DATE_EPOCH (the image's time; default: that of the last commit, or 0), and IMAGE (its name;
# default graphtoken.test/graphtoken-operator:VERSION).

set -euo pipefail
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
cd -- "$ROOT"
SAY_NAME=image
# shellcheck source-path=SCRIPTDIR source=../lib/say.sh
source "$ROOT/hack/lib/say.sh"

# For people only: the last line of stdout is the result.
tell() { printf 'image: %s\n' "$*" >&2; }

if ! command -v buildah >/dev/null; then
  if ! command -v apt-get >/dev/null || [[ $(id -u) != 0 ]]; then
    die "There is no buildah." "Install it (Debian, Ubuntu: package buildah), or use the Dockerfile with docker."
  fi
  tell "installing buildah"
  {
    timeout 300 apt-get update -qq &&
      DEBIAN_FRONTEND=noninteractive timeout 600 apt-get -o DPkg::Lock::Timeout=120 install -qq -y --no-install-recommends buildah
  } >&2 || die "apt-get could not install buildah: see above." "Install it by hand, then run this again."
fi

target=$(cargo metadata --locked --no-deps --format-version 1 | jq -r .target_directory)
version=$(cargo metadata --locked --no-deps --format-version 1 | jq -r '.packages[] | select(.name == "graphtoken").version')
name=${IMAGE:-graphtoken.test/graphtoken-operator:$version}
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
image=$target/image
archive=$image/graphtoken-operator.tar
mkdir -p -- "$image"
if [[ -z ${BINARY:-} ]]; then hack/build.sh --quiet --bin graphtoken; fi
hack/image/files.sh "${BINARY:-$target/release/graphtoken}" "$image/files"

# A store of its own, gone afterwards: the machine's images are nobody's business. As vfs it needs no mounts.
rm -rf --one-file-system -- "$image/store" "$image/layout" "$archive" "$image/log"
status=0
buildah --storage-driver vfs --root "$image/store/root" --runroot "$image/store/run" \
  bud --isolation chroot --format oci --timestamp "$epoch" --identity-label=false --omit-history --disable-compression=false \
  --build-arg VERSION="$version" --build-context files="$image/files" --tag "oci:$image/layout:$name" . >"$image/log" 2>&1 || status=$?
rm -rf --one-file-system -- "$image/store"
if ((status != 0)); then
  quote <"$image/log" >&2
  die "buildah could not make the image: see above." "Mend that, then run this again."
fi
# What buildah packs itself bears the time of the packing.
tar --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --mode=a+rX,u+w,go-w --format=gnu -cf "$archive" -C "$image/layout" .
rm -rf --one-file-system -- "$image/layout"

tell "$name for $(uname -m)"
tell "  image   $(stat -c %s "$archive") bytes, compressed as it is pulled"
tell "  binary  $(stat -c %s "$image/files/graphtoken") bytes"
tell "  digest  $(tar -xOf "$archive" ./index.json | jq -r '.manifests[0].digest')"
printf '%s\n' "$archive"
