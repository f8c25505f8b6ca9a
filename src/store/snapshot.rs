//! What one reader sees: the segments of one version, with their superseded rows.

use std::ops::Range;
use std::sync::Arc;

use roaring::RoaringBitmap;
use twox_hash::XxHash3_64;

use super::error::StoreError;
use super::fs::Storage;
use super::index::{self, KeyEntry};
use super::manifest::{Manifest, SegmentMeta, SupersededMeta};
use super::segment::Segment;
use crate::model::time::Timestamp;

/// One version of the store. It stays readable as long as somebody holds it, or for the configured time.
#[derive(Debug)]
pub struct Snapshot {
    manifest: Manifest,
    views: Vec<SegmentView>,
}

/// A segment as of one version.
#[derive(Debug, Clone)]
pub struct SegmentView {
    /// The rows.
    pub segment: Arc<Segment>,
    /// Those of them that a later version replaced.
    pub superseded: Arc<RoaringBitmap>,
}

/// A row found by its key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    /// Position in the sorted keys asked for.
    pub(crate) position: usize,
    /// Which segment of the snapshot.
    pub(crate) segment: usize,
    pub(crate) row: u32,
    pub(crate) digest: u64,
    /// Whether it is the newest version of its record.
    pub(crate) live: bool,
}

impl Snapshot {
    pub(crate) fn new(manifest: Manifest, views: Vec<SegmentView>) -> Self {
        Snapshot { manifest, views }
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

    /// Rows that are the newest version of their record.
    pub fn live_rows(&self) -> u64 {
        self.views.iter().map(SegmentView::live_rows).sum()
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

    /// Live candidate rows for each of the sorted `ids` (see [`id_key`](super::id_key)): calls `found(position in ids, segment, row)`.
    pub(crate) fn find_ids(&self, ids: &[u64], mut found: impl FnMut(usize, usize, u32)) -> Result<(), StoreError> {
        for (segment, view) in self.views.iter().enumerate() {
            view.segment.file()?.index.find_ids(ids, |position, row| {
                if !view.superseded.contains(row) {
                    found(position, segment, row);
                }
            })?;
        }
        Ok(())
    }

    /// Candidate rows for each of the sorted `keys`.
    pub(crate) fn find_keys(&self, keys: &[u64]) -> Result<Vec<Found>, StoreError> {
        let mut all = Vec::new();
        for (segment, view) in self.views.iter().enumerate() {
            view.segment.file()?.index.find_keys(keys, |position, KeyEntry { row, digest, .. }| {
                all.push(Found { position, segment, row, digest, live: !view.superseded.contains(row) });
            })?;
        }
        Ok(all)
    }
}

impl SegmentView {
    /// Rows that are the newest version of their record.
    pub fn live_rows(&self) -> u64 {
        self.segment.meta().rows - self.superseded.len()
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
    let Some(superseded) = &meta.superseded else { return Ok(Arc::default()) };
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
