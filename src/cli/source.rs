//! `taxiway source`: servers of others that are fetched.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use url::Url;

use super::output::{self, Form, complain, grouped, say, table};
use super::place::{Place, start_log, store_options};
use super::{CliError, Outcome, sentence};
use crate::collect::{
    self, Collector, Definition, IdentityFiles, Known, Material, Progress, Registry, Report, Request, Source, Span,
    Spoken, Standing, State, Trigger, due,
};
use crate::config::Config;
use crate::model::time::Timestamp;
use crate::source::{Credentials, Proxy, Secret, shown};
use crate::store::Store;

/// How often progress is shown,
const SHOW_EVERY: Duration = Duration::from_millis(200);
/// and where there is no terminal.
const PLAIN_PROGRESS: Duration = Duration::from_secs(10);
/// Pages decoded at a time.
const MOST_DECODERS: usize = 8;

/// Fetch the feeds of others: TAXII servers of versions 1.0, 1.1, 2.0 and 2.1.
///
/// A source is a server, who we are there, which of its collections are wanted, and how often. `taxiway serve` fetches each when
/// its time comes; `taxiway source fetch` does so now. What is fetched is in the store with the source's name, so that
/// `sourceBrands:"NAME"` selects it. Sources can also be written into the configuration, as `[[source]]`: those are listed,
/// fetched and paused here, and changed there.
///
/// Passwords, tokens and keys are never arguments, which others on the machine could read: they come from a file (`-` is standard
/// input), from the variables TAXIWAY_SOURCE_PASSWORD, TAXIWAY_SOURCE_TOKEN, TAXIWAY_SOURCE_API_KEY, TAXIWAY_SOURCE_PASSPHRASE and
/// TAXIWAY_SOURCE_PROXY_PASSWORD, or are asked for. They are kept encrypted.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  taxiway source add 'Example feed' https://feeds.example.org/taxii2/ --user siem --begin 30d --every 1h\n\
                  \x20 taxiway source test 'Example feed'\n  taxiway source fetch 'Example feed'\n  taxiway source list\n\
                  \x20 pass show feeds/two | taxiway source add Two https://two.example.org/api/ --token-file - --collection Phishing\n\
                  \x20 taxiway source edit Two --every 15m --page-size 1000\n  taxiway source log Two --output json"
)]
pub(super) struct SourceArgs {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a source.
    Add {
        /// Its name, which everything fetched from it holds.
        name: String,
        /// Discovery, an API root, a collection, or the services of 1.x.
        url: String,
        #[command(flatten)]
        fields: Box<Fields>,
        /// Form of the result.
        #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
        output: Form,
    },
    /// List all sources and how they stand.
    List {
        /// Form of the list.
        #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
        output: Form,
    },
    /// Show all that is known of a source; no secrets.
    Show {
        /// Its name or id.
        name: String,
        /// Form of the result.
        #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
        output: Form,
    },
    /// Change a source; what is not named stays.
    Edit {
        /// Its name or id.
        name: String,
        /// Another URL.
        #[arg(long, value_name = "URL")]
        url: Option<String>,
        #[command(flatten)]
        fields: Box<Fields>,
        #[command(flatten)]
        cleared: Cleared,
        /// Form of the result.
        #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
        output: Form,
    },
    /// Remove a source, and where it was; what was fetched stays in the store.
    Remove {
        /// Its name or id.
        name: String,
    },
    /// Show the collections of a server, as it lists them now.
    Collections {
        /// Its name or id.
        name: String,
        /// Look at so many of the oldest objects of each chosen collection, too.
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=10_000))]
        preview: Option<u64>,
        /// Form of the list.
        #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
        output: Form,
    },
    /// Ask servers for their collections anew, and remember them.
    Refresh {
        /// Names or ids; none: all sources.
        names: Vec<String>,
        /// Form of the result.
        #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
        output: Form,
    },
    /// Fetch now what is new.
    ///
    /// Goes on where the last fetch ended, whatever ended it. Ctrl-C keeps what has come. Exit code 1: something went wrong; what came
    /// before it is kept.
    Fetch {
        /// Names or ids.
        #[arg(required_unless_present = "all")]
        names: Vec<String>,
        /// All sources that are enabled and not paused.
        #[arg(long, conflicts_with = "names")]
        all: bool,
        /// Only this collection of those the source chooses: its id, alias or title. Can be given several times.
        #[arg(long, value_name = "COLLECTION")]
        collection: Vec<String>,
        /// Begin anew instead of going on: everything comes again, and what is there already is not written twice.
        #[arg(long)]
        restart: bool,
        /// Form of the summary.
        #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
        output: Form,
    },
    /// Connect, list the collections and look at an object of each; keeps nothing.
    Test {
        /// Its name or id.
        name: String,
        /// Form of the result.
        #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
        output: Form,
    },
    /// Show what became of the last fetches, the newest first.
    Log {
        /// Its name or id.
        name: String,
        /// So many.
        #[arg(long, default_value = "20", value_name = "NUMBER")]
        last: usize,
        /// Form of the list.
        #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
        output: Form,
    },
    /// Take a source off its schedule, until it is resumed.
    Pause {
        /// Its name or id.
        name: String,
    },
    /// Put a source back on its schedule.
    Resume {
        /// Its name or id.
        name: String,
    },
}

