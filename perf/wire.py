"""What the measuring scripts share: a keep-alive connection that takes times, the server's memory, percentiles."""

import gzip
import http.client
import json
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
