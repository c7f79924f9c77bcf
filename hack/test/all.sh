#!/usr/bin/env bash
# Everything the project tests, step by step, with the time of each at the end. `hack/test/all.sh NAME…` runs those steps only.
set -euo pipefail
cd "$(dirname "$0")/../.."

cache=${XDG_CACHE_HOME:-$HOME/.cache}/graphtoken-operator
export GRAPHTOKEN_TEST_VENV=${GRAPHTOKEN_TEST_VENV:-$cache/venv-o365-2.1.10}
only=("$@")
report=()
running=
began=0
brought_up=
skipped=

finish() {
  local code=$?
  if [[ -n $brought_up ]]; then
    make -s cluster-down || true
  fi
  if ((code != 0)) && [[ -n $running ]]; then
    report+=("$(printf '%-14s %-7s %3d s' "$running" FAILED $((SECONDS - began)))")
  fi
  printf '\n%s\n' "-- steps of make test"
  printf '%s\n' "${report[@]}"
  if ((code != 0)); then
    echo "make test failed in step $running; alone it runs by: hack/test/all.sh $running" >&2
  fi
  exit "$code"
}
trap finish EXIT

# step NAME COMMAND...: stops everything when it fails. (Never under `if`: that would switch errexit off inside.)
step() {
  running=$1
  shift
  if ((${#only[@]})) && [[ " ${only[*]} " != *" $running "* ]]; then
    return 0
  fi
  printf '\n== %s\n' "$running"
  began=$SECONDS
  skipped=
  "$@"
  report+=("$(printf '%-14s %-7s %3d s' "$running" "${skipped:-ok}" $((SECONDS - began)))")
}

pure() { cargo check --locked --quiet --no-default-features --lib; }
docs() { RUSTDOCFLAGS='-D warnings' cargo doc --locked --quiet --no-deps -p graphtoken -p entra-simulator -p graphtoken-bench; }
scripts() {
  local found
  mapfile -t found < <(git ls-files -co --exclude-standard -- '*.sh' .ci/run)
  shellcheck -x "${found[@]}"
}
lost() { cargo test --locked --test crash --test model; }
# Of the release that `make build` left here, if it did: building one takes minutes. `make reproducible` builds two.
paths() {
  local status=0
  hack/test/paths.sh || status=$?
  if ((status == 77)); then
    echo "SKIPPED: paths in the release: \`make build\` has built none here"
    skipped=skipped
    return 0
  fi
  return "$status"
}
# A hostile provider, network and neighbour, without a cluster. Most of it waits for deadlines.
hostile() { RUST_TEST_THREADS=8 cargo test --locked --test hostile; }
simulator() { cargo test --locked --quiet -p entra-simulator -p graphtoken-bench; }
venvs() {
  local name
  for name in o365 o365-2.0 airflow; do hack/python/venv.sh "$name" >/dev/null; done
}
# What reads the file in pods, without Kubernetes: with mount namespaces and port 443, so as root on Linux.
clients() {
  if [[ $(uname -s) != Linux || $(id -u) != 0 ]]; then
    echo "SKIPPED: the consumers of the token file: they need root on Linux"
    skipped=skipped
    return 0
  fi
  cargo build --locked --quiet -p entra-simulator
  "$(hack/python/venv.sh)/bin/python" tests/clients/local_test.py
  "$(hack/python/venv.sh airflow)/bin/python" tests/clients/examples_test.py
}
oidc() { (cd tests/providers/oidc && npm ci --silent && node --test --test-reporter=dot); }
cluster() {
  if [[ ! -e .cluster/kubeconfig ]]; then
    brought_up=yes
  fi
  local last
  last=$(make -s cluster-up | tee -a /dev/stderr | tail -n 1)
  (
    eval "$last"
    # Most of them wait most of the time.
    RUST_TEST_THREADS=10 cargo test --locked --test cluster
  )
}

# Not named node: oidc wants the program of that name. Real pods, on a kubelet that looks at their volumes every second. Status 77 of the scripts: no node can run here.
pods() {
  local status=0 last
  hack/node/up.sh --check || status=$?
  if ((status == 77)); then
    echo "SKIPPED: tests in pods, for the reason above"
    skipped=skipped
    return 0
  fi
  tests/hack/node_test.sh
  if [[ ! -e .cluster/kubeconfig ]]; then
    brought_up=yes
  fi
  last=$(NODE_SYNC_FREQUENCY=1s make -s node-up | tail -n 1)
  tests/node/images.sh
  (
    eval "$last"
    RUST_TEST_THREADS=9 cargo test --locked --test node
  )
  make -s node-down
}

# Stops an API server and an etcd for a minute: its own.
outage() { RUST_TEST_THREADS=10 cargo test --locked --test outage; }

# CRDs, statuses and credentials of another version.
skew() { RUST_TEST_THREADS=2 cargo test --locked --test skew; }
# Each brings up a control plane of its own: one after the other.
tenants() { RUST_TEST_THREADS=1 cargo test --locked --test tenants; }
# That every figure can be taken: what they are says nothing here.
bench() { make -s bench SHORT=1 >/dev/null; }

step prerequisites hack/test/prerequisites.sh
step check make -s check
step pure pure
step docs docs
step scripts scripts
step deny hack/test/deny.sh
step release hack/test/release.sh
step build make -s build
step paths paths
step hostile hostile
step simulator simulator
step lost lost
step fuzz hack/test/fuzz.sh
step oidc oidc
step venv venvs
step python hack/python/client.sh
step clients clients
step cluster cluster
step node pods
step image tests/hack/image_test.sh
step chart tests/hack/chart_test.sh
step guide hack/test/guide.sh
step monitoring hack/test/monitoring.sh
step outage outage
step skew skew
step tenants tenants
step bench bench
step binaries tests/hack/cluster_binaries_test.sh
step demo tests/demo_test.sh
