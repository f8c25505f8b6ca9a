//! One JSON element taken apart at its first level: which keys are there, and the text of their values.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use crate::ingest::json::{self, Doubts, MAX_DEPTH};

/// Size of the tables that find a key by its name: sparse, so that most names that are not ours hit an empty slot.
const SLOTS: usize = 256;

/// Where the search for a name begins.
const fn slot_of(name: &[u8]) -> usize {
    let (Some(first), Some(last)) = (name.first(), name.last()) else { return 0 };
    (name.len() * 37 + *first as usize * 5 + *last as usize * 3) % SLOTS
}

/// For each slot the position of a name; an empty slot holds a number beyond them.
const fn slots(names: &[&str]) -> [u8; SLOTS] {
    assert!(names.len() < SLOTS / 2);
    let mut slots = [u8::MAX; SLOTS];
    let mut at = 0;
    while at < names.len() {
        let mut slot = slot_of(names[at].as_bytes());
        while slots[slot] != u8::MAX {
            slot = (slot + 1) % SLOTS;
        }
        slots[slot] = at as u8;
        at += 1;
    }
    slots
}

macro_rules! keys {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $($variant,)* }

        impl $name {
            const ALL: &'static [$name] = &[$($name::$variant,)*];
            const NAMES: &'static [&'static str] = &[$($text,)*];
            const COUNT: usize = Self::ALL.len();
            const SLOTS: [u8; SLOTS] = slots(Self::NAMES);

            pub(crate) fn as_str(self) -> &'static str {
                Self::NAMES[self as usize]
            }

            fn named(name: &str) -> Option<Self> {
                let mut slot = slot_of(name.as_bytes());
                while let Some(known) = Self::NAMES.get(usize::from(Self::SLOTS[slot])) {
                    if *known == name {
                        return Self::ALL.get(usize::from(Self::SLOTS[slot])).copied();
                    }
                    slot = (slot + 1) % SLOTS;
                }
                None
            }
        }
    };
}

keys! {
    /// First-level keys of XSOAR documents and STIX objects that have columns, or that tell one content from another.
    Key {
        Value = "value",
        IndicatorType = "indicator_type",
        Timestamp = "timestamp",
        Modified = "modified",
        Score = "score",
        Expiration = "expiration",
        ExpirationStatus = "expirationStatus",
        ExpirationSource = "expirationSource",
        FirstSeenXsoar = "firstSeen",
        LastSeenXsoar = "lastSeen",
        SourceBrands = "sourceBrands",
        SourceInstances = "sourceInstances",
        Reliability = "aggregatedReliability",
        EntityA = "entityA",
        EntityB = "entityB",
        EntityAType = "entityAType",
        EntityBType = "entityBType",
        EntityAFamily = "entityAFamily",
        EntityBFamily = "entityBFamily",
        CreatedInSystem = "createdInSystem",
        Iocs = "iocs",
        Objects = "objects",
        Data = "data",
        More = "more",
        Total = "total",
        Next = "next",
        SearchAfter = "searchAfter",
        Id = "id",
        Type = "type",
        SpecVersion = "spec_version",
        Name = "name",
        Created = "created",
        Labels = "labels",
        Description = "description",
        Revoked = "revoked",
        Confidence = "confidence",
        ValidUntil = "valid_until",
        FirstSeen = "first_seen",
        LastSeen = "last_seen",
        SourceRef = "source_ref",
        TargetRef = "target_ref",
        RelationshipType = "relationship_type",
        ObjectMarkingRefs = "object_marking_refs",
        InvestigationIds = "investigationIDs",
        Comments = "comments",
        IsShared = "isShared",
        IsDetectable = "isDetectable",
        IsPreventable = "isPreventable",
        ManuallyEditedFields = "manuallyEditedFields",
    }
}

keys! {
    /// XSOAR custom fields that have columns.
    CustomKey {
        StixId = "stixid",
        MitreId = "mitreid",
        Description = "description",
        Tags = "tags",
        IsFamily = "ismalwarefamily",
        Published = "published",
        IdentityClass = "identityclass",
        AccountType = "accounttype",
        UserId = "userid",
        KeyValue = "keyvalue",
        Name = "name",
        Md5 = "md5",
        Sha1 = "sha1",
        Sha256 = "sha256",
        Sha512 = "sha512",
        Ssdeep = "ssdeep",
        Subject = "subject",
        Issuer = "issuer",
        NotBefore = "validitynotbefore",
        NotAfter = "validitynotafter",
        ObjectRefs = "reportobjectreferences",
        KillChainPhases = "killchainphases",
        Tlp = "trafficlightprotocol",
        Confidence = "confidence",
        Revoked = "revoked",
        IsRevoked = "isrevoked",
    }
}

