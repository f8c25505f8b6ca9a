//! Text to tree and back, errors and warnings.

use proptest::prelude::*;

use super::super::ast::{Clause, Comparison, Content, Piece, Query, Span, Test, Tree, Value};
use super::super::parser::MAX_DEPTH;
use super::super::{compile, parse};
use super::{compiled, lines};

#[test]
fn every_query_in_the_wild_compiles() {
    let mut numbers = std::collections::BTreeSet::new();
    for line in lines(include_str!("../../../tests/query/wild.txt")) {
        let (number, text) = line.split_once('\t').expect("a tab");
        numbers.insert(number.parse::<u32>().expect("a number"));
        let tree = parse(text).unwrap_or_else(|error| panic!("{number}: {}", error.render()));
        assert_eq!(parse(&tree.to_string()), Ok(tree), "{number}: {text}");
        compiled(text);
    }
    assert_eq!(numbers.len(), 50);
}

/// Checks blocks of a query and, indented by two, what `show` makes of it; empty lines set them apart, `\0` stands for a
/// line break. With `UPDATE` in the environment the file is rewritten instead.
fn check_blocks(file: &str, text: &str, show: impl Fn(&str) -> String) {
    let (mut found, mut count) = (String::new(), 0);
    for line in text.lines().filter(|line| !line.starts_with("  ") && !line.is_empty()) {
        found += line;
        found += "\n";
        if !line.starts_with('#') {
            show(&line.replace("\\0", "\n")).lines().for_each(|line| found += &format!("  {line}\n"));
            count += 1;
        }
        found += "\n";
    }
    assert!(count > 10, "only {count} blocks");
    if std::env::var_os("UPDATE").is_some() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/query").join(file);
        std::fs::write(path, found.trim_end().to_owned() + "\n").expect("the file can be written");
        return;
    }
    for (found, expected) in found.split("\n\n").zip(text.split("\n\n")) {
        assert_eq!(found.trim_end(), expected.trim_end(), "{file}; UPDATE=1 rewrites it");
    }
    assert_eq!(found.trim_end(), text.trim_end(), "{file}");
}

#[test]
fn errors_point_at_the_place() {
    check_blocks("errors.txt", include_str!("../../../tests/query/errors.txt"), |text| match parse(text) {
        Ok(tree) => format!("no error: {tree}"),
        Err(error) => error.render(),
    });
}

#[test]
fn trees_and_warnings_read_well() {
    check_blocks("explain.txt", include_str!("../../../tests/query/explain.txt"), |text| {
        let query = compiled(text);
        let warnings: String = query.warnings().iter().map(|warning| format!("! {warning}\n")).collect();
        format!("{warnings}{}", query.tree())
    });
}

#[test]
fn limits() {
    let deep = |depth| format!("{}a{}", "(".repeat(depth), ")".repeat(depth));
    assert!(parse(&deep(MAX_DEPTH)).is_ok());
    let error = parse(&deep(MAX_DEPTH + 1)).expect_err("too deep");
    assert_eq!(error.position().column, MAX_DEPTH + 1);
    assert!(error.to_string().contains("more than 64 deep"), "{error}");
    assert!(parse(&format!("{}a", "-".repeat(100_000))).is_err());
    assert!(parse(&format!("{}a", "not ".repeat(100_000))).is_err());
    assert!(parse(&"(".repeat(100_000)).is_err());
    assert!(parse(&format!("{}a", "- ".repeat(100_000))).is_ok());
    let long = "a".repeat((1 << 20) + 1);
    assert!(parse(&long).expect_err("too long").to_string().contains("1048577 bytes"));
    assert!(compile(&long[1..]).is_ok());
    assert!(parse(&"a ".repeat(100_000)).is_ok());
    assert!(parse(&"a ".repeat(100_001)).expect_err("too many").to_string().contains("100000 values"));
    // Every clause warns; the list stays short.
    let many: Vec<String> = (0..5_000).map(|n| format!("Field{n}:x")).collect();
    assert!(compiled(&many.join(" or ")).warnings().len() <= 50);
}

