#!/usr/bin/env python3
"""Who may do what, asked by real clients: taxii2-client with a password, a token and a client certificate, over TLS.

    python tests/smoke/rights.py target/release/taxiway

Makes certificate authorities, users, groups and tokens, starts a server, and holds what each client gets against the
access table of TAXII: which API roots and collections are listed and with which rights, and the answers to reading,
posting and deleting in every collection. Then what only TLS knows: certificates of strangers, expired ones, ones of
nobody, old versions, and a server that wants a certificate of everyone; and what changes while the server runs: groups
given and taken, tokens removed, users gone. Ends with `rights: ok` or `rights: failed: ...` (exit code 1).
"""

import argparse
import datetime
import ipaddress
import json
import os
import re
import ssl
import sys
import tempfile
import time
import uuid
from pathlib import Path

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from requests.auth import AuthBase, HTTPBasicAuth
from server import Failed, run, serving
from taxii2client import v20, v21
from taxii2client.common import TokenAuth

MEDIA = "application/taxii+json;version=2.1"
PASSWORD = "ann's word"
# What the table of the specification says for the four combinations of rights, and for what one may not know of.
#                  read  write  listed  GET  POST DELETE
COLLECTIONS = {
    "Both": (True, True, True, 200, 202, 200),
    "Read only": (True, False, True, 200, 403, 403),
    "Write only": (False, True, True, 403, 202, 403),
    "Neither": (False, False, False, 404, 404, 404),
}
IDS = {title: str(uuid.uuid5(uuid.NAMESPACE_URL, title)).replace("-5", "-4", 1) for title in COLLECTIONS}
CONFIG = """
[store]
location = "{folder}/store"
[auth]
users = "{folder}/users.json"
anonymous = false
[tls]
cert = "{folder}/server.crt"
key = "{folder}/server.key"
client_ca = "{folder}/partners.crt"
client_auth = "{client_auth}"
[taxii]
api_root = "shared"
[[api_root]]
path = "secret"
title = "Secret"
read = ["boss"]
"""


def config(folder, client_auth="optional"):
    text = CONFIG.format(folder=folder, client_auth=client_auth)
    for title, (read, write, *_) in COLLECTIONS.items():
        may = {True: json.dumps(["@partners"]), False: json.dumps(["boss"])}
        text += f'[[collection]]\ninbox = true\ntitle = "{title}"\nid = "{IDS[title]}"\nread = {may[read]}\nwrite = {may[write]}\n'
    text += '[[collection]]\ninbox = true\ntitle = "Of the boss"\napi_roots = ["secret"]\nread = ["boss"]\nwrite = ["boss"]\n'
    return text


