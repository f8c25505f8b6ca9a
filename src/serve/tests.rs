//! The whole service against a fake feed: every route, the order of checks, headers, error bodies, and once a socket.

use std::sync::Arc;
use std::time::Duration;

use argon2::Params;
use async_trait::async_trait;
use axum::Router;
use axum::body::{Body as HttpBody, Bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::StreamExt;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tower::ServiceExt;

use crate::feed::api::{Body, Coding, Feed, FeedError, ItemRange, Page, PageRequest, Profile, Shape, Versions};
use crate::feed::collection::{Catalog, Collection, CollectionSpec, Options as FeedOptions, QueryText};
use crate::model::ids::{IdScheme, IdSpace};
use crate::model::time::Timestamp;
use crate::serve::negotiate::TAXII_21;
use crate::serve::users::{UserFile, hash_password};
use crate::serve::{ApiRoot, App, Live, Options, TlsFiles, bind, router};

pub(super) const IPS: &str = "1cd9cb8e-9a0d-4c5c-a7e3-1d7f3f0a6a51";
pub(super) const BASE: &str = "/threatintel/collections/1cd9cb8e-9a0d-4c5c-a7e3-1d7f3f0a6a51";
pub(super) const FIRST: &str = "2024-05-02T08:00:00.000001Z";
pub(super) const LAST: &str = "2024-05-02T08:00:00.000002Z";

/// A feed whose answers follow from what is asked for: the id of the object, or the cursor, names what should happen.
#[derive(Debug)]
pub(super) struct Fake {
    catalog: Arc<Catalog>,
    pub(super) asked: Mutex<Vec<(String, Shape, PageRequest)>>,
    /// Told when an endless body is dropped.
    pub(super) gone: Arc<Notify>,
}

struct TellWhenGone(Arc<Notify>);

impl Drop for TellWhenGone {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Fake {
    /// Three collections; the profile of `AllIPs` may be another one than the server's.
    fn new(profile: Profile, of_ips: Option<Profile>) -> Arc<Self> {
        let spec = |title: &str, id: Option<&str>, alias: Option<&str>| CollectionSpec {
            alias: alias.map(str::to_owned),
            id: id.map(str::to_owned),
            ..CollectionSpec::new(title, QueryText::Xsoar("type:IP".to_owned()))
        };
        let ips = CollectionSpec { profile: of_ips, ..spec("AllIPs", Some(IPS), Some("ips")) };
        let specs = [spec("Collection2", None, None), spec("Collection1", None, None), ips];
        Self::of(profile, &specs, |collection| {
            if collection.title == "Collection2" {
                collection.hide_query = true;
                collection.description = Some(String::new());
            }
        })
    }

    /// These collections.
    pub(super) fn of(profile: Profile, specs: &[CollectionSpec], change: impl Fn(&mut Collection)) -> Arc<Self> {
        let ids = IdSpace::new("test", IdScheme::Stix);
        let options = FeedOptions { max_page_size: 1000, profile, ..FeedOptions::default() };
        let build = |spec: &CollectionSpec| {
            let mut collection = spec.build(&ids, &options).expect("a good query");
            change(&mut collection);
            collection
        };
        let catalog = Arc::new(Catalog::new(specs.iter().map(build).collect()).expect("names differ"));
        Arc::new(Self { catalog, asked: Mutex::new(Vec::new()), gone: Arc::default() })
    }
}

#[async_trait]
impl Feed for Fake {
    fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog)
    }

    async fn page(&self, collection: &Arc<Collection>, shape: Shape, request: PageRequest) -> Result<Page, FeedError> {
        self.asked.lock().push((collection.title.clone(), shape, request.clone()));
        let whole = |body: &'static str| Body::Whole(Bytes::from_static(body.as_bytes()));
        let at = |text: &str| Timestamp::parse(text).ok();
        let full = |body| Page {
            first: at(FIRST),
            last: at(LAST),
            more: false,
            objects: 2,
            total: None,
            tag: 7,
            coding: Coding::Identity,
            body,
        };
        let empty = Page {
            first: None,
            last: None,
            more: false,
            objects: 0,
            total: None,
            tag: 0,
            coding: Coding::Identity,
            body: whole(r#"{"more":false}"#),
        };
        let secret = || -> crate::feed::api::Source { "/var/secret/segment.parquet: no such file".into() };
        let failure = || FeedError::Store { what: "a segment", source: secret() };
        match request.next.as_deref().or(request.object.as_deref()) {
            Some("empty") => Ok(empty),
            Some("resumed") => Ok(Page { first: at(LAST), last: at(LAST), ..empty }),
            Some("unknown") => Err(FeedError::UnknownObject { id: "unknown".to_owned() }),
            Some("stale") => Err(FeedError::BadCursor { reason: "it is too old" }),
            Some("differs") => Err(FeedError::FiltersDiffer { name: "added_after" }),
            Some("many") => Err(FeedError::FiltersTooLong { ids: 800 }),
            Some("busy") => Err(FeedError::Busy),
            Some("broken") => Err(failure()),
            Some("unrendered") => Err(FeedError::Internal { what: "render the page", source: secret() }),
            Some("panic") => panic!("secret panic"),
            Some("hang") => std::future::pending().await,
            Some("late") => {
                let pieces = [Ok(Bytes::from_static(b"{\"objects\":[")), Err(failure())];
                Ok(full(Body::Stream(futures::stream::iter(pieces).boxed())))
            }
            Some("early") => Ok(full(Body::Stream(futures::stream::iter([Err(failure())]).boxed()))),
            Some("large") => {
                let pieces = (0..64).map(|_| Ok(Bytes::from(vec![b' '; 65_536])));
                Ok(full(Body::Stream(futures::stream::iter(pieces).boxed())))
            }
            Some("endless") => {
                let guard = TellWhenGone(Arc::clone(&self.gone));
                let pieces = futures::stream::repeat_with(move || {
                    let _held = &guard;
                    Ok(Bytes::from(vec![b' '; 65_536]))
                });
                Ok(full(Body::Stream(pieces.boxed())))
            }
            Some("waiting") => {
                let first = futures::stream::iter([Ok(Bytes::from_static(b"{"))]);
                Ok(full(Body::Stream(first.chain(futures::stream::pending()).boxed())))
            }
            _ if request.wants_total => numbered(&request),
            _ => Ok(full(whole(r#"{"more":false,"objects":[{},{}]}"#))),
        }
    }
}

/// A page by number of a collection of five items; `match[type]` says of how many instead.
fn numbered(request: &PageRequest) -> Result<Page, FeedError> {
    let total = request.filters.types.first().and_then(|number| number.parse().ok()).unwrap_or(5);
    let ItemRange { first, count } = request.range.unwrap_or(ItemRange { first: 0, count: 1000 });
    if first > 0 && first >= total {
        return Err(FeedError::BehindTheEnd { total });
    }
    let objects = count.min(1000).min(total - first);
    let at = |text: &str| Timestamp::parse(text).ok().filter(|_| objects > 0);
    let body = Body::Whole(Bytes::from(vec![b' '; usize::try_from(objects).expect("few") * 100]));
    let more = first + objects < total;
    Ok(Page {
        first: at(FIRST),
        last: at(LAST),
        more,
        objects,
        total: Some(total),
        tag: 7,
        coding: Coding::Identity,
        body,
    })
}

pub(super) struct Server {
    pub(super) feed: Arc<Fake>,
    pub(super) router: Router,
    pub(super) app: Arc<App>,
    _folder: tempfile::TempDir,
}

/// A server in a folder of its own, with user `ann`, password `secret`, if `closed`.
pub(super) fn server_with(closed: bool, change: impl FnOnce(&mut Options)) -> Server {
    server_of(closed, None, change)
}

/// The same with a profile for the collection `AllIPs`.
pub(super) fn server_of(closed: bool, of_ips: Option<Profile>, change: impl FnOnce(&mut Options)) -> Server {
    let folder = tempfile::tempdir().expect("folder");
    let mut options = Options::default();
    options.auth.users = folder.path().join("users.json");
    change(&mut options);
    if closed {
        let cheap = Params::new(Params::MIN_M_COST, 1, 1, None).expect("parameters");
        let mut users = UserFile::load(&options.auth.users).expect("users");
        users.add_hashed("ann", hash_password("secret", cheap).expect("hash")).expect("add");
    }
    serve_fake(folder, Fake::new(options.profile, of_ips), options)
}

/// That feed, with users in that folder.
pub(super) fn serve_fake(folder: tempfile::TempDir, feed: Arc<Fake>, options: Options) -> Server {
    let app = App::new(Arc::clone(&feed) as Arc<dyn Feed>, options).expect("starts");
    Server { feed, router: router(Arc::clone(&app)), app, _folder: folder }
}

pub(super) fn server() -> Server {
    server_with(false, |_| {})
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("ASCII"))
    }

    /// All of that name.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().expect("ASCII")).collect()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

impl Server {
    pub(super) async fn send(&self, request: Request<HttpBody>) -> Answer {
        let response = self.router.clone().oneshot(request).await.expect("infallible");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(|collected| collected.to_bytes()).unwrap_or_default();
        let answer = Answer { status: parts.status, headers: parts.headers, body };
        assert!(answer.header("x-request-id").is_some_and(|id| id.len() == 36));
        let numbered = if answer.header("content-range").is_some() && answer.status.is_success() {
            ", Range, Content-Range"
        } else {
            ""
        };
        assert_eq!(answer.header("vary"), Some(&*format!("Accept, Accept-Encoding, Authorization{numbered}")));
        answer
    }

    pub(super) async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(HttpBody::empty()).expect("a request")).await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[("host", "feeds.test:9000"), ("accept", TAXII_21)]).await
    }
}