/// What can be said of a source.
#[derive(Debug, Default, Args)]
struct Fields {
    /// What is spoken: 1.0, 1.1, 2.0, 2.1, 1 or 2 for either of those, any [default: any].
    #[arg(long, value_name = "VERSION")]
    taxii: Option<Spoken>,
    /// A collection to fetch: its id, alias or title. Can be given several times [default: all that may be read].
    #[arg(long, value_name = "COLLECTION")]
    collection: Vec<String>,
    /// How far back the first fetch reaches: 12h, 30d, 2w, 6mo [default: everything].
    #[arg(long, value_name = "SPAN")]
    begin: Option<Span>,
    /// Time between two fetches: 15m, 1h, 1d [default: 1h].
    #[arg(long, value_name = "SPAN", conflicts_with = "manual")]
    every: Option<Span>,
    /// Fetch only when asked to.
    #[arg(long)]
    manual: bool,
    /// Off its schedule from the start.
    #[arg(long, conflicts_with = "enabled")]
    disabled: bool,
    /// On its schedule.
    #[arg(long)]
    enabled: bool,
    /// User of HTTP Basic.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["token", "api_key"])]
    user: Option<String>,
    /// File with the password in its first line; `-` is standard input.
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// Where a token is given out for user and password.
    #[arg(long, value_name = "URL", requires = "user")]
    login_url: Option<Url>,
    /// Come with a bearer token.
    #[arg(long, conflicts_with = "api_key")]
    token: bool,
    /// File with the token in its first line.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["user", "api_key"])]
    token_file: Option<PathBuf>,
    /// Come with an API key in that header, such as X-API-Key.
    #[arg(long, value_name = "HEADER")]
    api_key: Option<String>,
    /// File with the key in its first line.
    #[arg(long, value_name = "FILE", requires = "api_key")]
    api_key_file: Option<PathBuf>,
    /// Client certificate, PEM; read anew for each fetch.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE")]
    private_key: Option<PathBuf>,
    /// The private key is encrypted.
    #[arg(long)]
    passphrase: bool,
    /// File with the passphrase in its first line.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Authorities trusted in place of the system's, PEM.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The way out: http, https, socks5 or socks5h, with host and port.
    #[arg(long, value_name = "URL")]
    proxy: Option<Url>,
    /// User of the proxy.
    #[arg(long, value_name = "NAME", requires = "proxy")]
    proxy_user: Option<String>,
    /// File with the proxy's password in its first line.
    #[arg(long, value_name = "FILE", requires = "proxy_user")]
    proxy_password_file: Option<PathBuf>,
    /// A further host that gets the credentials. Can be given several times.
    #[arg(long, value_name = "HOST")]
    trusted_host: Vec<String>,
    /// Subscription to poll with (1.x).
    #[arg(long, value_name = "ID")]
    subscription: Option<String>,
    /// Objects asked for at a time (2.x).
    #[arg(long, value_name = "NUMBER")]
    page_size: Option<u32>,
    /// What is said in User-Agent.
    #[arg(long, value_name = "TEXT")]
    user_agent: Option<String>,
    /// A tag that everything fetched gets. Can be given several times.
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Verdict of indicators that come without one.
    #[arg(long, value_name = "unknown|good|suspicious|bad", value_parser = score)]
    score: Option<u8>,
    /// Requests a minute at most.
    #[arg(long, value_name = "NUMBER")]
    requests_per_minute: Option<u32>,
    /// Objects of one fetch at most; the next one goes on behind them.
    #[arg(long, value_name = "NUMBER")]
    objects_per_fetch: Option<u64>,
    /// Largest answer, in bytes.
    #[arg(long, value_name = "BYTES")]
    answer_bytes: Option<u64>,
    /// Largest object, in bytes; larger ones are left out.
    #[arg(long, value_name = "BYTES")]
    object_bytes: Option<u64>,
    /// Longest silence of the server, in seconds.
    #[arg(long, value_name = "SECONDS")]
    read_timeout: Option<u64>,
    /// How often a request is sent in all.
    #[arg(long, value_name = "NUMBER")]
    attempts: Option<u32>,
    /// Time range of one poll (1.x).
    #[arg(long, value_name = "SPAN")]
    poll_window: Option<Span>,
}

/// What a source is to have no more.
#[derive(Debug, Default, Args)]
struct Cleared {
    /// Fetch all collections that may be read.
    #[arg(long, conflicts_with = "collection")]
    all_collections: bool,
    /// Say no more who we are.
    #[arg(long, conflicts_with_all = ["user", "token", "token_file", "api_key"])]
    no_credentials: bool,
    /// Show no client certificate.
    #[arg(long, conflicts_with_all = ["certificate", "private_key"])]
    no_certificate: bool,
    /// Trust the system's authorities.
    #[arg(long, conflicts_with = "ca")]
    no_ca: bool,
    /// Go without a proxy.
    #[arg(long, conflicts_with = "proxy")]
    no_proxy: bool,
    /// Lift all limits.
    #[arg(long)]
    no_limits: bool,
}

