//! Who gets to see and do what, through the whole service: API roots, lists, proofs, and what strangers learn, which is nothing.

use std::sync::Arc;
use std::time::Duration;

use argon2::Params;
use axum::body::Body as HttpBody;
use axum::http::Request;
use serde_json::{Value, json};

use super::tests::{Answer, Fake, Server, basic, serve_fake};
use crate::feed::api::Profile;
use crate::feed::collection::{Access, CollectionSpec, QueryText};
use crate::model::time::Timestamp;
use crate::serve::client::{Client, ClientCertificate};
use crate::serve::negotiate::{TAXII_20, TAXII_21};
use crate::serve::users::{UserChange, UserFile, hash_password};
use crate::serve::{ApiRoot, Options};

/// Tokens of the users, by what they were made for.
struct Made {
    server: Server,
    tokens: Vec<(&'static str, String)>,
    users: UserFile,
}

impl Made {
    fn token(&self, label: &str) -> &str {
        self.tokens.iter().find(|(known, _)| *known == label).map(|(_, token)| token.as_str()).expect("made")
    }

    async fn get(&self, who: &str, path: &str) -> Answer {
        self.ask("GET", who, path).await
    }

    /// `who` is a user with the password `secret`, or nobody.
    async fn ask(&self, method: &str, who: &str, path: &str) -> Answer {
        let pair = basic(&format!("{who}:secret"));
        let mut headers = vec![("host", "h"), ("accept", TAXII_21)];
        if !who.is_empty() {
            headers.push(("authorization", &pair));
        }
        self.server.request(method, path, &headers).await
    }
}

fn list(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(|name| (*name).to_owned()).collect())
}

fn spec(alias: &str, inbox: bool, read: Option<&[&str]>, write: Option<&[&str]>, roots: &[&str]) -> CollectionSpec {
    CollectionSpec {
        alias: Some(alias.to_owned()),
        inbox,
        access: Access { read: read.and_then(list), write: write.and_then(list) },
        api_roots: list(roots).unwrap_or_default(),
        ..CollectionSpec::new(alias, QueryText::Xsoar(String::new()))
    }
}

/// Two roots, one inside the path of the other; `ann` of the soc, `pat` of the partners, `eve` of nothing; anonymous may come in.
fn made(profile: Profile, change: impl FnOnce(&mut Options)) -> Made {
    let folder = tempfile::tempdir().expect("folder");
    let partners = Access { read: list(&["@partners", "@soc"]), write: list(&["@partners"]) };
    let shared = ApiRoot {
        title: Some("For partners".to_owned()),
        description: Some("Shared".to_owned()),
        access: partners,
        ..ApiRoot::new("feeds/partners")
    };
    let mut options = Options { profile, api_roots: vec![ApiRoot::new("feeds"), shared], ..Options::default() };
    options.auth.users = folder.path().join("users.json");
    options.auth.anonymous = Some(true);
    change(&mut options);
    let cheap = || Params::new(Params::MIN_M_COST, 1, 1, None).expect("parameters");
    let mut users = UserFile::load(&options.auth.users).expect("users");
    for (name, groups) in [("ann", &["soc"][..]), ("pat", &["partners"]), ("eve", &[])] {
        users.add_hashed(name, hash_password("secret", cheap()).expect("hash")).expect("add");
        users.change(name, UserChange { groups: list(groups), ..UserChange::default() }).expect("change");
    }
    let certificates = |names: &[&str]| UserChange { certificates: list(names), ..UserChange::default() };
    users.put("robot", certificates(&["cn:Robot", "dns:robot.example"])).expect("add");
    users.put("gone", UserChange { disabled: Some(true), ..certificates(&["cn:Gone"]) }).expect("add");
    let mut tokens = Vec::new();
    for (label, user, expires) in [
        ("good", "ann", None),
        ("expired", "ann", Some(Timestamp(1))),
        ("revoked", "ann", None),
        ("disabled", "gone", None),
    ] {
        tokens.push((label, users.add_token(user, label, expires).expect("a token").text));
    }
    let id = users.tokens()[2].id.clone();
    users.revoke_token(&id).expect("is there");
    let other = if profile == Profile::Standard { Profile::Xsoar } else { Profile::Standard };
    let specs = [
        spec("public", false, None, None, &[]),
        spec("users", false, Some(&["@users"]), None, &[]),
        CollectionSpec { profile: Some(other), ..spec("soc", true, Some(&["@soc"]), Some(&["ann"]), &[]) },
        spec("drop", true, Some(&["@soc"]), Some(&["anonymous"]), &["feeds"]),
        spec("shared", true, None, None, &["feeds/partners"]),
        spec("both", false, None, None, &["feeds", "feeds/partners"]),
    ];
    let feed = Fake::of(profile, &specs, |_| ());
    Made { server: serve_fake(folder, feed, options), tokens, users }
}

