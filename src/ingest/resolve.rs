//! What each record replaces.
//!
//! An indicator is (type, value): arriving again, nothing new is not written; something new is merged with what is there (sources and
//! tags united, first seen the earlier, last seen the later, the fresher field otherwise) and becomes a new version at the end of the log.
//! A full document is more than a mention: what the document before it said and a fresher one no longer says is taken away, while
//! what other inputs said stays.
//! What edges added to a report (see `link`) says nothing here: it comes and goes with the edges.
//! A native STIX object is its id, and `modified` its version: a newer one supersedes, an older one that arrives late goes straight
//! into the history, an equal one is not written. Whichever it is, the object is of all the sources that ever brought it.
//!
//! The usual cases never touch a wide column: unknown keys are new, equal digests are unchanged. Only rows in between are read, and
//! merged column by column.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int8Array, Int64Array, ListArray, ListBuilder, RecordBatch, StringArray,
    StringBuilder, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::kernels::zip::zip;
use arrow::compute::{
    and, cast, concat_batches, filter_record_batch, interleave_record_batch, is_not_null, is_null, or,
    take_record_batch,
};
use arrow::datatypes::{DataType, Int8Type, TimestampMicrosecondType};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;
use serde_json::value::RawValue;

use crate::ingest::document;
use crate::ingest::link::{Replaced, Rows, without_added};
use crate::model::schema::{self, column as c, kind_value};
use crate::model::time::Timestamp;
use crate::store::{Found, NewRows, Snapshot, StoreError, bytes_of, joined};

/// Rows of several decoded blocks, to be decided on together.
#[derive(Debug)]
pub(crate) struct Gathered {
    parts: Vec<NewRows>,
    /// All keys, sorted, each with its place among the rows.
    order: Vec<(u64, u32)>,
}

impl Gathered {
    pub(crate) fn new(parts: Vec<NewRows>) -> Self {
        let keys = parts.iter().flat_map(|part| part.keys.iter().copied());
        let mut order: Vec<(u64, u32)> = keys.zip(0..).collect();
        order.par_sort_unstable();
        Gathered { parts, order }
    }

    /// All keys, sorted.
    pub(crate) fn keys(&self) -> impl Iterator<Item = u64> {
        self.order.iter().map(|(key, _)| *key)
    }

    pub(crate) fn rows(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.parts.iter().map(|part| bytes_of(&part.batch)).sum()
    }

    /// All rows in one batch.
    pub(crate) fn joined(self) -> Result<NewRows, StoreError> {
        joined(&self.parts)
    }

    fn repeats(&self) -> bool {
        self.order.windows(2).any(|pair| pair[0].0 == pair[1].0)
    }
}

/// Rows ready to be committed, and what became of the rest.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// In order, in parts.
    pub(crate) rows: Vec<NewRows>,
    /// Positions in `rows`, which are in one part then, that are born superseded.
    pub(crate) stale: Vec<u32>,
    /// Rows of the snapshot that are replaced: segment, row.
    pub(crate) superseded: Vec<(usize, u32)>,
    /// The ids of those.
    pub(crate) replaced: Replaced,
    pub(crate) new: u64,
    pub(crate) changed: u64,
    pub(crate) unchanged: u64,
}

/// Decides what becomes of the rows of one batch, given what the snapshot holds.
///
/// `default_score` is the verdict of records that have none here or there.
pub(crate) fn resolve(
    snapshot: &Snapshot,
    rows: Gathered,
    now: Timestamp,
    default_score: Option<u8>,
) -> Result<Resolved, StoreError> {
    let mut resolved = match by_digest(snapshot, rows, now)? {
        Told::All(resolved) => resolved,
        Told::NotAll(rows, found) => {
            let found = found.map(|found| (rows.order.iter().map(|(_, at)| *at).collect(), found));
            let rows = rows.joined()?;
            let count = rows.batch.num_rows() as u64;
            let folded = fold_duplicates(rows)?;
            let folded_away = count - folded.rows.batch.num_rows() as u64;
            let mut resolved = against_snapshot(snapshot, folded, found, now)?;
            resolved.unchanged += folded_away;
            resolved
        }
    };
    if let Some(score) = default_score {
        resolved.rows.iter_mut().try_for_each(|part| fill_score(&mut part.batch, score))?;
    }
    Ok(resolved)
}

/// What keys and digests alone tell.
enum Told {
    All(Resolved),
    /// Rows have to be compared, with one another or with those that were found for them.
    NotAll(Gathered, Option<Vec<Found>>),
}

