//! The store dies at every step of a write, deterministically; `tests/smoke/crash.py` does it with SIGKILL at random.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;

use super::fs::{self, FileSink, Listed, ReadAt, Storage};
use super::segment::SegmentWriter;
use super::{CompactOptions, Compactor, Extent, Segment, Store, StoreError, StoreOptions};
use crate::ingest::{self, DecodeOptions, Importer, Input, Summary};
use crate::model::time::Timestamp;

/// What is left on disk by the step that dies.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Death {
    /// Nothing of it.
    Before,
    /// All of it, but the caller never learns.
    After,
}

/// A local folder whose process dies after so many changing steps: from then on every step fails.
#[derive(Debug)]
struct Mortal {
    folder: Arc<dyn Storage>,
    steps: Arc<AtomicI64>,
    death: Death,
}

fn died() -> StoreError {
    StoreError::io("write", "a dead process")(io::Error::other("died"))
}

/// Runs a step, or dies at it.
fn step<T>(steps: &AtomicI64, death: Death, run: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    match steps.fetch_sub(1, Ordering::SeqCst) {
        left if left > 0 => run(),
        0 if death == Death::After => run().and_then(|_| Err(died())),
        _ => Err(died()),
    }
}

impl Storage for Mortal {
    fn describe(&self, path: &str) -> String {
        self.folder.describe(path)
    }
    fn read(&self, path: &str) -> Result<Option<Bytes>, StoreError> {
        self.folder.read(path)
    }
    fn exists(&self, path: &str) -> Result<bool, StoreError> {
        self.folder.exists(path)
    }
    fn open(&self, path: &str, size: u64) -> Result<Arc<dyn ReadAt>, StoreError> {
        self.folder.open(path, size)
    }
    fn create(&self, path: &str) -> Result<Box<dyn FileSink>, StoreError> {
        let sink = step(&self.steps, self.death, || self.folder.create(path))?;
        Ok(Box::new(MortalSink { sink, steps: Arc::clone(&self.steps), death: self.death }))
    }
    fn put_if_absent(&self, path: &str, bytes: &[u8], secret: bool) -> Result<bool, StoreError> {
        step(&self.steps, self.death, || self.folder.put_if_absent(path, bytes, secret))
    }
    fn settle(&self) -> Result<(), StoreError> {
        step(&self.steps, self.death, || self.folder.settle())
    }
    fn names(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.folder.names(folder)
    }
    fn list(&self, folder: &str) -> Result<Vec<Listed>, StoreError> {
        self.folder.list(folder)
    }
    fn delete(&self, path: &str) -> Result<(), StoreError> {
        step(&self.steps, self.death, || self.folder.delete(path))
    }
    fn lock_path(&self) -> Option<PathBuf> {
        self.folder.lock_path()
    }
}

struct MortalSink {
    sink: Box<dyn FileSink>,
    steps: Arc<AtomicI64>,
    death: Death,
}

impl Write for MortalSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

impl FileSink for MortalSink {
    fn finish(self: Box<Self>) -> Result<(), StoreError> {
        let MortalSink { sink, steps, death } = *self;
        step(&steps, death, || sink.finish())
    }
}

pub(crate) fn import(store: &Store, lines: &str) -> Result<Summary, String> {
    let input = Input::from_reader("test.ndjson", None, io::Cursor::new(lines.to_owned().into_bytes())).unwrap();
    let mut importer = Importer::new(store, false);
    let mut failure = None;
    let decoded = ingest::decode(input, &DecodeOptions::new(Arc::clone(store.ids())), |parsed| {
        importer.push(parsed).map(|_| ()).inspect_err(|error| failure = Some(error.to_string()))
    });
    decoded.map_err(|error| failure.unwrap_or_else(|| error.to_string()))?;
    importer.finish().map_err(|error| error.to_string())
}

pub(crate) fn domains(numbers: std::ops::Range<usize>, score: u8) -> String {
    let line = |number| {
        format!(
            r#"{{"indicator_type":"Domain","value":"h{number}.example.com","score":{score},"timestamp":"2024-01-01T00:00:00Z"}}"#
        ) + "\n"
    };
    numbers.map(line).collect()
}

