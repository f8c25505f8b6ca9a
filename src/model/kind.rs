//! Indicator types and the STIX object types they are served as.
//!
//! The table is that of spec/xsoar-taxii2-server.md §4.1, corrected where the original emits invalid STIX: the family
//! of an address decides its STIX type, whatever the record calls it, and what has no valid STIX form has no type at
//! all.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// What an object type is in STIX 2.1 (§2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StixClass {
    /// Domain object: has versions.
    Sdo,
    /// Cyber-observable object: deterministic id, no versions.
    Sco,
    /// Relationship object.
    Sro,
    /// Marking, extension and language objects.
    Meta,
}

macro_rules! stix_types {
    ($($variant:ident $name:literal $class:ident,)*) => {
        /// The object types of STIX 2.1.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum StixType {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
        }

        impl StixType {
            /// Every type.
            pub const ALL: &'static [StixType] = &[$(StixType::$variant,)*];

            /// The name in the `type` property and before `--` in ids.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(StixType::$variant => $name,)*
                }
            }

            /// The type of that name; names are lower case and compared exactly.
            pub fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(StixType::$variant),)*
                    _ => None,
                }
            }

            /// Domain, observable, relationship or meta object.
            pub const fn class(self) -> StixClass {
                match self {
                    $(StixType::$variant => StixClass::$class,)*
                }
            }
        }
    };
}

stix_types! {
    AttackPattern "attack-pattern" Sdo,
    Campaign "campaign" Sdo,
    CourseOfAction "course-of-action" Sdo,
    Grouping "grouping" Sdo,
    Identity "identity" Sdo,
    Incident "incident" Sdo,
    Indicator "indicator" Sdo,
    Infrastructure "infrastructure" Sdo,
    IntrusionSet "intrusion-set" Sdo,
    Location "location" Sdo,
    Malware "malware" Sdo,
    MalwareAnalysis "malware-analysis" Sdo,
    Note "note" Sdo,
    ObservedData "observed-data" Sdo,
    Opinion "opinion" Sdo,
    Report "report" Sdo,
    ThreatActor "threat-actor" Sdo,
    Tool "tool" Sdo,
    Vulnerability "vulnerability" Sdo,
    Artifact "artifact" Sco,
    AutonomousSystem "autonomous-system" Sco,
    Directory "directory" Sco,
    DomainName "domain-name" Sco,
    EmailAddr "email-addr" Sco,
    EmailMessage "email-message" Sco,
    File "file" Sco,
    Ipv4Addr "ipv4-addr" Sco,
    Ipv6Addr "ipv6-addr" Sco,
    MacAddr "mac-addr" Sco,
    Mutex "mutex" Sco,
    NetworkTraffic "network-traffic" Sco,
    Process "process" Sco,
    Software "software" Sco,
    Url "url" Sco,
    UserAccount "user-account" Sco,
    WindowsRegistryKey "windows-registry-key" Sco,
    X509Certificate "x509-certificate" Sco,
    Relationship "relationship" Sro,
    Sighting "sighting" Sro,
    ExtensionDefinition "extension-definition" Meta,
    LanguageContent "language-content" Meta,
    MarkingDefinition "marking-definition" Meta,
}

impl StixType {
    /// Whether it is a cyber-observable object.
    pub const fn is_sco(self) -> bool {
        matches!(self.class(), StixClass::Sco)
    }

    /// Whether records of this type may be served as `indicator` objects instead (the `indicator_types` setting).
    pub fn can_be_indicator(self) -> bool {
        INDICATOR_TYPES.contains(&self)
    }
}

impl fmt::Display for StixType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is no STIX 2.1 object type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a STIX 2.1 object type; write it as `ipv4-addr` or `domain-name`")]
pub struct UnknownStixType {
    /// The name as given, cut to 64 characters.
    pub name: String,
}

impl FromStr for StixType {
    type Err = UnknownStixType;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::named(name).ok_or_else(|| UnknownStixType { name: cut(name) })
    }
}

