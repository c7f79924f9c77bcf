#!/usr/bin/env bash
# A real Prometheus scrapes the operator, on a real control plane, with the simulator in the place of Entra ID: the alerts
# of the chart fire and clear, every query of the dashboard returns data, and the runbooks' commands work. All of it is in
# a temporary folder and on loopback, and ended at the end; the checkout's own cluster is not touched.
# Usage: tests/prometheus/live_test.sh   (PICTURE=FILE draws the dashboard, which takes 45 s longer)

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/check.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/check.sh"
cd -- "$ROOT"
# shellcheck source-path=SCRIPTDIR source=../../hack/lib/process.sh
source "$ROOT/hack/lib/process.sh"
COPY=$T/checkout
TOKEN_LIFE=30 # seconds

cleanup() {
  for name in prometheus operator simulator; do end_recorded "$T/$name.pid" 15; done
  if [[ -d $COPY ]]; then make -sC "$COPY" cluster-down >/dev/null 2>&1 || true; fi
}

give_up() {
  printf '%s\n' "$1" >&2
  tail -n 20 -- "$T"/*.log >&2
  exit 1
}
loopback() { curl -sf --noproxy '*' --max-time 5 "$@"; }
k() { kubectl --namespace pipelines "$@"; }

# ---- Prometheus ------------------------------------------------------------------------------------------------------

# value QUERY: the number that an instant query returns; empty where there is none.
value() { loopback --data-urlencode "query=$1" "$PROMETHEUS/api/v1/query" | jq -r '.data.result[0].value[1] // empty'; }
# alert NAME: its alerts that fire, as JSON, each on a line.
alert() {
  loopback "$PROMETHEUS/api/v1/alerts" |
    jq -c --arg name "$1" '.data.alerts[] | select(.labels.alertname == $name and .state == "firing")'
}
fires() { [[ -n $(alert "$1") ]]; }
is_quiet() { [[ -z $(alert "$1") ]]; }
told() { k get graphtoken "$1" -o "jsonpath=$2"; }
condition() { told "$1" "{.status.conditions[?(@.type==\"$2\")].reason}"; }
is_condition() { [[ $(condition "$1" "$2") == "$3" ]]; }

write_configuration() {
  # The alerts are the chart's, but nobody waits minutes here.
  sed -E 's/^( +for:) .*/\1 2s/' charts/graphtoken-operator/files/alerts.yaml >"$T/alerts.yaml"
  cat >"$T/prometheus.yaml" <<YAML
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [alerts.yaml]
scrape_configs:
  - job_name: graphtoken-operator
    honor_labels: true
    static_configs: [{targets: ['${OPERATOR#http://}'], labels: {namespace: graphtoken-system}}]
YAML
}

# ---- what is started -------------------------------------------------------------------------------------------------

start_control_plane() {
  mkdir -p -- "$COPY/hack"
  cp -R -- hack/cluster "$COPY/hack/"
  cp -- Makefile "$COPY/"
  make -sC "$COPY" cluster-up >"$T/up" 2>"$T/cluster.log" || give_up "The control plane did not come up."
  eval "$(tail -n 1 -- "$T/up")"
  export KUBECACHEDIR=$T/kubectl-cache
  kubectl apply --server-side -f crds/ >/dev/null
  within 30 kubectl get graphtokens,clustergraphclients --all-namespaces >/dev/null 2>&1 || give_up "The CRDs are not served."
  for namespace in pipelines graphtoken-system argocd; do kubectl create namespace "$namespace" >/dev/null; done
}

start_simulator() {
  printf 'SimRefresh.%s' "$(openssl rand -hex 48)" >"$T/seed"
  openssl rand -hex 24 | tr -d '\n' >"$T/client-secret"
  begin "$T/simulator.pid" "$T/simulator.log" \
    "$BIN/entra-simulator" --token-lifetime "$TOKEN_LIFE" --seed-file "$T/seed"
  within 20 grep -q token_endpoint "$T/simulator.log" || give_up "The simulator did not start."
  SIMULATOR=$(jq -r .url "$T/simulator.log") TENANT=$(jq -r .tenant_id "$T/simulator.log")
  TOKEN_URL=$(jq -r .token_endpoint "$T/simulator.log")
  jq -Rs '{secret: .}' "$T/client-secret" | loopback -X PUT --data-binary @- "$SIMULATOR/_sim/clients/app" >/dev/null
}

