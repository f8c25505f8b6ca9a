//! Where the store's files live: a local folder, or anything `object_store` reaches.
//!
//! The store needs little: whole small files, ranges of large ones, a streaming write, a listing, and one atomic step,
//! *create if absent*, which decides between two writers. Calls block; they belong on CPU or blocking threads, never on
//! the threads that drive sockets.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use parking_lot::Mutex;
use rayon::iter::{IntoParallelIterator, IntoParallelRefIterator, ParallelIterator};

use super::error::StoreError;

/// What is written of a file at a time.
const SINK_BYTES: usize = 1 << 20;

/// A file opened for reading at any position, by any number of threads.
pub(crate) trait ReadAt: Send + Sync + fmt::Debug {
    /// Exactly the bytes of `range`.
    fn read_at(&self, range: Range<u64>) -> io::Result<Bytes>;
    /// The whole content, mapped where the platform can.
    fn whole(&self) -> io::Result<Content>;
}

/// A file being written front to back.
pub(crate) trait FileSink: Write + Send {
    /// Completes it for readers; [`Storage::settle`] makes it survive a power cut. Dropping without it leaves an orphan.
    fn finish(self: Box<Self>) -> Result<(), StoreError>;
}

/// The content of a whole file.
pub(crate) enum Content {
    /// Mapped from the page cache.
    Mapped(memmap2::Mmap),
    /// Held in memory.
    Held(Bytes),
}

impl std::ops::Deref for Content {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Content::Mapped(map) => map,
            Content::Held(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} bytes)", self.len())
    }
}

/// The operations the store needs. Paths are relative, with `/`.
pub(crate) trait Storage: Send + Sync + fmt::Debug {
    /// The location, for messages.
    fn describe(&self, path: &str) -> String;
    /// A whole file; `None` when it does not exist.
    fn read(&self, path: &str) -> Result<Option<Bytes>, StoreError>;
    /// Whether the file exists: the cheapest question there is.
    fn exists(&self, path: &str) -> Result<bool, StoreError>;
    /// Opens a file for reading; it must have exactly `size` bytes.
    fn open(&self, path: &str, size: u64) -> Result<Arc<dyn ReadAt>, StoreError>;
    /// Starts a new file, replacing an orphan of the same name.
    fn create(&self, path: &str) -> Result<Box<dyn FileSink>, StoreError>;
    /// Makes every file finished since the last call survive a power cut: together, which costs hardly more than one.
    fn settle(&self) -> Result<(), StoreError>;
    /// Publishes a small file atomically; `false` when the name is taken.
    fn put_if_absent(&self, path: &str, bytes: &[u8], secret: bool) -> Result<bool, StoreError>;
    /// Names of the files of a folder; empty when there is none.
    fn names(&self, folder: &str) -> Result<Vec<String>, StoreError>;
    /// Names and ages of the files of a folder; empty when there is none.
    fn list(&self, folder: &str) -> Result<Vec<Listed>, StoreError>;
    /// Removes a file; not an error when it is gone already.
    fn delete(&self, path: &str) -> Result<(), StoreError>;
    /// Where the lock file lies, if this storage has process locks.
    fn lock_path(&self) -> Option<PathBuf>;
}

/// One file of a listing.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) name: String,
    /// Seconds since it was written, as the clock has it now.
    pub(crate) age_s: u64,
    /// When it was written: seconds since 1970.
    pub(crate) written_s: u64,
}

/// Opens the storage at a location: a folder, or `file://…`.
pub(crate) fn open(location: &str) -> Result<Arc<dyn Storage>, StoreError> {
    match location.split_once("://") {
        None => Ok(Arc::new(LocalFolder::new(location))),
        Some(("file", path)) => Ok(Arc::new(LocalFolder::new(path))),
        Some((scheme, _)) => Err(StoreError::Scheme { scheme: scheme.to_owned() }),
    }
}

