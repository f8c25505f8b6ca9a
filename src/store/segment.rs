//! A segment: one Parquet file, rows sorted by `added`, written once and never changed.
//!
//! Layout, measured rather than guessed: data pages of 1,024 rows, so that a page of results decodes little more than
//! itself; row groups of 131,072; no dictionary where values hardly repeat (timestamps delta-packed, texts plain) or are so long
//! that reading the dictionary would cost more than the page; no statistics on the long texts; bloom filters on value and id; LZ4.
//!
//! Every byte that is read was checked: the index holds a checksum per column chunk and one for the tail (footer, page index, bloom
//! filters), and a chunk is verified when it is first touched. Parquet's own page checksums are not written by the library.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryArray, RecordBatch, RecordBatchOptions, StringArray,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{FieldRef, Int32Type, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelector,
};
use parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, InMemoryPageStore, PageKey, PageStore,
    PageStoreArgs, PageStoreFactory, compute_leaves,
};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, Encoding};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, IntoParallelRefMutIterator, ParallelIterator};
use twox_hash::XxHash3_64;

use super::commit::NewRows;
use super::error::StoreError;
use super::fs::{FileSink, ReadAt, Storage};
use super::index::{self, KeyEntry, SegmentIndex};
use super::manifest::SegmentMeta;
use crate::model::kind::StixType;
use crate::model::schema::{self, column};
use crate::model::time::Timestamp;

/// Rows of a row group.
pub const ROW_GROUP_ROWS: usize = 131_072;
/// A row group that would be longer than about this is written with fewer rows.
pub(crate) const ROW_GROUP_BYTES: usize = 256 << 20;
/// Files up to this size are read back in one piece.
const WHOLE_BYTES: u64 = 4 << 20;
/// Rows of a data page.
pub const PAGE_ROWS: usize = 1_024;
/// Most rows of a fresh segment: at one microsecond each, a second of the clock.
pub const SEGMENT_ROWS: usize = 1_000_000;

/// Properties of a file whose first row group has so many rows.
fn writer_properties(rows: usize) -> WriterProperties {
    use column as c;
    let mut properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_compression(Compression::LZ4_RAW)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(PAGE_ROWS)
        .set_data_page_size_limit(4 << 20)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_created_by(concat!("taxiway ", env!("CARGO_PKG_VERSION")).to_owned());
    for name in [c::ADDED, c::CREATED, c::MODIFIED, c::SOURCE_MODIFIED, c::FIRST_SEEN, c::LAST_SEEN, c::EXPIRATION] {
        let path = ColumnPath::from(name);
        properties = properties
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
    }
    for name in [
        c::ID,
        c::INDICATOR_ID,
        c::STIX_ID,
        c::SOURCE_INDICATOR_ID,
        c::TARGET_INDICATOR_ID,
        c::SOURCE_STIX_ID,
        c::TARGET_STIX_ID,
        c::VALUE,
        c::MD5,
        c::SHA1,
        c::SHA256,
        c::SHA512,
        c::SSDEEP,
        c::CUSTOM,
        c::DESCRIPTION,
        c::DOCUMENT,
    ] {
        let path = ColumnPath::from(name);
        properties =
            properties.set_column_dictionary_enabled(path.clone(), false).set_column_encoding(path, Encoding::PLAIN);
    }
    for name in
        [c::CUSTOM, c::DOCUMENT, c::DESCRIPTION, c::INDICATOR_ID, c::SOURCE_INDICATOR_ID, c::TARGET_INDICATOR_ID]
    {
        properties = properties.set_column_statistics_enabled(ColumnPath::from(name), EnabledStatistics::None);
    }
    // Hashes are as good as random: nothing is gained by trying.
    for name in [c::ID, c::INDICATOR_ID, c::SOURCE_INDICATOR_ID, c::TARGET_INDICATOR_ID] {
        properties = properties.set_column_compression(ColumnPath::from(name), Compression::UNCOMPRESSED);
    }
    // What a single page holds is found by reading it.
    let filtered: &[&str] = if rows > PAGE_ROWS { &[c::VALUE, c::ID] } else { &[] };
    for name in filtered {
        let path = ColumnPath::from(*name);
        properties = properties
            .set_column_bloom_filter_enabled(path.clone(), true)
            .set_column_bloom_filter_max_ndv(path.clone(), ROW_GROUP_ROWS as u64)
            .set_column_bloom_filter_fpp(path, 0.02);
    }
    properties.build()
}

/// Keeps the pages of a row group that is open, each in as much memory as it needs: as it comes from compression, a page has as much as
/// it had before, three times that for documents.
#[derive(Debug, Default)]
struct TrimmedPages(InMemoryPageStore);

impl PageStore for TrimmedPages {
    fn put(&mut self, page: Bytes) -> Result<PageKey, ParquetError> {
        self.0.put(Bytes::copy_from_slice(&page))
    }

    fn take(&mut self, key: PageKey) -> Result<Bytes, ParquetError> {
        self.0.take(key)
    }

    fn memory_size(&self) -> usize {
        self.0.memory_size()
    }
}

/// Makes [`TrimmedPages`].
#[derive(Debug)]
struct TrimPages;

impl PageStoreFactory for TrimPages {
    fn create(&self, _: &PageStoreArgs<'_>) -> Result<Box<dyn PageStore>, ParquetError> {
        Ok(Box::new(TrimmedPages::default()))
    }
}

/// Counts and hashes what passes through.
struct Tally {
    sink: Box<dyn FileSink>,
    bytes: u64,
    hash: XxHash3_64,
}

