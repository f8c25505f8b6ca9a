//! `observed-data` objects around single observables (STIX 2.0 part 2 §2.9 and part 4), which 2.0 does not have by
//! themselves. The UUID is the observable's.

use super::definition::marking_refs_into;
use super::encoder::{Head, Manner, Shape, Source};
use super::extension::custom_property_into;
use super::sco::{as_into, hashes_into, login_into, registry_values_into, validity_into};
use super::sdo::revoked_into;
use super::text::{close, filled_into, text_into, time_into};
use crate::model::kind::StixType;
use crate::model::time::Timestamp;

/// Appends the object.
pub(super) fn write<M: Manner>(
    source: &mut Source<'_>,
    stix_type: StixType,
    row: usize,
    out: &mut Vec<u8>,
) -> Option<()> {
    let bound = &source.bound;
    let Head { value, id, created, modified } = Head::of::<M>(bound, Shape::Observed(stix_type), row)?;
    let first = bound.first_seen.get(row).unwrap_or(created);
    // The window must not end before it begins.
    let last: Timestamp = bound.last_seen.get(row).unwrap_or(modified).max(first);
    out.push(b'{');
    time_into::<M>(br#""created":""#, created, out);
    time_into::<M>(br#""first_observed":""#, first, out);
    id.member_into(out);
    source.labels.write(None, bound.tags.get(row), None, out);
    time_into::<M>(br#""last_observed":""#, last, out);
    time_into::<M>(br#""modified":""#, modified, out);
    out.extend_from_slice(br#""number_observed":1,"#);
    marking_refs_into::<M>(bound.tlp.get(row), out);
    out.extend_from_slice(br#""objects":{"0":{"#);
    observable_into::<M>(source, stix_type, value, row, out)?;
    close(b'}', out);
    out.extend_from_slice(b"},");
    revoked_into(&source.bound, row, out);
    out.extend_from_slice(br#""type":"observed-data","#);
    custom_property_into::<M>(source, row, out);
    close(b'}', out);
    Some(())
}

/// Appends the members of the observable.
fn observable_into<M: Manner>(
    source: &Source<'_>,
    stix_type: StixType,
    value: &str,
    row: usize,
    out: &mut Vec<u8>,
) -> Option<()> {
    let bound = &source.bound;
    match stix_type {
        StixType::File => hashes_into(bound, value, row, true, "ssdeep", out)?,
        StixType::UserAccount => login_into(bound, value, row, out),
        StixType::WindowsRegistryKey => text_into(br#""key":""#, value, out),
        StixType::Software => text_into(br#""name":""#, value, out),
        StixType::AutonomousSystem => as_into(value, bound.as_name.filled(row), out)?,
        StixType::X509Certificate => {
            filled_into(br#""issuer":""#, bound.issuer.filled(row), out);
            text_into(br#""serial_number":""#, value, out);
            filled_into(br#""subject":""#, bound.subject.filled(row), out);
        }
        _ => {}
    }
    text_into(br#""type":""#, stix_type.as_str(), out);
    match stix_type {
        // Required in 2.0, and an account's name is one of the things it may be.
        StixType::UserAccount => text_into(br#""user_id":""#, bound.user_id.filled(row).unwrap_or(value), out),
        StixType::WindowsRegistryKey => registry_values_into(bound, row, out),
        StixType::X509Certificate => validity_into::<M>(bound, row, out),
        StixType::Ipv4Addr | StixType::Ipv6Addr | StixType::DomainName | StixType::Url | StixType::EmailAddr => {
            text_into(br#""value":""#, value, out);
        }
        _ => {}
    }
    Some(())
}
