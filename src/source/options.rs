//! What a source is and how it may be fetched: plain values, no secret of which is ever printed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Keeps that text.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, for the wire and the key file alone.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

/// The versions of TAXII that can be fetched from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Version {
    /// XML, feeds.
    #[serde(rename = "1.0")]
    V10,
    /// XML, collections and result parts.
    #[serde(rename = "1.1")]
    V11,
    /// JSON, ranges.
    #[serde(rename = "2.0")]
    V20,
    /// JSON, `next` and `added_after`.
    #[serde(rename = "2.1")]
    V21,
}

impl Version {
    /// Every version, the newest first, which is the order in which they are tried.
    pub const ALL: [Version; 4] = [Version::V21, Version::V20, Version::V11, Version::V10];

    /// As people write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Version::V10 => "1.0",
            Version::V11 => "1.1",
            Version::V20 => "2.0",
            Version::V21 => "2.1",
        }
    }

    /// Whether it speaks JSON.
    pub const fn is_2(self) -> bool {
        matches!(self, Version::V20 | Version::V21)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no version of TAXII.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no version of TAXII; write 1.0, 1.1, 2.0 or 2.1, or leave it out to have it found")]
pub struct UnknownVersion {
    /// The text as given, cut to 32 characters.
    pub text: String,
}

impl FromStr for Version {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Version::ALL.into_iter().find(|version| version.as_str() == text.trim());
        found.ok_or_else(|| UnknownVersion { text: text.chars().take(32).collect() })
    }
}

/// How a client says who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Not at all.
    #[default]
    None,
    /// HTTP Basic.
    Basic {
        /// Name of the user.
        username: String,
        /// Their password.
        password: Secret,
    },
    /// `Authorization: Bearer` with this token.
    Bearer(Secret),
    /// A key in a header of its own, such as `X-API-Key`.
    ApiKey {
        /// Name of the header.
        header: String,
        /// What it holds; a scheme such as `Token` is part of it.
        key: Secret,
    },
    /// A token is asked for at `url` with name and password, and sent as a bearer token; one that is refused is asked for
    /// anew once (OpenTAXII's `/management/auth`).
    Login {
        /// Where tokens are given out.
        url: Url,
        /// Name of the user.
        username: String,
        /// Their password.
        password: Secret,
    },
}

/// A client certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// PEM of the certificate and those between it and its authority.
    pub certificates: Vec<u8>,
    /// PEM of the private key: PKCS#8 (encrypted or not), PKCS#1 or SEC1.
    pub key: Vec<u8>,
    /// Passphrase of an encrypted key.
    pub passphrase: Option<Secret>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificates", &self.certificates.len()).finish_non_exhaustive()
    }
}

/// The way out.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// `http`, `https`, `socks5` (names are looked up here) or `socks5h` (there), with host and port.
    pub url: Url,
    /// User and password, where the proxy wants them; those in the URL serve as well.
    pub credentials: Option<(String, Secret)>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("url", &shown(&self.url)).finish_non_exhaustive()
    }
}

/// One server of somebody else.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Discovery, an API root, a collection (2.x), its objects, or a poll service (1.x). User and password in it are
    /// taken as Basic credentials, and never shown.
    pub url: Url,
    /// The version spoken; found out when not given.
    pub version: Option<Version>,
    /// Who we are.
    pub credentials: Credentials,
    /// Client certificate.
    pub identity: Option<Identity>,
    /// PEM of the authorities trusted in place of the system's.
    pub authorities: Option<Vec<u8>>,
    /// The way out; the environment's proxy settings are not read.
    pub proxy: Option<Proxy>,
    /// Hosts (`host` or `host:port`) that get the credentials besides the one of `url`. Addresses that a server names on
    /// any other host are asked for at the host of `url`.
    pub trusted_hosts: Vec<String>,
    /// Subscription to poll with, where a 1.x server wants one.
    pub subscription: Option<String>,
}

