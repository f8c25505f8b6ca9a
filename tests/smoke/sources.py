#!/usr/bin/env python3
"""Fetches from the TAXII servers that others wrote, as they come from PyPI: OpenTAXII 0.9.3 (1.0, 1.1), medallion 1.1.0
(2.0), medallion 3 (2.1), and from taxiway itself.

    python3 tests/smoke/sources.py BINARY [--venvs FOLDER] [--only NAME]

Every server gets known content; what `taxiway source fetch` brings into a store has to be exactly that, at page sizes from one
to all, when going on from every place on the way, after additions, after SIGKILL at any moment, and when the server dies half-way;
through proxies, and with client certificates.
"""

import argparse
import base64
import contextlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import server  # noqa: E402

SERVERS = Path(__file__).parent / "servers"

USER, PASSWORD = "ann", "pass-word-1"
SCRATCH = tempfile.mkdtemp(prefix="sources-")
FAILURES = []
PASSED = 0


def expect(what, got, wanted):
    global PASSED
    if got == wanted:
        PASSED += 1
    else:
        FAILURES.append(f"{what}: got {str(got)[:300]}, wanted {str(wanted)[:300]}")
        print("FAILED", FAILURES[-1], flush=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def venv(folder, name):
    python = folder / name / "bin" / "python"
    if not python.exists():
        print(f"installing {name} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", SERVERS / f"{name}.txt"], check=True)
    return python


@contextlib.contextmanager
def process(command, port, **options):
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=options.pop("log"), **options) as child:
        try:
            for _ in range(600):
                if child.poll() is not None:
                    raise server.Failed(f"{command[0]} ended at once")
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.05)
            yield
        finally:
            child.terminate()
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()


class Fetch:
    """One `taxiway source fetch`, into a store of its own or a copy of another one, and what it brought."""

    def __init__(self, binary, place=None, **job):
        self.folder = Path(tempfile.mkdtemp(prefix="fetch-", dir=SCRATCH))
        self.said = ""
        if place:
            shutil.copytree(place, self.folder, dirs_exist_ok=True)
        self.binary, self.errors, self.report, self.collections, self.previews = binary, [], {}, [], {}
        before = set(self.held()) if place else set()
        options = options_of(job)
        if place:
            options = ["edit", "Feed", "--url", job["url"], "--no-limits", *options]
        else:
            options = ["add", "Feed", job["url"], *options]
        if job.get("stop_after"):
            options += ["--objects-per-fetch", (job["stop_after"] - 1) * job.get("page_size", 1) + 1]
        self.cli(*options, secrets=secrets_of(job))
        if job.get("preview"):
            for look in self.json("collections", "Feed", "--preview", job["preview"]).get("previews", []):
                self.previews[look["title"]] = len(look["objects"]) if "objects" in look else look
        elif "collection" in job:
            self.reports = self.json("fetch", "Feed")
            self.report = self.reports[0] if self.reports else {}
            self.errors += [text for text in [self.report.get("error")] if text]
        else:
            found = self.json("test", "Feed")
            self.report = found if isinstance(found, dict) else {}
        listed = self.cli("collections", "Feed", "--output", "json")
        if listed.stdout.startswith("["):
            self.collections = json.loads(listed.stdout)
        elif not self.errors:
            self.errors.append(listed.stderr)
        self.version = self.report.get("version")
        self.place = self.folder
        self.rows = self.held()
        self.count = self.report.get("objects", 0)
        self.objects = [row for name, row in self.rows.items() if name not in before]
        assert PASSWORD not in self.said, "the password is shown"

    def cli(self, *arguments, secrets=None):
        done = server.run(self.binary, "source", *arguments, "--store", self.folder / "store", cwd=self.folder,
                          env={**os.environ, **(secrets or {})}, timeout=600, stdin=subprocess.DEVNULL)
        self.said += done.stdout + done.stderr
        return done

    def json(self, *arguments):
        done = self.cli(*arguments, "--output", "json")
        if not done.stdout.strip():
            self.errors.append(done.stderr.strip())
            return {}
        return json.loads(done.stdout)

    def held(self):
        """What the store has of the source, by the text of each record."""
        done = server.run(self.binary, "query", 'sourceBrands:"Feed"', "--store", self.folder / "store", "--output", "json",
                          "--columns", "value,kind,document")
        rows = {}
        for line in done.stdout.splitlines():
            row = json.loads(line)
            document = json.loads(row.get("document") or "{}")
            row["id"] = document.get("id")
            rows[row["id"] or row["value"]] = row
        return rows

    def ids(self, key="id"):
        return sorted(thing[key] for thing in self.objects)


