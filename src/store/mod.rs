//! The store: a log of immutable, sorted Parquet segments and one small manifest.
//!
//! ```text
//! store.json                  properties, fixed at creation
//! manifest/<version>.json     which segments make a version; created if absent, so two writers cannot both publish one
//! segments/<id>.parquet       rows sorted by `added`; ranges of different segments do not overlap
//! segments/<id>.idx           identity key → row, STIX id → row, end → edge, checksums
//! superseded/<id>-….roar      rows that a later version replaced, or that were deleted
//! cursor.key                  secret that signs paging cursors
//! lock, lock.queue            one writing process at a time, and the one that waits next
//! ```
//! Readers hold a [`Snapshot`] and never wait. The log in order is the concatenation of the segments: no merge, no sort.
//!
//! A row that a later version replaced is superseded: a former version. A row that was deleted is in both sets, and in no answer. Of each
//! object of an inbox one row is live: its newest version, in the newest form of STIX that version is there in.
//!
//! An edge is in the log only behind both of its ends. One that misses an end waits in a segment that the manifest lists apart: the same
//! files, the same durability, but no reader sees its rows.

mod behind;
mod check;
mod commit;
mod compact;
mod error;
mod fs;
mod gc;
mod index;
mod manifest;
mod provider;
mod prune;
mod segment;
mod snapshot;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

pub use behind::Compactor;
pub use check::CheckReport;
pub(crate) use commit::{Dates, joined};
pub use commit::{NewRows, Writer, bytes_of};
pub use compact::{CompactOptions, CompactReport, Extent};
pub use error::StoreError;
pub(crate) use index::{id_key, uuid_key};
pub use manifest::{Manifest, SegmentMeta};
pub use provider::IndicatorTable;
pub use segment::{PAGE_ROWS, ROW_GROUP_ROWS, SEGMENT_ROWS, Segment, SegmentBatches};
pub(crate) use snapshot::{Found, runs as row_runs};
pub use snapshot::{SegmentView, Snapshot};

use self::fs::Storage;
use crate::model::ids::{IdScheme, IdSpace};
use crate::model::schema::SCHEMA_VERSION;
use crate::model::time::Timestamp;

const PROPERTIES: &str = "store.json";
const CURSOR_KEY: &str = "cursor.key";
/// How often, at most, a reader looks for a newer version.
const REFRESH_MS: u64 = 50;
/// Older versions held at hand for walks that began on them.
const OLDER_KEPT: usize = 16;

/// How to open a store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// A folder, or `file://…`.
    pub location: String,
    /// The customer string that SDO ids are derived from; a random one when a new store is given none.
    pub license_id: Option<String>,
    /// How SCO ids are made; `stix` when a new store is given none.
    pub id_scheme: Option<IdScheme>,
    /// How long superseded versions are kept, in seconds.
    pub history_s: u64,
    /// How long a version of the store stays readable for cursors, in seconds.
    pub snapshots_kept_s: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            location: "taxiway-data".to_owned(),
            license_id: None,
            id_scheme: None,
            history_s: 30 * 86_400,
            snapshots_kept_s: 3_600,
        }
    }
}

/// What is fixed when a store is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Properties {
    /// Shape of the store's files.
    pub format: u32,
    /// Newest version of the columns in it.
    pub schema: u32,
    /// The customer string of SDO and collection ids.
    pub license_id: String,
    /// How SCO ids are made.
    pub id_scheme: String,
    /// When it was made.
    pub created: String,
}

/// A handle to an open store; clones share it.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    storage: Arc<dyn Storage>,
    options: StoreOptions,
    properties: Properties,
    ids: Arc<IdSpace>,
    current: RwLock<Arc<Snapshot>>,
    opened: Mutex<HashMap<String, Weak<Segment>>>,
    /// Older versions that cursors asked for lately.
    older: Mutex<LruCache<u64, Arc<Snapshot>>>,
    started: Instant,
    last_look_ms: AtomicU64,
    /// When the newest version was last known for certain.
    last_certain_ms: AtomicU64,
    /// When old versions were last looked for.
    looked: Mutex<gc::Looked>,
    now: Box<dyn Fn() -> Timestamp + Send + Sync>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.location())
    }
}

