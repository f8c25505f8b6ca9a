//! Domain objects (STIX 2.1 chapter 4, STIX 2.0 part 2) made of indicators such as malware, reports and vulnerabilities.
//!
//! Where the standard requires what a record may lack:
//! - a report without references refers to itself: `object_refs` must not be empty, and this is the one reference that
//!   never dangles and says nothing untrue;
//! - a report that does not say when it was published was published when it was created;
//! - a location must say where it is: a name of two letters is its `country`, any other its `region`, lower case and
//!   hyphenated as the region vocabulary is;
//! - malware that does not say so is no family; an identity that does not say so is of class `unknown`;
//! - 2.0 wants labels on malware, reports, threat actors and tools: a report without tags is a `threat-report`, the
//!   others are `unknown`, since every word of their vocabularies would claim more than is known.

use std::collections::HashSet;

use super::StixVersion;
use super::columns::Bound;
use super::definition::marking_refs_into;
use super::edge::reference_into;
use super::encoder::{Head, Manner, RowId, Shape, Source};
use super::extension::{custom_property_into, extensions_into};
use super::text::{close, escape_into, filled_into, slug_into, text_into, time_into};
use crate::model::ids::parse_uuid;
use crate::model::kind::{StixType, is_cve};

/// The types written here.
pub(super) const KNOWN: &[StixType] = &[
    StixType::AttackPattern,
    StixType::Campaign,
    StixType::CourseOfAction,
    StixType::Identity,
    StixType::Infrastructure,
    StixType::IntrusionSet,
    StixType::Location,
    StixType::Malware,
    StixType::Report,
    StixType::ThreatActor,
    StixType::Tool,
    StixType::Vulnerability,
];

/// Kill chain of phases that do not name one: XSOAR's phases are ATT&CK's tactics.
const DEFAULT_KILL_CHAIN: &str = "mitre-attack";

