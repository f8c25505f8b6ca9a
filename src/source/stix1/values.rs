//! What a value in CybOX is, going by its text: categories in the wild are often wrong (spec/taxii-1.md §5).

use std::borrow::Cow;
use std::net::IpAddr;

use crate::model::kind::{HashAlgorithm, asn_number, detect};

/// The longest value taken.
const MAX_VALUE_BYTES: usize = 16 << 10;

/// The hashes of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hashes {
    pub(super) md5: Option<String>,
    pub(super) sha1: Option<String>,
    pub(super) sha256: Option<String>,
    pub(super) sha512: Option<String>,
    pub(super) ssdeep: Option<String>,
}

impl Hashes {
    /// Each hash with the name of its field.
    pub(super) fn named(&self) -> [(&'static str, Option<&str>); 5] {
        [
            ("md5", self.md5.as_deref()),
            ("sha1", self.sha1.as_deref()),
            ("sha256", self.sha256.as_deref()),
            ("sha512", self.sha512.as_deref()),
            ("ssdeep", self.ssdeep.as_deref()),
        ]
    }

    fn put(&mut self, kind: HashKind, text: String) {
        let place = match kind {
            HashKind::Md5 => &mut self.md5,
            HashKind::Sha1 => &mut self.sha1,
            HashKind::Sha256 => &mut self.sha256,
            HashKind::Sha512 => &mut self.sha512,
            HashKind::Ssdeep => &mut self.ssdeep,
        };
        *place = Some(text);
    }

    /// The one that stands for the file: the longest of those that everybody keeps.
    fn best(&self) -> Option<(&'static str, &str)> {
        let strong = [&self.sha256, &self.sha1, &self.md5, &self.sha512].into_iter().flatten().next();
        let strong = strong.map(|hash| ("File", hash.as_str()));
        strong.or_else(|| self.ssdeep.as_deref().map(|hash| ("ssdeep", hash)))
    }
}

/// One thing to look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    /// XSOAR's name of its type.
    pub(super) kind: &'static str,
    pub(super) text: String,
    pub(super) hashes: Option<Box<Hashes>>,
    pub(super) file_name: Option<String>,
}

impl Value {
    fn new(kind: &'static str, text: impl Into<String>) -> Self {
        Value { kind, text: text.into(), hashes: None, file_name: None }
    }

    /// Roughly what it costs to keep.
    pub(super) fn bytes(&self) -> usize {
        let hashes = self.hashes.as_ref().map_or(0, |hashes| {
            size_of::<Hashes>() + hashes.named().iter().filter_map(|(_, hash)| *hash).map(str::len).sum::<usize>()
        });
        size_of::<Value>() + self.text.len() + hashes + self.file_name.as_ref().map_or(0, String::len)
    }
}

/// What a text is expected to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Address,
    Email,
    Domain,
    Url,
    Asn,
}

/// The value in a text, or the reason why there is none.
pub(super) fn read(expected: Expected, text: &str) -> Result<Value, String> {
    let text = refanged(text.trim());
    let text = text.as_ref();
    let refused = |what: &str| Err(format!("`{}` is no {what}", shown(text)));
    if text.is_empty() || text.len() > MAX_VALUE_BYTES || text.chars().any(|c| c.is_control() || c == '\u{fffd}') {
        return refused("usable value");
    }
    if expected == Expected::Asn {
        return match asn_number(text) {
            Some(number) => Ok(Value::new("ASN", format!("AS{number}"))),
            None => refused("number of an autonomous system"),
        };
    }
    let plain = text.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    let kind = detect(plain);
    match (expected, kind) {
        // Whatever it was called, this is what it is.
        (_, Some(kind @ ("IP" | "CIDR" | "IPv6" | "IPv6CIDR" | "Email"))) => Ok(Value::new(kind, plain)),
        (_, Some("URL")) => Ok(Value::new("URL", text)),
        (
            Expected::Domain | Expected::Url | Expected::Address | Expected::Email,
            Some(kind @ ("Domain" | "DomainGlob")),
        ) => Ok(Value::new(kind, plain)),
        (Expected::Address, _) => match masked(plain) {
            Some(network) => Ok(Value::new("CIDR", network)),
            None => refused("address"),
        },
        (Expected::Url, _) if has_host_and_path(text) => Ok(Value::new("URL", text)),
        (Expected::Url, _) => refused("URL"),
        (Expected::Domain, _) => refused("domain"),
        (Expected::Email, _) => refused("e-mail address"),
        (Expected::Asn, _) => refused("number"),
    }
}

