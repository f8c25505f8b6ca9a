//! Golden objects, and the promises of the module docs. `UPDATE=1 cargo test --lib render` rewrites the golden files.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, DictionaryArray, FixedSizeBinaryArray, Int8Array, Int16Array, ListBuilder, StringArray,
    StringBuilder, TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{Field, Int32Type, Schema};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::ids::{IdScheme, IdSpace, ScoFacts, parse_uuid, write_uuid};
use crate::model::json::canonical_into;
use crate::model::kind::{INDICATOR_TYPES, stix_type};
use crate::model::schema::{column, schema};
use crate::model::time::Timestamp;

const NATIVE_20: &str = r#"{"type":"malware","id":"malware--11111111-1111-4111-8111-111111111111","created":"2017-01-01T00:00:00.000Z","modified":"2017-01-02T00:00:00.000Z","name":"old","labels":["bot"],"x_own":[1, 2.50]}"#;
const OWN_ID: &str = "44444444-4444-4444-8444-444444444444";
const NATIVE_ODD: &str = r#"{"type":"x-own","id":"x-own--\"odd\"","z":1,"a":null}"#;
const EDGE: &str = r#"{"type":"relationship","spec_version":"2.1","id":"relationship--22222222-2222-4222-8222-222222222222","created":"2024-01-01T00:00:00.000Z","modified":"2024-01-01T00:00:00.000Z","relationship_type":"indicates","source_ref":"indicator--33333333-3333-4333-8333-333333333333","target_ref":"malware--11111111-1111-4111-8111-111111111111"}"#;

fn text(uuid: [u8; 16]) -> String {
    let mut out = Vec::new();
    write_uuid(&uuid, &mut out);
    String::from_utf8(out).unwrap()
}

/// A row as ingest would leave it: kind, STIX type and ids filled in where the case does not give them.
fn indicator(xsoar_type: &str, value: &str, others: Value) -> Value {
    let space = IdSpace::new("test", IdScheme::Stix);
    let mut row = json!({"kind": "indicator", "type": xsoar_type, "value": value, "added": "2024-06-01T00:00:00Z"});
    if let Some(stix) = stix_type(xsoar_type, value) {
        let get = |key: &str| others[key].as_str();
        let facts = ScoFacts {
            value,
            md5: get("md5"),
            sha1: get("sha1"),
            sha256: get("sha256"),
            sha512: get("sha512"),
            account_type: get("account_type"),
            user_id: get("user_id"),
            registry_values: get("registry_values"),
        };
        let id = if stix.is_sco() {
            row["indicator_id"] = text(space.indicator(value)).into();
            space.sco(stix.as_str(), &facts)
        } else {
            space.sdo(stix.as_str(), get("mitre_id").unwrap_or(value))
        };
        row["stix_type"] = stix.as_str().into();
        row["id"] = text(id).into();
    }
    let Value::Object(members) = others else { panic!("{others}") };
    for (key, value) in members {
        row[key] = value;
    }
    row
}

fn native(kind: &str, stix_type: &str, uuid: &str, document: &str) -> Value {
    json!({"kind": kind, "stix_type": stix_type, "id": uuid, "document": document, "added": "2024-06-01T00:00:00.000001Z"})
}

/// The columns of the record schema from rows as JSON; every column may hold nulls, as a bad reader's would.
fn batch(rows: &[Value]) -> RecordBatch {
    let column = |field: &Field| -> ArrayRef {
        let cells = || rows.iter().map(|row| &row[field.name()]);
        let texts = || cells().map(Value::as_str);
        let micros = |text: &str| Timestamp::parse(text).unwrap().0;
        match field.data_type() {
            DataType::Dictionary(..) => Arc::new(texts().collect::<DictionaryArray<Int32Type>>()),
            DataType::Utf8 => Arc::new(texts().collect::<StringArray>()),
            DataType::Timestamp(..) => {
                let instants = texts().map(|text| text.map(micros)).collect::<TimestampMicrosecondArray>();
                Arc::new(instants.with_timezone("UTC"))
            }
            DataType::FixedSizeBinary(16) => {
                let uuids = texts().map(|text| text.map(|text| parse_uuid(text.as_bytes()).unwrap()));
                Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(uuids, 16).unwrap())
            }
            DataType::Int8 => Arc::new(cells().map(|v| v.as_i64().map(|n| n as i8)).collect::<Int8Array>()),
            DataType::Int16 => Arc::new(cells().map(|v| v.as_i64().map(|n| n as i16)).collect::<Int16Array>()),
            DataType::Boolean => Arc::new(cells().map(Value::as_bool).collect::<BooleanArray>()),
            DataType::List(_) => {
                let mut lists = ListBuilder::new(StringBuilder::new());
                for cell in cells() {
                    let items = cell.as_array();
                    items.into_iter().flatten().for_each(|item| lists.values().append_option(item.as_str()));
                    lists.append(items.is_some());
                }
                Arc::new(lists.finish())
            }
            other => panic!("{other}"),
        }
    };
    let nullable: Vec<Field> =
        schema().fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    let columns = nullable.iter().map(column).collect();
    RecordBatch::try_new(Arc::new(Schema::new(nullable)), columns).unwrap()
}

fn plain_options() -> RenderOptions {
    RenderOptions::default()
}

fn indicator_options() -> RenderOptions {
    RenderOptions { indicator_types: INDICATOR_TYPES.iter().copied().collect(), ..RenderOptions::default() }
}

fn rendered(batch: &RecordBatch, options: &RenderOptions) -> String {
    let mut out = Vec::new();
    objects(batch, options, &mut out, None).unwrap();
    String::from_utf8(out).unwrap()
}

