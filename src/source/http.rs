//! One request and its whole answer: credentials, redirects, retries, limits.
//!
//! What is tried again: no connection, silence, bodies that break off, 408, 425, 429, 5xx but 501. Each wait is twice the
//! one before, with jitter, or as long as `Retry-After` says, up to the longest wait of the options. Everything else
//! fails at once. Credentials and the client certificate go to the host of the endpoint and to the hosts it trusts, and
//! nowhere else, whatever redirects and documents say.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use base64::Engine;
use bytes::Bytes;
use futures::StreamExt;
use reqwest::header::{ACCEPT, AUTHORIZATION, DATE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

use crate::model::time::{MICROS_PER_SECOND, Timestamp};
use crate::source::body::{Body, Spool};
use crate::source::error::{SourceError, quoted};
use crate::source::options::{Credentials, Endpoint, Options, shown};
use crate::source::tls;

/// So many redirects are followed.
const MAX_REDIRECTS: usize = 5;

/// So much of an error's body is read.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// One thing to ask.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
}

impl Ask {
    pub(super) fn get(url: Url, accept: &'static str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        Ask { method: Method::GET, url, headers, body: None }
    }

    pub(super) fn post(url: Url, headers: HeaderMap, body: Vec<u8>) -> Self {
        Ask { method: Method::POST, url, headers, body: Some(body.into()) }
    }
}

/// A whole answer of status 2xx.
#[derive(Debug)]
pub(super) struct Answer {
    /// Where it came from in the end.
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The media type, lower case, with its parameters and without blanks.
    pub(super) fn media_type(&self) -> String {
        let text = self.header("content-type").unwrap_or_default();
        text.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect()
    }
}

/// The way to one endpoint.
#[derive(Debug)]
pub(super) struct Http {
    /// With the client certificate.
    known: reqwest::Client,
    /// Without it, for all other hosts.
    strangers: reqwest::Client,
    endpoint: Endpoint,
    options: Options,
    /// Texts that never appear in messages.
    secrets: Vec<String>,
    /// The time before which no request goes out.
    gate: Mutex<Instant>,
    token: Mutex<Option<Arc<str>>>,
    /// The server's clock minus ours, in microseconds; the least number: not known.
    skew: AtomicI64,
}

impl Http {
    pub(super) fn new(mut endpoint: Endpoint, options: Options) -> Result<Self, SourceError> {
        take_user_info(&mut endpoint)?;
        let url = &endpoint.url;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(SourceError::setting("url", "is no http or https URL; write it as https://host/path/"));
        }
        let known = client(&endpoint, &options, true)?;
        let strangers = if endpoint.identity.is_some() { client(&endpoint, &options, false)? } else { known.clone() };
        let secrets = secrets(&endpoint);
        // Checked here, so that no request fails for it.
        credential_header(&endpoint.credentials, None)?;
        Ok(Http {
            known,
            strangers,
            endpoint,
            options,
            secrets,
            gate: Mutex::new(Instant::now()),
            token: Mutex::new(None),
            skew: AtomicI64::new(i64::MIN),
        })
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Now, by the server's clock as its last answer told it.
    pub(super) fn server_now(&self) -> Option<Timestamp> {
        let skew = self.skew.load(Ordering::Relaxed);
        (skew != i64::MIN).then(|| Timestamp(Timestamp::now().0.saturating_add(skew)))
    }

    /// Resolves an address that the server names: as it stands on our host and those trusted, else with its path at our
    /// host, so that neither credentials nor requests wander off. The second value tells of such a change.
    pub(super) fn place(&self, base: &Url, reference: &str) -> Result<(Url, Option<String>), SourceError> {
        let named = base.join(reference.trim()).map_err(|error| SourceError::NotTaxii {
            url: shown(base),
            version: None,
            reason: format!("it names the address `{}`, which is none: {error}", quoted(reference)),
        })?;
        if self.trusts(&named) {
            return Ok((named, None));
        }
        let mut ours = self.endpoint.url.clone();
        ours.set_path(named.path());
        ours.set_query(named.query());
        ours.set_fragment(None);
        let note = format!(
            "the server names `{}`, which is not the host of the source: `{}` is asked instead (add the host to the trusted hosts to have it asked)",
            shown(&named),
            shown(&ours)
        );
        Ok((ours, Some(note)))
    }

