#!/usr/bin/env python3
"""Runs the tests that medallion has for its backends over HTTP against a taxiway binary.

    python3 tests/medallion/run.py target/release/taxiway [--source REPOSITORY] [--work FOLDER] [--only taxiway]

medallion is the TAXII 2.1 server of the committee that wrote TAXII. Its source is cloned at a fixed commit from
REPOSITORY (its public one, or any clone of it) into FOLDER, where a virtual environment is made as well; nothing of it
is part of this project. First the suite runs over HTTP against medallion itself, where all must pass: then the plugin
changes nothing. Then against taxiway, where exactly what `expected.toml` names may fail. Ends with `medallion: ok` or
`medallion: failed: ...` (exit code 1).
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = "https://github.com/oasis-open/cti-taxii-server"
# Of 6 June 2023; the newest there is.
COMMIT = "39e76bf18be5371e9570de7e5f340c3937b69c0d"


class Failed(Exception):
    pass


def run(*command, problem, **options):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, **options)
    if done.returncode != 0:
        raise Failed(problem)
    return done.stdout.strip()


def obtained(repository, work):
    """A folder with medallion's source at the commit."""
    source = work / "source"
    if not (source / ".git").exists():
        run(
            *("git", "clone", "--quiet", "--no-checkout", repository, source),
            problem=f"medallion's source cannot be had from {repository}; is there a network? `--source` takes a clone",
        )
    run(
        *("git", "-C", source, "-c", "advice.detachedHead=false", "checkout", "--quiet", COMMIT),
        problem=f"{repository} has no commit {COMMIT}",
    )
    return source


def tested(python, source, *options):
    """Whether the suite came out as it should."""
    environment = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{HERE}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [python, "-m", "pytest", "-p", "over_http", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["--rootdir", source, "--tb=short", "-q", "--backends", "memory", *options]
    command.append(source / "medallion" / "test" / "test_backends.py")
    return subprocess.run([str(word) for word in command], env=environment, cwd=source).returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("--source", default=REPOSITORY, help="a clone of medallion's repository")
    parser.add_argument("--work", type=Path, default=Path("target/medallion"), help="for its source and Python packages")
    parser.add_argument("--only", choices=("medallion", "taxiway"), help="one of the two runs")
    args = parser.parse_args()
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    try:
        source = obtained(args.source, work)
        python = run(
            *("bash", HERE.parent / "smoke" / "venv.sh", work / "venv", HERE / "requirements.txt"),
            problem="the Python packages that medallion needs cannot be had; is there a network?",
        )
        if args.only != "taxiway" and not tested(python, source):
            raise Failed("its suite does not pass over HTTP against medallion itself")
        if args.only != "medallion" and not tested(python, source, "--taxiway", args.binary.resolve()):
            raise Failed("taxiway: see above")
    except Failed as problem:
        print(f"medallion: failed: {problem}")
        return 1
    print("medallion: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
