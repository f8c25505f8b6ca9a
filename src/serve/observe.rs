//! The access log, the request id, and the writing of error bodies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{ACCEPT_RANGES, AUTHORIZATION, CONNECTION, CONTENT_RANGE, STRICT_TRANSPORT_SECURITY, VARY};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use axum::middleware::Next;
use axum::response::Response;
use chrono::{SecondsFormat, Utc};
use http_body::Body as _;
use uuid::Uuid;

use crate::serve::audit::{Deed, Line};
use crate::serve::auth::Identity;
use crate::serve::client::Client;
use crate::serve::connection::InFlight;
use crate::serve::error::{Failure, ServeError, chain, write_out};
use crate::serve::limits::Held;
use crate::serve::metrics::Answered;
use crate::serve::objects::{DATE_ADDED_FIRST, DATE_ADDED_LAST};
use crate::serve::options::Cors;
use crate::serve::router::{App, Lasting};
use crate::serve::sending::{Load, Sending};
use crate::serve::style::{Known, Style};

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const VARY_ON: HeaderValue = HeaderValue::from_static("Accept, Accept-Encoding, Authorization");

/// Of pages by number, all of which a cache would else take for one.
const VARY_BY_NUMBER: HeaderValue =
    HeaderValue::from_static("Accept, Accept-Encoding, Authorization, Range, Content-Range");
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000; includeSubDomains");

/// Headers of a page by number. They stand aside until the body is compressed: whoever compresses leaves parts alone,
/// taking them for bytes cut out of a file, and these are whole documents.
#[derive(Clone, Debug)]
pub(super) struct Numbered {
    pub(super) content_range: Option<HeaderValue>,
    /// Whether to say that pages by number can be had.
    pub(super) accepted: bool,
}

/// Names a request in its answer, its error body and the log.
#[derive(Clone, Debug)]
struct RequestId(Arc<str>);

/// In an answer: the request changed, or was to change, what is managed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Managed;

/// The id of a request that [`observe`] has seen.
pub(super) fn request_id(request: &Request) -> Arc<str> {
    request.extensions().get::<RequestId>().map_or_else(|| "".into(), |id| Arc::clone(&id.0))
}

/// Logs what failed within this server.
pub(super) fn report_internal(cause: &str, request_id: &str) {
    tracing::error!(request_id, error = cause, "request failed");
}

/// Outermost layer: gives the request its id, and logs it when its answer is sent or given up.
pub(super) async fn observe(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let id = RequestId(Uuid::new_v4().to_string().into());
    let client = Client::settle(&mut request, &app.options);
    let mut record = Record::new(&app.lasting, &request, Arc::clone(&id.0), client);
    let http2 = request.version() >= Version::HTTP_2;
    let in_flight = request.extensions_mut().remove::<Arc<InFlight>>();
    let brings_body = !request.body().is_end_stream();
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).await;

    record.answered_by(&mut response);
    if brings_body && !response.status().is_success() {
        // Some of it may be on its way still.
        if let Some(in_flight) = &in_flight {
            in_flight.linger();
        }
        if !http2 {
            // It is not read to its end to find the next request behind it: the client has to know.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
    let held = response.extensions_mut().remove::<Held>();
    if let Ok(value) = HeaderValue::try_from(&*id.0) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    let numbered = response.extensions_mut().remove::<Numbered>();
    let vary = if numbered.is_some() { VARY_BY_NUMBER } else { VARY_ON };
    response.headers_mut().insert(VARY, vary);
    if let Cors::Origins(_) = app.options.cors {
        response.headers_mut().append(VARY, HeaderValue::from_static("Origin"));
    }
    if let Some(Numbered { content_range, accepted }) = numbered {
        if let Some(content_range) = content_range {
            response.headers_mut().insert(CONTENT_RANGE, content_range);
        }
        if accepted {
            response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("items"));
        }
    }
    if app.options.hsts && app.options.tls.is_some() {
        response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, HSTS);
    }
    response.map(|body| {
        record.complete = body.is_end_stream() || record.method == Method::HEAD;
        let load = Load::new(body, record, held, in_flight);
        let patience = app.options.limits.write_timeout;
        Body::new(if http2 { Sending::watched(load, patience) } else { Sending::unwatched(load) })
    })
}

/// Why a request was refused, as its error's code says.
#[derive(Clone, Copy, Debug)]
struct Refused(&'static str);

/// Settles how the request is answered, turns [`Failure`]s into bodies, and logs those that the operator should look
/// at.
pub(super) async fn write_errors(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let (style, negotiated) = Style::of(&app, &request);
    request.extensions_mut().insert(style);
    if let Some(refusal) = negotiated.refusal {
        request.extensions_mut().insert(refusal);
    }
    let id = request_id(&request);
    let known = Known::default();
    request.extensions_mut().insert(known.clone());
    let mut response = next.run(request).await;
    // In the manner of the collection only for those who may know that it is there.
    let style = known.get().unwrap_or(style);
    if let Some(Failure(error)) = response.extensions_mut().remove::<Failure>() {
        report(&error, response.status(), &id);
        response.extensions_mut().insert(Refused(error.outside().code));
        write_out(&mut response, &error, style, style.root(&app.options), &id);
    }
    response
}

fn report(error: &ServeError, status: StatusCode, request_id: &str) {
    let cause = error.inside();
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        report_internal(&cause, request_id);
    } else if status.is_server_error() {
        tracing::warn!(request_id, error = cause, "request refused");
    } else {
        tracing::debug!(request_id, error = cause, "request refused");
    }
}

