//! Measures a TAXII server, ours or any other: pages of several sizes, whole walks, polls, many clients at once.
//!
//! Only what any client may ask for is asked, by a bounded number of clients, each of which waits for its answer before it asks
//! again. A server that says that it is busy (429, 503) is left alone for as long as it wants. Every walk is checked: all of it
//! is JSON, no id comes twice, and walks of all page sizes find the same objects.
//!
//! The client runs on the machine that it measures from and takes part in the times; it decompresses and counts the objects as
//! they come (a pass over the bytes that builds nothing), so a fast server on the same machine is a little faster than it looks.

mod client;
mod discover;
mod measure;
mod report;
mod scan;
#[cfg(test)]
mod tests;
mod walk;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;

pub use client::{Access, Credentials, Encoding, Secret, Size, Version};
pub use report::{Latency, Measurement, Report};

use client::{Connector, Place};
use discover::Found;
use measure::{Findings, Live, Runner};

use crate::model::time::Timestamp;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Discovery, API root, collection or its objects, or just the host.
    pub url: Url,
    /// Id, alias or title of the collection; not needed where there is only one.
    pub collection: Option<String>,
    /// The version of TAXII to speak; `None` for the newest one that the server has.
    pub version: Option<Version>,
    /// How to reach the server.
    pub access: Access,
    /// Page sizes.
    pub sizes: Vec<Size>,
    /// How bodies are asked for.
    pub encodings: Vec<Encoding>,
    /// Types of a selective query (`match[type]`), comma-separated.
    pub types: Option<String>,
    /// Clients of the measurement with many.
    pub clients: usize,
    /// Requests for the same page.
    pub requests: u64,
    /// The longest that a measurement takes; the request under way is waited for. `None` for no end.
    pub time: Option<Duration>,
    /// The same for a walk through the collection.
    pub walk_time: Option<Duration>,
}

/// What happens, for whoever looks on.
#[derive(Debug)]
pub enum Event<'a> {
    /// The collection was found; so many measurements follow.
    Planned {
        /// Its title.
        title: &'a str,
        /// The version spoken.
        version: Version,
        /// Measurements.
        measurements: usize,
    },
    /// A measurement begins.
    Begins(&'a str),
    /// It goes on.
    Goes {
        /// Requests answered so far.
        requests: u64,
        /// Objects so far.
        objects: u64,
        /// How often the server asked to wait.
        busy: u64,
    },
    /// It is over.
    Done(&'a Measurement),
}

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A file that was named cannot be read.
    #[error("read `{path}`")]
    ReadFile {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file of authorities without any.
    #[error("`{path}` holds no certificate that can be read; it has to be PEM, with `-----BEGIN CERTIFICATE-----`")]
    NoCertificate {
        /// The file.
        path: String,
    },
    /// The system's certificates are nowhere.
    #[error(
        "found no file of trusted certificates on this machine; name one with `--ca FILE` or in `SSL_CERT_FILE`, in PEM"
    )]
    NoRoots,
    /// No client certificate with a key.
    #[error("`{path}` holds no client certificate with its key; both have to be in it, in PEM")]
    BadIdentity {
        /// The file.
        path: String,
    },
    /// What was given as the name of a header is none.
    #[error("`{name}` is no name of a header; an example is `X-Api-Key`")]
    BadHeaderName {
        /// The name.
        name: String,
    },
    /// A secret that no header can hold.
    #[error(
        "the token or key holds a character that no HTTP header can, such as a line break; look at where it comes from"
    )]
    BadSecret,
    /// The HTTP client cannot be made.
    #[error("make an HTTP client of these settings")]
    Client {
        /// Why.
        source: reqwest::Error,
    },
    /// No answer at all.
    #[error("no answer from `{url}`: {said}; see that the server runs, and that name, port and scheme are right")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// The cause.
        said: String,
    },
    /// 401 or 403.
    #[error("`{url}` does not let us in ({said}); give a user with `--user`, or a token with `--token` or `--api-key`")]
    Unauthorized {
        /// What was asked for.
        url: String,
        /// What it answered.
        said: String,
    },
    /// Another error.
    #[error("`{url}` answered {said}; give the URL of a discovery, an API root or a collection")]
    Refused {
        /// What was asked for.
        url: String,
        /// What it answered.
        said: String,
    },
    /// Something answers, and it is no TAXII.
    #[error("`{url}` is no TAXII resource; give the URL of a discovery, an API root or a collection")]
    NotTaxii {
        /// What was asked for.
        url: String,
    },
    /// An API root that is no URL.
    #[error("the server names the API root `{root}`, which is no URL; give the URL of the API root yourself")]
    BadRoot {
        /// What it names.
        root: String,
    },
    /// No collection of that name.
    #[error("there is no collection `{name}`; there are: {there}")]
    NoSuchCollection {
        /// What was wanted.
        name: String,
        /// What there is.
        there: String,
    },
    /// The collection cannot be read.
    #[error("the collection `{name}` cannot be read by this user; name another one or give another user")]
    NotReadable {
        /// Its title.
        name: String,
    },
    /// More than one collection.
    #[error("there are several collections, choose one with `--collection`: {there}")]
    Several {
        /// Their titles and ids.
        there: String,
    },
    /// No collection that can be read.
    #[error("`{url}` has no collection that this user can read; give a user with `--user`, or a token with `--token`")]
    NoCollections {
        /// Where.
        url: String,
    },
    /// Not one page came.
    #[error("no page came from `{url}`: {said}")]
    NothingCame {
        /// The collection.
        url: String,
        /// What came instead.
        said: String,
    },
    /// A histogram cannot be made.
    #[error("make a histogram")]
    Histogram(#[from] hdrhistogram::CreationError),
}

