//! Record batches to STIX 2.0 and 2.1, and what TAXII 2.0 and 2.1 put around it. Pure: no IO, no async, no state between calls.
//!
//! Columns are bound and the type of every row is decided once per batch; after that a row is a handful of copies into
//! the caller's buffer. Objects come out as compact JSON, keys sorted by code point, so the same row always gives the
//! same bytes. [`envelope`] frames them; objects know nothing of what surrounds them.
//!
//! What a row needs in order to be rendered is decided here alone: a row that lacks it is skipped and counted, never
//! an error, so one bad record cannot break a page. Ingest keeps such rows out of the store.

pub mod envelope;

mod columns;
mod definition;
mod edge;
mod encoder;
mod extension;
mod indicator;
mod labels;
mod manifest;
mod observed;
mod rewrite;
mod sco;
mod sdo;
mod text;
mod xsoar;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;

use crate::model::ids::{IdSpace, TlpMarking, Uuid16, from_v4, split_stix_id, write_uuid};
use crate::model::kind::StixType;

pub(crate) use columns::Bound;
pub use columns::{columns, indicator_columns, manifest_columns};
pub use manifest::{Ids, manifest, versions};

/// STIX version objects are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StixVersion {
    /// STIX 2.0.
    V20,
    /// STIX 2.1.
    #[default]
    V21,
}

impl StixVersion {
    /// `2.0` or `2.1`.
    pub fn as_str(self) -> &'static str {
        match self {
            StixVersion::V20 => "2.0",
            StixVersion::V21 => "2.1",
        }
    }
}

/// Whose rules objects follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Profile {
    /// The STIX standard's.
    #[default]
    Standard,
    /// What XSOAR's server sends, byte for byte where that is deterministic (spec/xsoar-taxii2-server.md).
    Xsoar,
}

/// What of the original record goes along with each object (spec/xsoar-taxii2-server.md §6).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Extensions {
    /// Which fields.
    pub fields: ExtensionFields,
    /// Ids of the extension definitions, by the place of the STIX type in [`StixType::ALL`].
    pub definitions: Box<[Uuid16]>,
}

/// Fields of the original record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ExtensionFields {
    /// The whole document.
    All,
    /// These, first-level names of the document or machine names of custom fields.
    Named(Box<[Box<str>]>),
}

impl Extensions {
    /// The extensions of a store's objects.
    pub fn new(fields: ExtensionFields, ids: &IdSpace) -> Self {
        let definitions = StixType::ALL.iter().map(|stix_type| ids.extension_definition(stix_type.as_str())).collect();
        Extensions { fields, definitions }
    }
}

/// What objects look like; a property of the collection, the same for all of its pages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RenderOptions {
    /// Version of the objects made from indicators; native objects keep theirs.
    pub version: StixVersion,
    /// Rules the objects follow.
    pub profile: Profile,
    /// Observable types served as `indicator` objects.
    pub indicator_types: IndicatorTypes,
    /// What of the original record goes along; nothing when `None`.
    pub extensions: Option<Arc<Extensions>>,
}

/// Types of ours that came with STIX 2.1.
const LEFT_OUT_OF_20: &[StixType] = &[StixType::Infrastructure, StixType::Location];

fn is_strict_20(options: &RenderOptions) -> bool {
    (options.version, options.profile) == (StixVersion::V20, Profile::Standard)
}

/// Indicators of these types have no form in that version and profile, nor have relationships with them.
pub fn left_out(options: &RenderOptions) -> &'static [StixType] {
    if is_strict_20(options) { LEFT_OUT_OF_20 } else { &[] }
}

/// The kinds of definitions that objects are served with. Of marking definitions see [`marking_colours`].
pub fn definitions(options: &RenderOptions) -> Vec<StixType> {
    let extensions = options.extensions.is_some() && !is_strict_20(options);
    let extension = extensions.then_some(StixType::ExtensionDefinition);
    extension.into_iter().chain((options.profile == Profile::Standard).then_some(StixType::MarkingDefinition)).collect()
}

/// The colours (column `value`) whose marking definitions are served. STIX 2.0 does not know those of TLP 2.0; objects of
/// such a colour refer to that of [`TlpMarking::in_stix_20`] there, so whoever writes the row of a colour's definition
/// writes that one's too.
pub fn marking_colours(options: &RenderOptions) -> Vec<&'static str> {
    let is_served = |marking: &&TlpMarking| {
        options.profile == Profile::Standard && (marking.is_tlp_1 || options.version == StixVersion::V21)
    };
    TlpMarking::ALL.iter().filter(is_served).map(|marking| marking.colour).collect()
}

/// The other id that the store may know an object by which is served under this one: STIX 2.0 has no ids but of version
/// 4, so name-based ones are served under their version 4 twins there. Whether a row is served under an id is for
/// [`Ids`] to say.
pub fn stored_id(options: &RenderOptions, id: &str) -> Option<String> {
    let (stix_type, uuid) = split_stix_id(id).filter(|_| is_strict_20(options))?;
    let stored = from_v4(&uuid);
    let mut text = format!("{stix_type}--").into_bytes();
    write_uuid(&stored, &mut text);
    (stored != uuid).then(|| String::from_utf8(text).ok())?
}

