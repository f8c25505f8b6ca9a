#!/usr/bin/env python3
"""The attack sheet: what somebody may send who means no good, and what must come of it.

    python tests/smoke/hostile.py target/release/taxiway [--only WORD] [--quick]

Starts a server with users, an inbox and a sample store, and tries one attack after another. Each has its expected
answer; after each the server must still answer an honest user fast, hold no more memory than it may, and have let go of
the attacker's connections. Prints a table of attack, answer, longest wait of the honest user during it, and peak memory.
Ends with `hostile: ok` or `hostile: failed: ...` (exit code 1).
"""

import argparse
import base64
import collections
import contextlib
import gzip
import http.client
import json
import os
import re
import selectors
import socket
import ssl
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path
from urllib.parse import quote, urlsplit

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from server import Failed, address, run, start

MEDIA = "application/taxii+json;version=2.1"
ROOT = "threatintel"
HERE = Path(__file__).resolve().parent
# ann is attacked or attacks, bob may read little, and cat is the honest user.
PASSWORDS = {"ann": "ann's word", "bob": "bob's word", "cat": "cat's word"}
ALL, OPEN, INBOX = (f"c0ffee00-0000-4000-8000-00000000000{number}" for number in (1, 2, 3))
# The limits that the server runs with, seconds and MiB; the attacks go over each of them.
HEADER_TIMEOUT, IDLE_TIMEOUT, BODY_TIMEOUT, WRITE_TIMEOUT, BODY_MIB = 2, 5, 3, 3, 16
CONFIG = f"""
[store]
location = "{{folder}}/store"
[auth]
users = "{{folder}}/users.json"
anonymous = false
[limits]
header_timeout = "{HEADER_TIMEOUT}s"
idle_timeout = "{IDLE_TIMEOUT}s"
write_timeout = "{WRITE_TIMEOUT}s"
body_timeout = "{BODY_TIMEOUT}s"
body_bytes = {BODY_MIB << 20}
[[collection]]
title = "All"
id = "{ALL}"
query = ""
read = ["ann"]
[[collection]]
title = "Open"
id = "{OPEN}"
query = "type:IP"
read = ["ann", "bob", "cat"]
[[collection]]
inbox = true
title = "Inbox"
id = "{INBOX}"
read = ["ann"]
write = ["ann"]
"""
ATTACKS = []


def attack(expected):
    """Registers an attack; its first line of doc names it. It gives what came of it and whether that is right."""

    def register(function):
        ATTACKS.append((function, expected))
        return function

    return register


