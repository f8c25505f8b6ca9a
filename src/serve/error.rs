//! Every way a request can fail, and every way a start can; the one place that turns failures into statuses.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{ACCEPT_ENCODING, ALLOW, CONTENT_RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::enrich::EnrichError;
use crate::feed::api::{FeedError, Profile, StixVersion};
use crate::inbox::InboxError;
use crate::serve::body::ENCODINGS;
use crate::serve::discovery::{DISCOVERY_20, DISCOVERY_21};
use crate::serve::negotiate::{STIX_20, STIX_21, TAXII_20, TAXII_21, taxii_type};
use crate::serve::range;
use crate::serve::resource::{ErrorResource, answer};
use crate::serve::style::Style;
use crate::serve::users::UserError;

/// Why a request has no ordinary answer. `Display` is the inside text, for the log; clients read [`ServeError::outside`].
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Credentials are missing or wrong.
    #[error("unauthorized: {reason}")]
    Unauthorized {
        /// Inside reason; clients get the same text whatever it is.
        reason: &'static str,
    },
    /// A token opens nothing.
    #[error("unauthorized: {reason}")]
    BadToken {
        /// Inside reason.
        reason: &'static str,
        /// Whether it would have opened something before: its holder may know that, nobody else can make it be said.
        expired: bool,
    },
    /// The requester knows of it and may not do this.
    #[error("forbidden: {what}")]
    Forbidden {
        /// What, finishing a sentence that begins with `You may not`.
        what: &'static str,
    },
    /// Nothing that `Accept` names can be served.
    #[error("not acceptable: `{accept}`")]
    NotAcceptable {
        /// The header, cut.
        accept: String,
        /// The version that it names and this server does not serve.
        unserved: Option<StixVersion>,
        /// What is served.
        served: Vec<StixVersion>,
    },
    /// No resource has this path.
    #[error("no resource at this path")]
    UnknownPath,
    /// No API root has this name.
    #[error("no API root `{name}`")]
    UnknownApiRoot {
        /// As asked for, cut.
        name: String,
    },
    /// No collection has this id or alias.
    #[error("no collection `{name}`")]
    UnknownCollection {
        /// As asked for, cut.
        name: String,
    },
    /// No status resource has this id.
    #[error("no status resource")]
    UnknownStatus,
    /// The resource exists, the method does not.
    #[error("method not allowed")]
    MethodNotAllowed,
    /// The collection cannot be written to.
    #[error("collection `{title}` is read-only")]
    ReadOnly {
        /// Its title.
        title: String,
    },
    /// The URL is longer than is read.
    #[error("URL of {bytes} bytes")]
    UrlTooLong {
        /// Its length.
        bytes: usize,
        /// The longest that is read.
        max: usize,
    },
    /// The header fields are larger than is read.
    #[error("header fields of {bytes} bytes")]
    HeadersTooLarge {
        /// Their size.
        bytes: usize,
        /// The largest that is read.
        max: usize,
    },
    /// The body is larger than is taken, as sent or decompressed.
    #[error("body of more than {max} bytes")]
    BodyTooLarge {
        /// The largest that is taken.
        max: u64,
    },
    /// The body is compressed in a way that is not understood.
    #[error("content encoding `{encoding}`")]
    BadEncoding {
        /// `Content-Encoding`, cut.
        encoding: String,
    },
    /// The body did not come within the time allowed.
    #[error("body too slow: {what}")]
    BodyTooSlow {
        /// Which time it was.
        what: &'static str,
    },
    /// The body ended early, or is not compressed as its head says.
    #[error("body cannot be read: {reason}")]
    BodyBroken {
        /// What is wrong with it, fit for a client.
        reason: Cow<'static, str>,
    },
    /// One client wants too much.
    #[error("too much of one client: {what}")]
    TooMany {
        /// What it has too many of.
        what: &'static str,
        /// Seconds after which it may come back.
        retry_after: u64,
    },
    /// A query parameter is malformed.
    #[error("parameter `{name}`: {reason}")]
    BadParameter {
        /// The parameter.
        name: &'static str,
        /// What is wrong with it, fit for a client.
        reason: Cow<'static, str>,
    },
    /// A parameter is malformed, and a client of the original server reads of it what it would read there.
    #[error("parameter `{name}`: {text}")]
    OldWords {
        /// The parameter.
        name: &'static str,
        /// What the original says, or begins with.
        text: String,
    },
    /// The range of items asked for cannot be read.
    #[error("range `{header}`")]
    BadRange {
        /// The header, cut.
        header: String,
    },
    /// The feed refused or failed.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// A body of a type that is not taken.
    #[error("content type `{given}`")]
    UnsupportedMediaType {
        /// The header, cut.
        given: String,
        /// What is taken.
        wanted: &'static str,
    },
    /// What was posted or is to be deleted was refused, or that failed.
    #[error(transparent)]
    Inbox(#[from] InboxError),
    /// Values could not be looked up.
    #[error(transparent)]
    Enrich(#[from] EnrichError),
    /// Too many requests at once, or too many password checks.
    #[error("busy: {what}")]
    Busy {
        /// What is used up.
        what: &'static str,
    },
    /// No first byte within the time allowed.
    #[error("timed out before the first byte")]
    TimedOut,
    /// A handler panicked.
    #[error("panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// A part that never fails did.
    #[error("{what}")]
    Internal {
        /// What was being done.
        what: &'static str,
    },
}

/// What a client gets to know.
#[derive(Debug, PartialEq, Eq)]
pub struct Outside {
    /// HTTP status.
    pub status: StatusCode,
    /// Stable word for programs.
    pub code: &'static str,
    /// Short text for people.
    pub title: &'static str,
    /// More, where there is more to say.
    pub description: Option<Cow<'static, str>>,
}

/// What the original server allows everywhere.
pub(super) const METHODS_OF_ORIGINAL: &str = "HEAD, OPTIONS, GET";

/// Seconds after which a refused client should come back.
const RETRY_SECONDS: &str = "5";

impl ServeError {
    /// The public face of the failure: no path of this machine, no query, no credentials.
    pub fn outside(&self) -> Outside {
        let (status, code, title, description): (_, _, _, Option<Cow<'static, str>>) = match self {
            ServeError::Unauthorized { .. } => (
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "Authorization failed",
                Some("A valid user name and password, token or client certificate is needed.".into()),
            ),
            ServeError::BadToken { expired, .. } => {
                let what = if *expired { "The token has expired." } else { "The token is not valid." };
                (StatusCode::UNAUTHORIZED, "unauthorized", "Authorization failed", Some(what.into()))
            }
            ServeError::Forbidden { what } => {
                (StatusCode::FORBIDDEN, "forbidden", "Not allowed", Some(format!("You may not {what}.").into()))
            }
            ServeError::NotAcceptable { accept, served, .. } => {
                let types: Vec<&str> = served.iter().rev().map(|version| taxii_type(*version)).collect();
                let types = types.join(" or ");
                let text = format!("Nothing in `Accept: {accept}` can be served; ask for {types}.");
                (StatusCode::NOT_ACCEPTABLE, "not_acceptable", "Media type not supported", Some(text.into()))
            }
            ServeError::UnknownPath | ServeError::UnknownApiRoot { .. } => (
                StatusCode::NOT_FOUND,
                "unknown_path",
                "Unknown resource",
                Some("There is no resource at this path; begin at /taxii2/.".into()),
            ),
            ServeError::UnknownCollection { name } => (
                StatusCode::NOT_FOUND,
                "unknown_collection",
                "Unknown collection",
                Some(format!("There is no collection `{name}`; the API root's collections/ lists them.").into()),
            ),
            ServeError::UnknownStatus => (
                StatusCode::NOT_FOUND,
                "unknown_status",
                "Unknown status",
                Some("There is no status resource with this id.".into()),
            ),
            ServeError::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed", None)
            }
            ServeError::ReadOnly { .. } => (
                StatusCode::FORBIDDEN,
                "read_only",
                "Collection is read-only",
                Some("Objects can be neither added to nor deleted from this collection.".into()),
            ),
            ServeError::UrlTooLong { max, .. } => (
                StatusCode::URI_TOO_LONG,
                "url_too_long",
                "URL too long",
                Some(format!("Path and query may have {max} bytes; ask for fewer values in several requests.").into()),
            ),
            ServeError::HeadersTooLarge { max, .. } => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers_too_large",
                "Header fields too large",
                Some(format!("The header fields of a request may have {max} bytes together.").into()),
            ),
            ServeError::BodyTooLarge { max } => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "Body too large",
                Some(
                    format!(
                        "A body may have {max} bytes, as sent and decompressed; send the objects in several parts."
                    )
                    .into(),
                ),
            ),
            ServeError::BadEncoding { encoding } => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "bad_content_encoding",
                "Content encoding not supported",
                Some(format!("`Content-Encoding: {encoding}` is not understood; it can be {ENCODINGS}.").into()),
            ),
            ServeError::BodyTooSlow { .. } => (
                StatusCode::REQUEST_TIMEOUT,
                "body_too_slow",
                "Body too slow",
                Some("The body did not come within the time allowed.".into()),
            ),
            ServeError::BodyBroken { reason } => {
                (StatusCode::BAD_REQUEST, "bad_body", "Body cannot be read", Some(format!("The body {reason}.").into()))
            }
            ServeError::TooMany { what, .. } => (
                StatusCode::TOO_MANY_REQUESTS,
                "too_many",
                "Too many requests",
                Some(format!("This client has too many {what}; ask again after the time in Retry-After.").into()),
            ),
            ServeError::BadParameter { name, reason } => {
                (StatusCode::BAD_REQUEST, "bad_parameter", "Bad parameter", Some(format!("`{name}` {reason}.").into()))
            }
            ServeError::OldWords { text, .. } => {
                (StatusCode::BAD_REQUEST, "bad_parameter", "Bad parameter", Some(text.clone().into()))
            }
            ServeError::BadRange { header } => (
                StatusCode::RANGE_NOT_SATISFIABLE,
                "bad_range",
                "Range not satisfiable",
                Some(format!("`{header}` is no range of items; write it as `Range: items=0-99`.").into()),
            ),
            ServeError::Busy { .. } | ServeError::Inbox(InboxError::Busy { .. }) => busy(),
            ServeError::UnsupportedMediaType { given, wanted } => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "Media type not supported",
                Some(format!("A body of the type `{given}` is not taken; send `Content-Type: {wanted}`.").into()),
            ),
            ServeError::Inbox(InboxError::Malformed { reason }) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "malformed_body",
                "Body cannot be processed",
                Some(as_sentence(reason.clone())),
            ),
            ServeError::Inbox(InboxError::UnknownObject { id }) => (
                StatusCode::NOT_FOUND,
                "unknown_object",
                "Unknown object",
                Some(format!("The collection holds no object `{}`.", cut(id)).into()),
            ),
            ServeError::Inbox(InboxError::UnknownVersion { id }) => (
                StatusCode::NOT_FOUND,
                "unknown_version",
                "Unknown version",
                Some(format!("The collection holds no such version of the object `{}`.", cut(id)).into()),
            ),
            ServeError::Inbox(
                InboxError::Store { .. }
                | InboxError::Statuses { .. }
                | InboxError::NoFolder { .. }
                | InboxError::Internal { .. },
            ) => internal(),
            ServeError::TimedOut => (
                StatusCode::SERVICE_UNAVAILABLE,
                "timed_out",
                "Timed out",
                Some("The answer took too long to begin; ask for less, or again later.".into()),
            ),
            ServeError::Panicked { .. } | ServeError::Internal { .. } | ServeError::Enrich(_) => internal(),
            ServeError::Feed(error) => match error {
                FeedError::BadCursor { .. } => {
                    (StatusCode::BAD_REQUEST, "bad_cursor", "Bad cursor", Some(sentence(error)))
                }
                FeedError::FiltersDiffer { .. } => {
                    (StatusCode::BAD_REQUEST, "filters_differ", "Filters differ", Some(sentence(error)))
                }
                FeedError::FiltersTooLong { .. } => {
                    (StatusCode::BAD_REQUEST, "too_many_values", "Too many values", Some(sentence(error)))
                }
                FeedError::UnknownObject { id } => (
                    StatusCode::NOT_FOUND,
                    "unknown_object",
                    "Unknown object",
                    Some(format!("The collection holds no object `{}`.", cut(id)).into()),
                ),
                FeedError::BehindTheEnd { .. } => (
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    "range_not_satisfiable",
                    "Range not satisfiable",
                    Some(sentence(error)),
                ),
                FeedError::Busy => busy(),
                FeedError::Store { .. } | FeedError::Internal { .. } => internal(),
            },
        };
        Outside { status, code, title, description }
    }

    /// The same in the original's words, where it has some (spec/xsoar-taxii2-server.md §2.5, §2.9, §2.12): title and
    /// description.
    fn in_old_words(&self, style: Style, api_root: &str) -> (Cow<'static, str>, Option<Cow<'static, str>>) {
        let own = self.outside();
        let discovery = match style.version {
            StixVersion::V20 => DISCOVERY_20,
            StixVersion::V21 => DISCOVERY_21,
        };
        let failed = |message: &str| {
            let text = format!("Could not perform the {}request: {message}", style.about.error_subject());
            (style.about.error_title().into(), Some(text.into()))
        };
        let out_of_range = |what: &str| {
            let text = format!("416 Requested Range Not Satisfiable: {what}");
            (style.about.error_title().into(), Some(text.into()))
        };
        match self {
            ServeError::Unauthorized { .. } | ServeError::BadToken { .. } => (own.title.into(), None),
            ServeError::NotAcceptable { unserved: Some(version), .. } => {
                let served = match version {
                    StixVersion::V20 => StixVersion::V21,
                    StixVersion::V21 => StixVersion::V20,
                };
                let text = format!(
                    "The media type (version={}) provided in the Accept header is not supported on TAXII v{}.",
                    version.as_str(),
                    served.as_str()
                );
                ("Invalid TAXII Header".into(), Some(text.into()))
            }
            ServeError::NotAcceptable { accept, unserved: None, .. } => {
                let types = ["application/taxii+json", TAXII_20, STIX_20, TAXII_21, STIX_21];
                let text = format!(
                    "Invalid Accept header: {accept}, please use one ot the following Accept headers: ['{}']",
                    types.join("', '")
                );
                ("Invalid TAXII Headers".into(), Some(text.into()))
            }
            ServeError::UnknownApiRoot { name } => {
                let text = format!("Unknown API Root {name}. Check possible API Roots using '{discovery}/'");
                ("Unknown API Root".into(), Some(text.into()))
            }
            ServeError::UnknownCollection { name } => {
                let text = format!(
                    "No collection with id \"{name}\". Use \"/{api_root}/collections/\" to get all existing collections."
                );
                ("Unknown Collection".into(), Some(text.into()))
            }
            ServeError::UnknownStatus => (
                "Get Status not allowed.".into(),
                Some("Status ID is not found, or the client does not have access to the resource".into()),
            ),
            ServeError::UnknownPath => {
                let text = format!("There is no resource at this path; begin at {discovery}/.");
                (own.title.into(), Some(text.into()))
            }
            ServeError::MethodNotAllowed => {
                (own.title.into(), Some(format!("Only {METHODS_OF_ORIGINAL} are allowed.").into()))
            }
            ServeError::OldWords { text, .. } => failed(text),
            ServeError::BadRange { header } => out_of_range(&format!("Range header: {header}")),
            ServeError::Feed(FeedError::BehindTheEnd { .. }) => {
                out_of_range("The server cannot provide the requested range.")
            }
            // What the original has no words for, since it does not know of it.
            ServeError::ReadOnly { .. }
            | ServeError::Forbidden { .. }
            | ServeError::UrlTooLong { .. }
            | ServeError::HeadersTooLarge { .. }
            | ServeError::UnsupportedMediaType { .. }
            | ServeError::Inbox(_)
            | ServeError::BodyTooLarge { .. }
            | ServeError::BadEncoding { .. }
            | ServeError::BodyTooSlow { .. }
            | ServeError::BodyBroken { .. }
            | ServeError::TooMany { .. }
            | ServeError::Feed(FeedError::UnknownObject { .. }) => (own.title.into(), own.description),
            ServeError::BadParameter { .. }
            | ServeError::Feed(
                FeedError::BadCursor { .. }
                | FeedError::FiltersDiffer { .. }
                | FeedError::FiltersTooLong { .. }
                | FeedError::Busy
                | FeedError::Store { .. }
                | FeedError::Internal { .. },
            )
            | ServeError::Busy { .. }
            | ServeError::TimedOut
            | ServeError::Panicked { .. }
            | ServeError::Internal { .. }
            | ServeError::Enrich(_) => failed(own.description.as_deref().unwrap_or(own.title)),
        }
    }

    /// RFC 6750 §3: nothing of an error where no token was sent.
    fn bearer_challenge(&self) -> &'static str {
        match self {
            ServeError::BadToken { expired: true, .. } => {
                "Bearer realm=\"taxiway\", error=\"invalid_token\", error_description=\"the token has expired\""
            }
            ServeError::BadToken { .. } => {
                "Bearer realm=\"taxiway\", error=\"invalid_token\", error_description=\"the token is not valid\""
            }
            _ => "Bearer realm=\"taxiway\"",
        }
    }

    /// The whole story on one line: this error and what lies under it.
    pub fn inside(&self) -> String {
        chain(self)
    }
}

