//! What stands between the network and the routes, over real sockets: bodies, limits, certificates, monitoring, the audit
//! log, reloads and the end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use flate2::Compression;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::serve::audit::{Action, Deed};
use crate::serve::client::Client;
use crate::serve::error::ServeError;
use crate::serve::objects::{DATE_ADDED_FIRST, DATE_ADDED_LAST};
use crate::serve::router::layered;
use crate::serve::tests::{BASE, FIRST, LAST, Running, client, run, run_as};
use crate::serve::{App, ClientAuth, Cors, Options, StartError, TlsFiles, bind, body, examine};

/// So long that only what never happens takes longer.
const NEVER: Duration = Duration::from_secs(20);
const MILLI: Duration = Duration::from_millis(1);

/// Routes that show what reaches a handler.
fn showing(app: Arc<App>) -> Router {
    let length = async |State(app): State<Arc<App>>, request: Request| -> Result<String, ServeError> {
        let (head, sent) = request.into_parts();
        Ok(body::read(&app, &head.headers, sent).await?.len().to_string())
    };
    let who = async |Extension(client): Extension<Client>| {
        let names = client.certificate.map(|certificate| certificate.names.join(" ")).unwrap_or_default();
        format!("{} {names}", client.address)
    };
    let routes = Router::new()
        .route("/length", post(length))
        .route("/who", get(who))
        .route("/forbidden", post(async || ServeError::ReadOnly { title: "x".to_owned() }))
        .route("/read", get(async || deed(Action::Read)).post(async || deed(Action::Write)));
    layered(app, routes)
}

fn deed(action: Action) -> Response {
    let mut response = [(DATE_ADDED_FIRST, FIRST), (DATE_ADDED_LAST, LAST)].into_response();
    response.extensions_mut().insert(Deed {
        action,
        api_root: "root".to_owned(),
        collection: Some("c1".to_owned()),
        object: None,
        objects: 3,
    });
    response
}

/// For answers that are left unread: endless blanks would be compressed for ever before they fill a socket.
fn unread_client() -> reqwest::Client {
    client().no_gzip().no_zstd().build().expect("a client")
}

async fn connect(running: &Running) -> TcpStream {
    TcpStream::connect(running.url.replace("http://", "")).await.expect("connects")
}

/// Sends that, and reads until the server hangs up.
async fn wire(running: &Running, sent: &[u8]) -> String {
    let mut stream = connect(running).await;
    stream.write_all(sent).await.expect("sends");
    rest(&mut stream).await
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut received = Vec::new();
    let read = timeout(NEVER, stream.read_to_end(&mut received)).await.expect("the server hangs up");
    read.expect("it does so in peace");
    String::from_utf8_lossy(&received).into_owned()
}

/// Reads up to the end of a head.
async fn head(stream: &mut TcpStream) -> String {
    let mut received = Vec::new();
    let reading = async {
        while !received.ends_with(b"\r\n\r\n") {
            received.push(stream.read_u8().await.expect("a byte"));
        }
    };
    timeout(NEVER, reading).await.expect("a head");
    String::from_utf8(received).expect("ASCII")
}

/// The error resource at the end of an answer as received.
fn error_of(answer: &str) -> Value {
    serde_json::from_str(answer.split("\r\n\r\n").last().expect("a body").trim()).expect("an error resource")
}