impl Write for Tally {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.sink.write(bytes)?;
        self.hash_part(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

impl Tally {
    fn hash_part(&mut self, bytes: &[u8]) {
        use std::hash::Hasher;
        self.hash.write(bytes);
        self.bytes += bytes.len() as u64;
    }
}

/// Writes one segment. Rows come in order; their `added` is given by the caller.
pub(crate) struct SegmentWriter {
    id: String,
    storage: Arc<dyn Storage>,
    writer: SerializedFileWriter<Tally>,
    factory: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    /// The columns of the row group that is open, but for the first one.
    columns: Vec<ArrowColumnWriter>,
    /// Its first column, which comes last.
    added: Option<ArrowColumnWriter>,
    rows: usize,
    row_groups: usize,
    keys: Vec<KeyEntry>,
    ids: Vec<(u64, u32)>,
    ends: Ends,
    types: BTreeMap<String, u64>,
    natives: u64,
    definitions: Vec<u32>,
    posted: BTreeMap<String, u64>,
    first: Option<i64>,
    last: i64,
}

/// Where the ends come from that edges are filed under.
#[derive(Debug)]
enum Ends {
    /// From the columns that hold the ids of both.
    OfColumns(Vec<(u64, u32)>),
    /// From the caller: edges that wait are filed under the ends they miss.
    Given(Vec<(u64, u32)>),
}

impl SegmentWriter {
    /// A segment of the log, whose first row group has so many rows.
    pub(crate) fn create(storage: &Arc<dyn Storage>, rows: usize) -> Result<Self, StoreError> {
        Self::with_ends(storage, rows, schema::schema(), Ends::OfColumns(Vec::new()))
    }

    /// A segment of edges that wait.
    pub(crate) fn create_waiting(storage: &Arc<dyn Storage>, rows: usize) -> Result<Self, StoreError> {
        Self::with_ends(storage, rows, schema::schema(), Ends::Given(Vec::new()))
    }

    /// Files edges that wait under the keys of what each row waits for.
    pub(crate) fn file_ends(&mut self, filed: Vec<(u64, u32)>) {
        if let Ends::Given(ends) = &mut self.ends {
            ends.extend(filed);
        }
    }

    /// A segment with fewer columns, as an earlier version wrote it.
    #[cfg(test)]
    pub(crate) fn create_with_schema(storage: &Arc<dyn Storage>, schema: SchemaRef) -> Result<Self, StoreError> {
        Self::with_ends(storage, ROW_GROUP_ROWS, schema, Ends::OfColumns(Vec::new()))
    }

    fn with_ends(storage: &Arc<dyn Storage>, rows: usize, schema: SchemaRef, ends: Ends) -> Result<Self, StoreError> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let path = data_path(&id);
        let tally = Tally { sink: storage.create(&path)?, bytes: 0, hash: XxHash3_64::new() };
        let parquet = parquet_error("write", storage.describe(&path));
        let (writer, factory) = ArrowWriter::try_new(tally, Arc::clone(&schema), Some(writer_properties(rows)))
            .and_then(ArrowWriter::into_serialized_writer)
            .map_err(parquet)?;
        let factory = factory.with_page_store_factory(Arc::new(TrimPages));
        Ok(SegmentWriter {
            id,
            storage: Arc::clone(storage),
            writer,
            factory,
            schema,
            columns: Vec::new(),
            added: None,
            rows: 0,
            row_groups: 0,
            keys: Vec::new(),
            ids: Vec::new(),
            ends,
            types: BTreeMap::new(),
            natives: 0,
            definitions: Vec::new(),
            posted: BTreeMap::new(),
            first: None,
            last: i64::MIN,
        })
    }

    fn error(&self, action: &'static str) -> impl FnOnce(ParquetError) -> StoreError + use<> {
        parquet_error(action, self.storage.describe(&data_path(&self.id)))
    }

    /// Writes one row group: `batch` in the full schema, at most [`ROW_GROUP_ROWS`] rows, with identity keys and digests.
    pub(crate) fn write_row_group(
        &mut self,
        batch: &RecordBatch,
        keys: &[u64],
        digests: &[u64],
    ) -> Result<(), StoreError> {
        let Some((added, columns)) = batch.columns().split_first() else { return Ok(()) };
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.note(batch, keys, digests);
        self.write_columns(&[columns])?;
        self.end_row_group(added)
    }

    /// Writes rows of all columns but `added` into the row group that is open, or begins one. They are encoded at once, so that nobody
    /// holds a row group of plain rows. Pages end every [`PAGE_ROWS`] rows as long as each call but the last one of a row group
    /// brings whole pages.
    pub(crate) fn write_rows(&mut self, parts: &[NewRows]) -> Result<(), StoreError> {
        for part in parts {
            self.note(&part.batch, &part.keys, &part.digests);
        }
        self.write_columns(&parts.iter().map(|part| part.batch.columns()).collect::<Vec<_>>())
    }

    fn write_columns(&mut self, parts: &[&[ArrayRef]]) -> Result<(), StoreError> {
        if self.added.is_none() {
            let mut writers =
                self.factory.create_column_writers(self.row_groups).map_err(self.error("write"))?.into_iter();
            self.added = writers.next();
            self.columns = writers.collect();
        }
        let error = self.error("write");
        let fields = self.schema.fields().get(1..).unwrap_or_default();
        // One leaf a column (lists have one as well), so columns and writers pair up. From the end, where the longest columns are, and
        // each by itself: else one thread gets them all.
        let written = self.columns.par_iter_mut().zip(fields).enumerate().rev().with_max_len(1).try_for_each(
            |(column, (writer, field))| {
                for array in parts.iter().filter_map(|part| part.get(column)) {
                    for leaf in compute_leaves(field, array)? {
                        writer.write(&leaf)?;
                    }
                }
                Ok::<(), ParquetError>(())
            },
        );
        written.map_err(error)
    }

    /// Ends the row group that is open, whose rows were added at these instants.
    pub(crate) fn end_row_group(&mut self, added: &ArrayRef) -> Result<(), StoreError> {
        let Some(mut first) = self.added.take() else { return Ok(()) };
        let error = self.error("write");
        let field = self.schema.field(0);
        let columns = std::mem::take(&mut self.columns);
        let write = || -> Result<(), ParquetError> {
            for leaf in compute_leaves(field, added)? {
                first.write(&leaf)?;
            }
            let chunks = columns.into_par_iter().with_max_len(1).map(ArrowColumnWriter::close);
            let chunks: Vec<ArrowColumnChunk> = chunks.collect::<Result<_, ParquetError>>()?;
            let mut group = self.writer.next_row_group()?;
            first.close()?.append_to_row_group(&mut group)?;
            for chunk in chunks {
                chunk.append_to_row_group(&mut group)?;
            }
            group.close().map(|_| ())
        };
        write().map_err(error)?;
        self.row_groups += 1;
        let added = added.as_primitive::<TimestampMicrosecondType>();
        if let (Some(first), Some(last)) = (added.values().first(), added.values().last()) {
            self.first.get_or_insert(*first);
            self.last = *last;
        }
        Ok(())
    }

    fn note(&mut self, batch: &RecordBatch, keys: &[u64], digests: &[u64]) {
        let base = self.rows as u32;
        self.rows += batch.num_rows();
        self.keys.extend(keys.iter().zip(digests).enumerate().map(|(row, (key, digest))| KeyEntry {
            key: *key,
            row: base + row as u32,
            digest: *digest,
        }));
        collect_ids(batch, base, &mut self.ids);
        if let Ends::OfColumns(ends) = &mut self.ends {
            collect_ends(batch, base, ends);
        }
        count_names(batch, column::STIX_TYPE, &mut self.types);
        let mut kinds = BTreeMap::new();
        count_names(batch, column::KIND, &mut kinds);
        kinds.remove(schema::kind_value::INDICATOR);
        if kinds.remove(schema::kind_value::DEFINITION).is_some() {
            self.definitions.extend(rows_of_kind(batch, schema::kind_value::DEFINITION).map(|row| base + row));
        }
        self.natives += kinds.values().sum::<u64>();
        count_posted(batch, &mut self.posted);
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Completes file and index; `None` (and no files) when no row was written. Publication makes them durable.
    pub(crate) fn finish(self) -> Result<Option<SegmentMeta>, StoreError> {
        let path = data_path(&self.id);
        if self.rows == 0 {
            drop(self.writer);
            self.storage.delete(&path)?;
            return Ok(None);
        }
        let error = self.error("write");
        let Tally { sink, bytes, hash } = self.writer.into_inner().map_err(error)?;
        sink.finish()?;
        let checksum = std::hash::Hasher::finish(&hash);
        let file = self.storage.open(&path, bytes)?;
        let raw = RawFile { handle: Arc::clone(&file), bytes };
        let metadata = ArrowReaderMetadata::load(&raw, ArrowReaderOptions::new())
            .map_err(parquet_error("read back", self.storage.describe(&path)))?;
        let ranges = chunk_ranges(metadata.metadata(), bytes);
        let sums = if bytes <= WHOLE_BYTES {
            // One read instead of one a column.
            file.read_at(0..bytes).map(|whole| {
                let chunk = |range: Range<u64>| whole.get(range.start as usize..range.end as usize);
                ranges.into_iter().map(|range| XxHash3_64::oneshot(chunk(range).unwrap_or_default())).collect()
            })
        } else {
            ranges
                .into_par_iter()
                .map(|range| file.read_at(range).map(|chunk| XxHash3_64::oneshot(&chunk)))
                .collect::<io::Result<Vec<u64>>>()
        };
        let sums = sums.map_err(StoreError::io("read", self.storage.describe(&path)))?;
        // Where the tail begins, so that it can be checked before anything in it is believed.
        let mut guards = sums;
        guards.push(tail_of(metadata.metadata()));
        let (Ends::OfColumns(ends) | Ends::Given(ends)) = self.ends;
        let encoded = index::encode(self.keys, self.ids, ends, &guards);
        let index_path = index_path(&self.id);
        let mut sink = self.storage.create(&index_path)?;
        sink.write_all(&encoded).map_err(StoreError::io("write", self.storage.describe(&index_path)))?;
        sink.finish()?;
        Ok(Some(SegmentMeta {
            id: self.id,
            schema: schema::SCHEMA_VERSION,
            rows: self.rows as u64,
            bytes,
            checksum: format!("{checksum:016x}"),
            index_bytes: encoded.len() as u64,
            index_checksum: format!("{:016x}", XxHash3_64::oneshot(&encoded)),
            first_added: self.first.unwrap_or_default(),
            last_added: self.last,
            types: self.types,
            natives: self.natives,
            definitions: self.definitions,
            posted: self.posted,
            superseded: None,
            deleted: None,
        }))
    }
}

fn parquet_error(action: &'static str, path: String) -> impl FnOnce(ParquetError) -> StoreError {
    move |source| match source {
        // A full disk or a lost permission should read as what it is.
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(source) => StoreError::Io { action, path, source: *source },
            Err(inner) => StoreError::Parquet { action, path, source: ParquetError::External(inner) },
        },
        source => StoreError::Parquet { action, path, source },
    }
}

/// File of a segment's rows.
pub(crate) fn data_path(id: &str) -> String {
    format!("segments/{id}.parquet")
}

/// File of a segment's index.
pub(crate) fn index_path(id: &str) -> String {
    format!("segments/{id}.idx")
}

/// The byte ranges that checksums guard: every column chunk in order, then everything behind the last one.
fn chunk_ranges(metadata: &ParquetMetaData, bytes: u64) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for group in metadata.row_groups() {
        for chunk in group.columns() {
            let (start, length) = chunk.byte_range();
            ranges.push(start..start + length);
        }
    }
    if let Some(first) = ranges.first_mut() {
        // The magic bytes in front belong to somebody as well.
        first.start = 0;
    }
    ranges.push(tail_of(metadata)..bytes);
    ranges
}

