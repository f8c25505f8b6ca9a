//! Rows of inboxes: where they are served, in which form and version, and how they are deleted (TAXII 2.1 §3.4, §5.7).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, DictionaryArray, StringArray};
use arrow::datatypes::{Int32Type, TimestampMicrosecondType};
use proptest::prelude::*;
use serde_json::{Value, json};
use taxiway::feed::api::{FeedError, Filters, PageRequest, Shape, StixVersion, Versions};
use taxiway::feed::collection::CollectionSpec;
use taxiway::ingest::{self, DecodeOptions, Input};
use taxiway::model::schema::column as c;
use taxiway::model::time::Timestamp;
use taxiway::store::{CompactOptions, Extent, NewRows, Store};

use crate::support::{OneCollection, TempStore, import, indicator, options, spec, temp_store, values};

const A: &str = "0a0a0a0a-0000-4000-8000-00000000000a";
const B: &str = "0b0b0b0b-0000-4000-8000-00000000000b";

/// A version of an object: whether it is written in 2.1, when it was made.
type Rank = (bool, i64);

/// Puts objects into an inbox, as whoever takes a POST does: the newest version in its newest form is the live one.
fn put(store: &Store, inbox: &str, objects: &[Value]) {
    for object in objects {
        let input = Input::from_reader("posted.ndjson", None, std::io::Cursor::new(format!("{object}\n"))).unwrap();
        let mut parsed = None;
        ingest::decode(input, &DecodeOptions::new(Arc::clone(store.ids())), |rows| {
            parsed = Some(rows);
            Ok::<(), std::io::Error>(())
        })
        .unwrap();
        let parsed = parsed.unwrap();
        assert_eq!(parsed.batch.num_rows(), 1, "{object}");
        let mut columns = parsed.batch.columns().to_vec();
        let schema = parsed.batch.schema();
        let mut set = |name: &str, array: ArrayRef| columns[schema.index_of(name).unwrap()] = array;
        set(c::INBOX, Arc::new(StringArray::from(vec![inbox])));
        set(c::KIND, Arc::new(DictionaryArray::<Int32Type>::from_iter(["object"])));
        let batch = arrow::array::RecordBatch::try_new(schema, columns).unwrap();
        let id = object["id"].as_str().unwrap();
        let key = twox_hash::XxHash3_64::oneshot(format!("inbox\0{inbox}\0{id}").as_bytes());
        let made = ["modified", "created"].iter().find_map(|name| object[name].as_str());
        let rank = (object.get("spec_version").is_some(), Timestamp::parse(made.unwrap()).unwrap().0);
        let mut writer = store.writer().unwrap();
        let live = versions(store, inbox, id).into_iter().find(|(.., live)| *live);
        let stale: &[u32] = match &live {
            Some((newest, ..)) if *newest > rank => &[0],
            Some((_, (segment, row), _)) => {
                writer.supersede(*segment, *row);
                &[]
            }
            None => &[],
        };
        writer.append(NewRows { batch, keys: vec![key], digests: parsed.digests }, stale).unwrap();
        writer.publish().unwrap();
    }
}

/// What an inbox holds of an object, oldest version first: version, row, whether it is live.
fn versions(store: &Store, inbox: &str, id: &str) -> Vec<(Rank, (usize, u32), bool)> {
    let snapshot = store.reload().unwrap();
    let mut versions = Vec::new();
    for (segment, row) in snapshot.rows_of_id(id).unwrap() {
        let view = &snapshot.segments()[segment];
        let columns = [c::SPEC_VERSION, c::CREATED, c::MODIFIED, c::INBOX];
        let batch =
            view.segment.read(std::slice::from_ref(&(row..row + 1)), &columns, 1).unwrap().next().unwrap().unwrap();
        let form = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8).unwrap();
        let inboxes = batch.column(3).as_string::<i32>();
        if inboxes.is_null(0) || inboxes.value(0) != inbox || view.deleted.contains(row) {
            continue;
        }
        let times = [2, 1].map(|at| batch.column(at).as_primitive::<TimestampMicrosecondType>());
        let made = times.iter().find(|times| times.is_valid(0)).unwrap().value(0);
        let rank = (form.as_string::<i32>().value(0) == "2.1", made);
        versions.push((rank, (segment, row), !view.superseded.contains(row)));
    }
    versions.sort();
    versions
}

