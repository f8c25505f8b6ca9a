//! A collection from one end to the other, for those who want all of it: exports and lists.
//!
//! The same plan and the same slices as pages have, without their frames: rows as columns, in the order of `added`, of one
//! version of the store. What is planned at a time is bounded, and a walk can be taken up again where it was left.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::logical_expr::{col, lit};

use crate::feed::api::{FeedError, Filters, Shape, Versions};
use crate::feed::collection::Collection;
use crate::feed::page::{Prepared, Shared, StoreFeed, Walk, form, unreadable};
use crate::feed::plan::{Part, Plan, Scope};
use crate::feed::stream::{columns_of, cut, has_natives};
use crate::model::schema::{column, kind_value};
use crate::model::time::Timestamp;
use crate::render::{RenderOptions, StixVersion};
use crate::runtime::{BufferPool, CpuPool, Ordered, Unfinished};
use crate::store::{PAGE_ROWS, StoreError};

/// What a walk is to give.
#[derive(Debug, Clone, Default)]
pub struct WalkRequest {
    /// Version of STIX, which decides what has a form.
    pub version: StixVersion,
    /// Only what was added later.
    pub after: Option<Timestamp>,
    /// Which of the collection's rows.
    pub rows: WalkRows,
    /// Go on as of then; `None`: begin now.
    pub standpoint: Option<Standpoint>,
}

/// Which rows of a collection a walk gives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WalkRows {
    /// All that are served: records, relationships, definitions.
    #[default]
    Objects,
    /// Indicators and native objects.
    Records,
}

/// What a walk began on, and goes on with when it is taken up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standpoint {
    /// Version of the store.
    pub snapshot: u64,
    /// What relative dates count from.
    pub asked: Timestamp,
}

/// The rows of a collection in one version of the store.
#[derive(Clone)]
pub struct RowWalk {
    shared: Arc<Shared>,
    collection: Arc<Collection>,
    walk: Arc<Walk>,
    rows: WalkRows,
    is_clocked: bool,
}

impl std::fmt::Debug for RowWalk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowWalk").field("standpoint", &self.standpoint()).finish_non_exhaustive()
    }
}

impl StoreFeed {
    /// Begins a walk, or takes one up again. When its version of the store is there no longer, it goes on in a later one, see
    /// [`RowWalk::standpoint`]. Blocks.
    pub fn walk(&self, collection: &Arc<Collection>, request: &WalkRequest) -> Result<RowWalk, FeedError> {
        let shared = Arc::clone(self.shared());
        let options = RenderOptions { version: request.version, ..collection.options.clone() };
        let newest = shared.store.snapshot().map_err(unreadable)?;
        let begun = match request.standpoint {
            Some(standpoint) => shared.store.snapshot_at(standpoint.snapshot).map_err(unreadable)?,
            None => None,
        };
        let walk = Walk {
            snapshot: begun.unwrap_or(newest),
            asked: request.standpoint.map_or_else(|| shared.store.now(), |standpoint| standpoint.asked),
            after: request.after,
            skip: 0,
            filters: Filters::default(),
            fingerprint: 0,
            form: form(collection, &options),
            options,
        };
        let mut walk = RowWalk {
            shared,
            collection: Arc::clone(collection),
            walk: Arc::new(walk),
            rows: request.rows,
            is_clocked: false,
        };
        walk.is_clocked = walk.on_pool(|walk| {
            // Opened now: a walk may take longer than the files of its version are kept.
            for view in walk.walk.snapshot.segments() {
                view.segment.file().map_err(unreadable)?;
            }
            Ok(walk.prepared()?.clocked.is_some())
        })?;
        Ok(walk)
    }

    /// Work on slices of walks, or on anything else: on the feed's threads, in order, within its bounds.
    pub fn ordered<P, T, E>(&self, work: impl Fn(P) -> Result<T, E> + Send + Sync + 'static) -> Ordered<P, T, E>
    where
        P: Send + 'static,
        T: Send + 'static,
        E: From<Unfinished> + Send + 'static,
    {
        Ordered::new(self.shared().pool.clone(), Arc::clone(&self.shared().ahead), work)
    }

    /// The feed's threads.
    pub fn pool(&self) -> &CpuPool {
        &self.shared().pool
    }

    /// The feed's buffers.
    pub fn buffers(&self) -> &BufferPool {
        &self.shared().buffers
    }
}

impl RowWalk {
    /// What it stands on: another version than the one it was to go on with when that is gone.
    pub fn standpoint(&self) -> Standpoint {
        Standpoint { snapshot: self.walk.snapshot.version(), asked: self.walk.asked }
    }

    /// The last `added` that the store had given: whoever has all rows up to here goes on behind it.
    pub fn clock(&self) -> Timestamp {
        self.walk.snapshot.clock()
    }

    /// When that version of the store was published.
    pub fn published(&self) -> Timestamp {
        Timestamp(self.walk.snapshot.manifest().published)
    }

