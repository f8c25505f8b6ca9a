#!/usr/bin/env python3
"""Clients as they talk: each reads collections that grow while it does, and must get everything, once.

    python tests/smoke/clients.py target/release/taxiway [--seconds 20] [--seed 1]

Starts a server with three collections and writes to all of them until the time is up: `Shared`, an inbox that Splunk's
writer posts to (TAXII 2.1, by taxii2-client, new objects and new versions of old ones); `Legacy`, an inbox that
taxii2-client posts bundles to (TAXII 2.0, new objects only, for clients that page by number); `Imported`, a query over
what `taxiway import` brings into the running server's store. Meanwhile clients read them, each by its own rules:
Elastic's CEL input, OpenCTI's ingester and its connector, Microsoft Sentinel, Splunk's add-on, MISP, misp-modules,
taxii2-client in both versions, and curl.

A client's polling is a series of walks. In a walk nothing may come twice; something may come again in a later one only
if the client asked for it (a date that it rounded down, or a walk from the start); a walk from the start must hold all
that was acknowledged before it began; and all walks together must hold the newest version of every object. What every
client does is said in its class. Ends with a table and `clients: ok` or `clients: failed: ...` (exit code 1).
"""

import argparse
import contextlib
import datetime
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
from pathlib import Path
from urllib.parse import urlencode

import requests
from requests.auth import HTTPBasicAuth
from server import Failed, run, serving
from taxii2client import v20, v21

MEDIA = "application/taxii+json;version=2.1"
MEDIA_20 = "application/vnd.oasis.taxii+json; version=2.0"
STIX_20 = "application/vnd.oasis.stix+json; version=2.0"
READER = ("reader", "reader's word")
WRITER = ("writer", "writer's word")
# Long before anything was added.
EPOCH = "2020-01-01T00:00:00Z"
ROOT = "feeds"


class Place:
    """A collection, and what was acknowledged of it."""

    def __init__(self, title, number):
        self.title = title
        self.id = f"6f1d0c1e-5a7b-4c59-9d0e-00000000000{number}"
        self.lock = threading.Lock()
        self.acknowledged = []
        self.closed = False

    def acknowledge(self, keys):
        with self.lock:
            self.acknowledged += keys

    def known(self):
        with self.lock:
            return len(self.acknowledged)


def key(entry):
    return entry["id"], entry.get("modified") or entry.get("created") or ""


class Walk:
    """What one poll brought. `after` is the `added_after` it asked for; None means everything from the start."""

    def __init__(self, place, after=None):
        self.after = after
        self.known = place.known()
        self.got = []

    def take(self, objects):
        self.got += [key(entry) for entry in objects]


class Client(threading.Thread):
    """Polls until it has once polled after the last write was acknowledged."""

    module = v21

    def __init__(self, url, place, draws):
        super().__init__(daemon=True)
        self.url, self.place, self.draws = url, place, draws
        self.root = f"{url}/{ROOT}/"
        self.objects = f"{self.root}collections/{place.id}/objects/"
        self.walks = []
        self.error = None
        self.session = requests.Session()
        self.start_up()

    def start_up(self):
        """What the client keeps between polls."""

    def walk(self, after=None):
        self.walks.append(Walk(self.place, after))
        return self.walks[-1]

    def get(self, url, headers, params=None, auth=READER):
        query = f"?{urlencode(params)}" if params else ""
        answer = self.session.get(url + query, headers=headers, auth=auth, timeout=60)
        if answer.status_code not in (200, 206):
            raise Failed(f"{url}{query}: {answer.status_code} {answer.text[:300]}")
        return answer

    def run(self):
        try:
            closed = False
            while not closed:
                closed = self.place.closed
                self.poll()
                time.sleep(self.draws.uniform(0.02, 0.4))
        except Exception:
            self.error = traceback.format_exc(limit=-3)


class Elastic(Client):
    """Elastic's CEL input: the first date in whole seconds, then the last header as it is; `next` and `limit` alone on
    following pages; never looks at `more`; maps over `objects` without a look whether it is there."""

    name = "Elastic CEL"
    limit = 40

    def start_up(self):
        self.last = None

    def poll(self):
        initial = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        after = self.last or initial
        walk, params = self.walk(after), {"added_after": after, "limit": self.limit}
        while True:
            headers = {"Accept": MEDIA, "Content-Type": MEDIA}
            answer = self.get(f"{self.objects.rstrip('/')}/", headers, params)
            body = answer.json()
            walk.take(body["objects"])
            self.last = answer.headers.get("X-Taxii-Date-Added-Last")
            if not body.get("next"):
                return
            params = {"next": body["next"], "limit": self.limit}


