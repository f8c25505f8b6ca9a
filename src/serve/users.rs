//! The users file: one JSON object a line, a user `{"name":…,"hash":…,"groups":[…],"certificates":[…]}` or a token
//! `{"token":…,"user":…,"label":…,"digest":…,"created":…,"expires":…}`. The hash is an Argon2id PHC string, the digest the
//! SHA-256 of the token. Files that hold names and hashes only, as they once were, read as they did.
//!
//! Written whole to a new file that then takes the old one's place, so a reader sees either all of the old or all of the
//! new, and readable by its owner only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::time::Timestamp;
use crate::serve::rights::{ANONYMOUS, EVERYONE, USERS};
pub use crate::serve::tokens::NewToken;
use crate::serve::tokens::{Digest, is_id};

/// Longest user name, in bytes.
const MAX_NAME_BYTES: usize = 128;
/// Longest label of a token and name of a certificate, in bytes.
const MAX_TEXT_BYTES: usize = 512;
/// Longest password, in bytes: hashing is not a way to keep the server busy.
pub(super) const MAX_PASSWORD_BYTES: usize = 1024;
/// What a name of a certificate begins with.
const CERTIFICATE_NAMES: [&str; 5] = ["cn:", "dns:", "email:", "uri:", "sha256:"];

/// A user and how to know one.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserRecord {
    pub(super) name: String,
    /// `None`: the user comes by token or certificate only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hash: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) groups: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) certificates: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) disabled: bool,
}

impl UserRecord {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether there is a password.
    pub fn has_password(&self) -> bool {
        self.hash.is_some()
    }

    /// The groups the user is in, without `@`.
    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// Names of certificates that stand for the user.
    pub fn certificates(&self) -> &[String] {
        &self.certificates
    }

    /// Whether the user is not let in, whatever the proof.
    pub fn disabled(&self) -> bool {
        self.disabled
    }
}

impl std::fmt::Debug for UserRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, hash: _, groups, certificates, disabled } = self;
        f.debug_struct("UserRecord")
            .field("name", name)
            .field("groups", groups)
            .field("certificates", certificates)
            .field("disabled", disabled)
            .finish_non_exhaustive()
    }
}

/// A token of a user. Its text is not kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    /// Its id.
    #[serde(rename = "token")]
    pub id: String,
    /// Name of the user.
    pub user: String,
    /// What it was made for.
    pub label: String,
    #[serde(serialize_with = "write_digest", deserialize_with = "read_digest")]
    pub(super) digest: Digest,
    /// When it was made.
    #[serde(serialize_with = "write_time", deserialize_with = "read_time")]
    pub created: Timestamp,
    /// When it ends; `None`: never.
    #[serde(default, serialize_with = "write_optional_time", deserialize_with = "read_optional_time")]
    pub expires: Option<Timestamp>,
    /// When it was taken back.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "write_optional_time",
        deserialize_with = "read_optional_time"
    )]
    pub revoked: Option<Timestamp>,
}

impl TokenRecord {
    /// Whether it has ended by then.
    pub fn expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

fn write_digest<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&digest.to_hex())
}

fn read_digest<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
    let hex = String::deserialize(deserializer)?;
    Digest::parse(&hex).ok_or_else(|| serde::de::Error::custom("no SHA-256"))
}

fn write_time<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

fn read_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    Timestamp::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

fn write_optional_time<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.to_string()).serialize(serializer)
}

fn read_optional_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| Timestamp::parse(&text).map_err(serde::de::Error::custom)).transpose()
}

/// The users of a server and their tokens.
#[derive(Clone, Debug)]
pub struct UserFile {
    path: PathBuf,
    users: Vec<UserRecord>,
    tokens: Vec<TokenRecord>,
}

/// What to do with a user's password.
#[derive(Clone, Default)]
pub enum Password {
    /// Leave it.
    #[default]
    Keep,
    /// Have none.
    Remove,
    /// Have this one.
    Set(String),
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Password::Keep => "Keep",
            Password::Remove => "Remove",
            Password::Set(_) => "Set",
        })
    }
}

