//! Manifest, objects, one object, its versions (TAXII 2.1 §5.3–§5.8, TAXII 2.0 §5.3–§5.6), and the status resource (§4.3).
//!
//! All four page resources are one request to the feed; they differ in shape and in the parameters they take. TAXII 2.1
//! pages them by `limit` and `next`, 2.0 by number.

use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use futures::StreamExt;

use crate::feed::api::{self, FeedError, ItemRange, PageRequest, Profile, Shape, StixVersion};
use crate::model::time::Timestamp;
use crate::serve::collections::find;
use crate::serve::error::ServeError;
use crate::serve::observe::Numbered;
use crate::serve::parameters::{self, Rules};
use crate::serve::range;
use crate::serve::resource::with_type;
use crate::serve::router::App;
use crate::serve::style::Style;

const DATE_ADDED_FIRST: HeaderName = HeaderName::from_static("x-taxii-date-added-first");
const DATE_ADDED_LAST: HeaderName = HeaderName::from_static("x-taxii-date-added-last");
/// Seconds that the page took to begin, as the original server tells them.
const QUERY_TIME: HeaderName = HeaderName::from_static("x-taxii2server-query-time-secs");

type CollectionPath = Result<Path<String>, PathRejection>;
type ObjectPath = Result<Path<(String, String)>, PathRejection>;

/// `GET …/manifest/`
pub(super) async fn manifest(
    State(app): State<Arc<App>>,
    path: CollectionPath,
    request: Request,
) -> Result<Response, ServeError> {
    let Path(collection) = path.map_err(|_| ServeError::UnknownPath)?;
    page(&app, &collection, Shape::Manifest, None, request).await
}

/// `GET …/objects/`
pub(super) async fn objects(
    State(app): State<Arc<App>>,
    path: CollectionPath,
    request: Request,
) -> Result<Response, ServeError> {
    let Path(collection) = path.map_err(|_| ServeError::UnknownPath)?;
    page(&app, &collection, Shape::Objects, None, request).await
}

/// `GET …/objects/{object-id}/`
pub(super) async fn object(
    State(app): State<Arc<App>>,
    path: ObjectPath,
    request: Request,
) -> Result<Response, ServeError> {
    let Path((collection, object)) = path.map_err(|_| ServeError::UnknownPath)?;
    page(&app, &collection, Shape::Objects, Some(object), request).await
}

/// `GET …/objects/{object-id}/versions/`, which TAXII 2.0 does not have.
pub(super) async fn versions(
    State(app): State<Arc<App>>,
    path: ObjectPath,
    request: Request,
) -> Result<Response, ServeError> {
    let Path((collection, object)) = path.map_err(|_| ServeError::UnknownPath)?;
    if style(&request)?.version == StixVersion::V20 {
        return Err(ServeError::UnknownPath);
    }
    page(&app, &collection, Shape::Versions, Some(object), request).await
}

/// `POST …/objects/`: no collection can be written to.
pub(super) async fn post_objects(
    State(app): State<Arc<App>>,
    Extension(style): Extension<Style>,
    path: CollectionPath,
) -> Result<Response, ServeError> {
    let Path(collection) = path.map_err(|_| ServeError::UnknownPath)?;
    Err(not_writable(&app, style, &collection))
}

/// `DELETE …/objects/{object-id}/`: readable but not writable is 403, whether the object exists or not.
pub(super) async fn delete_object(
    State(app): State<Arc<App>>,
    Extension(style): Extension<Style>,
    path: ObjectPath,
) -> Result<Response, ServeError> {
    let Path((collection, _)) = path.map_err(|_| ServeError::UnknownPath)?;
    Err(not_writable(&app, style, &collection))
}

/// The original knows no method that writes.
fn not_writable(app: &App, style: Style, collection: &str) -> ServeError {
    match find(app, collection) {
        Ok(collection) if style.profile == Profile::Standard => {
            ServeError::ReadOnly { title: collection.title.clone() }
        }
        Ok(_) => ServeError::MethodNotAllowed,
        Err(error) => error,
    }
}