/// One measurement to be made.
#[derive(Debug, Clone, Copy)]
enum Task {
    Walk { size: Size, encoding: Encoding },
    FirstPage { size: Size, encoding: Encoding },
    DeepPage { size: Size, encoding: Encoding },
    OfType { size: Size, encoding: Encoding },
    NothingNew,
    OneObject,
    Clients { size: Size, encoding: Encoding },
}

impl Task {
    fn name(self, clients: usize) -> String {
        match self {
            Task::Walk { .. } => "walk".to_owned(),
            Task::FirstPage { .. } => "first page".to_owned(),
            Task::DeepPage { .. } => "page in the middle".to_owned(),
            Task::OfType { .. } => "first page of a type".to_owned(),
            Task::NothingNew => "poll, nothing new".to_owned(),
            Task::OneObject => "one object by id".to_owned(),
            Task::Clients { .. } => format!("walks of {clients} clients"),
        }
    }

    fn shape(self) -> (Size, Encoding) {
        match self {
            Task::Walk { size, encoding }
            | Task::FirstPage { size, encoding }
            | Task::DeepPage { size, encoding }
            | Task::OfType { size, encoding }
            | Task::Clients { size, encoding } => (size, encoding),
            Task::NothingNew | Task::OneObject => (Size::Server, Encoding::Plain),
        }
    }
}

/// Walks first, the one of the largest pages at the very first: they find out how much there is and where its middle lies.
fn tasks(options: &Options) -> Vec<Task> {
    let mut sizes = options.sizes.clone();
    sizes.sort_by_key(|size| match size {
        Size::Objects(count) => (0, u64::MAX - count),
        Size::Whole => (1, 0),
        Size::Server => (2, 0),
    });
    sizes.dedup();
    let mut encodings = options.encodings.clone();
    encodings.sort_by_key(|encoding| *encoding as u8);
    encodings.dedup();
    let shapes: Vec<(Size, Encoding)> =
        encodings.iter().flat_map(|encoding| sizes.iter().map(|size| (*size, *encoding))).collect();
    let each = |task: fn(Size, Encoding) -> Task| shapes.iter().map(move |(size, encoding)| task(*size, *encoding));
    let mut tasks: Vec<Task> = each(|size, encoding| Task::Walk { size, encoding }).collect();
    tasks.extend(each(|size, encoding| Task::FirstPage { size, encoding }));
    tasks.extend(each(|size, encoding| Task::DeepPage { size, encoding }));
    if options.types.is_some() {
        tasks.extend(each(|size, encoding| Task::OfType { size, encoding }));
    }
    tasks.extend([Task::NothingNew, Task::OneObject]);
    if options.clients > 1 {
        let size = sizes.first().copied().unwrap_or(Size::Server);
        tasks.extend(encodings.iter().map(|encoding| Task::Clients { size, encoding: *encoding }));
    }
    tasks
}

