//! A MISP feed: `manifest.json` and a file for each event, as MISP pulls them from a folder or a web server.
//!
//! Each part is an event; its attributes are the values of its records. Ids follow from the collection and the number of the
//! part, so a repeated export updates the events that a MISP instance already has. There is no `hashes.csv`: without one
//! MISP reads the events when it caches the feed.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::RecordBatch;
use serde_json::{Map, Value as Json, json};

use crate::export::ExportError;
use crate::export::manifest::Manifest;
use crate::export::place::write_durably;
use crate::export::values::{self, Value, Values};
use crate::model::ids::{Uuid16, uuid_v5, write_uuid};
use crate::model::json::escape_into;
use crate::model::kind::{HashAlgorithm, StixType};
use crate::model::schema::column as c;
use crate::model::time::{MICROS_PER_SECOND, Timestamp};
use crate::render::Rendered;

/// The index of a feed.
const INDEX: &str = "manifest.json";
/// Namespace of the ids made here.
const NAMESPACE: Uuid16 =
    [0x3d, 0x5b, 0x0c, 0x2e, 0x71, 0x4a, 0x4f, 0x0b, 0x9e, 0x52, 0x6a, 0x1d, 0x84, 0xc7, 0x30, 0x15];
/// Longest comment.
const COMMENT_CHARS: usize = 1_000;

/// What attributes are made of, besides the columns of values.
pub(super) const COLUMNS: &[&str] = &[
    c::ADDED,
    c::ID,
    c::SCORE,
    c::CREATED,
    c::MODIFIED,
    c::FIRST_SEEN,
    c::LAST_SEEN,
    c::EXPIRATION,
    c::TAGS,
    c::TLP,
    c::DESCRIPTION,
    c::REVOKED,
    c::SSDEEP,
];

/// One event.
#[derive(Debug, Clone)]
pub(super) struct Event {
    uuid: Uuid16,
    title: String,
    number: usize,
}

