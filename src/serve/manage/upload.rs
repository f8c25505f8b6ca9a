//! Receiving files: as a form (`multipart/form-data`), or as the body itself with its name in the header `file_name`.
//!
//! Scripts differ in how they say the name. The header goes first, then a text field `file_name` that comes before the file,
//! then what the file's own part says. A field `file_name` that holds the file itself, as the original's examples have it, is
//! told from a text by its own file name, or by the header.

use std::time::Duration;

use axum::body::Body;
use axum::extract::multipart::{Field, Multipart};
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::collect::files::{FileError, Incoming, MAX_CERTIFICATE_BYTES, check_name};
use crate::serve::error::{ServeError, cut};
use crate::serve::manage::error::ManageError;

const FILE_NAME: &str = "file_name";
/// Most files in one form.
const MAX_FILES: usize = 16;
/// Longest text field.
const MAX_TEXT_BYTES: usize = 1_024;
/// Bytes that are written to disk at once.
const PIECE_BYTES: usize = 512 << 10;

/// Where a file goes while it comes.
#[derive(Debug)]
pub(super) enum Sink {
    /// Into memory: it is small, and is sealed as a whole.
    Certificate(Vec<u8>),
    /// To disk, with what has come and is not written yet.
    Package(Box<Incoming>, Vec<u8>),
}

/// A file that came whole.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) name: String,
    pub(super) sink: Sink,
}

/// Begins a file of that name.
pub(super) trait Open: Fn(&str) -> Result<Sink, FileError> + Clone + Send + Sync + 'static {}

impl<F: Fn(&str) -> Result<Sink, FileError> + Clone + Send + Sync + 'static> Open for F {}

/// Takes the files of a request, at most `pause` between two pieces.
pub(super) async fn receive(request: Request, pause: Duration, open: impl Open) -> Result<Vec<Received>, ManageError> {
    let header = header_name(request.headers())?;
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let received = if content_type.trim_start().to_ascii_lowercase().starts_with("multipart/") {
        let form = Multipart::from_request(request, &()).await;
        let form = form.map_err(|error| ManageError::Bad(format!("the form cannot be read: {}", error.body_text())))?;
        parts(form, header, pause, open).await?
    } else {
        let Some(name) = header else {
            return Err(ManageError::Bad(
                "the file has no name: send it as a form (multipart/form-data) in the field `file`, or its name in the header \
                 `file_name`"
                    .to_owned(),
            ));
        };
        vec![whole(request.into_body(), name, pause, open).await?]
    };
    match received.as_slice() {
        [] => Err(ManageError::Bad("the form holds no file: send it in the field `file` or `file_name`".to_owned())),
        _ => Ok(received),
    }
}

