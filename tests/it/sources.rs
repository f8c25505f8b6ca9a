//! Fetching from other servers with the program as it is run: taxiway from taxiway, and from servers that misbehave.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use serde_json::{Value, json};

use crate::support::taxiway;

/// Long enough for anything that ever comes.
const NEVER: Duration = Duration::from_secs(120);

fn run(folder: &Path, arguments: &[&str]) -> Output {
    run_with(folder, arguments, "", &[])
}

fn run_with(folder: &Path, arguments: &[&str], input: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = taxiway(folder);
    command.args(arguments).envs(variables.iter().copied());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a command said that went well.
fn said(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// What a command complained of.
fn complaint(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stderr)
}

fn json_of(folder: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&said(folder, &[arguments, &["--output", "json"]].concat())).unwrap()
}

/// The one report of a fetch, whatever came of it.
fn fetched(folder: &Path, arguments: &[&str]) -> Value {
    let output = run(folder, &[&["source", "fetch"], arguments, &["--output", "json"]].concat());
    let reports: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", text(&output.stdout), text(&output.stderr)));
    reports[0].clone()
}

/// Records that a query finds, by value or id.
fn held(folder: &Path, query: &str) -> BTreeSet<String> {
    let lines = said(folder, &["query", query, "--columns", "value,document", "--output", "json"]);
    let names = lines.lines().map(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        let id = row["document"].as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
        let id = id.and_then(|object| object["id"].as_str().map(str::to_owned));
        id.or_else(|| row["value"].as_str().map(str::to_owned)).unwrap_or_default()
    });
    names.collect()
}

