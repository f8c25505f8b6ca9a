//! Errors and warnings, with the place in the query they speak of.

use std::fmt;

/// Characters of the query line shown before and after the caret; longer lines are cut.
const SHOWN_BEFORE: usize = 60;
const SHOWN_AFTER: usize = 40;

/// A place in a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Position {
    /// Bytes before it.
    pub offset: usize,
    /// Line, from 1.
    pub line: usize,
    /// Character within the line, from 1.
    pub column: usize,
}

impl Position {
    /// The place `offset` bytes into `text`.
    pub(super) fn of(text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Position {
            offset: before.len(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            1 => write!(f, "column {}", self.column),
            line => write!(f, "line {line}, column {}", self.column),
        }
    }
}

/// What is wrong with a query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Longer than the limit.
    #[error("the query is {bytes} bytes long, more than the {limit} allowed; split it into several collections")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// More values than the limit.
    #[error("the query holds more than {limit} values; split it into several collections")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// Parentheses and negations nested too deeply.
    #[error("parentheses and negations are nested more than {limit} deep; flatten the query")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// A quote without its end.
    #[error(
        "the quote opened here is never closed; add the closing `\"`, or write `\\\"` for a quote inside the value"
    )]
    UnterminatedQuote,
    /// A backslash at the very end.
    #[error("nothing follows the `\\`; write `\\\\` for the character itself")]
    TrailingEscape,
    /// A quote or parenthesis glued to a value.
    #[error("`{found}` follows a value without a blank; quote the whole value, or put a blank between the two")]
    Glued {
        /// The character.
        found: char,
    },
    /// `field:` without value.
    #[error("`{field}:` has no value; write `{field}:\"\"` to find records without one")]
    MissingValue {
        /// The field.
        field: String,
    },
    /// An operator in the place of a condition.
    #[error("`{operator}` has nothing before it to combine with; quote it to search for the word")]
    StrayOperator {
        /// The operator as written.
        operator: String,
    },
    /// Nothing after an operator.
    #[error("`{operator}` has nothing after it; add a condition or remove it")]
    MissingOperand {
        /// The operator as written.
        operator: String,
    },
    /// No condition at all.
    #[error("the query holds no condition; write `*` for every record")]
    NoCondition,
    /// `()`
    #[error("the parentheses are empty; put a condition between them or remove them")]
    EmptyGroup,
    /// A `(` without its `)`.
    #[error("the `(` opened at {opened} is never closed; add a `)`")]
    UnclosedGroup {
        /// Where it stands.
        opened: Position,
    },
    /// A `)` without its `(`.
    #[error("this `)` closes nothing; remove it or add a `(` before")]
    UnopenedGroup,
    /// A `:` without a field.
    #[error("no field name stands directly before this `:`; write `field:value`")]
    StrayColon,
    /// A range that does not read as one.
    #[error("the range is not complete; write it as `[low TO high]`, with `*` for an open end")]
    BadRange,
    /// Refused by the SQL parser or planner.
    #[error("the SQL condition is not valid: {message}")]
    Sql {
        /// Its own words.
        message: String,
    },
    /// SQL of another type than boolean.
    #[error("the SQL condition is of type `{found}`, not a condition; compare it with something")]
    NotBoolean {
        /// The type.
        found: String,
    },
    /// SQL that asks for more than the row.
    #[error("the SQL condition uses {what}, which a collection cannot; use only columns and functions of one row")]
    NotOfOneRow {
        /// What it uses.
        what: String,
    },
}

/// Why a query does not compile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryError(Box<Details>);

/// Apart, so that the results the parser hands up its recursion stay small.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Details {
    problem: Problem,
    position: Position,
    expected: Vec<&'static str>,
    excerpt: String,
    caret: usize,
}

impl QueryError {
    pub(super) fn new(text: &str, offset: usize, problem: Problem, expected: Vec<&'static str>) -> Self {
        let position = Position::of(text, offset);
        let (excerpt, caret) = excerpt(text, position);
        QueryError(Box::new(Details { problem, position, expected, excerpt, caret }))
    }

    /// What is wrong.
    pub fn problem(&self) -> &Problem {
        &self.0.problem
    }

    /// Where.
    pub fn position(&self) -> Position {
        self.0.position
    }

    /// What could stand there instead; may be empty.
    pub fn expected(&self) -> &[&'static str] {
        &self.0.expected
    }

    /// Three lines for people: the sentence, the line of the query, a caret under the place and what was expected.
    pub fn render(&self) -> String {
        let mut out = format!("{self}\n  {}\n  {}^", self.0.excerpt, " ".repeat(self.0.caret));
        if !self.0.expected.is_empty() {
            out.push_str(" expected ");
            out.push_str(&self.0.expected.join(" or "));
        }
        out
    }
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.position, self.0.problem)
    }
}

impl std::error::Error for QueryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.problem.source()
    }
}

/// The line around the position, cut if long, and how many characters of it come before the caret.
fn excerpt(text: &str, position: Position) -> (String, usize) {
    let line = text.split('\n').nth(position.line - 1).unwrap_or_default().trim_end_matches('\r');
    let caret = position.column - 1;
    let skipped = if caret > SHOWN_BEFORE { caret - SHOWN_BEFORE + 3 } else { 0 };
    let mut out = String::from(if skipped > 0 { "..." } else { "" });
    let mut rest = line.chars().skip(skipped);
    // One cell a character, or the caret would stand wrong.
    out.extend(rest.by_ref().take(caret - skipped + SHOWN_AFTER).map(|c| if c.is_control() { ' ' } else { c }));
    if rest.next().is_some() {
        out.push_str("...");
    }
    (out, if skipped > 0 { caret - skipped + 3 } else { caret })
}

/// A doubt about a query that does not stop it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What it speaks of.
    pub position: Position,
    /// A sentence.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.position, self.message)
    }
}

/// Warnings of one query, each sentence once and no more than a person reads.
#[derive(Debug)]
pub(super) struct Warnings<'a> {
    text: &'a str,
    list: Vec<Warning>,
}

impl<'a> Warnings<'a> {
    const MOST: usize = 50;

    pub(super) fn new(text: &'a str, list: Vec<Warning>) -> Self {
        Warnings { text, list }
    }

    pub(super) fn push(&mut self, offset: usize, message: String) {
        if self.list.len() < Self::MOST && !self.list.iter().any(|known| known.message == message) {
            self.list.push(Warning { position: Position::of(self.text, offset), message });
        }
    }

    pub(super) fn into_list(self) -> Vec<Warning> {
        self.list
    }
}
