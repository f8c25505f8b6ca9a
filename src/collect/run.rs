//! One fetch of one source: pages come from the network, are decoded on other threads, and a thread of its own commits them,
//! each time together with the place that they lead to.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::definition::{Definition, FieldError};
use super::disk;
use super::log::{self, CollectionReport, Known, Outcome, Report, State, Trigger};
use super::registry::{Registry, RegistryError, Source};
use crate::ingest::{DecodeOptions, Format, Importer, Parsed, Summary, decode_each};
use crate::model::time::Timestamp;
use crate::source::{Client, Collection, Facts, Objects, Place, Preview, SourceError};
use crate::store::{Store, StoreError};

/// What is gathered for a commit, at most: rows, bytes, and for how long. A feed of a million objects is not a million commits,
/// and nobody waits long for what came.
const COMMIT_ROWS: usize = 65_536;
const COMMIT_BYTES: usize = 64 << 20;
const COMMIT_AFTER: Duration = Duration::from_secs(2);
/// After such a silence of the server, what came is committed.
const QUIET: Duration = Duration::from_millis(500);
/// Decoded pages that wait for the thread that commits.
const DECODED_AHEAD: usize = 2;
/// How often the lock of a source is tried.
const LOCK_ATTEMPTS: usize = 5;
/// So many texts of a kind are kept in a report,
const MOST_TEXTS: usize = 20;
/// each so long, in characters.
const TEXT_CHARS: usize = 300;
/// More collections than this are not listed one by one in a state.
const MOST_KNOWN: usize = 10_000;

/// Why nothing was fetched at all. What goes wrong in a fetch is in its [`Report`].
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// Somebody else is at it.
    #[error(
        "source `{name}` is being fetched already, by this or another process; `taxiway source list` shows how far it is"
    )]
    Busy {
        /// Its name.
        name: String,
    },
    /// The definition cannot be used as it is.
    #[error("source `{name}` cannot be fetched: {reason}")]
    Unusable {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// A setting of it.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The server.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The definitions.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The files beside them.
    #[error("cannot write to `{}`: {source}", folder.display())]
    Files {
        /// Where.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What is wanted of a fetch.
#[derive(Clone, Debug)]
pub struct Request {
    /// Why it is done.
    pub trigger: Trigger,
    /// Only these of the collections that the definition chooses; none: all of them.
    pub only: Vec<String>,
    /// Begin anew instead of going on.
    pub restart: bool,
    /// Ends the fetch early; what came until then is kept.
    pub stop: CancellationToken,
}

impl Request {
    /// Everything, for that reason.
    pub fn new(trigger: Trigger) -> Self {
        Request { trigger, only: Vec::new(), restart: false, stop: CancellationToken::new() }
    }
}

/// How far a fetch is, to be watched from elsewhere.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    objects: AtomicU64,
    kept: AtomicU64,
    answers: AtomicU64,
    bytes: AtomicU64,
    total: AtomicU64,
    collections: AtomicU64,
    collections_done: AtomicU64,
    collection: Mutex<String>,
}

/// How far a fetch is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// Seconds since it began.
    pub seconds: f64,
    /// Objects that came.
    pub objects: u64,
    /// Of them, those that are in the store, or were there before.
    pub kept: u64,
    /// Objects in the collection it is at, where the server says so.
    pub total: Option<u64>,
    /// Whole answers.
    pub answers: u64,
    /// Bytes of answers, decompressed.
    pub bytes: u64,
    /// Collections to fetch.
    pub collections: u64,
    /// Those that are done.
    pub collections_done: u64,
    /// Title of the one it is at.
    pub collection: String,
}

impl Default for Progress {
    fn default() -> Self {
        Progress {
            began: Instant::now(),
            objects: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            total: AtomicU64::new(0),
            collections: AtomicU64::new(0),
            collections_done: AtomicU64::new(0),
            collection: Mutex::default(),
        }
    }
}

impl Progress {
    /// How far it is now.
    pub fn standing(&self) -> Standing {
        let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Standing {
            seconds: self.began.elapsed().as_secs_f64(),
            objects: of(&self.objects),
            kept: of(&self.kept),
            total: Some(of(&self.total)).filter(|total| *total > 0),
            answers: of(&self.answers),
            bytes: of(&self.bytes),
            collections: of(&self.collections),
            collections_done: of(&self.collections_done),
            collection: self.collection.lock().clone(),
        }
    }
}

