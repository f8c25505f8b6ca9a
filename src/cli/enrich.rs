//! `taxiway enrich`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use super::output::{self, bytes, complain, grouped};
use super::place::{Place, catalog, start_log, store_options};
use super::{CliError, Outcome};
use crate::enrich::{
    AllowList, Block, EnrichError, EnrichOptions, Enricher, FAULTS_SHOWN, Format, Lines, MOST_MATCHES, Session, Tally,
};
use crate::feed::collection::{Catalog, Collection};
use crate::feed::{FeedOptions, StoreFeed};
use crate::ingest::{self, Got, Input, InputSpec};
use crate::model::words;
use crate::runtime::Unfinished;
use crate::store::Store;

/// Bytes read at a time.
const READ_BYTES: usize = 256 << 10;
/// What has come of a slow input is worked on after so long.
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// What is written of an indicator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// `threat.indicator` and `threat.enrichments`, as the Elastic Common Schema names them.
    Ecs,
    /// Keys `ti_…` at the top of the event, of the first match.
    Flat,
}

/// Add what the store knows to events, one JSON object a line.
///
/// Addresses, domains, URLs, file hashes and e-mail addresses that are the whole of a text are looked up: addresses also in networks, the
/// longest prefix first; domains also by the domains above them; URLs in one spelling, with and without their scheme; hashes in any
/// case. An event keeps its bytes; what is found goes before its last brace. Lines that are no JSON object go through as they are and are
/// counted. Indicators that have expired or were withdrawn count for nothing unless --expired says otherwise. New data in the store is
/// taken in while it runs.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  taxiway enrich --fields source.ip,destination.ip,url.full < events.ndjson > enriched.ndjson\n  tail -F eve.json | taxiway enrich --format flat --min-score suspicious\n  taxiway enrich 'logs/*.ndjson.gz' --allow ours.txt --out enriched.ndjson.gz"
)]
pub(super) struct EnrichArgs {
    /// Files of events, plain, gzip or zstd; folders; glob patterns; `-` for standard input, which is read when none is named.
    #[arg(value_name = "FILE")]
    files: Vec<String>,
    #[command(flatten)]
    place: Place,
    /// Fields that are searched, separated by commas, with dots for what is inside: `source.ip` is the field `ip` in `source`, or one
    /// named `source.ip`. A field stands for all that is in it; lists are searched item by item. Without it all texts are searched.
    #[arg(long, value_delimiter = ',', value_name = "FIELDS")]
    fields: Vec<String>,
    /// What is written.
    #[arg(long, value_enum, default_value = "ecs", value_name = "FORMAT")]
    format: Form,
    /// Only what is in this collection: its title, alias or id. Without it everything but what was posted to inboxes.
    #[arg(long, value_name = "COLLECTION")]
    collection: Option<String>,
    /// Expired and withdrawn indicators as well.
    #[arg(long)]
    expired: bool,
    /// Least verdict: unknown, benign, suspicious or malicious, or 0 to 3. Indicators without one count as unknown.
    #[arg(long, value_name = "VERDICT", default_value = "unknown", value_parser = verdict)]
    min_score: u8,
    /// Look up the hosts of URLs as well.
    #[arg(long)]
    url_hosts: bool,
    /// Look up the domains of e-mail addresses as well.
    #[arg(long)]
    email_domains: bool,
    /// Most indicators told of one event.
    #[arg(long, value_name = "NUMBER", default_value_t = MOST_MATCHES, value_parser = most)]
    max_matches: usize,
    /// File of what is known to be harmless and never reported, a value a line: addresses, networks, domains (with all below them;
    /// `*.example.com`: only those), URLs, hashes, e-mail addresses. In place of the configuration's `enrich.allow`.
    #[arg(long, value_name = "FILE")]
    allow: Option<PathBuf>,
    /// Where to write, packed if the name ends in .gz or .zst; the file appears when all is done. Without it standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Form of the summary, on standard error.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    output: output::Form,
}

