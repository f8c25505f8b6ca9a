//! What configuration decides about the server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use axum::http::Uri;
use ipnet::IpNet;

use crate::feed::api::{Profile, StixVersion};
use crate::feed::collection::Access;
use crate::serve::rights::Rule;

/// Paths that TAXII discovery needs.
const RESERVED_ROOTS: [&str; 2] = ["taxii", "taxii2"];
/// Those of enrichment.
const RESERVED_FOR_ENRICHMENT: [&str; 2] = ["enrich", "lookup"];

/// Settings of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where health and metrics can be had, over plain HTTP and by everyone who can reach it; `None`: nowhere.
    pub admin_listen: Option<SocketAddr>,
    /// Said so that `listen` may be an address that others can reach without TLS.
    pub plain_http_off_loopback: bool,
    /// The same for `admin_listen`.
    pub admin_off_loopback: bool,
    /// What there is on the admin listener besides.
    pub admin: AdminOptions,
    /// URL that clients see, without the final slash; `None` means: from the `Host` header of each request.
    pub base_url: Option<String>,
    /// The API roots, at least one; collections that name none are in the first.
    pub api_roots: Vec<ApiRoot>,
    /// Title of the server and its API root; `None`: as the profile has them.
    pub title: Option<String>,
    /// Description of both; `None`: as the profile has them.
    pub description: Option<String>,
    /// Whose rules resources outside of collections follow; a collection may have a profile of its own.
    pub profile: Profile,
    /// TAXII versions that are served, at least one; others are 406.
    pub versions: Vec<StixVersion>,
    /// The one of them that clients get who do not say which.
    pub default_version: StixVersion,
    /// Certificate and key; `None` means plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Tell browsers and the like to come by HTTPS only (RFC 6797); without TLS it has no effect.
    pub hsts: bool,
    /// Who may come in.
    pub auth: AuthOptions,
    /// Bounds.
    pub limits: Limits,
    /// Addresses of proxies whose `X-Forwarded-For`, `-Proto` and `-Host` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Web pages that browsers may let read the answers.
    pub cors: Cors,
    /// File of the audit log, one JSON object a line; `None`: none is written.
    pub audit: Option<PathBuf>,
}

/// One API root (TAXII 2.1 §4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiRoot {
    /// Without slashes at its ends.
    pub path: String,
    /// `None`: the server's.
    pub title: Option<String>,
    /// `None`: the server's.
    pub description: Option<String>,
    /// Who may know of it and read and write its collections where these do not say.
    pub access: Access,
}

/// Which origins a browser may come from (the CORS protocol of the Fetch standard).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cors {
    /// None: no CORS header is ever sent.
    #[default]
    Off,
    /// Any; credentials have to be given by the page itself, in `Authorization`.
    Any,
    /// These, such as `https://soc.example.org`.
    Origins(Vec<String>),
}

/// Whether clients show certificates of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// They may; those who do not say who they are otherwise.
    #[default]
    Optional,
    /// They must, or the handshake fails.
    Required,
}

/// PEM files of the server's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, the server's own first.
    pub cert: PathBuf,
    /// Private key: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
    /// Certificates of the authorities that clients' certificates are checked against; `None`: clients are not asked for
    /// any.
    pub client_ca: Option<PathBuf>,
    /// Revocation lists of those authorities.
    pub client_crl: Option<PathBuf>,
    /// Whether clients must show one.
    pub client_auth: ClientAuth,
}

impl TlsFiles {
    /// A server that asks clients for no certificate.
    pub fn new(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        let (cert, key) = (cert.into(), key.into());
        Self { cert, key, client_ca: None, client_crl: None, client_auth: ClientAuth::default() }
    }
}

/// The management API on the admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminOptions {
    /// Who may use it, as the lists of collections name people; `None`: it is not served.
    pub manage: Option<Vec<String>>,
    /// Whether the listener speaks HTTPS, with the certificate of [`Options::tls`].
    pub tls: bool,
    /// Largest package that may be uploaded.
    pub package_bytes: u64,
}

impl Default for AdminOptions {
    fn default() -> Self {
        Self { manage: None, tls: false, package_bytes: 512 << 20 }
    }
}

impl AdminOptions {
    /// Whether whoever does not say who they are may manage.
    pub(super) fn is_open(&self) -> bool {
        self.manage.as_ref().is_some_and(|names| Rule::of(names).takes_everyone())
    }
}

/// Who may come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthOptions {
    /// The users file; one that does not exist holds no user.
    pub users: PathBuf,
    /// Serve requests without credentials. `None`: only on a loopback address, and only until the running server has
    /// seen a user.
    pub anonymous: Option<bool>,
    /// Said a second time, for an address that others can reach.
    pub anonymous_off_loopback: bool,
}