/// From each domain to the next one, and from a report to it.
fn edges(numbers: std::ops::Range<usize>) -> String {
    let line = |id: String, kind: &str, from: &str, to: usize| {
        format!(
            r#"{{"id":"{id}","entityA":"{from}","entityAType":"{kind}","entityAFamily":"Indicator","entityB":"h{to}.example.com","entityBType":"Domain","entityBFamily":"Indicator","name":"related to","createdInSystem":"2024-01-01T00:00:00Z","modified":"2024-01-01T00:00:00Z"}}"#
        ) + "\n"
    };
    numbers
        .flat_map(|number| {
            let from = format!("h{number}.example.com");
            [line(format!("{number}"), "Domain", &from, number + 1), line(format!("r{number}"), "Report", "R", number)]
        })
        .collect()
}

const REPORT: &str = r#"{"indicator_type":"Report","value":"R","timestamp":"2024-01-01T00:00:00Z","CustomFields":{"reportobjectreferences":[{"objectstixid":"url--own"}]}}
"#;

/// One record goes, of another the newest version, so that the one before comes to the front.
fn delete_some(store: &Store) -> Result<(), String> {
    let mut writer = store.writer().map_err(|error| error.to_string())?;
    let snapshot = Arc::clone(writer.snapshot());
    for (value, whole) in [("h5.example.com", true), ("h6.example.com", false)] {
        let key = twox_hash::XxHash3_64::oneshot(format!("Domain\0{value}").as_bytes());
        let found = snapshot.find_keys(&[key]).map_err(|error| error.to_string())?;
        assert!(!found.is_empty() || whole);
        let again = found.iter().any(|found| found.deleted) || found.len() < 2;
        for found in found.iter().filter(|_| !again) {
            match whole || found.live {
                true => writer.delete(found.segment, found.row),
                false => writer.revive(found.segment, found.row),
            }
        }
    }
    writer.publish().map(|_| ()).map_err(|error| error.to_string())
}

