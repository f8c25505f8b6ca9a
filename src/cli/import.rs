//! `taxiway import`.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::output::{self, complain, grouped, say};
use super::place::{Place, catalog, start_log, store_options};
use super::{CliError, Outcome};
use crate::config::Config;
use crate::inbox::{AddedDates, InboxImporter};
use crate::ingest::{self, DecodeError, DecodeOptions, Format, Importer, Input, InputSpec, Parsed, Reject, Summary};
use crate::model::kind::XSOAR_TYPES;
use crate::store::{Store, StoreError};

/// A plain progress line is printed this often where there is no terminal.
const PLAIN_PROGRESS: Duration = Duration::from_secs(10);
/// Rejected records of an input that a dry run shows.
const REJECTS_SHOWN: usize = 5;

/// Import indicators, STIX objects and relationships from files or standard input.
///
/// Takes XSOAR documents of indicators and relationships (NDJSON, JSON array, search response; mixed, in any order), STIX 2.x bundles
/// and objects, CSV with a header, and plain lists of values; each of them plain, gzip or zstd. What is already in the store is
/// updated; what says nothing new is not written. A relationship whose ends are not both there is kept, and served once they are: by
/// a later record, file or import.
/// Records that cannot be taken go to FILE.rejected.ndjson with line and reason, which only its owner may read; the
/// rest is imported. When all of FILE can be taken, the FILE.rejected.ndjson of an earlier import is removed.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  taxiway import export.ndjson.gz\n  taxiway import 'feeds/*.json' --source 'My Feed'\n  taxiway import indicators.json relationships.json --keep-dates\n  curl -s https://example.org/list.txt | taxiway import - --type IP --source Example\n  taxiway import objects.json --inbox Partners --manifest manifest.json"
)]
pub(super) struct ImportArgs {
    /// Files; folders, which stand for the files right inside them; glob patterns; or `-` for standard input. Hidden
    /// files of folders and the *.rejected.ndjson of imports are left out; files inside the store are refused.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    #[command(flatten)]
    place: Place,
    /// What the inputs are, instead of telling it from their content: xsoar, stix, csv or list.
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Type of the values of lists and tables, instead of telling it from the value: an XSOAR type such as `IP`, or
    /// another usual name of one such as `hostname`. Records of types of your own come in documents, or in tables with
    /// a column `type`.
    #[arg(long = "type", value_name = "TYPE", value_parser = known_type)]
    default_type: Option<String>,
    /// Source of records that name none (`sourceBrands` in queries).
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Verdict of records that have none: 0 unknown, 1 benign, 2 suspicious, 3 malicious.
    #[arg(long, value_name = "0-3", value_parser = clap::value_parser!(u8).range(0..=3))]
    score: Option<u8>,
    /// Tag to add to every record of lists and tables; may be repeated.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// CSV column to field, `COLUMN=FIELD`; may be repeated.
    #[arg(long = "map", value_name = "COLUMN=FIELD", value_parser = mapping)]
    columns: Vec<(String, String)>,
    /// Give each record the date of its own last change as its place in the feed, instead of the date of this import: for moving to a
    /// new store while consumers resume from the date of the last object they saw at the old one. Records are brought into the order
    /// of these dates, a million (or 256 MiB of them) at a time, so a longer export should come in that order. Dates never go back:
    /// what is older than the newest record of the store, or an edge older than its ends, comes right behind it, and may be
    /// fetched once more.
    #[arg(long)]
    keep_dates: bool,
    /// Put the inputs, which have to be STIX objects, bundles or TAXII envelopes, into this inbox collection of the configuration, as
    /// if they were posted to it: its title, alias or id.
    #[arg(
        long,
        value_name = "COLLECTION",
        conflicts_with_all = ["format", "default_type", "source", "score", "tags", "columns", "keep_dates"]
    )]
    inbox: Option<String>,
    /// A manifest of the collection that the objects come from, as another TAXII server gives it; may be repeated, for one of several
    /// pages. Objects keep their `date_added` from it wherever dates stay rising, so that consumers who move along see nothing anew.
    #[arg(long, value_name = "FILE", requires = "inbox")]
    manifest: Vec<PathBuf>,
    /// Say what would be done, and write nothing: no store, no reject file. Some rejected records are shown instead.
    #[arg(long)]
    dry_run: bool,
    /// Stop at the first record that cannot be taken.
    #[arg(long)]
    strict: bool,
    /// Form of the summary.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    output: output::Form,
}

