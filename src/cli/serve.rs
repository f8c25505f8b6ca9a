//! `taxiway serve`.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::output::{complain, grouped, say};
use super::place::{Place, catalog, start_log, store_options, users};
use super::{CliError, Outcome, sentence};
use crate::collect::Scheduler;
use crate::config::{Config, ConfigError};
use crate::enrich::{AllowError, AllowList, Enricher};
use crate::export::Lists;
use crate::feed::api::Feed;
use crate::feed::api::StixVersion;
use crate::feed::collection::Catalog;
use crate::feed::{FeedOptions, StoreFeed, Warmer};
use crate::inbox::{Inbox, InboxError, InboxOptions};
use crate::ingest::{self, DecodeOptions, Importer, Input};
use crate::serve::auth::{Admission, Anonymous};
use crate::serve::{
    ApiRoot, App, Bound, Live, Management, Probe, StartError, StoreState, bind, on_hangup, roots_of, shutdown_signal,
};
use crate::store::{Compactor, Store, StoreError};

/// The sample that a first start without configuration shows.
const SAMPLE: &[u8] = include_bytes!("../../data/sample.ndjson");

/// Serve the collections over TAXII.
///
/// Without a configuration it makes a store in ./taxiway-data, loads a sample into it if the store is new, and serves it on
/// 127.0.0.1:9000. A store that a configuration file, --store or TAXIWAY_… variables set up never gets the sample.
///
/// SIGHUP reads the configuration anew, and with it collections, users and certificates; if anything is wrong with it, all of
/// that is logged and the old one stays. SIGTERM and Ctrl-C let answers finish; said twice, they do not.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  taxiway serve\n  taxiway serve --config /etc/taxiway/taxiway.toml\n  taxiway serve --check"
)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    place: Place,
    /// Check configuration, certificates, users and store, then stop. Takes no port and writes nothing.
    #[arg(long)]
    check: bool,
}

