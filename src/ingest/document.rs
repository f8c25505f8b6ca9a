//! What a kept XSOAR document said, for when a fresher one takes its place (spec/xsoar-taxii2-server.md §7).

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::ingest::element::{CustomKey, Key};
use crate::ingest::json;
use crate::model::json::canonical_into;

/// First-level keys that queries ask for and that have no column of their own. A change of one of them is a change of the record; the
/// rest of the document outside the columns is bookkeeping, which changes with every fetch.
pub(crate) const TELLING: [Key; 8] = [
    Key::InvestigationIds,
    Key::Comments,
    Key::ExpirationSource,
    Key::ExpirationStatus,
    Key::IsShared,
    Key::IsDetectable,
    Key::IsPreventable,
    Key::ManuallyEditedFields,
];

/// What of it counts. Documents were JSON when they were taken; one that is not says nothing.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// Its tags.
    pub(crate) tags: HashSet<String>,
    /// Names of its custom fields.
    pub(crate) keys: HashSet<String>,
    /// Whether the fresher document differs in what queries ask for.
    pub(crate) telling_differs: bool,
}

impl Said {
    /// What `older` said, if `newer` is a state of the same document: one of another `id` comes from another system.
    pub(crate) fn before(older: &str, newer: &str) -> Option<Self> {
        let [older, newer] = [older, newer].map(|text| serde_json::from_str::<Members<'_>>(text).unwrap_or_default());
        let ids = [older.get(Key::Id.as_str()), newer.get(Key::Id.as_str())].map(|id| id.filter(|id| tells(id)));
        if ids[0].is_some() && ids[1].is_some() && ids[0] != ids[1] {
            return None;
        }
        let custom = older.get("CustomFields").and_then(|fields| serde_json::from_str::<Members<'_>>(fields).ok());
        let fields = custom.unwrap_or_default();
        Some(Said {
            tags: fields.get(CustomKey::Tags.as_str()).map(texts).unwrap_or_default(),
            keys: fields.0.iter().map(|(key, _)| key.clone()).collect(),
            telling_differs: TELLING.iter().any(|key| older.content(*key) != newer.content(*key)),
        })
    }
}

/// Whether the JSON text of a value says anything.
pub(crate) fn tells(raw: &str) -> bool {
    !matches!(raw, "" | "null" | "[]" | "{}" | "\"\"" | "false")
}

/// The texts of a list; a single text is a list with commas.
fn texts(raw: &str) -> HashSet<String> {
    let one = || serde_json::from_str::<String>(raw).map(|text| text.split(',').map(str::to_owned).collect());
    let list: Vec<String> = serde_json::from_str(raw).or_else(|_| one()).unwrap_or_default();
    list.iter().map(|text| text.trim().to_owned()).collect()
}

/// The members of an object, in order.
#[derive(Default)]
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl Members<'_> {
    /// The JSON text of a member; of repeated ones the last.
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.get())
    }

    /// What the member says, whatever blanks it is written with, and in whatever order.
    fn content(&self, key: Key) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(raw) = self.get(key.as_str()).filter(|raw| tells(raw)) {
            // Systems that the document went through may have sorted its keys.
            match serde_json::from_str(raw) {
                Ok(value) => canonical_into(&value, &mut out),
                Err(_) => json::compact(raw, &mut out),
            }
        }
        out
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> serde::de::Visitor<'de> for Visitor<'a> {
            type Value = Members<'a>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<String, &'a RawValue>()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Visitor(std::marker::PhantomData))
    }
}