fn mapping(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((column, field)) if !column.is_empty() && !field.is_empty() => Ok((column.to_owned(), field.to_owned())),
        _ => Err("write it as COLUMN=FIELD, for example `IOC=value`".to_owned()),
    }
}

/// A list of a misspelt type would be stored and never be served, and a store forgets nothing: better to ask again.
fn known_type(name: &str) -> Result<String, String> {
    if ingest::knows_type(name) {
        return Ok(name.to_owned());
    }
    let likeness = |known: &str| strsim::jaro_winkler(&known.to_lowercase(), &name.to_lowercase());
    let known: Vec<&str> = XSOAR_TYPES.iter().map(|(known, _)| *known).collect();
    let nearest = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    Err(match nearest.filter(|nearest| likeness(nearest) > 0.8) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("types are: {}", known.join(", ")),
    })
}

/// Why an input was given up.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("line {line}: {reason} (stopped because of --strict; what was committed before stays)")]
    Strict { line: u64, reason: String },
}

pub(super) fn run(args: &ImportArgs) -> Result<Outcome, CliError> {
    let config = args.place.config()?;
    start_log(&config, Some("warn"));
    let inputs = without_rejects(ingest::expand(&args.files)?);
    if inputs.is_empty() {
        return Err("there is nothing to import; name files of records".into());
    }
    refuse_secrets(&inputs, &config)?;
    let store = if args.dry_run {
        Store::open_or_imagine(store_options(&config))?
    } else {
        let store = Store::open_or_create(store_options(&config))?;
        store.remove_orphans()?;
        store
    };
    let inbox = args.inbox.as_ref().map(|name| inbox_id(&config, &store, name)).transpose()?;
    let options = DecodeOptions {
        format: if inbox.is_some() { Some(Format::Stix) } else { args.format },
        default_type: args.default_type.clone(),
        default_source: args.source.clone(),
        default_tags: args.tags.clone(),
        csv_columns: args.columns.clone(),
        inbox: inbox.clone(),
        ..DecodeOptions::new(Arc::clone(store.ids()))
    };
    let began = Instant::now();
    let mut importer = match &inbox {
        Some(id) => Taker::Inbox(Box::new(InboxImporter::new(&store, dates(args, id)?, args.dry_run))),
        None => Taker::Store(Box::new(
            Importer::new(&store, args.dry_run).with_default_score(args.score).with_kept_dates(args.keep_dates),
        )),
    };
    let mut failures = 0;
    let mut reject_files = Vec::new();
    for spec in &inputs {
        let mut rejects = if args.dry_run { Rejects::shown() } else { Rejects::File(RejectFile::beside(spec)) };
        let before = (importer.summary().read, importer.summary().rejected);
        let outcome = import_one(spec, &options, args.strict, &mut importer, &mut rejects);
        match rejects.finish(spec, outcome.is_ok()) {
            Ok(file) => reject_files.extend(file),
            Err(trouble) => {
                failures += 1;
                complain(&format!("error: {spec}: {trouble}"));
            }
        }
        let read = importer.summary().read - before.0;
        match outcome {
            // Most likely it is no input at all, and whatever made it needs to hear of that.
            Ok(()) if read > 0 && importer.summary().rejected - before.1 == read => {
                failures += 1;
                complain(&format!("error: {spec}: none of its {} records could be taken", grouped(read)));
            }
            Ok(()) => {}
            // The store's own failures end everything; an unreadable input only itself.
            Err(DecodeError::Sink(stop @ Stop::Store(_))) => return Err(stop.into()),
            Err(error) => {
                failures += 1;
                complain(&format!("error: {}: {}", spec, super::sentence(&error)));
                if args.strict {
                    break;
                }
            }
        }
    }
    let summary = importer.finish()?;
    report(args, &summary, began.elapsed(), &reject_files, failures, inputs.len())?;
    Ok(if failures == 0 { Outcome::Done } else { Outcome::Attention })
}

/// Where the records go.
enum Taker {
    Store(Box<Importer>),
    Inbox(Box<InboxImporter>),
}

impl Taker {
    fn summary(&self) -> &Summary {
        match self {
            Taker::Store(importer) => importer.summary(),
            Taker::Inbox(importer) => importer.summary(),
        }
    }

