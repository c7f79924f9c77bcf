#!/usr/bin/env bash
# Tests hack/image: that the image is the same each time, holds what it must and no more, and runs in pods of a real node
# as careful users run theirs. Prints its figures. The node is that of a copy of hack/ in a temporary folder; the
# checkout's own cluster is not touched. Skipped, with the reason, where no node can run. Usage: tests/hack/image_test.sh

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib/check.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/check.sh"
chmod 755 "$T"
ONE="$T/one"
IMAGE=graphtoken.test/graphtoken-operator:tested
export IMAGE

cleanup() {
  # Checks run in shells of their own: a file tells of what one of them left running.
  if [[ -e $T/operator.pid ]]; then kill "$(<"$T/operator.pid")" 2>/dev/null || true; fi
  if [[ -d $ONE ]]; then "$ONE/hack/cluster/down.sh" >/dev/null 2>&1 || true; fi
}

in_one() { (eval "$(<"$T/one.export")" && "$@"); }

# What it builds with a registry, as far as can be told without one.
the_dockerfiles_context_is_all_that_cargo_wants() {
  local path context=$T/context
  mkdir -- "$context"
  (cd -- "$ROOT" && sed -n 's/^!//p' .dockerignore | xargs cp --parents -R -t "$context" --)
  (cd -- "$context" && cargo metadata --locked --offline --format-version 1 >/dev/null)
  # What the code includes must be in src/.
  fails grep -rnE 'include_(str|bytes)!' "$context/src" --include='*.rs' --exclude-dir=tests
  for path in Dockerfile hack/build.sh hack/image/files.sh LICENSE; do [[ -e $context/$path ]]; done
}
it_is_built_without_a_registry() {
  SOURCE_DATE_EPOCH=1700000000 "$ROOT/hack/image/build.sh" >"$T/path" 2>"$T/said"
  cat "$T/said"
  cp -- "$(tail -n 1 "$T/path")" "$T/first.tar"
}
the_same_files_give_the_same_bytes() {
  SOURCE_DATE_EPOCH=1700000000 "$ROOT/hack/image/build.sh" >"$T/path" 2>"$T/said"
  cmp "$T/first.tar" "$(tail -n 1 "$T/path")"
}
# Sets CONFIG (JSON) and lists the one layer's files in $T/files.
open_image() {
  local manifest
  manifest=$(tar -xOf "$T/first.tar" ./index.json | jq -r '.manifests[0].digest | sub(":"; "/")')
  tar -xOf "$T/first.tar" "./blobs/$manifest" >"$T/manifest.json"
  [[ $(jq '.layers | length' "$T/manifest.json") == 1 ]]
  tar -xOf "$T/first.tar" "./blobs/$(jq -r '.layers[0].digest | sub(":"; "/")' "$T/manifest.json")" >"$T/layer"
  tar -tvf "$T/layer" >"$T/files"
  CONFIG=$(tar -xOf "$T/first.tar" "./blobs/$(jq -r '.config.digest | sub(":"; "/")' "$T/manifest.json")")
}
it_holds_the_binary_its_libraries_roots_and_licences() {
  open_image
  cat "$T/files"
  # Nothing beside these, so no shell either; nothing that could be written to by another than root, no setuid.
  fails grep -vE ' (\./)?((|graphtoken|(usr/)?lib(64)?/.*|etc/|etc/nsswitch\.conf|etc/ssl/.*|licenses/.*)|(usr|lib64|lib)/)$' "$T/files"
  fails grep -vE '^[-d]r[w-][x-]r-[x-]r-[x-] (0|root)/(0|root) ' "$T/files"
  grep -q ' \(\./\)\?licenses/LICENSE$' "$T/files"
  grep -q ' \(\./\)\?etc/ssl/certs/ca-certificates.crt$' "$T/files"
}
it_says_what_it_is_and_who_runs_it() {
  open_image
  echo "$CONFIG"
  jq -e --arg v "$(version)" '.config.User == "65532:65532" and .config.Entrypoint == ["/graphtoken"] and .config.Cmd == ["run"]
    and .config.Labels["org.opencontainers.image.version"] == $v and .created == "2023-11-14T22:13:20Z"' <<<"$CONFIG"
}
the_node_takes_it() {
  mkdir -p -- "$ONE/hack"
  cp -R -- "$ROOT/hack/cluster" "$ROOT/hack/node" "$ONE/hack/"
  cp -- "$ROOT/Makefile" "$ONE/"
  make -sC "$ONE" node-up | tail -n 1 >"$T/one.export"
  "$ONE/hack/node/images.sh" import "$T/first.tar" "$IMAGE"
}
# ended NAME USER ARGUMENT...: the log of a pod that ran so; USER is empty for the image's own.
ended() {
  local name=$1 user=$2
  shift 2
  in_one kubectl create -f - <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $name}
