//! Enrichment: every kind of match, bytes kept, new data taken in, rights over HTTP; and the whole against a naive check.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use proptest::prelude::{Strategy, prop, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::Config;
use reqwest::Client;
use serde_json::{Value, json};
use taxiway::enrich::{AllowList, Block, EnrichOptions, Enricher, Format, ROWS_BYTES, Session, Tally};
use taxiway::feed::collection::{Catalog, Options};
use taxiway::feed::{FeedOptions, StoreFeed};
use taxiway::store::Store;

use crate::support::{Server, TempStore, import, import_text, indicator, spec, temp_store};

fn feed(store: &Store, collections: &[(&str, &str)]) -> StoreFeed {
    let built = collections.iter().map(|(title, query)| spec(title, query).build(store.ids(), &Options::default()));
    let catalog = Catalog::new(built.map(Result::unwrap).collect()).unwrap();
    StoreFeed::new(
        store.clone(),
        catalog,
        &FeedOptions { threads: 2, match_rows: 3, small_page_rows: 2, ..FeedOptions::default() },
    )
    .unwrap()
}

fn enricher(store: &Store) -> Enricher {
    let enricher = Enricher::new(feed(store, &[]), AllowList::default(), ROWS_BYTES);
    enricher.prepare().unwrap();
    enricher
}

fn session(store: &Store, options: EnrichOptions) -> Session {
    enricher(store).session(options, None).unwrap()
}

fn enrich(session: &Session, text: &[u8]) -> (Vec<u8>, Tally) {
    session.block(Block { bytes: text.to_vec(), first_line: 1, of_long_line: false }).unwrap()
}

/// What is told of one event: `field: value (relation)`, in order.
fn matches(session: &Session, event: &Value) -> Vec<String> {
    let (line, _) = enrich(session, event.to_string().as_bytes());
    let event: Value = serde_json::from_slice(&line).unwrap();
    let Some(list) = event["threat"]["enrichments"].as_array() else { return Vec::new() };
    let told = |matched: &Value| {
        let text = |key: &str| matched[key].as_str().unwrap().to_owned();
        format!("{}: {} ({})", text("field"), text("atomic"), text("type"))
    };
    list.iter().map(|enrichment| told(&enrichment["matched"])).collect()
}

const STIX: &str = r#"{"type":"bundle","id":"bundle--0b0a9d3c-5d0c-4a0e-9d39-0e0c0a0b0c0d","objects":[
{"type":"indicator","spec_version":"2.1","id":"indicator--8e2e2d2b-17d4-4cbf-938f-98ee46b3cd31","created":"2024-01-01T00:00:00Z","modified":"2024-02-01T00:00:00Z","name":"Two of them","pattern_type":"stix","pattern":"[ipv4-addr:value = '203.0.113.7' OR domain-name:value = 'Two.Example']","valid_from":"2024-01-01T00:00:00Z","confidence":80,"labels":["c2"],"object_marking_refs":["marking-definition--5e57c739-391a-4eb3-b6be-7d15ca92d5ed"],"external_references":[{"source_name":"blog","url":"https://blog.example/post"}]},
{"type":"indicator","spec_version":"2.1","id":"indicator--8e2e2d2b-17d4-4cbf-938f-98ee46b3cd32","created":"2024-01-01T00:00:00Z","modified":"2024-02-01T00:00:00Z","pattern_type":"stix","pattern":"[domain-name:value = 'half.example' AND ipv4-addr:value = '203.0.113.8']","valid_from":"2024-01-01T00:00:00Z"},
{"type":"indicator","spec_version":"2.1","id":"indicator--8e2e2d2b-17d4-4cbf-938f-98ee46b3cd33","created":"2024-01-01T00:00:00Z","modified":"2024-02-01T00:00:00Z","pattern_type":"yara","pattern":"[domain-name:value = 'yara.example']","valid_from":"2024-01-01T00:00:00Z"},
{"type":"indicator","spec_version":"2.1","id":"indicator--8e2e2d2b-17d4-4cbf-938f-98ee46b3cd34","created":"2024-01-01T00:00:00Z","modified":"2024-02-01T00:00:00Z","pattern_type":"stix","pattern":"[domain-name:value = 'withdrawn.example']","valid_from":"2024-01-01T00:00:00Z","revoked":true},
{"type":"indicator","spec_version":"2.1","id":"indicator--8e2e2d2b-17d4-4cbf-938f-98ee46b3cd35","created":"2024-01-01T00:00:00Z","modified":"2024-02-01T00:00:00Z","pattern_type":"stix","pattern":"[domain-name:value = 'over.example']","valid_from":"2024-01-01T00:00:00Z","valid_until":"2024-06-01T00:00:00Z"},
{"type":"url","spec_version":"2.1","id":"url--8e2e2d2b-17d4-4cbf-938f-98ee46b3cd36","value":"HTTPS://Native.example:443/x"},
{"type":"file","spec_version":"2.1","id":"file--8e2e2d2b-17d4-4cbf-938f-98ee46b3cd37","hashes":{"SHA-256":"AA5E3F0000000000000000000000000000000000000000000000000000000000FF","MD5":"0123456789abcdef0123456789ABCDEF"}},
{"type":"malware","spec_version":"2.1","id":"malware--8e2e2d2b-17d4-4cbf-938f-98ee46b3cd38","created":"2024-01-01T00:00:00Z","modified":"2024-02-01T00:00:00Z","name":"name.example","is_family":true}
]}"#;

