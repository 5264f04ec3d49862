#!/usr/bin/env bash
# Bound, radius and gate for CI: reads MODEL, POLICY, NORM, DATA, EPS, BASELINE, OUTPUT; arguments go to `lipcert gate`.
set -euo pipefail

output="${OUTPUT:-lipcert-reports}"
mkdir -p "$output"
reports=("$output/bound.json")

# A model that is refused (exit 3) still has a report, which the gate judges. Other failures end the job here.
run() {
  local status=0
  "$@" || status=$?
  if [ "$status" -ne 0 ] && [ "$status" -ne 3 ]; then exit "$status"; fi
}

run lipcert bound --norm "${NORM:-2}" --json "$output/bound.json" -- "$MODEL"
if [ -n "${DATA:-}" ]; then
  flags=(--norm "${NORM:-2}" --data "$DATA" --json "$output/radius.json")
  if [ -n "${EPS:-}" ]; then flags+=(--eps "$EPS"); fi
  run lipcert radius "${flags[@]}" -- "$MODEL"
  reports+=("$output/radius.json")
fi

flags=(--policy "${POLICY:-gate.toml}" --junit "$output/gate.xml" --sarif "$output/gate.sarif" --markdown "$output/gate.md")
while IFS= read -r baseline; do
  if [ -n "$baseline" ]; then flags+=(--baseline "$baseline"); fi
done <<<"${BASELINE:-}"
exec lipcert gate "${flags[@]}" "$@" -- "${reports[@]}"
