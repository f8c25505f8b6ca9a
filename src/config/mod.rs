//! Configuration: `taxiway.toml`, with `TAXIWAY_…` environment variables over it, made into each module's options.
//!
//! The file becomes a tree whose every value knows its place (`raw`); the variables are laid over it; `validate` reads the
//! tree and collects *every* problem, with its place, before it gives up. `taxiway.example.toml` documents all keys.

mod raw;
mod sources;
#[cfg(test)]
mod tests;
mod validate;

pub(crate) use raw::nearest;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::collect::Definition;
use crate::feed::collection::{CollectionSpec, Options as FeedOptions, Relationships};
use crate::model::ids::IdScheme;
use crate::render::{ExtensionFields, IndicatorTypes};
use crate::serve::Options as ServeOptions;

/// The file read when none is named and it is there.
pub const DEFAULT_FILE: &str = "taxiway.toml";

/// Everything configuration decides. `Config::default()` is an empty file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The file it came from, if any.
    pub file: Option<PathBuf>,
    /// The server.
    pub serve: ServeOptions,
    /// The store.
    pub store: StoreOptions,
    /// What holds for all collections.
    pub feed: FeedOptions,
    /// Memory that makes answers quick.
    pub cache: CacheOptions,
    /// What collections have that do not say otherwise; those in `collections` have it already.
    pub defaults: CollectionDefaults,
    /// The collections; none configured is for the caller to fill.
    pub collections: Vec<CollectionSpec>,
    /// Enrichment.
    pub enrich: EnrichOptions,
    /// Fetching from other servers.
    pub sources: SourceOptions,
    /// The servers named here; others may have been added to the store.
    pub definitions: Vec<Definition>,
    /// The log.
    pub log: LogOptions,
    /// Names of the environment variables that were laid over the file.
    pub variables: Vec<String>,
}

/// Memory that makes answers quick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// For which rows of a segment a query matches, in bytes.
    pub matches: usize,
    /// For rows of collections that have few, in bytes.
    pub gathered: usize,
    /// For pieces of pages that are asked for again and again, in bytes.
    pub rendered: usize,
    /// Whether a server finds out before it is asked which rows the collections serve.
    pub warm: bool,
}

/// Where records live and what is fixed when the store is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Folder of the store.
    pub location: PathBuf,
    /// The customer string that ids are derived from; `None`: what the store has, or a new random one.
    pub license_id: Option<String>,
    /// How long superseded versions are kept.
    pub history: Duration,
    /// How ids of observables are made; `None`: what the store has, or the standard's.
    pub id_scheme: Option<IdScheme>,
    /// Whether a server compacts it in the background.
    pub compaction: bool,
}

impl Default for CacheOptions {
    fn default() -> Self {
        let feed = crate::feed::FeedOptions::default();
        Self {
            matches: feed.match_index_bytes,
            gathered: feed.gathered_bytes,
            rendered: feed.rendered_bytes,
            warm: true,
        }
    }
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            location: PathBuf::from("taxiway-data"),
            license_id: None,
            history: Duration::from_secs(30 * 24 * 3600),
            id_scheme: None,
            compaction: true,
        }
    }
}

/// What `[taxii]` says for all collections, and each may say for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectionDefaults {
    /// Observable types served as `indicator` objects.
    pub indicator_types: IndicatorTypes,
    /// What of the original record goes along; nothing when `None`.
    pub extension_fields: Option<ExtensionFields>,
    /// Which relationships there are.
    pub relationships: Relationships,
}

/// What a server does for those who bring events, and the command without a list of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrichOptions {
    /// Whether a server answers at `/enrich` and `/lookup`.
    pub enabled: bool,
    /// File of values that are never reported.
    pub allow: Option<PathBuf>,
    /// For the rows around those that are found, in bytes.
    pub rows: usize,
}

impl Default for EnrichOptions {
    fn default() -> Self {
        Self { enabled: true, allow: None, rows: crate::enrich::ROWS_BYTES }
    }
}