/// What is remembered of a collection in the store's manifest, together with what was fetched from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Where to go on.
    pub place: Place,
    /// Its title when it was last fetched.
    pub title: String,
    /// Objects that came from it until there.
    pub objects: u64,
}

/// Fetches sources into a store.
#[derive(Clone, Debug)]
pub struct Collector {
    store: Store,
    registry: Arc<Registry>,
    folder: PathBuf,
    decoders: usize,
}

impl Collector {
    /// Fetches what is in `registry` into `store`, decoding up to `decoders` pages at a time.
    pub fn new(store: &Store, registry: Arc<Registry>, decoders: usize) -> Self {
        let folder = registry.folder().to_owned();
        Collector { store: store.clone(), registry, folder, decoders: decoders.max(1) }
    }

    /// The sources.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// How a source stands.
    pub fn state(&self, id: &str) -> State {
        log::state(&self.folder, id)
    }

    /// Where fetching goes on in each collection of a source, by the collection's key.
    pub fn kept(&self, id: &str) -> Result<BTreeMap<String, Kept>, StoreError> {
        let snapshot = self.store.reload()?;
        let places = snapshot.manifest().places.get(id);
        let read = |(key, text): (&String, &String)| match serde_json::from_str(text) {
            Ok(kept) => Some((key.clone(), kept)),
            Err(error) => {
                tracing::warn!(source = id, collection = key, %error, "a place cannot be read; fetching begins anew there");
                None
            }
        };
        Ok(places.into_iter().flatten().filter_map(read).collect())
    }

    /// Removes a source, and what is known of it; what was fetched stays.
    pub fn remove(&self, id: &str) -> Result<(), CollectError> {
        let name = self.registry.get(id)?.definition.name;
        // Not in the middle of a fetch, which would leave its place behind.
        let Some(_lock) = self.lock(id)? else { return Err(CollectError::Busy { name }) };
        self.registry.remove(id)?;
        self.forget(id, None)
    }

    /// Forgets where fetching from a source goes on: in the collection of that key, or in all.
    pub fn forget(&self, id: &str, collection: Option<&str>) -> Result<(), CollectError> {
        if self.store.reload()?.manifest().places.contains_key(id) {
            let mut writer = self.store.writer()?;
            writer.forget_places(id, collection);
            writer.publish()?;
        }
        Ok(())
    }

    /// Finds the server of a source, and what is spoken there.
    pub async fn connect(&self, definition: &Definition) -> Result<Client, CollectError> {
        let endpoint = definition.endpoint()?;
        let spool = self.folder.join("spool");
        let failed = |source| CollectError::Files { folder: spool.clone(), source };
        disk::create_folder(&spool).map_err(failed)?;
        let mut first = None;
        for version in definition.version.candidates() {
            let mut endpoint = endpoint.clone();
            endpoint.version = *version;
            match Client::connect(endpoint, definition.options(spool.clone())).await {
                Ok(client) => return Ok(client),
                Err(error) => first = first.or(Some(error)),
            }
        }
        let unknown = || SourceError::NotTaxii {
            url: crate::source::shown(&definition.url),
            version: None,
            reason: "no version is to be tried".to_owned(),
        };
        Err(first.unwrap_or_else(unknown).into())
    }

    /// Asks the server for its collections, and remembers them.
    pub async fn refresh(&self, source: &Source) -> Result<Vec<Known>, CollectError> {
        let definition = usable(source)?;
        let client = self.connect(definition).await?;
        let all = client.collections().await?;
        let known = known(definition, all);
        // Whoever is fetching has the list as well, and writes the state.
        if let Some(_lock) = self.lock(&definition.id)? {
            let mut state = self.state(&definition.id);
            state.collections.clone_from(&known);
            state.refreshed = Some(Timestamp::now());
            self.keep(&definition.id, &state)?;
        }
        Ok(known)
    }

    /// A look at the oldest objects of the collections that a source chooses: that everything is right with it. Nothing is
    /// kept.
    pub async fn look(
        &self,
        source: &Source,
        most: usize,
    ) -> Result<(Client, Vec<(Collection, Result<Preview, SourceError>)>), CollectError> {
        let definition = usable(source)?;
        let client = self.connect(definition).await?;
        let all = client.collections().await?;
        let mut looks = Vec::new();
        for chosen in choose(&client, definition, &all, &[]).await {
            match chosen {
                Ok(collection) => {
                    let preview = client.preview(&collection, most).await;
                    looks.push((collection, preview));
                }
                Err((_, error)) => return Err(error.into()),
            }
        }
        Ok((client, looks))
    }

