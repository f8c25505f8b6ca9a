//! The names files use for types and columns.

use std::borrow::Cow;

use crate::ingest::builder::Col;
use crate::model::kind::{self, XSOAR_TYPES};

/// Lower case, letters and digits only: `First Seen`, `first_seen` and `firstSeen` are one name.
pub(crate) fn fold(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// What a type name of whatever origin means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TypeName {
    /// The XSOAR type.
    Known(&'static str),
    /// An address or network, whose family the value shows. A port behind it is dropped.
    Address,
    /// A host, by its name or its address.
    Host,
    /// `name|hash`: the hash counts.
    NamedHash,
    /// `domain|address`: the domain counts.
    DomainAddress,
    /// None of ours: kept as it is.
    Own,
}

impl TypeName {
    /// Reads XSOAR's names in any case, STIX object types, and the names of MISP, OTX and abuse.ch.
    pub(crate) fn named(name: &str) -> Self {
        let folded = fold(name);
        let hashes = ["md5", "sha1", "sha256", "sha512"];
        let separated = name.contains(['|', ':']);
        match folded.as_str() {
            "ip" | "ipv4" | "ipv6" | "ipv4addr" | "ipv6addr" | "ipaddress" | "ipaddr" | "ipsrc" | "ipdst"
            | "address" | "cidr" | "ipv6cidr" | "subnet" | "network" | "netblock" => TypeName::Address,
            "ipport" | "ipsrcport" | "ipdstport" if separated => TypeName::Address,
            "domain" | "domainname" | "fqdn" => TypeName::Known("Domain"),
            "hostname" | "host" => TypeName::Host,
            "domainip" if separated => TypeName::DomainAddress,
            "url" | "uri" | "link" => TypeName::Known("URL"),
            "email" | "emailaddr" | "emailaddress" | "emailsrc" | "emaildst" => TypeName::Known("Email"),
            "hash" | "filehash" => TypeName::Known("File"),
            "useraccount" | "username" => TypeName::Known("Account"),
            "windowsregistrykey" | "regkey" | "registry" => TypeName::Known("Registry Key"),
            "autonomoussystem" | "as" => TypeName::Known("ASN"),
            "x509certificate" | "certificate" => TypeName::Known("X509 Certificate"),
            "vulnerability" => TypeName::Known("CVE"),
            known => {
                if let Some((xsoar_type, _)) = XSOAR_TYPES.iter().find(|(xsoar_type, _)| fold(xsoar_type) == known) {
                    return TypeName::Known(xsoar_type);
                }
                let bare = known.strip_prefix("file").unwrap_or(known);
                let bare = bare.strip_prefix("hash").or_else(|| bare.strip_suffix("hash")).unwrap_or(bare);
                match known.strip_prefix("filename") {
                    Some(hash) if separated && hashes.contains(&hash) => TypeName::NamedHash,
                    _ if hashes.contains(&bare) => TypeName::Known("File"),
                    _ => TypeName::Own,
                }
            }
        }
    }

    /// The XSOAR type and the value proper, of a value that was said to be of the type `name`.
    pub(crate) fn apply<'a>(self, name: &'a str, value: &'a str) -> (Cow<'a, str>, &'a str) {
        let value = match self {
            TypeName::Address => without_port(value),
            TypeName::NamedHash => value.rsplit_once('|').map_or(value, |(_, hash)| hash),
            TypeName::DomainAddress => value.split_once('|').map_or(value, |(domain, _)| domain),
            _ => value,
        };
        let xsoar_type = match self {
            TypeName::Known(known) => known,
            TypeName::Address => kind::detect(value).unwrap_or("IP"),
            // Names of hosts look like much else; only what no name can look like is something else.
            TypeName::Host => {
                let others = ["IP", "IPv6", "CIDR", "IPv6CIDR", "DomainGlob", "URL"];
                kind::detect(value).filter(|found| others.contains(found)).unwrap_or("Domain")
            }
            TypeName::NamedHash => "File",
            TypeName::DomainAddress => "Domain",
            TypeName::Own => return (Cow::Borrowed(name), value),
        };
        (Cow::Borrowed(xsoar_type), value)
    }
}