class Authority:
    """A certificate authority and what it signs, as PEM files."""

    def __init__(self, folder, name):
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        self.certificate = self.builder(self.name, self.key.public_key()).add_extension(constraints, True).sign(self.key, hashes.SHA256())
        (folder / f"{name}.crt").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def builder(self, subject, key, days=(-1, 30)):
        now = datetime.datetime.now(datetime.UTC)
        first, last = (now + datetime.timedelta(days=day) for day in days)
        built = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key)
        return built.serial_number(x509.random_serial_number()).not_valid_before(first).not_valid_after(last)

    def sign(self, file, name, usage, alternatives, days=(-1, 30)):
        """Writes FILE.crt and FILE.key; gives both paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        built = self.builder(subject, key.public_key(), days)
        built = built.add_extension(x509.SubjectAlternativeName(alternatives), False)
        built = built.add_extension(x509.ExtendedKeyUsage([usage]), False)
        paths = self.folder / f"{file}.crt", self.folder / f"{file}.key"
        paths[0].write_bytes(built.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
        return tuple(map(str, paths))


class Header(AuthBase):
    """A token in a header, as `requests` lets clients do it."""

    def __init__(self, token, name="Authorization", scheme="Bearer "):
        self.name, self.value = name, scheme + token

    def __call__(self, request):
        request.headers[self.name] = self.value
        return request


class Checks:
    def __init__(self):
        self.done, self.failed = 0, []

    def same(self, found, expected, what):
        self.done += 1
        if found == expected:
            print(f"  ok    {what}")
        else:
            print(f"  FAIL  {what}: expected {expected}, found {found}")
            self.failed.append(what)


class Setup:
    """Users, tokens and certificates."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        authority, partners, strangers = (Authority(folder, name) for name in ("authority", "partners", "strangers"))
        local = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        authority.sign("server", "localhost", ExtendedKeyUsageOID.SERVER_AUTH, local)
        client = ExtendedKeyUsageOID.CLIENT_AUTH
        self.certificates = {
            "partner": partners.sign("partner", "partner.example", client, [x509.DNSName("partner.example")]),
            "unknown": partners.sign("unknown", "unknown.example", client, [x509.DNSName("unknown.example")]),
            "expired": partners.sign("expired", "partner.example", client, [x509.DNSName("partner.example")], (-9, -2)),
            "forged": strangers.sign("forged", "partner.example", client, [x509.DNSName("partner.example")]),
        }
        (folder / "taxiway.toml").write_text(f'listen = "127.0.0.1:0"\n{config(folder)}')
        self.command("user", "add", "ann", "--password-stdin", "--group", "partners", input=f"{PASSWORD}\n")
        self.command("user", "add", "boss", "--password-stdin", input="boss's word\n")
        self.command("user", "add", "rita", "--password-stdin", input="rita's word\n")
        self.command("user", "add", "bot", "--no-password", "--group", "partners")
        self.command("user", "add", "peer", "--no-password", "--group", "partners", "--certificate", "cn:partner.example")
        self.token = self.new_token("bot", "pull")

    def command(self, *words, **options):
        done = run(self.binary, *words, "--config", self.folder / "taxiway.toml", **options)
        if done.returncode != 0:
            raise Failed(f"taxiway {' '.join(map(str, words))}: {done.stdout}{done.stderr}")
        return done.stdout

    def new_token(self, user, label, expires="1d"):
        text = self.command("token", "add", user, "--label", label, "--expires", expires)
        found = re.search(r"txw_[A-Za-z0-9]+_[A-Za-z0-9_-]+", text)
        if not found:
            raise Failed(f"`taxiway token add` printed no token: {text}")
        return found[0]

    def proofs(self):
        """How a member of @partners can say who they are, as arguments of taxii2-client."""
        return {
            "password": {"user": "ann", "password": PASSWORD},
            "token, as taxii2-client sends it": {"auth": TokenAuth(self.token)},
            "token as Bearer": {"auth": Header(self.token)},
            "token as X-Api-Key": {"auth": Header(self.token, "X-Api-Key", "")},
            "token as password": {"user": "bot", "password": self.token},
            "certificate": {"cert": self.certificates["partner"]},
        }


def stix(draw):
    return {
        "type": "indicator",
        "spec_version": "2.1",
        "id": f"indicator--{uuid.uuid5(uuid.NAMESPACE_URL, draw)}".replace("-5", "-4", 1),
        "created": "2026-01-01T00:00:00.000Z",
        "modified": "2026-01-01T00:00:00.000Z",
        "pattern": "[domain-name:value = 'x.example']",
        "pattern_type": "stix",
        "valid_from": "2026-01-01T00:00:00Z",
    }


def plain(proof, ca):
    """A session of requests that says the same as taxii2-client does with these arguments."""
    session = requests.Session()
    session.verify = ca
    session.cert = proof.get("cert")
    session.auth = proof.get("auth") or (HTTPBasicAuth(proof["user"], proof["password"]) if "user" in proof else None)
    # Each request by itself: what becomes of a connection after a refusal is checked apart.
    session.headers.update({"Accept": MEDIA, "Content-Type": MEDIA, "Connection": "close"})
    # Or requests would put credentials of a netrc file in.
    session.trust_env = False
    return session


