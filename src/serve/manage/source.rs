//! A source as the management API has it, to and from a [`Definition`].
//!
//! What the API knows of a source goes into the definition; its own ways of writing it (`stix_version`, the names of the
//! certificate files, settings that are switched off) go along in the definition's notes. What the API does not know of,
//! such as a token or a CA bundle that was set by command, stays as it is.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use url::{Host, Url};

use crate::collect::files::{Storage, check_name};
use crate::collect::{Definition, FieldError, MASK, Material, Source, Span, Spoken, Unit};
use crate::serve::manage::fields::{Found, Object, Problem};
use crate::serve::tokens::hex;
use crate::source::{Credentials, Proxy, Secret, shown};

/// Where the definition's notes hold what is ours.
const NOTES: &str = "management_api";
/// Most of a unit that may be written; the definition's own bound is a hundred years.
const MAX_COUNT: u64 = 1_000_000;
const MAX_PER_PAGE: u64 = 1_000_000;
/// What stands for the part of a URL that may hold keys.
const HIDDEN_QUERY: &str = "?********";
/// Keys of the listing that mean nothing in a body; scripts send back what they were given.
const OF_LISTING: [&str; 7] =
    ["tid", "st_enable_source_confirmed", "cert_file", "cert_key", "revision", "problem", "installation"];
/// Largest text of a secret, in bytes.
const MAX_SECRET_BYTES: usize = 4_096;

/// A secret of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Given {
    /// None, or an empty one.
    #[default]
    Nothing,
    /// The mask: what is there stays.
    Unchanged,
    /// This one.
    New(Secret),
}

/// A body that could be read.
#[derive(Clone, Debug)]
pub(super) struct Form {
    enabled: bool,
    /// As given: it may be the listed form of the one that is there.
    url: String,
    begin: Span,
    interval: Span,
    version: Spoken,
    pagination: Option<bool>,
    per_page: Option<u32>,
    basic: bool,
    username: String,
    password: Given,
    ssl: bool,
    key_pass: Given,
    is_private: bool,
    cert_file: String,
    cert_key: String,
    proxy: bool,
    proxy_host: String,
    proxy_port: Option<u16>,
    proxy_protocol: String,
    /// Ours, beyond the original: the name in `sourceBrands`.
    pub(super) name: Option<String>,
    /// Ours: the collections to fetch.
    collections: Option<Vec<String>>,
}

/// What the notes hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    pool: String,
    logpoint: String,
    enable_pagination: Option<bool>,
    per_page: Option<u32>,
    username: String,
    is_private: bool,
    cert_file: String,
    cert_key: String,
    /// SHA-256 of the certificate that was taken from `cert_file`: one that was set by command is another.
    certificate: String,
    proxy_host: String,
    proxy_port: Option<u16>,
    proxy_protocol: String,
}

/// Reads the body of a call that creates or edits a source: `{"data": {…}}`. The warnings are for its order.
pub(super) fn read(body: &Value, id: Option<&str>) -> Result<(Form, Vec<String>), Vec<Problem>> {
    let found = Found::default();
    let mut whole = Object::whole(body, &found);
    if whole.is_given("id") {
        check_id(&mut whole, id);
    }
    let mut data = whole.object("data").into_root();
    whole.finish();
    let form = fields(&mut data, id);
    data.finish();
    let warnings = found.settle()?;
    // Without a problem there is a form.
    form.map(|form| (form, warnings)).ok_or_else(|| vec![Problem::new("data", "cannot be read")])
}

/// The body of a call that wants none: `{"data": {}}`, or nothing at all.
pub(super) fn read_empty(body: &Value) -> Result<Vec<String>, Vec<Problem>> {
    let found = Found::default();
    let mut whole = Object::whole(body, &found);
    if whole.is_given("data") {
        whole.object("data").into_root().finish();
    }
    whole.finish();
    found.settle()
}

/// The body that installs a package: type, file, whether it lies in private storage.
pub(super) fn read_install(body: &Value) -> Result<(String, String, bool, Vec<String>), Vec<Problem>> {
    let found = Found::default();
    let mut whole = Object::whole(body, &found);
    let mut data = whole.object("data").into_root();
    whole.finish();
    let kind = data.filled("application_type").map(str::to_owned);
    let file = file_name(&mut data, "file_name");
    let is_private = location(&mut data);
    data.finish();
    let warnings = found.settle()?;
    match (kind, file, is_private) {
        (Some(kind), Some(file), Some(is_private)) => Ok((kind, file, is_private, warnings)),
        _ => Err(vec![Problem::new("data", "cannot be read")]),
    }
}