#[test]
fn long_lines_are_cut_around_the_caret() {
    let text = format!("{} and or {}", vec!["tags:\u{fc}ber"; 40].join(" "), vec!["type:IP"; 40].join(" "));
    let error = parse(&text).expect_err("stray operator");
    let shown = error.render();
    let lines: Vec<&str> = shown.lines().collect();
    let caret = lines[2].chars().position(|c| c == '^').expect("a caret");
    assert_eq!(lines[1].chars().skip(caret).take(2).collect::<String>(), "or");
    assert!(lines[1].trim_start().starts_with("...") && lines[1].ends_with("...") && lines[1].chars().count() < 120);
    let before = text.split(" or ").next().expect("text before");
    assert_eq!(error.position().offset, before.len() + 1);
    assert_eq!(error.position().column, before.chars().count() + 2);
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9]{1,6}",
        Just("and".to_owned()),
        Just("OR".to_owned()),
        Just("not".to_owned()),
        Just("to".to_owned()),
        Just("-".to_owned()),
        Just("//x".to_owned()),
        Just("<date>".to_owned()),
        Just(">=1".to_owned()),
        "[-:()\\[\\]{}\"*?\\\\ \t\n<>/'a-c\u{e4}\u{4e2d}]{1,6}",
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let piece = prop_oneof![3 => text().prop_map(Piece::Text), 1 => Just(Piece::Any), 1 => Just(Piece::One)];
    let word = prop::collection::vec(piece, 1..4).prop_map(|pieces| {
        let mut joined: Vec<Piece> = Vec::new();
        for piece in pieces {
            match (joined.last_mut(), piece) {
                (Some(Piece::Text(before)), Piece::Text(text)) => before.push_str(&text),
                (_, piece) => joined.push(piece),
            }
        }
        Content::Word(joined)
    });
    let quoted = prop_oneof![Just(String::new()), text()].prop_map(Content::Quoted);
    prop_oneof![word, quoted].prop_map(|content| Value { content, span: Span::default() })
}

fn test_leaf() -> impl Strategy<Value = Test> {
    let comparison = prop::sample::select(vec![
        Comparison::Equal,
        Comparison::Equal,
        Comparison::Greater,
        Comparison::GreaterOrEqual,
        Comparison::Less,
        Comparison::LessOrEqual,
    ]);
    let bound = || prop::option::of(value().prop_filter("`*` is no bound", |value| !value.is_anything()));
    prop_oneof![
        4 => (comparison, value()).prop_map(|(comparison, value)| Test::Compare(comparison, value)),
        1 => (bound(), any::<bool>(), bound(), any::<bool>()).prop_map(|(low, low_inclusive, high, high_inclusive)| {
            Test::Range { low, low_inclusive, high, high_inclusive }
        }),
    ]
}

fn tree<L: Clone + std::fmt::Debug + 'static>(
    leaf: impl Strategy<Value = L> + 'static,
) -> impl Strategy<Value = Tree<L>> {
    leaf.prop_map(Tree::Leaf).prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Tree::And),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Tree::Or),
            inner.prop_map(|inner| Tree::Not(Box::new(inner))),
        ]
    })
}

fn clause() -> impl Strategy<Value = Clause> {
    let name = prop_oneof![
        "[a-zA-Z_][a-zA-Z0-9_.]{0,8}",
        Just("*".to_owned()),
        Just("or".to_owned()),
        Just("not".to_owned()),
        Just("http".to_owned()),
    ];
    let field = (name, tree(test_leaf())).prop_map(|(name, test)| Clause::Field { name, span: Span::default(), test });
    prop_oneof![2 => field, 1 => value().prop_map(Clause::Text)]
}

proptest! {
    #[test]
    fn printed_trees_parse_to_themselves(root in tree(clause())) {
        let query = Query { root: Some(root), warnings: Vec::new() };
        let text = query.to_string();
        prop_assert_eq!(parse(&text).map_err(|error| error.render()), Ok(query), "{}", text);
    }

    #[test]
    fn any_text_parses_or_is_refused(text in "[a-c:()\\[\\]{}\"*?\\\\ <>=/or\\-\u{e4}\u{2003}]{0,30}") {
        match compile(&text) {
            Ok(query) => { query.tree(); }
            Err(error) => { error.render(); }
        }
    }
}