/// A folder of the local file system.
#[derive(Debug)]
struct LocalFolder {
    root: PathBuf,
    unsettled: Unsettled,
}

/// Files that were written and may not survive a power cut yet.
type Unsettled = Arc<Mutex<Vec<(PathBuf, File)>>>;

impl LocalFolder {
    fn new(root: &str) -> Self {
        LocalFolder { root: PathBuf::from(root), unsettled: Unsettled::default() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn ensure_parent(path: &Path) -> Result<(), StoreError> {
        match path.parent() {
            Some(parent) if !parent.is_dir() => {
                fs::create_dir_all(parent).map_err(StoreError::io("create folder", parent.display()))
            }
            _ => Ok(()),
        }
    }

    fn entries(&self, folder: &str) -> Result<Vec<fs::DirEntry>, StoreError> {
        let path = self.path(folder);
        match fs::read_dir(&path).and_then(Iterator::collect) {
            Ok(entries) => Ok(entries),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(StoreError::io("list", path.display())(error)),
        }
    }

    /// A new directory entry is durable only once its folder is.
    fn sync_parent(path: &Path) -> Result<(), StoreError> {
        let Some(parent) = path.parent() else { return Ok(()) };
        Self::sync_folder(parent)
    }

    fn sync_folder(path: &Path) -> Result<(), StoreError> {
        File::open(path).and_then(|folder| folder.sync_all()).map_err(StoreError::io("sync folder", path.display()))
    }
}

impl Storage for LocalFolder {
    fn describe(&self, path: &str) -> String {
        if path.is_empty() { self.root.display().to_string() } else { self.path(path).display().to_string() }
    }

    fn read(&self, path: &str) -> Result<Option<Bytes>, StoreError> {
        let path = self.path(path);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(Bytes::from(bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", path.display())(error)),
        }
    }

    fn exists(&self, path: &str) -> Result<bool, StoreError> {
        let path = self.path(path);
        path.try_exists().map_err(StoreError::io("read", path.display()))
    }

    fn open(&self, path: &str, size: u64) -> Result<Arc<dyn ReadAt>, StoreError> {
        let path = self.path(path);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::damaged(path.display(), "the file is missing"));
            }
            Err(error) => return Err(StoreError::io("open", path.display())(error)),
        };
        let found = file.metadata().map_err(StoreError::io("read", path.display()))?.len();
        if found != size {
            return Err(StoreError::damaged(path.display(), format!("it has {found} bytes instead of {size}")));
        }
        Ok(Arc::new(LocalFile { file }))
    }

    fn create(&self, path: &str) -> Result<Box<dyn FileSink>, StoreError> {
        let path = self.path(path);
        Self::ensure_parent(&path)?;
        let file = File::create(&path).map_err(StoreError::io("create", path.display()))?;
        let file = io::BufWriter::with_capacity(SINK_BYTES, file);
        Ok(Box::new(LocalSink { file, path, unsettled: Arc::clone(&self.unsettled) }))
    }

    fn settle(&self) -> Result<(), StoreError> {
        let files = std::mem::take(&mut *self.unsettled.lock());
        let folders: BTreeSet<&Path> = files.iter().filter_map(|(path, _)| path.parent()).collect();
        // At once: the file system writes its journal for all of them together.
        files
            .par_iter()
            .try_for_each(|(path, file)| file.sync_all().map_err(StoreError::io("sync", path.display())))?;
        folders.into_par_iter().try_for_each(Self::sync_folder)
    }