fn fields(data: &mut Object<'_>, id: Option<&str>) -> Option<Form> {
    data.pass_over(&OF_LISTING);
    if data.is_given("id") {
        check_id(data, id);
    }
    let enabled = data.flag("st_enable_source");
    let url = data.filled("discovery_url").map(str::to_owned);
    let begin = span(data, "begin", "begin_unit", 0);
    let interval = span(data, "fetch_interval", "fetch_interval_unit", 1);
    let version = version(data);
    let pagination = data.optional_flag("enable_pagination");
    let per_page =
        data.optional_number("fetch-per_page", 1, MAX_PER_PAGE).and_then(|number| u32::try_from(number).ok());

    let mut auth = data.object("basic_auth_mode");
    let basic = auth.flag("basic_auth_status");
    let username = match basic {
        Some(true) => auth.filled("username"),
        _ => auth.optional_text("username"),
    };
    if basic == Some(true) && username.is_some_and(|name| name.contains(':')) {
        auth.problem("username", "holds `:`, which ends the name in HTTP Basic credentials");
    }
    let username = username.unwrap_or_default().to_owned();
    let password = secret(&mut auth, "password");
    auth.finish();

    let mut tls = data.object("ssl_mode");
    let ssl = tls.flag("ssl_status");
    let key_pass = secret(&mut tls, "key_pass");
    tls.finish();

    let is_private = location(data);
    let mut files = data.object("files");
    let mut file = |key| match ssl {
        Some(true) => file_name(&mut files, key),
        _ => Some(files.optional_text(key).unwrap_or_default().to_owned()),
    };
    let (cert_file, cert_key) = (file("cert_file"), file("cert_key"));
    files.finish();

    let mut way = data.object("st_proxy");
    let proxy = way.flag("status");
    let (proxy_host, proxy_port, proxy_protocol) = proxy_of(&mut way, proxy == Some(true));
    way.finish();

    let name = data.optional_text("name").map(str::to_owned);
    let collections = data.optional_texts("collections");
    Some(Form {
        enabled: enabled?,
        url: url?,
        begin: begin?,
        interval: interval?,
        version: version?,
        pagination,
        per_page,
        basic: basic?,
        username,
        password,
        ssl: ssl?,
        key_pass,
        is_private: is_private?,
        cert_file: cert_file?,
        cert_key: cert_key?,
        proxy: proxy?,
        proxy_host,
        proxy_port,
        proxy_protocol,
        name,
        collections,
    })
}

/// An `id` in a body that edits is that of the path; scripts that copy a source may send one in a body that creates.
fn check_id(object: &mut Object<'_>, expected: Option<&str>) {
    let given = object.text("id");
    if let (Some(expected), Some(given)) = (expected, given)
        && given != expected
    {
        object.problem("id", format!("is not that of the path, `{expected}`"));
    }
}

fn span(data: &mut Object<'_>, key: &'static str, unit_key: &'static str, least: u64) -> Option<Span> {
    let count = data.number(key, least, MAX_COUNT);
    let unit: Option<Unit> = data.filled(unit_key).and_then(|text| match text.parse() {
        Ok(unit) => Some(unit),
        Err(reason) => {
            data.problem(unit_key, reason);
            None
        }
    });
    let span = Span::new(u32::try_from(count?).ok()?, unit?);
    // As the definition reads it, which has a bound.
    if let Err(reason) = span.to_string().parse::<Span>() {
        data.problem(key, reason);
        return None;
    }
    Some(span)
}

fn version(data: &mut Object<'_>) -> Option<Spoken> {
    let text = data.word("stix_version")?;
    match text.parse() {
        Ok(Spoken::Any) | Err(_) => {
            let shown: String = text.chars().take(32).flat_map(char::escape_debug).collect();
            data.problem(
                "stix_version",
                format!("must be \"1\", \"1.0\", \"1.1\", \"2\", \"2.0\" or \"2.1\", not \"{shown}\""),
            );
            None
        }
        Ok(spoken) => Some(spoken),
    }
}

fn location(data: &mut Object<'_>) -> Option<bool> {
    match data.filled("file_location")? {
        text if text.eq_ignore_ascii_case("private") => Some(true),
        text if text.eq_ignore_ascii_case("public") => Some(false),
        _ => {
            data.problem("file_location", "must be \"private\" or \"public\"");
            None
        }
    }
}

