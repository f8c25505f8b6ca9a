//! Walks through a collection or feed of TAXII 1.x: poll, then the parts of the result.
//!
//! The next poll begins where this one ended by the server's own words, the `Inclusive_End_Timestamp` of the result's
//! first part; where that is missing at the newest label of a block, else at the server's `Date`.
//!
//! 1.0 has no parts, and servers that send only so many blocks at a time do not say so, and give the end of the whole
//! range all the same. So a feed is asked again from its newest label on until nothing newer comes.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::time::Timestamp;
use crate::source::client::Collection;
use crate::source::error::SourceError;
use crate::source::http::{Answer, blocking};
use crate::source::options::{Version, shown};
use crate::source::page::{Facts, Objects, Page, Place};
use crate::source::stix1::{Poll, Reader};
use crate::source::taxii1::{PollRequest, Taxii1, status_in};

/// So many parts of one result are asked for.
const MAX_PARTS: u32 = 1_000_000;

/// A walk under way.
#[derive(Debug)]
pub(super) struct Walk1 {
    taxii: Arc<Taxii1>,
    collection: Collection,
    place: Place,
    /// End of the time range asked for, where ranges are.
    window_end: Option<Timestamp>,
    reading: Option<Box<Reading>>,
    notes: Vec<String>,
    is_done: bool,
    has_restarted: bool,
    /// Parts without content that followed each other.
    empty_parts: u32,
    newest: Option<Timestamp>,
    /// 1.0: where the next poll of this range begins.
    from_label: Option<Timestamp>,
    /// 1.0: newest label reached, and the most blocks of an answer.
    reached: Option<Timestamp>,
    most_blocks: u64,
    is_past_ties: bool,
    /// 1.0: the documents of the answer before, which come again.
    before: HashSet<u64>,
}

#[derive(Debug)]
struct Reading {
    hashes: HashSet<u64>,
    reader: Reader,
    bytes: u64,
    url: String,
    asked_at: Option<Timestamp>,
    pending: Option<Objects>,
    is_read: bool,
    facts: Facts,
}

impl Walk1 {
    pub(super) fn new(taxii: Arc<Taxii1>, collection: Collection, from: Place) -> Result<Self, SourceError> {
        from.check(collection.version, &collection.title)?;
        let mut place = Place { version: Some(collection.version), ..from };
        if collection.version == Version::V10 {
            place.result = None;
        }
        Ok(Walk1 {
            taxii,
            collection,
            place,
            window_end: None,
            reading: None,
            notes: Vec::new(),
            is_done: false,
            has_restarted: false,
            empty_parts: 0,
            newest: None,
            from_label: None,
            reached: None,
            most_blocks: 0,
            is_past_ties: false,
            before: HashSet::new(),
        })
    }

    /// How many records there are, where the server says so.
    pub(super) async fn count(&self) -> Option<u64> {
        if self.collection.version != Version::V11 {
            return None;
        }
        let request = PollRequest {
            collection: &self.collection.id,
            subscription: None,
            begin: None,
            end: None,
            count_only: true,
        };
        let answer = self.taxii.poll(&self.collection.root, Version::V11, &request).await.ok()?;
        let mut reader = Reader::new(answer.body, self.taxii.http.options().max_object_bytes).ok()?;
        let read = blocking(move || {
            while reader.next(&mut Facts::default())?.is_some() {}
            Ok(reader.poll)
        });
        read.await.ok()?.count
    }

