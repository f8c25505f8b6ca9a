#!/usr/bin/env python3
"""Writes the samples beside it: sample.ndjson, sample-bundle.json, sample.csv and list.txt.

Same output on every run and every Python from 3.9 on: no clock, no random source. Addresses, names and autonomous
systems come from the ranges that RFC 5737, 3849, 2606, 6761 and 5398 set aside for documentation.
"""

import csv
import hashlib
import json
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent
START = datetime(2025, 1, 6, 8, 0, tzinfo=timezone.utc)
SCO_NAMESPACE = uuid.UUID("00abedb4-aa42-466c-9c01-fed23315a9b7")

FEEDS = [
    ("Harbour Feed", "B - Usually reliable"),
    ("Lantern Blocklist", "C - Fairly reliable"),
    ("Northlight Intel", "A - Completely reliable"),
    ("Phish Ledger", "C - Fairly reliable"),
    ("Honeypot Grid", "D - Not usually reliable"),
]
TLP = ["GREEN", "AMBER", "WHITE", "CLEAR", "RED"]
TAGS = [
    ["phishing"],
    ["malware", "c2"],
    ["scanner"],
    [],
    ["botnet", "c2"],
    ["ransomware", "malware"],
    ["approved_black"],
    ["pending_review", "scanner"],
    ["credential theft", "phishing"],
]
PHASES = ["Delivery", "Command & Control", "Exploitation", "Reconnaissance"]
SCORES = [3, 3, 2, 0, 3, 1, 2]
WORDS = ["harbour", "maple", "quartz", "ember", "willow", "tundra", "saffron", "pebble", "lagoon", "falcon", "cinder"]
MORE_WORDS = ["mail", "update", "portal", "invoice", "cdn", "login", "shop", "cloud", "account"]
ZONES = ["example.com", "example.net", "example.org", "test", "example"]