/// The observable types that `indicator_types` may name: those that indicators map to.
pub const INDICATOR_TYPES: &[StixType] = &[
    StixType::AutonomousSystem,
    StixType::DomainName,
    StixType::EmailAddr,
    StixType::File,
    StixType::Ipv4Addr,
    StixType::Ipv6Addr,
    StixType::Software,
    StixType::Url,
    StixType::UserAccount,
    StixType::WindowsRegistryKey,
    StixType::X509Certificate,
];

macro_rules! xsoar_types {
    ($($name:literal => $stix:ident,)*) => {
        /// XSOAR's names of the indicator types that have a STIX form, with the type they usually become.
        pub const XSOAR_TYPES: &[(&str, StixType)] = &[$(($name, StixType::$stix),)*];

        fn usual_stix_type(xsoar_type: &str) -> Option<StixType> {
            match xsoar_type {
                $($name => Some(StixType::$stix),)*
                _ => None,
            }
        }
    };
}

xsoar_types! {
    "IP" => Ipv4Addr,
    "CIDR" => Ipv4Addr,
    "IPv6" => Ipv6Addr,
    "IPv6CIDR" => Ipv6Addr,
    "Domain" => DomainName,
    "DomainGlob" => DomainName,
    "URL" => Url,
    "Email" => EmailAddr,
    "Account" => UserAccount,
    "File" => File,
    "Registry Key" => WindowsRegistryKey,
    "Software" => Software,
    "ASN" => AutonomousSystem,
    "X509 Certificate" => X509Certificate,
    "Attack Pattern" => AttackPattern,
    "Campaign" => Campaign,
    "Course of Action" => CourseOfAction,
    "Infrastructure" => Infrastructure,
    "Intrusion Set" => IntrusionSet,
    "Malware" => Malware,
    "Report" => Report,
    "Threat Actor" => ThreatActor,
    "Tool" => Tool,
    "CVE" => Vulnerability,
    "Identity" => Identity,
    "Location" => Location,
}

/// The STIX type an indicator is served as (before `indicator_types`); `None` when it has no valid STIX form: an
/// unknown type, a `File` that is not a hash, an `ASN` that is not a number. Type names are compared exactly.
pub fn stix_type(xsoar_type: &str, value: &str) -> Option<StixType> {
    let usual = usual_stix_type(xsoar_type)?;
    match usual {
        StixType::Ipv4Addr | StixType::Ipv6Addr => {
            // Only IPv6 addresses hold a colon, with or without a prefix.
            Some(if value.contains(':') { StixType::Ipv6Addr } else { StixType::Ipv4Addr })
        }
        StixType::File => HashAlgorithm::of(value).map(|_| usual),
        StixType::AutonomousSystem => asn_number(value).map(|_| usual),
        _ => Some(usual),
    }
}

/// The file hashes that make an id and a pattern, told apart by length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashAlgorithm {
    /// 32 hexadecimal digits.
    Md5,
    /// 40 hexadecimal digits.
    Sha1,
    /// 64 hexadecimal digits.
    Sha256,
    /// 128 hexadecimal digits.
    Sha512,
}

impl HashAlgorithm {
    /// In the order in which one of several is chosen for an id (STIX 2.1 §2.9).
    pub const PREFERENCE: [HashAlgorithm; 4] =
        [HashAlgorithm::Md5, HashAlgorithm::Sha1, HashAlgorithm::Sha256, HashAlgorithm::Sha512];

    /// Key in a STIX `hashes` dictionary.
    pub const fn as_str(self) -> &'static str {
        match self {
            HashAlgorithm::Md5 => "MD5",
            HashAlgorithm::Sha1 => "SHA-1",
            HashAlgorithm::Sha256 => "SHA-256",
            HashAlgorithm::Sha512 => "SHA-512",
        }
    }

    /// The algorithm of a hash of so many hexadecimal digits.
    pub const fn of_length(digits: usize) -> Option<Self> {
        match digits {
            32 => Some(HashAlgorithm::Md5),
            40 => Some(HashAlgorithm::Sha1),
            64 => Some(HashAlgorithm::Sha256),
            128 => Some(HashAlgorithm::Sha512),
            _ => None,
        }
    }

    /// The algorithm of a hash, by its length; `None` when it is no hash.
    pub fn of(text: &str) -> Option<Self> {
        // Without a way out in the middle it is done with vector instructions.
        let is_hex = || text.bytes().fold(true, |all, byte| all & byte.is_ascii_hexdigit());
        Self::of_length(text.len()).filter(|_| is_hex())
    }
}

