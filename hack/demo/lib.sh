# shellcheck shell=bash
# shellcheck disable=SC2034  # what is set here is read by the scripts that source this
# What run.sh and down.sh share: where a demo keeps what it must remember, and how all of it is taken down, be it after a
# normal end, after a failure, or after a run that was killed. Sourced, never run.

HERE=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
ROOT=$(cd -- "$HERE/../.." && pwd -P)
# .demo/run: records of processes, logs, the seed, marks of what the demo made. .demo/failed: the last failure's logs.
DEMO=$ROOT/.demo
RUN=$DEMO/run FAILED=$DEMO/failed
NAMESPACE=graphtoken-demo NAME=mail-etl
LABEL=app.kubernetes.io/managed-by=graphtoken-make-demo
CRD=graphtokens.graphtoken.io
PYTHON=${PYTHON:-python3}
SAY_NAME=demo
READ_LOG="Read the operator's log: its end is below, all of it in .demo/failed/operator.log"

# shellcheck source-path=SCRIPTDIR source=../lib/say.sh
source "$ROOT/hack/lib/say.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/process.sh
source "$ROOT/hack/lib/process.sh"

# The cluster scripts below us are no part of the make that may have started us, nor of its job slots.
unset MAKEFLAGS MFLAGS MAKELEVEL

# lock_demo: one at a time in a checkout; status 1 when another one runs. On the folder, for a file would have to stay.
lock_demo() {
  exec {LOCK}<"$HERE"
  flock -n "$LOCK"
}

# is_kept: whether a demo was left running and still does.
is_kept() {
  [[ -e $RUN/kept ]] || return 1
  pid_of "$RUN/operator.pid" >/dev/null || pid_of "$RUN/simulator.pid" >/dev/null
}

# cluster_id: tells this checkout's cluster from one that came later; the kubeconfig holds the keys of one cluster alone.
cluster_id() { sha256sum 2>/dev/null <"$ROOT/.cluster/kubeconfig" | cut -d' ' -f1; }

is_same_cluster() { [[ -e $RUN/cluster.id && $(<"$RUN/cluster.id") == "$(cluster_id)" ]]; }

# enter_cluster: KUBECONFIG and PATH as `make cluster-up` said; status 1 when that cluster is gone.
enter_cluster() {
  if ! is_same_cluster || [[ ! -e $RUN/cluster.env ]]; then return 1; fi
  eval "$(<"$RUN/cluster.env")"
  export KUBECACHEDIR=$RUN/kubectl-cache
  kubectl get --raw /readyz --request-timeout=5s >/dev/null 2>&1
}

# namespace_is_ours: whether it is there, and a demo made it.
namespace_is_ours() {
  [[ -n $(kubectl get namespace --selector "$LABEL" --field-selector "metadata.name=$NAMESPACE" -o name) ]]
}

delete_namespace() { kubectl delete namespace "$NAMESPACE" --ignore-not-found --timeout=60s >/dev/null; }

# empty_cluster: what a demo made in a cluster that stays.
empty_cluster() {
  local status=0
  if namespace_is_ours; then
    say "the namespace $NAMESPACE, with all that is in it"
    delete_namespace || status=1
  fi
  # The CRD would take others' GraphTokens along.
  if [[ -e $RUN/crd-made && -z $(kubectl get graphtokens --all-namespaces -o name 2>/dev/null) ]]; then
    say "the CRD $CRD"
    kubectl delete customresourcedefinition "$CRD" --ignore-not-found --timeout=60s >/dev/null || status=1
  fi
  return "$status"
}

# take_down: ends and removes all that a demo made; what is gone already is fine. Status 1 when something is left.
take_down() {
  local status=0 name output
  for name in operator simulator; do
    if pid_of "$RUN/$name.pid" >/dev/null; then say "the $name"; fi
    end_recorded "$RUN/$name.pid" 15
  done
  end_jobs 15
  if [[ -e $RUN/cluster-coming ]] || { [[ -e $RUN/cluster-made ]] && is_same_cluster; }; then
    say "the local control plane"
    # Not straight to the user: should nobody read that any more, it would end half-way.
    output=$(make -s -C "$ROOT" cluster-down 2>&1) || status=1
    if ((status != 0)); then printf '%s\n' "$output" >&2; fi
  elif enter_cluster; then
    empty_cluster || status=1
  fi
  if ((status != 0)); then
    complain "Not everything could be removed: see above." "Try again: hack/demo/down.sh"
    return 1
  fi
  # A folder that is read-only, as a mounted Secret is, would stay.
  chmod -R u+w -- "$RUN"
  rm -rf --one-file-system -- "$RUN"
  if [[ ! -e $FAILED ]]; then rm -rf --one-file-system -- "$DEMO"; fi
  [[ ! -e $RUN ]]
}