fn verdict(text: &str) -> Result<u8, String> {
    words::score(text).ok_or_else(|| "write it as unknown, benign, suspicious or malicious, or 0 to 3".to_owned())
}

fn most(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|most| (1..=1_000).contains(most)).ok_or_else(|| "must be 1 to 1000".to_owned())
}

pub(super) fn run(args: &EnrichArgs) -> Result<Outcome, CliError> {
    let config = args.place.config()?;
    start_log(&config, Some("warn"));
    let inputs = if args.files.is_empty() { vec![InputSpec::Stdin] } else { ingest::expand(&args.files)? };
    if let Some(empty) = args.fields.iter().find(|field| field.is_empty()) {
        return Err(format!("`--fields` names the field `{empty}`; separate names by single commas").into());
    }
    let allow = match args.allow.as_ref().or(config.enrich.allow.as_ref()) {
        Some(path) => AllowList::load(path)?,
        None => AllowList::default(),
    };
    let store = Store::open(store_options(&config))?;
    let catalog = catalog(&config, &store)?;
    let collections = args.collection.as_ref().map(|name| named(&catalog, name)).transpose()?;
    let feed = StoreFeed::new(store, catalog, &FeedOptions::default())?;
    let enricher = Enricher::new(feed, allow, config.enrich.rows);
    let mut writer = Writer::open(args.out.as_deref())?;
    let began = Instant::now();
    let index = enricher.prepare()?;
    let built = began.elapsed();
    let options = EnrichOptions {
        fields: args.fields.clone(),
        format: match args.format {
            Form::Ecs => Format::Ecs,
            Form::Flat => Format::Flat,
        },
        expired: args.expired,
        min_score: args.min_score,
        url_hosts: args.url_hosts,
        email_domains: args.email_domains,
        most_matches: args.max_matches,
    };
    let session = Arc::new(enricher.session(options, collections.map(|collection| vec![collection]))?);
    let mut work = Work { enricher: &enricher, session, waiting: VecDeque::new(), tally: Tally::default() };
    let (began, mut failures, mut read) = (Instant::now(), 0, 0);
    for spec in &inputs {
        match work.input(spec, &mut writer) {
            Ok(bytes) => read += bytes,
            // One input that cannot be read does not keep the others back.
            Err(Stop::Input(error)) => {
                failures += 1;
                complain(&format!("error: {spec}: {}", super::sentence(&error)));
            }
            Err(Stop::Enrich(error)) => return Err(error.into()),
            Err(Stop::Output(error)) => return Err(error.into()),
        }
        report_faults(spec, &mut work.tally, inputs.len() > 1);
    }
    writer.finish()?;
    let took = began.elapsed();
    let tally = work.tally;
    if args.output == output::Form::Json {
        let summary = json!({
            "lines": tally.lines, "events": tally.events, "enriched": tally.enriched, "matches": tally.matches,
            "enriched_before": tally.enriched_before, "malformed": tally.malformed, "bytes": read,
            "seconds": took.as_secs_f64(), "index": {
                "version": index.version, "values": index.values, "bytes": index.bytes, "seconds": built.as_secs_f64(),
            },
        });
        complain(&summary.to_string());
    } else {
        let rate = tally.lines as f64 / took.as_secs_f64().max(0.001);
        complain(&format!(
            "{} lines, {} enriched with {} matches, in {:.1} s ({}/s); index of {} values, {}, built in {:.1} s",
            grouped(tally.lines),
            grouped(tally.enriched),
            grouped(tally.matches),
            took.as_secs_f64(),
            grouped(rate as u64),
            grouped(index.values),
            bytes(index.bytes),
            built.as_secs_f64(),
        ));
        if tally.enriched_before > 0 {
            complain(&format!("{} events were enriched before and are unchanged", grouped(tally.enriched_before)));
        }
    }
    Ok(if failures == 0 { Outcome::Done } else { Outcome::Attention })
}

