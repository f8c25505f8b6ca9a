//! What fetching hands on: pages of payloads, and the place to go on from after each.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::time::Timestamp;
use crate::source::error::SourceError;
use crate::source::options::Version;

/// So many rejected parts of a page are described; the others are only counted.
pub(super) const MAX_REJECTIONS: usize = 100;

/// So many warnings of a page are kept.
const MAX_WARNINGS: usize = 20;

/// The form in which places are written.
const PLACE_FORM: u8 = 1;

/// Payloads back to back in one buffer, a line feed after each. Of 2.x each is the JSON text of an object exactly as it
/// came (it may span lines); of 1.x each is an indicator document in XSOAR's form, on one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    bytes: Bytes,
    ranges: Vec<Range<usize>>,
}

impl Objects {
    /// Objects of which `ranges` are the places in `bytes`.
    pub(super) fn new(bytes: Vec<u8>, ranges: Vec<Range<usize>>) -> Self {
        Objects { bytes: bytes.into(), ranges }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Each object's text.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &[u8]> + ExactSizeIterator {
        self.ranges.iter().map(|range| self.bytes.get(range.clone()).unwrap_or_default())
    }

    /// Each object's text, sharing the buffer.
    pub fn slices(&self) -> impl Iterator<Item = Bytes> + '_ {
        self.ranges.iter().map(|range| self.bytes.slice(range.clone()))
    }

    /// All texts, a line feed after each.
    pub fn text(&self) -> &Bytes {
        &self.bytes
    }

    /// Keeps those for which `wanted` holds; how many went.
    pub(super) fn keep(&mut self, mut wanted: impl FnMut(&[u8]) -> bool) -> u64 {
        let before = self.ranges.len();
        let bytes = &self.bytes;
        self.ranges.retain(|range| wanted(bytes.get(range.clone()).unwrap_or_default()));
        let gone = before - self.ranges.len();
        if gone > 0 {
            let mut kept = Vec::with_capacity(self.bytes.len());
            for range in &mut self.ranges {
                let start = kept.len();
                kept.extend_from_slice(self.bytes.get(range.clone()).unwrap_or_default());
                *range = start..kept.len();
                kept.push(b'\n');
            }
            self.bytes = kept.into();
        }
        gone as u64
    }
}

/// A part of an answer that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Line in the answer, from 1; 0 when not known.
    pub line: u64,
    /// Byte in the answer, from 0.
    pub offset: u64,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "byte {}: {}", self.offset, self.reason),
            line => write!(f, "line {line} (byte {}): {}", self.offset, self.reason),
        }
    }
}

/// What is known about a page. Counts are of this page alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Bytes of the answer, decompressed; with the last page of an answer.
    pub bytes: u64,
    /// Whether further pages follow.
    pub more: bool,
    /// Whether this is the last page of an answer: only then has the place moved on.
    pub ends_answer: bool,
    /// Objects that the server sent again within this walk, left out.
    pub repeated: u64,
    /// Parts that could not be used.
    pub rejected: u64,
    /// The first of them.
    pub rejections: Vec<Rejection>,
    /// Kinds of content that is not read, and how often they came: encrypted blocks, object types without values.
    pub skipped: BTreeMap<String, u64>,
    /// What the server does wrong, and what was done about it.
    pub warnings: Vec<String>,
    /// Objects in the whole selection, where the server says so.
    pub total: Option<u64>,
}

impl Facts {
    pub(super) fn warn(&mut self, text: impl Into<String>) {
        let text = text.into();
        if self.warnings.len() < MAX_WARNINGS && !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }

    pub(super) fn reject(&mut self, line: u64, offset: u64, reason: impl Into<String>) {
        self.rejected += 1;
        if self.rejections.len() < MAX_REJECTIONS {
            self.rejections.push(Rejection { line, offset, reason: reason.into() });
        }
    }

    pub(super) fn skip(&mut self, kind: &str) {
        // Names come from outside.
        if self.skipped.len() < 256 || self.skipped.contains_key(kind) {
            *self.skipped.entry(kind.chars().take(120).collect()).or_default() += 1;
        } else {
            *self.skipped.entry("others".to_owned()).or_default() += 1;
        }
    }
}

/// Some objects of a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The payloads; may be none.
    pub objects: Objects,
    /// Where to go on once these are stored. Pages that do not end their answer carry the place of the page before: who
    /// goes on from there gets them again, which does no harm to a store that merges.
    pub place: Place,
    /// What is known about them.
    pub facts: Facts,
}

