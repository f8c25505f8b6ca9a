//! Which web pages a browser may let read the answers: the CORS protocol of the Fetch standard.
//!
//! Browsers ask beforehand, without credentials, whether they may send some: that question is answered before anybody is
//! asked who they are, and tells nothing of what there is. Cookies are never used, so none are allowed.

use std::time::Duration;

use axum::http::header::{
    ACCEPT, ACCEPT_RANGES, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH, RANGE,
    RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{HeaderValue, Method};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::serve::observe::X_REQUEST_ID;
use crate::serve::options::Cors;
use crate::serve::rate::{RATE_LIMIT, RATE_LIMIT_POLICY};

/// How long a browser may remember the answer.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// The layer that answers preflight requests and marks answers; `None`: browsers get nothing.
pub(super) fn cors(options: &Cors) -> Option<CorsLayer> {
    let origins = match options {
        Cors::Off => return None,
        Cors::Any => AllowOrigin::any(),
        Cors::Origins(origins) => {
            AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::try_from(origin.as_str()).ok()))
        }
    };
    let exposed = [
        HeaderName::from_static("x-taxii-date-added-first"),
        HeaderName::from_static("x-taxii-date-added-last"),
        X_REQUEST_ID,
        ACCEPT_RANGES,
        CONTENT_RANGE,
        ETAG,
        RATE_LIMIT,
        RATE_LIMIT_POLICY,
        RETRY_AFTER,
        WWW_AUTHENTICATE,
    ];
    Some(
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::DELETE])
            .allow_headers([ACCEPT, AUTHORIZATION, CONTENT_TYPE, IF_NONE_MATCH, RANGE])
            .expose_headers(exposed)
            .max_age(MAX_AGE),
    )
}