    /// Whether that place may learn who we are.
    pub(super) fn trusts(&self, url: &Url) -> bool {
        let ours = &self.endpoint.url;
        if url.origin() == ours.origin() {
            return true;
        }
        if ours.scheme() == "https" && url.scheme() != "https" || !matches!(url.scheme(), "http" | "https") {
            return false;
        }
        let Some(host) = url.host_str() else { return false };
        let with_port = url.port_or_known_default().map(|port| format!("{host}:{port}"));
        self.endpoint.trusted_hosts.iter().any(|trusted| {
            trusted.eq_ignore_ascii_case(host)
                || with_port.as_deref().is_some_and(|host| trusted.eq_ignore_ascii_case(host))
        })
    }

    /// Sends until there is an answer of status 2xx that `check` finds good, or a reason why there will be none; `again`
    /// says which errors are worth another attempt.
    pub(super) async fn send_checked(
        &self,
        ask: &Ask,
        mut again: impl FnMut(&SourceError) -> bool,
        check: impl Fn(&mut Answer) -> Result<(), SourceError> + Copy + Send + 'static,
    ) -> Result<Answer, SourceError> {
        let longest = self.options.longest_wait;
        let waits = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(self.options.first_wait)
            .with_max_delay(longest.min(Duration::from_secs(60)).max(self.options.first_wait))
            .with_max_times(self.options.attempts.saturating_sub(1));
        (|| self.send_once(ask, check))
            .retry(waits)
            .sleep(tokio::time::sleep)
            // A server that wants longer than we wait is left alone until the next fetch.
            .when(|error| again(error) && error.wait().is_none_or(|wait| wait <= longest))
            .adjust(|error, wait| {
                wait.map(|wait| error.wait().map_or(wait, |asked| asked.max(Duration::from_millis(1))))
            })
            .notify(|error, wait| tracing::info!(%error, wait_ms = wait.as_millis() as u64, "asking again"))
            .await
    }

    async fn send_once(
        &self,
        ask: &Ask,
        check: impl Fn(&mut Answer) -> Result<(), SourceError> + Send + 'static,
    ) -> Result<Answer, SourceError> {
        let limit = self.options.answer_timeout;
        // On the heap: a request and all it may lead to is a large future.
        let answer = tokio::time::timeout(limit, Box::pin(self.follow(ask))).await;
        let Ok(answer) = answer else {
            return Err(SourceError::Timeout {
                url: shown(&ask.url),
                reason: format!(
                    "no whole answer in {} s; ask for smaller pages or raise the time limit",
                    limit.as_secs()
                ),
            });
        };
        let mut answer = answer?;
        let checked = blocking(move || Ok(check(&mut answer).map(|()| answer))).await;
        checked.unwrap_or_else(|error| Err(self.no_room(&error)))
    }

    fn no_room(&self, error: &std::io::Error) -> SourceError {
        SourceError::Spool { folder: self.options.spool_folder.display().to_string(), reason: error.to_string() }
    }

    /// Sends, follows redirects, and gets a new token where the old one is refused.
    async fn follow(&self, ask: &Ask) -> Result<Answer, SourceError> {
        let mut url = ask.url.clone();
        let mut may_renew = matches!(self.endpoint.credentials, Credentials::Login { .. });
        let mut redirects = 0;
        loop {
            self.wait_for_turn().await;
            let response = self.request(ask, &url).await?;
            self.note_clock(response.headers());
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && may_renew && self.trusts(&url) {
                may_renew = false;
                *self.token.lock().await = None;
                continue;
            }
            if let Some(target) = redirect(&response) {
                redirects += 1;
                url = self.redirected(ask, &url, status, &target, redirects)?;
                continue;
            }
            if !status.is_success() {
                return Err(self.refusal(&url, response).await);
            }
            return self.receive(url, response).await;
        }
    }