/// A set of observable types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct IndicatorTypes(u64);

impl IndicatorTypes {
    /// Whether the set holds that type.
    pub fn contains(self, stix_type: StixType) -> bool {
        self.0 & (1 << stix_type as u8) != 0
    }
}

/// Why a list is no set of observable types.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` cannot be served as `indicator`; choose from {known}, or `all`")]
pub struct NoIndicatorType {
    name: String,
    known: String,
}

impl IndicatorTypes {
    /// Reads the names of observable types, as configuration lists them; `all` stands for every one.
    pub fn parse(names: &[String]) -> Result<Self, NoIndicatorType> {
        let every = || StixType::ALL.iter().copied().filter(|stix_type| stix_type.can_be_indicator());
        let mut types = Vec::new();
        for name in names {
            match StixType::named(name).filter(|stix_type| stix_type.can_be_indicator()) {
                Some(stix_type) => types.push(stix_type),
                None if name == "all" => types.extend(every()),
                None => {
                    let known: Vec<String> = every().map(|stix_type| format!("`{}`", stix_type.as_str())).collect();
                    return Err(NoIndicatorType { name: name.clone(), known: known.join(", ") });
                }
            }
        }
        Ok(types.into_iter().collect())
    }
}

impl FromIterator<StixType> for IndicatorTypes {
    /// Types that cannot be served as `indicator` (see [`StixType::can_be_indicator`]) are left out.
    fn from_iter<I: IntoIterator<Item = StixType>>(types: I) -> Self {
        let fitting = types.into_iter().filter(|stix_type| stix_type.can_be_indicator());
        IndicatorTypes(fitting.fold(0, |bits, stix_type| bits | 1 << stix_type as u8))
    }
}

/// What a call wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// Rows written.
    pub written: usize,
    /// Rows that lack what they need and were left out.
    pub skipped: usize,
}

/// Why a batch cannot be rendered at all: the caller read the wrong columns.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// A column that rows of this batch need was not read.
    #[error("the batch lacks column `{column}`; read every column that render::columns names")]
    MissingColumn {
        /// Its name.
        column: &'static str,
    },
    /// A column has a type the schema does not give it.
    #[error("column `{column}` is of type {found}; read it with the types of the record schema")]
    ColumnType {
        /// Its name.
        column: &'static str,
        /// The type it came with.
        found: DataType,
    },
}

/// Appends one JSON object per row, separated by commas; none at the ends. `ends` receives the offset in `out` just
/// after each object written.
pub fn objects(
    batch: &RecordBatch,
    options: &RenderOptions,
    out: &mut Vec<u8>,
    mut ends: Option<&mut Vec<usize>>,
) -> Result<Rendered, RenderError> {
    let mut encoder = encoder::Encoder::bind(batch, options)?;
    Ok(list(batch.num_rows(), out, |row, out| {
        encoder.object(row, out)?;
        if let Some(ends) = ends.as_deref_mut() {
            ends.push(out.len());
        }
        Some(())
    }))
}

/// Appends one JSON object per row, with nothing between them. `ends` receives the offset in `out` after each row, also after one that has no
/// form and leaves nothing.
pub fn pieces(
    batch: &RecordBatch,
    options: &RenderOptions,
    out: &mut Vec<u8>,
    ends: &mut Vec<usize>,
) -> Result<(), RenderError> {
    let mut encoder = encoder::Encoder::bind(batch, options)?;
    for row in 0..batch.num_rows() {
        let start = out.len();
        if encoder.object(row, out).is_none() {
            out.truncate(start);
        }
        ends.push(out.len());
    }
    Ok(())
}

/// Appends one JSON object per row, each followed by a line feed.
pub fn ndjson(batch: &RecordBatch, options: &RenderOptions, out: &mut Vec<u8>) -> Result<Rendered, RenderError> {
    let mut encoder = encoder::Encoder::bind(batch, options)?;
    let mut rendered = Rendered::default();
    for row in 0..batch.num_rows() {
        let start = out.len();
        if encoder.object(row, out).is_some() {
            out.push(b'\n');
            rendered.written += 1;
        } else {
            out.truncate(start);
            rendered.skipped += 1;
        }
    }
    Ok(rendered)
}

/// Writes each row through `write`, commas between; a row for which it gives up leaves no trace.
fn list(rows: usize, out: &mut Vec<u8>, mut write: impl FnMut(usize, &mut Vec<u8>) -> Option<()>) -> Rendered {
    let mut rendered = Rendered::default();
    for row in 0..rows {
        let start = out.len();
        if rendered.written > 0 {
            out.push(b',');
        }
        if write(row, out).is_some() {
            rendered.written += 1;
        } else {
            out.truncate(start);
            rendered.skipped += 1;
        }
    }
    rendered
}

#[cfg(test)]
mod tests;