/// The usual cases: every record is there once, and new, or says what the store holds already. The rows stay in the parts they came
/// in, so that those of a large input are never copied.
fn by_digest(snapshot: &Snapshot, rows: Gathered, now: Timestamp) -> Result<Told, StoreError> {
    if rows.repeats() {
        return Ok(Told::NotAll(rows, None));
    }
    let found = snapshot.find_all_keys(&rows.keys().collect::<Vec<_>>())?;
    let mut unchanged = vec![false; rows.rows()];
    if found.iter().any(|found| found.live) {
        let digests: Vec<u64> = rows.parts.iter().flat_map(|part| part.digests.iter().copied()).collect();
        let mut differs = vec![false; digests.len()];
        for found in found.iter().filter(|found| found.live) {
            let at = rows.order[found.position].1 as usize;
            let is_equal = digests[at] == found.digest;
            unchanged[at] |= is_equal;
            differs[at] |= !is_equal;
        }
        if unchanged.iter().zip(differs).any(|(unchanged, differs)| differs && !unchanged) {
            return Ok(Told::NotAll(rows, Some(found)));
        }
    }
    let mut end = 0;
    let parts: Vec<(NewRows, &[bool])> = rows
        .parts
        .into_iter()
        .map(|part| {
            let start = end;
            end += part.keys.len();
            (part, &unchanged[start..end])
        })
        .collect();
    let kept = parts.into_par_iter().filter_map(|(part, unchanged)| without(part, unchanged, now).transpose());
    let rows: Vec<NewRows> = kept.collect::<Result<_, StoreError>>()?;
    let new = rows.iter().map(|part| part.keys.len() as u64).sum();
    let unchanged = unchanged.iter().filter(|unchanged| **unchanged).count() as u64;
    Ok(Told::All(Resolved { new, unchanged, ..Resolved::of(rows) }))
}

/// A part without its `unchanged` rows; `None` when there are no others.
fn without(part: NewRows, unchanged: &[bool], now: Timestamp) -> Result<Option<NewRows>, StoreError> {
    let part = match (unchanged.contains(&true), unchanged.contains(&false)) {
        (true, false) => return Ok(None),
        (true, true) => {
            let of =
                |numbers: &[u64]| numbers.iter().zip(unchanged).filter(|(_, gone)| !**gone).map(|(n, _)| *n).collect();
            let kept: BooleanArray = unchanged.iter().map(|gone| Some(!gone)).collect();
            NewRows {
                batch: filter_record_batch(&part.batch, &kept)?,
                keys: of(&part.keys),
                digests: of(&part.digests),
            }
        }
        (false, _) => part,
    };
    Ok(Some(NewRows { batch: fill_in(part.batch, now)?, ..part }))
}

impl Resolved {
    fn of(rows: Vec<NewRows>) -> Self {
        Resolved {
            rows,
            stale: Vec::new(),
            superseded: Vec::new(),
            replaced: Replaced::default(),
            new: 0,
            changed: 0,
            unchanged: 0,
        }
    }
}

/// Rows of a batch without repetitions: one row per indicator, one per version of a native object.
struct Folded {
    rows: NewRows,
    /// Native objects that a newer version in the same batch replaces, by position.
    stale: Vec<u32>,
}

