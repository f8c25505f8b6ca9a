//! All paths in one place, and the layers every request passes.

use std::sync::{Arc, OnceLock};

use axum::extract::{Request, State};
use axum::http::header::ALLOW;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Router};
use parking_lot::{Mutex, RwLock};
use tower::util::{MapResponse, option_layer};
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::SizeAbove;

use crate::collect::Scheduler;
use crate::enrich::Enricher;
use crate::export::Lists;
use crate::feed::api::{Feed, Profile};
use crate::inbox::Inbox;
use crate::serve::audit::Audit;
use crate::serve::auth::{Gate, Identity, authenticate};
use crate::serve::collections::{collection, collections};
use crate::serve::cors::cors;
use crate::serve::discovery::{DISCOVERY_20, DISCOVERY_21, LANDING_PATH, api_root, discovery, landing};
use crate::serve::enrich::{ENRICH_PATH, LOOKUP_PATH, enrich, lookup};
use crate::serve::error::{METHODS_OF_ORIGINAL, ServeError, StartError, cut, panicked};
use crate::serve::inbox::{delete_object, post_objects, status};
use crate::serve::limits::{ClientKey, Tallies, Tally, limit, limit_client, limit_head};
use crate::serve::lists::{LISTS_PATH, list};
use crate::serve::manage::Management;
use crate::serve::metrics::Metrics;
use crate::serve::negotiate::negotiate;
use crate::serve::objects::{manifest, object, objects, versions};
use crate::serve::observe::{observe, write_errors};
use crate::serve::options::Options;
use crate::serve::rate::Rates;
use crate::serve::rights::{Current, Rights, Root, Rule, hidden};
use crate::serve::style::Style;

/// Bodies up to this many bytes are not worth compressing.
const COMPRESS_ABOVE_BYTES: u64 = 1024;

/// What the handlers share.
#[derive(Debug)]
pub struct App {
    pub(super) feed: Arc<dyn Feed>,
    pub(super) options: Options,
    pub(super) gate: Arc<Gate>,
    pub(super) lasting: Arc<Lasting>,
    /// What a reload will put in the place of the audit log, once it is sure to happen.
    next_audit: Mutex<Option<Option<Arc<Audit>>>>,
    rights: Current,
    /// Who may manage.
    managers: Option<Rule>,
}

/// What outlives a reload: counters of what is going on, and the audit log.
#[derive(Debug, Default)]
pub(super) struct Lasting {
    /// Requests in work, or whose large answer is.
    pub(super) requests: Arc<Tally>,
    /// The same of each client, answers of any size.
    pub(super) clients: Arc<Tallies<ClientKey>>,
    /// Requests a minute of each client.
    pub(super) rates: Rates,
    /// Bytes of request bodies.
    pub(super) bodies: Arc<Tally>,
    /// Open connections.
    pub(super) connections: Arc<Tally>,
    /// The same of each address.
    pub(super) addresses: Arc<Tallies<ClientKey>>,
    /// Open connections of the admin listener.
    pub(super) admin_connections: Arc<Tally>,
    pub(super) metrics: Arc<Metrics>,
    audit: RwLock<Option<Arc<Audit>>>,
    /// Takes in what is posted; `None` as long as no collection is an inbox.
    pub(super) inbox: OnceLock<Inbox>,
    /// Makes lists for firewalls.
    pub(super) lists: OnceLock<Lists>,
    enricher: OnceLock<Enricher>,
    /// Fetches from other servers.
    pub(super) sources: OnceLock<Arc<Scheduler>>,
    /// What the management API manages.
    pub(super) management: OnceLock<Arc<Management>>,
}

impl Lasting {
    /// The audit log that is written now.
    pub(super) fn audit(&self) -> Option<Arc<Audit>> {
        self.audit.read().clone()
    }

    pub(super) fn reopen_audit(&self) {
        if let Some(audit) = self.audit() {
            audit.reopen();
        }
    }

    /// Writes the last lines of the audit log.
    pub(super) async fn close_audit(&self) {
        if let Some(audit) = self.audit() {
            let _ = tokio::task::spawn_blocking(move || audit.close()).await;
        }
    }

    /// Has to be called every few seconds.
    pub(super) fn tidy(&self) {
        self.rates.tidy();
        self.metrics.tidy();
    }
}

impl App {
    /// Reads the users file and refuses options that would open the server to everyone by accident.
    pub fn new(feed: Arc<dyn Feed>, options: Options) -> Result<Arc<Self>, StartError> {
        let gate = Arc::new(Gate::open(&options)?);
        let lasting = Arc::<Lasting>::default();
        let audit = options.audit.as_ref().map(|path| Audit::open(path, &lasting.metrics)).transpose()?;
        *lasting.audit.write() = audit.map(Arc::new);
        let managers = options.admin.manage.as_deref().map(Rule::of);
        let (next_audit, rights) = (Mutex::new(None), Current::default());
        Ok(Arc::new(Self { feed, options, gate, lasting, next_audit, rights, managers }))
    }

    /// The same with other options. Where those say nothing new of who may come in, the gate stays, and with it what it
    /// remembers; it looks for changes of the users itself.
    pub(super) fn reloaded(current: &Self, options: Options) -> Result<Arc<Self>, StartError> {
        let gate = if options.auth == current.options.auth {
            Arc::clone(&current.gate)
        } else {
            Arc::new(Gate::open(&options)?)
        };
        let lasting = Arc::clone(&current.lasting);
        let written = lasting.audit();
        let same = written.as_ref().map(|audit| audit.path()) == options.audit.as_deref();
        let audit = match &options.audit {
            _ if same => written,
            Some(path) => Some(Arc::new(Audit::open(path, &lasting.metrics)?)),
            None => None,
        };
        let feed = Arc::clone(&current.feed);
        let managers = options.admin.manage.as_deref().map(Rule::of);
        let (next_audit, rights) = (Mutex::new(Some(audit)), Current::default());
        Ok(Arc::new(Self { feed, options, gate, lasting, next_audit, rights, managers }))
    }

