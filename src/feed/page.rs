//! The feed over a store: a collection and a page request in, page facts and a stream of bytes out.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::num::NonZeroUsize;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::common::ScalarValue;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::{Expr, col, lit};
use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use roaring::RoaringBitmap;
use tokio::sync::Semaphore;
use twox_hash::XxHash3_64;

use crate::feed::api::{Body, Coding, Feed, FeedError, Filters, Page, PageRequest, Shape, Versions};
use crate::feed::cache::SliceCache;
use crate::feed::collection::{Catalog, Collection};
use crate::feed::cursor::{self, Cursor};
use crate::feed::edges::{self, EdgeIndex, Ends, Related};
use crate::feed::gathered::{Gathering, OfCollection};
use crate::feed::matching::{MatchIndex, Posted, Predicate, Records, Rows};
use crate::feed::members::Members;
use crate::feed::plan::{Forms, Plan, Scope};
use crate::feed::stream::{self, Job};
use crate::model::kind::StixType;
use crate::model::schema::{column, kind_value};
use crate::model::time::Timestamp;
use crate::render::envelope::{self, Frame};
use crate::render::{self, Profile, RenderOptions, StixVersion};
use crate::runtime::{BufferPool, CpuPool};
use crate::store::{Snapshot, Store, StoreError};

/// Longest filters of a request, as a cursor holds them.
const MOST_FILTER_BYTES: usize = 24 << 10;
/// Compiled conditions kept at hand.
const PREDICATES: usize = 10_000;

/// How much the feed may use.
#[derive(Debug, Clone)]
pub struct FeedOptions {
    /// Threads that plan and render; 0: one per core.
    pub threads: usize,
    /// Memory for match bitmaps.
    pub match_index_bytes: usize,
    /// Rows of a segment that are matched together, at least: a page needs to know of no more than its own, and finding out has a price.
    pub match_rows: u32,
    /// Memory for rows of collections that have few.
    pub gathered_bytes: usize,
    /// Memory for rendered slices that are asked for again and again.
    pub rendered_bytes: usize,
    /// Slices of about a thousand objects that may be rendered ahead, over all requests.
    pub slices_ahead: usize,
    /// Rows of a page that is made in one go, by the thread that plans it: fewer are made sooner than handed over.
    pub small_page_rows: u64,
}

impl Default for FeedOptions {
    fn default() -> Self {
        FeedOptions {
            threads: 0,
            match_index_bytes: 256 << 20,
            match_rows: 16_384,
            gathered_bytes: 64 << 20,
            rendered_bytes: 128 << 20,
            slices_ahead: 64,
            small_page_rows: 64,
        }
    }
}

/// The feed over a store. Clones share everything.
#[derive(Clone)]
pub struct StoreFeed {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) store: Store,
    catalog: RwLock<Arc<Catalog>>,
    pub(super) pool: CpuPool,
    pub(super) buffers: BufferPool,
    pub(super) ahead: Arc<Semaphore>,
    cache: Arc<SliceCache>,
    index: MatchIndex,
    gathering: Gathering,
    edges: EdgeIndex,
    /// Holds for native objects and relationships, which are served as they came.
    is_native: Predicate,
    predicates: Mutex<LruCache<String, Predicate>>,
    context: SessionContext,
    cursor_key: [u8; 32],
    small_page_rows: u64,
}

impl std::fmt::Debug for StoreFeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoreFeed({:?})", self.shared.store)
    }
}

/// What a request comes down to, once its cursor is read.
#[derive(Clone)]
pub(super) struct Walk {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) asked: Timestamp,
    pub(super) after: Option<Timestamp>,
    pub(super) skip: u64,
    pub(super) filters: Filters,
    pub(super) fingerprint: u64,
    pub(super) options: RenderOptions,
    /// Names collection, query and options.
    pub(super) form: String,
}

