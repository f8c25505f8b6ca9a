//! Whole inputs in, rows out: every format, every framing, and what is broken.

use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::ingest::{
    Compression, DecodeError, DecodeOptions, Format, Input, InputError, InputSpec, Parsed, decode, expand,
};
use crate::model::ids::{IdScheme, IdSpace, ScoFacts, sco_id_of_text, split_stix_id};

fn options() -> DecodeOptions {
    DecodeOptions::new(Arc::new(IdSpace::new("test", IdScheme::Stix)))
}

/// All blocks of an input, and how it ended.
fn decode_all(name: &str, bytes: &[u8], options: &DecodeOptions) -> (Vec<Parsed>, Result<(), DecodeError<Infallible>>) {
    let input = Input::from_reader(name, Some(bytes.len() as u64), std::io::Cursor::new(bytes.to_vec())).unwrap();
    let mut blocks = Vec::new();
    let result = decode(input, options, |parsed| {
        blocks.push(parsed);
        Ok(())
    });
    (blocks, result)
}

/// What an input holds, blocks joined: the rows without their nulls, the rejects as (line, reason).
struct Decoded {
    rows: Vec<Value>,
    rejects: Vec<(u64, String)>,
    lines: Vec<u64>,
    keys: Vec<u64>,
    digests: Vec<u64>,
    blocks: Vec<Parsed>,
}

impl Decoded {
    /// Some columns of all rows.
    fn columns(&self, names: &[&str]) -> Vec<Vec<Value>> {
        self.rows.iter().map(|row| names.iter().map(|name| row[*name].clone()).collect()).collect()
    }

    fn warnings(&self) -> Vec<(&str, u64)> {
        self.blocks.iter().flat_map(|block| &block.warnings.fields).map(|(name, count)| (*name, *count)).collect()
    }
}

fn join(blocks: Vec<Parsed>) -> Decoded {
    let mut writer = arrow::json::ArrayWriter::new(Vec::new());
    blocks.iter().for_each(|block| writer.write(&block.batch).unwrap());
    writer.finish().unwrap();
    let text = writer.into_inner();
    Decoded {
        rows: if text.is_empty() { Vec::new() } else { serde_json::from_slice(&text).unwrap() },
        rejects: blocks.iter().flat_map(|b| &b.rejects).map(|reject| (reject.line, reject.reason.clone())).collect(),
        lines: blocks.iter().flat_map(|block| block.lines.clone()).collect(),
        keys: blocks.iter().flat_map(|block| block.keys.clone()).collect(),
        digests: blocks.iter().flat_map(|block| block.digests.clone()).collect(),
        blocks,
    }
}

fn decoded_with(name: &str, bytes: impl AsRef<[u8]>, options: &DecodeOptions) -> Decoded {
    let (blocks, result) = decode_all(name, bytes.as_ref(), options);
    result.unwrap();
    join(blocks)
}

fn decoded(bytes: impl AsRef<[u8]>) -> Decoded {
    decoded_with("input", bytes, &options())
}

const DOCUMENT: &str = r#"{"id":"7","value":"192.0.2.1","indicator_type":"IP","timestamp":"2024-01-02T03:04:05.678Z","modified":"2024-02-01T00:00:00Z","score":3,"firstSeen":"0001-01-01T00:00:00Z","lastSeen":"2024-01-31T00:00:00+02:00","expiration":null,"sourceBrands":["F","G"],"sourceInstances":["F_1"],"aggregatedReliability":"A - Completely reliable","unknown":{"x":[1]},"CustomFields":{"zebra":{"b": 1, "a":[ 2 ]},"tags":["t1","t2","t1"],"description":"d","trafficlightprotocol":"TLP:AMBER","confidence":"80","alpha":1.50,"empty":null,"name":"kept"}}"#;

#[test]
fn an_xsoar_document_becomes_a_row() {
    let found = decoded(DOCUMENT);
    assert!(found.rejects.is_empty() && found.warnings().is_empty(), "{:?}", found.rejects);
    let mut row = found.rows[0].as_object().unwrap().clone();
    for id in ["id", "indicator_id"] {
        assert_eq!(row.remove(id).unwrap().as_str().map(str::len), Some(32), "{id}");
    }
    assert_eq!(
        Value::Object(row),
        json!({
            "kind": "indicator", "stix_type": "ipv4-addr", "type": "IP", "value": "192.0.2.1", "score": 3,
            "created": "2024-01-02T03:04:05.678Z", "modified": "2024-02-01T00:00:00Z",
            "source_modified": "2024-02-01T00:00:00Z", "last_seen": "2024-01-30T22:00:00Z",
            "tags": ["t1", "t2"], "source_brands": ["F", "G"], "source_instances": ["F_1"],
            "reliability": "A - Completely reliable", "confidence": 80, "tlp": "amber", "description": "d",
            "custom": "{\"alpha\":1.50,\"name\":\"kept\",\"zebra\":{\"b\":1,\"a\":[2]}}", "document": DOCUMENT,
        })
    );
}

