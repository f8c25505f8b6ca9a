//! `taxiway bench` against a served store: what it counts is what is there, in both versions, with and without credentials.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::support::indicator;

const RECORDS: usize = 230;

fn taxiway(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taxiway"));
    command.current_dir(folder).env_remove("RUST_LOG").env_remove("TAXIWAY_BENCH_PASSWORD").stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A server that ends with its test.
struct Server {
    child: Child,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves a store of two collections: all of its records, and those with a tag.
fn serve(folder: &Path) -> Server {
    let lines: String = (0..RECORDS)
        .map(|n| format!("{}\n", indicator("Domain", &format!("h{n}.example.com"), 1, &[["even", "odd"][n % 2]])))
        .collect();
    std::fs::write(folder.join("in.ndjson"), lines).unwrap();
    assert!(taxiway(folder).args(["import", "in.ndjson"]).output().unwrap().status.success());
    let config = "listen = \"127.0.0.1:0\"\n[[collection]]\ntitle = \"All\"\nquery = \"\"\n[[collection]]\n\
                  title = \"Odd\"\nquery = \"tags:odd\"\n";
    std::fs::write(folder.join("taxiway.toml"), config).unwrap();
    let mut child = taxiway(folder).arg("serve").env("RUST_LOG", "warn").stdout(Stdio::piped()).spawn().unwrap();
    let mut url = None;
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        if let Some(listens) = line.strip_prefix("listening on ") {
            url = Some(listens.to_owned());
            break;
        }
    }
    Server { child, url: url.unwrap() }
}

fn bench(folder: &Path, arguments: &[&str]) -> Output {
    let quick = ["bench", "--requests", "2", "--seconds", "0", "--walk-seconds", "0", "--clients", "2"];
    taxiway(folder).args(quick).args(arguments).output().unwrap()
}

fn measurements<'a>(report: &'a Value, name: &str) -> Vec<&'a Value> {
    report["measurements"].as_array().unwrap().iter().filter(|it| it["name"] == name).collect()
}

#[test]
fn what_is_served_is_what_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path());
    for (version, collection, expected) in
        [("2.1", "All", RECORDS), ("2.0", "All", RECORDS), ("2.1", "Odd", RECORDS / 2)]
    {
        let output = bench(
            folder.path(),
            &[&server.url, "--taxii", version, "--collection", collection, "--limits", "100,whole", "--output", "json"],
        );
        assert!(output.status.success(), "{version} {}{}", text(&output.stdout), text(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["taxii"], version);
        assert_eq!((&report["objects"], &report["objects_complete"]), (&expected.into(), &true.into()), "{report:#}");
        assert_eq!(report["problems"], Value::Array(Vec::new()));
        let walks = measurements(&report, "walk");
        assert_eq!(walks.len(), 6, "two sizes in three encodings");
        for walk in walks {
            assert_eq!(walk["objects"], expected, "{version} {walk:#}");
            assert_eq!(walk["requests"], if walk["limit"] == "whole" { 1 } else { expected.div_ceil(100) }, "{walk:#}");
            assert_eq!(walk["answered_encoding"], walk["encoding"], "{version} {walk:#}");
            let (wire, body) = (walk["wire_bytes"].as_u64().unwrap(), walk["body_bytes"].as_u64().unwrap());
            assert_eq!(wire == body, walk["encoding"] == "plain", "{walk:#}");
        }
        assert_eq!(measurements(&report, "walks of 2 clients")[0]["objects"], expected * 2);
        assert_eq!(measurements(&report, "one object by id")[0]["objects"], 2, "asked for twice");
        assert_eq!(measurements(&report, "poll, nothing new")[0]["objects"], 0, "{report:#}");
    }
}

#[test]
fn a_report_is_written_and_a_secret_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path());
    let mut add = taxiway(folder.path())
        .args(["user", "add", "siem", "--password-stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    add.stdin.take().unwrap().write_all(b"s3cret\n").unwrap();
    assert!(add.wait().unwrap().success());
    std::fs::write(folder.path().join("password"), "s3cret\n").unwrap();
    // The server takes the user up within a second or two; until then it lets in anyone.
    let shut =
        || text(&bench(folder.path(), &[&server.url, "--collection", "All"]).stderr).contains("does not let us in");
    while !shut() {
        std::thread::yield_now();
    }
    let common = [&server.url, "--collection", "All", "--user", "siem", "--limits", "50", "--report", "report.md"];
    let with_file = bench(folder.path(), &[&common[..], &["--password-file", "password"]].concat());
    assert!(with_file.status.success(), "{}", text(&with_file.stderr));
    let report = std::fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert!(report.contains("| walk | 50 | gzip | 5 | 230 |"), "{report}");
    let nothing_to_ask = bench(folder.path(), &common);
    assert!(text(&nothing_to_ask.stderr).contains("`--password-file FILE` or in `TAXIWAY_BENCH_PASSWORD`"));
    for words in [&["--user", "siem:s3cret"] as &[&str], &["--user", "siem", "--token"]] {
        let refused = bench(folder.path(), &[&[server.url.as_str()], words].concat());
        assert!(!refused.status.success(), "{words:?}");
    }
    for said in [&with_file.stdout, &with_file.stderr, &nothing_to_ask.stderr, &report.into_bytes()] {
        assert!(!text(said).contains("s3cret"), "{}", text(said));
    }
    std::fs::write(folder.path().join("password"), "wrong\n").unwrap();
    let wrong = bench(folder.path(), &[&common[..], &["--password-file", "password"]].concat());
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("does not let us in (status 401)"), "{}", text(&wrong.stderr));
}
