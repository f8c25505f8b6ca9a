//! `indicator` objects made of observables (STIX 2.1 §4.7), with their patterns (chapter 9).

use super::columns::Bound;
use super::encoder::{RowId, Shape};
use super::sdo::{confidence_into, kill_chain_phases_into, labels_into};
use super::text::{escape_into, member_into, pattern_constant_into, time_into};
use crate::model::kind::{HashAlgorithm, StixType, asn_number};

/// Appends the object. `labels` is scratch space.
pub(super) fn write(
    bound: &Bound<'_>,
    stix_type: StixType,
    row: usize,
    labels: &mut Vec<(usize, usize)>,
    out: &mut Vec<u8>,
) -> Option<()> {
    let value = bound.value.get(row)?;
    let id = RowId::of(bound, Shape::Indicator(stix_type), row)?;
    let created = bound.created(row)?;
    let modified = bound.version(row)?;
    out.push(b'{');
    confidence_into(bound, row, out);
    time_into(br#""created":""#, created, out);
    member_into(br#","description":""#, bound.description.filled(row), out);
    out.extend_from_slice(br#","id":""#);
    id.write_json(out);
    out.extend_from_slice(match bound.score.get(row) {
        Some(3) => br#"","indicator_types":["malicious-activity"]"#,
        Some(2) => br#"","indicator_types":["anomalous-activity"]"#,
        Some(1) => br#"","indicator_types":["benign"]"#,
        _ => br#"","indicator_types":["unknown"]"#,
    });
    kill_chain_phases_into(bound, row, out);
    labels_into(bound, row, labels, out);
    time_into(br#","modified":""#, modified, out);
    out.extend_from_slice(br#","name":""#);
    escape_into(value, out);
    out.extend_from_slice(br#"","pattern":""#);
    pattern_into(stix_type, value, out)?;
    out.extend_from_slice(br#"","pattern_type":"stix","pattern_version":"2.1""#);
    if bound.revoked.get(row) {
        out.extend_from_slice(br#","revoked":true"#);
    }
    out.extend_from_slice(br#","spec_version":"2.1","type":"indicator""#);
    time_into(br#","valid_from":""#, created, out);
    if let Some(expiration) = bound.expiration.get(row).filter(|&expiration| expiration > created) {
        time_into(br#","valid_until":""#, expiration, out);
    }
    out.push(b'}');
    Some(())
}

/// Appends the pattern that matches the observable, as the inside of a JSON string. `None` when it has none: a file
/// that is no hash, an AS that is no number. A file is matched by the value's hash alone, as its id is made of that.
fn pattern_into(stix_type: StixType, value: &str, out: &mut Vec<u8>) -> Option<()> {
    let (open, constant): (&[u8], &str) = match stix_type {
        StixType::AutonomousSystem => {
            out.extend_from_slice(b"[autonomous-system:number = ");
            out.extend_from_slice(itoa::Buffer::new().format(asn_number(value)?).as_bytes());
            out.push(b']');
            return Some(());
        }
        StixType::DomainName => match value.strip_prefix("*.") {
            Some(domain) => (b"[domain-name:value LIKE '%.", domain),
            None => (b"[domain-name:value = '", value),
        },
        StixType::File => match HashAlgorithm::of(value)? {
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
    use super::*;

    #[test]
    fn every_type_that_can_be_an_indicator_has_a_pattern() {
        for &stix_type in crate::model::kind::INDICATOR_TYPES {
            let value = match stix_type {
                StixType::File => "d41d8cd98f00b204e9800998ecf8427e",
                StixType::AutonomousSystem => "AS1",
                _ => "x",
            };
            let mut out = Vec::new();
            assert_eq!(pattern_into(stix_type, value, &mut out), Some(()), "{stix_type}");
            assert!(out.starts_with(format!("[{stix_type}:").as_bytes()));
        }
    }
}