def options_of(job):
    """What the command is to be told of a source."""
    options = ["--attempts", "2"]
    for name, option in [("version", "--taxii"), ("user", "--user"), ("login", "--login-url"), ("ca", "--ca"),
                         ("cert", "--certificate"), ("key", "--private-key"), ("proxy", "--proxy"),
                         ("page_size", "--page-size"), ("collection", "--collection")]:
        if name in job:
            options += [option, str(job[name])]
    return options + (["--passphrase"] if "pass" in job else [])


def secrets_of(job):
    names = [("password", "TAXIWAY_SOURCE_PASSWORD"), ("token", "TAXIWAY_SOURCE_TOKEN"), ("pass", "TAXIWAY_SOURCE_PASSPHRASE")]
    return {variable: job[name] for name, variable in names if name in job}


def walks(name, driver, key, wanted, page_sizes, **job):
    """Everything arrives at any page size, and from every place on the way on the rest."""
    for size in page_sizes:
        fetch = Fetch(driver, page_size=size, **job)
        expect(f"{name}, pages of {size}: errors", fetch.errors, [])
        expect(f"{name}, pages of {size}", sorted(set(fetch.ids(key))), wanted)
        expect(f"{name}, pages of {size}: none twice", fetch.count, len(wanted))
        again = Fetch(driver, page_size=size, place=fetch.place, **job)
        expect(f"{name}, pages of {size}: again", (again.errors, len(again.objects), again.report.get("new")), ([], 0, 0))
    size = page_sizes[-1]
    for stop in range(1, 3):
        first = Fetch(driver, page_size=size, stop_after=stop, **job)
        rest = Fetch(driver, page_size=size, place=first.place, **job)
        both = sorted(row[key] for row in rest.rows.values())
        expect(f"{name}, stopped after page {stop} of {size} each", (rest.errors, both), ([], wanted))


def stix_object(number, version):
    at = f"2024-05-01T00:{number // 60:02}:{number % 60:02}.{number:03}Z"
    made = {
        "type": "indicator",
        "id": f"indicator--{uuid.UUID(int=number, version=4)}",
        "created": at,
        "modified": at,
        "labels": ["malicious-activity"],
        "pattern": f"[ipv4-addr:value = '198.51.100.{number % 250}']",
        "valid_from": at,
    }
    if version == "2.1":
        made |= {"spec_version": "2.1", "pattern_type": "stix", "indicator_types": ["malicious-activity"]}
    return made


