//! Which rows of a segment match: computed once, kept as a bitmap.
//!
//! Segments never change, so neither does which of their rows match a query that does not look at the clock. The first page over a segment
//! runs the compiled query over just the columns it names, on all cores; every later page is set algebra.

use std::num::NonZeroUsize;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::Schema;
use arrow::util::bit_iterator::BitIndexIterator;
use datafusion::common::DFSchema;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use lru::LruCache;
use parking_lot::Mutex;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use roaring::RoaringBitmap;

use crate::feed::api::FeedError;
use crate::model::schema;
use crate::store::{Segment, StoreError, row_runs};

/// A condition on rows, compiled for the columns it names.
#[derive(Debug, Clone)]
pub(crate) struct Predicate {
    /// Names the condition: equal keys, equal rows.
    key: Arc<str>,
    physical: Arc<dyn PhysicalExpr>,
    columns: Vec<&'static str>,
}

impl Predicate {
    /// Compiles an expression over the record's columns.
    pub(crate) fn compile(context: &SessionContext, expr: &Expr) -> Result<Self, FeedError> {
        let failed = |source: datafusion::error::DataFusionError| FeedError::Internal {
            what: "compile the query",
            source: Box::new(source),
        };
        let whole = schema::schema();
        let named = expr.column_refs();
        // A condition without columns still needs rows to be evaluated on.
        let fields: Vec<_> = whole
            .fields()
            .iter()
            .filter(|field| {
                named.iter().any(|column| column.name() == field.name())
                    || (named.is_empty() && field.name() == schema::column::KIND)
            })
            .cloned()
            .collect();
        let columns = fields.iter().filter_map(|field| column_name(field.name())).collect();
        let narrow = DFSchema::try_from(Schema::new(fields)).map_err(failed)?;
        let physical = context.create_physical_expr(expr.clone(), &narrow).map_err(failed)?;
        Ok(Predicate { key: expr.to_string().into(), physical, columns })
    }

    /// Names the condition.
    pub(crate) fn key(&self) -> Arc<str> {
        Arc::clone(&self.key)
    }

    /// The columns that [`Predicate::matches`] needs.
    pub(crate) fn columns(&self) -> &[&'static str] {
        &self.columns
    }

    /// The same for a batch with further columns.
    pub(crate) fn matches_within(&self, batch: &RecordBatch) -> Result<BooleanArray, StoreError> {
        let schema = batch.schema_ref();
        let places: Result<Vec<usize>, _> = self.columns.iter().map(|name| schema.index_of(name)).collect();
        self.matches(&batch.project(&places?)?)
    }

    /// One bit a row; unknown counts as no.
    pub(crate) fn matches(&self, batch: &RecordBatch) -> Result<BooleanArray, StoreError> {
        let value = self.physical.evaluate(batch)?.into_array(batch.num_rows())?;
        let bits = value.as_boolean();
        Ok(match bits.nulls() {
            Some(nulls) => BooleanArray::new(bits.values() & nulls.inner(), None),
            None => bits.clone(),
        })
    }
}

/// The schema's own spelling of a column name, which lives as long as the program.
fn column_name(name: &str) -> Option<&'static str> {
    static NAMES: std::sync::LazyLock<Vec<String>> =
        std::sync::LazyLock::new(|| schema::schema().fields().iter().map(|field| field.name().clone()).collect());
    NAMES.iter().find(|known| *known == name).map(String::as_str)
}

/// Rows of one segment.
#[derive(Debug, Clone)]
pub(crate) enum Rows {
    /// Every one.
    All,
    /// Some.
    Some(Arc<RoaringBitmap>),
}

impl Rows {
    pub(crate) fn intersect(self, other: Rows) -> Rows {
        match (self, other) {
            (Rows::All, rows) | (rows, Rows::All) => rows,
            (Rows::Some(a), Rows::Some(b)) => Rows::Some(Arc::new(&*a & &*b)),
        }
    }

