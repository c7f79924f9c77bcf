# shellcheck shell=bash
# Everything a new cluster needs on disk before its first process starts: ports, certificates, kubeconfigs and the
# components' command lines. All of it is for one cluster and goes with it. Sourced by up.sh, after lib.sh.

# choose_ports N: prints N ports that nothing uses, by the kernel's own tables of sockets. They lie below the range that
# the kernel gives to outgoing connections: a port from that range could be taken while a component is down for a test,
# even by a client that, dialling it again and again, connects to itself.
choose_ports() {
  local low=20000 high port
  local -A used=()
  read -r high _ </proc/sys/net/ipv4/ip_local_port_range
  ((high > low + 1000)) || high=32768
  while read -r port; do used[$((16#$port))]=1; done \
    < <(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk '$2 ~ /:/ {sub(/.*:/, "", $2); print $2}')
  local left=$1
  while ((left > 0)); do
    port=$((low + RANDOM % (high - low)))
    [[ ! -v used[$port] ]] || continue
    used[$port]=1 left=$((left - 1))
    printf '%s\n' "$port"
  done
}

# certificate NAME SUBJECT EXTENSIONS: a key and a certificate of the cluster's own CA.
certificate() {
  openssl ecparam -name prime256v1 -genkey -noout -out "$PKI/$1.key"
  openssl req -new -key "$PKI/$1.key" -subj "$2" |
    openssl x509 -req -days 3650 -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -set_serial "0x$(openssl rand -hex 16)" \
      -extfile <(printf '%s\n' 'basicConstraints=critical,CA:FALSE' "$3") -out "$PKI/$1.crt" 2>"$LOG/openssl.log"
}

make_certificates() {
  openssl ecparam -name prime256v1 -genkey -noout -out "$PKI/ca.key"
  openssl req -x509 -new -key "$PKI/ca.key" -days 3650 -subj /CN=graphtoken-local-cluster -out "$PKI/ca.crt"
  # One certificate serves the API server and etcd, and is what the API server shows etcd.
  certificate server /CN=kube-apiserver \
    $'extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=IP:127.0.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local'
  certificate admin /O=system:masters/CN=admin extendedKeyUsage=clientAuth
  certificate kube-controller-manager /CN=system:kube-controller-manager extendedKeyUsage=clientAuth
  # RSA, as most clusters have it: outside parties verify service account tokens too.
  openssl genrsa -out "$PKI/service-account.key" 2048 2>"$LOG/openssl.log"
  openssl rsa -in "$PKI/service-account.key" -pubout -out "$PKI/service-account.pub" 2>"$LOG/openssl.log"
}

# kubeconfig USER FILE PORT: everything embedded, so that the file may be copied away.
kubeconfig() {
  cat >"$2" <<EOF
apiVersion: v1
kind: Config
clusters:
  - name: graphtoken-local
    cluster: {server: "https://127.0.0.1:$3", certificate-authority-data: $(base64 -w0 "$PKI/ca.crt")}
users:
  - name: $1
    user: {client-certificate-data: $(base64 -w0 "$PKI/$1.crt"), client-key-data: $(base64 -w0 "$PKI/$1.key")}
contexts:
  - name: graphtoken-local
    context: {cluster: graphtoken-local, user: $1}
current-context: graphtoken-local
EOF
}

# command_line NAME ARGUMENT...: kept, so that a component can be started again just as it was.
command_line() {
  local name=$1
  shift
  printf '%s\0' "$BIN/$name" "$@" >"$RUN/$name.args"
}

# configure: a new cluster in an empty $STATE; every start gets new ports.
configure() {
  local api etcd peer ports
  mapfile -t ports < <(choose_ports 3)
  api=${ports[0]} etcd=${ports[1]} peer=${ports[2]}
  mkdir -p -- "$RUN" "$LOG" "$PKI"
  [[ -e $PKI/ca.crt ]] || make_certificates
  kubeconfig admin "$STATE/kubeconfig" "$api"
  kubeconfig kube-controller-manager "$STATE/kube-controller-manager.kubeconfig" "$api"
  echo "$api" >"$RUN/port"
  echo "$etcd" >"$RUN/etcd-port"

  # etcd asks for certificates too: it holds every Secret, and loopback is open to all users of the machine.
  command_line etcd \
    --name=local --data-dir="$STATE/etcd" --unsafe-no-fsync --log-level=warn \
    --listen-client-urls="https://127.0.0.1:$etcd" --advertise-client-urls="https://127.0.0.1:$etcd" \
    --listen-peer-urls="https://127.0.0.1:$peer" --initial-advertise-peer-urls="https://127.0.0.1:$peer" \
    --initial-cluster="local=https://127.0.0.1:$peer" \
    --client-cert-auth --trusted-ca-file="$PKI/ca.crt" --cert-file="$PKI/server.crt" --key-file="$PKI/server.key" \
    --peer-client-cert-auth --peer-trusted-ca-file="$PKI/ca.crt" \
    --peer-cert-file="$PKI/server.crt" --peer-key-file="$PKI/server.key"

  # The issuer is the address itself, so that service account tokens can be verified by discovery.
  # Audit: blocking, so that a request's line is in the file when its answer is at the client; 3 files of 100 MB.
  command_line kube-apiserver \
    --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --secure-port="$api" --endpoint-reconciler-type=none \
    --service-cluster-ip-range=10.96.0.0/16 --allow-privileged --authorization-mode=Node,RBAC \
    --etcd-servers="https://127.0.0.1:$etcd" --etcd-cafile="$PKI/ca.crt" \
    --etcd-certfile="$PKI/server.crt" --etcd-keyfile="$PKI/server.key" \
    --client-ca-file="$PKI/ca.crt" --tls-cert-file="$PKI/server.crt" --tls-private-key-file="$PKI/server.key" \
    --service-account-issuer="https://127.0.0.1:$api" --service-account-key-file="$PKI/service-account.pub" \
    --service-account-signing-key-file="$PKI/service-account.key" \
    --kubelet-client-certificate="$PKI/server.crt" --kubelet-client-key="$PKI/server.key" \
    --kubelet-certificate-authority="$PKI/ca.crt" --kubelet-preferred-address-types=InternalIP \
    --audit-policy-file="$HERE/audit-policy.yaml" --audit-log-path="$STATE/audit.log" --audit-log-mode=blocking \
    --audit-log-maxsize=100 --audit-log-maxbackup=2

  # It serves nothing itself (port 0): one port less to find.
  command_line kube-controller-manager \
    --kubeconfig="$STATE/kube-controller-manager.kubeconfig" --leader-elect=false --secure-port=0 \
    --use-service-account-credentials --service-account-private-key-file="$PKI/service-account.key" \
    --root-ca-file="$PKI/ca.crt" --kube-api-qps=200 --kube-api-burst=400
}
