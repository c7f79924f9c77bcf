#!/usr/bin/env bash
# Links the programs that the cluster needs into a folder, taking each from the first source that has it:
#   1. $KUBEBUILDER_ASSETS   2. the official release, checksum verified   3. a build from its Go module
# What was downloaded or built is kept in a cache outside the checkout, which is looked into before 2 and 3, so either
# is done once for a version and machine. Usage: binaries.sh FOLDER NAME...

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=tools.sh
source "$HERE/tools.sh"

HEARTBEAT=15 # seconds between signs of life
OS=linux
case $(uname -m) in
  x86_64) ARCH=amd64 ;;
  aarch64 | arm64) ARCH=arm64 ;;
  *) die "No releases are made for this machine ($(uname -m))." "Set KUBEBUILDER_ASSETS to a folder with programs of your own." ;;
esac

CHILD='' SCRATCH=''
cleanup() {
  if [[ -n $CHILD ]]; then kill "$CHILD" 2>/dev/null || true; fi
  if [[ -n $SCRATCH ]]; then rm -rf -- "$SCRATCH"; fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# alive LABEL MEASURE COMMAND...: runs it, saying every so often how long it has taken and how far MEASURE says it is.
alive() {
  local label=$1 measure=$2 begun=$SECONDS next=$HEARTBEAT status=0
  shift 2
  "$@" &
  CHILD=$!
  while kill -0 "$CHILD" 2>/dev/null; do
    sleep 0.2
    if ((SECONDS - begun >= next)); then
      say "  ... $label: $((SECONDS - begun)) s, $($measure)"
      next=$((next + HEARTBEAT))
    fi
  done
  wait "$CHILD" || status=$?
  CHILD=''
  return "$status"
}

# get URL FILE CURL-OPTION...: a download that gives up soon where nothing answers, and on a standstill. An https
# address may not lead to a plain one. It becomes curl (so call it in a subshell): whoever ends it ends the download.
get() {
  local url=$1 file=$2
  shift 2
  exec curl -fsSL --proto-redir '=https' --connect-timeout "${CLUSTER_CONNECT_TIMEOUT:-3}" --speed-limit 1000 --speed-time 30 \
    "$@" -o "$file" -- "$url" 2>"$SCRATCH/curl.err"
}

declare -A REFUSED=() # hosts that were not to be reached in this run: one failure is not waited for four times

# download NAME FILE: status 1, with WHY set, where the release has no such file or is not to be reached. A wrong
# checksum ends everything: the next source would only hide a damaged or forged file.
download() {
  local name=$1 file=$2 host fetched=$SCRATCH/fetched want have status=0
  locate_release "$name" || { WHY='the download is switched off'; return 1; }
  host=${RELEASE_URL#*://} host=${host%%/*}
  if [[ -v REFUSED[$host] ]]; then WHY=${REFUSED[$host]}; return 1; fi

  # The small file first: it tells at once whether there is anything to have.
  (get "$RELEASE_SUMS" "$SCRATCH/sums" --max-time 20) || status=$?
  if ((status == 22)); then
    WHY="$host has no $name $TOOL_VERSION for $OS/$ARCH"
    return 1
  elif ((status != 0)); then
    WHY="$host cannot be reached ($(tail -n 1 "$SCRATCH/curl.err"))"
    REFUSED[$host]=$WHY
    return 1
  fi
  # Either the bare checksum or lines of "CHECKSUM  FILE".
  want=$(awk -v f="${RELEASE_URL##*/}" 'NF == 1 {print $1; exit} {sub(/^\*/, "", $2)} $2 == f {print $1; exit}' "$SCRATCH/sums")
  if [[ ! $want =~ ^[0-9a-f]{64}$ ]]; then
    WHY="$RELEASE_SUMS holds no SHA-256 of it"
    return 1
  fi

  say "$name $TOOL_VERSION: downloading $RELEASE_URL"
  measure_download() { printf '%s MB' $(($(stat -c %s "$fetched" 2>/dev/null || echo 0) / 1000000)); }
  alive "downloading $name" measure_download get "$RELEASE_URL" "$fetched" --retry 2 || {
    WHY="the download from $host failed ($(tail -n 1 "$SCRATCH/curl.err"))"
    return 1
  }
  have=$(sha256sum -- "$fetched") have=${have%% *}
  [[ $have == "$want" ]] || die "Wrong checksum: $RELEASE_URL has SHA-256 $have, its release says $want. It was not used." \
    "Try again: a broken transfer mends itself. If it comes back, the server or a proxy between changes the file: do not" \
    "use it; set KUBEBUILDER_ASSETS, another mirror (CLUSTER_KUBERNETES_URL, CLUSTER_ETCD_URL, CLUSTER_HELM_URL), or an empty one to build."
  if [[ -n $RELEASE_MEMBER ]]; then
    tar -xzf "$fetched" -C "$SCRATCH" -- "$RELEASE_MEMBER" || die "$RELEASE_URL holds no $RELEASE_MEMBER." "Report this as a bug."
    mv -- "$SCRATCH/$RELEASE_MEMBER" "$fetched"
  fi
  chmod 0755 "$fetched"
  mv -- "$fetched" "$file"
}

# build NAME FILE: one program an invocation, so that progress is seen; Go's own cache shares what they have in common.
build() {
  local name=$1 file=$2
  local log=$CACHE/$name.build.log
  command -v go >/dev/null || die "$name $TOOL_VERSION is to be had nowhere: not in KUBEBUILDER_ASSETS; $WHY; no Go to build it." \
    "Set KUBEBUILDER_ASSETS to a folder that has it, or allow the download, or install $(awk '$1 == "go" {print "Go " $2}' "$HERE/go.mod") or newer."
  say "$name $TOOL_VERSION: building from its Go module (the first of a version takes some minutes; log: $log)"
  # A go.work, GOFLAGS or C compiler of the machine's must not change what comes out.
  compile() {
    exec >"$log" 2>&1
    GOWORK=off GOFLAGS=-mod=readonly CGO_ENABLED=0 GOOS=$OS GOARCH=$ARCH exec \
      go build -C "$HERE" -v -trimpath -buildvcs=false -ldflags "$(link_flags)" -o "$file" "$TOOL_PACKAGE"
  }
  measure_build() { printf '%s packages' "$(grep -vc '^go:' "$log" || true)"; }
  alive "building $name" measure_build compile || {
    tail -n 15 -- "$log" >&2
    die "$name could not be built." "Mend what stands above (whole log: $log) and run this again; what is compiled stays compiled." \
      "Or set KUBEBUILDER_ASSETS to a folder that has it."
  }
}

# fill NAME: brings NAME into $CACHE. Checkouts share the cache: one fills while the others wait, and a program appears
# there whole or not at all.
fill() {
  local name=$1 begun=$SECONDS lock
  mkdir -p -- "$CACHE"
  exec {lock}>"$CACHE/.$name.lock"
  if ! flock -n "$lock"; then
    say "$name $TOOL_VERSION: another run is fetching it; waiting for that"
    until flock -w "$HEARTBEAT" "$lock"; do say "  ... still waiting for $name: $((SECONDS - begun)) s"; done
  fi
  if [[ ! -x $CACHE/$name ]]; then
    # What a killed run left; nobody else is here while we hold the lock.
    rm -rf -- "$CACHE/.$name".tmp.*
    SCRATCH=$(mktemp -d -- "$CACHE/.$name.tmp.XXXXXX")
    local how="downloaded from $TOOL_RELEASE"
    if download "$name" "$SCRATCH/$name"; then
      how="downloaded from $RELEASE_URL, checksum verified"
    else
      say "$name $TOOL_VERSION: no download: $WHY"
      build "$name" "$SCRATCH/$name"
      how="built from $TOOL_PACKAGE"
    fi
    printf '%s\n' "$how" >"$CACHE/$name.source"
    mv -- "$SCRATCH/$name" "$CACHE/$name"
    rm -rf -- "$SCRATCH"
    SCRATCH=''
    say "$name $TOOL_VERSION: $how, in $((SECONDS - begun)) s"
  fi
  exec {lock}>&-
}

# resolve NAME: sets FOUND to its path.
resolve() {
  local name=$1 asset=${KUBEBUILDER_ASSETS:-}/$1 reported
  tool "$name"
  if [[ -n ${KUBEBUILDER_ASSETS:-} && -x $asset ]]; then
    FOUND=$(cd -- "$KUBEBUILDER_ASSETS" && pwd -P)/$name
    say "$name: from KUBEBUILDER_ASSETS ($FOUND)"
    # Those two have no --version, and their version matters least.
    if [[ $name != kubectl && $name != helm ]]; then
      reported=$("$FOUND" --version 2>/dev/null | head -n 1) || true
      [[ $reported == *"${TOOL_VERSION#v}"* ]] || say "  note: it says '$reported'; this project is tested with $TOOL_VERSION"
    fi
    return
  fi
  CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/graphtoken-operator/$TOOL_RELEASE-$TOOL_VERSION-$OS-$ARCH
  if [[ -x $CACHE/$name ]]; then
    say "$name $TOOL_VERSION: from the cache ($(<"$CACHE/$name.source"))"
  else
    fill "$name"
  fi
  FOUND=$CACHE/$name
}

(($# >= 2)) || die "Usage: binaries.sh FOLDER NAME..." "Name a folder and at least one of the tools in hack/cluster/tools.sh."
check_platform
need awk curl flock sha256sum tar
if [[ -n ${KUBEBUILDER_ASSETS:-} && ! -d $KUBEBUILDER_ASSETS ]]; then say "note: KUBEBUILDER_ASSETS is no folder: $KUBEBUILDER_ASSETS"; fi
folder=$1
shift
mkdir -p -- "$folder"
for name in "$@"; do
  resolve "$name"
  ln -sfn -- "$FOUND" "$folder/$name"
done
