//! A condition given as SQL instead of a query.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{Expr, ExprSchemable, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::prelude::SessionContext;

use super::error::{Problem, QueryError};
use super::parser::MAX_BYTES;
use super::udf::functions;
use crate::model::schema::schema;
use crate::model::time::Timestamp;
use chrono::DateTime;

/// Parses a condition over the record schema and coerces its types; conjuncts in order.
pub(super) fn conjuncts(text: &str) -> Result<Vec<Expr>, QueryError> {
    let refuse = |offset: usize, problem: Problem| QueryError::new(text, offset, problem, Vec::new());
    if text.len() > MAX_BYTES {
        return Err(QueryError::new("", 0, Problem::TooLong { bytes: text.len(), limit: MAX_BYTES }, Vec::new()));
    }
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let refuse_sql = |error: DataFusionError| {
        let message = error.strip_backtrace();
        refuse(
            place_in(text, &message).unwrap_or(0),
            Problem::Sql { message: message.lines().next().unwrap_or_default().to_owned() },
        )
    };
    let table = table().map_err(refuse_sql)?;
    let session = SessionContext::new();
    for function in functions() {
        session.register_udf(function);
    }
    let condition = session.parse_sql_expr(text, &table).map_err(refuse_sql)?;
    if let Some(what) = more_than_a_row(&condition) {
        return Err(refuse(0, Problem::NotOfOneRow { what }));
    }
    let found = condition.get_type(&table).map_err(refuse_sql)?;
    if found != datafusion::arrow::datatypes::DataType::Boolean {
        return Err(refuse(0, Problem::NotBoolean { found: found.to_string() }));
    }
    let coerced = simplifier(&table, None).coerce(condition, &table).map_err(refuse_sql)?;
    Ok(split_conjunction_owned(coerced))
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
    let context = SimplifyContext::builder().with_schema(std::sync::Arc::new(table.clone()));
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
