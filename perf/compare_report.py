#!/usr/bin/env python3
"""Writes README.md and chart.svg beside the results.json of a comparison: compare_report.py FOLDER"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from report import table

# XSOAR's documentation of its TAXII2 Server: how long a request for so many indicators takes.
XSOAR = {10_000: (5, 10), 50_000: (30, 40), 100_000: (50, 90)}
COLORS = {
    "taxiway": "#1b6ca8",
    "nginx": "#7a8793",
    "OpenTAXII": "#c8791e",
    "medallion": "#8e4a9b",
    "XSOAR (published)": "#b03a2e",
}


def seconds(value):
    if value is None:
        return "-"
    return f"{value:,.1f} s" if value >= 10 else f"{value:.2f} s" if value >= 1 else f"{value * 1000:,.1f} ms"


class Results:
    """The measurements by what they are."""

    def __init__(self, facts):
        self.facts = facts
        self.peers = list(facts["versions"])
        self.by = {
            (entry["peer"], entry["count"], entry["what"], entry["page"], entry.get("gzip", False)): entry
            for entry in facts["results"]
        }

    def get(self, peer, count, what, page, packed=False):
        return self.by.get((peer, count, what, page, packed))

    def cell(self, peer, count, what, page, key, packed=False):
        """A time, and for peers how many times that of taxiway."""
        entry = self.get(peer, count, what, page, packed)
        if entry is None:
            return "-"
        if "cut" in entry:
            return f"> {entry['cut']} s ({seconds(entry.get('cpu_seconds'))} of CPU)"
        own = self.get("taxiway", count, what, page, packed)
        text = seconds(entry.get(key))
        if peer != "taxiway" and own and own.get(key):
            text += f" (×{ratio(entry[key] / own[key])})"
        return text + (" !" if entry.get("problem") else "")

    def rows(self, wanted, key):
        """Rows of (count, what, page, compressed, words) that anybody has something in."""
        rows = []
        for count, what, page, packed, words in wanted:
            cells = [self.cell(peer, count, what, page, key, packed) for peer in self.peers]
            if any(cell != "-" for cell in cells):
                rows.append([f"{count:,}", words, *cells])
        return rows


def ratio(value):
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def tables(facts):
    results = Results(facts)
    heads = ["documents", "", *results.peers]
    sizes = facts["sizes"]
    pages = [100, 1_000, 10_000, "whole"]

    def words(page):
        return "everything" if page == "whole" else f"{page:,}"

    plain = [(count, "first page", page, False, words(page)) for count in sizes for page in pages]
    packed = [(count, "first page", page, True, f"{words(page)}, gzip") for count in sizes for page in pages[2:]]
    parts = ["## One request, everything", "", whole(results), ""]
    parts += ["## First page, cold", "", "The first request after the start of the server.", ""]
    parts += [table(heads, results.rows(plain + packed, "cold"))]
    parts += ["## First page, again", "", "Median of five of the same, right after it.", ""]
    parts += [table(heads, results.rows(plain + packed, "cached"))]
    walks = [(count, "walk", page, False, f"in pages of {page:,}") for count in sizes for page in (100, 1_000, 10_000)]
    parts += ["## All pages, one after another", "", table(heads, results.rows(walks, "seconds"))]
    depth = [
        (count, "walk", page, False, f"page of {page:,}")
        for count in sizes
        for page in (100, 1_000, 10_000)
    ]  # fmt: skip
    parts += ["## A page in the middle", "", "Median of three, from that walk.", ""]
    parts += [table(heads, results.rows(depth, "middle_page"))]
    kinds = ("one type in 500", "a query that one row in 10,000 matches", "nothing new")
    some = [(count, what, 1_000, False, what) for count in sizes for what in kinds]
    parts += ["## Selective reading", "", "The first 1,000 of what matches; cold, then again.", ""]
    parts += [table(heads, results.rows(some, "cold")), table(heads, results.rows(some, "cached"))]
    parts += ["## What it costs the server", "", costs(results, sizes)]
    return "\n".join(parts)


def whole(results):
    """The headline: all of a collection in one answer, with XSOAR's own figures."""
    heads = ["documents"]
    for peer in results.peers:
        heads += [f"{peer}, cold", f"{peer}, again"]
    heads.append("XSOAR, published")
    rows = []
    for count in results.facts["sizes"]:
        row = [f"{count:,}"]
        for peer in results.peers:
            row += [results.cell(peer, count, "first page", "whole", key) for key in ("cold", "cached")]
        published = XSOAR.get(count)
        row.append(f"{published[0]}–{published[1]} s" if published else "-")
        rows.append(row)
    return table(heads, rows)