impl StoreFeed {
    /// A feed that serves `catalog` from `store`.
    pub fn new(store: Store, catalog: Catalog, options: &FeedOptions) -> Result<Self, StoreError> {
        let pool = CpuPool::new(options.threads).map_err(|source| StoreError::Io {
            action: "start threads for",
            path: store.location().to_owned(),
            source,
        })?;
        let context = SessionContext::new();
        for function in crate::query::functions() {
            context.register_udf(function);
        }
        let compile = |expr: Expr| {
            Predicate::compile(&context, &expr).map_err(|error| StoreError::damaged(store.location(), error))
        };
        let is_edge = compile(col(column::KIND).eq(lit(kind_value::RELATIONSHIP)))?;
        // Relationships made from XSOAR's have no version of their own.
        let is_native = compile(
            col(column::KIND)
                .in_list(vec![lit(kind_value::OBJECT), lit(kind_value::RELATIONSHIP)], false)
                .and(col(column::SPEC_VERSION).is_not_null()),
        )?;
        let is_posted = compile(col(column::INBOX).is_not_null())?;
        Ok(StoreFeed {
            shared: Arc::new(Shared {
                edges: EdgeIndex::new(is_edge, is_posted),
                is_native,
                cursor_key: store.cursor_key()?,
                small_page_rows: options.small_page_rows,
                store,
                catalog: RwLock::new(Arc::new(catalog)),
                buffers: BufferPool::new(options.slices_ahead + pool.threads(), 8 << 20),
                pool,
                ahead: Arc::new(Semaphore::new(options.slices_ahead)),
                cache: Arc::new(SliceCache::new(options.rendered_bytes)),
                index: MatchIndex::new(options.match_index_bytes, options.match_rows),
                gathering: Gathering::new(options.gathered_bytes),
                predicates: Mutex::new(LruCache::new(NonZeroUsize::MIN.saturating_add(PREDICATES - 1))),
                context,
            }),
        })
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The store behind it.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// The version of the store that it serves.
    pub(super) fn version(&self) -> Result<u64, FeedError> {
        self.shared.store.snapshot().map(|snapshot| snapshot.version()).map_err(unreadable)
    }

    /// The collection's records as of now, to be asked for one by one: those that clients get who name no version.
    pub(crate) fn members(&self, collection: &Collection) -> Result<Members, FeedError> {
        let options = &collection.options;
        let form = form(collection, options);
        let (base, clocked) = self.shared.records(collection, options, &form, self.shared.store.now())?;
        Ok(Members::new(self.clone(), base, clocked))
    }

    pub(super) fn match_index(&self) -> &MatchIndex {
        &self.shared.index
    }

    /// Holds for rows of inboxes.
    pub(super) fn is_posted(&self) -> &Predicate {
        &self.shared.edges.is_posted
    }

    /// Serves other collections from now on; requests that have begun end with those they began with.
    pub fn replace_catalog(&self, catalog: Catalog) {
        *self.shared.catalog.write() = Arc::new(catalog);
    }

    /// Number of objects that a collection serves now. Blocks: for commands, not for servers.
    pub fn count_blocking(&self, collection: &Arc<Collection>) -> Result<u64, FeedError> {
        self.shared.pool.run_blocking(|| self.shared.count(collection))
    }
}

#[async_trait]
impl Feed for StoreFeed {
    fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.shared.catalog.read())
    }

    async fn page(&self, collection: &Arc<Collection>, shape: Shape, request: PageRequest) -> Result<Page, FeedError> {
        let (shared, planned_for) = (Arc::clone(&self.shared), Arc::clone(collection));
        let page = self.shared.pool.run(move || {
            let planned = shared.plan(&planned_for, shape, &request)?;
            shared.start(&planned_for, shape, planned)
        });
        page.await.map_err(|source| FeedError::Internal { what: "plan a page", source: Box::new(source) })?
    }
}

struct Planned {
    plan: Plan,
    options: RenderOptions,
    coding: Coding,
    tag: u64,
    total: Option<u64>,
    next: Option<String>,
    /// Where a client stands when the page is empty.
    resume: Option<Timestamp>,
}

