//! Writing: one commit is one new segment, the rows it supersedes, and the next manifest.
//!
//! The clock (`added`): every row gets its own microsecond, later than any given before, over restarts and clock steps. Large
//! commits end on a whole second that is not in the future, so that a client that stores whole seconds repeats nothing; to have room for
//! that they begin about a second in the past, which no reader notices, since the order is that of commits. A commit never pushes
//! the clock ahead of real time by more than a second: it waits.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use roaring::RoaringBitmap;

use super::error::StoreError;
use super::segment::{PAGE_ROWS, ROW_GROUP_BYTES, ROW_GROUP_ROWS, SEGMENT_ROWS, SegmentWriter, added_column};
use super::snapshot::{Snapshot, write_superseded};
use super::{Store, gc};
use crate::model::schema;
use crate::model::time::{MICROS_PER_SECOND, Timestamp};

/// From this many rows on, a commit ends on a whole second.
const LARGE_COMMIT_ROWS: usize = 10_000;
/// How long a writer waits for another one.
const LOCK_WAIT: Duration = Duration::from_secs(120);

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

/// The right to write, held until published or dropped.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    snapshot: Arc<Snapshot>,
    _lock: Lock,
    began: Instant,
    clock_at_start: i64,
    segment: Option<SegmentWriter>,
    pending: Vec<NewRows>,
    pending_rows: usize,
    pending_bytes: usize,
    rows: usize,
    next_added: i64,
    superseded: BTreeMap<usize, RoaringBitmap>,
    born_superseded: RoaringBitmap,
}

impl std::fmt::Debug for SegmentWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SegmentWriter({} rows)", self.rows())
    }
}

impl Writer {
    pub(crate) fn begin(store: &Store) -> Result<Self, StoreError> {
        let lock = lock(store)?;
        let snapshot = store.reload()?;
        let clock_at_start = snapshot.manifest().clock.max(store.now().0);
        Ok(Writer {
            store: store.clone(),
            next_added: 0,
            snapshot,
            _lock: lock,
            began: Instant::now(),
            clock_at_start,
            segment: None,
            pending: Vec::new(),
            pending_rows: 0,
            pending_bytes: 0,
            rows: 0,
            superseded: BTreeMap::new(),
            born_superseded: RoaringBitmap::new(),
        })
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
        let fits = self.rows + rows <= SEGMENT_ROWS && self.pending_bytes + bytes <= 2 * ROW_GROUP_BYTES;
        self.rows == 0 || fits
    }

    /// Appends rows. `stale` names those of them (by position) that are born superseded: older versions that arrive late.
    pub fn append(&mut self, rows: NewRows, stale: &[u32]) -> Result<(), StoreError> {
        let count = rows.batch.num_rows();
        if count == 0 {
            return Ok(());
        }
        if self.rows == 0 {
            let clock = self.snapshot.manifest().clock;
            let now = self.store.now();
            let start = if count >= LARGE_COMMIT_ROWS { now.floor_second().0 - SEGMENT_ROWS as i64 } else { now.0 };
            self.next_added = start.max(clock + 1);
        }
        self.born_superseded.extend(stale.iter().map(|row| self.rows as u32 + row));
        self.rows += count;
        self.pending_rows += count;
        self.pending_bytes += bytes_of(&rows.batch);
        self.pending.push(rows);
        // The last rows wait for `publish`, which decides their `added`.
        while let Some(rows) = full_row_group(self.pending_rows, self.pending_bytes) {
            self.write_row_group(rows, None)?;
        }
        Ok(())
    }

    /// Marks rows of the snapshot's segments as replaced by rows of this commit.
    pub fn supersede(&mut self, segment: usize, row: u32) {
        self.superseded.entry(segment).or_default().insert(row);
    }