/// Where the last column chunk ends.
fn tail_of(metadata: &ParquetMetaData) -> u64 {
    let chunks = metadata.row_groups().iter().flat_map(|group| group.columns());
    chunks.map(|chunk| chunk.byte_range()).map(|(start, length)| start + length).max().unwrap_or(0)
}

/// Appends `(id key, row)` of every id a row can be asked by.
pub(crate) fn collect_ids(batch: &RecordBatch, base: u32, out: &mut Vec<(u64, u32)>) {
    let uuids =
        |name: &str| batch.column_by_name(name).and_then(|array| array.as_any().downcast_ref::<FixedSizeBinaryArray>());
    let whole = batch.column_by_name(column::STIX_ID).and_then(|array| array.as_any().downcast_ref::<StringArray>());
    let mut push = |row: usize, uuid: &[u8]| {
        if let Ok(uuid) = <&[u8; 16]>::try_from(uuid) {
            out.push((index::uuid_key(uuid), base + row as u32));
        }
    };
    let (ids, indicator_ids) = (uuids(column::ID), uuids(column::INDICATOR_ID));
    for row in 0..batch.num_rows() {
        if let Some(ids) = ids {
            push(row, ids.value(row));
        }
        if let Some(ids) = indicator_ids.filter(|ids| ids.is_valid(row)) {
            push(row, ids.value(row));
        }
    }
    if let Some(whole) = whole.filter(|whole| whole.null_count() < whole.len()) {
        for row in (0..whole.len()).filter(|row| whole.is_valid(*row)) {
            out.push((index::id_key(whole.value(row)), base + row as u32));
        }
    }
}

