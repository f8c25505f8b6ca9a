//! One request for one page, timed and counted; nothing of the body is kept.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_RANGE, HeaderMap, HeaderName, HeaderValue, RANGE,
    RETRY_AFTER,
};
use reqwest::{Certificate, Client, Identity, Response, StatusCode, Url, redirect};
use serde::Serialize;

use super::BenchError;
use super::scan::{Facts, Flaw, Scanner};
use crate::model::time::Timestamp;

/// Where systems keep the certificates that they trust, by the names that distributions use.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];
/// More than any collection holds and a number to every server.
const WHOLE: u64 = i32::MAX as u64;
/// What of an error's body is looked at.
const ERROR_BODY: usize = 4_096;

/// A version of TAXII.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Version {
    /// TAXII 2.0.
    #[serde(rename = "2.0")]
    V20,
    /// TAXII 2.1.
    #[serde(rename = "2.1")]
    V21,
}

impl Version {
    /// `Accept` for everything but objects.
    pub(super) fn media(self) -> &'static str {
        match self {
            Version::V20 => "application/vnd.oasis.taxii+json; version=2.0",
            Version::V21 => "application/taxii+json;version=2.1",
        }
    }

    fn objects_media(self) -> &'static str {
        match self {
            Version::V20 => "application/vnd.oasis.stix+json; version=2.0",
            Version::V21 => self.media(),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Version::V20 { "2.0" } else { "2.1" })
    }
}

/// How bodies are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As they are.
    Plain,
    /// Compressed with gzip.
    Gzip,
    /// Compressed with zstd.
    Zstd,
}

impl Encoding {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Plain => "plain",
            Encoding::Gzip => "gzip",
            Encoding::Zstd => "zstd",
        }
    }
}

/// How much a page is asked to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// So many objects.
    Objects(u64),
    /// All that the server gives at once.
    Whole,
    /// What the server gives whoever does not say.
    Server,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Size::Objects(count) => f.write_str(&super::report::grouped(*count)),
            Size::Whole => f.write_str("whole"),
            Size::Server => f.write_str("server's"),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Size::Objects(count) => serializer.serialize_u64(*count),
            Size::Whole => serializer.serialize_str("whole"),
            Size::Server => serializer.serialize_str("server"),
        }
    }
}

/// A text that no error and no log shows.
#[derive(Clone)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Who asks.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// Nobody in particular.
    Anonymous,
    /// A user with a password.
    Basic {
        /// Name of the user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A bearer token.
    Bearer(Secret),
    /// A header of its own.
    ApiKey {
        /// Name of the header.
        header: String,
        /// Its value.
        key: Secret,
    },
}

/// How to reach the server.
#[derive(Debug, Clone)]
pub struct Access {
    /// Who asks.
    pub credentials: Credentials,
    /// PEM file of authorities that may have signed the server's certificate; `None` for those that the system trusts.
    pub authorities: Option<PathBuf>,
    /// PEM file with a client certificate and its key.
    pub client_certificate: Option<PathBuf>,
    /// Believe any certificate.
    pub insecure: bool,
    /// How long to wait for the next byte.
    pub patience: Duration,
}

/// Makes clients; each has a connection of its own, as consumers have.
#[derive(Debug)]
pub(super) struct Connector {
    headers: HeaderMap,
    roots: Vec<Certificate>,
    identity: Option<Identity>,
    insecure: bool,
    patience: Duration,
}

