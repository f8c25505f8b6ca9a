//! What TAXII says about objects without showing them: manifest records, versions, ids (TAXII 2.1 §5.3, §5.8; TAXII 2.0
//! §5.3; spec/xsoar-taxii2-server.md §2.7).

use arrow::array::RecordBatch;

use super::columns::{Bound, manifest_columns, require_named};
use super::definition;
use super::encoder::{Manner, RowId, Shape, in_manner, shapes};
use super::text::instant_into;
use super::{Profile, RenderError, RenderOptions, Rendered, StixVersion, list};
use crate::model::json::make_ascii;
use crate::model::kind::StixType;
use crate::model::time::Timestamp;

/// Appends one manifest record per row, separated by commas: the same rows and ids as [`objects`](super::objects), as
/// far as the columns of [`manifest_columns`] tell.
pub fn manifest(batch: &RecordBatch, options: &RenderOptions, out: &mut Vec<u8>) -> Result<Rendered, RenderError> {
    let ids = Ids::bind(batch, options)?;
    in_manner!(options.profile, options.version, M => Ok(manifest_in::<M>(&ids, batch.num_rows(), out)))
}

fn manifest_in<M: Manner>(ids: &Ids<'_>, rows: usize, out: &mut Vec<u8>) -> Rendered {
    let bound = &ids.bound;
    // Only what came as 2.0 stays 2.0; everything else is written in the version asked for.
    let is_v20 = bound.spec_version.map(rows, |version| version == Some("2.0"));
    list(rows, out, |row, out| {
        let start = out.len();
        let shape = *ids.shapes.get(row)?;
        let id = RowId::of::<M>(bound, shape, row)?;
        out.extend_from_slice(br#"{"date_added":""#);
        bound.added.get(row)?.write_to(out);
        out.extend_from_slice(br#"","id":""#);
        id.write_json(out);
        let native_v20 = shape == Shape::Native && is_v20.get(row) == Some(&true);
        match (M::XSOAR, M::VERSION) {
            (true, StixVersion::V20) => {
                out.extend_from_slice(b"\"}");
                make_ascii(out, start);
                return Some(());
            }
            (true, StixVersion::V21) => out.extend_from_slice(br#"","version":""#),
            (false, StixVersion::V20) => out.extend_from_slice(
                br#"","media_types":["application/vnd.oasis.stix+json; version=2.0"],"versions":[""#,
            ),
            (false, StixVersion::V21) if native_v20 => {
                out.extend_from_slice(br#"","media_type":"application/stix+json;version=2.0","version":""#);
            }
            (false, StixVersion::V21) => {
                out.extend_from_slice(br#"","media_type":"application/stix+json;version=2.1","version":""#);
            }
        }
        version_into::<M>(bound, shape, row, out)?;
        out.extend_from_slice(if M::STRICT_20 { b"\"]}" } else { b"\"}" });
        if M::XSOAR {
            make_ascii(out, start);
        }
        Some(())
    })
}

/// Appends the version of every row as a JSON string, separated by commas, in row order.
pub fn versions(batch: &RecordBatch, options: &RenderOptions, out: &mut Vec<u8>) -> Result<Rendered, RenderError> {
    let ids = Ids::bind(batch, options)?;
    Ok(list(batch.num_rows(), out, |row, out| {
        let shape = *ids.shapes.get(row)?;
        out.push(b'"');
        in_manner!(options.profile, options.version, M => version_into::<M>(&ids.bound, shape, row, out)?);
        out.push(b'"');
        Some(())
    }))
}

/// Appends the version as the object itself writes it; of native objects with the digits that the version wants.
fn version_into<M: Manner>(bound: &Bound<'_>, shape: Shape, row: usize, out: &mut Vec<u8>) -> Option<()> {
    let version: Timestamp = match shape {
        Shape::Definition(StixType::MarkingDefinition) => definition::marking::<M>(bound, row)?.created(),
        Shape::Skip => return None,
        _ => bound.version(row)?,
    };
    instant_into::<M>(version, out);
    Some(())
}

/// The STIX ids of a batch's rows; needs the columns of [`manifest_columns`].
pub struct Ids<'a> {
    bound: Bound<'a>,
    shapes: Vec<Shape>,
    profile: Profile,
    version: StixVersion,
}

impl<'a> Ids<'a> {
    /// Binds the columns once.
    pub fn bind(batch: &'a RecordBatch, options: &RenderOptions) -> Result<Self, RenderError> {
        require_named(batch, manifest_columns())?;
        let bound = Bound::bind(batch)?;
        let shapes = shapes(&bound, batch.num_rows(), options);
        Ok(Ids { bound, shapes, profile: options.profile, version: options.version })
    }

    /// Appends the id the row is served under; `None`, and nothing appended, when it is not served.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) -> Option<()> {
        let shape = *self.shapes.get(row)?;
        in_manner!(self.profile, self.version, M => RowId::of::<M>(&self.bound, shape, row)?.write(out));
        Some(())
    }
}

impl std::fmt::Debug for Ids<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ids").field("rows", &self.shapes.len()).finish_non_exhaustive()
    }
}
