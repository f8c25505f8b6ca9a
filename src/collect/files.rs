//! Files that were uploaded: certificates and keys, which are kept sealed, and packages, which are kept as they came and
//! never looked into.
//!
//! Each lies in the storage of one pool of installations, or in the public one: `sources/files/certificates/public/NAME`,
//! `sources/files/packages/private/POOL/NAME`. A file is replaced whole. Pools and names come from outside; what could lead
//! out of its folder, or hide in it, is refused.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::disk;
use super::seal::{Keyring, SealError};

/// Largest certificate or key, in bytes.
pub const MAX_CERTIFICATE_BYTES: usize = 1 << 20;
/// Most files of a kind in one storage.
const MAX_FILES: usize = 1_000;
/// Longest name of a file, in bytes.
const MAX_NAME_BYTES: usize = 200;
/// Longest name of a pool or installation, in bytes.
const MAX_LABEL_BYTES: usize = 128;
/// Left-over files of uploads that were cut off are younger than this while they are being written.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A certificate or private key.
    Certificate,
    /// An application package.
    Package,
}

impl Kind {
    fn folder(self) -> &'static str {
        match self {
            Kind::Certificate => "certificates",
            Kind::Package => "packages",
        }
    }
}

/// Whose file it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Every pool's.
    Public,
    /// That pool's.
    Private(String),
}

impl Storage {
    /// `private` or `public`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Storage::Public => "public",
            Storage::Private(_) => "private",
        }
    }
}

/// Why a file cannot be kept or had.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The name cannot be used.
    #[error("`{name}` cannot be the name of a file: it {reason}")]
    BadName {
        /// As given, cut.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// There is no such file.
    #[error("there is no file `{name}` in {storage} storage")]
    Unknown {
        /// As given.
        name: String,
        /// `private` or `public`.
        storage: &'static str,
    },
    /// It is too large.
    #[error("`{name}` has more than the {most} bytes that are taken")]
    TooLarge {
        /// Its name.
        name: String,
        /// The most.
        most: u64,
    },
    /// There are too many.
    #[error("there are {MAX_FILES} files in {storage} storage; delete some of them first")]
    TooMany {
        /// `private` or `public`.
        storage: &'static str,
    },
    /// The disk said no.
    #[error("{action} `{}`", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key file cannot be used, or does not open the file.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl FileError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| FileError::Io { action, path, source }
    }
}

/// The uploaded files of a store.
#[derive(Clone, Debug)]
pub struct Files {
    folder: PathBuf,
}

impl Files {
    /// Those below the folder of sources.
    pub fn new(sources: &Path) -> Self {
        Self { folder: sources.join("files") }
    }

    /// Names, ascending.
    pub fn list(&self, kind: Kind, storage: &Storage) -> Result<Vec<String>, FileError> {
        let folder = self.place(kind, storage)?;
        let failed = |source| FileError::io("list", &folder)(source);
        let mut names = Vec::new();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            // What begins with a dot is not whole yet.
            if let Ok(name) = entry.file_name().into_string()
                && check_name(&name).is_ok()
                && entry.file_type().map_err(failed)?.is_file()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The name as the file has it, for packages in any case: scripts write them as they like.
    pub fn find(&self, kind: Kind, storage: &Storage, name: &str) -> Result<String, FileError> {
        let names = self.list(kind, storage)?;
        if names.iter().any(|known| known == name) {
            return Ok(name.to_owned());
        }
        let mut alike = names.into_iter().filter(|known| known.eq_ignore_ascii_case(name));
        match (alike.next(), alike.next()) {
            (Some(found), None) if kind == Kind::Package => Ok(found),
            _ => Err(unknown(name, storage)),
        }
    }

    /// Keeps a certificate or key, in place of one of that name. On disk when this returns.
    pub fn put_certificate(
        &self,
        keyring: &Keyring,
        storage: &Storage,
        name: &str,
        bytes: &[u8],
    ) -> Result<(), FileError> {
        let path = self.path_for_new(Kind::Certificate, storage, name)?;
        if bytes.len() > MAX_CERTIFICATE_BYTES {
            return Err(FileError::TooLarge { name: name.to_owned(), most: MAX_CERTIFICATE_BYTES as u64 });
        }
        let sealed = keyring.seal(bytes, &context(storage, name))?;
        disk::replace_private(&path, sealed.as_bytes()).map_err(FileError::io("write", &path))
    }

    /// What a certificate or key holds.
    pub fn certificate(&self, keyring: &Keyring, storage: &Storage, name: &str) -> Result<Vec<u8>, FileError> {
        check_name(name).map_err(|reason| bad_name(name, reason))?;
        let path = self.place(Kind::Certificate, storage)?.join(name);
        match fs::read_to_string(&path) {
            Ok(sealed) => Ok(keyring.open(&sealed, &context(storage, name))?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(unknown(name, storage)),
            Err(error) => Err(FileError::io("read", &path)(error)),
        }
    }

    /// Begins to keep a package of at most so many bytes.
    pub fn package(&self, storage: &Storage, name: &str, most: u64) -> Result<Incoming, FileError> {
        let path = self.path_for_new(Kind::Package, storage, name)?;
        let folder = self.place(Kind::Package, storage)?;
        disk::create_folder(&folder).map_err(FileError::io("create", &folder))?;
        let fresh = folder.join(format!(".{name}.{}.new", uuid::Uuid::new_v4().simple()));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&fresh).map_err(FileError::io("create", &fresh))?;
        let digest = Sha256::new();
        Ok(Incoming { file: Some(file), name: name.to_owned(), fresh, path, bytes: 0, most, digest })
    }

    /// Size and SHA-256 of a package.
    pub fn describe(&self, storage: &Storage, name: &str) -> Result<(u64, String), FileError> {
        check_name(name).map_err(|reason| bad_name(name, reason))?;
        let path = self.place(Kind::Package, storage)?.join(name);
        let failed = |source| FileError::io("read", &path)(source);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(unknown(name, storage)),
            Err(error) => return Err(failed(error)),
        };
        let mut digest = Sha256::new();
        let bytes = io::copy(&mut file, &mut digest).map_err(failed)?;
        Ok((bytes, hex(&digest.finalize())))
    }

