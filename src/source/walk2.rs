//! Walks through a collection of TAXII 2.0 or 2.1 whatever the server makes of paging (spec/taxii-2.md §15).
//!
//! In 2.1 the way is `next` where there is one, with the filter of the walk's begin; where there is none, `added_after` of
//! the newest date, a microsecond earlier, so that objects of an equal date come again rather than never, and are known
//! by their bytes. In 2.0 the range goes on by what was received, whatever `Content-Range` says.
//!
//! A request with `next` may be sent again only where cursors change from page to page: a server that hands out the same
//! one each time keeps the place itself and would skip a page. Then, and where a cursor has expired, the walk begins anew
//! at the newest date that is sure to have been reached.
//!
//! Headers of dates are believed for resuming within a walk only when they go on from page to page; some servers send
//! those of the whole collection with each. At the end of a walk both say the same.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use reqwest::header::{HeaderMap, HeaderValue, RANGE};
use serde::Deserialize;
use url::Url;

use crate::model::time::Timestamp;
use crate::source::client::Collection;
use crate::source::envelope::{Envelope, Fault};
use crate::source::error::SourceError;
use crate::source::http::{Answer, blocking};
use crate::source::options::{Version, shown};
use crate::source::page::{Facts, Objects, Page, Place};
use crate::source::range::ContentRange;
use crate::source::taxii2::{Media, Taxii2, below};

/// So often the same page may come before the walk ends.
const MAX_STRIKES: u32 = 3;

/// So many empty pages may follow each other.
const MAX_EMPTY: u32 = 50;

/// So often a walk may begin anew.
const MAX_RESTARTS: u32 = 3;

/// The largest page asked for where a date has more objects than fit.
const MAX_LIMIT: u32 = 1_000_000;

/// So many objects at the end of a page are looked up in the manifest.
const LOOKED_UP: usize = 20;

/// The pages remembered to know one that comes again.
const MAX_SEEN: usize = 100_000;

/// A walk under way.
#[derive(Debug)]
pub(super) struct Walk2 {
    taxii: Arc<Taxii2>,
    collection: Collection,
    /// What has been handed on is stored with this.
    place: Place,
    /// What the next request asks for.
    step: Step,
    /// None: as many as the server likes.
    limit: Option<u32>,
    reading: Option<Box<Reading>>,
    is_done: bool,
    /// What is told with the next page.
    notes: Vec<String>,
    seen: HashSet<u64>,
    /// The objects of the answer before.
    before: HashSet<u64>,
    /// The newest date of the answer before, as its headers tell.
    before_last: Option<Timestamp>,
    /// Newest date of the walk.
    newest: Option<Timestamp>,
    /// The last objects received, to be looked up in the manifest.
    recent: Vec<String>,
    /// Newest date up to which everything was received.
    sure: Option<Timestamp>,
    has_stable_cursors: bool,
    has_answered: bool,
    /// 2.0: `items 0-9`, as examples print it, in place of `items=0-9`.
    has_blank_ranges: bool,
    strikes: u32,
    empty: u32,
    restarts: u32,
}

/// What to ask for.
#[derive(Clone, Debug, Default)]
struct Step {
    after: Option<Timestamp>,
    next: Option<String>,
    offset: u64,
    /// Continuing by date: what comes again is expected to.
    by_date: bool,
    /// Nothing says that there is more; it is only looked for.
    is_doubtful: bool,
}

/// An answer being read.
#[derive(Debug)]
struct Reading {
    envelope: Envelope,
    url: Url,
    bytes: u64,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    has_odd_dates: bool,
    range: Option<ContentRange>,
    hashes: HashSet<u64>,
    fingerprint: DefaultHasher,
    recent: Vec<String>,
    fresh: u64,
    pending: Option<Objects>,
    is_read: bool,
    facts: Facts,
}