class Target:
    """The server, and ways to talk to it."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, Path(folder)
        self.config = CONFIG.format(folder=self.folder)
        (self.folder / "taxiway.toml").write_text(f'listen = "127.0.0.1:0"\n{self.config}')
        for name, word in PASSWORDS.items():
            self.command("user", "add", name, "--password-stdin", input=f"{word}\n")
        self.command("import", HERE.parent.parent / "data" / "sample.ndjson")
        # Enough that a page is far larger than what the kernel takes off the server's hands.
        lines = (
            json.dumps({"indicator_type": "Domain", "value": f"{number}.example", "score": 3, "CustomFields": {"description": f"{number} " * 150}})
            for number in range(12_000)
        )
        self.command("import", "-", input="\n".join(lines))
        self.process, offset = start(binary, self.folder, self.config)
        url = address(self.process, self.folder, offset)
        if url is None:
            raise Failed(f"serve ended: {self.log()}")
        self.place = urlsplit(url)
        self.quick = False

    def command(self, *words, **options):
        done = run(self.binary, *words, "--config", self.folder / "taxiway.toml", **options)
        if done.returncode != 0:
            raise Failed(f"taxiway {' '.join(map(str, words))}: {done.stdout}{done.stderr}")
        return done.stdout

    def log(self):
        return (self.folder / "serve.log").read_text(errors="replace")

    @staticmethod
    def credentials(user="ann"):
        return "Basic " + base64.b64encode(f"{user}:{PASSWORDS[user]}".encode()).decode()

    def headers(self, user="ann", **more):
        named = {name.replace("_", "-"): value for name, value in more.items()}
        return {"Accept": MEDIA} | ({"Authorization": self.credentials(user)} if user else {}) | named

    def ask(self, method, path, body=None, user="ann", timeout=60, **headers):
        """Status, headers and body; a status of 0 says that the server closed the connection instead."""
        connection = http.client.HTTPConnection(self.place.hostname, self.place.port, timeout=timeout)
        try:
            connection.request(method, path, body=body, headers=self.headers(user, **headers))
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except (ConnectionError, http.client.RemoteDisconnected):
            return 0, {}, b""
        finally:
            connection.close()

    def post(self, body, user="ann", **headers):
        return self.ask("POST", f"/{ROOT}/collections/{INBOX}/objects/", body, user, Content_Type=MEDIA, **headers)

    def socket(self, timeout=30):
        return socket.create_connection((self.place.hostname, self.place.port), timeout=timeout)

    def raw(self, data, timeout=15):
        """What comes back for these bytes until the server closes or is silent."""
        with self.socket(timeout) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(data)
            return received(connection)

    def head(self, method="GET", path=f"/{ROOT}/collections/", user="ann", **headers):
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        lines += [f"{name}: {value}" for name, value in self.headers(user, **headers).items()]
        return "\r\n".join(lines).encode() + b"\r\n"

    def memory(self):
        """Resident now and at most, in MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        now, most = (int(re.search(rf"{name}:\s+(\d+)", text)[1]) // 1024 for name in ("VmRSS", "VmHWM"))
        return now, most

    def forget_peak(self):
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def sockets(self):
        count = 0
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                count += os.readlink(entry).startswith("socket:")
        return count


def received(connection):
    data = b""
    try:
        while part := connection.recv(65536):
            data += part
    except OSError:
        pass
    return data


def status_of(data):
    found = re.match(rb"HTTP/1\.[01] (\d{3})", data)
    return int(found[1]) if found else 0


def tally(statuses):
    """`400 x 12, 404 x 3`; 0 is written as `closed`."""
    counts = collections.Counter("closed" if status == 0 else status for status in statuses)
    return ", ".join(f"{status} x {count}" for status, count in sorted(counts.items(), key=str))


class Honest(threading.Thread):
    """A user who asks all the time; remembers the longest wait, and every answer that was not 200."""

    def __init__(self, target):
        super().__init__(daemon=True)
        self.target, self.longest, self.wrong, self.ended = target, 0.0, [], False

    def run(self):
        while not self.ended:
            began = time.monotonic()
            try:
                status, _, _ = self.target.ask("GET", f"/{ROOT}/collections/{OPEN}/objects/?limit=5", user="cat", timeout=20)
            except OSError as problem:
                status = type(problem).__name__
            self.longest = max(self.longest, time.monotonic() - began)
            if status != 200:
                self.wrong.append(status)
            time.sleep(0.05)


# Slow clients


@attack("closed after `header_timeout`")
def slowloris(target):
    """slowloris: 500 connections, a header byte every 300 ms"""
    return drip(target, 500, target.head() + b"X-Slow: ", HEADER_TIMEOUT)


@attack("closed or 408 after `body_timeout`, 429 for more than one client may have")
def slow_body(target):
    """slow POST: 100 bodies, a byte every 300 ms"""
    path = f"/{ROOT}/collections/{INBOX}/objects/"
    head = target.head("POST", path, Content_Type=MEDIA, Content_Length="100000") + b'\r\n{"objects":['
    return drip(target, 100, head, BODY_TIMEOUT)


def drip(target, count, head, timeout):
    """Connections that send one byte after the other; how many the server let live too long."""
    selector = selectors.DefaultSelector()
    answers, alive = [], {}
    for _ in range(count):
        connection = target.socket()
        connection.sendall(head)
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ)
        alive[connection] = b""
    began = time.monotonic()
    while alive and time.monotonic() - began < timeout + 10:
        for ready, _ in selector.select(0.3):
            connection = ready.fileobj
            try:
                part = connection.recv(4096)
            except OSError:
                part = b""
            if part:
                alive[connection] += part
                continue
            answers.append(status_of(alive.pop(connection)))
            selector.unregister(connection)
            connection.close()
        for connection in list(alive):
            with contextlib.suppress(OSError):
                connection.send(b" ")
    took = time.monotonic() - began
    for connection in alive:
        connection.close()
    good = not alive and set(answers) <= {0, 408, 400, 429}
    return f"{tally(answers)} within {took:.1f} s" + (f", {len(alive)} live on" if alive else ""), good


@attack("closed after `idle_timeout`")
def silent(target):
    """silent connections: 200 ask once, 200 of strangers too, read the answer and stay"""
    connections = []
    for number in range(400):
        connection = target.socket(IDLE_TIMEOUT + 6)
        connection.sendall(target.head(path="/taxii2/", user="ann" if number % 2 else None) + b"\r\n")
        connections.append(connection)
    began = time.monotonic()
    open_still = sum(received_until_closed(connection, max(0.1, began + IDLE_TIMEOUT + 1.5 - time.monotonic())) for connection in connections)
    for connection in connections:
        connection.close()
    return f"{open_still} of 400 open after {time.monotonic() - began:.1f} s", not open_still


@attack("closed after `write_timeout`")
def slow_readers(target):
    """slow readers: 50 ask for everything and read nothing"""
    connections = []
    for _ in range(50):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect((target.place.hostname, target.place.port))
        connection.sendall(target.head(path=f"/{ROOT}/collections/{ALL}/objects/") + b"\r\n")
        connections.append(connection)
    before = time.monotonic()
    while target.sockets() < 50 and time.monotonic() - before < 5:
        time.sleep(0.05)
    while target.sockets() > 20 and time.monotonic() - before < WRITE_TIMEOUT + 20:
        time.sleep(0.2)
    took, left = time.monotonic() - before, target.sockets()
    for connection in connections:
        connection.close()
    return f"{left} sockets left after {took:.1f} s", left <= 20


@attack("closed after `body_timeout`")
def endless_slow_chunks(target):
    """chunked body that never ends, a byte every 300 ms"""
    with target.socket(BODY_TIMEOUT + 15) as connection:
        connection.sendall(target.head("POST", f"/{ROOT}/collections/{INBOX}/objects/", Content_Type=MEDIA, Transfer_Encoding="chunked") + b"\r\n")
        began, data = time.monotonic(), b""
        connection.settimeout(0.3)
        while time.monotonic() - began < BODY_TIMEOUT + 12:
            try:
                connection.sendall(b"1\r\n \r\n")
                part = connection.recv(4096)
                if not part:
                    break
                data += part
            except TimeoutError:
                continue
            except OSError:
                break
        took = time.monotonic() - began
    return f"{status_of(data) or 'closed'} after {took:.1f} s", took < BODY_TIMEOUT + 4 and status_of(data) in (0, 408)


