#!/usr/bin/env bash
# Tests charts/graphtoken-operator and deploy/: what they are made of, what values they refuse, and, on a real control plane
# and node, the life of a release: install, upgrade, rollback, uninstall, with the operator running from its image and a
# sign-in that a single lost refresh token would end. Everything happens in copies in a temporary folder; the checkout's
# own cluster is not touched.
# Usage: tests/hack/chart_test.sh [--update | --offline]
#   --update: writes tests/chart/*.yaml anew, and nothing else     --offline: only what needs no node

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/check.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/check.sh"
CHART=$ROOT/charts/graphtoken-operator
chmod 755 "$T"
ONE="$T/one"
IMAGE=graphtoken.test/graphtoken-operator:tested
export IMAGE
# Of this test alone: whoever runs it may have others.
SYSTEM=graphtoken-system TENANT_NS=pipelines RELEASE=tokens

cleanup() {
  # Checks run in shells of their own: files tell of what they left running.
  local record
  for record in "$T"/*.pid; do
    if [[ -e $record ]]; then kill "$(<"$record")" 2>/dev/null || true; fi
  done
  if [[ -d $ONE ]]; then "$ONE/hack/cluster/down.sh" >/dev/null 2>&1 || true; fi
}

helm() { "$ROOT/hack/chart/helm.sh" "$@"; }

# ---- without a cluster -----------------------------------------------------------------------------------------------

VALUES=("$ROOT"/tests/chart/*.values.yaml)
render() { helm template "$RELEASE" "$CHART" --namespace "$SYSTEM" --values "$1" --set crds.install=false; }
update() {
  local values
  for values in "${VALUES[@]}"; do render "$values" >"${values%.values.yaml}.yaml"; done
}

lint_has_nothing_to_say() {
  local values
  for values in "${VALUES[@]}"; do helm lint --strict "$CHART" --values "$values" | tee -a "$T/lint"; done
  fails grep -E 'WARNING|ERROR' "$T/lint"
}
manifests_are_as_reviewed() {
  local values
  for values in "${VALUES[@]}"; do diff -u "${values%.values.yaml}.yaml" <(render "$values"); done
}
generated_files_are_up_to_date() { "$ROOT/hack/chart/generate.sh" --check; }
chart_and_crate_have_one_version() {
  [[ $(helm show chart "$CHART" | sed -n 's/^version: //p') == "$(version)" ]]
  [[ $(helm show chart "$CHART" | sed -n 's/^appVersion: //p' | tr -d '"') == "$(version)" ]]
}
every_value_of_the_schema_has_a_default() {
  # As paths; objects whose members are free have none below them.
  # shellcheck disable=SC2016  # jq's
  local paths='def at($p): if .properties then .properties | to_entries[] | .key as $k | .value | at($p + [$k]) else $p | join(".") end; at([])'
  mkdir -p -- "$T/asked/templates"
  cp -- "$CHART/Chart.yaml" "$CHART/values.yaml" "$T/asked/"
  echo '{{ toJson .Values }}' >"$T/asked/templates/values.yaml"
  helm template x "$T/asked" | grep -v '^[-#]' >"$T/values.json"
  jq -r "$paths" "$CHART/values.schema.json" | grep -vx global >"$T/known"
  (($(wc -l <"$T/known") > 60))
  # shellcheck disable=SC2016  # jq's
  fails jq -rRe --slurpfile values "$T/values.json" 'select(. as $p | $values[0] | getpath($p | split(".")) == null)' "$T/known"
}

# refused VALUE... -- TEXT: helm takes these values not, and says so.
refused() {
  local options=()
  while [[ $1 != -- ]]; do options+=(--set "$1") && shift; done
  echo "${options[*]}"
  fails helm template x "$CHART" "${options[@]}" >"$T/refused" 2>&1
  has "$T/refused" "$2"
}
wrong_values_are_refused_and_named() {
  refused replicaCount=2 -- "additional properties 'replicaCount' not allowed"
  refused replicas=two -- "at '/replicas': got string, want integer"
  refused 'watchNamespaces={Pipelines}' -- "at '/watchNamespaces/0': 'Pipelines' does not match pattern"
  refused watchNamespaces=pipelines -- "at '/watchNamespaces': got string, want array"
  refused image.tag=a/b -- "at '/image/tag'"
  refused image.digest=latest -- "at '/image/digest'"
  refused image.repository=https://example.com/x -- "at '/image/repository'"
  refused logFormat=xml -- "at '/logFormat': value must be one of 'text', 'json'"
  refused 'allowedEndpointHosts={https://login.example.com}' -- "at '/allowedEndpointHosts/0'"
  refused 'allowedEndpointHosts={login.example.com:8443}' -- "at '/allowedEndpointHosts/0'"
  refused 'extraArgs={run}' -- "at '/extraArgs/0'"
  refused leaseDuration=30 -- "at '/leaseDuration'"
  refused proxy.httpsProxy=proxy:3128 -- "at '/proxy/httpsProxy'"
  refused podDisruptionBudget.maxUnavailable=0 -- "at '/podDisruptionBudget/maxUnavailable'"
  refused 'commonLabels.app\.kubernetes\.io/name=x' -- "invalid propertyName 'app.kubernetes.io/name'"
  refused 'secretLabels.graphtoken\.io/name=x' -- "invalid propertyName 'graphtoken.io/name'"
  refused 'watchNamespaces={a}' 'rbac.workloadIdentity[0].namespace=b' 'rbac.workloadIdentity[0].name=etl' -- \
    'rbac.workloadIdentity names the service account etl in namespace b'
  refused 'rbac.workloadIdentity[0].namespace=b' -- "missing property 'name'"
  refused serviceMonitor.enabled=true service.enabled=false -- 'serviceMonitor.enabled needs service.enabled'
  local alone='without leader election two pods would use the same sign-ins'
  refused 'extraArgs={--leader-election=false}' -- "$alone"
  refused 'extraArgs={--leader-election=false}' replicas=1 -- "$alone"
  refused 'extraArgs={--leader-election=false}' updateStrategy.type=Recreate -- "$alone"
  refused 'extraEnv[0].name=GRAPHTOKEN_LEADER_ELECTION' 'extraEnv[0].value=false' -- "$alone"
  helm template x "$CHART" --set 'extraArgs={--leader-election=false},replicas=1,updateStrategy.type=Recreate' >"$T/alone"
  has "$T/alone" '- "--leader-election=false"'
}
# What alerts and panels hold in braces is for Prometheus and Grafana; where there are none, nothing is made.
rules_and_dashboard_come_from_files_as_they_are() {
  local chart=$T/monitored
  cp -R -- "$CHART" "$chart"
  # shellcheck disable=SC2016  # Prometheus's
  printf 'groups:\n  - name: graphtoken\n    rules:\n      - alert: A\n        annotations: {summary: "{{ $labels.name }}"}\n' >"$chart/files/alerts.yaml"
  printf '{"title": "{{instance}}"}\n' >"$chart/files/dashboard.json"
  helm template x "$chart" --set prometheusRule.enabled=true,dashboard.enabled=true --show-only templates/monitoring.yaml >"$T/monitoring"
  # shellcheck disable=SC2016  # Prometheus's
  has "$T/monitoring" '        annotations: {summary: "{{ $labels.name }}"}'
  has "$T/monitoring" '    {"title": "{{instance}}"}'
  has "$T/monitoring" 'grafana_dashboard: "1"'
  rm -- "$chart/files/alerts.yaml" "$chart/files/dashboard.json"
  helm template x "$chart" --set prometheusRule.enabled=true,dashboard.enabled=true >"$T/unmonitored"
  fails grep -E 'PrometheusRule|dashboard' "$T/unmonitored"
}
crds_stay_unless_told_otherwise() {
  [[ $(helm template x "$CHART" | grep -c 'helm.sh/resource-policy: keep') == 2 ]]
  fails grep -q 'resource-policy' <(helm template x "$CHART" --set crds.keep=false)
  [[ $(helm template x "$CHART" --set crds.keep=false | grep -c '^kind: CustomResourceDefinition') == 2 ]]
}

# ---- on a real node --------------------------------------------------------------------------------------------------

in_one() { (eval "$(<"$T/one.export")" && KUBECACHEDIR=$T/kubectl-cache "$@"); }
k() { in_one kubectl --request-timeout=10s "$@"; }
in_system() { k --namespace "$SYSTEM" "$@"; }
h() { in_one "$ROOT/hack/chart/helm.sh" --namespace "$SYSTEM" "$@"; }
field() { k --namespace "$TENANT_NS" get graphtoken mail-etl -o "jsonpath=$1"; }
is_ready() { [[ $(field '{.status.conditions[?(@.type=="Ready")].status}') == True ]]; }
count() { field '{.status.refreshCount}'; }
more_than() { local now && now=$(count) && ((${now:-0} > $1)); }
# can VERB RESOURCE[/NAME] NAMESPACE [SUBRESOURCE]: whether the operator may; without a namespace: everywhere.
can() {
  local where=(--all-namespaces)
  if [[ -n $3 ]]; then where=(--namespace "$3"); fi
  k auth can-i "$1" "$2" "${where[@]}" --subresource="${4:-}" --as "system:serviceaccount:$SYSTEM:$RELEASE-graphtoken-operator"
}
has_pods() { [[ $(in_system get pods -o name | wc -l) == "$1" ]]; }
has_events() { [[ -n $(k --namespace "$TENANT_NS" get events --field-selector involvedObject.name=mail-etl -o name) ]]; }
# What explains a failure.
describe() {
  in_system get pods -o wide || true
  in_system logs --selector app.kubernetes.io/name=graphtoken-operator --tail=20 || true
  k --namespace "$TENANT_NS" describe graphtoken mail-etl || true
}
until_ready() { within 60 is_ready || { describe; return 1; }; }
until_refreshed() { within 90 more_than "$1" || { describe; return 1; }; }

a_node_a_provider_and_a_sign_in_are_there() {
  local archive
  archive=$("$ROOT/hack/image/build.sh" | tail -n 1)
  cargo build --locked --quiet --manifest-path "$ROOT/Cargo.toml" -p entra-simulator
  mkdir -p -- "$ONE/hack"
  cp -R -- "$ROOT/hack/cluster" "$ROOT/hack/node" "$ONE/hack/"
  cp -- "$ROOT/Makefile" "$ONE/"
  NODE_SYNC_FREQUENCY=1s make -sC "$ONE" node-up | tail -n 1 >"$T/one.export"
  # Also under the name that the chart gives it: no registry is asked for what the node has.
  "$ONE/hack/node/images.sh" import "$archive" "$IMAGE" "ghcr.io/graphtoken/graphtoken-operator:$(version)"

  # Strict: a refresh token that is sent twice, or lost, is the end of the sign-in. Half a minute, so that many are due.
  "$(cargo metadata --manifest-path "$ROOT/Cargo.toml" --locked --no-deps --format-version 1 | jq -r .target_directory)/debug/entra-simulator" \
    --token-lifetime 30 --rotation strict >"$T/simulator" 2>"$T/simulator.log" &
  echo "$!" >"$T/simulator.pid"
  within 20 grep -q token_endpoint "$T/simulator"
  # What every operator of this test is told: the API server is on this machine's loopback, and so is the provider. The
  # proxy leads nowhere: whoever asks it for the API server fails.
  cat >"$T/values.yaml" <<YAML
replicas: 1
image: {repository: ${IMAGE%:*}, tag: ${IMAGE##*:}, pullPolicy: Never}
hostNetwork: true
listen: {address: 127.0.0.1, port: $(bash -c 'source "$1" && choose_ports 1' - "$ROOT/hack/cluster/configure.sh")}
allowedEndpointHosts: [localhost]
extraArgs: [--allow-http-endpoints]
extraEnv:
  - {name: KUBERNETES_SERVICE_HOST, value: 127.0.0.1}
  - {name: KUBERNETES_SERVICE_PORT, value: "$(<"$ONE/.cluster/run/port")"}
proxy: {httpsProxy: "http://127.0.0.1:9"}
trustedCA: {configMapName: corporate-ca}
clientNamespace: graph-clients
# No OpenShift here to give one: any user must do.
podSecurityContext: {runAsNonRoot: true, runAsUser: 1000660000, seccompProfile: {type: RuntimeDefault}}
YAML
}

# sign_in NAMESPACE: a namespace with a user's refresh token and a GraphToken for it.
sign_in() {
  local url
  url=$(jq -r .url "$T/simulator")
  k create namespace "$1"
  curl -sf --noproxy '*' -d '{}' "$url/_sim/refresh-tokens" | jq -j .refresh_token >"$T/seed"
  k --namespace "$1" create secret generic seed --from-file=token="$T/seed"
  # By a name: the image must be able to resolve one.
  in_one kubectl patch --local -f "$ROOT/examples/quickstart/graphtoken.yaml" --type merge -o json -p "$(
    jq '{spec: {tenant: .tenant_id, endpoints: {token: .token_endpoint, graph: .url}}}' "$T/simulator" | sed 's/127\.0\.0\.1/localhost/'
  )" >"$T/graphtoken.json"
  k --namespace "$1" apply -f "$T/graphtoken.json"
}

# The plain manifests, first, on a cluster that knows nothing of us.
deploy_is_admitted_as_restricted() {
  k apply --server-side -f "$ROOT/deploy/"
  [[ $(k get namespace "$SYSTEM" -o 'jsonpath={.metadata.labels.pod-security\.kubernetes\.io/enforce}') == restricted ]]
  within 30 has_pods 2
  k apply --server-side -f "$ROOT/deploy/" >"$T/again"
}
deploy_works() {
  # This node has no network but the machine's own.
  local port
  port=$(sed -n 's/^listen: .* port: \([0-9]*\)}$/\1/p' "$T/values.yaml")
  in_system scale deployment graphtoken-operator --replicas=0
  k label namespace "$SYSTEM" pod-security.kubernetes.io/enforce=privileged --overwrite
  in_system patch deployment graphtoken-operator --type json -p "[
    {\"op\": \"replace\", \"path\": \"/spec/template/spec/containers/0/args/1\", \"value\": \"--listen=127.0.0.1:$port\"},
    {\"op\": \"replace\", \"path\": \"/spec/template/spec/containers/0/ports/0/containerPort\", \"value\": $port},
    {\"op\": \"add\", \"path\": \"/spec/template/spec/hostNetwork\", \"value\": true}]"
  in_system set env deployment/graphtoken-operator KUBERNETES_SERVICE_HOST=127.0.0.1 "KUBERNETES_SERVICE_PORT=$(<"$ONE/.cluster/run/port")" \
    GRAPHTOKEN_ALLOW_HTTP_ENDPOINTS=true GRAPHTOKEN_ALLOWED_ENDPOINT_HOST=localhost
  in_system scale deployment graphtoken-operator --replicas=1
  in_system rollout status deployment/graphtoken-operator --timeout=60s || { describe; return 1; }
  TENANT_NS=plain
  sign_in plain
  until_ready
  # Gone again, with all GraphTokens: what follows begins afresh.
  k delete -f "$ROOT/deploy/" --timeout=60s --request-timeout=60s
}

package() {
  helm package "$1" --destination "$T/packages" >&2
  printf '%s/packages/graphtoken-operator-%s.tgz' "$T" "$2"
}
# A lower version: its CRDs are older, and so is its chart.
install_of_a_lower_version() {
  local old=$T/old
  cp -R -- "$CHART" "$old"
  sed -i -E 's/^version: .*/version: 0.0.9/' "$old/Chart.yaml"
  sed -i '/^    shortNames:/,+1d' "$old/files/crds.yaml"
  k create namespace "$SYSTEM"
  k create namespace graph-clients
  in_system create configmap corporate-ca --from-file=ca-bundle.crt="$ONE/.cluster/pki/ca.crt"
  h install "$RELEASE" "$(package "$old" 0.0.9)" --values "$T/values.yaml" --wait --timeout 90s || { describe; return 1; }
  sign_in "$TENANT_NS"
  until_refreshed 1
  fails k get gt --namespace "$TENANT_NS"
}
# Strictly: an unknown field is a mistake too. Without what needs the Prometheus Operator.
the_api_server_takes_what_is_made_of_any_values() {
  local values
  k create namespace mail
  for values in "${VALUES[@]}"; do
    helm template dry "$CHART" --namespace "$SYSTEM" --values "$values" --set crds.install=false,serviceMonitor.enabled=false |
      k apply --dry-run=server --validate=strict -f - || { echo "made of $values"; return 1; }
  done
}
# From here on what the GraphToken says is written down each second. By no watch: a change of the CRD ends those.
watch_it() {
  (
    eval "$(<"$T/one.export")"
    while :; do
      kubectl --namespace "$TENANT_NS" --request-timeout=5s get graphtoken mail-etl \
        -o 'jsonpath={.status.refreshCount} {range .status.conditions[*]}{.type}={.status}/{.reason} {end}{"\n"}'
      sleep 1
    done
  ) >"$T/watched" 2>&1 &
  echo "$!" >"$T/watch.pid"
}
it_may_what_it_needs_and_no_more() {
  can create secrets "$TENANT_NS"
  can list graphtokens "$TENANT_NS"
  can patch graphtokens "$TENANT_NS" status
  can watch clustergraphclients.graphtoken.io ''
  can get secrets graph-clients
  fails can update secrets "$TENANT_NS"
  fails can deletecollection secrets "$TENANT_NS"
  fails can patch deployments.apps "$TENANT_NS"
  fails can create serviceaccounts "$TENANT_NS" token
  fails can create serviceaccounts/etl "$TENANT_NS" token
  fails can get serviceaccounts "$TENANT_NS"
  fails can create pods "$TENANT_NS"
  fails can update graphtokens "$TENANT_NS"
  # Events appear, so the right to write them suffices.
  within 20 has_events
}
upgrade_brings_crds_along_and_loses_nothing() {
  local before
  before=$(count)
  h upgrade "$RELEASE" "$(package "$CHART" "$(version)")" --values "$T/values.yaml" --wait --timeout 90s || { describe; return 1; }
  within 20 k get gt mail-etl --namespace "$TENANT_NS"
  until_refreshed "$((before + 1))"
  is_ready
}
rollback_loses_nothing() {
  local before
  before=$(count)
  h rollback "$RELEASE" 1 --wait --timeout 90s || { describe; return 1; }
  until_refreshed "$((before + 1))"
  is_ready
}
limited_to_namespaces_it_goes_on_with_roles_alone() {
  local before
  before=$(count)
  h upgrade "$RELEASE" "$(package "$CHART" "$(version)")" --values "$T/values.yaml" --wait --timeout 90s \
    --set clientNamespace= --set "watchNamespaces={$TENANT_NS}" --set rbac.restart=true \
    --set "rbac.workloadIdentity[0].namespace=$TENANT_NS,rbac.workloadIdentity[0].name=etl" || { describe; return 1; }
  can create secrets "$TENANT_NS"
  can patch deployments.apps "$TENANT_NS"
  can get serviceaccounts/etl "$TENANT_NS"
  can create serviceaccounts/etl "$TENANT_NS" token
  fails can create serviceaccounts/other "$TENANT_NS" token
  fails can get serviceaccounts/other "$TENANT_NS"
  fails can get secrets default
  fails can get secrets kube-system
  fails can list graphtokens ''
  fails can watch clustergraphclients.graphtoken.io ''
  [[ -z $(k get clusterrolebindings -l "app.kubernetes.io/instance=$RELEASE" -o name) ]]
  until_refreshed "$((before + 1))"
  is_ready
}
uninstall_keeps_crds_graphtokens_and_sign_ins() {
  h uninstall "$RELEASE" --wait --timeout 90s
  [[ $(k get crd -o name | grep -c graphtoken.io) == 2 ]]
  k --namespace "$TENANT_NS" get graphtoken/mail-etl secret/mail-etl secret/mail-etl-graphtoken-credential
  [[ -z $(in_system get deployment,serviceaccount,role,rolebinding,service,pdb -l "app.kubernetes.io/instance=$RELEASE" -o name) ]]
  [[ -z $(k get clusterrole,clusterrolebinding -l "app.kubernetes.io/instance=$RELEASE" -o name) ]]
}
install_again_goes_on() {
  local before
  before=$(count)
  # The seed was taken up long ago; it is not needed.
  k --namespace "$TENANT_NS" delete secret seed
  h install "$RELEASE" "$(package "$CHART" "$(version)")" --values "$T/values.yaml" --wait --timeout 90s || { describe; return 1; }
  until_refreshed "$((before + 1))"
  is_ready
}
nobody_had_to_sign_in_again_and_no_token_was_sent_twice() {
  kill "$(<"$T/watch.pid")" 2>/dev/null || true
  uniq "$T/watched"
  fails grep -E 'AuthorizationRequired|Stalled=|InvalidConfiguration' "$T/watched"
  # It only ever grows, and has grown at each step.
  awk '{if ($1 + 0 < last) exit 1; last = $1 + 0} END {exit last < 8}' "$T/watched"
  local url
  url=$(jq -r .url "$T/simulator")
  curl -sf --noproxy '*' "$url/_sim/journal?token_from=0&device_from=1000000&graph_from=1000000" >"$T/journal"
  jq .counts "$T/journal"
  jq -e '[.counts[] | to_entries[] | .key] | unique == ["issued"]' "$T/journal"
}

