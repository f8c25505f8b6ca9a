//! Statuses of posts: written once, when all is done, and kept for a day (TAXII 2.1 §4.3, TAXII 2.0 §4.3).
//!
//! ```text
//! statuses/2026-11-22T13-<process>.ndjson     one JSON object a line, appended and synced before the post is answered
//! ```
//! An hour has a file for each process that wrote in it, so that no process meets the torn last line of another. In memory is only
//! where each status lies.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::InboxError;
use crate::model::time::{MICROS_PER_SECOND, Timestamp};

const HOUR: i64 = 3_600 * MICROS_PER_SECOND;
const ENDING: &str = ".ndjson";
/// Length of `2026-11-22T13`.
const HOUR_CHARS: usize = 13;

/// What became of a post. Nothing is ever pending: it is written before it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its id.
    #[serde(serialize_with = "uuid_out", deserialize_with = "uuid_in")]
    pub id: Uuid,
    /// Path of the API root that was posted to.
    pub root: String,
    /// Who posted; `None`: nobody said.
    pub user: Option<String>,
    /// When the post came.
    #[serde(serialize_with = "time_out", deserialize_with = "time_in")]
    pub requested: Timestamp,
    /// Objects that are in the collection, in the order they came.
    pub successes: Vec<Detail>,
    /// Objects that could not be taken.
    pub failures: Vec<Detail>,
}

/// One object of a post.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// Its STIX id; of one without, its place in the post, such as `objects[3]`.
    pub id: String,
    /// Its version; of a failure without one, when the post came.
    #[serde(serialize_with = "time_out", deserialize_with = "time_in")]
    pub version: Timestamp,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Status {
    /// Number of objects of the post.
    pub fn total(&self) -> usize {
        self.successes.len() + self.failures.len()
    }
}

fn uuid_out<S: Serializer>(id: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

fn uuid_in<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Uuid, D::Error> {
    let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
    Uuid::try_parse(&text).map_err(serde::de::Error::custom)
}

fn time_out<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(at.0)
}

fn time_in<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    i64::deserialize(deserializer).map(Timestamp)
}

/// Where the statuses lie. Read by everyone, filled by the one who writes.
#[derive(Debug, Default)]
pub(super) struct Index {
    folder: PathBuf,
    places: RwLock<HashMap<Uuid, Place>>,
}

#[derive(Clone, Debug)]
struct Place {
    file: Arc<str>,
    offset: u64,
    bytes: u64,
}

impl Index {
    /// The status of that id. Blocks.
    pub(super) fn read(&self, id: Uuid) -> Option<Status> {
        let Place { file, offset, bytes } = self.places.read().get(&id).cloned()?;
        let path = self.folder.join(&*file);
        let read = || -> io::Result<Status> {
            let mut opened = File::open(&path)?;
            opened.seek(SeekFrom::Start(offset))?;
            let mut line = Vec::new();
            opened.take(bytes).read_to_end(&mut line)?;
            Ok(serde_json::from_slice(&line)?)
        };
        match read() {
            Ok(status) => Some(status),
            Err(error) => {
                // Files go when they are old, whether or not somebody is about to read them.
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::error!(file = %path.display(), %error, "a status cannot be read");
                }
                None
            }
        }
    }
}

/// The one place that statuses are written to.
#[derive(Debug)]
pub(super) struct StatusLog {
    index: Arc<Index>,
    kept: Duration,
    /// Tells this process's files from others'.
    process: String,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    hour: i64,
    name: Arc<str>,
    file: File,
    /// What the file holds for certain.
    bytes: u64,
}

impl StatusLog {
    /// Finds out where the statuses lie that were written before, and removes old ones.
    pub(super) fn open(folder: PathBuf, kept: Duration, now: Timestamp) -> Result<(Self, Arc<Index>), InboxError> {
        fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
        let mut places = HashMap::new();
        for (name, _) in remove_old(&folder, kept, now)? {
            read_places(&folder, &name, &mut places)?;
        }
        let index = Arc::new(Index { folder, places: RwLock::new(places) });
        let process = Uuid::new_v4().simple().to_string().chars().take(8).collect();
        Ok((StatusLog { index: Arc::clone(&index), kept, process, open: None }, index))
    }

