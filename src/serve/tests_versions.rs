//! Both TAXII versions and both profiles against the fake feed: spec/xsoar-taxii2-server.md §2 row by row, and beside
//! it what the standards say.

use Profile::{Standard, Xsoar};
use StixVersion::{V20, V21};
use serde_json::json;

use crate::feed::api::{ItemRange, PageRequest, Profile, Shape, StixVersion};
use crate::serve::Options;
use crate::serve::TlsFiles;
use crate::serve::negotiate::{STIX_20, STIX_21, TAXII_20, TAXII_21};
use crate::serve::tests::{Answer, BASE, FIRST, IPS, LAST, Server, basic, server, server_of, server_with};

const DEMISTO: (&str, &str) = ("host", "demisto:7000");

fn of(profile: Profile) -> Server {
    server_with(false, |options| options.profile = profile)
}

/// A server as the original is: of one version only.
fn only(profile: Profile, version: StixVersion) -> Server {
    server_with(false, |options| {
        options.profile = profile;
        options.versions = vec![version];
        options.default_version = version;
    })
}

fn taxii(version: StixVersion) -> &'static str {
    if version == V20 { TAXII_20 } else { TAXII_21 }
}

async fn get(server: &Server, path: &str, headers: &[(&str, &str)]) -> Answer {
    let headers: Vec<(&str, &str)> = [DEMISTO].into_iter().chain(headers.iter().copied()).collect();
    server.request("GET", path, &headers).await
}

fn text(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.body).expect("UTF-8")
}

/// §2.3 and §2.6: routes with and without slash, and their content types.
#[tokio::test]
async fn every_route_answers_both_versions() {
    let rows = [
        ("/taxii/".to_owned(), 200, false),
        ("/taxii2/".to_owned(), 200, false),
        ("/threatintel/".to_owned(), 200, false),
        ("/threatintel/status/1/".to_owned(), 404, false),
        ("/threatintel/collections/".to_owned(), 200, false),
        (format!("{BASE}/"), 200, false),
        (format!("{BASE}/manifest/"), 200, false),
        (format!("{BASE}/objects/"), 200, true),
        (format!("{BASE}/objects/url--1/"), 200, true),
        (format!("{BASE}/objects/unknown/"), 404, false),
        (format!("{BASE}/objects/?match[version]=x"), 400, false),
        (format!("{BASE}/else/"), 404, false),
        ("/elsewhere/".to_owned(), 404, false),
    ];
    for profile in [Standard, Xsoar] {
        let server = of(profile);
        for (path, status, objects) in &rows {
            for path in [path.clone(), path.replacen("/?", "?", 1).trim_end_matches('/').to_owned()] {
                for accept in [TAXII_20, STIX_20, "application/vnd.oasis.taxii+json", "application/vnd.oasis.stix+json"]
                {
                    let answer = get(&server, &path, &[("accept", accept)]).await;
                    assert_eq!(answer.status.as_u16(), *status, "{path} {accept}");
                    let expected = if *objects { STIX_20 } else { TAXII_20 };
                    assert_eq!(answer.header("content-type"), Some(expected), "{path} {accept}");
                }
                for accept in [TAXII_21, STIX_21, "application/taxii+json; version=2.1"] {
                    let answer = get(&server, &path, &[("accept", accept)]).await;
                    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (*status, Some(TAXII_21)));
                }
                let by_default = if path.trim_end_matches('/') == "/taxii" { TAXII_20 } else { TAXII_21 };
                let by_default = if *objects { TAXII_21 } else { by_default };
                for accept in ["*/*", "application/json", "application/taxii+json", ""] {
                    let answer = get(&server, &path, &[("accept", accept)]).await;
                    let expected = (*status, Some(by_default));
                    assert_eq!((answer.status.as_u16(), answer.header("content-type")), expected, "{path} {accept}");
                }
            }
        }
        // TAXII 2.0 has no versions resource.
        let path = format!("{BASE}/objects/url--1/versions/");
        assert_eq!(get(&server, &path, &[("accept", TAXII_20)]).await.status, 404);
        assert_eq!(get(&server, &path, &[("accept", TAXII_21)]).await.status, 200);
    }
}