fn file_name(object: &mut Object<'_>, key: &'static str) -> Option<String> {
    let name = object.filled(key)?;
    if let Err(reason) = check_name(name) {
        object.problem(key, format!("cannot be the name of a file: it {reason}"));
        return None;
    }
    Some(name.to_owned())
}

fn secret(object: &mut Object<'_>, key: &'static str) -> Given {
    match object.secret(key) {
        None => Given::Nothing,
        Some(MASK) => Given::Unchanged,
        Some(text) if text.len() > MAX_SECRET_BYTES => {
            object.problem(key, format!("is longer than {MAX_SECRET_BYTES} bytes"));
            Given::Nothing
        }
        Some(text) => Given::New(Secret::new(text)),
    }
}

/// Host, port and protocol; each has to be there for a proxy that is switched on.
fn proxy_of(way: &mut Object<'_>, is_on: bool) -> (String, Option<u16>, String) {
    if !is_on {
        let host = way.optional_text("ip").unwrap_or_default().to_owned();
        // Whatever stands in the fields of what is switched off.
        let port = if way.is_given("port") { way.word("port").and_then(|port| port.parse().ok()) } else { None };
        return (host, port, way.optional_text("protocol").unwrap_or_default().to_lowercase());
    }
    let host = way.filled("ip").unwrap_or_default().to_owned();
    if !host.is_empty() && Host::parse(&bracketed(&host)).is_err() {
        way.problem("ip", "must be an address or the name of a host");
    }
    let port = way.number("port", 1, 65_535).and_then(|port| u16::try_from(port).ok());
    let protocol = way.filled("protocol").unwrap_or_default().to_lowercase();
    if !protocol.is_empty() && !["http", "https", "socks5", "socks5h"].contains(&protocol.as_str()) {
        way.problem(
            "protocol",
            "must be \"http\" or \"https\", or \"socks5\" or \"socks5h\", which the original lacks",
        );
    }
    (host, port, protocol)
}

/// As URLs have addresses of version 6.
fn bracketed(host: &str) -> String {
    match host.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) => host.to_owned(),
    }
}

/// A URL as it is listed: without what may hold keys.
fn listed_url(url: &Url) -> String {
    let mut text = shown(url);
    if url.query().is_some() {
        text.push_str(HIDDEN_QUERY);
    }
    text
}

/// The name of a source that was given none: the server's.
pub(super) fn name_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("source");
    host.trim_matches(['[', ']']).chars().take(100).collect()
}

impl Form {
    /// The storage its certificates are in.
    pub(super) fn storage(&self, pool: &str) -> Storage {
        if self.is_private { Storage::Private(pool.to_owned()) } else { Storage::Public }
    }

    /// Names of certificate and key, if it uses them.
    pub(super) fn files(&self) -> Option<(&str, &str)> {
        self.ssl.then_some((&self.cert_file, &self.cert_key))
    }

    /// The passphrase that the key has with this body.
    pub(super) fn passphrase(&self, current: Option<&Definition>) -> Result<Option<Secret>, Problem> {
        let known = current.and_then(|current| current.identity.as_ref()?.passphrase.clone());
        settled(&self.key_pass, known, "ssl_mode.key_pass", "the passphrase")
    }

    /// The definition with everything of the body in it but the client certificate. `current` is what is there.
    pub(super) fn definition(&self, current: Option<&Definition>) -> Result<Definition, Vec<Problem>> {
        let mut problems = Vec::new();
        let url = match current.filter(|current| listed_url(&current.url) == self.url) {
            Some(current) => current.url.clone(),
            None => Url::parse(&self.url)
                .map_err(|error| vec![Problem::new("discovery_url", format!("is no URL: {error}"))])?,
        };
        if url.query().is_some_and(|query| query.contains("********")) {
            problems.push(Problem::new("discovery_url", "holds the mask of another URL; give the whole of it"));
        }
        let mut definition = match current {
            Some(current) => Definition { url, ..current.clone() },
            None => Definition::new(self.name.clone().unwrap_or_else(|| name_of(&url)), url),
        };
        if let Some(name) = &self.name {
            definition.name.clone_from(name);
        }
        definition.enabled = self.enabled;
        definition.version = self.version;
        definition.begin = Some(self.begin);
        definition.interval = Some(self.interval);
        definition.page_size = self.per_page.filter(|_| self.pagination != Some(false));
        if let Some(collections) = &self.collections {
            definition.collections.clone_from(collections);
        }
        self.put_credentials(&mut definition, current, &mut problems);
        self.put_proxy(&mut definition, &mut problems);
        if problems.is_empty() { Ok(definition) } else { Err(problems) }
    }

