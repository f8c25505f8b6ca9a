//! Which rows of a segment match: computed once, kept as a bitmap.
//!
//! Segments never change, so neither does which of their rows match a query that does not look at the clock. A page runs the compiled
//! query over just the columns it names, on all cores, and only over as many rows as it takes to fill the page; what is known of them is
//! kept, and once it is known of all, every later page is set algebra. Row groups that cannot hold a match are not read.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::Schema;
use arrow::util::bit_iterator::BitIndexIterator;
use datafusion::common::DFSchema;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};
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
    schema: Arc<Schema>,
    pruning: Arc<OnceLock<Option<PruningPredicate>>>,
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
        let narrow = Arc::new(Schema::new(fields));
        let named = DFSchema::try_from(Arc::clone(&narrow)).map_err(failed)?;
        let physical = context.create_physical_expr(expr.clone(), &named).map_err(failed)?;
        Ok(Predicate { key: expr.to_string().into(), physical, columns, schema: narrow, pruning: Arc::default() })
    }

    /// Names the condition.
    pub(crate) fn key(&self) -> Arc<str> {
        Arc::clone(&self.key)
    }

    /// The columns that [`Predicate::matches`] needs.
    pub(crate) fn columns(&self) -> &[&'static str] {
        &self.columns
    }

    /// What tells row groups that cannot hold a match, if anything does.
    fn pruning(&self) -> Option<&PruningPredicate> {
        let build = || {
            let builder = PruningPredicateBuilder::new().with_file_schema(Arc::clone(&self.schema));
            builder.try_build(Arc::clone(&self.physical)).ok().filter(|pruning| !pruning.always_true())
        };
        self.pruning.get_or_init(build).as_ref()
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
        Ok(self.rows_within(index, segment, 0..segment.rows())?.rows)
    }

    /// The same, for some of them.
    pub(crate) fn rows_within(
        &self,
        index: &MatchIndex,
        segment: &Segment,
        range: Range<u32>,
    ) -> Result<Within, StoreError> {
        let Within { rows, until } = self.records(index, segment, range)?;
        match &self.definitions {
            Some(definitions) if !segment.meta().definitions.is_empty() => {
                let among = segment.meta().definitions.iter().copied().collect();
                match index.rows_among(segment, definitions, &among)? {
                    Rows::All => Ok(Within { rows: Rows::All, until }),
                    Rows::Some(definitions) => Ok(Within { rows: rows.union(&definitions), until }),
                }
            }
            _ => Ok(Within { rows, until }),
        }
    }

    fn records(&self, index: &MatchIndex, segment: &Segment, range: Range<u32>) -> Result<Within, StoreError> {
        let posted = segment.meta().posted_rows();
        let none = || Within { rows: Rows::Some(Arc::default()), until: segment.rows() };
        match &self.posted {
            Posted::Only if posted == 0 => Ok(none()),
            Posted::LeftOut(_) if posted == segment.meta().rows => Ok(none()),
            Posted::LeftOut(is_posted) if posted > 0 => {
                let rows = index.rows_within(segment, &self.condition, range.clone())?;
                let left_out = index.rows_within(segment, is_posted, range)?;
                let until = rows.until.min(left_out.until);
                Ok(Within { rows: rows.rows.without(&left_out.rows, segment.rows()), until })
            }
            Posted::LeftOut(_) | Posted::Only | Posted::AsSaid => index.rows_within(segment, &self.condition, range),
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

/// A segment, and how many of its rows are looked at together: a chunk.
#[derive(Clone, Copy)]
struct Chunked<'a> {
    segment: &'a Segment,
    rows: u32,
}

impl Chunked<'_> {
    fn count(self) -> u32 {
        self.segment.rows().div_ceil(self.rows)
    }

    /// The places of the chunks that a range touches.
    fn touched(self, range: &Range<u32>) -> Range<u32> {
        range.start / self.rows..range.end.div_ceil(self.rows)
    }

    /// The rows of the chunk at a place.
    fn rows_of(self, place: u32) -> Range<u32> {
        place * self.rows..place.saturating_add(1).saturating_mul(self.rows).min(self.segment.rows())
    }
}

