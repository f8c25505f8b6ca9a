//! An export from its beginning to its `export.json`, over kills.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::StreamExt;
use parquet::arrow::arrow_writer::ArrowRowGroupWriterFactory;
use serde_json::{Map, Value as Json, json};

use crate::export::list::{self, ListOptions};
use crate::export::manifest::{Manifest, PartMeta, Requested, instant};
use crate::export::misp::{self, Event};
use crate::export::place::{Place, remove, rename, sync_folder};
use crate::export::sink::{Done, Hashed, Piece, Sink, Target};
use crate::export::table::{self, Column};
use crate::export::{Compression, ExportError, stix, values};
use crate::feed::collection::Collection;
use crate::feed::{RowWalk, Slice, Standpoint, StoreFeed, WalkRequest, WalkRows, WalkedRows};
use crate::model::time::Timestamp;
use crate::render::{self, Profile, RenderOptions, Rendered, StixVersion};
use crate::runtime::{BufferPool, Ordered};

/// Rows planned at a time.
const CHUNK_ROWS: u64 = 1 << 20;
/// Rows rendered at a time.
const SLICE_ROWS: usize = 4_096;
/// Rows of a row group.
const GROUP_ROWS: usize = 65_536;
/// Attributes of a MISP event, unless another number is asked for: more make its pages slow.
const EVENT_ROWS: u64 = 10_000;

/// What the files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// STIX bundles.
    Stix,
    /// STIX objects, one a line.
    Ndjson,
    /// Records as comma-separated values.
    Csv,
    /// Records as Parquet.
    Parquet,
    /// Values, one a line.
    List,
    /// A MISP feed.
    Misp,
}

impl Format {
    /// The name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::Stix => "stix",
            Format::Ndjson => "ndjson",
            Format::Csv => "csv",
            Format::Parquet => "parquet",
            Format::List => "list",
            Format::Misp => "misp",
        }
    }

    /// The ending of its files' names.
    pub(super) fn ending(self) -> &'static str {
        match self {
            Format::Stix | Format::Misp => "json",
            Format::Ndjson => "ndjson",
            Format::Csv => "csv",
            Format::Parquet => "parquet",
            Format::List => "txt",
        }
    }

    fn rows(self) -> WalkRows {
        match self {
            Format::Stix | Format::Ndjson => WalkRows::Objects,
            Format::Csv | Format::Parquet | Format::List | Format::Misp => WalkRows::Records,
        }
    }
}

/// From where on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// Everything.
    Start,
    /// What was added later.
    After(Timestamp),
    /// What was added after the export that is there; everything when there is none.
    Last,
}

/// An export, as asked for.
#[derive(Debug, Clone)]
pub struct ExportRequest {
    /// What the files are.
    pub format: Format,
    /// A folder for parts, or a file.
    pub out: PathBuf,
    /// Rows of a part; `None`: one file, of MISP events of ten thousand.
    pub rows_per_part: Option<u64>,
    /// How files are compressed; Parquet inside.
    pub compression: Option<Compression>,
    /// From where on.
    pub since: Since,
    /// Columns of a table.
    pub columns: Vec<Column>,
    /// What a list holds.
    pub list: ListOptions,
    /// Version of STIX objects.
    pub version: StixVersion,
    /// Replace what is there, whatever it is.
    pub force: bool,
}

/// How far an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Rows to do; a list has each of them twice.
    pub total: u64,
    /// Rows done.
    pub rows: u64,
}

/// What an export came to.
#[derive(Debug, Clone)]
pub struct ExportSummary {
    /// What is there now.
    pub manifest: Manifest,
    /// Where that is written.
    pub path: PathBuf,
    /// Files that this run wrote, those before a kill among them.
    pub parts: usize,
    /// Rows in them.
    pub rows: u64,
    /// Their size.
    pub bytes: u64,
    /// Files that were done before a kill.
    pub kept: usize,
    /// The version of the store that it began on was gone when it was taken up again.
    pub moved: bool,
    /// Values beyond the most that a list was to have.
    pub left_out: u64,
}

