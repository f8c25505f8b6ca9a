//! What a text is, and the one spelling under which it is looked up.
//!
//! Texts of events are told apart by their shape, in one pass over their bytes that ends at the first one no value holds: most texts of
//! a log are words, and cost a few nanoseconds. Indicators are read by their type with the same rules, so both sides come to the
//! same spelling:
//!
//! - addresses as their bytes; an IPv4 address inside IPv6 (`::ffff:192.0.2.1`) is that of IPv4; a zone and a port are dropped;
//! - networks with their host bits cleared; one of full length is an address;
//! - domains in lower case, international ones in their ASCII form, without the final dot;
//! - URLs with scheme and host in lower case, without the scheme's own port and the fragment, `%xx` in upper case, bytes
//!   beyond ASCII as `%XX`, `/` for an empty path; one without a scheme fits any;
//! - hashes in lower case; e-mail addresses with their domain in lower case.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use twox_hash::XxHash3_64;

/// Longest text that is looked at: no URL that anything understands is longer.
const MOST_BYTES: usize = 8_192;
/// Longest domain name (RFC 1035 §2.3.4).
const MOST_DOMAIN_BYTES: usize = 253;
/// Longest e-mail address (RFC 5321 §4.5.3.1.3).
const MOST_EMAIL_BYTES: usize = 254;

/// What a key is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum Kind {
    /// An address of either family.
    Address = 1,
    /// A network.
    Network,
    /// A domain, which stands for those below it as well.
    Domain,
    /// Only the domains below one (`*.example.com`).
    Below,
    /// A URL.
    Url,
    /// A file hash.
    Hash,
    /// An e-mail address.
    Email,
}

impl Kind {
    /// Keys of one family are filed together: what is below a domain is found by the domain.
    fn family(self) -> u64 {
        match self {
            Kind::Below => Kind::Domain as u64,
            kind => kind as u64,
        }
    }
}

/// What is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key<'a> {
    pub(crate) kind: Kind,
    /// Of a URL; empty when it has none.
    pub(crate) scheme: &'a [u8],
    pub(crate) bytes: &'a [u8],
}

impl<'a> Key<'a> {
    pub(crate) fn new(kind: Kind, bytes: &'a [u8]) -> Self {
        Key { kind, scheme: b"", bytes }
    }

    /// Under which number it is filed. The seed is the process's own: nobody can choose values that meet.
    #[inline]
    pub(crate) fn hash(&self, seed: u64) -> u64 {
        let seed = seed.wrapping_add(self.kind.family());
        match self.bytes {
            // Addresses and networks of IPv4, which are asked for most: one multiplication.
            [a, b, c, d] => folded(u32::from_be_bytes([*a, *b, *c, *d]).into(), seed),
            [a, b, c, d, length] => folded(u64::from_be_bytes([0, 0, 0, *length, *a, *b, *c, *d]), seed),
            bytes => XxHash3_64::oneshot_with_seed(seed, bytes),
        }
    }

    pub(crate) fn keep(self) -> OwnedKey {
        OwnedKey { kind: self.kind, scheme: self.scheme.len() as u8, bytes: [self.scheme, self.bytes].concat().into() }
    }
}

/// A number mixed: both halves of its product with a secret one.
#[inline]
fn folded(number: u64, seed: u64) -> u64 {
    let mix = |number: u64, by: u64| {
        let product = u128::from(number) * u128::from(by);
        product as u64 ^ (product >> 64) as u64
    };
    mix(mix(number ^ seed, 0x9e37_79b9_7f4a_7c15 ^ seed.rotate_left(32)) ^ seed, 0xd6e8_feb8_6659_fd93)
}

/// A key that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OwnedKey {
    kind: Kind,
    scheme: u8,
    bytes: Box<[u8]>,
}

