#!/bin/sh
# Makes one request with curl and a mounted header file, as `curl -H @header URL` does, and reports what came of it as one
# JSON object: the status, and the SHA-256 of the token in the file. Ends with 0 only if the API answered 200.
# curl reads the file, so the token is on no command line. CURL_CA_BUNDLE names an authority of one's own.
# Usage: curl_check.sh TOKEN_DIR [URL]
set -u
header=$1/header
if [ ! -r "$header" ]; then
  echo '{"error": "the header file cannot be read"}'
  exit 1
fi
url=${2:-https://graph.microsoft.com/v1.0/me}
sent=$(sed -n 's/^Authorization: Bearer //p' "$header" | tr -d '\n' | sha256sum | cut -d ' ' -f 1)
status=$(curl --noproxy '*' --silent --max-time 30 --output /dev/null --write-out '%{http_code}' -H "@$header" "$url")
code=$?
printf '{"request_status": %d, "file_bearer_sha256": "%s", "curl_exit": %d}\n' "${status:-0}" "$sent" "$code"
[ "$status" = 200 ]
