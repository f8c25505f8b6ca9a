//! What one reader sees: the segments of one version, with their superseded rows.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::Schema;
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use roaring::RoaringBitmap;
use twox_hash::XxHash3_64;

use super::error::StoreError;
use super::fs::Storage;
use super::index::{self, KeyEntry};
use super::manifest::{Manifest, SegmentMeta, SupersededMeta};
use super::segment::{Segment, count_names};
use crate::model::schema;
use crate::model::time::Timestamp;

/// One version of the store. It stays readable as long as somebody holds it, or for the configured time.
#[derive(Debug)]
pub struct Snapshot {
    manifest: Manifest,
    views: Vec<SegmentView>,
    waiting: Vec<SegmentView>,
}

/// A segment as of one version.
#[derive(Debug, Clone)]
pub struct SegmentView {
    /// The rows.
    pub segment: Arc<Segment>,
    /// Those of them that a later version replaced.
    pub superseded: Arc<RoaringBitmap>,
    /// Those of the superseded that were deleted: in no answer, not even as a former version.
    pub deleted: Arc<RoaringBitmap>,
}

/// A row found by its key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    /// Position in the sorted keys asked for.
    pub(crate) position: usize,
    /// Which segment of the snapshot: of the log, or behind those one that waits, as [`Snapshot::view`] counts them.
    pub(crate) segment: usize,
    pub(crate) row: u32,
    pub(crate) digest: u64,
    /// Whether it is the newest version of its record.
    pub(crate) live: bool,
    /// Whether it was deleted: then it is not even a former version.
    pub(crate) deleted: bool,
}

impl Snapshot {
    pub(crate) fn new(manifest: Manifest, views: Vec<SegmentView>, waiting: Vec<SegmentView>) -> Self {
        Snapshot { manifest, views, waiting }
    }

    /// Number of this version.
    pub fn version(&self) -> u64 {
        self.manifest.version
    }

    /// What was published.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The last `added` given up to this version.
    pub fn clock(&self) -> Timestamp {
        Timestamp(self.manifest.clock)
    }

    /// The segments, in the order of `added`.
    pub fn segments(&self) -> &[SegmentView] {
        &self.views
    }

    /// Records: rows that are the newest version of theirs, the store's own definitions not counted.
    pub fn live_rows(&self) -> u64 {
        self.views.iter().map(|view| view.live_rows() - view.live_definitions().count() as u64).sum()
    }

    /// Edges that wait for an end. They are in none of the [`segments`](Self::segments).
    pub fn waiting_rows(&self) -> u64 {
        self.waiting.iter().map(SegmentView::live_rows).sum()
    }

    /// The segments of edges that wait.
    pub(crate) fn waiting(&self) -> &[SegmentView] {
        &self.waiting
    }

    /// A segment by its number: those of the log, then those that wait.
    pub(crate) fn view(&self, segment: usize) -> Option<&SegmentView> {
        self.views.get(segment).or_else(|| self.waiting.get(segment.checked_sub(self.views.len())?))
    }

    /// Whether the log holds edges.
    pub(crate) fn has_edges(&self) -> bool {
        self.views.iter().any(|view| view.segment.has_edges())
    }

    /// The rows of a STIX id, oldest first, superseded ones included: candidates, since the index holds hashes.
    pub fn rows_of_id(&self, stix_id: &str) -> Result<Vec<(usize, u32)>, StoreError> {
        let key = index::id_key(stix_id);
        let mut rows = Vec::new();
        for (position, view) in self.views.iter().enumerate() {
            let mut found = view.segment.file()?.index.find_id(key)?;
            found.sort_unstable();
            rows.extend(found.into_iter().map(|row| (position, row)));
        }
        Ok(rows)
    }

    /// Candidate rows of the log for each of the sorted `keys`.
    pub(crate) fn find_keys(&self, keys: &[u64]) -> Result<Vec<Found>, StoreError> {
        find_keys(self.views.iter(), keys)
    }

    /// Candidate rows for each of the sorted `keys`, waiting ones as well.
    pub(crate) fn find_all_keys(&self, keys: &[u64]) -> Result<Vec<Found>, StoreError> {
        find_keys(self.views.iter().chain(&self.waiting), keys)
    }

