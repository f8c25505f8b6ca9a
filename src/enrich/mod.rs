//! Enrichment: events in, the same events out, with what the store knows of the addresses, domains, URLs, hashes and e-mail addresses in
//! them.
//!
//! ```text
//! lines ─ scan ─► texts ─ value, find ─► keys ─ table ─► candidates ─ detail ─► matches ─► the line with them spliced in
//!                                                  ▲                      ▲
//!                              index: a part for each segment      rows, read once and kept
//! ```
//! An event keeps its bytes: what was found goes before its closing brace, and where nothing was found nothing changes. A line that is no
//! JSON object goes through as it is, and is counted.
//!
//! The index holds 64-bit hashes, so what it finds are candidates. They are compared with the row itself, which has to be read anyway to
//! be told of: no match is ever a false one. A segment never changes, so neither does its part of the index; what changes is which rows
//! are superseded, which the snapshot says, and what has expired, which the clock does.

mod allow;
mod block;
mod detail;
mod enricher;
mod find;
mod index;
mod lines;
mod pattern;
mod rows;
mod runs;
mod scan;
mod table;
mod value;

pub use allow::{AllowError, AllowList};
pub use block::{FAULTS_SHOWN, Tally};
pub use enricher::{Enricher, IndexState, Session};
pub use lines::{Block, Lines, MOST_LINE_BYTES};

use crate::feed::api::FeedError;
use crate::runtime::Unfinished;
use crate::store::StoreError;

/// What is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// `threat.indicator` and `threat.enrichments`, by the names of the Elastic Common Schema, and a `taxiway` beside each for what
    /// that has no names for.
    #[default]
    Ecs,
    /// `ti_…` keys at the top of the event, of the first match alone.
    Flat,
}

/// How events are enriched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrichOptions {
    /// Names of the fields that are searched, with dots for what is inside; none: all.
    pub fields: Vec<String>,
    /// What is written.
    pub format: Format,
    /// Expired and withdrawn indicators count as well.
    pub expired: bool,
    /// Least verdict (0–3); records without one have 0.
    pub min_score: u8,
    /// The host of a URL is looked up as well.
    pub url_hosts: bool,
    /// The domain of an e-mail address is looked up as well.
    pub email_domains: bool,
    /// Most indicators told of one event.
    pub most_matches: usize,
}

/// Memory for the rows around those that are found, unless told otherwise.
pub const ROWS_BYTES: usize = 256 << 20;

/// Indicators told of one event, unless more are asked for.
pub const MOST_MATCHES: usize = 16;

impl Default for EnrichOptions {
    fn default() -> Self {
        EnrichOptions {
            fields: Vec::new(),
            format: Format::Ecs,
            expired: false,
            min_score: 0,
            url_hosts: false,
            email_domains: false,
            most_matches: MOST_MATCHES,
        }
    }
}

/// Why events cannot be enriched.
#[derive(Debug, thiserror::Error)]
pub enum EnrichError {
    /// The store cannot be read.
    #[error("read the indicators")]
    Store(#[from] StoreError),
    /// A collection cannot be looked into.
    #[error("look into a collection")]
    Feed(#[from] FeedError),
    /// The work was not done.
    #[error("look up values")]
    Unfinished(#[from] Unfinished),
    /// Nobody built the index before.
    #[error("the index is not built yet")]
    NotBuilt,
}
