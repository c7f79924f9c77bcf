#!/usr/bin/env bash
# Says whether a node can run on this machine: status 0, or 77 and the reason. Changes nothing, unless told to install.
# Usage: can.sh [--install]     --install: also brings the programs that are missing, where that is possible (Debian, root)

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

SCRATCH=''
cleanup() { if [[ -n $SCRATCH ]]; then rm -rf --one-file-system -- "$SCRATCH"; fi; }
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# cannot WHY NEXT...: a status of its own, for tests that are then skipped.
cannot() {
  say "no node can run here: $1"
  shift
  printf 'cluster:   next: %s\n' "$@" >&2
  exit 77
}

# Command or file, and the Debian package that brings it.
NEEDED=(
  "containerd:containerd" "ctr:containerd" "runc:runc" "loopback:containernetworking-plugins" "cc:build-essential"
  "curl:curl" "openssl:openssl" "nsenter:util-linux" "unshare:util-linux" "setsid:util-linux" "mount:mount"
)
present() {
  case $1 in
    loopback) [[ -x /usr/lib/cni/loopback || -x /opt/cni/bin/loopback ]] ;;
    *) command -v "$1" >/dev/null ;;
  esac
}
# Sets MISSING (commands) and PACKAGES.
look() {
  local entry
  MISSING=() PACKAGES=()
  for entry in "${NEEDED[@]}"; do
    if present "${entry%%:*}"; then continue; fi
    MISSING+=("${entry%%:*}")
    if [[ " ${PACKAGES[*]} " != *" ${entry#*:} "* ]]; then PACKAGES+=("${entry#*:}"); fi
  done
}

# Debian's containerd package starts a service. Without systemd it cannot; with it, that is for the machine's owner.
installable() { command -v apt-get >/dev/null && [[ ! -d /run/systemd/system ]]; }

check_programs() {
  look
  ((${#MISSING[@]})) || return 0
  if ! installable; then
    cannot "not installed: ${MISSING[*]}." "Install them (Debian, Ubuntu: apt-get install --no-install-recommends ${PACKAGES[*]})." \
      "The node runs a containerd of its own; a service that a package starts is not used and may be off."
  fi
  if [[ ${1:-} != --install ]]; then
    say "node-up will install: ${PACKAGES[*]}"
    return 0
  fi
  say "installing ${PACKAGES[*]}"
  {
    timeout 300 apt-get update -qq &&
      DEBIAN_FRONTEND=noninteractive timeout 600 apt-get -o DPkg::Lock::Timeout=120 install -qq -y --no-install-recommends "${PACKAGES[@]}"
  } >&2 || cannot "apt-get could not install ${PACKAGES[*]}: see above." "Install them by hand, then run this again."
  look
  ((${#MISSING[@]} == 0)) || cannot "still not installed: ${MISSING[*]}." "Install them by hand, then run this again."
}

# A hierarchy with the controllers that pods need, and we may make folders in it.
check_cgroups() {
  local controller missing=() probe
  if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
    for controller in cpu memory pids; do
      [[ " $(</sys/fs/cgroup/cgroup.controllers) " == *" $controller "* ]] || missing+=("$controller")
    done
    probe=/sys/fs/cgroup
  else
    for controller in cpu cpuacct cpuset memory; do
      [[ -d /sys/fs/cgroup/$controller/ ]] || missing+=("$controller")
    done
    probe=/sys/fs/cgroup/memory
  fi
  ((${#missing[@]} == 0)) || cannot "cgroups without: ${missing[*]} (looked in /sys/fs/cgroup)." \
    "Use a machine or a privileged container whose /sys/fs/cgroup has them."
  mkdir "$probe/$CGROUP-check" 2>/dev/null ||
    cannot "no cgroup can be made in $probe." "Use a machine, or a privileged container with a writable /sys/fs/cgroup."
  rmdir "$probe/$CGROUP-check"
}

# Everything that inside.sh and containerd ask of the kernel, tried where they will.
check_namespaces() {
  SCRATCH=$(mktemp -d -- "$ROOT/.cluster.check.XXXXXX")
  mkdir -- "$SCRATCH"/{lower,upper,work,merged}
  # shellcheck disable=SC2016  # for the inner shell
  timeout 20 unshare --fork --pid --kill-child --mount --propagation slave -- bash -c '
    mount -t proc proc /proc || exit 1
    mount -t tmpfs tmpfs "$1/merged" && umount "$1/merged" || exit 1
    mount -t overlay -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" overlay "$1/merged" || exit 2' - "$SCRATCH" \
    >"$SCRATCH/said" 2>&1 && return
  case $? in
    2) cannot "overlayfs does not work in $ROOT: $(tail -n 1 "$SCRATCH/said")" \
      "Put the checkout on an ordinary file system (ext4, xfs); in a container: on a volume." ;;
    *) cannot "mount and pid namespaces cannot be had: $(tail -n 1 "$SCRATCH/said")" "Use a machine, or a privileged container." ;;
  esac
}

if [[ $(uname -s) != Linux ]]; then cannot "it needs Linux; this is $(uname -s)." "Use a Linux machine or a Linux virtual machine."; fi
check_platform
[[ $(id -u) == 0 ]] || cannot "it needs root; this is $(id -un)." "Run it as root (sudo -E make node-up, and node-down likewise)."
check_cgroups
[[ -c /dev/kmsg ]] || cannot "kubelet needs /dev/kmsg, which is not here." "In a container: pass the device on (--device /dev/kmsg)."
check_programs "$@"
if command -v unshare >/dev/null; then check_namespaces; fi
