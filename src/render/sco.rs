//! Cyber-observable objects (STIX 2.1 chapter 6): the properties of their own and, by the standard, little else. Dates,
//! labels and confidence do not belong on observables; XSOAR's carry the dates all the same.

use super::definition::marking_refs_into;
use super::encoder::{Manner, RowId, Shape, Source};
use super::extension::extensions_into;
use super::rewrite::{Changes, Rewriter};
use super::text::{close, escape_into, filled_into, string_into, text_into, time_into};
use super::{StixVersion, columns::Bound};
use crate::model::ids::{ScoFacts, registry_values};
use crate::model::kind::{HashAlgorithm, INDICATOR_TYPES, StixType, asn_number};
use crate::model::time::Timestamp;

/// The types written here.
pub(super) const KNOWN: &[StixType] = INDICATOR_TYPES;

/// Appends the object.
pub(super) fn write<M: Manner>(
    source: &mut Source<'_>,
    stix_type: StixType,
    row: usize,
    out: &mut Vec<u8>,
) -> Option<()> {
    let value = source.bound.value.get(row)?;
    out.push(b'{');
    match stix_type {
        StixType::File => {
            before_id::<M>(source, stix_type, row, out)?;
            hashes_into(&source.bound, value, row, !M::XSOAR, "SSDEEP", out)?;
            id_into::<M>(&source.bound, stix_type, row, out)?;
            after_id::<M>(&source.bound, row, out)?;
            type_into::<M>(stix_type, out);
        }
        StixType::UserAccount => {
            login_into(&source.bound, value, row, out);
            before_id::<M>(source, stix_type, row, out)?;
            id_into::<M>(&source.bound, stix_type, row, out)?;
            after_id::<M>(&source.bound, row, out)?;
            type_into::<M>(stix_type, out);
            filled_into(br#""user_id":""#, source.bound.user_id.filled(row), out);
        }
        StixType::WindowsRegistryKey => {
            before_id::<M>(source, stix_type, row, out)?;
            id_into::<M>(&source.bound, stix_type, row, out)?;
            text_into(br#""key":""#, value, out);
            after_id::<M>(&source.bound, row, out)?;
            type_into::<M>(stix_type, out);
            registry_values_into(&source.bound, row, out);
        }
        StixType::Software => {
            before_id::<M>(source, stix_type, row, out)?;
            id_into::<M>(&source.bound, stix_type, row, out)?;
            if M::XSOAR {
                modified_into::<M>(&source.bound, row, out)?;
            }
            text_into(br#""name":""#, value, out);
            markings_into::<M>(&source.bound, row, out);
            type_into::<M>(stix_type, out);
        }
        StixType::AutonomousSystem => {
            before_id::<M>(source, stix_type, row, out)?;
            id_into::<M>(&source.bound, stix_type, row, out)?;
            if M::XSOAR {
                modified_into::<M>(&source.bound, row, out)?;
            }
            // The original always has a name, if an empty one.
            let nameless = if M::XSOAR { Some("") } else { None };
            as_into(value, source.bound.as_name.filled(row).or(nameless), out)?;
            markings_into::<M>(&source.bound, row, out);
            type_into::<M>(stix_type, out);
        }
        StixType::X509Certificate => {
            before_id::<M>(source, stix_type, row, out)?;
            id_into::<M>(&source.bound, stix_type, row, out)?;
            filled_into(br#""issuer":""#, source.bound.issuer.filled(row), out);
            after_id::<M>(&source.bound, row, out)?;
            text_into(br#""serial_number":""#, value, out);
            spec_version_into::<M>(out);
            filled_into(br#""subject":""#, source.bound.subject.filled(row), out);
            out.extend_from_slice(br#""type":"x509-certificate","#);
            validity_into::<M>(&source.bound, row, out);
        }
        _ => {
            before_id::<M>(source, stix_type, row, out)?;
            id_into::<M>(&source.bound, stix_type, row, out)?;
            after_id::<M>(&source.bound, row, out)?;
            out.extend_from_slice(value_open(M::VERSION, stix_type)?);
            escape_into(value, out);
            out.extend_from_slice(b"\"}");
            return Some(());
        }
    }
    close(b'}', out);
    Some(())
}

/// Appends what sorts between `account_…` and `hashes`.
fn before_id<M: Manner>(source: &mut Source<'_>, stix_type: StixType, row: usize, out: &mut Vec<u8>) -> Option<()> {
    if M::XSOAR {
        time_into::<M>(br#""created":""#, source.bound.created(row)?, out);
    }
    extensions_into::<M>(source, stix_type, row, out);
    Some(())
}

fn id_into<M: Manner>(bound: &Bound<'_>, stix_type: StixType, row: usize, out: &mut Vec<u8>) -> Option<()> {
    RowId::of::<M>(bound, Shape::Sco(stix_type), row)?.member_into(out);
    Some(())
}

/// Appends what sorts between `key` and `serial_number` where nothing of the type's own comes between.
fn after_id<M: Manner>(bound: &Bound<'_>, row: usize, out: &mut Vec<u8>) -> Option<()> {
    if M::XSOAR {
        modified_into::<M>(bound, row, out)?;
    }
    markings_into::<M>(bound, row, out);
    Some(())
}

fn modified_into<M: Manner>(bound: &Bound<'_>, row: usize, out: &mut Vec<u8>) -> Option<()> {
    time_into::<M>(br#""modified":""#, bound.version(row)?, out);
    Some(())
}

fn markings_into<M: Manner>(bound: &Bound<'_>, row: usize, out: &mut Vec<u8>) {
    if !M::XSOAR {
        marking_refs_into::<M>(bound.tlp.get(row), out);
    }
}

/// Appends `"spec_version":"…",`.
pub(super) fn spec_version_into<M: Manner>(out: &mut Vec<u8>) {
    out.extend_from_slice(match M::VERSION {
        StixVersion::V20 => br#""spec_version":"2.0","#,
        StixVersion::V21 => br#""spec_version":"2.1","#,
    });
}

fn type_into<M: Manner>(stix_type: StixType, out: &mut Vec<u8>) {
    spec_version_into::<M>(out);
    out.extend_from_slice(br#""type":""#);
    out.extend_from_slice(stix_type.as_str().as_bytes());
    out.extend_from_slice(b"\",");
}

/// The bytes between id and value of the types that have a `value`.
fn value_open(version: StixVersion, stix_type: StixType) -> Option<&'static [u8]> {
    macro_rules! open {
        ($name:literal) => {
            match version {
                StixVersion::V20 => concat!(r#""spec_version":"2.0","type":""#, $name, r#"","value":""#).as_bytes(),
                StixVersion::V21 => concat!(r#""spec_version":"2.1","type":""#, $name, r#"","value":""#).as_bytes(),
            }
        };
    }
    Some(match stix_type {
        StixType::Ipv4Addr => open!("ipv4-addr"),
        StixType::Ipv6Addr => open!("ipv6-addr"),
        StixType::DomainName => open!("domain-name"),
        StixType::Url => open!("url"),
        StixType::EmailAddr => open!("email-addr"),
        _ => return None,
    })
}

/// Appends `account_login` and `account_type`.
pub(super) fn login_into(bound: &Bound<'_>, value: &str, row: usize, out: &mut Vec<u8>) {
    text_into(br#""account_login":""#, value, out);
    filled_into(br#""account_type":""#, bound.account_type.filled(row), out);
}

/// Appends `name` and `number`; `None` when the value is no number.
pub(super) fn as_into(value: &str, name: Option<&str>, out: &mut Vec<u8>) -> Option<()> {
    filled_into(br#""name":""#, name, out);
    out.extend_from_slice(br#""number":"#);
    out.extend_from_slice(itoa::Buffer::new().format(asn_number(value)?).as_bytes());
    out.push(b',');
    Some(())
}

/// Appends `validity_not_after` and `validity_not_before`, by the standard only what are dates.
pub(super) fn validity_into<M: Manner>(bound: &Bound<'_>, row: usize, out: &mut Vec<u8>) {
    let dates = [
        (&br#""validity_not_after":""#[..], bound.validity_not_after),
        (br#""validity_not_before":""#, bound.validity_not_before),
    ];
    for (key, column) in dates {
        let text = column.filled(row);
        if M::XSOAR {
            filled_into(key, text, out);
        } else if let Some(at) = text.and_then(|text| Timestamp::parse(text).ok()) {
            time_into::<M>(key, at, out);
        }
    }
}

/// Appends `values`, if there are any.
pub(super) fn registry_values_into(bound: &Bound<'_>, row: usize, out: &mut Vec<u8>) {
    let Some(values) = bound.registry_values.filled(row).and_then(registry_values) else { return };
    let before = out.len();
    out.extend_from_slice(br#""values":"#);
    match Rewriter::default().whole(values, Changes::None, out) {
        Some(()) => out.push(b','),
        None => out.truncate(before),
    }
}

/// Appends `hashes`, its entries sorted; `None` when there is none. What the SSDEEP is called depends on the version.
pub(super) fn hashes_into(
    bound: &Bound<'_>,
    value: &str,
    row: usize,
    with_ssdeep: bool,
    ssdeep: &str,
    out: &mut Vec<u8>,
) -> Option<()> {
    let facts = ScoFacts {
        value,
        md5: bound.md5.get(row),
        sha1: bound.sha1.get(row),
        sha256: bound.sha256.get(row),
        sha512: bound.sha512.get(row),
        ..ScoFacts::default()
    };
    out.extend_from_slice(br#""hashes":{"#);
    let start = out.len();
    let known = HashAlgorithm::PREFERENCE.iter().filter_map(|&kind| Some((kind.as_str(), facts.hash(kind)?)));
    let fuzzy = bound.ssdeep.filled(row).filter(|_| with_ssdeep).map(|hash| (ssdeep, hash));
    for (key, hash) in known.chain(fuzzy) {
        string_into(key, out);
        out.push(b':');
        string_into(hash, out);
        out.push(b',');
    }
    if out.len() == start {
        return None;
    }
    close(b'}', out);
    out.push(b',');
    Some(())
}