    pub(crate) fn contains(&self, row: u32) -> bool {
        match self {
            Rows::All => true,
            Rows::Some(rows) => rows.contains(row),
        }
    }

    /// These without those.
    fn without(self, others: &Rows, all: u32) -> Rows {
        match (self, others) {
            (_, Rows::All) => Rows::Some(Arc::default()),
            (Rows::All, Rows::Some(others)) => {
                let mut rows = RoaringBitmap::new();
                rows.insert_range(0..all);
                Rows::Some(Arc::new(rows - &**others))
            }
            (Rows::Some(rows), Rows::Some(others)) => Rows::Some(Arc::new(&*rows - &**others)),
        }
    }

    /// These and those.
    pub(crate) fn union(self, others: &Arc<RoaringBitmap>) -> Rows {
        match self {
            Rows::All => Rows::All,
            Rows::Some(rows) => Rows::Some(Arc::new(&*rows | &**others)),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Rows::All => 64,
            Rows::Some(rows) => 64 + rows.serialized_size(),
        }
    }
}

/// What the records of a collection have to do with inboxes.
#[derive(Debug, Clone)]
pub(crate) enum Posted {
    /// Rows of inboxes, for which this holds, are left out.
    LeftOut(Predicate),
    /// There are no others.
    Only,
    /// As the condition has it, since it names the inbox.
    AsSaid,
}

/// The records of a collection, and the definitions they are served with. Where a segment has no rows of inboxes, nobody looks which row
/// is one; and which rows are definitions is known, so that nobody reads what tells one definition from the other of all the others.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    condition: Predicate,
    definitions: Option<Predicate>,
    posted: Posted,
    key: Arc<str>,
}

impl Records {
    pub(crate) fn new(condition: Predicate, definitions: Option<Predicate>, posted: Posted) -> Self {
        let of_definitions = definitions.as_ref().map(Predicate::key).unwrap_or_default();
        let of_posted = if matches!(posted, Posted::LeftOut(_)) { "not posted" } else { "" };
        let key = format!("{}\0{of_definitions}\0{of_posted}", condition.key).into();
        Records { condition, definitions, posted, key }
    }

    /// Names the records: equal keys, equal rows.
    pub(crate) fn key(&self) -> Arc<str> {
        Arc::clone(&self.key)
    }

    /// The rows of a segment, superseded ones included. Runs on the calling pool.
    pub(crate) fn rows(&self, index: &MatchIndex, segment: &Segment) -> Result<Rows, StoreError> {
        let rows = self.records(index, segment)?;
        match &self.definitions {
            Some(definitions) if !segment.meta().definitions.is_empty() => {
                let among = segment.meta().definitions.iter().copied().collect();
                match index.rows_among(segment, definitions, &among)? {
                    Rows::All => Ok(Rows::All),
                    Rows::Some(definitions) => Ok(rows.union(&definitions)),
                }
            }
            _ => Ok(rows),
        }
    }

    fn records(&self, index: &MatchIndex, segment: &Segment) -> Result<Rows, StoreError> {
        let posted = segment.meta().posted_rows();
        match &self.posted {
            Posted::Only if posted == 0 => Ok(Rows::Some(Arc::default())),
            Posted::LeftOut(_) if posted == segment.meta().rows => Ok(Rows::Some(Arc::default())),
            Posted::LeftOut(is_posted) if posted > 0 => {
                let rows = index.rows(segment, &self.condition)?;
                Ok(rows.without(&index.rows(segment, is_posted)?, segment.rows()))
            }
            Posted::LeftOut(_) | Posted::Only | Posted::AsSaid => index.rows(segment, &self.condition),
        }
    }

    /// Conditions that this row has to fulfil, and whether it must.
    pub(crate) fn conditions(&self, segment: &Segment, row: u32) -> impl Iterator<Item = (&Predicate, bool)> {
        let definition = self.definitions.as_ref().filter(|_| segment.meta().definitions.contains(&row));
        let left_out = match &self.posted {
            Posted::LeftOut(is_posted) if definition.is_none() && segment.meta().posted_rows() > 0 => {
                Some((is_posted, false))
            }
            Posted::LeftOut(_) | Posted::Only | Posted::AsSaid => None,
        };
        std::iter::once((definition.unwrap_or(&self.condition), true)).chain(left_out)
    }
}

