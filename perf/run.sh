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

server=
stop_server() {
  if [[ -n $server ]]; then
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
  fi
}
clean_up() {
  stop_server
  [[ ${KEEP:-0} = 1 ]] || rm -rf "$store"
}
trap clean_up EXIT

# note NAME KEY=NUMBER...: a result line of our own.
note() {
  python3 -c 'import json, sys
print(json.dumps({"name": sys.argv[1], **{k: float(v) for k, v in (pair.split("=") for pair in sys.argv[2:])}}))' "$@" |
    tee -a "$results"
}

if [[ -z ${TAXIWAY:-} ]]; then
  cargo build --release --bin taxiway
  # The generator needs the standard library only; as a Cargo example it would wait for every development dependency.
  rustc -O --edition 2024 examples/generate.rs -o "$work/generate"
  TAXIWAY=$target/release/taxiway GENERATE=$work/generate
fi
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
log=$work/serve.log
started=$EPOCHREALTIME
"$TAXIWAY" serve --config "$work/taxiway.toml" >"$log" 2>&1 &
server=$!
url=
for _ in {1..6000}; do
  url=$(sed -n 's/.*listening on \(http:\/\/[^ "]*:[0-9]*\).*/\1/p' "$log" | head -n 1)
  [[ -z $url ]] || break
  kill -0 "$server" 2>/dev/null || { cat "$log" >&2; exit 1; }
  sleep 0.01
done
[[ -n $url ]] || { echo "the server printed no address: see $log" >&2; exit 1; }
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