fn standard() -> Made {
    made(Profile::Standard, |_| ())
}

#[tokio::test]
async fn discovery_and_lists_show_what_one_may_know_of() {
    let made = standard();
    let (feeds, partners) = ("http://h/feeds/", "http://h/feeds/partners/");
    // Title, may read, may write.
    type Listed = &'static [(&'static str, bool, bool)];
    let rows: [(&str, &[&str], Listed, Listed); 4] = [
        ("", &[feeds], &[("both", true, false), ("drop", false, true), ("public", true, false)], &[]),
        (
            "eve",
            &[feeds],
            &[("both", true, false), ("drop", false, true), ("public", true, false), ("users", true, false)],
            &[],
        ),
        (
            "pat",
            &[feeds, partners],
            &[("both", true, false), ("drop", false, true), ("public", true, false), ("users", true, false)],
            &[("both", true, false), ("shared", true, true)],
        ),
        (
            "ann",
            &[feeds, partners],
            &[
                ("both", true, false),
                ("drop", true, true),
                ("public", true, false),
                ("soc", true, true),
                ("users", true, false),
            ],
            &[("both", true, false), ("shared", true, false)],
        ),
    ];
    for (who, roots, in_feeds, in_partners) in rows {
        for path in ["/taxii2/", "/taxii"] {
            let discovery = made.get(who, path).await.json();
            assert_eq!((&discovery["api_roots"], &discovery["default"]), (&json!(roots), &json!(feeds)), "{who}");
        }
        let landing = made.get(who, "/").await;
        let text = String::from_utf8_lossy(&landing.body).into_owned();
        assert_eq!(text.contains(partners), roots.len() == 2, "{who}: {text}");
        for (root, expected) in [("/feeds/", in_feeds), ("/feeds/partners/", in_partners)] {
            let answer = made.get(who, &format!("{root}collections/")).await;
            let status = match (expected.is_empty(), who) {
                (false, _) => 200,
                (true, "") => 401,
                (true, _) => 404,
            };
            assert_eq!(answer.status, status, "{who} {root}");
            assert_eq!(made.get(who, root).await.status, status, "{who} {root}");
            if status != 200 {
                continue;
            }
            let list = answer.json()["collections"].as_array().cloned().expect("a list");
            let ids: Vec<&str> = list.iter().filter_map(|entry| entry["id"].as_str()).collect();
            assert!(ids.is_sorted(), "{ids:?}");
            let mut found: Vec<(&str, bool, bool)> = list
                .iter()
                .map(|entry| {
                    let flag = |key: &str| entry[key].as_bool().expect("a flag");
                    (entry["title"].as_str().expect("a title"), flag("can_read"), flag("can_write"))
                })
                .collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{who} {root}");
            for entry in &list {
                let alone = made.get(who, &format!("{root}collections/{}/", entry["id"].as_str().expect("id"))).await;
                // The xsoar profile of one of them adds keys in its own answer.
                assert_eq!(alone.json()["can_write"], entry["can_write"], "{who} {root}");
            }
        }
    }
    let root = made.get("pat", "/feeds/partners/").await.json();
    assert_eq!((&root["title"], &root["description"]), (&json!("For partners"), &json!("Shared")));
    assert_eq!(made.get("pat", "/feeds/").await.json()["title"], json!("taxiway"));
}

