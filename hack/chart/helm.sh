#!/usr/bin/env bash
# The project's Helm, with settings of its own: yours are neither read nor changed. It comes from where the cluster's programs
# come from, and is on the PATH of this checkout's cluster from then on. Usage: helm.sh ARGUMENT...

set -euo pipefail
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
bin=$ROOT/target/tools
version=$(awk '$1 == "helm.sh/helm/v4" && $2 ~ /^v/ {print $2; exit}' "$ROOT/hack/cluster/go.mod")
# Where it comes from is said once, not at each call.
if [[ ! -x $bin/helm || $(readlink -- "$bin/helm") != */helm-"$version"-*/helm ]]; then "$ROOT/hack/cluster/binaries.sh" "$bin" helm >&2; fi
if [[ -d $ROOT/.cluster/bin ]]; then ln -sfn -- "$(readlink -f -- "$bin/helm")" "$ROOT/.cluster/bin/helm"; fi
for variable in "${!HELM_@}"; do unset "$variable"; done
export HELM_CACHE_HOME=$ROOT/target/helm/cache HELM_CONFIG_HOME=$ROOT/target/helm/config HELM_DATA_HOME=$ROOT/target/helm/data
exec "$bin/helm" "$@"