impl OwnedKey {
    pub(crate) fn key(&self) -> Key<'_> {
        let (scheme, bytes) = self.bytes.split_at_checked(self.scheme.into()).unwrap_or_default();
        Key { kind: self.kind, scheme, bytes }
    }

    /// Whether this, of an indicator, is what was looked up: the same, but for the scheme of URLs, which either may lack, and for what
    /// is only `above` the text that was given.
    pub(crate) fn answers(&self, asked: Key<'_>, above: bool) -> bool {
        let own = self.key();
        (own.kind == asked.kind || own.kind == Kind::Below && asked.kind == Kind::Domain && above)
            && own.bytes == asked.bytes
            && (own.scheme == asked.scheme || own.scheme.is_empty() || asked.scheme.is_empty())
    }

    /// Bytes of memory.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>() + self.bytes.len()
    }
}

/// A text that can be looked up, in its one spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Address(IpAddr),
    /// Host bits cleared, shorter than an address.
    Network(IpAddr, u8),
    Domain(&'a [u8]),
    /// `*.` and a domain; in events it is none.
    Below(&'a [u8]),
    Url {
        /// Empty: none was given.
        scheme: &'a [u8],
        /// What follows `://`.
        rest: &'a [u8],
        host: &'a [u8],
    },
    Hash(&'a [u8]),
    Email {
        whole: &'a [u8],
        domain: &'a [u8],
    },
}

/// Bytes of an address or network as they are filed, and how many.
pub(crate) struct Packed([u8; 17], usize);

impl Packed {
    pub(crate) fn address(address: IpAddr) -> Self {
        let mut bytes = [0; 17];
        let length = match address {
            IpAddr::V4(v4) => fill(&mut bytes, &v4.octets()),
            IpAddr::V6(v6) => fill(&mut bytes, &v6.octets()),
        };
        Packed(bytes, length)
    }

    pub(crate) fn network(address: IpAddr, length: u8) -> Self {
        let Packed(mut bytes, at) = Self::address(mask(address, length));
        if let Some(last) = bytes.get_mut(at) {
            *last = length;
        }
        Packed(bytes, at + 1)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.get(..self.1).unwrap_or_default()
    }
}

fn fill(bytes: &mut [u8; 17], octets: &[u8]) -> usize {
    bytes.iter_mut().zip(octets).for_each(|(slot, octet)| *slot = *octet);
    octets.len()
}

/// The address with all bits behind the first `length` cleared.
pub(crate) fn mask(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let kept = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & kept).into()
        }
        IpAddr::V6(v6) => {
            let kept = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & kept).into()
        }
    }
}

impl Value<'_> {
    /// The key it is filed under, when it is an indicator's.
    pub(crate) fn with_key<T>(&self, take: impl FnOnce(Key<'_>) -> T) -> T {
        match *self {
            Value::Address(address) => take(Key::new(Kind::Address, Packed::address(address).bytes())),
            Value::Network(address, length) => take(Key::new(Kind::Network, Packed::network(address, length).bytes())),
            Value::Domain(name) => take(Key::new(Kind::Domain, name)),
            Value::Below(name) => take(Key::new(Kind::Below, name)),
            Value::Url { scheme, rest, .. } => take(Key { kind: Kind::Url, scheme, bytes: rest }),
            Value::Hash(digits) => take(Key::new(Kind::Hash, digits)),
            Value::Email { whole, .. } => take(Key::new(Kind::Email, whole)),
        }
    }
}

// Classes of bytes, a bit each.
const DIGIT: u16 = 1;
const HEX: u16 = 2;
const ALPHA: u16 = 4;
const DOT: u16 = 8;
const COLON: u16 = 16;
const SLASH: u16 = 32;
const AT: u16 = 64;
/// `-` and `_`, in names.
const DASH: u16 = 128;
/// Everything else that a URL or the local part of an address may hold.
const MARK: u16 = 256;
/// Beyond ASCII.
const HIGH: u16 = 512;
/// In no value of an event: blanks and control characters.
const NEVER: u16 = 1024;
/// `[`, `]` and `%`, in URLs and around addresses.
const BRACKET: u16 = 2048;
/// `*`
const STAR: u16 = 4096;

const CLASSES: [u16; 256] = classes();