#[tokio::test]
async fn a_body_is_refused_before_it_is_sent_and_taken_when_it_fits() {
    let running = run_as(false, showing, |options| options.limits.body_bytes = 1000);
    let ask = |path: &str, length: usize| {
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n")
    };
    for (path, length, status) in [("/length", 1001, "413"), ("/length", 1 << 60, "413"), ("/forbidden", 1, "403")] {
        let answer = wire(&running, ask(path, length).as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path} {length}: {answer}");
        assert_eq!(error_of(&answer)["http_status"], json!(status));
        assert!(status != "413" || answer.contains("1000 bytes"), "the limit is named: {answer}");
    }
    let mut stream = connect(&running).await;
    stream.write_all(ask("/length", 1000).as_bytes()).await.expect("sends");
    assert_eq!(head(&mut stream).await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&[b'x'; 1000]).await.expect("sends");
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn who_sends_too_much_reads_why() {
    let running = run_as(false, showing, |options| options.limits.body_bytes = 1000);
    // More than all buffers between the two hold: a server that just closed would cut its own answer off.
    let many = vec![b'x'; 12 << 20];
    for announced in [true, false] {
        let mut stream = connect(&running).await;
        let framing =
            if announced { format!("Content-Length: {}", many.len()) } else { "Transfer-Encoding: chunked".to_owned() };
        let ask = format!("POST /length HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n");
        stream.write_all(ask.as_bytes()).await.expect("sends");
        if !announced {
            stream.write_all(format!("{:x}\r\n", many.len()).as_bytes()).await.expect("sends");
        }
        stream.write_all(&many).await.expect("all of it is taken off the wire");
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }
}

#[tokio::test]
async fn bodies_that_do_not_end_are_cut() {
    let running = run_as(false, showing, |options| {
        options.limits.body_timeout = 300 * MILLI;
        options.limits.header_timeout = 100 * MILLI;
    });
    let chunked = b"POST /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n";
    // One that stops, and one that goes on for ever.
    let answer = wire(&running, chunked).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("connection: close"), "{answer}");
    let mut stream = connect(&running).await;
    stream.write_all(chunked).await.expect("sends");
    let (mut reader, mut writer) = stream.split();
    let endless = async { while writer.write_all(b"1\r\nx\r\n").await.is_ok() {} };
    let mut received = Vec::new();
    let ended = async {
        tokio::select! {
            () = endless => {}
            _ = reader.read_buf(&mut received) => {}
        }
    };
    timeout(NEVER, ended).await.expect("the server hangs up");
    assert!(received.is_empty() || received.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&received));
}

#[tokio::test]
async fn a_bomb_is_defused() {
    let running = run_as(false, showing, |options| options.limits.body_bytes = 1 << 20);
    // One mebibyte of blanks, over and over: a gzip file may have many members.
    let bomb = |mebibytes: usize| {
        use std::io::Write;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![b' '; 1 << 20]).expect("compresses");
        encoder.finish().expect("compresses").repeat(mebibytes)
    };
    let client = client().build().expect("a client");
    for (sent, encoding, status, said) in [
        (bomb(1), "gzip", 200, "1048576"),
        (bomb(1024), "gzip", 413, "1048576 bytes"),
        (bomb(1), "br", 415, "gzip, deflate, zstd"),
    ] {
        let post = client.post(format!("{}/length", running.url)).header("content-encoding", encoding).body(sent);
        let answer = post.send().await.expect("an answer");
        assert_eq!(answer.status(), status);
        let accepted = answer.headers().get("accept-encoding").map(|value| value.as_bytes().to_vec());
        assert_eq!(accepted.is_some(), status == 415);
        assert!(answer.text().await.expect("text").contains(said), "{status}");
    }
    assert_eq!(running.live.lasting().bodies.used(), 0);
}

