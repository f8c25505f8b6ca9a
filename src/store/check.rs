//! `taxiway check`: every checksum, every order, every count, and that no record is live twice.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rayon::slice::ParallelSliceMut;

use super::Store;
use super::error::StoreError;
use super::manifest::Manifest;
use super::snapshot::Snapshot;

/// What a check went through, and what was wrong.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// Version checked.
    pub version: u64,
    /// Segments checked.
    pub segments: usize,
    /// Rows, superseded ones included, but neither deleted ones nor the store's own definitions.
    pub rows: u64,
    /// Those that are the newest version of their record.
    pub live_rows: u64,
    /// Edges that wait for an end.
    pub waiting: u64,
    /// Bytes of segments and indexes.
    pub bytes: u64,
    /// Rows by STIX type.
    pub types: BTreeMap<String, u64>,
    /// What is wrong; each names its file. Empty: all is well.
    pub problems: Vec<StoreError>,
}

pub(crate) fn check(store: &Store, mut progress: impl FnMut(&str)) -> Result<CheckReport, StoreError> {
    let snapshot = opened(store)?;
    let mut report = CheckReport {
        version: snapshot.version(),
        live_rows: snapshot.live_rows(),
        waiting: snapshot.waiting_rows(),
        ..CheckReport::default()
    };
    let mut previous_last = i64::MIN;
    for view in snapshot.segments() {
        let meta = view.segment.meta();
        progress(&view.segment.describe());
        report.segments += 1;
        report.rows += view.record_rows();
        report.bytes += meta.bytes + meta.index_bytes;
        match view.types() {
            Ok(types) => {
                types.into_iter().for_each(|(name, count)| *report.types.entry(name).or_default() += count);
            }
            Err(problem) => report.problems.push(problem),
        }
        if !view.deleted.is_subset(&view.superseded) {
            let detail = "rows of it are deleted and live at once";
            report.problems.push(StoreError::damaged(view.segment.describe(), detail));
        }
        if meta.first_added <= previous_last {
            report
                .problems
                .push(StoreError::damaged(view.segment.describe(), "its rows begin before the segment before it ends"));
        }
        previous_last = meta.last_added;
        if let Err(problem) = view.segment.verify(false) {
            report.problems.push(problem);
        }
    }
    for view in snapshot.waiting() {
        progress(&view.segment.describe());
        report.bytes += view.segment.meta().bytes + view.segment.meta().index_bytes;
        if let Err(problem) = view.segment.verify(true) {
            report.problems.push(problem);
        }
    }
    if previous_last > snapshot.manifest().clock {
        report.problems.push(StoreError::damaged(store.location(), "its clock is behind its rows"));
    }
    if report.problems.is_empty() {
        report.problems.extend(find_doubles(store, &snapshot)?);
        // Stores of the first schema hold edges as they came.
        if store.properties().schema > 1 {
            report.problems.extend(find_loose_edges(store, &snapshot)?);
        }
    }
    Ok(report)
}

/// The newest version, with its files open: those of a version that is soon replaced may be gone before they are looked at.
fn opened(store: &Store) -> Result<Arc<Snapshot>, StoreError> {
    loop {
        let snapshot = store.reload()?;
        // The version may be at hand since long; its file is looked at all the same.
        let is_there = Manifest::load(&**store.storage(), snapshot.version())?.is_some() || snapshot.version() == 0;
        let views = snapshot.segments().iter().chain(snapshot.waiting());
        let damaged = views.map(|view| view.segment.file()).filter_map(Result::err).count() > 0;
        if is_there && (!damaged || Manifest::newest(&**store.storage())? == snapshot.version()) {
            return Ok(snapshot);
        }
    }
}

/// An edge before its ends would be served without them.
fn find_loose_edges(store: &Store, snapshot: &Snapshot) -> Result<Option<StoreError>, StoreError> {
    let mut loose = 0;
    for (position, view) in snapshot.segments().iter().enumerate().filter(|(_, view)| view.segment.has_edges()) {
        let mut filed: Vec<(u64, u32)> = match view.segment.file()?.index.end_count() {
            Some(_) => view.segment.file()?.index.ends()?.collect(),
            None => continue,
        };
        filed.retain(|(_, row)| !view.superseded.contains(*row));
        let mut keys: Vec<u64> = filed.iter().map(|(end, _)| *end).collect();
        keys.dedup();
        let mut first: HashMap<u64, (usize, u32)> = HashMap::with_capacity(keys.len());
        for (key, place) in snapshot.find_live_ids(&keys)? {
            let known = first.entry(key).or_insert(place);
            *known = place.min(*known);
        }
        let comes_first = |(end, row): &(u64, u32)| first.get(end).is_some_and(|end| *end < (position, *row));
        loose += filed.iter().filter(|filed| !comes_first(filed)).count();
    }
    Ok((loose > 0)
        .then(|| StoreError::damaged(store.location(), format!("{loose} ends do not come before their edge"))))
}

/// Two live rows of one identity would be a lost update. Key and digest alike means the same record for certain enough.
fn find_doubles(store: &Store, snapshot: &Snapshot) -> Result<Option<StoreError>, StoreError> {
    let mut live: Vec<(u64, u64)> = Vec::new();
    for view in snapshot.segments().iter().chain(snapshot.waiting()) {
        let file = view.segment.file()?;
        live.extend(
            file.index
                .entries()?
                .filter(|entry| !view.superseded.contains(entry.row))
                .map(|entry| (entry.key, entry.digest)),
        );
    }
    live.par_sort_unstable();
    let doubles = live.windows(2).filter(|pair| pair[0] == pair[1]).count();
    Ok((doubles > 0).then(|| StoreError::damaged(store.location(), format!("{doubles} records are live twice"))))
}