    /// Whether its query depends on the time of asking.
    pub fn is_clocked(&self) -> bool {
        self.is_clocked
    }

    /// How its rows become objects.
    pub fn options(&self) -> &RenderOptions {
        &self.walk.options
    }

    /// How many rows there are after `after`. Blocks.
    pub fn count(&self, after: Option<Timestamp>) -> Result<u64, FeedError> {
        self.scoped(|scope| Plan::count(scope, after))
    }

    /// The next rows after `after`, at most `limit`. Blocks.
    pub fn rows(&self, after: Option<Timestamp>, limit: u64) -> Result<WalkedRows, FeedError> {
        let Plan { parts, rows, first, last, more } = self.scoped(|scope| Plan::page(scope, after, 0, limit))?;
        Ok(WalkedRows { parts, rows, first, last, more })
    }

    fn scoped<T: Send>(&self, plan: impl FnOnce(&Scope<'_>) -> Result<T, StoreError> + Send) -> Result<T, FeedError> {
        self.on_pool(|walk| {
            let prepared = walk.prepared()?;
            plan(&walk.shared.scope(&walk.walk, &prepared, &Versions::Last, None)).map_err(unreadable)
        })
    }

    fn on_pool<T: Send>(&self, work: impl FnOnce(&Self) -> Result<T, FeedError> + Send) -> Result<T, FeedError> {
        self.shared.pool.run_blocking(|| work(self))
    }

    fn prepared(&self) -> Result<Prepared<'_>, FeedError> {
        let mut prepared = self.shared.prepare(&self.collection, &self.walk)?;
        if self.rows == WalkRows::Records {
            let kinds = vec![lit(kind_value::INDICATOR), lit(kind_value::OBJECT)];
            let is_record = || col(column::KIND).in_list(kinds, false);
            prepared.filters.push(self.shared.predicate("\0records".to_owned(), is_record)?);
        }
        Ok(prepared)
    }
}

/// Some rows of a walk.
#[derive(Debug)]
pub struct WalkedRows {
    parts: Vec<Part>,
    /// How many.
    pub rows: u64,
    /// `added` of the first one.
    pub first: Option<Timestamp>,
    /// `added` of the last one.
    pub last: Option<Timestamp>,
    /// Whether more follow.
    pub more: bool,
}

impl WalkedRows {
    /// Cuts them into pieces of work of at most `rows` rows, in order.
    pub fn slices(self, rows: usize) -> Vec<Slice> {
        let most = rows.next_multiple_of(PAGE_ROWS) as u32;
        let mut slices: Vec<Slice> = Vec::new();
        for part in self.parts {
            // Rows that are long come in shorter slices, so that each takes about the same memory.
            let row_bytes = part.view.segment.meta().bytes / part.view.segment.meta().rows.max(1);
            let fitting = (SLICE_BYTES / row_bytes.max(1)) as usize / PAGE_ROWS * PAGE_ROWS;
            let most = most.min(fitting.max(PAGE_ROWS) as u32);
            cut(part, most, &mut |part| {
                let rows: usize = part.ranges.iter().map(Range::len).sum();
                match slices.last_mut() {
                    Some(last) if last.rows + rows <= most as usize => {
                        last.rows += rows;
                        last.parts.push(part);
                    }
                    _ => slices.push(Slice { rows, parts: vec![part] }),
                }
            });
        }
        slices
    }
}

/// About how many bytes of files a slice takes at most; what is read of them is a few times as long.
const SLICE_BYTES: u64 = 16 << 20;

/// A piece of work: some rows, not read yet.
#[derive(Debug)]
pub struct Slice {
    parts: Vec<Part>,
    rows: usize,
}

impl Slice {
    /// How many rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Reads what rendering its rows needs, batch by batch.
    pub fn objects<E: From<FeedError>>(
        &self,
        options: &RenderOptions,
        each: impl FnMut(RecordBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        self.read(|part| columns_of(Shape::Objects, options, part), each)
    }

    /// Reads the named columns, and those of `natives` as well where there are native objects among the rows; they are absent
    /// from batches elsewhere.
    pub fn columns<E: From<FeedError>>(
        &self,
        columns: &[&'static str],
        natives: &[&'static str],
        each: impl FnMut(RecordBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        let named = |part: &Part| {
            let natives = if has_natives(part) { natives } else { &[] };
            [columns, natives].concat()
        };
        self.read(named, each)
    }

    fn read<E: From<FeedError>>(
        &self,
        columns: impl Fn(&Part) -> Vec<&'static str>,
        mut each: impl FnMut(RecordBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        for part in &self.parts {
            let columns = columns(part);
            if let Some(batch) = part.kept(&columns).map_err(unreadable)? {
                each(batch)?;
                continue;
            }
            for batch in part.view.segment.read(&part.ranges, &columns, BATCH_ROWS).map_err(unreadable)? {
                each(batch.map_err(unreadable)?)?;
            }
        }
        Ok(())
    }
}

/// Rows read at a time.
const BATCH_ROWS: usize = 4 * PAGE_ROWS;
