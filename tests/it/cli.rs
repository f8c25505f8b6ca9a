//! The program as a user runs it: commands, exit codes, what the screen says, kills.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use serde_json::Value;

use crate::support::{indicator, taxiway};

fn run(folder: &Path, arguments: &[&str]) -> Output {
    taxiway(folder).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", text(&output.stdout), text(&output.stderr)))
}

/// Every file below the folder and what it holds.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
            found.insert(path, Vec::new());
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

fn domains(range: std::ops::Range<usize>) -> String {
    range.map(|n| format!("{}\n", indicator("Domain", &format!("h{n}.example.com"), 1, &["t"]))).collect()
}

#[test]
fn import_reports_what_it_did_and_files_what_it_could_not_take() {
    let folder = tempfile::tempdir().unwrap();
    let mut lines: Vec<String> = domains(0..10).lines().map(str::to_owned).collect();
    lines.insert(4, r#"{"indicator_type":"IP","value":"198.51.1"#.to_owned());
    lines.insert(7, indicator("File", "not-a-hash", 3, &[]).to_string());
    lines.insert(8, indicator("Mutex", "Global-x", 3, &[]).to_string());
    std::fs::write(folder.path().join("in.ndjson"), lines.join("\n")).unwrap();
    let output = run(folder.path(), &["import", "in.ndjson", "--output", "json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let summary = json(&output);
    assert_eq!([&summary["read"], &summary["new"], &summary["rejected"]].map(|n| n.as_u64().unwrap()), [13, 11, 2]);
    assert_eq!(summary["not_served"]["Mutex"], 1);
    let rejected = std::fs::read_to_string(folder.path().join("in.ndjson.rejected.ndjson")).unwrap();
    let rejected: Vec<Value> = rejected.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rejected.iter().map(|reject| reject["line"].as_u64().unwrap()).collect::<Vec<_>>(), [5, 8]);
    assert!(rejected[1]["reason"].as_str().unwrap().contains("hash"));
    let again = json(&run(folder.path(), &["import", "in.ndjson", "--output", "json"]));
    assert_eq!([&again["new"], &again["unchanged"]].map(|n| n.as_u64().unwrap()), [0, 11]);
    let strict = run(folder.path(), &["import", "in.ndjson", "--strict"]);
    assert_eq!(strict.status.code(), Some(1));
    assert!(text(&strict.stderr).contains("line 5"), "{}", text(&strict.stderr));
}

/// Rejected lines may be anything: they go nowhere that others can read, and a store's own files are never among them.
#[test]
fn rejected_records_are_nobody_elses() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let good = domains(0..2);
    let bad = format!("{good}{}\n", indicator("File", "not-a-hash", 3, &[]));
    std::fs::write(at("in.ndjson"), &bad).unwrap();
    assert!(run(folder.path(), &["import", "in.ndjson"]).status.success());
    add_user(folder.path(), "siem", "s3cret", &[]);
    let rejects = at("in.ndjson.rejected.ndjson");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&rejects).unwrap().permissions().mode() & 0o777, 0o600);
        // One that an earlier version left open to all does not stay so.
        std::fs::set_permissions(&rejects, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(run(folder.path(), &["import", "in.ndjson"]).status.success());
        assert_eq!(std::fs::metadata(&rejects).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let before = files(folder.path());
    for inputs in [
        &["taxiway-data"] as &[&str],
        &["in.ndjson", "taxiway-data"],
        &["taxiway-data/*"],
        &["./taxiway-data/users.json"],
    ] {
        let output = run(folder.path(), &[&["import"], inputs].concat());
        assert_eq!(output.status.code(), Some(1), "{inputs:?}");
        assert!(text(&output.stderr).contains("lies inside the store `taxiway-data`"), "{}", text(&output.stderr));
        assert_eq!(files(folder.path()), before, "{inputs:?}");
    }
    // What a shell makes of `*`, a pattern and a folder: one input each.
    let name = "in.ndjson.rejected.ndjson";
    for inputs in [&["in.ndjson", name] as &[&str], &["*.ndjson"], &["."]] {
        let summary = json(&run(folder.path(), &[&["import", "--output", "json"], inputs].concat()));
        assert_eq!([&summary["inputs"], &summary["rejected"]].map(|n| n.as_u64().unwrap()), [1, 1], "{inputs:?}");
    }
    assert_eq!(run(folder.path(), &["import", name]).status.code(), Some(1));
    // Out of date as soon as the input is good.
    std::fs::write(at("in.ndjson"), &good).unwrap();
    assert!(run(folder.path(), &["import", "in.ndjson"]).status.success());
    assert!(!rejects.exists());
    // A file of the user's own with such a name is neither removed nor written over.
    std::fs::write(&rejects, "mine\n").unwrap();
    assert!(run(folder.path(), &["import", "in.ndjson"]).status.success());
    std::fs::write(at("in.ndjson"), &bad).unwrap();
    let output = run(folder.path(), &["import", "in.ndjson"]);
    assert!(text(&output.stderr).contains("holds something else"), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_to_string(&rejects).unwrap(), "mine\n");
    // Nor does it cost the good records: they are in.
    assert_eq!(output.status.code(), Some(1));
    let records = || json(&run(folder.path(), &["info", "--output", "json"]))["store"]["records"].as_u64();
    let before = records();
    std::fs::write(at("more.txt"), "198.51.100.201\nno such thing\n").unwrap();
    std::fs::write(at("more.txt.rejected.ndjson"), "mine\n").unwrap();
    assert_eq!(run(folder.path(), &["import", "more.txt"]).status.code(), Some(1));
    assert_eq!(records(), before.map(|before| before + 1));
}

#[test]
fn an_import_that_could_take_nothing_has_failed() {
    let folder = tempfile::tempdir().unwrap();
    let bad = format!("{}\n", indicator("File", "not-a-hash", 3, &[]));
    let cases = [
        ("none.ndjson", bad.repeat(3), 1, "none.ndjson: none of its 3 records"),
        ("some.ndjson", format!("{bad}{}", domains(0..1)), 0, ""),
        ("known.ndjson", domains(0..1), 0, ""),
        ("empty.ndjson", String::new(), 0, ""),
    ];
    for (name, content, code, expected) in cases {
        std::fs::write(folder.path().join(name), content).unwrap();
        for more in [&["--dry-run"] as &[&str], &[]] {
            let output = run(folder.path(), &[&["import", name], more].concat());
            assert_eq!(output.status.code(), Some(code), "{name}: {}", text(&output.stderr));
            assert!(text(&output.stderr).contains(expected), "{name}: {}", text(&output.stderr));
        }
    }
}

#[test]
fn types_that_nothing_would_be_served_as_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("list.txt"), "evil.example.com\n").unwrap();
    let cases = [
        ("Domain", 0, ""),
        ("domain-name", 0, ""),
        ("hostname", 0, ""),
        ("Domian", 2, "did you mean `Domain`?"),
        ("registrykeys", 2, "did you mean `Registry Key`?"),
        ("Bogus", 2, "types are: IP, CIDR, "),
    ];
    for (name, code, expected) in cases {
        let output = run(folder.path(), &["import", "list.txt", "--type", name]);
        assert_eq!(output.status.code(), Some(code), "{name}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(expected), "{name}: {}", text(&output.stderr));
    }
}

