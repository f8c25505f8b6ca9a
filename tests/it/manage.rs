//! The management API as scripts use it: every call with the bodies of its documentation, wrong ones, several clients at once,
//! and restarts in between.
#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use pkcs8::der::Decode;
use pkcs8::pkcs5::pbes2;
use pkcs8::{LineEnding, PrivateKeyInfo};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use taxiway::serve::users::{Password, UserChange, UserFile};

use crate::support::{listening, taxiway};

/// So long that only what never happens takes longer.
const NEVER: Duration = Duration::from_secs(60);
const CONFIG: &str = "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n[log]\naudit = \"audit.jsonl\"\n\
    [admin]\nmanage = [\"@operators\"]\npackage_bytes = 2000000\n";
const SOURCE: &str = "PluginConfiguration/StixTaxiiEnrichmentSource";
const MASK: &str = "********";
/// A pool, and an installation in it.
const POOL: &str = "ae7d0b3c-2b1f-4c5a-9a53-7c5a7a2b9c01";
const HERE: &str = "/configapi/ae7d0b3c-2b1f-4c5a-9a53-7c5a7a2b9c01/7438c21a9f";

struct Server {
    child: Child,
    url: String,
    admin: String,
    log: Receiver<String>,
    client: Client,
    token: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder with a configuration and its users; gives the token of one who may manage.
fn set_up(folder: &Path, config: &str) -> String {
    let _ = rustls::crypto::ring::default_provider().install_default();
    std::fs::write(folder.join("taxiway.toml"), config).unwrap();
    let mut users = UserFile::load(&folder.join("taxiway-data/users.json")).unwrap();
    let of = |groups: &[&str], password| UserChange {
        password: Password::Set(password),
        groups: Some(groups.iter().map(|group| (*group).to_owned()).collect()),
        ..UserChange::default()
    };
    users.put("ann", of(&["operators"], "ann-password".to_owned())).unwrap();
    users.put("bob", of(&[], "bob-password".to_owned())).unwrap();
    users.add_token("ann", "scripts", None).unwrap().text
}

impl Server {
    fn start(folder: &Path, token: &str) -> Self {
        let mut child = taxiway(folder).arg("serve").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, log) = channel();
        let errors = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || errors.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let (said, url) = listening(&mut child);
        let admin = said.iter().find_map(|line| line.strip_prefix("monitoring ")?.split("/metrics").next());
        let admin = admin.expect("the address of monitoring").to_owned();
        Self { child, url, admin, log, client: Client::new(), token: token.to_owned() }
    }

    /// The log up to the first line with these texts.
    fn log_until(&self, texts: &[&str]) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.log.recv_timeout(NEVER).unwrap_or_else(|_| panic!("{texts:?} was never said: {lines:#?}"));
            lines.push(line);
            if texts.iter().all(|text| lines.last().unwrap().contains(text)) {
                return lines;
            }
        }
    }

    fn ask(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method: Method = method.parse().unwrap();
        self.client.request(method, format!("{}{path}", self.admin)).bearer_auth(&self.token)
    }

    async fn json(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let request = self.ask(method, path).header("content-type", "application/json").body(body.to_string());
        answer(request).await
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = answer(self.ask("GET", path)).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn delete(&self, path: &str) -> (u16, Value) {
        answer(self.ask("DELETE", path)).await
    }

    /// Uploads as the examples do: a form whose field holds the file, and the header `file_name`.
    async fn upload(&self, path: &str, name: &str, bytes: &[u8]) -> (u16, Value) {
        let form = form(&[("file_name", Some(name), bytes)]);
        answer(self.ask("POST", path).header("file_name", name).header("content-type", FORM).body(form)).await
    }

    /// What a write leads to: its order, once it is carried out.
    async fn ordered(&self, (status, body): (u16, Value)) -> Value {
        assert_eq!((status, &body["status"]), (200, &json!("Success")), "{body}");
        let path = body["message"].as_str().unwrap();
        let first = self.get(path).await;
        if first["finished"].is_null() {
            self.log_until(&["order carried out", first["id"].as_str().unwrap()]);
        }
        self.get(path).await
    }
}

const FORM: &str = "multipart/form-data; boundary=XX";

