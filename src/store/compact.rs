//! Compaction: neighbouring small or much superseded segments become one, in the same order, with the same `added`.
//!
//! Rows superseded longer ago than the history goes are dropped for good; younger ones stay, still marked. Deleted rows go at once.
//! Readers of older versions keep their files until those versions expire. Segments of edges that wait become one, without those
//! that wait no longer.
//!
//! Writing the new segments takes no lock: others commit meanwhile, and what they did to the rows is carried over when the new segments
//! take the place of the old ones.
//!
//! A store that is written in many small commits does not wait for that: after each, [`merge_tail`] makes one of the newest segments
//! where they are many and small, as a counter carries. So the number of segments stays logarithmic in that of the rows, and a row is
//! written again a few times at most. A server has larger ones carried in the background by the same rule ([`Extent::Needed`]).

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::TimestampMicrosecondType;
use roaring::RoaringBitmap;

use super::error::StoreError;
use super::fs::Storage;
use super::manifest::Manifest;
use super::segment::{self, ROW_GROUP_BYTES, SegmentWriter, added_of};
use super::snapshot::{SegmentView, Snapshot, write_superseded};
use super::{SegmentMeta, Store, commit, gc};
use crate::model::schema;
use crate::model::time::MICROS_PER_SECOND;

/// What to compact.
#[derive(Debug, Clone)]
pub struct CompactOptions {
    /// Segments of at least this many rows are left alone, unless much of them is superseded.
    pub target_rows: u64,
    /// How much is written again.
    pub extent: Extent,
    /// Keep superseded rows younger than this; `None`: as the store is configured.
    pub history_s: Option<u64>,
}

/// How much is written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Where eight segments of a size have come together, and where a fifth of the rows can go: what a server does by itself, again and
    /// again, without ever writing a row more than a few times.
    Needed,
    /// Whatever can become fewer segments.
    Possible,
    /// Every segment.
    All,
}

impl Default for CompactOptions {
    fn default() -> Self {
        CompactOptions { target_rows: 4_000_000, extent: Extent::Possible, history_s: None }
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
    let _alone = commit::lock_compaction(store)?;
    prepare(store, options)?.publish(store)
}

/// Whether a compaction of [`Extent::Needed`] has something to do, as far as numbers of rows tell. `thorough` asks for superseded rows
/// as well, of which only [`compact`] itself finds out whether they are old enough to go.
pub(crate) fn is_needed(snapshot: &Snapshot, thorough: bool) -> bool {
    let views = snapshot.segments();
    let can_drop = |view: &SegmentView| !view.deleted.is_empty() || is_much(view.superseded.len(), view);
    tail_start(&classes(views, HEAVY_BEHIND)).is_some() || (thorough && views.iter().any(can_drop))
}

/// New segments, complete but in no version of the store yet.
pub(crate) struct Prepared {
    drafts: Vec<Draft>,
    report: CompactReport,
}

/// Writes what `options` ask for again. Nothing of it counts before [`Prepared::publish`]; whoever calls this holds the lock of compaction,
/// which keeps others from removing files that no version names.
pub(crate) fn prepare(store: &Store, options: &CompactOptions) -> Result<Prepared, StoreError> {
    let snapshot = store.reload()?;
    let history_s = options.history_s.unwrap_or(store.options().history_s);
    let horizon = store.now().0.saturating_sub((history_s as i64).saturating_mul(MICROS_PER_SECOND));
    let mut prepared = Prepared { drafts: Vec::new(), report: CompactReport::default() };
    for group in plan(&snapshot, options, horizon)? {
        let views = snapshot.segments().get(group).unwrap_or_default();
        prepared
            .drafts
            .push(Draft::write(store.storage(), views, |view| expired_rows(&snapshot, view, horizon).map(Arc::new))?);
    }
    // Before anybody has to wait for it.
    store.storage().settle()?;
    Ok(prepared)
}

impl Prepared {
    /// Puts the new segments where the old ones were, and makes one of those of edges that wait.
    pub(crate) fn publish(self, store: &Store) -> Result<CompactReport, StoreError> {
        let Prepared { drafts, mut report } = self;
        let _lock = commit::lock(store)?;
        let snapshot = store.reload()?;
        let storage = Arc::clone(store.storage());
        let mut manifest = snapshot.manifest().successor(store.now());
        report.segments_before = manifest.segments.len();
        let mut changed = false;
        for draft in drafts {
            changed |= draft.stand_in(&*storage, &snapshot, &mut manifest, &mut report)?;
        }
        let waiting = snapshot.waiting();
        if waiting.len() > 1 || waiting.iter().any(|view| !view.superseded.is_empty()) {
            // Edges that no longer wait have no history.
            let mut rewriter = Rewriter::new(&storage, true);
            for view in waiting {
                rewriter.add(view, &view.superseded)?;
            }
            manifest.waiting = rewriter.finish()?.written;
            changed = true;
        }
        report.segments_after = manifest.segments.len();
        if changed {
            let snapshot = store.publish(manifest)?;
            gc::collect(store, &snapshot)?;
        }
        Ok(report)
    }
}

/// Segments that are to stand for others.
struct Draft {
    /// The ids of these, with the rows that are left out.
    replaced: Vec<(String, Arc<RoaringBitmap>)>,
    rewritten: Rewritten,
}

impl Draft {
    /// Writes neighbouring segments again as one (or as few as they fit into), without the rows that `gone` says.
    fn write(
        storage: &Arc<dyn Storage>,
        views: &[SegmentView],
        gone: impl Fn(&SegmentView) -> Result<Arc<RoaringBitmap>, StoreError>,
    ) -> Result<Self, StoreError> {
        let mut rewriter = Rewriter::new(storage, false);
        let mut replaced = Vec::with_capacity(views.len());
        for view in views {
            let gone = gone(view)?;
            rewriter.add(view, &gone)?;
            replaced.push((view.segment.id().to_owned(), gone));
        }
        Ok(Draft { replaced, rewritten: rewriter.finish()? })
    }

