"""A pytest plugin that runs medallion's tests of its backends over HTTP: against taxiway, or against medallion itself.

Where the suite makes a Flask test client for its application, this puts a client that sends the same requests over a
socket. With `--taxiway BINARY` they go to a server with the suite's data: its API roots, its collections with their
rights, as inboxes, and its objects with the dates their manifest gives. Without it they go to medallion, served by
werkzeug, which shows that the plugin changes nothing.

Tests that taxiway does not pass are in `expected.toml`, each with the reason; one that fails and is not there, or
passes and is, fails the run.
"""

import functools
import http.client
import json
import sys
import tempfile
import threading
import tomllib
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "smoke"))
import server  # noqa: E402

# Discovery in the suite's data names this place, and one of its tests wants to read it back.
BASE_URL = "http://localhost:5000"
REDIRECTS = (301, 302, 303, 307, 308)


class Answer:
    """What the tests read of Flask's answers."""

    def __init__(self, status, headers, body):
        self.status_code = status
        self.headers = headers
        self.data = body

    @property
    def content_type(self):
        return self.headers.get("Content-Type")

    @property
    def json(self):
        return json.loads(self.data)


class Client:
    """What the tests use of Flask's test client, each request on a connection of its own."""

    def __init__(self, url):
        self.place = urlsplit(url)
        self.get = functools.partial(self.open, "GET")
        self.post = functools.partial(self.open, "POST")
        self.delete = functools.partial(self.open, "DELETE")

    def open(self, method, path, headers=None, data=None, follow_redirects=False):
        for _ in range(5):
            connection = http.client.HTTPConnection(self.place.netloc, timeout=60)
            connection.request(method, path, body=data, headers=headers or {})
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read())
            connection.close()
            if not (follow_redirects and answer.status_code in REDIRECTS):
                return answer
            target = urlsplit(urljoin(f"{self.place.scheme}://{self.place.netloc}{path}", answer.headers["Location"]))
            path = target.path + (f"?{target.query}" if target.query else "")
        raise AssertionError(f"more than five redirects from {path}")


class Medallion:
    """medallion's own application behind a socket."""

    def __init__(self, application):
        from werkzeug.serving import make_server

        self.server = make_server("127.0.0.1", 0, application)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def stop(self):
        self.server.shutdown()
        self.thread.join()


class Taxiway:
    """A server of a new store with the suite's data."""

    def __init__(self, binary, data_file, configuration):
        self.binary = binary
        self.folder = tempfile.TemporaryDirectory(prefix="taxiway-medallion-")
        self.data = json.loads(Path(data_file).read_text(encoding="utf-8"))
        path = Path(self.folder.name)
        users = configuration["users"]
        settings = self.settings(path, list(users), configuration["taxii"]["max_page_size"])
        config = path / "taxiway.toml"
        config.write_text(settings)
        for name, password in users.items():
            self.run("user", "add", name, "--password-stdin", "--config", config, input=f"{password}\n")
        for collection in self.collections():
            if collection["objects"]:
                self.load(path, config, collection)
        self.serving = server.serving(binary, path, settings)
        self.url = self.serving.__enter__()

    def roots(self):
        return [(name, root) for name, root in self.data.items() if not name.startswith("/")]

    def collections(self):
        return [collection for _, root in self.roots() for collection in root["collections"]]

    def settings(self, folder, users, page_size):
        """The suite's data and configuration as ours."""
        text = json.dumps
        discovery = self.data["/discovery"]
        (first, _), *others = self.roots()
        lines = [
            f"base_url = {text(BASE_URL)}",
            f"[store]\nlocation = {text(str(folder / 'store'))}",
            f"[auth]\nusers = {text(str(folder / 'users.json'))}\nanonymous = false",
            f"[taxii]\ntitle = {text(discovery['title'])}\ndescription = {text(discovery['description'])}",
            f"page_size = {page_size}\nmax_page_size = {page_size}\napi_root = {text(first)}\nread = {text(users)}",
        ]
        for name, root in others:
            told = root["information"]
            lines += [
                f"[[api_root]]\npath = {text(name)}\nread = {text(users)}",
                f"title = {text(told['title'])}\ndescription = {text(told['description'])}",
            ]
        for name, root in self.roots():
            for collection in root["collections"]:
                lines += [
                    f"[[collection]]\ninbox = true\ntitle = {text(collection['title'])}\nid = {text(collection['id'])}",
                    f"api_roots = [{text(name)}]",
                    f"read = {text(users if collection['can_read'] else [])}",
                    f"write = {text(users if collection['can_write'] else [])}",
                ]
                if "description" in collection:
                    lines.append(f"description = {text(collection['description'])}")
        return "\n".join(lines) + "\n"

    def load(self, folder, config, collection):
        """Objects in the order of their manifest, with its dates."""

        def key(entry):
            return entry["id"], entry.get("version", entry.get("modified", entry.get("created")))

        objects = {key(entry): entry for entry in collection["objects"]}
        ordered = [objects[key(entry)] for entry in collection["manifest"]]
        content = folder / f"{collection['id']}.json"
        content.write_text(json.dumps({"objects": ordered}))
        manifest = folder / f"{collection['id']}.manifest.json"
        manifest.write_text(json.dumps({"objects": collection["manifest"]}))
        where = ("--inbox", collection["id"], "--manifest", manifest, "--config", config)
        self.run("import", content, *where)

    def run(self, *command, **options):
        done = server.run(self.binary, *command, **options)
        if done.returncode != 0:
            words = " ".join(str(word) for word in command)
            raise server.Failed(f"taxiway {words}: {done.stdout}{done.stderr}")

    def stop(self):
        self.serving.__exit__(None, None, None)
        self.folder.cleanup()


