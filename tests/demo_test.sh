#!/usr/bin/env bash
# Tests `make demo` in this checkout: what it shows, what it refuses, and that nothing stays behind, however it ends.
# A cluster that is up already is used and left up, in which case the namespace graphtoken-demo must be gone at the end.
# Usage: tests/demo_test.sh

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib/check.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib/check.sh"
cd -- "$ROOT"
RUN=$ROOT/.demo/run
DEMO='' # the process group of one that runs

cleanup() {
  if [[ -n $DEMO ]]; then
    kill -s TERM "$DEMO" 2>/dev/null || true
    wait "$DEMO" 2>/dev/null || true
  fi
  if [[ -e $RUN/kept ]]; then hack/demo/down.sh >&2 || true; fi
}


# ---- a demo, and what it may leave ------------------------------------------------------------------------------------

# start NAME VARIABLE=VALUE...: `make demo` in a group of its own, as a terminal starts it; output to $T/NAME.
start() {
  local name=$1
  shift
  : >"$T/$name"
  # A shell's background processes ignore SIGINT unless told otherwise.
  setsid env --default-signal=INT "$@" make -s demo </dev/null >"$T/$name" 2>&1 &
  DEMO=$!
}
# finish: waits for its end; sets STATUS.
finish() {
  STATUS=0
  wait "$DEMO" || STATUS=$?
  DEMO=''
}
# at_first_row NAME: waits until the table has begun, after a build if need be; status 1 when the demo ended before.
at_first_row() {
  until grep -qE '^  [0-9:]{8}  True ' "$T/$1"; do
    lives "$DEMO" || return 1
    sleep 0.1
  done
}
# remember_processes: what the demo runs at this moment.
remember_processes() { cut -d' ' -f1 "$RUN"/*.pid >"$T/pids" || true; }

processes_are_gone() {
  local pid
  [[ -s $T/pids ]]
  while read -r pid; do
    if lives "$pid"; then ps -o pid,args -p "$pid" && return 1; fi
  done <"$T/pids"
  # Whatever was started with something of the demo's, remembered or not.
  if grep -lsF -- "$ROOT/.demo/" /proc/[0-9]*/cmdline; then return 1; fi
}
cluster() { if [[ -e .cluster ]]; then echo up; fi; }
cluster_is_as_before() {
  equals "$(cluster)" "$CLUSTER"
  [[ -n $CLUSTER ]] || return 0
  export KUBECONFIG=.cluster/kubeconfig PATH=$ROOT/.cluster/bin:$PATH
  kubectl get --raw /readyz
  equals "$(kubectl get namespace graphtoken-demo --ignore-not-found -o name)" ''
}
nothing_is_left() {
  processes_are_gone
  [[ ! -e .demo ]]
  cluster_is_as_before
}

# ---- behaviours ------------------------------------------------------------------------------------------------------

it_ends_well() { equals "$STATUS" 0 && shows "$T/whole" '^Done in [0-9]+ s'; }
it_shows_a_token_and_three_refreshes() {
  local count fingerprints
  for count in 1 2 3 4; do
    shows "$T/whole" "^  [0-9:]{8}  True  +$count +[0-9]+ s  [0-9a-f]{12}  [0-9]+$"
  done
  fingerprints=$(grep -oP '^  [0-9:]{8}  True .* \K[0-9a-f]{12}(?=  )' "$T/whole" | sort -u | wc -l)
  equals "$fingerprints" 4
}
it_shows_the_graphtoken_that_it_applies() {
  shows "$T/whole" '\| kind: GraphToken$'
  shows "$T/whole" '\|     token: http://127\.0\.0\.1:[0-9]+/.*/oauth2/v2\.0/token$'
}
it_shows_a_deleted_secret_come_back() {
  shows "$T/whole" 'came back within [0-9.]+ s, with the same token; the simulator was asked nothing'
}
it_shows_python_o365_using_the_file() { shows "$T/whole" 'GET /v1.0/me was answered with 200, for etl@contoso.com'; }
it_shows_the_token_tried() { shows "$T/whole" 'condition Verified is True, Accepted'; }
it_says_what_to_try_next() { shows "$T/whole" 'make demo KEEP=1'; }
no_token_and_no_colour_is_printed() {
  local file
  for file in whole interrupted kept; do
    if grep -nE 'Sim(Access|Refresh)\.|[A-Za-z0-9_-]{100}|'$'\e' "$T/$file"; then return 1; fi
  done
}
the_seed_is_in_no_process_arguments() { equals "$(<"$T/seed-seen")" ''; }
ctrl_c_says_so_and_fails() {
  ((STATUS != 0))
  shows "$T/interrupted" 'did not finish:.* It was interrupted'
}
it_stays_when_kept() {
  equals "$STATUS" 0
  shows "$T/kept" 'To end it: hack/demo/down.sh'
  local pid
  while read -r pid; do lives "$pid"; done <"$T/pids"
  # shellcheck source=/dev/null
  source "$RUN/cluster.env"
  kubectl -n graphtoken-demo wait --for=condition=Ready --timeout=5s graphtoken/mail-etl
}
another_one_is_refused_while_it_stays() {
  if make -s demo >"$T/refused" 2>&1; then return 1; fi
  shows "$T/refused" 'was left running'
  shows "$T/refused" 'next:.*hack/demo/down.sh'
  local pid
  while read -r pid; do lives "$pid"; done <"$T/pids"
}
down_ends_it_and_down_again_is_fine() {
  hack/demo/down.sh
  nothing_is_left
  hack/demo/down.sh
}

if [[ -e .demo/run ]]; then
  echo "A demo of this checkout runs, or was left running. End it first: hack/demo/down.sh" >&2
  exit 1
fi
rm -rf .demo
CLUSTER=$(cluster)

start whole
if at_first_row whole; then remember_processes; fi
finish
for behaviour in it_ends_well it_shows_the_graphtoken_that_it_applies it_shows_a_token_and_three_refreshes \
  it_shows_a_deleted_secret_come_back it_shows_python_o365_using_the_file it_shows_the_token_tried it_says_what_to_try_next nothing_is_left; do
  check "demo: ${behaviour//_/ }" "$behaviour"
done

start interrupted
if at_first_row interrupted; then
  remember_processes
  grep -lsFf "$RUN/seed" /proc/[0-9]*/cmdline >"$T/seed-seen" || true
  kill -s INT -- "-$DEMO"
fi
finish
for behaviour in ctrl_c_says_so_and_fails nothing_is_left; do check "Ctrl-C: ${behaviour//_/ }" "$behaviour"; done

start kept KEEP=1 DEMO_REFRESHES=0
finish
if [[ -e $RUN ]]; then remember_processes; fi
for behaviour in it_stays_when_kept another_one_is_refused_while_it_stays down_ends_it_and_down_again_is_fine; do
  check "KEEP=1: ${behaviour//_/ }" "$behaviour"
done
for behaviour in no_token_and_no_colour_is_printed the_seed_is_in_no_process_arguments; do
  check "all: ${behaviour//_/ }" "$behaviour"
done

conclude
