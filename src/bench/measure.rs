//! The measurements: requests one after another, what they took, and what was wrong with them.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use reqwest::Client;
use tokio::task::JoinSet;

use super::client::{Ask, Connector, Encoding, Failure, Page, Place, Size, Target, Version};
use super::report::{Latency, Measurement, grouped};
use super::walk::{Step, following};
use super::{BenchError, Event};
use crate::model::time::Timestamp;

/// A request that failed is made again so often.
const TRIES: u32 = 4;
/// A server that wants to be left alone for longer is not measured further.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// Places of a walk that are remembered; when there are more, every other one is forgotten.
const MARKS: usize = 1_024;
/// Ids of a walk that are held to look for repeated ones (16 bytes each).
const IDS_HELD: usize = 50_000_000;
/// The longest time that is told apart from longer ones, in microseconds.
const LONGEST: u64 = 3_600_000_000;
/// Pages without objects in a row after which a walk gives up.
const EMPTY_PAGES: u32 = 10;

/// Counters that can be read while a measurement goes on.
#[derive(Debug, Default)]
pub(super) struct Live {
    requests: AtomicU64,
    objects: AtomicU64,
    busy: AtomicU64,
}

impl Live {
    pub(super) fn event(&self) -> Event<'static> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Event::Goes { requests: read(&self.requests), objects: read(&self.objects), busy: read(&self.busy) }
    }
}

/// What a number of requests came to.
#[derive(Debug)]
pub(super) struct Tally {
    requests: u64,
    objects: u64,
    wire_bytes: u64,
    body_bytes: u64,
    /// Of the requests; with many clients, of the whole measurement.
    time: Duration,
    whole: Histogram<u64>,
    first_byte: Histogram<u64>,
    first_request: Option<Duration>,
    errors: BTreeMap<String, u64>,
    busy: u64,
    waited: Duration,
    /// How the pages really were compressed.
    answered: Option<Encoding>,
    complete: bool,
    notes: Vec<String>,
}

impl Tally {
    fn new() -> Result<Self, BenchError> {
        Ok(Tally {
            requests: 0,
            objects: 0,
            wire_bytes: 0,
            body_bytes: 0,
            time: Duration::ZERO,
            whole: Histogram::new_with_bounds(1, LONGEST, 3)?,
            first_byte: Histogram::new_with_bounds(1, LONGEST, 3)?,
            first_request: None,
            errors: BTreeMap::new(),
            busy: 0,
            waited: Duration::ZERO,
            answered: None,
            complete: true,
            notes: Vec::new(),
        })
    }

    fn take(&mut self, page: &Page) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.requests += 1;
        self.objects += page.facts.objects;
        self.wire_bytes += page.wire_bytes;
        self.body_bytes += page.body_bytes;
        self.time += page.whole;
        self.whole.saturating_record(micros(page.whole));
        self.first_byte.saturating_record(micros(page.first_byte));
        self.first_request.get_or_insert(page.whole);
        // An answer with nothing in it is rarely compressed.
        if page.facts.objects > 0 {
            self.answered.get_or_insert(page.encoding);
        }
    }

    fn add(&mut self, other: Tally) {
        self.requests += other.requests;
        self.objects += other.objects;
        self.wire_bytes += other.wire_bytes;
        self.body_bytes += other.body_bytes;
        // Both are of the same bounds, so this cannot fail.
        let _ = self.whole.add(&other.whole);
        let _ = self.first_byte.add(&other.first_byte);
        self.first_request = self.first_request.max(other.first_request);
        for (kind, count) in other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        self.busy += other.busy;
        self.waited += other.waited;
        self.answered = self.answered.or(other.answered);
        self.complete &= other.complete;
        for note in other.notes {
            self.note(note);
        }
    }

    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    pub(super) fn into_measurement(mut self, name: String, size: Size, encoding: Encoding) -> Measurement {
        if let Some(answered) = self.answered.filter(|answered| *answered != encoding) {
            self.note(format!("answered {}", answered.name()));
        }
        let seconds = self.time.as_secs_f64();
        let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        Measurement {
            name,
            size,
            encoding,
            answered_encoding: self.answered,
            requests: self.requests,
            objects: self.objects,
            complete: self.complete,
            wire_bytes: self.wire_bytes,
            body_bytes: self.body_bytes,
            seconds,
            objects_per_second: rate(self.objects),
            megabytes_per_second: rate(self.body_bytes) / 1e6,
            wire_megabytes_per_second: rate(self.wire_bytes) / 1e6,
            first_request_ms: self.first_request.map_or(0.0, |time| time.as_secs_f64() * 1e3),
            first_byte_ms: Latency::of(&self.first_byte),
            page_ms: Latency::of(&self.whole),
            errors: self.errors,
            asked_to_wait: self.busy,
            waited_seconds: self.waited.as_secs_f64(),
            notes: self.notes,
        }
    }
}

