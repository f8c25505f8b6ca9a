//! What became of fetches: a line each in a log that does not grow without end, and the state of each source now.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::disk;
use crate::model::time::Timestamp;
use crate::source::{Collection, Version};

/// A log larger than this loses its older half.
const MOST_BYTES: u64 = 1 << 20;

/// What had a fetch begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// Its time had come.
    Schedule,
    /// Somebody asked for it.
    Asked,
}

/// How a fetch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All there was is here, or as much as the source's limit allows.
    Completed,
    /// It was stopped; the next one goes on where it ended.
    Stopped,
    /// Something went wrong; what came before is kept.
    Failed,
}

impl Outcome {
    /// The lower-case word.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Completed => "completed",
            Outcome::Stopped => "stopped",
            Outcome::Failed => "failed",
        }
    }
}

/// What came of a collection in one fetch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionReport {
    /// Its id or name.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Objects that came.
    pub objects: u64,
    /// Answers.
    pub answers: u64,
    /// Bytes of answers, decompressed.
    pub bytes: u64,
    /// Objects the server sent again within this fetch, left out.
    pub repeated: u64,
    /// Parts that could not be used.
    pub rejected: u64,
    /// Kinds of content that is not read, and how often they came.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skipped: BTreeMap<String, u64>,
    /// Why it was not fetched to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What came of a fetch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// When it began.
    #[serde(with = "moment")]
    pub began: Timestamp,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Why it began.
    pub trigger: Trigger,
    /// How it ended.
    pub outcome: Outcome,
    /// What went wrong, first of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether that may go away by itself.
    #[serde(default)]
    pub transient: bool,
    /// How long the server asked to be left alone, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// The version spoken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Objects that came.
    pub objects: u64,
    /// Answers.
    pub answers: u64,
    /// Bytes of answers, decompressed.
    pub bytes: u64,
    /// Records that were not there before.
    pub new: u64,
    /// Records that said something new.
    pub changed: u64,
    /// Records that said nothing new.
    pub unchanged: u64,
    /// Objects, or parts of answers, that could not be used.
    pub rejected: u64,
    /// Relationships in the store whose ends are not there yet.
    pub waiting: u64,
    /// Each collection.
    pub collections: Vec<CollectionReport>,
    /// The first parts that could not be used, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejections: Vec<String>,
    /// What was odd about the server, and what was done about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Report {
    /// Of a fetch that begins now.
    pub fn begun(trigger: Trigger, began: Timestamp) -> Self {
        Report {
            began,
            seconds: 0.0,
            trigger,
            outcome: Outcome::Completed,
            error: None,
            transient: false,
            retry_after: None,
            version: None,
            objects: 0,
            answers: 0,
            bytes: 0,
            new: 0,
            changed: 0,
            unchanged: 0,
            rejected: 0,
            waiting: 0,
            collections: Vec::new(),
            rejections: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// A collection the server has, as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// What it is.
    pub collection: Collection,
    /// Whether the definition chose it when it was seen.
    pub chosen: bool,
}

/// How a source stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// When the last fetch began.
    #[serde(with = "optional_moment")]
    pub last_attempt: Option<Timestamp>,
    /// When the last fetch that came to its end did so.
    #[serde(with = "optional_moment")]
    pub last_success: Option<Timestamp>,
    /// What went wrong in the last fetch.
    pub error: Option<String>,
    /// Whether that may go away by itself.
    pub transient: bool,
    /// Fetches that failed since the last one that did not.
    pub failures: u32,
    /// The server wants to be left alone until then.
    #[serde(with = "optional_moment")]
    pub not_before: Option<Timestamp>,
    /// Whether the last fetch was stopped before its end, and is to go on at once.
    pub stopped: bool,
    /// Whether a fetch began and did not end: it is running, or was killed.
    pub running: bool,
    /// Objects that ever came.
    pub objects: u64,
    /// Of them, those that were new.
    pub new: u64,
    /// Of them, those that changed what was there.
    pub changed: u64,
    /// Objects, or parts of answers, that could not be used.
    pub rejected: u64,
    /// Fetches that failed, ever.
    pub failed: u64,
    /// Fetches, ever.
    pub fetches: u64,
    /// What the server has, as it was last seen.
    pub collections: Vec<Known>,
    /// When that was.
    #[serde(with = "optional_moment")]
    pub refreshed: Option<Timestamp>,
}

impl State {
    /// What a fetch that ended at `now` makes of it.
    pub fn note(&mut self, report: &Report, now: Timestamp) {
        self.fetches += 1;
        self.objects += report.objects;
        self.new += report.new;
        self.changed += report.changed;
        self.rejected += report.rejected;
        self.error.clone_from(&report.error);
        self.transient = report.transient;
        self.not_before = report.retry_after.map(|seconds| {
            let micros = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
            Timestamp(now.0.saturating_add(micros))
        });
        self.stopped = report.outcome == Outcome::Stopped;
        match report.outcome {
            Outcome::Failed => {
                self.failures = self.failures.saturating_add(1);
                self.failed += 1;
            }
            Outcome::Completed => {
                self.failures = 0;
                self.last_success = Some(now);
            }
            Outcome::Stopped => self.failures = 0,
        }
    }
}

/// Where the state of a source is.
pub(super) fn state_path(folder: &Path, id: &str) -> PathBuf {
    folder.join("state").join(format!("{id}.json"))
}

