"""README.md and flatness.svg beside the results.jsonl of perf/large."""

import json
import math
import platform
import statistics
from datetime import datetime, timedelta
from pathlib import Path

from compare_report import Panel, busy, draw
from report import machine, number, output, table

# Selectivities by the names of their collections.
SHARES = {"All": 1, "1 in 10": 1e-1, "1 in 1,000": 1e-3, "1 in 10,000": 1e-4, "1 in 100,000": 1e-5}
COLORS = {
    "never asked for before": "#c8791e",
    "the same, none gathered": "#7a7a7a",
    "cache off, the same page": "#8e4a9b",
    "asked for before": "#1b6ca8",
    "first after a start": "#b03a2e",
}


class Results:
    def __init__(self, lines):
        self.lines = lines
        self.runs = {line["part"]: line for line in lines if line["name"] == "run"}

    def all(self, part, name=None, **values):
        return [
            line
            for line in self.lines
            if line["part"] == part
            and line["name"] != "run"
            and name in (None, line["name"])
            and all(line.get(key) == value for key, value in values.items())
        ]

    def median(self, key, part, name=None, **values):
        found = [line[key] for line in self.all(part, name, **values) if key in line]
        return statistics.median(found) if found else None


def span(seconds, digits=3):
    return "-" if seconds is None else f"{seconds:,.{digits}f} s"


def millis(value):
    return "-" if value is None else f"{value:,.2f} ms"


def place(row):
    if row < 0:
        return "all over"
    return f"{row / 1e6:g} M" if row >= 100_000 else f"{row:,}"


def targets(results):
    """The figures to reach: what, target, measured, whether."""
    rows = []

    def add(what, target, shown, met):
        rows.append([what, target, shown, "-" if met is None else "yes" if met else "**no**"])

    def limit(what, target, value, most, show, more=""):
        add(what, target, "not measured" if value is None else show(value) + more, None if value is None else value <= most)

    first, again = results.median("first", "pages", "whole"), results.median("again", "pages", "whole")
    floor = results.median("again", "pages", "nginx")
    objects = results.median("objects", "pages", "whole")
    what = f"{objects:,.0f} indicators, one request" if objects else "100,000 indicators, one request"
    size = results.median("bytes", "pages", "whole")
    limit(what, "≤ 0.12 s", first, 0.12, span, f" ({size / 1e6:.1f} MB)" if size else "")
    times = lambda value: f"{value:.2f} ×"  # noqa: E731
    limit("the same, beside nginx sending the same bytes", "≤ 3 ×", first and floor and first / floor, 3, times, f" {span(floor, 4)}")
    limit("the same, cached, beside nginx", "≤ 1.5 ×", again and floor and again / floor, 1.5, times, f" ({span(again, 4)})")
    pages = results.median("first", "pages", "pages of 1,000")
    limit("the same in pages of 1,000, one connection", "≤ 0.4 s", pages, 0.4, span)

    flat = {line["row"]: line for line in results.all("flat", "next pages", cache="off")}
    ends = [flat[row] for row in (min(flat), max(flat))] if flat else [None, None]
    for words, line in zip(("at row 0", "at the end"), ends):
        for key, most in (("p50_ms", 2), ("p99_ms", 10)):
            limit(f"page of 1,000 {words}, {key[:3]}", f"≤ {most} ms", line and line[key], most, millis, line and f" (row {place(line['row'])})" or "")
    limit("the same, last by first", "≤ 1.2 ×", flat and ends[1]["p50_ms"] / ends[0]["p50_ms"] or None, 1.2, times)
    rare = results.all("selective", "1 in 10,000", cache="off", kind="next pages")
    limit("the same for a query that 1 row in 10,000 matches, p50", "≤ 3 ms", max((line["p50_ms"] for line in rare), default=None), 3, millis)
    usual = [line for part in ("flat", "selective") for line in results.all(part) if "gathered" not in line["cache"]]
    bytes_first = [line["first_byte_p99_ms"] for line in usual]
    limit("first byte of any page, p99", "≤ 5 ms", max(bytes_first, default=None), 5, millis)

    polls = results.all("polls", cache="default")
    records = min((line["records"] for line in polls), default=1_000_000)
    for name, most in (("nothing new", 0.3), ("1,000 new", 2), ("one object by id, all different", 0.5)):
        found = results.all("polls", name, cache="default", records=records)
        # The client's median holds the server's, which is no higher.
        own = min(found[0]["server_mean_ms"], found[0]["p50_ms"]) if found else None
        more = f" (server's mean {millis(found[0]['server_mean_ms'])}, client's p50 {millis(found[0]['p50_ms'])})" if found else ""
        limit(f"poll with a password on {place(records)}: {name}", f"≤ {most} ms", own, most, millis, more)

    clients = results.all("clients", "clients")
    peak = clients[0]["server_peak_mib"] if clients else None
    what = f"memory while streaming {place(clients[0]['objects'] // clients[0]['clients'])} objects to {clients[0]['clients']} clients" if clients else "memory while streaming to 8 clients"
    limit(what, "≤ 512 MiB", peak, 512, lambda value: f"{value:,.0f} MiB")
    for words, name, least in (("import of XSOAR NDJSON, committed and indexed", "import", 400_000), ("the same into what is there", "further", 200_000)):
        rate = results.median("per_second", "import", name)
        add(words, f"≥ {least:,} records/s", "not measured" if rate is None else f"{rate:,.0f}/s", None if rate is None else rate >= least)
    limit("start until ready", "≤ 1 s", results.median("seconds", "start"), 1, span)
    add("enrichment", "≥ 1 M events/s", "`perf/enrich.sh`", None)
    add("UUIDv5 ids", "≥ 5 M/s per core", "`cargo bench`, `perf/instructions`", None)
    return table(["what", "target", "measured", "met"], rows)


