//! What clients send: objects for an inbox, the status of what they sent, deletions (TAXII 2.1 §5.5, §4.3, §5.7; TAXII 2.0 §5.5,
//! §4.3).

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{ALLOW, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::feed::api::{Profile, Shape, StixVersion};
use crate::inbox::{Deletion, Inbox, Post};
use crate::serve::audit::{Action, Deed};
use crate::serve::body;
use crate::serve::error::{ServeError, cut};
use crate::serve::negotiate::{STIX_20, TAXII_21};
use crate::serve::parameters::{self, Rules, Target};
use crate::serve::resource::{StatusResource, answer, with_type};
use crate::serve::rights::{self, Visit};
use crate::serve::router::App;
use crate::serve::style::Style;

type CollectionPath = Result<Path<String>, PathRejection>;
type ObjectPath = Result<Path<(String, String)>, PathRejection>;

/// `POST …/objects/`
pub(super) async fn post_objects(
    State(app): State<Arc<App>>,
    Extension(style): Extension<Style>,
    visit: Visit,
    path: CollectionPath,
    request: Request,
) -> Result<Response, ServeError> {
    let Path(name) = path.map_err(|_| visit.no_such_path())?;
    let (parts, body) = request.into_parts();
    let collection =
        rights::writable(&app, &visit.identity, &visit.root, &name).map_err(|error| in_style(error, style))?;
    takes(&parts.headers, style.version)?;
    let inbox = inbox(&app)?;
    let body = body::read(&app, &parts.headers, body).await?;
    let post = Post {
        collection: collection.id.clone(),
        root: visit.root.to_string(),
        user: visit.identity.user_name().map(str::to_owned),
        version: style.version,
        body,
    };
    let status = inbox.post(post).await?;
    let mut response = answer(style, StatusCode::ACCEPTED, &StatusResource::new(&status, style.version));
    response.extensions_mut().insert(Deed {
        action: Action::Write,
        api_root: visit.root.to_string(),
        collection: Some(collection.id.clone()),
        object: None,
        objects: status.successes.len() as u64,
    });
    Ok(response)
}

/// `GET {api-root}/status/{status-id}/`: of what the user posted to this root, for a day.
pub(super) async fn status(
    State(app): State<Arc<App>>,
    Extension(style): Extension<Style>,
    visit: Visit,
    path: CollectionPath,
) -> Result<Response, ServeError> {
    let Path(id) = path.map_err(|_| visit.no_such_path())?;
    let user = visit.identity.user_name();
    let status = match app.inbox() {
        Some(inbox) => inbox.status(&id, &visit.root, user).await,
        None => None,
    };
    let status = status.ok_or_else(|| rights::hidden(&visit.identity, ServeError::UnknownStatus))?;
    Ok(answer(style, StatusCode::OK, &StatusResource::new(&status, style.version)))
}

/// `DELETE …/objects/{object-id}/`, which TAXII 2.0 does not have. Where nobody may write the answer is the same whether the object
/// exists or not.
pub(super) async fn delete_object(
    State(app): State<Arc<App>>,
    Extension(style): Extension<Style>,
    visit: Visit,
    path: ObjectPath,
    request: Request,
) -> Result<Response, ServeError> {
    let Path((name, object)) = path.map_err(|_| visit.no_such_path())?;
    let (parts, _) = request.into_parts();
    let collection =
        rights::deletable(&app, &visit.identity, &visit.root, &name).map_err(|error| in_style(error, style))?;
    if style.version == StixVersion::V20 {
        let mut response = ServeError::MethodNotAllowed.into_response();
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET,HEAD"));
        return Ok(response);
    }
    let rules = Rules {
        version: style.version,
        profile: style.profile,
        shape: Shape::Objects,
        target: Target::Deletion,
        max_page_size: collection.max_page_size,
        match_values: app.options.limits.match_values,
    };
    let filters = parameters::parse(parts.uri.query(), rules)?.filters;
    let deletion = Deletion {
        collection: collection.id.clone(),
        object: object.clone(),
        versions: filters.versions,
        spec_versions: filters.spec_versions,
        user: visit.identity.user_name().map(str::to_owned),
    };
    let deleted = inbox(&app)?.delete(deletion).await?;
    let mut response = with_type(style.taxii_type(), StatusCode::OK, Body::empty());
    response.extensions_mut().insert(Deed {
        action: Action::Delete,
        api_root: visit.root.to_string(),
        collection: Some(collection.id.clone()),
        object: Some(object),
        objects: deleted.versions,
    });
    Ok(response)
}

/// The original knows no method that writes.
fn in_style(error: ServeError, style: Style) -> ServeError {
    match error {
        ServeError::ReadOnly { .. } if style.profile == Profile::Xsoar => ServeError::MethodNotAllowed,
        error => error,
    }
}

fn inbox(app: &App) -> Result<&Inbox, ServeError> {
    app.inbox().ok_or(ServeError::Internal { what: "an inbox collection, and nothing that takes posts" })
}

/// Refuses bodies of types that the version does not take (TAXII 2.1 §3.3, spec/taxii-2.md §2).
fn takes(headers: &HeaderMap, version: StixVersion) -> Result<(), ServeError> {
    let given = headers.get(CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or("?"));
    if is_taken(given, version) {
        return Ok(());
    }
    let wanted = match version {
        StixVersion::V20 => STIX_20,
        StixVersion::V21 => TAXII_21,
    };
    Err(ServeError::UnsupportedMediaType { given: cut(given), wanted })
}

/// Read as clients write it: in any case and spacing, with or without the version, or as plain JSON.
fn is_taken(given: &str, version: StixVersion) -> bool {
    let plain: String = given.chars().filter(|c| !c.is_whitespace() && *c != '"').collect();
    let plain = plain.to_ascii_lowercase();
    let mut parts = plain.split(';');
    let essence = parts.next().unwrap_or_default();
    let of = parts.find_map(|part| part.strip_prefix("version="));
    let other_version = of.is_some_and(|of| of != version.as_str());
    let taken = match version {
        StixVersion::V21 => matches!(essence, "application/taxii+json" | "application/vnd.oasis.taxii+json"),
        StixVersion::V20 => matches!(essence, "application/vnd.oasis.stix+json" | "application/stix+json"),
    };
    match essence {
        "application/json" => true,
        // What drafts of 2.1 called it needs the version to be of 2.1.
        "application/vnd.oasis.taxii+json" => taken && of == Some(version.as_str()),
        _ => taken && !other_version,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_read_as_clients_write_them() {
        use StixVersion::{V20, V21};
        let cases = [
            ("application/taxii+json;version=2.1", true, false),
            ("application/taxii+json; version=2.1", true, false),
            ("Application/TAXII+json ; Version = \"2.1\" ; charset=utf-8", true, false),
            ("application/taxii+json", true, false),
            ("application/taxii+json;charset=utf-8", true, false),
            ("application/vnd.oasis.taxii+json; version=2.1", true, false),
            ("application/json", true, true),
            ("application/json; charset=utf-8", true, true),
            ("application/vnd.oasis.stix+json; version=2.0", false, true),
            ("application/vnd.oasis.stix+json", false, true),
            ("application/stix+json;version=2.0", false, true),
            ("application/vnd.oasis.stix+json; version=2.1", false, false),
            ("application/taxii+json;version=2.2", false, false),
            ("application/vnd.oasis.taxii+json; version=2.0", false, false),
            ("application/xml", false, false),
            ("text/plain", false, false),
            ("", false, false),
        ];
        for (given, by_21, by_20) in cases {
            assert_eq!((is_taken(given, V21), is_taken(given, V20)), (by_21, by_20), "{given}");
        }
    }
}
