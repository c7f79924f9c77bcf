# shellcheck shell=bash
# shellcheck disable=SC2034  # what is set here is read by run.sh and show.sh
# What must stand before there is anything to see: programs, a control plane with the CRD and a namespace, the simulator,
# the operator. All that is made is marked in .demo/run as soon as it is there, or before. Sourced by run.sh.

check_prerequisites() {
  local entry missing=() python
  [[ $(uname -s) == Linux ]] ||
    die "The demo runs on Linux only; this is $(uname -s)." "Use a Linux machine or a Linux virtual machine."
  [[ $REFRESHES =~ ^[0-9]{1,3}$ ]] ||
    die "DEMO_REFRESHES is to be a number from 0 to 999, not '$REFRESHES'." "Leave it away: make demo"
  for entry in 'cargo|Rust 1.95 or newer, by rustup' 'cc|a C compiler (Debian: build-essential)' 'make|make' \
    'openssl|openssl' 'curl|curl' 'flock|util-linux' 'setsid|util-linux' 'awk|gawk' 'tar|tar' \
    'sha256sum|coreutils' 'base64|coreutils' 'date|coreutils'; do
    command -v "${entry%%|*}" >/dev/null || missing+=("Install ${entry#*|}: there is no ${entry%%|*}.")
  done
  if ! python=$(hack/python/venv.sh --check 2>&1); then
    missing+=("$(sed -n 's/^venv: error: //p' <<<"$python") $(sed -n 's/^venv:   next: //p' <<<"$python")")
  fi
  ((${#missing[@]} == 0)) || die "The demo needs what this machine does not have." "${missing[@]}"
}

# claim: no other demo of this checkout, and nothing of one that was killed.
claim() {
  if ! lock_demo; then
    die "Another demo of this checkout runs at this moment." "Wait for its end, or end it with Ctrl-C where it runs."
  fi
  if is_kept; then
    die "A demo of this checkout was left running (KEEP=1)." "Look around in it: source .demo/run/cluster.env" \
      "Or end it, and start again: hack/demo/down.sh && make demo"
  fi
  if [[ -e $RUN ]]; then
    heading "Removing what an earlier demo left, which was killed"
    take_down
  fi
  rm -rf --one-file-system -- "$DEMO"
  mkdir -- "$DEMO"
  OURS=1
  printf '*\n' >"$DEMO/.gitignore"
  mkdir -m 0700 -- "$RUN"
}

build() {
  heading "[1/7] Building the operator and the simulator (some minutes, the first time)"
  attend cargo build --locked -p graphtoken -p entra-simulator ||
    die "cargo could not build: see above." "If its last lines name a missing tool, install that; then run this again."
  BIN=$(cargo metadata --locked --no-deps --format-version 1 | member target_directory)/debug
  # Needed at the end only; made now, so that the rest goes without a pause.
  attend hack/python/venv.sh >"$RUN/venv.path" ||
    die "python-o365 could not be installed: see above." "Do as is said above, then run this again."
  VENV=$(<"$RUN/venv.path")
}

bring_up_cluster() {
  heading "[2/7] A real Kubernetes control plane, with the CRD"
  if [[ ! -e .cluster ]]; then : >"$RUN/cluster-coming"; fi
  local said said_pid status=0
  exec {said}> >(tee "$RUN/cluster.said" | quote)
  said_pid=$!
  attend make -s cluster-up >"$RUN/cluster.out" 2>&"$said" || status=$?
  exec {said}>&-
  wait "$said_pid" || true # until all of it is there
  if ((status != 0)); then
    rm -f -- "$RUN/cluster-coming" # its logs stay to be read
    die "The control plane did not come up: see above." "Follow what is said above, then run this again."
  fi
  tail -n 1 -- "$RUN/cluster.out" >"$RUN/cluster.env"
  cluster_id >"$RUN/cluster.id"
  if ! grep -q 'already up' "$RUN/cluster.said"; then : >"$RUN/cluster-made"; fi
  rm -f -- "$RUN/cluster-coming"
  enter_cluster || die "The control plane does not answer." "See .cluster/log, or begin anew: make cluster-down demo"

  if ! kubectl get customresourcedefinition "$CRD" >/dev/null 2>&1; then : >"$RUN/crd-made"; fi
  kubectl apply --server-side --force-conflicts --field-manager=graphtoken-make-demo -f crds/ | quote
  # Not `kubectl wait`: it fails at once on a CRD so new that it has no conditions yet.
  await 30 crd_is_served || die "The API server does not serve the CRD within 30 s." "See .cluster/log/kube-apiserver.log"
  make_namespace
}

crd_is_served() { kubectl get graphtokens --all-namespaces -o name >/dev/null 2>&1; }

make_namespace() {
  if kubectl get namespace "$NAMESPACE" >/dev/null 2>&1; then
    namespace_is_ours || die "The namespace $NAMESPACE is there, and no demo made it." \
      "Delete it if you can do without it: kubectl delete namespace $NAMESPACE"
    say "removing the namespace $NAMESPACE, which an earlier demo left"
    delete_namespace
  fi
  # With its label from its first moment: without, nobody would dare to remove it.
  kubectl create namespace "$NAMESPACE" --dry-run=client -o yaml |
    kubectl label --local -f - -o yaml "$LABEL" | kubectl create -f - | quote
}

start_services() {
  heading "[3/7] The simulator of Entra ID and Graph, and the operator"
  SERVING=1
  printf 'SimRefresh.%s' "$(openssl rand -hex 48)" >"$RUN/seed"
  begin "$RUN/simulator.pid" "$RUN/simulator.log" \
    "$BIN/entra-simulator" --token-lifetime "$TOKEN_LIFE" --seed-file "$RUN/seed"
  await 20 grep -q token_endpoint "$RUN/simulator.log" ||
    die "The simulator did not start." "Read its log: .demo/failed/simulator.log"
  SIMULATOR=$(member url <"$RUN/simulator.log")
  TENANT=$(member tenant_id <"$RUN/simulator.log") TOKEN_URL=$(member token_endpoint <"$RUN/simulator.log")
  say "simulator: $SIMULATOR, pid $(pid_of "$RUN/simulator.pid"); its tokens live $TOKEN_LIFE s"

  # The Lease is in our namespace: another operator of this cluster may hold the one elsewhere.
  RUST_LOG=info NO_COLOR=1 begin "$RUN/operator.pid" "$RUN/operator.log" \
    "$BIN/graphtoken" run --namespace "$NAMESPACE" --lease-namespace "$NAMESPACE" --listen 127.0.0.1:0 \
    --allowed-endpoint-host 127.0.0.1 --allow-http-endpoints
  # Written to the log, since the port is a free one that the kernel chose.
  await 30 grep -q ' address=' "$RUN/operator.log" || die "The operator did not start." "$READ_LOG"
  OPERATOR=http://$(sed -n 's/.* address=\([0-9.:]*\).*/\1/p' "$RUN/operator.log" | head -n 1)
  await 30 loopback -o /dev/null "$OPERATOR/readyz" || die "The operator did not get ready within 30 s." "$READ_LOG"
  say "operator: pid $(pid_of "$RUN/operator.pid"), metrics at $OPERATOR/metrics, log in .demo/run/operator.log"
}
