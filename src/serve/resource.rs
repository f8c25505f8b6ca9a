//! The small TAXII resources, key by key (TAXII 2.1 and 2.0 §4 and §5, spec/xsoar-taxii2-server.md §2.7), and the answer
//! that carries one.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;

use crate::feed::api::{Profile, StixVersion};
use crate::feed::collection::{Catalog, Collection};
use crate::inbox::{Detail, Status};
use crate::model::json::canonical_into;
use crate::serve::negotiate::{STIX_20, STIX_21, TAXII_21};
use crate::serve::options::Options;
use crate::serve::rights::Allowed;
use crate::serve::style::Style;

/// STIX 2.0, as TAXII 2.1 names it.
const STIX_20_IN_21: &str = "application/stix+json;version=2.0";
/// In an API root of 2.0, in place of a media type.
const VERSION_20: &str = "taxii-2.0";

#[derive(Debug, Serialize)]
pub(super) struct Discovery<'a> {
    title: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    api_roots: &'a [String],
}

impl<'a> Discovery<'a> {
    /// The server whose API roots, as far as they may be known, have these URLs.
    pub(super) fn new(options: &'a Options, api_roots: &'a [String]) -> Self {
        let (title, description) = match options.profile {
            Profile::Standard => ("taxiway", None),
            Profile::Xsoar => (
                "Cortex XSOAR TAXII2 Server",
                Some("This integration provides TAXII Services for system indicators (Outbound feed)."),
            ),
        };
        Self {
            title: options.title.as_deref().unwrap_or(title),
            description: filled(&options.description).or(description),
            default: api_roots.first().map(String::as_str),
            api_roots,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct ApiRoot<'a> {
    title: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    versions: [&'static str; 1],
    /// Bytes of a request body that are not refused.
    max_content_length: u64,
}

impl<'a> ApiRoot<'a> {
    /// The root of that path, as a client of that version sees it.
    pub(super) fn new(options: &'a Options, path: &str, version: StixVersion) -> Self {
        let (title, description) = match options.profile {
            Profile::Standard => ("taxiway", None),
            Profile::Xsoar => (
                "Cortex XSOAR TAXII2 Server ThreatIntel",
                Some("This API Root provides TAXII Services for system indicators."),
            ),
        };
        let (versions, of_original) = match version {
            StixVersion::V20 => ([VERSION_20], 9_765_625),
            StixVersion::V21 => ([TAXII_21], 104_857_600),
        };
        let max = options.limits.body_bytes;
        let own = options.api_roots.iter().find(|root| root.path == path);
        let own_title = own.and_then(|root| root.title.as_deref());
        let own_description = own.and_then(|root| filled(&root.description));
        Self {
            title: own_title.or(options.title.as_deref()).unwrap_or(title),
            description: own_description.or(filled(&options.description)).or(description),
            versions,
            max_content_length: if options.profile == Profile::Xsoar { max.min(of_original) } else { max },
        }
    }
}

fn filled(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

#[derive(Debug, Serialize)]
pub(super) struct Collections<'a> {
    /// Absent in the standard profile when there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    collections: Option<Vec<CollectionResource<'a>>>,
}

impl<'a> Collections<'a> {
    /// These, each with what the requester may do with it.
    pub(super) fn new(collections: impl Iterator<Item = (&'a Arc<Collection>, Allowed)>, style: Style) -> Self {
        let resource = |(collection, allowed): (&'a Arc<Collection>, Allowed)| {
            CollectionResource::new(collection, allowed, style.version)
        };
        let list: Vec<CollectionResource<'a>> = collections.map(resource).collect();
        Self { collections: Some(list).filter(|list| style.profile == Profile::Xsoar || !list.is_empty()) }
    }
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
    media_types: &'static [&'static str],
    /// The original server's extra key (spec/xsoar-taxii2-server.md §2.7).
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
}

impl<'a> CollectionResource<'a> {
    /// As a client of that version with these rights sees it, with the keys of the collection's own profile.
    pub(super) fn new(collection: &'a Collection, allowed: Allowed, version: StixVersion) -> Self {
        let description = filled(&collection.description);
        let (description, alias) = match (collection.options.profile, version) {
            (Profile::Xsoar, _) => (Some(description.unwrap_or_default()), None),
            // TAXII 2.0 knows no alias.
            (Profile::Standard, StixVersion::V20) => (description, None),
            (Profile::Standard, StixVersion::V21) => (description, collection.alias.as_deref()),
        };
        Self {
            id: &collection.id,
            title: &collection.title,
            description,
            alias,
            can_read: allowed.read,
            can_write: allowed.write,
            media_types: match (version, collection.inbox) {
                (StixVersion::V20, _) => &[STIX_20],
                (StixVersion::V21, false) => &[STIX_21],
                (StixVersion::V21, true) => &[STIX_21, STIX_20_IN_21],
            },
            query: (!collection.hide_query && !collection.inbox).then_some(collection.query_text.as_str()),
        }
    }
}

/// The resources of all collections, as a server with these options lists them to clients that name no version and may
/// do everything.
pub fn collection_resources(catalog: &Catalog, options: &Options) -> Vec<Value> {
    let resource = |collection: &Arc<Collection>| {
        let allowed = Allowed { read: true, write: collection.inbox };
        let resource = CollectionResource::new(collection, allowed, options.default_version);
        serde_json::to_value(resource).unwrap_or_default()
    };
    match options.profile {
        Profile::Standard => catalog.iter().map(resource).collect(),
        Profile::Xsoar => catalog.configured().map(resource).collect(),
    }
}

/// The discovery resource of a server with these options, to those who may know of every API root; `base` is the URL
/// they are under, without the final slash.
pub fn discovery_resource(options: &Options, base: &str) -> Value {
    let roots: Vec<String> = options.api_roots.iter().map(|root| format!("{base}/{}/", root.path)).collect();
    serde_json::to_value(Discovery::new(options, &roots)).unwrap_or_default()
}

/// What became of a post (TAXII 2.1 and 2.0 §4.3).
#[derive(Debug, Serialize)]
pub(super) struct StatusResource<'a> {
    id: String,
    /// Objects are written before anybody is told.
    status: &'static str,
    request_timestamp: String,
    total_count: usize,
    success_count: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    successes: Vec<Success<'a>>,
    failure_count: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failures: Vec<DetailResource<'a>>,
    pending_count: usize,
}

/// TAXII 2.0 lists ids.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Success<'a> {
    Id(&'a str),
    Detail(DetailResource<'a>),
}

#[derive(Debug, Serialize)]
struct DetailResource<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

impl<'a> StatusResource<'a> {
    /// As a client of that version reads it.
    pub(super) fn new(status: &'a Status, version: StixVersion) -> Self {
        let detail = |detail: &'a Detail| DetailResource {
            id: &detail.id,
            version: (version == StixVersion::V21).then(|| detail.version.to_string()),
            message: detail.message.as_deref(),
        };
        let success = |success: &'a Detail| match version {
            StixVersion::V20 => Success::Id(&success.id),
            StixVersion::V21 => Success::Detail(detail(success)),
        };
        Self {
            id: status.id.to_string(),
            status: "complete",
            request_timestamp: status.requested.to_string(),
            total_count: status.total(),
            success_count: status.successes.len(),
            successes: status.successes.iter().map(success).collect(),
            failure_count: status.failures.len(),
            failures: status.failures.iter().map(detail).collect(),
            pending_count: 0,
        }
    }
}

/// What every failure has in the standard profile.
#[derive(Debug, Serialize)]
pub(super) struct ErrorResource<'a> {
    pub(super) title: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error_code: Option<&'static str>,
    /// A string, as the standard wants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) http_status: Option<&'a str>,
}

