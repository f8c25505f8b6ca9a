//! A block of lines: scanned, looked up, written again with what was found.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use memchr::memchr;

use crate::enrich::detail::{self, Detail, Told};
use crate::enrich::find::{self, Asked, Relation};
use crate::enrich::index::Index;
use crate::enrich::lines::Block;
use crate::enrich::rows::type_of;
use crate::enrich::scan::{Fault, Object, Scanner, Text, unescape_into};
use crate::enrich::table::Filed;
use crate::enrich::value::{Key, Kind, Value, classify};
use crate::enrich::{AllowList, EnrichError, EnrichOptions, Format, Session};
use crate::model::json::string_into;
use crate::model::time::Timestamp;

/// Rows that are considered for one line: no event means more, and somebody may send one that is made to.
const MOST_CANDIDATES: usize = 1_000;
/// Lines that cannot be read and are named.
pub const FAULTS_SHOWN: usize = 10;

/// What became of lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All lines, blank ones included.
    pub lines: u64,
    /// Lines that are events.
    pub events: u64,
    /// Events that something was found for.
    pub enriched: u64,
    /// Indicators found in them.
    pub matches: u64,
    /// Events that were enriched before, and went through as they are.
    pub enriched_before: u64,
    /// Lines that are no events, and went through as they are.
    pub malformed: u64,
    /// The first of those, each with its number and the reason.
    pub faults: Vec<(u64, String)>,
}

impl Tally {
    /// Adds what comes behind.
    pub fn add(&mut self, other: Tally) {
        self.lines += other.lines;
        self.events += other.events;
        self.enriched += other.enriched;
        self.matches += other.matches;
        self.enriched_before += other.enriched_before;
        self.malformed += other.malformed;
        self.faults.extend(other.faults);
        self.faults.truncate(FAULTS_SHOWN);
    }

    fn fault(&mut self, line: u64, reason: impl Into<String>) {
        self.malformed += 1;
        if self.faults.len() < FAULTS_SHOWN {
            self.faults.push((line, reason.into()));
        }
    }
}

/// A row that may be what a text of a line is.
#[derive(Debug)]
struct Candidate {
    part: u32,
    row: u32,
    asked: AskedFor,
    /// In [`Candidates::fields`].
    field: Range<usize>,
}

/// What was asked for, kept.
#[derive(Clone, Debug)]
struct AskedFor {
    kind: Kind,
    above: bool,
    relation: Relation,
    /// In [`Candidates::keys`]: scheme and bytes.
    scheme: Range<usize>,
    bytes: Range<usize>,
}

/// A line that has some.
#[derive(Debug)]
struct Hit {
    /// In the block.
    start: usize,
    object: Object,
    candidates: Range<usize>,
}

#[derive(Debug, Default)]
struct Candidates {
    all: Vec<Candidate>,
    keys: Vec<u8>,
    /// Names of fields.
    fields: Vec<u8>,
}

impl Candidates {
    fn key(&self, asked: &AskedFor) -> Key<'_> {
        let get = |range: &Range<usize>| self.keys.get(range.clone()).unwrap_or_default();
        Key { kind: asked.kind, scheme: get(&asked.scheme), bytes: get(&asked.bytes) }
    }
}

/// Reads texts; keeps its memory from one to the next.
#[derive(Debug, Default)]
struct Reader {
    /// A text without its escapes.
    plain: Vec<u8>,
    spelling: Vec<u8>,
    of_host: Vec<u8>,
}

impl Reader {
    /// Calls `each` for the values of a text of an event.
    fn text(&mut self, text: &Text<'_>, options: &EnrichOptions, each: impl FnMut(&Value<'_>, bool)) {
        if !text.escaped {
            return self.values(text.raw, options, each);
        }
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        unescape_into(text.raw, &mut plain);
        self.values(&plain, options, each);
        self.plain = plain;
    }

    /// Calls `each` for what a text is, and where that is asked for, with `true`, for the host behind it.
    #[inline]
    fn values(&mut self, text: &[u8], options: &EnrichOptions, mut each: impl FnMut(&Value<'_>, bool)) {
        let Some(value) = classify(text, &mut self.spelling) else { return };
        each(&value, false);
        let wants_host = match value {
            Value::Url { .. } => options.url_hosts,
            Value::Email { .. } => options.email_domains,
            _ => false,
        };
        if wants_host && let Some(host) = find::host(&value, &mut self.of_host) {
            each(&host, true);
        }
    }
}

