#!/bin/sh
# Makes the certificates and keys beside this file anew. They are for tests alone: no server knows them.
# Their times are fixed, so that tests with a clock of their own can use them; openssl ca alone can set them.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/ca.cnf" <<CONF
[ca]
default_ca = test
[test]
database = $work/index.txt
new_certs_dir = $work
rand_serial = yes
default_md = sha256
policy = any
x509_extensions = client
[client]
basicConstraints = critical,CA:FALSE
extendedKeyUsage = clientAuth
[any]
commonName = supplied
CONF

# certificate NAME KEY FROM TO [ISSUER]
certificate() {
    : >"$work/index.txt"
    openssl req -new -key "$2" -subj "/CN=$1" -config /dev/null -out "$work/csr"
    if [ $# -gt 4 ]; then set -- "$1" "$5.key" "$3" "$4" -cert "$5.crt"; else set -- "$@" -selfsign; fi
    name=$1 key=$2 from=$3 to=$4
    shift 4
    openssl ca -batch -notext -config "$work/ca.cnf" -keyfile "$key" -startdate "$from" -enddate "$to" "$@" \
        -in "$work/csr" -out "$name.crt" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
}

for name in client other; do openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$name.key"; done
openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out short.key
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out curve.key
openssl rsa -in client.key -traditional -out client.pkcs1.key 2>/dev/null
openssl ec -in curve.key -out curve.sec1.key 2>/dev/null
openssl pkcs8 -topk8 -in client.key -passout pass:test -out client.encrypted.key
openssl rsa -in client.key -traditional -aes128 -passout pass:test -out client.encrypted-pkcs1.key 2>/dev/null

# From 2050 on X.509 writes years with four digits.
for name in client other short curve; do certificate "$name" "$name.key" 20200101000000Z 20760101000000Z; done
certificate expired client.key 20180101000000Z 20190101000000Z
certificate future client.key 20700101000000Z 20760101000000Z
certificate issued client.key 20200101000000Z 20460101000000Z other