/// The header `file_name`, where there is one.
fn header_name(headers: &HeaderMap) -> Result<Option<String>, ManageError> {
    let Some(value) = headers.get(FILE_NAME) else { return Ok(None) };
    let text = std::str::from_utf8(value.as_bytes());
    let text = text.map_err(|_| ManageError::Bad("the header `file_name` is not UTF-8".to_owned()))?.trim();
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

/// The body is the file.
async fn whole(mut body: Body, name: String, pause: Duration, open: impl Open) -> Result<Received, ManageError> {
    let mut sink = opened(&name, open).await?;
    while let Some(frame) = within(pause, body.frame()).await? {
        let frame = frame.map_err(|_| ServeError::BodyBroken { reason: "ended before its end".into() })?;
        if let Ok(data) = frame.into_data() {
            sink = write(sink, &name, data).await?;
        }
    }
    finished(name, sink).await
}

async fn parts(
    mut form: Multipart,
    header: Option<String>,
    pause: Duration,
    open: impl Open,
) -> Result<Vec<Received>, ManageError> {
    let mut received = Vec::new();
    let mut named: Option<String> = None;
    loop {
        let field = within(pause, form.next_field()).await?;
        let Some(field) = field.map_err(|error| broken(&error))? else { break };
        let (key, own) = (field.name().unwrap_or_default().to_owned(), field.file_name().map(str::to_owned));
        let is_text = own.is_none() && key == FILE_NAME && header.is_none();
        if is_text {
            named = Some(text(field, pause).await?);
            continue;
        }
        if own.is_none() && key != "file" && key != FILE_NAME {
            // Fields that mean nothing here; the rest of it is passed over.
            continue;
        }
        if received.len() >= MAX_FILES {
            return Err(ManageError::Bad(format!("a form may hold {MAX_FILES} files")));
        }
        // One name is that of one file; of further ones each has its own.
        let given = if received.is_empty() { header.clone().or(named.take()) } else { named.take() };
        let Some(name) = given.or(own).filter(|name| !name.is_empty()) else {
            return Err(ManageError::Bad(
                "the file has no name: send one with its part, in the header `file_name`, or in a field `file_name` before it"
                    .to_owned(),
            ));
        };
        if let Some(one) = one_file(field, &name, header.as_deref(), pause, open.clone()).await? {
            received.push(one);
        }
    }
    Ok(received)
}

/// One part; `None` for a field `file_name` that only repeats the header.
async fn one_file(
    mut field: Field<'_>,
    name: &str,
    header: Option<&str>,
    pause: Duration,
    open: impl Open,
) -> Result<Option<Received>, ManageError> {
    let may_repeat = field.file_name().is_none() && field.name() == Some(FILE_NAME);
    let mut first = Vec::new();
    // As much as tells a name from a file.
    while may_repeat && first.len() <= MAX_TEXT_BYTES {
        match within(pause, field.chunk()).await?.map_err(|error| broken(&error))? {
            Some(piece) => first.extend_from_slice(&piece),
            None if header.is_some_and(|header| first.trim_ascii() == header.as_bytes()) => return Ok(None),
            None => break,
        }
    }
    let mut sink = opened(name, open).await?;
    sink = write(sink, name, Bytes::from(first)).await?;
    while let Some(piece) = within(pause, field.chunk()).await?.map_err(|error| broken(&error))? {
        sink = write(sink, name, piece).await?;
    }
    finished(name.to_owned(), sink).await.map(Some)
}

async fn text(mut field: Field<'_>, pause: Duration) -> Result<String, ManageError> {
    let mut bytes = Vec::new();
    while let Some(piece) = within(pause, field.chunk()).await?.map_err(|error| broken(&error))? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MAX_TEXT_BYTES {
            return Err(ManageError::Bad(
                "the field `file_name` holds more than a name: send a file in the field `file`, or its name in the header \
                 `file_name`"
                    .to_owned(),
            ));
        }
    }
    let text = String::from_utf8(bytes);
    text.map(|text| text.trim().to_owned())
        .map_err(|_| ManageError::Bad("the field `file_name` is not UTF-8".to_owned()))
}

async fn opened(name: &str, open: impl Open) -> Result<Sink, ManageError> {
    // Before anything is written, and without a look at the disk.
    if let Err(reason) = check_name(name) {
        return Err(FileError::BadName { name: cut(name), reason }.into());
    }
    let name = name.to_owned();
    Ok(blocking(move || open(&name)).await??)
}

async fn write(sink: Sink, name: &str, piece: Bytes) -> Result<Sink, ManageError> {
    match sink {
        Sink::Certificate(mut bytes) => {
            if bytes.len() + piece.len() > MAX_CERTIFICATE_BYTES {
                return Err(FileError::TooLarge { name: cut(name), most: MAX_CERTIFICATE_BYTES as u64 }.into());
            }
            bytes.extend_from_slice(&piece);
            Ok(Sink::Certificate(bytes))
        }
        Sink::Package(incoming, mut held) => {
            held.extend_from_slice(&piece);
            if held.len() < PIECE_BYTES {
                return Ok(Sink::Package(incoming, held));
            }
            flush(incoming, held).await
        }
    }
}

async fn flush(mut incoming: Box<Incoming>, mut held: Vec<u8>) -> Result<Sink, ManageError> {
    let written = blocking(move || {
        incoming.write(&held)?;
        held.clear();
        Ok::<_, FileError>(Sink::Package(incoming, held))
    });
    Ok(written.await??)
}

async fn finished(name: String, sink: Sink) -> Result<Received, ManageError> {
    let sink = match sink {
        Sink::Certificate(bytes) if bytes.is_empty() => {
            return Err(ManageError::Bad(format!("`{}` is empty", cut(&name))));
        }
        Sink::Certificate(bytes) => Sink::Certificate(bytes),
        Sink::Package(incoming, held) => flush(incoming, held).await?,
    };
    Ok(Received { name, sink })
}

async fn within<T>(pause: Duration, next: impl Future<Output = T>) -> Result<T, ManageError> {
    timeout(pause, next).await.map_err(|_| ServeError::BodyTooSlow { what: "no byte for long" }.into())
}

fn broken(error: &axum::extract::multipart::MultipartError) -> ManageError {
    ManageError::Bad(format!("the form cannot be read: {}", error.body_text()))
}

/// Runs what touches the disk on a thread where that holds nobody up.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ManageError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ManageError::Internal("a call of the management API panicked".to_owned()))
}