@attack("413 or closed at `body_bytes`")
def endless_fast_chunks(target):
    """chunked body that never ends, as fast as it goes"""
    sent, chunk = 0, b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    with target.socket(20) as connection:
        connection.sendall(target.head("POST", f"/{ROOT}/collections/{INBOX}/objects/", Content_Type=MEDIA, Transfer_Encoding="chunked") + b"\r\n")
        try:
            while sent < 1 << 30:
                connection.sendall(chunk)
                sent += 0x100000
        except OSError:
            pass
        status = status_of(received(connection))
    return f"{status or 'closed'} after {sent >> 20} MiB", status in (0, 413) and sent >> 20 < 4 * BODY_MIB + 64


# Size


def bomb(wbits, size):
    """`size` MiB of blanks, packed; blanks are JSON as far as it goes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    part = b" " * (1 << 20)
    return b"".join([packer.compress(b'{"objects":[')] + [packer.compress(part) for _ in range(size)] + [packer.flush()])


@attack("413")
def gzip_bomb(target):
    """1 GiB gzip bomb in POST"""
    body = bomb(31, 64 if target.quick else 1024)
    status, _, answer = target.post(body, Content_Encoding="gzip")
    return f"{status} for {len(body) >> 10} KiB", status == 413 and is_error(answer, 413)


@attack("413")
def gzip_bombs(target):
    """16 gzip bombs at once"""
    body, statuses = bomb(31, 64 if target.quick else 256), []

    def one():
        statuses.append(target.post(body, Content_Encoding="gzip")[0])

    threads = [threading.Thread(target=one) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally(statuses), set(statuses) <= {413, 503, 429}


@attack("413 or 415")
def other_bombs(target):
    """bombs in `deflate`, gzip in gzip, gzip thrice, unknown codings"""
    inner = bomb(31, 64)
    cases = [
        ("deflate", bomb(15, 64)),
        ("gzip, gzip", gzip.compress(inner)),
        ("gzip, gzip, gzip", gzip.compress(gzip.compress(inner))),
        ("br", b"\x8b\x02\x80" * 100),
        ("zstd", b"\x28\xb5\x2f\xfd" + b"\0" * 100),
        ("x-nonsense", b"{}"),
    ]
    statuses = [target.post(body, Content_Encoding=coding)[0] for coding, body in cases]
    return ", ".join(f"{coding}: {status}" for (coding, _), status in zip(cases, statuses)), set(statuses) <= {400, 413, 415, 422}


@attack("400 or 422")
def broken_gzip(target):
    """gzip cut off, gzip with rubbish behind it, no gzip at all"""
    good = gzip.compress(b'{"objects":[]}')
    statuses = [target.post(body, Content_Encoding="gzip")[0] for body in (good[:-6], good + b"rubbish", b"{}", b"")]
    return tally(statuses), set(statuses) <= {400, 422}


@attack("413, unread")
def large_body(target):
    """a body said to be 1 TiB long"""
    head = target.head("POST", f"/{ROOT}/collections/{INBOX}/objects/", Content_Type=MEDIA, Content_Length=str(1 << 40))
    status = status_of(target.raw(head + b"\r\n{", 10))
    return str(status or "closed"), status == 413


@attack("401, unread")
def large_body_of_a_stranger(target):
    """a large body from somebody without credentials"""
    head = target.head("POST", f"/{ROOT}/collections/{INBOX}/objects/", None, Content_Type=MEDIA, Content_Length=str(1 << 24))
    data = target.raw(head + b"\r\n{", 10)
    return str(status_of(data) or "closed"), status_of(data) == 401


@attack("431 or closed")
def large_header(target):
    """10 MB header"""
    data = target.raw(target.head() + b"X-Large: " + b"x" * 10_000_000 + b"\r\n\r\n")
    return str(status_of(data) or "closed"), status_of(data) in (0, 431)


@attack("431 or closed")
def many_headers(target):
    """100,000 header fields"""
    data = target.raw(target.head() + b"".join(b"X-%d: x\r\n" % number for number in range(100_000)) + b"\r\n")
    return str(status_of(data) or "closed"), status_of(data) in (0, 431)


@attack("414, 400 or closed")
def long_url(target):
    """URL of 60 KB and of 10 MB"""
    statuses = [
        status_of(target.raw(target.head(path=f"/{ROOT}/collections/?x={'x' * length}", Connection="close") + b"\r\n"))
        for length in (60_000, 10_000_000)
    ]
    return tally(statuses), set(statuses) <= {0, 414, 431, 400}


@attack("400, 413 or 414")
def many_values(target):
    """`match` parameters with as many values as a URL has room for"""
    values = ",".join(f"x{number}" for number in range(6_000))
    path = f"/{ROOT}/collections/{ALL}/objects/"
    statuses = [target.ask("GET", f"{path}?match[{name}]={values}")[0] for name in ("id", "type", "version")]
    return tally(statuses), set(statuses) <= {400, 413, 414}


# Paths


@attack("404 or 400, nothing of a file")
def traversal(target):
    """path traversal: raw, encoded, twice encoded, back slashes, NUL, absolute URLs"""
    ups = ["../", "..%2f", "%2e%2e/", "%2e%2e%2f", "%252e%252e%252f", "..\\", "..%5c", "..;/", "%c0%ae%c0%ae/", "..%00/"]
    files = ["etc/passwd", "taxiway.toml", "users.json", "store/store.json"]
    places = ["/", f"/{ROOT}/", f"/{ROOT}/collections/", f"/{ROOT}/collections/{ALL}/objects/", f"/{ROOT}/status/", "/taxii2/"]
    paths = [place + up * 8 + file for place in places for up in ups for file in files]
    paths += ["//etc/passwd", "/./etc/passwd", "file:///etc/passwd", "http://169.254.169.254/latest/", "*", "/%", "/%zz", "/%ff%fe"]
    statuses, leaks = [], []
    for path in paths:
        data = target.raw(target.head(path=path, Connection="close") + b"\r\n", 10)
        statuses.append(status_of(data))
        if b"root:" in data or b"argon2" in data or b"[store]" in data or b"license_id" in data:
            leaks.append(path)
    return tally(statuses) + (f", LEAKS {leaks[:2]}" if leaks else ""), not leaks and set(statuses) <= {400, 404, 0}


@attack("404 or 405, as for any path")
def methods(target):
    """TRACE, CONNECT, unknown and over-long methods"""
    cases = ["TRACE", "CONNECT", "PATCH", "PROPFIND", "A" * 100_000, "G\0T"]
    found = {}
    for method in cases:
        data = target.raw(target.head(method, Connection="close") + b"\r\n", 5)
        found[method[:8]] = status_of(data)
        if target.credentials().encode() in data:
            return f"{method} echoes credentials", False
    return str(found), set(found.values()) <= {0, 400, 404, 405, 414, 431, 501}


@attack("the same for what there is and what there is not")
def guessing(target):
    """guessing names: a stranger, and a user without rights"""
    made_up = "c0ffee00-0000-4000-8000-0000000000ff"
    pairs = [
        (f"/{ROOT}/collections/{ALL}/", f"/{ROOT}/collections/{made_up}/"),
        (f"/{ROOT}/collections/{ALL}/objects/", f"/{ROOT}/collections/{made_up}/objects/"),
        (f"/{ROOT}/collections/{INBOX}/manifest/", f"/{ROOT}/collections/{made_up}/manifest/"),
        (f"/{ROOT}/", "/other/"),
        (f"/{ROOT}/status/{made_up}/", f"/other/status/{made_up}/"),
    ]
    told = []
    for user in (None, "bob"):
        for there, not_there in pairs[: None if user is None else 3]:
            for method in ("GET", "POST", "DELETE"):
                first, second = (self_free(target, method, path, user) for path in (there, not_there))
                if first != second:
                    told.append((user, method, there.replace(ALL, "ALL"), first[0], second[0], first[2][:80], second[2][:80]))
    return (f"told apart: {told[:3]}" if told else "no difference"), not told


def self_free(target, method, path, user):
    """An answer without what is of the moment."""
    status, headers, body = target.ask(method, path, b"{}" if method == "POST" else None, user)
    kept = {name: headers.get(name) for name in ("Content-Type", "WWW-Authenticate", "Allow", "Location", "Content-Length")}
    text = re.sub(rb"[0-9a-f]{8}-[0-9a-f-]{27}|/[a-z]+/", b"*", body)
    kept.pop("Content-Length")
    return status, kept, text


# Credentials and cursors


@attack("401 with WWW-Authenticate")
def bad_credentials(target):
    """no, wrong, broken and over-long credentials; scheme without word"""
    words = [
        "Basic", "Basic ", "Basic !!!!", "Basic " + "A" * 50_000, "Basic " + base64.b64encode(b"ann").decode(),
        "Basic " + base64.b64encode(b"ann:wrong").decode(), "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode(),
        "Bearer", "Bearer x", "Bearer txw_x_y", "Bearer txw_" + "a" * 5000, "Token ", "Digest x", "Negotiate x", "",
    ]  # fmt: skip
    statuses, silent = [], 0
    for word in words:
        status, headers, _ = target.ask("GET", f"/{ROOT}/collections/", user=None, Authorization=word)
        statuses.append(status)
        silent += status == 401 and "WWW-Authenticate" not in headers
    return tally(statuses) + (f", {silent} without WWW-Authenticate" if silent else ""), set(statuses) <= {401, 429} and not silent


@attack("401 or 429, others are served")
def login_storm(target):
    """300 wrong passwords from 30 connections"""
    statuses = []

    def one(number):
        for attempt in range(10):
            word = base64.b64encode(f"ann:guess {number} {attempt}".encode()).decode()
            statuses.append(target.ask("GET", f"/{ROOT}/", user=None, timeout=120, Authorization=f"Basic {word}")[0])

    threads = [threading.Thread(target=one, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally(statuses), set(statuses) <= {401, 429, 503}


@attack("200, and 401 once it is over or taken away")
def expired_token(target):
    """expired token, withdrawn token"""
    found = []
    short = token_of(target.command("token", "add", "ann", "--label", "short", "--expires", "12h"))
    long = token_of(target.command("token", "add", "ann", "--label", "long", "--expires", "1d"))
    path = f"/{ROOT}/collections/{ALL}/"

    def ask(token):
        return target.ask("GET", path, user=None, Authorization=f"Bearer {token}")[0]

    # A running server takes changes up within a second or two.
    time.sleep(2.5)
    found += [ask(short), ask(long)]
    users = target.folder / "users.json"
    lines = [json.loads(line) for line in users.read_text().splitlines()]
    for line in lines:
        if line.get("token") == short.split("_")[1]:
            line["expires"] = "2026-01-01T00:00:00Z"
    users.write_text("".join(json.dumps(line) + "\n" for line in lines))
    target.command("token", "revoke", long.split("_")[1])
    time.sleep(2.5)
    found += [ask(short), ask(long)]
    return str(found), found == [200, 200, 401, 401]


def token_of(text):
    found = re.search(r"txw_[A-Za-z0-9]+_[A-Za-z0-9_-]+", text)
    if not found:
        raise Failed(f"`taxiway token add` printed no token: {text}")
    return found[0]


def cursor(target, collection=ALL, user="ann"):
    status, _, body = target.ask("GET", f"/{ROOT}/collections/{collection}/objects/?limit=2", user=user)
    return json.loads(body)["next"]


@attack("400")
def foreign_cursor(target):
    """cursor of another collection, of another resource, changed in one place"""
    own = cursor(target)
    tries = [f"{ALL}/manifest/?next={own}", f"{OPEN}/objects/?next={own}", f"{INBOX}/objects/?next={own}"]
    for place in range(0, len(own), 7):
        other = "A" if own[place] != "A" else "B"
        tries.append(f"{ALL}/objects/?next={own[:place]}{other}{own[place + 1:]}")
    tries += [f"{ALL}/objects/?next={word}" for word in (own[:-1], own + "A", own * 50, "-1", "0.5", "%00", "A" * 40_000)]
    statuses = [target.ask("GET", f"/{ROOT}/collections/{path}")[0] for path in tries]
    return tally(statuses), set(statuses) <= {400, 414}


@attack("404 or 403, as without it")
def replayed_cursor(target):
    """ann's cursor, sent by bob, who may not read, and by nobody"""
    own = cursor(target)
    path = f"/{ROOT}/collections/{ALL}/objects/?next={own}"
    found = [target.ask("GET", path, user=user)[0] for user in ("bob", None, "ann")]
    return str(found), found[0] in (403, 404) and found[1:] == [401, 200]


