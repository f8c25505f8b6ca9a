//! What each row of a batch becomes, decided once, and the dispatch on it.

use arrow::array::RecordBatch;

use super::columns::{Bound, require};
use super::{RenderError, RenderOptions, indicator, sco, sdo, text};
use crate::model::ids::{Uuid16, write_uuid};
use crate::model::kind::StixType;
use crate::model::schema::kind_value;

/// What a row is rendered as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Nothing: no STIX type, or one that indicators do not map to.
    Skip,
    /// The document as it came.
    Native,
    Sco(StixType),
    /// An `indicator` object with a pattern for that observable.
    Indicator(StixType),
    Sdo(StixType),
}

impl Shape {
    /// What an XSOAR-style indicator of that type becomes.
    pub(super) fn of_indicator(stix_type: StixType, options: &RenderOptions) -> Self {
        if options.indicator_types.contains(stix_type) {
            Shape::Indicator(stix_type)
        } else if sco::KNOWN.contains(&stix_type) {
            Shape::Sco(stix_type)
        } else if sdo::KNOWN.contains(&stix_type) {
            Shape::Sdo(stix_type)
        } else {
            Shape::Skip
        }
    }
}

/// The shape of every row.
pub(super) fn shapes(bound: &Bound<'_>, rows: usize, options: &RenderOptions) -> Vec<Shape> {
    let natives = bound.kind.map(rows, |kind| match kind {
        Some(kind_value::INDICATOR) => Some(false),
        Some(kind_value::OBJECT | kind_value::RELATIONSHIP) => Some(true),
        _ => None,
    });
    let of_types = bound.stix_type.map(rows, |name| match name {
        // The id of a native object starts with its type, whatever that is, so without one it has no id.
        Some(name) if !name.is_empty() => {
            (Shape::Native, StixType::named(name).map(|known| Shape::of_indicator(known, options)))
        }
        _ => (Shape::Skip, None),
    });
    let shape = |(native, (of_native, of_indicator)): (Option<bool>, (Shape, Option<Shape>))| match native {
        Some(true) => of_native,
        Some(false) => of_indicator.unwrap_or(Shape::Skip),
        None => Shape::Skip,
    };
    natives.into_iter().zip(of_types).map(shape).collect()
}

/// A batch ready to be rendered row by row.
pub(super) struct Encoder<'a> {
    bound: Bound<'a>,
    shapes: Vec<Shape>,
    /// Where the labels of the row at hand lie, kept between rows for its memory.
    labels: Vec<(usize, usize)>,
}

impl<'a> Encoder<'a> {
    pub(super) fn bind(batch: &'a RecordBatch, options: &RenderOptions) -> Result<Self, RenderError> {
        let bound = Bound::bind(batch)?;
        let shapes = shapes(&bound, batch.num_rows(), options);
        let mut present: Vec<Shape> = Vec::new();
        for &shape in &shapes {
            if present.last() != Some(&shape) && !present.contains(&shape) {
                present.push(shape);
            }
        }
        require(batch, &present)?;
        Ok(Encoder { bound, shapes, labels: Vec::new() })
    }

    /// Appends the object; `None` when the row lacks what it needs, and then `out` may hold a part of it.
    pub(super) fn object(&mut self, row: usize, out: &mut Vec<u8>) -> Option<()> {
        match *self.shapes.get(row)? {
            Shape::Skip => None,
            Shape::Native => {
                out.extend_from_slice(self.bound.document.filled(row)?.as_bytes());
                Some(())
            }
            Shape::Sco(stix_type) => sco::write(&self.bound, stix_type, row, out),
            Shape::Indicator(stix_type) => indicator::write(&self.bound, stix_type, row, &mut self.labels, out),
            Shape::Sdo(stix_type) => sdo::write(&self.bound, stix_type, row, &mut self.labels, out),
        }
    }
}

/// The id a row is served under.
pub(super) enum RowId<'a> {
    /// A native object's, kept as text.
    Whole(&'a str),
    Parts(&'a str, &'a Uuid16),
}

impl<'a> RowId<'a> {
    pub(super) fn of(bound: &Bound<'a>, shape: Shape, row: usize) -> Option<Self> {
        Some(match shape {
            Shape::Skip => return None,
            Shape::Native => match bound.stix_id.filled(row) {
                Some(whole) => RowId::Whole(whole),
                None => RowId::Parts(bound.stix_type.get(row)?, bound.id.get(row)?),
            },
            // An indicator's own `stixid` counts where it is an id of the type served, and then ingest has put its UUID
            // into these columns. Of another type, or no id at all, it would make the object invalid.
            Shape::Sco(stix_type) | Shape::Sdo(stix_type) => RowId::Parts(stix_type.as_str(), bound.id.get(row)?),
            Shape::Indicator(_) => RowId::Parts(StixType::Indicator.as_str(), bound.indicator_id.get(row)?),
        })
    }

    /// Appends the bare text.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            RowId::Whole(text) => out.extend_from_slice(text.as_bytes()),
            RowId::Parts(stix_type, uuid) => {
                out.extend_from_slice(stix_type.as_bytes());
                out.extend_from_slice(b"--");
                write_uuid(uuid, out);
            }
        }
    }

    /// Appends the text as the inside of a JSON string.
    pub(super) fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            RowId::Whole(whole) => text::escape_into(whole, out),
            RowId::Parts(stix_type, uuid) => {
                text::escape_into(stix_type, out);
                out.extend_from_slice(b"--");
                write_uuid(uuid, out);
            }
        }
    }
}
