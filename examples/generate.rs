//! Prints synthetic XSOAR indicator documents as NDJSON, or relationships between them, the same for the same arguments:
//! `cargo run --release --example generate -- --count 1000000 --out target/perf/1m.ndjson`
//! `cargo run --release --example generate -- --count 1000000 --relationships 200000 --out target/perf/edges.ndjson`

#[path = "../benches/support/generate.rs"]
mod generate;

use std::fs::File;
use std::io::{self, Error, ErrorKind, Write};
use std::process::ExitCode;

use generate::{Generator, Options};

const HELP: &str = "arguments: --count N, --start N, --seed N, --span N (documents in two years of timestamps), \
--changed-every K --generation G (each K-th document changed G times), \
--relationships N (so many relationships between those documents, in their place), --out FILE";

/// Names of relationships and their reverses, as XSOAR has them.
const NAMES: [(&str, &str); 5] = [
    ("related-to", "related-to"),
    ("related to", "related to"),
    ("communicates-with", "communicated-by"),
    ("resolves-to", "resolved-from"),
    ("indicator-of", "indicated-by"),
];

struct Arguments {
    count: u64,
    start: u64,
    relationships: u64,
    options: Options,
    out: Option<String>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let options = Options { span: 0, ..Options::default() };
    let mut parsed = Arguments { count: 1000, start: 0, relationships: 0, options, out: None };
    while let Some(name) = words.next() {
        let value = words.next().ok_or_else(|| format!("`{name}` is not known or lacks its value; {HELP}"))?;
        if name == "--out" {
            parsed.out = Some(value);
            continue;
        }
        let number = value.parse().map_err(|_| format!("`{name}` takes a number, not `{value}`"))?;
        match name.as_str() {
            "--count" => parsed.count = number,
            "--start" => parsed.start = number,
            "--seed" => parsed.options.seed = number,
            "--span" => parsed.options.span = number,
            "--changed-every" => parsed.options.changed_every = number,
            "--relationships" => parsed.relationships = number,
            "--generation" => parsed.options.generation = number,
            _ => return Err(format!("`{name}` is not known; {HELP}")),
        }
    }
    if parsed.relationships > 0 && parsed.count < 2 {
        return Err("`--relationships` needs at least two documents, so `--count 2`".to_owned());
    }
    if parsed.options.span == 0 {
        parsed.options.span = parsed.start + parsed.count;
    }
    Ok(parsed)
}

fn write(arguments: &Arguments, mut out: impl Write) -> io::Result<()> {
    let generator = Generator::new(arguments.options);
    let mut lines = Vec::with_capacity(1 << 20);
    let mut scratch = Vec::new();
    let range = match arguments.relationships {
        0 => arguments.start..arguments.start + arguments.count,
        edges => 0..edges,
    };
    for index in range {
        match arguments.relationships {
            0 => generator.write(index, &mut lines),
            _ => write_relationship(&generator, arguments, index, &mut scratch, &mut lines)
                .ok_or_else(|| Error::other("a document without type and value"))?,
        }
        if lines.len() > 1_000_000 {
            out.write_all(&lines)?;
            lines.clear();
        }
    }
    out.write_all(&lines)?;
    out.flush()
}

/// Appends the relationship of that number. Sources are drawn evenly and half of the targets from the first hundredth of
/// the documents, so that some have many.
fn write_relationship(
    generator: &Generator,
    arguments: &Arguments,
    number: u64,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Option<()> {
    let draw = |salt: u64| scramble(arguments.options.seed.wrapping_add(scramble(number ^ salt << 56)));
    let source = draw(1) % arguments.count;
    let target = draw(3) % if draw(2) % 2 == 0 { arguments.count } else { (arguments.count / 100).max(2) };
    let target = if target == source { (target + 1) % arguments.count } else { target };
    let (name, reverse) = NAMES[(draw(4) % NAMES.len() as u64) as usize];
    let revoked = draw(5) % 100 == 0;
    let day = draw(6) % 28 + 1;
    out.extend_from_slice(format!("{{\"id\":\"{:016x}\"", draw(7)).as_bytes());
    for (end, index) in [("A", source), ("B", target)] {
        scratch.clear();
        generator.write(arguments.start + index, scratch);
        let between = |from: &str, to: &str| {
            let rest = scratch.get(find(scratch, from)? + from.len()..)?;
            rest.get(..find(rest, to)?)
        };
        out.extend_from_slice(format!(",\"entity{end}Family\":\"Indicator\",\"entity{end}Type\":").as_bytes());
        out.extend_from_slice(between("\"indicator_type\":", ",\"value\":")?);
        out.extend_from_slice(format!(",\"entity{end}\":").as_bytes());
        out.extend_from_slice(between(",\"value\":", ",\"timestamp\":")?);
    }
    let text = format!(
        ",\"name\":\"{name}\",\"reverseName\":\"{reverse}\",\"type\":\"IndicatorToIndicator\",\"createdInSystem\":\
         \"2026-10-{day:02}T10:00:00.25Z\",\"modified\":\"2026-10-{day:02}T12:00:00.5Z\",\"CustomFields\":\
         {{\"revoked\":{revoked}}},\"sources\":[]}}\n"
    );
    out.extend_from_slice(text.as_bytes());
    Some(())
}

/// Where `text` begins in what the generator wrote.
fn find(bytes: &[u8], text: &str) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text.as_bytes())
}

/// Spreads the bits of a number (the last step of SplitMix64).
fn scramble(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

fn main() -> ExitCode {
    let run = || {
        let arguments = parse(std::env::args().skip(1)).map_err(Error::other)?;
        match &arguments.out {
            Some(path) => write(&arguments, File::create(path)?),
            None => write(&arguments, io::stdout().lock()),
        }
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // The only thing left to do with an error that cannot be written either is to fail.
            let _ = writeln!(io::stderr(), "generate: {error}");
            ExitCode::from(2)
        }
    }
}
