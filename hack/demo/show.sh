# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153  # what is set here is read by run.sh, and the other way round
# What is shown, step by step; the table itself is in watch.sh. Sourced by run.sh.

# token_requests: how many the simulator has been sent so far, of whatever outcome.
token_requests() {
  loopback "$SIMULATOR/_sim/journal?token_from=1000000000&graph_from=1000000000" |
    "$PYTHON" -I -c 'import json, sys; print(sum(sum(g.values()) for g in json.load(sys.stdin)["counts"].values()))'
}

apply_graphtoken() {
  heading "[4/7] A sign-in as a Secret, and a GraphToken: examples/quickstart/graphtoken.yaml, pointed at the simulator"
  k create secret generic seed --from-file=token="$RUN/seed" | quote
  kubectl patch --local -f examples/quickstart/graphtoken.yaml --type merge -o yaml \
    -p "{\"spec\": {\"tenant\": \"$TENANT\", \"endpoints\": {\"token\": \"$TOKEN_URL\", \"graph\": \"$SIMULATOR\"}}}" >"$RUN/graphtoken.yaml"
  quote <"$RUN/graphtoken.yaml"
  APPLIED_MS=$(now_ms)
  k apply -f "$RUN/graphtoken.yaml" | quote
}

# another_secret UID: sets SECRET_UID; whether there is a Secret with another one.
another_secret() {
  SECRET_UID=$(k get secret "$NAME" --ignore-not-found -o 'jsonpath={.metadata.uid}') || return 1
  [[ -n $SECRET_UID && $SECRET_UID != "$1" ]]
}

delete_secret() {
  heading "[5/7] Somebody deletes the Secret"
  local requests fingerprint=$FINGERPRINT began
  requests=$(token_requests)
  SECRET_UID=$(k get secret "$NAME" -o 'jsonpath={.metadata.uid}')
  began=$(now_ms)
  k delete secret "$NAME" --wait=false | quote
  await 30 another_secret "$SECRET_UID" || die "The Secret did not come back within 30 s." "$READ_LOG"
  BACK=$(seconds $(($(now_ms) - began)))
  look
  [[ $FINGERPRINT == "$fingerprint" ]] ||
    die "The Secret came back with another token: $FINGERPRINT, not $fingerprint." "$READ_LOG"
  [[ $(token_requests) == "$requests" ]] ||
    die "The simulator was asked for a token: $(token_requests) requests, not $requests." "$READ_LOG"
  ok "it came back within $BACK, with the same token; the simulator was asked nothing (token requests: still $requests)"
}

# accepted: whether the operator has tried the token at Graph, and it was taken.
accepted() {
  [[ $(k get graphtoken "$NAME" -o 'jsonpath={.status.conditions[?(@.type=="Verified")].reason}') == Accepted ]]
}

use_token() {
  heading "[6/7] The real python-o365 reads the file as a pod would, and calls /me"
  local mount=$RUN/mount report=$RUN/o365.json file token client_id version sent
  # A copy of the file, as the kubelet makes one; nobody may write it.
  mkdir -- "$mount"
  read -r file token < <(k get secret "$NAME" -o 'jsonpath={.data.o365_token\.txt} {.data.token}{"\n"}')
  base64 -d <<<"$file" >"$mount/o365_token.txt"
  chmod 0400 -- "$mount/o365_token.txt"
  chmod 0500 -- "$mount"
  client_id=$(k get graphtoken "$NAME" -o 'jsonpath={.spec.clientId}')
  version=$("$VENV/bin/python" -I -c 'import importlib.metadata as m; print(m.version("O365"))')
  say "O365 $version, with .demo/run/mount/o365_token.txt, which is read-only"
  "$VENV/bin/python" -I tests/clients/o365_check.py --token-dir "$mount" --client-id "$client_id" --tenant-id "$TENANT" \
    --api-url "$SIMULATOR" >"$report" || die "tests/clients/o365_check.py failed: see above." "$READ_LOG"
  [[ $(member is_authenticated <"$report") == True && $(member request_status <"$report") == 200 ]] ||
    die "python-o365 could not use the file. It reports: $(<"$report")" "$READ_LOG"
  sent=$(member sent_bearer_sha256 <"$report") UPN=$(member upn <"$report")
  [[ $sent == "$(fingerprint_of "$token")"* ]] || die "python-o365 sent another token than the Secret's." "$READ_LOG"
  ok "GET /v1.0/me was answered with 200, for $UPN; the token sent was the Secret's, ${sent:0:12}"
  await 10 accepted || die "The operator has not tried the token at Graph." "$READ_LOG"
  ok "the operator tried it there as well: condition Verified is True, Accepted"
}

summarize() {
  heading "[7/7] What you saw"
  ok "a token in the Secret $NAME, $(seconds $((FIRST_MS - APPLIED_MS))) after kubectl apply"
  if ((REFRESHES > 0)); then
    ok "the token refreshed $REFRESHES times, after $INTERVALS of its $TOKEN_LIFE s; READY throughout"
  fi
  ok "a deleted Secret came back within $BACK, without a new exchange"
  ok "python-o365 read it from a read-only file, and was $UPN"
  printf '\n  Try next\n'
  if [[ -z $KEEP ]]; then say "make demo KEEP=1                       the same, left running for a look around"; fi
  say "docs/getting-started.md                with Helm, a sign-in by kubectl graphtoken login, and a pod, on this machine too"
  say "examples/quickstart/graphtoken.yaml    the same for your tenant"
  say "examples/                              other ways to sign in: device code, certificate, workload identity, a shared client"
  say "make test                              everything the project tests"
}

keep() {
  : >"$RUN/kept"
  KEPT=1
  cat <<TEXT

  It goes on. To look around:
    source .demo/run/cluster.env
    kubectl -n $NAMESPACE get graphtokens -o wide --watch
    kubectl -n $NAMESPACE describe graphtoken $NAME
    kubectl -n $NAMESPACE get secrets,events
    kubectl -n $NAMESPACE annotate --overwrite graphtoken $NAME graphtoken.io/requested-at="\$(date)"
    curl -s $OPERATOR/metrics | grep ^graphtoken
    curl -s $SIMULATOR/_sim/journal
    tail -f .demo/run/operator.log
  To end it: hack/demo/down.sh
TEXT
}