def of_partner(checks, url, ca, name, proof):
    print(name)
    server = v21.Server(f"{url}/taxii2/", verify=ca, **proof)
    checks.same([root.url.split("/")[-2] for root in server.api_roots], ["shared"], "discovery names what one may know of")
    listed = {entry.title: (entry.can_read, entry.can_write) for entry in server.api_roots[0].collections}
    expected = {title: row[:2] for title, row in COLLECTIONS.items() if row[2]}
    checks.same(listed, expected, "the collections and their rights")
    session = plain(proof, ca)
    for title, (_, _, _, read, write, delete) in COLLECTIONS.items():
        base = f"{url}/shared/collections/{IDS[title]}/"
        thing = stix(f"{name} {title}")
        posted = session.post(f"{base}objects/", json={"objects": [thing]}, timeout=60).status_code
        found = [session.get(base + path, timeout=60).status_code for path in ("objects/", "manifest/")]
        if read == 200 and write == 202:
            found += [session.get(f"{base}objects/{thing['id']}/{path}", timeout=60).status_code for path in ("", "versions/")]
        deleted = session.delete(f"{base}objects/{thing['id']}/", timeout=60).status_code
        checks.same((set(found), posted, deleted), ({read}, write, delete), f"{title}: read, post, delete")
        about = session.get(base, timeout=60)
        checks.same(about.status_code, 200 if title in expected else 404, f"{title}: the collection itself")
    both = next(entry for entry in server.api_roots[0].collections if entry.title == "Both")
    thing = stix(f"{name} by the client")
    status = both.add_objects({"objects": [thing]}, poll_interval=0.1)
    checks.same((status.status, status.success_count), ("complete", 1), "add_objects and its status")
    checks.same(both.get_object(thing["id"])["objects"], [thing], "what was added comes back")
    both.delete_object(thing["id"])
    checks.same(session.get(f"{url}/shared/collections/{IDS['Both']}/objects/{thing['id']}/", timeout=60).status_code, 404, "delete_object")
    checks.same(session.get(f"{url}/secret/", timeout=60).status_code, 404, "the other API root is not there for them")
    older = v20.Server(f"{url}/taxii/", verify=ca, **proof)
    checks.same({entry.title for entry in older.api_roots[0].collections}, set(expected), "the same over TAXII 2.0")


def status_of(url, session, path="/shared/collections/"):
    try:
        return session.get(f"{url}{path}", timeout=60).status_code
    except requests.exceptions.RequestException as problem:
        return type(problem).__name__


def of_others(checks, url, ca, setup):
    print("others")
    nobody = plain({}, ca)
    for path in ("/taxii2/", "/shared/", "/secret/", "/nothing/", f"/shared/collections/{IDS['Both']}/objects/"):
        answer = nobody.get(f"{url}{path}", timeout=60)
        checks.same((answer.status_code, "WWW-Authenticate" in answer.headers), (401, True), f"nobody at {path}")
    rita = plain({"user": "rita", "password": "rita's word"}, ca)
    for title in COLLECTIONS:
        checks.same(status_of(url, rita, f"/shared/collections/{IDS[title]}/objects/"), 404, f"a user without rights at {title}")
    boss = v21.Server(f"{url}/taxii2/", user="boss", password="boss's word", verify=ca)
    checks.same({root.url.split("/")[-2] for root in boss.api_roots}, {"shared", "secret"}, "the boss knows both API roots")
    wrong = {
        "a wrong password": {"user": "ann", "password": "x"},
        "a user who is none": {"user": "zoe", "password": "x"},
        "a password for one who has none": {"user": "bot", "password": ""},
        "a token of another user as password": {"user": "ann", "password": setup.token},
        "a token changed in one place": {"auth": Header(setup.token[:-1] + ("A" if setup.token[-1] != "A" else "B"))},
        "a certificate that is nobody's": {"cert": setup.certificates["unknown"]},
    }
    for what, proof in wrong.items():
        checks.same(status_of(url, plain(proof, ca)), 401, what)
    for what in ("expired", "forged"):
        found = status_of(url, plain({"cert": setup.certificates[what]}, ca))
        checks.same(found in ("SSLError", "ConnectionError"), True, f"a certificate that is {what}: no connection ({found})")
    both = plain({"cert": setup.certificates["unknown"], "user": "ann", "password": PASSWORD}, ca)
    checks.same(status_of(url, both), 200, "a password beside a certificate that is nobody's")


class OneVersion(requests.adapters.HTTPAdapter):
    """Speaks one version of TLS only."""

    def __init__(self, ca, version):
        self.context = ssl.create_default_context(cafile=ca)
        with_older = getattr(ssl.TLSVersion, version)
        self.context.minimum_version = self.context.maximum_version = with_older
        self.context.set_ciphers("DEFAULT:@SECLEVEL=0")
        super().__init__()

    def init_poolmanager(self, *args, **kwargs):
        return super().init_poolmanager(*args, ssl_context=self.context, **kwargs)


