//! TAXII 2.0 and 2.1 over axum and hyper, on the same paths: the request's `Accept` says which.
//!
//! [`router`] is the whole service without a socket; [`bind`] and [`Bound::run`] put it on one, and [`Live`] is what can be
//! exchanged while it runs. Every request passes, in this order: access log and request id, compression, error bodies,
//! CORS, panic guard, size of the head, concurrency limit, authentication, limits of the client, `Accept`, path, parameters. Errors travel as [`ServeError`] in the response's extensions and
//! are written out in one place, so that a client never reads more than [`ServeError`]'s outside text while the log has
//! the cause.
//!
//! What is bounded: connections, in all and from one address; URL and header size; concurrent requests, in all and of one
//! client (a permit lives as long as a body that is still being made); requests a minute of one client; bodies of requests,
//! each as sent and decompressed, and all together; HTTP/2 streams of a connection, and requests taken back on it; waiting
//! password checks; time to read a request head and body, idle time, time to the first byte, time a client may leave bytes
//! unread. Memory of answers belongs to the feed's own budget; here a request holds one chunk at most.

mod admin;
mod audit;
pub mod auth;
mod body;
mod client;
mod coding;
mod collections;
mod connection;
mod cors;
mod discovery;
mod enrich;
pub mod error;
mod failures;
mod inbox;
mod limits;
mod listen;
mod lists;
mod manage;
mod metrics;
mod negotiate;
mod objects;
mod observe;
pub(crate) mod options;
mod parameters;
mod range;
mod rate;
mod reload;
mod resource;
pub(crate) mod rights;
mod router;
mod sending;
mod sources;
mod stamp;
mod style;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_edge;
#[cfg(test)]
mod tests_fuzz;
#[cfg(test)]
mod tests_http2;
#[cfg(test)]
mod tests_rights;
#[cfg(test)]
mod tests_versions;
mod tls;
mod tokens;
pub mod users;

pub use admin::{Probe, StoreState};
pub use error::{ServeError, StartError};
pub use listen::{Bound, bind, examine, shutdown_signal};
pub use manage::{Management, ManagementError};
pub use options::{AdminOptions, ApiRoot, AuthOptions, ClientAuth, Cors, Limits, Options, TlsFiles};
pub use reload::{Live, on_hangup};
pub use resource::{collection_resources, discovery_resource};
pub use rights::{Allowed, InRoot, effects, roots_of};
pub use router::{App, router};
