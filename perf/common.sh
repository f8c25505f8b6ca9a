# What the measuring scripts share; sourced by them, with `target`, `work`, `store` and `results` set. Environment: TAXIWAY and GENERATE
# (binaries to use instead of building), KEEP=1 (keep the store).

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

# serve CONFIG LOG: starts the server; `url` is where it listens, once it does.
serve() {
  : >"$2" # there before anyone reads it
  "$TAXIWAY" serve --config "$1" >"$2" 2>&1 &
  server=$!
  url=
  for _ in {1..6000}; do
    url=$(sed -n 's/.*listening on \(http:\/\/[^ "]*:[0-9]*\).*/\1/p' "$2" | head -n 1)
    [[ -z $url ]] || return 0
    kill -0 "$server" 2>/dev/null || { cat "$2" >&2; exit 1; }
    sleep 0.01
  done
  echo "the server printed no address: see $2" >&2
  exit 1
}

if [[ -z ${TAXIWAY:-} ]]; then
  cargo build --release --bin taxiway
  TAXIWAY=$target/release/taxiway
fi
if [[ -z ${GENERATE:-} ]]; then
  # The generator needs the standard library only; as a Cargo example it would wait for every development dependency.
  rustc -O --edition 2024 examples/generate.rs -o "$work/generate"
  GENERATE=$work/generate
fi