fn form(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut form = Vec::new();
    for (field, file, bytes) in parts {
        form.extend_from_slice(format!("--XX\r\nContent-Disposition: form-data; name=\"{field}\"").as_bytes());
        if let Some(file) = file {
            form.extend_from_slice(
                format!("; filename=\"{file}\"\r\nContent-Type: application/octet-stream").as_bytes(),
            );
        }
        form.extend_from_slice(b"\r\n\r\n");
        form.extend_from_slice(bytes);
        form.extend_from_slice(b"\r\n");
    }
    form.extend_from_slice(b"--XX--\r\n");
    form
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{text}");
    (status.as_u16(), serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {status} {text}")))
}

/// A body with everything in it, as the documentation has it.
fn body(url: &str) -> Value {
    json!({ "data": {
        "st_enable_source": false, "discovery_url": url, "begin": 1, "begin_unit": "Months",
        "fetch_interval": 2, "fetch_interval_unit": "Hours", "stix_version": "2", "enable_pagination": true,
        "fetch-per_page": 100,
        "basic_auth_mode": { "basic_auth_status": true, "username": "guest", "password": "pass-of-the-feed" },
        "ssl_mode": { "ssl_status": false, "key_pass": "" }, "file_location": "private",
        "files": { "cert_file": "", "cert_key": "" },
        "st_proxy": { "status": false, "ip": "", "port": "", "protocol": "" },
    } })
}

fn set(body: &Value, path: &[&str], value: Value) -> Value {
    let mut body = body.clone();
    let mut at = &mut body["data"];
    for key in path {
        at = &mut at[*key];
    }
    *at = value;
    body
}

/// A certificate and its key, in PEM.
fn pair(name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// The same key under a passphrase.
fn locked(key: &str, passphrase: &str) -> String {
    let (_, document) = pkcs8::SecretDocument::from_pem(key).unwrap();
    let parameters = pbes2::Parameters::pbkdf2_sha256_aes256cbc(1_000, b"saltsalt", &[7; 16]).unwrap();
    let info = PrivateKeyInfo::from_der(document.as_bytes()).unwrap();
    let locked = info.encrypt_with_params(parameters, passphrase).unwrap();
    locked.to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF).unwrap().to_string()
}

/// Nothing of what was given as a secret is anywhere below that folder, nor said.
fn is_kept_nowhere(folder: &Path, secrets: &[&str]) {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            for secret in secrets {
                assert!(!text.contains(secret), "`{secret}` is in {}", path.display());
            }
        }
    }
}