/// Appends `(id key, row)` of both ends of every edge. What lies in an inbox is none, whatever it says.
pub(crate) fn collect_ends(batch: &RecordBatch, base: u32, out: &mut Vec<(u64, u32)>) {
    let texts = |name: &str| batch.column_by_name(name).and_then(|array| array.as_string_opt::<i32>());
    let inboxes = texts(column::INBOX);
    for name in [column::SOURCE_REF, column::TARGET_REF] {
        let Some(refs) = texts(name).filter(|refs| refs.null_count() < refs.len()) else { continue };
        let is_edge = |row: &usize| refs.is_valid(*row) && inboxes.is_none_or(|inboxes| inboxes.is_null(*row));
        for row in (0..refs.len()).filter(is_edge) {
            out.push((index::id_key(refs.value(row)), base + row as u32));
        }
    }
}

/// Adds up the rows of inboxes by the version of STIX they are written in.
fn count_posted(batch: &RecordBatch, counts: &mut BTreeMap<String, u64>) {
    let inboxes = batch.column_by_name(column::INBOX).and_then(|array| array.as_string_opt::<i32>());
    let Some(inboxes) = inboxes.filter(|inboxes| inboxes.null_count() < inboxes.len()) else { return };
    let versions = batch.column_by_name(column::SPEC_VERSION).and_then(|array| array.as_dictionary_opt::<Int32Type>());
    let versions = versions.and_then(|versions| versions.downcast_dict::<StringArray>());
    for row in (0..inboxes.len()).filter(|row| inboxes.is_valid(*row)) {
        let version = versions.filter(|versions| versions.is_valid(row));
        let version = version.map_or("", |versions| versions.values().value(versions.keys().value(row) as usize));
        match counts.get_mut(version) {
            Some(count) => *count += 1,
            None => {
                counts.insert(version.to_owned(), 1);
            }
        }
    }
}

fn rows_of_kind(batch: &RecordBatch, wanted: &str) -> impl Iterator<Item = u32> {
    let kinds = batch.column_by_name(column::KIND).and_then(|array| array.as_dictionary_opt::<Int32Type>());
    let kinds = kinds.and_then(|kinds| kinds.downcast_dict::<StringArray>());
    let rows = kinds.into_iter().flat_map(|kinds| (0..kinds.len() as u32).map(move |row| (row, kinds)));
    rows.filter(move |(row, kinds)| {
        let key = kinds.keys().value(*row as usize) as usize;
        kinds.is_valid(*row as usize) && kinds.values().value(key) == wanted
    })
    .map(|(row, _)| row)
}

pub(crate) fn count_names(batch: &RecordBatch, column: &str, counts: &mut BTreeMap<String, u64>) {
    let Some(types) = batch.column_by_name(column).and_then(|array| array.as_dictionary_opt::<Int32Type>()) else {
        return;
    };
    let Some(names) = types.values().as_string_opt::<i32>() else { return };
    let mut by_key = vec![0u64; names.len()];
    let mut none = 0;
    for key in types.keys() {
        match key.and_then(|key| by_key.get_mut(key as usize)) {
            Some(count) => *count += 1,
            None => none += 1,
        }
    }
    for (name, count) in names.iter().zip(by_key).filter(|(_, count)| *count > 0) {
        *counts.entry(name.unwrap_or_default().to_owned()).or_default() += count;
    }
    if none > 0 {
        *counts.entry(String::new()).or_default() += none;
    }
}

/// A segment as readers see it: opened on first use, shared by all snapshots that hold it.
#[derive(Debug)]
pub struct Segment {
    meta: SegmentMeta,
    storage: Arc<dyn Storage>,
    opened: Arc<Opened>,
}

