//! All paths in one place, and the layers every request passes.

use std::sync::Arc;

use axum::http::header::ALLOW;
use axum::http::{Method, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use axum::{Extension, Router};
use tokio::sync::Semaphore;
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::SizeAbove;

use crate::feed::api::{Feed, Profile};
use crate::serve::auth::{Gate, authenticate};
use crate::serve::collections::{collection, collections};
use crate::serve::discovery::{DISCOVERY_20, DISCOVERY_21, LANDING_PATH, api_root, discovery, landing};
use crate::serve::error::{METHODS_OF_ORIGINAL, ServeError, StartError, cut, panicked};
use crate::serve::limits::{limit, limit_head};
use crate::serve::negotiate::negotiate;
use crate::serve::objects::{delete_object, manifest, object, objects, post_objects, status, versions};
use crate::serve::observe::{observe, write_errors};
use crate::serve::options::Options;
use crate::serve::style::Style;

/// Bodies up to this many bytes are not worth compressing.
const COMPRESS_ABOVE_BYTES: u64 = 1024;

/// What the handlers share.
#[derive(Debug)]
pub struct App {
    pub(super) feed: Arc<dyn Feed>,
    pub(super) options: Options,
    pub(super) gate: Gate,
    pub(super) permits: Arc<Semaphore>,
}

impl App {
    /// Reads the users file and refuses options that would open the server to everyone by accident.
    pub fn new(feed: Arc<dyn Feed>, options: Options) -> Result<Arc<Self>, StartError> {
        let gate = Gate::open(&options)?;
        let permits = Arc::new(Semaphore::new(options.limits.concurrent_requests));
        Ok(Arc::new(Self { feed, options, gate, permits }))
    }
}

/// The whole service, without a socket.
pub fn router(app: Arc<App>) -> Router {
    let root = format!("/{}", app.options.api_root);
    let at = |path: &str| format!("{root}{path}");
    let mut router = Router::new().route(LANDING_PATH, get(landing));
    let routes: [(String, MethodRouter<Arc<App>>); 9] = [
        (DISCOVERY_20.to_owned(), get(discovery)),
        (DISCOVERY_21.to_owned(), get(discovery)),
        (root.clone(), get(api_root)),
        (at("/status/{status}"), get(status)),
        (at("/collections"), get(collections)),
        (at("/collections/{collection}"), get(collection)),
        (at("/collections/{collection}/manifest"), get(manifest)),
        (at("/collections/{collection}/objects"), get(objects).post(post_objects)),
        (at("/collections/{collection}/objects/{object}"), get(object).delete(delete_object)),
    ];
    let of_versions = (at("/collections/{collection}/objects/{object}/versions"), get(versions));
    for (path, methods) in routes.into_iter().chain([of_versions]) {
        // A redirect to the slashed form would lose the credentials of some clients.
        router = router.route(&format!("{path}/"), methods.clone()).route(&path, methods);
    }
    router
        .fallback(async |uri: Uri| unknown(uri.path()).into_response())
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn(negotiate))
        .layer(from_fn_with_state(Arc::clone(&app), authenticate))
        .layer(from_fn_with_state(Arc::clone(&app), limit))
        .layer(from_fn(limit_head))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(Arc::clone(&app), write_errors))
        .layer(
            CompressionLayer::new()
                .quality(CompressionLevel::Fastest)
                .compress_when(SizeAbove::new(COMPRESS_ABOVE_BYTES + 1)),
        )
        .layer(from_fn_with_state(Arc::clone(&app), observe))
        .with_state(app)
}

/// What is not there: an API root, if the path is what there is in one.
fn unknown(path: &str) -> ServeError {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    match segments.as_slice() {
        [name]
        | [name, "collections"]
        | [name, "collections" | "status", _]
        | [name, "collections", _, "manifest" | "objects"]
            if !name.is_empty() =>
        {
            ServeError::UnknownApiRoot { name: cut(name) }
        }
        _ => ServeError::UnknownPath,
    }
}

/// The original answers OPTIONS everywhere.
async fn method_not_allowed(Extension(style): Extension<Style>, method: Method) -> Response {
    if style.profile == Profile::Xsoar && method == Method::OPTIONS {
        return [(ALLOW, METHODS_OF_ORIGINAL)].into_response();
    }
    ServeError::MethodNotAllowed.into_response()
}
