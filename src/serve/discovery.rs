//! Discovery and API root (TAXII 2.1 §4.1, §4.2), and a word for people who come by browser.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::feed::api::StixVersion;
use crate::serve::negotiate::{TAXII_20, TAXII_21};
use crate::serve::options::Options;
use crate::serve::resource::{ApiRoot, Discovery, answer};
use crate::serve::router::App;
use crate::serve::style::Style;

/// Path of the landing page, the one answer that is no TAXII resource.
pub(super) const LANDING_PATH: &str = "/";
/// Where TAXII 2.0 has its discovery; like the other it answers whatever version is asked for.
pub(super) const DISCOVERY_20: &str = "/taxii";
/// Where TAXII 2.1 has its discovery.
pub(super) const DISCOVERY_21: &str = "/taxii2";

/// `GET /taxii/` and `GET /taxii2/`
pub(super) async fn discovery(
    State(app): State<Arc<App>>,
    Extension(style): Extension<Style>,
    request: Request,
) -> Response {
    let root = format!("{}/{}/", base(&app.options, &request), app.options.api_root);
    answer(style, StatusCode::OK, &Discovery::new(&app.options, &root))
}

/// `GET {api-root}/`
pub(super) async fn api_root(State(app): State<Arc<App>>, Extension(style): Extension<Style>) -> Response {
    answer(style, StatusCode::OK, &ApiRoot::new(&app.options, style.version))
}

/// `GET /`
pub(super) async fn landing(State(app): State<Arc<App>>, request: Request) -> Response {
    let base = base(&app.options, &request);
    let root = &app.options.api_root;
    let discoveries = [
        (StixVersion::V21, format!("discovery    {base}{DISCOVERY_21}/ (TAXII 2.1)\n")),
        (StixVersion::V20, format!("discovery    {base}{DISCOVERY_20}/ (TAXII 2.0)\n")),
    ];
    let discoveries: String =
        discoveries.into_iter().filter(|(version, _)| app.options.serves(*version)).map(|(_, line)| line).collect();
    let accept = if app.options.serves(StixVersion::V21) { TAXII_21 } else { TAXII_20 };
    let text = format!(
        "{title}: threat intelligence over TAXII\n\n\
         {discoveries}\
         API root     {base}/{root}/\n\
         collections  {base}/{root}/collections/\n\n\
         curl -H 'Accept: {accept}' {base}/{root}/collections/\n",
        title = app.options.title.as_deref().unwrap_or("taxiway"),
    );
    ([(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))], text).into_response()
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
