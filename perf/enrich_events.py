#!/usr/bin/env python3
"""Events for measuring enrichment, and the naive check of what became of them.

python3 perf/enrich_events.py make DOCUMENTS --events 1000000 --seed 1 --rate 0.01 > events.ndjson
python3 perf/enrich_events.py check DOCUMENTS EVENTS ENRICHED --events 100000
python3 perf/enrich_events.py ask DOCUMENTS URL --questions 10000 --pid 123

An event is what a proxy or firewall writes, in ECS names: about 330 bytes, two addresses, a name or a URL, sometimes a hash. Of `--rate` of them one
of these is an indicator of the documents, a few often and most seldom (rank to the power of -1).
"""

import argparse
import bisect
import http.client
import ipaddress
import json
import random
import sys
import time
from datetime import datetime, timezone
from urllib.parse import quote, urlsplit

SEARCHED = {"IP": "destination.ip", "IPv6": "destination.ip", "Domain": "dns.question.name", "URL": "url.full", "File": "file.hash"}


def documents(path):
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def make(args):
    rng = random.Random(args.seed)
    by_type = {}
    for document in documents(args.documents):
        if document["indicator_type"] in SEARCHED:
            by_type.setdefault(document["indicator_type"], []).append(document["value"])
    types = sorted(by_type)
    weights = []
    total = 0.0
    for rank in range(1, 1_000_001):
        total += 1.0 / rank
        weights.append(total)

    def indicator():
        kind = rng.choice(types)
        values = by_type[kind]
        rank = bisect.bisect(weights, rng.random() * weights[-1])
        # Which values are the frequent ones is mixed, so that they lie everywhere in the store.
        return SEARCHED[kind], values[(rank * 7_919 + 13) % len(values)]

    write = sys.stdout.write
    r = rng.randrange
    for number in range(args.events):
        fields = {
            "destination.ip": f"{r(1, 224)}.{r(256)}.{r(256)}.{r(256)}",
            "dns.question.name": f"www{r(5000)}.site{r(60000)}.example.com",
            "url.full": None,
            "file.hash": None,
        }
        if number % 3 == 0:
            fields["url.full"] = f"https://{fields['dns.question.name']}/static/{r(100000)}/index.html?v={r(1000)}"
        if number % 20 == 0:
            fields["file.hash"] = f"{rng.getrandbits(256):064x}"
        if rng.random() < args.rate:
            name, value = indicator()
            fields[name] = value
        url = f',"url":{{"full":{json.dumps(fields["url.full"])}}}' if fields["url.full"] else ""
        file = f',"file":{{"hash":{{"any":"{fields["file.hash"]}"}}}}' if fields["file.hash"] else ""
        write(
            f'{{"@timestamp":"2026-03-0{number % 9 + 1}T1{number % 10}:{number % 50 + 10}:07.123Z","event":{{"kind":"event","action":"allowed",'
            f'"duration":{r(100000)}}},"source":{{"ip":"10.{r(256)}.{r(256)}.{r(256)}","port":{r(1024, 65536)}}},'
            f'"destination":{{"ip":"{fields["destination.ip"]}","port":443,"bytes":{r(1000000)}}},'
            f'"dns":{{"question":{{"name":{json.dumps(fields["dns.question.name"])}}}}}{url}{file},"user":{{"name":"user{r(3000)}"}},"host":{{"name":"gw-{r(9)}"}}}}\n'
        )


def plain_url(text):
    """The spelling under which URLs are the same, written again from what the README says of it."""
    parts = urlsplit(text)
    host = (parts.hostname or "").encode("idna").decode() if not (parts.hostname or "").isascii() else (parts.hostname or "")
    port = f":{parts.port}" if parts.port not in (None, {"http": 80, "https": 443}.get(parts.scheme)) else ""
    user = parts.netloc.rpartition("@")[0]
    rest = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    kept = "".join(c if c.isascii() and c not in '"<> ' else quote(c) for c in rest)
    return f"{parts.scheme.lower()}://{user + '@' if user else ''}{host.lower()}{port}{kept}"


