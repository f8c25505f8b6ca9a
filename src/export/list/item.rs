//! How a value stands in a list: which kinds are wanted, and in the form that firewalls read.

use std::borrow::Cow;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::export::values::Value;
use crate::model::kind::{HashAlgorithm, StixType, XSOAR_TYPES};

/// A kind of value that a list may be limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListType {
    /// Addresses and networks.
    Ip,
    /// Those of version 4.
    Ipv4,
    /// Those of version 6.
    Ipv6,
    /// Domain names, wildcards among them.
    Domain,
    /// URLs.
    Url,
    /// Mail addresses.
    Email,
    /// Hashes of files.
    Hash,
    /// Those of one algorithm.
    HashOf(HashAlgorithm),
    /// Values of another XSOAR type, such as `CVE`.
    Other(&'static str),
}

impl FromStr for ListType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Ok(match name.trim().to_ascii_lowercase().as_str() {
            "ip" | "ips" | "address" | "cidr" | "network" => ListType::Ip,
            "ipv4" | "ipv4-addr" => ListType::Ipv4,
            "ipv6" | "ipv6-addr" | "ipv6cidr" => ListType::Ipv6,
            "domain" | "domains" | "domain-name" | "domainglob" => ListType::Domain,
            "url" | "urls" => ListType::Url,
            "email" | "email-addr" => ListType::Email,
            "hash" | "hashes" | "file" => ListType::Hash,
            "md5" => ListType::HashOf(HashAlgorithm::Md5),
            "sha1" | "sha-1" => ListType::HashOf(HashAlgorithm::Sha1),
            "sha256" | "sha-256" => ListType::HashOf(HashAlgorithm::Sha256),
            "sha512" | "sha-512" => ListType::HashOf(HashAlgorithm::Sha512),
            other => match XSOAR_TYPES.iter().find(|(known, _)| known.eq_ignore_ascii_case(other)) {
                Some((known, _)) => ListType::Other(known),
                None => {
                    return Err(
                        "use `ip`, `ipv4`, `ipv6`, `domain`, `url`, `email`, `hash`, `md5`, `sha1`, `sha256`, \
                                `sha512`, or an XSOAR type such as `CVE`"
                            .to_owned(),
                    );
                }
            },
        })
    }
}

/// How URLs are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum UrlForm {
    /// As they are.
    #[default]
    Full,
    /// Without scheme, user and fragment, the host in lower case, `/` behind one that stands alone: as Palo Alto's lists want it.
    NoScheme,
}

/// How domain names are written: always in lower case, in ASCII, without a final dot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum DomainForm {
    /// A wildcard stays one.
    #[default]
    Plain,
    /// Every name twice: itself, and `*.` before it for what is below.
    Wildcard,
    /// The name alone, also of wildcards.
    Bare,
}

impl FromStr for UrlForm {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "full" => Ok(UrlForm::Full),
            "no-scheme" => Ok(UrlForm::NoScheme),
            _ => Err("use `full` or `no-scheme`".to_owned()),
        }
    }
}

impl FromStr for DomainForm {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "plain" => Ok(DomainForm::Plain),
            "wildcard" => Ok(DomainForm::Wildcard),
            "bare" => Ok(DomainForm::Bare),
            _ => Err("use `plain`, `wildcard` or `bare`".to_owned()),
        }
    }
}

/// What decides how a value is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Forms {
    /// Empty: every kind that firewalls block.
    pub(super) types: Vec<ListType>,
    pub(super) urls: UrlForm,
    pub(super) domains: DomainForm,
}

/// What becomes of a value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// An address or network, host bits cleared.
    V4(Ipv4Net),
    /// The same of version 6.
    V6(Ipv6Net),
    /// Its line was appended.
    Line,
    /// Two lines were appended.
    Lines,
    /// It is of no kind that is wanted.
    Unwanted,
    /// It cannot be written in a list: no address where there should be one, or more than one line.
    Unfit,
}

