//! Syntax tree to rules: names become columns, words become typed literals.
//!
//! Nothing here fails. What cannot hold (an unknown verdict, `>=X` on a number) matches nothing and is warned about,
//! since that is what such a query does where it comes from.

use super::ast::{Clause, Comparison, Content, Piece, Query, Span, Test, Tree, Value};
use super::error::{Warning, Warnings};
use super::fields::{self, JsonKind, Target};
use super::matcher::{Number, Op};
use super::rule::{Argument, Function, Leaf, Literal, Match, Rule};
use super::time::Moment;
use crate::model::kind::HashAlgorithm;
use crate::model::schema::column as c;
use crate::model::words;

/// XSOAR's own type names (spec/xsoar-taxii2-server.md §4.1), as they are spelled. Other names compare in any case.
const TYPES: &[&str] = &[
    "ASN",
    "Account",
    "Attack Pattern",
    "CIDR",
    "CVE",
    "Campaign",
    "Course of Action",
    "Domain",
    "DomainGlob",
    "Email",
    "File",
    "Host",
    "IP",
    "IPv6",
    "IPv6CIDR",
    "Identity",
    "Infrastructure",
    "Intrusion Set",
    "Location",
    "Malware",
    "Mutex",
    "Registry Key",
    "Report",
    "Software",
    "Tactic",
    "Threat Actor",
    "Tool",
    "URL",
    "X509 Certificate",
    "ssdeep",
];

/// The rule a query stands for, and all warnings about it.
pub(super) fn resolve(text: &str, query: Query) -> (Rule, Vec<Warning>) {
    let mut resolver = Resolver { text, warnings: Warnings::new(text, query.warnings) };
    let rule = query.root.map_or(Rule::All, |root| resolver.clauses(root));
    (rule, resolver.warnings.into_list())
}

struct Resolver<'a> {
    text: &'a str,
    warnings: Warnings<'a>,
}

/// A field as the query names it.
struct Field<'a> {
    name: &'a str,
    target: Target,
}

