//! Edges find their ends.
//!
//! An edge takes its place in the log only behind both of its ends, so that no reader ever holds it without them: at the end
//! of each commit, when all other rows of it are written, the edges that came with it and those that waited are looked at again.
//! Where both ends are there, the edge is appended, with the ids of the rows that were found; else it waits (again), filed under what
//! it misses.
//!
//! Two things follow from that order. When an end changes, it comes again at the end of the log, and its edges come again behind it:
//! who resumes from a date between the two would else hold an edge before its end. And a report made from an indicator refers to
//! its edges and their other ends (spec/xsoar-taxii2-server.md §5.5), so it becomes a new version before an edge of its enters. What
//! edges add to a report is never kept apart: it is what its live edges say, and the rest is its own.

mod ends;
mod reports;
mod rows;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use roaring::RoaringBitmap;

pub(crate) use ends::awaited_ends;
use ends::{END_COLUMNS, Ends, Finder, nameless};
pub(crate) use reports::without_added;
use reports::{Added, ByReport, added_in, newer, note_added, references};
pub(crate) use rows::Rows;
use rows::{is_report, picked, set, sorted, text, uuid, where_named};

use crate::model::ids::{IdSpace, Uuid16, split_stix_id};
use crate::model::kind::StixType;
use crate::model::schema::{self, column as c, kind_value};
use crate::model::time::Timestamp;
use crate::store::{
    Dates, NewRows, SegmentView, Snapshot, StoreError, Writer, bytes_of, id_key, joined, row_runs, uuid_key,
};

/// Edges whose ends are looked up at a time.
const CHUNK_EDGES: usize = 32_768;
/// Reports that are completed at a time.
const CHUNK_REPORTS: usize = 1_024;

/// What of a commit is kept back until the rest of it is written.
#[derive(Debug, Default)]
pub(crate) struct Held {
    edges: Vec<NewRows>,
    /// Versions of edges that are older than what the store holds.
    stale: Vec<NewRows>,
    /// Reports made from indicators.
    reports: Vec<NewRows>,
    rows: usize,
    bytes: usize,
    replaced: Replaced,
}

/// Ids whose rows a commit replaces.
#[derive(Debug, Default)]
pub(crate) struct Replaced {
    uuids: HashSet<Uuid16>,
    /// Ids that are not of the usual form.
    texts: HashSet<String>,
    /// Reports that lose an edge, or a version of one.
    reports: BTreeSet<String>,
}

impl Replaced {
    /// Notes a row of the log that is being replaced.
    pub(crate) fn note(&mut self, row: &Rows<'_>, at: usize) {
        if row.kind.value(at) == kind_value::RELATIONSHIP {
            let refs = [row.source_ref, row.target_ref].into_iter().flatten().filter(|refs| refs.is_valid(at));
            self.reports.extend(refs.map(|refs| refs.value(at)).filter(|end| is_report(end)).map(str::to_owned));
            return;
        }
        let whole = text(row.stix_id, at).filter(|_| row.kind.value(at) == kind_value::OBJECT);
        if let Some(whole) = whole {
            self.texts.insert(whole.to_owned());
        } else {
            self.uuids.extend(uuid(Some(row.id), at));
        }
        self.uuids.extend(uuid(row.indicator_id, at));
    }

    pub(crate) fn extend(&mut self, other: Replaced) {
        self.uuids.extend(other.uuids);
        self.texts.extend(other.texts);
        self.reports.extend(other.reports);
    }

    fn is_empty(&self) -> bool {
        self.uuids.is_empty() && self.texts.is_empty() && self.reports.is_empty()
    }

    fn contains(&self, id: &str) -> bool {
        match split_stix_id(id) {
            Some((_, uuid)) => self.uuids.contains(&uuid),
            None => self.texts.contains(id),
        }
    }

    fn keys(&self) -> Vec<u64> {
        sorted(self.uuids.iter().map(uuid_key).chain(self.texts.iter().map(|id| id_key(id))))
    }
}

/// Rows, told apart by whether they must come last in their commit.
#[derive(Debug)]
pub(crate) struct Split {
    rest: NewRows,
    /// Positions in `rest`.
    stale: Vec<u32>,
    edges: Option<NewRows>,
    stale_edges: Option<NewRows>,
    reports: Option<NewRows>,
}

