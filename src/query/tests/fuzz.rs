//! Fuzzing of query texts and SQL conditions.

use crate::fuzz::{fuzz, outcome};
use crate::query::tests::compiled;
use crate::query::tests::rows::Session;
use crate::query::{QueryError, compile, compile_sql};

/// An error must be writable and point into the text.
fn said(text: &str, error: &QueryError) -> String {
    let place = error.position();
    let lines = text.lines().count().max(1) + 1;
    assert!(place.line <= lines, "line {} of {lines}", place.line);
    assert!(!error.render().is_empty());
    // What the text itself adds to a message is no new outcome.
    error.to_string().split('`').step_by(2).collect()
}

#[test]
fn fuzz_query() {
    const WORDS: [&str; 30] = [
        " and ",
        " or ",
        " not ",
        "-",
        "(",
        ")",
        ":",
        "\"",
        "\\",
        "*",
        "?",
        ">=",
        "<",
        "type:",
        "tags:",
        "value:",
        "expirationStatus:active",
        "score:",
        "modified:",
        "\"3 days ago\"",
        "now",
        "[",
        "]",
        "{",
        " TO ",
        "\u{0}",
        "\u{e9}",
        "\u{1f600}",
        "&&",
        "!",
    ];
    let session = Session::new();
    let everything = session.both_parts(&compiled(""));
    fuzz("query", &WORDS, |input| {
        let text = String::from_utf8_lossy(input);
        let query = match compile(&text) {
            Ok(query) => query,
            Err(error) => return outcome(said(&text, &error)),
        };
        let rows = session.select(query.expr(session.now));
        assert_eq!(rows, session.both_parts(&query), "in its parts");
        if let Ok(negated) = compile(&format!("-({text})")) {
            let others = session.select(negated.expr(session.now));
            assert!(text.trim().is_empty() || &everything - &rows == others, "{rows:?} and {others:?}");
        }
        // Through SQL it takes a hundred times as long.
        if input.len() % 16 == 0 {
            assert_eq!(rows, session.select_sql(&query.sql(session.now)), "as SQL");
        }
        outcome((rows, query.warnings().len(), query.tree().len() / 64))
    });
}

#[test]
fn fuzz_sql() {
    const WORDS: [&str; 26] = [
        " and ",
        " or ",
        "not ",
        "(",
        ")",
        "'",
        "\"",
        "--",
        "/*",
        ";",
        " in (",
        " like ",
        " between ",
        " is null",
        "type",
        "tags",
        "array_has(",
        "now()",
        "interval '1 day'",
        "select ",
        " from indicators",
        "case when ",
        "cast(",
        "::",
        "1e999",
        "$1",
    ];
    fuzz("sql", &WORDS, |input| {
        let text = String::from_utf8_lossy(input);
        match compile_sql(&text) {
            Ok(compiled) => outcome((compiled.tree().len() / 8, compiled.warnings().len())),
            Err(error) => outcome(said(&text, &error)),
        }
    });
}
