//! The index over a version of the store: a part for each of its segments, and the filter over all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::iter::{IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;
use roaring::RoaringBitmap;

use crate::enrich::rows::{COLUMNS, Native, Rows};
use crate::enrich::table::{Gathered, Keys, PartKeys};
use crate::model::schema::column;
use crate::store::{Segment, SegmentView, Snapshot, StoreError, row_runs};

/// Rows decoded at a time.
const BATCH_ROWS: usize = 8_192;

/// What is known of one segment. Superseded rows are in it: which these are is the snapshot's to say, and a deletion
/// brings some of them back.
#[derive(Clone, Debug)]
struct Part {
    /// Its own number in this process: what is kept of its rows is kept under it.
    number: u64,
    segment: String,
    keys: Arc<PartKeys>,
}

/// All indicators of a version of the store.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) seed: u64,
    pub(crate) keys: Keys,
    /// As many as there are segments, in their order.
    parts: Vec<Part>,
}

impl Index {
    /// Reads what `before` does not know yet, on all cores of the calling pool.
    pub(crate) fn build(snapshot: Arc<Snapshot>, before: Option<&Index>, seed: u64) -> Result<Self, StoreError> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let mut parts = Vec::with_capacity(snapshot.segments().len());
        for SegmentView { segment, .. } in snapshot.segments() {
            let known = before.and_then(|before| before.parts.iter().find(|part| part.segment == segment.id()));
            parts.push(match known {
                Some(part) => part.clone(),
                None => Part {
                    number: NUMBERS.fetch_add(1, Ordering::Relaxed),
                    segment: segment.id().to_owned(),
                    keys: Arc::new(read(segment, seed)?),
                },
            });
        }
        let keys =
            Keys::new(parts.iter().map(|part| Arc::clone(&part.keys)).collect(), before.map(|before| &before.keys));
        Ok(Index { snapshot, seed, keys, parts })
    }

    /// Number of a part, under which its rows are kept.
    pub(crate) fn number(&self, part: u32) -> u64 {
        self.parts.get(part as usize).map_or(u64::MAX, |part| part.number)
    }

    pub(crate) fn has_part(&self, number: u64) -> bool {
        self.parts.iter().any(|part| part.number == number)
    }

    pub(crate) fn view(&self, part: u32) -> Option<&SegmentView> {
        self.snapshot.segments().get(part as usize)
    }

    /// Whether the row is the newest version of its record.
    pub(crate) fn is_live(&self, part: u32, row: u32) -> bool {
        self.view(part).is_some_and(|view| !view.superseded.contains(row))
    }
}

/// Reads the keys of a segment.
fn read(segment: &Segment, seed: u64) -> Result<PartKeys, StoreError> {
    let starts = segment.row_group_starts()?;
    let groups: Vec<std::ops::Range<u32>> = starts.windows(2).map(|pair| pair[0]..pair[1]).collect();
    let parts = groups.into_par_iter().map(|group| read_group(segment, &group, seed));
    let gathered = parts.try_reduce(
        || Gathered::new(seed),
        |mut all, part| {
            all.append(part);
            Ok(all)
        },
    )?;
    Ok(gathered.finish(|pairs| pairs.par_sort_unstable()))
}

fn read_group(segment: &Segment, group: &std::ops::Range<u32>, seed: u64) -> Result<Gathered, StoreError> {
    let mut gathered = Gathered::new(seed);
    let (mut at, mut scratch) = (group.start, Vec::new());
    let mut in_documents = RoaringBitmap::new();
    for batch in segment.read(std::slice::from_ref(group), &COLUMNS, BATCH_ROWS)? {
        let batch = batch?;
        let rows = Rows::bind(&batch);
        for row in 0..batch.num_rows() {
            let place = at + row as u32;
            if segment.meta().natives > 0 && rows.needs_document(row) {
                in_documents.insert(place);
            } else {
                rows.each(row, &Native::default(), &mut scratch, |found| {
                    found.value.with_key(|key| gathered.add(key, place));
                });
            }
        }
        at += batch.num_rows() as u32;
    }
    // Documents are long, and few rows need theirs.
    let columns = [&COLUMNS[..], &[column::DOCUMENT]].concat();
    let mut places = in_documents.iter();
    if in_documents.is_empty() {
        return Ok(gathered);
    }
    for batch in segment.read(&row_runs(&in_documents), &columns, BATCH_ROWS)? {
        let batch = batch?;
        let rows = Rows::bind(&batch);
        for (row, place) in (0..batch.num_rows()).zip(&mut places) {
            rows.each(row, &rows.native(row), &mut scratch, |found| {
                found.value.with_key(|key| gathered.add(key, place));
            });
        }
    }
    Ok(gathered)
}