impl Store {
    /// Opens the store, making it when the location is empty or missing.
    pub fn open_or_create(options: StoreOptions) -> Result<Self, StoreError> {
        let storage = fs::open(&options.location)?;
        create_if_missing(&*storage, &options)?;
        Self::open_at(storage, options, Box::new(Timestamp::now))
    }

    /// Opens an existing store.
    pub fn open(options: StoreOptions) -> Result<Self, StoreError> {
        let storage = fs::open(&options.location)?;
        Self::open_at(storage, options, Box::new(Timestamp::now))
    }

    /// As [`Store::open_or_create`], but what is missing is only imagined, in memory: to say what would be done.
    pub fn open_or_imagine(options: StoreOptions) -> Result<Self, StoreError> {
        let storage = fs::open(&options.location)?;
        if storage.read(PROPERTIES)?.is_some() {
            return Self::open_at(storage, options, Box::new(Timestamp::now));
        }
        refuse_foreign(&*storage)?;
        Self::on_object_store(Arc::new(object_store::memory::InMemory::new()), options)
    }

    /// As [`Store::open_or_create`], with another clock: for tests of clock steps.
    pub fn with_clock(
        options: StoreOptions,
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let storage = fs::open(&options.location)?;
        create_if_missing(&*storage, &options)?;
        Self::open_at(storage, options, Box::new(now))
    }

    /// As [`Store::open_or_create`], on an object store.
    pub fn on_object_store(
        objects: Arc<dyn object_store::ObjectStore>,
        options: StoreOptions,
    ) -> Result<Self, StoreError> {
        let storage: Arc<dyn Storage> = Arc::new(fs::ObjectFolder::new(objects, &options.location));
        create_if_missing(&*storage, &options)?;
        Self::open_at(storage, options, Box::new(Timestamp::now))
    }

    fn open_at(
        storage: Arc<dyn Storage>,
        options: StoreOptions,
        now: Box<dyn Fn() -> Timestamp + Send + Sync>,
    ) -> Result<Self, StoreError> {
        let properties = load_properties(&*storage)?;
        let location = storage.describe("");
        for (what, found, known) in
            [("format", properties.format, manifest::FORMAT_VERSION), ("schema", properties.schema, SCHEMA_VERSION)]
        {
            if found > known {
                return Err(StoreError::Newer { path: location, what, found, known });
            }
        }
        let differs = |property, found: &str, asked: &str| StoreError::PropertyDiffers {
            path: location.clone(),
            property,
            found: found.to_owned(),
            asked: asked.to_owned(),
        };
        if let Some(asked) = options.license_id.as_ref().filter(|asked| **asked != properties.license_id) {
            return Err(differs("license_id", &properties.license_id, asked));
        }
        let scheme = IdScheme::parse(&properties.id_scheme)
            .ok_or_else(|| StoreError::damaged(storage.describe(PROPERTIES), "its id scheme is unknown"))?;
        if let Some(asked) = options.id_scheme.filter(|asked| *asked != scheme) {
            return Err(differs("id_scheme", &properties.id_scheme, asked.as_str()));
        }
        let ids = Arc::new(IdSpace::new(&properties.license_id, scheme));
        let store = Store {
            shared: Arc::new(Shared {
                storage,
                options,
                properties,
                ids,
                current: RwLock::new(Arc::new(Snapshot::new(Manifest::empty(), Vec::new(), Vec::new()))),
                opened: Mutex::default(),
                older: Mutex::new(LruCache::new(NonZeroUsize::MIN.saturating_add(OLDER_KEPT - 1))),
                started: Instant::now(),
                last_look_ms: AtomicU64::new(0),
                last_certain_ms: AtomicU64::new(0),
                looked: Mutex::default(),
                now,
            }),
        };
        store.reload()?;
        Ok(store)
    }

    /// The location as given.
    pub fn location(&self) -> &str {
        &self.shared.options.location
    }

