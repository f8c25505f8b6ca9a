//! Secrets at rest: AES-256-GCM under a key in a file of its own.
//!
//! What is sealed is bound to a context, such as the source and the field it belongs to: a sealed password that is copied
//! to another source, whose server would then be sent it, does not open there. Whoever has both the store and the key
//! file has the secrets; the point is that a backup of the store, or a file that is mailed around, holds none.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use super::disk;

/// What every sealed text begins with.
const PREFIX: &str = "sealed:v1:";
/// What a key file holds before the key itself, which is in base64.
const KEY_PREFIX: &str = "taxiway-key:v1:";
const KEY_BYTES: usize = 32;
/// More than any key file has.
const MAX_FILE_BYTES: u64 = 4096;

/// Seals and opens with the key of one file.
pub struct Keyring {
    key: LessSafeKey,
    random: SystemRandom,
    path: PathBuf,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Why a key file cannot be used, or a secret not sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The file cannot be read.
    #[error("read key file `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be made.
    #[error("create key file `{}`", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read it.
    #[error("key file `{}` is open to others (mode {mode:04o}); run `chmod 600 {}`", path.display(), path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It holds something else.
    #[error(
        "key file `{}` holds no key of taxiway; restore it from a backup, or remove it to have a new one made and give the secrets of \
         all sources anew", path.display()
    )]
    BadKey {
        /// The file.
        path: PathBuf,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandom,
    /// The text was not made by sealing.
    #[error("a secret is not sealed as expected; give it anew")]
    NotSealed,
    /// Sealed with another key, for another place, or changed since.
    #[error(
        "a secret does not open with key file `{}`: it was sealed with another key or for another source; restore the key \
         file, or give the secret anew", path.display()
    )]
    WrongKey {
        /// The file of the key that was tried.
        path: PathBuf,
    },
}

impl Keyring {
    /// Reads the key file; one that is not there is made, readable by its owner only. Two processes that make it at the
    /// same time end up with one key.
    pub fn open_or_create(path: &Path) -> Result<Self, SealError> {
        let random = SystemRandom::new();
        let text = match read(path)? {
            Some(text) => text,
            None => {
                let mut key = [0; KEY_BYTES];
                random.fill(&mut key).map_err(|_| SealError::NoRandom)?;
                let text = format!("{KEY_PREFIX}{}\n", BASE64.encode(key));
                let made = disk::create_private(path, text.as_bytes());
                match made.map_err(|source| SealError::Create { path: path.to_owned(), source })? {
                    true => text,
                    false => read(path)?.ok_or_else(|| SealError::BadKey { path: path.to_owned() })?,
                }
            }
        };
        let bad = || SealError::BadKey { path: path.to_owned() };
        let key = text.trim().strip_prefix(KEY_PREFIX).ok_or_else(bad)?;
        let key = BASE64.decode(key).map_err(|_| bad())?;
        let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| bad())?;
        Ok(Self { key: LessSafeKey::new(key), random, path: path.to_owned() })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a text looks sealed.
    pub fn is_sealed(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// `sealed:v1:` and base64 of nonce, ciphertext and tag. Opens with the same `context` only.
    pub fn seal(&self, plain: &[u8], context: &str) -> Result<String, SealError> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| SealError::NoRandom)?;
        let mut sealed = plain.to_vec();
        let aad = Aad::from(context.as_bytes());
        // Fails only for more bytes than a cipher may take, which no memory holds.
        let tag = self.key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed);
        let tag = tag.map_err(|_| SealError::NotSealed)?;
        Ok(format!("{PREFIX}{}", BASE64.encode([nonce.as_slice(), &sealed, tag.as_ref()].concat())))
    }

    /// What was sealed.
    pub fn open(&self, sealed: &str, context: &str) -> Result<Vec<u8>, SealError> {
        let text = sealed.trim().strip_prefix(PREFIX).ok_or(SealError::NotSealed)?;
        let bytes = BASE64.decode(text).map_err(|_| SealError::NotSealed)?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>().ok_or(SealError::NotSealed)?;
        let mut opened = sealed.to_vec();
        let aad = Aad::from(context.as_bytes());
        let plain = self.key.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut opened);
        let length = plain.map_err(|_| SealError::WrongKey { path: self.path.clone() })?.len();
        opened.truncate(length);
        Ok(opened)
    }

    /// What was sealed, where that is text.
    pub fn open_text(&self, sealed: &str, context: &str) -> Result<String, SealError> {
        let plain = self.open(sealed, context)?;
        String::from_utf8(plain).map_err(|_| SealError::NotSealed)
    }
}