fn filled() -> TempStore {
    let temp = temp_store();
    let mut file = indicator("File", "d41d8cd98f00b204e9800998ecf8427e", 3, &[]);
    file["CustomFields"]["sha256"] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".into();
    let mut expired = indicator("IP", "192.0.2.99", 3, &[]);
    expired["expiration"] = "2024-02-01T00:00:00Z".into();
    let records = [
        indicator("IP", "192.0.2.1", 3, &["c2", "apt"]),
        indicator("CIDR", "192.0.2.0/24", 2, &[]),
        indicator("CIDR", "192.0.0.0/16", 1, &[]),
        indicator("IPv6", "2001:DB8::1", 3, &[]),
        indicator("IPv6CIDR", "2001:db8::/32", 2, &[]),
        indicator("Domain", "Evil.example", 3, &[]),
        indicator("Domain", "deep.sub.evil.example", 3, &[]),
        indicator("DomainGlob", "*.glob.example", 3, &[]),
        indicator("URL", "http://url.example:80/Path?q=1#frag", 3, &[]),
        indicator("URL", "bare.example/x", 3, &[]),
        indicator("Email", "Bad.Guy@Mail.Example", 3, &[]),
        indicator("My Own Type", "own.example", 0, &[]),
        indicator("CVE", "CVE-2021-44228", 3, &[]),
        indicator("Account", "bob@account.example", 3, &[]),
        file,
        expired,
    ];
    import(&temp.store, &records);
    import_text(&temp.store, "bundle.json", STIX);
    temp
}