    /// Writes statuses so that they survive whatever comes, then makes them known.
    pub(super) fn append<'a>(
        &mut self,
        statuses: impl Iterator<Item = &'a Status>,
        now: Timestamp,
    ) -> Result<(), InboxError> {
        let hour = now.0.div_euclid(HOUR);
        if self.open.as_ref().is_some_and(|open| open.hour != hour) {
            self.open = None;
            self.forget_old(now);
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.start(hour)?,
        };
        let path = self.index.folder.join(&*open.name);
        let mut text = Vec::new();
        let mut places = Vec::new();
        for status in statuses {
            let start = text.len();
            serde_json::to_writer(&mut text, status).map_err(|error| failed("write", &path)(error.into()))?;
            let place = Place {
                file: Arc::clone(&open.name),
                offset: open.bytes + start as u64,
                bytes: (text.len() - start) as u64,
            };
            text.push(b'\n');
            places.push((status.id, place));
        }
        // After a failure nobody knows what the file holds: the next statuses go into another one.
        open.file.write_all(&text).map_err(failed("write", &path))?;
        open.file.sync_data().map_err(failed("sync", &path))?;
        open.bytes += text.len() as u64;
        self.open = Some(open);
        self.index.places.write().extend(places);
        Ok(())
    }

    fn start(&self, hour: i64) -> Result<Open, InboxError> {
        let of_hour = Timestamp(hour.saturating_mul(HOUR)).to_string();
        let of_hour = of_hour.get(..HOUR_CHARS).unwrap_or(&of_hour);
        let folder = &self.index.folder;
        for number in 0..1_000 {
            let name = match number {
                0 => format!("{of_hour}-{}{ENDING}", self.process),
                _ => format!("{of_hour}-{}-{number}{ENDING}", self.process),
            };
            let path = folder.join(&name);
            match File::options().append(true).create_new(true).open(&path) {
                Ok(file) => {
                    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))?;
                    return Ok(Open { hour, name: name.into(), file, bytes: 0 });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed("create", &path)(error)),
            }
        }
        Err(InboxError::Internal { what: "begin a file of statuses: too many of this hour failed" })
    }

    /// What cannot be removed now is tried again in an hour.
    fn forget_old(&self, now: Timestamp) {
        match remove_old(&self.index.folder, self.kept, now) {
            Ok(left) => self.index.places.write().retain(|_, place| left.contains_key(&*place.file)),
            Err(error) => tracing::warn!(%error, "old statuses cannot be removed"),
        }
    }
}

/// Removes the files of hours that are past keeping; gives those that stay, with their hours.
fn remove_old(folder: &Path, kept: Duration, now: Timestamp) -> Result<HashMap<String, i64>, InboxError> {
    let kept = i64::try_from(kept.as_micros()).unwrap_or(i64::MAX);
    // A status may be of the last microsecond of its hour.
    let oldest = now.0.saturating_sub(kept).div_euclid(HOUR);
    let mut left = HashMap::new();
    for entry in fs::read_dir(folder).map_err(failed("list", folder))? {
        let name = entry.map_err(failed("list", folder))?.file_name().to_string_lossy().into_owned();
        let Some(hour) = hour_of(&name) else { continue };
        if hour >= oldest {
            left.insert(name, hour);
            continue;
        }
        let path = folder.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &path)(error)),
            _ => {}
        }
    }
    Ok(left)
}

/// The hour that a file of ours is of.
fn hour_of(name: &str) -> Option<i64> {
    let hour = name.ends_with(ENDING).then(|| name.get(..HOUR_CHARS)).flatten()?;
    let at = Timestamp::parse(&format!("{hour}:00:00Z")).ok()?;
    Some(at.0.div_euclid(HOUR))
}

/// What has to be known of a status to find it.
#[derive(Deserialize)]
struct Head {
    #[serde(deserialize_with = "uuid_in")]
    id: Uuid,
    /// There when the line is whole.
    #[serde(rename = "failures")]
    _failures: IgnoredAny,
}

