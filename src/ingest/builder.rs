//! Column builders for decoded records, and what a decoded block is handed on as.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{
    ArrayBuilder, ArrayRef, BooleanBuilder, DictionaryArray, FixedSizeBinaryBuilder, Int8Builder, Int16Builder,
    Int32Array, ListBuilder, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondBuilder, new_null_array,
};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Int32Type};
use arrow::error::ArrowError;
use twox_hash::XxHash3_64;

use crate::model::ids::Uuid16;
use crate::model::schema::{self, column};
use crate::model::time::Timestamp;

/// A decoded block of one input: records as columns, and what did not become a record.
#[derive(Debug)]
pub struct Parsed {
    /// The records, in input order, in the columns of [`schema::input_schema`].
    pub batch: RecordBatch,
    /// For each record the XXH3 of its identity: an indicator's type, a zero byte and its value; `stix`, a zero byte and
    /// the id of a native object; `inbox`, the inbox, and the id of a posted one.
    pub keys: Vec<u64>,
    /// For each record the XXH3 of its content: equal for equal content, whatever the file around it looked like.
    pub digests: Vec<u64>,
    /// For each record the line it begins on, from 1.
    pub lines: Vec<u64>,
    /// Elements that are no records, in input order.
    pub rejects: Vec<Reject>,
    /// What was odd in the records taken.
    pub warnings: Warnings,
    /// Elements read: records and rejects.
    pub read: u64,
    /// Length of these elements in bytes, uncompressed.
    pub bytes: u64,
}

impl Parsed {
    /// A block of nothing.
    pub(crate) fn nothing() -> Self {
        Parsed {
            batch: RecordBatch::new_empty(schema::input_schema()),
            keys: Vec::new(),
            digests: Vec::new(),
            lines: Vec::new(),
            rejects: Vec::new(),
            warnings: Warnings::default(),
            read: 0,
            bytes: 0,
        }
    }
}

/// An element that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Line it begins on, from 1.
    pub line: u64,
    /// Why, as a sentence.
    pub reason: String,
    /// The element as it came, cut to 1 MiB; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// Oddities that do not cost the record, counted by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Warnings {
    /// Unreadable values, by column: the field is left empty.
    pub fields: BTreeMap<&'static str, u64>,
    /// Records without a STIX form, by type: kept, never served.
    pub unknown_types: BTreeMap<String, u64>,
}

/// So many unknown types are told apart; the rest are counted as [`OTHER_TYPES`].
const MAX_UNKNOWN_TYPES: usize = 1_000;
/// See [`Warnings::unknown_types`].
const OTHER_TYPES: &str = "(others)";

impl Warnings {
    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: Warnings) {
        for (name, count) in other.fields {
            *self.fields.entry(name).or_default() += count;
        }
        for (name, count) in other.unknown_types {
            self.unknown_type(&name, count);
        }
    }

    /// Whether nothing was odd.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.unknown_types.is_empty()
    }

    fn unknown_type(&mut self, name: &str, count: u64) {
        if let Some(counted) = self.unknown_types.get_mut(name) {
            *counted += count;
        } else {
            let known = if self.unknown_types.len() < MAX_UNKNOWN_TYPES { name } else { OTHER_TYPES };
            *self.unknown_types.entry(known.to_owned()).or_default() += count;
        }
    }
}

/// The key of an object in an inbox, by the ids of both.
pub(crate) fn inbox_key(inbox: &str, id: &str) -> u64 {
    identity_key(("inbox", &format!("{inbox}\0{id}")), &mut Vec::new())
}

/// The key of an identity: a type and a value, or `stix` and an id. `buffer` is overwritten.
pub(crate) fn identity_key(identity: (&str, &str), buffer: &mut Vec<u8>) -> u64 {
    buffer.clear();
    buffer.extend_from_slice(identity.0.as_bytes());
    buffer.push(0);
    buffer.extend_from_slice(identity.1.as_bytes());
    XxHash3_64::oneshot(buffer)
}

