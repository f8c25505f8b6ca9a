//! The rows of the TAXII 2.1 interoperability test document that ask something of a server (spec/taxii-2.md §12), each as a
//! test of its name, over sockets, against the program as it is run.

use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{LazyLock, OnceLock};

use reqwest::header::{CONTENT_TYPE, HeaderMap, WWW_AUTHENTICATE};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use taxiway::serve::users::{Password, UserChange, UserFile};

use crate::support::listening;

const TAXII: &str = "application/taxii+json;version=2.1";
const FIRST: &str = "x-taxii-date-added-first";
const LAST: &str = "x-taxii-date-added-last";

/// Reads and writes what the lists let it.
const ANN: Option<(&str, &str)> = Some(("ann", "ann's password"));
/// May do everything: fills the collections that `ann` cannot.
const LOADER: Option<(&str, &str)> = Some(("loader", "loader's password"));

const CONFIG: &str = r#"
listen = "127.0.0.1:0"
[taxii]
api_root = "api1"
[auth]
anonymous = false
[[api_root]]
path = "api2"
title = "for nobody but the loader"
read = ["loader"]
write = ["loader"]
[[collection]]
title = "both rights"
id = "91a7b528-80eb-42ed-a74d-c6fbd5a26116"
alias = "both"
inbox = true
[[collection]]
title = "read only"
id = "52892447-4d7e-4f70-b94d-d7f22742ff63"
inbox = true
write = ["loader"]
[[collection]]
title = "write only"
id = "64993447-4d7e-4f70-b94d-d7f33742ee63"
inbox = true
read = ["loader"]
[[collection]]
title = "no rights"
id = "472c94ae-3113-4e3e-a4dd-a9f4ac7471d4"
inbox = true
read = ["loader"]
write = ["loader"]
[[collection]]
title = "empty"
id = "365fed99-08fa-4bbd-ac3e-8d30a8ecbf4b"
inbox = true
[[collection]]
title = "query"
id = "1cd9cb8e-9a0d-4c5c-a7e3-1d7f3f0a6a51"
query = "type:IP"
[[collection]]
title = "add"
id = "0a0bcd8e-0f3a-4a43-9c3a-6a2e6cf5b0a1"
inbox = true
[[collection]]
title = "delete"
id = "0b1bcd8e-0f3a-4a43-9c3a-6a2e6cf5b0a2"
inbox = true
"#;

const BOTH: &str = "91a7b528-80eb-42ed-a74d-c6fbd5a26116";
const READ_ONLY: &str = "52892447-4d7e-4f70-b94d-d7f22742ff63";
const WRITE_ONLY: &str = "64993447-4d7e-4f70-b94d-d7f33742ee63";
const NO_RIGHTS: &str = "472c94ae-3113-4e3e-a4dd-a9f4ac7471d4";
const EMPTY: &str = "365fed99-08fa-4bbd-ac3e-8d30a8ecbf4b";
const ADD: &str = "0a0bcd8e-0f3a-4a43-9c3a-6a2e6cf5b0a1";
const DELETE: &str = "0b1bcd8e-0f3a-4a43-9c3a-6a2e6cf5b0a2";

const INDICATOR: &str = "indicator--6770298f-0fd8-471a-ab8c-1c658a46574e";
const MALWARE: &str = "malware--c0931cc6-c75e-47e5-9036-78fabc95d4ec";
const CAMPAIGN: &str = "campaign--8e2e2d2b-17d4-4cbf-938f-98ee46b3cd3f";
const ADDRESS: &str = "ipv4-addr--ff26c055-6336-5bc5-b98d-13d6226742dd";

fn indicator(id: &str, modified: &str, name: &str) -> Value {
    json!({
        "type": "indicator", "spec_version": "2.1", "id": id, "created": "2016-11-03T12:30:59.000Z",
        "modified": modified, "name": name, "pattern": "[ipv4-addr:value = '198.51.100.3']", "pattern_type": "stix",
        "valid_from": "2016-11-03T12:30:59Z", "indicator_types": ["malicious-activity"], "x_own_score": 7,
    })
}

