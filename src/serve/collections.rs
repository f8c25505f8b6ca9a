//! Collections (TAXII 2.1 §5.1, §5.2).

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;

use crate::feed::collection::Collection;
use crate::serve::error::{ServeError, cut};
use crate::serve::resource::{CollectionResource, Collections, answer};
use crate::serve::router::App;
use crate::serve::style::Style;

/// `GET {api-root}/collections/`
pub(super) async fn collections(State(app): State<Arc<App>>, Extension(style): Extension<Style>) -> Response {
    let catalog = app.feed.catalog();
    answer(style, StatusCode::OK, &Collections::new(&catalog, style.version, style.profile))
}

/// `GET {api-root}/collections/{id}/`
pub(super) async fn collection(
    State(app): State<Arc<App>>,
    Extension(style): Extension<Style>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, ServeError> {
    let Path(name) = path.map_err(|_| ServeError::UnknownPath)?;
    let collection = find(&app, &name)?;
    Ok(answer(style, StatusCode::OK, &CollectionResource::new(&collection, style.version)))
}

/// The collection of that id or alias.
pub(super) fn find(app: &App, name: &str) -> Result<Arc<Collection>, ServeError> {
    let catalog = app.feed.catalog();
    catalog.get(name).cloned().ok_or_else(|| ServeError::UnknownCollection { name: cut(name) })
}