/// Design §3: whatever the step, the store is whole, holds the last version or the next, and doing it again completes it.
#[test]
fn a_death_at_any_step_leaves_the_last_version_or_the_next() {
    type Work = fn(&Store) -> Result<(), String>;
    let all = || CompactOptions { extent: Extent::All, history_s: Some(0), ..CompactOptions::default() };
    let update: Work = |store| import(store, &domains(50..150, 3)).map(|_| ());
    let compact: Work = |store| {
        let all = CompactOptions { extent: Extent::All, history_s: Some(0), ..CompactOptions::default() };
        store.compact(&all).map(|_| ()).map_err(|error| error.to_string())
    };
    // Ends change and come, edges enter and wait, the report gets references.
    let link: Work = |store| import(store, &(domains(5..35, 2) + REPORT + &edges(30..40))).map(|_| ());
    let merge: Work = |store| store.merge_tail().map(|_| ()).map_err(|error| error.to_string());
    let singles: Vec<String> = (200..209).map(|number| domains(number..number + 1, 1)).collect();
    let cases: [(&str, String, Work, [u64; 2]); 6] = [
        ("delete", String::new(), delete_some, [99, 0]),
        ("merge", singles.join("\0"), merge, [109, 0]),
        ("import", String::new(), update, [150, 0]),
        ("compact", String::new(), compact, [100, 0]),
        ("link", edges(100..110) + &edges(0..30), link, [100 + 60 + 20 + 1, 20]),
        ("compact edges", edges(100..110) + REPORT + &edges(90..95), compact, [100 + 10 + 1, 20]),
    ];
    for (name, first, work, [records, waiting]) in cases {
        // Old versions go at once, so that the steps of removal are among those that die.
        let options = |folder: &tempfile::TempDir| StoreOptions {
            location: folder.path().to_string_lossy().into_owned(),
            license_id: Some("test".to_owned()),
            snapshots_kept_s: 0,
            ..StoreOptions::default()
        };
        let origin = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(options(&origin)).unwrap();
        import(&store, &domains(0..100, 1)).unwrap();
        let mut parts = first.split('\0');
        import(&store, &(domains(0..10, 2) + parts.next().unwrap_or_default())).unwrap();
        parts.for_each(|part| {
            import(&store, part).unwrap();
        });
        let before = state(&store);
        for death in [Death::Before, Death::After] {
            let mut deaths = 0;
            loop {
                let folder = tempfile::tempdir().unwrap();
                copy(origin.path(), folder.path());
                let options = options(&folder);
                let mortal = Mortal {
                    folder: fs::open(&options.location).unwrap(),
                    steps: Arc::new(AtomicI64::new(deaths)),
                    death,
                };
                let steps = Arc::clone(&mortal.steps);
                let mortal = Store::open_at(Arc::new(mortal), options.clone(), Box::new(Timestamp::now)).unwrap();
                let result = work(&mortal);
                drop(mortal);
                let found = Store::open(options).unwrap();
                let check = found.check(|_| ()).unwrap();
                assert!(check.problems.is_empty(), "{name}, {death:?} step {deaths}: {:?}", check.problems);
                let now = state(&found);
                work(&found).unwrap();
                let after = state(&found);
                assert!(now == before || now == after, "{name}, {death:?} step {deaths}");
                let check = found.check(|_| ()).unwrap();
                assert!(check.problems.is_empty(), "{name} again after {death:?} step {deaths}: {:?}", check.problems);
                assert_eq!(
                    [check.live_rows, check.waiting],
                    [records, waiting],
                    "{name} again after {death:?} step {deaths}"
                );
                found.compact(&all()).unwrap();
                assert_eq!(state(&found), after, "{name} compacted after {death:?} step {deaths}");
                if steps.load(Ordering::SeqCst) > 0 {
                    result.unwrap();
                    break;
                }
                deaths += 1;
            }
            assert!(deaths > 5, "{name}: only {deaths} steps");
        }
    }
}

/// A compaction writes without the lock. What others commit meanwhile holds, and where it does not go together with what was written,
/// that is dropped.
#[test]
fn what_is_committed_while_a_compaction_writes_holds() {
    type Work = fn(&Store);
    let cases: [(&str, Work, [bool; 2]); 6] = [
        ("nothing", |_| (), [true, true]),
        ("changes", |store| drop(import(store, &domains(5..150, 3)).unwrap()), [true, true]),
        // The version that comes to the front was left out where there is no history.
        ("deletions", |store| delete_some(store).unwrap(), [false, true]),
        ("merging", |store| _ = store.merge_tail().unwrap(), [false, false]),
        (
            "another compaction",
            |store| _ = store.compact(&CompactOptions { extent: Extent::All, ..CompactOptions::default() }).unwrap(),
            [false, false],
        ),
        ("edges", |store| drop(import(store, &edges(100..110)).unwrap()), [true, true]),
    ];
    for (name, meanwhile, expected) in cases {
        for (history_s, expected) in [0, 86_400].into_iter().zip(expected) {
            let folder = tempfile::tempdir().unwrap();
            let options =
                StoreOptions { location: folder.path().to_string_lossy().into_owned(), ..StoreOptions::default() };
            let store = Store::open_or_create(options.clone()).unwrap();
            import(&store, &domains(0..100, 1)).unwrap();
            import(&store, &domains(0..10, 2)).unwrap();
            (200..209).for_each(|number| drop(import(&store, &domains(number..number + 1, 1)).unwrap()));
            let other = Store::open(options).unwrap();
            let history_s = Some(history_s);
            let prepared = super::compact::prepare(&other, &CompactOptions { history_s, ..CompactOptions::default() });
            meanwhile(&store);
            let before = state(&store);
            let files = |folder: &Path| std::fs::read_dir(folder.join("segments")).unwrap().count();
            let written = files(folder.path());
            let report = prepared.unwrap().publish(&other).unwrap();
            assert_eq!(report.rewritten > 0, expected, "{name}, history {history_s:?}");
            assert_eq!(files(folder.path()) < written, !expected, "{name}, history {history_s:?}");
            store.reload().unwrap();
            assert_eq!(state(&store), before, "{name}, history {history_s:?}");
            let check = store.check(|_| ()).unwrap();
            assert!(check.problems.is_empty(), "{name}, history {history_s:?}: {:?}", check.problems);
            // Deleted once more, from the new segments.
            delete_some(&store).unwrap();
            assert!(store.check(|_| ()).unwrap().problems.is_empty(), "{name}, history {history_s:?}");
        }
    }
}

