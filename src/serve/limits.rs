//! How large a request's head may be, how many requests at once, how long one may take to begin its answer.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body::Body as _;
use tokio::sync::OwnedSemaphorePermit;

use crate::serve::error::ServeError;
use crate::serve::router::App;

/// Longest path and query that are read.
const MAX_URL_BYTES: usize = 48 * 1024;
/// Largest header fields that are read, each counted as it is written in HTTP/1.
const MAX_HEADERS_BYTES: usize = 64 * 1024;
/// Where hyper itself refuses an HTTP/2 head, which it does without a body: a little above both limits together, since
/// it counts 32 bytes more for each field.
pub(super) const MAX_HEAD_BYTES: u32 = 128 * 1024;

/// Refuses heads that are too large, with an error resource. That leaves to hyper, which answers with an empty body,
/// what never becomes a request: under HTTP/1 a URL of 64 KiB (414), more than 100 fields or 400 KiB (431) and what is
/// not HTTP (400); under HTTP/2 a head above [`MAX_HEAD_BYTES`] (431) and malformed ones (the stream is reset).
pub(super) async fn limit_head(request: Request, next: Next) -> Response {
    let url = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    if url > MAX_URL_BYTES {
        return ServeError::UrlTooLong { bytes: url, max: MAX_URL_BYTES }.into_response();
    }
    // `name: value\r\n`
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if headers > MAX_HEADERS_BYTES {
        return ServeError::HeadersTooLarge { bytes: headers, max: MAX_HEADERS_BYTES }.into_response();
    }
    next.run(request).await
}

/// Answers up to this many bytes that are there as a whole hold no permit: all work on them is done, and whoever leaves
/// them unread, which takes no credentials where they are errors, must not keep others out.
const SMALL_ANSWER_BYTES: u64 = 64 * 1024;

/// A request's right to be worked on. Travels with a response whose body is still to be made until that is gone.
#[derive(Clone, Debug)]
pub(super) struct Held(#[expect(dead_code, reason = "held for its drop")] Arc<OwnedSemaphorePermit>);

/// Refuses what is too much. A client that is told at once comes back later; one that queues has already given up when
/// its turn comes.
pub(super) async fn limit(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let Ok(permit) = Arc::clone(&app.permits).try_acquire_owned() else {
        return ServeError::Busy { what: "concurrent requests" }.into_response();
    };
    match tokio::time::timeout(app.options.limits.request_timeout, next.run(request)).await {
        Ok(mut response) => {
            if response.body().size_hint().exact().is_none_or(|bytes| bytes > SMALL_ANSWER_BYTES) {
                response.extensions_mut().insert(Held(Arc::new(permit)));
            }
            response
        }
        Err(_) => ServeError::TimedOut.into_response(),
    }
}
