#!/usr/bin/env python3
"""Times small requests, many of each over one keep-alive connection, and prints a JSON line for each kind.

Times are the client's: this Python loop itself costs 0.2 to 0.4 ms a request, which is in them (`floor` shows it).
"""

import argparse
import json
import statistics
import sys

from wire import Server, milliseconds, percentile


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--rounds", type=int, default=300)
    args = parser.parse_args()
    server = Server(args.url)
    everything = server.collection("All")
    rare = server.collection("Rare")
    objects = f"{everything}objects/"

    first_page = server.get(objects, limit=1000)
    one = first_page.json()["objects"][-1]["id"]
    # The end of the log, by pages as large as the server allows; the last but one thousand objects come from there.
    page, before, last = first_page, None, first_page
    while page.json().get("more"):
        before, page = page, server.get(objects, limit=100000, next=page.json()["next"])
        last = page
    end = last.headers["X-TAXII-Date-Added-Last"]
    tail_start = (before or first_page).headers["X-TAXII-Date-Added-Last"]

    kinds = [
        ("floor: one collection resource", everything, {}),
        ("nothing new", objects, {"added_after": end}),
        ("one object by id", f"{objects}{one}/", {}),
        ("first page of 1,000", objects, {"limit": 1000}),
        ("page of 1,000 near the end", objects, {"limit": 1000, "added_after": tail_start}),
        ("one row in 10,000, page of 1,000", f"{rare}objects/", {"limit": 1000}),
        ("manifest, first page of 1,000", f"{everything}manifest/", {"limit": 1000}),
    ]
    for name, path, params in kinds:
        answers = [server.get(path, **params) for _ in range(args.rounds)]
        times = [answer.seconds for answer in answers]
        result = {
            "name": name,
            "rounds": args.rounds,
            "bytes": len(answers[-1].body),
            "p50_ms": milliseconds(percentile(times, 0.5)),
            "p99_ms": milliseconds(percentile(times, 0.99)),
            "first_ms": milliseconds(times[0]),
            "mean_ms": milliseconds(statistics.fmean(times)),
        }
        print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