    /// The next page; none at the end.
    pub(super) async fn next_page(&mut self) -> Result<Option<Page>, SourceError> {
        if self.is_done {
            return Ok(None);
        }
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            None => match self.ask().await? {
                Some(reading) => reading,
                None => {
                    self.end_result(None, &mut Facts::default());
                    return Ok(Some(self.page(Objects::default(), Facts::default())));
                }
            },
        };
        let drops = std::mem::take(&mut self.before);
        let of_feed = self.collection.version == Version::V10;
        let read = blocking(move || {
            let objects = reading.read(&drops, of_feed)?;
            Ok((objects, reading, drops))
        });
        let (objects, mut reading, drops) = read.await.map_err(|error| self.no_room(&error))?;
        self.before = drops;
        if reading.is_read && reading.pending.is_none() {
            return self.finish(objects, *reading).map(Some);
        }
        let facts = Facts { more: true, ..std::mem::take(&mut reading.facts) };
        self.reading = Some(reading);
        Ok(Some(Page { objects, place: self.place.clone(), facts }))
    }

    fn no_room(&self, error: &std::io::Error) -> SourceError {
        SourceError::Spool {
            folder: self.taxii.http.options().spool_folder.display().to_string(),
            reason: error.to_string(),
        }
    }

    fn page(&mut self, objects: Objects, mut facts: Facts) -> Page {
        self.notes.drain(..).for_each(|note| facts.warn(note));
        facts.more = !self.is_done;
        facts.ends_answer = true;
        Page { objects, place: self.place.clone(), facts }
    }

    /// The next answer; none when there is no further part after all.
    async fn ask(&mut self) -> Result<Option<Box<Reading>>, SourceError> {
        let started = Instant::now();
        loop {
            let answer = match self.place.result.clone() {
                Some((result, part)) => {
                    let answer = self.taxii.fulfil(&self.collection.root, &self.collection.id, &result, part).await;
                    match answer {
                        Err(error) if is_about_result(&error) => {
                            if is_beyond_end(&error, part) {
                                self.notes
                                    .push("the server said that a part follows which it does not have".to_owned());
                                return Ok(None);
                            }
                            if self.has_restarted {
                                return Err(error);
                            }
                            self.has_restarted = true;
                            self.notes.push(format!(
                                "the result that was under way is gone, so it was asked for anew: {error}"
                            ));
                            self.place.result = None;
                            self.place.until = None;
                            continue;
                        }
                        answer => answer?,
                    }
                }
                None => self.poll().await?,
            };
            let mut answer = answer;
            let Some(status) = status_in(&mut answer) else {
                return self.reading(answer, started).map(|reading| Some(Box::new(reading)));
            };
            self.wait_for_result(&answer, &status, started).await?;
        }
    }

    async fn poll(&mut self) -> Result<Answer, SourceError> {
        let mut begin = self.place.after.filter(|_| self.collection.is_ordered);
        if self.from_label.is_some() {
            begin = self.from_label;
        } else {
            let window = self.taxii.http.options().poll_window;
            self.window_end = match (window, begin, self.taxii.http.server_now()) {
                (Some(window), Some(begin), Some(now)) => {
                    let micros = i64::try_from(window.as_micros()).unwrap_or(i64::MAX);
                    Some(Timestamp(begin.0.saturating_add(micros))).filter(|end| *end < now)
                }
                _ => None,
            };
        }
        let request = PollRequest {
            collection: &self.collection.id,
            subscription: self.taxii.http.endpoint().subscription.as_deref(),
            begin,
            end: self.window_end,
            count_only: false,
        };
        self.taxii.poll(&self.collection.root, self.collection.version, &request).await
    }

    /// The server makes a result of it, to be asked for later.
    async fn wait_for_result(
        &mut self,
        answer: &Answer,
        status: &crate::source::taxii1::Status,
        started: Instant,
    ) -> Result<(), SourceError> {
        let options = self.taxii.http.options();
        let url = shown(&answer.url);
        let result = status.detail("RESULT_ID").map(str::trim).filter(|id| !id.is_empty()).map(str::to_owned);
        let known = self.place.result.as_ref().map(|(id, _)| id.clone());
        let Some(result) = result.or(known).filter(|_| status.kind == "PENDING") else {
            return Err(SourceError::NotTaxii {
                url,
                version: Some(self.collection.version),
                reason: format!(
                    "it answered a poll with status `{}` and no content",
                    crate::source::error::quoted(&status.kind)
                ),
            });
        };
        let wait = status.wait().unwrap_or(options.first_wait).clamp(Duration::from_millis(1), options.longest_wait);
        if started.elapsed() + wait > options.answer_timeout {
            return Err(SourceError::Timeout {
                url,
                reason: "it is still making the result that was asked for".to_owned(),
            });
        }
        let part = self.place.result.as_ref().map_or(1, |(_, part)| *part);
        self.place.result = Some((result, part));
        tokio::time::sleep(wait).await;
        Ok(())
    }

    fn reading(&self, answer: Answer, started: Instant) -> Result<Reading, SourceError> {
        let elapsed = i64::try_from(started.elapsed().as_micros()).unwrap_or(i64::MAX);
        let asked_at = self.taxii.http.server_now().map(|now| Timestamp(now.0.saturating_sub(elapsed)).floor_second());
        let bytes = answer.body.len();
        let url = shown(&answer.url);
        let reader = Reader::new(answer.body, self.taxii.http.options().max_object_bytes)
            .map_err(|error| self.no_room(&error))?;
        Ok(Reading {
            hashes: HashSet::new(),
            reader,
            bytes,
            url,
            asked_at,
            pending: None,
            is_read: false,
            facts: Facts::default(),
        })
    }

    fn finish(&mut self, objects: Objects, reading: Reading) -> Result<Page, SourceError> {
        let mut facts = reading.facts;
        facts.bytes = reading.bytes;
        let poll = reading.reader.poll;
        if !poll.is_poll {
            return Err(SourceError::NotTaxii {
                url: reading.url,
                version: Some(self.collection.version),
                reason: "its answer is no poll response; check that the URL is that of a poll service".to_owned(),
            });
        }
        facts.total = poll.count;
        self.newest = self.newest.max(poll.newest);
        let part = self.place.result.as_ref().map_or(poll.part.unwrap_or(1).max(1), |(_, part)| *part);
        if self.place.result.is_none() || part == 1 {
            self.place.until = poll.end;
        }
        self.empty_parts = if poll.blocks == 0 { self.empty_parts + 1 } else { 0 };
        self.before = reading.hashes;
        if self.collection.version == Version::V10 && self.goes_on(&poll, &mut facts) {
            return Ok(self.page(objects, facts));
        }
        let result = poll.result_id.clone().or_else(|| self.place.result.as_ref().map(|(id, _)| id.clone()));
        match result {
            Some(result) if poll.more && part < MAX_PARTS && self.empty_parts < 100 => {
                self.place.result = Some((result, part + 1));
            }
            _ => {
                if poll.more {
                    facts.warn("the server says that more follows, and not how to get it");
                }
                self.end_result(Some((&poll, reading.asked_at)), &mut facts);
            }
        }
        Ok(self.page(objects, facts))
    }

    /// Whether a feed of 1.0 may have more than it sent, and then from where on.
    fn goes_on(&mut self, poll: &Poll, facts: &mut Facts) -> bool {
        let Some(newest) = poll.newest.filter(|_| poll.blocks > 0) else { return false };
        let just_before = Timestamp(newest.0.saturating_sub(1));
        self.most_blocks = self.most_blocks.max(poll.blocks);
        if self.reached.is_none_or(|reached| newest > reached) {
            self.reached = Some(newest);
            self.is_past_ties = false;
            self.from_label = Some(just_before);
        } else if poll.blocks >= self.most_blocks && poll.blocks > 1 && !self.is_past_ties {
            facts.warn(format!(
                "the server has at least {} blocks of {newest}, as many as it sends at a time: if there are more of them, they cannot be fetched",
                poll.blocks
            ));
            self.is_past_ties = true;
            self.from_label = Some(newest);
        } else {
            return false;
        }
        self.place.after = self.place.after.max(Some(just_before));
        self.place.until = None;
        true
    }

    /// All parts are there: the next poll begins where this one ended.
    fn end_result(&mut self, last: Option<(&Poll, Option<Timestamp>)>, facts: &mut Facts) {
        let until = self.place.until.or_else(|| last.and_then(|(poll, _)| poll.end));
        let fallback = || {
            let asked_at = last.and_then(|(_, asked_at)| asked_at);
            self.newest.or(asked_at)
        };
        let end = match until {
            Some(until) => Some(until),
            None if !self.collection.is_ordered => None,
            None => {
                facts.warn("the server gives no Inclusive_End_Timestamp: the newest label of a block, or its Date, is taken as the end");
                fallback()
            }
        };
        let after = end.max(self.place.after);
        (self.from_label, self.reached) = (None, None);
        self.place = Place { version: Some(self.collection.version), after, ..Place::default() };
        match self.window_end.take() {
            // The next range of time.
            Some(window_end) => {
                self.place.after = after.max(Some(window_end));
                self.is_done = false;
            }
            None => self.is_done = true,
        }
    }
}