impl Forms {
    /// Appends the lines of a value that is no address, each with its line feed.
    pub(super) fn item(&self, value: &Value<'_>, out: &mut Vec<u8>) -> Item {
        let text = value.text.trim();
        let wants =
            |types: &[ListType]| self.types.is_empty() || self.types.iter().any(|wanted| types.contains(wanted));
        match value.stix_type {
            Some(StixType::Ipv4Addr | StixType::Ipv6Addr) => match network(text) {
                Some(IpNet::V4(net)) if wants(&[ListType::Ip, ListType::Ipv4]) => Item::V4(net.trunc()),
                Some(IpNet::V6(net)) if wants(&[ListType::Ip, ListType::Ipv6]) => Item::V6(net.trunc()),
                Some(_) => Item::Unwanted,
                None if wants(&[ListType::Ip, ListType::Ipv4, ListType::Ipv6]) => Item::Unfit,
                None => Item::Unwanted,
            },
            Some(StixType::DomainName) if wants(&[ListType::Domain]) => match domain(text) {
                Some(name) => self.domain_into(&name, out),
                None => Item::Unfit,
            },
            Some(StixType::Url) if wants(&[ListType::Url]) => self.url_into(text, out),
            Some(StixType::EmailAddr) if wants(&[ListType::Email]) => match text.rsplit_once('@') {
                Some((local, host)) if is_one_word(text) => {
                    line(&[local, "@", &host.to_ascii_lowercase()], out);
                    Item::Line
                }
                _ => Item::Unfit,
            },
            Some(StixType::File) => match HashAlgorithm::of(text) {
                Some(algorithm) if wants(&[ListType::Hash, ListType::HashOf(algorithm)]) => {
                    line(&[&text.to_ascii_lowercase()], out);
                    Item::Line
                }
                _ => Item::Unwanted,
            },
            _ if self.types.iter().any(|wanted| matches!(wanted, ListType::Other(name) if *name == value.name)) => {
                if text.is_empty() || text.chars().any(char::is_control) {
                    return Item::Unfit;
                }
                line(&[text], out);
                Item::Line
            }
            _ => Item::Unwanted,
        }
    }

    fn domain_into(&self, name: &str, out: &mut Vec<u8>) -> Item {
        let bare = name.strip_prefix("*.").unwrap_or(name);
        match self.domains {
            DomainForm::Plain => line(&[name], out),
            DomainForm::Bare => line(&[bare], out),
            DomainForm::Wildcard => {
                line(&[bare], out);
                line(&["*.", bare], out);
                return Item::Lines;
            }
        }
        Item::Line
    }

    fn url_into(&self, text: &str, out: &mut Vec<u8>) -> Item {
        if text.is_empty() || text.chars().any(char::is_control) {
            return Item::Unfit;
        }
        // A blank would end the entry for those who take the rest of a line for a comment.
        let text =
            if text.contains(char::is_whitespace) { Cow::Owned(without_blanks(text)) } else { Cow::Borrowed(text) };
        if self.urls == UrlForm::Full {
            line(&[&text], out);
            return Item::Line;
        }
        let rest = text.split_once("://").map_or(&*text, |(_, rest)| rest);
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_ascii_lowercase();
        if host.is_empty() {
            return Item::Unfit;
        }
        line(&[&host, if path.starts_with('?') { "/" } else { "" }, path], out);
        Item::Line
    }
}

fn line(parts: &[&str], out: &mut Vec<u8>) {
    parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    out.push(b'\n');
}

fn without_blanks(text: &str) -> String {
    let mut whole = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c == ' ' {
            whole.push_str("%20");
        } else if c.is_whitespace() {
            c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| whole.push_str(&format!("%{byte:02X}")));
        } else {
            whole.push(c);
        }
    }
    whole
}

fn is_one_word(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

/// An address or network as text.
fn network(text: &str) -> Option<IpNet> {
    match text.contains('/') {
        true => text.parse().ok(),
        false => text.parse::<IpAddr>().ok().map(IpNet::from),
    }
}

/// A name in lower case and ASCII, without the final dot.
fn domain(text: &str) -> Option<Cow<'_, str>> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() || !is_one_word(text) {
        return None;
    }
    if !text.is_ascii() {
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(name) => ("*.", name),
            None => ("", text),
        };
        return match url::Host::parse(name).ok()? {
            url::Host::Domain(name) => Some(Cow::Owned(format!("{wildcard}{name}"))),
            url::Host::Ipv4(_) | url::Host::Ipv6(_) => None,
        };
    }
    Some(match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(text.to_ascii_lowercase()),
        false => Cow::Borrowed(text),
    })
}

