//! The seam: the only module that knows query, store and render together. A collection and a page request go in, page
//! facts and a stream of bytes come out.
//!
//! First the plan, from bitmaps and narrow columns: which rows, whether more follow, the cursor. Only then wide columns are
//! read and rendered, slice by slice. So headers are right before the first body byte, and a page costs what it holds.

pub mod api;
pub mod collection;

mod cache;
mod coding;
mod cursor;
mod edges;
mod gathered;
mod matching;
mod members;
mod page;
mod plan;
mod stream;
mod walk;
mod warm;

pub(crate) use members::{Members, posted};
pub use page::{FeedOptions, StoreFeed};
pub(crate) use page::{selected, served};
pub use walk::{RowWalk, Slice, Standpoint, WalkRequest, WalkRows, WalkedRows};
pub use warm::Warmer;
