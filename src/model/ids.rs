//! Deterministic identifiers: UUIDv5 namespaces; collection, SCO and SDO ids (spec/xsoar-taxii2-server.md §3, STIX 2.1
//! §2.9).
//!
//! Ids are made once, at ingest, from what the record holds then, and kept in the store: they never depend on how a
//! record is rendered. Nothing is normalised here: no case folding, no address shortening, no IDNA.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;
use sha1::{Digest, Sha1};

use crate::model::json;
use crate::model::kind::{HashAlgorithm, asn_number};
use crate::model::time::{MICROS_PER_SECOND, Timestamp};

/// The 16 bytes of a UUID.
pub type Uuid16 = [u8; 16];

/// Namespace of the ids of observables (STIX 2.1 §2.9).
pub const SCO_NAMESPACE: Uuid16 = constant(b"00abedb4-aa42-466c-9c01-fed23315a9b7");

/// Namespace below which every store has its own: v5 of the vendor's URL, as XSOAR has it.
pub const PAWN_NAMESPACE: Uuid16 = constant(b"749249c0-f7c7-5428-a4ad-ea5e1627a221");

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Name-based UUID, version 5 (RFC 9562 §5.5).
pub fn uuid_v5(namespace: &Uuid16, name: &[u8]) -> Uuid16 {
    uuid_v5_parts(namespace, &[name])
}

/// The same over a name given in parts, so that no joined name is built.
pub fn uuid_v5_parts(namespace: &Uuid16, name: &[&[u8]]) -> Uuid16 {
    let mut hasher = Sha1::new();
    hasher.update(namespace);
    for part in name {
        hasher.update(part);
    }
    let digest = hasher.finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    id[6] = id[6] & 0x0f | 0x50;
    id[8] = id[8] & 0x3f | 0x80;
    id
}

/// Appends the 36 lower-case characters of a UUID.
pub fn write_uuid(id: &Uuid16, out: &mut Vec<u8>) {
    const STARTS: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let mut text = [b'-'; 36];
    for (byte, at) in id.iter().zip(STARTS) {
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 15)];
    }
    out.extend_from_slice(&text);
}

/// Reads the 8-4-4-4-12 form, letters in either case.
pub const fn parse_uuid(text: &[u8]) -> Option<Uuid16> {
    if text.len() != 36 {
        return None;
    }
    let mut id = [0; 16];
    let (mut at, mut byte) = (0, 0);
    while at < 36 {
        if matches!(at, 8 | 13 | 18 | 23) {
            if text[at] != b'-' {
                return None;
            }
            at += 1;
            continue;
        }
        let (Some(high), Some(low)) = (hex_digit(text[at]), hex_digit(text[at + 1])) else { return None };
        id[byte] = high << 4 | low;
        byte += 1;
        at += 2;
    }
    Some(id)
}

/// The version 4 twin of a name-based UUID, which differs in the version digit alone; other UUIDs stay as they are. STIX
/// 2.0 knows no ids but of version 4.
pub fn to_v4(id: &Uuid16) -> Uuid16 {
    with_version(id, 5, 4)
}

/// The UUID that [`to_v4`] turns into this one, if it is not itself.
pub fn from_v4(id: &Uuid16) -> Uuid16 {
    with_version(id, 4, 5)
}

fn with_version(id: &Uuid16, from: u8, to: u8) -> Uuid16 {
    let mut id = *id;
    if id[6] >> 4 == from {
        id[6] = id[6] & 0x0f | to << 4;
    }
    id
}

/// Splits `type--uuid` when the two parts reproduce the text exactly: a type of `[a-z0-9-]` and a UUID in lower case.
/// Anything else is kept as a whole by whoever stores it.
pub fn split_stix_id(id: &str) -> Option<(&str, Uuid16)> {
    let (head, uuid) = id.split_at_checked(id.len().checked_sub(36)?)?;
    let stix_type = head.strip_suffix("--")?;
    let type_byte = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let canonical = !stix_type.is_empty()
        && stix_type.bytes().all(type_byte)
        && !uuid.bytes().any(|byte| byte.is_ascii_uppercase());
    parse_uuid(uuid.as_bytes()).filter(|_| canonical).map(|uuid| (stix_type, uuid))
}