impl Walk2 {
    pub(super) fn new(taxii: Arc<Taxii2>, collection: Collection, from: Place) -> Result<Self, SourceError> {
        from.check(collection.version, &collection.title)?;
        let page_size = taxii.http.options().page_size;
        let mut step = Step { after: from.after, ..Step::default() };
        if from.version == Some(collection.version) {
            step.next.clone_from(&from.next);
            step.offset = from.offset.unwrap_or(0);
            if let (Some(last), None) = (from.last, &from.next) {
                step = Step { after: just_before(Some(last)), ..Step::default() };
            }
        } else if from.last.is_some() {
            step.after = just_before(from.last);
        }
        let place = Place { version: Some(collection.version), ..from };
        Ok(Walk2 {
            taxii,
            sure: place.last,
            newest: place.last,
            place,
            step,
            limit: Some(page_size.clamp(1, MAX_LIMIT)),
            reading: None,
            is_done: false,
            notes: Vec::new(),
            seen: HashSet::new(),
            before: HashSet::new(),
            before_last: None,
            recent: Vec::new(),
            // A cursor of another day is asked for once: it may have been kept by the server.
            has_stable_cursors: false,
            has_answered: false,
            has_blank_ranges: false,
            strikes: 0,
            empty: 0,
            restarts: 0,
            collection,
        })
    }

    /// Asks for no more than so many at a time.
    pub(super) fn limit_to(&mut self, most: u32) {
        self.limit = self.limit.map(|limit| limit.min(most.max(1)));
    }

