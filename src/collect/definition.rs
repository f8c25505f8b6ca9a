//! What a source is: where it is, who we are there, what of it is wanted, how often. Plain values; no secret is ever printed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Months};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

use crate::model::ids::{Uuid16, uuid_v5};
use crate::model::time::Timestamp;
use crate::source::{Credentials, Endpoint, Identity, Options, Proxy, Secret, Version, shown};

/// What stands in place of a secret where a definition is shown.
pub const MASK: &str = "********";
/// Namespace of the ids of sources that have only a name.
const NAMESPACE: Uuid16 = *b"taxiway sources.";
/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 128;
/// Longest of the other texts, in bytes.
const MAX_TEXT_BYTES: usize = 4_096;
/// Most collections, tags or hosts that are named.
const MAX_NAMED: usize = 1_000;
/// Longest time back to begin, and between two fetches: in days.
const MAX_DAYS: u64 = 100 * 366;
/// Most objects that may be asked for at a time.
const MAX_PAGE_SIZE: u32 = 1_000_000;

/// A server of somebody else and how it is fetched.
#[derive(Clone, PartialEq, Eq)]
pub struct Definition {
    /// 24 hexadecimal digits. What was fetched is remembered under it.
    pub id: String,
    /// Its name, which is in `sourceBrands` of everything that was fetched from it.
    pub name: String,
    /// Whether it is fetched on its schedule.
    pub enabled: bool,
    /// Discovery, an API root, a collection, or a poll service.
    pub url: Url,
    /// What is spoken there.
    pub version: Spoken,
    /// Who we are.
    pub credentials: Credentials,
    /// Client certificate.
    pub identity: Option<IdentityFiles>,
    /// PEM of the authorities trusted in place of the system's.
    pub authorities: Option<Material>,
    /// The way out.
    pub proxy: Option<Proxy>,
    /// Further hosts that get the credentials.
    pub trusted_hosts: Vec<String>,
    /// Subscription to poll with (1.x).
    pub subscription: Option<String>,
    /// Ids, aliases or titles of the collections to fetch; none: all that may be read.
    pub collections: Vec<String>,
    /// How far back the first fetch reaches; none: everything.
    pub begin: Option<Span>,
    /// Time between two fetches; none: only when somebody asks for it.
    pub interval: Option<Span>,
    /// Objects asked for at a time (2.x); none: the usual number.
    pub page_size: Option<u32>,
    /// `User-Agent`; none: taxiway's own.
    pub user_agent: Option<String>,
    /// How much, how fast, how patiently.
    pub limits: Limits,
    /// Tags that everything fetched gets besides its own.
    pub tags: Vec<String>,
    /// Verdict (0-3) of indicators that come without one.
    pub score: Option<u8>,
    /// What whoever manages the source keeps with it; nothing secret.
    pub notes: serde_json::Map<String, serde_json::Value>,
}

impl fmt::Debug for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Definition")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("url", &shown(&self.url))
            .field("version", &self.version)
            .field("collections", &self.collections)
            .finish_non_exhaustive()
    }
}

/// What is spoken at a server, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spoken {
    /// Find out.
    #[default]
    Any,
    /// 1.1 or 1.0.
    Any1,
    /// 2.1 or 2.0.
    Any2,
    /// That version.
    Only(Version),
}

impl Spoken {
    /// What to try, one after the other; none: whatever is found.
    pub fn candidates(self) -> &'static [Option<Version>] {
        match self {
            Spoken::Any => &[None],
            Spoken::Any1 => &[Some(Version::V11), Some(Version::V10)],
            Spoken::Any2 => &[Some(Version::V21), Some(Version::V20)],
            Spoken::Only(Version::V10) => &[Some(Version::V10)],
            Spoken::Only(Version::V11) => &[Some(Version::V11)],
            Spoken::Only(Version::V20) => &[Some(Version::V20)],
            Spoken::Only(Version::V21) => &[Some(Version::V21)],
        }
    }

    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Spoken::Any => "any",
            Spoken::Any1 => "1",
            Spoken::Any2 => "2",
            Spoken::Only(version) => version.as_str(),
        }
    }
}

