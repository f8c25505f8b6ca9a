//! Rows as edges see them: who they are.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, RecordBatch, StringArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Int32Type};

use crate::ingest::builder::identity_key;
use crate::model::ids::{Uuid16, split_stix_id, write_uuid};
use crate::model::kind::StixType;
use crate::model::schema::{column as c, kind_value};
use crate::store::{NewRows, StoreError};

/// The columns of rows that tell who they are.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    pub(super) kind: StringArray,
    pub(super) stix_type: StringArray,
    pub(super) id: &'a FixedSizeBinaryArray,
    pub(super) indicator_id: Option<&'a FixedSizeBinaryArray>,
    pub(super) stix_id: Option<&'a StringArray>,
    pub(super) xsoar_type: Option<StringArray>,
    pub(super) value: Option<&'a StringArray>,
    pub(super) source_ref: Option<&'a StringArray>,
    pub(super) target_ref: Option<&'a StringArray>,
    pub(super) inbox: Option<&'a StringArray>,
}

impl<'a> Rows<'a> {
    pub(crate) fn bind(batch: &'a RecordBatch) -> Result<Self, StoreError> {
        let names = |name| -> Result<StringArray, StoreError> {
            Ok(cast(batch.column(batch.schema_ref().index_of(name)?), &DataType::Utf8)?.as_string::<i32>().clone())
        };
        let texts = |name| batch.column_by_name(name).and_then(|array| array.as_string_opt::<i32>());
        let uuids = |name| batch.column_by_name(name).and_then(|array| array.as_fixed_size_binary_opt());
        Ok(Rows {
            kind: names(c::KIND)?,
            stix_type: names(c::STIX_TYPE)?,
            id: batch.column(batch.schema_ref().index_of(c::ID)?).as_fixed_size_binary(),
            indicator_id: uuids(c::INDICATOR_ID),
            stix_id: texts(c::STIX_ID),
            xsoar_type: names(c::TYPE).ok(),
            value: texts(c::VALUE),
            source_ref: texts(c::SOURCE_REF),
            target_ref: texts(c::TARGET_REF),
            inbox: texts(c::INBOX),
        })
    }

    /// Whether it is a definition of the store's own.
    pub(crate) fn is_definition(&self, at: usize) -> bool {
        self.kind.value(at) == kind_value::DEFINITION
    }

    pub(super) fn is_report(&self, at: usize) -> bool {
        self.kind.value(at) == kind_value::INDICATOR && self.type_of(at) == Some(StixType::Report.as_str())
    }

    pub(super) fn type_of(&self, at: usize) -> Option<&str> {
        text(Some(&self.stix_type), at)
    }

    /// The id under which the row is served where no `indicator` is made of it; `None` when it never is.
    pub(super) fn stix_id(&self, at: usize) -> Option<String> {
        let whole = text(self.stix_id, at).filter(|_| self.kind.value(at) != kind_value::INDICATOR);
        match whole {
            Some(whole) => Some(whole.to_owned()),
            None => {
                let mut id = format!("{}--", self.type_of(at)?).into_bytes();
                write_uuid(&uuid(Some(self.id), at)?, &mut id);
                String::from_utf8(id).ok()
            }
        }
    }

    /// What the document of an indicator says its id is.
    pub(super) fn own_id(&self, at: usize) -> Option<&str> {
        text(self.stix_id, at).filter(|_| self.kind.value(at) == kind_value::INDICATOR)
    }

    /// The id of the `indicator` that may be made of the row.
    pub(super) fn indicator(&self, at: usize) -> Option<Uuid16> {
        let may = self.kind.value(at) == kind_value::INDICATOR
            && self.type_of(at).and_then(StixType::named).is_some_and(StixType::can_be_indicator);
        uuid(self.indicator_id, at).filter(|_| may)
    }

    pub(super) fn key(&self, at: usize, buffer: &mut Vec<u8>) -> u64 {
        if self.kind.value(at) == kind_value::INDICATOR {
            let xsoar_type = text(self.xsoar_type.as_ref(), at).unwrap_or_default();
            return identity_key((xsoar_type, text(self.value, at).unwrap_or_default()), buffer);
        }
        identity_key(("stix", &self.stix_id(at).unwrap_or_default()), buffer)
    }
}

pub(super) fn text(array: Option<&StringArray>, at: usize) -> Option<&str> {
    array.filter(|array| array.is_valid(at)).map(|array| array.value(at))
}

pub(super) fn uuid(array: Option<&FixedSizeBinaryArray>, at: usize) -> Option<Uuid16> {
    array.filter(|array| array.is_valid(at)).and_then(|array| array.value(at).try_into().ok())
}

pub(super) fn is_report(id: &str) -> bool {
    split_stix_id(id).is_some_and(|(stix_type, _)| stix_type == StixType::Report.as_str())
}

pub(super) fn sorted(keys: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut keys: Vec<u64> = keys.collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Which rows have that text in a dictionary column; `None` when there are none.
pub(super) fn where_named(batch: &RecordBatch, column: &str, name: &str) -> Option<Vec<bool>> {
    let array = batch.column_by_name(column)?.as_dictionary_opt::<Int32Type>()?;
    let values = array.values().as_string_opt::<i32>()?;
    let wanted: Vec<bool> = values.iter().map(|value| value == Some(name)).collect();
    if !wanted.contains(&true) {
        return None;
    }
    let is = |key: Option<i32>| key.and_then(|key| wanted.get(key as usize)).copied().unwrap_or(false);
    let rows: Vec<bool> = array.keys().iter().map(is).collect();
    rows.contains(&true).then_some(rows)
}

pub(super) fn picked(rows: &NewRows, wanted: &[bool]) -> Result<NewRows, StoreError> {
    let of = |numbers: &[u64]| numbers.iter().zip(wanted).filter(|(_, wanted)| **wanted).map(|(n, _)| *n).collect();
    Ok(NewRows {
        batch: filter_record_batch(&rows.batch, &BooleanArray::from(wanted.to_vec()))?,
        keys: of(&rows.keys),
        digests: of(&rows.digests),
    })
}

pub(super) fn set(batch: &mut RecordBatch, name: &str, array: ArrayRef) -> Result<(), StoreError> {
    let mut columns = batch.columns().to_vec();
    let at = batch.schema_ref().index_of(name)?;
    if let Some(column) = columns.get_mut(at) {
        *column = array;
    }
    *batch = RecordBatch::try_new(batch.schema(), columns)?;
    Ok(())
}
