//! Which sources there are: those of the configuration, and those that were added since, which are kept in the store's
//! folder. Any number of processes may look and change; each sees what the others did.
//!
//! ```text
//! sources/sources.json   definitions that were added, secrets sealed; which sources are paused
//! sources/key            what seals them, unless the configuration puts it elsewhere
//! sources/lock           held by whoever changes them
//! sources/run/           held by whoever fetches a source: one file each
//! sources/state/         how the last fetches went, and what the server has: one file each
//! sources/log/           fetches, a line each: one file a source
//! sources/files/         certificates that were uploaded
//! ```
//! `sources.json` is replaced whole, so a reader sees all of the old or all of the new, whenever somebody is killed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use super::definition::{Definition, FieldError, ReadError, Written, is_id};
use super::disk;
use super::seal::{Keyring, SealError};
use crate::model::time::Timestamp;

/// The folder below the store's.
pub const FOLDER: &str = "sources";
/// The key file, unless another one is named.
const KEY_FILE: &str = "key";
const FILE: &str = "sources.json";
/// Shape of that file.
const FORM: u32 = 1;
/// How long somebody else may take for a change.
const LOCK_WAIT: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(5);

/// Where a definition comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// `[[source]]` of the configuration; changed there alone.
    Configuration,
    /// Added by command or over the management API.
    Managed,
}

/// A source as it is now.
#[derive(Clone, Debug)]
pub struct Source {
    /// What it is.
    pub definition: Definition,
    /// Where that comes from.
    pub origin: Origin,
    /// Rises with every change of the definition; 0 for those of the configuration.
    pub revision: u64,
    /// Whether it is not to be fetched on its schedule for now, by pause.
    pub paused: bool,
    /// When it was added; none for those of the configuration.
    pub created: Option<Timestamp>,
    /// When its definition was changed last.
    pub changed: Option<Timestamp>,
    /// Why it cannot be fetched as it is: secrets that do not open, a name that the configuration has as well.
    pub problem: Option<String>,
}

impl Source {
    /// Whether it is fetched on its schedule.
    pub fn is_active(&self) -> bool {
        self.definition.enabled && !self.paused && self.problem.is_none()
    }
}

/// Why sources cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A file cannot be read.
    #[error("read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("`{}` is damaged: {reason}; restore it from a backup, or remove it and add the sources anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// Somebody else holds the lock.
    #[error("somebody else is changing the sources in `{}` and does not finish; try again", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// Keys cannot be used.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A definition that cannot be used: all that is wrong with it.
    #[error("{}", fields(.0))]
    Fields(Vec<FieldError>),
    /// No such source.
    #[error("there is no source `{name}`; `taxiway source list` shows them")]
    Unknown {
        /// As asked for.
        name: String,
    },
    /// The name or id is taken.
    #[error("there is a source `{name}` already ({}); choose another name", origin_text(*.origin))]
    Taken {
        /// The name.
        name: String,
        /// Whose.
        origin: Origin,
    },
    /// The source is in the configuration.
    #[error("source `{name}` is in the configuration: change it there, then send SIGHUP to a running server")]
    Configured {
        /// Its name.
        name: String,
    },
    /// Somebody else changed it meanwhile.
    #[error(
        "source `{name}` was changed by somebody else meanwhile (revision {found}, not {expected}); look at it again"
    )]
    Changed {
        /// Its name.
        name: String,
        /// As the caller knew it.
        expected: u64,
        /// As it is.
        found: u64,
    },
    /// Another name for what was fetched under this one.
    #[error(
        "source `{name}` cannot be renamed to `{wanted}`: what was fetched holds its name in `sourceBrands`; add another \
         source, and remove this one"
    )]
    Renamed {
        /// Its name.
        name: String,
        /// The new one.
        wanted: String,
    },
    /// A store that lies in no folder.
    #[error("the store `{location}` is no folder, and sources can be kept in folders only")]
    NoFolder {
        /// Where it is.
        location: String,
    },
}