/// Tells the lines that nothing is known of, which are most.
///
/// Every key that is asked for lies somewhere else in memory, and the processor waits for it. So keys are gathered and asked for one right
/// after the other: it fetches several at a time then.
struct Sieve<'a> {
    index: &'a Index,
    options: &'a EnrichOptions,
    reader: Reader,
    /// Keys, each with where its line begins.
    keys: Vec<(Filed, usize)>,
    /// Lines before the current one have so many of them.
    line_keys: usize,
    /// Where lines begin that something may be known of.
    kept: Vec<usize>,
}

/// Keys that are asked for together.
const KEYS_AT_ONCE: usize = 256;

impl<'a> Sieve<'a> {
    fn new(index: &'a Index, options: &'a EnrichOptions) -> Self {
        let keys = Vec::with_capacity(2 * KEYS_AT_ONCE);
        Sieve { index, options, reader: Reader::default(), keys, line_keys: 0, kept: Vec::new() }
    }

    #[inline]
    fn text(&mut self, text: &Text<'_>, line: usize) {
        let Sieve { index, keys, .. } = self;
        self.reader.text(text, self.options, |value, _| {
            let lengths = |address| index.keys.lengths(address);
            find::keys(value, lengths, |asked| keys.push((Filed::of(asked.key, index.seed), line)));
        });
    }

    /// The current line is one to look at.
    fn end_line(&mut self) {
        self.line_keys = self.keys.len();
        if self.line_keys >= KEYS_AT_ONCE {
            self.look_up();
        }
    }

    /// The current line does not count.
    fn drop_line(&mut self) {
        self.keys.truncate(self.line_keys);
    }

    fn look_up(&mut self) {
        for (key, line) in self.keys.drain(..) {
            if self.index.keys.may_hold(key) && self.kept.last() != Some(&line) && self.index.keys.holds(key) {
                self.kept.push(line);
            }
        }
        self.line_keys = 0;
    }
}

/// Looks up texts, and keeps what is found.
struct Finder<'a> {
    index: &'a Index,
    allow: &'a AllowList,
    options: &'a EnrichOptions,
    reader: Reader,
    found: Candidates,
    /// Where those of the line begin.
    line_start: usize,
}

impl<'a> Finder<'a> {
    fn new(index: &'a Index, allow: &'a AllowList, options: &'a EnrichOptions) -> Self {
        Finder { index, allow, options, reader: Reader::default(), found: Candidates::default(), line_start: 0 }
    }

    fn text(&mut self, text: &Text<'_>) {
        let mut reader = std::mem::take(&mut self.reader);
        let mut named = None;
        reader.text(text, self.options, |value, as_host| {
            self.value(value, as_host, &mut named, |out| text.field_into(out));
        });
        self.reader = reader;
    }

    /// Looks a value up; `field` appends the name of its field, which is `named` then.
    fn value(
        &mut self,
        value: &Value<'_>,
        as_host: bool,
        named: &mut Option<Range<usize>>,
        field: impl Fn(&mut Vec<u8>),
    ) {
        let Finder { index, allow, found, line_start, .. } = self;
        if allow.holds(value) {
            return;
        }
        look_up(index, value, |asked, part, row| {
            if found.all.len() - *line_start >= MOST_CANDIDATES {
                return;
            }
            let field = named.get_or_insert_with(|| {
                let start = found.fields.len();
                field(&mut found.fields);
                start..found.fields.len()
            });
            let mut keep = |bytes: &[u8]| {
                let start = found.keys.len();
                found.keys.extend_from_slice(bytes);
                start..found.keys.len()
            };
            let (scheme, bytes) = (keep(asked.key.scheme), keep(asked.key.bytes));
            let relation = if as_host { Relation::Host } else { asked.relation };
            let asked = AskedFor { kind: asked.key.kind, above: asked.above, relation, scheme, bytes };
            found.all.push(Candidate { part, row, asked, field: field.clone() });
        });
    }
}

