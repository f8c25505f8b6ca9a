//! What commands print: results to standard output, everything else to standard error.

use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use clap::ValueEnum;

/// Form of printed records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Table,
    /// For programs: one JSON document, or one object a line where there may be many.
    Json,
    /// Comma-separated, with a header also where there are no rows. The items of a list are one cell, with `;` between
    /// them; a `;` or `\` in an item has a `\` before it.
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
    indicatif::HumanCount(number).to_string()
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
    /// Begins to print rows of that schema.
    pub(super) fn begin(format: Format, schema: SchemaRef) -> Result<Self, super::CliError> {
        let mut batches = Batches { format, printed: 0, header_done: false };
        if format == Format::Csv {
            // The header, even if no row follows.
            batches.print(&RecordBatch::new_empty(schema))?;
        }
        Ok(batches)
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
                writer.write(&flat(batch)?)?;
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

/// The batch with texts in place of lists and what else CSV has no cells for.
fn flat(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if column.data_type().is_nested() {
            fields.push(Field::new(field.name(), DataType::Utf8, true));
            columns.push(Arc::new(as_text(column)?));
        } else {
            fields.push(field.as_ref().clone());
            columns.push(Arc::clone(column));
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

fn as_text(column: &ArrayRef) -> Result<StringArray, ArrowError> {
    let options = FormatOptions::default();
    if let Some(lists) = column.as_list_opt::<i32>() {
        return lists.iter().map(|list| list.map(|list| joined(&list)).transpose()).collect();
    }
    if let Some(lists) = column.as_list_opt::<i64>() {
        return lists.iter().map(|list| list.map(|list| joined(&list)).transpose()).collect();
    }
    // Structures and maps, which only SQL can make: as tables show them.
    let shown = ArrayFormatter::try_new(column, &options)?;
    (0..column.len()).map(|row| column.is_valid(row).then(|| shown.value(row).try_to_string()).transpose()).collect()
}

fn joined(items: &ArrayRef) -> Result<String, ArrowError> {
    let options = FormatOptions::default();
    let shown = ArrayFormatter::try_new(items, &options)?;
    let mut text = String::new();
    for row in 0..items.len() {
        if row > 0 {
            text.push(';');
        }
        for c in shown.value(row).try_to_string()?.chars() {
            if matches!(c, ';' | '\\') {
                text.push('\\');
            }
            text.push(c);
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use arrow::array::ListBuilder;
    use arrow::array::builder::StringBuilder;

    use super::*;

    #[test]
    fn lists_are_cells_of_csv() {
        let mut lists = ListBuilder::new(StringBuilder::new());
        let cases: [(Option<&[&str]>, Option<&str>); 5] = [
            (Some(&["a", "b c", "d"]), Some("a;b c;d")),
            (Some(&["one"]), Some("one")),
            (Some(&[]), Some("")),
            (None, None),
            (Some(&["a;b", "c\\", ""]), Some("a\\;b;c\\\\;")),
        ];
        for (items, _) in cases {
            lists.append_option(items.map(|items| items.iter().map(|item| Some(*item))));
        }
        let column: ArrayRef = Arc::new(lists.finish());
        let flat = flat(&RecordBatch::try_from_iter([("tags", column)]).expect("a batch")).expect("flat");
        assert_eq!(flat.column(0).as_string::<i32>(), &StringArray::from_iter(cases.map(|(_, text)| text)));
    }

    #[test]
    fn numbers_are_grouped_by_three() {
        for (number, expected) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), expected);
        }
    }
}