# Content

WORDS = [
    "' OR '1'='1", "'; DROP TABLE records; --", "1) UNION SELECT * FROM users --", '" OR ""="', "\\' OR 1=1 --", "%' OR 1=1 --",
    "x' AND (SELECT COUNT(*) FROM range(100000000)) > 0 --", "'||(SELECT version())||'", "$1", "?", "NULL", "a/**/OR/**/1",
    "*", "*:*", "type:*", "type:IP", "a OR b", "*) OR (*", "[* TO *]", "/.*/", "x~", "\\", "\\\\", "AND", "NOT x", "-x", "inbox:*",
    "(((((((((((((((((", "((a))" * 500, "value:/" + "(a+)+" * 20 + "$/", "\"", "'", "`", "a\tb", "a\r\nSet-Cookie: x=1", "\0", "\u202e",
    "\U0001f600", "{{7*7}}", "${jndi:ldap://x}", "<script>alert(1)</script>", "%s%s%s%n", "../../../etc/passwd", "x" * 8000,
    "1e999", "-9223372036854775809", "0x10", "١٢", "true", "[]", "{}", ",,,,", " ", "last,last", "2020-13-45T99:99:99Z",
]  # fmt: skip


@attack("400, 404, or 200 without objects; never 5xx")
def injection(target):
    """SQL, Lucene and other injection in every parameter and path part"""
    statuses, wrong, slowest = [], [], 0.0
    known = json.loads(target.ask("GET", f"/{ROOT}/collections/{ALL}/objects/?limit=1")[2])["objects"][0]["id"]
    single = f"{ALL}/objects/{known}/"
    for word in WORDS:
        text = quote(word, safe="")
        paths = [
            f"/{ROOT}/collections/{place}?{name}={text}"
            for place in (f"{ALL}/objects/", f"{ALL}/manifest/", single, f"{single}versions/")
            for name in ("match[id]", "match[type]", "match[version]", "match[spec_version]", "added_after", "limit", "next")
        ]
        paths += [f"/{text}/", f"/{ROOT}/collections/{text}/", f"/{ROOT}/collections/{text}/objects/"]
        paths += [f"/{ROOT}/collections/{ALL}/objects/{text}/", f"/{ROOT}/status/{text}/", f"/{ROOT}/collections/{ALL}/objects/?{text}=1"]
        for path in paths[:: 5 if target.quick else 1]:
            began = time.monotonic()
            status, headers, body = target.ask("GET", path)
            slowest = max(slowest, time.monotonic() - began)
            statuses.append(status)
            harmless = word in ("last,last", ",,,,", " ", "true", "*", "?", ".") or path.endswith("=1") or "limit=" in path
            single_filter = path.startswith(f"/{ROOT}/collections/{single}") and ("match[id]" in path or "match[type]" in path or "limit" in path)
            found = b'"objects":[{' in body and not harmless and not single_filter
            if status not in (200, 400, 404, 414) or found or "Set-Cookie" in headers:
                wrong.append((status, path[:120], body[:100]))
    return tally(statuses) + f", slowest {slowest:.2f} s" + (f", WRONG {wrong[:3]}" if wrong else ""), not wrong and slowest < 5


