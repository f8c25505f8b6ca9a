//! Manifest, objects, one object, its versions (TAXII 2.1 §5.3–§5.8), and the status resource (§4.3).
//!
//! All four page resources are one request to the feed; they differ in shape and in the parameters they take.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use futures::StreamExt;

use crate::feed::api::{self, FeedError, Shape};
use crate::model::time::Timestamp;
use crate::serve::collections::find;
use crate::serve::error::ServeError;
use crate::serve::parameters;
use crate::serve::resource::taxii;
use crate::serve::router::App;

const DATE_ADDED_FIRST: HeaderName = HeaderName::from_static("x-taxii-date-added-first");
const DATE_ADDED_LAST: HeaderName = HeaderName::from_static("x-taxii-date-added-last");

type CollectionPath = Result<Path<String>, PathRejection>;
type ObjectPath = Result<Path<(String, String)>, PathRejection>;

/// `GET …/manifest/`
pub(super) async fn manifest(
    State(app): State<Arc<App>>,
    path: CollectionPath,
    RawQuery(query): RawQuery,
) -> Result<Response, ServeError> {
    let Path(collection) = path.map_err(|_| ServeError::UnknownPath)?;
    page(&app, &collection, Shape::Manifest, None, query).await
}

/// `GET …/objects/`
pub(super) async fn objects(
    State(app): State<Arc<App>>,
    path: CollectionPath,
    RawQuery(query): RawQuery,
) -> Result<Response, ServeError> {
    let Path(collection) = path.map_err(|_| ServeError::UnknownPath)?;
    page(&app, &collection, Shape::Objects, None, query).await
}

/// `GET …/objects/{object-id}/`
pub(super) async fn object(
    State(app): State<Arc<App>>,
    path: ObjectPath,
    RawQuery(query): RawQuery,
) -> Result<Response, ServeError> {
    let Path((collection, object)) = path.map_err(|_| ServeError::UnknownPath)?;
    page(&app, &collection, Shape::Objects, Some(object), query).await
}

/// `GET …/objects/{object-id}/versions/`
pub(super) async fn versions(
    State(app): State<Arc<App>>,
    path: ObjectPath,
    RawQuery(query): RawQuery,
) -> Result<Response, ServeError> {
    let Path((collection, object)) = path.map_err(|_| ServeError::UnknownPath)?;
    page(&app, &collection, Shape::Versions, Some(object), query).await
}

/// `POST …/objects/`: no collection can be written to.
pub(super) async fn post_objects(State(app): State<Arc<App>>, path: CollectionPath) -> Result<Response, ServeError> {
    let Path(collection) = path.map_err(|_| ServeError::UnknownPath)?;
    Err(ServeError::ReadOnly { title: find(&app, &collection)?.title.clone() })
}

/// `DELETE …/objects/{object-id}/`: readable but not writable is 403, whether the object exists or not.
pub(super) async fn delete_object(State(app): State<Arc<App>>, path: ObjectPath) -> Result<Response, ServeError> {
    let Path((collection, _)) = path.map_err(|_| ServeError::UnknownPath)?;
    Err(ServeError::ReadOnly { title: find(&app, &collection)?.title.clone() })
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
    query: Option<String>,
) -> Result<Response, ServeError> {
    let collection = find(app, collection)?;
    let request = parameters::parse(query.as_deref(), shape, object, collection.max_page_size)?;
    let added_after = request.filters.added_after;
    let page = app.feed.page(&collection, shape, request).await?;
    let mut response = taxii(StatusCode::OK, body(page.body).await?);
    // An empty page still tells a client that keeps nothing but these headers where to go on from.
    let fallback = added_after.filter(|_| page.objects == 0);
    for (name, date) in [(DATE_ADDED_FIRST, page.first), (DATE_ADDED_LAST, page.last)] {
        if let Some(value) = date.or(fallback).and_then(header_value) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
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
