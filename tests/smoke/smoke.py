#!/usr/bin/env python3
"""Walks a running TAXII server as its users do, and judges what comes back.

    python smoke.py http://127.0.0.1:9000 [--user NAME --password TEXT] [--collection TITLE] [--taxii20]

Discovery, API root, collections; every collection page by page with taxii2-client in several page sizes; manifest,
single objects, versions, filters, resuming by date, errors; TAXII 2.0 if asked; every object through stix2-validator
and stix2. Prints one line a check and ends with `smoke: ok` or `smoke: N of M checks failed` (exit code 1).
"""

import argparse
import collections
import re
import sys
import time

import requests
import stix2
import taxii2client.exceptions
from stix2validator import ValidationOptions, validate_parsed_json
from taxii2client import v20, v21

MEDIA = "application/taxii+json;version=2.1"
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
PAGE_SIZES = (1, 7, 1000)
# One object a page takes a while; of larger collections only the first thousand objects are walked so.
ONE_BY_ONE = 1000


class Checks:
    """Counts, prints and remembers what was checked."""

    def __init__(self):
        self.done = 0
        self.failed = []

    def that(self, good, what, detail=""):
        self.done += 1
        if good:
            print(f"  ok    {what}")
        else:
            print(f"  FAIL  {what}{': ' if detail else ''}{detail}")
            self.failed.append(what)
        return good

    def same(self, found, expected, what):
        return self.that(found == expected, what, f"expected {short(expected)}, found {short(found)}")


def short(value):
    text = repr(value)
    return text if len(text) < 200 else f"{text[:200]}..."


def key(entry):
    """What tells one version of one object from all others; observables have no versions."""
    return entry["id"], entry.get("modified", "")


class Wire:
    """Plain requests, where the headers matter or taxii2-client is too polite to send what is wrong."""

    def __init__(self, credentials):
        self.session = requests.Session()
        self.session.auth = credentials

    def get(self, url, accept=MEDIA, **params):
        return self.session.get(url, headers={"Accept": accept}, params=params, timeout=60)


def client_pages(collection, size, most=None, method="get_objects", **filters):
    """The pages that taxii2-client gets."""
    pages, count = [], 0
    for page in v21.as_pages(getattr(collection, method), per_request=size, **filters):
        pages.append(page.get("objects", []))
        count += len(pages[-1])
        if most is not None and count >= most:
            break
    return pages


def flat(pages):
    return [entry for page in pages for entry in page]


def check_walks(checks, collection):
    """The whole collection by the largest page size, and the others against it."""
    largest = max(PAGE_SIZES)
    pages = client_pages(collection, largest)
    objects = flat(pages)
    checks.that(all(len(page) <= largest for page in pages), "no page holds more than was asked for")
    keys = [key(entry) for entry in objects]
    checks.same(len(set(keys)), len(keys), f"{len(keys)} objects in {len(pages)} pages, none twice")
    for size in PAGE_SIZES:
        if size == largest:
            continue
        most = len(keys) if size > 1 else min(len(keys), ONE_BY_ONE)
        walked = client_pages(collection, size, most=None if most == len(keys) else most)
        checks.that(all(len(page) <= size for page in walked), f"pages of {size}: none larger")
        checks.same(
            [key(entry) for entry in flat(walked)][:most],
            keys[:most],
            f"pages of {size}: the same {most} objects in the same order",
        )
    return objects