/// The values in a text that may be a list: parted by the delimiter where that occurs, else by commas where only the
/// parts make sense (as CybOX 2.0 had it).
pub(super) fn list<'a>(expected: Expected, text: &'a str, delimiter: &str) -> Vec<Cow<'a, str>> {
    if !delimiter.is_empty() && text.contains(delimiter) {
        return text.split(delimiter).map(literal).filter(|part| !part.trim().is_empty()).collect();
    }
    if text.contains([',', '\n']) && read(expected, text).is_err() {
        let parts: Vec<Cow<'a, str>> =
            text.split([',', '\n']).map(literal).filter(|part| !part.trim().is_empty()).collect();
        if parts.len() > 1 && parts.iter().all(|part| read(expected, part).is_ok()) {
            return parts;
        }
    }
    vec![literal(text)]
}

/// Lists write a comma that is none so.
fn literal(text: &str) -> Cow<'_, str> {
    if text.contains("&comma;") { Cow::Owned(text.replace("&comma;", ",")) } else { Cow::Borrowed(text) }
}

/// `10.0.0.0/255.0.0.0` as a network with the length of its prefix.
fn masked(text: &str) -> Option<String> {
    let (address, mask) = text.split_once('/')?;
    let address: std::net::Ipv4Addr = address.trim().parse().ok()?;
    let mask = u32::from(mask.trim().parse::<std::net::Ipv4Addr>().ok()?);
    (mask.leading_ones() + mask.trailing_zeros() >= 32).then(|| format!("{address}/{}", mask.leading_ones()))
}

/// The networks that a range of addresses consists of, where it is written as two bounds, both inclusive.
pub(super) fn networks(text: &str, delimiter: &str) -> Option<Vec<Value>> {
    let delimiter = if delimiter.is_empty() { "##comma##" } else { delimiter };
    let (first, last) = text.split_once(delimiter).or_else(|| text.split_once(',')).or_else(|| text.split_once('-'))?;
    let [first, last] = [first, last].map(|bound| refanged(bound.trim()).parse::<IpAddr>().ok());
    // Both families alike, as numbers of so many bits.
    let (mut first, last, bits) = match (first?, last?) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (u128::from(u32::from(first)), u128::from(u32::from(last)), 32),
        (IpAddr::V6(first), IpAddr::V6(last)) => (u128::from(first), u128::from(last), 128),
        _ => return None,
    };
    let mut found = Vec::new();
    while first <= last {
        // As large as the begin is even, and not beyond the end.
        let mut free = first.trailing_zeros().min(bits);
        while free > 0 && (free == 128 || (last - first) >> free == 0 && (last - first) != (1 << free) - 1) {
            free -= 1;
        }
        let address = match bits {
            32 => IpAddr::V4(u32::try_from(first).ok()?.into()),
            _ => IpAddr::V6(first.into()),
        };
        let kind = match (bits, free) {
            (32, 0) => "IP",
            (32, _) => "CIDR",
            (_, 0) => "IPv6",
            _ => "IPv6CIDR",
        };
        let text = if free == 0 { address.to_string() } else { format!("{address}/{}", bits - free) };
        found.push(Value::new(kind, text));
        match first.checked_add(1 << free) {
            Some(next) => first = next,
            None => break,
        }
    }
    (!found.is_empty()).then_some(found)
}

/// `www.example.com/path`, which is a URL to most people.
fn has_host_and_path(text: &str) -> bool {
    let host = text.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(name, port)| if port.parse::<u16>().is_ok() { name } else { host });
    host.len() < text.len() && matches!(detect(host), Some("Domain" | "IP")) && !text.contains(char::is_whitespace)
}