/// The data types a value of a registry key may have (STIX 2.1, `windows-registry-datatype-enum`).
const REGISTRY_DATA_TYPES: [&str; 14] = [
    "REG_NONE",
    "REG_SZ",
    "REG_EXPAND_SZ",
    "REG_BINARY",
    "REG_DWORD",
    "REG_DWORD_BIG_ENDIAN",
    "REG_DWORD_LITTLE_ENDIAN",
    "REG_LINK",
    "REG_MULTI_SZ",
    "REG_RESOURCE_LIST",
    "REG_FULL_RESOURCE_DESCRIPTION",
    "REG_RESOURCE_REQUIREMENTS_LIST",
    "REG_QWORD",
    "REG_INVALID_TYPE",
];

/// The data type as STIX spells it, read in either case; `None` for names that it does not have. Nothing says what such
/// a name would be in STIX (`string` may be any of three), so none is guessed.
pub fn registry_data_type(name: &str) -> Option<&'static str> {
    REGISTRY_DATA_TYPES.into_iter().find(|known| known.eq_ignore_ascii_case(name.trim()))
}

/// The number in `15169`, `AS15169` or `ASN 15169`, in either case.
pub fn asn_number(value: &str) -> Option<u32> {
    let value = value.trim();
    let (prefix, digits) = value.split_at_checked(value.find(|c: char| c.is_ascii_digit())?)?;
    let prefix = prefix.trim_end();
    let known = prefix.is_empty() || prefix.eq_ignore_ascii_case("as") || prefix.eq_ignore_ascii_case("asn");
    (known && is_digits(digits)).then(|| digits.parse().ok()).flatten()
}

/// Whether `value` is a CVE id: `CVE-`, four digits, `-`, four or more digits; letters in either case.
pub fn is_cve(value: &str) -> bool {
    let Some((prefix, rest)) = value.split_at_checked(4) else { return false };
    let Some((year, number)) = rest.split_once('-') else { return false };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    prefix.eq_ignore_ascii_case("CVE-") && year.len() == 4 && number.len() >= 4 && digits(year) && digits(number)
}

/// The XSOAR type of a bare value, as found in plain lists; `None` when nothing fits. No blanks around the value.
pub fn detect(value: &str) -> Option<&'static str> {
    if let Some(network) = Network::parse(value) {
        return Some(match (network.address, network.prefix) {
            (IpAddr::V4(_), None) => "IP",
            (IpAddr::V4(_), Some(_)) => "CIDR",
            (IpAddr::V6(_), None) => "IPv6",
            (IpAddr::V6(_), Some(_)) => "IPv6CIDR",
        });
    }
    if is_url(value) {
        return Some("URL");
    }
    if HashAlgorithm::of(value).is_some() {
        return Some("File");
    }
    if is_cve(value) {
        return Some("CVE");
    }
    if value.starts_with(['A', 'a']) && asn_number(value).is_some() {
        return Some("ASN");
    }
    if value.split_at_checked(5).is_some_and(|(hive, _)| hive.eq_ignore_ascii_case("HKEY_")) {
        return Some("Registry Key");
    }
    if let Some((local, domain)) = value.rsplit_once('@') {
        let plain = |c: char| !c.is_whitespace() && !c.is_control();
        return (!local.is_empty() && local.chars().all(plain) && is_domain(domain)).then_some("Email");
    }
    if let Some(domain) = value.strip_prefix("*.") {
        return is_domain(domain).then_some("DomainGlob");
    }
    is_domain(value).then_some("Domain")
}

