//! Which relationships a collection holds: those with both ends in it.
//!
//! The log never has a relationship before its ends, and brings it again behind an end that changes; so which rows are complete can be
//! told from the ends' own rows. Where the ends lie is the same for every collection, and kept per version of the store.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use lru::LruCache;
use parking_lot::Mutex;
use roaring::RoaringBitmap;

use crate::feed::matching::{MatchIndex, Predicate, Records, Rows};
use crate::model::schema::column;
use crate::model::time::Timestamp;
use crate::store::{SegmentView, Snapshot, StoreError, id_key, row_runs};

/// Versions of the store whose edges are kept at hand.
const SNAPSHOTS: usize = 4;
/// Collections times versions times instants whose complete edges are kept at hand.
const MEMBERSHIPS: usize = 256;
const BATCH_ROWS: usize = 8_192;

/// A row: segment, row.
type Place = (u32, u32);

/// One relationship and the rows that its ends may be.
#[derive(Debug)]
struct Edge {
    row: u32,
    revoked: bool,
    source: End,
    target: End,
}

#[derive(Debug)]
struct End {
    /// Into [`Edges::places`].
    places: Range<u32>,
    form: Form,
}

/// Which of the two objects that an indicator can be served as an end names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Whichever is served: the reference follows it.
    Either,
    /// The `indicator`.
    Indicator,
    /// The observable or domain object.
    Itself,
}

/// The live relationships of one version of the store, by segment.
#[derive(Debug)]
struct Edges {
    segments: Vec<(usize, Vec<Edge>)>,
    places: Vec<Place>,
}

/// What decides on the ends.
#[derive(Debug)]
pub(crate) struct Ends {
    /// The records of the collection.
    pub(crate) records: Records,
    /// Must hold for them as well; names the instant it is asked for.
    pub(crate) clocked: Option<Predicate>,
    /// Holds for records that the collection serves as `indicator`.
    pub(crate) as_indicator: Predicate,
    /// Holds for relationship rows that the collection may serve.
    pub(crate) servable: Predicate,
    /// Whether withdrawn ones count.
    pub(crate) revoked: bool,
}

/// Complete relationships of a collection, by segment; segments without any are absent.
pub(crate) type Complete = HashMap<usize, Arc<RoaringBitmap>>;

/// The relationships of a collection in one version of the store, worked out when the first is met: most pages end before.
#[derive(Debug)]
pub(crate) struct Related<'a> {
    edges: &'a EdgeIndex,
    index: &'a MatchIndex,
    snapshot: &'a Snapshot,
    /// `None`: the request gets none.
    ends: Option<Ends>,
    complete: OnceCell<Arc<Complete>>,
}

impl<'a> Related<'a> {
    pub(crate) fn new(edges: &'a EdgeIndex, index: &'a MatchIndex, snapshot: &'a Snapshot, ends: Option<Ends>) -> Self {
        Related { edges, index, snapshot, ends, complete: OnceCell::new() }
    }

    /// Those in a segment, by its place. Runs on the calling pool.
    pub(crate) fn of_segment(&self, place: usize) -> Result<Option<&Arc<RoaringBitmap>>, StoreError> {
        let holds_some = self.snapshot.segments().get(place).is_some_and(|view| view.segment.has_edges());
        let Some(ends) = self.ends.as_ref().filter(|_| holds_some) else { return Ok(None) };
        let complete = match self.complete.get() {
            Some(complete) => complete,
            None => {
                let complete = self.edges.complete(self.snapshot, self.index, ends)?;
                self.complete.get_or_init(|| complete)
            }
        };
        Ok(complete.get(&place))
    }
}

/// Version of the store, conditions, whether withdrawn ones count.
type MembershipKey = (u64, [Option<Arc<str>>; 4], bool);

/// What was computed, kept at hand.
#[derive(Debug)]
pub(crate) struct EdgeIndex {
    edges: Mutex<LruCache<u64, Arc<Edges>>>,
    complete: Mutex<LruCache<MembershipKey, Arc<Complete>>>,
    /// Holds for relationships, of any collection and version.
    pub(crate) is_edge: Predicate,
    /// Holds for rows of inboxes, which are no ends.
    pub(crate) is_posted: Predicate,
}

