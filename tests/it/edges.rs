//! Edges and their ends (design §4; spec/xsoar-taxii2-server.md §5), definitions, and dates that are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::TimestampMicrosecondType;
use proptest::prelude::*;
use serde_json::{Value, json};
use taxiway::ingest::{self, DecodeOptions, Importer, Input, Summary};
use taxiway::model::ids::{IdSpace, ScoFacts, Uuid16, write_uuid};
use taxiway::model::time::Timestamp;
use taxiway::store::{CompactOptions, Extent, Store};

use crate::support::{import, import_text, indicator, options, temp_store};

/// A row of the log, or one that waits.
#[derive(Debug, Clone)]
struct Row {
    added: i64,
    modified: Option<i64>,
    fields: Value,
}

impl Row {
    fn text(&self, name: &str) -> &str {
        self.fields[name].as_str().unwrap_or_default()
    }

    /// The id of a record or object.
    fn id(&self) -> String {
        match self.fields["stix_id"].as_str().filter(|_| self.text("kind") != "indicator") {
            Some(whole) => whole.to_owned(),
            None => format!("{}--{}", self.text("stix_type"), dashed(self.text("id"))),
        }
    }

    fn list(&self, name: &str) -> Vec<String> {
        let items = self.fields[name].as_array().cloned().unwrap_or_default();
        items.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
    }
}

