//! The users file: one JSON object a line, `{"name":…,"hash":…}`, the hash an Argon2id PHC string.
//!
//! Written whole to a new file that then takes the old one's place, so a reader sees either all of the old or all of the
//! new, and readable by its owner only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Serialize};

/// Longest user name, in bytes.
const MAX_NAME_BYTES: usize = 128;
/// Longest password, in bytes: hashing is not a way to keep the server busy.
pub(super) const MAX_PASSWORD_BYTES: usize = 1024;

/// A user and how to check the password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserRecord {
    pub(super) name: String,
    pub(super) hash: String,
}

impl std::fmt::Debug for UserRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserRecord").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The users of a server.
#[derive(Clone, Debug)]
pub struct UserFile {
    path: PathBuf,
    users: Vec<UserRecord>,
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
        let mut users: Vec<UserRecord> = Vec::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let bad_line = |reason: String| UserError::BadLine { path: path.to_owned(), line: index + 1, reason };
            // serde_json's own text may repeat parts of the line, and with them a hash: only its position is kept.
            let user: UserRecord = serde_json::from_str(line).map_err(|error| {
                bad_line(format!("not a `{{\"name\":…,\"hash\":…}}` object (column {})", error.column()))
            })?;
            check_name(&user.name).map_err(|error| bad_line(error.to_string()))?;
            PasswordHash::new(&user.hash).map_err(|_| bad_line("`hash` is not an Argon2 hash".to_owned()))?;
            if users.iter().any(|known| known.name == user.name) {
                return Err(bad_line(format!("user `{}` is there already", user.name)));
            }
            users.push(user);
        }
        Ok(Self { path: path.to_owned(), users })
    }

    /// Adds a user, or changes the password of one that is there; true when there was one. Saved before it returns.
    pub fn add(&mut self, name: &str, password: &str) -> Result<bool, UserError> {
        self.add_hashed(name, hash_password(password, Params::default())?)
    }

    pub(super) fn add_hashed(&mut self, name: &str, hash: String) -> Result<bool, UserError> {
        check_name(name)?;
        let before = self.users.len();
        let mut users: Vec<UserRecord> = self.users.iter().filter(|user| user.name != name).cloned().collect();
        let replaced = users.len() < before;
        users.push(UserRecord { name: name.to_owned(), hash });
        self.replace(users)?;
        Ok(replaced)
    }

    /// Removes a user. Saved before it returns.
    pub fn remove(&mut self, name: &str) -> Result<(), UserError> {
        let users: Vec<UserRecord> = self.users.iter().filter(|user| user.name != name).cloned().collect();
        if users.len() == self.users.len() {
            return Err(UserError::Unknown { name: name.to_owned(), path: self.path.clone() });
        }
        self.replace(users)
    }

    /// The names, in the order they were added.
    pub fn list(&self) -> impl Iterator<Item = &str> {
        self.users.iter().map(|user| user.name.as_str())
    }

    pub(super) fn into_records(self) -> Vec<UserRecord> {
        self.users
    }

    fn replace(&mut self, users: Vec<UserRecord>) -> Result<(), UserError> {
        write_whole(&self.path, &users).map_err(|source| UserError::Write { path: self.path.clone(), source })?;
        self.users = users;
        Ok(())
    }
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

fn write_whole(path: &Path, users: &[UserRecord]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", uuid::Uuid::new_v4().simple()));
    let fresh = folder.join(name);
    let written = write_new(&fresh, users).and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        // What matters is why writing failed; a left-over file is only untidy.
        let _ = fs::remove_file(&fresh);
    }
    written?;
    File::open(folder)?.sync_all()
}

fn write_new(path: &Path, users: &[UserRecord]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    for user in users {
        serde_json::to_writer(&mut file, user)?;
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
        assert_eq!(again.list().collect::<Vec<_>>(), ["Zoë", "ann"]);
        let hash = again.clone().into_records().remove(1).hash;
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
    fn bad_names_and_passwords_are_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let mut file = UserFile::load(&folder.path().join("users.json")).expect("no users");
        for name in ["", "a:b", "a\nb", &"x".repeat(129)] {
            assert!(matches!(file.add_hashed(name, String::new()), Err(UserError::BadName { .. })), "{name:?}");
        }
        for password in ["", &"x".repeat(1025)] {
            assert!(matches!(hash_password(password, cheap()), Err(UserError::BadPassword { .. })));
        }
    }

    #[test]
    fn bad_lines_are_named_without_their_content() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("users.json");
        let good =
            serde_json::to_string(&UserRecord { name: "ann".into(), hash: hash_password("x", cheap()).expect("hash") });
        let good = good.expect("json");
        for (text, line) in [
            ("{\"name\":\"ann\"}\n".to_owned(), 1),
            (format!("{good}\nsecret\n"), 2),
            (format!("\n{good}\n{good}\n"), 3),
            ("{\"name\":\"ann\",\"hash\":\"secret\"}".to_owned(), 1),
        ] {
            fs::write(&path, &text).expect("write");
            let error = UserFile::load(&path).expect_err("bad line");
            assert!(matches!(error, UserError::BadLine { line: at, .. } if at == line), "{error}");
            assert!(!error.to_string().contains("secret") && !error.to_string().contains("argon2id"), "{error}");
        }
    }
}
