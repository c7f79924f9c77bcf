#!/usr/bin/env bash
# Images for this checkout's node, from no registry: what pods run is made of this machine's own files.
#   images.sh clients [--tag NAME]... [--venv FOLDER]... [--file SOURCE:DESTINATION]... [--tree SOURCE:DESTINATION]...
#       a root file system with a shell, coreutils, curl, rclone, CA roots, Python, and a user 50000; and the virtual
#       environments (each where it is on this machine), files and folders that are named. Names: graphtoken.test/clients:local
#       or what --tag says; any name will do, be it docker.io/library/python:3.12-slim.
#   images.sh tag NAME NEW-NAME...      the same image under more names
#   images.sh import FILE [NAME]...     an OCI or docker archive (docker save, buildah push oci-archive:FILE), with more names
#   images.sh pause [--program]         what holds a pod's namespaces; node-up does it. --program: only the path of its binary
# A pod that runs one needs imagePullPolicy IfNotPresent or Never: the node cannot pull. What was made is kept in the
# cache for as long as its parts are the same, and what the node has already is not imported again.
# Heeds PYTHON (the interpreter, default python3), XDG_CACHE_HOME.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

CLIENTS=graphtoken.test/clients:local
# Beside Python. The first ones are what scripts in manifests use.
PROGRAMS=(sh bash cat sleep env ls cp mv rm ln mkdir rmdir touch chmod date echo printf test '[' true false head tail wc tr cut paste sort
  uniq id stat sha256sum base64 dirname basename seq timeout mktemp readlink realpath tee od expr grep sed find curl rclone)
# Of Python's own library: what a program that runs does not need.
LEAVE=(--exclude=__pycache__ --exclude='*.pyc')
LEAVE_STDLIB=(--exclude=./site-packages --exclude=./dist-packages --exclude=./test --exclude=./idlelib --exclude=./turtledemo
  --exclude=./lib2to3 --exclude=./ensurepip --exclude='./config-*' --exclude='*/tests' --exclude='*.a')
IMAGES=$CACHES/images

SCRATCH=''
cleanup() { if [[ -n $SCRATCH ]]; then rm -rf -- "$SCRATCH"; fi; }
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

case $(uname -m) in
  x86_64) ARCH=amd64 ;;
  aarch64 | arm64) ARCH=arm64 ;;
  *) ARCH=$(uname -m) ;;
esac

