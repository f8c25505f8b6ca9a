//! The measurements against canned servers on loopback, which page as servers in the wild do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::Response;
use serde_json::{Value, json};

use super::client::{Page, Place, item_range, retry_after, said};
use super::scan::Facts;
use super::walk::{Step, following};
use super::{Access, BenchError, Credentials, Encoding, Event, Options, Report, Secret, Size, Version, run};

const MEDIA_21: &str = "application/taxii+json;version=2.1";
const MEDIA_20: &str = "application/vnd.oasis.stix+json; version=2.0";
const COLLECTION: &str = "/root/collections/c1/";

fn page(objects: u64, more: bool, next: Option<&str>, last_date: Option<&str>) -> Page {
    Page {
        facts: Facts { objects, more, next: next.map(str::to_owned), first_id: None },
        beyond_end: false,
        range: None,
        last_date: last_date.map(str::to_owned),
        encoding: Encoding::Plain,
        first_byte: Duration::ZERO,
        whole: Duration::ZERO,
        wire_bytes: 0,
        body_bytes: 0,
    }
}

#[test]
fn pages_of_21_follow_each_other() {
    let (date, other) = ("2024-01-01T00:00:00.000001Z", "2024-01-01T00:00:00.000002Z");
    let after = |date: &str| Place::After(date.to_owned());
    let next = || Step::Go(Place::Next("n".to_owned()));
    let cases = [
        (Place::Start, page(3, false, None, None), Some(Step::End)),
        // Without `more` there is no more, whatever `next` says.
        (Place::Start, page(3, false, Some("n"), Some(date)), Some(Step::End)),
        (Place::Start, page(3, true, Some("n"), Some(date)), Some(next())),
        // medallion says the same on every page.
        (Place::Next("n".to_owned()), page(3, true, Some("n"), None), Some(next())),
        (Place::Start, page(3, true, None, Some(date)), Some(Step::Go(after(date)))),
        (Place::Start, page(3, true, Some(""), Some(date)), Some(Step::Go(after(date)))),
        (after(date), page(3, true, None, Some(other)), Some(Step::Go(after(other)))),
        (after(date), page(3, true, None, Some(date)), None),
        (Place::Start, page(3, true, None, None), None),
    ];
    for (place, page, expected) in cases {
        let step = following(Version::V21, &place, &page);
        match expected {
            Some(expected) => assert_eq!(step, expected, "{place:?} {page:?}"),
            None => assert!(matches!(step, Step::Stuck(_)), "{place:?} {page:?} {step:?}"),
        }
    }
}

#[test]
fn pages_of_20_follow_each_other_by_what_came() {
    let at =
        |objects, range: Option<&str>| Page { range: range.and_then(item_range), ..page(objects, false, None, None) };
    let beyond = Page { beyond_end: true, ..page(0, false, None, None) };
    let cases = [
        (Place::Start, at(5, None), Some(Step::End)),
        (Place::Start, at(2, Some("items 0-1/5")), Some(Step::Go(Place::Row(2)))),
        // Fewer than were asked for.
        (Place::Row(2), at(1, Some("items 2-2/5")), Some(Step::Go(Place::Row(3)))),
        (Place::Row(4), at(1, Some("items 4-4/5")), Some(Step::End)),
        (Place::Row(4), at(1, Some("items 4-4/*")), Some(Step::Go(Place::Row(5)))),
        (Place::Row(5), at(0, Some("items */*")), Some(Step::End)),
        (Place::Start, at(0, Some("items */0")), Some(Step::End)),
        (Place::Row(2), at(0, Some("items 2-3/5")), None),
        (Place::Row(5), beyond, Some(Step::End)),
    ];
    for (place, page, expected) in cases {
        let step = following(Version::V20, &place, &page);
        match expected {
            Some(expected) => assert_eq!(step, expected, "{place:?} {page:?}"),
            None => assert!(matches!(step, Step::Stuck(_)), "{place:?} {page:?} {step:?}"),
        }
    }
}