/// Files of a compaction that others know nothing of are not taken for orphans, and are once it is over.
#[test]
fn files_of_a_compaction_are_no_orphans() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions { location: folder.path().to_string_lossy().into_owned(), ..StoreOptions::default() };
    let store = Store::open_or_create(options.clone()).unwrap();
    import(&store, &domains(0..100, 1)).unwrap();
    let orphan = folder.path().join("segments/orphan.parquet");
    std::fs::write(&orphan, "").unwrap();
    let compaction = super::commit::lock_compaction(&Store::open(options).unwrap()).unwrap();
    store.remove_orphans().unwrap();
    assert!(orphan.exists());
    drop(compaction);
    store.remove_orphans().unwrap();
    assert!(!orphan.exists());
}

/// Many commits of a size become few segments while a server runs, without anybody asking.
#[test]
fn a_server_compacts_in_the_background() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions { location: folder.path().to_string_lossy().into_owned(), ..StoreOptions::default() };
    let store = Store::open_or_create(options).unwrap();
    (0..9).for_each(|number| drop(import(&store, &domains(number * 10..(number + 1) * 10, 1)).unwrap()));
    let before = state(&store);
    assert_eq!(store.snapshot().unwrap().segments().len(), 9);
    let _compactor = Compactor::every(&store, std::time::Duration::from_millis(1)).unwrap();
    while store.reload().unwrap().segments().len() > 1 {
        std::thread::yield_now();
    }
    assert_eq!(state(&store), before);
    assert!(store.check(|_| ()).unwrap().problems.is_empty());
}