/// Whether an indicator of that type can hold that value; the message says what is wrong with it. Unknown types hold
/// anything.
pub fn validate(xsoar_type: &str, value: &str) -> Result<(), String> {
    match xsoar_type {
        "File" if HashAlgorithm::of(value).is_none() => Err(format!(
            "`{}` is not a file hash; it must be 32 (MD5), 40 (SHA-1), 64 (SHA-256) or 128 (SHA-512) hexadecimal digits",
            cut(value)
        )),
        "IP" | "IPv6" | "CIDR" | "IPv6CIDR" if Network::parse(value).is_none() => Err(format!(
            "`{}` is not a valid `{xsoar_type}`; write it as 192.0.2.1, 192.0.2.0/24, 2001:db8::1 or 2001:db8::/32",
            cut(value)
        )),
        "Domain" | "URL" | "Email" if value.is_empty() => {
            Err(format!("an empty value is not a `{xsoar_type}`; drop the record"))
        }
        "Domain" | "URL" | "Email" if holds_control(value) => Err(format!(
            "`{}` holds control characters, so it is not a `{xsoar_type}`; remove them",
            cut(value).escape_debug()
        )),
        _ => Ok(()),
    }
}

fn holds_control(text: &str) -> bool {
    // Beyond ASCII there are control characters as well, of two bytes.
    let is_doubtful = |byte: u8| !(b' '..0x7f).contains(&byte);
    text.bytes().fold(false, |any, byte| any | is_doubtful(byte)) && text.chars().any(char::is_control)
}

struct Network {
    address: IpAddr,
    prefix: Option<u8>,
}

impl Network {
    /// An address with or without a prefix length; host bits may be set.
    fn parse(value: &str) -> Option<Self> {
        let (address, prefix) = match value.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (value, None),
        };
        let address = match address.parse::<Ipv4Addr>() {
            Ok(v4) => IpAddr::V4(v4),
            Err(_) => IpAddr::V6(address.parse::<Ipv6Addr>().ok()?),
        };
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(text) if is_digits(text) => Some(text.parse::<u8>().ok().filter(|&length| length <= bits)?),
            Some(_) => return None,
            None => None,
        };
        Some(Network { address, prefix })
    }
}

fn is_url(value: &str) -> bool {
    let Some((scheme, rest)) = value.split_once("://") else { return false };
    let scheme_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(scheme_byte)
        && !rest.is_empty()
        && !value.chars().any(char::is_control)
}