/// Three versions of an indicator, two other objects with one each, an observable without any, an object of STIX 2.0.
fn objects() -> Vec<Value> {
    vec![
        indicator(INDICATOR, "2016-11-03T12:30:59.000Z", "first"),
        indicator(INDICATOR, "2016-12-25T12:30:59.444Z", "second"),
        json!({
            "type": "malware", "spec_version": "2.1", "id": MALWARE, "created": "2017-01-27T13:49:53.997Z",
            "modified": "2018-02-23T18:30:00.000Z", "name": "Poison Ivy", "is_family": true,
        }),
        indicator(INDICATOR, "2017-01-27T13:49:53.935382Z", "third"),
        json!({ "type": "ipv4-addr", "spec_version": "2.1", "id": ADDRESS, "value": "198.51.100.3" }),
        json!({
            "type": "campaign", "id": CAMPAIGN, "created": "2016-04-06T20:03:00.000Z",
            "modified": "2016-04-06T20:03:00.000Z", "name": "Green Group Attacks Against Finance",
        }),
    ]
}

/// The program, until the tests end: then its pipe breaks, and the shell between sees that.
struct Server {
    url: String,
    _alive: ChildStdin,
    _child: Child,
    _folder: tempfile::TempDir,
}

fn start() -> Server {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("taxiway.toml"), CONFIG).unwrap();
    let mut users = UserFile::load(&folder.path().join("taxiway-data/users.json")).unwrap();
    for (name, password) in [ANN, LOADER].into_iter().flatten() {
        let change = UserChange { password: Password::Set(password.to_owned()), ..UserChange::default() };
        users.put(name, change).unwrap();
    }
    let mut child = Command::new("sh")
        .current_dir(folder.path())
        .args(["-c", "\"$0\" serve & server=$!; read -r _; kill $server", env!("CARGO_BIN_EXE_taxiway")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (_, url) = listening(&mut child);
    Server { url, _alive: child.stdin.take().unwrap(), _child: child, _folder: folder }
}

static SERVER: LazyLock<Server> = LazyLock::new(start);

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn names(&self, list: &str, key: &str) -> Vec<&str> {
        self.body[list].as_array().into_iter().flatten().filter_map(|item| item[key].as_str()).collect()
    }

    fn ids(&self) -> Vec<&str> {
        self.names("objects", "id")
    }
}

async fn send(who: Option<(&str, &str)>, method: Method, path: &str, body: Option<Value>) -> Answer {
    let mut request = Client::new().request(method, format!("{}{path}", SERVER.url)).header("accept", TAXII);
    if let Some((name, password)) = who {
        request = request.basic_auth(name, Some(password));
    }
    if let Some(body) = body {
        request = request.header(CONTENT_TYPE, TAXII).body(body.to_string());
    }
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    assert_eq!(headers[CONTENT_TYPE], TAXII, "{path}");
    let text = answer.text().await.unwrap();
    let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
    if status.is_client_error() {
        assert_eq!(body["http_status"], json!(status.as_str()), "{path}");
    }
    Answer { status, headers, body }
}

/// What `ann` gets.
async fn get(path: &str) -> Answer {
    filled().await;
    send(ANN, Method::GET, path, None).await
}

async fn get_ok(path: &str) -> Answer {
    let answer = get(path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer
}

fn at(collection: &str, rest: &str) -> String {
    format!("/api1/collections/{collection}/{rest}")
}

async fn post(who: Option<(&str, &str)>, collection: &str, objects: &[Value]) -> Answer {
    send(who, Method::POST, &at(collection, "objects/"), Some(json!({ "objects": objects }))).await
}

/// Fills the collections once, whichever test comes first.
async fn filled() {
    static FILLED: OnceLock<tokio::sync::Mutex<bool>> = OnceLock::new();
    let mut filled = FILLED.get_or_init(|| tokio::sync::Mutex::new(false)).lock().await;
    if !*filled {
        for collection in [BOTH, READ_ONLY, WRITE_ONLY, NO_RIGHTS] {
            let answer = post(LOADER, collection, &objects()).await;
            assert_eq!((answer.status, &answer.body["success_count"]), (StatusCode::ACCEPTED, &json!(6)));
        }
        *filled = true;
    }
}

async fn expect(status: u16, cases: &[(Method, String)]) {
    filled().await;
    for (method, path) in cases {
        let body = (*method == Method::POST).then(|| json!({ "objects": objects() }));
        let answer = send(ANN, method.clone(), path, body).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path}: {}", answer.body);
    }
}