/// `GET {api-root}/status/{status-id}/`: nothing is ever posted, so no status exists.
pub(super) async fn status() -> ServeError {
    ServeError::UnknownStatus
}

async fn page(
    app: &App,
    collection: &str,
    shape: Shape,
    object: Option<String>,
    http: Request,
) -> Result<Response, ServeError> {
    let started = Instant::now();
    let style = style(&http)?;
    // The body of the request is nobody's to wait with.
    let (http, _) = http.into_parts();
    let collection = find(app, collection)?;
    let rules = Rules {
        version: style.version,
        profile: style.profile,
        shape,
        one_object: object.is_some(),
        max_page_size: collection.max_page_size,
    };
    // In TAXII 2.0 lists are paged by number, and one object is no list.
    let by_number = style.version == StixVersion::V20 && object.is_none();
    let mut request = PageRequest { object, version: style.version, ..parameters::parse(http.uri.query(), rules)? };
    let asked = if by_number { range::asked(&http.headers, style.profile)? } else { None };
    request.range = asked.map(|asked| asked.items(collection.page_size));
    request.wants_total = by_number;
    if request.limit == Some(0) {
        // The original's clients may ask for nothing.
        let nothing = if shape == Shape::Versions { "{\"versions\":[]}\n" } else { "{\"objects\":[]}\n" };
        return Ok(with_type(style.taxii_type(), StatusCode::OK, Body::from(nothing)));
    }
    let added_after = request.filters.added_after;
    let page = match app.feed.page(&collection, shape, request.clone()).await {
        // The original refuses what lies behind the last item only where there is one.
        Err(FeedError::BehindTheEnd { total: 0 }) if style.profile == Profile::Xsoar => {
            let range = Some(ItemRange { first: 0, count: 0 });
            app.feed.page(&collection, shape, PageRequest { range, ..request }).await?
        }
        other => other?,
    };
    let content_type = if shape == Shape::Objects { style.objects_type() } else { style.taxii_type() };
    let (status, content_range) = match by_number {
        true => range::answered(asked, &page, style.profile),
        false => (StatusCode::OK, None),
    };
    let mut response = with_type(content_type, status, Body::empty());
    if by_number {
        response.extensions_mut().insert(Numbered { content_range, accepted: style.profile == Profile::Standard });
    }
    // An empty page still tells a client that keeps nothing but these headers where to go on from.
    let fallback = added_after.filter(|_| page.objects == 0);
    for (name, date) in [(DATE_ADDED_FIRST, page.first), (DATE_ADDED_LAST, page.last)] {
        if let Some(value) = date.or(fallback).and_then(header_value) {
            response.headers_mut().insert(name, value);
        }
    }
    *response.body_mut() = body(page.body).await?;
    if style.profile == Profile::Xsoar {
        let seconds = format!("{:.3}", started.elapsed().as_secs_f64());
        if let Ok(value) = HeaderValue::try_from(seconds) {
            response.headers_mut().insert(QUERY_TIME, value);
        }
    }
    Ok(response)
}

fn style(request: &Request) -> Result<Style, ServeError> {
    request.extensions().get().copied().ok_or(ServeError::Internal { what: "a request without its style" })
}

fn header_value(date: Timestamp) -> Option<HeaderValue> {
    HeaderValue::try_from(date.to_string()).ok()
}

/// Waits for the first piece, so that what fails at once is a status and not a cut connection.
async fn body(body: api::Body) -> Result<Body, FeedError> {
    let mut stream = match body {
        api::Body::Whole(bytes) => return Ok(Body::from(bytes)),
        api::Body::Stream(stream) => stream,
    };
    match stream.next().await {
        None => Ok(Body::empty()),
        Some(Err(error)) => Err(error),
        Some(Ok(first)) => Ok(Body::from_stream(futures::stream::iter([Ok(first)]).chain(stream))),
    }
}