impl Reading {
    /// The next documents. Of a feed, those that came with the answer before are left out.
    fn read(&mut self, drops: &HashSet<u64>, of_feed: bool) -> std::io::Result<Objects> {
        let now = match self.pending.take() {
            Some(objects) => objects,
            None => self.read_one(drops, of_feed)?.unwrap_or_default(),
        };
        if !self.is_read {
            self.pending = self.read_one(drops, of_feed)?;
        }
        Ok(now)
    }

    fn read_one(&mut self, drops: &HashSet<u64>, of_feed: bool) -> std::io::Result<Option<Objects>> {
        let mut objects = self.reader.next(&mut self.facts)?;
        self.is_read = objects.is_none();
        if let (Some(objects), true) = (&mut objects, of_feed) {
            self.facts.repeated += objects.keep(|text| {
                let mut hasher = DefaultHasher::new();
                text.hash(&mut hasher);
                let hash = hasher.finish();
                self.hashes.insert(hash);
                !drops.contains(&hash)
            });
        }
        Ok(objects)
    }
}

/// Whether a part was refused because its result is gone, or never had it.
fn is_about_result(error: &SourceError) -> bool {
    match error {
        SourceError::NotFound { .. } => true,
        SourceError::Refused { status, .. } => {
            matches!(status.as_str(), "ASYNCHRONOUS_POLL_ERROR" | "INVALID_RESPONSE_PART" | "BAD_MESSAGE" | "FAILURE")
        }
        _ => false,
    }
}

/// Whether the server has no part of that number, and we have all it has.
fn is_beyond_end(error: &SourceError, part: u32) -> bool {
    let SourceError::Refused { status, detail, .. } = error else { return false };
    let most =
        detail.split("MAX_PART_NUMBER ").nth(1).and_then(|text| text.split(|c: char| !c.is_ascii_digit()).next());
    status == "INVALID_RESPONSE_PART" && most.and_then(|text| text.parse::<u32>().ok()).is_some_and(|most| most < part)
}