/// Appends the object.
pub(super) fn write<M: Manner>(
    source: &mut Source<'_>,
    stix_type: StixType,
    row: usize,
    out: &mut Vec<u8>,
) -> Option<()> {
    let bound = &source.bound;
    let Head { value: name, id, created, modified } = Head::of::<M>(bound, Shape::Sdo(stix_type), row)?;
    let is_21 = M::VERSION == StixVersion::V21;
    let is_code = name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_alphabetic());
    out.push(b'{');
    if is_21 {
        confidence_into(bound, row, out);
    }
    if stix_type == StixType::Location && is_code {
        out.extend_from_slice(br#""country":""#);
        out.extend(name.bytes().map(|byte| byte.to_ascii_uppercase()));
        out.extend_from_slice(br#"","#);
    }
    time_into::<M>(br#""created":""#, created, out);
    filled_into(br#""description":""#, bound.description.filled(row), out);
    if is_21 {
        extensions_into::<M>(source, stix_type, row, out);
    }
    let bound = &source.bound;
    external_references_into(bound, stix_type, name, row, out);
    id.member_into(out);
    match stix_type {
        StixType::Identity => {
            text_into(br#""identity_class":""#, bound.identity_class.filled(row).unwrap_or("unknown"), out);
        }
        StixType::Malware if is_21 => {
            let is_family = bound.is_family.get(row);
            out.extend_from_slice(if is_family { br#""is_family":true,"# } else { br#""is_family":false,"# });
        }
        _ => {}
    }
    if matches!(stix_type, StixType::AttackPattern | StixType::Infrastructure | StixType::Malware | StixType::Tool) {
        kill_chain_phases_into(bound, row, out);
    }
    let without_tags = match stix_type {
        _ if is_21 => None,
        StixType::Report => Some("threat-report"),
        StixType::Malware | StixType::ThreatActor | StixType::Tool => Some("unknown"),
        _ => None,
    };
    source.labels.write(None, bound.tags.get(row), without_tags, out);
    time_into::<M>(br#""modified":""#, modified, out);
    text_into(br#""name":""#, name, out);
    marking_refs_into::<M>(bound.tlp.get(row), out);
    if stix_type == StixType::Report {
        object_refs_into::<M>(source, &id, row, out);
        time_into::<M>(br#""published":""#, bound.published.get(row).unwrap_or(created), out);
    }
    if stix_type == StixType::Location && !is_code {
        out.extend_from_slice(br#""region":""#);
        slug_into(name, out);
        out.extend_from_slice(b"\",");
    }
    revoked_into(bound, row, out);
    if is_21 {
        out.extend_from_slice(br#""spec_version":"2.1","#);
    }
    out.extend_from_slice(br#""type":""#);
    out.extend_from_slice(stix_type.as_str().as_bytes());
    out.extend_from_slice(b"\",");
    if M::STRICT_20 {
        custom_property_into::<M>(source, row, out);
    }
    close(b'}', out);
    Some(())
}

/// Appends `"revoked":true,` where it is.
pub(super) fn revoked_into(bound: &Bound<'_>, row: usize, out: &mut Vec<u8>) {
    if bound.revoked.get(row) {
        out.extend_from_slice(br#""revoked":true,"#);
    }
}

/// Appends `"confidence":n,` when there is one from 0 to 100.
pub(super) fn confidence_into(bound: &Bound<'_>, row: usize, out: &mut Vec<u8>) {
    if let Some(confidence) = bound.confidence.get(row).filter(|confidence| (0..=100).contains(confidence)) {
        out.extend_from_slice(br#""confidence":"#);
        out.extend_from_slice(itoa::Buffer::new().format(confidence).as_bytes());
        out.push(b',');
    }
}

/// Appends the kill-chain phases, each given as `chain/phase` or `phase`.
pub(super) fn kill_chain_phases_into(bound: &Bound<'_>, row: usize, out: &mut Vec<u8>) {
    let mut is_first = true;
    for entry in bound.kill_chain_phases.get(row) {
        let (chain, phase) = entry.split_once('/').unwrap_or((DEFAULT_KILL_CHAIN, entry));
        let (chain, phase) = (chain.trim(), phase.trim());
        if chain.is_empty() || phase.is_empty() {
            continue;
        }
        out.extend_from_slice(if is_first { br#""kill_chain_phases":["# } else { b"," });
        is_first = false;
        out.extend_from_slice(br#"{"kill_chain_name":""#);
        slug_into(chain, out);
        out.extend_from_slice(br#"","phase_name":""#);
        slug_into(phase, out);
        out.extend_from_slice(br#""}"#);
    }
    if !is_first {
        out.extend_from_slice(b"],");
    }
}

/// Appends the reference that names the object elsewhere: its CVE id, its ATT&CK id.
fn external_references_into(bound: &Bound<'_>, stix_type: StixType, name: &str, row: usize, out: &mut Vec<u8>) {
    match stix_type {
        StixType::Vulnerability if is_cve(name) => {
            out.extend_from_slice(br#""external_references":[{"external_id":""#);
            out.extend(name.bytes().map(|byte| byte.to_ascii_uppercase()));
            out.extend_from_slice(br#"","source_name":"cve"}],"#);
        }
        StixType::AttackPattern => {
            if let Some(mitre_id) = bound.mitre_id.filled(row) {
                out.extend_from_slice(br#""external_references":[{"external_id":""#);
                escape_into(mitre_id, out);
                out.extend_from_slice(br#"","source_name":"mitre-attack"}],"#);
            }
        }
        _ => {}
    }
}

/// Appends the references of a report that are ids, each once; its own when there are none.
fn object_refs_into<M: Manner>(source: &Source<'_>, own: &RowId<'_>, row: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(br#""object_refs":["#);
    let first = out.len();
    let mut written: HashSet<Vec<u8>> = HashSet::new();
    for (reference, indicator) in source.bound.references(row).filter(|(reference, _)| is_stix_id(reference)) {
        let start = out.len();
        out.push(b'"');
        if reference_into::<M>(reference, indicator, source.indicator_types, out).is_none() {
            out.truncate(start);
            continue;
        }
        out.extend_from_slice(b"\",");
        if !written.insert(out.get(start..).unwrap_or_default().to_vec()) {
            out.truncate(start);
        }
    }
    if out.len() == first {
        out.push(b'"');
        own.write_json(out);
        out.extend_from_slice(b"\",");
    }
    close(b']', out);
    out.push(b',');
}

fn is_stix_id(text: &str) -> bool {
    let type_byte = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.rsplit_once("--").is_some_and(|(stix_type, uuid)| {
        !stix_type.is_empty() && stix_type.bytes().all(type_byte) && parse_uuid(uuid.as_bytes()).is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_ids() {
        let uuid = "bddcf01f-9fd0-5107-a013-4b174285babc";
        let cases =
            [("malware--", true), ("x-own-2--", true), ("Foo--", false), ("a b--", false), ("--", false), ("", false)];
        for (prefix, expected) in cases {
            assert_eq!(is_stix_id(&format!("{prefix}{uuid}")), expected, "{prefix}");
        }
        assert!(!is_stix_id("malware--1"));
    }
}