#[tokio::test]
async fn inboxes_take_both_versions_of_stix() {
    let made = standard();
    let both = json!(["application/stix+json;version=2.1", "application/stix+json;version=2.0"]);
    let shared = made.get("pat", "/feeds/partners/collections/shared/").await.json();
    assert_eq!((&shared["media_types"], shared.get("query")), (&both, None));
    let query = made.get("pat", "/feeds/collections/public/").await.json();
    assert_eq!(query["media_types"], json!(["application/stix+json;version=2.1"]));
    let pair = basic("pat:secret");
    let headers = [("authorization", pair.as_str()), ("accept", TAXII_20)];
    let of_20 = made.server.request("GET", "/feeds/partners/collections/shared/", &headers).await.json();
    assert_eq!(of_20["media_types"], json!(["application/vnd.oasis.stix+json; version=2.0"]));
}

/// Who may know of nothing at all gets a discovery without roots.
#[tokio::test]
async fn a_server_of_which_nothing_may_be_known_names_no_root() {
    let sealed = |options: &mut Options| {
        for root in &mut options.api_roots {
            root.access = Access { read: list(&["@soc"]), write: list(&[]) };
        }
    };
    let made = made(Profile::Standard, sealed);
    // `drop`, `public`, … have lists of their own or fall to the root's.
    let discovery = made.get("ann", "/taxii2/").await.json();
    assert_eq!(discovery["api_roots"].as_array().map(Vec::len), Some(2));
    let folder = tempfile::tempdir().expect("folder");
    let mut options = Options::default();
    options.auth.users = folder.path().join("users.json");
    options.api_roots[0].access = Access { read: list(&["@soc"]), write: list(&[]) };
    let server = serve_fake(folder, Fake::of(Profile::Standard, &[spec("x", true, None, None, &[])], |_| ()), options);
    let answer = server.get("/taxii2/").await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({"title": "taxiway"})));
    assert_eq!(server.get("/threatintel/").await.status, 404, "an open server without users");
}

fn same(answer: &Answer, names: &[&str]) -> (u16, Vec<(String, String)>, String) {
    let mut text = String::from_utf8_lossy(&answer.body).into_owned();
    if let Some(id) = answer.header("x-request-id") {
        text = text.replace(id, "ID");
    }
    for name in names {
        text = text.replace(name, "NAME");
    }
    let mut headers: Vec<(String, String)> = ["content-type", "allow", "www-authenticate", "retry-after"]
        .iter()
        .flat_map(|name| answer.all(name).into_iter().map(|value| ((*name).to_owned(), value.to_owned())))
        .collect();
    headers.sort();
    (answer.status.as_u16(), headers, text)
}

/// Byte for byte: whatever is asked of what is hidden is answered as if it were not there.
#[tokio::test]
async fn nothing_tells_the_hidden_from_the_absent() {
    const BELOW: [&str; 9] = [
        "",
        "/",
        "/manifest/",
        "/objects/",
        "/objects/?limit=0",
        "/objects/?next=broken",
        "/objects/url--1/",
        "/objects/url--1/versions/",
        "/nonsense/",
    ];
    for profile in [Profile::Standard, Profile::Xsoar] {
        let made = made(profile, |_| ());
        for who in ["", "eve"] {
            for method in ["GET", "POST", "DELETE", "PUT", "OPTIONS", "HEAD"] {
                for below in BELOW {
                    let mut answers = Vec::new();
                    // Of another profile than the server, of another root, in a hidden root, and none.
                    for (root, name) in [("feeds", "soc"), ("feeds", "shared"), ("feeds", "absent")] {
                        let answer = made.ask(method, who, &format!("/{root}/collections/{name}{below}")).await;
                        answers.push(same(&answer, &[name]));
                    }
                    assert!(answers.iter().all(|answer| *answer == answers[2]), "{who} {method} {below}: {answers:#?}");
                }
                for path in
                    ["", "/", "/collections", "/collections/", "/collections/both/", "/status/1/", "/x/", "/a/b/c/d"]
                {
                    let hidden = made.ask(method, who, &format!("/feeds/partners{path}")).await;
                    let absent = made.ask(method, who, &format!("/feeds/strangers{path}")).await;
                    let (hidden, absent) = (same(&hidden, &["partners"]), same(&absent, &["strangers"]));
                    assert_eq!(hidden, absent, "{who} {method} {path}");
                }
            }
        }
    }
}