/// What is read of the files, shared by all versions of the store that name the segment.
#[derive(Debug)]
struct Opened {
    reader: OnceLock<Arc<SegmentFile>>,
    opening: Mutex<()>,
    added_pages: Mutex<lru::LruCache<u32, Arc<Vec<i64>>>>,
    /// Ends of edges, sorted, where the index files none.
    ends: OnceLock<Vec<(u64, u32)>>,
}

impl Segment {
    pub(crate) fn new(meta: SegmentMeta, storage: Arc<dyn Storage>) -> Self {
        let pages = std::num::NonZeroUsize::MIN.saturating_add(15);
        let opened = Opened {
            reader: OnceLock::new(),
            opening: Mutex::new(()),
            added_pages: Mutex::new(lru::LruCache::new(pages)),
            ends: OnceLock::new(),
        };
        Segment { meta, storage, opened: Arc::new(opened) }
    }

    /// The same files as another version of the store describes them.
    pub(crate) fn with_meta(&self, meta: SegmentMeta) -> Self {
        Segment { meta, storage: Arc::clone(&self.storage), opened: Arc::clone(&self.opened) }
    }

    /// Its name, unique in the store and for ever.
    pub fn id(&self) -> &str {
        &self.meta.id
    }

    /// What the manifest says of it.
    pub fn meta(&self) -> &SegmentMeta {
        &self.meta
    }

    /// Number of rows, superseded ones included.
    pub fn rows(&self) -> u32 {
        self.meta.rows as u32
    }

    pub(crate) fn describe(&self) -> String {
        self.storage.describe(&data_path(&self.meta.id))
    }

    pub(crate) fn file(&self) -> Result<Arc<SegmentFile>, StoreError> {
        if let Some(reader) = self.opened.reader.get() {
            return Ok(Arc::clone(reader));
        }
        let _one_opener = self.opened.opening.lock();
        if let Some(reader) = self.opened.reader.get() {
            return Ok(Arc::clone(reader));
        }
        let reader = Arc::new(SegmentFile::open(&self.meta, &self.storage)?);
        Ok(Arc::clone(self.opened.reader.get_or_init(|| reader)))
    }

    /// Starts of the row groups, and the number of rows at the end.
    pub fn row_group_starts(&self) -> Result<Arc<[u32]>, StoreError> {
        Ok(Arc::clone(&self.file()?.starts))
    }

    /// Reads the rows of `ranges` (ascending, not overlapping), only the named columns (in schema order), in batches. Columns that
    /// are younger than the segment are null.
    pub fn read(
        &self,
        ranges: &[Range<u32>],
        columns: &[&str],
        batch_rows: usize,
    ) -> Result<SegmentBatches, StoreError> {
        let file = self.file()?;
        let reader = file.reader(ranges, columns, batch_rows);
        let reader = reader.map_err(|error| parquet_error("read", file.path.clone())(error))?;
        let missing = file.missing(columns);
        Ok(SegmentBatches { reader, file, missing })
    }

    /// Rows as one batch to be kept; `None` when there are none, or they would take more than `room` bytes, about. So that little is read of what does not fit,
    /// it is read `batch_rows` at a time.
    pub(crate) fn read_within(
        &self,
        ranges: &[Range<u32>],
        columns: &[&str],
        batch_rows: usize,
        room: usize,
    ) -> Result<Option<RecordBatch>, StoreError> {
        let (mut batches, mut bytes) = (Vec::new(), 0);
        for batch in self.read(ranges, columns, batch_rows)? {
            let batch = batch?;
            bytes += batch.get_array_memory_size();
            // What was read has room to spare, which goes when it is joined.
            if bytes / 2 > room {
                return Ok(None);
            }
            batches.push(batch);
        }
        let Some(first) = batches.first() else { return Ok(None) };
        Ok(Some(concat_batches(first.schema_ref(), &batches)?))
    }

    /// Whether there are edges among its rows.
    pub(crate) fn has_edges(&self) -> bool {
        let relationships = self.meta.types.get(StixType::Relationship.as_str());
        // Those in an inbox are plain objects.
        relationships.is_some_and(|rows| *rows > 0) && self.meta.posted_rows() < self.meta.rows
    }

    /// Candidate edges of each end: calls `found(position in ends, row)`. `ends` must be sorted.
    pub(crate) fn find_ends(&self, ends: &[u64], mut found: impl FnMut(usize, u32)) -> Result<(), StoreError> {
        if ends.is_empty() || !self.has_edges() || self.file()?.index.find_ends(ends, &mut found)? {
            return Ok(());
        }
        for (position, end) in ends.iter().enumerate() {
            let filed = self.ends_of_columns()?;
            let first = filed.partition_point(|(key, _)| key < end);
            filed.iter().skip(first).take_while(|(key, _)| key == end).for_each(|(_, row)| found(position, *row));
        }
        Ok(())
    }

    /// What the index of the first version does not hold. Compaction writes one that does.
    fn ends_of_columns(&self) -> Result<&[(u64, u32)], StoreError> {
        if let Some(ends) = self.opened.ends.get() {
            return Ok(ends);
        }
        let (mut ends, mut base) = (Vec::new(), 0);
        let columns = [column::SOURCE_REF, column::TARGET_REF, column::INBOX];
        for batch in self.read(std::slice::from_ref(&(0..self.rows())), &columns, 8_192)? {
            let batch = batch?;
            collect_ends(&batch, base, &mut ends);
            base += batch.num_rows() as u32;
        }
        ends.sort_unstable();
        ends.dedup();
        Ok(self.opened.ends.get_or_init(|| ends))
    }

