//! Writing: one commit is one new segment, the rows it supersedes, and the next manifest. Where it brings edges, a second segment
//! follows with those whose ends are there, and a third one, outside of the log, with those that wait.
//!
//! The clock (`added`): every row gets its own microsecond, later than any given before, over restarts and clock steps. Large
//! commits end on a whole second that is not in the future, so that a client that stores whole seconds repeats nothing; to have room for
//! that they begin about a second in the past, which no reader notices, since the order is that of commits. A commit never pushes
//! the clock ahead of real time by more than a second: it waits.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::concat_batches;
use arrow::datatypes::TimestampMicrosecondType;
use roaring::RoaringBitmap;

use super::error::StoreError;
use super::fs::Storage;
use super::manifest::SegmentMeta;
use super::segment::{
    PAGE_ROWS, ROW_GROUP_BYTES, ROW_GROUP_ROWS, SEGMENT_ROWS, Segment, SegmentWriter, added_column, added_of,
};
use super::snapshot::{SegmentView, Snapshot, write_superseded};
use super::{Store, gc};
use crate::model::schema;
use crate::model::time::{MICROS_PER_SECOND, Timestamp};

/// From this many rows on, a commit ends on a whole second.
const LARGE_COMMIT_ROWS: usize = 10_000;
/// How long a writer waits for another one.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(120);
/// How long a writer sleeps between two looks at the lock, at first and in the end.
const LOCK_POLL: [Duration; 2] = [Duration::from_micros(500), Duration::from_millis(8)];

/// Rows to commit: all columns but `added`, with the hash of each row's identity and the digest of its content.
#[derive(Debug, Clone)]
pub struct NewRows {
    /// In [`schema::input_schema`].
    pub batch: RecordBatch,
    /// A hash of each row's identity.
    pub keys: Vec<u64>,
    /// A digest of each row's content.
    pub digests: Vec<u64>,
}

/// Where the dates of new rows come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dates {
    /// From the time of day.
    OfCommit,
    /// From each row's `modified`, as long as that is neither before the row before it nor in the future.
    OfRows,
}

/// The right to write, held until published or dropped.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    snapshot: Arc<Snapshot>,
    _lock: Lock,
    began: Instant,
    clock_at_start: i64,
    dates: Dates,
    /// Some rows of this commit were given dates of their own; the others get the time of day, each when it is appended.
    dated: bool,
    /// Whether it is decided where the dates of this commit begin.
    begun: bool,
    draft: Draft,
    /// The segment with which the commit begins, complete, when another one follows.
    sealed: Option<(SegmentMeta, RoaringBitmap)>,
    rows: usize,
    next_added: i64,
    superseded: BTreeMap<usize, RoaringBitmap>,
    deleted: BTreeMap<usize, RoaringBitmap>,
    revived: BTreeMap<usize, RoaringBitmap>,
    waiting: Vec<NewRows>,
    /// What the waiting rows of this commit are filed under.
    waiting_ends: Vec<(u64, u32)>,
    waiting_rows: usize,
    definitions: BTreeSet<String>,
    places: BTreeMap<String, BTreeMap<String, String>>,
}

/// A segment being written. Whole pages of rows are encoded as they come; a row group ends, and its rows get their `added`, when it is
/// full and more rows are there, or with the segment.
#[derive(Debug, Default)]
struct Draft {
    segment: Option<SegmentWriter>,
    /// Rows that are not encoded yet: less than a page of them, or all when they are no more than one.
    pending: Vec<NewRows>,
    pending_rows: usize,
    pending_bytes: usize,
    /// Rows of the row group that is open, and how long they came.
    group_rows: usize,
    group_bytes: usize,
    /// The `added` of the rows of the open row group and of those behind it, where it is not simply the next microseconds.
    added: Option<Vec<i64>>,
    rows: usize,
    born_superseded: RoaringBitmap,
}

impl std::fmt::Debug for SegmentWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SegmentWriter({} rows)", self.rows())
    }
}