#[test]
fn every_kind_of_value_is_found() {
    let temp = filled();
    let session = session(&temp.store, EnrichOptions::default());
    let cases: [(Value, &[&str]); 37] = [
        (
            json!({"a": "192.0.2.1"}),
            &["a: 192.0.2.1 (exact)", "a: 192.0.2.0/24 (network)", "a: 192.0.0.0/16 (network)"],
        ),
        (json!({"a": "192.0.2.2:8080"}), &["a: 192.0.2.0/24 (network)", "a: 192.0.0.0/16 (network)"]),
        (json!({"a": "192.0.3.2"}), &["a: 192.0.0.0/16 (network)"]),
        (json!({"a": "192.1.0.1"}), &[]),
        (json!({"a": "::ffff:192.0.3.2"}), &["a: 192.0.0.0/16 (network)"]),
        (json!({"a": "192.0.2.0/25"}), &["a: 192.0.2.0/24 (network)", "a: 192.0.0.0/16 (network)"]),
        (json!({"a": "192.0.2.7/24"}), &["a: 192.0.2.0/24 (exact)", "a: 192.0.0.0/16 (network)"]),
        (json!({"a": "2001:0db8:0::1"}), &["a: 2001:DB8::1 (exact)", "a: 2001:db8::/32 (network)"]),
        (json!({"a": "[2001:db8:1::1]:443"}), &["a: 2001:db8::/32 (network)"]),
        (json!({"a": "EVIL.example."}), &["a: Evil.example (exact)"]),
        (json!({"a": "www.evil.example"}), &["a: Evil.example (parent)"]),
        (json!({"a": "x.deep.sub.evil.example"}), &["a: deep.sub.evil.example (parent)", "a: Evil.example (parent)"]),
        (json!({"a": "notevil.example"}), &[]),
        (json!({"a": "glob.example"}), &[]),
        (json!({"a": "a.glob.example"}), &["a: *.glob.example (parent)"]),
        (json!({"a": "HTTP://URL.example/Path?q=1"}), &["a: http://url.example:80/Path?q=1#frag (exact)"]),
        (json!({"a": "url.example/Path?q=1"}), &["a: http://url.example:80/Path?q=1#frag (exact)"]),
        (json!({"a": "https://url.example/Path?q=1"}), &[]),
        (json!({"a": "http://url.example/path?q=1"}), &[]),
        (json!({"a": "https://bare.example/x#y"}), &["a: bare.example/x (exact)"]),
        (json!({"a": "Bad.Guy@MAIL.example"}), &["a: Bad.Guy@Mail.Example (exact)"]),
        (json!({"a": "bob@account.example"}), &[]),
        (json!({"a": "own.example"}), &["a: own.example (exact)"]),
        (json!({"a": "CVE-2021-44228"}), &[]),
        (json!({"a": "D41D8CD98F00B204E9800998ECF8427E"}), &["a: d41d8cd98f00b204e9800998ecf8427e (exact)"]),
        (
            json!({"a": "E3B0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}),
            &["a: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 (exact)"],
        ),
        (json!({"a": "192.0.2.99"}), &["a: 192.0.2.0/24 (network)", "a: 192.0.0.0/16 (network)"]),
        (json!({"a": "203.0.113.7"}), &["a: 203.0.113.7 (exact)"]),
        (json!({"a": "two.example"}), &["a: Two.Example (exact)"]),
        (json!({"a": ["half.example", "203.0.113.8", "yara.example"]}), &[]),
        (json!({"a": ["withdrawn.example", "over.example", "name.example"]}), &[]),
        (json!({"a": "https://native.example/x"}), &["a: HTTPS://Native.example:443/x (exact)"]),
        (json!({"a": "0123456789ABCDEF0123456789abcdef"}), &["a: 0123456789abcdef0123456789ABCDEF (exact)"]),
        (
            json!({"b": {"c": [{"d": "own.example"}, {"d": "x"}], "e": "a.glob.example"}}),
            &["b.e: *.glob.example (parent)", "b.c.d: own.example (exact)"],
        ),
        // The worst verdict comes first, and each indicator once.
        (
            json!({"a": "192.0.3.1", "b": "two.example", "c": "192.0.2.1", "d": "192.0.2.1"}),
            &[
                "c: 192.0.2.1 (exact)",
                "c: 192.0.2.0/24 (network)",
                "a: 192.0.0.0/16 (network)",
                "b: Two.Example (exact)",
            ],
        ),
        (json!({"message": "from 192.0.2.1 to evil.example"}), &[]),
        (json!({"a": 192, "b": null, "c": true, "d": {}, "e": []}), &[]),
    ];
    for (event, expected) in cases {
        assert_eq!(matches(&session, &event), expected, "{event}");
    }
}

#[test]
fn options_widen_and_narrow() {
    let temp = filled();
    let enricher = enricher(&temp.store);
    let with = |options: EnrichOptions| enricher.session(options, None).unwrap();
    let none = EnrichOptions::default;
    let fields =
        |names: &[&str]| EnrichOptions { fields: names.iter().map(|&name| name.to_owned()).collect(), ..none() };
    let event = json!({"src": {"ip": "192.0.3.1"}, "src.ip": "203.0.113.7", "url": "http://www.evil.example/x", "from": "x@evil.example"});
    let both = ["src.ip: 192.0.0.0/16 (network)", "src.ip: 203.0.113.7 (exact)"];
    let host = ["url: Evil.example (host)"];
    let mail = ["from: Evil.example (host)"];
    let cases: [(EnrichOptions, &[&str]); 8] = [
        (none(), &both),
        (fields(&["src.ip"]), &both),
        (fields(&["src"]), &both[..1]),
        (fields(&["ip", "url"]), &[]),
        (EnrichOptions { min_score: 2, ..none() }, &[]),
        (EnrichOptions { url_hosts: true, min_score: 3, ..none() }, &host),
        (EnrichOptions { email_domains: true, min_score: 3, ..none() }, &mail),
        (EnrichOptions { most_matches: 1, ..none() }, &both[..1]),
    ];
    for (options, expected) in cases {
        assert_eq!(matches(&with(options.clone()), &event), expected, "{options:?}");
    }
    let over = json!({"a": ["192.0.2.99", "withdrawn.example", "over.example"]});
    let all = matches(&with(EnrichOptions { expired: true, ..none() }), &over);
    assert_eq!(all.len(), 5, "{all:?}");
}

#[test]
fn what_is_told_follows_the_schema() {
    let temp = filled();
    let session = session(&temp.store, EnrichOptions::default());
    let told = |event: Value| -> Value {
        let (line, _) = enrich(&session, event.to_string().as_bytes());
        serde_json::from_slice(&line).unwrap()
    };
    let event = told(json!({"ip": "203.0.113.7"}));
    let expected = json!({
        "type": "ipv4-addr", "name": "203.0.113.7", "ip": "203.0.113.7", "confidence": "High", "marking": {"tlp": "RED"},
        "modified_at": "2024-02-01T00:00:00.000Z", "reference": "https://blog.example/post",
    });
    assert_eq!(event["threat"]["indicator"], expected);
    let enrichment = json!({
        "indicator": expected,
        "matched": {
            "atomic": "203.0.113.7", "field": "ip", "id": "indicator--8e2e2d2b-17d4-4cbf-938f-98ee46b3cd31", "type": "exact",
        },
        "taxiway": {"verdict": "unknown", "score": 0, "confidence": 80, "tags": ["c2"]},
    });
    assert_eq!(event["threat"]["enrichments"], json!([enrichment]));
    let rows = [
        ("192.0.3.1", json!({"type": "ipv4-addr", "name": "192.0.0.0/16"})),
        ("2001:db8::1", json!({"type": "ipv6-addr", "name": "2001:DB8::1", "ip": "2001:db8::1"})),
        ("evil.example", json!({"type": "domain-name", "name": "Evil.example", "url": {"domain": "evil.example"}})),
        ("bare.example/x", json!({"type": "url", "name": "bare.example/x", "url": {"full": "bare.example/x"}})),
        ("bad.guy@mail.example", json!(null)),
        (
            "Bad.Guy@mail.example",
            json!({"type": "email-addr", "name": "Bad.Guy@Mail.Example", "email": {"address": "Bad.Guy@Mail.Example"}}),
        ),
        (
            "d41d8cd98f00b204e9800998ecf8427e",
            json!({"type": "file", "name": "d41d8cd98f00b204e9800998ecf8427e", "file": {"hash": {
                "md5": "d41d8cd98f00b204e9800998ecf8427e",
                "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            }}}),
        ),
    ];
    for (value, expected) in rows {
        let mut indicator = told(json!({"a": value}))["threat"]["indicator"].clone();
        if let Some(members) = indicator.as_object_mut() {
            members.remove("modified_at");
            members.remove("first_seen");
            members.remove("last_seen");
        }
        assert_eq!(indicator, expected, "{value}");
    }
    let own = told(json!({"a": "192.0.2.1"}))["threat"]["enrichments"][0]["taxiway"].clone();
    assert_eq!(own, json!({"verdict": "malicious", "score": 3, "tags": ["c2", "apt"]}));
}

#[test]
fn events_keep_their_bytes() {
    let temp = filled();
    let ecs = session(&temp.store, EnrichOptions::default());
    let text = b"{ \"b\" : \"own.example\" , \"a\":1.50 }\r\n\n  \n{}\nnot json\n[\"own.example\"]\n{\"a\":\"own.example\"\n{\"a\":\"\\u006fwn.ex\\u0061mple\",\"\xff\":\"\xfe\"}\n{\"threat\":{\"x\":1},\"a\":\"own.example\"}\n{\"threat\":{\"enrichments\":[]},\"a\":\"own.example\"}\n{\"a\":\"own.example\"}";
    let (out, tally) = enrich(&ecs, text);
    // Taking away what was put in gives back what was there.
    let mut bare = Vec::new();
    let mut rest = &out[..];
    let mut put_in = 0;
    while let Some(at) = rest.windows(9).position(|part| part == b",\"threat\"" || part == b",\"threat.") {
        let is_added =
            rest[at..].starts_with(b",\"threat\":{\"indicator\"") || rest[at..].starts_with(b",\"threat.indicator\"");
        bare.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        if !is_added {
            bare.push(rest[0]);
            rest = &rest[1..];
            continue;
        }
        put_in += 1;
        let line = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let end = rest[..line].iter().rposition(|byte| *byte == b'}').unwrap();
        rest = &rest[end..];
    }
    bare.extend_from_slice(rest);
    assert_eq!(String::from_utf8_lossy(&bare), String::from_utf8_lossy(text));
    assert_eq!(put_in, 4);
    let expected = Tally {
        lines: 11,
        events: 6,
        enriched: 4,
        matches: 4,
        enriched_before: 1,
        malformed: 3,
        faults: vec![
            (5, "not a JSON object".to_owned()),
            (6, "not a JSON object".to_owned()),
            (7, "the JSON object is cut off".to_owned()),
        ],
    };
    assert_eq!(tally, expected);
    // A second time nothing is added.
    let (again, tally) = enrich(&ecs, &out);
    assert_eq!((again == out, tally.enriched, tally.enriched_before), (true, 0, 5));

    let flat = session(&temp.store, EnrichOptions { format: Format::Flat, ..EnrichOptions::default() });
    let (line, _) = enrich(&flat, br#"{"a":"192.0.2.1"}"#);
    let event: Value = serde_json::from_slice(&line).unwrap();
    let expected = [
        ("ti_count", json!(3)),
        ("ti_field", json!("a")),
        ("ti_match", json!("exact")),
        ("ti_value", json!("192.0.2.1")),
        ("ti_type", json!("ipv4-addr")),
        ("ti_verdict", json!("malicious")),
        ("ti_score", json!(3)),
        ("ti_tags", json!(["c2", "apt"])),
        ("ti_modified", json!("2024-01-02T00:00:00.000Z")),
    ];
    for (key, value) in expected {
        assert_eq!(event[key], value, "{key}");
    }
    assert!(event["ti_id"].as_str().unwrap().starts_with("indicator--"), "{event}");
    let (again, tally) = enrich(&flat, &line);
    assert_eq!((again, tally.enriched_before), (line, 1));
}

#[test]
fn rows_are_told_alike_whether_they_are_kept_or_not() {
    let temp = temp_store();
    let record = |at: usize| {
        let mut record = indicator("IP", &format!("10.1.{}.{}", at / 250, at % 250), 3, &["c2"]);
        let length = if at < 2_500 { 20 } else { 25_000 };
        record["CustomFields"]["description"] = format!("{at} ").repeat(length / 4).into();
        record
    };
    import(&temp.store, &(0..2_500).map(record).collect::<Vec<_>>());
    import_text(&temp.store, "bundle.json", STIX);
    import(&temp.store, &(2_500..3_000).map(record).collect::<Vec<_>>());
    // Alone, with others of the same run, and those that nobody keeps.
    let mut blocks: Vec<String> = Vec::new();
    for round in 0..3 {
        let event = |at: usize| format!("{{\"a\":\"10.1.{}.{}\"}}\n", at / 250, at % 250);
        blocks.extend((0..3_000).skip(round).step_by(1_100).map(event));
        blocks.extend(
            (0..3_000).step_by(500).map(|start| (start..start + 30).map(|at| event(at + 40 * round)).collect()),
        );
        blocks.push("{\"a\":[\"203.0.113.7\",\"native.example/x\"]}\n{\"a\":\"10.1.0.1\"}\n".to_owned());
    }
    let told = |rows_bytes: usize| -> Vec<Vec<u8>> {
        let enricher = Enricher::new(feed(&temp.store, &[]), AllowList::default(), rows_bytes);
        enricher.prepare().unwrap();
        let session = enricher.session(EnrichOptions::default(), None).unwrap();
        blocks.iter().map(|block| enrich(&session, block.as_bytes()).0).collect()
    };
    let all = told(ROWS_BYTES);
    assert_eq!(String::from_utf8(all.concat()).unwrap().matches("\"threat\"").count(), 3 * (3 + 6 * 30 + 2));
    for rows_bytes in [1, 600_000] {
        assert!(told(rows_bytes) == all, "{rows_bytes}");
    }
}

#[test]
fn what_is_allowed_is_not_reported() {
    let temp = filled();
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("allow.txt");
    std::fs::write(&list, "192.0.2.0/30 # ours\nevil.example\nown.example\n").unwrap();
    let enricher = Enricher::new(feed(&temp.store, &[]), AllowList::load(&list).unwrap(), ROWS_BYTES);
    std::fs::write(&list, "192.0.2.0/30\nnonsense\n").unwrap();
    let wrong = AllowList::load(&list).unwrap_err().to_string();
    assert!(wrong.contains("line 2 `nonsense`"), "{wrong}");
    enricher.prepare().unwrap();
    let session = enricher.session(EnrichOptions::default(), None).unwrap();
    let event = json!({"a": ["192.0.2.1", "deep.sub.evil.example", "own.example", "two.example"]});
    assert_eq!(matches(&session, &event), ["a: Two.Example (exact)"]);
    // Another list counts at once.
    enricher.allow(AllowList::default());
    assert_eq!(matches(&session, &event).len(), 7);
}

#[test]
fn only_what_is_in_a_collection_is_told() {
    let temp = filled();
    let collections = [("Bad", "verdict:malicious"), ("Active", "expirationStatus:active and type:(IP or CIDR)")];
    let feed = feed(&temp.store, &collections);
    let catalog = taxiway::feed::api::Feed::catalog(&feed);
    let named = |title: &str| Arc::clone(catalog.iter().find(|collection| collection.title == title).unwrap());
    let enricher = Enricher::new(feed, AllowList::default(), ROWS_BYTES);
    enricher.prepare().unwrap();
    let event = json!({"a": ["192.0.2.1", "own.example", "192.0.2.99", "evil.example"]});
    let cases: [(&[&str], bool, &[&str]); 4] = [
        (&["Bad"], false, &["a: 192.0.2.1 (exact)", "a: Evil.example (exact)"]),
        (&["Bad"], true, &["a: 192.0.2.1 (exact)", "a: 192.0.2.99 (exact)", "a: Evil.example (exact)"]),
        (&["Active"], true, &["a: 192.0.2.1 (exact)", "a: 192.0.2.0/24 (network)", "a: 192.0.0.0/16 (network)"]),
        (
            &["Active", "Bad"],
            false,
            &[
                "a: 192.0.2.1 (exact)",
                "a: Evil.example (exact)",
                "a: 192.0.2.0/24 (network)",
                "a: 192.0.0.0/16 (network)",
            ],
        ),
    ];
    for (titles, expired, expected) in cases {
        let options = EnrichOptions { expired, ..EnrichOptions::default() };
        let of = titles.iter().map(|title| named(title)).collect();
        let session = enricher.session(options, Some(of)).unwrap();
        // Twice: what is remembered says the same.
        for _ in 0..2 {
            assert_eq!(matches(&session, &event), expected, "{titles:?}");
        }
    }
}

#[test]
fn new_versions_are_taken_in_without_a_pause() {
    let temp = temp_store();
    import(&temp.store, &[indicator("IP", "192.0.2.1", 1, &[]), indicator("Domain", "a.example", 3, &[])]);
    let enricher = enricher(&temp.store);
    let session = enricher.session(EnrichOptions::default(), None).unwrap();
    let event = json!({"a": ["192.0.2.1", "192.0.2.2", "a.example"]});
    let verdicts = || {
        let (line, _) = enrich(&session, event.to_string().as_bytes());
        let event: Value = serde_json::from_slice(&line).unwrap();
        let list = event["threat"]["enrichments"].as_array().unwrap().clone();
        list.iter()
            .map(|one| {
                format!(
                    "{} {}",
                    one["matched"]["atomic"].as_str().unwrap(),
                    one["taxiway"]["verdict"].as_str().unwrap()
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(verdicts(), ["a.example malicious", "192.0.2.1 benign"]);
    // One record changes, one is new; the old answers go on until they are replaced.
    let mut changed = indicator("IP", "192.0.2.1", 3, &[]);
    changed["modified"] = "2024-03-01T00:00:00Z".into();
    import(&temp.store, &[changed, indicator("IP", "192.0.2.2", 2, &[])]);
    let after = ["192.0.2.1 malicious", "a.example malicious", "192.0.2.2 suspicious"];
    let version = temp.store.reload().unwrap().version();
    let waited = Instant::now();
    loop {
        let now = verdicts();
        let is_new = enricher.state().unwrap().version == version;
        assert!(now == ["a.example malicious", "192.0.2.1 benign"] || now == after, "{now:?}");
        if is_new && now == after {
            break;
        }
        assert!(waited.elapsed() < Duration::from_secs(60), "the new version is not taken in: {now:?}");
        std::thread::yield_now();
    }
    // Compaction changes the segments, and nothing else.
    let options = taxiway::store::CompactOptions {
        extent: taxiway::store::Extent::All,
        history_s: Some(0),
        ..Default::default()
    };
    temp.store.compact(&options).unwrap();
    let version = temp.store.reload().unwrap().version();
    while enricher.state().unwrap().version != version {
        assert_eq!(verdicts(), after);
        assert!(waited.elapsed() < Duration::from_secs(120));
    }
    assert_eq!(verdicts(), after);
    assert_eq!(enricher.state().unwrap().values, 3);
}

// The naive check: every indicator against every text, by the rules as the README has them.

fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    Some((address, length.map_or(Some(most), |length| length.parse().ok())?))
}

fn lies_in(inner: (IpAddr, u8), outer: (IpAddr, u8)) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let kept = u128::MAX.checked_shl(128 - u32::from(outer.1)).unwrap_or(0);
    inner.0.is_ipv4() == outer.0.is_ipv4() && inner.1 >= outer.1 && bits(inner.0) & kept == bits(outer.0) & kept
}

fn naive(kind: &str, indicator: &str, text: &str) -> bool {
    match kind {
        "IP" | "CIDR" => match (network(indicator), network(text)) {
            (Some(outer), Some(inner)) => lies_in(inner, outer),
            _ => false,
        },
        "Domain" => {
            let (text, own) = (text.to_lowercase(), indicator.to_lowercase());
            text == own || text.ends_with(&format!(".{own}"))
        }
        "DomainGlob" => text.to_lowercase().ends_with(&indicator[1..].to_lowercase()),
        "URL" => {
            let plain = |url: &str| url.split('#').next().unwrap().replace(":80/", "/").to_lowercase();
            plain(text) == plain(indicator)
        }
        "File" => text.eq_ignore_ascii_case(indicator),
        _ => false,
    }
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        "10\\.[01]\\.[0-3]\\.[0-9]",
        "10\\.[01]\\.[0-3]\\.0/(8|16|24|30)",
        "2001:db8:[0-3]::[0-9]",
        "2001:db8:[0-3]::/(32|48)",
        "([ab]\\.){1,3}(Evil|good)\\.example",
        "http://[ab]\\.example(:80)?/[xy](#f)?",
        "[ab]{32}",
        "[a-z ]{0,8}",
    ]
}

fn records() -> impl Strategy<Value = (&'static str, String)> {
    prop_oneof![
        texts().prop_map(|text| match text.as_str() {
            _ if text.starts_with("http") => ("URL", text),
            _ if text.contains('/') => ("CIDR", text),
            _ if text.parse::<IpAddr>().is_ok() => ("IP", text),
            _ if text.ends_with("example") => ("Domain", text),
            _ if text.len() == 32 && !text.contains(' ') => ("File", text),
            _ => ("Domain", "b.good.example".to_owned()),
        }),
        "\\*\\.(evil|b\\.good)\\.example".prop_map(|text| ("DomainGlob", text)),
    ]
}

proptest! {
    #![proptest_config(Config { cases: 24, ..Config::default() })]
    #[test]
    fn finds_what_a_naive_check_finds(
        records in prop::collection::vec(records(), 1..40),
        events in prop::collection::vec(prop::collection::vec(texts(), 0..5), 1..40),
    ) {
        let temp = temp_store();
        let documents: Vec<Value> = records.iter().map(|(kind, value)| indicator(kind, value, 3, &[])).collect();
        import(&temp.store, &documents);
        let session = session(&temp.store, EnrichOptions { most_matches: 1_000, ..EnrichOptions::default() });
        for texts in &events {
            let line = json!({"nested": {"texts": texts}}).to_string();
            let (out, _) = enrich(&session, line.as_bytes());
            let event: Value = serde_json::from_slice(&out).unwrap();
            let list = event["threat"]["enrichments"].as_array().cloned().unwrap_or_default();
            let found: BTreeSet<String> =
                list.iter().map(|one| one["matched"]["atomic"].as_str().unwrap().to_owned()).collect();
            let expected: BTreeSet<String> = records
                .iter()
                .filter(|(kind, value)| texts.iter().any(|text| naive(kind, value, text)))
                .map(|(_, value)| value.clone())
                .collect();
            prop_assert_eq!(found, expected, "{:?}", texts);
        }
    }
}

// The program.

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taxiway"));
    command.current_dir(folder).args(arguments).env_remove("RUST_LOG");
    command
}

fn piped(folder: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut child =
        command(folder, arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writing = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    output
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn gunzip(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    GzDecoder::new(data).read_to_end(&mut out).unwrap();
    out
}

/// More lines than fit into a block, some of which match.
fn many(count: usize) -> (Vec<u8>, BTreeMap<usize, &'static str>) {
    let mut text = Vec::new();
    let mut expected = BTreeMap::new();
    for number in 0..count {
        let value = match number % 50 {
            0 => "own.example",
            7 => "192.0.2.1",
            _ => "nothing.example",
        };
        if value != "nothing.example" {
            expected.insert(number, value);
        }
        writeln!(text, r#"{{"number":{number},"value":"{value}","filler":"{}"}}"#, "x".repeat(number % 90)).unwrap();
    }
    (text, expected)
}

#[test]
fn the_command_takes_files_and_streams() {
    let temp = filled();
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let store = temp.folder.path().to_str().unwrap();
    let (text, expected) = many(30_000);
    std::fs::write(at.join("a.ndjson.gz"), gzip(&text)).unwrap();
    // No line end at its end, a long line in the middle, and something that is no event.
    let long = format!("{{\"a\":\"{}\"}}", "y".repeat(9 << 20));
    std::fs::write(at.join("b.ndjson"), format!("{{\"c\":\"own.example\"}}\n{long}\noops\n{{\"c\":1}}")).unwrap();
    std::fs::write(at.join("c.ndjson"), "{\"last\":true}\n").unwrap();

    let plain = piped(at, &["enrich", "--store", store, "--fields", "value", "--output", "json"], &text);
    assert!(plain.status.success(), "{}", String::from_utf8_lossy(&plain.stderr));
    let mut found = BTreeMap::new();
    for (number, line) in BufReader::new(&plain.stdout[..]).lines().enumerate() {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(event["number"], number, "the order is kept");
        if event["threat"].is_object() {
            found.insert(number, event["value"].as_str().unwrap().to_owned());
        }
    }
    assert!(found.iter().map(|(number, value)| (*number, value.as_str())).eq(expected));
    let summary: Value = serde_json::from_slice(&plain.stderr).unwrap();
    assert_eq!((&summary["lines"], &summary["enriched"]), (&json!(30_000), &json!(1_200)));

    let files = ["enrich", "--store", store, "a.ndjson.gz", "b.ndjson", "c.ndjson", "--out", "out.ndjson.gz"];
    let output = piped(at, &files, b"");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && output.stdout.is_empty(), "{said}");
    assert!(said.contains("b.ndjson, line 2: longer than is looked at"), "{said}");
    assert!(said.contains("b.ndjson, line 3: not a JSON object"), "{said}");
    let written = gunzip(&std::fs::read(at.join("out.ndjson.gz")).unwrap());
    let lines: Vec<&[u8]> = written.split(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), 30_006);
    assert!(lines[30_000].starts_with(b"{\"c\":\"own.example\",\"threat\":"));
    assert!(lines[30_001] == long.as_bytes());
    assert_eq!(lines[30_002..], [&b"oops"[..], b"{\"c\":1}", b"{\"last\":true}", b""]);

    let wrong: [(&[&str], &str); 5] = [
        (&["--collection", "Nope"], "there is no collection `Nope`"),
        (&["--fields", "a,,b"], "separate names by single commas"),
        (&["--allow", "c.ndjson"], "line 1"),
        (&["missing.ndjson"], "missing.ndjson"),
        (&["--min-score", "worst"], "write it as unknown"),
    ];
    for (arguments, expected) in wrong {
        let output = piped(at, &[&["enrich", "--store", store], arguments].concat(), b"{}\n");
        assert!(!output.status.success(), "{arguments:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn a_slow_stream_is_answered_as_it_comes() {
    let temp = filled();
    let mut child = command(temp.folder.path(), &["enrich", "--store", temp.folder.path().to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for number in 0..3 {
        writeln!(stdin, "{{\"a\":\"own.example\",\"n\":{number}}}").unwrap();
        stdin.flush().unwrap();
        // It waits for no further line.
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!((&line["n"], line["threat"].is_object()), (&json!(number), true));
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

// The server.

fn serve(folder: &Path) -> Server {
    let mut command = command(folder, &["serve"]);
    command.stdin(Stdio::null());
    Server::start(command)
}

const CONFIG: &str = r#"
listen = "127.0.0.1:0"
[auth]
anonymous = true
[enrich]
allow = "allow.txt"
[[collection]]
title = "Domains"
alias = "domains"
query = "type:Domain"
read = ["*"]
[[collection]]
title = "All"
alias = "all"
query = ""
read = ["@soc"]
[[collection]]
title = "Drop"
alias = "drop"
inbox = true
read = ["@soc"]
write = ["@partners"]
"#;

fn set_up() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("taxiway.toml"), CONFIG).unwrap();
    std::fs::write(at.join("allow.txt"), "fine.example\n").unwrap();
    let records: String = [
        indicator("Domain", "evil.example", 3, &[]),
        indicator("Domain", "x.fine.example", 3, &[]),
        indicator("IP", "192.0.2.1", 2, &[]),
    ]
    .map(|record| format!("{record}\n"))
    .concat();
    std::fs::write(at.join("in.ndjson"), records).unwrap();
    let quiet = |arguments: &[&str], input: &[u8]| {
        let output = piped(at, arguments, input);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    quiet(&["import", "in.ndjson"], b"");
    quiet(&["user", "add", "ann", "--group", "soc", "--password-stdin"], b"ann's password\n");
    quiet(&["user", "add", "pat", "--group", "partners", "--password-stdin"], b"pat's password\n");
    folder
}

#[tokio::test]
async fn over_http_one_is_told_what_one_may_read() {
    let folder = set_up();
    let server = serve(folder.path());
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::new();
    let event = "{\"a\":[\"evil.example\",\"192.0.2.1\",\"x.fine.example\"]}\n";
    let ask = async |who: &str, query: &str| {
        let url = format!("{}/enrich{query}", server.url);
        let request = client.post(url).body(event);
        let request = if who.is_empty() { request } else { request.basic_auth(who, Some(format!("{who}'s password"))) };
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let kind = answer.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
        let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        if status == 200 {
            assert_eq!(kind.as_deref(), Some("application/x-ndjson"));
        }
        let list = body["threat"]["enrichments"].as_array().cloned().unwrap_or_default();
        let found: Vec<String> = list.iter().map(|one| one["matched"]["atomic"].as_str().unwrap().to_owned()).collect();
        (status, found.join(" "))
    };
    let rows = [
        ("", "", 200, "evil.example"),
        ("", "?collection=domains", 200, "evil.example"),
        ("", "?collection=all", 401, ""),
        ("", "?collection=nothing", 401, ""),
        ("ann", "", 200, "evil.example 192.0.2.1"),
        ("ann", "?collection=all", 200, "evil.example 192.0.2.1"),
        ("ann", "?collection=domains", 200, "evil.example"),
        ("ann", "?collection=drop", 200, ""),
        ("ann", "?collection=nothing", 404, ""),
        ("ann", "?min_score=malicious", 200, "evil.example"),
        ("ann", "?fields=b", 200, ""),
        ("ann", "?field=a", 400, ""),
        ("pat", "", 200, "evil.example"),
        ("pat", "?collection=all", 404, ""),
        ("pat", "?collection=drop", 403, ""),
    ];
    for (who, query, status, expected) in rows {
        assert_eq!(ask(who, query).await, (status, expected.to_owned()), "{who} {query}");
    }

    let look_up = async |query: &str| {
        let answer = client.get(format!("{}/lookup{query}", server.url)).send().await.unwrap();
        (answer.status().as_u16(), serde_json::from_slice::<Value>(&answer.bytes().await.unwrap()).unwrap())
    };
    let (status, told) = look_up("?value=www.EVIL.example").await;
    assert_eq!((status, &told["type"], told["matches"].as_array().unwrap().len()), (200, &json!("domain-name"), 1));
    assert_eq!(told["matches"][0]["matched"]["type"], "parent");
    assert_eq!(told["matches"][0]["indicator"]["url"]["domain"], "evil.example");
    for (query, status, matches) in [
        ("?value=192.0.2.1", 200, json!([])),
        ("?value=nothing%20at%20all", 200, json!([])),
        ("?value=x.fine.example", 200, json!([])),
        ("", 400, json!(null)),
        ("?value=", 400, json!(null)),
        ("?value=x&fields=a", 400, json!(null)),
    ] {
        let (got, told) = look_up(query).await;
        assert_eq!((got, &told["matches"]), (status, &matches), "{query}");
    }
    let wrong = client.get(format!("{}/enrich", server.url)).send().await.unwrap();
    assert_eq!(wrong.status().as_u16(), 405);
}

#[tokio::test]
async fn over_http_streams_are_packed_both_ways_and_follow_the_store() {
    let folder = set_up();
    let server = serve(folder.path());
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::new();
    let text: Vec<u8> =
        (0..50_000).flat_map(|n| format!("{{\"n\":{n},\"a\":\"h{}.evil.example\"}}\n", n % 10).into_bytes()).collect();
    for (coding, packed) in
        [("identity", text.clone()), ("gzip", gzip(&text)), ("zstd", zstd::encode_all(&text[..], 1).unwrap())]
    {
        let pieces: Vec<std::io::Result<Vec<u8>>> = packed.chunks(10_000).map(|piece| Ok(piece.to_vec())).collect();
        let request = client
            .post(format!("{}/enrich", server.url))
            .header("content-encoding", coding)
            .header("accept-encoding", coding)
            .body(reqwest::Body::wrap_stream(futures::stream::iter(pieces)));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        let body = answer.bytes().await.unwrap();
        let lines: Vec<&[u8]> = body.split(|byte| *byte == b'\n').collect();
        assert_eq!(lines.len(), 50_001, "{coding}");
        for (number, line) in lines[..50_000].iter().enumerate().step_by(997) {
            let event: Value = serde_json::from_slice(line).unwrap();
            assert_eq!((&event["n"], &event["threat"]["indicator"]["name"]), (&json!(number), &json!("evil.example")));
        }
    }
    // What cannot be unpacked is refused, or cuts the answer.
    let broken = client.post(format!("{}/enrich", server.url)).header("content-encoding", "gzip").body("plain");
    let broken = broken.send().await;
    assert!(broken.is_err() || broken.is_ok_and(|broken| broken.status().as_u16() == 400));
    let unknown = client.post(format!("{}/enrich", server.url)).header("content-encoding", "br").body("x");
    assert_eq!(unknown.send().await.unwrap().status().as_u16(), 415);

    // Another process writes; nobody has to start anything anew.
    let import = piped(folder.path(), &["import", "-"], b"later.example\n");
    assert!(import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));
    let waited = Instant::now();
    loop {
        let answer = client.get(format!("{}/lookup?value=later.example", server.url)).send().await.unwrap();
        let told: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        if told["matches"].as_array().unwrap().len() == 1 {
            break;
        }
        assert!(waited.elapsed() < Duration::from_secs(60), "{told}");
    }
}
