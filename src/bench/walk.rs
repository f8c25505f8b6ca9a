//! From one page to the next, in both versions.

use super::client::{Page, Place, Version};

/// What follows a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    End,
    Go(Place),
    /// The server says that there is more, and not where.
    Stuck(&'static str),
}

/// What follows that page, which was asked for at `place`.
///
/// TAXII 2.1 goes on by `next`, or without one from the last date; 2.0 by the number of objects that came, whatever range
/// was asked for: some servers send fewer.
pub(super) fn following(version: Version, place: &Place, page: &Page) -> Step {
    match version {
        Version::V21 => following_21(place, page),
        Version::V20 => following_20(place, page),
    }
}

fn following_21(place: &Place, page: &Page) -> Step {
    if !page.facts.more {
        return Step::End;
    }
    if let Some(next) = page.facts.next.as_ref().filter(|next| !next.is_empty()) {
        return Step::Go(Place::Next(next.clone()));
    }
    match &page.last_date {
        None => Step::Stuck("`more` without `next` and without `X-TAXII-Date-Added-Last`"),
        Some(date) if *place == Place::After(date.clone()) => Step::Stuck("the same `X-TAXII-Date-Added-Last` again"),
        Some(date) => Step::Go(Place::After(date.clone())),
    }
}

fn following_20(place: &Place, page: &Page) -> Step {
    if page.beyond_end {
        return Step::End;
    }
    // All of it, if it says nothing of a range.
    let Some(range) = page.range else { return Step::End };
    let next = if let Place::Row(row) = place { *row } else { 0 } + page.facts.objects;
    match range.total {
        Some(total) if next >= total => Step::End,
        Some(_) if page.facts.objects == 0 => Step::Stuck("an empty page before the end that `Content-Range` names"),
        None if page.facts.objects == 0 => Step::End,
        _ => Step::Go(Place::Row(next)),
    }
}