impl Resolver<'_> {
    fn clauses(&mut self, tree: Tree<Clause>) -> Rule {
        match tree {
            Tree::And(children) => Rule::all(children.into_iter().map(|child| self.clauses(child)).collect()),
            Tree::Or(children) => Rule::any(children.into_iter().map(|child| self.clauses(child)).collect()),
            Tree::Not(inner) => Rule::not(self.clauses(*inner)),
            Tree::Leaf(Clause::Text(value)) => full_text(&value),
            Tree::Leaf(Clause::Field { name, span, test }) => {
                let (target, warning) = fields::find(&name);
                if let Some(message) = warning {
                    self.warnings.push(span.start, message);
                }
                self.tests(&Field { name: &name, target }, &test)
            }
        }
    }

    fn tests(&mut self, field: &Field<'_>, tree: &Tree<Test>) -> Rule {
        match tree {
            Tree::And(children) => Rule::all(children.iter().map(|child| self.tests(field, child)).collect()),
            Tree::Or(children) => Rule::any(children.iter().map(|child| self.tests(field, child)).collect()),
            Tree::Not(inner) => Rule::not(self.tests(field, inner)),
            Tree::Leaf(Test::Compare(comparison, value)) => self.test(field, *comparison, value),
            Tree::Leaf(Test::Range { low, low_inclusive, high, high_inclusive }) => {
                let lower = if *low_inclusive { Comparison::GreaterOrEqual } else { Comparison::Greater };
                let upper = if *high_inclusive { Comparison::LessOrEqual } else { Comparison::Less };
                let bounds = [(low, lower), (high, upper)];
                let bounds = bounds.iter().filter_map(|(bound, comparison)| Some((bound.as_ref()?, *comparison)));
                Rule::all(bounds.map(|(value, comparison)| self.test(field, comparison, value)).collect())
            }
        }
    }

    fn test(&mut self, field: &Field<'_>, comparison: Comparison, value: &Value) -> Rule {
        if value.is_anything() {
            return match &field.target {
                Target::Anything | Target::Value | Target::Type | Target::Verdict => Rule::All,
                // Of any other field: that it is there.
                target => Rule::not(empty(target)),
            };
        }
        if comparison == Comparison::Equal && value.plain() == Some("") {
            return empty(&field.target);
        }
        match &field.target {
            Target::Anything if comparison == Comparison::Equal => full_text(value),
            Target::Anything => self.nothing(value.span, format!("`{}` names no field to compare", field.name)),
            Target::Value => match (comparison, value.plain()) {
                (Comparison::Equal, Some(text)) => {
                    Rule::any(spellings(text).map(|text| text_is(c::VALUE, text)).collect())
                }
                _ => keyword(Function::Text, c::VALUE, comparison, value),
            },
            Target::Type => match (comparison, value.plain()) {
                (Comparison::Equal, Some(text)) => match TYPES.iter().find(|known| known.eq_ignore_ascii_case(text)) {
                    Some(known) => text_is(c::TYPE, (*known).to_owned()),
                    None => keyword(Function::Text, c::TYPE, comparison, value),
                },
                _ => keyword(Function::Text, c::TYPE, comparison, value),
            },
            Target::Keyword(column) => keyword(Function::Text, column, comparison, value),
            Target::List(column) => keyword(Function::List, column, comparison, value),
            Target::LowerCase(column) => match (comparison, value.plain()) {
                (Comparison::Equal, Some(text)) => {
                    let rule = text_is(column, text.to_lowercase());
                    if is_hash_of(column, text) { rule } else { self.or_kept(field, column, comparison, value, rule) }
                }
                _ => {
                    let rule = keyword(Function::Text, column, comparison, value);
                    self.or_kept(field, column, comparison, value, rule)
                }
            },
            Target::Tlp => match (comparison, value.plain()) {
                (Comparison::Equal, Some(text)) => match words::tlp(text) {
                    Some(colour) => text_is(c::TLP, colour.to_owned()),
                    None => self.or_kept(field, c::TLP, comparison, value, Rule::Nothing),
                },
                _ => {
                    let rule = keyword(Function::Text, c::TLP, comparison, value);
                    self.or_kept(field, c::TLP, comparison, value, rule)
                }
            },
            Target::Exact(column) => match (comparison, value.plain()) {
                (Comparison::Equal, Some(text)) => text_is(column, text.to_owned()),
                _ => keyword(Function::Text, column, comparison, value),
            },
            Target::Phrase(column) => match comparison {
                Comparison::Equal => phrase(Function::Text, column, "", value),
                _ => keyword(Function::Text, column, comparison, value),
            },
            Target::Reliability => match (comparison, value.plain()) {
                (Comparison::Equal, Some(letter)) if is_grade(letter) => {
                    let patterns = vec![letter.to_owned(), format!("{letter} -*")];
                    Rule::matching(Function::Text, c::RELIABILITY, Op::Like, patterns)
                }
                _ => keyword(Function::Text, c::RELIABILITY, comparison, value),
            },
            Target::ExpirationStatus => self.expiration_status(comparison, value),
            Target::Verdict => self.verdict(field, comparison, value),
            Target::Confidence => self.confidence(field, comparison, value),
            Target::Time(column) => match value.plain().and_then(Moment::parse) {
                Some(moment) => Rule::Leaf(Leaf::When { column, comparison, moment }),
                None => self.only_kept(field, column, "date", comparison, value),
            },
            Target::Flag(column) => match value.plain().and_then(words::truth) {
                Some(flag) if comparison == Comparison::Equal => Rule::is(column, Literal::Flag(flag)),
                Some(_) => self.not_a(field, "`T` or `F`", value),
                None => self.only_kept(field, column, "`T` or `F`", comparison, value),
            },
            Target::Json(column, path, kind) => self.json(field, (column, path, *kind), comparison, value),
            Target::Either(path, other) => {
                let mut at = |path| self.json(field, (c::DOCUMENT, path, JsonKind::Any), comparison, value);
                Rule::any(vec![at(path), at(other)])
            }
        }
    }

    fn json(
        &mut self,
        field: &Field<'_>,
        (column, path, kind): (&'static str, &str, JsonKind),
        comparison: Comparison,
        value: &Value,
    ) -> Rule {
        let equal = comparison == Comparison::Equal;
        let moment = value.plain().and_then(Moment::parse);
        match kind {
            JsonKind::Phrase if equal => return phrase(Function::Json, column, path, value),
            JsonKind::Time if moment.is_none() => return self.not_a(field, "date", value),
            JsonKind::Count if value.plain().and_then(Number::parse).is_none() => {
                return self.not_a(field, "number", value);
            }
            _ => {}
        }
        // Of an unknown field, `today` is as likely a word.
        let relative = moment.filter(|moment| moment.is_relative() && (!equal || kind == JsonKind::Time));
        let (op, argument) = match (relative, value.plain()) {
            (Some(moment), _) => (op_of(comparison), Argument::Moment(moment)),
            (None, Some(text)) => (op_of(comparison), Argument::Text(text.to_owned())),
            (None, None) if equal => (Op::Like, Argument::Text(pattern(value))),
            (None, None) => (op_of(comparison), Argument::Text(pattern(value))),
        };
        let path = path.to_owned();
        Rule::Leaf(Leaf::Match(Match { function: Function::Json, column, path, op, values: vec![argument] }))
    }

    /// The column's rule, or that the custom fields which fill it hold what it could not. Not needed for an equality
    /// with what the column can hold: import has put that there.
    fn or_kept(
        &mut self,
        field: &Field<'_>,
        column: &'static str,
        comparison: Comparison,
        value: &Value,
        rule: Rule,
    ) -> Rule {
        let mut rules = vec![rule];
        let keys = fields::kept(column).iter();
        rules.extend(keys.map(|key| self.json(field, (c::CUSTOM, key, JsonKind::Any), comparison, value)));
        Rule::any(rules)
    }

    /// A value that the column cannot hold: only a custom field that stayed where it is can match.
    fn only_kept(
        &mut self,
        field: &Field<'_>,
        column: &'static str,
        wanted: &str,
        comparison: Comparison,
        value: &Value,
    ) -> Rule {
        if fields::kept(column).is_empty() {
            return self.not_a(field, wanted, value);
        }
        let message = format!("{}; this matches only what was imported so", self.no(field, wanted, value));
        self.warnings.push(value.span.start, message);
        self.or_kept(field, column, comparison, value, Rule::Nothing)
    }

    fn confidence(&mut self, field: &Field<'_>, comparison: Comparison, value: &Value) -> Rule {
        let text = value.plain().unwrap_or_default();
        match (words::confidence(text), Number::parse(text)) {
            (Some(read), _) if comparison == Comparison::Equal => {
                Rule::is(c::CONFIDENCE, Literal::Integer(read.into()))
            }
            (None, None) => self.only_kept(field, c::CONFIDENCE, "number", comparison, value),
            (read, number) => {
                let number = number.unwrap_or(Number::Integer(read.unwrap_or_default().into()));
                let rule = number_rule(c::CONFIDENCE, comparison, number);
                self.or_kept(field, c::CONFIDENCE, comparison, value, rule)
            }
        }
    }

    fn verdict(&mut self, field: &Field<'_>, comparison: Comparison, value: &Value) -> Rule {
        let Some(text) = value.plain() else {
            return self.not_a(field, "verdict", value);
        };
        let word = words::verdict(text).map(|score| Number::Integer(score.into()));
        match word.or_else(|| Number::parse(text)) {
            Some(score) => number_rule(c::SCORE, comparison, score),
            None => {
                let known = "malicious, suspicious, benign, unknown, bad, good, none, or 0 to 3";
                self.nothing(value.span, format!("`{text}` is no verdict ({known}); this matches nothing"))
            }
        }
    }

    fn expiration_status(&mut self, comparison: Comparison, value: &Value) -> Rule {
        let compare = |comparison| Rule::Leaf(Leaf::When { column: c::EXPIRATION, comparison, moment: Moment::Now });
        match value.plain().map(str::to_ascii_lowercase).as_deref() {
            Some("active") if comparison == Comparison::Equal => {
                let never = Rule::Leaf(Leaf::Empty { column: c::EXPIRATION, text: false });
                Rule::any(vec![never, compare(Comparison::Greater)])
            }
            Some("expired") if comparison == Comparison::Equal => compare(Comparison::LessOrEqual),
            _ => {
                let written = self.written(value);
                let message = format!("`{written}` is no expiration status (active, expired); this matches nothing");
                self.nothing(value.span, message)
            }
        }
    }

    fn not_a(&mut self, field: &Field<'_>, wanted: &str, value: &Value) -> Rule {
        let message = format!("{}; this matches nothing", self.no(field, wanted, value));
        self.nothing(value.span, message)
    }

    fn no(&self, field: &Field<'_>, wanted: &str, value: &Value) -> String {
        let message = format!("`{}` takes a {wanted}, which `{}` is not", field.name, self.written(value));
        message.replace("a `T`", "`T`")
    }

    fn written(&self, value: &Value) -> String {
        self.text.get(value.span.start..value.span.end).unwrap_or_default().chars().take(60).collect()
    }

    fn nothing(&mut self, span: Span, message: String) -> Rule {
        self.warnings.push(span.start, message);
        Rule::Nothing
    }
}

