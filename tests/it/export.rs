//! Exports: every format holds what TAXII serves, over kills and increments; lists over HTTP.

use std::collections::BTreeSet;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use taxiway::export::{
    Compression, ExportError, ExportRequest, ExportSummary, Format, ListOptions, ListOrder, Manifest, Since, columns,
    default_columns, export,
};
use taxiway::feed::api::{Filters, PageRequest, Shape};
use taxiway::feed::collection::CollectionSpec;
use taxiway::model::kind::StixType;
use taxiway::model::time::Timestamp;
use taxiway::render::{ExtensionFields, Profile, StixVersion};
use taxiway::store::{CompactOptions, Extent, Store};

use crate::support::{OneCollection, Server, import, import_text, indicator, options, spec, taxiway, temp_store};

fn edge(id: &str, source: (&str, &str), target: (&str, &str)) -> Value {
    json!({
        "id": id, "entityA": source.1, "entityAType": source.0, "entityAFamily": "Indicator", "entityB": target.1,
        "entityBType": target.0, "entityBFamily": "Indicator", "name": "related-to", "type": "IndicatorToIndicator",
        "createdInSystem": "2024-01-03T00:00:00Z", "modified": "2024-01-04T00:00:00Z",
    })
}

fn domains(range: std::ops::Range<usize>) -> Vec<Value> {
    range.map(|n| indicator("Domain", &format!("h{n}.example.com"), 3, &["t"])).collect()
}

const MD5: &str = "d41d8cd98f00b204e9800998ecf8427e";

/// Records of many kinds, in several segments, some replaced.
fn sample(store: &Store) {
    import(store, &domains(0..3_000));
    let mut marked = indicator("URL", "http://evil.example/a,b?q=\"x\"", 2, &["semi;colon", "comma, and \"quote\""]);
    marked["CustomFields"]["trafficlightprotocol"] = json!("AMBER");
    import(
        store,
        &[
            indicator("IP", "192.0.2.1", 3, &["seen"]),
            indicator("CIDR", "198.51.100.0/24", 1, &[]),
            indicator("IPv6", "2001:db8::1", 0, &[]),
            indicator("File", MD5, 3, &[]),
            indicator("Malware", "Stealer", 3, &[]),
            marked,
            edge("1", ("IP", "192.0.2.1"), ("Malware", "Stealer")),
        ],
    );
    import_text(
        store,
        "objects.json",
        &json!({"type": "bundle", "id": "bundle--8b7f2c1e-3f49-4f5a-9a0c-3d1f6f3f1a11", "objects": [
            {
                "type": "indicator", "spec_version": "2.1", "id": "indicator--0b6a0f0e-52ab-4a35-9d36-9d2c3f5a1b01",
                "created": "2024-02-01T00:00:00Z", "modified": "2024-02-01T00:00:00Z", "name": "odd one",
                "pattern": "[ipv4-addr:value = '203.0.113.7' OR domain-name:value = 'From-Pattern.example']",
                "pattern_type": "stix", "valid_from": "2024-02-01T00:00:00Z",
            },
            {
                "type": "domain-name", "spec_version": "2.1", "id": "domain-name--3c10e93f-798e-5a26-a0c1-08156efab7f5",
                "value": "native.example",
            },
        ]})
        .to_string(),
    );
    // Superseded rows in the first segment.
    import(store, &[indicator("Domain", "h7.example.com", 3, &["changed"])]);
}

fn request(format: Format, out: PathBuf) -> ExportRequest {
    ExportRequest {
        format,
        out,
        rows_per_part: None,
        compression: None,
        since: Since::Start,
        columns: default_columns(),
        list: ListOptions::default(),
        version: StixVersion::V21,
        force: false,
    }
}

impl OneCollection {
    fn export(&self, request: &ExportRequest) -> Result<ExportSummary, ExportError> {
        export(&self.feed, &self.collection, request, &mut |_| {})
    }
}

/// The bytes of every part in order, decompressed; checks them against the manifest.
fn parts(summary: &ExportSummary, folder: &Path) -> Vec<Vec<u8>> {
    let manifest = Manifest::read(&summary.path).unwrap().unwrap();
    assert_eq!(manifest, summary.manifest);
    assert!(manifest.complete);
    assert_eq!(manifest.rows, manifest.parts.iter().map(|part| part.rows).sum::<u64>());
    let read = |part: &taxiway::export::PartMeta| {
        let bytes = std::fs::read(folder.join(&part.file)).unwrap();
        assert_eq!(bytes.len() as u64, part.bytes);
        let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, part.sha256, "{}", part.file);
        let mut plain = Vec::new();
        match part.file.rsplit_once('.').unwrap().1 {
            "gz" => flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut plain).map(|_| plain).unwrap(),
            "zst" => zstd::stream::decode_all(&bytes[..]).unwrap(),
            _ => bytes,
        }
    };
    manifest.parts.iter().map(read).collect()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn ndjson(parts: Vec<Vec<u8>>) -> Vec<Value> {
    parts.into_iter().flat_map(|part| objects_of_lines(&text(part))).collect()
}

