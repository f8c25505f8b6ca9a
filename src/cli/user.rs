//! `taxiway user`: who may come in, and what each of them may do.

use std::io::{self, BufRead, IsTerminal};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::{Form, say, table};
use super::place::{Place, catalog_without_store};
use super::token::state;
use super::{CliError, Outcome};
use crate::model::time::Timestamp;
use crate::serve::auth::{Anonymous, Identity};
use crate::serve::users::{Password, UserChange, UserFile, UserRecord};
use crate::serve::{InRoot, effects};

/// Manage the users of the server: their passwords, groups and certificates, and what they may do.
///
/// They are in the users file of the store, or in the one that `auth.users` names: give the same --config and --store
/// as to `taxiway serve`, which prints at its start which file it reads. A running server takes up every change within a
/// second or two. Programs had better come with a token: see `taxiway token`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  taxiway user add alice --group analysts\n\
                  \x20 pass show taxiway/siem | taxiway user add siem --password-stdin --store /var/lib/taxiway\n\
                  \x20 taxiway user add partner --no-password --certificate 'cn:Partner Ltd'\n\
                  \x20 taxiway user check alice --collection Reports")]
pub(super) struct UserArgs {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a user, or give one a new password.
    Add {
        /// User name: no colon, no control characters, no `@` at its beginning.
        name: String,
        /// Read the password from the first line of standard input instead of asking for it.
        #[arg(long, conflicts_with = "no_password")]
        password_stdin: bool,
        /// Have no password: the user comes with tokens or certificates only.
        #[arg(long)]
        no_password: bool,
        /// A group that the user is in; `@NAME` in the lists of the configuration. Can be given several times.
        #[arg(long, value_name = "NAME")]
        group: Vec<String>,
        /// A client certificate that stands for the user: cn:…, dns:…, email:…, uri:… or sha256:… (its fingerprint). Can be
        /// given several times.
        #[arg(long, value_name = "NAME")]
        certificate: Vec<String>,
    },
    /// Remove a user, with all tokens.
    Remove {
        /// User name.
        name: String,
    },
    /// List the user names.
    List {
        /// Form of the list: one name a line, or a JSON array of names.
        #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
        output: Form,
    },
    /// Show all that is known of one user, or of all; no secrets.
    Show {
        /// User name.
        name: Option<String>,
        /// Form of the result.
        #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
        output: Form,
    },
    /// Show the groups and their members, or change the groups of a user.
    Groups {
        /// User name; without one, all groups are shown.
        name: Option<String>,
        /// A group to be in. Can be given several times.
        #[arg(long, value_name = "GROUP", requires = "name")]
        add: Vec<String>,
        /// A group to be in no more. Can be given several times.
        #[arg(long, value_name = "GROUP", requires = "name")]
        remove: Vec<String>,
        /// Form of the result.
        #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
        output: Form,
    },
    /// Show or change the certificates that stand for a user.
    Certificates {
        /// User name.
        name: String,
        /// A certificate: cn:…, dns:…, email:…, uri:… or sha256:…. Can be given several times.
        #[arg(long, value_name = "CERTIFICATE")]
        add: Vec<String>,
        /// One that stands for the user no more. Can be given several times.
        #[arg(long, value_name = "CERTIFICATE")]
        remove: Vec<String>,
        /// Form of the result.
        #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
        output: Form,
    },
    /// Let a user in no more, whatever the proof; all that is known of the user is kept.
    Disable {
        /// User name.
        name: String,
    },
    /// Let a disabled user in again.
    Enable {
        /// User name.
        name: String,
    },
    /// Show what a user may know of, read and write, as the lists of the configuration come out.
    Check {
        /// User name; `anonymous` for requests without credentials.
        name: String,
        /// Only this collection: its id, alias or title.
        #[arg(long, value_name = "COLLECTION")]
        collection: Option<String>,
        /// Form of the result.
        #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
        output: Form,
    },
}

/// Why the command failed, where no other part says it.
#[derive(Debug, thiserror::Error)]
enum UserCommandError {
    #[error("read the password")]
    ReadPassword { source: io::Error },
    #[error(
        "standard input is no terminal to ask for a password on; give it with `--password-stdin`, or none with \
         `--no-password`"
    )]
    NoTerminal,
    #[error("the two passwords differ; nothing was changed")]
    PasswordsDiffer,
    #[error("there is no collection `{name}`; `taxiway collections` lists them")]
    NoCollection { name: String },
}

