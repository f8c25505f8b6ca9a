#!/usr/bin/env python3
"""Pulls a collection page by page over one keep-alive connection and prints one JSON line.

    python3 perf/pull.py http://127.0.0.1:9000 --limit 10000 [--most N] [--repeat N] [--gzip] [--pid SERVER]

Seconds are those of the requests, first byte sent to last byte received; pages are parsed and checked between requests
(`wall_seconds` holds everything). Checked: ids unique, dates rising within and between pages, no page above the limit,
and with --expect the number of objects. A check that fails ends it with exit code 1.
"""

import argparse
import json
import statistics
import sys
import time

from wire import Server, Walk, milliseconds, peak_mib, percentile, reset_peak


class Pull(Walk):
    """One walk over the collection."""

    def __init__(self):
        super().__init__()
        self.objects = 0
        self.definitions = 0
        self.last_date = ""

    def page(self, answer, limit):
        """Takes a page in; gives `next`, or None at the end."""
        body, objects = self.take(answer, limit)
        self.objects += len(objects)
        self.definitions += sum(entry["id"].startswith("marking-definition--") for entry in objects)
        if objects:
            first, last = (answer.headers.get(f"X-TAXII-Date-Added-{end}") or "" for end in ("First", "Last"))
            self.check(self.last_date < first <= last, f"dates do not rise: {self.last_date}, {first}, {last}")
            self.last_date = last
        self.check(not body.get("more") or "next" in body, "`more` without `next`")
        return body.get("next") if body.get("more") else None


def pull(server, path, limit, most):
    walk = Pull()
    following = walk.page(server.get(path, limit=limit), limit)
    while following and (not most or walk.objects < most):
        following = walk.page(server.get(path, limit=limit, next=following), limit)
    return walk


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--collection", default="All")
    parser.add_argument("--limit", type=int, default=10000)
    parser.add_argument("--most", type=int, default=0, help="stop after that many objects")
    parser.add_argument("--repeat", type=int, default=1, help="walk that often, report the median")
    parser.add_argument("--expect", type=int, help="objects that must come, marking definitions aside")
    parser.add_argument("--gzip", action="store_true")
    parser.add_argument("--pid", type=int, help="of the server, for its memory")
    parser.add_argument("--name", default="pull")
    args = parser.parse_args()

    server = Server(args.url, args.gzip)
    path = f"{server.collection(args.collection)}objects/"
    reset_peak(args.pid)
    started = time.perf_counter()
    walks = [pull(server, path, args.limit, args.most) for _ in range(args.repeat)]
    wall = time.perf_counter() - started
    walk = walks[-1]
    if args.expect is not None:
        objects = walk.objects - walk.definitions
        walk.check(objects == args.expect, f"{objects} objects, definitions aside, instead of {args.expect}")
    totals = [sum(each.times) for each in walks]
    seconds = statistics.median(totals)
    times = [taken for each in walks for taken in each.times]
    result = {
        "name": args.name,
        "limit": args.limit,
        "gzip": args.gzip,
        "pages": len(walk.times),
        "objects": walk.objects,
        "bytes": walk.bytes,
        "seconds": round(seconds, 4),
        "runs": [round(total, 4) for total in totals],
        "wall_seconds": round(wall, 3),
        "objects_per_second": round(walk.objects / seconds),
        "megabytes_per_second": round(walk.bytes / seconds / 1e6, 1),
        "first_byte_ms": milliseconds(statistics.median(taken for each in walks for taken in each.first_bytes)),
        "page_p50_ms": milliseconds(percentile(times, 0.5)),
        "page_p99_ms": milliseconds(percentile(times, 0.99)),
        "last_page_ms": milliseconds(walk.times[-1]),
        "server_peak_rss_mib": peak_mib(args.pid),
        "problems": [problem for each in walks for problem in each.problems],
    }
    print(json.dumps(result))
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