const fn classes() -> [u16; 256] {
    let mut table = [NEVER; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'0'..=b'9' => DIGIT,
            b'a'..=b'f' | b'A'..=b'F' => HEX,
            b'g'..=b'z' | b'G'..=b'Z' => ALPHA,
            b'.' => DOT,
            b':' => COLON,
            b'/' => SLASH,
            b'@' => AT,
            b'-' | b'_' => DASH,
            b'[' | b']' | b'%' => BRACKET,
            b'*' => STAR,
            b'!' | b'#' | b'$' | b'&' | b'\'' | b'(' | b')' | b'+' | b',' | b';' | b'=' | b'?' | b'~' | b'|' | b'{'
            | b'}' | b'^' | b'\\' | b'`' | b'"' | b'<' | b'>' => MARK,
            0x80.. => HIGH,
            _ => NEVER,
        };
        byte += 1;
    }
    table
}

/// What a text of an event is; `None` when it can be no indicator. `scratch` holds the spelling.
#[inline]
pub(crate) fn classify<'s>(text: &[u8], scratch: &'s mut Vec<u8>) -> Option<Value<'s>> {
    // The shortest are `::` and `a.b`.
    if text.len() < 2 || text.len() > MOST_BYTES {
        return None;
    }
    let mut seen = 0;
    for &byte in text {
        seen |= CLASSES[usize::from(byte)];
        if seen & NEVER != 0 {
            return None;
        }
    }
    const DIGITS: u16 = DIGIT | HEX;
    const NAME: u16 = DIGIT | HEX | ALPHA | DASH | DOT | HIGH;
    let only = |set: u16| seen & !set == 0;
    let has = |set: u16| seen & set != 0;
    scratch.clear();
    if only(DIGITS) {
        return hash(text, scratch);
    }
    if !has(DOT | COLON | AT) {
        return None;
    }
    if only(DIGIT | DOT | SLASH)
        && let Some(value) = address_or_network(text)
    {
        return Some(value);
    }
    if has(AT) && !has(SLASH) {
        return email(text, scratch);
    }
    if only(NAME) {
        return if has(DOT) { domain(text, scratch) } else { None };
    }
    // IPv6 in its many dresses; with a colon, so that `a.b/c` does not come by here.
    if has(COLON)
        && (only(DIGITS | DOT | COLON | SLASH | BRACKET) || text.contains(&b'%'))
        && let Some(value) = address_with_dress(text)
    {
        return Some(value);
    }
    if has(SLASH) {
        return url(text, scratch).filter(|value| match value {
            // Paths of files and the like have no scheme either.
            Value::Url { scheme: [], host, .. } => is_host(host),
            _ => true,
        });
    }
    if has(COLON) && only(NAME | COLON) {
        let (host, port) = split_port(text)?;
        port?;
        return match v4(host) {
            Some(address) => Some(Value::Address(address.into())),
            None => domain(host, scratch),
        };
    }
    None
}

/// An address, or a network in `address/length`.
#[inline]
pub(crate) fn address_or_network(text: &[u8]) -> Option<Value<'static>> {
    let Some(slash) = text.iter().position(|byte| *byte == b'/') else {
        return Some(Value::Address(address(text)?));
    };
    let (head, tail) = text.split_at_checked(slash)?;
    let length = number(tail.get(1..)?, 128)? as u8;
    let address = raw_address(head)?;
    network(address, length)
}

fn network(address: IpAddr, length: u8) -> Option<Value<'static>> {
    // A network inside the mapped range is one of IPv4.
    let (address, length) = match address {
        IpAddr::V6(v6) if length >= 96 => match v6.to_ipv4_mapped() {
            Some(v4) => (v4.into(), length - 96),
            None => (address, length),
        },
        _ => (address, length),
    };
    match (address, length) {
        (IpAddr::V4(_), 33..) => None,
        (IpAddr::V4(_), 32) | (IpAddr::V6(_), 128) => Some(Value::Address(address)),
        _ => Some(Value::Network(mask(address, length), length)),
    }
}

/// An address of either family, that of IPv4 where it is one.
pub(crate) fn address(text: &[u8]) -> Option<IpAddr> {
    raw_address(text).map(|address| address.to_canonical())
}

