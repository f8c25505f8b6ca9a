#!/usr/bin/env python3
"""Pulls a collection with taxii2-client, as its users do, and prints one JSON line like pull.py's.

Seconds are those of the whole loop: the client parses every page, and asks for gzip.
"""

import argparse
import json
import sys
import time

from taxii2client import v21
from wire import peak_mib, reset_peak


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--collection", default="All")
    parser.add_argument("--limit", type=int, default=10000)
    parser.add_argument("--expect", type=int)
    parser.add_argument("--pid", type=int)
    parser.add_argument("--name", default="taxii2-client")
    args = parser.parse_args()

    server = v21.Server(f"{args.url.rstrip('/')}/taxii2/")
    collection = next(entry for entry in server.api_roots[0].collections if entry.title == args.collection)
    received = []
    collection._conn.session.hooks["response"].append(lambda answer, **_: received.append(len(answer.content)))
    reset_peak(args.pid)
    ids, objects, definitions, pages, first_page = set(), 0, 0, 0, None
    started = time.perf_counter()
    for page in v21.as_pages(collection.get_objects, per_request=args.limit):
        first_page = first_page or time.perf_counter() - started
        pages += 1
        objects += len(page.get("objects", []))
        definitions += sum(entry["id"].startswith("marking-definition--") for entry in page.get("objects", []))
        ids.update(entry["id"] for entry in page.get("objects", []))
    seconds = time.perf_counter() - started
    problems = [] if len(ids) == objects else [f"{objects - len(ids)} ids came twice"]
    if args.expect not in (None, objects - definitions):
        problems.append(f"{objects - definitions} objects, definitions aside, instead of {args.expect}")
    result = {
        "name": args.name,
        "limit": args.limit,
        "gzip": True,
        "pages": pages,
        "objects": objects,
        "bytes": sum(received),
        "seconds": round(seconds, 4),
        "objects_per_second": round(objects / seconds),
        "megabytes_per_second": round(sum(received) / seconds / 1e6, 1),
        "first_page_ms": round(first_page * 1000, 3),
        "server_peak_rss_mib": peak_mib(args.pid),
        "problems": problems,
    }
    print(json.dumps(result))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
