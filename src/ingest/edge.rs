//! XSOAR relationship documents (spec/xsoar-taxii2-server.md §5), kept as the STIX relationships they mean.

use crate::ingest::block::Rows;
use crate::ingest::builder::Col;
use crate::ingest::element::{CustomKey, Element, Key};
use crate::ingest::json;
use crate::ingest::xsoar::{as_text, time, truth};
use crate::model::ids::{IdSpace, ScoFacts, write_uuid};
use crate::model::json::string_into;
use crate::model::kind::{self, StixType};
use crate::model::schema::kind_value;

/// Appends the edge between two indicators, which are named by type and value: the ids of its ends are those that
/// records of these values get when they bring none of their own.
pub(crate) fn append(rows: &mut Rows<'_>, element: &mut Element<'_>, line: u64) -> Result<(), String> {
    let Rows { builder, scratch, options, .. } = rows;
    scratch.clear();
    let required =
        |key: Key| json::text(element.get(key)).ok_or_else(|| format!("a relationship without `{}`", key.as_str()));
    let own_id = required(Key::Id)?;
    let name = required(Key::Name)?;
    let source = end(&options.ids, &required(Key::EntityAType)?, &required(Key::EntityA)?)?;
    let target = end(&options.ids, &required(Key::EntityBType)?, &required(Key::EntityB)?)?;
    let uuid = options.ids.relationship(&own_id);
    let id = stix_id(StixType::Relationship, &uuid);
    // STIX allows no blanks in names of relationships, XSOAR has `related to`.
    let name = name.trim().to_lowercase().replace([' ', '_'], "-");
    let created = time(builder, Col::Created, element.get(Key::CreatedInSystem));
    let modified = time(builder, Col::Modified, element.get(Key::Modified)).or(created);
    let created = created.or(modified);
    let description = element.read_custom(CustomKey::Description, json::text);
    let revoked = element.read_custom(CustomKey::Revoked, truth);

    let out = &mut scratch.document;
    let mut member = |key: &str, text: &str| {
        out.push(if out.is_empty() { b'{' } else { b',' });
        string_into(key, out);
        out.push(b':');
        string_into(text, out);
    };
    member("type", StixType::Relationship.as_str());
    member("spec_version", "2.1");
    member("id", &id);
    if let (Some(created), Some(modified)) = (created, modified) {
        member("created", &created.to_string());
        member("modified", &modified.to_string());
    }
    member("relationship_type", &name);
    if let Some(description) = &description {
        member("description", description);
    }
    member("source_ref", &source);
    member("target_ref", &target);
    if revoked == Some(true) {
        out.extend_from_slice(b",\"revoked\":true");
    }
    out.push(b'}');

    builder.text_aside(Col::Kind, kind_value::RELATIONSHIP);
    builder.text_aside(Col::StixType, StixType::Relationship.as_str());
    builder.text_aside(Col::SpecVersion, "2.1");
    builder.uuid(Col::Id, &uuid);
    builder.text_opt(Col::Description, description.as_deref());
    builder.text(Col::SourceRef, &source);
    builder.text(Col::TargetRef, &target);
    builder.text(Col::RelationshipType, &name);
    builder.time(Col::Created, created);
    builder.time(Col::Modified, modified);
    builder.time(Col::SourceModified, modified);
    builder.boolean(Col::Revoked, revoked);
    builder.text_opt(Col::Document, as_text(&scratch.document));
    builder.end_row(("stix", &id), line);
    Ok(())
}

/// The STIX id of an indicator known by type and value only.
fn end(ids: &IdSpace, xsoar_type: &str, value: &str) -> Result<String, String> {
    let stix_type = kind::stix_type(xsoar_type, value).ok_or_else(|| {
        let shown: String = value.chars().take(64).collect();
        format!("an end of this relationship, `{shown}`, has no STIX form")
    })?;
    let uuid = if stix_type.is_sco() {
        ids.sco(stix_type.as_str(), &ScoFacts { value, ..ScoFacts::default() })
    } else {
        ids.sdo(stix_type.as_str(), value)
    };
    Ok(stix_id(stix_type, &uuid))
}

fn stix_id(stix_type: StixType, uuid: &[u8; 16]) -> String {
    let mut id = format!("{stix_type}--").into_bytes();
    write_uuid(uuid, &mut id);
    String::from_utf8(id).unwrap_or_default()
}
