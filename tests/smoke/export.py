#!/usr/bin/env python3
"""Exports of every format, read by programs that we did not write.

    python export.py TAXIWAY [RECORDS.ndjson]

Imports the records (without any, some thousands made up here, with what is awkward in a table) into a store in a temporary
folder, exports them and reads what comes out: Parquet with DuckDB and Polars, CSV with Python, bundles and NDJSON with stix2, MISP's
feed with PyMISP, lists with ipaddress; gzip and zstd with Python and DuckDB. All of them have to hold the same records. Prints one
line a check and ends with `export: ok` or `export: N of M checks failed` (exit code 1).
"""

import argparse
import csv
import gzip
import hashlib
import ipaddress
import json
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import duckdb
import polars
import pymisp
import stix2

from server import Failed, run, serving
from smoke import Checks

AWKWARD = ['say "hi", then go', "a;b", "back\\slash", "two\nlines", "caf\u00e9", " blanks around "]


def made_up():
    """XSOAR documents of many types."""
    for n in range(4000):
        kind, value = [
            ("IP", f"198.51.{n // 250 % 250}.{n % 250}"),
            ("Domain", f"Host{n}.Example.com"),
            ("URL", f"https://user@host{n}.example/path,{n}?q=\"x\"#frag"),
            ("File", hashlib.sha256(str(n).encode()).hexdigest()),
            ("CIDR", f"203.0.{n % 250}.0/24"),
            ("Malware", f"Family {n}"),
        ][n % 6]
        yield {
            "indicator_type": kind,
            "value": value,
            "score": n % 4,
            "timestamp": f"2024-01-{n % 28 + 1:02}T00:00:00Z",
            "modified": "2024-02-03T04:05:06.789012Z",
            "aggregatedReliability": "B - Usually reliable",
            "CustomFields": {"tags": ["t", AWKWARD[n % len(AWKWARD)]], "description": AWKWARD[n % len(AWKWARD)]},
        }


class Exports:
    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder

    def __call__(self, name, *arguments):
        """Exports to that name; gives the path and the files that the manifest names, checked against it."""
        done = run(self.binary, "export", *arguments, "--out", name, "--output", "json", cwd=self.folder)
        if done.returncode != 0:
            raise Failed(f"export {' '.join(arguments)}: {done.stderr}")
        summary = json.loads(done.stdout)
        path = self.folder / summary["manifest"]
        manifest = json.loads(path.read_text())
        files = []
        for part in manifest["parts"]:
            file = path.parent / part["file"]
            data = file.read_bytes()
            if len(data) != part["bytes"] or hashlib.sha256(data).hexdigest() != part["sha256"]:
                raise Failed(f"{file} is not what its manifest says")
            files.append(file)
        return summary, files


