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

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, FixedSizeBinaryBuilder, ListArray, ListBuilder,
    RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray, new_null_array,
};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Int32Type, TimestampMicrosecondType};
use roaring::RoaringBitmap;

use crate::ingest::builder::identity_key;
use crate::ingest::edge::{self, stix_id};
use crate::ingest::{json, xsoar};
use crate::model::ids::{IdSpace, ScoFacts, Uuid16, split_stix_id};
use crate::model::kind::{self, StixType};
use crate::model::schema::{self, column as c, kind_value};
use crate::model::time::Timestamp;
use crate::store::{
    Dates, NewRows, SegmentView, Snapshot, StoreError, Writer, bytes_of, id_key, joined, row_runs, uuid_key,
};

/// Edges whose ends are looked up at a time.
const CHUNK_EDGES: usize = 16_384;
/// Reports that are completed at a time.
const CHUNK_REPORTS: usize = 1_024;
/// What is read of a row to tell whether it is an end.
const END_COLUMNS: [&str; 7] = [c::KIND, c::STIX_TYPE, c::ID, c::INDICATOR_ID, c::STIX_ID, c::TYPE, c::VALUE];

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

/// The columns of rows that tell who they are.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    kind: StringArray,
    stix_type: StringArray,
    id: &'a FixedSizeBinaryArray,
    indicator_id: Option<&'a FixedSizeBinaryArray>,
    stix_id: Option<&'a StringArray>,
    xsoar_type: Option<StringArray>,
    value: Option<&'a StringArray>,
    source_ref: Option<&'a StringArray>,
    target_ref: Option<&'a StringArray>,
}

impl<'a> Rows<'a> {
    pub(crate) fn bind(batch: &'a RecordBatch) -> Result<Self, StoreError> {
        let names = |name| -> Result<StringArray, StoreError> {
            Ok(cast(batch.column(batch.schema_ref().index_of(name)?), &DataType::Utf8)?.as_string::<i32>().clone())
        };
        let texts = |name| batch.column_by_name(name).and_then(|array| array.as_string_opt::<i32>());
        let uuids = |name| batch.column_by_name(name).and_then(|array| array.as_fixed_size_binary_opt());
        Ok(Rows {
            kind: names(c::KIND)?,
            stix_type: names(c::STIX_TYPE)?,
            id: batch.column(batch.schema_ref().index_of(c::ID)?).as_fixed_size_binary(),
            indicator_id: uuids(c::INDICATOR_ID),
            stix_id: texts(c::STIX_ID),
            xsoar_type: names(c::TYPE).ok(),
            value: texts(c::VALUE),
            source_ref: texts(c::SOURCE_REF),
            target_ref: texts(c::TARGET_REF),
        })
    }

    /// Whether it is a definition of the store's own.
    pub(crate) fn is_definition(&self, at: usize) -> bool {
        self.kind.value(at) == kind_value::DEFINITION
    }

    fn is_report(&self, at: usize) -> bool {
        self.kind.value(at) == kind_value::INDICATOR && self.type_of(at) == Some(StixType::Report.as_str())
    }

    fn type_of(&self, at: usize) -> Option<&str> {
        text(Some(&self.stix_type), at)
    }

    /// The id under which the row is served where no `indicator` is made of it; `None` when it never is.
    fn stix_id(&self, at: usize) -> Option<String> {
        let whole = text(self.stix_id, at).filter(|_| self.kind.value(at) != kind_value::INDICATOR);
        match whole {
            Some(whole) => Some(whole.to_owned()),
            None => {
                let mut id = format!("{}--", self.type_of(at)?).into_bytes();
                crate::model::ids::write_uuid(&uuid(Some(self.id), at)?, &mut id);
                String::from_utf8(id).ok()
            }
        }
    }

    /// The id of the `indicator` that may be made of the row.
    fn indicator(&self, at: usize) -> Option<Uuid16> {
        let may = self.kind.value(at) == kind_value::INDICATOR
            && self.type_of(at).and_then(StixType::named).is_some_and(StixType::can_be_indicator);
        uuid(self.indicator_id, at).filter(|_| may)
    }