    fn put_if_absent(&self, path: &str, bytes: &[u8], secret: bool) -> Result<bool, StoreError> {
        let path = self.path(path);
        Self::ensure_parent(&path)?;
        let temporary = path.with_extension(format!("{}.tmp", uuid::Uuid::new_v4().simple()));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        if secret {
            use std::os::unix::fs::OpenOptionsExt;
            options.mode(0o600);
        }
        #[cfg(not(unix))]
        let _ = secret;
        let written = options.open(&temporary).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        if let Err(error) = written {
            let _ = fs::remove_file(&temporary);
            return Err(StoreError::io("write", path.display())(error));
        }
        // A hard link fails when the name is taken, which a rename would not.
        let linked = fs::hard_link(&temporary, &path);
        let _ = fs::remove_file(&temporary);
        match linked {
            Ok(()) => {
                Self::sync_parent(&path)?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(StoreError::io("publish", path.display())(error)),
        }
    }

    fn names(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let entries = self.entries(folder)?;
        Ok(entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    }

    fn list(&self, folder: &str) -> Result<Vec<Listed>, StoreError> {
        let listed = self.entries(folder)?.into_iter().map(|entry| {
            let written = entry.metadata().and_then(|meta| meta.modified()).ok();
            let age_s = written.and_then(|at| at.elapsed().ok()).map_or(0, |age| age.as_secs());
            let since_1970 = written.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            Listed {
                name: entry.file_name().to_string_lossy().into_owned(),
                age_s,
                written_s: since_1970.map_or(0, |time| time.as_secs()),
            }
        });
        Ok(listed.collect())
    }

    fn delete(&self, path: &str) -> Result<(), StoreError> {
        let path = self.path(path);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", path.display())(error))
            }
            _ => Ok(()),
        }
    }

    fn lock_path(&self) -> Option<PathBuf> {
        Some(self.path("lock"))
    }
}

#[derive(Debug)]
struct LocalFile {
    file: File,
}

impl ReadAt for LocalFile {
    fn read_at(&self, range: Range<u64>) -> io::Result<Bytes> {
        let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
        let mut buffer = vec![0; length];
        #[cfg(unix)]
        std::os::unix::fs::FileExt::read_exact_at(&self.file, &mut buffer, range.start)?;
        #[cfg(windows)]
        {
            let mut done = 0;
            while done < length {
                match std::os::windows::fs::FileExt::seek_read(
                    &self.file,
                    &mut buffer[done..],
                    range.start + done as u64,
                )? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => done += read,
                }
            }
        }
        Ok(Bytes::from(buffer))
    }

    #[expect(
        unsafe_code,
        reason = "key indexes are mapped so that they need no memory of their own; the files are never written again after publication and their size was checked on opening"
    )]
    fn whole(&self) -> io::Result<Content> {
        // SAFETY: the store never changes or truncates a published file; it only unlinks it, which keeps mappings valid.
        unsafe { memmap2::Mmap::map(&self.file) }.map(Content::Mapped)
    }
}

struct LocalSink {
    file: io::BufWriter<File>,
    path: PathBuf,
    unsettled: Unsettled,
}

impl Write for LocalSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl FileSink for LocalSink {
    fn finish(self: Box<Self>) -> Result<(), StoreError> {
        let LocalSink { file, path, unsettled } = *self;
        let file = file.into_inner().map_err(|error| StoreError::io("write", path.display())(error.into_error()))?;
        unsettled.lock().push((path, file));
        Ok(())
    }
}

/// A prefix of an object store. Its calls are driven to completion on the calling thread.
#[derive(Debug)]
pub(crate) struct ObjectFolder {
    store: Arc<dyn ObjectStore>,
    location: String,
}

impl ObjectFolder {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, location: &str) -> Self {
        ObjectFolder { store, location: location.trim_end_matches('/').to_owned() }
    }

    fn error(&self, action: &'static str, path: &str) -> impl FnOnce(object_store::Error) -> StoreError {
        let path = self.describe(path);
        move |source| StoreError::Object { action, path, source }
    }
}

impl Storage for ObjectFolder {
    fn describe(&self, path: &str) -> String {
        if path.is_empty() { self.location.clone() } else { format!("{}/{path}", self.location) }
    }

