//! One JSON element taken apart at its first level: which keys are there, and the text of their values.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

macro_rules! keys {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $($variant,)* }

        impl $name {
            const COUNT: usize = [$($name::$variant,)*].len();

            pub(crate) fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            fn named(name: &str) -> Option<Self> {
                match name {
                    $($text => Some($name::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

keys! {
    /// First-level keys of XSOAR documents and STIX objects that have columns.
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
    /// Reads the text of one object; the error is a sentence with the line counted from `line`.
    pub(crate) fn parse(text: &'a str, line: u64) -> Result<Self, String> {
        if !text.starts_with('{') {
            return Err("not a JSON object".to_owned());
        }
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let parsed = Element::deserialize(&mut deserializer).and_then(|element| deserializer.end().map(|()| element));
        parsed.map_err(|error| {
            let message = error.to_string();
            let message = message.rfind(" at line ").and_then(|at| message.get(..at)).unwrap_or(&message);
            let line = line + (error.line() as u64).saturating_sub(1);
            format!("not valid JSON: {message} (line {line}, column {})", error.column())
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

impl<'de> Deserialize<'de> for Element<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut element =
            Element { fields: [""; Key::COUNT], custom: [""; CustomKey::COUNT], other_custom: Vec::new() };
        deserializer.deserialize_map(FirstLevel(&mut element))?;
        Ok(element)
    }
}

struct FirstLevel<'e, 'a>(&'e mut Element<'a>);

impl<'de> Visitor<'de> for FirstLevel<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(FirstLevelName)? {
            match name {
                FirstLevelKey::Field(key) => self.0.fields[key as usize] = map.next_value::<&'de RawValue>()?.get(),
                FirstLevelKey::CustomFields => map.next_value_seed(CustomFields(self.0))?,
                FirstLevelKey::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

enum FirstLevelKey {
    Field(Key),
    CustomFields,
    Other,
}

struct FirstLevelName;

impl<'de> DeserializeSeed<'de> for FirstLevelName {
    type Value = FirstLevelKey;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<FirstLevelKey, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for FirstLevelName {
    type Value = FirstLevelKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, name: &str) -> Result<FirstLevelKey, E> {
        Ok(match Key::named(name) {
            Some(key) => FirstLevelKey::Field(key),
            None if name == "CustomFields" => FirstLevelKey::CustomFields,
            None => FirstLevelKey::Other,
        })
    }
}

/// Reads the custom fields; anything but an object there is as good as nothing.
struct CustomFields<'e, 'a>(&'e mut Element<'a>);

impl<'de> DeserializeSeed<'de> for CustomFields<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for CustomFields<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("custom fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(CustomName)? {
            let raw = map.next_value::<&'de RawValue>()?.get();
            match name {
                CustomFieldKey::Known(key) => self.0.custom[key as usize] = raw,
                CustomFieldKey::Other(name) => self.0.other_custom.push((name, raw)),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

enum CustomFieldKey<'a> {
    Known(CustomKey),
    Other(Cow<'a, str>),
}

struct CustomName;

impl<'de> DeserializeSeed<'de> for CustomName {
    type Value = CustomFieldKey<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for CustomName {
    type Value = CustomFieldKey<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(CustomKey::named(name).map_or(CustomFieldKey::Other(Cow::Borrowed(name)), CustomFieldKey::Known))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(CustomKey::named(name)
            .map_or_else(|| CustomFieldKey::Other(Cow::Owned(name.to_owned())), CustomFieldKey::Known))
    }
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
            ("{\"a\":\n1,}", "not valid JSON: trailing comma (line 8, column 3)"),
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
            assert!(value.is_ok_and(|value| value == "\"v\"") || text.contains("CustomFields\":[["));
        }
    }
}