def pytest_addoption(parser):
    parser.addoption("--taxiway", help="the binary to test; without it medallion itself is tested")


def pytest_configure(config):
    from medallion.test.base_test import TaxiiTest

    binary = config.getoption("--taxiway")
    set_up, tear_down = TaxiiTest.setUp, TaxiiTest.tearDown

    def set_up_over_http(self, *args, **kwargs):
        set_up(self, *args, **kwargs)
        if binary and self.type == "memory":
            self.over_http = Taxiway(binary, self.DATA_FILE, self.configuration)
        else:
            self.over_http = Medallion(self.app)
        self.client = Client(self.over_http.url)

    def tear_down_over_http(self):
        if hasattr(self, "over_http"):
            self.over_http.stop()
        tear_down(self)

    TaxiiTest.setUp, TaxiiTest.tearDown = set_up_over_http, tear_down_over_http
    config.stash[REPORT] = {}


REPORT = pytest.StashKey[dict]()


def name_of(item):
    """The test's name without the backend among its parameters."""
    name, _, parameters = item.name.rstrip("]").partition("[")
    rest = "-".join(word for word in parameters.split("-") if word and word not in ("memory", "mongo"))
    return f"{name}[{rest}]" if rest else name


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    # The suite runs each test for both of its backends; what is behind the socket is none of the two.
    items[:] = [item for item in items if "mongo" not in item.name]
    if not config.getoption("--taxiway"):
        return
    told = tomllib.loads((HERE / "expected.toml").read_text(encoding="utf-8"))
    names = {name_of(item) for item in items}
    for table in ("fails", "not_over_http"):
        gone = [name for name in told[table] if name not in names]
        if gone:
            raise pytest.UsageError(f"expected.toml names tests that the suite does not have: {', '.join(gone)}")
    for item in items:
        name = name_of(item)
        if name in told["fails"]:
            item.add_marker(pytest.mark.xfail(reason=told["fails"][name], strict=True))
        if name in told["not_over_http"]:
            item.add_marker(pytest.mark.skip(reason=told["not_over_http"][name]))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    found = item.config.stash[REPORT]
    name = name_of(item)
    if report.failed:
        # An xfail-marked test that passed fails with this text.
        found[name] = "PASSED AGAINST EXPECTATION" if "[XPASS(strict)]" in str(report.longrepr) else "FAILED"
    elif report.skipped:
        found[name] = f"fails: {report.wasxfail}" if hasattr(report, "wasxfail") else f"not run: {report.longrepr[2]}"
    elif report.when == "call":
        found.setdefault(name, "passes")


def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.section("medallion's tests over HTTP")
    for name, outcome in config.stash[REPORT].items():
        terminalreporter.write_line(f"{name:55} {outcome.replace('Skipped: ', '')}")