/// What is known of a condition and a segment.
#[derive(Debug)]
struct Known {
    state: Mutex<State>,
    /// Memory that it takes.
    bytes: AtomicUsize,
    /// What of that the budget was charged.
    counted: AtomicUsize,
}

#[derive(Debug)]
enum State {
    /// Of some chunks, each by its place.
    Parts(Vec<Option<Arc<RoaringBitmap>>>),
    Whole(Rows),
}

impl Known {
    fn nothing(of: Chunked<'_>) -> Self {
        let chunks = of.count() as usize;
        Known {
            state: Mutex::new(State::Parts(vec![None; chunks])),
            bytes: AtomicUsize::new(64 + 16 * chunks),
            counted: AtomicUsize::new(0),
        }
    }

    /// What is known within the range, or the places of what is missing.
    fn within(&self, of: Chunked<'_>, range: &Range<u32>) -> Result<Within, Vec<u32>> {
        match &*self.state.lock() {
            State::Whole(rows) => Ok(Within { rows: rows.clone(), until: of.segment.rows() }),
            State::Parts(parts) => {
                let touched = of.touched(range);
                let wanted =
                    || touched.clone().map(|place| (place, parts.get(place as usize).and_then(Option::as_ref)));
                let missing: Vec<u32> = wanted().filter(|(_, part)| part.is_none()).map(|(place, _)| place).collect();
                if !missing.is_empty() {
                    return Err(missing);
                }
                let until = of.rows_of(touched.end.saturating_sub(1)).end;
                let all = u64::from(until.saturating_sub(of.rows_of(touched.start).start));
                Ok(Within { rows: joined(wanted().filter_map(|(_, part)| part), all), until })
            }
        }
    }

    /// Adds what was found out.
    fn learn(&self, of: Chunked<'_>, found: Vec<(u32, RoaringBitmap)>) {
        let mut state = self.state.lock();
        let State::Parts(parts) = &mut *state else { return };
        for (place, rows) in found {
            if let Some(part) = parts.get_mut(place as usize) {
                *part = Some(Arc::new(rows));
            }
        }
        let known: usize = parts.iter().flatten().map(|part| 64 + part.serialized_size()).sum();
        self.bytes.store(64 + 16 * parts.len() + known, Ordering::Relaxed);
        if parts.iter().all(Option::is_some) {
            let mut rows = joined(parts.iter().flatten(), u64::from(of.segment.rows()));
            if let Rows::Some(rows) = &mut rows {
                Arc::make_mut(rows).optimize();
            }
            self.bytes.store(rows.bytes(), Ordering::Relaxed);
            *state = State::Whole(rows);
        }
    }
}

/// The rows of neighbouring parts, which have so many in all.
fn joined<'a>(mut parts: impl Iterator<Item = &'a Arc<RoaringBitmap>>, all: u64) -> Rows {
    let Some(first) = parts.next() else { return Rows::Some(Arc::default()) };
    let mut rows = Arc::clone(first);
    for part in parts {
        *Arc::make_mut(&mut rows) |= &**part;
    }
    if rows.len() == all { Rows::All } else { Rows::Some(rows) }
}

/// Rows of a part of a segment: right from where they were asked for up to `until`, which is behind what was asked for, or the segment's
/// end.
#[derive(Debug)]
pub(crate) struct Within {
    pub(crate) rows: Rows,
    pub(crate) until: u32,
}

type CacheKey = (String, Arc<str>);

/// The bitmaps that were computed, within a budget of memory.
#[derive(Debug)]
pub(crate) struct MatchIndex {
    cache: Mutex<Cache>,
    budget_bytes: usize,
    chunk_rows: u32,
}