impl EdgeIndex {
    pub(crate) fn new(is_edge: Predicate, is_posted: Predicate) -> Self {
        EdgeIndex {
            edges: Mutex::new(LruCache::new(NonZeroUsize::MIN.saturating_add(SNAPSHOTS - 1))),
            complete: Mutex::new(LruCache::new(NonZeroUsize::MIN.saturating_add(MEMBERSHIPS - 1))),
            is_edge,
            is_posted,
        }
    }

    /// The complete relationships of a collection. Runs on the calling pool.
    pub(crate) fn complete(
        &self,
        snapshot: &Snapshot,
        index: &MatchIndex,
        ends: &Ends,
    ) -> Result<Arc<Complete>, StoreError> {
        let [clocked, as_indicator, servable] =
            [ends.clocked.as_ref(), Some(&ends.as_indicator), Some(&ends.servable)].map(|one| one.map(Predicate::key));
        let conditions = [Some(ends.records.key()), clocked, as_indicator, servable];
        let key = (snapshot.version(), conditions, ends.revoked);
        if let Some(complete) = self.complete.lock().get(&key) {
            return Ok(Arc::clone(complete));
        }
        let edges = self.edges(snapshot, index)?;
        let complete = Arc::new(edges.complete(snapshot, index, ends)?);
        self.complete.lock().put(key, Arc::clone(&complete));
        Ok(complete)
    }

    fn edges(&self, snapshot: &Snapshot, index: &MatchIndex) -> Result<Arc<Edges>, StoreError> {
        if let Some(edges) = self.edges.lock().get(&snapshot.version()) {
            return Ok(Arc::clone(edges));
        }
        let edges = Arc::new(Edges::read(snapshot, index, &self.is_edge, &self.is_posted)?);
        self.edges.lock().put(snapshot.version(), Arc::clone(&edges));
        Ok(edges)
    }
}

/// Whether there are relationships that were added after `after`. Who asks for what is new mostly gets none.
pub(crate) fn needed(snapshot: &Snapshot, after: Option<Timestamp>) -> bool {
    snapshot
        .segments()
        .iter()
        .any(|view| view.segment.has_edges() && after.is_none_or(|after| view.segment.meta().last_added > after.0))
}

/// An end as the row names it.
struct Named {
    key: u64,
    form: Form,
}

impl Edges {
    fn read(
        snapshot: &Snapshot,
        index: &MatchIndex,
        is_edge: &Predicate,
        is_posted: &Predicate,
    ) -> Result<Self, StoreError> {
        let mut named: Vec<(usize, u32, bool, [Named; 2])> = Vec::new();
        for (position, view) in snapshot.segments().iter().enumerate() {
            if !view.segment.has_edges() {
                continue;
            }
            let rows = match index.rows(&view.segment, is_edge)? {
                Rows::All => RoaringBitmap::from_iter(0..view.segment.rows()) - &*view.superseded,
                Rows::Some(rows) => &*rows - &*view.superseded,
            };
            let columns = [column::SPEC_VERSION, column::REVOKED, column::SOURCE_REF, column::TARGET_REF];
            let mut numbers = rows.iter();
            for batch in view.segment.read(&row_runs(&rows), &columns, BATCH_ROWS)? {
                let batch = batch?;
                let texts = |name: &str| -> Result<StringArray, StoreError> {
                    let column = batch.column(batch.schema_ref().index_of(name)?);
                    Ok(cast(column, &DataType::Utf8)?.as_string::<i32>().clone())
                };
                let (versions, sources, targets) =
                    (texts(column::SPEC_VERSION)?, texts(column::SOURCE_REF)?, texts(column::TARGET_REF)?);
                let revoked = batch.column(batch.schema_ref().index_of(column::REVOKED)?).as_boolean();
                for (row, number) in (0..batch.num_rows()).zip(numbers.by_ref()) {
                    let end = |refs: &StringArray| {
                        let reference = if refs.is_valid(row) { refs.value(row) } else { "" };
                        let form = match () {
                            () if versions.is_null(row) => Form::Either,
                            () if reference.starts_with("indicator--") => Form::Indicator,
                            () => Form::Itself,
                        };
                        Named { key: id_key(reference), form }
                    };
                    let is_revoked = revoked.is_valid(row) && revoked.value(row);
                    named.push((position, number, is_revoked, [end(&sources), end(&targets)]));
                }
            }
        }
        let mut keys: Vec<u64> = named.iter().flat_map(|(.., ends)| ends.iter().map(|end| end.key)).collect();
        keys.sort_unstable();
        keys.dedup();
        let live = snapshot.find_live_ids(&keys)?.into_iter();
        let mut found: Vec<(u64, Place)> = live.map(|(key, (segment, row))| (key, (segment as u32, row))).collect();
        found.sort_unstable();
        found.dedup();
        let mut posted: HashMap<u32, Rows> = HashMap::new();
        for (position, view) in snapshot.segments().iter().enumerate() {
            if view.segment.meta().posted_rows() > 0 && found.iter().any(|(_, (at, _))| *at as usize == position) {
                posted.insert(position as u32, index.rows(&view.segment, is_posted)?);
            }
        }
        found.retain(|(_, (segment, row))| posted.get(segment).is_none_or(|posted| !posted.contains(*row)));
        let places: Vec<Place> = found.iter().map(|(_, place)| *place).collect();
        let locate = |end: &Named| {
            let from = found.partition_point(|(key, _)| *key < end.key) as u32;
            let to = found.partition_point(|(key, _)| *key <= end.key) as u32;
            End { places: from..to, form: end.form }
        };
        let mut segments: Vec<(usize, Vec<Edge>)> = Vec::new();
        for (position, row, revoked, [source, target]) in &named {
            let edge = Edge { row: *row, revoked: *revoked, source: locate(source), target: locate(target) };
            match segments.last_mut() {
                Some((last, edges)) if last == position => edges.push(edge),
                _ => segments.push((*position, vec![edge])),
            }
        }
        Ok(Edges { segments, places })
    }