/// The content of a key file that others cannot read; `None` when there is none.
fn read(path: &Path) -> Result<Option<String>, SealError> {
    let failed = |source| SealError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    check_mode(path, &metadata)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    String::from_utf8(bytes).map(Some).map_err(|_| SealError::BadKey { path: path.to_owned() })
}

#[cfg(unix)]
fn check_mode(path: &Path, metadata: &fs::Metadata) -> Result<(), SealError> {
    use std::os::unix::fs::PermissionsExt;
    match metadata.permissions().mode() & 0o7777 {
        mode if mode & 0o077 == 0 => Ok(()),
        mode => Err(SealError::Open { path: path.to_owned(), mode }),
    }
}

#[cfg(not(unix))]
fn check_mode(_path: &Path, _metadata: &fs::Metadata) -> Result<(), SealError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    fn keyring(folder: &tempfile::TempDir) -> Keyring {
        Keyring::open_or_create(&folder.path().join("sources/key")).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_with_the_same_key_and_context_only() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mine, again, other) = (keyring(&here), keyring(&here), keyring(&there));
        let sealed = mine.seal(b"secret", "source 1, password").unwrap();
        assert!(Keyring::is_sealed(&sealed) && !sealed.contains("secret"));
        assert_eq!(again.open_text(&sealed, "source 1, password").unwrap(), "secret");
        assert_ne!(mine.seal(b"secret", "source 1, password").unwrap(), sealed, "never twice the same nonce");
        assert!(matches!(mine.open(&sealed, "source 2, password"), Err(SealError::WrongKey { .. })));
        assert!(matches!(other.open(&sealed, "source 1, password"), Err(SealError::WrongKey { .. })));
        let mut changed = BASE64.decode(sealed.strip_prefix(PREFIX).unwrap()).unwrap();
        for at in 0..changed.len() {
            changed[at] ^= 1;
            let text = format!("{PREFIX}{}", BASE64.encode(&changed));
            assert!(matches!(mine.open(&text, "source 1, password"), Err(SealError::WrongKey { .. })), "{at}");
            changed[at] ^= 1;
        }
        for text in
            ["", "secret", "sealed:v1:", "sealed:v1:!", "sealed:v1:AAAA", "sealed:v2:AAAAAAAAAAAAAAAAAAAAAAAAAAAA"]
        {
            assert!(matches!(mine.open(text, ""), Err(SealError::NotSealed)), "{text}");
        }
    }

    #[test]
    fn a_key_file_is_private_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = keyring(&folder).path().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        for broken in ["", "taxiway-key:v1:", "taxiway-key:v1:AAAA\n", &text[..text.len() - 5], "\u{0}"] {
            fs::write(&path, broken).unwrap();
            assert!(matches!(Keyring::open_or_create(&path), Err(SealError::BadKey { .. })), "{broken:?}");
        }
        fs::write(&path, b"\xff\xfe").unwrap();
        assert!(matches!(Keyring::open_or_create(&path), Err(SealError::BadKey { .. })));
        // As an editor may leave it.
        fs::write(&path, format!("{}\r\n\n", text.trim())).unwrap();
        Keyring::open_or_create(&path).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            for mode in [0o640, 0o604, 0o660, 0o644] {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                let error = Keyring::open_or_create(&path).unwrap_err().to_string();
                assert!(error.contains("chmod 600") && error.contains(&format!("{mode:04o}")), "{error}");
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
            Keyring::open_or_create(&path).unwrap();
        }
    }

    #[test]
    fn whoever_comes_at_once_gets_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let sealed: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| keyring(&folder).seal(b"secret", "here").unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let keyring = keyring(&folder);
        for text in sealed {
            assert_eq!(keyring.open(&text, "here").unwrap(), b"secret");
        }
    }

    #[test]
    fn anything_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let keyring = keyring(&folder);
        proptest!(|(plain in prop::collection::vec(any::<u8>(), 0..200), context in ".*", noise in ".*")| {
            let sealed = keyring.seal(&plain, &context).unwrap();
            assert_eq!(keyring.open(&sealed, &context).unwrap(), plain);
            let _ = keyring.open(&noise, &context);
            let _ = keyring.open(&format!("{PREFIX}{noise}"), &context);
        });
    }
}