class OpenCtiIngester(Client):
    """OpenCTI's own ingester: one page a poll, `next` and `added_after` together, and at the end of the pages the last
    header cut to milliseconds."""

    name = "OpenCTI ingester"

    def start_up(self):
        self.state = {"added_after": "2020-01-01T00:00:00.000Z"}
        self.current = None

    def poll(self):
        # It takes one page at each tick; ticks follow on each other here until it has nothing more to ask for.
        while self.tick():
            pass

    def tick(self):
        if "next" not in self.state:
            self.current = self.walk(self.state["added_after"])
        answer = self.get(self.objects, {"Accept": MEDIA}, self.state)
        body = answer.json()
        objects = body.get("objects", [])
        self.current.take(objects)
        if objects and body.get("more") and body.get("next"):
            self.state["next"] = body["next"]
            return True
        if objects:
            last = answer.headers.get("X-TAXII-Date-Added-Last")
            if not last:
                raise Failed("no date header: the ingester would go on from its own clock")
            self.state = {"added_after": f"{last[:23]}Z"}
        elif "next" in self.state:
            raise Failed("an empty page behind `next`: the ingester would ask for it for ever")
        return False


class OpenCtiConnector(Client):
    """OpenCTI's connector: taxii2-client, API root by the last part of its URL, collection by title, `next` without
    `added_after` on following pages, its own clock in whole seconds for the next run. What it keeps in its filters
    stays there: a run that follows one of several pages sends that one's last `next` beside its own `added_after`.

    Its clock is some seconds behind the server's here. One that agrees may miss what was dated just before its run
    began and could be read just after, which on a machine that is very busy takes seconds."""

    name = "OpenCTI connector"
    module, discovery = v21, "taxii2"
    behind = 6

    def start_up(self):
        self.server = self.module.Server(f"{self.url}/{self.discovery}/", auth=HTTPBasicAuth(*READER))
        self.filters = {"limit": 60} if self.module is v21 else {}
        self.last_run = None

    def poll(self):
        # Its runs are minutes apart, so no two of them ask with one date: that, beside a leftover `next`, would be a page more
        # of the old walk.
        while (began := int(time.time()) - self.behind) == self.last_run:
            time.sleep(0.05)
        if self.last_run is None:
            after = datetime.datetime.now() - datetime.timedelta(hours=24)
        else:
            moment = datetime.datetime.fromtimestamp(self.last_run, datetime.UTC)
            after = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self.filters["added_after"] = after
        walk = self.walk(after if isinstance(after, str) else EPOCH)
        root = next(root for root in self.server.api_roots if root.url.split("/")[-2] == ROOT)
        collection = next(entry for entry in root.collections if entry.title == self.place.title)
        # A leftover `next` goes on from where it stood: then the walk is from there, and the date says nothing.
        if "next" in self.filters:
            walk.after = EPOCH
        self.pages(walk, collection)
        self.last_run = began

    def pages(self, walk, collection):
        while True:
            page = collection.get_objects(**self.filters)
            walk.take(page.get("objects", []))
            if page.get("more") is not True:
                return
            self.filters.pop("added_after", None)
            self.filters["next"] = page["next"]


class OpenCtiConnector20(OpenCtiConnector):
    """The same over TAXII 2.0, and whenever the first object has no `spec_version`: the date of a page's last object is
    looked up in the manifest, and the next page begins behind it."""

    name = "OpenCTI connector 2.0"
    module, discovery = v20, "taxii"

    def pages(self, walk, collection):
        page = collection.get_objects(**self.filters)
        while page.get("objects"):
            walk.take(page["objects"])
            manifest = collection.get_manifest(id=page["objects"][-1]["id"])
            self.filters["added_after"] = manifest["objects"][0]["date_added"]
            page = collection.get_objects(**self.filters)
            # It takes the length of this without a look whether it is there.
            len(page["objects"])


