//! The management API on the admin listener: the paths, bodies and answers of Logpoint's Director Console for its StixTaxii
//! enrichment source, so that scripts written for that find the same here (docs/management-api.md).
//!
//! Whoever may manage is named in `admin.manage`; without it there is no such API. A body is checked whole before anything is
//! done, and all that is wrong with it is said at once. Writes are done, synced and written down as an order before they are
//! answered; only `refreshlist`, which asks other people's servers, and the end of a source that is being fetched go on behind the answer,
//! and after a restart. Two
//! writers at once: each write is whole, the later one wins, and whoever sends `If-Match` with the revision that was listed is
//! refused when it is no longer that.

mod error;
mod fields;
mod installations;
mod orders;
mod path;
mod source;
mod upload;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{HOST, IF_MATCH, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tower_http::catch_panic::CatchPanicLayer;

use crate::collect::files::{FileError, Files, Kind, Storage};
use crate::collect::{
    CollectError, Definition, IdentityFiles, Known, Material, Registry, RegistryError, Scheduler, Source, id_of_name,
    is_id,
};
use crate::model::time::{MICROS_PER_SECOND, Timestamp};
use crate::serve::auth::{Identity, Nobody};
use crate::serve::body::read_at_most;
use crate::serve::client::Client;
use crate::serve::error::{Failure, ServeError, chain, cut, panicked};
use crate::serve::limits::limit_head;
use crate::serve::manage::error::{Cause, ManageError, answer, of_layer};
use crate::serve::manage::fields::Problem;
use crate::serve::manage::installations::{Installations, Package};
use crate::serve::manage::orders::{Action, Order, Orders};
use crate::serve::manage::path::{Call, Installed, NO_INSTALLATION, PUBLIC_POOL};
use crate::serve::manage::source::{Form, files_of, listed, masked, note_certificate, owner, problem_of};
use crate::serve::manage::upload::{Received, Sink, blocking, receive};
use crate::serve::observe::{Managed, observe, report_internal};
use crate::serve::rights::forbidden;
use crate::serve::router::App;
use crate::source::{Identity as ClientIdentity, Secret, SourceError, check_identity};

/// Largest JSON body.
const MAX_BODY_BYTES: u64 = 1 << 20;
/// How often an edit is tried again that came in another one's way.
const TRIES: usize = 8;
/// Names that are tried for a source that was given none.
const MAX_NAMES: usize = 1_000;
/// How often a source that is being fetched is looked at until it can be deleted,
const DELETE_EVERY: Duration = Duration::from_millis(200);
/// and how often in all: ten minutes, far longer than a commit takes.
const DELETE_TRIES: usize = 3_000;
/// How long an answer waits for that.
const DELETE_PATIENCE: Duration = Duration::from_secs(3);
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why the management API cannot begin.
#[derive(Debug, thiserror::Error)]
#[error("open what the management API keeps in `{}`", path.display())]
pub struct ManagementError {
    /// The folder.
    path: PathBuf,
    /// What the system said.
    source: io::Error,
}

/// What the API manages.
pub struct Management {
    scheduler: Arc<Scheduler>,
    files: Files,
    orders: Orders,
    installations: Installations,
    /// Orders of the process before that did not end.
    unfinished: Mutex<Vec<Order>>,
    /// One write after the other: what is checked must still hold when it is written.
    writing: Mutex<()>,
}

impl fmt::Debug for Management {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Management").field("registry", self.registry()).finish_non_exhaustive()
    }
}

impl Management {
    /// Over the sources that are fetched here.
    pub fn open(scheduler: Arc<Scheduler>) -> Result<Arc<Self>, ManagementError> {
        let folder = scheduler.registry().folder().to_owned();
        let failed = |source| ManagementError { path: folder.clone(), source };
        let files = Files::new(&folder);
        files.tidy().map_err(failed)?;
        let (orders, unfinished) = Orders::open(&folder).map_err(failed)?;
        let installations = Installations::new(&folder);
        let unfinished = Mutex::new(unfinished);
        let management = Self { scheduler, files, orders, installations, unfinished, writing: Mutex::new(()) };
        // A kill may have come between an upload and this.
        if let Err(error) = management.renew_identities(None) {
            tracing::warn!(?error, "certificates of sources could not be compared with what was uploaded");
        }
        Ok(Arc::new(management))
    }