/// `192.0.2.1` of `192.0.2.1:80` or `192.0.2.1|80`; `2001:db8::1` of `[2001:db8::1]:80`; anything else as it is.
fn without_port(value: &str) -> &str {
    let Some((address, port)) = value.rsplit_once(['|', ':']) else { return value };
    let bare = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    // The last group of an IPv6 address is no port, unless something says so.
    let is_address = bare.is_none() && value.as_bytes().get(address.len()) == Some(&b':') && address.contains(':');
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    if is_port && !is_address { bare.unwrap_or(address) } else { value }
}

/// What a column of a table can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Value,
    Type,
    Score,
    Tags,
    Source,
    Tlp,
    Confidence,
    /// The id the record came with.
    StixId,
    /// Text of that column.
    Text(Col),
    /// Texts of that column, with commas, semicolons or bars between them.
    List(Col),
    /// A truth value of that column.
    Flag(Col),
    /// A timestamp of that column.
    Time(Col),
    /// A file hash of that column.
    Hash(Col),
}

/// Fields and the folded column names they are known by, best first.
const FIELDS: &[(Field, &[&str])] = &[
    (Field::Value, &["value", "iocvalue", "indicatorvalue", "indicator", "ioc", "observable", "name"]),
    (Field::Type, &["type", "indicatortype", "ioctype", "observabletype", "kind"]),
    (Field::Score, &["score", "verdict", "reputation", "severity"]),
    (Field::Tags, &["tags", "labels", "tag", "label"]),
    (Field::Text(Col::Description), &["description", "comment", "comments"]),
    (Field::Time(Col::FirstSeen), &["firstseen", "firstseenutc"]),
    (Field::Time(Col::LastSeen), &["lastseen", "lastseenutc", "lastonline"]),
    (Field::Time(Col::Created), &["created", "createdat", "dateadded", "timestamp"]),
    (Field::Time(Col::Modified), &["modified", "modifiedat", "updated", "updatedat", "lastmodified"]),
    (Field::Time(Col::Expiration), &["expiration", "validuntil", "expires", "expirationdate"]),
    (Field::Source, &["source", "sourcebrand", "sourcebrands", "feed"]),
    (Field::Tlp, &["tlp", "trafficlightprotocol"]),
    (Field::Confidence, &["confidence", "confidencelevel"]),
    (Field::Text(Col::Reliability), &["reliability", "aggregatedreliability"]),
    (Field::Hash(Col::Md5), &["md5", "md5hash"]),
    (Field::Hash(Col::Sha1), &["sha1", "sha1hash"]),
    (Field::Hash(Col::Sha256), &["sha256", "sha256hash"]),
    (Field::Hash(Col::Sha512), &["sha512", "sha512hash"]),
    // XSOAR's custom fields that have columns. `keyvalue` and `name` have one for a single type only: see the rows.
    (Field::StixId, &["stixid"]),
    (Field::Text(Col::MitreId), &["mitreid"]),
    (Field::Text(Col::AccountType), &["accounttype"]),
    (Field::Text(Col::UserId), &["userid"]),
    (Field::Text(Col::IdentityClass), &["identityclass"]),
    (Field::Text(Col::Ssdeep), &["ssdeep"]),
    (Field::Text(Col::Subject), &["subject"]),
    (Field::Text(Col::Issuer), &["issuer"]),
    (Field::Text(Col::ValidityNotBefore), &["validitynotbefore"]),
    (Field::Text(Col::ValidityNotAfter), &["validitynotafter"]),
    (Field::Time(Col::Published), &["published"]),
    (Field::Flag(Col::IsFamily), &["ismalwarefamily"]),
    (Field::Flag(Col::Revoked), &["revoked", "isrevoked"]),
    (Field::List(Col::ObjectRefs), &["reportobjectreferences"]),
    (Field::List(Col::KillChainPhases), &["killchainphases"]),
];