    /// How it was opened.
    pub fn options(&self) -> &StoreOptions {
        &self.shared.options
    }

    /// What was fixed when it was made.
    pub fn properties(&self) -> &Properties {
        &self.shared.properties
    }

    /// The ids of this store's objects.
    pub fn ids(&self) -> &Arc<IdSpace> {
        &self.shared.ids
    }

    /// The time of day as this store sees it.
    pub fn now(&self) -> Timestamp {
        (self.shared.now)()
    }

    fn looked(&self) -> &Mutex<gc::Looked> {
        &self.shared.looked
    }

    fn elapsed_ms(&self) -> u64 {
        self.shared.started.elapsed().as_millis() as u64
    }

    pub(crate) fn storage(&self) -> &Arc<dyn Storage> {
        &self.shared.storage
    }

    /// The newest version, as far as this process knows; looks for versions of other processes at most every 50 ms.
    pub fn snapshot(&self) -> Result<Arc<Snapshot>, StoreError> {
        let elapsed = self.elapsed_ms();
        let last = self.shared.last_look_ms.load(Ordering::Relaxed);
        let current = Arc::clone(&self.shared.current.read());
        if elapsed < last + REFRESH_MS {
            return Ok(current);
        }
        self.shared.last_look_ms.store(elapsed, Ordering::Relaxed);
        // After a silence the next version may have been replaced and removed already, and this one with it.
        let storage = &**self.storage();
        let silent = elapsed.saturating_sub(self.shared.last_certain_ms.load(Ordering::Relaxed)) >= gc::GRACE_S * 500;
        let overtaken = silent
            || Manifest::exists(storage, current.version() + 1)?
            || !Manifest::exists(storage, current.version())?;
        if overtaken { self.reload() } else { Ok(current) }
    }

