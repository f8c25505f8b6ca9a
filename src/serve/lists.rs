//! Lists of values for firewalls: `GET /lists/{collection}.txt`.
//!
//! Outside of the API roots, since those who pull such lists know no TAXII; with the rights of reading the collection in any of
//! them. What is not there, or not for the requester, is answered as in an API root. `ETag` follows from the content alone, so a
//! commit that changes nothing of a list is no reason to pull it again.

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_TYPE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, NaiveDateTime};
use futures::StreamExt;

use crate::export::{DomainForm, ExportError, ListFacts, ListOptions, ListType, UrlForm};
use crate::model::time::{MICROS_PER_SECOND, Timestamp};
use crate::serve::audit::{Action, Deed};
use crate::serve::auth::Identity;
use crate::serve::error::{ServeError, cut};
use crate::serve::objects::is_known;
use crate::serve::parameters::decode;
use crate::serve::rights::hidden;
use crate::serve::router::App;

/// Path of the lists.
pub(super) const LISTS_PATH: &str = "/lists/{list}";
const ENDING: &str = ".txt";
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// Lines of the list.
const ITEMS: HeaderName = HeaderName::from_static("x-list-items");
/// Values beyond `max`.
const LEFT_OUT: HeaderName = HeaderName::from_static("x-list-items-left-out");
/// RFC 9110 §5.6.7.
const HTTP_DATE: &str = "%a, %d %b %Y %H:%M:%S GMT";

/// Whether a path names a list: those who ask for one accept other types than TAXII's.
pub(super) fn is_list(path: &str) -> bool {
    path.strip_prefix("/lists/").is_some_and(|name| name.ends_with(ENDING) && !name.contains('/'))
}

/// `GET /lists/{collection}.txt`
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Extension(identity): Extension<Identity>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ServeError> {
    let nowhere = || hidden(&identity, ServeError::UnknownPath);
    let Path(name) = path.map_err(|_| nowhere())?;
    let name = name.strip_suffix(ENDING).ok_or_else(nowhere)?.to_owned();
    // The body of the request is nobody's to wait with.
    let (http, _) = request.into_parts();
    let mut deed =
        Deed { action: Action::Read, api_root: String::new(), collection: Some(cut(&name)), object: None, objects: 0 };
    let answer = answer(&app, &identity, &name, http.uri.query(), &http.headers, &mut deed).await;
    let mut response = answer.unwrap_or_else(IntoResponse::into_response);
    response.extensions_mut().insert(deed);
    Ok(response)
}

async fn answer(
    app: &App,
    identity: &Identity,
    name: &str,
    query: Option<&str>,
    headers: &HeaderMap,
    deed: &mut Deed,
) -> Result<Response, ServeError> {
    let rights = app.rights();
    let (collection, root) = rights.readable_somewhere(identity, name)?;
    deed.api_root = root.to_owned();
    deed.collection = Some(collection.id.clone());
    let options = options(query)?;
    let lists = app.lists().ok_or_else(|| hidden(identity, ServeError::UnknownPath))?;
    let known = lists.known(&collection, &options).await.map_err(failed)?;
    if let Some(facts) = known.filter(|facts| is_held(headers, facts)) {
        return Ok(described(StatusCode::NOT_MODIFIED, &facts, Body::empty()));
    }
    let listing = lists.listing(&collection, &options).await.map_err(failed)?;
    let facts = listing.facts.clone();
    if is_held(headers, &facts) {
        return Ok(described(StatusCode::NOT_MODIFIED, &facts, Body::empty()));
    }
    deed.objects = facts.items;
    let mut lines = listing.lines();
    // The first piece is waited for, so that what fails at once is a status and not a cut connection.
    let body = match lines.next().await {
        None => Body::empty(),
        Some(Err(error)) => return Err(failed(error)),
        Some(Ok(first)) => Body::from_stream(futures::stream::iter([Ok(first)]).chain(lines)),
    };
    Ok(described(StatusCode::OK, &facts, body))
}

fn failed(error: ExportError) -> ServeError {
    match error {
        ExportError::Feed(error) => error.into(),
        error => {
            tracing::error!(%error, "list not made");
            ServeError::Internal { what: "make a list" }
        }
    }
}