/// Ids are hashes already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }
}

/// Sums over a set of ids in any order: equal for equal sets, and different for others, but for an accident in 2^64.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Fingerprint {
    objects: u64,
    sum: u64,
    xor: u64,
}

impl Fingerprint {
    fn take(&mut self, page: &Page, ids: &[u64]) {
        self.objects += page.facts.objects;
        for id in ids {
            self.sum = self.sum.wrapping_add(*id);
            self.xor ^= id.rotate_left((id & 63) as u32);
        }
    }
}

/// What the walks found out about the collection.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// The most that a walk found.
    pub(super) objects: u64,
    /// Whether one came to the end.
    pub(super) complete: bool,
    pub(super) problems: Vec<String>,
    marks: Vec<(u64, Place)>,
    total: Option<u64>,
    last_date: Option<String>,
    an_id: Option<String>,
    fingerprint: Option<Fingerprint>,
}

/// Asks, waits, asks again.
struct Session {
    target: Arc<Target>,
    client: Client,
    live: Arc<Live>,
    tally: Tally,
    until: Option<Instant>,
    /// Hashes of the ids of the last page.
    ids: Vec<u64>,
}

impl Session {
    /// The page, or nothing when it does not come or the time is over; what went wrong is in the tally.
    async fn get(&mut self, ask: &Ask<'_>) -> Option<Page> {
        for tried in 1..=TRIES {
            self.ids.clear();
            let ids = &mut self.ids;
            let failure = match self.target.page(&self.client, ask, &mut |id| ids.push(id)).await {
                Ok(page) => {
                    self.tally.take(&page);
                    self.live.requests.fetch_add(1, Ordering::Relaxed);
                    self.live.objects.fetch_add(page.facts.objects, Ordering::Relaxed);
                    return Some(page);
                }
                Err(failure) => failure,
            };
            *self.tally.errors.entry(failure.kind()).or_default() += 1;
            let said = failure.detail().map_or_else(|| failure.kind(), |said| format!("{}: {said}", failure.kind()));
            let pause = Duration::from_millis(250) * 2_u32.pow(tried);
            let wait = match failure {
                Failure::Busy(_, after) => {
                    self.tally.busy += 1;
                    self.live.busy.fetch_add(1, Ordering::Relaxed);
                    let wait = after.unwrap_or(pause * 2);
                    if wait > LONGEST_WAIT {
                        self.tally
                            .note(format!("gave up: it wants to be left alone for {} s", grouped(wait.as_secs())));
                        return None;
                    }
                    // Whoever comes back earlier, or not at all, would measure something else.
                    self.tally.waited += wait;
                    wait
                }
                // The same request gets the same answer.
                Failure::Status(400..500, _) | Failure::NotJson | Failure::BadEncoding(_) => {
                    self.tally.note(said);
                    return None;
                }
                _ => pause,
            };
            if tried == TRIES {
                self.tally.note(said);
            } else if self.until.is_some_and(|until| Instant::now() + wait > until) {
                self.tally.note(format!("{said}; no time for another try"));
                return None;
            } else {
                tokio::time::sleep(wait).await;
            }
        }
        None
    }