/// Two or more labels of letters (any script), digits, `-` and `_`, the last of which is not a number.
fn is_domain(value: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let Some((_, top)) = value.rsplit_once('.') else { return false };
    value.len() <= 253 && top.chars().nth(1).is_some() && !is_digits(top) && value.split('.').all(is_label)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for &stix in StixType::ALL {
            assert_eq!(stix.as_str().parse(), Ok(stix));
        }
        assert!("IPv4-addr".parse::<StixType>().is_err());
        assert_eq!(StixType::ALL.iter().filter(|t| t.is_sco()).count(), 18);
        assert_eq!(StixType::ALL.iter().filter(|t| t.class() == StixClass::Sdo).count(), 19);
    }

    #[test]
    fn indicator_types_are_the_mapped_observables() {
        for &stix in StixType::ALL {
            let mapped = stix.is_sco() && XSOAR_TYPES.iter().any(|&(_, mapped)| mapped == stix);
            assert_eq!(stix.can_be_indicator(), mapped, "{stix}");
        }
    }

    #[test]
    fn every_type_has_its_stix_type() {
        let cases = [
            ("IP", "8.8.8.8", Some("ipv4-addr")),
            ("IP", "2001:db8::1", Some("ipv6-addr")),
            ("CIDR", "2001:db8::/32", Some("ipv6-addr")),
            ("CIDR", "10.0.0.0/8", Some("ipv4-addr")),
            ("IPv6", "::1", Some("ipv6-addr")),
            ("IPv6CIDR", "10.0.0.0/8", Some("ipv4-addr")),
            ("DomainGlob", "*.example.com", Some("domain-name")),
            ("File", "e086aa137fa19f67d27b39d0eca18610", Some("file")),
            ("File", "e086aa137fa19f67d27b39d0eca1861x", None),
            ("File", "evil.exe", None),
            ("ASN", "AS15169", Some("autonomous-system")),
            ("ASN", "Example Net", None),
            ("CVE", "CVE-2021-44228", Some("vulnerability")),
            ("Registry Key", "HKEY_X", Some("windows-registry-key")),
            ("Attack Pattern", "Phishing", Some("attack-pattern")),
            ("ip", "8.8.8.8", None),
            ("Host", "srv1", None),
        ];
        for (xsoar, value, expected) in cases {
            assert_eq!(stix_type(xsoar, value).map(StixType::as_str), expected, "{xsoar} {value}");
        }
    }

    #[test]
    fn bare_values_are_told_apart() {
        let cases = [
            ("192.0.2.1", Some("IP")),
            ("192.0.2.1/24", Some("CIDR")),
            ("192.0.2.0/33", None),
            ("192.0.2.0/+8", None),
            ("192.0.2.256", None),
            ("1.2.3", None),
            ("2001:db8::1", Some("IPv6")),
            ("::ffff:192.0.2.1", Some("IPv6")),
            ("2001:db8::/32", Some("IPv6CIDR")),
            ("2001:db8::/129", None),
            ("https://example.com/?q=a@b.example", Some("URL")),
            ("ftp://user@host/x", Some("URL")),
            ("://example.com", None),
            ("1x://example.com", None),
            ("http://", None),
            ("john.doe+x@example.com", Some("Email")),
            ("@example.com", None),
            ("john doe@example.com", None),
            ("john@localhost", None),
            ("d41d8cd98f00b204e9800998ecf8427e", Some("File")),
            ("D41D8CD98F00B204E9800998ECF8427E", Some("File")),
            ("d41d8cd98f00b204e9800998ecf8427", None),
            ("cve-2021-44228", Some("CVE")),
            ("CVE-2021-442", None),
            ("*.example.com", Some("DomainGlob")),
            ("*.com", None),
            ("example.com", Some("Domain")),
            ("b\u{fc}cher.example", Some("Domain")),
            ("_dmarc.example.com", Some("Domain")),
            ("\u{4f8b}\u{5b50}.\u{6d4b}\u{8bd5}", Some("Domain")),
            ("-x.example.com", None),
            ("a..example", None),
            ("localhost", None),
            ("AS15169", Some("ASN")),
            ("as15169", Some("ASN")),
            ("15169", None),
            ("AS99999999999", None),
            ("HKEY_LOCAL_MACHINE\\Software\\X", Some("Registry Key")),
            ("some words", None),
            ("", None),
            ("\u{e9}\u{e9}\u{e9}", None),
        ];
        for (value, expected) in cases {
            assert_eq!(detect(value), expected, "{value}");
        }
    }

    #[test]
    fn as_numbers() {
        let cases = [
            ("15169", Some(15169)),
            ("AS15169", Some(15169)),
            ("ASN 15169", Some(15169)),
            ("asn4294967295", Some(4_294_967_295)),
            ("4294967296", None),
            ("SA1", None),
            ("AS", None),
            ("", None),
            ("AS1.5", None),
            ("AS-1", None),
        ];
        for (text, expected) in cases {
            assert_eq!(asn_number(text), expected, "{text}");
        }
    }

    #[test]
    fn values_that_do_not_fit_are_refused() {
        let cases = [
            ("File", "evil.exe", Some("64 (SHA-256)")),
            ("File", "d41d8cd98f00b204e9800998ecf8427e", None),
            ("IP", "1.2.3", Some("`1.2.3` is not a valid `IP`")),
            ("IP", "2001:db8::1", None),
            ("CIDR", "10.1.2.3/8", None),
            ("CIDR", "10.0.0.0/40", Some("not a valid `CIDR`")),
            ("IPv6CIDR", "2001:db8::1/64", None),
            ("Domain", "", Some("empty")),
            ("URL", "http://x/\n", Some("control characters")),
            ("Email", "anything goes", None),
            ("Host", "", None),
        ];
        for (xsoar, value, expected) in cases {
            match (validate(xsoar, value), expected) {
                (Ok(()), None) => {}
                (Err(message), Some(part)) => assert!(message.contains(part), "{message}"),
                (result, _) => panic!("{xsoar} {value}: {result:?}"),
            }
        }
    }
}