macro_rules! columns {
    ($($variant:ident = $name:ident,)*) => {
        /// The columns of [`schema::input_schema`], in its order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(dead_code, reason = "the ends of edges are looked up")]
        pub(crate) enum Col { $($variant,)* }

        impl Col {
            /// The column's name.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Col::$variant => column::$name,)* }
            }

            #[cfg(test)]
            const ALL: &'static [Col] = &[$(Col::$variant,)*];
        }
    };
}

columns! {
    Kind = KIND,
    StixType = STIX_TYPE,
    Id = ID,
    IndicatorId = INDICATOR_ID,
    StixId = STIX_ID,
    SpecVersion = SPEC_VERSION,
    Type = TYPE,
    Value = VALUE,
    Score = SCORE,
    Created = CREATED,
    Modified = MODIFIED,
    SourceModified = SOURCE_MODIFIED,
    FirstSeen = FIRST_SEEN,
    LastSeen = LAST_SEEN,
    Expiration = EXPIRATION,
    Tags = TAGS,
    SourceBrands = SOURCE_BRANDS,
    SourceInstances = SOURCE_INSTANCES,
    Reliability = RELIABILITY,
    Confidence = CONFIDENCE,
    Tlp = TLP,
    Description = DESCRIPTION,
    Revoked = REVOKED,
    SourceRef = SOURCE_REF,
    TargetRef = TARGET_REF,
    SourceIndicatorId = SOURCE_INDICATOR_ID,
    TargetIndicatorId = TARGET_INDICATOR_ID,
    SourceStixId = SOURCE_STIX_ID,
    TargetStixId = TARGET_STIX_ID,
    RelationshipType = RELATIONSHIP_TYPE,
    Inbox = INBOX,
    MitreId = MITRE_ID,
    AccountType = ACCOUNT_TYPE,
    UserId = USER_ID,
    Md5 = MD5,
    Sha1 = SHA1,
    Sha256 = SHA256,
    Sha512 = SHA512,
    Ssdeep = SSDEEP,
    Published = PUBLISHED,
    IsFamily = IS_FAMILY,
    IdentityClass = IDENTITY_CLASS,
    AsName = AS_NAME,
    RegistryValues = REGISTRY_VALUES,
    Subject = SUBJECT,
    Issuer = ISSUER,
    ValidityNotBefore = VALIDITY_NOT_BEFORE,
    ValidityNotAfter = VALIDITY_NOT_AFTER,
    ObjectRefs = OBJECT_REFS,
    ObjectRefIndicators = OBJECT_REF_INDICATORS,
    KillChainPhases = KILL_CHAIN_PHASES,
    Custom = CUSTOM,
    Document = DOCUMENT,
}

/// A list of texts without repeats, in one reused buffer.
#[derive(Debug, Default)]
pub(crate) struct TextList {
    text: String,
    ends: Vec<usize>,
}

impl TextList {
    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Adds the text, trimmed, unless it is blank or there already.
    pub(crate) fn push(&mut self, text: &str) {
        let plain_ends = |text: &str| {
            text.as_bytes().first().is_some_and(u8::is_ascii_graphic)
                && text.as_bytes().last().is_some_and(u8::is_ascii_graphic)
        };
        let text = if plain_ends(text) { text } else { text.trim() };
        if !text.is_empty() && !self.iter().any(|present| present == text) {
            self.text.push_str(text);
            self.ends.push(self.text.len());
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let text = self.text.get(start..*end).unwrap_or_default();
            start = *end;
            text
        })
    }
}

/// Appends the nulls of the rows in which the column was not set.
macro_rules! pad {
    ($builder:expr, $rows:expr) => {
        if $builder.len() < $rows {
            $builder.append_nulls($rows - $builder.len());
        }
    };
}
/// Builders of all columns. A row is what is set between two [`end_row`](Self::end_row)s; columns not set are null and
/// cost nothing until the batch is finished.
#[derive(Debug)]
pub(crate) struct BatchBuilder {
    columns: Vec<Column>,
    expected: (usize, usize),
    rows: usize,
    /// The content of the row so far, as it is hashed.
    content: Vec<u8>,
    keys: Vec<u64>,
    digests: Vec<u64>,
    lines: Vec<u64>,
    warnings: Warnings,
}