def medallion(folder, driver, python, version, count=31):
    """A server of medallion with `count` objects in one collection and none in another."""
    port = free_port()
    objects = [stix_object(number, version) for number in range(count)]
    media = "application/stix+json;version=2.1" if version == "2.1" else "application/vnd.oasis.stix+json; version=2.0"
    manifest = []
    for number, thing in enumerate(objects):
        added = f"2024-06-01T00:{number // 60:02}:{number % 60:02}.{number:06}Z"
        one = {"version": thing["modified"], "media_type": media} if version == "2.1" else {"versions": [thing["modified"]], "media_types": [media]}
        manifest.append({"id": thing["id"], "date_added": added, **one})
    full, empty = str(uuid.UUID(int=1, version=4)), str(uuid.UUID(int=2, version=4))

    def collection(ident, title, objects, manifest):
        return {"id": ident, "title": title, "description": "x", "can_read": True, "can_write": True,
                "media_types": [media], "objects": objects, "manifest": manifest}

    data = {
        "/discovery": {"title": "Some", "description": "x", "contact": "x", "default": "http://localhost:5000/root/",
                       "api_roots": ["http://localhost:5000/root/"]},
        "root": {
            "information": {"title": "Root", "description": "x", "max_content_length": 9765625,
                            "versions": ["application/taxii+json;version=2.1" if version == "2.1" else "taxii-2.0"]},
            "status": [],
            "collections": [collection(full, "Full", objects, manifest), collection(empty, "Empty", [], [])],
        },
    }
    (folder / "data.json").write_text(json.dumps(data))
    module = "medallion.backends.memory_backend" if version == "2.1" else "medallion.backends.taxii.memory_backend"
    config = {"users": {USER: PASSWORD}, "taxii": {"max_page_size": 20},
              "backend": {"module": module, "module_class": "MemoryBackend", "filename": str(folder / "data.json")}}
    if version == "2.0":
        hashing = f"from werkzeug.security import generate_password_hash as h; print(h({PASSWORD!r}, method='pbkdf2:sha256:1'))"
        hashed = server.run(python, "-c", hashing).stdout.strip()
        config = {"auth": {"module": "medallion.backends.auth.memory_auth", "module_class": "AuthMemoryBackend",
                           "users": {USER: hashed}}, **config}
    (folder / "config.json").write_text(json.dumps(config))
    wanted = sorted(thing["id"] for thing in objects)
    at = f"http://127.0.0.1:{port}"
    discovery = f"{at}/taxii2/" if version == "2.1" else f"{at}/taxii/"
    root = f"{at}/root/"
    command = [python.parent / "medallion", "--host", "127.0.0.1", "--port", port, folder / "config.json"]
    name = f"medallion {version}"
    with open(folder / "log", "wb") as log, process(command, port, log=log):
        login = {"user": USER, "password": PASSWORD}
        for url in [at, discovery, root, f"{root}collections/", f"{root}collections/{full}/", f"{root}collections/{full}/objects"]:
            found = Fetch(driver, url=url, **login)
            expect(f"{name} at {url}", (found.errors, found.version), ([], version))
            expect(f"{name} at {url}: collections", full in [c["id"] for c in found.collections], True)
        expect(f"{name} without user", any("does not accept who we are" in e for e in Fetch(driver, url=discovery).errors), True)
        wrong = Fetch(driver, url=discovery, user=USER, password="other-pass")
        expect(f"{name} with a wrong password", any("401" in e for e in wrong.errors), True)
        job = {"url": discovery, "collection": "Full", **login}
        walks(name, driver, "id", wanted, [100, 20, 7, 1], **job)
        walks(name, driver, "id", [], [10], **{**job, "collection": "Empty"})
        look = Fetch(driver, url=discovery, preview=5, **login)
        expect(f"{name}: preview", look.previews, {"Full": 5, "Empty": 0})
        # An addition arrives, alone.
        whole = Fetch(driver, page_size=20, **job)
        added = [stix_object(1000 + number, version) for number in range(3)]
        url, body = f"{root}collections/{full}/objects/", {"objects": added}
        accept = "application/taxii+json;version=2.1"
        kind = accept
        if version == "2.0":
            accept, kind = "application/vnd.oasis.taxii+json; version=2.0", "application/vnd.oasis.stix+json; version=2.0"
            body = {"type": "bundle", "id": f"bundle--{uuid.uuid4()}", "spec_version": "2.0", "objects": added}
        basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), {
            "Accept": accept, "Content-Type": kind, "Authorization": f"Basic {basic}"})).read()
        more = Fetch(driver, page_size=20, place=whole.place, **job)
        expect(f"{name}: an addition", (more.errors, more.ids()), ([], sorted(thing["id"] for thing in added)))


PACKAGE = """<stix:STIX_Package xmlns:stix="http://stix.mitre.org/stix-1" xmlns:indicator="http://stix.mitre.org/Indicator-2"
 xmlns:cybox="http://cybox.mitre.org/cybox-2" xmlns:A="http://cybox.mitre.org/objects#AddressObject-2"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" id="ex:Package-{n}" version="1.2" timestamp="2024-05-01T00:00:00Z">
 <stix:Indicators><stix:Indicator xsi:type="indicator:IndicatorType" id="ex:Indicator-{n}" timestamp="2024-05-01T00:00:00Z">
 <indicator:Title>Number {n}</indicator:Title><indicator:Observable><cybox:Object>
 <cybox:Properties xsi:type="A:AddressObjectType" category="ipv4-addr"><A:Address_Value condition="Equals">203.0.113.{n}</A:Address_Value>
 </cybox:Properties></cybox:Object></indicator:Observable></stix:Indicator></stix:Indicators></stix:STIX_Package>"""