/// The marking definition of a traffic-light colour: predefined ones, the same everywhere (STIX 2.1 §7.2.1.4, TLP 2.0).
#[derive(Debug, PartialEq, Eq)]
pub struct TlpMarking {
    /// The colour, as the column `tlp` has it.
    pub colour: &'static str,
    /// UUID part of the id.
    pub id: Uuid16,
    /// Whether it is one of the first TLP; the others came with TLP 2.0, which STIX 2.0 does not know.
    pub is_tlp_1: bool,
}

impl TlpMarking {
    /// One for every colour. Those that both TLPs have are the first one's, which all consumers know.
    pub const ALL: [TlpMarking; 6] = [
        TlpMarking::new("white", b"613f2e26-407d-48c7-9eca-b8e91df99dc9", true),
        TlpMarking::new("green", b"34098fce-860f-48ae-8e50-ebd3cc5e41da", true),
        TlpMarking::new("amber", b"f88d31f6-486f-44da-b317-01333bde0b82", true),
        TlpMarking::new("red", b"5e57c739-391a-4eb3-b6be-7d15ca92d5ed", true),
        TlpMarking::new("clear", b"94868c89-83c2-464b-929b-a1a8aa3c8487", false),
        TlpMarking::new("amber+strict", b"939a9414-2ddd-4d32-a0cd-375ea402b003", false),
    ];

    const fn new(colour: &'static str, id: &[u8; 36], is_tlp_1: bool) -> Self {
        TlpMarking { colour, id: constant(id), is_tlp_1 }
    }

    /// The one of that colour.
    pub fn of(colour: &str) -> Option<&'static TlpMarking> {
        Self::ALL.iter().find(|marking| marking.colour == colour)
    }

    /// The one with that id.
    pub fn of_id(id: &Uuid16) -> Option<&'static TlpMarking> {
        Self::ALL.iter().find(|marking| marking.id == *id)
    }

    /// What stands for it in STIX 2.0: itself if it is of the first TLP. `clear` is called `white` there. `amber+strict`,
    /// which keeps to one organisation, becomes `red`: `amber` would let its clients have it, and a marking must never
    /// allow more than the source did.
    pub fn in_stix_20(&self) -> &TlpMarking {
        let colour = match self.colour {
            "clear" => "white",
            "amber+strict" => "red",
            same => same,
        };
        TlpMarking::of(colour).unwrap_or(self)
    }

    /// When the definition was made, which is its version too.
    pub fn created(&self) -> Timestamp {
        // 2017-01-20 and 2022-10-01, midnight.
        Timestamp(if self.is_tlp_1 { 17_186 } else { 19_266 } * 86_400 * MICROS_PER_SECOND)
    }
}

/// How the ids of observables are made; fixed when a store is created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdScheme {
    /// The contributing properties of STIX 2.1, in canonical JSON.
    #[default]
    Stix,
    /// XSOAR's text templates, the value pasted in unescaped: for installations whose consumers hold those ids.
    Xsoar,
}

impl IdScheme {
    /// `stix` or `xsoar`, as configuration and store write it.
    pub fn as_str(self) -> &'static str {
        match self {
            IdScheme::Stix => "stix",
            IdScheme::Xsoar => "xsoar",
        }
    }

    /// Reads what [`IdScheme::as_str`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        [IdScheme::Stix, IdScheme::Xsoar].into_iter().find(|scheme| scheme.as_str() == text)
    }
}

/// Makes the ids of one store.
#[derive(Clone, Debug)]
pub struct IdSpace {
    unique: Uuid16,
    scheme: IdScheme,
}

impl IdSpace {
    /// `license_id` is the customer string: the same one gives the same ids on every installation.
    pub fn new(license_id: &str, scheme: IdScheme) -> Self {
        IdSpace { unique: uuid_v5(&PAWN_NAMESPACE, license_id.as_bytes()), scheme }
    }