    /// Goes on with what the process before did not end.
    pub(super) fn resume(self: &Arc<Self>) {
        for order in std::mem::take(&mut *self.unfinished.lock()) {
            match order.action {
                Action::RefreshList => drop(tokio::spawn(Arc::clone(self).refresh_list(order))),
                Action::DeleteSource => drop(tokio::spawn(Arc::clone(self).end_delete(order))),
                // No other action is ever left so.
                _ => tracing::warn!(order = order.id, "an order was left over that cannot be gone on with"),
            }
        }
    }

    fn registry(&self) -> &Registry {
        self.scheduler.registry()
    }

    fn put(&self, order: &Order) -> Result<(), ManageError> {
        self.orders.put(order).map_err(ManageError::from)
    }

    /// Keeps an order that was carried out, and tells where it can be watched.
    fn done(&self, mut order: Order, message: impl Into<String>) -> Result<Value, ManageError> {
        order.end(message, Vec::new());
        self.put(&order)?;
        tell(&order);
        Ok(ordered(&order))
    }
}

fn tell(order: &Order) {
    let Order { id, pool, logpoint, action, user, subject, message, errors, .. } = order;
    let errors = (!errors.is_empty()).then(|| errors.join("; "));
    tracing::info!(order = id, ?action, pool, logpoint, user, subject, message, errors, "order carried out");
}

fn ordered(order: &Order) -> Value {
    success(order.path())
}

fn success(message: impl Into<String>) -> Value {
    json!({ "status": "Success", "message": message.into() })
}

/// The API, with the layers that its requests pass: access log and audit, errors, panic guard, size of the head, who asks.
pub(super) fn routes(app: Arc<App>) -> Router {
    let rest: Router<Arc<App>> = Router::new().fallback(answered);
    rest.layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(Arc::clone(&app), enter))
        .layer(from_fn_with_state(Arc::clone(&app), limit_head))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(axum::middleware::from_fn(write_failures))
        .layer(from_fn_with_state(Arc::clone(&app), observe))
        .with_state(app)
}

/// Lets those in who may manage.
async fn enter(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let Some(rule) = app.managers() else {
        let text = "the management API is not served; name who may use it in `admin.manage` of the configuration";
        return ManageError::Unknown(text.to_owned()).into_response();
    };
    if is_of_another_site(request.headers(), request.uri()) {
        return ServeError::Forbidden { what: "manage sources from a web page of another site" }.into_response();
    }
    let address = Client::address_of(&request);
    let certificate = request.extensions().get::<Client>().and_then(|client| client.certificate.clone());
    let admitted = app.gate.admit(request.headers(), address, certificate.as_deref()).await;
    let identity = match admitted {
        Ok(identity) => identity,
        // Said in the configuration, and possible on a loopback address alone.
        Err(ServeError::Unauthorized { reason: "no credentials" }) if rule.takes_everyone() => {
            Identity::Anonymous(Nobody::AmongUsers)
        }
        Err(refusal) => return refusal.into_response(),
    };
    let is_nobody = matches!(identity, Identity::Anonymous(_));
    let mut response = if is_nobody && rule.takes_everyone() && !is_called_locally(request.headers(), request.uri()) {
        // The page that a browser was led here by has a name of its own, for an address that turned into ours.
        ServeError::Forbidden {
            what: "manage sources under this host name; call the server by its address or `localhost`",
        }
        .into_response()
    } else if rule.allows(&identity) {
        request.extensions_mut().insert(identity.clone());
        next.run(request).await
    } else if is_nobody {
        // Where there are no users yet, too: nobody may manage before there is one who is named.
        ServeError::Unauthorized { reason: "no credentials" }.into_response()
    } else {
        forbidden(&identity, "manage sources; `admin.manage` of the configuration names who may").into_response()
    };
    response.extensions_mut().insert(identity);
    response
}

/// A browser sends along the credentials it knows, or none where none are needed, for whichever page asks it to.
fn is_of_another_site(headers: &HeaderMap, uri: &Uri) -> bool {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if text(SEC_FETCH_SITE).is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return true;
    }
    let host = host_of(headers, uri);
    text(ORIGIN).is_some_and(|origin| origin.split_once("://").is_none_or(|(_, name)| name != host))
}

/// What the requester calls this server, with the port.
fn host_of<'r>(headers: &'r HeaderMap, uri: &'r Uri) -> &'r str {
    let header = || headers.get(HOST).and_then(|value| value.to_str().ok());
    uri.authority().map(|authority| authority.as_str()).or_else(header).unwrap_or_default()
}

