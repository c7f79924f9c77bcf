#!/usr/bin/env bash
# The first process of the node's own mount and pid namespaces; started by up.sh as the component "node". The namespaces
# make two promises: the places that containerd and kubelet insist on (/run/containerd, /var/lib/kubelet, ...) are folders
# of this checkout, under names short enough for a socket and without a trace on the machine; and when this process ends,
# the kernel ends all others in there and takes every mount away, whatever happened before.
# Usage: inside.sh FOLDER     FOLDER: .cluster/node; its name in the command line is also how pid_of knows us

set -euo pipefail
umask 022
NODE=$1 STATE=${1%/node}
declare -A GRAFTED=()

# graft FOLDER: in the namespace alone, FOLDER becomes one that can be written to, with all it has now.
graft() {
  local entry name
  mount -t tmpfs -o mode=0755 graft "$NODE/graft"
  for entry in "$1"/* "$1"/.[!.]*; do
    name=$NODE/graft/${entry##*/}
    if [[ -L $entry ]]; then
      cp -P -- "$entry" "$name"
    elif [[ -d $entry ]]; then
      mkdir -- "$name"
      mount --rbind -- "$entry" "$name"
    elif [[ -e $entry ]]; then
      : >"$name"
      mount --bind -- "$entry" "$name"
    fi
  done
  mount --move "$NODE/graft" "$1"
  GRAFTED[$1]=1
}

# place FOLDER DESTINATION: a folder of ours at a well-known place.
place() {
  local parent
  parent=$(dirname -- "$2")
  mkdir -p -- "$1"
  if [[ ! -d $2 ]]; then
    if [[ ! -v GRAFTED[$parent] ]]; then graft "$parent"; fi
    mkdir -p -- "$2"
  fi
  mount --bind -- "$1" "$2"
}

# pretend NAME VALUE: kubelet sets these for the whole machine unless they are as it wants them; so it is shown that.
pretend() {
  local file=/proc/sys/$1 shown=$NODE/sysctl/${1//\//.}
  if [[ ! -e $file || $(<"$file") == "$2" ]]; then return 0; fi
  echo "$2" >"$shown"
  mount --bind -- "$shown" "$file"
}

# /proc still is the machine's: it knows us by the pid that others can signal.
read -r stat </proc/self/stat
read -ra fields <<<"${stat##*) }"
echo "${stat%% *} ${fields[19]}" >"$STATE/run/node.pid.new"
mv -- "$STATE/run/node.pid.new" "$STATE/run/node.pid"

mkdir -p -- "$NODE/proc" "$NODE/graft" "$NODE/sysctl"
mount --bind /proc "$NODE/proc" # for launch, which records pids
mount -t proc proc /proc
place "$NODE/run" /run/containerd
place "$NODE/containerd" /var/lib/containerd
place "$NODE/kubelet" /var/lib/kubelet
place "$NODE/cni" /var/lib/cni
place "$NODE/pods" /var/log/pods
place "$NODE/containers" /var/log/containers
pretend vm/overcommit_memory 1
pretend vm/panic_on_oom 0
pretend kernel/panic 10
pretend kernel/panic_on_oops 1
pretend kernel/keys/root_maxkeys 1000000
pretend kernel/keys/root_maxbytes 25000000

: >"$NODE/ready"
exec "$NODE/pause"