impl ExportRequest {
    /// Refuses what does not go together.
    fn check(&self) -> Result<(), ExportError> {
        let wrong = |text: &str| Err(ExportError::Request(text.to_owned()));
        match (self.format, self.compression) {
            (_, _) if self.rows_per_part == Some(0) => wrong("a part needs a row; ask for at least 1 row a part"),
            (Format::List, _) if self.rows_per_part.is_some() => {
                wrong("a list is one file; limit it with `--max-items` or a narrower query")
            }
            (Format::Parquet, Some(Compression::Gzip(_))) => wrong(
                "Parquet files are compressed inside, with zstd; leave `--compress` out or give `zstd` and a level",
            ),
            (Format::Misp, Some(_)) => wrong("MISP reads events as they are; leave `--compress` out"),
            _ => Ok(()),
        }
    }

    fn requested(&self, collection: &Collection) -> Requested {
        let mut options = Map::new();
        let mut put = |key: &str, value: Json| options.insert(key.to_owned(), value);
        put("compression", json!(self.compression.map(Compression::name)));
        put("stix_version", json!(self.version.as_str()));
        let profile = match collection.options.profile {
            Profile::Standard => "standard",
            Profile::Xsoar => "xsoar",
        };
        put("profile", json!(profile));
        match self.format {
            Format::Csv | Format::Parquet => {
                let names: Vec<&str> = self.columns.iter().map(|column| column.name()).collect();
                put("columns", json!(names));
            }
            Format::List => {
                put("list", json!(format!("{:?}", self.list)));
            }
            Format::Stix | Format::Ndjson | Format::Misp => {}
        }
        Requested {
            format: self.format.name().to_owned(),
            collection: collection.id.clone(),
            title: collection.title.clone(),
            query: collection.query_text.clone(),
            options,
        }
    }
}

/// Exports what the collection serves. `progress` hears now and then how far it is. Blocks, for long.
pub fn export(
    feed: &StoreFeed,
    collection: &Arc<Collection>,
    request: &ExportRequest,
    progress: &mut dyn FnMut(Progress),
) -> Result<ExportSummary, ExportError> {
    request.check()?;
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(ExportError::internal("start a runtime"))?;
    let place = Place::new(&request.out, request.rows_per_part.is_some() || request.format == Format::Misp)?;
    let _claim = place.claim()?;
    let begun = Begun::find(&place, request, collection)?;
    let walk_request = WalkRequest {
        version: request.version,
        after: begun.since,
        rows: request.format.rows(),
        standpoint: begun.standpoint,
    };
    let walk = feed.walk(collection, &walk_request)?;
    let moved = begun.standpoint.is_some_and(|standpoint| standpoint.snapshot != walk.standpoint().snapshot);
    let run = Run::new(feed, collection, request, &place, walk, begun, progress)?;
    let (manifest, left_out, kept) = runtime.block_on(run.write())?;
    let own = manifest.parts.iter().filter(|part| part.run == manifest.run);
    let (parts, rows, bytes) =
        own.fold((0, 0, 0), |(parts, rows, bytes), part| (parts + 1, rows + part.rows, bytes + part.bytes));
    Ok(ExportSummary { path: place.manifest(), parts, rows, bytes, kept, moved, left_out, manifest })
}

/// What is there when an export begins.
struct Begun {
    /// The export that is there.
    previous: Option<Manifest>,
    /// What this one is, with the parts that are done.
    manifest: Manifest,
    since: Option<Timestamp>,
    /// Where the run before was killed.
    standpoint: Option<Standpoint>,
    /// Whether the parts of the export that is there stay.
    adds: bool,
}

