//! Lists of values, one a line: what firewalls and proxies pull.
//!
//! A first walk, the survey, reads narrow columns and keeps eight bytes of each line: enough to know which lines come more than
//! once, how many there are, where the newest ones begin, and what the list's `ETag` is. The second walk writes. Only lines of
//! which the survey saw another with the same hash are held and compared, so a list of millions takes little memory, and a
//! repeated value comes once.
//!
//! Addresses that are put together or sorted are held, five bytes each (17 of version 6); so is a sorted list.

mod item;
mod networks;
mod survey;

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

pub use self::item::{DomainForm, ListType, UrlForm};
use self::item::{Forms, Item};
use self::networks::Networks;
use self::survey::{Survey, SurveyedSlice};
use crate::export::ExportError;
use crate::export::values::{self, Values};
use crate::feed::api::FeedError;
use crate::feed::collection::Collection;
use crate::feed::{RowWalk, Slice, StoreFeed, WalkRequest, WalkRows};
use crate::model::schema::column as c;
use crate::model::time::{MICROS_PER_SECOND, Timestamp};

/// Rows planned at a time.
const CHUNK_ROWS: u64 = 1 << 20;
/// Rows read at a time.
const SLICE_ROWS: usize = 8_192;
/// Lines of addresses written at a time.
const PIECE_LINES: usize = 16_384;
/// Bytes of a sorted list handed out at a time.
const PIECE_BYTES: usize = 256 << 10;
/// Lists of which the server remembers what they are.
const REMEMBERED: usize = 256;
/// Surveys that a server makes at once.
const SURVEYS: usize = 2;

/// Which values a list holds, and how they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ListOptions {
    /// Kinds of values; empty: addresses, domains, URLs, mail addresses and hashes.
    pub types: Vec<ListType>,
    /// At most so many, the newest; before addresses are put together.
    pub max_items: Option<u64>,
    /// Addresses as the fewest networks that hold the same ones.
    pub aggregate: bool,
    /// How URLs are written.
    pub urls: UrlForm,
    /// How domain names are written.
    pub domains: DomainForm,
    /// In which order.
    pub order: ListOrder,
    /// Expired and revoked ones as well.
    pub stale: bool,
}

/// The order of a list. Addresses that are put together come first, by number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ListOrder {
    /// As they were added to the store.
    #[default]
    Added,
    /// Addresses by number, then everything else by its bytes. Held in memory.
    Value,
}

impl ListOptions {
    fn forms(&self) -> Forms {
        let mut types = self.types.clone();
        types.sort_unstable();
        types.dedup();
        Forms { types, urls: self.urls, domains: self.domains }
    }

    /// Whether addresses are held, instead of written as they come.
    fn holds_networks(&self) -> bool {
        self.aggregate || self.order == ListOrder::Value
    }
}

/// What a list is, known before its first byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListFacts {
    /// Names its content: as long as that is the same, so is this.
    pub etag: String,
    /// When it may last have changed.
    pub modified: Timestamp,
    /// Lines.
    pub items: u64,
    /// Values beyond [`ListOptions::max_items`].
    pub left_out: u64,
    /// Values that cannot stand in a list.
    pub unfit: u64,
    /// Until when it stays what it is if the store does; `None`: it may change at any time.
    valid_until: Option<Timestamp>,
}

/// A list, surveyed and ready to be written.
#[derive(Debug)]
pub struct Listing {
    /// What it is.
    pub facts: ListFacts,
    feed: StoreFeed,
    walk: RowWalk,
    options: ListOptions,
    networks: Networks,
    /// Hashes that several lines have.
    repeated: Arc<HashSet<u64>>,
    /// Entries of each slice, and how many entries in front are left out.
    slices: Vec<u32>,
    skipped: u64,
    has_lines: bool,
    after: Option<Timestamp>,
}

/// What both walks do with a row, besides its values.
struct Reader {
    forms: Forms,
    stale: bool,
    now: Timestamp,
}

impl Reader {
    fn new(options: &ListOptions, walk: &RowWalk) -> Self {
        Reader { forms: options.forms(), stale: options.stale, now: walk.standpoint().asked }
    }