#[test]
fn headers_are_understood() {
    for (text, expected) in [
        ("items 0-49/500", Some(Some(500))),
        ("items */0", Some(Some(0))),
        ("items 0-1/*", Some(None)),
        ("bytes 0-1/5", None),
        ("items 0-1", None),
        ("items 0-1/x", None),
    ] {
        assert_eq!(item_range(text).map(|range| range.total), expected, "{text}");
    }
    assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
    assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
    assert!(retry_after("Sat, 21 Oct 2215 07:28:00 GMT").is_some_and(|wait| wait > Duration::from_secs(3600)));
    assert_eq!(retry_after("soon"), None);
    assert_eq!(said(br#"{"title":"Bad","description":"limit"}"#), "Bad: limit");
    assert_eq!(said(b"<html>\n\x1b[2J"), "<html>  [2J");
}

/// How a canned server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Cursors,
    /// `more` without `next`: only the date header says where to go on.
    Dates,
    /// TAXII 2.0.
    Ranges,
    /// The third page repeats the second.
    Repeats,
    /// Each page is refused once.
    Busy,
    /// Pages are cut short now and then.
    Cuts,
    /// `more` for ever.
    Endless,
    Gzip,
    /// Only for whoever has the password.
    Guarded,
}

struct Canned {
    manner: Manner,
    objects: usize,
    requests: AtomicUsize,
    seen: Mutex<BTreeMap<String, usize>>,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

fn date(row: usize) -> String {
    format!("2024-01-01T00:00:00.{row:06}Z")
}

fn answer(status: u16, media: &str) -> axum::http::response::Builder {
    Response::builder().status(status).header(header::CONTENT_TYPE, media)
}

async fn serve(State(canned): State<Arc<Canned>>, request: Request) -> Response {
    let open = canned.open.fetch_add(1, Ordering::SeqCst) + 1;
    canned.most_open.fetch_max(open, Ordering::SeqCst);
    canned.requests.fetch_add(1, Ordering::SeqCst);
    tokio::task::yield_now().await;
    let response = respond(&canned, &request);
    canned.open.fetch_sub(1, Ordering::SeqCst);
    response
}

fn respond(canned: &Canned, request: &Request) -> Response {
    let manner = canned.manner;
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let speaks_20 = manner == Manner::Ranges;
    let plain = |status: u16, value: Value| {
        let media = if speaks_20 { "application/vnd.oasis.taxii+json; version=2.0" } else { MEDIA_21 };
        answer(status, media).body(Body::from(value.to_string())).unwrap()
    };
    if manner == Manner::Guarded
        && request.headers().get(header::AUTHORIZATION).is_none_or(|it| it != "Basic bWU6c2VjcmV0")
    {
        return plain(401, json!({ "title": "Unauthorized" }));
    }
    // Servers compare texts.
    if accept.contains("vnd.oasis") != speaks_20 {
        return plain(406, json!({ "title": "Not acceptable" }));
    }
    let discovery = if speaks_20 { "/taxii/" } else { "/taxii2/" };
    let collection = json!({ "id": "c1", "title": "One", "can_read": true, "can_write": false });
    match request.uri().path() {
        path if path == discovery => {
            plain(200, json!({ "title": "t", "api_roots": ["http://other.invalid:5000/root/"] }))
        }
        "/root/" => plain(200, json!({ "title": "r", "versions": [MEDIA_21], "max_content_length": 1 })),
        "/root/collections/" => plain(
            200,
            json!({ "collections": [collection, { "id": "c2", "title": "Two", "can_read": false, "can_write": true }] }),
        ),
        COLLECTION => plain(200, collection),
        "/root/collections/c1/objects/" => objects(canned, request),
        path if path.starts_with("/root/collections/c1/objects/indicator--") => {
            plain(200, json!({ "objects": [{ "id": path.split('/').nth(5), "type": "indicator" }] }))
        }
        _ => plain(404, json!({ "title": "Not found" })),
    }
}

fn objects(canned: &Canned, request: &Request) -> Response {
    let manner = canned.manner;
    let query: BTreeMap<String, String> =
        reqwest::Url::parse(&format!("http://h/?{}", request.uri().query().unwrap_or_default()))
            .unwrap()
            .query_pairs()
            .into_owned()
            .collect();
    let key = format!("{query:?} {:?}", request.headers().get(header::RANGE));
    let times = {
        let mut seen = canned.seen.lock().unwrap();
        let times = seen.entry(key).or_default();
        *times += 1;
        *times
    };
    if manner == Manner::Busy && times == 1 {
        return Response::builder().status(429).header(header::RETRY_AFTER, "0").body(Body::empty()).unwrap();
    }
    let most = 100;
    let limit = query.get("limit").map_or(most, |limit| limit.parse::<usize>().unwrap().min(most));
    let (mut first, mut size) = (0, limit);
    if let Some(next) = query.get("next") {
        first = next.parse().unwrap();
    }
    if let Some(after) = query.get("added_after") {
        first = (0..canned.objects).position(|row| date(row) > *after).unwrap_or(canned.objects);
    }
    let mut status = 200;
    if manner == Manner::Ranges {
        (first, size) = (0, most);
        if let Some(range) = request.headers().get(header::RANGE) {
            let (from, to) = range.to_str().unwrap().strip_prefix("items=").unwrap().split_once('-').unwrap();
            first = from.parse().unwrap();
            size = to.parse::<usize>().map_or(most, |to| to + 1 - first).min(most);
        }
        status = if first >= canned.objects && canned.objects > 0 { 416 } else { 206 };
    }
    let last = (first + size).min(canned.objects);
    let mut rows: Vec<usize> = (first.min(last)..last).collect();
    if manner == Manner::Repeats && first == 2 * limit {
        rows = (limit..2 * limit).collect();
    }
    let list: Vec<Value> = rows
        .iter()
        .map(|row| json!({ "type": "indicator", "id": format!("indicator--{row}"), "more": true, "x": { "id": "no" } }))
        .collect();
    let more = last < canned.objects || manner == Manner::Endless;
    let mut value = json!({});
    if !list.is_empty() && manner != Manner::Endless {
        value["objects"] = Value::from(list);
    }
    let mut response = Response::builder().status(status);
    if manner == Manner::Ranges {
        value["type"] = json!("bundle");
        value["id"] = json!("bundle--1");
        response = response.header(header::CONTENT_TYPE, MEDIA_20).header(
            header::CONTENT_RANGE,
            if status == 416 {
                format!("items */{}", canned.objects)
            } else {
                format!("items {first}-{}/{}", last.saturating_sub(1), canned.objects)
            },
        );
    } else {
        response = response.header(header::CONTENT_TYPE, MEDIA_21);
        if more {
            value["more"] = json!(true);
            if manner != Manner::Dates {
                value["next"] = json!(last.to_string());
            }
        }
    }
    if let (Some(first), Some(last)) = (rows.first(), rows.last()) {
        response = response.header("X-TAXII-Date-Added-First", date(*first));
        response = response.header("X-TAXII-Date-Added-Last", date(*last));
    }
    let mut body = value.to_string().into_bytes();
    if manner == Manner::Cuts && times == 1 {
        body.truncate(body.len() / 2);
    }
    let packed = request.headers().get(header::ACCEPT_ENCODING).is_some_and(|it| it == "gzip");
    if manner == Manner::Gzip && packed {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&body).unwrap();
        body = encoder.finish().unwrap();
        response = response.header(header::CONTENT_ENCODING, "gzip");
    }
    response.body(Body::from(body)).unwrap()
}

async fn start(manner: Manner, objects: usize) -> (String, Arc<Canned>) {
    let canned = Arc::new(Canned {
        manner,
        objects,
        requests: AtomicUsize::new(0),
        seen: Mutex::default(),
        open: AtomicUsize::new(0),
        most_open: AtomicUsize::new(0),
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(serve).with_state(Arc::clone(&canned));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, canned)
}

fn options(url: &str) -> Options {
    Options {
        url: url.parse().unwrap(),
        collection: Some("One".to_owned()),
        version: None,
        access: Access {
            credentials: Credentials::Anonymous,
            authorities: None,
            client_certificate: None,
            insecure: false,
            patience: Duration::from_secs(30),
        },
        sizes: vec![Size::Objects(10), Size::Objects(50), Size::Whole],
        encodings: vec![Encoding::Plain],
        types: None,
        clients: 3,
        requests: 2,
        time: None,
        walk_time: None,
    }
}

async fn measured(options: &Options) -> Result<Report, BenchError> {
    run(options, &mut |_| (), std::future::pending()).await
}

fn find<'a>(report: &'a Report, name: &str, size: Size, encoding: Encoding) -> &'a super::Measurement {
    let is_it = |it: &&super::Measurement| it.name == name && it.size == size && it.encoding == encoding;
    report.measurements.iter().find(is_it).unwrap_or_else(|| panic!("no {name} {size:?} in {report:#?}"))
}

