//! Walking a collection: every live object once, in order, whatever the page size and whoever writes meanwhile
//! (TAXII 2.1 §3.5, design §2).

use std::collections::BTreeMap;
use std::io::Read;

use proptest::prelude::*;
use serde_json::json;
use taxiway::feed::api::{Coding, FeedError, Filters, Given, PageRequest, Shape, StixVersion, Versions};
use taxiway::feed::collection::CollectionSpec;
use taxiway::model::time::Timestamp;
use taxiway::store::{CompactOptions, Extent, Store};

use crate::support::{OneCollection, import, import_text, indicator, spec, temp_store, values};

/// One thing that happens to a store.
#[derive(Debug, Clone)]
enum Step {
    /// Records arrive: (value number, score).
    Import(Vec<(u8, u8)>),
    Compact {
        extent: Extent,
        history_s: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let import = proptest::collection::vec((0u8..40, 0u8..4), 1..12).prop_map(Step::Import);
    let extent = prop_oneof![Just(Extent::Needed), Just(Extent::Possible), Just(Extent::All)];
    let compact = (extent, prop_oneof![Just(0u64), Just(86_400)])
        .prop_map(|(extent, history_s)| Step::Compact { extent, history_s });
    proptest::collection::vec(prop_oneof![4 => import, 1 => compact], 1..8)
}

fn apply(store: &Store, step: &Step, model: &mut BTreeMap<String, u8>) {
    match step {
        Step::Import(records) => {
            let documents: Vec<_> = records
                .iter()
                .map(|(number, score)| {
                    let value = format!("host{number}.example.com");
                    model.insert(value.clone(), *score);
                    indicator("Domain", &value, *score, &[])
                })
                .collect();
            import(store, &documents);
        }
        Step::Compact { extent, history_s } => {
            let options = CompactOptions { extent: *extent, history_s: Some(*history_s), ..CompactOptions::default() };
            store.compact(&options).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Any page size, by `next` or by `added_after`, gives every live object once and in order.
    #[test]
    fn every_live_object_once(steps in steps(), limit in prop_oneof![Just(Some(1)), Just(Some(2)), Just(Some(7)), Just(Some(1_000)), Just(None)], by_date in any::<bool>()) {
        let temp = temp_store();
        let mut model = BTreeMap::new();
        steps.iter().for_each(|step| apply(&temp.store, step, &mut model));
        let feed = OneCollection::new(&temp.store, &spec("all", ""));
        let mut seen = Vec::new();
        let (mut after, mut next) = (None, None::<String>);
        loop {
            let page = feed.page(after, next.as_deref(), limit);
            prop_assert_eq!(page.more, page.next.is_some());
            if page.objects.is_empty() {
                prop_assert!(!page.more);
                break;
            }
            // The headers say the dates of the page's own first and last item, and dates rise over the walk.
            prop_assert!(after.is_none_or(|after: Timestamp| page.first.unwrap() > after));
            prop_assert!(page.first <= page.last);
            if by_date { after = page.last } else { next.clone_from(&page.next) }
            seen.extend(values(&page.objects));
            if !page.more {
                break;
            }
        }
        let mut sorted = seen.clone();
        sorted.sort();
        let expected: Vec<String> = model.keys().cloned().collect();
        prop_assert_eq!(sorted, expected);
        prop_assert!(temp.store.check(|_| ()).unwrap().problems.is_empty());
    }

    /// While a writer commits between pages, a client that then goes on by date holds the newest version of everything, and never gets
    /// one version twice; a repeated `next` repeats its page.
    #[test]
    fn a_growing_collection_is_followed(first in steps(), meanwhile in proptest::collection::vec(steps(), 0..4), limit in 1u64..9, mixed in any::<bool>()) {
        let temp = temp_store();
        let mut model = BTreeMap::new();
        first.iter().for_each(|step| apply(&temp.store, step, &mut model));
        let feed = OneCollection::new(&temp.store, &CollectionAsIndicators::spec());
        let mut held: BTreeMap<String, String> = BTreeMap::new();
        let mut versions_seen = std::collections::BTreeSet::new();
        let (mut after, mut next) = (None, None::<String>);
        let mut writes = meanwhile.into_iter();
        for turn in 0.. {
            let page = feed.page(after, next.as_deref(), Some(limit));
            let wrote = writes.next();
            if let Some(steps) = &wrote {
                steps.iter().for_each(|step| apply(&temp.store, step, &mut model));
                if next.is_some() {
                    let again = feed.page(after, next.as_deref(), Some(limit));
                    prop_assert_eq!(&again, &page, "the same `next` gives the same page");
                }
            }
            for object in &page.objects {
                let (name, labels) = (object["name"].as_str().unwrap().to_owned(), object["indicator_types"].to_string());
                prop_assert!(versions_seen.insert((name.clone(), object["modified"].to_string())), "a version came twice: {object}");
                held.insert(name, labels);
            }
            match (page.more, &page.next) {
                (true, Some(cursor)) if !(mixed && turn % 3 == 2) => next = Some(cursor.clone()),
                _ => {
                    next = None;
                    after = page.last.or(after);
                }
            }
            // An empty page from before the last writes says nothing of them.
            if !page.more && page.objects.is_empty() && wrote.is_none() {
                break;
            }
        }
        let words = ["unknown", "benign", "anomalous-activity", "malicious-activity"];
        let word = |score: &u8| json!([words[usize::from(*score)]]).to_string();
        let expected: BTreeMap<String, String> = model.iter().map(|(value, score)| (value.clone(), word(score))).collect();
        prop_assert_eq!(held, expected);
    }
}

/// A collection whose objects show score and `modified`.
struct CollectionAsIndicators;

impl CollectionAsIndicators {
    fn spec() -> taxiway::feed::collection::CollectionSpec {
        let every = taxiway::model::kind::StixType::ALL.iter().copied().collect();
        taxiway::feed::collection::CollectionSpec { indicator_types: every, ..spec("as indicators", "") }
    }
}

#[test]
fn pages_beyond_a_slice_and_a_segment_keep_their_order() {
    let temp = temp_store();
    for part in 0..3 {
        let documents: Vec<_> =
            (0..2_500).map(|n| indicator("Domain", &format!("h{}.example.com", part * 2_500 + n), 1, &[])).collect();
        import(&temp.store, &documents);
    }
    let feed = OneCollection::new(&temp.store, &spec("all", ""));
    let expected: Vec<String> = (0..7_500).map(|n| format!("h{n}.example.com")).collect();
    for limit in [Some(1_023), Some(1_024), Some(1_025), Some(7_500), None] {
        assert_eq!(values(&feed.walk(Shape::Objects, &Filters::default(), limit)), expected, "limit {limit:?}");
    }
    let manifest = feed.walk(Shape::Manifest, &Filters::default(), Some(999));
    let objects = feed.walk(Shape::Objects, &Filters::default(), None);
    let ids = |list: &[serde_json::Value]| list.iter().map(|item| item["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&manifest), ids(&objects), "manifest and objects list the same");
}

#[test]
fn sparse_queries_page_like_dense_ones() {
    let temp = temp_store();
    let documents: Vec<_> = (0..5_000)
        .map(|n| indicator("Domain", &format!("h{n}.example.com"), 1, if n % 97 == 0 { &["rare"] } else { &[] }))
        .collect();
    import(&temp.store, &documents);
    let feed = OneCollection::new(&temp.store, &spec("rare", "tags:rare"));
    let expected: Vec<String> = (0..5_000).step_by(97).map(|n| format!("h{n}.example.com")).collect();
    for limit in [Some(1), Some(10), Some(52), Some(51), None] {
        assert_eq!(values(&feed.walk(Shape::Objects, &Filters::default(), limit)), expected, "limit {limit:?}");
    }
    let last = feed.page(None, None, Some(expected.len() as u64));
    assert!(!last.more && last.next.is_none(), "a full last page says there is no more");
}

#[test]
fn conditions_that_depend_on_the_clock_are_asked_at_the_time() {
    let temp = temp_store();
    let with_end = |value: &str, end: &str| {
        let mut document = indicator("Domain", value, 3, &[]);
        document["expiration"] = json!(end);
        document
    };
    let mut documents: Vec<_> =
        (0..3_000).map(|n| with_end(&format!("old{n}.example.com"), "2020-01-01T00:00:00Z")).collect();
    documents.push(with_end("new.example.com", "2999-01-01T00:00:00Z"));
    documents.push(indicator("Domain", "endless.example.com", 3, &[]));
    import(&temp.store, &documents);
    let feed = OneCollection::new(&temp.store, &spec("active", "verdict:malicious and expirationStatus:active"));
    assert_eq!(
        values(&feed.walk(Shape::Objects, &Filters::default(), Some(1))),
        ["new.example.com", "endless.example.com"]
    );
}

/// TAXII 2.1 §3.4: which objects each filter leaves.
#[test]
fn filters() {
    let temp = temp_store();
    let malware = |id: &str, modified: &str, name: &str| {
        json!({ "type": "malware", "spec_version": "2.1", "id": id, "created": "2024-01-01T00:00:00.000Z", "modified": modified,
                "name": name, "is_family": false })
    };
    let id = "malware--31b940d4-6f7f-459a-80ea-9c1f17b58abc";
    import(&temp.store, &[malware(id, "2024-02-01T00:00:00.000Z", "two"), indicator("IP", "198.51.100.7", 3, &[])]);
    import(
        &temp.store,
        &[malware(id, "2024-03-01T00:00:00.000Z", "three"), indicator("Domain", "a.example.com", 3, &[])],
    );
    import(&temp.store, &[malware(id, "2024-01-01T00:00:00.000Z", "one")]);
    let feed = OneCollection::new(&temp.store, &spec("all", ""));
    let date = |text: &str| Timestamp::parse(text).unwrap();
    let only = |versions: Versions| Filters { versions, types: vec!["malware".to_owned()], ..Filters::default() };
    let cases: Vec<(&str, Filters, Vec<&str>)> = vec![
        ("none", Filters::default(), vec!["198.51.100.7", "three", "a.example.com"]),
        (
            "type",
            Filters { types: vec!["ipv4-addr".into(), "mutex".into()], ..Filters::default() },
            vec!["198.51.100.7"],
        ),
        (
            "id",
            Filters {
                ids: vec![id.into(), "malware--00000000-0000-4000-8000-000000000000".into()],
                ..Filters::default()
            },
            vec!["three"],
        ),
        (
            "id and type",
            Filters { ids: vec![id.into()], types: vec!["ipv4-addr".into()], ..Filters::default() },
            vec![],
        ),
        ("spec version", Filters { spec_versions: vec!["2.0".into()], ..Filters::default() }, vec![]),
        ("all versions", only(Versions::All), vec!["two", "three", "one"]),
        ("first", only(Versions::Some { first: true, last: false, exact: vec![] }), vec!["one"]),
        ("first and last", only(Versions::Some { first: true, last: true, exact: vec![] }), vec!["three", "one"]),
        (
            "exact",
            only(Versions::Some { first: false, last: false, exact: vec![date("2024-02-01T00:00:00Z")] }),
            vec!["two"],
        ),
        (
            "exact of nothing",
            only(Versions::Some { first: false, last: false, exact: vec![date("2023-02-01T00:00:00Z")] }),
            vec![],
        ),
    ];
    for (name, filters, expected) in cases {
        for limit in [Some(1), None] {
            assert_eq!(values(&feed.walk(Shape::Objects, &filters, limit)), expected, "{name}");
        }
    }
    let request = PageRequest { object: Some(id.to_owned()), ..PageRequest::default() };
    let versions = feed.request(Shape::Versions, request).unwrap();
    // By date added, as everything; the object that came last is the oldest version.
    let text = |date: &str| json!(format!("{date}T00:00:00.000000Z"));
    assert_eq!(versions.objects, [text("2024-02-01"), text("2024-03-01"), text("2024-01-01")]);
}

#[test]
fn an_object_by_id_is_found_only_in_its_collection() {
    let temp = temp_store();
    import(&temp.store, &[indicator("IP", "8.8.8.8", 1, &[])]);
    // spec/xsoar-taxii2-server.md §3.1, vector 4.
    let id = "ipv4-addr--2f689bf9-0ff2-545f-aa61-e495eb8cecc7";
    let ask = |query: &str, id: &str| {
        let feed = OneCollection::new(&temp.store, &spec("c", query));
        feed.request(Shape::Objects, PageRequest { object: Some(id.to_owned()), ..PageRequest::default() })
    };
    assert_eq!(values(&ask("type:IP", id).unwrap().objects), ["8.8.8.8"]);
    for (query, id) in
        [("type:Domain", id), ("type:IP", "ipv4-addr--cbd67181-b9f8-595b-8bc3-3971e34fa1cc"), ("type:IP", "nonsense")]
    {
        assert!(matches!(ask(query, id), Err(FeedError::UnknownObject { .. })), "{query} {id}");
    }
}

/// An object that is there and that the filters leave nothing of is an empty page; one that is not there is unknown, in whatever form
/// it is asked for.
#[test]
fn a_missing_object_is_not_an_empty_page() {
    let temp = temp_store();
    let mut expired = indicator("IP", "1.1.1.1", 1, &[]);
    expired["expiration"] = json!("2024-02-01T00:00:00Z");
    import(&temp.store, &[indicator("IP", "8.8.8.8", 1, &[]), expired]);
    let feed = OneCollection::new(&temp.store, &spec("c", "type:IP and expirationStatus:active"));
    let (there, gone) =
        ("ipv4-addr--2f689bf9-0ff2-545f-aa61-e495eb8cecc7", "ipv4-addr--cbd67181-b9f8-595b-8bc3-3971e34fa1cc");
    let filters = [
        Filters::default(),
        Filters { spec_versions: vec!["2.0".into()], ..Filters::default() },
        Filters { versions: Versions::All, ..Filters::default() },
        Filters { added_after: Some(Timestamp::now()), ..Filters::default() },
    ];
    for (filters, objects) in filters.into_iter().zip([1, 0, 1, 0]) {
        for shape in [Shape::Objects, Shape::Versions] {
            let ask = |id: &str| {
                let request =
                    PageRequest { object: Some(id.to_owned()), filters: filters.clone(), ..PageRequest::default() };
                feed.request(shape, request)
            };
            assert_eq!(ask(there).unwrap().objects.len(), objects, "{shape:?} {filters:?}");
            assert!(matches!(ask(gone), Err(FeedError::UnknownObject { .. })), "{shape:?} {filters:?}");
        }
    }
}

#[test]
fn long_filters_fit_their_cursor_or_are_refused_at_once() {
    let temp = temp_store();
    import(&temp.store, &(0..9).map(|n| indicator("IP", &format!("198.51.100.{n}"), 1, &[])).collect::<Vec<_>>());
    let feed = OneCollection::new(&temp.store, &spec("all", ""));
    let everything = feed.walk(Shape::Objects, &Filters::default(), None);
    let mut ids: Vec<String> = everything.iter().map(|object| object["id"].as_str().unwrap().to_owned()).collect();
    ids.extend((0..700u128).map(|n| format!("domain-name--{}", uuid::Uuid::from_u128(n))));
    let filters = Filters { ids, ..Filters::default() };
    assert_eq!(feed.walk(Shape::Objects, &filters, Some(2)), everything);
    let long = (0..2_000).map(|n| format!("x-type-number-{n}")).collect();
    let request = PageRequest { filters: Filters { types: long, ..Filters::default() }, ..PageRequest::default() };
    assert!(matches!(feed.request(Shape::Objects, request), Err(FeedError::FiltersTooLong { .. })));
}

#[test]
fn cursors_are_held_to_their_walk() {
    let temp = temp_store();
    import(&temp.store, &(0..5).map(|n| indicator("Domain", &format!("h{n}.example.com"), 1, &[])).collect::<Vec<_>>());
    let all = OneCollection::new(&temp.store, &spec("all", ""));
    let dated = |date: Timestamp, next: Option<&String>| {
        let request = PageRequest {
            filters: Filters { added_after: Some(date), ..Filters::default() },
            given: Given { added_after: true, ..Given::default() },
            limit: Some(2),
            next: next.cloned(),
            ..PageRequest::default()
        };
        all.request(Shape::Objects, request)
    };
    let date = Timestamp::parse("2020-01-02T00:00:00Z").unwrap();
    let first = dated(date, None).unwrap();
    let next = first.next.unwrap();
    assert!(matches!(dated(Timestamp(date.0 - 1), Some(&next)), Err(FeedError::FiltersDiffer { name: "added_after" })));
    import(&temp.store, &[indicator("Domain", "h5.example.com", 1, &[])]);
    let rest = dated(date, Some(&next)).unwrap();
    assert_eq!(values(&rest.objects), ["h2.example.com", "h3.example.com"]);
    // A later date begins anew, with what came since the walk began.
    let anew = dated(first.first.unwrap(), Some(&next)).unwrap();
    assert_eq!(values(&anew.objects), ["h1.example.com", "h2.example.com"]);
    let last = dated(rest.last.unwrap(), Some(&next)).unwrap();
    assert_eq!(values(&last.objects), ["h4.example.com", "h5.example.com"]);
    let other = OneCollection::new(&temp.store, &spec("other", "type:Domain"));
    let foreign = PageRequest { next: Some(next), ..PageRequest::default() };
    assert!(matches!(other.request(Shape::Objects, foreign), Err(FeedError::BadCursor { .. })));
    // A consumer that comes from XSOAR sends a decimal offset (spec/xsoar-taxii2-server.md §2.9).
    assert_eq!(values(&all.page(None, Some("3"), Some(2)).objects), ["h3.example.com", "h4.example.com"]);
}

/// However often a page is asked for, and however it is packed, it says the same; what a commit leaves alone keeps its tag.
#[test]
fn packed_and_kept_pages_are_the_pages() {
    let temp = temp_store();
    for part in 0..2 {
        let documents: Vec<_> = (0..2_500)
            .map(|n| {
                let tags = if n % 7 == 0 { &["rare"][..] } else { &[] };
                indicator("Domain", &format!("h{}.example.com", part * 2_500 + n), 1, tags)
            })
            .collect();
        import(&temp.store, &documents);
    }
    for query in ["", "tags:rare", "tags:none"] {
        let feed = OneCollection::new(&temp.store, &spec("all", query));
        for limit in [1, 1_000, 1_024, 5_000] {
            let ask = |coding| feed.sent(PageRequest { limit: Some(limit), coding, ..PageRequest::default() });
            let (plain, tag) = ask(Coding::Identity);
            for round in 0..4 {
                for coding in [Coding::Identity, Coding::Gzip, Coding::Zstd] {
                    let (sent, own_tag) = ask(coding);
                    let mut unpacked = Vec::new();
                    match coding {
                        // A page without objects is too small to be packed.
                        _ if query == "tags:none" => unpacked = sent,
                        Coding::Identity => unpacked = sent,
                        Coding::Gzip => {
                            flate2::read::GzDecoder::new(&sent[..]).read_to_end(&mut unpacked).unwrap();
                        }
                        Coding::Zstd => unpacked = zstd::stream::decode_all(&sent[..]).unwrap(),
                    }
                    assert_eq!(unpacked, plain, "{query} {limit} {coding:?} {round}");
                    assert_eq!(own_tag, tag);
                }
            }
        }
        let whole = || feed.sent(PageRequest { limit: Some(10_000), ..PageRequest::default() }).1;
        let before = whole();
        import(&temp.store, &[indicator("Domain", &format!("new{}.example.com", query.len()), 1, &["other"])]);
        assert_eq!(whole() == before, !query.is_empty(), "{query}");
    }
}

/// Rows of a page that lie far from each other are read type by type, neighbours together: as they are written, nobody can tell.
#[test]
fn scattered_rows_are_written_as_neighbours_are() {
    let temp = temp_store();
    let (mut chosen, mut kinds) = (Vec::new(), BTreeMap::<String, u32>::new());
    for line in include_str!("../../data/sample.ndjson").lines() {
        let kind = serde_json::from_str::<serde_json::Value>(line).unwrap()["indicator_type"].to_string();
        let count = kinds.entry(kind).or_default();
        *count += 1;
        if *count <= 3 {
            chosen.push(line);
        }
    }
    let fill = |number: usize| {
        let filler = |n: usize| indicator("Domain", &format!("filler{number}-{n}.example.com"), 0, &["filler"]);
        (0..400).map(filler).map(|document| document.to_string() + "\n").collect::<String>()
    };
    let scattered: String =
        chosen.iter().enumerate().map(|(number, line)| format!("{line}\n{}", fill(number))).collect();
    import_text(&temp.store, "scattered.ndjson", &scattered);
    import_text(&temp.store, "bundle.json", include_str!("../../data/sample-bundle.json"));
    import_text(&temp.store, "fill.ndjson", &fill(1_000));
    temp.store.compact(&CompactOptions { extent: Extent::All, ..CompactOptions::default() }).unwrap();
    assert_eq!(temp.store.snapshot().unwrap().segments().len(), 1);

    let with_extensions = |mut spec: CollectionSpec| {
        spec.extension_fields = Some(taxiway::render::ExtensionFields::All);
        spec
    };
    let all = OneCollection::new(&temp.store, &spec("all", ""));
    let cases: [(&str, &dyn Fn(&str, &str) -> CollectionSpec); 2] =
        [("plain", &spec), ("with extensions", &|title, query| with_extensions(spec(title, query)))];
    for (name, spec) in cases {
        let (everything, few) = (all.other(&spec("everything", "")), all.other(&spec("few", "-tags:filler")));
        for version in [StixVersion::V20, StixVersion::V21] {
            let ask = |feed: &OneCollection| {
                let request = PageRequest { version, limit: Some(100_000), ..PageRequest::default() };
                feed.request(Shape::Objects, request).unwrap().objects
            };
            let is_filler = |object: &serde_json::Value| object.to_string().contains("filler");
            let expected: Vec<_> = ask(&everything).into_iter().filter(|object| !is_filler(object)).collect();
            let found = ask(&few);
            assert!(found.len() > 70, "{name} {version:?}: {}", found.len());
            assert_eq!(found, expected, "{name} {version:?}");
        }
    }
}
