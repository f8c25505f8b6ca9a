//! The segment log: clock, upserts, crashes, damage (design §2, §3).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::json;
use taxiway::feed::api::{Filters, Shape};
use taxiway::ingest::{self, DecodeOptions, Importer, Input};
use taxiway::model::time::Timestamp;
use taxiway::store::{CompactOptions, Store, StoreError, StoreOptions};

use crate::support::{OneCollection, by_id, import, import_text, indicator, options, spec, temp_store, values};

fn all_added(store: &Store) -> Vec<i64> {
    let snapshot = store.reload().unwrap();
    let mut added = Vec::new();
    for view in snapshot.segments() {
        added.extend((0..view.segment.rows()).map(|row| view.segment.added(row).unwrap().0));
    }
    added
}

fn assert_rising(added: &[i64]) {
    assert!(added.windows(2).all(|pair| pair[0] < pair[1]), "`added` must rise strictly");
}

/// Design §2: strictly rising over restarts and a clock that is set back or jumps.
#[test]
fn the_clock_rises_whatever_the_time_of_day_does() {
    let folder = tempfile::tempdir().unwrap();
    let time = Arc::new(AtomicI64::new(Timestamp::now().0));
    let mut number = 0;
    for step in [0i64, -3_600, 1, -86_400 * 365, 0, 7_200] {
        time.fetch_add(step * 1_000_000, Ordering::SeqCst);
        let now = Arc::clone(&time);
        let store = Store::with_clock(options(folder.path()), move || Timestamp(now.load(Ordering::SeqCst))).unwrap();
        for _ in 0..2 {
            let documents: Vec<_> =
                (0..3).map(|n| indicator("Domain", &format!("h{}.example.com", number + n), 1, &[])).collect();
            number += 3;
            assert_eq!(import(&store, &documents).new, 3);
        }
    }
    let store = Store::open(options(folder.path())).unwrap();
    let added = all_added(&store);
    // Domains have a definition, once.
    assert_eq!(added.len(), 36 + 1);
    assert_rising(&added);
}

#[test]
fn large_commits_end_on_a_whole_second_that_is_not_in_the_future() {
    let temp = temp_store();
    for round in 0..2 {
        let documents: Vec<_> =
            (0..10_001).map(|n| indicator("Domain", &format!("h{round}-{n}.example.com"), 1, &[])).collect();
        import(&temp.store, &documents);
    }
    let added = all_added(&temp.store);
    assert_rising(&added);
    for end in [added[10_001], added[20_002]] {
        assert_eq!(end % 1_000_000, 0);
        assert!(end <= Timestamp::now().0);
    }
}

/// What importing again does, field by field: (first, second, counts new/changed/unchanged of the second, what is served).
#[test]
fn importing_again_writes_only_what_changed() {
    let base = || indicator("IP", "198.51.100.1", 1, &["a"]);
    let with = |change: fn(&mut serde_json::Value)| {
        let mut document = base();
        change(&mut document);
        document
    };
    let cases = [
        ("the same", base(), (0, 0, 1)),
        ("bookkeeping only", with(|d| d["cacheVersn"] = json!(7)), (0, 0, 1)),
        ("a tag more", with(|d| d["CustomFields"]["tags"] = json!(["b"])), (0, 1, 0)),
        ("another score", with(|d| d["score"] = json!(3)), (0, 1, 0)),
        ("later, nothing new", with(|d| d["modified"] = json!("2025-01-01T00:00:00Z")), (0, 0, 1)),
        (
            "earlier, other score",
            with(|d| {
                d["modified"] = json!("2023-01-01T00:00:00Z");
                d["score"] = json!(3)
            }),
            (0, 0, 1),
        ),
        (
            "earlier, a source more",
            with(|d| {
                d["modified"] = json!("2023-01-01T00:00:00Z");
                d["sourceBrands"] = json!(["X"])
            }),
            (0, 1, 0),
        ),
        ("no tag any more", with(|d| d["CustomFields"]["tags"] = json!([])), (0, 1, 0)),
        ("an incident more", with(|d| d["investigationIDs"] = json!(["55"])), (0, 1, 0)),
        ("no incidents", with(|d| d["investigationIDs"] = json!([])), (0, 0, 1)),
        ("a comment", with(|d| d["comments"] = json!([{"content": "seen"}])), (0, 1, 0)),
        ("another type", with(|d| d["indicator_type"] = json!("CIDR")), (1, 0, 0)),
    ];
    for (name, second, expected) in cases {
        let temp = temp_store();
        import(&temp.store, &[base(), indicator("IP", "198.51.100.2", 1, &[])]);
        let summary = import(&temp.store, std::slice::from_ref(&second));
        assert_eq!((summary.new, summary.changed, summary.unchanged), expected, "{name}");
        let repeated = import(&temp.store, &[second]);
        assert_eq!((repeated.new, repeated.changed, repeated.unchanged), (0, 0, 1), "{name}, once more");
        let feed = OneCollection::new(&temp.store, &spec("all", "type:IP"));
        let served = values(&feed.walk(Shape::Objects, &Filters::default(), None));
        let at_end =
            if expected.1 == 1 { vec!["198.51.100.2", "198.51.100.1"] } else { vec!["198.51.100.1", "198.51.100.2"] };
        assert_eq!(served, at_end, "{name}: a changed record reappears at the end");
        assert!(temp.store.check(|_| ()).unwrap().problems.is_empty());
    }
}

