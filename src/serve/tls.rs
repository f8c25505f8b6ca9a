//! The server's identity: reads the TLS files, and reads them again when they change.
//!
//! Certificates are renewed every few weeks, by programs that write two files one after the other. So what cannot be
//! used now may be usable at the next look, and until then the certificate read before stays. Connections keep the one
//! they began with.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum_server::tls_rustls::RustlsConfig;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use tokio::time::MissedTickBehavior;

use crate::serve::error::{StartError, chain};
use crate::serve::options::TlsFiles;
use crate::serve::stamp::Stamp;

/// The TLS files and what was last read from them.
#[derive(Debug)]
pub(super) struct Tls {
    files: TlsFiles,
    stamps: Stamps,
    current: RustlsConfig,
}

type Stamps = [Option<Stamp>; 2];

fn stamps(files: &TlsFiles) -> Stamps {
    [Stamp::of(&files.cert), Stamp::of(&files.key)]
}

impl Tls {
    pub(super) fn open(files: &TlsFiles) -> Result<Self, StartError> {
        let stamps = stamps(files);
        let current = RustlsConfig::from_config(server_config(files)?);
        Ok(Self { files: files.clone(), stamps, current })
    }

    /// What new connections get, now and later.
    pub(super) fn current(&self) -> RustlsConfig {
        self.current.clone()
    }

    /// Looks at the files for ever.
    pub(super) async fn keep_current(mut self, every: Duration) {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look_again().await;
        }
    }

    /// Reads the files anew if they changed since the last look.
    async fn look_again(&mut self) {
        let (files, before) = (self.files.clone(), self.stamps);
        let read = tokio::task::spawn_blocking(move || {
            let stamps = stamps(&files);
            (stamps != before).then(|| (stamps, server_config(&files)))
        });
        let Ok(Some((stamps, read))) = read.await else { return };
        self.stamps = stamps;
        match read {
            Ok(config) => {
                self.current.reload_from_config(config);
                tracing::info!(cert = %self.files.cert.display(), "TLS files read again");
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "TLS files cannot be used; the certificate read before stays");
            }
        }
    }
}

fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, StartError> {
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
    let mut config = ServerConfig::builder_with_provider(provider)
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
        let files = TlsFiles { cert: folder.path().join("c.pem"), key: folder.path().join("k.pem") };
        let write = |path: &Path, text: &str| {
            // As programs that renew certificates do, and so that the stamp differs whatever the clock's resolution.
            let fresh = folder.path().join("new");
            fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, path)).expect("write");
        };
        let [[cert_1, key_1], [cert_2, key_2]] = [made(), made()];
        write(&files.cert, &cert_1);
        write(&files.key, &key_1);
        let mut tls = Tls::open(&files).expect("usable");

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
