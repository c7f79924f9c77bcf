# shellcheck shell=bash
# shellcheck disable=SC2034  # what is set here is read by the scripts that source this
# What the cluster scripts share: where things lie, how they speak, and how a component is started, found and ended.
# A component is known by the files NAME.args (NUL-separated command line) and NAME.pid ("PID START-TIME") in
# .cluster/run. The start time tells our process from a later one that was given the same pid. Sourced, never run.

HERE=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
ROOT=$(cd -- "$HERE/../.." && pwd -P)
STATE=$ROOT/.cluster
RUN=$STATE/run LOG=$STATE/log PKI=$STATE/pki BIN=$STATE/bin
# In the order of their start.
COMPONENTS=(etcd kube-apiserver kube-controller-manager)
LAUNCHING=''

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
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
  # The name in parentheses may itself hold spaces; what follows the last ") " starts with field 3.
  read -ra fields <<<"${stat##*) }"
  [[ ${fields[0]} != [ZX] ]] || return 1
  printf '%s' "${fields[19]}"
}

# pid_of NAME: prints the component's pid while it lives and is ours.
pid_of() {
  local pid started
  { read -r pid started <"$RUN/$1.pid"; } 2>/dev/null || return 1
  [[ $(process_start "$pid") == "$started" ]] || return 1
  # Also by its command line: pids and start times begin anew when the machine does.
  tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$STATE/" || return 1
  printf '%s' "$pid"
}

# The shell that becomes the component writes its own pid first, so that no process ever runs unrecorded. It closes
# what it inherited: make's pipes, which would keep a CI job waiting, and locks, which would outlive us.
# shellcheck disable=SC2016  # expanded by that shell, not by this one
readonly BECOME='
  umask 077
  for fd in /proc/$$/fd/*; do fd=${fd##*/}; if ((fd > 2)); then eval "exec $fd>&-"; fi; done
  stat=$(<"/proc/$$/stat") && read -ra fields <<<"${stat##*) }"
  echo "$$ ${fields[19]}" >"$1.new" && mv -- "$1.new" "$1" && shift && exec "$@"'

# launch NAME: starts the component from its NAME.args, in a session of its own, so that it outlives the terminal.
launch() {
  local name=$1 argv i
  LAUNCHING=$name # whoever is interrupted must wait for its pid file, or it would escape
  mapfile -d '' -t argv <"$RUN/$name.args"
  rm -f -- "$RUN/$name.pid"
  (cd -- "$STATE" && exec setsid bash -c "$BECOME" graphtoken-cluster "$RUN/$name.pid" "${argv[@]}") \
    </dev/null >>"$LOG/$name.log" 2>&1 &
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

# stop_all: everything with a pid file, etcd last so that the others can say goodbye to it.
stop_all() {
  local file names=() name
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

# remove_state: never follows a mount that something left in there.
remove_state() {
  rm -rf --one-file-system -- "$STATE" || die "$STATE could not be removed whole." "See above why; remove what is left by hand."
}

# api PATH: a GET as admin; curl rather than kubectl, since it is polled. A proxy has no part in talk on loopback.
api() {
  curl -sf --noproxy '*' --max-time 5 --cacert "$PKI/ca.crt" --cert "$PKI/admin.crt" --key "$PKI/admin.key" \
    "https://127.0.0.1:$(<"$RUN/port")$1"
}

# answers NAME: whether the component does its work, as far as can be asked.
answers() {
  case $1 in
    etcd) # /health needs a quorum and commits to the log
      curl -sf --noproxy '*' --max-time 5 --cacert "$PKI/ca.crt" --cert "$PKI/admin.crt" --key "$PKI/admin.key" \
        "https://127.0.0.1:$(<"$RUN/etcd-port")/health" >/dev/null ;;
    kube-apiserver) api /readyz >/dev/null ;;
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
