//! XSOAR relationship documents (spec/xsoar-taxii2-server.md §5, §7), kept as they came.
//!
//! Such a document names its ends by type and value. Which objects those are is known only once their records are in the
//! store, since a record may bring an id of its own. Until then the row carries the names, in a column that edges have no use
//! for, and `link` fills in the ids when the edge enters the log.
//!
//! Only the family `Indicator` has records. An end of another family, and one of a type without STIX form, may still come to have
//! an object one day, or never: the edge waits, and is counted among those that do.

use std::borrow::Cow;

use crate::ingest::block::Rows;
use crate::ingest::builder::Col;
use crate::ingest::element::{CustomKey, Element, Key};
use crate::ingest::json;
use crate::ingest::xsoar::{one_line, time, truth};
use crate::model::ids::write_uuid;
use crate::model::kind::StixType;
use crate::model::schema::kind_value;
use crate::model::words;

/// The column in which an edge carries the names of its ends while it waits: type and value of the source, then of the target. No
/// row of the log has it. An empty type is none of the indicators'.
pub(crate) const NAMES: Col = Col::ObjectRefs;

/// The family whose members are records.
const INDICATOR_FAMILY: &str = "Indicator";

/// Appends the edge between two entities.
pub(crate) fn append(rows: &mut Rows<'_>, mut element: Element<'_>, text: &str, line: u64) -> Result<(), String> {
    let Rows { builder, scratch, options, .. } = rows;
    scratch.clear();
    let required =
        |key: Key| json::text(element.get(key)).ok_or_else(|| format!("a relationship without `{}`", key.as_str()));
    let own_id = required(Key::Id)?;
    let name = required(Key::Name)?;
    let end = |family: Key, xsoar_type: Key, value: Key| -> Result<[Cow<'_, str>; 2], String> {
        let value = required(value)?;
        match json::text(element.get(family)) {
            Some(family) if family != INDICATOR_FAMILY => Ok([Cow::Borrowed(""), value]),
            _ => Ok([required(xsoar_type)?, value]),
        }
    };
    let source = end(Key::EntityAFamily, Key::EntityAType, Key::EntityA)?;
    let target = end(Key::EntityBFamily, Key::EntityBType, Key::EntityB)?;
    let uuid = options.ids.relationship(&own_id);
    let id = stix_id(StixType::Relationship, &uuid);

    builder.text_aside(Col::Kind, kind_value::RELATIONSHIP);
    builder.text_aside(Col::StixType, StixType::Relationship.as_str());
    builder.uuid(Col::Id, &uuid);
    builder.text(Col::RelationshipType, &name);
    let names = [&source[0], &source[1], &target[0], &target[1]];
    for name in names {
        builder.count_as_content(NAMES, name);
    }
    builder.list_aside(NAMES, names.into_iter().map(AsRef::as_ref));
    let created = time(builder, Col::Created, element.get(Key::CreatedInSystem));
    let modified = time(builder, Col::Modified, element.get(Key::Modified)).or(created);
    builder.time(Col::Created, created.or(modified));
    builder.time(Col::Modified, modified);
    builder.time(Col::SourceModified, modified);
    builder.text_opt(Col::Description, element.read_custom(CustomKey::Description, json::text).as_deref());
    builder.boolean(Col::Revoked, element.read_custom(CustomKey::Revoked, truth));
    builder.number(
        Col::Confidence,
        element.read_custom(CustomKey::Confidence, |raw| words::confidence(&json::text(raw)?)),
    );
    builder.text_aside(Col::Document, one_line(text, &mut scratch.document));
    builder.end_row(("stix", &id), line);
    Ok(())
}

pub(crate) fn stix_id(stix_type: StixType, uuid: &[u8; 16]) -> String {
    let mut id = format!("{stix_type}--").into_bytes();
    write_uuid(uuid, &mut id);
    String::from_utf8(id).unwrap_or_default()
}