    fn redirected(
        &self,
        ask: &Ask,
        from: &Url,
        status: StatusCode,
        target: &str,
        count: usize,
    ) -> Result<Url, SourceError> {
        let refused = |target: String, reason: &str| SourceError::Redirect {
            url: shown(from),
            target,
            reason: reason.to_owned(),
        };
        let Ok(mut next) = from.join(target) else {
            return Err(refused(quoted(target), "it is no address"));
        };
        let name = shown(&next);
        if count > MAX_REDIRECTS {
            return Err(refused(name, "there were too many redirects before"));
        }
        if !matches!(next.scheme(), "http" | "https") {
            return Err(refused(name, "only http and https are"));
        }
        if from.scheme() == "https" && next.scheme() == "http" {
            return Err(refused(name, "it would leave TLS"));
        }
        if ask.method == Method::POST && status == StatusCode::SEE_OTHER {
            return Err(refused(name, "a message cannot be sent on so; put the final URL into the source"));
        }
        if next.query().is_none() {
            // Servers that only add a slash or a scheme tend to lose the rest.
            next.set_query(from.query());
        }
        Ok(next)
    }

    async fn request(&self, ask: &Ask, url: &Url) -> Result<reqwest::Response, SourceError> {
        let is_known = self.trusts(url);
        let client = if is_known { &self.known } else { &self.strangers };
        let mut request = client.request(ask.method.clone(), url.clone()).headers(ask.headers.clone());
        if is_known {
            let token = self.token().await?;
            if let Some((name, value)) = credential_header(&self.endpoint.credentials, token.as_deref())? {
                request = request.header(name, value);
            }
        }
        if let Some(body) = &ask.body {
            request = request.body(body.clone());
        }
        let sent = tokio::time::timeout(self.options.read_timeout, request.send()).await;
        match sent {
            Ok(sent) => sent.map_err(|error| self.failure(url, error)),
            Err(_) => Err(self.silence(url)),
        }
    }

    fn silence(&self, url: &Url) -> SourceError {
        let seconds = self.options.read_timeout.as_secs();
        SourceError::Timeout { url: shown(url), reason: format!("no byte in {seconds} s") }
    }

    /// The token of a login, asked for where there is none.
    async fn token(&self) -> Result<Option<Arc<str>>, SourceError> {
        let Credentials::Login { url, username, password } = &self.endpoint.credentials else { return Ok(None) };
        let mut held = self.token.lock().await;
        if let Some(token) = &*held {
            return Ok(Some(Arc::clone(token)));
        }
        let body = serde_json::json!({ "username": username, "password": password.reveal() }).to_string();
        let request = self.known.post(url.clone()).header("content-type", "application/json").body(body);
        let response = request.send().await.map_err(|error| self.failure(url, error))?;
        if !response.status().is_success() {
            return Err(self.refusal(url, response).await);
        }
        let mut answer = self.receive(url.clone(), response).await?;
        #[derive(Deserialize)]
        struct Given {
            token: String,
        }
        let given =
            answer.body.start(MAX_ERROR_BYTES).ok().and_then(|text| serde_json::from_slice::<Given>(&text).ok());
        let given = given.filter(|given| HeaderValue::from_str(&given.token).is_ok());
        let Some(Given { token }) = given else {
            return Err(SourceError::Unauthorized {
                url: shown(url),
                detail: "it gave out no token; the answer to a login is {\"token\": \"...\"}".to_owned(),
            });
        };
        Ok(held.insert(token.into()).clone().into())
    }

    /// Forgets the token of a login; whether there was one, so that asking again may help.
    pub(super) async fn forget_token(&self) -> bool {
        self.token.lock().await.take().is_some()
    }

    async fn wait_for_turn(&self) {
        let Some(rate) = self.options.requests_per_minute.filter(|rate| *rate > 0) else { return };
        let turn = {
            let mut gate = self.gate.lock().await;
            let turn = (*gate).max(Instant::now());
            *gate = turn + Duration::from_secs(60) / rate;
            turn
        };
        tokio::time::sleep_until(turn).await;
    }

