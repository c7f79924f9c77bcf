# shellcheck shell=bash
# shellcheck disable=SC2034  # what is set here is read by the scripts that source this
# What the node's scripts share, on top of the cluster's lib.sh: where its things lie, and how it is ended. The node is
# four components: kube-scheduler; "node", which holds the namespaces (see inside.sh); and in them containerd and kubelet.
# Sourced, never run.

# shellcheck source-path=SCRIPTDIR source=../cluster/lib.sh
if [[ ! -v STATE ]]; then source "$(dirname -- "${BASH_SOURCE[0]}")/../cluster/lib.sh"; fi

NODE_SCRIPTS=$ROOT/hack/node
NODE=$STATE/node
NODE_NAME=local
NODE_COMPONENTS=(kube-scheduler node containerd kubelet)
# Containers and checkouts of one machine share its cgroups: the folder's name tells whose they are.
CGROUP=graphtoken-node-$(printf '%s' "$STATE" | sha256sum | cut -c1-12)
CACHES=${XDG_CACHE_HOME:-$HOME/.cache}/graphtoken-operator
PAUSE_IMAGE=graphtoken.test/pause:local

# in_node COMMAND...: with the node's view of the file system.
in_node() { nsenter --target "$(pid_of node)" --mount -- "$@"; }
ctr() { in_node ctr --namespace k8s.io --connect-timeout 5s "$@"; }

# node_is_ready: as the API server sees it, and open to pods.
node_is_ready() {
  local node
  node=$(api "/api/v1/nodes/$NODE_NAME?pretty=false") || return 1
  [[ $node == *'"type":"Ready","status":"True"'* && $node != *'"key":"node.kubernetes.io/not-ready"'* ]]
}

# make_cgroups: kubelet wants the one for its pods to be there, in each hierarchy.
make_cgroups() {
  local folder controller
  if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
    for controller in $(</sys/fs/cgroup/cgroup.controllers); do
      echo "+$controller" 2>/dev/null >/sys/fs/cgroup/cgroup.subtree_control || true
    done
    mkdir -p -- "/sys/fs/cgroup/$CGROUP"
  else
    for folder in /sys/fs/cgroup/*/; do
      if [[ -e $folder/cgroup.procs ]]; then mkdir -p -- "$folder$CGROUP"; fi
    done
  fi
}

# cgroup_folders: ours, of every hierarchy (one with cgroup v2).
cgroup_folders() {
  local folder
  for folder in "/sys/fs/cgroup/$CGROUP" /sys/fs/cgroup/*/"$CGROUP"; do
    if [[ -d $folder ]]; then printf '%s\n' "$folder"; fi
  done
}

# in_pods: the pids of all processes in our cgroups.
in_pods() {
  local folder
  cgroup_folders | while IFS= read -r folder; do
    find "$folder" -name cgroup.procs -exec cat {} + 2>/dev/null || true
  done | sort -un
}

# end_pods SECONDS: as kubelet would: each container's first process is asked to end. Who does not ends with the node.
end_pods() {
  local pid namespaces i
  for pid in $(in_pods); do
    namespaces=$(awk '$1 == "NSpid:" {print $NF}' "/proc/$pid/status" 2>/dev/null) || true
    if [[ $namespaces == 1 ]]; then kill -s TERM "$pid" 2>/dev/null || true; fi
  done
  for ((i = 0; i < $1 * 10; i++)); do
    [[ -n $(in_pods) ]] || return 0
    sleep 0.1
  done
  say "$(in_pods | wc -l) processes of pods did not end within $1 s; killing them"
}

remove_cgroups() {
  local i folder
  for ((i = 0; i < 100; i++)); do
    cgroup_folders | while IFS= read -r folder; do find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || true; done
    [[ -n $(cgroup_folders) ]] || return 0
    sleep 0.05
  done
  say "note: these cgroups could not be removed: $(cgroup_folders | tr '\n' ' ')"
}

# stop_node: kubelet first, or it would start what we end; at last the namespaces, and with them whatever is left.
stop_node() {
  local name
  for name in kube-scheduler kubelet; do
    signal TERM "$name"
    signal CONT "$name"
  done
  for name in kube-scheduler kubelet; do stop_component "$name" 5; done
  end_pods "${NODE_POD_GRACE:-3}"
  stop_component node 3
  await_end containerd 10 || die "containerd (pid $(pid_of containerd)) outlived its namespace." "See: ps -o pid,stat,wchan,cmd -p $(pid_of containerd)"
  remove_cgroups
  for name in "${NODE_COMPONENTS[@]}"; do rm -f -- "$RUN/$name.pid" "$RUN/$name.args"; done
  rm -rf --one-file-system -- "$NODE" || die "$NODE could not be removed whole." "See above why; remove what is left by hand."
}

# forget_node: in the API. What belongs to a Deployment or the like is made anew, and waits for the next node.
forget_node() {
  api "/api/v1/nodes/$NODE_NAME" >/dev/null || { api /readyz >/dev/null && return; }
  send DELETE "/api/v1/nodes/$NODE_NAME" application/json '{}' &&
    timeout 20 "$BIN/kubectl" --kubeconfig="$STATE/kubeconfig" --cache-dir="$STATE/kubectl-cache" --request-timeout=5s \
      delete pods --all-namespaces --field-selector="spec.nodeName=$NODE_NAME" --grace-period=0 --force --wait=false >/dev/null 2>&1
}