/// Statuses that refuse a request for what it is or for what else is going on, not for what it asks for.
const REFUSALS: [StatusCode; 10] = [
    StatusCode::UNAUTHORIZED,
    StatusCode::FORBIDDEN,
    StatusCode::NOT_ACCEPTABLE,
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::URI_TOO_LONG,
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    StatusCode::SERVICE_UNAVAILABLE,
];

/// What is kept of a request until its answer is gone: a line of the access log, one of the audit log if it did something
/// to data or was turned away, and its share in the counters.
#[derive(Debug)]
pub(super) struct Record {
    lasting: Arc<Lasting>,
    started: Instant,
    first_byte: Duration,
    id: Arc<str>,
    pub(super) method: Method,
    uri: Uri,
    client: Client,
    /// Whether it came with credentials.
    credentials: bool,
    route: Option<MatchedPath>,
    /// `None`: it was taken back before there was an answer.
    status: Option<StatusCode>,
    user: Option<Identity>,
    deed: Option<Deed>,
    managed: bool,
    first: Option<HeaderValue>,
    last: Option<HeaderValue>,
    /// Bytes of the body handed to the connection.
    pub(super) bytes: u64,
    /// Whether that was all of it.
    pub(super) complete: bool,
}

impl Record {
    pub(super) fn new(lasting: &Arc<Lasting>, request: &Request, id: Arc<str>, client: Client) -> Self {
        lasting.metrics.begun();
        Self {
            lasting: Arc::clone(lasting),
            started: Instant::now(),
            first_byte: Duration::ZERO,
            id,
            method: request.method().clone(),
            uri: request.uri().clone(),
            client,
            credentials: request.headers().contains_key(AUTHORIZATION),
            route: request.extensions().get::<MatchedPath>().cloned(),
            status: None,
            user: None,
            deed: None,
            managed: false,
            first: None,
            last: None,
            bytes: 0,
            complete: false,
        }
    }

    /// Takes what the layers further in have left in the response.
    fn answered_by(&mut self, response: &mut Response) {
        self.first_byte = self.started.elapsed();
        let status = response.status();
        self.status = Some(status);
        self.user = response.extensions_mut().remove::<Identity>();
        self.deed = response.extensions_mut().remove::<Deed>();
        self.managed = response.extensions_mut().remove::<Managed>().is_some();
        self.first = response.headers().get(DATE_ADDED_FIRST).cloned();
        self.last = response.headers().get(DATE_ADDED_LAST).cloned();
        let refused = response.extensions_mut().remove::<Refused>();
        if let Some(Refused(reason)) = refused.filter(|_| REFUSALS.contains(&status)) {
            self.lasting.metrics.count("taxiway_requests_refused_total", &[("reason", reason)], 1);
        }
        let result = match (&self.user, status) {
            (Some(user), _) => user.proof(),
            (None, StatusCode::UNAUTHORIZED) if self.credentials => "failed",
            (None, StatusCode::UNAUTHORIZED) => "none_given",
            (None, _) => return,
        };
        self.lasting.metrics.count("taxiway_auth_total", &[("result", result)], 1);
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Logs why the body ended before its end.
    pub(super) fn cut_short(&self, error: &axum::Error) {
        tracing::error!(request_id = &*self.id, error = chain(error), "answer cut short");
    }

    /// What has no answer gets the number that nginx made known for it.
    fn status_number(&self) -> u16 {
        self.status.map_or(499, |status| status.as_u16())
    }

    fn log(&self) {
        tracing::info!(
            target: "taxiway::access",
            method = %self.method,
            path = self.uri.path(),
            query = self.uri.query(),
            status = self.status_number(),
            user = ?self.user.as_ref().map_or("-", Identity::name),
            client = %self.client.address,
            bytes = self.bytes,
            ms = self.started.elapsed().as_micros() as f64 / 1e3,
            complete = self.complete,
            request_id = &*self.id,
        );
    }

    /// What the audit log calls it, if it belongs there.
    fn audited_as(&self) -> Option<&'static str> {
        match self.status {
            Some(StatusCode::UNAUTHORIZED) if self.credentials => Some("login_failed"),
            Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) => Some("refused"),
            _ if self.managed => Some("manage"),
            _ => self.deed.as_ref().map(|deed| deed.action.as_str()),
        }
    }

    fn audit(&self) {
        let Some(action) = self.audited_as() else { return };
        let Some(audit) = self.lasting.audit() else { return };
        let deed = self.deed.as_ref();
        let text =
            |value: &Option<HeaderValue>| value.as_ref().and_then(|value| value.to_str().ok().map(str::to_owned));
        let (first, last) = (text(&self.first), text(&self.last));
        let named = self.user.as_ref().filter(|user| matches!(user, Identity::User(_)));
        audit.write(&Line {
            time: Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true),
            request_id: &self.id,
            action,
            user: named.map(Identity::name),
            proof: named.map(Identity::proof),
            certificate: self.client.certificate.as_ref().map(|certificate| certificate.subject.as_str()),
            address: self.client.address.to_string(),
            method: self.method.as_str(),
            path: self.uri.path(),
            query: self.uri.query(),
            api_root: deed.map(|deed| deed.api_root.as_str()),
            collection: deed.and_then(|deed| deed.collection.as_deref()),
            object: deed.and_then(|deed| deed.object.as_deref()),
            objects: deed.map(|deed| deed.objects),
            status: self.status_number(),
            bytes: self.bytes,
            complete: self.complete,
            first: first.as_deref(),
            last: last.as_deref(),
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.lasting.metrics.answered(&Answered {
            method: &self.method,
            route: self.route.as_ref().map(MatchedPath::as_str),
            status: self.status,
            first_byte: self.first_byte,
            total: self.started.elapsed(),
            bytes: self.bytes,
            complete: self.complete,
            deed: self.deed.as_ref(),
        });
        self.audit();
        self.log();
    }
}
