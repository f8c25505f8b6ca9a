//! Compaction: neighbouring small or much superseded segments become one, in the same order, with the same `added`.
//!
//! Rows superseded longer ago than the history goes are dropped for good; younger ones stay, still marked. Deleted rows go at once.
//! Readers of older versions keep their files until those versions expire. Segments of edges that wait become one, without those
//! that wait no longer.
//!
//! A store that is written in many small commits does not wait for that: after each, [`merge_tail`] makes one of the newest segments
//! where they are many and small, as a counter carries. So the number of segments stays logarithmic in that of the rows, and a row is
//! written again a few times at most.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::TimestampMicrosecondType;
use roaring::RoaringBitmap;

use super::error::StoreError;
use super::fs::Storage;
use super::segment::{ROW_GROUP_BYTES, SegmentWriter, added_of};
use super::snapshot::{SegmentView, Snapshot, write_superseded};
use super::{SegmentMeta, Store, commit, gc};
use crate::model::schema;
use crate::model::time::MICROS_PER_SECOND;

/// What to compact.
#[derive(Debug, Clone)]
pub struct CompactOptions {
    /// Segments of at least this many rows are left alone, unless much of them is superseded.
    pub target_rows: u64,
    /// Rewrite everything, whatever its size.
    pub all: bool,
    /// Keep superseded rows younger than this; `None`: as the store is configured.
    pub history_s: Option<u64>,
}

impl Default for CompactOptions {
    fn default() -> Self {
        CompactOptions { target_rows: 4_000_000, all: false, history_s: None }
    }
}

/// What compaction did.
#[derive(Debug, Default, Clone, Copy)]
pub struct CompactReport {
    /// Segments before.
    pub segments_before: usize,
    /// Segments after.
    pub segments_after: usize,
    /// Superseded and deleted rows dropped for good.
    pub dropped: u64,
    /// Rows rewritten.
    pub rewritten: u64,
}

pub(crate) fn compact(store: &Store, options: &CompactOptions) -> Result<CompactReport, StoreError> {
    let _lock = commit::lock(store)?;
    let snapshot = store.reload()?;
    let mut report = CompactReport { segments_before: snapshot.segments().len(), ..CompactReport::default() };
    let history_s = options.history_s.unwrap_or(store.options().history_s);
    let horizon = store.now().0.saturating_sub((history_s as i64).saturating_mul(MICROS_PER_SECOND));

    let mut manifest = snapshot.manifest().successor(store.now());
    manifest.segments.clear();
    let groups = plan(&snapshot, options, horizon)?;
    let waiting = snapshot.waiting();
    let waits_apart = waiting.len() > 1 || waiting.iter().any(|view| !view.superseded.is_empty());
    if groups.iter().all(|group| !group.rewrite) && !waits_apart {
        report.segments_after = report.segments_before;
        return Ok(report);
    }
    let storage = Arc::clone(store.storage());
    for group in groups {
        let views = &snapshot.segments()[group.segments.clone()];
        if !group.rewrite {
            manifest.segments.extend(views.iter().map(|view| view.segment.meta().clone()));
            continue;
        }
        let rewritten = rewrite(&storage, views, manifest.version, &mut report, |view| {
            expired_rows(&snapshot, view, horizon).map(Arc::new)
        })?;
        manifest.segments.extend(rewritten);
    }
    if waits_apart {
        // Edges that no longer wait have no history.
        let mut rewriter = Rewriter::new(&storage, true);
        for view in waiting {
            rewriter.add(view, &view.superseded)?;
        }
        manifest.waiting = rewriter.finish()?.into_iter().map(|(meta, _)| meta).collect();
    }
    report.segments_after = manifest.segments.len();
    let snapshot = store.publish(manifest)?;
    gc::collect(store, &snapshot)?;
    Ok(report)
}

/// So many segments of a size become one of the next.
const FANOUT: usize = 8;
/// Segments of this weight are left to [`compact`].
const HEAVY: u64 = 16_384;