spec:
  hostNetwork: true
  restartPolicy: Never
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, ${user:+runAsUser: $user, runAsGroup: 0,} seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: operator
      image: $IMAGE
      imagePullPolicy: Never
      args: $(jq -cn '$ARGS.positional' --args -- "$@")
      securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
YAML
  in_one kubectl wait --for=jsonpath='{.status.phase}'=Succeeded "pod/$name" --timeout=60s || {
    in_one kubectl describe "pod/$name"
    return 1
  }
  in_one kubectl logs "$name" >"$T/$name.log"
}
it_runs_as_its_own_user() {
  ended own '' --version
  [[ $(<"$T/own.log") == "graphtoken $(version)" ]]
}
it_runs_as_any_user_as_openshift_has_it() {
  ended any 1000660000 crd
  cmp "$T/any.log" "$ROOT/crds/graphtokens.yaml"
}
# With nothing but the image's files: no library of this machine is in reach.
it_gets_ready() {
  local root=$T/root log=$T/operator.log address began i operator
  in_one kubectl apply --server-side -f "$ROOT/crds/"
  in_one kubectl wait --for=condition=Established crd --all --timeout=30s
  cp -R -- "$(dirname -- "$(tail -n 1 "$T/path")")/files" "$root"
  mkdir -p -- "$root/dev"
  cp -- "$ONE/.cluster/kubeconfig" "$root/kubeconfig"
  chmod 0444 "$root/kubeconfig"
  # It is looked into before the operator has written anything.
  : >"$log"
  began=$(date +%s%3N)
  env -i KUBECONFIG=/kubeconfig NO_COLOR=1 "$(type -P chroot)" --userspec=1000660000:0 "$root" /graphtoken run --listen=127.0.0.1:0 >"$log" 2>&1 &
  operator=$!
  echo "$operator" >"$T/operator.pid"
  for ((i = 0; i < 2000; i++)); do
    address=$(sed -n 's/.* address=\([0-9.:]*\).*/\1/p' "$log" | head -n 1)
    if [[ -n $address ]] && curl -sf --noproxy '*' -o /dev/null "http://$address/readyz"; then break; fi
    sleep 0.005
  done
  curl -sf --noproxy '*' -o /dev/null "http://$address/readyz" || { cat "$log"; return 1; }
  printf '  ready   %s ms after its start, against a real API server\n' "$(($(date +%s%3N) - began))" >"$T/ready"
  awk '/^VmHWM/ {printf "  memory  %d KiB resident at most, once ready\n", $2}' "/proc/$operator/status" >>"$T/ready"
  kill "$operator"
  wait "$operator"
  rm -- "$T/operator.pid"
}

if ! "$ROOT/hack/node/up.sh" --check; then
  echo "SKIPPED: the image, and pods of it, for the reason above"
  exit 0
fi
for behaviour in \
  the_dockerfiles_context_is_all_that_cargo_wants \
  it_is_built_without_a_registry the_same_files_give_the_same_bytes it_holds_the_binary_its_libraries_roots_and_licences \
  it_says_what_it_is_and_who_runs_it the_node_takes_it it_runs_as_its_own_user it_runs_as_any_user_as_openshift_has_it \
  it_gets_ready; do
  check "${behaviour//_/ }" "$behaviour"
done
cat "$T/said" "$T/ready" 2>/dev/null || true
conclude