fn fold_duplicates(rows: NewRows) -> Result<Folded, StoreError> {
    let mut order: Vec<u32> = (0..rows.keys.len() as u32).collect();
    order.sort_unstable_by_key(|row| (rows.keys[*row as usize], *row));
    let repeats = order.windows(2).any(|pair| rows.keys[pair[0] as usize] == rows.keys[pair[1] as usize]);
    if !repeats {
        return Ok(Folded { rows, stale: Vec::new() });
    }
    let native = native_rows(&rows.batch);
    let versions = version_times(&rows.batch);
    let mut kept: Vec<(u32, u32)> = Vec::new();
    let mut stale_rows: HashSet<u32> = HashSet::new();
    let mut merging: Vec<Vec<u32>> = Vec::new();
    for group in order.chunk_by(|a, b| rows.keys[*a as usize] == rows.keys[*b as usize]) {
        let mut group: Vec<u32> = group.to_vec();
        // Only neighbours: what was said, unsaid and said again counts as said.
        group.dedup_by_key(|row| rows.digests[*row as usize]);
        if native.value(group[0] as usize) {
            group.sort_by_key(|row| (versions[*row as usize], *row));
            // Of two rows with the same version the later one counts.
            let mut newest_of_each: Vec<u32> = Vec::new();
            for row in group {
                match newest_of_each.last_mut() {
                    Some(last) if versions[*last as usize] == versions[row as usize] => *last = row,
                    _ => newest_of_each.push(row),
                }
            }
            let newest = newest_of_each.len() - 1;
            stale_rows.extend(&newest_of_each[..newest]);
            kept.extend(newest_of_each.into_iter().map(|row| (row, row)));
        } else if let [one] = group.as_slice() {
            kept.push((*one, *one));
        } else {
            merging.push(group);
        }
    }
    let mut pool = rows.batch;
    let mut keys = rows.keys;
    let mut digests = rows.digests;
    merge_groups(&mut pool, &mut keys, &mut digests, merging, &mut kept)?;
    // Input order, by each record's first appearance.
    kept.sort_unstable_by_key(|(place, _)| *place);
    let picked = UInt32Array::from_iter_values(kept.iter().map(|(_, row)| *row));
    let stale =
        kept.iter().enumerate().filter(|(_, (_, row))| stale_rows.contains(row)).map(|(at, _)| at as u32).collect();
    let rows = NewRows {
        batch: take_record_batch(&pool, &picked)?,
        keys: kept.iter().map(|(_, row)| keys[*row as usize]).collect(),
        digests: kept.iter().map(|(_, row)| digests[*row as usize]).collect(),
    };
    Ok(Folded { rows, stale })
}

/// Merges neighbours until one row of each group is left: a tree, so that one key a million times costs twenty rounds.
fn merge_groups(
    pool: &mut RecordBatch,
    keys: &mut Vec<u64>,
    digests: &mut Vec<u64>,
    mut groups: Vec<Vec<u32>>,
    kept: &mut Vec<(u32, u32)>,
) -> Result<(), StoreError> {
    let places: Vec<u32> = groups.iter().map(|group| group.first().copied().unwrap_or_default()).collect();
    while groups.iter().any(|group| group.len() > 1) {
        let pairs: Vec<(u32, u32)> =
            groups.iter().flat_map(|group| group.chunks_exact(2).map(|pair| (pair[0], pair[1]))).collect();
        let older = take_record_batch(pool, &UInt32Array::from_iter_values(pairs.iter().map(|(older, _)| *older)))?;
        let newer = take_record_batch(pool, &UInt32Array::from_iter_values(pairs.iter().map(|(_, newer)| *newer)))?;
        let merged = merge(&older, &newer)?;
        let base = pool.num_rows() as u32;
        for (older, newer) in &pairs {
            keys.push(keys[*newer as usize]);
            // What is merged is neither of the two: with the digest of one it would pass for that.
            digests.push(digests[*older as usize].rotate_left(1) ^ digests[*newer as usize]);
        }
        *pool = concat_batches(&schema::input_schema(), [&*pool, &merged.batch])?;
        let mut next = base;
        for group in &mut groups {
            let odd = (group.len() % 2 == 1).then(|| group[group.len() - 1]);
            let halves = group.len() / 2;
            *group = (next..next + halves as u32).chain(odd).collect();
            next += halves as u32;
        }
    }
    kept.extend(groups.iter().zip(places).filter_map(|(group, place)| Some((place, *group.first()?))));
    Ok(())
}

/// What to do with a row.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    New,
    Unchanged,
    /// Compare with that row of the snapshot.
    Compare {
        segment: usize,
        row: u32,
    },
    /// An older version of a native object.
    Late,
}