def checks(line):
    return "; ".join(line.get("problems", [])) or "ok"


def section(title, text, heads, rows):
    return [f"## {title}", "", *([text, ""] if text else []), table(heads, rows)] if rows else []


def sections(results):
    parts = []
    rows = [
        ["everything, into a new store" if line["name"] == "import" else "as many new ones again, into that store"
         if line["read"] >= results.runs.get("import", {}).get("count", math.inf) else f"{line['read']:,} new ones, into that store",
         number(line["seconds"], 1), number(line["per_second"]), number(line["cpu_seconds"], 1), number(line["peak_mib"]),
         number(line["input_mib"]), number(line.get("disk_mib")), checks(line)]
        for line in results.all("import")
    ]  # fmt: skip
    parts += section("Import", "", ["import", "seconds", "records/s", "CPU seconds", "peak MiB", "input MiB", "store MiB", "checks"], rows)
    rows = [
        [line["run"], number(line["seconds"], 3), number(line["with_first_page"], 3), number(line["first_page_ms"], 2), number(line["peak_mib"])]
        for line in results.all("start")
    ]
    text = "Until the server answers; and until it has sent its first page of 1,000, the way there being asked for as well."
    parts += section("Start", text, ["run", "ready, seconds", "with a first page, seconds", "that page, ms", "peak MiB"], rows)

    rows = []
    for name, words in (("whole", "one request"), ("pages of 1,000", "pages of 1,000"), ("nginx", "nginx, one file")):
        found = results.all("pages", name)
        if found and "first" in found[0]:
            shown = [number(results.median(key, "pages", name), 4) if key in found[0] else "" for key in ("first", "second", "again")]
            each = ", ".join(number(line["first"], 3) for line in found)
            rows.append([words, *shown, each, number(found[0].get("bytes")), number(results.median("peak_mib", "pages", name)), "; ".join({checks(line) for line in found})])
    text = "Medians, in seconds. First: of a server just started, its files in the page cache. The second time pieces are kept, then they come from there."
    parts += section("100,000 objects", text, ["", "first", "second", "cached", "each first", "bytes", "server peak MiB", "checks"], rows)

    heads = ["requests", "bytes", "p50 ms", "p99 ms", "first byte p50 ms", "first byte p99 ms", "server's mean ms"]
    cells = lambda line: [  # noqa: E731
        number(line["requests"]), number(line["bytes"]), *(number(line[key], 2) for key in ("p50_ms", "p99_ms", "first_byte_p50_ms", "first_byte_p99_ms", "server_mean_ms"))
    ]  # fmt: skip
    rows = [[line["name"], line["cache"], place(line["row"]), *cells(line)] for line in results.all("flat")]
    text = (
        "Pages of 1,000. **next pages**: one after another from that row on, none asked for before; where the end is near and the cache off, those before it "
        "again. **cache off**: `rendered_bytes = 1`, so nothing is kept. **all over**: a hundred places, each asked for once by `added_after`. "
        "Bytes: of the largest page; reports come last in an import, and are twice as large as other objects."
    )
    parts += section("Depth", text, ["", "cache", "row", *heads], rows)
    rows = [
        [f"`{line['query'] or 'everything'}`", f"{line['matched']:,}", f"1 in {1 / line['fraction']:,.0f}" if line["matched"] else "none",
         f"{line['kind']}, {line['where']}", line["cache"], number(line.get("first_after_start_ms"), 1), *cells(line)]
        for line in results.all("selective")
    ]  # fmt: skip
    text = (
        "Pages of 1,000 of what a query matches, round and round where there are few. First: the first request after a start, when nothing is known of the query. The others come once the server "
        "has found out by itself what its collections serve, and gathered what is rare. **None gathered**: `gathered_bytes = 1`, so all is read from the segments."
    )
    parts += section("Selectivity", text, ["query", "matches", "measured", "what", "cache", "first ms", *heads], rows)
    rows = [[f"{line['records']:,}", line["name"], line["cache"], *cells(line), checks(line)] for line in results.all("polls")]
    text = "With basic authentication, over one connection. The client's own part is in p50 and p99; the server's mean is its own account, from the head of a request to the end of its answer."
    parts += section("Polls", text, ["records", "", "cache", *heads, "checks"], rows)
    rows = []
    for line in results.all("clients"):
        rows += [
            ["clients, each through everything", f"{line['clients']}, {line['limit']:,} a page"],
            ["objects of a client", f"{line['least']:,} to {line['most']:,}"],
            ["seconds until the last was through", number(line["seconds"], 1)],
            ["objects/s, all together", number(line["objects_per_second"])],
            ["MB/s, all together", number(line["megabytes_per_second"])],
            ["slowest page, ms", number(line["slowest_page_ms"])],
            ["server: peak MiB, CPU seconds", f"{line['server_peak_mib']:,.0f}, {line['server_cpu_seconds']:,.1f}"],
            ["clients: CPU seconds, all together", number(line["clients_cpu_seconds"], 1)],
            ["import meanwhile: seconds, records/s", f"{line['import_seconds']:,.1f}, {line['import_per_second']:,.0f}"],
            ["  of which clients were reading, seconds", number(line["import_alongside"], 1)],
            ["import: peak MiB, CPU seconds", f"{line['import_peak_mib']:,.0f}, {line['import_cpu_seconds']:,.1f}"],
            ["checks", checks(line)],
        ]
    text = (
        "A walk before looks at every id: each once, and all of them. Every client holds the checksum of each of its pages against that walk, and the ids behind it "
        "against a walk after the import. The clients are Python, on the same cores."
    )
    parts += section("Many clients while an import runs", text, ["", ""], rows)
    rows = []
    for line in results.all("export"):
        if "seconds" not in line:
            rows.append([line["name"], line["kind"], *[""] * 8, checks(line)])
            continue
        kind = "whole" if line["kind"] == "whole" else f"the rest after kill -9 at {line['killed_after']:,.1f} s, {line['parts_kept']} files kept"
        if line["kind"] != "whole":
            kind += ", same bytes" if line["same_bytes"] else ", other bytes"
        rows.append(
            [line["name"], kind, number(line["seconds"], 1), number(line["rows_per_second"]), number(line["cpu_seconds"], 1), number(line["peak_mib"]),
             number(line["bytes"]), number(line.get("files")), number(line.get("rows")), line["words"], checks(line)]
        )  # fmt: skip
    heads = ["format", "export", "seconds", "rows/s", "CPU seconds", "peak MiB", "bytes", "files", "rows", "read by", "checks"]
    parts += section("Exports", "", heads, rows)
    return parts