    /// The next page; none at the end of the walk.
    pub(super) async fn next_page(&mut self) -> Result<Option<Page>, SourceError> {
        if self.is_done {
            return Ok(None);
        }
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            None => match self.ask().await? {
                Some(reading) => reading,
                None => return self.empty_page().await.map(Some),
            },
        };
        let drops = self.step.by_date.then(|| std::mem::take(&mut self.before));
        let url = shown(&reading.url);
        let folder = self.taxii.http.options().spool_folder.display().to_string();
        let read = blocking(move || {
            let read = reading.read(drops.as_ref());
            Ok((read, reading, drops))
        });
        let (read, reading, drops) =
            read.await.map_err(|error| SourceError::Spool { folder: folder.clone(), reason: error.to_string() })?;
        if let Some(drops) = drops {
            self.before = drops;
        }
        let objects = read.map_err(|fault| envelope_error(url, folder, self.collection.version, fault))?;
        if reading.is_read && reading.pending.is_none() {
            return self.finish(objects, *reading).await.map(Some);
        }
        let mut reading = reading;
        let facts = Facts { more: true, ..std::mem::take(&mut reading.facts) };
        self.reading = Some(reading);
        Ok(Some(Page { objects, place: self.place.clone(), facts }))
    }

    fn page(&mut self, objects: Objects, mut facts: Facts) -> Page {
        self.notes.drain(..).for_each(|note| facts.warn(note));
        facts.more = !self.is_done;
        facts.ends_answer = true;
        Page { objects, place: self.place.clone(), facts }
    }

    /// A collection that says in its own way that nothing (more) is there.
    async fn empty_page(&mut self) -> Result<Page, SourceError> {
        self.end_walk(&mut Facts::default()).await;
        Ok(self.page(Objects::default(), Facts::default()))
    }

    /// Sends the request of this step; none when the answer is that there is nothing.
    async fn ask(&mut self) -> Result<Option<Box<Reading>>, SourceError> {
        loop {
            let (url, headers) = self.request();
            let media = if self.collection.version == Version::V20 { Media::Stix20 } else { Media::V21 };
            let may_repeat = self.step.next.is_none() || self.has_stable_cursors;
            let version = self.collection.version;
            let again = move |error: &SourceError| error.is_transient() && (may_repeat || !error.may_have_arrived());
            let answer =
                self.taxii.get_checked(&url, media, &headers, again, move |answer| check(answer, version)).await;
            let error = match answer {
                Ok(answer) => {
                    self.has_answered = true;
                    return Ok(Some(Box::new(Reading::new(answer, self.taxii.http.options().max_object_bytes))));
                }
                Err(error) => error,
            };
            match &error {
                // The range is beyond the end.
                SourceError::Status { status: 416, .. } if version == Version::V20 => return Ok(None),
                SourceError::Status { status: 400, .. }
                    if version == Version::V20 && !self.has_blank_ranges && !self.has_answered =>
                {
                    self.has_blank_ranges = true;
                    continue;
                }
                // More than the server gives at a time, which some refuse instead of giving less.
                SourceError::Status { status: 400 | 413 | 422, .. }
                    if version == Version::V21
                        && self.step.next.is_none()
                        && self.limit.is_some()
                        && !self.has_answered =>
                {
                    self.limit = match self.limit {
                        Some(limit) if limit > 1_000 => Some(1_000),
                        Some(limit) if limit > 100 => Some(100),
                        _ => None,
                    };
                    let limit = self.limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
                    self.notes.push(format!("the server refused the page size; the limit is {limit} now"));
                    continue;
                }
                SourceError::NotFound { .. } if !self.has_answered && self.step.next.is_none() => {
                    // Servers that answer so for an empty collection know the collection itself.
                    let root = crate::source::taxii2::Root {
                        url: self.collection.root.clone(),
                        version,
                        title: String::new(),
                    };
                    if self.taxii.collection(&root, &self.collection.id).await.is_err() {
                        return Err(error);
                    }
                    self.notes.push(
                        "the server answers 404 for the objects of a collection that it has; taken as empty".to_owned(),
                    );
                    return Ok(None);
                }
                _ if self.step.next.is_some() && is_about_cursor(&error) && self.restarts < MAX_RESTARTS => {
                    self.restart(&error)
                }
                _ => return Err(error),
            }
        }
    }

    /// Begins anew where everything before is sure to have been received.
    fn restart(&mut self, error: &SourceError) {
        self.restarts += 1;
        self.notes.push(format!("the walk began anew by date, since its cursor cannot be used any more: {error}"));
        let after = just_before(self.sure).max(self.place.after);
        self.step = Step { after, ..Step::default() };
        self.place.next = None;
        self.seen.clear();
        self.before.clear();
        self.before_last = None;
    }

    fn request(&self) -> (Url, HeaderMap) {
        let mut url = below(&self.collection.root, &["collections", &self.collection.id, "objects"]);
        let mut headers = HeaderMap::new();
        let is_20 = self.collection.version == Version::V20;
        {
            let mut query = url.query_pairs_mut();
            if let Some(after) = self.step.after {
                query.append_pair("added_after", &after.to_string());
            }
            if !is_20 {
                if let Some(limit) = self.limit {
                    query.append_pair("limit", itoa::Buffer::new().format(limit));
                }
                if let Some(next) = &self.step.next {
                    query.append_pair("next", next);
                }
            }
        }
        if url.query() == Some("") {
            url.set_query(None);
        }
        if is_20 {
            let first = self.step.offset;
            let last = first + u64::from(self.limit.unwrap_or(MAX_LIMIT)) - 1;
            let between = if self.has_blank_ranges { ' ' } else { '=' };
            headers.extend(
                HeaderValue::from_str(&format!("items{between}{first}-{last}")).ok().map(|value| (RANGE, value)),
            );
        }
        (url, headers)
    }

    /// All of an answer has been read: where does the walk stand?
    async fn finish(&mut self, objects: Objects, reading: Reading) -> Result<Page, SourceError> {
        let mut facts = reading.facts.clone();
        facts.bytes = reading.bytes;
        if reading.has_odd_dates {
            facts.warn("the server's X-TAXII-Date-Added headers are no dates");
        }
        let count = reading.envelope.count();
        if let (Some(limit), true) = (self.limit, count > 0)
            && count > u64::from(limit)
        {
            facts.warn(format!("the server sent {count} objects where {limit} were asked for"));
        }
        let newest = reading.first.max(reading.last);
        let oldest = if reading.first.is_some() { reading.first.min(reading.last) } else { None };
        if count > 0 {
            // Only dates that go on from page to page are those of the pages.
            if let (Some(before), Some(oldest), Some(newest)) = (self.before_last, oldest, newest)
                && oldest >= before
                && newest > before
            {
                self.sure = self.sure.max(Some(newest));
            }
            self.before_last = newest;
            self.newest = self.newest.max(newest);
            self.recent.clone_from(&reading.recent);
        }
        let fingerprint = reading.fingerprint.finish();
        let is_repeat = count > 0 && !self.remember(fingerprint);
        self.empty = if count == 0 { self.empty + 1 } else { 0 };
        // By date, what came again was left out one by one.
        let was_by_date = self.step.by_date;
        if count > 0 && !is_repeat && !was_by_date {
            self.strikes = 0;
        }
        if self.collection.version == Version::V20 {
            self.finish_20(&reading, is_repeat, &mut facts).await?;
        } else {
            self.finish_21(&reading, is_repeat, newest, &mut facts).await?;
        }
        self.before = reading.hashes;
        let objects = if is_repeat && !was_by_date {
            facts.repeated += objects.len() as u64;
            Objects::default()
        } else {
            objects
        };
        Ok(self.page(objects, facts))
    }

    fn remember(&mut self, fingerprint: u64) -> bool {
        if self.seen.len() >= MAX_SEEN {
            self.seen.clear();
        }
        self.seen.insert(fingerprint)
    }

    fn no_progress(&self, reading: &Reading, reason: &str) -> SourceError {
        SourceError::NoProgress { url: shown(&reading.url), reason: reason.to_owned() }
    }

    async fn finish_20(&mut self, reading: &Reading, is_repeat: bool, facts: &mut Facts) -> Result<(), SourceError> {
        let count = reading.envelope.count();
        let asked = self.step.offset;
        let range = reading.range;
        facts.total = range.and_then(|range| range.total);
        if is_repeat {
            self.strikes += 1;
            facts.warn("the server sent a page that it had sent before; left out");
            if range.is_none() {
                // It knows no ranges: that was everything, again.
                self.end_walk(facts).await;
                return Ok(());
            }
            if self.strikes >= MAX_STRIKES {
                return Err(self.no_progress(
                    reading,
                    "it sends the same page again and again; its paging is broken, so set a larger page size",
                ));
            }
        }
        if let Some(first) = range.and_then(|range| range.first)
            && first != asked
            && count > 0
        {
            facts.warn(format!(
                "the server's Content-Range begins at {first} where {asked} was asked for; what came is counted"
            ));
        }
        let offset = asked + count;
        let is_end = match range.and_then(|range| range.total) {
            Some(total) => count == 0 || offset >= total,
            None if range.is_some() => count == 0,
            // The whole, or a server that says nothing about ranges.
            None => count == 0 || count < u64::from(self.limit.unwrap_or(MAX_LIMIT)),
        };
        if let Some(total) = facts.total
            && count == 0
            && offset < total
        {
            // Servers that take the end of a range for exclusive send nothing where one object was asked for.
            let limit = self.limit.unwrap_or(MAX_LIMIT);
            if self.empty <= 2 && limit < MAX_LIMIT {
                self.limit = Some(limit.saturating_mul(2).min(MAX_LIMIT));
                return Ok(());
            }
            facts.warn(format!("the server counts {total} objects and sends no more than {offset}"));
        }
        if is_end {
            self.end_walk(facts).await;
        } else {
            self.step.offset = offset;
            self.place = Place {
                version: Some(Version::V20),
                after: self.step.after,
                offset: Some(offset),
                last: self.sure,
                ..Place::default()
            };
        }
        Ok(())
    }

    async fn finish_21(
        &mut self,
        reading: &Reading,
        is_repeat: bool,
        newest: Option<Timestamp>,
        facts: &mut Facts,
    ) -> Result<(), SourceError> {
        let count = reading.envelope.count();
        let more: Option<bool> = reading.envelope.member("more");
        let next = reading.next();
        let step = self.step.clone();
        if is_repeat && !step.by_date {
            facts.warn("the server sent a page that it had sent before; left out");
            self.strikes += 1;
            if step.is_doubtful {
                self.end_walk(facts).await;
                return Ok(());
            }
            if self.strikes >= MAX_STRIKES {
                return Err(self.no_progress(
                    reading,
                    "it sends the same page again and again; its paging is broken, so set a page size that holds everything",
                ));
            }
        }
        if self.empty > MAX_EMPTY {
            return Err(self.no_progress(reading, "it sends empty pages and says that more follows"));
        }
        if step.is_doubtful && reading.fresh == 0 {
            self.end_walk(facts).await;
            return Ok(());
        }
        if let Some(next) = next {
            // `more` is true, missing or wrong; one look tells.
            let is_same = step.next.as_ref() == Some(&next);
            self.has_stable_cursors = step.next.is_some() && !is_same;
            // A server that keeps the place itself may have moved on before whoever resumes comes back: cursors are only
            // worth keeping once one was seen to differ from the one before.
            let can_resume = self.has_stable_cursors && self.strikes == 0;
            self.place = Place {
                version: Some(Version::V21),
                after: step.after,
                next: can_resume.then(|| next.clone()),
                last: self.sure,
                ..Place::default()
            };
            self.step =
                Step { after: step.after, next: Some(next), is_doubtful: more == Some(false), ..Step::default() };
            return Ok(());
        }
        let is_full = self.limit.is_some_and(|limit| count >= u64::from(limit));
        let is_doubtful = more != Some(true);
        if is_doubtful && (more == Some(false) || !is_full) {
            self.end_walk(facts).await;
            return Ok(());
        }
        if count == 0 {
            facts.warn("the server says that more follows an empty page, and not how to get it");
            self.end_walk(facts).await;
            return Ok(());
        }
        self.go_on_by_date(reading, newest, is_doubtful, facts).await
    }

    /// No cursor: the next page begins at the newest date of this one.
    async fn go_on_by_date(
        &mut self,
        reading: &Reading,
        newest: Option<Timestamp>,
        is_doubtful: bool,
        facts: &mut Facts,
    ) -> Result<(), SourceError> {
        let newest = match newest {
            Some(newest) => Some(newest),
            None => self.look_up(facts).await,
        };
        let Some(newest) = newest else {
            if is_doubtful {
                self.end_walk(facts).await;
                return Ok(());
            }
            return Err(self.no_progress(
                reading,
                "it says that more follows, and gives neither `next` nor dates; set a page size that holds everything",
            ));
        };
        self.newest = self.newest.max(Some(newest));
        let after = just_before(Some(newest));
        let moves = after > self.step.after || self.step.after.is_none();
        if moves && (reading.fresh > 0 || !self.step.by_date) {
            self.strikes = 0;
            self.step = Step { after, by_date: true, is_doubtful, ..Step::default() };
            // Everything older than the newest date is there.
            self.place = Place { version: Some(Version::V21), after, ..Place::default() };
            return Ok(());
        }
        // More objects of one date than fit into a page: a larger one has to hold them.
        let limit = self.limit.unwrap_or(MAX_LIMIT);
        let answers_more = self.strikes == 0 || reading.fresh > 0;
        if limit < MAX_LIMIT && answers_more {
            self.strikes = if reading.fresh == 0 { self.strikes + 1 } else { 0 };
            self.limit = Some(limit.saturating_mul(2).min(MAX_LIMIT));
            self.step.by_date = true;
            self.step.is_doubtful = is_doubtful;
            return Ok(());
        }
        if self.step.after.is_some_and(|after| after >= newest) {
            return Err(self.no_progress(
                reading,
                "it sends the same page again and again; set a page size that holds everything",
            ));
        }
        facts.warn(format!(
            "more objects were added at {newest} than the server sends at a time, and it gives no `next`: some of them cannot be fetched"
        ));
        self.strikes += 1;
        if self.strikes > MAX_STRIKES {
            return Err(
                self.no_progress(reading, "it takes no notice of `added_after`; set a page size that holds everything")
            );
        }
        self.step = Step { after: Some(newest), by_date: true, is_doubtful, ..Step::default() };
        self.place = Place { version: Some(Version::V21), after: Some(newest), ..Place::default() };
        Ok(())
    }

    /// The walk is over: the next one begins after the newest date of this one.
    async fn end_walk(&mut self, facts: &mut Facts) {
        self.is_done = true;
        let newest = match self.newest {
            Some(newest) => Some(newest),
            None if self.recent.is_empty() => None,
            None => self.look_up(facts).await,
        };
        if newest.is_none() && !self.recent.is_empty() {
            facts.warn("the server tells no dates of its objects, neither in headers nor in the manifest: each fetch reads them all again");
        }
        let after = newest.max(self.place.after);
        self.place = Place { version: Some(self.collection.version), after, ..Place::default() };
    }

    /// The newest date of the last objects, from the manifest.
    async fn look_up(&self, facts: &mut Facts) -> Option<Timestamp> {
        if self.recent.is_empty() {
            return None;
        }
        facts.warn("the server sends no X-TAXII-Date-Added-Last; the manifest is asked instead");
        match self.taxii.newest_of(&self.collection, &self.recent).await {
            Ok(newest) => newest,
            Err(error) => {
                facts.warn(format!("the manifest cannot be read: {error}"));
                None
            }
        }
    }
}

