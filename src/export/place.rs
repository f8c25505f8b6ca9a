//! Where an export goes: a folder of parts, or one file; and whose it is.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::export::manifest::{MANIFEST, Manifest};
use crate::export::{Compression, ExportError, Format};

/// Ending of what is not finished.
const UNFINISHED: &str = ".unfinished";
/// What keeps a second export away.
const LOCK: &str = "export.lock";

/// A place to export to.
#[derive(Debug)]
pub(super) struct Place {
    /// As it was named.
    named: PathBuf,
    folder: PathBuf,
    /// The one file; `None`: parts with names of ours.
    file: Option<String>,
}

impl Place {
    /// The folder `out` if it is one, or `parts` says that it is to be; else a file.
    pub(super) fn new(out: &Path, parts: bool) -> Result<Self, ExportError> {
        let ends_in_slash = out.as_os_str().to_string_lossy().ends_with(std::path::MAIN_SEPARATOR);
        if parts || ends_in_slash || out.is_dir() {
            return Ok(Place { named: out.to_owned(), folder: out.to_owned(), file: None });
        }
        let name = out.file_name().and_then(|name| name.to_str()).filter(|name| !name.is_empty());
        let name =
            name.ok_or_else(|| ExportError::Request(format!("`{}` names no file; give it a name", out.display())))?;
        let folder = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Place { named: out.to_owned(), folder: folder.to_owned(), file: Some(name.to_owned()) })
    }

    pub(super) fn is_folder(&self) -> bool {
        self.file.is_none()
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn beside(&self, name: &str) -> PathBuf {
        match &self.file {
            Some(file) => self.folder.join(format!("{file}.{name}")),
            None => self.folder.join(name),
        }
    }

    /// What says that it is done.
    pub(super) fn manifest(&self) -> PathBuf {
        self.beside(MANIFEST)
    }

    /// What says how far it is.
    pub(super) fn unfinished(&self) -> PathBuf {
        self.beside(&format!("{MANIFEST}{UNFINISHED}"))
    }

    /// Name of a part once it has one.
    pub(super) fn part(&self, run: u32, number: usize, format: Format, compression: Option<Compression>) -> String {
        match &self.file {
            Some(file) => file.clone(),
            None => {
                let compressed = compression.map_or("", Compression::ending);
                format!("part-{run:04}-{number:06}.{}{compressed}", format.ending())
            }
        }
    }

    /// Parts in the folder that a manifest should name: what an export left that nobody knows any more.
    pub(super) fn parts_besides(&self, manifest: &Manifest) -> Vec<PathBuf> {
        let is_part = |name: &str| {
            let digits =
                |text: &str, count: usize| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
            let numbers = name.strip_prefix("part-").and_then(|rest| rest.split_once('.')).map(|(numbers, _)| numbers);
            numbers
                .and_then(|numbers| numbers.split_once('-'))
                .is_some_and(|(run, part)| digits(run, 4) && digits(part, 6))
        };
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let unknown = names.filter(|name| is_part(name) && manifest.parts.iter().all(|part| part.file != *name));
        unknown.map(|name| self.folder.join(name)).collect()
    }

    /// Where a part is until all are done.
    pub(super) fn unfinished_part(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}{UNFINISHED}"))
    }

    /// Makes the folder, and keeps other exports away.
    pub(super) fn claim(&self) -> Result<Claim, ExportError> {
        std::fs::create_dir_all(&self.folder).map_err(ExportError::io("make folder", &self.folder))?;
        let path = self.beside(LOCK);
        loop {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let file = file.map_err(ExportError::io("write", &path))?;
            match file.try_lock() {
                // The one before may have removed it between the two.
                Ok(()) if is_at(&file, &path) => return Ok(Claim { path, _file: file }),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(ExportError::Running { path: self.named.clone() }),
                Err(TryLockError::Error(error)) => return Err(ExportError::io("lock", &path)(error)),
            }
        }
    }

    /// Refuses to replace what no export of ours wrote, or what was changed since.
    pub(super) fn refuse_foreign(&self, known: &[&Manifest]) -> Result<(), ExportError> {
        let parts = || known.iter().flat_map(|manifest| &manifest.parts);
        let not_ours = |path: PathBuf, what: &str| Err(ExportError::NotOurs { path, what: what.to_owned() });
        let Some(file) = &self.file else {
            // What is unfinished, or locked, was ours when it was begun.
            let is_ours = |name: &str| {
                name.ends_with(UNFINISHED) || name == LOCK || name == MANIFEST || parts().any(|part| part.file == name)
            };
            if known.is_empty() {
                let entries = std::fs::read_dir(&self.folder).map_err(ExportError::io("read", &self.folder))?;
                let foreign = entries.flatten().any(|entry| !is_ours(&entry.file_name().to_string_lossy()));
                if foreign {
                    return not_ours(self.named.clone(), "holds files that are no export");
                }
            }
            return Ok(());
        };
        let path = self.folder.join(file);
        let Ok(found) = std::fs::metadata(&path) else { return Ok(()) };
        if found.is_dir() {
            return not_ours(path, "is a folder");
        }
        match parts().find(|part| part.file == *file) {
            Some(_) if parts().any(|part| part.file == *file && part.bytes == found.len()) => Ok(()),
            Some(_) => not_ours(path, "was changed since it was exported"),
            None => not_ours(path, "is there, and is no export"),
        }
    }
}

/// A place that nobody else exports to.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    _file: File,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // One that stays is in nobody's way.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether that open file is still the one of that name.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |found: &std::fs::Metadata| (found.dev(), found.ino());
    matches!((file.metadata(), std::fs::metadata(path)), (Ok(open), Ok(there)) if id(&open) == id(&there))
}

/// Elsewhere a file that is open cannot be removed.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

/// Writes a small file in one step: it is there whole, also after a power cut, or not at all.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let beside = PathBuf::from(name);
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(ExportError::io("write", &beside))?;
    rename(&beside, path)?;
    sync_folder(path)
}

/// Gives a file its name.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), ExportError> {
    std::fs::rename(from, to).map_err(ExportError::io("rename", from))
}

/// Makes names in the folder of `path` survive a power cut.
pub(super) fn sync_folder(path: &Path) -> Result<(), ExportError> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(ExportError::io("sync", folder))?;
    }
    Ok(())
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> Result<(), ExportError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ExportError::io("remove", path)(error)),
        _ => Ok(()),
    }
}
