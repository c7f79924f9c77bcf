#!/usr/bin/env bash
# The image that the tests' pods run, in this checkout's node: Python with python-o365 of both lines and with our package, Go's
# oauth2, curl, rclone, and the programs of tests/clients. It bears the names that the examples use, too.
set -euo pipefail
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)

o365=$("$ROOT/hack/python/venv.sh")
o365_2_0=$("$ROOT/hack/python/venv.sh" o365-2.0)
go_oauth2=$("$ROOT/tests/clients/go/build.sh")
packages=$("$o365/bin/python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$ROOT/hack/node/images.sh" clients \
  --tag graphtoken.test/clients:local --tag docker.io/contoso/airflow-o365:3.3.2 \
  --tag docker.io/curlimages/curl:8.16.0 --tag docker.io/rclone/rclone:1.71 \
  --venv "$o365" --venv "$o365_2_0" \
  --tree "$ROOT/clients/python/src/graphtoken:$packages/graphtoken" \
  --tree "$ROOT/tests/clients:/opt/clients" --file "$go_oauth2:/usr/local/bin/go-oauth2"