#[tokio::test]
async fn room_for_bodies_is_shared() {
    let running = run_as(false, showing, |options| {
        options.limits.body_bytes = 100_000;
        options.limits.bodies_bytes = 100_000;
    });
    let mut slow = connect(&running).await;
    slow.write_all(b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 80000\r\n\r\n").await.expect("sends");
    slow.write_all(&vec![b'x'; 79_999]).await.expect("sends");
    let client = client().build().expect("a client");
    let tried = async || {
        let post = client.post(format!("{}/length", running.url)).body(vec![b'x'; 40_000]);
        let answer = post.send().await.expect("an answer");
        let again = answer.headers().get("retry-after").is_some();
        (answer.status().as_u16(), again)
    };
    let refused = async { while tried().await != (503, true) {} };
    timeout(NEVER, refused).await.expect("there is no room once the first has come");
    slow.write_all(b"x").await.expect("sends");
    assert!(head(&mut slow).await.starts_with("HTTP/1.1 200"));
    let taken = async { while tried().await != (200, false) {} };
    timeout(NEVER, taken).await.expect("there is room again");
}

#[tokio::test]
async fn clients_behind_trusted_proxies_are_told_apart() {
    let running = run_as(false, showing, |options| {
        options.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
        options.limits.requests_per_minute = Some(2);
    });
    let client = client().build().expect("a client");
    let ask = async |forwarded: &str| {
        let url = format!("{}/who", running.url);
        let answer = client.get(url).header("x-forwarded-for", forwarded).send().await.expect("an answer");
        let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().expect("ASCII").to_owned());
        let (limit, after) = (header("ratelimit"), header("retry-after"));
        (answer.status().as_u16(), limit, after, answer.text().await.expect("text"))
    };
    let first = ask("192.0.2.7").await;
    assert_eq!((first.0, first.1.as_deref(), first.3.trim()), (200, Some("\"client\";r=1"), "192.0.2.7"));
    assert_eq!(ask("203.0.113.1, 192.0.2.7").await.0, 200, "what the client itself says does not make it another one");
    let (status, limit, after, said) = ask("198.51.100.1, 192.0.2.7").await;
    assert_eq!(status, 429);
    let after: u64 = after.expect("Retry-After").parse().expect("seconds");
    assert!((1..=30).contains(&after), "{after}");
    assert_eq!(limit, Some(format!("\"client\";r=0;t={after}")));
    assert_eq!(serde_json::from_str::<Value>(&said).expect("JSON")["http_status"], json!("429"));
    assert_eq!(ask("192.0.2.8").await.0, 200, "another client");
}

#[tokio::test]
async fn one_client_cannot_take_all_places() {
    let running = run_as(false, super::router, |options| {
        options.limits.concurrent_requests_per_client = 2;
        options.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
    });
    let client = unread_client();
    let ask = async |path: &str, from: &str| {
        let url = format!("{}{path}", running.url);
        client.get(url).header("x-forwarded-for", from).send().await.expect("an answer")
    };
    let endless = format!("{BASE}/objects/?next=endless");
    let mut unread = vec![ask(&endless, "192.0.2.1").await, ask(&endless, "192.0.2.1").await];
    let refused = ask("/taxii2/", "192.0.2.1").await;
    assert_eq!((refused.status().as_u16(), refused.headers().contains_key("retry-after")), (429, true));
    assert_eq!(ask("/taxii2/", "192.0.2.2").await.status(), 200, "others are served");
    unread.pop();
    let again = async { while ask("/taxii2/", "192.0.2.1").await.status() != 200 {} };
    timeout(NEVER, again).await.expect("a place is free when an answer is gone");
    drop(unread);
}

#[tokio::test]
async fn connections_are_counted_by_address() {
    // connections, of one address, trusted → how many of three get an answer
    for (in_all, of_address, trusted, expected) in
        [(2, 9, false, 2), (9, 2, false, 2), (9, 2, true, 3), (9, 9, false, 3)]
    {
        let running = run(|options| {
            options.limits.connections = in_all;
            options.limits.connections_per_address = of_address;
            if trusted {
                options.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
            }
        });
        let mut open = Vec::new();
        let mut answered = 0;
        for _ in 0..3 {
            let mut stream = connect(&running).await;
            let _ = stream.write_all(b"GET /taxii2/ HTTP/1.1\r\nHost: x\r\n\r\n").await;
            let mut first = [0; 12];
            let read = timeout(NEVER, stream.read_exact(&mut first)).await.expect("an answer or an end");
            answered += usize::from(read.is_ok() && &first == b"HTTP/1.1 200");
            open.push(stream);
        }
        assert_eq!(answered, expected, "{in_all} {of_address} {trusted}");
        assert_eq!(running.live.lasting().connections.used(), expected as u64);
        drop(open);
        let again = async {
            loop {
                let mut stream = connect(&running).await;
                let _ = stream.write_all(b"GET /taxii2/ HTTP/1.1\r\nHost: x\r\n\r\n").await;
                if stream.read_u8().await.is_ok() {
                    break;
                }
            }
        };
        timeout(NEVER, again).await.expect("places come back");
    }
}

