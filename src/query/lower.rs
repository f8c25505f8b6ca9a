//! Rules to DataFusion expressions.
//!
//! Literals take the type of their column, so that no cast stands between a comparison and the statistics, dictionaries
//! and bloom filters it can use. Long chains become balanced trees: their depth grows with the logarithm.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use arrow::datatypes::DataType;
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::expr::{InList, ScalarFunction};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use super::ast::Comparison;
use super::rule::{Argument, Function, Leaf, Literal, Match, Rule};
use super::time::Moment;
use super::udf::function_of;
use crate::model::schema::{schema, timestamp_type};
use crate::model::time::Timestamp;

/// Fills in the time of asking. Negations are two-valued: a missing value does not satisfy a condition, so it
/// satisfies the condition's negation. Above them "unknown" may remain, which filters treat as no.
pub(super) fn lower(rule: &Rule, now: Timestamp) -> Expr {
    lower_part(rule, now).expr
}

/// An expression and how deep it is.
struct Part {
    expr: Expr,
    depth: usize,
}

fn lower_part(rule: &Rule, now: Timestamp) -> Part {
    let flat = |expr| Part { expr, depth: 1 };
    match rule {
        Rule::All => flat(literal(ScalarValue::Boolean(Some(true)))),
        Rule::Nothing => flat(literal(ScalarValue::Boolean(Some(false)))),
        Rule::And(rules) => chain(rules, Operator::And, now),
        Rule::Or(rules) => chain(rules, Operator::Or, now),
        Rule::Not(inner) => {
            let Part { expr, depth } = lower_part(inner, now);
            let expr = match **inner {
                Rule::Leaf(Leaf::Match(_)) => Expr::Not(Box::new(expr)),
                _ => Expr::IsNotTrue(Box::new(expr)),
            };
            Part { expr, depth: depth + 1 }
        }
        Rule::Leaf(leaf) => flat(lower_leaf(leaf, now)),
    }
}

/// Cheap conditions first: what they refuse, the dear ones need not look at.
fn chain(rules: &[Rule], operator: Operator, now: Timestamp) -> Part {
    let mut sorted: Vec<&Rule> = rules.iter().collect();
    sorted.sort_by_cached_key(|rule| rule.cost());
    let parts = sorted.into_iter().map(|rule| lower_part(rule, now)).collect();
    combine(parts, operator)
        .unwrap_or_else(|| Part { expr: literal(ScalarValue::Boolean(Some(operator == Operator::And))), depth: 1 })
}

/// Combines all, two at a time; `None` of nothing.
pub(super) fn balanced(exprs: Vec<Expr>, operator: Operator) -> Option<Expr> {
    let parts = exprs.into_iter().map(|expr| Part { expr, depth: 1 }).collect();
    combine(parts, operator).map(|part| part.expr)
}

/// Always the two shallowest: so one deep part among many flat ones comes to lie near the top, and nesting adds to the
/// depth what it must and no more. Of two, the earlier one goes left, where it is asked first.
fn combine(parts: Vec<Part>, operator: Operator) -> Option<Part> {
    let mut places: Vec<Option<Expr>> = Vec::with_capacity(parts.len());
    let mut shallowest = BinaryHeap::with_capacity(parts.len());
    for (place, Part { expr, depth }) in parts.into_iter().enumerate() {
        places.push(Some(expr));
        shallowest.push(Reverse((depth, place)));
    }
    let mut take = |place: usize, merged: Option<Expr>| std::mem::replace(places.get_mut(place)?, merged);
    loop {
        let Reverse((depth, place)) = shallowest.pop()?;
        let Some(Reverse((other_depth, other_place))) = shallowest.pop() else {
            return Some(Part { expr: take(place, None)?, depth });
        };
        let (first, second) = (place.min(other_place), place.max(other_place));
        let merged = binary(take(first, None)?, operator, take(second, None)?);
        take(first, Some(merged));
        shallowest.push(Reverse((depth.max(other_depth) + 1, first)));
    }
}