#[test]
fn repetitions_within_one_input_are_merged() {
    let temp = temp_store();
    let records: Vec<_> = (0..100)
        .map(|n| {
            let mut document = indicator("IP", "198.51.100.1", 1, &[&format!("tag{n}")]);
            // Of as many systems.
            document["id"] = json!(n.to_string());
            document["sourceBrands"] = json!([format!("brand{}", n % 3)]);
            document["firstSeen"] = json!(format!("2024-01-{:02}T00:00:00Z", 28 - n % 28));
            document
        })
        .collect();
    let summary = import(&temp.store, &records);
    assert_eq!((summary.new, summary.changed, summary.unchanged), (1, 0, 99));
    let mut expected = indicator_spec();
    expected.query = taxiway::feed::collection::QueryText::Xsoar(
        "sourceBrands:brand0 and sourceBrands:brand2 and tags:tag99 and tags:tag0".to_owned(),
    );
    let feed = OneCollection::new(&temp.store, &expected);
    let objects = feed.walk(Shape::Objects, &Filters::default(), None);
    assert_eq!(objects.len(), 1);
    assert_eq!(objects[0]["labels"].as_array().unwrap().len(), 100);
}

/// What repetitions say together may be new, though the last of them is not.
#[test]
fn repetitions_are_more_than_the_last_of_them() {
    let temp = temp_store();
    let of_day = |day: u8, score: u8| {
        let mut document = indicator("IP", "198.51.100.1", score, &[]);
        document["modified"] = json!(format!("2024-06-{day:02}T00:00:00Z"));
        document
    };
    import(&temp.store, &[of_day(1, 1)]);
    assert_eq!(import(&temp.store, &[of_day(2, 3), of_day(1, 1)]).changed, 1);
    assert_eq!(matching(&temp.store, "score:3"), ["198.51.100.1"]);
    assert_eq!(import(&temp.store, &[of_day(2, 3), of_day(1, 1)]).unchanged, 2);
    assert_eq!(import(&temp.store, &[of_day(2, 3)]).unchanged, 1);
}

fn matching(store: &Store, query: &str) -> Vec<String> {
    values(&OneCollection::new(store, &spec(query, query)).walk(Shape::Objects, &Filters::default(), None))
}