/// Runs the command; what it prints goes to standard output.
pub(super) fn run(args: &UserArgs) -> Result<Outcome, CliError> {
    if let Action::Check { name, collection, output } = &args.action {
        return check(&args.place, name, collection.as_deref(), *output);
    }
    let config = args.place.config()?;
    let path = &config.serve.auth.users;
    let mut users = UserFile::load(path)?;
    let change = |users: &mut UserFile, name: &str, change: UserChange| users.change(name, change);
    match &args.action {
        Action::Add { name, password_stdin, no_password, group, certificate } => {
            let password = match (no_password, password_stdin) {
                (true, _) => Password::Remove,
                (_, true) => Password::Set(first_line(io::stdin().lock())?),
                _ => Password::Set(ask()?),
            };
            // Those that are there already stay.
            let (groups, certificates) =
                users.get(name).map_or((&[][..], &[][..]), |user| (user.groups(), user.certificates()));
            let united = |old: &[String], new: &[String]| [old, new].concat();
            let change = UserChange {
                groups: Some(united(groups, group)),
                certificates: Some(united(certificates, certificate)),
                password,
                disabled: None,
            };
            let done = match (users.put(name, change)?, no_password) {
                (false, _) => "added",
                (true, false) => "changed the password of",
                (true, true) => "took the password from",
            };
            say(&format!("{done} `{name}` in {}", path.display()))?;
        }
        Action::Remove { name } => {
            users.remove(name)?;
            say(&format!("removed `{name}` from {}", path.display()))?;
        }
        Action::List { output: Form::Table } => {
            for name in users.list() {
                say(name)?;
            }
        }
        Action::List { output: Form::Json } => say(&json!(users.list().collect::<Vec<_>>()).to_string())?,
        Action::Show { name, output } => show(&users, name.as_deref(), *output)?,
        Action::Groups { name: None, output, .. } => {
            let groups = users.groups();
            match output {
                Form::Table => {
                    let rows: Vec<_> =
                        groups.iter().map(|(name, of)| vec![(*name).to_owned(), of.join(", ")]).collect();
                    say(&table(&["group", "users"], &rows))?;
                }
                Form::Json => say(&serde_json::to_string_pretty(&groups)?)?,
            }
        }
        Action::Groups { name: Some(name), add, remove, output } => {
            if !(add.is_empty() && remove.is_empty()) {
                let bare = |names: &[String]| -> Vec<String> {
                    names.iter().map(|name| name.strip_prefix('@').unwrap_or(name).to_owned()).collect()
                };
                let groups = changed(users.get(name)?.groups(), &bare(add), &bare(remove));
                change(&mut users, name, UserChange { groups: Some(groups), ..UserChange::default() })?;
            }
            print_list(users.get(name)?.groups(), *output)?;
        }
        Action::Certificates { name, add, remove, output } => {
            if !(add.is_empty() && remove.is_empty()) {
                let certificates = changed(users.get(name)?.certificates(), add, remove);
                change(&mut users, name, UserChange { certificates: Some(certificates), ..UserChange::default() })?;
            }
            print_list(users.get(name)?.certificates(), *output)?;
        }
        Action::Disable { name } => {
            change(&mut users, name, UserChange { disabled: Some(true), ..UserChange::default() })?;
            say(&format!("`{name}` is let in no more; `taxiway user enable` undoes that"))?;
        }
        Action::Enable { name } => {
            change(&mut users, name, UserChange { disabled: Some(false), ..UserChange::default() })?;
            say(&format!("`{name}` is let in"))?;
        }
        Action::Check { .. } => {}
    }
    Ok(Outcome::Done)
}

/// The list with some names added and some taken out, which are compared in any case.
fn changed(list: &[String], add: &[String], remove: &[String]) -> Vec<String> {
    let all = list.iter().chain(add);
    all.filter(|name| !remove.iter().any(|gone| gone.trim().eq_ignore_ascii_case(name.trim()))).cloned().collect()
}

fn print_list(list: &[String], output: Form) -> Result<(), CliError> {
    match output {
        Form::Table => list.iter().try_for_each(|name| say(name))?,
        Form::Json => say(&json!(list).to_string())?,
    }
    Ok(())
}

fn show(users: &UserFile, name: Option<&str>, output: Form) -> Result<(), CliError> {
    let shown: Vec<&UserRecord> = match name {
        Some(name) => vec![users.get(name)?],
        None => users.users().iter().collect(),
    };
    let now = Timestamp::now();
    if output == Form::Json {
        let described: Vec<Value> = shown.iter().map(|user| described(users, user, now)).collect();
        let value = match (name, described) {
            (Some(_), mut one) if one.len() == 1 => one.remove(0),
            (_, all) => json!(all),
        };
        say(&serde_json::to_string_pretty(&value)?)?;
        return Ok(());
    }
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let rows: Vec<Vec<String>> = shown
        .iter()
        .map(|user| {
            let good = |token: &&crate::serve::users::TokenRecord| {
                token.user == user.name() && state(users, token, now) == "good"
            };
            vec![
                user.name().to_owned(),
                yes(!user.disabled()),
                yes(user.has_password()),
                users.tokens().iter().filter(good).count().to_string(),
                user.groups().join(", "),
                user.certificates().join(", "),
            ]
        })
        .collect();
    say(&table(&["user", "let in", "password", "tokens", "groups", "certificates"], &rows))?;
    Ok(())
}