/// `found` is what was found for the rows, with the order they were looked for in, if they were.
fn against_snapshot(
    snapshot: &Snapshot,
    folded: Folded,
    found: Option<(Vec<u32>, Vec<Found>)>,
    now: Timestamp,
) -> Result<Resolved, StoreError> {
    let Folded { rows, stale } = folded;
    let native = native_rows(&rows.batch);
    let mut fates = vec![Fate::New; rows.keys.len()];
    stale.iter().for_each(|row| fates[*row as usize] = Fate::Late);
    // Native objects whose very content is there already as a superseded version.
    let mut in_history = vec![false; rows.keys.len()];
    let (order, found) = found.map_or_else(|| find_known(snapshot, &rows.keys), Ok)?;
    for found in found {
        let at = order[found.position] as usize;
        let equal = rows.digests[at] == found.digest;
        if found.live && equal {
            fates[at] = Fate::Unchanged;
        } else if found.live && fates[at] == Fate::New {
            fates[at] = Fate::Compare { segment: found.segment, row: found.row };
        } else if equal && native.value(at) {
            in_history[at] = true;
        }
    }

    let compared: Vec<(u32, usize, u32)> = fates
        .iter()
        .enumerate()
        .filter_map(|(at, fate)| match fate {
            Fate::Compare { segment, row } => Some((at as u32, *segment, *row)),
            _ => None,
        })
        .collect();
    if compared.is_empty() && fates.iter().all(|fate| *fate == Fate::New) {
        let new = rows.keys.len() as u64;
        let rows = NewRows { batch: fill_in(rows.batch, now)?, ..rows };
        return Ok(Resolved { new, ..Resolved::of(vec![rows]) });
    }

    let old = without_added(snapshot, read_old(snapshot, &compared)?)?;
    let incoming =
        take_record_batch(&rows.batch, &UInt32Array::from_iter_values(compared.iter().map(|(at, _, _)| *at)))?;
    let same_record = same_identity(&old, &incoming)?;
    let merged = merge(&old, &incoming)?;
    let versions = (version_times(&old), version_times(&incoming));
    let modified = bump_modified(&old, &incoming, now);
    let mut merged_batch = merged.batch.clone();
    replace_column(&mut merged_batch, c::MODIFIED, Arc::new(modified))?;

    // Sources of the output: 0 the incoming rows, 1 the merged ones, 2 incoming native objects and 3 those that are there, both with the
    // sources of both.
    let filled = fill_in(rows.batch, now)?;
    let sources = Arc::clone(named(&merged.batch, c::SOURCE_BRANDS)?);
    let mut newer = take_record_batch(&filled, &UInt32Array::from_iter_values(compared.iter().map(|(at, _, _)| *at)))?;
    let mut there = old.clone();
    replace_column(&mut newer, c::SOURCE_BRANDS, Arc::clone(&sources))?;
    replace_column(&mut there, c::SOURCE_BRANDS, sources)?;
    let said = natives_said(&old, &newer)?;
    let mut picks: Vec<(usize, usize)> = Vec::new();
    let (mut keys, mut digests) = (Vec::new(), Vec::new());
    let mut out = Resolved::of(Vec::new());
    let old_rows = Rows::bind(&old)?;
    let has_edges = snapshot.has_edges();
    let supersede = |out: &mut Resolved, pair: usize, place: (usize, u32)| {
        out.superseded.push(place);
        if has_edges {
            out.replaced.note(&old_rows, pair);
        }
    };
    let mut pair = 0;
    for (at, fate) in fates.iter().enumerate() {
        let place = keys.len() as u32;
        let pick = match fate {
            Fate::New => {
                out.new += 1;
                Some((0, at))
            }
            Fate::Unchanged => {
                out.unchanged += 1;
                None
            }
            Fate::Late if in_history[at] => {
                out.unchanged += 1;
                None
            }
            Fate::Late => {
                out.new += 1;
                out.stale.push(place);
                Some((0, at))
            }
            Fate::Compare { segment, row } => {
                let this = pair;
                pair += 1;
                if !same_record.value(this) {
                    // Two identities with one hash: nothing of this record is known.
                    out.new += 1;
                    Some((0, at))
                } else if old_rows.is_definition(this) {
                    // Where a producer brings the definition, that is the record.
                    out.new += 1;
                    supersede(&mut out, this, (*segment, *row));
                    Some((0, at))
                } else if native.value(at) {
                    let (before, now) = (versions.0[this], versions.1[this]);
                    if now == before && said[this] == Said::Nothing {
                        out.unchanged += 1;
                        None
                    } else if now >= before {
                        out.changed += 1;
                        supersede(&mut out, this, (*segment, *row));
                        Some((2, this))
                    } else if in_history[at] && said[this].has_source() {
                        out.changed += 1;
                        supersede(&mut out, this, (*segment, *row));
                        Some((3, this))
                    } else if in_history[at] {
                        out.unchanged += 1;
                        None
                    } else if said[this].has_source() {
                        // Two rows: the newer version, which is now of this source too, and the older one in the history.
                        out.changed += 1;
                        out.new += 1;
                        supersede(&mut out, this, (*segment, *row));
                        picks.push((3, this));
                        keys.push(rows.keys[at]);
                        // It is neither of the two: with the digest of one it would pass for that.
                        digests.push(rows.digests[at].rotate_left(1));
                        out.stale.push(place + 1);
                        Some((0, at))
                    } else {
                        out.new += 1;
                        out.stale.push(place);
                        Some((0, at))
                    }
                } else if merged.changed.value(this) {
                    out.changed += 1;
                    supersede(&mut out, this, (*segment, *row));
                    Some((1, this))
                } else {
                    out.unchanged += 1;
                    None
                }
            }
        };
        if let Some(pick) = pick {
            picks.push(pick);
            keys.push(rows.keys[at]);
            let digest = rows.digests[at];
            digests.push(if pick.0 == 3 { digest.rotate_left(1) } else { digest });
        }
    }
    // A late version takes its record's place in the history only: the newest row of the batch decides what is superseded.
    let batch = interleave_record_batch(&[&filled, &merged_batch, &newer, &there], &picks)?;
    out.rows.push(NewRows { batch, keys, digests });
    Ok(out)
}