#[tokio::test]
async fn the_default_version_is_configured() {
    let server = server_with(false, |options| options.default_version = V20);
    for (path, expected) in
        [("/threatintel/", TAXII_20), ("/taxii/", TAXII_20), ("/taxii2/", TAXII_21), ("/nowhere/", TAXII_20)]
    {
        assert_eq!(get(&server, path, &[]).await.header("content-type"), Some(expected), "{path}");
    }
    let objects = get(&server, &format!("{BASE}/objects/"), &[]).await;
    assert_eq!(objects.header("content-type"), Some(STIX_20));
}

/// §2.5.
#[tokio::test]
async fn what_cannot_be_accepted_is_told() {
    let list = "['application/taxii+json', 'application/vnd.oasis.taxii+json; version=2.0', \
                'application/vnd.oasis.stix+json; version=2.0', 'application/taxii+json;version=2.1', \
                'application/stix+json;version=2.1']";
    let odd = |accept: &str| {
        format!(
            "{{\"description\":\"Invalid Accept header: {accept}, please use one ot the following Accept headers: \
             {list}\",\"title\":\"Invalid TAXII Headers\"}}\n"
        )
    };
    let old =
        "{\"description\":\"The media type (version=2.0) provided in the Accept header is not supported on TAXII \
               v2.1.\",\"title\":\"Invalid TAXII Header\"}\n"
            .to_owned();
    let paths = ["/taxii/", "/taxii2/", "/threatintel/", &format!("{BASE}/objects/"), "/nowhere"];
    for path in paths {
        for (version, accept, expected) in [
            (V21, "text/html", Some(odd("text/html"))),
            (V20, "text/html, image/png;q=0.5", Some(odd("text/html, image/png;q=0.5"))),
            (V21, TAXII_20, Some(old.clone())),
            (V21, "application/vnd.oasis.taxii+json;version=2.0", Some(old.clone())),
            (V21, STIX_20, Some(old.clone())),
            // The original of version 2.0 takes the types of 2.1 and answers 2.0.
            (V20, TAXII_21, None),
            (V20, STIX_21, None),
            (V20, TAXII_20, None),
            (V20, "application/taxii+json", None),
        ] {
            let answer = get(&only(Xsoar, version), path, &[("accept", accept)]).await;
            match expected {
                Some(expected) => {
                    assert_eq!(answer.status, 406, "{path} {accept}");
                    assert_eq!(text(&answer), expected, "{path} {accept}");
                    assert_eq!(answer.header("content-type"), Some(taxii(version)));
                }
                None => assert_eq!(answer.status, if path == "/nowhere" { 404 } else { 200 }, "{path} {accept}"),
            }
        }
        for (version, accept) in [(V21, TAXII_20), (V20, TAXII_21), (V20, "text/html")] {
            let answer = get(&only(Standard, version), path, &[("accept", accept)]).await;
            assert_eq!((answer.status.as_u16(), answer.header("content-type")), (406, Some(taxii(version))), "{path}");
            let description = answer.json()["description"].as_str().map(str::to_owned);
            let expected = format!("Nothing in `Accept: {accept}` can be served; ask for {}.", taxii(version));
            assert_eq!(description, Some(expected));
        }
    }
}

/// §2.2 and §2.7, byte for byte.
#[tokio::test]
async fn resources_of_the_original() {
    let server = of(Xsoar);
    let collection = |id: &str, title: &str, query: &str, version: StixVersion| {
        let media_type = if version == V20 { STIX_20 } else { STIX_21 };
        format!(
            "{{\"can_read\":true,\"can_write\":false,\"description\":\"\",\"id\":\"{id}\",\"media_types\":\
             [\"{media_type}\"],{query}\"title\":\"{title}\"}}"
        )
    };
    let query = "\"query\":\"type:IP\",";
    for version in [V20, V21] {
        let accept = [("accept", taxii(version))];
        for path in ["/taxii/", "/taxii2"] {
            assert_eq!(
                text(&get(&server, path, &accept).await),
                "{\"api_roots\":[\"http://demisto:7000/threatintel/\"],\"default\":\"http://demisto:7000/threatintel/\",\
                 \"description\":\"This integration provides TAXII Services for system indicators (Outbound feed).\",\
                 \"title\":\"Cortex XSOAR TAXII2 Server\"}\n"
            );
        }
        let (bytes, name) =
            if version == V20 { (9_765_625, "taxii-2.0") } else { (104_857_600, "application/taxii+json;version=2.1") };
        assert_eq!(
            text(&get(&server, "/threatintel", &accept).await),
            format!(
                "{{\"description\":\"This API Root provides TAXII Services for system indicators.\",\
                 \"max_content_length\":{bytes},\"title\":\"Cortex XSOAR TAXII2 Server ThreatIntel\",\
                 \"versions\":[\"{name}\"]}}\n"
            )
        );
        let ips = collection(IPS, "AllIPs", query, version);
        let one = collection("4c649e16-2bb7-50f5-8826-2a2d0a0b9631", "Collection1", query, version);
        let two = collection("e46189b5-c5c8-5c7f-b947-183e0302b4d3", "Collection2", "", version);
        assert_eq!(text(&get(&server, &format!("{BASE}/"), &accept).await), format!("{ips}\n"));
        // In the order of the configuration.
        let all = get(&server, "/threatintel/collections/", &accept).await;
        assert_eq!(text(&all), format!("{{\"collections\":[{two},{one},{ips}]}}\n"));
    }
}

