//! Events in, events out (`POST /enrich`), and one value (`GET /lookup`), for those who may read what is told.
//!
//! What is told of is what the requester may read: the collection that `collection` names, or else every one that is open to them, in
//! whichever API root. An answer is made while the request still comes, so that a stream of any length takes the same memory; who sends
//! all before reading anything can have as much in flight as the server holds, a few megabytes.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use tokio::time::{Instant, timeout};

use crate::enrich::{Block, EnrichOptions, Enricher, Format, Lines, Session, Tally};
use crate::feed::collection::Collection;
use crate::model::words;
use crate::serve::auth::Identity;
use crate::serve::body::Pieces;
use crate::serve::error::{ServeError, cut};
use crate::serve::limits::{Share, Tally as Room};
use crate::serve::parameters::decode;
use crate::serve::rights::{self, hidden};
use crate::serve::router::{App, Lasting};

/// Where events go.
pub(super) const ENRICH_PATH: &str = "/enrich";
/// Where single values go.
pub(super) const LOOKUP_PATH: &str = "/lookup";
const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Blocks of one stream that are worked on, or wait for the one before them.
const BLOCKS_AHEAD: usize = 4;
/// What one stream takes of the memory for bodies: its blocks before and after.
const STREAM_BYTES: u64 = 16 << 20;
/// What has come of a slow stream is answered after so long.
const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// After so long an answer begins, whatever has come by then.
const LONGEST_SILENCE: Duration = Duration::from_millis(500);
/// Longest value that is looked up.
const MOST_VALUE_BYTES: usize = 8_192;
/// Most fields that may be named.
const MOST_FIELDS: usize = 1_000;

/// What a request asks for.
#[derive(Debug, Default)]
struct Asked {
    options: EnrichOptions,
    collection: Option<String>,
    value: Option<String>,
}

/// `POST /enrich`
pub(super) async fn enrich(
    State(app): State<Arc<App>>,
    Extension(identity): Extension<Identity>,
    request: Request,
) -> Result<Response, ServeError> {
    let enricher = enricher(&app, &identity)?;
    let (parts, body) = request.into_parts();
    let asked = asked(parts.uri.query().unwrap_or_default(), false)?;
    let collections = open_to(&app, &identity, asked.collection.as_deref())?;
    let mut room = Room::share(&app.lasting.bodies);
    if !room.grow_to(STREAM_BYTES, app.options.limits.bodies_bytes) {
        return Err(ServeError::Busy { what: "room for request bodies" });
    }
    let pieces = Pieces::new(&parts.headers, body, app.options.limits.idle_timeout)?;
    enricher.ready().await?;
    let session = Arc::new(enricher.session(asked.options, Some(collections))?);
    let coming = Coming { pieces: Some(pieces), lines: Lines::default(), since: Instant::now(), failed: None };
    let count = Count { lasting: Arc::clone(&app.lasting), tally: Tally::default(), _room: room };
    let mut pieces = Box::pin(enriched(enricher, session, coming, count));
    // What fails at once is a status and not a cut connection; but some clients send nothing before they see the head.
    let first = match timeout(LONGEST_SILENCE, pieces.next()).await {
        Ok(Some(first)) => Some(Ok(first?)),
        Ok(None) | Err(_) => None,
    };
    Ok(answer(NDJSON, Body::from_stream(stream::iter(first).chain(pieces))))
}

/// `GET /lookup?value=…`
pub(super) async fn lookup(
    State(app): State<Arc<App>>,
    Extension(identity): Extension<Identity>,
    request: Request,
) -> Result<Response, ServeError> {
    let enricher = enricher(&app, &identity)?;
    let asked = asked(request.uri().query().unwrap_or_default(), true)?;
    let collections = open_to(&app, &identity, asked.collection.as_deref())?;
    let Some(value) = asked.value.filter(|value| !value.trim().is_empty()) else {
        return Err(bad("value", "is missing; ask as in `/lookup?value=192.0.2.1`"));
    };
    if value.len() > MOST_VALUE_BYTES {
        return Err(bad("value", format!("has more than {MOST_VALUE_BYTES} bytes")));
    }
    enricher.ready().await?;
    let session = enricher.session(asked.options, Some(collections))?;
    let told = enricher.pool().run(move || session.look_up(&value)).await;
    let told = told.map_err(|_| ServeError::Internal { what: "look up a value" })??;
    app.lasting.metrics.count("taxiway_lookups_total", &[], 1);
    Ok(answer(JSON, Body::from(told)))
}