impl BatchBuilder {
    /// For about so many rows, whose originals are `bytes` long together.
    pub(crate) fn new(rows: usize, bytes: usize) -> Self {
        BatchBuilder {
            columns: schema::input_schema().fields().iter().map(|field| Column::new(field.data_type())).collect(),
            expected: (rows, bytes),
            rows: 0,
            content: Vec::new(),
            keys: Vec::with_capacity(rows),
            digests: Vec::with_capacity(rows),
            lines: Vec::with_capacity(rows),
            warnings: Warnings::default(),
        }
    }

    /// Sets text (or a dictionary's text) and counts it as content.
    pub(crate) fn text(&mut self, col: Col, text: &str) {
        self.hash(col, text.as_bytes());
        self.text_aside(col, text);
    }

    pub(crate) fn text_opt(&mut self, col: Col, text: Option<&str>) {
        if let Some(text) = text {
            self.text(col, text);
        }
    }

    /// Sets text that does not count as content: what follows from other columns, and the kept original.
    pub(crate) fn text_aside(&mut self, col: Col, text: &str) {
        let rows = self.rows;
        match self.columns.get_mut(col as usize) {
            Some(Column::Text(builder)) => {
                if builder.is_empty() {
                    let bytes = if col == Col::Document { self.expected.1 } else { usual_bytes(col, self.expected.0) };
                    *builder = StringBuilder::with_capacity(self.expected.0, bytes);
                }
                pad!(builder, rows);
                builder.append_value(text);
            }
            Some(Column::Dictionary(builder)) => {
                if builder.keys.is_empty() {
                    builder.keys.reserve(self.expected.0);
                }
                builder.append(rows, text);
            }
            _ => debug_assert!(false, "{col:?} is not text"),
        }
    }

    /// Sets a UUID; never counted as content, since it follows from it.
    pub(crate) fn uuid(&mut self, col: Col, id: &Uuid16) {
        if let Some(Column::Uuid(builder)) = self.columns.get_mut(col as usize) {
            if builder.is_empty() {
                *builder = FixedSizeBinaryBuilder::with_capacity(self.expected.0, 16);
            }
            pad!(builder, self.rows);
            // 16 bytes always fit the column of 16 bytes.
            let appended = builder.append_value(id);
            debug_assert!(appended.is_ok());
        } else {
            debug_assert!(false, "{col:?} is not a UUID");
        }
    }

    pub(crate) fn time(&mut self, col: Col, at: Option<Timestamp>) {
        let Some(at) = at else { return };
        self.hash(col, &at.0.to_le_bytes());
        if let Some(Column::Time(builder)) = self.columns.get_mut(col as usize) {
            if builder.is_empty() {
                *builder = TimestampMicrosecondBuilder::with_capacity(self.expected.0)
                    .with_data_type(schema::timestamp_type());
            }
            pad!(builder, self.rows);
            builder.append_value(at.0);
        } else {
            debug_assert!(false, "{col:?} is not a timestamp");
        }
    }

    /// Sets a list; an empty one is null.
    pub(crate) fn list(&mut self, col: Col, list: &TextList) {
        if list.is_empty() {
            return;
        }
        for text in list.iter() {
            self.hash(col, text.as_bytes());
        }
        self.list_aside(col, list.iter());
    }

