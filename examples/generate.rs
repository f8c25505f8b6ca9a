//! Prints synthetic XSOAR indicator documents as NDJSON, the same for the same arguments:
//! `cargo run --release --example generate -- --count 1000000 --out target/perf/1m.ndjson`

#[path = "../benches/support/generate.rs"]
mod generate;

use std::fs::File;
use std::io::{self, Error, ErrorKind, Write};
use std::process::ExitCode;

use generate::{Generator, Options};

const HELP: &str = "arguments: --count N, --start N, --seed N, --span N (documents in two years of timestamps), \
--changed-every K --generation G (each K-th document changed G times), --out FILE";

struct Arguments {
    count: u64,
    start: u64,
    options: Options,
    out: Option<String>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut parsed = Arguments { count: 1000, start: 0, options: Options { span: 0, ..Options::default() }, out: None };
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
            "--generation" => parsed.options.generation = number,
            _ => return Err(format!("`{name}` is not known; {HELP}")),
        }
    }
    if parsed.options.span == 0 {
        parsed.options.span = parsed.start + parsed.count;
    }
    Ok(parsed)
}

fn write(arguments: &Arguments, mut out: impl Write) -> io::Result<()> {
    let generator = Generator::new(arguments.options);
    let mut lines = Vec::with_capacity(1 << 20);
    for index in arguments.start..arguments.start + arguments.count {
        generator.write(index, &mut lines);
        if lines.len() > 1_000_000 {
            out.write_all(&lines)?;
            lines.clear();
        }
    }
    out.write_all(&lines)?;
    out.flush()
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
