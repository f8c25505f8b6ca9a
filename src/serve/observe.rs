//! The access log, the request id, and the writing of error bodies.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT_RANGES, CONTENT_RANGE, STRICT_TRANSPORT_SECURITY, VARY};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use axum::middleware::Next;
use axum::response::Response;
use http_body::Body as _;
use uuid::Uuid;

use crate::serve::auth::Identity;
use crate::serve::connection::InFlight;
use crate::serve::error::{Failure, ServeError, chain, write_out};
use crate::serve::limits::Held;
use crate::serve::router::App;
use crate::serve::sending::{Load, Sending};
use crate::serve::style::Style;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const VARY_ON: HeaderValue = HeaderValue::from_static("Accept, Accept-Encoding, Authorization");

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

/// Outermost layer: gives the request its id, and logs it when its answer is sent or given up.
pub(super) async fn observe(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let id = RequestId(Uuid::new_v4().to_string().into());
    let mut record = Record::new(&request, Arc::clone(&id.0));
    let paced_by_socket = request.version() < Version::HTTP_2;
    let in_flight = request.extensions_mut().remove::<Arc<InFlight>>();
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).await;

    record.status = response.status();
    if let Some(identity) = response.extensions_mut().remove::<Identity>() {
        record.user = identity;
    }
    let held = response.extensions_mut().remove::<Held>();
    if let Ok(value) = HeaderValue::try_from(&*id.0) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    response.headers_mut().insert(VARY, VARY_ON);
    if let Some(Numbered { content_range, accepted }) = response.extensions_mut().remove::<Numbered>() {
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
        Body::new(if paced_by_socket { Sending::unwatched(load) } else { Sending::watched(load, patience) })
    })
}

/// Settles how the request is answered, turns [`Failure`]s into bodies, and logs those that the operator should look at.
pub(super) async fn write_errors(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let (mut style, negotiated) = Style::of(&app, &request);
    request.extensions_mut().insert(style);
    if let Some(refusal) = negotiated.refusal {
        request.extensions_mut().insert(refusal);
    }
    let id = request.extensions().get::<RequestId>().map_or_else(|| "".into(), |id| Arc::clone(&id.0));
    let mut response = next.run(request).await;
    if let Some(Failure(error)) = response.extensions_mut().remove::<Failure>() {
        report(&error, response.status(), &id);
        if let ServeError::Unauthorized { .. } = *error {
            // Which collections there are is for those who may come in.
            style.profile = app.options.profile;
        }
        write_out(&mut response, &error, style, &app.options.api_root, &id);
    }
    response
}

fn report(error: &ServeError, status: StatusCode, request_id: &str) {
    let cause = error.inside();
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(request_id, error = cause, "request failed");
    } else if status.is_server_error() {
        tracing::warn!(request_id, error = cause, "request refused");
    } else {
        tracing::debug!(request_id, error = cause, "request refused");
    }
}

/// One line of the access log.
#[derive(Debug)]
pub(super) struct Record {
    started: Instant,
    id: Arc<str>,
    method: Method,
    uri: Uri,
    status: StatusCode,
    user: Identity,
    /// Bytes of the body handed to the connection.
    pub(super) bytes: u64,
    /// Whether that was all of it.
    pub(super) complete: bool,
}

impl Record {
    pub(super) fn new(request: &Request, id: Arc<str>) -> Self {
        Self {
            started: Instant::now(),
            id,
            method: request.method().clone(),
            uri: request.uri().clone(),
            status: StatusCode::OK,
            user: Identity::Anonymous,
            bytes: 0,
            complete: false,
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Logs why the body ended before its end.
    pub(super) fn cut_short(&self, error: &axum::Error) {
        tracing::error!(request_id = &*self.id, error = chain(error), "answer cut short");
    }

    pub(super) fn log(&self) {
        tracing::info!(
            target: "taxiway::access",
            method = %self.method,
            path = self.uri.path(),
            query = self.uri.query(),
            status = self.status.as_u16(),
            user = ?self.user.name(),
            bytes = self.bytes,
            ms = self.started.elapsed().as_micros() as f64 / 1e3,
            complete = self.complete,
            request_id = &*self.id,
        );
    }
}