    fn complete(&self, snapshot: &Snapshot, index: &MatchIndex, ends: &Ends) -> Result<Complete, StoreError> {
        // Only segments that hold an end are looked at.
        let mut wanted: HashMap<u32, RoaringBitmap> = HashMap::new();
        for (segment, row) in &self.places {
            wanted.entry(*segment).or_default().insert(*row);
        }
        let mut members: HashMap<u32, (RoaringBitmap, Rows)> = HashMap::new();
        for (segment, wanted) in wanted {
            let Some(view) = snapshot.segments().get(segment as usize) else { continue };
            let mut rows = match ends.records.rows(index, &view.segment)? {
                Rows::All => wanted,
                Rows::Some(rows) => wanted & &*rows,
            };
            if let Some(clocked) = &ends.clocked {
                rows = holding(view, clocked, &rows)?;
            }
            members.insert(segment, (rows, index.rows(&view.segment, &ends.as_indicator)?));
        }
        let is_member = |end: &End| {
            let places = self.places.get(end.places.start as usize..end.places.end as usize).unwrap_or_default();
            places.iter().any(|(segment, row)| {
                members.get(segment).is_some_and(|(rows, as_indicator)| {
                    let named_right = match end.form {
                        Form::Either => true,
                        Form::Indicator => as_indicator.contains(*row),
                        Form::Itself => !as_indicator.contains(*row),
                    };
                    named_right && rows.contains(*row)
                })
            })
        };
        let mut complete = Complete::new();
        for (position, edges) in &self.segments {
            let Some(view) = snapshot.segments().get(*position) else { continue };
            let servable = index.rows(&view.segment, &ends.servable)?;
            let rows: RoaringBitmap = edges
                .iter()
                .filter(|edge| ends.revoked || !edge.revoked)
                .filter(|edge| servable.contains(edge.row) && is_member(&edge.source) && is_member(&edge.target))
                .map(|edge| edge.row)
                .collect();
            if !rows.is_empty() {
                complete.insert(*position, Arc::new(rows));
            }
        }
        Ok(complete)
    }
}

/// Those of `rows` for which the condition holds.
fn holding(view: &SegmentView, predicate: &Predicate, rows: &RoaringBitmap) -> Result<RoaringBitmap, StoreError> {
    let mut held = RoaringBitmap::new();
    let mut numbers = rows.iter();
    for batch in view.segment.read(&row_runs(rows), predicate.columns(), BATCH_ROWS)? {
        let batch = batch?;
        let bits = predicate.matches(&batch)?;
        let here = numbers.by_ref().take(batch.num_rows());
        held.extend(here.zip(bits.values()).filter(|(_, holds)| *holds).map(|(row, _)| row));
    }
    Ok(held)
}