fn objects_of_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn lines(parts: Vec<Vec<u8>>) -> Vec<String> {
    parts.into_iter().flat_map(|part| text(part).lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Names of the files in a folder.
fn names(folder: &Path) -> BTreeSet<String> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn objects_are_those_that_pages_give() {
    let temp = temp_store();
    sample(&temp.store);
    let out = tempfile::tempdir().unwrap();
    let indicators = CollectionSpec {
        indicator_types: [StixType::Ipv4Addr, StixType::DomainName].into_iter().collect(),
        extension_fields: Some(ExtensionFields::All),
        ..spec("some", "")
    };
    let xsoar = CollectionSpec { profile: Some(Profile::Xsoar), ..spec("xsoar", "type:Domain or type:IP") };
    let none = CollectionSpec { profile: Some(Profile::Xsoar), ..spec("none", "value:nothing.example") };
    let mut number = 0;
    for spec in [&spec("all", ""), &indicators, &xsoar, &none] {
        let one = OneCollection::new(&temp.store, spec);
        for version in [StixVersion::V20, StixVersion::V21] {
            let page = PageRequest { version, limit: Some(1_000_000), ..PageRequest::default() };
            let served = one.request(Shape::Objects, page).unwrap().objects;
            assert_eq!(served.is_empty(), spec.title == "none");
            let shapes =
                [(None, None), (Some(999), Some("gzip:6")), (Some(700), None), (Some(1_000_000), Some("zstd"))];
            // How files are cut has nothing to do with what is in them.
            let tried = if spec.title == "all" { shapes.len() } else { 2 };
            for (rows_per_part, compression) in shapes.into_iter().take(tried) {
                for format in [Format::Ndjson, Format::Stix] {
                    number += 1;
                    let folder = out.path().join(number.to_string());
                    let path = if rows_per_part.is_none() { folder.join("x.json") } else { folder.clone() };
                    let compression = compression.map(|name| name.parse::<Compression>().unwrap());
                    let request = ExportRequest { rows_per_part, compression, version, ..request(format, path) };
                    let summary = one.export(&request).unwrap();
                    assert_eq!(summary.rows, served.len() as u64);
                    let parts = parts(&summary, &folder);
                    let wanted = rows_per_part.map_or(1, |rows| served.len().div_ceil(rows as usize).max(1));
                    assert_eq!(parts.len(), wanted);
                    let found = match format {
                        Format::Ndjson => ndjson(parts),
                        _ => parts.into_iter().flat_map(|part| bundle(&part, version)).collect(),
                    };
                    assert_eq!(found, served, "{} {version:?} {rows_per_part:?} {format:?}", spec.title);
                }
            }
        }
    }
}

fn bundle(bytes: &[u8], version: StixVersion) -> Vec<Value> {
    let bundle: Value = serde_json::from_slice(bytes).unwrap();
    assert_eq!(bundle["type"], "bundle");
    assert!(bundle["id"].as_str().unwrap().starts_with("bundle--"));
    let spec_version = bundle.get("spec_version").and_then(Value::as_str);
    assert_eq!(spec_version, (version == StixVersion::V20).then_some("2.0"));
    // An empty list is none (STIX 2.1 §2.6).
    assert!(bundle.get("objects").is_none_or(|list| !list.as_array().unwrap().is_empty()));
    bundle["objects"].as_array().cloned().unwrap_or_default()
}

#[test]
fn tables_hold_the_records() {
    let temp = temp_store();
    sample(&temp.store);
    let out = tempfile::tempdir().unwrap();
    let one = OneCollection::new(&temp.store, &spec("all", ""));
    let served = one.walk(Shape::Objects, &Filters::default(), None);
    let is_record =
        |object: &&Value| !["relationship", "marking-definition"].contains(&object["type"].as_str().unwrap());
    let ids: Vec<&str> = served.iter().filter(is_record).map(|object| object["id"].as_str().unwrap()).collect();

    let csv_request = ExportRequest { rows_per_part: Some(1_000), ..request(Format::Csv, out.path().join("csv")) };
    let summary = one.export(&csv_request).unwrap();
    assert_eq!(summary.rows, ids.len() as u64);
    let mut rows: Vec<csv::StringRecord> = Vec::new();
    let mut header = csv::StringRecord::new();
    for part in parts(&summary, &out.path().join("csv")) {
        let mut reader = csv::Reader::from_reader(&part[..]);
        header = reader.headers().unwrap().clone();
        rows.extend(reader.records().map(Result::unwrap));
    }
    let at = |name: &str| header.iter().position(|column| column == name).unwrap();
    assert_eq!(rows.iter().map(|row| &row[at("id")]).collect::<Vec<_>>(), ids);
    let url = rows.iter().find(|row| &row[at("type")] == "URL").unwrap();
    assert_eq!(&url[at("value")], "http://evil.example/a,b?q=\"x\"");
    assert_eq!((&url[at("verdict")], &url[at("tlp")]), ("suspicious", "amber"));
    assert_eq!(&url[at("tags")], "semi\\;colon;comma, and \"quote\"");
    assert_eq!(&url[at("modified")], "2024-01-02T00:00:00.000000Z");

    let names = ["value", "tags", "score", "modified", "id", "verdict", "custom"].map(str::to_owned);
    let request = ExportRequest {
        columns: columns(&names).unwrap(),
        rows_per_part: Some(2_000),
        ..request(Format::Parquet, out.path().join("parquet"))
    };
    let summary = one.export(&request).unwrap();
    let batches: Vec<RecordBatch> = parts(&summary, &out.path().join("parquet"))
        .into_iter()
        .flat_map(|part| {
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(part)).unwrap();
            reader.build().unwrap().map(Result::unwrap).collect::<Vec<_>>()
        })
        .collect();
    let schema = batches[0].schema();
    let types: Vec<&DataType> = schema.fields().iter().map(|field| field.data_type()).collect();
    assert_eq!(schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), names);
    assert!(matches!(types[1], DataType::List(item) if item.data_type() == &DataType::Utf8));
    assert_eq!(types[2], &DataType::Int32);
    assert_eq!(types[3], &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));
    let column = |name: &str| -> Vec<String> {
        let of = |batch: &RecordBatch| {
            let column = batch.column_by_name(name).unwrap().as_string::<i32>();
            column.iter().map(|text| text.unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        batches.iter().flat_map(of).collect()
    };
    assert_eq!(column("id"), ids);
    let by_csv: Vec<&str> = rows.iter().map(|row| &row[at("value")]).collect();
    assert_eq!(column("value"), by_csv);
    let first = batches[0].column(1).as_list::<i32>().value(0);
    assert_eq!(first.as_string::<i32>().value(0), "t");
    // An export of nothing is a table of nothing.
    let none = one.other(&spec("none", "value:nothing.example"));
    for format in [Format::Csv, Format::Parquet] {
        let summary = none.export(&self::request(format, out.path().join(format!("none.{}", format.name())))).unwrap();
        assert_eq!((summary.rows, summary.parts), (0, 1));
    }
}

fn list_of(one: &OneCollection, out: &Path, list: ListOptions) -> Vec<String> {
    let request = ExportRequest { list, force: true, ..request(Format::List, out.join("list.txt")) };
    let summary = one.export(&request).unwrap();
    let lines = lines(parts(&summary, out));
    assert_eq!(summary.rows, lines.len() as u64);
    lines
}

#[test]
fn lists_hold_each_value_once() {
    let temp = temp_store();
    let mut expired = indicator("IP", "192.0.2.200", 3, &[]);
    expired["expiration"] = json!("2020-01-01T00:00:00Z");
    expired["expirationStatus"] = json!("expired");
    let mut later = indicator("IP", "192.0.2.201", 3, &[]);
    later["expiration"] = json!("2999-01-01T00:00:00Z");
    import(
        &temp.store,
        &[
            indicator("IP", "192.0.2.1", 3, &[]),
            indicator("Domain", "Same.Example", 3, &[]),
            expired,
            later,
            indicator("CIDR", "192.0.2.0/32", 3, &[]),
            indicator("URL", "https://user@Host.Example/x#y", 3, &[]),
            indicator("Domain", "same.example.", 3, &[]),
            indicator("CIDR", "192.0.2.1/32", 3, &[]),
            indicator("DomainGlob", "*.same.example", 3, &[]),
            indicator("CVE", "CVE-2021-44228", 3, &[]),
            indicator("File", &MD5.to_uppercase(), 3, &[]),
            indicator("IPv6", "2001:DB8::0", 3, &[]),
        ],
    );
    let out = tempfile::tempdir().unwrap();
    let one = OneCollection::new(&temp.store, &spec("all", ""));
    let types = |names: &str| names.split(',').map(|name| name.parse().unwrap()).collect::<Vec<_>>();
    let plain = ListOptions::default();
    let cases: Vec<(ListOptions, &[&str])> = vec![
        (
            plain.clone(),
            &[
                "192.0.2.1",
                "same.example",
                "192.0.2.201",
                "192.0.2.0",
                "https://user@Host.Example/x#y",
                "*.same.example",
                MD5,
                "2001:db8::",
            ],
        ),
        (
            ListOptions { types: types("ip"), aggregate: true, ..plain.clone() },
            &["192.0.2.0/31", "192.0.2.201", "2001:db8::"],
        ),
        (
            ListOptions { types: types("ip"), stale: true, order: ListOrder::Value, ..plain.clone() },
            &["192.0.2.0", "192.0.2.1", "192.0.2.200", "192.0.2.201", "2001:db8::"],
        ),
        (
            ListOptions {
                types: types("domain,url"),
                urls: "no-scheme".parse().unwrap(),
                domains: "wildcard".parse().unwrap(),
                ..plain.clone()
            },
            &["same.example", "*.same.example", "host.example/x"],
        ),
        (ListOptions { types: types("cve"), ..plain.clone() }, &["CVE-2021-44228"]),
        // The newest different ones.
        (
            ListOptions { types: types("domain"), max_items: Some(2), ..plain.clone() },
            &["same.example", "*.same.example"],
        ),
        (ListOptions { types: types("domain"), max_items: Some(1), ..plain.clone() }, &["*.same.example"]),
        (
            ListOptions { types: types("ip,hash"), aggregate: true, max_items: Some(3), ..plain.clone() },
            &["192.0.2.1", "2001:db8::", MD5],
        ),
        (
            ListOptions { order: ListOrder::Value, types: types("domain,hash,ip"), ..plain.clone() },
            &["192.0.2.0", "192.0.2.1", "192.0.2.201", "2001:db8::", "*.same.example", MD5, "same.example"],
        ),
        (ListOptions { types: types("email"), ..plain }, &[]),
    ];
    for (options, expected) in cases {
        assert_eq!(list_of(&one, out.path(), options.clone()), expected, "{options:?}");
    }
}

#[test]
fn lists_of_many_segments_are_those_of_the_records() {
    let temp = temp_store();
    sample(&temp.store);
    // Many values come again, in other words.
    let again: Vec<Value> = (0..2_500).map(|n| indicator("Domain", &format!("H{n}.Example.com."), 3, &[])).collect();
    import(&temp.store, &again);
    let out = tempfile::tempdir().unwrap();
    let one = OneCollection::new(&temp.store, &spec("all", ""));
    let domains = ListOptions { types: vec!["domain".parse().unwrap()], ..ListOptions::default() };
    let mut found = list_of(&one, out.path(), domains.clone());
    let newest = list_of(&one, out.path(), ListOptions { max_items: Some(100), ..domains.clone() });
    assert_eq!(newest.len(), 100);
    assert_eq!(newest[99], "h2499.example.com");
    let sorted = list_of(&one, out.path(), ListOptions { order: ListOrder::Value, ..domains });
    let mut expected: Vec<String> = (0..3_000).map(|n| format!("h{n}.example.com")).collect();
    expected.extend(["from-pattern.example".to_owned(), "native.example".to_owned()]);
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(sorted, expected);
}

#[test]
fn a_misp_feed_has_its_index_and_events() {
    let temp = temp_store();
    sample(&temp.store);
    let out = tempfile::tempdir().unwrap();
    let one = OneCollection::new(&temp.store, &spec("all", ""));
    let folder = out.path().join("misp");
    let request = ExportRequest { rows_per_part: Some(1_000), ..request(Format::Misp, folder.clone()) };
    let read = || -> (Value, Vec<Value>) {
        let index: Value = serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
        let events = index.as_object().unwrap().keys().map(|uuid| {
            let event = std::fs::read(folder.join(format!("{uuid}.json"))).unwrap();
            let event: Value = serde_json::from_slice(&event).unwrap();
            assert_eq!(event["Event"]["uuid"], **uuid);
            event["Event"].clone()
        });
        (index.clone(), events.collect())
    };
    let summary = one.export(&request).unwrap();
    let (index, events) = read();
    assert_eq!(events.len(), 4);
    let attributes: Vec<Value> =
        events.iter().flat_map(|event| event["Attribute"].as_array().unwrap().clone()).collect();
    assert_eq!(attributes.len() as u64, summary.rows);
    let uuids: BTreeSet<&str> = attributes.iter().map(|attribute| attribute["uuid"].as_str().unwrap()).collect();
    assert_eq!(uuids.len(), attributes.len());
    let of = |value: &str| attributes.iter().find(|attribute| attribute["value"] == value).unwrap();
    for (value, category, kind, to_ids) in [
        ("192.0.2.1", "Network activity", "ip-dst", true),
        ("198.51.100.0/24", "Network activity", "ip-dst", false),
        ("h1.example.com", "Network activity", "domain", true),
        (MD5, "Payload delivery", "md5", true),
        ("203.0.113.7", "Network activity", "ip-dst", true),
        ("From-Pattern.example", "Network activity", "domain", true),
        ("native.example", "Network activity", "domain", true),
        ("Stealer", "Other", "text", true),
    ] {
        let found = of(value);
        assert_eq!(
            (&found["category"], &found["type"], &found["to_ids"]),
            (&json!(category), &json!(kind), &json!(to_ids))
        );
    }
    let tags: Vec<&str> = of("http://evil.example/a,b?q=\"x\"")["Tag"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| tag["name"].as_str().unwrap())
        .collect();
    assert_eq!(tags, ["semi;colon", "comma, and \"quote\"", "tlp:amber"]);
    // Again, and MISP updates what it has.
    one.export(&request).unwrap();
    assert_eq!(read(), (index, events.clone()));
    // An increment is further events.
    import(&temp.store, &[indicator("IP", "192.0.2.99", 3, &[])]);
    let summary = one.export(&ExportRequest { since: Since::Last, ..request }).unwrap();
    assert_eq!((summary.parts, summary.rows), (1, 1));
    let (_, more) = read();
    assert_eq!(more.len(), 5);
    assert!(events.iter().all(|event| more.contains(event)));
}

/// Ids and dates of change, which tell versions apart.
fn versions(objects: &[Value]) -> Vec<(String, String)> {
    let text = |object: &Value, key: &str| object[key].as_str().unwrap_or_default().to_owned();
    objects.iter().map(|object| (text(object, "id"), text(object, "modified"))).collect()
}

#[test]
fn increments_go_on_where_the_last_one_ended() {
    let temp = temp_store();
    sample(&temp.store);
    let out = tempfile::tempdir().unwrap();
    let one = OneCollection::new(&temp.store, &spec("all", ""));
    let folder = out.path().join("feed");
    let last =
        ExportRequest { rows_per_part: Some(1_000), since: Since::Last, ..request(Format::Ndjson, folder.clone()) };
    // Without one that is there, everything.
    let all = one.export(&last).unwrap();
    assert_eq!(all.manifest.since, None);
    let nothing = one.export(&last).unwrap();
    assert_eq!((nothing.parts, nothing.rows, nothing.manifest.rows), (0, 0, all.rows));
    assert_eq!(nothing.manifest.parts, all.manifest.parts);
    import(
        &temp.store,
        &[indicator("Domain", "h8.example.com", 3, &["changed"]), indicator("IP", "192.0.2.77", 3, &[])],
    );
    let added = one.export(&last).unwrap();
    assert_eq!((added.parts, added.rows), (1, 2));
    assert_eq!(added.manifest.parts.len(), all.parts + 1);
    let mut expected = ndjson(parts(&added, &folder));
    // What a client holds that went on by `added_after`, which is that.
    let since = Timestamp::parse(added.manifest.since.as_ref().unwrap()).unwrap();
    let page = one.page(Some(since), None, Some(100)).objects;
    assert_eq!(versions(&expected.split_off(all.rows as usize)), versions(&page));
    // By a date, in a file of its own.
    let by_date =
        ExportRequest { since: Since::After(since), ..request(Format::Ndjson, out.path().join("since.ndjson")) };
    let summary = one.export(&by_date).unwrap();
    assert_eq!(ndjson(parts(&summary, out.path())), page);
    // Other options are another export.
    let other = ExportRequest { compression: Some("zstd".parse().unwrap()), ..last.clone() };
    assert!(one.export(&other).unwrap_err().to_string().contains("other options"));
    // All of it again takes the place of the parts.
    let whole = one.export(&ExportRequest { since: Since::Start, ..last }).unwrap();
    assert_eq!(whole.manifest.rows, all.rows + 1);
    let files: BTreeSet<String> = whole.manifest.parts.iter().map(|part| part.file.clone()).collect();
    assert_eq!(names(&folder), files.into_iter().chain(["export.json".to_owned()]).collect());
    // A file holds the increment alone.
    let file = ExportRequest { since: Since::Last, ..request(Format::Ndjson, out.path().join("one.ndjson")) };
    assert_eq!(one.export(&file).unwrap().rows, whole.manifest.rows);
    import(&temp.store, &[indicator("IP", "192.0.2.78", 3, &[])]);
    let summary = one.export(&file).unwrap();
    assert_eq!((summary.rows, summary.manifest.rows), (1, 1));
    assert_eq!(ndjson(parts(&summary, out.path()))[0]["value"], "192.0.2.78");
}

#[test]
fn what_is_no_export_is_not_replaced() {
    let temp = temp_store();
    sample(&temp.store);
    let out = tempfile::tempdir().unwrap();
    let one = OneCollection::new(&temp.store, &spec("all", ""));
    let other = one.other(&spec("other", "type:IP"));
    let at = |name: &str| out.path().join(name);
    std::fs::write(at("notes.txt"), "mine").unwrap();
    std::fs::create_dir(at("folder")).unwrap();
    std::fs::write(at("folder/notes.txt"), "mine").unwrap();
    let refused = |one: &OneCollection, request: &ExportRequest| {
        let before = names(out.path());
        let error = one.export(request).unwrap_err();
        assert!(matches!(error, ExportError::NotOurs { .. }), "{error}");
        assert!(error.to_string().contains("--force"), "{error}");
        assert_eq!(names(out.path()), before);
    };
    let file = request(Format::Csv, at("notes.txt"));
    refused(&one, &file);
    let folder = ExportRequest { rows_per_part: Some(1_000), ..request(Format::Csv, at("folder")) };
    refused(&one, &folder);
    assert_eq!(std::fs::read_to_string(at("notes.txt")).unwrap(), "mine");
    // By force, and then as often as one likes.
    for (request, force) in [(&file, true), (&file, false), (&folder, true), (&folder, false)] {
        one.export(&ExportRequest { force, ..request.clone() }).unwrap();
    }
    assert_eq!(std::fs::read_to_string(at("folder/notes.txt")).unwrap(), "mine");
    // An export of something else is not meant.
    refused(&other, &file);
    refused(&one, &ExportRequest { format: Format::Ndjson, ..folder.clone() });
    // Nor is one that somebody changed.
    let mut changed = std::fs::read(at("notes.txt")).unwrap();
    changed.push(b'x');
    std::fs::write(at("notes.txt"), changed).unwrap();
    refused(&one, &file);
    // A manifest that is not whole is not believed.
    std::fs::write(at("folder/export.json"), "{}").unwrap();
    assert!(matches!(one.export(&folder), Err(ExportError::BadManifest { .. })));
    let forced = one.export(&ExportRequest { force: true, ..folder }).unwrap();
    let own: BTreeSet<String> = forced.manifest.parts.iter().map(|part| part.file.clone()).collect();
    let others = ["notes.txt", "export.json"].map(str::to_owned);
    assert_eq!(names(&at("folder")), own.into_iter().chain(others).collect());
    for (bad, text) in [
        (ExportRequest { rows_per_part: Some(5), ..request(Format::List, at("x")) }, "a list is one file"),
        (ExportRequest { compression: Some(Compression::Gzip(1)), ..request(Format::Parquet, at("x")) }, "zstd"),
        (ExportRequest { compression: Some(Compression::Zstd(1)), ..request(Format::Misp, at("x")) }, "MISP"),
    ] {
        assert!(one.export(&bad).unwrap_err().to_string().contains(text));
    }
}

/// Wherever an export ends early, the next one goes on behind its last whole part, on the same version of the store.
#[test]
fn an_export_that_was_cut_off_goes_on() {
    let temp = temp_store();
    sample(&temp.store);
    let out = tempfile::tempdir().unwrap();
    let one = OneCollection::new(&temp.store, &spec("all", ""));
    let served = one.walk(Shape::Objects, &Filters::default(), None);
    let folder = out.path().join("parts");
    for format in [Format::Ndjson, Format::Stix, Format::Parquet, Format::Misp] {
        let request = ExportRequest { rows_per_part: Some(500), ..request(format, folder.join(format.name())) };
        let reference = ExportRequest { out: out.path().join(format!("whole-{}", format.name())), ..request.clone() };
        let whole = one.export(&reference).unwrap();
        let cut_off = catch_unwind(AssertUnwindSafe(|| {
            export(&one.feed, &one.collection, &request, &mut |progress| {
                assert!(progress.rows < 1_600, "on purpose");
            })
        }));
        assert!(cut_off.is_err());
        let unfinished = request.out.join("export.json.unfinished");
        let kept = Manifest::read(&unfinished).unwrap().unwrap().parts;
        assert_eq!(kept.len(), 3);
        assert!(!request.out.join("export.json").exists());
        assert!(names(&request.out).iter().all(|name| name.ends_with(".unfinished") || name == "export.lock"));
        // A part that is not whole any more does not count, nor what is behind it.
        let lost = format == Format::Stix;
        if lost {
            std::fs::write(request.out.join(format!("{}.unfinished", kept[1].file)), "").unwrap();
        }
        // The store goes on meanwhile; what was begun stays what it was.
        import(&temp.store, &[indicator("Domain", "h2999.example.com", 3, &[format.name()])]);
        let summary = one.export(&request).unwrap();
        assert_eq!((summary.kept, summary.moved), (if lost { 1 } else { 3 }, false));
        assert_eq!(summary.manifest.snapshot, whole.manifest.snapshot);
        let position = |summary: &ExportSummary| (summary.manifest.position.clone(), summary.rows, summary.parts);
        assert_eq!(position(&summary), position(&whole));
        let (found, expected) = (parts(&summary, &request.out), parts(&whole, &reference.out));
        match format {
            // Each bundle has an id of its own.
            Format::Stix => {
                let objects: Vec<Value> = found.iter().flat_map(|part| bundle(part, StixVersion::V21)).collect();
                let before: Vec<Value> = expected.iter().flat_map(|part| bundle(part, StixVersion::V21)).collect();
                assert_eq!(objects, before);
            }
            _ => assert!(found == expected, "{format:?}"),
        }
        if format == Format::Ndjson {
            assert_eq!(ndjson(found), served);
        }
        let own: BTreeSet<String> = summary.manifest.parts.iter().map(|part| part.file.clone()).collect();
        let index = (format == Format::Misp).then(|| "manifest.json".to_owned());
        assert_eq!(names(&request.out), own.into_iter().chain(index).chain(["export.json".to_owned()]).collect());
    }
    // Where the version is gone, it goes on in the newest: nothing is lost, and what changed comes with its newer version.
    let request = ExportRequest { rows_per_part: Some(500), ..request(Format::Ndjson, out.path().join("gone")) };
    let cut_off = catch_unwind(AssertUnwindSafe(|| {
        export(&one.feed, &one.collection, &request, &mut |progress| assert!(progress.rows < 1_600, "on purpose"))
    }));
    assert!(cut_off.is_err());
    let store =
        Store::open(taxiway::store::StoreOptions { snapshots_kept_s: 0, ..options(temp.folder.path()) }).unwrap();
    import(&store, &[indicator("Domain", "h5.example.com", 3, &["changed"])]);
    store.compact(&CompactOptions { extent: Extent::All, ..CompactOptions::default() }).unwrap();
    let one = OneCollection::new(&store, &spec("all", ""));
    let summary = one.export(&request).unwrap();
    assert!(summary.moved && summary.kept == 3);
    let found: BTreeSet<(String, String)> = versions(&ndjson(parts(&summary, &request.out))).into_iter().collect();
    let now: BTreeSet<(String, String)> =
        versions(&one.walk(Shape::Objects, &Filters::default(), None)).into_iter().collect();
    assert!(now.is_subset(&found));
}

fn run(folder: &Path, arguments: &[&str]) -> Value {
    let output = taxiway(folder).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A real kill of the program.
#[test]
fn a_kill_costs_the_part_that_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = domains(0..20_000).iter().map(|record| format!("{record}\n")).collect();
    std::fs::write(folder.path().join("in.ndjson"), text).unwrap();
    run(folder.path(), &["import", "in.ndjson", "--output", "json"]);
    let arguments =
        ["export", "all", "--format", "ndjson", "--rows-per-part", "40", "--out", "out", "--output", "json"];
    let mut child = taxiway(folder.path()).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let unfinished = folder.path().join("out/export.json.unfinished");
    let parts_done = || Manifest::read(&unfinished).ok().flatten().map_or(0, |manifest| manifest.parts.len());
    while parts_done() < 5 && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    // A second one at the same time is kept away.
    let second = taxiway(folder.path()).args(arguments).output().unwrap();
    assert!(String::from_utf8_lossy(&second.stderr).contains("another export"), "{second:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    let done = parts_done();
    assert!((5..500).contains(&done), "killed too late: {done} parts");
    let summary = run(folder.path(), &arguments);
    assert!(summary["parts_kept"].as_u64().unwrap() >= done as u64);
    assert_eq!((summary["parts"].as_u64(), summary["rows"].as_u64()), (Some(500), Some(20_000)));
    let manifest = Manifest::read(&folder.path().join("out/export.json")).unwrap().unwrap();
    let mut values = BTreeSet::new();
    for part in &manifest.parts {
        let text = std::fs::read_to_string(folder.path().join("out").join(&part.file)).unwrap();
        values.extend(objects_of_lines(&text).iter().map(|object| object["value"].as_str().unwrap().to_owned()));
    }
    assert_eq!(values.len(), 20_000);
    assert_eq!(names(&folder.path().join("out")).len(), 501);
}

#[test]
fn the_command_says_what_it_did_and_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = domains(0..10).iter().map(|record| format!("{record}\n")).collect();
    std::fs::write(folder.path().join("in.ndjson"), text).unwrap();
    run(folder.path(), &["import", "in.ndjson", "--output", "json"]);
    let summary = run(
        folder.path(),
        &[
            "export",
            "--query",
            "value:h3.example.com",
            "--format",
            "csv",
            "--columns",
            "value,verdict",
            "--out",
            "x.csv",
            "--output",
            "json",
        ],
    );
    assert_eq!(summary["rows"], 1);
    assert_eq!(
        std::fs::read_to_string(folder.path().join("x.csv")).unwrap(),
        "value,verdict\nh3.example.com,malicious\n"
    );
    assert!(folder.path().join("x.csv.export.json").exists());
    for (arguments, part) in [
        (&["export", "nothing", "--format", "csv", "--out", "y"] as &[&str], "there is no collection `nothing`"),
        (&["export", "all", "--format", "csv", "--columns", "valu", "--out", "y"], "did you mean `value`"),
        (&["export", "all", "--format", "csv", "--aggregate", "--out", "y"], "--format list"),
        (&["export", "all", "--format", "list", "--columns", "value", "--out", "y"], "of tables"),
        (&["export", "all", "--format", "list", "--type", "nonsense", "--out", "y"], "use `ip`"),
        (&["export", "all", "--format", "csv", "--since", "yesterday", "--out", "y"], "not a timestamp"),
        (&["export", "--query", "type:(", "--format", "csv", "--out", "y"], "bad query"),
        (&["export", "--format", "csv", "--out", "y"], "COLLECTION"),
        (&["export", "all", "--format", "csv", "--out", "in.ndjson"], "--force"),
    ] {
        let output = taxiway(folder.path()).args(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(part), "{arguments:?}: {said}");
        assert!(!folder.path().join("y").exists());
    }
    let bar = taxiway(folder.path()).args(["export", "all", "--format", "stix", "--out", "z.json"]).output().unwrap();
    assert!(String::from_utf8_lossy(&bar.stdout).contains("rows                10"), "{bar:?}");
}

const CONFIG: &str = r#"
listen = "127.0.0.1:0"
[auth]
anonymous = true
[[api_root]]
path = "soc"
read = ["@soc"]
[[collection]]
title = "Open"
alias = "open"
query = "type:IP or type:Domain"
[[collection]]
title = "Closed"
alias = "closed"
query = ""
read = ["@soc"]
api_roots = ["soc"]
[[collection]]
title = "Reports"
alias = "reports"
inbox = true
read = ["@soc"]
write = ["anonymous"]
"#;

#[tokio::test]
async fn lists_are_served_to_those_who_may_read() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("taxiway.toml"), CONFIG).unwrap();
    let put = |records: &[Value]| {
        let text: String = records.iter().map(|record| format!("{record}\n")).collect();
        std::fs::write(folder.path().join("in.ndjson"), text).unwrap();
        run(folder.path(), &["import", "in.ndjson", "--output", "json"]);
    };
    let mut records = domains(0..3_000);
    records.extend(["192.0.2.1", "192.0.2.0"].map(|value| indicator("IP", value, 3, &[])));
    put(&records);
    let mut command = taxiway(folder.path());
    command.arg("serve");
    let server = Server::start(command);
    let client = reqwest::Client::builder().no_gzip().build().unwrap();
    let get = async |path: &str, headers: &[(&str, &str)]| {
        let mut request = client.get(format!("{}{path}", server.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    };
    let header = |answer: &reqwest::Response, name: &str| {
        answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
    };
    let answer = get("/lists/open.txt", &[("accept", "text/plain")]).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(header(&answer, "content-type").unwrap(), "text/plain; charset=utf-8");
    assert_eq!(header(&answer, "x-list-items").unwrap(), "3002");
    let etag = header(&answer, "etag").unwrap();
    let modified = header(&answer, "last-modified").unwrap();
    let text = answer.text().await.unwrap();
    let mut expected: Vec<String> = (0..3_000).map(|n| format!("h{n}.example.com")).collect();
    expected.extend(["192.0.2.1".to_owned(), "192.0.2.0".to_owned()]);
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    // Held already.
    for headers in [
        &[("if-none-match", &*etag)] as &[(&str, &str)],
        &[("if-none-match", "\"other\", *")],
        &[("if-none-match", etag.strip_prefix("W/").unwrap())],
        &[("if-modified-since", &*modified)],
    ] {
        let answer = get("/lists/open.txt", headers).await;
        assert_eq!(answer.status(), 304, "{headers:?}");
        assert_eq!(header(&answer, "etag").as_ref(), Some(&etag));
        assert!(answer.text().await.unwrap().is_empty());
    }
    for headers in [
        &[("if-none-match", "\"other\"")] as &[(&str, &str)],
        &[("if-none-match", "\"other\""), ("if-modified-since", &*modified)],
        &[("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT")],
        &[("if-modified-since", "yesterday")],
    ] {
        assert_eq!(get("/lists/open.txt", headers).await.status(), 200, "{headers:?}");
    }
    // Other parameters, another list.
    for (query, expected) in [
        ("type=ip", "192.0.2.1\n192.0.2.0\n"),
        ("type=ip&aggregate", "192.0.2.0/31\n"),
        ("max=1", "192.0.2.0\n"),
        ("type=domain&max=1&domains=wildcard", "*.h2999.example.com\n"),
        ("type=url", ""),
    ] {
        let answer = get(&format!("/lists/open.txt?{query}"), &[("if-none-match", &*etag)]).await;
        assert_eq!(answer.status(), 200, "{query}");
        assert_eq!(answer.text().await.unwrap(), expected, "{query}");
    }
    assert_eq!(get("/lists/open.txt?type=nonsense", &[]).await.status(), 400);
    let head = client.head(format!("{}/lists/open.txt", server.url)).send().await.unwrap();
    assert_eq!((head.status().as_u16(), header(&head, "etag")), (200, Some(etag.clone())));
    // By its id as well, compressed for those who can.
    let listed: Value =
        serde_json::from_str(&get("/threatintel/collections/", &[]).await.text().await.unwrap()).unwrap();
    let open = listed["collections"].as_array().unwrap().iter().find(|one| one["title"] == "Open").unwrap();
    let id = open["id"].as_str().unwrap();
    let zipped = get(&format!("/lists/{id}.txt"), &[("accept-encoding", "gzip")]).await;
    assert_eq!(header(&zipped, "content-encoding").as_deref(), Some("gzip"));
    let mut unzipped = String::new();
    flate2::read::MultiGzDecoder::new(&zipped.bytes().await.unwrap()[..]).read_to_string(&mut unzipped).unwrap();
    assert_eq!(unzipped, text);
    // A commit that changes nothing of the list is no reason to pull it again; one that does is.
    put(&[indicator("URL", "http://x.example/", 3, &[])]);
    assert_eq!(get("/lists/open.txt", &[("if-none-match", &*etag)]).await.status(), 304);
    put(&[indicator("IP", "192.0.2.9", 3, &[])]);
    let changed = loop {
        // A server looks for new versions some times a second.
        let answer = get("/lists/open.txt", &[("if-none-match", &*etag)]).await;
        if answer.status() == 200 {
            break answer;
        }
    };
    assert!(header(&changed, "etag").unwrap() != etag);
    assert!(changed.text().await.unwrap().ends_with("192.0.2.9\n"));
    // What one may not read is answered as in an API root.
    assert_eq!(get("/lists/closed.txt", &[]).await.status(), 404);
    assert_eq!(get("/lists/nowhere.txt", &[]).await.status(), 404);
    assert_eq!(get("/lists/open", &[]).await.status(), 404);
    assert_eq!(get("/lists/reports.txt", &[]).await.status(), 403);
    assert_eq!(client.post(format!("{}/lists/open.txt", server.url)).send().await.unwrap().status(), 405);
    let mut add = taxiway(folder.path());
    add.args(["user", "add", "ann", "--group", "soc", "--password-stdin"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut adding = add.spawn().unwrap();
    std::io::Write::write_all(&mut adding.stdin.take().unwrap(), b"secret word\n").unwrap();
    assert!(adding.wait().unwrap().success());
    let known = async |path: &str| {
        let request = client.get(format!("{}{path}", server.url)).basic_auth("ann", Some("secret word"));
        request.send().await.unwrap()
    };
    // Once there are users, saying who one is could help.
    while get("/lists/closed.txt", &[]).await.status() != 401 {}
    for path in ["/lists/nowhere.txt", "/lists/reports.txt"] {
        assert_eq!(get(path, &[]).await.status(), 401, "{path}");
    }
    let closed = known("/lists/closed.txt").await;
    assert_eq!(closed.status(), 200);
    assert!(closed.text().await.unwrap().contains("http://x.example/"));
    assert_eq!(known("/lists/reports.txt").await.status(), 200);
    assert_eq!(known("/lists/nowhere.txt").await.status(), 404);
}