/// The objects one by one, through `ends`.
fn each(batch: &RecordBatch, options: &RenderOptions) -> Vec<String> {
    let (mut out, mut ends) = (b"before".to_vec(), Vec::new());
    objects(batch, options, &mut out, Some(&mut ends)).unwrap();
    let mut start = "before".len();
    let mut cut = |end: usize| {
        let object = String::from_utf8(out[start..end].to_vec()).unwrap();
        start = end + 1;
        object
    };
    ends.into_iter().map(&mut cut).collect()
}

fn canonical(text: &str) -> String {
    let mut out = Vec::new();
    canonical_into(&serde_json::from_str(text).unwrap(), &mut out);
    String::from_utf8(out).unwrap()
}

fn golden(name: &str, lines: &[String]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/render").join(name);
    let actual = format!("[\n{}\n]\n", lines.join(",\n"));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(actual, expected, "{name}");
}

fn observables() -> Vec<Value> {
    let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let dates = json!({"created": "2024-01-02T03:04:05.678901Z", "modified": "2024-02-02T03:04:05Z", "score": 3});
    vec![
        indicator("IP", "8.8.8.8", dates.clone()),
        indicator("CIDR", "198.51.100.0/24", json!({"score": 2, "confidence": 70, "created": "2024-01-02T03:04:05Z"})),
        indicator("IP", "2001:db8::1", json!({"score": 1, "modified": "2024-03-01T00:00:00Z"})),
        indicator(
            "Domain",
            "b\u{fc}cher.example",
            json!({"score": 0, "tags": ["Needs Review", "needs review", " ", null, "APT\"28\""]}),
        ),
        indicator("Domain", "example.com", json!({"description": "line\nbreak", "revoked": true})),
        indicator(
            "URL",
            "http://example.com/a?b='c'",
            json!({"created": "2024-01-01T00:00:00Z", "expiration": "2024-05-01T00:00:00Z", "description": ""}),
        ),
        indicator(
            "URL",
            "http://example.com/expired-before-it-began",
            json!({"created": "2024-05-01T00:00:00Z", "modified": "2024-04-01T00:00:00Z", "expiration": "2024-05-01T00:00:00Z"}),
        ),
        indicator(
            "Email",
            "john@example.com",
            json!({"kill_chain_phases": ["Initial Access", "lockheed-martin-cyber-kill-chain/delivery", "/", null]}),
        ),
        indicator(
            "File",
            "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
            json!({"ssdeep": "3:AXGBicFlgVNhBGcL6wCrFQEv:AXGHsNhxLsr2C"}),
        ),
        indicator(
            "File",
            sha256,
            json!({"md5": "5d41402abc4b2a76b9719d911017c592", "sha1": "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d", "sha256": "0".repeat(64), "sha512": "not a hash"}),
        ),
        indicator("File", "d41d8cd98f00b204e9800998ecf8427e", json!({})),
        indicator("File", "da39a3ee5e6b4b0d3255bfef95601890afd80709", json!({})),
        indicator("File", &"ab".repeat(64), json!({})),
        indicator(
            "Registry Key",
            r"HKEY_LOCAL_MACHINE\SOFTWARE\7-Zip",
            json!({"registry_values": r#"[{"data":"C:\\7z","data_type":"REG_SZ","name":"Path"}]"#}),
        ),
        indicator("Registry Key", r"HKEY_LOCAL_MACHINE\it's", json!({"registry_values": "[]"})),
        indicator("Account", "jdoe", json!({"account_type": "unix", "user_id": "1001"})),
        indicator("Account", "jane@example.com", json!({})),
        indicator("Software", "OpenSSL", json!({})),
        indicator("ASN", "AS15169", json!({"as_name": "Example Net"})),
        indicator("ASN", "64496", json!({})),
        indicator(
            "X509 Certificate",
            "36:f7:d4:32",
            json!({"subject": "CN=x, O=y", "issuer": "CN=ca", "validity_not_before": "2023-01-01T00:00:00+01:00", "validity_not_after": "soon"}),
        ),
    ]
}

/// Rows whose objects a validator refuses for what they hold: a glob is no host name, and not every URL seen in the
/// wild is a URI. And rows that came with an id, which counts for objects of its type only.
fn odd() -> Vec<Value> {
    vec![
        indicator("DomainGlob", "*.example.com", json!({})),
        indicator("URL", "http://example.com/a\"b\\c?d='e'", json!({})),
        indicator("IP", "1.1.1.1", json!({"stix_id": format!("ipv4-addr--{OWN_ID}"), "id": OWN_ID})),
        indicator("IP", "1.1.1.2", json!({"stix_id": format!("indicator--{OWN_ID}"), "indicator_id": OWN_ID})),
        indicator("IP", "1.1.1.3", json!({"stix_id": format!("malware--{OWN_ID}")})),
        indicator("IP", "1.1.1.4", json!({"stix_id": "no \"id\""})),
    ]
}

fn domain_objects() -> Vec<Value> {
    let dates = json!({"created": "2024-01-02T03:04:05.678901Z", "modified": "2024-02-02T03:04:05Z"});
    let mut full = dates.clone();
    for (key, value) in [
        ("confidence", json!(85)),
        ("description", json!("steals \"things\"")),
        ("tags", json!(["Bank Trojan"])),
        ("revoked", json!(true)),
        ("is_family", json!(true)),
        ("kill_chain_phases", json!(["mitre-attack/execution"])),
    ] {
        full[key] = value;
    }
    vec![
        indicator("Malware", "bad malware", full),
        indicator("Malware", "sample", json!({"confidence": 101})),
        indicator(
            "Attack Pattern",
            "DNS",
            json!({"mitre_id": "T1071.004", "kill_chain_phases": ["Command and Control"]}),
        ),
        indicator("Attack Pattern", "Phishing", dates.clone()),
        indicator("Campaign", "Operation X", dates.clone()),
        indicator("Course of Action", "Patch", dates.clone()),
        indicator("Infrastructure", "C2 network", dates.clone()),
        indicator("Intrusion Set", "APT 28", dates.clone()),
        indicator("Threat Actor", "Someone", dates.clone()),
        indicator("Tool", "netcat", dates.clone()),
        indicator(
            "Report",
            "Q1",
            json!({"created": "2024-04-01T00:00:00Z", "published": "2024-03-31T12:00:00Z", "object_refs": ["malware--bddcf01f-9fd0-5107-a013-4b174285babc", "no id", null]}),
        ),
        indicator("Report", "nothing attached", json!({"created": "2024-04-01T00:00:00Z"})),
        indicator("CVE", "cve-2021-44228", json!({"description": "remote code execution"})),
        indicator("CVE", "some weakness", json!({})),
        indicator("Identity", "ACME", json!({"identity_class": "organization"})),
        indicator("Identity", "someone", json!({})),
        indicator("Location", "de", json!({})),
        indicator("Location", "Northern Europe", json!({})),
    ]
}

fn native_objects() -> Vec<Value> {
    let mut old = native("object", "malware", "11111111-1111-4111-8111-111111111111", NATIVE_20);
    old["spec_version"] = "2.0".into();
    old["created"] = "2017-01-01T00:00:00Z".into();
    old["modified"] = "2017-01-02T00:00:00Z".into();
    let mut odd = native("object", "x-own", "55555555-5555-4555-8555-555555555555", NATIVE_ODD);
    odd["stix_id"] = "x-own--\"odd\"".into();
    odd["spec_version"] = "2.1".into();
    let mut edge = native("relationship", "relationship", "22222222-2222-4222-8222-222222222222", EDGE);
    edge["spec_version"] = "2.1".into();
    edge["modified"] = "2024-01-01T00:00:00Z".into();
    vec![old, odd, edge]
}

/// Rows of every colour, and observables that were seen.
fn marked() -> Vec<Value> {
    let dates = json!({"created": "2024-01-02T03:04:05.678901Z", "modified": "2024-02-02T03:04:05Z"});
    let with = |more: Value| {
        let mut all = dates.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    vec![
        indicator("IP", "192.0.2.1", with(json!({"tlp": "green", "first_seen": "2023-12-24T18:00:00Z"}))),
        indicator("File", "d41d8cd98f00b204e9800998ecf8427e", with(json!({"tlp": "clear"}))),
        indicator("Account", "jdoe", with(json!({"tlp": "amber+strict", "last_seen": "2023-12-24T18:00:00Z"}))),
        indicator("Software", "OpenSSL", with(json!({"tlp": "amber"}))),
        indicator("ASN", "AS64496", with(json!({"tlp": "white"}))),
        indicator("X509 Certificate", "36:f7", with(json!({"tlp": "red"}))),
        indicator(
            "Registry Key",
            r"HKEY_LOCAL_MACHINE\SOFTWARE\7-Zip",
            with(json!({"tlp": "green", "tags": ["b", "a"]})),
        ),
        indicator("Malware", "marked malware", with(json!({"tlp": "red"}))),
        indicator("Campaign", "marked with no colour", with(json!({"tlp": "pink"}))),
    ]
}

/// A report of everything, and one whose references were added by edges.
fn references() -> Vec<Value> {
    let ip = indicator("IP", "8.8.8.8", json!({}));
    let (sco, as_indicator) = (ip["id"].as_str().unwrap(), ip["indicator_id"].as_str().unwrap());
    let malware = "malware--bddcf01f-9fd0-5107-a013-4b174285babc";
    let location = "location--bddcf01f-9fd0-5107-a013-4b174285babc";
    let dates = json!({"created": "2024-04-01T00:00:00Z"});
    let report = |name: &str, more: Value| {
        let mut all = dates.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        indicator("Report", name, all)
    };
    vec![
        report(
            "refers to an address",
            json!({
                "object_refs": [malware, format!("ipv4-addr--{sco}"), location, malware, "no id", null, "relationship--c04f44cd-c8a8-52aa-90d5-77a5249fe7b7"],
                "object_ref_indicators": ["", as_indicator, null, "", "", "", ""],
            }),
        ),
        report(
            "refers to it by the whole id",
            json!({"object_refs": [format!("ipv4-addr--{sco}")], "object_ref_indicators": [format!("indicator--{as_indicator}")]}),
        ),
        report("refers to a place", json!({"object_refs": [location], "object_ref_indicators": []})),
    ]
}

/// Relationships made of XSOAR's (spec/xsoar-taxii2-server.md §5).
fn edges() -> Vec<Value> {
    let space = IdSpace::new("test", IdScheme::Stix);
    let end = |xsoar_type: &str, value: &str| {
        let row = indicator(xsoar_type, value, json!({}));
        let id = format!("{}--{}", row["stix_type"].as_str().unwrap(), row["id"].as_str().unwrap());
        (Value::from(id), row["indicator_id"].clone())
    };
    let edge = |own_id: &str, name: &str, source: (&str, &str), target: (&str, &str), more: Value| {
        let (source, target) = (end(source.0, source.1), end(target.0, target.1));
        let mut row = json!({
            "kind": "relationship", "stix_type": "relationship", "added": "2024-06-01T00:00:00.000002Z",
            "id": text(space.relationship(own_id)), "relationship_type": name,
            "source_ref": source.0, "source_indicator_id": source.1, "target_ref": target.0, "target_indicator_id": target.1,
            "created": "2023-03-27T11:05:02.105210559Z", "modified": "2023-03-27T11:05:02.105210559Z",
        });
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let sha256 = "f1412386aa8db2579aff2636cb9511cacc5fd9880ecab60c048508fbe26ee4d9";
    vec![
        edge("7ed6656f4c2aaa8f0cbc5cb83606be45", "related to", ("IP", "1.1.1.1"), ("IP", "4.4.4.4"), json!({})),
        edge(
            "5",
            "related-to",
            ("File", sha256),
            ("Domain", "bad-domain.com"),
            json!({"description": "c\u{f4}t\u{e9}"}),
        ),
        edge(
            "6",
            "Part_Of",
            ("IP", "1.1.1.1"),
            ("Malware", "bad malware"),
            json!({"revoked": true, "modified": "2024-01-01T00:00:00Z"}),
        ),
        edge(
            "7",
            "uses",
            ("Intrusion Set", "APT 28"),
            ("Tool", "netcat"),
            json!({"created": null, "modified": null, "source_stix_id": "indicator--own \"id\"", "target_stix_id": ""}),
        ),
        edge("8", "located-at", ("Threat Actor", "Someone"), ("Location", "de"), json!({})),
    ]
}

/// One row of every definition; those of colours have the ids that all the world knows.
fn definition_rows() -> Vec<Value> {
    let space = IdSpace::new("test", IdScheme::Stix);
    let row = |stix_type: &str, uuid: String, value: &str| json!({"kind": "definition", "stix_type": stix_type, "id": uuid, "value": value, "added": "2024-06-01T00:00:00.000003Z"});
    let mut extension = row("extension-definition", text(space.extension_definition("ipv4-addr")), "ipv4-addr");
    extension["type"] = "CIDR".into();
    extension["created"] = "2022-02-16T14:20:00Z".into();
    extension["modified"] = "2022-02-16T14:20:01Z".into();
    let markings = TlpMarking::ALL.iter().map(|marking| row("marking-definition", text(marking.id), marking.colour));
    [extension].into_iter().chain(markings).collect()
}

/// A document as XSOAR exports it, not in order, with what it escapes and what says nothing.
const RECORD: &str = r#"{"value": "8.8.8.8", "indicator_type": "IP", "id": "113", "score": 3, "timestamp": "2024-01-02T03:04:05.678901234Z",
 "sourceBrands": ["Some Feed"], "isShared": false, "version": 1.50, "comments": null, "CustomFields": {"tags": ["b", "A C"],
 "region": "\u00c9\/\ud83d\ude00", "nested": [{"z": 1, "a": null}, []], "trafficlightprotocol": "TLP:GREEN", "zero": 0, "empty": ""}}"#;

/// Indicators with documents, whole and odd, and without.
fn recorded() -> Vec<Value> {
    let dates = json!({"created": "2024-01-02T03:04:05.678901Z", "modified": "2024-02-02T03:04:05Z"});
    let with = |more: Value| {
        let mut all = dates.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let told = json!({
        "score": 3, "tags": ["b", "A C"], "tlp": "green", "document": RECORD,
        "custom": r#"{"empty":"","nested":[{"z":1,"a":null},[]],"region":"\u00c9/\ud83d\ude00","zero":0}"#,
    });
    let mut merged = told.clone();
    for (key, value) in [
        ("score", json!(1)),
        ("tags", json!(["b", "A C", "from a list"])),
        ("tlp", json!("red")),
        ("description", json!("of another input")),
        ("stix_id", json!("ipv4-addr--44444444-4444-4444-8444-444444444444")),
        ("custom", json!(r#"{"other":{"b":1,"a":2},"region":"changed","zero":0}"#)),
        ("confidence", json!(70)),
        ("mitre_id", json!("T1")),
    ] {
        merged[key] = value;
    }
    vec![
        indicator("IP", "8.8.8.8", with(told)),
        indicator("IP", "8.8.4.4", with(merged)),
        indicator(
            "Domain",
            "example.com",
            with(json!({
                "score": 0, "tags": ["plain"], "source_brands": ["A list"], "reliability": "B - Usually reliable",
                "expiration": "2025-01-01T00:00:00Z", "first_seen": "2023-01-01T00:00:00Z", "custom": r#"{"x":[]}"#,
            })),
        ),
        indicator(
            "URL",
            "http://example.com/bad-document",
            with(json!({"document": r#"{"a":1,"CustomFields":{"b":[1}}"#})),
        ),
        indicator(
            "Malware",
            "recorded malware",
            with(json!({"document": r#"{"CustomFields":null,"extension_type":1,"a":{"B":null}}"#})),
        ),
        indicator(
            "File",
            "D41D8CD98F00B204E9800998ECF8427E",
            with(json!({
                "md5": "d41d8cd98f00b204e9800998ecf8427e", "sha1": "da39a3ee5e6b4b0d3255bfef95601890afd80709",
                "is_family": true, "published": "2024-01-01T00:00:00Z", "registry_values": r#"[{"b":1,"a":2}]"#,
            })),
        ),
    ]
}

fn everything() -> Vec<Value> {
    [
        observables(),
        odd(),
        domain_objects(),
        marked(),
        references(),
        recorded(),
        edges(),
        definition_rows(),
        native_objects(),
    ]
    .concat()
}

/// Every version and profile, by the name its golden files begin with.
fn manners() -> [(&'static str, RenderOptions); 4] {
    let options = |version, profile| RenderOptions { version, profile, ..RenderOptions::default() };
    [
        ("standard-21", options(StixVersion::V21, Profile::Standard)),
        ("standard-20", options(StixVersion::V20, Profile::Standard)),
        ("xsoar-21", options(StixVersion::V21, Profile::Xsoar)),
        ("xsoar-20", options(StixVersion::V20, Profile::Xsoar)),
    ]
}

fn as_indicators(options: RenderOptions) -> RenderOptions {
    RenderOptions { indicator_types: INDICATOR_TYPES.iter().copied().collect(), ..options }
}

fn with_fields(options: &RenderOptions, fields: &[&str]) -> RenderOptions {
    let fields = match fields {
        ["all"] => ExtensionFields::All,
        names => ExtensionFields::Named(names.iter().map(|name| Box::from(*name)).collect()),
    };
    let space = IdSpace::new("test", IdScheme::Stix);
    RenderOptions { extensions: Some(Arc::new(Extensions::new(fields, &space))), ..options.clone() }
}

const LISTED: [&str; 10] = [
    "value",
    "type",
    "score",
    "sourceBrands",
    "trafficlightprotocol",
    "tags",
    "nested",
    "absent",
    "isShared",
    "region",
];

/// Options of every kind, for the promises that hold for all of them.
fn all_options() -> Vec<RenderOptions> {
    let manners = manners().into_iter().map(|(_, options)| options);
    let both = manners.flat_map(|options| [options.clone(), as_indicators(options)]);
    both.flat_map(|options| [options.clone(), with_fields(&options, &["all"]), with_fields(&options, &LISTED)])
        .collect()
}

#[test]
fn golden_objects() {
    let marked = [marked(), references()].concat();
    for (name, options) in manners() {
        let file = |what: &str, rows: &[Value], options: &RenderOptions| {
            golden(&format!("{name}-{what}.json"), &each(&batch(rows), options));
        };
        file("observables", &observables(), &options);
        file("indicators", &observables(), &as_indicators(options.clone()));
        file("domain-objects", &domain_objects(), &options);
        file("marked", &marked, &options);
        file("edges", &edges(), &options);
        let some = RenderOptions { indicator_types: [StixType::Ipv4Addr].into_iter().collect(), ..options.clone() };
        file("edges-of-indicators", &[edges(), references()].concat(), &some);
        file("extensions-all", &recorded(), &with_fields(&some, &["all"]));
        file("extensions-list", &recorded(), &with_fields(&some, &LISTED));
        file("definitions", &definition_rows(), &with_fields(&options, &["all"]));
    }
}

#[test]
fn golden_odd_rows() {
    let batch = batch(&odd());
    golden("odd-21.json", &[each(&batch, &plain_options()), each(&batch, &indicator_options())].concat());
    let [.., (_, xsoar), _] = manners();
    golden("odd-xsoar-21.json", &[each(&batch, &xsoar), each(&batch, &as_indicators(xsoar))].concat());
}

#[test]
fn golden_manifest() {
    let rows = [
        &observables()[..3],
        &domain_objects()[..2],
        &native_objects(),
        &edges()[..1],
        &definition_rows(),
        &[indicator("Location", "de", json!({})), odd().remove(5)],
    ]
    .concat();
    for (name, options) in manners() {
        let options = RenderOptions { indicator_types: [StixType::Ipv6Addr].into_iter().collect(), ..options };
        let mut out = Vec::new();
        let written = manifest(&batch(&rows), &with_fields(&options, &["all"]), &mut out).unwrap();
        assert_eq!(written.written + written.skipped, rows.len(), "{name}");
        let records = String::from_utf8(out).unwrap();
        let records: Vec<String> =
            records.split("},").map(|record| format!("{}}}", record.trim_end_matches('}'))).collect();
        assert_eq!(records.len(), written.written, "{name}");
        golden(&format!("{name}-manifest.json"), &records);
    }
}

#[test]
fn native_objects_come_out_as_they_came() {
    assert_eq!(each(&batch(&native_objects()), &indicator_options()), [NATIVE_20, NATIVE_ODD, EDGE]);
}

#[test]
fn objects_are_compact_sorted_and_have_the_ids_of_the_store() {
    let rows = [observables(), odd(), domain_objects(), marked(), references(), edges()].concat();
    for options in all_options().into_iter().filter(|options| options.extensions.is_none()) {
        for object in each(&batch(&rows), &options) {
            let is_xsoar = options.profile == Profile::Xsoar;
            let mut sorted = canonical(&object).into_bytes();
            if is_xsoar {
                crate::model::json::make_ascii(&mut sorted, 0);
            }
            assert_eq!(String::from_utf8(sorted).unwrap(), object);
            let value: Value = serde_json::from_str(&object).unwrap();
            let id = value["id"].as_str().unwrap();
            let (prefix, uuid) = id.split_once("--").unwrap_or_default();
            if !is_xsoar {
                assert_eq!(Some(prefix), value["type"].as_str(), "{object}");
                if !object.contains(OWN_ID) && StixType::named(prefix).unwrap().is_sco() {
                    assert_eq!(crate::model::ids::sco_id_of_text(&object).as_deref(), Some(id), "{object}");
                }
            }
            if is_strict_20(&options) {
                assert_eq!(parse_uuid(uuid.as_bytes()).unwrap()[6] >> 4, 4, "{object}");
                assert!(!object.contains("spec_version") && !object.contains("\"confidence\""), "{object}");
            }
        }
    }
}

/// Whatever is asked for, with extensions or without, an object says the same besides.
#[test]
fn extensions_change_nothing_else() {
    let batch = batch(&[observables(), domain_objects(), recorded()].concat());
    for options in all_options().into_iter().filter(|options| options.extensions.is_some()) {
        let without = RenderOptions { extensions: None, ..options.clone() };
        let extended = each(&batch, &options);
        assert_eq!(extended.len(), each(&batch, &without).len());
        for (extended, plain) in extended.iter().zip(each(&batch, &without)) {
            let mut value: Value = serde_json::from_str(extended).unwrap();
            let members = value.as_object_mut().unwrap();
            let extension = members.remove("extensions").or_else(|| members.remove("x_cortex_xsoar_tim"));
            assert_eq!(value, serde_json::from_str::<Value>(&plain).unwrap(), "{extended}");
            if options.profile == Profile::Xsoar {
                assert!(extended.is_ascii());
            }
            assert!(extension.is_some() || is_strict_20(&options), "{extended}");
        }
    }
}

#[test]
fn manifest_and_ids_agree_with_objects() {
    let batch = batch(&everything());
    let manifest_batch = project(&batch, manifest_columns());
    for options in all_options() {
        let objects = each(&batch, &options);
        let mut out = Vec::new();
        let counts = manifest(&manifest_batch, &options, &mut out).unwrap();
        assert_eq!(counts.written + counts.skipped, batch.num_rows());
        let records: Vec<Value> = serde_json::from_str(&format!("[{}]", String::from_utf8(out).unwrap())).unwrap();
        let mut listed = Vec::new();
        versions(&manifest_batch, &options, &mut listed).unwrap();
        let listed: Vec<String> = serde_json::from_str(&format!("[{}]", String::from_utf8(listed).unwrap())).unwrap();
        let ids = Ids::bind(&manifest_batch, &options).unwrap();
        let ids: Vec<String> = (0..batch.num_rows())
            .filter_map(|row| {
                let mut id = Vec::new();
                ids.write(row, &mut id).map(|()| String::from_utf8(id).unwrap())
            })
            .collect();
        // Of relationships only their own row tells that an end has no form; the feed leaves those out by their ends.
        let dangling = if is_strict_20(&options) { 1 } else { 0 };
        assert_eq!([records.len(), listed.len(), ids.len()], [objects.len() + dangling; 3]);
        let mut of_manifest = records.iter().zip(&listed).zip(&ids);
        for object in objects {
            let object: Value = serde_json::from_str(&object).unwrap();
            let ((record, version), id) = of_manifest.find(|(_, id)| object["id"] == id.as_str()).unwrap();
            assert_eq!(record["id"], id.as_str());
            match (options.profile, options.version) {
                (Profile::Xsoar, StixVersion::V20) => assert_eq!(record.as_object().unwrap().len(), 2),
                (Profile::Xsoar, StixVersion::V21) => assert_eq!(record["version"], version.as_str()),
                (Profile::Standard, StixVersion::V20) => assert_eq!(record["versions"], json!([version])),
                (Profile::Standard, StixVersion::V21) => assert_eq!(record["version"], version.as_str()),
            }
            if let Some(modified) = object["modified"].as_str() {
                assert_eq!(Timestamp::parse(modified), Timestamp::parse(version), "{object}");
            }
        }
    }
}

#[test]
fn the_store_finds_what_2_0_calls_otherwise() {
    let [_, (_, strict), (_, xsoar), _] = manners();
    let served = "observed-data--2f689bf9-0ff2-445f-aa61-e495eb8cecc7";
    assert_eq!(stored_id(&strict, served).as_deref(), Some("observed-data--2f689bf9-0ff2-545f-aa61-e495eb8cecc7"));
    assert_eq!(stored_id(&xsoar, served), None);
    for id in ["", "x--", "malware--2f689bf9-0ff2-545f-aa61-e495eb8cecc7"] {
        assert_eq!(stored_id(&strict, id), None, "{id}");
    }
}

/// What is counted as served is what is written.
#[test]
fn what_is_left_out_can_be_told_beforehand() {
    let rows = [domain_objects(), definition_rows()].concat();
    for options in all_options() {
        let is_served = |row: &&Value| {
            let stix_type = StixType::named(row["stix_type"].as_str().unwrap()).unwrap();
            match stix_type {
                StixType::MarkingDefinition => marking_colours(&options).contains(&row["value"].as_str().unwrap()),
                StixType::ExtensionDefinition => definitions(&options).contains(&stix_type),
                _ => !left_out(&options).contains(&stix_type),
            }
        };
        assert_eq!(each(&batch(&rows), &options).len(), rows.iter().filter(is_served).count(), "{options:?}");
        let has_markings = definitions(&options).contains(&StixType::MarkingDefinition);
        assert_eq!(has_markings, !marking_colours(&options).is_empty());
    }
}

/// spec/xsoar-taxii2-server.md §2.7, §3.1, §4.3, §4.5 to §4.7, §5 and §6.
#[test]
fn the_examples_of_the_specification() {
    let [.., (_, v21), (_, v20)] = manners();
    let one = |row: Value, options: &RenderOptions| {
        let objects = each(&batch(&[row]), options);
        serde_json::from_str::<Value>(&objects[0]).unwrap()
    };
    let dates = json!({"created": "2021-12-08T09:32:24.102219+02:00", "modified": "2023-03-27T11:05:02.105210559Z", "score": 0});
    let ip = indicator("IP", "8.8.8.8", dates.clone());
    for (options, version) in [(&v21, "2.1"), (&v20, "2.0")] {
        let expected = format!(
            r#"{{"created":"2021-12-08T07:32:24.102219Z","id":"ipv4-addr--2f689bf9-0ff2-545f-aa61-e495eb8cecc7","modified":"2023-03-27T11:05:02.105210Z","spec_version":"{version}","type":"ipv4-addr","value":"8.8.8.8"}}"#
        );
        assert_eq!(each(&batch(std::slice::from_ref(&ip)), options), [expected]);
    }
    let as_indicator = one(ip.clone(), &as_indicators(v20.clone()));
    assert_eq!(as_indicator["id"], "indicator--5858b9e9-063f-573b-bb34-42cab292eaeb");
    assert_eq!(as_indicator["labels"], json!(["unknown"]));
    assert_eq!(
        (&as_indicator["pattern_type"], &as_indicator["valid_from"]),
        (&json!("stix"), &as_indicator["created"])
    );
    let mut manifests = Vec::new();
    manifest(&batch(&[ip]), &v20, &mut manifests).unwrap();
    assert_eq!(
        String::from_utf8(manifests).unwrap(),
        r#"{"date_added":"2024-06-01T00:00:00.000000Z","id":"ipv4-addr--2f689bf9-0ff2-545f-aa61-e495eb8cecc7"}"#
    );
    let technique =
        indicator("Attack Pattern", "Web Protocols", json!({"mitre_id": "T1071.004", "stix_type": "attack-pattern"}));
    let technique = one(technique, &v21);
    assert_eq!(technique["id"], "attack-pattern--345babe7-43f6-536b-a2c3-127436065444");
    assert_eq!((&technique["name"], &technique["description"]), (&json!("Web Protocols"), &json!("")));
    assert_eq!(one(indicator("Malware", "m", json!({})), &v21)["labels"], json!(["malware"]));
    let related = one(edges()[0].clone(), &v21);
    assert_eq!(related["id"], "relationship--c04f44cd-c8a8-52aa-90d5-77a5249fe7b7");
    assert_eq!(related["relationship_type"], "related to");
    assert_eq!(related["source_ref"], "ipv4-addr--cbd67181-b9f8-595b-8bc3-3971e34fa1cc");
    assert_eq!(related["target_ref"], "ipv4-addr--c2214d54-b5d9-5725-937f-75750897b452");
    let described = one(edges()[1].clone(), &v21);
    assert_eq!(described["id"], "relationship--91c923a5-ba81-5729-8b8b-ffb9220a95db");
    assert_eq!(described["source_ref"], "file--4c51b4d2-afe2-5225-b003-c83cbfde02ee");
    assert_eq!(described["target_ref"], "domain-name--30729184-1706-51da-9384-a2683c171b50");
    assert!(described["Description"].is_string() && described["description"].is_null());
}

/// XSOAR's own feed takes the custom fields from `CustomFields`, else from the extension itself, and the verdict.
#[test]
fn records_make_the_round_trip() {
    let rows = recorded();
    for (name, options) in manners() {
        let options = with_fields(&options, &["all"]);
        let objects = each(&batch(&rows), &options);
        let read: Vec<(Value, Value)> = objects
            .iter()
            .map(|object| {
                let object: Value = serde_json::from_str(object).unwrap();
                let extension = match &object["extensions"] {
                    Value::Object(extensions) => extensions.values().next().unwrap().clone(),
                    _ => object["x_cortex_xsoar_tim"].clone(),
                };
                let custom = extension.get("CustomFields").unwrap_or(&extension).clone();
                (extension["score"].clone(), custom)
            })
            .collect();
        let has = |row: usize, key: &str, expected: Value| assert_eq!(read[row].1[key], expected, "{name} {row} {key}");
        assert_eq!(
            read.iter().map(|(score, _)| score.as_i64()).collect::<Vec<_>>(),
            [Some(3), Some(1), Some(0), None, None, None]
        );
        has(0, "tags", json!(["b", "A C"]));
        has(0, "region", json!("\u{c9}/\u{1f600}"));
        has(0, "trafficlightprotocol", json!("TLP:GREEN"));
        has(0, "zero", json!(0));
        has(1, "tags", json!(["b", "A C", "from a list"]));
        has(1, "region", json!("changed"));
        has(1, "trafficlightprotocol", json!("red"));
        has(1, "description", json!("of another input"));
        has(1, "stixid", json!("ipv4-addr--44444444-4444-4444-8444-444444444444"));
        has(1, "other", json!({"a": 2, "b": 1}));
        has(1, "confidence", json!(70));
        has(1, "mitreid", json!("T1"));
        has(2, "tags", json!(["plain"]));
        has(5, "sha1", json!("da39a3ee5e6b4b0d3255bfef95601890afd80709"));
        has(5, "md5", Value::Null);
    }
}

#[test]
fn bad_rows_are_skipped_and_counted() {
    let good = || indicator("IP", "8.8.8.8", json!({}));
    let without = |key: &str| {
        let mut row = good();
        row[key] = Value::Null;
        row
    };
    let mut edge_without_document = native_objects().remove(2);
    edge_without_document["document"] = "".into();
    let bad = [
        without("id"),
        without("indicator_id"),
        without("value"),
        without("stix_type"),
        without("kind"),
        indicator("Host", "srv1", json!({"id": "11111111-1111-4111-8111-111111111111"})),
        indicator("Host", "m", json!({"id": "11111111-1111-4111-8111-111111111111", "stix_type": "mutex"})),
        indicator("Malware", "m", json!({"added": null})),
        indicator("File", "evil.exe", json!({"stix_type": "file", "id": "11111111-1111-4111-8111-111111111111"})),
        indicator(
            "ASN",
            "many",
            json!({"stix_type": "autonomous-system", "id": "11111111-1111-4111-8111-111111111111"}),
        ),
        edge_without_document,
    ];
    for row in bad {
        // The row without `id` can still be an `indicator`, the one without `indicator_id` an observable.
        let options = if row["id"].is_null() { plain_options() } else { indicator_options() };
        let one = rendered(&batch(&[good()]), &options);
        for rows in [[row.clone(), good(), good()], [good(), row.clone(), good()], [good(), good(), row.clone()]] {
            let (mut out, mut ends) = (Vec::new(), Vec::new());
            let counts = objects(&batch(&rows), &options, &mut out, Some(&mut ends)).unwrap();
            assert_eq!(counts, Rendered { written: 2, skipped: 1 }, "{row}");
            assert_eq!(String::from_utf8(out).unwrap(), format!("{one},{one}"), "{row}");
            assert_eq!(ends, [one.len(), 2 * one.len() + 1], "{row}");
        }
        let mut lines = Vec::new();
        let counts = ndjson(&batch(&[good(), row.clone(), good()]), &options, &mut lines).unwrap();
        assert_eq!(counts, Rendered { written: 2, skipped: 1 }, "{row}");
        assert_eq!(String::from_utf8(lines).unwrap(), format!("{one}\n{one}\n"), "{row}");
    }
}

fn project(batch: &RecordBatch, names: &[&str]) -> RecordBatch {
    let indices: Vec<usize> = names.iter().map(|name| batch.schema().index_of(name).unwrap()).collect();
    batch.project(&indices).unwrap()
}

#[test]
fn the_named_columns_suffice_and_all_are_needed() {
    let batch = batch(&everything());
    for options in all_options() {
        let expected = rendered(&batch, &options);
        let all = columns(&options, None);
        assert_eq!(rendered(&project(&batch, &all), &options), expected);
        for left_out in &all {
            let names: Vec<&str> = all.iter().copied().filter(|name| name != left_out).collect();
            match objects(&project(&batch, &names), &options, &mut Vec::new(), None) {
                Err(RenderError::MissingColumn { column }) => assert_eq!(column, *left_out),
                other => panic!("{left_out}: {other:?}"),
            }
        }
        let rows = everything();
        for (at, row) in rows.iter().enumerate().filter(|(_, row)| row["spec_version"].is_null()) {
            let one = batch.slice(at, 1);
            let stix = StixType::named(row["stix_type"].as_str().unwrap()).unwrap();
            let names = indicator_columns(&options, Some(&[stix]));
            assert_eq!(rendered(&project(&one, &names), &options), rendered(&one, &options), "{stix}");
        }
    }
}

#[test]
fn a_page_of_addresses_reads_five_columns() {
    let types = [StixType::Ipv4Addr, StixType::Ipv6Addr];
    let narrow = [column::KIND, column::STIX_TYPE, column::ID, column::VALUE, column::TLP];
    assert_eq!(indicator_columns(&plain_options(), Some(&types)), narrow);
    let with_natives = [
        column::KIND,
        column::STIX_TYPE,
        column::ID,
        column::SPEC_VERSION,
        column::VALUE,
        column::TLP,
        column::DOCUMENT,
    ];
    assert_eq!(columns(&plain_options(), Some(&types)), with_natives);
    for options in all_options() {
        let positions: Vec<usize> =
            columns(&options, None).iter().map(|name| schema().index_of(name).unwrap()).collect();
        assert!(positions.is_sorted());
    }
}

#[test]
fn wrong_types_are_named() {
    let batch = batch(&observables());
    let schema = batch.schema();
    let at = schema.index_of(column::VALUE).unwrap();
    let mut fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    fields[at] = Field::new(column::VALUE, DataType::Int8, true);
    let mut arrays = batch.columns().to_vec();
    arrays[at] = Arc::new(Int8Array::from(vec![1; batch.num_rows()]));
    let wrong = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
    match objects(&wrong, &plain_options(), &mut Vec::new(), None) {
        Err(RenderError::ColumnType { column: column::VALUE, found: DataType::Int8 }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_form_of_text_does_not_matter() {
    let batch = batch(&everything());
    let expected = rendered(&batch, &indicator_options());
    for form in [DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View] {
        let is_text = |array: &ArrayRef| matches!(array.data_type(), DataType::Utf8 | DataType::Dictionary(..));
        let arrays: Vec<ArrayRef> = batch
            .columns()
            .iter()
            .map(|array| if is_text(array) { cast(array, &form).unwrap() } else { Arc::clone(array) })
            .collect();
        let schema = batch.schema();
        let fields = schema.fields().iter().zip(&arrays);
        let fields: Vec<Field> =
            fields.map(|(field, array)| field.as_ref().clone().with_data_type(array.data_type().clone())).collect();
        let recast = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
        assert_eq!(rendered(&recast, &indicator_options()), expected, "{form}");
    }
}

#[test]
fn slices_join_to_the_whole() {
    let batch = batch(&everything());
    let options = indicator_options();
    let whole = rendered(&batch, &options);
    for at in 0..=batch.num_rows() {
        let (head, tail) = (batch.slice(0, at), batch.slice(at, batch.num_rows() - at));
        let parts: Vec<String> =
            [head, tail].iter().map(|part| rendered(part, &options)).filter(|part| !part.is_empty()).collect();
        assert_eq!(parts.join(","), whole, "{at}");
    }
}

proptest! {
    // Every case is rendered in all the ways there are.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_text_gives_canonical_objects(
        value in "\\PC{0,12}|[\"'\\\\\n\t a*.]{0,8}",
        description in any::<String>(),
        tag in any::<String>(),
        phase in any::<String>(),
    ) {
        let others = json!({"description": description, "tags": [tag, tag], "kill_chain_phases": [phase], "mitre_id": tag});
        let types = ["URL", "Domain", "Registry Key", "Account", "Attack Pattern", "Report", "Location"];
        let rows: Vec<Value> = types.iter().map(|xsoar| indicator(xsoar, &value, others.clone())).collect();
        for options in all_options() {
            let objects = each(&batch(&rows), &options);
            prop_assert_eq!(objects.len(), types.len() - left_out(&options).iter().filter(|left| **left == StixType::Location).count());
            for object in objects {
                let mut sorted = canonical(&object).into_bytes();
                if options.profile == Profile::Xsoar {
                    crate::model::json::make_ascii(&mut sorted, 0);
                }
                prop_assert_eq!(String::from_utf8(sorted).unwrap(), object.clone());
                let mut read: Value = serde_json::from_str(&object).unwrap();
                if read["type"] == "observed-data" {
                    read = read["objects"]["0"].clone();
                }
                if read["type"] == "indicator" && options.profile == Profile::Xsoar {
                    continue;
                }
                let shown = ["name", "value", "key", "account_login"].iter().find_map(|key| read[*key].as_str());
                prop_assert_eq!(shown, Some(value.as_str()));
                prop_assert!(read["labels"].as_array().is_none_or(|labels| labels.len() == 1));
            }
        }
    }
}