impl Shared {
    fn plan(&self, collection: &Collection, shape: Shape, request: &PageRequest) -> Result<Planned, FeedError> {
        // A cursor carries the filters, and must fit a URL.
        let filters = cursor::packed_bytes(&request.filters);
        if filters > MOST_FILTER_BYTES {
            return Err(FeedError::FiltersTooLong { ids: MOST_FILTER_BYTES / cursor::PACKED_ID_BYTES });
        }
        let walk = self.walk(collection, shape, request)?;
        let prepared = self.prepare(collection, &walk)?;
        let only = prepared.only(&walk, request.object.as_deref())?;
        // The versions resource lists every version unless one is asked for (TAXII 2.1 §5.8).
        let every = Versions::All;
        let versions = if shape == Shape::Versions { &every } else { &walk.filters.versions };
        let mut scope = self.scope(&walk, &prepared, versions, only.as_ref());
        if shape == Shape::Versions && scope.forms == Forms::Each {
            // It names versions, not their forms.
            scope.forms = Forms::Either;
        }
        let limit = match request.range {
            Some(range) => range.count,
            None => request.limit.unwrap_or(collection.page_size),
        };
        let plan =
            Plan::page(&scope, walk.after, walk.skip, limit.min(collection.max_page_size)).map_err(unreadable)?;
        let total = match request.wants_total {
            // A page from the start that nothing follows is all there is.
            true if !plan.more && (walk.skip == 0 || plan.rows > 0) => Some(walk.skip + plan.rows),
            true => Some(Plan::count(&scope, walk.after).map_err(unreadable)?),
            false => None,
        };
        if let (Some(range), Some(total)) = (request.range, total)
            && range.first > 0
            && range.first >= total
        {
            return Err(FeedError::BehindTheEnd { total });
        }
        if let Some(id) = request.object.as_deref().filter(|_| plan.rows == 0 && request.next.is_none())
            && !self.holds(collection, &walk, id)?
        {
            return Err(FeedError::UnknownObject { id: id.to_owned() });
        }
        let paged_by_next = plan.last.filter(|_| plan.more && request.range.is_none());
        let next = paged_by_next.map(|after| {
            let cursor = Cursor {
                fingerprint: walk.fingerprint,
                after,
                snapshot: walk.snapshot.version(),
                // Only queries that look at the clock need it; without it the same request gives the same cursor.
                asked: if prepared.clocked.is_some() { walk.asked } else { Timestamp(0) },
                object: request.object.clone(),
                filters: walk.filters.clone(),
            };
            cursor.encode(&self.cursor_key)
        });
        let resume = walk.after.filter(|_| request.next.is_some());
        let mut tag = XxHash3_64::default();
        // Another version of the program may write the same rows differently.
        (env!("CARGO_PKG_VERSION"), &walk.form, shape, &next, total, resume, plan.more).hash(&mut tag);
        std::mem::discriminant(&collection.empty_objects).hash(&mut tag);
        for part in &plan.parts {
            (part.view.segment.id(), &part.ranges).hash(&mut tag);
        }
        Ok(Planned { plan, options: walk.options, coding: request.coding, tag: tag.finish(), total, next, resume })
    }