impl Writer {
    pub(crate) fn begin(store: &Store, wait: Duration) -> Result<Self, StoreError> {
        let lock = lock_within(store, wait)?;
        let snapshot = store.reload()?;
        let clock_at_start = snapshot.manifest().clock.max(store.now().0);
        Ok(Writer {
            store: store.clone(),
            definitions: snapshot.manifest().definitions.clone(),
            places: snapshot.manifest().places.clone(),
            snapshot,
            _lock: lock,
            began: Instant::now(),
            clock_at_start,
            dates: Dates::OfCommit,
            dated: false,
            begun: false,
            draft: Draft::default(),
            sealed: None,
            rows: 0,
            next_added: 0,
            superseded: BTreeMap::new(),
            deleted: BTreeMap::new(),
            revived: BTreeMap::new(),
            waiting: Vec::new(),
            waiting_ends: Vec::new(),
            waiting_rows: 0,
        })
    }

    /// The same, with other dates; to be called before rows are appended.
    pub(crate) fn with_dates(mut self, dates: Dates) -> Self {
        self.dates = dates;
        self
    }

    /// The version this writer builds on. Nobody else publishes while the writer lives.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Rows appended so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether `rows` more of `bytes` in all still fit into this commit.
    pub fn has_room(&self, rows: usize, bytes: usize) -> bool {
        // What is less than a page of rows cannot be written before the segment ends, however long it is.
        let held = self.draft.group_bytes + self.draft.pending_bytes;
        let fits = self.rows + rows <= SEGMENT_ROWS && held + bytes <= 2 * ROW_GROUP_BYTES;
        self.rows == 0 || fits
    }

    /// Appends rows. `stale` names those of them (by position) that are born superseded: older versions that arrive late.
    pub fn append(&mut self, rows: NewRows, stale: &[u32]) -> Result<(), StoreError> {
        self.take(rows, stale, None)?;
        self.write()
    }

    /// As [`append`](Self::append), but the rows stay in memory until [`write`](Self::write): many parts are written better together.
    /// Before rows that were made up to go before others stands the date of the first of these, `before`: where dates are kept, that
    /// one keeps its own.
    pub(crate) fn take(&mut self, rows: NewRows, stale: &[u32], before: Option<Timestamp>) -> Result<(), StoreError> {
        self.begin_dates(rows.batch.num_rows(), false);
        let added = match self.dates {
            Dates::OfRows => Some(self.dates_of(&rows.batch, before)?),
            Dates::OfCommit if self.dated => {
                let now = self.store.now().0;
                Some(self.rising(vec![Some(now); rows.batch.num_rows()]))
            }
            Dates::OfCommit => None,
        };
        self.hold(rows, stale, added);
        Ok(())
    }

    /// As [`append`](Self::append), with the date that each row should have as its `added`, as far as the clock allows: one that is
    /// not after the row before it becomes the next microsecond, one in the future becomes now.
    pub fn append_at(&mut self, rows: NewRows, stale: &[u32], dates: &[Timestamp]) -> Result<(), StoreError> {
        self.begin_dates(rows.batch.num_rows(), true);
        let now = self.store.now().0;
        let dates = (0..rows.batch.num_rows()).map(|row| Some(dates.get(row).map_or(now, |date| date.0.min(now))));
        let added = self.rising(dates.collect::<Vec<_>>());
        self.hold(rows, stale, Some(added));
        self.write()
    }

    /// Says that so many rows come next, in whatever parts: large commits have their dates laid otherwise.
    pub(crate) fn expect(&mut self, count: usize) {
        self.begin_dates(count, false);
    }

    /// Where the dates begin of `count` rows that are about to be appended, `dated` when they bring their own.
    fn begin_dates(&mut self, count: usize, dated: bool) {
        if !self.begun && count > 0 {
            self.begun = true;
            let clock = self.snapshot.manifest().clock;
            let now = self.store.now();
            let start = match self.dates {
                Dates::OfRows => clock + 1,
                Dates::OfCommit if dated => clock + 1,
                Dates::OfCommit if count >= LARGE_COMMIT_ROWS => now.floor_second().0 - SEGMENT_ROWS as i64,
                Dates::OfCommit => now.0,
            };
            self.next_added = start.max(clock + 1);
        }
        if dated && !self.dated && self.dates == Dates::OfCommit {
            // Rows that wait for their dates get them before any others do.
            let end = self.next_added + (self.draft.group_rows + self.draft.pending_rows) as i64;
            self.draft.added = Some((self.next_added..end).collect());
            self.next_added = end;
        }
        self.dated |= dated;
    }