def of_refusals(checks, url, ca):
    """A client keeps its connection unless it is told that it ends; so after a refusal the next request must work."""
    print("refused posts")
    session = plain({"user": "rita", "password": "rita's word"}, ca)
    del session.headers["Connection"]
    found = set()
    for number in range(20):
        path = f"{url}/shared/collections/{IDS['Both']}/objects/"
        found.add(session.post(path, json={"objects": [stix(f"refused {number}")]}, timeout=60).status_code)
        found.add(status_of(url, session))
    checks.same(found, {404, 200}, "a request after a refused post, on the same connection")


def of_tls(checks, url, ca):
    print("TLS")
    for version, expected in (("TLSv1_3", 200), ("TLSv1_2", 200), ("TLSv1_1", "refused")):
        session = plain({"user": "ann", "password": PASSWORD}, ca)
        session.mount("https://", OneVersion(ca, version))
        found = status_of(url, session)
        checks.same(found if found == 200 else "refused", expected, version)
    try:
        found = requests.get(f"{url.replace('https', 'http')}/taxii2/", timeout=10).status_code
    except requests.exceptions.RequestException:
        found = "refused"
    checks.same(found in ("refused", 400), True, f"plain HTTP on the port of TLS ({found})")


def soon(checks, expected, ask, what):
    """What has to come true within some seconds, without a restart."""
    for _ in range(40):
        found = ask()
        if found == expected:
            break
        time.sleep(0.1)
    checks.same(found, expected, what)


def of_changes(checks, url, ca, setup):
    print("changes while the server runs")
    path = f"/shared/collections/{IDS['Both']}/objects/"
    rita = plain({"user": "rita", "password": "rita's word"}, ca)
    checks.same(status_of(url, rita, path), 404, "without a group")
    setup.command("user", "groups", "rita", "--add", "partners")
    soon(checks, 200, lambda: status_of(url, rita, path), "with the group")
    setup.command("user", "groups", "rita", "--remove", "partners")
    soon(checks, 404, lambda: status_of(url, rita, path), "without it again")
    token = setup.new_token("ann", "to go")
    held = plain({"auth": Header(token)}, ca)
    soon(checks, 200, lambda: status_of(url, held, path), "a new token")
    setup.command("token", "revoke", token.split("_")[1])
    soon(checks, 401, lambda: status_of(url, held, path), "a token removed")
    setup.command("user", "remove", "ann")
    ann = plain({"user": "ann", "password": PASSWORD}, ca)
    soon(checks, 401, lambda: status_of(url, ann, path), "a user removed")
    bot = plain({"auth": Header(setup.token)}, ca)
    checks.same(status_of(url, bot, path), 200, "others stay")
    setup.command("user", "disable", "bot")
    soon(checks, 401, lambda: status_of(url, bot, path), "a user who may come in no more")
    setup.command("user", "enable", "bot")
    soon(checks, 200, lambda: status_of(url, bot, path), "who may again")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", type=lambda text: str(Path(text).resolve()))
    args = parser.parse_args()
    # They would go before what the clients here are told to trust.
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        os.environ.pop(name, None)
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="taxiway-rights-") as name:
        folder = Path(name)
        try:
            setup = Setup(args.binary, folder)
            ca = str(folder / "authority.crt")
            with serving(args.binary, folder, config(folder)) as url:
                for proof, arguments in setup.proofs().items():
                    of_partner(checks, url, ca, proof, arguments)
                of_others(checks, url, ca, setup)
                of_refusals(checks, url, ca)
                of_tls(checks, url, ca)
                of_changes(checks, url, ca, setup)
                log = (folder / "serve.log").read_text()
            secrets = [word for word in (PASSWORD, setup.token, setup.token.split("_")[2]) if word in log]
            checks.same(secrets, [], "no secret in the log")
            with serving(args.binary, folder, config(folder, "required")) as url:
                print("certificates required")
                found = status_of(url, plain({"auth": Header(setup.token)}, ca))
                checks.same(found in ("SSLError", "ConnectionError"), True, f"a token without a certificate: no connection ({found})")
                checks.same(status_of(url, plain({"cert": setup.certificates["partner"]}, ca)), 200, "a certificate")
                both = {"cert": setup.certificates["unknown"], "auth": Header(setup.token)}
                checks.same(status_of(url, plain(both, ca)), 200, "a token beside a certificate that is nobody's")
        except Failed as problem:
            print(f"rights: failed: {problem}")
            return 1
    if checks.failed:
        print(f"rights: failed: {len(checks.failed)} of {checks.done} checks")
        return 1
    print(f"rights: ok, {checks.done} checks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