    fn note_clock(&self, headers: &HeaderMap) {
        let date = headers.get(DATE).and_then(|value| value.to_str().ok()).and_then(http_date);
        if let Some(theirs) = date {
            self.skew.store(theirs.0.saturating_sub(Timestamp::now().floor_second().0), Ordering::Relaxed);
        }
    }

    /// Takes in the whole body.
    async fn receive(&self, url: Url, response: reqwest::Response) -> Result<Answer, SourceError> {
        let headers = response.headers().clone();
        let limit = self.options.max_page_bytes;
        let too_large = || SourceError::TooLarge { url: shown(&url), limit };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let no_room = |error: std::io::Error| self.no_room(&error);
        let mut spool = Spool::new(&self.options.spool_folder);
        let mut pieces = response.bytes_stream();
        loop {
            let piece = tokio::time::timeout(self.options.read_timeout, pieces.next());
            let Some(piece) = piece.await.map_err(|_| self.silence(&url))? else { break };
            let piece = piece.map_err(|error| self.failure(&url, error))?;
            if spool.len() + piece.len() as u64 > limit {
                return Err(too_large());
            }
            if spool.spills_with(piece.len()) {
                spool = blocking(move || spool.push(&piece).map(|()| spool)).await.map_err(no_room)?;
            } else {
                spool.push(&piece).map_err(no_room)?;
            }
        }
        Ok(Answer { body: spool.finish().map_err(no_room)?, url, headers })
    }

    /// What a status other than 2xx means.
    async fn refusal(&self, url: &Url, response: reqwest::Response) -> SourceError {
        let status = response.status();
        let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let wait = wait.and_then(|text| retry_after(text, self.server_now().unwrap_or_else(Timestamp::now)));
        let stranger = !self.trusts(url);
        let mut body = Vec::new();
        let mut pieces = response.bytes_stream();
        while let Ok(Some(Ok(piece))) = tokio::time::timeout(self.options.read_timeout, pieces.next()).await {
            let room = MAX_ERROR_BYTES - body.len();
            body.extend_from_slice(piece.get(..room.min(piece.len())).unwrap_or_default());
            if body.len() >= MAX_ERROR_BYTES {
                break;
            }
        }
        let said = self.clean(&reason_in(&body));
        let url = shown(url);
        let detail = if said.is_empty() { status.as_u16().to_string() } else { format!("{}: {said}", status.as_u16()) };
        match status.as_u16() {
            401 | 407 if stranger => SourceError::Unauthorized {
                detail: format!(
                    "{detail}; it is not the host of the source, so no credentials were sent: name it as the URL, or among the trusted hosts"
                ),
                url,
            },
            407 => SourceError::setting("proxy", "does not accept its user and password; check them"),
            401 => SourceError::Unauthorized { url, detail },
            403 => SourceError::Forbidden { url, detail },
            404 | 410 => SourceError::NotFound { url, detail },
            429 => SourceError::Busy { url, detail, wait },
            503 if wait.is_some() => SourceError::Busy { url, detail, wait },
            status => SourceError::Status { url, status, detail: said },
        }
    }