impl FromStr for Spoken {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "" | "any" => Ok(Spoken::Any),
            "1" => Ok(Spoken::Any1),
            "2" => Ok(Spoken::Any2),
            text => text.parse().map(Spoken::Only).map_err(|_| {
                let shown: String = text.chars().take(32).collect();
                format!("must be 1.0, 1.1, 2.0, 2.1, 1 (either of 1.x), 2 (either of 2.x) or any, not `{shown}`")
            }),
        }
    }
}

/// A certificate or key: in a file, read anew for each fetch, or kept with the definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Material {
    /// A PEM file.
    File(PathBuf),
    /// PEM text.
    Inline(Secret),
}

impl Material {
    fn read(&self, field: &'static str) -> Result<Vec<u8>, FieldError> {
        match self {
            Material::Inline(text) => Ok(text.reveal().as_bytes().to_vec()),
            Material::File(path) => std::fs::read(path)
                .map_err(|error| FieldError::new(field, format!("cannot be read from `{}`: {error}", path.display()))),
        }
    }
}

/// A client certificate and what opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate and those between it and its authority.
    pub certificate: Material,
    /// Its private key.
    pub key: Material,
    /// Passphrase of an encrypted key.
    pub passphrase: Option<Secret>,
}

/// How much, how fast and how patiently is fetched; what is `None` is as usual.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Objects of one fetch; the next one goes on behind them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objects_per_fetch: Option<u64>,
    /// Largest answer, decompressed, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_bytes: Option<u64>,
    /// Largest object, in bytes; larger ones are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_bytes: Option<u64>,
    /// Seconds to come by a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<u64>,
    /// Seconds of silence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_timeout: Option<u64>,
    /// Seconds for one answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_timeout: Option<u64>,
    /// How often a request is sent in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Longest wait before a request is sent again, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longest_wait: Option<u64>,
    /// Time range of one poll (1.x).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poll_window: Option<Span>,
}

/// Units of a time span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// 60 s.
    Minutes,
    /// 60 minutes.
    Hours,
    /// 24 hours.
    Days,
    /// 7 days.
    Weeks,
    /// Of the calendar.
    Months,
}

impl Unit {
    const ALL: [(Unit, &'static str, &'static [&'static str]); 5] = [
        (Unit::Minutes, "minute", &["m", "min", "minute", "minutes"]),
        (Unit::Hours, "hour", &["h", "hour", "hours"]),
        (Unit::Days, "day", &["d", "day", "days"]),
        (Unit::Weeks, "week", &["w", "week", "weeks"]),
        (Unit::Months, "month", &["mo", "month", "months"]),
    ];

    fn seconds(self) -> u64 {
        match self {
            Unit::Minutes => 60,
            Unit::Hours => 3_600,
            Unit::Days => 86_400,
            Unit::Weeks => 7 * 86_400,
            Unit::Months => 30 * 86_400,
        }
    }
}

impl FromStr for Unit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let word = text.trim().to_ascii_lowercase();
        let found = Unit::ALL.iter().find(|(_, _, words)| words.contains(&word.as_str()));
        found.map(|(unit, _, _)| *unit).ok_or_else(|| {
            let shown: String = text.chars().take(32).collect();
            format!("must be Minutes, Hours, Days, Weeks or Months, not `{shown}`")
        })
    }
}

/// So many of a unit of time: `15m` or `15 minutes`, `12h`, `30d`, `2w`, `6mo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// How many.
    pub count: u32,
    /// Of what.
    pub unit: Unit,
}

impl Span {
    /// So many of that unit.
    pub const fn new(count: u32, unit: Unit) -> Self {
        Span { count, unit }
    }

    /// How long it is; a month counts 30 days.
    pub fn duration(self) -> Duration {
        Duration::from_secs(u64::from(self.count) * self.unit.seconds())
    }

