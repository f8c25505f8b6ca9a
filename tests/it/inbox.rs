//! What clients post, over real sockets: taken in, given back as it came, answered for, deleted (TAXII 2.1 §5.5, §5.7, §4.3; TAXII
//! 2.0 §5.5).

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;

use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use taxiway::feed::collection::{Catalog, CollectionSpec, Options as CollectionOptions, QueryText};
use taxiway::feed::{FeedOptions, StoreFeed};
use taxiway::inbox::{Inbox, InboxOptions};
use taxiway::serve::{self, App, Live, bind};
use taxiway::store::{CompactOptions, Store};
use tokio::sync::oneshot;

use crate::support::{import, indicator, listening, options, taxiway};

const BOX: &str = "6f1d7a52-0c3e-4b7f-9a0e-2d8f3b1c5a77";
const OTHER: &str = "0b7c1f6e-55d1-4c5b-8a39-91f3f6c2d014";
const ALL: &str = "2f3f6a34-6a0e-4d0c-9c1b-6f0a4d8c7e21";
const UUID: &str = "0f9a5f1c-3f2b-4bb4-9d0e-4d6a1f0c9a11";
const TAXII_21: &str = "application/taxii+json;version=2.1";
const TAXII_20: &str = "application/vnd.oasis.taxii+json; version=2.0";
const STIX_20: &str = "application/vnd.oasis.stix+json; version=2.0";