impl Connector {
    pub(super) fn new(access: &Access, url: &Url) -> Result<Self, BenchError> {
        // Fails only where there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let https = url.scheme() == "https";
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|source| BenchError::ReadFile { path: path.display().to_string(), source })
        };
        let parsed = |path: &str, pem: &[u8]| match Certificate::from_pem_bundle(pem) {
            Ok(roots) if !roots.is_empty() => Ok(roots),
            _ => Err(BenchError::NoCertificate { path: path.to_owned() }),
        };
        let roots = match &access.authorities {
            Some(path) => parsed(&path.display().to_string(), &read(path)?)?,
            None if https && !access.insecure => {
                let own = std::env::var("SSL_CERT_FILE").ok();
                let found = own.iter().map(String::as_str).chain(SYSTEM_ROOTS).find_map(|path| {
                    let pem = std::fs::read(path).ok()?;
                    parsed(path, &pem).ok()
                });
                found.ok_or(BenchError::NoRoots)?
            }
            None => Vec::new(),
        };
        let identity = match &access.client_certificate {
            None => None,
            Some(path) => {
                let identity = Identity::from_pem(&read(path)?);
                Some(identity.map_err(|_| BenchError::BadIdentity { path: path.display().to_string() })?)
            }
        };
        let headers = headers(&access.credentials)?;
        Ok(Connector { headers, roots, identity, insecure: access.insecure, patience: access.patience })
    }

    pub(super) fn connect(&self) -> Result<Client, BenchError> {
        // Credentials go to the server that was named and to no other.
        let stay = redirect::Policy::custom(|attempt| {
            let home = attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
            if home && attempt.previous().len() < 5 { attempt.follow() } else { attempt.stop() }
        });
        let mut builder = Client::builder()
            .user_agent(concat!("taxiway-bench/", env!("CARGO_PKG_VERSION")))
            .default_headers(self.headers.clone())
            .redirect(stay)
            .read_timeout(self.patience)
            .connect_timeout(self.patience.min(Duration::from_secs(10)))
            .danger_accept_invalid_certs(self.insecure)
            .tcp_nodelay(true)
            // What comes over the wire is what is counted.
            .no_gzip()
            .no_zstd();
        for root in &self.roots {
            builder = builder.add_root_certificate(root.clone());
        }
        if let Some(identity) = &self.identity {
            builder = builder.identity(identity.clone());
        }
        builder.build().map_err(|source| BenchError::Client { source })
    }
}

fn headers(credentials: &Credentials) -> Result<HeaderMap, BenchError> {
    use base64::Engine;
    let (name, text) = match credentials {
        Credentials::Anonymous => return Ok(HeaderMap::new()),
        Credentials::Basic { user, password } => {
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{}", password.0));
            (AUTHORIZATION, format!("Basic {pair}"))
        }
        Credentials::Bearer(token) => (AUTHORIZATION, format!("Bearer {}", token.0)),
        Credentials::ApiKey { header, key } => {
            let name = HeaderName::try_from(header.as_str());
            (name.map_err(|_| BenchError::BadHeaderName { name: header.clone() })?, key.0.clone())
        }
    };
    let mut value = HeaderValue::try_from(text).map_err(|_| BenchError::BadSecret)?;
    value.set_sensitive(true);
    Ok(HeaderMap::from_iter([(name, value)]))
}

/// Where in a collection a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Start,
    /// After what `next` of a page stands for.
    Next(String),
    /// After that `date_added`.
    After(String),
    /// At that row, counted from 0 (TAXII 2.0).
    Row(u64),
}

/// A request for objects.
#[derive(Debug, Clone)]
pub(super) struct Ask<'a> {
    pub(super) place: &'a Place,
    pub(super) size: Size,
    pub(super) encoding: Encoding,
    /// The types wanted (`match[type]`).
    pub(super) types: Option<&'a str>,
    /// The one object wanted.
    pub(super) object: Option<&'a str>,
}

/// `Content-Range` of TAXII 2.0: the total, if it says one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ItemRange {
    pub(super) total: Option<u64>,
}

/// A page that came.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub(super) facts: Facts,
    /// 416: there is nothing at that row.
    pub(super) beyond_end: bool,
    pub(super) range: Option<ItemRange>,
    /// `X-TAXII-Date-Added-Last`.
    pub(super) last_date: Option<String>,
    /// What it was compressed with.
    pub(super) encoding: Encoding,
    /// From the request's first byte to the body's first one.
    pub(super) first_byte: Duration,
    /// And to its last one.
    pub(super) whole: Duration,
    /// Bytes of the body, as they came.
    pub(super) wire_bytes: u64,
    /// Bytes of the body, decompressed.
    pub(super) body_bytes: u64,
}

/// Why no page came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// 429 or 503: come again, after that time if it is said.
    Busy(u16, Option<Duration>),
    /// Another status, with what the body says of it.
    Status(u16, String),
    Connect(String),
    Timeout,
    /// The connection broke in the middle of the answer.
    Broken,
    CutShort,
    NotJson,
    /// The compressed body cannot be decompressed.
    BadEncoding(String),
}

impl Failure {
    /// What it is counted as.
    pub(super) fn kind(&self) -> String {
        match self {
            Failure::Busy(status, _) | Failure::Status(status, _) => format!("status {status}"),
            Failure::Connect(_) => "no connection".to_owned(),
            Failure::Timeout => "timeout".to_owned(),
            Failure::Broken => "connection broken".to_owned(),
            Failure::CutShort => "body cut short".to_owned(),
            Failure::NotJson => "body is no JSON object".to_owned(),
            Failure::BadEncoding(_) => "body cannot be decompressed".to_owned(),
        }
    }