fn described(users: &UserFile, user: &UserRecord, now: Timestamp) -> Value {
    let tokens = users.tokens().iter().filter(|token| token.user == user.name());
    json!({
        "name": user.name(), "disabled": user.disabled(), "password": user.has_password(), "groups": user.groups(),
        "certificates": user.certificates(),
        "tokens": tokens.map(|token| super::token::described(users, token, now)).collect::<Vec<_>>(),
    })
}

fn check(place: &Place, name: &str, collection: Option<&str>, output: Form) -> Result<Outcome, CliError> {
    let (config, note, identity) = if name == "anonymous" {
        let (config, admission) = place.server_config()?;
        let open = match admission.anonymous {
            Anonymous::Always => true,
            Anonymous::UntilUsers => admission.users.is_empty(),
            Anonymous::Never => false,
        };
        let identity = Identity::Anonymous(admission.nobody(&config.serve));
        (config, (!open).then_some("requests without credentials are not let in, as things are"), identity)
    } else {
        let config = place.config()?;
        let users = UserFile::load(&config.serve.auth.users)?;
        let user = users.get(name)?;
        let note = user.disabled().then_some("the user is disabled and not let in");
        (config, note, Identity::of(user))
    };
    let catalog = catalog_without_store(&config)?;
    let mut roots = effects(&config.serve, catalog, &identity);
    if let Some(name) = collection {
        let is_it = |id: &str, alias: Option<&str>, title: &str| {
            id.eq_ignore_ascii_case(name) || alias == Some(name) || title == name
        };
        for root in &mut roots {
            root.collections.retain(|(it, _)| is_it(&it.id, it.alias.as_deref(), &it.title));
        }
        roots.retain(|root| !root.collections.is_empty());
        // Every collection is in some root.
        if roots.is_empty() {
            return Err(UserCommandError::NoCollection { name: name.to_owned() }.into());
        }
    }
    match output {
        Form::Json => {
            let roots: Vec<Value> = roots.iter().map(root_as_json).collect();
            let value = json!({ "user": name, "let_in": note.is_none(), "api_roots": roots });
            say(&serde_json::to_string_pretty(&value)?)?;
        }
        Form::Table => {
            if let Some(note) = note {
                say(&format!("note: {note}"))?;
            }
            say(&table(&["API root", "collection", "id", "knows", "reads", "writes"], &rows(&roots)))?;
        }
    }
    Ok(Outcome::Done)
}

fn rows(roots: &[InRoot]) -> Vec<Vec<String>> {
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let mut rows = Vec::new();
    for root in roots {
        rows.push(vec![
            format!("/{}/", root.path),
            String::new(),
            String::new(),
            yes(root.known),
            String::new(),
            String::new(),
        ]);
        for (collection, allowed) in &root.collections {
            rows.push(vec![
                format!("/{}/", root.path),
                collection.title.clone(),
                collection.id.clone(),
                yes(allowed.knows()),
                yes(allowed.read),
                yes(allowed.write),
            ]);
        }
    }
    rows
}

fn root_as_json(root: &InRoot) -> Value {
    let collections: Vec<Value> = root
        .collections
        .iter()
        .map(|(collection, allowed)| {
            json!({
                "id": collection.id, "title": collection.title, "known": allowed.knows(), "can_read": allowed.read,
                "can_write": allowed.write,
            })
        })
        .collect();
    json!({ "path": root.path, "known": root.known, "collections": collections })
}

fn first_line(mut input: impl BufRead) -> Result<String, UserCommandError> {
    let mut line = String::new();
    input.read_line(&mut line).map_err(|source| UserCommandError::ReadPassword { source })?;
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    Ok(line)
}

/// Twice, unseen, from the terminal.
fn ask() -> Result<String, UserCommandError> {
    if !io::stdin().is_terminal() {
        return Err(UserCommandError::NoTerminal);
    }
    let prompt = |text| rpassword::prompt_password(text).map_err(|source| UserCommandError::ReadPassword { source });
    let password = prompt("Password: ")?;
    if password != prompt("The same again: ")? {
        return Err(UserCommandError::PasswordsDiffer);
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_password() {
        for (input, expected) in [("secret\n", "secret"), ("secret\r\nmore\n", "secret"), (" s p ", " s p "), ("", "")]
        {
            assert_eq!(first_line(input.as_bytes()).expect("reads"), expected, "{input:?}");
        }
    }

    #[test]
    fn names_are_added_and_taken_out() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
        let cases: [(&[&str], &[&str], &[&str], &[&str]); 3] = [
            (&["a", "b"], &["c"], &[], &["a", "b", "c"]),
            (&["cn:A", "b"], &[], &["CN:a"], &["b"]),
            (&[], &["a"], &["a"], &[]),
        ];
        for (old, add, remove, expected) in cases {
            assert_eq!(changed(&list(old), &list(add), &list(remove)), expected);
        }
    }
}