fn fields(problems: &[FieldError]) -> String {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

fn origin_text(origin: Origin) -> &'static str {
    match origin {
        Origin::Configuration => "in the configuration",
        Origin::Managed => "added by command or over the management API",
    }
}

/// All sources of a store.
#[derive(Debug)]
pub struct Registry {
    folder: PathBuf,
    key_file: PathBuf,
    keyring: Mutex<Option<Arc<Keyring>>>,
    configured: RwLock<Arc<Vec<Definition>>>,
    cached: RwLock<Cached>,
    /// One change after the other within this process; the lock file is between processes.
    changing: Mutex<()>,
}

#[derive(Clone, Debug, Default)]
struct Cached {
    stamp: Option<Stamp>,
    content: Arc<Content>,
}

/// Tells one content of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    node: u64,
}

#[derive(Clone, Debug, Default)]
struct Content {
    written: File1,
    sources: Vec<Source>,
}

/// What `sources.json` holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File1 {
    form: u32,
    sources: Vec<Entry>,
    #[serde(default)]
    paused: BTreeSet<String>,
}

impl Default for File1 {
    fn default() -> Self {
        File1 { form: FORM, sources: Vec::new(), paused: BTreeSet::new() }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    revision: u64,
    created: i64,
    changed: i64,
    definition: Written,
}

impl Registry {
    /// The sources in `folder` (which is made when there is something to keep) and those of the configuration. Secrets are
    /// sealed with `key_file`, or with a file in the folder; it is made when there is something to seal.
    pub fn open(folder: &Path, key_file: Option<&Path>, configured: Vec<Definition>) -> Result<Self, RegistryError> {
        let registry = Registry {
            folder: folder.to_owned(),
            key_file: key_file.map_or_else(|| folder.join(KEY_FILE), Path::to_owned),
            keyring: Mutex::default(),
            configured: RwLock::new(Arc::new(configured)),
            cached: RwLock::default(),
            changing: Mutex::default(),
        };
        registry.content()?;
        Ok(registry)
    }

    /// The folder with everything about sources.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What seals secrets; the key file is made when it is not there yet.
    pub fn keyring(&self) -> Result<Arc<Keyring>, SealError> {
        let mut keyring = self.keyring.lock();
        match &*keyring {
            Some(keyring) => Ok(Arc::clone(keyring)),
            None => Ok(Arc::clone(keyring.insert(Arc::new(Keyring::open_or_create(&self.key_file)?)))),
        }
    }

    /// Goes over to other definitions of the configuration.
    pub fn reconfigure(&self, configured: Vec<Definition>) {
        *self.configured.write() = Arc::new(configured);
    }

    /// All sources: those of the configuration in its order, then the others in the order they were added.
    pub fn list(&self) -> Result<Vec<Source>, RegistryError> {
        let content = self.content()?;
        let configured = Arc::clone(&self.configured.read());
        Ok(listed(&configured, &content))
    }

    /// The source of that id, or else of that name, in whatever case.
    pub fn get(&self, id_or_name: &str) -> Result<Source, RegistryError> {
        let all = self.list()?;
        let wanted = id_or_name.trim();
        let found = all
            .iter()
            .find(|source| source.definition.id == wanted)
            .or_else(|| all.iter().find(|source| is_same_name(&source.definition.name, wanted)));
        found.cloned().ok_or_else(|| RegistryError::Unknown { name: shortened(wanted) })
    }

    /// Adds a source. On disk when this returns.
    pub fn create(&self, mut definition: Definition) -> Result<Source, RegistryError> {
        definition.settle();
        check(&definition)?;
        self.change(|content, configured| {
            if let Some(other) = listed(configured, content).iter().find(|other| {
                is_same_name(&other.definition.name, &definition.name) || other.definition.id == definition.id
            }) {
                return Err(RegistryError::Taken { name: other.definition.name.clone(), origin: other.origin });
            }
            let now = Timestamp::now().0;
            let entry = Entry { revision: 1, created: now, changed: now, definition: self.seal(&definition)? };
            let mut written = content.written.clone();
            written.sources.push(entry);
            Ok(written)
        })?;
        self.get(&definition.id)
    }

