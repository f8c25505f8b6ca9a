//! The socket: bind, TLS, serve, stop.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use axum_server::tls_rustls::RustlsAcceptor;
use tokio::time::MissedTickBehavior;
use tower::service_fn;

use crate::serve::admin;
use crate::serve::audit::Audit;
use crate::serve::auth::Admission;
use crate::serve::connection::{Guard, Most, Recognising};
use crate::serve::error::StartError;
use crate::serve::limits::max_head_bytes;
use crate::serve::options::{Limits, Options, is_loopback};
use crate::serve::reload::{Current, Live};
use crate::serve::tls::Tls;

/// How often the TLS files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How often counters and allowances are tidied.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// Streams that a client has reset before this server saw them, and streams that this server has reset for the client's
/// errors, after which the connection ends: many times what an honest client comes to.
const MAX_RESET_STREAMS: usize = 64;
/// What hyper reads of an HTTP/1 head, if the limits do not ask for more.
const HTTP1_BUFFER_BYTES: usize = 400 * 1024;
/// Bytes of bodies that an HTTP/2 connection may have sent and nobody has read yet.
const CONNECTION_WINDOW_BYTES: u32 = 512 * 1024;
/// The same of one stream.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;

/// A server that holds its addresses and has read its certificate, but does not answer yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    admin: Option<(TcpListener, SocketAddr)>,
    /// Whether that speaks HTTPS as well.
    admin_tls: bool,
    tls: Option<Tls>,
    limits: Limits,
    /// How often the TLS files are looked at.
    pub(super) look_every: Duration,
}

/// Reads all files that [`bind`] and [`App::new`](crate::serve::App::new) read, and gives everything in them or in the
/// options that would keep a server from starting. Takes no address and writes nothing.
pub fn examine(options: &Options) -> Result<Admission, Vec<StartError>> {
    let mut errors = examine_listeners(options);
    errors.extend(options.tls.as_ref().and_then(|files| Tls::open(files).err()));
    errors.extend(options.audit.as_ref().and_then(|path| Audit::examine(path).err()));
    match Admission::examine(options) {
        Ok(admission) if errors.is_empty() => Ok(admission),
        admission => Err(errors.into_iter().chain(admission.err()).collect()),
    }
}

/// What would go over a network in the clear without having been allowed to.
pub(super) fn examine_listeners(options: &Options) -> Vec<StartError> {
    let mut errors = Vec::new();
    if options.tls.is_none() && !options.on_loopback() && !options.plain_http_off_loopback {
        errors.push(StartError::PlainHttp { address: options.listen });
    }
    if let Some(address) = options.admin_listen.filter(|address| !is_loopback(*address))
        && !options.admin_off_loopback
    {
        errors.push(StartError::AdminReachable { address });
    }
    if options.admin.manage.is_some() {
        errors.extend(examine_management(options));
    }
    errors
}

/// What would let everybody manage, or send the passwords of those who do, and of sources, in the clear.
fn examine_management(options: &Options) -> Option<StartError> {
    let address = options.admin_listen.filter(|address| !is_loopback(*address))?;
    if options.admin.is_open() {
        return Some(StartError::ManagedByAll { address });
    }
    let in_the_clear = !options.admin.tls && !options.plain_http_off_loopback;
    in_the_clear.then_some(StartError::PlainManagement { address })
}

/// Takes the addresses and reads the TLS files, so that whatever is wrong with them is said before anything else starts.
pub fn bind(options: &Options) -> Result<Bound, StartError> {
    if let Some(error) = examine_listeners(options).into_iter().next() {
        return Err(error);
    }
    let tls = options.tls.as_ref().map(Tls::open).transpose()?;
    let (listener, address) = listener(options.listen, "listen")?;
    let admin = options.admin_listen.map(|address| self::listener(address, "admin_listen")).transpose()?;
    let admin_tls = options.admin.tls && tls.is_some();
    Ok(Bound { listener, address, admin, admin_tls, tls, limits: options.limits.clone(), look_every: LOOK_EVERY })
}

fn listener(address: SocketAddr, key: &'static str) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::InUse { address, key },
        _ => StartError::Listen { address, source },
    };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