fn answer(content_type: HeaderValue, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn enricher(app: &App, identity: &Identity) -> Result<Enricher, ServeError> {
    app.enricher().cloned().ok_or_else(|| hidden(identity, ServeError::UnknownPath))
}

/// The collections that are told of.
fn open_to(app: &App, identity: &Identity, name: Option<&str>) -> Result<Vec<Arc<Collection>>, ServeError> {
    let roots = app.options.api_roots.iter().map(|root| root.path.as_str());
    if let Some(name) = name {
        let mut refusal = hidden(identity, ServeError::UnknownCollection { name: cut(name) });
        for root in roots {
            match rights::readable(app, identity, root, name) {
                Ok(collection) => return Ok(vec![collection]),
                // One that is known and may not be read is no secret.
                Err(error @ ServeError::Forbidden { .. }) => refusal = error,
                Err(_) => {}
            }
        }
        return Err(refusal);
    }
    let rights = app.rights();
    let (mut seen, mut open) = (HashSet::new(), Vec::new());
    for root in roots {
        for (collection, allowed) in rights.listed(identity, root) {
            if allowed.read && seen.insert(collection.id.clone()) {
                open.push(Arc::clone(collection));
            }
        }
    }
    if open.is_empty() {
        return Err(rights::forbidden(identity, "look up values: no collection is open to you"));
    }
    Ok(open)
}

/// Reads the query. What nobody knows is refused: a misspelt field would search all of them.
fn asked(query: &str, one_value: bool) -> Result<Asked, ServeError> {
    let mut asked = Asked::default();
    let mut seen = HashSet::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded =
            |text| decode(text).map(Cow::into_owned).ok_or_else(|| bad("query", "is not percent-encoded UTF-8"));
        let (name, value) = (decoded(name)?, decoded(value)?);
        if !seen.insert(name.clone()) {
            return Err(bad("query", format!("has `{}` twice", cut(&name))));
        }
        match name.as_str() {
            "value" if one_value => asked.value = Some(value),
            "collection" if !value.is_empty() => asked.collection = Some(value),
            "expired" => asked.options.expired = flag("expired", &value)?,
            "url_hosts" => asked.options.url_hosts = flag("url_hosts", &value)?,
            "email_domains" => asked.options.email_domains = flag("email_domains", &value)?,
            "min_score" => {
                let score = words::score(&value);
                asked.options.min_score = score
                    .ok_or_else(|| bad("min_score", "must be unknown, benign, suspicious, malicious or 0 to 3"))?;
            }
            "max_matches" => {
                let most = value.parse().ok().filter(|most| (1..=1_000).contains(most));
                asked.options.most_matches = most.ok_or_else(|| bad("max_matches", "must be 1 to 1000"))?;
            }
            "format" if !one_value => {
                asked.options.format = match value.as_str() {
                    "ecs" => Format::Ecs,
                    "flat" => Format::Flat,
                    _ => return Err(bad("format", "must be `ecs` or `flat`")),
                }
            }
            "fields" if !one_value => {
                asked.options.fields = value.split(',').map(str::to_owned).collect();
                if asked.options.fields.iter().any(String::is_empty) || asked.options.fields.len() > MOST_FIELDS {
                    return Err(bad("fields", "must be names of fields, separated by single commas"));
                }
            }
            other => {
                let mine = if one_value { "value" } else { "fields, format" };
                let known = format!("{mine}, collection, expired, min_score, url_hosts, email_domains and max_matches");
                return Err(bad("query", format!("cannot have `{}`; here can be {known}", cut(other))));
            }
        }
    }
    Ok(asked)
}

fn flag(name: &'static str, value: &str) -> Result<bool, ServeError> {
    match value {
        "" => Ok(true),
        value => words::truth(value).ok_or_else(|| bad(name, "must be true or false")),
    }
}

fn bad(name: &'static str, reason: impl Into<Cow<'static, str>>) -> ServeError {
    ServeError::BadParameter { name, reason: reason.into() }
}

/// A request's body on its way.
struct Coming {
    /// `None`: it is over.
    pieces: Option<Pieces>,
    lines: Lines,
    /// When the oldest bytes came that wait for more.
    since: Instant,
    /// Why it ended before its end, once all that came was answered.
    failed: Option<ServeError>,
}