/// Neither a store, whose ids would then be settled, nor reject files.
#[test]
fn a_dry_run_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let bad: String = (0..7).map(|n| format!("{}\n", indicator("File", &format!("bad-{n}"), 3, &[]))).collect();
    std::fs::write(folder.path().join("in.ndjson"), format!("{}{bad}", domains(0..3))).unwrap();
    let dry_run = |new: u64, unchanged: u64| {
        let before = files(folder.path());
        let output = run(folder.path(), &["import", "in.ndjson", "--dry-run", "--output", "json"]);
        let summary = json(&output);
        let counts = [&summary["new"], &summary["unchanged"], &summary["rejected"]].map(|n| n.as_u64().unwrap());
        assert_eq!(counts, [new, unchanged, 7]);
        let said = text(&output.stderr);
        assert!(said.contains("in.ndjson, line 4: ") && said.contains("in.ndjson, line 8: "), "{said}");
        assert!(said.contains("in.ndjson: 2 more") && !said.contains("line 9"), "{said}");
        assert_eq!(files(folder.path()), before);
    };
    dry_run(3, 0);
    std::fs::write(folder.path().join("first.ndjson"), domains(1..3)).unwrap();
    assert!(run(folder.path(), &["import", "first.ndjson"]).status.success());
    dry_run(1, 2);
    // Where no store could be made, a dry run says so too.
    std::fs::create_dir(folder.path().join("foreign")).unwrap();
    std::fs::write(folder.path().join("foreign/notes.txt"), "").unwrap();
    let foreign = run(folder.path(), &["import", "in.ndjson", "--dry-run", "--store", "foreign"]);
    assert!(text(&foreign.stderr).contains("holds no taxiway store"), "{}", text(&foreign.stderr));
}