#[tokio::test]
async fn heads_are_as_large_as_configured() {
    let running = run(|options| {
        options.limits.url_bytes = 100;
        options.limits.headers_bytes = 200;
    });
    let ask = |path: &str, header: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n");
    let long = "x".repeat(200);
    let endless = "x".repeat(1 << 20);
    let cases = [
        (ask("/taxii2/", ""), "200", true),
        (ask(&format!("/taxii2/?{long}"), ""), "414", true),
        (ask("/taxii2/", &format!("X: {long}\r\n")), "431", true),
        // What hyper refuses itself has no body.
        (ask("/taxii2/", &format!("X: {endless}\r\n")), "431", false),
    ];
    for (sent, status, resource) in cases {
        let mut stream = connect(&running).await;
        // The last is refused on its way.
        let _ = stream.write_all(sent.as_bytes()).await;
        let mut received = Vec::new();
        let _ = timeout(NEVER, stream.read_to_end(&mut received)).await.expect("the server hangs up");
        let answer = String::from_utf8_lossy(&received);
        if resource {
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
            assert!(error_of(&answer).is_object());
        } else {
            assert!(answer.is_empty() || answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        }
    }
}

/// An authority, and what it issues.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().expect("a key");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("an authority") }
    }

    /// Certificate and key of a client, in PEM.
    fn client(&self, name: &str, serial: u64) -> reqwest::Identity {
        let mut params = CertificateParams::new(vec![format!("{name}.example")]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        reqwest::Identity::from_pem(format!("{}{}", certificate.pem(), key.serialize_pem()).as_bytes())
            .expect("an identity")
    }

    fn revoking(&self, serials: &[u64]) -> String {
        let at = |year| rcgen::date_time_ymd(year, 1, 1);
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: at(2024),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: at(2024),
            next_update: at(2099),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }
}

/// Files of a server, in that folder, and what its clients trust.
fn server_files(folder: &Path) -> (TlsFiles, reqwest::Certificate) {
    let files = TlsFiles::new(folder.join("c.pem"), folder.join("k.pem"));
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    std::fs::write(&files.cert, made.cert.pem()).expect("write");
    std::fs::write(&files.key, made.signing_key.serialize_pem()).expect("write");
    (files, reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).expect("a certificate"))
}

#[tokio::test]
async fn certificates_of_clients_are_checked_and_shown() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut files, root) = server_files(folder.path());
    let (ours, other) = (Authority::new(), Authority::new());
    let (ca, crl) = (folder.path().join("ca.pem"), folder.path().join("crl.pem"));
    std::fs::write(&ca, ours.issuer.pem()).expect("write");
    std::fs::write(&crl, ours.revoking(&[7])).expect("write");
    files.client_ca = Some(ca);
    let ask = async |running: &Running, identity: Option<reqwest::Identity>| {
        let address = running.url.replace("https://", "").parse().expect("an address");
        let builder = client().add_root_certificate(root.clone()).resolve("localhost", address);
        let builder = match identity {
            Some(identity) => builder.identity(identity),
            None => builder,
        };
        let url = running.url.replace("127.0.0.1", "localhost") + "/who";
        match builder.build().expect("a client").get(url).send().await {
            Ok(answer) => Some(answer.text().await.expect("text")),
            Err(_) => None,
        }
    };
    for required in [false, true] {
        for revoking in [false, true] {
            files.client_auth = if required { ClientAuth::Required } else { ClientAuth::Optional };
            files.client_crl = revoking.then(|| crl.clone());
            let running = run_as(false, showing, |options| options.tls = Some(files.clone()));
            assert_eq!(ask(&running, None).await.is_some(), !required);
            let shown = ask(&running, Some(ours.client("ann", 5))).await.expect("let in");
            assert!(shown.starts_with("127.0.0.1 cn:ann dns:ann.example sha256:"), "{shown}");
            assert_eq!(ask(&running, Some(ours.client("bob", 7))).await.is_some(), !revoking);
            assert!(ask(&running, Some(other.client("eve", 5))).await.is_none());
        }
    }
    // The list is read again when it changes.
    let running = run_as(false, showing, |options| options.tls = Some(files.clone()));
    assert!(ask(&running, Some(ours.client("ann", 5))).await.is_some());
    std::fs::write(&crl, ours.revoking(&[5, 7])).expect("write");
    let revoked = async { while ask(&running, Some(ours.client("ann", 5))).await.is_some() {} };
    timeout(NEVER, revoked).await.expect("the new list counts");
    let failures = running.live.lasting().metrics.text();
    assert!(!failures.contains("taxiway_tls_handshake_failures_total 0"), "{failures}");

    for (ca, crl, said) in [
        ("none.pem", "crl.pem", "read client authorities"),
        ("k.pem", "crl.pem", "holds no CERTIFICATE block"),
        ("ca.pem", "none.pem", "read revocation list"),
        ("ca.pem", "ca.pem", "holds no X509 CRL block"),
    ] {
        files.client_ca = Some(folder.path().join(ca));
        files.client_crl = Some(folder.path().join(crl));
        let error =
            bind(&Options { tls: Some(files.clone()), ..Options::default() }).expect_err("unusable").to_string();
        assert!(error.contains(said) && error.contains(".pem`"), "{error}");
    }
}

