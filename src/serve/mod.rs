//! TAXII 2.0 and 2.1 over axum and hyper, on the same paths: the request's `Accept` says which.
//!
//! [`router`] is the whole service without a socket; [`bind`] and [`Bound::run`] put it on one. Every request passes,
//! in this order: access log and request id, compression, error bodies, panic guard, size of the head, concurrency
//! limit, authentication, `Accept`, path, parameters. Errors travel as [`ServeError`] in the response's extensions and
//! are written out in one place, so that a client never reads more than [`ServeError`]'s outside text while the log has
//! the cause.
//!
//! What is bounded: URL and header size, concurrent requests (a permit lives as long as a body that is still being
//! made), HTTP/2 streams of a connection, waiting password checks, time to read a request head, idle time, time to the
//! first byte, time a client may leave bytes unread. Memory in flight belongs to the feed's own budget; here a request
//! holds one chunk at most.

pub mod auth;
mod collections;
mod connection;
mod discovery;
pub mod error;
mod limits;
mod listen;
mod negotiate;
mod objects;
mod observe;
pub(crate) mod options;
mod parameters;
mod range;
mod resource;
mod router;
mod sending;
mod stamp;
mod style;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_http2;
#[cfg(test)]
mod tests_versions;
mod tls;
pub mod users;

pub use error::{ServeError, StartError};
pub use listen::{Bound, bind, examine, shutdown_signal};
pub use options::{AuthOptions, Limits, Options, TlsFiles};
pub use resource::{collection_resources, discovery_resource};
pub use router::{App, router};
