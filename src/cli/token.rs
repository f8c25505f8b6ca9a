//! `taxiway token`: what programs come in with.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::{Form, complain, say, table};
use super::place::Place;
use super::{CliError, Outcome};
use crate::model::time::{MICROS_PER_SECOND, Timestamp};
use crate::serve::users::{TokenRecord, UserFile};

/// Manage the tokens that programs come in with.
///
/// A token stands for its user, with the user's groups and rights. Clients send it as `Authorization: Bearer TOKEN`, as
/// `Authorization: Token TOKEN`, as `X-Api-Key: TOKEN`, or, where they know only name and password, as the password of its
/// user. Only a digest is kept: a token that was lost is replaced by a new one. A running server takes up every change within
/// a second or two.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  taxiway token add siem --label 'Sentinel, production' --expires 90d\n\
                  \x20 taxiway token list siem\n  taxiway token revoke 3f9c01d2a4b5")]
pub(super) struct TokenArgs {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a token for a user and print it, this once.
    Add {
        /// User name.
        user: String,
        /// What it is for, to tell it from others.
        #[arg(long)]
        label: String,
        /// When it ends: after a time such as 12h, 90d or 8w, on a date such as 2027-01-31, or never.
        #[arg(long, default_value = "365d", value_name = "WHEN")]
        expires: String,
        /// Form of the result: the token alone, or a JSON object with its id, user, label, end and the token.
        #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
        output: Form,
    },
    /// List the tokens, their users and labels and when they end; not the tokens themselves.
    List {
        /// Only those of this user.
        user: Option<String>,
        /// Form of the result.
        #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
        output: Form,
    },
    /// Take a token back, for good.
    Revoke {
        /// Its id: what stands between the two `_` of a token, and in the list.
        id: String,
    },
}

/// Why the command failed, where no other part says it.
#[derive(Debug, thiserror::Error)]
enum TokenCommandError {
    #[error(
        "`--expires` must be a time such as `12h`, `90d` or `8w`, a date to come such as `2027-01-31`, or `never`, not \
         `{text}`"
    )]
    BadExpiry { text: String },
}

/// Runs the command; what it prints goes to standard output.
pub(super) fn run(args: &TokenArgs) -> Result<Outcome, CliError> {
    let config = args.place.config()?;
    let mut users = UserFile::load(&config.serve.auth.users)?;
    let now = Timestamp::now();
    match &args.action {
        Action::Add { user, label, expires, output } => {
            let bad = || TokenCommandError::BadExpiry { text: expires.clone() };
            let expires = expiry(expires, now).ok_or_else(bad)?;
            let made = users.add_token(user, label, expires)?;
            match output {
                Form::Table => {
                    say(&made.text)?;
                    let end = expires.map_or_else(|| "never ends".to_owned(), |end| format!("ends at {end}"));
                    complain(&format!("token {} of `{user}` {end}; it is shown this once", made.id));
                }
                Form::Json => {
                    let expires = expires.map(|end| end.to_string());
                    let value = json!({
                        "id": made.id, "user": user, "label": label.trim(), "expires": expires, "token": made.text,
                    });
                    say(&value.to_string())?;
                }
            }
        }
        Action::List { user, output } => {
            if let Some(user) = user {
                users.get(user)?;
            }
            let mine = |token: &&TokenRecord| user.as_ref().is_none_or(|user| token.user == *user);
            let tokens = users.tokens().iter().filter(mine);
            match output {
                Form::Table => {
                    let row = |token: &TokenRecord| {
                        vec![
                            token.id.clone(),
                            token.user.clone(),
                            token.label.clone(),
                            token.created.to_string(),
                            token.expires.map_or_else(|| "never".to_owned(), |end| end.to_string()),
                            state(&users, token, now).to_owned(),
                        ]
                    };
                    let header = ["token", "user", "label", "created", "expires", "state"];
                    say(&table(&header, &tokens.map(row).collect::<Vec<_>>()))?;
                }
                Form::Json => {
                    let all: Vec<Value> = tokens.map(|token| described(&users, token, now)).collect();
                    say(&serde_json::to_string_pretty(&all)?)?;
                }
            }
        }
        Action::Revoke { id } => {
            let text = match users.revoke_token(id)? {
                true => format!("token {id} opens nothing any more"),
                false => format!("token {id} was taken back before"),
            };
            say(&text)?;
        }
    }
    Ok(Outcome::Done)
}

/// What a token is good for, in a word.
pub(super) fn state(users: &UserFile, token: &TokenRecord, now: Timestamp) -> &'static str {
    match users.get(&token.user) {
        _ if token.revoked.is_some() => "revoked",
        _ if token.expired(now) => "expired",
        Err(_) => "no user",
        Ok(user) if user.disabled() => "disabled",
        Ok(_) => "good",
    }
}

/// All there is to say of a token.
pub(super) fn described(users: &UserFile, token: &TokenRecord, now: Timestamp) -> Value {
    json!({
        "id": token.id, "user": token.user, "label": token.label, "created": token.created.to_string(),
        "expires": token.expires.map(|end| end.to_string()), "revoked": token.revoked.map(|when| when.to_string()),
        "state": state(users, token, now),
    })
}

/// When a token ends; `Some(None)`: never.
fn expiry(text: &str, now: Timestamp) -> Option<Option<Timestamp>> {
    const HOUR: i64 = 3_600 * MICROS_PER_SECOND;
    const UNITS: [(&str, i64); 3] = [("h", HOUR), ("d", 24 * HOUR), ("w", 7 * 24 * HOUR)];
    let text = text.trim();
    if text == "never" {
        return Some(None);
    }
    let span = UNITS.iter().find_map(|(unit, micros)| {
        let number: i64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        number.checked_mul(*micros)
    });
    let end = match span {
        Some(span) => Timestamp(now.0.checked_add(span)?),
        None => Timestamp::parse(text).ok()?,
    };
    (end > now && end <= crate::model::time::YEAR_9999_END).then_some(Some(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_spans_dates_or_never() {
        let at = |text: &str| Timestamp::parse(text).expect("a time");
        let now = at("2026-01-31T12:00:00Z");
        let cases = [
            ("never", Some(None)),
            ("12h", Some(Some(at("2026-02-01T00:00:00Z")))),
            ("1d", Some(Some(at("2026-02-01T12:00:00Z")))),
            (" 2w ", Some(Some(at("2026-02-14T12:00:00Z")))),
            ("2026-02-01", Some(Some(at("2026-02-01T00:00:00Z")))),
            ("2026-01-31", None),
            ("0d", None),
            ("-1d", None),
            ("90", None),
            ("9999999999999999d", None),
            ("99999999d", None),
            ("", None),
            ("soon", None),
        ];
        for (text, expected) in cases {
            assert_eq!(expiry(text, now), expected, "{text}");
        }
    }
}