impl Split {
    /// Tells rows apart, of which those named in `stale` are older than what the store holds.
    pub(crate) fn of(rows: NewRows, stale: Vec<u32>) -> Result<Self, StoreError> {
        let is_edge = where_named(&rows.batch, c::KIND, kind_value::RELATIONSHIP);
        let is_report = where_named(&rows.batch, c::STIX_TYPE, StixType::Report.as_str())
            .zip(where_named(&rows.batch, c::KIND, kind_value::INDICATOR))
            .map(|(reports, indicators)| reports.iter().zip(indicators).map(|(a, b)| *a && b).collect::<Vec<bool>>());
        if is_edge.is_none() && is_report.is_none() {
            return Ok(Split { rest: rows, stale, edges: None, stale_edges: None, reports: None });
        }
        let count = rows.keys.len();
        let none = || vec![false; count];
        let (is_edge, is_report) = (is_edge.unwrap_or_else(none), is_report.unwrap_or_else(none));
        let mut is_stale = none();
        for row in &stale {
            if let Some(is_stale) = is_stale.get_mut(*row as usize) {
                *is_stale = true;
            }
        }
        let of = |wanted: &dyn Fn(usize) -> bool| picked(&rows, &(0..count).map(wanted).collect::<Vec<bool>>());
        let some = |wanted: &dyn Fn(usize) -> bool| match (0..count).any(wanted) {
            true => of(wanted).map(Some),
            false => Ok(None),
        };
        let left = (0..count).filter(|at| !is_edge[*at] && !is_report[*at]);
        Ok(Split {
            stale: left.enumerate().filter(|(_, at)| is_stale[*at]).map(|(place, _)| place as u32).collect(),
            edges: some(&|at| is_edge[at] && !is_stale[at])?,
            stale_edges: some(&|at| is_edge[at] && is_stale[at])?,
            reports: some(&|at| is_report[at])?,
            rest: of(&|at| !is_edge[at] && !is_report[at])?,
        })
    }
}

impl Held {
    /// Keeps back what must come last; gives back the rest, with those of its rows that are stale.
    pub(crate) fn hold(&mut self, split: Split) -> (NewRows, Vec<u32>) {
        let Split { rest, stale, edges, stale_edges, reports } = split;
        for (list, rows) in [(&mut self.edges, edges), (&mut self.stale, stale_edges), (&mut self.reports, reports)] {
            if let Some(rows) = rows {
                self.rows += rows.keys.len();
                self.bytes += bytes_of(&rows.batch);
                list.push(rows);
            }
        }
        (rest, stale)
    }

    /// Notes what the commit replaces.
    pub(crate) fn replaces(&mut self, replaced: Replaced) {
        self.replaced.extend(replaced);
    }

    /// How many rows are kept back, and how long they are.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.rows, self.bytes)
    }
}

/// Ends a commit: everything else was appended, and what was held takes its place, or waits for it.
pub(crate) fn link(
    writer: &mut Writer,
    held: Held,
    ids: &IdSpace,
    now: Timestamp,
    dates: Dates,
) -> Result<(), StoreError> {
    let base = Arc::clone(writer.snapshot());
    let Held { edges, stale, reports, replaced, .. } = held;
    let arrives = base.waiting_rows() > 0 && (writer.rows() > 0 || !reports.is_empty());
    let touched = base.has_edges() && !(replaced.is_empty() && reports.is_empty());
    if edges.is_empty() && stale.is_empty() && !arrives && !touched {
        return reports.into_iter().try_for_each(|rows| writer.append(rows, &[]));
    }
    let log = writer.seal()?;
    let reports = joined(&reports)?;
    let held = Ends::new(reports.batch.clone())?;
    let mut linker = Linker {
        writer,
        base: &base,
        log: &log,
        finder: Finder::new(&log, held, ids),
        entering: ByReport::new(),
        touched: replaced.reports.clone(),
        replaced,
    };
    let waiting = if arrives { linker.awaited(&reports)? } else { Vec::new() };
    let mut deferred = Vec::new();
    for rows in edges {
        deferred.extend(linker.place(&rows)?);
    }
    for rows in stale {
        linker.place_stale(&rows)?;
    }
    let mut deferred_waiting = Vec::new();
    for (segment, rows) in waiting {
        deferred_waiting.push((segment, linker.enter(segment, &rows, false)?));
    }
    linker.reports(&reports, now, dates)?;
    for rows in deferred {
        linker.writer.append(rows, &[])?;
    }
    for (segment, rows) in deferred_waiting {
        linker.enter(segment, &rows, true)?;
    }
    linker.follow()
}

