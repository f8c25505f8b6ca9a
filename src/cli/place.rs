//! Where the configuration and the store are: arguments that most commands share.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::{CliError, sentence};
use crate::config::{CollectionDefaults, Config, ConfigError, LogFormat, Place as Spot, Problem, Problems};
use crate::feed::collection::{Catalog, CollectionSpec, QueryText};
use crate::model::kind::StixType;
use crate::render::Profile;
use crate::serve::auth::{Admission, Anonymous};
use crate::serve::{self, StartError};
use crate::store::{Store, StoreOptions};

/// Where the configuration and the store are.
#[derive(Debug, Args, Clone)]
pub(super) struct Place {
    /// Configuration file [default: taxiway.toml where there is one].
    #[arg(long, value_name = "FILE", env = "TAXIWAY_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// Folder of the store, over the configuration's `store.location`; the users file is in it unless `auth.users` says
    /// otherwise.
    #[arg(long, value_name = "DIR", global = true)]
    store: Option<PathBuf>,
}

impl Place {
    /// The configuration, with the store's place from the command line.
    pub(super) fn config(&self) -> Result<Config, ConfigError> {
        let mut config = Config::load(self.config.as_deref())?;
        self.lay_over(&mut config);
        Ok(config)
    }

    /// The configuration of a server and who may come in. Reads certificate, key and users as well: all that would keep
    /// the server from starting is said at once, and before anything is made.
    pub(super) fn server_config(&self) -> Result<(Config, Admission), ConfigError> {
        let mut examined = Config::examine(self.config.as_deref())?;
        self.lay_over(&mut examined.config);
        let errors = match serve::examine(&examined.config.serve) {
            Ok(admission) => return Ok((examined.whole()?, admission)),
            Err(errors) => errors,
        };
        // Whether a server is open to all, or in the clear, follows from several settings: nothing can be said when one is
        // unreadable.
        let sound = examined.problems.is_empty();
        let follows = |error: &StartError| {
            matches!(
                error,
                StartError::OpenToAll { .. }
                    | StartError::PlainHttp { .. }
                    | StartError::ManagedByAll { .. }
                    | StartError::PlainManagement { .. }
            )
        };
        let errors = errors.iter().filter(|error| sound || !follows(error));
        examined.problems.extend(errors.map(|error| Problem { place: Spot::Whole, text: sentence(error) }));
        Err(Problems { file: examined.config.file, problems: examined.problems }.into())
    }

    /// Whether the command line says where the store is.
    pub(super) fn names_store(&self) -> bool {
        self.store.is_some()
    }

    fn lay_over(&self, config: &mut Config) {
        if let Some(store) = &self.store {
            // The users file moves with the store unless it was placed by name.
            if config.serve.auth.users == config.store.location.join("users.json") {
                config.serve.auth.users = store.join("users.json");
            }
            config.store.location.clone_from(store);
        }
    }
}

/// Who may come in, for people.
pub(super) fn users(config: &Config, admission: &Admission) -> String {
    let path = config.serve.auth.users.display();
    let count = match admission.users.len() {
        0 => format!("no users in `{path}`"),
        1 => format!("1 user in `{path}`"),
        count => format!("{count} users in `{path}`"),
    };
    match (admission.anonymous, admission.users.len()) {
        (Anonymous::Always, _) => format!("open to everyone, as `auth.anonymous` says ({count})"),
        (Anonymous::UntilUsers, 0) => format!("open to everyone on this machine ({count})"),
        (Anonymous::Never, 0) => format!("open to nobody ({count})"),
        _ => count,
    }
}

/// What is served, for people.
pub(super) fn versions(options: &serve::Options) -> String {
    let versions: Vec<&str> = options.versions.iter().map(|version| version.as_str()).collect();
    let profile = match options.profile {
        Profile::Standard => "standard",
        Profile::Xsoar => "xsoar",
    };
    let default = match versions.len() {
        1 => String::new(),
        _ => format!(", {} by default", options.default_version.as_str()),
    };
    format!("{}{default}, in profile {profile}", versions.join(" and "))
}

/// The store's options as the configuration gives them.
pub(super) fn store_options(config: &Config) -> StoreOptions {
    StoreOptions {
        location: config.store.location.to_string_lossy().into_owned(),
        license_id: config.store.license_id.clone(),
        id_scheme: config.store.id_scheme,
        history_s: config.store.history.as_secs(),
        ..StoreOptions::default()
    }
}

/// The collections of the configuration; without any, a set that shows what there is.
pub(super) fn catalog(config: &Config, store: &Store) -> Result<Catalog, CliError> {
    let specs =
        if config.collections.is_empty() { default_collections(&config.defaults) } else { config.collections.clone() };
    let built: Result<Vec<_>, _> = specs.iter().map(|spec| spec.build(store.ids(), &config.feed)).collect();
    Ok(Catalog::new(built?)?)
}

/// The same for those who do not need the store to be there.
pub(super) fn catalog_without_store(config: &Config) -> Result<Arc<Catalog>, CliError> {
    Ok(Arc::new(catalog(config, &Store::open_or_imagine(store_options(config))?)?))
}

fn default_collections(defaults: &CollectionDefaults) -> Vec<CollectionSpec> {
    let collection = |title: &str, alias: &str, query: &str, description: &str, as_indicators: bool| CollectionSpec {
        description: Some(description.to_owned()),
        alias: Some(alias.to_owned()),
        indicator_types: match as_indicators {
            true => StixType::ALL.iter().copied().collect(),
            false => defaults.indicator_types,
        },
        extension_fields: defaults.extension_fields.clone(),
        relationships: defaults.relationships,
        ..CollectionSpec::new(title, QueryText::Xsoar(query.to_owned()))
    };
    vec![
        collection("All", "all", "", "Everything, observables as STIX cyber-observable objects", false),
        collection("Indicators", "indicators", "", "Everything, observables as STIX indicators with patterns", true),
        collection(
            "Malicious",
            "malicious",
            "verdict:malicious and expirationStatus:active",
            "What to block, as STIX indicators",
            true,
        ),
        collection("Addresses", "addresses", "type:(IP IPv6 CIDR IPv6CIDR)", "IP addresses and networks", false),
        collection("Domains", "domains", "type:(Domain DomainGlob)", "Domain names", false),
        collection("URLs", "urls", "type:URL", "URLs", false),
        collection("Files", "files", "type:File", "File hashes", false),
    ]
}

/// Starts the log on standard error. `RUST_LOG` overrides the level.
pub(super) fn start_log(config: &Config, default_level: Option<&str>) {
    let level = default_level.unwrap_or_else(|| config.log.level.as_str());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("warn,taxiway={level}")));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second start, in tests, changes nothing.
    let _ = match config.log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