/// A server that ends with its test.
struct Server {
    child: Child,
    url: String,
    admin: String,
    said: Vec<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(folder: &Path) -> Self {
        let mut child = taxiway(folder)
            .arg("serve")
            .env("TAXIWAY_LISTEN", "127.0.0.1:0")
            .env("TAXIWAY_ADMIN_LISTEN", "127.0.0.1:0")
            .env("RUST_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut server = Server { child, url: String::new(), admin: String::new(), said: Vec::new() };
        for line in lines {
            let line = line.unwrap();
            if let Some(url) = line.strip_prefix("monitoring ") {
                server.admin = url.split("/metrics").next().unwrap().to_owned();
            }
            if let Some(url) = line.strip_prefix("listening on ") {
                server.url = url.to_owned();
                return server;
            }
            server.said.push(line);
        }
        panic!("the server ended: {:#?}", server.said);
    }

    fn signal(&self, name: &str) {
        let mut kill = std::process::Command::new("kill");
        assert!(kill.args([format!("-{name}"), self.child.id().to_string()]).status().unwrap().success());
    }
}

/// Lines of XSOAR documents and STIX objects.
fn records(numbers: std::ops::Range<usize>) -> String {
    let line = |number: usize| {
        let id = |kind: &str, number: usize| format!("{kind}--{:08x}-0000-4000-8000-000000000000", number);
        let domain = json!({
            "indicator_type": "Domain", "value": format!("h{number}.example.com"), "score": 3,
            "timestamp": "2024-01-01T00:00:00Z",
        });
        let malware = json!({
            "type": "malware", "spec_version": "2.1", "id": id("malware", number), "name": format!("m{number}"),
            "created": "2024-01-01T00:00:00.000Z", "modified": "2024-01-01T00:00:00.000Z", "is_family": false,
        });
        let uses = json!({
            "type": "relationship", "spec_version": "2.1", "id": id("relationship", number),
            "created": "2024-01-01T00:00:00.000Z", "modified": "2024-01-01T00:00:00.000Z",
            "relationship_type": "related-to", "source_ref": id("malware", number), "target_ref": id("malware", number / 2),
        });
        format!("{domain}\n{malware}\n{uses}\n")
    };
    numbers.map(line).collect()
}

fn import(folder: &Path, lines: &str) {
    std::fs::write(folder.join("records.ndjson"), lines).unwrap();
    said(folder, &["import", "records.ndjson"]);
}

const SERVED: &str = "[[collection]]\ntitle = \"Everything\"\nalias = \"everything\"\nquery = \"\"\n\
    [[collection]]\ntitle = \"Domains\"\nquery = \"type:Domain\"\n";

#[tokio::test]
async fn taxiway_fetches_from_taxiway_and_serves_it_on() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (theirs, ours) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(theirs.path().join("taxiway.toml"), SERVED).unwrap();
    import(theirs.path(), &records(0..40));
    let server = Server::start(theirs.path());
    let ours = ours.path();
    // 2.0 has but the domains, as observed data.
    for (name, version, path, count) in [
        ("New", "2.1", "taxii2/", 120),
        ("Twin", "2.1", "threatintel/collections/everything/objects/", 120),
        ("Old", "2.0", "taxii/", 40),
    ] {
        let url = format!("{}/{path}", server.url);
        let add = ["source", "add", name, &url, "--taxii", version, "--collection", "everything", "--page-size", "7"];
        said(ours, &add);
        let tested = json_of(ours, &["source", "test", name]);
        assert_eq!((&tested["version"], tested["collections"][0]["readable"].as_bool()), (&json!(version), Some(true)));
        let first = fetched(ours, &[name]);
        assert_eq!(first["outcome"], "completed", "{first}");
        assert_eq!((&first["objects"], &first["rejected"], &first["waiting"]), (&json!(count), &json!(0), &json!(0)));
        // The second source brings what is there: nothing is doubled, and each has all of it.
        assert_eq!(first["new"], if name == "Twin" { json!(0) } else { json!(count) }, "{first}");
        assert_eq!(held(ours, &format!("sourceBrands:\"{name}\"")).len(), count);
        let again = fetched(ours, &[name]);
        assert_eq!((&again["outcome"], &again["objects"]), (&json!("completed"), &json!(0)), "{again}");
    }
    assert_eq!(held(ours, "").len(), 160);
    let listed = json_of(ours, &["source", "collections", "New"]);
    let titles: Vec<_> = listed.as_array().unwrap().iter().map(|one| (&one["title"], &one["chosen"])).collect();
    assert!(titles.contains(&(&json!("Everything"), &json!(true))), "{titles:?}");
    assert!(titles.contains(&(&json!("Domains"), &json!(false))), "{titles:?}");
    import(theirs.path(), &records(40..50));
    for (name, objects, new, all) in [("New", 30, 30, 150), ("Twin", 30, 0, 150), ("Old", 10, 10, 50)] {
        let more = fetched(ours, &[name]);
        assert_eq!((&more["objects"], &more["new"]), (&json!(objects), &json!(new)), "{more}");
        assert_eq!(held(ours, &format!("sourceBrands:\"{name}\"")).len(), all);
    }
    // From the start again: all of it comes, and nothing is written.
    let restarted = fetched(ours, &["New", "--restart"]);
    assert_eq!((&restarted["objects"], &restarted["unchanged"]), (&json!(150), &json!(150)), "{restarted}");