fn raw_address(text: &[u8]) -> Option<IpAddr> {
    if let Some(v4) = v4(text) {
        return Some(v4.into());
    }
    if !text.contains(&b':') || text.len() > 45 {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

/// `192.0.2.1`, no leading zeros, which some read as octal.
#[inline]
fn v4(text: &[u8]) -> Option<Ipv4Addr> {
    if text.len() > 15 {
        return None;
    }
    // The octet so far, its digits, the octets before it and their number.
    let (mut octet, mut digits, mut before, mut octets) = (0u32, 0, 0u32, 0);
    for &byte in text {
        match byte {
            b'0'..=b'9' if digits == 0 || octet > 0 => {
                octet = octet * 10 + u32::from(byte - b'0');
                digits += 1;
            }
            b'.' if digits > 0 && octets < 3 => {
                before = before << 8 | octet;
                (octet, digits) = (0, 0);
                octets += 1;
            }
            _ => return None,
        }
        if octet > 255 {
            return None;
        }
    }
    (octets == 3 && digits > 0).then(|| Ipv4Addr::from_bits(before << 8 | octet))
}

/// A decimal number up to `most`, without sign and leading zeros.
fn number(digits: &[u8], most: u32) -> Option<u32> {
    let leading_zero = digits.len() > 1 && digits.first() == Some(&b'0');
    if digits.is_empty() || digits.len() > 5 || leading_zero || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
    (number <= most).then_some(number)
}

/// IPv6, a network of it, `[address]`, `[address]:port`, `address%zone`.
fn address_with_dress(text: &[u8]) -> Option<Value<'static>> {
    if let Some(inner) = text.strip_prefix(b"[") {
        let end = inner.iter().position(|byte| *byte == b']')?;
        let (inner, behind) = inner.split_at_checked(end)?;
        match behind.get(1..)? {
            [] => {}
            [b':', port @ ..] if number(port, 65_535).is_some() => {}
            _ => return None,
        }
        return address(without_zone(inner)).map(Value::Address);
    }
    address_or_network(without_zone(text))
}

fn without_zone(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|byte| *byte == b'%').unwrap_or(text.len());
    text.get(..end).unwrap_or(text)
}

/// Host and port; `None` when what follows the last colon is no port.
fn split_port(text: &[u8]) -> Option<(&[u8], Option<u32>)> {
    let Some(colon) = text.iter().rposition(|byte| *byte == b':') else { return Some((text, None)) };
    let (host, port) = text.split_at_checked(colon)?;
    match port.get(1..)? {
        [] => Some((host, None)),
        digits => Some((host, Some(number(digits, 65_535)?))),
    }
}

/// A file hash, told by its length.
pub(crate) fn hash<'s>(text: &[u8], scratch: &'s mut Vec<u8>) -> Option<Value<'s>> {
    if !matches!(text.len(), 32 | 40 | 64 | 128) || !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    scratch.clear();
    scratch.extend(text.iter().map(u8::to_ascii_lowercase));
    Some(Value::Hash(scratch))
}

/// A domain name of two labels or more, with or without the final dot.
pub(crate) fn domain<'s>(text: &[u8], scratch: &'s mut Vec<u8>) -> Option<Value<'s>> {
    scratch.clear();
    let name = text.strip_suffix(b".").unwrap_or(text);
    name_into(name, scratch).then_some(())?;
    Some(Value::Domain(scratch))
}

/// Appends the name in its one spelling; `false` when it is none.
#[inline]
fn name_into(name: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    if name.is_ascii() {
        out.extend(name.iter().map(u8::to_ascii_lowercase));
    } else {
        let Some(url::Host::Domain(ascii)) =
            std::str::from_utf8(name).ok().and_then(|name| url::Host::parse(name).ok())
        else {
            return false;
        };
        out.extend_from_slice(ascii.strip_suffix('.').unwrap_or(&ascii).as_bytes());
    }
    is_name(out.get(start..).unwrap_or_default())
}

