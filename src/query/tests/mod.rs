//! The language against data: rows selected, errors shown, trees printed.

mod fuzz;
mod rows;
mod syntax;

use super::{Compiled, compile};

/// Data lines of a case file: no comments, no empty lines.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn compiled(text: &str) -> Compiled {
    match compile(text) {
        Ok(compiled) => compiled,
        Err(error) => panic!("{}", error.render()),
    }
}
