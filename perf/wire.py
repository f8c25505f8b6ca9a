"""What the measuring scripts share: keep-alive connections that take times, the server's memory, percentiles."""

import gzip
import http.client
import json
import re
import socket
import time
from urllib.parse import urlencode, urlsplit

MEDIA = "application/taxii+json;version=2.1"


class Answer:
    """A whole answer; seconds run from the first byte sent to the first and the last byte received."""

    def __init__(self, status, headers, body, first_byte, seconds):
        self.status, self.headers, self.body = status, headers, body
        self.first_byte, self.seconds = first_byte, seconds

    def json(self):
        packed = self.headers.get("Content-Encoding") == "gzip"
        return json.loads(gzip.decompress(self.body) if packed else self.body)


class Server:
    """One keep-alive connection. Nothing is parsed while the clock runs."""

    def __init__(self, url, packed=False, authorization=None, timeout=600):
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)
        self.connection.connect()
        self.headers = {"Accept": MEDIA, "Accept-Encoding": "gzip" if packed else "identity"}
        if authorization:
            self.headers["Authorization"] = authorization

    def get(self, path, headers=None, **params):
        target = f"{path}?{urlencode(params)}" if params else path
        started = time.perf_counter()
        self.connection.request("GET", target, headers={**self.headers, **(headers or {})})
        answer = self.connection.getresponse()
        first = answer.read(1)
        first_byte = time.perf_counter() - started
        body = first + answer.read()
        seconds = time.perf_counter() - started
        if answer.status not in (200, 206):
            raise SystemExit(f"GET {target}: {answer.status} {body[:300]!r}")
        return Answer(answer.status, answer.headers, body, first_byte, seconds)

    def post(self, path, body):
        self.connection.request("POST", path, body, {**self.headers, "Content-Type": MEDIA})
        answer = self.connection.getresponse()
        said = answer.read()
        if answer.status not in (200, 202):
            raise SystemExit(f"POST {path}: {answer.status} {said[:300]!r}")
        return json.loads(said)

    def collection(self, title):
        """Path of the collection of that title, with its last slash."""
        root = urlsplit(self.get("/taxii2/").json()["api_roots"][0]).path
        for entry in self.get(f"{root}collections/").json()["collections"]:
            if entry["title"] == title:
                return f"{root}collections/{entry['id']}/"
        raise SystemExit(f"there is no collection `{title}`")


class Raw:
    """One keep-alive connection without a parser in its way: what it adds to a small request is some hundredths of a millisecond.

    An answer's body is good until the next request.
    """

    def __init__(self, url, authorization=None, timeout=600):
        place = urlsplit(url)
        self.socket = socket.create_connection((place.hostname, place.port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.head = f"Host: {place.netloc}\r\nAccept: {MEDIA}\r\nAccept-Encoding: identity\r\n"
        if authorization:
            self.head += f"Authorization: {authorization}\r\n"
        self.buffer = bytearray(1 << 20)

    def get(self, path, **params):
        target = f"{path}?{urlencode(params)}" if params else path
        request = f"GET {target} HTTP/1.1\r\n{self.head}\r\n".encode()
        filled, body_at, length, first_byte = 0, 0, None, None
        started = time.perf_counter()
        self.socket.sendall(request)
        while True:
            if filled == len(self.buffer):
                self.buffer.extend(bytes(filled))
            with memoryview(self.buffer) as whole:
                got = self.socket.recv_into(whole[filled:])
            if got == 0:
                raise SystemExit(f"GET {target}: the connection was closed after {filled} bytes")
            filled += got
            if not body_at:
                end = self.buffer.find(b"\r\n\r\n", 0, filled)
                if end < 0:
                    continue
                body_at = end + 4
                head = bytes(self.buffer[:body_at]).decode("latin-1")
                found = re.search(r"(?i)\r\ncontent-length: *(\d+)", head)
                length = int(found[1]) if found else None
            if first_byte is None and (filled > body_at or length == 0):
                first_byte = time.perf_counter() - started
            if filled == body_at + length if length is not None else self.ends(filled, body_at):
                break
        seconds = time.perf_counter() - started
        answer = RawAnswer(self.buffer, body_at, filled, length is None, head, first_byte, seconds)
        if answer.status not in (200, 206):
            raise SystemExit(f"GET {target}: {answer.status} {answer.body()[:300]!r}")
        return answer

    def ends(self, filled, body_at):
        """Whether the last chunk is there. Line ends are bare nowhere in JSON, so these bytes are no text of an object."""
        if filled - body_at == 5:
            return self.buffer[body_at:filled] == b"0\r\n\r\n"
        return filled - body_at > 5 and self.buffer[filled - 7 : filled] == b"\r\n0\r\n\r\n"


class RawAnswer:
    """A whole answer as it came; the body is put together when somebody asks for it, outside of the times."""

    def __init__(self, buffer, body_at, filled, chunked, head, first_byte, seconds):
        self.buffer, self.body_at, self.filled, self.chunked = buffer, body_at, filled, chunked
        self.first_byte, self.seconds = first_byte, seconds
        lines = head.split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}

    def body(self):
        with memoryview(self.buffer) as whole:
            if not self.chunked:
                return bytes(whole[self.body_at : self.filled])
            parts, at = [], self.body_at
            while True:
                line = self.buffer.index(b"\r\n", at)
                size = int(bytes(whole[at:line]).split(b";")[0], 16)
                if size == 0:
                    return b"".join(parts)
                parts.append(bytes(whole[line + 2 : line + 2 + size]))
                at = line + 2 + size + 2

    def next(self):
        """`next` of the page, or None at the end. It stands in front of the objects."""
        head = bytes(self.buffer[self.body_at : min(self.filled, self.body_at + 70_000)]).split(b'"objects":', 1)[0]
        found = re.search(rb'"next":"([^"]*)"', head)
        return found[1].decode() if found else None

    def last_date(self):
        return self.headers.get("x-taxii-date-added-last", "")


class Walk:
    """One walk over a collection: its times, and the checks that hold for any."""

    def __init__(self):
        self.ids = set()
        self.bytes = 0
        self.times = []
        self.first_bytes = []
        self.problems = []

    def check(self, good, problem):
        if not good and problem not in self.problems:
            self.problems.append(problem)

    def take(self, answer, limit):
        """Takes a page in; gives it parsed, and its objects."""
        self.times.append(answer.seconds)
        self.first_bytes.append(answer.first_byte)
        self.bytes += len(answer.body)
        body = answer.json()
        objects = body.get("objects", [])
        self.check(len(objects) <= limit, f"a page holds {len(objects)} objects, more than {limit}")
        before = len(self.ids)
        self.ids.update(entry["id"] for entry in objects)
        self.check(len(self.ids) - before == len(objects), "an id came twice")
        return body, objects


def reset_peak(pid):
    """From here on the peak of that process counts anew (Linux; a process of the same user)."""
    if pid:
        with open(f"/proc/{pid}/clear_refs", "w") as file:
            file.write("5")


def peak_mib(pid):
    """Peak resident memory of that process since the last reset."""
    if not pid:
        return None
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("VmHWM"):
                return round(int(line.split()[1]) / 1024, 1)
    return None


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def milliseconds(seconds):
    return round(seconds * 1000, 3)