#[tokio::test]
async fn row_01_no_credentials() {
    for path in ["/taxii2/", "/api1/", "/api1/collections/", &at(BOTH, ""), &at(BOTH, "objects/"), "/api1/status/x/"] {
        let answer = send(None, Method::GET, path, None).await;
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.headers[WWW_AUTHENTICATE].to_str().unwrap().starts_with("Basic"), "{path}");
    }
}

#[tokio::test]
async fn row_02_wrong_credentials() {
    for who in [("ann", "wrong"), ("nobody", "ann's password")] {
        assert_eq!(send(Some(who), Method::GET, "/taxii2/", None).await.status, 401, "{who:?}");
    }
}

#[tokio::test]
async fn row_03_discovery() {
    let answer = get_ok("/taxii2/").await;
    let root = format!("{}/api1/", SERVER.url);
    assert!(answer.body["title"].is_string());
    assert_eq!((&answer.body["default"], &answer.body["api_roots"]), (&json!(root), &json!([root])));
    let all = send(LOADER, Method::GET, "/taxii2/", None).await;
    assert_eq!(all.body["api_roots"].as_array().map(Vec::len), Some(2), "whoever may know of the second root sees it");
}

#[tokio::test]
async fn row_04_api_root() {
    let answer = get_ok("/api1/").await;
    assert!(answer.body["title"].is_string());
    assert_eq!(answer.body["versions"], json!([TAXII]));
    assert!(answer.body["max_content_length"].as_u64().is_some_and(|bytes| bytes > 0));
}

#[tokio::test]
async fn row_05_unknown_api_root() {
    expect(404, &[(Method::GET, "/api3/".to_owned()), (Method::GET, "/api2/".to_owned())]).await;
}

#[tokio::test]
async fn row_06_collections_ascending_by_id() {
    let answer = get_ok("/api1/collections/").await;
    let ids = answer.names("collections", "id");
    assert!(ids.is_sorted() && ids.contains(&BOTH) && !ids.contains(&NO_RIGHTS), "{ids:?}");
}

async fn rights(collection: &str) -> (Value, Value) {
    let answer = get_ok(&at(collection, "")).await;
    assert_eq!(answer.body["id"], json!(collection));
    (answer.body["can_read"].clone(), answer.body["can_write"].clone())
}

#[tokio::test]
async fn row_07_collection_to_read_and_write() {
    assert_eq!(rights(BOTH).await, (json!(true), json!(true)));
    assert_eq!(get_ok(&at(BOTH, "")).await.body, get_ok(&at("both", "")).await.body, "by its alias");
}

#[tokio::test]
async fn row_08_collection_to_read() {
    assert_eq!(rights(READ_ONLY).await, (json!(true), json!(false)));
}

#[tokio::test]
async fn row_09_collection_to_write() {
    assert_eq!(rights(WRITE_ONLY).await, (json!(false), json!(true)));
}

#[tokio::test]
async fn row_10_collection_without_rights() {
    expect(404, &[(Method::GET, at(NO_RIGHTS, ""))]).await;
}

#[tokio::test]
async fn row_11_objects_of_a_write_only_collection() {
    expect(403, &[(Method::GET, at(WRITE_ONLY, "objects/"))]).await;
}

#[tokio::test]
async fn row_12_manifest_of_a_write_only_collection() {
    expect(403, &[(Method::GET, at(WRITE_ONLY, "manifest/"))]).await;
}

#[tokio::test]
async fn row_13_object_of_a_write_only_collection() {
    let object = format!("objects/{MALWARE}/");
    expect(403, &[(Method::GET, at(WRITE_ONLY, &object)), (Method::GET, at(WRITE_ONLY, "objects/x--1/"))]).await;
}

#[tokio::test]
async fn row_14_versions_of_a_write_only_collection() {
    expect(403, &[(Method::GET, at(WRITE_ONLY, &format!("objects/{MALWARE}/versions/")))]).await;
}

#[tokio::test]
async fn row_15_add_to_a_read_only_collection() {
    let query = "1cd9cb8e-9a0d-4c5c-a7e3-1d7f3f0a6a51";
    expect(403, &[(Method::POST, at(READ_ONLY, "objects/")), (Method::POST, at(query, "objects/"))]).await;
}

#[tokio::test]
async fn row_16_delete_from_a_read_only_collection() {
    expect(403, &[(Method::DELETE, at(READ_ONLY, &format!("objects/{MALWARE}/")))]).await;
}

#[tokio::test]
async fn row_17_delete_from_a_write_only_collection() {
    expect(403, &[(Method::DELETE, at(WRITE_ONLY, &format!("objects/{MALWARE}/")))]).await;
}