    fn key(&self, at: usize, buffer: &mut Vec<u8>) -> u64 {
        if self.kind.value(at) == kind_value::INDICATOR {
            let xsoar_type = text(self.xsoar_type.as_ref(), at).unwrap_or_default();
            return identity_key((xsoar_type, text(self.value, at).unwrap_or_default()), buffer);
        }
        identity_key(("stix", &self.stix_id(at).unwrap_or_default()), buffer)
    }
}

fn text(array: Option<&StringArray>, at: usize) -> Option<&str> {
    array.filter(|array| array.is_valid(at)).map(|array| array.value(at))
}

fn uuid(array: Option<&FixedSizeBinaryArray>, at: usize) -> Option<Uuid16> {
    array.filter(|array| array.is_valid(at)).and_then(|array| array.value(at).try_into().ok())
}

fn is_report(id: &str) -> bool {
    split_stix_id(id).is_some_and(|(stix_type, _)| stix_type == StixType::Report.as_str())
}

fn sorted(keys: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut keys: Vec<u64> = keys.collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

impl Held {
    /// Keeps back what must come last; gives back the rest, with those of its rows that are stale.
    pub(crate) fn hold(&mut self, rows: NewRows, stale: Vec<u32>) -> Result<(NewRows, Vec<u32>), StoreError> {
        let is_edge = where_named(&rows.batch, c::KIND, kind_value::RELATIONSHIP);
        let is_report = where_named(&rows.batch, c::STIX_TYPE, StixType::Report.as_str())
            .zip(where_named(&rows.batch, c::KIND, kind_value::INDICATOR))
            .map(|(reports, indicators)| reports.iter().zip(indicators).map(|(a, b)| *a && b).collect::<Vec<bool>>());
        if is_edge.is_none() && is_report.is_none() {
            return Ok((rows, stale));
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
        let edges = of(&|at| is_edge[at] && !is_stale[at])?;
        let stale_edges = of(&|at| is_edge[at] && is_stale[at])?;
        let reports = of(&|at| is_report[at])?;
        for (list, rows) in [(&mut self.edges, edges), (&mut self.stale, stale_edges), (&mut self.reports, reports)] {
            if !rows.keys.is_empty() {
                self.rows += rows.keys.len();
                self.bytes += bytes_of(&rows.batch);
                list.push(rows);
            }
        }
        let left = (0..count).filter(|at| !is_edge[*at] && !is_report[*at]);
        let stale = left.enumerate().filter(|(_, at)| is_stale[*at]).map(|(place, _)| place as u32).collect();
        Ok((of(&|at| !is_edge[at] && !is_report[at])?, stale))
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

/// Which rows have that text in a dictionary column; `None` when there are none.
fn where_named(batch: &RecordBatch, column: &str, name: &str) -> Option<Vec<bool>> {
    let array = batch.column_by_name(column)?.as_dictionary_opt::<Int32Type>()?;
    let values = array.values().as_string_opt::<i32>()?;
    let wanted: Vec<bool> = values.iter().map(|value| value == Some(name)).collect();
    if !wanted.contains(&true) {
        return None;
    }
    let is = |key: Option<i32>| key.and_then(|key| wanted.get(key as usize)).copied().unwrap_or(false);
    let rows: Vec<bool> = array.keys().iter().map(is).collect();
    rows.contains(&true).then_some(rows)
}

fn picked(rows: &NewRows, wanted: &[bool]) -> Result<NewRows, StoreError> {
    let of = |numbers: &[u64]| numbers.iter().zip(wanted).filter(|(_, wanted)| **wanted).map(|(n, _)| *n).collect();
    Ok(NewRows {
        batch: filter_record_batch(&rows.batch, &BooleanArray::from(wanted.to_vec()))?,
        keys: of(&rows.keys),
        digests: of(&rows.digests),
    })
}

/// What an edge asks for.
#[derive(Debug)]
enum Ask<'a> {
    /// An indicator by type and value; else the object of the id that such an indicator would have.
    Named { key: u64, xsoar_type: &'a str, value: &'a str, id: Option<String> },
    /// A STIX id.
    Id(&'a str),
    /// Something that is never there.
    Nothing,
}

impl<'a> Ask<'a> {
    fn named(xsoar_type: &'a str, value: &'a str, ids: &IdSpace, buffer: &mut Vec<u8>) -> Self {
        if xsoar_type.is_empty() {
            return Ask::Nothing;
        }
        let id = kind::stix_type(xsoar_type, value).map(|stix_type| {
            let uuid = if stix_type.is_sco() {
                ids.sco(stix_type.as_str(), &ScoFacts { value, ..ScoFacts::default() })
            } else {
                ids.sdo(stix_type.as_str(), value)
            };
            stix_id(stix_type, &uuid)
        });
        Ask::Named { key: identity_key((xsoar_type, value), buffer), xsoar_type, value, id }
    }

    fn id(&self) -> Option<&str> {
        match self {
            Ask::Named { id, .. } => id.as_deref(),
            Ask::Id(id) => Some(id),
            Ask::Nothing => None,
        }
    }

    fn key(&self) -> Option<u64> {
        match self {
            Ask::Named { key, .. } => Some(*key),
            Ask::Id(_) | Ask::Nothing => None,
        }
    }

    /// The keys by which it is found when it comes.
    fn keys(&self) -> impl Iterator<Item = u64> {
        self.key().into_iter().chain(self.id().map(id_key))
    }
}

/// Both ends of each edge: source, target.
fn asks<'a>(batch: &'a RecordBatch, ids: &IdSpace) -> Vec<[Ask<'a>; 2]> {
    let refs =
        [c::SOURCE_REF, c::TARGET_REF].map(|name| batch.column_by_name(name).and_then(|a| a.as_string_opt::<i32>()));
    let names = batch.column_by_name(edge::NAMES.name()).and_then(|array| array.as_list_opt::<i32>());
    let texts = names.and_then(|names| names.values().as_string_opt::<i32>());
    let mut buffer = Vec::new();
    let mut named = |at: usize, side: usize| {
        let names = names.filter(|names| names.is_valid(at))?;
        let first = usize::try_from(*names.value_offsets().get(at)?).ok()? + 2 * side;
        let part = |at: usize| texts.filter(|texts| at < texts.len()).and_then(|texts| text(Some(texts), at));
        Some(Ask::named(part(first)?, part(first + 1)?, ids, &mut buffer))
    };
    let mut ask = |at: usize, side: usize| {
        let by_id = || text(refs.get(side).copied().flatten(), at).map_or(Ask::Nothing, Ask::Id);
        named(at, side).unwrap_or_else(by_id)
    };
    (0..batch.num_rows()).map(|at| [ask(at, 0), ask(at, 1)]).collect()
}

/// A row that is an end.
#[derive(Debug)]
struct End {
    id: String,
    indicator: Option<Uuid16>,
    /// Whether it is a report made from an indicator.
    report: bool,
}

/// Rows that may be ends, found by key and by id.
#[derive(Debug)]
struct Ends {
    batch: RecordBatch,
    by_key: HashMap<u64, Vec<u32>>,
    by_uuid: HashMap<Uuid16, Vec<u32>>,
    by_text: HashMap<String, u32>,
}

impl Ends {
    fn new(batch: RecordBatch) -> Result<Self, StoreError> {
        let mut ends = Ends { batch, by_key: HashMap::new(), by_uuid: HashMap::new(), by_text: HashMap::new() };
        let rows = Rows::bind(&ends.batch)?;
        let mut buffer = Vec::new();
        for at in 0..ends.batch.num_rows() {
            let is_indicator = match rows.kind.value(at) {
                kind_value::INDICATOR => true,
                kind_value::OBJECT => false,
                // Nothing points at an edge (STIX 2.1 §5.1).
                _ => continue,
            };
            if rows.type_of(at).is_none() {
                continue;
            }
            if is_indicator {
                ends.by_key.entry(rows.key(at, &mut buffer)).or_default().push(at as u32);
            } else if let Some(whole) = text(rows.stix_id, at) {
                ends.by_text.insert(whole.to_owned(), at as u32);
                continue;
            }
            for uuid in uuid(Some(rows.id), at).into_iter().chain(rows.indicator(at)) {
                ends.by_uuid.entry(uuid).or_default().push(at as u32);
            }
        }
        Ok(ends)
    }

    fn find(&self, rows: &Rows<'_>, ask: &Ask<'_>) -> Option<End> {
        let by_key = match ask {
            Ask::Named { key, xsoar_type, value, .. } => {
                let is_it = |at: &u32| {
                    text(rows.xsoar_type.as_ref(), *at as usize) == Some(*xsoar_type)
                        && text(rows.value, *at as usize) == Some(*value)
                };
                self.by_key.get(key).and_then(|places| places.iter().copied().find(is_it))
            }
            Ask::Id(_) | Ask::Nothing => None,
        };
        let at = by_key.or_else(|| self.by_id(rows, ask.id()?))? as usize;
        Some(End { id: rows.stix_id(at)?, indicator: rows.indicator(at), report: rows.is_report(at) })
    }

    fn by_id(&self, rows: &Rows<'_>, id: &str) -> Option<u32> {
        let Some((stix_type, uuid_asked)) = split_stix_id(id) else { return self.by_text.get(id).copied() };
        let is_it = |at: &u32| {
            let at = *at as usize;
            (rows.type_of(at) == Some(stix_type) && uuid(Some(rows.id), at) == Some(uuid_asked))
                || (stix_type == StixType::Indicator.as_str() && rows.indicator(at) == Some(uuid_asked))
        };
        let found: Vec<u32> = self.by_uuid.get(&uuid_asked)?.iter().copied().filter(is_it).collect();
        // Of an indicator and an object of one id, the indicator knows more.
        let indicator = found.iter().copied().find(|at| rows.kind.value(*at as usize) == kind_value::INDICATOR);
        indicator.or_else(|| found.first().copied())
    }
}

/// Edges whose ends were looked up.
struct Filled {
    /// The rows; those with both ends have their ids.
    batch: RecordBatch,
    complete: Vec<bool>,
    /// Whether one of them is a report made from an indicator.
    at_report: Vec<bool>,
    /// What the others miss: key, row.
    missing: Vec<(u64, u32)>,
}

/// Where ends are looked up: the log with this commit, and the reports kept back.
struct Finder<'a> {
    log: &'a Snapshot,
    held: Ends,
    ids: &'a IdSpace,
}

impl Finder<'_> {
    /// The candidates in the log for what edges ask for.
    fn candidates(&self, asks: &[[Ask<'_>; 2]]) -> Result<Ends, StoreError> {
        let keys = sorted(asks.iter().flatten().filter_map(Ask::key));
        let ids = sorted(asks.iter().flatten().filter_map(|ask| ask.id().map(id_key)));
        let mut places = self.log.find_ids(&ids)?;
        let by_key = self.log.find_keys(&keys)?.into_iter().filter(|found| found.live);
        places.extend(by_key.map(|found| (found.segment, found.row)));
        places.sort_unstable();
        places.dedup();
        Ends::new(self.log.read_rows(&places, &END_COLUMNS)?)
    }

    /// Looks up the ends of edges and fills them in.
    fn fill(&self, batch: &RecordBatch) -> Result<Filled, StoreError> {
        let asks = asks(batch, self.ids);
        let found = self.candidates(&asks)?;
        let (rows, held) = (Rows::bind(&found.batch)?, Rows::bind(&self.held.batch)?);
        let end = |ask: &Ask<'_>| self.held.find(&held, ask).or_else(|| found.find(&rows, ask));
        let old = [(c::SOURCE_REF, c::SOURCE_INDICATOR_ID), (c::TARGET_REF, c::TARGET_INDICATOR_ID)].map(
            |(id, indicator)| {
                let ids = batch.column_by_name(id).and_then(|array| array.as_string_opt::<i32>());
                let indicators = batch.column_by_name(indicator).and_then(|array| array.as_fixed_size_binary_opt());
                (ids, indicators)
            },
        );
        let count = batch.num_rows();
        let mut ids = [StringBuilder::new(), StringBuilder::new()];
        let mut indicators =
            [FixedSizeBinaryBuilder::with_capacity(count, 16), FixedSizeBinaryBuilder::with_capacity(count, 16)];
        let mut filled = Filled {
            batch: batch.clone(),
            complete: Vec::with_capacity(count),
            at_report: Vec::with_capacity(count),
            missing: Vec::new(),
        };
        for (at, asked) in asks.iter().enumerate() {
            let ends = [end(&asked[0]), end(&asked[1])];
            let complete = ends.iter().all(Option::is_some);
            filled.at_report.push(ends.iter().flatten().any(|end| end.report));
            filled.complete.push(complete);
            for side in 0..2 {
                let (id, indicator) = match &ends[side] {
                    // A native edge keeps the id it came with, whichever of the end's two that is.
                    Some(end) if complete => match &asked[side] {
                        Ask::Id(id) => (Some(Cow::Borrowed(*id)), end.indicator),
                        Ask::Named { .. } | Ask::Nothing => (Some(Cow::Borrowed(end.id.as_str())), end.indicator),
                    },
                    _ => (text(old[side].0, at).map(Cow::Borrowed), uuid(old[side].1, at)),
                };
                ids[side].append_option(id);
                match indicator {
                    Some(indicator) => indicators[side].append_value(indicator)?,
                    None => indicators[side].append_null(),
                }
                if ends[side].is_none() {
                    filled.missing.extend(asked[side].keys().map(|key| (key, at as u32)));
                }
            }
        }
        let [source, target] = ids;
        let [source_indicator, target_indicator] = indicators;
        set(&mut filled.batch, c::SOURCE_REF, string(source))?;
        set(&mut filled.batch, c::TARGET_REF, string(target))?;
        set(&mut filled.batch, c::SOURCE_INDICATOR_ID, binary(source_indicator))?;
        set(&mut filled.batch, c::TARGET_INDICATOR_ID, binary(target_indicator))?;
        Ok(filled)
    }
}

fn string(mut builder: StringBuilder) -> ArrayRef {
    Arc::new(builder.finish())
}

fn binary(mut builder: FixedSizeBinaryBuilder) -> ArrayRef {
    Arc::new(builder.finish())
}

fn set(batch: &mut RecordBatch, name: &str, array: ArrayRef) -> Result<(), StoreError> {
    let mut columns = batch.columns().to_vec();
    let at = batch.schema_ref().index_of(name)?;
    if let Some(column) = columns.get_mut(at) {
        *column = array;
    }
    *batch = RecordBatch::try_new(batch.schema(), columns)?;
    Ok(())
}

/// Edges as the log has them: without the names of their ends.
fn nameless(mut rows: NewRows) -> Result<NewRows, StoreError> {
    let count = rows.batch.num_rows();
    set(&mut rows.batch, edge::NAMES.name(), new_null_array(&schema::text_list_type(), count))?;
    Ok(rows)
}

/// What an edge adds to the references of a report.
#[derive(Debug, Clone)]
struct Added {
    id: String,
    indicator: Option<Uuid16>,
}

type ByReport = HashMap<String, Vec<Added>>;

/// Notes what edges that were not withdrawn add to the reports they touch, where those are wanted.
fn note_added(edges: &RecordBatch, wanted: impl Fn(&str) -> bool, by_report: &mut ByReport) -> Result<(), StoreError> {
    let rows = Rows::bind(edges)?;
    let revoked = edges.column_by_name(c::REVOKED).and_then(|array| array.as_boolean_opt());
    let indicators = [c::SOURCE_INDICATOR_ID, c::TARGET_INDICATOR_ID]
        .map(|name| edges.column_by_name(name).and_then(|a| a.as_fixed_size_binary_opt()));
    for at in 0..edges.num_rows() {
        if revoked.is_some_and(|revoked| revoked.is_valid(at) && revoked.value(at)) {
            continue;
        }
        let (Some(source), Some(target)) = (text(rows.source_ref, at), text(rows.target_ref, at)) else { continue };
        for (report, other, indicator) in [(source, target, indicators[1]), (target, source, indicators[0])] {
            if !is_report(report) || !wanted(report) {
                continue;
            }
            let added = by_report.entry(report.to_owned()).or_default();
            if other != report {
                added.push(Added { id: other.to_owned(), indicator: uuid(indicator, at) });
            }
            added.extend(rows.stix_id(at).map(|id| Added { id, indicator: None }));
        }
    }
    Ok(())
}

/// What the live edges of the log add to these reports.
fn added_in(log: &Snapshot, reports: &BTreeSet<String>) -> Result<ByReport, StoreError> {
    let mut by_report = ByReport::new();
    let columns = [
        c::KIND,
        c::STIX_TYPE,
        c::ID,
        c::STIX_ID,
        c::REVOKED,
        c::SOURCE_REF,
        c::TARGET_REF,
        c::SOURCE_INDICATOR_ID,
        c::TARGET_INDICATOR_ID,
    ];
    for (segment, rows) in log.find_edges(&sorted(reports.iter().map(|id| id_key(id))))? {
        let Some(view) = log.view(segment) else { continue };
        for batch in view.segment.read(&row_runs(&rows), &columns, CHUNK_EDGES)? {
            note_added(&batch?, |report| reports.contains(report), &mut by_report)?;
        }
    }
    Ok(by_report)
}

/// The references that a report has of its own, without those that `added` says its edges added.
fn own_refs(refs: &ListArray, document: Option<&str>, added: &[Added], at: usize) -> Vec<String> {
    if refs.is_null(at) {
        return Vec::new();
    }
    let said: HashSet<Cow<'_, str>> = document
        .and_then(|document| json::member(json::member(document, "CustomFields")?, "reportobjectreferences"))
        .map(|raw| xsoar::report_refs(raw).collect())
        .unwrap_or_default();
    let added: HashSet<&str> = added.iter().map(|added| added.id.as_str()).collect();
    let refs = refs.value(at);
    let all = refs.as_string_opt::<i32>().into_iter().flat_map(|refs| refs.iter().flatten());
    all.filter(|id| !added.contains(id) || said.contains(*id)).map(str::to_owned).collect()
}

/// Takes from reports of the store what their edges added, so that they compare with what an input says.
pub(crate) fn without_added(log: &Snapshot, batch: RecordBatch) -> Result<RecordBatch, StoreError> {
    if where_named(&batch, c::STIX_TYPE, StixType::Report.as_str()).is_none() || !log.has_edges() {
        return Ok(batch);
    }
    let rows = Rows::bind(&batch)?;
    let of_row: Vec<Option<String>> =
        (0..batch.num_rows()).map(|at| rows.stix_id(at).filter(|_| rows.is_report(at))).collect();
    let added = added_in(log, &of_row.iter().flatten().cloned().collect())?;
    if added.is_empty() {
        return Ok(batch);
    }
    let none = Vec::new();
    let refs = references(&batch, |at| match &of_row[at] {
        Some(id) => Some((added.get(id).unwrap_or(&none).as_slice(), &[])),
        None => None,
    })?;
    drop(rows);
    refs.set(batch)
}

/// New columns of references.
struct References {
    refs: ArrayRef,
    indicators: ArrayRef,
    changed: Vec<bool>,
}

impl References {
    fn set(self, mut batch: RecordBatch) -> Result<RecordBatch, StoreError> {
        set(&mut batch, c::OBJECT_REFS, self.refs)?;
        set(&mut batch, c::OBJECT_REF_INDICATORS, self.indicators)?;
        Ok(batch)
    }
}

/// References of each row: its own, found by taking away what was added, then what is added now. Rows for which nothing is said keep
/// theirs.
fn references<'a>(
    batch: &RecordBatch,
    added: impl Fn(usize) -> Option<(&'a [Added], &'a [Added])>,
) -> Result<References, StoreError> {
    let column = |name| -> Result<&ListArray, StoreError> {
        Ok(batch.column(batch.schema_ref().index_of(name)?).as_list::<i32>())
    };
    let (old, old_indicators) = (column(c::OBJECT_REFS)?, column(c::OBJECT_REF_INDICATORS)?);
    let documents = batch.column_by_name(c::DOCUMENT).and_then(|array| array.as_string_opt::<i32>());
    let mut refs = ListBuilder::new(StringBuilder::new());
    let mut indicators = ListBuilder::new(StringBuilder::new());
    let mut changed = Vec::with_capacity(batch.num_rows());
    let texts = |list: &ListArray, at: usize| -> Vec<String> {
        let items = list.is_valid(at).then(|| list.value(at));
        let items = items.as_ref().and_then(|items| items.as_string_opt::<i32>());
        items.into_iter().flat_map(|items| items.iter().map(|item| item.unwrap_or_default().to_owned())).collect()
    };
    let put = |builder: &mut ListBuilder<StringBuilder>, texts: &[String]| {
        texts.iter().for_each(|text| builder.values().append_value(text));
        builder.append(!texts.is_empty());
    };
    for at in 0..batch.num_rows() {
        let (before, before_indicators) = (texts(old, at), texts(old_indicators, at));
        let Some((was, is)) = added(at) else {
            put(&mut refs, &before);
            put(&mut indicators, &before_indicators);
            changed.push(false);
            continue;
        };
        let mut now = own_refs(old, text(documents, at), was, at);
        let mut now_indicators = vec![String::new(); now.len()];
        let mut known: HashSet<String> = now.iter().cloned().collect();
        for added in is {
            if known.insert(added.id.clone()) {
                now.push(added.id.clone());
                now_indicators
                    .push(added.indicator.map(|uuid| stix_id(StixType::Indicator, &uuid)).unwrap_or_default());
            }
        }
        if now_indicators.iter().all(String::is_empty) {
            now_indicators.clear();
        }
        changed.push(now != before || now_indicators != before_indicators);
        put(&mut refs, &now);
        put(&mut indicators, &now_indicators);
    }
    Ok(References { refs: Arc::new(refs.finish()), indicators: Arc::new(indicators.finish()), changed })
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
    let reports = joined(reports)?;
    let held = Ends::new(reports.batch.clone())?;
    let mut linker = Linker {
        writer,
        base: &base,
        log: &log,
        finder: Finder { log: &log, held, ids },
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
    linker.reports(reports, now, dates)?;
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
    fn reports(&mut self, held: NewRows, now: Timestamp, dates: Dates) -> Result<(), StoreError> {
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

/// `modified` of reports that changed: a changed object is a newer version (STIX 2.1 §3.6).
fn newer(batch: &RecordBatch, now: Timestamp, dates: Dates) -> Result<ArrayRef, StoreError> {
    let before = batch.column(batch.schema_ref().index_of(c::MODIFIED)?).as_primitive::<TimestampMicrosecondType>();
    let now_ms = now.0 / 1_000 * 1_000;
    let bump = |before: Option<i64>| match (before, dates) {
        (Some(before), Dates::OfCommit) => now_ms.max(before + 1_000),
        (Some(before), Dates::OfRows) => before + 1_000,
        (None, _) => now_ms,
    };
    let modified: TimestampMicrosecondArray = before.iter().map(|before| Some(bump(before))).collect();
    Ok(Arc::new(modified.with_timezone("UTC")))
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

/// What the first edges that wait are waiting for, at most so many.
pub(crate) fn awaited_ends(log: &Snapshot, ids: &IdSpace, most: usize) -> Result<Vec<String>, StoreError> {
    let mut shown = Vec::new();
    let finder = Finder { log, held: Ends::new(RecordBatch::new_empty(schema::input_schema()))?, ids };
    for view in log.waiting() {
        let live = view.live_ranges(0..view.segment.rows());
        let first: RoaringBitmap = live.into_iter().flatten().take(16 * most).collect();
        let columns = [c::SOURCE_REF, c::TARGET_REF, edge::NAMES.name()];
        for batch in view.segment.read(&row_runs(&first), &columns, CHUNK_EDGES)? {
            let batch = batch?;
            let asks = asks(&batch, ids);
            let found = finder.candidates(&asks)?;
            let rows = Rows::bind(&found.batch)?;
            let names = batch.column_by_name(edge::NAMES.name()).and_then(|array| array.as_list_opt::<i32>());
            for (at, asked) in asks.iter().enumerate() {
                for (side, ask) in asked.iter().enumerate() {
                    if found.find(&rows, ask).is_some() {
                        continue;
                    }
                    let text = match ask {
                        Ask::Named { xsoar_type, value, id: Some(_), .. } => format!("{xsoar_type} {value}"),
                        Ask::Named { xsoar_type, value, id: None, .. } => {
                            format!("{xsoar_type} {value}, which has no STIX form")
                        }
                        Ask::Id(id) => (*id).to_owned(),
                        Ask::Nothing => {
                            let names = names.filter(|names| names.is_valid(at)).map(|names| names.value(at));
                            let name = names.as_ref().and_then(|names| text_of(names, 2 * side + 1));
                            format!("{}, which is no indicator", name.unwrap_or_default())
                        }
                    };
                    let text: String = text.chars().take(120).collect();
                    if !shown.contains(&text) {
                        shown.push(text);
                    }
                    if shown.len() >= most {
                        return Ok(shown);
                    }
                }
            }
        }
    }
    Ok(shown)
}

fn text_of(names: &ArrayRef, at: usize) -> Option<String> {
    let names = names.as_string_opt::<i32>().filter(|names| at < names.len())?;
    text(Some(names), at).map(str::to_owned)
}
