//! Compiled queries run over a dozen records, as expression and as SQL.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, Int8Array, Int16Array, ListBuilder, RecordBatch,
    StringArray, StringBuilder, TimestampMicrosecondArray, new_null_array,
};
use arrow::compute::cast;
use datafusion::common::DFSchema;
use datafusion::datasource::MemTable;
use datafusion::logical_expr::{Expr, Operator};
use datafusion::prelude::{SessionConfig, SessionContext};

use super::super::lower::balanced;
use super::super::parser::MAX_DEPTH;
use super::super::{Compiled, compile_sql, functions};
use super::{compiled, lines};
use crate::model::schema::{column as c, dictionary_type, schema};
use crate::model::time::Timestamp;

const NOW: &str = "2024-06-15T12:00:00Z";

/// A record by the columns that matter to queries; `name` is what the cases call it.
#[derive(Default)]
struct Row {
    name: &'static str,
    kind: Option<&'static str>,
    r#type: Option<&'static str>,
    value: Option<&'static str>,
    score: Option<i8>,
    tags: Option<&'static [&'static str]>,
    brands: Option<&'static [&'static str]>,
    reliability: Option<&'static str>,
    confidence: Option<i16>,
    tlp: Option<&'static str>,
    description: Option<&'static str>,
    revoked: Option<bool>,
    mitre_id: Option<&'static str>,
    sha256: Option<&'static str>,
    validity: Option<&'static str>,
    expiration: Option<&'static str>,
    modified: Option<&'static str>,
    first_seen: Option<&'static str>,
    last_seen: Option<&'static str>,
    custom: Option<&'static str>,
    document: Option<&'static str>,
    registry: Option<&'static str>,
}

const SHA: &str = "275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f";