    /// Whether rows have their dates as soon as they are appended.
    fn dates_are_given(&self) -> bool {
        self.dated || self.dates == Dates::OfRows
    }

    /// The dates wanted, or where there is none or it has passed, the next microsecond.
    fn rising(&mut self, wanted: impl IntoIterator<Item = Option<i64>>) -> Vec<i64> {
        let dates = wanted.into_iter().map(|wanted| {
            let at = wanted.map_or(self.next_added, |wanted| wanted.max(self.next_added));
            self.next_added = at + 1;
            at
        });
        dates.collect()
    }

    fn hold(&mut self, rows: NewRows, stale: &[u32], added: Option<Vec<i64>>) {
        let count = rows.batch.num_rows();
        if count == 0 {
            return;
        }
        let draft = &mut self.draft;
        draft.born_superseded.extend(stale.iter().map(|row| draft.rows as u32 + row));
        draft.rows += count;
        draft.pending_rows += count;
        draft.pending_bytes += bytes_of(&rows.batch);
        draft.pending.push(rows);
        if let Some(added) = added {
            draft.added.get_or_insert_default().extend(added);
        }
        self.rows += count;
    }

    /// Writes what was taken, but for less than a page: the last rows wait for [`publish`](Self::publish), which decides when they
    /// were added.
    pub(crate) fn write(&mut self) -> Result<(), StoreError> {
        loop {
            if self.draft.group_is_full() {
                self.end_row_group(None)?;
            }
            match self.draft.whole_pages() {
                0 => return Ok(()),
                rows => self.draft.write(rows, self.store.storage())?,
            }
        }
    }

    /// `added` as near to each row's own date as the clock allows, or all just `before` a date.
    fn dates_of(&mut self, batch: &RecordBatch, before: Option<Timestamp>) -> Result<Vec<i64>, StoreError> {
        let now = self.store.now().0;
        let modified = batch.column(batch.schema_ref().index_of(schema::column::MODIFIED)?);
        let modified = modified.as_primitive::<TimestampMicrosecondType>();
        let count = modified.len() as i64;
        Ok(self.rising(modified.iter().map(|modified| {
            before.map(|before| before.0.min(now) - count).or(modified.map(|modified| modified.min(now)))
        })))
    }

    /// Appends edges that wait for an end, outside of the log. `ends` are the keys each row (by position) is found by when what it
    /// waits for arrives.
    pub(crate) fn append_waiting(&mut self, rows: NewRows, ends: impl IntoIterator<Item = (u64, u32)>) {
        let base = self.waiting_rows as u32;
        self.waiting_rows += rows.batch.num_rows();
        self.waiting_ends.extend(ends.into_iter().map(|(key, row)| (key, base + row)));
        self.waiting.push(rows);
    }

    /// Marks rows of the snapshot's segments, as [`Snapshot::view`] numbers them, as replaced by rows of this commit.
    pub fn supersede(&mut self, segment: usize, row: u32) {
        if let Some(revived) = self.revived.get_mut(&segment) {
            revived.remove(row);
        }
        self.superseded.entry(segment).or_default().insert(row);
    }

    /// Deletes rows of the snapshot's log: they are gone from every answer at once, and for good with the next compaction.
    pub fn delete(&mut self, segment: usize, row: u32) {
        self.supersede(segment, row);
        self.deleted.entry(segment).or_default().insert(row);
    }

    /// Makes a superseded row of the snapshot's log the newest version of its record again, because those after it are deleted. It
    /// keeps its place and its date. A row that is deleted itself stays so.
    pub fn revive(&mut self, segment: usize, row: u32) {
        let was_deleted = self.snapshot.view(segment).is_some_and(|view| view.deleted.contains(row));
        if was_deleted || self.deleted.get(&segment).is_some_and(|deleted| deleted.contains(row)) {
            return;
        }
        if let Some(superseded) = self.superseded.get_mut(&segment) {
            superseded.remove(row);
        }
        self.revived.entry(segment).or_default().insert(row);
    }

    /// The definitions that the log holds with this commit; see [`Manifest::definitions`](super::Manifest::definitions).
    pub(crate) fn definitions(&mut self) -> &mut BTreeSet<String> {
        &mut self.definitions
    }