#[tokio::test]
async fn titles_are_the_configured_ones() {
    for profile in [Standard, Xsoar] {
        let server = server_with(false, |options| {
            options.profile = profile;
            options.title = Some("Caf\u{e9}".to_owned());
            options.description = Some("Ours".to_owned());
        });
        for path in ["/taxii2/", "/threatintel/"] {
            let answer = get(&server, path, &[]).await;
            assert_eq!((&answer.json()["title"], &answer.json()["description"]), (&json!("Caf\u{e9}"), &json!("Ours")));
            assert_eq!(answer.body.is_ascii(), profile == Xsoar, "{path}");
        }
    }
}

/// TAXII 2.0 §4 and §5: no alias, its own names of versions and media types.
#[tokio::test]
async fn resources_of_taxii_20() {
    let server = server();
    let accept = [("accept", TAXII_20)];
    let root = "http://demisto:7000/threatintel/";
    let discovery = json!({"title": "taxiway", "default": root, "api_roots": [root]});
    assert_eq!(get(&server, "/taxii/", &accept).await.json(), discovery);
    let api_root = json!({"title": "taxiway", "versions": ["taxii-2.0"], "max_content_length": 100 << 20});
    assert_eq!(get(&server, "/threatintel/", &accept).await.json(), api_root);
    let ips = json!({"id": IPS, "title": "AllIPs", "can_read": true, "can_write": false, "media_types": [STIX_20],
        "query": "type:IP"});
    assert_eq!(get(&server, "/threatintel/collections/ips/", &accept).await.json(), ips);
    assert_eq!(get(&server, "/threatintel/collections/", &accept).await.json()["collections"][0], ips);
}