#[derive(Clone, Copy, Debug)]
enum Which {
    All,
    Last,
    First,
}

/// Deletes versions of an object from an inbox; the newest of those left comes to the front.
fn delete(store: &Store, inbox: &str, id: &str, which: Which) {
    let mut versions = versions(store, inbox, id);
    let gone = match which {
        Which::All => std::mem::take(&mut versions),
        Which::Last => versions.pop().into_iter().collect(),
        Which::First => vec![versions.remove(0)],
    };
    let mut writer = store.writer().unwrap();
    gone.iter().for_each(|(_, (segment, row), _)| writer.delete(*segment, *row));
    if let Some((_, (segment, row), false)) = versions.last() {
        writer.revive(*segment, *row);
    }
    writer.publish().unwrap();
}

fn id(number: usize) -> String {
    format!("malware--{number:08}-0000-4000-8000-000000000000")
}

/// Version `version` of an object, named by both.
fn malware(number: usize, version: u32) -> Value {
    json!({
        "type": "malware", "spec_version": "2.1", "id": id(number), "created": "2024-01-01T00:00:00.000Z",
        "modified": format!("2024-02-{version:02}T00:00:00.000Z"), "name": format!("m{number}v{version}"), "is_family": false,
    })
}

/// The same version as STIX 2.0 has it.
fn malware_20(number: usize, version: u32) -> Value {
    let mut object = malware(number, version);
    object["name"] = json!(format!("m{number}v{version}in20"));
    object["labels"] = json!(["x"]);
    let object_map = object.as_object_mut().unwrap();
    object_map.remove("spec_version");
    object_map.remove("is_family");
    object
}

fn inbox(id: &str) -> CollectionSpec {
    CollectionSpec { inbox: true, id: Some(id.to_owned()), ..spec(id, "") }
}

fn names(feed: &OneCollection, filters: &Filters, version: StixVersion) -> Vec<String> {
    let request = PageRequest { filters: filters.clone(), version, ..PageRequest::default() };
    values(&feed.request(Shape::Objects, request).unwrap().objects)
}

fn served(store: &Store, collection: &CollectionSpec) -> Vec<String> {
    values(&OneCollection::new(store, collection).walk(Shape::Objects, &Filters::default(), Some(2)))
}

fn checked(store: &Store) {
    let problems = store.check(|_| ()).unwrap().problems;
    assert!(problems.is_empty(), "{problems:?}");
}

fn all_compacted(temp: &TempStore) {
    let everything = CompactOptions { extent: Extent::All, history_s: Some(86_400), ..CompactOptions::default() };
    temp.store.compact(&everything).unwrap();
}

#[test]
fn an_inbox_serves_what_was_posted_to_it_and_nobody_else_does() {
    let temp = temp_store();
    import(&temp.store, &[malware(1, 1), indicator("Domain", "a.example.com", 3, &[])]);
    put(&temp.store, A, &[malware(1, 2), malware(2, 1)]);
    put(&temp.store, B, &[malware(1, 3)]);
    import(&temp.store, &[malware(3, 1)]);
    for round in ["before", "after"] {
        let naming = format!("inbox:\"{}\"", A.to_uppercase());
        let either = format!("inbox:{A} or type:Domain");
        let sql = format!("inbox = '{B}' OR value = 'x'");
        let cases: [(CollectionSpec, &[&str]); 6] = [
            (inbox(A), &["m1v2", "m2v1"]),
            (inbox(B), &["m1v3"]),
            (spec("all", ""), &["m1v1", "a.example.com", "m3v1"]),
            (spec("naming", &naming), &["m1v2", "m2v1"]),
            (spec("either", &either), &["a.example.com", "m1v2", "m2v1"]),
            (CollectionSpec { query: taxiway::feed::collection::QueryText::Sql(sql), ..spec("sql", "") }, &["m1v3"]),
        ];
        for (collection, expected) in cases {
            assert_eq!(served(&temp.store, &collection), expected, "{} {round} compaction", collection.title);
            let feed = OneCollection::new(&temp.store, &collection);
            assert_eq!(feed.feed.count_blocking(&feed.collection).unwrap(), expected.len() as u64);
            let request = PageRequest { object: Some(id(1)), ..PageRequest::default() };
            let by_id = feed.request(Shape::Objects, request).map(|page| values(&page.objects));
            let own: Vec<&str> = expected.iter().copied().filter(|name| name.starts_with("m1v")).collect();
            match own.as_slice() {
                [] => assert!(matches!(by_id, Err(FeedError::UnknownObject { .. })), "{}", collection.title),
                own => assert_eq!(by_id.unwrap(), own, "{}", collection.title),
            }
        }
        checked(&temp.store);
        all_compacted(&temp);
        assert_eq!(temp.store.snapshot().unwrap().segments().len(), 1);
    }
}

