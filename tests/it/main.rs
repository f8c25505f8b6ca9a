//! Integration tests: one binary, one file per area.

mod cli;
mod paging;
mod store;
mod support;
mod tidy;
