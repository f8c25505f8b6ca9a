//! Collections (TAXII 2.1 §5.1, §5.2).

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;

use crate::feed::api::Profile;
use crate::serve::auth::Identity;
use crate::serve::error::ServeError;
use crate::serve::resource::{CollectionResource, Collections, answer};
use crate::serve::rights::{Root, hidden};
use crate::serve::router::App;
use crate::serve::style::Style;

/// `GET {api-root}/collections/`
pub(super) async fn collections(
    State(app): State<Arc<App>>,
    Extension(style): Extension<Style>,
    Extension(identity): Extension<Identity>,
    Extension(Root(root)): Extension<Root>,
) -> Response {
    let rights = app.rights();
    // The original keeps the order of its configuration, interoperability tests ask for that of ids.
    let resource = match style.profile {
        Profile::Standard => Collections::new(rights.listed(&identity, &root), style),
        Profile::Xsoar => Collections::new(rights.configured(&identity, &root), style),
    };
    answer(style, StatusCode::OK, &resource)
}

/// `GET {api-root}/collections/{id}/`
pub(super) async fn collection(
    State(app): State<Arc<App>>,
    Extension(style): Extension<Style>,
    Extension(identity): Extension<Identity>,
    Extension(Root(root)): Extension<Root>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, ServeError> {
    let Path(name) = path.map_err(|_| hidden(&identity, ServeError::UnknownPath))?;
    let (collection, allowed) = app.rights().known(&identity, &root, &name)?;
    Ok(answer(style, StatusCode::OK, &CollectionResource::new(&collection, allowed, style.version)))
}
