//! From parsed blocks to commits.
//!
//! Blocks are gathered into batches of a row group (or of so many bytes), resolved against the newest version, and appended to an open
//! commit; a commit ends when its segment is full, when a batch touches records that are in it but not yet published, when it holds
//! back many edges, or when it has been open for some seconds. Edges come last in it, behind their ends, or wait (see `link`). Killed at any point, what was published is whole, and importing the same input again writes only the rest.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::ingest::link::{self, Held, Split};
use crate::ingest::resolve::{Gathered, Resolved, resolve};
use crate::ingest::{Parsed, Reject, Warnings, define};
use crate::model::schema;
use crate::model::time::Timestamp;
use crate::store::{Dates, NewRows, ROW_GROUP_ROWS, SEGMENT_ROWS, Store, StoreError, Writer, bytes_of, joined};

/// Longest documents gathered before they are resolved: rows are counted as well, but some documents are a million times the
/// size of others.
const BATCH_BYTES: usize = 128 << 20;
/// Most rows, and longest documents, that are brought into the order of their own dates at a time.
const DATED_ROWS: usize = SEGMENT_ROWS;
const DATED_BYTES: usize = 256 << 20;
/// So many of the ends that edges wait for are named.
const ENDS_SHOWN: usize = 5;
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
    /// Edges in the store that wait for an end when the import is done; they are in it, and served once the end has come.
    pub waiting: u64,
    /// What some of them wait for.
    pub waiting_for: Vec<String>,
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
    dates: Dates,
    open: Option<Open>,
    /// For dry runs: what would have been written so far.
    imagined: HashMap<u64, u64, Plain>,
    summary: Summary,
    /// Where fetching goes on once everything pushed so far is committed, by source and collection.
    marks: BTreeMap<(String, String), String>,
}

#[derive(Debug)]
struct Open {
    writer: Writer,
    keys: Sorted,
    held: Held,
    since: Instant,
}

/// A set of keys: sorted, since those of a batch are, and a merge touches memory in order where a table would jump about.
#[derive(Debug, Default)]
struct Sorted(Vec<u64>);

impl Sorted {
    fn contains(&self, key: u64) -> bool {
        self.0.binary_search(&key).is_ok()
    }

    /// Whether one of the `keys`, which are sorted, is in it.
    fn contains_any(&self, keys: impl Iterator<Item = u64>) -> bool {
        let mut rest = self.0.as_slice();
        for key in keys {
            // Steps that double lead over a gap of any length.
            let mut step = 1;
            while rest.get(step).is_some_and(|own| *own < key) {
                step *= 2;
            }
            let within = rest.get(..=step).unwrap_or(rest).partition_point(|own| *own < key);
            rest = rest.get(within..).unwrap_or_default();
            match rest.first() {
                Some(own) if *own == key => return true,
                Some(_) => {}
                None => return false,
            }
        }
        false
    }

    /// Adds keys in any order.
    fn extend(&mut self, keys: impl IntoIterator<Item = u64>) {
        self.0.extend(keys);
        // Made for runs that are sorted already, as all but the new ones are.
        self.0.sort();
    }
}

impl Open {
    fn begin(store: &Store, dates: Dates) -> Result<Self, StoreError> {
        let writer = store.writer()?.with_dates(dates);
        Ok(Open { writer, keys: Sorted::default(), held: Held::default(), since: Instant::now() })
    }
}