impl Begun {
    fn find(place: &Place, request: &ExportRequest, collection: &Collection) -> Result<Self, ExportError> {
        let read = |path: &Path| match Manifest::read(path) {
            Err(ExportError::BadManifest { .. }) if request.force => Ok(None),
            read => read,
        };
        let (path, unfinished_path) = (place.manifest(), place.unfinished());
        let (previous, unfinished) = (read(&path)?, read(&unfinished_path)?);
        let requested = request.requested(collection);
        if !request.force {
            let known: Vec<&Manifest> = previous.iter().chain(&unfinished).collect();
            place.refuse_foreign(&known)?;
            let is_same = |other: &Requested| {
                let part = |of: &Requested| (of.format.clone(), of.collection.clone(), of.query.clone());
                part(other) == part(&requested)
            };
            if let Some(other) = known.iter().find(|known| !is_same(&known.request)) {
                let Requested { title, format, .. } = &other.request;
                let what = format!("is an export of `{title}` as {format}");
                return Err(ExportError::NotOurs { path: request.out.clone(), what });
            }
        }
        let since = match (request.since, &previous) {
            (Since::Start, _) | (Since::Last, None) => None,
            (Since::After(at), _) => Some(at),
            (Since::Last, Some(previous)) if previous.request == requested => Some(previous.position(&path)?),
            (Since::Last, Some(_)) => {
                let text = format!(
                    "`{}` was exported with other options, so nothing can be added to it; repeat those, or export all of it",
                    request.out.display()
                );
                return Err(ExportError::Request(text));
            }
        };
        let adds = request.since == Since::Last && since.is_some() && place.is_folder();
        let run = previous.iter().chain(&unfinished).map(|manifest| manifest.run).max().unwrap_or(0) + 1;
        let mut begun = Begun {
            previous,
            manifest: Manifest::new(requested, run, Timestamp::now()),
            since,
            standpoint: None,
            adds,
        };
        begun.manifest.since = since.map(|since| since.to_string());
        let Some(unfinished) = unfinished else { return Ok(begun) };
        if unfinished.request == begun.manifest.request && unfinished.since == begun.manifest.since {
            begun.take_up(unfinished, place, &unfinished_path)?;
        } else {
            for part in &unfinished.parts {
                remove(&place.unfinished_part(&part.file))?;
            }
        }
        Ok(begun)
    }

    /// Goes on where a killed run was. Parts count as far as they are there whole.
    fn take_up(&mut self, mut unfinished: Manifest, place: &Place, path: &Path) -> Result<(), ExportError> {
        let is_there = |part: &PartMeta| {
            let has_size = |path: &Path| std::fs::metadata(path).is_ok_and(|found| found.len() == part.bytes);
            has_size(&place.unfinished_part(&part.file)) || has_size(&place.folder().join(&part.file))
        };
        let whole = unfinished.parts.iter().take_while(|part| is_there(part)).count();
        for part in unfinished.parts.drain(whole..) {
            remove(&place.unfinished_part(&part.file))?;
        }
        if whole > 0 {
            let asked = instant(&unfinished.asked, path)?;
            self.standpoint = Some(Standpoint { snapshot: unfinished.snapshot, asked });
            self.manifest = unfinished;
        }
        Ok(())
    }
}

/// An export under way.
struct Run<'a> {
    feed: &'a StoreFeed,
    collection: &'a Arc<Collection>,
    request: &'a ExportRequest,
    place: &'a Place,
    walk: RowWalk,
    begun: Begun,
    kept: usize,
    schema: SchemaRef,
    total: u64,
    rows: u64,
    left_out: u64,
    progress: &'a mut dyn FnMut(Progress),
}

/// What is rendered on a thread of the pool.
struct Unit {
    slice: Slice,
    /// Which row group.
    number: usize,
    /// Nothing of the list was written before.
    first: bool,
}

/// What became of it.
struct Made {
    piece: Option<Piece>,
    rendered: Rendered,
    rows: usize,
}

