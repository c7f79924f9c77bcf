# shellcheck shell=bash
# shellcheck disable=SC2034  # what is set here is read by run.sh
# The table: the GraphToken and its Secret, a row whenever either has changed. A token is shown by the beginning of its
# SHA-256 only. Sourced by run.sh.

POLL=0.4 # seconds

# One line an object, of which each fills its own fields.
readonly FIELDS='{range .items[*]}{.kind}|{.metadata.resourceVersion}|{.status.conditions[?(@.type=="Ready")].status}|'\
'{.status.conditions[?(@.type=="Stalled")].reason}|{.status.refreshCount}|{.status.expiresAt}|'\
'{.status.target.resourceVersion}|{.data.token}{"\n"}{end}'

# fingerprint_of BASE64: here-strings, since other users of this machine see what a program is started with.
fingerprint_of() { base64 -d <<<"$1" | sha256sum | cut -c1-12; }

# look: sets READY STALLED COUNT EXPIRES TOLD_VERSION, and SECRET_VERSION FINGERPRINT, to what is there now.
look() {
  local seen kind version ready stalled count expires told token
  READY='' STALLED='' COUNT='' EXPIRES='' TOLD_VERSION='' SECRET_VERSION='' FINGERPRINT=''
  seen=$(k get "graphtoken/$NAME" "secret/$NAME" --ignore-not-found -o "jsonpath=$FIELDS") || return 1
  while IFS='|' read -r kind version ready stalled count expires told token; do
    case $kind in
      GraphToken) READY=$ready STALLED=$stalled COUNT=$count EXPIRES=$expires TOLD_VERSION=$told ;;
      Secret)
        SECRET_VERSION=$version
        FINGERPRINT=$(fingerprint_of "$token")
        ;;
    esac
  done <<<"$seen"
}

# is_settled: the two were read one after the other, and the Secret is written before the status.
is_settled() { [[ $TOLD_VERSION == "$SECRET_VERSION" ]]; }

readonly ROW='  %-8s  %-5s  %12s  %10s  %-12s  %s\n'
row() {
  local left=-
  if [[ -n $EXPIRES ]]; then left="$(($(date -d "$EXPIRES" +%s) - $(date +%s))) s"; fi
  # shellcheck disable=SC2059  # one format for all rows
  printf "$ROW" "$(date +%T)" "${READY:--}" "${COUNT:--}" "$left" "${FINGERPRINT:--}" "${SECRET_VERSION:--}"
}

# watch_refreshes: until there were as many as wanted after the first token. Sets FIRST_MS and INTERVALS.
watch_refreshes() {
  local patience=$((30 + REFRESHES * TOKEN_LIFE)) shown='' count=0 fingerprint='' at
  local deadline=$((SECONDS + patience))
  FIRST_MS='' INTERVALS=''
  printf '\n'
  say 'refreshCount counts the first token too. A refresh is due at half of the life, or up to a tenth earlier.'
  printf '\n'
  # shellcheck disable=SC2059  # one format for all rows
  printf "$BOLD$ROW$PLAIN" TIME READY REFRESHCOUNT 'EXPIRES IN' 'TOKEN SHA256' 'SECRET VERSION'
  until ((count > REFRESHES)); do
    services_live || die "The operator or the simulator has ended." "$READ_LOG"
    ((SECONDS < deadline)) || die "After $patience s refreshCount is $count, not $((REFRESHES + 1))." "$READ_LOG"
    if look && is_settled && [[ "$READY|$STALLED|$COUNT|$SECRET_VERSION" != "$shown" ]]; then
      shown="$READY|$STALLED|$COUNT|$SECRET_VERSION"
      row
      [[ -z $STALLED ]] || die "The GraphToken says that a person must act: $STALLED." "See the condition Stalled below."
      [[ -z $FIRST_MS || $READY == True ]] || die "READY was True and is ${READY:-gone} now." "$READ_LOG"
      if ((${COUNT:-0} > count)); then
        [[ $FINGERPRINT != "$fingerprint" ]] || die "refreshCount went up, but the token is the old one." "$READ_LOG"
        count=$COUNT fingerprint=$FINGERPRINT
        if [[ -n $FIRST_MS ]]; then
          INTERVALS+="${INTERVALS:+, }$(seconds $(($(now_ms) - at)))"
        else
          FIRST_MS=$(now_ms)
        fi
        at=$(now_ms)
      fi
    fi
    sleep "$POLL"
  done
}