def check_pages(checks, wire, url, objects):
    """Headers and envelope of every page; resuming by date."""
    dates, params, sizes, next_seen = [], {"limit": 97}, [], set()
    while True:
        answer = wire.get(url, **params)
        body = answer.json()
        first, last = (answer.headers.get(f"X-TAXII-Date-Added-{end}") for end in ("First", "Last"))
        entries = body.get("objects", [])
        sizes.append(len(entries))
        if entries:
            dates.append((first, last))
        elif first is not None or last is not None:
            checks.that(False, "an empty page has no date headers")
        if body.get("more", False) != ("next" in body):
            checks.that(
                False, "`more` and `next` come together", short({name: body.get(name) for name in ("more", "next")})
            )
        if not body.get("more", False):
            break
        if body["next"] in next_seen:
            checks.that(False, "`next` moves on", body["next"])
            break
        next_seen.add(body["next"])
        params = {"limit": 97, "next": body["next"]}
    checks.same(answer.headers.get("Content-Type"), MEDIA, "objects have the TAXII media type")
    checks.same(sum(sizes), len(objects), f"following `next` alone gives all objects ({len(sizes)} pages)")
    flat_dates = [date for pair in dates for date in pair]
    checks.that(
        all(date and STAMP.fullmatch(date) for date in flat_dates),
        "both date headers on every page, six fraction digits",
    )
    rising = all(date and later and date <= later for date, later in zip(flat_dates, flat_dates[1:]))
    apart = all(before[1] and after[0] and before[1] < after[0] for before, after in zip(dates, dates[1:]))
    checks.that(rising and apart, "dates rise within and between pages")
    if not dates:
        return
    rest = wire.get(url, added_after=dates[0][1], limit=10 * len(objects) + 1).json().get("objects", [])
    checks.same(
        [key(entry) for entry in rest],
        [key(entry) for entry in objects[sizes[0] :]],
        "`added_after` the end of page 1 gives the rest",
    )
    after_all = wire.get(url, added_after=dates[-1][1])
    checks.that(
        after_all.status_code == 200 and not after_all.json().get("objects") and not after_all.json().get("more"),
        "`added_after` the last date gives nothing",
        f"{after_all.status_code} {after_all.text[:200]}",
    )
    plain = wire.session.get(
        url, headers={"Accept": MEDIA, "Accept-Encoding": "identity"}, params={"limit": 50}, timeout=60
    )
    # The cursor of a query with relative dates or expiry holds the time it was asked; all else is equal.
    packed = wire.get(url, limit=50).json()
    checks.same(
        {**packed, "next": None}, {**plain.json(), "next": None}, "compressed and plain answers are the same"
    )
    checks.same(wire.get(url.rstrip("/"), limit=1).status_code, 200, "the path without its last slash works")


def check_manifest(checks, collection, objects):
    entries = flat(client_pages(collection, 250, method="get_manifest"))
    checks.same(
        [entry["id"] for entry in entries],
        [entry["id"] for entry in objects],
        "manifest and objects hold the same ids in the same order",
    )
    versions = {(entry["id"], entry.get("version")) for entry in entries}
    dated = [entry for entry in objects if "modified" in entry]
    unknown = [
        key(entry)
        for entry in dated
        if not any((entry["id"], text) in versions for text in spellings(entry["modified"]))
    ]
    checks.same(unknown, [], f"manifest versions are the objects' `modified` ({len(dated)} objects have one)")
    dates = [entry["date_added"] for entry in entries]
    checks.that(all(date < later for date, later in zip(dates, dates[1:])), "manifest dates rise strictly")
    return entries


def spellings(date):
    """A date as it is, and in six fraction digits."""
    head, _, fraction = date.rstrip("Z").partition(".")
    return {date, f"{head}.{fraction[:6]:0<6}Z"}


def one_of_each_type(objects):
    return list({entry["type"]: entry for entry in reversed(objects)}.values())