    fn over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Walks through the collection once; `each` sees every page, the hashes of its ids and what follows. Whether it came to the end.
    async fn walk(
        &mut self,
        size: Size,
        encoding: Encoding,
        each: &mut (dyn FnMut(&Page, &[u64], &Step) + Send),
    ) -> bool {
        let mut place = Place::Start;
        let mut empty = 0;
        loop {
            let ask = Ask { place: &place, size, encoding, types: None, object: None };
            let Some(page) = self.get(&ask).await else { return false };
            let step = following(self.target.version, &place, &page);
            each(&page, &self.ids, &step);
            empty = if page.facts.objects == 0 { empty + 1 } else { 0 };
            match step {
                Step::End => return true,
                Step::Stuck(why) => {
                    self.tally.note(why.to_owned());
                    *self.tally.errors.entry("does not say where to go on".to_owned()).or_default() += 1;
                    return false;
                }
                Step::Go(_) if empty == EMPTY_PAGES => {
                    self.tally.note(format!("{EMPTY_PAGES} pages in a row without objects, and no end"));
                    *self.tally.errors.entry("no progress".to_owned()).or_default() += 1;
                    return false;
                }
                Step::Go(next) => place = next,
            }
            if self.over() {
                return false;
            }
        }
    }
}

/// Makes the measurements, one after another.
#[derive(Debug)]
pub(super) struct Runner {
    pub(super) connector: Connector,
    pub(super) client: Client,
    pub(super) target: Arc<Target>,
    pub(super) types: Option<String>,
    pub(super) clients: usize,
    pub(super) requests: u64,
    pub(super) time: Option<Duration>,
    pub(super) walk_time: Option<Duration>,
    pub(super) findings: Findings,
}

impl Runner {
    fn session(&self, client: Client, time: Option<Duration>, live: &Arc<Live>) -> Result<Session, BenchError> {
        Ok(Session {
            target: Arc::clone(&self.target),
            client,
            live: Arc::clone(live),
            tally: Tally::new()?,
            until: time.map(|time| Instant::now() + time),
            ids: Vec::new(),
        })
    }

    /// Where about half of the collection lies behind.
    pub(super) fn middle(&self) -> Option<Place> {
        let findings = &self.findings;
        if self.target.version == Version::V20 {
            let half = findings.total.unwrap_or(findings.objects) / 2;
            return (half > 0).then_some(Place::Row(half));
        }
        let half = findings.objects / 2;
        findings.marks.iter().min_by_key(|(rows, _)| rows.abs_diff(half)).map(|(_, place)| place.clone())
    }

    /// After the last object there is.
    pub(super) fn end(&self) -> Place {
        let last = self.findings.last_date.clone().filter(|_| self.findings.complete);
        Place::After(last.unwrap_or_else(|| Timestamp::now().to_string()))
    }

    /// The same request again and again.
    pub(super) async fn same_page(
        &self,
        place: &Place,
        size: Size,
        encoding: Encoding,
        of_type: bool,
        live: &Arc<Live>,
    ) -> Result<Tally, BenchError> {
        let types = self.types.as_deref().filter(|_| of_type);
        self.repeat(&Ask { place, size, encoding, types, object: None }, live).await
    }

    pub(super) async fn one_object(&self, live: &Arc<Live>) -> Result<Option<Tally>, BenchError> {
        let Some(id) = self.findings.an_id.as_deref() else { return Ok(None) };
        let ask =
            Ask { place: &Place::Start, size: Size::Server, encoding: Encoding::Plain, types: None, object: Some(id) };
        self.repeat(&ask, live).await.map(Some)
    }

    async fn repeat(&self, ask: &Ask<'_>, live: &Arc<Live>) -> Result<Tally, BenchError> {
        let mut session = self.session(self.client.clone(), self.time, live)?;
        for _ in 0..self.requests {
            if session.get(ask).await.is_none() {
                session.tally.complete = false;
                break;
            }
            if session.over() {
                break;
            }
        }
        Ok(session.tally)
    }