fn dashed(hex: &str) -> String {
    if hex.is_empty() {
        return String::new();
    }
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The live rows of the log, in order.
fn log(store: &Store) -> Vec<Row> {
    let snapshot = store.reload().unwrap();
    let names = taxiway::model::schema::schema_names();
    let mut rows = Vec::new();
    for view in snapshot.segments() {
        for batch in view.segment.read(&view.live_ranges(0..view.segment.rows()), &names, 4_096).unwrap() {
            let batch = batch.unwrap();
            let micros = |name: &str, at: usize| {
                let column = batch.column_by_name(name).unwrap().as_primitive::<TimestampMicrosecondType>();
                column.is_valid(at).then(|| column.value(at))
            };
            let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
            writer.write(&batch).unwrap();
            writer.finish().unwrap();
            for (at, line) in String::from_utf8(writer.into_inner()).unwrap().lines().enumerate() {
                rows.push(Row {
                    added: micros("added", at).unwrap(),
                    modified: micros("modified", at),
                    fields: serde_json::from_str(line).unwrap(),
                });
            }
        }
    }
    assert!(rows.windows(2).all(|pair| pair[0].added < pair[1].added), "`added` must rise strictly");
    rows
}

fn edges_of(rows: &[Row]) -> Vec<&Row> {
    rows.iter().filter(|row| row.text("kind") == "relationship").collect()
}

fn assert_sound(store: &Store) {
    let report = store.check(|_| ()).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

fn stix_id(stix_type: &str, uuid: &Uuid16) -> String {
    let mut id = format!("{stix_type}--").into_bytes();
    write_uuid(uuid, &mut id);
    String::from_utf8(id).unwrap()
}

fn day(number: u8) -> String {
    format!("2024-03-{:02}T00:00:00Z", number + 1)
}

fn xsoar_edge(id: &str, (a_type, a): (&str, &str), (b_type, b): (&str, &str)) -> Value {
    json!({
        "id": id, "entityA": a, "entityAType": a_type, "entityAFamily": "Indicator", "entityB": b, "entityBType": b_type,
        "entityBFamily": "Indicator", "name": "related to", "reverseName": "related to", "type": "IndicatorToIndicator",
        "createdInSystem": day(0), "modified": day(0), "CustomFields": {},
    })
}

fn native_edge(number: usize, source: &str, target: &str) -> Value {
    json!({
        "type": "relationship", "spec_version": "2.1", "id": format!("relationship--00000000-0000-4000-8000-{number:012}"),
        "created": day(0), "modified": day(0), "relationship_type": "uses", "source_ref": source, "target_ref": target,
    })
}

fn malware(ids: &IdSpace, name: &str, version: u8) -> Value {
    json!({
        "type": "malware", "spec_version": "2.1", "id": stix_id("malware", &ids.sdo("malware", name)), "created": day(0),
        "modified": day(version), "name": name, "is_family": false,
    })
}

/// What the model's edges point at.
const ENDS: usize = 12;
const OWN_ID: &str = "domain-name--7a9d7a3c-7f6f-5b5e-9d2c-aaaaaaaaaaaa";

/// Type and value by which XSOAR names an end.
fn name_of(end: usize) -> (&'static str, String) {
    match end {
        0..4 => ("Domain", format!("h{end}.example.com")),
        4 => ("Account", "jdoe".to_owned()),
        5 => ("Domain", "own.example.com".to_owned()),
        6 | 7 => ("Report", format!("R{end}")),
        8 => ("Mutex", "m".to_owned()),
        9 | 10 => ("Malware", format!("M{end}")),
        _ => ("Attack Pattern", "Phishing".to_owned()),
    }
}

/// The id an end has once it is there; `None` for one that never has any.
fn id_of(ids: &IdSpace, end: usize) -> Option<String> {
    let (_, value) = name_of(end);
    let sco = |stix_type: &str, user_id: Option<&str>| {
        stix_id(stix_type, &ids.sco(stix_type, &ScoFacts { value: &value, user_id, ..ScoFacts::default() }))
    };
    Some(match end {
        0..4 => sco("domain-name", None),
        4 => sco("user-account", Some("7")),
        5 => OWN_ID.to_owned(),
        6 | 7 => stix_id("report", &ids.sdo("report", &value)),
        8 => return None,
        9 | 10 => stix_id("malware", &ids.sdo("malware", &value)),
        _ => stix_id("attack-pattern", &ids.sdo("attack-pattern", "T1566")),
    })
}

/// The id of the indicator that may be made of an end.
fn indicator_of(ids: &IdSpace, end: usize) -> Option<String> {
    matches!(end, 0..6).then(|| stix_id("indicator", &ids.indicator(&name_of(end).1)))
}

fn own_ref(end: usize, version: u8) -> String {
    format!("url--0000000{version}-0000-4000-8000-00000000000{end}")
}

/// The record or object of an end.
fn record(ids: &IdSpace, end: usize, version: u8) -> Value {
    let (kind, value) = name_of(end);
    if let 9 | 10 = end {
        return malware(ids, &value, version);
    }
    let mut document = indicator(kind, &value, version % 4, &[]);
    document["modified"] = json!(day(version));
    let fields = &mut document["CustomFields"];
    // Each version says something else, or a later one would not be written.
    fields["description"] = json!(format!("v{version}"));
    match end {
        4 => fields["userid"] = json!("7"),
        5 => fields["stixid"] = json!(OWN_ID),
        6 | 7 => fields["reportobjectreferences"] = json!([{ "objectstixid": own_ref(end, version) }]),
        11 => fields["mitreid"] = json!("T1566"),
        _ => {}
    }
    document
}

/// Ends of an edge; a few versions point elsewhere.
fn ends_of(edge: usize, version: u8) -> (usize, usize) {
    let source = (edge * 7 + 3) % ENDS;
    (source, (source + 1 + edge % 5 + usize::from(version == 5)) % ENDS)
}

fn is_revoked(version: u8) -> bool {
    version == 4
}

/// Edge number: the even ones XSOAR's, the odd ones native, and some of these name the indicator of their source.
fn edge(ids: &IdSpace, number: usize, version: u8) -> Value {
    let (source, target) = ends_of(number, version);
    let mut edge = if number.is_multiple_of(2) {
        let (a, b) = (name_of(source), name_of(target));
        let mut edge = xsoar_edge(&number.to_string(), (a.0, &a.1), (b.0, &b.1));
        edge["CustomFields"] = json!({ "description": format!("v{version}"), "revoked": is_revoked(version) });
        edge
    } else {
        let id = |end| id_of(ids, end).unwrap_or_else(|| "x-mutex--00000000-0000-4000-8000-000000000000".to_owned());
        let source =
            number.is_multiple_of(3).then(|| indicator_of(ids, source)).flatten().unwrap_or_else(|| id(source));
        let mut edge = native_edge(number, &source, &id(target));
        edge["description"] = json!(format!("v{version}"));
        edge["revoked"] = json!(is_revoked(version));
        edge
    };
    edge["modified"] = json!(day(version));
    edge
}

#[derive(Debug, Clone)]
enum Item {
    Record(usize, u8),
    Edge(usize, u8),
    /// A native object with the id of the first domain.
    Twin(u8),
}

#[derive(Debug, Clone)]
enum Step {
    Import(Vec<Item>),
    Compact,
    Reopen,
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        4 => (0..ENDS, 0u8..6).prop_map(|(end, version)| Item::Record(end, version)),
        4 => (0usize..24, 0u8..6).prop_map(|(edge, version)| Item::Edge(edge, version)),
        1 => (0u8..6).prop_map(Item::Twin),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => proptest::collection::vec(item(), 1..14).prop_map(Step::Import),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

/// What was imported: the newest version of each.
#[derive(Debug, Default)]
struct Model {
    records: BTreeMap<usize, u8>,
    edges: BTreeMap<usize, u8>,
    twin: bool,
}

impl Model {
    fn take(&mut self, item: &Item) {
        let newest = |map: &mut BTreeMap<usize, u8>, of: usize, version: u8| {
            let known = map.entry(of).or_default();
            *known = version.max(*known);
        };
        match item {
            Item::Record(end, version) => newest(&mut self.records, *end, *version),
            Item::Edge(edge, version) => newest(&mut self.edges, *edge, *version),
            Item::Twin(_) => self.twin = true,
        }
    }

    fn is_there(&self, end: usize, as_indicator: bool) -> bool {
        end != 8 && (self.records.contains_key(&end) || (end == 0 && self.twin && !as_indicator))
    }

    fn check(&self, store: &Store) {
        let ids = store.ids();
        let rows = log(store);
        let mut served: BTreeMap<String, (usize, &Row)> = BTreeMap::new();
        for (place, row) in rows.iter().enumerate().filter(|(_, row)| row.text("kind") == "relationship") {
            assert!(served.insert(row.id(), (place, row)).is_none(), "{} is live twice", row.id());
        }
        let mut refs: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        let mut expected = 0;
        for (number, version) in &self.edges {
            let (source, target) = ends_of(*number, *version);
            let as_indicator = number % 2 == 1 && number % 3 == 0 && indicator_of(ids, source).is_some();
            if !self.is_there(source, as_indicator) || !self.is_there(target, false) {
                continue;
            }
            expected += 1;
            let original = edge(ids, *number, *version);
            let id = match original["type"].as_str() {
                Some("relationship") => original["id"].as_str().unwrap().to_owned(),
                _ => stix_id("relationship", &ids.relationship(&number.to_string())),
            };
            let (place, row) =
                served.get(&id).unwrap_or_else(|| panic!("edge {number} has both ends and is not there"));
            assert_eq!(row.text("description"), format!("v{version}"), "edge {number}");
            assert_eq!(serde_json::from_str::<Value>(row.text("document")).unwrap(), original);
            assert!(row.fields["object_refs"].is_null());
            for (end, id_column, indicator_column) in
                [(source, "source_ref", "source_indicator_id"), (target, "target_ref", "target_indicator_id")]
            {
                let own = id_of(ids, end).unwrap();
                let named = if as_indicator && end == source { indicator_of(ids, end).unwrap() } else { own.clone() };
                assert_eq!(row.text(id_column), named, "edge {number}");
                if self.records.contains_key(&end) && end != 0 {
                    let uuid = dashed(row.text(indicator_column));
                    let indicator = (!uuid.is_empty()).then(|| format!("indicator--{uuid}"));
                    assert_eq!(indicator, indicator_of(ids, end), "edge {number}");
                }
                let lives: Vec<usize> = rows
                    .iter()
                    .enumerate()
                    .filter(|(_, row)| ["indicator", "object"].contains(&row.text("kind")) && row.id() == own)
                    .map(|(place, _)| place)
                    .collect();
                assert!(lives.iter().any(|end| end < place), "edge {number} comes before its end {end}");
                // A second record of an id that is there already moves nothing.
                assert!(end == 0 || lives.iter().all(|end| end < place), "edge {number} does not follow its end {end}");
            }
            if !is_revoked(*version) {
                for (report, other) in
                    [(source, target), (target, source)].into_iter().filter(|(end, _)| [6, 7].contains(end))
                {
                    let refs = refs.entry(report).or_default();
                    refs.insert(id.clone());
                    if report != other {
                        let (_, row) = &served[&id];
                        refs.insert(row.text(if other == source { "source_ref" } else { "target_ref" }).to_owned());
                    }
                }
            }
        }
        assert_eq!(served.len(), expected, "edges in the log");
        assert_eq!(store.snapshot().unwrap().waiting_rows() as usize, self.edges.len() - expected, "edges that wait");
        for end in [6, 7] {
            let Some(version) = self.records.get(&end) else { continue };
            let report = rows.iter().find(|row| row.text("value") == name_of(end).1).unwrap();
            let mut expected = refs.remove(&end).unwrap_or_default();
            expected.insert(own_ref(end, *version));
            let found = report.list("object_refs");
            assert_eq!(found.iter().cloned().collect::<BTreeSet<_>>(), expected, "references of report {end}");
            assert_eq!(found.len(), expected.len(), "once each");
            let aligned = report.list("object_ref_indicators");
            assert!(aligned.is_empty() || aligned.len() == found.len());
        }
        let mut defined = BTreeSet::new();
        for row in &rows {
            if row.text("kind") == "definition" {
                assert!(defined.insert(row.text("value").to_owned()), "defined twice");
            } else if row.text("kind") == "indicator" && !row.text("stix_type").is_empty() {
                assert!(defined.contains(row.text("stix_type")), "{row:?} comes before its definition");
            }
        }
        let records = self.records.len() + usize::from(self.twin) + served.len();
        assert_eq!(store.snapshot().unwrap().live_rows() as usize, records);
        assert_sound(store);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(60), max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes in whatever order: edges with both ends are in the log once, behind them; the others wait; nothing is lost.
    #[test]
    fn edges_are_behind_their_ends_or_wait(steps in proptest::collection::vec(step(), 1..9)) {
        // In memory: a disk that syncs every commit is slow, and other tests have one.
        let objects: Arc<dyn object_store::ObjectStore> = Arc::new(object_store::memory::InMemory::new());
        let open = || Store::on_object_store(Arc::clone(&objects), options(Path::new("memory"))).unwrap();
        let mut store = open();
        let ids = Arc::clone(store.ids());
        let mut model = Model::default();
        for step in &steps {
            match step {
                Step::Import(items) => {
                    let records: Vec<Value> = items.iter().map(|item| match item {
                        Item::Record(end, version) => record(&ids, *end, *version),
                        Item::Edge(number, version) => edge(&ids, *number, *version),
                        Item::Twin(version) => json!({
                            "type": "domain-name", "spec_version": "2.1", "id": id_of(&ids, 0).unwrap(),
                            "value": "h0.example.com", "x_version": version,
                        }),
                    }).collect();
                    let summary = import(&store, &records);
                    prop_assert_eq!(summary.rejected, 0);
                    items.iter().for_each(|item| model.take(item));
                    prop_assert_eq!(summary.waiting, store.snapshot().unwrap().waiting_rows());
                    // The newest versions once more say nothing new. (A twin has no versions: the last one counts.)
                    let newest: Vec<Value> = model.records.iter().map(|(end, version)| record(&ids, *end, *version))
                        .chain(model.edges.iter().map(|(number, version)| edge(&ids, *number, *version))).collect();
                    let before = store.reload().unwrap().version();
                    let again = import(&store, &newest);
                    prop_assert_eq!((again.new, again.changed), (0, 0));
                    prop_assert_eq!(store.reload().unwrap().version(), before);
                }
                Step::Compact => {
                    store.compact(&CompactOptions { extent: Extent::All, history_s: Some(0), ..CompactOptions::default() }).unwrap();
                }
                Step::Reopen => store = open(),
            }
            model.check(&store);
        }
    }
}

fn values_of(rows: &[Row]) -> Vec<String> {
    let shown = |row: &Row| match row.text("kind") {
        "relationship" => row.text("relationship_type").to_owned(),
        _ => row.text("value").to_owned(),
    };
    rows.iter().map(shown).collect()
}

#[test]
fn an_edge_enters_with_the_commit_that_brings_its_last_end() {
    let temp = temp_store();
    let ids = Arc::clone(temp.store.ids());
    let first = [
        xsoar_edge("1", ("Domain", "a.example.com"), ("Malware", "Mal")),
        native_edge(
            1,
            &stix_id("malware", &ids.sdo("malware", "Mal")),
            &stix_id("malware", &ids.sdo("malware", "Other")),
        ),
        xsoar_edge("2", ("Mutex", "Global\\x"), ("Domain", "a.example.com")),
        {
            let mut edge = xsoar_edge("3", ("", "17"), ("Domain", "a.example.com"));
            edge["entityAFamily"] = json!("Incident");
            edge
        },
    ];
    let summary = import(&temp.store, &first);
    assert_eq!((summary.new, summary.waiting), (4, 4));
    assert_eq!(
        summary.waiting_for,
        [
            "Domain a.example.com".to_owned(),
            "Malware Mal".to_owned(),
            stix_id("malware", &ids.sdo("malware", "Mal")),
            stix_id("malware", &ids.sdo("malware", "Other")),
            "Mutex Global\\x, which has no STIX form".to_owned()
        ]
    );
    assert_eq!(log(&temp.store).len(), 0, "nothing is in the log");
    assert_eq!(import(&temp.store, &first).unchanged, 4);
    assert_eq!(import(&temp.store, &[indicator("Domain", "a.example.com", 1, &[])]).waiting, 4);
    let version = temp.store.reload().unwrap().version();
    assert_eq!(import(&temp.store, &[malware(&ids, "Mal", 0)]).waiting, 3);
    assert_eq!(temp.store.reload().unwrap().version(), version + 1, "in the same commit");
    assert_eq!(values_of(&log(&temp.store)), ["domain-name", "a.example.com", "Mal", "related to"]);
    // One that has a record, but no STIX form, is as if it were not there.
    let summary = import(&temp.store, &[indicator("Mutex", "Global\\x", 1, &[]), malware(&ids, "Other", 0)]);
    assert_eq!(summary.waiting, 2);
    assert_eq!(summary.waiting_for, ["Mutex Global\\x, which has no STIX form", "17, which is no indicator"]);
    assert_eq!(import(&temp.store, &first).unchanged, 4);
    assert_sound(&temp.store);
}

/// An edge that changes while it waits is one edge.
#[test]
fn a_waiting_edge_is_replaced_by_its_newer_version() {
    let temp = temp_store();
    let mut edge = xsoar_edge("1", ("Domain", "a.example.com"), ("Domain", "b.example.com"));
    import(&temp.store, &[edge.clone(), indicator("Domain", "a.example.com", 1, &[])]);
    edge["name"] = json!("uses");
    edge["modified"] = json!(day(1));
    let summary = import(&temp.store, &[edge.clone()]);
    assert_eq!((summary.changed, summary.waiting), (1, 1));
    edge["name"] = json!("older");
    edge["modified"] = json!(day(0));
    assert_eq!(import(&temp.store, &[edge]).waiting, 1);
    import(&temp.store, &[indicator("Domain", "b.example.com", 1, &[])]);
    assert_eq!(values_of(&log(&temp.store)), ["domain-name", "a.example.com", "b.example.com", "uses"]);
    assert!(temp.store.snapshot().unwrap().manifest().waiting.is_empty(), "an empty waiting area is none");
    assert_sound(&temp.store);
}

/// XSOAR's whole export: in any order, in any form, in one file or in several.
#[test]
fn a_whole_export_comes_in_any_order() {
    let indicators =
        [indicator("IP", "1.1.1.1", 3, &[]), indicator("IP", "4.4.4.4", 3, &[]), indicator("Report", "R", 0, &[])];
    let edges = [
        xsoar_edge("7ed6656f4c2aaa8f0cbc5cb83606be45", ("IP", "1.1.1.1"), ("IP", "4.4.4.4")),
        xsoar_edge("5", ("Report", "R"), ("IP", "4.4.4.4")),
    ];
    let iocs = json!({ "iocs": indicators, "total": 3 }).to_string();
    let data = json!({ "total": 2, "data": edges }).to_string();
    let lines: String = edges.iter().chain(&indicators).map(|line| format!("{line}\n")).collect();
    let forms: [&[(&str, String)]; 5] = [
        &[("indicators.json", iocs.clone()), ("relationships.json", data.clone())],
        &[("relationships.json", data.clone()), ("indicators.json", iocs.clone())],
        &[("all.ndjson", lines)],
        &[("all.json", json!([edges[0], indicators[0], indicators[1], edges[1], indicators[2]]).to_string())],
        &[("both.json", format!("{data}\n{iocs}"))],
    ];
    for files in forms {
        let temp = temp_store();
        for (name, text) in files {
            assert_eq!(import_text(&temp.store, name, text).rejected, 0, "{name}");
        }
        let rows = log(&temp.store);
        let edges = edges_of(&rows);
        assert_eq!(edges.len(), 2, "{files:?}");
        // spec/xsoar-taxii2-server.md §3.1, vectors 5, 9, 22-25.
        let found = edges.iter().find(|row| row.id() == "relationship--c04f44cd-c8a8-52aa-90d5-77a5249fe7b7").unwrap();
        assert_eq!(found.text("source_ref"), "ipv4-addr--cbd67181-b9f8-595b-8bc3-3971e34fa1cc");
        assert_eq!(found.text("target_ref"), "ipv4-addr--c2214d54-b5d9-5725-937f-75750897b452");
        assert_eq!(dashed(found.text("source_indicator_id")), "40037b66-eb32-562f-8ed0-60f8db598e40");
        assert_eq!(found.text("relationship_type"), "related to");
        assert_eq!(found.fields["spec_version"], Value::Null);
        let report = rows.iter().find(|row| row.text("value") == "R").unwrap();
        assert_eq!(
            report.list("object_refs"),
            ["ipv4-addr--c2214d54-b5d9-5725-937f-75750897b452", "relationship--91c923a5-ba81-5729-8b8b-ffb9220a95db"]
        );
        let indicator = stix_id("indicator", &temp.store.ids().indicator("4.4.4.4"));
        assert_eq!(report.list("object_ref_indicators"), [indicator.as_str(), ""]);
        assert_sound(&temp.store);
    }
}

/// The references that edges add come and go with them; a document says nothing of them.
#[test]
fn references_of_reports_follow_their_edges() {
    let temp = temp_store();
    let report = |refs: &[&str], day_of: u8| {
        let mut report = indicator("Report", "R", 0, &[]);
        report["modified"] = json!(day(day_of));
        let refs: Vec<Value> = refs.iter().map(|id| json!({ "objectstixid": id })).collect();
        report["CustomFields"]["reportobjectreferences"] = json!(refs);
        report
    };
    let state = |store: &Store| {
        let rows = log(store);
        let report = rows.iter().find(|row| row.text("value") == "R").unwrap().clone();
        (report.list("object_refs"), report.modified.unwrap())
    };
    let mut edge = xsoar_edge("5", ("Report", "R"), ("Domain", "a.example.com"));
    let added =
        [id_of_domain(&temp.store, "a.example.com"), stix_id("relationship", &temp.store.ids().relationship("5"))];
    import(&temp.store, &[report(&["url--1"], 0), indicator("Domain", "a.example.com", 1, &[])]);
    let first = state(&temp.store);
    import(&temp.store, &[edge.clone()]);
    let second = state(&temp.store);
    assert_eq!(second.0, [&["url--1".to_owned()][..], &added].concat());
    assert!(second.1 > first.1, "a changed report is a newer version");
    assert_eq!(values_of(&log(&temp.store))[2..], ["a.example.com", "R", "related to"], "the report, then its edge");
    // The same document again says nothing, a fresher one only of its own references.
    assert_eq!(import(&temp.store, &[report(&["url--1"], 0)]).unchanged, 1);
    assert_eq!(import(&temp.store, &[report(&["url--1"], 1)]).unchanged, 1);
    assert_eq!(state(&temp.store), second);
    assert_eq!(import(&temp.store, &[report(&["url--2", &added[0]], 2)]).changed, 1);
    let own = ["url--2".to_owned(), added[0].clone()];
    assert_eq!(state(&temp.store).0, [&own[..], &added[1..]].concat());
    // What the document says as well stays when the edge is withdrawn.
    edge["modified"] = json!(day(3));
    edge["CustomFields"] = json!({ "revoked": true });
    import(&temp.store, &[edge.clone()]);
    assert_eq!(state(&temp.store).0, own);
    let rows = log(&temp.store);
    assert_eq!(edges_of(&rows)[0].fields["revoked"], true, "it is kept, as withdrawn");
    // A native report is its text.
    let native = json!({
        "type": "report", "spec_version": "2.1", "id": "report--84e4d88f-44ea-4bcd-bbf3-b2c1c320bcb3", "created": day(0),
        "modified": day(0), "name": "N", "published": day(0), "object_refs": ["url--1"],
    });
    import(&temp.store, &[native.clone(), native_edge(9, native["id"].as_str().unwrap(), &added[0])]);
    let rows = log(&temp.store);
    let row = rows.iter().find(|row| row.text("value") == "N").unwrap();
    assert_eq!(serde_json::from_str::<Value>(row.text("document")).unwrap(), native);
    assert!(row.list("object_refs").is_empty());
    assert_sound(&temp.store);
}

fn id_of_domain(store: &Store, value: &str) -> String {
    stix_id("domain-name", &store.ids().sco("domain-name", &ScoFacts { value, ..ScoFacts::default() }))
}

/// More edges than are looked up at a time, all at one end.
#[test]
fn many_edges_of_one_end_wait_enter_and_follow() {
    const EDGES: usize = 40_000;
    let temp = temp_store();
    let edges: Vec<Value> = (0..EDGES)
        .map(|n| xsoar_edge(&n.to_string(), ("Domain", &format!("h{n}.example.com")), ("Malware", "Hub")))
        .collect();
    let domains: Vec<Value> = (0..EDGES).map(|n| indicator("Domain", &format!("h{n}.example.com"), 1, &[])).collect();
    assert_eq!(import(&temp.store, &edges).waiting, EDGES as u64);
    assert_eq!(import(&temp.store, &domains[..EDGES / 2]).waiting, EDGES as u64);
    assert_eq!(import(&temp.store, &[indicator("Malware", "Hub", 1, &[])]).waiting, EDGES as u64 / 2);
    assert_eq!(import(&temp.store, &domains[EDGES / 2..]).waiting, 0);
    let rows = log(&temp.store);
    assert_eq!(edges_of(&rows).len(), EDGES);
    assert_eq!(import(&temp.store, &[indicator("Malware", "Hub", 3, &[])]).changed, 1);
    let rows = log(&temp.store);
    assert_eq!(edges_of(&rows).len(), EDGES);
    assert_eq!(rows[rows.len() - EDGES - 1].text("value"), "Hub", "all of them come behind it");
    assert_eq!(import(&temp.store, &edges[..100]).unchanged, 100);
    assert_sound(&temp.store);
}

/// A definition comes before the first row that needs it, once; where a producer brings it, that is the record.
#[test]
fn definitions_come_first_and_once() {
    let temp = temp_store();
    let coloured = |value: &str, colour: &str| {
        let mut document = indicator("CIDR", value, 1, &[]);
        document["CustomFields"]["trafficlightprotocol"] = json!(colour);
        document
    };
    let summary = import(&temp.store, &[indicator("Mutex", "m", 1, &[]), coloured("10.0.0.0/8", "RED")]);
    assert_eq!((summary.read, summary.new), (2, 2));
    import(
        &temp.store,
        &[coloured("10.1.0.0/16", "RED"), indicator("IP", "10.0.0.1", 1, &[]), coloured("10.2.0.0/16", "GREEN")],
    );
    let rows = log(&temp.store);
    let shown: Vec<(&str, &str, &str)> =
        rows.iter().map(|row| (row.text("stix_type"), row.text("type"), row.text("value"))).collect();
    assert_eq!(
        shown,
        [
            ("extension-definition", "CIDR", "ipv4-addr"),
            ("marking-definition", "", "red"),
            ("", "Mutex", "m"),
            ("ipv4-addr", "CIDR", "10.0.0.0/8"),
            ("marking-definition", "", "green"),
            ("ipv4-addr", "CIDR", "10.1.0.0/16"),
            ("ipv4-addr", "IP", "10.0.0.1"),
            ("ipv4-addr", "CIDR", "10.2.0.0/16"),
        ]
    );
    assert_eq!(rows[0].id(), stix_id("extension-definition", &temp.store.ids().extension_definition("ipv4-addr")));
    assert_eq!(rows[1].id(), "marking-definition--5e57c739-391a-4eb3-b6be-7d15ca92d5ed");
    assert_eq!((&rows[0].fields["created"], rows[0].modified), (&rows[3].fields["created"], rows[3].modified));
    assert_eq!(temp.store.snapshot().unwrap().live_rows(), 5);
    let marking = |name: &str, uuid: &str| {
        json!({
            "type": "marking-definition", "spec_version": "2.1", "id": format!("marking-definition--{uuid}"),
            "created": "2017-01-20T00:00:00.000Z", "definition_type": "tlp", "name": name, "definition": {"tlp": "x"},
        })
    };
    let red = marking("TLP:RED", "5e57c739-391a-4eb3-b6be-7d15ca92d5ed");
    let white = marking("TLP:WHITE", "613f2e26-407d-48c7-9eca-b8e91df99dc9");
    let amber = marking("TLP:AMBER", "f88d31f6-486f-44da-b317-01333bde0b82");
    assert_eq!(import(&temp.store, &[red.clone(), white.clone()]).new, 2);
    assert_eq!(
        import(&temp.store, &[coloured("10.3.0.0/16", "WHITE"), coloured("10.4.0.0/16", "AMBER"), amber]).new,
        3
    );
    assert_eq!(import(&temp.store, &[red, white]).unchanged, 2);
    let rows = log(&temp.store);
    let markings: Vec<(&str, &str)> = rows
        .iter()
        .filter(|row| row.text("stix_type") == "marking-definition")
        .map(|row| (row.text("kind"), row.text("value")))
        .collect();
    assert_eq!(
        markings,
        [("definition", "green"), ("object", "TLP:RED"), ("object", "TLP:WHITE"), ("object", "TLP:AMBER")]
    );
    assert_eq!(temp.store.snapshot().unwrap().live_rows(), 10);
    temp.store
        .compact(&CompactOptions { extent: Extent::All, history_s: Some(0), ..CompactOptions::default() })
        .unwrap();
    assert_eq!(temp.store.snapshot().unwrap().live_rows(), 10);
    assert_eq!(log(&temp.store).len(), rows.len());
    assert_sound(&temp.store);
}

fn import_dated(store: &Store, records: &[Value]) -> Summary {
    let text: String = records.iter().map(|record| format!("{record}\n")).collect();
    let input = Input::from_reader("export.ndjson", None, std::io::Cursor::new(text.into_bytes())).unwrap();
    let mut importer = Importer::new(store, false).with_kept_dates(true);
    let options = DecodeOptions::new(Arc::clone(store.ids()));
    ingest::decode(input, &options, |parsed| importer.push(parsed).map(|_| ())).unwrap();
    importer.finish().unwrap()
}

/// Who resumes from the date of the last object seen at the old system misses nothing, and gets again little.
#[test]
fn kept_dates_are_those_of_the_records() {
    let temp = temp_store();
    let future = Timestamp(Timestamp::now().0 + 86_400_000_000);
    let record = |n: usize, modified: &str| {
        // Each type has a definition, which must not push the others behind its own first record.
        let xsoar_type = if n % 2 == 1 { "Account" } else { "Domain" };
        let mut document = indicator(xsoar_type, &format!("h{n}.example.com"), 1, &[]);
        document["modified"] = json!(modified);
        document
    };
    let mut records: Vec<Value> = [5, 3, 9, 1, 7, 3]
        .iter()
        .enumerate()
        .map(|(n, at)| record(n, &format!("2024-05-{at:02}T10:00:00.123456Z")))
        .collect();
    records.push(record(6, &future.to_string()));
    let mut edge = xsoar_edge("1", ("Domain", "h0.example.com"), ("Domain", "h2.example.com"));
    edge["modified"] = json!("2024-05-06T00:00:00Z");
    records.insert(0, edge);
    let began = Timestamp::now();
    import_dated(&temp.store, &records);
    let rows = log(&temp.store);
    let dated: Vec<&Row> = rows.iter().filter(|row| row.text("kind") == "indicator").collect();
    let order: Vec<&str> = dated.iter().map(|row| row.text("value").split_once('.').unwrap().0).collect();
    assert_eq!(order, ["h3", "h1", "h5", "h0", "h4", "h2", "h6"]);
    for row in &dated[..6] {
        let late = i64::from(row.text("value") == "h5.example.com");
        assert_eq!(row.added, row.modified.unwrap() + late, "{row:?}");
    }
    assert!(dated[6].added >= began.0 && dated[6].added <= Timestamp::now().0 + 1, "never in the future");
    assert_eq!(rows[0].text("kind"), "definition");
    for (position, seen) in dated.iter().enumerate() {
        let resumed = |row: &&&Row| row.added >= seen.modified.unwrap();
        let got: BTreeSet<&str> = dated.iter().filter(resumed).map(|row| row.text("value")).collect();
        for later in dated.iter().filter(|row| row.modified >= seen.modified && row.modified.unwrap() <= began.0) {
            assert!(got.contains(later.text("value")), "resuming from {position} misses {later:?}");
        }
    }
    // Older than what is there: right behind it.
    let clock = temp.store.snapshot().unwrap().clock().0;
    import_dated(&temp.store, &[record(7, "2024-05-02T00:00:00Z")]);
    assert_eq!(log(&temp.store).last().unwrap().added, clock + 1);
    assert_sound(&temp.store);
}
