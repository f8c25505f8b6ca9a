//! The index at work: built when first needed, replaced when the store has a newer version, while the old one goes on answering.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::enrich::allow::fresh_seed;
use crate::enrich::block::{self, Tally};
use crate::enrich::detail::Detail;
use crate::enrich::index::Index;
use crate::enrich::lines::Block;
use crate::enrich::runs::Runs;
use crate::enrich::scan::Fields;
use crate::enrich::{AllowList, EnrichError, EnrichOptions, Format};
use crate::feed::StoreFeed;
use crate::feed::collection::Collection;
use crate::feed::{Members, posted};
use crate::model::time::Timestamp;
use crate::runtime::CpuPool;
use crate::store::{Snapshot, Store};

/// Memory for what is told of indicators that were found lately.
const KEPT_BYTES: u64 = 64 << 20;
/// Indicators among those, about.
const KEPT: usize = 100_000;
/// How often a server looks for a newer version.
const WATCH: Duration = Duration::from_millis(500);
/// How long a collection whose query looks at the clock counts as it was.
const CLOCK_HOLDS: Duration = Duration::from_secs(60);
/// Rows whose membership is remembered.
const REMEMBERED: usize = 100_000;

/// Looks up values in a store. Clones share the index.
#[derive(Clone)]
pub struct Enricher {
    shared: Arc<Shared>,
}

struct Shared {
    feed: StoreFeed,
    allow: RwLock<Arc<AllowList>>,
    current: RwLock<Option<Arc<Index>>>,
    /// One build at a time.
    building: AtomicBool,
    first: tokio::sync::Mutex<()>,
    kept: Cache<(u64, u32, Format), Arc<Detail>, Weight>,
    runs: Runs,
    seed: u64,
}

/// A detail weighs what it takes of memory.
#[derive(Clone, Debug)]
struct Weight;

impl Weighter<(u64, u32, Format), Arc<Detail>> for Weight {
    fn weight(&self, _: &(u64, u32, Format), detail: &Arc<Detail>) -> u64 {
        detail.weight()
    }
}

impl std::fmt::Debug for Enricher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Enricher({:?})", self.shared.feed)
    }
}

/// What the index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexState {
    /// Version of the store it is of.
    pub version: u64,
    /// Values that can be found; superseded ones are among them until the store is compacted.
    pub values: u64,
    /// Bytes of memory.
    pub bytes: u64,
}

impl Enricher {
    /// Over the store of a feed, whose threads it uses. Builds nothing yet. Of the rows around those that are found, as many stay in
    /// memory as go into `rows_bytes`.
    pub fn new(feed: StoreFeed, allow: AllowList, rows_bytes: usize) -> Self {
        let shared = Shared {
            feed,
            allow: RwLock::new(Arc::new(allow)),
            current: RwLock::new(None),
            building: AtomicBool::new(false),
            first: tokio::sync::Mutex::new(()),
            kept: Cache::with_weighter(KEPT, KEPT_BYTES, Weight),
            runs: Runs::new(rows_bytes),
            seed: fresh_seed(),
        };
        Enricher { shared: Arc::new(shared) }
    }

    /// The threads that it works on.
    pub fn pool(&self) -> &CpuPool {
        self.shared.feed.pool()
    }

    /// From now on these are not reported.
    pub fn allow(&self, list: AllowList) {
        *self.shared.allow.write() = Arc::new(list);
    }

    /// Builds the index if there is none yet, and blocks until it is there: for commands.
    pub fn prepare(&self) -> Result<IndexState, EnrichError> {
        if self.shared.current().is_none() {
            self.pool().run_blocking(|| self.shared.rebuild())?;
        }
        self.state().ok_or(EnrichError::NotBuilt)
    }

    /// Builds the index if there is none yet, and has it follow the store from then on: for servers. Whoever asks meanwhile waits
    /// for the one build.
    pub async fn ready(&self) -> Result<(), EnrichError> {
        if self.shared.current().is_some() {
            return Ok(());
        }
        let _one_builder = self.shared.first.lock().await;
        if self.shared.current().is_some() {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        self.pool().run(move || shared.rebuild()).await??;
        tokio::spawn(follow(Arc::downgrade(&self.shared)));
        Ok(())
    }

    /// What the index is, once it was built.
    pub fn state(&self) -> Option<IndexState> {
        let index = self.shared.current()?;
        Some(IndexState {
            version: index.snapshot.version(),
            values: index.keys.len() as u64,
            bytes: index.keys.bytes() as u64,
        })
    }

    /// Looks whether the store has a newer version, and starts to take it in if so. Does not wait for that: until it is done the
    /// index stays as it was.
    pub fn refresh(&self) {
        Shared::refresh(&self.shared);
    }

    /// Begins to enrich one stream. Only what is in one of `collections` is told; `None`: all but what was posted to inboxes.
    pub fn session(
        &self,
        options: EnrichOptions,
        collections: Option<Vec<Arc<Collection>>>,
    ) -> Result<Session, EnrichError> {
        let fields = (!options.fields.is_empty()).then(|| Fields::new(options.fields.iter().map(String::as_str)));
        let members = match collections {
            Some(collections) => Some(Membership::new(&self.shared.feed, collections)?),
            None => None,
        };
        Ok(Session { shared: Arc::clone(&self.shared), options, fields, members })
    }
}

/// Keeps the index at the newest version, as long as anybody has it.
async fn follow(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(WATCH).await;
        let Some(shared) = shared.upgrade() else { return };
        let pool = shared.feed.pool().clone();
        // Looking may touch the disk.
        let _ = pool.run(move || Shared::refresh(&shared)).await;
    }
}