#[test]
fn nothing_goes_over_a_network_in_the_clear_unless_that_is_said() {
    let folder = tempfile::tempdir().expect("folder");
    let (files, _) = server_files(folder.path());
    const HERE: &str = "127.0.0.1:0";
    const THERE: &str = "0.0.0.0:0";
    // listen, TLS, said, admin, said → which settings are named
    let cases: [(&str, bool, bool, Option<&str>, bool, &[&str]); 9] = [
        (HERE, false, false, None, false, &[]),
        ("[::1]:0", false, false, Some("[::1]:0"), false, &[]),
        (THERE, true, false, None, false, &[]),
        (THERE, false, true, None, false, &[]),
        (THERE, false, false, None, false, &["plain_http_off_loopback"]),
        ("[::]:0", false, false, None, true, &["plain_http_off_loopback"]),
        (HERE, false, false, Some(THERE), false, &["admin_off_loopback"]),
        (THERE, false, false, Some(THERE), false, &["plain_http_off_loopback", "admin_off_loopback"]),
        (HERE, false, false, Some(THERE), true, &[]),
    ];
    for (listen, tls, plain, admin, admin_off_loopback, expected) in cases {
        let mut options = Options {
            listen: listen.parse().expect("an address"),
            plain_http_off_loopback: plain,
            admin_listen: admin.map(|admin| admin.parse().expect("an address")),
            admin_off_loopback,
            tls: tls.then(|| files.clone()),
            ..Options::default()
        };
        options.auth.users = folder.path().join("users.json");
        options.auth.anonymous = Some(true);
        options.auth.anonymous_off_loopback = true;
        let said: Vec<String> = match examine(&options) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.iter().map(StartError::to_string).collect(),
        };
        assert_eq!(said.len(), expected.len(), "{listen} {admin:?}: {said:?}");
        assert!(said.iter().zip(expected).all(|(said, key)| said.contains(&format!("`{key} = true`"))), "{said:?}");
        assert_eq!(bind(&options).is_ok(), expected.is_empty(), "{listen} {admin:?}");
    }
}

