//! Domain and `indicator` objects as XSOAR's server sends them (spec/xsoar-taxii2-server.md §4.4, §4.6, §4.7): little
//! more than names and dates, `spec_version` in 2.0 too, descriptions even where they are empty.

use super::StixVersion;
use super::edge::reference_into;
use super::encoder::{Head, Manner, Shape, Source};
use super::extension::extensions_into;
use super::indicator::{UNKNOWN, pattern_into, verdict};
use super::sco::spec_version_into;
use super::text::{close, filled_into, text_into, time_into};
use crate::model::kind::StixType;

/// Appends a domain object.
pub(super) fn sdo<M: Manner>(
    source: &mut Source<'_>,
    stix_type: StixType,
    row: usize,
    out: &mut Vec<u8>,
) -> Option<()> {
    let bound = &source.bound;
    let Head { value: name, id, created, modified } = Head::of::<M>(bound, Shape::Sdo(stix_type), row)?;
    let is_21 = M::VERSION == StixVersion::V21;
    out.push(b'{');
    time_into::<M>(br#""created":""#, created, out);
    text_into(br#""description":""#, bound.description.get(row).unwrap_or_default(), out);
    extensions_into::<M>(source, stix_type, row, out);
    let bound = &source.bound;
    id.member_into(out);
    match stix_type {
        StixType::Identity if !is_21 => {
            text_into(br#""identity_class":""#, bound.identity_class.filled(row).unwrap_or("unknown"), out);
        }
        StixType::Malware if is_21 => {
            let is_family = bound.is_family.get(row);
            out.extend_from_slice(if is_family { br#""is_family":true,"# } else { br#""is_family":false,"# });
        }
        _ => {}
    }
    if matches!(stix_type, StixType::Malware | StixType::Report | StixType::ThreatActor | StixType::Tool) {
        source.labels.write(None, bound.tags.get(row), Some(stix_type.as_str()), out);
    }
    time_into::<M>(br#""modified":""#, modified, out);
    text_into(br#""name":""#, name, out);
    if stix_type == StixType::Report {
        object_refs_into::<M>(source, row, out);
        if let Some(published) = bound.published.get(row).filter(|_| is_21) {
            time_into::<M>(br#""published":""#, published, out);
        }
    }
    spec_version_into::<M>(out);
    text_into(br#""type":""#, stix_type.as_str(), out);
    close(b'}', out);
    Some(())
}

/// Appends what a report refers to, sorted, and an empty list when that is nothing. What is no id is there too.
fn object_refs_into<M: Manner>(source: &Source<'_>, row: usize, out: &mut Vec<u8>) {
    let mut references: Vec<Vec<u8>> = source
        .bound
        .references(row)
        .filter_map(|(reference, indicator)| {
            let mut written = vec![b'"'];
            reference_into::<M>(reference, indicator, source.indicator_types, &mut written)?;
            written.extend_from_slice(b"\",");
            Some(written)
        })
        .collect();
    references.sort_unstable();
    out.extend_from_slice(br#""object_refs":["#);
    references.iter().for_each(|reference| out.extend_from_slice(reference));
    close(b']', out);
    out.push(b',');
}

/// Appends an `indicator` object. Where the original has an empty label for a verdict of 0, or none at all, it is
/// `unknown`, since 2.0 requires a label and readers count on the key.
pub(super) fn indicator<M: Manner>(
    source: &mut Source<'_>,
    stix_type: StixType,
    row: usize,
    out: &mut Vec<u8>,
) -> Option<()> {
    let bound = &source.bound;
    let Head { value, id, created, modified } = Head::of::<M>(bound, Shape::Indicator(stix_type), row)?;
    out.push(b'{');
    time_into::<M>(br#""created":""#, created, out);
    filled_into(br#""description":""#, bound.description.filled(row), out);
    extensions_into::<M>(source, stix_type, row, out);
    let bound = &source.bound;
    id.member_into(out);
    source.labels.write_sorted(verdict(bound.score.get(row)), bound.tags.get(row), Some(UNKNOWN), out);
    time_into::<M>(br#""modified":""#, modified, out);
    out.extend_from_slice(br#""pattern":""#);
    pattern_into::<M>(stix_type, value, out)?;
    out.extend_from_slice(br#"","pattern_type":"stix","#);
    spec_version_into::<M>(out);
    out.extend_from_slice(br#""type":"indicator","#);
    time_into::<M>(br#""valid_from":""#, created, out);
    if let Some(expiration) = bound.expiration.get(row) {
        time_into::<M>(br#""valid_until":""#, expiration, out);
    }
    close(b'}', out);
    Some(())
}