    /// Deletes a file for good.
    pub fn remove(&self, kind: Kind, storage: &Storage, name: &str) -> Result<(), FileError> {
        check_name(name).map_err(|reason| bad_name(name, reason))?;
        let path = self.place(kind, storage)?.join(name);
        match disk::remove(&path).map_err(FileError::io("delete", &path))? {
            true => Ok(()),
            false => Err(unknown(name, storage)),
        }
    }

    /// Removes what uploads left over that were cut off by a kill, a day ago and more.
    pub fn tidy(&self) -> io::Result<()> {
        tidy_below(&self.folder, SystemTime::now(), 4)
    }

    fn path_for_new(&self, kind: Kind, storage: &Storage, name: &str) -> Result<PathBuf, FileError> {
        check_name(name).map_err(|reason| bad_name(name, reason))?;
        let names = self.list(kind, storage)?;
        if names.len() >= MAX_FILES && !names.iter().any(|known| known == name) {
            return Err(FileError::TooMany { storage: storage.as_str() });
        }
        Ok(self.place(kind, storage)?.join(name))
    }

    fn place(&self, kind: Kind, storage: &Storage) -> Result<PathBuf, FileError> {
        let folder = self.folder.join(kind.folder()).join(storage.as_str());
        match storage {
            Storage::Public => Ok(folder),
            Storage::Private(pool) => {
                check_label(pool).map_err(|reason| bad_name(pool, reason))?;
                Ok(folder.join(pool))
            }
        }
    }
}

/// A package on its way. Dropping it before [`Incoming::finish`] leaves nothing of it.
#[derive(Debug)]
pub struct Incoming {
    /// `None`: finished.
    file: Option<File>,
    name: String,
    fresh: PathBuf,
    path: PathBuf,
    bytes: u64,
    most: u64,
    digest: Sha256,
}

impl Incoming {
    /// Takes the next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.most {
            return Err(FileError::TooLarge { name: self.name.clone(), most: self.most });
        }
        self.digest.update(bytes);
        match &mut self.file {
            Some(file) => file.write_all(bytes).map_err(FileError::io("write", &self.fresh)),
            None => Ok(()),
        }
    }

    /// Puts it in its place, instead of one of that name; gives its size and SHA-256. On disk when this returns.
    pub fn finish(mut self) -> Result<(u64, String), FileError> {
        if let Some(file) = self.file.take() {
            let placed = file.sync_all().and_then(|()| fs::rename(&self.fresh, &self.path));
            if let Err(error) = placed {
                let _ = fs::remove_file(&self.fresh);
                return Err(FileError::io("write", &self.path)(error));
            }
            let folder = self.path.parent().unwrap_or(Path::new("."));
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(FileError::io("write", folder))?;
        }
        Ok((self.bytes, hex(&self.digest.finalize_reset())))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = fs::remove_file(&self.fresh);
        }
    }
}

