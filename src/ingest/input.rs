//! Where bytes come from: files, patterns, standard input; gzip and zstd are unpacked on the way.

use std::fmt;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use flate2::read::MultiGzDecoder;

/// Why an input cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// A file that cannot be opened.
    #[error("cannot open `{}`: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder that cannot be listed.
    #[error("cannot list `{}`: {source}", path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A pattern that is not one.
    #[error("`{pattern}` is not a file pattern: {source}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Why.
        source: glob::PatternError,
    },
    /// A pattern or folder without files.
    #[error("no file matches `{0}`; check the path")]
    NoMatch(String),
    /// Reading failed; what came before was decoded.
    #[error("cannot read `{name}` beyond line {line}: {source}")]
    Read {
        /// The input.
        name: String,
        /// The line the failure cut off.
        line: u64,
        /// Why.
        source: io::Error,
    },
    /// Compressed data that ends early; what came before was decoded.
    #[error("`{name}` is cut off: its {compression} data ends inside line {line}; get it again")]
    Truncated {
        /// The input.
        name: String,
        /// `gzip` or `zstd`.
        compression: Compression,
        /// The line the end cut off.
        line: u64,
    },
}

/// A file or standard input, not yet opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputSpec {
    /// `-`.
    Stdin,
    /// A file.
    File(PathBuf),
}

impl fmt::Display for InputSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InputSpec::Stdin => f.write_str("stdin"),
            InputSpec::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Suffix of the files that hold rejected elements: they are no inputs.
const REJECTED_SUFFIX: &str = ".rejected.ndjson";

/// Resolves what a user names as inputs: files, `-`, patterns (`feeds/*.json.gz`), and folders, which stand for the files
/// right inside them that are not hidden. Files of a pattern or folder are in the order of their names.
pub fn expand(paths: &[String]) -> Result<Vec<InputSpec>, InputError> {
    let mut specs = Vec::new();
    for path in paths {
        if path == "-" {
            specs.push(InputSpec::Stdin);
        } else if Path::new(path).is_dir() {
            specs.extend(files_in(Path::new(path))?);
        } else if path.contains(['*', '?', '[']) && !Path::new(path).exists() {
            specs.extend(matches_of(path)?);
        } else {
            specs.push(InputSpec::File(PathBuf::from(path)));
        }
    }
    Ok(specs)
}

fn files_in(folder: &Path) -> Result<Vec<InputSpec>, InputError> {
    let failed = |source| InputError::List { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_file() && !name.starts_with('.') && !name.ends_with(REJECTED_SUFFIX) {
            files.push(path);
        }
    }
    in_order(files, &folder.to_string_lossy())
}

fn matches_of(pattern: &str) -> Result<Vec<InputSpec>, InputError> {
    let paths = glob::glob(pattern).map_err(|source| InputError::Pattern { pattern: pattern.to_owned(), source })?;
    let mut files = Vec::new();
    for path in paths {
        let path = path.map_err(|error| InputError::List { path: error.path().to_owned(), source: error.into() })?;
        if path.is_file() && !path.to_string_lossy().ends_with(REJECTED_SUFFIX) {
            files.push(path);
        }
    }
    in_order(files, pattern)
}

fn in_order(mut files: Vec<PathBuf>, named: &str) -> Result<Vec<InputSpec>, InputError> {
    if files.is_empty() {
        return Err(InputError::NoMatch(named.to_owned()));
    }
    files.sort_unstable();
    Ok(files.into_iter().map(InputSpec::File).collect())
}

/// How an input is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, of any number of members.
    Gzip,
    /// Zstandard, of any number of frames.
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::None => "plain",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        })
    }
}

/// Bytes that a thread of its own reads ahead from a pipe at a time.
const PIPE_BYTES: usize = 64 << 10;
/// A pipe that gives nothing for so long is idle.
const IDLE: Duration = Duration::from_millis(500);

/// An open input: plain bytes come out, packed ones are counted.
pub struct Input {
    name: String,
    size: Option<u64>,
    consumed: Arc<AtomicU64>,
    compression: Compression,
    source: Source,
}

/// Where the unpacked bytes come from.
enum Source {
    /// A file: there when asked for.
    File(Box<dyn Read + Send>),
    /// A pipe, which may stall for hours: read by a thread, so that what has come can be worked on meanwhile.
    Pipe(Receiver<io::Result<Vec<u8>>>),
}