#[test]
fn standard_input_lists_and_compression() {
    let folder = tempfile::tempdir().unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(b"# bad hosts\n198.51.100.1\nevil.example.com\n").unwrap();
    let mut child = taxiway(folder.path())
        .args(["import", "-", "--source", "My Feed", "--score", "3", "--output", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&packed.finish().unwrap()).unwrap();
    assert_eq!(json(&child.wait_with_output().unwrap())["new"], 2);
    let found = run(
        folder.path(),
        &["query", "sourceBrands:\"my feed\" and verdict:malicious", "--output", "json", "--columns", "type,value"],
    );
    assert_eq!(
        text(&found.stdout),
        "{\"type\":\"IP\",\"value\":\"198.51.100.1\"}\n{\"type\":\"Domain\",\"value\":\"evil.example.com\"}\n"
    );
}

/// Design §3: `EXPLAIN` of a page shows neither sort nor repartition.
#[test]
fn queries_are_explained_and_mistakes_shown_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    for part in 0..3 {
        std::fs::write(folder.path().join("in.ndjson"), domains(part * 10..part * 10 + 15)).unwrap();
        assert!(run(folder.path(), &["import", "in.ndjson"]).status.success());
    }
    let plan = text(&run(folder.path(), &["query", "type:Domain and tags:t", "--explain"]).stdout);
    assert!(plan.contains("DataSourceExec"), "{plan}");
    assert!(
        !plan.contains("SortExec") && !plan.contains("Repartition") && !plan.contains("SortPreservingMerge"),
        "{plan}"
    );
    let bad = run(folder.path(), &["query", "type:IP and (tags:a"]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(text(&bad.stderr).contains('^'), "{}", text(&bad.stderr));
    let unknown = run(folder.path(), &["query", "sourceBrand5:x"]);
    assert!(text(&unknown.stderr).contains("warning"), "{}", text(&unknown.stderr));
    let count = run(folder.path(), &["sql", "SELECT count(*) AS n FROM indicators", "--output", "json"]);
    assert_eq!(text(&count.stdout), "{\"n\":35}\n");
    let write = run(folder.path(), &["sql", "DROP TABLE indicators"]);
    assert_eq!(write.status.code(), Some(1));
}

#[test]
fn wrong_places_and_words_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&[&str], i32, &str); 5] = [
        (&["check"], 1, "holds no taxiway store"),
        (&["import", "missing.ndjson"], 1, "missing.ndjson"),
        (&["import"], 2, "FILE"),
        (&["frobnicate"], 2, "frobnicate"),
        (&["query", "x", "--config", "nowhere.toml"], 1, "nowhere.toml"),
    ];
    for (arguments, code, expected) in cases {
        let output = run(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(expected), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn csv_has_a_header_always_and_lists_as_text() {
    let folder = tempfile::tempdir().unwrap();
    let records = [
        indicator("Domain", "a.example.com", 3, &["c2", "two words"]),
        indicator("Domain", "b.example.com", 1, &["semi;colon", "com,ma"]),
        indicator("Domain", "c.example.com", 1, &[]),
    ];
    std::fs::write(folder.path().join("in.ndjson"), records.map(|record| format!("{record}\n")).concat()).unwrap();
    assert!(run(folder.path(), &["import", "in.ndjson"]).status.success());
    let rows = "a.example.com,c2;two words\nb.example.com,\"semi\\;colon;com,ma\"\nc.example.com,\n";
    let sql = "SELECT value, tags FROM indicators ORDER BY value";
    let none = "SELECT value, tags FROM indicators WHERE score = 2";
    let cases: [(&[&str], String); 6] = [
        (&["query", "", "--columns", "value,tags"], format!("value,tags\n{rows}")),
        (&["query", "score:2", "--columns", "value,tags"], "value,tags\n".to_owned()),
        (&["sql", sql], format!("value,tags\n{rows}")),
        (&["sql", none], "value,tags\n".to_owned()),
        (&["sql", "SELECT array_agg(DISTINCT type) AS types FROM indicators"], "types\nDomain\n".to_owned()),
        (&["sql", "-- a comment\nSELECT count(*) AS n FROM indicators"], "n\n3\n".to_owned()),
    ];
    for (arguments, expected) in cases {
        let output = run(folder.path(), &[arguments, &["--output", "csv"]].concat());
        assert_eq!(text(&output.stdout), expected, "{arguments:?}: {}", text(&output.stderr));
    }
    let all = run(folder.path(), &["query", "", "--columns", "*", "--output", "csv"]);
    assert_eq!(text(&all.stdout).lines().count(), 4, "{}", text(&all.stderr));
}

#[test]
fn a_query_gives_programs_everything_and_people_a_beginning_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.ndjson"), domains(0..25)).unwrap();
    assert!(run(folder.path(), &["import", "in.ndjson"]).status.success());
    // What is asked, how many records come, whether more are spoken of.
    let cases: [(&[&str], usize, bool); 7] = [
        (&["tags:t"], 20, true),
        (&["tags:t", "--limit", "3"], 3, false),
        (&["tags:t", "--limit", "30"], 25, false),
        (&["value:h1*"], 11, false),
        (&["tags:t", "--output", "json"], 25, false),
        (&["tags:t", "--output", "csv"], 25, false),
        (&["tags:t", "--output", "json", "--limit", "4"], 4, false),
    ];
    for (arguments, count, more) in cases {
        let output = run(folder.path(), &[&["query"], arguments].concat());
        let shown = text(&output.stdout).lines().filter(|line| line.contains(".example.com")).count();
        assert_eq!(shown, count, "{arguments:?}: {}", text(&output.stdout));
        assert_eq!(
            text(&output.stderr).contains("more match: `--limit"),
            more,
            "{arguments:?}: {}",
            text(&output.stderr)
        );
    }
    let others = run(folder.path(), &["query", "-value:h1*", "--output", "json"]);
    assert_eq!(text(&others.stdout).lines().count(), 14, "{}", text(&others.stderr));
    let others = run(folder.path(), &["query", "--output", "json", "-value:h1*"]);
    assert_eq!(text(&others.stdout).lines().count(), 14, "{}", text(&others.stderr));
}

/// The command's JSON is what a client gets, also where the configuration hides something.
#[tokio::test]
async fn collections_are_those_that_the_server_answers_with() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let collections = "[[collection]]\ntitle = \"A\"\nquery = \"type:IP\"\nalias = \"a\"\ndescription = \"x\"\n\
                       [[collection]]\ntitle = \"B\"\nquery = \"\"\n";
    for hide in [false, true] {
        let config = format!("{collections}[taxii]\nhide_query = {hide}\n");
        std::fs::write(folder.path().join("taxiway.toml"), config).unwrap();
        let server = serve(folder.path(), &[]);
        let url = format!("{}/threatintel/collections/", server.url);
        let answer: Value = serde_json::from_str(&reqwest::get(url).await.unwrap().text().await.unwrap()).unwrap();
        let said = json(&run(folder.path(), &["collections", "--output", "json"]));
        assert_eq!(said, answer["collections"]);
        assert_eq!(said.to_string().contains("type:IP"), !hide, "{said}");
        assert!(said.to_string().contains(r#""alias":"a""#), "{said}");
    }
}

/// What has no CSV form says so, instead of giving something else.
#[test]
fn every_command_has_the_forms_that_it_offers() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.ndjson"), domains(0..3)).unwrap();
    assert!(run(folder.path(), &["import", "in.ndjson"]).status.success());
    add_user(folder.path(), "siem", "s3cret", &[]);
    let commands: [&[&str]; 6] =
        [&["check"], &["collections"], &["info"], &["import", "in.ndjson"], &["compact"], &["user", "list"]];
    for command in commands {
        for (form, code) in [("table", 0), ("json", 0), ("csv", 2)] {
            let output = run(folder.path(), &[command, &["--output", form]].concat());
            assert_eq!(output.status.code(), Some(code), "{command:?} {form}: {}", text(&output.stderr));
            let is_json = serde_json::from_slice::<Value>(&output.stdout).is_ok();
            assert_eq!(is_json, form == "json", "{command:?} {form}: {}", text(&output.stdout));
        }
    }
    assert_eq!(json(&run(folder.path(), &["user", "list", "--output", "json"])), serde_json::json!(["siem"]));
}

/// What only a process can show: the lock dies with it, and nothing it left is in the way of the next one. That the
/// store is whole whatever the step is shown by `src/store/tests.rs`, and under SIGKILL by `tests/smoke/crash.py`.
#[test]
fn an_import_that_is_killed_is_completed_by_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("list.txt");
    // More than is gathered before a commit begins.
    let records = taxiway::store::ROW_GROUP_ROWS + 10_000;
    let lines: String = (0..records).map(|n| format!("h{n}.example.com\n")).collect();
    std::fs::write(&input, &lines).unwrap();
    // One thread, so that few blocks are on their way before the first is taken.
    let mut child = taxiway(folder.path())
        .args(["import", "-"])
        .env("RAYON_NUM_THREADS", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // It never sees the end of its input: again and again the same lines, until it is gone.
    pipe.write_all(lines.as_bytes()).unwrap();
    let feeding = std::thread::spawn(move || while pipe.write_all(lines.as_bytes()).is_ok() {});
    let lock = std::fs::File::options().write(true).open(folder.path().join("taxiway-data/lock")).unwrap();
    while lock.try_lock().is_ok() {
        lock.unlock().unwrap();
        assert!(child.try_wait().unwrap().is_none(), "the import ended by itself");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    feeding.join().unwrap();
    assert!(lock.try_lock().is_ok(), "the lock outlives its process");
    lock.unlock().unwrap();
    let check = run(folder.path(), &["check"]);
    assert!(check.status.success(), "{}{}", text(&check.stdout), text(&check.stderr));
    assert!(run(folder.path(), &["import", "list.txt"]).status.success());
    let info = json(&run(folder.path(), &["info", "--output", "json"]));
    assert_eq!([&info["store"]["records"], &info["store"]["rows"]].map(|n| n.as_u64().unwrap()), [records as u64; 2]);
    assert!(run(folder.path(), &["check"]).status.success());
}

/// A server that ends with its test.
struct Server {
    child: Child,
    url: String,
    said: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(folder: &Path, arguments: &[&str]) -> Server {
    serve_with(folder, arguments, &[])
}

fn serve_with(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Server {
    let mut child = taxiway(folder)
        .arg("serve")
        .args(arguments)
        .env("TAXIWAY_LISTEN", "127.0.0.1:0")
        .envs(variables.iter().copied())
        .env("RUST_LOG", "warn")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut server = Server { child, url: String::new(), said: String::new() };
    while server.url.is_empty() {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the server ended: {}", server.said);
        server.said.push_str(&line);
        if let Some(url) = line.trim().strip_prefix("listening on ") {
            server.url = url.to_owned();
        }
    }
    server
}

/// The first thing a new user does.
#[tokio::test]
async fn serve_without_configuration_shows_a_sample() {
    // The HTTP client wants a TLS provider even where it needs none; another test may have installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path(), &[]);
    assert!(server.said.contains("sample of 1,006 records"), "{}", server.said);
    let command = server.said.lines().find(|line| line.starts_with("try")).unwrap();
    let url = command.split('\'').nth(1).unwrap().replacen("http://127.0.0.1:9000", &server.url, 1);
    let answer = reqwest::get(&url).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/taxii+json;version=2.1");
    let page: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(page["objects"].as_array().unwrap().len(), 2);
    assert_eq!(page["more"], true);
    // Another process imports; the server shows it without being told.
    std::fs::write(folder.path().join("more.ndjson"), domains(0..5)).unwrap();
    assert!(run(folder.path(), &["import", "more.ndjson"]).status.success());
    let found = format!("{}/threatintel/collections/domains/objects/?match[type]=domain-name&limit=1000", server.url);
    for _ in 0..2_000 {
        let text = reqwest::get(&found).await.unwrap().text().await.unwrap();
        if text.contains("h4.example.com") {
            return;
        }
    }
    panic!("the import never showed");
}

/// Made-up indicators have no place in a store that somebody set up.
#[test]
fn the_sample_goes_into_the_store_of_a_first_try_only() {
    let cases: [(&[&str], &[(&str, &str)]); 5] = [
        (&["--store", "taxiway-data"], &[]),
        (&["--config", "empty.toml"], &[]),
        (&[], &[("TAXIWAY_CONFIG", "empty.toml")]),
        (&[], &[("TAXIWAY_STORE__LOCATION", "taxiway-data")]),
        (&[], &[("TAXIWAY_AUTH__ANONYMOUS", "true")]),
    ];
    for (arguments, variables) in cases {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("empty.toml"), "").unwrap();
        let server = serve_with(folder.path(), arguments, variables);
        assert!(server.said.contains("taxiway-data (0 records)"), "{arguments:?} {variables:?}: {}", server.said);
    }
    let folder = tempfile::tempdir().unwrap();
    let server = serve_with(folder.path(), &[], &[("TAXIWAY_LOG__LEVEL", "warn")]);
    assert!(server.said.contains("taxiway-data (1,006 records)"), "{}", server.said);
}

#[test]
fn a_port_in_use_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = taxiway(folder.path()).arg("serve").env("TAXIWAY_LISTEN", &address).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&address), "{}", text(&output.stderr));
    assert!(!folder.path().join("taxiway-data").exists(), "nothing is made when the address cannot be had");
}

