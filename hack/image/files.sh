#!/usr/bin/env bash
# Gathers what the image holds: the binary as /graphtoken, the libraries that it is linked to and their loader, each where
# the loader looks for it, CA roots, and the licences of all of these. Runs in the Dockerfile and for build.sh.
# A static binary would need no libraries, but glibc resolves host names by loading some, and those must be of its version.
# Usage: files.sh BINARY FOLDER     FOLDER is made anew

set -euo pipefail
HERE=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)

# die WHAT NEXT: every failure says what to do next.
die() {
  printf 'image: error: %s\nimage:   next: %s\n' "$1" "$2" >&2
  exit 1
}
(($# == 2)) || die "Not understood: $*" "Usage: files.sh BINARY FOLDER"
binary=$1 folder=$2
[[ -x $binary ]] || die "There is no program $binary." "Build it: make build"

# Before 2.34 names were resolved by libraries beside libc that `ldd` does not list.
version=$(getconf GNU_LIBC_VERSION 2>/dev/null) || die "This machine's C library is not glibc." "Build where it is, as on Debian 12 or newer."
version=${version#glibc }
((${version%%.*} * 1000 + 10#${version#*.} >= 2034)) || die "glibc is $version; 2.34 or newer is needed." "Build on Debian 12 or newer."

# put SOURCE DESTINATION MODE
put() { install -D -m "$3" -- "$1" "$folder$2"; }

rm -rf --one-file-system -- "$folder"
mkdir -p -- "$folder"
put "$binary" /graphtoken 0755

mapfile -t libraries < <(ldd -- "$binary" | awk '/not found/ {exit 1} $2 == "=>" && $3 ~ "^/" {print $3} $1 ~ "^/" {print $1}')
((${#libraries[@]})) || die "The libraries of $binary are not to be found." "See: ldd $binary"
for library in "${libraries[@]}"; do put "$library" "$library" 0755; done
# What asks for a name asks /etc/hosts first, as everywhere.
put <(printf 'hosts: files dns\n') /etc/nsswitch.conf 0644

roots=
for file in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
  if [[ -s $file ]]; then roots=$file && break; fi
done
[[ -n $roots ]] || die "This machine has no CA roots." "Install them (Debian, Ubuntu: package ca-certificates)."
put "$roots" /etc/ssl/certs/ca-certificates.crt 0644

put "$HERE/../../LICENSE" /licenses/LICENSE 0644
for package in libc6 libgcc-s1 ca-certificates; do
  if [[ -e /usr/share/doc/$package/copyright ]]; then
    put "/usr/share/doc/$package/copyright" "/licenses/$package.copyright" 0644
  fi
done
find "$folder" -type d -exec chmod 0755 {} +