impl Source {
    fn pipe(mut reader: Box<dyn Read + Send>) -> Self {
        let (sender, receiver) = sync_channel(4);
        // It ends with the input, or when nobody takes what it read; a read that never returns ends with the process.
        std::thread::spawn(move || {
            loop {
                let mut chunk = vec![0; PIPE_BYTES];
                let read = match reader.read(&mut chunk) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Ok(0) => return,
                    Ok(read) => {
                        chunk.truncate(read);
                        Ok(chunk)
                    }
                    Err(error) => Err(error),
                };
                let failed = read.is_err();
                if sender.send(read).is_err() || failed {
                    return;
                }
            }
        });
        Source::Pipe(receiver)
    }
}

/// What a read gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    Bytes,
    /// Nothing has come for a while; more may.
    Idle,
    End,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("name", &self.name).field("size", &self.size).finish_non_exhaustive()
    }
}

impl Input {
    /// Opens a file or standard input and looks at its first bytes.
    pub fn open(spec: &InputSpec) -> Result<Self, InputError> {
        let name = spec.to_string();
        match spec {
            InputSpec::Stdin => Self::from_reader(name, None, io::stdin()),
            InputSpec::File(path) => {
                let failed = |source| InputError::Open { path: path.clone(), source };
                let file = File::open(path).map_err(failed)?;
                let metadata = file.metadata().map_err(failed)?;
                Self::from_reader(name, metadata.is_file().then_some(metadata.len()), file)
            }
        }
    }

    /// An input from any reader; `size` is its length as packed, where known. The name stands in messages, and its
    /// extension helps to tell the format.
    pub fn from_reader(
        name: impl Into<String>,
        size: Option<u64>,
        reader: impl Read + Send + 'static,
    ) -> Result<Self, InputError> {
        let name = name.into();
        let consumed = Arc::new(AtomicU64::new(0));
        let mut counted = Counted { reader, consumed: Arc::clone(&consumed) };
        let mut head = Vec::with_capacity(4);
        // As many reads as it takes: pipes give single bytes if they like.
        let read = counted.by_ref().take(4).read_to_end(&mut head);
        let failed = |source| InputError::Read { name: name.clone(), line: 1, source };
        read.map_err(failed)?;
        let compression = match head.as_slice() {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            // Data frames and skippable frames.
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Compression::Zstd,
            _ => Compression::None,
        };
        let whole = Cursor::new(head).chain(counted);
        let reader: Box<dyn Read + Send> = match compression {
            Compression::None => Box::new(whole),
            Compression::Gzip => Box::new(MultiGzDecoder::new(whole)),
            Compression::Zstd => Box::new(zstd::Decoder::new(whole).map_err(failed)?),
        };
        let source = if size.is_some() { Source::File(reader) } else { Source::pipe(reader) };
        Ok(Input { name, size, consumed, compression, source })
    }

    /// As the user knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Length as packed, when it is known: what [`consumed`](Self::consumed) will reach.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// A counter of the packed bytes read so far, to watch from elsewhere.
    pub fn consumed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.consumed)
    }

    /// Appends up to `wanted` unpacked bytes (of a pipe: what has come). `line` is where the input stands, for the message.
    pub(crate) fn read(&mut self, wanted: usize, buffer: &mut Vec<u8>, line: u64) -> Result<Got, InputError> {
        let result = match &mut self.source {
            Source::File(reader) => {
                let filled = buffer.len();
                buffer.resize(filled + wanted, 0);
                let result = loop {
                    match reader.read(buffer.get_mut(filled..).unwrap_or_default()) {
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        result => break result,
                    }
                };
                buffer.truncate(filled + *result.as_ref().unwrap_or(&0));
                result.map(|read| if read == 0 { Got::End } else { Got::Bytes })
            }
            Source::Pipe(receiver) => match receiver.recv_timeout(IDLE) {
                Ok(Ok(chunk)) => {
                    buffer.extend_from_slice(&chunk);
                    Ok(Got::Bytes)
                }
                Ok(Err(error)) => Err(error),
                Err(RecvTimeoutError::Timeout) => Ok(Got::Idle),
                Err(RecvTimeoutError::Disconnected) => Ok(Got::End),
            },
        };
        result.map_err(|source| {
            let name = self.name.clone();
            if self.compression != Compression::None && source.kind() == io::ErrorKind::UnexpectedEof {
                InputError::Truncated { name, compression: self.compression, line }
            } else {
                InputError::Read { name, line, source }
            }
        })
    }
}

/// Counts what is read through it.
struct Counted<R> {
    reader: R,
    consumed: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.consumed.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