    /// Identity keys of the rows that `wanted` names, in key order.
    pub(crate) fn keys_where(&self, wanted: impl Fn(u32) -> bool) -> Result<Vec<u64>, StoreError> {
        let file = self.file()?;
        let keys = file.index.entries()?.filter(|entry| wanted(entry.row)).map(|entry| entry.key).collect();
        Ok(keys)
    }

    /// `added` of one row.
    pub fn added(&self, row: u32) -> Result<Timestamp, StoreError> {
        if row == 0 {
            return Ok(Timestamp(self.meta.first_added));
        }
        if row + 1 == self.rows() {
            return Ok(Timestamp(self.meta.last_added));
        }
        let page = row / PAGE_ROWS as u32;
        let values = self.added_page(page)?;
        let value = values.get((row % PAGE_ROWS as u32) as usize);
        value
            .map(|value| Timestamp(*value))
            .ok_or_else(|| StoreError::damaged(self.describe(), format!("it has no row {row}")))
    }

    /// First row added strictly later than `after`; the number of rows when there is none.
    pub fn first_row_after(&self, after: Timestamp) -> Result<u32, StoreError> {
        if after.0 < self.meta.first_added {
            return Ok(0);
        }
        if after.0 >= self.meta.last_added {
            return Ok(self.rows());
        }
        let file = self.file()?;
        // The last page that starts at or before `after` holds the boundary.
        let page = file.added_page_starts.partition_point(|first| *first <= after.0).saturating_sub(1) as u32;
        let values = self.added_page(page)?;
        Ok(page * PAGE_ROWS as u32 + values.partition_point(|value| *value <= after.0) as u32)
    }

    /// `added` of the rows of one run of [`PAGE_ROWS`] rows.
    fn added_page(&self, page: u32) -> Result<Arc<Vec<i64>>, StoreError> {
        if let Some(values) = self.opened.added_pages.lock().get(&page) {
            return Ok(Arc::clone(values));
        }
        let start = page * PAGE_ROWS as u32;
        let end = (start + PAGE_ROWS as u32).min(self.rows());
        let mut values = Vec::with_capacity(PAGE_ROWS);
        for batch in self.read(std::slice::from_ref(&(start..end)), &[column::ADDED], PAGE_ROWS)? {
            let batch = batch?;
            values.extend_from_slice(batch.column(0).as_primitive::<TimestampMicrosecondType>().values());
        }
        let values = Arc::new(values);
        self.opened.added_pages.lock().put(page, Arc::clone(&values));
        Ok(values)
    }

    /// Reads every byte against its checksum and every row against the order. What edges of a segment that `waits` miss is known to
    /// its index alone.
    pub(crate) fn verify(&self, waits: bool) -> Result<(), StoreError> {
        let path = self.describe();
        let file = self.file()?;
        let whole = file.handle.whole().map_err(StoreError::io("read", &path))?;
        if format!("{:016x}", XxHash3_64::oneshot(&whole)) != self.meta.checksum {
            for chunk in 0..file.chunks.len() {
                file.verify_chunk(chunk).map_err(|error| StoreError::damaged(&path, error.to_string()))?;
            }
            return Err(StoreError::damaged(&path, "its checksum does not fit"));
        }
        let described = self.storage.describe(&index_path(&self.meta.id));
        if format!("{:016x}", XxHash3_64::oneshot(file.index.whole())) != self.meta.index_checksum {
            return Err(StoreError::damaged(described, "its checksum does not fit"));
        }
        file.index.verify()?;
        if file.index.key_count() != self.meta.rows as usize {
            return Err(StoreError::damaged(
                described,
                format!("it has {} keys for {} rows", file.index.key_count(), self.meta.rows),
            ));
        }
        let mut previous = i64::MIN;
        let mut rows = 0u64;
        let (mut ids, mut ends) = (Vec::new(), Vec::new());
        let columns = [
            column::ADDED,
            column::ID,
            column::INDICATOR_ID,
            column::STIX_ID,
            column::SOURCE_REF,
            column::TARGET_REF,
            column::INBOX,
        ];
        for batch in self.read(std::slice::from_ref(&(0..self.rows())), &columns, 8_192)? {
            let batch = batch?;
            for value in batch.column(0).as_primitive::<TimestampMicrosecondType>().values() {
                if *value <= previous {
                    return Err(StoreError::damaged(path, format!("row {rows} does not come after the row before it")));
                }
                previous = *value;
            }
            collect_ids(&batch, rows as u32, &mut ids);
            collect_ends(&batch, rows as u32, &mut ends);
            rows += batch.num_rows() as u64;
        }
        for filed in [&mut ids, &mut ends] {
            filed.sort_unstable();
            filed.dedup();
        }
        if rows != self.meta.rows || previous != self.meta.last_added {
            return Err(StoreError::damaged(
                path,
                format!("it has {rows} rows up to {previous}, not what the manifest says"),
            ));
        }
        if ids.len() != file.index.id_count() {
            return Err(StoreError::damaged(
                described,
                format!("it has {} ids instead of {}", file.index.id_count(), ids.len()),
            ));
        }
        let differs = match file.index.end_count() {
            _ if waits => file.index.ends()?.any(|(_, row)| row >= self.rows()),
            Some(_) => !file.index.ends()?.eq(ends),
            None => false,
        };
        if differs {
            return Err(StoreError::damaged(described, "its ends are not those of the edges"));
        }
        Ok(())
    }
}

/// The opened files of a segment, with footer and page index in memory.
pub(crate) struct SegmentFile {
    handle: Arc<dyn ReadAt>,
    bytes: u64,
    path: String,
    metadata: ArrowReaderMetadata,
    pub(crate) index: SegmentIndex,
    starts: Arc<[u32]>,
    /// First `added` of every data page of that column, over all row groups.
    added_page_starts: Vec<i64>,
    chunks: Vec<Range<u64>>,
    sums: Vec<u64>,
    verified: Vec<AtomicU64>,
}

