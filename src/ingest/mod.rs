//! Payloads to records: cut, parsed, normalised, given ids, as columns.
//!
//! Reading is in three steps. [`input`] gives plain bytes, `split` finds where elements begin and end without parsing
//! them, and blocks of elements are decoded on all cores, each into one [`Parsed`], handed on in input order by
//! [`decode`]. A bad element costs itself only.

mod block;
mod builder;
mod csv;
mod decode;
mod detect;
mod element;
mod indicator;
mod input;
mod json;
mod list;
mod names;
mod pipeline;
mod resolve;
mod split;
mod stix;
mod xsoar;

pub use block::DecodeOptions;
pub use builder::{Parsed, Reject, Warnings};
pub use decode::{DecodeError, decode};
pub use detect::{Format, FormatError};
pub use pipeline::{Importer, Summary};
pub use input::{Compression, Input, InputError, InputSpec, expand};