/// Measures; `look_on` hears how it goes, and as soon as `stop` is ready, what was measured until then is reported.
pub async fn run(
    options: &Options,
    look_on: &mut dyn FnMut(Event<'_>),
    stop: impl Future<Output = ()>,
) -> Result<Report, BenchError> {
    let mut stop = std::pin::pin!(stop);
    let connector = Connector::new(&options.access, &options.url)?;
    let client = connector.connect()?;
    let found = discover::find(&client, &options.url, options.collection.as_deref(), options.version).await?;
    let tasks = tasks(options);
    look_on(Event::Planned { title: &found.title, version: found.target.version, measurements: tasks.len() });
    let mut report = begin(options, &found);
    let mut runner = Runner {
        connector,
        client,
        target: Arc::new(found.target),
        types: options.types.clone(),
        clients: options.clients,
        requests: options.requests,
        time: options.time,
        walk_time: options.walk_time,
        findings: Findings::default(),
    };
    for task in tasks {
        let (size, encoding) = task.shape();
        let name = task.name(options.clients);
        look_on(Event::Begins(&report::label(&name, size, encoding)));
        let live = Arc::new(Live::default());
        let done = tokio::select! {
            biased;
            () = &mut stop => None,
            done = watched(perform(&mut runner, task, &live), &live, look_on) => Some(done),
        };
        let Some(done) = done else {
            report.interrupted = true;
            break;
        };
        let Some(tally) = done? else { continue };
        let measurement = tally.into_measurement(name, size, encoding);
        if report.measurements.is_empty() && measurement.requests == 0 {
            let said = measurement.notes.first().cloned().unwrap_or_else(|| "it took too long".to_owned());
            return Err(BenchError::NothingCame { url: report.collection_url, said });
        }
        look_on(Event::Done(&measurement));
        report.measurements.push(measurement);
    }
    report.objects = runner.findings.objects;
    report.objects_complete = runner.findings.complete;
    report.problems.append(&mut runner.findings.problems);
    Ok(report)
}

fn begin(options: &Options, found: &Found) -> Report {
    Report {
        url: options.url.to_string(),
        collection_url: found.target.url.to_string(),
        collection: found.title.clone(),
        collection_id: found.id.clone(),
        taxii: found.target.version,
        server: found.server.clone(),
        started: Timestamp::now().floor_second().to_string(),
        client: concat!("taxiway ", env!("CARGO_PKG_VERSION")).to_owned(),
        client_cores: std::thread::available_parallelism().map_or(1, usize::from),
        insecure: options.access.insecure,
        clients: options.clients,
        objects: 0,
        objects_complete: false,
        measurements: Vec::new(),
        problems: Vec::new(),
        remarks: found.remarks.clone(),
        interrupted: false,
    }
}

/// One measurement; `None` if there is nothing to measure, such as the middle of a single page.
async fn perform(runner: &mut Runner, task: Task, live: &Arc<Live>) -> Result<Option<measure::Tally>, BenchError> {
    let (size, encoding) = task.shape();
    match task {
        Task::Walk { .. } => runner.walk(size, encoding, live).await.map(Some),
        Task::FirstPage { .. } => runner.same_page(&Place::Start, size, encoding, false, live).await.map(Some),
        Task::OfType { .. } => runner.same_page(&Place::Start, size, encoding, true, live).await.map(Some),
        Task::DeepPage { .. } => {
            let Some(place) = runner.middle() else { return Ok(None) };
            runner.same_page(&place, size, encoding, false, live).await.map(Some)
        }
        Task::NothingNew => {
            let place = runner.end();
            runner.same_page(&place, size, encoding, false, live).await.map(Some)
        }
        Task::OneObject => runner.one_object(live).await,
        Task::Clients { .. } => runner.many(size, encoding, live).await.map(Some),
    }
}

async fn watched<T>(work: impl Future<Output = T>, live: &Live, look_on: &mut dyn FnMut(Event<'_>)) -> T {
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval(Duration::from_millis(250));
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = ticks.tick() => look_on(live.event()),
        }
    }
}