struct Linker<'a> {
    writer: &'a mut Writer,
    /// The version before this commit.
    base: &'a Snapshot,
    /// The log with what this commit appended so far.
    log: &'a Snapshot,
    finder: Finder<'a>,
    /// What edges that enter add to reports.
    entering: ByReport,
    /// Reports that an edge enters at, or leaves.
    touched: BTreeSet<String>,
    replaced: Replaced,
}

impl Linker<'_> {
    /// Edges that wait for something this commit brings, by waiting segment.
    fn awaited(&self, reports: &NewRows) -> Result<Vec<(usize, RoaringBitmap)>, StoreError> {
        let rows = Rows::bind(&reports.batch)?;
        let ids = (0..reports.batch.num_rows()).filter_map(|at| uuid(Some(rows.id), at).as_ref().map(uuid_key));
        let mut keys: Vec<u64> = reports.keys.iter().copied().chain(ids).collect();
        for view in self.log.segments().get(self.base.segments().len()..).unwrap_or_default() {
            keys.extend(view.segment.file()?.index.all_keys()?);
        }
        keys.sort_unstable();
        keys.dedup();
        let mut awaited = Vec::new();
        for (segment, view) in self.log.waiting().iter().enumerate() {
            let mut rows = RoaringBitmap::new();
            view.segment.find_ends(&keys, |_, row| {
                rows.insert(row);
            })?;
            rows -= &*view.superseded;
            if !rows.is_empty() {
                awaited.push((segment, rows));
            }
        }
        Ok(awaited)
    }

    /// Appends the edges that have both ends, but gives back those at reports, which come first; the others wait.
    fn place(&mut self, edges: &NewRows) -> Result<Vec<NewRows>, StoreError> {
        let mut deferred = Vec::new();
        for start in (0..edges.keys.len()).step_by(CHUNK_EDGES) {
            let count = CHUNK_EDGES.min(edges.keys.len() - start);
            let rows = NewRows {
                batch: edges.batch.slice(start, count),
                keys: edges.keys[start..start + count].to_vec(),
                digests: edges.digests[start..start + count].to_vec(),
            };
            let filled = self.finder.fill(&rows.batch)?;
            let rows = NewRows { batch: filled.batch, ..rows };
            let waits: Vec<bool> = filled.complete.iter().map(|complete| !complete).collect();
            let mut place = 0;
            let places: Vec<u32> = waits
                .iter()
                .map(|waits| {
                    let at = place;
                    place += u32::from(*waits);
                    at
                })
                .collect();
            let ends = filled.missing.iter().filter_map(|(key, row)| Some((*key, *places.get(*row as usize)?)));
            if place > 0 {
                self.writer.append_waiting(picked(&rows, &waits)?, ends);
            }
            let goes = |first: bool| -> Vec<bool> {
                filled.complete.iter().zip(&filled.at_report).map(|(complete, at)| *complete && *at != first).collect()
            };
            self.writer.append(nameless(picked(&rows, &goes(true))?)?, &[])?;
            let later = nameless(picked(&rows, &goes(false))?)?;
            if !later.keys.is_empty() {
                self.note_entering(&later.batch)?;
                deferred.push(later);
            }
        }
        Ok(deferred)
    }

    /// Older versions of edges go into the history, as far as their ends are there.
    fn place_stale(&mut self, edges: &NewRows) -> Result<(), StoreError> {
        let filled = self.finder.fill(&edges.batch)?;
        let rows = NewRows { batch: filled.batch, keys: edges.keys.clone(), digests: edges.digests.clone() };
        let rows = nameless(picked(&rows, &filled.complete)?)?;
        let stale: Vec<u32> = (0..rows.keys.len() as u32).collect();
        self.writer.append(rows, &stale)
    }

    /// Appends those of the waiting edges that wait no longer, but gives back those at reports, unless `at_reports` are what is asked
    /// for.
    fn enter(&mut self, segment: usize, rows: &RoaringBitmap, at_reports: bool) -> Result<RoaringBitmap, StoreError> {
        let mut deferred = RoaringBitmap::new();
        let Some(view) = self.log.waiting().get(segment).cloned() else { return Ok(deferred) };
        // Before this commit appended a segment, those that wait were counted from here.
        let number = self.base.segments().len() + segment;
        for_each_batch(&view, rows, |batch, numbers| {
            let filled = self.finder.fill(&batch)?;
            let goes: Vec<bool> = filled
                .complete
                .iter()
                .zip(&filled.at_report)
                .map(|(complete, at)| *complete && *at == at_reports)
                .collect();
            let later: Vec<bool> =
                filled.complete.iter().zip(&goes).map(|(complete, goes)| *complete && !goes).collect();
            if !at_reports && later.contains(&true) {
                let batch = filter_record_batch(&filled.batch, &BooleanArray::from(later.clone()))?;
                self.note_entering(&batch)?;
                deferred.extend(numbers.iter().zip(&later).filter(|(_, later)| **later).map(|(row, _)| *row));
            }
            let numbers: Vec<u32> = numbers.iter().zip(&goes).filter(|(_, goes)| **goes).map(|(row, _)| *row).collect();
            let batch = filter_record_batch(&filled.batch, &BooleanArray::from(goes))?;
            let rows = stored(&view, batch, &numbers)?;
            numbers.iter().for_each(|row| self.writer.supersede(number, *row));
            self.writer.append(nameless(rows)?, &[])
        })?;
        Ok(deferred)
    }

    /// Notes what edges add to reports, and that these are touched.
    fn note_entering(&mut self, edges: &RecordBatch) -> Result<(), StoreError> {
        let rows = Rows::bind(edges)?;
        for at in 0..edges.num_rows() {
            let refs = [text(rows.source_ref, at), text(rows.target_ref, at)].into_iter().flatten();
            self.touched.extend(refs.filter(|id| is_report(id)).map(str::to_owned));
        }
        note_added(edges, |_| true, &mut self.entering)
    }

    /// What the edges of the log, with those that enter, add to reports.
    fn added(&self, reports: &BTreeSet<String>) -> Result<ByReport, StoreError> {
        let mut added = added_in(self.log, reports)?;
        for id in reports {
            if let Some(entering) = self.entering.get(id) {
                added.entry(id.clone()).or_default().extend(entering.iter().cloned());
            }
        }
        Ok(added)
    }

    /// Appends the reports of this commit, and new versions of those that edges enter at.
    fn reports(&mut self, held: &NewRows, now: Timestamp, dates: Dates) -> Result<(), StoreError> {
        let none: Vec<Added> = Vec::new();
        for start in (0..held.keys.len()).step_by(CHUNK_REPORTS) {
            let end = held.keys.len().min(start + CHUNK_REPORTS);
            let batch = held.batch.slice(start, end - start);
            let rows = Rows::bind(&batch)?;
            let ids: Vec<String> = (0..end - start).map(|at| rows.stix_id(at).unwrap_or_default()).collect();
            let added = self.added(&ids.iter().cloned().collect())?;
            // These have no references but their own yet.
            let refs = references(&batch, |at| Some((&[], added.get(&ids[at]).unwrap_or(&none))))?;
            drop(rows);
            let batch = refs.set(batch)?;
            let (keys, digests) = (held.keys[start..end].to_vec(), held.digests[start..end].to_vec());
            self.writer.append(NewRows { batch, keys, digests }, &[])?;
        }
        let touched: Vec<String> = std::mem::take(&mut self.touched).into_iter().collect();
        for ids in touched.chunks(CHUNK_REPORTS) {
            self.touch(&ids.iter().cloned().collect(), now, dates)?;
        }
        Ok(())
    }

    /// Appends new versions of the reports of these ids, as far as their references change.
    fn touch(&mut self, ids: &BTreeSet<String>, now: Timestamp, dates: Dates) -> Result<(), StoreError> {
        let mut places = self.log.find_ids(&sorted(ids.iter().map(|id| id_key(id))))?;
        places.sort_unstable();
        places.dedup();
        let narrow = self.log.read_rows(&places, &END_COLUMNS)?;
        let rows = Rows::bind(&narrow)?;
        let is_it = |at: usize| rows.is_report(at) && rows.stix_id(at).is_some_and(|id| ids.contains(&id));
        let places: Vec<(usize, u32)> =
            places.iter().enumerate().filter(|(at, _)| is_it(*at)).map(|(_, place)| *place).collect();
        if places.is_empty() {
            return Ok(());
        }
        let (was, is) = (added_in(self.base, ids)?, self.added(ids)?);
        let none: Vec<Added> = Vec::new();
        let batch = self.log.read_rows(&places, &input_columns())?;
        let rows = Rows::bind(&batch)?;
        let of_row: Vec<String> = (0..places.len()).map(|at| rows.stix_id(at).unwrap_or_default()).collect();
        let of = |by: &'_ ByReport, at: usize| by.get(&of_row[at]).unwrap_or(&none).clone();
        let pairs: Vec<(Vec<Added>, Vec<Added>)> = (0..places.len()).map(|at| (of(&was, at), of(&is, at))).collect();
        let refs = references(&batch, |at| Some((&pairs[at].0, &pairs[at].1)))?;
        let changed = refs.changed.clone();
        for (at, changed) in changed.iter().enumerate() {
            if *changed {
                self.replaced.note(&rows, at);
            }
        }
        drop(rows);
        let mut batch = refs.set(batch)?;
        let modified = newer(&batch, now, dates)?;
        set(&mut batch, c::MODIFIED, modified)?;
        let batch = filter_record_batch(&batch, &BooleanArray::from(changed.clone()))?;
        let places: Vec<(usize, u32)> =
            places.into_iter().zip(changed).filter(|(_, changed)| *changed).map(|(place, _)| place).collect();
        let (mut keys, mut digests) = (Vec::new(), Vec::new());
        let rows = Rows::bind(&batch)?;
        let mut buffer = Vec::new();
        for (at, (segment, row)) in places.iter().enumerate() {
            let key = rows.key(at, &mut buffer);
            let found =
                self.log.find_keys(&[key])?.into_iter().find(|found| (found.segment, found.row) == (*segment, *row));
            keys.push(key);
            digests.push(found.map(|found| found.digest).unwrap_or_default());
            self.writer.supersede(*segment, *row);
        }
        drop(rows);
        self.writer.append(NewRows { batch, keys, digests }, &[])
    }

    /// Appends again, behind them, the edges of ends that this commit replaced.
    fn follow(&mut self) -> Result<(), StoreError> {
        for (segment, rows) in self.log.find_edges(&self.replaced.keys())? {
            let Some(view) = self.log.view(segment).cloned() else { continue };
            for_each_batch(&view, &rows, |batch, numbers| {
                let edges = Rows::bind(&batch)?;
                let follows = |at: usize| {
                    let refs = [edges.source_ref, edges.target_ref].map(|refs| text(refs, at));
                    refs.into_iter().flatten().any(|id| self.replaced.contains(id))
                };
                let follows: Vec<bool> = (0..batch.num_rows()).map(follows).collect();
                drop(edges);
                let numbers: Vec<u32> =
                    numbers.iter().zip(&follows).filter(|(_, follows)| **follows).map(|(row, _)| *row).collect();
                let batch = filter_record_batch(&batch, &BooleanArray::from(follows))?;
                // Who lost an end (there is no such edge but in stores of the first schema) keeps what it had.
                let batch = self.finder.fill(&batch)?.batch;
                let rows = stored(&view, batch, &numbers)?;
                numbers.iter().for_each(|row| self.writer.supersede(segment, *row));
                self.writer.append(rows, &[])
            })?;
        }
        Ok(())
    }
}