    /// Where fetching goes on in a collection of a source, with this commit; see [`Manifest::places`](super::Manifest::places).
    pub fn set_place(&mut self, source: &str, collection: &str, place: String) {
        self.places.entry(source.to_owned()).or_default().insert(collection.to_owned(), place);
    }

    /// Forgets where fetching from a source goes on: in that collection, or in all of them.
    pub fn forget_places(&mut self, source: &str, collection: Option<&str>) {
        match (collection, self.places.get_mut(source)) {
            (Some(collection), Some(places)) if places.len() > 1 || !places.contains_key(collection) => {
                places.remove(collection);
            }
            _ => {
                self.places.remove(source);
            }
        }
    }

    /// Completes the segment of what was appended so far, and begins another one in the same commit. What the log holds then can be
    /// looked up in the snapshot given back, though nobody else sees it before [`publish`](Self::publish). Can be done once.
    pub(crate) fn seal(&mut self) -> Result<Snapshot, StoreError> {
        debug_assert!(self.sealed.is_none(), "a commit has two segments at most");
        self.sealed = self.finish_draft()?;
        let marked = |base: usize, views: &[SegmentView]| -> Vec<SegmentView> {
            let views = views.iter().enumerate().map(|(position, view)| {
                let (superseded, deleted) = self.marks(base + position, view);
                SegmentView { segment: Arc::clone(&view.segment), superseded, deleted }
            });
            views.collect()
        };
        let mut manifest = self.snapshot.manifest().clone();
        let mut views = marked(0, self.snapshot.segments());
        let waiting = marked(views.len(), self.snapshot.waiting());
        if let Some((meta, superseded)) = &self.sealed {
            manifest.segments.push(meta.clone());
            let segment = Arc::new(Segment::new(meta.clone(), Arc::clone(self.store.storage())));
            views.push(SegmentView { segment, superseded: Arc::new(superseded.clone()), deleted: Arc::default() });
        }
        Ok(Snapshot::new(manifest, views, waiting))
    }

    /// What is superseded, and what deleted, of a segment of the snapshot with this commit.
    fn marks(&self, position: usize, view: &SegmentView) -> (Arc<RoaringBitmap>, Arc<RoaringBitmap>) {
        let of = |rows: &BTreeMap<usize, RoaringBitmap>| rows.get(&position).filter(|rows| !rows.is_empty()).cloned();
        let mut superseded = Arc::clone(&view.superseded);
        if let Some(more) = of(&self.superseded) {
            superseded = Arc::new(&*superseded | more);
        }
        if let Some(back) = of(&self.revived) {
            superseded = Arc::new(&*superseded - back);
        }
        let deleted =
            of(&self.deleted).map_or_else(|| Arc::clone(&view.deleted), |more| Arc::new(&*view.deleted | more));
        (superseded, deleted)
    }

    /// Ends the open row group, the last row of which is added at `last_added` where that is decided.
    fn end_row_group(&mut self, last_added: Option<i64>) -> Result<(), StoreError> {
        let draft = &mut self.draft;
        let rows = std::mem::take(&mut draft.group_rows);
        draft.group_bytes = 0;
        let added = match &mut draft.added {
            Some(given) => {
                let behind = given.split_off(rows.min(given.len()));
                added_of(std::mem::replace(given, behind))
            }
            None => {
                let added = added_column(self.next_added, rows, last_added);
                self.next_added = added.values().last().map_or(self.next_added, |last| last + 1);
                added
            }
        };
        let added: ArrayRef = Arc::new(added);
        draft.segment.as_mut().map_or(Ok(()), |segment| segment.end_row_group(&added))
    }

    /// Completes the segment being written; `None` when it has no rows.
    fn finish_draft(&mut self) -> Result<Option<(SegmentMeta, RoaringBitmap)>, StoreError> {
        if self.draft.pending_rows > 0 {
            self.draft.write(self.draft.pending_rows, self.store.storage())?;
        }
        if self.draft.group_rows > 0 {
            let last = (!self.dates_are_given()).then(|| {
                let dense_last = self.next_added + self.draft.group_rows as i64 - 1;
                let large = self.rows >= LARGE_COMMIT_ROWS;
                if large { self.whole_second_from(dense_last) } else { dense_last }
            });
            self.end_row_group(last)?;
        }
        let draft = std::mem::take(&mut self.draft);
        let meta = draft.segment.map(SegmentWriter::finish).transpose()?.flatten();
        Ok(meta.map(|meta| (meta, draft.born_superseded)))
    }