/// Whether that is a name that leads nowhere but to this machine.
fn is_called_locally(headers: &HeaderMap, uri: &Uri) -> bool {
    let Ok(host) = host_of(headers, uri).parse::<Authority>() else { return false };
    let bare = host.host().trim_matches(['[', ']']).to_ascii_lowercase();
    match bare.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => bare == "localhost" || bare.ends_with(".localhost"),
    }
}

/// Turns failures of the layers into bodies, and logs those the operator should look at.
async fn write_failures(request: Request, next: Next) -> Response {
    let id = crate::serve::observe::request_id(&request);
    let mut response = next.run(request).await;
    if let Some(Failure(error)) = response.extensions_mut().remove::<Failure>() {
        if response.status() == StatusCode::INTERNAL_SERVER_ERROR {
            report_internal(&error.inside(), &id);
        }
        of_layer(&error, &mut response);
    }
    if let Some(Cause(cause)) = response.extensions_mut().remove::<Cause>() {
        report_internal(&cause, &id);
    }
    response
}

async fn answered(State(app): State<Arc<App>>, request: Request) -> Response {
    let call = match path::read(request.method(), request.uri().path()) {
        Ok(call) => call,
        Err(nothing) => return ManageError::from(nothing).into_response(),
    };
    let writes = !request.method().is_safe();
    let mut response = match app.management() {
        Some(management) => match Box::pin(called(&app, management, call, request)).await {
            Ok(body) => answer(StatusCode::OK, &body),
            Err(error) => error.into_response(),
        },
        None => ManageError::Internal("the management API has no sources to manage".to_owned()).into_response(),
    };
    if writes {
        response.extensions_mut().insert(Managed);
    }
    response
}

async fn called(app: &App, management: Arc<Management>, call: Call, request: Request) -> Result<Value, ManageError> {
    let user = request.extensions().get::<Identity>().and_then(|identity| identity.user_name().map(str::to_owned));
    let pause = app.options.limits.header_timeout;
    match call {
        Call::UploadCertificate(storage) => {
            let open = |_: &str| Ok(Sink::Certificate(Vec::new()));
            let received = Box::pin(receive(request, pause, open)).await?;
            blocking(move || management.keep_certificates(&storage, received)).await?
        }
        Call::UploadPackage(storage) => {
            let (files, into, most) = (management.files.clone(), storage.clone(), app.options.admin.package_bytes);
            let open = move |name: &str| Ok(Sink::Package(Box::new(files.package(&into, name, most)?), Vec::new()));
            let received = Box::pin(receive(request, pause, open)).await?;
            blocking(move || keep_packages(&storage, received)).await?
        }
        Call::CreateSource(at) => {
            let body = json_body(app, request).await?;
            blocking(move || management.create(&at, user.as_deref(), &body)).await?
        }
        Call::EditSource(at, id) => {
            let expected = if_match(request.headers())?;
            let body = json_body(app, request).await?;
            blocking(move || management.edit(&at, &id, user.as_deref(), &body, expected)).await?
        }
        Call::Install(at) => {
            let body = json_body(app, request).await?;
            blocking(move || management.install(&at, user.as_deref(), &body)).await?
        }
        Call::RefreshList(at) => {
            let body = json_body(app, request).await?;
            let warnings = source::read_empty(&body)?;
            let mut order = Order::new(&at.pool, &at.logpoint, Action::RefreshList, user.as_deref(), masked(&body));
            order.warnings = warnings;
            let answer = ordered(&order);
            let order = blocking({
                let management = Arc::clone(&management);
                move || management.put(&order).map(|()| order)
            })
            .await??;
            drop(tokio::spawn(management.refresh_list(order)));
            Ok(answer)
        }
        Call::DeleteSource(at, id) => {
            let order = blocking({
                let management = Arc::clone(&management);
                move || management.delete(&at, &id, user.as_deref())
            })
            .await??;
            let answer = ordered(&order);
            if order.finished.is_none() {
                // Most end at once; then the next call finds it gone.
                let ending = tokio::spawn(management.end_delete(order));
                let _ = tokio::time::timeout(DELETE_PATIENCE, ending).await;
            }
            Ok(answer)
        }
        other => blocking(move || management.without_body(other, user.as_deref())).await?,
    }
}

/// A JSON body; none at all is an empty object.
async fn json_body(app: &App, request: Request) -> Result<Value, ManageError> {
    let (parts, body) = request.into_parts();
    let bytes = read_at_most(app, &parts.headers, body, MAX_BODY_BYTES).await?;
    if bytes.trim_ascii().is_empty() {
        return Ok(json!({}));
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        // Its own words may repeat parts of the body.
        let (line, column) = (error.line(), error.column());
        ManageError::Bad(format!("the body is not JSON (line {line}, column {column})"))
    })
}