#[derive(Debug)]
struct Cache {
    known: LruCache<CacheKey, Arc<Known>>,
    bytes: usize,
}

impl MatchIndex {
    /// Within so much memory; `chunk_rows` rows of a segment are looked at together.
    pub(crate) fn new(budget_bytes: usize, chunk_rows: u32) -> Self {
        let known = LruCache::new(NonZeroUsize::MIN.saturating_add(99_999));
        MatchIndex { cache: Mutex::new(Cache { known, bytes: 0 }), budget_bytes, chunk_rows: chunk_rows.max(1) }
    }

    pub(crate) fn chunk_rows(&self) -> u32 {
        self.chunk_rows
    }

    /// The rows of `segment` for which `predicate` holds, superseded ones included. Runs on the calling pool.
    pub(crate) fn rows(&self, segment: &Segment, predicate: &Predicate) -> Result<Rows, StoreError> {
        Ok(self.rows_within(segment, predicate, 0..segment.rows())?.rows)
    }

    /// The same, for some of them.
    pub(crate) fn rows_within(
        &self,
        segment: &Segment,
        predicate: &Predicate,
        range: Range<u32>,
    ) -> Result<Within, StoreError> {
        self.known(segment, predicate, range, |of, missing| compute(of, predicate, missing))
    }

    /// Whether more would soon cost what is known already.
    pub(crate) fn is_nearly_full(&self) -> bool {
        self.cache.lock().bytes > self.budget_bytes / 4 * 3
    }

    /// Whether it holds for this row.
    pub(crate) fn holds(&self, segment: &Segment, predicate: &Predicate, row: u32) -> Result<bool, StoreError> {
        Ok(self.rows_within(segment, predicate, row..row + 1)?.rows.contains(row))
    }

    /// The rows of the segment, where only these few can be meant.
    fn rows_among(&self, segment: &Segment, predicate: &Predicate, among: &RoaringBitmap) -> Result<Rows, StoreError> {
        let known = self.known(segment, predicate, 0..segment.rows(), |of, missing| {
            let (mut rows, mut all) = (RoaringBitmap::new(), among.iter());
            for batch in segment.read(&row_runs(among), predicate.columns(), 8_192)? {
                let bits = predicate.matches(&batch?)?;
                rows.extend(
                    all.by_ref().take(bits.len()).zip(bits.values()).filter(|(_, bit)| *bit).map(|(row, _)| row),
                );
            }
            Ok(missing.iter().map(|place| (*place, rows.range(of.rows_of(*place)).collect())).collect())
        })?;
        Ok(known.rows)
    }