    /// From here on the audit log is written where these options say.
    pub(super) fn settle_audit(&self) {
        if let Some(audit) = self.next_audit.lock().take() {
            *self.lasting.audit.write() = audit;
        }
    }

    /// Who may do what with the collections that are served now.
    pub(super) fn rights(&self) -> Arc<Rights> {
        self.rights.of(&self.options, self.feed.catalog())
    }

    /// The same, enriching events for those who may read what is told.
    pub fn with_enricher(self: Arc<Self>, enricher: Enricher) -> Arc<Self> {
        let _ = self.lasting.enricher.set(enricher);
        self
    }

    pub(super) fn enricher(&self) -> Option<&Enricher> {
        self.lasting.enricher.get()
    }

    /// Who may use the management API; `None`: it is not served.
    pub(super) fn managers(&self) -> Option<&Rule> {
        self.managers.as_ref()
    }

    pub(super) fn management(&self) -> Option<Arc<Management>> {
        self.lasting.management.get().cloned()
    }

    pub(super) fn inbox(&self) -> Option<&Inbox> {
        self.lasting.inbox.get()
    }

    pub(super) fn lists(&self) -> Option<&Lists> {
        self.lasting.lists.get()
    }
}

/// The whole service, without a socket.
pub fn router(app: Arc<App>) -> Router {
    let mut router = Router::new().route(LANDING_PATH, get(landing)).route(LISTS_PATH, get(list));
    if app.enricher().is_some() {
        router = router.route(ENRICH_PATH, post(enrich)).route(LOOKUP_PATH, get(lookup));
    }
    for path in [DISCOVERY_20, DISCOVERY_21] {
        router = router.route(path, get(discovery)).route(&format!("{path}/"), get(discovery));
    }
    router = router.method_not_allowed_fallback(method_not_allowed);
    for root in &app.options.api_roots {
        router = router.merge(in_root(&app, &root.path));
    }
    layered(app, router)
}

/// The layers that every request passes, around those routes.
pub(super) fn layered(app: Arc<App>, routes: Router<Arc<App>>) -> Router {
    let layered = routes
        .fallback(nowhere)
        .layer(from_fn(negotiate))
        .layer(from_fn_with_state(Arc::clone(&app), limit_client))
        .layer(from_fn_with_state(Arc::clone(&app), authenticate))
        .layer(from_fn_with_state(Arc::clone(&app), limit))
        .layer(from_fn_with_state(Arc::clone(&app), limit_head))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(option_layer(cors(&app.options.cors)))
        .layer(from_fn_with_state(Arc::clone(&app), write_errors))
        .layer(
            CompressionLayer::new()
                .quality(CompressionLevel::Fastest)
                .compress_when(SizeAbove::new(COMPRESS_ABOVE_BYTES + 1)),
        )
        .layer(from_fn_with_state(Arc::clone(&app), observe))
        .with_state(app);
    Router::new().fallback_service(MapResponse::new(layered, without_methods))
}

/// axum names the methods of a path in every answer to another one, behind all layers: to those who are refused, or find nothing,
/// it would tell that the path exists.
fn without_methods(mut response: Response) -> Response {
    let status = response.status();
    if status.is_client_error() && status != StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().remove(ALLOW);
    }
    response
}

/// The resources of one API root, for those who may know of it.
fn in_root(app: &Arc<App>, root: &str) -> Router<Arc<App>> {
    let at = |path: &str| format!("/{root}{path}");
    let routes: [(String, MethodRouter<Arc<App>>); 8] = [
        (at(""), get(api_root)),
        (at("/status/{status}"), get(status)),
        (at("/collections"), get(collections)),
        (at("/collections/{collection}"), get(collection)),
        (at("/collections/{collection}/manifest"), get(manifest)),
        (at("/collections/{collection}/objects"), get(objects).post(post_objects)),
        (at("/collections/{collection}/objects/{object}"), get(object).delete(delete_object)),
        (at("/collections/{collection}/objects/{object}/versions"), get(versions)),
    ];
    let mut router = Router::new();
    for (path, methods) in routes {
        // A redirect to the slashed form would lose the credentials of some clients.
        router = router.route(&format!("{path}/"), methods.clone()).route(&path, methods);
    }
    // Before the layer, so that the methods of a hidden root are hidden with it.
    let router = router.method_not_allowed_fallback(method_not_allowed);
    router.route_layer(from_fn_with_state((Arc::clone(app), Root(root.into())), enter))
}

/// Lets those into an API root who may know of it; for the others it is not there.
async fn enter(
    State((app, root)): State<(Arc<App>, Root)>,
    Extension(identity): Extension<Identity>,
    mut request: Request,
    next: Next,
) -> Response {
    if !app.rights().knows_root(&identity, &root.0) {
        return hidden(&identity, unknown(request.uri().path())).into_response();
    }
    request.extensions_mut().insert(root);
    next.run(request).await
}

async fn nowhere(Extension(identity): Extension<Identity>, uri: Uri) -> ServeError {
    hidden(&identity, unknown(uri.path()))
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
