//! One request: retries, redirects, limits, credentials, proxies.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use super::{Asked, Reply, Served, connected, quick};
use crate::source::{Client, Credentials, Endpoint, Options, Place, Proxy, Secret, SourceError, Version};

const KIND: &str = "application/taxii+json;version=2.1";
const ROOT: &str = r#"{"title":"Root","versions":["application/taxii+json;version=2.1"],"max_content_length":1}"#;
const LIST: &str = r#"{"collections":[{"id":"a","title":"A","can_read":true}]}"#;

fn usual(asked: &Asked) -> Reply {
    match asked.place() {
        "/root/" => Reply::new(200, KIND, ROOT),
        "/root/collections/" => Reply::new(200, KIND, LIST),
        _ => Reply::new(200, KIND, r#"{"more":false,"objects":[{"id":"x--1"},{"id":"x--2"}]}"#),
    }
}

/// What comes of fetching collection `a` from a server whose objects are answered so.
async fn fetched(
    options: Options,
    answer: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
) -> (Result<usize, SourceError>, usize) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let server = Served::new(move |asked, _| match asked.place().contains("/objects") {
        true => answer(asked, counted.fetch_add(1, Ordering::SeqCst)),
        false => usual(asked),
    })
    .await;
    let mut endpoint = Endpoint::new(server.at("root/"));
    endpoint.credentials = Credentials::Basic { username: "ann".to_owned(), password: Secret::new("pass-word") };
    let client = Client::connect(endpoint, options).await.unwrap();
    let collection = client.collection("a").await.unwrap();
    let (pages, error) = super::pages(&client, &collection, Place::start()).await;
    let result = match error {
        Some(error) => Err(error),
        None => Ok(super::texts(&pages).len()),
    };
    (result, count.load(Ordering::SeqCst))
}

