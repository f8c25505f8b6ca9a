//! The access log, the request id, and the writing of error bodies.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::VARY;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use uuid::Uuid;

use crate::serve::auth::Identity;
use crate::serve::connection::InFlight;
use crate::serve::error::{Failure, ServeError, write_out};
use crate::serve::limits::Held;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const VARY_ON: HeaderValue = HeaderValue::from_static("Accept, Accept-Encoding, Authorization");

/// Names a request in its answer, its error body and the log.
#[derive(Clone, Debug)]
struct RequestId(Arc<str>);

/// Outermost layer: gives the request its id, and logs it when its answer is sent or given up.
pub(super) async fn observe(mut request: Request, next: Next) -> Response {
    let id = RequestId(Uuid::new_v4().to_string().into());
    let mut record = Record {
        started: Instant::now(),
        id: Arc::clone(&id.0),
        method: request.method().clone(),
        uri: request.uri().clone(),
        status: StatusCode::OK,
        user: Identity::Anonymous,
        bytes: 0,
        complete: false,
    };
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
    response.map(|body| {
        record.complete = body.is_end_stream() || record.method == Method::HEAD;
        Body::new(Watched { body, record, _held: held, _in_flight: in_flight })
    })
}

/// Turns [`Failure`]s into bodies, and logs those that the operator should look at.
pub(super) async fn write_errors(request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().map_or_else(|| "".into(), |id| Arc::clone(&id.0));
    let mut response = next.run(request).await;
    if let Some(Failure(error)) = response.extensions_mut().remove::<Failure>() {
        report(&error, response.status(), &id);
        write_out(&mut response, &error, &id);
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
struct Record {
    started: Instant,
    id: Arc<str>,
    method: Method,
    uri: Uri,
    status: StatusCode,
    user: Identity,
    bytes: u64,
    complete: bool,
}

impl Record {
    fn log(&self) {
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

/// A body that counts what is taken from it. Dropped when the answer is sent or the client has gone, and with it the
/// request's permits.
struct Watched {
    body: Body,
    record: Record,
    _held: Option<Held>,
    _in_flight: Option<Arc<InFlight>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.record.log();
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                this.record.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                this.record.complete |= this.body.is_end_stream();
            }
            Poll::Ready(Some(Err(error))) => {
                let mut cause = format!("{error}");
                let mut source = std::error::Error::source(error);
                while let Some(inner) = source {
                    cause = format!("{cause}: {inner}");
                    source = inner.source();
                }
                tracing::error!(request_id = &*this.record.id, error = cause, "answer cut short");
            }
            Poll::Ready(None) => this.record.complete = true,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