    fn push(&mut self, parsed: Parsed) -> Result<Vec<Reject>, StoreError> {
        match self {
            Taker::Store(importer) => importer.push(parsed),
            Taker::Inbox(importer) => importer.push(parsed),
        }
    }

    fn finish(self) -> Result<Summary, StoreError> {
        match self {
            Taker::Store(importer) => importer.finish(),
            Taker::Inbox(importer) => importer.finish(),
        }
    }
}

/// The id of the inbox of that name.
fn inbox_id(config: &Config, store: &Store, name: &str) -> Result<String, CliError> {
    let catalog = catalog(config, store)?;
    let inboxes = || catalog.configured().filter(|collection| collection.inbox);
    let mut named =
        inboxes().filter(|inbox| inbox.title == name || inbox.alias.as_deref() == Some(name) || inbox.id == name);
    match (named.next(), named.next()) {
        (Some(inbox), None) => Ok(inbox.id.clone()),
        (Some(_), Some(_)) => {
            Err(format!("several inboxes are named `{name}`; give the id of the one that is meant").into())
        }
        (None, _) if inboxes().next().is_none() => {
            Err("the configuration has no inbox; add a [[collection]] with a title and `inbox = true`".into())
        }
        (None, _) => {
            let titles: Vec<String> = inboxes().map(|inbox| format!("`{}`", inbox.title)).collect();
            Err(format!("there is no inbox `{name}`; there are {}", titles.join(", ")).into())
        }
    }
}

/// What the manifests say; `None` without any.
fn dates(args: &ImportArgs, inbox: &str) -> Result<Option<AddedDates>, CliError> {
    let mut dates = AddedDates::default();
    for path in &args.manifest {
        let file = File::open(path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
        dates.read(inbox, io::BufReader::new(file)).map_err(|error| format!("`{}`: {error}", path.display()))?;
    }
    Ok((!args.manifest.is_empty()).then_some(dates))
}

fn import_one(
    spec: &InputSpec,
    options: &DecodeOptions,
    strict: bool,
    importer: &mut Taker,
    rejects: &mut Rejects,
) -> Result<(), DecodeError<Stop>> {
    let input = Input::open(spec)?;
    let progress = Progress::new(&spec.to_string(), input.size(), input.consumed(), importer.summary().read);
    let result = ingest::decode(input, options, |parsed| {
        let rejected = importer.push(parsed)?;
        let first = rejected.first().map(|first| (first.line, first.reason.clone()));
        for reject in rejected {
            rejects.take(reject);
        }
        if let Some((line, reason)) = first.filter(|_| strict) {
            return Err(Stop::Strict { line, reason });
        }
        progress.show(importer.summary().read);
        Ok(())
    });
    progress.end();
    result
}

/// The inputs but for files of rejected records, which a shell's `*` gives as well.
fn without_rejects(inputs: Vec<InputSpec>) -> Vec<InputSpec> {
    let is_input = |spec: &InputSpec| match spec {
        InputSpec::File(path) if path.to_string_lossy().ends_with(REJECTED_SUFFIX) && holds_rejects(path) => {
            complain(&format!("skipped `{}`: it holds the rejected records of an import", path.display()));
            false
        }
        _ => true,
    };
    inputs.into_iter().filter(is_input).collect()
}

/// A store's files and those with passwords and keys are no inputs: what is in them would be copied into reject files.
fn refuse_secrets(inputs: &[InputSpec], config: &Config) -> Result<(), CliError> {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    let store = real(&config.store.location);
    let key = config.serve.tls.as_ref().map(|tls| tls.key.as_path());
    let secrets: Vec<PathBuf> =
        [Some(config.serve.auth.users.as_path()), key].into_iter().flatten().filter_map(real).collect();
    for spec in inputs {
        // What does not exist is said when it is opened.
        let InputSpec::File(path) = spec else { continue };
        let Some(found) = real(path) else { continue };
        let (path, location) = (path.display(), config.store.location.display());
        if store.as_ref().is_some_and(|store| found.starts_with(store)) {
            return Err(format!(
                "`{path}` lies inside the store `{location}`, whose files are no inputs; name the files to import, and \
                 keep them elsewhere"
            )
            .into());
        }
        if secrets.contains(&found) {
            return Err(
                format!("`{path}` holds the server's users or its private key; name the files to import").into()
            );
        }
    }
    Ok(())
}

/// What a file of rejected records begins with; the number of the line follows.
const REJECT_START: &str = "{\"line\":";
const REJECTED_SUFFIX: &str = ".rejected.ndjson";

/// Whether we wrote that file of rejected records; it may be cut off anywhere, by a kill.
fn holds_rejects(path: &Path) -> bool {
    if !std::fs::symlink_metadata(path).is_ok_and(|facts| facts.is_file()) {
        return false;
    }
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(REJECT_START.len() as u64).read_to_end(&mut start));
    read.is_ok() && REJECT_START.as_bytes().starts_with(&start)
}

