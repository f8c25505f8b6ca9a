//! Collections (TAXII 2.1 §5.1, §5.2).

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;

use crate::feed::collection::Collection;
use crate::serve::error::{ServeError, cut};
use crate::serve::resource::{CollectionResource, Collections, answer};
use crate::serve::router::App;

/// `GET {api-root}/collections/`
pub(super) async fn collections(State(app): State<Arc<App>>) -> Response {
    let catalog = app.feed.catalog();
    let collections = catalog.iter().map(|collection| CollectionResource::from(&**collection)).collect();
    answer(StatusCode::OK, &Collections { collections })
}

/// `GET {api-root}/collections/{id}/`
pub(super) async fn collection(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, ServeError> {
    let Path(name) = path.map_err(|_| ServeError::UnknownPath)?;
    let collection = find(&app, &name)?;
    Ok(answer(StatusCode::OK, &CollectionResource::from(&*collection)))
}

/// The collection of that id or alias.
pub(super) fn find(app: &App, name: &str) -> Result<Arc<Collection>, ServeError> {
    let catalog = app.feed.catalog();
    catalog.get(name).cloned().ok_or_else(|| ServeError::UnknownCollection { name: cut(name) })
}