/// TAXII 2.1 §3.4.3: of an object that is there in both forms, the newest one unless asked otherwise, whatever its dates.
#[test]
fn a_version_in_two_forms_is_served_in_the_newest() {
    let temp = temp_store();
    // 1: 2.1 first. 2: 2.0 first. 3: only 2.0. 4: the newest version only in 2.1. 5: the newest only in 2.0.
    put(&temp.store, A, &[malware(1, 1), malware_20(1, 1), malware_20(2, 1), malware(2, 1), malware_20(3, 1)]);
    put(&temp.store, A, &[malware_20(4, 1), malware(4, 2), malware(5, 1), malware_20(5, 2)]);
    let filters = |specs: &[&str], versions: Versions| Filters {
        spec_versions: specs.iter().map(|spec| (*spec).to_owned()).collect(),
        versions,
        ..Filters::default()
    };
    let newest = ["m1v1", "m2v1", "m3v1in20", "m4v2", "m5v1"];
    let in_20 = ["m1v1in20", "m2v1in20", "m3v1in20", "m4v1in20", "m5v2in20"];
    let (v20, v21) = (StixVersion::V20, StixVersion::V21);
    let first = || Versions::Some { first: true, last: false, exact: Vec::new() };
    let exact =
        || Versions::Some { first: false, last: false, exact: vec![Timestamp::parse("2024-02-01T00:00:00Z").unwrap()] };
    let cases: [(&str, Filters, StixVersion, &[&str]); 10] = [
        ("nothing asked", Filters::default(), v21, &newest),
        ("2.0", filters(&["2.0"], Versions::Last), v21, &in_20),
        ("2.1", filters(&["2.1"], Versions::Last), v21, &["m1v1", "m2v1", "m4v2", "m5v1"]),
        (
            "both",
            filters(&["2.0", "2.1"], Versions::Last),
            v21,
            &["m1v1", "m1v1in20", "m2v1in20", "m2v1", "m3v1in20", "m4v2", "m5v2in20"],
        ),
        ("another", filters(&["3.0"], Versions::Last), v21, &[]),
        ("a client of 2.0", Filters::default(), v20, &in_20),
        ("all", filters(&[], Versions::All), v21, &newest),
        ("first", filters(&[], first()), v21, &newest),
        ("exact in 2.0", filters(&["2.0"], exact()), v21, &["m1v1in20", "m2v1in20", "m3v1in20", "m4v1in20"]),
        ("all in 2.1", filters(&["2.1"], Versions::All), v21, &["m1v1", "m2v1", "m4v2", "m5v1"]),
    ];
    for round in ["before", "after"] {
        let feed = OneCollection::new(&temp.store, &inbox(A));
        for (name, filters, version, expected) in &cases {
            assert_eq!(names(&feed, filters, *version), *expected, "{name} {round} compaction");
        }
        let request = PageRequest {
            object: Some(id(1)),
            filters: filters(&["2.0", "2.1"], Versions::All),
            ..PageRequest::default()
        };
        let listed = feed.request(Shape::Versions, request).unwrap().objects;
        assert_eq!(listed, [json!("2024-02-01T00:00:00.000000Z")], "a version is named once");
        for (specs, expected) in [(&["2.0", "2.1"][..], 2), (&["2.0"], 1), (&[], 1)] {
            let filters = filters(specs, Versions::All);
            let request = PageRequest { object: Some(id(5)), filters, ..PageRequest::default() };
            assert_eq!(feed.request(Shape::Versions, request).unwrap().objects.len(), expected, "{specs:?}");
        }
        all_compacted(&temp);
    }
    // With the newer form gone the older one is left.
    delete(&temp.store, A, &id(1), Which::Last);
    assert_eq!(served(&temp.store, &inbox(A))[0], "m1v1in20");
}