/// `added_after` is exclusive: a microsecond earlier gets the objects of that date again.
fn just_before(at: Option<Timestamp>) -> Option<Timestamp> {
    at.map(|at| Timestamp(at.0.saturating_sub(1)))
}

/// Whether a request may have failed for its cursor.
fn is_about_cursor(error: &SourceError) -> bool {
    match error {
        SourceError::NotFound { .. } => true,
        SourceError::Status { status, .. } => matches!(status, 400 | 409 | 416 | 422) || *status >= 500,
        _ => error.may_have_arrived(),
    }
}

/// Whether an answer is worth being read: complete, and an envelope.
fn check(answer: &mut Answer, version: Version) -> Result<(), SourceError> {
    let url = shown(&answer.url);
    let failed =
        |error: std::io::Error| SourceError::Spool { folder: "the spool folder".to_owned(), reason: error.to_string() };
    let end = answer.body.end(256).map_err(failed)?;
    let start = answer.body.start(256).map_err(failed)?;
    let begins = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&start).trim_ascii_start().first().copied();
    match begins {
        Some(b'{' | b'[') => {}
        Some(b'<') => {
            let reason = "it answers with HTML or XML; check the URL, and what stands before the server".to_owned();
            return Err(SourceError::NotTaxii { url, version: Some(version), reason });
        }
        Some(_) => {
            let reason = "its answer is no JSON object".to_owned();
            return Err(SourceError::NotTaxii { url, version: Some(version), reason });
        }
        None => return Err(SourceError::Truncated { url, reason: "it is empty".to_owned() }),
    }
    if !matches!(end.trim_ascii_end().last(), Some(b'}' | b']')) {
        return Err(SourceError::Truncated { url, reason: "its JSON does not end".to_owned() });
    }
    Envelope::check_whole(&mut answer.body).map_err(|fault| envelope_error(url, String::new(), version, fault))
}