pub(super) fn basic(pair: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(pair))
}

/// Method, path below the API root with its final slash, status, `Allow`.
fn routes() -> Vec<(&'static str, String, u16)> {
    let collection = "/threatintel/collections/";
    let row = |method, path: &str, status| (method, path.to_owned(), status);
    let mut rows = vec![
        row("GET", "/taxii2/", 200),
        row("GET", "/threatintel/", 200),
        row("GET", "/threatintel/status/1cd9cb8e-9a0d-4c5c-a7e3-1d7f3f0a6a51/", 404),
        row("GET", collection, 200),
        row("POST", "/taxii2/", 405),
        row("PUT", collection, 405),
        row("OPTIONS", "/threatintel/", 405),
        row("GET", "/taxii/", 200),
        row("POST", "/taxii/", 405),
        row("GET", "/elsewhere/", 404),
        row("GET", "/elsewhere/collections/", 404),
        row("GET", "/threatintel/collection/", 404),
        row("POST", "/elsewhere/", 404),
        row("GET", "//", 404),
    ];
    let inner = [
        ("GET", "{}/", 200),
        ("GET", "{}/manifest/", 200),
        ("GET", "{}/objects/", 200),
        ("GET", "{}/objects/url--1/", 200),
        ("GET", "{}/objects/url--1/versions/", 200),
        ("GET", "{}/objects/url--1/version/", 404),
        ("POST", "{}/objects/", 403),
        ("DELETE", "{}/objects/url--1/", 403),
        ("DELETE", "{}/objects/", 405),
        ("POST", "{}/manifest/", 405),
        ("PATCH", "{}/objects/url--1/", 405),
        ("DELETE", "{}/objects/url--1/versions/", 405),
    ];
    for (method, path, status) in inner {
        for name in [IPS, "1CD9CB8E-9A0D-4C5C-A7E3-1D7F3F0A6A51", "ips"] {
            rows.push((method, format!("{collection}{}", path.replace("{}", name)), status));
        }
        let unknown = if status == 200 || status == 403 { 404 } else { status };
        rows.push((method, format!("{collection}{}", path.replace("{}", "nobody")), unknown));
        rows.push((method, format!("{collection}{}", path.replace("{}", "%ff")), unknown));
    }
    rows
}