fn score(text: &str) -> Result<u8, String> {
    match text {
        "unknown" | "0" => Ok(0),
        "good" | "1" => Ok(1),
        "suspicious" | "2" => Ok(2),
        "bad" | "3" => Ok(3),
        _ => Err("write unknown, good, suspicious or bad".to_owned()),
    }
}

/// What went wrong with a command's arguments.
#[derive(Debug, thiserror::Error)]
enum SourceCommandError {
    #[error("`{text}` is no URL: {reason}")]
    BadUrl { text: String, reason: String },
    #[error(
        "a password on the command line can be read by everyone on this machine: give the name with `--user NAME`, and the \
         password with `--password-file FILE`, in `TAXIWAY_SOURCE_PASSWORD`, or when asked"
    )]
    PasswordInUrl,
    #[error("read the {what} from `{}`", path.display())]
    ReadFile { what: &'static str, path: PathBuf, source: io::Error },
    #[error("the first line of `{}` is empty; it has to be the {what}", path.display())]
    Empty { what: &'static str, path: PathBuf },
    #[error(
        "the {what} is missing, and standard input is no terminal to ask for it on: give it with `{option} FILE` or in `{variable}`"
    )]
    NoTerminal { what: &'static str, option: &'static str, variable: &'static str },
    #[error("read the {what}")]
    Ask { what: &'static str, source: io::Error },
    #[error("`--certificate` and `--private-key` go together")]
    HalfIdentity,
    #[error("there is nothing to fetch: no source is enabled and not paused; `taxiway source list` shows them all")]
    NoSources,
    #[error("cannot read the log of source `{name}`: {source}")]
    Log { name: String, source: io::Error },
}

pub(super) fn run(args: &SourceArgs) -> Result<Outcome, CliError> {
    let config = args.place.config()?;
    start_log(&config, Some("warn"));
    let registry = Arc::new(open(&config)?);
    match &args.action {
        Action::Add { name, url, fields, output } => {
            let mut definition = Definition::new(name.clone(), parse_url(url)?);
            fields.apply(&mut definition)?;
            let made = registry.create(definition)?;
            told(*output, &made, &format!("added source `{}` ({})", made.definition.name, made.definition.id))?;
        }
        Action::Edit { name, url, fields, cleared, output } => {
            let found = registry.get(name)?;
            let mut definition = found.definition.clone();
            if let Some(url) = url {
                definition.url = parse_url(url)?;
            }
            cleared.apply(&mut definition);
            fields.apply(&mut definition)?;
            let changed = registry.replace(&found.definition.id, definition, Some(found.revision))?;
            told(*output, &changed, &format!("changed source `{}`", changed.definition.name))?;
        }
        Action::List { output } => list(&config, &registry, *output)?,
        Action::Show { name, output } => show(&config, &registry, name, *output)?,
        Action::Remove { name } => {
            let found = registry.get(name)?;
            collector(&config, &registry)?.remove(&found.definition.id)?;
            say(&format!("removed source `{}`; what was fetched stays in the store", found.definition.name))?;
        }
        Action::Pause { name } => pause(&registry, name, true)?,
        Action::Resume { name } => pause(&registry, name, false)?,
        Action::Collections { name, preview, output } => {
            return collections(&config, &registry, name, *preview, *output);
        }
        Action::Refresh { names, output } => return refresh(&config, &registry, names, *output),
        Action::Fetch { names, all, collection, restart, output } => {
            let sources = chosen(&registry, names, *all)?;
            let request = Request { only: collection.clone(), restart: *restart, ..Request::new(Trigger::Asked) };
            return fetch(&config, &registry, &sources, &request, *output);
        }
        Action::Test { name, output } => return test(&config, &registry, name, *output),
        Action::Log { name, last, output } => log(&registry, name, *last, *output)?,
    }
    Ok(Outcome::Done)
}

/// The sources of the configuration and of the store, which need not be there.
pub(super) fn open(config: &Config) -> Result<Registry, CliError> {
    let folder = config.store.location.join(collect::FOLDER);
    Ok(Registry::open(&folder, config.sources.key_file.as_deref(), config.definitions.clone())?)
}

fn collector(config: &Config, registry: &Arc<Registry>) -> Result<Collector, CliError> {
    let store = Store::open_or_create(store_options(config))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Collector::new(&store, Arc::clone(registry), cores.min(MOST_DECODERS)))
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().thread_name("collect").build()
}

fn told(output: Form, source: &Source, text: &str) -> Result<(), CliError> {
    match output {
        Form::Table => say(text)?,
        Form::Json => say(&as_json(source).to_string())?,
    }
    Ok(())
}