/// TAXII 2.1 §5.7: gone from every answer at once, and from the files with compaction.
#[test]
fn what_is_deleted_is_nowhere() {
    let all = Filters { versions: Versions::All, ..Filters::default() };
    let cases: [(&[Which], &[&str], &[&str]); 5] = [
        (&[Which::Last], &["m1v2"], &["m1v1", "m1v2"]),
        (&[Which::First], &["m1v3"], &["m1v2", "m1v3"]),
        (&[Which::Last, Which::Last], &["m1v1"], &["m1v1"]),
        (&[Which::Last, Which::First], &["m1v2"], &["m1v2"]),
        (&[Which::All], &[], &[]),
    ];
    for (deletions, newest, every) in cases {
        let temp = temp_store();
        put(&temp.store, B, &[malware(1, 1)]);
        put(&temp.store, A, &[malware(1, 1), malware(1, 2), malware(1, 3)]);
        deletions.iter().for_each(|which| delete(&temp.store, A, &id(1), *which));
        let reopened = Store::open(options(temp.folder.path())).unwrap();
        let held = |store: &Store| -> u64 {
            store.reload().unwrap().segments().iter().map(|view| u64::from(view.segment.rows())).sum()
        };
        for store in [&temp.store, &reopened] {
            for round in ["before", "after"] {
                let case = format!("{deletions:?} {round} compaction");
                let feed = OneCollection::new(store, &inbox(A));
                let walked = |filters: &Filters, shape| feed.walk(shape, filters, Some(1));
                assert_eq!(values(&walked(&Filters::default(), Shape::Objects)), newest, "{case}");
                assert_eq!(values(&walked(&all, Shape::Objects)), every, "{case}");
                assert_eq!(walked(&all, Shape::Manifest).len(), every.len(), "{case}");
                assert_eq!(feed.feed.count_blocking(&feed.collection).unwrap(), newest.len() as u64, "{case}");
                for shape in [Shape::Objects, Shape::Versions] {
                    let request = PageRequest { object: Some(id(1)), filters: all.clone(), ..PageRequest::default() };
                    match feed.request(shape, request) {
                        Ok(page) => assert_eq!(page.objects.len(), every.len(), "{case}"),
                        Err(FeedError::UnknownObject { .. }) => assert!(every.is_empty(), "{case}"),
                        Err(other) => panic!("{case}: {other}"),
                    }
                }
                assert_eq!(served(store, &inbox(B)), ["m1v1"], "{case}");
                let report = store.check(|_| ()).unwrap();
                assert!(report.problems.is_empty(), "{case}: {:?}", report.problems);
                assert_eq!(
                    (report.live_rows, report.rows),
                    (newest.len() as u64 + 1, every.len() as u64 + 1),
                    "{case}"
                );
                assert_eq!(report.types["malware"], every.len() as u64 + 1, "{case}");
                if round == "before" && std::ptr::eq(store, &temp.store) {
                    continue;
                }
                // Whatever the history and the sizes: they go.
                store.compact(&CompactOptions { target_rows: 1, ..CompactOptions::default() }).unwrap();
                assert_eq!(held(store), every.len() as u64 + 1, "{case}");
            }
        }
    }
}

/// What comes again after it was deleted is there again, in its new place.
#[test]
fn a_deleted_version_can_come_again() {
    let temp = temp_store();
    put(&temp.store, A, &[malware(1, 1), malware(1, 2), malware(2, 1)]);
    delete(&temp.store, A, &id(1), Which::Last);
    assert_eq!(served(&temp.store, &inbox(A)), ["m1v1", "m2v1"]);
    put(&temp.store, A, &[malware(1, 2)]);
    assert_eq!(served(&temp.store, &inbox(A)), ["m2v1", "m1v2"]);
    delete(&temp.store, A, &id(1), Which::All);
    put(&temp.store, A, &[malware(1, 1)]);
    assert_eq!(served(&temp.store, &inbox(A)), ["m2v1", "m1v1"]);
    checked(&temp.store);
}