/// A new file that only its owner may read, in place of an earlier one of ours: rejected lines may be anything.
fn create_rejects(path: &Path) -> io::Result<File> {
    if holds_rejects(path) {
        std::fs::remove_file(path)?;
    }
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => io::Error::other("it holds something else; move it away"),
        _ => error,
    })
}

/// What becomes of rejected records.
enum Rejects {
    /// They are kept.
    File(RejectFile),
    /// In a dry run: the first of them are shown.
    Shown { first: Vec<Reject>, more: u64 },
}

impl Rejects {
    fn shown() -> Self {
        Rejects::Shown { first: Vec::new(), more: 0 }
    }

    fn take(&mut self, reject: Reject) {
        match self {
            Rejects::File(file) => file.write(&reject),
            Rejects::Shown { first, .. } if first.len() < REJECTS_SHOWN => first.push(reject),
            Rejects::Shown { more, .. } => *more += 1,
        }
    }

    /// The file, if there is one; the error says why there is none.
    fn finish(self, spec: &InputSpec, all_read: bool) -> Result<Option<PathBuf>, String> {
        let (first, more) = match self {
            Rejects::File(file) => return file.finish(all_read),
            Rejects::Shown { first, more } => (first, more),
        };
        for reject in first {
            complain(&format!("{spec}, line {}: {}", reject.line, reject.reason));
        }
        if more > 0 {
            complain(&format!("{spec}: {} more would be rejected", grouped(more)));
        }
        Ok(None)
    }
}

/// `<input>.rejected.ndjson`, made when the first record is rejected: beside the input, or in the working folder where that cannot be
/// written (a read-only disk, a pipe). Good records are not lost for want of a place for bad ones.
struct RejectFile {
    path: PathBuf,
    /// Whether a file of that name can only be of the same input.
    of_input: bool,
    file: Option<BufWriter<File>>,
    /// Why rejects cannot be kept.
    trouble: Option<String>,
}

impl RejectFile {
    fn beside(spec: &InputSpec) -> Self {
        let mut name = match spec {
            InputSpec::File(path) => path.as_os_str().to_owned(),
            InputSpec::Stdin => "stdin".into(),
        };
        name.push(REJECTED_SUFFIX);
        RejectFile { path: PathBuf::from(name), of_input: *spec != InputSpec::Stdin, file: None, trouble: None }
    }

    fn create(&mut self) -> io::Result<File> {
        let beside = match create_rejects(&self.path) {
            Ok(file) => return Ok(file),
            Err(error) => error,
        };
        let here = PathBuf::from(self.path.file_name().unwrap_or_default());
        let file = if here == self.path { Err(beside) } else { create_rejects(&here).map_err(|_| beside) }?;
        self.path = here;
        Ok(file)
    }

    fn write(&mut self, reject: &Reject) {
        if self.trouble.is_some() {
            return;
        }
        let line = json!({ "line": reject.line, "reason": reject.reason, "record": reject.text });
        let written = match &mut self.file {
            Some(file) => writeln!(file, "{line}"),
            None => self.create().and_then(|file| writeln!(self.file.insert(BufWriter::new(file)), "{line}")),
        };
        if let Err(error) = written {
            self.trouble = Some(format!(
                "cannot write `{}`: {error}; line {} was rejected: {}; later rejects are counted only",
                self.path.display(),
                reject.line,
                reject.reason
            ));
        }
    }

    /// The path, if anything was written. What an earlier import wrote is out of date once all of the input was taken.
    fn finish(self, all_read: bool) -> Result<Option<PathBuf>, String> {
        if let Some(trouble) = self.trouble {
            return Err(trouble);
        }
        let failed = |error: io::Error| format!("cannot write `{}`: {error}", self.path.display());
        match self.file {
            Some(mut file) => file.flush().map_err(failed).map(|()| Some(self.path)),
            None if all_read && self.of_input && holds_rejects(&self.path) => {
                std::fs::remove_file(&self.path).map_err(failed).map(|()| None)
            }
            None => Ok(None),
        }
    }
}