    /// Calls `each` with what becomes of every value of the slice, and the lines of that value.
    fn read(
        &self,
        slice: &Slice,
        mut expires: impl FnMut(Timestamp),
        mut each: impl FnMut(Item, &[u8]),
    ) -> Result<(), ExportError> {
        let columns = [values::COLUMNS, &[c::EXPIRATION, c::REVOKED]].concat();
        let mut lines = Vec::new();
        slice.columns::<ExportError>(&columns, values::NATIVE_COLUMNS, |batch| {
            let values = Values::bind(&batch)?;
            for row in 0..batch.num_rows() {
                if !self.stale {
                    if values.bound.revoked.get(row) {
                        continue;
                    }
                    if let Some(expiration) = values.bound.expiration.get(row) {
                        expires(expiration);
                        if expiration <= self.now {
                            continue;
                        }
                    }
                }
                values.each(row, |value| {
                    lines.clear();
                    let item = self.forms.item(&value, &mut lines);
                    if item != Item::Unwanted {
                        each(item, &lines);
                    }
                });
            }
            Ok(())
        })
    }
}

/// Surveys a list; `on_rows` hears how far it is.
pub(super) async fn survey(
    feed: &StoreFeed,
    walk: RowWalk,
    options: &ListOptions,
    after: Option<Timestamp>,
    mut on_rows: impl FnMut(u64),
) -> Result<Listing, ExportError> {
    let reader = Reader::new(options, &walk);
    let holds_networks = options.holds_networks();
    let work =
        move |slice: Slice| SurveyedSlice::of(&slice, &reader, holds_networks).map(|found| (found, slice.rows()));
    let mut ordered = feed.ordered(work);
    let mut survey = Survey::default();
    let mut from = after;
    loop {
        let (planned, at) = (walk.clone(), from);
        let chunk = blocking(move || planned.rows(at, CHUNK_ROWS)).await?;
        let (last, more) = (chunk.last, chunk.more);
        let mut slices = chunk.slices(SLICE_ROWS).into_iter();
        while let Some(found) = ordered.next(&mut slices).await {
            let (found, rows) = found?;
            survey.take(found);
            on_rows(rows as u64);
        }
        if !more {
            break;
        }
        from = last;
    }
    let options = options.clone();
    let feed = feed.clone();
    blocking(move || Ok(listing(feed, walk, options, survey, after))).await
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FeedError> + Send + 'static,
) -> Result<T, ExportError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(ExportError::internal("survey a list"))??)
}

fn listing(feed: StoreFeed, walk: RowWalk, options: ListOptions, survey: Survey, after: Option<Timestamp>) -> Listing {
    let now = walk.standpoint().asked;
    let mut settled = survey.settle(options.max_items, feed.pool());
    let networks = std::mem::take(&mut settled.networks);
    let networks = match (options.aggregate, options.order) {
        (true, _) => networks.aggregated(),
        (false, ListOrder::Value) => networks.sorted(),
        (false, ListOrder::Added) => networks,
    };
    let clocked = walk.is_clocked();
    let expired = settled.last_expired(now);
    let facts = ListFacts {
        etag: settled.etag(&networks, &options),
        modified: if clocked { now } else { walk.published().max(expired.unwrap_or(Timestamp(0))) },
        items: settled.lines + networks.len() as u64,
        left_out: settled.skipped,
        unfit: settled.unfit,
        valid_until: (!clocked).then(|| settled.next_expiration.unwrap_or(Timestamp(i64::MAX))),
    };
    Listing {
        facts,
        feed,
        walk,
        options,
        networks,
        has_lines: settled.lines > 0,
        repeated: Arc::new(settled.repeated),
        slices: settled.slices,
        skipped: settled.skipped,
        after,
    }
}

/// A slice of the second walk, with the entries at its front that are left out.
struct Wanted {
    slice: Slice,
    skip: u32,
}

/// Lines of a slice. Those that may be repeated are told apart.
struct Written {
    bytes: Vec<u8>,
    /// Where such lines are, in order.
    suspects: Vec<std::ops::Range<usize>>,
}

