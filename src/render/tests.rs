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

fn everything() -> Vec<Value> {
    [observables(), odd(), domain_objects(), native_objects()].concat()
}

#[test]
fn golden_observables() {
    golden("standard-21-observables.json", &each(&batch(&observables()), &plain_options()));
}

#[test]
fn golden_indicators() {
    golden("standard-21-indicators.json", &each(&batch(&observables()), &indicator_options()));
}

#[test]
fn golden_domain_objects() {
    golden("standard-21-domain-objects.json", &each(&batch(&domain_objects()), &plain_options()));
}

#[test]
fn golden_odd_rows() {
    let batch = batch(&odd());
    golden("odd-21.json", &[each(&batch, &plain_options()), each(&batch, &indicator_options())].concat());
}

#[test]
fn golden_manifest() {
    let rows = [&observables()[..3], &domain_objects()[..2], &native_objects()].concat();
    let mut out = Vec::new();
    let options = RenderOptions { indicator_types: [StixType::Ipv6Addr].into_iter().collect(), ..plain_options() };
    let written = manifest(&batch(&rows), &options, &mut out).unwrap();
    assert_eq!(written, Rendered { written: 8, skipped: 0 });
    let records = String::from_utf8(out).unwrap();
    golden(
        "manifest-21.json",
        &records.split_inclusive("},").map(|r| r.trim_end_matches(',').to_owned()).collect::<Vec<_>>(),
    );
}

#[test]
fn native_objects_come_out_as_they_came() {
    assert_eq!(each(&batch(&native_objects()), &indicator_options()), [NATIVE_20, NATIVE_ODD, EDGE]);
}

#[test]
fn objects_are_compact_sorted_and_have_the_ids_of_the_store() {
    for options in [plain_options(), indicator_options()] {
        for object in each(&batch(&[observables(), odd(), domain_objects()].concat()), &options) {
            assert_eq!(canonical(&object), object);
            let value: Value = serde_json::from_str(&object).unwrap();
            let prefix = value["id"].as_str().unwrap().split("--").next();
            assert_eq!(prefix, value["type"].as_str(), "{object}");
            if !object.contains(OWN_ID) && StixType::named(prefix.unwrap()).unwrap().is_sco() {
                assert_eq!(crate::model::ids::sco_id_of_text(&object).as_deref(), value["id"].as_str(), "{object}");
            }
        }
    }
}

#[test]
fn manifest_and_ids_agree_with_objects() {
    let batch = batch(&everything());
    let manifest_batch = project(&batch, manifest_columns());
    for options in [plain_options(), indicator_options()] {
        let objects = each(&batch, &options);
        let mut out = Vec::new();
        assert_eq!(manifest(&manifest_batch, &options, &mut out).unwrap().written, objects.len());
        let records: Vec<Value> = serde_json::from_str(&format!("[{}]", String::from_utf8(out).unwrap())).unwrap();
        let mut listed = Vec::new();
        versions(&manifest_batch, &mut listed).unwrap();
        let listed: Vec<String> = serde_json::from_str(&format!("[{}]", String::from_utf8(listed).unwrap())).unwrap();
        let ids = Ids::bind(&manifest_batch, &options).unwrap();
        for (row, object) in objects.iter().enumerate() {
            let object: Value = serde_json::from_str(object).unwrap();
            let mut id = Vec::new();
            ids.write(row, &mut id).unwrap();
            assert_eq!(records[row]["id"], object["id"]);
            assert_eq!(Some(String::from_utf8(id).unwrap().as_str()), object["id"].as_str());
            assert_eq!(records[row]["version"], listed[row].as_str());
            if let Some(modified) = object["modified"].as_str() {
                assert_eq!(Timestamp::parse(modified), Timestamp::parse(&listed[row]));
            }
        }
        assert_eq!(ids.write(objects.len(), &mut Vec::new()), None);
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
    for options in [plain_options(), indicator_options()] {
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
        for (at, row) in rows.iter().enumerate().filter(|(_, row)| row["kind"] == "indicator") {
            let one = batch.slice(at, 1);
            let stix = StixType::named(row["stix_type"].as_str().unwrap()).unwrap();
            let names = indicator_columns(&options, Some(&[stix]));
            assert_eq!(rendered(&project(&one, &names), &options), rendered(&one, &options), "{stix}");
        }
    }
}

#[test]
fn a_page_of_addresses_reads_four_columns() {
    let types = [StixType::Ipv4Addr, StixType::Ipv6Addr];
    let narrow = [column::KIND, column::STIX_TYPE, column::ID, column::VALUE];
    assert_eq!(indicator_columns(&plain_options(), Some(&types)), narrow);
    assert_eq!(columns(&plain_options(), Some(&types)), [&narrow[..], &[column::DOCUMENT]].concat());
    for options in [plain_options(), indicator_options()] {
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
        for options in [plain_options(), indicator_options()] {
            let objects = each(&batch(&rows), &options);
            prop_assert_eq!(objects.len(), types.len());
            for object in objects {
                prop_assert_eq!(canonical(&object), object.clone());
                let read: Value = serde_json::from_str(&object).unwrap();
                let shown = ["name", "value", "key", "account_login"].iter().find_map(|key| read[*key].as_str());
                prop_assert_eq!(shown, Some(value.as_str()));
                prop_assert!(read["labels"].as_array().is_none_or(|labels| labels.len() == 1));
            }
        }
    }
}