impl std::fmt::Debug for SegmentFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SegmentFile({})", self.path)
    }
}

impl SegmentFile {
    fn open(meta: &SegmentMeta, storage: &Arc<dyn Storage>) -> Result<Self, StoreError> {
        let path = storage.describe(&data_path(&meta.id));
        let handle = storage.open(&data_path(&meta.id), meta.bytes)?;
        let index_file = storage.open(&index_path(&meta.id), meta.index_bytes)?;
        let index = SegmentIndex::open(&index_file, storage.describe(&index_path(&meta.id)))?;
        let mut sums = index.sums();
        let tail_start = sums.pop().unwrap_or_default();
        // The libraries that parse the footer trust it; so it is checked first.
        let tail = handle.read_at(tail_start.min(meta.bytes)..meta.bytes).map_err(StoreError::io("read", &path))?;
        if sums.last() != Some(&XxHash3_64::oneshot(&tail)) {
            return Err(StoreError::damaged(&path, "the checksum of the footer does not fit"));
        }
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
        let raw = RawFile { handle: Arc::clone(&handle), bytes: meta.bytes };
        let metadata = ArrowReaderMetadata::load(&raw, options)
            .map_err(|error| StoreError::damaged(&path, format!("its footer cannot be read: {error}")))?;
        let chunks = chunk_ranges(metadata.metadata(), meta.bytes);
        if sums.len() != chunks.len() {
            return Err(StoreError::damaged(&path, "its footer and its index do not fit together"));
        }
        let mut starts = vec![0u32];
        for group in metadata.metadata().row_groups() {
            starts.push(starts.last().copied().unwrap_or(0) + group.num_rows() as u32);
        }
        let mut file = SegmentFile {
            handle,
            bytes: meta.bytes,
            path,
            metadata,
            index,
            starts: starts.into(),
            added_page_starts: Vec::new(),
            verified: (0..chunks.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            chunks,
            sums,
        };
        file.added_page_starts = file.read_added_page_starts()?;
        Ok(file)
    }

    fn read_added_page_starts(&self) -> Result<Vec<i64>, StoreError> {
        use parquet::file::page_index::column_index::ColumnIndexMetaData;
        let metadata = self.metadata.metadata();
        let mut starts = Vec::new();
        for group in metadata.column_index().into_iter().flatten() {
            if let Some(ColumnIndexMetaData::INT64(index)) = group.first() {
                starts.extend(index.min_values().iter().copied());
            }
        }
        let pages: usize =
            metadata.row_groups().iter().map(|group| (group.num_rows() as usize).div_ceil(PAGE_ROWS)).sum();
        if starts.len() != pages {
            return Err(StoreError::damaged(&self.path, "its page index does not fit its rows"));
        }
        Ok(starts)
    }

    pub(crate) fn parquet_metadata(&self) -> &Arc<ParquetMetaData> {
        self.metadata.metadata()
    }

    /// Columns of the file; those of an earlier version of the program are fewer.
    pub(crate) fn schema(&self) -> &SchemaRef {
        self.metadata.schema()
    }

    /// The file as the library reads it, every byte checked.
    pub(crate) fn reader_of_ranges(self: &Arc<Self>) -> impl ChunkReader + use<> {
        SharedFile(Arc::clone(self))
    }

    /// Bytes of a range, every touched chunk checked once.
    pub(crate) fn read_range(&self, range: Range<u64>) -> io::Result<Bytes> {
        let first = self.chunks.partition_point(|chunk| chunk.end <= range.start);
        for (offset, chunk) in self.chunks[first..].iter().enumerate() {
            if chunk.start >= range.end {
                break;
            }
            self.verify_chunk(first + offset).map_err(io::Error::other)?;
        }
        self.handle.read_at(range)
    }

    fn verify_chunk(&self, chunk: usize) -> Result<(), String> {
        let (word, bit) = (&self.verified[chunk / 64], 1u64 << (chunk % 64));
        if word.load(Ordering::Acquire) & bit != 0 {
            return Ok(());
        }
        let bytes = self.handle.read_at(self.chunks[chunk].clone()).map_err(|error| error.to_string())?;
        if XxHash3_64::oneshot(&bytes) != self.sums[chunk] {
            let columns = self.metadata.parquet_schema().num_columns();
            let place = match self.metadata.parquet_schema().columns().get(chunk % columns) {
                Some(column) if chunk + 1 < self.chunks.len() => {
                    format!("column `{}` of row group {}", column.path().string(), chunk / columns)
                }
                _ => "the footer".to_owned(),
            };
            return Err(format!("the checksum of {place} does not fit"));
        }
        word.fetch_or(bit, Ordering::AcqRel);
        Ok(())
    }

    /// Those of the columns that the file does not have, with the place each takes among them.
    fn missing(&self, columns: &[&str]) -> Vec<(usize, FieldRef)> {
        let (own, all) = (self.metadata.schema(), schema::schema());
        // Columns were only ever added.
        if own.fields().len() == all.fields().len() {
            return Vec::new();
        }
        let asked = all.fields().iter().filter(|field| columns.contains(&field.name().as_str()));
        let missing = asked.enumerate().filter(|(_, field)| own.index_of(field.name()).is_err());
        missing.map(|(place, field)| (place, Arc::clone(field))).collect()
    }

    fn reader(
        self: &Arc<Self>,
        ranges: &[Range<u32>],
        columns: &[&str],
        batch_rows: usize,
    ) -> Result<ParquetRecordBatchReader, ParquetError> {
        let (groups, selection) = select(&self.starts, ranges);
        let wanted: Vec<usize> = self
            .metadata
            .schema()
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, field)| columns.contains(&field.name().as_str()))
            .map(|(position, _)| position)
            .collect();
        // Long rows come in shorter batches: a text column of a batch holds at most 2 GiB.
        let longest_row = groups.iter().map(|group| {
            let group = self.metadata.metadata().row_group(*group);
            let bytes: i64 =
                wanted.iter().filter_map(|at| group.columns().get(*at)).map(|c| c.uncompressed_size()).sum();
            bytes as usize / (group.num_rows() as usize).max(1)
        });
        let batch_rows = batch_rows.min(ROW_GROUP_BYTES / longest_row.max().unwrap_or(0).max(1)).max(1);
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), wanted);
        ParquetRecordBatchReaderBuilder::new_with_metadata(SharedFile(Arc::clone(self)), self.metadata.clone())
            .with_projection(mask)
            .with_row_groups(groups)
            .with_row_selection(selection)
            .with_batch_size(batch_rows)
            .build()
    }
}

