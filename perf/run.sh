#!/usr/bin/env bash
# Builds taxiway, imports a million generated indicators, pulls them back in several page sizes, prints a table.
# perf/README.md says how to read it. Environment: COUNT (1000000), MACHINE (name in the results' folder),
# TAXIWAY and GENERATE (binaries to use instead of building), KEEP=1 (keep the store), CARGO_TARGET_DIR.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

count=${COUNT:-1000000}
target=${CARGO_TARGET_DIR:-target}
work=$target/perf
input=$work/generated-$count.ndjson
store=$work/store
runs=perf/runs/$(date +%F)-${MACHINE:-$(nproc)-core}
results=$runs/results.jsonl
mkdir -p "$work" "$runs"
: >"$results"

source perf/common.sh

python=$(bash tests/smoke/venv.sh "$target/venv")
[[ -s $input ]] || { "$GENERATE" --count "$count" --out "$input.part" && mv "$input.part" "$input"; }

echo "== import $count documents, $(du -m "$input" | cut -f1) MiB"
rm -rf "$store"
cat "$input" >/dev/null # into the page cache
python3 perf/timed.py "import $count" "$TAXIWAY" import "$input" --store "$store" | tee -a "$results"
note "store on disk" mib="$(du -sm "$store" | cut -f1)"
echo "== the same again: nothing is new"
python3 perf/timed.py "import the same again" "$TAXIWAY" import "$input" --store "$store" | tee -a "$results"

echo "== serve"
cat >"$work/taxiway.toml" <<TOML
listen = "127.0.0.1:0"
[store]
location = "$(realpath -m "$store")"
[taxii]
max_page_size = 1000000
[[collection]]
title = "All"
query = ""
[[collection]]
title = "Rare"
query = "tags:\"rare-1-in-10000\""
TOML
started=$EPOCHREALTIME
serve "$work/taxiway.toml" "$work/serve.log"
note "start until ready" seconds="$(awk "BEGIN { print $EPOCHREALTIME - $started }")"

failed=0
measure() {
  "$@" --pid "$server" | tee -a "$results" || failed=1
}
echo "== pull"
# The first request of each size warms the page cache and the match index; 1 an answer is extrapolated from 1,000 objects.
measure python3 perf/pull.py "$url" --name "pull, 100,000 a page, first time" --limit 100000 --expect "$count"
measure python3 perf/pull.py "$url" --name "pull, 1 a page" --limit 1 --most 1000
for limit in 1000 10000 100000; do
  measure python3 perf/pull.py "$url" --name "pull, $limit a page" --limit "$limit" --expect "$count"
done
measure python3 perf/pull.py "$url" --name "pull, 10000 a page, gzip" --limit 10000 --gzip --expect "$count"
measure python3 perf/pull.py "$url" --name "one request of 100,000, median of 5" --limit 100000 --most 1 --repeat 5
measure python3 perf/pull.py "$url" --name "the first 100,000 in pages of 1,000, median of 5" --limit 1000 --most 100000 --repeat 5
measure "$python" perf/taxii_pull.py "$url" --name "taxii2-client, 10000 a page" --limit 10000 --expect "$count"
echo "== small requests"
python3 perf/polls.py "$url" | tee -a "$results" || failed=1

python3 perf/report.py "$runs" "$count" "$("$TAXIWAY" --version 2>/dev/null || echo taxiway)"
if [[ $failed = 1 ]]; then
  echo "perf: a check failed, see \`problems\` in $results"
  exit 1
fi
echo "perf: ok, results in $runs"
