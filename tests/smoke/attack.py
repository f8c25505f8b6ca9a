#!/usr/bin/env python3
"""Compares a STIX bundle with what a TAXII server gives back for it, object by object and key by key.

    git clone --depth 1 https://github.com/mitre-attack/attack-stix-data
    taxiway import attack-stix-data/ics-attack/ics-attack.json --store store
    python tests/smoke/attack.py attack-stix-data/ics-attack/ics-attack.json http://127.0.0.1:9000 [--collection TITLE]

The server may hold more than the bundle. An edge whose ends are not in the bundle is never served, so it is counted
apart. Ends with `attack: ok` or `attack: failed` (exit code 1).
"""

import argparse
import json
import sys

from taxii2client import v21


def key(entry):
    return entry["id"], entry.get("modified", entry.get("created", ""))


def differences(path, original, returned):
    """Every place where two JSON values are not the same, as text."""
    if isinstance(original, dict) and isinstance(returned, dict):
        for name in sorted(original.keys() | returned.keys()):
            here = f"{path}.{name}" if path else name
            if name not in returned:
                yield f"`{here}` is lost"
            elif name not in original:
                yield f"`{here}` is new: {json.dumps(returned[name])[:80]}"
            else:
                yield from differences(here, original[name], returned[name])
    elif isinstance(original, list) and isinstance(returned, list) and len(original) == len(returned):
        for place, pair in enumerate(zip(original, returned)):
            yield from differences(f"{path}[{place}]", *pair)
    elif type(original) is not type(returned) or original != returned:
        yield f"`{path}` was {json.dumps(original)[:80]}, is {json.dumps(returned)[:80]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("url", help="where the server listens, with or without /taxii2/")
    parser.add_argument("--collection", help="title; without it every readable collection is read")
    parser.add_argument("--user")
    parser.add_argument("--password")
    args = parser.parse_args()
    with open(args.bundle, encoding="utf-8") as file:
        originals = {key(entry): entry for entry in json.load(file)["objects"]}

    credentials = {"user": args.user, "password": args.password} if args.user else {}
    server = v21.Server(f"{args.url.rstrip('/').removesuffix('/taxii2')}/taxii2/", **credentials)
    returned = {}
    for collection in server.api_roots[0].collections:
        if collection.can_read and args.collection in (None, collection.title):
            for page in v21.as_pages(collection.get_objects, per_request=1000, version=["all"]):
                returned.update((key(entry), entry) for entry in page.get("objects", []))

    ids = {object_id for object_id, _ in originals}
    endless = [
        name
        for name, entry in originals.items()
        if entry["type"] == "relationship" and not {entry["source_ref"], entry["target_ref"]} <= ids
    ]
    missing = [name for name in originals if name not in returned and name not in endless]
    changed = {
        name: list(differences("", entry, returned[name])) for name, entry in originals.items() if name in returned
    }
    changed = {name: found for name, found in changed.items() if found}
    for object_id, version in missing[:20]:
        print(f"missing: {object_id} {version}")
    for (object_id, _), found in list(changed.items())[:20]:
        print(f"changed: {object_id}: {'; '.join(found[:5])}")
    print(
        f"{len(originals)} objects in the bundle, {len(returned)} from the server: "
        f"{len(missing)} missing, {len(changed)} changed, {len(endless)} edges without both ends"
    )
    failed = missing or changed or not originals
    print("attack: failed" if failed else "attack: ok")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