start_operator() {
  local variable
  for variable in "${!GRAPHTOKEN_@}"; do unset "$variable"; done
  NO_PROXY=127.0.0.1 no_proxy=127.0.0.1 RUST_LOG=info NO_COLOR=1 begin "$T/operator.pid" "$T/operator.log" \
    "$BIN/graphtoken" run --namespace pipelines --lease-namespace graphtoken-system --listen 127.0.0.1:0 \
    --allowed-endpoint-host 127.0.0.1 --allow-http-endpoints
  within 30 grep -q ' address=' "$T/operator.log" || give_up "The operator did not start."
  OPERATOR=http://$(sed -n 's/.* address=\([0-9.:]*\).*/\1/p' "$T/operator.log" | head -n 1)
}

start_prometheus() {
  write_configuration
  begin "$T/prometheus.pid" "$T/prometheus.log" prometheus --config.file="$T/prometheus.yaml" \
    --storage.tsdb.path="$T/data" --web.listen-address=127.0.0.1:0 --storage.tsdb.retention.time=1h
  # Written to the log, since the port is a free one that the kernel chose.
  within 30 grep -qE 'Listening on.*address=127' "$T/prometheus.log" || give_up "Prometheus did not start."
  PROMETHEUS=http://$(sed -nE 's/.*Listening on.*address=([0-9.:]+).*/\1/p' "$T/prometheus.log" | head -n 1)
  within 30 loopback -o /dev/null "$PROMETHEUS/-/ready" || give_up "Prometheus did not get ready."
}

# graphtoken NAME SPEC: with the simulator in the place of Entra ID.
graphtoken() {
  jq -n --arg name "$1" --argjson spec "$2" --arg tenant "$TENANT" --arg token "$TOKEN_URL" --arg graph "$SIMULATOR" '
    {apiVersion: "graphtoken.io/v1alpha1", kind: "GraphToken", metadata: {name: $name},
     spec: ({tenant: $tenant, clientId: "11111111-2222-3333-4444-555555555555", endpoints: {token: $token, graph: $graph}} + $spec)}' |
    k apply -f - >/dev/null
}
seeded() { printf '{"grant": {"refreshToken": {"secretRef": {"name": "%s", "key": "token"}}}, "scopes": ["Mail.Read", "User.Read"]}' "$1"; }

apply_graphtokens() {
  k create secret generic seed --from-file=token="$T/seed" >/dev/null
  k create secret generic wrong-seed --from-literal=token="SimRefresh.$(openssl rand -hex 48)" >/dev/null
  k create secret generic app --from-file=client-secret="$T/client-secret" >/dev/null
  k annotate secret app graphtoken.io/expires-at="$(date -u -d '+10 days' +%FT%TZ)" >/dev/null
  graphtoken mail-etl "$(seeded seed)"
  graphtoken nobody "$(seeded wrong-seed)"
  graphtoken report '{"clientId": "app", "grant": {"clientCredentials": {}}, "clientAuth": {"secretRef": {"name": "app", "key": "client-secret"}}}'
  within 30 is_condition mail-etl Ready TokenValid || give_up "mail-etl did not get a token."
  within 30 is_condition report Ready TokenValid || give_up "report did not get a token."
}

# ---- behaviours ------------------------------------------------------------------------------------------------------