/// A walk from before a deletion goes on in the newest version: nothing deleted comes, and nothing else is lost or comes twice.
#[test]
fn a_walk_goes_on_behind_a_deletion() {
    let temp = temp_store();
    put(&temp.store, A, &(0..8).map(|number| malware(number, 1)).collect::<Vec<_>>());
    let feed = OneCollection::new(&temp.store, &inbox(A));
    let first = feed.page(None, None, Some(3));
    assert_eq!(values(&first.objects), ["m0v1", "m1v1", "m2v1"]);
    // One served already, one to come, and between these one that changes.
    put(&temp.store, A, &[malware(4, 2)]);
    delete(&temp.store, A, &id(1), Which::Last);
    delete(&temp.store, A, &id(3), Which::All);
    let rest = feed.page(None, first.next.as_deref(), None);
    assert_eq!(values(&rest.objects), ["m5v1", "m6v1", "m7v1", "m4v2"]);
    // A walk from after it is not disturbed by what comes.
    let first = feed.page(None, None, Some(2));
    put(&temp.store, A, &[malware(5, 2), malware(9, 1)]);
    let rest = feed.page(None, first.next.as_deref(), None);
    assert_eq!(values(&[first.objects, rest.objects].concat()), ["m0v1", "m2v1", "m5v1", "m6v1", "m7v1", "m4v2"]);
}

