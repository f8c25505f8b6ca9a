//! What servers and exports ask of the feed, free of HTTP.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::feed::collection::{Catalog, Collection};
use crate::model::time::Timestamp;

pub use crate::render::{Profile, StixVersion};

/// Where pages come from: the real feed, or a fake in tests.
#[async_trait]
pub trait Feed: fmt::Debug + Send + Sync + 'static {
    /// The collections as they are now. Cheap: called on every request.
    fn catalog(&self) -> Arc<Catalog>;

    /// Plans one page of `collection` and starts its body. When this returns, every fact in [`Page`] is final and only
    /// the body is still to come. Dropping the future or the body cancels the work behind it.
    async fn page(&self, collection: &Arc<Collection>, shape: Shape, request: PageRequest) -> Result<Page, FeedError>;
}

/// Which resource a page is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// The envelope of STIX objects.
    Objects,
    /// Manifest records.
    Manifest,
    /// The versions resource of one object; [`PageRequest::object`] is set.
    Versions,
}

/// How the bytes of a body are packed for the way (RFC 9110 §8.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Coding {
    /// Not at all.
    #[default]
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// Which versions of an object a page takes (`match[version]`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Versions {
    /// The newest, which is what a request without the parameter gets.
    #[default]
    Last,
    /// Every one that is still there.
    All,
    /// A union of the oldest, the newest and exact ones.
    Some {
        /// The oldest.
        first: bool,
        /// The newest.
        last: bool,
        /// Versions by instant, without repeats.
        exact: Vec<Timestamp>,
    },
}

/// The filters of TAXII 2.1 §3.4, parsed. Different fields narrow, values of one field widen; empty means no filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filters {
    /// Only what was added strictly later.
    pub added_after: Option<Timestamp>,
    /// STIX ids.
    pub ids: Vec<String>,
    /// STIX types; a type nobody has heard of matches nothing.
    pub types: Vec<String>,
    /// Versions of each object.
    pub versions: Versions,
    /// `2.0`, `2.1`; empty means the newest of each object.
    pub spec_versions: Vec<String>,
}

/// Which filters stood in the request. Beside a cursor, an absent one means "as before" and a present one must agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// `added_after` was there.
    pub added_after: bool,
    /// `match[id]` was there.
    pub ids: bool,
    /// `match[type]` was there.
    pub types: bool,
    /// `match[version]` was there.
    pub versions: bool,
    /// `match[spec_version]` was there.
    pub spec_versions: bool,
}

/// One page, as asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// The one object meant, by its STIX id, for the object and versions resources. One that the collection does not
    /// hold is [`FeedError::UnknownObject`]; one that the filters leave nothing of is an empty page.
    pub object: Option<String>,
    /// The filters, defaults where the request had none.
    pub filters: Filters,
    /// Which of them the request had.
    pub given: Given,
    /// Most items wanted, already within [`Collection::max_page_size`]; `None` means [`Collection::page_size`].
    pub limit: Option<u64>,
    /// The cursor, as the client sent it.
    pub next: Option<String>,
    /// Version of the objects, and of the resource around them.
    pub version: StixVersion,
    /// The items wanted by number, as TAXII 2.0 pages (§3.4); stands in place of `limit` and `next`.
    pub range: Option<ItemRange>,
    /// Count everything that fits the filters, for [`Page::total`].
    pub wants_total: bool,
    /// How a body in pieces is to be packed.
    pub coding: Coding,
}

/// Items by number, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemRange {
    /// The first.
    pub first: u64,
    /// How many; 0 asks for none.
    pub count: u64,
}

/// A planned page.
#[derive(Debug)]
pub struct Page {
    /// `date_added` of the first item. On an empty page: the date a client should go on from if the feed knows it
    /// (from the cursor), else `None`.
    pub first: Option<Timestamp>,
    /// `date_added` of the last item; on an empty page as above.
    pub last: Option<Timestamp>,
    /// Further items exist behind this page.
    pub more: bool,
    /// Items in this page.
    pub objects: u64,
    /// Items that fit the filters, on all pages; only when asked for.
    pub total: Option<u64>,
    /// Names what the page says: equal tags, equal objects under equal headers, however packed (RFC 9110 §8.8.3, weak).
    pub tag: u64,
    /// How the body is packed.
    pub coding: Coding,
    /// The resource, framing included.
    pub body: Body,
}

/// The bytes of a page.
pub enum Body {
    /// All of it: answers with a `Content-Length`. Right for anything small.
    Whole(Bytes),
    /// Piece by piece. An error item ends the stream, and cuts the connection if anything was sent before.
    Stream(BoxStream<'static, Result<Bytes, FeedError>>),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::Whole(bytes) => f.debug_tuple("Whole").field(&bytes.len()).finish(),
            Body::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// A source error of another module, kept for the log.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why there is no page, or why its body ended early.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The cursor is not ours, is damaged, or is too old to use.
    #[error(
        "`next` cannot be used: {reason}; start again without it, with `added_after` set to the last date received"
    )]
    BadCursor {
        /// What is wrong with it, fit for a client.
        reason: &'static str,
    },
    /// A filter beside the cursor is not the one the walk began with.
    #[error("`{name}` differs from the request that `next` came from; repeat it unchanged or leave it out")]
    FiltersDiffer {
        /// The parameter.
        name: &'static str,
    },
    /// The filters are longer than a cursor can carry.
    #[error("the `match` filters are too long: about {ids} ids fit into one request; ask in several")]
    FiltersTooLong {
        /// How many ids do fit.
        ids: usize,
    },
    /// The collection holds no object of that id.
    #[error("the collection holds no object `{id}`")]
    UnknownObject {
        /// The id asked for.
        id: String,
    },
    /// The range begins behind the last item.
    #[error("there are only {total} items; ask for a range that begins before the last of them")]
    BehindTheEnd {
        /// How many there are.
        total: u64,
    },
    /// Memory or workers are used up; the same request may succeed shortly.
    #[error("the feed is busy; ask again in a few seconds")]
    Busy,
    /// The stored data could not be read.
    #[error("read {what}")]
    Store {
        /// What was being read.
        what: &'static str,
        /// The reason, for the log only.
        source: Source,
    },
    /// The collection's query could not be evaluated, or its rows could not be rendered.
    #[error("{what}")]
    Internal {
        /// What was being done.
        what: &'static str,
        /// The reason, for the log only.
        source: Source,
    },
}
