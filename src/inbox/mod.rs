//! What clients post: taken in, kept, answered for, deleted (TAXII 2.1 §5.5, §5.7, §4.3; TAXII 2.0 §5.5).
//!
//! ```text
//! post ── read on all cores ──┐
//! post ── read on all cores ──┼─► bounded queue ─► one writer: resolve in order ─► one commit ─► statuses, fsync ─► answers
//! delete ─────────────────────┘
//! ```
//! Whatever waits is written together, so many small posts do not make many small segments. An answer is given once both the
//! objects and the status are on disk: a kill at any point loses nothing that was acknowledged, and to post the same again changes
//! nothing.

mod decode;
mod import;
mod resolve;
mod status;
mod writer;

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};

use crate::feed::api::{StixVersion, Versions};
use crate::runtime::CpuPool;
use crate::store::{Store, StoreError};

pub use self::import::{AddedDates, InboxImporter, ManifestError};
pub use self::status::{Detail, Status};
use self::status::{Index, StatusLog};
use self::writer::{Job, Removal, Taken};

/// Bytes of bodies are counted in units of so many.
const BYTES_UNIT: usize = 1_024;

/// Bounds of an inbox.
#[derive(Clone, Debug)]
pub struct InboxOptions {
    /// Posts and deletions that may wait for the writer; further ones are refused as busy.
    pub waiting: usize,
    /// Bytes of the bodies of those.
    pub waiting_bytes: usize,
    /// Objects that are committed together, unless one post has more.
    pub commit_rows: usize,
    /// Bytes that are committed together, unless one post has more.
    pub commit_bytes: usize,
    /// Largest object.
    pub object_bytes: usize,
    /// How long the writer waits for another process that writes.
    pub lock_wait: Duration,
    /// How long statuses can be asked for, at least.
    pub statuses_kept: Duration,
}

impl Default for InboxOptions {
    fn default() -> Self {
        InboxOptions {
            waiting: 1_024,
            waiting_bytes: 512 << 20,
            commit_rows: 100_000,
            commit_bytes: 64 << 20,
            object_bytes: 16 << 20,
            lock_wait: Duration::from_secs(20),
            statuses_kept: Duration::from_secs(24 * 3_600),
        }
    }
}

/// Objects for an inbox collection.
#[derive(Clone, Debug)]
pub struct Post {
    /// Id of the collection.
    pub collection: String,
    /// Path of the API root it was posted to.
    pub root: String,
    /// Who posts; `None`: nobody said.
    pub user: Option<String>,
    /// Of TAXII: 2.1 posts envelopes, 2.0 bundles.
    pub version: StixVersion,
    /// The body.
    pub body: Bytes,
}

/// Versions of an object to delete.
#[derive(Clone, Debug)]
pub struct Deletion {
    /// Id of the collection.
    pub collection: String,
    /// STIX id of the object.
    pub object: String,
    /// Which versions of it.
    pub versions: Versions,
    /// Only those of these versions of STIX; empty: of any.
    pub spec_versions: Vec<String>,
    /// Who deletes; `None`: nobody said.
    pub user: Option<String>,
}

/// What a deletion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// Number of versions that are gone.
    pub versions: u64,
}

/// Why a post or a deletion was not done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum InboxError {
    /// The body is nothing that can be posted.
    #[error("{reason}")]
    Malformed {
        /// What is wrong, and where.
        reason: String,
    },
    /// Too much waits already, or another process writes for too long.
    #[error("busy: {what}")]
    Busy {
        /// What is used up.
        what: &'static str,
    },
    /// The collection holds no such object, or it was deleted.
    #[error("the collection holds no object `{id}`")]
    UnknownObject {
        /// As asked for.
        id: String,
    },
    /// The object is there, but not in a version that was asked for.
    #[error("the collection holds no such version of `{id}`")]
    UnknownVersion {
        /// As asked for.
        id: String,
    },
    /// The store failed.
    #[error("write what was posted")]
    Store {
        /// How.
        source: Arc<StoreError>,
    },
    /// Statuses cannot be kept.
    #[error("{action} `{path}`")]
    Statuses {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: String,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
    /// The store lies where statuses cannot be appended to files.
    #[error("the store `{location}` is not in a folder; inboxes need one for the statuses of what is posted")]
    NoFolder {
        /// Where it is.
        location: String,
    },
    /// A part of the inbox failed.
    #[error("{what}")]
    Internal {
        /// What was being done.
        what: &'static str,
    },
}