/// Relationships end at what was imported, whatever lies in inboxes; and definitions are the store's own.
#[test]
fn nothing_in_an_inbox_is_an_end_or_a_definition() {
    let temp = temp_store();
    let edge = json!({
        "type": "relationship", "spec_version": "2.1", "id": "relationship--44298a74-ba52-4f0c-87a3-1824e67d7fad",
        "created": "2024-01-01T00:00:00.000Z", "modified": "2024-01-01T00:00:00.000Z", "relationship_type": "uses",
        "source_ref": id(1), "target_ref": id(2),
    });
    let mut other = edge.clone();
    other["id"] = json!("relationship--44298a74-ba52-4f0c-87a3-1824e67d7fae");
    let red = json!({
        "type": "marking-definition", "spec_version": "2.1", "id": "marking-definition--e828b379-4e03-4974-9ac4-e53a884c97c1",
        "created": "2022-10-01T00:00:00.000Z", "name": "TLP:RED",
        "extensions": { "extension-definition--60a3c5c5-0d10-413e-aab3-9e08dde9e88d": { "extension_type": "property-extension", "tlp_2_0": "red" } },
    });
    put(&temp.store, A, &[malware(1, 1), malware(2, 1), other, red]);
    import(&temp.store, &[edge, malware(1, 1)]);
    let waiting = |store: &Store| store.reload().unwrap().waiting_rows();
    assert_eq!(waiting(&temp.store), 1, "the second end is only in the inbox");
    assert_eq!(served(&temp.store, &spec("all", "")), ["m1v1"]);
    import(&temp.store, &[malware(2, 1)]);
    assert_eq!(waiting(&temp.store), 0);
    let both = OneCollection::new(&temp.store, &spec("all", "")).walk(Shape::Objects, &Filters::default(), None);
    let types: Vec<&str> = both.iter().map(|object| object["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["malware", "malware", "relationship"]);
    // Ends that are in the inbox alone do not bring a relationship into a collection.
    let naming = spec("naming", &format!("inbox:{A} and stixType:malware"));
    assert_eq!(served(&temp.store, &naming), ["m1v1", "m2v1"]);
    // What is posted as a relationship is an object, and follows nobody.
    let posted = OneCollection::new(&temp.store, &inbox(A));
    assert_eq!(posted.walk(Shape::Objects, &Filters::default(), None).len(), 4);
    let before = temp.store.reload().unwrap();
    let mut changed = malware(1, 2);
    changed["name"] = json!("changed");
    import(&temp.store, &[changed]);
    assert_eq!(posted.walk(Shape::Objects, &Filters::default(), None).len(), 4);
    assert!(temp.store.reload().unwrap().version() > before.version());
    let mut marked = indicator("Domain", "a.example.com", 3, &[]);
    marked["CustomFields"]["trafficlightprotocol"] = json!("RED");
    import(&temp.store, &[marked]);
    let all = OneCollection::new(&temp.store, &spec("all", "")).walk(Shape::Objects, &Filters::default(), None);
    assert!(all.iter().any(|object| object["type"] == "marking-definition"), "{all:?}");
    checked(&temp.store);
    all_compacted(&temp);
    checked(&temp.store);
    assert_eq!(posted.walk(Shape::Objects, &Filters::default(), None).len(), 4);
}

/// What happens between two pages.
#[derive(Clone, Debug)]
enum Deed {
    Put(usize, u32),
    Delete(usize, Which),
    Compact,
    Merge,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let which = prop_oneof![Just(Which::All), Just(Which::Last), Just(Which::First)];
    let deed = prop_oneof![
        5 => (0usize..12, 1u32..5).prop_map(|(number, version)| Deed::Put(number, version)),
        2 => (0usize..12, which).prop_map(|(number, which)| Deed::Delete(number, which)),
        1 => Just(Deed::Compact),
        1 => Just(Deed::Merge),
    ];
    proptest::collection::vec(deed, 0..5)
}

/// Which versions of which objects there are.
type Model = BTreeMap<usize, BTreeSet<u32>>;

fn apply(temp: &TempStore, deed: &Deed, model: &mut Model) {
    match deed {
        Deed::Put(number, version) => {
            if model.entry(*number).or_default().insert(*version) {
                put(&temp.store, A, &[malware(*number, *version)]);
            }
        }
        Deed::Delete(number, which) => {
            let Some(versions) = model.get_mut(number).filter(|versions| !versions.is_empty()) else { return };
            match which {
                Which::All => versions.clear(),
                Which::Last => {
                    versions.pop_last();
                }
                Which::First => {
                    versions.pop_first();
                }
            }
            delete(&temp.store, A, &id(*number), *which);
        }
        Deed::Compact => all_compacted(temp),
        Deed::Merge => {
            temp.store.merge_tail().unwrap();
        }
    }
}

fn newest(model: &Model) -> BTreeSet<String> {
    model.iter().filter_map(|(number, versions)| Some(format!("m{number}v{}", versions.last()?))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Whatever is put and deleted between the pages of a walk: no page holds what was deleted before it was asked for, nothing comes twice,
    /// and what is the newest version all the while comes.
    #[test]
    fn a_walk_sees_no_deleted_row_and_loses_none(first in deeds(), between in proptest::collection::vec(deeds(), 0..5), limit in 1u64..5) {
        let temp = temp_store();
        let mut model = Model::new();
        (0..8).for_each(|number| apply(&temp, &Deed::Put(number, 2), &mut model));
        first.iter().for_each(|deed| apply(&temp, deed, &mut model));
        let feed = OneCollection::new(&temp.store, &inbox(A));
        let mut steady = newest(&model);
        let mut seen = BTreeSet::new();
        let mut gone = BTreeSet::new();
        let mut turns = between.into_iter();
        let mut next = None;
        loop {
            let page = feed.request(Shape::Objects, PageRequest { next: next.take(), limit: Some(limit), ..PageRequest::default() }).unwrap();
            for name in values(&page.objects) {
                prop_assert!(!gone.contains(&name), "{} was deleted", name);
                prop_assert!(seen.insert(name.clone()), "{} came twice", name);
            }
            let Some(cursor) = page.next else { break };
            next = Some(cursor);
            for deed in turns.next().unwrap_or_default() {
                let before = model.clone();
                apply(&temp, &deed, &mut model);
                for (number, versions) in &before {
                    gone.extend(versions.difference(&model[number]).map(|version| format!("m{number}v{version}")));
                }
                // What was deleted and comes again is not what was deleted.
                for (number, versions) in &model {
                    versions.iter().for_each(|version| { gone.remove(&format!("m{number}v{version}")); });
                }
                let now = newest(&model);
                steady.retain(|name| now.contains(name));
            }
        }
        let lost: Vec<&String> = steady.difference(&seen).collect();
        prop_assert!(lost.is_empty(), "{:?} did not come", lost);
        // A new walk gives what there is, in every form of it.
        let all = Filters { versions: Versions::All, ..Filters::default() };
        let walked: BTreeSet<String> = values(&feed.walk(Shape::Objects, &Filters::default(), Some(limit))).into_iter().collect();
        prop_assert_eq!(walked, newest(&model));
        let every: BTreeSet<String> = model.iter().flat_map(|(number, versions)| versions.iter().map(move |version| format!("m{number}v{version}"))).collect();
        let walked: BTreeSet<String> = values(&feed.walk(Shape::Objects, &all, Some(limit))).into_iter().collect();
        prop_assert_eq!(walked, every);
        prop_assert!(temp.store.check(|_| ()).unwrap().problems.is_empty());
    }
}

/// Rows that bring their date keep it, as far as the clock rises.
#[test]
fn rows_keep_the_dates_they_bring() {
    let temp = temp_store();
    put(&temp.store, A, &[malware(1, 1)]);
    let now = temp.store.now();
    let template = {
        let snapshot = temp.store.reload().unwrap();
        let names: Vec<&str> =
            taxiway::model::schema::schema_names().into_iter().filter(|name| *name != c::ADDED).collect();
        snapshot.segments()[0].segment.read(std::slice::from_ref(&(0..1)), &names, 1).unwrap().next().unwrap().unwrap()
    };
    let rows = |count: usize| NewRows {
        batch: arrow::compute::concat_batches(&template.schema(), vec![&template; count]).unwrap(),
        keys: vec![9; count],
        digests: vec![9; count],
    };
    let clock = temp.store.reload().unwrap().clock().0;
    let mut writer = temp.store.writer().unwrap();
    let wanted = [clock + 10, clock + 10, clock + 5, now.0 - 1_000_000, i64::MAX].map(Timestamp);
    writer.append(rows(2), &[0]).unwrap();
    writer.append_at(rows(5), &[1], &wanted).unwrap();
    writer.append(rows(1), &[]).unwrap();
    let snapshot = writer.publish().unwrap();
    let view = snapshot.segments().last().unwrap();
    let added: Vec<i64> = (0..view.segment.rows()).map(|row| view.segment.added(row).unwrap().0).collect();
    assert!(added.windows(2).all(|pair| pair[0] < pair[1]), "{added:?}");
    assert!(*added.last().unwrap() <= temp.store.now().0 + 1_000_000);
    assert_eq!(view.superseded.iter().collect::<Vec<_>>(), [0, 3]);
    // Alone, in a store whose clock is behind them, they are kept to the microsecond.
    let other = temp_store();
    let mut writer = other.store.writer().unwrap();
    let wanted = [1_000, 1_000, 5_000, 4_000, 9_000].map(Timestamp);
    writer.append_at(rows(5), &[], &wanted).unwrap();
    let snapshot = writer.publish().unwrap();
    let segment = &snapshot.segments()[0].segment;
    let added: Vec<i64> = (0..5).map(|row| segment.added(row).unwrap().0).collect();
    assert_eq!(added, [1_000, 1_001, 5_000, 5_001, 9_000]);
}

/// Many small commits leave few segments, few files, and every row in its place.
#[test]
fn small_commits_leave_few_segments() {
    let temp = temp_store();
    let feed = OneCollection::new(&temp.store, &inbox(A));
    let mut expected = Vec::new();
    let mut started = None;
    let (mut most, mut rewritten) = (0, 0);
    for number in 0..150 {
        put(&temp.store, A, &[malware(number, 1)]);
        expected.push(format!("m{number}v1"));
        let report = temp.store.merge_tail().unwrap();
        rewritten += report.rewritten;
        most = most.max(report.segments_after);
        if number == 40 {
            started = Some(feed.page(None, None, Some(10)));
        }
        if number == 41 {
            // A walk from before merging goes on as if nothing had been.
            let started = started.take().unwrap();
            let rest = feed.page(None, started.next.as_deref(), None);
            assert_eq!(values(&[started.objects, rest.objects].concat()), expected[..41]);
        }
    }
    assert_eq!(values(&feed.walk(Shape::Objects, &Filters::default(), Some(13))), expected);
    assert!(most <= 24, "{most} segments");
    assert!(rewritten <= 150 * 20, "{rewritten} rows were written again");
    checked(&temp.store);
    let again = temp.store.merge_tail().unwrap();
    assert_eq!((again.rewritten, again.segments_before), (0, again.segments_after));
}
