//! Files put into an inbox, as if a client had posted them; with the dates that another server gave, if it is known.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::resolve::{resolve, versions};
use super::writer::picked;
use crate::ingest::{Parsed, Reject, Summary, inbox_key};
use crate::model::time::Timestamp;
use crate::store::{NewRows, Store, StoreError, bytes_of, joined};

/// Rows and bytes of a commit;
const COMMIT: (usize, usize) = (131_072, 64 << 20);
/// with dates, which have to be put in order first.
const DATED_COMMIT: (usize, usize) = (1 << 20, 256 << 20);

/// When each version of an object was added to a collection of another server, as its manifest says (TAXII 2.1 §5.3, TAXII 2.0
/// §5.3).
#[derive(Debug, Default)]
pub struct AddedDates {
    /// By the key of the object in the inbox: version, where one is meant, and date.
    dates: HashMap<u64, Vec<(Option<Timestamp>, Timestamp)>>,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not what a TAXII server gives.
    #[error("not a TAXII manifest, `{{\"objects\":[{{\"id\":...,\"date_added\":...}}]}}`: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A date of it is none.
    #[error("the manifest has `{text}` as a date of `{id}`, which is no timestamp")]
    BadDate {
        /// The object.
        id: String,
        /// The date.
        text: String,
    },
}

#[derive(Deserialize)]
struct ManifestResource {
    #[serde(default)]
    objects: Vec<ManifestRecord>,
    /// Without it a list would pass for a manifest.
    #[serde(flatten)]
    _others: HashMap<String, IgnoredAny>,
}

#[derive(Deserialize)]
struct ManifestRecord {
    id: String,
    date_added: String,
    version: Option<String>,
    #[serde(default)]
    versions: Vec<String>,
}

impl AddedDates {
    /// Adds what a manifest resource says of objects that go into the inbox of that id; a manifest may come in several pages.
    pub fn read(&mut self, inbox: &str, manifest: impl io::Read) -> Result<usize, ManifestError> {
        let resource: ManifestResource = serde_json::from_reader(manifest)?;
        for record in &resource.objects {
            let date = |text: &str| {
                let bad = |_| ManifestError::BadDate { id: record.id.clone(), text: text.to_owned() };
                Timestamp::parse(text).map_err(bad)
            };
            let added = date(&record.date_added)?;
            let dates = self.dates.entry(inbox_key(inbox, &record.id)).or_default();
            dates.push((None, added));
            for version in record.version.iter().chain(&record.versions) {
                dates.push((Some(date(version)?), added));
            }
        }
        Ok(resource.objects.len())
    }

    /// The date of a version; of one that the manifest does not name, the last date of its object.
    fn of(&self, key: u64, version: Option<Timestamp>) -> Option<Timestamp> {
        let dates = self.dates.get(&key)?;
        let exact = dates.iter().find(|(of, _)| of.is_some() && *of == version);
        exact.or_else(|| dates.iter().max_by_key(|(_, added)| *added)).map(|(_, added)| *added)
    }
}

/// Puts parsed objects into an inbox. They must have been decoded for it.
#[derive(Debug)]
pub struct InboxImporter {
    store: Store,
    dry_run: bool,
    dates: Option<AddedDates>,
    pending: Vec<NewRows>,
    pending_rows: usize,
    pending_bytes: usize,
    summary: Summary,
}

impl InboxImporter {
    /// With `dates`, objects keep those wherever the clock stays rising; a dry run only counts.
    pub fn new(store: &Store, dates: Option<AddedDates>, dry_run: bool) -> Self {
        InboxImporter {
            store: store.clone(),
            dry_run,
            dates,
            pending: Vec::new(),
            pending_rows: 0,
            pending_bytes: 0,
            summary: Summary::default(),
        }
    }

    /// What was done so far.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Takes a block; gives back what of it are no objects.
    pub fn push(&mut self, parsed: Parsed) -> Result<Vec<Reject>, StoreError> {
        let Parsed { batch, keys, digests, rejects, warnings, read, bytes, .. } = parsed;
        self.summary.read += read;
        self.summary.bytes += bytes;
        self.summary.rejected += rejects.len() as u64;
        self.summary.warnings.merge(warnings);
        if batch.num_rows() > 0 {
            self.pending_rows += batch.num_rows();
            self.pending_bytes += bytes_of(&batch);
            self.pending.push(NewRows { batch, keys, digests });
        }
        let (rows, bytes) = if self.dates.is_some() { DATED_COMMIT } else { COMMIT };
        if self.pending_rows >= rows || self.pending_bytes >= bytes {
            self.commit()?;
        }
        Ok(rejects)
    }