/// The text without what keeps people from clicking on it.
pub(super) fn refanged(text: &str) -> Cow<'_, str> {
    let mut changed = Cow::Borrowed(text);
    if text.contains(['[', '(', '{']) {
        const MARKS: [(&str, &str); 12] = [
            ("[.]", "."),
            ("(.)", "."),
            ("{.}", "."),
            ("[dot]", "."),
            ("(dot)", "."),
            ("{dot}", "."),
            ("[:]", ":"),
            ("[://]", "://"),
            ("[/]", "/"),
            ("[@]", "@"),
            ("[at]", "@"),
            ("(at)", "@"),
        ];
        for (mark, plain) in MARKS {
            for spelling in [mark.to_owned(), mark.to_uppercase()] {
                if changed.contains(&spelling) {
                    changed = Cow::Owned(changed.replace(&spelling, plain));
                }
            }
        }
    }
    let lower: String = changed.chars().take(8).flat_map(char::to_lowercase).collect();
    for (mark, plain) in [("hxxps", "https"), ("hxxp", "http"), ("fxp", "ftp"), ("meow", "http")] {
        if let Some(rest) = lower.strip_prefix(mark)
            && (rest.starts_with(':') || mark == "hxxp" && rest.starts_with("s:"))
        {
            let tail = changed.get(mark.len()..).unwrap_or_default().to_owned();
            return Cow::Owned(format!("{plain}{tail}"));
        }
    }
    changed
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HashKind {
    Md5,
    Sha1,
    Sha256,
    Sha512,
    Ssdeep,
}

/// The algorithm of a hash by its digits; what it is called counts only for fuzzy ones.
fn hash_kind(name: Option<&str>, text: &str) -> Result<HashKind, String> {
    let name: String = name.unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).collect();
    let is_fuzzy = name.eq_ignore_ascii_case("ssdeep") || text.contains(':');
    if is_fuzzy {
        let parts = text.splitn(3, ':').collect::<Vec<_>>();
        let is_ssdeep = parts.len() == 3 && parts.first().is_some_and(|size| size.parse::<u64>().is_ok());
        return if is_ssdeep { Ok(HashKind::Ssdeep) } else { Err(format!("`{}` is no fuzzy hash", shown(text))) };
    }
    match HashAlgorithm::of(text) {
        Some(HashAlgorithm::Md5) => Ok(HashKind::Md5),
        Some(HashAlgorithm::Sha1) => Ok(HashKind::Sha1),
        Some(HashAlgorithm::Sha256) => Ok(HashKind::Sha256),
        Some(HashAlgorithm::Sha512) => Ok(HashKind::Sha512),
        None => Err(format!("`{}` is no MD5, SHA-1, SHA-256, SHA-512 or fuzzy hash", shown(text))),
    }
}

/// Collects the hashes of a file.
#[derive(Debug, Default)]
pub(super) struct FileHashes(Vec<(HashKind, String)>);

impl FileHashes {
    pub(super) fn put(&mut self, name: Option<&str>, text: &str) -> Result<(), String> {
        let text = text.trim();
        let kind = hash_kind(name, text)?;
        if !self.0.iter().any(|known| known.0 == kind && known.1.eq_ignore_ascii_case(text)) {
            self.0.push((kind, text.to_owned()));
        }
        Ok(())
    }

    /// One file where each algorithm has one hash; else a file for each hash, since lists do not say which go together.
    pub(super) fn values(self, file_name: Option<&str>) -> Vec<Value> {
        let is_one =
            self.0.iter().enumerate().all(|(at, (kind, _))| self.0.iter().take(at).all(|(other, _)| other != kind));
        let mut files: Vec<Hashes> = Vec::new();
        if is_one {
            let mut file = Hashes::default();
            self.0.into_iter().for_each(|(kind, hash)| file.put(kind, hash));
            files.push(file);
        } else {
            files.extend(self.0.into_iter().map(|(kind, hash)| {
                let mut file = Hashes::default();
                file.put(kind, hash);
                file
            }));
        }
        let file_name = file_name.filter(|_| files.len() == 1);
        let value = |hashes: Hashes| {
            let (kind, text) = hashes.best()?;
            let text = text.to_owned();
            Some(Value { kind, text, hashes: Some(Box::new(hashes)), file_name: file_name.map(str::to_owned) })
        };
        files.into_iter().filter_map(value).collect()
    }
}