    /// So long before `now`; months are those of the calendar.
    pub fn before(self, now: Timestamp) -> Timestamp {
        if self.unit == Unit::Months
            && let Some(date) = DateTime::from_timestamp_micros(now.0)
            && let Some(earlier) = date.checked_sub_months(Months::new(self.count))
        {
            return Timestamp(earlier.timestamp_micros());
        }
        let micros = i64::try_from(self.duration().as_micros()).unwrap_or(i64::MAX);
        Timestamp(now.0.saturating_sub(micros).max(0))
    }

    /// So long after `then`.
    pub fn after(self, then: Timestamp) -> Timestamp {
        if self.unit == Unit::Months
            && let Some(date) = DateTime::from_timestamp_micros(then.0)
            && let Some(later) = date.checked_add_months(Months::new(self.count))
        {
            return Timestamp(later.timestamp_micros());
        }
        let micros = i64::try_from(self.duration().as_micros()).unwrap_or(i64::MAX);
        Timestamp(then.0.saturating_add(micros))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Unit::ALL.iter().find(|(unit, _, _)| *unit == self.unit).map_or("", |(_, name, _)| name);
        write!(f, "{} {name}{}", self.count, if self.count == 1 { "" } else { "s" })
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let wrong = || {
            let shown: String = text.chars().take(32).collect();
            format!("must be a time span such as `15m`, `12h`, `30d`, `2w` or `6mo`, not `{shown}`")
        };
        let span = Span { count: number.parse().map_err(|_| wrong())?, unit: unit.parse().map_err(|_| wrong())? };
        if span.duration() > Duration::from_secs(MAX_DAYS * 86_400) {
            return Err("is longer than a hundred years".to_owned());
        }
        Ok(span)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Something of a definition that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {reason}")]
pub struct FieldError {
    /// Which.
    pub field: &'static str,
    /// What is wrong with it and what to do; goes on the sentence.
    pub reason: String,
}

impl FieldError {
    /// That field, for that reason.
    pub fn new(field: &'static str, reason: impl Into<String>) -> Self {
        FieldError { field, reason: reason.into() }
    }
}

impl Definition {
    /// A source with a new id and without any extras: everything there, fetched every hour.
    pub fn new(name: impl Into<String>, url: Url) -> Self {
        Definition {
            id: new_id(),
            name: name.into(),
            enabled: true,
            url,
            version: Spoken::Any,
            credentials: Credentials::None,
            identity: None,
            authorities: None,
            proxy: None,
            trusted_hosts: Vec::new(),
            subscription: None,
            collections: Vec::new(),
            begin: None,
            interval: Some(Span::new(1, Unit::Hours)),
            page_size: None,
            user_agent: None,
            limits: Limits::default(),
            tags: Vec::new(),
            score: None,
            notes: serde_json::Map::new(),
        }
    }

    /// Puts user and password that stand in a URL where such things belong.
    pub fn settle(&mut self) {
        self.name = self.name.trim().to_owned();
        if let Some(given) = taken_from(&mut self.url)
            && self.credentials == Credentials::None
        {
            self.credentials = Credentials::Basic { username: given.0, password: given.1 };
        }
        if let Some(proxy) = &mut self.proxy
            && let Some(given) = taken_from(&mut proxy.url)
            && proxy.credentials.is_none()
        {
            proxy.credentials = Some(given);
        }
    }

    /// All that cannot be used. Reads no files.
    pub fn problems(&self) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let mut add = |field, reason: &str| problems.push(FieldError::new(field, reason));
        if !is_id(&self.id) {
            add("id", "must be 24 hexadecimal digits in lower case");
        }
        if let Err(reason) = check_name(&self.name) {
            add("name", reason);
        }
        if !matches!(self.url.scheme(), "http" | "https") || self.url.host_str().is_none_or(str::is_empty) {
            add("url", "must begin with https:// or http:// and name a host");
        }
        match &self.credentials {
            Credentials::None => {}
            Credentials::Basic { username, .. } | Credentials::Login { username, .. } if username.is_empty() => {
                add("username", "is missing");
            }
            Credentials::Basic { username, .. } if username.contains(':') => {
                add("username", "holds `:`, which ends the name in HTTP Basic credentials");
            }
            Credentials::Basic { .. } => {}
            Credentials::Login { url, .. } if !matches!(url.scheme(), "http" | "https") => {
                add("login_url", "must begin with https:// or http://");
            }
            Credentials::Login { .. } => {}
            Credentials::Bearer(token) if !is_header_value(token.reveal()) => {
                add("token", "must be a text without blanks at its ends and without control characters");
            }
            Credentials::Bearer(_) => {}
            Credentials::ApiKey { header, key } => {
                let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
                if header.is_empty() || !header.bytes().all(is_name) {
                    add("api_key_header", "must be the name of a header, such as X-API-Key");
                }
                if !is_header_value(key.reveal()) {
                    add("api_key", "must be a text without blanks at its ends and without control characters");
                }
            }
        }
        if let Some(proxy) = &self.proxy
            && (!matches!(proxy.url.scheme(), "http" | "https" | "socks5" | "socks5h")
                || proxy.url.host_str().is_none_or(str::is_empty))
        {
            add("proxy", "must be http://, https://, socks5:// or socks5h:// with host and port");
        }
        if self.page_size.is_some_and(|size| !(1..=MAX_PAGE_SIZE).contains(&size)) {
            add("page_size", "must be a whole number from 1 to 1000000");
        }
        if self.interval.is_some_and(|interval| interval.count == 0) {
            add("interval", "must be a minute at least; leave it out for a source that is fetched only when asked for");
        }
        if self.user_agent.as_deref().is_some_and(|text| !is_header_value(text)) {
            add("user_agent", "must be a text without blanks at its ends and without control characters");
        }
        if self.score.is_some_and(|score| score > 3) {
            add("score", "must be 0 (unknown), 1 (good), 2 (suspicious) or 3 (bad)");
        }
        for (field, texts) in
            [("collections", &self.collections), ("tags", &self.tags), ("trusted_hosts", &self.trusted_hosts)]
        {
            let is_bad = |text: &String| {
                text.trim().is_empty() || text.len() > MAX_TEXT_BYTES || text.chars().any(char::is_control)
            };
            if texts.len() > MAX_NAMED {
                add(field, "names more than a thousand");
            } else if texts.iter().any(is_bad) {
                add(field, "holds an empty or overlong text, or one with control characters");
            }
        }
        self.limits.problems(&mut add);
        problems
    }

    /// What the protocol layer wants to know, with certificates read. Without a version: see [`Spoken::candidates`].
    pub fn endpoint(&self) -> Result<Endpoint, FieldError> {
        let identity = match &self.identity {
            None => None,
            Some(files) => Some(Identity {
                certificates: files.certificate.read("certificate")?,
                key: files.key.read("private_key")?,
                passphrase: files.passphrase.clone(),
            }),
        };
        Ok(Endpoint {
            url: self.url.clone(),
            version: None,
            credentials: self.credentials.clone(),
            identity,
            authorities: self.authorities.as_ref().map(|material| material.read("authorities")).transpose()?,
            proxy: self.proxy.clone(),
            trusted_hosts: self.trusted_hosts.clone(),
            subscription: self.subscription.clone(),
        })
    }

    /// How it is fetched; large answers wait in `spool_folder`.
    pub fn options(&self, spool_folder: PathBuf) -> Options {
        let usual = Options::default();
        let limits = &self.limits;
        let seconds = |given: Option<u64>, usual: Duration| given.map_or(usual, Duration::from_secs);
        Options {
            page_size: self.page_size.unwrap_or(usual.page_size),
            user_agent: self.user_agent.clone().unwrap_or(usual.user_agent),
            connect_timeout: seconds(limits.connect_timeout, usual.connect_timeout),
            read_timeout: seconds(limits.read_timeout, usual.read_timeout),
            answer_timeout: seconds(limits.answer_timeout, usual.answer_timeout),
            max_page_bytes: limits.answer_bytes.unwrap_or(usual.max_page_bytes),
            max_object_bytes: limits
                .object_bytes
                .map_or(usual.max_object_bytes, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            requests_per_minute: limits.requests_per_minute,
            attempts: limits.attempts.map_or(usual.attempts, |attempts| attempts as usize),
            first_wait: usual.first_wait,
            longest_wait: seconds(limits.longest_wait, usual.longest_wait),
            poll_window: limits.poll_window.map(Span::duration),
            spool_folder,
        }
    }

    /// For people and programs: as it is kept, secrets masked.
    pub fn shown(&self) -> serde_json::Value {
        let masked = |field: &'static str, text: &str| -> Result<String, std::convert::Infallible> {
            Ok(match (field, Url::parse(text)) {
                ("url" | "login_url", Ok(url)) => format!("{}?{MASK}", shown(&url)),
                _ => MASK.to_owned(),
            })
        };
        let Ok(written) = Written::of(self, masked);
        serde_json::to_value(written).unwrap_or_default()
    }
}

impl Limits {
    fn problems(&self, add: &mut impl FnMut(&'static str, &str)) {
        let day = 86_400;
        let numbers = [
            ("limits.requests_per_minute", self.requests_per_minute.map(u64::from), 1_000_000),
            ("limits.objects_per_fetch", self.objects_per_fetch, u64::MAX),
            ("limits.answer_bytes", self.answer_bytes, 1 << 40),
            ("limits.object_bytes", self.object_bytes, 1 << 30),
            ("limits.connect_timeout", self.connect_timeout, day),
            ("limits.read_timeout", self.read_timeout, day),
            ("limits.answer_timeout", self.answer_timeout, day),
            ("limits.attempts", self.attempts.map(u64::from), 100),
            ("limits.longest_wait", self.longest_wait, day),
        ];
        for (field, number, most) in numbers {
            if number.is_some_and(|number| !(1..=most).contains(&number)) {
                add(field, &format!("must be a whole number from 1 to {most}"));
            }
        }
        if self.poll_window.is_some_and(|window| window.count == 0) {
            add("limits.poll_window", "must be a minute at least");
        }
    }
}

/// User and password of a URL, which loses them.
fn taken_from(url: &mut Url) -> Option<(String, Secret)> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decoded = |text: &str| {
        let pair = format!("x={}", text.replace('+', "%2B"));
        let value = url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned());
        value.unwrap_or_default()
    };
    let given = (decoded(url.username()), Secret::new(decoded(url.password().unwrap_or_default())));
    // Both fail only for URLs that cannot have either.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Some(given)
}

