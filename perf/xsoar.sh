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

source perf/common.sh

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
serve "$work/xsoar.toml" "$work/xsoar-serve.log"

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
