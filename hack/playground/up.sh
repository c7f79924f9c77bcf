#!/usr/bin/env bash
# What docs/getting-started.md begins with: a cluster of this checkout with a node, the operator's image in it, Helm and the
# plugin on the PATH, and a simulator in the place of Entra ID and Microsoft Graph. Installs nothing into the cluster: that is
# the reader's. Writes to .playground/:
#   values.yaml    what the chart must be told on this machine
#   client.yaml    the ClusterGraphClient "default", which leads to the simulator
# Its last line is an `export` for eval; everything else goes to stderr. Run again, it brings up what is missing. Needs root
# on Linux, as a node does. Heeds what hack/node/up.sh and hack/image/build.sh do, and PLAYGROUND_PROGRAMS: a folder where
# graphtoken, kubectl-graphtoken and entra-simulator are built already.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
cd -- "$ROOT"

member() { jq -r ".$1" "$PLAYGROUND/simulator.log"; }

# Each user of the machine can reach the simulator; what it hands out is good for nothing else.
start_simulator() {
  local i
  if pid_of "$PLAYGROUND/simulator.pid" >/dev/null; then return; fi
  begin "$PLAYGROUND/simulator.pid" "$PLAYGROUND/simulator.log" "$ENTRA"
  for ((i = 0; i < 200; i++)); do
    if grep -q token_endpoint "$PLAYGROUND/simulator.log"; then return; fi
    pid_of "$PLAYGROUND/simulator.pid" >/dev/null || break
    sleep 0.1
  done
  die "The simulator did not start." "Read .playground/simulator.log"
}

# The node has no network but the machine's own, so neither has a pod; the API server and the simulator are on loopback.
write_values() {
  local port=''
  if [[ -e $PLAYGROUND/values.yaml ]]; then port=$(sed -n 's/^listen: .* port: \([0-9]*\)}$/\1/p' "$PLAYGROUND/values.yaml"); fi
  if [[ -z $port ]]; then port=$(bash -c 'source "$1" && choose_ports 1' - hack/cluster/configure.sh); fi
  cat >"$PLAYGROUND/values.yaml" <<YAML
replicas: 1
hostNetwork: true
listen: {address: 127.0.0.1, port: $port}
extraEnv:
  - {name: KUBERNETES_SERVICE_HOST, value: 127.0.0.1}
  - {name: KUBERNETES_SERVICE_PORT, value: "$(<.cluster/run/port)"}
allowedEndpointHosts: [127.0.0.1]
extraArgs: [--allow-http-endpoints]
YAML
}

write_client() {
  cat >"$PLAYGROUND/client.yaml" <<YAML
apiVersion: graphtoken.io/v1alpha1
kind: ClusterGraphClient
metadata: {name: default}
spec:
  tenant: $(member tenant_id)
  clientId: 11111111-2222-3333-4444-555555555555
  endpoints:
    token: $(member token_endpoint)
    deviceAuthorization: $(member device_authorization_endpoint)
    graph: $(member url)
  allow:
    namespaceSelector: {}
    grants: [deviceCode, refreshToken]
YAML
}

[[ $(uname -s) == Linux && $(id -u) == 0 ]] ||
  die "The playground has pods, and those need root on Linux." "Without: make demo, which needs neither pods nor root."
for program in cargo jq curl; do
  command -v "$program" >/dev/null || die "There is no $program." "Install it: see the first lines of CONTRIBUTING.md."
done
mkdir -p -- "$PLAYGROUND"
printf '*\n' >"$PLAYGROUND/.gitignore"
TARGET=$(cargo metadata --locked --no-deps --format-version 1 | jq -r .target_directory)
version=$(cargo metadata --locked --no-deps --format-version 1 | jq -r '.packages[] | select(.name == "graphtoken").version')

PROGRAMS=${PLAYGROUND_PROGRAMS:-$TARGET/release} ENTRA=${PLAYGROUND_PROGRAMS:-$TARGET/debug}/entra-simulator
if [[ -z ${PLAYGROUND_PROGRAMS:-} ]]; then
  step "building the operator, the plugin and the simulator: some minutes, once"
  make -s build >&2
  cargo build --locked -p entra-simulator >&2
fi
step "a cluster with a node"
line=$(NODE_SYNC_FREQUENCY=${NODE_SYNC_FREQUENCY:-1s} hack/node/up.sh | tail -n 1)
step "the operator's image, and one with curl"
archive=$(BINARY=${BINARY:-$PROGRAMS/graphtoken} hack/image/build.sh | tail -n 1)
# Under the names that the chart and the page use: no registry is asked for what the node has.
hack/node/images.sh import "$archive" "ghcr.io/graphtoken/graphtoken-operator:$version" >&2
hack/node/images.sh clients --tag docker.io/curlimages/curl:8.16.0 >&2
step "Helm, and the simulator"
hack/chart/helm.sh version --short >&2
start_simulator
write_values
write_client
step "ready: see .playground/values.yaml and .playground/client.yaml"
printf '%s SIMULATOR=%q\n' "${line/ PATH=/ PATH=$(printf %q "$PROGRAMS"):}" "$(member url)"