    // What was fetched as 2.0 is served as 2.1.
    let config = "[[collection]]\ntitle = \"Old\"\nalias = \"old\"\nquery = 'sourceBrands:\"Old\"'\n";
    std::fs::write(ours.join("taxiway.toml"), config).unwrap();
    let mine = Server::start(ours);
    assert!(mine.said.iter().any(|line| line == "sources    3 (3 on schedule)"), "{:?}", mine.said);
    let url = format!("{}/threatintel/collections/old/objects/?limit=1000", mine.url);
    let page: Value = serde_json::from_str(&reqwest::get(url).await.unwrap().text().await.unwrap()).unwrap();
    let objects = page["objects"].as_array().unwrap().iter();
    let ids: BTreeSet<String> = objects.map(|object| object["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, held(ours, "sourceBrands:Old"));
}

/// What a canned server is asked: the path with its query, and the body.
type Answer = dyn Fn(&str, &str) -> (u16, &'static str, Vec<(&'static str, String)>, String) + Send + Sync;

/// A server of somebody else on a free port.
struct Canned {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Canned {
    fn new(
        answer: impl Fn(&str, &str) -> (u16, &'static str, Vec<(&'static str, String)>, String) + Send + Sync + 'static,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = Arc::clone(&asked);
        let answer: Arc<Answer> = Arc::new(answer);
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(async move |request: Request| {
            let (head, body) = request.into_parts();
            let body: Bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let place = head.uri.path_and_query().unwrap().as_str().to_owned();
            let (status, kind, headers, text) = answer(&place, &String::from_utf8_lossy(&body));
            log.lock().unwrap().push(place);
            let mut response = Response::builder().status(status).header("content-type", kind);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            response.body(Body::from(text)).unwrap()
        });
        runtime.spawn(async move { axum::serve(listener, router).await });
        Canned { url, asked, _runtime: runtime }
    }
}

const TAXII_21: &str = "application/taxii+json;version=2.1";

fn malware(number: usize) -> Value {
    json!({
        "type": "malware", "spec_version": "2.1", "id": format!("malware--{number:08x}-0000-4000-8000-000000000000"),
        "name": "m", "created": "2024-01-01T00:00:00.000Z", "modified": "2024-01-01T00:00:00.000Z", "is_family": false,
    })
}

/// A server of 2.1 with so many objects in pages of ten; `trouble` may answer the request for a page in its place.
fn paged(objects: usize, trouble: impl Fn(usize) -> Option<u16> + Send + Sync + 'static) -> Canned {
    Canned::new(move |place, _| {
        let said = |value: Value| (200, TAXII_21, Vec::new(), value.to_string());
        let path = place.split('?').next().unwrap();
        match path {
            "/taxii2/" => said(json!({ "title": "t", "default": "/root/", "api_roots": ["/root/"] })),
            "/root/" => said(json!({ "title": "r", "versions": [TAXII_21], "max_content_length": 1000 })),
            "/root/collections/c1/" => {
                said(json!({ "id": "c1", "title": "One", "can_read": true, "can_write": false }))
            }
            "/root/collections/" => said(json!({ "collections": [
                { "id": "c1", "title": "One", "can_read": true, "can_write": false, "media_types": ["application/stix+json;version=2.1"] },
                { "id": "c2", "title": "Hidden", "can_read": false, "can_write": false },
            ] })),
            "/root/collections/c1/objects/" => {
                let query = |name: &str| {
                    let pairs = place.split_once('?').map_or("", |(_, query)| query).split('&');
                    pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
                };
                let date = |number: usize| format!("2024-05-01T00:00:00.{number:06}Z");
                let after = query("added_after").map_or(0, |text| {
                    let text = text.replace("%3A", ":");
                    text.rsplit_once('.').unwrap().1.trim_end_matches('Z').parse::<usize>().unwrap()
                });
                let start = query("next").map_or(after, |next| next.parse().unwrap());
                if let Some(status) = trouble(start) {
                    return (status, "text/plain", vec![("retry-after", "7".to_owned())], "trouble".to_owned());
                }
                let end = (start + 10).min(objects);
                let list: Vec<Value> = (start..end).map(malware).collect();
                let mut page = json!({ "more": end < objects });
                if end < objects {
                    page["next"] = json!(end.to_string());
                }
                if list.is_empty() {
                    return said(page);
                }
                page["objects"] = json!(list);
                let dates = vec![("x-taxii-date-added-first", date(start + 1)), ("x-taxii-date-added-last", date(end))];
                (200, TAXII_21, dates, page.to_string())
            }
            _ => (404, "text/plain", Vec::new(), "nothing here".to_owned()),
        }
    })
}

#[test]
fn what_ends_half_way_goes_on_there() {
    let folder = tempfile::tempdir().unwrap();
    let ours = folder.path();
    let broken = Arc::new(AtomicUsize::new(30));
    let at = Arc::clone(&broken);
    let server = paged(75, move |start| (start >= at.load(Ordering::SeqCst)).then_some(503));
    let url = format!("{}/taxii2/", server.url);
    said(ours, &["source", "add", "Feed", &url, "--attempts", "1", "--tag", "seen"]);
    let first = fetched(ours, &["Feed"]);
    assert_eq!((&first["outcome"], &first["objects"], &first["new"]), (&json!("failed"), &json!(30), &json!(30)));
    assert_eq!((&first["transient"], &first["retry_after"]), (&json!(true), &json!(7)), "{first}");
    assert!(first["error"].as_str().unwrap().contains("asks to wait"), "{first}");
    assert_eq!(held(ours, "sourceBrands:Feed and tags:seen").len(), 30);
    let listed = json_of(ours, &["source", "list"]);
    assert_eq!((&listed[0]["status"]["state"], &listed[0]["status"]["failures"]), (&json!("failed"), &json!(1)));

    broken.store(1_000, Ordering::SeqCst);
    let before = server.asked.lock().unwrap().len();
    let second = fetched(ours, &["Feed"]);
    assert_eq!((&second["outcome"], &second["objects"], &second["new"]), (&json!("completed"), &json!(45), &json!(45)));
    let asked = server.asked.lock().unwrap()[before..].join("\n");
    assert!(asked.contains("next=30") || asked.contains("added_after=2024-05-01T00%3A00%3A00.000030Z"), "{asked}");
    assert_eq!(held(ours, "sourceBrands:Feed").len(), 75);

    let shown = json_of(ours, &["source", "show", "Feed"]);
    let places = shown["places"].as_object().unwrap();
    assert_eq!(places.len(), 1);
    assert_eq!(places.values().next().unwrap()["objects"], 75);
    let log = json_of(ours, &["source", "log", "Feed"]);
    let outcomes: Vec<&Value> = log.as_array().unwrap().iter().map(|report| &report["outcome"]).collect();
    assert_eq!(outcomes, ["completed", "failed"]);
}

#[test]
fn a_limit_of_objects_ends_a_fetch_and_the_next_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let ours = folder.path();
    let server = paged(45, |_| None);
    let url = format!("{}/root/collections/c1/", server.url);
    said(ours, &["source", "add", "Feed", &url, "--objects-per-fetch", "20", "--manual"]);
    for (objects, all) in [(20, 20), (20, 40), (5, 45), (0, 45)] {
        let report = fetched(ours, &["Feed"]);
        assert_eq!((&report["outcome"], &report["objects"]), (&json!("completed"), &json!(objects)), "{report}");
        assert_eq!(held(ours, "sourceBrands:Feed").len(), all);
    }
    // Removed and added again, it begins anew, and finds everything there.
    said(ours, &["source", "remove", "Feed"]);
    assert!(complaint(ours, &["source", "show", "Feed"]).contains("no source `Feed`"));
    assert_eq!(held(ours, "sourceBrands:Feed").len(), 45, "what was fetched stays");
    said(ours, &["source", "add", "Feed", &url]);
    let report = fetched(ours, &["Feed"]);
    assert_eq!((&report["objects"], &report["unchanged"]), (&json!(45), &json!(45)), "{report}");
}

