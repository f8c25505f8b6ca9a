//! The audit log: who read and wrote what, and who was turned away; one JSON object a line.
//!
//! Lines go through a bounded queue to one thread, so that no request waits for a disk. When the file cannot be written the
//! server keeps serving: the log says so once, the metrics count the lines that are lost, and writing goes on when it can.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use crate::serve::error::StartError;
use crate::serve::metrics::Metrics;

/// Lines that may wait for the disk: some seconds of a busy server, in a few megabytes.
const QUEUE_LINES: usize = 16 * 1024;
/// Bytes that are written at once, when so much is waiting.
const BATCH_BYTES: usize = 64 * 1024;
/// How long the end of the process waits for the last lines.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// What a request did to data, in the extensions of its response; the audit log adds who, when, from where and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Deed {
    pub(super) action: Action,
    /// Path of the API root.
    pub(super) api_root: String,
    /// Id of the collection; `None`: the request was about the root.
    pub(super) collection: Option<String>,
    /// The one object meant.
    pub(super) object: Option<String>,
    /// Objects given out, taken in or deleted.
    pub(super) objects: u64,
}

/// What was done, or tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Objects, manifest or versions were given out.
    Read,
    /// Objects were taken in.
    Write,
    /// Versions were deleted.
    Delete,
}

impl Action {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Action::Read => "read",
            Action::Write => "write",
            Action::Delete => "delete",
        }
    }
}

/// One line. Never holds what proves who somebody is.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    pub(super) time: String,
    pub(super) request_id: &'a str,
    pub(super) action: &'static str,
    /// Absent for those who did not say, or could not prove it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) proof: Option<&'a str>,
    /// Subject of the certificate that the client showed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) certificate: Option<&'a str>,
    pub(super) address: String,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) query: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) api_root: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) collection: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) object: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) objects: Option<u64>,
    pub(super) status: u16,
    pub(super) bytes: u64,
    pub(super) complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last: Option<&'a str>,
}

enum Message {
    Line(Vec<u8>),
    Reopen,
    Close,
}

/// The open audit log.
#[derive(Debug)]
pub(super) struct Audit {
    path: PathBuf,
    sender: SyncSender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
    metrics: Arc<Metrics>,
}

impl Audit {
    /// Opens the file, which is made if need be, readable by its owner only.
    pub(super) fn open(path: &Path, metrics: &Arc<Metrics>) -> Result<Self, StartError> {
        let failed = |source| StartError::Audit { path: path.to_owned(), source };
        let file = open(path).map_err(failed)?;
        let (sender, receiver) = sync_channel(QUEUE_LINES);
        let mut writer = Writer {
            path: path.to_owned(),
            file: Some(file),
            torn: false,
            failing: false,
            metrics: Arc::clone(metrics),
        };
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run(&receiver))
            .map_err(failed)?;
        Ok(Self { path: path.to_owned(), sender, thread: Mutex::new(Some(thread)), metrics: Arc::clone(metrics) })
    }

    /// Whether it could be opened, as far as that can be known without making it.
    pub(super) fn examine(path: &Path) -> Result<(), StartError> {
        let failed = |source| StartError::Audit { path: path.to_owned(), source };
        match OpenOptions::new().append(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                let found = folder.is_none_or(Path::is_dir);
                if found { Ok(()) } else { Err(failed(error)) }
            }
            opened => opened.map(|_| ()).map_err(failed),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Hands a line to the writer. Never waits: what does not fit into the queue is lost, and counted.
    pub(super) fn write(&self, line: &Line<'_>) {
        let Ok(mut bytes) = serde_json::to_vec(line) else { return };
        bytes.push(b'\n');
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.sender.try_send(Message::Line(bytes)) {
            self.metrics.count("taxiway_audit_lost_total", &[], 1);
        }
    }

    /// Opens the path anew, for programs that move logs away.
    pub(super) fn reopen(&self) {
        // Waits for room in the queue: this one must not be lost.
        let _ = self.sender.send(Message::Reopen);
    }

    /// Writes what is still waiting.
    pub(super) fn close(&self) {
        let Some(thread) = self.thread.lock().take() else { return };
        if self.sender.send(Message::Close).is_err() {
            return;
        }
        let end = std::time::Instant::now() + CLOSE_WITHIN;
        while !thread.is_finished() && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.close();
    }
}

/// The thread's side.
struct Writer {
    path: PathBuf,
    /// `None` while it cannot be opened.
    file: Option<File>,
    /// Whether a part of a line was written last.
    torn: bool,
    failing: bool,
    metrics: Arc<Metrics>,
}

