//! The resolved tree: columns and typed literals instead of names and words.
//!
//! Two-valued: a leaf over a missing value is false, so its negation holds. Constructors keep the tree small and flat,
//! and gather the values that one column is compared with, so that thousands of literals become one leaf.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::ast::Comparison;
use super::matcher::Op;
use super::time::Moment;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rule {
    All,
    Nothing,
    And(Vec<Rule>),
    Or(Vec<Rule>),
    Not(Box<Rule>),
    Leaf(Leaf),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Leaf {
    /// The column equals one of the values.
    In { column: &'static str, values: Vec<Literal> },
    /// A number column against a number.
    Compare { column: &'static str, comparison: Comparison, value: Literal },
    /// A timestamp column against a date.
    When { column: &'static str, comparison: Comparison, moment: Moment },
    /// The column is null or, for text, empty.
    Empty { column: &'static str, text: bool },
    /// One of our functions.
    Match(Match),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Match {
    pub(super) function: Function,
    pub(super) column: &'static str,
    /// Keys inside the JSON, with dots; empty for the other functions.
    pub(super) path: String,
    pub(super) op: Op,
    pub(super) values: Vec<Argument>,
}

/// Our scalar functions, see [`super::udf`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Function {
    Text,
    List,
    Json,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Argument {
    Text(String),
    /// A relative date, which becomes text when the query is asked.
    Moment(Moment),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Literal {
    Text(String),
    Integer(i64),
    Float(f64),
    Flag(bool),
}

/// What two leaves must share for their values to be gathered.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    In(&'static str),
    Match(Function, &'static str, String, Op),
}

impl Rule {
    pub(super) fn matching(function: Function, column: &'static str, op: Op, values: Vec<String>) -> Rule {
        let values = values.into_iter().map(Argument::Text).collect();
        Rule::Leaf(Leaf::Match(Match { function, column, path: String::new(), op, values }))
    }

    pub(super) fn is(column: &'static str, value: Literal) -> Rule {
        Rule::Leaf(Leaf::In { column, values: vec![value] })
    }

    pub(super) fn not(inner: Rule) -> Rule {
        match inner {
            Rule::All => Rule::Nothing,
            Rule::Nothing => Rule::All,
            Rule::Not(twice) => *twice,
            other => Rule::Not(Box::new(other)),
        }
    }

    pub(super) fn all(rules: Vec<Rule>) -> Rule {
        let mut gathered = Gathered::default();
        for rule in flat(rules, |rule| match rule {
            Rule::And(inner) => Ok(inner),
            other => Err(other),
        }) {
            match rule {
                Rule::All => {}
                Rule::Nothing => return Rule::Nothing,
                // `-a -b` is `-(a or b)`.
                Rule::Not(inner) => match *inner {
                    Rule::Leaf(leaf) => gathered.push(leaf, |leaf| Rule::Not(Box::new(Rule::Leaf(leaf)))),
                    other => gathered.rules.push(Rule::Not(Box::new(other))),
                },
                other => gathered.rules.push(other),
            }
        }
        gathered.finish(Rule::All, Rule::And)
    }

    pub(super) fn any(rules: Vec<Rule>) -> Rule {
        let mut gathered = Gathered::default();
        for rule in flat(rules, |rule| match rule {
            Rule::Or(inner) => Ok(inner),
            other => Err(other),
        }) {
            match rule {
                Rule::Nothing => {}
                Rule::All => return Rule::All,
                Rule::Leaf(leaf) => gathered.push(leaf, Rule::Leaf),
                other => gathered.rules.push(other),
            }
        }
        gathered.finish(Rule::Nothing, Rule::Or)
    }

    /// Whether the answer moves with the time of asking.
    pub(super) fn is_clocked(&self) -> bool {
        match self {
            Rule::All | Rule::Nothing => false,
            Rule::And(rules) | Rule::Or(rules) => rules.iter().any(Rule::is_clocked),
            Rule::Not(inner) => inner.is_clocked(),
            Rule::Leaf(leaf) => leaf.is_clocked(),
        }
    }

    /// Rank by what one row costs: plain comparisons, text functions, JSON.
    pub(super) fn cost(&self) -> u8 {
        match self {
            Rule::All | Rule::Nothing => 0,
            Rule::And(rules) | Rule::Or(rules) => rules.iter().map(Rule::cost).max().unwrap_or(0),
            Rule::Not(inner) => inner.cost(),
            Rule::Leaf(Leaf::Match(Match { function: Function::Json, .. })) => 2,
            Rule::Leaf(Leaf::Match(_)) => 1,
            Rule::Leaf(_) => 0,
        }
    }
}

impl Leaf {
    fn is_clocked(&self) -> bool {
        match self {
            Leaf::When { moment, .. } => moment.is_relative(),
            Leaf::Match(Match { values, .. }) => values.iter().any(|value| matches!(value, Argument::Moment(_))),
            _ => false,
        }
    }

    fn key(&self) -> Option<Key> {
        match self {
            Leaf::In { column, .. } => Some(Key::In(column)),
            // What moves with the clock stays apart, or it would carry the rest along.
            Leaf::Match(Match { function, column, path, op: op @ (Op::Equal | Op::Like | Op::Contains), .. })
                if !self.is_clocked() =>
            {
                Some(Key::Match(*function, column, path.clone(), *op))
            }
            _ => None,
        }
    }

    fn absorb(&mut self, other: Leaf) {
        match (self, other) {
            (Leaf::In { values, .. }, Leaf::In { values: more, .. }) => values.extend(more),
            (Leaf::Match(Match { values, .. }), Leaf::Match(Match { values: more, .. })) => values.extend(more),
            _ => debug_assert!(false, "only leaves of one key are gathered"),
        }
    }

    fn drop_repeats(&mut self) {
        match self {
            Leaf::In { values, .. } => {
                let mut seen = HashSet::with_capacity(values.len());
                values.retain(|value| match value {
                    Literal::Text(text) => seen.insert(text.clone()),
                    Literal::Integer(number) => seen.insert(number.to_string()),
                    Literal::Flag(flag) => seen.insert(flag.to_string()),
                    Literal::Float(_) => true,
                });
            }
            Leaf::Match(Match { values, .. }) => {
                let mut seen = HashSet::with_capacity(values.len());
                values.retain(|value| seen.insert(value.clone()));
            }
            _ => {}
        }
    }
}

fn flat(rules: Vec<Rule>, open: fn(Rule) -> Result<Vec<Rule>, Rule>) -> impl Iterator<Item = Rule> {
    rules.into_iter().flat_map(move |rule| open(rule).unwrap_or_else(|rule| vec![rule]))
}

/// Rules in the order written, leaves of one key at the place of the first.
#[derive(Default)]
struct Gathered {
    rules: Vec<Rule>,
    places: HashMap<Key, usize>,
}

impl Gathered {
    fn push(&mut self, leaf: Leaf, wrap: fn(Leaf) -> Rule) {
        let Some(key) = leaf.key() else { return self.rules.push(wrap(leaf)) };
        match self.places.entry(key) {
            Entry::Vacant(place) => {
                place.insert(self.rules.len());
                self.rules.push(wrap(leaf));
            }
            Entry::Occupied(place) => {
                if let Some(first) = self.rules.get_mut(*place.get()).and_then(leaf_of) {
                    first.absorb(leaf);
                }
            }
        }
    }

    fn finish(mut self, none: Rule, chain: fn(Vec<Rule>) -> Rule) -> Rule {
        for place in self.places.into_values() {
            if let Some(leaf) = self.rules.get_mut(place).and_then(leaf_of) {
                leaf.drop_repeats();
            }
        }
        match self.rules.pop() {
            None => none,
            Some(only) if self.rules.is_empty() => only,
            Some(last) => {
                self.rules.push(last);
                chain(self.rules)
            }
        }
    }
}

fn leaf_of(rule: &mut Rule) -> Option<&mut Leaf> {
    match rule {
        Rule::Leaf(leaf) => Some(leaf),
        Rule::Not(inner) => leaf_of(inner),
        _ => None,
    }
}
