#!/usr/bin/env python3
"""Writes README.md beside a run's results.jsonl, and prints its tables: xsoar_report.py FOLDER COUNT EDGES VERSION"""

import json
import platform
import sys
from pathlib import Path

from report import machine, number, output, table


def main():
    folder, count, edges, version = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    results = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    steps = [
        [result["name"], number(result.get("seconds"), 2), number(result.get("peak_rss_mib", result.get("mib")))]
        for result in results
        if "pages" not in result
    ]
    walks, base = [], {}
    for result in results:
        if "pages" not in result:
            continue
        # Compared with the plain one of its profile and version, which comes first.
        own = base.setdefault(result["name"].split(":")[0], result)
        walks.append(
            [
                result["name"],
                number(result["objects"]),
                number(result["relationships"]),
                number(result["pages"]),
                number(result["seconds"], 3),
                f"{result['seconds'] / own['seconds']:.2f}",
                number(result["bytes"] / 1e6, 1),
                f"{result['bytes'] / own['bytes']:.2f}",
                number(result["objects_per_second"]),
                number(result["megabytes_per_second"]),
                number(result["page_p50_ms"], 1),
                number(result["page_p99_ms"], 1),
                number(result.get("server_peak_rss_mib")),
                "; ".join(result["problems"]) or "ok",
            ]
        )
    changes = output("git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!perf/runs")
    text = "\n".join(
        [
            f"# {folder.name}",
            "",
            f"{version}, commit {output('git', 'rev-parse', '--short=12', 'HEAD') or 'unknown'}"
            f"{' with local changes' if changes else ''}. "
            f"{output('rustc', '--version')}. Python {platform.python_version()}. {machine()}.",
            f"Command: `COUNT={count} EDGES={edges} perf/xsoar.sh`. Raw numbers: `results.jsonl`.",
            "",
            table(["step", "seconds", "MiB (peak memory, or disk)"], steps),
            table(
                [
                    "pull",
                    "objects",
                    "relationships",
                    "pages",
                    "seconds",
                    "× plain",
                    "MB",
                    "× plain",
                    "objects/s",
                    "MB/s",
                    "page p50 ms",
                    "page p99 ms",
                    "server peak MiB",
                    "checks",
                ],
                walks,
            ),
        ]
    )
    (folder / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
