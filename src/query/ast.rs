//! The syntax tree: what was written, nothing about what it means.
//!
//! Clauses and the tests inside `field:( … )` combine alike, so both use one [`Tree`]; only what stands at the leaves
//! and what a mere blank means differ. Chains are flat: `a or b or c` is one node with three children, however long.
//! `Display` prints text that parses to the same tree.

use std::fmt::{self, Display, Write};

use super::error::Warning;

/// A parsed query.
#[derive(Clone, Debug)]
pub struct Query {
    /// The condition; `None` for empty text, which selects every record.
    pub root: Option<Tree<Clause>>,
    /// What the text leaves in doubt.
    pub warnings: Vec<Warning>,
}

/// Warnings are remarks on the text, not part of what it says.
impl PartialEq for Query {
    fn eq(&self, other: &Self) -> bool {
        self.root == other.root
    }
}

/// Boolean combination of leaves.
#[derive(Clone, Debug, PartialEq)]
pub enum Tree<L> {
    /// All of two or more.
    And(Vec<Tree<L>>),
    /// Any of two or more.
    Or(Vec<Tree<L>>),
    /// Negation.
    Not(Box<Tree<L>>),
    /// One condition.
    Leaf(L),
}

/// A condition on a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Clause {
    /// `name:test` or `name:(tests)`.
    Field {
        /// The name as written; `*` is any field.
        name: String,
        /// Where the name stands.
        span: Span,
        /// What the field must satisfy.
        test: Tree<Test>,
    },
    /// A bare word or phrase: full text.
    Text(Value),
}

/// A condition on one field.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// A comparison with a value.
    Compare(Comparison, Value),
    /// `[low TO high]`; a bound of `None` was written `*`.
    Range {
        /// Lower bound.
        low: Option<Value>,
        /// `[` rather than `{`.
        low_inclusive: bool,
        /// Upper bound.
        high: Option<Value>,
        /// `]` rather than `}`.
        high_inclusive: bool,
    },
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// No operator.
    Equal,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
}

impl Comparison {
    /// As written in a query; nothing for equality.
    pub fn symbol(self) -> &'static str {
        match self {
            Comparison::Equal => "",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
        }
    }
}

/// A literal of the query.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Its content.
    pub content: Content,
    /// Where it stands, quotes included.
    pub span: Span,
}

/// Content of a literal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// `"quoted"`: wildcards are plain characters.
    Quoted(String),
    /// `word`: pieces, never two texts in a row.
    Word(Vec<Piece>),
}

/// Piece of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Plain text.
    Text(String),
    /// `*`: any run of characters.
    Any,
    /// `?`: one character.
    One,
}

/// Bytes of the query text, for messages. All spans are equal, since where a thing stood is not part of what it says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl PartialEq for Span {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Span {}

impl Value {
    /// The text if the value holds no wildcard.
    pub fn plain(&self) -> Option<&str> {
        match &self.content {
            Content::Quoted(text) => Some(text),
            Content::Word(pieces) => match pieces.as_slice() {
                [Piece::Text(text)] => Some(text),
                _ => None,
            },
        }
    }

    /// Whether it is `*` (or `**`), which everything satisfies.
    pub fn is_anything(&self) -> bool {
        matches!(&self.content, Content::Word(pieces) if pieces.iter().all(|piece| *piece == Piece::Any))
    }
}

impl Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.as_ref().map_or(Ok(()), |root| root.fmt(f))
    }
}

impl<L: Display> Display for Tree<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tree::And(children) => write_chain(f, children, " and "),
            Tree::Or(children) => write_chain(f, children, " or "),
            Tree::Not(inner) => {
                f.write_char('-')?;
                write_operand(f, inner)
            }
            Tree::Leaf(leaf) => leaf.fmt(f),
        }
    }
}

fn write_chain<L: Display>(f: &mut fmt::Formatter<'_>, children: &[Tree<L>], joiner: &str) -> fmt::Result {
    for (index, child) in children.iter().enumerate() {
        if index > 0 {
            f.write_str(joiner)?;
        }
        match child {
            Tree::Not(_) => child.fmt(f)?,
            _ => write_operand(f, child)?,
        }
    }
    Ok(())
}

/// Chains inside chains keep their parentheses even where precedence would not need them: the tree stays what it was.
fn write_operand<L: Display>(f: &mut fmt::Formatter<'_>, tree: &Tree<L>) -> fmt::Result {
    match tree {
        Tree::Leaf(leaf) => leaf.fmt(f),
        _ => write!(f, "({tree})"),
    }
}

impl Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Clause::Text(value) => value.fmt(f),
            Clause::Field { name, test: Tree::Leaf(test), .. } => write!(f, "{name}:{test}"),
            Clause::Field { name, test, .. } => write!(f, "{name}:({test})"),
        }
    }
}

impl Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Test::Compare(comparison, value) => write!(f, "{}{value}", comparison.symbol()),
            Test::Range { low, low_inclusive, high, high_inclusive } => {
                f.write_char(if *low_inclusive { '[' } else { '{' })?;
                write_bound(f, low.as_ref())?;
                f.write_str(" TO ")?;
                write_bound(f, high.as_ref())?;
                f.write_char(if *high_inclusive { ']' } else { '}' })
            }
        }
    }
}

fn write_bound(f: &mut fmt::Formatter<'_>, bound: Option<&Value>) -> fmt::Result {
    match bound {
        Some(value) => value.fmt(f),
        None => f.write_char('*'),
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.content {
            Content::Quoted(text) => {
                f.write_char('"')?;
                for c in text.chars() {
                    match c {
                        '"' | '\\' => write!(f, "\\{c}")?,
                        '\n' => f.write_str("\\n")?,
                        '\r' => f.write_str("\\r")?,
                        '\t' => f.write_str("\\t")?,
                        _ => f.write_char(c)?,
                    }
                }
                f.write_char('"')
            }
            Content::Word(pieces) => {
                let keyword = matches!(pieces.as_slice(), [Piece::Text(text)] if is_keyword(text));
                if keyword {
                    f.write_char('\\')?;
                }
                for (index, piece) in pieces.iter().enumerate() {
                    match piece {
                        Piece::Any => f.write_char('*')?,
                        Piece::One => f.write_char('?')?,
                        Piece::Text(text) => write_word(f, text, index == 0)?,
                    }
                }
                Ok(())
            }
        }
    }
}

/// Whether a bare word is an operator of the language.
pub(super) fn is_keyword(word: &str) -> bool {
    ["and", "or", "not", "to"].iter().any(|keyword| word.eq_ignore_ascii_case(keyword))
}

fn write_word(f: &mut fmt::Formatter<'_>, text: &str, at_start: bool) -> fmt::Result {
    for (index, c) in text.char_indices() {
        // At its start a `-` would negate and a `//` would make the field before it a scheme.
        let plain =
            c.is_alphanumeric() || "_.@%+=,;#&$'|~".contains(c) || ("-/".contains(c) && !(at_start && index == 0));
        if !plain {
            f.write_char('\\')?;
        }
        f.write_char(c)?;
    }
    Ok(())
}
