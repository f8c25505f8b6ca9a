"""The servers that perf/compare runs: taxiway, OpenTAXII, medallion, and nginx as the floor.

Each is started anew for every measurement that says `cold`, serves on a free port of loopback, and is stopped by its own process
group. CPU seconds and memory are those of all its processes.
"""

import base64
import gzip
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from wire import MEDIA, Server

HERE = Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")
# Objects that OpenTAXII gets with one POST.
POSTED_AT_ONCE = 100


class Failed(Exception):
    """A server that does not do what is asked of it; the text says what it did."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def timed(command, **options):
    """Runs a command; gives its seconds, CPU seconds and peak MiB."""
    return timed_words(command, **options)[0]


def timed_words(command, **options):
    """The same, and what the command said."""
    # By way of a small process: the peak memory of a child counts from that of the one that starts it.
    wrapped = [sys.executable, HERE / "timed.py", command[0], *command]
    done = subprocess.run([str(part) for part in wrapped], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    if done.returncode:
        words = done.stderr.strip().splitlines()[-1:] or ["no words"]
        raise Failed(f"`{command[0]} {command[1]}` ended with {done.returncode}: {words[0][-300:]}")
    told = json.loads(done.stdout)
    result = {
        "seconds": told["seconds"],
        "cpu_seconds": told["user_seconds"] + told["system_seconds"],
        "peak_mib": told["peak_rss_mib"],
    }
    return result, done.stderr


class Peer:
    """A server under measurement."""

    name = version = ""
    # Path of the collection, with its last slash; known once the server runs.
    collection = ""
    # Why some measurements are missing, for the report.
    limits = []
    authorization = None
    compresses = True
    # Whether there is something to walk through; a file server has one file.
    pages = True

    def __init__(self, work, limit):
        self.folder = Path(work) / self.name
        self.limit = limit
        self.process = None
        self.url = ""

    def command(self, port):
        raise NotImplementedError

    def environment(self):
        return None

    def start(self):
        """Starts the server and gives the seconds until it answers."""
        self.stop()
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        started = time.perf_counter()
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                [str(part) for part in self.command(port)],
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while time.perf_counter() - started < max(self.limit, 180):
            if self.process.poll() is not None:
                raise Failed(f"ended with {self.process.returncode}, see {self.folder / 'server.log'}")
            # An answer, whichever: a listening socket alone does not say that anybody is behind it.
            probe = http.client.HTTPConnection("127.0.0.1", port, timeout=self.limit)
            try:
                probe.request("GET", "/taxii2/", headers={"Accept": MEDIA})
                probe.getresponse().read()
                return time.perf_counter() - started
            except (OSError, http.client.HTTPException):
                time.sleep(0.005)
            finally:
                probe.close()
        raise Failed("does not answer within three minutes of its start")

    def stop(self):
        if self.process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(timeout=10)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass
        self.process.wait()
        self.process = None

    def processes(self):
        """The process and its descendants."""
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                except OSError:
                    continue
                parents[int(entry.name)] = (int(fields[1]), int(fields[11]) + int(fields[12]))
        found, grown = {self.process.pid}, True
        while grown:
            more = {pid for pid, (parent, _) in parents.items() if parent in found} - found
            found |= more
            grown = bool(more)
        return {pid: parents[pid][1] for pid in found if pid in parents}

    def cpu_seconds(self):
        return sum(self.processes().values()) / TICKS

    def peak_mib(self):
        total = 0
        for pid in self.processes():
            try:
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        return total / 1024

    def connect(self, packed=False):
        return Server(self.url, packed, self.authorization, timeout=self.limit)

    def page_path(self, page):
        """Path of the first page of that size (None: everything), and its parameters."""
        return f"{self.collection}objects/", {"limit": page or 10_000_000}


class Taxiway(Peer):
    name = "taxiway"

    def __init__(self, work, limit, binary):
        super().__init__(work, limit)
        self.binary = os.path.abspath(binary)
        asked = subprocess.run([self.binary, "--version"], capture_output=True, text=True)
        self.version = asked.stdout.split()[-1] if asked.stdout else "unknown"

    def load(self, documents, count):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        # OpenTAXII can take nothing that has no `modified`, so observables go as indicators.
        (self.folder / "taxiway.toml").write_text(
            'listen = "127.0.0.1:0"\n[store]\nlocation = "store"\n[taxii]\nmax_page_size = 10000000\n'
            'indicator_types = "all"\n[[collection]]\ntitle = "All"\nquery = ""\n'
            '[[collection]]\ntitle = "Rare"\nquery = "tags:\\"rare-1-in-10000\\""\n'
        )
        result = timed([self.binary, "import", os.path.abspath(documents)], cwd=self.folder)
        result["disk_mib"] = folder_mib(self.folder / "store")
        return result

    def command(self, port):
        return [self.binary, "serve"]

    def environment(self):
        return {**os.environ, "TAXIWAY_LISTEN": self.url.removeprefix("http://"), "RUST_LOG": "warn"}

    def start(self):
        seconds = super().start()
        server = Server(self.url, timeout=self.limit)
        self.collection, self.rare = server.collection("All"), server.collection("Rare")
        server.connection.close()
        return seconds


class OpenTaxii(Peer):
    name = "OpenTAXII"
    compresses = False
    limits = [
        "serves TAXII 2.1 from SQL (SQLite here); two gunicorn workers, as many as cores",
        "has no query: a collection is what was posted to it; selective reading is `match[type]` alone",
        "0.9.3 answers 500 wherever its answer holds an id of its own (its issue 243); run with that one line mended",
        "takes nothing without `modified`, so no STIX observables and no markings",
        "does not compress by itself (a proxy in front would)",
    ]

    def __init__(self, work, limit, python, load_limit):
        super().__init__(work, limit)
        self.python = Path(python).absolute()
        self.load_limit = load_limit
        self.version = package(self.python, "opentaxii")

    def environment(self):
        return {**os.environ, "OPENTAXII_CONFIG": str(self.folder.absolute() / "opentaxii.yml")}

    def load(self, objects, count):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        database = f"sqlite:///{self.folder.absolute()}"
        (self.folder / "opentaxii.yml").write_text(
            json.dumps(
                {
                    "auth_api": {
                        "class": "opentaxii.auth.sqldb.SQLDatabaseAPI",
                        "parameters": {"db_connection": f"{database}/auth.db", "create_tables": True, "secret": "perf"},
                    },
                    "taxii1": None,
                    "taxii2": {
                        "persistence_api": {
                            "class": "opentaxii.persistence.sqldb.Taxii2SQLDatabaseAPI",
                            "parameters": {"db_connection": f"{database}/data.db", "create_tables": True},
                        },
                        "title": "perf",
                        "max_content_length": 1 << 30,
                        "public_discovery": True,
                    },
                    "logging": {"opentaxii": "warning", "root": "warning"},
                }
            )
        )
        made = self.setup("create")
        self.collection = made.strip().splitlines()[-1]
        self.start()
        envelope = json.loads(Path(objects).read_bytes())["objects"]
        server = Server(self.url, timeout=max(self.limit, self.load_limit))
        posted, started, cpu = 0, time.perf_counter(), self.cpu_seconds()
        while posted < len(envelope) and time.perf_counter() - started < self.load_limit:
            part = envelope[posted : posted + POSTED_AT_ONCE]
            server.post(f"{self.collection}objects/", json.dumps({"objects": part}).encode())
            posted += len(part)
        result = {
            "seconds": time.perf_counter() - started,
            "cpu_seconds": self.cpu_seconds() - cpu,
            "peak_mib": self.peak_mib(),
            "loaded": posted,
        }
        self.stop()
        if posted < len(envelope):
            self.setup("fill", Path(objects).absolute(), self.collection.split("/")[-2], posted)
        result["disk_mib"] = folder_mib(self.folder)
        return result

    def setup(self, *arguments):
        command = [str(self.python), str(HERE / "opentaxii_setup.py"), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment(), cwd=self.folder)
        if done.returncode:
            raise Failed(done.stderr.strip().splitlines()[-1])
        return done.stdout

    def command(self, port):
        return [
            self.python, "-m", "gunicorn", "opentaxii_app:app", "--pythonpath", HERE, "--bind", f"127.0.0.1:{port}",
            "--workers", os.cpu_count(), "--timeout", "100000",
        ]  # fmt: skip


class Medallion(Peer):
    name = "medallion"
    compresses = False
    authorization = "Basic " + base64.b64encode(b"user:pass").decode()
    limits = [
        "the OASIS reference server, memory backend: it begins with a JSON file and forgets the rest when it stops",
        "compares every object with every entry of the manifest for each first page, so its time grows with the square",
        "its `next` is a server-side list that one client consumes; a page cannot be asked for twice",
        "has no query: selective reading is `match[type]` alone; pages are capped by `max_page_size` (10,000,000 here)",
        "does not compress by itself (a proxy in front would)",
    ]

    def __init__(self, work, limit, python):
        super().__init__(work, limit)
        self.python = Path(python).absolute()
        self.version = package(self.python, "medallion")
        self.collection = "/root/collections/11111111-1111-4111-8111-111111111111/"

    def load(self, objects, count):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        envelope = json.loads(Path(objects).read_bytes())["objects"]
        manifest = [
            {
                "id": entry["id"],
                "date_added": f"2024-01-01T{row // 3_600_000_000:02}:{row // 60_000_000 % 60:02}:"
                f"{row // 1_000_000 % 60:02}.{row % 1_000_000:06}Z",
                "version": entry["modified"],
                "media_type": "application/stix+json;version=2.1",
            }
            for row, entry in enumerate(envelope)
        ]
        media = "application/taxii+json;version=2.1"
        data = {
            "/discovery": {"title": "perf", "default": "/root/", "api_roots": ["/root/"]},
            "root": {
                "information": {"title": "perf", "versions": [media], "max_content_length": 1 << 30},
                "status": [],
                "collections": [
                    {
                        "id": self.collection.split("/")[-2],
                        "title": "All",
                        "can_read": True,
                        "can_write": True,
                        "media_types": ["application/stix+json;version=2.1"],
                        "objects": envelope,
                        "manifest": manifest,
                    }
                ],
            },
        }
        (self.folder / "data.json").write_text(json.dumps(data))
        backend = {
            "module": "medallion.backends.memory_backend",
            "module_class": "MemoryBackend",
            "filename": str(self.folder.absolute() / "data.json"),
            "session_timeout": 100_000,
        }
        settings = {"users": {"user": "pass"}, "taxii": {"max_page_size": 10_000_000}, "backend": backend}
        (self.folder / "medallion.json").write_text(json.dumps(settings))
        seconds = self.start()
        result = {"seconds": seconds, "cpu_seconds": self.cpu_seconds(), "peak_mib": self.peak_mib()}
        result["disk_mib"] = folder_mib(self.folder)
        self.stop()
        return result

    def command(self, port):
        return [self.python.parent / "medallion", "--port", port, "medallion.json"]


class Nginx(Peer):
    name = "nginx"
    pages = False
    limits = [
        "the floor: sends taxiway's own bytes as files; knows nothing of TAXII, filters, `next` or users",
        "compressed files are made beforehand (gzip -6, `gzip_static`): sending them costs it nothing",
    ]

    def __init__(self, work, limit, binary):
        super().__init__(work, limit)
        self.binary = os.path.abspath(binary)
        asked = subprocess.run([self.binary, "-v"], capture_output=True, text=True)
        self.version = asked.stderr.split("/")[-1].strip()

    def load(self, files, count):
        """`files`: the bytes of the first page for each page size."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for page, body in files.items():
            (self.folder / f"page-{page or 'whole'}.json").write_bytes(body)
            (self.folder / f"page-{page or 'whole'}.json.gz").write_bytes(gzip.compress(body, 6, mtime=0))
        return None

    def command(self, port):
        folder = self.folder.absolute()
        paths = "".join(
            f"{name}_temp_path {folder}/temp-{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        # As root, its workers would be somebody who may not read here.
        user = "user root;\n" if os.geteuid() == 0 else ""
        (self.folder / "nginx.conf").write_text(
            f"{user}worker_processes auto;\ndaemon off;\npid {folder}/nginx.pid;\nerror_log stderr warn;\n"
            "events { worker_connections 1024; }\n"
            f"http {{\naccess_log off;\nsendfile on;\ntcp_nopush on;\ngzip_static on;\n{paths}"
            'default_type "application/taxii+json;version=2.1";\n'
            f"server {{ listen 127.0.0.1:{port}; root {folder}; }}\n}}\n"
        )
        return [self.binary, "-p", folder, "-c", folder / "nginx.conf"]

    def page_path(self, page):
        return f"/page-{page or 'whole'}.json", {}


def find_nginx(work):
    """Its binary: `NGINX`, the system's, or one unpacked from the distribution's package; or None and why."""
    found = os.environ.get("NGINX") or shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if found:
        return found, None
    folder = Path(work) / "nginx-package"
    binary = folder / "usr/sbin/nginx"
    if not binary.exists():
        if not (shutil.which("apt-get") and shutil.which("dpkg")):
            return None, "nginx is not here, and only Debian's packages can be unpacked without installing them"
        folder.mkdir(parents=True, exist_ok=True)
        got = subprocess.run(["apt-get", "download", "nginx"], cwd=folder, capture_output=True, text=True)
        for package_file in folder.glob("nginx_*.deb"):
            subprocess.run(["dpkg", "-x", package_file.name, "."], cwd=folder, check=False)
        if not binary.exists():
            return None, f"nginx could not be had: {(got.stderr.strip() or 'no package').splitlines()[-1]}"
    tried = subprocess.run([binary, "-v"], capture_output=True, text=True)
    return (str(binary), None) if tried.returncode == 0 else (None, f"nginx does not run: {tried.stderr.strip()}")


def package(python, name):
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True).stdout.strip() or "unknown"


def folder_mib(folder):
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 2**20


def note(text):
    print(text, file=sys.stderr, flush=True)