impl Coming {
    /// The next lines; `None` at the end.
    async fn next(&mut self) -> Option<Result<Block, ServeError>> {
        loop {
            if let Some(block) = self.lines.full() {
                return Some(Ok(block));
            }
            let Some(pieces) = &mut self.pieces else {
                return match self.failed.take() {
                    // What was cut off is no line.
                    Some(error) => self.lines.whole_lines().map(Ok).or(Some(Err(error))),
                    None => self.lines.rest().map(Ok),
                };
            };
            let before = self.lines.buffer().len();
            let waited = timeout(LONGEST_WAIT, pieces.next(self.lines.buffer())).await;
            if before == 0 {
                self.since = Instant::now();
            }
            match waited {
                Ok(Ok(true)) if self.since.elapsed() < LONGEST_WAIT => continue,
                Ok(Ok(true)) | Err(_) => {}
                Ok(Ok(false)) => self.pieces = None,
                Ok(Err(error)) => (self.pieces, self.failed) = (None, Some(error)),
            }
            if self.pieces.is_some()
                && let Some(block) = self.lines.whole_lines()
            {
                self.since = Instant::now();
                return Some(Ok(block));
            }
        }
    }
}

/// What a stream came to; said when it is over, however it ended.
struct Count {
    lasting: Arc<Lasting>,
    tally: Tally,
    _room: Share,
}

impl Drop for Count {
    fn drop(&mut self) {
        let Tally { lines, events, enriched, matches, enriched_before, malformed, faults } = &self.tally;
        for (name, count) in [
            ("taxiway_enrich_lines_total", lines),
            ("taxiway_enrich_events_enriched_total", enriched),
            ("taxiway_enrich_lines_malformed_total", malformed),
        ] {
            self.lasting.metrics.count(name, &[], *count);
        }
        let faults: Vec<String> = faults.iter().map(|(line, reason)| format!("line {line}: {reason}")).collect();
        let faults = faults.join("; ");
        tracing::info!(lines, events, enriched, matches, enriched_before, malformed, faults, "stream enriched");
    }
}

/// Enriches on all cores and keeps the order.
fn enriched(
    enricher: Enricher,
    session: Arc<Session>,
    coming: Coming,
    count: Count,
) -> impl Stream<Item = Result<Bytes, ServeError>> + Send {
    let blocks = stream::unfold(coming, |mut coming| async move {
        let next = coming.next().await?;
        Some((next, coming))
    });
    let work = blocks.map(move |block| {
        let (pool, session) = (enricher.pool().clone(), Arc::clone(&session));
        async move {
            let block = block?;
            let done = pool.run(move || session.block(block)).await;
            Ok(done.map_err(|_| ServeError::Internal { what: "enrich events" })??)
        }
    });
    work.buffered(BLOCKS_AHEAD).scan((count, false), |(count, ended), done: Result<(Vec<u8>, Tally), ServeError>| {
        // Nothing comes behind an error.
        if *ended {
            return std::future::ready(None);
        }
        let piece = done.map(|(bytes, tally)| {
            count.tally.add(tally);
            Bytes::from(bytes)
        });
        *ended = piece.is_err();
        std::future::ready(Some(piece))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_or_refused() {
        let fine = asked("fields=a.b,c&format=flat&expired&min_score=bad&url_hosts=1&email_domains=false&max_matches=3&collection=x%20y", false).expect("reads");
        let options = EnrichOptions {
            fields: vec!["a.b".to_owned(), "c".to_owned()],
            format: Format::Flat,
            expired: true,
            min_score: 3,
            url_hosts: true,
            email_domains: false,
            most_matches: 3,
        };
        assert_eq!((fine.options, fine.collection.as_deref()), (options, Some("x y")));
        assert_eq!(asked("value=a%2Fb", true).expect("reads").value.as_deref(), Some("a/b"));
        let refused = [
            ("value=x", false),
            ("fields=a", true),
            ("format=flat", true),
            ("field=a", false),
            ("fields=a,,b", false),
            ("fields=", false),
            ("format=xml", false),
            ("min_score=9", false),
            ("max_matches=0", false),
            ("expired=perhaps", false),
            ("expired&expired", false),
            ("collection=%zz", false),
        ];
        for (query, one_value) in refused {
            let error = asked(query, one_value).expect_err(query);
            assert_eq!(error.outside().status, StatusCode::BAD_REQUEST, "{query}");
        }
    }
}