    /// Live candidate rows of the log for the sorted `ids`, in no order.
    pub(crate) fn find_ids(&self, ids: &[u64]) -> Result<Vec<(usize, u32)>, StoreError> {
        Ok(self.find_live_ids(ids)?.into_iter().map(|(_, place)| place).collect())
    }

    /// The same, each with its id.
    pub(crate) fn find_live_ids(&self, ids: &[u64]) -> Result<Vec<(u64, (usize, u32))>, StoreError> {
        let mut all = Vec::new();
        for (segment, view) in self.views.iter().enumerate() {
            view.segment.file()?.index.find_ids(ids, |position, row| {
                if let Some(id) = ids.get(position).filter(|_| !view.superseded.contains(row)) {
                    all.push((*id, (segment, row)));
                }
            })?;
        }
        Ok(all)
    }

    /// Live candidate edges of the log for the sorted `ends`, by segment.
    pub(crate) fn find_edges(&self, ends: &[u64]) -> Result<Vec<(usize, RoaringBitmap)>, StoreError> {
        let mut all = Vec::new();
        for (segment, view) in self.views.iter().enumerate() {
            let mut rows = RoaringBitmap::new();
            view.segment.find_ends(ends, |_, row| {
                rows.insert(row);
            })?;
            rows -= &*view.superseded;
            if !rows.is_empty() {
                all.push((segment, rows));
            }
        }
        Ok(all)
    }

    /// Rows by segment number (see [`view`](Self::view)) and row, in the order asked for.
    pub(crate) fn read_rows(&self, wanted: &[(usize, u32)], columns: &[&str]) -> Result<RecordBatch, StoreError> {
        let mut by_segment: BTreeMap<usize, RoaringBitmap> = BTreeMap::new();
        for (segment, row) in wanted {
            by_segment.entry(*segment).or_default().insert(*row);
        }
        let mut batches = Vec::new();
        let mut place: HashMap<(usize, u32), u32> = HashMap::with_capacity(wanted.len());
        for (segment, rows) in by_segment {
            let Some(view) = self.view(segment) else { continue };
            for row in &rows {
                place.insert((segment, row), place.len() as u32);
            }
            for batch in view.segment.read(&runs(&rows), columns, 8_192)? {
                batches.push(batch?);
            }
        }
        let schema = schema::schema();
        let fields = schema.fields().iter().filter(|field| columns.contains(&field.name().as_str())).cloned();
        let all = concat_batches(&Arc::new(Schema::new(fields.collect::<Vec<_>>())), &batches)?;
        let indices = wanted.iter().map(|at| place.get(at).copied().unwrap_or_default());
        Ok(take_record_batch(&all, &UInt32Array::from_iter_values(indices))?)
    }
}

/// From so many look-ups on, segments are searched at the same time.
const MANY_LOOKUPS: usize = 16_384;

fn find_keys<'a>(views: impl Iterator<Item = &'a SegmentView>, keys: &[u64]) -> Result<Vec<Found>, StoreError> {
    let find = |(segment, view): (usize, &SegmentView)| -> Result<Vec<Found>, StoreError> {
        let mut all = Vec::new();
        view.segment.file()?.index.find_keys(keys, |position, KeyEntry { row, digest, .. }| {
            let (live, deleted) = (!view.superseded.contains(row), view.deleted.contains(row));
            all.push(Found { position, segment, row, digest, live, deleted });
        })?;
        Ok(all)
    };
    let views: Vec<(usize, &SegmentView)> = views.enumerate().collect();
    let found: Vec<Vec<Found>> = if views.len() > 1 && views.len() * keys.len() >= MANY_LOOKUPS {
        views.into_par_iter().with_max_len(1).map(find).collect::<Result<_, _>>()?
    } else {
        views.into_iter().map(find).collect::<Result<_, _>>()?
    };
    Ok(found.into_iter().flatten().collect())
}

/// A set of rows as ascending runs.
pub(crate) fn runs(rows: &RoaringBitmap) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for row in rows {
        match runs.last_mut() {
            Some(run) if run.end == row => run.end += 1,
            _ => runs.push(row..row + 1),
        }
    }
    runs
}

impl SegmentView {
    /// Rows of records, former versions included, but neither deleted ones nor the store's own definitions.
    pub fn record_rows(&self) -> u64 {
        let meta = self.segment.meta();
        (meta.rows - meta.definitions.len() as u64).saturating_sub(self.deleted.len())
    }