/// So many keys without a column are kept, to see whether one comes again.
const OTHER_KEYS: usize = 16;

/// A JSON object's first level. Absent keys have empty text; of repeated keys the last one counts.
#[derive(Debug)]
pub(crate) struct Element<'a> {
    fields: [&'a str; Key::COUNT],
    custom: [&'a str; CustomKey::COUNT],
    /// Number of keys, known or not.
    keys: usize,
    /// The keys without a column, unless they are more than fit or hold escapes.
    other_keys: [&'a str; OTHER_KEYS],
    others: usize,
    has_more_others: bool,
    /// A known key that came again.
    repeated: Option<Key>,
    doubts: Doubts,
    /// The custom fields without a column, in the order they came.
    pub(crate) other_custom: Vec<(Cow<'a, str>, &'a str)>,
}

impl<'a> Element<'a> {
    /// Reads the text of one object, without blanks around it; the error is a sentence with the line counted from `line`.
    pub(crate) fn parse(text: &'a str, line: u64) -> Result<Self, String> {
        if !text.starts_with('{') {
            return Err("not a JSON object".to_owned());
        }
        let mut element = Element {
            fields: [""; Key::COUNT],
            custom: [""; CustomKey::COUNT],
            keys: 0,
            other_keys: [""; OTHER_KEYS],
            others: 0,
            has_more_others: false,
            repeated: None,
            doubts: Doubts::default(),
            other_custom: Vec::new(),
        };
        let mut doubts = Doubts::default();
        let end = json::each_member(text, 0, 0, &mut doubts, |key, start, doubts| {
            element.keys += 1;
            if key == "CustomFields" && text.as_bytes().get(start) == Some(&b'{') {
                element.note_other(key);
                return element.read_custom_fields(text, start, doubts);
            }
            let end = json::checked_end(text, start, 1, doubts)?;
            match Key::named(&key) {
                Some(key) => {
                    let before = std::mem::replace(&mut element.fields[key as usize], text.get(start..end)?);
                    if !before.is_empty() {
                        element.repeated = Some(key);
                    }
                }
                None => element.note_other(key),
            }
            Some(end)
        });
        element.doubts = doubts;
        if end == Some(text.len()) { Ok(element) } else { Err(refusal(text, line)) }
    }

    fn note_other(&mut self, key: Cow<'a, str>) {
        match (key, self.other_keys.get_mut(self.others)) {
            (Cow::Borrowed(key), Some(place)) => {
                *place = key;
                self.others += 1;
            }
            _ => self.has_more_others = true,
        }
    }

    fn read_custom_fields(&mut self, text: &'a str, open: usize, doubts: &mut Doubts) -> Option<usize> {
        json::each_member(text, open, 1, doubts, |key, start, doubts| {
            let end = json::checked_end(text, start, 2, doubts)?;
            let raw = text.get(start..end)?;
            match CustomKey::named(&key) {
                Some(key) => self.custom[key as usize] = raw,
                None => self.other_custom.push((key, raw)),
            }
            Some(end)
        })
    }

    /// Refuses an element that holds what no reader can; `text` is what it was read from, on that line.
    pub(crate) fn check_readable(&self, text: &str, line: u64) -> Result<(), String> {
        let (at, what) = match self.doubts {
            Doubts { surrogate: Some(at), .. } => (at, "half of a surrogate pair, which is no character"),
            Doubts { number: Some(at), .. } => (at, "a number beyond what any reader can hold"),
            _ => return Ok(()),
        };
        let before = text.as_bytes().get(..at).unwrap_or_default();
        let line = line + before.iter().filter(|byte| **byte == b'\n').count() as u64;
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        Err(format!("it holds {what} (line {line}, column {column})"))
    }

    /// A key that is there twice, if there is one; `text` is what the element was read from.
    pub(crate) fn repeated_key(&self, text: &str) -> Option<String> {
        if let Some(known) = self.repeated {
            return Some(known.as_str().to_owned());
        }
        if self.has_more_others {
            let keys = json::members(text).map(|(key, _)| json::string(key).unwrap_or(Cow::Borrowed(key)));
            let mut keys: Vec<Cow<'_, str>> = keys.collect();
            keys.sort_unstable();
            return keys.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone().into_owned());
        }
        let others = self.other_keys.get(..self.others).unwrap_or_default();
        let again = |(at, key): &(usize, &&str)| others.iter().take(*at).any(|before| before == *key);
        others.iter().enumerate().find(again).map(|(_, key)| (*key).to_owned())
    }

    /// The JSON text of a key's value, empty when the key is absent.
    pub(crate) fn get(&self, key: Key) -> &'a str {
        self.fields[key as usize]
    }

    /// Whether the key is there and not null.
    pub(crate) fn has(&self, key: Key) -> bool {
        !matches!(self.get(key), "" | "null")
    }

    /// Whether there are keys, and none but these.
    pub(crate) fn has_only(&self, keys: &[Key]) -> bool {
        self.keys > 0 && keys.iter().filter(|key| !self.get(**key).is_empty()).count() == self.keys
    }

    /// Reads a custom field for its column. One that holds something the column cannot stays among the others.
    pub(crate) fn read_custom<T>(&mut self, key: CustomKey, read: impl FnOnce(&'a str) -> Option<T>) -> Option<T> {
        let raw = self.custom[key as usize];
        if matches!(raw, "" | "null" | "\"\"" | "[]" | "{}") {
            return None;
        }
        let found = read(raw);
        if found.is_none() {
            self.other_custom.push((Cow::Borrowed(key.as_str()), raw));
        }
        found
    }
}

/// Why a text was not taken, in the words of serde_json, which is asked only then.
fn refusal(text: &str, line: u64) -> String {
    let Err(error) = serde_json::from_str::<IgnoredAny>(text) else {
        return format!("nested deeper than {MAX_DEPTH} levels");
    };
    let message = error.to_string();
    let message = message.rfind(" at line ").and_then(|at| message.get(..at)).unwrap_or(&message);
    let line = line + (error.line() as u64).saturating_sub(1);
    format!("not valid JSON: {message} (line {line}, column {})", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_keys_are_kept_apart_from_the_rest() {
        let text = r#" "#.trim().to_owned()
            + r#"{"value": "a", "unknown": [{}], "modified": 1, "modified": "m",
                 "CustomFields": {"tags": [1], "zz": {"y": 2}, "\u0061a": null}}"#;
        let element = Element::parse(&text, 1).unwrap();
        assert_eq!(element.get(Key::Value), "\"a\"");
        assert_eq!(element.get(Key::Modified), "\"m\"");
        assert!(!element.has(Key::Id));
        assert_eq!(element.custom[CustomKey::Tags as usize], "[1]");
        assert_eq!(element.other_custom, [(Cow::Borrowed("zz"), "{\"y\": 2}"), (Cow::Borrowed("aa"), "null")]);
    }

    #[test]
    fn keys_that_come_twice_are_found() {
        let many = |last: &str| {
            let keys: String = (0..30).map(|n| format!("\"k{n}\":{{\"k{n}\":0,\"k{n}\":0}},")).collect();
            format!("{{{keys}\"{last}\":1}}")
        };
        let cases = [
            (r#"{"a":1,"b":{"a":1,"a":2},"c":"a","id":"id"}"#.to_owned(), None),
            (r#"{"id":"x","a":1,"id":"y"}"#.to_owned(), Some("id")),
            (r#"{"b":1,"a":1,"c":[],"a":2}"#.to_owned(), Some("a")),
            (r#"{"a":1,"\u0061":2}"#.to_owned(), Some("a")),
            (r#"{"CustomFields":{},"CustomFields":{}}"#.to_owned(), Some("CustomFields")),
            (many("k"), None),
            (many("k7"), Some("k7")),
        ];
        for (text, expected) in cases {
            assert_eq!(Element::parse(&text, 1).unwrap().repeated_key(&text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn custom_fields_of_another_kind_are_nothing() {
        for odd in ["null", "[1,[2]]", "\"x\"", "true", "1", "-1", "1.5", "{}"] {
            let text = format!("{{\"CustomFields\":{odd},\"value\":\"v\"}}");
            let element = Element::parse(&text, 1).unwrap();
            assert_eq!(element.get(Key::Value), "\"v\"", "{odd}");
            assert!(element.other_custom.is_empty());
        }
    }

    #[test]
    fn what_is_no_object_is_refused_with_its_place() {
        let cases = [
            ("[1]", "not a JSON object"),
            ("", "not a JSON object"),
            ("{\"a\":1} x", "not valid JSON: trailing characters (line 7, column 9)"),
            ("{\"a\":\n1,}", "not valid JSON: key must be a string (line 8, column 3)"),
        ];
        for (text, expected) in cases {
            assert_eq!(Element::parse(text, 7).map(|_| ()), Err(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn nesting_costs_no_stack() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for text in [
            format!("{{\"x\":{deep},\"value\":\"v\"}}"),
            format!("{{\"value\":\"v\",\"CustomFields\":{{\"x\":{deep}}}}}"),
            format!("{{\"value\":\"v\",\"CustomFields\":{deep}}}"),
        ] {
            let value = Element::parse(&text, 1).map(|element| element.get(Key::Value).to_owned());
            assert_eq!(value, Err("nested deeper than 128 levels".to_owned()));
        }
    }
}