    fn known(
        &self,
        segment: &Segment,
        predicate: &Predicate,
        range: Range<u32>,
        compute: impl FnOnce(Chunked<'_>, &[u32]) -> Result<Vec<(u32, RoaringBitmap)>, StoreError>,
    ) -> Result<Within, StoreError> {
        let of = Chunked { segment, rows: self.chunk_rows };
        let key = (segment.id().to_owned(), Arc::clone(&predicate.key));
        let found = self.cache.lock().known.get(&key).cloned();
        let known = found.unwrap_or_else(|| Arc::new(Known::nothing(of)));
        let missing = match known.within(of, &range) {
            Ok(within) => return Ok(within),
            Err(missing) => missing,
        };
        // Two that ask at the same time both find out: waiting for each other would hold up a thread of the pool.
        known.learn(of, compute(of, &missing)?);
        self.keep(key, &known);
        known.within(of, &range).map_err(|_| StoreError::damaged(segment.describe(), "its rows do not add up"))
    }

    fn keep(&self, key: CacheKey, known: &Arc<Known>) {
        let mut cache = self.cache.lock();
        // Taken out and put back, so that it counts with what it grew by.
        if let Some(old) = cache.known.pop(&key) {
            cache.bytes -= old.counted.swap(0, Ordering::Relaxed);
        }
        let bytes = known.bytes.load(Ordering::Relaxed);
        known.counted.store(bytes, Ordering::Relaxed);
        cache.bytes += bytes;
        if let Some((_, old)) = cache.known.push(key, Arc::clone(known)) {
            cache.bytes -= old.counted.swap(0, Ordering::Relaxed);
        }
        while cache.bytes > self.budget_bytes {
            let Some((_, old)) = cache.known.pop_lru() else { break };
            cache.bytes -= old.counted.swap(0, Ordering::Relaxed);
        }
    }
}

/// The matching rows of each of these chunks.
fn compute(of: Chunked<'_>, predicate: &Predicate, places: &[u32]) -> Result<Vec<(u32, RoaringBitmap)>, StoreError> {
    let segment = of.segment;
    let starts = segment.row_group_starts()?;
    let groups = starts.windows(2).map(|pair| pair[0]..pair[1]);
    let groups: Vec<Range<u32>> = match predicate.pruning() {
        Some(pruning) => {
            groups.zip(segment.may_hold(pruning)?).filter(|(_, may)| *may).map(|(group, _)| group).collect()
        }
        None => groups.collect(),
    };
    // Opening a reader has its price: few of them where there is much to read, and yet some for each core.
    let most = places.len().div_ceil(rayon::current_num_threads() * 4);
    let runs: Vec<&[u32]> =
        places.chunk_by(|a, b| a + 1 == *b).flat_map(|neighbours| neighbours.chunks(most)).collect();
    let found = runs.into_par_iter().map(|run| {
        let rows = run.iter().map(|place| of.rows_of(*place));
        let all = rows.clone().map(|rows| rows.start).min().unwrap_or(0)..rows.map(|rows| rows.end).max().unwrap_or(0);
        let mut matching = Vec::new();
        for group in &groups {
            let part = group.start.max(all.start)..group.end.min(all.end);
            if part.is_empty() {
                continue;
            }
            let mut at = part.start;
            for batch in segment.read(std::slice::from_ref(&part), predicate.columns(), 8_192)? {
                let batch = batch?;
                let bits = predicate.matches(&batch)?;
                let values = bits.values();
                matching.extend(
                    BitIndexIterator::new(values.values(), values.offset(), values.len()).map(|bit| at + bit as u32),
                );
                at += batch.num_rows() as u32;
            }
        }
        let mut rest = matching.as_slice();
        let mut of_chunk = |place: &u32| {
            let (own, others) = rest.split_at(rest.partition_point(|row| row / of.rows <= *place));
            rest = others;
            let mut rows = RoaringBitmap::from_sorted_iter(own.iter().copied()).unwrap_or_default();
            rows.optimize();
            (*place, rows)
        };
        Ok(run.iter().map(&mut of_chunk).collect())
    });
    Ok(found.collect::<Result<Vec<Vec<(u32, RoaringBitmap)>>, StoreError>>()?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{col, lit};

    use super::*;
    use crate::feed::api::Feed;
    use crate::feed::collection::{Catalog, CollectionSpec, Options, QueryText};
    use crate::feed::{FeedOptions, StoreFeed};
    use crate::model::schema::column;
    use crate::store::tests::{domains, import};
    use crate::store::{Store, StoreOptions};

    const ROWS: u32 = 3_000;

    fn store(folder: &tempfile::TempDir) -> Store {
        let location = folder.path().join("store").display().to_string();
        let store = Store::open_or_create(StoreOptions { location, ..StoreOptions::default() }).unwrap();
        import(&store, &domains(0..ROWS as usize, 3)).unwrap();
        store
    }

    fn compiled(expr: &Expr) -> Predicate {
        let context = SessionContext::new();
        crate::query::functions().into_iter().for_each(|function| context.register_udf(function));
        Predicate::compile(&context, expr).unwrap()
    }

    #[test]
    fn a_row_group_that_cannot_hold_a_match_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let snapshot = store.snapshot().unwrap();
        let segment = &snapshot.segments()[0].segment;
        let long_ago = lit(datafusion::common::ScalarValue::TimestampMicrosecond(Some(1), Some("UTC".into())));
        let cases = [
            (col(column::VALUE).eq(lit("h17.example.com")), true),
            (col(column::VALUE).eq(lit("h17.example.org")), false),
            // Between the least and the greatest value, so this is the bloom filter's.
            (col(column::VALUE).eq(lit("h1000.example.com.")), false),
            (col(column::VALUE).in_list(vec![lit("h17.example.org"), lit("h18.example.com")], false), true),
            (col(column::VALUE).in_list(vec![lit("h17.example.org"), lit("h18.example.org")], false), false),
            (col(column::ADDED).lt(long_ago.clone()), false),
            (col(column::ADDED).gt(long_ago), true),
            (col(column::VALUE).not_eq(lit("h17.example.org")), true),
        ];
        for (expr, may) in cases {
            let predicate = compiled(&expr);
            let told = predicate.pruning().map_or(vec![true], |pruning| segment.may_hold(pruning).unwrap());
            assert_eq!(told, [may], "{expr}");
            let rows = MatchIndex::new(1 << 20, 64).rows(segment, &predicate).unwrap();
            // The definitions that come along are in front.
            assert_eq!((17..20).any(|row| rows.contains(row)), may, "{expr}");
        }
    }

    #[test]
    fn only_what_is_asked_for_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let snapshot = store.snapshot().unwrap();
        let segment = &snapshot.segments()[0].segment;
        let index = MatchIndex::new(1 << 20, 64);
        let predicate = compiled(&col(column::VALUE).gt(lit("h2")));
        let until = |range| index.rows_within(segment, &predicate, range).unwrap().until;
        assert_eq!(until(0..1), 64);
        assert_eq!(until(63..65), 128);
        let all = segment.rows();
        assert_eq!(until(2_990..all), all);
        let whole = index.rows(segment, &predicate).unwrap();
        assert_eq!(until(0..1), all);
        let anew = MatchIndex::new(1 << 20, 16_384).rows(segment, &predicate).unwrap();
        assert!((0..all).all(|row| whole.contains(row) == anew.contains(row)));
    }