    /// Fetches what is new at a source. What goes wrong at the server or in the store is in the report, beside what came before
    /// it. Has to be called within a tokio runtime.
    pub async fn fetch(
        &self,
        source: &Source,
        request: &Request,
        progress: &Arc<Progress>,
    ) -> Result<Report, CollectError> {
        let definition = usable(source)?;
        let id = &definition.id;
        let Some(_lock) = self.lock(id)? else {
            return Err(CollectError::Busy { name: definition.name.clone() });
        };
        let clock = Instant::now();
        let mut state = self.state(id);
        let began = Timestamp::now();
        state.last_attempt = Some(began);
        state.running = true;
        self.keep(id, &state)?;
        let mut report = Report::begun(request.trigger, began);
        Box::pin(self.run(definition, request, progress, &mut report, &mut state)).await;
        report.seconds = clock.elapsed().as_secs_f64();
        state.note(&report, Timestamp::now());
        state.running = false;
        self.keep(id, &state)?;
        let failed = |source| CollectError::Files { folder: self.folder.clone(), source };
        log::append(&self.folder, id, &report).map_err(failed)?;
        Ok(report)
    }

    async fn run(
        &self,
        definition: &Definition,
        request: &Request,
        progress: &Arc<Progress>,
        report: &mut Report,
        state: &mut State,
    ) {
        let stop = &request.stop;
        let found = until(stop, async {
            let client = self.connect(definition).await?;
            let all = client.collections().await?;
            Ok::<_, CollectError>((client, all))
        });
        let (client, all) = match found.await {
            None => {
                report.outcome = Outcome::Stopped;
                return;
            }
            Some(Err(error)) => return fail(report, error),
            Some(Ok(found)) => found,
        };
        report.version = Some(client.version());
        client.notes().iter().for_each(|note| push_text(&mut report.warnings, note));
        let chosen = choose(&client, definition, &all, &request.only).await;
        state.collections = known(definition, all);
        state.refreshed = Some(Timestamp::now());
        let kept = match self.kept(&definition.id) {
            Ok(kept) if !request.restart => kept,
            Ok(_) => BTreeMap::new(),
            Err(error) => return fail(report, error),
        };
        progress.collections.store(chosen.len() as u64, Ordering::Relaxed);
        if chosen.is_empty() {
            push_text(&mut report.warnings, "the server has no collection that may be read");
        }

        let (sender, receiver) = mpsc::channel(DECODED_AHEAD);
        let writing = {
            let importer = Importer::new(&self.store, false).with_default_score(definition.score);
            let write = Writing {
                store: self.store.clone(),
                source: definition.id.clone(),
                importer,
                progress: Arc::clone(progress),
                rejections: Vec::new(),
                taken: 0,
                since: None,
            };
            let handle = Handle::current();
            tokio::task::spawn_blocking(move || write.run(receiver, &handle))
        };
        let mut walk =
            Walk { collector: self, definition, request, progress, sender: Some(sender), report, fetched: 0 };
        for chosen in chosen {
            let goes_on = match chosen {
                Ok(collection) => walk.collection(&client, &collection, kept.get(&collection.key())).await,
                Err((name, error)) => {
                    let goes_on = !ends_all(&error);
                    walk.report.collections.push(CollectionReport {
                        id: name,
                        error: Some(error.to_string()),
                        ..CollectionReport::default()
                    });
                    fail(walk.report, error);
                    goes_on
                }
            };
            progress.collections_done.fetch_add(1, Ordering::Relaxed);
            if !goes_on {
                break;
            }
        }
        drop(walk.sender.take());
        match writing.await {
            Ok(Ok(written)) => {
                let Summary { new, changed, unchanged, rejected, waiting, .. } = written.summary;
                (report.new, report.changed, report.unchanged, report.waiting) = (new, changed, unchanged, waiting);
                report.rejected += rejected;
                written.rejections.iter().for_each(|text| push_text(&mut report.rejections, text));
            }
            // Whatever the walk noticed of it says less.
            Ok(Err(error)) => {
                report.error = None;
                fail(report, error);
                report.transient = true;
            }
            Err(_) => {
                report.error = None;
                fail(report, "committing what was fetched panicked; the log of the process says where");
            }
        }
    }

    fn keep(&self, id: &str, state: &State) -> Result<(), CollectError> {
        log::keep_state(&self.folder, id, state)
            .map_err(|source| CollectError::Files { folder: self.folder.clone(), source })
    }