    /// All of the collection, once, with all checks.
    pub(super) async fn walk(&mut self, size: Size, encoding: Encoding, live: &Arc<Live>) -> Result<Tally, BenchError> {
        let mut session = self.session(self.client.clone(), self.walk_time, live)?;
        let mut seen: HashSet<u64, BuildHasherDefault<AsItIs>> = HashSet::default();
        let (mut repeated, mut checked) = (0_u64, true);
        let mut fingerprint = Fingerprint::default();
        let mut marks = Marks::default();
        let (mut total, mut last_date, mut an_id) = (None, None, None);
        let complete = session
            .walk(size, encoding, &mut |page: &Page, ids: &[u64], step: &Step| {
                fingerprint.take(page, ids);
                checked = checked && seen.len() + ids.len() <= IDS_HELD;
                if checked {
                    repeated += ids.iter().filter(|id| !seen.insert(**id)).count() as u64;
                }
                total = page.range.and_then(|range| range.total).or(total);
                if page.last_date.is_some() {
                    last_date.clone_from(&page.last_date);
                }
                if page.facts.first_id.is_some() {
                    an_id.clone_from(&page.facts.first_id);
                }
                if let Step::Go(next) = step {
                    // A date stays good; some servers forget a cursor.
                    let place = page.last_date.clone().map_or_else(|| next.clone(), Place::After);
                    marks.take(fingerprint.objects, place);
                }
            })
            .await;
        let mut tally = session.tally;
        tally.complete = complete;
        let name = super::report::label("walk", size, encoding);
        let findings = &mut self.findings;
        if repeated > 0 {
            findings.problems.push(format!("{name}: {} ids came more than once", grouped(repeated)));
        }
        if !checked {
            tally.note(format!("repeated ids were looked for among the first {}", grouped(IDS_HELD as u64)));
        }
        if !complete && tally.errors.is_empty() && tally.notes.is_empty() {
            tally.note("cut: the time was over".to_owned());
        }
        findings.objects = findings.objects.max(fingerprint.objects);
        findings.marks.append(&mut marks.list);
        findings.total = total.or(findings.total);
        findings.an_id = an_id.or(findings.an_id.take());
        if complete {
            findings.complete = true;
            findings.last_date = last_date.or(findings.last_date.take());
            findings.compare(&name, fingerprint);
        }
        Ok(tally)
    }

    /// That many clients, each on a connection of its own, walking until the time is over or once.
    pub(super) async fn many(&mut self, size: Size, encoding: Encoding, live: &Arc<Live>) -> Result<Tally, BenchError> {
        let mut clients = JoinSet::new();
        let began = Instant::now();
        for _ in 0..self.clients {
            let mut session = self.session(self.connector.connect()?, self.time, live)?;
            clients.spawn(async move {
                let mut walks = Vec::new();
                loop {
                    let mut fingerprint = Fingerprint::default();
                    let complete = session
                        .walk(size, encoding, &mut |page: &Page, ids: &[u64], _: &Step| fingerprint.take(page, ids))
                        .await;
                    if complete {
                        walks.push(fingerprint);
                    }
                    if !complete || session.until.is_none() || session.over() {
                        break;
                    }
                }
                (session.tally, walks)
            });
        }
        let mut all = Tally::new()?;
        let (mut least, mut most) = (u64::MAX, 0);
        let name = super::report::label(&format!("walks of {} clients", self.clients), size, encoding);
        let mut complete = 0;
        while let Some(joined) = clients.join_next().await {
            let Ok((tally, walks)) = joined else {
                all.note("a client of ours failed".to_owned());
                continue;
            };
            (least, most) = (least.min(tally.requests), most.max(tally.requests));
            all.add(tally);
            complete += walks.len() as u64;
            walks.into_iter().for_each(|walk| self.findings.compare(&name, walk));
        }
        all.time = began.elapsed();
        all.note(format!(
            "{} whole walks; pages of a client: {} to {}",
            grouped(complete),
            grouped(least),
            grouped(most)
        ));
        Ok(all)
    }
}