/// The collection of that name.
fn named(catalog: &Catalog, name: &str) -> Result<Arc<Collection>, CliError> {
    if let Some(found) = catalog.get(name) {
        return Ok(Arc::clone(found));
    }
    let mut titled = catalog.configured().filter(|collection| collection.title == name);
    match (titled.next(), titled.next()) {
        (Some(found), None) => Ok(Arc::clone(found)),
        (Some(_), Some(_)) => {
            Err(format!("several collections are named `{name}`; give the id of the one meant").into())
        }
        (None, _) => {
            let titles: Vec<String> =
                catalog.configured().map(|collection| format!("`{}`", collection.title)).collect();
            Err(format!("there is no collection `{name}`; there are {}", titles.join(", ")).into())
        }
    }
}

/// Names the first lines of an input that are no events.
fn report_faults(spec: &InputSpec, tally: &mut Tally, one_of_several: bool) {
    let faults = std::mem::take(&mut tally.faults);
    for (line, reason) in &faults {
        complain(&format!("{spec}, line {line}: {reason}; passed on as it is"));
    }
    if faults.len() == FAULTS_SHOWN && !one_of_several && tally.malformed > FAULTS_SHOWN as u64 {
        complain(&format!("{spec}: {} such lines in all", grouped(tally.malformed)));
    }
}