/// Calls `found` for the live rows of each key of a value.
fn look_up(index: &Index, value: &Value<'_>, mut found: impl FnMut(Asked<'_>, u32, u32)) {
    find::keys(
        value,
        |address| index.keys.lengths(address),
        |asked| {
            index.keys.find(Filed::of(asked.key, index.seed), |part, row| {
                if index.is_live(part, row) {
                    found(asked, part, row);
                }
            });
        },
    );
}

type Details = HashMap<(u32, u32), Arc<Detail>>;

/// The lines of a block with what was found, and what became of them. Runs on the calling thread.
pub(crate) fn enrich(session: &Session, index: &Index, block: Block) -> Result<(Vec<u8>, Tally), EnrichError> {
    let mut tally = Tally::default();
    if block.of_long_line {
        // Counted where it ends, and named where it begins.
        if block.bytes.ends_with(b"\n") {
            tally.lines = 1;
            tally.fault(block.first_line, "longer than is looked at");
        }
        return Ok((block.bytes, tally));
    }
    let allow = session.allow();
    let mut finder = Finder::new(index, &allow, &session.options);
    let hits = scan(&mut finder, &block, session, &mut tally);
    if hits.is_empty() {
        return Ok((block.bytes, tally));
    }
    let found = finder.found;
    let details = details(session, index, &found)?;
    let now = session.now();
    let mut out = Vec::with_capacity(block.bytes.len() + hits.len() * 512);
    let mut copied = 0;
    for hit in &hits {
        let candidates = found.all.get(hit.candidates.clone()).unwrap_or_default();
        let told = choose(session, index, candidates, &found, &details, now)?;
        if told.is_empty() {
            continue;
        }
        tally.enriched += 1;
        tally.matches += told.len() as u64;
        let end = hit.start + hit.object.end;
        out.extend_from_slice(block.bytes.get(copied..end).unwrap_or_default());
        copied = end;
        splice(&told, &found, &hit.object, session.options.format, &mut out);
    }
    out.extend_from_slice(block.bytes.get(copied..).unwrap_or_default());
    Ok((out, tally))
}

/// The lines that something may be known of.
fn scan(finder: &mut Finder<'_>, block: &Block, session: &Session, tally: &mut Tally) -> Vec<Hit> {
    let mut scanner = Scanner::default();
    let mut sieve = Sieve::new(finder.index, finder.options);
    let (mut start, mut number) = (0, block.first_line);
    while let Some(line) = line_at(&block.bytes, start) {
        tally.lines += 1;
        match scanner.scan(line, session.fields.as_ref(), |text| sieve.text(&text, start)) {
            Ok(object) => {
                tally.events += 1;
                if object.enriched {
                    tally.enriched_before += 1;
                    sieve.drop_line();
                } else {
                    sieve.end_line();
                }
            }
            Err(Fault::NoObject) if line.iter().all(u8::is_ascii_whitespace) => {}
            Err(fault) => {
                sieve.drop_line();
                tally.fault(number, fault.to_string());
            }
        }
        start += line.len() + 1;
        number += 1;
    }
    sieve.look_up();
    let mut hits = Vec::new();
    for start in sieve.kept {
        finder.line_start = finder.found.all.len();
        let line = line_at(&block.bytes, start).unwrap_or_default();
        // It is one that was read before.
        let Ok(object) = scanner.scan(line, session.fields.as_ref(), |text| finder.text(&text)) else { continue };
        let candidates = finder.line_start..finder.found.all.len();
        if !candidates.is_empty() {
            hits.push(Hit { start, object, candidates });
        }
    }
    hits
}

/// The line that begins there, without its end.
fn line_at(bytes: &[u8], start: usize) -> Option<&[u8]> {
    let rest = bytes.get(start..).filter(|rest| !rest.is_empty())?;
    rest.get(..memchr(b'\n', rest).unwrap_or(rest.len()))
}

/// What is told of the candidates: from memory, or read in one go.
fn details(session: &Session, index: &Index, found: &Candidates) -> Result<Details, EnrichError> {
    let mut details = Details::with_capacity(found.all.len());
    let mut missing = Vec::new();
    for Candidate { part, row, .. } in &found.all {
        let place = (*part, *row);
        if details.contains_key(&place) {
            continue;
        }
        match session.kept(index.number(*part), *row) {
            Some(detail) => drop(details.insert(place, detail)),
            None => missing.push(place),
        }
    }
    missing.sort_unstable();
    missing.dedup();
    if !missing.is_empty() {
        let read = detail::load(index, session.runs(), &missing, session.options.format)?;
        for (place, detail) in missing.into_iter().zip(read) {
            session.keep(index.number(place.0), place.1, &detail);
            details.insert(place, detail);
        }
    }
    Ok(details)
}