def costs(results, sizes):
    heads = ["documents", "server", "load", "load, CPU", "load, peak MiB", "disk MiB", "everything, CPU", "peak MiB"]
    rows = []
    for count in sizes:
        for peer in results.peers:
            load = results.get(peer, count, "load", "whole") or {}
            read = results.get(peer, count, "first page", "whole") or {}
            if not load and not read:
                continue
            took = seconds(load.get("seconds"))
            if load.get("loaded", count) < count:
                took = f"{load['loaded']:,} in {took}, then cut"
            rows.append(
                [
                    f"{count:,}",
                    peer,
                    took,
                    seconds(load.get("cpu_seconds")),
                    *(f"{load[key]:,.0f}" if key in load else "-" for key in ("peak_mib", "disk_mib")),
                    f"> {read['cut']} s" if "cut" in read else seconds(read.get("cpu_seconds")),
                    f"{read['peak_mib']:,.0f}" if "peak_mib" in read else "-",
                ]
            )
    return table(heads, rows)


@dataclass
class Panel:
    """One diagram: its lines by name, each of (where on the horizontal axis, seconds, whether it was cut off there)."""

    title: str
    lines: dict
    # Where on the horizontal axis something is, from 0 to 1, and what stands below it.
    across: dict
    labels: dict


def chart(facts):
    """Everything in one answer, and a page of 1,000, over the number of documents; both axes are logarithmic."""
    results = Results(facts)
    wanted = [
        ("Everything in one answer, first time", "whole", "cold"),
        ("Everything in one answer, again", "whole", "cached"),
        ("First 1,000 objects, again", 1_000, "cached"),
    ]
    sizes = facts["sizes"]
    first, last = math.log10(min(sizes)), math.log10(max(sizes))
    across = {
        count: 0.5 if last == first else 0.06 + 0.88 * (math.log10(count) - first) / (last - first) for count in sizes
    }
    labels = {count: f"{count // 1_000_000} M" if count >= 1_000_000 else f"{count // 1_000} k" for count in sizes}
    panels = []
    for title, page, key in wanted:
        lines = {}
        for peer in results.peers:
            for count in sizes:
                entry = results.get(peer, count, "first page", page)
                if entry:
                    cut = "cut" in entry
                    lines.setdefault(peer, []).append((count, entry["cut"] if cut else entry[key], cut))
        if not panels:
            lines["XSOAR (published)"] = [
                (count, math.sqrt(low * high), False) for count, (low, high) in XSOAR.items() if count in sizes
            ]
        panels.append(Panel(title, lines, across, labels))
    colors = {name: COLORS.get(name, "#333") for name in [*results.peers, "XSOAR (published)"]}
    foot = (
        "Number of documents; seconds, logarithmic. "
        "Triangles: cut off there, it takes longer. XSOAR: middle of the published range."
    )
    return draw(panels, colors, foot, dashed=["XSOAR (published)"])


