//! STIX bundles (STIX 2.1 §8, STIX 2.0 part 1 §5) and objects one a line, rendered as pages are.

use arrow::array::RecordBatch;

use crate::export::ExportError;
use crate::model::ids::write_uuid;
use crate::render::{self, RenderOptions, Rendered, StixVersion};

/// Everything before the first object of a bundle.
pub(super) fn bundle_head() -> Vec<u8> {
    let mut head = br#"{"id":"bundle--"#.to_vec();
    write_uuid(uuid::Uuid::new_v4().as_bytes(), &mut head);
    head.push(b'"');
    head
}

/// What opens the list of objects; a bundle without objects has none.
pub(super) const LIST_OPEN: &[u8] = br#","objects":["#;
/// What closes it.
pub(super) const LIST_CLOSE: &[u8] = b"]";

/// Everything behind the list.
pub(super) fn bundle_tail(version: StixVersion) -> &'static [u8] {
    match version {
        StixVersion::V20 => b",\"spec_version\":\"2.0\",\"type\":\"bundle\"}\n",
        StixVersion::V21 => b",\"type\":\"bundle\"}\n",
    }
}

/// Appends objects, a comma before each but the first, if `first` says so.
pub(super) fn objects_into(
    batch: &RecordBatch,
    options: &RenderOptions,
    first: &mut bool,
    out: &mut Vec<u8>,
) -> Result<Rendered, ExportError> {
    let start = out.len();
    if !*first {
        out.push(b',');
    }
    let rendered = render::objects(batch, options, out, None)?;
    if rendered.written == 0 {
        out.truncate(start);
    } else {
        *first = false;
    }
    Ok(rendered)
}