    /// Makes the commit durable and visible. Without rows nothing is published.
    pub fn publish(mut self) -> Result<Arc<Snapshot>, StoreError> {
        let idle = self.rows == 0 && self.waiting_rows == 0 && self.superseded.is_empty() && self.revived.is_empty();
        let before = self.snapshot.manifest();
        if idle && self.definitions == before.definitions && self.places == before.places {
            return Ok(Arc::clone(&self.snapshot));
        }
        let finished = self.finish_draft()?;
        let added: Vec<_> = self.sealed.take().into_iter().chain(finished).collect();
        let waiting = self.finish_waiting()?;
        if let Some((meta, _)) = added.last() {
            self.wait_for_real_time(meta.last_added);
        }

        let mut manifest = self.snapshot.manifest().successor(self.store.now());
        manifest.definitions = std::mem::take(&mut self.definitions);
        manifest.places = std::mem::take(&mut self.places);
        let storage = Arc::clone(self.store.storage());
        let in_log = manifest.segments.len();
        if !self.deleted.is_empty() {
            manifest.last_deletion = manifest.version;
        }
        let touched: BTreeSet<usize> = self.superseded.keys().chain(self.revived.keys()).copied().collect();
        for position in &touched {
            let Some(view) = self.snapshot.view(*position) else { continue };
            let meta = match position.checked_sub(in_log) {
                None => manifest.segments.get_mut(*position),
                Some(position) => manifest.waiting.get_mut(position),
            };
            let Some(meta) = meta else { continue };
            let (superseded, deleted) = self.marks(*position, view);
            if superseded != view.superseded {
                meta.superseded = write_superseded(&*storage, &meta.id, manifest.version, &superseded)?;
            }
            if deleted != view.deleted {
                meta.deleted = write_superseded(&*storage, &meta.id, manifest.version, &deleted)?;
            }
        }
        for (mut meta, superseded) in added {
            meta.superseded = write_superseded(&*storage, &meta.id, manifest.version, &superseded)?;
            manifest.clock = meta.last_added;
            manifest.segments.push(meta);
        }
        // Edges that no longer wait have no history.
        manifest.waiting.retain(|meta| meta.superseded.as_ref().is_none_or(|superseded| superseded.rows < meta.rows));
        manifest.waiting.extend(waiting);
        let snapshot = self.store.publish(manifest)?;
        gc::collect(&self.store, &snapshot)?;
        Ok(snapshot)
    }

    /// Writes the segment of edges that wait. Their `added` says since when; it is no date of the log.
    fn finish_waiting(&mut self) -> Result<Option<SegmentMeta>, StoreError> {
        if self.waiting_rows == 0 {
            return Ok(None);
        }
        let rows = joined(&std::mem::take(&mut self.waiting))?;
        let mut segment = SegmentWriter::create_waiting(self.store.storage(), self.waiting_rows)?;
        segment.file_ends(std::mem::take(&mut self.waiting_ends));
        let since = self.store.now().0;
        for start in (0..self.waiting_rows).step_by(ROW_GROUP_ROWS) {
            let count = ROW_GROUP_ROWS.min(self.waiting_rows - start);
            let batch = with_added(added_column(since + start as i64, count, None), &rows.batch.slice(start, count))?;
            segment.write_row_group(&batch, &rows.keys[start..start + count], &rows.digests[start..start + count])?;
        }
        segment.finish()
    }

    /// The first whole second at or after the densely packed end that is not in the future, waiting up to a second for it.
    fn whole_second_from(&self, dense_last: i64) -> i64 {
        let now = self.store.now().floor_second().0;
        if now >= dense_last {
            return now;
        }
        let next = Timestamp(dense_last + MICROS_PER_SECOND - 1).floor_second().0;
        let wait = next - self.store.now().0;
        if !(0..=MICROS_PER_SECOND).contains(&wait) {
            // The clock was set back: packing densely keeps close to real time.
            return dense_last;
        }
        std::thread::sleep(Duration::from_micros(wait as u64));
        next
    }