impl<'a> Run<'a> {
    fn new(
        feed: &'a StoreFeed,
        collection: &'a Arc<Collection>,
        request: &'a ExportRequest,
        place: &'a Place,
        walk: RowWalk,
        mut begun: Begun,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Result<Self, ExportError> {
        let standpoint = walk.standpoint();
        begun.manifest.snapshot = standpoint.snapshot;
        begun.manifest.asked = standpoint.asked.to_string();
        begun.manifest.position = walk.clock().to_string();
        let kept = begun.manifest.parts.len();
        let schema = table::schema(&request.columns);
        let (total, rows, left_out) = (0, 0, 0);
        Ok(Run { feed, collection, request, place, walk, begun, kept, schema, total, rows, left_out, progress })
    }

    fn after(&self) -> Result<Option<Timestamp>, ExportError> {
        match self.begun.manifest.parts.last().and_then(|part| part.last_added.as_ref()) {
            Some(last) => instant(last, &self.place.unfinished()).map(Some),
            None => Ok(self.begun.since),
        }
    }

    /// Writes what is left, and gives everything its name.
    async fn write(mut self) -> Result<(Manifest, u64, usize), ExportError> {
        let mut after = self.after()?;
        self.total = self.walk.count(after)?;
        (self.progress)(Progress { total: self.total, rows: 0 });
        let per_part = match (self.request.rows_per_part, self.request.format) {
            (Some(rows), _) => rows,
            (None, Format::Misp) => EVENT_ROWS,
            (None, _) => u64::MAX,
        };
        if self.request.format == Format::List {
            if self.kept == 0 {
                self.list(after).await?;
            }
            return self.publish();
        }
        loop {
            let rows = self.walk.rows(after, per_part.min(CHUNK_ROWS))?;
            // An export of nothing is a file without rows; an increment of nothing is no file.
            if rows.rows == 0 && (!self.begun.manifest.parts.is_empty() || self.begun.adds) {
                break;
            }
            let (part, more) = self.part(rows, per_part).await?;
            after = match &part.last_added {
                Some(last) => Some(instant(last, &self.place.unfinished())?),
                None => after,
            };
            self.begun.manifest.parts.push(part);
            self.begun.manifest.write(&self.place.unfinished())?;
            if !more {
                break;
            }
        }
        self.publish()
    }

    /// Writes one part, whose first rows are planned; says whether rows follow it.
    async fn part(&mut self, rows: WalkedRows, most: u64) -> Result<(PartMeta, bool), ExportError> {
        let number = self.begun.manifest.parts.len();
        let previous = self.begun.previous.as_ref().filter(|_| self.begun.adds).map_or(0, |it| it.parts.len());
        let event = (self.request.format == Format::Misp)
            .then(|| Event::new(&self.collection.id, &self.collection.title, previous + number));
        let name = match &event {
            Some(event) => event.file(),
            None => self.place.part(self.begun.manifest.run, number, self.request.format, self.request.compression),
        };
        let path = self.place.unfinished_part(&name);
        let file = Hashed::create(&path)?;
        let (target, factory) = if self.request.format == Format::Parquet {
            let (writer, factory) = table::parquet(file, &self.schema, self.request.compression)?;
            (Target::Parquet(Box::new(writer)), Some(Arc::new(factory)))
        } else {
            (Target::Plain(file), None)
        };
        let maker = Maker {
            format: self.request.format,
            options: self.walk.options().clone(),
            compression: self.request.compression,
            columns: self.request.columns.clone(),
            sources: table::source_columns(&self.request.columns),
            schema: Arc::clone(&self.schema),
            buffers: self.feed.buffers().clone(),
            factory,
            event,
            now: self.walk.standpoint().asked,
        };
        let maker = Arc::new(maker);
        let sink = Sink::new(path, target)?;
        let written = match self.fill(&maker, &sink, rows, most).await {
            Ok(written) => written,
            Err(error @ ExportError::Internal { what: "write a file", .. }) => return Err(sink.failure(error).await),
            Err(error) => return Err(error),
        };
        let Done { bytes, sha256 } = sink.finish().await?;
        let part = PartMeta {
            file: name,
            rows: written.rows,
            bytes,
            sha256,
            first_added: written.first.map(|at| at.to_string()),
            last_added: written.last.map(|at| at.to_string()),
            run: self.begun.manifest.run,
            event: written.event,
        };
        Ok((part, written.more))
    }

    /// Renders the rows of a part.
    async fn fill(
        &mut self,
        maker: &Arc<Maker>,
        sink: &Sink,
        mut planned: WalkedRows,
        most: u64,
    ) -> Result<Filled, ExportError> {
        let making = Arc::clone(maker);
        let mut ordered: Ordered<Unit, Made, ExportError> = self.feed.ordered(move |unit| making.make(&unit));
        let mut filled = Filled { rows: 0, first: planned.first, last: None, more: false, event: None };
        let (mut taken, mut groups, mut begun) = (0, 0, false);
        self.put(sink, maker.framed(maker.head())?).await?;
        loop {
            taken += planned.rows;
            filled.last = planned.last.or(filled.last);
            filled.more = planned.more;
            let slice_rows = if maker.format == Format::Parquet { GROUP_ROWS } else { SLICE_ROWS };
            let mut slices = planned.slices(slice_rows).into_iter().enumerate();
            // The first object of a list has no comma before it, so until there is one, slices come one by one.
            while maker.has_commas() && !begun {
                let Some((_, slice)) = slices.next() else { break };
                let mut unit = std::iter::once(Unit { slice, number: 0, first: true });
                while let Some(made) = ordered.next(&mut unit).await {
                    let made = made?;
                    if made.rendered.written > 0 {
                        begun = true;
                        self.put(sink, maker.framed(maker.list_open().to_vec())?).await?;
                    }
                    self.take(sink, made, &mut filled).await?;
                }
            }
            let mut units = slices.map(|(at, slice)| Unit { slice, number: groups + at, first: false });
            let mut count = 0;
            while let Some(made) = ordered.next(&mut units).await {
                count += 1;
                self.take(sink, made?, &mut filled).await?;
            }
            groups += count;
            if !filled.more || taken >= most {
                break;
            }
            planned = self.walk.rows(filled.last, (most - taken).min(CHUNK_ROWS))?;
        }
        let event = maker.event.as_ref().map(|event| event.meta(filled.last.unwrap_or(maker.now)));
        let tail = maker.tail(begun, event.as_ref());
        let is_empty = tail.is_empty() && filled.rows == 0 && maker.head().is_empty();
        let tail = if is_empty { maker.nothing()? } else { maker.framed(tail)? };
        self.put(sink, tail).await?;
        filled.event = event;
        Ok(filled)
    }

    async fn put(&mut self, sink: &Sink, bytes: Vec<u8>) -> Result<(), ExportError> {
        if bytes.is_empty() { Ok(()) } else { sink.put(Piece::Bytes(bytes.into())).await }
    }

    async fn take(&mut self, sink: &Sink, made: Made, filled: &mut Filled) -> Result<(), ExportError> {
        filled.rows += made.rendered.written as u64;
        self.begun.manifest.skipped += made.rendered.skipped as u64;
        if let Some(piece) = made.piece {
            sink.put(piece).await?;
        }
        self.rows += made.rows as u64;
        (self.progress)(Progress { total: self.total, rows: self.rows });
        Ok(())
    }

    /// Writes the one file of a list.
    async fn list(&mut self, after: Option<Timestamp>) -> Result<(), ExportError> {
        let total = self.total;
        let (progress, options) = (&mut *self.progress, &self.request.list);
        let mut rows = 0;
        let surveyed = |more: u64| {
            rows += more;
            progress(Progress { total: total * 2, rows });
        };
        let listing = list::survey(self.feed, self.walk.clone(), options, after, surveyed).await?;
        let facts = listing.facts.clone();
        let name = self.place.part(self.begun.manifest.run, 0, Format::List, self.request.compression);
        let path = self.place.unfinished_part(&name);
        let sink = Sink::new(path.clone(), Target::Plain(Hashed::create(&path)?))?;
        // A list of nothing is a file of nothing, but a compressed one has some bytes.
        let nothing = (facts.items == 0 && self.request.compression.is_some()).then(|| Ok(Bytes::new()));
        let mut lines = futures::stream::iter(nothing).chain(listing.lines());
        while let Some(piece) = lines.next().await {
            let piece = piece?;
            let piece = match self.request.compression {
                None => piece,
                Some(compression) => {
                    let mut out = Vec::new();
                    compression.append(&piece, &mut out)?;
                    Bytes::from(out)
                }
            };
            if let Err(error) = sink.put(Piece::Bytes(piece)).await {
                return Err(sink.failure(error).await);
            }
        }
        (self.progress)(Progress { total: total * 2, rows: total * 2 });
        let Done { bytes, sha256 } = sink.finish().await?;
        self.left_out = facts.left_out;
        let manifest = &mut self.begun.manifest;
        manifest.skipped = facts.unfit;
        manifest.parts.push(PartMeta {
            file: name,
            rows: facts.items,
            bytes,
            sha256,
            first_added: None,
            last_added: None,
            run: manifest.run,
            event: None,
        });
        manifest.write(&self.place.unfinished())
    }

    /// Gives the parts their names, and says what they are.
    fn publish(self) -> Result<(Manifest, u64, usize), ExportError> {
        let Run { place, begun, left_out, kept, request, .. } = self;
        let Begun { previous, mut manifest, adds, .. } = begun;
        for part in &manifest.parts {
            let unfinished = place.unfinished_part(&part.file);
            // A run that was killed here gave some of them their names already.
            if unfinished.exists() {
                rename(&unfinished, &place.folder().join(&part.file))?;
            }
        }
        sync_folder(&place.manifest())?;
        let before = previous.map(|previous| previous.parts).unwrap_or_default();
        if adds {
            manifest.parts.splice(0..0, before.iter().cloned());
        }
        manifest.tally();
        manifest.complete = true;
        manifest.finished = Some(Timestamp::now().to_string());
        if request.format == Format::Misp {
            misp::write_index(place.folder(), &manifest)?;
        }
        manifest.write(&place.manifest())?;
        for part in before.iter().filter(|old| manifest.parts.iter().all(|part| part.file != old.file)) {
            remove(&place.folder().join(&part.file))?;
        }
        if request.force && place.is_folder() {
            place.parts_besides(&manifest).iter().try_for_each(|path| remove(path))?;
        }
        remove(&place.unfinished())?;
        Ok((manifest, left_out, kept))
    }
}

/// What is in a part.
struct Filled {
    rows: u64,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    more: bool,
    event: Option<Map<String, Json>>,
}

/// Makes pieces of a part, on any thread.
struct Maker {
    format: Format,
    options: RenderOptions,
    compression: Option<Compression>,
    columns: Vec<Column>,
    sources: Vec<&'static str>,
    schema: SchemaRef,
    buffers: BufferPool,
    factory: Option<Arc<ArrowRowGroupWriterFactory>>,
    event: Option<Event>,
    now: Timestamp,
}

impl Maker {
    fn has_commas(&self) -> bool {
        matches!(self.format, Format::Stix | Format::Misp)
    }

