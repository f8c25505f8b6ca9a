#!/usr/bin/env python3
"""Writes README.md beside a run's results.jsonl, and prints its tables: report.py FOLDER COUNT VERSION"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path


def output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def machine():
    cpu = memory = "unknown"
    for path, name in (("/proc/cpuinfo", "model name"), ("/proc/meminfo", "MemTotal")):
        if os.path.exists(path):
            with open(path) as file:
                found = next((line.split(":")[1].strip() for line in file if line.startswith(name)), "unknown")
            if name == "MemTotal":
                memory = f"{int(found.split()[0]) / 2**20:.0f} GiB"
            else:
                cpu = found
    return f"{os.cpu_count()} cores ({cpu}), {memory}, {platform.system()} {platform.release()}"


def table(heads, rows):
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def number(value, digits=0):
    return "" if value is None else f"{value:,.{digits}f}"


def main():
    folder, count, version = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    results = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    pulls = [result for result in results if "pages" in result]
    polls = [result for result in results if "p50_ms" in result]
    others = [result for result in results if "pages" not in result and "p50_ms" not in result]

    steps = []
    for result in others:
        rate = number(count / result["seconds"]) if result["name"].startswith("import") else ""
        size = result.get("peak_rss_mib", result.get("mib"))
        steps.append([result["name"], number(result.get("seconds"), 2), rate, number(size)])
    walks = []
    for result in pulls:
        note = ""
        if result["limit"] == 1:
            note = f"{result['seconds'] * count / result['objects']:,.0f} s for all, extrapolated"
        walks.append(
            [
                result["name"],
                number(result["objects"]),
                number(result["seconds"], 3),
                number(result["objects_per_second"]),
                number(result["megabytes_per_second"], 1),
                number(result.get("first_byte_ms"), 2),
                number(result.get("page_p50_ms"), 2),
                number(result.get("page_p99_ms"), 2),
                number(result.get("server_peak_rss_mib")),
                "; ".join(result["problems"]) or note or "ok",
            ]
        )
    small = [
        [r["name"], number(r["bytes"]), number(r["p50_ms"], 2), number(r["p99_ms"], 2), number(r["first_ms"], 2)]
        for r in polls
    ]

    # The run writes its own results here: they are no change to what it measured.
    changes = output("git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!perf/runs")
    text = "\n".join(
        [
            f"# {folder.name}",
            "",
            f"{version}, commit {output('git', 'rev-parse', '--short=12', 'HEAD') or 'unknown'}"
            f"{' with local changes' if changes else ''}. "
            f"{output('rustc', '--version')}. Python {platform.python_version()}. {machine()}.",
            f"Command: `COUNT={count} perf/run.sh`. Raw numbers: `results.jsonl`.",
            "",
            table(["step", "seconds", "records/s", "MiB (peak memory, or disk)"], steps),
            table(
                [
                    "pull",
                    "objects",
                    "seconds",
                    "objects/s",
                    "MB/s",
                    "first byte ms",
                    "page p50 ms",
                    "page p99 ms",
                    "server peak MiB",
                    "checks",
                ],
                walks,
            ),
            table(["small request", "bytes", "p50 ms", "p99 ms", "first ms"], small),
        ]
    )
    (folder / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
