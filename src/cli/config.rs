//! `taxiway config`: look at a configuration without starting anything.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::{Config, ConfigError};
use crate::feed::collection::CollectionSpec;

/// Look at the configuration.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taxiway config check --config /etc/taxiway/taxiway.toml")]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Report every problem of a configuration, or that it has none.
    Check {
        /// Configuration file [default: taxiway.toml where there is one].
        #[arg(long, value_name = "FILE", env = "TAXIWAY_CONFIG")]
        config: Option<PathBuf>,
    },
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigCommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("write to standard output")]
    Output { source: io::Error },
}

/// Runs the command. Problems come back as the error, all of them in its text.
pub(crate) fn run(args: ConfigArgs) -> Result<(), ConfigCommandError> {
    let Action::Check { config } = args.action;
    let config = Config::load(config.as_deref())?;
    let said = summary(&config) + &doubts(&config.collections);
    match io::stdout().lock().write_all(said.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|source| ConfigCommandError::Output { source }),
    }
}

fn summary(config: &Config) -> String {
    let file = config.file.as_deref().map_or_else(|| "no file, defaults".to_owned(), |file| file.display().to_string());
    let scheme = if config.serve.tls.is_some() { "https" } else { "http" };
    let listen = config.serve.listen;
    let root = &config.serve.api_root;
    format!(
        "ok: {file}\nstore        {}\nusers        {}\nAPI root     {scheme}://{listen}/{root}/\ncollections  {}\n",
        config.store.location.display(),
        config.serve.auth.users.display(),
        config.collections.len(),
    )
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
