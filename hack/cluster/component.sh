#!/usr/bin/env bash
# Makes one component of the running cluster fail, and brings it back, for tests and for the curious:
#   stop    pauses it: connections stay open and nobody answers     cont   lets it go on
#   kill    ends it as a crash would: connections are refused       start  starts it with its former arguments and data
# `cont` and `start` return when it answers again.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

action=${1:-} name=${2:-}
# Those of a node, where there is one.
KNOWN=("${COMPONENTS[@]}" kube-scheduler containerd kubelet)
usage="component.sh stop|cont|kill|start $(IFS='|' && printf '%s' "${KNOWN[*]}")"
[[ $action =~ ^(stop|cont|kill|start)$ && " ${KNOWN[*]} " == *" ${name:-?} "* ]] ||
  die "Not understood: $*" "Usage: $usage"
[[ -e $RUN/$name.args ]] || die "This checkout has no $name." "Run: make cluster-up, or make node-up"
if [[ $action != start ]]; then pid_of "$name" >/dev/null || die "$name does not run." "Run: hack/cluster/component.sh start $name"; fi

case $action in
  stop) signal STOP "$name" ;;
  cont) signal CONT "$name" ;;
  kill)
    signal KILL "$name"
    await_end "$name" 10 || die "$name (pid $(pid_of "$name")) cannot be killed." "See: ps -o pid,stat,wchan -p $(pid_of "$name")"
    ;;
  start) if ! pid_of "$name" >/dev/null; then launch "$name"; fi ;;
esac
if [[ $action == cont || $action == start ]]; then
  await_answer "$name" "${CLUSTER_START_TIMEOUT:-120}" || die "$name does not answer." "Read $LOG/$name.log"
fi
