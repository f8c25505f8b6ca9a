//! Rows around those that were found, in memory.
//!
//! A row costs a data page of each of some twenty columns, whatever else is in these pages. So where two rows of one run of
//! [`PAGE_ROWS`] are asked for, all of it is read and kept, as long as there is room. Rows of a segment never change: what is here is a
//! matter of speed, never of what is told.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use parking_lot::RwLock;

use crate::enrich::index::Index;
use crate::store::{PAGE_ROWS, StoreError};

/// Longest run that is kept; more than 4 KiB a row are not worth their memory.
const MOST_RUN_BYTES: usize = 4 << 20;
/// Runs that are read for one block of events: it may hold thousands of indicators.
const RUNS_AT_ONCE: usize = 64;
/// Rows of a run that are read at a time, since some are long.
const READ_ROWS: usize = 128;

/// Number of a part of the index, and of a run of rows in its segment.
type Place = (u64, u32);

#[derive(Debug)]
enum Run {
    /// One row of it was asked for.
    AskedFor,
    Kept(Arc<RecordBatch>),
    /// It is not to be kept.
    TooLong,
}

#[derive(Debug, Default)]
struct Known {
    runs: HashMap<Place, Run>,
    bytes: usize,
    /// There was no room for one.
    is_full: bool,
}

/// A row, and the batch it is in.
pub(crate) type Row = (Arc<RecordBatch>, usize);

/// Runs of rows, within a budget of memory. What is kept stays, as long as its segment does: where more is asked for than there is room for,
/// the newest would drive out what is asked for again before it is.
#[derive(Debug)]
pub(crate) struct Runs {
    known: RwLock<Known>,
    budget_bytes: usize,
}

impl Runs {
    pub(crate) fn new(budget_bytes: usize) -> Self {
        Runs { known: RwLock::default(), budget_bytes }
    }

    /// Forgets what is of other parts.
    pub(crate) fn retain(&self, part: impl Fn(u64) -> bool) {
        let mut known = self.known.write();
        known.runs.retain(|(number, _), _| part(*number));
        let bytes = |run: &Run| if let Run::Kept(batch) = run { batch.get_array_memory_size() } else { 0 };
        known.bytes = known.runs.values().map(bytes).sum();
        known.is_full = false;
    }

    /// Rows, given by part and row: rising, each once, as they are given back.
    pub(crate) fn rows(&self, index: &Index, wanted: &[(u32, u32)], columns: &[&str]) -> Result<Vec<Row>, StoreError> {
        let mut of_runs: BTreeMap<(u32, u32), Vec<u32>> = BTreeMap::new();
        for (part, row) in wanted {
            of_runs.entry((*part, row / PAGE_ROWS as u32)).or_default().push(*row);
        }
        let (mut whole, mut fresh) = (HashMap::new(), Vec::new());
        {
            let known = self.known.read();
            for (&(part, run), rows) in &of_runs {
                let may_read = !known.is_full && fresh.len() < RUNS_AT_ONCE;
                match known.runs.get(&(index.number(part), run)) {
                    Some(Run::Kept(batch)) => drop(whole.insert((part, run), Arc::clone(batch))),
                    Some(Run::AskedFor) if may_read => fresh.push((part, run)),
                    None if may_read && rows.len() > 1 => fresh.push((part, run)),
                    _ => {}
                }
            }
        }
        let mut news = Vec::new();
        for (part, run) in fresh {
            let place = (index.number(part), run);
            match read(index, part, run, columns)?.map(Arc::new) {
                Some(batch) => {
                    whole.insert((part, run), Arc::clone(&batch));
                    news.push((place, Run::Kept(batch)));
                }
                None => news.push((place, Run::TooLong)),
            }
        }
        let alone = || of_runs.iter().filter(|(run, _)| !whole.contains_key(run));
        let asked: Vec<(usize, u32)> =
            alone().flat_map(|((part, _), rows)| rows.iter().map(|row| (*part as usize, *row))).collect();
        news.extend(alone().map(|((part, run), _)| ((index.number(*part), *run), Run::AskedFor)));
        self.keep(news);
        let read = if asked.is_empty() { None } else { Some(Arc::new(index.snapshot.read_rows(&asked, columns)?)) };
        let (mut all, mut at) = (Vec::with_capacity(wanted.len()), 0);
        for (run, rows) in &of_runs {
            if let Some(batch) = whole.get(run) {
                all.extend(rows.iter().map(|row| (Arc::clone(batch), (row % PAGE_ROWS as u32) as usize)));
            } else if let Some(batch) = &read {
                all.extend((at..at + rows.len()).map(|row| (Arc::clone(batch), row)));
                at += rows.len();
            }
        }
        Ok(all)
    }

    fn keep(&self, news: Vec<(Place, Run)>) {
        if news.is_empty() {
            return;
        }
        let mut known = self.known.write();
        for (place, run) in news {
            match (&run, known.runs.get(&place)) {
                // Known before, or another block brought it meanwhile.
                (Run::AskedFor, Some(_)) | (Run::Kept(_), Some(Run::Kept(_))) => continue,
                (Run::Kept(batch), _) => {
                    let bytes = known.bytes + batch.get_array_memory_size();
                    if bytes > self.budget_bytes {
                        known.is_full = true;
                        continue;
                    }
                    known.bytes = bytes;
                }
                _ => {}
            }
            known.runs.insert(place, run);
        }
    }
}

/// Reads a run; `None`: it is too long.
fn read(index: &Index, part: u32, run: u32, columns: &[&str]) -> Result<Option<RecordBatch>, StoreError> {
    let Some(view) = index.view(part) else { return Ok(None) };
    let start = run * PAGE_ROWS as u32;
    let end = (start + PAGE_ROWS as u32).min(view.segment.rows());
    view.segment.read_within(std::slice::from_ref(&(start..end)), columns, READ_ROWS, MOST_RUN_BYTES)
}