/// A server over a store in a folder, for two inboxes and a collection of everything else.
struct Server {
    url: String,
    store: Store,
    client: Client,
    stop: Option<oneshot::Sender<()>>,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl Server {
    async fn start(folder: &Path) -> Self {
        Self::with(folder, |_| ()).await
    }

    async fn with(folder: &Path, change: impl FnOnce(&mut serve::Options)) -> Self {
        let store = Store::open_or_create(options(folder)).unwrap();
        let inbox = |title: &str, id: &str| CollectionSpec {
            id: Some(id.to_owned()),
            inbox: true,
            alias: Some(title.to_lowercase()),
            ..CollectionSpec::new(title, QueryText::Xsoar(String::new()))
        };
        let all =
            CollectionSpec { id: Some(ALL.to_owned()), ..CollectionSpec::new("All", QueryText::Xsoar(String::new())) };
        let specs = [inbox("Partners", BOX), inbox("Others", OTHER), all];
        let built = specs.iter().map(|spec| spec.build(store.ids(), &CollectionOptions::default()).unwrap());
        let catalog = Catalog::new(built.collect()).unwrap();
        let feed_options = FeedOptions { threads: 2, match_rows: 3, small_page_rows: 2, ..FeedOptions::default() };
        let feed = StoreFeed::new(store.clone(), catalog, &feed_options).unwrap();
        let mut options = serve::Options { listen: "127.0.0.1:0".parse().unwrap(), ..serve::Options::default() };
        options.auth.users = folder.join("users.json");
        change(&mut options);
        let inbox = Inbox::open(&store, InboxOptions::default()).unwrap();
        let live = Live::new(App::new(Arc::new(feed), options.clone()).unwrap(), None);
        live.take_posts(inbox);
        let bound = bind(&options).unwrap();
        let url = bound.url();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(async move {
            let stop = async { drop(stopped.await) };
            bound.run(live, stop, std::future::pending()).await.unwrap();
        });
        Server { url, store, client: client(), stop: Some(stop), running: Some(running) }
    }

    async fn stop(mut self) {
        // Kept connections would hold the server up.
        self.client = client();
        drop(self.stop.take());
        self.running.take().unwrap().await.unwrap();
    }

    fn at(&self, path: &str) -> String {
        format!("{}/threatintel/{path}", self.url)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Response {
        let mut request = self.client.request(method, self.at(path)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    async fn post_text(&self, collection: &str, text: impl Into<reqwest::Body>) -> (u16, Value) {
        let headers = [("accept", TAXII_21), ("content-type", TAXII_21)];
        let answer = self.send(Method::POST, &format!("collections/{collection}/objects/"), &headers, text).await;
        let status = answer.status().as_u16();
        (status, read(answer).await)
    }

    /// The status resource.
    async fn post(&self, objects: &[Value]) -> Value {
        let (code, status) = self.post_text(BOX, json!({ "objects": objects }).to_string()).await;
        assert_eq!(code, 202, "{status}");
        status
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.send(Method::GET, path, &[("accept", TAXII_21)], "").await;
        (answer.status().as_u16(), read(answer).await)
    }

    /// The objects of the inbox.
    async fn objects(&self, query: &str) -> Vec<Value> {
        let (code, page) = self.get(&format!("collections/{BOX}/objects/?{query}")).await;
        assert_eq!(code, 200, "{page}");
        page["objects"].as_array().cloned().unwrap_or_default()
    }

    async fn delete(&self, id: &str, query: &str) -> u16 {
        let path = format!("collections/{BOX}/objects/{id}/?{query}");
        let answer = self.send(Method::DELETE, &path, &[("accept", TAXII_21)], "").await;
        let code = answer.status().as_u16();
        assert_eq!(answer.headers()["content-type"], TAXII_21);
        assert_eq!(answer.bytes().await.unwrap().is_empty(), code == 200);
        code
    }

    /// Versions of an object, sorted; empty: it is not there.
    async fn versions(&self, id: &str) -> Vec<String> {
        let (code, page) = self.get(&format!("collections/{BOX}/objects/{id}/versions/")).await;
        assert!(matches!(code, 200 | 404), "{page}");
        let versions = page["versions"].as_array().cloned().unwrap_or_default();
        let mut versions: Vec<String> = versions.iter().map(|version| version.as_str().unwrap().to_owned()).collect();
        // They come in the order they were added.
        versions.sort();
        versions
    }
}

fn client() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::new()
}

async fn read(answer: Response) -> Value {
    let text = answer.text().await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn id(number: usize) -> String {
    format!("x-note--{number:08}{}", &UUID[8..])
}

/// An object of which only the id and the version tell anything.
fn note(number: usize, day: usize) -> Value {
    json!({
        "type": "x-note", "id": id(number), "spec_version": "2.1", "created": "2024-01-01T00:00:00.000Z",
        "modified": format!("2024-01-{day:02}T00:00:00.000Z"), "text": format!("{number} on day {day}"),
    })
}

fn day(day: usize) -> String {
    format!("2024-01-{day:02}T00:00:00.000Z")
}

fn counts(status: &Value) -> [u64; 4] {
    ["total_count", "success_count", "failure_count", "pending_count"].map(|key| status[key].as_u64().unwrap())
}

fn ids(objects: &[Value]) -> Vec<String> {
    objects.iter().map(|object| object["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_posted_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path()).await;
    import(&server.store, &[indicator("IP", "198.51.100.1", 1, &[])]);
    // Unknown keys, odd spellings of numbers, escapes, nesting, order of keys.
    let odd = format!(
        r#"{{"x_z":1.50e+3,"type":"x-odd","id":"x-odd--{UUID}","x_a":[{{}},[],"\u00e9\\/"],"spec_version":"2.1","modified":"2024-01-02T00:00:00.1Z"}}"#
    );
    let relationship = json!({
        "type": "relationship", "id": format!("relationship--{UUID}"), "spec_version": "2.1",
        "created": day(1), "modified": day(1), "relationship_type": "x", "source_ref": id(1), "target_ref": id(99),
    });
    let (code, status) =
        server.post_text(BOX, format!("{{\"objects\":[{},{odd},{relationship},{}]}}", note(2, 1), note(1, 1))).await;
    assert_eq!(code, 202);
    assert_eq!(counts(&status), [4, 4, 0, 0]);
    assert_eq!(status["status"], "complete");
    assert!(status.get("failures").is_none() && status.get("pendings").is_none(), "{status}");
    assert_eq!(status["successes"][0], json!({"id": id(2), "version": "2024-01-01T00:00:00.000000Z"}));

    let answer = server.send(Method::GET, &format!("collections/{BOX}/objects/"), &[("accept", TAXII_21)], "").await;
    let text = answer.text().await.unwrap();
    assert!(text.contains(&odd), "{text}");
    // In the order they were posted, the relationship without waiting for an end that never comes.
    let expected = [id(2), format!("x-odd--{UUID}"), format!("relationship--{UUID}"), id(1)];
    assert_eq!(ids(&server.objects("").await), expected);
    let (_, manifest) = server.get(&format!("collections/{BOX}/manifest/")).await;
    let added: Vec<&str> =
        manifest["objects"].as_array().unwrap().iter().map(|record| record["date_added"].as_str().unwrap()).collect();
    assert!(added.windows(2).all(|pair| pair[0] < pair[1]), "{added:?}");

    // Inboxes and the rest of the store do not see each other.
    let (_, other) = server.get(&format!("collections/{OTHER}/objects/")).await;
    assert_eq!(other, json!({"more": false}));
    let (_, all) = server.get(&format!("collections/{ALL}/objects/")).await;
    let types: Vec<&str> =
        all["objects"].as_array().unwrap().iter().map(|object| object["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["ipv4-addr"]);

    // The status, by who posted it where it was posted.
    let path = format!("status/{}/", status["id"].as_str().unwrap());
    assert_eq!(server.get(&path).await, (200, status));
    assert_eq!(server.get(&format!("status/{UUID}/")).await.0, 404);
    assert_eq!(server.get("status/none/").await.0, 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_post_again_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path()).await;
    let plain = json!({"type": "ipv4-addr", "id": format!("ipv4-addr--{UUID}"), "spec_version": "2.1", "value": "198.51.100.1"});
    let all = [note(1, 2), note(1, 1), note(1, 3), note(2, 1), plain];
    let first = server.post(&all).await;
    let version = server.store.snapshot().unwrap().version();
    let second = server.post(&all).await;
    assert_eq!(second["successes"], first["successes"]);
    assert_ne!(second["id"], first["id"]);
    assert_eq!(server.store.reload().unwrap().version(), version, "nothing was written");
    assert_eq!(counts(&second), [5, 5, 0, 0]);
    assert_eq!(server.versions(&id(1)).await, [day(1), day(2), day(3)].map(|day| day.replace(".000Z", ".000000Z")));
    let newest: Vec<Value> = server.objects("").await;
    assert_eq!(newest[0]["modified"], day(3));
    assert_eq!(newest.len(), 3);
    // The same object in another inbox is another record.
    let (code, _) = server.post_text(OTHER, json!({"objects": [note(1, 1)]}).to_string()).await;
    assert_eq!(code, 202);
    let (_, other) = server.get(&format!("collections/{OTHER}/objects/")).await;
    assert_eq!(other["objects"][0]["modified"], day(1));
    assert_eq!(server.objects("").await, newest);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_objects_fail_alone_and_bad_bodies_whole() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path()).await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let text = format!(
        "{{\"x_mine\":1,\"more\":true,\"objects\":[{},1,{{\"type\":\"x-note\"}},{{\"type\":\"x-note\",\"id\":\"{}\",\"a\":{deep}}},{}]}}",
        note(1, 1),
        id(3),
        note(2, 1)
    );
    let (code, status) = server.post_text(BOX, text).await;
    assert_eq!((code, counts(&status)), (202, [5, 2, 3, 0]));
    let failures = status["failures"].as_array().unwrap();
    let failed: Vec<(&str, &str)> =
        failures.iter().map(|one| (one["id"].as_str().unwrap(), one["message"].as_str().unwrap())).collect();
    let expected = [
        ("objects[1]", "not a JSON object"),
        ("objects[2]", "a STIX object without `id`"),
        ("objects[3]", "nested deeper than 128 levels"),
    ];
    assert_eq!(failed, expected);
    assert!(failures.iter().all(|one| one["version"].is_string()));
    assert_eq!(ids(&server.objects("").await), [id(1), id(2)]);

    let deep_body = deep.clone();
    let bodies: Vec<(Vec<u8>, u16, &str)> = vec![
        (b"{\"objects\":[{]}".to_vec(), 422, "line 1, column 14"),
        (b"{\"objects\":\xff}".to_vec(), 422, "not UTF-8 (line 1, column 12)"),
        (b"".to_vec(), 422, "the body is empty"),
        (deep_body.into_bytes(), 422, "not a JSON object"),
        (b"[]".to_vec(), 422, "not a JSON object"),
        (b"{\"objects\":{}}".to_vec(), 422, "`objects` is not a list"),
        (note(1, 1).to_string().into_bytes(), 422, "put it into an envelope"),
    ];
    for (body, expected, part) in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(100)]).into_owned();
        let (code, error) = server.post_text(BOX, body).await;
        assert_eq!(code, expected, "{shown}: {error}");
        let description = error["description"].as_str().unwrap().to_lowercase();
        assert!(description.contains(&part.to_lowercase()), "{shown}: {description}");
    }
    let (code, status) = server.post_text(BOX, "{}").await;
    assert_eq!((code, counts(&status)), (202, [0, 0, 0, 0]));

    // Where and how one may post.
    let json_body = json!({"objects": [note(1, 1)]}).to_string();
    for (content_type, collection, expected) in [
        (TAXII_21, BOX, 202),
        ("Application/Taxii+JSON ; version=2.1", "partners", 202),
        ("application/json", BOX, 202),
        ("text/plain", BOX, 415),
        (STIX_20, BOX, 415),
        (TAXII_21, ALL, 403),
        (TAXII_21, "nothing", 404),
    ] {
        let headers = [("accept", TAXII_21), ("content-type", content_type)];
        let path = format!("collections/{collection}/objects/");
        let answer = server.send(Method::POST, &path, &headers, json_body.clone()).await;
        assert_eq!(answer.status().as_u16(), expected, "{content_type} {collection}");
    }
    let path = format!("collections/{ALL}/objects/{}/", id(1));
    assert_eq!(server.send(Method::DELETE, &path, &[("accept", TAXII_21)], "").await.status().as_u16(), 403);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_is_gone_and_the_version_before_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path()).await;
    let full = |number: usize| day(number).replace(".000Z", ".000000Z");
    // Per case: what is asked for, the answer, the versions that are left.
    let cases: [(&str, u16, &[usize]); 9] = [
        ("", 200, &[1, 2, 3]),
        ("match[version]=last", 200, &[1, 2, 3]),
        ("match[version]=first", 200, &[2, 3, 4]),
        ("match[version]=first,last", 200, &[2, 3]),
        ("match[version]=2024-01-02T00:00:00Z", 200, &[1, 3, 4]),
        ("match[version]=2024-01-02T00:00:00Z,2024-01-04T00:00:00.000Z", 200, &[1, 3]),
        ("match[version]=all", 200, &[]),
        ("match[version]=all&match[spec_version]=2.0", 404, &[1, 2, 3, 4]),
        ("match[version]=2020-01-01T00:00:00Z", 404, &[1, 2, 3, 4]),
    ];
    for (number, _) in cases.iter().enumerate() {
        server.post(&[note(number, 1)]).await;
        server.post(&[note(number, 3), note(number, 4)]).await;
        server.post(&[note(number, 2)]).await;
    }
    for (number, (query, expected, left)) in cases.iter().enumerate() {
        assert_eq!(server.delete(&id(number), query).await, *expected, "{query}");
        let versions: Vec<String> = left.iter().map(|number| full(*number)).collect();
        assert_eq!(server.versions(&id(number)).await, versions, "{query}");
        let (code, object) = server.get(&format!("collections/{BOX}/objects/{}/", id(number))).await;
        match left.last() {
            Some(newest) => assert_eq!(object["objects"][0]["modified"], day(*newest), "{query}"),
            None => assert_eq!(code, 404, "{query}"),
        }
    }
    let expected: Vec<(String, String)> =
        cases.iter().enumerate().filter_map(|(number, (_, _, left))| Some((id(number), day(*left.last()?)))).collect();
    for after in ["as it is", "after a restart", "after compaction"] {
        let objects = server.objects("").await;
        let mut found: Vec<(String, String)> = objects
            .iter()
            .map(|object| (object["id"].as_str().unwrap().to_owned(), object["modified"].as_str().unwrap().to_owned()))
            .collect();
        found.sort();
        assert_eq!(found, expected, "{after}");
        let (_, manifest) = server.get(&format!("collections/{BOX}/manifest/?match[version]=all")).await;
        let listed = manifest["objects"].as_array().unwrap().len();
        assert_eq!(listed, cases.iter().map(|(_, _, left)| left.len()).sum::<usize>(), "{after}");
        if after == "as it is" {
            server.stop().await;
            server = Server::start(folder.path()).await;
        } else {
            server.store.compact(&CompactOptions::default()).unwrap();
        }
    }
    for (wrong, code) in [(id(77), 404), (id(6), 404), ("none".to_owned(), 404)] {
        assert_eq!(server.delete(&wrong, "").await, code, "{wrong}");
    }
    for query in ["match[version]=soon", "match[version]=all&match[version]=all", "match[version]=all,last"] {
        assert_eq!(server.delete(&id(0), query).await, 400, "{query}");
    }
    // What was deleted may be posted again.
    server.post(&[note(6, 2)]).await;
    assert_eq!(server.versions(&id(6)).await, [full(2)]);
    assert!(server.store.check(|_| ()).unwrap().problems.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn taxii_20_posts_bundles() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path()).await;
    let old = |number: usize| {
        let mut old = note(number, 1);
        old.as_object_mut().unwrap().remove("spec_version");
        old
    };
    let bundle = |version: &str| json!({"type": "bundle", "id": format!("bundle--{UUID}"), "spec_version": version, "objects": [old(1), note(2, 1), old(3)]});
    let post = async |headers: &[(&str, &str)], body: String| {
        let answer = server.send(Method::POST, &format!("collections/{BOX}/objects/"), headers, body).await;
        assert_eq!(answer.headers()["content-type"], TAXII_20);
        (answer.status().as_u16(), read(answer).await)
    };
    let headers = [("accept", TAXII_20), ("content-type", STIX_20)];
    let (code, status) = post(&headers, bundle("2.0").to_string()).await;
    assert_eq!((code, counts(&status)), (202, [3, 2, 1, 0]));
    assert_eq!(status["successes"], json!([id(1), id(3)]));
    let failure = &status["failures"][0];
    assert_eq!(failure["id"], id(2));
    assert!(failure["message"].is_string() && failure.get("version").is_none(), "{failure}");
    let path = format!("status/{}/", status["id"].as_str().unwrap());
    let again = server.send(Method::GET, &path, &[("accept", TAXII_20)], "").await;
    assert_eq!(read(again).await, status);

    assert_eq!(post(&headers, bundle("2.1").to_string()).await.0, 422);
    assert_eq!(post(&headers, json!({"objects": [old(1)]}).to_string()).await.0, 422);
    assert_eq!(post(&[("accept", TAXII_20), ("content-type", TAXII_21)], bundle("2.0").to_string()).await.0, 415);
    let delete = server
        .send(Method::DELETE, &format!("collections/{BOX}/objects/{}/", id(1)), &[("accept", TAXII_20)], "")
        .await;
    assert_eq!(delete.status().as_u16(), 405);

    let page = server.send(Method::GET, &format!("collections/{BOX}/objects/"), &[("accept", STIX_20)], "").await;
    assert_eq!(ids(read(page).await["objects"].as_array().unwrap()), [id(1), id(3)]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_are_each_taken_once_into_few_segments() {
    const TASKS: usize = 16;
    const POSTS: usize = 8;
    let folder = tempfile::tempdir().unwrap();
    let server = Arc::new(Server::start(folder.path()).await);
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                let mut statuses = Vec::new();
                for post in 0..POSTS {
                    // Every object comes from two tasks.
                    let objects: Vec<Value> = (0..5).map(|n| note(((task / 2) * POSTS + post) * 5 + n, 1)).collect();
                    let status = server.post(&objects).await;
                    assert_eq!(counts(&status), [5, 5, 0, 0]);
                    statuses.push(status);
                }
                statuses
            })
        })
        .collect();
    let mut statuses = Vec::new();
    for task in tasks {
        statuses.extend(task.await.unwrap());
    }
    let expected: BTreeSet<String> = (0..TASKS / 2 * POSTS * 5).map(id).collect();
    let objects = server.objects("match[version]=all").await;
    assert_eq!(objects.len(), expected.len());
    assert_eq!(ids(&objects).into_iter().collect::<BTreeSet<_>>(), expected);
    let segments = server.store.reload().unwrap().segments().len();
    assert!(segments <= TASKS * POSTS / 2, "{segments} segments of {} posts", TASKS * POSTS);

    // All that was acknowledged is there after a restart, statuses as well.
    Arc::into_inner(server).unwrap().stop().await;
    let server = Server::start(folder.path()).await;
    assert_eq!(server.objects("match[version]=all").await, objects);
    for status in statuses {
        let path = format!("status/{}/", status["id"].as_str().unwrap());
        assert_eq!(server.get(&path).await, (200, status));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_post_is_taken_whole() {
    const OBJECTS: usize = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path()).await;
    let objects: Vec<Value> = (0..OBJECTS).map(|number| note(number, 1)).collect();
    let status = server.post(&objects).await;
    assert_eq!(counts(&status), [OBJECTS as u64, OBJECTS as u64, 0, 0]);
    let listed = ids(status["successes"].as_array().unwrap());
    let expected: Vec<String> = (0..OBJECTS).map(id).collect();
    assert_eq!(listed, expected);
    assert_eq!(ids(&server.objects(&format!("limit={OBJECTS}")).await), expected);
    server.stop().await;
}

/// `taxiway serve` in a process of its own, to be killed.
fn served(folder: &Path) -> (Child, String) {
    let mut server = taxiway(folder);
    server.arg("serve").env("TAXIWAY_LISTEN", "127.0.0.1:0").env("RUST_LOG", "warn");
    let mut child = server.stdout(Stdio::piped()).spawn().unwrap();
    let (_, url) = listening(&mut child);
    (child, url)
}

/// A kill in the middle of a storm of posts: what was acknowledged is there, and nothing twice; and so are the statuses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_loses_nothing_that_was_acknowledged() {
    const ROUNDS: usize = 3;
    const ENOUGH: usize = 20;
    let folder = tempfile::tempdir().unwrap();
    let configuration = format!("[[collection]]\ntitle = \"Partners\"\nid = \"{BOX}\"\ninbox = true\n");
    std::fs::write(folder.path().join("taxiway.toml"), configuration).unwrap();
    let mut acknowledged: Vec<(String, Value)> = Vec::new();
    let get = async |url: &str| read(client().get(url).header("accept", TAXII_21).send().await.unwrap()).await;
    for round in 0..=ROUNDS {
        let (mut child, url) = served(folder.path());
        let objects = get(&format!("{url}/threatintel/collections/{BOX}/objects/?match[version]=all")).await;
        let objects = ids(objects["objects"].as_array().map_or(&[], Vec::as_slice));
        let there: BTreeSet<&str> = objects.iter().map(String::as_str).collect();
        assert_eq!(there.len(), objects.len(), "an object is there twice");
        for (id, status) in &acknowledged {
            assert!(there.contains(id.as_str()), "`{id}` was acknowledged and is gone");
            let path = format!("{url}/threatintel/status/{}/", status["id"].as_str().unwrap());
            assert_eq!(get(&path).await, *status);
        }
        if round == ROUNDS {
            child.kill().unwrap();
            child.wait().unwrap();
            break;
        }
        let (told, mut acks) = tokio::sync::mpsc::unbounded_channel();
        for task in 0..8 {
            let (told, url, client) = (told.clone(), url.clone(), client());
            tokio::spawn(async move {
                for number in 0.. {
                    let object = note((round * 8 + task) * 1_000 + number, 1);
                    let request = client
                        .post(format!("{url}/threatintel/collections/{BOX}/objects/"))
                        .header("accept", TAXII_21)
                        .header("content-type", TAXII_21)
                        .body(json!({ "objects": [object] }).to_string());
                    // Killed: what has no whole answer was not acknowledged.
                    let Ok(answer) = request.send().await else { return };
                    assert_eq!(answer.status().as_u16(), 202);
                    let Ok(text) = answer.text().await else { return };
                    let status: Value = serde_json::from_str(&text).unwrap();
                    let id = status["successes"][0]["id"].as_str().unwrap().to_owned();
                    if told.send((id, status)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(told);
        for _ in 0..ENOUGH {
            acknowledged.push(acks.recv().await.unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        while let Some(last) = acks.recv().await {
            acknowledged.push(last);
        }
    }
    assert!(acknowledged.len() >= ROUNDS * ENOUGH);
}

/// Moving from another server: its objects and its manifest.
#[test]
fn an_import_into_an_inbox_keeps_the_dates_of_a_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::File::create(folder.path().join(name)).unwrap().write_all(text.as_bytes()).unwrap()
    };
    write(
        "taxiway.toml",
        "[[collection]]\ntitle = \"Partners\"\ninbox = true\n[[collection]]\ntitle = \"All\"\nquery = \"\"\n",
    );
    write(
        "objects.json",
        &json!({"more": false, "objects": [note(1, 1), note(2, 1), note(1, 2), {"type": "x-note"}, note(3, 1)]})
            .to_string(),
    );
    let record =
        |number: usize, at: usize, added: &str| json!({"id": id(number), "version": day(at), "date_added": added});
    let records = [
        record(2, 1, "2022-01-01T00:00:00.5Z"),
        record(1, 1, "2022-01-02T00:00:00Z"),
        record(1, 2, "2022-01-03T00:00:00Z"),
        record(3, 1, "2022-01-03T00:00:00Z"),
    ];
    write("manifest.json", &json!({"objects": records}).to_string());
    let import = ["import", "objects.json", "--inbox", "Partners", "--manifest", "manifest.json", "--output", "json"];
    for (round, expected) in [("first", [4, 0, 0]), ("again", [0, 0, 4])] {
        let output = taxiway(folder.path()).args(import).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = ["new", "changed", "unchanged"].map(|key| summary[key].as_u64().unwrap());
        assert_eq!((found, summary["rejected"].as_u64()), (expected, Some(1)), "{round}");
    }
    let rejected = std::fs::read_to_string(folder.path().join("objects.json.rejected.ndjson")).unwrap();
    assert!(rejected.contains("a STIX object without `id`"), "{rejected}");
    let store =
        Store::open(taxiway::store::StoreOptions { license_id: None, ..options(&folder.path().join("taxiway-data")) })
            .unwrap();
    let snapshot = store.snapshot().unwrap();
    let added: Vec<String> = snapshot
        .segments()
        .iter()
        .flat_map(|view| (0..view.segment.rows()).map(|row| view.segment.added(row).unwrap().to_string()))
        .collect();
    let expected = [
        "2022-01-01T00:00:00.500000Z",
        "2022-01-02T00:00:00.000000Z",
        "2022-01-03T00:00:00.000000Z",
        "2022-01-03T00:00:00.000001Z",
    ];
    assert_eq!(added, expected);
    assert_eq!(snapshot.live_rows(), 3);

    for (arguments, part) in [
        (&["import", "objects.json", "--inbox", "All"][..], "there is no inbox `All`; there are `Partners`"),
        (&["import", "objects.json", "--inbox", "Partners", "--manifest", "objects.json"], "not a TAXII manifest"),
        (&["import", "objects.json", "--manifest", "manifest.json"], "--inbox"),
    ] {
        let output = taxiway(folder.path()).args(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(part), "{said}");
    }
}
