//! Other people's TAXII servers, of versions 1.0, 1.1, 2.0 and 2.1, as one stream of pages (design §9).
//!
//! [`Client::connect`] finds out what a URL is, [`Client::collections`] what it holds, and [`Client::pages`] walks through
//! a collection from a [`Place`] on. A page holds objects and the place after them; who stores both together loses
//! nothing and repeats nothing that counts, whenever it is killed. Objects of 2.x are handed on byte for byte; of 1.x, as
//! indicator documents that ingest reads.
//!
//! What is bounded: answers (they wait in a file, decompressed and whole, before any of them is used), pages in memory (a
//! few MiB), single objects and texts, depth of JSON and XML, what may be remembered for references, redirects, retries,
//! waits, requests a minute. No DTD is read, no entity expanded.
//!
//! What a server gets wrong (spec/taxii-2.md §15) is worked around where nothing is lost by it, told in
//! [`Facts::warnings`], and an error where going on would lose something or never end. Credentials go to the host of the
//! endpoint and those it trusts, and appear in no message.

mod body;
mod client;
mod envelope;
mod error;
mod http;
mod options;
mod page;
mod range;
mod stix1;
mod taxii1;
mod taxii2;
#[cfg(test)]
mod tests;
mod tls;
mod walk1;
mod walk2;
mod xml;

pub use client::{Client, Collection, Pages, Preview};
pub use error::SourceError;
pub use options::{Credentials, Endpoint, Identity, Options, Proxy, Secret, UnknownVersion, Version, shown};
pub use page::{Facts, Objects, Page, Place, Rejection};
pub use stix1::StixFile;
pub use tls::check_identity;