/// Whether the client has the list already (RFC 9110 §13.1.2, §13.1.3).
fn is_held(headers: &HeaderMap, facts: &ListFacts) -> bool {
    if headers.contains_key(IF_NONE_MATCH) {
        return is_known(headers, &tag(facts));
    }
    let since = headers.get(IF_MODIFIED_SINCE).and_then(|date| date.to_str().ok());
    let since = since.and_then(|date| NaiveDateTime::parse_from_str(date, HTTP_DATE).ok());
    since.is_some_and(|since| facts.modified.0.div_euclid(MICROS_PER_SECOND) <= since.and_utc().timestamp())
}

fn described(status: StatusCode, facts: &ListFacts, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if status == StatusCode::OK {
        headers.insert(CONTENT_TYPE, TEXT);
        headers.insert(ITEMS, facts.items.into());
        if facts.left_out > 0 {
            headers.insert(LEFT_OUT, facts.left_out.into());
        }
    }
    let texts = [(ETAG, Some(tag(facts))), (LAST_MODIFIED, http_date(facts.modified))];
    for (name, text) in texts {
        if let Some(value) = text.and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.insert(name, value);
        }
    }
    response
}

/// Weak: the bytes differ with the compression.
fn tag(facts: &ListFacts) -> String {
    format!("W/\"{}\"", facts.etag)
}

fn http_date(at: Timestamp) -> Option<String> {
    let at = DateTime::from_timestamp(at.0.div_euclid(MICROS_PER_SECOND), 0)?;
    Some(at.format(HTTP_DATE).to_string())
}

/// Reads the query: `type`, `max`, `aggregate`, `urls`, `domains`, `stale`. Anything else is ignored, as everywhere.
fn options(query: Option<&str>) -> Result<ListOptions, ServeError> {
    let mut options = ListOptions::default();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(key) = decode(key) else { continue };
        let value = |name| decode(value).ok_or_else(|| bad(name, "is not percent-encoded UTF-8"));
        match &*key {
            "type" => {
                for name in value("type")?.split(',').filter(|name| !name.is_empty()) {
                    options.types.push(ListType::from_str(name).map_err(|error| bad("type", error))?);
                }
            }
            "max" => {
                let text = value("max")?;
                let number = text.parse().ok().filter(|number| *number > 0);
                options.max_items = Some(number.ok_or_else(|| bad("max", "takes a number above 0, such as `150000`"))?);
            }
            "aggregate" => options.aggregate = truth("aggregate", &value("aggregate")?)?,
            "stale" => options.stale = truth("stale", &value("stale")?)?,
            "urls" => {
                options.urls = UrlForm::from_str(&value("urls")?).map_err(|error| bad("urls", error))?;
            }
            "domains" => {
                options.domains = DomainForm::from_str(&value("domains")?).map_err(|error| bad("domains", error))?;
            }
            _ => {}
        }
    }
    options.types.sort_unstable();
    options.types.dedup();
    Ok(options)
}

fn truth(name: &'static str, text: &str) -> Result<bool, ServeError> {
    match text {
        "" | "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err(bad(name, "takes `true` or `false`")),
    }
}

fn bad(name: &'static str, reason: impl Into<Cow<'static, str>>) -> ServeError {
    ServeError::BadParameter { name, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_read_as_written() {
        let plain = ListOptions::default();
        let cases = [
            (None, plain.clone()),
            (Some("x=1&&order=value"), plain.clone()),
            (Some("aggregate"), ListOptions { aggregate: true, ..plain.clone() }),
            (
                Some("type=ip,domain&type=ip&max=150000&aggregate=1&stale=false"),
                ListOptions {
                    types: vec![ListType::Ip, ListType::Domain],
                    max_items: Some(150_000),
                    aggregate: true,
                    ..plain.clone()
                },
            ),
            (
                Some("urls=no-scheme&domains=wildcard&stale=yes"),
                ListOptions { urls: UrlForm::NoScheme, domains: DomainForm::Wildcard, stale: true, ..plain.clone() },
            ),
        ];
        for (query, expected) in cases {
            assert_eq!(options(query).ok(), Some(expected), "{query:?}");
        }
        for query in ["type=nothing", "max=0", "max=-1", "max=", "aggregate=maybe", "urls=x", "domains=%ff"] {
            let refused = options(Some(query)).map_err(|error| error.outside().status);
            assert_eq!(refused, Err(StatusCode::BAD_REQUEST), "{query}");
        }
    }

    #[test]
    fn paths_of_lists() {
        assert!(is_list("/lists/blocklist.txt"));
        for path in ["/lists/", "/lists/x", "/lists/a/b.txt", "/lists/collections/", "/x.txt"] {
            assert!(!is_list(path), "{path}");
        }
    }
}