/// TAXII 2.0 §3.4; spec/xsoar-taxii2-server.md §2.8 and §2.9. The feed has five items.
#[tokio::test]
async fn pages_by_number() {
    // Header, its value; in the standard profile status, what the feed is asked for and `Content-Range`; the same in
    // xsoar.
    type Row = (&'static str, &'static str, [(u16, Option<(u64, u64)>, &'static str); 2]);
    let same = |range, outcome| -> Row { ("range", range, [outcome, (200, outcome.1, outcome.2)]) };
    let rows: [Row; 16] = [
        ("x", "", [(200, None, "items 0-4/5"), (200, None, "items 0-5/5")]),
        ("range", "items 0-4", [(206, Some((0, 5)), "items 0-4/5"), (200, Some((0, 4)), "items 0-4/5")]),
        ("range", "items 0-2", [(206, Some((0, 3)), "items 0-2/5"), (200, Some((0, 2)), "items 0-2/5")]),
        ("range", "items 2-4", [(206, Some((2, 3)), "items 2-4/5"), (200, Some((2, 2)), "items 2-2/5")]),
        ("range", "items 3-10", [(206, Some((3, 8)), "items 3-4/5"), (200, Some((3, 7)), "items 3-2/5")]),
        ("range", "items 0-0", [(206, Some((0, 1)), "items 0-0/5"), (200, Some((0, 0)), "items 0-0/5")]),
        ("content-range", "items 1-3/5", [(206, Some((1, 3)), "items 1-3/5"), (200, Some((1, 2)), "items 1-2/5")]),
        // What taxii2-client sends: both ends belong to it, or it would miss objects.
        same("items=0-1", (206, Some((0, 2)), "items 0-1/5")),
        same("items=2-3", (206, Some((2, 2)), "items 2-3/5")),
        same("items=4-5", (206, Some((4, 2)), "items 4-4/5")),
        same("items=0-999", (206, Some((0, 1000)), "items 0-4/5")),
        same("items=3-", (206, Some((3, 10_000)), "items 3-4/5")),
        ("range", "bytes=0-99", [(200, None, "items 0-4/5"), (416, None, "")]),
        ("range", "items 8-2/10", [(416, None, ""), (416, None, "")]),
        ("range", "items 5-9", [(416, Some((5, 5)), "items */5"), (416, Some((5, 4)), "items */5")]),
        ("range", "items=90-100", [(416, Some((90, 11)), "items */5"), (416, Some((90, 11)), "items */5")]),
    ];
    for (profile, at) in [(Standard, 0), (Xsoar, 1)] {
        let server = of(profile);
        for (name, value, outcomes) in rows {
            let (status, items, content_range) = outcomes[at];
            for (path, shape, title) in [
                ("objects/", Shape::Objects, "Objects Request Error"),
                ("manifest", Shape::Manifest, "Manifest Request Error"),
            ] {
                let what = format!("{profile:?} {path} {name}: {value}");
                server.feed.asked.lock().clear();
                let headers = [("accept", TAXII_20), (name, value)];
                let answer = get(&server, &format!("{BASE}/{path}?limit=2&next=stale"), &headers).await;
                assert_eq!(answer.status.as_u16(), status, "{what}");
                let content_range = Some(content_range).filter(|text| !text.is_empty());
                assert_eq!(answer.header("content-range"), content_range, "{what}");
                let accepted = (profile == Standard && status < 300).then_some("items");
                assert_eq!(answer.header("accept-ranges"), accepted, "{what}");
                let asked = server.feed.asked.lock().pop();
                if status < 300 || items.is_some() {
                    let range = items.map(|(first, count)| ItemRange { first, count });
                    let request = PageRequest { version: V20, range, wants_total: true, ..PageRequest::default() };
                    assert_eq!(asked, Some(("AllIPs".to_owned(), shape, request)), "{what}");
                } else {
                    assert_eq!(asked, None, "{what}");
                }
                if status < 300 {
                    let dates = content_range != Some("items 0-0/5") || profile == Standard;
                    assert_eq!(answer.header("x-taxii-date-added-first"), dates.then_some(FIRST), "{what}");
                    assert_eq!(answer.header("x-taxii-date-added-last"), dates.then_some(LAST), "{what}");
                } else if profile == Xsoar {
                    let reason = match items {
                        Some(_) => "The server cannot provide the requested range.".to_owned(),
                        None => format!("Range header: {value}"),
                    };
                    let expected = format!(
                        "{{\"description\":\"416 Requested Range Not Satisfiable: {reason}\",\"title\":\"{title}\"}}\n"
                    );
                    assert_eq!(text(&answer), expected, "{what}");
                }
                if status >= 300 {
                    assert_eq!(answer.header("content-type"), Some(TAXII_20), "{what}");
                }
            }
        }
    }
}

/// `match[type]` says of how many items the feed has.
#[tokio::test]
async fn pages_by_number_of_few_and_of_many() {
    let rows = [
        // Nothing at all: a client that asks from the start learns that quietly.
        (Standard, "0", None, 200, "items */0"),
        (Standard, "0", Some("items=0-9"), 200, "items */0"),
        (Standard, "0", Some("items=10-19"), 416, "items */0"),
        (Xsoar, "0", None, 200, "items 0-0/0"),
        (Xsoar, "0", Some("items 0-9"), 200, "items 0-0/0"),
        (Xsoar, "0", Some("items 10-19"), 200, "items 10-0/0"),
        (Xsoar, "0", Some("items=0-9"), 200, "items */0"),
        // More than a page holds.
        (Standard, "2500", None, 206, "items 0-999/2500"),
        (Standard, "2500", Some("items=1000-2999"), 206, "items 1000-1999/2500"),
        (Standard, "2500", Some("items 2000-2999"), 206, "items 2000-2499/2500"),
        (Xsoar, "2500", None, 200, "items 0-1000/2500"),
        (Xsoar, "2500", Some("items 2000-3000"), 200, "items 2000-500/2500"),
    ];
    for (profile, total, range, status, content_range) in rows {
        let server = of(profile);
        let range = range.map(|range| ("range", range));
        let headers: Vec<(&str, &str)> =
            [("accept", STIX_20), ("accept-encoding", "gzip")].into_iter().chain(range).collect();
        let answer = get(&server, &format!("{BASE}/objects/?match[type]={total}"), &headers).await;
        assert_eq!(answer.status.as_u16(), status, "{profile:?} {total} {range:?}");
        assert_eq!(answer.header("content-range"), Some(content_range), "{profile:?} {total} {range:?}");
        // A part of a list is a whole document.
        let compressed = (total == "2500").then_some("gzip");
        assert_eq!(answer.header("content-encoding"), compressed, "{profile:?} {total} {range:?}");
    }
}

/// One object is no list: it has neither range nor total in 2.0, and 2.1 has neither anywhere.
#[tokio::test]
async fn what_is_not_paged_by_number() {
    let server = server();
    let rows = [
        (V20, "objects/url--1/", true, "match[version]=all&match[id]=x"),
        (V21, "objects/url--1/", true, ""),
        (V21, "objects/", false, ""),
        (V21, "manifest/", false, ""),
    ];
    for (version, path, object, query) in rows {
        let headers = [("accept", taxii(version)), ("range", "items=1-2"), ("content-range", "items 1-2/5")];
        let answer = get(&server, &format!("{BASE}/{path}?{query}"), &headers).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-range")), (200, None), "{version:?} {path}");
        assert_eq!(answer.header("accept-ranges"), None, "{version:?} {path}");
        let (_, _, request) = server.feed.asked.lock().pop().expect("asked");
        assert_eq!((request.version, request.range, request.wants_total), (version, None, false), "{path}");
        assert_eq!(request.object.is_some(), object);
    }
}

/// §2.8: in the original's profile, and only there.
#[tokio::test]
async fn query_time_is_told() {
    for (profile, told) in [(Standard, false), (Xsoar, true)] {
        let server = of(profile);
        for version in [V20, V21] {
            for path in ["objects/", "manifest/"] {
                let answer = get(&server, &format!("{BASE}/{path}"), &[("accept", taxii(version))]).await;
                let header = answer.header("x-taxii2server-query-time-secs");
                let shape = header.map(|text| text.split_once('.').map(|(a, b)| (a.parse::<u64>().is_ok(), b.len())));
                assert_eq!(shape, told.then_some(Some((true, 3))), "{profile:?} {path} {header:?}");
                assert_eq!(answer.header("x-taxii-date-added-first"), Some(FIRST));
                assert_eq!(answer.header("x-taxii-date-added-last"), Some(LAST));
            }
        }
    }
}

/// §2.9: the original takes a limit of nothing, and offsets.
#[tokio::test]
async fn limits_of_the_original() {
    let server = of(Xsoar);
    for path in ["objects/", "manifest/"] {
        let answer = server.get(&format!("{BASE}/{path}?limit=0")).await;
        assert_eq!((answer.status.as_u16(), text(&answer)), (200, "{\"objects\":[]}\n"));
        assert_eq!(server.get(&format!("{BASE}/{path}?limit=4&next=4&limit=x")).await.status, 200);
        let (_, _, request) = server.feed.asked.lock().pop().expect("asked");
        assert_eq!((request.limit, request.next.as_deref()), (Some(4), Some("4")));
    }
    assert_eq!(of(Standard).get(&format!("{BASE}/objects/?limit=0")).await.status, 400);
}

/// §2.10 and §2.12, byte for byte; the keys are those two, whatever goes wrong.
#[tokio::test]
async fn failures_in_the_originals_words() {
    let server = server_with(false, |options| {
        options.profile = Xsoar;
        options.limits.request_timeout = std::time::Duration::from_millis(50);
    });
    let objects = format!("{BASE}/objects/");
    let manifest = format!("{BASE}/manifest/");
    let could_not = |what: &str, message: &str| format!("Could not perform the {what} request: {message}");
    let date = "Added after time format should be YYYY-MM-DDTHH:mm:ss.[s+]Z. It is 'yesterday'";
    let unknown = |name: &str| {
        format!("No collection with id \"{name}\". Use \"/threatintel/collections/\" to get all existing collections.")
    };
    let nobody = "/threatintel/collections/nobody";
    let rows = [
        (format!("{objects}?added_after=yesterday"), 400, "Objects Request Error", could_not("objects", date)),
        (format!("{manifest}?added_after=yesterday"), 400, "Manifest Request Error", could_not("manifest", date)),
        (
            format!("{objects}?match[version]=newest"),
            400,
            "Objects Request Error",
            could_not("objects", "`match[version]` takes `first`, `last`, `all` or timestamps, not `newest`."),
        ),
        (
            "/threatintel/status/1/".to_owned(),
            404,
            "Get Status not allowed.",
            "Status ID is not found, or the client does not have access to the resource".to_owned(),
        ),
        (nobody.to_owned(), 404, "Unknown Collection", unknown("nobody")),
        (format!("{nobody}/objects?limit=0"), 404, "Unknown Collection", unknown("nobody")),
        (format!("{nobody}/manifest/"), 404, "Unknown Collection", unknown("nobody")),
        (format!("{objects}unknown"), 404, "Unknown object", "The collection holds no object `unknown`.".to_owned()),
    ];
    for version in [V20, V21] {
        let discovery = if version == V20 { "/taxii/" } else { "/taxii2/" };
        let no_root = format!("Unknown API Root other. Check possible API Roots using '{discovery}'");
        let nothing = format!("There is no resource at this path; begin at {discovery}.");
        let of_version: Vec<(String, u16, &str, String)> = [
            "",
            "/",
            "/collections/",
            "/collections/x",
            "/collections/x/manifest",
            "/collections/x/objects/",
            "/status/1",
        ]
        .map(|path| (format!("/other{path}"), 404, "Unknown API Root", no_root.clone()))
        .into_iter()
        .chain(
            ["/threatintel/objects", &format!("{BASE}/other"), "/other/x/y/z"]
                .map(|path| (path.to_owned(), 404, "Unknown resource", nothing.clone())),
        )
        .collect();
        for (path, status, title, description) in rows.iter().chain(&of_version) {
            let answer = get(&server, path, &[("accept", taxii(version))]).await;
            assert_eq!(answer.status.as_u16(), *status, "{path}");
            let (title, description) = (json!(title), json!(description));
            let expected = format!("{{\"description\":{description},\"title\":{title}}}\n");
            assert_eq!(text(&answer), expected, "{path}");
            assert_eq!(answer.header("content-type"), Some(taxii(version)), "{path}");
        }
    }
    let of_21 = [
        ("?limit=ten", 400, "invalid literal for int() with base 10: 'ten'"),
        ("?next=stale", 400, "`next` cannot be used: it is too old"),
        ("?next=busy", 503, "Too much is going on"),
        ("?next=hang", 503, "The answer took too long to begin"),
        ("?next=broken", 500, "The server could not answer"),
        ("?next=panic", 500, "The server could not answer"),
    ];
    for (query, status, beginning) in of_21 {
        let answer = server.get(&format!("{objects}{query}")).await;
        assert_eq!(answer.status.as_u16(), status, "{query}");
        let error = answer.json();
        assert_eq!(error.as_object().map(serde_json::Map::len), Some(2), "{query}");
        let description = error["description"].as_str().unwrap_or_default();
        assert!(description.starts_with(&could_not("objects", beginning)), "{query}: {description}");
        assert_eq!(error["title"], json!("Objects Request Error"));
        assert_eq!(answer.header("retry-after").is_some(), status == 503);
    }
}

/// §2.3: OPTIONS comes for free, everything that would write is 405.
#[tokio::test]
async fn methods_of_the_original() {
    let server = of(Xsoar);
    let paths = [
        "/taxii/".to_owned(),
        "/taxii2/".to_owned(),
        "/threatintel".to_owned(),
        format!("{BASE}/"),
        format!("{BASE}/objects/"),
        format!("{BASE}/objects/url--1/"),
        format!("{BASE}/manifest"),
    ];
    for path in &paths {
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let answer = server.request(method, path, &[("accept", TAXII_20)]).await;
            assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, Some("HEAD, OPTIONS, GET")), "{path}");
            assert_eq!(
                text(&answer),
                "{\"description\":\"Only HEAD, OPTIONS, GET are allowed.\",\"title\":\"Method not allowed\"}\n"
            );
        }
        let answer = server.request("OPTIONS", path, &[]).await;
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (200, Some("HEAD, OPTIONS, GET")), "{path}");
        assert_eq!(server.request("HEAD", path, &[]).await.status, 200, "{path}");
    }
    let unknown = server.request("POST", "/threatintel/collections/nobody/objects/", &[]).await;
    assert_eq!(unknown.status, 404);
}

