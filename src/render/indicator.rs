//! `indicator` objects made of observables (STIX 2.1 §4.7, STIX 2.0 part 2 §2.5), with their patterns (chapter 9; part
//! 5).

use super::StixVersion;
use super::definition::marking_refs_into;
use super::encoder::{Head, Manner, Shape, Source};
use super::extension::{custom_property_into, extensions_into};
use super::sdo::{confidence_into, kill_chain_phases_into, revoked_into};
use super::text::{close, filled_into, pattern_constant_into, text_into, time_into};
use crate::model::kind::{HashAlgorithm, StixType, asn_number};

/// What a verdict is called in `indicator_types`, and in the `labels` of 2.0; `None` for 0 and what is no verdict.
pub(super) fn verdict(score: Option<i8>) -> Option<&'static str> {
    match score {
        Some(3) => Some("malicious-activity"),
        Some(2) => Some("anomalous-activity"),
        Some(1) => Some("benign"),
        _ => None,
    }
}

/// The word for no verdict.
pub(super) const UNKNOWN: &str = "unknown";

/// Appends the object.
pub(super) fn write<M: Manner>(
    source: &mut Source<'_>,
    stix_type: StixType,
    row: usize,
    out: &mut Vec<u8>,
) -> Option<()> {
    let bound = &source.bound;
    let Head { value, id, created, modified } = Head::of::<M>(bound, Shape::Indicator(stix_type), row)?;
    let verdict = verdict(bound.score.get(row));
    let is_21 = M::VERSION == StixVersion::V21;
    out.push(b'{');
    if is_21 {
        confidence_into(bound, row, out);
    }
    time_into::<M>(br#""created":""#, created, out);
    filled_into(br#""description":""#, bound.description.filled(row), out);
    if is_21 {
        extensions_into::<M>(source, stix_type, row, out);
    }
    let bound = &source.bound;
    id.member_into(out);
    if is_21 {
        out.extend_from_slice(match verdict {
            Some("malicious-activity") => br#""indicator_types":["malicious-activity"],"#,
            Some("anomalous-activity") => br#""indicator_types":["anomalous-activity"],"#,
            Some("benign") => br#""indicator_types":["benign"],"#,
            _ => br#""indicator_types":["unknown"],"#,
        });
    }
    kill_chain_phases_into(bound, row, out);
    if is_21 {
        source.labels.write(None, bound.tags.get(row), None, out);
    } else {
        source.labels.write(verdict, bound.tags.get(row), Some(UNKNOWN), out);
    }
    time_into::<M>(br#""modified":""#, modified, out);
    text_into(br#""name":""#, value, out);
    marking_refs_into::<M>(bound.tlp.get(row), out);
    out.extend_from_slice(br#""pattern":""#);
    pattern_into::<M>(stix_type, value, out)?;
    out.extend_from_slice(b"\",");
    if is_21 {
        out.extend_from_slice(br#""pattern_type":"stix","pattern_version":"2.1","#);
    }
    revoked_into(bound, row, out);
    out.extend_from_slice(match M::VERSION {
        StixVersion::V20 => br#""type":"indicator","#,
        StixVersion::V21 => br#""spec_version":"2.1","type":"indicator","#,
    });
    time_into::<M>(br#""valid_from":""#, created, out);
    // Both as they are written: it must end later than it begins.
    let as_written = |at: crate::model::time::Timestamp| if M::STRICT_20 { at.floor_milli() } else { at };
    if let Some(expiration) = bound.expiration.get(row).filter(|&end| as_written(end) > as_written(created)) {
        time_into::<M>(br#""valid_until":""#, expiration, out);
    }
    if M::STRICT_20 {
        custom_property_into::<M>(source, row, out);
    }
    close(b'}', out);
    Some(())
}

/// Appends the pattern that matches the observable, as the inside of a JSON string. `None` when it has none: a file
/// that is no hash, an AS that is no number. A file is matched by the value's hash alone, as its id is made of that.
/// XSOAR quotes every hash's name and knows no `LIKE`; both are valid.
pub(super) fn pattern_into<M: Manner>(stix_type: StixType, value: &str, out: &mut Vec<u8>) -> Option<()> {
    let (open, constant): (&[u8], &str) = match stix_type {
        StixType::AutonomousSystem => {
            out.extend_from_slice(b"[autonomous-system:number = ");
            out.extend_from_slice(itoa::Buffer::new().format(asn_number(value)?).as_bytes());
            out.push(b']');
            return Some(());
        }
        StixType::DomainName => match value.strip_prefix("*.") {
            Some(domain) if !M::XSOAR => (b"[domain-name:value LIKE '%.", domain),
            _ => (b"[domain-name:value = '", value),
        },
        StixType::File => match HashAlgorithm::of(value)? {
            HashAlgorithm::Md5 if M::XSOAR => (b"[file:hashes.'MD5' = '", value),
            HashAlgorithm::Md5 => (b"[file:hashes.MD5 = '", value),
            HashAlgorithm::Sha1 => (b"[file:hashes.'SHA-1' = '", value),
            HashAlgorithm::Sha256 => (b"[file:hashes.'SHA-256' = '", value),
            HashAlgorithm::Sha512 => (b"[file:hashes.'SHA-512' = '", value),
        },
        StixType::Ipv4Addr => (b"[ipv4-addr:value = '", value),
        StixType::Ipv6Addr => (b"[ipv6-addr:value = '", value),
        StixType::Url => (b"[url:value = '", value),
        StixType::EmailAddr => (b"[email-addr:value = '", value),
        StixType::Software => (b"[software:name = '", value),
        StixType::UserAccount => (b"[user-account:account_login = '", value),
        StixType::WindowsRegistryKey => (b"[windows-registry-key:key = '", value),
        StixType::X509Certificate => (b"[x509-certificate:serial_number = '", value),
        _ => return None,
    };
    out.extend_from_slice(open);
    pattern_constant_into(constant, out);
    out.extend_from_slice(b"']");
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::encoder::{Standard21, Xsoar20};
    use super::*;

    #[test]
    fn every_type_that_can_be_an_indicator_has_a_pattern() {
        for &stix_type in crate::model::kind::INDICATOR_TYPES {
            let value = match stix_type {
                StixType::File => "d41d8cd98f00b204e9800998ecf8427e",
                StixType::AutonomousSystem => "AS1",
                _ => "x",
            };
            for write in [pattern_into::<Standard21>, pattern_into::<Xsoar20>] {
                let mut out = Vec::new();
                assert_eq!(write(stix_type, value, &mut out), Some(()), "{stix_type}");
                assert!(out.starts_with(format!("[{stix_type}:").as_bytes()));
            }
        }
    }
}