/// One indicator found in an event.
struct Chosen<'a> {
    told: Told<'a>,
    score: u8,
    relation: Relation,
    field: Range<usize>,
}

/// The indicators that are told: each once, the worst verdict first, then in the order of the event, the most specific first.
fn choose<'a>(
    session: &Session,
    index: &Index,
    candidates: &[Candidate],
    found: &Candidates,
    details: &'a Details,
    now: Timestamp,
) -> Result<Vec<Chosen<'a>>, EnrichError> {
    let options = &session.options;
    let mut chosen: Vec<Chosen<'a>> = Vec::new();
    let mut seen: Vec<(u32, u32)> = Vec::new();
    for candidate in candidates {
        let place = (candidate.part, candidate.row);
        let Some(detail) = details.get(&place).filter(|_| !seen.contains(&place)) else { continue };
        let Some(told) = detail.told(found.key(&candidate.asked), candidate.asked.above) else { continue };
        let wanted = detail.score >= options.min_score && (options.expired || detail.holds_at(now));
        if wanted && session.may_tell(index, candidate.part, candidate.row)? {
            seen.push(place);
            let (relation, field) = (candidate.asked.relation, candidate.field.clone());
            chosen.push(Chosen { told, score: detail.score, relation, field });
        }
    }
    chosen.sort_by_key(|chosen| std::cmp::Reverse(chosen.score));
    chosen.truncate(options.most_matches);
    Ok(chosen)
}

/// Appends the members that go before the closing brace.
fn splice(chosen: &[Chosen<'_>], found: &Candidates, object: &Object, format: Format, out: &mut Vec<u8>) {
    let Some(first) = chosen.first() else { return };
    let field = |chosen: &Chosen<'_>| {
        let name = String::from_utf8_lossy(found.fields.get(chosen.field.clone()).unwrap_or_default());
        let mut field = Vec::new();
        string_into(&name, &mut field);
        field
    };
    if !object.empty {
        out.push(b',');
    }
    match format {
        Format::Ecs => {
            // A second key of the same name would be no JSON that anybody reads the same way.
            out.extend_from_slice(if object.has_threat {
                b"\"threat.indicator\":"
            } else {
                b"\"threat\":{\"indicator\":"
            });
            first.told.indicator_into(out);
            out.extend_from_slice(if object.has_threat { b",\"threat.enrichments\":[" } else { b",\"enrichments\":[" });
            for (at, chosen) in chosen.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                chosen.told.enrichment_into(&field(chosen), chosen.relation.as_str(), out);
            }
            out.extend_from_slice(if object.has_threat { b"]" } else { b"]}" });
        }
        Format::Flat => {
            out.extend_from_slice(format!("\"ti_count\":{}", chosen.len()).as_bytes());
            first.told.flat_into(&field(first), first.relation.as_str(), out);
        }
    }
}

/// What is known of one value, as a JSON document.
pub(crate) fn look_up_one(session: &Session, index: &Index, value: &str) -> Result<Vec<u8>, EnrichError> {
    let allow = session.allow();
    let mut finder = Finder::new(index, &allow, &session.options);
    Reader::default().values(value.trim().as_bytes(), &session.options, |value, as_host| {
        finder.value(value, as_host, &mut None, |_| ());
    });
    let found = finder.found;
    let details = details(session, index, &found)?;
    let chosen = choose(session, index, &found.all, &found, &details, session.now())?;
    let mut out = b"{\"value\":".to_vec();
    string_into(value, &mut out);
    if let Some(value) = classify(value.trim().as_bytes(), &mut Vec::new()) {
        out.extend_from_slice(b",\"type\":");
        string_into(type_of(&value).as_str(), &mut out);
    }
    out.extend_from_slice(b",\"matches\":[");
    for (at, chosen) in chosen.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        chosen.told.enrichment_into(b"", chosen.relation.as_str(), &mut out);
    }
    out.extend_from_slice(b"]}\n");
    Ok(out)
}