@attack("401; 404 or 200 for the rest; nothing of it in a header")
def injected_headers(target):
    """injection in Authorization, Range, Accept, Host, X-Forwarded-Host, traceparent"""
    wrong, statuses = [], []
    for word in WORDS:
        if any(ord(letter) > 255 or letter in "\r\n\0" for letter in word):
            continue
        user = base64.b64encode(f"{word}:{word}".encode()).decode()
        answers = [target.ask("GET", f"/{ROOT}/collections/", user=None, Authorization=f"Basic {user}")]
        for header in ("Accept", "Range", "Accept-Encoding", "X-Forwarded-Host", "X-Forwarded-For", "Forwarded", "If-None-Match", "Origin"):
            answers.append(target.ask("GET", f"/{ROOT}/collections/{OPEN}/manifest/?limit=1", **{header: word}))
        for status, headers, body in answers:
            statuses.append(status)
            if status >= 500 or "Set-Cookie" in headers or b"alert(1)" in body and b"<html" in body.lower():
                wrong.append((status, word[:40], body[:100]))
    _, _, discovery = target.ask("GET", "/taxii2/", X_Forwarded_Host="evil.example", X_Forwarded_Proto="gopher")
    if b"evil.example" in discovery or b"gopher" in discovery:
        wrong.append(("X-Forwarded-Host of a stranger is believed", discovery[:200]))
    return tally(statuses) + (f", WRONG {wrong[:3]}" if wrong else ""), not wrong


