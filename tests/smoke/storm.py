#!/usr/bin/env python3
"""Kills the server at random moments while clients post, and checks that it kept every word it gave.

    python3 tests/smoke/storm.py target/release/taxiway --kills 50 [--clients 8] [--seed 1]

Clients post to an inbox: small envelopes, now and then large ones, new versions of objects, the same again, objects
they had deleted; and they delete. Meanwhile the server gets SIGKILL after a random time, `taxiway check` must find the
store whole, and it is started again. A client that got no answer sends the same again, or leaves it at that.

At the end: every object that was acknowledged (202, status `complete`) is in the manifest once in each of its versions,
with the content that was sent; what was deleted (200) is gone; what was never acknowledged is there once or not at all,
and nothing else is; every status that was given is readable and says the same; the store is made of few files; and all
of this holds once more after `taxiway compact`. Needs nothing but Python. Ends with `storm: ok` or
`storm: failed: ...` (exit code 1).
"""

import argparse
import collections
import http.client
import json
import random
import signal
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from server import Failed, address, run, start

MEDIA = "application/taxii+json;version=2.1"
COLLECTION = "0b8e4a52-7a13-4f0d-8e57-3f5b7c1f7a10"
ROOT = "threatintel"
BASE = f"/{ROOT}/collections/{COLLECTION}/objects/"
CONFIG = """
[store]
location = {store}
[[collection]]
inbox = true
title = "Storm"
id = "{collection}"
"""