/// spec/taxii-2.md §10 over the service; decision: who could say who they are is asked to.
#[tokio::test]
async fn a_lack_of_rights_has_its_status() {
    let made = standard();
    let rows = [
        ("GET", "ann", "/feeds/collections/soc/objects/", 200),
        ("GET", "eve", "/feeds/collections/drop/", 200),
        ("GET", "eve", "/feeds/collections/drop/objects/", 403),
        ("GET", "eve", "/feeds/collections/drop/manifest/", 403),
        ("GET", "eve", "/feeds/collections/drop/objects/x/versions/", 403),
        ("DELETE", "eve", "/feeds/collections/drop/objects/x/", 403),
        ("GET", "", "/feeds/collections/drop/objects/", 401),
        ("DELETE", "", "/feeds/collections/drop/objects/x/", 401),
        ("POST", "ann", "/feeds/partners/collections/shared/objects/", 403),
        ("DELETE", "ann", "/feeds/partners/collections/shared/objects/x/", 403),
        ("POST", "", "/feeds/collections/public/objects/", 403),
        ("POST", "", "/feeds/collections/users/objects/", 401),
        ("POST", "eve", "/feeds/collections/soc/objects/", 404),
        ("GET", "", "/feeds/collections/public/objects/unknown/", 404),
        ("GET", "", "/feeds/status/1/", 401),
        ("GET", "eve", "/feeds/status/1/", 404),
        ("GET", "", "/nowhere/", 401),
        ("GET", "eve", "/nowhere/", 404),
        ("PUT", "", "/feeds/collections/", 405),
    ];
    for (method, who, path, status) in rows {
        let answer = made.ask(method, who, path).await;
        assert_eq!(answer.status, status, "{method} {who} {path}");
        assert_eq!(answer.all("www-authenticate").is_empty(), status != 401, "{method} {who} {path}");
    }
}

#[tokio::test]
async fn tokens_come_in_by_every_scheme() {
    let made = standard();
    let good = made.token("good").to_owned();
    let (expired, revoked, disabled) =
        (made.token("expired").to_owned(), made.token("revoked").to_owned(), made.token("disabled").to_owned());
    let mut wrong = good.clone();
    wrong.replace_range(good.len() - 1.., if good.ends_with('0') { "1" } else { "0" });
    let plain = "Bearer realm=\"taxiway\"";
    let invalid = "Bearer realm=\"taxiway\", error=\"invalid_token\", error_description=\"the token is not valid\"";
    let ended = "Bearer realm=\"taxiway\", error=\"invalid_token\", error_description=\"the token has expired\"";
    let rows = [
        ("authorization", format!("Bearer {good}"), None),
        ("authorization", format!("bearer   {good} "), None),
        ("authorization", format!("TOKEN {good}"), None),
        ("x-api-key", good.clone(), None),
        ("authorization", basic(&format!("ann:{good}")), None),
        ("authorization", basic("ann:secret").replace("Basic", "bAsIc"), None),
        // The token of somebody else is no password.
        ("authorization", basic(&format!("pat:{good}")), Some(invalid)),
        ("authorization", format!("Bearer {expired}"), Some(ended)),
        ("x-api-key", expired.clone(), Some(ended)),
        ("authorization", basic(&format!("ann:{expired}")), Some(ended)),
        ("authorization", format!("Bearer {revoked}"), Some(invalid)),
        ("authorization", format!("Bearer {disabled}"), Some(invalid)),
        ("authorization", format!("Bearer {wrong}"), Some(invalid)),
        ("authorization", "Bearer".to_owned(), Some(invalid)),
        ("authorization", "Bearer eyJhbGciOiJub25lIn0.e30.".to_owned(), Some(invalid)),
        ("authorization", "Bearer caf\u{e9}".to_owned(), Some(invalid)),
        // Not one of ours, so it is an ordinary wrong password.
        ("authorization", basic(&format!("ann:txw_000000000000_{}", "0".repeat(64))), Some(plain)),
        ("authorization", format!("Digest {good}"), Some(plain)),
        ("authorization", good.clone(), Some(plain)),
        ("authorization", String::new(), Some(plain)),
    ];
    for (name, value, challenge) in rows {
        let answer = made.server.request("GET", "/feeds/collections/soc/objects/", &[(name, &value)]).await;
        let expected = challenge.map_or(vec![], |challenge| vec!["Basic realm=\"taxiway\"", challenge]);
        assert_eq!(answer.all("www-authenticate"), expected, "{name}: {value}");
        assert_eq!(answer.status.as_u16(), if challenge.is_some() { 401 } else { 200 }, "{name}: {value}");
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(!body.contains("ann") && !body.contains("revoked") && !body.contains("disabled"), "{body}");
    }
    let twice = [("x-api-key", good.as_str()), ("x-api-key", good.as_str())];
    assert_eq!(made.server.request("GET", "/taxii2/", &twice).await.status, 401);
    // A proxy's own key beside the client's credentials.
    let both = [("authorization", &*basic("ann:secret")), ("x-api-key", "of the proxy")];
    assert_eq!(made.server.request("GET", "/taxii2/", &both).await.status, 200);
}