#[tokio::test]
async fn collections_are_walked_in_whatever_way_the_server_pages() {
    for manner in [Manner::Cursors, Manner::Dates, Manner::Ranges, Manner::Gzip] {
        let (url, _) = start(manner, 230).await;
        let report = measured(&options(&url)).await.unwrap();
        let walks: Vec<_> = report.measurements.iter().filter(|it| it.name == "walk").collect();
        assert_eq!(walks.len(), 3, "{manner:?}");
        for walk in walks {
            assert_eq!((walk.objects, walk.complete), (230, true), "{manner:?} {walk:?}");
            assert!(walk.errors.is_empty(), "{manner:?} {walk:?}");
        }
        assert_eq!(find(&report, "walk", Size::Objects(10), Encoding::Plain).requests, 23, "{manner:?}");
        assert_eq!((report.objects, report.objects_complete), (230, true), "{manner:?}");
        assert_eq!(
            find(&report, "first page", Size::Objects(50), Encoding::Plain).objects,
            100,
            "{manner:?}: 50, twice"
        );
        let middle = find(&report, "page in the middle", Size::Objects(10), Encoding::Plain);
        assert_eq!((middle.requests, middle.objects), (2, 20), "{manner:?}");
        assert_eq!(find(&report, "walks of 3 clients", Size::Objects(50), Encoding::Plain).objects, 690, "{manner:?}");
        if manner != Manner::Ranges {
            assert_eq!(find(&report, "poll, nothing new", Size::Server, Encoding::Plain).objects, 0, "{manner:?}");
        }
        assert!(report.problems.is_empty(), "{manner:?} {:?}", report.problems);
        assert_eq!(report.taxii, if manner == Manner::Ranges { Version::V20 } else { Version::V21 });
        assert!(report.markdown().contains("| walk | 10 | plain | 23 | 230 |"), "{}", report.markdown());
        // The server names itself by a host that is not there.
        assert!(report.remarks.iter().any(|it| it.contains("other.invalid")), "{:?}", report.remarks);
    }
}