    #[test]
    fn budgets_hold_while_more_becomes_known() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let snapshot = store.snapshot().unwrap();
        let segment = &snapshot.segments()[0].segment;
        let index = MatchIndex::new(20_000, 64);
        for number in 0..50 {
            let predicate = compiled(&col(column::VALUE).gt(lit(format!("h{number}"))));
            for start in (0..ROWS).step_by(500) {
                index.rows_within(segment, &predicate, start..start + 1).unwrap();
                let cache = index.cache.lock();
                let known: usize = cache.known.iter().map(|(_, known)| known.counted.load(Ordering::Relaxed)).sum();
                assert_eq!(cache.bytes, known);
                assert!(cache.bytes <= 20_000);
            }
        }
    }

    #[test]
    fn collections_are_found_out_before_they_are_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let spec = CollectionSpec::new("odd", QueryText::Xsoar("value:h1*".to_owned()));
        let collection = spec.build(store.ids(), &Options::default()).unwrap();
        let options = FeedOptions { threads: 1, match_rows: 64, ..FeedOptions::default() };
        let feed = StoreFeed::new(store, Catalog::new(vec![collection]).unwrap(), &options).unwrap();
        let collection = Arc::clone(feed.catalog().iter().next().unwrap());
        assert!(!feed.shared().warm(&collection, &|| false).unwrap());
        assert_eq!(feed.match_index().cache.lock().known.len(), 0);
        assert!(feed.shared().warm(&collection, &|| true).unwrap());
        let cache = feed.match_index().cache.lock();
        assert!(!cache.known.is_empty());
        assert!(cache.known.iter().all(|(_, known)| matches!(*known.state.lock(), State::Whole(_))));
    }
}