fn shown(names: &[&str]) -> Client {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = ClientCertificate { names, subject: "CN=x".to_owned() };
    Client { certificate: Some(Arc::new(certificate)), ..Client::of_peer([192, 0, 2, 9].into()) }
}

#[tokio::test]
async fn certificates_stand_for_users_and_agree_with_credentials() {
    let made = made(Profile::Standard, |options| options.auth.anonymous = Some(false));
    let (ann, robot, token) = (basic("ann:secret"), ["cn:Robot", "sha256:00"], made.token("good").to_owned());
    let bearer = format!("Bearer {token}");
    let rows: [(&[&str], &str, u16); 10] = [
        (&robot, "", 200),
        (&["dns:robot.example", "cn:Robot"], "", 200),
        (&["cn:robot"], "", 401),
        (&["cn:Somebody"], "", 401),
        (&[], "", 401),
        (&["cn:Gone"], "", 401),
        (&["cn:Robot", "cn:Gone"], "", 401),
        (&["cn:Somebody"], &ann, 200),
        // Both have to be the same user's.
        (&robot, &ann, 401),
        (&robot, &bearer, 401),
    ];
    for (names, authorization, status) in rows {
        let mut request = Request::builder().uri("/feeds/collections/users/objects/");
        if !authorization.is_empty() {
            request = request.header("authorization", authorization);
        }
        let mut request = request.body(HttpBody::empty()).expect("a request");
        request.extensions_mut().insert(shown(names));
        assert_eq!(made.server.send(request).await.status, status, "{names:?} {authorization}");
    }
    // And where they are the same user's, both have to be right.
    let mut users = made.users.clone();
    let certificates = UserChange { certificates: list(&["cn:Ann"]), ..UserChange::default() };
    users.change("ann", certificates).expect("changed");
    made.server.app.gate.look_now().await;
    for (authorization, status) in [(ann.clone(), 200), (bearer, 200), (basic("ann:wrong"), 401), (String::new(), 200)]
    {
        let mut request = Request::builder().uri("/feeds/collections/users/objects/");
        if !authorization.is_empty() {
            request = request.header("authorization", &authorization);
        }
        let mut request = request.body(HttpBody::empty()).expect("a request");
        request.extensions_mut().insert(shown(&["cn:Ann"]));
        assert_eq!(made.server.send(request).await.status, status, "{authorization}");
    }
}

#[tokio::test]
async fn changes_of_the_file_count_at_once() {
    let made = standard();
    let path = "/feeds/collections/soc/objects/";
    let good = format!("Bearer {}", made.token("good"));
    let by_token = async || made.server.request("GET", path, &[("authorization", &good)]).await.status.as_u16();
    let mut users = made.users.clone();
    assert_eq!((made.get("ann", path).await.status.as_u16(), by_token().await), (200, 200));
    let groups = |groups: &[&str]| UserChange { groups: list(groups), ..UserChange::default() };
    users.change("ann", groups(&[])).expect("changed");
    users.change("eve", groups(&["soc"])).expect("changed");
    made.server.app.gate.look_now().await;
    // `ann` may still write to it, by name.
    assert_eq!((made.get("ann", path).await.status.as_u16(), by_token().await), (403, 403));
    assert_eq!(made.get("eve", path).await.status, 200);
    let id = users.tokens()[0].id.clone();
    users.revoke_token(&id).expect("is there");
    users.change("eve", UserChange { disabled: Some(true), ..UserChange::default() }).expect("changed");
    made.server.app.gate.look_now().await;
    assert_eq!((by_token().await, made.get("eve", path).await.status.as_u16()), (401, 401));
}