#[tokio::test]
async fn every_route_has_its_status_with_and_without_slash() {
    let server = server();
    for (method, path, status) in routes() {
        for path in [path.as_str(), path.trim_end_matches('/')].into_iter().filter(|path| !path.is_empty()) {
            let answer = server.request(method, path, &[("accept", TAXII_21)]).await;
            assert_eq!(answer.status, status, "{method} {path}");
            assert_eq!(answer.header("content-type"), Some(TAXII_21), "{method} {path}");
            assert_eq!(answer.header("allow").is_some(), status == 405, "{method} {path}");
            if status >= 400 {
                let error = answer.json();
                assert_eq!(error["http_status"], json!(status.to_string()), "{method} {path}");
                assert!(error["title"].is_string() && error["error_code"].is_string(), "{method} {path}");
                assert_eq!(error["error_id"].as_str(), answer.header("x-request-id"), "{method} {path}");
            }
            if method == "GET" {
                let head = server.request("HEAD", path, &[("accept", TAXII_21)]).await;
                assert_eq!(head.status, status, "HEAD {path}");
                assert_eq!(head.header("content-type"), Some(TAXII_21), "HEAD {path}");
                if status == 200 {
                    assert!(head.body.is_empty(), "HEAD {path}");
                    let dates = |answer: &Answer| answer.header("x-taxii-date-added-first").map(str::to_owned);
                    assert_eq!(dates(&head), dates(&answer), "HEAD {path}");
                }
            }
        }
    }
}

#[tokio::test]
async fn allow_names_the_methods_there_are() {
    let server = server();
    let cases = [
        ("/taxii2", "GET,HEAD"),
        (&format!("{BASE}/objects/"), "GET,HEAD,POST"),
        (&format!("{BASE}/objects/url--1/"), "GET,HEAD,DELETE"),
    ];
    for (path, allow) in cases {
        assert_eq!(server.request("PUT", path, &[]).await.header("allow"), Some(allow), "{path}");
    }
}

