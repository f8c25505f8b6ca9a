//! Rules to DataFusion expressions.
//!
//! Literals take the type of their column, so that no cast stands between a comparison and the statistics, dictionaries
//! and bloom filters it can use. Long chains become balanced trees: their depth grows with the logarithm.

use datafusion::arrow::datatypes::DataType;
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
    match rule {
        Rule::All => literal(ScalarValue::Boolean(Some(true))),
        Rule::Nothing => literal(ScalarValue::Boolean(Some(false))),
        Rule::And(rules) => chain(by_cost(rules), Operator::And, now),
        Rule::Or(rules) => chain(by_cost(rules), Operator::Or, now),
        Rule::Not(inner) => {
            let lowered = Box::new(lower(inner, now));
            match **inner {
                Rule::Leaf(Leaf::Match(_)) => Expr::Not(lowered),
                _ => Expr::IsNotTrue(lowered),
            }
        }
        Rule::Leaf(leaf) => lower_leaf(leaf, now),
    }
}

fn by_cost(rules: &[Rule]) -> Vec<&Rule> {
    let mut sorted: Vec<&Rule> = rules.iter().collect();
    sorted.sort_by_cached_key(|rule| rule.cost());
    sorted
}

fn chain(rules: Vec<&Rule>, operator: Operator, now: Timestamp) -> Expr {
    let exprs = rules.into_iter().map(|rule| lower(rule, now)).collect();
    balanced(exprs, operator).unwrap_or_else(|| literal(ScalarValue::Boolean(Some(operator == Operator::And))))
}

/// Combines in pairs of neighbours until one is left; `None` of nothing.
pub(super) fn balanced(mut exprs: Vec<Expr>, operator: Operator) -> Option<Expr> {
    while exprs.len() > 1 {
        let mut pairs = Vec::with_capacity(exprs.len().div_ceil(2));
        let mut rest = exprs.into_iter();
        while let Some(left) = rest.next() {
            pairs.push(match rest.next() {
                Some(right) => binary(left, operator, right),
                None => left,
            });
        }
        exprs = pairs;
    }
    exprs.pop()
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
