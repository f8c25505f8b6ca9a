//! A snapshot as a DataFusion table.
//!
//! Segments are the files of one ordered scan: the declared order is `added`, so neither sort nor merge appears in a plan
//! that asks for it. Superseded rows are left out by row selections; filters go into the Parquet reader; footers and page
//! indexes come from memory.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::Session;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{ParquetFileReaderFactory, ParquetRowSelection};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::{TableProvider, TableType};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, RowSelection, RowSelector};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use roaring::RoaringBitmap;

use super::segment::{Segment, SegmentFile};
use super::snapshot::{SegmentView, Snapshot};
use crate::model::schema::{self, column};

/// The table `indicators`: the live records of a snapshot, or all versions of them. Definitions of the store's own are none.
#[derive(Debug)]
pub struct IndicatorTable {
    snapshot: Arc<Snapshot>,
    all_versions: bool,
}

impl IndicatorTable {
    /// Live rows only.
    pub fn live(snapshot: Arc<Snapshot>) -> Self {
        IndicatorTable { snapshot, all_versions: false }
    }

    /// Superseded versions as well, but nothing that was deleted.
    pub fn all_versions(snapshot: Arc<Snapshot>) -> Self {
        IndicatorTable { snapshot, all_versions: true }
    }

    fn partitioned_file(&self, view: &SegmentView) -> Result<PartitionedFile> {
        // Opened now: a scan may take longer than the files of its version are kept.
        view.segment.file().map_err(|error| DataFusionError::External(Box::new(error)))?;
        let meta = view.segment.meta();
        let mut hidden = RoaringBitmap::clone(if self.all_versions { &view.deleted } else { &view.superseded });
        hidden.extend(meta.definitions.iter().copied());
        let mut statistics = Statistics::new_unknown(&schema::schema());
        statistics.num_rows = if hidden.is_empty() {
            Precision::Exact(meta.rows as usize)
        } else {
            Precision::Inexact((meta.rows - hidden.len()) as usize)
        };
        let instant = |micros| Precision::Exact(ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into())));
        if let Some(added) = statistics.column_statistics.first_mut() {
            *added = ColumnStatistics {
                null_count: Precision::Exact(0),
                min_value: instant(meta.first_added),
                max_value: instant(meta.last_added),
                ..ColumnStatistics::new_unknown()
            };
        }
        let mut file = PartitionedFile::new(format!("{}.parquet", meta.id), meta.bytes)
            .with_extension(Arc::clone(&view.segment))
            .with_statistics(Arc::new(statistics));
        if !hidden.is_empty() {
            let shown = SegmentView { superseded: Arc::new(hidden), ..view.clone() };
            file = file.with_extension(ParquetRowSelection::new(live_selection(&shown)));
        }
        Ok(file)
    }
}

fn live_selection(view: &SegmentView) -> RowSelection {
    let mut selectors = Vec::new();
    let mut at = 0;
    for range in view.live_ranges(0..view.segment.rows()) {
        if range.start > at {
            selectors.push(RowSelector::skip((range.start - at) as usize));
        }
        selectors.push(RowSelector::select(range.len()));
        at = range.end;
    }
    if at < view.segment.rows() {
        selectors.push(RowSelector::skip((view.segment.rows() - at) as usize));
    }
    RowSelection::from(selectors)
}

#[async_trait]
impl TableProvider for IndicatorTable {
    fn schema(&self) -> SchemaRef {
        schema::schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = schema::schema();
        let source = ParquetSource::new(Arc::clone(&schema))
            .with_parquet_file_reader_factory(Arc::new(SegmentReaderFactory))
            .with_enable_page_index(true)
            .with_bloom_filter_on_read(true)
            .with_pushdown_filters(true);
        let views = self.snapshot.segments().iter();
        let files = views.map(|view| self.partitioned_file(view)).collect::<Result<Vec<PartitionedFile>>>()?;
        let groups = contiguous_groups(files, state.config().target_partitions());
        let added = schema.index_of(column::ADDED)?;
        let ordering =
            LexOrdering::new([PhysicalSortExpr::new_default(Arc::new(Column::new(column::ADDED, added))).asc()]);
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(source))
            .with_file_groups(groups)
            .with_projection_indices(projection.cloned())?
            .with_output_ordering(ordering.into_iter().collect())
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

/// At most `most` runs of neighbouring files, so that each run stays ordered.
fn contiguous_groups(files: Vec<PartitionedFile>, most: usize) -> Vec<FileGroup> {
    let per_group = files.len().div_ceil(most.max(1)).max(1);
    let mut groups: Vec<FileGroup> = Vec::new();
    for (position, file) in files.into_iter().enumerate() {
        if position % per_group == 0 {
            groups.push(FileGroup::new(Vec::new()));
        }
        if let Some(group) = groups.last_mut() {
            group.push(file);
        }
    }
    if groups.is_empty() { vec![FileGroup::new(Vec::new())] } else { groups }
}

/// Hands out readers over already opened segments.
#[derive(Debug)]
struct SegmentReaderFactory;

impl ParquetFileReaderFactory for SegmentReaderFactory {
    fn create_reader(
        &self,
        _partition_index: usize,
        file: PartitionedFile,
        _metadata_size_hint: Option<usize>,
        _metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let segment = file.extension::<Arc<Segment>>();
        let segment = segment.ok_or_else(|| DataFusionError::Internal("a scan without its segment".to_owned()))?;
        let file = segment.file().map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok(Box::new(SegmentReader { file }))
    }
}

struct SegmentReader {
    file: Arc<SegmentFile>,
}

impl fmt::Debug for SegmentReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl AsyncFileReader for SegmentReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        let read = self.file.read_range(range).map_err(|error| ParquetError::External(Box::new(error)));
        futures::future::ready(read).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        futures::future::ready(Ok(Arc::clone(self.file.parquet_metadata()))).boxed()
    }
}