#[tokio::test]
async fn resources_read_as_the_standard_has_them() {
    let server = server();
    let root = "http://feeds.test:9000/threatintel/";
    assert_eq!(server.get("/taxii2/").await.json(), json!({"title": "taxiway", "default": root, "api_roots": [root]}));
    assert_eq!(
        server.get("/threatintel/").await.json(),
        json!({"title": "taxiway", "versions": [TAXII_21], "max_content_length": 104_857_600})
    );
    let stix = json!(["application/stix+json;version=2.1"]);
    let ips = json!({"id": IPS, "title": "AllIPs", "alias": "ips", "can_read": true, "can_write": false,
        "media_types": stix, "query": "type:IP"});
    // Ids of spec/xsoar-taxii2-server.md §3.1, vectors 2 and 3.
    let one = json!({"id": "4c649e16-2bb7-50f5-8826-2a2d0a0b9631", "title": "Collection1", "can_read": true,
        "can_write": false, "media_types": stix, "query": "type:IP"});
    let two = json!({"id": "e46189b5-c5c8-5c7f-b947-183e0302b4d3", "title": "Collection2", "can_read": true,
        "can_write": false, "media_types": stix});
    assert_eq!(server.get("/threatintel/collections/").await.json(), json!({"collections": [ips, one, two]}));
    assert_eq!(server.get("/threatintel/collections/ips/").await.json(), ips);
}

#[tokio::test]
async fn discovery_names_the_host_the_client_knows() {
    type Change = fn(&mut Options);
    let cases: [(Change, &[(&str, &str)], &str); 7] = [
        (|_| {}, &[("host", "a.example")], "http://a.example/threatintel/"),
        (|_| {}, &[("host", "[::1]:9000")], "http://[::1]:9000/threatintel/"),
        (|_| {}, &[], "/threatintel/"),
        (|_| {}, &[("host", "a.example/evil?")], "/threatintel/"),
        (
            |options| options.tls = Some(TlsFiles::new("c", "k")),
            &[("host", "a.example")],
            "https://a.example/threatintel/",
        ),
        (
            |options| options.base_url = Some("https://b.example/feeds".to_owned()),
            &[("host", "a.example")],
            "https://b.example/feeds/threatintel/",
        ),
        (|options| options.api_roots = vec![ApiRoot::new("a/b")], &[("host", "a.example")], "http://a.example/a/b/"),
    ];
    for (change, headers, expected) in cases {
        let server = server_with(false, change);
        let answer = server.request("GET", "/taxii2/", headers).await;
        assert_eq!(answer.json()["api_roots"], json!([expected]));
    }
}

#[tokio::test]
async fn people_get_a_word_at_the_root() {
    let server = server();
    let answer = server.request("GET", "/", &[("accept", "text/html"), ("host", "feeds.test")]).await;
    let text = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status, 200);
    assert!(text.contains("http://feeds.test/taxii2/") && text.contains("http://feeds.test/threatintel/collections/"));
}

#[tokio::test]
async fn checks_come_in_their_order() {
    let server = server_with(true, |_| {});
    let (right, wrong) = (basic("ann:secret"), basic("ann:wrong"));
    let bad = format!("{BASE}/objects/?limit=0");
    let html = ("accept", "text/html");
    let cases: [(&str, &str, &[(&str, &str)], u16); 12] = [
        ("GET", "/", &[], 401),
        ("GET", "/nowhere/", &[html], 401),
        ("PUT", "/taxii2/", &[html], 401),
        ("GET", &bad, &[html, ("authorization", &wrong)], 401),
        ("GET", &bad, &[("authorization", "Bearer abc")], 401),
        ("GET", &bad, &[html, ("authorization", &right)], 406),
        ("GET", "/nowhere/", &[html, ("authorization", &right)], 406),
        ("GET", "/nowhere/?limit=0", &[("authorization", &right)], 404),
        ("GET", "/threatintel/collections/nobody/objects/?limit=0", &[("authorization", &right)], 404),
        ("GET", &bad, &[("authorization", &right)], 400),
        ("GET", "/threatintel/?limit=0", &[("authorization", &right)], 200),
        ("GET", "/", &[html, ("authorization", &right)], 200),
    ];
    for (method, path, headers, status) in cases {
        let answer = server.request(method, path, headers).await;
        assert_eq!(answer.status, status, "{method} {path} {headers:?}");
        let challenge = (status == 401).then_some("Basic realm=\"taxiway\"");
        assert_eq!(answer.header("www-authenticate"), challenge, "{method} {path}");
    }
    let bodies: Vec<Value> = futures::stream::iter([basic("ann:wrong"), basic("bob:secret"), "nonsense".to_owned()])
        .then(|value| {
            let server = &server;
            async move {
                let mut error = server.request("GET", "/taxii2/", &[("authorization", &value)]).await.json();
                error["error_id"].take();
                error
            }
        })
        .collect()
        .await;
    assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]), "{bodies:?}");
}