fn is_header_value(text: &str) -> bool {
    !text.is_empty()
        && text.trim() == text
        && text.len() <= 64 << 10
        && text.bytes().all(|byte| byte >= b' ' && byte != 0x7f)
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        Err("is missing")
    } else if name.len() > MAX_NAME_BYTES {
        Err("is longer than 128 bytes")
    } else if name.trim() != name {
        Err("begins or ends with a blank")
    } else if name.contains(['"', '\\', '*', '?']) || name.chars().any(char::is_control) {
        Err("holds a quote, `\\`, `*`, `?` or control characters, which queries for `sourceBrands` cannot name")
    } else {
        Ok(())
    }
}

/// Whether a text can be the id of a source.
pub fn is_id(text: &str) -> bool {
    text.len() == 24 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// An id that no source has yet.
pub fn new_id() -> String {
    id_of(uuid::Uuid::new_v4().as_bytes())
}

/// The id of a source of the configuration that has only a name.
pub fn id_of_name(name: &str) -> String {
    id_of(&uuid_v5(&NAMESPACE, name.as_bytes()))
}

fn id_of(bytes: &Uuid16) -> String {
    bytes.iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

/// A definition as it is kept: secrets as texts that somebody sealed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    pub(super) id: String,
    pub(super) name: String,
    enabled: bool,
    url: String,
    version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    credentials: Option<WrittenCredentials>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<WrittenMaterial>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    private_key: Option<WrittenMaterial>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    passphrase: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    authorities: Option<WrittenMaterial>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proxy: Option<WrittenProxy>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    trusted_hosts: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subscription: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    collections: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    begin: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interval: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    page_size: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user_agent: Option<String>,
    #[serde(default)]
    limits: Limits,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    score: Option<u8>,
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    notes: serde_json::Map<String, serde_json::Value>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum WrittenCredentials {
    Basic { username: String, password: String },
    Bearer { token: String },
    ApiKey { header: String, key: String },
    Login { url: String, username: String, password: String },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum WrittenMaterial {
    File(PathBuf),
    Inline(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenProxy {
    url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

/// Why a definition that was kept cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError<E> {
    #[error("{0}")]
    Field(FieldError),
    #[error(transparent)]
    Secret(E),
}

impl Written {
    /// What is kept of a definition; `seal` gets the name of each secret field and its text.
    pub(super) fn of<E>(
        definition: &Definition,
        seal: impl Fn(&'static str, &str) -> Result<String, E>,
    ) -> Result<Self, E> {
        let secret = |field, text: &Secret| seal(field, text.reveal());
        // A query may hold a key.
        let whole = |field, url: &Url| match url.query() {
            None => Ok(url.to_string()),
            Some(_) => seal(field, url.as_str()),
        };
        let material = |field, material: &Material| -> Result<WrittenMaterial, E> {
            Ok(match material {
                Material::File(path) => WrittenMaterial::File(path.clone()),
                Material::Inline(text) => WrittenMaterial::Inline(secret(field, text)?),
            })
        };
        let credentials = match &definition.credentials {
            Credentials::None => None,
            Credentials::Basic { username, password } => {
                Some(WrittenCredentials::Basic { username: username.clone(), password: secret("password", password)? })
            }
            Credentials::Bearer(token) => Some(WrittenCredentials::Bearer { token: secret("token", token)? }),
            Credentials::ApiKey { header, key } => {
                Some(WrittenCredentials::ApiKey { header: header.clone(), key: secret("api_key", key)? })
            }
            Credentials::Login { url, username, password } => Some(WrittenCredentials::Login {
                url: whole("login_url", url)?,
                username: username.clone(),
                password: secret("password", password)?,
            }),
        };
        let identity = definition.identity.as_ref();
        let proxy = match &definition.proxy {
            None => None,
            Some(proxy) => {
                let password = proxy.credentials.as_ref().map(|(_, password)| secret("proxy_password", password));
                Some(WrittenProxy {
                    url: proxy.url.to_string(),
                    username: proxy.credentials.as_ref().map(|(username, _)| username.clone()),
                    password: password.transpose()?,
                })
            }
        };
        Ok(Written {
            id: definition.id.clone(),
            name: definition.name.clone(),
            enabled: definition.enabled,
            url: whole("url", &definition.url)?,
            version: definition.version.as_str().to_owned(),
            credentials,
            certificate: identity.map(|it| material("certificate", &it.certificate)).transpose()?,
            private_key: identity.map(|it| material("private_key", &it.key)).transpose()?,
            passphrase: identity
                .and_then(|it| it.passphrase.as_ref())
                .map(|passphrase| secret("passphrase", passphrase))
                .transpose()?,
            authorities: definition.authorities.as_ref().map(|it| material("authorities", it)).transpose()?,
            proxy,
            trusted_hosts: definition.trusted_hosts.clone(),
            subscription: definition.subscription.clone(),
            collections: definition.collections.clone(),
            begin: definition.begin,
            interval: definition.interval,
            page_size: definition.page_size,
            user_agent: definition.user_agent.clone(),
            limits: definition.limits.clone(),
            tags: definition.tags.clone(),
            score: definition.score,
            notes: definition.notes.clone(),
        })
    }

    /// The definition; `open` gets the name of each secret field and its text as kept.
    pub(super) fn read<E>(
        &self,
        open: impl Fn(&'static str, &str) -> Result<String, E>,
    ) -> Result<Definition, ReadError<E>> {
        let secret = |field, text: &String| open(field, text).map(Secret::new).map_err(ReadError::Secret);
        let url = |field: &'static str, text: &String| -> Result<Url, ReadError<E>> {
            let plain = match text.contains("://") {
                true => text.clone(),
                false => open(field, text).map_err(ReadError::Secret)?,
            };
            Url::parse(&plain).map_err(|error| ReadError::Field(FieldError::new(field, format!("is no URL: {error}"))))
        };
        let material = |field, material: &WrittenMaterial| -> Result<Material, ReadError<E>> {
            Ok(match material {
                WrittenMaterial::File(path) => Material::File(path.clone()),
                WrittenMaterial::Inline(text) => Material::Inline(secret(field, text)?),
            })
        };
        let credentials = match &self.credentials {
            None => Credentials::None,
            Some(WrittenCredentials::Basic { username, password }) => {
                Credentials::Basic { username: username.clone(), password: secret("password", password)? }
            }
            Some(WrittenCredentials::Bearer { token }) => Credentials::Bearer(secret("token", token)?),
            Some(WrittenCredentials::ApiKey { header, key }) => {
                Credentials::ApiKey { header: header.clone(), key: secret("api_key", key)? }
            }
            Some(WrittenCredentials::Login { url: at, username, password }) => Credentials::Login {
                url: url("login_url", at)?,
                username: username.clone(),
                password: secret("password", password)?,
            },
        };
        let identity = match (&self.certificate, &self.private_key) {
            (Some(certificate), Some(key)) => Some(IdentityFiles {
                certificate: material("certificate", certificate)?,
                key: material("private_key", key)?,
                passphrase: self.passphrase.as_ref().map(|text| secret("passphrase", text)).transpose()?,
            }),
            _ => None,
        };
        let proxy = match &self.proxy {
            None => None,
            Some(proxy) => {
                let password = proxy.password.as_ref().map(|text| secret("proxy_password", text)).transpose()?;
                Some(Proxy {
                    url: url("proxy", &proxy.url)?,
                    credentials: proxy.username.clone().map(|username| (username, password.unwrap_or_default())),
                })
            }
        };
        let version =
            self.version.parse().map_err(|reason: String| ReadError::Field(FieldError::new("version", reason)))?;
        Ok(Definition {
            id: self.id.clone(),
            name: self.name.clone(),
            enabled: self.enabled,
            url: url("url", &self.url)?,
            version,
            credentials,
            identity,
            authorities: self.authorities.as_ref().map(|it| material("authorities", it)).transpose()?,
            proxy,
            trusted_hosts: self.trusted_hosts.clone(),
            subscription: self.subscription.clone(),
            collections: self.collections.clone(),
            begin: self.begin,
            interval: self.interval,
            page_size: self.page_size,
            user_agent: self.user_agent.clone(),
            limits: self.limits.clone(),
            tags: self.tags.clone(),
            score: self.score,
            notes: self.notes.clone(),
        })
    }

    /// The same with nothing secret in it, for sources whose secrets do not open any more.
    pub(super) fn without_secrets(&self) -> Option<Definition> {
        let blank = |field: &'static str, _: &str| match field {
            "url" | "login_url" => Err(()),
            _ => Ok(String::new()),
        };
        self.read(blank).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A definition with everything that can be secret in it.
    pub(crate) fn full() -> Definition {
        let mut definition =
            Definition::new("Feed One", Url::parse("https://ann:pass-1@feeds.example/t/?k=pass-2").unwrap());
        definition.settle();
        definition.identity = Some(IdentityFiles {
            certificate: Material::File(PathBuf::from("client.pem")),
            key: Material::Inline(Secret::new("pass-3")),
            passphrase: Some(Secret::new("pass-4")),
        });
        definition.authorities = Some(Material::Inline(Secret::new("pass-5")));
        let proxy = Url::parse("socks5h://bob:pass-6@proxy.example:1080").unwrap();
        definition.proxy = Some(Proxy { url: proxy, credentials: None });
        definition.settle();
        definition.version = Spoken::Only(Version::V20);
        definition.begin = Some(Span::new(6, Unit::Months));
        definition.collections = vec!["A".to_owned()];
        definition.limits.poll_window = Some(Span::new(1, Unit::Days));
        definition.notes.insert("tid".to_owned(), "x".into());
        definition
    }

    #[test]
    fn what_is_written_reads_back_and_shows_no_secret() {
        let mut definition = full();
        assert_eq!(definition.problems(), []);
        let all = [
            definition.credentials.clone(),
            Credentials::Bearer(Secret::new("pass-7")),
            Credentials::ApiKey { header: "X-API-Key".to_owned(), key: Secret::new("pass-8") },
            Credentials::Login {
                url: Url::parse("https://feeds.example/login").unwrap(),
                username: "ann".to_owned(),
                password: Secret::new("pass-9"),
            },
            Credentials::None,
        ];
        for credentials in all {
            definition.credentials = credentials;
            let reversed = |_: &'static str, text: &str| Ok::<_, ()>(text.chars().rev().collect::<String>());
            let text = serde_json::to_string(&Written::of(&definition, reversed).unwrap()).unwrap();
            assert!(!text.contains("pass-"), "{text}");
            let written: Written = serde_json::from_str(&text).unwrap();
            assert_eq!(written.read(reversed).unwrap(), definition);
            for shown in [definition.shown().to_string(), format!("{definition:?}")] {
                assert!(!shown.contains("pass-"), "{shown}");
            }
        }
    }

    #[test]
    fn spans_are_read_in_all_spellings() {
        let cases = [
            ("15m", "15 minutes"),
            ("1 Hours", "1 hour"),
            ("30d", "30 days"),
            ("2 weeks", "2 weeks"),
            ("6mo", "6 months"),
            ("0d", "0 days"),
        ];
        for (text, expected) in cases {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string(), expected);
            assert_eq!(expected.parse(), Ok(span));
        }
        for text in ["", "d", "5", "5x", "-1d", "1.5h", "99999999999h", "999999mo"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        let at = |text: &str| Timestamp::parse(text).unwrap();
        assert_eq!(Span::new(1, Unit::Months).before(at("2024-03-31")), at("2024-02-29"));
        assert_eq!(Span::new(1, Unit::Months).after(at("2024-01-31")), at("2024-02-29"));
        assert_eq!(Span::new(36, Unit::Hours).before(at("2024-03-02T12:00:00Z")), at("2024-03-01"));
    }

    #[test]
    fn every_wrong_field_is_named() {
        let mut definition = Definition::new(" a*", Url::parse("ftp://x/").unwrap());
        definition.id = "X".to_owned();
        definition.credentials = Credentials::ApiKey { header: "a b".to_owned(), key: Secret::new("") };
        definition.proxy = Some(Proxy { url: Url::parse("gopher://x").unwrap(), credentials: None });
        definition.page_size = Some(0);
        definition.interval = Some(Span::new(0, Unit::Days));
        definition.user_agent = Some("\n".to_owned());
        definition.score = Some(4);
        definition.tags = vec![String::new()];
        definition.limits.attempts = Some(0);
        let fields: Vec<&str> = definition.problems().iter().map(|problem| problem.field).collect();
        let expected = [
            "id",
            "name",
            "url",
            "api_key_header",
            "api_key",
            "proxy",
            "page_size",
            "interval",
            "user_agent",
            "score",
            "tags",
            "limits.attempts",
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn ids_are_24_digits() {
        for id in [new_id(), id_of_name("Feed One"), id_of_name("")] {
            assert!(is_id(&id), "{id}");
        }
        assert_eq!(id_of_name("a"), id_of_name("a"));
        assert_ne!(id_of_name("a"), id_of_name("b"));
        assert_ne!(new_id(), new_id());
    }

    #[test]
    fn versions_are_read() {
        for text in ["any", "1", "2", "1.0", "1.1", "2.0", "2.1"] {
            assert_eq!(text.parse::<Spoken>().unwrap().as_str(), text);
        }
        assert!("3".parse::<Spoken>().unwrap_err().contains("`3`"));
    }
}