impl Listing {
    /// The list, piece by piece; it may be polled behind its end. Needs a tokio runtime.
    pub fn lines(self) -> BoxStream<'static, Result<Bytes, ExportError>> {
        let networks: Vec<Bytes> = match self.networks.len() {
            0 => Vec::new(),
            _ => self.networks.pieces(PIECE_LINES).map(Bytes::from).collect(),
        };
        let first = stream::iter(networks.into_iter().map(Ok));
        if !self.has_lines {
            return first.fuse().boxed();
        }
        let sorted = self.options.order == ListOrder::Value;
        let rest = Writing::new(self).stream();
        if !sorted {
            return first.chain(rest).fuse().boxed();
        }
        let rest = stream::once(sorted_lines(rest)).flat_map(|sorted| match sorted {
            Ok(pieces) => stream::iter(pieces.into_iter().map(Ok)).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        });
        first.chain(rest).fuse().boxed()
    }
}

async fn sorted_lines(mut pieces: BoxStream<'static, Result<Bytes, ExportError>>) -> Result<Vec<Bytes>, ExportError> {
    let mut whole = Vec::new();
    while let Some(piece) = pieces.next().await {
        whole.extend_from_slice(&piece?);
    }
    let sorted = move || {
        let mut lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        lines.sort_unstable();
        let mut pieces = Vec::new();
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        for line in lines {
            if piece.len() + line.len() > PIECE_BYTES {
                pieces.push(Bytes::from(std::mem::take(&mut piece)));
            }
            piece.extend_from_slice(line);
        }
        pieces.push(Bytes::from(piece));
        pieces
    };
    tokio::task::spawn_blocking(sorted).await.map_err(ExportError::internal("sort a list"))
}

/// The second walk.
struct Writing {
    walk: RowWalk,
    ordered: crate::runtime::Ordered<Wanted, Written, ExportError>,
    /// Where the next chunk begins; `None` when there is none.
    from: Option<Option<Timestamp>>,
    pending: std::vec::IntoIter<Wanted>,
    /// Entries of the slices to come.
    slices: std::vec::IntoIter<u32>,
    to_skip: u64,
    /// Lines that came and may come again.
    seen: HashSet<Box<[u8]>>,
}

impl Writing {
    fn new(listing: Listing) -> Self {
        let Listing { feed, walk, options, repeated, slices, skipped, after, .. } = listing;
        let reader = Reader::new(&options, &walk);
        let holds_networks = options.holds_networks();
        let work = move |wanted: Wanted| write(&wanted, &reader, &repeated, holds_networks);
        Writing {
            ordered: feed.ordered(work),
            walk,
            from: Some(after),
            pending: Vec::new().into_iter(),
            slices: slices.into_iter(),
            to_skip: skipped,
            seen: HashSet::new(),
        }
    }

    fn stream(self) -> BoxStream<'static, Result<Bytes, ExportError>> {
        let step = |state: Option<Writing>| async move {
            let mut writing = state?;
            match writing.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(writing))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        };
        stream::unfold(Some(self), step).fuse().boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, ExportError> {
        loop {
            while let Some(written) = self.ordered.next(&mut self.pending).await {
                let bytes = self.without_repeats(written?);
                if !bytes.is_empty() {
                    return Ok(Some(bytes.into()));
                }
            }
            let Some(from) = self.from.take() else { return Ok(None) };
            let walk = self.walk.clone();
            let chunk = blocking(move || walk.rows(from, CHUNK_ROWS)).await?;
            if chunk.more {
                self.from = Some(chunk.last);
            }
            let mut wanted = Vec::new();
            for slice in chunk.slices(SLICE_ROWS) {
                // The same walk is cut the same way.
                let entries = self.slices.next().unwrap_or_default();
                let skip = self.to_skip.min(u64::from(entries)) as u32;
                self.to_skip -= u64::from(skip);
                if skip < entries {
                    wanted.push(Wanted { slice, skip });
                }
            }
            self.pending = wanted.into_iter();
        }
    }

    fn without_repeats(&mut self, written: Written) -> Vec<u8> {
        let Written { bytes, suspects } = written;
        if suspects.is_empty() {
            return bytes;
        }
        let mut out = Vec::with_capacity(bytes.len());
        let mut at = 0;
        for suspect in suspects {
            let line = &bytes[suspect.clone()];
            if !self.seen.insert(line.into()) {
                out.extend_from_slice(&bytes[at..suspect.start]);
                at = suspect.end;
            }
        }
        out.extend_from_slice(&bytes[at..]);
        out
    }
}