/// Makes one of the newest segments, when they are many and small. Costs next to nothing when they are not.
pub(crate) fn merge_tail(store: &Store) -> Result<CompactReport, StoreError> {
    let start_of = |snapshot: &Snapshot| tail_start(&snapshot.segments().iter().map(size_class).collect::<Vec<_>>());
    let idle = |snapshot: &Snapshot| {
        let segments = snapshot.segments().len();
        CompactReport { segments_before: segments, segments_after: segments, ..CompactReport::default() }
    };
    let current = store.snapshot()?;
    if start_of(&current).is_none() {
        return Ok(idle(&current));
    }
    let _lock = commit::lock(store)?;
    let snapshot = store.reload()?;
    let mut report = idle(&snapshot);
    let Some(start) = start_of(&snapshot) else { return Ok(report) };
    let mut manifest = snapshot.manifest().successor(store.now());
    manifest.segments.truncate(start);
    let tail = snapshot.segments().get(start..).unwrap_or_default();
    let rewritten =
        rewrite(store.storage(), tail, manifest.version, &mut report, |view| Ok(Arc::clone(&view.deleted)))?;
    manifest.segments.extend(rewritten);
    report.segments_after = manifest.segments.len();
    let snapshot = store.publish(manifest)?;
    gc::collect(store, &snapshot)?;
    Ok(report)
}

/// How large a segment is, in steps of [`FANOUT`]; `None` for those that are left alone.
fn size_class(view: &SegmentView) -> Option<u32> {
    let meta = view.segment.meta();
    // Rows, or kilobytes where they are long.
    let weight = meta.rows.max(meta.bytes >> 10).max(1);
    (weight < HEAVY).then(|| weight.ilog(FANOUT as u64))
}

/// From which segment on they should become one: where [`FANOUT`] of one size have come together, with the smaller ones behind and
/// between them, or where a smaller one stands before a larger one. What is left has sizes that fall, less than [`FANOUT`] of each.
fn tail_start(classes: &[Option<u32>]) -> Option<usize> {
    let mut start = None;
    let (mut largest, mut alike) = (0, 0);
    for (position, class) in classes.iter().enumerate().rev() {
        let Some(class) = *class else { break };
        let behind = position + 1 < classes.len();
        if behind && class < largest {
            start = Some(position);
            continue;
        }
        alike = if behind && class == largest { alike + 1 } else { 1 };
        largest = class;
        if alike >= FANOUT {
            start = Some(position);
        }
    }
    start
}

/// Writes segments again as one (or as few as they fit into), without the rows that `gone` says.
fn rewrite(
    storage: &Arc<dyn Storage>,
    views: &[SegmentView],
    version: u64,
    report: &mut CompactReport,
    gone: impl Fn(&SegmentView) -> Result<Arc<RoaringBitmap>, StoreError>,
) -> Result<Vec<SegmentMeta>, StoreError> {
    let mut rewriter = Rewriter::new(storage, false);
    for view in views {
        let gone = gone(view)?;
        report.dropped += gone.len();
        rewriter.add(view, &gone)?;
    }
    let mut written = Vec::new();
    for (mut meta, superseded) in rewriter.finish()? {
        report.rewritten += meta.rows;
        meta.superseded = write_superseded(&**storage, &meta.id, version, &superseded)?;
        written.push(meta);
    }
    Ok(written)
}

struct Group {
    segments: Range<usize>,
    rewrite: bool,
}

/// Runs of neighbours that together stay within the target; a single segment is rewritten only for what it would drop.
fn plan(snapshot: &Snapshot, options: &CompactOptions, horizon: i64) -> Result<Vec<Group>, StoreError> {
    let views = snapshot.segments();
    let mut groups = Vec::new();
    let mut start = 0;
    while start < views.len() {
        let mut end = start + 1;
        let mut rows = views[start].live_rows();
        while end < views.len() && rows + views[end].live_rows() <= options.target_rows {
            rows += views[end].live_rows();
            end += 1;
        }
        let rewrite = options.all || end - start > 1 || drops_much(snapshot, &views[start], horizon)?;
        groups.push(Group { segments: start..end, rewrite });
        start = end;
    }
    Ok(groups)
}

/// Whether a fifth of the segment would go, or anything that was deleted.
fn drops_much(snapshot: &Snapshot, view: &SegmentView, horizon: i64) -> Result<bool, StoreError> {
    if !view.deleted.is_empty() {
        return Ok(true);
    }
    let much = |rows: u64| rows * 5 > view.segment.meta().rows;
    // Counting what has expired means looking up every record; what is not even superseded has not.
    Ok(much(view.superseded.len()) && much(expired_rows(snapshot, view, horizon)?.len()))
}