#[tokio::test]
async fn every_call_of_the_table_answers_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let token = set_up(folder.path(), CONFIG);
    let server = Server::start(folder.path(), &token);
    let (cert, key) = pair("client.example");
    let private = format!("/configapi/{POOL}/{SOURCE}");
    let public = format!("/configapi/{SOURCE}");

    // Certificates.
    for (path, storage) in [(format!("{private}/upload"), "private"), (format!("{public}/publicupload"), "public")] {
        for (name, bytes) in [("certificate.crt", &cert), ("privateKey.key", &key)] {
            let said = format!("{name} successfully uploaded in {storage} storage.");
            let expected = (200, json!({ "status": "Success", "message": said }));
            assert_eq!(server.upload(&path, name, bytes.as_bytes()).await, expected);
        }
    }
    for path in [&private, &public] {
        assert_eq!(server.get(&format!("{path}/list")).await, json!(["certificate.crt", "privateKey.key"]));
    }
    let gone = (200, json!({ "status": "Success", "message": "certificate.crt successfully deleted." }));
    assert_eq!(server.delete(&format!("{public}/certificate.crt")).await, gone);
    assert_eq!(server.delete(&format!("{public}/certificate.crt")).await.0, 404);
    assert_eq!(server.get(&format!("{public}/list")).await, json!(["privateKey.key"]));

    // Packages.
    let said = |storage: &str| {
        let said = format!("StixTaxii_6.2.0.pak successfully uploaded in the {storage} storage. ");
        (200, json!({ "status": "Success", "message": said }))
    };
    let uploads = format!("/configapi/Uploads/{POOL}/");
    let package = vec![7; 1_500_000];
    let raw = server.ask("POST", &uploads).header("file_name", "StixTaxii_6.2.0.pak");
    let raw = raw.header("content-type", "application/octet-stream").body(package.clone());
    assert_eq!(answer(raw).await, said("private"));
    let public_upload = "/configapi/Uploads/PublicUpload";
    assert_eq!(server.upload(public_upload, "StixTaxii_6.2.0.pak", &package).await, said("public"));
    let kept = folder.path().join("taxiway-data/sources/files/packages/private").join(POOL).join("StixTaxii_6.2.0.pak");
    assert_eq!(std::fs::read(kept).unwrap(), package);
    for path in [format!("/configapi/Uploads/{POOL}/list"), "/configapi/Uploads/list".to_owned()] {
        assert_eq!(server.get(&path).await, json!(["StixTaxii_6.2.0.pak"]));
    }
    // In the letters of the documentation, which are not those of the upload.
    let install = json!({ "data": {
        "application_type": "Application", "file_name": "stixtaxii_6.2.0.pak", "file_location": "private" } });
    let at = format!("/configapi/Uploads/{POOL}/7438c21a9f/install");
    let order = server.ordered(server.json("POST", &at, &install).await).await;
    assert_eq!(order["response"]["success"], true, "{order}");
    let plugins = server.get(&format!("{HERE}/Plugins")).await;
    let plugin = plugins[0]["id"].as_str().unwrap();
    assert_eq!(order["response"]["id"], plugin);
    assert_eq!((&plugins[0]["name"], &plugins[0]["version"]), (&json!("StixTaxii"), &json!("6.2.0")));

    // Sources.
    let create = format!("{HERE}/{SOURCE}");
    let mut sent = body("https://feeds.invalid/taxii2/");
    sent = set(&sent, &["ssl_mode"], json!({ "ssl_status": true, "key_pass": "pass-of-the-key" }));
    sent = set(&sent, &["files"], json!({ "cert_file": "certificate.crt", "cert_key": "privateKey.key" }));
    sent =
        set(&sent, &["st_proxy"], json!({ "status": true, "ip": "192.0.2.1", "port": "8080", "protocol": "https " }));
    let order = server.ordered(server.json("POST", &create, &sent).await).await;
    assert_eq!(order["response"]["success"], true, "{order}");
    for key in ["request", "logpoint_identifier", "pool_uuid", "state", "created", "started", "finished"] {
        assert!(!order[key].is_null(), "{key}: {order}");
    }
    assert_eq!((&order["user"], &order["state"]), (&json!("ann"), &json!("Success")));
    assert_eq!(order["request"]["data"]["basic_auth_mode"]["password"], MASK);
    let id = order["response"]["id"].as_str().unwrap();
    let list = format!("{HERE}/PluginConfiguration/Ti_stixtaxii");
    let listed = server.get(&list).await;
    let source = &listed[0];
    assert_eq!(listed.as_array().unwrap().len(), 1);
    for key in [
        "begin",
        "begin_unit",
        "fetch_interval",
        "fetch_interval_unit",
        "stix_version",
        "enable_pagination",
        "fetch-per_page",
        "discovery_url",
        "st_enable_source",
        "file_location",
    ] {
        assert_eq!(source[key], sent["data"][key], "{key}");
    }
    assert_eq!(source["id"], id);
    assert!(source["tid"].is_string() && source["st_enable_source_confirmed"].is_boolean());
    assert_eq!(source["basic_auth_mode"], json!({ "basic_auth_status": true, "username": "guest", "password": MASK }));
    assert_eq!(source["ssl_mode"], json!({ "ssl_status": true, "key_pass": MASK }));
    assert_eq!((&source["cert_file"], &source["cert_key"]), (&json!("certificate.crt"), &json!("privateKey.key")));
    assert_eq!(source["st_proxy"], json!({ "status": true, "ip": "192.0.2.1", "port": 8080, "protocol": "https" }));
    assert_eq!(server.get(&format!("{list}/{id}")).await, *source);

    // The listing sent back, with the files where a body has them: masks mean unchanged.
    let mut again = source.clone();
    again["files"] = json!({ "cert_file": source["cert_file"], "cert_key": source["cert_key"] });
    again["begin"] = json!(9);
    let edit = format!("{create}/{id}");
    let order = server.ordered(server.json("PUT", &edit, &json!({ "data": again })).await).await;
    assert_eq!(order["response"]["warnings"], json!([]), "{order}");
    let edited = server.get(&list).await[0].clone();
    assert_eq!((&edited["begin"], &edited["revision"]), (&json!(9), &json!(2)));
    assert_eq!(edited["ssl_mode"]["key_pass"], MASK);

    // What others use stays.
    let used = server.delete(&format!("{private}/privateKey.key")).await;
    assert!(used.0 == 409 && used.1["message"].as_str().unwrap().contains(id), "{used:?}");
    let uninstall = format!("{HERE}/Plugins/{plugin}");
    let refused = server.delete(&uninstall).await;
    assert!(refused.0 == 409 && refused.1["message"].as_str().unwrap().contains(id), "{refused:?}");

    // How fetching stands.
    let general = server.get(&format!("{HERE}/PluginConfiguration/Ti_general")).await;
    let service = &general[0]["services"]["stix_taxii"];
    assert_eq!(general[0]["type"], "ti_general");
    assert!(general[0]["id"].is_string() && general[0]["tid"].is_string() && general[0]["no_of_entries"] == 0);
    assert_eq!((&service["name"], &service["last_successful_fetch"]), (&json!("Stix Taxii"), &json!(0)));
    assert!(
        service["error"].is_null() && service["last_fetch_attempt"].is_number() && service["fetch_status"].is_string()
    );
    let order =
        server.ordered(server.json("POST", &format!("{create}/refreshlist"), &json!({ "data": {} })).await).await;
    assert_eq!((&order["response"]["success"], &order["action"]), (&json!(true), &json!("refresh_list")));

    // The end.
    let order = server.ordered(server.delete(&edit).await).await;
    assert_eq!(order["response"]["success"], true, "{order}");
    assert_eq!(server.get(&list).await, json!([]));
    let order = server.ordered(server.delete(&uninstall).await).await;
    assert_eq!(order["response"]["success"], true, "{order}");
    assert_eq!(server.get(&format!("{HERE}/Plugins")).await, json!([]));
    let off = server.json("POST", &create, &body("https://feeds.invalid/")).await;
    assert!(off.0 == 409 && off.1["message"].as_str().unwrap().contains("install a package"), "{off:?}");
    for path in
        [format!("/configapi/Uploads/{POOL}/StixTaxii_6.2.0.pak"), "/configapi/Uploads/StixTaxii_6.2.0.pak".to_owned()]
    {
        let order = server.ordered(server.delete(&path).await).await;
        assert_eq!(order["response"]["success"], true, "{order}");
    }
    assert_eq!(server.get("/configapi/Uploads/list").await, json!([]));

    let key = key.lines().nth(1).unwrap();
    is_kept_nowhere(folder.path(), &["pass-of-the-feed", "pass-of-the-key", key]);
    let audit = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
    assert!(
        audit.lines().any(|line| line.contains("\"action\":\"manage\"") && line.contains("\"user\":\"ann\"")),
        "{audit}"
    );
}