    /// Rows that are the newest version of their record. What was deleted is superseded as well.
    pub fn live_rows(&self) -> u64 {
        self.segment.meta().rows - self.superseded.len()
    }

    /// Rows by STIX type, superseded ones included but not those deleted; the empty name counts rows without one.
    pub fn types(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let mut types = self.segment.meta().types.clone();
        if self.deleted.is_empty() {
            return Ok(types);
        }
        let mut gone = BTreeMap::new();
        for batch in self.segment.read(&runs(&self.deleted), &[schema::column::STIX_TYPE], 8_192)? {
            count_names(&batch?, schema::column::STIX_TYPE, &mut gone);
        }
        for (name, count) in gone {
            if let Some(left) = types.get_mut(&name) {
                *left = left.saturating_sub(count);
            }
        }
        types.retain(|_, count| *count > 0);
        Ok(types)
    }

    /// Live rows that are definitions of the store's own.
    pub fn live_definitions(&self) -> impl Iterator<Item = u32> {
        self.segment.meta().definitions.iter().copied().filter(|row| !self.superseded.contains(*row))
    }

    /// The live rows of a range, as runs.
    pub fn live_ranges(&self, range: Range<u32>) -> Vec<Range<u32>> {
        let mut ranges = Vec::new();
        let mut at = range.start;
        if !self.superseded.is_empty() {
            for gone in self.superseded.range(range.clone()) {
                if gone > at {
                    ranges.push(at..gone);
                }
                at = gone + 1;
            }
        }
        if at < range.end {
            ranges.push(at..range.end);
        }
        ranges
    }
}

fn superseded_path(file: &str) -> String {
    format!("superseded/{file}")
}

/// Reads a segment's superseded rows.
pub(crate) fn load_superseded(storage: &dyn Storage, meta: &SegmentMeta) -> Result<Arc<RoaringBitmap>, StoreError> {
    load_rows(storage, meta, meta.superseded.as_ref())
}

/// Reads a segment's deleted rows.
pub(crate) fn load_deleted(storage: &dyn Storage, meta: &SegmentMeta) -> Result<Arc<RoaringBitmap>, StoreError> {
    load_rows(storage, meta, meta.deleted.as_ref())
}

fn load_rows(
    storage: &dyn Storage,
    meta: &SegmentMeta,
    rows: Option<&SupersededMeta>,
) -> Result<Arc<RoaringBitmap>, StoreError> {
    let Some(superseded) = rows else { return Ok(Arc::default()) };
    let path = superseded_path(&superseded.file);
    let described = storage.describe(&path);
    let bytes = storage.read(&path)?.ok_or_else(|| StoreError::damaged(&described, "the file is missing"))?;
    if format!("{:016x}", XxHash3_64::oneshot(&bytes)) != superseded.checksum {
        return Err(StoreError::damaged(described, "its checksum does not fit"));
    }
    let rows = RoaringBitmap::deserialize_from(&bytes[..]).map_err(|error| StoreError::damaged(&described, error))?;
    if rows.len() != superseded.rows || rows.max().is_some_and(|row| u64::from(row) >= meta.rows) {
        return Err(StoreError::damaged(described, "it does not fit its segment"));
    }
    Ok(Arc::new(rows))
}

/// Writes a segment's superseded rows, durably.
pub(crate) fn write_superseded(
    storage: &dyn Storage,
    id: &str,
    version: u64,
    rows: &RoaringBitmap,
) -> Result<Option<SupersededMeta>, StoreError> {
    if rows.is_empty() {
        return Ok(None);
    }
    let file = format!("{id}-{version}-{}.roar", uuid::Uuid::new_v4().simple());
    let path = superseded_path(&file);
    let mut bytes = Vec::with_capacity(rows.serialized_size());
    rows.serialize_into(&mut bytes).map_err(StoreError::io("encode", storage.describe(&path)))?;
    let mut sink = storage.create(&path)?;
    std::io::Write::write_all(&mut sink, &bytes).map_err(StoreError::io("write", storage.describe(&path)))?;
    sink.finish()?;
    let checksum = format!("{:016x}", XxHash3_64::oneshot(&bytes));
    Ok(Some(SupersededMeta { file, rows: rows.len(), bytes: bytes.len() as u64, checksum }))
}