    fn head(&self) -> Vec<u8> {
        match self.format {
            Format::Stix => stix::bundle_head(),
            Format::Csv => table::csv_header(&self.columns),
            Format::Misp => Event::HEAD.to_vec(),
            Format::Ndjson | Format::Parquet | Format::List => Vec::new(),
        }
    }

    /// What stands before the first object.
    fn list_open(&self) -> &'static [u8] {
        if self.format == Format::Stix { stix::LIST_OPEN } else { b"" }
    }

    fn tail(&self, has_objects: bool, event: Option<&Map<String, Json>>) -> Vec<u8> {
        match (self.format, &self.event, event) {
            (Format::Stix, ..) => {
                let close = if has_objects { stix::LIST_CLOSE } else { b"" };
                [close, stix::bundle_tail(self.options.version)].concat()
            }
            (Format::Misp, Some(event), Some(meta)) => event.tail(meta),
            _ => Vec::new(),
        }
    }

    /// A file of no bytes: compressed ones have some.
    fn nothing(&self) -> Result<Vec<u8>, ExportError> {
        let mut out = Vec::new();
        if let Some(compression) = self.compression.filter(|_| self.format != Format::Parquet) {
            compression.append(&[], &mut out)?;
        }
        Ok(out)
    }

    /// A piece of its own, as it lies in the file.
    fn framed(&self, bytes: Vec<u8>) -> Result<Vec<u8>, ExportError> {
        match self.compression {
            Some(compression) if self.format != Format::Parquet && !bytes.is_empty() => {
                let mut out = Vec::new();
                compression.append(&bytes, &mut out)?;
                Ok(out)
            }
            _ => Ok(bytes),
        }
    }

