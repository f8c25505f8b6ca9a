//! The manifest: one small file that says which segments make the store, and its publication.
//!
//! Version N+1 is published by creating a file that must not exist yet, so of two writers exactly one wins. Everything a version
//! refers to is durable before it is published; a kill at any instant leaves the version before.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::error::StoreError;
use super::fs::{Listed, Storage};
use crate::model::time::Timestamp;

/// Version of the files' shape.
pub(crate) const FORMAT_VERSION: u32 = 2;

const FOLDER: &str = "manifest";

/// One published version of the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Shape of this file.
    pub format: u32,
    /// Rises by one with each commit.
    pub version: u64,
    /// When it was published: microseconds.
    pub published: i64,
    /// The last `added` ever given: microseconds. Never falls, whatever is removed.
    pub clock: i64,
    /// In the order of `added`; their ranges do not overlap.
    pub segments: Vec<SegmentMeta>,
    /// Edges that wait for an end, outside of the log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<SegmentMeta>,
    /// The marking and extension definitions that the log holds, by type and name (`marking-definition:red`), as rows of ours or as
    /// native objects.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub definitions: BTreeSet<String>,
    /// The version with which rows were last deleted: readers of versions before it go on in the newest one. 0: never.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub last_deletion: u64,
    /// Where fetching goes on: for each source, by its id, and each of its collections, a text that the store does not read. It is
    /// of the same version as the rows that led there, so neither is ever without the other.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub places: BTreeMap<String, BTreeMap<String, String>>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What the manifest knows of a segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SegmentMeta {
    /// Unique name of its files.
    pub id: String,
    /// Version of its columns.
    pub schema: u32,
    /// Rows, superseded ones included.
    pub rows: u64,
    /// Size of the Parquet file.
    pub bytes: u64,
    /// XXH3 of the Parquet file, hexadecimal.
    pub checksum: String,
    /// Size of the index.
    pub index_bytes: u64,
    /// XXH3 of the index.
    pub index_checksum: String,
    /// `added` of the first row: microseconds.
    pub first_added: i64,
    /// `added` of the last row.
    pub last_added: i64,
    /// Rows by STIX type; the empty name counts rows without one.
    pub types: BTreeMap<String, u64>,
    /// Rows that are native STIX objects or edges, neither indicators nor definitions of ours.
    pub natives: u64,
    /// The rows (few) that are definitions of ours: no records, though they are served where a collection needs them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub definitions: Vec<u32>,
    /// Rows of inboxes, by the version of STIX they are written in.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub posted: BTreeMap<String, u64>,
    /// Rows that a later version replaced; absent when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded: Option<SupersededMeta>,
    /// Rows that were deleted, which are superseded as well; absent when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<SupersededMeta>,
}

impl SegmentMeta {
    /// Rows of inboxes.
    pub fn posted_rows(&self) -> u64 {
        self.posted.values().sum()
    }
}

/// Where the set of a segment's superseded rows lies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SupersededMeta {
    /// File below `superseded/`.
    pub file: String,
    /// Number of rows in it.
    pub rows: u64,
    /// Size.
    pub bytes: u64,
    /// XXH3.
    pub checksum: String,
}

impl Manifest {
    pub(crate) fn empty() -> Self {
        Manifest {
            format: FORMAT_VERSION,
            version: 0,
            published: 0,
            clock: 0,
            segments: Vec::new(),
            waiting: Vec::new(),
            definitions: BTreeSet::new(),
            last_deletion: 0,
            places: BTreeMap::new(),
        }
    }

    /// The version after this one, to be changed and published.
    pub(crate) fn successor(&self, now: Timestamp) -> Self {
        Manifest { format: FORMAT_VERSION, version: self.version + 1, published: now.0, ..self.clone() }
    }

    /// The segments of the log, then those that wait.
    pub(crate) fn all_segments(&self) -> impl Iterator<Item = &SegmentMeta> {
        self.segments.iter().chain(&self.waiting)
    }

    fn encode(&self) -> Result<Vec<u8>, StoreError> {
        let mut text = serde_json::to_vec(self).map_err(|error| StoreError::damaged(path(self.version), error))?;
        let checksum = XxHash3_64::oneshot(&text);
        text.extend_from_slice(format!("\n{checksum:016x}\n").as_bytes());
        Ok(text)
    }

    /// Makes this version the newest one; `false` when another writer did so with the same number.
    pub(crate) fn publish(&self, storage: &dyn Storage) -> Result<bool, StoreError> {
        storage.put_if_absent(&path(self.version), &self.encode()?, false)
    }

    /// Reads one version; `None` when it is not there (any more).
    pub(crate) fn load(storage: &dyn Storage, version: u64) -> Result<Option<Manifest>, StoreError> {
        let path = path(version);
        let Some(bytes) = storage.read(&path)? else { return Ok(None) };
        let described = storage.describe(&path);
        let damaged = |detail: String| StoreError::damaged(&described, detail);
        let text = std::str::from_utf8(&bytes).map_err(|error| damaged(error.to_string()))?;
        let (json, checksum) = text.split_once('\n').ok_or_else(|| damaged("it ends early".to_owned()))?;
        if format!("{:016x}\n", XxHash3_64::oneshot(json.as_bytes())) != checksum {
            return Err(damaged("its checksum does not fit".to_owned()));
        }
        #[derive(Deserialize)]
        struct Shape {
            format: u32,
        }
        let shape: Shape = serde_json::from_str(json).map_err(|error| damaged(error.to_string()))?;
        if shape.format > FORMAT_VERSION {
            return Err(StoreError::Newer {
                path: described,
                what: "format",
                found: shape.format,
                known: FORMAT_VERSION,
            });
        }
        let manifest: Manifest = serde_json::from_str(json).map_err(|error| damaged(error.to_string()))?;
        if manifest.version != version {
            return Err(damaged(format!("it says it is version {}", manifest.version)));
        }
        Ok(Some(manifest))
    }

    /// Versions that exist, ascending, with their files.
    pub(crate) fn listed(storage: &dyn Storage) -> Result<Vec<(u64, Listed)>, StoreError> {
        let listed = storage.list(FOLDER)?.into_iter();
        let mut versions: Vec<(u64, Listed)> =
            listed.filter_map(|listed| Some((number(&listed.name)?, listed))).collect();
        versions.sort_unstable_by_key(|(version, _)| *version);
        Ok(versions)
    }

    /// Versions that exist, ascending.
    pub(crate) fn versions(storage: &dyn Storage) -> Result<Vec<u64>, StoreError> {
        let mut versions: Vec<u64> = storage.names(FOLDER)?.iter().filter_map(|name| number(name)).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// Number of the newest version; 0 in a new store.
    pub(crate) fn newest(storage: &dyn Storage) -> Result<u64, StoreError> {
        let names = storage.names(FOLDER)?;
        Ok(names.iter().filter_map(|name| number(name)).max().unwrap_or(0))
    }

    pub(crate) fn exists(storage: &dyn Storage, version: u64) -> Result<bool, StoreError> {
        storage.exists(&path(version))
    }

    pub(crate) fn delete(storage: &dyn Storage, version: u64) -> Result<(), StoreError> {
        storage.delete(&path(version))
    }
}

fn number(name: &str) -> Option<u64> {
    name.strip_suffix(".json")?.parse().ok()
}

fn path(version: u64) -> String {
    format!("{FOLDER}/{version:020}.json")
}
