//! Integration tests: one binary, one file per area.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests and what they share fail by panicking"
)]

mod bench;
mod cli;
mod edge;
mod edges;
mod enrich;
mod export;
mod inbox;
mod inbox_rows;
mod interop;
mod manage;
mod paging;
mod relationships;
mod rights;
mod sources;
mod store;
mod support;
mod tidy;