fn pause(registry: &Registry, name: &str, paused: bool) -> Result<(), CliError> {
    let found = registry.get(name)?;
    let (id, name) = (&found.definition.id, &found.definition.name);
    let text = match (paused, if paused { registry.pause(id)? } else { registry.resume(id)? }) {
        (true, true) => format!("paused source `{name}`"),
        (true, false) => format!("source `{name}` was paused already"),
        (false, true) => format!("source `{name}` is on its schedule again"),
        (false, false) => format!("source `{name}` was on its schedule"),
    };
    say(&text)?;
    Ok(())
}

fn chosen(registry: &Registry, names: &[String], all: bool) -> Result<Vec<Source>, CliError> {
    if !all {
        return Ok(names.iter().map(|name| registry.get(name)).collect::<Result<_, _>>()?);
    }
    let sources: Vec<Source> = registry.list()?.into_iter().filter(Source::is_active).collect();
    if sources.is_empty() { Err(SourceCommandError::NoSources.into()) } else { Ok(sources) }
}

fn parse_url(text: &str) -> Result<Url, SourceCommandError> {
    // People leave the scheme out; what is fetched over a network had better be encrypted.
    let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let bad = |reason: url::ParseError| {
        let text: String = text.chars().take(100).collect();
        SourceCommandError::BadUrl { text, reason: reason.to_string() }
    };
    let url = Url::parse(&whole).map_err(bad)?;
    if url.password().is_some() {
        return Err(SourceCommandError::PasswordInUrl);
    }
    Ok(url)
}

impl Fields {
    fn apply(&self, definition: &mut Definition) -> Result<(), SourceCommandError> {
        if let Some(version) = self.taxii {
            definition.version = version;
        }
        if !self.collection.is_empty() {
            definition.collections.clone_from(&self.collection);
        }
        definition.begin = self.begin.or(definition.begin);
        definition.interval = if self.manual { None } else { self.every.or(definition.interval) };
        definition.enabled = (definition.enabled || self.enabled) && !self.disabled;
        self.apply_credentials(definition)?;
        self.apply_identity(definition)?;
        if let Some(path) = &self.ca {
            definition.authorities = Some(Material::File(absolute(path)));
        }
        if let Some(url) = &self.proxy {
            if url.password().is_some() {
                return Err(SourceCommandError::PasswordInUrl);
            }
            let credentials = match &self.proxy_user {
                None => None,
                Some(name) => Some((
                    name.clone(),
                    secret(
                        self.proxy_password_file.as_deref(),
                        "password of the proxy",
                        "--proxy-password-file",
                        "TAXIWAY_SOURCE_PROXY_PASSWORD",
                    )?,
                )),
            };
            definition.proxy = Some(Proxy { url: url.clone(), credentials });
        }
        if !self.trusted_host.is_empty() {
            definition.trusted_hosts.clone_from(&self.trusted_host);
        }
        if !self.tag.is_empty() {
            definition.tags.clone_from(&self.tag);
        }
        let or = |new: &Option<String>, old: &mut Option<String>| *old = new.clone().or(old.take());
        or(&self.subscription, &mut definition.subscription);
        or(&self.user_agent, &mut definition.user_agent);
        definition.page_size = self.page_size.or(definition.page_size);
        definition.score = self.score.or(definition.score);
        let limits = &mut definition.limits;
        limits.requests_per_minute = self.requests_per_minute.or(limits.requests_per_minute);
        limits.objects_per_fetch = self.objects_per_fetch.or(limits.objects_per_fetch);
        limits.answer_bytes = self.answer_bytes.or(limits.answer_bytes);
        limits.object_bytes = self.object_bytes.or(limits.object_bytes);
        limits.read_timeout = self.read_timeout.or(limits.read_timeout);
        limits.attempts = self.attempts.or(limits.attempts);
        limits.poll_window = self.poll_window.or(limits.poll_window);
        Ok(())
    }

    fn apply_credentials(&self, definition: &mut Definition) -> Result<(), SourceCommandError> {
        if let Some(username) = &self.user {
            let password =
                secret(self.password_file.as_deref(), "password", "--password-file", "TAXIWAY_SOURCE_PASSWORD")?;
            let username = username.clone();
            definition.credentials = match &self.login_url {
                Some(url) => Credentials::Login { url: url.clone(), username, password },
                None => Credentials::Basic { username, password },
            };
        } else if self.token || self.token_file.is_some() {
            let token = secret(self.token_file.as_deref(), "token", "--token-file", "TAXIWAY_SOURCE_TOKEN")?;
            definition.credentials = Credentials::Bearer(token);
        } else if let Some(header) = &self.api_key {
            let key = secret(self.api_key_file.as_deref(), "API key", "--api-key-file", "TAXIWAY_SOURCE_API_KEY")?;
            definition.credentials = Credentials::ApiKey { header: header.clone(), key };
        }
        Ok(())
    }

