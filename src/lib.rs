//! taxiway: a threat-intelligence feed engine.
//!
//! ```text
//! files, POSTs, TAXII servers
//!    │
//!    ▼
//!  ingest             payload → records: normalise, ids on all cores, find what each record replaces
//!    ▼
//!  store              a log of immutable, sorted Parquet segments + one small manifest; readers hold snapshots
//!    │  ◄── query     query text → tree → DataFusion `Expr` (pure, no IO)
//!    ▼
//!  feed               collection + page request → page plan (first, last, more, cursor) + stream of bytes
//!    │  ◄── render    record batch → STIX bytes (pure, no IO)
//!    ▼
//!  export             the same walk to files: STIX, CSV, Parquet, MISP; lists of values
//!    ▼
//!  serve (TAXII, lists) · enrich (log events)
//!    └──► inbox       posts and deletions → one queue, one writer → decoder of ingest, store
//! ```
//!
//! Data flows down this picture and modules import upwards only; `tests/it/tidy.rs` holds them to it.

pub mod bench;
pub mod cli;
pub mod collect;
pub mod config;
pub mod enrich;
pub mod export;
pub mod feed;
#[cfg(test)]
mod fuzz;
pub mod inbox;
pub mod ingest;
pub mod model;
pub mod query;
pub mod render;
pub mod runtime;
pub mod serve;
pub mod source;
pub mod store;