#[test]
fn what_keeps_a_server_from_starting_is_all_said_before_anything_is_made() {
    let tls = "[tls]\ncert = \"no.crt\"\nkey = \"no.key\"\n";
    let users = "[auth]\nusers = \"users\"\n";
    let cases: [(String, &[&str]); 5] = [
        ("listen = \"0.0.0.0:0\"\n".to_owned(), &["can be reached from other machines"]),
        (tls.to_owned(), &["read certificate `no.crt`"]),
        (users.to_owned(), &["users file `users`, line 1"]),
        (format!("{tls}{users}"), &["has 2 problems", "read certificate `no.crt`", "users file `users`, line 1"]),
        // A server on the default address would be open to nobody else: what cannot be read decides nothing.
        (
            format!("listen = \"0.0.0.0:0\"\n{tls}[store]\nhistroy = \"1d\"\n"),
            &["has 2 problems", "taxiway.toml:6:1: there is no setting `store.histroy`", "read certificate `no.crt`"],
        ),
    ];
    for (config, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("taxiway.toml"), &config).unwrap();
        std::fs::write(folder.path().join("users"), "nobody\n").unwrap();
        let before = files(folder.path());
        for arguments in [&["serve"] as &[&str], &["serve", "--check"], &["config", "check"]] {
            let output = run(folder.path(), arguments);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}, {config}");
            for part in expected {
                assert!(text(&output.stderr).contains(part), "{arguments:?}, {config}: {}", text(&output.stderr));
            }
            assert_eq!(files(folder.path()), before, "{arguments:?}, {config}");
        }
    }
}