    fn make(&self, unit: &Unit) -> Result<Made, ExportError> {
        let rows = unit.slice.rows();
        if let Some(factory) = &self.factory {
            let mut batches = Vec::new();
            self.read_table(&unit.slice, |table| {
                batches.push(table);
                Ok(())
            })?;
            let written = batches.iter().map(|batch| batch.num_rows()).sum();
            let group = table::row_group(&batches, factory, unit.number, &self.schema)?;
            let rendered = Rendered { written, skipped: 0 };
            return Ok(Made { piece: Some(Piece::Group(group)), rendered, rows });
        }
        let mut filling = self.buffers.take();
        let rendered = self.render(unit, filling.bytes())?;
        let piece = match self.compression {
            _ if filling.bytes().is_empty() => None,
            None => Some(filling.freeze()),
            Some(compression) => {
                let mut compressed = self.buffers.take();
                compression.append(filling.bytes(), compressed.bytes())?;
                Some(compressed.freeze())
            }
        };
        Ok(Made { piece: piece.map(Piece::Bytes), rendered, rows })
    }

    fn render(&self, unit: &Unit, out: &mut Vec<u8>) -> Result<Rendered, ExportError> {
        let mut total = Rendered::default();
        let mut add = |rendered: Rendered| {
            total.written += rendered.written;
            total.skipped += rendered.skipped;
            Ok::<_, ExportError>(())
        };
        let mut first = unit.first;
        match (self.format, &self.event) {
            (Format::Stix, _) => unit
                .slice
                .objects(&self.options, |batch| add(stix::objects_into(&batch, &self.options, &mut first, out)?))?,
            (Format::Ndjson, _) => {
                unit.slice.objects(&self.options, |batch| add(render::ndjson(&batch, &self.options, out)?))?;
            }
            (Format::Misp, Some(event)) => {
                unit.slice.columns(&misp::columns(), values::NATIVE_COLUMNS, |batch| {
                    add(event.attributes_into(&batch, self.now, &mut first, out)?)
                })?;
            }
            _ => self.read_table(&unit.slice, |table| {
                table::csv_into(&table, out)?;
                add(Rendered { written: table.num_rows(), skipped: 0 })
            })?,
        }
        Ok(total)
    }

    fn read_table(
        &self,
        slice: &Slice,
        mut each: impl FnMut(arrow::array::RecordBatch) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        slice
            .columns(&self.sources, &[], |batch| each(table::rows(&batch, &self.columns, &self.schema, &self.options)?))
    }
}