/// What to do with a user; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct UserChange {
    /// The password.
    pub password: Password,
    /// All groups.
    pub groups: Option<Vec<String>>,
    /// All names of certificates.
    pub certificates: Option<Vec<String>>,
    /// Whether to let the user in no more.
    pub disabled: Option<bool>,
}

/// Why a users file cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The file cannot be read.
    #[error("read users file `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is not a user.
    #[error("users file `{}`, line {line}: {reason}; repair the line or add the user again", path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The file cannot be written.
    #[error("write users file `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The name cannot be used.
    #[error("`{name}` cannot be a user name: it {reason}")]
    BadName {
        /// As given.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The name of a group cannot be used.
    #[error("`{name}` cannot be a group: it {reason}")]
    BadGroup {
        /// As given.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The name of a certificate cannot be used.
    #[error("`{name}` cannot be the name of a certificate: it {reason}")]
    BadCertificate {
        /// As given.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The certificate stands for somebody else.
    #[error("certificate `{certificate}` is that of user `{user}`; take it from there first")]
    TakenCertificate {
        /// Its name.
        certificate: String,
        /// Whose it is.
        user: String,
    },
    /// The label of a token cannot be used.
    #[error("`{label}` cannot be the label of a token: it {reason}")]
    BadLabel {
        /// As given.
        label: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// There is no such token.
    #[error("there is no token `{id}` in `{}`; `taxiway token list` shows them", path.display())]
    UnknownToken {
        /// As given.
        id: String,
        /// The file.
        path: PathBuf,
    },
    /// The password cannot be used.
    #[error("this password cannot be used: it {reason}")]
    BadPassword {
        /// The rule it breaks.
        reason: &'static str,
    },
    /// There is no such user.
    #[error("there is no user `{name}` in `{}`; `taxiway user list` shows them", path.display())]
    Unknown {
        /// As given.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// The password could not be hashed.
    #[error("hash the password: {reason}")]
    Hash {
        /// What the hashing said.
        reason: String,
    },
}

impl UserFile {
    /// Reads the file; one that does not exist holds no user.
    pub fn load(path: &Path) -> Result<Self, UserError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(UserError::Read { path: path.to_owned(), source }),
        };
        let mut file = Self { path: path.to_owned(), users: Vec::new(), tokens: Vec::new() };
        let mut names = BTreeSet::new();
        let mut certificates = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let bad_line = |reason: String| UserError::BadLine { path: path.to_owned(), line: index + 1, reason };
            match parse_line(line).map_err(bad_line)? {
                Line::User(user) => {
                    if !names.insert(user.name.clone()) {
                        return Err(bad_line(format!("user `{}` is there already", user.name)));
                    }
                    for certificate in &user.certificates {
                        if !certificates.insert(certificate.clone()) {
                            return Err(bad_line(format!("certificate `{certificate}` is that of another user")));
                        }
                    }
                    file.users.push(user);
                }
                Line::Token(token) => {
                    if !ids.insert(token.id.clone()) {
                        return Err(bad_line(format!("token `{}` is there already", token.id)));
                    }
                    file.tokens.push(token);
                }
            }
        }
        Ok(file)
    }

    /// Adds a user, or changes one that is there; true when there was one. Saved before it returns.
    pub fn put(&mut self, name: &str, change: UserChange) -> Result<bool, UserError> {
        let hash = match change.password {
            Password::Keep => None,
            Password::Remove => Some(None),
            Password::Set(password) => Some(Some(hash_password(&password, Params::default())?)),
        };
        self.put_hashed(name, hash, change.groups, change.certificates, change.disabled)
    }

    /// Adds a user, or changes the password of one that is there; true when there was one. Saved before it returns.
    pub fn add(&mut self, name: &str, password: &str) -> Result<bool, UserError> {
        self.put(name, UserChange { password: Password::Set(password.to_owned()), ..UserChange::default() })
    }

    /// Changes a user who is there. Saved before it returns.
    pub fn change(&mut self, name: &str, change: UserChange) -> Result<(), UserError> {
        self.get(name)?;
        self.put(name, change).map(|_| ())
    }

    #[cfg(test)]
    pub(super) fn add_hashed(&mut self, name: &str, hash: String) -> Result<bool, UserError> {
        self.put_hashed(name, Some(Some(hash)), None, None, None)
    }

    fn put_hashed(
        &mut self,
        name: &str,
        hash: Option<Option<String>>,
        groups: Option<Vec<String>>,
        certificates: Option<Vec<String>>,
        disabled: Option<bool>,
    ) -> Result<bool, UserError> {
        let at = self.users.iter().position(|user| user.name == name);
        let mut user = match at.and_then(|at| self.users.get(at)) {
            Some(user) => user.clone(),
            None => {
                check_new_name(name)?;
                UserRecord {
                    name: name.to_owned(),
                    hash: None,
                    groups: Vec::new(),
                    certificates: Vec::new(),
                    disabled: false,
                }
            }
        };
        if let Some(hash) = hash {
            user.hash = hash;
        }
        if let Some(groups) = groups {
            let groups: Result<BTreeSet<String>, UserError> = groups.iter().map(|group| group_name(group)).collect();
            user.groups = groups?.into_iter().collect();
        }
        if let Some(certificates) = certificates {
            let names: Result<BTreeSet<String>, UserError> =
                certificates.iter().map(|name| certificate_name(name)).collect();
            user.certificates = names?.into_iter().collect();
            for other in self.users.iter().filter(|other| other.name != name) {
                if let Some(shared) = other.certificates.iter().find(|name| user.certificates.contains(name)) {
                    return Err(UserError::TakenCertificate { certificate: shared.clone(), user: other.name.clone() });
                }
            }
        }
        user.disabled = disabled.unwrap_or(user.disabled);
        let mut users = self.users.clone();
        match at.and_then(|at| users.get_mut(at)) {
            Some(place) => *place = user,
            None => users.push(user),
        }
        self.replace(users, self.tokens.clone())?;
        Ok(at.is_some())
    }

    /// Removes a user and the user's tokens. Saved before it returns.
    pub fn remove(&mut self, name: &str) -> Result<(), UserError> {
        self.get(name)?;
        let users = self.users.iter().filter(|user| user.name != name).cloned().collect();
        let tokens = self.tokens.iter().filter(|token| token.user != name).cloned().collect();
        self.replace(users, tokens)
    }

    /// Makes a token for a user. Saved before it returns.
    pub fn add_token(&mut self, user: &str, label: &str, expires: Option<Timestamp>) -> Result<NewToken, UserError> {
        self.get(user)?;
        let label = label.trim();
        check_text(label).map_err(|reason| UserError::BadLabel { label: label.escape_debug().to_string(), reason })?;
        let made = NewToken::make();
        let mut tokens = self.tokens.clone();
        tokens.push(TokenRecord {
            id: made.id.clone(),
            user: user.to_owned(),
            label: label.to_owned(),
            digest: Digest::of(&made.text),
            created: Timestamp::now(),
            expires,
            revoked: None,
        });
        self.replace(self.users.clone(), tokens)?;
        Ok(made)
    }

    /// Takes a token back, for good; false when it was already. Saved before it returns.
    pub fn revoke_token(&mut self, id: &str) -> Result<bool, UserError> {
        let mut tokens = self.tokens.clone();
        let Some(token) = tokens.iter_mut().find(|token| token.id == id) else {
            return Err(UserError::UnknownToken { id: id.escape_debug().to_string(), path: self.path.clone() });
        };
        if token.revoked.is_some() {
            return Ok(false);
        }
        token.revoked = Some(Timestamp::now());
        self.replace(self.users.clone(), tokens)?;
        Ok(true)
    }

    /// The names, in the order they were added.
    pub fn list(&self) -> impl Iterator<Item = &str> {
        self.users.iter().map(|user| user.name.as_str())
    }

    /// The users, in the order they were added.
    pub fn users(&self) -> &[UserRecord] {
        &self.users
    }

    /// The tokens, in the order they were made.
    pub fn tokens(&self) -> &[TokenRecord] {
        &self.tokens
    }

    /// Each group with its members.
    pub fn groups(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for user in &self.users {
            for group in &user.groups {
                groups.entry(group).or_default().push(&user.name);
            }
        }
        groups
    }

    /// The user of that name.
    pub fn get(&self, name: &str) -> Result<&UserRecord, UserError> {
        let unknown = || UserError::Unknown { name: name.escape_debug().to_string(), path: self.path.clone() };
        self.users.iter().find(|user| user.name == name).ok_or_else(unknown)
    }

    fn replace(&mut self, users: Vec<UserRecord>, tokens: Vec<TokenRecord>) -> Result<(), UserError> {
        write_whole(&self.path, &users, &tokens)
            .map_err(|source| UserError::Write { path: self.path.clone(), source })?;
        (self.users, self.tokens) = (users, tokens);
        Ok(())
    }
}

enum Line {
    User(UserRecord),
    Token(TokenRecord),
}

/// Tells the lines of tokens from those of users.
#[derive(Deserialize)]
struct Kind {
    token: Option<IgnoredAny>,
}

/// One line; the error does not repeat any of it but names.
fn parse_line(line: &str) -> Result<Line, String> {
    // serde_json's own text may repeat parts of the line, and with them a hash: only its position is kept.
    let not = |what: &str, error: &serde_json::Error| format!("not a {what} object (column {})", error.column());
    let kind: Kind = serde_json::from_str(line).map_err(|error| not("JSON", &error))?;
    if kind.token.is_some() {
        let token: TokenRecord = serde_json::from_str(line).map_err(|error| {
            not("`{\"token\":…,\"user\":…,\"label\":…,\"digest\":…,\"created\":…,\"expires\":…}`", &error)
        })?;
        if !is_id(&token.id) {
            return Err("`token` is not the id of a token".to_owned());
        }
        return Ok(Line::Token(token));
    }
    let mut user: UserRecord = serde_json::from_str(line).map_err(|error| not("`{\"name\":…,\"hash\":…}`", &error))?;
    check_name(&user.name).map_err(|error| error.to_string())?;
    if user.hash.as_ref().is_some_and(|hash| PasswordHash::new(hash).is_err()) {
        return Err("`hash` is not an Argon2 hash".to_owned());
    }
    for group in &mut user.groups {
        *group = group_name(group).map_err(|error| error.to_string())?;
    }
    for name in &mut user.certificates {
        *name = certificate_name(name).map_err(|error| error.to_string())?;
    }
    Ok(Line::User(user))
}

fn check_name(name: &str) -> Result<(), UserError> {
    let reason = if name.is_empty() {
        "is empty"
    } else if name.len() > MAX_NAME_BYTES {
        "is longer than 128 bytes"
    } else if name.contains(':') {
        "holds `:`, which ends the name in HTTP Basic credentials"
    } else if name.chars().any(char::is_control) {
        "holds control characters"
    } else {
        return Ok(());
    };
    Err(UserError::BadName { name: name.escape_debug().to_string(), reason })
}

/// Names that mean something else in the lists of the configuration are given to nobody any more.
fn check_new_name(name: &str) -> Result<(), UserError> {
    check_name(name)?;
    let reason = match name {
        ANONYMOUS | EVERYONE => "stands for others in the lists of the configuration",
        name if name.starts_with('@') => "begins with `@`, as groups do",
        name if name.trim() != name => "begins or ends with a blank",
        _ => return Ok(()),
    };
    Err(UserError::BadName { name: name.escape_debug().to_string(), reason })
}

/// The group's name without its `@`.
fn group_name(text: &str) -> Result<String, UserError> {
    let name = text.strip_prefix('@').unwrap_or(text);
    let bad = |reason| UserError::BadGroup { name: text.escape_debug().to_string(), reason };
    if USERS.strip_prefix('@') == Some(name) {
        return Err(bad("stands for every user in the lists of the configuration"));
    }
    match check_new_name(name) {
        Ok(()) => Ok(name.to_owned()),
        Err(UserError::BadName { reason, .. }) => Err(bad(reason)),
        Err(error) => Err(error),
    }
}

/// The name as a connection's certificate gives it.
fn certificate_name(text: &str) -> Result<String, UserError> {
    let text = text.trim();
    let bad = |reason| UserError::BadCertificate { name: text.escape_debug().to_string(), reason };
    check_text(text).map_err(bad)?;
    let lower = text.to_ascii_lowercase();
    if !CERTIFICATE_NAMES.iter().any(|kind| lower.strip_prefix(kind).is_some_and(|rest| !rest.trim().is_empty())) {
        return Err(bad("is not `cn:`, `dns:`, `email:`, `uri:` or `sha256:` and a name"));
    }
    let (kind, name) = text.split_once(':').unwrap_or((text, ""));
    let kind = kind.to_ascii_lowercase();
    Ok(match kind.as_str() {
        // As tools print fingerprints, too.
        "sha256" => {
            let digits = name.replace([':', ' '], "").to_ascii_lowercase();
            if Digest::parse(&digits).is_none() {
                return Err(bad("is not `sha256:` and the 64 hexadecimal digits of the certificate's fingerprint"));
            }
            format!("sha256:{digits}")
        }
        "dns" => format!("dns:{}", name.trim().to_ascii_lowercase()),
        kind => format!("{kind}:{}", name.trim()),
    })
}

fn check_text(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        Err("is empty")
    } else if text.len() > MAX_TEXT_BYTES {
        Err("is longer than 512 bytes")
    } else if text.chars().any(char::is_control) {
        Err("holds control characters")
    } else {
        Ok(())
    }
}