class Sentinel(Client):
    """Microsoft Sentinel, as far as its manual and its users tell: API root and collection id typed in, the media type
    sought in `versions`, slashes at all ends, then `added_after` from the last header."""

    name = "Sentinel 2.1"

    def start_up(self):
        self.after = None

    def poll(self):
        root = self.get(self.root, {"Accept": MEDIA}).json()
        if MEDIA not in root["versions"]:
            raise Failed(f"`versions` is {root['versions']}")
        collection = self.get(f"{self.root}collections/{self.place.id}/", {"Accept": MEDIA}).json()
        if collection["id"] != self.place.id or collection["can_read"] is not True:
            raise Failed(f"the collection is {collection}")
        walk, params = self.walk(self.after), {"added_after": self.after} if self.after else {}
        while True:
            answer = self.get(self.objects, {"Accept": MEDIA}, params)
            body = answer.json()
            walk.take(body.get("objects", []))
            self.after = answer.headers.get("X-TAXII-Date-Added-Last", self.after)
            if not body.get("more"):
                return
            params = {**params, "next": body["next"]}


class Sentinel20(Sentinel):
    """The same over TAXII 2.0: `taxii-2.0` in `versions`, pages by number."""

    name = "Sentinel 2.0"
    module = v20
    size = 30

    def poll(self):
        root = self.get(self.root, {"Accept": MEDIA_20}).json()
        if "taxii-2.0" not in root["versions"]:
            raise Failed(f"`versions` is {root['versions']}")
        walk, params, start = self.walk(self.after), {"added_after": self.after} if self.after else {}, 0
        while True:
            headers = {"Accept": STIX_20, "Range": f"items={start}-{start + self.size - 1}"}
            answer = self.session.get(self.objects, headers=headers, params=params, auth=READER, timeout=60)
            if answer.status_code == 416 and start > 0:
                return
            if answer.status_code not in (200, 206):
                raise Failed(f"{self.objects}: {answer.status_code} {answer.text[:300]}")
            objects = answer.json().get("objects", [])
            walk.take(objects)
            self.after = answer.headers.get("X-TAXII-Date-Added-Last", self.after)
            start += len(objects)
            if not objects or start >= int(answer.headers["Content-Range"].rpartition("/")[2]):
                return


class FromStart(Client):
    """A taxii2-client program that reads the whole collection each time."""

    def start_up(self):
        self.collection = self.module.Collection(
            f"{self.root}collections/{self.place.id}/", user=READER[0], password=READER[1]
        )

    def poll(self):
        walk = self.walk()
        for page in self.module.as_pages(self.collection.get_objects, per_request=self.size(), **self.filters()):
            walk.take(page.get("objects", []))

    def filters(self):
        return {}


class SplunkAddOn(FromStart):
    """Splunk's add-on: 500 a page, from the start at each run. (It stops at the first id of its last run, as if the
    newest came first; so it sees nothing new on any server that follows TAXII 2.1. Here it reads on.)"""

    name = "Splunk add-on"

    def size(self):
        return 500


class MispModules(FromStart):
    """misp-modules: 100 a page, always with `match[spec_version]`."""

    name = "misp-modules"

    def size(self):
        return 100

    def filters(self):
        return {"spec_version": "2.1"}


class Plain21(FromStart):
    """taxii2-client for TAXII 2.1 in any page size."""

    name = "taxii2-client 2.1"

    def size(self):
        return self.draws.choice((0, 1, 7, 50, 1000)) if self.place.known() < 300 else self.draws.choice((0, 37, 1000))


class Plain20(Plain21):
    """taxii2-client for TAXII 2.0, by `Range`."""

    name = "taxii2-client 2.0"
    module = v20

    def size(self):
        # No more than the server's `max_page_size`: it takes what came for all there is where that is less than it asked for, and the
        # collection has less as well.
        return self.draws.choice((17, 50, 500))


class Misp(Client):
    """MISP: Accept and Content-type on GET, `basic` with a small b, fifty a page; finds the collection in the list."""

    name = "MISP"

    def poll(self):
        import base64

        word = base64.b64encode(":".join(READER).encode()).decode()
        headers = {"Accept": MEDIA, "Content-type": MEDIA, "Authorization": f"basic {word}"}
        listed = self.get(f"{self.root}collections/", headers, auth=None).json()["collections"]
        if self.place.id not in {entry["id"] for entry in listed}:
            raise Failed("the collection is not in the list")
        walk, params = self.walk(), {"limit": 50}
        while True:
            body = self.get(self.objects, headers, params, auth=None).json()
            walk.take(body.get("objects", []))
            if not body.get("next"):
                return
            params = {"limit": 50, "next": body["next"]}