impl Shared {
    fn store(&self) -> &Store {
        self.feed.store()
    }

    fn current(&self) -> Option<Arc<Index>> {
        self.current.read().clone()
    }

    /// Takes in the newest version.
    fn rebuild(&self) -> Result<(), EnrichError> {
        let snapshot = self.store().snapshot()?;
        self.take_in(snapshot)
    }

    fn take_in(&self, snapshot: Arc<Snapshot>) -> Result<(), EnrichError> {
        let before = self.current();
        let started = Instant::now();
        let index = Index::build(snapshot, before.as_deref(), self.seed)?;
        self.runs.retain(|part| index.has_part(part));
        tracing::debug!(
            version = index.snapshot.version(),
            values = index.keys.len(),
            bytes = index.keys.bytes(),
            ms = started.elapsed().as_secs_f64() * 1e3,
            "enrichment index taken in"
        );
        *self.current.write() = Some(Arc::new(index));
        Ok(())
    }

    fn refresh(this: &Arc<Self>) {
        let Some(current) = this.current() else { return };
        let snapshot = match this.store().snapshot() {
            Ok(snapshot) if snapshot.version() == current.snapshot.version() => return,
            Ok(snapshot) => snapshot,
            Err(error) => {
                tracing::warn!(error = %error, "the store cannot be looked at; enrichment goes on with what it has");
                return;
            }
        };
        if this.building.swap(true, Ordering::AcqRel) {
            return;
        }
        let guard = Building(Arc::clone(this));
        this.feed.pool().spawn(move || {
            if let Err(error) = guard.0.take_in(snapshot) {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "a new version cannot be taken in; enrichment goes on with the old one");
            }
        });
    }
}

/// Says that a build is over, however it ended.
struct Building(Arc<Shared>);

impl Drop for Building {
    fn drop(&mut self) {
        self.0.building.store(false, Ordering::Release);
    }
}

/// One stream of events, or one question.
pub struct Session {
    shared: Arc<Shared>,
    pub(crate) options: EnrichOptions,
    pub(crate) fields: Option<Fields>,
    /// `None`: everything but what was posted.
    members: Option<Membership>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Session {
    /// Enriches a block, with the newest index there is. Runs on the calling thread.
    pub fn block(&self, block: Block) -> Result<(Vec<u8>, Tally), EnrichError> {
        Shared::refresh(&self.shared);
        let index = self.shared.current().ok_or(EnrichError::NotBuilt)?;
        block::enrich(self, &index, block)
    }

    /// What is known of one value, as a JSON document with a line end. Runs on the calling thread.
    pub fn look_up(&self, value: &str) -> Result<Vec<u8>, EnrichError> {
        Shared::refresh(&self.shared);
        let index = self.shared.current().ok_or(EnrichError::NotBuilt)?;
        block::look_up_one(self, &index, value)
    }

    pub(crate) fn allow(&self) -> Arc<AllowList> {
        Arc::clone(&self.shared.allow.read())
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.shared.store().now()
    }

    pub(crate) fn kept(&self, part: u64, row: u32) -> Option<Arc<Detail>> {
        self.shared.kept.get(&(part, row, self.options.format))
    }

    pub(crate) fn keep(&self, part: u64, row: u32, detail: &Arc<Detail>) {
        self.shared.kept.insert((part, row, self.options.format), Arc::clone(detail));
    }

    pub(crate) fn runs(&self) -> &Runs {
        &self.shared.runs
    }

    /// Whether the row is in what this session may tell of.
    pub(crate) fn may_tell(&self, index: &Index, part: u32, row: u32) -> Result<bool, EnrichError> {
        let Some(view) = index.view(part) else { return Ok(false) };
        match &self.members {
            None => Ok(!posted(&self.shared.feed, view, row)?),
            Some(members) => members.hold(&self.shared.feed, index, part, row),
        }
    }
}

/// Which rows belong to the collections of a session.
struct Membership {
    collections: Vec<Arc<Collection>>,
    now: RwLock<Arc<Now>>,
}

/// As of some time.
struct Now {
    since: Instant,
    members: Vec<Members>,
    remembered: Cache<(u64, u32), bool>,
}

impl Membership {
    fn new(feed: &StoreFeed, collections: Vec<Arc<Collection>>) -> Result<Self, EnrichError> {
        let now = RwLock::new(Arc::new(Now::of(feed, &collections)?));
        Ok(Membership { collections, now })
    }

    fn hold(&self, feed: &StoreFeed, index: &Index, part: u32, row: u32) -> Result<bool, EnrichError> {
        let mut now = Arc::clone(&self.now.read());
        if now.since.elapsed() > CLOCK_HOLDS {
            now = Arc::new(Now::of(feed, &self.collections)?);
            *self.now.write() = Arc::clone(&now);
        }
        let key = (index.number(part), row);
        if let Some(known) = now.remembered.get(&key) {
            return Ok(known);
        }
        let Some(view) = index.view(part) else { return Ok(false) };
        let mut is_in = false;
        for members in &now.members {
            if members.hold(view, row)? {
                is_in = true;
                break;
            }
        }
        now.remembered.insert(key, is_in);
        Ok(is_in)
    }
}

impl Now {
    fn of(feed: &StoreFeed, collections: &[Arc<Collection>]) -> Result<Self, EnrichError> {
        let members = collections.iter().map(|collection| feed.members(collection)).collect::<Result<_, _>>()?;
        Ok(Now { since: Instant::now(), members, remembered: Cache::new(REMEMBERED) })
    }
}