    pub(super) fn scope<'a>(
        &'a self,
        walk: &'a Walk,
        prepared: &'a Prepared<'a>,
        versions: &'a Versions,
        only: Option<&'a HashMap<usize, RoaringBitmap>>,
    ) -> Scope<'a> {
        Scope {
            snapshot: &walk.snapshot,
            index: &self.index,
            base: &prepared.base,
            edges: &prepared.edges,
            gathered: &prepared.gathered,
            is_edge: &self.edges.is_edge,
            is_native: &self.is_native,
            filters: &prepared.filters,
            clocked: prepared.clocked.as_ref(),
            versions,
            forms: prepared.forms,
            exact: prepared.exact.as_ref(),
            in_millis: in_millis(&walk.options),
            only,
        }
    }

    /// Whether the object is in the collection, whatever the filters leave of it.
    fn holds(&self, collection: &Collection, walk: &Walk, id: &str) -> Result<bool, FeedError> {
        let unfiltered = Walk { filters: Filters::default(), after: None, skip: 0, ..walk.clone() };
        let prepared = self.prepare(collection, &unfiltered)?;
        let only = prepared.only(&unfiltered, Some(id))?;
        let scope = self.scope(&unfiltered, &prepared, &Versions::Last, only.as_ref());
        Plan::page(&scope, None, 0, 1).map(|plan| plan.rows > 0).map_err(unreadable)
    }

    /// Reads the cursor, or starts a new walk on the newest version.
    fn walk(&self, collection: &Collection, shape: Shape, request: &PageRequest) -> Result<Walk, FeedError> {
        let shape = format!("{shape:?}");
        let options = RenderOptions { version: request.version, ..collection.options.clone() };
        let form = form(collection, &options);
        let object = request.object.as_deref().unwrap_or_default();
        let fingerprint = cursor::fingerprint(&[&form, &shape, object]);
        let newest = self.store.snapshot().map_err(unreadable)?;
        let mut fresh = Walk {
            snapshot: newest,
            asked: self.store.now(),
            after: request.filters.added_after.map(|after| match options.profile {
                Profile::Standard => after,
                // The original takes what was added at that very instant as well.
                Profile::Xsoar => Timestamp(after.0.saturating_sub(1)),
            }),
            skip: request.range.map_or(0, |range| range.first),
            filters: request.filters.clone(),
            fingerprint,
            options,
            form,
        };
        let Some(next) = &request.next else { return Ok(fresh) };
        if !next.is_empty() && next.len() <= 12 && next.bytes().all(|byte| byte.is_ascii_digit()) {
            // A consumer that resumes from XSOAR sends the offset it was given there.
            fresh.skip = next.parse().map_err(|_| FeedError::BadCursor { reason: "it is no number" })?;
            return Ok(fresh);
        }
        let cursor = Cursor::decode(next, &self.cursor_key, fingerprint)?;
        cursor.check(&request.filters, request.given)?;
        if cursor.begins_anew(&request.filters, request.given) {
            fresh.filters = Filters { added_after: request.filters.added_after, ..cursor.filters };
            return Ok(fresh);
        }
        // When the version is there no longer, the walk goes on in a later one: what changed meanwhile comes later in the log. After a
        // deletion it goes on in the newest, so that nothing deleted is served.
        let snapshot = self.store.snapshot_at(cursor.snapshot).map_err(unreadable)?.unwrap_or(fresh.snapshot);
        Ok(Walk {
            snapshot,
            asked: cursor.asked,
            after: Some(cursor.after),
            skip: 0,
            filters: cursor.filters,
            fingerprint,
            options: fresh.options,
            form: fresh.form,
        })
    }

    pub(super) fn prepare<'a>(&'a self, collection: &Collection, walk: &'a Walk) -> Result<Prepared<'a>, FeedError> {
        // Spelling a condition out takes longer than finding it by what it is made of.
        let named = |part: &str| format!("{}\0{part}", walk.form);
        let (base, clocked) = self.records(collection, &walk.options, &walk.form, walk.asked)?;
        let mut filters = Vec::new();
        if !walk.filters.types.is_empty() {
            let types = &walk.filters.types;
            filters.push(
                self.predicate(named(&format!("types {}", types.join("\0"))), || of_types(&walk.options, types))?,
            );
        }
        if !walk.filters.spec_versions.is_empty() {
            let versions = &walk.filters.spec_versions;
            filters.push(self.predicate(named(&format!("versions {}", versions.join("\0"))), || {
                of_spec_versions(&walk.options, versions)
            })?);
        }
        let none = collection.inbox || collection.relationships.left_out;
        let ends = if none || !edges::needed(&walk.snapshot, walk.after) {
            None
        } else {
            let as_indicator = || of_types(&walk.options, &[StixType::Indicator.as_str().to_owned()]);
            Some(Ends {
                records: base.clone(),
                clocked: clocked.clone(),
                as_indicator: self.predicate(named("as indicator"), as_indicator)?,
                servable: self.predicate(named("relationships"), || servable_edges(&walk.options))?,
                revoked: collection.relationships.revoked.unwrap_or(walk.options.profile == Profile::Standard),
            })
        };
        let edges = Related::new(&self.edges, &self.index, &walk.snapshot, ends);
        let exact = match &walk.filters.versions {
            Versions::Some { exact, .. } => {
                Some(Predicate::compile(&self.context, &of_versions(&walk.options, exact))?)
            }
            Versions::Last | Versions::All => None,
        };
        let forms = if collection.inbox { forms(walk) } else { Forms::One };
        Ok(Prepared { base, edges, gathered: self.gathering.of(&collection.id), filters, clocked, exact, forms })
    }

    /// The records of a collection, and what of their condition depends on the time of asking.
    fn records(
        &self,
        collection: &Collection,
        options: &RenderOptions,
        form: &str,
        asked: Timestamp,
    ) -> Result<(Records, Option<Predicate>), FeedError> {
        let condition = self.predicate(format!("{form}\0base"), || served_records(collection, options))?;
        let definitions = match has_definitions(collection, options) {
            true => Some(self.predicate(format!("{form}\0definitions"), || served_definitions(options))?),
            false => None,
        };
        let clocked = match collection.query.clocked(asked).filter(|_| !collection.inbox) {
            // It names the instant, so keeping it would only fill the cache. Relationships and definitions stand and fall with
            // the records they belong to.
            Some(expr) => {
                let aside =
                    col(column::KIND).in_list(vec![lit(kind_value::RELATIONSHIP), lit(kind_value::DEFINITION)], false);
                Some(Predicate::compile(&self.context, &aside.or(expr))?)
            }
            None => None,
        };
        let names_inbox = |predicate: &Predicate| predicate.columns().contains(&column::INBOX);
        let posted = match () {
            () if collection.inbox => Posted::Only,
            () if names_inbox(&condition) || clocked.as_ref().is_some_and(names_inbox) => Posted::AsSaid,
            () => Posted::LeftOut(self.edges.is_posted.clone()),
        };
        Ok((Records::new(condition, definitions, posted), clocked))
    }

    pub(super) fn predicate(&self, key: String, expr: impl FnOnce() -> Expr) -> Result<Predicate, FeedError> {
        if let Some(predicate) = self.predicates.lock().get(&key) {
            return Ok(predicate.clone());
        }
        let predicate = Predicate::compile(&self.context, &expr())?;
        self.predicates.lock().put(key, predicate.clone());
        Ok(predicate)
    }

    fn start(&self, collection: &Collection, shape: Shape, planned: Planned) -> Result<Page, FeedError> {
        let Planned { plan, options, coding, tag, total, next, resume } = planned;
        let frame = Frame {
            list: match shape {
                Shape::Objects => envelope::List::Objects,
                Shape::Manifest => envelope::List::Manifest,
                Shape::Versions => envelope::List::Versions,
            },
            version: options.version,
            profile: options.profile,
            empty: collection.empty_objects,
        };
        let head = envelope::Head { more: plan.more, next: next.as_deref(), bundle: *uuid::Uuid::new_v4().as_bytes() };
        let mut bytes = Vec::with_capacity(1_024);
        let (body, coding) = if plan.rows == 0 {
            frame.whole_without_objects(head, &mut bytes);
            (Body::Whole(bytes.into()), Coding::Identity)
        } else {
            frame.open(head, &mut bytes);
            let mut tail = Vec::new();
            frame.close(&mut tail);
            let job = Job {
                shape,
                options: Arc::new(options),
                coding,
                head: bytes.into(),
                tail: Bytes::from(tail),
                pool: self.pool.clone(),
                buffers: self.buffers.clone(),
                cache: Arc::clone(&self.cache),
                ahead: Arc::clone(&self.ahead),
            };
            let body = match plan.rows {
                rows if rows <= self.small_page_rows => Body::Whole(stream::whole(&job, plan.parts)?),
                _ => Body::Stream(stream::body(job, plan.parts)),
            };
            (body, coding)
        };
        Ok(Page {
            first: plan.first.or(resume),
            last: plan.last.or(resume),
            more: plan.more,
            objects: plan.rows,
            total,
            tag,
            coding,
            body,
        })
    }

    fn count(&self, collection: &Collection) -> Result<u64, FeedError> {
        let walk = self.whole(collection, collection.options.clone())?;
        let prepared = self.prepare(collection, &walk)?;
        let scope = self.scope(&walk, &prepared, &Versions::Last, None);
        Plan::count(&scope, None).map_err(unreadable)
    }

    /// Finds out which rows the collection serves, in every segment where that is not known, and gathers them where they are few; `false`
    /// when it is to stop, or when the index has no room for more. Runs on the calling pool.
    pub(super) fn warm(&self, collection: &Collection, goes_on: &dyn Fn() -> bool) -> Result<bool, FeedError> {
        let walk = self.whole(collection, collection.options.clone())?;
        let walks = [StixVersion::V21, StixVersion::V20].map(|version| {
            let options = RenderOptions { version, ..collection.options.clone() };
            Walk { form: form(collection, &options), options, ..walk.clone() }
        });
        let prepared = walks
            .iter()
            .map(|walk| self.prepare(collection, walk))
            .collect::<Result<Vec<Prepared<'_>>, FeedError>>()?;
        // The newest first: that is what most clients ask for.
        for (position, view) in walk.snapshot.segments().iter().enumerate().rev() {
            if !goes_on() || self.index.is_nearly_full() {
                return Ok(false);
            }
            let (mut served, mut columns) = (Rows::Some(Arc::default()), Vec::new());
            for (walk, prepared) in walks.iter().zip(&prepared) {
                let scope = self.scope(walk, prepared, &Versions::Last, None);
                served = match Plan::find_out(&scope, position, view).map_err(unreadable)? {
                    Rows::All => Rows::All,
                    Rows::Some(rows) => served.union(&rows),
                };
                columns = stream::united(&columns, &stream::columns_of_any(&walk.options, &view.segment));
            }
            if let Rows::Some(rows) = served {
                let rows = &*rows - &*view.superseded;
                self.gathering.keep(&collection.id, &view.segment, &rows, &columns).map_err(unreadable)?;
            }
        }
        Ok(true)
    }

    #[cfg(test)]
    pub(super) fn gathering(&self) -> &Gathering {
        &self.gathering
    }

    /// Forgets what was gathered of collections that are not served any more, and of segments that are not there any more.
    pub(super) fn forget(&self, catalog: &Catalog) -> Result<(), FeedError> {
        let snapshot = self.store.snapshot().map_err(unreadable)?;
        let is_served = |id: &str| catalog.iter().any(|collection| collection.id == id);
        let is_there = |id: &str| snapshot.segments().iter().any(|view| view.segment.id() == id);
        self.gathering.retain(is_served, is_there);
        Ok(())
    }

    /// Everything in a collection as of now.
    fn whole(&self, collection: &Collection, options: RenderOptions) -> Result<Walk, FeedError> {
        Ok(Walk {
            asked: self.store.now(),
            after: None,
            skip: 0,
            filters: Filters::default(),
            fingerprint: 0,
            form: form(collection, &options),
            options,
            snapshot: self.store.snapshot().map_err(unreadable)?,
        })
    }
}

