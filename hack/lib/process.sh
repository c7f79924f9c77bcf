# shellcheck shell=bash
# Processes that a script starts and must not lose. Each gets a session, and so a process group, of its own: Ctrl-C then
# reaches the script alone, which ends them in its order, each with all that it started. One that is to outlive the script
# is recorded as "PID START-TIME"; the start time tells it from a later process that was given the same pid.
# Linux only (/proc). Sourced, never run.

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

# close_inherited: all but stdin, stdout and stderr: make's pipes would keep a CI job waiting, and locks would outlive us.
close_inherited() {
  local fd
  for fd in /proc/self/fd/*; do
    fd=${fd##*/}
    if ((fd > 2)); then eval "exec $fd>&-"; fi
  done
}

# begin RECORD LOG COMMAND...: starts a service. It survives the terminal, and the script if that lets it.
begin() {
  local record=$1 log=$2 pid i
  shift 2
  (
    trap '' HUP
    close_inherited
    pid=$BASHPID # inside $( ) it would be another one
    if ! printf '%s %s\n' "$pid" "$(process_start "$pid")" >"$record.new"; then exit 1; fi
    mv -- "$record.new" "$record" || exit 1
    exec setsid "$@"
  ) </dev/null >"$log" 2>&1 &
  pid=$!
  for ((i = 0; i < 500; i++)); do
    if [[ -e $record ]]; then
      disown "$pid" # known by its record from here on; bash is not to comment on its end
      return 0
    fi
    sleep 0.01
  done
  return 1
}

# attend COMMAND...: runs it and waits, in a way that a signal to the script interrupts. Its status is the command's.
attend() {
  (
    close_inherited
    exec setsid "$@"
  ) </dev/null &
  wait "$!"
}

# pid_of RECORD: prints the pid while the process lives and is the one that was recorded.
pid_of() {
  local pid started
  { read -r pid started <"$1"; } 2>/dev/null || return 1
  [[ $(process_start "$pid") == "$started" ]] || return 1
  printf '%s' "$pid"
}

# end_group PID SECONDS: asks the process and all of its group to end, then insists.
end_group() {
  local i
  # Between its start and its setsid a process has no group of its own yet.
  kill -s TERM -- "-$1" 2>/dev/null || kill -s TERM "$1" 2>/dev/null || return 0
  for ((i = 0; i < $2 * 20; i++)); do
    process_start "$1" >/dev/null || return 0
    sleep 0.05
  done
  kill -s KILL -- "-$1" 2>/dev/null || true
}

# end_recorded RECORD SECONDS: fine too when it has ended already.
end_recorded() {
  local pid
  if pid=$(pid_of "$1"); then end_group "$pid" "$2"; fi
  rm -f -- "$1"
}

# end_jobs SECONDS: whatever this shell has started in the background, has no record, and still runs.
end_jobs() {
  local pid
  for pid in $(jobs -pr); do end_group "$pid" "$1"; done
}