/// What a native object says that arrives with the version that is there.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Said {
    /// Nothing new.
    Nothing,
    /// That another source has it, and nothing else.
    Source,
    /// Something else.
    Other {
        /// And that another source has it.
        source: bool,
    },
}

impl Said {
    fn has_source(self) -> bool {
        matches!(self, Said::Source | Said::Other { source: true })
    }
}

/// What each native object says that the one before it does not. `newer` has the sources of both already.
fn natives_said(old: &RecordBatch, newer: &RecordBatch) -> Result<Vec<Said>, StoreError> {
    let same_of = |name: &str| -> Result<Vec<bool>, StoreError> {
        let mut changed = vec![false; old.num_rows()];
        note_changes(named(old, name)?, named(newer, name)?, &mut changed)?;
        Ok(changed.into_iter().map(|changed| !changed).collect())
    };
    let (text, tags, sources) = (same_of(c::DOCUMENT)?, same_of(c::TAGS)?, same_of(c::SOURCE_BRANDS)?);
    let said = (0..old.num_rows()).map(|row| match (text[row] && tags[row], sources[row]) {
        (true, true) => Said::Nothing,
        (true, false) => Said::Source,
        (false, same) => Said::Other { source: !same },
    });
    Ok(said.collect())
}

/// Looks the keys up: in which order, and what was found.
fn find_known(snapshot: &Snapshot, keys: &[u64]) -> Result<(Vec<u32>, Vec<Found>), StoreError> {
    let mut order: Vec<(u64, u32)> = keys.iter().copied().zip(0..).collect();
    order.sort_unstable();
    let (sorted, order): (Vec<u64>, Vec<u32>) = order.into_iter().unzip();
    let found = snapshot.find_all_keys(&sorted)?;
    Ok((order, found))
}

/// The rows to compare with, in the order of `compared`.
fn read_old(snapshot: &Snapshot, compared: &[(u32, usize, u32)]) -> Result<RecordBatch, StoreError> {
    let schema = schema::input_schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let places: Vec<(usize, u32)> = compared.iter().map(|(_, segment, row)| (*segment, *row)).collect();
    snapshot.read_rows(&places, &names)
}

fn named<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, StoreError> {
    Ok(batch.column(batch.schema_ref().index_of(name)?))
}

fn replace_column(batch: &mut RecordBatch, name: &str, array: ArrayRef) -> Result<(), StoreError> {
    let mut columns = batch.columns().to_vec();
    columns[batch.schema_ref().index_of(name)?] = array;
    *batch = RecordBatch::try_new(batch.schema(), columns)?;
    Ok(())
}

fn text(array: &ArrayRef) -> Result<StringArray, StoreError> {
    Ok(cast(array, &DataType::Utf8)?.as_string::<i32>().clone())
}

/// Rows that are not indicators.
fn native_rows(batch: &RecordBatch) -> BooleanArray {
    let kinds = named(batch, c::KIND).and_then(text);
    match kinds {
        Ok(kinds) => BooleanArray::from_unary(&kinds, |kind| kind != kind_value::INDICATOR),
        Err(_) => BooleanArray::from(vec![false; batch.num_rows()]),
    }
}

/// When each native object's version was made: `modified`, else `created`; unknown counts as newest.
fn version_times(batch: &RecordBatch) -> Vec<i64> {
    let times = |name| batch.column_by_name(name).map(|array| array.as_primitive::<TimestampMicrosecondType>());
    let (modified, created) = (times(c::MODIFIED), times(c::CREATED));
    (0..batch.num_rows())
        .map(|row| {
            let valid = |column: &Option<&TimestampMicrosecondArray>| {
                column.filter(|column| column.is_valid(row)).map(|column| column.value(row))
            };
            valid(&modified).or_else(|| valid(&created)).unwrap_or(i64::MAX)
        })
        .collect()
}