#[tokio::test]
async fn row_18_everything_of_a_collection_without_rights() {
    let object = format!("objects/{MALWARE}/");
    let cases = [
        (Method::DELETE, at(NO_RIGHTS, &object)),
        (Method::POST, at(NO_RIGHTS, "objects/")),
        (Method::GET, at(NO_RIGHTS, "objects/")),
        (Method::GET, at(NO_RIGHTS, "manifest/")),
        (Method::GET, at(NO_RIGHTS, &object)),
        (Method::GET, at(NO_RIGHTS, &format!("{object}versions/"))),
    ];
    expect(404, &cases).await;
}

#[tokio::test]
async fn row_19_unknown_collection() {
    let unknown = "cdcdcdcd-1111-4111-8111-111111111111";
    let paths = ["", "objects/", "manifest/", "objects/x--1/", "objects/x--1/versions/"];
    expect(404, &paths.map(|path| (Method::GET, at(unknown, path)))).await;
    expect(404, &[(Method::POST, at(unknown, "objects/"))]).await;
}

#[tokio::test]
async fn row_20_manifest() {
    let answer = get_ok(&at(BOTH, "manifest/")).await;
    assert_eq!(answer.ids(), [MALWARE, INDICATOR, ADDRESS, CAMPAIGN], "the newest of each, in the order of adding");
    let dates = answer.names("objects", "date_added");
    assert!(dates.is_sorted() && dates.iter().all(|date| date.len() == 27), "{dates:?}");
    assert_eq!((answer.header(FIRST), answer.header(LAST)), (dates[0], dates[3]));
    assert_eq!(answer.names("objects", "version")[1], "2017-01-27T13:49:53.935382Z");
    assert_eq!(answer.names("objects", "media_type")[0], "application/stix+json;version=2.1");
}

#[tokio::test]
async fn row_21_objects() {
    let answer = get_ok(&at(BOTH, "objects/")).await;
    assert_eq!(answer.body["objects"], json!([objects()[2], objects()[3], objects()[4], objects()[5]]), "as they came");
    assert_ne!(answer.body["more"], json!(true));
    let manifest = get_ok(&at(BOTH, "manifest/")).await;
    assert_eq!((answer.header(FIRST), answer.header(LAST)), (manifest.header(FIRST), manifest.header(LAST)));
}

#[tokio::test]
async fn row_22_empty_collection() {
    for path in ["objects/", "manifest/"] {
        assert_eq!(get_ok(&at(EMPTY, path)).await.body, json!({ "more": false }), "{path}");
    }
}

#[tokio::test]
async fn row_23_object() {
    let answer = get_ok(&at(BOTH, &format!("objects/{INDICATOR}/"))).await;
    assert_eq!(answer.body["objects"], json!([objects()[3]]));
    assert!(!answer.header(FIRST).is_empty() && answer.header(FIRST) == answer.header(LAST));
}

#[tokio::test]
async fn row_24_unknown_object() {
    let unknown = "objects/malware--11111111-1111-4111-8111-111111111111/";
    let cases = [unknown.to_owned(), format!("{unknown}versions/")].map(|path| (Method::GET, at(BOTH, &path)));
    expect(404, &cases).await;
}

#[tokio::test]
async fn row_25_versions() {
    let answer = get_ok(&at(BOTH, &format!("objects/{INDICATOR}/versions/"))).await;
    let expected = ["2016-11-03T12:30:59.000000Z", "2016-12-25T12:30:59.444000Z", "2017-01-27T13:49:53.935382Z"];
    assert_eq!(answer.body["versions"], json!(expected));
    assert!(answer.header(FIRST) < answer.header(LAST));
}

#[tokio::test]
async fn row_26_add() {
    let ours = [
        indicator("indicator--11111111-0000-4000-8000-000000000001", "2020-01-01T00:00:00.000Z", "posted"),
        json!({ "type": "malware", "id": "no id" }),
    ];
    let answer = post(ANN, ADD, &ours).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    let counts =
        ["total_count", "success_count", "failure_count", "pending_count"].map(|key| answer.body[key].as_u64());
    assert_eq!((&answer.body["status"], counts), (&json!("complete"), [2, 1, 1, 0].map(Some)));
    assert_eq!(answer.names("successes", "id"), ["indicator--11111111-0000-4000-8000-000000000001"]);
    assert_eq!(answer.names("successes", "version"), ["2020-01-01T00:00:00.000000Z"]);
    assert!(answer.body["failures"][0]["message"].is_string());
    // Again: no error, and no second copy.
    assert_eq!(post(ANN, ADD, &ours).await.body["success_count"], json!(1));
    let held = at(ADD, "objects/?match[id]=indicator--11111111-0000-4000-8000-000000000001&match[version]=all");
    assert_eq!(get_ok(&held).await.body["objects"], json!([ours[0]]));
}

