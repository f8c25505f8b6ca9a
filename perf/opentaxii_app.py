"""OpenTAXII as gunicorn runs it, with what its version 0.9.3 needs to work at all.

Wherever an answer holds an id of its own (collections, the status of a post), 0.9.3 answers 500, since `json` knows no UUIDs: issue 243
of eclecticiq/OpenTAXII, mended after that version. Here they are written as texts.
"""

import functools
import json
import types

from opentaxii.taxii2 import http

http.json = types.SimpleNamespace(dumps=functools.partial(json.dumps, default=str))

from opentaxii.http import app, logconfig_dict  # noqa: E402, F401: gunicorn looks for them here
