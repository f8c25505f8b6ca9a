//! The only place that owns threads: a pool for work that computes or reads files, behind an async call.
//!
//! Sockets are driven by tokio; nothing that takes longer than microseconds runs there.

mod buffers;
mod ordered;
mod pool;

pub use buffers::{BufferPool, Filling};
pub use ordered::Ordered;
pub(crate) use pool::background;
pub use pool::{CpuPool, Unfinished};