#[test]
fn custom_fields_go_to_the_columns_of_their_types() {
    let cases = [
        (
            r#""indicator_type":"Registry Key","value":"HKLM\\X","CustomFields":{"keyvalue":[{"type":"REG_SZ","name":"n","data":"a\"b"},{"name":"m"},{}]}"#,
            json!({"registry_values": "[{\"name\":\"n\",\"data\":\"a\\\"b\",\"data_type\":\"REG_SZ\"},{\"name\":\"m\"}]"}),
        ),
        (
            r#""indicator_type":"X509 Certificate","value":"x","CustomFields":{"subject":[{"title":"CN","data":"x"},{"title":"O","data":"y"}],"issuer":"CN=z","validitynotbefore":"May 2024"}"#,
            json!({"subject": "CN=x, O=y", "issuer": "CN=z", "validity_not_before": "May 2024"}),
        ),
        (
            r#""indicator_type":"Report","value":"r","CustomFields":{"reportobjectreferences":[{"objectstixid":"malware--1"},"tool--2",{}],"published":"2024-05-01"}"#,
            json!({"object_refs": ["malware--1", "tool--2"], "published": "2024-05-01T00:00:00Z"}),
        ),
        (
            r#""indicator_type":"Malware","value":"m","CustomFields":{"ismalwarefamily":"true","killchainphases":["a",{"kill_chain_name":"c","phase_name":"p"}],"isrevoked":true,"sha256":"no hash"}"#,
            json!({"is_family": true, "kill_chain_phases": ["a", "c/p"], "revoked": true, "custom": "{\"sha256\":\"no hash\"}"}),
        ),
        (
            r#""indicator_type":"File","value":"D41D8CD98F00B204E9800998ECF8427E","CustomFields":{"md5":"00000000000000000000000000000000","sha1":"DA39A3EE5E6B4B0D3255BFEF95601890AFD80709","ssdeep":"3::"}"#,
            json!({"value": "D41D8CD98F00B204E9800998ECF8427E", "md5": "d41d8cd98f00b204e9800998ecf8427e", "sha1": "da39a3ee5e6b4b0d3255bfef95601890afd80709", "ssdeep": "3::"}),
        ),
        (
            r#""indicator_type":"IP","value":"192.0.2.1","CustomFields":{"isrevoked":"T","revoked":"f","ismalwarefamily":"maybe"}"#,
            json!({"revoked": true, "is_family": null, "custom": "{\"ismalwarefamily\":\"maybe\"}"}),
        ),
        (
            r#""indicator_type":"ASN","value":"AS64496","CustomFields":{"name":"Example","keyvalue":[{"name":"n"}]}"#,
            json!({"as_name": "Example", "custom": "{\"keyvalue\":[{\"name\":\"n\"}]}"}),
        ),
        (
            r#""indicator_type":"Account","value":"a","CustomFields":{"accounttype":"unix","userid":1001,"tags":"a, b,,a","confidence":"high","trafficlightprotocol":"pink"}"#,
            json!({"account_type": "unix", "user_id": "1001", "tags": ["a", "b"], "custom": "{\"confidence\":\"high\",\"trafficlightprotocol\":\"pink\"}"}),
        ),
    ];
    for (fields, expected) in cases {
        let found = decoded(format!("{{{fields}}}"));
        assert_eq!(found.rejects, [], "{fields}");
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&found.rows[0][name], value, "{name} of {fields}");
        }
        assert_eq!(found.rows[0]["custom"], expected["custom"], "{fields}");
    }
}

