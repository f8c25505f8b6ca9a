//! The small TAXII resources, key by key (TAXII 2.1 §4 and §5, TAXII 2.0 §4 and §5, spec/xsoar-taxii2-server.md §2.7), and
//! the answer that carries one.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;

use crate::feed::api::{Profile, StixVersion};
use crate::feed::collection::{Catalog, Collection};
use crate::model::json::canonical_into;
use crate::serve::negotiate::{STIX_20, STIX_21, TAXII_21};
use crate::serve::options::Options;
use crate::serve::style::Style;

/// In an API root of 2.0, in place of a media type.
const VERSION_20: &str = "taxii-2.0";

#[derive(Debug, Serialize)]
pub(super) struct Discovery<'a> {
    title: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    default: &'a str,
    api_roots: [&'a str; 1],
}

impl<'a> Discovery<'a> {
    /// The server whose one API root has this URL.
    pub(super) fn new(options: &'a Options, root: &'a str) -> Self {
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
            default: root,
            api_roots: [root],
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct ApiRoot<'a> {
    title: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    versions: [&'static str; 1],
    /// Bytes of a request body that are not refused, as the original server says.
    max_content_length: u64,
}

impl<'a> ApiRoot<'a> {
    /// As a client of that version sees it.
    pub(super) fn new(options: &'a Options, version: StixVersion) -> Self {
        let (title, description) = match options.profile {
            Profile::Standard => ("taxiway", None),
            Profile::Xsoar => (
                "Cortex XSOAR TAXII2 Server ThreatIntel",
                Some("This API Root provides TAXII Services for system indicators."),
            ),
        };
        let (versions, max_content_length) = match version {
            StixVersion::V20 => ([VERSION_20], 9_765_625),
            StixVersion::V21 => ([TAXII_21], 104_857_600),
        };
        Self {
            title: options.title.as_deref().unwrap_or(title),
            description: filled(&options.description).or(description),
            versions,
            max_content_length,
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
    pub(super) fn new(catalog: &'a Catalog, version: StixVersion, profile: Profile) -> Self {
        let collections = listed(catalog, version, profile);
        Self { collections: Some(collections).filter(|list| profile == Profile::Xsoar || !list.is_empty()) }
    }
}

/// In the order of the profile: the original keeps the order of its configuration, interoperability tests ask for that
/// of ids.
fn listed(catalog: &Catalog, version: StixVersion, profile: Profile) -> Vec<CollectionResource<'_>> {
    let resource = |collection| CollectionResource::new(collection, version);
    match profile {
        Profile::Standard => catalog.iter().map(|collection| resource(collection)).collect(),
        Profile::Xsoar => catalog.configured().map(|collection| resource(collection)).collect(),
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
    media_types: [&'static str; 1],
    /// The original server's extra key (spec/xsoar-taxii2-server.md §2.7).
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
}

impl<'a> CollectionResource<'a> {
    /// As a client of that version sees it, with the keys of the collection's own profile.
    pub(super) fn new(collection: &'a Collection, version: StixVersion) -> Self {
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
            can_read: true,
            can_write: false,
            media_types: [match version {
                StixVersion::V20 => STIX_20,
                StixVersion::V21 => STIX_21,
            }],
            query: (!collection.hide_query).then_some(collection.query_text.as_str()),
        }
    }
}

/// The resources of all collections, as a server with these options lists them to clients that name no version.
pub fn collection_resources(catalog: &Catalog, options: &Options) -> Vec<Value> {
    let listed = listed(catalog, options.default_version, options.profile);
    listed.iter().map(|resource| serde_json::to_value(resource).unwrap_or_default()).collect()
}

/// The discovery resource of a server with these options, whose API root has this URL.
pub fn discovery_resource(options: &Options, root: &str) -> Value {
    serde_json::to_value(Discovery::new(options, root)).unwrap_or_default()
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