fn envelope_error(url: String, folder: String, version: Version, fault: Fault) -> SourceError {
    match fault {
        Fault::Ends => SourceError::Truncated { url, reason: "its JSON does not end".to_owned() },
        Fault::Other(reason) => SourceError::NotTaxii { url, version: Some(version), reason },
        Fault::Io(error) => SourceError::Spool { folder, reason: error.to_string() },
    }
}

impl Reading {
    fn new(answer: Answer, max_object_bytes: usize) -> Self {
        let date = |name: &str| answer.header(name).map(str::trim).filter(|text| !text.is_empty());
        let read = |text: Option<&str>| text.and_then(|text| crate::source::http::http_date(text.trim_matches('"')));
        let [first_text, last_text] = ["x-taxii-date-added-first", "x-taxii-date-added-last"].map(date);
        let [first, last] = [first_text, last_text].map(read);
        let has_odd_dates = first.is_none() && first_text.is_some() || last.is_none() && last_text.is_some();
        let range = answer.header("content-range").and_then(ContentRange::parse);
        Reading {
            bytes: answer.body.len(),
            envelope: Envelope::new(answer.body, max_object_bytes),
            url: answer.url,
            first,
            last,
            has_odd_dates,
            range,
            hashes: HashSet::new(),
            fingerprint: DefaultHasher::new(),
            recent: Vec::new(),
            fresh: 0,
            pending: None,
            is_read: false,
            facts: Facts::default(),
        }
    }