def draw(panels, colors, foot, dashed=()):
    """Panels side by side as SVG, seconds upwards (logarithmic); below them the names in their colors, and a line of text."""
    width, height, left, top, gap = 330, 320, 64, 48, 84
    total = left + len(panels) * width + (len(panels) - 1) * gap + 24
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {top + height + 92}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{total}" height="{top + height + 92}" fill="#ffffff"/>',
    ]
    for number, panel in enumerate(panels):
        x0 = left + number * (width + gap)
        values = [value for line in panel.lines.values() for _, value, _ in line if value > 0] or [1]
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 1e-9)
        high = max(high, low + 1)

        def place(where, value, x0=x0, low=low, high=high, across=panel.across):
            up = (math.log10(value) - low) / (high - low)
            return x0 + across[where] * width, top + height - up * height

        out.append(f'<text x="{x0}" y="{top - 18}" font-size="14" font-weight="bold">{panel.title}</text>')
        for power in range(low, high + 1):
            y = top + height - (power - low) / (high - low) * height
            out.append(f'<line x1="{x0}" x2="{x0 + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dfe3e6"/>')
            value = f"{10**power:,} s" if power >= 0 else f"{10 ** (power + 3):g} ms"
            out.append(f'<text x="{x0 - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#555">{value}</text>')
        for where, label in panel.labels.items():
            x, _ = place(where, values[0])
            out.append(f'<text x="{x:.1f}" y="{top + height + 18}" text-anchor="middle" fill="#555">{label}</text>')
        for name, line in panel.lines.items():
            color = colors[name]
            points = [place(where, value) for where, value, _ in line]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            dash = ' stroke-dasharray="5 4"' if name in dashed else ""
            out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>')
            for (x, y), (_, value, cut) in zip(points, line):
                # Cut off: an arrow that points to where the true value lies, up.
                shape = (
                    f'<path d="M{x - 6:.1f} {y:.1f} L{x + 6:.1f} {y:.1f} L{x:.1f} {y - 10:.1f} Z"'
                    if cut
                    else f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"'
                )
                words = f"{name}: {'more than ' if cut else ''}{seconds(value)}"
                out.append(f'{shape} fill="{color}"><title>{words}</title></{"path" if cut else "circle"}>')
    x, y = left, top + height + 48
    for name, color in colors.items():
        out.append(f'<circle cx="{x}" cy="{y - 4}" r="5" fill="{color}"/>')
        out.append(f'<text x="{x + 10}" y="{y}">{name}</text>')
        x += 30 + 8 * len(name)
    out.append(f'<text x="{left}" y="{y + 24}" fill="#555">{foot}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def busy(facts):
    """A warning when others used the machine: a server that waits for its turn looks slow, and is cut off too early."""
    if facts["load_before"] < 0.5 * int(facts["machine"].split()[0]):
        return []
    return [
        f"**The machine was busy with something else**: load average {facts['load_before']} before the first measurement, "
        f"{facts['load_most']} at most. Times and what was cut off are no measure of any server; of CPU seconds the ratios may serve.",
        "",
    ]


def write(folder, facts):
    """Writes README.md and chart.svg; gives the text of the first."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines = [
        f"# {facts['name']}",
        "",
        f"{versions}. Commit {facts['commit']}. Python {facts['python']}. {facts['machine']}.",
        f"Command: `{facts['command']}`, {facts['minutes']} minutes, limit {facts['seconds']} s a request. "
        "Raw numbers: `results.json`.",
        "",
        *busy(facts),
        "![chart](chart.svg)",
        "",
        "×: how many times taxiway's; below 1 it is faster than taxiway. `> N s`: cut off there. `-`: cannot, or not tried. "
        "`!`: the answer was wrong, see the raw numbers.",
        "",
        tables(facts),
        "## What they cannot do, and what was done about it",
        "",
        *(f"- {name}: {limit}." for name, limits in facts["limits"].items() for limit in limits),
        f"- OpenTAXII is loaded by POSTs of 100 for at most {facts['load_seconds']} s; what is missing then is written straight "
        "into its tables, so that reading can be measured.",
        "- XSOAR: figures of its documentation, on a machine of its own; printed for comparison, not measured here.",
        *(f"- {line}." for line in facts["skipped"]),
        "",
    ]
    text = "\n".join(lines)
    (folder / "README.md").write_text(text)
    (folder / "chart.svg").write_text(chart(facts))
    return text


if __name__ == "__main__":
    where = Path(sys.argv[1])
    print(write(where, json.loads((where / "results.json").read_text())))