impl From<StoreError> for InboxError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Locked { .. } => InboxError::Busy { what: "another process writes to the store" },
            source => InboxError::Store { source: Arc::new(source) },
        }
    }
}

/// Takes in what is posted to the inbox collections of a store. Clones share everything.
#[derive(Clone, Debug)]
pub struct Inbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    options: InboxOptions,
    pool: CpuPool,
    queue: SyncSender<Job>,
    /// What may wait, in units of [`BYTES_UNIT`].
    room: Arc<Semaphore>,
    statuses: Arc<Index>,
}

impl Inbox {
    /// Reads the statuses that are kept and starts the writer.
    pub fn open(store: &Store, options: InboxOptions) -> Result<Self, InboxError> {
        let folder = store.folder().ok_or_else(|| InboxError::NoFolder { location: store.location().to_owned() })?;
        let (log, statuses) = StatusLog::open(folder.join("statuses"), options.statuses_kept, store.now())?;
        let failed = |_| InboxError::Internal { what: "start the threads of the inbox" };
        let pool = CpuPool::new(0).map_err(failed)?;
        let (queue, jobs) = sync_channel(options.waiting);
        writer::start(store.clone(), options.clone(), log, jobs).map_err(failed)?;
        let units = options.waiting_bytes.div_ceil(BYTES_UNIT).min(Semaphore::MAX_PERMITS);
        let room = Arc::new(Semaphore::new(units));
        Ok(Inbox { shared: Arc::new(Shared { store: store.clone(), options, pool, queue, room, statuses }) })
    }

    /// Takes objects in. When this answers, they and their status are on disk. Objects that cannot be taken are failures of the
    /// status; the error is about the whole.
    pub async fn post(&self, post: Post) -> Result<Arc<Status>, InboxError> {
        let shared = &self.shared;
        let requested = shared.store.now();
        let most = shared.options.waiting_bytes.div_ceil(BYTES_UNIT);
        let units = u32::try_from(post.body.len().div_ceil(BYTES_UNIT).clamp(1, most.max(1))).unwrap_or(u32::MAX);
        let room = Arc::clone(&shared.room)
            .try_acquire_many_owned(units)
            .map_err(|_| InboxError::Busy { what: "memory for posts" })?;
        let (ids, object_bytes) = (Arc::clone(shared.store.ids()), shared.options.object_bytes);
        let read = move || {
            let read = decode::read(&post, requested, ids, object_bytes);
            read.map(|(rows, status)| (rows, status, room))
        };
        let unfinished = |_| InboxError::Internal { what: "read a post" };
        let (rows, status, room) = shared.pool.run(read).await.map_err(unfinished)??;
        let (answer, answered) = oneshot::channel();
        self.enqueue(Job::Post(Taken { rows, status, answer, _room: room }))?;
        answered.await.unwrap_or(Err(InboxError::Internal { what: "write a post" }))
    }

    /// Deletes versions of an object, in order with what is posted. When this answers, they are in no answer any more.
    pub async fn delete(&self, deletion: Deletion) -> Result<Deleted, InboxError> {
        let (answer, answered) = oneshot::channel();
        self.enqueue(Job::Delete(Removal { deletion, answer }))?;
        answered.await.unwrap_or(Err(InboxError::Internal { what: "delete an object" }))
    }

    /// The status of what `user` posted to the API root `root`; to anybody else it is unknown.
    pub async fn status(&self, id: &str, root: &str, user: Option<&str>) -> Option<Arc<Status>> {
        let id = uuid::Uuid::try_parse(id).ok()?;
        let statuses = Arc::clone(&self.shared.statuses);
        let read = tokio::task::spawn_blocking(move || statuses.read(id)).await.ok().flatten();
        read.filter(|status| status.root == root && status.user.as_deref() == user).map(Arc::new)
    }

    fn enqueue(&self, job: Job) -> Result<(), InboxError> {
        self.shared.queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => InboxError::Busy { what: "the queue of posts" },
            TrySendError::Disconnected(_) => InboxError::Internal { what: "reach the writer" },
        })
    }
}
