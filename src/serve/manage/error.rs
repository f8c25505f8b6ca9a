//! Why a call of the management API has no ordinary answer, and how that is written: `{"status": "Failed", "message": …}`,
//! with the fields that are wrong.

use std::borrow::Cow;
use std::error::Error;

use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::collect::RegistryError;
use crate::collect::files::FileError;
use crate::serve::error::{ServeError, chain};
use crate::serve::manage::fields::Problem;
use crate::serve::manage::installations::InstallError;
use crate::serve::manage::path::Nothing;
use crate::serve::manage::source;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Why a call fails. Texts are for the client.
#[derive(Debug)]
pub(super) enum ManageError {
    /// As everywhere else on this server.
    Serve(ServeError),
    /// There is nothing there.
    Unknown(String),
    /// Other methods only.
    Method(String),
    /// The body is wrong in these fields.
    Fields(Vec<Problem>),
    /// The request is wrong as a whole.
    Bad(String),
    /// It does not go with how things are.
    Conflict(String),
    /// Somebody else was quicker.
    Changed(String),
    /// The body is too large.
    TooLarge(String),
    /// It failed here; the text is for the log.
    Internal(String),
}

impl ManageError {
    pub(super) fn internal(error: &dyn Error) -> Self {
        ManageError::Internal(chain(error))
    }
}

impl From<ServeError> for ManageError {
    fn from(error: ServeError) -> Self {
        ManageError::Serve(error)
    }
}

impl From<Vec<Problem>> for ManageError {
    fn from(problems: Vec<Problem>) -> Self {
        ManageError::Fields(problems)
    }
}

impl From<std::io::Error> for ManageError {
    fn from(error: std::io::Error) -> Self {
        ManageError::internal(&error)
    }
}

impl From<Nothing> for ManageError {
    fn from(nothing: Nothing) -> Self {
        match nothing {
            Nothing::Path => ManageError::Unknown(
                "there is nothing at this path; docs/management-api.md of taxiway lists the calls".to_owned(),
            ),
            Nothing::Label(label, reason) => {
                ManageError::Bad(format!("`{label}` cannot be the name of a pool or an installation: it {reason}"))
            }
            Nothing::Method(allowed) => ManageError::Method(allowed),
        }
    }
}

impl From<FileError> for ManageError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::BadName { .. } => ManageError::Bad(error.to_string()),
            FileError::Unknown { .. } => ManageError::Unknown(error.to_string()),
            FileError::TooLarge { .. } => ManageError::TooLarge(error.to_string()),
            FileError::TooMany { .. } => ManageError::Conflict(error.to_string()),
            FileError::Io { .. } | FileError::Seal(_) => ManageError::internal(&error),
        }
    }
}

impl From<InstallError> for ManageError {
    fn from(error: InstallError) -> Self {
        match error {
            InstallError::Unknown(_) => ManageError::Unknown(error.to_string()),
            InstallError::TooMany => ManageError::Conflict(error.to_string()),
            InstallError::Io(_) => ManageError::internal(&error),
        }
    }
}

impl From<RegistryError> for ManageError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Fields(problems) => ManageError::Fields(source::problems(problems)),
            RegistryError::Unknown { name } => ManageError::Unknown(format!("there is no source `{name}` here")),
            RegistryError::Taken { name, .. } => {
                ManageError::Conflict(format!("there is a source of the name `{name}` already; choose another `name`"))
            }
            RegistryError::Configured { name } => ManageError::Conflict(format!(
                "source `{name}` is in the configuration file of the server, and is changed there alone"
            )),
            RegistryError::Changed { name, expected, found } => ManageError::Changed(format!(
                "source `{name}` was changed by somebody else meanwhile: it is at revision {found}, not {expected}"
            )),
            RegistryError::Renamed { name, .. } => ManageError::Fields(vec![Problem::new(
                "name",
                format!(
                    "cannot change: what was fetched is marked with `{name}`; make another source, and delete this one"
                ),
            )]),
            RegistryError::Locked { .. } => ManageError::Serve(ServeError::Busy { what: "changes of sources" }),
            RegistryError::Read { .. }
            | RegistryError::Write { .. }
            | RegistryError::Damaged { .. }
            | RegistryError::Seal(_)
            | RegistryError::NoFolder { .. } => ManageError::internal(&error),
        }
    }
}

/// The failure behind an answer, for the log.
#[derive(Clone, Debug)]
pub(super) struct Cause(pub(super) String);

impl IntoResponse for ManageError {
    fn into_response(self) -> Response {
        let (status, message, problems) = match self {
            // Written out by the layer above, as those of the layers are.
            ManageError::Serve(error) => return error.into_response(),
            ManageError::Unknown(text) => (StatusCode::NOT_FOUND, text, Vec::new()),
            ManageError::Method(allowed) => {
                let text = format!("there is another method here only: {allowed}");
                let mut response = failed(StatusCode::METHOD_NOT_ALLOWED, &text, &[]);
                if let Ok(value) = HeaderValue::try_from(allowed) {
                    response.headers_mut().insert(ALLOW, value);
                }
                return response;
            }
            ManageError::Fields(problems) => {
                let told: Vec<String> =
                    problems.iter().map(|problem| format!("`{}` {}", problem.field, problem.reason)).collect();
                (StatusCode::BAD_REQUEST, told.join("; "), problems)
            }
            ManageError::Bad(text) => (StatusCode::BAD_REQUEST, text, Vec::new()),
            ManageError::Conflict(text) => (StatusCode::CONFLICT, text, Vec::new()),
            ManageError::Changed(text) => (StatusCode::PRECONDITION_FAILED, text, Vec::new()),
            ManageError::TooLarge(text) => (StatusCode::PAYLOAD_TOO_LARGE, text, Vec::new()),
            ManageError::Internal(cause) => {
                let text = "the server could not do this; its log has the reason under this X-Request-Id";
                let mut response = failed(StatusCode::INTERNAL_SERVER_ERROR, text, &[]);
                response.extensions_mut().insert(Cause(cause));
                return response;
            }
        };
        failed(status, &message, &problems)
    }
}

/// A failure of the layers, under the names of this API.
pub(super) fn of_layer(error: &ServeError, response: &mut Response) {
    let face = error.outside();
    let text: Cow<'_, str> = match error {
        // Their own texts speak of objects.
        ServeError::BodyTooLarge { max } => format!("a body may have {max} bytes here").into(),
        ServeError::UnknownPath => "there is nothing at this path".into(),
        _ => face.description.unwrap_or(face.title.into()),
    };
    let (parts, body) = failed(face.status, &text, &[]).into_parts();
    response.headers_mut().extend(parts.headers);
    *response.body_mut() = body;
}

fn failed(status: StatusCode, message: &str, problems: &[Problem]) -> Response {
    let mut body = json!({ "status": "Failed", "message": message });
    if !problems.is_empty()
        && let Some(map) = body.as_object_mut()
    {
        let errors = problems.iter().map(|problem| json!({ "field": problem.field, "message": problem.reason }));
        map.insert("errors".to_owned(), errors.collect::<Vec<_>>().into());
    }
    answer(status, &body)
}

/// A JSON body.
pub(super) fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(CONTENT_TYPE, JSON), (CACHE_CONTROL, NO_STORE)], body.to_string()).into_response()
}
