#!/usr/bin/env bash
# Fetches a million objects from a taxiway server with a taxiway source, counts them on both sides, then asks again when nothing is new.
# perf/README.md says how to read it. Environment: COUNT (1000000), LIMIT (10000, objects a page), MACHINE, TAXIWAY, GENERATE, KEEP,
# CARGO_TARGET_DIR as for run.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

count=${COUNT:-1000000}
limit=${LIMIT:-10000}
target=${CARGO_TARGET_DIR:-target}
work=$target/perf/fetch
input=$target/perf/generated-$count.ndjson
store=$work/stores
runs=perf/runs/$(date +%F)-${MACHINE:-$(nproc)-core}-fetch
results=$runs/results.jsonl
mkdir -p "$work" "$runs"
: >"$results"
source perf/common.sh
[[ -s $input ]] || { "$GENERATE" --count "$count" --out "$input.part" && mv "$input.part" "$input"; }

rm -rf "$store"
"$TAXIWAY" import "$input" --store "$store/theirs"
cat >"$work/taxiway.toml" <<TOML
listen = "127.0.0.1:0"
[store]
location = "$(realpath -m "$store/theirs")"
[taxii]
max_page_size = 1000000
[[collection]]
title = "All"
alias = "all"
query = ""
TOML
serve "$work/taxiway.toml" "$work/serve.log"
for version in 2.1 2.0; do
  ours=$store/ours-$version
  "$TAXIWAY" source add "Theirs" "$url/taxii2/" --taxii "$version" --manual --page-size "$limit" --store "$ours"
  for what in "first fetch" "again, nothing new"; do
    python3 perf/timed.py "$version: $what" "$TAXIWAY" source fetch Theirs --store "$ours" | tee -a "$results"
  done
  held=$("$TAXIWAY" info --store "$ours" --output json | python3 -c 'import json, sys; print(json.load(sys.stdin)["store"]["records"])')
  note "$version: held" held="$held"
done
echo "perf: results in $results"
