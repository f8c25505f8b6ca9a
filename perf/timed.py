#!/usr/bin/env python3
"""Runs a command and prints one JSON line: what it was called, seconds, CPU seconds, peak memory.

python3 perf/timed.py NAME COMMAND [ARGUMENT...]    (the command's own output goes to stderr)
"""

import json
import resource
import subprocess
import sys
import time

name, command = sys.argv[1], sys.argv[2:]
started = time.perf_counter()
code = subprocess.run(command, stdout=sys.stderr).returncode
seconds = time.perf_counter() - started
used = resource.getrusage(resource.RUSAGE_CHILDREN)
result = {
    "name": name,
    "seconds": round(seconds, 3),
    "user_seconds": round(used.ru_utime, 3),
    "system_seconds": round(used.ru_stime, 3),
    "peak_rss_mib": round(used.ru_maxrss / 1024, 1),
    "exit_code": code,
}
print(json.dumps(result))
sys.exit(code)