fn lower_leaf(leaf: &Leaf, now: Timestamp) -> Expr {
    match leaf {
        Leaf::In { column, values } => {
            let list: Vec<Expr> = values.iter().map(|value| typed(column, value)).collect();
            match <[Expr; 1]>::try_from(list) {
                Ok([only]) => binary(reference(column), Operator::Eq, only),
                Err(list) => Expr::InList(InList::new(Box::new(reference(column)), list, false)),
            }
        }
        Leaf::Compare { column, comparison, value } => {
            binary(reference(column), operator_of(*comparison), typed(column, value))
        }
        Leaf::When { column, comparison, moment } => when(column, *comparison, *moment, now),
        Leaf::Empty { column, text } => {
            let missing = Expr::IsNull(Box::new(reference(column)));
            match text {
                true => {
                    let blank = typed(column, &Literal::Text(String::new()));
                    binary(missing, Operator::Or, binary(reference(column), Operator::Eq, blank))
                }
                false => missing,
            }
        }
        Leaf::Match(Match { function, column, path, op, values }) => {
            let text = |text: String| literal(ScalarValue::Utf8(Some(text)));
            let mut arguments = vec![reference(column)];
            if *function == Function::Json {
                arguments.push(text(path.clone()));
            }
            arguments.push(text(op.name().to_owned()));
            arguments.extend(values.iter().map(|value| match value {
                Argument::Text(value) => text(value.clone()),
                Argument::Moment(moment) => text(moment.fixed(now).to_string()),
            }));
            Expr::ScalarFunction(ScalarFunction::new_udf(function_of(*function), arguments))
        }
    }
}

/// A date is a window (a day, or one microsecond); what comes "after" it comes after its end.
fn when(column: &str, comparison: Comparison, moment: Moment, now: Timestamp) -> Expr {
    let compare = |operator, at: Timestamp| {
        let at = ScalarValue::TimestampMicrosecond(Some(at.0), Some("UTC".into()));
        debug_assert_eq!(at.data_type(), timestamp_type());
        binary(reference(column), operator, literal(at))
    };
    let moment = moment.fixed(now);
    let (start, end) = moment.window(now);
    match (moment, comparison) {
        (Moment::At(at), comparison) => compare(operator_of(comparison), at),
        (_, Comparison::Equal) => binary(compare(Operator::GtEq, start), Operator::And, compare(Operator::Lt, end)),
        (_, Comparison::Greater) => compare(Operator::GtEq, end),
        (_, Comparison::GreaterOrEqual) => compare(Operator::GtEq, start),
        (_, Comparison::Less) => compare(Operator::Lt, start),
        (_, Comparison::LessOrEqual) => compare(Operator::Lt, end),
    }
}

/// The literal in its column's type where it fits.
fn typed(column: &str, value: &Literal) -> Expr {
    let column_type = schema().field_with_name(column).map(|field| field.data_type().clone()).unwrap_or(DataType::Null);
    literal(match value {
        Literal::Flag(flag) => ScalarValue::Boolean(Some(*flag)),
        Literal::Float(float) => ScalarValue::Float64(Some(*float)),
        Literal::Integer(number) => match column_type {
            DataType::Int8 => i8::try_from(*number).map_or(ScalarValue::Int64(Some(*number)), |n| Some(n).into()),
            DataType::Int16 => i16::try_from(*number).map_or(ScalarValue::Int64(Some(*number)), |n| Some(n).into()),
            _ => ScalarValue::Int64(Some(*number)),
        },
        Literal::Text(text) => {
            let text = ScalarValue::Utf8(Some(text.clone()));
            match column_type {
                DataType::Dictionary(keys, _) => ScalarValue::Dictionary(keys, Box::new(text)),
                _ => text,
            }
        }
    })
}

fn operator_of(comparison: Comparison) -> Operator {
    match comparison {
        Comparison::Equal => Operator::Eq,
        Comparison::Greater => Operator::Gt,
        Comparison::GreaterOrEqual => Operator::GtEq,
        Comparison::Less => Operator::Lt,
        Comparison::LessOrEqual => Operator::LtEq,
    }
}

fn reference(column: &str) -> Expr {
    Expr::Column(Column::new_unqualified(column))
}

fn literal(value: ScalarValue) -> Expr {
    Expr::Literal(value, None)
}

fn binary(left: Expr, operator: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), operator, Box::new(right)))
}