def nested(depth, opening, closing, inner=b"1"):
    return opening * depth + inner + closing * depth


@attack("400 or 422, or 202 with a failure")
def deep_json(target):
    """JSON nested 100,000 deep: in objects, lists, one object's property, unclosed"""
    name = b'{"type":"x-deep","spec_version":"2.1","id":"x-deep--c0ffee00-0000-4000-8000-000000000001","created":"2026-01-01T00:00:00Z","modified":"2026-01-01T00:00:00Z","x_y":'
    depth = 100_000
    bodies = [
        nested(depth, b"[", b"]"),
        nested(depth, b'{"a":', b"}"),
        b'{"objects":' + nested(depth, b"[", b"]") + b"}",
        b'{"objects":[' + name + nested(depth, b"[", b"]") + b"}]}",
        b'{"objects":[' + name + nested(depth, b'{"a":', b"}") + b"}]}",
        b'{"objects":[' + name + nested(depth, b'[{"a":', b"}]") + b"}]}",
        b'{"x":' + nested(depth, b"[", b"]") + b',"objects":[]}',
        b"[" * depth,
        b'{"objects":[' * depth,
    ]
    return content(target, bodies)


@attack("400 or 422, or 202 with a failure")
def odd_json(target):
    """invalid UTF-8, lone surrogates, NUL, huge numbers, twice the same key, BOM, no JSON, 100,000 empty objects"""
    one = b'{"type":"x-odd","spec_version":"2.1","id":"x-odd--c0ffee00-0000-4000-8000-00000000000%d","created":"2026-01-01T00:00:00Z","modified":"2026-01-01T00:00:00Z",%s}'
    inside = [
        b'"x_y":"\xff\xfe"', b'"x_y":"\xc0\x80"', b'"x_y":"\xed\xa0\x80"', b'"x_y":"\\ud800"', b'"x_y":"\\udc00\\ud800"', b'"x_y":"a\x00b"',
        b'"x_y":1e999999', b'"x_y":-' + b"9" * 100_000, b'"x_y":0.' + b"1" * 100_000, b'"id":"x-odd--c0ffee00-0000-4000-8000-0000000000ff"',
        b'"x_y":NaN', b'"x_y":' + b'"' + b"\\u0041" * 1_000_000 + b'"', b'"' + b"k" * 1_000_000 + b'":1', b'"type":null', b'"id":7', b'"created":"yesterday"',
        b'"modified":"9999999-01-01T00:00:00Z"', b'"spec_version":"9"', b'"spec_version":2.1', b'"id":"' + b"x" * 1_000_000 + b'"', b'"id":"../../x"', b'"type":"' + b"a" * 100_000 + b'"',
    ]  # fmt: skip
    bodies = [b'{"objects":[' + one % (number % 10, part) + b"]}" for number, part in enumerate(inside)]
    bodies += [
        b"", b"null", b"[]", b"7", b'"x"', b"{", b'{"objects":', b'{"objects":7}', b'{"objects":{}}', b'{"objects":[7]}', b'{"objects":[null]}',
        b'{"objects":[{}]}', b'{"objects":[{"id":"x"}]}', b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00", b"\x00" * 1000, b"<xml/>", b'{"objects":[' + b"{}," * 99_999 + b"{}]}",
        b'{"objects":[],"objects":[]}', b'{"objects":[]}{"objects":[]}', b'{"objects":[]} trailing', b'{"more":true,"next":"x"}',
    ]  # fmt: skip
    # Large numbers, long texts and long keys are odd, but STIX allows them in properties of one's own.
    return content(target, bodies, may_take=(6, 7, 8, 11, 12))


def content(target, bodies, may_take=()):
    """Bodies that are no good: no object of them may be taken but those of `may_take`, and none may break the server."""
    statuses, wrong, taken = [], [], []
    for number, body in enumerate(bodies):
        status, _, answer = target.post(body)
        if status == 202:
            said = json.loads(answer)
            status = "202, failed" if said["failure_count"] else "202, taken" if said["success_count"] else "202, nothing"
            if said["success_count"]:
                taken.append(number)
        elif status not in (400, 413, 422):
            wrong.append((status, body[:60]))
        elif not is_error(answer, status):
            wrong.append(("no error resource", body[:60], answer[:100]))
        statuses.append(status)
    # What was taken must not break anybody who reads.
    for path in (f"/{ROOT}/collections/{INBOX}/objects/", f"/{ROOT}/collections/{INBOX}/manifest/"):
        status, _, body = target.ask("GET", path)
        if status != 200:
            wrong.append((path, status, body[:200]))
            continue
        try:
            json.loads(body.decode())
        except ValueError as problem:
            wrong.append((path, f"is no longer JSON: {problem}"))
    if not set(taken) <= set(may_take):
        wrong.append(("taken", sorted(set(taken) - set(may_take))))
    return tally(statuses) + (f", WRONG {wrong[:3]}" if wrong else ""), not wrong


