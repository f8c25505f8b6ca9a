//! The thread that writes a part: bytes in order, hashed, synced at the end. Work on the next ones goes on meanwhile.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use bytes::Bytes;
use parquet::arrow::arrow_writer::ArrowColumnChunk;
use parquet::file::writer::SerializedFileWriter;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::export::ExportError;
use crate::export::manifest::hex;

/// Pieces that may wait for the disk.
const WAITING: usize = 4;
/// Bytes written at once, where they come in small pieces.
const BUFFER_BYTES: usize = 1 << 20;

/// What is written next.
pub(super) enum Piece {
    /// Bytes.
    Bytes(Bytes),
    /// A row group.
    Group(Vec<ArrowColumnChunk>),
}

/// A file that counts and hashes what it is given.
pub(super) struct Hashed {
    file: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl Hashed {
    /// Makes the file, or empties it.
    pub(super) fn create(path: &Path) -> Result<Self, ExportError> {
        let file = File::create(path).map_err(ExportError::io("write", path))?;
        Ok(Hashed { file: BufWriter::with_capacity(BUFFER_BYTES, file), hash: Sha256::new(), bytes: 0 })
    }

    fn finish(self) -> io::Result<Done> {
        self.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        Ok(Done { bytes: self.bytes, sha256: hex(&self.hash.finalize()) })
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A file that is written and synced.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// What is at the other end.
pub(super) enum Target {
    /// A file of bytes.
    Plain(Hashed),
    /// A Parquet file.
    Parquet(Box<SerializedFileWriter<Hashed>>),
}

impl Target {
    fn take(&mut self, piece: Piece) -> io::Result<()> {
        match (self, piece) {
            (Target::Plain(file), Piece::Bytes(bytes)) => file.write_all(&bytes),
            (Target::Parquet(writer), Piece::Group(chunks)) => {
                let mut group = writer.next_row_group().map_err(io::Error::other)?;
                for chunk in chunks {
                    chunk.append_to_row_group(&mut group).map_err(io::Error::other)?;
                }
                group.close().map(|_| ()).map_err(io::Error::other)
            }
            _ => Err(io::Error::other("a piece of another kind of file")),
        }
    }

    fn finish(self) -> io::Result<Done> {
        match self {
            Target::Plain(file) => file.finish(),
            Target::Parquet(writer) => writer.into_inner().map_err(io::Error::other)?.finish(),
        }
    }
}

/// A part being written.
pub(super) struct Sink {
    path: PathBuf,
    sender: Sender<Piece>,
    thread: JoinHandle<io::Result<Done>>,
}

impl Sink {
    /// Starts the thread.
    pub(super) fn new(path: PathBuf, target: Target) -> Result<Self, ExportError> {
        let (sender, receiver) = channel(WAITING);
        let thread = std::thread::Builder::new().name("export".to_owned()).spawn(move || write(target, receiver));
        let thread = thread.map_err(ExportError::io("start a thread for", &path))?;
        Ok(Sink { path, sender, thread })
    }

    /// Hands over a piece; waits while the disk is behind.
    pub(super) async fn put(&self, piece: Piece) -> Result<(), ExportError> {
        // The reason comes with the end of the thread.
        self.sender.send(piece).await.map_err(ExportError::internal("write a file"))
    }

    /// Waits until all of it is on disk.
    pub(super) async fn finish(self) -> Result<Done, ExportError> {
        let Sink { path, sender, thread } = self;
        drop(sender);
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        match joined {
            Ok(Ok(done)) => done.map_err(ExportError::io("write", &path)),
            _ => Err(ExportError::Internal { what: "write a file", reason: "its thread panicked".to_owned() }),
        }
    }

    /// After a piece could not be handed over: why.
    pub(super) async fn failure(self, otherwise: ExportError) -> ExportError {
        self.finish().await.err().unwrap_or(otherwise)
    }
}

fn write(mut target: Target, mut pieces: Receiver<Piece>) -> io::Result<Done> {
    while let Some(piece) = pieces.blocking_recv() {
        target.take(piece)?;
    }
    target.finish()
}