    /// More than the kind, if there is more to say.
    pub(super) fn detail(&self) -> Option<&str> {
        match self {
            Failure::Status(_, text) | Failure::Connect(text) | Failure::BadEncoding(text) => {
                Some(text.as_str()).filter(|text| !text.is_empty())
            }
            _ => None,
        }
    }
}

/// A readable collection.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Its URL, with the last slash.
    pub(super) url: Url,
    pub(super) version: Version,
}

impl Target {
    fn address(&self, ask: &Ask<'_>) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("objects").extend(ask.object).push("");
        }
        let mut pairs = BTreeMap::new();
        if self.version == Version::V21 && ask.object.is_none() {
            match ask.size {
                Size::Objects(limit) => _ = pairs.insert("limit", limit.to_string()),
                Size::Whole => _ = pairs.insert("limit", WHOLE.to_string()),
                Size::Server => {}
            }
        }
        match ask.place {
            Place::Next(next) => _ = pairs.insert("next", next.clone()),
            Place::After(date) => _ = pairs.insert("added_after", date.clone()),
            Place::Start | Place::Row(_) => {}
        }
        pairs.extend(ask.types.map(|types| ("match[type]", types.to_owned())));
        if !pairs.is_empty() {
            url.query_pairs_mut().extend_pairs(pairs);
        }
        url
    }

    /// `Range`, with the `=` of RFC 7233; the last item is in it.
    fn range(&self, ask: &Ask<'_>) -> Option<String> {
        if self.version == Version::V21 || ask.object.is_some() {
            return None;
        }
        let first = if let Place::Row(row) = ask.place { *row } else { 0 };
        match ask.size {
            Size::Objects(limit) => Some(format!("items={first}-{}", first + limit.saturating_sub(1))),
            Size::Whole | Size::Server => (first > 0).then(|| format!("items={first}-")),
        }
    }

    /// Asks for a page and reads it to its end; `ids` gets the hash of each id.
    pub(super) async fn page<F>(&self, client: &Client, ask: &Ask<'_>, ids: &mut F) -> Result<Page, Failure>
    where
        F: FnMut(u64) + Send,
    {
        let mut request = client.get(self.address(ask)).header(ACCEPT, self.version.objects_media());
        let wanted = if ask.encoding == Encoding::Plain { "identity" } else { ask.encoding.name() };
        request = request.header(ACCEPT_ENCODING, wanted);
        if let Some(range) = self.range(ask) {
            request = request.header(RANGE, range);
        }
        let began = Instant::now();
        let answer = request.send().await.map_err(|error| failure(&error))?;
        let status = answer.status();
        let beyond_end = status == StatusCode::RANGE_NOT_SATISFIABLE && self.version == Version::V20;
        if !beyond_end && !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Err(refusal(answer).await);
        }
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let range = header(CONTENT_RANGE.as_str()).and_then(item_range);
        let last_date = header("x-taxii-date-added-last").filter(|date| Timestamp::parse(date).is_ok());
        let last_date = last_date.map(str::to_owned);
        let encoding = match header(CONTENT_ENCODING.as_str()) {
            Some("gzip" | "x-gzip") => Encoding::Gzip,
            Some("zstd") => Encoding::Zstd,
            None | Some("identity" | "") => Encoding::Plain,
            Some(other) => return Err(Failure::BadEncoding(format!("the answer came as `{other}`, unasked"))),
        };
        let read = read(answer, encoding, began, ids).await?;
        let facts = match read.facts {
            Ok(facts) => facts,
            Err(_) if beyond_end => Facts::default(),
            Err(Flaw::CutShort) => return Err(Failure::CutShort),
            Err(Flaw::NotJson) => return Err(Failure::NotJson),
        };
        Ok(Page {
            facts: if beyond_end { Facts::default() } else { facts },
            beyond_end,
            range,
            last_date,
            encoding,
            first_byte: read.first_byte,
            whole: began.elapsed(),
            wire_bytes: read.wire_bytes,
            body_bytes: read.body_bytes,
        })
    }
}

struct Read {
    facts: Result<Facts, Flaw>,
    first_byte: Duration,
    wire_bytes: u64,
    body_bytes: u64,
}