/// §2.4 and §2.12, with the FIX: nothing but the challenge is told to strangers.
#[tokio::test]
async fn strangers_of_the_original() {
    let server = server_with(true, |options| options.profile = Xsoar);
    let (right, wrong) = (basic("ann:secret"), basic("ann:wrong"));
    let strangers: [&[(&str, &str)]; 4] =
        [&[], &[("authorization", "Bearer x")], &[("authorization", &wrong)], &[("accept", "text/html")]];
    for path in ["/taxii/", "/taxii2/", "/threatintel/", &format!("{BASE}/objects/"), "/nowhere/", "/a/b/c/d/e/f"] {
        // One that has not yet seen too many of them.
        let server = server_with(true, |options| options.profile = Xsoar);
        for headers in strangers {
            for method in ["GET", "POST"] {
                let answer = server.request(method, path, headers).await;
                assert_eq!(answer.status, 401, "{path}");
                assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"Authentication Required\""));
                assert_eq!(text(&answer), "{\"title\":\"Authorization failed\"}\n");
            }
        }
        let answer = get(&server, path, &[("authorization", &right), ("accept", TAXII_20)]).await;
        assert_ne!(answer.status, 401, "{path}");
    }
    // In the order of the checks: who, which version, where, what.
    let rows = [
        ("/nowhere/", "text/html", 406),
        ("/nowhere/", TAXII_21, 404),
        ("/threatintel/collections/x/objects/?limit=x", TAXII_21, 404),
        (&format!("{BASE}/objects/?limit=x"), TAXII_21, 400),
    ];
    for (path, accept, status) in rows {
        let answer = get(&server, path, &[("authorization", &right), ("accept", accept)]).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
    }
}

