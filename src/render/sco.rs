//! Cyber-observable objects (STIX 2.1 chapter 6): the properties of their own and nothing else. Dates, labels and
//! confidence do not belong on observables.

use super::columns::Bound;
use super::encoder::{RowId, Shape};
use super::text::{escape_into, member_into, string_into, time_into};
use crate::model::ids::{ScoFacts, registry_values};
use crate::model::kind::{HashAlgorithm, INDICATOR_TYPES, StixType, asn_number};
use crate::model::time::Timestamp;

/// The types written here.
pub(super) const KNOWN: &[StixType] = INDICATOR_TYPES;

/// Appends the object.
pub(super) fn write(bound: &Bound<'_>, stix_type: StixType, row: usize, out: &mut Vec<u8>) -> Option<()> {
    let value = bound.value.get(row)?;
    let id = RowId::of(bound, Shape::Sco(stix_type), row)?;
    match stix_type {
        StixType::File => {
            out.extend_from_slice(br#"{"hashes":{"#);
            hashes_into(bound, value, row, out)?;
            out.extend_from_slice(br#"},"id":""#);
            id.write_json(out);
            out.extend_from_slice(br#"","spec_version":"2.1","type":"file""#);
        }
        StixType::UserAccount => {
            member_into(br#"{"account_login":""#, Some(value), out);
            member_into(br#","account_type":""#, bound.account_type.filled(row), out);
            out.extend_from_slice(br#","id":""#);
            id.write_json(out);
            out.extend_from_slice(br#"","spec_version":"2.1","type":"user-account""#);
            member_into(br#","user_id":""#, bound.user_id.filled(row), out);
        }
        _ => {
            out.extend_from_slice(br#"{"id":""#);
            id.write_json(out);
            out.push(b'"');
            own_properties_into(bound, stix_type, value, row, out)?;
        }
    }
    out.push(b'}');
    Some(())
}

/// Everything after the id, for the types whose first key is the id.
fn own_properties_into(
    bound: &Bound<'_>,
    stix_type: StixType,
    value: &str,
    row: usize,
    out: &mut Vec<u8>,
) -> Option<()> {
    match stix_type {
        StixType::WindowsRegistryKey => {
            member_into(br#","key":""#, Some(value), out);
            out.extend_from_slice(br#","spec_version":"2.1","type":"windows-registry-key""#);
            if let Some(values) = bound.registry_values.filled(row).and_then(registry_values) {
                out.extend_from_slice(br#","values":"#);
                out.extend_from_slice(values.as_bytes());
            }
        }
        StixType::Software => {
            member_into(br#","name":""#, Some(value), out);
            out.extend_from_slice(br#","spec_version":"2.1","type":"software""#);
        }
        StixType::AutonomousSystem => {
            member_into(br#","name":""#, bound.as_name.filled(row), out);
            out.extend_from_slice(br#","number":"#);
            out.extend_from_slice(itoa::Buffer::new().format(asn_number(value)?).as_bytes());
            out.extend_from_slice(br#","spec_version":"2.1","type":"autonomous-system""#);
        }
        StixType::X509Certificate => {
            member_into(br#","issuer":""#, bound.issuer.filled(row), out);
            member_into(br#","serial_number":""#, Some(value), out);
            out.extend_from_slice(br#","spec_version":"2.1""#);
            member_into(br#","subject":""#, bound.subject.filled(row), out);
            out.extend_from_slice(br#","type":"x509-certificate""#);
            let dates = [
                (&br#","validity_not_after":""#[..], bound.validity_not_after),
                (br#","validity_not_before":""#, bound.validity_not_before),
            ];
            for (key, column) in dates {
                if let Some(at) = column.filled(row).and_then(|text| Timestamp::parse(text).ok()) {
                    time_into(key, at, out);
                }
            }
        }
        _ => {
            out.extend_from_slice(value_middle(stix_type)?);
            escape_into(value, out);
            out.push(b'"');
        }
    }
    Some(())
}

/// The bytes between id and value of the types that have a `value`.
fn value_middle(stix_type: StixType) -> Option<&'static [u8]> {
    macro_rules! middle {
        ($name:literal) => {
            concat!(r#","spec_version":"2.1","type":""#, $name, r#"","value":""#).as_bytes()
        };
    }
    Some(match stix_type {
        StixType::Ipv4Addr => middle!("ipv4-addr"),
        StixType::Ipv6Addr => middle!("ipv6-addr"),
        StixType::DomainName => middle!("domain-name"),
        StixType::Url => middle!("url"),
        StixType::EmailAddr => middle!("email-addr"),
        _ => return None,
    })
}

/// The entries of `hashes`, sorted by key; `None` when there is none.
fn hashes_into(bound: &Bound<'_>, value: &str, row: usize, out: &mut Vec<u8>) -> Option<()> {
    let facts = ScoFacts {
        value,
        md5: bound.md5.get(row),
        sha1: bound.sha1.get(row),
        sha256: bound.sha256.get(row),
        sha512: bound.sha512.get(row),
        ..ScoFacts::default()
    };
    let start = out.len();
    let known = HashAlgorithm::PREFERENCE.iter().filter_map(|&kind| Some((kind.as_str(), facts.hash(kind)?)));
    for (key, hash) in known.chain(bound.ssdeep.filled(row).map(|hash| ("SSDEEP", hash))) {
        if out.len() > start {
            out.push(b',');
        }
        string_into(key, out);
        out.push(b':');
        string_into(hash, out);
    }
    (out.len() > start).then_some(())
}