/// An error and what lies under it, on one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing into a `String` cannot fail.
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

type Face = (StatusCode, &'static str, &'static str, Option<Cow<'static, str>>);

fn busy() -> Face {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "busy",
        "Busy",
        Some("Too much is going on at the moment; ask again after the time in Retry-After.".into()),
    )
}

fn internal() -> Face {
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "Internal error",
        Some("The server could not answer; its log has the details under this error_id.".into()),
    )
}

/// An inside text that is fit for clients, as a sentence.
fn sentence(error: &FeedError) -> Cow<'static, str> {
    as_sentence(error.to_string())
}

fn as_sentence(mut text: String) -> Cow<'static, str> {
    if let Some(first) = text.get_mut(0..1) {
        first.make_ascii_uppercase();
    }
    text.push('.');
    text.into()
}

/// At most 128 characters of what a client sent, for use in an answer.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(128).collect()
}

/// The failure behind a response that still lacks its body.
#[derive(Clone, Debug)]
pub(super) struct Failure(pub(super) Arc<ServeError>);

impl IntoResponse for ServeError {
    /// Status and headers only; [`write_out`] adds the body, which needs the request id.
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.outside().status;
        if response.status() == StatusCode::UNAUTHORIZED {
            // One header a scheme: some clients read the first alone.
            response.headers_mut().append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"taxiway\""));
            response.headers_mut().append(WWW_AUTHENTICATE, HeaderValue::from_static(self.bearer_challenge()));
        }
        if let ServeError::Feed(FeedError::BehindTheEnd { total }) = self
            && let Some(value) = range::behind(total)
        {
            response.headers_mut().insert(CONTENT_RANGE, value);
        }
        if let ServeError::BadEncoding { .. } = self {
            // RFC 9110 §12.5.3: what would have been understood.
            response.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static(ENCODINGS));
        }
        if let ServeError::TooMany { retry_after, .. } = self {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after));
        }
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
        }
        response.extensions_mut().insert(Failure(Arc::new(self)));
        response
    }
}