type CacheKey = (String, Arc<str>);

/// The bitmaps that were computed, within a budget of memory.
#[derive(Debug)]
pub(crate) struct MatchIndex {
    cache: Mutex<Cache>,
    budget_bytes: usize,
}

#[derive(Debug)]
struct Cache {
    rows: LruCache<CacheKey, Rows>,
    bytes: usize,
}

impl MatchIndex {
    pub(crate) fn new(budget_bytes: usize) -> Self {
        let rows = LruCache::new(NonZeroUsize::MIN.saturating_add(99_999));
        MatchIndex { cache: Mutex::new(Cache { rows, bytes: 0 }), budget_bytes }
    }

    /// The rows of `segment` for which `predicate` holds, superseded ones included. Runs on the calling pool.
    pub(crate) fn rows(&self, segment: &Segment, predicate: &Predicate) -> Result<Rows, StoreError> {
        self.kept(segment, predicate, || compute(segment, predicate))
    }

    /// The same, where only these few rows can be meant.
    fn rows_among(&self, segment: &Segment, predicate: &Predicate, among: &RoaringBitmap) -> Result<Rows, StoreError> {
        self.kept(segment, predicate, || {
            let (mut rows, mut all) = (RoaringBitmap::new(), among.iter());
            for batch in segment.read(&row_runs(among), predicate.columns(), 8_192)? {
                let bits = predicate.matches(&batch?)?;
                rows.extend(
                    all.by_ref().take(bits.len()).zip(bits.values()).filter(|(_, bit)| *bit).map(|(row, _)| row),
                );
            }
            Ok(Rows::Some(Arc::new(rows)))
        })
    }

    fn kept(
        &self,
        segment: &Segment,
        predicate: &Predicate,
        compute: impl FnOnce() -> Result<Rows, StoreError>,
    ) -> Result<Rows, StoreError> {
        let key = (segment.id().to_owned(), Arc::clone(&predicate.key));
        if let Some(rows) = self.cache.lock().rows.get(&key) {
            return Ok(rows.clone());
        }
        let rows = compute()?;
        let mut cache = self.cache.lock();
        cache.bytes += rows.bytes();
        if let Some((_, old)) = cache.rows.push(key, rows.clone()) {
            cache.bytes -= old.bytes();
        }
        while cache.bytes > self.budget_bytes {
            let Some((_, old)) = cache.rows.pop_lru() else { break };
            cache.bytes -= old.bytes();
        }
        Ok(rows)
    }
}

fn compute(segment: &Segment, predicate: &Predicate) -> Result<Rows, StoreError> {
    let starts = segment.row_group_starts()?;
    let groups: Vec<std::ops::Range<u32>> = starts.windows(2).map(|pair| pair[0]..pair[1]).collect();
    let parts = groups
        .into_par_iter()
        .map(|group| {
            let mut rows = Vec::new();
            let mut at = group.start;
            for batch in segment.read(std::slice::from_ref(&group), predicate.columns(), 8_192)? {
                let batch = batch?;
                let bits = predicate.matches(&batch)?;
                let values = bits.values();
                rows.extend(
                    BitIndexIterator::new(values.values(), values.offset(), values.len()).map(|bit| at + bit as u32),
                );
                at += batch.num_rows() as u32;
            }
            let mut bitmap = RoaringBitmap::from_sorted_iter(rows).unwrap_or_default();
            bitmap.optimize();
            Ok(bitmap)
        })
        .collect::<Result<Vec<RoaringBitmap>, StoreError>>()?;
    let mut all = RoaringBitmap::new();
    for part in parts {
        all |= part;
    }
    Ok(if all.len() == u64::from(segment.rows()) { Rows::All } else { Rows::Some(Arc::new(all)) })
}