    /// The right to fetch a source; none when somebody else has it.
    fn lock(&self, id: &str) -> Result<Option<File>, CollectError> {
        let folder = self.folder.join("run");
        let failed = |source| CollectError::Files { folder: folder.clone(), source };
        disk::create_folder(&folder).map_err(failed)?;
        let path = lock_path(&self.folder, id);
        let file = File::options().create(true).truncate(false).write(true).open(path).map_err(failed)?;
        for _ in 0..LOCK_ATTEMPTS {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                // Perhaps somebody who only looks.
                Err(fs::TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
                Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        Ok(None)
    }
}

/// Whether somebody, in whatever process, is fetching a source now. `folder` is that of the registry.
pub fn is_running(folder: &Path, id: &str) -> bool {
    let Ok(file) = File::open(lock_path(folder, id)) else { return false };
    // Shared, and let go at once: whoever wants to fetch at this very moment tries again.
    matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock))
}

fn lock_path(folder: &Path, id: &str) -> PathBuf {
    folder.join("run").join(format!("{id}.lock"))
}

fn usable(source: &Source) -> Result<&Definition, CollectError> {
    match &source.problem {
        None => Ok(&source.definition),
        Some(reason) => Err(CollectError::Unusable { name: source.definition.name.clone(), reason: reason.clone() }),
    }
}

/// Runs until it is done or told to stop.
async fn until<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        done = work => Some(done),
    }
}

fn known(definition: &Definition, all: Vec<Collection>) -> Vec<Known> {
    let chosen = |collection: &Collection| match definition.collections.as_slice() {
        [] => collection.can_read,
        names => names.iter().any(|name| collection.is_named(name)),
    };
    let known = all.into_iter().take(MOST_KNOWN);
    known.map(|collection| Known { chosen: chosen(&collection), collection }).collect()
}

/// The collections to fetch, or why one that is named cannot be.
async fn choose(
    client: &Client,
    definition: &Definition,
    all: &[Collection],
    only: &[String],
) -> Vec<Result<Collection, (String, SourceError)>> {
    let mut chosen: Vec<Result<Collection, (String, SourceError)>> = Vec::new();
    if definition.collections.is_empty() && only.is_empty() {
        chosen.extend(all.iter().filter(|collection| collection.can_read).cloned().map(Ok));
        return chosen;
    }
    let wanted = |name: &String| only.is_empty() || only.iter().any(|only| only.eq_ignore_ascii_case(name));
    let names: Vec<&String> = match definition.collections.is_empty() {
        true => only.iter().collect(),
        false => definition.collections.iter().filter(|name| wanted(name)).collect(),
    };
    for name in names {
        let found = match all.iter().find(|collection| collection.id == *name) {
            Some(found) => Ok(found.clone()),
            None => client.collection(name).await.map_err(|error| (name.clone(), error)),
        };
        let is_new = |found: &Collection| {
            let same = |other: &Result<Collection, _>| other.as_ref().is_ok_and(|other| other.key() == found.key());
            !chosen.iter().any(same)
        };
        if found.as_ref().map_or(true, is_new) {
            chosen.push(found);
        }
    }
    chosen
}

/// Notes that a fetch failed; the first reason stays.
fn fail(report: &mut Report, error: impl Into<Failure>) {
    let Failure { text, transient, wait } = error.into();
    report.outcome = Outcome::Failed;
    if report.error.is_none() {
        report.error = Some(cut(&text));
        report.transient = transient;
    }
    report.retry_after = report.retry_after.max(wait.map(|wait| wait.as_secs()));
}

/// What a report says of an error.
struct Failure {
    text: String,
    transient: bool,
    wait: Option<Duration>,
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Failure { text: error.to_string(), transient: error.is_transient(), wait: error.wait() }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        // A full disk, a lock that somebody holds: what the next fetch may find otherwise.
        Failure { text: error.to_string(), transient: true, wait: None }
    }
}

impl From<CollectError> for Failure {
    fn from(error: CollectError) -> Self {
        match error {
            CollectError::Source(error) => error.into(),
            CollectError::Store(error) => error.into(),
            error => Failure { text: error.to_string(), transient: false, wait: None },
        }
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        Failure { text: text.to_owned(), transient: true, wait: None }
    }
}

