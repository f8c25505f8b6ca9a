//! The small TAXII 2.1 resources, key by key (TAXII 2.1 §4 and §5), and the answer that carries one.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::feed::collection::Collection;
use crate::serve::negotiate::TAXII_21;

/// STIX content type of a collection.
pub(super) const STIX_21: &str = "application/stix+json;version=2.1";

#[derive(Debug, Serialize)]
pub(super) struct Discovery<'a> {
    pub(super) title: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<&'a str>,
    pub(super) default: &'a str,
    pub(super) api_roots: [&'a str; 1],
}

#[derive(Debug, Serialize)]
pub(super) struct ApiRoot<'a> {
    pub(super) title: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<&'a str>,
    pub(super) versions: [&'static str; 1],
    pub(super) max_content_length: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Collections<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) collections: Vec<CollectionResource<'a>>,
}

#[derive(Debug, Serialize)]
pub(super) struct CollectionResource<'a> {
    id: &'a str,
    title: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alias: Option<&'a str>,
    can_read: bool,
    can_write: bool,
    media_types: [&'static str; 1],
    /// The original server's extra key (spec/xsoar-taxii2-server.md §2.7).
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
}

impl<'a> From<&'a Collection> for CollectionResource<'a> {
    fn from(collection: &'a Collection) -> Self {
        Self {
            id: &collection.id,
            title: &collection.title,
            description: collection.description.as_deref().filter(|text| !text.is_empty()),
            alias: collection.alias.as_deref(),
            can_read: true,
            can_write: false,
            media_types: [STIX_21],
            query: (!collection.hide_query).then_some(collection.query_text.as_str()),
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct ErrorResource<'a> {
    pub(super) title: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error_id: Option<&'a str>,
    pub(super) error_code: &'static str,
    /// A string, as the standard wants.
    pub(super) http_status: &'a str,
}

/// The answer that carries `resource`.
pub(super) fn answer(status: StatusCode, resource: &impl Serialize) -> Response {
    match serde_json::to_vec(resource) {
        Ok(body) => taxii(status, Body::from(body)),
        // These resources hold text and numbers only: there is nothing that could fail.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// A body with the content type that every TAXII 2.1 answer has.
pub(super) fn taxii(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TAXII_21));
    response
}