/// Fetching goes on where it was: whatever the step, the place that the store remembers is that of the records it holds, and going on from
/// there has all of them in the end, once.
#[test]
fn a_place_is_never_without_the_records_that_led_there() {
    const PAGES: usize = 3;
    let place_of = |store: &Store| -> usize {
        let snapshot = store.reload().unwrap();
        let place = snapshot.manifest().places.get("source").and_then(|places| places.get("collection"));
        place.map_or(0, |place| place.parse().unwrap())
    };
    // Each page repeats some of the one before, changes one of it, and brings a relationship.
    let page = |number: usize| {
        let start = 10 * number;
        domains(start.saturating_sub(2)..start + 10, 1) + &domains(start..start + 1, 2) + &edges(start..start + 1)
    };
    let fetch = |store: &Store| -> Result<(), String> {
        let mut importer = Importer::new(store, false);
        for number in place_of(store)..PAGES {
            let lines = page(number);
            let texts: Vec<&[u8]> = lines.lines().map(str::as_bytes).collect();
            let options = DecodeOptions::new(Arc::clone(store.ids()));
            let parsed = ingest::decode_each(texts.into_iter(), lines.len(), &options).unwrap();
            importer.push(parsed).map_err(|error| error.to_string())?;
            importer.mark("source", "collection", (number + 1).to_string());
            // Some commits hold two pages.
            if number % 2 == 1 {
                importer.commit().map_err(|error| error.to_string())?;
                store.merge_tail().map_err(|error| error.to_string())?;
            }
        }
        importer.finish().map(|_| ()).map_err(|error| error.to_string())
    };
    let options = |folder: &tempfile::TempDir| StoreOptions {
        location: folder.path().to_string_lossy().into_owned(),
        license_id: Some("test".to_owned()),
        snapshots_kept_s: 0,
        ..StoreOptions::default()
    };
    let whole = tempfile::tempdir().unwrap();
    let whole = Store::open_or_create(options(&whole)).unwrap();
    fetch(&whole).unwrap();
    let expected = (whole.reload().unwrap().live_rows(), whole.reload().unwrap().waiting_rows());
    for death in [Death::Before, Death::After] {
        let mut deaths = 0;
        loop {
            let folder = tempfile::tempdir().unwrap();
            Store::open_or_create(options(&folder)).unwrap();
            let storage = fs::open(&options(&folder).location).unwrap();
            let steps = Arc::new(AtomicI64::new(deaths));
            let mortal = Mortal { folder: storage, steps: Arc::clone(&steps), death };
            let mortal = Store::open_at(Arc::new(mortal), options(&folder), Box::new(Timestamp::now)).unwrap();
            let result = fetch(&mortal);
            drop(mortal);
            let found = Store::open(options(&folder)).unwrap();
            let place = place_of(&found);
            let held = found.reload().unwrap().live_rows();
            // What lies behind the place may be there already; what lies before it must be.
            assert!(held as usize >= 10 * place, "{death:?} step {deaths}: {held} rows at {place}");
            assert!(place > 0 || held == 0, "{death:?} step {deaths}: rows without their place");
            fetch(&found).unwrap();
            let snapshot = found.reload().unwrap();
            assert_eq!((snapshot.live_rows(), snapshot.waiting_rows()), expected, "after {death:?} step {deaths}");
            assert_eq!(place_of(&found), PAGES);
            let check = found.check(|_| ()).unwrap();
            assert!(check.problems.is_empty(), "{death:?} step {deaths}: {:?}", check.problems);
            if steps.load(Ordering::SeqCst) > 0 {
                result.unwrap();
                break;
            }
            deaths += 1;
        }
        assert!(deaths > 10, "only {deaths} steps");
    }
    // Whoever else writes, the place stays.
    import(&whole, &domains(0..3, 3)).unwrap();
    whole.compact(&CompactOptions { extent: Extent::All, history_s: Some(0), ..CompactOptions::default() }).unwrap();
    whole.merge_tail().unwrap();
    assert_eq!(place_of(&whole), PAGES);
}

/// Nothing but a place is a version, too; the same place again is none; and what is forgotten is gone.
#[test]
fn places_are_versions_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions { location: folder.path().to_string_lossy().into_owned(), ..StoreOptions::default() };
    let store = Store::open_or_create(options).unwrap();
    let set = |place: &str| {
        let mut importer = Importer::new(&store, false);
        importer.mark("s", "c", place.to_owned());
        importer.finish().unwrap();
        store.reload().unwrap().version()
    };
    assert_eq!([set("1"), set("1"), set("2")], [1, 1, 2]);
    let mut dry = Importer::new(&store, true);
    dry.mark("s", "c", "3".to_owned());
    dry.finish().unwrap();
    assert_eq!(store.reload().unwrap().manifest().places["s"]["c"], "2");
    let forget = |collection: Option<&str>| {
        let mut writer = store.writer().unwrap();
        writer.forget_places("s", collection);
        writer.publish().unwrap().manifest().places.clone()
    };
    let mut importer = Importer::new(&store, false);
    importer.mark("s", "d", "1".to_owned());
    importer.finish().unwrap();
    assert_eq!(forget(Some("x")).get("s").map(|places| places.len()), Some(2));
    assert_eq!(forget(Some("c")).get("s").map(|places| places.len()), Some(1));
    assert!(forget(None).is_empty());
}