/// Columns that hold the value when none is called so.
const VALUES: &[&str] = &[
    "url",
    "domain",
    "domainname",
    "fqdn",
    "hostname",
    "host",
    "ip",
    "ipaddress",
    "dstip",
    "srcip",
    "cidr",
    "hash",
    "sha256",
    "sha256hash",
    "sha1",
    "sha1hash",
    "md5",
    "md5hash",
    "email",
    "cve",
    "cveid",
];

/// The field of that folded name.
pub(crate) fn field(folded: &str) -> Option<Field> {
    FIELDS.iter().find(|(_, names)| names.contains(&folded)).map(|(field, _)| *field)
}

/// For each column of a header, given folded, the field it holds.
pub(crate) fn assign(header: &[String]) -> Vec<Option<Field>> {
    let mut fields = vec![None; header.len()];
    let position = |names: &[&str]| names.iter().find_map(|name| header.iter().position(|column| column == name));
    if let Some(column) = position(FIELDS[0].1).or_else(|| position(VALUES)) {
        fields[column] = Some(Field::Value);
    }
    for (field, names) in FIELDS.iter().skip(1) {
        if let Some(column) = position(names)
            && fields[column].is_none()
        {
            fields[column] = Some(*field);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_names_of_all_origins() {
        let sha = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let named = format!("a.exe|{sha}");
        let cases = [
            ("ip", "192.0.2.1", "IP", "192.0.2.1"),
            ("ipv4-addr", "192.0.2.0/24", "CIDR", "192.0.2.0/24"),
            ("ip-dst", "2001:db8::1", "IPv6", "2001:db8::1"),
            ("ip:port", "192.0.2.1:80", "IP", "192.0.2.1"),
            ("ip-dst|port", "192.0.2.1|80", "IP", "192.0.2.1"),
            ("ip:port", "[2001:db8::1]:80", "IPv6", "2001:db8::1"),
            ("ip-dst|port", "2001:db8::1|80", "IPv6", "2001:db8::1"),
            ("ip", "192.0.2.1:80", "IP", "192.0.2.1"),
            ("ip", "2001:db8::1:80", "IPv6", "2001:db8::1:80"),
            ("ip", "192.0.2.1:99999", "IP", "192.0.2.1:99999"),
            ("host", "192.0.2.1", "IP", "192.0.2.1"),
            ("hostname", "2001:db8::/32", "IPv6CIDR", "2001:db8::/32"),
            ("host", "srv1", "Domain", "srv1"),
            ("host", "d41d8cd98f00b204e9800998ecf8427e", "Domain", "d41d8cd98f00b204e9800998ecf8427e"),
            ("DOMAIN", "a.example", "Domain", "a.example"),
            ("domain-name", "a.example", "Domain", "a.example"),
            ("domain|ip", "a.example|192.0.2.1", "Domain", "a.example"),
            ("hostname", "a.example", "Domain", "a.example"),
            ("sha256", sha, "File", sha),
            ("FileHash-SHA256", sha, "File", sha),
            ("sha256_hash", sha, "File", sha),
            ("filename|sha256", &named, "File", sha),
            ("registry key", "HKLM", "Registry Key", "HKLM"),
            ("Attack Pattern", "x", "Attack Pattern", "x"),
            ("intrusion-set", "x", "Intrusion Set", "x"),
            ("Mutex", "x", "Mutex", "x"),
        ];
        for (name, value, xsoar_type, proper) in cases {
            let (found_type, found_value) = TypeName::named(name).apply(name, value);
            assert_eq!((found_type.as_ref(), found_value), (xsoar_type, proper), "{name} {value}");
        }
    }

    #[test]
    fn columns_are_recognised_by_name() {
        let fields = |header: &[&str]| assign(&header.iter().map(|name| fold(name)).collect::<Vec<_>>());
        assert_eq!(
            fields(&["Indicator", "First Seen", "other", "VERDICT", "name"]),
            [Some(Field::Value), Some(Field::Time(Col::FirstSeen)), None, Some(Field::Score), None]
        );
        assert_eq!(fields(&["id", "dateadded", "url", "sha256"])[2], Some(Field::Value));
        assert_eq!(fields(&["id", "sha256_hash"]), [None, Some(Field::Value)]);
        assert_eq!(fields(&["a", "b"]), [None, None]);
    }
}
