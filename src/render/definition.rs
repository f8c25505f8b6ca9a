//! Marking and extension definitions: the objects that others refer to (STIX 2.1 §7.2, §7.3; spec/xsoar-taxii2-server.md
//! §6).

use super::StixVersion;
use super::columns::Bound;
use super::encoder::{Manner, RowId, Shape, Source};
use super::text::{close, text_into, time_into};
use crate::model::ids::{PAWN_NAMESPACE, TlpMarking, Uuid16, write_uuid};
use crate::model::kind::StixType;

/// The extension through which TLP 2.0 is told.
const TLP_2: &str = "extension-definition--60a3c5c5-0d10-413e-aab3-9e08dde9e88d";

/// Where the original says that its schema lies.
const XSOAR_SCHEMA: &str = "https://github.com/demisto/content/blob/4265bd5c71913cd9d9ed47d9c37d0d4d3141c3eb/Packs/TAXIIServer/doc_files/XSOAR_indicator_schema.json";

/// What the extensions of the standard profile hold, as a JSON schema (text in place of a URL, STIX 2.1 §7.3).
const SCHEMA: &str = r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","title":"XSOAR indicator record","description":"First-level fields of the record in snake case and its custom fields by their machine names, side by side.","type":"object","properties":{"extension_type":{"const":"property-extension"},"value":{"type":"string"},"indicator_type":{"type":"string"},"score":{"type":"integer","minimum":0,"maximum":3},"stixid":{"type":"string"},"tags":{"type":"array","items":{"type":"string"}}},"required":["extension_type"]}"#;

/// The marking that the definition in this row is of, if it is served in that manner. In 2.0 those of TLP 2.0 are not:
/// what refers to them refers to another one there ([`TlpMarking::in_stix_20`]), and that has a row of its own.
pub(super) fn marking<M: Manner>(bound: &Bound<'_>, row: usize) -> Option<&'static TlpMarking> {
    bound.id.get(row).and_then(TlpMarking::of_id).filter(|marking| marking.is_tlp_1 || !M::STRICT_20)
}

/// Appends the object.
pub(super) fn write<M: Manner>(source: &Source<'_>, stix_type: StixType, row: usize, out: &mut Vec<u8>) -> Option<()> {
    match stix_type {
        StixType::MarkingDefinition => marking_into::<M>(marking::<M>(&source.bound, row)?, out),
        _ => extension_into::<M>(&source.bound, row, out)?,
    }
    Some(())
}

fn marking_into<M: Manner>(marking: &TlpMarking, out: &mut Vec<u8>) {
    let is_21 = M::VERSION == StixVersion::V21;
    // Consumers compare these objects with their own copies, so the date has the digits it was published with.
    out.extend_from_slice(br#"{"created":""#);
    marking.created().write_millis_to(out);
    out.extend_from_slice(b"\",");
    if marking.is_tlp_1 {
        text_into(br#""definition":{"tlp":""#, marking.colour, out);
        close(b'}', out);
        out.extend_from_slice(br#","definition_type":"tlp","#);
    } else {
        out.extend_from_slice(br#""extensions":{""#);
        out.extend_from_slice(TLP_2.as_bytes());
        text_into(br#"":{"extension_type":"property-extension","tlp_2_0":""#, marking.colour, out);
        close(b'}', out);
        out.extend_from_slice(b"},");
    }
    RowId::Parts(StixType::MarkingDefinition.as_str(), marking.id).member_into(out);
    if is_21 {
        out.extend_from_slice(br#""name":"TLP:"#);
        out.extend(marking.colour.bytes().map(|byte| byte.to_ascii_uppercase()));
        out.extend_from_slice(br#"","spec_version":"2.1","#);
    }
    out.extend_from_slice(br#""type":"marking-definition"}"#);
}

fn extension_into<M: Manner>(bound: &Bound<'_>, row: usize, out: &mut Vec<u8>) -> Option<()> {
    let id = RowId::of::<M>(bound, Shape::Definition(StixType::ExtensionDefinition), row)?;
    out.push(b'{');
    time_into::<M>(br#""created":""#, bound.created(row)?, out);
    out.extend_from_slice(br#""created_by_ref":"identity--"#);
    write_uuid(&PAWN_NAMESPACE, out);
    out.extend_from_slice(br#"","description":"This schema adds TIM data to the object","#);
    out.extend_from_slice(br#""extension_types":["property-extension"],"#);
    id.member_into(out);
    time_into::<M>(br#""modified":""#, bound.version(row)?, out);
    text_into(br#""name":"Cortex XSOAR TIM "#, bound.xsoar_type.filled(row).or(bound.value.filled(row))?, out);
    text_into(br#""schema":""#, if M::XSOAR { XSOAR_SCHEMA } else { SCHEMA }, out);
    // The original writes 2.1 here in either version, since 2.0 has no such objects.
    out.extend_from_slice(br#""spec_version":"2.1","type":"extension-definition","version":""#);
    out.extend_from_slice(if M::XSOAR { br#"1.0"}"# } else { br#"1.0.0"}"# });
    Some(())
}

/// Appends `"object_marking_refs":["…"],` of a colour; nothing for words that are none.
pub(super) fn marking_refs_into<M: Manner>(colour: Option<&str>, out: &mut Vec<u8>) {
    let Some(marking) = colour.and_then(TlpMarking::of) else { return };
    let id: &Uuid16 = if M::STRICT_20 { &marking.in_stix_20().id } else { &marking.id };
    out.extend_from_slice(br#""object_marking_refs":["marking-definition--"#);
    write_uuid(id, out);
    out.extend_from_slice(b"\"],");
}