    /// What a server said, fit to be shown.
    pub(super) fn clean(&self, text: &str) -> String {
        let mut text = quoted(text);
        for secret in &self.secrets {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), "********");
            }
        }
        text
    }

    /// What became of a request that got no answer.
    fn failure(&self, url: &Url, error: reqwest::Error) -> SourceError {
        let at = shown(url);
        let error = error.without_url();
        let mut trust = None;
        let mut io = None;
        let mut words = Vec::new();
        let mut cause: Option<&(dyn std::error::Error + 'static)> = error.source();
        while let Some(inner) = cause {
            words.push(inner.to_string());
            let found = inner.downcast_ref::<rustls::Error>();
            // An IO error's own error is not among its sources.
            let inner_io = inner.downcast_ref::<std::io::Error>();
            let wrapped = inner_io.and_then(tls_error);
            trust = trust.or(found).or(wrapped);
            io = io.or(inner_io.map(std::io::Error::kind));
            cause = inner.source();
        }
        words.dedup();
        let chain = self.clean(&words.join(": "));
        if let Some(tls) = trust {
            return trust_failure(at, tls);
        }
        if chain.contains("Proxy Authentication Required") || chain.contains("proxy authorization required") {
            return SourceError::setting("proxy", "does not accept its user and password; check them");
        }
        let is_over_proxy = self.endpoint.proxy.is_some();
        if error.is_timeout() {
            let seconds = self.options.connect_timeout.as_secs();
            return SourceError::Timeout { url: at, reason: format!("no connection in {seconds} s") };
        }
        if error.is_connect() {
            let reason = match io {
                Some(std::io::ErrorKind::ConnectionRefused) => "connection refused; check host and port".to_owned(),
                _ if chain.contains("dns error") || chain.contains("lookup") => {
                    format!("the host name is not known here ({chain}); check it, and the proxy")
                }
                _ if chain.contains("socks") => {
                    format!("the SOCKS proxy does not let us through ({chain}); check its address, user and password")
                }
                _ => chain,
            };
            let reason = if is_over_proxy { format!("{reason} (over the proxy)") } else { reason };
            return SourceError::Connect { url: at, reason };
        }
        if error.is_body() || error.is_decode() {
            return SourceError::Truncated { url: at, reason: chain };
        }
        // In TLS 1.3 a server says so only after the handshake, and what it says is often lost with the connection.
        let may_want_certificate = self.endpoint.identity.is_none() && at.starts_with("https:");
        let hint =
            if may_want_certificate { "; a server that wants a client certificate closes like this" } else { "" };
        SourceError::Connect { url: at, reason: format!("{chain}{hint}") }
    }
}

/// The TLS error in an IO error, which may be wrapped in others.
fn tls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    let inner = error.get_ref()?;
    let deeper = || inner.downcast_ref::<std::io::Error>().and_then(tls_error);
    inner.downcast_ref::<rustls::Error>().or_else(deeper)
}

/// Runs what touches the disk or takes long away from the threads that talk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error.to_string())))
}

fn take_user_info(endpoint: &mut Endpoint) -> Result<(), SourceError> {
    let decoded = |text: &str| {
        let pair = format!("x={}", text.replace('+', "%2B"));
        url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
    };
    let url = &mut endpoint.url;
    let (username, password) = (decoded(url.username()), url.password().map(decoded));
    if username.is_empty() && password.is_none() {
        return Ok(());
    }
    if url.set_username("").and_then(|()| url.set_password(None)).is_err() {
        return Err(SourceError::setting("url", "holds a user but no host; write it as https://host/path/"));
    }
    if endpoint.credentials == Credentials::None {
        let password = crate::source::options::Secret::new(password.unwrap_or_default());
        endpoint.credentials = Credentials::Basic { username, password };
    }
    Ok(())
}

fn secrets(endpoint: &Endpoint) -> Vec<String> {
    let mut all = Vec::new();
    match &endpoint.credentials {
        Credentials::None => {}
        Credentials::Basic { username, password } => {
            all.push(password.reveal().to_owned());
            all.push(basic(username, password.reveal()));
        }
        Credentials::Login { password, .. } => all.push(password.reveal().to_owned()),
        Credentials::Bearer(key) | Credentials::ApiKey { key, .. } => all.push(key.reveal().to_owned()),
    }
    all.extend(
        endpoint
            .identity
            .iter()
            .filter_map(|identity| identity.passphrase.as_ref())
            .map(|text| text.reveal().to_owned()),
    );
    if let Some(proxy) = &endpoint.proxy {
        all.extend(proxy.credentials.iter().map(|(_, password)| password.reveal().to_owned()));
        all.extend(proxy.url.password().map(str::to_owned));
    }
    all.retain(|text| text.len() >= 3);
    all
}

fn basic(username: &str, password: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"))
}