pub(super) struct Prepared<'a> {
    /// Records and definitions.
    base: Records,
    /// Relationships.
    edges: Related<'a>,
    gathered: Arc<OfCollection>,
    pub(super) filters: Vec<Predicate>,
    pub(super) clocked: Option<Predicate>,
    exact: Option<Predicate>,
    forms: Forms,
}

impl Prepared<'_> {
    /// The rows of the ids asked for, by segment; `None` when no id was asked for.
    fn only(&self, walk: &Walk, object: Option<&str>) -> Result<Option<HashMap<usize, RoaringBitmap>>, FeedError> {
        let ids = match object {
            Some(object) => vec![object],
            None if walk.filters.ids.is_empty() => return Ok(None),
            None => walk.filters.ids.iter().map(String::as_str).collect(),
        };
        let mut rows: HashMap<usize, RoaringBitmap> = HashMap::new();
        for id in ids {
            let mut named = walk.snapshot.rows_of_id(id).map_err(unreadable)?;
            if let Some(own) = render::stored_id(&walk.options, id) {
                named.extend(walk.snapshot.rows_of_id(&own).map_err(unreadable)?);
            }
            // A relationship is in the collection, or not, with all of its versions.
            let mut is_edge = false;
            for (segment, row) in &named {
                is_edge |= self.edges.of_segment(*segment).map_err(unreadable)?.is_some_and(|rows| rows.contains(*row));
            }
            for (segment, row) in named {
                if self.serves(walk, segment, row, is_edge, id)? {
                    rows.entry(segment).or_default().insert(row);
                }
            }
        }
        Ok(Some(rows))
    }

    /// Whether a row is of the collection, passes the filters, and is served under exactly this id. Building bitmaps for that would
    /// scan the segment.
    fn serves(&self, walk: &Walk, segment: usize, row: u32, is_edge: bool, id: &str) -> Result<bool, FeedError> {
        let Some(view) = walk.snapshot.segments().get(segment) else { return Ok(false) };
        // A relationship is in the collection by its ends.
        let of_collection = self.base.conditions(&view.segment, row).filter(|_| !is_edge);
        let conditions: Vec<_> = of_collection.chain(self.filters.iter().map(|filter| (filter, true))).collect();
        let mut columns = render::manifest_columns().to_vec();
        columns.extend(conditions.iter().flat_map(|(condition, _)| condition.columns()));
        let row = row..row + 1;
        for batch in view.segment.read(std::slice::from_ref(&row), &columns, 1).map_err(unreadable)? {
            let batch = batch.map_err(unreadable)?;
            let ids = render::Ids::bind(&batch, &walk.options)
                .map_err(|source| FeedError::Internal { what: "read an id", source: Box::new(source) })?;
            let mut text = Vec::with_capacity(64);
            ids.write(0, &mut text);
            if text != id.as_bytes() {
                return Ok(false);
            }
            for (condition, wanted) in &conditions {
                let holds = condition.matches_within(&batch).map_err(unreadable)?.true_count() > 0;
                if holds != *wanted {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

pub(super) fn unreadable(source: StoreError) -> FeedError {
    FeedError::Store { what: "the store", source: Box::new(source) }
}

/// Names what the rows of a collection are and how they are written.
pub(super) fn form(collection: &Collection, options: &RenderOptions) -> String {
    let mut hasher = XxHash3_64::default();
    options.hash(&mut hasher);
    format!("{}\0{}\0{:016x}", collection.id, collection.query_text, hasher.finish())
}

/// What rows the collection is about, before it is asked which of them have a form.
pub(crate) fn selected(collection: &Collection, now: Timestamp) -> Expr {
    if collection.inbox {
        return in_inbox(collection);
    }
    let query = collection.query.expr(now);
    if names_inbox(&query) { query } else { query.and(col(column::INBOX).is_null()) }
}

fn in_inbox(collection: &Collection) -> Expr {
    col(column::INBOX).eq(lit(collection.id.as_str()))
}

fn names_inbox(expr: &Expr) -> bool {
    expr.column_refs().iter().any(|column| column.name() == column::INBOX)
}

/// Which forms of a version an inbox serves: the newest, unless both are asked for.
fn forms(walk: &Walk) -> Forms {
    let metas = || walk.snapshot.segments().iter().map(|view| view.segment.meta());
    let is_there = |is_20: bool| metas().any(|meta| meta.posted.keys().any(|form| (form == "2.0") == is_20));
    if !(is_there(true) && is_there(false)) {
        return Forms::One;
    }
    let asked = &walk.filters.spec_versions;
    let of = |name: &str| asked.iter().any(|asked| asked == name);
    match walk.options.version {
        StixVersion::V21 if of("2.0") && of("2.1") => Forms::Each,
        version => Forms::Newest { apart: version == StixVersion::V20 || !asked.is_empty() },
    }
}

/// Of [`selected`] rows those that have a form in that version and profile, and the definitions they are served with.
pub(crate) fn served(collection: &Collection, options: &RenderOptions) -> Expr {
    let records = served_records(collection, options);
    match has_definitions(collection, options) {
        true => records.or(served_definitions(options)),
        false => records,
    }
}

fn of_kind(kind: &str) -> Expr {
    col(column::KIND).eq(lit(kind))
}

fn typed(types: &[StixType]) -> Expr {
    col(column::STIX_TYPE).in_list(types.iter().map(|stix_type| lit(stix_type.as_str())).collect(), false)
}

/// Those of [`served`] that are records.
fn served_records(collection: &Collection, options: &RenderOptions) -> Expr {
    if collection.inbox {
        return of_kind(kind_value::OBJECT).and(in_inbox(collection)).and(servable_natives(options));
    }
    let mut indicators = of_kind(kind_value::INDICATOR).and(col(column::STIX_TYPE).is_not_null());
    let left_out = render::left_out(options);
    if !left_out.is_empty() {
        indicators = indicators.and(Expr::Not(Box::new(typed(left_out))));
    }
    let records = indicators.or(of_kind(kind_value::OBJECT).and(servable_natives(options)));
    match collection.query.fixed() {
        Some(query) => records.and(query.clone()),
        None => records,
    }
}

/// Whether any of [`served`] are definitions.
fn has_definitions(collection: &Collection, options: &RenderOptions) -> bool {
    !collection.inbox && !render::definitions(options).is_empty()
}

/// Those of [`served`] that are.
fn served_definitions(options: &RenderOptions) -> Expr {
    let colours = render::marking_colours(options).into_iter().map(lit).collect();
    let is_marking = col(column::STIX_TYPE).eq(lit(StixType::MarkingDefinition.as_str()));
    let has_form = Expr::Not(Box::new(is_marking)).or(col(column::VALUE).in_list(colours, false));
    of_kind(kind_value::DEFINITION).and(typed(&render::definitions(options))).and(has_form)
}

/// Native objects keep their form, and 2.1 objects are none of 2.0. The other way round they are: STIX 2.1 has rules for meeting 2.0.
fn servable_natives(options: &RenderOptions) -> Expr {
    match options.version {
        StixVersion::V20 => col(column::SPEC_VERSION).eq(lit("2.0")),
        StixVersion::V21 => lit(true),
    }
}

/// Relationships that can be served in that version; XSOAR's, without one of their own, are written in either.
fn servable_edges(options: &RenderOptions) -> Expr {
    col(column::SPEC_VERSION)
        .is_null()
        .or(servable_natives(options))
        .and(col(column::KIND).eq(lit(kind_value::RELATIONSHIP)))
}

/// `match[type]`: by the type an object is served as, so observables served as `indicator` count as that, and observables
/// wrapped for 2.0 as `observed-data`.
fn of_types(options: &RenderOptions, types: &[String]) -> Expr {
    let every = |wanted: &dyn Fn(StixType) -> bool| -> Vec<Expr> {
        StixType::ALL.iter().filter(|stix_type| wanted(**stix_type)).map(|stix_type| lit(stix_type.as_str())).collect()
    };
    let of_indicators = |types: Vec<Expr>| {
        col(column::KIND).eq(lit(kind_value::INDICATOR)).and(col(column::STIX_TYPE).in_list(types, false))
    };
    let as_indicator = every(&|stix_type| options.indicator_types.contains(stix_type));
    let wrapped = match (options.version, options.profile) {
        (StixVersion::V20, Profile::Standard) => {
            every(&|stix_type| stix_type.is_sco() && !options.indicator_types.contains(stix_type))
        }
        _ => Vec::new(),
    };
    let mut matching = col(column::STIX_TYPE).in_list(types.iter().map(|name| lit(name.as_str())).collect(), false);
    for (stix_types, served_as) in [(as_indicator, StixType::Indicator), (wrapped, StixType::ObservedData)] {
        if !stix_types.is_empty() {
            let turned = of_indicators(stix_types);
            matching = matching.and(Expr::Not(Box::new(turned.clone())));
            if types.iter().any(|name| name == served_as.as_str()) {
                matching = matching.or(turned);
            }
        }
    }
    matching
}

/// `match[spec_version]`: native objects have one; everything else is written in the version asked for.
fn of_spec_versions(options: &RenderOptions, versions: &[String]) -> Expr {
    let named =
        col(column::SPEC_VERSION).in_list(versions.iter().map(|version| lit(version.as_str())).collect(), false);
    if versions.iter().any(|version| version == options.version.as_str()) {
        named.or(col(column::SPEC_VERSION).is_null())
    } else {
        named
    }
}

/// Valid 2.0 writes dates in whole milliseconds.
fn in_millis(options: &RenderOptions) -> bool {
    options.version == StixVersion::V20 && options.profile == Profile::Standard
}

/// `match[version]` with exact dates.
fn of_versions(options: &RenderOptions, exact: &[Timestamp]) -> Expr {
    let instant = |micros: i64| lit(ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into())));
    let one_of = |name: &str| match in_millis(options) {
        false => col(name).in_list(exact.iter().map(|exact| instant(exact.0)).collect(), false),
        true => exact
            .iter()
            .map(|exact| exact.floor_milli().0)
            .fold(lit(false), |any, from| any.or(col(name).between(instant(from), instant(from + 999)))),
    };
    let none = |name: &str| col(name).is_null();
    one_of(column::MODIFIED)
        .or(none(column::MODIFIED).and(one_of(column::CREATED)))
        .or(none(column::MODIFIED).and(none(column::CREATED)).and(one_of(column::ADDED)))
}