fn read_places(folder: &Path, name: &str, places: &mut HashMap<Uuid, Place>) -> Result<(), InboxError> {
    let path = folder.join(name);
    let file: Arc<str> = name.into();
    let mut reader = BufReader::new(File::open(&path).map_err(failed("read", &path))?);
    let mut line = Vec::new();
    let mut offset = 0;
    loop {
        line.clear();
        let bytes = reader.read_until(b'\n', &mut line).map_err(failed("read", &path))? as u64;
        if bytes == 0 {
            return Ok(());
        }
        // A torn line is one that was never acknowledged.
        if let Some(text) = line.strip_suffix(b"\n")
            && let Ok(Head { id, .. }) = serde_json::from_slice(text)
        {
            places.insert(id, Place { file: Arc::clone(&file), offset, bytes: text.len() as u64 });
        }
        offset += bytes;
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InboxError {
    let path = path.display().to_string();
    move |source| InboxError::Statuses { action, path, source: Arc::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Duration = Duration::from_secs(24 * 3_600);

    fn status(number: u128, requested: Timestamp) -> Status {
        let detail = |id: &str, message: Option<&str>| Detail {
            id: id.to_owned(),
            version: Timestamp(5),
            message: message.map(str::to_owned),
        };
        Status {
            id: Uuid::from_u128(number),
            root: "a/b".to_owned(),
            user: Some("z\u{e9}\n\"".to_owned()),
            requested,
            successes: vec![detail("url--1", None)],
            failures: vec![detail("objects[1]", Some("no `id`"))],
        }
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn statuses_are_there_after_a_restart_but_for_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let now = at("2026-11-22T13:59:59Z");
        let all: Vec<Status> = (0..3).map(|number| status(number, now)).collect();
        let (mut log, index) = StatusLog::open(folder.path().to_owned(), KEPT, now).unwrap();
        log.append(all[..2].iter(), now).unwrap();
        log.append(all[2..].iter(), now).unwrap();
        assert_eq!(
            all.iter().map(|one| index.read(one.id)).collect::<Vec<_>>(),
            all.iter().cloned().map(Some).collect::<Vec<_>>()
        );
        let file = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let whole = fs::read(&file).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let last_line =
            whole.len() - 1 - whole[..whole.len() - 1].iter().rev().position(|byte| *byte == b'\n').unwrap();
        for cut in [whole.len(), whole.len() - 1, whole.len() - 5, last_line + 1, last_line] {
            fs::write(&file, &whole[..cut]).unwrap();
            let (mut log, index) = StatusLog::open(folder.path().to_owned(), KEPT, now).unwrap();
            assert_eq!(index.read(all[0].id).as_ref(), Some(&all[0]));
            assert_eq!(index.read(all[2].id).is_some(), cut == whole.len(), "cut at {cut}");
            // What is written after a tear is whole again.
            let next = status(99, now);
            log.append(std::iter::once(&next), now).unwrap();
            let (_, reopened) = StatusLog::open(folder.path().to_owned(), KEPT, now).unwrap();
            assert_eq!((index.read(next.id), reopened.read(next.id)), (Some(next.clone()), Some(next)));
        }
    }

    #[test]
    fn statuses_are_kept_for_a_day_and_not_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let first = at("2026-11-22T13:59:59.999999Z");
        let (mut log, index) = StatusLog::open(folder.path().to_owned(), KEPT, first).unwrap();
        let old = status(1, first);
        log.append(std::iter::once(&old), first).unwrap();
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        for (number, now, there) in [
            (2, "2026-11-22T14:00:00Z", true),
            (3, "2026-11-23T13:59:59.999999Z", true),
            (4, "2026-11-23T14:00:00Z", false),
            (5, "2026-12-23T15:00:00Z", false),
        ] {
            let later = status(number, at(now));
            log.append(std::iter::once(&later), at(now)).unwrap();
            assert_eq!(index.read(old.id).is_some(), there, "{now}");
            assert_eq!(index.read(later.id), Some(later), "{now}");
            let (_, reopened) = StatusLog::open(folder.path().to_owned(), KEPT, at(now)).unwrap();
            assert_eq!(reopened.read(old.id).is_some(), there, "{now}, reopened");
        }
        let names: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names.contains(&"notes.txt".to_owned()));
    }
}