    fn apply_identity(&self, definition: &mut Definition) -> Result<(), SourceCommandError> {
        let file = |path: &PathBuf| Material::File(absolute(path));
        match (&self.certificate, &self.private_key, &mut definition.identity) {
            (Some(certificate), Some(key), identity) => {
                *identity = Some(IdentityFiles { certificate: file(certificate), key: file(key), passphrase: None });
            }
            (None, None, _) => {}
            (certificate, key, Some(identity)) => {
                certificate.iter().for_each(|path| identity.certificate = file(path));
                key.iter().for_each(|path| identity.key = file(path));
            }
            _ => return Err(SourceCommandError::HalfIdentity),
        }
        if self.passphrase || self.passphrase_file.is_some() {
            let passphrase = secret(
                self.passphrase_file.as_deref(),
                "passphrase",
                "--passphrase-file",
                "TAXIWAY_SOURCE_PASSPHRASE",
            )?;
            let Some(identity) = &mut definition.identity else { return Err(SourceCommandError::HalfIdentity) };
            identity.passphrase = Some(passphrase);
        }
        Ok(())
    }
}

impl Cleared {
    fn apply(&self, definition: &mut Definition) {
        if self.all_collections {
            definition.collections.clear();
        }
        if self.no_credentials {
            definition.credentials = Credentials::None;
        }
        if self.no_certificate {
            definition.identity = None;
        }
        if self.no_ca {
            definition.authorities = None;
        }
        if self.no_proxy {
            definition.proxy = None;
        }
        if self.no_limits {
            definition.limits = collect::Limits::default();
        }
    }
}

/// A server fetches from another working folder.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A secret from a file, from the environment, or from whoever sits there.
fn secret(
    file: Option<&Path>,
    what: &'static str,
    option: &'static str,
    variable: &'static str,
) -> Result<Secret, SourceCommandError> {
    if let Some(path) = file {
        let failed = |source| SourceCommandError::ReadFile { what, path: path.to_owned(), source };
        let line = match path.as_os_str() == "-" {
            true => first_line(io::stdin().lock()).map_err(failed)?,
            false => first_line(BufReader::new(File::open(path).map_err(failed)?)).map_err(failed)?,
        };
        if line.is_empty() {
            return Err(SourceCommandError::Empty { what, path: path.to_owned() });
        }
        return Ok(Secret::new(line));
    }
    if let Ok(text) = std::env::var(variable)
        && !text.is_empty()
    {
        return Ok(Secret::new(text));
    }
    if !io::stdin().is_terminal() {
        return Err(SourceCommandError::NoTerminal { what, option, variable });
    }
    let asked = rpassword::prompt_password(format!("The {what}: "));
    asked.map(Secret::new).map_err(|source| SourceCommandError::Ask { what, source })
}

fn first_line(mut input: impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

fn as_json(source: &Source) -> Value {
    let mut value = source.definition.shown();
    if let Some(object) = value.as_object_mut() {
        object.insert("origin".to_owned(), json!(source.origin));
        object.insert("revision".to_owned(), json!(source.revision));
        object.insert("paused".to_owned(), json!(source.paused));
        object.insert("created".to_owned(), json!(source.created.map(|at| at.to_string())));
        object.insert("changed".to_owned(), json!(source.changed.map(|at| at.to_string())));
        object.insert("problem".to_owned(), json!(source.problem));
    }
    value
}

/// How a source stands, in a word.
fn standing(source: &Source, state: &State, running: bool) -> &'static str {
    match () {
        () if running => "running",
        () if source.problem.is_some() => "unusable",
        () if !source.definition.enabled => "off",
        () if source.paused => "paused",
        () if state.last_attempt.is_none() => "new",
        () if state.error.is_some() => "failed",
        () if state.stopped || state.running => "stopped",
        () => "ok",
    }
}

/// A time for people: seconds do.
fn moment(at: Option<Timestamp>) -> String {
    let text = at.map(|at| at.to_string());
    text.and_then(|text| text.get(..19).map(|text| text.replace('T', " "))).unwrap_or_else(|| "-".to_owned())
}

fn next(source: &Source, state: &State) -> String {
    match due(source, state) {
        None => "-".to_owned(),
        Some(due) if due <= Timestamp::now() => "now".to_owned(),
        due => moment(due),
    }
}

fn state_as_json(source: &Source, state: &State, running: bool) -> Value {
    let text = |at: Option<Timestamp>| at.map(|at| at.to_string());
    json!({
        "state": standing(source, state, running), "last_attempt": text(state.last_attempt),
        "last_success": text(state.last_success), "next": text(due(source, state)), "error": state.error,
        "failures": state.failures, "fetches": state.fetches, "failed": state.failed, "objects": state.objects,
        "new": state.new, "changed": state.changed, "rejected": state.rejected, "not_before": text(state.not_before),
    })
}

fn list(config: &Config, registry: &Arc<Registry>, output: Form) -> Result<(), CliError> {
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for source in registry.list()? {
        let id = &source.definition.id;
        let state = collect::state(registry.folder(), id);
        let running = collect::is_running(registry.folder(), id);
        if output == Form::Json {
            let mut value = as_json(&source);
            if let Some(object) = value.as_object_mut() {
                object.insert("status".to_owned(), state_as_json(&source, &state, running));
            }
            values.push(value);
            continue;
        }
        let every = source.definition.interval.map_or_else(|| "manual".to_owned(), |interval| interval.to_string());
        rows.push(vec![
            source.definition.name.clone(),
            standing(&source, &state, running).to_owned(),
            moment(state.last_success),
            next(&source, &state),
            every,
            grouped(state.objects),
            shown(&source.definition.url),
        ]);
        let error = source.problem.or(state.error);
        if let Some(error) = error {
            complain(&format!("{}: {error}", source.definition.name));
        }
    }
    if output == Form::Json {
        say(&Value::Array(values).to_string())?;
    } else if rows.is_empty() {
        let place = config.store.location.display();
        complain(&format!("no source in `{place}` or the configuration; `taxiway source add NAME URL` adds one"));
    } else {
        say(&table(&["source", "state", "last success", "next", "every", "objects", "url"], &rows))?;
    }
    Ok(())
}