#[tokio::test]
async fn wrong_bodies_name_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let token = set_up(folder.path(), CONFIG);
    let server = Server::start(folder.path(), &token);
    let create = format!("{HERE}/{SOURCE}");
    let fine = body("https://feeds.invalid/taxii2/");
    let fields = |answer: &Value| -> Vec<String> {
        let errors = answer["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|error| error["field"].as_str().unwrap().to_owned()).collect()
    };
    let mut missing = fine.clone();
    missing["data"].as_object_mut().unwrap().remove("begin");
    missing["data"].as_object_mut().unwrap().remove("st_proxy");
    let cases = [
        (json!([]), vec!["body"]),
        (json!({ "dat": {} }), vec!["data", "dat"]),
        (missing, vec!["begin", "st_proxy"]),
        (set(&fine, &["begin"], json!("soon")), vec!["begin"]),
        (set(&fine, &["st_enable_source"], json!("true")), vec!["st_enable_source"]),
        (set(&fine, &["fetch_per_page"], json!(5)), vec!["fetch_per_page"]),
        (set(&fine, &["discovery_url"], json!("feeds.invalid")), vec!["discovery_url"]),
        (set(&fine, &["discovery_url"], json!("ftp://feeds.invalid")), vec!["discovery_url"]),
        (set(&fine, &["basic_auth_mode", "password"], json!(MASK)), vec!["basic_auth_mode.password"]),
        (set(&fine, &["basic_auth_mode", "pasword"], json!("x")), vec!["basic_auth_mode.pasword"]),
        (set(&fine, &["name"], json!("a*b")), vec!["name"]),
        (set(&fine, &["collections"], json!([""])), vec!["collections"]),
    ];
    for (body, expected) in cases {
        let (status, answer) = server.json("POST", &create, &body).await;
        assert_eq!((status, &answer["status"]), (400, &json!("Failed")), "{answer}");
        assert_eq!(fields(&answer), expected, "{answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(expected.iter().all(|field| message.contains(&format!("`{field}`"))), "{message}");
    }
    for text in ["", "{", "{\"data\": {\"basic_auth_mode\": \"pass-of-the-feed", "\u{0}"] {
        let request = server.ask("POST", &create).body(text);
        let (status, answer) = answer(request).await;
        assert_eq!(status, 400, "{text}: {answer}");
        assert!(!answer.to_string().contains("pass-of"), "{answer}");
    }
    let large = format!("{{\"data\": \"{}\"}}", "x".repeat(2 << 20));
    assert_eq!(answer(server.ask("POST", &create).body(large)).await.0, 413);

    // Strangers are warned of, and the source is made.
    let order = server.ordered(server.json("POST", &create, &set(&fine, &["colour"], json!("red"))).await).await;
    assert!(order["response"]["warnings"][0].as_str().unwrap().contains("`colour`"), "{order}");
    let id = order["response"]["id"].as_str().unwrap().to_owned();
    let other = "0".repeat(24);
    for (method, path, body, status) in [
        ("PUT", format!("{create}/{other}"), fine.clone(), 404),
        ("PUT", format!("{create}/feeds.invalid"), fine.clone(), 404),
        ("PUT", format!("{create}/{id}"), json!({ "data": {} }), 400),
        ("PUT", format!("{create}/{id}"), set(&fine, &["id"], json!(other)), 400),
        ("PUT", format!("{create}/{id}"), set(&fine, &["name"], json!("Another")), 400),
        ("PUT", format!("/configapi/{POOL}/elsewhere/{SOURCE}/{id}"), fine.clone(), 404),
        ("DELETE", format!("/configapi/elsewhere/7438c21a9f/{SOURCE}/{id}"), json!({}), 404),
        ("DELETE", format!("{create}/{other}"), json!({}), 404),
        ("DELETE", format!("{HERE}/Plugins/{other}"), json!({}), 404),
        ("PATCH", format!("{create}/{id}"), json!({}), 405),
        ("GET", create.clone(), json!({}), 405),
        ("GET", format!("/monitorapi/{POOL}/7438c21a9f/orders/{other}"), json!({}), 404),
        ("GET", format!("/monitorapi/{POOL}/7438c21a9f/orders/..%2F..%2Fkey"), json!({}), 404),
        ("GET", "/configapi/nothing/like/that".to_owned(), json!({}), 404),
        ("GET", "/configapi/..%2F..%2Fetc/l/Plugins".to_owned(), json!({}), 400),
        (
            "POST",
            format!("/configapi/Uploads/{POOL}/7438c21a9f/install"),
            json!({ "data": {
            "application_type": "Application", "file_name": "none.pak", "file_location": "public" } }),
            404,
        ),
        ("POST", format!("{create}/refreshlist"), json!({ "data": 5 }), 400),
    ] {
        let (found, answer) = server.json(method, &path, &body).await;
        assert_eq!((found, &answer["status"]), (status, &json!("Failed")), "{method} {path}: {answer}");
        assert!(answer["message"].is_string());
    }
    // Two of one server have two names, unless somebody names them.
    for number in 2..4 {
        server.ordered(server.json("POST", &create, &fine).await).await;
        let list = server.get(&format!("{HERE}/PluginConfiguration/Ti_stixtaxii")).await;
        assert_eq!(list.as_array().unwrap().last().unwrap()["name"], format!("feeds.invalid {number}"));
    }
    assert_eq!(server.json("POST", &create, &set(&fine, &["name"], json!("Feeds.Invalid"))).await.0, 409);

    // Certificates that are no pair.
    let upload = format!("/configapi/{POOL}/{SOURCE}/upload");
    let (first, second) = (pair("a.example"), pair("b.example"));
    for (name, bytes) in
        [("a.crt", &first.0), ("a.key", &first.1), ("b.key", &second.1), ("text.crt", &"text".to_owned())]
    {
        assert_eq!(server.upload(&upload, name, bytes.as_bytes()).await.0, 200);
    }
    let with = |cert: &str, key: &str| {
        let on = set(&fine, &["ssl_mode"], json!({ "ssl_status": true, "key_pass": "" }));
        set(&on, &["files"], json!({ "cert_file": cert, "cert_key": key }))
    };
    for (body, field) in [
        (with("a.crt", "b.key"), "files.cert_file"),
        (with("a.crt", "missing.key"), "files.cert_key"),
        (with("text.crt", "a.key"), "files.cert_file"),
        (with("a.crt", "a.crt"), "files.cert_key"),
        (with("../key", "a.key"), "files.cert_file"),
        (set(&with("a.crt", "a.key"), &["file_location"], json!("public")), "files.cert_file"),
    ] {
        let (status, answer) = server.json("POST", &create, &body).await;
        assert_eq!((status, fields(&answer)[0].as_str()), (400, field), "{answer}");
    }
    server.ordered(server.json("POST", &create, &with("a.crt", "a.key")).await).await;

    // A key under a passphrase.
    assert_eq!(server.upload(&upload, "locked.key", locked(&first.1, "opens-it").as_bytes()).await.0, 200);
    for (passphrase, wrong) in [("", true), ("guess", true), ("opens-it", false)] {
        let body = set(&with("a.crt", "locked.key"), &["ssl_mode", "key_pass"], json!(passphrase));
        let (status, answer) = server.json("POST", &create, &body).await;
        assert_eq!(status, if wrong { 400 } else { 200 }, "{answer}");
        if wrong {
            assert_eq!(fields(&answer), ["ssl_mode.key_pass"], "{answer}");
            assert!(!answer.to_string().contains("guess"), "{answer}");
        }
    }
}

#[tokio::test]
async fn files_come_in_every_way_scripts_send_them() {
    let folder = tempfile::tempdir().unwrap();
    let token = set_up(folder.path(), CONFIG);
    let server = Server::start(folder.path(), &token);
    let upload = format!("/configapi/{POOL}/{SOURCE}/upload");
    let list = format!("/configapi/{POOL}/{SOURCE}/list");
    let send = async |header: Option<&str>, parts: &[(&str, Option<&str>, &[u8])]| {
        let mut request = server.ask("POST", &upload).header("content-type", FORM).body(form(parts));
        if let Some(header) = header {
            request = request.header("file_name", header);
        }
        answer(request).await
    };
    let ways: [(Option<&str>, Vec<(&str, Option<&str>, &[u8])>); 7] = [
        (None, vec![("file", Some("1.crt"), b"x")]),
        (None, vec![("file_name", Some("2.crt"), b"x")]),
        (Some("3.crt"), vec![("file", Some("other.crt"), b"x")]),
        (Some("4.crt"), vec![("file_name", None, b"x")]),
        (None, vec![("file_name", None, b"5.crt"), ("file", Some("other.crt"), b"x")]),
        (Some("6.crt"), vec![("file_name", None, b"6.crt"), ("file", None, b"x")]),
        (None, vec![("note", None, b"hello"), ("file", Some("7.crt"), b"x"), ("file", Some("8.crt"), b"x")]),
    ];
    for (header, parts) in ways {
        let (status, said) = send(header, &parts).await;
        assert_eq!(status, 200, "{parts:?}: {said}");
    }
    let raw = server.ask("POST", &upload).header("file_name", "9.crt").body("x");
    assert_eq!(answer(raw).await.0, 200);
    let expected: Vec<String> = (1..10).map(|number| format!("{number}.crt")).collect();
    assert_eq!(server.get(&list).await, json!(expected));

    let bad: [(Option<&str>, Vec<(&str, Option<&str>, &[u8])>, u16); 8] = [
        (None, vec![], 400),
        (None, vec![("note", None, b"x")], 400),
        (None, vec![("file", None, b"x")], 400),
        (None, vec![("file_name", None, b"only-a-name")], 400),
        (None, vec![("file", Some("../../key"), b"x")], 400),
        (Some(".hidden"), vec![("file", Some("a"), b"x")], 400),
        (None, vec![("file", Some("empty.crt"), b"")], 400),
        (None, vec![("file", Some("large.crt"), &[0; (1 << 20) + 1])], 413),
    ];
    for (header, parts, expected) in bad {
        let names: Vec<_> = parts.iter().map(|(field, file, _)| (field, file)).collect();
        assert_eq!(send(header, &parts).await.0, expected, "{header:?} {names:?}");
    }
    assert_eq!(answer(server.ask("POST", &upload).body("x")).await.0, 400, "nothing says its name");
    let torn = server.ask("POST", &upload).header("content-type", FORM).body("--XX\r\nContent-Dispo");
    assert_eq!(answer(torn).await.0, 400);
    assert_eq!(server.get(&list).await, json!(expected), "nothing came of them");

    let package = server.ask("POST", "/configapi/Uploads/PublicUpload").header("file_name", "large.pak");
    assert_eq!(answer(package.body(vec![0; 2_000_001])).await.0, 413);
    assert_eq!(server.get("/configapi/Uploads/list").await, json!([]));
    let packages = folder.path().join("taxiway-data/sources/files/packages/public");
    assert_eq!(std::fs::read_dir(packages).unwrap().count(), 0, "nothing is left over");
}

#[tokio::test]
async fn only_those_who_are_named_may_manage() {
    let folder = tempfile::tempdir().unwrap();
    let token = set_up(folder.path(), CONFIG);
    let server = Server::start(folder.path(), &token);
    let list = format!("{}{HERE}/PluginConfiguration/Ti_stixtaxii", server.admin);
    let status = async |request: reqwest::RequestBuilder| {
        let response = request.send().await.unwrap();
        let challenges = response.headers().get_all("www-authenticate").iter().count();
        (response.status().as_u16(), challenges > 0)
    };
    let client = &server.client;
    assert_eq!(status(client.get(&list)).await, (401, true));
    assert_eq!(status(client.get(&list).basic_auth("ann", Some("wrong"))).await, (401, true));
    assert_eq!(status(client.get(&list).basic_auth("bob", Some("bob-password"))).await, (403, false));
    assert_eq!(status(client.get(&list).basic_auth("ann", Some("ann-password"))).await, (200, false));
    assert_eq!(status(client.get(&list).bearer_auth(&token)).await, (200, false));
    assert_eq!(status(client.get(&list).header("x-api-key", &token)).await, (200, false));
    // Web pages of other sites have the browser send its credentials along.
    let page = |name: &str, value: &str| client.get(&list).bearer_auth(&token).header(name, value);
    assert_eq!(status(page("origin", "https://evil.example")).await.0, 403);
    assert_eq!(status(page("origin", "null")).await.0, 403);
    assert_eq!(status(page("sec-fetch-site", "cross-site")).await.0, 403);
    assert_eq!(status(page("origin", &server.admin)).await.0, 200);
    // Nobody is asked for what monitoring reads, and the TAXII listener has no such paths.
    assert_eq!(status(client.get(format!("{}/health", server.admin))).await.0, 200);
    let there = format!("{}{HERE}/Plugins", server.url);
    assert_eq!(status(client.get(there).bearer_auth(&token)).await.0, 404);
    drop(server);

    // Not served unless somebody is named.
    let without = CONFIG.replace("manage = [\"@operators\"]\n", "");
    std::fs::write(folder.path().join("taxiway.toml"), &without).unwrap();
    let server = Server::start(folder.path(), &token);
    let (status, said) = answer(server.ask("GET", &format!("{HERE}/Plugins"))).await;
    assert!(status == 404 && said["message"].as_str().unwrap().contains("admin.manage"), "{said}");
    // Until a hangup.
    std::fs::write(folder.path().join("taxiway.toml"), CONFIG.replace("@operators", "bob")).unwrap();
    assert!(Command::new("kill").args(["-HUP", &server.child.id().to_string()]).status().unwrap().success());
    server.log_until(&["configuration reloaded"]);
    assert_eq!(answer(server.ask("GET", &format!("{HERE}/Plugins"))).await.0, 403);
    let bob = server.client.get(format!("{}{HERE}/Plugins", server.admin)).basic_auth("bob", Some("bob-password"));
    assert_eq!(answer(bob).await.0, 200);
    drop(server);

    // Without a name on a loopback address alone, and said so.
    let open = CONFIG.replace("@operators", "anonymous");
    std::fs::write(folder.path().join("taxiway.toml"), &open).unwrap();
    let server = Server::start(folder.path(), &token);
    let nobody = || server.client.get(format!("{}{HERE}/Plugins", server.admin));
    assert_eq!(answer(nobody()).await.0, 200);
    assert_eq!(answer(nobody().header("host", "localhost:1")).await.0, 200);
    // Whatever name leads here by now: a browser may have been led astray.
    assert_eq!(answer(nobody().header("host", "evil.example")).await.0, 403);
    drop(server);
    for (config, text) in [
        (
            open.replace("admin_listen = \"127.0.0.1:0\"", "admin_listen = \"0.0.0.0:0\"\nadmin_off_loopback = true"),
            "admin.manage",
        ),
        (
            CONFIG.replace("admin_listen = \"127.0.0.1:0\"", "admin_listen = \"0.0.0.0:0\"\nadmin_off_loopback = true"),
            "admin.tls",
        ),
        (CONFIG.replace("admin_listen = \"127.0.0.1:0\"\n", ""), "admin_listen"),
        (format!("{CONFIG}tls = true\n"), "tls.cert"),
        (CONFIG.replace("package_bytes", "packages"), "package_bytes"),
    ] {
        std::fs::write(folder.path().join("taxiway.toml"), &config).unwrap();
        let checked = taxiway(folder.path()).args(["config", "check"]).output().unwrap();
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(!checked.status.success() && said.contains(text), "{text}: {said}");
    }
}

#[tokio::test]
async fn the_api_speaks_https_where_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(folder.path().join("c.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("k.pem"), made.signing_key.serialize_pem()).unwrap();
    let token = set_up(folder.path(), &format!("{CONFIG}tls = true\n[tls]\ncert = \"c.pem\"\nkey = \"k.pem\"\n"));
    let mut server = Server::start(folder.path(), &token);
    assert!(server.admin.starts_with("https://"), "{}", server.admin);
    let trusted = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    server.client = Client::builder().add_root_certificate(trusted).build().unwrap();
    assert_eq!(server.get(&format!("{HERE}/Plugins")).await, json!([]));
    let plain = Client::new().get(server.admin.replace("https", "http")).send().await;
    assert!(plain.is_err() || plain.unwrap().status() != 200);
}

#[tokio::test]
async fn two_clients_at_once_mix_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let token = set_up(folder.path(), CONFIG);
    let server = Server::start(folder.path(), &token);
    let create = format!("{HERE}/{SOURCE}");
    let list = format!("{HERE}/PluginConfiguration/Ti_stixtaxii");
    let order = server.ordered(server.json("POST", &create, &body("https://feeds.invalid/")).await).await;
    let edit = format!("{create}/{}", order["response"]["id"].as_str().unwrap());

    // Whoever says which revision is meant is refused when it is another one.
    let put = async |revision: &str, begin: u64| {
        let sent = set(&body("https://feeds.invalid/"), &["begin"], json!(begin));
        answer(server.ask("PUT", &edit).header("if-match", revision).body(sent.to_string())).await.0
    };
    assert_eq!(put("\"1\"", 5).await, 200);
    assert_eq!(put("\"1\"", 6).await, 412);
    assert_eq!(put("2", 7).await, 200);
    assert_eq!(put("*", 8).await, 200);
    assert_eq!(put("new", 9).await, 400);
    assert_eq!(server.get(&list).await[0]["begin"], 8);

    // Whoever does not, wins or loses as a whole; masks keep what the one before wrote.
    let clients = (1..=8_u64).map(async |client| {
        for round in 0..3 {
            let number = client * 10 + round;
            let mut sent = set(&body("https://feeds.invalid/"), &["begin"], json!(number));
            sent = set(&sent, &["fetch_interval"], json!(number));
            sent = set(&sent, &["basic_auth_mode", "username"], json!(format!("user-{number}")));
            let password = if round == 1 { MASK } else { "pass-of-the-feed" };
            sent = set(&sent, &["basic_auth_mode", "password"], json!(password));
            let (status, said) = server.json("PUT", &edit, &sent).await;
            assert_eq!(status, 200, "{said}");
        }
    });
    futures::future::join_all(clients).await;
    let last = server.get(&list).await[0].clone();
    assert_eq!(last["revision"], 4 + 8 * 3);
    assert_eq!(last["begin"], last["fetch_interval"]);
    assert_eq!(last["basic_auth_mode"]["username"], format!("user-{}", last["begin"]));

    // Two delete it: one of them did.
    let (one, other) = tokio::join!(server.delete(&edit), server.delete(&edit));
    let mut found = [one.0, other.0];
    found.sort_unstable();
    assert_eq!(found, [200, 404]);
}

#[tokio::test]
async fn everything_is_there_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let token = set_up(folder.path(), CONFIG);
    let server = Server::start(folder.path(), &token);
    let (cert, key) = pair("client.example");
    let upload = format!("/configapi/{POOL}/{SOURCE}/upload");
    assert_eq!(server.upload(&upload, "c.crt", cert.as_bytes()).await.0, 200);
    assert_eq!(server.upload(&upload, "c.key", key.as_bytes()).await.0, 200);
    assert_eq!(server.upload(&format!("/configapi/Uploads/{POOL}/"), "A_1.pak", b"x").await.0, 200);
    let install =
        json!({ "data": { "application_type": "Application", "file_name": "A_1.pak", "file_location": "private" } });
    server.ordered(server.json("POST", &format!("/configapi/Uploads/{POOL}/7438c21a9f/install"), &install).await).await;
    let create = format!("{HERE}/{SOURCE}");
    let mut sent = set(&body("https://feeds.invalid/"), &["ssl_mode", "ssl_status"], json!(true));
    sent = set(&sent, &["files"], json!({ "cert_file": "c.crt", "cert_key": "c.key" }));
    let (_, created) = server.json("POST", &create, &sent).await;
    let paths = [
        format!("{HERE}/PluginConfiguration/Ti_stixtaxii"),
        format!("{HERE}/Plugins"),
        format!("/configapi/{POOL}/{SOURCE}/list"),
        format!("/configapi/Uploads/{POOL}/list"),
        created["message"].as_str().unwrap().to_owned(),
    ];
    let mut before = Vec::new();
    for path in &paths {
        before.push(server.get(path).await);
    }
    drop(server);
    let server = Server::start(folder.path(), &token);
    for (path, before) in paths.iter().zip(before) {
        assert_eq!(server.get(path).await, before, "{path}");
    }
    // The secrets open still: the mask keeps them, and the key file of another store does not.
    let id = server.get(&paths[0]).await[0]["id"].as_str().unwrap().to_owned();
    let masked = set(&sent, &["basic_auth_mode", "password"], json!(MASK));
    server.ordered(server.json("PUT", &format!("{create}/{id}"), &masked).await).await;
    // A renewed pair comes one file after the other, and counts once it is one.
    let revision = server.get(&paths[0]).await[0]["revision"].as_u64().unwrap();
    let (cert, key) = pair("renewed.example");
    assert_eq!(server.upload(&upload, "c.crt", cert.as_bytes()).await.0, 200);
    assert_eq!(server.get(&paths[0]).await[0]["revision"], revision);
    assert_eq!(server.upload(&upload, "c.key", key.as_bytes()).await.0, 200);
    assert_eq!(server.get(&paths[0]).await[0]["revision"], revision + 1);
    drop(server);

    // Without its key file the server says what is wrong, and takes the secrets anew.
    let sources = folder.path().join("taxiway-data/sources");
    std::fs::remove_file(sources.join("key")).unwrap();
    let server = Server::start(folder.path(), &token);
    let listed = server.get(&paths[0]).await[0].clone();
    assert!(listed["problem"].as_str().unwrap().contains("key file"), "{listed}");
    assert_eq!(listed["st_enable_source_confirmed"], false);
    let (status, said) = server.json("PUT", &format!("{create}/{id}"), &masked).await;
    assert!(status == 400 && said["message"].as_str().unwrap().contains("basic_auth_mode.password"), "{said}");
    let plain = set(&sent, &["ssl_mode", "ssl_status"], json!(false));
    server.ordered(server.json("PUT", &format!("{create}/{id}"), &plain).await).await;
    assert!(server.get(&paths[0]).await[0]["problem"].is_null());
}