#[tokio::test]
async fn what_the_feed_says_becomes_a_status_without_secrets() {
    let server = server_with(false, |options| options.limits.request_timeout = Duration::from_millis(50));
    let cases = [
        ("unknown", 404, "unknown_object"),
        ("stale", 400, "bad_cursor"),
        ("differs", 400, "filters_differ"),
        ("many", 400, "too_many_values"),
        ("busy", 503, "busy"),
        ("hang", 503, "timed_out"),
        ("broken", 500, "internal"),
        ("unrendered", 500, "internal"),
        ("early", 500, "internal"),
        ("panic", 500, "internal"),
    ];
    for (next, status, code) in cases {
        let answer = server.get(&format!("{BASE}/objects/?next={next}")).await;
        assert_eq!(answer.status, status, "{next}");
        assert_eq!(answer.json()["error_code"], json!(code), "{next}");
        assert_eq!(answer.header("content-type"), Some(TAXII_21), "{next}");
        assert_eq!(answer.header("retry-after").is_some(), status == 503, "{next}");
        assert_eq!(answer.header("x-taxii-date-added-first"), None, "{next}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("secret"), "{next}");
    }
    let answer = server.get(&format!("{BASE}/objects/unknown/versions/")).await;
    assert_eq!((answer.status, answer.json()["error_code"].as_str()), (StatusCode::NOT_FOUND, Some("unknown_object")));
    let answer = server.get(&format!("{BASE}/objects/?match%5Btype%5D=a&match[type]=b")).await;
    let description = answer.json()["description"].as_str().map(str::to_owned);
    assert_eq!(description.as_deref(), Some("`match[type]` may be given only once."));
}

#[tokio::test]
async fn dates_are_those_of_the_page() {
    let server = server();
    let given = "2024-01-01T00:00:00.000000Z";
    let cases = [
        ("", Some(FIRST), Some(LAST)),
        ("?added_after=2024-01-01", Some(FIRST), Some(LAST)),
        ("?next=empty", None, None),
        ("?next=empty&added_after=2024-01-01T02:00:00%2B02:00", Some(given), Some(given)),
        ("?next=resumed&added_after=2024-01-01", Some(LAST), Some(LAST)),
    ];
    for path in ["manifest/", "objects/", "objects/url--1/", "objects/url--1/versions/"] {
        for (query, first, last) in cases {
            let answer = server.get(&format!("{BASE}/{path}{query}")).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("x-taxii-date-added-first"), first, "{path}{query}");
            assert_eq!(answer.header("x-taxii-date-added-last"), last, "{path}{query}");
        }
    }
}

#[tokio::test]
async fn the_feed_gets_what_was_asked() {
    let server = server();
    let object = "x--a%2Fb%3A1";
    let limited = |limit| PageRequest { limit, ..PageRequest::default() };
    let mut versions = PageRequest { object: Some("x--a/b:1".to_owned()), ..PageRequest::default() };
    versions.filters.versions = Versions::All;
    let cases = [
        ("objects".to_owned(), Shape::Objects, PageRequest::default()),
        ("objects/?limit=5".to_owned(), Shape::Objects, limited(Some(5))),
        ("manifest/?limit=5000".to_owned(), Shape::Manifest, limited(Some(1000))),
        (
            format!("objects/{object}/?match[id]=x"),
            Shape::Objects,
            PageRequest { object: Some("x--a/b:1".to_owned()), ..PageRequest::default() },
        ),
        (format!("objects/{object}/versions/"), Shape::Versions, versions),
    ];
    for (path, shape, request) in cases {
        assert_eq!(server.get(&format!("/threatintel/collections/ips/{path}")).await.status, 200, "{path}");
        assert_eq!(server.feed.asked.lock().pop(), Some(("AllIPs".to_owned(), shape, request)), "{path}");
    }
}

#[tokio::test]
async fn only_larger_bodies_are_compressed() {
    let server = server();
    for (path, encoding, expected) in [
        ("objects/?next=large", "deflate", Some("deflate")),
        ("objects/?next=large", "gzip, deflate", Some("gzip")),
        ("objects/?next=large", "zstd", Some("zstd")),
        ("objects/?next=large", "identity", None),
        ("objects/", "gzip, deflate", None),
        ("objects/?limit=0", "gzip", None),
    ] {
        let headers = [("accept", TAXII_21), ("accept-encoding", encoding)];
        let answer = server.request("GET", &format!("{BASE}/{path}"), &headers).await;
        assert_eq!(answer.header("content-encoding"), expected, "{path} {encoding}");
    }
}

