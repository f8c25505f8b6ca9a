//! The compiled query as text for people: an indented tree, and SQL.

use std::fmt::Write;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{InList, ScalarFunction};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use datafusion::sql::unparser::expr_to_sql;

use super::ast::Comparison;
use super::matcher::Op;
use super::rule::{Argument, Function, Leaf, Literal, Match, Rule};
use crate::model::time::Timestamp;

/// Values shown of a long list.
const SHOWN: usize = 8;

/// One condition a line, indented by depth.
pub(super) fn tree(rule: &Rule) -> String {
    let mut out = String::new();
    write_rule(&mut out, rule, 0);
    out.truncate(out.trim_end().len());
    out
}

fn write_rule(out: &mut String, rule: &Rule, depth: usize) {
    let mut line = |text: &str| {
        let _ = writeln!(out, "{:width$}{text}", "", width = depth * 2);
    };
    match rule {
        Rule::All => line("every record"),
        Rule::Nothing => line("no record"),
        Rule::Leaf(leaf) => line(&describe(leaf)),
        Rule::Not(inner) => {
            line("not");
            write_rule(out, inner, depth + 1);
        }
        Rule::And(rules) | Rule::Or(rules) => {
            line(if matches!(rule, Rule::And(_)) { "all of" } else { "any of" });
            for rule in rules {
                write_rule(out, rule, depth + 1);
            }
        }
    }
}

fn describe(leaf: &Leaf) -> String {
    match leaf {
        Leaf::In { column, values } => format!("{column} is {}", list(values, show_literal)),
        Leaf::Compare { column, comparison, value } => {
            format!("{column} {} {}", comparison.symbol(), show_literal(value))
        }
        Leaf::When { column, comparison: Comparison::Equal, moment } => format!("{column} at {moment}"),
        Leaf::When { column, comparison, moment } => format!("{column} {} {moment}", comparison.symbol()),
        Leaf::Empty { column, .. } => format!("{column} is empty"),
        Leaf::Match(Match { function, column, path, op, values }) => {
            let subject = match function {
                Function::Json if path.is_empty() => format!("{column} (anywhere)"),
                Function::Json => format!("{column}.{path}"),
                Function::List => format!("any of {column}"),
                Function::Text => (*column).to_owned(),
            };
            let verb = match op {
                Op::Equal => "is",
                Op::Like => "is like",
                Op::Contains => "contains",
                Op::Greater => ">",
                Op::GreaterOrEqual => ">=",
                Op::Less => "<",
                Op::LessOrEqual => "<=",
                Op::Empty => return format!("{column}{}{path} is empty", if path.is_empty() { "" } else { "." }),
            };
            let case = if *op == Op::Equal { ", in any case" } else { "" };
            format!("{subject} {verb} {}{case}", list(values, show_argument))
        }
    }
}

fn list<T>(values: &[T], show: impl Fn(&T) -> String) -> String {
    let shown: Vec<String> = values.iter().take(SHOWN).map(show).collect();
    let more = values.len().saturating_sub(SHOWN);
    let tail = if more > 0 { format!(" or {more} more") } else { String::new() };
    format!("{}{tail}", shown.join(" or "))
}

fn show_literal(literal: &Literal) -> String {
    match literal {
        Literal::Text(text) => format!("`{text}`"),
        Literal::Integer(number) => number.to_string(),
        Literal::Float(number) => number.to_string(),
        Literal::Flag(flag) => flag.to_string(),
    }
}

fn show_argument(argument: &Argument) -> String {
    match argument {
        Argument::Text(text) => format!("`{text}`"),
        Argument::Moment(moment) => moment.to_string(),
    }
}

/// SQL for what [`super::lower`] makes. DataFusion's own printer writes timestamps as casts to nanoseconds, which
/// cannot hold the years before 1678, so it only serves what is not known here.
pub(super) fn sql(expr: &Expr) -> String {
    let mut out = String::new();
    write_sql(&mut out, expr);
    out
}

fn write_sql(out: &mut String, expr: &Expr) {
    match expr {
        Expr::Column(column) => write_quoted(out, &column.name, '"'),
        Expr::Literal(value, _) => write_literal(out, expr, value),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            // Operators group to the left, so a chain down the left side needs no parentheses.
            match &**left {
                Expr::BinaryExpr(inner) if inner.op == *op => write_sql(out, left),
                _ => write_operand(out, left, *op),
            }
            let _ = write!(out, " {op} ");
            write_operand(out, right, *op);
        }
        Expr::Not(inner) => {
            out.push_str("NOT (");
            write_sql(out, inner);
            out.push(')');
        }
        Expr::IsNotTrue(inner) => {
            out.push('(');
            write_sql(out, inner);
            out.push_str(") IS NOT TRUE");
        }
        Expr::IsNull(inner) => {
            write_sql(out, inner);
            out.push_str(" IS NULL");
        }
        Expr::InList(InList { expr, list, negated: false }) => {
            write_sql(out, expr);
            out.push_str(" IN ");
            write_arguments(out, list);
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) => {
            out.push_str(func.name());
            write_arguments(out, args);
        }
        other => write_foreign(out, other),
    }
}

fn write_arguments(out: &mut String, arguments: &[Expr]) {
    for (index, argument) in arguments.iter().enumerate() {
        out.push_str(if index == 0 { "(" } else { ", " });
        write_sql(out, argument);
    }
    out.push_str(if arguments.is_empty() { "()" } else { ")" });
}

/// Comparisons need no parentheses within `AND` and `OR`; the two within each other keep theirs.
fn write_operand(out: &mut String, expr: &Expr, around: Operator) {
    let logic = |op: Operator| matches!(op, Operator::And | Operator::Or);
    match expr {
        Expr::BinaryExpr(inner) if logic(inner.op) || !logic(around) => {
            out.push('(');
            write_sql(out, expr);
            out.push(')');
        }
        _ => write_sql(out, expr),
    }
}

fn write_literal(out: &mut String, expr: &Expr, value: &ScalarValue) {
    match value {
        ScalarValue::Utf8(Some(text)) => write_quoted(out, text, '\''),
        ScalarValue::Dictionary(_, value) => write_literal(out, expr, value),
        ScalarValue::Boolean(Some(flag)) => out.push_str(if *flag { "true" } else { "false" }),
        ScalarValue::Int8(Some(_)) | ScalarValue::Int16(Some(_)) | ScalarValue::Int64(Some(_)) => {
            let _ = write!(out, "{value}");
        }
        ScalarValue::TimestampMicrosecond(Some(micros), Some(zone)) => {
            let _ = write!(out, "arrow_cast('{}', 'Timestamp(Microsecond, Some(\"{zone}\"))')", Timestamp(*micros));
        }
        _ => write_foreign(out, expr),
    }
}

fn write_foreign(out: &mut String, expr: &Expr) {
    match expr_to_sql(expr) {
        Ok(sql) => {
            let _ = write!(out, "({sql})");
        }
        Err(_) => {
            let _ = write!(out, "{expr}");
        }
    }
}

fn write_quoted(out: &mut String, text: &str, quote: char) {
    out.push(quote);
    for c in text.chars() {
        if c == quote {
            out.push(quote);
        }
        out.push(c);
    }
    out.push(quote);
}