def tables(check, export, count):
    columns = "type,value,score,verdict,tags,modified,id,description,revoked"
    summary, files = export("lake/", "all", "--format", "parquet", "--columns", columns, "--rows-per-part", str(max(count // 3, 1)))
    rows = summary["rows"]
    glob = str(files[0].parent / "*.parquet")
    found = duckdb.sql(f"select count(*), count(distinct id), count(distinct value) from '{glob}'").fetchall()[0]
    check.same(found[0], rows, "DuckDB counts the rows of all parts")
    check.same(found[1], rows, "every row has an id of its own")
    types = {name: str(kind) for name, kind, *_ in duckdb.sql(f"describe select * from '{glob}'").fetchall()}
    expected = {
        "value": "VARCHAR",
        "score": "INTEGER",
        "tags": "VARCHAR[]",
        "modified": "TIMESTAMP WITH TIME ZONE",
        "revoked": "BOOLEAN",
    }
    check.same({name: types[name] for name in expected}, expected, "DuckDB sees plain types")
    frame = polars.read_parquet(glob)
    check.same(frame.height, rows, "Polars counts the rows")
    check.same(frame.schema["tags"], polars.List(polars.String), "Polars sees lists of text")
    check.same(frame.schema["modified"], polars.Datetime("us", "UTC"), "Polars sees instants in UTC")
    ordered = duckdb.sql(f"select id, type, value, verdict, tags, description from '{glob}'").fetchall()
    by_polars = frame.select("id", "type", "value", "verdict", "tags", "description").rows()
    check.that(sorted(map(repr, ordered)) == sorted(map(repr, by_polars)), "DuckDB and Polars read the same rows")

    _, files = export("all.csv.gz", "all", "--format", "csv", "--columns", columns, "--compress", "gzip")
    with gzip.open(files[0], "rt", encoding="utf-8", newline="") as text:
        read = list(csv.DictReader(text))
    in_csv = {(row["id"], row["value"], row["verdict"], row["description"]) for row in read}
    in_parquet = {(row[0], row[2] or "", row[3], row[5] or "") for row in by_polars}
    check.same(len(read), rows, "Python's csv reads as many rows")
    check.that(in_csv == in_parquet, "and they hold the same")
    split = {row["id"]: ";".join(tag.replace("\\", "\\\\").replace(";", "\\;") for tag in row["tags"] or []) for row in frame.to_dicts()}
    check.that(all(row["tags"] == split[row["id"]] for row in read), "lists are one cell, with `;` between items")
    _, files = export("all.csv.zst", "all", "--format", "csv", "--columns", columns, "--compress", "zstd")
    found = duckdb.sql(f"select count(*) from read_csv('{files[0]}', header = true, all_varchar = true, strict_mode = false)").fetchall()[0]
    check.same(found[0], rows, "DuckDB reads the zstd-compressed CSV")
    return {row[0] for row in ordered}


def objects(check, export, ids):
    _, files = export("objects.ndjson", "all", "--format", "ndjson")
    lines = files[0].read_text(encoding="utf-8").splitlines()
    held = [json.loads(line) for line in lines]
    check.that(ids <= {item["id"] for item in held}, "the objects are those of the tables, and what goes with them")
    for version in ("2.1", "2.0"):
        _, files = export(f"bundle-{version}.json", "all", "--format", "stix", "--stix-version", version)
        text = files[0].read_text(encoding="utf-8")
        bundle = stix2.parse(text, allow_custom=True, version=version)
        check.same(bundle.type, "bundle", f"stix2 takes the bundle of {version}")
        check.same(len(bundle.objects), len(json.loads(text)["objects"]), "with all of its objects")
        if version == "2.1":
            check.same([item["id"] for item in json.loads(text)["objects"]], [item["id"] for item in held], "in the same order as one a line")
    _, files = export("bundles/", "all", "--format", "stix", "--rows-per-part", "1000", "--compress", "gzip")
    parsed = [json.loads(gzip.decompress(file.read_bytes())) for file in files]
    check.same(sum(len(part["objects"]) for part in parsed), len(held), "bundles in parts hold as many")


def lists(check, export, folder):
    _, files = export("ips.txt", "all", "--format", "list", "--type", "ip")
    plain = [ipaddress.ip_network(line) for line in files[0].read_text().splitlines()]
    _, files = export("networks.txt", "all", "--format", "list", "--type", "ip", "--aggregate")
    merged = [ipaddress.ip_network(line) for line in files[0].read_text().splitlines()]
    own = [net for of in (4, 6) for net in ipaddress.collapse_addresses(net for net in plain if net.version == of)]
    check.same(merged, own, "networks are put together as Python does")
    check.same(len(set(plain)), len(plain), "no address comes twice")
    _, files = export("urls.txt", "all", "--format", "list", "--type", "url", "--urls", "no-scheme", "--max-items", "100")
    urls = files[0].read_text().splitlines()
    check.that(0 < len(urls) <= 100 and not any("://" in url or "#" in url for url in urls), "URLs have no scheme")
    with serving(export.binary, folder, "[store]\nlocation = \"taxiway-data\"\n") as url:
        where = f"{url}/lists/all.txt?type=ip&aggregate=true"
        with urllib.request.urlopen(where) as answer:
            etag, body = answer.headers["ETag"], answer.read().decode()
        check.same(body.split(), [str(net.network_address) if net.num_addresses == 1 else str(net) for net in merged], "the served list is the same")
        asked = urllib.request.Request(where, headers={"If-None-Match": etag})
        try:
            urllib.request.urlopen(asked)
            status = 200
        except urllib.error.HTTPError as error:
            status = error.code
        check.same(status, 304, "and is not sent again")


def misp(check, export, count):
    summary, files = export("misp/", "all", "--format", "misp", "--rows-per-part", "1000")
    index = json.loads((files[0].parent / "manifest.json").read_text())
    check.same(sorted(f"{uuid}.json" for uuid in index), sorted(file.name for file in files), "the index names the events")
    attributes = 0
    for file in files:
        event = pymisp.MISPEvent()
        event.load_file(str(file))
        attributes += len(event.attributes)
        check.that(event.uuid in index and index[event.uuid]["info"] == event.info, f"PyMISP reads event {event.info}")
    check.same(attributes, summary["rows"], "PyMISP takes every attribute")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("binary")
    arguments.add_argument("records", nargs="?")
    given = arguments.parse_args()
    binary = Path(given.binary).resolve()
    check = Checks()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = Path(given.records).resolve() if given.records else folder / "records.ndjson"
        if not given.records:
            source.write_text("".join(f"{json.dumps(record)}\n" for record in made_up()))
        done = run(binary, "import", source, "--output", "json", cwd=folder)
        if done.returncode != 0:
            raise Failed(done.stderr)
        count = json.loads(done.stdout)["new"]
        export = Exports(binary, folder)
        ids = tables(check, export, count)
        objects(check, export, ids)
        lists(check, export, folder)
        misp(check, export, count)
    if check.failed:
        sys.exit(f"export: {len(check.failed)} of {check.done} checks failed")
    print("export: ok")


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        sys.exit(f"export: {failed}")
