//! What commands print: results to standard output, everything else to standard error.

use std::io::{self, Write};

use arrow::array::RecordBatch;
use clap::ValueEnum;

/// Form of printed records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Table,
    /// For programs: one JSON document, or one object a line where there may be many.
    Json,
    /// Comma-separated, with a header.
    Csv,
}

/// Form of what is no table of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// For people.
    Table,
    /// For programs: one JSON document.
    Json,
}

/// Prints to standard output.
pub(super) fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Prints to standard error, where nothing can be done about a failure.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in a unit that suits them.
pub(super) fn bytes(number: u64) -> String {
    indicatif::HumanBytes(number).to_string()
}

/// Rows of text in columns as wide as needed.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&header.iter().map(ToString::to_string).collect::<Vec<_>>())];
    lines.extend(rows.iter().map(|row| line(row)));
    lines.join("\n")
}

/// Prints record batches as they come. Tables are laid out per batch of at most a thousand rows.
pub(super) struct Batches {
    format: Format,
    printed: u64,
    header_done: bool,
}

impl Batches {
    pub(super) fn new(format: Format) -> Self {
        Batches { format, printed: 0, header_done: false }
    }

    pub(super) fn print(&mut self, batch: &RecordBatch) -> Result<(), super::CliError> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        match self.format {
            Format::Table => {
                for start in (0..batch.num_rows()).step_by(1_000) {
                    let part = batch.slice(start, (batch.num_rows() - start).min(1_000));
                    writeln!(out, "{}", arrow::util::pretty::pretty_format_batches(&[part])?)?;
                }
            }
            Format::Json => {
                let mut writer = arrow::json::LineDelimitedWriter::new(&mut out);
                writer.write(batch)?;
                writer.finish()?;
            }
            Format::Csv => {
                let mut writer = arrow::csv::WriterBuilder::new().with_header(!self.header_done).build(&mut out);
                writer.write(batch)?;
                self.header_done = true;
            }
        }
        out.flush()?;
        self.printed += batch.num_rows() as u64;
        Ok(())
    }

    pub(super) fn rows(&self) -> u64 {
        self.printed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three() {
        for (number, expected) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), expected);
        }
    }
}