/// A server of 1.1 with a feed of so many packages.
fn polled(packages: usize) -> Canned {
    const NS: &str = "http://taxii.mitre.org/messages/taxii_xml_binding-1.1";
    let url: Arc<Mutex<String>> = Arc::default();
    let own = Arc::clone(&url);
    let server = Canned::new(move |_, body| {
        let base = own.lock().unwrap().clone();
        let said = |text: String| {
            let headers = vec![("x-taxii-content-type", "urn:taxii.mitre.org:message:xml:1.1".to_owned())];
            (200, "application/xml", headers, text)
        };
        let bindings = |kind: &str, path: &str| {
            format!(
                "<t:{kind}><t:Protocol_Binding>urn:taxii.mitre.org:protocol:http:1.0</t:Protocol_Binding><t:Address>{base}/{path}</t:Address>\
                 <t:Message_Binding>urn:taxii.mitre.org:message:xml:1.1</t:Message_Binding></t:{kind}>"
            )
        };
        if body.contains("Discovery_Request") {
            let service = |kind: &str, path: &str| {
                format!(
                    "<t:Service_Instance service_type=\"{kind}\" service_version=\"urn:taxii.mitre.org:services:1.1\" available=\"true\">\
                     <t:Protocol_Binding>urn:taxii.mitre.org:protocol:http:1.0</t:Protocol_Binding><t:Address>{base}/{path}</t:Address>\
                     <t:Message_Binding>urn:taxii.mitre.org:message:xml:1.1</t:Message_Binding></t:Service_Instance>"
                )
            };
            let services = service("COLLECTION_MANAGEMENT", "list") + &service("POLL", "poll");
            return said(format!(
                "<t:Discovery_Response xmlns:t=\"{NS}\" message_id=\"1\" in_response_to=\"2\">{services}</t:Discovery_Response>"
            ));
        }
        if body.contains("Collection_Information_Request") {
            return said(format!(
                "<t:Collection_Information_Response xmlns:t=\"{NS}\" message_id=\"1\" in_response_to=\"2\">\
                 <t:Collection collection_name=\"feed\" collection_type=\"DATA_FEED\" available=\"true\"><t:Description>d</t:Description>{}</t:Collection>\
                 </t:Collection_Information_Response>",
                bindings("Polling_Service", "poll")
            ));
        }
        let block = |number: usize| {
            format!(
                "<t:Content_Block><t:Content_Binding binding_id=\"urn:stix.mitre.org:xml:1.2\"/><t:Content>\
                 <stix:STIX_Package id=\"ex:p{number}\" version=\"1.2\"><stix:Indicators><stix:Indicator id=\"ex:i{number}\" timestamp=\"2024-05-01T00:00:00Z\" xsi:type=\"indicator:IndicatorType\">\
                 <indicator:Observable><cybox:Object><cybox:Properties xsi:type=\"A:AddressObjectType\"><A:Address_Value>198.51.100.{number}</A:Address_Value></cybox:Properties></cybox:Object></indicator:Observable>\
                 </stix:Indicator></stix:Indicators></stix:STIX_Package></t:Content><t:Timestamp_Label>2024-05-02T00:00:00.000001Z</t:Timestamp_Label></t:Content_Block>"
            )
        };
        let is_increment = body.contains("Exclusive_Begin_Timestamp");
        let blocks: String = (0..packages).filter(|_| !is_increment).map(block).collect();
        said(format!(
            "<t:Poll_Response xmlns:t=\"{NS}\" xmlns:stix=\"http://stix.mitre.org/stix-1\" xmlns:indicator=\"http://stix.mitre.org/Indicator-2\" \
             xmlns:cybox=\"http://cybox.mitre.org/cybox-2\" xmlns:A=\"http://cybox.mitre.org/objects#AddressObject-2\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
             message_id=\"1\" in_response_to=\"2\" collection_name=\"feed\" more=\"false\"><t:Inclusive_End_Timestamp>2024-05-03T00:00:00Z</t:Inclusive_End_Timestamp>{blocks}</t:Poll_Response>"
        ))
    });
    url.lock().unwrap().clone_from(&server.url);
    server
}