metrics_are_scraped() {
  within 20 is_value 'up{job="graphtoken-operator"}' 1
  within 10 is_value 'sum(graphtoken_ready)' 2
  is_value 'graphtoken_info{namespace="pipelines", name="mail-etl", grant="refreshToken"}' 1
  is_value 'sum(graphtoken_leader)' 1
}
is_value() { [[ $(value "$1") == "$2" ]] || { echo "$1 is $(value "$1"), not $2"; return 1; }; }
every_metric_of_the_reference_is_there() {
  # Histograms are there by their names alone, without the suffixes of their series.
  # shellcheck disable=SC2016  # backquotes of Markdown
  grep -oE '`graphtoken_[a-z_]+`' docs/reference.md | tr -d '`' | sort -u >"$T/metrics.listed"
  loopback "$OPERATOR/metrics" >"$T/metrics"
  sed -nE 's/^# TYPE (graphtoken_[a-z_]+) (.*)/\1 \2/p' "$T/metrics" | sed -E 's/ counter$/_total/; s/ (gauge|histogram)$//' |
    sort -u >"$T/metrics.served"
  diff "$T/metrics.listed" "$T/metrics.served"
}
promtool_finds_nothing_wrong_with_the_metrics() {
  loopback -H 'Accept: text/plain' "$OPERATOR/metrics" >"$T/metrics.text"
  promtool check metrics <"$T/metrics.text" >"$T/lint" 2>&1 || { cat "$T/lint"; return 1; }
  [[ ! -s $T/lint ]] || { cat "$T/lint"; return 1; }
}
no_label_names_a_user_or_holds_a_token() {
  if grep -nE 'contoso\.com"|Sim(Access|Refresh)|@' "$T/metrics"; then return 1; fi
}
only_the_gauges_of_the_contract_name_a_graphtoken() {
  grep -oE '^graphtoken_[a-z_]+\{[^}]*[{,]name="' "$T/metrics" | sed 's/{.*//' | sort -u | tee "$T/metrics.named"
  cat >"$T/metrics.contract" <<LIST
graphtoken_condition
graphtoken_consecutive_failures
graphtoken_expiration_timestamp_seconds
graphtoken_info
graphtoken_last_refresh_timestamp_seconds
graphtoken_ready
graphtoken_refresh_token_expiration_timestamp_seconds
LIST
  diff "$T/metrics.contract" "$T/metrics.named"
}
prometheus_has_the_rules_and_evaluates_them() {
  promtool check rules "$T/alerts.yaml"
  within 10 all_rules_are_well
}
all_rules_are_well() {
  local rules
  rules=$(loopback "$PROMETHEUS/api/v1/rules" | jq -r '.data.groups[].rules[] | .name + " " + .health')
  [[ $(wc -l <<<"$rules") == "$(grep -c ' - alert: ' "$T/alerts.yaml")" ]] && ! grep -v ' ok$' <<<"$rules"
}
one_alert_tells_of_the_sign_in_and_names_the_graphtoken() {
  within 30 fires GraphTokenSignInNeeded
  alert GraphTokenSignInNeeded | tee "$T/sign-in"
  [[ $(wc -l <"$T/sign-in") == 1 ]]
  jq -e '.annotations.description | contains("for pipelines/nobody.")' "$T/sign-in"
  jq -e '.annotations.runbook_url == "docs/runbooks/GraphTokenSignInNeeded.md"' "$T/sign-in"
}
the_end_of_the_client_secret_is_told_of() {
  within 10 fires GraphTokenClientCredentialExpiring
  alert GraphTokenClientCredentialExpiring | jq -e '.labels | .namespace == "pipelines" and .secret == "app"'
}
a_refresh_goes_by_without_an_alert() {
  within 40 refreshed_twice
  is_quiet GraphTokenExpiringSoon && is_quiet GraphTokenExpired && is_quiet GraphTokenNoLeader
  is_value 'count(ALERTS{alertname=~"GraphTokenExpiringSoon|GraphTokenExpired|GraphTokenNoLeader", alertstate="firing"}) or vector(0)' 0
}
refreshed_twice() { (($(told mail-etl '{.status.refreshCount}') >= 2)); }
# A connection that is closed without an answer: what a broken network looks like.
cut_off() { loopback --data '{"times": "forever", "action": "close"}' "$SIMULATOR/_sim/faults" >/dev/null; }
an_alert_fires_before_the_token_expires() {
  local expires
  within 40 is_condition mail-etl Refreshed ProviderUnavailable
  within 20 fires_for mail-etl GraphTokenExpiringSoon
  expires=$(date -d "$(told mail-etl '{.status.expiresAt}')" +%s)
  printf '%d' $((expires - $(date +%s))) | tee "$T/left"
  (($(<"$T/left") > 0))
  is_condition mail-etl Ready TokenValid
  is_quiet_for mail-etl GraphTokenExpired
}
fires_for() { alert "$2" | jq -se --arg name "$1" 'any(.labels.name == $name)' >/dev/null; }
is_quiet_for() { ! fires_for "$@"; }
a_second_alert_names_the_provider() {
  within 20 fires GraphTokenProviderFailing
  alert GraphTokenProviderFailing | jq -e '.annotations.description | contains("pipelines/mail-etl")'
}
expiry_has_its_own_alert() {
  within 50 fires_for mail-etl GraphTokenExpired
  within 5 is_quiet_for mail-etl GraphTokenExpiringSoon
}
they_clear_once_the_provider_is_back() {
  loopback -X DELETE "$SIMULATOR/_sim/faults"
  # By itself it tries again within 25 s.
  k annotate graphtoken mail-etl graphtoken.io/requested-at=now
  within 40 is_quiet_for mail-etl GraphTokenExpired
  within 10 is_quiet_for mail-etl GraphTokenExpiringSoon
  is_condition mail-etl Ready TokenValid
  is_condition mail-etl Refreshed Succeeded
}
every_query_of_the_dashboard_returns_data() {
  # A picture is to show how all get well again.
  if [[ -n ${PICTURE:-} ]]; then sleep 45; fi
  tests/prometheus/dashboard.py "$PROMETHEUS" --seconds "$((SECONDS - BEGAN))" ${PICTURE:+--picture "$PICTURE"}
}
# commands SECTION FILE...: what is typed in the sections of that name, "" being whatever comes before the first.
commands() {
  local section=$1
  shift
  # Continued lines become one.
  awk -v wanted="$section" '
    FNR == 1 {section = ""} !inside && /^## / {section = substr($0, 4)}
    /^ *```/ {inside = ($0 ~ "```console$"); next}
    inside && section == wanted {sub(/^ +/, ""); sub(/^\$ /, ""); print}' "$@" |
    sed -e ':more' -e '/\\$/ {N; s/\\\n */ /; b more' -e '}'
}
run_all() {
  local line
  [[ -s $1 ]]
  while IFS= read -r line; do
    case $line in amtool*) continue ;; esac
    # kubectl says on stderr what it did not find, and that is fine for a pod here.
    (cd -- "$2" && bash -euc "$line" </dev/null) || { echo "failed: $line"; return 1; }
  done <"$1"
}
what_runbooks_have_you_look_at_can_be_looked_at() {
  commands Look docs/runbooks/GraphToken*.md | sort -u >"$T/look"
  run_all "$T/look" "$T" 2>&1 | tee "$T/looked"
  # Events are found by fields whose names kubectl does not check.
  grep -qE '^[0-9a-z]+ +(Normal|Warning) +TokenValid +' "$T/looked" || { cat "$T/looked"; return 1; }
}
what_runbooks_have_you_do_can_be_done() {
  mkdir -p -- "$T/do"
  cp -- "$T/client-secret" "$T/do/FILE"
  commands Do docs/runbooks/GraphToken*.md | awk '!seen[$0]++ || /suspend/' >"$T/do.sh"
  run_all "$T/do.sh" "$T/do"
  within 10 is_condition mail-etl Refreshed Suspended
}
argo_cds_health_check_goes_into_its_settings() {
  kubectl -n argocd create configmap argocd-cm
  commands "" contrib/argocd/README.md >"$T/argocd.sh"
  run_all "$T/argocd.sh" "$ROOT"
  diff contrib/argocd/health.lua \
    <(kubectl -n argocd get configmap argocd-cm -o json | jq -j '.data["resource.customizations.health.graphtoken.io_GraphToken"]')
}
no_leader_is_told_of_when_the_operator_is_gone() {
  end_recorded "$T/operator.pid" 15
  within 20 fires GraphTokenNoLeader
}

