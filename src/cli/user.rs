//! `taxiway user`: who may read the feeds.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::{Args, Subcommand};
use serde_json::json;

use super::output::Form;
use super::place::Place;
use crate::config::ConfigError;
use crate::serve::users::{UserError, UserFile};

/// Manage the users who may read the feeds.
///
/// They are in the users file of the store, or in the one that `auth.users` names: give the same --config and --store
/// as to `taxiway serve`, which prints at its start which file it reads.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  taxiway user add alice\n  taxiway user add alice --store /var/lib/taxiway\n\
                  \x20 pass show taxiway/siem | taxiway user add siem --password-stdin")]
pub(super) struct UserArgs {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a user, or give one a new password. A running server takes it up within a second or two.
    Add {
        /// User name: no colon, no control characters.
        name: String,
        /// Read the password from the first line of standard input instead of asking for it.
        #[arg(long)]
        password_stdin: bool,
    },
    /// List the user names.
    List {
        /// Form of the list: one name a line, or a JSON array of names.
        #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
        output: Form,
    },
    /// Remove a user.
    Remove {
        /// User name.
        name: String,
    },
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum UserCommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Users(#[from] UserError),
    #[error("read the password")]
    ReadPassword { source: io::Error },
    #[error("standard input is no terminal to ask for a password on; give it with `--password-stdin`")]
    NoTerminal,
    #[error("the two passwords differ; nothing was changed")]
    PasswordsDiffer,
    #[error("write to standard output")]
    Output { source: io::Error },
}

/// Runs the command; what it prints goes to standard output.
pub(super) fn run(args: &UserArgs) -> Result<(), UserCommandError> {
    let config = args.place.config()?;
    let path = &config.serve.auth.users;
    let mut users = UserFile::load(path)?;
    match &args.action {
        Action::Add { name, password_stdin } => {
            let password = if *password_stdin { first_line(io::stdin().lock())? } else { ask()? };
            let done = if users.add(name, &password)? { "changed the password of" } else { "added" };
            print(&format!("{done} `{name}` in {}\n", path.display()))
        }
        Action::List { output: Form::Table } => {
            let names: String = users.list().map(|name| format!("{name}\n")).collect();
            print(&names)
        }
        Action::List { output: Form::Json } => print(&format!("{}\n", json!(users.list().collect::<Vec<_>>()))),
        Action::Remove { name } => {
            users.remove(name)?;
            print(&format!("removed `{name}` from {}\n", path.display()))
        }
    }
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

fn print(text: &str) -> Result<(), UserCommandError> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        // Whoever reads our output may stop early.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|source| UserCommandError::Output { source }),
    }
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
}