#[test]
fn feeds_of_1x_become_indicators_of_their_source() {
    let folder = tempfile::tempdir().unwrap();
    let ours = folder.path();
    let server = polled(25);
    let url = format!("{}/discovery", server.url);
    said(ours, &["source", "add", "Ones", &url, "--taxii", "1", "--score", "bad", "--every", "12h"]);
    let report = fetched(ours, &["Ones"]);
    assert_eq!(
        (&report["outcome"], &report["version"], &report["new"]),
        (&json!("completed"), &json!("1.1"), &json!(25))
    );
    let found = held(ours, "sourceBrands:Ones and type:IP and verdict:malicious");
    assert_eq!(found.len(), 25);
    assert!(found.contains("198.51.100.7"));
    let again = fetched(ours, &["Ones"]);
    assert_eq!((&again["outcome"], &again["objects"]), (&json!("completed"), &json!(0)), "{again}");
}

#[test]
fn secrets_come_from_anywhere_but_arguments_and_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let ours = folder.path();
    let refused = complaint(ours, &["source", "add", "A", "https://ann:pass-1@a.example/taxii2/"]);
    assert!(refused.contains("--password-file") && !refused.contains("pass-1"), "{refused}");
    let asked = complaint(ours, &["source", "add", "A", "https://a.example/taxii2/", "--user", "ann"]);
    assert!(asked.contains("`--password-file FILE`") && asked.contains("TAXIWAY_SOURCE_PASSWORD"), "{asked}");

    let add = ["source", "add", "A", "https://a.example/taxii2/?key=pass-2", "--user", "ann"];
    let variables = [("TAXIWAY_SOURCE_PASSWORD", "pass-3")];
    let added = run_with(ours, &[&add[..], &["--output", "json"]].concat(), "", &variables);
    assert!(added.status.success(), "{}", text(&added.stderr));
    let add = ["source", "add", "B", "b.example", "--token-file", "-", "--proxy", "socks5h://p.example:1080"];
    let added_b = run_with(ours, &add, "pass-4\nrest\n", &[]);
    assert!(added_b.status.success(), "{}", text(&added_b.stderr));
    std::fs::write(ours.join("secret"), "pass-5\n").unwrap();
    said(
        ours,
        &["source", "edit", "B", "--api-key", "X-Key", "--api-key-file", "secret", "--no-proxy", "--every", "15m"],
    );

    let mut everything = text(&added.stdout) + &text(&added_b.stdout);
    for arguments in [&["source", "list"][..], &["source", "show", "A"], &["source", "show", "B"]] {
        everything += &said(ours, arguments);
        everything += &json_of(ours, arguments).to_string();
    }
    everything += &std::fs::read_to_string(ours.join("taxiway-data/sources/sources.json")).unwrap();
    assert!(!everything.contains("pass-"), "{everything}");
    let shown = json_of(ours, &["source", "show", "B"]);
    assert_eq!(shown["url"], "https://b.example/");
    assert_eq!(shown["credentials"]["api_key"], json!({ "header": "X-Key", "key": "********" }));
    assert_eq!(
        (&shown["interval"], &shown["proxy"], &shown["revision"]),
        (&json!("15 minutes"), &Value::Null, &json!(2))
    );

    let wrong = complaint(ours, &["source", "add", "C*", "ftp://c.example/", "--page-size", "0"]);
    for part in ["`name` holds", "`url` must begin", "`page_size` must be"] {
        assert!(wrong.contains(part), "{wrong}");
    }
    assert!(complaint(ours, &["source", "add", "b", "https://b.example/"]).contains("already"));
    assert!(complaint(ours, &["source", "fetch", "Z"]).contains("`taxiway source list`"));
    assert_eq!(run(ours, &["source", "edit", "B", "--every", "soon"]).status.code(), Some(2));
}