async fn read<F>(mut answer: Response, encoding: Encoding, began: Instant, ids: &mut F) -> Result<Read, Failure>
where
    F: FnMut(u64) + Send,
{
    let sink = Sink { scanner: Scanner::new(), bytes: 0, ids };
    let mut body = Decoder::new(encoding, sink)?;
    let mut wire_bytes = 0;
    let mut first_byte = None;
    while let Some(piece) = answer.chunk().await.map_err(|error| failure(&error))? {
        if !piece.is_empty() {
            first_byte.get_or_insert_with(|| began.elapsed());
        }
        wire_bytes += piece.len() as u64;
        body.write(&piece).map_err(|error| Failure::BadEncoding(error.to_string()))?;
    }
    let first_byte = first_byte.unwrap_or_else(|| began.elapsed());
    let sink = body.finish().map_err(|_| Failure::CutShort)?;
    Ok(Read { facts: sink.scanner.finish(), first_byte, wire_bytes, body_bytes: sink.bytes })
}

/// Where decompressed bytes go.
struct Sink<'a, F> {
    scanner: Scanner,
    bytes: u64,
    ids: &'a mut F,
}

impl<F: FnMut(u64)> Write for Sink<'_, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len() as u64;
        self.scanner.feed(bytes, self.ids);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Decoder<'a, F: FnMut(u64)> {
    Plain(Sink<'a, F>),
    Gzip(Box<flate2::write::MultiGzDecoder<Sink<'a, F>>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Sink<'a, F>>>),
}

impl<'a, F: FnMut(u64)> Decoder<'a, F> {
    fn new(encoding: Encoding, sink: Sink<'a, F>) -> Result<Self, Failure> {
        Ok(match encoding {
            Encoding::Plain => Decoder::Plain(sink),
            Encoding::Gzip => Decoder::Gzip(Box::new(flate2::write::MultiGzDecoder::new(sink))),
            Encoding::Zstd => {
                let decoder = zstd::stream::write::Decoder::new(sink);
                Decoder::Zstd(Box::new(decoder.map_err(|error| Failure::BadEncoding(error.to_string()))?))
            }
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Decoder::Plain(sink) => sink.write_all(bytes),
            Decoder::Gzip(decoder) => decoder.write_all(bytes),
            Decoder::Zstd(decoder) => decoder.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<Sink<'a, F>> {
        match self {
            Decoder::Plain(sink) => Ok(sink),
            Decoder::Gzip(decoder) => decoder.finish(),
            Decoder::Zstd(mut decoder) => {
                decoder.flush()?;
                Ok(decoder.into_inner())
            }
        }
    }
}

/// `items 0-49/500`, `items */500` or `items 0-49/*`.
pub(super) fn item_range(text: &str) -> Option<ItemRange> {
    let (_, total) = text.trim().strip_prefix("items")?.rsplit_once('/')?;
    match total.trim() {
        "*" => Some(ItemRange { total: None }),
        total => Some(ItemRange { total: Some(total.parse().ok()?) }),
    }
}

fn failure(error: &reqwest::Error) -> Failure {
    if error.is_timeout() {
        Failure::Timeout
    } else if error.is_connect() {
        Failure::Connect(innermost(error))
    } else {
        Failure::Broken
    }
}

/// The cause of all causes, which is the one that says something.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

async fn refusal(mut answer: Response) -> Failure {
    let status = answer.status().as_u16();
    if matches!(status, 429 | 503) {
        let after = answer.headers().get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?));
        return Failure::Busy(status, after);
    }
    let mut body = Vec::new();
    while let Ok(Some(piece)) = answer.chunk().await {
        body.extend_from_slice(&piece);
        if body.len() > ERROR_BODY {
            break;
        }
    }
    Failure::Status(status, said(&body))
}

/// What an error resource says (TAXII 2.1 section 3.6.1), or the start of whatever else came.
pub(super) fn said(body: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let parts: Vec<&str> = ["title", "description"].iter().filter_map(|key| value[key].as_str()).collect();
    let text = if parts.is_empty() { String::from_utf8_lossy(body).into_owned() } else { parts.join(": ") };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect::<String>().trim().to_owned()
}

/// Seconds, or the date until which to wait.
pub(super) fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = chrono::DateTime::parse_from_rfc2822(text.trim()).ok()?;
    Some((date.to_utc() - chrono::Utc::now()).to_std().unwrap_or_default())
}