/// A collection may have another profile than the server; what is not of the collection follows the server.
#[tokio::test]
async fn a_collection_has_its_own_profile() {
    for (whole, of_ips) in [(Standard, Xsoar), (Xsoar, Standard)] {
        let server = server_of(true, Some(of_ips), |options| options.profile = whole);
        let right = basic("ann:secret");
        let originals = |answer: &Answer| answer.body.ends_with(b"\n");
        let rows = [
            ("/taxii2/".to_owned(), whole),
            ("/threatintel/collections/".to_owned(), whole),
            ("/threatintel/collections/nobody/".to_owned(), whole),
            ("/nowhere/".to_owned(), whole),
            (format!("{BASE}/"), of_ips),
            ("/threatintel/collections/ips/".to_owned(), of_ips),
            ("/threatintel/collections/%69ps/".to_owned(), of_ips),
            (format!("{BASE}/objects/?limit=x"), of_ips),
            (format!("{BASE}/manifest/?added_after=x"), of_ips),
            (format!("{BASE}/objects/unknown/"), of_ips),
            ("/threatintel/collections/4c649e16-2bb7-50f5-8826-2a2d0a0b9631/".to_owned(), whole),
        ];
        for (path, profile) in rows {
            let answer = get(&server, &path, &[("authorization", &right)]).await;
            assert_eq!(originals(&answer), profile == Xsoar, "{whole:?} {path}: {}", text(&answer));
            let stranger = get(&server, &path, &[]).await;
            assert_eq!((stranger.status.as_u16(), originals(&stranger)), (401, whole == Xsoar), "{path}");
        }
        // In the list every collection has the keys of its own profile.
        let list = get(&server, "/threatintel/collections/", &[("authorization", &right)]).await.json();
        let ips = list["collections"].as_array().and_then(|list| list.iter().find(|entry| entry["id"] == json!(IPS)));
        assert_eq!(ips.map(|entry| entry["alias"].is_string()), Some(of_ips == Standard));
        assert_eq!(ips.map(|entry| entry["description"].is_string()), Some(of_ips == Xsoar));
    }
}

