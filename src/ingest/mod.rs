//! Payloads to records: cut, parsed, normalised, given ids, as columns; then resolved against the store and committed.
//!
//! Reading is in three steps. An [`Input`] gives plain bytes, `split` finds where elements begin and end without parsing
//! them, and blocks of elements are decoded on all cores, each into one [`Parsed`], handed on in input order by
//! [`decode`]. A bad element costs itself only. The [`Importer`] takes it from there.

mod block;
mod builder;
mod csv;
mod decode;
mod define;
mod detect;
mod document;
mod edge;
mod element;
mod indicator;
mod input;
mod json;
mod link;
mod list;
mod names;
mod pipeline;
mod posted;
mod resolve;
mod split;
mod stix;
#[cfg(test)]
mod tests;
mod xsoar;

pub use block::{DecodeOptions, decode_each};
pub(crate) use builder::inbox_key;
pub use builder::{Parsed, Reject, Warnings};
pub use decode::{DecodeError, decode};
pub use detect::{Format, FormatError};
pub(crate) use input::Got;
pub use input::{Compression, Input, InputError, InputSpec, expand};
pub use pipeline::{Importer, Summary};
pub(crate) use posted::{Posted, decode_posted, unpack_posted};

/// Whether lists and tables may give their values a type by that name: XSOAR's own, STIX's, or a usual one.
pub fn knows_type(name: &str) -> bool {
    !matches!(names::TypeName::named(name), names::TypeName::Own)
}