/// A text cut for a message.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

/// A key of the registry; the hive may be part of the key.
pub(super) fn registry_key(hive: Option<&str>, key: Option<&str>) -> Option<Value> {
    let key = key.unwrap_or_default().trim().trim_matches('\\');
    let hive = hive.unwrap_or_default().trim().trim_matches('\\');
    let full = match (hive.is_empty(), key.is_empty()) {
        (true, _) => key.to_owned(),
        (false, true) => hive.to_owned(),
        (false, false) if key.to_ascii_uppercase().starts_with("HKEY_") => key.to_owned(),
        (false, false) => format!("{hive}\\{key}"),
    };
    let is_whole = full.to_ascii_uppercase().starts_with("HKEY_") && full.len() <= MAX_VALUE_BYTES;
    is_whole.then(|| Value::new("Registry Key", full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_what_they_look_like() {
        use Expected::{Address, Asn, Domain, Email, Url};
        let cases = [
            (Address, " 198.51.100.1 ", Ok(("IP", "198.51.100.1"))),
            (Address, "198.51.100[.]1", Ok(("IP", "198.51.100.1"))),
            (Address, "198.51.100.0/24", Ok(("CIDR", "198.51.100.0/24"))),
            (Address, "198.51.100.0/255.255.255.0", Ok(("CIDR", "198.51.100.0/24"))),
            (Address, "198.51.100.0/255.0.255.0", Err("address")),
            (Address, "2001:db8::1", Ok(("IPv6", "2001:db8::1"))),
            (Address, "[2001:db8::1]", Ok(("IPv6", "2001:db8::1"))),
            (Address, "2001:db8::/32", Ok(("IPv6CIDR", "2001:db8::/32"))),
            (Address, "ann[at]example[dot]com", Ok(("Email", "ann@example.com"))),
            (Address, "example.com", Ok(("Domain", "example.com"))),
            (Address, "00:11:22:33:44:55", Err("address")),
            (Address, "198.51.100.1-198.51.100.9", Err("address")),
            (Domain, "example.com.", Ok(("Domain", "example.com"))),
            (Domain, "*.example.com", Ok(("DomainGlob", "*.example.com"))),
            (Domain, "http://example.com/x", Ok(("URL", "http://example.com/x"))),
            (Domain, "com", Err("domain")),
            (Url, "hXXps://evil[.]example/a,b", Ok(("URL", "https://evil.example/a,b"))),
            (Url, "hxxp[:]//evil(dot)example", Ok(("URL", "http://evil.example"))),
            (Url, "evil.example/a?b", Ok(("URL", "evil.example/a?b"))),
            (Url, "evil.example:8080/a", Ok(("URL", "evil.example:8080/a"))),
            (Url, "evil.example", Ok(("Domain", "evil.example"))),
            (Url, "/just/a/path", Err("URL")),
            (Url, "urn:x", Err("URL")),
            (Email, "ann@example.com", Ok(("Email", "ann@example.com"))),
            (Email, "Ann", Err("e-mail address")),
            (Asn, "15169", Ok(("ASN", "AS15169"))),
            (Url, "http://a\u{7}b/", Err("usable value")),
            (Url, "", Err("usable value")),
        ];
        for (expected, text, result) in cases {
            let found = read(expected, text);
            match result {
                Ok(pair) => assert_eq!(found.as_ref().map(|v| (v.kind, v.text.as_str())), Ok(pair), "{text}"),
                Err(what) => assert!(found.as_ref().is_err_and(|reason| reason.ends_with(what)), "{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn ranges_become_networks() {
        let cases = [
            ("192.0.2.0##comma##192.0.2.255", Some("192.0.2.0/24")),
            ("192.0.2.1,192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1-192.0.2.6", Some("192.0.2.1 192.0.2.2/31 192.0.2.4/31 192.0.2.6")),
            ("0.0.0.0-255.255.255.255", Some("0.0.0.0/0")),
            ("255.255.255.254-255.255.255.255", Some("255.255.255.254/31")),
            ("58.246.0.0##comma##58.247.255.255", Some("58.246.0.0/15")),
            ("2001:db8:: - 2001:db8::ffff", Some("2001:db8::/112")),
            ("::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some("::/1 8000::/1")),
            ("192.0.2.9-192.0.2.1", None),
            ("192.0.2.9-2001:db8::1", None),
            ("192.0.2.9", None),
        ];
        for (text, expected) in cases {
            let found = networks(text, "##comma##");
            let found = found.map(|list| list.iter().map(|value| value.text.clone()).collect::<Vec<_>>().join(" "));
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn lists_are_taken_apart() {
        use Expected::{Domain, Url};
        let cases: [(Expected, &str, &str, &[&str]); 6] = [
            (Domain, "a.example##comma##b.example", "##comma##", &["a.example", "b.example"]),
            (Domain, "a.example;b.example;", ";", &["a.example", "b.example"]),
            (Domain, "a.example, b.example", "##comma##", &["a.example", " b.example"]),
            (Url, "http://a.example/x,y", "##comma##", &["http://a.example/x,y"]),
            (
                Url,
                "http://a.example/x&comma;y##comma##http://b.example/",
                "##comma##",
                &["http://a.example/x,y", "http://b.example/"],
            ),
            (Domain, "not, a list", "##comma##", &["not, a list"]),
        ];
        for (expected, text, delimiter, parts) in cases {
            assert_eq!(list(expected, text, delimiter), parts, "{text}");
        }
    }

    #[test]
    fn hashes_of_one_file_stay_together() {
        let (md5, sha1, sha256) = ("a".repeat(32), "b".repeat(40), "C".repeat(64));
        let mut one = FileHashes::default();
        for hash in [md5.as_str(), &sha1, &sha256, "3:abc:def", md5.as_str()] {
            one.put(None, hash).unwrap();
        }
        let values = one.values(Some("x.exe"));
        assert_eq!(values.len(), 1);
        assert_eq!(
            (values[0].kind, values[0].text.as_str(), values[0].file_name.as_deref()),
            ("File", &*sha256, Some("x.exe"))
        );
        assert_eq!(values[0].hashes.as_ref().unwrap().ssdeep.as_deref(), Some("3:abc:def"));

        let mut many = FileHashes::default();
        [md5.as_str(), &"d".repeat(32), &sha1].iter().for_each(|hash| many.put(Some("MD5"), hash).unwrap());
        assert_eq!(many.values(Some("x")).iter().map(|v| v.text.len()).collect::<Vec<_>>(), [32, 32, 40]);

        let mut fuzzy = FileHashes::default();
        fuzzy.put(Some("SSDEEP"), "3:abc:def").unwrap();
        assert_eq!(fuzzy.values(None)[0].kind, "ssdeep");
        for bad in ["xyz", "", "aaaa", &"e".repeat(56), "a:b"] {
            assert!(FileHashes::default().put(None, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn registry_keys_need_a_hive() {
        let cases = [
            (Some("HKEY_LOCAL_MACHINE"), Some("\\Software\\X"), Some("HKEY_LOCAL_MACHINE\\Software\\X")),
            (None, Some("HKEY_CURRENT_USER\\X"), Some("HKEY_CURRENT_USER\\X")),
            (Some("HKEY_LOCAL_MACHINE"), Some("HKEY_LOCAL_MACHINE\\X"), Some("HKEY_LOCAL_MACHINE\\X")),
            (None, Some("Software\\X"), None),
            (None, None, None),
        ];
        for (hive, key, expected) in cases {
            assert_eq!(registry_key(hive, key).map(|v| v.text).as_deref(), expected);
        }
    }
}
