//! The store dies at every step of a write, deterministically; `tests/smoke/crash.py` does it with SIGKILL at random.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;

use super::fs::{self, FileSink, Listed, ReadAt, Storage};
use super::{CompactOptions, Store, StoreError, StoreOptions};
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

fn import(store: &Store, scores: impl Iterator<Item = (usize, u8)>) -> Result<Summary, String> {
    let lines: String = scores
        .map(|(number, score)| {
            format!(
                r#"{{"indicator_type":"Domain","value":"h{number}.example.com","score":{score},"timestamp":"2024-01-01T00:00:00Z"}}"#
            ) + "\n"
        })
        .collect();
    let input = Input::from_reader("test.ndjson", None, io::Cursor::new(lines.into_bytes())).unwrap();
    let mut importer = Importer::new(store, false);
    let mut failure = None;
    let decoded = ingest::decode(input, &DecodeOptions::new(Arc::clone(store.ids())), |parsed| {
        importer.push(parsed).map(|_| ()).inspect_err(|error| failure = Some(error.to_string()))
    });
    decoded.map_err(|error| failure.unwrap_or_else(|| error.to_string()))?;
    importer.finish().map_err(|error| error.to_string())
}

/// Design §3: whatever the step, the store is whole, holds the last version or the next, and doing it again completes it.
#[test]
fn a_death_at_any_step_leaves_the_last_version_or_the_next() {
    type Work = fn(&Store) -> Result<(), String>;
    let update: Work = |store| import(store, (50..150).map(|number| (number, 3))).map(|_| ());
    let compact: Work = |store| {
        let all = CompactOptions { all: true, history_s: Some(0), ..CompactOptions::default() };
        store.compact(&all).map(|_| ()).map_err(|error| error.to_string())
    };
    for (name, work, records) in [("import", update, 150), ("compact", compact, 100)] {
        for death in [Death::Before, Death::After] {
            let mut deaths = 0;
            loop {
                let folder = tempfile::tempdir().unwrap();
                // Old versions go at once, so that the steps of removal are among those that die.
                let options = StoreOptions {
                    location: folder.path().to_string_lossy().into_owned(),
                    snapshots_kept_s: 0,
                    ..StoreOptions::default()
                };
                let store = Store::open_or_create(options.clone()).unwrap();
                import(&store, (0..100).map(|number| (number, 1))).unwrap();
                import(&store, (0..10).map(|number| (number, 2))).unwrap();
                let before = live(&store);
                let mortal = Mortal {
                    folder: fs::open(&options.location).unwrap(),
                    steps: Arc::new(AtomicI64::new(deaths)),
                    death,
                };
                let steps = Arc::clone(&mortal.steps);
                let mortal = Store::open_at(Arc::new(mortal), options.clone(), Box::new(Timestamp::now)).unwrap();
                let result = work(&mortal);
                drop((mortal, store));
                let found = Store::open(options).unwrap();
                assert!(found.check(|_| ()).unwrap().problems.is_empty(), "{name}, {death:?} step {deaths}");
                let now = live(&found);
                assert!(now == before || now.len() == records, "{name}, {death:?} step {deaths}: {}", now.len());
                work(&found).unwrap();
                assert!(found.check(|_| ()).unwrap().problems.is_empty(), "{name} again after {death:?} step {deaths}");
                assert_eq!(live(&found).len(), records, "{name} again after {death:?} step {deaths}");
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

/// `added` of every live row, in order.
fn live(store: &Store) -> Vec<i64> {
    let snapshot = store.reload().unwrap();
    let mut added = Vec::new();
    for view in snapshot.segments() {
        added.extend(
            (0..view.segment.rows())
                .filter(|row| !view.superseded.contains(*row))
                .map(|row| view.segment.added(row).unwrap().0),
        );
    }
    assert!(added.windows(2).all(|pair| pair[0] < pair[1]), "`added` must rise strictly");
    added
}