pub(super) fn run(args: &ServeArgs) -> Result<Outcome, CliError> {
    let (config, admission) = args.place.server_config()?;
    start_log(&config, None);
    if args.check {
        return check(&config, &admission);
    }
    // What cannot be had is said before a store is made for it.
    let allow = allow_list(&config)?;
    let registry = Arc::new(super::source::open(&config)?);
    let bound = bind(&config.serve)?;
    let store = Store::open_or_create(store_options(&config))?;
    store.remove_orphans()?;
    let is_new = store.snapshot()?.version() == 0;
    if is_new && is_first_try(&config, &args.place) && registry.list()?.is_empty() {
        load_sample(&store)?;
    }
    let catalog = catalog(&config, &store)?;
    warn_of_queries(&catalog);
    let feed = StoreFeed::new(store.clone(), catalog, &feed_options(&config))?;
    let app = App::new(Arc::new(feed.clone()), config.serve.clone())?;
    // It takes no memory before somebody asks.
    let enricher = config.enrich.enabled.then(|| Enricher::new(feed.clone(), allow, config.enrich.rows));
    let app = match &enricher {
        Some(enricher) => app.with_enricher(enricher.clone()),
        None => app,
    };
    let live = Live::new(app, Some(probe(&store)));
    take_posts(&live, &feed.catalog(), &store)?;
    live.serve_lists(Lists::new(feed.clone()));
    let _compactor = config.store.compaction.then(|| Compactor::start(&store)).transpose()?;
    let scheduler = Scheduler::new(&store, registry, config.sources.at_once, config.sources.enabled);
    live.watch_sources(Arc::clone(&scheduler));
    live.manage(Management::open(Arc::clone(&scheduler))?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("io").build()?;
    announce(&config, &admission, &store, &feed, &bound)?;
    announce_sources(&scheduler)?;
    say(&format!("listening on {}", bound.url()))?;
    let _warmer = config.cache.warm.then(|| Warmer::start(&feed)).transpose()?;
    // Threads of their own: whatever a source does takes none of those that serve.
    let fetching = Fetching::start(Arc::clone(&scheduler))?;
    let reloader = Reloader {
        place: args.place.clone(),
        started: config,
        store,
        feed,
        enricher,
        scheduler: Arc::clone(&scheduler),
        live: Arc::clone(&live),
    };
    let stop = async {
        shutdown_signal().await;
        scheduler.stop();
    };
    let served = runtime.block_on(async {
        tokio::select! {
            served = bound.run(live, stop, shutdown_signal()) => served,
            () = on_hangup(move || reloader.reload()) => Ok(()),
        }
    });
    fetching.end();
    served?;
    Ok(Outcome::Done)
}

/// What fetches from other servers, and the threads it does so on.
struct Fetching {
    runtime: tokio::runtime::Runtime,
    scheduler: Arc<Scheduler>,
    task: tokio::task::JoinHandle<()>,
}

impl Fetching {
    fn start(scheduler: Arc<Scheduler>) -> io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().thread_name("collect").build()?;
        let task = runtime.spawn(Arc::clone(&scheduler).run());
        Ok(Fetching { runtime, scheduler, task })
    }

    /// Has what runs commit what it has.
    fn end(self) {
        let Fetching { runtime, scheduler, task } = self;
        scheduler.stop();
        // A panic of it was logged.
        let _ = runtime.block_on(task);
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

/// What a person needs to know of the sources, where there are any.
fn announce_sources(scheduler: &Scheduler) -> Result<(), CliError> {
    let all = scheduler.registry().list()?;
    for source in all.iter() {
        if let Some(problem) = &source.problem {
            tracing::warn!(source = source.definition.name, problem, "this source is not fetched");
        }
    }
    if !all.is_empty() {
        let active = all.iter().filter(|source| source.is_active()).count();
        say(&format!("sources    {} ({active} on schedule)", all.len()))?;
    }
    Ok(())
}

fn feed_options(config: &Config) -> FeedOptions {
    FeedOptions {
        match_index_bytes: config.cache.matches,
        gathered_bytes: config.cache.gathered,
        rendered_bytes: config.cache.rendered,
        ..FeedOptions::default()
    }
}

/// Opens the inbox once there is a collection that needs it.
fn take_posts(live: &Live, catalog: &Catalog, store: &Store) -> Result<(), InboxError> {
    if !live.takes_posts() && catalog.iter().any(|collection| collection.inbox) {
        live.take_posts(Inbox::open(store, InboxOptions::default())?);
    }
    Ok(())
}

/// What is never reported, as the configuration has it.
fn allow_list(config: &Config) -> Result<AllowList, AllowError> {
    match config.enrich.allow.as_ref().filter(|_| config.enrich.enabled) {
        Some(path) => AllowList::load(path),
        None => Ok(AllowList::default()),
    }
}

/// What monitoring is told of the store.
fn probe(store: &Store) -> Probe {
    let store = store.clone();
    Arc::new(move || {
        let snapshot = store.snapshot().map_err(|error| sentence(&error))?;
        Ok(StoreState {
            version: snapshot.version(),
            segments: snapshot.segments().len() as u64,
            rows: snapshot.live_rows(),
            rows_waiting: snapshot.waiting_rows(),
        })
    })
}

/// Reads the configuration anew while the server runs.
struct Reloader {
    place: Place,
    /// What the server was started with.
    started: Config,
    store: Store,
    feed: StoreFeed,
    enricher: Option<Enricher>,
    scheduler: Arc<Scheduler>,
    live: Arc<Live>,
}

impl Reloader {
    /// All that is wrong with the new configuration is said at once, and then the old one stays.
    fn reload(&self) {
        self.live.reopen_logs();
        match self.try_reload() {
            Ok(fixed) if fixed.is_empty() => tracing::info!("configuration reloaded"),
            Ok(fixed) => {
                tracing::warn!(
                    needs_restart = fixed.join(", "),
                    "configuration reloaded, but for what needs a restart"
                );
            }
            Err(problems) => {
                for problem in &problems {
                    tracing::error!(problem, "configuration not reloaded");
                }
                tracing::error!(problems = problems.len(), "the configuration stays as it was");
            }
        }
    }

    fn try_reload(&self) -> Result<Vec<&'static str>, Vec<String>> {
        let prepared = self.prepare().inspect_err(|_| self.live.reload_failed());
        let (config, catalog, allow, mut fixed) = prepared?;
        let definitions = config.definitions;
        let sentences = |errors: Vec<StartError>| errors.iter().map(|error| sentence(error)).collect::<Vec<_>>();
        fixed.extend(self.live.reload(config.serve).map_err(sentences)?);
        self.feed.replace_catalog(catalog);
        self.scheduler.registry().reconfigure(definitions);
        self.scheduler.changed();
        if let Some(enricher) = &self.enricher {
            enricher.allow(allow);
        }
        fixed.sort_unstable();
        Ok(fixed)
    }

    /// The new configuration, its collections, and the settings whose new values wait for a restart.
    fn prepare(&self) -> Result<(Config, Catalog, AllowList, Vec<&'static str>), Vec<String>> {
        let (mut config, _) = self.place.server_config().map_err(|error| match error {
            ConfigError::Invalid(problems) => problems.each().collect(),
            error => vec![sentence(&error)],
        })?;
        let mut fixed = Vec::new();
        // What was started with stays open whatever the configuration says now; new collections are built for that store.
        if config.store != self.started.store {
            fixed.push("store");
            config.store.clone_from(&self.started.store);
        }
        if config.cache != self.started.cache {
            fixed.push("cache");
        }
        if config.log != self.started.log {
            fixed.push("log");
        }
        if config.enrich.enabled != self.started.enrich.enabled {
            fixed.push("enrich.enabled");
        }
        if config.sources != self.started.sources {
            fixed.push("sources");
        }
        let allow = allow_list(&config).map_err(|error| vec![sentence(&error)])?;
        let catalog = catalog(&config, &self.store).map_err(|error| vec![sentence(&*error)])?;
        for collection in catalog.iter() {
            for warning in collection.query.warnings() {
                tracing::warn!(collection = collection.title, "{warning}");
            }
        }
        take_posts(&self.live, &catalog, &self.store).map_err(|error| vec![sentence(&error)])?;
        Ok((config, catalog, allow, fixed))
    }
}

/// Whether nobody has configured anything of what is served, where it lies or who may have it. Made-up indicators have
/// no place in a store that somebody set up.
fn is_first_try(config: &Config, place: &Place) -> bool {
    const SET_UP: [&str; 4] =
        ["TAXIWAY_STORE__", "TAXIWAY_COLLECTION", "TAXIWAY_XSOAR_COLLECTIONS__", "TAXIWAY_AUTH__"];
    let sets_up = |name: &String| SET_UP.iter().any(|start| name.to_ascii_uppercase().starts_with(start));
    config.file.is_none() && !place.names_store() && !config.variables.iter().any(sets_up)
}

/// All that can be known beforehand, without taking the address and without a write to the store or its folder.
fn check(config: &Config, admission: &Admission) -> Result<Outcome, CliError> {
    let (store, made) = match Store::open(store_options(config)) {
        Err(StoreError::Missing { .. }) => (Store::open_or_imagine(store_options(config))?, ", which will be made,"),
        store => (store?, ""),
    };
    let catalog = catalog(config, &store)?;
    warn_of_queries(&catalog);
    allow_list(config)?;
    super::source::open(config)?;
    let scheme = if config.serve.tls.is_some() { "https" } else { "http" };
    say(&format!(
        "ok: ready to serve {} collections from `{}`{made} on {scheme}://{}; {}",
        catalog.len(),
        store.location(),
        config.serve.listen,
        users(config, admission)
    ))?;
    Ok(Outcome::Done)
}

fn load_sample(store: &Store) -> Result<(), CliError> {
    let options = DecodeOptions::new(Arc::clone(store.ids()));
    let input = Input::from_reader("the built-in sample", Some(SAMPLE.len() as u64), SAMPLE)?;
    let mut importer = Importer::new(store, false);
    ingest::decode(input, &options, |parsed| importer.push(parsed).map(|_| ()))?;
    let summary = importer.finish()?;
    say(&format!("made a new store in `{}` with a sample of {} records", store.location(), grouped(summary.new)))?;
    Ok(())
}

/// What curl needs besides the URL: our certificate may be nobody's that it knows, and users have to say who they are.
fn curl_options(config: &Config, admission: &Admission) -> String {
    let insecure = if config.serve.tls.is_some() { "-k " } else { "" };
    let user = match (admission.anonymous, admission.users.first()) {
        (Anonymous::Always, _) | (Anonymous::UntilUsers, None) => String::new(),
        (_, Some(name)) => format!("-u {} ", shell_word(name)),
        (_, None) => "-u NAME ".to_owned(),
    };
    format!("{insecure}{user}")
}

/// The text as one word of a POSIX shell.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@%+,/".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn warn_of_queries(catalog: &Catalog) {
    for collection in catalog.iter() {
        for warning in collection.query.warnings() {
            complain(&format!("warning: collection `{}`: {warning}", collection.title));
        }
    }
}

