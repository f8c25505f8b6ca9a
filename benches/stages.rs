//! Each stage by itself: query compile, ids, page plan, render, enrichment, import. One binary, since every further one costs a link.

#![expect(clippy::unwrap_used, reason = "a bench that cannot prepare its data has nothing to measure")]
#![expect(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;
use std::io::Cursor;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use taxiway::enrich::{AllowList, Block, EnrichOptions, Enricher, ROWS_BYTES};
use taxiway::feed::api::{Feed, PageRequest, Shape};
use taxiway::feed::collection::{Catalog, CollectionSpec, Options, QueryText};
use taxiway::feed::{FeedOptions, StoreFeed};
use taxiway::ingest::{DecodeOptions, Importer, Input, decode};
use taxiway::model::ids::{IdScheme, IdSpace, ScoFacts};
use taxiway::model::kind::StixType;
use taxiway::query;
use taxiway::render::{RenderOptions, indicator_columns, objects};
use taxiway::store::{Store, StoreOptions};

#[path = "support/generate.rs"]
mod generate;

const RECORDS: u64 = 100_000;

fn documents(count: u64) -> Vec<u8> {
    let generator = generate::Generator::new(generate::Options { span: count, ..generate::Options::default() });
    let mut text = Vec::new();
    (0..count).for_each(|index| generator.write(index, &mut text));
    text
}

fn import(store: &Store, text: &[u8]) {
    let input = Input::from_reader("bench.ndjson", Some(text.len() as u64), Cursor::new(text.to_vec())).unwrap();
    let mut importer = Importer::new(store, false);
    decode(input, &DecodeOptions::new(Arc::clone(store.ids())), |parsed| importer.push(parsed).map(|_| ())).unwrap();
    importer.finish().unwrap();
}

fn open(folder: &tempfile::TempDir) -> Store {
    let options = StoreOptions {
        location: folder.path().to_string_lossy().into_owned(),
        license_id: Some("bench".to_owned()),
        ..StoreOptions::default()
    };
    Store::open_or_create(options).unwrap()
}

fn query_compile(c: &mut Criterion) {
    let mut group = c.benchmark_group("query");
    let long =
        format!("value:({})", (0..5_000).map(|n| format!("\"198.51.{}.{}\" ", n / 256, n % 256)).collect::<String>());
    let cases = [
        ("simple", "type:IP"),
        (
            "playbook",
            "reputation:Bad and (type:File or type:Domain or type:IP) and expirationStatus:active and -tags:xdr_pushed",
        ),
        ("or-list-5000", long.as_str()),
    ];
    for (name, text) in cases {
        group.bench_function(name, |b| b.iter(|| query::compile(black_box(text)).unwrap()));
    }
    group.finish();
}

fn ids(c: &mut Criterion) {
    let space = IdSpace::new("bench", IdScheme::Stix);
    let values: Vec<String> = (0..10_000).map(|n| format!("host-{n}.example.com")).collect();
    let mut group = c.benchmark_group("ids");
    group.throughput(Throughput::Elements(values.len() as u64));
    group.bench_function("sco", |b| {
        b.iter(|| {
            values
                .iter()
                .for_each(|value| _ = black_box(space.sco("domain-name", &ScoFacts { value, ..ScoFacts::default() })))
        });
    });
    group.bench_function("indicator", |b| {
        b.iter(|| values.iter().for_each(|value| _ = black_box(space.indicator(value))))
    });
    group.finish();
}