/// A bare word: in the value, a tag, the MITRE id, or in the description. Wildcards are for the value alone.
fn full_text(value: &Value) -> Rule {
    if value.is_anything() || value.plain() == Some("") {
        return Rule::All;
    }
    let Some(text) = value.plain() else {
        return Rule::matching(Function::Text, c::VALUE, Op::Like, vec![pattern(value)]);
    };
    let matching = |function, column, op| Rule::matching(function, column, op, vec![text.to_owned()]);
    Rule::any(vec![
        matching(Function::Text, c::VALUE, Op::Contains),
        matching(Function::List, c::TAGS, Op::Equal),
        matching(Function::Text, c::MITRE_ID, Op::Equal),
        matching(Function::Text, c::DESCRIPTION, Op::Contains),
    ])
}

fn empty(target: &Target) -> Rule {
    let json = |column, path: &str| {
        let path = path.to_owned();
        Rule::Leaf(Leaf::Match(Match { function: Function::Json, column, path, op: Op::Empty, values: Vec::new() }))
    };
    let column = |column, text| {
        let kept = fields::kept(column).iter().map(|key| json(c::CUSTOM, key));
        Rule::all(std::iter::once(Rule::Leaf(Leaf::Empty { column, text })).chain(kept).collect())
    };
    match target {
        Target::Anything => Rule::All,
        Target::ExpirationStatus => Rule::Nothing,
        Target::Value => column(c::VALUE, true),
        Target::Type => column(c::TYPE, true),
        Target::Verdict => column(c::SCORE, false),
        Target::Confidence => column(c::CONFIDENCE, false),
        Target::Tlp => column(c::TLP, true),
        Target::Reliability => column(c::RELIABILITY, true),
        Target::Keyword(name) | Target::LowerCase(name) | Target::Exact(name) | Target::Phrase(name) => {
            column(name, true)
        }
        Target::Time(name) | Target::Flag(name) => column(name, false),
        Target::List(name) => Rule::matching(Function::List, name, Op::Empty, Vec::new()),
        // A count is always there; it lacks when there is nothing to count.
        Target::Json(name, path, _) => json(name, path.trim_end_matches(".#")),
        Target::Either(path, other) => Rule::all(vec![json(c::DOCUMENT, path), json(c::DOCUMENT, other)]),
    }
}

