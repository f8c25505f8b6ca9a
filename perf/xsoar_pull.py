#!/usr/bin/env python3
"""Pulls a collection that holds relationships, in either version, and prints one JSON line like pull.py's.

    python3 perf/xsoar_pull.py http://127.0.0.1:9000 --collection TITLE --version 2.0 --limit 10000 [--pid SERVER]

TAXII 2.1 is paged by `limit` and `next`, 2.0 by `Range: items=a-b`. Checked: no page above the limit, ids unique, both
ends of every relationship before it or on its page, and the numbers of relationships and other objects if given
(definitions, which come along with objects, are counted by themselves). A check that fails ends it with exit code 1.
"""

import argparse
import json
import re
import statistics
import sys

from wire import MEDIA, Server, Walk, milliseconds, peak_mib, percentile, reset_peak

MEDIA_20 = "application/vnd.oasis.stix+json; version=2.0"


class Edges(Walk):
    """One walk over the collection."""

    def __init__(self):
        super().__init__()
        self.counts = {"objects": 0, "relationships": 0, "definitions": 0}

    def page(self, answer, limit):
        """Takes a page in; gives it parsed."""
        body, objects = self.take(answer, limit)
        for entry in objects:
            if entry["type"] == "relationship":
                self.counts["relationships"] += 1
                for end in ("source_ref", "target_ref"):
                    self.check(entry.get(end) in self.ids, "a relationship came before one of its ends")
            elif entry["type"].endswith("-definition"):
                self.counts["definitions"] += 1
            else:
                self.counts["objects"] += 1
        return body


def walk_21(server, path, limit):
    walk = Edges()
    body = walk.page(server.get(path, limit=limit), limit)
    while body.get("more"):
        body = walk.page(server.get(path, limit=limit, next=body["next"]), limit)
    return walk


def walk_20(server, path, limit):
    walk, first = Edges(), 0
    while True:
        answer = server.get(path, {"Accept": MEDIA_20, "Range": f"items={first}-{first + limit - 1}"})
        count = len(walk.page(answer, limit).get("objects", []))
        found = re.fullmatch(r"items (?:\*|\d+-\d+)/(\d+)", answer.headers.get("Content-Range") or "")
        if not found:
            walk.check(False, f"Content-Range is {answer.headers.get('Content-Range')}")
            return walk
        first += count
        if first >= int(found[1]):
            return walk
        if not count:
            walk.check(False, "an empty page before the end")
            return walk


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--collection", required=True)
    parser.add_argument("--version", choices=["2.0", "2.1"], default="2.1")
    parser.add_argument("--limit", type=int, default=10000)
    parser.add_argument("--repeat", type=int, default=1, help="walk that often, report the median")
    parser.add_argument("--objects", type=int, help="objects that must come, definitions and relationships aside")
    parser.add_argument("--relationships", type=int, help="relationships that must come")
    parser.add_argument("--pid", type=int, help="of the server, for its memory")
    parser.add_argument("--name", default="pull")
    args = parser.parse_args()

    server = Server(args.url)
    path = f"{server.collection(args.collection)}objects/"
    walk_one = walk_20 if args.version == "2.0" else walk_21
    # The first request makes the match index.
    media = MEDIA_20 if args.version == "2.0" else MEDIA
    server.get(path, {"Accept": media, "Range": "items=0-0"}, limit=1)
    reset_peak(args.pid)
    walks = [walk_one(server, path, args.limit) for _ in range(args.repeat)]
    walk = walks[-1]
    for wanted, name in ((args.objects, "objects"), (args.relationships, "relationships")):
        walk.check(wanted in (None, walk.counts[name]), f"{walk.counts[name]} {name} instead of {wanted}")
    seconds = statistics.median(sum(each.times) for each in walks)
    times = [taken for each in walks for taken in each.times]
    total = sum(walk.counts.values())
    result = {
        "name": args.name,
        "version": args.version,
        "limit": args.limit,
        "pages": len(walk.times),
        **walk.counts,
        "bytes": walk.bytes,
        "seconds": round(seconds, 4),
        "objects_per_second": round(total / seconds),
        "megabytes_per_second": round(walk.bytes / seconds / 1e6, 1),
        "first_byte_ms": milliseconds(statistics.median(taken for each in walks for taken in each.first_bytes)),
        "page_p50_ms": milliseconds(percentile(times, 0.5)),
        "page_p99_ms": milliseconds(percentile(times, 0.99)),
        "server_peak_rss_mib": peak_mib(args.pid),
        "problems": [problem for each in walks for problem in each.problems],
    }
    print(json.dumps(result))
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
