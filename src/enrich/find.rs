//! Which keys a value asks for, the most specific first.

use std::net::IpAddr;

use crate::enrich::table::Lengths;
use crate::enrich::value::{self, Key, Kind, Packed, Value, mask};

/// What an indicator is to the text that it was found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Relation {
    /// The same.
    Exact,
    /// A network that the address or network lies in.
    Network,
    /// A domain above it.
    Parent,
    /// Any of these, of the host of a URL or the domain of an e-mail address.
    Host,
}

impl Relation {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Relation::Exact => "exact",
            Relation::Network => "network",
            Relation::Parent => "parent",
            Relation::Host => "host",
        }
    }
}

/// One thing to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked<'a> {
    pub(crate) key: Key<'a>,
    /// The key is of a domain above the one given.
    pub(crate) above: bool,
    pub(crate) relation: Relation,
}

/// Calls `ask` for each key. Networks are asked for in the lengths that there may be around an address.
#[inline]
pub(crate) fn keys(value: &Value<'_>, lengths: impl Fn(IpAddr) -> Lengths, mut ask: impl FnMut(Asked<'_>)) {
    let mut exact = |key| ask(Asked { key, above: false, relation: Relation::Exact });
    match *value {
        Value::Address(address) => {
            exact(Key::new(Kind::Address, Packed::address(address).bytes()));
            networks(address, u8::MAX, lengths(address), ask);
        }
        Value::Network(address, length) => {
            exact(Key::new(Kind::Network, Packed::network(address, length).bytes()));
            if let Some(shorter) = length.checked_sub(1) {
                networks(address, shorter, lengths(address), ask);
            }
        }
        Value::Domain(name) => {
            exact(Key::new(Kind::Domain, name));
            parents(name, ask);
        }
        Value::Below(name) => exact(Key::new(Kind::Below, name)),
        Value::Url { scheme, rest, .. } => exact(Key { kind: Kind::Url, scheme, bytes: rest }),
        Value::Hash(digits) => exact(Key::new(Kind::Hash, digits)),
        Value::Email { whole, .. } => exact(Key::new(Kind::Email, whole)),
    }
}

fn networks(address: IpAddr, most: u8, lengths: Lengths, mut ask: impl FnMut(Asked<'_>)) {
    for length in lengths.descending(address.is_ipv4(), most) {
        let packed = Packed::network(mask(address, length), length);
        ask(Asked { key: Key::new(Kind::Network, packed.bytes()), above: false, relation: Relation::Network });
    }
}

/// The domains above one, those of two labels at least.
fn parents(name: &[u8], mut ask: impl FnMut(Asked<'_>)) {
    let mut rest = name;
    while let Some(dot) = rest.iter().position(|byte| *byte == b'.') {
        rest = rest.get(dot + 1..).unwrap_or_default();
        if !rest.contains(&b'.') {
            return;
        }
        ask(Asked { key: Key::new(Kind::Domain, rest), above: true, relation: Relation::Parent });
    }
}

/// What stands behind a URL or an e-mail address: the host of the one, the domain of the other.
pub(crate) fn host<'s>(value: &Value<'_>, scratch: &'s mut Vec<u8>) -> Option<Value<'s>> {
    let host = match *value {
        Value::Url { host, .. } => host,
        Value::Email { domain, .. } => domain,
        _ => return None,
    };
    let bare = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")).unwrap_or(host);
    match value::address(bare) {
        Some(address) => Some(Value::Address(address)),
        None => value::domain(host, scratch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::value::{Shape, read};

    #[test]
    fn the_most_specific_comes_first() {
        let lengths = Lengths { v4: 1 << 8 | 1 << 16 | 1 << 24, v6: 1 << 32 | 1 << 48 };
        let cases: [(&str, &[&str]); 7] = [
            ("192.0.2.1", &["exact", "network /24", "network /16", "network /8"]),
            ("192.0.2.0/24", &["exact", "network /16", "network /8"]),
            ("192.0.2.0/20", &["exact", "network /16", "network /8"]),
            ("2001:db8::1", &["exact", "network /48", "network /32"]),
            ("a.b.example.com", &["exact a.b.example.com", "parent b.example.com", "parent example.com"]),
            ("example.com", &["exact example.com"]),
            ("http://a.example/x", &["exact a.example/x"]),
        ];
        for (text, expected) in cases {
            let (mut scratch, mut asked) = (Vec::new(), Vec::new());
            let value = read(Shape::Any, text.as_bytes(), &mut scratch).unwrap();
            keys(
                &value,
                |_| lengths,
                |Asked { key, relation, .. }| {
                    let what = match (key.kind, relation) {
                        (Kind::Address | Kind::Network, Relation::Exact) => String::new(),
                        (Kind::Network, _) => format!(" /{}", key.bytes.last().unwrap()),
                        _ => format!(" {}", String::from_utf8_lossy(key.bytes)),
                    };
                    asked.push(format!("{}{what}", relation.as_str()));
                },
            );
            assert_eq!(asked, expected, "{text}");
        }
    }

    #[test]
    fn hosts_stand_behind_urls_and_addresses() {
        let cases = [
            ("http://user@A.example:8080/x", Some("a.example")),
            ("http://[2001:db8::1]/x", Some("2001:db8::1")),
            ("http://192.0.2.1/x", Some("192.0.2.1")),
            ("http://localhost/x", None),
            ("x@a.example", Some("a.example")),
            ("x@localhost", None),
            ("a.example", None),
        ];
        for (text, expected) in cases {
            let (mut scratch, mut of_host) = (Vec::new(), Vec::new());
            let value = read(Shape::Any, text.as_bytes(), &mut scratch).unwrap();
            let found = match host(&value, &mut of_host) {
                Some(Value::Address(address)) => Some(address.to_string()),
                Some(Value::Domain(name)) => Some(String::from_utf8_lossy(name).into_owned()),
                _ => None,
            };
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }
}
