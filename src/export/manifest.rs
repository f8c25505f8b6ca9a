//! `export.json`: what an export is, and what of it is done.
//!
//! The last member is the SHA-256 of everything before it, so a manifest that was changed or cut off is not believed.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::export::ExportError;
use crate::export::place::write_durably;
use crate::model::time::Timestamp;

/// Name of the manifest of a folder; that of a single file has the file's name before it.
pub const MANIFEST: &str = "export.json";
/// Shape of the manifest.
const FORMAT: u32 = 1;
/// What stands before the checksum.
const CHECKSUM_KEY: &str = ",\n  \"checksum\": \"";

/// What was asked for: an export is taken up again, or added to, by the same request only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requested {
    /// `stix`, `ndjson`, `csv`, `parquet`, `list` or `misp`.
    pub format: String,
    /// Id of the collection.
    pub collection: String,
    /// Its title.
    pub title: String,
    /// The query, as it was written.
    pub query: String,
    /// Everything else that decides what the files hold.
    pub options: serde_json::Map<String, serde_json::Value>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartMeta {
    /// Name, in the manifest's folder.
    pub file: String,
    /// Objects, records, lines or attributes in it.
    pub rows: u64,
    /// Size.
    pub bytes: u64,
    /// Of the file as it lies there, hexadecimal.
    pub sha256: String,
    /// `added` of its first row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_added: Option<String>,
    /// `added` of its last row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_added: Option<String>,
    /// The run that wrote it: increments have further runs.
    pub run: u32,
    /// The MISP event that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<serde_json::Map<String, serde_json::Value>>,
}

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this file's shape.
    pub export_format: u32,
    /// Version of the program that wrote it.
    pub taxiway: String,
    /// Whether all of it is there.
    pub complete: bool,
    /// What was asked for.
    pub request: Requested,
    /// Number of the newest run.
    pub run: u32,
    /// Version of the store that the newest run saw.
    pub snapshot: u64,
    /// When the newest run asked: what relative dates of the query count from.
    pub asked: String,
    /// The newest run took what was added later than this; absent: everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// All that was added up to here was looked at: where the next increment goes on.
    pub position: String,
    /// `added` of the first row of all parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_added: Option<String>,
    /// `added` of the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_added: Option<String>,
    /// In all parts.
    pub rows: u64,
    /// Of all parts.
    pub bytes: u64,
    /// Rows of the newest run that could not be written: no form, no value.
    pub skipped: u64,
    /// When the newest run began.
    pub started: String,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// The files, in order.
    pub parts: Vec<PartMeta>,
}

impl Manifest {
    /// Begins one.
    pub(super) fn new(request: Requested, run: u32, now: Timestamp) -> Self {
        Manifest {
            export_format: FORMAT,
            taxiway: env!("CARGO_PKG_VERSION").to_owned(),
            complete: false,
            request,
            run,
            snapshot: 0,
            asked: now.to_string(),
            since: None,
            position: now.to_string(),
            first_added: None,
            last_added: None,
            rows: 0,
            bytes: 0,
            skipped: 0,
            started: now.to_string(),
            finished: None,
            parts: Vec::new(),
        }
    }

    /// Sums up the parts.
    pub(super) fn tally(&mut self) {
        self.rows = self.parts.iter().map(|part| part.rows).sum();
        self.bytes = self.parts.iter().map(|part| part.bytes).sum();
        self.first_added = self.parts.iter().find_map(|part| part.first_added.clone());
        self.last_added = self.parts.iter().rev().find_map(|part| part.last_added.clone());
    }

    /// Reads it; `None` when there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, ExportError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ExportError::io("read", path)(error)),
        };
        let bad = |reason: &str| ExportError::BadManifest { path: path.to_owned(), reason: reason.to_owned() };
        let (before, checksum) =
            text.rsplit_once(CHECKSUM_KEY).ok_or_else(|| bad("it is no manifest of an export, or was cut off"))?;
        if checksum.trim_end() != format!("{}\"\n}}", hex(&Sha256::digest(before))) {
            return Err(bad("its checksum does not fit: it was changed"));
        }
        let manifest: Manifest = serde_json::from_str(&text).map_err(|error| bad(&error.to_string()))?;
        if manifest.export_format > FORMAT {
            return Err(bad("a newer version of taxiway wrote it"));
        }
        // Names, not paths: what the manifest names is replaced and removed.
        let is_name = |name: &str| !name.is_empty() && !name.contains(['/', '\\']) && name != "..";
        if manifest.parts.iter().any(|part| !is_name(&part.file)) {
            return Err(bad("it names files elsewhere"));
        }
        Ok(Some(manifest))
    }

    /// Writes it in one step, durably.
    pub(super) fn write(&self, path: &Path) -> Result<(), ExportError> {
        let text = serde_json::to_string_pretty(self).map_err(ExportError::internal("write a manifest"))?;
        let before = text.strip_suffix("\n}").unwrap_or(&text);
        let checksum = hex(&Sha256::digest(before));
        write_durably(path, format!("{before}{CHECKSUM_KEY}{checksum}\"\n}}\n").as_bytes())
    }

    /// Where the next increment goes on.
    pub(super) fn position(&self, path: &Path) -> Result<Timestamp, ExportError> {
        instant(&self.position, path)
    }
}

/// An instant of a manifest.
pub(super) fn instant(text: &str, path: &Path) -> Result<Timestamp, ExportError> {
    Timestamp::parse(text)
        .map_err(|error| ExportError::BadManifest { path: path.to_owned(), reason: error.to_string() })
}

/// In lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing into a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(MANIFEST);
        assert!(Manifest::read(&path).unwrap().is_none());
        let request = Requested {
            format: "csv".to_owned(),
            collection: "c".to_owned(),
            title: "odd \",\n  \"checksum\": \"x".to_owned(),
            query: String::new(),
            options: serde_json::Map::new(),
        };
        let mut manifest = Manifest::new(request, 1, Timestamp(0));
        let part = |file: &str| PartMeta {
            file: file.to_owned(),
            rows: 3,
            bytes: 10,
            sha256: String::new(),
            first_added: Some("a".to_owned()),
            last_added: None,
            run: 1,
            event: None,
        };
        manifest.parts = vec![part("x.csv"), part("y.csv")];
        manifest.tally();
        assert_eq!((manifest.rows, manifest.bytes), (6, 20));
        manifest.write(&path).unwrap();
        assert_eq!(Manifest::read(&path).unwrap().unwrap(), manifest);
        let text = std::fs::read_to_string(&path).unwrap();
        for changed in
            [text.replace("x.csv", "z.csv"), text[..text.len() / 2].to_owned(), "{}".to_owned(), String::new()]
        {
            std::fs::write(&path, changed).unwrap();
            assert!(matches!(Manifest::read(&path), Err(ExportError::BadManifest { .. })));
        }
        manifest.parts = vec![part("../x.csv")];
        manifest.write(&path).unwrap();
        assert!(matches!(Manifest::read(&path), Err(ExportError::BadManifest { .. })));
    }
}