#[tokio::test]
async fn https_only_is_said_over_https_only() {
    let tls = || Some(TlsFiles::new("c", "k"));
    type Change = Box<dyn FnOnce(&mut Options)>;
    let rows: [(Change, bool); 4] = [
        (Box::new(|_| {}), false),
        (Box::new(|options| options.hsts = true), false),
        (Box::new(move |options| options.tls = tls()), false),
        (Box::new(move |options| (options.tls, options.hsts) = (tls(), true)), true),
    ];
    for (change, said) in rows {
        let server = server_with(true, change);
        for path in ["/", "/taxii/", "/nowhere"] {
            let header = get(&server, path, &[]).await.header("strict-transport-security").map(str::to_owned);
            assert_eq!(header.as_deref(), said.then_some("max-age=31536000; includeSubDomains"), "{path}");
        }
    }
}

/// What real clients send (spec/clients.md §2), each getting what it can read.
#[tokio::test]
async fn real_clients_are_understood() {
    let server = server();
    let objects = format!("{BASE}/objects/");
    let rows: [(&str, &str, &[(&str, &str)], u16, &str); 9] = [
        // taxii2-client, module v20: first with `=`, without only after an error.
        ("/taxii/", "", &[("accept", TAXII_20)], 200, TAXII_20),
        (&objects, "", &[("accept", STIX_20), ("range", "items=0-99")], 206, STIX_20),
        (&objects, "", &[("accept", STIX_20), ("range", "items 0-99")], 206, STIX_20),
        // Module v21.
        (
            &objects,
            "?limit=100&match[type]=url&added_after=2024-05-01T00:00:00Z",
            &[("accept", TAXII_21)],
            200,
            TAXII_21,
        ),
        // Elastic: a content type on GET, whole seconds, no slash.
        (
            BASE,
            "/objects?added_after=2024-05-01T00:00:00Z&limit=1000",
            &[("accept", TAXII_21), ("content-type", "application/taxii+json;version=2.1")],
            200,
            TAXII_21,
        ),
        // OpenCTI: `next` and `added_after` together.
        (&objects, "?next=1&added_after=2024-05-01T00:00:00.000Z", &[("accept", TAXII_21)], 200, TAXII_21),
        // Sentinel, as the vendor documents it: TAXII 2.0, with and without a blank.
        (&objects, "?added_after=2024-05-01T00:00:00Z", &[("accept", STIX_20)], 200, STIX_20),
        (
            &objects,
            "",
            &[("accept", "application/vnd.oasis.stix+json;version=2.0"), ("range", "items 0-100")],
            206,
            STIX_20,
        ),
        // MISP: content types in both headers of a GET.
        (&objects, "?limit=50", &[("accept", TAXII_21), ("content-type", TAXII_21)], 200, TAXII_21),
    ];
    for (path, query, headers, status, content_type) in rows {
        let answer = get(&server, &format!("{path}{query}"), headers).await;
        assert_eq!(answer.status.as_u16(), status, "{path}{query} {headers:?}");
        assert_eq!(answer.header("content-type"), Some(content_type), "{path}{query} {headers:?}");
    }
}

