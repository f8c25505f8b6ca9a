//! Who is at the other end of a connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::serve::options::Options;
use crate::serve::tokens::hex;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Most hops of `X-Forwarded-For` that are looked at, from the right.
const MAX_HOPS: usize = 32;

/// The other end of a request, in its extensions before the first layer sees it.
#[derive(Clone, Debug)]
pub(super) struct Client {
    /// Its address; behind a trusted proxy, the one the proxy tells.
    pub(super) address: IpAddr,
    /// The other end of the connection: the client itself or a proxy.
    pub(super) peer: IpAddr,
    /// The certificate it showed, checked against the authorities of `tls.client_ca`.
    pub(super) certificate: Option<Arc<ClientCertificate>>,
}

/// What a client's certificate says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientCertificate {
    /// Names it is known by, as users write them: `cn:…`, `dns:…`, `email:…`, `uri:…` and `sha256:` of the whole certificate
    /// in lower-case hexadecimal digits.
    pub names: Vec<String>,
    /// The subject, for the log.
    pub subject: String,
}

impl Client {
    /// Who sent a request that came without a connection, as in tests.
    const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

    /// What the connection says of a request.
    pub(super) fn of_peer(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, peer: address, certificate: None }
    }

    /// Puts the client into the request, its address as trusted proxies tell it.
    pub(super) fn settle(request: &mut Request, options: &Options) -> Self {
        let peer = request.extensions_mut().remove::<Client>();
        let mut client = peer.unwrap_or(Client::of_peer(Self::NOBODY));
        client.address = behind_proxies(client.peer, request.headers(), options);
        request.extensions_mut().insert(client.clone());
        client
    }

    /// The address that a settled request came from.
    pub(super) fn address_of(request: &Request) -> IpAddr {
        request.extensions().get::<Client>().map_or(Self::NOBODY, |client| client.address)
    }
}

/// Every proxy adds the address it was called from at the right. So the rightmost one that is no proxy of ours is the client
/// as the outermost of our proxies saw it; what stands left of it is the client's own say.
fn behind_proxies(peer: IpAddr, headers: &HeaderMap, options: &Options) -> IpAddr {
    if !options.trusts(peer) {
        return peer;
    }
    let mut nearest = peer;
    let mut hops = headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .rev()
        .flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','))
        .map(|hop| std::str::from_utf8(hop).ok().and_then(|hop| hop_address(hop.trim())));
    for _ in 0..MAX_HOPS {
        // Garbage ends the chain: no proxy of ours wrote it, and what stands left of it is worth less.
        let Some(Some(hop)) = hops.next() else { break };
        nearest = hop;
        if !options.trusts(hop) {
            break;
        }
    }
    nearest
}

/// What counts as one address: of version 6 the network of 64 bits, all of which one machine can have.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

/// An address, with or without brackets and port, as proxies write it.
fn hop_address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address: Option<IpAddr> = bare.parse().ok();
    address
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .map(|address| address.to_canonical())
}

impl ClientCertificate {
    /// Reads a certificate in DER; one that cannot be read is known by its digest alone.
    pub(super) fn of_der(der: &[u8]) -> Self {
        let mut names = Vec::new();
        let mut subject = String::new();
        if let Ok((_, certificate)) = X509Certificate::from_der(der) {
            subject = certificate.subject().to_string();
            let mut add = |kind: &str, name: &str| {
                let name = name.trim();
                if !name.is_empty() && !name.chars().any(char::is_control) {
                    names.push(format!("{kind}:{name}"));
                }
            };
            for name in certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok()) {
                add("cn", name);
            }
            if let Ok(Some(alternatives)) = certificate.subject_alternative_name() {
                for name in &alternatives.value.general_names {
                    match name {
                        GeneralName::DNSName(name) => add("dns", &name.to_ascii_lowercase()),
                        GeneralName::RFC822Name(name) => add("email", name),
                        GeneralName::URI(name) => add("uri", name),
                        _ => {}
                    }
                }
            }
        }
        names.push(format!("sha256:{}", hex(&Sha256::digest(der))));
        Self { names, subject }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::{any, proptest};