# ---- start to finish -------------------------------------------------------------------------------------------------

for tool in prometheus promtool jq curl openssl; do
  command -v "$tool" >/dev/null || { echo "There is no $tool. next: hack/test/monitoring.sh installs what this needs." >&2; exit 1; }
done
cargo build --locked --quiet -p graphtoken -p entra-simulator
BIN=$(cargo metadata --locked --no-deps --format-version 1 | jq -r .target_directory)/debug
start_control_plane
start_simulator
start_operator
BEGAN=$SECONDS
start_prometheus
apply_graphtokens

for behaviour in metrics_are_scraped every_metric_of_the_reference_is_there promtool_finds_nothing_wrong_with_the_metrics \
  no_label_names_a_user_or_holds_a_token only_the_gauges_of_the_contract_name_a_graphtoken prometheus_has_the_rules_and_evaluates_them \
  one_alert_tells_of_the_sign_in_and_names_the_graphtoken the_end_of_the_client_secret_is_told_of \
  a_refresh_goes_by_without_an_alert; do
  check "${behaviour//_/ }" "$behaviour"
done
cut_off
for behaviour in an_alert_fires_before_the_token_expires a_second_alert_names_the_provider expiry_has_its_own_alert \
  they_clear_once_the_provider_is_back every_query_of_the_dashboard_returns_data \
  what_runbooks_have_you_look_at_can_be_looked_at what_runbooks_have_you_do_can_be_done \
  argo_cds_health_check_goes_into_its_settings \
  no_leader_is_told_of_when_the_operator_is_gone; do
  check "${behaviour//_/ }" "$behaviour"
done
if [[ -s $T/left ]]; then printf 'the first alert fired %s s before the token expired, which lives %s s\n' "$(<"$T/left")" "$TOKEN_LIFE"; fi
conclude
