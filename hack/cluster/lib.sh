# shellcheck shell=bash
# shellcheck disable=SC2034  # what is set here is read by the scripts that source this
# What the cluster scripts share: where things lie, how they speak, and how a component is started, found and ended.
# A component is known by the files NAME.args (NUL-separated command line) and NAME.pid ("PID START-TIME") in
# .cluster/run. The start time tells our process from a later one that was given the same pid. What a node adds to the
# cluster is in hack/node; here is only how its components are started and that all end together. Sourced, never run.

HERE=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
ROOT=$(cd -- "$HERE/../.." && pwd -P)
STATE=$ROOT/.cluster
RUN=$STATE/run LOG=$STATE/log PKI=$STATE/pki BIN=$STATE/bin
# In the order of their start.
COMPONENTS=(etcd kube-apiserver kube-controller-manager)
LAUNCHING=''
# What undoes a start that is not done yet; empty before and after.
UNDO=''

# stdout is for results alone (the export line); everything said to people goes to stderr.
say() { printf 'cluster: %s\n' "$*" >&2; }
# die WHAT NEXT...: every failure says what to do next.
die() {
  printf 'cluster: error: %s\n' "$1" >&2
  shift
  printf 'cluster:   next: %s\n' "$@" >&2
  exit 1
}

need() {
  local cmd missing=()
  for cmd in "$@"; do command -v "$cmd" >/dev/null || missing+=("$cmd"); done
  ((${#missing[@]} == 0)) || die "Not installed: ${missing[*]}." \
    "Install them with your package manager (Debian, Ubuntu: packages curl, openssl, coreutils, util-linux, gawk, tar)."
}

# What cannot be installed: the kernel's /proc, and a bash that knows `mapfile -d`.
check_platform() {
  [[ $(uname -s) == Linux && -r /proc/self/stat ]] || die "The local cluster runs on Linux only; this is $(uname -s)." \
    "Use a Linux machine or a Linux virtual machine, or point KUBECONFIG at a cluster of your own."
  ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || die "bash is $BASH_VERSION; 4.4 or newer is needed." \
    "Install a newer bash."
}

# One `up` or `down` of a checkout at a time. The lock is on this folder itself: a file in .cluster would go with it.
lock_checkout() {
  exec {CHECKOUT_LOCK}<"$HERE"
  flock -n "$CHECKOUT_LOCK" && return
  say "another cluster-up or cluster-down of this checkout is at work; waiting for it"
  flock -w 1800 "$CHECKOUT_LOCK" || die "It still is after 30 minutes." "See what it does: ps aux | grep hack/cluster"
}

# process_start PID: prints the start time; status 1 when there is no such process or only its zombie.
process_start() {
  local stat fields
  # Not by $(<…): in bash 5.2 a file that is not there ends the shell under `set -e`, whatever follows. There is no NUL: read
  # takes all of it, and reports that it ended.
  { read -r -d '' stat <"/proc/$1/stat" || [[ -n ${stat:-} ]]; } 2>/dev/null || return 1
  # The name in parentheses may itself hold spaces; what follows the last ") " starts with field 3.
  read -ra fields <<<"${stat##*) }"
  [[ ${fields[0]} != [ZX] ]] || return 1
  printf '%s' "${fields[19]}"
}

# pid_of NAME: prints the component's pid while it lives and is ours.
pid_of() {
  local pid started args i
  { read -r pid started <"$RUN/$1.pid"; } 2>/dev/null || return 1
  [[ $(process_start "$pid") == "$started" ]] || return 1
  # Also by its command line: pids and start times begin anew when the machine does. It is empty for the moment in which
  # a process becomes another program.
  for ((i = 0; i < 20; i++)); do
    args=$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") || return 1
    if [[ -n $args ]]; then break; fi
    sleep 0.02
  done
  [[ $args == *"$STATE/"* ]] || return 1
  printf '%s' "$pid"
}

# The shell that becomes the component writes its own pid first, so that no process ever runs unrecorded: the pid that
# the given /proc knows it by.
# shellcheck disable=SC2016  # expanded by that shell, not by this one
readonly BECOME='
  umask "$1" && shift
  read -r stat <"$1/self/stat" && read -ra fields <<<"${stat##*) }"
  echo "${stat%% *} ${fields[19]}" >"$2.new" && mv -- "$2.new" "$2" && shift 2 && exec "$@"'

# launch NAME: starts the component from its NAME.args, in a session of its own, so that it outlives the terminal. It
# inherits nothing: neither make's pipes, which would keep a CI job waiting, nor locks, which would outlive us. What runs
# in the node's namespaces enters them first; the machine's own /proc is kept in there. What that makes, pods must read.
launch() {
  local name=$1 argv i enter=() mask=077 proc=/proc
  if [[ $name == containerd || $name == kubelet ]]; then
    enter=(nsenter --target "$(pid_of node)" --mount --pid --) mask=022 proc=$STATE/node/proc
  fi
  LAUNCHING=$name # whoever is interrupted must wait for its pid file, or it would escape
  mapfile -d '' -t argv <"$RUN/$name.args"
  rm -f -- "$RUN/$name.pid"
  (
    cd -- "$STATE" || exit
    for fd in /proc/self/fd/*; do
      fd=${fd##*/}
      if ((fd > 2)); then eval "exec $fd>&-"; fi
    done
    exec setsid "${enter[@]}" bash -c "$BECOME" graphtoken-cluster "$mask" "$proc" "$RUN/$name.pid" "${argv[@]}"
  ) </dev/null >>"$LOG/$name.log" 2>&1 &
  disown
  for ((i = 0; i < 500; i++)); do
    if [[ -e $RUN/$name.pid ]]; then
      LAUNCHING=''
      return
    fi
    sleep 0.01
  done
  LAUNCHING=''
  die "$name could not be started." "Read $LOG/$name.log"
}

# signal SIGNAL NAME: only ever to a pid that has just been found to be ours.
signal() {
  local pid
  pid=$(pid_of "$2") || return 0
  kill -s "$1" "$pid" 2>/dev/null || true
}

# await_end NAME SECONDS: status 1 when it still lives then.
await_end() {
  local i
  for ((i = 0; i < $2 * 20; i++)); do
    pid_of "$1" >/dev/null || return 0
    sleep 0.05
  done
  ! pid_of "$1" >/dev/null
}

# stop_component NAME SECONDS: asks, then insists. A paused process gets its SIGTERM only when it goes on.
stop_component() {
  signal TERM "$1"
  signal CONT "$1"
  if ! await_end "$1" "$2"; then
    say "$1 did not stop within $2 s; killing it"
    signal KILL "$1"
    await_end "$1" 10 || die "$1 (pid $(pid_of "$1")) cannot be killed." "See why with: ps -o pid,stat,wchan,cmd -p $(pid_of "$1")"
  fi
  rm -f -- "$RUN/$1.pid"
}

# stop_all: everything with a pid file: the node first, etcd last so that the others can say goodbye to it.
stop_all() {
  local file names=() name
  if [[ -e $RUN/node.pid || -e $STATE/node ]]; then
    # It sources this file, where that was not done: checkers of scripts go round in circles.
    # shellcheck source=/dev/null
    source "$ROOT/hack/node/lib.sh"
    stop_node
  fi
  for file in "$RUN"/*.pid; do
    name=$(basename -- "$file" .pid)
    [[ ! -e $file || $name == etcd ]] || names+=("$name")
  done
  for name in "${names[@]}"; do
    signal TERM "$name"
    signal CONT "$name"
  done
  for name in "${names[@]}" etcd; do
    [[ ! -e $RUN/$name.pid ]] || stop_component "$name" 10
  done
}

# undo_start: for EXIT. Whatever goes wrong, by an error or by Ctrl-C: nothing that is not whole stays behind but its logs.
undo_start() {
  local status=$? i undo=$UNDO
  UNDO=''
  if [[ -n $undo ]]; then
    for ((i = 0; i < 100; i++)); do
      if [[ -z $LAUNCHING || -e $RUN/$LAUNCHING.pid ]]; then break; fi
      sleep 0.02
    done
    "$undo" || true
  fi
  exit "$status"
}

# die_of NAME WHAT NEXT...: the end of its log tells more than we could.
die_of() {
  local name=$1 what=$2
  shift 2
  printf -- '---- the last lines of %s\n' "$LOG/$name.log" >&2
  tail -n 20 -- "$LOG/$name.log" | cut -c1-400 >&2 || true
  printf -- '----\n' >&2
  die "$name $what." "$@" "All logs: $LOG"
}

# remove_state: never follows a mount that something left in there.
remove_state() {
  rm -rf --one-file-system -- "$STATE" || die "$STATE could not be removed whole." "See above why; remove what is left by hand."
}

# api PATH: a GET as admin; curl rather than kubectl, since it is polled. A proxy has no part in talk on loopback.
api() {
  curl -sf --noproxy '*' --max-time 5 --cacert "$PKI/ca.crt" --cert "$PKI/admin.crt" --key "$PKI/admin.key" \
    "https://127.0.0.1:$(<"$RUN/port")$1"
}

# send METHOD PATH CONTENT-TYPE BODY: as admin.
send() {
  curl -sf --noproxy '*' --max-time 10 --cacert "$PKI/ca.crt" --cert "$PKI/admin.crt" --key "$PKI/admin.key" \
    -X "$1" -H "Content-Type: $3" --data-binary "$4" "https://127.0.0.1:$(<"$RUN/port")$2" >/dev/null
}

# answers NAME: whether the component does its work, as far as can be asked.
answers() {
  case $1 in
    etcd) # /health needs a quorum and commits to the log
      curl -sf --noproxy '*' --max-time 5 --cacert "$PKI/ca.crt" --cert "$PKI/admin.crt" --key "$PKI/admin.key" \
        "https://127.0.0.1:$(<"$RUN/etcd-port")/health" >/dev/null ;;
    kube-apiserver) api /readyz >/dev/null ;;
    kubelet) curl -sf --noproxy '*' --max-time 5 "http://127.0.0.1:$(<"$RUN/kubelet-port")/healthz" >/dev/null ;;
    containerd) nsenter --target "$(pid_of node)" --mount -- ctr --connect-timeout 2s version >/dev/null ;;
    *) pid_of "$1" >/dev/null ;;
  esac
}

# await_answer NAME SECONDS: status 1 when the component ended or the time did.
await_answer() {
  local deadline=$((SECONDS + $2))
  until answers "$1" 2>/dev/null; do
    if ! pid_of "$1" >/dev/null || ((SECONDS >= deadline)); then return 1; fi
    sleep 0.1
  done
}

# quoted PATH: as one word of any POSIX shell.
quoted() {
  if [[ $1 == *[!A-Za-z0-9_./+-]* ]]; then
    printf "'%s'" "${1//\'/\'\\\'\'}"
  else
    printf '%s' "$1"
  fi
}