fn over_a_store(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    import(&store, &documents(RECORDS));
    let snapshot = store.snapshot().unwrap();

    let mut group = c.benchmark_group("render");
    let every = StixType::ALL.iter().copied().collect();
    for (name, options) in [
        ("observables", RenderOptions::default()),
        ("indicators", RenderOptions { indicator_types: every, ..RenderOptions::default() }),
    ] {
        let columns = indicator_columns(&options, None);
        let segment = &snapshot.segments()[0].segment;
        let batches: Vec<_> =
            segment.read(std::slice::from_ref(&(0..8_192)), &columns, 1_024).unwrap().map(Result::unwrap).collect();
        group.throughput(Throughput::Elements(8_192));
        group.bench_function(name, |b| {
            let mut out = Vec::new();
            b.iter(|| {
                out.clear();
                batches.iter().for_each(|batch| _ = black_box(objects(batch, &options, &mut out, None).unwrap()));
            });
        });
    }
    group.finish();

    let mut group = c.benchmark_group("plan");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for (name, text) in
        [("all", ""), ("one-in-ten-thousand", "tags:rare-1-in-10000"), ("clocked", "expirationStatus:active")]
    {
        let spec = CollectionSpec::new(name, QueryText::Xsoar(text.to_owned()));
        let catalog = Catalog::new(vec![spec.build(store.ids(), &Options::default()).unwrap()]).unwrap();
        let feed = StoreFeed::new(store.clone(), catalog, &FeedOptions::default()).unwrap();
        let collection = Arc::clone(feed.catalog().iter().next().unwrap());
        group.bench_function(name, |b| {
            b.iter(|| {
                let request = PageRequest { limit: Some(1_000), ..PageRequest::default() };
                runtime.block_on(feed.page(&collection, Shape::Objects, request)).unwrap().objects
            });
        });
    }
    group.finish();
}

/// Blocks of events of about 330 bytes, one in a hundred of which holds an indicator.
fn enriching(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    import(&store, &documents(RECORDS));
    let feed = StoreFeed::new(store, Catalog::default(), &FeedOptions::default()).unwrap();
    let enricher = Enricher::new(feed, AllowList::default(), ROWS_BYTES);
    enricher.prepare().unwrap();
    let known: Vec<serde_json::Value> = documents(1_000)
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .filter(|document: &serde_json::Value| document["indicator_type"] == "Domain")
        .map(|document| document["value"].clone())
        .collect();
    const EVENTS: usize = 3_000;
    let mut text = Vec::new();
    for n in 0..EVENTS {
        let name = match n % 100 {
            0 => known[n / 100 % known.len()].to_string(),
            _ => format!("\"www{}.site{n}.example.com\"", n % 7),
        };
        let (a, b, c, d) = (n % 223 + 1, n * 7 % 256, n * 13 % 256, n * 29 % 256);
        text.extend_from_slice(
            format!(
                r#"{{"@timestamp":"2026-03-01T10:07:07.123Z","event":{{"kind":"event","action":"allowed","duration":{n}}},"source":{{"ip":"10.{b}.{c}.{d}","port":{n}}},"destination":{{"ip":"{a}.{b}.{c}.{d}","port":443,"bytes":{n}}},"dns":{{"question":{{"name":{name}}}}},"user":{{"name":"user{n}"}},"host":{{"name":"gw-{}"}}}}{}"#,
                n % 9,
                '\n'
            )
            .as_bytes(),
        );
    }
    let mut group = c.benchmark_group("enrich");
    group.throughput(Throughput::Elements(EVENTS as u64));
    let fields = ["source.ip", "destination.ip", "dns.question.name"].map(str::to_owned).to_vec();
    for (name, options) in [
        ("all texts", EnrichOptions::default()),
        ("three fields", EnrichOptions { fields, ..EnrichOptions::default() }),
    ] {
        let session = enricher.session(options, None).unwrap();
        group.bench_function(name, |b| {
            let block = || Block { bytes: text.clone(), first_line: 1, of_long_line: false };
            b.iter_batched(block, |block| session.block(block).unwrap().1.enriched, BatchSize::LargeInput);
        });
    }
    group.finish();
}

fn importing(c: &mut Criterion) {
    let text = documents(RECORDS);
    let mut group = c.benchmark_group("import");
    group.sample_size(10).throughput(Throughput::Elements(RECORDS));
    group.bench_function("decode", |b| {
        let folder = tempfile::tempdir().unwrap();
        let options = DecodeOptions::new(Arc::clone(open(&folder).ids()));
        b.iter(|| {
            let input = Input::from_reader("bench.ndjson", None, Cursor::new(text.clone())).unwrap();
            decode(input, &options, |parsed| {
                black_box(parsed.keys.len());
                Ok::<(), std::convert::Infallible>(())
            })
            .unwrap();
        });
    });
    group.bench_function("again-unchanged", |b| {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        import(&store, &text);
        b.iter(|| import(&store, &text));
    });
    group.bench_function("into-an-empty-store", |b| {
        b.iter_batched(
            || tempfile::tempdir().unwrap(),
            |folder| {
                import(&open(&folder), &text);
                folder
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(stages, query_compile, ids, over_a_store, enriching, importing);
criterion_main!(stages);