/// Labels of letters, digits, `-` and `_`; two at least, the last of which is no number.
#[inline]
fn is_name(name: &[u8]) -> bool {
    if name.len() > MOST_DOMAIN_BYTES {
        return false;
    }
    // Length of the label so far, and the classes in it.
    let (mut label, mut dots, mut seen) = (0, 0, 0);
    for &byte in name {
        let class = CLASSES[usize::from(byte)];
        if class == DOT {
            if label == 0 || label > 63 {
                return false;
            }
            (label, seen) = (0, 0);
            dots += 1;
            continue;
        }
        seen |= class;
        if seen & !(DIGIT | HEX | ALPHA | DASH) != 0 {
            return false;
        }
        label += 1;
    }
    dots > 0 && (1..=63).contains(&label) && seen != DIGIT
}

/// Whether a host of a URL is an address or a name of two labels.
fn is_host(host: &[u8]) -> bool {
    v4(host).is_some() || is_name(host) || host.first() == Some(&b'[')
}

/// An e-mail address. The domain may be of one label, as inside of companies.
pub(crate) fn email<'s>(text: &[u8], scratch: &'s mut Vec<u8>) -> Option<Value<'s>> {
    let at = text.iter().rposition(|byte| *byte == b'@')?;
    let (local, domain) = text.split_at_checked(at)?;
    let domain = domain.get(1..)?;
    if local.is_empty() || domain.is_empty() || text.len() > MOST_EMAIL_BYTES {
        return None;
    }
    scratch.clear();
    scratch.extend_from_slice(local);
    scratch.push(b'@');
    let domain = domain.strip_suffix(b".").unwrap_or(domain);
    if !name_into(domain, scratch) {
        let label = |byte: &u8| CLASSES[usize::from(*byte)] & (DIGIT | HEX | ALPHA | DASH) != 0;
        if !domain.iter().all(label) {
            return None;
        }
    }
    let domain = scratch.get(at + 1..)?;
    Some(Value::Email { whole: scratch, domain })
}

/// A URL, with its scheme or without.
pub(crate) fn url<'s>(text: &[u8], scratch: &'s mut Vec<u8>) -> Option<Value<'s>> {
    if text.len() > MOST_BYTES || text.iter().any(u8::is_ascii_control) {
        return None;
    }
    scratch.clear();
    let colon = text.iter().position(|byte| *byte == b':').unwrap_or(0);
    let (scheme, rest) = match (text.get(..colon)?, text.get(colon..)?) {
        (scheme, [b':', b'/', b'/', rest @ ..]) if is_scheme(scheme) => (scheme, rest),
        _ => (&b""[..], text.strip_prefix(b"//").unwrap_or(text)),
    };
    scratch.extend(scheme.iter().map(u8::to_ascii_lowercase));
    let scheme_end = scratch.len();
    let authority_end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#' | b'\\')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(authority_end)?;
    let (user, host) = match authority.iter().rposition(|byte| *byte == b'@') {
        Some(at) => (authority.get(..=at)?, authority.get(at + 1..)?),
        None => (&b""[..], authority),
    };
    // A colon inside brackets is part of the address.
    let (host, port) = match host.last() {
        Some(b']') => (host, None),
        _ => split_port(host)?,
    };
    percent_into(user, scratch);
    let host_start = scratch.len();
    host_into(host, scratch)?;
    let host_end = scratch.len();
    let own_port = own_port(scratch.get(..scheme_end)?);
    if let Some(port) = port.filter(|port| Some(*port) != own_port) {
        scratch.push(b':');
        scratch.extend_from_slice(port.to_string().as_bytes());
    }
    let path = path.split(|byte| *byte == b'#').next()?;
    if path.first() != Some(&b'/') {
        scratch.push(b'/');
    }
    percent_into(path, scratch);
    let (scheme, rest) = scratch.split_at_checked(scheme_end)?;
    let host = scratch.get(host_start..host_end)?;
    Some(Value::Url { scheme, rest, host })
}

fn is_scheme(text: &[u8]) -> bool {
    let part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    text.len() < 32 && text.first().is_some_and(u8::is_ascii_alphabetic) && text.iter().all(part)
}