fn credential_header(
    credentials: &Credentials,
    token: Option<&str>,
) -> Result<Option<(HeaderName, HeaderValue)>, SourceError> {
    let (name, text, setting) = match credentials {
        Credentials::None => return Ok(None),
        Credentials::Basic { username, password } => {
            (AUTHORIZATION, format!("Basic {}", basic(username, password.reveal())), "password")
        }
        Credentials::Bearer(token) => (AUTHORIZATION, format!("Bearer {}", token.reveal()), "token"),
        Credentials::Login { .. } => match token {
            Some(token) => (AUTHORIZATION, format!("Bearer {token}"), "token"),
            None => return Ok(None),
        },
        Credentials::ApiKey { header, key } => {
            let name = HeaderName::from_bytes(header.as_bytes()).map_err(|_| {
                SourceError::setting("API key header", "is no name of a header; write it as `X-API-Key`")
            })?;
            (name, key.reveal().to_owned(), "API key")
        }
    };
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| SourceError::setting(setting, "holds characters that no header can; check it for line ends"))?;
    value.set_sensitive(true);
    Ok(Some((name, value)))
}

fn client(endpoint: &Endpoint, options: &Options, with_identity: bool) -> Result<reqwest::Client, SourceError> {
    let mut builder = reqwest::Client::builder()
        .use_preconfigured_tls(tls::client_config(endpoint, with_identity)?)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .user_agent(&options.user_agent)
        .connect_timeout(options.connect_timeout)
        .pool_max_idle_per_host(2)
        .retry(reqwest::retry::never())
        .no_proxy();
    if let Some(proxy) = &endpoint.proxy {
        let unusable = "is no proxy URL; write it as http://host:port, https://..., socks5://... or socks5h://...";
        if !matches!(proxy.url.scheme(), "http" | "https" | "socks5" | "socks5h") || !proxy.url.has_host() {
            return Err(SourceError::setting("proxy", unusable));
        }
        let mut url = proxy.url.clone();
        if let Some((username, password)) = &proxy.credentials {
            // The URL's own form serves HTTP and SOCKS alike.
            if url.set_username(username).and_then(|()| url.set_password(Some(password.reveal()))).is_err() {
                return Err(SourceError::setting("proxy", unusable));
            }
        }
        builder = builder.proxy(reqwest::Proxy::all(url).map_err(|_| SourceError::setting("proxy", unusable))?);
    }
    builder
        .build()
        .map_err(|error| SourceError::setting("user agent", format!("cannot be used: {}", error.without_url())))
}

fn redirect(response: &reqwest::Response) -> Option<String> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    response.headers().get(LOCATION)?.to_str().ok().map(str::to_owned)
}

fn trust_failure(url: String, error: &rustls::Error) -> SourceError {
    use rustls::{AlertDescription as Alert, CertificateError as Bad, Error};
    let reason = match error {
        Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            "its certificate was issued by an authority that is not trusted here; add that authority to the CA bundle of the source".to_owned()
        }
        Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "its certificate has expired; its operator has to renew it (or the clock of this machine is wrong)".to_owned()
        }
        Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            "its certificate is not valid yet; check the clock of this machine".to_owned()
        }
        Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "its certificate is for another name; use the name that the certificate holds".to_owned()
        }
        Error::InvalidCertificate(Bad::Revoked) => "its certificate was revoked".to_owned(),
        Error::AlertReceived(Alert::CertificateRequired | Alert::HandshakeFailure) => {
            "it wants a client certificate, or no common cipher was found; give certificate and key of the source".to_owned()
        }
        Error::AlertReceived(
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::DecryptError
            | Alert::AccessDenied,
        ) => format!("it does not take our client certificate ({error}); check which one it expects"),
        Error::InvalidMessage(_) => "what answers there is not TLS; check scheme and port".to_owned(),
        _ => error.to_string(),
    };
    SourceError::Trust { url, reason }
}