async fn status_of_a_post(number: u8) -> (Answer, Answer) {
    let object = indicator(
        &format!("indicator--11111111-0000-4000-8000-0000000000{number}"),
        "2020-01-01T00:00:00.000Z",
        "with status",
    );
    let posted = post(ANN, ADD, &[object]).await;
    let id = posted.body["id"].as_str().unwrap().to_owned();
    let status = get_ok(&format!("/api1/status/{id}/")).await;
    (posted, status)
}

#[tokio::test]
async fn row_27_status() {
    let (posted, status) = status_of_a_post(27).await;
    assert_eq!(posted.body, status.body);
    expect(404, &[(Method::GET, "/api1/status/2d086da7-4bdc-4f91-900e-d77486753710/".to_owned())]).await;
}

#[tokio::test]
async fn row_28_status_again_and_of_somebody_else() {
    let (posted, status) = status_of_a_post(28).await;
    let path = format!("/api1/status/{}/", posted.body["id"].as_str().unwrap());
    assert_eq!(get_ok(&path).await.body, status.body, "as often as one asks");
    assert_eq!(send(LOADER, Method::GET, &path, None).await.status, 404, "who did not post it does not learn of it");
}

#[tokio::test]
async fn row_29_delete() {
    let answer = post(ANN, DELETE, &objects()).await;
    assert_eq!(answer.status, 202);
    let path = at(DELETE, &format!("objects/{INDICATOR}/"));
    let versions = async || get(&format!("{path}versions/")).await.body["versions"].clone();
    let delete = async |query: &str| send(ANN, Method::DELETE, &format!("{path}{query}"), None).await;

    let answer = delete("").await;
    assert_eq!((answer.status, &answer.body), (StatusCode::OK, &Value::Null), "a status and no body");
    let left = json!(["2016-11-03T12:30:59.000000Z", "2016-12-25T12:30:59.444000Z"]);
    assert_eq!(versions().await, left, "the newest is gone, the one before is the newest");
    assert_eq!(get_ok(&path).await.body["objects"], json!([objects()[1]]));
    assert_eq!(delete("?match[version]=2016-11-03T12:30:59Z").await.status, 200);
    assert_eq!(versions().await, json!(["2016-12-25T12:30:59.444000Z"]));
    assert_eq!(delete("?match[version]=2016-11-03T12:30:59Z").await.status, 404, "what is not there");
    assert_eq!(delete("?match[version]=all").await.status, 200);
    assert_eq!(get(&path).await.status, 404);
    assert!(!get_ok(&at(DELETE, "manifest/")).await.ids().contains(&INDICATOR));
    assert_eq!(delete("").await.status, 404);
}

#[tokio::test]
async fn row_30_added_after() {
    let all = get_ok(&at(BOTH, "manifest/")).await;
    let dates = all.names("objects", "date_added");
    for (at_least, date) in dates.iter().enumerate() {
        let after = get_ok(&at(BOTH, &format!("objects/?added_after={date}"))).await;
        assert_eq!(after.ids(), all.ids()[at_least + 1..], "strictly later");
    }
}

#[tokio::test]
async fn row_31_limit_and_next() {
    let all = get_ok(&at(BOTH, "objects/")).await;
    let first = get_ok(&at(BOTH, "objects/?limit=3")).await;
    assert_eq!((first.ids(), &first.body["more"]), (all.ids()[..3].to_vec(), &json!(true)));
    let next = first.body["next"].as_str().unwrap();
    let second = get_ok(&at(BOTH, &format!("objects/?limit=3&next={next}"))).await;
    assert_eq!(second.ids(), all.ids()[3..]);
    assert!(second.body["next"].is_null());
    expect(400, &["0", "-1", "many"].map(|limit| (Method::GET, at(BOTH, &format!("objects/?limit={limit}"))))).await;
}