    fn put_credentials(&self, definition: &mut Definition, current: Option<&Definition>, problems: &mut Vec<Problem>) {
        let is_basic = matches!(definition.credentials, Credentials::Basic { .. });
        if !self.basic {
            // Tokens and API keys are set by command, and no business of this switch.
            if is_basic {
                definition.credentials = Credentials::None;
            }
            return;
        }
        let known = match current.map(|current| &current.credentials) {
            Some(Credentials::Basic { password, .. }) => Some(password.clone()),
            _ => None,
        };
        match settled(&self.password, known, "basic_auth_mode.password", "the password") {
            Ok(Some(password)) => {
                definition.credentials = Credentials::Basic { username: self.username.clone(), password };
            }
            Ok(None) => problems.push(Problem::new("basic_auth_mode.password", "is missing")),
            Err(problem) => problems.push(problem),
        }
    }

    fn put_proxy(&self, definition: &mut Definition, problems: &mut Vec<Problem>) {
        if !self.proxy {
            definition.proxy = None;
            return;
        }
        let port = self.proxy_port.unwrap_or_default();
        let text = format!("{}://{}:{port}", self.proxy_protocol, bracketed(&self.proxy_host));
        match Url::parse(&text) {
            Ok(url) => {
                // Its user is set by command; another proxy is not sent it.
                let before = definition.proxy.take();
                let same =
                    before.filter(|before| before.url.origin() == url.origin() && before.url.host() == url.host());
                definition.proxy = Some(Proxy { url, credentials: same.and_then(|before| before.credentials) });
            }
            Err(error) => problems.push(Problem::new("st_proxy.ip", format!("is no address or name: {error}"))),
        }
    }

    /// Puts into the notes what the definition itself has no place for.
    pub(super) fn note(&self, definition: &mut Definition, pool: &str, logpoint: &str) {
        let kept = Kept {
            pool: pool.to_owned(),
            logpoint: logpoint.to_owned(),
            enable_pagination: self.pagination,
            per_page: self.per_page,
            username: self.username.clone(),
            is_private: self.is_private,
            cert_file: self.cert_file.clone(),
            cert_key: self.cert_key.clone(),
            certificate: self.ssl.then(|| digest_of(definition)).flatten().unwrap_or_default(),
            proxy_host: self.proxy_host.clone(),
            proxy_port: self.proxy_port,
            proxy_protocol: self.proxy_protocol.clone(),
        };
        keep(&kept, definition);
    }
}

fn keep(kept: &Kept, definition: &mut Definition) {
    definition.notes.insert(NOTES.to_owned(), serde_json::to_value(kept).unwrap_or_default());
}

/// SHA-256 of the certificate that a definition holds.
fn digest_of(definition: &Definition) -> Option<String> {
    match &definition.identity.as_ref()?.certificate {
        Material::Inline(text) => Some(hex(&Sha256::digest(text.reveal()))),
        Material::File(_) => None,
    }
}

/// Notes that the client certificate was taken anew from the files it was from.
pub(super) fn note_certificate(definition: &mut Definition) {
    if let Some(mut kept) = kept(definition) {
        kept.certificate = digest_of(definition).unwrap_or_default();
        keep(&kept, definition);
    }
}

/// The secret that holds after a body.
fn settled(given: &Given, known: Option<Secret>, field: &str, what: &str) -> Result<Option<Secret>, Problem> {
    // One that does not open any more is an empty text.
    match (given, known.filter(|known| !known.reveal().is_empty())) {
        (Given::Nothing, _) => Ok(None),
        (Given::New(secret), _) => Ok(Some(secret.clone())),
        (Given::Unchanged, Some(known)) => Ok(Some(known)),
        (Given::Unchanged, None) => {
            Err(Problem::new(field, format!("is the mask `{MASK}`, but none is kept here; give {what} itself")))
        }
    }
}

/// What the registry finds wrong, under the names of the API.
pub(super) fn problems(errors: Vec<FieldError>) -> Vec<Problem> {
    let named = |error: FieldError| {
        let field = match error.field {
            "url" => "discovery_url",
            "interval" => "fetch_interval",
            "page_size" => "fetch-per_page",
            "version" => "stix_version",
            "username" => "basic_auth_mode.username",
            "password" => "basic_auth_mode.password",
            "passphrase" => "ssl_mode.key_pass",
            "certificate" => "files.cert_file",
            "private_key" => "files.cert_key",
            "proxy" => "st_proxy.ip",
            other => other,
        };
        Problem::new(field, error.reason)
    };
    errors.into_iter().map(named).collect()
}