class Curl(Client):
    """curl as typed: no header but the credentials; dates from the headers it printed."""

    name = "curl"

    def start_up(self):
        self.after = None

    def poll(self):
        walk, params = self.walk(self.after), {"added_after": self.after} if self.after else {}
        while True:
            url = self.objects + (f"?{urlencode(params)}" if params else "")
            # `-i` before the body; the credentials come from a file, as others on the machine can read arguments.
            done = subprocess.run(
                ["curl", "--silent", "--show-error", "--include", "--config", "-", url],
                input=f'user = "{READER[0]}:{READER[1]}"\n',
                capture_output=True,
                text=True,
            )
            # Python made the line ends of the head plain.
            head, _, body = done.stdout.partition("\n\n")
            if done.returncode != 0 or " 200" not in head.split("\n")[0]:
                raise Failed(f"curl {url}: {done.returncode} {done.stderr} {done.stdout[:300]}")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\n"))}
            page = json.loads(body)
            walk.take(page.get("objects", []))
            self.after = headers.get("x-taxii-date-added-last", self.after)
            if not page.get("more"):
                return
            params = {"next": page["next"]}


def new_id(draws, kind):
    return f"{kind}--{uuid.UUID(int=draws.getrandbits(128), version=4)}"


def stamp(moment):
    return f"{moment.strftime('%Y-%m-%dT%H:%M:%S')}.{moment.microsecond // 1000:03}Z"


def indicator(draws, modified, known, **more):
    """A new indicator, or a new version of one of those known."""
    base = known if known else {"id": new_id(draws, "indicator"), "created": stamp(modified)}
    address = ".".join(str(draws.randrange(1, 255)) for _ in range(4))
    return {
        "type": "indicator",
        **more,
        "id": base["id"],
        "created": base["created"],
        "modified": stamp(modified),
        "pattern": f"[ipv4-addr:value = '{address}']",
        "valid_from": base["created"],
    }


class SplunkWriter:
    """Splunk's writing app: `add_objects` with the objects of a bundle, then the status until it is complete."""

    def __init__(self, url, place, draws):
        self.place, self.draws, self.objects = place, draws, []
        self.collection = v21.Collection(
            f"{url}/{ROOT}/collections/{place.id}/", user=WRITER[0], password=WRITER[1]
        )
        self.clock = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)

    def write(self):
        batch = []
        for _ in range(self.draws.choice((1, 1, 3, 20, 90))):
            self.clock += datetime.timedelta(milliseconds=self.draws.randrange(1, 5000))
            known = self.draws.choice(self.objects) if self.objects and self.draws.random() < 0.2 else None
            if known and known["id"] in {entry["id"] for entry in batch}:
                known = None
            batch.append(
                indicator(
                    self.draws, self.clock, known, spec_version="2.1", pattern_type="stix", indicator_types=["unknown"]
                )
            )
        status = self.collection.add_objects({"objects": batch}, poll_interval=0.05)
        self.collection_status(status, len(batch))
        self.objects += batch
        self.place.acknowledge([key(entry) for entry in batch])

    def collection_status(self, status, count):
        if status.status != "complete" or status.success_count != count or status.failure_count:
            raise Failed(f"{self.place.title}: the status says {status.__dict__}")


class LegacyWriter(SplunkWriter):
    """Bundles over TAXII 2.0."""

    def __init__(self, url, place, draws):
        super().__init__(url, place, draws)
        self.collection = v20.Collection(
            f"{url}/{ROOT}/collections/{place.id}/", user=WRITER[0], password=WRITER[1]
        )

    def write(self):
        batch = []
        for _ in range(self.draws.choice((1, 2, 30))):
            self.clock += datetime.timedelta(milliseconds=self.draws.randrange(1, 5000))
            batch.append(indicator(self.draws, self.clock, None, labels=["malicious-activity"]))
        bundle = {"type": "bundle", "id": new_id(self.draws, "bundle"), "spec_version": "2.0", "objects": batch}
        status = self.collection.add_objects(bundle, poll_interval=0.05)
        self.collection_status(status, len(batch))
        self.place.acknowledge([key(entry) for entry in batch])


