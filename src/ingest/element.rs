//! One JSON element taken apart at its first level: which keys are there, and the text of their values.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use crate::ingest::json::{self, MAX_DEPTH};

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
        FirstSeenXsoar = "firstSeen",
        LastSeenXsoar = "lastSeen",
        SourceBrands = "sourceBrands",
        SourceInstances = "sourceInstances",
        Reliability = "aggregatedReliability",
        EntityA = "entityA",
        EntityB = "entityB",
        EntityAType = "entityAType",
        EntityBType = "entityBType",
        CreatedInSystem = "createdInSystem",
        Iocs = "iocs",
        Objects = "objects",
        More = "more",
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
        ExpirationSource = "expirationSource",
        ExpirationStatus = "expirationStatus",
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

/// A JSON object's first level. Absent keys have empty text; of repeated keys the last one counts.
#[derive(Debug)]
pub(crate) struct Element<'a> {
    fields: [&'a str; Key::COUNT],
    custom: [&'a str; CustomKey::COUNT],
    /// The custom fields without a column, in the order they came.
    pub(crate) other_custom: Vec<(Cow<'a, str>, &'a str)>,
}

impl<'a> Element<'a> {
    /// Reads the text of one object, without blanks around it; the error is a sentence with the line counted from `line`.
    pub(crate) fn parse(text: &'a str, line: u64) -> Result<Self, String> {
        if !text.starts_with('{') {
            return Err("not a JSON object".to_owned());
        }
        let mut element =
            Element { fields: [""; Key::COUNT], custom: [""; CustomKey::COUNT], other_custom: Vec::new() };
        let end = json::each_member(text, 0, 0, |key, start| {
            if key == "CustomFields" && text.as_bytes().get(start) == Some(&b'{') {
                return element.read_custom_fields(text, start);
            }
            let end = json::checked_end(text, start, 1)?;
            if let Some(key) = Key::named(&key) {
                element.fields[key as usize] = text.get(start..end)?;
            }
            Some(end)
        });
        if end == Some(text.len()) { Ok(element) } else { Err(refusal(text, line)) }
    }

    fn read_custom_fields(&mut self, text: &'a str, open: usize) -> Option<usize> {
        json::each_member(text, open, 1, |key, start| {
            let end = json::checked_end(text, start, 2)?;
            let raw = text.get(start..end)?;
            match CustomKey::named(&key) {
                Some(key) => self.custom[key as usize] = raw,
                None => self.other_custom.push((key, raw)),
            }
            Some(end)
        })
    }

    /// The JSON text of a key's value, empty when the key is absent.
    pub(crate) fn get(&self, key: Key) -> &'a str {
        self.fields[key as usize]
    }

    /// Whether the key is there and not null.
    pub(crate) fn has(&self, key: Key) -> bool {
        !matches!(self.get(key), "" | "null")
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