#[tokio::test]
async fn monitoring_has_its_own_socket() {
    let running = run_as(true, showing, |options| {
        options.admin_listen = Some("127.0.0.1:0".parse().expect("an address"));
    });
    let admin = running.admin_url.clone().expect("an address");
    let client = client().build().expect("a client");
    let get = async |url: String| {
        let answer = client.get(url).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    };
    assert_eq!(get(format!("{admin}/health")).await, (200, "ok\n".to_owned()));
    assert_eq!(get(format!("{admin}/ready")).await, (200, "ready\n".to_owned()));
    assert_eq!(get(format!("{admin}/taxii2/")).await.0, 404);
    for path in ["/health", "/metrics"] {
        assert_eq!(get(format!("{}{path}", running.url)).await.0, 401, "not where the clients are");
    }
    let read = |password: &str| client.get(format!("{}/read", running.url)).basic_auth("ann", Some(password)).send();
    assert_eq!(read("secret").await.expect("an answer").status(), 200);
    assert_eq!(read("wrong").await.expect("an answer").status(), 401);
    let expected = [
        "taxiway_ready 1",
        "taxiway_connections 1",
        "taxiway_password_hashes 2",
        "taxiway_requests_total{method=\"GET\",route=\"/read\",status=\"2xx\"} 1",
        "taxiway_requests_refused_total{reason=\"unauthorized\"} 3",
        "taxiway_auth_total{result=\"password\"} 1",
        "taxiway_auth_total{result=\"failed\"} 1",
        "taxiway_auth_total{result=\"none_given\"} 2",
        "taxiway_objects_served_total{collection=\"c1\"} 3",
        "taxiway_bodies_bytes 0",
        "taxiway_requests_in_flight 0",
    ];
    let counted = async {
        loop {
            // The last answer is counted when it is gone, which its reader may be ahead of.
            let (status, text) = get(format!("{admin}/metrics")).await;
            assert_eq!(status, 200);
            if expected.iter().all(|line| text.lines().any(|found| found == *line)) {
                return;
            }
        }
    };
    let last = async || get(format!("{admin}/metrics")).await.1;
    if timeout(NEVER / 4, counted).await.is_err() {
        panic!("{expected:?} are not all in\n{}", last().await);
    }
    let text = last().await;
    assert!(!text.contains("ann") && !text.contains("taxii2"), "no name and no path that a client chose: {text}");
}

#[tokio::test]
async fn a_server_that_stops_says_so_and_lets_posts_finish() {
    let running = run_as(false, showing, |options| {
        options.admin_listen = Some("127.0.0.1:0".parse().expect("an address"));
    });
    let admin = running.admin_url.clone().expect("an address");
    let mut posting = connect(&running).await;
    let ask = b"POST /length HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    posting.write_all(ask).await.expect("sends");
    // So it is being read.
    assert!(head(&mut posting).await.starts_with("HTTP/1.1 100"));
    running.stop.send(()).expect("still serving");
    let client = client().build().expect("a client");
    let ready = async || client.get(format!("{admin}/ready")).send().await.expect("an answer").status().as_u16();
    let told = async { while ready().await == 200 {} };
    timeout(NEVER, told).await.expect("not ready any more");
    assert_eq!(ready().await, 503);
    posting.write_all(b"done").await.expect("sends");
    let answer = rest(&mut posting).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n4"), "{answer}");
    timeout(NEVER, running.done).await.expect("it ends").expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn the_audit_log_tells_who_did_what() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.jsonl");
    let running = run_as(true, showing, |options| {
        options.audit = Some(path.clone());
        options.limits.concurrent_requests_per_client = 1_000;
    });
    let client = client().build().expect("a client");
    let ask = async |path: &str, method: reqwest::Method, credentials: Option<(&str, &str)>| {
        let request = client.request(method, format!("{}{path}", running.url));
        let request = match credentials {
            Some((name, password)) => request.basic_auth(name, Some(password)),
            None => request,
        };
        let answer = request.send().await.expect("an answer");
        let id = answer.headers()["x-request-id"].to_str().expect("ASCII").to_owned();
        answer.bytes().await.expect("a body");
        id
    };
    let ann = Some(("ann", "secret"));
    let ids = [
        ask("/read?added_after=x&next=cursor", reqwest::Method::GET, ann).await,
        ask("/read", reqwest::Method::POST, ann).await,
        ask("/forbidden", reqwest::Method::POST, ann).await,
        ask("/read", reqwest::Method::GET, Some(("ann", "hunter2"))).await,
        ask("/read", reqwest::Method::GET, None).await,
    ];
    // Neither of these belongs there.
    ask("/who", reqwest::Method::GET, ann).await;
    ask("/nowhere", reqwest::Method::GET, ann).await;
    let Running { stop, done, live, .. } = running;
    stop.send(()).expect("still serving");
    timeout(NEVER, done).await.expect("it ends").expect("no panic").expect("a clean end");
    drop(live);

    let text = std::fs::read_to_string(&path).expect("written");
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    lines.sort_by_key(|line| ids.iter().position(|id| line["request_id"] == json!(id)));
    let of = |key: &str| -> Vec<Value> { lines.iter().map(|line| line[key].clone()).collect() };
    assert_eq!(of("request_id"), ids.map(Value::from), "{text}");
    assert_eq!(of("action"), ["read", "write", "refused", "login_failed", "refused"]);
    assert_eq!(of("status"), [200, 200, 403, 401, 401]);
    assert_eq!(of("user"), [json!("ann"), json!("ann"), json!("ann"), Value::Null, Value::Null]);
    assert_eq!(of("address"), ["127.0.0.1"; 5]);
    assert_eq!(of("objects"), [json!(3), json!(3), Value::Null, Value::Null, Value::Null]);
    assert_eq!(lines[0]["query"], json!("added_after=x&next=cursor"));
    assert_eq!((&lines[0]["first"], &lines[0]["last"]), (&json!(FIRST), &json!(LAST)));
    assert_eq!((&lines[0]["api_root"], &lines[0]["collection"]), (&json!("root"), &json!("c1")));
    assert!(!text.contains("secret") && !text.contains("hunter2") && !text.contains("Basic"), "{text}");
}

