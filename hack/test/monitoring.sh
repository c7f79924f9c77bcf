#!/usr/bin/env bash
# Tests what watches the operator: alerts, runbooks, dashboard, and the health checks of Argo CD and Flux. Needs promtool and
# prometheus; where they are missing, Debian's package is unpacked into a cache folder.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source-path=SCRIPTDIR source=../lib/debian.sh
source hack/lib/debian.sh

bring promtool prometheus
bring prometheus prometheus

promtool check rules --lint=all --lint-fatal charts/graphtoken-operator/files/alerts.yaml
promtool test rules tests/prometheus/alerts_test.yaml
tests/prometheus/runbooks_test.py
(cd tests/health && go vet ./... && go test ./...)
tests/prometheus/live_test.sh