    fn wait_for_real_time(&self, last: i64) {
        let elapsed = i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX);
        let ahead = last - self.clock_at_start.saturating_add(elapsed) - MICROS_PER_SECOND;
        if ahead > 0 {
            std::thread::sleep(Duration::from_micros(ahead as u64));
        }
    }
}

/// How many of the waiting rows to write as a row group now, if any: full ones, or as many whole pages as there are when the rows are
/// long. At least one row stays. Rows of a segment are found by dividing by the page size, so only its last row group may end elsewhere.
pub(super) fn full_row_group(pending_rows: usize, pending_bytes: usize) -> Option<usize> {
    if pending_rows > ROW_GROUP_ROWS {
        return Some(ROW_GROUP_ROWS);
    }
    let whole_pages = pending_rows.saturating_sub(1) / PAGE_ROWS * PAGE_ROWS;
    (pending_bytes > ROW_GROUP_BYTES && whole_pages > 0).then_some(whole_pages)
}

/// Length of a batch's values, whatever buffers they share with others.
pub fn bytes_of(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or(0)).sum()
}

impl Draft {
    /// Whether the open row group has what it can hold while there are rows to go on with.
    fn group_is_full(&self) -> bool {
        self.pending_rows > 0 && (self.group_rows >= ROW_GROUP_ROWS || self.group_bytes > ROW_GROUP_BYTES)
    }

    /// How many of the pending rows to write now: whole pages, as many as the row group has room for. At least one row stays. Where
    /// rows are long, one page at a time, to see whether the row group has become too long.
    fn whole_pages(&self) -> usize {
        let pages = self.pending_rows.saturating_sub(1) / PAGE_ROWS;
        let most = if self.pending_bytes > ROW_GROUP_BYTES / 2 { 1 } else { pages };
        (most.min(pages) * PAGE_ROWS).min(ROW_GROUP_ROWS.saturating_sub(self.group_rows))
    }

    /// Writes the first `rows` of the pending ones into the open row group.
    fn write(&mut self, rows: usize, storage: &Arc<dyn Storage>) -> Result<(), StoreError> {
        let mut taken = std::mem::take(&mut self.pending);
        let mut left = rows;
        let ends_in = taken.iter().position(|part| {
            let fits = part.batch.num_rows() <= left;
            left -= if fits { part.batch.num_rows() } else { 0 };
            !fits
        });
        if let Some(at) = ends_in {
            self.pending = taken.split_off(at);
            if left > 0
                && let Some(part) = self.pending.first_mut()
            {
                taken.push(part.take_head(left));
            }
        }
        self.pending_rows -= rows;
        self.pending_bytes = self.pending.iter().map(|part| bytes_of(&part.batch)).sum();
        self.group_rows += rows;
        self.group_bytes += taken.iter().map(|part| bytes_of(&part.batch)).sum::<usize>();
        let segment = match &mut self.segment {
            Some(segment) => segment,
            none => none.insert(SegmentWriter::create(storage, self.rows)?),
        };
        segment.write_rows(&taken)
    }
}

impl NewRows {
    /// Splits off the first rows.
    fn take_head(&mut self, rows: usize) -> NewRows {
        let tail = NewRows {
            batch: self.batch.slice(rows, self.batch.num_rows() - rows),
            keys: self.keys.split_off(rows),
            digests: self.digests.split_off(rows),
        };
        let whole = std::mem::replace(self, tail);
        NewRows { batch: whole.batch.slice(0, rows), ..whole }
    }
}

/// Rows one after the other.
pub(crate) fn joined(parts: &[NewRows]) -> Result<NewRows, StoreError> {
    let batch = match parts {
        [one] => one.batch.clone(),
        many => concat_batches(&schema::input_schema(), many.iter().map(|part| &part.batch))?,
    };
    Ok(NewRows {
        batch,
        keys: parts.iter().flat_map(|part| part.keys.iter().copied()).collect(),
        digests: parts.iter().flat_map(|part| part.digests.iter().copied()).collect(),
    })
}

