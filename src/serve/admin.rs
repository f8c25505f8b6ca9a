//! The admin listener: `/health`, `/ready` and `/metrics`, for everyone who can reach it, and the management API for those it
//! is for; on a socket of its own.

use std::sync::Arc;

use axum::Router;
use axum::extract::{OriginalUri, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use tower::ServiceExt;

use crate::serve::reload::Live;
use crate::serve::sources;

const TEXT: &str = "text/plain; charset=utf-8";
/// Prometheus' text format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What monitoring is told of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreState {
    /// Version of its newest manifest.
    pub version: u64,
    /// Segments.
    pub segments: u64,
    /// Rows that can be served.
    pub rows: u64,
    /// Relationships whose ends are not there yet.
    pub rows_waiting: u64,
}

/// Reads the store's newest state; the error says why it cannot be read. May block.
pub type Probe = Arc<dyn Fn() -> Result<StoreState, String> + Send + Sync>;

/// Its paths.
pub(super) fn admin(live: Arc<Live>) -> Router {
    Router::new()
        .route("/health", get(async || plain(StatusCode::OK, "ok")))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/configapi/{*rest}", any(managed))
        .route("/monitorapi/{*rest}", any(managed))
        .fallback(async || plain(StatusCode::NOT_FOUND, "here are /health, /ready and /metrics"))
        .with_state(live)
}

/// The management API, as the configuration has it now.
async fn managed(State(live): State<Arc<Live>>, OriginalUri(uri): OriginalUri, mut request: Request) -> Response {
    *request.uri_mut() = uri;
    let Ok(response) = live.management_routes().oneshot(request).await;
    response
}

fn plain(status: StatusCode, text: &str) -> Response {
    (status, head(TEXT), format!("{text}\n")).into_response()
}

fn head(content_type: &'static str) -> [(HeaderName, &'static str); 2] {
    [(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-store")]
}

/// Whether requests should be sent here.
async fn ready(State(live): State<Arc<Live>>) -> Response {
    match state(&live).await {
        Ok(_) => plain(StatusCode::OK, "ready"),
        Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, &why),
    }
}

/// The store's newest state, if there is a store; the error is why this server is not ready.
async fn state(live: &Live) -> Result<Option<StoreState>, String> {
    let state = match live.probe() {
        Some(probe) => {
            let read = tokio::task::spawn_blocking(move || probe()).await;
            Some(read.unwrap_or_else(|_| Err("the store cannot be read".to_owned()))?)
        }
        None => None,
    };
    if live.is_stopping() { Err("stopping".to_owned()) } else { Ok(state) }
}

async fn metrics(State(live): State<Arc<Live>>) -> Response {
    let state = state(&live).await;
    let app = live.app();
    let lasting = live.lasting();
    let metrics = &lasting.metrics;
    let show = |name, value: u64| metrics.show(name, &[], value as f64);
    show("taxiway_ready", u64::from(state.is_ok()));
    if let Ok(Some(store)) = state {
        show("taxiway_store_version", store.version);
        show("taxiway_store_segments", store.segments);
        show("taxiway_store_rows", store.rows);
        show("taxiway_store_rows_waiting", store.rows_waiting);
    }
    show("taxiway_collections", app.feed.catalog().len() as u64);
    show("taxiway_permits_used", lasting.requests.used());
    show("taxiway_bodies_bytes", lasting.bodies.used());
    show("taxiway_connections", lasting.connections.used());
    show("taxiway_password_hashes", app.gate.hashed());
    let mut text = metrics.text();
    if let Some(sources) = lasting.sources.get().map(Arc::clone) {
        // It reads files.
        let read = tokio::task::spawn_blocking(move || sources::text(&sources)).await;
        text.push_str(&read.unwrap_or_default());
    }
    (StatusCode::OK, head(METRICS), text).into_response()
}