    /// Writes the rest.
    pub fn finish(mut self) -> Result<Summary, StoreError> {
        self.commit()?;
        Ok(self.summary)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.pending_rows = 0;
        self.pending_bytes = 0;
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Ok(());
        }
        let mut rows = joined(&pending)?;
        drop(pending);
        let now = self.store.now();
        let mut dates = match &self.dates {
            Some(known) => {
                let versions = versions(&rows.batch)?;
                let of = |(key, version): (&u64, &Option<Timestamp>)| known.of(*key, *version).unwrap_or(now);
                Some(rows.keys.iter().zip(&versions).map(of).collect::<Vec<Timestamp>>())
            }
            None => None,
        };
        if let Some(dates) = &mut dates {
            let mut order: Vec<u32> = (0..rows.keys.len() as u32).collect();
            order.sort_by_key(|row| dates.get(*row as usize).copied());
            if !order.is_sorted() {
                rows = picked(&rows, &order)?;
                dates.sort_unstable();
            }
        }
        let writer = if self.dry_run { None } else { Some(self.store.writer()?) };
        let snapshot = match &writer {
            Some(writer) => Arc::clone(writer.snapshot()),
            None => self.store.snapshot()?,
        };
        let resolved = resolve(&snapshot, &rows, now)?;
        let (written, changed) = (resolved.written.len() as u64, resolved.superseded.len() as u64);
        self.summary.changed += changed;
        self.summary.new += written - changed;
        self.summary.unchanged += rows.keys.len() as u64 - written;
        let Some(mut writer) = writer.filter(|_| written > 0) else { return Ok(()) };
        for (segment, row) in &resolved.superseded {
            writer.supersede(*segment, *row);
        }
        let new = picked(&rows, &resolved.written)?;
        match dates {
            Some(dates) => {
                let of = |row: &u32| dates.get(*row as usize).copied().unwrap_or(now);
                let dates: Vec<Timestamp> = resolved.written.iter().map(of).collect();
                writer.append_at(new, &resolved.stale, &dates)?;
            }
            None => writer.append(new, &resolved.stale)?,
        }
        writer.publish().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_of_both_versions_give_dates() {
        let mut dates = AddedDates::default();
        let of_21 = r#"{"more":true,"objects":[
            {"id":"a","date_added":"2024-01-01T00:00:00.000001Z","version":"2023-01-01T00:00:00.000Z","media_type":"x"},
            {"id":"a","date_added":"2024-01-03T00:00:00.000001Z","version":"2023-01-02T00:00:00Z"}]}"#;
        let of_20 = r#"{"objects":[{"id":"b","date_added":"2024-01-02","versions":["2023-05-01T00:00:00Z","2023-04-01T00:00:00Z"]},
            {"id":"c","date_added":"2024-01-04"}]}"#;
        assert_eq!(dates.read("box", of_21.as_bytes()).unwrap(), 2);
        assert_eq!(dates.read("box", of_20.as_bytes()).unwrap(), 2);
        assert_eq!(dates.read("box", &b"{}"[..]).unwrap(), 0);
        let at = |text: &str| Timestamp::parse(text).ok();
        let cases = [
            ("a", "2023-01-01", "2024-01-01T00:00:00.000001Z"),
            ("a", "2023-01-02", "2024-01-03T00:00:00.000001Z"),
            ("a", "2022-01-02", "2024-01-03T00:00:00.000001Z"),
            ("a", "", "2024-01-03T00:00:00.000001Z"),
            ("b", "2023-04-01", "2024-01-02"),
            ("c", "", "2024-01-04"),
            ("d", "", ""),
        ];
        for (id, version, expected) in cases {
            assert_eq!(dates.of(inbox_key("box", id), at(version)), at(expected), "{id} {version}");
        }
        assert_eq!(dates.of(inbox_key("other", "a"), None), None);
        let wrong = [r#"{"objects":[{"id":"a","date_added":"soon"}]}"#, r#"{"objects":[{"id":"a"}]}"#, "[]", ""];
        for text in wrong {
            assert!(dates.read("box", text.as_bytes()).is_err(), "{text}");
        }
    }
}