    /// Sets a list that does not count as content.
    pub(crate) fn list_aside<'t>(&mut self, col: Col, texts: impl Iterator<Item = &'t str>) {
        if let Some(Column::List(builder)) = self.columns.get_mut(col as usize) {
            if builder.is_empty() {
                let (rows, bytes) = (self.expected.0, usual_bytes(col, self.expected.0));
                **builder = ListBuilder::with_capacity(StringBuilder::with_capacity(rows, bytes), rows);
            }
            pad!(builder, self.rows);
            for text in texts {
                builder.values().append_value(text);
            }
            builder.append(true);
        } else {
            debug_assert!(false, "{col:?} is not a list");
        }
    }

    pub(crate) fn boolean(&mut self, col: Col, value: Option<bool>) {
        let Some(value) = value else { return };
        self.hash(col, &[u8::from(value)]);
        if let Some(Column::Boolean(builder)) = self.columns.get_mut(col as usize) {
            pad!(builder, self.rows);
            builder.append_value(value);
        } else {
            debug_assert!(false, "{col:?} is not a truth value");
        }
    }

    /// Sets a number of at most 0–127.
    pub(crate) fn number(&mut self, col: Col, value: Option<u8>) {
        let Some(value) = value else { return };
        self.hash(col, &[value]);
        match self.columns.get_mut(col as usize) {
            Some(Column::Int8(builder)) => {
                pad!(builder, self.rows);
                builder.append_value(i8::try_from(value).unwrap_or(i8::MAX));
            }
            Some(Column::Int16(builder)) => {
                pad!(builder, self.rows);
                builder.append_value(i16::from(value));
            }
            _ => debug_assert!(false, "{col:?} is not a number"),
        }
    }

    /// Ends the row. `identity` are the parts of its key, joined by a zero byte.
    pub(crate) fn end_row(&mut self, identity: (&str, &str), line: u64) {
        self.digests.push(XxHash3_64::oneshot(&self.content));
        self.keys.push(identity_key(identity, &mut self.content));
        self.content.clear();
        self.lines.push(line);
        self.rows += 1;
    }

    /// Counts an unreadable value of a record that is kept.
    pub(crate) fn warn_field(&mut self, col: Col) {
        *self.warnings.fields.entry(col.name()).or_default() += 1;
    }

    pub(crate) fn warn_type(&mut self, name: &str) {
        self.warnings.unknown_type(name, 1);
    }

    pub(crate) fn finish(self, rejects: Vec<Reject>, read: u64, bytes: u64) -> Result<Parsed, ArrowError> {
        let rows = self.rows;
        if rows >= TELLING_ROWS {
            note_usual_bytes(&self.columns, rows);
        }
        let schema = schema::input_schema();
        let arrays = self.columns.into_iter().zip(schema.fields());
        let arrays = arrays.map(|(column, field)| column.finish(field.data_type(), rows)).collect::<Result<_, _>>()?;
        let batch = RecordBatch::try_new(Arc::clone(&schema), arrays)?;
        let BatchBuilder { keys, digests, lines, warnings, .. } = self;
        Ok(Parsed { batch, keys, digests, lines, rejects, warnings, read, bytes })
    }

    /// Counts text as content without setting a column.
    pub(crate) fn count_as_content(&mut self, col: Col, text: &str) {
        self.hash(col, text.as_bytes());
    }

    /// Length-prefixed, so that no two rows with different content hash the same bytes.
    fn hash(&mut self, col: Col, content: &[u8]) {
        // The column and the length in one word: lengths fit 56 bits.
        self.content.extend_from_slice(&((content.len() as u64) << 8 | col as u64).to_le_bytes());
        self.content.extend_from_slice(content);
    }
}

/// A batch of fewer rows says little of how long texts usually are.
const TELLING_ROWS: usize = 256;

