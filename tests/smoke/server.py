"""What the scripts share: running the binary's commands, and a server on a free port for as long as it is needed."""

import contextlib
import re
import subprocess
import time
from pathlib import Path


class Failed(Exception):
    """What ends a script with its message."""


def run(*command, **options):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)


def start(binary, folder, config):
    """Starts a server with that configuration (TOML, without `listen`); what it says goes behind what is in
    `serve.log`. Gives the process and where its words begin in there."""
    folder = Path(folder)
    path = folder / "taxiway.toml"
    path.write_text(f'listen = "127.0.0.1:0"\n{config}')
    with open(folder / "serve.log", "ab") as out:
        return subprocess.Popen([binary, "serve", "--config", path], stdout=out, stderr=out), out.tell()


def address(process, folder, offset=0):
    """The URL that the server prints once it listens; None if it ends before that."""
    log = Path(folder) / "serve.log"
    for _ in range(1200):
        ended = process.poll() is not None
        with open(log, "rb") as file:
            file.seek(offset)
            found = re.search(rb"listening on (https?://\S+:\d+)", file.read())
        if found:
            return found[1].decode()
        if ended:
            return None
        time.sleep(0.05)
    raise Failed(f"serve printed no address within a minute: {log.read_text()}")


@contextlib.contextmanager
def serving(binary, folder, config):
    """A server with that configuration (TOML, without `listen`); gives its URL."""
    process, offset = start(binary, folder, config)
    with process:
        try:
            url = address(process, folder, offset)
            if url is None:
                raise Failed(f"serve ended: {(Path(folder) / 'serve.log').read_text()}")
            yield url
        finally:
            process.terminate()
