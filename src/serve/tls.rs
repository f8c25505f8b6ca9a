//! The server's identity and whose certificates of clients are taken: reads the TLS files, and reads them again when they
//! change.
//!
//! Certificates are renewed every few weeks, by programs that write two files one after the other. So what cannot be
//! used now may be usable at the next look, and until then what was read before stays. Connections keep what they began
//! with; a session is not resumed across a change, so that a revoked certificate comes in no more.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum_server::tls_rustls::RustlsConfig;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use tokio::time::MissedTickBehavior;

use crate::serve::error::{StartError, chain};
use crate::serve::metrics::Metrics;
use crate::serve::options::{ClientAuth, TlsFiles};
use crate::serve::stamp::Stamp;

const CERTIFICATE: &str = "certificate";
const PRIVATE_KEY: &str = "private key";
const CLIENT_CA: &str = "client authorities";
const CLIENT_CRL: &str = "revocation list";

/// The TLS files and what was last read from them. Clones share everything.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    read: Arc<Mutex<Read>>,
    current: RustlsConfig,
}

#[derive(Clone, Debug)]
struct Read {
    files: TlsFiles,
    stamps: Stamps,
}

type Stamps = [Option<Stamp>; 4];

fn stamps(files: &TlsFiles) -> Stamps {
    let of = |path: Option<&std::path::PathBuf>| path.and_then(|path| Stamp::of(path));
    [of(Some(&files.cert)), of(Some(&files.key)), of(files.client_ca.as_ref()), of(files.client_crl.as_ref())]
}

impl Tls {
    pub(super) fn open(files: &TlsFiles) -> Result<Self, StartError> {
        let stamps = stamps(files);
        let current = RustlsConfig::from_config(server_config(files)?);
        Ok(Self { read: Arc::new(Mutex::new(Read { files: files.clone(), stamps })), current })
    }

    /// What new connections get, now and later.
    pub(super) fn current(&self) -> RustlsConfig {
        self.current.clone()
    }

    /// Goes over to these files; on error everything stays as it was.
    pub(super) fn change_to(&self, files: &TlsFiles) -> Result<(), StartError> {
        let stamps = stamps(files);
        let config = server_config(files)?;
        *self.read.lock() = Read { files: files.clone(), stamps };
        self.current.reload_from_config(config);
        Ok(())
    }

    /// Looks at the files for ever.
    pub(super) async fn keep_current(&self, every: Duration, metrics: &Metrics) {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Some(renewed) = self.look_again().await {
                let result = if renewed { "ok" } else { "failed" };
                metrics.count("taxiway_reloads_total", &[("what", "tls"), ("result", result)], 1);
            }
        }
    }

    /// Reads the files anew if they changed since the last look; whether they could be used.
    async fn look_again(&self) -> Option<bool> {
        let before = self.read.lock().clone();
        let files = before.files.clone();
        let read = tokio::task::spawn_blocking(move || {
            let stamps = stamps(&files);
            (stamps != before.stamps).then(|| (stamps, server_config(&files)))
        });
        let Ok(Some((stamps, read))) = read.await else { return None };
        let mut current = self.read.lock();
        if current.files != before.files {
            // A reload went over to others meanwhile.
            return None;
        }
        current.stamps = stamps;
        match read {
            Ok(config) => {
                self.current.reload_from_config(config);
                tracing::info!(cert = %current.files.cert.display(), "TLS files read again");
                Some(true)
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "TLS files cannot be used; what was read before stays");
                Some(false)
            }
        }
    }
}

fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, StartError> {
    let (cert, key) = (&files.cert, &files.key);
    let chain = certificates(CERTIFICATE, cert)?;
    let private = PrivateKeyDer::from_pem_slice(&read(PRIVATE_KEY, key)?).map_err(|error| {
        bad(PRIVATE_KEY, key, format!("holds no usable key ({error}); give it as PEM without a passphrase"))
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| bad(CERTIFICATE, cert, format!("cannot be used: {error}")))?;
    let clients = match &files.client_ca {
        Some(authorities) => versions.with_client_cert_verifier(verifier(files, authorities, provider)?),
        None => versions.with_no_client_auth(),
    };
    let mut config = clients.with_single_cert(chain, private).map_err(|error| {
        bad(CERTIFICATE, cert, format!("does not go with private key `{}`: {error}", key.display()))
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Checks certificates of clients against those authorities and their revocation lists. Without any list nothing is known to
/// be revoked; with one, what it does not cover, such as a sub-authority without a list of its own, is taken as good.
fn verifier(
    files: &TlsFiles,
    authorities: &Path,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, StartError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(CLIENT_CA, authorities)? {
        roots.add(certificate).map_err(|error| {
            bad(CLIENT_CA, authorities, format!("holds a certificate that cannot be used: {error}"))
        })?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if let Some(lists) = &files.client_crl {
        let found = CertificateRevocationListDer::pem_slice_iter(&read(CLIENT_CRL, lists)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| bad(CLIENT_CRL, lists, format!("is not PEM: {error}")))?;
        if found.is_empty() {
            return Err(bad(CLIENT_CRL, lists, "holds no X509 CRL block; give the list as PEM".to_owned()));
        }
        builder = builder.with_crls(found).allow_unknown_revocation_status();
    }
    if files.client_auth == ClientAuth::Optional {
        builder = builder.allow_unauthenticated();
    }
    let blamed = files.client_crl.as_deref().map_or((CLIENT_CA, authorities), |lists| (CLIENT_CRL, lists));
    builder.build().map_err(|error| bad(blamed.0, blamed.1, format!("cannot be used: {error}")))
}

/// At least one certificate.
fn certificates(role: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let found = CertificateDer::pem_slice_iter(&read(role, path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(role, path, format!("is not PEM: {error}")))?;
    if found.is_empty() {
        return Err(bad(role, path, "holds no CERTIFICATE block; give a PEM file of certificates".to_owned()));
    }
    Ok(found)
}

fn read(role: &'static str, path: &Path) -> Result<Vec<u8>, StartError> {
    fs::read(path).map_err(|source| StartError::ReadTls { role, path: path.to_owned(), source })
}

fn bad(role: &'static str, path: &Path, reason: String) -> StartError {
    StartError::BadTls { role, path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PEM texts of a new certificate and its key.
    fn made() -> [String; 2] {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        [made.cert.pem(), made.signing_key.serialize_pem()]
    }

    #[tokio::test]
    async fn files_are_read_again_when_they_changed_and_can_be_used() {
        let folder = tempfile::tempdir().expect("folder");
        let files = TlsFiles::new(folder.path().join("c.pem"), folder.path().join("k.pem"));
        let write = |path: &Path, text: &str| {
            // As programs that renew certificates do, and so that the stamp differs whatever the clock's resolution.
            let fresh = folder.path().join("new");
            fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, path)).expect("write");
        };
        let [[cert_1, key_1], [cert_2, key_2]] = [made(), made()];
        write(&files.cert, &cert_1);
        write(&files.key, &key_1);
        let tls = Tls::open(&files).expect("usable");

        let vanish = "";
        let (cert, key) = (&files.cert, &files.key);
        // What is written, whether another certificate is served then.
        let cases = [
            (vec![], false),
            (vec![(cert, &*cert_2)], false),
            (vec![(key, &*key_2)], true),
            (vec![(cert, "rubbish")], false),
            (vec![(cert, vanish)], false),
            (vec![(cert, &*cert_2)], true),
            (vec![(key, vanish)], false),
            (vec![(cert, &*cert_1), (key, &*key_1)], true),
            (vec![], false),
        ];
        for (number, (changes, renewed)) in cases.into_iter().enumerate() {
            let before = tls.current().get_inner();
            for (path, text) in changes {
                if text == vanish {
                    fs::remove_file(path).expect("remove");
                } else {
                    write(path, text);
                }
            }
            tls.look_again().await;
            assert_eq!(!Arc::ptr_eq(&before, &tls.current().get_inner()), renewed, "{number}");
        }
    }
}
