//! Which row groups of a segment a condition may hold in, by what the file says of them: least and greatest values, and bloom filters.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, ScalarValue};
use datafusion::physical_optimizer::pruning::PruningPredicate;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::bloom_filter::Sbbf;

use super::error::StoreError;
use super::segment::{Segment, SegmentFile};

impl Segment {
    /// For each row group whether rows of it may fulfil the condition. Where that cannot be told, they may.
    pub(crate) fn may_hold(&self, condition: &PruningPredicate) -> Result<Vec<bool>, StoreError> {
        let groups = Groups { file: self.file()? };
        Ok(condition.prune(&groups).unwrap_or_else(|_| vec![true; groups.num_containers()]))
    }
}

struct Groups {
    file: Arc<SegmentFile>,
}

impl Groups {
    /// `None` for a column that is younger than the file.
    fn converter<'a>(&'a self, column: &'a Column) -> Option<StatisticsConverter<'a>> {
        let metadata = self.file.parquet_metadata().file_metadata();
        StatisticsConverter::try_new(column.name(), self.file.schema(), metadata.schema_descr()).ok()
    }

    /// Whether none of the values is in the column, as the bloom filter of a row group has it.
    fn lacks(&self, group: usize, column: usize, values: &HashSet<ScalarValue>) -> bool {
        let chunk = self.file.parquet_metadata().row_group(group).column(column);
        // Bytes that cannot be read are met again, and reported, by who reads the rows.
        let Ok(Some(filter)) = Sbbf::read_from_column_chunk(chunk, &self.file.reader_of_ranges()) else { return false };
        !values.iter().any(|value| may_contain(&filter, value))
    }
}

fn may_contain(filter: &Sbbf, value: &ScalarValue) -> bool {
    match value {
        ScalarValue::Utf8(Some(text)) => filter.check(&text.as_str()),
        ScalarValue::FixedSizeBinary(_, Some(bytes)) => filter.check(bytes),
        _ => true,
    }
}

impl PruningStatistics for Groups {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.converter(column)?.row_group_mins(self.file.parquet_metadata().row_groups()).ok()
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.converter(column)?.row_group_maxes(self.file.parquet_metadata().row_groups()).ok()
    }

    fn num_containers(&self) -> usize {
        self.file.parquet_metadata().num_row_groups()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let counts = self.converter(column)?.row_group_null_counts(self.file.parquet_metadata().row_groups()).ok()?;
        Some(Arc::new(counts))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let groups = self.file.parquet_metadata().row_groups().iter();
        Some(Arc::new(UInt64Array::from_iter_values(groups.map(|group| group.num_rows() as u64))))
    }

    fn contained(&self, column: &Column, values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        let place = self.converter(column)?.parquet_column_index()?;
        let has_filter =
            |group: usize| self.file.parquet_metadata().row_group(group).column(place).bloom_filter_offset().is_some();
        if !(0..self.num_containers()).any(has_filter) {
            return None;
        }
        // "False": none of them is there. Nothing says that nothing else is.
        Some((0..self.num_containers()).map(|group| self.lacks(group, place, values).then_some(false)).collect())
    }
}