fn own_port(scheme: &[u8]) -> Option<u32> {
    match scheme {
        b"http" | b"ws" => Some(80),
        b"https" | b"wss" => Some(443),
        b"ftp" => Some(21),
        _ => None,
    }
}

fn host_into(host: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let host = host.strip_suffix(b".").unwrap_or(host);
    if host.is_empty() {
        return None;
    }
    if let Some(inner) = host.strip_prefix(b"[").and_then(|inner| inner.strip_suffix(b"]")) {
        let address: Ipv6Addr = std::str::from_utf8(inner).ok()?.parse().ok()?;
        out.extend_from_slice(format!("[{address}]").as_bytes());
        return Some(());
    }
    if !host.is_ascii() {
        return name_into(host, out).then_some(());
    }
    out.extend(host.iter().map(u8::to_ascii_lowercase));
    Some(())
}

/// Appends with `%xx` in upper case, and in that form what programs send so (URL standard, query percent-encode set).
fn percent_into(text: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let is_plain = |byte: &u8| !matches!(byte, b'%' | b'"' | b'<' | b'>' | b' ' | 0x80..);
    if text.iter().all(is_plain) {
        return out.extend_from_slice(text);
    }
    let mut upper = 0;
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            0x80.. | b'"' | b'<' | b'>' | b' ' => {
                out.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]])
            }
            b'%' if text.get(at + 1..at + 3).is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit)) => {
                upper = 3;
                out.push(byte);
            }
            _ if upper > 0 => out.push(byte.to_ascii_uppercase()),
            _ => out.push(byte),
        }
        upper = usize::saturating_sub(upper, 1);
    }
}

/// What is written in an indicator of that kind of STIX object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Address,
    Domain,
    Url,
    Hash,
    Email,
    /// Told by the value itself.
    Any,
}