/// Gives a failed response its TAXII error resource, keeping status and headers.
pub(super) fn write_out(response: &mut Response, error: &ServeError, style: Style, api_root: &str, request_id: &str) {
    let face = error.outside();
    let written = match style.profile {
        Profile::Standard => {
            let resource = ErrorResource {
                title: face.title,
                description: face.description.as_deref(),
                error_id: Some(request_id),
                error_code: Some(face.code),
                http_status: Some(face.status.as_str()),
            };
            answer(style, face.status, &resource)
        }
        Profile::Xsoar => {
            let (title, description) = error.in_old_words(style, api_root);
            let resource = ErrorResource {
                title: &title,
                description: description.as_deref(),
                error_id: None,
                error_code: None,
                http_status: None,
            };
            answer(style, face.status, &resource)
        }
    };
    let (parts, body) = written.into_parts();
    response.headers_mut().extend(parts.headers);
    if style.profile == Profile::Xsoar {
        let (name, value) = match error {
            ServeError::Unauthorized { .. } | ServeError::BadToken { .. } => {
                (WWW_AUTHENTICATE, "Basic realm=\"Authentication Required\"")
            }
            ServeError::MethodNotAllowed => (ALLOW, METHODS_OF_ORIGINAL),
            _ => return *response.body_mut() = body,
        };
        response.headers_mut().insert(&name, HeaderValue::from_static(value));
        // The original knows no tokens; who sends one gets to read what is wrong with it.
        if let ServeError::BadToken { .. } = error {
            response.headers_mut().append(name, HeaderValue::from_static(error.bearer_challenge()));
        }
    }
    *response.body_mut() = body;
}

