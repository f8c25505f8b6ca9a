//! `taxiway config`: look at a configuration without starting anything.

use std::io::{self, Write};

use clap::{Args, Subcommand};

use super::place::{Place, users, versions};
use crate::config::{Config, ConfigError, nearest};
use crate::feed::collection::CollectionSpec;
use crate::model::ids::IdScheme;
use crate::render::Profile;
use crate::serve::auth::{Admission, Anonymous};
use crate::serve::rights::{ANONYMOUS, EVERYONE, USERS};
use crate::serve::roots_of;

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
    let mut said = summary(&config, &admission) + &doubts(&config.collections) + &doubts_of_ids(&config);
    for doubt in doubts_of_access(&config, &admission) {
        said.push_str(&format!("warning: {doubt}\n"));
    }
    match io::stdout().lock().write_all(said.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|source| ConfigCommandError::Output { source }),
    }
}

fn summary(config: &Config, admission: &Admission) -> String {
    let file = config.file.as_deref().map_or_else(|| "no file, defaults".to_owned(), |file| file.display().to_string());
    let scheme = if config.serve.tls.is_some() { "https" } else { "http" };
    let listen = config.serve.listen;
    let roots: String = config
        .serve
        .api_roots
        .iter()
        .map(|root| format!("API root     {scheme}://{listen}/{}/\n", root.path))
        .collect();
    format!(
        "ok: {file}\nstore        {}\nusers        {}\n{roots}TAXII        {}\ncollections  {}\n",
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

/// Names in lists that are nobody's, and lists that let in more than it seems.
fn doubts_of_access(config: &Config, admission: &Admission) -> Vec<String> {
    let mut doubts = Vec::new();
    let roots = &config.serve.api_roots;
    let of_roots = roots.iter().map(|root| (format!("API root `{}`", root.path), &root.access));
    let of_collections = config.collections.iter().map(|spec| (format!("collection `{}`", spec.title), &spec.access));
    for (what, access) in of_roots.chain(of_collections) {
        for (key, list) in [("read", &access.read), ("write", &access.write)] {
            for name in list.iter().flatten() {
                if let Some(doubt) = doubt_of_name(name, admission) {
                    doubts.push(format!("{what}: `{name}` in `{key}` {doubt}"));
                }
            }
        }
    }
    // On the admin listener, those without credentials are let in where they are named.
    for name in config.serve.admin.manage.iter().flatten().filter(|name| *name != ANONYMOUS) {
        if let Some(doubt) = doubt_of_name(name, admission) {
            doubts.push(format!("`{name}` in `admin.manage` {doubt}"));
        }
    }
    for spec in config.collections.iter().filter(|spec| spec.inbox && spec.access.write.is_none()) {
        for root in roots_of(&config.serve, &spec.api_roots).filter(|root| root.access.write.is_none()) {
            if spec.access.read.is_some() || root.access.read.is_some() {
                doubts.push(format!(
                    "collection `{}`: reading is for some, but every user may write to it in the API root `{}`; say who \
                     may with `write`",
                    spec.title, root.path
                ));
            }
        }
    }
    doubts
}

/// What is odd about a name in a list of who may do something.
fn doubt_of_name(name: &str, admission: &Admission) -> Option<String> {
    let of = |kind: &str, known: Vec<&str>, name: &str, how: &str| {
        let hint = nearest(name, &known).map_or_else(|| how.to_owned(), |near| format!("did you mean `{near}`?"));
        Some(format!("is no {kind}; {hint}"))
    };
    match name {
        EVERYONE | USERS => None,
        ANONYMOUS if admission.anonymous == Anonymous::Never => Some(
            "lets in nobody but users, since requests without credentials are refused; see `auth.anonymous`".into(),
        ),
        ANONYMOUS => None,
        name => match name.strip_prefix('@') {
            Some(group) if admission.groups.contains(group) => None,
            Some(group) => {
                let known = admission.groups.iter().map(String::as_str).collect();
                of("group of any user", known, group, "`taxiway user groups NAME --add GROUP` puts a user into one")
            }
            None if admission.users.iter().any(|user| user == name) => None,
            None => {
                let known = admission.users.iter().map(String::as_str).collect();
                of("user", known, name, "`taxiway user add NAME` makes one, and groups are written `@NAME`")
            }
        },
    }
}
