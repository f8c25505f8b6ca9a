//! Looking up the ends of edges, by name and by id.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeBinaryBuilder, RecordBatch, StringBuilder, new_null_array};
use roaring::RoaringBitmap;

use super::CHUNK_EDGES;
use super::rows::{Rows, set, sorted, text, uuid};
use crate::ingest::builder::identity_key;
use crate::ingest::edge::{self, stix_id};
use crate::model::ids::{IdSpace, ScoFacts, Uuid16, split_stix_id};
use crate::model::kind::{self, StixType};
use crate::model::schema::{self, column as c, kind_value};
use crate::store::{NewRows, Snapshot, StoreError, id_key, row_runs};

/// What is read of a row to tell whether it is an end.
pub(super) const END_COLUMNS: [&str; 8] =
    [c::KIND, c::STIX_TYPE, c::ID, c::INDICATOR_ID, c::STIX_ID, c::TYPE, c::VALUE, c::INBOX];

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
    own_id: Option<String>,
    /// Whether it is a report made from an indicator.
    report: bool,
}

/// Rows that may be ends, found by key and by id.
#[derive(Debug)]
pub(super) struct Ends {
    batch: RecordBatch,
    by_key: HashMap<u64, Vec<u32>>,
    by_uuid: HashMap<Uuid16, Vec<u32>>,
    by_text: HashMap<String, u32>,
}

impl Ends {
    pub(super) fn new(batch: RecordBatch) -> Result<Self, StoreError> {
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
            // What lies in an inbox is for those who read that inbox, and may be deleted by whoever posted it.
            if rows.type_of(at).is_none() || text(rows.inbox, at).is_some() {
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
        Some(End {
            id: rows.stix_id(at)?,
            indicator: rows.indicator(at),
            own_id: rows.own_id(at).map(str::to_owned),
            report: rows.is_report(at),
        })
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
pub(super) struct Filled {
    /// The rows; those with both ends have their ids.
    pub(super) batch: RecordBatch,
    pub(super) complete: Vec<bool>,
    /// Whether one of them is a report made from an indicator.
    pub(super) at_report: Vec<bool>,
    /// What the others miss: key, row.
    pub(super) missing: Vec<(u64, u32)>,
}

/// Where ends are looked up: the log with this commit, and the reports kept back.
pub(super) struct Finder<'a> {
    log: &'a Snapshot,
    held: Ends,
    ids: &'a IdSpace,
}

impl<'a> Finder<'a> {
    pub(super) fn new(log: &'a Snapshot, held: Ends, ids: &'a IdSpace) -> Self {
        Finder { log, held, ids }
    }

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
    pub(super) fn fill(&self, batch: &RecordBatch) -> Result<Filled, StoreError> {
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
        let mut own_ids = [StringBuilder::new(), StringBuilder::new()];
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
                own_ids[side].append_option(ends[side].as_ref().and_then(|end| end.own_id.as_deref()));
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
        let [source_own, target_own] = own_ids;
        set(&mut filled.batch, c::SOURCE_STIX_ID, string(source_own))?;
        set(&mut filled.batch, c::TARGET_STIX_ID, string(target_own))?;
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

/// Edges as the log has them: without the names of their ends.
pub(super) fn nameless(mut rows: NewRows) -> Result<NewRows, StoreError> {
    let count = rows.batch.num_rows();
    set(&mut rows.batch, edge::NAMES.name(), new_null_array(&schema::text_list_type(), count))?;
    Ok(rows)
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