/// Whether pairs of rows are the same record, not just the same hash.
fn same_identity(old: &RecordBatch, new: &RecordBatch) -> Result<BooleanArray, StoreError> {
    let equal = |name| -> Result<BooleanArray, StoreError> {
        Ok(not_distinct(&text(named(old, name)?)?, &text(named(new, name)?)?)?)
    };
    let indicator = arrow::compute::and(&equal(c::TYPE)?, &equal(c::VALUE)?)?;
    let by_id = |batch: &RecordBatch, row: usize| -> Option<(Vec<u8>, Option<String>)> {
        let ids = batch.column_by_name(c::ID)?.as_fixed_size_binary();
        let whole = batch.column_by_name(c::STIX_ID)?.as_string::<i32>();
        Some((ids.value(row).to_vec(), whole.is_valid(row).then(|| whole.value(row).to_owned())))
    };
    let native = (native_rows(old), native_rows(new));
    Ok((0..old.num_rows())
        .map(|row| {
            Some(match (native.0.value(row), native.1.value(row)) {
                (true, true) => by_id(old, row) == by_id(new, row),
                (false, false) => indicator.value(row),
                _ => false,
            })
        })
        .collect())
}

/// Dates that every indicator and every edge of ours has once it is in the store: when unknown, the time of the import.
fn fill_in(mut batch: RecordBatch, now: Timestamp) -> Result<RecordBatch, StoreError> {
    let created = named(&batch, c::CREATED)?.as_primitive::<TimestampMicrosecondType>().clone();
    let modified = named(&batch, c::MODIFIED)?.as_primitive::<TimestampMicrosecondType>().clone();
    if created.null_count() == 0 && modified.null_count() == 0 {
        return Ok(batch);
    }
    let native = and(&native_rows(&batch), &is_not_null(named(&batch, c::SPEC_VERSION)?)?)?;
    let mut created_filled = Vec::with_capacity(batch.num_rows());
    let mut modified_filled = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let made = created.is_valid(row).then(|| created.value(row));
        let changed = modified.is_valid(row).then(|| modified.value(row));
        if native.value(row) {
            created_filled.push(made);
            modified_filled.push(changed);
        } else {
            let made = made.or(changed).unwrap_or(now.0);
            created_filled.push(Some(made));
            modified_filled.push(Some(changed.unwrap_or(made).max(made)));
        }
    }
    let instants = |values: Vec<Option<i64>>| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"))
    };
    replace_column(&mut batch, c::CREATED, instants(created_filled))?;
    replace_column(&mut batch, c::MODIFIED, instants(modified_filled))?;
    Ok(batch)
}

/// `modified` of changed indicators: the input's own if it rose, else now: a changed object must be a newer version (STIX 2.1 §3.6).
fn bump_modified(old: &RecordBatch, new: &RecordBatch, now: Timestamp) -> TimestampMicrosecondArray {
    let times = |batch: &RecordBatch| {
        batch.column_by_name(c::MODIFIED).map(|array| array.as_primitive::<TimestampMicrosecondType>().clone())
    };
    let (before, given) = (times(old), times(new));
    let of = |column: &Option<TimestampMicrosecondArray>, row: usize| {
        column.as_ref().filter(|column| column.is_valid(row)).map(|column| column.value(row))
    };
    let now_ms = now.0 / 1_000 * 1_000;
    let values: Int64Array = (0..old.num_rows())
        .map(|row| match (of(&before, row), of(&given, row)) {
            (Some(before), Some(given)) if given > before => Some(given),
            (Some(before), _) => Some(now_ms.max(before + 1_000)),
            (None, given) => given.or(Some(now_ms)),
        })
        .collect();
    values.reinterpret_cast::<TimestampMicrosecondType>().with_timezone("UTC")
}

/// Pairs of rows, merged.
struct Merged {
    batch: RecordBatch,
    /// Whether the merged row says anything that the older one did not.
    changed: BooleanArray,
}

