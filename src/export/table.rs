//! Records as tables: CSV and Parquet, with columns chosen by name.
//!
//! The names are those of queries and `taxiway sql`. Types are plain: text, whole numbers, truth values, instants in UTC, lists of
//! text. `id` is the STIX id under which the record is served, `verdict` the score as a word.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, ListArray, RecordBatch, RecordBatchOptions,
    StringArray, StringBuilder, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int8Type, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::ZstdLevel;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;

use crate::export::sink::Hashed;
use crate::export::{Compression, ExportError};
use crate::model::schema::{self, column as c};
use crate::model::time::Timestamp;
use crate::render::{self, Ids, RenderOptions};

/// The score as a word.
const VERDICT: &str = "verdict";
/// The words for scores.
const VERDICTS: [&str; 4] = ["unknown", "benign", "suspicious", "malicious"];

/// Columns that can be asked for. The others are the store's own, or of relationships.
const KNOWN: &[&str] = &[
    c::ADDED,
    c::KIND,
    c::STIX_TYPE,
    c::ID,
    c::STIX_ID,
    c::SPEC_VERSION,
    c::TYPE,
    c::VALUE,
    c::SCORE,
    VERDICT,
    c::CREATED,
    c::MODIFIED,
    c::FIRST_SEEN,
    c::LAST_SEEN,
    c::EXPIRATION,
    c::TAGS,
    c::SOURCE_BRANDS,
    c::SOURCE_INSTANCES,
    c::RELIABILITY,
    c::CONFIDENCE,
    c::TLP,
    c::DESCRIPTION,
    c::REVOKED,
    c::INBOX,
    c::MITRE_ID,
    c::ACCOUNT_TYPE,
    c::USER_ID,
    c::MD5,
    c::SHA1,
    c::SHA256,
    c::SHA512,
    c::SSDEEP,
    c::PUBLISHED,
    c::IS_FAMILY,
    c::IDENTITY_CLASS,
    c::AS_NAME,
    c::REGISTRY_VALUES,
    c::SUBJECT,
    c::ISSUER,
    c::VALIDITY_NOT_BEFORE,
    c::VALIDITY_NOT_AFTER,
    c::OBJECT_REFS,
    c::KILL_CHAIN_PHASES,
    c::CUSTOM,
    c::DOCUMENT,
];

/// What a table has unless other columns are asked for.
const DEFAULT: &[&str] = &[
    c::TYPE,
    c::VALUE,
    VERDICT,
    c::CONFIDENCE,
    c::TLP,
    c::TAGS,
    c::SOURCE_BRANDS,
    c::RELIABILITY,
    c::FIRST_SEEN,
    c::LAST_SEEN,
    c::EXPIRATION,
    c::CREATED,
    c::MODIFIED,
    c::REVOKED,
    c::DESCRIPTION,
    c::STIX_TYPE,
    c::ID,
    c::ADDED,
];

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column(&'static str);

impl Column {
    /// Its name.
    pub fn name(self) -> &'static str {
        self.0
    }
}

/// The columns of a table unless others are asked for.
pub fn default_columns() -> Vec<Column> {
    DEFAULT.iter().map(|name| Column(name)).collect()
}

/// Reads names of columns; `*` stands for all.
pub fn columns(names: &[String]) -> Result<Vec<Column>, ExportError> {
    let mut columns: Vec<Column> = Vec::new();
    for name in names.iter().map(|name| name.trim()) {
        let found: Vec<&'static str> = match name {
            "*" => KNOWN.to_vec(),
            name => KNOWN.iter().copied().filter(|known| known.eq_ignore_ascii_case(name)).collect(),
        };
        if found.is_empty() {
            let like =
                KNOWN.iter().max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
            let like = like.filter(|like| strsim::jaro_winkler(like, name) > 0.8);
            return Err(ExportError::Request(match like {
                Some(like) => format!("there is no column `{name}`; did you mean `{like}`?"),
                None => format!("there is no column `{name}`; there are {}", KNOWN.join(", ")),
            }));
        }
        let new = found.into_iter().map(Column).filter(|column| !columns.contains(column)).collect::<Vec<_>>();
        columns.extend(new);
    }
    match columns.is_empty() {
        true => Err(ExportError::Request("a table needs a column; name one, or `*` for all".to_owned())),
        false => Ok(columns),
    }
}

/// The columns of the store that a table is made of.
pub(super) fn source_columns(columns: &[Column]) -> Vec<&'static str> {
    let mut sources: Vec<&'static str> = Vec::new();
    for column in columns {
        match column.0 {
            VERDICT => sources.push(c::SCORE),
            c::ID => sources.extend(render::manifest_columns()),
            name => sources.push(name),
        }
    }
    sources.sort_unstable();
    sources.dedup();
    sources
}