def check_single_objects(checks, collection, manifest, objects):
    versions = collections.defaultdict(set)
    for entry in manifest:
        versions[entry["id"]].add(entry["version"])
    chosen = {
        entry["id"]: entry
        for entry in [*one_of_each_type(objects), *objects[:1], *objects[len(objects) // 2 :][:1], *objects[-1:]]
    }
    wrong = []
    for object_id, entry in chosen.items():
        answer = collection.get_object(object_id).get("objects", [])
        if entry not in answer or {found["id"] for found in answer} != {object_id}:
            wrong.append((object_id, answer))
        listed = collection.object_versions(object_id).get("versions", [])
        if not versions[object_id] <= set(listed):
            wrong.append((object_id, listed))
    checks.same(wrong, [], f"{len(chosen)} objects one by one, and their versions")


def check_filters(checks, wire, collection, objects):
    by_type = collections.Counter(entry["type"] for entry in objects)
    wrong = {}
    for stix_type, count in by_type.items():
        found = collections.Counter(entry["type"] for entry in flat(client_pages(collection, 1000, type=[stix_type])))
        if found != {stix_type: count}:
            wrong[stix_type] = (dict(found), count)
    checks.same(wrong, {}, f"match[type]: the right number for each of {len(by_type)} types")
    pair = list(by_type)[:2]
    found = flat(client_pages(collection, 1000, type=pair))
    checks.same(len(found), sum(by_type[name] for name in pair), "match[type] with several types")
    ids = sorted({objects[0]["id"], objects[-1]["id"]})
    found = {entry["id"] for entry in flat(client_pages(collection, 1000, id=ids))}
    checks.same(sorted(found), ids, "match[id] with several ids")
    for version in ("last", "first", "all"):
        found = {entry["id"] for entry in flat(client_pages(collection, 1000, version=[version]))}
        checks.same(len(found), len({entry["id"] for entry in objects}), f"match[version]={version}: every object")
    total = len(flat(client_pages(collection, 1000, spec_version=["2.1"])))
    checks.that(0 < total <= len(objects), "match[spec_version]=2.1", str(total))
    nothing = wire.get(collection.objects_url, **{"match[type]": "no-such-type"})
    checks.that(
        nothing.status_code == 200 and not nothing.json().get("objects"),
        "an unknown type matches nothing",
        nothing.text[:200],
    )
    page = wire.get(collection.objects_url, **{"match[type]": pair[0], "limit": 1}).json()
    if page.get("more"):
        following = wire.get(collection.objects_url, next=page["next"], limit=1).json()["objects"]
        checks.same([entry["type"] for entry in following], [pair[0]], "`next` alone keeps the filter")


def check_errors(checks, wire, root_url, collection):
    cases = [
        ("unknown collection", 404, f"{root_url}collections/00000000-0000-4000-8000-000000000000/", {}),
        ("unknown object", 404, f"{collection.objects_url}indicator--00000000-0000-4000-8000-000000000000/", {}),
        ("unknown status", 404, f"{root_url}status/00000000-0000-4000-8000-000000000000/", {}),
        ("a limit that is no number", 400, collection.objects_url, {"limit": "many"}),
        ("a date that is none", 400, collection.objects_url, {"added_after": "yesterday"}),
        ("a `next` that we never gave", 400, collection.objects_url, {"next": "!!"}),
    ]
    for what, status, url, params in cases:
        answer = wire.get(url, **params)
        checks.same(answer.status_code, status, f"{what}: {status}")
        good = answer.headers.get("Content-Type", "").startswith("application/taxii+json") and answer.json().get(
            "title"
        )
        checks.that(good, f"{what}: an error resource", answer.text[:200])
    checks.same(wire.get(collection.objects_url, accept="text/html").status_code, 406, "Accept: text/html is refused")
    for accept in ("*/*", "application/json", "application/taxii+json", "application/taxii+json; version=2.1"):
        checks.same(
            wire.get(collection.objects_url, accept=accept, limit=1).status_code, 200, f"Accept: {accept} is served"
        )


def check_content(checks, objects, version, profile):
    """stix2-validator's errors and stix2's exceptions fail; warnings and objects with custom properties are counted."""
    started = time.perf_counter()
    errors, warnings, globs, custom = {}, collections.Counter(), 0, collections.Counter()
    options = ValidationOptions(version=version)
    for entry in objects:
        result = validate_parsed_json(entry, options)
        for error in result.errors or []:
            # A wildcard domain has no other STIX type than `domain-name`, whose format does not foresee it.
            if entry["type"] == "domain-name" and entry["value"].startswith("*."):
                globs += 1
            else:
                errors.setdefault(f"{entry['type']}: {re.sub(r'[0-9a-f-]{36}', '*', str(error))[:300]}", entry["id"])
        warnings.update(
            f"{entry['type']} {match}" for match in re.findall(r"\{(\d+)\}", " ".join(map(str, result.warnings or [])))
        )
        standard = (
            profile == "standard"
            and not any(name.startswith("x_") for name in entry)
            and not entry["type"].startswith("x-")
        )
        try:
            stix2.parse(entry, allow_custom=not standard, version=version)
            custom.update([] if standard else [entry["type"]])
        except Exception as error:  # stix2 raises a dozen unrelated classes.
            errors.setdefault(f"{entry['type']}: stix2: {str(error)[:300]}", entry["id"])
    for error, object_id in errors.items():
        print(f"        {object_id}: {error}")
    print(f"        warnings: {dict(warnings) or 'none'}; wildcard domains: {globs}")
    print(f"        parsed with custom properties allowed: {dict(custom) or 'none'}")
    checks.that(
        not errors,
        f"{len(objects)} objects are valid STIX {version} ({time.perf_counter() - started:.1f} s)",
        f"{len(errors)} kinds of error",
    )


def check_taxii20(checks, base, credentials, args):
    try:
        server = v20.Server(f"{base}/taxii/", **credentials)
        roots = server.api_roots
    except (requests.HTTPError, taxii2client.exceptions.TAXIIServiceException) as error:
        checks.that(False, "TAXII 2.0 discovery", str(error))
        return
    for collection in roots[0].collections:
        if args.collection and collection.title != args.collection:
            continue
        print(f"TAXII 2.0, collection {collection.title}")
        walks = {}
        for size in (50, 1000):
            try:
                walks[size] = flat(
                    [page.get("objects", []) for page in v20.as_pages(collection.get_objects, per_request=size)]
                )
            except requests.HTTPError as error:
                checks.that(False, f"pages of {size}", str(error))
                return
        ids = {size: [entry["id"] for entry in objects] for size, objects in walks.items()}
        checks.same(ids[50], ids[1000], f"pages of 50 and of 1000: the same {len(ids[1000])} objects")
        checks.same(len(set(ids[50])), len(ids[50]), "none twice")
        check_content(checks, walks[1000], "2.0", args.profile)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url", help="where the server listens, with or without /taxii2/")
    parser.add_argument("--user")
    parser.add_argument("--password")
    parser.add_argument("--collection", help="look at this one only (title)")
    parser.add_argument("--profile", choices=["standard", "xsoar"], default="standard", help="what the server renders")
    parser.add_argument("--taxii20", action="store_true", help="walk it with TAXII 2.0 as well")
    args = parser.parse_args()
    base = args.url.rstrip("/").removesuffix("/taxii2")
    credentials = {"user": args.user, "password": args.password} if args.user else {}
    checks = Checks()
    wire = Wire((args.user, args.password) if args.user else None)

    print("discovery")
    server = v21.Server(f"{base}/taxii2/", **credentials)
    checks.that(server.title, "discovery has a title")
    checks.that(server.api_roots, "discovery names API roots")
    checks.that(
        server.default and server.default.url in [root.url for root in server.api_roots],
        "the default root is one of them",
    )
    if args.user:
        refused = requests.get(
            f"{base}/taxii2/", headers={"Accept": MEDIA}, auth=(args.user, args.password + "x"), timeout=60
        )
        checks.that(
            refused.status_code == 401 and refused.headers.get("WWW-Authenticate"),
            "a wrong password is refused",
            str(refused.status_code),
        )
    walked = 0
    for root in server.api_roots:
        checks.that(root.title and MEDIA in root.versions and root.max_content_length > 0, f"API root {root.url}")
        titles = [collection.title for collection in root.collections]
        checks.that(
            titles and len(set(titles)) == len(titles), f"{len(titles)} collections, titles differ", str(titles)
        )
        for collection in root.collections:
            if not collection.can_read or args.collection not in (None, collection.title):
                continue
            print(f"collection {collection.title}")
            url = collection.objects_url
            objects = check_walks(checks, collection)
            if not objects:
                print("        empty")
                continue
            walked += 1
            check_pages(checks, wire, url, objects)
            manifest = check_manifest(checks, collection, objects)
            check_single_objects(checks, collection, manifest, objects)
            check_filters(checks, wire, collection, objects)
            check_errors(checks, wire, root.url, collection)
            check_content(checks, objects, "2.1", args.profile)
    checks.that(walked, "at least one collection has objects")
    if args.taxii20:
        check_taxii20(checks, base, credentials, args)

    if checks.failed:
        print(f"smoke: {len(checks.failed)} of {checks.done} checks failed")
        return 1
    print(f"smoke: ok, {checks.done} checks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