/// Where to go on in a collection. It is made of what the server said, never of our own clock, and is to be stored
/// together with the objects that led to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The protocol it was made with; none: for any.
    pub(super) version: Option<Version>,
    /// 2.x `added_after`, 1.x exclusive begin.
    pub(super) after: Option<Timestamp>,
    /// 2.1: `next` of a walk under way, which goes with `after`.
    pub(super) next: Option<String>,
    /// Newest date added that was seen: where a walk begins anew if the server forgets it.
    pub(super) last: Option<Timestamp>,
    /// 2.0: objects received in a walk under way.
    pub(super) offset: Option<u64>,
    /// 1.1: the result under way, and the part to ask for.
    pub(super) result: Option<(String, u32)>,
    /// 1.x: inclusive end of the poll under way, which the next poll begins with.
    pub(super) until: Option<Timestamp>,
}

impl Place {
    /// Everything, from the oldest.
    pub fn start() -> Self {
        Place::default()
    }

    /// What was added later than that, by the server's clock.
    pub fn since(after: Timestamp) -> Self {
        Place { after: Some(after), ..Place::default() }
    }

    /// Everything added later than this has not been fetched.
    pub fn added_after(&self) -> Option<Timestamp> {
        self.last.or(self.after)
    }

    /// Whether a walk was under way: the server had said that more follows.
    pub fn is_mid_walk(&self) -> bool {
        self.next.is_some() || self.offset.is_some() || self.result.is_some()
    }

    /// Refuses a place of another protocol, whose dates may mean something else.
    pub(super) fn check(&self, version: Version, collection: &str) -> Result<(), SourceError> {
        match self.version {
            Some(made) if made.is_2() != version.is_2() => Err(SourceError::Place {
                collection: collection.to_owned(),
                reason: format!("it was made over TAXII {made}, and the server speaks {version} now"),
            }),
            _ => Ok(()),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    form: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    taxii: Option<Version>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<(String, u32)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = |at: Option<Timestamp>| at.map(|at| at.to_string());
        let written = Written {
            form: PLACE_FORM,
            taxii: self.version,
            after: text(self.after),
            next: self.next.clone(),
            last: text(self.last),
            offset: self.offset,
            result: self.result.clone(),
            until: text(self.until),
        };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let written = Written::deserialize(deserializer)?;
        if written.form != PLACE_FORM {
            return Err(D::Error::custom(format!(
                "a place of form {} was written by another taxiway; this one reads form {PLACE_FORM}",
                written.form
            )));
        }
        let time =
            |text: Option<String>| text.map(|text| Timestamp::parse(&text)).transpose().map_err(D::Error::custom);
        Ok(Place {
            version: written.taxii,
            after: time(written.after)?,
            next: written.next,
            last: time(written.last)?,
            offset: written.offset,
            result: written.result,
            until: time(written.until)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_back() {
        let at = |text: &str| Timestamp::parse(text).ok();
        let cases = [
            (Place::start(), r#"{"form":1}"#),
            (
                Place {
                    version: Some(Version::V21),
                    after: at("2024-05-01T00:00:00Z"),
                    next: Some("a\"b".to_owned()),
                    last: at("2024-05-02T00:00:00.000001Z"),
                    ..Place::default()
                },
                r#"{"form":1,"taxii":"2.1","after":"2024-05-01T00:00:00.000000Z","next":"a\"b","last":"2024-05-02T00:00:00.000001Z"}"#,
            ),
            (
                Place {
                    version: Some(Version::V11),
                    result: Some(("r".to_owned(), 3)),
                    until: at("2024-05-02"),
                    ..Place::default()
                },
                r#"{"form":1,"taxii":"1.1","result":["r",3],"until":"2024-05-02T00:00:00.000000Z"}"#,
            ),
        ];
        for (place, text) in cases {
            assert_eq!(serde_json::to_string(&place).unwrap(), text);
            assert_eq!(serde_json::from_str::<Place>(text).unwrap(), place);
        }
        for bad in [r#"{"form":2}"#, r#"{"form":1,"after":"x"}"#, r#"{"form":1,"new":1}"#, "{}"] {
            assert!(serde_json::from_str::<Place>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn objects_can_be_left_out() {
        let mut objects = Objects::new(b"a\nbb\nccc\n".to_vec(), vec![0..1, 2..4, 5..8]);
        assert_eq!(objects.keep(|text| text != b"bb"), 1);
        assert_eq!((objects.text().as_ref(), objects.len()), (b"a\nccc\n".as_slice(), 2));
        assert_eq!(objects.iter().collect::<Vec<_>>(), [b"a".as_slice(), b"ccc"]);
    }
}
