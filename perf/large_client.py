#!/usr/bin/env python3
"""One client of perf/large that streams a collection to its end and keeps none of it; prints one JSON line.

    large_client.py reference URL COLLECTION LIMIT FILE    # looks at every id, and writes what each page was to FILE
    large_client.py stream URL COLLECTION LIMIT FILE       # holds its pages against FILE; begins when a line comes

Two walks that see the same bytes in the same pages see the same objects, so a checksum a page shows what was lost or repeated
and leaves the cores to the server. What comes behind the full pages of FILE (an import goes on meanwhile) is told by its ids.
"""

import json
import re
import resource
import sys
import time
import zlib

from wire import Raw

IDS = re.compile(rb'"id":"([a-z0-9-]+--[0-9a-f-]{36})"')


def objects(body):
    """The part of a page that is the same for everyone; `next` in front of it names the walk."""
    at = body.find(b'"objects":')
    return body[at:] if at >= 0 else b""


def ids(text):
    """Ids of the objects, without those of markings, which are sent along."""
    return [name for name in IDS.findall(text) if not name.startswith(b"marking-definition--")]


def walk(url, path, limit):
    """Pages to the end: number, objects as bytes, the answer."""
    server, following, page = Raw(url), {}, 0
    while True:
        answer = server.get(path, limit=limit, **following)
        yield page, objects(answer.body()), answer
        token = answer.next()
        if token is None:
            return
        following, page = {"next": token}, page + 1


def reference(url, path, limit):
    """Every id once; and the checksums of all pages that are full, the date behind them, and the ids of the rest."""
    seen, count, pages, rest, dates, problems = set(), 0, [], [], [""], []
    for _, text, answer in walk(url, path, limit):
        names = ids(text)
        count += len(names)
        seen.update(hash(name) for name in names)
        if not dates[-1] < answer.headers.get("x-taxii-date-added-first", "~"):
            problems.append(f"dates do not rise behind {dates[-1]}")
        dates.append(answer.last_date())
        pages.append(zlib.crc32(text))
        rest.append((len(names), [name.decode() for name in names] if answer.next() is None else None))
    if len(seen) != count:
        problems.append(f"{count - len(seen)} ids came twice")
    # The last page is as long as the collection is at the moment.
    return {
        "count": count,
        "full": pages[:-1],
        "in_full": sum(number for number, _ in rest[:-1]),
        "tail": rest[-1][1],
        "behind_full": dates[-2] if len(dates) > 1 else "",
        "problems": problems,
    }


def stream(url, path, limit, known):
    full, different, tail, count, size, seconds = known["full"], [], [], 0, 0, []
    dates_rise, last = True, ""
    for page, text, answer in walk(url, path, limit):
        size += len(text)
        seconds.append(answer.seconds)
        dates_rise &= last < answer.headers.get("x-taxii-date-added-first", "~")
        last = answer.last_date() or last
        if page < len(full):
            if zlib.crc32(text) != full[page]:
                different.append(page)
        else:
            tail += (name.decode() for name in ids(text))
    count = known["in_full"] + len(tail)
    problems = [f"page {page} differs" for page in different[:5]]
    if page < len(full) - 1:
        problems.append(f"it ends after {page + 1} pages instead of {len(full)}")
    if not dates_rise:
        problems.append("dates do not rise")
    if tail[: len(known["tail"])] != known["tail"]:
        problems.append("the end of what was there before is not the same")
    return {"objects": count, "bytes": size, "pages": page + 1, "page_max": max(seconds), "problems": problems}, tail


def main():
    mode, url, path, limit, file = sys.argv[1:]
    if mode == "reference":
        found = reference(url, path, int(limit))
        with open(file, "w") as out:
            json.dump(found, out)
        print(json.dumps({"objects": found["count"], "problems": found["problems"]}))
        return 1 if found["problems"] else 0
    with open(file) as known:
        known = json.load(known)
    print("ready", flush=True)
    sys.stdin.readline()
    started, cpu = time.time(), resource.getrusage(resource.RUSAGE_SELF)
    result, tail = stream(url, path, int(limit), known)
    used = resource.getrusage(resource.RUSAGE_SELF)
    result |= {"started": started, "ended": time.time(), "tail": tail}
    result["cpu_seconds"] = used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