/// Where the log of a source is.
pub(super) fn log_path(folder: &Path, id: &str) -> PathBuf {
    folder.join("log").join(format!("{id}.ndjson"))
}

/// How a source stands; one that was never fetched stands at nothing. What cannot be read counts as nothing: it is made
/// anew by the next fetch, and no place in any collection is in it.
pub fn state(folder: &Path, id: &str) -> State {
    let path = state_path(folder, id);
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "the state of a source cannot be read; it begins anew");
            State::default()
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the state of a source cannot be read; it begins anew");
            State::default()
        }
    }
}

/// Keeps how a source stands.
pub(super) fn keep_state(folder: &Path, id: &str, state: &State) -> io::Result<()> {
    disk::replace_private(&state_path(folder, id), &serde_json::to_vec(state)?)
}

/// Adds a line to the log of a source; only who holds its lock may.
pub(super) fn append(folder: &Path, id: &str, report: &Report) -> io::Result<()> {
    let path = log_path(folder, id);
    if let Some(parent) = path.parent() {
        disk::create_folder(parent)?;
    }
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut options = OpenOptions::new();
    options.create(true).append(true).read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&path)?;
    let length = file.metadata()?.len();
    if length > 0 && !ends_with_newline(&path, length)? {
        // A kill cut the last line off; it must not take this one with it.
        line.insert(0, b'\n');
    }
    file.write_all(&line)?;
    file.sync_data()?;
    if length > MOST_BYTES {
        let text = fs::read(&path)?;
        let half = text.len() / 2;
        let start = text.iter().skip(half).position(|byte| *byte == b'\n').map_or(0, |at| half + at + 1);
        disk::replace_private(&path, text.get(start..).unwrap_or_default())?;
    }
    Ok(())
}

fn ends_with_newline(path: &Path, length: u64) -> io::Result<bool> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = fs::File::open(path)?;
    file.seek(SeekFrom::Start(length - 1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// The last fetches of a source, the newest first. Lines that a kill cut off are left out.
pub fn reports(folder: &Path, id: &str, most: usize) -> io::Result<Vec<Report>> {
    let file = match fs::File::open(log_path(folder, id)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut reports = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        if let Ok(report) = serde_json::from_slice(&line?) {
            reports.push(report);
        }
    }
    reports.reverse();
    reports.truncate(most);
    Ok(reports)
}

mod moment {
    use super::{Deserialize, Deserializer, Serializer, Timestamp};

    pub(super) fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(at)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        Timestamp::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

mod optional_moment {
    use super::{Deserialize, Deserializer, Serialize, Serializer, Timestamp};

    pub(super) fn serialize<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        at.map(|at| at.to_string()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| Timestamp::parse(&text).map_err(serde::de::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(objects: u64, outcome: Outcome) -> Report {
        let began = Timestamp::parse("2024-05-01T00:00:00Z").unwrap();
        let mut report = Report::begun(Trigger::Asked, began);
        (report.objects, report.outcome) = (objects, outcome);
        if outcome == Outcome::Failed {
            report.error = Some("no answer".to_owned());
            report.retry_after = Some(60);
        }
        report
    }

    #[test]
    fn the_log_keeps_the_newest_and_stays_small() {
        let folder = tempfile::tempdir().unwrap();
        assert!(reports(folder.path(), "a", 10).unwrap().is_empty());
        let mut long = report(0, Outcome::Completed);
        long.warnings = vec!["x".repeat(10_000)];
        for number in 0..300 {
            long.objects = number;
            append(folder.path(), "a", &long).unwrap();
        }
        let size = fs::metadata(log_path(folder.path(), "a")).unwrap().len();
        assert!(size < MOST_BYTES + 100_000, "{size}");
        let kept = reports(folder.path(), "a", 20).unwrap();
        assert_eq!(kept.iter().map(|report| report.objects).collect::<Vec<_>>(), (280..300).rev().collect::<Vec<_>>());
    }

    #[test]
    fn a_line_cut_off_costs_itself() {
        let folder = tempfile::tempdir().unwrap();
        append(folder.path(), "a", &report(1, Outcome::Completed)).unwrap();
        let path = log_path(folder.path(), "a");
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], &whole[..20]].concat()).unwrap();
        append(folder.path(), "a", &report(2, Outcome::Failed)).unwrap();
        let kept = reports(folder.path(), "a", 10).unwrap();
        assert_eq!(kept, [report(2, Outcome::Failed), report(1, Outcome::Completed)]);
    }

    #[test]
    fn the_state_counts_and_survives() {
        let folder = tempfile::tempdir().unwrap();
        let now = Timestamp::parse("2024-05-02T00:00:00Z").unwrap();
        let mut held = state(folder.path(), "a");
        assert_eq!(held, State::default());
        held.note(&report(3, Outcome::Failed), now);
        held.note(&report(4, Outcome::Failed), now);
        assert_eq!((held.failures, held.failed, held.objects, held.last_success), (2, 2, 7, None));
        assert_eq!(held.not_before, Some(Timestamp::parse("2024-05-02T00:01:00Z").unwrap()));
        held.note(&report(1, Outcome::Completed), now);
        assert_eq!((held.failures, held.failed, held.last_success, held.not_before), (0, 2, Some(now), None));
        keep_state(folder.path(), "a", &held).unwrap();
        assert_eq!(state(folder.path(), "a"), held);
        fs::write(state_path(folder.path(), "a"), "{").unwrap();
        assert_eq!(state(folder.path(), "a"), State::default());
    }
}