def chart(results):
    panels = []
    flat = results.all("flat")
    if flat:
        rows = sorted({line["row"] for line in flat if line["row"] >= 0})
        lines = {}
        for name, key, cache in (
            ("never asked for before", "next pages", "off"),
            ("cache off, the same page", "same page", "off"),
            ("asked for before", "same page", "default"),
        ):
            found = sorted((line["row"], line["p50_ms"] / 1000, False) for line in results.all("flat", key, cache=cache))
            if found:
                lines[name] = found
        across = {row: 0.08 + 0.84 * at / max(len(rows) - 1, 1) for at, row in enumerate(rows)}
        panels.append(Panel("Page of 1,000 by its row, p50", lines, across, {row: place(row) for row in rows}))
    if results.all("selective"):
        lines = {}
        for name, key, cache, kind in (
            ("never asked for before", "p50_ms", "off", "next pages"),
            ("the same, none gathered", "p50_ms", "off, none gathered", "next pages"),
            ("cache off, the same page", "p50_ms", "off", "same page"),
            ("asked for before", "p50_ms", "default", "same page"),
            ("first after a start", "first_after_start_ms", "off", "next pages"),
        ):
            for title, share in SHARES.items():
                for line in results.all("selective", title, cache=cache, kind=kind, where="from the start"):
                    lines.setdefault(name, []).append((share, line[key] / 1000, False))
        across = {share: 0.08 + 0.84 * -math.log10(share) / 5 for share in SHARES.values()}
        labels = {share: "all" if title == "All" else title.replace("1 in ", "1/") for title, share in SHARES.items()}
        panels.append(Panel("First 1,000 of a query, by what it matches, p50", lines, across, labels))
    names = {name for panel in panels for name in panel.lines}
    colors = {name: color for name, color in COLORS.items() if name in names}
    return draw(panels, colors, "Seconds, logarithmic. Whole answer, as the client saw it.") if panels else None


