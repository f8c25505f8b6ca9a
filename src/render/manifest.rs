//! What TAXII says about objects without showing them: manifest records, versions, ids (TAXII 2.1 §5.3, §5.8).

use arrow::array::RecordBatch;

use super::columns::{Bound, manifest_columns, require_named};
use super::encoder::{RowId, Shape, shapes};
use super::text::time_into;
use super::{RenderError, RenderOptions, Rendered, list};
use crate::model::schema::column;

/// Appends one manifest record per row, separated by commas: the same rows and ids as [`objects`](super::objects), as
/// far as the columns of [`manifest_columns`] tell.
pub fn manifest(batch: &RecordBatch, options: &RenderOptions, out: &mut Vec<u8>) -> Result<Rendered, RenderError> {
    let ids = Ids::bind(batch, options)?;
    let bound = &ids.bound;
    // Only what came as 2.0 stays 2.0; everything else is written in the version asked for.
    let is_v20 = bound.spec_version.map(batch.num_rows(), |version| version == Some("2.0"));
    Ok(list(batch.num_rows(), out, |row, out| {
        let id = ids.of(row)?;
        let version = bound.version(row)?;
        time_into(br#"{"date_added":""#, bound.added.get(row)?, out);
        out.extend_from_slice(br#","id":""#);
        id.write_json(out);
        let native_v20 = ids.shapes.get(row) == Some(&Shape::Native) && is_v20.get(row) == Some(&true);
        out.extend_from_slice(if native_v20 {
            br#"","media_type":"application/stix+json;version=2.0","version":""#
        } else {
            br#"","media_type":"application/stix+json;version=2.1","version":""#
        });
        version.write_to(out);
        out.extend_from_slice(br#""}"#);
        Some(())
    }))
}

/// Appends the version of every row as a JSON string, separated by commas, in row order.
pub fn versions(batch: &RecordBatch, out: &mut Vec<u8>) -> Result<Rendered, RenderError> {
    require_named(batch, &[column::ADDED, column::CREATED, column::MODIFIED])?;
    let bound = Bound::bind(batch)?;
    Ok(list(batch.num_rows(), out, |row, out| {
        time_into(b"\"", bound.version(row)?, out);
        Some(())
    }))
}

/// The STIX ids of a batch's rows; needs the columns of [`manifest_columns`].
pub struct Ids<'a> {
    bound: Bound<'a>,
    shapes: Vec<Shape>,
}

impl<'a> Ids<'a> {
    /// Binds the columns once.
    pub fn bind(batch: &'a RecordBatch, options: &RenderOptions) -> Result<Self, RenderError> {
        require_named(batch, manifest_columns())?;
        let bound = Bound::bind(batch)?;
        let shapes = shapes(&bound, batch.num_rows(), options);
        Ok(Ids { bound, shapes })
    }

    /// Appends the id the row is served under; `None`, and nothing appended, when it is not served.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) -> Option<()> {
        self.of(row)?.write(out);
        Some(())
    }

    fn of(&self, row: usize) -> Option<RowId<'a>> {
        RowId::of(&self.bound, *self.shapes.get(row)?, row)
    }
}

impl std::fmt::Debug for Ids<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ids").field("rows", &self.shapes.len()).finish_non_exhaustive()
    }
}
