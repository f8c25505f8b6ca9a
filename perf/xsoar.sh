#!/usr/bin/env bash
# What relationships and extensions cost: a million generated indicators with 200,000 relationships between them, pulled with
# and without, in both TAXII versions and both profiles. perf/README.md says how to read it. Environment: COUNT (1000000),
# EDGES (200000), LIMIT (10000), REPEAT (1), MACHINE (name in the results' folder), TAXIWAY and GENERATE (binaries to use instead of
# building), KEEP=1 (keep the store), CARGO_TARGET_DIR.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

count=${COUNT:-1000000}
edges=${EDGES:-200000}
limit=${LIMIT:-10000}
target=${CARGO_TARGET_DIR:-target}
work=$target/perf
input=$work/generated-$count.ndjson
relationships=$work/relationships-$count-$edges.ndjson
store=$work/store-xsoar
runs=perf/runs/$(date +%F)-${MACHINE:-$(nproc)-core}-xsoar
results=$runs/results.jsonl
mkdir -p "$work" "$runs"
: >"$results"

server=
clean_up() {
  if [[ -n $server ]]; then
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
  fi
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
  TAXIWAY=$target/release/taxiway
fi
if [[ -z ${GENERATE:-} ]]; then
  rustc -O --edition 2024 examples/generate.rs -o "$work/generate"
  GENERATE=$work/generate
fi
[[ -s $input ]] || { "$GENERATE" --count "$count" --out "$input.part" && mv "$input.part" "$input"; }
[[ -s $relationships ]] || {
  "$GENERATE" --count "$count" --relationships "$edges" --out "$relationships.part"
  mv "$relationships.part" "$relationships"
}
revoked=$(grep -c '"revoked":true' "$relationships" || true)

echo "== import $count documents and $edges relationships"
rm -rf "$store"
cat "$input" "$relationships" >/dev/null # into the page cache
cat >"$work/xsoar-import.toml" <<TOML
[store]
location = "$(realpath -m "$store")"
license_id = "perf"
TOML
config=(--config "$work/xsoar-import.toml")
python3 perf/timed.py "import $count documents" "$TAXIWAY" import "$input" "${config[@]}" | tee -a "$results"
note "store on disk" mib="$(du -sm "$store" | cut -f1)"
python3 perf/timed.py "import $edges relationships" "$TAXIWAY" import "$relationships" "${config[@]}" | tee -a "$results"
note "store on disk with relationships" mib="$(du -sm "$store" | cut -f1)"
python3 perf/timed.py "import the same relationships again" "$TAXIWAY" import "$relationships" "${config[@]}" |
  tee -a "$results"

echo "== serve"
{
  echo 'listen = "127.0.0.1:0"'
  cat "$work/xsoar-import.toml"
  for profile in standard xsoar; do
    printf '[[collection]]\ntitle = "%s plain"\nquery = ""\nprofile = "%s"\nrelationships = false\n' "$profile" "$profile"
    printf '[[collection]]\ntitle = "%s edges"\nquery = ""\nprofile = "%s"\n' "$profile" "$profile"
    printf '[[collection]]\ntitle = "%s extended"\nquery = ""\nprofile = "%s"\nextension_fields = "all"\n' "$profile" "$profile"
  done
} >"$work/xsoar.toml"
log=$work/xsoar-serve.log
"$TAXIWAY" serve --config "$work/xsoar.toml" >"$log" 2>&1 &
server=$!
url=
for _ in {1..6000}; do
  url=$(sed -n 's/.*listening on \(http:\/\/[^ "]*:[0-9]*\).*/\1/p' "$log" | head -n 1)
  [[ -z $url ]] || break
  kill -0 "$server" 2>/dev/null || { cat "$log" >&2; exit 1; }
  sleep 0.01
done
[[ -n $url ]] || { echo "the server printed no address: see $log" >&2; exit 1; }

failed=0
# measure PROFILE VERSION KIND RELATIONSHIPS WHAT
measure() {
  python3 perf/xsoar_pull.py "$url" --collection "$1 $3" --version "$2" --name "$1 $2: $5" --limit "$limit" \
    --repeat "${REPEAT:-1}" --objects "$count" --relationships "$4" --pid "$server" | tee -a "$results" || failed=1
}
echo "== pull"
for profile in standard xsoar; do
  # The profile `xsoar` leaves withdrawn relationships out, as the original does.
  shown=$edges
  [[ $profile = standard ]] || shown=$((edges - revoked))
  for version in 2.1 2.0; do
    measure "$profile" "$version" plain 0 "objects"
    measure "$profile" "$version" edges "$shown" "and relationships"
    measure "$profile" "$version" extended "$shown" "and relationships and extensions"
  done
done

python3 perf/xsoar_report.py "$runs" "$count" "$edges" "$("$TAXIWAY" --version 2>/dev/null || echo taxiway)"
if [[ $failed = 1 ]]; then
  echo "perf: a check failed, see \`problems\` in $results"
  exit 1
fi
echo "perf: ok, results in $runs"
