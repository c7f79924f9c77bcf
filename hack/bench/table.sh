#!/usr/bin/env bash
# Puts the figures of a run of `make bench` into docs/capacity.md. Usage: table.sh [RESULTS.jsonl]
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
results=${1:-target/bench/results.jsonl}
page=docs/capacity.md

[[ -s $results ]] || { echo "bench: there is no $results: run make bench first" >&2; exit 1; }
if jq -e 'select(.parameters.short)' "$results" >/dev/null; then
  echo "bench: $results is of the short form, which measures nothing worth a page" >&2
  exit 1
fi
table=$(mktemp)
trap 'rm -f -- "$table"' EXIT
{
  printf 'Measured on %s, %s cores (%s), commit %s:\n\n' "$(date -u -r "$results" +%F)" "$(nproc)" \
    "$(awk -F ': ' '/^model name/ {print $2; exit}' /proc/cpuinfo)" "$(git rev-parse --short HEAD)"
  printf '| figure | value | floor | ratio | goal | met |\n|---|---|---|---|---|---|\n'
  jq -r '[.figure, "\(.value) \(.unit)", (if .floor then "\(.floor.value)" else "" end), (.ratio // ""), (.goal // ""),
    (if .met == null then "" elif .met then "yes" else "no" end)] | "| " + (map(tostring) | join(" | ")) + " |"' "$results"
} >"$table"
awk -v table="$table" '
  /^<!-- figures:/ { print; while ((getline line <table) > 0) print line; skip = 1; next }
  /^<!-- end of figures/ { skip = 0 }
  !skip { print }' "$page" >"$page.new"
mv -- "$page.new" "$page"
echo "bench: $page has the figures of $results" >&2
