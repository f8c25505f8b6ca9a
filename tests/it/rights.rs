//! Users, groups, tokens and rights as an operator sets them up: the program, its commands and clients over sockets.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::{Value, json};

use crate::support::{self, Server};

const CONFIG: &str = r#"
listen = "127.0.0.1:0"
[taxii]
api_root = "intel"
[auth]
anonymous = true
[[api_root]]
path = "shared/partners"
title = "For partners"
read = ["@partners"]
[[collection]]
title = "Everything"
alias = "all"
query = ""
read = ["@soc"]
[[collection]]
title = "Open"
alias = "open"
query = "type:Domain"
read = ["anonymous"]
api_roots = ["intel", "shared/partners"]
[[collection]]
title = "Reports"
alias = "reports"
inbox = true
read = ["@soc"]
write = ["@partners"]
api_roots = ["shared/partners"]
"#;

fn taxiway(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = support::taxiway(folder);
    command.args(arguments);
    command
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_str(&said(output)).unwrap()
}

fn failed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn with_password(folder: &Path, arguments: &[&str], password: &str) {
    let mut adding = command(folder, arguments).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    adding.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes()).unwrap();
    assert!(adding.wait().unwrap().success());
}

/// A folder with a configuration, two users by command, and one token.
fn set_up() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("taxiway.toml"), CONFIG).unwrap();
    let records: String = ["a.example", "b.example"]
        .map(|value| {
            let record = json!({
                "indicator_type": "Domain", "value": value, "score": 3, "timestamp": "2024-01-01T00:00:00Z",
            });
            format!("{record}\n")
        })
        .concat();
    std::fs::write(at.join("in.ndjson"), records).unwrap();
    said(&taxiway(at, &["import", "in.ndjson"]));
    with_password(at, &["user", "add", "ann", "--group", "soc", "--password-stdin"], "ann's password");
    said(&taxiway(at, &["user", "add", "pat", "--no-password", "--group", "@partners", "--certificate", "cn:Pat"]));
    let token = said(&taxiway(at, &["token", "add", "pat", "--label", "the feed", "--expires", "90d"]));
    let token = token.trim_end().to_owned();
    assert!(token.starts_with("txw_") && token.len() == 81, "{token}");
    (folder, token)
}

fn serve(folder: &Path) -> Server {
    Server::start(command(folder, &["serve"]))
}

fn client() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::new()
}

#[tokio::test]
async fn users_see_what_the_lists_give_them() {
    let (folder, token) = set_up();
    let server = serve(folder.path());
    let client = client();
    let ask = async |who: &str, path: &str| {
        let request = client.get(format!("{}{path}", server.url));
        let request = match who {
            "ann" => request.basic_auth("ann", Some("ann's password")),
            "pat" => request.bearer_auth(&token),
            _ => request,
        };
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice::<Value>(&answer.bytes().await.unwrap()).unwrap_or_default())
    };
    let (intel, partners) = (format!("{}/intel/", server.url), format!("{}/shared/partners/", server.url));
    for (who, roots) in
        [("", vec![&intel, &partners]), ("ann", vec![&intel, &partners]), ("pat", vec![&intel, &partners])]
    {
        // `Open` is in both roots and open to all, so both are known to all.
        let (status, discovery) = ask(who, "/taxii2/").await;
        assert_eq!((status, &discovery["api_roots"]), (200, &json!(roots)), "{who}");
    }
    let rows = [
        ("", "/intel/collections/open/objects/", 200),
        ("", "/intel/collections/all/objects/", 401),
        ("", "/intel/collections/reports/objects/", 401),
        ("ann", "/intel/collections/all/objects/", 200),
        ("ann", "/shared/partners/collections/reports/objects/", 200),
        ("ann", "/intel/collections/reports/objects/", 404),
        ("pat", "/intel/collections/all/objects/", 404),
        ("pat", "/shared/partners/collections/reports/objects/", 403),
        ("pat", "/shared/partners/collections/open/objects/", 200),
    ];
    for (who, path, status) in rows {
        assert_eq!(ask(who, path).await.0, status, "{who} {path}");
    }
    let reports = ask("pat", "/shared/partners/collections/reports/").await.1;
    assert_eq!((&reports["can_read"], &reports["can_write"]), (&json!(false), &json!(true)));

    // What commands change counts within a second or two, without a restart.
    let id = token.split('_').nth(1).unwrap();
    said(&taxiway(folder.path(), &["user", "groups", "ann", "--remove", "soc"]));
    assert!(said(&taxiway(folder.path(), &["token", "revoke", id])).contains("opens nothing any more"));
    let until = Instant::now() + Duration::from_secs(30);
    while (ask("ann", "/intel/collections/all/objects/").await.0, ask("pat", "/taxii2/").await.0) != (404, 401) {
        assert!(Instant::now() < until, "the changes count");
    }
}