/// Deleted rows, and superseded ones whose successor came before the horizon.
fn expired_rows(snapshot: &Snapshot, view: &SegmentView, horizon: i64) -> Result<RoaringBitmap, StoreError> {
    let mut expired = RoaringBitmap::clone(&view.deleted);
    let former = &*view.superseded - &*view.deleted;
    if former.is_empty() {
        return Ok(expired);
    }
    let entries: Vec<_> = view.segment.file()?.index.entries()?.filter(|entry| former.contains(entry.row)).collect();
    let mut keys: Vec<u64> = entries.iter().map(|entry| entry.key).collect();
    keys.dedup();
    // The newest version of each record tells when the older ones were replaced at the latest; that errs towards keeping.
    let mut replaced_at = vec![i64::MIN; keys.len()];
    for found in snapshot.find_all_keys(&keys)?.into_iter().filter(|found| found.live) {
        let Some(by) = snapshot.view(found.segment) else { continue };
        let added = by.segment.added(found.row)?.0;
        replaced_at[found.position] = replaced_at[found.position].max(added);
    }
    for entry in entries {
        if let Ok(position) = keys.binary_search(&entry.key)
            && replaced_at[position].max(view.segment.added(entry.row)?.0) < horizon
        {
            expired.insert(entry.row);
        }
    }
    Ok(expired)
}

/// Writes the rows it is given into as few segments as it can.
struct Rewriter {
    storage: Arc<dyn Storage>,
    /// What the rows of the segment being written wait for; `None` in the log.
    ends: Option<Vec<(u64, u32)>>,
    /// The first `added` that a waiting row can have.
    next_added: i64,
    done: Vec<(SegmentMeta, RoaringBitmap)>,
    /// The segment being written, its superseded rows, and how many rows it has with those that wait.
    writer: Option<SegmentWriter>,
    superseded: RoaringBitmap,
    rows: u32,
    pending: Vec<(RecordBatch, Vec<u64>, Vec<u64>)>,
    pending_rows: usize,
    pending_bytes: usize,
}

impl Rewriter {
    fn new(storage: &Arc<dyn Storage>, waiting: bool) -> Self {
        Rewriter {
            storage: Arc::clone(storage),
            ends: waiting.then(Vec::new),
            next_added: i64::MIN,
            done: Vec::new(),
            writer: None,
            superseded: RoaringBitmap::new(),
            rows: 0,
            pending: Vec::new(),
            pending_rows: 0,
            pending_bytes: 0,
        }
    }

    fn add(&mut self, view: &SegmentView, expired: &RoaringBitmap) -> Result<(), StoreError> {
        let rows = view.segment.rows();
        let mut keys = vec![(0, 0); rows as usize];
        for entry in view.segment.file()?.index.entries()? {
            if let Some(slot) = keys.get_mut(entry.row as usize) {
                *slot = (entry.key, entry.digest);
            }
        }
        let kept = SegmentView { superseded: Arc::new(expired.clone()), ..view.clone() }.live_ranges(0..rows);
        let schema = schema::schema();
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let mut kept_rows = kept.iter().cloned().flatten();
        let mut filed: Vec<(u32, u64)> = match self.ends {
            Some(_) => view.segment.file()?.index.ends()?.map(|(end, row)| (row, end)).collect(),
            None => Vec::new(),
        };
        filed.sort_unstable();
        for batch in view.segment.read(&kept, &names, 8_192)? {
            let batch = self.in_order(batch?)?;
            if self.pending_bytes > 2 * ROW_GROUP_BYTES {
                // Rows so long that not even a page of them can wait.
                self.end_segment()?;
            }
            let rows: Vec<u32> = kept_rows.by_ref().take(batch.num_rows()).collect();
            for (offset, row) in rows.iter().enumerate() {
                let place = self.rows + offset as u32;
                if view.superseded.contains(*row) {
                    self.superseded.insert(place);
                }
                if let Some(ends) = &mut self.ends {
                    let first = filed.partition_point(|(filed, _)| filed < row);
                    let own = filed.iter().skip(first).take_while(|(filed, _)| filed == row);
                    ends.extend(own.map(|(_, end)| (*end, place)));
                }
            }
            self.rows += batch.num_rows() as u32;
            self.pending_rows += batch.num_rows();
            self.pending_bytes += commit::bytes_of(&batch);
            let of = |row: &u32| keys.get(*row as usize).copied().unwrap_or_default();
            self.pending.push((
                batch,
                rows.iter().map(|row| of(row).0).collect(),
                rows.iter().map(|row| of(row).1).collect(),
            ));
            while let Some(rows) = commit::full_row_group(self.pending_rows, self.pending_bytes) {
                self.write(rows)?;
            }
        }
        Ok(())
    }