/// A bar on a terminal, a line now and then elsewhere.
struct Progress {
    bar: ProgressBar,
    consumed: Arc<AtomicU64>,
    plain: bool,
    name: String,
    began: Instant,
    last_line: std::cell::Cell<Instant>,
    read_before: u64,
}

impl Progress {
    fn new(name: &str, size: Option<u64>, consumed: Arc<AtomicU64>, read_before: u64) -> Self {
        let plain = !io::stderr().is_terminal();
        let bar = match size {
            _ if plain => ProgressBar::hidden(),
            Some(size) => ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::stderr()),
            None => ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()),
        };
        let template = if size.is_some() {
            "{prefix} {bar:24} {percent:>3}% {bytes}/{total_bytes} {msg} ETA {eta}"
        } else {
            "{prefix} {spinner} {bytes} {msg}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        let now = Instant::now();
        Progress {
            bar,
            consumed,
            plain,
            name: name.to_owned(),
            began: now,
            last_line: std::cell::Cell::new(now),
            read_before,
        }
    }

    fn show(&self, read_in_all: u64) {
        let read = read_in_all - self.read_before;
        let rate = read as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        let message = format!("{} records, {}/s", grouped(read), grouped(rate as u64));
        if !self.plain {
            self.bar.set_position(self.consumed.load(Ordering::Relaxed));
            self.bar.set_message(message);
        } else if self.last_line.get().elapsed() > PLAIN_PROGRESS {
            self.last_line.set(Instant::now());
            complain(&format!("{}: {message}", self.name));
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn report(
    args: &ImportArgs,
    summary: &Summary,
    took: Duration,
    rejects: &[PathBuf],
    failures: usize,
    inputs: usize,
) -> Result<(), CliError> {
    let seconds = took.as_secs_f64();
    if args.output != output::Form::Table {
        let text = json!({
            "inputs": inputs, "failed_inputs": failures, "read": summary.read, "new": summary.new, "changed": summary.changed,
            "unchanged": summary.unchanged, "rejected": summary.rejected, "waiting": summary.waiting,
            "waiting_for": summary.waiting_for, "bytes": summary.bytes, "seconds": seconds,
            "dry_run": args.dry_run, "not_served": summary.warnings.unknown_types, "unreadable_fields": summary.warnings.fields,
            "rejected_files": rejects,
        });
        say(&text.to_string())?;
        return Ok(());
    }
    let rate = grouped((summary.read as f64 / seconds.max(0.001)) as u64);
    let size = output::bytes(summary.bytes);
    if args.dry_run {
        say("dry run: nothing was written")?;
    }
    say(&format!("read       {:>12}   {size} in {seconds:.1} s, {rate} records/s", grouped(summary.read)))?;
    say(&format!("new        {:>12}", grouped(summary.new)))?;
    say(&format!("changed    {:>12}", grouped(summary.changed)))?;
    say(&format!("unchanged  {:>12}", grouped(summary.unchanged)))?;
    say(&format!("rejected   {:>12}", grouped(summary.rejected)))?;
    if summary.waiting > 0 {
        say(&format!("waiting    {:>12}   edges of the store without both ends", grouped(summary.waiting)))?;
        complain(&format!("relationships wait for their ends, for example: {}", summary.waiting_for.join("; ")));
    }
    for path in rejects {
        complain(&format!("rejected records, with line and reason: {}", path.display()));
    }
    let list = |counts: Vec<(String, u64)>| {
        let shown: Vec<String> =
            counts.iter().take(10).map(|(name, count)| format!("{name} {}", grouped(*count))).collect();
        let more = counts.len().saturating_sub(10);
        if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
    };
    let unknown: Vec<(String, u64)> =
        summary.warnings.unknown_types.iter().map(|(name, count)| (name.clone(), *count)).collect();
    if !unknown.is_empty() {
        complain(&format!("kept but not served, because their type has no STIX form: {}", list(unknown)));
    }
    let fields: Vec<(String, u64)> =
        summary.warnings.fields.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    if !fields.is_empty() {
        complain(&format!("values not understood, so left out or kept as custom fields: {}", list(fields)));
    }
    Ok(())
}
