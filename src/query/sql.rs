//! A condition given as SQL instead of a query.

use std::sync::Arc;

use arrow::datatypes::DataType;
use chrono::DateTime;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator, Volatility, lit};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::parser::ParserError;

use super::error::{Problem, QueryError};
use super::lower::balanced;
use super::parser::MAX_BYTES;
use super::udf::functions;
use crate::model::schema::schema;
use crate::model::time::Timestamp;

/// Stack for parsing and planning, which recurse with every parenthesis; an overflow would end the process.
const STACK_BYTES: usize = 64 << 20;

/// Deepest expression handed out: others walk it on stacks of ordinary size.
const MAX_DEPTH: usize = 96;

/// Parses a condition over the record schema and coerces its types; conjuncts in order.
pub(super) fn conjuncts(text: &str) -> Result<Vec<Expr>, QueryError> {
    if text.len() > MAX_BYTES {
        return Err(QueryError::new("", 0, Problem::TooLong { bytes: text.len(), limit: MAX_BYTES }, Vec::new()));
    }
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let planned = std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("compile-sql".into()).stack_size(STACK_BYTES);
        worker.spawn_scoped(scope, || plan(text)).ok().and_then(|running| running.join().ok())
    });
    planned.unwrap_or_else(|| Err(refusal(text, Problem::Sql { message: "it could not be planned".into() })))
}

fn refusal(text: &str, problem: Problem) -> QueryError {
    QueryError::new(text, 0, problem, Vec::new())
}

fn plan(text: &str) -> Result<Vec<Expr>, QueryError> {
    let refuse_sql = |error: DataFusionError| refused(text, &error);
    let table = table().map_err(refuse_sql)?;
    let session = SessionContext::new();
    for function in functions() {
        session.register_udf(function);
    }
    let condition = session.parse_sql_expr(text, &table).map_err(refuse_sql)?;
    if let Some(what) = more_than_a_row(&condition) {
        return Err(refusal(text, Problem::NotOfOneRow { what }));
    }
    let found = condition.get_type(&table).map_err(refuse_sql)?;
    if found != DataType::Boolean {
        return Err(refusal(text, Problem::NotBoolean { found: found.to_string() }));
    }
    let coerced = simplifier(&table, None).coerce(condition, &table).map_err(refuse_sql)?;
    let conjuncts: Vec<Expr> = split_conjunction_owned(coerced).into_iter().map(rebalanced).collect();
    if conjuncts.iter().any(|conjunct| depth(conjunct) > MAX_DEPTH) {
        return Err(refusal(text, Problem::TooDeep { limit: MAX_DEPTH }));
    }
    Ok(conjuncts)
}

fn refused(text: &str, error: &DataFusionError) -> QueryError {
    let message = match error.find_root() {
        DataFusionError::SQL(error, _) => match &**error {
            ParserError::RecursionLimitExceeded => return refusal(text, Problem::TooDeep { limit: MAX_DEPTH }),
            ParserError::TokenizerError(message) | ParserError::ParserError(message) => message.clone(),
        },
        other => other.strip_backtrace(),
    };
    let offset = place_in(text, &message).unwrap_or(0);
    let message = message.lines().next().unwrap_or_default();
    let message = message.rsplit_once(" at Line: ").map_or(message, |(before, _)| before);
    QueryError::new(text, offset, Problem::Sql { message: message.to_owned() }, Vec::new())
}

/// SQL nests `a OR b OR c …` as deep as it is long; here as deep as its logarithm.
fn rebalanced(expr: Expr) -> Expr {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let mut waiting = vec![*right, *left];
            let mut flat = Vec::new();
            while let Some(next) = waiting.pop() {
                match next {
                    Expr::BinaryExpr(inner) if inner.op == op => waiting.extend([*inner.right, *inner.left]),
                    other => flat.push(rebalanced(other)),
                }
            }
            balanced(flat, op).unwrap_or_else(|| lit(op == Operator::And))
        }
        Expr::Not(inner) => Expr::Not(Box::new(rebalanced(*inner))),
        other => other,
    }
}

fn depth(expr: &Expr) -> usize {
    let mut deepest = 0;
    let _ = expr.apply_children(|child| {
        deepest = deepest.max(depth(child));
        Ok(TreeNodeRecursion::Continue)
    });
    deepest + 1
}

/// Whether the expression asks for the time.
pub(super) fn is_clocked(expr: &Expr) -> bool {
    expr.exists(|node| {
        Ok(matches!(node, Expr::ScalarFunction(call) if call.func.signature().volatility == Volatility::Stable))
    })
    .unwrap_or(true)
}

/// The expression with constants folded; given a time, that is what `now()` is.
pub(super) fn folded(expr: &Expr, now: Option<Timestamp>) -> Expr {
    let Ok(table) = table() else { return expr.clone() };
    simplifier(&table, now).simplify(expr.clone()).unwrap_or_else(|_| expr.clone())
}

fn table() -> Result<DFSchema, DataFusionError> {
    DFSchema::try_from(schema().as_ref().clone())
}

fn simplifier(table: &DFSchema, now: Option<Timestamp>) -> ExprSimplifier {
    let now = now.and_then(|now| DateTime::from_timestamp_micros(now.0));
    let context = SimplifyContext::builder().with_schema(Arc::new(table.clone()));
    ExprSimplifier::new(context.with_query_execution_start_time(now).build())
}

fn more_than_a_row(expr: &Expr) -> Option<String> {
    let mut what = None;
    let _ = expr.apply(|node| {
        what = match node {
            Expr::AggregateFunction(_) => Some("an aggregate function".to_owned()),
            Expr::WindowFunction(_) => Some("a window function".to_owned()),
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_) => {
                Some("a subquery".to_owned())
            }
            Expr::Placeholder(_) => Some("a placeholder".to_owned()),
            Expr::ScalarFunction(call) if call.func.signature().volatility == Volatility::Volatile => {
                Some(format!("`{}`, which answers differently every time", call.func.name()))
            }
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        Ok(TreeNodeRecursion::Stop)
    });
    what
}

/// The SQL parser says where in words: `… at Line: 1, Column: 9`.
fn place_in(text: &str, message: &str) -> Option<usize> {
    let (_, place) = message.rsplit_once("Line: ")?;
    let (line, column) = place.split_once(", Column: ")?;
    let line: usize = line.parse().ok()?;
    let digits = column.split(|c: char| !c.is_ascii_digit()).next()?;
    let column: usize = digits.parse().ok()?;
    let before: usize = text.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
    let rest = text.get(before..)?;
    let within = rest.char_indices().nth(column.checked_sub(1)?).map_or(rest.len(), |(at, _)| at);
    Some(before + within)
}
