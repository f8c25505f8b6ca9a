//! Tokens to tree, by recursive descent.
//!
//! ```text
//! or   := and { "or" and }            inside field:( … ) a blank joins here
//! and  := not { ["and"] not }         between clauses a blank joins here
//! not  := { "-" | "not" } atom
//! atom := "(" or ")" | field ":" test | field ":" "(" or ")" | value
//! test := [ ">" | ">=" | "<" | "<=" ] value | range
//! ```

use super::ast::{Clause, Comparison, Query, Test, Tree};
use super::error::{Position, Problem, QueryError};
use super::lexer::{Kind, Lexer, Place, Token};

/// Longest query text, in bytes.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// Deepest nesting of parentheses and negations. It bounds the recursion here and, since expressions are as deep, in
/// DataFusion, whose planner takes up to 20 KB of stack a level in unoptimised builds: 64 stay well inside 2 MB.
pub(super) const MAX_DEPTH: usize = 64;

/// Most values in one query: each costs its text a hundredfold until it is compiled.
const MAX_VALUES: usize = 100_000;

/// Reads query text. Pure syntax: fields and values are not looked at.
pub fn parse(text: &str) -> Result<Query, QueryError> {
    if text.len() > MAX_BYTES {
        let problem = Problem::TooLong { bytes: text.len(), limit: MAX_BYTES };
        return Err(QueryError::new("", 0, problem, Vec::new()));
    }
    let mut parser = Parser { text, lexer: Lexer::new(text), peeked: None, depth: 0, values: 0, field: String::new() };
    if parser.peek(Place::Clause)?.kind == Kind::End {
        return match text.trim() {
            "" => Ok(Query { root: None, warnings: Vec::new() }),
            _ => Err(QueryError::new(text, 0, Problem::NoCondition, vec!["a condition"])),
        };
    }
    let root = parser.any_of::<Clause>(None)?;
    let end = parser.take(Place::Clause)?;
    match end.kind {
        Kind::End => Ok(Query { root: Some(root), warnings: parser.lexer.warnings.into_list() }),
        _ => Err(parser.lexer.error(end.span.start, Problem::UnopenedGroup, &["an operator", "the end"])),
    }
}

struct Parser<'a> {
    text: &'a str,
    lexer: Lexer<'a>,
    peeked: Option<Token>,
    depth: usize,
    values: usize,
    /// Field whose value or group is being read, for messages.
    field: String,
}

/// What differs between the clauses of a query and the tests of a field group.
trait Leaf: Sized {
    const PLACE: Place;
    /// Whether a mere blank means "and" (or else "or").
    const BLANK_IS_AND: bool;
    /// For messages.
    const NAME: &'static str;
    fn parse(parser: &mut Parser<'_>, token: Token) -> Result<Self, QueryError>;
}

impl Leaf for Clause {
    const PLACE: Place = Place::Clause;
    const BLANK_IS_AND: bool = true;
    const NAME: &'static str = "a condition";

    fn parse(parser: &mut Parser<'_>, token: Token) -> Result<Self, QueryError> {
        match token.kind {
            Kind::Field(name) => {
                parser.field.clone_from(&name);
                let first = parser.lexer.after_colon(&name)?;
                let test = match first.kind {
                    Kind::Open => parser.group::<Test>(&first)?,
                    _ => Tree::Leaf(Test::parse(parser, first)?),
                };
                Ok(Clause::Field { name, span: token.span, test })
            }
            Kind::Value(value) => Ok(Clause::Text(value)),
            _ => Err(parser.lexer.error(token.span.start, Problem::NoCondition, &["a condition"])),
        }
    }
}

impl Leaf for Test {
    const PLACE: Place = Place::Group;
    const BLANK_IS_AND: bool = false;
    const NAME: &'static str = "a value";

    fn parse(parser: &mut Parser<'_>, token: Token) -> Result<Self, QueryError> {
        match token.kind {
            Kind::Value(value) => Ok(Test::Compare(Comparison::Equal, value)),
            Kind::Operator(comparison) => Ok(Test::Compare(comparison, parser.lexer.after_operator(&parser.field)?)),
            Kind::Range(low_inclusive) => {
                let (low, high, high_inclusive) = parser.lexer.range_end()?;
                Ok(Test::Range { low, low_inclusive, high, high_inclusive })
            }
            _ => {
                let problem = Problem::MissingValue { field: parser.field.clone() };
                Err(parser.lexer.error(token.span.start, problem, &["a value"]))
            }
        }
    }
}

impl Parser<'_> {
    fn peek(&mut self, place: Place) -> Result<&Token, QueryError> {
        let token = match self.peeked.take() {
            Some(token) => token,
            None => self.lexer.next(place)?,
        };
        Ok(self.peeked.insert(token))
    }

    fn take(&mut self, place: Place) -> Result<Token, QueryError> {
        match self.peeked.take() {
            Some(token) => Ok(token),
            None => self.lexer.next(place),
        }
    }