fn rows() -> Vec<Row> {
    let indicator = || Row { kind: Some("indicator"), ..Row::default() };
    vec![
        Row {
            name: "ip1",
            r#type: Some("IP"),
            value: Some("1.1.1.1"),
            score: Some(3),
            tags: Some(&["malware", "pending_review"]),
            brands: Some(&["AWS Feed", "Spamhaus"]),
            reliability: Some("A - Completely reliable"),
            confidence: Some(90),
            tlp: Some("green"),
            revoked: Some(true),
            modified: Some("2024-06-14T00:00:00Z"),
            first_seen: Some("2020-01-01T00:00:00Z"),
            last_seen: Some("2024-06-10T12:00:00Z"),
            custom: Some(
                r#"{"cyrenfeedaction":"add","cyrenfeedrelationships":[{"timestamp":"1999-01-01T00:00:00Z"},{"timestamp":"2020-01-01T00:00:00Z"}],"cyreniprisk":85,"cyrensourcetags":["primary","other"],"lastseenbysource":"2024-06-14T00:00:00Z","longid":12345678901234567890}"#,
            ),
            document: Some(
                r#"{"id":"123","investigationIDs":["7","8"],"isShared":true,"expirationSource":{"source":"indicatorType"}}"#,
            ),
            ..indicator()
        },
        Row {
            name: "ip2",
            r#type: Some("IP"),
            value: Some("2.2.2.2"),
            score: Some(2),
            tags: Some(&[]),
            brands: Some(&["AWS Feed"]),
            reliability: Some("A+ - 3rd party enrichment"),
            confidence: Some(75),
            tlp: Some("red"),
            revoked: Some(false),
            expiration: Some("2024-06-01T00:00:00Z"),
            modified: Some("2024-06-01T10:00:00Z"),
            last_seen: Some("2022-02-16T14:20:00Z"),
            custom: Some(
                r#"{"cyreniprisk":"80.5","isdeprecated":"T","note":null,"empty":[],"lastseenbysource":"2020-01-01T00:00:00Z"}"#,
            ),
            document: Some(
                r#"{"id":"456","investigationIDs":[],"comments":[{"user":"amy","content":"Seen in a Ransomware case"}]}"#,
            ),
            ..indicator()
        },
        Row {
            name: "cidr",
            r#type: Some("CIDR"),
            value: Some("44.224.0.0/11"),
            score: Some(1),
            tags: Some(&["aws"]),
            expiration: Some("2024-06-15T12:00:00Z"),
            modified: Some("2024-06-15T00:00:00Z"),
            ..indicator()
        },
        Row {
            name: "domain",
            r#type: Some("Domain"),
            value: Some("www.Example.com"),
            score: Some(0),
            tags: Some(&["a", "c"]),
            expiration: Some("2024-06-15T12:00:00.000001Z"),
            description: Some("Hosts a Phishing kit; see 1.1.1.1"),
            ..indicator()
        },
        Row {
            name: "url",
            r#type: Some("URL"),
            value: Some("http://evil.test/a?b=1"),
            score: Some(3),
            tags: Some(&["a", "Feed"]),
            brands: Some(&["Spamhaus"]),
            custom: Some(r#"{"isdeprecated":true,"score\u0032":"x"}"#),
            ..indicator()
        },
        Row { name: "sha", r#type: Some("File"), value: Some(SHA), sha256: Some(SHA), score: Some(3), ..indicator() },
        Row {
            name: "md5",
            r#type: Some("File"),
            value: Some("44D88612FEA8A8F36DE82E1278ABB02F"),
            score: Some(0),
            ..indicator()
        },
        Row {
            name: "attack",
            r#type: Some("Attack Pattern"),
            value: Some("Command and Scripting Interpreter"),
            mitre_id: Some("T1059"),
            custom: Some(r#"{"feedrelatedindicators":[{"type":"MITRE ATT&CK","value":"T1"},{"type":"Other"}]}"#),
            document: Some(
                r#"{"incident":{"type":"MITRE ATT&CK CoA","id":"99"},"timeline":[{"date":"2024-06-14T12:00:00Z"}]}"#,
            ),
            ..indicator()
        },
        Row {
            name: "star",
            r#type: Some("Domain"),
            value: Some("*"),
            validity: Some("2025-01-01T00:00:00Z"),
            ..indicator()
        },
        Row {
            name: "odd",
            r#type: Some("Some'Type"),
            value: Some(r#"o'brien "x\y' OR 1=1 --"#),
            custom: Some(
                r#"{"quoted":"it's","nested":{"a":{"b":[1,2,{"c":"deep"}]}},"version":"1.10","employeeid":"007","level":7,"confidence":"High","trafficlightprotocol":"pink","isrevoked":"maybe","sha256":"no hash","published":"soon"}"#,
            ),
            registry: Some(r#"[{"name":"Run","data":"evil.exe","data_type":"REG_SZ"}]"#),
            ..indicator()
        },
        Row { name: "object", kind: Some("object"), ..Row::default() },
        Row {
            name: "broken",
            value: Some(""),
            custom: Some(r#"{"isdeprecated":"T","#),
            document: Some("nonsense"),
            ..indicator()
        },
    ]
}

/// The rows in the store's schema.
pub(super) fn test_batch() -> RecordBatch {
    let rows = rows();
    let text =
        |get: fn(&Row) -> Option<&'static str>| -> ArrayRef { Arc::new(rows.iter().map(get).collect::<StringArray>()) };
    let dictionary = |get| cast(&text(get), &dictionary_type()).unwrap();
    let time = |get: fn(&Row) -> Option<&'static str>| -> ArrayRef {
        let micros = rows.iter().map(|row| get(row).map(|text| Timestamp::parse(text).unwrap().0));
        Arc::new(micros.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
    };
    let list = |get: fn(&Row) -> Option<&'static [&'static str]>| -> ArrayRef {
        let mut builder = ListBuilder::new(StringBuilder::new());
        for row in &rows {
            builder.append_option(get(row).map(|items| items.iter().map(Some)));
        }
        Arc::new(builder.finish())
    };
    let schema = schema();
    let columns = schema.fields().iter().map(|field| match field.name().as_str() {
        c::ADDED => {
            Arc::new((0..rows.len() as i64).map(Some).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        }
        c::ID => Arc::new(FixedSizeBinaryArray::try_from_iter(rows.iter().map(|_| [0u8; 16])).unwrap()) as ArrayRef,
        c::KIND => dictionary(|row| row.kind),
        c::TYPE => dictionary(|row| row.r#type),
        c::VALUE => text(|row| row.value),
        c::SCORE => Arc::new(rows.iter().map(|row| row.score).collect::<Int8Array>()),
        c::TAGS => list(|row| row.tags),
        c::SOURCE_BRANDS => list(|row| row.brands),
        c::RELIABILITY => dictionary(|row| row.reliability),
        c::CONFIDENCE => Arc::new(rows.iter().map(|row| row.confidence).collect::<Int16Array>()),
        c::TLP => dictionary(|row| row.tlp),
        c::DESCRIPTION => text(|row| row.description),
        c::REVOKED => Arc::new(rows.iter().map(|row| row.revoked).collect::<BooleanArray>()),
        c::MITRE_ID => text(|row| row.mitre_id),
        c::SHA256 => text(|row| row.sha256),
        c::VALIDITY_NOT_AFTER => text(|row| row.validity),
        c::EXPIRATION => time(|row| row.expiration),
        c::MODIFIED => time(|row| row.modified),
        c::FIRST_SEEN => time(|row| row.first_seen),
        c::LAST_SEEN => time(|row| row.last_seen),
        c::CUSTOM => text(|row| row.custom),
        c::DOCUMENT => text(|row| row.document),
        c::REGISTRY_VALUES => text(|row| row.registry),
        _ => new_null_array(field.data_type(), rows.len()),
    });
    RecordBatch::try_new(Arc::clone(&schema), columns.collect()).unwrap()
}

pub(super) struct Session {
    context: SessionContext,
    batch: RecordBatch,
    table: DFSchema,
    pub(super) now: Timestamp,
}

impl Session {
    pub(super) fn new() -> Self {
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        for function in functions() {
            context.register_udf(function);
        }
        let batch = test_batch();
        let table = MemTable::try_new(schema(), vec![vec![batch.clone()]]).unwrap();
        context.register_table("indicators", Arc::new(table)).unwrap();
        let table = DFSchema::try_from(schema().as_ref().clone()).unwrap();
        Session { context, batch, table, now: Timestamp::parse(NOW).unwrap() }
    }

    /// Names of the rows an expression selects.
    pub(super) fn select(&self, expr: Expr) -> BTreeSet<&'static str> {
        let physical = self.context.create_physical_expr(expr, &self.table).unwrap();
        let answers = physical.evaluate(&self.batch).unwrap().into_array(self.batch.num_rows()).unwrap();
        let answers: Vec<Option<bool>> = answers.as_boolean().iter().collect();
        rows().iter().zip(answers).filter(|(_, answer)| *answer == Some(true)).map(|(row, _)| row.name).collect()
    }

    /// The same through SQL text: parsed, optimised and run by a session.
    pub(super) fn select_sql(&self, condition: &str) -> BTreeSet<&'static str> {
        let text = format!("SELECT added FROM indicators WHERE {condition}");
        let batches = futures::executor::block_on(async { self.context.sql(&text).await?.collect().await });
        let batches = batches.unwrap_or_else(|error| panic!("{text}: {error}"));
        let rows = rows();
        let added = batches.iter().flat_map(|batch| {
            let added = batch.column(0).as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
            added.values().iter().copied().collect::<Vec<_>>()
        });
        added.map(|index| rows[index as usize].name).collect()
    }

    pub(super) fn both_parts(&self, query: &Compiled) -> BTreeSet<&'static str> {
        let parts = query.fixed().cloned().into_iter().chain(query.clocked(self.now));
        let all = rows().iter().map(|row| row.name).collect();
        parts.fold(all, |left: BTreeSet<_>, part| &left & &self.select(part))
    }
}

/// Every case selects its rows: as expression, in its two parts, and as SQL; its negation selects exactly the others.
#[test]
fn cases_select_their_rows() {
    let session = Session::new();
    let all: BTreeSet<&str> = rows().iter().map(|row| row.name).collect();
    let mut lines = lines(include_str!("../../../tests/query/cases.txt"));
    let mut wrong = String::new();
    let mut count = 0;
    while let Some(text) = lines.next() {
        let expected = lines.next().and_then(|line| line.strip_prefix("= ").or(line.strip_prefix('=')));
        let expected = expected.unwrap_or_else(|| panic!("no rows after {text}"));
        let expected: BTreeSet<&str> =
            if expected == "*" { all.clone() } else { expected.split_whitespace().collect() };
        assert!(expected.is_subset(&all), "unknown row in {expected:?}");
        let query = compiled(text);
        let sql = query.sql(session.now);
        let negated = compiled(&format!("-({text})"));
        let others: BTreeSet<&str> = &all - &expected;
        for (how, found, expected) in [
            ("expression", session.select(query.expr(session.now)), &expected),
            ("parts", session.both_parts(&query), &expected),
            ("sql", session.select_sql(&sql), &expected),
            ("negated", session.select(negated.expr(session.now)), &others),
            ("negated sql", session.select_sql(&negated.sql(session.now)), &others),
        ] {
            if found != *expected {
                wrong += &format!("{text}\n  {how}: {found:?}\n  expected {expected:?}\n  {sql}\n");
            }
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(count > 100, "only {count} cases");
}

#[test]
fn every_query_in_the_wild_runs() {
    let session = Session::new();
    for line in lines(include_str!("../../../tests/query/wild.txt")) {
        let (number, text) = line.split_once('\t').unwrap();
        let query = compiled(text);
        let found = session.select(query.expr(session.now));
        assert_eq!(found, session.select_sql(&query.sql(session.now)), "{number}: {text}");
        assert_eq!(found, session.both_parts(&query), "{number}: {text}");
    }
}

#[test]
fn thousands_of_literals_are_one_list() {
    let session = Session::new();
    let group: Vec<String> = (0..5_000).map(|n| format!("\"10.0.{}.{}\"", n / 250, n % 250)).collect();
    let clauses: Vec<String> = group.iter().map(|literal| format!("value:{literal}")).collect();
    for text in [
        format!("value:({} \"1.1.1.1\")", group.join(" ")),
        format!("value:({} OR \"1.1.1.1\")", group.join(" OR ")),
        format!("{} or value:\"1.1.1.1\"", clauses.join(" or ")),
    ] {
        let query = compiled(&text);
        let Some(Expr::InList(list)) = query.fixed() else { panic!("not a list: {}", &query.tree()[..200]) };
        assert_eq!(list.list.len(), 5_001);
        assert_eq!(session.select(query.expr(session.now)), BTreeSet::from(["ip1"]));
    }
    let negated = compiled(&format!("type:IP -{}", clauses.join(" -")));
    assert_eq!(session.select(negated.expr(session.now)), BTreeSet::from(["ip1", "ip2"]));
    assert_eq!(session.select_sql(&negated.sql(session.now)), BTreeSet::from(["ip1", "ip2"]));
    // Words of full text gather into four calls, whatever their number.
    let words = compiled(&group.join(" or "));
    assert_eq!(words.tree().lines().count(), 5);
}

/// Thousands of different conditions neither nest nor overflow, nor does the deepest nesting with many at every level.
#[test]
fn wide_and_deep_queries_run() {
    let session = Session::new();
    let wide: Vec<String> = (0..1_000).map(|n| format!("field{n}:x")).collect();
    assert_eq!(session.select(compiled(&wide.join(" or ")).expr(session.now)), BTreeSet::new());
    for siblings in [1, 20] {
        let deep = (0..MAX_DEPTH).fold("type:IP".to_owned(), |inner, level| {
            let siblings = |name: &str, joiner: &str| {
                let all: Vec<String> = (0..siblings).map(|n| format!("{name}{n}:l{level}")).collect();
                all.join(joiner)
            };
            match level % 2 {
                0 => format!("({} or {inner})", siblings("a", " or ")),
                _ => format!("(-{} and {inner})", siblings("b", " and -")),
            }
        });
        let expr = compiled(&deep).expr(session.now);
        assert_eq!(session.select(expr.clone()), BTreeSet::from(["ip1", "ip2"]));
        let frame = async { session.context.table("indicators").await?.filter(expr)?.count().await };
        assert_eq!(futures::executor::block_on(frame).unwrap(), 2);
    }
}

#[test]
fn what_depends_on_the_clock_stays_apart() {
    let cases = [
        ("type:IP", true, false),
        ("*", false, false),
        ("expirationStatus:active", false, true),
        ("type:IP expirationStatus:active tags:x", true, true),
        ("type:IP or expirationStatus:active", false, true),
        ("type:IP modified:>\"2 days ago\"", true, true),
        ("modified:>\"2024-01-01\"", true, false),
        ("lastseenbysource:>=\"7 days ago\"", false, true),
        ("lastseenbysource:today", true, false),
        ("-tags:x -expirationStatus:expired", true, true),
        ("type:IP verdict:nonsense", true, false),
    ];
    for (text, fixed, clocked) in cases {
        let query = compiled(text);
        assert_eq!((query.fixed().is_some(), query.clocked(Timestamp(0)).is_some()), (fixed, clocked), "{text}");
    }
    let query = compiled("modified:>\"1 day ago\"");
    assert_ne!(query.clocked(Timestamp(0)), query.clocked(Timestamp(1)));
}

/// Comparisons carry literals of their column's type: no cast comes between them and dictionaries or statistics.
#[test]
fn comparisons_need_no_casts() {
    let session = Session::new();
    for text in [
        "type:ip",
        "type:(ip url domain file cidr)",
        "score:>1",
        "verdict:(bad good)",
        "confidence:>=50",
        "modified:>\"2024-01-01\"",
        "tlp:red",
        "kind:(object indicator)",
        "value:\"1.1.1.1\"",
        "expirationStatus:active",
    ] {
        let expr = compiled(text).expr(session.now);
        let physical = session.context.create_physical_expr(expr, &session.table).unwrap();
        assert!(!format!("{physical:?}").contains("Cast"), "{text}: {physical:?}");
    }
}

#[test]
fn sql_conditions() {
    let session = Session::new();
    let cases: [(&str, &[&str]); 9] = [
        ("type = 'IP'", &["ip1", "ip2"]),
        ("type IN ('IP', 'CIDR') AND score >= 2", &["ip1", "ip2"]),
        ("list_match(tags, 'eq', 'MALWARE')", &["ip1"]),
        ("json_match(custom, 'cyreniprisk', 'gt', '81') OR value LIKE '44.%'", &["ip1", "cidr"]),
        ("array_has(tags, 'a')", &["domain", "url"]),
        ("expiration <= now()", &["ip2", "cidr"]),
        ("modified > now() - interval '2 days' AND type = 'IP'", &["ip1"]),
        ("modified >= '2024-06-15T00:00:00Z'", &["cidr"]),
        ("score = 3 AND upper(value) = 'HTTP://EVIL.TEST/A?B=1'", &["url"]),
    ];
    for (text, expected) in cases {
        let query = compile_sql(text).unwrap_or_else(|error| panic!("{}", error.render()));
        let expected: BTreeSet<&str> = expected.iter().copied().collect();
        assert_eq!(session.select(query.expr(session.now)), expected, "{text}");
        assert_eq!(session.both_parts(&query), expected, "{text}");
    }
    // A chain of any length does not nest.
    let long: Vec<String> = (0..600).map(|n| format!("value LIKE 'a{n}%'")).collect();
    let query = compile_sql(&format!("type = 'IP' AND ({} OR score = 3)", long.join(" OR "))).unwrap();
    assert_eq!(session.select(query.expr(session.now)), BTreeSet::from(["ip1"]));
    assert_eq!(compile_sql("  ").map(|query| query.sql(session.now)), Ok("true".to_owned()));
    let query = compile_sql("type = 'IP' AND expiration > now()").unwrap();
    assert!(query.fixed().is_some() && query.clocked(session.now).is_some());
    assert!(!format!("{:?}", query.clocked(session.now)).contains("now"));
}

#[test]
fn bad_sql_conditions_are_refused() {
    let cases = [
        ("type = ", "Expected"),
        ("nosuch = 1", "nosuch"),
        ("score", "not a condition"),
        ("random() > 0.5", "random"),
        ("count(*) > 1", "aggregate"),
        ("value IN (SELECT 1)", "subquery"),
        ("type = 'IP'; DROP TABLE indicators", "end of expression"),
        ("list_match(tags, 'nope', 'x')", "no operation"),
        ("list_match(tags, value, 'x')", "literal"),
        ("list_match(value, 'eq', 'x')", "a list"),
        ("text_match(tags, 'eq', 'x')", "text"),
        ("json_match(custom, 'a')", "lacks its operation"),
        ("text_match(value, 'eq')", "at least one"),
        ("no_such_function(value)", "no_such_function"),
        (&format!("{}true{}", "(".repeat(500), ")".repeat(500)), "nested"),
        (&format!("value{} = 'x'", " || 'a'".repeat(200)), "nested"),
    ];
    for (text, part) in cases {
        let error = compile_sql(text).expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn balanced_trees_hold_every_part_once() {
    let parts: Vec<Expr> = (0..1_001).map(datafusion::logical_expr::lit).collect();
    let whole = balanced(parts.clone(), Operator::And).unwrap();
    let mut apart = datafusion::logical_expr::utils::split_conjunction_owned(whole);
    apart.sort_by_key(|part| parts.iter().position(|known| known == part));
    assert_eq!(apart, parts);
    assert_eq!(balanced(Vec::new(), Operator::And), None);
}
