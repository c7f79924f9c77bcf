# shellcheck shell=bash
# How scripts speak to people: results and progress to stdout, trouble to stderr, colours on a terminal only and never
# with NO_COLOR (https://no-color.org). Sourced, never run; SAY_NAME is what a complaint begins with.

BOLD='' DIM='' GREEN='' RED='' PLAIN=''
if [[ -t 1 && -t 2 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
  BOLD=$'\e[1m' DIM=$'\e[2m' GREEN=$'\e[32m' RED=$'\e[31m' PLAIN=$'\e[0m'
fi

# heading TEXT, say TEXT, ok TEXT: a new section; a line in it; a line about something that was seen to work.
heading() { printf '\n%s%s%s\n' "$BOLD" "$1" "$PLAIN"; }
say() { printf '  %s\n' "$1"; }
ok() { printf '  %sok%s  %s\n' "$GREEN" "$PLAIN" "$1"; }
# quote: stdin, set off from what we say ourselves.
quote() { sed "s/^/  ${DIM}|${PLAIN} /"; }

# complain WHAT NEXT...: every failure says what to do next.
complain() {
  printf '%s%s: error:%s %s\n' "$RED" "$SAY_NAME" "$PLAIN" "$1" >&2
  shift
  local next
  for next in "$@"; do printf '%s:   next: %s\n' "$SAY_NAME" "$next" >&2; done
}
# die WHAT NEXT...: the same, and that is the end of the script.
die() {
  complain "$@"
  exit 1
}
