#!/usr/bin/env python3
"""Reads an export with programs that we did not write and prints one JSON line: large_checks.py FORMAT MANIFEST

DuckDB counts tables, orjson parses every object, stix2 and PyMISP read a sample; every id or value has to be there once, and every
file has to be what the manifest says. Needs perf/large-requirements.txt; memory is some 100 bytes an object.
"""

import hashlib
import json
import sys
import time
from pathlib import Path

import duckdb
import orjson
import pymisp
import stix2

SAMPLE = 2_000


class Check:
    def __init__(self, manifest):
        self.path = Path(manifest)
        self.manifest = json.loads(self.path.read_bytes())
        self.parts = self.manifest["parts"]
        self.files = [self.path.parent / part["file"] for part in self.parts]
        self.problems, self.words = [], []
        self.seen, self.count = set(), 0
        # Of what the files hold; two exports of the same are to have the same.
        self.digest = hashlib.sha256()

    def that(self, good, problem):
        if not good and problem not in self.problems:
            self.problems.append(problem)

    def same_as_manifest(self):
        self.that(self.manifest["complete"], "the manifest says that it is not complete")
        for part, file in zip(self.parts, self.files):
            with open(file, "rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            if self.manifest["request"]["format"] == "stix":
                # Bundles have random ids, and nothing else of their own.
                content = file.read_bytes()
                self.digest.update(content[content.index(b'"objects":') :])
            else:
                self.digest.update(digest.encode())
            self.that(digest == part["sha256"], f"{file.name} is not what the manifest says")
            self.that(file.stat().st_size == part["bytes"], f"{file.name} has another size than the manifest says")
        left = {file.name for file in self.path.parent.iterdir()} - {part["file"] for part in self.parts}
        left -= {self.path.name, "manifest.json"}
        self.that(self.path.name != "export.json" or not left, f"left behind: {sorted(left)[:3]}")

    def take(self, names):
        before = self.count
        for name in names:
            self.seen.add(hash(name))
            self.count += 1
        return self.count - before

    def each_once(self, what):
        self.that(len(self.seen) == self.count, f"{self.count - len(self.seen)} {what} came twice")

    def parsed(self, objects, every, state):
        """Some of the objects, through the STIX library."""
        for entry in objects:
            state["at"] += 1
            if state["at"] % every == 0:
                stix2.parse(entry, allow_custom=True, version="2.1")
                state["done"] += 1

    def stix(self):
        state, every = {"at": 0, "done": 0}, max(self.manifest["rows"] // SAMPLE, 1)
        markings = 0
        for part, file in zip(self.parts, self.files):
            bundle = orjson.loads(file.read_bytes())
            self.that(bundle["type"] == "bundle", f"{file.name} is no bundle")
            taken = self.take(entry["id"] for entry in bundle["objects"])
            self.that(taken == part["rows"], f"{file.name} has {taken} objects, its manifest says {part['rows']}")
            markings += sum(entry["type"] == "marking-definition" for entry in bundle["objects"])
            self.parsed(bundle["objects"], every, state)
            if file == self.files[-1]:
                # A whole bundle, the last one being the shortest; of at most some thousand objects, since stix2 takes its time.
                bundle["objects"] = bundle["objects"][:SAMPLE]
                self.that(len(stix2.parse(bundle, allow_custom=True).objects) == len(bundle["objects"]), "stix2 reads less")
        self.each_once("ids")
        self.words = [f"orjson parsed {self.count:,} objects in {len(self.files)} bundles, ids unique", f"stix2 read {state['done']:,}"]
        return self.count - markings

    def ndjson(self):
        state, every = {"at": 0, "done": 0}, max(self.manifest["rows"] // SAMPLE, 1)
        lines = markings = 0
        for file in self.files:
            with open(file, "rb") as opened:
                for line in opened:
                    lines += 1
                    entry = orjson.loads(line)
                    self.take((entry["id"],))
                    markings += entry["type"] == "marking-definition"
                    self.parsed((entry,), every, state)
        self.each_once("ids")
        self.that(lines == self.manifest["rows"], f"{lines} lines")
        self.words = [f"{lines:,} lines, each parsed by orjson, ids unique", f"stix2 read {state['done']:,}"]
        return self.count - markings

    def table(self, reader):
        pattern = str(self.path.parent / f"*{self.files[0].suffix}")
        base = duckdb.connect()
        base.execute("set memory_limit = '4GB'")
        base.execute(f"set temp_directory = '{self.path.parent}.duckdb'")
        source = reader.format(pattern=pattern)
        rows, ids = base.sql(f"select count(*), count(distinct id) from {source}").fetchall()[0]
        self.that(rows == ids, f"{rows} rows, {ids} ids")
        values = base.sql(f"select count(*) from {source} where value is null or value = '' or type is null").fetchall()[0][0]
        self.that(values == 0, f"{values} rows without type or value")
        self.words = [f"DuckDB counts {rows:,} rows and {ids:,} ids"]
        return rows

    def csv(self):
        return self.table("read_csv('{pattern}', header = true, all_varchar = true)")

    def parquet(self):
        return self.table("read_parquet('{pattern}')")

    def list(self):
        with open(self.files[0], "rb") as opened:
            for line in opened:
                self.that(line.endswith(b"\n") and line.strip() == line[:-1] and len(line) > 1, f"a line {line[:60]!r}")
                self.take((line,))
        self.each_once("values")
        self.words = [f"{self.count:,} lines, each once"]
        return self.count

    def misp(self):
        index = orjson.loads((self.path.parent / "manifest.json").read_bytes())
        self.that(sorted(f"{name}.json" for name in index) == sorted(file.name for file in self.files), "the index names other events")
        for number, file in enumerate(self.files):
            event = orjson.loads(file.read_bytes())["Event"]
            self.that(event["uuid"] in index, f"{file.name} is not in the index")
            self.take(attribute["uuid"] for attribute in event["Attribute"])
            if number in (0, len(self.files) - 1):
                read = pymisp.MISPEvent()
                read.load_file(str(file))
                self.that(len(read.attributes) == len(event["Attribute"]), "PyMISP reads less")
        self.each_once("attributes")
        self.words = [f"orjson parsed {self.count:,} attributes in {len(self.files):,} events, ids unique", "PyMISP read 2 events"]
        return self.count


def main():
    kind, manifest = sys.argv[1:]
    check = Check(manifest)
    started = time.perf_counter()
    check.same_as_manifest()
    records = getattr(check, kind)()
    result = {
        "records": records,
        "rows": check.manifest["rows"],
        "files": len(check.files),
        "bytes": sum(part["bytes"] for part in check.parts),
        "digest": check.digest.hexdigest(),
        "seconds": round(time.perf_counter() - started, 1),
        "words": "; ".join([*check.words, "SHA-256 of all files"]),
        "problems": check.problems,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