fn kept(definition: &Definition) -> Option<Kept> {
    serde_json::from_value(definition.notes.get(NOTES)?.clone()).ok()
}

/// Pool and installation that a source belongs to; `None`: it was not made over this API.
pub(super) fn owner(definition: &Definition) -> Option<(String, String)> {
    kept(definition).map(|kept| (kept.pool, kept.logpoint))
}

/// Storage and names of certificate and key that a source uses; `None` also where a command has set others.
pub(super) fn files_of(definition: &Definition) -> Option<(Storage, String, String)> {
    let digest = digest_of(definition)?;
    let kept = kept(definition).filter(|kept| !kept.cert_file.is_empty() && kept.certificate == digest)?;
    let storage = if kept.is_private { Storage::Private(kept.pool) } else { Storage::Public };
    Some((storage, kept.cert_file, kept.cert_key))
}

/// A source as it is listed.
pub(super) fn listed(source: &Source) -> Value {
    let definition = &source.definition;
    let kept = kept(definition).unwrap_or_default();
    let masked = |is_there: bool| if is_there { MASK } else { "" };
    let (basic, username) = match &definition.credentials {
        Credentials::Basic { username, .. } => (true, username.clone()),
        _ => (false, kept.username),
    };
    let ssl = files_of(definition).is_some();
    let passphrase = ssl && definition.identity.as_ref().is_some_and(|identity| identity.passphrase.is_some());
    let proxy = match &definition.proxy {
        Some(proxy) => {
            let host = proxy.url.host_str().unwrap_or_default().trim_matches(['[', ']']);
            proxy_shown(true, host, proxy.url.port_or_known_default(), proxy.url.scheme())
        }
        None => proxy_shown(false, &kept.proxy_host, kept.proxy_port, &kept.proxy_protocol),
    };
    let (begin, begin_unit) = span_shown(definition.begin);
    let (interval, interval_unit) = span_shown(definition.interval);
    let mut shown = json!({
        "id": definition.id,
        "tid": "",
        "st_enable_source": definition.enabled,
        "st_enable_source_confirmed": source.is_active(),
        "discovery_url": listed_url(&definition.url),
        "begin": begin,
        "begin_unit": begin_unit,
        "fetch_interval": interval,
        "fetch_interval_unit": interval_unit,
        "stix_version": definition.version.as_str(),
        "enable_pagination": kept.enable_pagination.unwrap_or(definition.page_size.is_some()),
        "fetch-per_page": definition.page_size.or(kept.per_page),
        "basic_auth_mode": { "basic_auth_status": basic, "username": username, "password": masked(basic) },
        "ssl_mode": { "ssl_status": ssl, "key_pass": masked(passphrase) },
        "file_location": if kept.is_private { "private" } else { "public" },
        "cert_file": kept.cert_file,
        "cert_key": kept.cert_key,
        "st_proxy": proxy,
        "name": definition.name,
        "collections": definition.collections,
        "revision": source.revision,
    });
    if let (Some(problem), Some(shown)) = (problem_of(source), shown.as_object_mut()) {
        shown.insert("problem".to_owned(), problem.into());
    }
    shown
}

/// Why a source cannot be fetched as it is, without paths of this machine.
pub(super) fn problem_of(source: &Source) -> Option<&str> {
    let problem = source.problem.as_deref()?;
    Some(match problem.starts_with("the configuration has") {
        true => problem,
        false => {
            "its secrets do not open with the key file of the server; edit it with all of them, or restore that file"
        }
    })
}

fn proxy_shown(status: bool, host: &str, port: Option<u16>, protocol: &str) -> Value {
    json!({ "status": status, "ip": host, "port": port, "protocol": protocol })
}

fn span_shown(span: Option<Span>) -> (u32, &'static str) {
    let span = span.unwrap_or(Span::new(0, Unit::Days));
    let unit = match span.unit {
        Unit::Minutes => "Minutes",
        Unit::Hours => "Hours",
        Unit::Days => "Days",
        Unit::Weeks => "Weeks",
        Unit::Months => "Months",
    };
    (span.count, unit)
}

