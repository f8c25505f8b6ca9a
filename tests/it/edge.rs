//! The running program as an operator meets it: signals, monitoring, logs.
#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{listening, taxiway};

/// So long that only what never happens takes longer.
const NEVER: Duration = Duration::from_secs(60);

struct Server {
    child: Child,
    url: String,
    admin: String,
    log: Receiver<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Serves what `taxiway.toml` in that folder says.
    fn start(folder: &Path) -> Self {
        let mut child = taxiway(folder).arg("serve").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, log) = channel();
        let errors = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || errors.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let (said, url) = listening(&mut child);
        let admin = said.iter().find_map(|line| line.strip_prefix("monitoring ")?.split("/metrics").next());
        let admin = admin.expect("the address of monitoring").to_owned();
        Self { child, url, admin, log }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Lines of the log up to the first with that text in it.
    fn log_until(&self, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.log.recv_timeout(NEVER).unwrap_or_else(|_| panic!("`{text}` was never said: {lines:#?}"));
            lines.push(line);
            if lines.last().unwrap().contains(text) {
                return lines;
            }
        }
    }
}

fn configure(folder: &Path, text: &str) {
    std::fs::write(folder.join("taxiway.toml"), text).unwrap();
}

const BASE: &str = "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n[log]\naudit = \"audit.jsonl\"\n";

#[tokio::test]
async fn a_hangup_reads_the_configuration_anew() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let collection = |title: &str| format!("[[collection]]\ntitle = \"{title}\"\nquery = \"type:IP\"\n");
    configure(folder.path(), &format!("{BASE}{}", collection("First")));
    let server = Server::start(folder.path());
    let titles = async || {
        let answer = reqwest::get(format!("{}/threatintel/collections/", server.url)).await.unwrap();
        assert_eq!(answer.status(), 200);
        let list: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        let titles = list["collections"].as_array().unwrap();
        titles.iter().map(|one| one["title"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(titles().await, ["First"]);

    let audit = folder.path().join("audit.jsonl");
    std::fs::rename(&audit, folder.path().join("audit.1")).unwrap();
    configure(
        folder.path(),
        &format!(
            "{BASE}[limits]\nurl_bytes = 50\n{}[[collection]]\ntitle = \"Second\"\nalias = \"in\"\ninbox = true\n",
            collection("First")
        ),
    );
    server.signal("HUP");
    server.log_until("configuration reloaded");
    let mut found = titles().await;
    found.sort();
    assert_eq!(found, ["First", "Second"]);
    let long = format!("{}/taxii2/?{}", server.url, "x".repeat(60));
    assert_eq!(reqwest::get(&long).await.unwrap().status(), 414);
    let posted = reqwest::Client::new()
        .post(format!("{}/threatintel/collections/in/objects/", server.url))
        .header("content-type", "application/taxii+json;version=2.1")
        .body(json!({ "objects": [] }).to_string());
    assert_eq!(posted.send().await.unwrap().status(), 202, "the first inbox is open");

    // All that is wrong is said, and everything stays.
    let wrong =
        format!("{BASE}[limits]\nurl_bytes = 0\n[tls]\ncert = \"no.crt\"\nkey = \"no.key\"\n{}", collection(""));
    configure(folder.path(), &wrong);
    server.signal("HUP");
    let said = server.log_until("the configuration stays as it was");
    for text in ["limits.url_bytes", "collection.title", "no.crt"] {
        assert!(said.iter().any(|line| line.contains(text)), "{text}: {said:#?}");
    }
    assert_eq!(titles().await.len(), 2);
    assert_eq!(reqwest::get(&long).await.unwrap().status(), 414);

    // What waits for a restart is named, the rest is taken.
    let moved = BASE.replace("[log]", "[store]\nlocation = \"elsewhere\"\n[log]\nlevel = \"debug\"");
    configure(folder.path(), &format!("{}{}", moved.replacen("127.0.0.1:0", "127.0.0.1:1", 1), collection("Third")));
    server.signal("HUP");
    let said = server.log_until("needs a restart");
    let named = said.last().unwrap();
    assert!(["listen", "log", "store"].iter().all(|name| named.contains(name)), "{named}");
    assert_eq!(titles().await, ["Third"]);

    let metrics = reqwest::get(format!("{}/metrics", server.admin)).await.unwrap().text().await.unwrap();
    for line in [
        "taxiway_store_rows 0",
        "taxiway_collections 1",
        "taxiway_reloads_total{what=\"configuration\",result=\"ok\"} 2",
        "taxiway_reloads_total{what=\"configuration\",result=\"failed\"} 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}\n{metrics}");
    }
    assert!(audit.exists(), "the audit log was opened anew");
}

#[tokio::test]
async fn a_server_told_to_stop_ends_well() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path(), BASE);
    let mut server = Server::start(folder.path());
    assert_eq!(reqwest::get(format!("{}/health", server.admin)).await.unwrap().status(), 200);
    assert_eq!(reqwest::get(format!("{}/ready", server.admin)).await.unwrap().status(), 200);
    assert_eq!(reqwest::get(format!("{}/taxii2/", server.url)).await.unwrap().status(), 200);
    server.signal("TERM");
    server.log_until("stopping");
    let ended = server.child.wait().unwrap();
    assert_eq!(ended.code(), Some(0), "{ended}");
}