#[test]
fn commands_show_all_but_secrets() {
    let (folder, token) = set_up();
    let at = folder.path();
    assert_eq!(said(&taxiway(at, &["user", "list"])), "ann\npat\n");
    let ann = json_of(&taxiway(at, &["user", "show", "ann", "--output", "json"]));
    assert_eq!(
        ann,
        json!({"name": "ann", "disabled": false, "password": true, "groups": ["soc"], "certificates": [], "tokens": []})
    );
    let tokens = json_of(&taxiway(at, &["token", "list", "--output", "json"]));
    assert_eq!((&tokens[0]["label"], &tokens[0]["state"]), (&json!("the feed"), &json!("good")));
    assert_eq!(tokens[0]["id"].as_str(), token.split('_').nth(1));
    assert_eq!(
        json_of(&taxiway(at, &["user", "groups", "--output", "json"])),
        json!({"partners": ["pat"], "soc": ["ann"]})
    );
    said(&taxiway(at, &["user", "certificates", "pat", "--add", "DNS:Pat.Example", "--remove", "CN:pat"]));
    assert_eq!(said(&taxiway(at, &["user", "certificates", "pat"])), "dns:pat.example\n");
    assert!(said(&taxiway(at, &["user", "disable", "pat"])).contains("enable"));
    let all: String = [
        &["user", "show"][..],
        &["user", "show", "--output", "json"],
        &["token", "list"],
        &["token", "list", "pat"],
        &["user", "groups"],
        &["config", "check"],
    ]
    .map(|arguments| said(&taxiway(at, arguments)))
    .concat();
    let file = std::fs::read_to_string(at.join("taxiway-data/users.json")).unwrap();
    let digest = file.split("\"digest\":\"").nth(1).unwrap().get(..64).unwrap();
    for secret in [token.as_str(), token.rsplit('_').next().unwrap(), digest, "argon2id", "ann's password"] {
        assert!(!all.contains(secret), "{secret}: {all}");
    }
    assert!(!file.contains(token.rsplit('_').next().unwrap()));
    assert!(all.contains("disabled"), "{all}");

    for (arguments, expected) in [
        (&["user", "add", "@soc", "--no-password"][..], "cannot be a user name"),
        (&["user", "add", "eve", "--no-password", "--certificate", "dns:pat.example"], "is that of user `pat`"),
        (&["user", "show", "eve"], "there is no user `eve`"),
        (&["user", "groups", "eve", "--add", "x"], "there is no user `eve`"),
        (&["token", "add", "eve", "--label", "x"], "there is no user `eve`"),
        (&["token", "add", "ann", "--label", "x", "--expires", "2001-01-01"], "a date to come"),
        (&["token", "revoke", "0123"], "there is no token `0123`"),
        (&["user", "check", "ann", "--collection", "Nothing"], "there is no collection `Nothing`"),
    ] {
        let error = failed(&taxiway(at, arguments));
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
fn what_a_user_may_do_can_be_asked() {
    let (folder, _) = set_up();
    let at = folder.path();
    let check = |name: &str, arguments: &[&str]| {
        json_of(&taxiway(at, &[&["user", "check", name, "--output", "json"], arguments].concat()))
    };
    let rights = |value: &Value, root: usize, title: &str| {
        let all = value["api_roots"][root]["collections"].as_array().unwrap();
        let found = all.iter().find(|collection| collection["title"] == title).unwrap();
        ["known", "can_read", "can_write"].map(|key| found[key].as_bool().unwrap())
    };
    let (ann, pat, nobody) = (check("ann", &[]), check("pat", &[]), check("anonymous", &[]));
    for value in [&ann, &pat, &nobody] {
        assert_eq!(value["let_in"], json!(true));
        assert_eq!(rights(value, 0, "Open"), [true, true, false]);
    }
    assert_eq!((rights(&ann, 0, "Everything"), rights(&pat, 0, "Everything")), ([true, true, false], [false; 3]));
    assert_eq!((rights(&ann, 1, "Reports"), rights(&pat, 1, "Reports")), ([true, true, false], [true, false, true]));
    assert_eq!(rights(&nobody, 1, "Reports"), [false; 3]);
    let one = check("pat", &["--collection", "reports"]);
    assert_eq!(one["api_roots"].as_array().map(Vec::len), Some(1));
    let table = said(&taxiway(at, &["user", "check", "pat"]));
    let line = table.lines().find(|line| line.contains("Reports")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(
        [words[0], words[1], words[3], words[4], words[5]],
        ["/shared/partners/", "Reports", "yes", "no", "yes"]
    );
    said(&taxiway(at, &["user", "disable", "pat"]));
    assert_eq!(check("pat", &[])["let_in"], json!(false));
}

#[test]
fn lists_that_name_nobody_are_warned_of() {
    let (folder, _) = set_up();
    let at = folder.path();
    assert!(!said(&taxiway(at, &["config", "check"])).contains("warning"));
    let odd = CONFIG
        .replace("write = [\"@partners\"]", "")
        .replace(
            "query = \"\"\nread = [\"@soc\"]",
            "query = \"\"\nread = [\"@socs\", \"anne\", \"ann\", \"@users\", \"*\"]",
        )
        .replace("anonymous = true", "anonymous = false");
    std::fs::write(at.join("taxiway.toml"), odd).unwrap();
    let warnings = said(&taxiway(at, &["config", "check"]));
    let expected = [
        "warning: collection `Everything`: `@socs` in `read` is no group of any user; did you mean `soc`?",
        "warning: collection `Everything`: `anne` in `read` is no user; did you mean `ann`?",
        "warning: collection `Open`: `anonymous` in `read` lets in nobody but users, since requests without credentials are \
         refused; see `auth.anonymous`",
        "warning: collection `Reports`: reading is for some, but every user may write to it in the API root \
         `shared/partners`; say who may with `write`",
    ];
    let found: Vec<&str> = warnings.lines().filter(|line| line.starts_with("warning")).collect();
    assert_eq!(found, expected, "{warnings}");
}