def is_error(body, status):
    try:
        said = json.loads(body)
    except ValueError:
        return False
    text = body.decode(errors="replace")
    return bool(said.get("title")) and said.get("http_status") == str(status) and "src/" not in text and "/tmp/" not in text


@attack("400 or closed, one answer at most")
def smuggling(target):
    """request smuggling: both lengths, two lengths, odd chunk sizes, bare line feeds, blanks before colons"""
    path = f"/{ROOT}/collections/{INBOX}/objects/"
    hidden = b"GET /taxii2/ HTTP/1.1\r\nHost: x\r\n\r\n"

    def post(*lines, body):
        return target.head("POST", path, Content_Type=MEDIA) + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body

    cases = [
        post(b"Content-Length: 6", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + hidden),
        post(b"Content-Length: 0", b"Content-Length: 40", body=hidden),
        post(b"Content-Length: +5", body=b"{}   " + hidden),
        post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
        post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
        post(b"Transfer-Encoding: chunked", body=b"FFFFFFFFFFFFFFFFF\r\nx\r\n0\r\n\r\n"),
        post(b"Transfer-Encoding: chunked", body=b"-1\r\nx\r\n0\r\n\r\n"),
        post(b"Transfer-Encoding: chunked", body=b"2;" + b"x" * 100_000 + b"\r\n{}\r\n0\r\n\r\n"),
        post(b"Content-Length: 99999999999999999999999", body=b"{}"),
    ]
    found, wrong = [], []
    for number, case in enumerate(cases):
        data = target.raw(case, BODY_TIMEOUT + 4)
        answers = len(re.findall(rb"HTTP/1\.1 \d{3} ", data))
        found.append(status_of(data))
        if answers > 1 or status_of(data) not in (0, 400, 408, 411, 413, 415, 422, 431, 501):
            wrong.append((number, answers, data[:120]))
    return tally(found) + (f", WRONG {wrong[:3]}" if wrong else ""), not wrong


# HTTP/2


def http2(target, **settings):
    connection = target.socket(10)
    state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False))
    state.initiate_connection()
    connection.sendall(state.data_to_send())
    return connection, state


