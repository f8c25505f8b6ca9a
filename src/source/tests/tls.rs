//! Certificates on both sides, and what the user reads when they do not fit.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use pkcs8::der::Decode;
use pkcs8::pkcs5::pbes2;
use pkcs8::{LineEnding, PrivateKeyInfo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use url::Url;

use super::quick;
use crate::source::{Client, Endpoint, Identity, Secret, SourceError};

/// An authority made for a test.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    /// PEM of a certificate and its key.
    fn issue(&self, name: &str, is_expired: bool) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if is_expired {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// A TLS server that answers everything with an API root; clients need a certificate of `clients`, where given.
fn serve(certificate: &(String, String), clients: Option<&Authority>) -> u16 {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = vec![CertificateDer::from_pem_slice(certificate.0.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(certificate.1.as_bytes()).unwrap();
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(&authority.pem()).unwrap()).unwrap();
            builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap(),
            )
        }
        None => builder.with_no_client_auth(),
    };
    let config = Arc::new(builder.with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Ok(connection) = ServerConnection::new(Arc::clone(&config)) else { return };
            let mut stream = StreamOwned::new(connection, stream);
            let mut request = Vec::new();
            let mut piece = [0; 1024];
            while !request.windows(4).any(|four| four == b"\r\n\r\n") {
                match stream.read(&mut piece) {
                    Ok(read) if read > 0 => request.extend_from_slice(&piece[..read]),
                    _ => break,
                }
            }
            let body = r#"{"title":"Root","versions":["application/taxii+json;version=2.1"]}"#;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    port
}

fn endpoint(port: u16, authority: &Authority) -> Endpoint {
    let mut endpoint = Endpoint::new(Url::parse(&format!("https://localhost:{port}/root/")).unwrap());
    endpoint.authorities = Some(authority.pem());
    endpoint
}

fn identity(pair: &(String, String), passphrase: Option<&str>) -> Option<Identity> {
    Some(Identity {
        certificates: pair.0.clone().into_bytes(),
        key: pair.1.clone().into_bytes(),
        passphrase: passphrase.map(Secret::new),
    })
}

/// The same key under a passphrase.
fn locked(key: &str, passphrase: &str) -> String {
    let (_, document) = pkcs8::SecretDocument::from_pem(key).unwrap();
    let parameters = pbes2::Parameters::pbkdf2_sha256_aes256cbc(1_000, b"saltsalt", &[7; 16]).unwrap();
    let info = PrivateKeyInfo::from_der(document.as_bytes()).unwrap();
    let locked = info.encrypt_with_params(parameters, passphrase).unwrap();
    locked.to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF).unwrap().to_string()
}

async fn error(endpoint: Endpoint) -> SourceError {
    Client::connect(endpoint, quick()).await.unwrap_err()
}

#[tokio::test]
async fn servers_are_trusted_for_a_reason() {
    let (ours, other) = (Authority::new(), Authority::new());
    let good = serve(&ours.issue("localhost", false), None);
    Client::connect(endpoint(good, &ours), quick()).await.unwrap();
    let expired = serve(&ours.issue("localhost", true), None);
    let misnamed = serve(&ours.issue("other.example", false), None);
    let cases = [
        (endpoint(good, &other), "add that authority to the CA bundle"),
        (endpoint(expired, &ours), "its certificate has expired"),
        (endpoint(misnamed, &ours), "its certificate is for another name"),
    ];
    for (endpoint, expected) in cases {
        let error = error(endpoint).await;
        assert!(matches!(error, SourceError::Trust { .. }) && !error.is_transient(), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = plain.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in plain.incoming().flatten() {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let error = error(endpoint(port, &ours)).await.to_string();
    assert!(error.contains("is not TLS"), "{error}");
}

#[tokio::test]
async fn clients_show_a_certificate() {
    let (ours, clients, other) = (Authority::new(), Authority::new(), Authority::new());
    let port = serve(&ours.issue("localhost", false), Some(&clients));
    let pair = clients.issue("ann", false);
    let with = |identity: Option<Identity>| Endpoint { identity, ..endpoint(port, &ours) };
    Client::connect(with(identity(&pair, None)), quick()).await.unwrap();
    let key = locked(&pair.1, "pass-phrase");
    let encrypted = (pair.0.clone(), key.clone());
    Client::connect(with(identity(&encrypted, Some("pass-phrase"))), quick()).await.unwrap();
    // Key and certificate in one file, with the line ends of another system.
    let both = format!("{}{key}", pair.0).replace('\n', "\r\n");
    Client::connect(with(identity(&(both.clone(), both), Some("pass-phrase"))), quick()).await.unwrap();

    let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    let cases: [(Option<Identity>, &str); 8] = [
        (identity(&encrypted, Some("wrong-phrase")), "`key passphrase` does not open the client key"),
        (identity(&encrypted, None), "`key passphrase` is missing"),
        (identity(&(pair.0.clone(), legacy.to_owned()), None), "openssl pkcs8 -topk8"),
        (identity(&(pair.0.clone(), "rubbish".to_owned()), None), "`client key` holds no usable key"),
        (identity(&("rubbish".to_owned(), pair.1.clone()), None), "`client certificate` holds no CERTIFICATE block"),
        (identity(&(pair.0.clone(), other.issue("x", false).1), None), "does not go with the client key"),
        (identity(&clients.issue("ann", true), None), "`client certificate` expired at"),
        (identity(&other.issue("ann", false), None), "it does not take our client certificate"),
    ];
    for (identity, expected) in cases {
        let error = error(with(identity)).await.to_string();
        assert!(error.contains(expected), "{error}: {expected}");
        assert!(!error.contains("phrase-") && !error.contains("wrong-phrase"), "{error}");
    }
    let error = error(with(None)).await.to_string();
    assert!(error.contains("wants a client certificate"), "{error}");
}