    /// Text or number; an empty one is none.
    fn next(&self) -> Option<String> {
        let text = self.envelope.member::<String>("next");
        let number = || self.envelope.member::<serde_json::Number>("next").map(|number| number.to_string());
        text.or_else(number).filter(|next| !next.is_empty())
    }

    /// The next objects, without those in `drops`. One page is read ahead, so that the last one is known as such.
    fn read(&mut self, drops: Option<&HashSet<u64>>) -> Result<Objects, Fault> {
        let now = match self.pending.take() {
            Some(objects) => objects,
            None => self.read_one(drops)?.unwrap_or_default(),
        };
        if !self.is_read {
            self.pending = self.read_one(drops)?;
        }
        Ok(now)
    }

    fn read_one(&mut self, drops: Option<&HashSet<u64>>) -> Result<Option<Objects>, Fault> {
        let Some(mut objects) = self.envelope.next(&mut self.facts)? else {
            self.is_read = true;
            return Ok(None);
        };
        let hash_of = |text: &[u8]| {
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            hasher.finish()
        };
        for text in objects.iter() {
            let hash = hash_of(text);
            hash.hash(&mut self.fingerprint);
            self.hashes.insert(hash);
        }
        let ids = objects.iter().rev().take(LOOKED_UP).filter_map(id_of).collect::<Vec<_>>();
        if !ids.is_empty() {
            self.recent = ids;
        }
        if let Some(drops) = drops {
            self.facts.repeated += objects.keep(|text| !drops.contains(&hash_of(text)));
        }
        self.fresh += objects.len() as u64;
        Ok(Some(objects))
    }
}

/// The id of an object, if it has one that can be asked for.
fn id_of(text: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        id: String,
    }
    let Named { id } = serde_json::from_slice(text).ok()?;
    (!id.contains(',') && id.len() < 300).then_some(id)
}