fn input_columns() -> Vec<&'static str> {
    schema::schema_names().into_iter().filter(|name| *name != c::ADDED).collect()
}

/// Reads rows whole, a bounded number at a time: calls `each(rows, their numbers)`.
fn for_each_batch(
    view: &SegmentView,
    rows: &RoaringBitmap,
    mut each: impl FnMut(RecordBatch, &[u32]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut numbers = rows.iter();
    for batch in view.segment.read(&row_runs(rows), &input_columns(), CHUNK_EDGES)? {
        let batch = batch?;
        let here: Vec<u32> = numbers.by_ref().take(batch.num_rows()).collect();
        each(batch, &here)?;
    }
    Ok(())
}

/// Rows read from a segment, with the keys and digests that its index has for them.
fn stored(view: &SegmentView, batch: RecordBatch, numbers: &[u32]) -> Result<NewRows, StoreError> {
    let rows = Rows::bind(&batch)?;
    let mut buffer = Vec::new();
    let keys: Vec<u64> = (0..batch.num_rows()).map(|at| rows.key(at, &mut buffer)).collect();
    let mut digests = vec![0; keys.len()];
    view.segment.file()?.index.find_keys(&sorted(keys.iter().copied()), |_, entry| {
        if let Some(digest) = numbers.binary_search(&entry.row).ok().and_then(|at| digests.get_mut(at)) {
            *digest = entry.digest;
        }
    })?;
    drop(rows);
    Ok(NewRows { batch, keys, digests })
}
