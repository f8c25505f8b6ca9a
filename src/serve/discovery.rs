//! Discovery and API root (TAXII 2.1 §4.1, §4.2), and a word for people who come by browser.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::feed::api::StixVersion;
use crate::serve::auth::Identity;
use crate::serve::client::Client;
use crate::serve::negotiate::{TAXII_20, TAXII_21};
use crate::serve::options::Options;
use crate::serve::resource::{ApiRoot, Discovery, answer};
use crate::serve::rights::Root;
use crate::serve::router::App;
use crate::serve::style::Style;

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

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
    Extension(identity): Extension<Identity>,
    request: Request,
) -> Response {
    let base = base(&app.options, &request);
    let roots: Vec<String> = known_roots(&app, &identity).map(|root| format!("{base}/{root}/")).collect();
    answer(style, StatusCode::OK, &Discovery::new(&app.options, &roots))
}

/// Paths of the API roots that the requester may know of.
fn known_roots<'a>(app: &'a App, identity: &Identity) -> impl Iterator<Item = &'a str> {
    let rights = app.rights();
    let paths = app.options.api_roots.iter().map(|root| root.path.as_str());
    paths.filter(move |path| rights.knows_root(identity, path))
}

/// `GET {api-root}/`
pub(super) async fn api_root(
    State(app): State<Arc<App>>,
    Extension(style): Extension<Style>,
    Extension(Root(root)): Extension<Root>,
) -> Response {
    answer(style, StatusCode::OK, &ApiRoot::new(&app.options, &root, style.version))
}

/// `GET /`
pub(super) async fn landing(
    State(app): State<Arc<App>>,
    Extension(identity): Extension<Identity>,
    request: Request,
) -> Response {
    let base = base(&app.options, &request);
    let mut text = format!("{}: threat intelligence over TAXII\n\n", app.options.title.as_deref().unwrap_or("taxiway"));
    for (version, path) in [(StixVersion::V21, DISCOVERY_21), (StixVersion::V20, DISCOVERY_20)] {
        if app.options.serves(version) {
            text.push_str(&format!("discovery    {base}{path}/ (TAXII {})\n", version.as_str()));
        }
    }
    let accept = if app.options.serves(StixVersion::V21) { TAXII_21 } else { TAXII_20 };
    let roots: Vec<&str> = known_roots(&app, &identity).collect();
    for root in &roots {
        text.push_str(&format!("API root     {base}/{root}/\ncollections  {base}/{root}/collections/\n"));
    }
    if let Some(root) = roots.first() {
        text.push_str(&format!("\ncurl -H 'Accept: {accept}' {base}/{root}/collections/\n"));
    }
    ([(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))], text).into_response()
}

/// Scheme and host as the client sees them: as trusted proxies tell them, else as the request names them. Empty, which
/// makes relative URLs, when no usable host is named.
fn base(options: &Options, request: &Request) -> String {
    if let Some(base) = &options.base_url {
        return base.clone();
    }
    let proxied = request.extensions().get::<Client>().is_some_and(|client| options.trusts(client.peer));
    // The proxy that the client spoke to is the first to write these, and the others add theirs behind.
    let told = |name: HeaderName| {
        let value = request.headers().get(name).filter(|_| proxied)?.to_str().ok()?;
        value.split(',').next().map(str::trim).filter(|value| !value.is_empty())
    };
    // HTTP/2 names the host in the URI, HTTP/1.1 in the header.
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let host = told(X_FORWARDED_HOST)
        .or(authority)
        .or_else(|| request.headers().get(HOST).and_then(|host| host.to_str().ok()));
    let scheme = match told(X_FORWARDED_PROTO) {
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => "https",
        Some(scheme) if scheme.eq_ignore_ascii_case("http") => "http",
        _ if options.tls.is_some() => "https",
        _ => "http",
    };
    host.filter(|host| is_host(host)).map_or_else(String::new, |host| format!("{scheme}://{host}"))
}

/// Name or address with an optional port, and nothing that would mean something else inside a URL.
fn is_host(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    !text.is_empty() && text.len() <= 300 && text.bytes().all(plain)
}
