//! Relationships made of columns (STIX 2.1 §5.1, STIX 2.0 part 2 §3.1; spec/xsoar-taxii2-server.md §5), and references
//! to objects that may be served in another form.

use super::columns::Text;
use super::encoder::{Manner, RowId, Shape, Source};
use super::sco::spec_version_into;
use super::sdo::revoked_into;
use super::text::{close, escape_into, filled_into, text_into, time_into};
use super::{IndicatorTypes, LEFT_OUT_OF_20};
use crate::model::ids::{Uuid16, split_stix_id, to_v4, write_uuid};
use crate::model::kind::StixType;

/// What a relationship is called whose own name has no letter or digit that STIX allows in one.
const NAMELESS: &[u8] = b"related-to";

/// Appends the object; `None` where an end has no form in the version.
pub(super) fn write<'a, M: Manner>(source: &Source<'a>, row: usize, out: &mut Vec<u8>) -> Option<()> {
    let bound = &source.bound;
    let id = RowId::of::<M>(bound, Shape::Edge, row)?;
    let name = bound.relationship_type.filled(row)?;
    let description = bound.description.filled(row);
    out.push(b'{');
    if M::XSOAR {
        filled_into(br#""Description":""#, description, out);
    }
    time_into::<M>(br#""created":""#, bound.created(row)?, out);
    if !M::XSOAR {
        filled_into(br#""description":""#, description, out);
    }
    id.member_into(out);
    time_into::<M>(br#""modified":""#, bound.version(row)?, out);
    if M::XSOAR {
        text_into(br#""relationship_type":""#, name, out);
    } else {
        out.extend_from_slice(br#""relationship_type":""#);
        hyphenated_into(name, out);
        out.extend_from_slice(b"\",");
    }
    // The original serves no withdrawn ones; who asks for them wants to know which they are.
    revoked_into(bound, row, out);
    // There an end that brings its own id has no other.
    let own = |ids: &Text<'a>| ids.filled(row).filter(|_| M::XSOAR);
    let types = source.indicator_types;
    out.extend_from_slice(br#""source_ref":""#);
    match own(&bound.source_stix_id) {
        Some(own) => escape_into(own, out),
        None => {
            let indicator = bound.source_indicator_id.get(row).copied();
            reference_into::<M>(bound.source_ref.filled(row)?, indicator, types, out)?;
        }
    }
    out.extend_from_slice(b"\",");
    if !M::STRICT_20 {
        spec_version_into::<M>(out);
    }
    out.extend_from_slice(br#""target_ref":""#);
    match own(&bound.target_stix_id) {
        Some(own) => escape_into(own, out),
        None => {
            let indicator = bound.target_indicator_id.get(row).copied();
            reference_into::<M>(bound.target_ref.filled(row)?, indicator, types, out)?;
        }
    }
    out.extend_from_slice(br#"","type":"relationship","#);
    close(b'}', out);
    Some(())
}

/// Appends a reference as the inside of a JSON string, to the form in which its object is served: `indicator` is the UUID
/// it has as one. `None` where it has no form.
pub(super) fn reference_into<M: Manner>(
    reference: &str,
    indicator: Option<Uuid16>,
    types: IndicatorTypes,
    out: &mut Vec<u8>,
) -> Option<()> {
    let Some((name, uuid)) = split_stix_id(reference) else {
        escape_into(reference, out);
        return Some(());
    };
    let known = StixType::named(name);
    let (name, uuid) = match (known, indicator) {
        (Some(stix_type), Some(indicator)) if types.contains(stix_type) => (StixType::Indicator.as_str(), indicator),
        (Some(stix_type), _) if M::STRICT_20 && stix_type.is_sco() => (StixType::ObservedData.as_str(), uuid),
        (Some(stix_type), _) if M::STRICT_20 && LEFT_OUT_OF_20.contains(&stix_type) => return None,
        _ => (name, uuid),
    };
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"--");
    write_uuid(&if M::STRICT_20 { to_v4(&uuid) } else { uuid }, out);
    Some(())
}

/// Appends a name as STIX wants it, of `[a-z0-9-]`: lower case, every run of other characters a hyphen.
fn hyphenated_into(name: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for byte in name.bytes() {
        let byte = byte.to_ascii_lowercase();
        if byte.is_ascii_lowercase() || byte.is_ascii_digit() {
            out.push(byte);
        } else if out.len() > start && out.last() != Some(&b'-') {
            out.push(b'-');
        }
    }
    while out.len() > start && out.last() == Some(&b'-') {
        out.pop();
    }
    if out.len() == start {
        out.extend_from_slice(NAMELESS);
    }
}

#[cfg(test)]
mod tests {
    use super::super::encoder::{Standard20, Standard21, Xsoar20};
    use super::*;

    #[test]
    fn names_are_hyphenated() {
        let cases = [
            ("related to", "related-to"),
            ("Uses", "uses"),
            ("part_of (x)", "part-of-x"),
            ("-a--b-", "a-b"),
            ("\u{e9}\u{e9}", "related-to"),
            ("v2", "v2"),
        ];
        for (name, expected) in cases {
            let mut out = b"-".to_vec();
            hyphenated_into(name, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("-{expected}"), "{name}");
        }
    }

    #[test]
    fn references_follow_the_form_served() {
        let types: IndicatorTypes = [StixType::Ipv4Addr].into_iter().collect();
        let (own, as_indicator) = ([0x55; 16], [0x66; 16]);
        let uuid = "55555555-5555-5555-5555-555555555555";
        let twin = "55555555-5555-4555-5555-555555555555";
        let other = "66666666-6666-6666-6666-666666666666";
        // The end, whether it has an indicator; in 2.1, in strict 2.0.
        let cases = [
            (
                format!("ipv4-addr--{uuid}"),
                true,
                Some(format!("indicator--{other}")),
                Some(format!("indicator--{other}")),
            ),
            (
                format!("ipv4-addr--{uuid}"),
                false,
                Some(format!("ipv4-addr--{uuid}")),
                Some(format!("observed-data--{twin}")),
            ),
            (format!("url--{uuid}"), true, Some(format!("url--{uuid}")), Some(format!("observed-data--{twin}"))),
            (format!("malware--{uuid}"), true, Some(format!("malware--{uuid}")), Some(format!("malware--{twin}"))),
            (format!("location--{uuid}"), false, Some(format!("location--{uuid}")), None),
            (format!("x-own--{uuid}"), false, Some(format!("x-own--{uuid}")), Some(format!("x-own--{twin}"))),
            ("no \"id\"".to_owned(), true, Some("no \\\"id\\\"".to_owned()), Some("no \\\"id\\\"".to_owned())),
        ];
        assert_eq!(split_stix_id(&cases[0].0), Some(("ipv4-addr", own)));
        for (reference, has_indicator, in_21, in_20) in cases {
            let written = |write: fn(&str, Option<Uuid16>, IndicatorTypes, &mut Vec<u8>) -> Option<()>| {
                let mut out = Vec::new();
                write(&reference, has_indicator.then_some(as_indicator), types, &mut out)?;
                Some(String::from_utf8(out).unwrap())
            };
            assert_eq!(written(reference_into::<Standard21>), in_21, "{reference}");
            assert_eq!(written(reference_into::<Xsoar20>), in_21, "{reference}");
            assert_eq!(written(reference_into::<Standard20>), in_20, "{reference}");
        }
    }
}
