# shellcheck shell=bash
# Everything the node needs on disk before its first process starts. All of it goes with the node, but for its
# certificates. Sourced by up.sh, after lib.sh and the cluster's configure.sh, whose functions it uses.
# The folders in these settings are those that the node sees; see inside.sh.

containerd_settings() {
  local plugins=/usr/lib/cni
  [[ -x $plugins/loopback ]] || plugins=/opt/cni/bin
  cat >"$NODE/containerd.toml" <<TOML
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
# The ones that need a file system we do not have, or write elsewhere.
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "$PAUSE_IMAGE"
disable_apparmor = true
restrict_oom_score_adj = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "$plugins"
conf_dir = "/run/containerd/cni"
TOML
  # Pods use the machine's network (hostNetwork); containerd wants to see a network of some kind all the same.
  mkdir -p -- "$NODE/run/cni"
  echo '{"cniVersion": "0.4.0", "name": "loopback", "plugins": [{"type": "loopback"}]}' >"$NODE/run/cni/loopback.conflist"
}

# kubelet_settings PORT HEALTH-PORT: what users have, but for where it listens and what it may do to the machine:
# no iptables rules, no removal of images (they come from no registry), no eviction while there is any room at all.
kubelet_settings() {
  cat >"$NODE/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 127.0.0.1
port: $1
readOnlyPort: 0
healthzBindAddress: 127.0.0.1
healthzPort: $2
tlsCertFile: "$PKI/server.crt"
tlsPrivateKeyFile: "$PKI/server.key"
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: "$PKI/ca.crt"}}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
volumePluginDir: /var/lib/kubelet/volume-plugins
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP
enforceNodeAllocatable: []
makeIPTablesUtilChains: false
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {nodefs.available: "1%", imagefs.available: "1%"}
syncFrequency: ${NODE_SYNC_FREQUENCY:-1m}
YAML
}

# configure_node: an empty $NODE; every start gets new ports.
configure_node() {
  local ports name
  mapfile -t ports < <(choose_ports 2)
  mkdir -p -- "$NODE"
  for name in kube-scheduler kubelet; do
    if [[ ! -e $PKI/$name.crt ]]; then
      case $name in
        kubelet) certificate kubelet "/O=system:nodes/CN=system:node:$NODE_NAME" extendedKeyUsage=clientAuth ;;
        *) certificate "$name" "/CN=system:$name" extendedKeyUsage=clientAuth ;;
      esac
    fi
    kubeconfig "$name" "$NODE/$name.kubeconfig" "$(<"$RUN/port")"
  done
  containerd_settings
  kubelet_settings "${ports[@]}"
  echo "${ports[1]}" >"$RUN/kubelet-port"
  # Not a link to itself: where node-up's line was evaluated, $BIN is the first place that is looked in.
  rm -f -- "$BIN/containerd"
  ln -s -- "$(realpath -- "$(type -P containerd)")" "$BIN/containerd"
  cp -- "$("$NODE_SCRIPTS/images.sh" pause --program)" "$NODE/pause"

  command_line kube-scheduler --kubeconfig="$NODE/kube-scheduler.kubeconfig" --leader-elect=false --secure-port=0
  command_line containerd --config="$NODE/containerd.toml"
  # External: the node's address, which is ours to set, is left as it is. Kubelet itself refuses one on loopback.
  command_line kubelet --config="$NODE/kubelet.yaml" --kubeconfig="$NODE/kubelet.kubeconfig" \
    --hostname-override="$NODE_NAME" --cloud-provider=external --cert-dir=/var/lib/kubelet/pki
  printf '%s\0' unshare --fork --pid --kill-child --mount --propagation slave -- bash "$NODE_SCRIPTS/inside.sh" "$NODE" >"$RUN/node.args"
}