class ImportWriter:
    """`taxiway import` into the store of the running server: XSOAR documents, new ones and changed ones."""

    def __init__(self, binary, config, place, draws):
        self.binary, self.config, self.place, self.draws = binary, config, place, draws
        self.values = []
        self.clock = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)

    def write(self):
        lines = []
        for _ in range(self.draws.choice((1, 20, 120))):
            self.clock += datetime.timedelta(milliseconds=self.draws.randrange(1, 5000))
            if self.values and self.draws.random() < 0.15:
                value = self.draws.choice(self.values)
            else:
                value = f"{len(self.values)}.example.net"
                self.values.append(value)
            moment = stamp(self.clock)
            lines.append(
                json.dumps(
                    {
                        "indicator_type": "Domain",
                        "value": value,
                        "score": self.draws.randrange(4),
                        "timestamp": moment,
                        "modified": moment,
                        "firstSeen": moment,
                        "lastSeen": moment,
                    }
                )
            )
        done = run(self.binary, "import", "-", "--config", self.config, input="\n".join(lines))
        if done.returncode != 0:
            raise Failed(f"import says {done.returncode}: {done.stdout}{done.stderr}")


def final_state(url, place, module):
    """Every version there is with its date, and the newest version of each object, from the manifest. Objects may have
    other ids over TAXII 2.0, whose manifest has the date of the newest version alone."""
    session = requests.Session()
    session.auth = READER
    manifest = f"{url}/{ROOT}/collections/{place.id}/manifest/"
    every, newest = {}, {}
    if module is v20:
        body = {"objects": []}
        while True:
            start = len(body["objects"])
            headers = {"Accept": MEDIA_20, "Range": f"items={start}-{start + 499}"}
            answer = session.get(manifest, headers=headers, timeout=60)
            body["objects"] += answer.json().get("objects", [])
            if len(body["objects"]) in (start, int(answer.headers["Content-Range"].rpartition("/")[2])):
                break
        for entry in body["objects"]:
            for version in entry["versions"]:
                every[(entry["id"], normal(version))] = entry["date_added"]
    else:
        params = {"limit": 500, "match[version]": "all", "match[spec_version]": "2.0,2.1"}
        while True:
            body = session.get(manifest, headers={"Accept": MEDIA}, params=params, timeout=60).json()
            for entry in body.get("objects", []):
                every[(entry["id"], normal(entry["version"]))] = entry["date_added"]
            if not body.get("more"):
                break
            params["next"] = body["next"]
    for object_id, version in every:
        newest[object_id] = max(version, newest.get(object_id, ""))
    return every, newest


def normal(text):
    """A date with six fraction digits, so that texts compare as dates."""
    head, _, fraction = text.rstrip("Z").partition(".")
    return f"{head}.{fraction[:6]:0<6}Z" if head else ""


def judge(client, every, newest):
    """What is wrong with what a client got, and how many came again for a reason."""
    acknowledged = [(object_id, normal(version)) for object_id, version in client.place.acknowledged]
    wrong, again, before, seen_ids = [], 0, set(), {}
    versionless = all(not version for walk in client.walks for _, version in walk.got)
    for number, walk in enumerate(client.walks, 1):
        got = [(object_id, normal(version)) for object_id, version in walk.got]
        if len(set(got)) != len(got):
            wrong.append(f"walk {number}: {len(got) - len(set(got))} objects twice")
        for entry in set(got) & before:
            again += 1
            if walk.after is not None and every.get(entry) and normal(walk.after) >= every[entry]:
                wrong.append(f"walk {number}: {entry[0]} again, though not after {walk.after}")
        if walk.after is None:
            ids = {object_id for object_id, _ in got}
            missing = [object_id for object_id, _ in acknowledged[: walk.known] if object_id not in ids]
            if missing:
                wrong.append(f"walk {number}: {len(missing)} missing that were there when it began: {missing[:2]}")
        before |= set(got)
        for object_id, version in got:
            seen_ids[object_id] = max(version, seen_ids.get(object_id, ""))
    lost = [object_id for object_id, version in newest.items() if seen_ids.get(object_id, "") < version]
    if versionless:
        lost = [object_id for object_id in newest if object_id not in seen_ids]
    if lost:
        wrong.append(f"{len(lost)} of {len(newest)} objects never came in their newest version: {lost[:3]}")
    strange = [entry for entry in before if entry[0] not in newest]
    if strange:
        wrong.append(f"{len(strange)} objects that the collection does not have: {strange[:2]}")
    return wrong, again


