//! `taxiway bench`.

use std::fs::OpenOptions;
use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::Url;

use super::output::{self, complain, grouped, say};
use super::{CliError, Outcome};
use crate::bench::{self, Access, Credentials, Encoding, Event, Options, Secret, Size, Version};

/// The environment variable with the password.
const PASSWORD: &str = "TAXIWAY_BENCH_PASSWORD";
/// The environment variable with the token or key.
const TOKEN: &str = "TAXIWAY_BENCH_TOKEN";
/// A plain progress line is printed this often where there is no terminal.
const PLAIN_PROGRESS: Duration = Duration::from_secs(10);

/// Measure a TAXII server, this one or any other: pages of several sizes, whole walks, polls, many clients at once.
///
/// Takes the URL of a discovery, an API root, a collection or just a host, and finds out the rest. Walks through the collection, asks for
/// its first and a middle page, for what is new (nothing) and for one object, and lets several clients walk at once;
/// plain and compressed. Counts objects, checks that no id comes twice and that all walks find the same, and reports times,
/// rates and errors. It reads only, waits for each answer, and leaves a busy server (429, 503) alone for as long as it asks.
///
/// The password of --user comes from --password-file, from TAXIWAY_BENCH_PASSWORD or is asked for; the token of --token and
/// --api-key from --token-file, from TAXIWAY_BENCH_TOKEN or is asked for. None of them is ever an argument, which others on
/// the machine could read.
///
/// Exit code 1: requests failed, or the answers were wrong.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  taxiway bench http://127.0.0.1:9000 --collection Blocklist\n\
                  \x20 taxiway bench https://taxii.example.org/taxii2/ --user siem --collection Blocklist --report bench.md\n\
                  \x20 taxiway bench https://feeds.example.org/root/collections/<id>/objects/ --token --limits 1000 --encodings gzip\n\
                  \x20 TAXIWAY_BENCH_TOKEN=... taxiway bench https://feeds.example.org/ --api-key X-Api-Key --clients 16 --seconds 30")]
pub(super) struct BenchArgs {
    /// Discovery, API root, collection or its objects, or just the host.
    url: String,
    /// Id, alias or title of the collection; not needed where there is only one.
    #[arg(long, value_name = "COLLECTION")]
    collection: Option<String>,
    /// The version of TAXII to speak; without it, the newest one that the server has.
    #[arg(long, value_enum, value_name = "VERSION")]
    taxii: Option<Spoken>,
    /// Name of a user, for basic authentication.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["token", "api_key"])]
    user: Option<String>,
    /// File whose first line is the password; `-` for standard input.
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// Send a bearer token.
    #[arg(long, conflicts_with = "api_key")]
    token: bool,
    /// Send a key in the header of that name.
    #[arg(long, value_name = "HEADER")]
    api_key: Option<String>,
    /// File whose first line is the token or key; `-` for standard input. Without --api-key it is a bearer token.
    #[arg(long, value_name = "FILE", conflicts_with = "user")]
    token_file: Option<PathBuf>,
    /// PEM file of the authorities to trust, in place of the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// PEM file with a client certificate and its key.
    #[arg(long, value_name = "FILE")]
    client_cert: Option<PathBuf>,
    /// Do not check the server's certificate: whoever sits in between can read the credentials.
    #[arg(long)]
    insecure: bool,
    /// Page sizes: numbers, `whole` for all that the server gives at once, `server` for the size that it has if none is said.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "100,1000,10000,whole", value_parser = size)]
    limits: Vec<Size>,
    /// Compressions to ask for.
    #[arg(long, value_enum, value_name = "NAME,…", value_delimiter = ',', default_value = "plain,gzip,zstd")]
    encodings: Vec<Packed>,
    /// Types of a selective query to measure too, comma-separated: match[type].
    #[arg(long, value_name = "TYPES")]
    types: Option<String>,
    /// Clients of the measurement with many, each on a connection of its own; 1 leaves it out.
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u16).range(1..=256))]
    clients: u16,
    /// Requests for the same page, at most.
    #[arg(long, value_name = "N", default_value = "30", value_parser = clap::value_parser!(u32).range(1..))]
    requests: u32,
    /// The longest that a measurement goes on asking; 0 for no end.
    #[arg(long, value_name = "SECONDS", default_value = "10")]
    seconds: u64,
    /// The longest that a walk through the collection goes on; 0 for no end.
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    walk_seconds: u64,
    /// How long to wait for the next byte of an answer.
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
    /// File for the report as Markdown.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Form of the result.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    output: output::Form,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Spoken {
    #[value(name = "2.0")]
    V20,
    #[value(name = "2.1")]
    V21,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Packed {
    Plain,
    Gzip,
    Zstd,
}