fn tidy_below(folder: &Path, now: SystemTime, depth: usize) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if kind.is_dir() && depth > 0 {
            tidy_below(&entry.path(), now, depth - 1)?;
        } else if kind.is_file() && name.starts_with('.') && name.ends_with(".new") {
            let age = now.duration_since(entry.metadata()?.modified()?).unwrap_or_default();
            if age > ABANDONED {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// A sealed file opens only in its own place.
fn context(storage: &Storage, name: &str) -> String {
    match storage {
        Storage::Public => format!("certificate public/{name}"),
        Storage::Private(pool) => format!("certificate private/{pool}/{name}"),
    }
}

fn unknown(name: &str, storage: &Storage) -> FileError {
    FileError::Unknown { name: cut(name), storage: storage.as_str() }
}

fn bad_name(name: &str, reason: &'static str) -> FileError {
    FileError::BadName { name: cut(name), reason }
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_NAME_BYTES).flat_map(char::escape_debug).collect()
}

/// Whether a file may have that name; the error finishes a sentence.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        Err("is empty")
    } else if name.len() > MAX_NAME_BYTES {
        Err("is longer than 200 bytes")
    } else if name.starts_with('.') {
        Err("begins with a dot")
    } else if name.trim() != name {
        Err("begins or ends with a blank")
    } else if name.contains(['/', '\\', ':', '*', '?', '"', '<', '>', '|']) || name.chars().any(char::is_control) {
        Err("holds one of `/ \\ : * ? \" < > |` or a control character")
    } else {
        Ok(())
    }
}