/// What a caught panic becomes.
pub(super) fn panicked(payload: Box<dyn Any + Send + 'static>) -> Response {
    let message = match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => {
            payload.downcast::<&'static str>().map_or_else(|_| "no message".to_owned(), |text| text.to_string())
        }
    };
    ServeError::Panicked { message }.into_response()
}

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process holds the address.
    #[error("`{address}` is already in use; stop what listens there, or set another `{key}` address")]
    InUse {
        /// The address.
        address: SocketAddr,
        /// The setting that names it.
        key: &'static str,
    },
    /// The address cannot be listened on.
    #[error("listen on `{address}`; is it an address of this machine, and is this user allowed its port?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A TLS file cannot be read.
    #[error("read {role} `{}`", path.display())]
    ReadTls {
        /// What it is for, such as `private key`.
        role: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A TLS file is not what it should be.
    #[error("{role} `{}` {reason}", path.display())]
    BadTls {
        /// What it is for, such as `private key`.
        role: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// Nobody could be told apart from anybody.
    #[error(
        "`{address}` can be reached from other machines, but there are no users in `{}`; add one with `taxiway user add \
         NAME`, or set both `anonymous = true` and `anonymous_off_loopback = true` under [auth] to serve everyone",
        users.display()
    )]
    OpenToAll {
        /// The address.
        address: SocketAddr,
        /// The users file.
        users: PathBuf,
    },
    /// Passwords and objects would go over the network for everyone to read.
    #[error(
        "`{address}` can be reached from other machines, and passwords would go there in the clear; set `tls.cert` and \
         `tls.key`, listen on a loopback address, or, where a proxy does HTTPS, set `plain_http_off_loopback = true`"
    )]
    PlainHttp {
        /// The address.
        address: SocketAddr,
    },
    /// Everybody could read what monitoring reads.
    #[error(
        "`admin_listen`, `{address}`, can be reached from other machines, and asks nobody who they are; use a loopback \
         address, or set `admin_off_loopback = true` where the network keeps others away"
    )]
    AdminReachable {
        /// The address.
        address: SocketAddr,
    },
    /// Everybody could manage.
    #[error(
        "`admin.manage` lets everyone manage sources, and `admin_listen`, `{address}`, can be reached from other machines; name \
         users or groups there, or use a loopback address"
    )]
    ManagedByAll {
        /// The address.
        address: SocketAddr,
    },
    /// Passwords of those who manage, and of sources, would go over the network for everyone to read.
    #[error(
        "`admin_listen`, `{address}`, can be reached from other machines, and passwords would go there in the clear; set \
         `admin.tls = true` (with `tls.cert` and `tls.key`), use a loopback address, or, where a proxy does HTTPS, set \
         `plain_http_off_loopback = true`"
    )]
    PlainManagement {
        /// The address.
        address: SocketAddr,
    },
    /// The audit log cannot be opened.
    #[error("open the audit log `{}`", path.display())]
    Audit {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The users file is unusable.
    #[error(transparent)]
    Users(#[from] UserError),
    /// The accept loop ended.
    #[error("serve on `{address}`")]
    Serve {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}