    /// Changes a source; its id and name stay. With an expected revision, only if it is still that one. What is paused stays
    /// so. On disk when this returns.
    pub fn replace(
        &self,
        id: &str,
        mut definition: Definition,
        expected: Option<u64>,
    ) -> Result<Source, RegistryError> {
        definition.id = id.to_owned();
        definition.settle();
        check(&definition)?;
        self.change(|content, configured| {
            let mut written = content.written.clone();
            let entry = managed(&mut written, configured, id)?;
            let name = &entry.definition.name;
            if let Some(expected) = expected.filter(|expected| *expected != entry.revision) {
                return Err(RegistryError::Changed { name: name.clone(), expected, found: entry.revision });
            }
            if *name != definition.name {
                return Err(RegistryError::Renamed { name: name.clone(), wanted: definition.name.clone() });
            }
            entry.definition = self.seal(&definition)?;
            entry.revision += 1;
            entry.changed = Timestamp::now().0;
            Ok(written)
        })?;
        self.get(id)
    }

    /// Removes a source, and what is known of its fetches. What was fetched stays in the store.
    pub fn remove(&self, id: &str) -> Result<(), RegistryError> {
        self.change(|content, configured| {
            let mut written = content.written.clone();
            managed(&mut written, configured, id)?;
            written.sources.retain(|entry| entry.definition.id != id);
            written.paused.remove(id);
            Ok(written)
        })?;
        for path in [super::log::state_path(&self.folder, id), super::log::log_path(&self.folder, id)] {
            disk::remove(&path).map_err(|source| RegistryError::Write { path, source })?;
        }
        Ok(())
    }

    /// Takes a source off its schedule, also one of the configuration; false when it was already.
    pub fn pause(&self, id: &str) -> Result<bool, RegistryError> {
        self.set_paused(id, true)
    }

    /// Puts a source back on its schedule; false when it was on it.
    pub fn resume(&self, id: &str) -> Result<bool, RegistryError> {
        self.set_paused(id, false)
    }

    fn set_paused(&self, id: &str, paused: bool) -> Result<bool, RegistryError> {
        if self.get(id)?.paused == paused {
            return Ok(false);
        }
        self.change(|content, _| {
            let mut written = content.written.clone();
            match paused {
                true => written.paused.insert(id.to_owned()),
                false => written.paused.remove(id),
            };
            Ok(written)
        })?;
        Ok(true)
    }

    fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// What the file holds now; read only when it changed.
    fn content(&self) -> Result<Arc<Content>, RegistryError> {
        let path = self.path();
        let failed = |source| RegistryError::Read { path: path.clone(), source };
        let stamp = match fs::metadata(&path) {
            Ok(metadata) => Some(stamp_of(&metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        {
            let cached = self.cached.read();
            if cached.stamp == stamp {
                return Ok(Arc::clone(&cached.content));
            }
        }
        // The stamp is that of the file read, should it be replaced meanwhile.
        let opened = match File::open(&path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        let fresh = match opened {
            None => Cached::default(),
            Some(file) => {
                let stamp = stamp_of(&file.metadata().map_err(failed)?);
                let text = io::read_to_string(file).map_err(failed)?;
                Cached { stamp: Some(stamp), content: Arc::new(self.parse(&text)?) }
            }
        };
        let content = Arc::clone(&fresh.content);
        *self.cached.write() = fresh;
        Ok(content)
    }

    fn parse(&self, text: &str) -> Result<Content, RegistryError> {
        // serde_json's own text may repeat parts of the file: only the position is said.
        let damaged = |error: &serde_json::Error| RegistryError::Damaged {
            path: self.path(),
            reason: format!("it is not as expected at line {}, column {}", error.line(), error.column()),
        };
        let written: File1 = serde_json::from_str(text).map_err(|error| damaged(&error))?;
        if written.form != FORM {
            let reason = format!("it is of form {}, and this taxiway knows form {FORM}", written.form);
            return Err(RegistryError::Damaged { path: self.path(), reason });
        }
        let mut sources = Vec::with_capacity(written.sources.len());
        for entry in &written.sources {
            let (definition, problem) = match self.unseal(&entry.definition) {
                Ok(definition) => (Some(definition), None),
                Err(problem) => (entry.definition.without_secrets(), Some(problem)),
            };
            let Some(definition) = definition.or_else(|| self.nameless(&entry.definition)) else { continue };
            sources.push(Source {
                paused: written.paused.contains(&definition.id),
                definition,
                origin: Origin::Managed,
                revision: entry.revision,
                created: Some(Timestamp(entry.created)),
                changed: Some(Timestamp(entry.changed)),
                problem,
            });
        }
        Ok(Content { written, sources })
    }

    fn seal(&self, definition: &Definition) -> Result<Written, SealError> {
        Written::of(definition, |field, text| self.keyring()?.seal(text.as_bytes(), &context(&definition.id, field)))
    }

    /// The definition; the error is for people.
    fn unseal(&self, written: &Written) -> Result<Definition, String> {
        let open = |field: &'static str, text: &str| -> Result<String, SealError> {
            self.keyring()?.open_text(text, &context(&written.id, field))
        };
        written.read(open).map_err(|error| match error {
            ReadError::Secret(error) => with_cause(&error),
            ReadError::Field(error) => error.to_string(),
        })
    }

    /// What is left of a definition of which not even the URL can be read: enough to list, replace and remove it.
    fn nameless(&self, written: &Written) -> Option<Definition> {
        let url = url::Url::parse("https://unreadable.invalid/").ok()?;
        let mut definition = Definition::new(written.name.clone(), url);
        definition.id.clone_from(&written.id);
        Some(definition)
    }

    /// Reads, changes and writes, alone.
    fn change(
        &self,
        make: impl FnOnce(&Content, &[Definition]) -> Result<File1, RegistryError>,
    ) -> Result<(), RegistryError> {
        let _here = self.changing.lock();
        let folder = &self.folder;
        disk::create_folder(folder).map_err(|source| RegistryError::Write { path: folder.clone(), source })?;
        let _lock = self.lock()?;
        let content = self.content()?;
        let configured = Arc::clone(&self.configured.read());
        let written = make(&content, &configured)?;
        let path = self.path();
        let text = serde_json::to_vec_pretty(&written)
            .map_err(|error| RegistryError::Damaged { path: path.clone(), reason: error.to_string() })?;
        disk::replace_private(&path, &text).map_err(|source| RegistryError::Write { path, source })?;
        // A file of the same second and length, in the place of the same node, would pass for the old one.
        *self.cached.write() = Cached { stamp: Some(Stamp { modified: None, length: 0, node: 0 }), content };
        Ok(())
    }

    fn lock(&self) -> Result<File, RegistryError> {
        let path = self.folder.join("lock");
        let failed = |source| RegistryError::Write { path: path.clone(), source };
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        let began = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(fs::TryLockError::WouldBlock) if began.elapsed() < LOCK_WAIT => std::thread::sleep(LOCK_POLL),
                Err(fs::TryLockError::WouldBlock) => return Err(RegistryError::Locked { path: self.folder.clone() }),
                Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
    }
}

/// What a secret is bound to.
fn context(id: &str, field: &str) -> String {
    format!("source {id}, {field}")
}

fn check(definition: &Definition) -> Result<(), RegistryError> {
    let problems = definition.problems();
    if problems.is_empty() { Ok(()) } else { Err(RegistryError::Fields(problems)) }
}

fn listed(configured: &[Definition], content: &Content) -> Vec<Source> {
    let of_configuration = configured.iter().map(|definition| Source {
        paused: content.written.paused.contains(&definition.id),
        definition: definition.clone(),
        origin: Origin::Configuration,
        revision: 0,
        created: None,
        changed: None,
        problem: None,
    });
    let mut all: Vec<Source> = of_configuration.collect();
    for source in &content.sources {
        let mut source = source.clone();
        let takes =
            |other: &Definition| other.id == source.definition.id || is_same_name(&other.name, &source.definition.name);
        if configured.iter().any(takes) {
            let text = "the configuration has a source of this name as well, which goes first; remove one of them";
            source.problem = Some(text.to_owned());
        }
        all.push(source);
    }
    all
}

/// The entry of a source that may be changed.
fn managed<'f>(written: &'f mut File1, configured: &[Definition], id: &str) -> Result<&'f mut Entry, RegistryError> {
    if let Some(entry) = written.sources.iter_mut().find(|entry| entry.definition.id == id) {
        return Ok(entry);
    }
    Err(match configured.iter().find(|definition| definition.id == id) {
        Some(definition) => RegistryError::Configured { name: definition.name.clone() },
        None if is_id(id) => RegistryError::Unknown { name: id.to_owned() },
        None => RegistryError::Unknown { name: shortened(id) },
    })
}

fn is_same_name(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

fn shortened(text: &str) -> String {
    text.escape_debug().take(100).collect()
}

fn with_cause(error: &(dyn std::error::Error + 'static)) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn stamp_of(metadata: &fs::Metadata) -> Stamp {
    #[cfg(unix)]
    let node = std::os::unix::fs::MetadataExt::ino(metadata);
    #[cfg(not(unix))]
    let node = 0;
    Stamp { modified: metadata.modified().ok(), length: metadata.len(), node }
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;
    use crate::source::{Credentials, Secret};

    fn definition(name: &str) -> Definition {
        let mut definition = Definition::new(name, Url::parse("https://feeds.example/taxii2/").unwrap());
        definition.credentials =
            Credentials::Basic { username: "ann".to_owned(), password: Secret::new(format!("pass-{name}")) };
        definition
    }

    fn open(folder: &tempfile::TempDir, configured: Vec<Definition>) -> Registry {
        Registry::open(&folder.path().join(FOLDER), None, configured).unwrap()
    }

    #[test]
    fn sources_are_kept_changed_and_removed_and_others_see_it() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (open(&folder, Vec::new()), open(&folder, Vec::new()));
        assert!(one.list().unwrap().is_empty() && !folder.path().join(FOLDER).exists(), "looking makes nothing");
        let made = one.create(definition("A")).unwrap();
        assert_eq!((made.revision, made.origin, made.is_active()), (1, Origin::Managed, true));
        let id = made.definition.id.clone();
        for (name, found) in [(id.as_str(), true), ("A", true), (" a ", true), ("b", false)] {
            assert_eq!(other.get(name).is_ok(), found, "{name}");
        }
        assert_eq!(other.get("A").unwrap().definition, made.definition);
        let text = fs::read_to_string(folder.path().join("sources/sources.json")).unwrap();
        assert!(!text.contains("pass-") && text.contains("sealed:v1:"), "{text}");

        let mut changed = made.definition.clone();
        changed.page_size = Some(7);
        let second = other.replace(&id, changed.clone(), Some(1)).unwrap();
        assert_eq!((second.revision, second.definition.page_size), (2, Some(7)));
        assert!(matches!(one.replace(&id, changed.clone(), Some(1)), Err(RegistryError::Changed { found: 2, .. })));
        assert_eq!(one.replace(&id, changed.clone(), None).unwrap().revision, 3);
        changed.name = "B".to_owned();
        assert!(matches!(one.replace(&id, changed, None), Err(RegistryError::Renamed { .. })));

        assert!(one.pause(&id).unwrap() && !other.pause(&id).unwrap());
        assert!(other.get("A").unwrap().paused);
        assert!(other.resume(&id).unwrap() && !one.get("A").unwrap().paused);
        assert!(matches!(one.create(definition("a")), Err(RegistryError::Taken { .. })));
        one.create(definition("B")).unwrap();
        other.remove(&id).unwrap();
        let names: Vec<String> = one.list().unwrap().into_iter().map(|source| source.definition.name).collect();
        assert_eq!(names, ["B"]);
        assert!(matches!(one.remove(&id), Err(RegistryError::Unknown { .. })));
    }

    #[test]
    fn those_of_the_configuration_go_first_and_stay_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        open(&folder, Vec::new()).create(definition("Both")).unwrap();
        let configured = definition("both");
        let id = configured.id.clone();
        let registry = open(&folder, vec![configured, definition("Mine")]);
        let all = registry.list().unwrap();
        let shown: Vec<(&str, bool)> =
            all.iter().map(|source| (source.definition.name.as_str(), source.problem.is_none())).collect();
        assert_eq!(shown, [("both", true), ("Mine", true), ("Both", false)]);
        assert!(matches!(registry.remove(&id), Err(RegistryError::Configured { .. })));
        assert!(matches!(registry.replace(&id, definition("both"), None), Err(RegistryError::Configured { .. })));
        assert!(matches!(
            registry.create(definition("MINE")),
            Err(RegistryError::Taken { origin: Origin::Configuration, .. })
        ));
        assert!(registry.pause(&id).unwrap() && registry.get(&id).unwrap().paused);
        registry.reconfigure(Vec::new());
        assert!(registry.get("Both").unwrap().problem.is_none());
    }

    #[test]
    fn a_lost_key_costs_the_secrets_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let registry = open(&folder, Vec::new());
        let made = registry.create(definition("A")).unwrap();
        fs::remove_file(folder.path().join("sources/key")).unwrap();
        let registry = open(&folder, Vec::new());
        let found = registry.get("A").unwrap();
        assert!(found.problem.as_deref().unwrap().contains("key"), "{found:?}");
        assert!(!found.is_active());
        let again = registry.replace(&made.definition.id, definition("A"), None).unwrap();
        assert!(again.problem.is_none());
    }