    /// The newest version as of now.
    pub fn reload(&self) -> Result<Arc<Snapshot>, StoreError> {
        let storage = &**self.storage();
        let mut attempts = 0;
        loop {
            let certain = self.elapsed_ms();
            let newest = Manifest::newest(storage)?;
            let current = Arc::clone(&self.shared.current.read());
            let snapshot = if newest == current.version() { Ok(Some(current)) } else { self.load(newest) };
            attempts += 1;
            match snapshot {
                Ok(Some(snapshot)) => {
                    self.shared.last_certain_ms.fetch_max(certain, Ordering::Relaxed);
                    return Ok(self.install(snapshot));
                }
                // It can go between listing and reading only when newer ones exist: look again.
                Ok(None) if attempts < 10 => {}
                Ok(None) => {
                    let path = storage.describe("manifest");
                    return Err(StoreError::damaged(path, "its newest version vanishes while being read"));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads a version; `None` when it is not there (any more).
    fn load(&self, version: u64) -> Result<Option<Arc<Snapshot>>, StoreError> {
        if version == 0 {
            return self.snapshot_of(Manifest::empty()).map(Some);
        }
        let storage = &**self.storage();
        let Some(manifest) = Manifest::load(storage, version)? else { return Ok(None) };
        match self.snapshot_of(manifest) {
            // Its files go with it.
            Err(_) if !Manifest::exists(storage, version)? => Ok(None),
            snapshot => snapshot.map(Some),
        }
    }

    /// An older version, or the next younger one that is still kept; `None` when that is the newest. Nothing that was deleted since is
    /// in it: versions from before the last deletion are not given out any more.
    pub fn snapshot_at(&self, version: u64) -> Result<Option<Arc<Snapshot>>, StoreError> {
        let current = self.snapshot()?;
        if version == current.version() {
            return Ok(Some(current));
        }
        let oldest = current.manifest().last_deletion;
        if version == 0 || version < oldest || version > current.version() {
            return Ok(None);
        }
        if let Some(snapshot) = self.older(version)? {
            return Ok(Some(snapshot));
        }
        for kept in Manifest::versions(&**self.storage())? {
            if (version..current.version()).contains(&kept)
                && let Some(snapshot) = self.older(kept)?
            {
                return Ok(Some(snapshot));
            }
        }
        Ok(None)
    }

    fn older(&self, version: u64) -> Result<Option<Arc<Snapshot>>, StoreError> {
        if let Some(snapshot) = self.shared.older.lock().get(&version).cloned() {
            // Its files go when its manifest does.
            return Ok(Manifest::exists(&**self.storage(), version)?.then_some(snapshot));
        }
        let Some(snapshot) = self.load(version)? else { return Ok(None) };
        self.shared.older.lock().put(version, Arc::clone(&snapshot));
        Ok(Some(snapshot))
    }

    /// Starts a commit: waits for other writers, then builds on the newest version.
    pub fn writer(&self) -> Result<Writer, StoreError> {
        Writer::begin(self, commit::LOCK_WAIT)
    }

    /// As [`Store::writer`], but gives up after waiting so long for other writers.
    pub fn writer_within(&self, wait: Duration) -> Result<Writer, StoreError> {
        Writer::begin(self, wait)
    }

    /// The folder of the store, if it lies in one.
    pub fn folder(&self) -> Option<PathBuf> {
        self.storage().lock_path()?.parent().map(Path::to_owned)
    }

    /// Removes what a killed writer left; call it once when a process starts to write or serve. Does nothing while another
    /// process writes.
    pub fn remove_orphans(&self) -> Result<(), StoreError> {
        let Some(_lock) = commit::try_lock(self)? else { return Ok(()) };
        let snapshot = self.reload()?;
        let kept = Manifest::versions(&**self.storage())?;
        gc::remove_orphans(self, &snapshot, &kept)
    }

    /// Verifies checksums, order, counts and indexes of everything the newest version names.
    pub fn check(&self, progress: impl FnMut(&str)) -> Result<CheckReport, StoreError> {
        check::check(self, progress)
    }

    /// Rewrites small or much superseded segments into fewer, fuller ones; `added` and the order stay.
    pub fn compact(&self, options: &CompactOptions) -> Result<CompactReport, StoreError> {
        compact::compact(self, options)
    }

    /// Whether a compaction of [`Extent::Needed`] may have something to do; `thorough` looks at superseded rows, too.
    pub(crate) fn needs_compaction(&self, thorough: bool) -> Result<bool, StoreError> {
        Ok(compact::is_needed(&*self.snapshot()?, thorough))
    }

    /// Makes one of the newest segments when they are many and small; for whoever writes many small commits, after each of them.
    pub fn merge_tail(&self) -> Result<CompactReport, StoreError> {
        compact::merge_tail(self)
    }

    /// The secret that signs cursors, the same for every process on this store.
    pub fn cursor_key(&self) -> Result<[u8; 32], StoreError> {
        let storage = self.storage();
        if storage.read(CURSOR_KEY)?.is_none() {
            let mut key = [0u8; 32];
            for half in key.chunks_exact_mut(16) {
                half.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
            }
            storage.put_if_absent(CURSOR_KEY, &key, true)?;
        }
        let bytes = storage.read(CURSOR_KEY)?.unwrap_or_default();
        bytes[..].try_into().map_err(|_| StoreError::damaged(storage.describe(CURSOR_KEY), "it has not 32 bytes"))
    }

    pub(crate) fn publish(&self, manifest: Manifest) -> Result<Arc<Snapshot>, StoreError> {
        let version = manifest.version;
        let snapshot = self.snapshot_of(manifest)?;
        self.storage().settle()?;
        if !snapshot.manifest().publish(&**self.storage())? {
            return Err(StoreError::Conflict { path: self.location().to_owned(), version });
        }
        self.shared.last_certain_ms.fetch_max(self.elapsed_ms(), Ordering::Relaxed);
        Ok(self.install(snapshot))
    }

    fn install(&self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        let mut current = self.shared.current.write();
        if snapshot.version() >= current.version() {
            *current = Arc::clone(&snapshot);
        }
        snapshot
    }

    fn snapshot_of(&self, manifest: Manifest) -> Result<Arc<Snapshot>, StoreError> {
        let current = Arc::clone(&self.shared.current.read());
        if current.version() == manifest.version && manifest.version > 0 {
            return Ok(current);
        }
        let views = self.views_of(&manifest.segments, current.segments())?;
        let waiting = self.views_of(&manifest.waiting, current.waiting())?;
        Ok(Arc::new(Snapshot::new(manifest, views, waiting)))
    }

    /// Opens segments; what `current` holds of them is shared.
    fn views_of(&self, segments: &[SegmentMeta], current: &[SegmentView]) -> Result<Vec<SegmentView>, StoreError> {
        let mut views = Vec::with_capacity(segments.len());
        for meta in segments {
            if meta.schema > SCHEMA_VERSION {
                return Err(StoreError::Newer {
                    path: self.storage().describe(""),
                    what: "schema",
                    found: meta.schema,
                    known: SCHEMA_VERSION,
                });
            }
            let same = current.iter().find(|view| view.segment.id() == meta.id);
            let superseded = match same.filter(|view| view.segment.meta().superseded == meta.superseded) {
                Some(view) => Arc::clone(&view.superseded),
                None => snapshot::load_superseded(&**self.storage(), meta)?,
            };
            let deleted = match same.filter(|view| view.segment.meta().deleted == meta.deleted) {
                Some(view) => Arc::clone(&view.deleted),
                None => snapshot::load_deleted(&**self.storage(), meta)?,
            };
            views.push(SegmentView { segment: self.segment(meta, same), superseded, deleted });
        }
        Ok(views)
    }

    /// The opened segment of this name, shared; its meta is that of the version asked for.
    fn segment(&self, meta: &SegmentMeta, same: Option<&SegmentView>) -> Arc<Segment> {
        if let Some(view) = same.filter(|view| view.segment.meta() == meta) {
            return Arc::clone(&view.segment);
        }
        let mut opened = self.shared.opened.lock();
        opened.retain(|_, segment| segment.strong_count() > 0);
        if let Some(segment) = opened.get(&meta.id).and_then(Weak::upgrade)
            && segment.meta() == meta
        {
            return segment;
        }
        let segment = match same {
            Some(view) => Arc::new(view.segment.with_meta(meta.clone())),
            None => Arc::new(Segment::new(meta.clone(), Arc::clone(self.storage()))),
        };
        opened.insert(meta.id.clone(), Arc::downgrade(&segment));
        segment
    }
}

fn create_if_missing(storage: &dyn Storage, options: &StoreOptions) -> Result<(), StoreError> {
    if storage.read(PROPERTIES)?.is_some() {
        return Ok(());
    }
    refuse_foreign(storage)?;
    let properties = Properties {
        format: manifest::FORMAT_VERSION,
        schema: SCHEMA_VERSION,
        license_id: options.license_id.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
        id_scheme: options.id_scheme.unwrap_or(IdScheme::Stix).as_str().to_owned(),
        created: Timestamp::now().to_string(),
    };
    let text = serde_json::to_vec_pretty(&properties)
        .map_err(|error| StoreError::damaged(storage.describe(PROPERTIES), error))?;
    // Losing a race to another creator is fine: its properties are read next.
    storage.put_if_absent(PROPERTIES, &text, false).map(|_| ())
}

/// Only what a creation that was cut short leaves, and the users file, may lie where a store is to be made.
fn refuse_foreign(storage: &dyn Storage) -> Result<(), StoreError> {
    let ours = |name: &str| {
        name.contains("store.")
            || [
                "lock",
                "lock.queue",
                "statuses",
                "sources",
                "manifest",
                "segments",
                "superseded",
                "users.json",
                CURSOR_KEY,
            ]
            .contains(&name)
    };
    if storage.list("")?.iter().any(|listed| !ours(&listed.name)) {
        return Err(StoreError::NotAStore { path: storage.describe("") });
    }
    Ok(())
}

fn load_properties(storage: &dyn Storage) -> Result<Properties, StoreError> {
    let Some(bytes) = storage.read(PROPERTIES)? else {
        return Err(StoreError::Missing { path: storage.describe("") });
    };
    serde_json::from_slice(&bytes).map_err(|error| StoreError::damaged(storage.describe(PROPERTIES), error))
}