#[test]
fn a_check_before_serving_takes_no_port_and_writes_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.ndjson"), domains(0..3)).unwrap();
    let check = |expected: &str| {
        let before = files(folder.path());
        let output =
            taxiway(folder.path()).args(["serve", "--check"]).env("TAXIWAY_LISTEN", &address).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains(expected), "{}", text(&output.stdout));
        assert_eq!(files(folder.path()), before);
    };
    check("which will be made");
    assert!(run(folder.path(), &["import", "in.ndjson"]).status.success());
    check("`taxiway-data` on");
    let foreign = run(folder.path(), &["serve", "--check", "--store", "."]);
    assert!(text(&foreign.stderr).contains("holds no taxiway store"), "{}", text(&foreign.stderr));
}

fn add_user(folder: &Path, name: &str, password: &str, arguments: &[&str]) {
    let mut adding = taxiway(folder)
        .args(["user", "add", name, "--password-stdin"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    adding.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes()).unwrap();
    assert!(adding.wait().unwrap().success());
}

/// A user added to one store must not leave the server of that store open.
#[tokio::test]
async fn user_and_serve_mean_the_same_users() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path(), &["--store", "other"]);
    assert!(
        server.said.contains("users      open to everyone on this machine (no users in `other/users.json`)"),
        "{}",
        server.said
    );
    drop(server);
    add_user(folder.path(), "siem", "s3cret", &["--store", "other"]);
    assert!(!folder.path().join("taxiway-data").exists());
    let server = serve(folder.path(), &["--store", "other"]);
    assert!(server.said.contains("users      1 user in `other/users.json`"), "{}", server.said);
    assert!(server.said.contains("try        curl -u siem 'http://"), "{}", server.said);
    assert_eq!(reqwest::get(format!("{}/taxii2/", server.url)).await.unwrap().status(), 401);
    for arguments in [&["user", "list", "--store", "other"] as &[&str], &["user", "--store", "other", "list"]] {
        assert_eq!(text(&run(folder.path(), arguments).stdout), "siem\n", "{arguments:?}");
    }
}