fn place(writer: &mut Writer, marks: &mut BTreeMap<(String, String), String>) {
    for ((source, collection), place) in std::mem::take(marks) {
        writer.set_place(&source, &collection, place);
    }
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
            dates: Dates::OfCommit,
            open: None,
            imagined: HashMap::default(),
            summary: Summary::default(),
            marks: BTreeMap::new(),
        }
    }

    /// The verdict (0–3) of records it writes that have none, neither in the input nor in the store.
    pub fn with_default_score(mut self, score: Option<u8>) -> Self {
        self.default_score = score;
        self
    }

    /// Gives records an `added` equal to their `modified`, for consumers that resume from the date of the last object they saw at
    /// the system the records come from. The clock still rises strictly and never passes the time of day: where a record's date is
    /// not after that of the record before it in the log, it gets the next microsecond. So records are brought into the
    /// order of their dates first, but only as many as one commit holds (a million, or 256 MiB of them): a longer input should come
    /// in that order. No `added` is before `modified`, so who resumes misses nothing, in any order.
    pub fn with_kept_dates(mut self, keep: bool) -> Self {
        self.dates = if keep { Dates::OfRows } else { Dates::OfCommit };
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
        let (rows, bytes, waited) = match self.dates {
            Dates::OfRows => (DATED_ROWS, DATED_BYTES, false),
            Dates::OfCommit => {
                let waited = self.gathered_since.is_some_and(|since| since.elapsed() > LONGEST_OPEN);
                (ROW_GROUP_ROWS, BATCH_BYTES, waited)
            }
        };
        if self.pending_rows >= rows || self.pending_bytes >= bytes || waited {
            self.commit_pending()?;
        }
        if self.open.as_ref().is_some_and(|open| open.since.elapsed() > LONGEST_OPEN) {
            self.publish()?;
        }
        Ok(rejects)
    }

    /// Where fetching from a source goes on, now that what was pushed led there. It is committed together with the last of that, never
    /// before it.
    pub fn mark(&mut self, source: &str, collection: &str, place: String) {
        self.marks.insert((source.to_owned(), collection.to_owned()), place);
    }

    /// Rows taken that are not committed yet, and their bytes.
    pub fn pending(&self) -> (usize, usize) {
        let (rows, bytes) = (self.pending_rows, self.pending_bytes);
        (rows + self.open.as_ref().map_or(0, |open| open.writer.rows()), bytes)
    }

    /// Commits what was taken so far, and lets other writers have their turn.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        self.commit_pending()?;
        if !self.dry_run && !self.marks.is_empty() {
            if self.open.is_none() {
                self.open = Some(Open::begin(&self.store, self.dates)?);
            }
            if let Some(open) = &mut self.open {
                place(&mut open.writer, &mut self.marks);
            }
        }
        self.publish()
    }

    /// Commits what is left. Nothing more can be taken afterwards.
    pub fn finish(mut self) -> Result<Summary, StoreError> {
        self.commit()?;
        if !self.dry_run {
            let snapshot = self.store.snapshot()?;
            self.summary.waiting = snapshot.waiting_rows();
            self.summary.waiting_for = link::awaited_ends(&snapshot, self.store.ids(), ENDS_SHOWN)?;
        }
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
        let parts = pending.into_iter().map(|Parsed { batch, keys, digests, .. }| NewRows { batch, keys, digests });
        let rows = Gathered::new(parts.collect());
        if self.dry_run { self.imagine(rows.joined()?) } else { self.append(rows) }
    }

    fn append(&mut self, rows: Gathered) -> Result<(), StoreError> {
        let touches_open = |open: &Open| open.keys.contains_any(rows.keys());
        let has_room = |open: &Open| open.writer.has_room(rows.rows(), rows.bytes());
        if self.open.as_ref().is_some_and(|open| !has_room(open) || touches_open(open)) {
            self.publish()?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(Open::begin(&self.store, self.dates)?),
        };
        let mut resolved = resolve(open.writer.snapshot(), rows, self.store.now(), self.default_score)?;
        if self.dates == Dates::OfRows {
            by_date(&mut resolved)?;
        }
        self.summary.new += resolved.new;
        self.summary.changed += resolved.changed;
        self.summary.unchanged += resolved.unchanged;
        open.keys.extend(resolved.rows.iter().flat_map(|part| part.keys.iter().copied()));
        for (segment, row) in resolved.superseded {
            open.writer.supersede(segment, row);
        }
        open.held.replaces(resolved.replaced);
        let snapshot = Arc::clone(open.writer.snapshot());
        open.writer.expect(resolved.rows.iter().map(|part| part.keys.len()).sum());
        for part in &resolved.rows {
            let is_here = |key| open.keys.contains(key);
            let known = open.writer.definitions();
            if let Some(definitions) = define::missing(&part.batch, is_here, known, &snapshot, self.store.ids())? {
                open.keys.extend(definitions.keys.iter().copied());
                open.writer.take(definitions, &[], first_date(&part.batch))?;
            }
        }
        // Only rows that are all in one part are stale.
        let stale = resolved.stale;
        let split = resolved.rows.into_par_iter().map(|part| Split::of(part, stale.clone()));
        for split in split.collect::<Result<Vec<_>, _>>()? {
            let (rows, stale) = open.held.hold(split);
            open.writer.take(rows, &stale, None)?;
        }
        open.writer.write()?;
        // All that was pushed before the marks were set is in this commit, or in one before it.
        place(&mut open.writer, &mut self.marks);
        let (held_rows, held_bytes) = open.held.size();
        if held_rows >= ROW_GROUP_ROWS || held_bytes >= BATCH_BYTES {
            self.publish()?;
        }
        Ok(())
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
        let rows = Gathered::new(vec![rows]);
        let resolved = resolve(&snapshot, rows, self.store.now(), self.default_score)?;
        self.summary.new += resolved.new;
        self.summary.changed += resolved.changed;
        self.summary.unchanged += resolved.unchanged;
        Ok(())
    }

    fn publish(&mut self) -> Result<(), StoreError> {
        let Some(Open { mut writer, held, .. }) = self.open.take() else { return Ok(()) };
        link::link(&mut writer, held, self.store.ids(), self.store.now(), self.dates)?;
        writer.publish().map(|_| ())
    }
}

/// The date of the first row.
fn first_date(batch: &RecordBatch) -> Option<Timestamp> {
    let modified = batch.column_by_name(schema::column::MODIFIED)?.as_primitive_opt::<TimestampMicrosecondType>()?;
    (!modified.is_empty() && modified.is_valid(0)).then(|| Timestamp(modified.value(0)))
}

/// Brings rows into the order of their own dates.
fn by_date(resolved: &mut Resolved) -> Result<(), StoreError> {
    let mut rows = joined(&resolved.rows)?;
    let modified = rows.batch.column(rows.batch.schema_ref().index_of(schema::column::MODIFIED)?);
    let modified = modified.as_primitive::<TimestampMicrosecondType>();
    let mut order: Vec<u32> = (0..rows.keys.len() as u32).collect();
    order.sort_by_key(|row| modified.is_valid(*row as usize).then(|| modified.value(*row as usize)));
    rows.batch = take_record_batch(&rows.batch, &UInt32Array::from(order.clone()))?;
    rows.keys = order.iter().map(|row| rows.keys[*row as usize]).collect();
    rows.digests = order.iter().map(|row| rows.digests[*row as usize]).collect();
    let mut places = vec![0; order.len()];
    order.iter().enumerate().for_each(|(place, row)| places[*row as usize] = place as u32);
    resolved.stale.iter_mut().for_each(|row| *row = places[*row as usize]);
    resolved.rows = vec![rows];
    Ok(())
}