/// Reads an indicator's value.
pub(crate) fn read<'s>(shape: Shape, text: &[u8], scratch: &'s mut Vec<u8>) -> Option<Value<'s>> {
    let text = text.trim_ascii();
    match shape {
        Shape::Address => address_with_dress(text),
        Shape::Domain => match text.strip_prefix(b"*.") {
            Some(base) => match domain(base, scratch)? {
                Value::Domain(name) => Some(Value::Below(name)),
                _ => None,
            },
            None => domain(text, scratch),
        },
        Shape::Url => url(text, scratch),
        Shape::Hash => hash(text, scratch),
        Shape::Email => email(text, scratch),
        Shape::Any if text.starts_with(b"*.") => read(Shape::Domain, text, scratch),
        Shape::Any => classify(text, scratch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelt(value: Option<Value<'_>>) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match value {
            None => "-".to_owned(),
            Some(Value::Address(address)) => format!("ip {address}"),
            Some(Value::Network(address, length)) => format!("net {address}/{length}"),
            Some(Value::Domain(name)) => format!("domain {}", text(name)),
            Some(Value::Below(name)) => format!("below {}", text(name)),
            Some(Value::Url { scheme, rest, host }) => {
                format!("url {} {} host {}", text(scheme), text(rest), text(host))
            }
            Some(Value::Hash(digits)) => format!("hash {}", text(digits)),
            Some(Value::Email { whole, domain }) => format!("email {} at {}", text(whole), text(domain)),
        }
    }

    #[test]
    fn texts_are_told_apart_and_spelt_one_way() {
        let cases = [
            ("192.0.2.1", "ip 192.0.2.1"),
            ("192.0.2.1:443", "ip 192.0.2.1"),
            ("192.0.2.1:99999", "-"),
            ("192.0.2.256", "-"),
            ("192.0.02.1", "-"),
            ("1.2.3", "-"),
            ("1.2.3.4.5", "-"),
            ("192.0.2.77/24", "net 192.0.2.0/24"),
            ("192.0.2.1/32", "ip 192.0.2.1"),
            ("192.0.2.1/33", "url  192.0.2.1/33 host 192.0.2.1"),
            ("192.0.2.1/", "url  192.0.2.1/ host 192.0.2.1"),
            ("0.0.0.0/0", "net 0.0.0.0/0"),
            ("2001:DB8::1", "ip 2001:db8::1"),
            ("[2001:db8::1]:443", "ip 2001:db8::1"),
            ("[2001:db8::1]", "ip 2001:db8::1"),
            ("[2001:db8::1]x", "-"),
            ("fe80::1%eth0", "ip fe80::1"),
            ("2001:db8::/32", "net 2001:db8::/32"),
            ("2001:db8::1/128", "ip 2001:db8::1"),
            ("2001:db8::/129", "-"),
            ("::ffff:192.0.2.1", "ip 192.0.2.1"),
            ("::ffff:192.0.2.0/120", "net 192.0.2.0/24"),
            ("::", "ip ::"),
            ("12:34:56", "-"),
            ("00:1b:44:11:3a:b7", "-"),
            ("2024-05-01T08:30:00Z", "-"),
            ("2024-05-01 08:30:00", "-"),
            ("Example.COM", "domain example.com"),
            ("a.b.example.com.", "domain a.b.example.com"),
            ("example.com:8080", "domain example.com"),
            ("b\u{fc}cher.example", "domain xn--bcher-kva.example"),
            ("XN--BCHER-kva.example", "domain xn--bcher-kva.example"),
            ("_dmarc.example.com", "domain _dmarc.example.com"),
            ("a..example", "-"),
            (".example.com", "-"),
            ("localhost", "-"),
            ("1.5", "-"),
            ("10.15.7", "-"),
            ("svchost.exe", "domain svchost.exe"),
            ("C:\\Windows\\x.exe", "-"),
            ("/usr/bin/python3.11", "-"),
            ("usr/lib.so", "-"),
            ("example.com/a?b#c", "url  example.com/a?b host example.com"),
            ("//example.com/a", "url  example.com/a host example.com"),
            (
                "HTTP://User@Example.com:80/A%2fb?q=%C3%bC#frag",
                "url http User@example.com/A%2Fb?q=%C3%BC host example.com",
            ),
            ("https://example.com:443", "url https example.com/ host example.com"),
            ("https://example.com:8443/", "url https example.com:8443/ host example.com"),
            ("https://example.com:/", "url https example.com/ host example.com"),
            ("https://example.com?x", "url https example.com/?x host example.com"),
            ("https://example.com./", "url https example.com/ host example.com"),
            ("http://b\u{fc}cher.example/\u{fc}", "url http xn--bcher-kva.example/%C3%BC host xn--bcher-kva.example"),
            ("http://[2001:DB8::1]:80/x", "url http [2001:db8::1]/x host [2001:db8::1]"),
            ("http://localhost/x", "url http localhost/x host localhost"),
            ("http:///x", "-"),
            ("http://host:port/", "-"),
            ("http://a.example/b c", "-"),
            ("http://a.example/?q=\"<\u{e9}>\"", "url http a.example/?q=%22%3C%C3%A9%3E%22 host a.example"),
            ("http://a.example/100%", "url http a.example/100% host a.example"),
            ("http://a.example/%zz%e", "url http a.example/%zz%e host a.example"),
            ("http://a.example/?u=http://b.example/", "url http a.example/?u=http://b.example/ host a.example"),
            ("a.example/?u=http://b.example/", "url  a.example/?u=http://b.example/ host a.example"),
            ("John.Doe+x@Example.COM", "email John.Doe+x@example.com at example.com"),
            ("root@localhost", "email root@localhost at localhost"),
            ("@example.com", "-"),
            ("a@", "-"),
            ("john doe@example.com", "-"),
            ("D41D8CD98F00B204E9800998ECF8427E", "hash d41d8cd98f00b204e9800998ecf8427e"),
            ("d41d8cd98f00b204e9800998ecf8427", "-"),
            ("d41d8cd98f00b204e9800998ecf8427g", "-"),
            ("some words", "-"),
            ("x", "-"),
            ("", "-"),
        ];
        let mut scratch = Vec::new();
        for (text, expected) in cases {
            assert_eq!(spelt(classify(text.as_bytes(), &mut scratch)), expected, "{text}");
        }
    }

    #[test]
    fn indicators_are_read_by_their_type() {
        let cases = [
            (Shape::Address, " 192.0.2.1 ", "ip 192.0.2.1"),
            (Shape::Address, "192.0.2.9/24", "net 192.0.2.0/24"),
            (Shape::Address, "2001:db8::/32", "net 2001:db8::/32"),
            (Shape::Address, "example.com", "-"),
            (Shape::Domain, "*.Example.com", "below example.com"),
            (Shape::Domain, "Example.com", "domain example.com"),
            (Shape::Domain, "192.0.2.1", "-"),
            (Shape::Url, "example.com", "url  example.com/ host example.com"),
            (Shape::Url, "http://example.com/a b", "url http example.com/a%20b host example.com"),
            (Shape::Url, "http://example.com/a\nb", "-"),
            (Shape::Url, "http://example.com", "url http example.com/ host example.com"),
            (Shape::Hash, "D41D8CD98F00B204E9800998ECF8427E", "hash d41d8cd98f00b204e9800998ecf8427e"),
            (Shape::Hash, "evil.exe", "-"),
            (Shape::Email, "a@B.example", "email a@b.example at b.example"),
            (Shape::Any, "*.example.com", "below example.com"),
            (Shape::Any, "192.0.2.1", "ip 192.0.2.1"),
            (Shape::Any, "CVE-2021-44228", "-"),
        ];
        let mut scratch = Vec::new();
        for (shape, text, expected) in cases {
            assert_eq!(spelt(read(shape, text.as_bytes(), &mut scratch)), expected, "{shape:?} {text}");
        }
    }

    #[test]
    fn urls_answer_with_and_without_scheme() {
        let own = |text: &str| {
            let mut scratch = Vec::new();
            url(text.as_bytes(), &mut scratch).unwrap().with_key(|key| key.keep())
        };
        let cases = [
            ("http://a.example/x", "http://A.example:80/x#y", true),
            ("a.example/x", "https://a.example/x", true),
            ("https://a.example/x", "a.example/x", true),
            ("https://a.example/x", "http://a.example/x", false),
            ("https://a.example/x", "https://a.example/y", false),
        ];
        for (indicator, asked, expected) in cases {
            assert_eq!(own(indicator).answers(own(asked).key(), false), expected, "{indicator} {asked}");
            assert_eq!(
                own(indicator).key().hash(7) == own(asked).key().hash(7),
                expected || !asked.contains("/y"),
                "{asked}"
            );
        }
    }

    #[test]
    fn masks_keep_the_first_bits() {
        let cases = [
            ("192.0.2.255", 25, "192.0.2.128"),
            ("192.0.2.255", 0, "0.0.0.0"),
            ("192.0.2.255", 32, "192.0.2.255"),
            ("ffff::1", 1, "8000::"),
            ("ffff::1", 0, "::"),
        ];
        for (address, length, expected) in cases {
            assert_eq!(mask(address.parse().unwrap(), length).to_string(), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in proptest::prop_oneof![
            proptest::collection::vec(proptest::num::u8::ANY, 0..60),
            "(https?://)?[a-zA-Z0-9.:%@/?#\\[\\]\u{fc}-]{0,40}".prop_map(String::into_bytes),
        ]) {
            let (mut scratch, mut again) = (Vec::new(), Vec::new());
            for shape in [Shape::Any, Shape::Address, Shape::Domain, Shape::Url, Shape::Hash, Shape::Email] {
                if let Some(Value::Domain(name)) = read(shape, &text, &mut scratch) {
                    // One spelling is its own.
                    proptest::prop_assert_eq!(domain(name, &mut again), Some(Value::Domain(name)));
                }
            }
        }

        #[test]
        fn addresses_are_those_of_the_library(text in proptest::prop_oneof!["[0-9.]{0,16}", "[0-9a-f:.]{0,20}", "[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}"]) {
            let expected = text.parse::<IpAddr>().ok().map(|address| address.to_canonical());
            proptest::prop_assert_eq!(address(text.as_bytes()), expected);
        }
    }

    use proptest::strategy::Strategy;
}