/// A document is the whole state of an indicator: what it no longer says is gone, what others said stays.
#[test]
fn a_fresher_document_takes_away_what_it_no_longer_says() {
    let temp = temp_store();
    let mut document = indicator("IP", "198.51.100.1", 2, &["pending_review", "kept"]);
    document["CustomFields"]["description"] = json!("old");
    document["CustomFields"]["foo"] = json!("bar");
    document["sourceBrands"] = json!(["First"]);
    import(&temp.store, &[document.clone()]);
    let list = "type,value,tags,source,my_note\nIP,198.51.100.1,from_list,Other,kept note\n";
    assert_eq!(import_text(&temp.store, "list.csv", list).changed, 1);
    document["CustomFields"] = json!({ "tags": ["kept", "approved"], "fresh": 1 });
    document["modified"] = json!("2024-06-01T00:00:00Z");
    assert_eq!(import(&temp.store, &[document.clone()]).changed, 1);
    let found = ["198.51.100.1".to_owned()];
    for query in
        ["tags:kept", "tags:approved", "tags:from_list", "mynote:\"kept note\"", "fresh:1", "sourceBrands:Other"]
    {
        assert_eq!(matching(&temp.store, query), found, "{query}");
    }
    for query in ["tags:pending_review", "foo:bar", "description:old"] {
        assert!(matching(&temp.store, query).is_empty(), "{query}");
    }
    assert_eq!(import(&temp.store, &[document]).unchanged, 1);
    assert_eq!(import_text(&temp.store, "list.csv", list).unchanged, 1);
}