impl Endpoint {
    /// A server without any extras.
    pub fn new(url: Url) -> Self {
        Endpoint {
            url,
            version: None,
            credentials: Credentials::None,
            identity: None,
            authorities: None,
            proxy: None,
            trusted_hosts: Vec::new(),
            subscription: None,
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("url", &shown(&self.url))
            .field("version", &self.version)
            .field("credentials", &self.credentials)
            .field("identity", &self.identity)
            .field("proxy", &self.proxy)
            .finish_non_exhaustive()
    }
}

/// How much, how fast and how patiently is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Objects asked for at a time (2.x); fewer where the server refuses so many.
    pub page_size: u32,
    /// `User-Agent`.
    pub user_agent: String,
    /// Time to come by a connection, TLS included.
    pub connect_timeout: Duration,
    /// Longest silence of a server, before its answer and within.
    pub read_timeout: Duration,
    /// Longest time for one answer in all.
    pub answer_timeout: Duration,
    /// Largest answer, decompressed, in bytes. Answers wait in a file, not in memory.
    pub max_page_bytes: u64,
    /// Largest single object or text, in bytes; larger ones are left out and counted.
    pub max_object_bytes: usize,
    /// Requests a minute at most; none: as fast as answers come.
    pub requests_per_minute: Option<u32>,
    /// How often a request is sent in all before it counts as failed.
    pub attempts: usize,
    /// Wait before the second attempt; doubled for each further one.
    pub first_wait: Duration,
    /// Longest wait, also where the server asks for more (the error then says how long).
    pub longest_wait: Duration,
    /// Time range of one poll (1.x), for servers that cannot answer for all time at once; needs a begin.
    pub poll_window: Option<Duration>,
    /// Where large answers wait while they are read.
    pub spool_folder: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            page_size: 10_000,
            user_agent: concat!("taxiway/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(30),
            read_timeout: Duration::from_secs(300),
            answer_timeout: Duration::from_secs(3_600),
            max_page_bytes: 4 << 30,
            max_object_bytes: 16 << 20,
            requests_per_minute: None,
            attempts: 5,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(300),
            poll_window: None,
            spool_folder: std::env::temp_dir(),
        }
    }
}

/// A URL as it may be shown: without user, password, query and fragment, which may hold keys.
pub fn shown(url: &Url) -> String {
    let mut plain = url.clone();
    // Both fail only for URLs that cannot have either.
    let _ = plain.set_username("");
    let _ = plain.set_password(None);
    plain.set_query(None);
    plain.set_fragment(None);
    plain.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_printed() {
        let mut endpoint = Endpoint::new(Url::parse("https://ann:pass-1@feeds.example/taxii2/?key=pass-2").unwrap());
        endpoint.identity =
            Some(Identity { certificates: vec![1], key: b"pass-3".to_vec(), passphrase: Some(Secret::new("pass-4")) });
        endpoint.proxy = Some(Proxy {
            url: Url::parse("http://bob:pass-5@proxy.example:3128").unwrap(),
            credentials: Some(("bob".to_owned(), Secret::new("pass-6"))),
        });
        let all = [
            Credentials::Basic { username: "ann".to_owned(), password: Secret::new("pass-7") },
            Credentials::Bearer(Secret::new("pass-8")),
            Credentials::ApiKey { header: "X-API-Key".to_owned(), key: Secret::new("pass-9") },
        ];
        for credentials in all {
            endpoint.credentials = credentials;
            let text = format!("{endpoint:?}");
            assert!(!text.contains("pass-"), "{text}");
            assert!(text.contains("https://feeds.example/taxii2/"), "{text}");
        }
    }

    #[test]
    fn versions_read_back() {
        for version in Version::ALL {
            assert_eq!(version.as_str().parse(), Ok(version));
        }
        assert!("3".parse::<Version>().unwrap_err().to_string().contains("`3` is no version"));
    }
}