fn text_is(column: &'static str, text: String) -> Rule {
    Rule::is(column, Literal::Text(text))
}

fn keyword(function: Function, column: &'static str, comparison: Comparison, value: &Value) -> Rule {
    match (comparison, value.plain()) {
        (_, Some(text)) => Rule::matching(function, column, op_of(comparison), vec![text.to_owned()]),
        (Comparison::Equal, None) => Rule::matching(function, column, Op::Like, vec![pattern(value)]),
        (_, None) => Rule::matching(function, column, op_of(comparison), vec![pattern(value)]),
    }
}

/// Text that holds the value somewhere.
fn phrase(function: Function, column: &'static str, path: &str, value: &Value) -> Rule {
    let (op, text) = match value.plain() {
        Some(text) => (Op::Contains, text.to_owned()),
        None => (Op::Like, format!("*{}*", pattern(value))),
    };
    let (path, values) = (path.to_owned(), vec![Argument::Text(text)]);
    Rule::Leaf(Leaf::Match(Match { function, column, path, op, values }))
}

/// The value as a pattern of [`Op::Like`].
fn pattern(value: &Value) -> String {
    let mut out = String::new();
    let pieces = match &value.content {
        Content::Word(pieces) => pieces.clone(),
        Content::Quoted(text) => vec![Piece::Text(text.clone())],
    };
    for piece in pieces {
        match piece {
            Piece::Any => out.push('*'),
            Piece::One => out.push('?'),
            Piece::Text(text) => {
                for c in text.chars() {
                    if matches!(c, '*' | '?' | '\\') {
                        out.push('\\');
                    }
                    out.push(c);
                }
            }
        }
    }
    out
}

