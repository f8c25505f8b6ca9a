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


@contextlib.contextmanager
def serving(binary, folder, config):
    """A server with that configuration (TOML, without `listen`); gives its URL."""
    folder = Path(folder)
    path = folder / "taxiway.toml"
    path.write_text(f'listen = "127.0.0.1:0"\n{config}')
    log = folder / "serve.log"
    with (
        open(log, "wb") as out,
        subprocess.Popen([binary, "serve", "--config", path], stdout=out, stderr=out) as process,
    ):
        try:
            for _ in range(600):
                found = re.search(r"listening on (https?://\S+:\d+)", log.read_text())
                if found:
                    break
                if process.poll() is not None:
                    raise Failed(f"serve ended: {log.read_text()}")
                time.sleep(0.1)
            else:
                raise Failed(f"serve printed no address within a minute: {log.read_text()}")
            yield found[1]
        finally:
            process.terminate()