/// Appends the line of an address, or of a network with its prefix.
pub(super) fn network_into(net: &IpNet, out: &mut Vec<u8>) {
    use std::io::Write;
    // Writing into a `Vec` cannot fail.
    let _ = match net.prefix_len() == net.max_prefix_len() {
        true => writeln!(out, "{}", net.addr()),
        false => writeln!(out, "{net}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(forms: &Forms, stix_type: Option<StixType>, name: &str, text: &str) -> Option<String> {
        let mut out = Vec::new();
        let value = Value { stix_type, name, text: Cow::Borrowed(text) };
        match forms.item(&value, &mut out) {
            Item::V4(net) => network_into(&net.into(), &mut out),
            Item::V6(net) => network_into(&net.into(), &mut out),
            Item::Line | Item::Lines => {}
            Item::Unwanted => return None,
            Item::Unfit => return Some("unfit".to_owned()),
        }
        Some(String::from_utf8(out).unwrap().trim_end().replace('\n', " "))
    }

    #[test]
    fn values_are_written_as_firewalls_read_them() {
        use StixType::{DomainName, EmailAddr, File, Ipv4Addr, Ipv6Addr, Url};
        let plain = Forms::default();
        let paloalto = Forms { urls: UrlForm::NoScheme, domains: DomainForm::Wildcard, ..Forms::default() };
        let bare = Forms { domains: DomainForm::Bare, ..Forms::default() };
        let cases = [
            (&plain, Ipv4Addr, "192.0.2.1", "192.0.2.1"),
            (&plain, Ipv4Addr, " 192.0.2.1/32 ", "192.0.2.1"),
            (&plain, Ipv4Addr, "10.1.2.3/8", "10.0.0.0/8"),
            (&plain, Ipv4Addr, "10.1.2.300", "unfit"),
            (&plain, Ipv6Addr, "2001:DB8:0::1", "2001:db8::1"),
            (&plain, Ipv6Addr, "2001:db8::1/64", "2001:db8::/64"),
            (&plain, DomainName, "Evil.Example.COM.", "evil.example.com"),
            (&plain, DomainName, "*.Example.com", "*.example.com"),
            (&plain, DomainName, "b\u{fc}cher.example", "xn--bcher-kva.example"),
            (&plain, DomainName, "*.B\u{dc}CHER.example", "*.xn--bcher-kva.example"),
            (&plain, DomainName, "_dmarc.example.com", "_dmarc.example.com"),
            (&plain, DomainName, "two words", "unfit"),
            (&plain, DomainName, "a.example\nb.example", "unfit"),
            (&plain, DomainName, ".", "unfit"),
            (&paloalto, DomainName, "example.com", "example.com *.example.com"),
            (&paloalto, DomainName, "*.example.com", "example.com *.example.com"),
            (&bare, DomainName, "*.example.com", "example.com"),
            (&plain, Url, "HTTP://Example.com/a b", "HTTP://Example.com/a%20b"),
            (&plain, Url, "http://x/\r\nevil", "unfit"),
            (&paloalto, Url, "https://User:pw@Example.COM:8443/Path?q=a@b#frag", "example.com:8443/Path?q=a@b"),
            (&paloalto, Url, "http://example.com", "example.com/"),
            (&paloalto, Url, "http://example.com?x=1", "example.com/?x=1"),
            (&paloalto, Url, "example.com/x", "example.com/x"),
            (&paloalto, Url, "http:///x", "unfit"),
            (&plain, EmailAddr, "Bob@Example.com", "Bob@example.com"),
            (&plain, EmailAddr, "nobody", "unfit"),
            (&plain, File, "D41D8CD98F00B204E9800998ECF8427E", "d41d8cd98f00b204e9800998ecf8427e"),
        ];
        for (forms, stix_type, text, expected) in cases {
            assert_eq!(written(forms, Some(stix_type), "", text).as_deref(), Some(expected), "{text:?}");
        }
    }

    #[test]
    fn kinds_are_chosen_by_name() {
        use StixType::{AttackPattern, DomainName, File, Ipv4Addr, Ipv6Addr, Vulnerability};
        let values = [
            (Some(Ipv4Addr), "IP", "192.0.2.1"),
            (Some(Ipv4Addr), "CIDR", "192.0.2.0/24"),
            (Some(Ipv6Addr), "IP", "2001:db8::1"),
            (Some(DomainName), "Domain", "a.example"),
            (Some(File), "File", "d41d8cd98f00b204e9800998ecf8427e"),
            (Some(File), "File", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
            (Some(Vulnerability), "CVE", "CVE-2021-44228"),
            (Some(AttackPattern), "Attack Pattern", "Phishing"),
            (None, "Host", "srv1"),
        ];
        let cases: [(&[&str], &[usize]); 8] = [
            (&[], &[0, 1, 2, 3, 4, 5]),
            (&["ip"], &[0, 1, 2]),
            (&["IPv4", "domain"], &[0, 1, 3]),
            (&["ipv6"], &[2]),
            (&["hash"], &[4, 5]),
            (&["sha1"], &[5]),
            (&["cve", "MD5"], &[4, 6]),
            (&["attack pattern"], &[7]),
        ];
        for (names, expected) in cases {
            let types = names.iter().map(|name| name.parse().unwrap()).collect();
            let forms = Forms { types, ..Forms::default() };
            let found: Vec<usize> = (0..values.len())
                .filter(|at| {
                    let (stix_type, name, text) = values[*at];
                    written(&forms, stix_type, name, text).is_some()
                })
                .collect();
            assert_eq!(found, expected, "{names:?}");
        }
        assert!("nonsense".parse::<ListType>().is_err());
    }
}
