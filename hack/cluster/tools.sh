# shellcheck shell=bash
# shellcheck disable=SC2034  # what is set here is read by the scripts that source this
# The one list of programs that the local cluster runs or offers, with where each one is to be had.
# A new one is a line in TOOLS, `go get -tool PACKAGE` in this folder for the last
# source, and, when it is published in a new way, a case in `locate_release`. Sourced by binaries.sh.

# name | how it is released | Go module whose version in go.mod is the tool's version | Go package with its main
TOOLS=(
  'kube-apiserver          | kubernetes | k8s.io/kubernetes        | k8s.io/kubernetes/cmd/kube-apiserver'
  'etcd                    | etcd       | go.etcd.io/etcd/server/v3 | go.etcd.io/etcd/server/v3'
  'kubectl                 | kubernetes | k8s.io/kubernetes        | k8s.io/kubernetes/cmd/kubectl'
  'kube-controller-manager | kubernetes | k8s.io/kubernetes        | k8s.io/kubernetes/cmd/kube-controller-manager'
  'kube-scheduler          | kubernetes | k8s.io/kubernetes        | k8s.io/kubernetes/cmd/kube-scheduler'
  'kubelet                 | kubernetes | k8s.io/kubernetes        | k8s.io/kubernetes/cmd/kubelet'
  'helm                    | helm       | helm.sh/helm/v4           | helm.sh/helm/v4/cmd/helm'
)

# Where official releases are downloaded from; a mirror is named by the variable, an empty value skips the download.
KUBERNETES_URL=${CLUSTER_KUBERNETES_URL-https://dl.k8s.io}
ETCD_URL=${CLUSTER_ETCD_URL-https://github.com/etcd-io/etcd/releases/download}
HELM_URL=${CLUSTER_HELM_URL-https://get.helm.sh}

# tool NAME: sets TOOL_RELEASE, TOOL_VERSION, TOOL_PACKAGE from the list and go.mod.
tool() {
  local row name module
  for row in "${TOOLS[@]}"; do
    IFS='|' read -r name TOOL_RELEASE module TOOL_PACKAGE <<<"${row// /}"
    [[ $name == "$1" ]] || continue
    # Versions stand in go.mod alone, so that a download and a build can never differ.
    TOOL_VERSION=$(awk -v m="$module" '$1 == m && $2 ~ /^v/ {print $2; exit}' "$HERE/go.mod")
    [[ -n $TOOL_VERSION ]] || die "hack/cluster/go.mod names no version of $module." \
      "Run in hack/cluster: go get -tool $TOOL_PACKAGE"
    return 0
  done
  die "Unknown tool: $1." "Add it to TOOLS in hack/cluster/tools.sh."
}

# locate_release NAME: sets RELEASE_URL, RELEASE_SUMS (its checksum file) and RELEASE_MEMBER (the path inside a
# tarball, empty where the download is the program itself); status 1 where the download is switched off.
locate_release() {
  local v=$TOOL_VERSION
  case $TOOL_RELEASE in
    kubernetes)
      [[ -n $KUBERNETES_URL ]] || return 1
      RELEASE_URL=$KUBERNETES_URL/$v/bin/$OS/$ARCH/$1 RELEASE_SUMS=$KUBERNETES_URL/$v/bin/$OS/$ARCH/$1.sha256
      RELEASE_MEMBER=
      ;;
    etcd)
      [[ -n $ETCD_URL ]] || return 1
      RELEASE_URL=$ETCD_URL/$v/etcd-$v-$OS-$ARCH.tar.gz RELEASE_SUMS=$ETCD_URL/$v/SHA256SUMS
      RELEASE_MEMBER=etcd-$v-$OS-$ARCH/$1
      ;;
    helm)
      [[ -n $HELM_URL ]] || return 1
      RELEASE_URL=$HELM_URL/helm-$v-$OS-$ARCH.tar.gz RELEASE_SUMS=$HELM_URL/helm-$v-$OS-$ARCH.tar.gz.sha256sum
      RELEASE_MEMBER=$OS-$ARCH/$1
      ;;
    *) die "hack/cluster/tools.sh: nothing is known of releases of the kind '$TOOL_RELEASE'." "Add a case to locate_release." ;;
  esac
}

# link_flags: what the linker writes into the program, so that it reports the version that it is.
link_flags() {
  local flags='-s -w' v=$TOOL_VERSION p=k8s.io/component-base/version minor
  case $TOOL_RELEASE in
    kubernetes)
      minor=${v#*.}
      flags+=" -X $p.gitVersion=$v -X $p.gitMajor=${v:1:1} -X $p.gitMinor=${minor%%.*} -X $p.gitTreeState=clean"
      ;;
    helm) flags+=" -X helm.sh/helm/v4/internal/version.version=$v" ;;
  esac
  printf '%s' "$flags"
}