/// The revision that a source has to be at.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, ManageError> {
    let Some(value) = headers.get(IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let number = text.trim_start_matches("W/").trim_matches('"').parse();
    number.map(Some).map_err(|_| {
        ManageError::Bad(
            "the header `If-Match` must be the `revision` of the source as it was listed, such as \"3\"".to_owned(),
        )
    })
}

fn keep_packages(storage: &Storage, received: Vec<Received>) -> Result<Value, ManageError> {
    let mut names = Vec::new();
    for Received { name, sink } in received {
        let Sink::Package(incoming, _) = sink else { continue };
        let (bytes, sha256) = incoming.finish()?;
        tracing::info!(package = name, storage = storage.as_str(), bytes, sha256, "package uploaded");
        names.push(name);
    }
    // The blank at the end is the original's.
    Ok(success(format!("{} successfully uploaded in the {} storage. ", names.join(", "), storage.as_str())))
}

impl Management {
    fn keep_certificates(&self, storage: &Storage, received: Vec<Received>) -> Result<Value, ManageError> {
        let keyring = self.registry().keyring().map_err(|error| ManageError::internal(&error))?;
        let _alone = self.writing.lock();
        let mut names = Vec::new();
        for Received { name, sink } in received {
            let Sink::Certificate(bytes) = sink else { continue };
            self.files.put_certificate(&keyring, storage, &name, &bytes)?;
            names.push(name);
        }
        self.renew_identities(Some((storage, &names)))?;
        Ok(success(format!("{} successfully uploaded in {} storage.", names.join(", "), storage.as_str())))
    }

