//! Native STIX objects, kept as they came (spec/stix-2.md §1).
//!
//! The columns only repeat what queries and versions need; the object is its text. So whatever would make that text
//! useless to a consumer is refused here, where there is still a line to name: ids that are none, a key that is there
//! twice. The properties themselves are the producer's.

use std::borrow::Cow;

use crate::ingest::block::Rows;
use crate::ingest::builder::Col;
use crate::ingest::element::{Element, Key};
use crate::ingest::json;
use crate::ingest::xsoar::{as_text, texts, time, truth};
use crate::model::ids::{SCO_NAMESPACE, TlpMarking, parse_uuid, split_stix_id, uuid_v5};
use crate::model::kind::StixType;
use crate::model::schema::kind_value;
use crate::model::words;

/// Longest type name (STIX 2.1 §2.13).
const MAX_TYPE_BYTES: usize = 250;

/// Colours of the markings that TLP 2.0 made anew beside those of [`TlpMarking`] (spec/stix-2.md §7), by the UUID part of their ids.
const TLP_2_MARKINGS: [(&str, &str); 3] = [
    ("bab4a63c-aed9-4cf5-a766-dfca5abac2bb", "green"),
    ("55d920b0-5e8b-4f79-9ee9-91f868d9b421", "amber"),
    ("e828b379-4e03-4974-9ac4-e53a884c97c1", "red"),
];

/// Whether an element says that it is a STIX object, complete or not.
pub(crate) fn is_meant(element: &Element<'_>) -> bool {
    element.has(Key::Type)
        && (element.has(Key::Id)
            || json::string(element.get(Key::Type))
                .is_some_and(|name| StixType::named(&name).is_some() || name.starts_with("x-")))
}

/// Version of the specification that an object is of: as it says itself, else as its type tells.
pub(crate) fn spec_version<'a>(element: &Element<'a>) -> Cow<'a, str> {
    json::text(element.get(Key::SpecVersion)).unwrap_or_else(|| {
        let known_type = json::string(element.get(Key::Type)).and_then(|name| StixType::named(&name));
        Cow::Borrowed(if known_type.is_some_and(StixType::is_sco) { "2.1" } else { "2.0" })
    })
}

/// Appends the row of one object, in the inbox that the options name if they do; the error is the reason why it is none.
pub(crate) fn append(rows: &mut Rows<'_>, element: &Element<'_>, text: &str, line: u64) -> Result<(), String> {
    let Rows { builder, scratch, options, .. } = rows;
    scratch.clear();
    let inbox = options.inbox.as_deref();
    let required = |key: Key| {
        let found = json::string(element.get(key)).filter(|text| !text.is_empty());
        found.ok_or_else(|| format!("a STIX object without `{}`", key.as_str()))
    };
    let stix_type = required(Key::Type)?;
    let id = required(Key::Id)?;
    let named_right = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if stix_type.len() > MAX_TYPE_BYTES || !stix_type.bytes().all(named_right) {
        let shown = shown(&stix_type);
        return Err(format!("`{shown}` is not a STIX type; it must be lower-case letters, digits and `-`"));
    }
    let uuid = id.strip_prefix(stix_type.as_ref()).and_then(|rest| rest.strip_prefix("--"));
    if uuid.is_none_or(|uuid| parse_uuid(uuid.as_bytes()).is_none()) {
        return Err(format!(
            "`{}` is not the id of a `{stix_type}`; it must be `{stix_type}--` and a UUID",
            shown(&id)
        ));
    }
    if let Some(key) = element.repeated_key(text) {
        return Err(format!("the key `{}` is there twice", shown(&key)));
    }
    let known_type = StixType::named(&stix_type);
    let is_edge = known_type == Some(StixType::Relationship);
    let ends = [Key::SourceRef, Key::TargetRef, Key::RelationshipType];
    let [source_ref, target_ref, relationship_type] =
        if is_edge { ends.map(|key| required(key).map(Some)) } else { ends.map(|_| Ok(None)) };
    let (source_ref, target_ref, relationship_type) = (source_ref?, target_ref?, relationship_type?);

    // In an inbox a relationship waits for nobody: it keeps its place among what it was posted with.
    let is_row_of_edge = is_edge && inbox.is_none();
    builder.text_aside(Col::Kind, if is_row_of_edge { kind_value::RELATIONSHIP } else { kind_value::OBJECT });
    builder.text_aside(Col::StixType, &stix_type);
    match split_stix_id(&id) {
        Some((id_type, uuid)) if id_type == stix_type => builder.uuid(Col::Id, &uuid),
        // A UUID in capitals is one, but the id is its text.
        _ => {
            builder.uuid(Col::Id, &uuid_v5(&SCO_NAMESPACE, id.as_bytes()));
            builder.text_aside(Col::StixId, &id);
        }
    }
    builder.text_aside(Col::SpecVersion, &spec_version(element));

    let value = json::text(element.get(Key::Value)).or_else(|| json::text(element.get(Key::Name)));
    builder.text_opt(Col::Value, value.as_deref());
    builder.text_opt(Col::Description, json::text(element.get(Key::Description)).as_deref());
    builder.text_opt(Col::SourceRef, source_ref.as_deref());
    builder.text_opt(Col::TargetRef, target_ref.as_deref());
    builder.text_opt(Col::RelationshipType, relationship_type.as_deref());
    let created = time(builder, Col::Created, element.get(Key::Created));
    let modified = time(builder, Col::Modified, element.get(Key::Modified));
    builder.time(Col::Created, created);
    builder.time(Col::Modified, modified);
    builder.time(Col::SourceModified, modified.or(created));
    for (key, col) in
        [(Key::FirstSeen, Col::FirstSeen), (Key::LastSeen, Col::LastSeen), (Key::ValidUntil, Col::Expiration)]
    {
        let at = time(builder, col, element.get(key));
        builder.time(col, at);
    }
    builder.boolean(Col::Revoked, truth(element.get(Key::Revoked)));
    builder.number(Col::Confidence, json::text(element.get(Key::Confidence)).and_then(|text| words::confidence(&text)));
    builder.text_opt(Col::Tlp, tlp(element.get(Key::ObjectMarkingRefs)));

    let list = &mut scratch.list;
    texts(element.get(Key::Labels), list);
    options.default_tags.iter().for_each(|tag| list.push(tag));
    builder.list(Col::Tags, list);
    list.clear();
    options.default_source.iter().for_each(|source| list.push(source));
    builder.list(Col::SourceBrands, list);

    json::compact(text, &mut scratch.document);
    builder.text_opt(Col::Document, as_text(&scratch.document));
    match inbox {
        None => builder.end_row(("stix", &id), line),
        Some(inbox) => {
            builder.text_aside(Col::Inbox, inbox);
            scratch.joined.extend([inbox, "\0", &id]);
            builder.end_row(("inbox", &scratch.joined), line);
        }
    }
    Ok(())
}

/// The beginning of a text, for a message.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

fn tlp(marking_refs: &str) -> Option<&'static str> {
    let colour = |raw: &str| {
        let (stix_type, uuid) = split_stix_id(raw.trim_matches('"'))?;
        if stix_type != StixType::MarkingDefinition.as_str() {
            return None;
        }
        let anew = || TLP_2_MARKINGS.iter().find(|(text, _)| parse_uuid(text.as_bytes()) == Some(uuid));
        TlpMarking::of_id(&uuid).map(|marking| marking.colour).or_else(|| anew().map(|(_, colour)| *colour))
    };
    json::items(marking_refs).find_map(colour)
}