#[tokio::test]
async fn compressed_pages_are_counted_both_ways() {
    let (url, _) = start(Manner::Gzip, 100).await;
    let encodings = vec![Encoding::Plain, Encoding::Gzip, Encoding::Zstd];
    let report = measured(&Options { encodings, ..options(&url) }).await.unwrap();
    let [plain, gzip, zstd] = [Encoding::Plain, Encoding::Gzip, Encoding::Zstd]
        .map(|encoding| find(&report, "walk", Size::Objects(50), encoding));
    assert_eq!([plain.objects, gzip.objects, zstd.objects], [100; 3]);
    assert_eq!(gzip.body_bytes, plain.body_bytes);
    assert!(gzip.wire_bytes * 3 < plain.wire_bytes, "{} {}", gzip.wire_bytes, plain.wire_bytes);
    // It has no zstd, and the report says so.
    assert_eq!((zstd.answered_encoding, zstd.wire_bytes), (Some(Encoding::Plain), plain.wire_bytes));
    assert!(zstd.notes.contains(&"answered plain".to_owned()), "{zstd:?}");
}

#[tokio::test]
async fn what_is_wrong_is_counted_and_said() {
    let (url, _) = start(Manner::Repeats, 230).await;
    let report = measured(&options(&url)).await.unwrap();
    assert!(report.problems.iter().any(|it| it.contains("10 a page, plain: 10 ids came more than once")), "{report:?}");
    assert!(report.problems.iter().any(|it| it.contains("other ids")), "{:?}", report.problems);
    assert!(!report.is_clean());

    // A page that failed once comes at the second try, and its ids count once.
    let (url, _) = start(Manner::Cuts, 30).await;
    let report = measured(&Options { sizes: vec![Size::Objects(10)], clients: 1, ..options(&url) }).await.unwrap();
    let walk = find(&report, "walk", Size::Objects(10), Encoding::Plain);
    assert_eq!((walk.objects, walk.complete), (30, true));
    assert_eq!(walk.errors.get("body cut short"), Some(&3), "{walk:?}");
    assert!(report.problems.is_empty() && !report.is_clean(), "{report:?}");

    let (url, _) = start(Manner::Busy, 30).await;
    let report = measured(&Options { sizes: vec![Size::Objects(10)], clients: 1, ..options(&url) }).await.unwrap();
    let walk = find(&report, "walk", Size::Objects(10), Encoding::Plain);
    assert_eq!((walk.objects, walk.asked_to_wait), (30, 3));
    assert_eq!(walk.errors.get("status 429"), Some(&3));

    let (url, canned) = start(Manner::Endless, 30).await;
    let report = measured(&Options { sizes: vec![Size::Objects(10)], clients: 1, ..options(&url) }).await.unwrap();
    assert_eq!(find(&report, "walk", Size::Objects(10), Encoding::Plain).errors.get("no progress"), Some(&1));
    assert!(canned.requests.load(Ordering::SeqCst) < 50);
}

