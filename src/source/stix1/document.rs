//! Indicator documents in XSOAR's form, as ingest reads them, from what STIX 1.x says of a value.

use std::ops::Range;

use crate::model::json::string_into;
use crate::model::time::Timestamp;
use crate::source::stix1::values::Value;

/// The longest description kept.
const MAX_TEXT: usize = 8 << 10;

/// What is said of the values of an indicator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct About {
    /// Its id in STIX 1.x.
    pub(super) id: Option<String>,
    pub(super) title: Option<String>,
    pub(super) description: Option<String>,
    /// Its types, which become tags.
    pub(super) types: Vec<String>,
    pub(super) modified: Option<Timestamp>,
    pub(super) created: Option<Timestamp>,
    pub(super) valid_from: Option<Timestamp>,
    pub(super) valid_until: Option<Timestamp>,
    pub(super) confidence: Option<u8>,
    pub(super) tlp: Option<&'static str>,
    pub(super) producer: Option<String>,
    /// Observed, without anybody saying that it is bad.
    pub(super) is_observed: bool,
    /// Only together with others.
    pub(super) is_all_of: bool,
}

impl About {
    /// Takes from the indicator around it what it does not say itself.
    pub(super) fn completed_by(mut self, outer: &About) -> Self {
        self.id = self.id.or_else(|| outer.id.clone());
        self.title = self.title.or_else(|| outer.title.clone());
        self.description = self.description.or_else(|| outer.description.clone());
        if self.types.is_empty() {
            self.types.clone_from(&outer.types);
        }
        self.modified = self.modified.or(outer.modified);
        self.created = self.created.or(outer.created);
        self.valid_from = self.valid_from.or(outer.valid_from);
        self.valid_until = self.valid_until.or(outer.valid_until);
        self.confidence = self.confidence.or(outer.confidence);
        self.tlp = self.tlp.or(outer.tlp);
        self.producer = self.producer.or_else(|| outer.producer.clone());
        self.is_all_of |= outer.is_all_of;
        self
    }

    /// Roughly what it costs to keep.
    pub(super) fn bytes(&self) -> usize {
        let texts = [&self.id, &self.title, &self.description, &self.producer];
        size_of::<About>()
            + texts.iter().filter_map(|text| text.as_ref()).map(String::len).sum::<usize>()
            + self.types.iter().map(|text| text.len() + size_of::<String>()).sum::<usize>()
    }

    /// 3 malicious, 2 suspicious, 0 unknown: an indicator is malicious unless its author is in doubt. What was merely
    /// observed has none.
    fn score(&self) -> Option<u8> {
        match self.confidence {
            _ if self.is_observed => None,
            Some(0) => Some(0),
            Some(1..=29) => Some(2),
            _ => Some(3),
        }
    }
}

/// Documents being written.
#[derive(Debug, Default)]
pub(super) struct Documents {
    pub(super) bytes: Vec<u8>,
    pub(super) ranges: Vec<Range<usize>>,
}

impl Documents {
    pub(super) fn push(&mut self, value: &Value, about: &About) {
        let start = self.bytes.len();
        write(value, about, &mut self.bytes);
        self.ranges.push(start..self.bytes.len());
        self.bytes.push(b'\n');
    }
}

fn write(value: &Value, about: &About, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"indicator_type\":");
    string_into(value.kind, out);
    out.extend_from_slice(b",\"value\":");
    string_into(&value.text, out);
    if let Some(score) = about.score() {
        out.extend_from_slice(b",\"score\":");
        out.push(b'0' + score);
    }
    let times = [
        ("timestamp", about.created),
        ("modified", about.modified),
        ("firstSeen", about.valid_from),
        ("expiration", about.valid_until),
    ];
    for (key, at) in times {
        if let Some(at) = at {
            out.push(b',');
            string_into(key, out);
            out.extend_from_slice(b":\"");
            at.write_to(out);
            out.push(b'"');
        }
    }
    out.extend_from_slice(b",\"CustomFields\":");
    let mut separator = b'{';
    let mut key = |name: &str, out: &mut Vec<u8>| {
        out.push(separator);
        separator = b',';
        string_into(name, out);
        out.push(b':');
    };
    let texts = [
        ("title", about.title.as_deref()),
        ("description", about.description.as_deref().or(about.title.as_deref())),
        ("reportedby", about.producer.as_deref()),
        ("indicatoridentification", about.id.as_deref()),
        ("trafficlightprotocol", about.tlp),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            key(name, out);
            string_into(cut(text), out);
        }
    }
    if let Some(confidence) = about.confidence {
        key("confidence", out);
        out.extend_from_slice(itoa::Buffer::new().format(confidence).as_bytes());
    }
    for (name, hash) in value.hashes.iter().flat_map(|hashes| hashes.named()) {
        if let Some(hash) = hash {
            key(name, out);
            string_into(hash, out);
        }
    }
    if let Some(name) = &value.file_name {
        key("associatedfilenames", out);
        out.push(b'[');
        string_into(cut(name), out);
        out.push(b']');
    }
    if about.is_all_of {
        key("stixcomposition", out);
        string_into("AND", out);
    }
    key("tags", out);
    out.push(b'[');
    let observed = about.is_observed.then_some("observed");
    for (at, tag) in about.types.iter().map(String::as_str).chain(observed).enumerate() {
        if at > 0 {
            out.push(b',');
        }
        string_into(cut(tag), out);
    }
    out.extend_from_slice(b"]}}");
}

fn cut(text: &str) -> &str {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => text.get(..end).unwrap_or(text),
        None => text,
    }
}