/// Merges pairs of rows of the same records: `older` was there first.
fn merge(older: &RecordBatch, newer: &RecordBatch) -> Result<Merged, StoreError> {
    let schema = schema::input_schema();
    let fresh = fresher(older, newer)?;
    let has_document = is_not_null(named(newer, c::DOCUMENT)?)?;
    // Where a fresher full document takes the place of another: what that one said.
    let documents = (named(older, c::DOCUMENT)?.as_string::<i32>(), named(newer, c::DOCUMENT)?.as_string::<i32>());
    let said: Vec<Option<document::Said>> = (0..older.num_rows())
        .map(|row| {
            let both = fresh.value(row) && documents.0.is_valid(row) && documents.1.is_valid(row);
            both.then(|| document::Said::before(documents.0.value(row), documents.1.value(row))).flatten()
        })
        .collect();
    let replaced: BooleanArray = said.iter().map(|said| Some(said.is_some())).collect();
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    let mut changed: Vec<bool> =
        said.iter().map(|said| said.as_ref().is_some_and(|said| said.telling_differs)).collect();
    for (position, field) in schema.fields().iter().enumerate() {
        // Dictionaries of the two sides differ; plain text compares.
        let plain = |array: &ArrayRef| -> Result<ArrayRef, StoreError> {
            Ok(match field.data_type() {
                DataType::Dictionary(_, _) => cast(array, &DataType::Utf8)?,
                _ => Arc::clone(array),
            })
        };
        let (old, new) = (plain(older.column(position))?, plain(newer.column(position))?);
        let merged: ArrayRef = match field.name().as_str() {
            // An object keeps its id and its birth for ever.
            c::KIND | c::ID | c::INDICATOR_ID | c::STIX_ID | c::TYPE | c::VALUE | c::INBOX => Arc::clone(&old),
            // Those are looked up when the commit ends.
            c::SOURCE_INDICATOR_ID
            | c::TARGET_INDICATOR_ID
            | c::SOURCE_STIX_ID
            | c::TARGET_STIX_ID
            | c::OBJECT_REF_INDICATORS => Arc::clone(&old),
            c::CREATED | c::STIX_TYPE => pick(&is_not_null(&old)?, &old, &new)?,
            c::TAGS => {
                let unsaid = |row: usize, tag: &str| said[row].as_ref().is_some_and(|said| said.tags.contains(tag));
                Arc::new(unite(old.as_list(), new.as_list(), unsaid))
            }
            c::SOURCE_BRANDS | c::SOURCE_INSTANCES => Arc::new(unite(old.as_list(), new.as_list(), |_, _| false)),
            c::FIRST_SEEN => extreme(&old, &new, i64::min),
            c::LAST_SEEN | c::SOURCE_MODIFIED | c::MODIFIED => extreme(&old, &new, i64::max),
            c::CUSTOM => merge_json(old.as_string(), new.as_string(), &fresh, &said),
            name => {
                // A full document says that there is no end; a bare value says nothing. Of other fields it takes away only what
                // a document said.
                let silence_tells = if name == c::EXPIRATION { and(&fresh, &has_document)? } else { replaced.clone() };
                let new_wins = or(&and(&fresh, &is_not_null(&new)?)?, &silence_tells)?;
                let take_new = or(&new_wins, &is_null(&old)?)?;
                pick(&take_new, &new, &old)?
            }
        };
        let telling = !matches!(field.name().as_str(), c::MODIFIED | c::SOURCE_MODIFIED | c::DOCUMENT);
        if telling {
            note_changes(&old, &merged, &mut changed)?;
        }
        columns.push(match field.data_type() {
            DataType::Dictionary(_, _) => cast(&merged, field.data_type())?,
            _ => merged,
        });
    }
    Ok(Merged { batch: RecordBatch::try_new(schema, columns)?, changed: BooleanArray::from(changed) })
}

fn pick(mask: &BooleanArray, truthy: &ArrayRef, falsy: &ArrayRef) -> Result<ArrayRef, StoreError> {
    Ok(zip(mask, truthy, falsy)?)
}

/// Whether the newer row is at least as fresh: by what the inputs said of themselves; who says nothing speaks of now.
fn fresher(older: &RecordBatch, newer: &RecordBatch) -> Result<BooleanArray, StoreError> {
    let times = |batch: &RecordBatch| -> Result<TimestampMicrosecondArray, StoreError> {
        Ok(named(batch, c::SOURCE_MODIFIED)?.as_primitive::<TimestampMicrosecondType>().clone())
    };
    let (old, new) = (times(older)?, times(newer)?);
    Ok((0..old.len())
        .map(|row| Some(old.is_null(row) || new.is_null(row) || new.value(row) >= old.value(row)))
        .collect())
}

fn extreme(old: &ArrayRef, new: &ArrayRef, choose: fn(i64, i64) -> i64) -> ArrayRef {
    let (old, new) = (old.as_primitive::<TimestampMicrosecondType>(), new.as_primitive::<TimestampMicrosecondType>());
    let values: TimestampMicrosecondArray = old
        .iter()
        .zip(new)
        .map(|pair| match pair {
            (Some(old), Some(new)) => Some(choose(old, new)),
            (old, new) => old.or(new),
        })
        .collect();
    Arc::new(values.with_timezone("UTC"))
}