def play(args, folder):
    draws = random.Random(args.seed)
    shared, legacy, imported = (Place(title, n) for n, title in enumerate(("Shared", "Legacy", "Imported"), 1))
    store, users = folder / "store", folder / "users.json"
    config = f"""
[store]
location = {json.dumps(str(store))}
[auth]
users = {json.dumps(str(users))}
anonymous = false
[taxii]
page_size = 64
max_page_size = 500
api_root = "{ROOT}"
empty_objects = "list"
[[collection]]
title = "Imported"
id = "{imported.id}"
query = ""
indicator_types = "all"
read = ["reader"]
"""
    for place in (shared, legacy):
        config += (
            f'[[collection]]\ninbox = true\ntitle = "{place.title}"\nid = "{place.id}"\n'
            'read = ["reader"]\nwrite = ["writer"]\n'
        )
    (folder / "taxiway.toml").write_text(f'listen = "127.0.0.1:0"\n{config}')
    for name, word in (READER, WRITER):
        add = ("user", "add", name, "--password-stdin", "--config", folder / "taxiway.toml")
        done = run(args.binary, *add, input=f"{word}\n")
        if done.returncode != 0:
            raise Failed(f"taxiway user add: {done.stdout}{done.stderr}")
    with serving(args.binary, folder, config) as url:
        def one(kind, place):
            return kind(url, place, random.Random(draws.random()))

        newer = (
            Elastic, OpenCtiIngester, OpenCtiConnector, Sentinel, SplunkAddOn, Misp, MispModules, Plain21, Curl,
        )  # fmt: skip
        clients = [one(kind, place) for place in (shared, imported) for kind in newer]
        clients += [one(kind, legacy) for kind in (OpenCtiConnector20, Sentinel20, Plain20)]
        clients += [one(OpenCtiConnector20, imported)]
        writers = [
            one(SplunkWriter, shared),
            one(LegacyWriter, legacy),
            ImportWriter(args.binary, folder / "taxiway.toml", imported, random.Random(draws.random())),
        ]
        only = args.only.lower() if args.only else ""
        clients = [client for client in clients if only in client.name.lower()]
        problems = keep_writing(writers, clients, args.seconds)
        for client in clients:
            client.join(120)
            if client.is_alive():
                problems.append(f"{client.name} of {client.place.title}: does not come to an end")
        rows = []
        for place in (shared, legacy, imported):
            states = {module: final_state(url, place, module) for module in (v20, v21)}
            for module, (_, newest) in states.items():
                lost = {object_id for object_id, _ in place.acknowledged} - newest.keys()
                # Over TAXII 2.0 there are no objects of STIX 2.1.
                if lost and not (module is v20 and place is shared):
                    problems.append(f"{place.title}: {len(lost)} acknowledged objects are not in a manifest")
                records = sum(object_id.startswith("indicator--") for object_id in newest)
                if place is imported and records != len(writers[2].values):
                    problems.append(f"{len(writers[2].values)} records were imported, a manifest has {records}")
            for client in clients:
                if client.place is place:
                    every, newest = states[client.module]
                    wrong, again = judge(client, every, newest)
                    wrong += [client.error] if client.error else []
                    got = sum(len(walk.got) for walk in client.walks)
                    rows.append((client.name, place.title, len(client.walks), got, len(newest), again, wrong))
    return rows, problems


def keep_writing(writers, clients, seconds):
    """Writes from a thread each while the clients poll."""
    end, problems = time.monotonic() + seconds, []

    def writing(writer):
        try:
            while time.monotonic() < end:
                writer.write()
                time.sleep(writer.draws.uniform(0.01, 0.3))
        except Exception:
            problems.append(f"{type(writer).__name__}: {traceback.format_exc(limit=-3)}")
        finally:
            writer.place.closed = True

    threads = [threading.Thread(target=writing, args=(writer,), daemon=True) for writer in writers]
    for thread in [*clients, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", type=lambda text: str(Path(text).resolve()))
    parser.add_argument("--seconds", type=float, default=20, help="how long the collections grow")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="only clients with this in their name")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="taxiway-clients-") as folder, contextlib.ExitStack():
        try:
            rows, problems = play(args, Path(folder))
        except Failed as problem:
            print(f"clients: failed: {problem}")
            return 1
    print(f"{'client':22} {'collection':10} {'walks':>5} {'received':>8} {'objects':>7} {'again':>6}")
    for name, title, walks, got, objects, again, wrong in rows:
        print(f"{name:22} {title:10} {walks:5} {got:8} {objects:7} {again:6}  {'FAILED' if wrong else 'ok'}")
        for line in wrong[:6]:
            print(f"    {line}")
    for problem in problems:
        print(f"problem: {problem}")
    failed = problems or any(wrong for *_, wrong in rows)
    print("clients: failed" if failed else f"clients: ok, {len(rows)} clients, seed {args.seed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
