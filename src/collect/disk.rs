//! Small files that must be whole or absent, whatever dies when, and that nobody else reads: what is here may be secret.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Creates a file that is not there yet; `false` when it is. Readable by its owner only, and on disk when this returns.
pub(crate) fn create_private(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    written(path, bytes, |fresh| match fs::hard_link(fresh, path) {
        // A hard link fails when the name is taken, which a rename would not.
        Ok(()) => fs::remove_file(fresh).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::remove_file(fresh).map(|()| false),
        Err(error) => Err(error),
    })
}

/// Writes a file, in the place of the one that is there. Readable by its owner only, and on disk when this returns.
pub(crate) fn replace_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    written(path, bytes, |fresh| fs::rename(fresh, path))
}

/// Removes a file for good; `false` when there is none.
pub(crate) fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => File::open(folder_of(path))?.sync_all().map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes a folder, and those above it, that nobody else may look into.
pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    if path.is_dir() {
        return Ok(());
    }
    builder.create(path)?;
    // A new folder is there after a power cut only once the one above it is on disk.
    File::open(folder_of(path))?.sync_all()
}

fn written<T>(path: &Path, bytes: &[u8], place: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let folder = folder_of(path);
    create_folder(folder)?;
    // With a dot in front, so that listings leave out what a kill left over.
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.new", uuid::Uuid::new_v4().simple()));
    let fresh = folder.join(name);
    let placed = write_new(&fresh, bytes).and_then(|()| place(&fresh));
    if placed.is_err() {
        // What matters is why writing failed; a left-over file is only untidy.
        let _ = fs::remove_file(&fresh);
    }
    let placed = placed?;
    File::open(folder)?.sync_all()?;
    Ok(placed)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_created_once_replaced_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/file");
        assert!(create_private(&path, b"one").unwrap());
        assert!(!create_private(&path, b"two").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"one");
        replace_private(&path, b"three").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        let names: Vec<_> =
            fs::read_dir(folder.path().join("a/b")).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(names, ["file"], "nothing is left over");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&path), mode(&folder.path().join("a"))), (0o600, 0o700));
        }
        assert!(remove(&path).unwrap() && !remove(&path).unwrap() && !path.exists());
    }
}