fn good() -> Reply {
    Reply::new(200, KIND, r#"{"objects":[{"id":"x--1"},{"id":"x--2"}]}"#)
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let passing: [(&str, Reply); 9] = [
        ("500", Reply::new(500, "text/plain", "oops")),
        ("502", Reply::new(502, "text/html", "<h1>bad gateway</h1>")),
        ("429 at once", Reply::new(429, "text/plain", "").with("Retry-After", "0")),
        ("429 with a date", Reply::new(429, "text/plain", "").with("Retry-After", "Wed, 01 May 2024 08:30:00 GMT")),
        ("503 without a word", Reply::new(503, "text/plain", "")),
        ("length that does not hold", good().cut(20, true)),
        ("no length, and no end", good().cut(20, false)),
        ("nothing", Reply::new(200, KIND, "")),
        ("408", Reply::new(408, "text/plain", "")),
    ];
    for (what, reply) in passing {
        let (result, requests) = fetched(quick(), move |_, turn| if turn == 0 { reply.clone() } else { good() }).await;
        assert_eq!((result, requests), (Ok(2), 2), "{what}");
    }
}

#[tokio::test]
async fn what_will_not_pass_is_told() {
    let cases: [(Reply, usize, &str); 10] = [
        (
            Reply::new(401, "text/plain", "who? ann:pass-word"),
            1,
            "does not accept who we are (401: who? ann:********); check user",
        ),
        (
            Reply::new(403, KIND, r#"{"title":"No","description":"not yours"}"#),
            1,
            "refuses (403: No: not yours); ask its operator",
        ),
        (
            Reply::new(429, "text/plain", "slow").with("Retry-After", "3600"),
            1,
            "asks to wait (429: slow); it names 3600 s",
        ),
        (Reply::new(503, "text/plain", "").with("Retry-After", "7200"), 1, "asks to wait (503); it names 7200 s"),
        (Reply::new(500, "text/plain", "oops"), 3, "answered 500: oops"),
        (Reply::new(501, "text/plain", ""), 1, "answered 501"),
        (
            Reply::new(200, "text/html", "<html><body>Log in</body></html>"),
            1,
            "answers with HTML or XML; check the URL",
        ),
        (Reply::new(200, KIND, "sorry"), 1, "is no JSON object"),
        (good().cut(20, true), 3, "ends half-way"),
        (Reply::new(200, KIND, r#"{"objects":[{} {}]}"#), 1, "broken"),
    ];
    for (reply, requests, expected) in cases {
        let (result, sent) = fetched(quick(), move |_, _| reply.clone()).await;
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}: {expected}");
        assert_eq!(sent, requests, "{expected}");
        assert!(!error.contains("pass-word"), "{error}");
    }
}

fn packed(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn answers_may_be_compressed_and_never_grow_without_limit() {
    let plain = br#"{"objects":[{"id":"x--1"}]}"#;
    let answer = Reply::new(200, KIND, packed(plain)).with("Content-Encoding", "gzip");
    assert_eq!(fetched(quick(), move |_, _| answer.clone()).await.0, Ok(1));

    let bomb = [b"{\"objects\":[\"".as_slice(), &vec![b' '; 30 << 20], b"\"]}"].concat();
    let answer = Reply::new(200, KIND, packed(&bomb)).with("Content-Encoding", "gzip");
    assert!(answer.body.len() < 100_000);
    let small = Options { max_page_bytes: 1 << 20, ..quick() };
    let (result, sent) = fetched(small.clone(), move |_, _| answer.clone()).await;
    assert_eq!(sent, 1);
    assert!(result.unwrap_err().to_string().contains("larger than 1048576 bytes"));

    let answer = Reply::new(200, KIND, vec![b' '; 2 << 20]);
    let (result, _) = fetched(small, move |_, _| answer.clone()).await;
    assert!(matches!(result, Err(SourceError::TooLarge { .. })));

    let broken = packed(plain);
    let half = broken.len() / 2;
    let answer = Reply::new(200, KIND, broken[..half].to_vec()).with("Content-Encoding", "gzip");
    let (result, sent) = fetched(quick(), move |_, turn| if turn == 0 { answer.clone() } else { good() }).await;
    assert_eq!((result, sent), (Ok(2), 2), "a stream that breaks off is fetched again");
}

#[tokio::test]
async fn large_answers_wait_on_disk_and_come_in_pieces() {
    let one = format!("{{\"id\":\"x--1\",\"a\":\"{}\"}}", "x".repeat(100_000));
    let body = format!("{{\"more\":false,\"objects\":[{}]}}", vec![one; 150].join(","));
    let folder = tempfile::tempdir().unwrap();
    let options = Options { spool_folder: folder.path().to_owned(), ..quick() };
    let server = Served::new(move |asked, _| match asked.place().contains("/objects") {
        true => Reply::new(200, KIND, body.clone()).with("X-TAXII-Date-Added-Last", "2024-05-01T00:00:00Z"),
        false => usual(asked),
    })
    .await;
    let client = Client::connect(Endpoint::new(server.at("root/")), options).await.unwrap();
    let collection = client.collection("a").await.unwrap();
    let (pages, error) = super::pages(&client, &collection, Place::start()).await;
    assert_eq!((error, super::texts(&pages).len(), pages.len()), (None, 150, 4));
    let (last, before) = pages.split_last().unwrap();
    assert!(before.iter().all(|page| page.place.added_after().is_none() && !page.facts.ends_answer && page.facts.more));
    assert_eq!(last.place.added_after().unwrap().to_string(), "2024-05-01T00:00:00.000000Z");

    let nowhere = Options { spool_folder: folder.path().join("gone"), ..quick() };
    let client = Client::connect(Endpoint::new(server.at("root/")), nowhere).await.unwrap();
    let (_, error) = super::pages(&client, &collection, Place::start()).await;
    assert!(error.unwrap().to_string().contains("make room there, or set another folder"));
}

#[tokio::test]
async fn credentials_are_sent_to_no_other_host() {
    let other = Served::new(|asked, _| usual(asked)).await;
    let target = other.at("root/");
    let of_first = target.clone();
    let first = Served::new(move |asked, _| match asked.place() {
        "/moved/" => Reply::new(302, "text/plain", "").with("Location", "/root/"),
        "/away/" => Reply::new(307, "text/plain", "").with("Location", of_first.to_string()),
        "/round/" => Reply::new(301, "text/plain", "").with("Location", "/round/"),
        "/odd/" => Reply::new(302, "text/plain", "").with("Location", "file:///etc/passwd"),
        _ => usual(asked),
    })
    .await;
    let all = [
        (
            Credentials::Basic { username: "ann".to_owned(), password: Secret::new("pass-word") },
            "authorization",
            "Basic YW5uOnBhc3Mtd29yZA==",
        ),
        (Credentials::Bearer(Secret::new("to-ken")), "authorization", "Bearer to-ken"),
        (Credentials::ApiKey { header: "X-API-Key".to_owned(), key: Secret::new("k-e-y") }, "x-api-key", "k-e-y"),
    ];
    for (credentials, header, value) in all {
        let mut endpoint = Endpoint::new(first.at("moved/"));
        endpoint.credentials = credentials.clone();
        Client::connect(endpoint.clone(), quick()).await.unwrap();
        assert_eq!(first.asked().last().unwrap().header(header), value, "on the same host they go along");
        endpoint.url = first.at("away/");
        Client::connect(endpoint.clone(), quick()).await.unwrap();
        let asked = other.asked();
        assert!(asked.iter().all(|asked| asked.header(header).is_empty()), "{asked:?}");
        // Unless that host is trusted by name and port.
        endpoint.trusted_hosts = vec![format!("127.0.0.1:{}", target.port().unwrap())];
        Client::connect(endpoint, quick()).await.unwrap();
        assert_eq!(other.asked().last().unwrap().header(header), value);
        other.asked.lock().unwrap().clear();
    }
    for (path, expected) in [("round/", "too many redirects"), ("odd/", "only http and https are")] {
        let error =
            Client::connect(Endpoint { version: Some(Version::V21), ..Endpoint::new(first.at(path)) }, quick()).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    // A user in the URL is one, and is shown to nobody.
    let mut url = first.at("root/");
    url.set_username("b%40b").unwrap();
    url.set_password(Some("p%3Aw+x")).unwrap();
    Client::connect(Endpoint::new(url), quick()).await.unwrap();
    use base64::Engine;
    let sent = base64::engine::general_purpose::STANDARD.encode("b@b:p:w+x");
    assert_eq!(first.asked().last().unwrap().header("authorization"), format!("Basic {sent}"));
}

#[tokio::test]
async fn tokens_are_asked_for_and_renewed_once() {
    let given = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&given);
    let server = Served::new(move |asked, _| {
        if asked.place() == "/login" {
            assert_eq!(asked.body, r#"{"password":"pass-word","username":"ann"}"#);
            let number = count.fetch_add(1, Ordering::SeqCst);
            return Reply::new(200, "application/json", format!("{{\"token\":\"token-{number}\"}}"));
        }
        // The first token is good for two requests.
        let good = if count.load(Ordering::SeqCst) > 1 { "Bearer token-1" } else { "Bearer token-0" };
        let stale = asked.place() == "/root/collections/" && asked.header("authorization") == "Bearer token-0";
        if asked.header("authorization") == good && !stale { usual(asked) } else { Reply::new(401, "text/plain", "") }
    })
    .await;
    let mut endpoint = Endpoint::new(server.at("root/"));
    endpoint.credentials =
        Credentials::Login { url: server.at("login"), username: "ann".to_owned(), password: Secret::new("pass-word") };
    let client = Client::connect(endpoint, quick()).await.unwrap();
    assert_eq!(client.collections().await.unwrap().len(), 1);
    assert_eq!(given.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_named() {
    let base = Endpoint::new(Url::parse("http://127.0.0.1:1/").unwrap());
    let with = |change: &dyn Fn(&mut Endpoint)| {
        let mut endpoint = base.clone();
        change(&mut endpoint);
        endpoint
    };
    let cases: [(Endpoint, &str); 6] = [
        (with(&|e| e.url = Url::parse("ftp://h/").unwrap()), "`url` is no http or https URL"),
        (with(&|e| e.credentials = Credentials::Bearer(Secret::new("a\nb"))), "`token` holds characters"),
        (
            with(&|e| e.credentials = Credentials::ApiKey { header: "a b".to_owned(), key: Secret::new("k") }),
            "`API key header` is no name",
        ),
        (
            with(&|e| e.proxy = Some(Proxy { url: Url::parse("ftp://h/").unwrap(), credentials: None })),
            "`proxy` is no proxy URL",
        ),
        (with(&|e| e.authorities = Some(b"rubbish".to_vec())), "`CA bundle` holds no CERTIFICATE block"),
        (with(&|_| {}), "connection refused; check host and port"),
    ];
    for (endpoint, expected) in cases {
        let error = Client::connect(endpoint, quick()).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}: {expected}");
    }
}

#[tokio::test]
async fn silent_servers_are_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    let held = tokio::spawn(async move {
        let mut streams = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            streams.push(stream);
        }
    });
    let options = Options { read_timeout: Duration::from_millis(30), attempts: 2, ..quick() };
    let error = Client::connect(Endpoint::new(url), options).await.unwrap_err();
    assert!(matches!(error, SourceError::Timeout { .. }), "{error}");
    assert!(error.is_transient());
    held.abort();
}

#[tokio::test]
async fn requests_keep_to_their_rate() {
    let server = Served::new(|asked, _| usual(asked)).await;
    let options = Options { requests_per_minute: Some(60_000 / 20), ..quick() };
    let started = std::time::Instant::now();
    let client = Client::connect(Endpoint::new(server.at("root/")), options).await.unwrap();
    for _ in 0..5 {
        client.collections().await.unwrap();
    }
    assert!(started.elapsed() >= Duration::from_millis(100), "six requests, 20 ms apart");
}

#[tokio::test]
async fn the_clock_is_the_servers() {
    let server = Served::new(|asked, _| usual(asked).with("Date", "Wed, 01 May 2024 08:30:00 GMT")).await;
    let client = connected(server.at("root/")).await.unwrap();
    let now = client.server_now().unwrap().to_string();
    assert!(now.starts_with("2024-05-01T08:"), "{now}");
    let server = Served::new(|asked, _| usual(asked)).await;
    assert_eq!(connected(server.at("root/")).await.unwrap().server_now(), None);
}

#[tokio::test]
async fn http_proxies_are_gone_through() {
    let proxy = Served::new(|asked, _| {
        if asked.header("proxy-authorization") != "Basic Ym9iOnAmdw==" {
            return Reply::new(407, "text/plain", "").with("Proxy-Authenticate", "Basic");
        }
        let inner = Asked { path: asked.path.replacen("http://feeds.invalid", "", 1), ..asked.clone() };
        usual(&inner)
    })
    .await;
    let mut endpoint = Endpoint::new(Url::parse("http://feeds.invalid/root/").unwrap());
    endpoint.proxy = Some(Proxy { url: proxy.url.clone(), credentials: Some(("bob".to_owned(), Secret::new("p&w"))) });
    let client = Client::connect(endpoint.clone(), quick()).await.unwrap();
    assert_eq!(client.collections().await.unwrap().len(), 1);
    assert!(proxy.asked().iter().all(|asked| asked.path.starts_with("http://feeds.invalid/")));
    endpoint.proxy = Some(Proxy { url: proxy.url.clone(), credentials: None });
    let error = Client::connect(endpoint, quick()).await.unwrap_err().to_string();
    assert!(error.contains("`proxy` does not accept its user and password"), "{error}");
}

/// A SOCKS proxy that takes everybody to one place, and tells where they wanted to go.
async fn socks(
    to: std::net::SocketAddr,
) -> (std::net::SocketAddr, tokio::sync::mpsc::UnboundedReceiver<(u8, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, wanted) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let mut head = [0; 2];
                stream.read_exact(&mut head).await?;
                let mut methods = vec![0; usize::from(head[1])];
                stream.read_exact(&mut methods).await?;
                if methods.contains(&2) {
                    stream.write_all(&[5, 2]).await?;
                    let mut part = [0; 2];
                    stream.read_exact(&mut part).await?;
                    let mut user = vec![0; usize::from(part[1]) + 1];
                    stream.read_exact(&mut user).await?;
                    let mut password = vec![0; usize::from(user[user.len() - 1])];
                    stream.read_exact(&mut password).await?;
                    stream.write_all(&[1, u8::from(password != b"p:w")]).await?;
                } else {
                    stream.write_all(&[5, 0]).await?;
                }
                let mut request = [0; 4];
                stream.read_exact(&mut request).await?;
                let length = match request[3] {
                    1 => 4,
                    3 => usize::from(stream.read_u8().await?),
                    _ => 16,
                };
                let mut host = vec![0; length + 2];
                stream.read_exact(&mut host).await?;
                host.truncate(length);
                let _ = told.send((request[3], host));
                stream.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 0]).await?;
                let mut on = TcpStream::connect(to).await?;
                tokio::io::copy_bidirectional(&mut stream, &mut on).await?;
                std::io::Result::Ok(())
            });
        }
    });
    (address, wanted)
}

#[tokio::test]
async fn socks_proxies_are_gone_through() {
    let server = Served::new(|asked, _| usual(asked)).await;
    let to = std::net::SocketAddr::from(([127, 0, 0, 1], server.url.port().unwrap()));
    let (address, mut wanted) = socks(to).await;
    for (scheme, host, kind) in [("socks5h", "feeds.invalid", 3), ("socks5", "127.0.0.1", 1)] {
        let mut endpoint = Endpoint::new(Url::parse(&format!("http://{host}/root/")).unwrap());
        let credentials = Some(("bob".to_owned(), Secret::new("p:w")));
        endpoint.proxy = Some(Proxy { url: Url::parse(&format!("{scheme}://{address}")).unwrap(), credentials });
        Client::connect(endpoint, quick()).await.unwrap();
        let (told, name) = wanted.recv().await.unwrap();
        assert_eq!(told, kind, "{scheme}");
        assert!(kind == 1 || name == host.as_bytes(), "the proxy looks the name up");
    }
}
