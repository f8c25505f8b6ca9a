//! Discovery and API root (TAXII 2.1 §4.1, §4.2), and a word for people who come by browser.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::serve::negotiate::TAXII_21;
use crate::serve::options::Options;
use crate::serve::resource::{ApiRoot, Discovery, answer};
use crate::serve::router::App;

/// Path of the landing page, the one answer that is no TAXII resource.
pub(super) const LANDING_PATH: &str = "/";

/// Bytes of a request body that are not refused, as the original server says.
const MAX_CONTENT_LENGTH: u64 = 104_857_600;

/// `GET /taxii2/`
pub(super) async fn discovery(State(app): State<Arc<App>>, request: Request) -> Response {
    let root = format!("{}/{}/", base(&app.options, &request), app.options.api_root);
    let resource = Discovery {
        title: &app.options.title,
        description: description(&app.options),
        default: &root,
        api_roots: [&root],
    };
    answer(StatusCode::OK, &resource)
}

/// `GET {api-root}/`
pub(super) async fn api_root(State(app): State<Arc<App>>) -> Response {
    let resource = ApiRoot {
        title: &app.options.title,
        description: description(&app.options),
        versions: [TAXII_21],
        max_content_length: MAX_CONTENT_LENGTH,
    };
    answer(StatusCode::OK, &resource)
}

/// `GET /`
pub(super) async fn landing(State(app): State<Arc<App>>, request: Request) -> Response {
    let base = base(&app.options, &request);
    let root = &app.options.api_root;
    let text = format!(
        "{title}: threat intelligence over TAXII 2.1\n\n\
         discovery    {base}/taxii2/\n\
         API root     {base}/{root}/\n\
         collections  {base}/{root}/collections/\n\n\
         curl -H 'Accept: {TAXII_21}' {base}/{root}/collections/\n",
        title = app.options.title,
    );
    ([(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))], text).into_response()
}

fn description(options: &Options) -> Option<&str> {
    options.description.as_deref().filter(|text| !text.is_empty())
}

/// Scheme and host as the client sees them. Empty, which makes relative URLs, when the request names no usable host.
fn base(options: &Options, request: &Request) -> String {
    if let Some(base) = &options.base_url {
        return base.clone();
    }
    // HTTP/2 names the host in the URI, HTTP/1.1 in the header.
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let host = authority.or_else(|| request.headers().get(HOST).and_then(|host| host.to_str().ok()));
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    host.filter(|host| is_host(host)).map_or_else(String::new, |host| format!("{scheme}://{host}"))
}

/// Name or address with an optional port, and nothing that would mean something else inside a URL.
fn is_host(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    !text.is_empty() && text.len() <= 300 && text.bytes().all(plain)
}
