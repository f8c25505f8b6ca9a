//! What a kept XSOAR document said, for when a fresher one takes its place (spec/xsoar-taxii2-server.md §7).

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::ingest::element::Key;

/// First-level keys that queries ask for and that have no column of their own. A change of one of them is a change of the record; the
/// rest of the document outside the columns is bookkeeping, which changes with every fetch.
pub(crate) const TELLING: [Key; 9] = [
    Key::Id,
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
        let (before, after) = (telling_of(older), telling_of(newer));
        if before[0].is_some() && after[0].is_some() && before[0] != after[0] {
            return None;
        }
        let custom = serde_json::from_str::<Custom<'_>>(older).ok().and_then(|document| document.fields);
        let fields =
            custom.and_then(|fields| serde_json::from_str::<Members<'_>>(fields.get()).ok()).unwrap_or_default();
        let tags = fields.0.iter().filter(|(key, _)| key == "tags").flat_map(|(_, tags)| texts(tags.get()));
        Some(Said {
            tags: tags.collect(),
            keys: fields.0.iter().map(|(key, _)| key.clone()).collect(),
            telling_differs: before != after,
        })
    }
}

fn telling_of(text: &str) -> [Option<String>; TELLING.len()] {
    let members = serde_json::from_str::<Members<'_>>(text).unwrap_or_default();
    TELLING.map(|name| {
        let value = members.0.iter().rev().find(|(key, _)| key == name.as_str()).map(|(_, value)| value.get())?;
        tells(value).then(|| value.to_owned())
    })
}

/// Whether the JSON text of a value says anything.
pub(crate) fn tells(raw: &str) -> bool {
    !matches!(raw, "" | "null" | "[]" | "{}" | "\"\"" | "false")
}

/// The texts of a list; a single text is a list with commas.
fn texts(raw: &str) -> Vec<String> {
    let one = || serde_json::from_str::<String>(raw).map(|text| text.split(',').map(str::to_owned).collect());
    let list: Vec<String> = serde_json::from_str(raw).or_else(|_| one()).unwrap_or_default();
    list.iter().map(|text| text.trim().to_owned()).collect()
}

#[derive(Deserialize)]
struct Custom<'a> {
    #[serde(borrow, rename = "CustomFields", default)]
    fields: Option<&'a RawValue>,
}

/// The members of an object, in order.
#[derive(Default)]
struct Members<'a>(Vec<(String, &'a RawValue)>);

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