/// The text itself and, for what looks like a hash, its usual two spellings: an `IN` the store can prune by.
fn spellings(text: &str) -> impl Iterator<Item = String> {
    let is_hash = matches!(text.len(), 32 | 40 | 64 | 128) && text.bytes().all(|b| b.is_ascii_hexdigit());
    let others = is_hash.then(|| [text.to_ascii_lowercase(), text.to_ascii_uppercase()]);
    std::iter::once(text.to_owned()).chain(others.into_iter().flatten())
}

/// Whether the text is a hash that the column holds.
fn is_hash_of(column: &str, text: &str) -> bool {
    let of_column = HashAlgorithm::of(text).map(|algorithm| match algorithm {
        HashAlgorithm::Md5 => c::MD5,
        HashAlgorithm::Sha1 => c::SHA1,
        HashAlgorithm::Sha256 => c::SHA256,
        HashAlgorithm::Sha512 => c::SHA512,
    });
    of_column == Some(column)
}

/// `A` to `F`, and `A+`.
fn is_grade(text: &str) -> bool {
    matches!(text.as_bytes(), [letter] | [letter, b'+'] if matches!(letter.to_ascii_uppercase(), b'A'..=b'F'))
}

fn op_of(comparison: Comparison) -> Op {
    match comparison {
        Comparison::Equal => Op::Equal,
        Comparison::Greater => Op::Greater,
        Comparison::GreaterOrEqual => Op::GreaterOrEqual,
        Comparison::Less => Op::Less,
        Comparison::LessOrEqual => Op::LessOrEqual,
    }
}

/// Comparison of an integer column.
fn number_rule(column: &'static str, comparison: Comparison, number: Number) -> Rule {
    let value = match number {
        Number::Integer(whole) => Literal::Integer(whole.clamp(i64::MIN.into(), i64::MAX.into()) as i64),
        Number::Float(float) if float.fract() == 0.0 && float.abs() < 1e15 => Literal::Integer(float as i64),
        Number::Float(float) => Literal::Float(float),
    };
    match (comparison, value) {
        (Comparison::Equal, value @ Literal::Integer(_)) => Rule::is(column, value),
        (Comparison::Equal, _) => Rule::Nothing,
        (comparison, value) => Rule::Leaf(Leaf::Compare { column, comparison, value }),
    }
}
