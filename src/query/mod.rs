//! Query text to a condition on records: XSOAR's indicator query language, or SQL.
//!
//! ```text
//! text ─ lexer, parser ─► syntax tree ─ resolve, fields ─► rules ─ lower ─► Expr
//!                                          warnings          └── explain ─► tree and SQL, for people
//! ```
//! The language has no public grammar; spec/xsoar-taxii2-server.md §8 collects the evidence. Decided on top of it:
//!
//! - A blank is "and" between clauses and "or" inside `field:( … )`. `and` binds tighter than `or`; a mixture without
//!   parentheses is warned about.
//! - Nesting ends at 64 levels, text at 1 MiB; lists may have any length.
//! - A `-` directly before a clause negates it. With a blank behind it, it negates a field or a parenthesis and is
//!   ignored before a word (`A - Completely reliable`); both are warned about.
//! - `*`, `value:*`, `type:*` and `*:*` are every record; `field:*` is a record with the field, `field:""` one without. Quoted wildcards are
//!   plain.
//! - Words compare in any case; `value` exactly, but for hashes, which match as written, in lower or in upper case.
//! - A bare word is looked for in the value and the description, and among the tags and the MITRE id. With wildcards
//!   it must cover the value.
//! - In custom fields, `field:1.1` finds the number 1.1 and the text `1.1`, not the text `1.10`; `>` and its like take
//!   text for a number where it looks like one.
//! - A bare date is its whole UTC day: `>"2024-05-01"` begins on the second of May, `<=` ends with the first.
//! - Verdicts, colours, confidence and flags are read as import reads them: `tlp:"TLP:GREEN"`, `isrevoked:yes`. A value
//!   their column could not hold stayed among the custom fields and is found there: `confidence:High`.
//! - `inbox` is the id of the collection an object was posted to. Queries that do not name it leave out what was posted.
//! - A missing value satisfies no condition, hence every negated one.
//! - What cannot hold (unknown verdict, a word for a number) matches nothing, with a warning. Names nobody knows are
//!   custom fields, with a warning where they look misspelt.
//!
//! Values reach DataFusion as literals only; SQL text is printed to be read. Pure: no IO, no clock of its own.

pub mod ast;
mod error;
mod explain;
mod fields;
mod lexer;
mod lower;
mod matcher;
mod parser;
mod resolve;
mod rule;
mod sql;
#[cfg(test)]
mod tests;
mod time;
mod udf;

use datafusion::logical_expr::{Expr, Operator, lit};

use crate::model::time::Timestamp;

pub use error::{Position, Problem, QueryError, Warning};
pub use parser::parse;
pub use udf::functions;

use rule::Rule;

/// Compiles query text. Empty text, `*` and `*:*` select every record.
pub fn compile(text: &str) -> Result<Compiled, QueryError> {
    let (rule, warnings) = resolve::resolve(text, parse(text)?);
    let conjuncts = match &rule {
        Rule::All => Vec::new(),
        Rule::And(rules) => rules.clone(),
        other => vec![other.clone()],
    };
    let (clocked, fixed): (Vec<Rule>, Vec<Rule>) = conjuncts.into_iter().partition(Rule::is_clocked);
    // No clock in these, so any time will do.
    let fixed = (!fixed.is_empty()).then(|| lower::lower(&Rule::all(fixed), Timestamp(0)));
    let clocked = Clocked::Rule((!clocked.is_empty()).then(|| Rule::all(clocked)));
    Ok(Compiled { text: text.to_owned(), warnings, fixed, clocked, tree: explain::tree(&rule) })
}

/// Compiles a SQL condition over the record's columns, as it would stand after `WHERE`. Empty text selects every record.
pub fn compile_sql(where_text: &str) -> Result<Compiled, QueryError> {
    let conjuncts = sql::conjuncts(where_text)?;
    let tree = conjuncts.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let (clocked, fixed): (Vec<Expr>, Vec<Expr>) = conjuncts.into_iter().partition(sql::is_clocked);
    let fixed = lower::balanced(fixed, Operator::And).map(|expr| sql::folded(&expr, None));
    let fixed = fixed.filter(|expr| *expr != lit(true));
    let clocked = Clocked::Sql(lower::balanced(clocked, Operator::And));
    let tree = if tree.is_empty() { "every record".to_owned() } else { tree };
    Ok(Compiled { text: where_text.to_owned(), warnings: Vec::new(), fixed, clocked, tree })
}

/// A condition on records, ready to run.
#[derive(Clone, Debug)]
pub struct Compiled {
    text: String,
    warnings: Vec<Warning>,
    fixed: Option<Expr>,
    clocked: Clocked,
    tree: String,
}

#[derive(Clone, Debug)]
enum Clocked {
    Rule(Option<Rule>),
    Sql(Option<Expr>),
}

impl Compiled {
    /// The text it was compiled from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Doubts about the text: unknown fields, values that cannot match, unclear precedence.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The part whose answer for a stored row never changes; `None` if it holds for all rows.
    pub fn fixed(&self) -> Option<&Expr> {
        self.fixed.as_ref()
    }

    /// The part that depends on the time of asking (relative dates, expiration), to be and-ed to the fixed one; `None`
    /// if there is none.
    pub fn clocked(&self, now: Timestamp) -> Option<Expr> {
        match &self.clocked {
            Clocked::Rule(rule) => rule.as_ref().map(|rule| lower::lower(rule, now)),
            Clocked::Sql(expr) => expr.as_ref().map(|expr| sql::folded(expr, Some(now))),
        }
    }

    /// The whole condition; `true` if it holds for all rows.
    pub fn expr(&self, now: Timestamp) -> Expr {
        let parts = self.fixed.iter().cloned().chain(self.clocked(now)).collect();
        lower::balanced(parts, Operator::And).unwrap_or_else(|| lit(true))
    }

    /// What it was understood as: one condition a line, indented.
    pub fn tree(&self) -> String {
        self.tree.clone()
    }

    /// The whole condition as SQL, valid after `WHERE` in a session that has our [`functions`]. It nests as the query
    /// does; beyond some twenty levels DataFusion's parser wants a higher `sql_parser.recursion_limit`.
    pub fn sql(&self, now: Timestamp) -> String {
        match &self.clocked {
            Clocked::Rule(_) => explain::sql(&self.expr(now)),
            Clocked::Sql(_) if self.text.trim().is_empty() => "true".to_owned(),
            Clocked::Sql(_) => self.text.clone(),
        }
    }
}