    use super::*;

    fn behind(peer: &str, forwarded: &[&[u8]]) -> String {
        let options = Options {
            trusted_proxies: ["10.0.0.0/8", "2001:db8::/32"].map(|net| net.parse().expect("a network")).to_vec(),
            ..Options::default()
        };
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(value).expect("a header"));
        }
        behind_proxies(peer.parse().expect("an address"), &headers, &options).to_string()
    }

    #[test]
    fn the_rightmost_address_that_is_no_proxy_is_the_client() {
        let cases: [(&str, &[&[u8]], &str); 16] = [
            ("10.0.0.1", &[b"192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1", &[b"198.51.100.1, 192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1", &[b"198.51.100.1,192.0.2.7 , 10.1.1.1"], "192.0.2.7"),
            ("10.0.0.1", &[b"198.51.100.1", b"192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1", &[b"192.0.2.7", b"10.3.3.3", b"10.4.4.4"], "192.0.2.7"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &[b""], "10.0.0.1"),
            ("10.0.0.1", &[b"10.2.2.2"], "10.2.2.2"),
            ("10.0.0.1", &[b"192.0.2.7, unknown"], "10.0.0.1"),
            ("10.0.0.1", &[b"192.0.2.7, \xff, 10.5.5.5"], "10.5.5.5"),
            ("10.0.0.1", &[b"192.0.2.7:4711"], "192.0.2.7"),
            ("10.0.0.1", &[b"[2001:db9::1]:4711"], "2001:db9::1"),
            ("10.0.0.1", &[b"[2001:db9::1]"], "2001:db9::1"),
            ("10.0.0.1", &[b"::ffff:192.0.2.7"], "192.0.2.7"),
            ("2001:db8::9", &[b"192.0.2.7"], "192.0.2.7"),
            // Who is no proxy of ours may say what they like.
            ("203.0.113.9", &[b"192.0.2.7"], "203.0.113.9"),
        ];
        for (peer, forwarded, expected) in cases {
            assert_eq!(behind(peer, forwarded), expected, "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn a_certificate_is_known_by_its_names_and_its_digest() {
        use rcgen::{CertificateParams, DnType, KeyPair, SanType};
        let mut params = CertificateParams::new(vec!["Host.Example".to_owned()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, "partner");
        params.distinguished_name.push(DnType::OrganizationName, "Partner Ltd");
        params.subject_alt_names.push(SanType::Rfc822Name("soc@partner.example".try_into().expect("text")));
        params.subject_alt_names.push(SanType::URI("spiffe://partner/soc".try_into().expect("text")));
        let key = KeyPair::generate().expect("a key");
        let made = params.self_signed(&key).expect("a certificate");
        let read = ClientCertificate::of_der(made.der());
        let (digest, named) = read.names.split_last().expect("names");
        assert_eq!(named, ["cn:partner", "dns:host.example", "email:soc@partner.example", "uri:spiffe://partner/soc"]);
        assert!(read.subject.contains("Partner Ltd"), "{}", read.subject);
        let hex = digest.strip_prefix("sha256:").expect("a digest");
        assert!(hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{hex}");
        assert_eq!(ClientCertificate::of_der(b"garbage").names.len(), 1);
    }

    proptest! {
        #[test]
        fn whatever_is_forwarded_names_an_address(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let headers = HeaderMap::from_iter([(X_FORWARDED_FOR, value)]);
                let options = Options { trusted_proxies: vec!["0.0.0.0/0".parse().expect("a network")], ..Options::default() };
                behind_proxies("127.0.0.1".parse().expect("an address"), &headers, &options);
            }
        }

        #[test]
        fn whatever_a_certificate_holds_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            assert!(!ClientCertificate::of_der(&bytes).names.is_empty());
        }
    }
}
