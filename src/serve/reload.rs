//! The service as it is now, and how it changes while it runs.
//!
//! A reload makes a new [`App`] with its own router from new options, and puts it in the place of the old one: requests that
//! have begun end as they began, connections stay open, and what is counted goes on being counted. What cannot change
//! without a restart stays as it was, and is named.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use parking_lot::{Mutex, RwLock};
use tower::Service;

use crate::collect::Scheduler;
use crate::export::Lists;
use crate::inbox::Inbox;
use crate::serve::admin::Probe;
use crate::serve::error::StartError;
use crate::serve::listen::examine_listeners;
use crate::serve::manage::{self, Management};
use crate::serve::options::Options;
use crate::serve::router::{App, Lasting, router};
use crate::serve::tls::Tls;

/// The service, exchangeable while it runs.
pub struct Live {
    now: RwLock<Now>,
    /// What makes a router of an app.
    routes: fn(Arc<App>) -> Router,
    lasting: Arc<Lasting>,
    /// For what `/ready` and `/metrics` tell of the store.
    probe: Option<Probe>,
    stopping: AtomicBool,
    tls: OnceLock<Tls>,
    /// One reload after the other.
    reloading: Mutex<()>,
}

#[derive(Clone)]
struct Now {
    app: Arc<App>,
    router: Router,
    /// The management API, for the admin listener.
    management: Router,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").finish_non_exhaustive()
    }
}

impl Live {
    /// Serves `app`. The admin listener tells what `probe` finds, where there is one.
    pub fn new(app: Arc<App>, probe: Option<Probe>) -> Arc<Self> {
        Self::with_routes(app, probe, router)
    }

    /// The same with other routes.
    pub(super) fn with_routes(app: Arc<App>, probe: Option<Probe>, routes: fn(Arc<App>) -> Router) -> Arc<Self> {
        let lasting = Arc::clone(&app.lasting);
        let management = manage::routes(Arc::clone(&app));
        let now = RwLock::new(Now { router: routes(Arc::clone(&app)), management, app });
        let (stopping, tls, reloading) = (AtomicBool::new(false), OnceLock::new(), Mutex::new(()));
        Arc::new(Self { now, routes, lasting, probe, stopping, tls, reloading })
    }

    /// Whether posts are taken in.
    pub fn takes_posts(&self) -> bool {
        self.lasting.inbox.get().is_some()
    }

    /// Takes in what is posted to inbox collections from now on.
    pub fn take_posts(&self, inbox: Inbox) {
        // The first one stays: two would write the same collections.
        let _ = self.lasting.inbox.set(inbox);
    }

    /// Serves lists for firewalls from now on.
    pub fn serve_lists(&self, lists: Lists) {
        let _ = self.lasting.lists.set(lists);
    }

    /// Tells monitoring of the sources that are fetched from now on.
    pub fn watch_sources(&self, scheduler: Arc<Scheduler>) {
        let _ = self.lasting.sources.set(scheduler);
    }

    /// Goes over to new options; the answer names those that take effect at the next start only, and stay as they were. On
    /// error nothing has changed.
    pub fn reload(&self, mut options: Options) -> Result<Vec<&'static str>, Vec<StartError>> {
        let _one_at_a_time = self.reloading.lock();
        let reloaded = self.try_reload(&mut options);
        let result = if reloaded.is_ok() { "ok" } else { "failed" };
        self.count_reload(result);
        reloaded
    }

    /// Counts a reload that failed before it came to [`Live::reload`].
    pub fn reload_failed(&self) {
        self.count_reload("failed");
    }

    fn count_reload(&self, result: &str) {
        self.lasting.metrics.count("taxiway_reloads_total", &[("what", "configuration"), ("result", result)], 1);
    }

    fn try_reload(&self, options: &mut Options) -> Result<Vec<&'static str>, Vec<StartError>> {
        let current = self.app();
        let fixed = keep_fixed(&current.options, options);
        let mut errors = examine_listeners(options);
        let app = App::reloaded(&current, options.clone()).map_err(|error| errors.push(error)).ok();
        if errors.is_empty()
            && let (Some(tls), Some(files)) = (self.tls.get(), &options.tls)
        {
            errors.extend(tls.change_to(files).err());
        }
        match app {
            Some(app) if errors.is_empty() => {
                app.settle_audit();
                let router = (self.routes)(Arc::clone(&app));
                let management = manage::routes(Arc::clone(&app));
                *self.now.write() = Now { app, router, management };
                Ok(fixed)
            }
            _ => Err(errors),
        }
    }

    /// Opens files anew that are only written to, for programs that move logs away.
    pub fn reopen_logs(&self) {
        self.lasting.reopen_audit();
    }

    /// Serves the management API from now on, on the admin listener, for those the options name.
    pub fn manage(&self, management: Arc<Management>) {
        let _ = self.lasting.management.set(management);
    }

    /// The management API as it is now.
    pub(super) fn management_routes(&self) -> Router {
        self.now.read().management.clone()
    }

    pub(super) fn app(&self) -> Arc<App> {
        Arc::clone(&self.now.read().app)
    }

    pub(super) fn lasting(&self) -> &Arc<Lasting> {
        &self.lasting
    }

    pub(super) fn probe(&self) -> Option<Probe> {
        self.probe.clone()
    }

    /// Said once no new requests are wanted.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// What a reload changes when it names other TLS files.
    pub(super) fn serves_with(&self, tls: Tls) {
        // Set once, by the one run.
        let _ = self.tls.set(tls);
    }
}

/// Puts what cannot change back to what it was, and names it.
fn keep_fixed(current: &Options, new: &mut Options) -> Vec<&'static str> {
    let mut fixed = Vec::new();
    if new.listen != current.listen {
        new.listen = current.listen;
        fixed.push("listen");
    }
    if new.admin_listen != current.admin_listen {
        new.admin_listen = current.admin_listen;
        fixed.push("admin_listen");
    }
    if new.admin.tls != current.admin.tls {
        new.admin.tls = current.admin.tls;
        fixed.push("admin.tls");
    }
    if new.tls.is_some() != current.tls.is_some() {
        new.tls.clone_from(&current.tls);
        new.plain_http_off_loopback = current.plain_http_off_loopback;
        fixed.push("tls.cert");
    }
    fixed
}

/// A connection's way to the service as it is at each of its requests.
#[derive(Clone, Debug)]
pub(super) struct Current(pub(super) Arc<Live>);

impl<B> Service<Request<B>> for Current
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = <Router as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // As every router is.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut router = self.0.now.read().router.clone();
        router.call(request.map(Body::new))
    }
}

/// Calls `reload` at every SIGHUP, for ever, on a thread where it may read files.
pub async fn on_hangup(reload: impl Fn() + Send + Sync + 'static) {
    let reload = Arc::new(reload);
    hangups(async || {
        let reload = Arc::clone(&reload);
        // A panic is logged by the runtime's hook, and the next signal tries again.
        let _ = tokio::task::spawn_blocking(move || reload()).await;
    })
    .await;
}

#[cfg(unix)]
async fn hangups<F: Future<Output = ()>>(each: impl Fn() -> F) {
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()) {
        Ok(mut signal) => {
            while signal.recv().await.is_some() {
                each().await;
            }
        }
        Err(error) => tracing::error!(%error, "SIGHUP cannot be waited for; a restart reads the configuration anew"),
    }
    std::future::pending().await
}

#[cfg(not(unix))]
async fn hangups<F: Future<Output = ()>>(_: impl Fn() -> F) {
    std::future::pending().await
}