class Server:
    """The server that is running now, for threads that outlive it."""

    def __init__(self, binary, folder, draws):
        self.binary, self.folder, self.draws = binary, folder, draws
        self.store = folder / "store"
        self.config = CONFIG.format(store=json.dumps(str(self.store)), collection=COLLECTION)
        self.process = self.url = None
        self.up = threading.Condition()
        self.starts_killed = 0

    def start(self, fatal=False):
        """Starts it; sometimes the kill already comes while it starts."""
        while True:
            self.process, offset = start(self.binary, self.folder, self.config)
            if fatal and self.draws.random() < 0.15:
                time.sleep(self.draws.uniform(0.0, 0.3))
                self.process.send_signal(signal.SIGKILL)
                self.process.wait()
                self.starts_killed += 1
                continue
            url = address(self.process, self.folder, offset)
            if url is None:
                raise Failed(f"serve ended: {(self.folder / 'serve.log').read_text()[-2000:]}")
            with self.up:
                self.url = url
                self.up.notify_all()
            return

    def kill(self):
        with self.up:
            self.url = None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        with self.up:
            self.url = None
        self.process.terminate()
        if self.process.wait(60) != 0:
            raise Failed(f"serve ended with {self.process.returncode} when told to stop")

    def where(self, timeout=120):
        with self.up:
            if not self.up.wait_for(lambda: self.url is not None, timeout):
                raise Failed("the server did not come back")
            return urlsplit(self.url).netloc

    def whole(self):
        done = run(self.binary, "check", "--store", self.store)
        if done.returncode != 0:
            raise Failed(f"check says {done.returncode}: {done.stdout}{done.stderr}")

    def info(self):
        done = run(self.binary, "info", "--output", "json", "--config", self.folder / "taxiway.toml")
        if done.returncode != 0:
            raise Failed(f"info says {done.returncode}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout)["store"]


class NoAnswer(Exception):
    """The server went away, so nobody knows what became of the request."""


class Poster(threading.Thread):
    """One client; its objects are nobody else's."""

    def __init__(self, server, seed, number, large):
        super().__init__(daemon=True)
        self.server, self.large = server, large
        self.draws = random.Random(f"{seed} {number}")
        self.there, self.either, self.gone = {}, {}, {}
        self.statuses = {}
        self.counts = collections.Counter()
        self.connection = self.place = None
        self.ended = False
        self.error = None
        self.clock = 0

    def run(self):
        try:
            while not self.ended:
                self.act()
        except Exception as problem:
            self.error = f"{type(problem).__name__}: {problem}"

    def act(self):
        choice = self.draws.random()
        versions = sorted(self.there)
        if choice < 0.6 or not versions:
            self.post([self.new() for _ in range(self.draws.choice((1, 1, 1, 2, 5, 20)))])
        elif choice < 0.63:
            self.post([self.new() for _ in range(self.draws.randrange(self.large // 2, self.large))])
        elif choice < 0.73:
            chosen = self.draws.sample(versions, min(len(versions), 4))
            self.post([self.new(self.there[key]) for key in {key[0]: key for key in chosen}.values()])
        elif choice < 0.83:
            # The same again, which is a success and changes nothing.
            self.post([self.there[key] for key in self.draws.sample(versions, min(len(versions), 3))])
        elif choice < 0.87 and self.gone:
            # What was deleted may be sent again.
            self.post([self.gone[self.draws.choice(sorted(self.gone))]])
        else:
            self.delete(self.draws.choice(versions)[0])

    def new(self, former=None):
        """An object, or the next version of one."""
        self.clock += 1
        created = former["created"] if former else self.stamp()
        object_id = former["id"] if former else f"indicator--{uuid.UUID(int=self.draws.getrandbits(128), version=4)}"
        return {
            "type": "indicator",
            "spec_version": "2.1",
            "id": object_id,
            "created": created,
            "modified": self.stamp(),
            "name": "x" * self.draws.randrange(200),
            "pattern": f"[domain-name:value = '{self.draws.getrandbits(64):016x}.example']",
            "pattern_type": "stix",
            "valid_from": created,
        }

    def stamp(self):
        return f"2026-01-01T{self.clock // 3600000:02}:{self.clock // 60000 % 60:02}:{self.clock // 1000 % 60:02}.{self.clock % 1000:03}Z"

    def send(self, method, path, body=None):
        """The answer; NoAnswer if the server went away."""
        headers = {"Accept": MEDIA} | ({"Content-Type": MEDIA} if body else {})
        for attempt in (1, 2):
            place = self.server.where()
            if self.connection is None or place != self.place:
                self.place, self.connection = place, http.client.HTTPConnection(place, timeout=60)
            try:
                self.connection.request(method, path, body=body, headers=headers)
                answer = self.connection.getresponse()
                return answer.status, answer.read()
            except (OSError, http.client.HTTPException) as problem:
                fresh, self.connection = attempt == 2, None
                if isinstance(problem, ConnectionRefusedError) and not fresh:
                    # It had not got that far: nothing was sent.
                    time.sleep(0.05)
                    continue
                raise NoAnswer from problem
        raise NoAnswer

    def post(self, objects):
        body = json.dumps({"objects": objects}).encode()
        keys = [(entry["id"], entry["modified"]) for entry in objects]
        for key, entry in zip(keys, objects):
            if key not in self.there:
                self.gone.pop(key, None)
                self.either[key] = entry
        while True:
            try:
                status, answer = self.send("POST", BASE, body)
                break
            except NoAnswer:
                self.counts["posts without answer"] += 1
                if self.ended or self.draws.random() < 0.5:
                    return
        if status in (429, 503):
            self.counts[f"posts answered {status}"] += 1
            time.sleep(0.2)
            return
        if status != 202:
            raise Failed(f"POST of {len(objects)} objects: {status} {answer[:300]!r}")
        said = json.loads(answer)
        if said["status"] != "complete" or said["success_count"] != len(objects) or said["failure_count"]:
            raise Failed(f"the status of {len(objects)} objects is {answer[:500]!r}")
        self.statuses[said["id"]] = (said["total_count"], said["success_count"])
        self.counts["posts acknowledged"] += 1
        self.counts["objects acknowledged"] += len(objects)
        for key, entry in zip(keys, objects):
            self.either.pop(key, None)
            self.there[key] = entry

    def delete(self, object_id):
        """All versions of it. They are in nobody's hands but ours, so only a lost answer leaves anything open."""
        kinds = (self.there, self.either)
        affected = {key: entry for kind in kinds for key, entry in kind.items() if key[0] == object_id}
        for key, entry in affected.items():
            self.there.pop(key, None)
            self.either[key] = entry
        tried = 0
        while True:
            try:
                status, answer = self.send("DELETE", f"{BASE}{object_id}/?match%5Bversion%5D=all")
                break
            except NoAnswer:
                tried += 1
                self.counts["deletes without answer"] += 1
                if self.ended or self.draws.random() < 0.5:
                    return
        if status in (429, 503):
            self.counts[f"deletes answered {status}"] += 1
            self.there.update(affected)
            for key in affected:
                self.either.pop(key)
            return
        # Whoever asks again after a lost answer may have deleted it the first time.
        if status != 200 and not (status == 404 and tried):
            raise Failed(f"DELETE of {object_id}, which was acknowledged: {status} {answer[:300]!r}")
        self.counts["deletes acknowledged"] += 1
        for key, entry in affected.items():
            self.either.pop(key)
            self.gone[key] = entry


class Reader:
    """Reads everything back."""

    def __init__(self, server):
        self.connection = http.client.HTTPConnection(server.where(), timeout=120)

    def get(self, path, expect=(200,)):
        self.connection.request("GET", path, headers={"Accept": MEDIA})
        answer = self.connection.getresponse()
        body = answer.read()
        if answer.status not in expect:
            raise Failed(f"GET {path}: {answer.status} {body[:300]!r}")
        return json.loads(body)

    def pages(self, resource):
        params = {"limit": 5000, "match[version]": "all"}
        while True:
            page = self.get(f"/{ROOT}/collections/{COLLECTION}/{resource}/?{urlencode(params)}")
            yield from page.get("objects", [])
            if not page.get("more"):
                return
            params["next"] = page["next"]


def instant(text):
    """A date with as many digits as it needs, so that spellings of one moment are equal."""
    return text.rstrip("Z").rstrip("0").rstrip(".")


def judged(server, posters):
    """Holds what the server has against what the clients know; a line for the summary."""
    there, either, gone = {}, {}, {}
    for poster in posters:
        for kinds, kind in ((there, poster.there), (either, poster.either), (gone, poster.gone)):
            kinds.update({(key[0], instant(key[1])): entry for key, entry in kind.items()})
    reader = Reader(server)
    listed = collections.Counter()
    dates = []
    for entry in reader.pages("manifest"):
        listed[(entry["id"], instant(entry["version"]))] += 1
        dates.append(entry["date_added"])
    wrong = []
    if any(before >= after for before, after in zip(dates, dates[1:])):
        wrong.append("dates do not rise")
    twice = [key for key, count in listed.items() if count > 1]
    lost = [key for key in there if key not in listed]
    back = [key for key in gone if key in listed]
    strange = [key for key in listed if key not in there and key not in either and key not in gone]
    for what, keys in (("twice", twice), ("lost", lost), ("deleted and there", back), ("never sent", strange)):
        if keys:
            wrong.append(f"{len(keys)} versions {what}: {sorted(keys)[:3]}")
    contents = {}
    for entry in reader.pages("objects"):
        contents[(entry["id"], instant(entry["modified"]))] = entry
    if contents.keys() != listed.keys():
        wrong.append(f"manifest and objects differ by {len(contents.keys() ^ listed.keys())} versions")
    sent = {**either, **there}
    changed = [key for key, entry in contents.items() if key in sent and entry != sent[key]]
    if changed:
        wrong.append(f"{len(changed)} objects are not as they were sent: {changed[:3]}")
    statuses = {name: counts for poster in posters for name, counts in poster.statuses.items()}
    for name, counts in statuses.items():
        said = reader.get(f"/{ROOT}/status/{name}/", expect=(200, 404))
        if (said.get("status"), said.get("total_count"), said.get("success_count")) != ("complete", *counts):
            wrong.append(f"status {name} was {counts}, is {json.dumps(said)[:300]}")
            if len(wrong) > 20:
                break
    if wrong:
        raise Failed("; ".join(wrong))
    kept = sum(key in listed for key in either)
    return (
        f"{len(there)} versions acknowledged and there, {len(gone)} deleted and gone, "
        f"{kept} of {len(either)} never acknowledged there, {len(statuses)} statuses readable"
    )


def storm(args, folder):
    draws = random.Random(args.seed)
    server = Server(args.binary, folder, draws)
    posters = [Poster(server, args.seed, number, args.large) for number in range(args.clients)]
    server.start()
    for poster in posters:
        poster.start()
    began, segments = time.monotonic(), 0
    for kill in range(1, args.kills + 1):
        time.sleep(draws.uniform(0.02, args.longest))
        server.kill()
        if server.store.exists() and (server.store / "store.json").exists():
            server.whole()
            segments = max(segments, server.info()["segments"])
        if any(poster.error for poster in posters):
            break
        server.start(fatal=True)
        if kill % 10 == 0 or kill == args.kills:
            done = sum(poster.counts["posts acknowledged"] for poster in posters)
            print(f"{kill:4} kills, {done} posts acknowledged, {segments} segments at most", flush=True)
    time.sleep(args.longest if not any(poster.error for poster in posters) else 0)
    for poster in posters:
        poster.ended = True
    if server.url is None:
        server.start()
    for poster in posters:
        poster.join(120)
        if poster.is_alive():
            raise Failed("a client does not come to an end")
    took = time.monotonic() - began
    counts = sum((poster.counts for poster in posters), collections.Counter())
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    problems = [poster.error for poster in posters if poster.error]
    if problems:
        raise Failed("; ".join(problems))
    if counts["posts acknowledged"] < args.kills:
        raise Failed("hardly a post was acknowledged: that shows nothing")
    said = judged(server, posters)
    print(f"before the last start: {said}")
    server.stop()
    server.whole()
    info = server.info()
    print(f"{info['segments']} segments ({max(segments, info['segments'])} at most), {info['records']} records")
    if max(segments, info["segments"]) > args.segments:
        raise Failed(f"more than {args.segments} segments")
    done = run(args.binary, "compact", "--config", folder / "taxiway.toml")
    if done.returncode != 0:
        raise Failed(f"compact says {done.returncode}: {done.stdout}{done.stderr}")
    server.whole()
    server.start()
    said = judged(server, posters)
    server.stop()
    log = (folder / "serve.log").read_text(errors="replace")
    if "panicked" in log:
        raise Failed(f"a panic: {log[log.index('panicked') - 200 :][:600]}")
    return f"{args.kills} kills and {server.starts_killed} while it started, in {took:.0f} s: {said}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", type=lambda text: str(Path(text).resolve()))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=float, default=1.5, help="most seconds before a kill")
    parser.add_argument("--large", type=int, default=2000, help="objects in the largest envelopes")
    parser.add_argument("--segments", type=int, default=64, help="most files that the store may be made of")
    parser.add_argument("--keep", type=Path, help="a new folder for store and log that is left behind")
    args = parser.parse_args()
    if args.keep:
        args.keep.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="taxiway-storm-") as folder:
        try:
            print(f"storm: ok, {storm(args, args.keep or Path(folder))}")
        except Failed as problem:
            print(f"storm: failed: {problem}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
