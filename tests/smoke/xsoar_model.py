"""What XSOAR's TAXII2 Server makes of its documents, as spec/xsoar-taxii2-server.md has it: a second implementation of
§3 to §6, small and slow, that shares nothing with the first. `xsoar.py` compares the server's answers with it.

Where the original crashes, draws ids at random or leaves an order open, this follows what taxiway promises instead:
definitions have one id a type, labels of indicators are sorted and never empty, edges have both of their ends.
"""

import json
import uuid
from datetime import datetime, timezone

PAWN = uuid.uuid5(uuid.NAMESPACE_URL, "https://www.paloaltonetworks.com")
SCO = uuid.UUID("00abedb4-aa42-466c-9c01-fed23315a9b7")
HASHES = {32: "MD5", 40: "SHA-1", 64: "SHA-256", 128: "SHA-512"}
HASH_FIELDS = {"md5": "MD5", "sha1": "SHA-1", "sha256": "SHA-256", "sha512": "SHA-512"}
LABELS = {1: "benign", 2: "anomalous-activity", 3: "malicious-activity"}
SCHEMA = (
    "https://github.com/demisto/content/blob/4265bd5c71913cd9d9ed47d9c37d0d4d3141c3eb"
    "/Packs/TAXIIServer/doc_files/XSOAR_indicator_schema.json"
)
STIX_TYPES = {
    "IP": "ipv4-addr",
    "CIDR": "ipv4-addr",
    "IPv6": "ipv6-addr",
    "IPv6CIDR": "ipv6-addr",
    "Domain": "domain-name",
    "DomainGlob": "domain-name",
    "URL": "url",
    "Email": "email-addr",
    "Account": "user-account",
    "File": "file",
    "Registry Key": "windows-registry-key",
    "Software": "software",
    "ASN": "autonomous-system",
    "X509 Certificate": "x509-certificate",
    "Attack Pattern": "attack-pattern",
    "Campaign": "campaign",
    "Course of Action": "course-of-action",
    "Infrastructure": "infrastructure",
    "Intrusion Set": "intrusion-set",
    "Malware": "malware",
    "Report": "report",
    "Threat Actor": "threat-actor",
    "Tool": "tool",
    "CVE": "vulnerability",
    "Identity": "identity",
    "Location": "location",
}
OBSERVABLES = set(list(STIX_TYPES.values())[:14])


def dumps(value):
    """The bytes of §2.2, without the line feed at the end."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def date(text):
    """A date as the original writes it: UTC, six digits, cut."""
    head, tail = text[:19], text[19:]
    digits = ""
    if tail.startswith("."):
        digits = "".join(c for c in tail[1:].split("+")[0].split("-")[0] if c.isdigit())
        tail = tail[1 + len(digits) :]
    offset = "+00:00" if tail in ("Z", "") else tail
    whole = datetime.fromisoformat(head + offset).astimezone(timezone.utc)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{digits[:6]:0<6}Z"


def never(text):
    return not text or text.startswith("0001-")


def patterns(stix_type, value):
    """The original's pattern, and what it becomes when its paths and escapes are repaired (§4.7)."""
    escaped = value.replace("'", "\\'")
    path = f"hashes.'{HASHES[len(value)]}'" if stix_type == "file" else "value"
    original = f"[{stix_type}:{path} = '{escaped}']"
    doubled = value.replace("\\", "\\\\").replace("'", "\\'")
    path = {
        "user-account": "account_login",
        "windows-registry-key": "key",
        "x509-certificate": "serial_number",
        "software": "name",
    }.get(stix_type, path)
    repaired = f"[{stix_type}:{path} = '{doubled}']"
    if stix_type == "autonomous-system":
        repaired = f"[autonomous-system:number = {value.removeprefix('AS')}]"
    return original, repaired