    fn write_row_group(&mut self, rows: usize, last_added: Option<i64>) -> Result<(), StoreError> {
        let mut taken: Vec<NewRows> = Vec::new();
        let mut missing = rows;
        let mut rest = Vec::new();
        for part in self.pending.drain(..) {
            let here = part.batch.num_rows();
            if missing == 0 {
                rest.push(part);
            } else if here <= missing {
                missing -= here;
                taken.push(part);
            } else {
                let (head, tail) = split(part, missing);
                missing = 0;
                taken.push(head);
                rest.push(tail);
            }
        }
        self.pending = rest;
        self.pending_rows -= rows;
        self.pending_bytes = self.pending.iter().map(|part| bytes_of(&part.batch)).sum();
        let batch = match taken.as_slice() {
            [one] => one.batch.clone(),
            many => concat_batches(&schema::input_schema(), many.iter().map(|part| &part.batch))?,
        };
        let keys: Vec<u64> = taken.iter().flat_map(|part| part.keys.iter().copied()).collect();
        let digests: Vec<u64> = taken.iter().flat_map(|part| part.digests.iter().copied()).collect();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(added_column(self.next_added, rows, last_added))];
        columns.extend(batch.columns().iter().cloned());
        let batch = RecordBatch::try_new(schema::schema(), columns)?;
        self.next_added += rows as i64;
        let segment = match &mut self.segment {
            Some(segment) => segment,
            none => none.insert(SegmentWriter::create(self.store.storage())?),
        };
        segment.write_row_group(&batch, &keys, &digests)
    }

    /// Makes the commit durable and visible. Without rows nothing is published.
    pub fn publish(mut self) -> Result<Arc<Snapshot>, StoreError> {
        if self.rows == 0 && self.superseded.is_empty() {
            return Ok(Arc::clone(&self.snapshot));
        }
        let dense_last = self.next_added + self.pending_rows as i64 - 1;
        let last = if self.rows >= LARGE_COMMIT_ROWS { self.whole_second_from(dense_last) } else { dense_last };
        if self.pending_rows > 0 {
            self.write_row_group(self.pending_rows, Some(last))?;
        }
        let added = match self.segment.take() {
            Some(segment) => segment.finish()?,
            None => None,
        };
        self.wait_for_real_time(last);

        let mut manifest = self.snapshot.manifest().clone();
        manifest.version += 1;
        manifest.published = self.store.now().0;
        let storage = Arc::clone(self.store.storage());
        for (position, rows) in &self.superseded {
            let (Some(meta), Some(view)) =
                (manifest.segments.get_mut(*position), self.snapshot.segments().get(*position))
            else {
                continue;
            };
            let union = &*view.superseded | rows;
            meta.superseded = write_superseded(&*storage, &meta.id, manifest.version, &union)?;
        }
        if let Some(mut meta) = added {
            meta.superseded = write_superseded(&*storage, &meta.id, manifest.version, &self.born_superseded)?;
            manifest.clock = meta.last_added;
            manifest.segments.push(meta);
        }
        let snapshot = self.store.publish(manifest)?;
        gc::collect(&self.store, &snapshot)?;
        Ok(snapshot)
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

fn split(rows: NewRows, at: usize) -> (NewRows, NewRows) {
    let NewRows { batch, mut keys, mut digests } = rows;
    let tail = NewRows {
        batch: batch.slice(at, batch.num_rows() - at),
        keys: keys.split_off(at),
        digests: digests.split_off(at),
    };
    (NewRows { batch: batch.slice(0, at), keys, digests }, tail)
}

/// The process lock of a local store; an object store has none and relies on create-if-absent alone.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held for its drop, which releases the lock")] Option<File>);

/// Takes the lock, waiting for whoever holds it.
pub(super) fn lock(store: &Store) -> Result<Lock, StoreError> {
    let began = Instant::now();
    loop {
        match try_lock(store)? {
            Some(lock) => return Ok(lock),
            None if began.elapsed() < LOCK_WAIT => std::thread::sleep(Duration::from_millis(20)),
            None => {
                return Err(StoreError::Locked { path: store.location().to_owned(), waited_s: LOCK_WAIT.as_secs() });
            }
        }
    }
}

/// Takes the lock if nobody holds it.
pub(super) fn try_lock(store: &Store) -> Result<Option<Lock>, StoreError> {
    let Some(path) = store.storage().lock_path() else { return Ok(Some(Lock(None))) };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(StoreError::io("lock", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock(Some(file)))),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
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