/// A document that went through another system, which sorted its keys, says what it said.
#[test]
fn the_order_of_keys_says_nothing() {
    let temp = temp_store();
    let document = |comment: &str, custom: &str| {
        format!(
            r#"{{"indicator_type":"IP","value":"192.0.2.1","score":1,"modified":"2024-01-02T00:00:00Z","comments":[{comment}],"CustomFields":{{"geo":{custom}}}}}"#
        )
    };
    import_text(&temp.store, "a.ndjson", &document(r#"{"user":"x","content":"y"}"#, r#"{"b":1,"a":{"d":2,"c":3}}"#));
    let sorted = document(r#"{"content":"y","user":"x"}"#, r#"{"a":{"c":3,"d":2},"b":1}"#);
    assert_eq!(import_text(&temp.store, "b.ndjson", &sorted).unchanged, 1);
    let other = document(r#"{"content":"y","user":"z"}"#, r#"{"a":{"c":3,"d":2},"b":1}"#);
    assert_eq!(import_text(&temp.store, "c.ndjson", &other).changed, 1);
}

#[test]
fn queries_see_what_only_the_document_says() {
    let temp = temp_store();
    let mut document = indicator("IP", "198.51.100.1", 2, &[]);
    document["investigationIDs"] = json!([]);
    import(&temp.store, &[document.clone()]);
    assert!(matching(&temp.store, "investigationsCount:>0").is_empty());
    document["investigationIDs"] = json!(["55"]);
    import(&temp.store, &[document]);
    assert_eq!(matching(&temp.store, "investigationsCount:>0"), ["198.51.100.1"]);
}

#[test]
fn an_object_without_versions_is_what_was_said_last() {
    let temp = temp_store();
    let file = |name: &str| json!({"type": "file", "spec_version": "2.1", "id": "file--5a9d7a3c-7f6f-5b5e-9d2c-111111111111", "name": name});
    for (name, changes) in [("a", (1, 0)), ("b", (0, 1)), ("a", (0, 1)), ("a", (0, 0))] {
        let summary = import(&temp.store, &[file(name)]);
        assert_eq!((summary.new, summary.changed), changes);
        let feed = OneCollection::new(&temp.store, &spec("all", ""));
        assert_eq!(feed.walk(Shape::Objects, &Filters::default(), None), [file(name)]);
    }
}

#[test]
fn a_default_verdict_is_for_records_without_one() {
    let temp = temp_store();
    import(&temp.store, &[indicator("IP", "198.51.100.1", 3, &[])]);
    let text = "198.51.100.1\n198.51.100.2\n";
    let input = Input::from_reader("list.txt", None, std::io::Cursor::new(text)).unwrap();
    let mut importer = Importer::new(&temp.store, false).with_default_score(Some(1));
    let options = DecodeOptions::new(Arc::clone(temp.store.ids()));
    ingest::decode(input, &options, |parsed| importer.push(parsed).map(|_| ())).unwrap();
    let summary = importer.finish().unwrap();
    assert_eq!((summary.new, summary.changed, summary.unchanged), (1, 0, 1));
    assert_eq!(matching(&temp.store, "score:3"), ["198.51.100.1"]);
    assert_eq!(matching(&temp.store, "score:1"), ["198.51.100.2"]);
}

/// A version counts its hour from when it was replaced: a walk that began just before a commit has all of it.
#[test]
fn walks_outlive_commits_even_after_a_quiet_day() {
    let temp = temp_store();
    let documents =
        |score| -> Vec<_> { (0..20).map(|n| indicator("Domain", &format!("h{n}.example.com"), score, &[])).collect() };
    import(&temp.store, &documents(1));
    let yesterday = std::time::SystemTime::now() - std::time::Duration::from_secs(86_400);
    for manifest in files(&temp.folder.path().join("manifest"), ".json") {
        std::fs::File::options().append(true).open(manifest).unwrap().set_modified(yesterday).unwrap();
    }
    let store = Store::open(options(temp.folder.path())).unwrap();
    let feed = OneCollection::new(&store, &spec("all", ""));
    let first = feed.page(None, None, Some(5));
    import(&temp.store, &documents(2)[10..]);
    let mut seen = values(&first.objects);
    seen.extend(values(&feed.page(None, first.next.as_deref(), None).objects));
    assert_eq!(seen.len(), 20, "{seen:?}");
}

/// A server that nobody asked for hours must not stay on a version whose successors have come and gone.
#[test]
fn a_store_that_slept_finds_the_newest_version() {
    let temp = temp_store();
    import(&temp.store, &[indicator("Domain", "h0.example.com", 1, &[])]);
    let sleeper = Store::open(options(temp.folder.path())).unwrap();
    let other = Store::open(StoreOptions { snapshots_kept_s: 0, ..options(temp.folder.path()) }).unwrap();
    for n in 1..4 {
        import(&other, &[indicator("Domain", &format!("h{n}.example.com"), 1, &[])]);
    }
    let began = std::time::Instant::now();
    while sleeper.snapshot().unwrap().version() < 4 {
        assert!(began.elapsed().as_secs() < 20, "it stays on version {}", sleeper.snapshot().unwrap().version());
        std::thread::yield_now();
    }
}

fn indicator_spec() -> taxiway::feed::collection::CollectionSpec {
    let every = taxiway::model::kind::StixType::ALL.iter().copied().collect();
    taxiway::feed::collection::CollectionSpec { indicator_types: every, ..spec("as indicators", "") }
}

#[test]
fn a_changed_indicator_is_a_newer_version_even_when_its_source_says_otherwise() {
    let temp = temp_store();
    import(&temp.store, &[indicator("IP", "198.51.100.1", 1, &[])]);
    let feed = OneCollection::new(&temp.store, &indicator_spec());
    let modified = |feed: &OneCollection| {
        feed.walk(Shape::Objects, &Filters::default(), None)[0]["modified"].as_str().unwrap().to_owned()
    };
    let before = modified(&feed);
    import(&temp.store, &[indicator("IP", "198.51.100.1", 3, &[])]);
    assert!(modified(&feed) > before);
}

#[test]
fn compaction_keeps_dates_order_and_walks_that_have_begun() {
    let temp = temp_store();
    for n in 0..10 {
        import(
            &temp.store,
            &[
                indicator("Domain", &format!("h{n}.example.com"), 1, &[]),
                indicator("Domain", "often.example.com", n % 4, &[]),
            ],
        );
    }
    let feed = OneCollection::new(&temp.store, &spec("all", ""));
    let everything = feed.page(None, None, None);
    let started = feed.page(None, None, Some(3));
    let manifest = feed.walk(Shape::Manifest, &Filters::default(), None);
    let report = temp.store.compact(&CompactOptions { history_s: Some(0), ..CompactOptions::default() }).unwrap();
    assert_eq!((report.segments_before, report.segments_after), (10, 1));
    assert_eq!(feed.walk(Shape::Manifest, &Filters::default(), None), manifest, "dates and order stay");
    let rest = feed.page(None, started.next.as_deref(), None);
    assert_eq!([started.objects, rest.objects].concat(), everything.objects);
    assert!(temp.store.check(|_| ()).unwrap().problems.is_empty());
    let again = temp.store.compact(&CompactOptions::default()).unwrap();
    assert_eq!(again.rewritten, 0, "nothing is left to do");
}

#[test]
fn what_no_version_names_is_removed() {
    let temp = temp_store();
    import(&temp.store, &[indicator("Domain", "a.example.com", 1, &[])]);
    let orphan = temp.folder.path().join("segments/0000.parquet");
    std::fs::write(&orphan, b"half a segment").unwrap();
    temp.store.remove_orphans().unwrap();
    assert!(!orphan.exists());
    assert!(temp.store.check(|_| ()).unwrap().problems.is_empty());
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    files.sort();
    files
}

/// Design §3: a bad segment is a clear error, never wrong data. Every byte of a small segment, one at a time.
#[test]
fn a_flipped_byte_is_reported_as_that_file_being_bad() {
    let temp = temp_store();
    let documents: Vec<_> = (0..20).map(|n| indicator("Domain", &format!("h{n}.example.com"), 1, &["t"])).collect();
    import(&temp.store, &documents);
    let good =
        values(&OneCollection::new(&temp.store, &spec("all", "")).walk(Shape::Objects, &Filters::default(), None));
    let segment = files(&temp.folder.path().join("segments"), ".parquet").remove(0);
    let bytes = std::fs::read(&segment).unwrap();
    for at in (0..bytes.len()).step_by(211) {
        let mut bad = bytes.clone();
        bad[at] ^= 0x20;
        std::fs::write(&segment, &bad).unwrap();
        let store = Store::open(options(temp.folder.path())).unwrap();
        let report = store.check(|_| ()).unwrap();
        let name = segment.file_name().unwrap().to_string_lossy().into_owned();
        assert!(
            report.problems.iter().any(|problem| problem.to_string().contains(&name)),
            "byte {at}: {:?}",
            report.problems
        );
        let snapshot = store.snapshot().unwrap();
        let names = taxiway::model::schema::schema_names();
        let read: Result<Vec<_>, StoreError> = snapshot.segments()[0]
            .segment
            .read(std::slice::from_ref(&(0..20)), &names, 1_024)
            .and_then(|batches| batches.collect());
        match read {
            Err(StoreError::Damaged { path, .. }) => assert!(path.contains(&name)),
            Err(other) => panic!("byte {at}: {other}"),
            // A byte of what is not read for these rows (a bloom filter) is the tail's, which is checked at opening.
            Ok(_) => panic!("byte {at} went unnoticed"),
        }
    }
    std::fs::write(&segment, &bytes).unwrap();
    let store = Store::open(options(temp.folder.path())).unwrap();
    assert_eq!(
        values(&OneCollection::new(&store, &spec("all", "")).walk(Shape::Objects, &Filters::default(), None)),
        good
    );
}

#[test]
fn damage_elsewhere_is_reported_with_its_file() {
    let cases: [(&str, &str, fn(&Path)); 5] = [
        ("segments", ".idx", |path| flip(path, 200)),
        ("segments", ".parquet", |path| std::fs::remove_file(path).unwrap()),
        ("segments", ".parquet", |path| std::fs::write(path, b"short").unwrap()),
        ("manifest", ".json", |path| flip(path, 30)),
        ("superseded", ".roar", |path| flip(path, 8)),
    ];
    for (folder, ending, damage) in cases {
        let temp = temp_store();
        import(&temp.store, &[indicator("Domain", "a.example.com", 1, &[])]);
        import(&temp.store, &[indicator("Domain", "a.example.com", 2, &[])]);
        let path = files(&temp.folder.path().join(folder), ending).pop().unwrap();
        damage(&path);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let problems: Vec<String> = match Store::open(options(temp.folder.path())).and_then(|store| store.check(|_| ()))
        {
            Ok(report) => report.problems.iter().map(ToString::to_string).collect(),
            Err(error) => vec![error.to_string()],
        };
        assert!(problems.iter().any(|problem| problem.contains(&name)), "{folder} {ending}: {problems:?}");
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = at.min(bytes.len() - 1);
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn what_cannot_be_opened_is_said() {
    let made = tempfile::tempdir().unwrap();
    Store::open_or_create(options(made.path())).unwrap();
    let properties = made.path().join("store.json");
    let text = std::fs::read_to_string(&properties).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(elsewhere.path().join("holiday.jpg"), b"").unwrap();
    let missing = made.path().join("nowhere");
    let other_license = StoreOptions { license_id: Some("other".to_owned()), ..options(made.path()) };
    let said = |result: Result<Store, StoreError>| result.unwrap_err().to_string();
    assert!(said(Store::open(options(&missing))).contains("holds no taxiway store"));
    assert!(said(Store::open_or_create(options(elsewhere.path()))).contains("is not empty"));
    assert!(said(Store::open(other_license)).contains("license_id"));
    std::fs::write(&properties, text.replace("\"schema\": 2", "\"schema\": 99")).unwrap();
    assert!(said(Store::open(options(made.path()))).contains("schema version 99"));
}

/// Design §3: the same protocol on an object store.
#[test]
fn an_object_store_holds_a_store_as_well() {
    let objects: Arc<dyn object_store::ObjectStore> = Arc::new(object_store::memory::InMemory::new());
    let open = || {
        Store::on_object_store(
            Arc::clone(&objects),
            StoreOptions { location: "memory".to_owned(), ..StoreOptions::default() },
        )
        .unwrap()
    };
    let store = open();
    import(&store, &[indicator("Domain", "a.example.com", 1, &[]), indicator("Domain", "b.example.com", 1, &[])]);
    let other = open();
    import(&other, &[indicator("Domain", "a.example.com", 2, &[])]);
    // Both built on the same version: the second one must not win silently.
    let (first, second) = (store.writer().unwrap(), other.writer().unwrap());
    let rows = |value: &str| {
        let batch = arrow::compute::concat_batches(&taxiway::model::schema::input_schema(), &[parsed(&store, value)]);
        taxiway::store::NewRows { batch: batch.unwrap(), keys: vec![1], digests: vec![1] }
    };
    let (mut first, mut second) = (first, second);
    first.append(rows("c.example.com"), &[]).unwrap();
    second.append(rows("d.example.com"), &[]).unwrap();
    first.publish().unwrap();
    assert!(matches!(second.publish(), Err(StoreError::Conflict { .. })));
    let feed = OneCollection::new(&open(), &spec("all", ""));
    assert_eq!(
        values(&feed.walk(Shape::Objects, &Filters::default(), Some(1))),
        ["b.example.com", "a.example.com", "c.example.com"]
    );
    assert!(open().check(|_| ()).unwrap().problems.is_empty());
    assert_rising(&all_added(&open()));
}

fn parsed(store: &Store, value: &str) -> arrow::array::RecordBatch {
    let text = indicator("Domain", value, 1, &[]).to_string();
    let input = taxiway::ingest::Input::from_reader("one", None, std::io::Cursor::new(text.into_bytes())).unwrap();
    let options = taxiway::ingest::DecodeOptions::new(Arc::clone(store.ids()));
    let mut batch = None;
    taxiway::ingest::decode(input, &options, |parsed| {
        batch = Some(parsed.batch);
        Ok::<(), StoreError>(())
    })
    .unwrap();
    batch.unwrap()
}

/// Native objects are kept as they came, key for key and number for number.
#[test]
fn native_objects_come_back_as_they_came() {
    let temp = temp_store();
    let bundle = r#"{"type":"bundle","id":"bundle--5f9d4ad8-5b0c-4b5e-8a8e-2b6b8f6c3c11","objects":[
      {"type":"x-odd","id":"x-odd--1b0d1b1e-1b1e-4b1e-8b1e-1b1e1b1e1b1e","spec_version":"2.1","created":"2024-01-01T00:00:00.000Z","modified":"2024-01-01T00:00:00.000Z",
       "zeta":1.50,"alpha":{"b":[1,2,{"c":null}],"a":"\u00e9 \ud83d\ude00 </script>"},"big":12345678901234567890,"e":1e3},
      {"type":"ipv4-addr","id":"ipv4-addr--2f689bf9-0ff2-545f-aa61-e495eb8cecc7","spec_version":"2.1","value":"8.8.8.8"},
      {"type":"relationship","id":"relationship--44298a74-ba52-4f0c-87a3-1824e67d7fad","spec_version":"2.1","created":"2016-04-06T20:06:37.000Z","modified":"2016-04-06T20:06:37.000Z",
       "relationship_type":"related-to","source_ref":"ipv4-addr--2f689bf9-0ff2-545f-aa61-e495eb8cecc7","target_ref":"x-odd--1b0d1b1e-1b1e-4b1e-8b1e-1b1e1b1e1b1e"}]}"#;
    let summary = import_text(&temp.store, "bundle.json", bundle);
    assert_eq!((summary.new, summary.rejected), (3, 0));
    let feed = OneCollection::new(&temp.store, &spec("all", ""));
    let served = by_id(&feed.walk(Shape::Objects, &Filters::default(), Some(2)));
    let original: serde_json::Value = serde_json::from_str(bundle).unwrap();
    for object in original["objects"].as_array().unwrap() {
        assert_eq!(&served[object["id"].as_str().unwrap()], object);
    }
}

/// An object is of every source that ever brought it, in whatever version and order.
#[test]
fn an_object_is_of_all_its_sources() {
    let temp = temp_store();
    let store = &temp.store;
    let malware = |day: u8, name: &str| {
        json!({
            "type": "malware", "spec_version": "2.1", "id": "malware--5a9d7a3c-7f6f-4b5e-9d2c-111111111111",
            "created": "2024-01-01T00:00:00.000Z", "modified": format!("2024-01-0{day}T00:00:00.000Z"), "name": name,
            "is_family": false,
        })
    };
    let bring = |source: &str, object: &serde_json::Value| {
        let mut options = DecodeOptions::new(Arc::clone(store.ids()));
        options.default_source = Some(source.to_owned());
        let text = object.to_string();
        let parsed = ingest::decode_each(std::iter::once(text.as_bytes()), text.len(), &options).unwrap();
        let mut importer = Importer::new(store, false);
        assert!(importer.push(parsed).unwrap().is_empty());
        let summary = importer.finish().unwrap();
        (summary.new, summary.changed, summary.unchanged)
    };
    let steps = [
        ("A", malware(2, "x"), (1, 0, 0), "A", malware(2, "x")),
        ("B", malware(2, "x"), (0, 1, 0), "A B", malware(2, "x")),
        ("A", malware(2, "x"), (0, 0, 1), "A B", malware(2, "x")),
        ("B", malware(2, "x"), (0, 0, 1), "A B", malware(2, "x")),
        ("A", malware(3, "y"), (0, 1, 0), "A B", malware(3, "y")),
        ("B", malware(3, "y"), (0, 0, 1), "A B", malware(3, "y")),
        // An older version that another source has: it is in the history already, and the newest is of that source, too.
        ("C", malware(2, "x"), (1, 1, 0), "A B C", malware(3, "y")),
        ("C", malware(2, "x"), (0, 0, 1), "A B C", malware(3, "y")),
        ("D", malware(1, "w"), (1, 1, 0), "A B C D", malware(3, "y")),
        ("D", malware(1, "w"), (0, 0, 1), "A B C D", malware(3, "y")),
        // The same version with other words: what came last counts.
        ("B", malware(3, "z"), (0, 1, 0), "A B C D", malware(3, "z")),
        ("E", malware(4, "z"), (0, 1, 0), "A B C D E", malware(4, "z")),
    ];
    for (step, (source, object, counts, sources, served)) in steps.into_iter().enumerate() {
        assert_eq!(bring(source, &object), counts, "step {step}");
        for name in ["A", "B", "C", "D", "E"] {
            let feed = OneCollection::new(store, &spec(name, &format!("sourceBrands:{name}")));
            let found = feed.walk(Shape::Objects, &Filters::default(), None);
            let expected: &[serde_json::Value] = match sources.split(' ').any(|source| source == name) {
                true => std::slice::from_ref(&served),
                false => &[],
            };
            assert_eq!(found, expected, "step {step}, source {name}");
        }
    }
    assert!(store.check(|_| ()).unwrap().problems.is_empty());
}