/// Whether the other collections of a server would fare no better.
fn ends_all(error: &SourceError) -> bool {
    matches!(
        error,
        SourceError::Connect { .. }
            | SourceError::Trust { .. }
            | SourceError::Timeout { .. }
            | SourceError::Unauthorized { .. }
            | SourceError::Busy { .. }
            | SourceError::Spool { .. }
    )
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(4 * TEXT_CHARS) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn push_text(texts: &mut Vec<String>, text: &str) {
    let text: String = text.chars().take(TEXT_CHARS).collect();
    if texts.len() < MOST_TEXTS && !texts.contains(&text) {
        texts.push(text);
    }
}

/// A decoded page.
struct Piece {
    parsed: Parsed,
    objects: u64,
    /// Key of the collection and where to go on in it.
    collection: String,
    kept: String,
}

/// The walk through the collections of one fetch.
struct Walk<'w> {
    collector: &'w Collector,
    definition: &'w Definition,
    request: &'w Request,
    progress: &'w Arc<Progress>,
    sender: Option<mpsc::Sender<(String, Piece)>>,
    report: &'w mut Report,
    fetched: u64,
}

impl Walk<'_> {
    /// Walks through a collection; false when the fetch ends with it.
    async fn collection(&mut self, client: &Client, collection: &Collection, kept: Option<&Kept>) -> bool {
        let mut own = CollectionReport {
            id: collection.id.clone(),
            title: collection.title.clone(),
            ..CollectionReport::default()
        };
        self.progress.collection.lock().clone_from(&collection.title);
        self.progress.total.store(collection.volume.unwrap_or(0), Ordering::Relaxed);
        let walked = self.pages(client, collection, kept, &mut own).await;
        let goes_on = match walked {
            Ok(goes_on) => goes_on,
            Err(End::Stopped) => {
                self.report.outcome = match self.report.outcome {
                    Outcome::Failed => Outcome::Failed,
                    _ => Outcome::Stopped,
                };
                false
            }
            Err(End::Source(error)) => {
                own.error = Some(cut(&error.to_string()));
                let goes_on = !ends_all(&error);
                fail(self.report, error);
                goes_on
            }
            Err(End::Internal(text)) => {
                own.error = Some(text.clone());
                fail(self.report, text.as_str());
                false
            }
        };
        let report = &mut *self.report;
        report.objects += own.objects;
        report.answers += own.answers;
        report.bytes += own.bytes;
        report.rejected += own.rejected;
        report.collections.push(own);
        goes_on
    }

    async fn pages(
        &mut self,
        client: &Client,
        collection: &Collection,
        kept: Option<&Kept>,
        own: &mut CollectionReport,
    ) -> Result<bool, End> {
        let begin = || match self.definition.begin {
            Some(begin) => Place::since(begin.before(client.server_now().unwrap_or_else(Timestamp::now))),
            None => Place::start(),
        };
        let from = kept.map_or_else(begin, |kept| kept.place.clone());
        let options = Arc::new(self.decode_options(collection));
        let pages = client.pages(collection, from).map_err(End::Source)?;
        let decoded = pages.map_err(End::Source).map(|page| {
            let options = Arc::clone(&options);
            async move {
                let page = page?;
                let objects = page.objects;
                let decoding = tokio::task::spawn_blocking(move || decode(&objects, &options));
                let parsed = decoding.await.map_err(|_| End::Internal("decoding a page panicked".to_owned()))?;
                let parsed = parsed.map_err(|error| End::Internal(format!("cannot build columns: {error}")))?;
                Ok::<_, End>((parsed, page.place, page.facts))
            }
        });
        let mut decoded = std::pin::pin!(decoded.buffered(self.collector.decoders));
        let key = collection.key();
        let mut objects = kept.map_or(0, |kept| kept.objects);
        let mut answered = objects;
        loop {
            let next = until(&self.request.stop, decoded.next()).await.ok_or(End::Stopped)?;
            let Some(next) = next else { return Ok(true) };
            let (parsed, place, facts) = next?;
            let count = parsed.read;
            objects += count;
            self.fetched += count;
            self.note(own, &facts, count);
            if facts.ends_answer {
                answered = objects;
            }
            let kept = Kept { place, title: collection.title.clone(), objects: answered };
            let kept = serde_json::to_string(&kept)
                .map_err(|error| End::Internal(format!("cannot write a place down: {error}")))?;
            let piece = Piece { parsed, objects: count, collection: key.clone(), kept };
            let Some(sender) = &self.sender else { return Err(End::Stopped) };
            let line = format!("{}, after {} objects", collection.title, objects - count);
            let sent = until(&self.request.stop, sender.send((line, piece))).await.ok_or(End::Stopped)?;
            // Whoever commits has failed, and will say so.
            if sent.is_err() {
                return Err(End::Stopped);
            }
            let most = self.definition.limits.objects_per_fetch;
            if facts.ends_answer && facts.more && most.is_some_and(|most| self.fetched >= most) {
                push_text(
                    &mut self.report.warnings,
                    "the limit of objects for one fetch was reached; the next one goes on there",
                );
                return Ok(false);
            }
        }
    }

    fn note(&mut self, own: &mut CollectionReport, facts: &Facts, objects: u64) {
        let answers = u64::from(facts.ends_answer);
        own.objects += objects;
        own.answers += answers;
        own.bytes += facts.bytes;
        own.repeated += facts.repeated;
        own.rejected += facts.rejected;
        for (kind, count) in &facts.skipped {
            if own.skipped.len() < MOST_TEXTS || own.skipped.contains_key(kind) {
                *own.skipped.entry(kind.clone()).or_default() += count;
            }
        }
        facts.warnings.iter().for_each(|text| push_text(&mut self.report.warnings, text));
        for rejection in &facts.rejections {
            push_text(&mut self.report.rejections, &format!("{}: {rejection}", own.title));
        }
        let progress = self.progress;
        progress.objects.fetch_add(objects, Ordering::Relaxed);
        progress.answers.fetch_add(answers, Ordering::Relaxed);
        progress.bytes.fetch_add(facts.bytes, Ordering::Relaxed);
        if let Some(total) = facts.total {
            progress.total.store(total, Ordering::Relaxed);
        }
    }

    fn decode_options(&self, collection: &Collection) -> DecodeOptions {
        let mut options = DecodeOptions::new(Arc::clone(self.collector.store.ids()));
        // Objects of 2.x are kept as they came; what 1.x says comes as documents about values.
        options.format = Some(if collection.version.is_2() { Format::Stix } else { Format::Xsoar });
        options.default_source = Some(self.definition.name.clone());
        options.default_tags.clone_from(&self.definition.tags);
        options
    }
}