/// Whether a pool or an installation may be called that; the error finishes a sentence.
pub fn check_label(label: &str) -> Result<(), &'static str> {
    if label.is_empty() {
        Err("is empty")
    } else if label.len() > MAX_LABEL_BYTES {
        Err("is longer than 128 bytes")
    } else if label.starts_with('.')
        || !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    {
        Err("is not of letters, digits and `-_.` alone")
    } else {
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, prop_oneof, proptest};

    use super::*;

    fn pool(name: &str) -> Storage {
        Storage::Private(name.to_owned())
    }

    struct Here {
        folder: tempfile::TempDir,
        keyring: Keyring,
        files: Files,
    }

    fn here() -> Here {
        let folder = tempfile::tempdir().unwrap();
        let keyring = Keyring::open_or_create(&folder.path().join("key")).unwrap();
        let files = Files::new(folder.path());
        Here { folder, keyring, files }
    }

    fn upload(files: &Files, storage: &Storage, name: &str, bytes: &[u8]) -> Result<(u64, String), FileError> {
        let mut incoming = files.package(storage, name, 100)?;
        for piece in bytes.chunks(7) {
            incoming.write(piece)?;
        }
        incoming.finish()
    }

    #[test]
    fn certificates_are_sealed_in_a_storage_of_their_own() {
        let Here { folder, keyring, files } = here();
        let put = |storage: &Storage, bytes: &[u8]| files.put_certificate(&keyring, storage, "c.crt", bytes).unwrap();
        put(&Storage::Public, b"-----BEGIN public");
        put(&pool("a"), b"-----BEGIN of a");
        put(&pool("a"), b"-----BEGIN of a, renewed");
        let get = |storage: &Storage| files.certificate(&keyring, storage, "c.crt");
        assert_eq!(get(&Storage::Public).unwrap(), b"-----BEGIN public");
        assert_eq!(get(&pool("a")).unwrap(), b"-----BEGIN of a, renewed");
        assert!(matches!(get(&pool("b")), Err(FileError::Unknown { .. })));
        let path = folder.path().join("files/certificates/private/a/c.crt");
        let kept = fs::read_to_string(&path).unwrap();
        assert!(Keyring::is_sealed(&kept) && !kept.contains("BEGIN"), "{kept}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        // What is copied elsewhere does not open there.
        fs::copy(&path, path.with_file_name("d.crt")).unwrap();
        assert!(matches!(files.certificate(&keyring, &pool("a"), "d.crt"), Err(FileError::Seal(_))));
        assert_eq!(files.list(Kind::Certificate, &pool("a")).unwrap(), ["c.crt", "d.crt"]);
        assert_eq!(files.list(Kind::Package, &pool("a")).unwrap(), Vec::<String>::new());
        files.remove(Kind::Certificate, &pool("a"), "c.crt").unwrap();
        assert!(matches!(files.remove(Kind::Certificate, &pool("a"), "c.crt"), Err(FileError::Unknown { .. })));
        assert_eq!(files.list(Kind::Certificate, &Storage::Public).unwrap(), ["c.crt"]);
        let large = vec![0; MAX_CERTIFICATE_BYTES + 1];
        let refused = files.put_certificate(&keyring, &Storage::Public, "c.crt", &large);
        assert!(matches!(refused, Err(FileError::TooLarge { .. })));
    }

    #[test]
    fn packages_come_whole_or_not_at_all() {
        let Here { folder, files, .. } = here();
        let storage = pool("p");
        let (bytes, digest) = upload(&files, &storage, "A_1.0.pak", b"one two three").unwrap();
        assert_eq!(bytes, 13);
        assert_eq!(files.describe(&storage, "A_1.0.pak").unwrap(), (13, digest));
        // Cut off, then too large: what was there stays.
        let mut cut_off = files.package(&storage, "A_1.0.pak", 100).unwrap();
        cut_off.write(b"half").unwrap();
        assert_eq!(files.list(Kind::Package, &storage).unwrap(), ["A_1.0.pak"]);
        drop(cut_off);
        assert!(matches!(upload(&files, &storage, "A_1.0.pak", &[0; 101]), Err(FileError::TooLarge { .. })));
        let path = folder.path().join("files/packages/private/p");
        assert_eq!(fs::read(path.join("A_1.0.pak")).unwrap(), b"one two three");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "nothing is left over");

        assert_eq!(files.find(Kind::Package, &storage, "a_1.0.PAK").unwrap(), "A_1.0.pak");
        upload(&files, &storage, "a_1.0.pak", b"another").unwrap();
        assert_eq!(files.find(Kind::Package, &storage, "a_1.0.pak").unwrap(), "a_1.0.pak");
        assert!(files.find(Kind::Package, &storage, "A_1.0.PAK").is_err(), "which of them?");

        let old = path.join(".x.pak.123.new");
        fs::write(&old, b"").unwrap();
        files.tidy().unwrap();
        assert!(old.exists(), "it may be on its way");
        let day_before = SystemTime::now() - 2 * ABANDONED;
        File::options().write(true).open(&old).unwrap().set_modified(day_before).unwrap();
        files.tidy().unwrap();
        assert!(!old.exists());
    }

    #[test]
    fn a_storage_has_a_bound() {
        let Here { folder, keyring, files } = here();
        let path = folder.path().join("files/certificates/public");
        fs::create_dir_all(&path).unwrap();
        for number in 0..MAX_FILES {
            fs::write(path.join(format!("{number}.crt")), "").unwrap();
        }
        let put = |name| files.put_certificate(&keyring, &Storage::Public, name, b"x");
        assert!(matches!(put("new.crt"), Err(FileError::TooMany { .. })));
        put("1.crt").unwrap();
    }

    #[test]
    fn no_name_leads_out_of_its_folder() {
        let Here { folder, keyring, files } = here();
        let bad = [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "/etc/passwd",
            "a\\b",
            "C:x",
            ".hidden",
            " a",
            "a ",
            "a\0b",
            "a\nb",
            "a\u{202e}/b",
        ];
        for name in bad {
            let storage = Storage::Public;
            assert!(
                matches!(files.put_certificate(&keyring, &storage, name, b"x"), Err(FileError::BadName { .. })),
                "{name:?}"
            );
            assert!(matches!(files.certificate(&keyring, &storage, name), Err(FileError::BadName { .. })), "{name:?}");
            assert!(matches!(files.package(&storage, name, 10), Err(FileError::BadName { .. })), "{name:?}");
            assert!(matches!(files.remove(Kind::Package, &storage, name), Err(FileError::BadName { .. })), "{name:?}");
        }
        let bad = ["", ".", "..", "a/b", "a b", "\u{e4}", "../public", &"a".repeat(129)];
        for label in bad {
            assert!(matches!(files.list(Kind::Package, &pool(label)), Err(FileError::BadName { .. })), "{label:?}");
        }
        for name in ["StixTaxii_6.2.0.pak", "certificate.crt", "\u{4e2d}.pem", "a b (1).key", &"a".repeat(200)] {
            files.put_certificate(&keyring, &pool("ae7d-x"), name, b"x").unwrap();
        }
        let above: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(above.len(), 2, "the key and the files: {above:?}");
    }

    proptest! {
        #[test]
        fn names_that_pass_are_one_component(name in prop_oneof![".*", "[./\\\\a]{0,6}", Just("..".to_owned())].boxed()) {
            if check_name(&name).is_ok() || check_label(&name).is_ok() {
                let mut components = Path::new(&name).components();
                let only = components.next();
                assert!(matches!(only, Some(std::path::Component::Normal(part)) if part == name.as_str()));
                assert!(components.next().is_none());
            }
        }
    }
}