    /// Gives sources that use these files what they hold now, once certificate and key are a pair again: they are renewed one
    /// after the other. Without names, all sources.
    fn renew_identities(&self, uploaded: Option<(&Storage, &[String])>) -> Result<(), ManageError> {
        for source in self.registry().list()? {
            let Some((storage, cert, key)) = files_of(&source.definition) else { continue };
            let concerns = |(in_storage, names): (&Storage, &[String])| {
                *in_storage == storage && names.iter().any(|name| *name == cert || *name == key)
            };
            if source.problem.is_some() || !uploaded.is_none_or(concerns) {
                continue;
            }
            let mut definition = source.definition.clone();
            let passphrase = definition.identity.take().and_then(|identity| identity.passphrase);
            let name = &source.definition.name;
            match self.identity(&storage, (&cert, &key), passphrase) {
                Ok(identity) if source.definition.identity.as_ref() == Some(&identity) => {}
                Ok(identity) => {
                    definition.identity = Some(identity);
                    note_certificate(&mut definition);
                    let id = definition.id.clone();
                    match self.registry().replace(&id, definition, Some(source.revision)) {
                        Ok(_) => tracing::info!(source = name, "its client certificate was renewed"),
                        // Whoever changed it read the new files.
                        Err(RegistryError::Changed { .. } | RegistryError::Unknown { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(problems) => {
                    let problems: Vec<String> =
                        problems.iter().map(|it| format!("`{}` {}", it.field, it.reason)).collect();
                    let problems = problems.join("; ");
                    tracing::warn!(source = name, problems, "it keeps its client certificate as it was");
                }
            }
        }
        Ok(())
    }

    /// Certificate and key of these files, if they are a pair that opens.
    fn identity(
        &self,
        storage: &Storage,
        (cert, key): (&str, &str),
        passphrase: Option<Secret>,
    ) -> Result<IdentityFiles, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut read = |field: &str, name: &str| {
            let read = self.registry().keyring().map_err(FileError::from);
            match read.and_then(|keyring| self.files.certificate(&keyring, storage, name)) {
                Ok(bytes) => Some(bytes),
                Err(error @ FileError::Unknown { .. }) => {
                    problems.push(Problem::new(field, format!("cannot be used: {error}; upload it first")));
                    None
                }
                Err(FileError::Seal(error)) => {
                    tracing::error!(file = name, error = chain(&error), "an uploaded file does not open");
                    let reason = "does not open with the key file of the server; upload it again";
                    problems.push(Problem::new(field, reason));
                    None
                }
                Err(error) => {
                    tracing::error!(file = name, error = chain(&error), "an uploaded file cannot be read");
                    problems.push(Problem::new(field, "cannot be read; the log of the server has the reason"));
                    None
                }
            }
        };
        let (certificates, key) = (read("files.cert_file", cert), read("files.cert_key", key));
        let (Some(certificates), Some(key)) = (certificates, key) else { return Err(problems) };
        let identity = ClientIdentity { certificates, key, passphrase };
        if let Err(error) = check_identity(&identity) {
            return Err(vec![problem_of_identity(&error)]);
        }
        // What could be read as PEM is text.
        let text = |bytes: &[u8]| Material::Inline(Secret::new(String::from_utf8_lossy(bytes)));
        Ok(IdentityFiles {
            certificate: text(&identity.certificates),
            key: text(&identity.key),
            passphrase: identity.passphrase,
        })
    }

    fn create(&self, at: &Installed, user: Option<&str>, body: &Value) -> Result<Value, ManageError> {
        let (form, warnings) = source::read(body, None)?;
        let _alone = self.writing.lock();
        if self.installations.get(&at.pool, &at.logpoint)?.off {
            let text = "the enrichment source was uninstalled on this installation; install a package to have it again";
            return Err(ManageError::Conflict(text.to_owned()));
        }
        let mut definition = self.whole(&form, None, at)?;
        let mut order = Order::new(&at.pool, &at.logpoint, Action::CreateSource, user, masked(body));
        order.warnings = warnings;
        let wanted = definition.name.clone();
        for number in 2..MAX_NAMES {
            match self.registry().create(definition.clone()) {
                Ok(source) => {
                    self.scheduler.changed();
                    let name = &source.definition.name;
                    order.subject = Some(source.definition.id.clone());
                    return self.done(order, format!("Source `{name}` created."));
                }
                // Whoever named it means that name.
                Err(RegistryError::Taken { .. }) if form.name.is_none() => {
                    definition.name = format!("{wanted} {number}")
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(ManageError::Conflict(format!("there are too many sources of `{wanted}`; give this one a `name`")))
    }

    /// The definition that a body makes.
    fn whole(&self, form: &Form, current: Option<&Definition>, at: &Installed) -> Result<Definition, ManageError> {
        let mut problems = Vec::new();
        let definition = form.definition(current);
        let passphrase = form.passphrase(current);
        let identity = match (form.files(), passphrase) {
            // A certificate that was set by command is no business of this switch.
            (None, _) => current.filter(|current| files_of(current).is_none()).and_then(|it| it.identity.clone()),
            (Some(files), Ok(passphrase)) => match self.identity(&form.storage(&at.pool), files, passphrase) {
                Ok(identity) => Some(identity),
                Err(wrong) => {
                    problems.extend(wrong);
                    None
                }
            },
            (Some(_), Err(problem)) => {
                problems.push(problem);
                None
            }
        };
        let mut definition = match definition {
            Ok(definition) => definition,
            Err(mut wrong) => {
                wrong.extend(problems);
                return Err(wrong.into());
            }
        };
        definition.identity = identity;
        form.note(&mut definition, &at.pool, &at.logpoint);
        problems.extend(source::problems(definition.problems()));
        if problems.is_empty() { Ok(definition) } else { Err(problems.into()) }
    }

    fn edit(
        &self,
        at: &Installed,
        id: &str,
        user: Option<&str>,
        body: &Value,
        expected: Option<u64>,
    ) -> Result<Value, ManageError> {
        let (form, warnings) = source::read(body, Some(id))?;
        let _alone = self.writing.lock();
        let mut order = Order::new(&at.pool, &at.logpoint, Action::EditSource, user, masked(body));
        order.warnings = warnings;
        order.subject = Some(id.to_owned());
        let mut tries = 0;
        loop {
            tries += 1;
            let current = self.owned(at, id)?;
            let definition = self.whole(&form, Some(&current.definition), at)?;
            // Masks stand for the secrets of that revision, so it must be that one in any case.
            match self.registry().replace(id, definition, Some(expected.unwrap_or(current.revision))) {
                Ok(source) => {
                    self.scheduler.changed();
                    let name = &source.definition.name;
                    return self
                        .done(order, format!("Source `{name}` changed; it is at revision {}.", source.revision));
                }
                Err(RegistryError::Changed { .. }) if expected.is_none() && tries < TRIES => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The source of that id, if it is one of this installation.
    fn owned(&self, at: &Installed, id: &str) -> Result<Source, ManageError> {
        let unknown = || ManageError::Unknown(format!("there is no source `{}` on this installation", cut(id)));
        if !is_id(id) {
            return Err(unknown());
        }
        match self.registry().get(id) {
            Ok(source) if source.definition.id == id && is_of(&source, at) => Ok(source),
            Ok(_) | Err(RegistryError::Unknown { .. }) => Err(unknown()),
            Err(error) => Err(error.into()),
        }
    }

    fn sources_of(&self, at: &Installed) -> Result<Vec<Source>, ManageError> {
        Ok(self.registry().list()?.into_iter().filter(|source| is_of(source, at)).collect())
    }

    fn install(&self, at: &Installed, user: Option<&str>, body: &Value) -> Result<Value, ManageError> {
        let (application_type, file_name, is_private, warnings) = source::read_install(body)?;
        let storage = if is_private { Storage::Private(at.pool.clone()) } else { Storage::Public };
        let file_name = self.files.find(Kind::Package, &storage, &file_name)?;
        let (bytes, sha256) = self.files.describe(&storage, &file_name)?;
        let _alone = self.writing.lock();
        let package = Package {
            file_name: &file_name,
            file_location: storage.as_str(),
            application_type: &application_type,
            bytes,
            sha256,
        };
        let plugin = self.installations.install(&at.pool, &at.logpoint, &package)?;
        let mut order = Order::new(&at.pool, &at.logpoint, Action::InstallPackage, user, masked(body));
        order.warnings = warnings;
        order.subject = Some(plugin.id);
        self.done(order, format!("`{file_name}` installed; the enrichment source is on."))
    }

    /// The calls that bring no body, or none that matters.
    fn without_body(&self, call: Call, user: Option<&str>) -> Result<Value, ManageError> {
        match call {
            Call::ListCertificates(storage) => Ok(self.files.list(Kind::Certificate, &storage)?.into()),
            Call::ListPackages(storage) => Ok(self.files.list(Kind::Package, &storage)?.into()),
            Call::DeleteCertificate(storage, name) => self.delete_certificate(&storage, &name),
            Call::TrashPackage(storage, name) => self.trash(&storage, &name, user),
            Call::ListSources(at) => Ok(self.sources_of(&at)?.iter().map(listed).collect::<Vec<_>>().into()),
            Call::ShowSource(at, id) => Ok(listed(&self.owned(&at, &id)?)),
            Call::General(at) => self.general(&at),
            Call::ListPlugins(at) => {
                let plugins = self.installations.get(&at.pool, &at.logpoint)?.plugins;
                serde_json::to_value(plugins).map_err(|error| ManageError::internal(&error))
            }
            Call::Uninstall(at, id) => self.uninstall(&at, &id, user),
            Call::ShowOrder(at, id) => {
                let order = self.orders.get(&at.pool, &at.logpoint, &id)?;
                let unknown = || ManageError::Unknown(format!("there is no order `{}` here", cut(&id)));
                order.map(|order| order.shown()).ok_or_else(unknown)
            }
            Call::UploadCertificate(_)
            | Call::UploadPackage(_)
            | Call::CreateSource(_)
            | Call::EditSource(..)
            | Call::DeleteSource(..)
            | Call::Install(_)
            | Call::RefreshList(_) => Err(ManageError::Internal("a call was taken for another".to_owned())),
        }
    }

    fn delete_certificate(&self, storage: &Storage, name: &str) -> Result<Value, ManageError> {
        let _alone = self.writing.lock();
        let uses = |source: &Source| {
            files_of(&source.definition)
                .is_some_and(|(used, cert, key)| used == *storage && (cert == name || key == name))
        };
        let users: Vec<String> = self
            .registry()
            .list()?
            .into_iter()
            .filter(uses)
            .map(|source| format!("`{}`", source.definition.id))
            .collect();
        if !users.is_empty() {
            let text = format!("`{}` is used by {}; edit or delete those sources first", cut(name), users.join(", "));
            return Err(ManageError::Conflict(text));
        }
        self.files.remove(Kind::Certificate, storage, name)?;
        Ok(success(format!("{name} successfully deleted.")))
    }

    fn trash(&self, storage: &Storage, name: &str, user: Option<&str>) -> Result<Value, ManageError> {
        let pool = match storage {
            Storage::Public => PUBLIC_POOL,
            Storage::Private(pool) => pool,
        };
        self.files.remove(Kind::Package, storage, name)?;
        let request = json!({ "file_name": name, "file_location": storage.as_str() });
        let order = Order::new(pool, NO_INSTALLATION, Action::TrashPackage, user, request);
        self.done(order, format!("`{name}` trashed."))
    }

    /// Deletes a source. One that is being fetched is switched off first, which ends that, and its order is left pending.
    fn delete(&self, at: &Installed, id: &str, user: Option<&str>) -> Result<Order, ManageError> {
        let _alone = self.writing.lock();
        let source = self.owned(at, id)?;
        let name = &source.definition.name;
        let mut order = Order::new(&at.pool, &at.logpoint, Action::DeleteSource, user, json!({ "id": id }));
        order.subject = Some(id.to_owned());
        match self.scheduler.collector().remove(id) {
            Ok(()) => order.end(deleted(name), Vec::new()),
            Err(CollectError::Busy { .. }) => {
                let mut definition = source.definition.clone();
                definition.enabled = false;
                self.registry().replace(id, definition, None)?;
                self.scheduler.changed();
                order.message.clone_from(name);
            }
            Err(CollectError::Registry(error)) => return Err(error.into()),
            Err(error) => return Err(ManageError::internal(&error)),
        }
        self.put(&order)?;
        if order.finished.is_some() {
            tell(&order);
        }
        Ok(order)
    }

    /// Deletes a source once the fetch that is at it has ended.
    async fn end_delete(self: Arc<Self>, mut order: Order) {
        let id = order.subject.clone().unwrap_or_default();
        let name = std::mem::take(&mut order.message);
        order.begin();
        for _ in 0..DELETE_TRIES {
            let removed = blocking({
                let (management, id) = (Arc::clone(&self), id.clone());
                move || management.scheduler.collector().remove(&id)
            });
            match removed.await {
                Ok(Err(CollectError::Busy { .. })) => tokio::time::sleep(DELETE_EVERY).await,
                // Somebody else was quicker.
                Ok(Ok(()) | Err(CollectError::Registry(RegistryError::Unknown { .. }))) => {
                    order.end(deleted(&name), Vec::new());
                    break;
                }
                Ok(Err(error)) => {
                    tracing::error!(order = order.id, error = chain(&error), "a source cannot be deleted");
                    order.end("Not deleted.", vec!["the server could not do this; its log has the reason".to_owned()]);
                    break;
                }
                Err(error) => {
                    tracing::error!(order = order.id, ?error, "a source cannot be deleted");
                    order.end("Not deleted.", vec!["the server could not do this; its log has the reason".to_owned()]);
                    break;
                }
            }
        }
        if order.finished.is_none() {
            let text =
                format!("source `{name}` is switched off, but a fetch of it does not end; delete it again later");
            order.end("Not deleted.", vec![text]);
        }
        self.keep_ended(order).await;
    }

    async fn keep_ended(self: Arc<Self>, order: Order) {
        let kept = blocking(move || match self.put(&order) {
            Ok(()) => tell(&order),
            Err(error) => tracing::error!(?error, order = order.id, "how an order went cannot be kept"),
        });
        // A panic was logged.
        let _ = kept.await;
    }

    fn uninstall(&self, at: &Installed, id: &str, user: Option<&str>) -> Result<Value, ManageError> {
        let _alone = self.writing.lock();
        let installation = self.installations.get(&at.pool, &at.logpoint)?;
        let sources: Vec<String> =
            self.sources_of(at)?.iter().map(|source| format!("`{}`", source.definition.id)).collect();
        let is_last = installation.plugins.len() == 1 && installation.plugins.iter().any(|plugin| plugin.id == id);
        if is_last && !sources.is_empty() {
            let text = format!("this installation still has sources: {}; delete them first", sources.join(", "));
            return Err(ManageError::Conflict(text));
        }
        let plugin = self.installations.uninstall(&at.pool, &at.logpoint, id)?;
        let mut order = Order::new(&at.pool, &at.logpoint, Action::UninstallPackage, user, json!({ "id": id }));
        order.subject = Some(id.to_owned());
        let off = if is_last { "; the enrichment source is off" } else { "" };
        self.done(order, format!("`{}` uninstalled{off}.", plugin.file_name))
    }

    /// How fetching stands, over all sources of an installation.
    fn general(&self, at: &Installed) -> Result<Value, ManageError> {
        let mut entries = 0;
        let (mut attempt, mut success) = (0, 0);
        let (mut errors, mut pending, mut running) = (Vec::new(), false, false);
        for source in self.sources_of(at)? {
            let id = &source.definition.id;
            let state = self.scheduler.collector().state(id);
            entries += state.new;
            attempt = attempt.max(state.last_attempt.map_or(0, seconds));
            success = success.max(state.last_success.map_or(0, seconds));
            // What is switched off is in nobody's way.
            if source.definition.enabled {
                running |= self.scheduler.standing(id).is_some();
                pending |= state.last_success.is_none();
                if let Some(error) = problem_of(&source).map(str::to_owned).or(state.error) {
                    errors.push(format!("{}: {error}", source.definition.name));
                }
            }
        }
        let status = if running {
            "Running"
        } else if !errors.is_empty() {
            "Error"
        } else if pending {
            "Pending"
        } else {
            "Completed"
        };
        let error = if errors.is_empty() { Value::Null } else { errors.join("; ").into() };
        Ok(json!([{
            "id": id_of_name(&format!("ti_general {}/{}", at.pool, at.logpoint)),
            "tid": "",
            "type": "ti_general",
            "no_of_entries": entries,
            "services": { "stix_taxii": {
                "name": "Stix Taxii",
                "fetch_status": status,
                "no_of_entries": entries,
                "error": error,
                "last_fetch_attempt": attempt,
                "last_successful_fetch": success,
            } },
        }]))
    }

    /// Asks the servers of all sources of an installation for their collections.
    async fn refresh_list(self: Arc<Self>, mut order: Order) {
        order.begin();
        let at = Installed { pool: order.pool.clone(), logpoint: order.logpoint.clone() };
        let sources = blocking({
            let (management, order) = (Arc::clone(&self), order.clone());
            move || management.put(&order).and_then(|()| management.sources_of(&at))
        });
        let (mut results, mut errors) = (Vec::new(), Vec::new());
        match sources.await.and_then(|sources| sources) {
            Ok(sources) => {
                for source in sources.iter().filter(|source| source.definition.enabled) {
                    let Definition { id, name, .. } = &source.definition;
                    match self.scheduler.collector().refresh(source).await {
                        Ok(known) => results.push(json!({
                            "id": id,
                            "name": name,
                            "collections": known.iter().map(collection_shown).collect::<Vec<_>>(),
                        })),
                        Err(error) => errors.push(format!("source `{name}` ({id}): {}", refresh_text(&error))),
                    }
                }
            }
            Err(error) => {
                tracing::error!(?error, order = order.id, "an order cannot be carried out");
                errors.push("the server could not do this; its log has the reason".to_owned());
            }
        }
        let message = match errors.len() {
            0 => format!("The collections of {} sources were listed.", results.len()),
            failed => format!("The collections of {} sources were listed, those of {failed} were not.", results.len()),
        };
        order.result = Some(json!({ "sources": results }));
        order.end(message, errors);
        self.keep_ended(order).await;
    }
}

/// What went wrong with somebody else's server; what went wrong here is for the log.
fn refresh_text(error: &CollectError) -> String {
    match error {
        CollectError::Busy { .. }
        | CollectError::Unusable { .. }
        | CollectError::Field(_)
        | CollectError::Source(_) => chain(error),
        CollectError::Store(_) | CollectError::Registry(_) | CollectError::Files { .. } => {
            tracing::error!(error = chain(error), "a source cannot be asked for its collections");
            "the server could not do this; its log has the reason".to_owned()
        }
    }
}

fn deleted(name: &str) -> String {
    format!("Source `{name}` deleted; what was fetched from it is kept.")
}

/// What stands in an order of a collection that a server has.
fn collection_shown(known: &Known) -> Value {
    let collection = &known.collection;
    json!({
        "id": collection.id,
        "title": collection.title,
        "description": collection.description,
        "can_read": collection.can_read,
        "version": collection.version.as_str(),
        "volume": collection.volume,
        "chosen": known.chosen,
    })
}

fn is_of(source: &Source, at: &Installed) -> bool {
    owner(&source.definition).is_some_and(|(pool, logpoint)| pool == at.pool && logpoint == at.logpoint)
}

fn seconds(time: Timestamp) -> i64 {
    time.0.div_euclid(MICROS_PER_SECOND)
}

/// What is wrong with a client certificate, under the names of the API.
fn problem_of_identity(error: &SourceError) -> Problem {
    match error {
        SourceError::Setting { setting: "client key", reason } => Problem::new("files.cert_key", reason),
        SourceError::Setting { setting: "key passphrase", reason } => Problem::new("ssl_mode.key_pass", reason),
        SourceError::Setting { reason, .. } => Problem::new("files.cert_file", reason),
        other => Problem::new("files.cert_file", other.to_string()),
    }
}
