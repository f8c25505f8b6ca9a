//! Runs one stage a number of times, each time the same, for whoever counts instructions: see `perf/instructions`.
//!
//! ```text
//! cargo run --release --example stage -- id-indicator 10       # prints how many items that were
//! ```
//! What is counted is inside of [`measured`]; what prepares it is not, and has run once before.

use std::error::Error;
use std::hint::black_box;
use std::io::{Cursor, Write};
use std::sync::Arc;

use taxiway::ingest::{DecodeOptions, Importer, Input, decode};
use taxiway::model::ids::{IdScheme, IdSpace, ScoFacts};
use taxiway::model::kind::StixType;
use taxiway::render::{Profile, RenderOptions, StixVersion, indicator_columns, objects};
use taxiway::store::{Store, StoreOptions};

#[path = "../benches/support/generate.rs"]
mod generate;

const VALUES: usize = 10_000;
const ROWS: u32 = 8_192;
const STAGES: &str = "id-indicator, id-observable, render-observables, render-indicators, render-indicators-20, \
                      render-indicators-xsoar";

/// The only thing that is counted: a name to look for, and never part of anything else.
#[inline(never)]
fn measured(rounds: u64, stage: &mut dyn FnMut()) {
    (0..rounds).for_each(|_| stage());
}

fn count(rounds: u64, items: u64, mut stage: impl FnMut()) -> u64 {
    // Buffers grow and tables fill outside of the count.
    stage();
    measured(rounds, &mut stage);
    rounds * items
}

fn ids(rounds: u64, observables: bool) -> u64 {
    let space = IdSpace::new("bench", IdScheme::Stix);
    let values: Vec<String> = (0..VALUES).map(|n| format!("host-{n}.example.com")).collect();
    count(rounds, VALUES as u64, || {
        for value in &values {
            if observables {
                black_box(space.sco("domain-name", &ScoFacts { value, ..ScoFacts::default() }));
            } else {
                black_box(space.indicator(value));
            }
        }
    })
}

fn render(rounds: u64, options: &RenderOptions) -> Result<u64, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let store = Store::open_or_create(StoreOptions {
        location: folder.path().to_string_lossy().into_owned(),
        license_id: Some("bench".to_owned()),
        ..StoreOptions::default()
    })?;
    let generator = generate::Generator::new(generate::Options { span: ROWS.into(), ..generate::Options::default() });
    let mut text = Vec::new();
    (0..u64::from(ROWS)).for_each(|index| generator.write(index, &mut text));
    let input = Input::from_reader("stage.ndjson", Some(text.len() as u64), Cursor::new(text))?;
    let mut importer = Importer::new(&store, false);
    decode(input, &DecodeOptions::new(Arc::clone(store.ids())), |parsed| importer.push(parsed).map(|_| ()))?;
    importer.finish()?;
    let snapshot = store.snapshot()?;
    let columns = indicator_columns(options, None);
    let segment = &snapshot.segments().first().ok_or("nothing was imported")?.segment;
    let rows = 0..u32::try_from(segment.meta().rows)?.min(ROWS);
    let items = rows.end.into();
    let batches = segment.read(std::slice::from_ref(&rows), &columns, 1_024)?.collect::<Result<Vec<_>, _>>()?;
    let mut out = Vec::new();
    let mut failed = None;
    let done = count(rounds, items, || {
        out.clear();
        for batch in &batches {
            match objects(batch, options, &mut out, None) {
                Ok(rendered) => _ = black_box(rendered),
                Err(error) => failed = Some(error),
            }
        }
    });
    failed.map_or(Ok(done), |error| Err(error.into()))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (stage, rounds) = (arguments.next().unwrap_or_default(), arguments.next().unwrap_or_default());
    let rounds: u64 = rounds.parse().map_err(|_| format!("usage: stage STAGE ROUNDS; stages: {STAGES}"))?;
    let indicators =
        RenderOptions { indicator_types: StixType::ALL.iter().copied().collect(), ..RenderOptions::default() };
    let items = match stage.as_str() {
        "id-indicator" => ids(rounds, false),
        "id-observable" => ids(rounds, true),
        "render-observables" => render(rounds, &RenderOptions::default())?,
        "render-indicators" => render(rounds, &indicators)?,
        "render-indicators-20" => render(rounds, &RenderOptions { version: StixVersion::V20, ..indicators })?,
        "render-indicators-xsoar" => render(rounds, &RenderOptions { profile: Profile::Xsoar, ..indicators })?,
        _ => return Err(format!("`{stage}` is no stage; there are {STAGES}").into()),
    };
    writeln!(std::io::stdout().lock(), "{items}")?;
    Ok(())
}