thread_local! {
    /// For each column the length of its texts in the last batch that this thread built, for 1,024 rows: what the next one
    /// will need, so that buffers do not grow by doubling.
    static USUAL_BYTES: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

fn usual_bytes(col: Col, rows: usize) -> usize {
    let per_1024 = USUAL_BYTES.with_borrow(|usual| usual.get(col as usize).copied().unwrap_or_default());
    // A little more, since batches differ.
    per_1024 * rows / 1_024 * 9 / 8
}

fn note_usual_bytes(columns: &[Column], rows: usize) {
    USUAL_BYTES.with_borrow_mut(|usual| {
        usual.clear();
        usual.extend(columns.iter().map(|column| {
            let bytes = match column {
                Column::Text(builder) => builder.values_slice().len(),
                Column::List(builder) => builder.values_ref().values_slice().len(),
                _ => 0,
            };
            bytes * 1_024 / rows
        }));
    });
}

#[derive(Debug)]
enum Column {
    Text(StringBuilder),
    Dictionary(DictionaryColumn),
    Time(TimestampMicrosecondBuilder),
    List(Box<ListBuilder<StringBuilder>>),
    Boolean(BooleanBuilder),
    Int8(Int8Builder),
    Int16(Int16Builder),
    Uuid(FixedSizeBinaryBuilder),
}

impl Column {
    fn new(data_type: &DataType) -> Self {
        match data_type {
            DataType::Dictionary(..) => Column::Dictionary(DictionaryColumn::default()),
            DataType::Timestamp(..) => {
                Column::Time(TimestampMicrosecondBuilder::with_capacity(0).with_data_type(data_type.clone()))
            }
            DataType::List(_) => Column::List(Box::new(ListBuilder::new(StringBuilder::with_capacity(0, 0)))),
            DataType::Boolean => Column::Boolean(BooleanBuilder::with_capacity(0)),
            DataType::Int8 => Column::Int8(Int8Builder::with_capacity(0)),
            DataType::Int16 => Column::Int16(Int16Builder::with_capacity(0)),
            DataType::FixedSizeBinary(width) => Column::Uuid(FixedSizeBinaryBuilder::with_capacity(0, *width)),
            _ => Column::Text(StringBuilder::with_capacity(0, 0)),
        }
    }

    fn finish(self, data_type: &DataType, rows: usize) -> Result<ArrayRef, ArrowError> {
        macro_rules! padded {
            ($builder:ident) => {{
                let mut builder = $builder;
                if builder.is_empty() {
                    return Ok(new_null_array(data_type, rows));
                }
                pad!(builder, rows);
                Arc::new(builder.finish()) as ArrayRef
            }};
        }
        Ok(match self {
            Column::Text(builder) => padded!(builder),
            Column::Time(builder) => padded!(builder),
            Column::List(builder) => padded!(builder),
            Column::Boolean(builder) => padded!(builder),
            Column::Int8(builder) => padded!(builder),
            Column::Int16(builder) => padded!(builder),
            Column::Uuid(builder) => padded!(builder),
            Column::Dictionary(builder) => builder.finish(rows)?,
        })
    }
}

/// Dictionary-encoded text of few values. The usual repeat of the value before costs one comparison.
#[derive(Debug, Default)]
struct DictionaryColumn {
    /// −1 is null.
    keys: Vec<i32>,
    values: Vec<Box<str>>,
    index: HashMap<Box<str>, i32>,
    last: i32,
}

/// Up to here values are found by comparing, not by hashing.
const FEW_VALUES: usize = 8;

impl DictionaryColumn {
    fn append(&mut self, row: usize, text: &str) {
        self.keys.resize(row, -1);
        let is_last = self.values.get(self.last as usize).is_some_and(|value| **value == *text);
        if !is_last {
            self.last = self.find(text);
        }
        self.keys.push(self.last);
    }

    fn find(&mut self, text: &str) -> i32 {
        let few = self.values.iter().take(FEW_VALUES);
        if let Some(found) = few.into_iter().position(|value| **value == *text) {
            return found as i32;
        }
        if let Some(&found) = self.index.get(text) {
            return found;
        }
        let key = self.values.len() as i32;
        if self.values.len() >= FEW_VALUES {
            self.index.insert(text.into(), key);
        }
        self.values.push(text.into());
        key
    }

    fn finish(mut self, rows: usize) -> Result<ArrayRef, ArrowError> {
        if self.keys.is_empty() {
            return Ok(new_null_array(&schema::dictionary_type(), rows));
        }
        self.keys.resize(rows, -1);
        let nulls = NullBuffer::from_iter(self.keys.iter().map(|key| *key >= 0));
        let nulls = (nulls.null_count() > 0).then_some(nulls);
        self.keys.iter_mut().for_each(|key| *key = (*key).max(0));
        let keys = Int32Array::try_new(ScalarBuffer::from(self.keys), nulls)?;
        let values = StringArray::from_iter_values(self.values);
        Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(keys, Arc::new(values))?))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;

    use super::*;

    #[test]
    fn columns_are_named_in_schema_order() {
        let names: Vec<&str> = Col::ALL.iter().map(|col| col.name()).collect();
        let schema = schema::input_schema();
        assert_eq!(names, schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>());
    }

    fn row(builder: &mut BatchBuilder, value: &str, fill: impl FnOnce(&mut BatchBuilder)) {
        builder.text(Col::Kind, "indicator");
        builder.uuid(Col::Id, &[7; 16]);
        builder.text(Col::Value, value);
        fill(builder);
        builder.end_row(("IP", value), 1);
    }

    #[test]
    fn columns_not_set_are_null_and_rows_stay_aligned() {
        let mut builder = BatchBuilder::new(0, 0);
        let mut tags = TextList::default();
        row(&mut builder, "a", |_| {});
        for tag in ["x", " x", "", "y"] {
            tags.push(tag);
        }
        row(&mut builder, "b", |b| {
            b.list(Col::Tags, &tags);
            b.number(Col::Score, Some(3));
            b.boolean(Col::Revoked, Some(true));
            b.time(Col::Created, Some(Timestamp(5)));
        });
        row(&mut builder, "c", |b| b.text(Col::Tlp, "red"));
        let parsed = builder.finish(Vec::new(), 3, 30).unwrap();
        let batch = &parsed.batch;
        assert_eq!(batch.num_rows(), 3);
        let nulls = |name: &str| {
            let array = batch.column_by_name(name).unwrap();
            (0..3).map(|row| array.is_null(row)).collect::<Vec<_>>()
        };
        for name in [column::TAGS, column::SCORE, column::REVOKED, column::CREATED] {
            assert_eq!(nulls(name), [true, false, true], "{name}");
        }
        assert_eq!(nulls(column::TLP), [true, true, false]);
        assert_eq!(nulls(column::DOCUMENT), [true, true, true]);
        let tags = batch.column_by_name(column::TAGS).unwrap().as_list::<i32>().value(1);
        assert_eq!(tags.as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(parsed.keys.len(), 3);
        assert_ne!(parsed.keys[0], parsed.keys[1]);
    }

    #[test]
    fn dictionaries_keep_many_values_apart() {
        let mut builder = BatchBuilder::new(0, 0);
        for value in 0..100 {
            row(&mut builder, "v", |b| b.text(Col::Type, &format!("type {}", value % 37)));
        }
        let parsed = builder.finish(Vec::new(), 0, 0).unwrap();
        let types = parsed.batch.column_by_name(column::TYPE).unwrap().as_dictionary::<Int32Type>();
        assert_eq!(types.values().len(), 37);
        let values = types.downcast_dict::<StringArray>().unwrap();
        for (row, text) in values.into_iter().enumerate() {
            assert_eq!(text, Some(format!("type {}", row % 37)).as_deref());
        }
    }

    #[test]
    fn the_digest_tells_content_apart_and_ignores_what_is_aside() {
        let digest = |fill: &dyn Fn(&mut BatchBuilder)| {
            let mut builder = BatchBuilder::new(0, 0);
            row(&mut builder, "v", |b| fill(b));
            builder.finish(Vec::new(), 0, 0).unwrap().digests[0]
        };
        let plain = digest(&|_| {});
        assert_eq!(plain, digest(&|b| b.text_aside(Col::Document, "{}")));
        assert_ne!(plain, digest(&|b| b.text(Col::Description, "d")));
        assert_ne!(digest(&|b| b.text(Col::Subject, "d")), digest(&|b| b.text(Col::Issuer, "d")));
    }

    #[test]
    fn unknown_types_are_bounded() {
        let mut warnings = Warnings::default();
        for number in 0..2 * MAX_UNKNOWN_TYPES {
            warnings.unknown_type(&format!("t{number}"), 1);
        }
        assert_eq!(warnings.unknown_types.len(), MAX_UNKNOWN_TYPES + 1);
        assert_eq!(warnings.unknown_types[OTHER_TYPES], MAX_UNKNOWN_TYPES as u64);
    }
}
