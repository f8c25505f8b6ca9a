//! The seam: the only module that knows query, store and render together. A collection and a page request go in, page
//! facts and a stream of bytes come out.

pub mod api;
pub mod collection;
