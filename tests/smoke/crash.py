#!/usr/bin/env python3
"""Kills imports at random moments and checks that the store is whole every time.

    cargo run --release --example generate -- --count 300000 --out target/crash.ndjson
    python tests/smoke/crash.py target/release/taxiway target/crash.ndjson --kills 100

Each round starts `taxiway import` on the same store, sends SIGKILL after a random time, then runs `taxiway check`
(which must succeed) and `taxiway info` (whose count must never fall). At the end one import runs through; the store
must then hold each distinct record of the input once, and a pull over TAXII must give as many objects, none twice.
Needs nothing but Python. Ends with `crash: ok` or `crash: failed: ...` (exit code 1).
"""

import argparse
import http.client
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from server import Failed, run, serving

MEDIA = "application/taxii+json;version=2.1"
# XSOAR types that have a STIX form; records of other types are stored and never served.
SERVED = {
    "IP", "CIDR", "IPv6", "IPv6CIDR", "Domain", "DomainGlob", "URL", "Email", "Account", "File", "Registry Key",
    "Software", "ASN", "X509 Certificate", "Attack Pattern", "Campaign", "Course of Action", "Infrastructure",
    "Intrusion Set", "Malware", "Report", "Threat Actor", "Tool", "CVE", "Identity", "Location",
}  # fmt: skip
# What `taxiway info --output json` may call the number of current records.
COUNT_KEYS = ("records", "live_rows", "rows")


def find(document, names):
    """The first number under one of these keys, searched breadth first."""
    level = [document]
    while level:
        for name in names:
            for part in level:
                if isinstance(part, dict) and isinstance(part.get(name), int):
                    return part[name]
        level = [
            child
            for part in level
            for child in (part.values() if isinstance(part, dict) else part if isinstance(part, list) else [])
        ]
    return None


def committed(binary, store):
    """How many records the store holds, after `check` has found it whole. A store that was never made holds none."""
    if not store.exists() or not any(store.iterdir()):
        return 0
    check = run(binary, "check", "--store", store)
    if check.returncode != 0:
        raise Failed(f"check says {check.returncode}: {check.stdout}{check.stderr}")
    info = run(binary, "info", "--output", "json", "--store", store)
    if info.returncode != 0:
        raise Failed(f"info says {info.returncode}: {info.stdout}{info.stderr}")
    count = find(json.loads(info.stdout), COUNT_KEYS)
    if count is None:
        raise Failed(f"info names no count under {COUNT_KEYS}: {info.stdout}")
    return count


def killed_import(binary, store, source, after):
    """True when the kill came before the import was done."""
    started = time.monotonic()
    with subprocess.Popen(
        [binary, "import", source, "--store", store], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            process.wait(timeout=after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True, time.monotonic() - started
        if process.returncode != 0:
            raise Failed(f"import says {process.returncode}: {process.stderr.read()}")
        return False, time.monotonic() - started


def distinct(source):
    """Distinct records of the input, and how many of them are served; ends of relationships must be among those."""
    seen = set()
    with open(source, "rb") as lines:
        for line in lines:
            record = json.loads(line)
            if "entityA" in record:
                seen.add(("relationship", record["id"]))
            else:
                seen.add((record["indicator_type"], record["value"]))
    return len(seen), sum(kind in SERVED or kind == "relationship" for kind, _ in seen)


def pulled(url):
    """Ids of all objects of the collection `All`; definitions, which come along with them, aside."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)

    def get(path):
        connection.request("GET", path, headers={"Accept": MEDIA})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise Failed(f"GET {path}: {answer.status} {body[:300]!r}")
        return json.loads(body)

    root = urlsplit(get("/taxii2/")["api_roots"][0]).path
    collection = next(entry["id"] for entry in get(f"{root}collections/")["collections"] if entry["title"] == "All")
    ids, params = [], {"limit": 10000}
    while True:
        page = get(f"{root}collections/{collection}/objects/?{urlencode(params)}")
        found = [entry["id"] for entry in page.get("objects", [])]
        ids += [one for one in found if not one.startswith("marking-definition--")]
        if not page.get("more"):
            return ids
        params["next"] = page["next"]


def loop(args, store, folder):
    draws = random.Random(args.seed)
    # The first kill comes early; the span widens until an import runs through, so that kills fall everywhere.
    span, last, kills = 0.5, 0, 0
    while kills < args.kills:
        was_killed, seconds = killed_import(args.binary, store, args.input, draws.uniform(0.005, span))
        count = committed(args.binary, store)
        kills += was_killed
        print(f"{kills:4} {'killed' if was_killed else 'ended '} after {seconds:6.3f} s: {count} records", flush=True)
        if count < last:
            raise Failed(f"{last} records were there before, now {count}")
        last = count
        if was_killed:
            span = min(span * 1.1, args.longest)
        else:
            # All is in: start over with an empty store, with kills within what a run took.
            shutil.rmtree(store)
            span, last = max(seconds, 0.05), 0

    print("importing to the end")
    done = run(args.binary, "import", args.input, "--store", store)
    if done.returncode != 0:
        raise Failed(f"import says {done.returncode}: {done.stdout}{done.stderr}")
    expected, served = distinct(args.input)
    count = committed(args.binary, store)
    if count != expected:
        raise Failed(f"the input has {expected} distinct records, the store {count}")
    config = f'[store]\nlocation = {json.dumps(str(store))}\n[[collection]]\ntitle = "All"\nquery = ""\n'
    with serving(args.binary, folder, config) as url:
        ids = pulled(url)
    if len(ids) != served or len(set(ids)) != served:
        raise Failed(f"{served} records are served, the pull gave {len(ids)} objects, {len(set(ids))} distinct")
    return f"{kills} kills, {count} records, {len(ids)} objects pulled"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", type=lambda text: str(Path(text).resolve()))
    parser.add_argument("input", help="XSOAR documents as NDJSON")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=float, default=30, help="most seconds before a kill")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="taxiway-crash-") as folder:
        try:
            print(f"crash: ok, {loop(args, Path(folder) / 'store', Path(folder))}")
        except Failed as problem:
            print(f"crash: failed: {problem}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