fn write(
    wanted: &Wanted,
    reader: &Reader,
    repeated: &HashSet<u64>,
    holds_networks: bool,
) -> Result<Written, ExportError> {
    let mut written = Written { bytes: Vec::new(), suspects: Vec::new() };
    let mut to_skip = wanted.skip;
    let mut network = Vec::new();
    reader.read(
        &wanted.slice,
        |_| {},
        |item, lines| {
            survey::entries(&item, lines, holds_networks, &mut network, |entry| {
                if to_skip > 0 {
                    to_skip -= 1;
                } else if let survey::Entry::Line(line) = entry {
                    let start = written.bytes.len();
                    written.bytes.extend_from_slice(line);
                    if !repeated.is_empty() && repeated.contains(&survey::hash(line)) {
                        written.suspects.push(start..written.bytes.len());
                    }
                }
            });
        },
    )?;
    Ok(written)
}

/// The lists of a server.
pub struct Lists {
    feed: StoreFeed,
    known: Mutex<LruCache<Key, (u64, ListFacts)>>,
    surveys: Semaphore,
}

/// Collection, its query, what of it has a form, options.
type Key = (String, String, String, ListOptions);

impl std::fmt::Debug for Lists {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lists").finish_non_exhaustive()
    }
}

impl Lists {
    /// Lists of the collections of that feed.
    pub fn new(feed: StoreFeed) -> Self {
        let remembered = std::num::NonZeroUsize::MIN.saturating_add(REMEMBERED - 1);
        Lists { feed, known: Mutex::new(LruCache::new(remembered)), surveys: Semaphore::new(SURVEYS) }
    }

    fn key(collection: &Collection, options: &ListOptions) -> Key {
        let form = format!("{:?}", collection.options);
        (collection.id.clone(), collection.query_text.clone(), form, options.clone())
    }

    /// What the list is, if that is known without looking: nothing was committed since, and nothing has expired.
    pub async fn known(
        &self,
        collection: &Collection,
        options: &ListOptions,
    ) -> Result<Option<ListFacts>, ExportError> {
        let store = self.feed.store().clone();
        let unreadable = |source| FeedError::Store { what: "the store", source: Box::new(source) };
        let newest = blocking(move || store.snapshot().map_err(unreadable)).await?;
        let now = self.feed.store().now();
        let still = |facts: &ListFacts| facts.valid_until.is_some_and(|until| now < until);
        let mut known = self.known.lock();
        let found = known.get(&Self::key(collection, options));
        Ok(found.filter(|(seen, facts)| *seen == newest.version() && still(facts)).map(|(_, facts)| facts.clone()))
    }

    /// Surveys the list. Waits while others are surveyed.
    pub async fn listing(&self, collection: &Arc<Collection>, options: &ListOptions) -> Result<Listing, ExportError> {
        let _turn = self.surveys.acquire().await.map_err(ExportError::internal("wait for a turn"))?;
        let (feed, walked) = (self.feed.clone(), Arc::clone(collection));
        let request =
            WalkRequest { version: collection.options.version, rows: WalkRows::Records, ..WalkRequest::default() };
        let walk = blocking(move || feed.walk(&walked, &request)).await?;
        let version = walk.standpoint().snapshot;
        let mut listing = survey(&self.feed, walk, options, None, |_| {}).await?;
        let (key, facts) = (Self::key(collection, options), &mut listing.facts);
        let mut known = self.known.lock();
        if let Some((_, before)) = known.get(&key) {
            facts.modified = match before.etag == facts.etag {
                true => before.modified,
                // The header has whole seconds, and another content must not have the date of the one before.
                false => facts.modified.max(Timestamp(before.modified.0 + MICROS_PER_SECOND)),
            };
        }
        known.put(key, (version, facts.clone()));
        drop(known);
        Ok(listing)
    }
}