/// Basic authentication over TLS, with users made by the command.
#[tokio::test]
async fn users_and_tls() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.path().join("taxiway.toml"), "[tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\n[[collection]]\ntitle = \"All\"\nalias = \"all\"\nquery = \"\"\n").unwrap();
    std::fs::write(folder.path().join("in.ndjson"), domains(0..3)).unwrap();
    assert!(run(folder.path(), &["import", "in.ndjson"]).status.success());
    add_user(folder.path(), "siem", "s3cret", &[]);
    let server = serve(folder.path(), &[]);
    assert!(server.said.contains("try        curl -k -u siem 'https://"), "{}", server.said);
    assert!(server.url.starts_with("https://"), "{}", server.url);
    let client = reqwest::Client::builder()
        .use_preconfigured_tls({
            let mut roots = rustls::RootCertStore::empty();
            roots.add(made.cert.der().clone()).unwrap();
            rustls::ClientConfig::builder_with_provider(std::sync::Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth()
        })
        .build()
        .unwrap();
    let url = format!("{}/threatintel/collections/all/objects/", server.url);
    for (user, status) in [
        (None, 401),
        (Some(("siem", "wrong")), 401),
        (Some(("nobody", "s3cret")), 401),
        (Some(("siem", "s3cret")), 200),
    ] {
        let request = client.get(&url);
        let request = match user {
            Some((name, password)) => request.basic_auth(name, Some(password)),
            None => request,
        };
        assert_eq!(request.send().await.unwrap().status(), status, "{user:?}");
    }
}