/// What monitoring says of a number.
async fn told(server: &Server, name: &str, source: &str) -> f64 {
    let text = reqwest::get(format!("{}/metrics", server.admin)).await.unwrap().text().await.unwrap();
    let start = format!("{name}{{source=\"{source}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok()).unwrap_or(-1.0)
}

/// Asks until it is so.
async fn until(server: &Server, name: &str, source: &str, wanted: impl Fn(f64) -> bool) -> f64 {
    let began = Instant::now();
    loop {
        let found = told(server, name, source).await;
        if wanted(found) {
            return found;
        }
        assert!(began.elapsed() < NEVER, "`{name}` of `{source}` is {found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_fetches_on_schedule_and_goes_on_after_it_ended() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let ours = folder.path().to_owned();
    let good = tokio::task::spawn_blocking(|| paged(45, |_| None)).await.unwrap();
    let bad = tokio::task::spawn_blocking(|| paged(45, |start| (start >= 20).then_some(500))).await.unwrap();
    let config = format!(
        "[[source]]\nname = \"Good\"\nurl = \"{}/taxii2/\"\ninterval = \"1h\"\n\
         [[source]]\nname = \"Bad\"\nurl = \"{}/taxii2/\"\n[source.limits]\nattempts = 1\n",
        good.url, bad.url
    );
    std::fs::write(ours.join("taxiway.toml"), &config).unwrap();
    let server = Server::start(&ours);
    until(&server, "taxiway_source_last_success_timestamp_seconds", "Good", |found| found > 0.0).await;
    until(&server, "taxiway_source_fetch_failures_total", "Bad", |found| found == 1.0).await;
    assert_eq!(told(&server, "taxiway_source_objects_total", "Good").await, 45.0);
    assert_eq!(told(&server, "taxiway_source_up", "Good").await, 1.0);
    assert_eq!(told(&server, "taxiway_source_up", "Bad").await, 0.0);
    assert_eq!(held(&ours, "sourceBrands:Good").len(), 45);

    // Those of the configuration are changed there; pausing works for all, and the server sees it.
    assert!(complaint(&ours, &["source", "edit", "Good", "--every", "2h"]).contains("is in the configuration"));
    said(&ours, &["source", "pause", "Good"]);
    until(&server, "taxiway_source_active", "Good", |found| found == 0.0).await;
    said(&ours, &["source", "resume", "Good"]);
    until(&server, "taxiway_source_active", "Good", |found| found == 1.0).await;

    // Another one comes by command, without a restart; another one by the configuration, on SIGHUP.
    let url = format!("{}/root/collections/c1/objects/", good.url);
    said(&ours, &["source", "add", "Later", &url]);
    until(&server, "taxiway_source_fetches_total", "Later", |found| found == 1.0).await;
    std::fs::write(ours.join("taxiway.toml"), config.replace("\"Bad\"", "\"Third\"")).unwrap();
    server.signal("HUP");
    until(&server, "taxiway_source_fetches_total", "Third", |found| found >= 1.0).await;
    assert_eq!(told(&server, "taxiway_source_up", "Bad").await, -1.0, "a source that is gone is not told of");

    // SIGKILL, then again: what was fetched is not fetched again.
    server.signal("KILL");
    drop(server);
    let asked = good.asked.lock().unwrap().len();
    let server = Server::start(&ours);
    until(&server, "taxiway_source_active", "Good", |found| found == 1.0).await;
    let mut server = server;
    server.signal("TERM");
    assert!(server.child.wait().unwrap().success());
    assert_eq!(good.asked.lock().unwrap().len(), asked, "not due for an hour");
    let log = json_of(&ours, &["source", "log", "Good"]);
    assert_eq!(log[0]["trigger"], "schedule");
    tokio::task::spawn_blocking(move || drop((good, bad))).await.unwrap();
}

#[test]
fn nobody_fetches_a_source_twice_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let ours = folder.path();
    let (reached, waits) = std::sync::mpsc::sync_channel::<()>(1);
    let (go, held_up) = std::sync::mpsc::sync_channel::<()>(1);
    let held_up = Mutex::new(held_up);
    let server = paged(45, move |start| {
        if start == 20 && reached.try_send(()).is_ok() {
            let _ = held_up.lock().unwrap().recv_timeout(NEVER);
        }
        None
    });
    said(ours, &["source", "add", "Slow", &format!("{}/taxii2/", server.url)]);
    let first =
        taxiway(ours).args(["source", "fetch", "Slow", "--output", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    waits.recv_timeout(NEVER).unwrap();
    assert!(complaint(ours, &["source", "fetch", "Slow"]).contains("being fetched already"));
    assert_eq!(json_of(ours, &["source", "list"])[0]["status"]["state"], "running");
    assert!(complaint(ours, &["source", "remove", "Slow"]).contains("being fetched already"));
    // What has come is committed while the server is silent.
    let began = Instant::now();
    while held(ours, "sourceBrands:Slow").len() < 20 {
        assert!(began.elapsed() < NEVER);
    }
    go.send(()).unwrap();
    let output = first.wait_with_output().unwrap();
    assert!(output.status.success());
    let reports: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(reports[0]["objects"], 45);
    assert_eq!(held(ours, "sourceBrands:Slow").len(), 45);
}
