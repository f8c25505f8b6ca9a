//! Manifest, objects, one object, its versions (TAXII 2.1 §5.3–§5.8, TAXII 2.0 §5.3–§5.6).
//!
//! All four page resources are one request to the feed; they differ in shape and in the parameters they take. TAXII 2.1
//! pages them by `limit` and `next`, 2.0 by number.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_ENCODING, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;

use crate::feed::api::{self, Coding, FeedError, ItemRange, PageRequest, Profile, Shape, StixVersion};
use crate::model::time::Timestamp;
use crate::serve::audit::{Action, Deed};
use crate::serve::coding::accepted;
use crate::serve::error::{ServeError, cut};
use crate::serve::observe::Numbered;
use crate::serve::parameters::{self, Rules, Target};
use crate::serve::range;
use crate::serve::resource::with_type;
use crate::serve::rights::{self, Visit};
use crate::serve::router::App;
use crate::serve::style::Style;

pub(super) const DATE_ADDED_FIRST: HeaderName = HeaderName::from_static("x-taxii-date-added-first");
pub(super) const DATE_ADDED_LAST: HeaderName = HeaderName::from_static("x-taxii-date-added-last");
/// Seconds that the page took to begin, as the original server tells them.
const QUERY_TIME: HeaderName = HeaderName::from_static("x-taxii2server-query-time-secs");

type CollectionPath = Result<Path<String>, PathRejection>;
type ObjectPath = Result<Path<(String, String)>, PathRejection>;

/// `GET …/manifest/`
pub(super) async fn manifest(
    State(app): State<Arc<App>>,
    visit: Visit,
    path: CollectionPath,
    request: Request,
) -> Result<Response, ServeError> {
    let Path(collection) = path.map_err(|_| visit.no_such_path())?;
    Ok(page(&app, &visit, &collection, Shape::Manifest, None, request).await)
}

/// `GET …/objects/`
pub(super) async fn objects(
    State(app): State<Arc<App>>,
    visit: Visit,
    path: CollectionPath,
    request: Request,
) -> Result<Response, ServeError> {
    let Path(collection) = path.map_err(|_| visit.no_such_path())?;
    Ok(page(&app, &visit, &collection, Shape::Objects, None, request).await)
}

/// `GET …/objects/{object-id}/`
pub(super) async fn object(
    State(app): State<Arc<App>>,
    visit: Visit,
    path: ObjectPath,
    request: Request,
) -> Result<Response, ServeError> {
    let Path((collection, object)) = path.map_err(|_| visit.no_such_path())?;
    Ok(page(&app, &visit, &collection, Shape::Objects, Some(object), request).await)
}

/// `GET …/objects/{object-id}/versions/`, which TAXII 2.0 does not have.
pub(super) async fn versions(
    State(app): State<Arc<App>>,
    visit: Visit,
    path: ObjectPath,
    request: Request,
) -> Result<Response, ServeError> {
    let Path((collection, object)) = path.map_err(|_| visit.no_such_path())?;
    Ok(page(&app, &visit, &collection, Shape::Versions, Some(object), request).await)
}

/// The page or why there is none, with what the audit log wants to know of it.
async fn page(
    app: &App,
    visit: &Visit,
    collection: &str,
    shape: Shape,
    object: Option<String>,
    http: Request,
) -> Response {
    let mut deed = Deed {
        action: Action::Read,
        api_root: visit.root.to_string(),
        collection: Some(cut(collection)),
        object: object.as_deref().map(cut),
        objects: 0,
    };
    let mut response = match allowed_page(app, visit, collection, shape, object, http, &mut deed).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    response.extensions_mut().insert(deed);
    response
}

async fn allowed_page(
    app: &App,
    visit: &Visit,
    collection: &str,
    shape: Shape,
    object: Option<String>,
    http: Request,
    deed: &mut Deed,
) -> Result<Response, ServeError> {
    let started = Instant::now();
    let style = style(&http)?;
    // The body of the request is nobody's to wait with.
    let (http, _) = http.into_parts();
    let collection = rights::readable(app, &visit.identity, &visit.root, collection)?;
    deed.collection = Some(collection.id.clone());
    if shape == Shape::Versions && style.version == StixVersion::V20 {
        return Err(ServeError::UnknownPath);
    }
    let rules = Rules {
        version: style.version,
        profile: style.profile,
        shape,
        target: if object.is_some() { Target::Object } else { Target::Objects },
        max_page_size: collection.max_page_size,
        match_values: app.options.limits.match_values,
    };
    // In TAXII 2.0 lists are paged by number, and one object is no list.
    let by_number = style.version == StixVersion::V20 && object.is_none();
    let mut request = PageRequest { object, version: style.version, ..parameters::parse(http.uri.query(), rules)? };
    let asked = if by_number { range::asked(&http.headers, style.profile)? } else { None };
    request.range = asked.map(|asked| asked.items(collection.page_size));
    request.wants_total = by_number;
    request.coding = accepted(&http.headers);
    if request.limit == Some(0) {
        // The original's clients may ask for nothing.
        let nothing = if shape == Shape::Versions { "{\"versions\":[]}\n" } else { "{\"objects\":[]}\n" };
        let mut response = with_type(style.taxii_type(), StatusCode::OK, Body::from(nothing));
        tell_query_time(&mut response, started);
        return Ok(response);
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
    deed.objects = page.objects;
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
    // Weak: the same page may come packed in several ways, and a bundle has a new id each time.
    let tag = format!("W/\"{:016x}\"", page.tag);
    let is_known = is_known(&http.headers, &tag);
    if let Ok(tag) = HeaderValue::try_from(tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    if is_known {
        deed.objects = 0;
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        let packed = match page.coding {
            Coding::Identity => None,
            Coding::Gzip => Some("gzip"),
            Coding::Zstd => Some("zstd"),
        };
        if let Some(name) = packed {
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(name));
        }
        *response.body_mut() = body(page.body).await?;
    }
    if style.profile == Profile::Xsoar {
        tell_query_time(&mut response, started);
    }
    Ok(response)
}

fn style(request: &Request) -> Result<Style, ServeError> {
    request.extensions().get().copied().ok_or(ServeError::Internal { what: "a request without its style" })
}

/// Whether the client has what a tag names (RFC 9110 §13.1.2).
pub(super) fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let given = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    given.flat_map(|value| value.split(',')).any(|given| given.trim() == "*" || opaque(given) == opaque(tag))
}

fn tell_query_time(response: &mut Response, started: Instant) {
    if let Ok(value) = HeaderValue::try_from(format!("{:.3}", started.elapsed().as_secs_f64())) {
        response.headers_mut().insert(QUERY_TIME, value);
    }
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