usage() { die "Not understood: $*" "Usage: see the first lines of hack/node/images.sh"; }
sha256() { sha256sum -- "$1" | cut -d' ' -f1; }
# full_name NAME: as the node knows it: python:3 is docker.io/library/python:3.
full_name() {
  local name=$1 first=${1%%/*}
  if [[ $name != */* ]]; then
    name=docker.io/library/$name
  elif [[ $first != *[.:]* && $first != localhost ]]; then
    name=docker.io/$name
  fi
  [[ ${name##*/} == *[:@]* ]] || name=$name:latest
  printf '%s' "$name"
}

# ---- making ----------------------------------------------------------------------------------------------------------

# blob FILE: into the image as what its content says; prints the digest.
blob() {
  local digest
  digest=$(sha256 "$1")
  mv -- "$1" "$SCRATCH/image/blobs/sha256/$digest"
  printf '%s' "$digest"
}

# pack SETTINGS: $SCRATCH/root becomes an image in $SCRATCH/image: one plain layer, the same bytes for the same files.
pack() {
  local layer config manifest sizes=()
  mkdir -p -- "$SCRATCH/image/blobs/sha256"
  tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=gnu -cf "$SCRATCH/layer" -C "$SCRATCH/root" .
  sizes+=("$(stat -c %s "$SCRATCH/layer")")
  layer=$(blob "$SCRATCH/layer")
  printf '{"architecture":"%s","os":"linux","created":"1970-01-01T00:00:00Z","config":%s,"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$ARCH" "$1" "$layer" >"$SCRATCH/config"
  sizes+=("$(stat -c %s "$SCRATCH/config")")
  config=$(blob "$SCRATCH/config")
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:%s","size":%s}]}' \
    "$config" "${sizes[1]}" "$layer" "${sizes[0]}" >"$SCRATCH/manifest"
  sizes+=("$(stat -c %s "$SCRATCH/manifest")")
  manifest=$(blob "$SCRATCH/manifest")
  printf '{"imageLayoutVersion":"1.0.0"}' >"$SCRATCH/image/oci-layout"
  printf '%s %s\n' "$manifest" "${sizes[2]}" >"$SCRATCH/image/manifest"
}

# cached KEY MAKE...: sets IMAGE to the folder of that image, which MAKE fills $SCRATCH/root for and packs.
cached() {
  local key=$1 lock
  shift
  IMAGE=$IMAGES/$key
  mkdir -p -- "$IMAGES"
  exec {lock}>"$IMAGES/.lock"
  flock -w 600 "$lock" || die "Another process has been making an image for 10 minutes." "See what it does: ps aux | grep images.sh"
  if [[ ! -e $IMAGE/manifest ]]; then
    # What a killed run left, and what nobody has asked for in two weeks; nobody else is here while we hold the lock.
    find "$IMAGES" -mindepth 1 -maxdepth 1 -type d \( -name '.tmp.*' -o -mtime +14 \) -exec rm -rf -- {} +
    SCRATCH=$(mktemp -d -- "$IMAGES/.tmp.XXXXXX")
    mkdir -- "$SCRATCH/root"
    "$@"
    mv -T -- "$SCRATCH/image" "$IMAGE"
    rm -rf -- "$SCRATCH"
    SCRATCH=''
  fi
  touch -- "$IMAGE"
  exec {lock}>&-
}

# ---- pause -----------------------------------------------------------------------------------------------------------

# make_program FILE
make_program() {
  command -v cc >/dev/null || die "There is no C compiler." "Install one (Debian, Ubuntu: package build-essential)."
  cc -std=gnu11 -Wall -Wextra -Os -static -s -o "$1" "$NODE_SCRIPTS/pause.c" >&2 ||
    die "hack/node/pause.c could not be compiled: see above." "It needs a static C library (Debian: libc6-dev; Fedora: glibc-static)."
}
make_pause() {
  make_program "$SCRATCH/root/pause"
  chmod 0755 "$SCRATCH/root" "$SCRATCH/root/pause"
  pack '{"Entrypoint":["/pause"],"User":"65535:65535"}'
  # Also as a file: the node's own first process is the same program.
  mv -- "$SCRATCH/root/pause" "$SCRATCH/image/pause"
}
pause_image() { cached "pause-$ARCH-$(cat -- "$NODE_SCRIPTS/pause.c" "$NODE_SCRIPTS/images.sh" | sha256sum | cut -c1-16)" make_pause; }

# ---- clients ---------------------------------------------------------------------------------------------------------

# A Python is known by five lines: executable, version as in python3.11, library, CA file, prefix.
ASK='import os, ssl, sys, sysconfig
print(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))
print("python%d.%d" % sys.version_info[:2])
print(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
print(ssl.get_default_verify_paths().openssl_cafile)
print(sys.base_prefix)'

# put FILE [DESTINATION]: one file of the machine, whatever links lead to it, where the image has that folder.
put() {
  local to=${2:-$1} folder
  folder=$SCRATCH/root$(realpath -m -- "$(dirname -- "$to")")
  mkdir -p -- "$folder"
  cp -L --no-preserve=all -- "$1" "$folder/${to##*/}"
  if [[ -x $1 ]]; then chmod 0755 "$folder/${to##*/}"; fi
}

# put_tree FOLDER DESTINATION TAR-OPTION...
put_tree() {
  local from=$1 to=$SCRATCH/root$2
  shift 2
  mkdir -p -- "$to"
  tar -C "$from" "${LEAVE[@]}" "$@" -cf - . | tar -C "$to" --no-same-owner -xf -
}

# put_python EXECUTABLE: once for each.
declare -A PYTHONS=()
put_python() {
  local about folder name
  mapfile -t about < <("$1" -I -c "$ASK")
  ((${#about[@]} == 5)) || die "$1 could not be asked about itself." "Name a working interpreter: PYTHON=python3.12"
  if [[ -v PYTHONS[${about[0]}] ]]; then return 0; fi
  PYTHONS[${about[0]}]=${about[2]}
  put_tree "${about[2]}" "${about[2]}" "${LEAVE_STDLIB[@]}"
  put "${about[0]}"
  folder=$(dirname -- "${about[0]}")
  # The names that environments and people call it by.
  for name in python3 python "${about[1]}"; do
    if [[ ! -e $SCRATCH/root$folder/$name ]]; then ln -s -- "$(basename -- "${about[0]}")" "$SCRATCH/root$folder/$name"; fi
  done
  for name in python3 python; do
    if [[ ! -e $SCRATCH/root/usr/local/bin/$name ]]; then ln -s -- "${about[0]}" "$SCRATCH/root/usr/local/bin/$name"; fi
  done
  # Where its OpenSSL looks for CA roots.
  if [[ ${about[3]} == /* && ! -e $SCRATCH/root${about[3]} ]]; then
    mkdir -p -- "$SCRATCH/root$(dirname -- "${about[3]}")"
    ln -s -- /etc/ssl/certs/ca-certificates.crt "$SCRATCH/root${about[3]}"
  fi
}

# put_libraries: what the loader would load for all programs and libraries in there.
put_libraries() {
  local file
  while IFS= read -r file; do
    if [[ ! -e $SCRATCH/root$file ]]; then put "$file"; fi
  done < <(
    find "$SCRATCH/root" -type f \( -perm /111 -o -name '*.so' -o -name '*.so.*' \) -exec grep -lsaPZ '\A\x7fELF' {} + |
      xargs -0 -r ldd 2>/dev/null | awk '$2 == "=>" && $3 ~ "^/" {print $3} $1 ~ "^/" && $2 ~ "^\\(" {print $1}' |
      grep -vF -- "$SCRATCH/" | sort -u
  )
}

ca_roots() {
  local file
  for file in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
    if [[ -e $file ]]; then printf '%s' "$file" && return; fi
  done
  die "This machine has no CA roots." "Install them (Debian, Ubuntu: package ca-certificates)."
}

VENVS=() FILES=() TREES=()
make_clients() {
  local root=$SCRATCH/root entry name begun=$SECONDS
  say "making an image of this machine's files (kept in the cache)"
  mkdir -p -- "$root"/{dev,etc/ssl/certs,home,mnt,proc,root,run,sys,tmp,usr/bin,usr/local/bin,var/tmp}
  # Where /bin is a link to /usr/bin, it is one in the image too.
  for name in bin sbin lib lib32 lib64; do
    if [[ -L /$name ]]; then
      cp -P -- "/$name" "$root/$name"
      mkdir -p -- "$root$(realpath -- "/$name")"
    fi
  done
  for name in "${PROGRAMS[@]}"; do put "$(type -P -- "$name")" "/usr/bin/$name"; done
  if [[ ! -L $root/bin ]]; then
    mkdir -p -- "$root/bin"
    for name in sh bash cat sleep env; do ln -sf -- "/usr/bin/$name" "$root/bin/$name"; done
  fi
  put "$(ca_roots)" /etc/ssl/certs/ca-certificates.crt
  printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'client:x:50000:0:client:/tmp:/bin/sh' >"$root/etc/passwd"
  printf '%s\n' 'root:x:0:' >"$root/etc/group"
  printf '%s\n' 'hosts: files dns' >"$root/etc/nsswitch.conf"

  put_python "${PYTHON:-python3}"
  for entry in "${VENVS[@]}"; do
    put_python "$entry/bin/python"
    put_tree "$entry" "$entry"
  done
  for entry in "${TREES[@]}"; do put_tree "${entry%%:*}" "${entry#*:}"; done
  for entry in "${FILES[@]}"; do put "${entry%%:*}" "${entry#*:}"; done
  put_libraries
  chmod -R a+rX,go-w,ug-s -- "$root"
  # Compiled here, since a pod cannot write: of a kind that looks at no file's time, which is 0 in there.
  for name in "${!PYTHONS[@]}"; do
    PYTHONHASHSEED=0 "$name" -I -m compileall -q -s "$root" -p / --invalidation-mode unchecked-hash "$root${PYTHONS[$name]}" >/dev/null || true
    for entry in "${VENVS[@]}"; do
      [[ $(realpath -- "$entry/bin/python") == "$name" ]] || continue
      PYTHONHASHSEED=0 "$name" -I -m compileall -q -s "$root" -p / --invalidation-mode unchecked-hash "$root$entry" >/dev/null || true
    done
  done
  chmod 1777 "$root/tmp" "$root/var/tmp"
  pack '{"Env":["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"],"Cmd":["/bin/sh"]}'
  say "made: $(($(du -sk "$SCRATCH/image" | cut -f1) / 1024)) MB in $((SECONDS - begun)) s"
}

# inputs: everything that the image depends on, by name, size and time, which is quick to ask.
inputs() {
  local entry about name folders=()
  sha256sum <"$NODE_SCRIPTS/images.sh"
  printf '%q ' "${VENVS[@]}" -- "${FILES[@]}" -- "${TREES[@]}"
  stat -L -c '%n %s %Y' -- /etc/ld.so.cache "$(ca_roots)" 2>/dev/null || true
  for name in "${PROGRAMS[@]}"; do stat -L -c '%n %s %Y' -- "$(type -P -- "$name")"; done
  for entry in "${PYTHON:-python3}" "${VENVS[@]/%//bin/python}"; do
    mapfile -t about < <("$entry" -I -c "$ASK")
    printf '%s\n' "${about[@]}"
    stat -L -c '%n %s %Y' -- "${about[0]}"
    folders+=("${about[2]}")
  done
  for entry in "${FILES[@]}"; do stat -L -c '%n %a %s %Y' -- "${entry%%:*}"; done
  for entry in "${TREES[@]}"; do folders+=("${entry%%:*}"); done
  for entry in "${folders[@]}" "${VENVS[@]}"; do
    find "$entry" \( -name __pycache__ -o -name site-packages -path "*/lib/python*" ! -path "$entry/lib/*" \) -prune -o \
      ! -type d ! -name '*.pyc' -printf '%p %y %m %s %T@ %l\n' | sort
  done
}

# install_missing: rclone and curl are ordinary packages.
install_missing() {
  local name missing=()
  for name in "${PROGRAMS[@]}"; do type -P -- "$name" >/dev/null || missing+=("$name"); done
  ((${#missing[@]})) || return 0
  if ! command -v apt-get >/dev/null; then die "Not installed: ${missing[*]}." "Install them with your package manager."; fi
  say "installing ${missing[*]}"
  {
    timeout 300 apt-get update -qq &&
      DEBIAN_FRONTEND=noninteractive timeout 600 apt-get -o DPkg::Lock::Timeout=120 install -qq -y --no-install-recommends "${missing[@]}"
  } >&2 || die "apt-get could not install ${missing[*]}: see above." "Install them by hand, then run this again."
}

# ---- the node --------------------------------------------------------------------------------------------------------

has_image() { [[ -n $(ctr images ls -q "name==$1") ]]; }
digest_of() { ctr images ls "name==$1" | awk 'NR == 2 {print $3}'; }

# tag NAME NEW...
tag() {
  local from=$1 name
  shift
  for name in "$@"; do
    [[ $(digest_of "$name") == "$(digest_of "$from")" ]] || ctr images tag --force "$from" "$name" >/dev/null
  done
}

# await_known NAME...: containerd's other half, which kubelet asks, learns of images a moment later.
await_known() {
  local name i
  for name in "$@"; do
    for ((i = 0; i < 50; i++)); do
      if [[ -n $(ctr images ls -q "name==$name,labels.\"io.cri-containerd.image\"==managed") ]]; then break; fi
      sleep 0.1
    done
  done
}

# load NAME...: $IMAGE into the node.
load() {
  local manifest size begun=$SECONDS index
  read -r manifest size <"$IMAGE/manifest"
  if [[ $(digest_of "$1") == "sha256:$manifest" ]]; then
    say "$1: the node has it already"
  else
    index=$(mktemp -d)
    printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%s,"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}}]}' \
      "$manifest" "$size" "$1" "$1" >"$index/index.json"
    tar -cf - -C "$IMAGE" oci-layout blobs -C "$index" index.json | ctr images import - >/dev/null || {
      rm -rf -- "$index"
      die "The node did not take the image $1: see above." "Read $LOG/containerd.log"
    }
    rm -rf -- "$index"
    say "$1: imported in $((SECONDS - begun)) s"
  fi
  tag "$@"
  await_known "$@"
}

need_node() { pid_of containerd >/dev/null || die "This checkout has no node." "Run: make node-up"; }

action=${1:-}
(($# == 0)) || shift
case $action in
  pause)
    pause_image
    if [[ ${1:-} == --program ]]; then
      printf '%s\n' "$IMAGE/pause"
    else
      need_node
      load "$PAUSE_IMAGE"
    fi
    ;;
  clients)
    names=()
    while (($#)); do
      (($# >= 2)) || usage "$1"
      case $1 in
        --tag) names+=("$(full_name "$2")") ;;
        --venv) VENVS+=("${2%/}") ;;
        --file) FILES+=("$2") ;;
        --tree) TREES+=("$2") ;;
        *) usage "$1" ;;
      esac
      shift 2
    done
    for entry in "${FILES[@]}" "${TREES[@]}"; do
      [[ $entry == *:/* && -r ${entry%%:*} ]] || die "Not SOURCE:/DESTINATION with a readable source: $entry" "Name it so."
    done
    for entry in "${VENVS[@]}"; do
      [[ $entry == /* && -x $entry/bin/python ]] || die "No virtual environment, or not by its whole path: $entry" "Name one (hack/python/venv.sh prints its folder)."
    done
    need_node
    install_missing
    key=$(inputs | sha256sum | cut -c1-16)
    cached "clients-$ARCH-$key" make_clients
    if ((${#names[@]} == 0)); then names=("$CLIENTS"); fi
    load "${names[@]}"
    ;;
  tag)
    (($# >= 2)) || usage "$action"
    need_node
    names=()
    for name in "$@"; do names+=("$(full_name "$name")"); done
    has_image "${names[0]}" || die "The node has no image ${names[0]}." "It has: $(ctr images ls -q | grep -v '@' | tr '\n' ' ')"
    tag "${names[@]}"
    await_known "${names[@]}"
    ;;
  import)
    [[ -r ${1:-} ]] || usage "$action"
    need_node
    file=$1
    shift
    names=()
    for name in "$@"; do names+=("$(full_name "$name")"); done
    # "unpacking NAME (DIGEST)...done", one line an image.
    mapfile -t imported < <(ctr images import - <"$file" | awk '$1 == "unpacking" {print $2}')
    ((${#imported[@]})) || die "The node took no image from $file: see above." "It must be an OCI or docker archive whose image has a name."
    say "imported: ${imported[*]}"
    if ((${#names[@]})); then
      ((${#imported[@]} == 1)) || die "$file holds several images; not named anew." "Name them with: hack/node/images.sh tag"
      tag "${imported[0]}" "${names[@]}"
    fi
    await_known "${imported[@]}" "${names[@]}"
    ;;
  *) usage "$action" ;;
esac