/// RFC 9110 §13.1.2.
#[tokio::test]
async fn who_has_the_page_is_told_so() {
    let server = server();
    let path = format!("{BASE}/objects/");
    let whole = server.request("GET", &path, &[("accept", TAXII_21)]).await;
    let tag = whole.header("etag").expect("a tag").to_owned();
    assert!(tag.starts_with("W/\""), "{tag}");
    let strong = tag.trim_start_matches("W/").to_owned();
    for (given, status) in [
        (tag.clone(), 304),
        (strong, 304),
        (format!("\"other\", {tag}"), 304),
        ("*".to_owned(), 304),
        ("W/\"other\"".to_owned(), 200),
    ] {
        let answer = server.request("GET", &path, &[("accept", TAXII_21), ("if-none-match", &given)]).await;
        assert_eq!(answer.status, status, "{given}");
        assert_eq!(answer.header("etag"), Some(&*tag));
        assert_eq!(answer.body.is_empty(), status == 304, "{given}");
        assert_eq!(answer.header("x-taxii-date-added-last"), whole.header("x-taxii-date-added-last"));
    }
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused_until_a_body_is_gone() {
    let server = server_with(false, |options| options.limits.concurrent_requests = 1);
    let request = Request::get(format!("{BASE}/objects/?next=waiting")).body(HttpBody::empty()).expect("a request");
    let waiting = server.router.clone().oneshot(request).await.expect("infallible");
    assert_eq!(waiting.status(), 200);
    let refused = server.get("/taxii2/").await;
    assert_eq!((refused.status, refused.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, Some("5")));
    drop(waiting);
    assert_eq!(server.get("/taxii2/").await.status, 200);
}

#[tokio::test]
async fn a_late_failure_cuts_the_body() {
    let server = server();
    let request = Request::get(format!("{BASE}/objects/?next=late")).body(HttpBody::empty()).expect("a request");
    let response = server.router.clone().oneshot(request).await.expect("infallible");
    assert_eq!(response.status(), 200);
    assert!(response.into_body().collect().await.is_err());
}

/// A running server on a port the system chose, and how to stop it.
pub(super) struct Running {
    pub(super) url: String,
    pub(super) admin_url: Option<String>,
    pub(super) live: Arc<Live>,
    pub(super) stop: tokio::sync::oneshot::Sender<()>,
    pub(super) done: tokio::task::JoinHandle<Result<(), crate::serve::StartError>>,
    pub(super) server: Server,
}

pub(super) fn run(change: impl FnOnce(&mut Options)) -> Running {
    run_as(false, router, change)
}

/// The same with other routes, and with user `ann` if `closed`.
pub(super) fn run_as(closed: bool, routes: fn(Arc<App>) -> Router, change: impl FnOnce(&mut Options)) -> Running {
    let mut bound = None;
    let server = server_with(closed, |options| {
        options.listen = "127.0.0.1:0".parse().expect("an address");
        change(options);
        bound = Some(bind(options).expect("binds"));
    });
    let mut bound = bound.expect("bound");
    bound.look_every = Duration::from_millis(10);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (url, admin_url) = (bound.url(), bound.admin_url());
    let stopped = async move {
        let _ = stopped.await;
    };
    let live = Live::with_routes(Arc::clone(&server.app), None, routes);
    let done = tokio::spawn(bound.run(Arc::clone(&live), stopped, std::future::pending()));
    Running { url, admin_url, live, stop, done, server }
}

pub(super) fn client() -> reqwest::ClientBuilder {
    // The process-wide provider is the client's affair: the server names its own.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
}

#[tokio::test]
async fn a_socket_answers_and_stops_when_told() {
    let running = run(|_| {});
    let url = format!("{}{BASE}/objects/?next=large", running.url);
    let client = client().build().expect("a client");
    let response = client.get(&url).header("accept", TAXII_21).send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    assert!(response.headers().contains_key("date"));
    // Told to stop while the answer is on its way: it is finished, and only then the server ends.
    running.stop.send(()).expect("still serving");
    assert_eq!(response.bytes().await.expect("the whole body").len(), 64 * 65_536);
    running.done.await.expect("no panic").expect("a clean end");
    assert!(client.get(&url).send().await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn tls_serves_http_1_and_2() {
    let folder = tempfile::tempdir().expect("folder");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let files = TlsFiles::new(folder.path().join("c.pem"), folder.path().join("k.pem"));
    std::fs::write(&files.cert, made.cert.pem()).expect("write");
    std::fs::write(&files.key, made.signing_key.serialize_pem()).expect("write");
    let running = run(|options| options.tls = Some(files.clone()));
    let url = running.url.replace("127.0.0.1", "localhost") + "/taxii2/";
    assert!(url.starts_with("https://"));
    let root = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).expect("a certificate");
    for (http_1, version) in [(true, reqwest::Version::HTTP_11), (false, reqwest::Version::HTTP_2)] {
        let builder = client().add_root_certificate(root.clone());
        let builder = if http_1 { builder.http1_only() } else { builder };
        let client = builder.resolve("localhost", running.url.replace("https://", "").parse().expect("address"));
        let response = client.build().expect("a client").get(&url).send().await.expect("an answer");
        assert_eq!((response.status().as_u16(), response.version()), (200, version));
        let discovery: Value = serde_json::from_slice(&response.bytes().await.expect("body")).expect("JSON");
        assert_eq!(discovery["default"], json!(url.replace("/taxii2/", "/threatintel/")));
    }

    for (cert, key, said) in [
        (folder.path().join("none.pem"), files.key.clone(), "read certificate"),
        (files.key.clone(), files.key.clone(), "holds no CERTIFICATE block"),
        (files.cert.clone(), files.cert.clone(), "holds no usable key"),
    ] {
        let options = Options { tls: Some(TlsFiles::new(cert, key)), ..Options::default() };
        let error = bind(&options).expect_err("unusable").to_string();
        assert!(error.contains(said) && error.contains(".pem`"), "{error}");
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_served_without_a_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let files = TlsFiles::new(folder.path().join("c.pem"), folder.path().join("k.pem"));
    let renew = || {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        std::fs::write(&files.cert, made.cert.pem()).expect("write");
        std::fs::write(&files.key, made.signing_key.serialize_pem()).expect("write");
        reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).expect("a certificate")
    };
    let old = renew();
    let running = run(|options| options.tls = Some(files.clone()));
    let url = running.url.replace("127.0.0.1", "localhost") + "/taxii2/";
    let trusting = |root: &reqwest::Certificate| {
        let address = running.url.replace("https://", "").parse().expect("address");
        client().add_root_certificate(root.clone()).resolve("localhost", address).build().expect("a client")
    };
    let connected = trusting(&old);
    assert!(connected.get(&url).send().await.is_ok());
    let new = renew();
    let served = async { while trusting(&new).get(&url).send().await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(20), served).await.expect("the new certificate is served");
    // Neither client would accept the other's certificate.
    assert!(connected.get(&url).send().await.is_ok(), "its connection lives on");
    assert!(trusting(&old).get(&url).send().await.is_err());
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let running = run(|_| {});
    let listen = running.url.replace("http://", "").parse().expect("an address");
    let error = bind(&Options { listen, ..Options::default() }).expect_err("taken").to_string();
    assert_eq!(
        error,
        format!("`{listen}` is already in use; stop what listens there, or set another `listen` address")
    );
}

#[tokio::test]
async fn a_slow_head_ends_the_connection() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let running = run(|options| {
        options.limits.header_timeout = Duration::from_millis(100);
        options.limits.idle_timeout = Duration::from_millis(200);
    });
    let address = running.url.replace("http://", "");
    let request = b"GET /taxii2/ HTTP/1.1\r\nHost: x\r\n\r\n";
    // Nothing at all, half a head, and a connection that idles after an answer.
    for (sent, answered) in [(&b""[..], false), (&request[..20], false), (&request[..], true)] {
        let mut stream = tokio::net::TcpStream::connect(&address).await.expect("connects");
        stream.write_all(sent).await.expect("sends");
        let mut received = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut received)).await;
        assert!(ended.is_ok(), "the server hung up");
        assert_eq!(received.starts_with(b"HTTP/1.1 200"), answered);
    }
}