#[tokio::test]
async fn a_source_that_was_made_here_is_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let token =
        set_up(folder.path(), &format!("{CONFIG}[[collection]]\ntitle = \"All\"\nquery = \"\"\nread = [\"ann\"]\n"));
    let server = Server::start(folder.path(), &token);
    let create = format!("{HERE}/{SOURCE}");
    let mut sent = set(&body(&format!("{}/taxii2/", server.url)), &["st_enable_source"], json!(true));
    sent = set(
        &sent,
        &["basic_auth_mode"],
        json!({ "basic_auth_status": true, "username": "ann", "password": "ann-password" }),
    );
    sent = set(&sent, &["name"], json!("Our own"));
    sent = set(&sent, &["collections"], json!(["All"]));
    let order = server.ordered(server.json("POST", &create, &sent).await).await;
    let id = order["response"]["id"].as_str().unwrap().to_owned();
    server.log_until(&["fetched", "Our own", "completed"]);
    let refreshed =
        server.ordered(server.json("POST", &format!("{create}/refreshlist"), &json!({ "data": {} })).await).await;
    let collections = &refreshed["response"]["result"]["sources"][0]["collections"];
    assert_eq!((&collections[0]["title"], &collections[0]["chosen"]), (&json!("All"), &json!(true)), "{refreshed}");
    let general = server.get(&format!("{HERE}/PluginConfiguration/Ti_general")).await;
    let service = &general[0]["services"]["stix_taxii"];
    assert_eq!(service["fetch_status"], "Completed", "{general}");
    assert!(service["last_successful_fetch"].as_i64().unwrap() > 1_700_000_000, "{general}");

    // A wrong password shows, and what went wrong is said.
    let wrong = set(&sent, &["basic_auth_mode", "password"], json!("wrong-pass"));
    server.ordered(server.json("PUT", &format!("{create}/{id}"), &wrong).await).await;
    let refreshed =
        server.ordered(server.json("POST", &format!("{create}/refreshlist"), &json!({ "data": {} })).await).await;
    assert_eq!(refreshed["response"]["success"], false, "{refreshed}");
    let error = refreshed["response"]["errors"][0].as_str().unwrap();
    assert!(error.contains("Our own") && !error.contains("wrong-pass"), "{error}");
}