    /// The log is in order. Waiting segments, each by itself in order, may overlap; theirs are no dates of the log.
    fn in_order(&mut self, batch: RecordBatch) -> Result<RecordBatch, StoreError> {
        if self.ends.is_none() {
            return Ok(batch);
        }
        let added = batch.column(0).as_primitive::<TimestampMicrosecondType>().values().iter().map(|added| {
            let at = self.next_added.max(*added);
            self.next_added = at + 1;
            at
        });
        let added = added_of(added.collect());
        let mut columns = batch.columns().to_vec();
        columns[0] = Arc::new(added);
        Ok(RecordBatch::try_new(batch.schema(), columns)?)
    }

    fn write(&mut self, rows: usize) -> Result<(), StoreError> {
        let batch = concat_batches(&schema::schema(), self.pending.iter().map(|(batch, _, _)| batch))?;
        let keys: Vec<u64> = self.pending.iter().flat_map(|(_, keys, _)| keys.iter().copied()).collect();
        let digests: Vec<u64> = self.pending.iter().flat_map(|(_, _, digests)| digests.iter().copied()).collect();
        self.pending.clear();
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none if self.ends.is_some() => none.insert(SegmentWriter::create_waiting(&self.storage, rows)?),
            none => none.insert(SegmentWriter::create(&self.storage, rows)?),
        };
        writer.write_row_group(&batch.slice(0, rows), &keys[..rows], &digests[..rows])?;
        self.pending_rows = batch.num_rows() - rows;
        let rest = batch.slice(rows, self.pending_rows);
        self.pending_bytes = commit::bytes_of(&rest);
        if self.pending_rows > 0 {
            self.pending.push((rest, keys[rows..].to_vec(), digests[rows..].to_vec()));
        }
        Ok(())
    }

    fn end_segment(&mut self) -> Result<(), StoreError> {
        if self.pending_rows > 0 {
            self.write(self.pending_rows)?;
        }
        self.rows = 0;
        let superseded = std::mem::take(&mut self.superseded);
        if let (Some(writer), Some(ends)) = (&mut self.writer, &mut self.ends) {
            writer.file_ends(std::mem::take(ends));
        }
        if let Some(meta) = self.writer.take().map(SegmentWriter::finish).transpose()?.flatten() {
            self.done.push((meta, superseded));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<(SegmentMeta, RoaringBitmap)>, StoreError> {
        self.end_segment()?;
        Ok(self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_tail_carries_like_a_counter() {
        let of =
            |text: &str| text.bytes().map(|class| (class != b'-').then(|| u32::from(class - b'0'))).collect::<Vec<_>>();
        let cases: [(&str, Option<usize>); 11] = [
            ("", None),
            ("1", None),
            ("1111111", None),
            ("11111111", Some(0)),
            ("2221111111", None),
            ("22211111111", Some(3)),
            ("222222221111", Some(0)),
            ("-11111111", Some(1)),
            ("11111111-1", None),
            ("3113", Some(1)),
            ("31131", Some(1)),
        ];
        for (classes, expected) in cases {
            assert_eq!(tail_start(&of(classes)), expected, "{classes}");
        }
    }

    proptest! {
        /// Whatever sizes come: few segments, and no row is written again often.
        #[test]
        fn few_segments_and_little_work(weights in proptest::collection::vec(prop_oneof![8 => 1u64..3, 2 => 1u64..100, 1 => 1u64..5_000], 1..600)) {
            let class = |weight: &u64| (*weight < HEAVY).then(|| weight.ilog(FANOUT as u64));
            let mut segments: Vec<u64> = Vec::new();
            let mut work = 0;
            for weight in &weights {
                segments.push(*weight);
                if let Some(start) = tail_start(&segments.iter().map(class).collect::<Vec<_>>()) {
                    let sum = segments.split_off(start).iter().sum();
                    work += sum;
                    segments.push(sum);
                }
                let small = segments.iter().filter(|weight| **weight < HEAVY).count();
                // One that became too large to be looked at may have small ones before it.
                let large = segments.len() - small;
                prop_assert!(small <= (FANOUT - 1) * 5 * (large + 1), "{segments:?}");
            }
            let rows: u64 = weights.iter().sum();
            prop_assert!(work <= rows * 12, "{work} for {rows}");
        }
    }
}
