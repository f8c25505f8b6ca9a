//! A collection as files: STIX bundles, NDJSON, CSV, Parquet, lists for firewalls, MISP feeds; and those lists for the server.
//!
//! ```text
//! feed's walk ─ slices ─► rendered and compressed on all cores, in order ─► one thread that writes, hashes and syncs
//! ```
//! Files get their names when all of them are whole, and `export.json` says last what they are. Until then the parts that are
//! done are known to an unfinished `export.json`, and whoever repeats a killed export goes on behind them, on the same
//! version of the store as long as that is there.
//!
//! A list is surveyed before it is written: a first walk over narrow columns finds what is in it, so repeated values come once in
//! bounded memory, and the server knows the `ETag` before the first byte.

mod compress;
mod error;
mod list;
mod manifest;
mod misp;
mod pattern;
mod place;
mod run;
mod sink;
mod stix;
mod table;
mod values;

pub use compress::Compression;
pub use error::ExportError;
pub use list::{DomainForm, ListFacts, ListOptions, ListOrder, ListType, Listing, Lists, UrlForm};
pub use manifest::{MANIFEST, Manifest, PartMeta, Requested};
pub use run::{ExportRequest, ExportSummary, Format, Progress, Since, export};
pub use table::{Column, columns, default_columns};
