//! Integration tests: one binary, one file per area.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests and what they share fail by panicking"
)]

mod cli;
mod edges;
mod paging;
mod relationships;
mod store;
mod support;
mod tidy;