/// Bounds on requests and connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests being worked on, or whose answer is still being made and sent; further ones get 503.
    pub concurrent_requests: usize,
    /// The same for one client: a user, or an address without one.
    pub concurrent_requests_per_client: usize,
    /// Open connections; further ones are closed at once. Never more than three quarters of the files that the process may
    /// have open.
    pub connections: usize,
    /// The same of one address, trusted proxies excepted.
    pub connections_per_address: usize,
    /// Requests a minute of one client, on average; `None`: any number. Further ones get 429.
    pub requests_per_minute: Option<u32>,
    /// Largest body of a request, as sent and decompressed: `max_content_length` of the API roots.
    pub body_bytes: u64,
    /// Bytes of request bodies in memory at once; further ones get 503.
    pub bodies_bytes: u64,
    /// Longest time from the head of a request to the end of its body.
    pub body_timeout: Duration,
    /// Largest URL, path and query.
    pub url_bytes: usize,
    /// Largest header fields in all.
    pub headers_bytes: usize,
    /// Most values in one `match` parameter.
    pub match_values: usize,
    /// Longest time from the request to the first byte of its answer.
    pub request_timeout: Duration,
    /// Longest time a client may take to send the head of a request (and the TLS handshake before it); on a connection
    /// of HTTP/2, of its first.
    pub header_timeout: Duration,
    /// Longest time a connection may stay without a request.
    pub idle_timeout: Duration,
    /// Longest time a client may leave an answer unread: then a connection of HTTP/1 ends, under HTTP/2 the answer.
    pub write_timeout: Duration,
    /// Longest time answers may take to finish once the server was told to stop.
    pub shutdown_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9000)),
            admin_listen: None,
            plain_http_off_loopback: false,
            admin_off_loopback: false,
            admin: AdminOptions::default(),
            base_url: None,
            api_roots: vec![ApiRoot::new("threatintel")],
            title: None,
            description: None,
            profile: Profile::Standard,
            versions: vec![StixVersion::V20, StixVersion::V21],
            default_version: StixVersion::V21,
            tls: None,
            hsts: false,
            auth: AuthOptions::default(),
            limits: Limits::default(),
            trusted_proxies: Vec::new(),
            cors: Cors::default(),
            audit: None,
        }
    }
}

impl ApiRoot {
    /// The root of that path, as the server in everything else.
    pub fn new(path: &str) -> Self {
        Self { path: path.to_owned(), title: None, description: None, access: Access::default() }
    }
}

impl Default for AuthOptions {
    fn default() -> Self {
        Self { users: PathBuf::from("taxiway-data/users.json"), anonymous: None, anonymous_off_loopback: false }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrent_requests: 1_024,
            concurrent_requests_per_client: 64,
            connections: 10_000,
            connections_per_address: 1_000,
            requests_per_minute: None,
            body_bytes: 100 << 20,
            bodies_bytes: 256 << 20,
            body_timeout: Duration::from_secs(300),
            url_bytes: 48 << 10,
            headers_bytes: 64 << 10,
            match_values: 2_000,
            request_timeout: Duration::from_secs(60),
            header_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(120),
            write_timeout: Duration::from_secs(120),
            shutdown_timeout: Duration::from_secs(30),
        }
    }
}

impl Options {
    /// Whether only this machine can reach the address.
    pub fn on_loopback(&self) -> bool {
        is_loopback(self.listen)
    }

    /// The root that collections are in which name none.
    pub fn default_root(&self) -> &str {
        self.api_roots.first().map_or("", |root| root.path.as_str())
    }

    /// Whether what comes from that address may speak for somebody else.
    pub fn trusts(&self, proxy: IpAddr) -> bool {
        let proxy = proxy.to_canonical();
        self.trusted_proxies.iter().any(|net| net.contains(&proxy))
    }

    /// Whether that TAXII version is served.
    pub fn serves(&self, version: StixVersion) -> bool {
        self.versions.contains(&version)
    }
}

/// Whether only this machine can reach the address.
pub(super) fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// `http(s)://host[:port][/path]`, its final slashes dropped; the error finishes a sentence that begins with the key.
pub(crate) fn parse_base_url(text: &str) -> Result<String, String> {
    let url = text.trim_end_matches('/');
    let wrong = |why: &str| Err(format!("must be a URL such as `https://feeds.example.org`; `{text}` {why}"));
    let Ok(parsed) = url.parse::<Uri>() else { return wrong("is none") };
    if !matches!(parsed.scheme_str(), Some("http" | "https")) {
        return wrong("does not begin with http:// or https://");
    }
    match parsed.authority() {
        Some(authority) if authority.as_str().contains('@') => wrong("holds credentials"),
        Some(authority) if !authority.host().is_empty() => match parsed.query() {
            Some(_) => wrong("has a query"),
            None if text.contains('#') => wrong("has a fragment"),
            None => Ok(url.to_owned()),
        },
        _ => wrong("names no host"),
    }
}

/// An origin as browsers write it: scheme, host, and a port that is not the scheme's own. The error finishes a sentence that
/// begins with the key.
pub(crate) fn parse_origin(text: &str) -> Result<String, String> {
    let wrong = |why: &str| Err(format!("must be origins such as `https://soc.example.org`, or `*`; `{text}` {why}"));
    let Ok(parsed) = text.parse::<Uri>() else { return wrong("is none") };
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (parsed.scheme_str(), parsed.authority()) else {
        return wrong("does not begin with http:// or https:// and a host");
    };
    if authority.as_str().contains('@') {
        return wrong("holds credentials");
    }
    if authority.host().is_empty() {
        return wrong("names no host");
    }
    if !matches!(parsed.path(), "" | "/") || parsed.query().is_some() || text.contains('#') {
        return wrong("has a path");
    }
    let host = authority.host().to_ascii_lowercase();
    let own_port = if scheme == "http" { 80 } else { 443 };
    Ok(match authority.port_u16().filter(|port| *port != own_port) {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    })
}

/// One or more path segments without the slashes at their ends; the error finishes a sentence that begins with the key.
pub(crate) fn parse_api_root(text: &str) -> Result<String, String> {
    let root = text.trim_matches('/');
    let segment = |segment: &str| {
        !segment.is_empty()
            && !matches!(segment, "." | "..")
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~'))
    };
    if RESERVED_ROOTS.contains(&root) {
        return Err(format!("cannot be `{root}`, which is a path of TAXII discovery"));
    }
    if RESERVED_FOR_ENRICHMENT.contains(&root) {
        return Err(format!("cannot be `{root}`, which is a path of enrichment"));
    }
    if !root.split('/').all(segment) {
        return Err(format!("must be letters, digits and `-_.~`, such as `threatintel`, not `{text}`"));
    }
    Ok(root.to_owned())
}
