//! From parsed blocks to commits.
//!
//! Blocks are gathered into batches of a row group (or of so many bytes), resolved against the newest version, and appended to an open
//! commit; a commit ends when its segment is full, when a batch touches records that are in it but not yet published, or when it has
//! been open for some seconds. Killed at any point, what was published is whole, and importing the same input again writes only the rest.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use arrow::compute::concat_batches;

use crate::ingest::resolve::resolve;
use crate::ingest::{Parsed, Reject, Warnings};
use crate::model::schema;
use crate::store::{NewRows, ROW_GROUP_ROWS, Store, StoreError, Writer, bytes_of};

/// Longest documents gathered before they are resolved: rows are counted as well, but some documents are a million times the
/// size of others.
const BATCH_BYTES: usize = 128 << 20;
/// A slow input's records become visible at least this often.
const LONGEST_OPEN: Duration = Duration::from_secs(5);

/// What an import did.
#[derive(Debug, Default, Clone)]
pub struct Summary {
    /// Elements read: records and rejects.
    pub read: u64,
    /// Records not known before.
    pub new: u64,
    /// Records that said something new and were merged, or newer versions of native objects.
    pub changed: u64,
    /// Records that said nothing new; not written.
    pub unchanged: u64,
    /// Elements that are no records.
    pub rejected: u64,
    /// Uncompressed bytes read.
    pub bytes: u64,
    /// Oddities in records that were taken.
    pub warnings: Warnings,
}

/// Takes parsed blocks in order and commits them.
#[derive(Debug)]
pub struct Importer {
    store: Store,
    dry_run: bool,
    pending: Vec<Parsed>,
    pending_rows: usize,
    pending_bytes: usize,
    gathered_since: Option<Instant>,
    default_score: Option<u8>,
    open: Option<Open>,
    /// For dry runs: what would have been written so far.
    imagined: HashMap<u64, u64, Plain>,
    summary: Summary,
}

#[derive(Debug)]
struct Open {
    writer: Writer,
    keys: HashMap<u64, (), Plain>,
    since: Instant,
}

/// Keys are hashes already.
type Plain = BuildHasherDefault<PlainHasher>;

#[derive(Default)]
struct PlainHasher(u64);

impl Hasher for PlainHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }
    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

impl Importer {
    /// An importer into `store`; with `dry_run` it only says what it would do.
    pub fn new(store: &Store, dry_run: bool) -> Self {
        Importer {
            store: store.clone(),
            dry_run,
            pending: Vec::new(),
            pending_rows: 0,
            pending_bytes: 0,
            gathered_since: None,
            default_score: None,
            open: None,
            imagined: HashMap::default(),
            summary: Summary::default(),
        }
    }

    /// The verdict (0–3) of records it writes that have none, neither in the input nor in the store.
    pub fn with_default_score(mut self, score: Option<u8>) -> Self {
        self.default_score = score;
        self
    }

    /// What was done so far.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Takes one block; gives back its rejects for the caller to file.
    pub fn push(&mut self, mut parsed: Parsed) -> Result<Vec<Reject>, StoreError> {
        let rejects = std::mem::take(&mut parsed.rejects);
        self.summary.read += parsed.read;
        self.summary.bytes += parsed.bytes;
        self.summary.rejected += rejects.len() as u64;
        self.summary.warnings.merge(std::mem::take(&mut parsed.warnings));
        if parsed.batch.num_rows() > 0 {
            self.pending_rows += parsed.batch.num_rows();
            self.pending_bytes += bytes_of(&parsed.batch);
            self.gathered_since.get_or_insert_with(Instant::now);
            self.pending.push(parsed);
        }
        let waited = self.gathered_since.is_some_and(|since| since.elapsed() > LONGEST_OPEN);
        if self.pending_rows >= ROW_GROUP_ROWS || self.pending_bytes >= BATCH_BYTES || waited {
            self.commit_pending()?;
        }
        if self.open.as_ref().is_some_and(|open| open.since.elapsed() > LONGEST_OPEN) {
            self.publish()?;
        }
        Ok(rejects)
    }

    /// Commits what is left. Nothing more can be taken afterwards.
    pub fn finish(mut self) -> Result<Summary, StoreError> {
        self.commit_pending()?;
        self.publish()?;
        Ok(self.summary)
    }

    fn commit_pending(&mut self) -> Result<(), StoreError> {
        self.gathered_since = None;
        self.pending_rows = 0;
        self.pending_bytes = 0;
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Ok(());
        }
        let rows = NewRows {
            batch: concat_batches(&schema::input_schema(), pending.iter().map(|parsed| &parsed.batch))?,
            keys: pending.iter().flat_map(|parsed| parsed.keys.iter().copied()).collect(),
            digests: pending.iter().flat_map(|parsed| parsed.digests.iter().copied()).collect(),
        };
        drop(pending);
        if self.dry_run { self.imagine(rows) } else { self.append(rows) }
    }

    fn append(&mut self, rows: NewRows) -> Result<(), StoreError> {
        let touches_open = |open: &Open| rows.keys.iter().any(|key| open.keys.contains_key(key));
        let has_room = |open: &Open| open.writer.has_room(rows.keys.len(), bytes_of(&rows.batch));
        if self.open.as_ref().is_some_and(|open| !has_room(open) || touches_open(open)) {
            self.publish()?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(Open { writer: self.store.writer()?, keys: HashMap::default(), since: Instant::now() }),
        };
        let resolved = resolve(open.writer.snapshot(), rows, self.store.now(), self.default_score)?;
        self.summary.new += resolved.new;
        self.summary.changed += resolved.changed;
        self.summary.unchanged += resolved.unchanged;
        open.keys.extend(resolved.rows.keys.iter().map(|key| (*key, ())));
        for (segment, row) in resolved.superseded {
            open.writer.supersede(segment, row);
        }
        open.writer.append(resolved.rows, &resolved.stale)
    }

    fn imagine(&mut self, mut rows: NewRows) -> Result<(), StoreError> {
        let mut fresh = Vec::with_capacity(rows.keys.len());
        for (key, digest) in rows.keys.iter().zip(&rows.digests) {
            let known = self.imagined.insert(*key, *digest);
            match known {
                Some(known) if known == *digest => self.summary.unchanged += 1,
                Some(_) => self.summary.changed += 1,
                None => {}
            }
            fresh.push(known.is_none());
        }
        let picked = arrow::array::BooleanArray::from(fresh.clone());
        rows.batch = arrow::compute::filter_record_batch(&rows.batch, &picked)?;
        let mut keep = fresh.iter();
        rows.keys.retain(|_| keep.next().copied().unwrap_or(true));
        let mut keep = fresh.iter();
        rows.digests.retain(|_| keep.next().copied().unwrap_or(true));
        let snapshot = self.store.snapshot()?;
        let resolved = resolve(&snapshot, rows, self.store.now(), self.default_score)?;
        self.summary.new += resolved.new;
        self.summary.changed += resolved.changed;
        self.summary.unchanged += resolved.unchanged;
        Ok(())
    }

    fn publish(&mut self) -> Result<(), StoreError> {
        match self.open.take() {
            Some(open) => open.writer.publish().map(|_| ()),
            None => Ok(()),
        }
    }
}
