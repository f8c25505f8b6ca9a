//! What configuration decides about the server.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use axum::http::Uri;

use crate::feed::api::{Profile, StixVersion};

/// Paths that TAXII discovery needs.
const RESERVED_ROOTS: [&str; 2] = ["taxii", "taxii2"];

/// Settings of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Reserved for health and metrics.
    pub admin_listen: Option<SocketAddr>,
    /// URL that clients see, without the final slash; `None` means: from the `Host` header of each request.
    pub base_url: Option<String>,
    /// Path of the API root, without slashes at its ends.
    pub api_root: String,
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
}

/// PEM files of the server's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, the server's own first.
    pub cert: PathBuf,
    /// Private key: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
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
            base_url: None,
            api_root: "threatintel".to_owned(),
            title: None,
            description: None,
            profile: Profile::Standard,
            versions: vec![StixVersion::V20, StixVersion::V21],
            default_version: StixVersion::V21,
            tls: None,
            hsts: false,
            auth: AuthOptions::default(),
            limits: Limits::default(),
        }
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
            concurrent_requests: 256,
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
        self.listen.ip().to_canonical().is_loopback()
    }

    /// Whether that TAXII version is served.
    pub fn serves(&self, version: StixVersion) -> bool {
        self.versions.contains(&version)
    }
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
    if !root.split('/').all(segment) {
        return Err(format!("must be letters, digits and `-_.~`, such as `threatintel`, not `{text}`"));
    }
    Ok(root.to_owned())
}
