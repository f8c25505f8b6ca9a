//! Whether single rows belong to a collection: for those who found the rows by other ways than paging.

use crate::feed::StoreFeed;
use crate::feed::api::FeedError;
use crate::feed::matching::{Predicate, Records};
use crate::feed::page::unreadable;
use crate::store::SegmentView;

/// The records of a collection as of some time.
#[derive(Debug)]
pub(crate) struct Members {
    feed: StoreFeed,
    base: Records,
    clocked: Option<Predicate>,
}

impl Members {
    pub(super) fn new(feed: StoreFeed, base: Records, clocked: Option<Predicate>) -> Self {
        Members { feed, base, clocked }
    }

    /// Whether the row is one of them; whether it is superseded is not looked at. Runs on the calling pool.
    pub(crate) fn hold(&self, view: &SegmentView, row: u32) -> Result<bool, FeedError> {
        let within = self.base.rows_within(self.feed.match_index(), &view.segment, row..row + 1).map_err(unreadable)?;
        if !within.rows.contains(row) {
            return Ok(false);
        }
        self.clocked.as_ref().map_or(Ok(true), |clocked| holds(view, row, clocked))
    }
}

/// Whether the row was posted to an inbox. Runs on the calling pool.
pub(crate) fn posted(feed: &StoreFeed, view: &SegmentView, row: u32) -> Result<bool, FeedError> {
    if view.segment.meta().posted_rows() == 0 {
        return Ok(false);
    }
    feed.match_index().holds(&view.segment, feed.is_posted(), row).map_err(unreadable)
}

/// Whether the condition holds for one row: building a bitmap for it would scan the segment.
pub(super) fn holds(view: &SegmentView, row: u32, predicate: &Predicate) -> Result<bool, FeedError> {
    let row = row..row + 1;
    for batch in view.segment.read(std::slice::from_ref(&row), predicate.columns(), 1).map_err(unreadable)? {
        let bits = predicate.matches(&batch.map_err(unreadable)?).map_err(unreadable)?;
        if bits.true_count() == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}