/// The table's columns with their types.
pub(super) fn schema(columns: &[Column]) -> SchemaRef {
    let whole = schema::schema();
    let field = |column: &Column| {
        let of_store = whole.field_with_name(column.0).map(Field::data_type);
        let data_type = match of_store {
            _ if column.0 == c::ID => DataType::Utf8,
            Ok(DataType::Dictionary(..)) | Err(_) => DataType::Utf8,
            Ok(DataType::Int8 | DataType::Int16) => DataType::Int32,
            Ok(other) => other.clone(),
        };
        Field::new(column.0, data_type, true)
    };
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

/// Rows of the store as rows of the table.
pub(super) fn rows(
    batch: &RecordBatch,
    columns: &[Column],
    schema: &SchemaRef,
    options: &RenderOptions,
) -> Result<RecordBatch, ExportError> {
    let failed = || ExportError::internal("make a table");
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(columns.len());
    for (column, field) in columns.iter().zip(schema.fields()) {
        arrays.push(match column.0 {
            c::ID => Arc::new(ids(batch, options)?),
            VERDICT => Arc::new(verdicts(batch)),
            name => match batch.column_by_name(name) {
                Some(array) if array.data_type() == field.data_type() => Arc::clone(array),
                Some(array) => cast(array, field.data_type()).map_err(failed())?,
                None => new_null_array(field.data_type(), batch.num_rows()),
            },
        });
    }
    let row_count = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &row_count).map_err(failed())
}

fn ids(batch: &RecordBatch, options: &RenderOptions) -> Result<StringArray, ExportError> {
    let ids = Ids::bind(batch, options)?;
    let mut builder = StringBuilder::with_capacity(batch.num_rows(), batch.num_rows() * 48);
    let mut text = Vec::with_capacity(64);
    for row in 0..batch.num_rows() {
        text.clear();
        let id = ids.write(row, &mut text).and_then(|()| std::str::from_utf8(&text).ok());
        builder.append_option(id);
    }
    Ok(builder.finish())
}

fn verdicts(batch: &RecordBatch) -> StringArray {
    let scores = batch.column_by_name(c::SCORE).and_then(|array| array.as_primitive_opt::<Int8Type>());
    let word = |row: usize| {
        let score = scores.filter(|scores| scores.is_valid(row)).map_or(0, |scores| scores.value(row));
        VERDICTS.get(usize::try_from(score).unwrap_or_default()).copied()
    };
    (0..batch.num_rows()).map(word).collect()
}

/// The first line of a CSV file.
pub(super) fn csv_header(columns: &[Column]) -> Vec<u8> {
    let names: Vec<&str> = columns.iter().map(|column| column.0).collect();
    format!("{}\n", names.join(",")).into_bytes()
}