fn show(config: &Config, registry: &Arc<Registry>, name: &str, output: Form) -> Result<(), CliError> {
    let source = registry.get(name)?;
    let id = &source.definition.id;
    let state = collect::state(registry.folder(), id);
    let running = collect::is_running(registry.folder(), id);
    // Without a store there is nothing that was fetched.
    let kept = match Store::open(store_options(config)) {
        Ok(store) => Collector::new(&store, Arc::clone(registry), 1).kept(id)?,
        Err(_) => Default::default(),
    };
    let mut value = as_json(&source);
    if let Some(object) = value.as_object_mut() {
        object.insert("status".to_owned(), state_as_json(&source, &state, running));
        object.insert("collections_known".to_owned(), known_as_json(&state.collections));
        object.insert("places".to_owned(), json!(kept));
    }
    if output == Form::Json {
        say(&value.to_string())?;
        return Ok(());
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    if let Some(object) = value.as_object() {
        for (key, value) in
            object.iter().filter(|(key, _)| !["collections_known", "places", "status"].contains(&key.as_str()))
        {
            let text = match value {
                Value::Null => continue,
                Value::String(text) => text.clone(),
                value => value.to_string(),
            };
            rows.push(vec![key.clone(), text]);
        }
    }
    rows.push(vec!["state".to_owned(), standing(&source, &state, running).to_owned()]);
    rows.push(vec!["last attempt".to_owned(), moment(state.last_attempt)]);
    rows.push(vec!["last success".to_owned(), moment(state.last_success)]);
    rows.push(vec!["next".to_owned(), next(&source, &state)]);
    rows.push(vec!["objects".to_owned(), grouped(state.objects)]);
    if let Some(error) = &state.error {
        rows.push(vec!["error".to_owned(), error.clone()]);
    }
    for kept in kept.values() {
        let after = moment(kept.place.added_after());
        rows.push(vec![format!("at {}", kept.title), format!("{} objects, up to {after}", grouped(kept.objects))]);
    }
    say(&table(&["", ""], &rows))?;
    Ok(())
}

fn known_as_json(known: &[Known]) -> Value {
    let each = known.iter().map(|known| {
        let collection = &known.collection;
        json!({
            "id": collection.id, "title": collection.title, "description": collection.description,
            "version": collection.version, "api_root": shown(&collection.root), "alias": collection.alias,
            "can_read": collection.can_read, "volume": collection.volume, "chosen": known.chosen,
        })
    });
    Value::Array(each.collect())
}

fn say_collections(known: &[Known]) -> Result<(), CliError> {
    let rows: Vec<Vec<String>> = known
        .iter()
        .map(|known| {
            let collection = &known.collection;
            let fetched = match (known.chosen, collection.can_read) {
                (true, _) => "yes",
                (false, true) => "no",
                (false, false) => "may not be read",
            };
            let volume = collection.volume.map_or_else(|| "-".to_owned(), grouped);
            vec![
                collection.title.clone(),
                collection.id.clone(),
                collection.version.to_string(),
                volume,
                fetched.to_owned(),
            ]
        })
        .collect();
    say(&table(&["collection", "id", "taxii", "holds", "fetched"], &rows))?;
    Ok(())
}

fn collections(
    config: &Config,
    registry: &Arc<Registry>,
    name: &str,
    preview: Option<u64>,
    output: Form,
) -> Result<Outcome, CliError> {
    let source = registry.get(name)?;
    let collector = collector(config, registry)?;
    let runtime = runtime()?;
    let known = runtime.block_on(collector.refresh(&source))?;
    let Some(most) = preview else {
        match output {
            Form::Json => say(&known_as_json(&known).to_string())?,
            Form::Table => say_collections(&known)?,
        }
        return Ok(Outcome::Done);
    };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let (_, looks) = runtime.block_on(collector.look(&source, most))?;
    let (mut outcome, mut values) = (Outcome::Done, Vec::new());
    if output == Form::Table {
        say_collections(&known)?;
    }
    for (collection, look) in &looks {
        match (look, output) {
            (Ok(look), Form::Table) => {
                let total = look.total.map_or_else(String::new, |total| format!(" of {}", grouped(total)));
                say(&format!("\n{}: the first {}{total}", collection.title, grouped(look.objects.len() as u64)))?;
                for text in look.objects.iter() {
                    say(&String::from_utf8_lossy(text))?;
                }
            }
            (Ok(look), Form::Json) => {
                let objects: Vec<Value> =
                    look.objects.iter().filter_map(|text| serde_json::from_slice(text).ok()).collect();
                values.push(json!({
                    "id": collection.id, "title": collection.title, "total": look.total, "more": look.more,
                    "objects": objects, "warnings": look.warnings,
                }));
            }
            (Err(error), form) => {
                outcome = Outcome::Attention;
                match form {
                    Form::Table => complain(&format!("{}: {error}", collection.title)),
                    Form::Json => values.push(json!({
                        "id": collection.id, "title": collection.title, "error": error.to_string(),
                    })),
                }
            }
        }
    }
    if output == Form::Json {
        say(&json!({ "collections": known_as_json(&known), "previews": values }).to_string())?;
    }
    Ok(outcome)
}

fn refresh(config: &Config, registry: &Arc<Registry>, names: &[String], output: Form) -> Result<Outcome, CliError> {
    let sources = match names {
        [] => registry.list()?,
        names => chosen(registry, names, false)?,
    };
    let collector = collector(config, registry)?;
    let runtime = runtime()?;
    let (mut outcome, mut values) = (Outcome::Done, Vec::new());
    for source in &sources {
        let name = &source.definition.name;
        let found = runtime.block_on(collector.refresh(source));
        match (found, output) {
            (Ok(known), Form::Json) => values.push(json!({ "name": name, "collections": known_as_json(&known) })),
            (Ok(known), Form::Table) => say(&format!("{name}: {} collections", known.len()))?,
            (Err(error), form) => {
                outcome = Outcome::Attention;
                let error = sentence(&error);
                match form {
                    Form::Json => values.push(json!({ "name": name, "error": error })),
                    Form::Table => complain(&format!("{name}: {error}")),
                }
            }
        }
    }
    if output == Form::Json {
        say(&Value::Array(values).to_string())?;
    }
    Ok(outcome)
}

fn test(config: &Config, registry: &Arc<Registry>, name: &str, output: Form) -> Result<Outcome, CliError> {
    let source = registry.get(name)?;
    let collector = collector(config, registry)?;
    let began = Instant::now();
    let (client, looks) = runtime()?.block_on(collector.look(&source, 1))?;
    let seconds = began.elapsed().as_secs_f64();
    let failed = looks.iter().any(|(_, look)| look.is_err());
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for (collection, look) in &looks {
        let (result, total, warnings) = match look {
            Ok(look) if look.objects.is_empty() => {
                ("readable, and empty".to_owned(), look.total, look.warnings.as_slice())
            }
            Ok(look) => ("readable".to_owned(), look.total, look.warnings.as_slice()),
            Err(error) => (error.to_string(), None, [].as_slice()),
        };
        warnings.iter().for_each(|warning| complain(&format!("warning: {}: {warning}", collection.title)));
        values.push(json!({
            "id": collection.id, "title": collection.title, "version": collection.version, "total": total,
            "readable": look.is_ok(), "result": result, "warnings": warnings,
        }));
        let total = total.map_or_else(|| "-".to_owned(), grouped);
        rows.push(vec![collection.title.clone(), collection.id.clone(), total, result]);
    }
    match output {
        Form::Json => {
            let value = json!({
                "name": source.definition.name, "version": client.version(), "notes": client.notes(),
                "seconds": seconds, "collections": values,
            });
            say(&value.to_string())?;
        }
        Form::Table => {
            client.notes().iter().for_each(|note| complain(&format!("note: {note}")));
            say(&format!("{} speaks TAXII {}; {seconds:.1} s", shown(&source.definition.url), client.version()))?;
            say(&table(&["collection", "id", "holds", "result"], &rows))?;
        }
    }
    Ok(if failed { Outcome::Attention } else { Outcome::Done })
}

fn log(registry: &Registry, name: &str, last: usize, output: Form) -> Result<(), CliError> {
    let source = registry.get(name)?;
    let failed = |error| SourceCommandError::Log { name: source.definition.name.clone(), source: error };
    let reports = collect::reports(registry.folder(), &source.definition.id, last).map_err(failed)?;
    if output == Form::Json {
        say(&serde_json::to_string(&reports)?)?;
        return Ok(());
    }
    let row = |report: &Report| {
        vec![
            moment(Some(report.began)),
            format!("{:.1} s", report.seconds),
            report.outcome.as_str().to_owned(),
            grouped(report.objects),
            grouped(report.new),
            grouped(report.changed),
            grouped(report.rejected),
            output::bytes(report.bytes),
            report.error.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<Vec<String>> = reports.iter().map(row).collect();
    let header = ["began", "took", "outcome", "objects", "new", "changed", "rejected", "bytes", "error"];
    say(&table(&header, &rows))?;
    Ok(())
}

fn fetch(
    config: &Config,
    registry: &Arc<Registry>,
    sources: &[Source],
    request: &Request,
    output: Form,
) -> Result<Outcome, CliError> {
    let collector = collector(config, registry)?;
    let runtime = runtime()?;
    let (mut outcome, mut values) = (Outcome::Done, Vec::new());
    for source in sources {
        let name = &source.definition.name;
        let progress = Arc::new(Progress::default());
        let fetched = runtime.block_on(async {
            let fetching = collector.fetch(source, request, &progress);
            let mut fetching = std::pin::pin!(fetching);
            let shown = Shown::new(name);
            let mut ticks = tokio::time::interval(SHOW_EVERY);
            loop {
                tokio::select! {
                    fetched = &mut fetching => {
                        shown.end();
                        break fetched;
                    }
                    _ = ticks.tick() => shown.show(&progress.standing()),
                    _ = tokio::signal::ctrl_c(), if !request.stop.is_cancelled() => request.stop.cancel(),
                }
            }
        });
        let report = match fetched {
            Ok(report) => report,
            Err(error) => {
                outcome = Outcome::Attention;
                match output {
                    Form::Json => values.push(json!({ "name": name, "error": sentence(&error) })),
                    Form::Table => complain(&format!("{name}: {}", sentence(&error))),
                }
                continue;
            }
        };
        if report.outcome != collect::Outcome::Completed {
            outcome = Outcome::Attention;
        }
        match output {
            Form::Json => {
                let mut value = serde_json::to_value(&report)?;
                if let Some(object) = value.as_object_mut() {
                    object.insert("name".to_owned(), json!(name));
                }
                values.push(value);
            }
            Form::Table => say_report(name, &report)?,
        }
        if request.stop.is_cancelled() {
            break;
        }
    }
    if output == Form::Json {
        say(&Value::Array(values).to_string())?;
    }
    Ok(outcome)
}

fn say_report(name: &str, report: &Report) -> Result<(), CliError> {
    let rate = grouped((report.objects as f64 / report.seconds.max(0.001)) as u64);
    let size = output::bytes(report.bytes);
    let version = report.version.map_or_else(String::new, |version| format!(", TAXII {version}"));
    say(&format!("{name}: {} after {:.1} s{version}", report.outcome.as_str(), report.seconds))?;
    say(&format!("objects    {:>12}   {size}, {rate} objects/s", grouped(report.objects)))?;
    say(&format!("new        {:>12}", grouped(report.new)))?;
    say(&format!("changed    {:>12}", grouped(report.changed)))?;
    say(&format!("unchanged  {:>12}", grouped(report.unchanged)))?;
    say(&format!("rejected   {:>12}", grouped(report.rejected)))?;
    if report.waiting > 0 {
        say(&format!("waiting    {:>12}   relationships of the store without both ends", grouped(report.waiting)))?;
    }
    for collection in &report.collections {
        let skipped: Vec<String> =
            collection.skipped.iter().map(|(kind, count)| format!("{kind} {}", grouped(*count))).collect();
        let skipped = if skipped.is_empty() { String::new() } else { format!("; not read: {}", skipped.join(", ")) };
        let title = if collection.title.is_empty() { &collection.id } else { &collection.title };
        say(&format!("  {title}: {} objects{skipped}", grouped(collection.objects)))?;
        if let Some(error) = &collection.error {
            complain(&format!("{title}: {error}"));
        }
    }
    report.warnings.iter().for_each(|warning| complain(&format!("warning: {warning}")));
    report.rejections.iter().for_each(|rejection| complain(&format!("rejected: {rejection}")));
    if let Some(error) = report
        .error
        .as_ref()
        .filter(|error| !report.collections.iter().any(|collection| collection.error.as_ref() == Some(error)))
    {
        complain(&format!("error: {error}"));
    }
    Ok(())
}

/// A bar on a terminal, a line now and then elsewhere.
struct Shown {
    bar: ProgressBar,
    plain: bool,
    name: String,
    last_line: std::cell::Cell<Instant>,
}

impl Shown {
    fn new(name: &str) -> Self {
        let plain = !io::stderr().is_terminal();
        let bar = match plain {
            true => ProgressBar::hidden(),
            false => ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()),
        };
        if let Ok(style) = ProgressStyle::with_template("{prefix} {spinner} {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        Shown { bar, plain, name: name.to_owned(), last_line: std::cell::Cell::new(Instant::now()) }
    }

    fn show(&self, standing: &Standing) {
        if !self.plain {
            self.bar.set_message(Line(standing).to_string());
            self.bar.tick();
        } else if self.last_line.get().elapsed() > PLAIN_PROGRESS {
            self.last_line.set(Instant::now());
            complain(&format!("{}: {}", self.name, Line(standing)));
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// How far a fetch is, on a line.
struct Line<'s>(&'s Standing);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Standing { seconds, objects, total, bytes, collections, collections_done, collection, .. } = self.0;
        if *collections == 0 {
            return f.write_str("connecting");
        }
        let rate = grouped((*objects as f64 / seconds.max(0.001)) as u64);
        let at = (collections_done + 1).min(*collections);
        write!(f, "{collection} ({at} of {collections}): {} objects", grouped(*objects))?;
        if let Some(total) = total {
            write!(f, " of {}", grouped(*total))?;
        }
        write!(f, ", {}, {rate} objects/s", output::bytes(*bytes))
    }
}
