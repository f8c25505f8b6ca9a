#!/usr/bin/env bash
# Enrichment: EVENTS (10000000) events against COUNT (1000000) indicators, all texts searched and four fields named, with RATE (0.01) of the events
# holding an indicator; the naive check on the first CHECKED (100000); single look-ups over HTTP. perf/README.md says how to read it.
# Environment besides: MACHINE, TAXIWAY and GENERATE (binaries to use instead of building), KEEP=1 (keep the store), CARGO_TARGET_DIR.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

count=${COUNT:-1000000}
events=${EVENTS:-10000000}
rate=${RATE:-0.01}
target=${CARGO_TARGET_DIR:-target}
work=$target/perf
input=$work/generated-$count.ndjson
log=$work/events-$count-$events-$rate.ndjson
store=$work/store-enrich
runs=perf/runs/$(date +%F)-${MACHINE:-$(nproc)-core}-enrich
results=$runs/results.jsonl
mkdir -p "$work" "$runs"
: >"$results"

source perf/common.sh

[[ -s $input ]] || { "$GENERATE" --count "$count" --out "$input.part" && mv "$input.part" "$input"; }
if [[ ! -s $log ]]; then
  echo "== make $events events"
  part=$((events / 10))
  for ten in 0 1 2 3 4; do
    python3 perf/enrich_events.py make "$input" --events "$part" --rate "$rate" --seed "$((2 * ten))" >"$log.a" &
    python3 perf/enrich_events.py make "$input" --events "$part" --rate "$rate" --seed "$((2 * ten + 1))" >"$log.b"
    wait $!
    cat "$log.a" "$log.b" >>"$log.part"
  done
  rm "$log.a" "$log.b"
  mv "$log.part" "$log"
fi

echo "== import $count documents"
rm -rf "$store"
python3 perf/timed.py "import $count" "$TAXIWAY" import "$input" --store "$store" | tee -a "$results"
note "events" mib="$(du -m "$log" | cut -f1)"
cat "$log" >/dev/null # into the page cache

run() {
  local name=$1
  shift
  # The last line of what the command says is its summary.
  { python3 perf/timed.py "$name" "$TAXIWAY" enrich --store "$store" --output json "$@" "$log" --out /dev/null 2>"$work/enrich.log" || {
    cat "$work/enrich.log" >&2
    exit 1
  }; } | tee -a "$results"
  python3 -c 'import json, sys
said = json.loads(open(sys.argv[2]).read().splitlines()[-1])
index = said["index"]
print(json.dumps({"name": sys.argv[1] + ", as it says", "seconds": round(said["seconds"], 2), "events_per_second": round(said["events"] / said["seconds"]),
  "enriched": said["enriched"], "matches": said["matches"], "index_seconds": round(index["seconds"], 2), "index_bytes_per_value": round(index["bytes"] / index["values"], 1)}))' \
    "$name" "$work/enrich.log" | tee -a "$results"
}
run "all texts"
run "four fields" --fields source.ip,destination.ip,dns.question.name,url.full
run "flat, malicious only" --format flat --min-score malicious

echo "== naive check"
head -n "${CHECKED:-100000}" "$log" >"$work/sample.ndjson"
"$TAXIWAY" enrich --store "$store" --max-matches 1000 "$work/sample.ndjson" --out "$work/sample.out.ndjson"
python3 perf/enrich_events.py check "$input" "$work/sample.ndjson" "$work/sample.out.ndjson" --events "${CHECKED:-100000}" | tee -a "$results"

echo "== single look-ups over HTTP"
cat >"$work/enrich.toml" <<TOML
listen = "127.0.0.1:0"
[store]
location = "$(realpath -m "$store")"
[[collection]]
title = "All"
query = ""
TOML
serve "$work/enrich.toml" "$work/serve.log"
python3 perf/enrich_events.py ask "$input" "$url" | tee -a "$results"
note "server with its index" peak_rss_mib="$(awk '/VmHWM/ { print $2 / 1024 }' "/proc/$server/status")"
echo "perf: ok, results in $results"