/// The older list without what is `unsaid` by the newer one, then what only the newer one has.
fn unite(old: &ListArray, new: &ListArray, unsaid: impl Fn(usize, &str) -> bool) -> ListArray {
    let mut builder = ListBuilder::new(StringBuilder::new());
    for row in 0..old.len() {
        let items = |list: &ListArray| -> Vec<String> {
            if list.is_null(row) {
                return Vec::new();
            }
            list.value(row).as_string::<i32>().iter().flatten().map(str::to_owned).collect()
        };
        let said = items(new);
        let mut all = items(old);
        all.retain(|item| said.contains(item) || !unsaid(row, item));
        for item in said {
            if !all.contains(&item) {
                all.push(item);
            }
        }
        if all.is_empty() && old.is_null(row) {
            builder.append_null();
        } else {
            all.iter().for_each(|item| builder.values().append_value(item));
            builder.append(true);
        }
    }
    builder.finish()
}

/// Custom fields, key by key; the fresher value wins, and what a fresher document no longer says goes.
fn merge_json(old: &StringArray, new: &StringArray, fresh: &BooleanArray, said: &[Option<document::Said>]) -> ArrayRef {
    let mut builder = StringBuilder::new();
    for (row, said) in said.iter().enumerate() {
        let of = |side: &'_ StringArray| side.is_valid(row).then(|| side.value(row).to_owned());
        match (of(old), of(new)) {
            (Some(old), Some(new)) if old != new && same_json(&old, &new) => builder.append_value(old),
            (Some(old), new) if said.is_some() && Some(&old) != new.as_ref() => {
                let over = new.unwrap_or_else(|| "{}".to_owned());
                let merged =
                    merge_objects(&old, &over, |key| said.as_ref().is_some_and(|said| said.keys.contains(key)));
                builder.append_option(Some(merged.unwrap_or(over)).filter(|merged| merged != "{}"));
            }
            (Some(old), Some(new)) if old != new => {
                let (base, over) = if fresh.value(row) { (old, new) } else { (new, old) };
                builder.append_value(merge_objects(&base, &over, |_| false).unwrap_or(over));
            }
            (old, new) => builder.append_option(old.or(new)),
        }
    }
    Arc::new(builder.finish())
}

/// Whether two texts say the same, in whatever order their keys are.
fn same_json(one: &str, other: &str) -> bool {
    let [one, other] = [one, other].map(serde_json::from_str::<serde_json::Value>);
    matches!((one, other), (Ok(one), Ok(other)) if one == other)
}

fn merge_objects(base: &str, over: &str, unsaid: impl Fn(&str) -> bool) -> Option<String> {
    let mut fields: BTreeMap<String, &RawValue> = serde_json::from_str(base).ok()?;
    fields.retain(|key, _| !unsaid(key));
    fields.extend(serde_json::from_str::<BTreeMap<String, &RawValue>>(over).ok()?);
    serde_json::to_string(&fields).ok()
}

/// Gives every indicator without a verdict that one.
fn fill_score(batch: &mut RecordBatch, score: u8) -> Result<(), StoreError> {
    let native = native_rows(batch);
    let scores = named(batch, c::SCORE)?.as_primitive::<Int8Type>().clone();
    if scores.null_count() > 0 {
        let filled: Int8Array = (0..scores.len())
            .map(|row| match scores.is_valid(row) {
                true => Some(scores.value(row)),
                false => (!native.value(row)).then_some(score as i8),
            })
            .collect();
        replace_column(batch, c::SCORE, Arc::new(filled))?;
    }
    Ok(())
}

fn note_changes(old: &ArrayRef, merged: &ArrayRef, changed: &mut [bool]) -> Result<(), StoreError> {
    if let (Some(old), Some(merged)) = (old.as_list_opt::<i32>(), merged.as_list_opt::<i32>()) {
        for (row, changed) in changed.iter_mut().enumerate() {
            // An empty list says as much as none.
            let empty = |list: &ListArray| list.is_null(row) || list.value_length(row) == 0;
            let same = (empty(old) && empty(merged))
                || (old.is_valid(row) && merged.is_valid(row) && old.value(row).as_ref() == merged.value(row).as_ref());
            *changed |= !same;
        }
        return Ok(());
    }
    let same = not_distinct(&old, &merged)?;
    changed.iter_mut().enumerate().for_each(|(row, changed)| *changed |= !same.value(row));
    Ok(())
}