/// Who lets the lock go and wants it again at once comes behind whoever waited.
#[test]
fn a_waiting_writer_is_next() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions { location: folder.path().to_string_lossy().into_owned(), ..StoreOptions::default() };
    let store = Store::open_or_create(options.clone()).unwrap();
    let queue = std::fs::File::create(folder.path().join("lock.queue")).unwrap();
    for _ in 0..3 {
        let order = parking_lot::Mutex::new(Vec::new());
        let writer = store.writer().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let other = Store::open(options.clone()).unwrap();
                let _writer = other.writer().unwrap();
                order.lock().push("who waited");
            });
            while queue.try_lock().is_ok() {
                queue.unlock().unwrap();
                std::thread::yield_now();
            }
            drop(writer);
            let _writer = store.writer().unwrap();
            order.lock().push("who had it");
        });
        assert_eq!(*order.lock(), ["who waited", "who had it"]);
    }
    // Nobody waits for ever.
    let _writer = store.writer().unwrap();
    let waited = store.writer_within(std::time::Duration::from_millis(1));
    assert!(matches!(waited, Err(StoreError::Locked { .. })));
    drop(store.writer_within(std::time::Duration::ZERO));
    assert!(Store::open_or_create(options).is_ok());
}

/// A writer that locks again and again starves nobody.
#[test]
fn writers_take_turns() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions { location: folder.path().to_string_lossy().into_owned(), ..StoreOptions::default() };
    let store = Store::open_or_create(options.clone()).unwrap();
    let (done, turns) = (std::sync::atomic::AtomicBool::new(false), AtomicI64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let greedy = Store::open(options.clone()).unwrap();
            while !done.load(Ordering::SeqCst) {
                let _writer = greedy.writer().unwrap();
                turns.fetch_add(1, Ordering::SeqCst);
            }
        });
        for _ in 0..10 {
            let _writer = store.writer().unwrap();
        }
        done.store(true, Ordering::SeqCst);
    });
    assert!(turns.load(Ordering::SeqCst) < 20_000);
}

/// Of versions that come in short order only some are kept, with what they need; a reader that slept finds the newest all the same.
#[test]
fn versions_in_short_order_are_thinned() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions { location: folder.path().to_string_lossy().into_owned(), ..StoreOptions::default() };
    let store = Store::open_or_create(options.clone()).unwrap();
    for number in 0..11 {
        import(&store, &domains(number..number + 1, 1)).unwrap();
        import(&store, &domains(number..number + 1, 2)).unwrap();
    }
    let sleeper = Store::open(options.clone()).unwrap();
    let early = sleeper.snapshot().unwrap().version();
    for number in 20..30 {
        import(&store, &domains(number..number + 1, 1)).unwrap();
    }
    // An hour ago to within a minute, eight in each five seconds.
    let versions = super::manifest::Manifest::versions(&**store.storage()).unwrap();
    let base = std::time::SystemTime::UNIX_EPOCH
        + std::time::Duration::from_secs((Timestamp::now().0 / 1_000_000 - 3_000) as u64 / 5 * 5);
    for (position, version) in versions.iter().enumerate() {
        let path = folder.path().join(format!("manifest/{version:020}.json"));
        let written = base + std::time::Duration::from_secs(position as u64 / 8 * 5);
        std::fs::File::options().append(true).open(path).unwrap().set_modified(written).unwrap();
    }
    *store.looked().lock() = super::gc::Looked::default();
    import(&store, &domains(40..41, 1)).unwrap();
    let kept = super::manifest::Manifest::versions(&**store.storage()).unwrap();
    assert!(kept.len() <= versions.len().div_ceil(8) + 1, "{kept:?}");
    assert!(!kept.contains(&early) && !kept.contains(&(early + 1)), "{kept:?}");
    // The files of those that went are gone, those of the others are there.
    for version in &kept {
        let snapshot = store.snapshot_at(*version).unwrap().unwrap();
        for view in snapshot.segments() {
            view.segment.file().unwrap();
        }
    }
    let folders = ["segments", "superseded"];
    let count = || folders.map(|name| store.storage().names(name).unwrap().len());
    let before = count();
    store.remove_orphans().unwrap();
    assert_eq!(count(), before, "what no version names went with the versions");
    // A walk on one that went goes on in the next one that is there, a writer and a sleeper find the newest.
    let next = kept.iter().copied().find(|version| *version > early).unwrap();
    assert_eq!(store.snapshot_at(early).unwrap().unwrap().version(), next);
    let newest = *kept.last().unwrap();
    assert_eq!(sleeper.writer().unwrap().snapshot().version(), newest);
    assert_eq!(Store::open(options).unwrap().snapshot().unwrap().version(), newest);
    assert!(store.check(|_| ()).unwrap().problems.is_empty());
}