async fn found(query: &str) -> Vec<String> {
    let answer = get_ok(&at(BOTH, &format!("objects/?{query}"))).await;
    let manifest = get_ok(&at(BOTH, &format!("manifest/?{query}"))).await;
    assert_eq!(answer.ids(), manifest.ids(), "{query}");
    answer.ids().into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn row_32_match_id() {
    assert_eq!(found(&format!("match[id]={MALWARE}")).await, [MALWARE]);
}

#[tokio::test]
async fn row_33_match_type() {
    assert_eq!(found("match%5Btype%5D=campaign").await, [CAMPAIGN]);
    assert!(found("match[type]=x-unheard-of").await.is_empty());
}

#[tokio::test]
async fn row_34_match_version_last() {
    assert_eq!(found("match[version]=last").await, found("").await);
}

#[tokio::test]
async fn row_35_match_version_first() {
    assert_eq!(found("match[version]=first").await, [INDICATOR, MALWARE, ADDRESS, CAMPAIGN]);
}

#[tokio::test]
async fn row_36_match_version_all() {
    let all = [INDICATOR, INDICATOR, MALWARE, INDICATOR, ADDRESS, CAMPAIGN];
    assert_eq!(found("match[version]=all").await, all);
}

#[tokio::test]
async fn row_37_match_version_exact() {
    // As instants, however they are written.
    assert_eq!(found("match[version]=2016-12-25T12:30:59.444000Z").await, [INDICATOR]);
    assert_eq!(found("match[version]=first,2017-01-27T13:49:53.935382Z&match[type]=indicator").await, [INDICATOR; 2]);
}

#[tokio::test]
async fn row_38_match_spec_version() {
    assert_eq!(found("match[spec_version]=2.0").await, [CAMPAIGN]);
    assert_eq!(found("match[spec_version]=2.1").await, [MALWARE, INDICATOR, ADDRESS]);
    assert_eq!(found("match[spec_version]=2.0,2.1").await, found("").await);
}

#[tokio::test]
async fn row_39_values_of_one_field() {
    assert_eq!(found("match[type]=campaign,malware").await, [MALWARE, CAMPAIGN]);
    assert_eq!(found(&format!("match[id]={ADDRESS},{MALWARE}")).await, [MALWARE, ADDRESS]);
}

#[tokio::test]
async fn row_40_several_fields() {
    assert_eq!(found(&format!("match[type]=malware&match[id]={MALWARE}")).await, [MALWARE]);
    assert!(found(&format!("match[type]=campaign&match[id]={MALWARE}")).await.is_empty());
}

#[tokio::test]
async fn row_41_several_values_of_several_fields() {
    let query = format!("match[type]=malware,indicator&match[id]={MALWARE},{CAMPAIGN}&match[version]=all");
    assert_eq!(found(&query).await, [MALWARE]);
}

#[tokio::test]
async fn row_42_a_match_field_twice() {
    let twice = "match[type]=malware&match[type]=campaign";
    expect(400, &["objects/", "manifest/"].map(|path| (Method::GET, at(BOTH, &format!("{path}?{twice}"))))).await;
}

#[tokio::test]
async fn row_43_versions_by_the_last_date() {
    let path = at(BOTH, &format!("objects/{INDICATOR}/versions/"));
    let all = get_ok(&path).await;
    let (mut versions, mut after) = (Vec::new(), String::new());
    loop {
        let page = get_ok(&format!("{path}?limit=1{after}")).await;
        versions.extend(page.body["versions"].as_array().into_iter().flatten().cloned());
        if page.body["more"] != json!(true) {
            break;
        }
        after = format!("&added_after={}", page.header(LAST));
    }
    assert_eq!(Value::Array(versions), all.body["versions"]);
}

#[tokio::test]
async fn row_44_custom_properties() {
    let answer = get_ok(&at(BOTH, &format!("objects/{INDICATOR}/"))).await;
    assert_eq!(answer.body["objects"][0]["x_own_score"], json!(7), "of objects");
    let object = indicator("indicator--11111111-0000-4000-8000-000000000044", "2020-01-01T00:00:00.000Z", "custom");
    let envelope = json!({ "objects": [object], "x_sender": "a partner" });
    let posted = send(ANN, Method::POST, &at(ADD, "objects/"), Some(envelope)).await;
    assert_eq!((posted.status, &posted.body["success_count"]), (StatusCode::ACCEPTED, &json!(1)), "of envelopes");
}