def stamp(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def sco_id(stix_type, **properties):
    """The deterministic id of STIX 2.1 §2.9."""
    return f"{stix_type}--{uuid.uuid5(SCO_NAMESPACE, json.dumps(properties, separators=(',', ':')))}"


def fixed_v4(name):
    return str(uuid.UUID(bytes=hashlib.sha256(name.encode()).digest()[:16], version=4))


def digests(name):
    data = name.encode()
    return {algorithm: hashlib.new(algorithm, data).hexdigest() for algorithm in ("md5", "sha1", "sha256", "sha512")}


def domain(number):
    name = f"{WORDS[number % 11]}-{MORE_WORDS[number // 11 % 9]}{number // 99 or ''}"
    return f"{name}.{ZONES[number % 5]}"


def addresses():
    for number in range(280):
        net = ["192.0.2", "198.51.100", "203.0.113"][number % 3]
        yield (
            f"{net}.{1 + number // 3 * 2}",
            {"geocountry": ["DE", "NL", "US"][number % 3], "asn": f"AS{64496 + number % 16}"},
        )


def networks():
    for bits in (24, 25, 26, 27):
        for part in range(min(2 ** (bits - 24), 3)):
            for net in ("192.0.2", "198.51.100", "203.0.113"):
                yield f"{net}.{part << (32 - bits)}/{bits}", {"service": "hosting"}


def files():
    for number in range(160):
        found = digests(f"taxiway sample file {number}")
        own = ["sha256", "md5", "sha1", "sha256", "sha512"][number % 5]
        fields = {"size": 1024 + 37 * number, "filetype": ["PE32 executable", "PDF", "Zip archive"][number % 3]}
        if number % 4 == 0:
            fields.update(found)
            fields["ssdeep"] = f"24:{hashlib.md5(str(number).encode()).hexdigest()}:sample"
        if number % 6 == 0:
            fields["associatedfilenames"] = [f"invoice {number}.exe", f"café-{number}.pdf"]
        yield found[own], fields


def urls():
    paths = ["login", "gate.php?id={}", "download/update-{}.exe", "files/{}/invoice.zip", "r%C3%A9sum%C3%A9/{}?a=1&b=2"]
    for number in range(160):
        path = paths[number % 5].format(number)
        yield f"{'http' if number % 3 else 'https'}://{domain(number)}/{path}", {"category": "phishing"}


def report_fields(number):
    seen = [f"192.0.2.{1 + 2 * (number + step)}" for step in range(3)]
    return {
        "published": stamp(START + timedelta(days=7 * number)),
        "reportobjectreferences": [{"objectstixid": sco_id("ipv4-addr", value=address)} for address in seen],
        "description": f"Weekly summary number {number + 1}.",
    }


def certificate_fields(number):
    return {
        "subject": [{"title": "CN", "data": domain(number)}, {"title": "O", "data": "Sample, Inc."}],
        "issuer": [{"title": "CN", "data": f"Sample CA {number}"}, {"title": "OU", "data": None}],
        "validitynotbefore": stamp(START - timedelta(days=30)),
        "validitynotafter": stamp(START + timedelta(days=335 + number)),
    }


def registry_fields(number):
    rows = [{"name": "Updater", "type": "REG_SZ", "data": f"C:\\ProgramData\\sample{number}.exe"}]
    if number % 2:
        rows.append({"name": "Start", "type": "REG_DWORD", "data": str(number)})
    return {"keyvalue": rows}


ATTACK_PATTERNS = {
    "T1059": "Command and Scripting Interpreter",
    "T1059.001": "PowerShell",
    "T1071.004": "DNS",
    "T1105": "Ingress Tool Transfer",
    "T1110": "Brute Force",
    "T1190": "Exploit Public-Facing Application",
    "T1486": "Data Encrypted for Impact",
    "T1547.001": "Registry Run Keys / Startup Folder",
    "T1566.001": "Spearphishing Attachment",
    "T1566.002": "Spearphishing Link",
}
CVES = [
    "2017-0144",
    "2019-0708",
    "2019-19781",
    "2020-1472",
    "2021-26855",
    "2021-34527",
    "2021-44228",
    "2022-30190",
    "2023-34362",
    "2024-3094",
]
RUN_KEYS = ["Run", "RunOnce", "RunServices", "Policies\\Explorer\\Run", "App Paths\\sample.exe"]


def named(names, **fields):
    return [(name, dict(fields)) for name in names]


def plain(values):
    return [(value, {}) for value in values]


def catalogue():
    """Every XSOAR type with its values and the custom fields that only it has."""
    return {
        "IP": addresses(),
        "CIDR": networks(),
        "IPv6": [(f"2001:db8:{1 + n:x}::{1 + 7 * n:x}", {"geocountry": "FR"}) for n in range(30)],
        "IPv6CIDR": plain(f"2001:db8:{0xA0 + n:x}::/48" for n in range(5)),
        "Domain": [(domain(n), {"registrarname": "Sample Registrar, Inc."} if n % 2 else {}) for n in range(200)],
        "DomainGlob": plain(f"*.{word}.example.com" for word in WORDS[:6]),
        "URL": urls(),
        "Email": plain(
            f"{WORDS[n % 11]}.{MORE_WORDS[n % 9]}@{['example.com', 'example.org'][n % 2]}" for n in range(40)
        ),
        "Account": [
            (
                f"{word}.sample",
                {"accounttype": ["windows-domain", "unix", "windows-local"][n % 3], "userid": str(1001 + n)},
            )
            for n, word in enumerate(WORDS)
        ],
        "File": files(),
        "Registry Key": [
            (f"{hive}\\SOFTWARE\\Microsoft\\Windows\\CurrentVersion\\{key}", registry_fields(n))
            for n, (hive, key) in enumerate(
                (hive, key) for hive in ("HKEY_LOCAL_MACHINE", "HKEY_CURRENT_USER") for key in RUN_KEYS
            )
        ],
        "Software": named(["Sample Remote Desk", "Sample Archive Tool", "OpenSSL", "Sample VPN Client"]),
        "ASN": [(str(64496 + n), {"name": f"Documentation Network {n + 1}"}) for n in range(8)],
        "X509 Certificate": [
            (hashlib.sha1(f"certificate {n}".encode()).hexdigest()[:20], certificate_fields(n)) for n in range(6)
        ],
        "Attack Pattern": [(name, {"mitreid": mitre}) for mitre, name in ATTACK_PATTERNS.items()],
        "Campaign": named(["Operation Paper Lantern", "Operation Slow Tide", "Operation Glass Harbour"]),
        "Course of Action": named(["Block legacy macros", "Require hardware keys", "Patch mail gateways"]),
        "Infrastructure": named(["Paper Lantern relay", "Slow Tide staging", "Glass Harbour proxies"]),
        "Intrusion Set": named(["Lantern Cluster", "Tide Cluster", "Harbour Cluster"]),
        "Malware": [
            (name, {"ismalwarefamily": n % 2 == 0, "aliases": [f"{name}32"]})
            for n, name in enumerate(["EmberLoad", "QuartzRat", "PebbleStealer", "CinderLock", "TundraBot", "Willow"])
        ],
        "Report": [(f"Sample report {n + 1}", report_fields(n)) for n in range(6)],
        "Threat Actor": named(["Lantern Keepers", "Tidewater", "The Cartographers"], aliases=["Sample Group"]),
        "Tool": named(["Sample Port Scanner", "Sample Packer", "Sample Tunnel"]),
        "CVE": plain(f"CVE-{number}" for number in CVES),
        "Identity": [
            (name, {"identityclass": kind})
            for name, kind in (
                ("Sample CERT", "organization"),
                ("Sample Bank", "organization"),
                ("J. Doe", "individual"),
            )
        ],
        "Location": [
            (name, {"countrycode": code, "region": region})
            for name, code, region in (
                ("Germany", "DE", "western-europe"),
                ("Japan", "JP", "eastern-asia"),
                ("Brazil", "BR", "south-america"),
            )
        ],
        # A type without a STIX form: kept, queried, never served.
        "Mutex": plain(f"Global\\sample-mutex-{n}" for n in range(3)),
    }


def document(number, xsoar_type, value, fields):
    created = START + timedelta(hours=6 * number, microseconds=1000 * number + 7)
    modified = created + timedelta(hours=number % 5 * 9, seconds=number % 60)
    brand, reliability = FEEDS[number % 5]
    brands = [brand] if number % 4 else [brand, FEEDS[(number + 2) % 5][0]]
    custom = {"tags": TAGS[number % 9], "trafficlightprotocol": TLP[number % 5], "confidence": 30 + number % 8 * 10}
    if number % 3:
        custom["description"] = f'Sample {xsoar_type} number {number}, seen by "{brand}".'
    if number % 7 == 0:
        custom["killchainphases"] = [PHASES[number // 7 % 4]]
    if value in ("192.0.2.101", "Willow"):
        custom["stixid"] = f"{'malware' if value == 'Willow' else 'ipv4-addr'}--{fixed_v4(value)}"
    custom.update(fields)
    result = {
        "id": str(1000 + number),
        "value": value,
        "indicator_type": xsoar_type,
        "timestamp": stamp(created),
        "modified": stamp(modified),
        "score": SCORES[number % 7],
        "firstSeen": stamp(created - timedelta(days=number % 20)),
        "lastSeen": stamp(modified),
        "source": "DBot",
        "sourceBrands": brands,
        "sourceInstances": [f"{name}_instance_1" for name in brands],
        "aggregatedReliability": reliability,
        "investigationIDs": [str(500 + number % 9)] if number % 11 == 0 else [],
        "isDetectable": number % 2 == 0,
        "CustomFields": custom,
        "version": 1 + number % 3,
    }
    if number % 5 in (1, 2):
        result["expiration"] = "2099-12-31T00:00:00Z"
        result["expirationStatus"] = "active"
    elif number % 5 == 3:
        result["expiration"] = stamp(modified + timedelta(days=30))
        result["expirationStatus"] = "expired"
    return result


def documents():
    """One value of each type in turn, so that every part of the sample holds many types."""
    sources = {xsoar_type: iter(values) for xsoar_type, values in catalogue().items()}
    number = 0
    while sources:
        for xsoar_type in list(sources):
            entry = next(sources[xsoar_type], None)
            if entry is None:
                del sources[xsoar_type]
                continue
            yield document(number, xsoar_type, *entry)
            number += 1


def bundle():
    created = "2025-03-01T09:00:00.000Z"

    def sdo(stix_type, key, /, **properties):
        return {
            "type": stix_type,
            "spec_version": "2.1",
            "id": f"{stix_type}--{fixed_v4(key)}",
            "created": created,
            "modified": created,
            **properties,
        }

    green = "marking-definition--34098fce-860f-48ae-8e50-ebd3cc5e41da"
    identity = sdo("identity", "Sample CERT", name="Sample CERT", identity_class="organization", sectors=["technology"])
    origin = {"created_by_ref": identity["id"], "object_marking_refs": [green]}
    malware = sdo("malware", "EmberLoad", name="EmberLoad", is_family=True, malware_types=["downloader"], **origin)
    actor = sdo("threat-actor", "Tidewater", name="Tidewater", threat_actor_types=["crime-syndicate"], **origin)
    technique = sdo(
        "attack-pattern",
        "T1105",
        name="Ingress Tool Transfer",
        external_references=[{"source_name": "mitre-attack", "external_id": "T1105"}],
        kill_chain_phases=[{"kill_chain_name": "mitre-attack", "phase_name": "command-and-control"}],
        **origin,
    )
    indicator = sdo(
        "indicator",
        "EmberLoad server",
        name="EmberLoad server",
        description="Download server of EmberLoad.",
        indicator_types=["malicious-activity"],
        pattern="[ipv4-addr:value = '203.0.113.253']",
        pattern_type="stix",
        pattern_version="2.1",
        valid_from=created,
        confidence=85,
        labels=["c2"],
        **origin,
    )
    address = {
        "type": "ipv4-addr",
        "spec_version": "2.1",
        "id": sco_id("ipv4-addr", value="203.0.113.253"),
        "value": "203.0.113.253",
    }
    host = {
        "type": "domain-name",
        "spec_version": "2.1",
        "id": sco_id("domain-name", value="ember-update.example.com"),
        "value": "ember-update.example.com",
    }

    def edge(source, name, target):
        return sdo(
            "relationship",
            f"{source['id']} {name} {target['id']}",
            relationship_type=name,
            source_ref=source["id"],
            target_ref=target["id"],
            **origin,
        )

    edges = [
        edge(indicator, "indicates", malware),
        edge(malware, "communicates-with", address),
        edge(actor, "uses", malware),
    ]
    objects = [identity, malware, actor, technique, indicator, address, host, *edges]
    return {"type": "bundle", "id": f"bundle--{fixed_v4('sample bundle')}", "objects": objects}


def main():
    with open(HERE / "sample.ndjson", "w", encoding="utf-8", newline="\n") as out:
        for entry in documents():
            out.write(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n")

    with open(HERE / "sample-bundle.json", "w", encoding="utf-8", newline="\n") as out:
        json.dump(bundle(), out, indent=2)
        out.write("\n")

    with open(HERE / "sample.csv", "w", encoding="utf-8", newline="") as out:
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(["type", "value", "score", "first_seen", "last_seen", "tags", "tlp", "confidence", "description"])
        rows.writerow(
            [
                "IP",
                "192.0.2.250",
                3,
                "2025-02-01T00:00:00Z",
                "2025-02-20T12:30:00Z",
                "c2,malware",
                "amber",
                80,
                "Relay of a botnet",
            ]
        )
        rows.writerow(
            [
                "Domain",
                "csv-sample.example.net",
                2,
                "2025-02-02T00:00:00Z",
                "",
                "phishing",
                "green",
                60,
                'Says "hello, world"',
            ]
        )
        rows.writerow(
            ["URL", "https://csv-sample.example.net/a,b?c=d", 3, "", "2025-02-21T00:00:00Z", "", "green", 70, ""]
        )
        rows.writerow(["File", digests("csv sample")["sha256"], 3, "", "", "ransomware", "red", 95, "Two\nlines"])
        rows.writerow(["Email", "csv.sample@example.org", 1, "", "", "", "clear", "", ""])

    with open(HERE / "list.txt", "w", encoding="utf-8", newline="\n") as out:
        out.write("# One value a line; blank lines and lines that begin with # are passed over.\n")
        values = [
            "198.51.100.200",
            "198.51.100.128/26",
            "2001:db8:beef::1",
            "2001:db8:beef::/48",
            "list-sample.example.com",
        ]
        values += ["*.list-sample.example.com", "https://list-sample.example.com/path?x=1", "list.sample@example.org"]
        values += ["CVE-2021-44228", "AS64500", *digests("list sample").values()]
        out.write("\n".join(values) + "\n")


if __name__ == "__main__":
    main()
