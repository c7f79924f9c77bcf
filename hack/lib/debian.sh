# shellcheck shell=bash
# Programs of Debian packages that are not to be installed, since an installed one would start a service. Sourced, never run.

# bring COMMAND PACKAGE: where there is no such command, unpacks the package into a cache folder and puts that on the PATH.
bring() {
  local cache=${XDG_CACHE_HOME:-$HOME/.cache}/graphtoken-operator new
  if command -v "$1" >/dev/null; then return; fi
  if [[ ! -x $cache/$2/usr/bin/$1 ]]; then
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
      echo "cannot go on without $1: install it (Debian: $2) and run this again" >&2
      return 1
    fi
    mkdir -p "$cache"
    new=$(mktemp -d "$cache/$2.XXXXXX")
    # In a folder that apt's own user may write to, or it says so.
    chmod 755 "$new"
    # What is available may not be known yet, as in a fresh container.
    if [[ $(id -u) == 0 ]]; then apt-get update -qq; fi
    (cd "$new" && apt-get download -qq -o APT::Sandbox::User=root "$2" && dpkg-deb -x "$2"_*.deb . && rm -- *.deb)
    rm -rf -- "${cache:?}/$2"
    mv -- "$new" "$cache/$2"
  fi
  PATH=$cache/$2/usr/bin:$PATH
}