#[tokio::test]
async fn no_more_clients_ask_at_once_than_were_wanted() {
    let (url, canned) = start(Manner::Cursors, 2_000).await;
    let report = measured(&Options { clients: 5, ..options(&url) }).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert!(canned.most_open.load(Ordering::SeqCst) <= 5);
}

#[tokio::test]
async fn any_url_of_a_server_will_do() {
    for manner in [Manner::Cursors, Manner::Ranges] {
        let (url, _) = start(manner, 5).await;
        let discovery = if manner == Manner::Ranges { "/taxii" } else { "/taxii2" };
        for path in [
            "",
            "/",
            discovery,
            "/root/",
            "/root/collections/",
            "/root/collections/c1",
            "/root/collections/c1/objects/",
        ] {
            let found =
                measured(&Options { sizes: vec![Size::Objects(10)], clients: 1, ..options(&format!("{url}{path}")) })
                    .await;
            let report = found.unwrap_or_else(|error| panic!("{manner:?} {path}: {error}"));
            assert_eq!((report.objects, report.collection.as_str()), (5, "One"), "{manner:?} {path}");
        }
    }
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let (url, _) = start(Manner::Cursors, 5).await;
    let (guarded, _) = start(Manner::Guarded, 5).await;
    let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let cases = [
        (url.clone(), Some("Three"), "there is no collection `Three`; there are: `One` (c1), `Two` (c2)"),
        (url.clone(), Some("Two"), "the collection `Two` cannot be read"),
        (format!("{url}/nowhere/"), None, "answered status 404: Not found; give the URL of a discovery"),
        (guarded.clone(), None, "does not let us in (status 401); give a user with `--user`"),
        (format!("http://{unused}/"), None, "no answer from"),
    ];
    for (url, collection, expected) in cases {
        let options = Options { collection: collection.map(str::to_owned), ..options(&url) };
        let error = measured(&options).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{url}: {error}");
    }
    let mut with_password = options(&guarded);
    with_password.access.credentials =
        Credentials::Basic { user: "me".to_owned(), password: Secret("secret".to_owned()) };
    assert!(!format!("{with_password:?}").contains("secret"));
    assert_eq!(measured(&with_password).await.unwrap().objects, 5);
}

#[tokio::test]
async fn whoever_stops_it_gets_what_there_is() {
    let (url, _) = start(Manner::Cursors, 50).await;
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    let mut tell = Some(tell);
    let mut look_on = |event: Event<'_>| {
        if matches!(event, Event::Done(_)) {
            tell.take().unwrap().send(()).unwrap();
        }
    };
    let stop = async { _ = told.await };
    let report = run(&options(&url), &mut look_on, stop).await.unwrap();
    assert!(report.interrupted && !report.is_clean());
    assert_eq!(report.measurements.len(), 1);
}