/// Not a test: what a commit of one row costs. `cargo test --lib thousand -- --ignored --nocapture`
#[test]
#[ignore = "measures"]
fn a_thousand_commits() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions { location: folder.path().to_string_lossy().into_owned(), ..StoreOptions::default() };
    let store = Store::open_or_create(options).unwrap();
    import(&store, &domains(0..1, 1)).unwrap();
    let snapshot = store.snapshot().unwrap();
    let names: Vec<&str> = crate::model::schema::schema_names().into_iter().skip(1).collect();
    let view = &snapshot.segments()[0];
    let batch = view.segment.read(std::slice::from_ref(&(0..1)), &names, 1).unwrap().next().unwrap().unwrap();
    let mut times = [std::time::Duration::ZERO; 4];
    for number in 0..1_000u64 {
        let began = std::time::Instant::now();
        let mut writer = store.writer().unwrap();
        times[0] += began.elapsed();
        let began = std::time::Instant::now();
        writer.append(super::NewRows { batch: batch.clone(), keys: vec![number], digests: vec![number] }, &[]).unwrap();
        writer.publish().unwrap();
        times[1] += began.elapsed();
        let began = std::time::Instant::now();
        store.merge_tail().unwrap();
        times[2] += began.elapsed();
        if number % 100 == 99 {
            let files = ["manifest", "segments", "superseded"].map(|name| store.storage().names(name).unwrap().len());
            let segments = store.snapshot().unwrap().segments().len();
            let bytes = view.segment.meta().bytes;
            println!(
                "{number}: begin {:?}, publish {:?}, merge {:?}; files {files:?}, {segments} segments, {bytes} bytes",
                times[0] / 100,
                times[1] / 100,
                times[2] / 100
            );
            times = Default::default();
        }
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every live row, in the order of the log and then of those that wait, without the dates that imports give.
fn state(store: &Store) -> Vec<String> {
    use crate::model::schema::{column as c, schema_names};
    let snapshot = store.reload().unwrap();
    let names: Vec<&str> = schema_names().into_iter().filter(|name| ![c::ADDED, c::MODIFIED].contains(name)).collect();
    let (mut rows, mut last) = (Vec::new(), i64::MIN);
    for (position, view) in snapshot.segments().iter().chain(snapshot.waiting()).enumerate() {
        for row in (0..view.segment.rows()).filter(|_| position < snapshot.segments().len()) {
            let added = view.segment.added(row).unwrap().0;
            assert!(added > last, "`added` must rise strictly");
            last = added;
        }
        let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
        for batch in view.segment.read(&view.live_ranges(0..view.segment.rows()), &names, 1_024).unwrap() {
            writer.write(&batch.unwrap()).unwrap();
        }
        writer.finish().unwrap();
        rows.extend(String::from_utf8(writer.into_inner()).unwrap().lines().map(str::to_owned));
    }
    rows
}

/// A store as the first schema left it: younger columns are null, ends are found by scanning, and compaction writes what is missing.
#[test]
fn stores_of_the_first_schema_are_read_and_go_on() {
    use crate::model::schema::{column as c, schema};
    let young = [
        c::SOURCE_INDICATOR_ID,
        c::TARGET_INDICATOR_ID,
        c::SOURCE_STIX_ID,
        c::TARGET_STIX_ID,
        c::OBJECT_REF_INDICATORS,
    ];
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions { location: folder.path().to_string_lossy().into_owned(), ..StoreOptions::default() };
    let store = Store::open_or_create(options.clone()).unwrap();
    let native = r#"{"type":"relationship","spec_version":"2.1","id":"relationship--44298a74-ba52-4f0c-87a3-1824e67d7fad","created":"2024-01-01T00:00:00Z","modified":"2024-01-01T00:00:00Z","relationship_type":"x","source_ref":"domain-name--1","target_ref":"domain-name--2"}"#;
    let ends: Vec<String> = [1, 2].map(|n| format!(r#"{{"type":"domain-name","id":"domain-name--0000000{n}-0000-4000-8000-000000000000","value":"n{n}.example.com"}}"#)).into();
    let native = native
        .replace("--1\"", "--00000001-0000-4000-8000-000000000000\"")
        .replace("--2\"", "--00000002-0000-4000-8000-000000000000\"");
    import(&store, &(domains(0..20, 1) + &ends.join("\n") + "\n" + &native + "\n")).unwrap();
    let expected = state(&store);

    // The same rows, written as they were.
    let snapshot = store.snapshot().unwrap();
    let fields: Vec<_> =
        schema().fields().iter().filter(|field| !young.contains(&field.name().as_str())).cloned().collect();
    let old_schema = Arc::new(arrow::datatypes::Schema::new(fields));
    let names: Vec<&str> = old_schema.fields().iter().map(|field| field.name().as_str()).collect();
    let mut manifest = snapshot.manifest().successor(store.now());
    manifest.segments.clear();
    for view in snapshot.segments() {
        let mut writer = SegmentWriter::create_with_schema(store.storage(), Arc::clone(&old_schema)).unwrap();
        let mut entries: Vec<_> = view.segment.file().unwrap().index.entries().unwrap().collect();
        entries.sort_by_key(|entry| entry.row);
        let keys: Vec<u64> = entries.iter().map(|entry| entry.key).collect();
        let digests: Vec<u64> = entries.iter().map(|entry| entry.digest).collect();
        for batch in view.segment.read(std::slice::from_ref(&(0..view.segment.rows())), &names, 1_024).unwrap() {
            let batch = batch.unwrap();
            assert_eq!(batch.num_columns(), names.len());
            writer.write_row_group(&batch, &keys, &digests).unwrap();
        }
        let mut meta = writer.finish().unwrap().unwrap();
        let index = Segment::new(meta.clone(), Arc::clone(store.storage())).file().unwrap();
        let encoded = super::index::without_ends(&index.index);
        let mut sink = store.storage().create(&super::segment::index_path(&meta.id)).unwrap();
        sink.write_all(&encoded).unwrap();
        sink.finish().unwrap();
        meta.index_bytes = encoded.len() as u64;
        meta.index_checksum = format!("{:016x}", twox_hash::XxHash3_64::oneshot(&encoded));
        meta.schema = 1;
        manifest.segments.push(meta);
    }
    store.publish(manifest).unwrap();
    drop(store);

    let store = Store::open(options).unwrap();
    assert_eq!(state(&store), expected);
    assert!(store.check(|_| ()).unwrap().problems.is_empty());
    let table = Arc::new(super::IndicatorTable::live(store.snapshot().unwrap()));
    let context = datafusion::prelude::SessionContext::new();
    context.register_table("indicators", table).unwrap();
    let rows = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let sql = "SELECT value FROM indicators WHERE source_indicator_id IS NULL AND object_ref_indicators IS NULL AND kind = 'object'";
        let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
        batches.iter().map(arrow::array::RecordBatch::num_rows).sum::<usize>()
    });
    assert_eq!(rows, 2);
    // An end that changes draws its edge along, though no index names it.
    let changed = ends[0].replace("n1.example.com", "changed.example.com");
    assert_eq!(import(&store, &(changed + "\n" + &domains(0..5, 2))).unwrap().changed, 6);
    let check = store.check(|_| ()).unwrap();
    assert!(check.problems.is_empty(), "{:?}", check.problems);
    let now = state(&store);
    assert_eq!(now.len(), expected.len());
    assert!(now.last().unwrap().contains("relationship--44298a74"), "{now:?}");
    store.compact(&CompactOptions { extent: Extent::All, history_s: Some(0), ..CompactOptions::default() }).unwrap();
    assert_eq!(state(&store), now);
    assert!(
        store
            .snapshot()
            .unwrap()
            .segments()
            .iter()
            .all(|view| view.segment.file().unwrap().index.end_count() == Some(2))
    );
}
