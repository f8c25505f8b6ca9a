//! The protocol layer alone: fetches from a TAXII server, or reads a file of STIX 1.x, and prints what comes, as JSON lines:
//! `cargo run --example fetch -- '{"url": "https://feeds.example.org/taxii2/", "collection": "All", "out": "objects.ndjson"}'`
//! `cargo run --example fetch -- '{"stix": "package.xml"}'`, as tests/smoke/sources.md counts the samples.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use taxiway::source::{
    Client, Credentials, Endpoint, Facts, Identity, Options, Place, Proxy, Secret, SourceError, StixFile,
};
use url::Url;

/// What is to be done.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Job {
    url: Option<String>,
    version: Option<String>,
    user: Option<String>,
    password: Option<String>,
    /// Where a token is asked for with user and password.
    login: Option<String>,
    token: Option<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    pass: Option<String>,
    proxy: Option<String>,
    page_size: Option<u32>,
    attempts: Option<usize>,
    /// So many objects of each collection are looked at.
    preview: Option<usize>,
    collection: Option<String>,
    place: Option<Place>,
    /// So many pages are taken.
    stop_after: Option<usize>,
    /// Where objects go, one after the other.
    out: Option<PathBuf>,
    stix: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let argument = std::env::args().nth(1).ok_or("the argument is a JSON object; see the head of examples/fetch.rs")?;
    let job: Job = serde_json::from_str(&argument)?;
    if let Some(path) = &job.stix {
        return read_file(path);
    }
    match fetch(&job).await {
        Ok(()) => Ok(()),
        Err(error) => match error.downcast::<SourceError>() {
            Ok(error) => say(&json!({ "error": error.to_string(), "transient": error.is_transient() })),
            Err(error) => Err(error),
        },
    }
}

fn say(line: &Value) -> Result<(), Box<dyn Error>> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

fn endpoint(job: &Job) -> Result<Endpoint, Box<dyn Error>> {
    let mut endpoint = Endpoint::new(Url::parse(job.url.as_deref().ok_or("`url` is missing")?)?);
    endpoint.version = job.version.as_deref().map(str::parse).transpose()?;
    endpoint.credentials = match (&job.user, &job.password, &job.login, &job.token) {
        (Some(user), Some(password), Some(login), _) => Credentials::Login {
            url: Url::parse(login)?,
            username: user.clone(),
            password: Secret::new(password.clone()),
        },
        (Some(user), Some(password), None, _) => {
            Credentials::Basic { username: user.clone(), password: Secret::new(password.clone()) }
        }
        (.., Some(token)) => Credentials::Bearer(Secret::new(token.clone())),
        _ => Credentials::None,
    };
    endpoint.authorities = job.ca.as_ref().map(std::fs::read).transpose()?;
    if let (Some(cert), Some(key)) = (&job.cert, &job.key) {
        endpoint.identity = Some(Identity {
            certificates: std::fs::read(cert)?,
            key: std::fs::read(key)?,
            passphrase: job.pass.clone().map(Secret::new),
        });
    }
    if let Some(proxy) = &job.proxy {
        endpoint.proxy = Some(Proxy { url: Url::parse(proxy)?, credentials: None });
    }
    Ok(endpoint)
}

async fn fetch(job: &Job) -> Result<(), Box<dyn Error>> {
    let mut options = Options { attempts: 2, first_wait: Duration::from_millis(200), ..Options::default() };
    options.page_size = job.page_size.unwrap_or(options.page_size);
    options.attempts = job.attempts.unwrap_or(options.attempts);
    let client = Client::connect(endpoint(job)?, options).await?;
    say(&json!({ "version": client.version().as_str(), "notes": client.notes() }))?;
    let collections = client.collections().await?;
    say(&json!({ "collections": collections }))?;
    if let Some(most) = job.preview {
        for collection in collections.iter().filter(|collection| collection.can_read) {
            let line = match client.preview(collection, most).await {
                Ok(look) => json!({
                    "preview": collection.title, "count": look.objects.len(), "total": look.total,
                    "more": look.more, "warnings": look.warnings,
                }),
                Err(error) => json!({ "preview": collection.title, "problem": error.to_string() }),
            };
            say(&line)?;
        }
    }
    let Some(name) = &job.collection else { return Ok(()) };
    let collection = client.collection(name).await?;
    let mut pages = client.pages(&collection, job.place.clone().unwrap_or_default())?;
    let mut out = job.out.as_ref().map(File::create).transpose()?;
    let (mut total, mut taken, started) = (0, 0, Instant::now());
    while let Some(page) = pages.next().await {
        let page = page?;
        total += page.objects.len();
        taken += 1;
        if let Some(out) = &mut out {
            out.write_all(page.objects.text())?;
        }
        say(&json!({ "objects": page.objects.len(), "place": page.place, "facts": facts_as_json(&page.facts) }))?;
        if job.stop_after.is_some_and(|most| taken >= most) {
            break;
        }
    }
    say(&json!({ "done": total, "seconds": started.elapsed().as_secs_f64() }))
}

fn facts_as_json(facts: &Facts) -> Value {
    json!({
        "more": facts.more, "ends_answer": facts.ends_answer, "bytes": facts.bytes, "repeated": facts.repeated,
        "rejected": facts.rejected, "rejections": facts.rejections.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "skipped": facts.skipped, "warnings": facts.warnings, "total": facts.total,
    })
}

/// Prints how many documents of each type a file gives.
fn read_file(path: &std::path::Path) -> Result<(), Box<dyn Error>> {
    #[derive(Deserialize)]
    struct Document<'a> {
        indicator_type: &'a str,
    }
    let mut file = StixFile::open(path, Options::default().max_object_bytes)?;
    let (mut facts, mut counts, started) = (Facts::default(), BTreeMap::<String, u64>::new(), Instant::now());
    while let Some(objects) = file.next_page(&mut facts)? {
        for text in objects.iter() {
            let Document { indicator_type } = serde_json::from_slice(text)?;
            *counts.entry(indicator_type.to_owned()).or_default() += 1;
        }
    }
    say(&json!({ "counts": counts, "facts": facts_as_json(&facts), "seconds": started.elapsed().as_secs_f64() }))
}