    /// Namespace of this store's own ids.
    pub fn unique(&self) -> &Uuid16 {
        &self.unique
    }

    /// Id of the extension definition of a STIX type: one for ever, where the original makes a new one for every object.
    pub fn extension_definition(&self, stix_type: &str) -> Uuid16 {
        self.named(b"extension-definition:", stix_type)
    }

    /// Id of a collection.
    pub fn collection(&self, title: &str) -> Uuid16 {
        self.named(b"Collection_", title)
    }

    /// Id of a domain object. For attack patterns `name` is the MITRE id where there is one.
    pub fn sdo(&self, stix_type: &str, name: &str) -> Uuid16 {
        uuid_v5_parts(&self.unique, &[stix_type.as_bytes(), b":", name.as_bytes()])
    }

    /// Id of the `indicator` object made of an observable.
    pub fn indicator(&self, value: &str) -> Uuid16 {
        self.named(b"indicator:", value)
    }

    /// Id of an edge, from the one XSOAR gave it.
    pub fn relationship(&self, id: &str) -> Uuid16 {
        self.named(b"relationship:", id)
    }

    /// Id of an observable.
    pub fn sco(&self, stix_type: &str, facts: &ScoFacts<'_>) -> Uuid16 {
        match self.scheme {
            IdScheme::Stix => standard_sco(stix_type, facts),
            IdScheme::Xsoar => xsoar_sco(stix_type, facts),
        }
    }

    fn named(&self, prefix: &[u8], name: &str) -> Uuid16 {
        uuid_v5_parts(&self.unique, &[prefix, name.as_bytes()])
    }
}

/// What the id of an observable can depend on, as the columns of the same names hold it.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "the columns of model::schema document them")]
pub struct ScoFacts<'a> {
    pub value: &'a str,
    pub md5: Option<&'a str>,
    pub sha1: Option<&'a str>,
    pub sha256: Option<&'a str>,
    pub sha512: Option<&'a str>,
    pub account_type: Option<&'a str>,
    pub user_id: Option<&'a str>,
    pub registry_values: Option<&'a str>,
}

impl<'a> ScoFacts<'a> {
    /// The file's hash of that kind: the value itself if it is one, else the column if it holds one.
    pub fn hash(&self, algorithm: HashAlgorithm) -> Option<&'a str> {
        let column = match algorithm {
            HashAlgorithm::Md5 => self.md5,
            HashAlgorithm::Sha1 => self.sha1,
            HashAlgorithm::Sha256 => self.sha256,
            HashAlgorithm::Sha512 => self.sha512,
        };
        [Some(self.value), column].into_iter().flatten().find(|text| HashAlgorithm::of(text) == Some(algorithm))
    }
}

/// `text` if it is a JSON array that is not empty, as the `values` of a registry key must be; else the key has none.
pub fn registry_values(text: &str) -> Option<&str> {
    serde_json::from_str::<Vec<IgnoredAny>>(text).is_ok_and(|rows| !rows.is_empty()).then_some(text)
}