#[tokio::test]
async fn options_change_while_the_server_runs() {
    let folder = tempfile::tempdir().expect("folder");
    let (old_log, new_log) = (folder.path().join("old.jsonl"), folder.path().join("new.jsonl"));
    let running = run_as(true, super::router, |options| {
        options.limits.url_bytes = 1000;
        options.audit = Some(old_log.clone());
    });
    let client = unread_client();
    let long = format!("{}/taxii2/?{}", running.url, "x".repeat(100));
    let ask = async |url: &str| {
        client.get(url).basic_auth("ann", Some("secret")).send().await.expect("an answer").status().as_u16()
    };
    let walk = format!("{}{BASE}/objects/?next=endless", running.url);
    let mut walking = client.get(walk).basic_auth("ann", Some("secret")).send().await.expect("an answer");
    assert_eq!((walking.status().as_u16(), ask(&long).await), (200, 200));
    let hashed = running.live.app().gate.hashed();

    let mut options = running.live.app().options.clone();
    options.limits.url_bytes = 50;
    options.audit = Some(new_log.clone());
    options.listen = "127.0.0.1:1".parse().expect("an address");
    assert_eq!(running.live.reload(options.clone()).expect("good options"), ["listen"]);
    assert_eq!(ask(&long).await, 414, "over a connection from before");
    assert!(walking.chunk().await.expect("no error").is_some(), "an answer goes on");
    assert_eq!(running.live.app().gate.hashed(), hashed, "what was checked is remembered");
    assert_eq!(running.live.lasting().requests.used(), 1, "what is counted goes on being counted");
    assert!(new_log.exists());

    // Bad ones change nothing, and everything that is wrong with them is said.
    let mut bad = options.clone();
    bad.limits.url_bytes = 2000;
    bad.audit = Some(folder.path().join("none").join("audit.jsonl"));
    bad.admin_listen = Some("0.0.0.0:1".parse().expect("an address"));
    bad.auth.users = folder.path().join("users.json");
    std::fs::write(&bad.auth.users, "nonsense").expect("write");
    let errors = running.live.reload(bad).expect_err("bad options");
    assert!(!errors.is_empty());
    assert_eq!(ask(&long).await, 414);
    let text = running.live.lasting().metrics.text();
    for (result, count) in [("ok", 1), ("failed", 1)] {
        let line = format!("taxiway_reloads_total{{what=\"configuration\",result=\"{result}\"}} {count}");
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn other_tls_files_take_their_place_on_reload() {
    let folders = [tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder")];
    let [(old, old_root), (new, new_root)] = [server_files(folders[0].path()), server_files(folders[1].path())];
    let running = run(|options| options.tls = Some(old));
    let address = running.url.replace("https://", "").parse().expect("an address");
    let reaches = async |root: &reqwest::Certificate| {
        let builder = client().add_root_certificate(root.clone()).resolve("localhost", address);
        let url = running.url.replace("127.0.0.1", "localhost") + "/taxii2/";
        builder.build().expect("a client").get(url).send().await.is_ok()
    };
    assert!(reaches(&old_root).await && !reaches(&new_root).await);
    let mut options = running.live.app().options.clone();
    options.tls = Some(TlsFiles::new(folders[1].path().join("none.pem"), new.key.clone()));
    assert!(running.live.reload(options.clone()).is_err());
    assert!(reaches(&old_root).await);
    options.tls = Some(new);
    assert!(running.live.reload(options.clone()).expect("good files").is_empty());
    assert!(!reaches(&old_root).await && reaches(&new_root).await);
    options.tls = None;
    assert_eq!(running.live.reload(options).expect("as it was"), ["tls.cert"]);
    assert!(reaches(&new_root).await);
}

#[tokio::test]
async fn browsers_are_told_what_they_may() {
    let asked: Mutex<Vec<String>> = Mutex::default();
    let origins = || Cors::Origins(vec!["https://soc.example".to_owned()]);
    // options, origin → what is allowed, and whether answers differ by origin
    let cases = [
        (Cors::Off, "https://soc.example", None, false),
        (Cors::Any, "https://soc.example", Some("*"), false),
        (origins(), "https://soc.example", Some("https://soc.example"), true),
        (origins(), "https://evil.example", None, true),
    ];
    for (cors, origin, expected, varies) in cases {
        let off = cors == Cors::Off;
        let running = run_as(true, super::router, |options| options.cors = cors);
        let client = client().build().expect("a client");
        let url = format!("{}{BASE}/objects/", running.url);
        let text = |answer: &reqwest::Response, name: &str| {
            let values: Vec<_> =
                answer.headers().get_all(name).iter().map(|value| value.to_str().expect("ASCII").to_owned()).collect();
            Some(values.join(", ")).filter(|text| !text.is_empty())
        };
        // The question that a browser asks first, without credentials.
        let preflight = client
            .request(reqwest::Method::OPTIONS, &url)
            .header("origin", origin)
            .header("access-control-request-method", "GET")
            .header("access-control-request-headers", "authorization");
        let answer = preflight.send().await.expect("an answer");
        if off {
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED.as_u16());
        } else {
            assert_eq!(answer.status(), 200);
            let methods = text(&answer, "access-control-allow-methods").expect("methods");
            assert!(["GET", "POST", "DELETE"].iter().all(|method| methods.contains(method)), "{methods}");
            let headers = text(&answer, "access-control-allow-headers").expect("headers");
            assert!(["authorization", "range", "accept"].iter().all(|header| headers.contains(header)), "{headers}");
        }
        assert_eq!(text(&answer, "access-control-allow-origin").as_deref(), expected);
        // The request itself, and one that is refused.
        for password in ["secret", "wrong"] {
            let request = client.get(&url).header("origin", origin).basic_auth("ann", Some(password));
            let answer = request.send().await.expect("an answer");
            assert_eq!(text(&answer, "access-control-allow-origin").as_deref(), expected, "{}", answer.status());
            let exposed = text(&answer, "access-control-expose-headers").unwrap_or_default();
            assert_eq!(exposed.contains("x-taxii-date-added-last") && exposed.contains("content-range"), !off);
            let vary = text(&answer, "vary").expect("Vary");
            assert_eq!(vary.contains("Origin"), varies, "{vary}");
            asked.lock().push(answer.status().to_string());
        }
    }
    assert_eq!(asked.lock().len(), 8);
}
