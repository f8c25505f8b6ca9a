//! The socket: bind, TLS, serve, stop.

use std::fs;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};

use crate::serve::auth::Admission;
use crate::serve::connection::Guard;
use crate::serve::error::StartError;
use crate::serve::options::{Limits, Options, TlsFiles};

/// A server that holds its address and has read its certificate, but does not answer yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
    limits: Limits,
}

/// Reads all files that [`bind`] and [`App::new`](crate::serve::App::new) read, and gives everything in them or in the
/// options that would keep a server from starting. Takes no address and writes nothing.
pub fn examine(options: &Options) -> Result<Admission, Vec<StartError>> {
    let tls = options.tls.as_ref().map(tls_config).transpose();
    match (tls, Admission::examine(options)) {
        (Ok(_), Ok(admission)) => Ok(admission),
        (tls, admission) => Err(tls.err().into_iter().chain(admission.err()).collect()),
    }
}

/// Takes the address and reads the TLS files, so that whatever is wrong with them is said before anything else starts.
pub fn bind(options: &Options) -> Result<Bound, StartError> {
    let address = options.listen;
    let tls = options.tls.as_ref().map(tls_config).transpose()?;
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::InUse { address },
        _ => StartError::Listen { address, source },
    };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(Bound { listener, address, tls, limits: options.limits.clone() })
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

    /// Serves until `stop` ends; then lets answers finish, for as long as [`Limits::shutdown_timeout`]. Ends at once when
    /// `stop_now` ends as well.
    pub async fn run(
        self,
        router: Router,
        stop: impl Future<Output = ()> + Send,
        stop_now: impl Future<Output = ()> + Send,
    ) -> Result<(), StartError> {
        let Self { listener, address, tls, limits } = self;
        let failed = |source| StartError::Serve { address, source };
        let guard = Guard::new(&limits);
        let handle = Handle::new();
        let service = router.into_make_service();
        let serving = async {
            let server = axum_server::from_tcp(listener)?.handle(handle.clone());
            match tls {
                Some(config) => {
                    let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(config))
                        .handshake_timeout(limits.header_timeout)
                        .acceptor(guard);
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
        tokio::select! {
            served = serving => served.map_err(failed),
            () = stopping => Ok(()),
        }
    }
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

fn tls_config(files: &TlsFiles) -> Result<Arc<rustls::ServerConfig>, StartError> {
    let (cert, key) = (&files.cert, &files.key);
    let chain = CertificateDer::pem_slice_iter(&read("certificate", cert)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad("certificate", cert, format!("is not PEM: {error}")))?;
    if chain.is_empty() {
        return Err(bad("certificate", cert, "holds no CERTIFICATE block; give the PEM file of the chain".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_slice(&read("private key", key)?).map_err(|error| {
        bad("private key", key, format!("holds no usable key ({error}); give it as PEM without a passphrase"))
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| bad("certificate", cert, format!("cannot be used: {error}")))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| {
            bad("certificate", cert, format!("does not go with private key `{}`: {error}", key.display()))
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read(role: &'static str, path: &Path) -> Result<Vec<u8>, StartError> {
    fs::read(path).map_err(|source| StartError::ReadTls { role, path: path.to_owned(), source })
}

fn bad(role: &'static str, path: &Path, reason: String) -> StartError {
    StartError::BadTls { role, path: path.to_owned(), reason }
}