/// Appends the rows of a table as CSV (RFC 4180, lines end with a line feed): text in quotes where it must be, instants as
/// RFC 3339, the items of a list with `;` between them, a `\` before a `;` or `\` inside of one.
pub(super) fn csv_into(table: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ExportError> {
    let cells = table.columns().iter().map(Cells::of).collect::<Option<Vec<_>>>();
    let cells =
        cells.ok_or(ExportError::Internal { what: "write CSV", reason: "a column of another type".to_owned() })?;
    let failed = ExportError::internal::<csv::Error>("write CSV");
    let mut writer = csv::WriterBuilder::new().has_headers(false).buffer_capacity(64 << 10).from_writer(out);
    let mut text = Vec::new();
    let mut write = || {
        for row in 0..table.num_rows() {
            for cell in &cells {
                text.clear();
                cell.write(row, &mut text);
                writer.write_field(&text)?;
            }
            writer.write_record(None::<&[u8]>)?;
        }
        writer.flush()?;
        Ok(())
    };
    write().map_err(failed)
}

/// A column of CSV.
enum Cells<'a> {
    Text(&'a StringArray),
    Number(&'a Int32Array),
    Instant(Int64Array),
    Truth(&'a BooleanArray),
    List(&'a ListArray, &'a StringArray),
}

impl<'a> Cells<'a> {
    fn of(array: &'a ArrayRef) -> Option<Self> {
        Some(match array.data_type() {
            DataType::Utf8 => Cells::Text(array.as_string_opt()?),
            DataType::Int32 => Cells::Number(array.as_primitive_opt()?),
            DataType::Timestamp(..) => Cells::Instant(cast(array, &DataType::Int64).ok()?.as_primitive_opt()?.clone()),
            DataType::Boolean => Cells::Truth(array.as_boolean_opt()?),
            DataType::List(_) => {
                let list = array.as_list_opt::<i32>()?;
                Cells::List(list, list.values().as_string_opt()?)
            }
            _ => return None,
        })
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Cells::Text(array) if array.is_valid(row) => out.extend_from_slice(array.value(row).as_bytes()),
            Cells::Number(array) if array.is_valid(row) => {
                out.extend_from_slice(itoa::Buffer::new().format(array.value(row)).as_bytes());
            }
            Cells::Instant(array) if array.is_valid(row) => Timestamp(array.value(row)).write_to(out),
            Cells::Truth(array) if array.is_valid(row) => {
                out.extend_from_slice(if array.value(row) { b"true" } else { b"false" });
            }
            Cells::List(list, items) if list.is_valid(row) => {
                let offsets = list.value_offsets();
                let (Some(start), Some(end)) = (offsets.get(row), offsets.get(row + 1)) else { return };
                let present = (*start as usize..*end as usize).filter(|at| items.is_valid(*at));
                for (number, at) in present.enumerate() {
                    if number > 0 {
                        out.push(b';');
                    }
                    for byte in items.value(at).bytes() {
                        if matches!(byte, b';' | b'\\') {
                            out.push(b'\\');
                        }
                        out.push(byte);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Makes a Parquet file, and what encodes its row groups on other threads.
pub(super) fn parquet(
    file: Hashed,
    schema: &SchemaRef,
    compression: Option<Compression>,
) -> Result<(SerializedFileWriter<Hashed>, ArrowRowGroupWriterFactory), ExportError> {
    let level = match compression {
        Some(Compression::Zstd(level)) => level,
        Some(Compression::Gzip(_)) | None => 1,
    };
    let failed = || ExportError::internal("write Parquet");
    let codec = parquet::basic::Compression::ZSTD(ZstdLevel::try_new(level).map_err(failed())?);
    let properties = WriterProperties::builder()
        .set_compression(codec)
        .set_created_by(concat!("taxiway ", env!("CARGO_PKG_VERSION")).to_owned())
        .build();
    ArrowWriter::try_new(file, Arc::clone(schema), Some(properties))
        .and_then(ArrowWriter::into_serialized_writer)
        .map_err(failed())
}

/// Row group number `number`, encoded.
pub(super) fn row_group(
    batches: &[RecordBatch],
    factory: &ArrowRowGroupWriterFactory,
    number: usize,
    schema: &SchemaRef,
) -> Result<Vec<ArrowColumnChunk>, ExportError> {
    let encode = || {
        let mut writers = factory.create_column_writers(number)?;
        for batch in batches {
            // One leaf a column: lists have one as well.
            let columns = schema.fields().iter().zip(batch.columns());
            for ((field, array), writer) in columns.zip(&mut writers) {
                for leaf in compute_leaves(field, array)? {
                    writer.write(&leaf)?;
                }
            }
        }
        writers.into_iter().map(ArrowColumnWriter::close).collect::<Result<Vec<_>, ParquetError>>()
    };
    encode().map_err(ExportError::internal::<ParquetError>("write Parquet"))
}

#[cfg(test)]
mod tests {
    use arrow::array::{ListBuilder, TimestampMicrosecondArray};

    use super::*;

    #[test]
    fn columns_are_chosen_by_name() {
        let named = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            columns(&names).map(|found| found.iter().map(|column| column.name()).collect::<Vec<_>>())
        };
        assert_eq!(named(&["value", " Type ", "value"]).unwrap(), ["value", "type"]);
        assert_eq!(named(&["*"]).unwrap().len(), KNOWN.len());
        assert!(named(&["valeu"]).unwrap_err().to_string().contains("`value`"));
        assert!(named(&["xyzzy"]).unwrap_err().to_string().contains("there are added, "));
        assert!(named(&[]).is_err());
        let known = schema(&columns(&["*".to_owned()]).unwrap());
        assert!(known.fields().iter().all(|field| !matches!(field.data_type(), DataType::Dictionary(..))));
    }

    #[test]
    fn cells_are_quoted_where_they_must_be() {
        let mut lists = ListBuilder::new(StringBuilder::new());
        lists.append_value(["a;b", "c\\d", "e,f"].map(Some));
        lists.append_null();
        let table = RecordBatch::try_from_iter([
            ("text", Arc::new(StringArray::from(vec![Some("say \"hi\",\nthen go"), None])) as ArrayRef),
            ("number", Arc::new(Int32Array::from(vec![Some(-3), None]))),
            ("at", Arc::new(TimestampMicrosecondArray::from(vec![Some(1), None]).with_timezone("UTC"))),
            ("truth", Arc::new(BooleanArray::from(vec![Some(true), Some(false)]))),
            ("list", Arc::new(lists.finish())),
        ]);
        let mut out = Vec::new();
        csv_into(&table.unwrap(), &mut out).unwrap();
        let expected =
            "\"say \"\"hi\"\",\nthen go\",-3,1970-01-01T00:00:00.000001Z,true,\"a\\;b;c\\\\d;e,f\"\n,,,false,\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
