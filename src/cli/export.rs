//! `taxiway export`.

use std::cell::Cell;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::output::{self, complain, grouped, say};
use super::place::{Place, catalog, start_log, store_options};
use super::{CliError, Outcome};
use crate::config::Config;
use crate::export::{
    Compression, DomainForm, ExportRequest, ExportSummary, Format, ListOptions, ListOrder, ListType, Progress, Since,
    UrlForm, columns, default_columns, export,
};
use crate::feed::api::Feed;
use crate::feed::collection::{Collection, CollectionSpec, QueryText};
use crate::feed::{FeedOptions, StoreFeed};
use crate::model::time::Timestamp;
use crate::render::{Profile, StixVersion};
use crate::store::Store;

/// A plain progress line is printed this often where there is no terminal.
const PLAIN_PROGRESS: Duration = Duration::from_secs(10);

/// Export a collection, or what a query selects, to files.
///
/// PATH is one file, or with --rows-per-part (or where it is a folder, or ends in `/`) a folder of parts. Files get their
/// names when all of them are whole. Beside them lies export.json (of one file: PATH.export.json): the files with rows, sizes
/// and SHA-256, the query, the version of the store and where the next increment goes on. An export that was killed goes on
/// behind the last whole part when it is run again. An export replaces an earlier one of the same to the same place, and nothing
/// else.
///
/// stix, ndjson: the objects that TAXII clients get, relationships and markings among them. csv, parquet: the records.
/// list: values, one a line, as firewalls read them: live ones only. misp: a feed, to be pulled by MISP from a folder or web
/// server: manifest.json and an event for each ten thousand records.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  taxiway export Blocklist --format stix --out blocklist.json\n  taxiway export all --format parquet --out lake/ --rows-per-part 1000000\n  taxiway export all --format ndjson --compress zstd --out feed/ --rows-per-part 500000 --since LAST\n  taxiway export --query 'type:IP and verdict:malicious' --format list --aggregate --max-items 150000 --out edl.txt\n  taxiway export Blocklist --format csv --columns value,type,verdict,tags --out blocklist.csv"
)]
pub(super) struct ExportArgs {
    /// The collection: its title, alias or id.
    #[arg(required_unless_present = "query", conflicts_with = "query")]
    collection: Option<String>,
    /// What to export instead of a collection, in XSOAR's indicator query language; empty means everything.
    #[arg(long, value_name = "QUERY", allow_hyphen_values = true)]
    query: Option<String>,
    #[command(flatten)]
    place: Place,
    /// What the files are.
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: FormatArg,
    /// Where to: a file, or a folder for parts.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Rows of a part; the last one may have fewer.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    rows_per_part: Option<u64>,
    /// Compress files with `gzip` or `zstd`; a level may follow, `zstd:9`. Parquet is compressed inside, with zstd.
    #[arg(long, value_name = "METHOD")]
    compress: Option<Compression>,
    /// Only what was added to the store later than DATE, or with `LAST` later than the export that is there: in a folder its
    /// parts come beside those that are there, a file holds the increment alone.
    #[arg(long, value_name = "DATE|LAST", value_parser = since)]
    since: Option<Since>,
    /// Columns of csv and parquet, separated by commas; `*` means all. Lists are one cell of csv, with `;` between items.
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    columns: Vec<String>,
    /// Version of STIX objects [default: the collection's].
    #[arg(long, value_enum, value_name = "VERSION")]
    stix_version: Option<VersionArg>,
    /// Rendering profile of STIX objects [default: the collection's].
    #[arg(long, value_enum, value_name = "PROFILE")]
    profile: Option<ProfileArg>,
    #[command(flatten)]
    list: ListArgs,
    /// Replace what is there, whatever it is.
    #[arg(long)]
    force: bool,
    /// Form of the summary.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    output: output::Form,
}