/// Why a walk through a collection ended early.
enum End {
    /// It was told to, or came to a limit.
    Stopped,
    Source(SourceError),
    Internal(String),
}

fn decode(objects: &Objects, options: &DecodeOptions) -> Result<Parsed, arrow::error::ArrowError> {
    decode_each(objects.iter(), objects.text().len(), options)
}

/// Commits what comes, on a thread that may block.
struct Writing {
    store: Store,
    source: String,
    importer: Importer,
    progress: Arc<Progress>,
    rejections: Vec<String>,
    /// Objects taken and not committed yet.
    taken: u64,
    /// Since when the first of them waits.
    since: Option<Instant>,
}

/// What was written.
struct Written {
    summary: Summary,
    rejections: Vec<String>,
}

impl Writing {
    fn run(mut self, mut pieces: mpsc::Receiver<(String, Piece)>, handle: &Handle) -> Result<Written, StoreError> {
        loop {
            // A page that waits is taken before the clock is looked at; silence is what has something committed early.
            let next = handle.block_on(async { tokio::time::timeout(QUIET, pieces.recv()).await });
            let silence = next.is_err();
            match next {
                Ok(Some((place, piece))) => self.take(&place, piece)?,
                Ok(None) => break,
                Err(_) => {}
            }
            let Some(since) = self.since else { continue };
            let (rows, bytes) = self.importer.pending();
            if silence || since.elapsed() >= COMMIT_AFTER || rows >= COMMIT_ROWS || bytes >= COMMIT_BYTES {
                self.commit()?;
            }
        }
        self.commit()?;
        let Writing { importer, rejections, .. } = self;
        Ok(Written { summary: importer.finish()?, rejections })
    }

    fn take(&mut self, place: &str, piece: Piece) -> Result<(), StoreError> {
        let Piece { parsed, objects, collection, kept } = piece;
        for reject in self.importer.push(parsed)? {
            push_text(&mut self.rejections, &format!("{place}, object {}: {}", reject.line, reject.reason));
        }
        self.importer.mark(&self.source, &collection, kept);
        self.taken += objects;
        self.since.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        if self.since.take().is_none() {
            return Ok(());
        }
        self.importer.commit()?;
        self.progress.kept.fetch_add(std::mem::take(&mut self.taken), Ordering::Relaxed);
        // Many small commits must not become many small segments; the next one tries again.
        if let Err(error) = self.store.merge_tail() {
            tracing::warn!(%error, "the newest segments cannot be merged; the next commit tries again");
        }
        Ok(())
    }
}