fn write_whole(path: &Path, users: &[UserRecord], tokens: &[TokenRecord]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", uuid::Uuid::new_v4().simple()));
    let fresh = folder.join(name);
    let written = write_new(&fresh, users, tokens).and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        // What matters is why writing failed; a left-over file is only untidy.
        let _ = fs::remove_file(&fresh);
    }
    written?;
    File::open(folder)?.sync_all()
}

fn write_new(path: &Path, users: &[UserRecord], tokens: &[TokenRecord]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    for user in users {
        serde_json::to_writer(&mut file, user)?;
        file.write_all(b"\n")?;
    }
    for token in tokens {
        serde_json::to_writer(&mut file, token)?;
        file.write_all(b"\n")?;
    }
    file.sync_all()
}

pub(super) fn hash_password(password: &str, params: Params) -> Result<String, UserError> {
    if password.is_empty() {
        return Err(UserError::BadPassword { reason: "is empty" });
    }
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(UserError::BadPassword { reason: "is longer than 1024 bytes" });
    }
    let salt = SaltString::generate(&mut OsRng);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password(password.as_bytes(), &salt)
        .map(|hash| hash.to_string())
        .map_err(|error| UserError::Hash { reason: error.to_string() })
}

/// Whether `hash` is that of `password`. Takes tens of milliseconds and of MiB: keep off the async threads.
pub(super) fn verify_password(hash: &str, password: &[u8]) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cheap() -> Params {
        Params::new(Params::MIN_M_COST, 1, 1, None).expect("parameters")
    }

    #[test]
    fn users_are_added_changed_listed_and_removed() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("store/users.json");
        let mut file = UserFile::load(&path).expect("no file, no users");
        assert_eq!(file.list().count(), 0);
        assert!(!file.add_hashed("ann", hash_password("one", cheap()).expect("hash")).expect("add"));
        assert!(!file.add_hashed("Zoë", hash_password("two", cheap()).expect("hash")).expect("add"));
        assert!(file.add_hashed("ann", hash_password("three", cheap()).expect("hash")).expect("change"));

        let mut again = UserFile::load(&path).expect("reads back");
        assert_eq!(again.list().collect::<Vec<_>>(), ["ann", "Zoë"]);
        let hash = again.get("ann").expect("is there").hash.clone().expect("a hash");
        assert!(hash.starts_with("$argon2id$v=19$"));
        assert!(verify_password(&hash, b"three") && !verify_password(&hash, b"one"));

        again.remove("Zoë").expect("remove");
        assert!(matches!(again.remove("Zoë"), Err(UserError::Unknown { .. })));
        assert_eq!(UserFile::load(&path).expect("reads back").list().collect::<Vec<_>>(), ["ann"]);
        assert_eq!(fs::read_dir(folder.path().join("store")).expect("folder").count(), 1, "no file is left over");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn groups_certificates_and_tokens_are_kept() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("users.json");
        let mut file = UserFile::load(&path).expect("no users");
        let texts = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<String>>());
        let digest = "AB:".repeat(31) + "AB";
        let change = UserChange {
            groups: texts(&["soc", "@partners", "soc"]),
            certificates: texts(&["CN:Ann Example", "dns:Host.Example", &format!("SHA256:{digest}")]),
            ..UserChange::default()
        };
        assert!(!file.put("ann", change).expect("added"));
        let never = file.add_token("ann", " siem ", None).expect("a token");
        let ending = file.add_token("ann", "script", Some(Timestamp(5))).expect("a token");
        assert!(matches!(file.add_token("bob", "x", None), Err(UserError::Unknown { .. })));
        for label in ["", " ", "a\nb", &"x".repeat(513)] {
            assert!(matches!(file.add_token("ann", label, None), Err(UserError::BadLabel { .. })), "{label:?}");
        }
        assert!(file.revoke_token(&never.id).expect("is there"));
        assert!(!file.revoke_token(&never.id).expect("is there"));
        assert!(matches!(file.revoke_token("0"), Err(UserError::UnknownToken { .. })));
        file.change("ann", UserChange { disabled: Some(true), ..UserChange::default() }).expect("changed");
        file.put("bob", UserChange { groups: texts(&["soc"]), ..UserChange::default() }).expect("added");

        let written = fs::read_to_string(&path).expect("written");
        assert!(!written.contains(&never.text) && !written.contains(&ending.text));
        assert!(written.contains("\"expires\":null") && written.contains("1970-01-01T00:00:00.000005Z"), "{written}");
        let mut read = UserFile::load(&path).expect("reads back");
        let ann = read.get("ann").expect("is there").clone();
        assert_eq!((ann.has_password(), ann.disabled()), (false, true));
        assert_eq!(ann.groups(), ["partners", "soc"]);
        let fingerprint = format!("sha256:{}", "ab".repeat(32));
        assert_eq!(ann.certificates(), ["cn:Ann Example", "dns:host.example", &fingerprint]);
        assert_eq!(read.groups().get("soc"), Some(&vec!["ann", "bob"]));
        let facts = |token: &TokenRecord| (token.label.clone(), token.expires, token.revoked.is_some());
        let tokens: Vec<_> = read.tokens().iter().map(facts).collect();
        assert_eq!(tokens, [("siem".into(), None, true), ("script".into(), Some(Timestamp(5)), false)]);
        assert!(read.tokens()[0].digest.is(Digest::of(&never.text)));
        assert!(!format!("{read:?}").contains(&Digest::of(&never.text).to_hex()));

        // Nobody gets a certificate that is somebody's, and tokens go with their user.
        let taken = UserChange { certificates: texts(&["DNS:host.example"]), ..UserChange::default() };
        let error = read.put("bob", taken).expect_err("taken");
        assert!(matches!(error, UserError::TakenCertificate { ref user, .. } if user == "ann"), "{error}");
        assert!(matches!(read.change("eve", UserChange::default()), Err(UserError::Unknown { .. })));
        read.remove("ann").expect("remove");
        assert_eq!((read.users().len(), read.tokens().len()), (1, 0));
    }

    #[test]
    fn bad_names_and_passwords_are_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let mut file = UserFile::load(&folder.path().join("users.json")).expect("no users");
        for name in ["", "a:b", "a\nb", &"x".repeat(129), "@soc", "anonymous", "*", " ann"] {
            assert!(matches!(file.add_hashed(name, String::new()), Err(UserError::BadName { .. })), "{name:?}");
        }
        for password in ["", &"x".repeat(1025)] {
            assert!(matches!(hash_password(password, cheap()), Err(UserError::BadPassword { .. })));
        }
        for group in ["", "@", "@users", "users", "*", "anonymous", "a:b", "@@soc", "a\nb"] {
            let change = UserChange { groups: Some(vec![group.to_owned()]), ..UserChange::default() };
            assert!(matches!(file.put("ann", change), Err(UserError::BadGroup { .. })), "{group:?}");
        }
        for name in ["", "cn:", "cn: ", "ann", "ou:x", "sha256:12", "cn:a\nb"] {
            let change = UserChange { certificates: Some(vec![name.to_owned()]), ..UserChange::default() };
            assert!(matches!(file.put("ann", change), Err(UserError::BadCertificate { .. })), "{name:?}");
        }
        assert_eq!(file.list().count(), 0);
    }

    #[test]
    fn bad_lines_are_named_without_their_content() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("users.json");
        let good = format!("{{\"name\":\"ann\",\"hash\":\"{}\"}}", hash_password("x", cheap()).expect("hash"));
        let token = |id: &str, digest: &str| {
            format!(
                "{{\"token\":\"{id}\",\"user\":\"ann\",\"label\":\"l\",\"digest\":\"{digest}\",\
                 \"created\":\"2024-01-01T00:00:00Z\",\"expires\":null}}"
            )
        };
        let (id, digest) = ("0123456789ab", "5ec4e7".repeat(11)[..64].to_owned());
        let with = |more: &str| format!("{{\"name\":\"bob\",{more}}}");
        // As it was before there was more than names and hashes, and all there can be.
        for text in [good.clone(), format!("{good}\n{}\n{}", with("\"groups\":[\"@soc\"]"), token(id, &digest))] {
            fs::write(&path, &text).expect("write");
            UserFile::load(&path).expect("reads");
        }
        for (text, line) in [
            (format!("{good}\nsecret\n"), 2),
            (format!("\n{good}\n{good}\n"), 3),
            ("{\"name\":\"ann\",\"hash\":\"secret\"}".to_owned(), 1),
            ("{\"hash\":\"secret\"}".to_owned(), 1),
            (with("\"secret\":1"), 1),
            (with("\"groups\":[\"users\"]"), 1),
            (with("\"certificates\":[\"ann\"]"), 1),
            (
                format!(
                    "{}\n{}",
                    with("\"certificates\":[\"cn:x\"]"),
                    good.replace('}', ",\"certificates\":[\"cn:x\"]}")
                ),
                2,
            ),
            (token("short", &digest), 1),
            (token(id, "5ec4e7"), 1),
            (token(id, &digest).replace("2024", "secret"), 1),
            (format!("{}\n{}", token(id, &digest), token(id, &digest)), 2),
        ] {
            fs::write(&path, &text).expect("write");
            let error = UserFile::load(&path).expect_err("bad line");
            assert!(matches!(error, UserError::BadLine { line: at, .. } if at == line), "{error}: {text}");
            let said = error.to_string();
            assert!(!["secret", "argon2id", "5ec4e7"].iter().any(|word| said.contains(word)), "{error}");
        }
    }
}