class Model:
    """The original, for one licence id and one version."""

    def __init__(self, license_id, version):
        self.unique = uuid.uuid5(PAWN, license_id)
        self.version = version

    def collection_id(self, title):
        return str(uuid.uuid5(self.unique, f"Collection_{title}"))

    def definition_id(self, stix_type):
        return f"extension-definition--{uuid.uuid5(self.unique, f'extension-definition:{stix_type}')}"

    def relationship_id(self, own_id):
        return f"relationship--{uuid.uuid5(self.unique, f'relationship:{own_id}')}"

    def id(self, document, as_indicator=False):
        custom = document.get("CustomFields") or {}
        value, stix_type = document["value"], STIX_TYPES[document["indicator_type"]]
        if custom.get("stixid"):
            return custom["stixid"]
        if as_indicator:
            return f"indicator--{uuid.uuid5(self.unique, f'indicator:{value}')}"
        if stix_type not in OBSERVABLES:
            name = custom.get("mitreid") or value if stix_type == "attack-pattern" else value
            return f"{stix_type}--{uuid.uuid5(self.unique, f'{stix_type}:{name}')}"
        if stix_type == "file" and len(value) in HASHES:
            text = f'{{"hashes":{{"{HASHES[len(value)]}":"{value}"}}}}'
        elif stix_type == "windows-registry-key":
            text = f'{{"key":"{value}"}}'
        elif stix_type == "user-account":
            text = (
                f'{{"account_login":"{value}","account_type":"{custom.get("accounttype")}",'
                f'"user_id":"{custom.get("userid")}"}}'
            )
        else:
            text = f'{{"value":"{value}"}}'
        return f"{stix_type}--{uuid.uuid5(SCO, text)}"

    def labels(self, custom):
        return [tag.lower().replace(" ", "-") for tag in custom.get("tags") or [] if tag]

    def object(self, document, indicator_types=(), fields=None):
        """One object; None where there is none. `fields`: None, "all" or a list of names."""
        stix_type = STIX_TYPES.get(document["indicator_type"])
        value = document["value"]
        if stix_type is None or (stix_type == "file" and len(value) not in HASHES):
            return None
        custom = document.get("CustomFields") or {}
        as_indicator = stix_type in indicator_types
        made = {
            "type": "indicator" if as_indicator else stix_type,
            "id": self.id(document, as_indicator),
            "spec_version": self.version,
            "created": date(document["timestamp"]),
            "modified": date(document["modified"]),
        }
        if as_indicator:
            self.indicator(made, stix_type, document, custom)
        elif stix_type in OBSERVABLES:
            self.observable(made, stix_type, value, custom)
        else:
            self.domain_object(made, stix_type, value, custom)
        if fields is not None:
            made["extensions"] = {self.definition_id(stix_type): self.extension(document, custom, fields)}
        return made

    def indicator(self, made, stix_type, document, custom):
        made["pattern"] = patterns(stix_type, document["value"])[0]
        made["pattern_type"] = "stix"
        made["valid_from"] = made["created"]
        if not never(document.get("expiration")):
            made["valid_until"] = date(document["expiration"])
        if custom.get("description"):
            made["description"] = custom["description"]
        labels = {LABELS.get(document.get("score")), *self.labels(custom)} - {None, ""}
        made["labels"] = sorted(labels)

    def observable(self, made, stix_type, value, custom):
        if stix_type == "file":
            made["hashes"] = {HASHES[len(value)]: value}
            made["hashes"].update({HASH_FIELDS[key]: custom[key] for key in HASH_FIELDS if key in custom})
        elif stix_type == "windows-registry-key":
            made["key"] = value
            rows = [row for row in custom.get("keyvalue") or [] if row]
            made["values"] = [{("data_type" if key == "type" else key): row[key] for key in row} for row in rows]
        elif stix_type == "user-account":
            if custom.get("userid"):
                made["user_id"] = custom["userid"]
        elif stix_type == "software":
            made["name"] = value
        elif stix_type == "autonomous-system":
            made["number"], made["name"] = value, custom.get("name") or ""
        elif stix_type == "x509-certificate":
            made["serial_number"] = value
            for key in ("subject", "issuer"):
                rows = [row for row in custom.get(key) or [] if row.get("data") is not None]
                made[key] = ", ".join(f"{row['title']}={row['data']}" for row in rows)
            made["validity_not_before"] = custom.get("validitynotbefore")
            made["validity_not_after"] = custom.get("validitynotafter")
            for key in [key for key, held in made.items() if held in ("", None, [], {})]:
                del made[key]
        else:
            made["value"] = value

    def domain_object(self, made, stix_type, value, custom):
        made["name"] = value
        made["description"] = custom.get("description") or ""
        if stix_type in ("malware", "report", "threat-actor", "tool"):
            made["labels"] = self.labels(custom) or [stix_type]
        if stix_type == "malware" and self.version == "2.1":
            made["is_family"] = custom.get("ismalwarefamily") or False
        if stix_type == "report":
            if custom.get("published") and self.version == "2.1":
                made["published"] = custom["published"]
            made["object_refs"] = [row["objectstixid"] for row in custom.get("reportobjectreferences") or []]
        if stix_type == "identity" and self.version == "2.0":
            made["identity_class"] = custom.get("identityclass") or "unknown"

    def extension(self, document, custom, fields):
        if fields == "all":
            return {**document, "extension_type": "property_extension"}
        # `value` and `indicator_type` hold what they say, and 0 stays 0: repaired.
        renamed = {"value": "name", "indicator_type": "type"}
        held = {}
        for field in fields:
            found = document.get(field)
            is_empty = found is None or found is False or found in ("", [])
            held[renamed.get(field, field)] = custom.get(field) if is_empty else found
        return {**held, "extension_type": "property_extension"}

    def definition(self, stix_type, xsoar_type):
        """A definition but for its dates."""
        return {
            "type": "extension-definition",
            "id": self.definition_id(stix_type),
            "spec_version": "2.1",
            "name": f"Cortex XSOAR TIM {xsoar_type}",
            "description": "This schema adds TIM data to the object",
            "schema": SCHEMA,
            "version": "1.0",
            "extension_types": ["property-extension"],
            "created_by_ref": f"identity--{PAWN}",
        }

    def edge(self, document, ends, indicator_types=()):
        """`ends`: documents by (type, value); None where one is missing or the edge is revoked."""
        custom = document.get("CustomFields") or {}
        source = ends.get((document["entityAType"], document["entityA"]))
        target = ends.get((document["entityBType"], document["entityB"]))
        if source is None or target is None or custom.get("revoked"):
            return None

        def served_id(end):
            return self.id(end, STIX_TYPES[end["indicator_type"]] in indicator_types)

        made = {
            "type": "relationship",
            "spec_version": self.version,
            "id": self.relationship_id(document["id"]),
            "created": date(document["createdInSystem"]),
            "modified": date(document.get("modified") or document["createdInSystem"]),
            "relationship_type": document["name"],
            "source_ref": served_id(source),
            "target_ref": served_id(target),
        }
        if custom.get("description"):
            made["Description"] = custom["description"]
        return made