def opentaxii(folder, driver, python, count=23):
    """OpenTAXII with a feed, a data set, paging of results, and users."""
    port = free_port()
    at = f"http://127.0.0.1:{port}"
    (folder / "config.yml").write_text(f"""
domain: "127.0.0.1:{port}"
support_basic_auth: yes
auth_api:
  class: opentaxii.auth.sqldb.SQLDatabaseAPI
  parameters: {{db_connection: "sqlite:///{folder}/auth.db", create_tables: yes, secret: some-secret, token_ttl_secs: 3600}}
taxii1:
  xml_parser_supports_huge_tree: yes
  count_blocks_in_poll_responses: yes
  unauthorized_status: UNAUTHORIZED
  persistence_api:
    class: opentaxii.persistence.sqldb.SQLDatabaseAPI
    parameters: {{db_connection: "sqlite:///{folder}/data.db", create_tables: yes}}
logging: {{opentaxii: info, root: info}}
""")
    services = []
    for ident, kind, path, extra in [
        ("disc", "discovery", "/services/discovery", "advertised_services: [inbox, disc, manage, poll]"),
        ("inbox", "inbox", "/services/inbox", "destination_collection_required: yes\n    accept_all_content: yes"),
        ("manage", "collection_management", "/services/collections", ""),
        ("poll", "poll", "/services/poll", "subscription_required: no\n    max_result_count: 100\n    max_result_size: 4"),
    ]:
        services.append(f"""
  - id: {ident}
    type: {kind}
    address: {path}
    description: x
    authentication_required: yes
    protocol_bindings: [urn:taxii.mitre.org:protocol:http:1.0]
    {extra}""")
    collections = "".join(f"""
  - name: {name}
    id: {name}
    description: x
    type: {kind}
    available: true
    accept_all_content: true
    service_ids: [inbox, manage, poll]""" for name, kind in [("feed", "DATA_FEED"), ("set", "DATA_SET"), ("empty", "DATA_FEED")])
    (folder / "sync.yml").write_text(f"""---
services:{"".join(services)}
collections:{collections}
accounts:
  - username: {USER}
    password: {PASSWORD}
    permissions: {{feed: modify, set: modify, empty: modify}}
    is_admin: yes
""")
    environment = {**os.environ, "OPENTAXII_CONFIG": str(folder / "config.yml")}
    sync = server.run(python.parent / "opentaxii-sync-data", folder / "sync.yml", env=environment)
    if sync.returncode:
        raise server.Failed(sync.stderr)
    # Its own hashes take seconds for each request.
    cheap = f"from werkzeug.security import generate_password_hash as h; print(h({PASSWORD!r}, method='pbkdf2:sha256:1'))"
    with sqlite3.connect(folder / "auth.db") as accounts:
        accounts.execute("UPDATE accounts SET password_hash = ?", [server.run(python, "-c", cheap).stdout.strip()])
    program = f"from opentaxii.http import app; app.run('127.0.0.1', {port}, threaded=False)"
    with open(folder / "log", "wb") as log, process([python, "-c", program], port, log=log, env=environment):
        (folder / "push.py").write_text("""
import sys, json
from cabby import create_client
port, user, password, name, numbers, template = json.loads(sys.argv[1])
client = create_client("127.0.0.1", port=port, discovery_path="/services/discovery", version="1.1")
client.set_auth(username=user, password=password)
for number in numbers:
    client.push(template.replace("{n}", str(number)), "urn:stix.mitre.org:xml:1.2", collection_names=[name], uri="/services/inbox")
""")

        def push(name, numbers):
            pushed = server.run(python, folder / "push.py", json.dumps([port, USER, PASSWORD, name, list(numbers), PACKAGE]))
            if pushed.returncode:
                raise server.Failed(pushed.stderr[-2000:])

        push("feed", range(count))
        push("set", range(5))
        login = {"user": USER, "password": PASSWORD}
        wanted = sorted(f"203.0.113.{number}" for number in range(count))
        for version in ["1.1", "1.0"]:
            name = f"OpenTAXII {version}"
            found = Fetch(driver, url=f"{at}/services/discovery", version=version, **login)
            expect(name, (found.errors, found.version), ([], version))
            expect(f"{name}: collections", {c["id"] for c in found.collections}, {"feed", "set", "empty"})
            nobody = Fetch(driver, url=f"{at}/services/discovery", version=version)
            expect(f"{name} without user", any("UNAUTHORIZED" in e and "does not accept who we are" in e for e in nobody.errors), True)
            job = {"url": f"{at}/services/discovery", "collection": "feed", "version": version, **login}
            walks(name, driver, "value", wanted, [10], **job)
            direct = Fetch(driver, **{**job, "url": f"{at}/services/poll"})
            expect(f"{name}, poll service alone", (direct.errors, direct.ids("value")), ([], wanted))
            listed = Fetch(driver, **{**job, "url": f"{at}/services/collections"})
            expect(f"{name}, management alone", (listed.errors, listed.ids("value")), ([], wanted))
            empty = Fetch(driver, **{**job, "collection": "empty"})
            expect(f"{name}: an empty feed", (empty.errors, empty.ids("value")), ([], []))
        detected = Fetch(driver, url=f"{at}/services/discovery", **login)
        expect("OpenTAXII: version found", (detected.errors, detected.version), ([], "1.1"))
        bare = Fetch(driver, url=at, **login)
        expect("OpenTAXII: found at its host", (bare.errors, bare.version), ([], "1.1"))
        token = Fetch(driver, url=f"{at}/services/discovery", login=f"{at}/management/auth", collection="feed", **login)
        expect("OpenTAXII with a token", (token.errors, token.ids("value")), ([], wanted))
        job = {"url": f"{at}/services/discovery", "version": "1.1", **login}
        whole = Fetch(driver, collection="set", **job)
        expect("OpenTAXII: a data set", (whole.errors, len(whole.objects)), ([], 5))
        whole = Fetch(driver, collection="feed", **job)
        expect("OpenTAXII: parts", whole.report.get("answers", 0) >= 6, True)
        push("feed", [200, 201])
        more = Fetch(driver, collection="feed", place=whole.place, **job)
        expect("OpenTAXII: an addition", (more.errors, more.ids("value")), ([], ["203.0.113.200", "203.0.113.201"]))
        look = Fetch(driver, preview=3, **job)
        expect("OpenTAXII: preview", look.previews, {"feed": 3, "set": 3, "empty": 0})
        lost = Fetch(driver, collection="other", **job)
        expect("OpenTAXII: no such collection", any("no collection `other`" in e and "`feed`" in e for e in lost.errors), True)


