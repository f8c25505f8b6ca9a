//! What an input holds, from its first bytes and its name.

use std::fmt;
use std::str::FromStr;

use crate::ingest::block::DecodeOptions;
use crate::ingest::csv::Table;
use crate::ingest::split::{Framing, lines};

/// Forms of input. JSON inputs may mix the first two: each element is told apart by its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// XSOAR indicator documents: one a line, a JSON array, or search responses.
    Xsoar,
    /// STIX 2.0 or 2.1: bundles, TAXII envelopes, or one object a line.
    Stix,
    /// One value a line.
    List,
    /// A table with a header, separated by commas, semicolons, tabs or bars.
    Csv,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 4] = [Format::Xsoar, Format::Stix, Format::List, Format::Csv];

    /// The name used on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Xsoar => "xsoar",
            Format::Stix => "stix",
            Format::List => "list",
            Format::Csv => "csv",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why the form of an input cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A format that does not exist.
    #[error("`{0}` is not a format; use `xsoar`, `stix`, `list` or `csv`")]
    Unknown(String),
    /// A mapping names a column that is not in the header.
    #[error("there is no column `{column}` in the header `{header}`; name one that is there")]
    NoSuchColumn {
        /// The column asked for.
        column: String,
        /// The header, cut to 200 characters.
        header: String,
    },
    /// A table whose header does not say where the values are.
    #[error("no column of `{name}` is known to hold the values; name it with `--column <column>=value`")]
    NoValueColumn {
        /// The input.
        name: String,
    },
    /// A form that is not read.
    #[error("`{name}` is {found}; {advice}")]
    Unsupported {
        /// The input.
        name: String,
        /// What it is.
        found: &'static str,
        /// What to do.
        advice: &'static str,
    },
}

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(name: &str) -> Result<Self, FormatError> {
        let found = Format::ALL.into_iter().find(|format| format.as_str().eq_ignore_ascii_case(name));
        found.ok_or_else(|| FormatError::Unknown(name.chars().take(64).collect()))
    }
}

/// How the elements of one input are cut and read.
#[derive(Clone, Debug)]
pub(crate) enum Layout {
    Json,
    List,
    Csv(Table),
}

impl Layout {
    pub(crate) fn framing(&self) -> Framing {
        match self {
            Layout::Json => Framing::Json,
            Layout::List => Framing::Lines,
            Layout::Csv(table) => Framing::Csv { delimiter: table.delimiter },
        }
    }
}

/// Tells the layout of the input called `name` from its first bytes, unless the options force one.
pub(crate) fn layout(prefix: &[u8], name: &str, options: &DecodeOptions) -> Result<Layout, FormatError> {
    refuse_binary(prefix, name)?;
    let no_value_column = || FormatError::NoValueColumn { name: name.to_owned() };
    let text = valid_prefix(prefix);
    match options.format {
        Some(Format::Xsoar | Format::Stix) => return Ok(Layout::Json),
        Some(Format::List) => return Ok(Layout::List),
        Some(Format::Csv) => {
            return Table::find(text, &options.csv_columns)?.map(Layout::Csv).ok_or_else(no_value_column);
        }
        None if looks_like_json(prefix) => return Ok(Layout::Json),
        None => {}
    }
    let called = |extensions: &[&str]| {
        let name = name.to_ascii_lowercase();
        let name = name.trim_end_matches(".gz").trim_end_matches(".zst");
        extensions.iter().any(|extension| name.ends_with(extension))
    };
    if called(&[".json", ".ndjson", ".jsonl"]) && !prefix.is_empty() {
        return Ok(Layout::Json);
    }
    let is_called_table = called(&[".csv", ".tsv"]) || !options.csv_columns.is_empty();
    match Table::find(text, &options.csv_columns)? {
        // One column called `domain` may be a table or a list that begins with an odd line: the name decides.
        Some(table) if table.width() > 1 || is_called_table => Ok(Layout::Csv(table)),
        None if is_called_table && first_record(text).contains([',', ';', '\t']) => Err(no_value_column()),
        _ => Ok(Layout::List),
    }
}

/// An object, or an array that is not a defanged or bracketed value.
fn looks_like_json(prefix: &[u8]) -> bool {
    let mut bytes = prefix.iter().copied().filter(|byte| !byte.is_ascii_whitespace());
    match bytes.next() {
        Some(b'{') => true,
        Some(b'[') => matches!(bytes.next(), None | Some(b'{' | b'[' | b']' | b'"')),
        _ => false,
    }
}

/// The first line that is neither blank nor a comment.
fn first_record(text: &str) -> &str {
    lines(text).find(|line| !line.trim().is_empty() && !line.starts_with('#')).unwrap_or_default()
}

/// The beginning as text, up to the first byte that is none.
fn valid_prefix(prefix: &[u8]) -> &str {
    match std::str::from_utf8(prefix) {
        Ok(text) => text,
        Err(error) => {
            prefix.get(..error.valid_up_to()).and_then(|valid| std::str::from_utf8(valid).ok()).unwrap_or_default()
        }
    }
}

fn refuse_binary(prefix: &[u8], name: &str) -> Result<(), FormatError> {
    let kinds: [(&[u8], &str, &str); 6] = [
        (b"\xff\xfe", "UTF-16 text", "convert it to UTF-8"),
        (b"\xfe\xff", "UTF-16 text", "convert it to UTF-8"),
        (b"PAR1", "a Parquet file", "export it as NDJSON or CSV"),
        (b"PK\x03\x04", "a zip archive", "unpack it"),
        (b"BZh", "compressed with bzip2", "unpack it, or use gzip or zstd"),
        (b"\xfd7zXZ", "compressed with xz", "unpack it, or use gzip or zstd"),
    ];
    let found = kinds.into_iter().find(|(magic, ..)| prefix.starts_with(magic));
    found.map_or(Ok(()), |(_, found, advice)| Err(FormatError::Unsupported { name: name.to_owned(), found, advice }))
}