def request_headers(target, path=f"/{ROOT}/collections/{OPEN}/objects/?limit=5"):
    return [
        (":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "localhost"),
        ("accept", MEDIA), ("authorization", target.credentials()),
    ]  # fmt: skip


@attack("GOAWAY or closed, or all of it withstood")
def rapid_reset(target):
    """HTTP/2 rapid reset: 4 connections, 5,000 streams each, reset as soon as they are opened"""
    outcomes = []
    for _ in range(1 if target.quick else 4):
        connection, state = http2(target)
        opened, said = 0, None
        try:
            for _ in range(100):
                for _ in range(50):
                    stream = state.get_next_available_stream_id()
                    state.send_headers(stream, request_headers(target), end_stream=True)
                    state.reset_stream(stream, error_code=8)
                    opened += 1
                connection.sendall(state.data_to_send())
                said = said or goaway(connection, state)
                if said:
                    break
        except (OSError, h2.exceptions.ProtocolError):
            said = said or "closed"
        connection.close()
        outcomes.append(f"{said or 'withstood'} after {opened}")
    return "; ".join(outcomes), True


def goaway(connection, state):
    """Whether the server has had enough, without waiting."""
    connection.setblocking(False)
    try:
        data = connection.recv(1 << 16)
        if not data:
            return "closed"
        for event in state.receive_data(data):
            if isinstance(event, h2.events.ConnectionTerminated):
                return f"GOAWAY {event.error_code}"
    except BlockingIOError:
        return None
    finally:
        connection.setblocking(True)
    return None


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


@attack("GOAWAY or closed")
def continuation_flood(target):
    """HTTP/2 CONTINUATION frames without end"""
    connection, _ = http2(target)
    sent = 0
    try:
        connection.sendall(frame(1, 0, 1, b"\x00\x03x-a\x01b"))
        while sent < 50_000_000:
            connection.sendall(frame(9, 0, 1, (b"\x00\x03x-a\x7f\x81\x7f" + b"b" * 16_000)[:16_000]))
            sent += 16_000
        data = b""
    except OSError:
        data = b"closed"
    closed = bool(data) or not received_until_closed(connection, 5)
    connection.close()
    return f"closed after {sent >> 10} KiB" if closed else "not closed", closed and sent < 20_000_000


def received_until_closed(connection, seconds):
    """Whether it is still open after so long."""
    connection.settimeout(seconds)
    try:
        while connection.recv(65536):
            pass
        return False
    except TimeoutError:
        return True
    except OSError:
        return False


@attack("431, RST_STREAM, GOAWAY or closed; no memory taken")
def hpack_bomb(target):
    """HPACK bomb: a field of 4 KB, named 15,000 times in each of 20 heads"""
    connection, state = http2(target)
    before = target.memory()[0]
    value = b"v" * 3900
    length = len(value) - 127
    number = b"\x7f"
    while length >= 128:
        number += bytes([length % 128 + 128])
        length //= 128
    number += bytes([length])
    entry = b"\x40\x03x-b" + number + value
    outcome = "withstood"
    try:
        for stream in range(1, 41, 2):
            block = b"\x82\x84\x86\x41\x09localhost" + (entry if stream == 1 else b"") + b"\xbe" * 11_000
            connection.sendall(frame(1, 5, stream, block))
            time.sleep(0.02)
        still_open = received_until_closed(connection, 3)
        outcome = "streams refused" if still_open else "closed"
    except OSError:
        outcome = "closed"
    connection.close()
    grown = target.memory()[1] - before
    return f"{outcome}, {grown} MiB more at most", grown < 200


@attack("withstood or closed")
def floods(target):
    """HTTP/2 floods: PING, SETTINGS, PRIORITY, empty DATA, WINDOW_UPDATE 0"""
    kinds = {
        "PING": frame(6, 0, 0, b"12345678"),
        "SETTINGS": frame(4, 0, 0, b""),
        "PRIORITY": frame(2, 0, 3, b"\0\0\0\1\x10"),
        "WINDOW_UPDATE 0": frame(8, 0, 0, b"\0\0\0\0"),
        "DATA on stream 0": frame(0, 0, 0, b""),
    }
    outcomes = []
    for name, one in kinds.items():
        connection, _ = http2(target)
        connection.settimeout(5)
        sent = 0
        try:
            for _ in range(300):
                connection.sendall(one * 100)
                sent += 100
            outcome = "withstood"
        except TimeoutError:
            # The answers were not read, so the server stopped reading too: it holds no more than the sockets do.
            outcome = f"no longer read after {sent}"
        except OSError:
            outcome = f"closed after {sent}"
        connection.close()
        outcomes.append(f"{name}: {outcome}")
    return "; ".join(outcomes), True


@attack("reset or closed after `write_timeout`")
def zero_window(target):
    """HTTP/2 with a window of nothing: 100 streams ask for everything"""
    connection, state = http2(target)
    state.update_settings({4: 0})
    for _ in range(100):
        stream = state.get_next_available_stream_id()
        state.send_headers(stream, request_headers(target, f"/{ROOT}/collections/{ALL}/objects/"), end_stream=True)
    connection.sendall(state.data_to_send())
    resets, began = 0, time.monotonic()
    connection.settimeout(1)
    closed = False
    while time.monotonic() - began < WRITE_TIMEOUT + 15 and resets < 100 and not closed:
        try:
            data = connection.recv(65536)
            closed = not data
            for event in state.receive_data(data):
                resets += isinstance(event, h2.events.StreamReset)
                closed |= isinstance(event, h2.events.ConnectionTerminated)
            connection.sendall(state.data_to_send())
        except TimeoutError:
            continue
        except OSError:
            closed = True
    connection.close()
    took = time.monotonic() - began
    return f"{resets} of 100 reset{', closed' if closed else ''} after {took:.1f} s", closed or resets == 100


def judge(target, chosen, most):
    rows, failed = [], []
    Honest(target).target.ask("GET", "/taxii2/")
    base = target.memory()[0]
    for function, expected in chosen:
        name = function.__doc__.split("\n")[0]
        target.forget_peak()
        honest = Honest(target)
        honest.start()
        began = time.monotonic()
        try:
            found, good = function(target)
        except Exception as problem:
            found, good = f"{type(problem).__name__}: {problem}", False
        took = time.monotonic() - began
        honest.ended = True
        honest.join(30)
        problems = [] if good else ["the answer"]
        if target.process.poll() is not None:
            print(f"FAILED {name}: {found}: the server ended with {target.process.returncode}: {target.log()[-1500:]}")
            return [*failed, name]
        _, peak = target.memory()
        if honest.wrong:
            problems.append(f"the honest user got {tally(honest.wrong)}")
        if honest.longest > 5:
            problems.append(f"the honest user waited {honest.longest:.1f} s")
        if peak > base + most:
            problems.append(f"{peak} MiB of memory")
        until = time.monotonic() + 12
        while target.sockets() > 25 and time.monotonic() < until:
            time.sleep(0.2)
        if target.sockets() > 25:
            problems.append(f"{target.sockets()} sockets left")
        if "panicked" in target.log():
            problems.append("a panic in the log")
        print(f"{'FAILED' if problems else 'ok    '} {name}")
        print(f"         expected {expected}; found {found}")
        print(f"         {took:.1f} s, honest user waited {honest.longest:.2f} s at most, memory {peak} MiB at most")
        if problems:
            print(f"         WRONG: {'; '.join(problems)}")
            failed.append(name)
        sys.stdout.flush()
        rows.append(name)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", type=lambda text: str(Path(text).resolve()))
    parser.add_argument("--only", help="only attacks with this in their name")
    parser.add_argument("--quick", action="store_true", help="smaller bombs, fewer repetitions")
    # 256 for bodies (`bodies_bytes`), half as much again while those that grow are copied, and some for all else.
    parser.add_argument("--memory", type=int, default=460, help="most MiB above what the idle server holds")
    args = parser.parse_args()
    chosen = [entry for entry in ATTACKS if not args.only or args.only.lower() in (entry[0].__name__ + entry[0].__doc__).lower()]
    with tempfile.TemporaryDirectory(prefix="taxiway-hostile-") as folder:
        target = None
        try:
            target = Target(args.binary, folder)
            target.quick = args.quick
            failed = judge(target, chosen, args.memory)
            words = [word for word in PASSWORDS.values() if word in target.log()]
            if words:
                failed.append("passwords in the log")
        except Failed as problem:
            print(f"hostile: failed: {problem}")
            return 1
        finally:
            if target and target.process.poll() is None:
                target.process.terminate()
                target.process.wait(60)
    print(f"hostile: failed: {'; '.join(failed)}" if failed else f"hostile: ok, {len(chosen)} attacks")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