/// STIX 2.1 §2.9: the contributing properties that the object shows, as canonical JSON.
fn standard_sco(stix_type: &str, facts: &ScoFacts<'_>) -> Uuid16 {
    match stix_type {
        "file" => {
            let preferred = HashAlgorithm::PREFERENCE.iter().find_map(|&kind| Some((kind, facts.hash(kind)?)));
            match preferred {
                Some((kind, hash)) => hash_sco(kind.as_str(), hash),
                // Such a file is never served, but its row needs an id.
                None => member_sco(br#"{"name":""#, facts.value),
            }
        }
        "software" => member_sco(br#"{"name":""#, facts.value),
        "x509-certificate" => member_sco(br#"{"serial_number":""#, facts.value),
        "autonomous-system" => match asn_number(facts.value) {
            Some(number) => sco(&[br#"{"number":"#, itoa::Buffer::new().format(number).as_bytes(), b"}"]),
            // Never served either: `number` is required.
            None => member_sco(br#"{"name":""#, facts.value),
        },
        "user-account" => {
            let mut name = br#"{"account_login":"#.to_vec();
            json::string_into(facts.value, &mut name);
            let others = [(&br#","account_type":"#[..], facts.account_type), (br#","user_id":"#, facts.user_id)];
            for (key, text) in others {
                if let Some(text) = text.filter(|text| !text.is_empty()) {
                    name.extend_from_slice(key);
                    json::string_into(text, &mut name);
                }
            }
            name.push(b'}');
            sco(&[&name])
        }
        "windows-registry-key" => {
            let values = facts.registry_values.and_then(registry_values);
            match values.and_then(|text| serde_json::from_str::<Value>(text).ok()) {
                Some(values) => {
                    let mut name = br#"{"key":"#.to_vec();
                    json::string_into(facts.value, &mut name);
                    name.extend_from_slice(br#","values":"#);
                    json::canonical_into(&values, &mut name);
                    name.push(b'}');
                    sco(&[&name])
                }
                None => member_sco(br#"{"key":""#, facts.value),
            }
        }
        _ => member_sco(br#"{"value":""#, facts.value),
    }
}

/// spec/xsoar-taxii2-server.md §3: templates into which the value is pasted without escaping.
fn xsoar_sco(stix_type: &str, facts: &ScoFacts<'_>) -> Uuid16 {
    let value = facts.value.as_bytes();
    match stix_type {
        // The original counts characters and does not look whether they are hexadecimal.
        "file" => match HashAlgorithm::of_length(facts.value.chars().count()) {
            Some(kind) => hash_sco(kind.as_str(), facts.value),
            None => sco(&[br#"{"value":""#, value, br#""}"#]),
        },
        "windows-registry-key" => sco(&[br#"{"key":""#, value, br#""}"#]),
        "user-account" => sco(&[
            br#"{"account_login":""#,
            value,
            br#"","account_type":""#,
            facts.account_type.unwrap_or("None").as_bytes(),
            br#"","user_id":""#,
            facts.user_id.unwrap_or("None").as_bytes(),
            br#""}"#,
        ]),
        _ => sco(&[br#"{"value":""#, value, br#""}"#]),
    }
}

fn sco(name: &[&[u8]]) -> Uuid16 {
    uuid_v5_parts(&SCO_NAMESPACE, name)
}

fn hash_sco(key: &str, hash: &str) -> Uuid16 {
    sco(&[br#"{"hashes":{""#, key.as_bytes(), br#"":""#, hash.as_bytes(), br#""}}"#])
}

/// Id of `{"key":"value"}`, where `open` is everything before the value.
fn member_sco(open: &[u8], value: &str) -> Uuid16 {
    if json::first_special(value.as_bytes()).is_none() {
        return sco(&[open, value.as_bytes(), br#""}"#]);
    }
    let mut escaped = Vec::with_capacity(value.len() + 16);
    json::escape_into(value, &mut escaped);
    sco(&[open, &escaped, br#""}"#])
}

/// The deterministic id of a native observable, from its contributing properties (STIX 2.1 §2.9 and chapter 6). `None`
/// for types without a rule (`process`, own types) and objects that hold none of the properties: those have random
/// ids. Of several hashes outside the preference list the alphabetically first is taken; [`sco_id_of_text`] takes the
/// first listed, as the Python library does.
pub fn sco_id_of_json(object: &Value) -> Option<String> {
    sco_id(object, None)
}

/// The same from the object's text, in which the listing order of `hashes` is still known.
pub fn sco_id_of_text(object: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Hashes<'a> {
        #[serde(borrow)]
        hashes: Option<&'a RawValue>,
    }
    let listed = serde_json::from_str::<Hashes<'_>>(object).ok()?.hashes;
    let first = listed.and_then(|hashes| serde_json::from_str::<FirstKey>(hashes.get()).ok());
    sco_id(&serde_json::from_str(object).ok()?, first.and_then(|FirstKey(key)| key).as_deref())
}

fn sco_id(object: &Value, first_listed_hash: Option<&str>) -> Option<String> {
    let stix_type = object.get("type")?.as_str()?;
    let mut name = vec![b'{'];
    for &key in contributing(stix_type) {
        let Some(value) = object.get(key).filter(|value| !value.is_null()) else { continue };
        if name.len() > 1 {
            name.push(b',');
        }
        json::string_into(key, &mut name);
        name.push(b':');
        match value {
            Value::Object(hashes) if key == "hashes" => {
                let preferred = HashAlgorithm::PREFERENCE.iter().map(|kind| kind.as_str());
                let fallback = first_listed_hash.or_else(|| hashes.keys().next().map(String::as_str));
                let chosen = preferred.chain(fallback).find(|&key| hashes.contains_key(key))?;
                name.push(b'{');
                json::string_into(chosen, &mut name);
                name.push(b':');
                json::canonical_into(&hashes[chosen], &mut name);
                name.push(b'}');
            }
            _ => json::canonical_into(value, &mut name),
        }
    }
    if name.len() == 1 {
        return None;
    }
    name.push(b'}');
    let mut id = format!("{stix_type}--").into_bytes();
    write_uuid(&sco(&[&name]), &mut id);
    String::from_utf8(id).ok()
}

/// The contributing properties of each type, sorted.
fn contributing(stix_type: &str) -> &'static [&'static str] {
    match stix_type {
        "artifact" => &["hashes", "payload_bin"],
        "autonomous-system" => &["number"],
        "directory" => &["path"],
        "domain-name" | "email-addr" | "ipv4-addr" | "ipv6-addr" | "mac-addr" | "url" => &["value"],
        "email-message" => &["body", "from_ref", "subject"],
        "file" => &["extensions", "hashes", "name", "parent_directory_ref"],
        "mutex" => &["name"],
        "network-traffic" => &["dst_port", "dst_ref", "end", "extensions", "protocols", "src_port", "src_ref", "start"],
        "software" => &["cpe", "name", "swid", "vendor", "version"],
        "user-account" => &["account_login", "account_type", "user_id"],
        "windows-registry-key" => &["key", "values"],
        "x509-certificate" => &["hashes", "serial_number"],
        _ => &[],
    }
}

/// First key of a JSON object in listing order, which a sorted map forgets.
struct FirstKey(Option<String>);

impl<'de> Deserialize<'de> for FirstKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = FirstKey;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<FirstKey, A::Error> {
                let mut first = None;
                while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                    first.get_or_insert(key);
                }
                Ok(FirstKey(first))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

const fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// A namespace constant; the vectors would miss if its text were not a UUID.
const fn constant(text: &[u8; 36]) -> Uuid16 {
    match parse_uuid(text) {
        Some(id) => id,
        None => [0; 16],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const XSOAR_VECTORS: &str = include_str!("../../tests/vectors/xsoar-ids.tsv");
    const STIX_VECTORS: &str = include_str!("../../tests/vectors/stix-sco.jsonl");
    /// RFC 9562 §6.6.
    const URL_NAMESPACE: Uuid16 = constant(b"6ba7b811-9dad-11d1-80b4-00c04fd430c8");

    fn text(id: &Uuid16) -> String {
        let mut out = Vec::new();
        write_uuid(id, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn facts<'a>(value: &'a str, extra: &'a str) -> ScoFacts<'a> {
        let mut facts = ScoFacts { value, ..ScoFacts::default() };
        for (key, text) in extra.split(';').filter_map(|pair| pair.split_once('=')) {
            let slot = match key {
                "md5" => &mut facts.md5,
                "sha1" => &mut facts.sha1,
                "sha256" => &mut facts.sha256,
                "sha512" => &mut facts.sha512,
                "account_type" => &mut facts.account_type,
                "user_id" => &mut facts.user_id,
                "registry_values" => &mut facts.registry_values,
                _ => panic!("{key}"),
            };
            *slot = Some(text);
        }
        facts
    }

    #[test]
    fn xsoar_vectors() {
        let mut checked = 0;
        for line in XSOAR_VECTORS.lines().skip(1) {
            let [number, kind, customer, stix_type, value, extra, expected] =
                line.split('\t').collect::<Vec<_>>().try_into().unwrap();
            let space = |scheme| IdSpace::new(customer, scheme);
            let id = match kind {
                "pawn" => {
                    let computed = uuid_v5(&URL_NAMESPACE, b"https://www.paloaltonetworks.com");
                    assert_eq!(computed, PAWN_NAMESPACE);
                    text(&computed)
                }
                "unique" => text(space(IdScheme::Xsoar).unique()),
                "collection" => text(&space(IdScheme::Xsoar).collection(value)),
                _ => {
                    let uuid = match kind {
                        "sco" => space(IdScheme::Xsoar).sco(stix_type, &facts(value, extra)),
                        "sco-stix" => space(IdScheme::Stix).sco(stix_type, &facts(value, extra)),
                        "sdo" => space(IdScheme::Stix).sdo(stix_type, value),
                        "sdo-pawn" => uuid_v5(&PAWN_NAMESPACE, format!("{stix_type}:{value}").as_bytes()),
                        "indicator" => space(IdScheme::Stix).indicator(value),
                        "relationship" => space(IdScheme::Stix).relationship(value),
                        _ => panic!("{kind}"),
                    };
                    format!("{stix_type}--{}", text(&uuid))
                }
            };
            assert_eq!(id, expected, "vector {number}");
            checked += 1;
        }
        assert_eq!(checked, 47);
    }

    #[test]
    fn stix_vectors() {
        let mut checked = 0;
        for line in STIX_VECTORS.lines() {
            let vector: Value = serde_json::from_str(line).unwrap();
            // The raw text, since only that knows the order of hashes.
            let object = serde_json::from_str::<std::collections::HashMap<String, Box<RawValue>>>(line).unwrap();
            let id = sco_id_of_text(object["object"].get());
            assert_eq!(id.as_deref(), vector["id"].as_str(), "{}", vector["name"]);
            let ordered = vector["name"].as_str().unwrap().contains("first listed");
            if !ordered {
                assert_eq!(sco_id_of_json(&vector["object"]), id, "{}", vector["name"]);
            }
            checked += 1;
        }
        assert_eq!(checked, 57);
    }

    /// The columns must give the id that the object they are rendered to has by the standard.
    #[test]
    fn columns_and_objects_agree() {
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let md5_extra = "md5=5d41402abc4b2a76b9719d911017c592";
        let values = r#"registry_values=[{"name":"Foo","data":"1","data_type":"REG_SZ"}]"#;
        let cases = [
            ("ipv4-addr", "10.0.0.0/8", "", r#"{"type":"ipv4-addr","value":"10.0.0.0/8"}"#.to_owned()),
            ("url", "http://x/\"\\\n\u{e9}", "", "{\"type\":\"url\",\"value\":\"http://x/\\\"\\\\\\n\u{e9}\"}".to_owned()),
            ("file", sha256, "", format!(r#"{{"type":"file","hashes":{{"SHA-256":"{sha256}"}}}}"#)),
            (
                "file",
                sha256,
                md5_extra,
                format!(r#"{{"type":"file","hashes":{{"SHA-256":"{sha256}","MD5":"5d41402abc4b2a76b9719d911017c592"}}}}"#),
            ),
            ("file", sha256, "md5=bad", format!(r#"{{"type":"file","hashes":{{"SHA-256":"{sha256}"}}}}"#)),
            ("user-account", "jdoe", "", r#"{"type":"user-account","account_login":"jdoe"}"#.to_owned()),
            (
                "user-account",
                "j\"doe",
                "user_id=7;account_type=unix",
                r#"{"type":"user-account","account_login":"j\"doe","account_type":"unix","user_id":"7"}"#.to_owned(),
            ),
            ("autonomous-system", "AS15139", "", r#"{"type":"autonomous-system","number":15139}"#.to_owned()),
            ("software", "Word", "", r#"{"type":"software","name":"Word"}"#.to_owned()),
            ("x509-certificate", "02:08", "", r#"{"type":"x509-certificate","serial_number":"02:08"}"#.to_owned()),
            ("windows-registry-key", "HKLM\\x", "", r#"{"type":"windows-registry-key","key":"HKLM\\x"}"#.to_owned()),
            (
                "windows-registry-key",
                "HKLM\\x",
                values,
                r#"{"type":"windows-registry-key","key":"HKLM\\x","values":[{"data":"1","data_type":"REG_SZ","name":"Foo"}]}"#
                    .to_owned(),
            ),
            (
                "windows-registry-key",
                "HKLM\\x",
                "registry_values=[]",
                r#"{"type":"windows-registry-key","key":"HKLM\\x"}"#.to_owned(),
            ),
        ];
        let space = IdSpace::new("test", IdScheme::Stix);
        for (stix_type, value, extra, object) in cases {
            let id = format!("{stix_type}--{}", text(&space.sco(stix_type, &facts(value, extra))));
            assert_eq!(Some(id), sco_id_of_text(&object), "{object}");
        }
    }

    #[test]
    fn every_colour_has_a_marking() {
        for marking in &TlpMarking::ALL {
            assert_eq!(crate::model::words::tlp(marking.colour), Some(marking.colour));
            assert_eq!(TlpMarking::of_id(&marking.id), Some(marking));
            assert!(marking.in_stix_20().is_tlp_1 && marking.id[6] >> 4 == 4);
            let expected = if marking.is_tlp_1 { "2017-01-20T00:00:00.000000Z" } else { "2022-10-01T00:00:00.000000Z" };
            assert_eq!(marking.created().to_string(), expected);
        }
    }

    #[test]
    fn objects_without_contributing_properties_have_no_id() {
        for object in [
            r#"{"type":"process","pid":7}"#,
            r#"{"type":"file","size":7}"#,
            r#"{"type":"x-own","value":"a"}"#,
            "7",
            "{",
        ] {
            assert_eq!(sco_id_of_text(object), None, "{object}");
        }
    }

    #[test]
    fn only_canonical_ids_are_split() {
        let uuid = "2f689bf9-0ff2-545f-aa61-e495eb8cecc7";
        let good = format!("x-own-2--{uuid}");
        assert_eq!(split_stix_id(&good), parse_uuid(uuid.as_bytes()).map(|id| ("x-own-2", id)));
        let bad = [
            String::new(),
            uuid.to_owned(),
            format!("--{uuid}"),
            format!("url-{uuid}"),
            format!("URL--{uuid}"),
            format!("url--{}", uuid.to_uppercase()),
            format!("url--{}", uuid.replace('-', "_")),
            format!("url--{uuid}0"),
            format!("url--\u{e9}{}", &uuid[1..]),
        ];
        for id in bad {
            assert_eq!(split_stix_id(&id), None, "{id}");
        }
    }

    proptest! {
        #[test]
        fn uuids_read_back(id in any::<Uuid16>()) {
            prop_assert_eq!(parse_uuid(text(&id).as_bytes()), Some(id));
            prop_assert_eq!(parse_uuid(text(&id).to_uppercase().as_bytes()), Some(id));
        }

        #[test]
        fn twins_of_version_4_lead_back(namespace in any::<Uuid16>(), name in any::<Vec<u8>>()) {
            let id = uuid_v5(&namespace, &name);
            prop_assert_eq!(to_v4(&id)[6] >> 4, 4);
            prop_assert_eq!(from_v4(&to_v4(&id)), id);
            prop_assert_eq!(to_v4(&to_v4(&id)), to_v4(&id));
        }

        #[test]
        fn any_text_parses_or_not(bytes in proptest::collection::vec(any::<u8>(), 30..40)) {
            prop_assert_eq!(parse_uuid(&bytes).is_some(), false);
        }

        #[test]
        fn parts_join(namespace in any::<Uuid16>(), a in any::<Vec<u8>>(), b in any::<Vec<u8>>()) {
            prop_assert_eq!(uuid_v5_parts(&namespace, &[&a, &b]), uuid_v5(&namespace, &[a, b].concat()));
        }
    }
}