/// The row groups that `ranges` touch, and the selection within them.
pub(crate) fn select(starts: &[u32], ranges: &[Range<u32>]) -> (Vec<usize>, RowSelection) {
    let mut groups = Vec::new();
    let mut selectors = Vec::new();
    let mut next = 0;
    for group in 0..starts.len().saturating_sub(1) {
        let (start, end) = (starts[group], starts[group + 1]);
        while next < ranges.len() && ranges[next].end <= start {
            next += 1;
        }
        if next >= ranges.len() {
            break;
        }
        if ranges[next].start >= end {
            continue;
        }
        groups.push(group);
        let mut at = start;
        let mut range = next;
        while range < ranges.len() && ranges[range].start < end {
            let (from, to) = (ranges[range].start.max(start), ranges[range].end.min(end));
            if from > at {
                selectors.push(RowSelector::skip((from - at) as usize));
            }
            selectors.push(RowSelector::select((to - from) as usize));
            at = to;
            range += 1;
        }
        if at < end {
            selectors.push(RowSelector::skip((end - at) as usize));
        }
    }
    (groups, RowSelection::from(selectors))
}

/// The file without checks, for the footer that says where the chunks lie.
struct RawFile {
    handle: Arc<dyn ReadAt>,
    bytes: u64,
}

impl Length for RawFile {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for RawFile {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(self.handle.read_at(start..self.bytes).map_err(external)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.handle.read_at(start..start + length as u64).map_err(external)
    }
}

struct SharedFile(Arc<SegmentFile>);

impl Length for SharedFile {
    fn len(&self) -> u64 {
        self.0.bytes
    }
}

impl ChunkReader for SharedFile {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        // Only page headers of files without page index are read this way.
        let end = (start + (64 << 10)).min(self.0.bytes);
        Ok(self.0.read_range(start..end).map_err(external)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.0.read_range(start..start + length as u64).map_err(external)
    }
}

fn external(error: io::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

/// Batches of a segment's rows, in order.
pub struct SegmentBatches {
    reader: ParquetRecordBatchReader,
    file: Arc<SegmentFile>,
    missing: Vec<(usize, FieldRef)>,
}

impl SegmentBatches {
    /// The batch with nulls for the columns that the file does not have.
    fn complete(&self, batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
        if self.missing.is_empty() {
            return Ok(batch);
        }
        let (schema, mut columns, rows) = batch.into_parts();
        let mut fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
        for (place, field) in &self.missing {
            fields.insert((*place).min(fields.len()), Arc::clone(field));
            columns.insert((*place).min(columns.len()), new_null_array(field.data_type(), rows));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
    }
}

impl std::fmt::Debug for SegmentBatches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SegmentBatches({})", self.file.path)
    }
}

impl Iterator for SegmentBatches {
    type Item = Result<RecordBatch, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        debug_assert!(self.file.bytes > 0);
        let batch = self.reader.next()?;
        Some(batch.and_then(|batch| self.complete(batch)).map_err(|error| StoreError::damaged(&self.file.path, error)))
    }
}

/// `added` for `rows` rows, one microsecond apart, the last one at `last` if that is later.
pub(crate) fn added_column(base: i64, rows: usize, last: Option<i64>) -> TimestampMicrosecondArray {
    let mut values: Vec<i64> = (base..).take(rows).collect();
    if let (Some(slot), Some(last)) = (values.last_mut(), last) {
        *slot = last.max(*slot);
    }
    added_of(values)
}

/// `added` at these instants.
pub(crate) fn added_of(values: Vec<i64>) -> TimestampMicrosecondArray {
    TimestampMicrosecondArray::from(values).with_timezone("UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn selections_name_exactly_the_ranges(group_rows in proptest::collection::vec(1u32..20, 1..6), picks in proptest::collection::vec(proptest::bool::ANY, 0..100)) {
            let mut starts = vec![0];
            for rows in &group_rows {
                starts.push(starts[starts.len() - 1] + rows);
            }
            let total = starts[starts.len() - 1];
            let wanted: Vec<u32> = (0..total).filter(|row| picks.get(*row as usize).copied().unwrap_or(false)).collect();
            let mut ranges: Vec<Range<u32>> = Vec::new();
            for row in &wanted {
                match ranges.last_mut() {
                    Some(range) if range.end == *row => range.end += 1,
                    _ => ranges.push(*row..row + 1),
                }
            }
            let (groups, selection) = select(&starts, &ranges);
            let rows: Vec<u32> = groups.iter().flat_map(|group| starts[*group]..starts[group + 1]).collect();
            let mut got = Vec::new();
            let mut at = 0;
            for selector in selection.iter() {
                if !selector.skip {
                    got.extend_from_slice(&rows[at..at + selector.row_count]);
                }
                at += selector.row_count;
            }
            proptest::prop_assert_eq!(got, wanted);
        }
    }
}