case ${1:-} in
  --update) update && exit ;;
  '' | --offline) ;;
  *) echo "chart_test.sh: error: not understood: $*" >&2 && exit 2 ;;
esac
for behaviour in \
  lint_has_nothing_to_say manifests_are_as_reviewed generated_files_are_up_to_date chart_and_crate_have_one_version \
  every_value_of_the_schema_has_a_default wrong_values_are_refused_and_named \
  rules_and_dashboard_come_from_files_as_they_are crds_stay_unless_told_otherwise; do
  check "${behaviour//_/ }" "$behaviour"
done
if [[ ${1:-} == --offline ]]; then
  :
elif ! "$ROOT/hack/node/up.sh" --check; then
  echo "SKIPPED: releases on a node, for the reason above"
else
  for behaviour in \
    a_node_a_provider_and_a_sign_in_are_there deploy_is_admitted_as_restricted deploy_works install_of_a_lower_version \
    the_api_server_takes_what_is_made_of_any_values watch_it \
    it_may_what_it_needs_and_no_more upgrade_brings_crds_along_and_loses_nothing rollback_loses_nothing \
    limited_to_namespaces_it_goes_on_with_roles_alone uninstall_keeps_crds_graphtokens_and_sign_ins install_again_goes_on \
    nobody_had_to_sign_in_again_and_no_token_was_sent_twice; do
    check "${behaviour//_/ }" "$behaviour"
  done
fi
conclude