impl Findings {
    /// Every walk has to find the same.
    fn compare(&mut self, name: &str, walk: Fingerprint) {
        let first = *self.fingerprint.get_or_insert(walk);
        let problem = if walk.objects != first.objects {
            format!("{name}: {} objects, and {} in the first walk", grouped(walk.objects), grouped(first.objects))
        } else if walk != first {
            format!("{name}: other ids than in the first walk")
        } else {
            return;
        };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

/// Some places of a walk, evenly spread.
#[derive(Debug, Default)]
struct Marks {
    list: Vec<(u64, Place)>,
    pages: u64,
    /// Every so many pages, as a power of two.
    spread: u32,
}

impl Marks {
    fn take(&mut self, rows: u64, place: Place) {
        if self.pages.is_multiple_of(1 << self.spread) {
            self.list.push((rows, place));
        }
        self.pages += 1;
        if self.list.len() > MARKS {
            let mut keep = false;
            self.list.retain(|_| {
                keep = !keep;
                keep
            });
            self.spread += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_a_long_walk_stay_few_and_even() {
        let mut marks = Marks::default();
        (1..=100_000).for_each(|page| marks.take(page * 10, Place::Row(page)));
        assert!((MARKS / 2 - 1..=MARKS).contains(&marks.list.len()), "{}", marks.list.len());
        let middle = marks.list.iter().min_by_key(|(rows, _)| rows.abs_diff(500_000)).expect("some");
        assert!(middle.0.abs_diff(500_000) < 2_000, "{middle:?}");
    }

    fn page(objects: u64, whole: Duration) -> Page {
        Page {
            facts: super::super::scan::Facts { objects, ..Default::default() },
            beyond_end: false,
            range: None,
            last_date: None,
            encoding: Encoding::Plain,
            first_byte: whole / 2,
            whole,
            wire_bytes: 10,
            body_bytes: 100,
        }
    }

    #[test]
    fn times_of_all_clients_are_in_one_histogram() {
        let mut all = Tally::new().expect("bounds");
        for client in 0..2 {
            let mut tally = Tally::new().expect("bounds");
            // 1 ms to 100 ms, and one that took two minutes.
            (1..=100).for_each(|ms| tally.take(&page(1, Duration::from_millis(ms))));
            tally.take(&page(1, Duration::from_secs(120 * client)));
            all.add(tally);
        }
        let measurement = all.into_measurement("m".to_owned(), Size::Server, Encoding::Plain);
        let near = |value: f64, expected: f64| (value - expected).abs() < expected / 500.0;
        assert_eq!((measurement.requests, measurement.objects, measurement.body_bytes), (202, 202, 20_200));
        assert!(near(measurement.page_ms.p50, 50.0) && near(measurement.page_ms.p99, 100.0), "{measurement:?}");
        assert!(
            near(measurement.page_ms.max, 120_000.0) && near(measurement.first_byte_ms.p50, 25.0),
            "{measurement:?}"
        );
    }

    #[test]
    fn a_fingerprint_knows_sets_apart_in_any_order() {
        let of = |pages: &[&[u64]]| {
            let mut print = Fingerprint::default();
            pages.iter().for_each(|ids| print.take(&page(ids.len() as u64, Duration::ZERO), ids));
            print
        };
        let one = of(&[&[1, 2, 3], &[4]]);
        assert_eq!(one, of(&[&[4, 3], &[2, 1]]));
        for other in [of(&[&[1, 2, 3]]), of(&[&[1, 2, 3, 3]]), of(&[&[1, 2, 3, 5]]), of(&[&[1, 1, 4, 4]])] {
            assert_ne!(one, other);
        }
    }
}