    fn read(&self, path: &str) -> Result<Option<Bytes>, StoreError> {
        let got = futures::executor::block_on(async {
            self.store.get(&object_store::path::Path::from(path)).await?.bytes().await
        });
        match got {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.error("read", path)(error)),
        }
    }

    fn exists(&self, path: &str) -> Result<bool, StoreError> {
        match futures::executor::block_on(self.store.head(&object_store::path::Path::from(path))) {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.error("read", path)(error)),
        }
    }

    fn open(&self, path: &str, size: u64) -> Result<Arc<dyn ReadAt>, StoreError> {
        let at = object_store::path::Path::from(path);
        let found = match futures::executor::block_on(self.store.head(&at)) {
            Ok(meta) => meta.size,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(StoreError::damaged(self.describe(path), "the file is missing"));
            }
            Err(error) => return Err(self.error("open", path)(error)),
        };
        if found != size {
            return Err(StoreError::damaged(self.describe(path), format!("it has {found} bytes instead of {size}")));
        }
        Ok(Arc::new(ObjectFile { store: Arc::clone(&self.store), path: at }))
    }

    fn create(&self, path: &str) -> Result<Box<dyn FileSink>, StoreError> {
        Ok(Box::new(ObjectSink {
            store: Arc::clone(&self.store),
            path: object_store::path::Path::from(path),
            described: self.describe(path),
            buffer: Vec::new(),
        }))
    }

    fn settle(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn put_if_absent(&self, path: &str, bytes: &[u8], _secret: bool) -> Result<bool, StoreError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let payload = PutPayload::from(bytes.to_vec());
        match futures::executor::block_on(self.store.put_opts(&object_store::path::Path::from(path), payload, options))
        {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.error("publish", path)(error)),
        }
    }

    fn names(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        Ok(self.list(folder)?.into_iter().map(|listed| listed.name).collect())
    }

    fn list(&self, folder: &str) -> Result<Vec<Listed>, StoreError> {
        let prefix = (!folder.is_empty()).then(|| object_store::path::Path::from(folder));
        let listing = futures::executor::block_on(self.store.list_with_delimiter(prefix.as_ref()))
            .map_err(self.error("list", folder))?;
        let now = chrono::Utc::now();
        Ok(listing
            .objects
            .into_iter()
            .filter_map(|object| {
                let age_s = u64::try_from((now - object.last_modified).num_seconds()).unwrap_or(0);
                let written_s = u64::try_from(object.last_modified.timestamp()).unwrap_or(0);
                Some(Listed { name: object.location.filename()?.to_owned(), age_s, written_s })
            })
            .collect())
    }

    fn delete(&self, path: &str) -> Result<(), StoreError> {
        match futures::executor::block_on(self.store.delete(&object_store::path::Path::from(path))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error("remove", path)(error)),
        }
    }

    fn lock_path(&self) -> Option<PathBuf> {
        None
    }
}

#[derive(Debug)]
struct ObjectFile {
    store: Arc<dyn ObjectStore>,
    path: object_store::path::Path,
}

impl ReadAt for ObjectFile {
    fn read_at(&self, range: Range<u64>) -> io::Result<Bytes> {
        futures::executor::block_on(self.store.get_range(&self.path, range)).map_err(io::Error::other)
    }

    fn whole(&self) -> io::Result<Content> {
        let got = futures::executor::block_on(async { self.store.get(&self.path).await?.bytes().await });
        got.map(Content::Held).map_err(io::Error::other)
    }
}

struct ObjectSink {
    store: Arc<dyn ObjectStore>,
    path: object_store::path::Path,
    described: String,
    buffer: Vec<u8>,
}

impl Write for ObjectSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl FileSink for ObjectSink {
    fn finish(self: Box<Self>) -> Result<(), StoreError> {
        let ObjectSink { store, path, described, buffer } = *self;
        futures::executor::block_on(store.put(&path, PutPayload::from(buffer)))
            .map(|_| ())
            .map_err(|source| StoreError::Object { action: "write", path: described, source })
    }
}