fn size(text: &str) -> Result<Size, String> {
    match (text, text.parse()) {
        ("whole", _) => Ok(Size::Whole),
        ("server", _) => Ok(Size::Server),
        (_, Ok(count)) if count > 0 => Ok(Size::Objects(count)),
        _ => Err("a page size is a number from 1 on, `whole` or `server`".to_owned()),
    }
}

/// Why the command failed, where no other part says it.
#[derive(Debug, thiserror::Error)]
enum BenchCommandError {
    #[error("`{url}` is no URL; write it as https://taxii.example.org/taxii2/")]
    BadUrl { url: String },
    #[error(
        "a password on the command line can be read by everyone on this machine: give the name alone, and the password \
         with `--password-file FILE`, in `{PASSWORD}`, or when asked"
    )]
    PasswordInArguments,
    #[error("read `{path}`")]
    ReadSecret { path: String, source: io::Error },
    #[error("`{path}` holds nothing; its first line has to be the secret")]
    EmptySecret { path: String },
    #[error("standard input is no terminal to ask for the {what} on; give it with `{option} FILE` or in `{variable}`")]
    NoTerminal { what: &'static str, option: &'static str, variable: &'static str },
    #[error("ask for the {what}")]
    Ask { what: &'static str, source: io::Error },
    #[error("write the report `{path}`")]
    WriteReport { path: String, source: io::Error },
}

/// Runs the command; what it prints goes to standard output.
pub(super) fn run(args: &BenchArgs) -> Result<Outcome, CliError> {
    let url = url(&args.url)?;
    let credentials = credentials(args)?;
    warn(args, &url, &credentials);
    if let Some(path) = &args.report {
        // Better now than when all was measured.
        let opened = OpenOptions::new().create(true).append(true).open(path);
        opened.map_err(|source| BenchCommandError::WriteReport { path: path.display().to_string(), source })?;
    }
    let seconds = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
    let options = Options {
        url,
        collection: args.collection.clone(),
        version: args.taxii.map(|version| match version {
            Spoken::V20 => Version::V20,
            Spoken::V21 => Version::V21,
        }),
        access: Access {
            credentials,
            authorities: args.ca.clone(),
            client_certificate: args.client_cert.clone(),
            insecure: args.insecure,
            patience: Duration::from_secs(args.timeout.into()),
        },
        sizes: args.limits.clone(),
        encodings: args
            .encodings
            .iter()
            .map(|packed| match packed {
                Packed::Plain => Encoding::Plain,
                Packed::Gzip => Encoding::Gzip,
                Packed::Zstd => Encoding::Zstd,
            })
            .collect(),
        types: args.types.clone(),
        clients: args.clients.into(),
        requests: args.requests.into(),
        time: seconds(args.seconds),
        walk_time: seconds(args.walk_seconds),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut progress = Progress::new();
    let stop = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let measured = runtime.block_on(bench::run(&options, &mut |event| progress.show(&event), stop));
    progress.bar.finish_and_clear();
    let report = measured?;
    match args.output {
        output::Form::Json => say(&serde_json::to_string_pretty(&report)?)?,
        output::Form::Table => {
            say(&format!("{}\n", report.headline()))?;
            say(&output::table(&bench::Report::HEADS, &report.rows()))?;
            say("\ntimes are milliseconds, MB those of the decompressed bodies")?;
            report.words().iter().try_for_each(|word| say(word))?;
        }
    }
    if let Some(path) = &args.report {
        let written = std::fs::write(path, report.markdown());
        written.map_err(|source| BenchCommandError::WriteReport { path: path.display().to_string(), source })?;
    }
    Ok(if report.is_clean() { Outcome::Done } else { Outcome::Attention })
}

fn url(text: &str) -> Result<Url, BenchCommandError> {
    let bad = || BenchCommandError::BadUrl { url: text.to_owned() };
    let url = Url::parse(text).map_err(|_| bad())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(bad());
    }
    if url.password().is_some() || !url.username().is_empty() {
        return Err(BenchCommandError::PasswordInArguments);
    }
    Ok(url)
}

fn credentials(args: &BenchArgs) -> Result<Credentials, BenchCommandError> {
    if let Some(user) = &args.user {
        // A user's name has no colon (RFC 7617): this is the `name:password` of curl.
        if user.contains(':') {
            return Err(BenchCommandError::PasswordInArguments);
        }
        let password = secret(args.password_file.as_deref(), "password", "--password-file", PASSWORD)?;
        return Ok(Credentials::Basic { user: user.clone(), password });
    }
    if !args.token && args.api_key.is_none() && args.token_file.is_none() {
        return Ok(Credentials::Anonymous);
    }
    let secret = secret(args.token_file.as_deref(), "token", "--token-file", TOKEN)?;
    Ok(match &args.api_key {
        Some(header) => Credentials::ApiKey { header: header.clone(), key: secret },
        None => Credentials::Bearer(secret),
    })
}

/// From the file, the environment, or the terminal.
fn secret(
    file: Option<&Path>,
    what: &'static str,
    option: &'static str,
    variable: &'static str,
) -> Result<Secret, BenchCommandError> {
    if let Some(path) = file {
        let named = path.display().to_string();
        let read = || -> io::Result<String> {
            if path == Path::new("-") {
                return first_line(io::stdin().lock());
            }
            first_line(io::BufReader::new(std::fs::File::open(path)?))
        };
        let secret = read().map_err(|source| BenchCommandError::ReadSecret { path: named.clone(), source })?;
        return if secret.is_empty() {
            Err(BenchCommandError::EmptySecret { path: named })
        } else {
            Ok(Secret(secret))
        };
    }
    if let Some(secret) = std::env::var(variable).ok().filter(|secret| !secret.is_empty()) {
        return Ok(Secret(secret));
    }
    if !io::stdin().is_terminal() {
        return Err(BenchCommandError::NoTerminal { what, option, variable });
    }
    let asked = rpassword::prompt_password(format!("The {what}: "));
    asked.map(Secret).map_err(|source| BenchCommandError::Ask { what, source })
}

fn first_line(mut input: impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    Ok(line)
}

fn warn(args: &BenchArgs, url: &Url, credentials: &Credentials) {
    if args.insecure {
        complain(
            "WARNING: `--insecure`: the server's certificate is not checked. Whoever sits in between can read the credentials \
             and send whatever it likes. Give its authority with `--ca FILE` instead.",
        );
    }
    let known = !matches!(credentials, Credentials::Anonymous);
    if known && url.scheme() == "http" && !is_loopback(url) {
        complain("WARNING: the credentials go over plain HTTP, where everyone on the way can read them. Use https://.");
    }
}

fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// A bar on a terminal, plain lines elsewhere.
struct Progress {
    bar: ProgressBar,
    terminal: bool,
    current: String,
    told: Instant,
}

impl Progress {
    fn new() -> Self {
        let terminal = io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        if terminal {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}  {wide_msg}") {
            bar.set_style(style);
        }
        Progress { bar, terminal, current: String::new(), told: Instant::now() }
    }

    fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Planned { title, version, measurements } => {
                self.bar.set_length(*measurements as u64);
                self.line(&format!("collection `{}`, TAXII {version}, {measurements} measurements", clean(title)));
            }
            Event::Begins(name) => {
                (*name).clone_into(&mut self.current);
                self.bar.set_message(self.current.clone());
                self.told = Instant::now();
            }
            Event::Goes { requests, objects, busy } => {
                let mut text =
                    format!("{}: {} requests, {} objects", self.current, grouped(*requests), grouped(*objects));
                if *busy > 0 {
                    text.push_str(&format!(", asked to wait {} times", grouped(*busy)));
                }
                if !self.terminal && self.told.elapsed() >= PLAIN_PROGRESS {
                    self.line(&text);
                    self.told = Instant::now();
                }
                self.bar.set_message(text);
            }
            Event::Done(measurement) => {
                self.bar.inc(1);
                let failed: u64 = measurement.errors.values().sum();
                let failed = if failed > 0 { format!(", {} failed", grouped(failed)) } else { String::new() };
                if !self.terminal {
                    self.line(&format!(
                        "{}: {} requests, {} objects, p50 {:.2} ms, p99 {:.2} ms{failed}",
                        self.current,
                        grouped(measurement.requests),
                        grouped(measurement.objects),
                        measurement.page_ms.p50,
                        measurement.page_ms.p99,
                    ));
                }
            }
        }
    }

    fn line(&self, text: &str) {
        self.bar.suspend(|| complain(text));
    }
}

/// What a server says, fit for a terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_or_words() {
        let cases = [
            ("1", Some(Size::Objects(1))),
            ("whole", Some(Size::Whole)),
            ("server", Some(Size::Server)),
            ("0", None),
            ("-1", None),
            ("all", None),
        ];
        for (text, expected) in cases {
            assert_eq!(size(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn no_password_stands_in_a_url() {
        for (text, good) in [
            ("http://127.0.0.1:9000", true),
            ("https://taxii.example.org/taxii2/", true),
            ("https://me:secret@taxii.example.org/", false),
            ("https://me@taxii.example.org/", false),
            ("taxii.example.org", false),
            ("ftp://taxii.example.org/", false),
        ] {
            assert_eq!(url(text).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn loopback_is_known() {
        for (text, expected) in [
            ("http://127.0.0.1:9000", true),
            ("http://[::1]:9000/", true),
            ("http://localhost/", true),
            ("http://localhost.example.org/", false),
            ("http://192.0.2.1/", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(text).expect("a URL")), expected, "{text}");
        }
    }
}
