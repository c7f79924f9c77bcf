#!/usr/bin/env bash
# The main job of the operator, start to finish, on this machine alone: a real control plane, a simulator in the place
# of Microsoft Entra ID and Graph, and the operator as a local process. A token appears in a Secret, is refreshed three
# times, survives the Secret's deletion, and is used by the real python-o365. Then all that was made is removed.
# Heeds: KEEP=1 (leave it running, and say how to look around and how to end it), DEMO_REFRESHES (3; how many to wait
# for), NO_COLOR, cargo's own settings, and what hack/cluster/up.sh and hack/python/venv.sh heed.

set -Eeuo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$HERE/setup.sh"
# shellcheck source-path=SCRIPTDIR source=watch.sh
source "$HERE/watch.sh"
# shellcheck source-path=SCRIPTDIR source=show.sh
source "$HERE/show.sh"
cd -- "$ROOT"

case ${KEEP:-} in '' | 0 | no | false) KEEP='' ;; *) KEEP=1 ;; esac
REFRESHES=${DEMO_REFRESHES:-3}
TOKEN_LIFE=20 # seconds; a token is refreshed when half of it is over
SIGNALS=(INT TERM HUP PIPE)

# ---- the end, whichever it is ----------------------------------------------------------------------------------------

OURS='' SERVING='' KEPT='' WHY='' FAILED_AT=''
# die WHAT NEXT...: the one way in which the demo gives up.
die() {
  WHY=$1
  complain "$@"
  exit 1
}

# show_evidence: what explains a failure, before it is cleaned away. None of it holds a token.
show_evidence() {
  mkdir -p -- "$FAILED"
  cp -- "$RUN"/*.log "$FAILED/"
  k describe graphtoken "$NAME" >"$FAILED/describe.txt" 2>&1
  k get events >"$FAILED/events.txt" 2>&1
  printf '\n  The end of: kubectl describe graphtoken %s\n' "$NAME"
  tail -n 30 -- "$FAILED/describe.txt" | quote
  if [[ ! -e $FAILED/operator.log ]]; then return; fi
  printf "\n  The end of the operator's log\n"
  tail -n 15 -- "$FAILED/operator.log" | quote
}

on_exit() {
  local status=$?
  trap '' "${SIGNALS[@]}" # whoever presses Ctrl-C again would leave half of it behind
  trap - EXIT ERR
  set +e
  exec 1>&"$OUT" 2>&"$ERR" # a signal may have come where they were redirected
  if [[ -n $KEPT ]]; then exit 0; fi
  if ((status != 0)) && [[ -z $WHY ]]; then
    if [[ $status =~ ^(129|130|141|143)$ ]]; then
      WHY='It was interrupted.'
    else
      WHY="Unexpected: $FAILED_AT"
      complain "$WHY"
    fi
  fi
  [[ -n $OURS ]] || exit "$status"
  if ((status == 1)) && [[ -n $SERVING ]]; then show_evidence >&2; fi
  heading "Cleaning up"
  take_down || status=1
  if ((status == 0)); then
    printf '\n%sDone%s in %d s. Nothing is left behind.\n' "$GREEN" "$PLAIN" "$SECONDS"
  else
    printf '\n%sThe demo did not finish:%s %s\n' "$RED" "$PLAIN" "$WHY" >&2
    if [[ -e $FAILED ]]; then printf 'Read on in .demo/failed/\n' >&2; fi
  fi
  exit "$status"
}

# ---- small things ----------------------------------------------------------------------------------------------------

now_ms() { date +%s%3N; }
# seconds MILLISECONDS: for people.
seconds() { printf '%d.%d s' $(($1 / 1000)) $(($1 % 1000 / 100)); }
# member NAME: of the JSON object on stdin.
member() { "$PYTHON" -I -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
k() { kubectl --namespace "$NAMESPACE" --request-timeout=10s "$@"; }
loopback() { curl -sf --noproxy '*' --max-time 5 "$@"; }

# await SECONDS COMMAND...: status 1 when the time is over, or a service of ours has ended.
await() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    if ((SECONDS >= deadline)) || ! services_live; then return 1; fi
    sleep 0.1
  done
}
services_live() {
  local record
  for record in "$RUN"/*.pid; do
    if [[ -e $record ]] && ! pid_of "$record" >/dev/null; then return 1; fi
  done
}

# ---- start to finish -------------------------------------------------------------------------------------------------

exec {OUT}>&1 {ERR}>&2
trap 'FAILED_AT="${BASH_SOURCE[0]##*/} line $LINENO: $BASH_COMMAND"' ERR
trap on_exit EXIT
for signal in "${SIGNALS[@]}"; do
  # shellcheck disable=SC2064  # expanded now on purpose
  trap "exit $((128 + $(kill -l "$signal")))" "$signal"
done

# What the operator must not take from here: its settings, and a proxy for loopback.
for variable in "${!GRAPHTOKEN_@}"; do unset "$variable"; done
export NO_PROXY=127.0.0.1,localhost,${NO_PROXY:-${no_proxy:-}}
export no_proxy=$NO_PROXY

check_prerequisites
claim
build
bring_up_cluster
start_services
apply_graphtoken
watch_refreshes
delete_secret
use_token
summarize
if [[ -n $KEEP ]]; then keep; fi