    #[test]
    fn what_is_damaged_is_said() {
        let folder = tempfile::tempdir().unwrap();
        open(&folder, Vec::new()).create(definition("A")).unwrap();
        let path = folder.path().join("sources/sources.json");
        let whole = fs::read_to_string(&path).unwrap();
        for broken in ["", "{}", &whole[..whole.len() / 2], &whole.replace("\"form\": 1", "\"form\": 2")] {
            fs::write(&path, broken).unwrap();
            let error = Registry::open(&folder.path().join(FOLDER), None, Vec::new()).unwrap_err();
            assert!(matches!(error, RegistryError::Damaged { .. }), "{error}");
            assert!(!error.to_string().contains("sealed"), "{error}");
        }
    }

    #[test]
    fn many_at_once_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let folder = &folder;
                scope.spawn(move || {
                    let registry = open(folder, Vec::new());
                    for number in 0..5 {
                        registry.create(definition(&format!("S{worker}-{number}"))).unwrap();
                    }
                });
            }
        });
        assert_eq!(open(&folder, Vec::new()).list().unwrap().len(), 20);
    }

    #[test]
    fn wrong_definitions_are_refused_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mut wrong = definition("");
        wrong.page_size = Some(0);
        let error = open(&folder, Vec::new()).create(wrong).unwrap_err().to_string();
        assert!(error.contains("`name` is missing") && error.contains("`page_size`"), "{error}");
    }
}