/// What a list holds.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of lists")]
struct ListArgs {
    /// Kinds of values, separated by commas: ip, ipv4, ipv6, domain, url, email, hash, md5, sha1, sha256, sha512, or an XSOAR type
    /// such as CVE [default: ip, domain, url, email and hash].
    #[arg(long = "type", value_delimiter = ',', value_name = "TYPES")]
    types: Vec<ListType>,
    /// At most so many values, the newest.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    max_items: Option<u64>,
    /// Write addresses as the fewest networks that hold exactly the same ones.
    #[arg(long)]
    aggregate: bool,
    /// URLs in full, or without scheme as Palo Alto's lists want them.
    #[arg(long, value_name = "full|no-scheme", default_value = "full")]
    urls: UrlForm,
    /// Domains as they are, each with its `*.` wildcard besides, or wildcards without theirs. Always in lower case and ASCII.
    #[arg(long, value_name = "plain|wildcard|bare", default_value = "plain")]
    domains: DomainForm,
    /// In the order they were added, or addresses by number and then all else by value; a sorted list is held in memory.
    #[arg(long, value_enum, value_name = "ORDER", default_value = "added")]
    sort: OrderArg,
    /// Expired and revoked values as well.
    #[arg(long)]
    stale: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    Stix,
    Ndjson,
    Csv,
    Parquet,
    List,
    Misp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum VersionArg {
    #[value(name = "2.0")]
    V20,
    #[value(name = "2.1")]
    V21,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ProfileArg {
    Standard,
    Xsoar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OrderArg {
    Added,
    Value,
}

fn since(text: &str) -> Result<Since, String> {
    match text {
        "LAST" | "last" => Ok(Since::Last),
        date => Timestamp::parse(date).map(Since::After).map_err(|error| error.to_string()),
    }
}

impl ListArgs {
    fn options(&self) -> ListOptions {
        ListOptions {
            types: self.types.clone(),
            max_items: self.max_items,
            aggregate: self.aggregate,
            urls: self.urls,
            domains: self.domains,
            order: match self.sort {
                OrderArg::Added => ListOrder::Added,
                OrderArg::Value => ListOrder::Value,
            },
            stale: self.stale,
        }
    }
}

impl ExportArgs {
    fn request(&self, collection: &Collection) -> Result<ExportRequest, CliError> {
        let format = match self.format {
            FormatArg::Stix => Format::Stix,
            FormatArg::Ndjson => Format::Ndjson,
            FormatArg::Csv => Format::Csv,
            FormatArg::Parquet => Format::Parquet,
            FormatArg::List => Format::List,
            FormatArg::Misp => Format::Misp,
        };
        let list = self.list.options();
        if format != Format::List && list != ListOptions::default() {
            return Err(
                "`--type`, `--max-items`, `--aggregate`, `--urls`, `--domains`, `--sort` and `--stale` are of lists; \
                        use them with `--format list`"
                    .into(),
            );
        }
        let is_table = matches!(format, Format::Csv | Format::Parquet);
        if !is_table && !self.columns.is_empty() {
            return Err("`--columns` are of tables; use it with `--format csv` or `parquet`".into());
        }
        Ok(ExportRequest {
            format,
            out: self.out.clone(),
            rows_per_part: self.rows_per_part,
            compression: self.compress,
            since: self.since.unwrap_or(Since::Start),
            columns: if self.columns.is_empty() { default_columns() } else { columns(&self.columns)? },
            list,
            version: match self.stix_version {
                None => collection.options.version,
                Some(VersionArg::V20) => StixVersion::V20,
                Some(VersionArg::V21) => StixVersion::V21,
            },
            force: self.force,
        })
    }

    /// The collection that is exported.
    fn collection(&self, config: &Config, store: &Store, feed: &StoreFeed) -> Result<Collection, CliError> {
        let mut collection = match (&self.query, &self.collection) {
            (Some(query), _) => {
                let title = if query.is_empty() { "everything" } else { query };
                let spec = CollectionSpec {
                    extension_fields: config.defaults.extension_fields.clone(),
                    indicator_types: config.defaults.indicator_types,
                    relationships: config.defaults.relationships,
                    ..CollectionSpec::new(title, QueryText::Xsoar(query.clone()))
                };
                spec.build(store.ids(), &config.feed)?
            }
            (None, name) => named(feed, name.as_deref().unwrap_or_default())?,
        };
        for warning in collection.query.warnings() {
            complain(&format!("warning: {warning}"));
        }
        match self.profile {
            None => {}
            Some(ProfileArg::Standard) => collection.options.profile = Profile::Standard,
            Some(ProfileArg::Xsoar) => collection.options.profile = Profile::Xsoar,
        }
        Ok(collection)
    }
}

/// The collection of that title, alias or id.
fn named(feed: &StoreFeed, name: &str) -> Result<Collection, CliError> {
    let catalog = feed.catalog();
    if let Some(collection) = catalog.get(name) {
        return Ok(Collection::clone(collection));
    }
    let mut titled = catalog.configured().filter(|collection| collection.title == name);
    match (titled.next(), titled.next()) {
        (Some(collection), None) => Ok(Collection::clone(collection)),
        (Some(_), Some(_)) => {
            Err(format!("several collections are titled `{name}`; give the id of the one that is meant").into())
        }
        (None, _) => {
            let titles: Vec<String> =
                catalog.configured().map(|collection| format!("`{}`", collection.title)).collect();
            Err(format!("there is no collection `{name}`; there are {}", titles.join(", ")).into())
        }
    }
}

pub(super) fn run(args: &ExportArgs) -> Result<Outcome, CliError> {
    let config = args.place.config()?;
    start_log(&config, Some("warn"));
    let store = Store::open(store_options(&config))?;
    let feed = StoreFeed::new(store.clone(), catalog(&config, &store)?, &FeedOptions::default())?;
    let collection = args.collection(&config, &store, &feed)?;
    let request = args.request(&collection)?;
    let began = Instant::now();
    let bar = Bar::new(&collection.title);
    let summary = export(&feed, &Arc::new(collection), &request, &mut |progress| bar.show(progress));
    bar.end();
    report(args, &summary?, began.elapsed())?;
    Ok(Outcome::Done)
}

/// A bar on a terminal, a line now and then elsewhere.
struct Bar {
    bar: ProgressBar,
    plain: bool,
    name: String,
    began: Instant,
    last_line: Cell<Instant>,
}

impl Bar {
    fn new(name: &str) -> Self {
        let plain = !io::stderr().is_terminal();
        let target = if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:24} {percent:>3}% {msg} ETA {eta}") {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        let now = Instant::now();
        Bar { bar, plain, name: name.to_owned(), began: now, last_line: Cell::new(now) }
    }

    fn show(&self, progress: Progress) {
        let due = !self.plain || self.last_line.get().elapsed() > PLAIN_PROGRESS;
        if !due {
            return;
        }
        let rate = progress.rows as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        let message =
            format!("{} of {} rows, {}/s", grouped(progress.rows), grouped(progress.total), grouped(rate as u64));
        if self.plain {
            self.last_line.set(Instant::now());
            complain(&format!("{}: {message}", self.name));
        } else {
            self.bar.set_length(progress.total);
            self.bar.set_position(progress.rows);
            self.bar.set_message(message);
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn report(args: &ExportArgs, summary: &ExportSummary, took: Duration) -> Result<(), CliError> {
    let seconds = took.as_secs_f64();
    let manifest = &summary.manifest;
    if summary.moved {
        complain(
            "the version of the store that the export began on is gone: it went on in the newest one, so records that changed since \
             may be in it twice, with their older and their newer version",
        );
    }
    if args.output == output::Form::Json {
        let text = json!({
            "format": manifest.request.format, "collection": manifest.request.title, "manifest": summary.path,
            "parts": summary.parts, "rows": summary.rows, "bytes": summary.bytes, "skipped": manifest.skipped,
            "left_out": summary.left_out, "parts_kept": summary.kept, "since": manifest.since, "position": manifest.position,
            "first_added": manifest.first_added, "last_added": manifest.last_added, "snapshot": manifest.snapshot,
            "rows_in_all": manifest.rows, "bytes_in_all": manifest.bytes, "seconds": seconds,
        });
        return Ok(say(&text.to_string())?);
    }
    let rate = grouped((summary.rows as f64 / seconds.max(0.001)) as u64);
    let size = output::bytes(summary.bytes);
    say(&format!("rows      {:>12}   {size} in {seconds:.1} s, {rate} rows/s", grouped(summary.rows)))?;
    say(&format!("parts     {:>12}", grouped(summary.parts as u64)))?;
    if summary.kept > 0 {
        say(&format!("kept      {:>12}   parts that were whole before", grouped(summary.kept as u64)))?;
    }
    if manifest.skipped > 0 {
        say(&format!("skipped   {:>12}   records without a value or form for this", grouped(manifest.skipped)))?;
    }
    if summary.left_out > 0 {
        say(&format!("left out  {:>12}   older values beyond --max-items", grouped(summary.left_out)))?;
    }
    if let Some(since) = &manifest.since {
        say(&format!("since     {since}"))?;
    }
    say(&format!("manifest  {}", summary.path.display()))?;
    Ok(())
}