#[test]
fn one_odd_field_does_not_cost_the_record() {
    let odd = r#"{"value":"a.example","indicator_type":"Domain","timestamp":"yesterday","modified":17,"score":"bad","sourceBrands":"One, Two","sourceInstances":7,"aggregatedReliability":["B"],"expiration":{},"firstSeen":"","CustomFields":{"tags":null,"description":["x","y"],"mitreid":{"a":1},"published":"soon","subject":[1],"reportobjectreferences":{"x":1}}}"#;
    let found = decoded(odd);
    assert_eq!(found.rejects, []);
    let row = &found.rows[0];
    assert_eq!(found.warnings(), [("created", 1), ("modified", 1), ("published", 1)]);
    assert_eq!(
        found.columns(&["score", "source_brands", "source_instances", "reliability", "description"])[0],
        [json!(3), json!(["One", "Two"]), json!(["7"]), json!("B"), json!("x")]
    );
    assert_eq!(row["custom"], r#"{"mitreid":{"a":1},"published":"soon","reportobjectreferences":{"x":1}}"#);
    assert_eq!(row["created"], Value::Null);
}

#[test]
fn what_is_required_must_be_right() {
    let cases = [
        (r#"{"value":"","indicator_type":"IP"}"#, "`value` is missing, empty or not text"),
        (r#"{"indicator_type":"IP"}"#, "`value` is missing, empty or not text"),
        (r#"{"value":1,"indicator_type":"IP"}"#, "`value` is missing, empty or not text"),
        (r#"{"value":"a","indicator_type":{}}"#, "`indicator_type` is missing, empty or not text"),
        (r#"{"value":"a"}"#, "neither an XSOAR indicator (no `indicator_type`) nor a STIX object (no `type` and `id`)"),
        (r#"{"id":"a--b"}"#, "neither an XSOAR indicator (no `indicator_type`) nor a STIX object (no `type` and `id`)"),
        (
            r#"{"id":"a--b","type":"Bad Type"}"#,
            "`Bad Type` is not a STIX type; it must be lower-case letters, digits and `-`",
        ),
        (r#"{"id":1,"type":"tool"}"#, "a STIX object without `id`"),
        (
            r#"{"id":"relationship--8e2e2d2b-17d4-4cbf-938f-98ee46b3cd3f","type":"relationship","source_ref":"a--1"}"#,
            "a STIX object without `target_ref`",
        ),
        (r#"[[1]]"#, "not a JSON object"),
        (r#"{"value":"a" "indicator_type":"IP"}"#, "not valid JSON: expected `,` or `}` (line 1, column 14)"),
    ];
    for (text, reason) in cases {
        assert_eq!(decoded(text).rejects, [(1, reason.to_owned())], "{text}");
    }
    let invalid = decoded(r#"{"value":"999.1.1.1","indicator_type":"IP"}"#);
    assert!(invalid.rejects[0].1.contains("`999.1.1.1`"), "{:?}", invalid.rejects);
}

/// A document may say that it expired without saying when.
#[test]
fn what_has_expired_has_an_expiration() {
    let expired = "\"expirationStatus\":\"Expired\"";
    let dates = "\"timestamp\":\"2024-01-01T00:00:00Z\",\"modified\":\"2024-02-01T00:00:00Z\"";
    let source = |at: &str| format!("\"expirationSource\":{{\"source\":\"manual\",\"setTime\":\"{at}\"}}");
    let cases = [
        (format!("{expired},{dates},{}", source("2024-01-15T00:00:00Z")), json!("2024-01-15T00:00:00Z")),
        (format!("{expired},{dates},{}", source("0001-01-01T00:00:00Z")), json!("2024-02-01T00:00:00Z")),
        (format!("{expired},{dates},\"expiration\":\"0001-01-01T00:00:00Z\""), json!("2024-02-01T00:00:00Z")),
        (format!("{expired},{dates},\"expiration\":\"2030-01-01T00:00:00Z\""), json!("2030-01-01T00:00:00Z")),
        (format!("{expired},\"timestamp\":\"2024-01-01T00:00:00Z\""), json!("2024-01-01T00:00:00Z")),
        (expired.to_owned(), Value::Null),
        (format!("\"expirationStatus\":\"active\",{dates}"), Value::Null),
        (format!("{dates},{}", source("2024-01-15T00:00:00Z")), Value::Null),
    ];
    for (fields, expiration) in cases {
        let found = decoded(format!("{{\"indicator_type\":\"IP\",\"value\":\"192.0.2.1\",{fields}}}"));
        assert_eq!((&found.rows[0]["expiration"], found.warnings()), (&expiration, vec![]), "{fields}");
    }
}

/// The id is made of what is served, so both see the same values.
#[test]
fn registry_values_have_types_that_stix_knows() {
    let key = |rows: &str| {
        decoded(format!(
            "{{\"indicator_type\":\"Registry Key\",\"value\":\"HKLM\",\"CustomFields\":{{\"keyvalue\":{rows}}}}}"
        ))
    };
    let odd = key(r#"[{"name":"a","data":"1","type":"reg_dword"},{"name":"b","type":"string"},{"type":"REG"}]"#);
    let plain = key(r#"[{"name":"a","data":"1","type":"REG_DWORD"},{"name":"b"}]"#);
    let values = r#"[{"name":"a","data":"1","data_type":"REG_DWORD"},{"name":"b"}]"#;
    assert_eq!((&odd.rows[0]["registry_values"], odd.warnings()), (&json!(values), vec![("registry_values", 2)]));
    assert_eq!((&odd.rows[0]["id"], plain.warnings()), (&plain.rows[0]["id"], vec![]));
    let object = format!("{{\"type\":\"windows-registry-key\",\"key\":\"HKLM\",\"values\":{values}}}");
    assert_eq!(odd.rows[0]["id"], hex(&sco_id_of_text(&object).unwrap()));
    let nothing = key(r#"[{"type":"string"}]"#);
    assert_eq!(nothing.rows[0]["registry_values"], Value::Null);
    assert_eq!(nothing.rows[0]["custom"], r#"{"keyvalue":[{"type":"string"}]}"#);
}

#[test]
fn unknown_types_are_kept_and_counted() {
    let line = |own: &str| format!("{{\"value\":\"v\",\"indicator_type\":\"{own}\"}}\n");
    let found = decoded(line("Own") + &line("Mutex") + &line("Own"));
    assert_eq!(found.columns(&["type", "stix_type"])[0], [json!("Own"), Value::Null]);
    let counted: Vec<_> = found.blocks[0].warnings.unknown_types.clone().into_iter().collect();
    assert_eq!(counted, [("Mutex".to_owned(), 1), ("Own".to_owned(), 2)]);
    assert_ne!(found.rows[0]["id"], found.rows[1]["id"]);
}

/// A UUID column as the JSON writer shows it.
fn hex(stix_id: &str) -> Value {
    let (_, uuid) = split_stix_id(stix_id).unwrap();
    json!(uuid.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

#[test]
fn ids_follow_the_content_or_are_kept() {
    // The vectors are those of spec/xsoar-taxii2-server.md §3.1 (`test` is the customer string).
    let ids = IdSpace::new("test", IdScheme::Stix);
    let uuid_hex = |uuid: [u8; 16]| json!(uuid.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let given = "ipv4-addr--0c3b8e2a-7f0e-4f0c-9e1f-2f4b6c8d0a1e";
    let other = "indicator--0c3b8e2a-7f0e-4f0c-9e1f-2f4b6c8d0a1e";
    let document = |own: &str, value: &str, custom: &str| {
        format!("{{\"indicator_type\":\"{own}\",\"value\":\"{value}\",\"CustomFields\":{{{custom}}}}}\n")
    };
    let found = decoded(
        document("IP", "192.0.2.1", &format!("\"stixid\":\"{given}\""))
            + &document("IP", "192.0.2.2", &format!("\"stixid\":\"{other}\""))
            + &document("IP", "192.0.2.3", "\"stixid\":\"odd\"")
            + &document("Attack Pattern", "Phishing", "\"mitreid\":\"T1566\"")
            + &document("Host", "h", ""),
    );
    let rows = &found.rows;
    assert_eq!((&rows[0]["id"], &rows[0]["stix_id"]), (&hex(given), &json!(given)));
    assert_eq!((&rows[1]["indicator_id"], &rows[1]["stix_id"]), (&hex(other), &json!(other)));
    assert_ne!(rows[1]["id"], hex(other));
    assert_eq!(rows[2]["stix_id"], "odd");
    let own = |value: &str| uuid_hex(ids.sco("ipv4-addr", &ScoFacts { value, ..ScoFacts::default() }));
    assert_eq!((&rows[1]["id"], &rows[2]["id"]), (&own("192.0.2.2"), &own("192.0.2.3")));
    assert_eq!(rows[0]["indicator_id"], uuid_hex(ids.indicator("192.0.2.1")));
    assert_eq!(rows[3]["id"], uuid_hex(ids.sdo("attack-pattern", "T1566")));
    assert_eq!(rows[3]["indicator_id"], uuid_hex(ids.indicator("Phishing")));
    assert_eq!(rows[4]["id"], uuid_hex(ids.sdo("Host", "h")));
}

const OBJECTS: [&str; 4] = [
    r#"{"type":"ipv4-addr","id":"ipv4-addr--ff26c055-6336-5bc5-b98d-13d6226742dd","value":"198.51.100.3"}"#,
    r#"{"type":"x-own","id":"x-own--8E2E2D2B-17D4-4cbf-938f-98ee46b3cd3f","created":"2024-01-01T00:00:00.000Z","labels":["a"],"n":1.50,"m":2e0}"#,
    r#"{"type":"relationship","spec_version":"2.1","id":"relationship--44298a74-ba52-4f0c-87a3-1824e67d7fad","created":"2024-01-01T00:00:00Z","modified":"2024-02-01T00:00:00Z","relationship_type":"indicates","source_ref":"indicator--a","target_ref":"malware--b"}"#,
    r#"{"type":"indicator","spec_version":"2.1","id":"indicator--8e2e2d2b-17d4-4cbf-938f-98ee46b3cd3f","created":"2024-01-01T00:00:00Z","modified":"2024-02-01T00:00:00Z","name":"n","confidence":70,"revoked":true,"valid_until":"2025-01-01T00:00:00Z","object_marking_refs":["marking-definition--x","marking-definition--5e57c739-391a-4eb3-b6be-7d15ca92d5ed"]}"#,
];

#[test]
fn native_objects_are_kept_as_they_came() {
    let found = decoded(format!("{{\"type\":\"bundle\",\"id\":\"bundle--1\",\"objects\":[{}]}}", OBJECTS.join(",\n")));
    assert_eq!(found.rejects, []);
    assert_eq!(found.lines, [1, 2, 3, 4]);
    let columns = found.columns(&["kind", "stix_type", "spec_version", "value", "document"]);
    assert_eq!(
        columns[0],
        [json!("object"), json!("ipv4-addr"), json!("2.1"), json!("198.51.100.3"), json!(OBJECTS[0])]
    );
    assert_eq!(columns[1], [json!("object"), json!("x-own"), json!("2.0"), Value::Null, json!(OBJECTS[1])]);
    assert_eq!(columns[2][..3], [json!("relationship"), json!("relationship"), json!("2.1")]);
    assert_eq!(columns[3][3], "n");
    assert_eq!(found.rows[0]["id"], hex("ipv4-addr--ff26c055-6336-5bc5-b98d-13d6226742dd"));
    assert_eq!(found.rows[1]["stix_id"], "x-own--8E2E2D2B-17D4-4cbf-938f-98ee46b3cd3f");
    assert_eq!(
        found.columns(&["source_ref", "target_ref", "relationship_type"])[2],
        ["indicator--a", "malware--b", "indicates"]
    );
    assert_eq!(
        found.columns(&["confidence", "revoked", "expiration", "tlp", "source_modified"])[3],
        [json!(70), json!(true), json!("2025-01-01T00:00:00Z"), json!("red"), json!("2024-02-01T00:00:00Z")]
    );
    assert_eq!(found.rows[1]["source_modified"], "2024-01-01T00:00:00Z");
    assert_eq!(found.rows[1]["tags"], json!(["a"]));
}

/// Own types may have lists called as those of bundles; only a bundle's are unpacked.
#[test]
fn an_object_keeps_its_own_lists() {
    let id = "x-c--8e2e2d2b-17d4-4cbf-938f-98ee46b3cd3f";
    let forms = [
        format!("{{\"type\":\"x-c\",\"id\":\"{id}\",\"objects\":[{{\"a\":1}}],\"iocs\":[]}}"),
        format!("{{\"id\":\"{id}\",\"objects\":[{{\"a\":1}}],\"type\":\"x-c\"}}"),
    ];
    for form in forms {
        for text in [form.clone(), format!("{form}\n{}", OBJECTS[0]), format!("[{form}]"), format!("\n\n {form}")] {
            let found = decoded(&text);
            assert_eq!((&found.rows[0]["document"], found.rejects.len()), (&json!(form), 0), "{text}");
        }
    }
}

const RELATIONSHIP: &str = r#"{"id":"9","entityA":"192.0.2.1","entityAFamily":"Indicator","entityAType":"IP","entityB":"Mal","entityBFamily":"Indicator","entityBType":"Malware","name":"related to","reverseName":"related to","type":"IndicatorToIndicator","createdInSystem":"2024-01-01T00:00:00Z","modified":"2024-01-02T00:00:00Z","CustomFields":{"revoked":true,"description":"why"},"version":3}"#;

/// It names its ends by type and value; their ids are looked up when it enters the log.
#[test]
fn an_xsoar_relationship_keeps_its_form() {
    let found = decoded(RELATIONSHIP);
    let row = &found.rows[0];
    let ids = options().ids;
    let id = crate::ingest::edge::stix_id(crate::model::kind::StixType::Relationship, &ids.relationship("9"));
    assert_eq!(row["id"], hex(&id));
    let names = ["kind", "stix_type", "spec_version", "relationship_type", "description", "revoked", "document"];
    assert_eq!(
        found.columns(&names)[0],
        [
            json!("relationship"),
            json!("relationship"),
            Value::Null,
            json!("related to"),
            json!("why"),
            json!(true),
            json!(RELATIONSHIP)
        ]
    );
    assert_eq!((&row["created"], &row["modified"]), (&json!("2024-01-01T00:00:00Z"), &json!("2024-01-02T00:00:00Z")));
    assert_eq!((&row["source_ref"], &row["target_ref"]), (&Value::Null, &Value::Null));
    assert_eq!(row["object_refs"], json!(["IP", "192.0.2.1", "Malware", "Mal"]));
    // Bookkeeping is no content, a name is.
    for (from, to, same) in [
        ("\"version\":3", "\"version\":4", true),
        ("\"reverseName\":\"related to\"", "\"reverseName\":\"x\"", true),
        ("\"name\":\"related to\"", "\"name\":\"uses\"", false),
        ("\"entityB\":\"Mal\"", "\"entityB\":\"Other\"", false),
        ("\"revoked\":true", "\"revoked\":false", false),
    ] {
        let changed = decoded(RELATIONSHIP.replace(from, to));
        assert_eq!(changed.keys, found.keys);
        assert_eq!(changed.digests == found.digests, same, "{to}");
    }
}

#[test]
fn ends_of_relationships_that_are_no_indicators_are_kept_as_such() {
    let incident = RELATIONSHIP.replace("\"entityBFamily\":\"Indicator\"", "\"entityBFamily\":\"Incident\"");
    let found = decoded(
        incident.replace("\"entityBType\":\"Malware\",", "")
            + "\n{\"id\":\"9\",\"entityA\":\"a\",\"entityB\":\"b\",\"name\":\"x\"}",
    );
    assert_eq!(found.rows[0]["object_refs"], json!(["IP", "192.0.2.1", "", "Mal"]));
    assert_eq!(found.rejects, [(2, "a relationship without `entityAType`".to_owned())]);
}

/// What a search for relationships answers with.
#[test]
fn lists_called_data_are_search_responses() {
    let indicator = r#"{"value":"192.0.2.1","indicator_type":"IP"}"#;
    let cases = [
        (format!("{{\"data\":[{RELATIONSHIP},\n{indicator}],\"total\":2}}"), 2, vec![]),
        (format!("{{\"total\":1,\"data\":[{RELATIONSHIP}]}}\n{{\"total\":1,\"data\":[{RELATIONSHIP}]}}"), 2, vec![]),
        (format!("[{{\"data\":[{RELATIONSHIP}]}},{{\"iocs\":[{indicator}]}}]"), 2, vec![]),
        ("{\"data\":null,\"total\":0}".to_owned(), 0, vec![]),
        ("{\"data\":[]}".to_owned(), 0, vec![]),
        ("{\"data\":7}".to_owned(), 0, vec![(1, "`data` is not a list".to_owned())]),
        (r#"{"data":[{"a":1}],"id":"x-c--8e2e2d2b-17d4-4cbf-938f-98ee46b3cd3f","type":"x-c"}"#.to_owned(), 1, vec![]),
    ];
    for (text, rows, rejects) in cases {
        let found = decoded(&text);
        assert_eq!((found.rows.len(), &found.rejects), (rows, &rejects), "{text}");
    }
    assert_eq!(decoded(format!("{{\"data\":[{RELATIONSHIP},\n{indicator}],\"total\":2}}")).lines, [1, 2]);
}

#[test]
fn framing_does_not_change_the_content() {
    let second = DOCUMENT.replace("192.0.2.1", "192.0.2.2");
    let spaced = DOCUMENT.replace("\":", "\" :\n ").replace("\",\"", "\" , \"");
    let forms = [
        format!("{DOCUMENT}\n{second}\n"),
        format!("\u{feff}{DOCUMENT}\r\n\r\n{second}"),
        format!("[{DOCUMENT},{second}]"),
        format!("{DOCUMENT},\n{second},\n"),
        format!("{{\"total\":2,\"iocs\":[{spaced},\n{second}]}}"),
        format!("{spaced}\n{second}"),
        format!("[{{\"iocs\":[{DOCUMENT},{second}]}},{{\"iocs\":null}}]"),
    ];
    let expected = decoded(&forms[0]);
    assert_eq!(expected.lines, [1, 2]);
    for form in &forms {
        let found = decoded(form);
        assert_eq!(found.rejects, [], "{form}");
        assert_eq!((&found.keys, &found.digests), (&expected.keys, &expected.digests), "{form}");
    }
    let other = decoded(DOCUMENT.replace("\"alpha\":1.50", "\"alpha\":1.51"));
    assert_eq!(other.keys[0], expected.keys[0]);
    assert_ne!(other.digests[0], expected.digests[0]);
    let fresher = decoded(DOCUMENT.replace("\"id\":\"7\"", "\"id\":\"8\""));
    assert_eq!(fresher.digests[0], expected.digests[0], "bookkeeping is no content");
}

/// What would make a page unreadable or an object ambiguous does not get into the store.
#[test]
fn objects_no_consumer_can_read_are_refused() {
    let id = "tool--8e2e2d2b-17d4-4cbf-938f-98ee46b3cd3f";
    let object = |rest: &str| format!("{{\"type\":\"tool\",\"id\":\"{id}\",{rest}}}");
    let half = |place: &str| format!("it holds half of a surrogate pair, which is no character ({place})");
    let huge = |place: &str| format!("it holds a number beyond what any reader can hold ({place})");
    let twice = |key: &str| format!("the key `{key}` is there twice");
    let mut cases = vec![
        (object(r#""x":{"y":["\ud800"]}"#), half("line 1, column 77")),
        (object("\n \"x\":{\"y\":-1e999}"), huge("line 2, column 11")),
        (object(r#""x":1,"x":1"#), twice("x")),
        (object(r#""name":"a","name":"b""#), twice("name")),
        (
            r#"{"value":"192.0.2.1","indicator_type":"IP","CustomFields":{"x":"\udc00"}}"#.to_owned(),
            half("line 1, column 65"),
        ),
        (r#"{"value":"192.0.2.1","indicator_type":"IP","x":[1e400]}"#.to_owned(), huge("line 1, column 49")),
    ];
    for bad in ["tool--1", "", "malware--8e2e2d2b-17d4-4cbf-938f-98ee46b3cd3f", &id.replacen("--", "-", 1), &id[6..]] {
        let reason = match bad {
            "" => "a STIX object without `id`".to_owned(),
            _ => format!("`{bad}` is not the id of a `tool`; it must be `tool--` and a UUID"),
        };
        cases.push((format!("{{\"type\":\"tool\",\"id\":\"{bad}\"}}"), reason));
    }
    for (text, reason) in &cases {
        assert_eq!(decoded(text).rejects.iter().map(|(_, reason)| reason).collect::<Vec<_>>(), [reason], "{text}");
        // In a page on a later line it costs nothing but itself.
        let line = text.replace('\n', " ");
        let found = decoded(format!("{DOCUMENT}\n{{\"objects\":[{line},{}]}}", OBJECTS[0]));
        assert_eq!((found.rejects.len(), found.rows.len()), (1, 2), "{text}");
    }
    let good = object(r#""x":{"y":"\ud83d\ude00","y":1e308}"#);
    assert_eq!(decoded(&good).rows[0]["document"], good);
}

/// Whatever is no record and no empty response is counted and rejected, wherever it stands.
#[test]
fn nothing_vanishes() {
    let no_id = "a STIX object without `id`";
    let neither = "neither an XSOAR indicator (no `indicator_type`) nor a STIX object (no `type` and `id`)";
    let cases = [
        (r#"{"type":"indicator","pattern":"x"}"#, no_id),
        (r#"{"type":"x-own","id":null,"value":"1"}"#, no_id),
        (r#"{"type":"url","value":"http://a.example"}"#, no_id),
        (r#"{"type":"Mutex","value":"m"}"#, neither),
        (r#"{"type":"IP"}"#, neither),
        (r#"{"more":false,"value":"192.0.2.1"}"#, neither),
        (r#"{}"#, neither),
        (r#"{"iocs":{"value":"192.0.2.1","indicator_type":"IP"}}"#, "`iocs` is not a list"),
        (r#"{"type":"bundle","objects":{"type":"tool"}}"#, "`objects` is not a list"),
        (r#"{"more":true,"objects":"x"}"#, "`objects` is not a list"),
    ];
    for (text, reason) in cases {
        let member = format!("{{\"type\":\"bundle\",\"id\":\"bundle--1\",\"objects\":[{text}]}}");
        for whole in [text.to_owned(), format!("{DOCUMENT}\n{text}"), member.clone(), format!("{DOCUMENT}\n{member}")] {
            let found = decoded(&whole);
            let rejects: Vec<&str> = found.rejects.iter().map(|(_, reason)| reason.as_str()).collect();
            assert_eq!(rejects, [reason], "{whole}");
            let read: u64 = found.blocks.iter().map(|block| block.read).sum();
            assert_eq!(read as usize, found.rows.len() + 1, "{whole}");
        }
    }
}

#[test]
fn a_type_that_names_one_of_ours_is_an_indicators() {
    let cases = [
        (r#"{"value":"1.1.1.1","type":"IP"}"#, ["IP", "1.1.1.1"]),
        (r#"{"id":"7","value":"a.example","type":"domain","score":3}"#, ["Domain", "a.example"]),
        (r#"{"value":"192.0.2.0/24","type":"ip","indicator_type":null}"#, ["CIDR", "192.0.2.0/24"]),
        (r#"{"value":"m","type":"Malware"}"#, ["Malware", "m"]),
        (r#"{"value":"192.0.2.1","type":"url","indicator_type":"IP"}"#, ["IP", "192.0.2.1"]),
    ];
    for (text, expected) in cases {
        let found = decoded(text);
        assert_eq!(found.rejects, [], "{text}");
        assert_eq!(found.columns(&["type", "value"])[0], expected, "{text}");
    }
}

#[test]
fn empty_inputs_and_responses_hold_nothing() {
    for text in [
        "",
        "\n \n",
        "[]",
        "{\"iocs\":null,\"total\":0}",
        "{\"iocs\":[]}",
        "{\"more\":false}",
        "{\"more\":true,\"next\":\"x\",\"objects\":null}",
        "{\"total\":0,\"searchAfter\":null,\"iocs\":null,\"x\":1}",
        "{\"type\":\"bundle\",\"id\":\"bundle--1\"}",
        "\u{feff}",
        "# only\n",
    ] {
        let found = decoded(text);
        assert!(found.rows.is_empty() && found.rejects.is_empty(), "{text} {:?}", found.rejects);
    }
}

#[test]
fn broken_parts_cost_only_themselves() {
    let good = |n: u32| format!("{{\"value\":\"192.0.2.{n}\",\"indicator_type\":\"IP\"}}");
    let mut input = format!("{}\n{{\"value\":\"192.0.\n{}\n", good(1), good(2)).into_bytes();
    input.extend_from_slice(b"{\"value\":\"\xff\",\"indicator_type\":\"IP\"}\n");
    input.extend_from_slice(good(3).as_bytes());
    let found = decoded(&input);
    assert_eq!(found.lines, [1, 3, 5]);
    assert_eq!(found.rejects.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(found.rejects[1].1, "not UTF-8 at byte 11");
    assert_eq!(found.blocks[0].rejects[1].text, "{\"value\":\"\u{fffd}\",\"indicator_type\":\"IP\"}");
    assert_eq!(found.blocks[0].read, 5);

    let found = decoded(format!("[{},\n{{\"value\" 1}},\n{},\n{{\"value\":", good(1), good(2)));
    assert_eq!(found.lines, [1, 3]);
    assert_eq!(found.rejects[1], (4, "the input ends in the middle of this record".to_owned()));
    let found = decoded(format!("{{\"iocs\":[{}\n", good(1)));
    assert_eq!(found.rows.len(), 1);
    assert_eq!(found.rejects, [(2, "the input ends before the list around its records does".to_owned())]);
}

#[test]
fn deep_nesting_is_refused_without_a_crash() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let wrapped = format!("{}{}", "{\"objects\":[".repeat(100_000), "]}".repeat(100_000));
    let lists = format!("{{\"a\":1}}\n{}{}", "{\"objects\":[".repeat(20), "]}".repeat(20));
    for text in [
        format!("{{\"value\":\"192.0.2.1\",\"indicator_type\":\"IP\",\"x\":{deep}}}"),
        format!("{{\"value\":\"192.0.2.1\",\"indicator_type\":\"IP\",\"CustomFields\":{{\"x\":{deep}}}}}"),
        deep.clone(),
        wrapped,
        lists,
        "[".repeat(100_000),
        "{\"a\":".repeat(100_000),
    ] {
        let found = decoded(&text);
        assert!(found.rows.is_empty() && !found.rejects.is_empty(), "{}", &text[..60]);
    }
}

#[test]
fn lists_are_typed_by_their_values() {
    let text = "# feed\n192.0.2.1\r\nhxxp://a[.]example/x # why\n\n2001:db8::/32\nnonsense here\nd41d8cd98f00b204e9800998ecf8427e\n";
    let found = decoded(text);
    let expected = [
        ["IP", "192.0.2.1"],
        ["URL", "http://a.example/x"],
        ["IPv6CIDR", "2001:db8::/32"],
        ["File", "d41d8cd98f00b204e9800998ecf8427e"],
    ];
    assert_eq!(found.columns(&["type", "value"]), expected.map(|row| row.map(Value::from).to_vec()));
    assert_eq!(found.lines, [2, 3, 5, 7]);
    assert_eq!(found.rejects.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [6]);
    assert_eq!(found.rows[3]["md5"], "d41d8cd98f00b204e9800998ecf8427e");
    assert_eq!(found.digests, decoded(text).digests);

    let with = DecodeOptions {
        default_type: Some("hostname".to_owned()),
        default_source: Some("S".to_owned()),
        default_tags: vec!["t".to_owned()],
        refang: false,
        ..options()
    };
    let found = decoded_with("x.txt", "a[.]example", &with);
    assert_eq!(
        found.columns(&["type", "value", "score", "tags", "source_brands"])[0],
        [json!("Domain"), json!("a[.]example"), Value::Null, json!(["t"]), json!(["S"])]
    );
}

#[test]
fn tables_are_mapped_by_their_header() {
    let text = "Type;Indicator;Verdict;Labels;First Seen;TLP;My Note;Feed\n\
        ip-dst;192.0.2.1;malicious;a|b;2024-01-01 10:00:00;AMBER;\"say \"\"x\"\"\nnow\";F\n\
        ;hxxps://b[.]example;;;never;pink;;\n\
        ;;1\n\
        ip;192.0.2.2;;;;;;;extra\n";
    let with = DecodeOptions { default_source: Some("S".to_owned()), ..options() };
    let found = decoded_with("feed.csv", text, &with);
    assert_eq!(
        found.columns(&["type", "value", "score", "tags", "first_seen", "tlp", "custom", "source_brands"]),
        [
            vec![
                json!("IP"),
                json!("192.0.2.1"),
                json!(3),
                json!(["a", "b"]),
                json!("2024-01-01T10:00:00Z"),
                json!("amber"),
                json!("{\"mynote\":\"say \\\"x\\\"\\nnow\"}"),
                json!(["F"])
            ],
            vec![
                json!("URL"),
                json!("https://b.example"),
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
                json!(["S"])
            ],
        ]
    );
    assert_eq!(found.lines, [2, 4]);
    assert_eq!(found.warnings(), [("first_seen", 1), ("tlp", 1)]);
    assert_eq!(
        found.rejects,
        [(5, "the value is empty".to_owned()), (6, "9 cells, but the header names 8".to_owned())]
    );
}

#[test]
fn addresses_are_told_from_names_and_lose_their_ports() {
    let found = decoded_with("x.csv", "type,value\nhost,9.9.9.9\nhostname,a.example\nip,5.6.7.8:80\n", &options());
    let expected = [["IP", "9.9.9.9"], ["Domain", "a.example"], ["IP", "5.6.7.8"]];
    assert_eq!(found.columns(&["type", "value"]), expected.map(|row| row.map(Value::from).to_vec()));
    let with = DecodeOptions { default_type: Some("ip".to_owned()), ..options() };
    assert_eq!(decoded_with("x.txt", "5.6.7.8:80\n", &with).rows[0]["value"], "5.6.7.8");
}

/// The custom fields that have a column reach it from tables as they do from documents.
#[test]
fn columns_called_as_custom_fields_fill_their_columns() {
    let document = |own: &str, value: &str, custom: &str| {
        decoded(format!("{{\"indicator_type\":\"{own}\",\"value\":\"{value}\",\"CustomFields\":{{{custom}}}}}"))
    };
    let given = "ipv4-addr--0c3b8e2a-7f0e-4f0c-9e1f-2f4b6c8d0a1e";
    let cases = [
        ("MITRE ID", "Attack Pattern", "Phishing", "T1566", r#""mitreid":"T1566""#.to_owned()),
        ("stixid", "IP", "192.0.2.1", given, format!("\"stixid\":\"{given}\"")),
        ("accounttype", "Account", "a", "unix", r#""accounttype":"unix""#.to_owned()),
        ("User ID", "Account", "a", "7", r#""userid":"7""#.to_owned()),
        ("identityclass", "Identity", "i", "group", r#""identityclass":"group""#.to_owned()),
        ("subject", "X509 Certificate", "1", "CN=x", r#""subject":"CN=x""#.to_owned()),
        ("issuer", "X509 Certificate", "1", "CN=x", r#""issuer":"CN=x""#.to_owned()),
        ("validitynotbefore", "X509 Certificate", "1", "2024-01-01", r#""validitynotbefore":"2024-01-01""#.to_owned()),
        ("validitynotafter", "X509 Certificate", "1", "2024-01-01", r#""validitynotafter":"2024-01-01""#.to_owned()),
        ("ssdeep", "File", "d41d8cd98f00b204e9800998ecf8427e", "3::", r#""ssdeep":"3::""#.to_owned()),
        ("published", "Report", "r", "2024-01-01", r#""published":"2024-01-01""#.to_owned()),
        ("ismalwarefamily", "Malware", "m", "yes", r#""ismalwarefamily":true"#.to_owned()),
        ("isrevoked", "IP", "192.0.2.1", "T", r#""isrevoked":"T""#.to_owned()),
        ("killchainphases", "Malware", "m", "a|c/p", r#""killchainphases":["a","c/p"]"#.to_owned()),
        (
            "reportobjectreferences",
            "Report",
            "r",
            "tool--1|tool--2",
            r#""reportobjectreferences":["tool--1","tool--2"]"#.to_owned(),
        ),
        ("name", "ASN", "AS1", "n", r#""name":"n""#.to_owned()),
        ("name", "IP", "192.0.2.1", "n", r#""name":"n""#.to_owned()),
        (
            "keyvalue",
            "Registry Key",
            "HKLM",
            r#""[{""name"":""a"",""type"":""REG_SZ""}]""#,
            r#""keyvalue":[{"name":"a","type":"REG_SZ"}]"#.to_owned(),
        ),
        ("keyvalue", "Registry Key", "HKLM", "[{", r#""keyvalue":"[{""#.to_owned()),
    ];
    for (column, own, value, cell, custom) in cases {
        let table = decoded_with("x.csv", format!("type,value,{column}\n{own},{value},{cell}\n"), &options());
        let mut expected = document(own, value, &custom).rows.remove(0);
        expected.as_object_mut().unwrap().remove("document");
        assert_eq!((&table.rows[0], table.warnings()), (&expected, vec![]), "{column} of {own}");
    }
}

#[test]
fn columns_with_one_key_are_both_kept_and_counted() {
    let text = "value,Foo Bar,foo_bar,md5\n192.0.2.1,a,b,\n192.0.2.2,a,,\n192.0.2.3,,b,no hash\n";
    let found = decoded_with("x.csv", text, &options());
    let expected = [r#"{"foobar":"a","foobar2":"b"}"#, r#"{"foobar":"a"}"#, r#"{"foobar2":"b"}"#];
    assert_eq!(found.columns(&["custom"]).concat(), expected);
    assert_eq!(found.warnings(), [("custom", 2), ("md5", 1)]);
}

/// As old spreadsheets write them: no line feed anywhere.
#[test]
fn lines_may_end_with_a_carriage_return_alone() {
    let types = |name: &str, text: &str| {
        let found = decoded_with(name, text, &options());
        (found.columns(&["value"]).concat(), found.lines, found.rejects.len())
    };
    let values = || vec![json!("192.0.2.1"), json!("192.0.2.2")];
    let table = "# a title\rvalue,type,note\r192.0.2.1,ip,\"a\rb\"\r192.0.2.2,ip,\r";
    assert_eq!(types("x.csv", table), (values(), vec![3, 5], 0));
    assert_eq!(types("x.csv", &table.replace('\r', "\r\n")), (values(), vec![3, 5], 0));
    assert_eq!(types("x.txt", "# a title\r192.0.2.1\r\r192.0.2.2\rno value\r"), (values(), vec![2, 4], 1));
    let first = DOCUMENT.replace("192.0.2.1", "192.0.2.2");
    assert_eq!(types("x.json", &format!("{DOCUMENT}\r{first}\r")), (values(), vec![1, 1], 0));
}

#[test]
fn the_format_is_told_from_content_and_name() {
    let types = |name: &str, text: &str, format: Option<Format>| {
        let found = decoded_with(name, text, &DecodeOptions { format, ..options() });
        (found.rows.len(), found.rejects.len())
    };
    assert_eq!(types("x", "value,type\n192.0.2.1,ip\n", None), (1, 0), "a header tells a table");
    assert_eq!(types("x", "url\nhttp://a.example\n", None), (1, 1), "one column alone may be a list");
    assert_eq!(types("x.csv", "url\nhttp://a.example\n", None), (1, 0));
    assert_eq!(types("x.csv.gz", "url\nhttp://a.example\n", None), (1, 0));
    assert_eq!(types("x.csv", "192.0.2.1\n192.0.2.2\n", None), (2, 0), "a list by a wrong name");
    assert_eq!(types("x", "[.]bad", None), (0, 1));
    assert_eq!(types("x", OBJECTS[0], Some(Format::Xsoar)), (0, 1));
    assert_eq!(types("x", DOCUMENT, Some(Format::Stix)), (0, 1));
    assert_eq!(types("x", "oops\n", Some(Format::Xsoar)), (0, 1));
    for (bytes, part) in [(&b"\xff\xfe1\0"[..], "UTF-16"), (b"PAR1xx", "Parquet"), (b"a,b\n1,2", "no column")] {
        let (_, result) = decode_all("x.csv", bytes, &options());
        let Err(DecodeError::Format(error)) = result else { panic!("{part}") };
        assert!(error.to_string().contains(part), "{error}");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// NDJSON of so many records, which do not compress to nothing.
fn lines(count: u32) -> String {
    (0..count)
        .map(|n| {
            format!("{{\"value\":\"{:x}.example\",\"indicator_type\":\"Domain\"}}\n", n.wrapping_mul(2_654_435_761))
        })
        .collect()
}

#[test]
fn packed_inputs_are_unpacked_member_by_member() {
    let (first, second) = (lines(3), format!("{DOCUMENT}\n"));
    let zstd = |bytes: &str| zstd::encode_all(bytes.as_bytes(), 1).unwrap();
    for packed in [[gzip(first.as_bytes()), gzip(second.as_bytes())].concat(), [zstd(&first), zstd(&second)].concat()] {
        let input =
            Input::from_reader("x.gz", Some(packed.len() as u64), std::io::Cursor::new(packed.clone())).unwrap();
        let consumed = input.consumed();
        let mut rows = 0;
        decode(input, &options(), |parsed| {
            rows += parsed.batch.num_rows();
            Ok::<(), Infallible>(())
        })
        .unwrap();
        assert_eq!(rows, 4);
        assert_eq!(consumed.load(std::sync::atomic::Ordering::Relaxed), packed.len() as u64);
    }
}

#[test]
fn cut_off_archives_give_what_they_hold_and_an_error() {
    let text = lines(20_000);
    let packed = [
        (Compression::Gzip, gzip(text.as_bytes())),
        (Compression::Zstd, zstd::encode_all(text.as_bytes(), 1).unwrap()),
    ];
    for (compression, packed) in packed {
        let (blocks, result) = decode_all("x", &packed[..packed.len() / 2], &options());
        let Err(DecodeError::Input(InputError::Truncated { compression: found, line, .. })) = result else {
            panic!("{result:?}");
        };
        assert_eq!(found, compression);
        let rows: usize = blocks.iter().map(|block| block.batch.num_rows()).sum();
        assert!(rows > 1_000 && rows < 20_000, "{rows}");
        assert_eq!(line, rows as u64 + 1);
        assert!(blocks.iter().all(|block| block.rejects.is_empty()));
    }
}

#[test]
fn blocks_come_in_order_and_a_refusal_stops_them() {
    let text = lines(40_000);
    let (blocks, result) = decode_all("x", text.as_bytes(), &options());
    result.unwrap();
    assert!(blocks.len() >= 3);
    let found: Vec<u64> = blocks.iter().flat_map(|block| block.lines.clone()).collect();
    assert_eq!(found, (1..=40_000).collect::<Vec<u64>>());
    assert_eq!(blocks.iter().map(|block| block.read).sum::<u64>(), 40_000);

    let input = Input::from_reader("x", None, std::io::Cursor::new(text.into_bytes())).unwrap();
    let mut seen = 0;
    let result = decode(input, &options(), |_| {
        seen += 1;
        if seen == 2 { Err("enough") } else { Ok(()) }
    });
    assert!(matches!(result, Err(DecodeError::Sink("enough"))));
    assert_eq!(seen, 2);
}

#[test]
fn much_space_between_elements_is_not_kept() {
    let mut text = String::from("[");
    for n in 0..3 {
        text.push_str(&" \n".repeat(3 << 20));
        text.push_str(&format!("{{\"value\":\"192.0.2.{n}\",\"indicator_type\":\"IP\"}},"));
    }
    text.push(']');
    assert_eq!(decoded(&text).rows.len(), 3);
}

#[test]
fn paths_are_expanded_in_order() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b.json", "a.json", ".hidden", "a.json.rejected.ndjson", "c.txt"] {
        std::fs::write(folder.path().join(name), DOCUMENT).unwrap();
    }
    std::fs::create_dir(folder.path().join("sub.json")).unwrap();
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let file = |name: &str| InputSpec::File(folder.path().join(name));
    assert_eq!(expand(&[at("*.json"), "-".to_owned()]).unwrap(), [file("a.json"), file("b.json"), InputSpec::Stdin]);
    assert_eq!(expand(&[at("")]).unwrap(), [file("a.json"), file("b.json"), file("c.txt")]);
    assert_eq!(expand(&[at("missing")]).unwrap(), [file("missing")]);
    assert!(matches!(expand(&[at("*.xml")]), Err(InputError::NoMatch(_))));
    assert!(matches!(expand(&[at("sub.json")]), Err(InputError::NoMatch(_))));
    assert!(matches!(expand(&[at("[*")]), Err(InputError::Pattern { .. })));
    let error = Input::open(&file("missing")).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_is_read_panics(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", "\"", "\\", "\n", ",", ":", "null", "0", "{\"value\":\"192.0.2.1\",\"indicator_type\":\"IP\"",
            ",\"CustomFields\":{\"tags\":", "\"keyvalue\":[{\"name\":", "{\"objects\":[", "{\"type\":\"tool\",\"id\":\"tool--", "\"score\":",
            "value,type\n", "# ", "\u{feff}", "\u{e9}", "192.0.2.1", "a.example", "|", "\r",
        ]), 0..40),
        name in prop::sample::select(vec!["x", "x.csv", "x.json"]),
    ) {
        let text = pieces.concat();
        for format in [None, Some(Format::Xsoar), Some(Format::Stix), Some(Format::List), Some(Format::Csv)] {
            let (blocks, _) = decode_all(name, text.as_bytes(), &DecodeOptions { format, ..options() });
            for block in blocks {
                prop_assert_eq!(block.batch.num_rows() + block.rejects.len(), block.read as usize);
                prop_assert_eq!(block.keys.len(), block.batch.num_rows());
            }
        }
    }
}

/// A pipe may stall for hours: what it gave is worked on meanwhile.
#[test]
fn what_a_stalled_pipe_gave_is_handed_on() {
    struct Pipe(std::sync::mpsc::Receiver<&'static [u8]>, &'static [u8]);
    impl std::io::Read for Pipe {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.1.is_empty() {
                self.1 = self.0.recv().unwrap_or_default();
            }
            self.1.read(buffer)
        }
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    sender.send(&b"198.51.100.1\n198.51.100.2\n198.51"[..]).unwrap();
    let input = Input::from_reader("pipe", None, Pipe(receiver, b"")).unwrap();
    let mut sender = Some(sender);
    let (mut rows, mut calls_with_nothing) = (0, 0);
    decode(input, &options(), |parsed| {
        rows += parsed.batch.num_rows();
        calls_with_nothing += usize::from(parsed.read == 0);
        // The rest comes only after the beginning was seen, and the receiver was given its time.
        if rows == 2
            && calls_with_nothing == 1
            && let Some(sender) = sender.take()
        {
            sender.send(b".100.3\n").unwrap();
        }
        Ok::<_, ()>(())
    })
    .unwrap();
    assert_eq!((rows, sender.is_none()), (3, true));
}