/// The answer that carries `resource`.
pub(super) fn answer(style: Style, status: StatusCode, resource: &impl Serialize) -> Response {
    let body = match style.profile {
        Profile::Standard => serde_json::to_vec(resource),
        Profile::Xsoar => serde_json::to_value(resource).map(|value| as_original(&value)),
    };
    match body {
        Ok(body) => with_type(style.taxii_type(), status, Body::from(body)),
        // These resources hold text and numbers only: there is nothing that could fail.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Sorted keys, ASCII, a line feed at the end (spec/xsoar-taxii2-server.md §2.2).
fn as_original(value: &Value) -> Vec<u8> {
    let mut text = Vec::new();
    canonical_into(value, &mut text);
    let mut out = Vec::with_capacity(text.len() + 1);
    for c in String::from_utf8_lossy(&text).chars() {
        if c.is_ascii() {
            out.push(c as u8);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
            }
        }
    }
    out.push(b'\n');
    out
}

/// A body with its content type.
pub(super) fn with_type(content_type: &'static str, status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_original_writes_ascii_with_sorted_keys() {
        let value = json!({"b": "caf\u{e9} \u{1f600} </&> \u{7f}\u{1}\n\"\\", "a": {"z": [2, 1], "B": null}});
        let expected =
            "{\"a\":{\"B\":null,\"z\":[2,1]},\"b\":\"caf\\u00e9 \\ud83d\\ude00 </&> \u{7f}\\u0001\\n\\\"\\\\\"}\n";
        assert_eq!(String::from_utf8(as_original(&value)).expect("ASCII"), expected);
    }
}