/// A source is deleted although it is being fetched, from a server that never answers; and an order that was left over goes on
/// after a restart.
#[tokio::test]
async fn a_source_is_deleted_while_it_is_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let token = set_up(folder.path(), CONFIG);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}/taxii2/", listener.local_addr().unwrap());
    let (asked, mut is_asked) = tokio::sync::mpsc::unbounded_channel();
    let never = any(move || async move {
        asked.send(()).unwrap();
        std::future::pending::<&'static str>().await
    });
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(never)).await });
    let server = Server::start(folder.path(), &token);
    let create = format!("{HERE}/{SOURCE}");
    let on = set(&body(&silent), &["st_enable_source"], json!(true));
    let order = server.ordered(server.json("POST", &create, &on).await).await;
    let id = order["response"]["id"].as_str().unwrap();
    tokio::time::timeout(NEVER, is_asked.recv()).await.unwrap();
    let order = server.ordered(server.delete(&format!("{create}/{id}")).await).await;
    assert_eq!((&order["action"], &order["response"]["success"]), (&json!("delete_source"), &json!(true)), "{order}");
    assert_eq!(server.get(&format!("{HERE}/PluginConfiguration/Ti_stixtaxii")).await, json!([]));

    // The server that is asked for its collections never answers; the process is killed over it, and begins anew.
    let order = server.ordered(server.json("POST", &create, &on).await).await;
    let id = order["response"]["id"].as_str().unwrap().to_owned();
    let (_, pending) = server.json("POST", &format!("{create}/refreshlist"), &json!({ "data": {} })).await;
    let path = pending["message"].as_str().unwrap().to_owned();
    assert!(server.get(&path).await["finished"].is_null());
    drop(server);
    let server = Server::start(folder.path(), &token);
    let order = server.get(&path).await;
    assert!(order["finished"].is_null() && order["response"] == json!({}), "{order}");
    assert_eq!(server.get(&format!("{HERE}/PluginConfiguration/Ti_stixtaxii")).await[0]["id"], id);
}