fn text_of(uuid: &Uuid16) -> String {
    let mut text = Vec::with_capacity(36);
    write_uuid(uuid, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

impl Event {
    /// The event of a part.
    pub(super) fn new(collection: &str, title: &str, number: usize) -> Self {
        let id = uuid_v5(&NAMESPACE, collection.as_bytes());
        let uuid = uuid_v5(&id, number.to_string().as_bytes());
        Event { uuid, title: title.to_owned(), number }
    }

    /// Name of its file.
    pub(super) fn file(&self) -> String {
        format!("{}.json", text_of(&self.uuid))
    }

    /// What the index says of it. `last` is the newest `added` of its records.
    pub(super) fn meta(&self, last: Timestamp) -> Map<String, Json> {
        let mut meta = Map::new();
        let date = last.to_string();
        let entries = [
            ("Orgc", json!({ "name": "taxiway", "uuid": text_of(&NAMESPACE) })),
            ("Tag", json!([])),
            ("analysis", json!("2")),
            ("date", json!(date.get(..10).unwrap_or_default())),
            ("info", json!(format!("{} ({})", self.title, self.number + 1))),
            ("threat_level_id", json!("4")),
            ("timestamp", json!(last.0.div_euclid(MICROS_PER_SECOND).to_string())),
            ("uuid", json!(text_of(&self.uuid))),
        ];
        meta.extend(entries.map(|(key, value)| (key.to_owned(), value)));
        meta
    }

    /// Everything before the first attribute.
    pub(super) const HEAD: &'static [u8] = br#"{"Event":{"Attribute":["#;

    /// Everything behind the last one.
    pub(super) fn tail(&self, meta: &Map<String, Json>) -> Vec<u8> {
        let mut rest = meta.clone();
        // Who may see it follows from the settings of the feed in MISP.
        rest.insert("published".to_owned(), json!(true));
        rest.insert("extends_uuid".to_owned(), json!(""));
        let rest = Json::Object(rest).to_string();
        let mut tail = b"],".to_vec();
        tail.extend_from_slice(rest.strip_prefix('{').unwrap_or_default().as_bytes());
        tail.extend_from_slice(b"}\n");
        tail
    }

    /// Appends the attributes of the rows, a comma before each but the first, if `first` says so.
    pub(super) fn attributes_into(
        &self,
        batch: &RecordBatch,
        now: Timestamp,
        first: &mut bool,
        out: &mut Vec<u8>,
    ) -> Result<Rendered, ExportError> {
        let values = Values::bind(batch)?;
        let mut rendered = Rendered::default();
        for row in 0..batch.num_rows() {
            let mut number = 0;
            let found = values.each(row, |value| {
                if !*first {
                    out.push(b',');
                }
                *first = false;
                self.attribute_into(&values, row, &value, number, now, out);
                number += 1;
            });
            rendered.written += number as usize;
            rendered.skipped += usize::from(!found);
        }
        Ok(rendered)
    }

    fn attribute_into(
        &self,
        values: &Values<'_>,
        row: usize,
        value: &Value<'_>,
        number: u32,
        now: Timestamp,
        out: &mut Vec<u8>,
    ) {
        let bound = &values.bound;
        let (category, kind, text) = attribute(value);
        let mut name = Vec::with_capacity(24);
        name.extend_from_slice(bound.id.get(row).map_or(&[], |id| &id[..]));
        name.extend_from_slice(&number.to_be_bytes());
        let is_over = bound.expiration.get(row).is_some_and(|end| end <= now);
        // Benign, withdrawn and expired ones are nothing to look for.
        let to_ids = bound.score.get(row) != Some(1) && !bound.revoked.get(row) && !is_over;
        let put = |key: &str, text: &str, out: &mut Vec<u8>| {
            out.extend_from_slice(key.as_bytes());
            escape_into(text, out);
        };
        out.push(b'{');
        let mut open = "\"Tag\":[{\"name\":\"";
        let colour = bound.tlp.filled(row).map(|colour| format!("tlp:{colour}"));
        for tag in bound.tags.get(row).chain(colour.as_deref()) {
            put(open, tag, out);
            open = "\"},{\"name\":\"";
        }
        if open.starts_with("\"}") {
            out.extend_from_slice(b"\"}],");
        }
        put("\"category\":\"", category, out);
        if let Some(comment) = bound.description.filled(row) {
            let end = comment.char_indices().nth(COMMENT_CHARS).map_or(comment.len(), |(at, _)| at);
            put("\",\"comment\":\"", comment.get(..end).unwrap_or_default(), out);
        }
        for (key, at) in
            [("\",\"first_seen\":\"", bound.first_seen.get(row)), ("\",\"last_seen\":\"", bound.last_seen.get(row))]
        {
            if let Some(at) = at {
                out.extend_from_slice(key.as_bytes());
                at.write_to(out);
            }
        }
        let changed = bound.modified.get(row).or_else(|| bound.added.get(row)).unwrap_or(Timestamp(0));
        put("\",\"timestamp\":\"", &changed.0.div_euclid(MICROS_PER_SECOND).to_string(), out);
        out.extend_from_slice(if to_ids { b"\",\"to_ids\":true" } else { b"\",\"to_ids\":false" });
        put(",\"type\":\"", kind, out);
        out.extend_from_slice(b"\",\"uuid\":\"");
        write_uuid(&uuid_v5(&self.uuid, &name), out);
        put("\",\"value\":\"", text, out);
        out.extend_from_slice(b"\"}");
    }
}

/// Category, type and value of an attribute.
fn attribute<'a>(value: &'a Value<'_>) -> (&'static str, &'static str, &'a str) {
    let text = value.text.trim();
    let (category, kind) = match value.stix_type {
        Some(StixType::Ipv4Addr | StixType::Ipv6Addr) => ("Network activity", "ip-dst"),
        // MISP's type takes no wildcard.
        Some(StixType::DomainName) => {
            return ("Network activity", "domain", text.strip_prefix("*.").unwrap_or(text));
        }
        Some(StixType::Url) => ("Network activity", "url"),
        Some(StixType::EmailAddr) => ("Payload delivery", "email"),
        Some(StixType::File) => match HashAlgorithm::of(text) {
            Some(HashAlgorithm::Md5) => ("Payload delivery", "md5"),
            Some(HashAlgorithm::Sha1) => ("Payload delivery", "sha1"),
            Some(HashAlgorithm::Sha256) => ("Payload delivery", "sha256"),
            Some(HashAlgorithm::Sha512) => ("Payload delivery", "sha512"),
            None => ("Payload delivery", "filename"),
        },
        Some(StixType::AutonomousSystem) => ("Network activity", "AS"),
        Some(StixType::WindowsRegistryKey) => ("Persistence mechanism", "regkey"),
        Some(StixType::Vulnerability) => ("External analysis", "vulnerability"),
        Some(StixType::ThreatActor | StixType::IntrusionSet) => ("Attribution", "threat-actor"),
        Some(StixType::Campaign) => ("Attribution", "campaign-name"),
        _ => ("Other", "text"),
    };
    (category, kind, text)
}

/// The columns of an event's rows.
pub(super) fn columns() -> Vec<&'static str> {
    [values::COLUMNS, COLUMNS].concat()
}

/// Writes the index of all events.
pub(super) fn write_index(folder: &Path, manifest: &Manifest) -> Result<(), ExportError> {
    let mut index = BTreeMap::new();
    for part in &manifest.parts {
        let Some(event) = &part.event else { continue };
        let mut event = event.clone();
        if let Some(Json::String(uuid)) = event.remove("uuid") {
            index.insert(uuid, event);
        }
    }
    let text = serde_json::to_string_pretty(&index).map_err(ExportError::internal("write the index of a feed"))?;
    write_durably(&folder.join(INDEX), text.as_bytes())
}