    /// Takes the place of the old segments, with what is superseded and deleted by now. Not when others wrote them again meanwhile, or
    /// when a row that was left out counts again, because newer versions of its record were deleted: then the files go, and the next
    /// compaction sees to it.
    fn stand_in(
        self,
        storage: &dyn Storage,
        newest: &Snapshot,
        manifest: &mut Manifest,
        report: &mut CompactReport,
    ) -> Result<bool, StoreError> {
        let Draft { replaced, rewritten: Rewritten { mut written, pieces } } = self;
        let views = newest.segments();
        let is_first = |id: &str| replaced.first().is_some_and(|(first, _)| first == id);
        let views = (views.iter().position(|view| is_first(view.segment.id())))
            .and_then(|start| views.get(start..start + replaced.len()))
            .filter(|views| {
                let same = |(view, (id, gone)): (&SegmentView, &(String, Arc<RoaringBitmap>))| {
                    view.segment.id() == id && gone.is_subset(&view.superseded)
                };
                views.iter().zip(&replaced).all(same)
            });
        let start = manifest.segments.iter().position(|meta| is_first(&meta.id));
        let (Some(views), Some(start)) = (views, start) else {
            for meta in &written {
                storage.delete(&segment::data_path(&meta.id))?;
                storage.delete(&segment::index_path(&meta.id))?;
            }
            return Ok(false);
        };
        let mut superseded = vec![RoaringBitmap::new(); written.len()];
        let mut deleted = superseded.clone();
        for Piece { from, rows, to, place } in &pieces {
            let Some(view) = views.get(*from) else { continue };
            for (marks, out) in [(&view.superseded, &mut superseded), (&view.deleted, &mut deleted)] {
                if let Some(out) = out.get_mut(*to).filter(|_| !marks.is_disjoint(rows)) {
                    let places = rows.iter().zip(*place..);
                    out.extend(places.filter(|(row, _)| marks.contains(*row)).map(|(_, place)| place));
                }
            }
        }
        for ((meta, superseded), deleted) in written.iter_mut().zip(superseded).zip(deleted) {
            report.rewritten += meta.rows;
            meta.superseded = write_superseded(storage, &meta.id, manifest.version, &superseded)?;
            meta.deleted = write_superseded(storage, &meta.id, manifest.version, &deleted)?;
        }
        report.dropped += replaced.iter().map(|(_, gone)| gone.len()).sum::<u64>();
        manifest.segments.splice(start..start + replaced.len(), written);
        Ok(true)
    }
}

/// So many segments of a size become one of the next.
const FANOUT: usize = 8;
/// Segments of this weight are left to [`compact`].
const HEAVY: u64 = 16_384;
/// Segments of this weight are left alone in the background: eight of the size below become one beyond it, and that is it.
const HEAVY_BEHIND: u64 = 262_144;

/// Makes one of the newest segments, when they are many and small. Costs next to nothing when they are not.
pub(crate) fn merge_tail(store: &Store) -> Result<CompactReport, StoreError> {
    let start_of = |snapshot: &Snapshot| tail_start(&classes(snapshot.segments(), HEAVY));
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
    let tail = snapshot.segments().get(start..).unwrap_or_default();
    let draft = Draft::write(store.storage(), tail, |view| Ok(Arc::clone(&view.deleted)))?;
    draft.stand_in(&**store.storage(), &snapshot, &mut manifest, &mut report)?;
    report.segments_after = manifest.segments.len();
    let snapshot = store.publish(manifest)?;
    gc::collect(store, &snapshot)?;
    Ok(report)
}

/// How large segments are, in steps of [`FANOUT`]; `None` for those that are left alone.
fn classes(views: &[SegmentView], heavy: u64) -> Vec<Option<u32>> {
    let class = |view: &SegmentView| {
        let meta = view.segment.meta();
        // Rows, or kilobytes where they are long.
        let weight = meta.rows.max(meta.bytes >> 10).max(1);
        (weight < heavy).then(|| weight.ilog(FANOUT as u64))
    };
    views.iter().map(class).collect()
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

/// Which neighbours are to be written again together.
fn plan(snapshot: &Snapshot, options: &CompactOptions, horizon: i64) -> Result<Vec<Range<usize>>, StoreError> {
    let views = snapshot.segments();
    let carried = match options.extent {
        Extent::Needed => tail_start(&classes(views, HEAVY_BEHIND)).unwrap_or(views.len()),
        Extent::Possible | Extent::All => 0,
    };
    let mut groups = Vec::new();
    let mut start = 0;
    while let Some(first) = views.get(start) {
        let mut end = start + 1;
        let mut rows = first.live_rows();
        while let Some(next) = views.get(end)
            && start >= carried
            && rows + next.live_rows() <= options.target_rows
        {
            rows += next.live_rows();
            end += 1;
        }
        // A single segment is rewritten only for what it would drop.
        if options.extent == Extent::All || end - start > 1 || drops_much(snapshot, first, horizon)? {
            groups.push(start..end);
        }
        start = end;
    }
    Ok(groups)
}

/// Whether a fifth of the segment would go, or anything that was deleted.
fn drops_much(snapshot: &Snapshot, view: &SegmentView, horizon: i64) -> Result<bool, StoreError> {
    if !view.deleted.is_empty() {
        return Ok(true);
    }
    // Counting what has expired means looking up every record; what is not even superseded has not.
    Ok(is_much(view.superseded.len(), view) && is_much(expired_rows(snapshot, view, horizon)?.len(), view))
}

fn is_much(rows: u64, view: &SegmentView) -> bool {
    rows * 5 > view.segment.meta().rows
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

/// Segments that were written, and where each of their rows comes from.
struct Rewritten {
    written: Vec<SegmentMeta>,
    pieces: Vec<Piece>,
}

/// Rows that stand behind each other in a new segment.
struct Piece {
    /// Which of the old segments they come from, and which rows of it they are.
    from: usize,
    rows: RoaringBitmap,
    /// Which of the new segments they are in, and where the first of them.
    to: usize,
    place: u32,
}

/// Writes the rows it is given into as few segments as it can.
struct Rewriter {
    storage: Arc<dyn Storage>,
    /// What the rows of the segment being written wait for; `None` in the log.
    ends: Option<Vec<(u64, u32)>>,
    /// The first `added` that a waiting row can have.
    next_added: i64,
    done: Vec<SegmentMeta>,
    pieces: Vec<Piece>,
    /// How many segments were added.
    added: usize,
    /// The segment being written, and how many rows it has with those that wait.
    writer: Option<SegmentWriter>,
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
            pieces: Vec::new(),
            added: 0,
            writer: None,
            rows: 0,
            pending: Vec::new(),
            pending_rows: 0,
            pending_bytes: 0,
        }
    }

    fn add(&mut self, view: &SegmentView, expired: &RoaringBitmap) -> Result<(), StoreError> {
        let from = self.added;
        self.added += 1;
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
            let to = self.done.len();
            match self.pieces.last_mut().filter(|piece| piece.from == from && piece.to == to) {
                Some(piece) => piece.rows.extend(&rows),
                None => {
                    let rows = RoaringBitmap::from_iter(&rows);
                    self.pieces.push(Piece { from, rows, to, place: self.rows });
                }
            }
            if let Some(ends) = &mut self.ends {
                for (row, place) in rows.iter().zip(self.rows..) {
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
        if let (Some(writer), Some(ends)) = (&mut self.writer, &mut self.ends) {
            writer.file_ends(std::mem::take(ends));
        }
        if let Some(meta) = self.writer.take().map(SegmentWriter::finish).transpose()?.flatten() {
            self.done.push(meta);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Rewritten, StoreError> {
        self.end_segment()?;
        Ok(Rewritten { written: self.done, pieces: self.pieces })
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