    /// Alternatives. `after` is the operator or parenthesis before, for messages.
    fn any_of<L: Leaf>(&mut self, after: Option<&Token>) -> Result<Tree<L>, QueryError> {
        let (first, mut mixed) = self.all_of::<L>(after)?;
        let mut alternatives = vec![first];
        loop {
            let next = self.peek(L::PLACE)?;
            let start = next.span.start;
            let operator = match next.kind {
                Kind::Or => Some(self.take(L::PLACE)?),
                Kind::Close | Kind::End => break,
                Kind::Minus | Kind::Not => {
                    // Either reading surprises somebody: `tags:(a -b)` means "a, but not b" to users of Lucene.
                    let message = "a blank inside a field's parentheses is an `or`; write `and` before the negation";
                    self.lexer.warnings.push(start, message.into());
                    None
                }
                _ => None,
            };
            let (alternative, chained) = self.all_of::<L>(operator.as_ref())?;
            mixed |= chained;
            alternatives.push(alternative);
            if mixed {
                let message = "`and` binds tighter than `or` here; put parentheses to say what is meant";
                self.lexer.warnings.push(start, message.into());
            }
        }
        Ok(one_or(alternatives, Tree::Or))
    }

    /// Conditions that hold together, and whether there are several.
    fn all_of<L: Leaf>(&mut self, after: Option<&Token>) -> Result<(Tree<L>, bool), QueryError> {
        let mut parts = vec![self.negated::<L>(after)?];
        loop {
            let operator = match self.peek(L::PLACE)?.kind {
                Kind::And => Some(self.take(L::PLACE)?),
                Kind::Or | Kind::Close | Kind::End => break,
                _ if L::BLANK_IS_AND => None,
                _ => break,
            };
            parts.push(self.negated::<L>(operator.as_ref())?);
        }
        let several = parts.len() > 1;
        Ok((one_or(parts, Tree::And), several))
    }

    fn negated<L: Leaf>(&mut self, after: Option<&Token>) -> Result<Tree<L>, QueryError> {
        let token = self.take(L::PLACE)?;
        match token.kind {
            Kind::Minus | Kind::Not => {
                self.descend(&token)?;
                let inner = self.negated::<L>(Some(&token))?;
                self.depth -= 1;
                Ok(Tree::Not(Box::new(inner)))
            }
            Kind::Open => self.group::<L>(&token),
            Kind::And | Kind::Or | Kind::Close | Kind::End => Err(self.missing_operand::<L>(after, &token)),
            _ => {
                self.values += 1;
                if self.values > MAX_VALUES {
                    return Err(self.lexer.error(token.span.start, Problem::TooMany { limit: MAX_VALUES }, &[]));
                }
                Ok(Tree::Leaf(L::parse(self, token)?))
            }
        }
    }

    /// The inside of parentheses of which the first has been read, and the second.
    fn group<L: Leaf>(&mut self, open: &Token) -> Result<Tree<L>, QueryError> {
        self.descend(open)?;
        let inner = self.any_of::<L>(Some(open))?;
        let end = self.take(L::PLACE)?;
        if end.kind != Kind::Close {
            let opened = Position::of(self.text, open.span.start);
            return Err(self.lexer.error(end.span.start, Problem::UnclosedGroup { opened }, &["`)`", "an operator"]));
        }
        self.depth -= 1;
        Ok(inner)
    }

    fn descend(&mut self, token: &Token) -> Result<(), QueryError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.lexer.error(token.span.start, Problem::TooDeep { limit: MAX_DEPTH }, &[]));
        }
        Ok(())
    }

    /// The error for a place where a condition should stand and `found` does.
    fn missing_operand<L: Leaf>(&self, after: Option<&Token>, found: &Token) -> QueryError {
        let raw = |token: &Token| self.lexer.raw(token.span).to_owned();
        let opened = after.filter(|token| token.kind == Kind::Open);
        let problem = match (&found.kind, after) {
            (Kind::And | Kind::Or, _) => Problem::StrayOperator { operator: raw(found) },
            (Kind::Close, None) => Problem::UnopenedGroup,
            (Kind::Close, Some(_)) if opened.is_some() => Problem::EmptyGroup,
            (_, Some(open)) if opened.is_some() => {
                Problem::UnclosedGroup { opened: Position::of(self.text, open.span.start) }
            }
            (_, Some(operator)) => Problem::MissingOperand { operator: raw(operator) },
            (_, None) => Problem::NoCondition,
        };
        self.lexer.error(found.span.start, problem, &[L::NAME])
    }
}

fn one_or<L>(mut trees: Vec<Tree<L>>, chain: fn(Vec<Tree<L>>) -> Tree<L>) -> Tree<L> {
    match trees.pop() {
        Some(only) if trees.is_empty() => only,
        Some(last) => {
            trees.push(last);
            chain(trees)
        }
        None => chain(trees),
    }
}