/// What a person, or a script that started us, needs to know.
fn announce(
    config: &Config,
    admission: &Admission,
    store: &Store,
    feed: &StoreFeed,
    bound: &Bound,
) -> Result<(), CliError> {
    let url = config.serve.base_url.clone().unwrap_or_else(|| bound.url());
    let snapshot = store.snapshot()?;
    let catalog = feed.catalog();
    let mut out = io::stdout().lock();
    writeln!(out, "store      {} ({} records)", store.location(), grouped(snapshot.live_rows()))?;
    writeln!(out, "users      {}", users(config, admission))?;
    for (version, name) in [(StixVersion::V21, "taxii2"), (StixVersion::V20, "taxii")] {
        if config.serve.serves(version) {
            writeln!(out, "discovery  {url}/{name}/ (TAXII {})", version.as_str())?;
        }
    }
    for root in &config.serve.api_roots {
        writeln!(out, "API root   {url}/{}/", root.path)?;
    }
    let width = catalog.iter().map(|collection| collection.title.chars().count()).max().unwrap_or(0);
    writeln!(out, "collections")?;
    for collection in catalog.iter() {
        for ApiRoot { path, .. } in roots_of(&config.serve, &collection.api_roots) {
            let inbox = if collection.inbox { " (inbox)" } else { "" };
            writeln!(out, "  {:<width$}  {url}/{path}/collections/{}/{inbox}", collection.title, collection.id)?;
        }
    }
    if let Some(collection) = catalog.get("all").or_else(|| catalog.iter().next())
        && let Some(ApiRoot { path, .. }) = roots_of(&config.serve, &collection.api_roots).next()
    {
        let name = collection.alias.as_ref().unwrap_or(&collection.id);
        let options = curl_options(config, admission);
        writeln!(out, "try        curl {options}'{url}/{path}/collections/{name}/objects/?limit=2'")?;
    }
    if let Some(admin) = bound.admin_url() {
        writeln!(out, "monitoring {admin}/metrics, /ready and /health")?;
        if config.serve.admin.manage.is_some() {
            writeln!(out, "management {admin}/configapi/… and /monitorapi/…")?;
        }
    }
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::TlsFiles;

    #[test]
    fn the_curl_line_says_what_the_server_wants() {
        let tls = Some(TlsFiles::new("c", "k"));
        let cases = [
            (None, Anonymous::UntilUsers, vec![], ""),
            (None, Anonymous::UntilUsers, vec!["ann"], "-u ann "),
            (None, Anonymous::Always, vec!["ann"], ""),
            (None, Anonymous::Never, vec![], "-u NAME "),
            (tls.clone(), Anonymous::UntilUsers, vec![], "-k "),
            (tls, Anonymous::Never, vec!["Zoë O'Neil", "ann"], "-k -u 'Zoë O'\\''Neil' "),
        ];
        for (tls, anonymous, users, expected) in cases {
            let mut config = Config::default();
            config.serve.tls = tls;
            let admission = Admission {
                users: users.into_iter().map(str::to_owned).collect(),
                groups: Default::default(),
                anonymous,
            };
            assert_eq!(curl_options(&config, &admission), expected);
        }
    }
}