impl Bound {
    /// The address, with the real port where `listen` named port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// URL of this address, without a final slash; wildcard addresses are written as the loopback one.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", reachable(self.address))
    }

    /// URL of the admin listener, if there is one.
    pub fn admin_url(&self) -> Option<String> {
        let scheme = if self.admin_tls { "https" } else { "http" };
        self.admin.as_ref().map(|(_, address)| format!("{scheme}://{}", reachable(*address)))
    }

    /// Serves until `stop` ends; then lets answers finish, for as long as [`Limits::shutdown_timeout`]. Ends at once
    /// when `stop_now` ends as well.
    pub async fn run(
        self,
        live: Arc<Live>,
        stop: impl Future<Output = ()> + Send,
        stop_now: impl Future<Output = ()> + Send,
    ) -> Result<(), StartError> {
        let Self { listener, address, admin: for_admin, admin_tls, tls, limits, look_every } = self;
        let failed = |source| StartError::Serve { address, source };
        let lasting = Arc::clone(live.lasting());
        if let Some(tls) = &tls {
            live.serves_with(tls.clone());
        }
        if let Some(management) = lasting.management.get() {
            management.resume();
        }
        let handle = Handle::new();
        let serving = async {
            let mut server = axum_server::from_tcp(listener)?.handle(handle.clone());
            let head = max_head_bytes(limits.url_bytes, limits.headers_bytes);
            // What lies far beyond the limits is not worth reading; hyper's own bound is the least.
            let most = usize::try_from(head).unwrap_or(usize::MAX).saturating_mul(2).max(HTTP1_BUFFER_BYTES);
            server.http_builder().http1().max_buf_size(most);
            let mut http2 = server.http_builder().http2();
            http2
                .max_concurrent_streams(max_streams(&limits))
                .max_header_list_size(head)
                .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
                .max_local_error_reset_streams(MAX_RESET_STREAMS)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .initial_stream_window_size(STREAM_WINDOW_BYTES);
            let guard = Guard::new(Arc::clone(&live), Most::Clients(possible_connections(&limits)));
            let current = Arc::clone(&live);
            let service = service_fn(move |_: SocketAddr| ready(Ok::<_, Infallible>(Current(Arc::clone(&current)))));
            match tls.as_ref().map(Tls::current) {
                Some(current) => {
                    let acceptor =
                        RustlsAcceptor::new(current).handshake_timeout(limits.header_timeout).acceptor(guard);
                    let acceptor = Recognising::new(acceptor, Arc::clone(&lasting.metrics));
                    server.acceptor(acceptor).serve(service).await
                }
                None => server.acceptor(guard).serve(service).await,
            }
        };
        let monitored = async {
            let Some((listener, address)) = for_admin else { return std::future::pending().await };
            let failed = |source| StartError::Serve { address, source };
            let server = axum_server::from_tcp(listener).map_err(failed)?;
            let guard = Guard::new(Arc::clone(&live), Most::Admin);
            let service = admin::admin(Arc::clone(&live)).into_make_service();
            let served = match tls.as_ref().filter(|_| admin_tls).map(Tls::current) {
                Some(current) => {
                    let acceptor =
                        RustlsAcceptor::new(current).handshake_timeout(limits.header_timeout).acceptor(guard);
                    let acceptor = Recognising::new(acceptor, Arc::clone(&lasting.metrics));
                    server.acceptor(acceptor).serve(service).await
                }
                None => server.acceptor(guard).serve(service).await,
            };
            served.map_err(failed)
        };
        let stopping = async {
            stop.await;
            tracing::info!("stopping: answers that have begun are finished first");
            live.stop();
            handle.graceful_shutdown(Some(live.app().options.limits.shutdown_timeout));
            stop_now.await;
            handle.shutdown();
            std::future::pending::<()>().await;
        };
        let looking = async {
            let Some(tls) = &tls else { return std::future::pending().await };
            tls.keep_current(look_every, &lasting.metrics).await;
        };
        let tidying = async {
            let mut ticks = tokio::time::interval(TIDY_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                lasting.tidy();
            }
        };
        let served = tokio::select! {
            served = serving => served.map_err(failed),
            served = monitored => served,
            () = stopping => Ok(()),
            () = looking => Ok(()),
            () = tidying => Ok(()),
        };
        lasting.close_audit().await;
        served
    }
}

/// An address that a program on this machine can call.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    address
}

/// Connections that the process has files for: a quarter of them is left to the store, the log and what else there is.
fn possible_connections(limits: &Limits) -> usize {
    let Some(files) = open_files() else { return usize::MAX };
    let possible = files / 4 * 3;
    if possible < limits.connections {
        tracing::warn!(
            limit = limits.connections,
            files,
            possible,
            "the process may open fewer files than `limits.connections` needs; raise `ulimit -n` (LimitNOFILE= of systemd) \
             or lower the limit"
        );
    }
    possible.max(1)
}

/// How many files the process may have open, where that can be known.
fn open_files() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Requests at once on one HTTP/2 connection: so few that one connection cannot take every permit, and so many that an
/// ordinary client or proxy is not held up.
fn max_streams(limits: &Limits) -> u32 {
    u32::try_from(limits.concurrent_requests / 4).unwrap_or(u32::MAX).clamp(8, 100)
}

/// Ends when the process is told to stop: SIGTERM or Ctrl-C. Called again, it waits for the next signal.
pub async fn shutdown_signal() {
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending::<()>().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! {
        () = interrupt => {}
        () = terminate => {}
    }
}