/// How other servers are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceOptions {
    /// Whether a server fetches them on their schedules.
    pub enabled: bool,
    /// What seals the secrets of those that were added; `None`: a file in the store.
    pub key_file: Option<PathBuf>,
    /// How many are fetched at the same time.
    pub at_once: usize,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self { enabled: true, key_file: None, at_once: 2 }
    }
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// For people or for programs.
    pub format: LogFormat,
    /// Least severe level written.
    pub level: LogLevel,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Severity of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Failures.
    Error,
    /// What may become one.
    Warn,
    /// Requests and changes of state.
    #[default]
    Info,
    /// Refused requests and why.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The lower-case word.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// Where in the configuration something stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the file, both counted from 1.
    File {
        /// Line.
        line: usize,
        /// Character in the line.
        column: usize,
    },
    /// In an environment variable of that name.
    Variable(String),
    /// In another file that the configuration names.
    OtherFile(PathBuf),
    /// Nowhere in particular: in what several settings say together.
    Whole,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What, and what to do about it.
    pub text: String,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read configuration `{}`", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The configuration has problems, all of which are here.
    #[error(transparent)]
    Invalid(#[from] Problems),
}

/// All that is wrong with a configuration, in the order of its text.
#[derive(Debug, PartialEq, Eq)]
pub struct Problems {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl std::error::Error for Problems {}

impl Problems {
    /// Each by itself, with its place.
    pub fn each(&self) -> impl Iterator<Item = String> {
        let file = self.file.as_deref().unwrap_or(Path::new(DEFAULT_FILE)).display();
        self.problems.iter().map(move |problem| {
            // Further lines, such as the caret under a query, stay together under the first.
            let text = problem.text.replace('\n', "\n    ");
            match &problem.place {
                Place::File { line, column } => format!("{file}:{line}:{column}: {text}"),
                Place::Variable(name) => format!("environment variable {name}: {text}"),
                Place::OtherFile(path) => format!("{}: {text}", path.display()),
                Place::Whole => text,
            }
        })
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => f.write_str("the configuration has a problem")?,
            count => write!(f, "the configuration has {count} problems")?,
        }
        self.each().try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

impl Config {
    /// Reads `file`, or else [`DEFAULT_FILE`] where there is one, and the process's environment.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_with(file, environment())
    }

    /// The same with a given environment, of which only `TAXIWAY_…` matters.
    pub fn load_with(
        file: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        Self::examine_with(file, variables)?.whole()
    }

    /// As [`Config::load`], but with the problems beside what could be read, for those who look for further ones.
    pub fn examine(file: Option<&Path>) -> Result<Examined, ConfigError> {
        Self::examine_with(file, environment())
    }

    fn examine_with(
        file: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Examined, ConfigError> {
        let (path, required) = file.map_or((Path::new(DEFAULT_FILE), false), |file| (file, true));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) if !required && error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(ConfigError::Read { file: path.to_owned(), source }),
        };
        let file = text.is_some().then(|| path.to_owned());
        let invalid = |problems| Problems { file: file.clone(), problems };
        let mut tree = raw::Tree::parse(text.as_deref().unwrap_or_default()).map_err(invalid)?;
        let variables = tree.lay_over(variables);
        let folder = file.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        let (config, problems) = validate::validate(&tree, folder);
        Ok(Examined { config: Self { file, variables, ..config }, problems })
    }
}

/// A configuration read as far as it goes.
#[derive(Debug)]
pub struct Examined {
    /// With defaults in place of what could not be read.
    pub config: Config,
    /// What is wrong with it so far.
    pub problems: Vec<Problem>,
}

impl Examined {
    /// The configuration, if nothing is wrong with it.
    pub fn whole(self) -> Result<Config, ConfigError> {
        if self.problems.is_empty() {
            return Ok(self.config);
        }
        Err(Problems { file: self.config.file, problems: self.problems }.into())
    }
}

fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
}