def taxiway(folder, driver, binary, count=500):
    """taxiway's own server, in both versions."""
    store = folder / "store"
    feed = folder / "feed.ndjson"
    with open(feed, "w") as out:
        for number in range(count):
            print(json.dumps({"indicator_type": "Domain", "value": f"d{number}.example", "score": 3}), file=out)
    made = server.run(binary, "import", "--store", store, feed)
    if made.returncode:
        raise server.Failed(made.stderr)
    config = f'[store]\nlocation = "{store}"\n[[collection]]\ntitle = "Domains"\nquery = "type:Domain"\nindicator_types = ["domain-name"]\n'
    with server.serving(binary, folder, config) as at:
        for version in ["2.1", "2.0"]:
            whole = Fetch(driver, url=f"{at}/taxii2/" if version == "2.1" else f"{at}/taxii/", version=version, collection="Domains", page_size=10_000)
            expect(f"taxiway {version}: errors", whole.errors, [])
            wanted = sorted(set(whole.ids()))
            expect(f"taxiway {version}: as many as there are", whole.count, len(wanted))
            walks(f"taxiway {version}", driver, "id", wanted, [1000, 100, 33], url=at, version=version, collection="Domains")
        expect("taxiway: version found", Fetch(driver, url=at).version, "2.1")