def follows(line, runs):
    """Whether the load before a part is that of another part: load averages look back for some minutes."""
    began = datetime.fromisoformat(line["started"])
    ends = (datetime.fromisoformat(other["started"]) + timedelta(minutes=other["minutes"]) for other in runs if other is not line)
    return any(-1 < (began - end).total_seconds() / 60 < 3 for end in ends)


def write(folder):
    """Writes README.md and flatness.svg; gives the text of the first. `notes.md`, written by hand, stands in it where it is there."""
    folder = Path(folder)
    results = Results([json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()])
    drawn = chart(results)
    if drawn:
        (folder / "flatness.svg").write_text(drawn)
    runs = list(results.runs.values())
    counts = sorted({line["count"] for line in runs})
    notes = folder / "notes.md"
    load = max((line["load_before"] for line in runs if not follows(line, runs)), default=0)
    text = [
        f"# {folder.name}",
        "",
        f"{', '.join(f'{count:,}' for count in counts)} records. {'; '.join(sorted({line['version'] for line in runs}))}, "
        f"commit {', '.join(sorted({line['commit'] for line in runs}))}. {output('rustc', '--version')}. Python {platform.python_version()}. {machine()}.",
        "Raw numbers: `results.jsonl`.",
        "",
        *busy({"machine": machine(), "load_before": load, "load_most": load}),
        "## Figures to reach",
        "",
        targets(results),
        *([notes.read_text().strip(), ""] if notes.exists() else []),
        *(["![flatness](flatness.svg)", ""] if drawn else []),
        *sections(results),
        "## Commands",
        "",
        table(
            ["command", "started", "minutes", "load before", "commit", "problems"],
            [[f"`{line['command']}`", line["started"], line["minutes"], line["load_before"], line["commit"], checks(line)] for line in runs],
        ),
    ]
    text = "\n".join(text)
    (folder / "README.md").write_text(text)
    return text
