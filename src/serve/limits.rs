//! How many requests at once, and how long one may take to begin its answer.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body::Body as _;
use tokio::sync::OwnedSemaphorePermit;

use crate::serve::error::ServeError;
use crate::serve::router::App;

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