/// A body as an order keeps it: secrets masked, at whatever depth, and a URL without what may hold keys.
pub(super) fn masked(body: &Value) -> Value {
    match body {
        Value::Object(map) => {
            let each = |(key, value): (&String, &Value)| (key.clone(), masked_field(key, value));
            Value::Object(map.iter().map(each).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(masked).collect()),
        other => other.clone(),
    }
}

fn masked_field(key: &str, value: &Value) -> Value {
    const SECRET: [&str; 7] = ["pass", "secret", "token", "key", "credential", "authorization", "cookie"];
    let lower = key.to_ascii_lowercase();
    match value {
        Value::Null | Value::Bool(_) => value.clone(),
        _ if lower == "cert_key" => value.clone(),
        Value::String(text) if text.is_empty() => value.clone(),
        Value::String(_) | Value::Number(_) if SECRET.iter().any(|word| lower.contains(word)) => MASK.into(),
        Value::String(text) => match Url::parse(text) {
            Ok(url) if url.has_host() => listed_url(&url).into(),
            _ => value.clone(),
        },
        other => masked(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::{IdentityFiles, Origin};

    fn body() -> Value {
        json!({ "data": {
            "st_enable_source": true, "discovery_url": "https://feeds.example/taxii2/", "begin": 30, "begin_unit": "Days",
            "fetch_interval": 2, "fetch_interval_unit": "Hours", "stix_version": "2", "enable_pagination": true,
            "fetch-per_page": 500,
            "basic_auth_mode": { "basic_auth_status": true, "username": "ann", "password": "pass-1" },
            "ssl_mode": { "ssl_status": true, "key_pass": "pass-2" }, "file_location": "private",
            "files": { "cert_file": "certificate.crt", "cert_key": "privateKey.key" },
            "st_proxy": { "status": true, "ip": "192.0.2.1", "port": "3128", "protocol": "https " },
        } })
    }

    fn with(path: &[&str], value: Value) -> Value {
        let mut body = body();
        let mut at = &mut body["data"];
        for key in path {
            at = &mut at[*key];
        }
        *at = value;
        body
    }

    fn without(path: &[&str], key: &str) -> Value {
        let mut body = body();
        let mut at = &mut body["data"];
        for key in path {
            at = &mut at[*key];
        }
        at.as_object_mut().unwrap().remove(key).unwrap();
        body
    }

    fn source(definition: Definition) -> Source {
        Source {
            definition,
            origin: Origin::Managed,
            revision: 3,
            paused: false,
            created: None,
            changed: None,
            problem: None,
        }
    }

    fn made(body: &Value, current: Option<&Definition>) -> Result<Definition, Vec<Problem>> {
        let (form, _) = read(body, None)?;
        let mut definition = form.definition(current)?;
        form.note(&mut definition, "p", "l");
        Ok(definition)
    }

    #[test]
    fn a_body_becomes_a_source_and_is_listed_as_it_came() {
        let definition = made(&body(), None).unwrap();
        assert_eq!(definition.name, "feeds.example");
        assert_eq!(definition.version, Spoken::Any2);
        assert_eq!((definition.begin, definition.page_size), (Some(Span::new(30, Unit::Days)), Some(500)));
        assert_eq!(definition.proxy.as_ref().unwrap().url.as_str(), "https://192.0.2.1:3128/");
        assert_eq!(definition.problems(), []);
        let shown = listed(&source(definition));
        let sent = &body()["data"];
        for key in sent
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| !["files", "basic_auth_mode", "ssl_mode", "st_proxy"].contains(&key.as_str()))
        {
            assert_eq!(shown[key], sent[key], "{key}");
        }
        assert_eq!(shown["basic_auth_mode"], json!({ "basic_auth_status": true, "username": "ann", "password": MASK }));
        assert_eq!(shown["st_proxy"], json!({ "status": true, "ip": "192.0.2.1", "port": 3128, "protocol": "https" }));
        assert_eq!((&shown["cert_file"], &shown["cert_key"]), (&json!("certificate.crt"), &json!("privateKey.key")));
        assert_eq!((&shown["tid"], &shown["st_enable_source_confirmed"]), (&json!(""), &json!(true)));
        assert!(!shown.to_string().contains("pass-"));
        assert!(!masked(&body()).to_string().contains("pass-"));
        assert_eq!(masked(&body())["data"]["files"], sent["files"]);
    }

    #[test]
    fn the_mask_means_unchanged() {
        let first = made(&with(&["discovery_url"], json!("https://feeds.example/t/?key=pass-3")), None).unwrap();
        let shown = listed(&source(first.clone()));
        assert_eq!(shown["discovery_url"], "https://feeds.example/t/?********");
        // The listing as it is, with the files where a body has them.
        let mut again = shown.clone();
        again["files"] = json!({ "cert_file": shown["cert_file"], "cert_key": shown["cert_key"] });
        again["begin"] = json!(7);
        let (form, warnings) = read(&json!({ "data": again, "id": first.id }), Some(&first.id)).unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        let second = form.definition(Some(&first)).unwrap();
        assert_eq!((&second.url, &second.credentials), (&first.url, &first.credentials));
        assert_eq!((second.begin, &second.id), (Some(Span::new(7, Unit::Days)), &first.id));
        // Where nothing is kept, the mask is nothing.
        let masked = with(&["basic_auth_mode", "password"], json!(MASK));
        assert_eq!(made(&masked, None).unwrap_err()[0].field, "basic_auth_mode.password");
        let key = with(&["ssl_mode", "key_pass"], json!(MASK));
        assert!(read(&key, None).unwrap().0.passphrase(None).is_err());
        let url = with(&["discovery_url"], json!("https://other.example/?********"));
        assert_eq!(made(&url, Some(&first)).unwrap_err()[0].field, "discovery_url");
        // Another proxy does not get the user of the first.
        let mut first = first;
        first.proxy.as_mut().unwrap().credentials = Some(("bob".to_owned(), Secret::new("pass-4")));
        assert!(made(&body(), Some(&first)).unwrap().proxy.unwrap().credentials.is_some());
        let other = made(&with(&["st_proxy", "ip"], json!("192.0.2.2")), Some(&first)).unwrap();
        assert!(other.proxy.unwrap().credentials.is_none());
    }

    #[test]
    fn what_is_off_is_forgotten_and_what_the_api_does_not_know_stays() {
        let first = made(&body(), None).unwrap();
        let off = with(&["basic_auth_mode", "basic_auth_status"], json!(false));
        let second = made(&off, Some(&first)).unwrap();
        assert_eq!(second.credentials, Credentials::None);
        assert_eq!(listed(&source(second.clone()))["basic_auth_mode"]["username"], "ann");
        assert_eq!(listed(&source(second.clone()))["basic_auth_mode"]["password"], "");
        let token =
            Definition { credentials: Credentials::Bearer(Secret::new("t")), tags: vec!["x".to_owned()], ..second };
        let third = made(&off, Some(&token)).unwrap();
        assert_eq!((third.credentials, third.tags), (token.credentials, token.tags));
    }

    #[test]
    fn a_certificate_set_by_command_is_not_that_of_the_files() {
        let given = |text: &str| Material::Inline(Secret::new(text));
        let identity = |text: &str| {
            Some(IdentityFiles { certificate: given(text), key: given("key"), passphrase: Some(Secret::new("pass-2")) })
        };
        let (form, _) = read(&body(), None).unwrap();
        let mut definition = form.definition(None).unwrap();
        definition.identity = identity("certificate");
        form.note(&mut definition, "p", "l");
        let private = Storage::Private("p".to_owned());
        let expected = Some((private, "certificate.crt".to_owned(), "privateKey.key".to_owned()));
        assert_eq!(files_of(&definition), expected);
        assert_eq!(listed(&source(definition.clone()))["ssl_mode"], json!({ "ssl_status": true, "key_pass": MASK }));
        definition.identity = identity("another");
        assert_eq!(files_of(&definition), None);
        assert_eq!(listed(&source(definition.clone()))["ssl_mode"], json!({ "ssl_status": false, "key_pass": "" }));
        note_certificate(&mut definition);
        assert_eq!(files_of(&definition), expected);
    }

    #[test]
    fn versions_and_units_are_taken_as_people_write_them() {
        for (given, spoken) in [
            (json!("1"), "1"),
            (json!("2"), "2"),
            (json!("1.0"), "1.0"),
            (json!("1.1"), "1.1"),
            (json!("2.0"), "2.0"),
            (json!("2.1"), "2.1"),
            (json!(2), "2"),
            (json!(2.1), "2.1"),
            (json!(" 2 "), "2"),
        ] {
            assert_eq!(
                made(&with(&["stix_version"], given.clone()), None).unwrap().version.as_str(),
                spoken,
                "{given}"
            );
        }
        for unit in ["Months", "months", "Days", "days", "Hours", "hours", "Minutes", "Hour"] {
            for key in ["begin_unit", "fetch_interval_unit"] {
                made(&with(&[key], json!(unit)), None).unwrap_or_else(|problems| panic!("{unit}: {problems:?}"));
            }
        }
        let six = with(&["st_proxy", "ip"], json!("2001:db8::1"));
        assert_eq!(made(&six, None).unwrap().proxy.unwrap().url.host_str(), Some("[2001:db8::1]"));
        for protocol in ["http", "https ", "HTTP", "socks5h"] {
            made(&with(&["st_proxy", "protocol"], json!(protocol)), None).unwrap();
        }
    }

    #[test]
    fn wrong_bodies_name_the_field() {
        let required = [
            "st_enable_source",
            "discovery_url",
            "begin",
            "begin_unit",
            "fetch_interval",
            "fetch_interval_unit",
            "stix_version",
            "basic_auth_mode",
            "ssl_mode",
            "file_location",
            "files",
            "st_proxy",
        ];
        let mut cases: Vec<(Value, String)> =
            required.iter().map(|key| (without(&[], key), (*key).to_owned())).collect();
        for (above, key) in [
            ("basic_auth_mode", "basic_auth_status"),
            ("basic_auth_mode", "username"),
            ("basic_auth_mode", "password"),
            ("ssl_mode", "ssl_status"),
            ("files", "cert_file"),
            ("files", "cert_key"),
            ("st_proxy", "status"),
            ("st_proxy", "ip"),
            ("st_proxy", "port"),
            ("st_proxy", "protocol"),
        ] {
            cases.push((without(&[above], key), format!("{above}.{key}")));
            cases.push((with(&[above, key], json!([])), format!("{above}.{key}")));
        }
        for (path, value) in [
            (vec!["st_enable_source"], json!("true")),
            (vec!["begin"], json!("soon")),
            (vec!["begin"], json!(-1)),
            (vec!["begin"], json!(1_000_001)),
            (vec!["begin_unit"], json!("Years")),
            (vec!["fetch_interval"], json!(0)),
            (vec!["fetch_interval"], json!(1.5)),
            (vec!["fetch_interval_unit"], json!(1)),
            (vec!["stix_version"], json!("3")),
            (vec!["stix_version"], json!("any")),
            (vec!["stix_version"], json!("")),
            (vec!["enable_pagination"], json!("no")),
            (vec!["fetch-per_page"], json!(0)),
            (vec!["fetch-per_page"], json!("many")),
            (vec!["basic_auth_mode"], json!(true)),
            (vec!["discovery_url"], json!("feeds")),
            (vec!["discovery_url"], json!(5)),
            (vec!["file_location"], json!("home")),
            (vec!["basic_auth_mode", "username"], json!("a:b")),
            (vec!["files", "cert_file"], json!("../key")),
            (vec!["st_proxy", "port"], json!(70_000)),
            (vec!["st_proxy", "protocol"], json!("ftp")),
            (vec!["st_proxy", "ip"], json!("a b")),
            (vec!["collections"], json!("all")),
            (vec!["name"], json!(1)),
            (vec!["ssl_mode", "key_pass"], json!(5)),
        ] {
            cases.push((with(&path, value), path.join(".")));
        }
        for (body, field) in cases {
            let problems = made(&body, None).expect_err(&field);
            assert_eq!(
                problems.iter().map(|problem| &*problem.field).collect::<Vec<_>>(),
                [field.as_str()],
                "{problems:?}"
            );
            assert!(problems.iter().all(|problem| !problem.reason.contains("pass-")));
        }
        for (body, field) in [(json!([]), "body"), (json!({}), "data"), (json!({ "data": 1 }), "data")] {
            assert!(read(&body, None).unwrap_err().iter().any(|problem| problem.field == field), "{field}");
        }
        let misspelt = with(&["fetch_per_page"], json!(5));
        assert!(made(&misspelt, None).unwrap_err()[0].reason.contains("`fetch-per_page`"));
        let mut other = body();
        other["data"]["id"] = json!("1");
        assert_eq!(read(&other, Some("2")).unwrap_err()[0].field, "id");
        let (_, warnings) = read(&with(&["colour"], json!("red")), None).unwrap();
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn other_bodies_are_read() {
        let install = json!({ "data": { "application_type": "Application", "file_name": "stixtaxii_6.2.0.pak", "file_location": "private" } });
        let (kind, file, is_private, _) = read_install(&install).unwrap();
        assert_eq!((&*kind, &*file, is_private), ("Application", "stixtaxii_6.2.0.pak", true));
        let problems = read_install(&json!({ "data": { "file_name": "../x" } })).unwrap_err();
        assert_eq!(
            problems.iter().map(|it| &*it.field).collect::<Vec<_>>(),
            ["application_type", "file_name", "file_location"]
        );
        assert!(read_empty(&json!({ "data": {} })).unwrap().is_empty());
        assert_eq!(read_empty(&json!({ "data": { "x": 1 } })).unwrap().len(), 1);
        assert!(read_empty(&json!({ "data": [] })).is_err());
    }
}
