//! Whom we trust, and the certificate we show.
//!
//! Private keys come as people have them: PKCS#8, PKCS#1, SEC1, and PKCS#8 under a passphrase. The encrypted form that old
//! tools write (`Proc-Type: 4,ENCRYPTED`) derives its key with MD5 and is not read; the message says how to convert it.

use std::path::PathBuf;
use std::sync::Arc;

use pkcs8::EncryptedPrivateKeyInfo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::source::error::SourceError;
use crate::source::options::{Endpoint, Identity};

const CERTIFICATE: &str = "client certificate";
const KEY: &str = "client key";
const PASSPHRASE: &str = "key passphrase";
const AUTHORITIES: &str = "CA bundle";

/// Where systems keep the authorities they trust.
const SYSTEM_BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
];

/// What connections are made with; `with_identity` is off for hosts that must not learn who we are.
pub(super) fn client_config(endpoint: &Endpoint, with_identity: bool) -> Result<ClientConfig, SourceError> {
    let identity = endpoint.identity.as_ref().filter(|_| with_identity);
    config(roots(endpoint)?, identity)
}

fn config(roots: RootCertStore, identity: Option<&Identity>) -> Result<ClientConfig, SourceError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| SourceError::setting(AUTHORITIES, format!("cannot be used: {error}")))?
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => {
            let chain = certificates(CERTIFICATE, &identity.certificates)?;
            check_dates(&chain)?;
            builder.with_client_auth_cert(chain, private_key(identity)?).map_err(|error| {
                SourceError::setting(
                    CERTIFICATE,
                    format!("does not go with the client key ({error}); give both of one pair"),
                )
            })?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Whether certificate and key can be read, go together and are of this time.
///
/// # Errors
/// The first thing that is wrong, with what to do about it.
pub fn check_identity(identity: &Identity) -> Result<(), SourceError> {
    // Whom we trust matters nothing here.
    config(RootCertStore::empty(), Some(identity)).map(drop)
}

fn roots(endpoint: &Endpoint) -> Result<RootCertStore, SourceError> {
    let mut roots = RootCertStore::empty();
    match &endpoint.authorities {
        Some(bundle) => {
            for certificate in certificates(AUTHORITIES, bundle)? {
                roots.add(certificate).map_err(|error| {
                    SourceError::setting(AUTHORITIES, format!("holds a certificate that cannot be used: {error}"))
                })?;
            }
        }
        None => {
            let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
            let found =
                named.into_iter().chain(SYSTEM_BUNDLES.map(PathBuf::from)).find_map(|path| std::fs::read(path).ok());
            if let Some(bundle) = found {
                // Systems keep authorities that no strict reader takes; the others serve.
                roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bundle).flatten());
            }
            if roots.is_empty() && endpoint.url.scheme() == "https" {
                return Err(SourceError::setting(
                    AUTHORITIES,
                    "is not set, and this system has none; give the authorities to trust as a PEM file",
                ));
            }
        }
    }
    Ok(roots)
}

/// At least one certificate.
fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found =
        found.map_err(|error| SourceError::setting(what, format!("is not PEM ({error}); convert it to PEM")))?;
    if found.is_empty() {
        let hint = if pem.first() == Some(&0x30) {
            "looks like DER or PKCS#12; convert it with `openssl x509 -inform der -in FILE -out FILE.pem`, or `openssl pkcs12 -in FILE -out FILE.pem`"
        } else {
            "holds no CERTIFICATE block; give a PEM file of certificates"
        };
        return Err(SourceError::setting(what, hint));
    }
    Ok(found)
}

/// Servers only say `bad certificate` to one out of date: better said here.
fn check_dates(chain: &[CertificateDer<'static>]) -> Result<(), SourceError> {
    let Some((_, first)) = chain.first().and_then(|der| X509Certificate::from_der(der).ok()) else { return Ok(()) };
    let validity = first.validity();
    let now = crate::model::time::Timestamp::now().0.div_euclid(crate::model::time::MICROS_PER_SECOND);
    if now > validity.not_after.timestamp() {
        return Err(SourceError::setting(CERTIFICATE, format!("expired at {}; renew it", validity.not_after)));
    }
    if now < validity.not_before.timestamp() {
        return Err(SourceError::setting(
            CERTIFICATE,
            format!("is valid only from {} on; check the clock of this machine", validity.not_before),
        ));
    }
    Ok(())
}

fn private_key(identity: &Identity) -> Result<PrivateKeyDer<'static>, SourceError> {
    let pem = String::from_utf8_lossy(&identity.key);
    if pem.contains("BEGIN ENCRYPTED PRIVATE KEY") {
        return decrypted(&pem, identity);
    }
    if pem.contains("Proc-Type:") && pem.contains("ENCRYPTED") {
        return Err(SourceError::setting(
            KEY,
            "is encrypted in the old PEM form, which is weak and not read; convert it with `openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW`",
        ));
    }
    PrivateKeyDer::from_pem_slice(&identity.key).map_err(|error| {
        SourceError::setting(
            KEY,
            format!(
                "holds no usable key ({error}); give it as PEM, such as `openssl pkcs8 -topk8 -in OLD -out NEW` writes"
            ),
        )
    })
}

fn decrypted(pem: &str, identity: &Identity) -> Result<PrivateKeyDer<'static>, SourceError> {
    let Some(passphrase) = &identity.passphrase else {
        return Err(SourceError::setting(PASSPHRASE, "is missing; the client key is encrypted"));
    };
    // Other blocks, such as the certificate, may stand before it.
    let block = pem.find("-----BEGIN ENCRYPTED PRIVATE KEY").and_then(|start| pem.get(start..)).unwrap_or(pem);
    let end = block.find("-----END ENCRYPTED PRIVATE KEY-----").map_or(block.len(), |at| at + 35);
    let block = block.get(..end).unwrap_or(block).replace('\r', "");
    let unreadable = |error: &dyn std::fmt::Display| {
        SourceError::setting(
            KEY,
            format!(
                "cannot be read ({error}); write it anew with `openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW`"
            ),
        )
    };
    let (label, document) = pkcs8::SecretDocument::from_pem(&block).map_err(|error| unreadable(&error))?;
    if label != "ENCRYPTED PRIVATE KEY" {
        return Err(unreadable(&label));
    }
    let info = EncryptedPrivateKeyInfo::try_from(document.as_bytes()).map_err(|error| unreadable(&error))?;
    if info.encryption_algorithm.pbes2().is_none() {
        return Err(unreadable(&"its encryption is older than PBES2"));
    }
    let plain = info.decrypt(passphrase.reveal()).map_err(|error| match error {
        pkcs8::Error::EncryptedPrivateKey(pkcs8::pkcs5::Error::DecryptFailed) => {
            SourceError::setting(PASSPHRASE, "does not open the client key; check it")
        }
        pkcs8::Error::EncryptedPrivateKey(
            pkcs8::pkcs5::Error::UnsupportedAlgorithm { .. } | pkcs8::pkcs5::Error::NoPbes1CryptSupport,
        ) => unreadable(&"its cipher is not AES, or its digest not SHA-2"),
        // A wrong passphrase can leave a padding that happens to look right, and then rubbish inside.
        _ => SourceError::setting(PASSPHRASE, "does not open the client key; check it"),
    })?;
    Ok(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(plain.as_bytes().to_vec())))
}
