//! `taxiway config`: look at a configuration without starting anything.

use std::io::{self, Write};

use clap::{Args, Subcommand};

use super::place::{Place, users, versions};
use crate::config::{Config, ConfigError};
use crate::feed::collection::CollectionSpec;
use crate::model::ids::IdScheme;
use crate::render::Profile;
use crate::serve::auth::Admission;

/// Look at the configuration.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taxiway config check --config /etc/taxiway/taxiway.toml")]
pub(super) struct ConfigArgs {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Report every problem of a configuration, or that it has none.
    ///
    /// Reads what a server would: the file, the TAXIWAY_… variables, certificate and key, the users. Opens no store and
    /// no port; `taxiway serve --check` looks at the store as well.
    Check,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigCommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("write to standard output")]
    Output { source: io::Error },
}

/// Runs the command. Problems come back as the error, all of them in its text.
pub(super) fn run(args: &ConfigArgs) -> Result<(), ConfigCommandError> {
    let Action::Check = args.action;
    let (config, admission) = args.place.server_config()?;
    let said = summary(&config, &admission) + &doubts(&config.collections) + &doubts_of_ids(&config);
    match io::stdout().lock().write_all(said.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|source| ConfigCommandError::Output { source }),
    }
}

fn summary(config: &Config, admission: &Admission) -> String {
    let file = config.file.as_deref().map_or_else(|| "no file, defaults".to_owned(), |file| file.display().to_string());
    let scheme = if config.serve.tls.is_some() { "https" } else { "http" };
    let listen = config.serve.listen;
    let root = &config.serve.api_root;
    format!(
        "ok: {file}\nstore        {}\nusers        {}\nAPI root     {scheme}://{listen}/{root}/\nTAXII        {}\n\
         collections  {}\n",
        config.store.location.display(),
        users(config, admission),
        versions(&config.serve),
        config.collections.len(),
    )
}

/// Clients of the original know its ids, which come from its licence.
fn doubts_of_ids(config: &Config) -> String {
    let as_original = |spec: &CollectionSpec| spec.profile.unwrap_or(config.feed.profile) == Profile::Xsoar;
    let wanted = config.feed.profile == Profile::Xsoar || config.collections.iter().any(as_original);
    let mut lines = String::new();
    if wanted && config.store.license_id.is_none() {
        lines.push_str(
            "warning: `store.license_id` is not set: a store made without XSOAR's licence id has other ids than XSOAR's \
             clients know\n",
        );
    }
    if wanted && config.store.id_scheme != Some(IdScheme::Xsoar) {
        lines.push_str(
            "warning: `store.id_scheme` is not `xsoar`: some observables of a store made so have other ids than XSOAR's \
             clients know\n",
        );
    }
    lines
}

/// What the queries' compiler is not sure about, a line each.
fn doubts(collections: &[CollectionSpec]) -> String {
    let mut lines = String::new();
    for spec in collections {
        // Loading has compiled every query already: none fails here.
        let Ok(compiled) = spec.query.compile() else { continue };
        for warning in compiled.warnings() {
            lines.push_str(&format!("warning: collection `{}`: {warning}\n", spec.title));
        }
    }
    lines
}