fn with_added(added: TimestampMicrosecondArray, batch: &RecordBatch) -> Result<RecordBatch, StoreError> {
    let mut columns: Vec<ArrayRef> = vec![Arc::new(added)];
    columns.extend(batch.columns().iter().cloned());
    Ok(RecordBatch::try_new(schema::schema(), columns)?)
}

/// The process lock of a local store; an object store has none and relies on create-if-absent alone.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held for its drop, which releases the lock")] Option<File>);

/// Takes the lock, waiting for whoever holds it.
pub(super) fn lock(store: &Store) -> Result<Lock, StoreError> {
    lock_within(store, LOCK_WAIT)
}

/// The same, waiting at most so long.
///
/// Who wants the lock stands in a queue first, which holds one, and leaves it with the lock in hand. So who lets the lock go
/// and wants it again at once comes behind whoever waited meanwhile.
fn lock_within(store: &Store, wait: Duration) -> Result<Lock, StoreError> {
    let Some(path) = store.storage().lock_path() else { return Ok(Lock(None)) };
    let began = Instant::now();
    let _queue = taken(store, &path.with_extension("queue"), began, wait)?;
    Ok(Lock(Some(taken(store, &path, began, wait)?)))
}

/// The lock of a file, once nobody else holds it; waits until `wait` after it `began`.
fn taken(store: &Store, path: &Path, began: Instant, wait: Duration) -> Result<File, StoreError> {
    let file = lock_file(path)?;
    let mut sleep = LOCK_POLL[0];
    while !try_lock_file(&file, path)? {
        if began.elapsed() >= wait {
            return Err(StoreError::Locked { path: store.location().to_owned(), waited_s: wait.as_secs() });
        }
        std::thread::sleep(sleep);
        sleep = (sleep * 2).min(LOCK_POLL[1]);
    }
    Ok(file)
}

/// Takes the lock of compaction, waiting for whoever holds it. Files that a compaction has written are in no version of the store for a
/// while; as long as this is held, nobody takes them for those of a killed writer.
pub(super) fn lock_compaction(store: &Store) -> Result<Lock, StoreError> {
    let Some(path) = compaction_path(store) else { return Ok(Lock(None)) };
    taken(store, &path, Instant::now(), LOCK_WAIT).map(|file| Lock(Some(file)))
}

/// Takes the lock of compaction if nobody holds it.
pub(super) fn try_lock_compaction(store: &Store) -> Result<Option<Lock>, StoreError> {
    try_lock_at(compaction_path(store))
}

fn compaction_path(store: &Store) -> Option<PathBuf> {
    store.storage().lock_path().map(|path| path.with_extension("compaction"))
}

/// Takes the lock if nobody holds it.
pub(super) fn try_lock(store: &Store) -> Result<Option<Lock>, StoreError> {
    try_lock_at(store.storage().lock_path())
}

fn try_lock_at(path: Option<PathBuf>) -> Result<Option<Lock>, StoreError> {
    let Some(path) = path else { return Ok(Some(Lock(None))) };
    let file = lock_file(&path)?;
    Ok(try_lock_file(&file, &path)?.then_some(Lock(Some(file))))
}

fn lock_file(path: &Path) -> Result<File, StoreError> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    file.map_err(StoreError::io("lock", path.display()))
}

fn try_lock_file(file: &File, path: &Path) -> Result<bool, StoreError> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(std::fs::TryLockError::WouldBlock) => Ok(false),
        Err(std::fs::TryLockError::Error(error)) => Err(StoreError::io("lock", path.display())(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_groups_end_on_pages_and_leave_a_row() {
        let cases = [
            ((ROW_GROUP_ROWS, 0), None),
            ((ROW_GROUP_ROWS + 1, 0), Some(ROW_GROUP_ROWS)),
            ((PAGE_ROWS, ROW_GROUP_BYTES + 1), None),
            ((PAGE_ROWS + 1, ROW_GROUP_BYTES), None),
            ((PAGE_ROWS + 1, ROW_GROUP_BYTES + 1), Some(PAGE_ROWS)),
            ((3 * PAGE_ROWS, ROW_GROUP_BYTES + 1), Some(2 * PAGE_ROWS)),
        ];
        for ((rows, bytes), expected) in cases {
            assert_eq!(full_row_group(rows, bytes), expected, "{rows} rows, {bytes} bytes");
        }
    }
}