#[tokio::test]
async fn guessing_is_slowed_and_nobody_else_is() {
    let made = standard();
    let from = async |address: [u8; 4], pair: &str| {
        let mut request = Request::builder().uri("/taxii2/").header("authorization", basic(pair));
        request = request.header("accept", TAXII_21);
        let mut request = request.body(HttpBody::empty()).expect("a request");
        request.extensions_mut().insert(Client::of_peer(address.into()));
        made.server.send(request).await
    };
    const HERE: [u8; 4] = [192, 0, 2, 1];
    const THERE: [u8; 4] = [198, 51, 100, 1];
    // A name that there is and one that there is not are slowed alike.
    for name in ["ann", "nobody"] {
        let mut statuses = Vec::new();
        for number in 0..4 {
            let answer = from(HERE, &format!("{name}:wrong{number}")).await;
            if number == 3 {
                assert_eq!(answer.header("retry-after"), Some("1"));
                assert_eq!(answer.json()["error_code"], json!("too_many"));
            }
            statuses.push(answer.status.as_u16());
        }
        assert_eq!(statuses, [401, 401, 401, 429], "{name}");
    }
    assert_eq!(from(HERE, "ann:secret").await.status, 429, "the right one has to wait as well, or guesses would show");
    assert_eq!(from(THERE, "ann:secret").await.status, 200);
    assert_eq!(from(HERE, "eve:secret").await.status, 200);
    // Tokens cannot be guessed, so right ones are never slowed.
    let token = made.token("good").to_owned();
    assert_eq!(from(HERE, &format!("ann:{token}")).await.status, 200);
}

#[tokio::test]
async fn proxies_that_are_trusted_tell_the_scheme_and_the_host() {
    let trusting = |options: &mut Options| options.trusted_proxies = vec!["10.0.0.0/8".parse().expect("a network")];
    let made = made(Profile::Standard, trusting);
    let forwarded =
        |host: &'static str, proto: &'static str| [("x-forwarded-host", host), ("x-forwarded-proto", proto)];
    let rows: [([u8; 4], &[(&str, &str)], &str); 7] = [
        ([10, 0, 0, 1], &forwarded("feeds.example", "https"), "https://feeds.example/feeds/"),
        ([10, 0, 0, 1], &forwarded("feeds.example:8443, inner", "HTTPS, http"), "https://feeds.example:8443/feeds/"),
        ([10, 0, 0, 1], &forwarded("", "gopher"), "http://h/feeds/"),
        ([10, 0, 0, 1], &forwarded("evil.example/?", "https"), "/feeds/"),
        ([10, 0, 0, 1], &[], "http://h/feeds/"),
        ([192, 0, 2, 1], &forwarded("evil.example", "https"), "http://h/feeds/"),
        // Behind a proxy that is trusted, the client is not one.
        ([10, 0, 0, 1], &[("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")], "https://h/feeds/"),
    ];
    for (peer, headers, expected) in rows {
        let mut request = Request::builder().uri("/taxii2/").header("host", "h");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(HttpBody::empty()).expect("a request");
        request.extensions_mut().insert(Client::of_peer(peer.into()));
        let discovery: Value = made.server.send(request).await.json();
        assert_eq!(discovery["default"], json!(expected), "{peer:?} {headers:?}");
    }
}

/// A budget of microseconds, with room for a slow machine and an unoptimised build.
#[tokio::test]
async fn authorising_stays_cheap() {
    let made = standard();
    let good = format!("Bearer {}", made.token("good"));
    let mut headers = axum::http::HeaderMap::new();
    headers.insert("authorization", good.parse().expect("a header"));
    let started = std::time::Instant::now();
    for _ in 0..1_000 {
        let identity = made.server.app.gate.admit(&headers, [192, 0, 2, 1].into(), None).await.expect("a user");
        assert!(made.server.app.rights().known(&identity, "feeds", "soc").is_ok());
    }
    assert!(started.elapsed() < Duration::from_secs(1), "{:?} for a thousand", started.elapsed());
}