/// taxii2-client walks by what `Content-Range` says it got; in either profile it must get every item once.
#[tokio::test]
async fn taxii2_client_misses_nothing() {
    for profile in [Standard, Xsoar] {
        let server = of(profile);
        for total in [0_u64, 1, 5, 7, 2500] {
            // A size between what a page holds and what there is; asked for all at once it takes a part for the whole.
            for mut size in [1_u64, 2, 7, 1000, 2000] {
                if total / size > 500 {
                    continue;
                }
                let (mut start, mut available, mut got) = (0, u64::MAX, Vec::new());
                while start < available {
                    let range = format!("items={start}-{}", start + size - 1);
                    let headers = [("accept", STIX_20), ("range", range.as_str())];
                    let answer = get(&server, &format!("{BASE}/objects/?match[type]={total}"), &headers).await;
                    assert!(answer.status.is_success(), "{profile:?} {total} {range}");
                    let said =
                        answer.header("content-range").and_then(|text| text.strip_prefix("items ")).expect("said");
                    let (items, of) = said.split_once('/').expect("a total");
                    let before = std::mem::replace(&mut available, of.parse().expect("a number"));
                    if let Some((first, last)) = items.split_once('-') {
                        let [first, last]: [u64; 2] = [first, last].map(|number| number.parse().expect("a number"));
                        got.extend(first..=last);
                        // On its first page the client takes the server's size for its own.
                        if before == u64::MAX && last - first + 1 != size && available > size {
                            size = last - first + 1;
                        }
                    }
                    start += size;
                }
                assert!(got.iter().copied().eq(0..total), "{profile:?} {total} {size}: {} items", got.len());
            }
        }
    }
}
