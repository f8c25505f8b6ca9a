//! The socket: bind, TLS, serve, stop.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::tls_rustls::RustlsAcceptor;

use crate::serve::auth::Admission;
use crate::serve::connection::Guard;
use crate::serve::error::StartError;
use crate::serve::limits::MAX_HEAD_BYTES;
use crate::serve::options::{Limits, Options};
use crate::serve::tls::Tls;

/// How often the TLS files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A server that holds its address and has read its certificate, but does not answer yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Tls>,
    limits: Limits,
    /// How often the TLS files are looked at.
    pub(super) look_every: Duration,
}

/// Reads all files that [`bind`] and [`App::new`](crate::serve::App::new) read, and gives everything in them or in the
/// options that would keep a server from starting. Takes no address and writes nothing.
pub fn examine(options: &Options) -> Result<Admission, Vec<StartError>> {
    let tls = options.tls.as_ref().map(Tls::open).transpose();
    match (tls, Admission::examine(options)) {
        (Ok(_), Ok(admission)) => Ok(admission),
        (tls, admission) => Err(tls.err().into_iter().chain(admission.err()).collect()),
    }
}

/// Takes the address and reads the TLS files, so that whatever is wrong with them is said before anything else starts.
pub fn bind(options: &Options) -> Result<Bound, StartError> {
    let address = options.listen;
    let tls = options.tls.as_ref().map(Tls::open).transpose()?;
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::InUse { address },
        _ => StartError::Listen { address, source },
    };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(Bound { listener, address, tls, limits: options.limits.clone(), look_every: LOOK_EVERY })
}

impl Bound {
    /// The address, with the real port where `listen` named port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// URL of this address, without a final slash; wildcard addresses are written as the loopback one.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() {
                std::net::Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        format!("{scheme}://{address}")
    }

    /// Serves until `stop` ends; then lets answers finish, for as long as [`Limits::shutdown_timeout`]. Ends at once
    /// when `stop_now` ends as well.
    pub async fn run(
        self,
        router: Router,
        stop: impl Future<Output = ()> + Send,
        stop_now: impl Future<Output = ()> + Send,
    ) -> Result<(), StartError> {
        let Self { listener, address, tls, limits, look_every } = self;
        let failed = |source| StartError::Serve { address, source };
        let guard = Guard::new(&limits);
        let handle = Handle::new();
        let service = router.into_make_service();
        let current = tls.as_ref().map(Tls::current);
        let serving = async {
            let mut server = axum_server::from_tcp(listener)?.handle(handle.clone());
            let mut http2 = server.http_builder().http2();
            http2.max_concurrent_streams(max_streams(&limits)).max_header_list_size(MAX_HEAD_BYTES);
            match current {
                Some(current) => {
                    let acceptor =
                        RustlsAcceptor::new(current).handshake_timeout(limits.header_timeout).acceptor(guard);
                    server.acceptor(acceptor).serve(service).await
                }
                None => server.acceptor(guard).serve(service).await,
            }
        };
        let stopping = async {
            stop.await;
            tracing::info!("stopping: answers that have begun are finished first");
            handle.graceful_shutdown(Some(limits.shutdown_timeout));
            stop_now.await;
            handle.shutdown();
            std::future::pending::<()>().await;
        };
        let looking = async {
            let Some(tls) = tls else { return std::future::pending().await };
            tls.keep_current(look_every).await;
        };
        tokio::select! {
            served = serving => served.map_err(failed),
            () = stopping => Ok(()),
            () = looking => Ok(()),
        }
    }
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
