#!/usr/bin/env bash
# Tests what watches the operator: alerts, runbooks, dashboard, and the health checks of Argo CD and Flux. Needs promtool and
# prometheus. Where they are missing, Debian's package is unpacked into a cache folder and not installed: an installed one
# would start a service.
set -euo pipefail
cd "$(dirname "$0")/../.."

cache=${XDG_CACHE_HOME:-$HOME/.cache}/graphtoken-operator
unpacked=$cache/prometheus

unpack() {
  local new
  if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo "cannot go on without prometheus and promtool: install them (Debian: prometheus) and run this again" >&2
    exit 1
  fi
  mkdir -p "$cache"
  new=$(mktemp -d "$cache/prometheus.XXXXXX")
  # In a folder that apt's own user may write to, or it says so.
  chmod 755 "$new"
  # What is available may not be known yet, as in a fresh container.
  if [[ $(id -u) == 0 ]]; then apt-get update -qq; fi
  (cd "$new" && apt-get download -qq -o APT::Sandbox::User=root prometheus && dpkg-deb -x prometheus_*.deb . && rm -- *.deb)
  rm -rf -- "$unpacked"
  mv -- "$new" "$unpacked"
}

if ! command -v promtool >/dev/null || ! command -v prometheus >/dev/null; then
  if [[ ! -x $unpacked/usr/bin/promtool ]]; then unpack; fi
  PATH=$unpacked/usr/bin:$PATH
fi

promtool check rules --lint=all --lint-fatal charts/graphtoken-operator/files/alerts.yaml
promtool test rules tests/prometheus/alerts_test.yaml
tests/prometheus/runbooks_test.py
(cd tests/health && go vet ./... && go test ./...)
tests/prometheus/live_test.sh