/// Why the work ends.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error(transparent)]
    Input(#[from] ingest::InputError),
    #[error(transparent)]
    Enrich(#[from] EnrichError),
    #[error(transparent)]
    Output(#[from] io::Error),
}

type Enriched = Result<(Vec<u8>, Tally), EnrichError>;

/// What a block comes to whose work panicked.
const LOST: Enriched = Err(EnrichError::Unfinished(Unfinished::Dropped));

/// Blocks on their way: read here, enriched on all cores, written here in their order.
struct Work<'a> {
    enricher: &'a Enricher,
    session: Arc<Session>,
    waiting: VecDeque<Receiver<Enriched>>,
    tally: Tally,
}

impl Work<'_> {
    /// One input from its beginning to its end; gives back its bytes.
    fn input(&mut self, spec: &InputSpec, writer: &mut Writer) -> Result<u64, Stop> {
        let mut input = Input::open(spec)?;
        writer.next_input();
        let (mut lines, mut total, mut since) = (Lines::default(), 0, Instant::now());
        let ended = loop {
            let before = lines.buffer().len();
            let line = lines.line();
            let got = match input.read(READ_BYTES, lines.buffer(), line) {
                Ok(got) => got,
                // What came before is good.
                Err(error) => break Err(error),
            };
            total += (lines.buffer().len() - before) as u64;
            if got == Got::End {
                break Ok(());
            }
            if before == 0 {
                since = Instant::now();
            }
            while let Some(block) = lines.full() {
                self.begin(block, writer)?;
            }
            if got == Got::Idle {
                self.enricher.refresh();
            }
            if got == Got::Idle || since.elapsed() > LONGEST_WAIT {
                while let Some(block) = lines.whole_lines() {
                    self.begin(block, writer)?;
                }
                since = Instant::now();
            }
            if self.write_done(writer)? == Wrote::AllThereWas {
                writer.flush()?;
            }
        };
        while let Some(block) = lines.rest() {
            self.begin(block, writer)?;
        }
        while let Some(next) = self.waiting.pop_front() {
            self.write(next.recv().unwrap_or(LOST), writer)?;
        }
        writer.flush()?;
        ended?;
        Ok(total)
    }

    fn begin(&mut self, block: Block, writer: &mut Writer) -> Result<(), Stop> {
        let pool = self.enricher.pool();
        if self.waiting.len() > 2 * pool.threads()
            && let Some(next) = self.waiting.pop_front()
        {
            self.write(next.recv().unwrap_or(LOST), writer)?;
        }
        let (sender, receiver) = sync_channel(1);
        let session = Arc::clone(&self.session);
        pool.spawn(move || {
            // Nobody waits for it any more when the work has ended.
            let _ = sender.send(session.block(block));
        });
        self.waiting.push_back(receiver);
        Ok(())
    }

    /// Writes what is done.
    fn write_done(&mut self, writer: &mut Writer) -> Result<Wrote, Stop> {
        while let Some(next) = self.waiting.front() {
            let done = match next.try_recv() {
                Ok(done) => done,
                Err(TryRecvError::Empty) => return Ok(Wrote::Some),
                Err(TryRecvError::Disconnected) => LOST,
            };
            self.waiting.pop_front();
            self.write(done, writer)?;
        }
        Ok(Wrote::AllThereWas)
    }

    fn write(&mut self, done: Enriched, writer: &mut Writer) -> Result<(), Stop> {
        let (bytes, tally) = done?;
        self.tally.add(tally);
        Ok(writer.write(&bytes)?)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrote {
    /// More is being worked on.
    Some,
    AllThereWas,
}

/// Where events go.
struct Writer {
    sink: Sink,
    /// A file under its name until it is complete, and the one it is to have.
    names: Option<(PathBuf, PathBuf)>,
    /// The last line has its end.
    at_line_start: bool,
    /// The next bytes begin a line, whether the last one has its end or not.
    begins_line: bool,
}

enum Sink {
    Stdout(io::Stdout),
    Plain(BufWriter<File>),
    Gzip(Box<GzEncoder<BufWriter<File>>>),
    Zstd(Box<zstd::Encoder<'static, BufWriter<File>>>),
}

impl Writer {
    fn open(path: Option<&Path>) -> Result<Self, CliError> {
        let Some(path) = path else {
            let sink = Sink::Stdout(io::stdout());
            return Ok(Writer { sink, names: None, at_line_start: true, begins_line: false });
        };
        let failed = |error: io::Error| format!("cannot write `{}`: {error}", path.display());
        // A pipe or a device is written to as it is.
        let in_place = std::fs::metadata(path).is_ok_and(|found| !found.is_file());
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = if in_place { path.to_owned() } else { PathBuf::from(part) };
        let file = BufWriter::with_capacity(READ_BYTES, File::create(&part).map_err(failed)?);
        let sink = match path.extension().and_then(|ending| ending.to_str()) {
            Some("gz") => Sink::Gzip(Box::new(GzEncoder::new(file, Compression::fast()))),
            Some("zst") => Sink::Zstd(Box::new(zstd::Encoder::new(file, 1).map_err(failed)?)),
            _ => Sink::Plain(file),
        };
        let names = (!in_place).then(|| (part, path.to_owned()));
        Ok(Writer { sink, names, at_line_start: true, begins_line: false })
    }

    fn next_input(&mut self) {
        self.begins_line = true;
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(last) = bytes.last() else { return Ok(()) };
        if std::mem::take(&mut self.begins_line) && !self.at_line_start {
            self.sink().write_all(b"\n")?;
        }
        self.at_line_start = *last == b'\n';
        self.sink().write_all(bytes)
    }

    fn sink(&mut self) -> &mut dyn Write {
        match &mut self.sink {
            Sink::Stdout(sink) => sink,
            Sink::Plain(sink) => sink,
            Sink::Gzip(sink) => sink,
            Sink::Zstd(sink) => sink,
        }
    }

    /// Lets whoever reads along see what there is; of a file nobody does.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Stdout(sink) => sink.flush(),
            Sink::Plain(_) | Sink::Gzip(_) | Sink::Zstd(_) => Ok(()),
        }
    }

    fn finish(self) -> Result<(), CliError> {
        let file = match self.sink {
            Sink::Stdout(mut sink) => return Ok(sink.flush()?),
            Sink::Plain(file) => file,
            Sink::Gzip(encoder) => encoder.finish()?,
            Sink::Zstd(encoder) => encoder.finish()?,
        };
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        if let Some((part, path)) = self.names {
            file.sync_all()?;
            std::fs::rename(&part, &path).map_err(|error| format!("cannot write `{}`: {error}", path.display()))?;
        }
        Ok(())
    }
}