impl Writer {
    fn run(&mut self, receiver: &Receiver<Message>) {
        let mut batch = Vec::new();
        while let Ok(first) = receiver.recv() {
            let mut lines = 0;
            let mut next = Some(first);
            let mut then = None;
            while let Some(message) = next {
                match message {
                    Message::Line(line) => {
                        batch.extend_from_slice(&line);
                        lines += 1;
                    }
                    other => {
                        then = Some(other);
                        break;
                    }
                }
                next = if batch.len() < BATCH_BYTES { receiver.try_recv().ok() } else { None };
            }
            if lines > 0 {
                self.put(&batch, lines);
                batch.clear();
            }
            match then {
                Some(Message::Reopen) => {
                    self.file = None;
                    // At once: whoever moved the old one away looks for the new one.
                    self.put(&[], 0);
                }
                Some(Message::Close) => return,
                Some(Message::Line(_)) | None => {}
            }
        }
    }

    fn put(&mut self, batch: &[u8], lines: u64) {
        match self.try_put(batch) {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!(path = %self.path.display(), "the audit log is written again");
            }
            Ok(()) => {}
            Err(error) => {
                self.metrics.count("taxiway_audit_lost_total", &[], lines);
                self.file = None;
                if !self.failing {
                    self.failing = true;
                    tracing::error!(
                        path = %self.path.display(),
                        %error,
                        "the audit log cannot be written; its lines are lost until it can be, and counted"
                    );
                }
            }
        }
    }

    fn try_put(&mut self, batch: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(open(&self.path)?),
        };
        if self.torn {
            // What was begun ends here, so that the next line is one.
            file.write_all(b"\n")?;
            self.torn = false;
        }
        let mut rest = batch;
        while !rest.is_empty() {
            match file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    rest = rest.get(written..).unwrap_or_default();
                    self.torn = batch.get(..batch.len() - rest.len()).is_some_and(|done| !done.ends_with(b"\n"));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(request_id: &str) -> Line<'_> {
        Line {
            time: "2024-05-02T08:00:00.000001Z".to_owned(),
            request_id,
            action: Action::Read.as_str(),
            user: Some("ann"),
            proof: Some("password"),
            certificate: None,
            address: "192.0.2.7".to_owned(),
            method: "GET",
            path: "/root/",
            query: None,
            api_root: Some("root"),
            collection: None,
            object: None,
            objects: Some(2),
            status: 200,
            bytes: 17,
            complete: true,
            first: None,
            last: None,
        }
    }

    fn ids(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).expect("readable");
        let id = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            line["request_id"].as_str().expect("an id").to_owned()
        };
        text.lines().map(id).collect()
    }

    #[test]
    fn lines_are_appended_and_the_file_may_be_moved_away() {
        let folder = tempfile::tempdir().expect("folder");
        let (path, moved) = (folder.path().join("audit.jsonl"), folder.path().join("audit.1"));
        let metrics = Arc::default();
        let audit = Audit::open(&path, &metrics).expect("opens");
        for id in ["1", "2"] {
            audit.write(&line(id));
        }
        drop(audit);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        }
        let audit = Audit::open(&path, &metrics).expect("opens");
        audit.write(&line("3"));
        audit.reopen();
        audit.close();
        assert_eq!(ids(&path), ["1", "2", "3"], "what was there stays");

        let audit = Audit::open(&path, &metrics).expect("opens");
        std::fs::rename(&path, &moved).expect("moves");
        audit.write(&line("4"));
        audit.reopen();
        audit.write(&line("5"));
        audit.close();
        assert_eq!(ids(&moved), ["1", "2", "3", "4"]);
        assert_eq!(ids(&path), ["5"]);
        assert!(metrics.text().lines().any(|line| line == "taxiway_audit_lost_total 0"));
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_what_can_be_is_written_again() {
        let folder = tempfile::tempdir().expect("folder");
        let place = folder.path().join("logs");
        let path = place.join("audit.jsonl");
        assert!(Audit::examine(&path).is_err() && Audit::examine(&folder.path().join("new.jsonl")).is_ok());
        std::fs::create_dir(&place).expect("folder");
        assert!(Audit::examine(&path).is_ok() && Audit::examine(&place).is_err());
        let metrics = Arc::default();
        let mut writer =
            Writer { path: path.clone(), file: None, torn: false, failing: false, metrics: Arc::clone(&metrics) };
        let bytes = |id: &str| serde_json::to_vec(&line(id)).map(|line| [&line[..], b"\n"].concat()).expect("JSON");
        writer.put(&bytes("1"), 1);
        writer.file = None;
        std::fs::rename(&place, folder.path().join("away")).expect("moves");
        writer.put(&bytes("2"), 3);
        assert!(writer.failing);
        std::fs::rename(folder.path().join("away"), &place).expect("moves");
        // As a full disk leaves it.
        OpenOptions::new().append(true).open(&path).and_then(|mut file| file.write_all(b"{}")).expect("writes");
        writer.torn = true;
        writer.put(&bytes("3"), 1);
        assert!(!writer.failing);
        let text = std::fs::read_to_string(&path).expect("readable");
        assert_eq!(text.lines().count(), 3);
        assert!(text.ends_with(&String::from_utf8(bytes("3")).expect("text")), "{text}");
        assert!(metrics.text().lines().any(|line| line == "taxiway_audit_lost_total 3"));
    }
}