#[tokio::test]
async fn an_idle_connection_ends_even_if_its_head_was_never_waited_for() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let running = run(|options| options.limits.idle_timeout = Duration::from_millis(200));
    let address = running.url.replace("http://", "");
    // Heads that are there before the server looks start no timer of their own, which once hid that nothing else did.
    for _ in 0..8 {
        let mut stream = tokio::net::TcpStream::connect(&address).await.expect("connects");
        stream.write_all(b"GET /taxii2/ HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sends");
        let mut received = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut received)).await;
        assert!(ended.is_ok(), "the server hung up");
        assert!(received.starts_with(b"HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn an_unread_answer_ends_the_connection() {
    use tokio::io::AsyncWriteExt;
    let running = run(|options| options.limits.write_timeout = Duration::from_millis(100));
    let address = running.url.replace("http://", "");
    let mut stream = tokio::net::TcpStream::connect(&address).await.expect("connects");
    let request = format!("GET {BASE}/objects/?next=endless HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sends");
    let gone = tokio::time::timeout(Duration::from_secs(20), running.server.feed.gone.notified()).await;
    assert!(gone.is_ok(), "the body was given up");
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_work() {
    let running = run(|_| {});
    let request = client().build().expect("a client").get(format!("{}{BASE}/objects/?next=endless", running.url));
    // Compressed, endless blanks would take long to fill the socket's buffer.
    drop(request.header("accept-encoding", "identity").send().await.expect("an answer"));
    let gone = tokio::time::timeout(Duration::from_secs(20), running.server.feed.gone.notified()).await;
    assert!(gone.is_ok(), "the body was given up");
}

#[tokio::test]
async fn methods_are_case_sensitive() {
    let running = run(|_| {});
    let method = Method::from_bytes(b"get").expect("a method");
    let request = client().build().expect("a client").request(method, format!("{}/taxii2/", running.url));
    assert_eq!(request.send().await.expect("an answer").status(), 405);
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused_with_an_error_resource() {
    let server = server_with(true, |_| {});
    let path = "/taxii2/?x=";
    let url = |bytes: usize| format!("{path}{}", "y".repeat(bytes - path.len()));
    let cases = [
        (url(48 * 1024), 0, 401, "unauthorized"),
        (url(48 * 1024 + 1), 0, 414, "url_too_long"),
        (url(60 * 1024), 0, 414, "url_too_long"),
        (path.to_owned(), 64 * 1024 - 8, 401, "unauthorized"),
        (path.to_owned(), 64 * 1024 - 7, 431, "headers_too_large"),
        (url(60 * 1024), 100_000, 414, "url_too_long"),
    ];
    for (path, padding, status, code) in cases {
        let large = "z".repeat(padding);
        // The name and what is between fields make eight bytes.
        let headers: &[(&str, &str)] = if padding > 0 { &[("long", &large)] } else { &[] };
        let answer = server.request("GET", &path, headers).await;
        assert_eq!((answer.status.as_u16(), answer.json()["error_code"].as_str()), (status, Some(code)), "{padding}");
        assert_eq!(answer.json()["http_status"], json!(status.to_string()));
        assert_eq!(answer.header("content-type"), Some(TAXII_21));
    }
}

#[tokio::test]
async fn the_socket_lets_through_what_has_an_error_resource() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let running = run(|_| {});
    let long = |bytes| "y".repeat(bytes);
    // Longer ones are hyper's, and have no body.
    let cases = [
        (format!("GET /taxii2/?x={} HTTP/1.1\r\n", long(60_000)), "414", Some("url_too_long")),
        (format!("GET /taxii2/?x={} HTTP/1.1\r\n", long(70_000)), "414", None),
        (format!("GET /taxii2/ HTTP/1.1\r\nlong: {}\r\n", long(300_000)), "431", Some("headers_too_large")),
        (format!("GET /taxii2/ HTTP/1.1\r\n{}", "x: y\r\n".repeat(101)), "431", None),
    ];
    for (head, status, code) in cases {
        let stream = tokio::net::TcpStream::connect(running.url.replace("http://", "")).await.expect("connects");
        let (mut reading, mut writing) = stream.into_split();
        let mut answer = String::new();
        let head = format!("{head}Host: x\r\nConnection: close\r\n\r\n");
        let (sent, read) = tokio::join!(writing.write_all(head.as_bytes()), reading.read_to_string(&mut answer));
        sent.and(read).expect("sends and reads");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        let body: Option<Value> = serde_json::from_str(body).ok();
        assert_eq!(body.as_ref().and_then(|body| body["error_code"].as_str()), code, "{head}");
        assert_eq!(body.is_none(), head.contains("content-length: 0"), "{head}");
    }

    let http_2 = client().http2_prior_knowledge().build().expect("a client");
    let cases = [(60_000, 0, 414), (0, 100_000, 431), (40_000, 60_000, 200)];
    for (url, header, status) in cases {
        let request = http_2.get(format!("{}/taxii2/?x={}", running.url, long(url))).header("long", long(header));
        let answer = request.send().await.expect("an answer");
        assert_eq!((answer.status().as_u16(), answer.version()), (status, reqwest::Version::HTTP_2));
        let body: Value = serde_json::from_slice(&answer.bytes().await.expect("a body")).expect("JSON");
        assert_eq!(body["http_status"].is_string(), status != 200);
    }
}
