//! What was measured, as rows and as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::client::{Encoding, Size, Version};

/// Milliseconds, of all requests of a measurement.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latency {
    /// Half of them took no longer.
    pub p50: f64,
    /// Nine of ten took no longer.
    pub p90: f64,
    /// Ninety-nine of a hundred took no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Latency {
    pub(super) fn of(micros: &Histogram<u64>) -> Self {
        let at = |share: f64| if micros.is_empty() { 0.0 } else { micros.value_at_quantile(share) as f64 / 1e3 };
        Latency { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) }
    }
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Measurement {
    /// What it is.
    pub name: String,
    /// Objects a page, as asked for: a number, `whole` (all that the server gives at once) or `server` (not asked for).
    #[serde(rename = "limit")]
    pub size: Size,
    /// The compression asked for.
    pub encoding: Encoding,
    /// The compression that came; `null` if there was nothing to compress.
    pub answered_encoding: Option<Encoding>,
    /// Requests that were answered with a page.
    pub requests: u64,
    /// Objects in them.
    pub objects: u64,
    /// Whether it came to its end: walks to that of the collection.
    pub complete: bool,
    /// Bytes of the bodies, as they came.
    pub wire_bytes: u64,
    /// Bytes of the bodies, decompressed.
    pub body_bytes: u64,
    /// The sum of what the requests took; with many clients, what the whole took.
    pub seconds: f64,
    /// Objects in a second.
    pub objects_per_second: f64,
    /// Millions of decompressed bytes in a second.
    pub megabytes_per_second: f64,
    /// Millions of bytes over the wire in a second.
    pub wire_megabytes_per_second: f64,
    /// What the first request took, which may have found the server cold.
    pub first_request_ms: f64,
    /// From a request's first byte to the first byte of the body.
    pub first_byte_ms: Latency,
    /// From a request's first byte to the last byte of the body.
    pub page_ms: Latency,
    /// Requests that failed, by kind.
    pub errors: BTreeMap<String, u64>,
    /// How often the server said that it is busy (429, 503).
    pub asked_to_wait: u64,
    /// How long it was left alone for that.
    pub waited_seconds: f64,
    /// What else is to be said.
    pub notes: Vec<String>,
}

/// All that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The URL that was given.
    pub url: String,
    /// URL of the collection.
    pub collection_url: String,
    /// Its title.
    pub collection: String,
    /// Its id.
    pub collection_id: String,
    /// The version of TAXII that was spoken.
    pub taxii: Version,
    /// What the server calls itself.
    pub server: Option<String>,
    /// When, RFC 3339.
    pub started: String,
    /// The program that measured.
    pub client: String,
    /// Cores of the machine that it ran on.
    pub client_cores: usize,
    /// Whether certificates went unchecked.
    pub insecure: bool,
    /// Clients of the measurement with many.
    pub clients: usize,
    /// The most objects that a walk found.
    pub objects: u64,
    /// Whether these are all.
    pub objects_complete: bool,
    /// The measurements, in their order.
    pub measurements: Vec<Measurement>,
    /// What is wrong with the answers; a changing collection may be the reason.
    pub problems: Vec<String>,
    /// What else is to be said.
    pub remarks: Vec<String>,
    /// Whether it was ended before its time.
    pub interrupted: bool,
}

impl Report {
    /// Whether nothing failed and nothing was wrong.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty() && !self.interrupted && self.measurements.iter().all(|it| it.errors.is_empty())
    }

    /// Heads of the columns of [`Report::rows`].
    pub const HEADS: [&'static str; 13] = [
        "measurement",
        "a page",
        "encoding",
        "requests",
        "objects",
        "objects/s",
        "MB/s",
        "first byte",
        "p50",
        "p90",
        "p99",
        "max",
        "remarks",
    ];

    /// The measurements as cells; times are milliseconds.
    pub fn rows(&self) -> Vec<Vec<String>> {
        self.measurements.iter().map(Measurement::cells).collect()
    }

    /// One line that says what was measured.
    pub fn headline(&self) -> String {
        let objects = match (self.objects_complete, self.objects) {
            (true, objects) => format!("{} objects", grouped(objects)),
            (false, objects) => format!("more than {} objects", grouped(objects)),
        };
        let server = self.server.as_deref().map(|name| format!(" of {}", shown(name))).unwrap_or_default();
        format!(
            "`{}` ({}){server}: {objects}, TAXII {}, {}, from a machine with {} cores, {}",
            shown(&self.collection),
            shown(&self.collection_url),
            self.taxii,
            self.client,
            self.client_cores,
            self.started
        )
    }

    /// What is to be said besides the table: problems first.
    pub fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = self.problems.iter().map(|problem| format!("problem: {problem}")).collect();
        if self.insecure {
            words.push("certificates were not checked (`--insecure`)".to_owned());
        }
        if self.interrupted {
            words.push("interrupted: what was not measured is not here".to_owned());
        }
        words.extend(self.remarks.iter().cloned());
        words
    }

    /// The report as a Markdown document.
    pub fn markdown(&self) -> String {
        let mut text = format!("# taxiway bench\n\n{}.\n\n", self.headline());
        for word in self.words() {
            let _ = writeln!(text, "- {}", shown(&word));
        }
        if !self.words().is_empty() {
            text.push('\n');
        }
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        text.push_str(&line(&Self::HEADS.map(str::to_owned)));
        text.push_str("|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|\n");
        for row in self.rows() {
            text.push_str(&line(&row.iter().map(|cell| shown(cell).replace('|', "\\|")).collect::<Vec<_>>()));
        }
        text.push_str(
            "\nTimes are milliseconds from the first byte of the request, seen by the client: to the first byte of the body \
             (median), and to its last one. MB are those of the decompressed bodies. A walk goes through the whole collection and is \
             checked: no id twice, and the same objects whatever the page size. `whole` asks for all at once, `server's` for no size; \
             the server may send less.\n",
        );
        text
    }
}

impl Measurement {
    fn cells(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.asked_to_wait > 0 {
            let often = grouped(self.asked_to_wait);
            remarks.push(format!("asked to wait {often} times, {:.1} s", self.waited_seconds));
        }
        remarks.extend(self.errors.iter().map(|(kind, count)| format!("{} × {kind}", grouped(*count))));
        remarks.extend(self.notes.iter().map(|note| shown(note)));
        let some = |text: String| if self.requests == 0 { "-".to_owned() } else { text };
        let time = |milliseconds: f64| some(format!("{milliseconds:.2}"));
        vec![
            self.name.clone(),
            self.size.to_string(),
            self.encoding.name().to_owned(),
            grouped(self.requests),
            grouped(self.objects),
            some(grouped(self.objects_per_second as u64)),
            some(format!("{:.1}", self.megabytes_per_second)),
            time(self.first_byte_ms.p50),
            time(self.page_ms.p50),
            time(self.page_ms.p90),
            time(self.page_ms.p99),
            time(self.page_ms.max),
            remarks.join("; "),
        ]
    }
}

/// What a measurement is called in a line.
pub(super) fn label(name: &str, size: Size, encoding: Encoding) -> String {
    let size = match size {
        Size::Objects(_) => format!("{size} a page"),
        Size::Whole => "whole".to_owned(),
        Size::Server => "the server's size".to_owned(),
    };
    format!("{name}, {size}, {}", encoding.name())
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

/// What a server says, fit for a terminal.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