/// What an error's body says: the fields of a TAXII error, else its words.
fn reason_in(body: &[u8]) -> String {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct TaxiiError {
        title: Option<String>,
        description: Option<String>,
        error: Option<String>,
        message: Option<String>,
    }
    if let Ok(TaxiiError { title, description, error, message }) = serde_json::from_slice(body) {
        let words: Vec<String> = [title, description, error, message].into_iter().flatten().collect();
        return words.join(": ");
    }
    let text = String::from_utf8_lossy(body);
    if text.trim_start().starts_with('<') { without_tags(&text) } else { text.into_owned() }
}

/// The words of a page of HTML, roughly.
fn without_tags(html: &str) -> String {
    let mut words = String::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        let (before, tag) = rest.split_at(start);
        words.push_str(before);
        words.push(' ');
        let name = tag.get(..6).unwrap_or_default().to_ascii_lowercase();
        let closing = if name.starts_with("<style") {
            "</style>"
        } else if name == "<scrip" {
            "</script>"
        } else {
            ">"
        };
        rest = tag.find(closing).and_then(|end| tag.get(end + closing.len()..)).unwrap_or_default();
    }
    words.push_str(rest);
    words
}

/// `Retry-After` as seconds or as a date.
pub(super) fn retry_after(text: &str, server_now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let micros = http_date(text)?.0.saturating_sub(server_now.0).max(0);
    Some(Duration::from_micros(micros.unsigned_abs()))
}

/// The date of HTTP headers: `Wed, 01 May 2024 08:30:00 GMT`, or RFC 3339, which some servers write.
pub(super) fn http_date(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(date) = chrono::DateTime::parse_from_rfc2822(text) {
        return Some(Timestamp(date.timestamp().saturating_mul(MICROS_PER_SECOND)));
    }
    Timestamp::parse(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_read_as_seconds_and_dates() {
        let now = Timestamp::parse("2024-05-01T08:30:00Z").unwrap();
        let cases = [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Wed, 01 May 2024 08:31:30 GMT", Some(90)),
            ("2024-05-01T08:30:10Z", Some(10)),
            ("Wed, 01 May 2024 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("-5", None),
            ("NaN", None),
            ("1e300", None),
        ];
        for (text, expected) in cases {
            assert_eq!(retry_after(text, now), expected.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn what_servers_say_becomes_a_line() {
        let cases: [(&str, &str); 5] = [
            (r#"{"title":"No","description":"not\nyours","http_status":"403"}"#, "No: not yours"),
            (r#"{"error":"x"}"#, "x"),
            (
                "<html><head><style>a{b}</style></head><body><h1>Bad</h1><script>1<2</script>gateway</body>",
                "Bad gateway",
            ),
            ("plain \u{7} text", "plain text"),
            ("", ""),
        ];
        for (body, expected) in cases {
            assert_eq!(quoted(&reason_in(body.as_bytes())), expected, "{body}");
        }
    }

    #[test]
    fn addresses_on_other_hosts_are_asked_for_at_ours() {
        let mut endpoint = Endpoint::new(Url::parse("https://feeds.example/taxii2/").unwrap());
        endpoint.authorities =
            Some(rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap().cert.pem().into());
        endpoint.trusted_hosts = vec!["Other.example".to_owned(), "odd.example:8443".to_owned()];
        let http = Http::new(endpoint, Options::default()).unwrap();
        let cases = [
            ("/root/", "https://feeds.example/root/", false),
            ("root/", "https://feeds.example/taxii2/root/", false),
            ("https://feeds.example/root/", "https://feeds.example/root/", false),
            ("http://feeds.example/root/", "https://feeds.example/root/", true),
            ("http://localhost:5000/root/?a=b", "https://feeds.example/root/?a=b", true),
            ("//evil.example/root/", "https://feeds.example/root/", true),
            ("https://other.example/root/", "https://other.example/root/", false),
            ("http://other.example/root/", "https://feeds.example/root/", true),
            ("https://odd.example:8443/r/", "https://odd.example:8443/r/", false),
            ("https://odd.example/r/", "https://feeds.example/r/", true),
        ];
        for (reference, expected, noted) in cases {
            let (url, note) = http.place(&http.endpoint.url, reference).unwrap();
            assert_eq!((url.as_str(), note.is_some()), (expected, noted), "{reference}");
        }
    }
}