class Naive:
    """Every indicator under every spelling that it has, in dictionaries."""

    def __init__(self, path):
        self.exact, self.networks = {}, {}
        now = datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
        for document in documents(path):
            if document.get("expiration", "9") <= now:
                continue
            kind, value, custom = document["indicator_type"], document["value"], document["CustomFields"]
            if kind in ("IP", "IPv6"):
                self.put(("ip", ipaddress.ip_address(value)), value)
            elif kind == "CIDR":
                self.networks.setdefault(ipaddress.ip_network(value, strict=False), set()).add(value)
            elif kind == "Domain":
                self.put(("domain", value.lower().rstrip(".")), value)
            elif kind == "URL":
                self.put(("url", plain_url(value)), value)
            elif kind == "Email":
                local, _, domain = value.rpartition("@")
                self.put(("email", f"{local}@{domain.lower()}"), value)
            elif kind == "File":
                for digits in {value, *(custom.get(name, value) for name in ("md5", "sha1", "sha256", "sha512"))}:
                    self.put(("hash", digits.lower()), digits)
        self.lengths = sorted({network.prefixlen for network in self.networks}, reverse=True)

    def put(self, key, value):
        self.exact.setdefault(key, set()).add(value)

    def of(self, text):
        found = set()
        try:
            address = ipaddress.ip_address(text)
            found |= self.exact.get(("ip", address), set())
            for length in self.lengths if address.version == 4 else []:
                found |= self.networks.get(ipaddress.ip_network((address, length), strict=False), set())
            return found
        except ValueError:
            pass
        if "://" in text:
            return self.exact.get(("url", plain_url(text)), set())
        found |= self.exact.get(("hash", text.lower()), set())
        labels = text.lower().rstrip(".").split(".")
        for at in range(len(labels) - 1):
            found |= self.exact.get(("domain", ".".join(labels[at:])), set())
        return found


def texts(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for member in value.values():
            yield from texts(member)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def check(args):
    naive = Naive(args.documents)
    checked = enriched = 0
    with open(args.events_file, "rb") as before, open(args.enriched, "rb") as after:
        for line, other in zip(before, after):
            if checked == args.events:
                break
            checked += 1
            event = json.loads(line)
            expected = set().union(*(naive.of(text) for text in texts(event)))
            if other == line:
                found = set()
            else:
                enriched += 1
                told = json.loads(other)
                found = {one["matched"]["atomic"] for one in told["threat"]["enrichments"]}
                start = line.rstrip(b"\n").rstrip(b"}")
                if not other.startswith(line.rstrip(b"\n")[:-1]):
                    sys.exit(f"line {checked}: the event's own bytes changed: {start[:80]!r}")
            if found != expected:
                sys.exit(f"line {checked}: found {found}, expected {expected} in {line!r}")
    print(json.dumps({"name": "naive check", "events": checked, "enriched": enriched, "differences": 0}))


def ask(args):
    """One value after the other over one connection, of indicators and of others."""
    rng = random.Random(7)
    values = [document["value"] for document in documents(args.documents) if document["indicator_type"] in SEARCHED]
    target = urlsplit(args.documents_url)
    connection = http.client.HTTPConnection(target.hostname, target.port)

    def once(value):
        started = time.perf_counter()
        connection.request("GET", "/lookup?value=" + quote(value, safe=""))
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            sys.exit(f"{answer.status}: {body[:200]!r}")
        return (time.perf_counter() - started) * 1e3

    first = once("192.0.2.1")
    times = sorted(
        once(rng.choice(values) if number % 2 else f"{rng.randrange(1, 224)}.{rng.randrange(256)}.{rng.randrange(256)}.1")
        for number in range(args.questions)
    )
    at = lambda share: round(times[min(len(times) - 1, int(len(times) * share))], 3)
    print(json.dumps({"name": "lookup", "questions": len(times), "first_ms": round(first, 1), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1)}))


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    making = commands.add_parser("make")
    making.add_argument("documents")
    making.add_argument("--events", type=int, default=1_000_000)
    making.add_argument("--seed", type=int, default=1)
    making.add_argument("--rate", type=float, default=0.01)
    making.set_defaults(run=make)
    checking = commands.add_parser("check")
    checking.add_argument("documents")
    checking.add_argument("events_file")
    checking.add_argument("enriched")
    checking.add_argument("--events", type=int, default=100_000)
    checking.set_defaults(run=check)
    asking = commands.add_parser("ask")
    asking.add_argument("documents")
    asking.add_argument("documents_url")
    asking.add_argument("--questions", type=int, default=10_000)
    asking.set_defaults(run=ask)
    args = parser.parse_args()
    args.run(args)


main()
