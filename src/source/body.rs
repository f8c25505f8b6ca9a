//! Answers wait on disk, not in memory: whole before anything of them is used, so that a body that breaks off is fetched
//! again and never half-taken, and so that a slow reader keeps no server waiting.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

/// Answers up to this size stay in memory.
const IN_MEMORY: usize = 4 << 20;

/// How many random names are tried for a file.
const NAMES: usize = 16;

/// A body being received.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    memory: Vec<u8>,
    file: Option<Held>,
    bytes: u64,
}

impl Spool {
    pub(super) fn new(folder: &Path) -> Self {
        Spool { folder: folder.to_owned(), memory: Vec::new(), file: None, bytes: 0 }
    }

    pub(super) fn len(&self) -> u64 {
        self.bytes
    }

    /// Whether taking so many bytes means writing to a file.
    pub(super) fn spills_with(&self, more: usize) -> bool {
        self.file.is_some() || self.memory.len() + more > IN_MEMORY
    }

    pub(super) fn push(&mut self, piece: &[u8]) -> io::Result<()> {
        if self.spills_with(piece.len()) {
            if self.file.is_none() {
                self.file = Some(Held::create(&self.folder)?);
            }
            if let Some(file) = &mut self.file {
                if !self.memory.is_empty() {
                    file.file.write_all(&self.memory)?;
                    self.memory = Vec::new();
                }
                file.file.write_all(piece)?;
            }
        } else {
            self.memory.extend_from_slice(piece);
        }
        self.bytes += piece.len() as u64;
        Ok(())
    }

    /// The whole body, to be read from its begin.
    pub(super) fn finish(self) -> io::Result<Body> {
        Ok(match self.file {
            Some(mut file) => {
                file.file.seek(SeekFrom::Start(0))?;
                Body { bytes: self.bytes, at: 0, memory: Bytes::new(), file: Some(file) }
            }
            None => Body { bytes: self.bytes, at: 0, memory: self.memory.into(), file: None },
        })
    }
}

/// A whole body; reads like a file.
#[derive(Debug)]
pub(super) struct Body {
    bytes: u64,
    at: usize,
    memory: Bytes,
    file: Option<Held>,
}

impl Body {
    pub(super) fn of(bytes: Bytes) -> Self {
        Body { bytes: bytes.len() as u64, at: 0, memory: bytes, file: None }
    }

    /// A file that is somebody else's.
    pub(super) fn of_file(file: File) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        Ok(Body { bytes, at: 0, memory: Bytes::new(), file: Some(Held { file, left_behind: None }) })
    }

    /// Decompressed bytes in all.
    pub(super) fn len(&self) -> u64 {
        self.bytes
    }

    /// At most `most` bytes of it, for small documents and messages.
    pub(super) fn start(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let mut start = Vec::new();
        self.rewind()?;
        self.take(most as u64).read_to_end(&mut start)?;
        self.rewind()?;
        Ok(start)
    }

    /// The last `most` bytes.
    pub(super) fn end(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let mut end = Vec::new();
        match &mut self.file {
            Some(file) => {
                file.file.seek(SeekFrom::Start(self.bytes.saturating_sub(most as u64)))?;
                file.file.read_to_end(&mut end)?;
            }
            None => end.extend_from_slice(&self.memory[self.memory.len().saturating_sub(most)..]),
        }
        self.rewind()?;
        Ok(end)
    }

    pub(super) fn rewind(&mut self) -> io::Result<()> {
        self.skip_to(0)
    }

    /// Reads on from that byte.
    pub(super) fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.file.seek(SeekFrom::Start(offset)).map(|_| ()),
            None => {
                self.at = usize::try_from(offset).unwrap_or(usize::MAX).min(self.memory.len());
                Ok(())
            }
        }
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(file) => file.file.read(buffer),
            None => {
                let mut rest = self.memory.get(self.at..).unwrap_or_default();
                let count = rest.read(buffer)?;
                self.at += count;
                Ok(count)
            }
        }
    }
}

/// A file that goes with whoever holds it, also when the process is killed.
#[derive(Debug)]
struct Held {
    file: File,
    /// What is to be removed at the end, where systems cannot do so while it is open.
    left_behind: Option<PathBuf>,
}

impl Held {
    fn create(folder: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut last = io::Error::other("no free name");
        for _ in 0..NAMES {
            let path = folder.join(format!(".taxiway-{:016x}.part", fastrand::u64(..)));
            match options.open(&path) {
                Ok(file) => {
                    let left_behind = std::fs::remove_file(&path).is_err().then_some(path);
                    return Ok(Held { file, left_behind });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(path) = &self.left_behind {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_bodies_read_the_same() {
        let folder = tempfile::tempdir().unwrap();
        for size in [0, 1, IN_MEMORY, IN_MEMORY + 1, IN_MEMORY * 2 + 77] {
            let content: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let mut spool = Spool::new(folder.path());
            content.chunks(1 << 20).for_each(|piece| spool.push(piece).unwrap());
            assert_eq!(spool.len(), size as u64);
            let mut body = spool.finish().unwrap();
            assert_eq!(body.end(10).unwrap(), content[size.saturating_sub(10)..]);
            assert_eq!(body.start(10).unwrap(), content[..size.min(10)]);
            let mut read = Vec::new();
            body.read_to_end(&mut read).unwrap();
            assert!(read == content, "{size}");
            body.skip_to(1).unwrap();
            read.clear();
            body.read_to_end(&mut read).unwrap();
            assert_eq!(read.len(), size.saturating_sub(1));
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
        }
    }
}