def filled(folder, binary, count):
    """A store of so many domains, and the configuration that serves them."""
    feed = folder / "feed.ndjson"
    with open(feed, "w") as out:
        for number in range(count):
            print(json.dumps({"indicator_type": "Domain", "value": f"d{number}.example", "score": 3}), file=out)
    made = server.run(binary, "import", "--store", folder / "theirs", feed)
    if made.returncode:
        raise server.Failed(made.stderr)
    return f'[store]\nlocation = "{folder / "theirs"}"\n[[collection]]\ntitle = "Domains"\nquery = "type:Domain"\nindicator_types = ["domain-name"]\n'


def kills(folder, binary, count=20_000):
    """The fetching process is killed at moments all over a fetch, then the server; in the end everything is there, once."""
    config = filled(folder, binary, count)
    for version in ["2.1", "2.0"]:
        with server.serving(binary, folder, config) as at:
            url = f"{at}/taxii2/" if version == "2.1" else f"{at}/taxii/"
            job = {"url": url, "version": version, "collection": "Domains", "page_size": 500}
            whole = Fetch(binary, **job)
            expect(f"kills {version}: a whole fetch", (whole.errors, whole.count), ([], len(whole.rows)))
            again = Fetch(binary, place=whole.place, **job)
            expect(f"kills {version}: again", (again.errors, again.count), ([], 0))
            fetch = Fetch(binary, **{**job, "collection": "nothing there"})
            fetch.cli("edit", "Feed", "--collection", "Domains")
            killed, longest = 0, whole.report["seconds"]
            for number in range(12):
                with subprocess.Popen([binary, "source", "fetch", "Feed", "--store", fetch.folder / "store"],
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(0.05 + longest * number / 40)
                    killed += child.poll() is None
                    child.kill()
                check = server.run(binary, "check", "--store", fetch.folder / "store")
                expect(f"kills {version}: the store after kill {number}: {check.stderr}", check.returncode, 0)
            expect(f"kills {version}: some were killed", killed > 3, True)
            last = fetch.json("fetch", "Feed")[0]
            expect(f"kills {version}: the rest comes", (last["outcome"], fetch.held().keys()), ("completed", whole.rows.keys()))
            rows = server.run(binary, "info", "--store", fetch.folder / "store", "--output", "json")
            expect(f"kills {version}: no row twice", json.loads(rows.stdout)["store"]["records"], len(whole.rows))
        # The server dies instead: what came is kept, and said; with a new server the rest comes.
        fetch = Fetch(binary, **{**job, "url": "http://127.0.0.1:9/"})
        expect(f"kills {version}: no server", any("no answer from" in text for text in fetch.errors), True)
        process_, offset = server.start(binary, folder, config)
        with process_:
            at = server.address(process_, folder, offset)
            path = "taxii2" if version == "2.1" else "taxii"
            fetch.cli("edit", "Feed", "--url", f"{at}/{path}/", "--requests-per-minute", "600", "--attempts", "1")
            with subprocess.Popen([binary, "source", "fetch", "Feed", "--store", fetch.folder / "store", "--output", "json"],
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
                time.sleep(1.5)
                process_.kill()
                report = json.loads(child.communicate()[0])[0]
        expect(f"kills {version}: a server that dies", (report["outcome"], 0 < len(fetch.held()) < count), ("failed", True))
        expect(f"kills {version}: what came is kept", report["new"], len(fetch.held()))
        with server.serving(binary, folder, config) as at:
            fetch.cli("edit", "Feed", "--url", f"{at}/{path}/", "--no-limits")
            last = fetch.json("fetch", "Feed")[0]
            expect(f"kills {version}: the rest after that", (last["outcome"], fetch.held().keys()), ("completed", whole.rows.keys()))
            expect(f"kills {version}: and no more than the rest", last["objects"] < count, True)


def authority(folder):
    """An authority, certificates of it for a server and a client, expired ones, and another authority."""

    def openssl(*arguments):
        done = server.run("openssl", *arguments, cwd=folder)
        if done.returncode:
            raise server.Failed(done.stderr)

    for name in ["ca", "other"]:
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2",
                "-subj", f"/CN={name} authority")
    (folder / "server.ext").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
    (folder / "client.ext").write_text("extendedKeyUsage=clientAuth\n")
    (folder / "index.txt").write_text("")
    (folder / "serial").write_text("01")
    (folder / "ca.cnf").write_text("[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\n"
                                   "policy=p\nunique_subject=no\n[p]\ncommonName=supplied\n")
    long_ago = ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"]
    for name, extension, dates in [("server", "server.ext", ["-days", "1"]), ("client", "client.ext", ["-days", "1"]),
                                   ("expired", "server.ext", long_ago), ("old-client", "client.ext", long_ago)]:
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("ca", "-batch", "-notext", "-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key", "-in", f"{name}.csr",
                "-out", f"{name}.pem", "-extfile", extension, *dates)
    openssl("pkcs8", "-topk8", "-v2", "aes-256-cbc", "-in", "client.key", "-out", "client.enc", "-passout", "pass:right-one")


def proxied(folder, python, kind, port, user):
    """The command of a proxy: tinyproxy for HTTP, pproxy for SOCKS (its HTTP proxy wants names of header fields in capitals)."""
    if kind == "socks5":
        return [python, "-m", "pproxy", "-l", f"socks5://127.0.0.1:{port}" + (f"#{user}" if user else ""), "-v"]
    path = folder / f"tinyproxy-{port}.conf"
    basic = "BasicAuth " + user.replace(":", " ") if user else ""
    path.write_text(f"Port {port}\nListen 127.0.0.1\nTimeout 600\nMaxClients 20\nAllow 127.0.0.1\nLogLevel Info\n{basic}\n")
    return ["tinyproxy", "-d", "-c", path]


def proxies(folder, binary, python):
    """Through proxies of each kind, with and without users, to servers with and without TLS."""
    authority(folder)
    config = filled(folder, binary, 50)
    tls = f'[tls]\ncert = "{folder}/server.pem"\nkey = "{folder}/server.key"\n'
    if not shutil.which("tinyproxy"):
        raise server.Failed("tinyproxy is missing")
    for extra in ["", tls]:
        with server.serving(binary, folder, config + extra) as at:
            for scheme, user in [("http", None), ("socks5", None), ("socks5h", None), ("http", "bob:secret-2"), ("socks5", "bob:secret-2")]:
                port = free_port()
                log = open(folder / "proxy.log", "ab")
                kind = "http" if scheme == "http" else "socks5"
                with log, process(proxied(folder, python, kind, port, user), port, log=log):
                    job = {"url": at, "collection": "Domains", "proxy": f"{scheme}://127.0.0.1:{port}"}
                    if extra:
                        job["ca"] = folder / "ca.pem"
                    name = f"proxy {scheme} to {at[:5]}{' with a user' if user else ''}"
                    if not user:
                        through = Fetch(binary, **job)
                        expect(name, (through.errors, through.count, len(through.rows)), ([], through.count, max(50, through.count)))
                        continue
                    wrong = Fetch(binary, **job)
                    expect(f"{name}: without", (len(wrong.errors), len(wrong.rows)), (1, 0))
                    print(f"  {name}, without:", wrong.errors[0][:300])
                    wrong.cli("edit", "Feed", "--proxy", job["proxy"], "--proxy-user", "bob",
                              secrets={"TAXIWAY_SOURCE_PROXY_PASSWORD": "secret-2"})
                    report = wrong.json("fetch", "Feed")[0]
                    expect(name, (report["outcome"], len(wrong.held())), ("completed", max(50, report["objects"])))
                    expect(f"{name}: the password is not shown", "secret-2" in wrong.said, False)
            gone = Fetch(binary, url=at, collection="Domains", proxy=f"http://127.0.0.1:{port}")
            expect("proxy that is gone", any("no answer" in text for text in gone.errors), True)
            print("  proxy that is gone:", gone.errors[0][:300])


def certificates(folder, binary):
    """A server that wants a client certificate: all that can be wrong, and what is said of it."""
    authority(folder)
    config = filled(folder, binary, 50)
    mutual = f'[tls]\ncert = "{folder}/server.pem"\nkey = "{folder}/server.key"\nclient_ca = "{folder}/ca.pem"\nclient_auth = "required"\n'
    ours = {"collection": "Domains", "ca": folder / "ca.pem", "cert": folder / "client.pem", "key": folder / "client.key"}
    sealed = {**ours, "key": folder / "client.enc"}
    cases = [
        ("all right", ours, None),
        ("an encrypted key", {**sealed, "pass": "right-one"}, None),
        ("the wrong passphrase", {**sealed, "pass": "wrong-one"}, "passphrase"),
        ("no passphrase", sealed, "passphrase"),
        ("no client certificate", {"collection": "Domains", "ca": folder / "ca.pem"}, "certificate"),
        ("the wrong authority", {**ours, "ca": folder / "other.pem"}, "trust"),
        ("the system's authorities", {**{key: ours[key] for key in ["collection", "cert", "key"]}}, "trust"),
        ("an expired client certificate", {**ours, "cert": folder / "old-client.pem", "key": folder / "old-client.key"}, "expired"),
        ("the key of another certificate", {**ours, "key": folder / "other.key"}, "key"),
        ("no such file", {**ours, "cert": folder / "missing.pem"}, "missing.pem"),
    ]
    with server.serving(binary, folder, config + mutual) as at:
        for name, job, said in cases:
            fetch = Fetch(binary, url=at, **job)
            if said is None:
                expect(f"certificates, {name}", (fetch.errors, fetch.count, len(fetch.rows)), ([], fetch.count, max(50, fetch.count)))
            else:
                expect(f"certificates, {name}", (len(fetch.rows), said in " ".join(fetch.errors).lower()), (0, True))
                print(f"  {name}: {fetch.errors[0][:300] if fetch.errors else 'NOTHING'}")
            expect(f"certificates, {name}: no secret is said", "right-one" in fetch.said or "wrong-one" in fetch.said, False)
    expired = f'[tls]\ncert = "{folder}/expired.pem"\nkey = "{folder}/expired.key"\n'
    with server.serving(binary, folder, config + expired) as at:
        fetch = Fetch(binary, url=at, collection="Domains", ca=folder / "ca.pem")
        expect("certificates, an expired server", (len(fetch.rows), "expired" in " ".join(fetch.errors)), (0, True))
        print(f"  an expired server: {fetch.errors[0][:300] if fetch.errors else 'NOTHING'}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binary")
    arguments.add_argument("--venvs", type=Path, default=Path("target/sources"))
    arguments.add_argument("--only")
    arguments = arguments.parse_args()
    driver = os.path.abspath(arguments.binary)
    tests = {
        "opentaxii": lambda folder: opentaxii(folder, driver, venv(arguments.venvs, "opentaxii")),
        "medallion-1": lambda folder: medallion(folder, driver, venv(arguments.venvs, "medallion-1"), "2.0"),
        "medallion-3": lambda folder: medallion(folder, driver, venv(arguments.venvs, "medallion-3"), "2.1"),
        "taxiway": lambda folder: taxiway(folder, driver, driver),
        "kills": lambda folder: kills(folder, driver),
        "proxies": lambda folder: proxies(folder, driver, venv(arguments.venvs, "proxies")),
        "certificates": lambda folder: certificates(folder, driver),
    }
    for name, test in tests.items():
        if arguments.only in (None, name):
            folder = Path(tempfile.mkdtemp(prefix="sources-"))
            try:
                test(folder)
                shutil.rmtree(folder)
            except server.Failed as failed:
                FAILURES.append(f"{name}: {failed}")
                print("FAILED", name, failed, flush=True)
            print(f"{name} done: {PASSED} right, {len(FAILURES)} wrong so far", flush=True)
    shutil.rmtree(SCRATCH, ignore_errors=True)
    return 1 if FAILURES else 0


if __name__ == "__main__":
    sys.exit(main())
