//! A planned page as bytes: slices rendered on all cores, sent in order, bounded in flight.
//!
//! A slice is about a thousand rows, cut where the store's data pages end, so that no page is decoded twice. Each request
//! may always have one slice in work or waiting; further ones are rendered ahead only while permits are left. So a reader that
//! does not read holds one slice, a lone fast reader has every core, and memory is at most
//! `(requests + permits) × slice`, whatever the page size. A client that leaves drops the stream, and with it the work.
//! Slices asked for again and again come from the cache, packed as they are sent.
//!
//! Scattered rows cost a data page of each column that is read for them. So types that need other columns are read apart from each other
//! where that spares more than it costs; and where a collection has few rows of a segment, they may be [gathered](super::gathered) already.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int32Type;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use roaring::RoaringBitmap;
use tokio::sync::Semaphore;

use crate::feed::api::{Coding, FeedError, Shape};
use crate::feed::cache::{Slice, SliceCache, SliceKey};
use crate::feed::coding::{self, Packing};
use crate::feed::matching::Rows;
use crate::feed::plan::Part;
use crate::model::kind::StixType;
use crate::model::schema::column;
use crate::render::{self, RenderError, RenderOptions, Rendered};
use crate::runtime::{BufferPool, CpuPool, Filling, Ordered, Unfinished};
use crate::store::{PAGE_ROWS, Segment, StoreError, row_runs};

/// Rows rendered at a time.
const SLICE_ROWS: u32 = PAGE_ROWS as u32;
/// Data pages read at a time: scattered rows cost a page each, which is work for several cores.
const SLICE_PAGES: u32 = 256;

/// Everything a page's body needs.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) shape: Shape,
    pub(crate) options: Arc<RenderOptions>,
    pub(crate) coding: Coding,
    pub(crate) head: Bytes,
    pub(crate) tail: Bytes,
    pub(crate) pool: CpuPool,
    pub(crate) buffers: BufferPool,
    pub(crate) cache: Arc<SliceCache>,
    pub(crate) ahead: Arc<Semaphore>,
}

struct State {
    job: Arc<Job>,
    slices: VecDeque<Part>,
    working: Ordered<Keyed, Slice, FeedError>,
    packing: Packing,
    /// A slice that waits for the comma before it to be sent.
    held: Option<Bytes>,
    joint: Joint,
    step: Step,
}

/// Joins slices to a list.
#[derive(Default)]
struct Joint {
    written: u64,
    skipped: u64,
}

impl Joint {
    /// A slice as it is sent, and the comma before it where that goes by itself.
    fn add(&mut self, packing: &mut Packing, slice: Slice) -> Result<[Option<Bytes>; 2], FeedError> {
        let Slice { packed, rendered } = slice;
        self.skipped += rendered.skipped as u64;
        if rendered.written == 0 {
            return Ok([None, None]);
        }
        let is_first = self.written == 0;
        self.written += rendered.written as u64;
        if packing.coding() == Coding::Identity {
            // Slices begin with the comma that parts them from the one before.
            return Ok([None, Some(if is_first { packed.bytes.slice(1..) } else { packed.bytes })]);
        }
        let comma = if is_first { None } else { Some(packing.between(b",").map_err(unpacked)?) };
        packing.note(&packed);
        Ok([comma, Some(packed.bytes)])
    }

    fn tell_skipped(&self) {
        if self.skipped > 0 {
            tracing::warn!(rows = self.skipped, "rows that cannot be rendered were left out of a page");
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Step {
    Head,
    Objects,
    Done,
}

/// A slice to be made, and the name it may be kept under.
type Keyed = (Part, SliceKey);

impl From<Unfinished> for FeedError {
    fn from(source: Unfinished) -> Self {
        FeedError::Internal { what: "render a page", source: Box::new(source) }
    }
}

/// The body of a page. Nothing follows an error.
pub(crate) fn body(job: Job, parts: Vec<Part>) -> BoxStream<'static, Result<Bytes, FeedError>> {
    let mut slices = VecDeque::new();
    parts.into_iter().for_each(|part| cut(part, SLICE_ROWS, &mut |slice| slices.push_back(slice)));
    let job = Arc::new(job);
    let (making, cached) = (Arc::clone(&job), Arc::clone(&job.cache));
    let working = Ordered::new(job.pool.clone(), Arc::clone(&job.ahead), move |(part, key)| slice(&making, &part, key))
        .with_known(move |(_, key)| cached.get(key));
    let state = State {
        packing: Packing::new(job.coding),
        job,
        slices,
        working,
        held: None,
        joint: Joint::default(),
        step: Step::Head,
    };
    stream::unfold(state, |mut state| async move { state.next().await.map(|item| (item, state)) }).fuse().boxed()
}

fn unpacked(source: std::io::Error) -> FeedError {
    FeedError::Internal { what: "pack a page", source: Box::new(source) }
}

impl State {
    async fn next(&mut self) -> Option<Result<Bytes, FeedError>> {
        let next = match self.step {
            Step::Head => {
                self.step = Step::Objects;
                self.working.start(&mut keyed(&self.job, &mut self.slices));
                self.packing.open(&self.job.head).map_err(unpacked)
            }
            Step::Done => return None,
            Step::Objects => self.objects().await,
        };
        if next.is_err() {
            self.step = Step::Done;
            self.working.stop();
        }
        Some(next)
    }

    async fn objects(&mut self) -> Result<Bytes, FeedError> {
        if let Some(held) = self.held.take() {
            return Ok(held);
        }
        loop {
            let Some(made) = self.working.next(&mut keyed(&self.job, &mut self.slices)).await else {
                self.step = Step::Done;
                self.joint.tell_skipped();
                let packing = std::mem::replace(&mut self.packing, Packing::new(Coding::Identity));
                return packing.close(&self.job.tail).map_err(unpacked);
            };
            match self.joint.add(&mut self.packing, made?)? {
                [Some(comma), slice] => {
                    self.held = slice;
                    return Ok(comma);
                }
                [None, Some(slice)] => return Ok(slice),
                [None, None] => {}
            }
        }
    }
}

/// The same of a page so small that handing it from thread to thread would take longer than making it. Runs on the calling thread.
pub(crate) fn whole(job: &Job, parts: Vec<Part>) -> Result<Bytes, FeedError> {
    let mut slices = VecDeque::new();
    parts.into_iter().for_each(|part| cut(part, SLICE_ROWS, &mut |slice| slices.push_back(slice)));
    let mut packing = Packing::new(job.coding);
    let mut out = Vec::from(packing.open(&job.head).map_err(unpacked)?);
    let mut joint = Joint::default();
    for (part, key) in keyed(job, &mut slices) {
        let made = match job.cache.get(&key) {
            Some(kept) => kept,
            None => slice(job, &part, key)?,
        };
        joint.add(&mut packing, made)?.into_iter().flatten().for_each(|bytes| out.extend_from_slice(&bytes));
    }
    joint.tell_skipped();
    out.extend_from_slice(&packing.close(&job.tail).map_err(unpacked)?);
    Ok(out.into())
}

/// The slices to come, each with its name.
fn keyed<'a>(job: &'a Job, slices: &'a mut VecDeque<Part>) -> impl Iterator<Item = Keyed> {
    std::iter::from_fn(|| {
        let part = slices.pop_front()?;
        let key = SliceKey {
            segment: part.view.segment.id().into(),
            ranges: part.ranges.clone(),
            shape: job.shape,
            coding: job.coding,
            options: Arc::clone(&job.options),
        };
        Some((part, key))
    })
}

/// Cuts a part into slices of at most `slice_rows` rows, as many as whole data pages have, that end where data pages end.
pub(crate) fn cut(part: Part, slice_rows: u32, each: &mut dyn FnMut(Part)) {
    let Part { view, ranges, natives, gathered } = part;
    let slice = |ranges| Part { view: view.clone(), ranges, natives: natives.clone(), gathered: gathered.clone() };
    let mut current: Vec<Range<u32>> = Vec::new();
    let (mut rows, mut pages, mut last_page) = (0, 0, None);
    for mut range in ranges {
        while !range.is_empty() {
            let page = range.start / SLICE_ROWS;
            let take = (SLICE_ROWS - range.start % SLICE_ROWS).min(range.len() as u32);
            // A page boundary ends the slice once it is at least half full; scattered rows fill it up.
            if rows + take > slice_rows || (pages == SLICE_PAGES && last_page != Some(page)) {
                each(slice(std::mem::take(&mut current)));
                (rows, pages, last_page) = (0, 0, None);
            }
            if last_page != Some(page) {
                (pages, last_page) = (pages + 1, Some(page));
            }
            match current.last_mut() {
                Some(last) if last.end == range.start => last.end += take,
                _ => current.push(range.start..range.start + take),
            }
            rows += take;
            range.start += take;
        }
    }
    if !current.is_empty() {
        each(slice(current));
    }
}

/// A slice as it is sent; kept if others asked for it as well.
fn slice(job: &Job, part: &Part, key: SliceKey) -> Result<Slice, FeedError> {
    let (plain, rendered) = render_slice(job, part)?;
    let is_kept = rendered.written > 0 && job.cache.wants(&key);
    let packed = match job.coding {
        Coding::Identity if !is_kept => {
            let plain = plain.freeze();
            coding::Packed::plain(plain)
        }
        // What is kept is a copy: the buffer goes back to its pool.
        Coding::Identity => coding::pack(Coding::Identity, plain.as_ref()).map_err(unpacked)?,
        // The comma in front is for the stream to set.
        coding => coding::pack(coding, plain.as_ref().get(1..).unwrap_or_default()).map_err(unpacked)?,
    };
    let slice = Slice { packed, rendered };
    if is_kept {
        job.cache.put(key, slice.clone());
    }
    Ok(slice)
}

/// Reads and renders one slice: every object with a comma before it.
fn render_slice(job: &Job, part: &Part) -> Result<(Filling, Rendered), FeedError> {
    let mut filling = job.buffers.take();
    let out = filling.bytes();
    let mut total = Rendered::default();
    if part.gathered.is_some()
        && let Some(batch) = part.kept(&columns_of(job.shape, &job.options, part)).map_err(unreadable)?
    {
        render_batch(job, &batch, out, &mut total)?;
        return Ok((filling, total));
    }
    let mut groups = match job.shape {
        Shape::Objects => groups_of(job, part).map_err(unreadable)?,
        Shape::Manifest | Shape::Versions => Groups::whole(render::manifest_columns().to_vec()),
    };
    if let [Group { columns, .. }] = &groups.all[..] {
        for batch in part.view.segment.read(&part.ranges, columns, SLICE_ROWS as usize).map_err(unreadable)? {
            render_batch(job, &batch.map_err(unreadable)?, out, &mut total)?;
        }
        return Ok((filling, total));
    }
    let mut written = Vec::with_capacity(groups.all.len());
    for Group { columns, rows, .. } in &mut groups.all {
        let (mut piece, mut ends) = (job.buffers.take(), Vec::with_capacity(rows.len() as usize));
        for batch in part.view.segment.read(&row_runs(rows), columns, SLICE_ROWS as usize).map_err(unreadable)? {
            let batch = batch.map_err(unreadable)?;
            render::pieces(&batch, &job.options, piece.bytes(), &mut ends).map_err(unrenderable)?;
        }
        written.push((piece, ends.into_iter(), 0));
    }
    for group in groups.order {
        let Some((piece, ends, start)) = written.get_mut(usize::from(group)) else { continue };
        let Some(end) = ends.next() else { continue };
        let object = piece.as_ref().get(std::mem::replace(start, end)..end).unwrap_or_default();
        if object.is_empty() {
            total.skipped += 1;
        } else {
            out.push(b',');
            out.extend_from_slice(object);
            total.written += 1;
        }
    }
    Ok((filling, total))
}

fn render_batch(job: &Job, batch: &RecordBatch, out: &mut Vec<u8>, total: &mut Rendered) -> Result<(), FeedError> {
    let start = out.len();
    out.push(b',');
    let rendered = match job.shape {
        Shape::Objects => render::objects(batch, &job.options, out, None),
        Shape::Manifest => render::manifest(batch, &job.options, out),
        Shape::Versions => render::versions(batch, &job.options, out),
    };
    let rendered = rendered.map_err(unrenderable)?;
    if rendered.written == 0 {
        out.truncate(start);
    }
    total.written += rendered.written;
    total.skipped += rendered.skipped;
    Ok(())
}

fn unreadable(source: StoreError) -> FeedError {
    FeedError::Store { what: "a page", source: Box::new(source) }
}

fn unrenderable(source: RenderError) -> FeedError {
    FeedError::Internal { what: "render a page", source: Box::new(source) }
}

/// How the rows of a slice are read: those of types that need much the same columns together.
struct Groups {
    /// Which group each row is in, in the order of the rows.
    order: Vec<u8>,
    all: Vec<Group>,
}

struct Group {
    columns: Vec<&'static str>,
    /// Empty where there is but one group.
    rows: RoaringBitmap,
    /// Which of the slice's data pages they are in.
    pages: Pages,
}

/// A set of the data pages of a slice, each by its place among them.
#[derive(Clone, Copy, Default)]
struct Pages([u64; SLICE_PAGES as usize / 64]);

impl Pages {
    fn insert(&mut self, place: u32) {
        // A slice has no more.
        let place = place.min(SLICE_PAGES - 1) as usize;
        self.0[place / 64] |= 1 << (place % 64);
    }

    fn union(self, other: Pages) -> Pages {
        Pages(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }

    fn count(self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}

impl Groups {
    fn whole(columns: Vec<&'static str>) -> Self {
        Groups { order: Vec::new(), all: vec![Group { columns, rows: RoaringBitmap::new(), pages: Pages::default() }] }
    }
}

/// What reading a data page of those columns costs, more or less: as much as one of the narrow ones costs. Some of them are long.
fn weight(columns: &[&str]) -> u32 {
    let of = |column: &&str| match *column {
        column::DOCUMENT => 20,
        column::CUSTOM => 4,
        column::DESCRIPTION | column::VALUE => 2,
        _ => 1,
    };
    columns.iter().map(of).sum()
}

/// Of a row only the columns of its type are needed: a domain has no use for what a certificate consists of. Rows that are far from each
/// other cost a data page of each column, so there it pays to read each type by itself; neighbours are in the same pages, which are better
/// read once.
fn groups_of(job: &Job, part: &Part) -> Result<Groups, StoreError> {
    let types = &part.view.segment.meta().types;
    if types.len() < 2 {
        return Ok(Groups::whole(columns_of(Shape::Objects, &job.options, part)));
    }
    let (classes, class_of) = classes_of(part)?;
    let mut all: Vec<Group> = Vec::new();
    let mut group_of = Vec::with_capacity(classes.len());
    for Class { is_native, stix_type, pages } in classes {
        let types = stix_type.as_slice();
        let columns = match is_native {
            true => render::columns(&job.options, Some(types)),
            false => render::indicator_columns(&job.options, Some(types)),
        };
        let own = Group { columns, rows: RoaringBitmap::new(), pages };
        // What each group would save by having these rows as well.
        let saved = |group: &Group| {
            let cost = |group: &Group| i64::from(group.pages.count() * weight(&group.columns));
            let together = group.pages.union(own.pages).count() * weight(&united(&group.columns, &own.columns));
            cost(group) + cost(&own) - i64::from(together)
        };
        let best = all.iter().enumerate().map(|(at, group)| (saved(group), at)).max_by_key(|(saved, _)| *saved);
        let at = match best {
            Some((saved, at)) if saved >= 0 || all.len() > usize::from(u8::MAX - 1) => at,
            _ => {
                all.push(Group { columns: Vec::new(), rows: RoaringBitmap::new(), pages: Pages::default() });
                all.len() - 1
            }
        };
        if let Some(group) = all.get_mut(at) {
            group.columns = united(&group.columns, &own.columns);
            group.pages = group.pages.union(own.pages);
        }
        group_of.push(at as u8);
    }
    match all.len() {
        0 => return Ok(Groups::whole(columns_of(Shape::Objects, &job.options, part))),
        1 => return Ok(Groups { order: Vec::new(), all }),
        _ => {}
    }
    let order: Vec<u8> =
        class_of.iter().map(|class| group_of.get(usize::from(*class)).copied().unwrap_or_default()).collect();
    for (row, group) in part.ranges.iter().cloned().flatten().zip(&order) {
        if let Some(group) = all.get_mut(usize::from(*group)) {
            group.rows.insert(row);
        }
    }
    Ok(Groups { order, all })
}

/// Rows of one type, native objects or not.
struct Class {
    is_native: bool,
    stix_type: Option<StixType>,
    pages: Pages,
}

/// The classes of the rows of a slice, and which of them each row is of.
fn classes_of(part: &Part) -> Result<(Vec<Class>, Vec<u8>), StoreError> {
    let mut rows = part.ranges.iter().cloned().flatten();
    let (mut classes, mut class_of): (Vec<Class>, Vec<u8>) = (Vec::new(), Vec::new());
    let (mut page, mut place) = (None, 0);
    for batch in part.view.segment.read(&part.ranges, &[column::STIX_TYPE], SLICE_ROWS as usize)? {
        let batch = batch?;
        let names = batch.column(0).as_dictionary_opt::<Int32Type>();
        let known: Vec<Option<StixType>> = names
            .and_then(|names| names.values().as_string_opt::<i32>())
            .map(|values| values.iter().map(|name| name.and_then(StixType::named)).collect())
            .unwrap_or_default();
        // The class of each entry of the dictionary, and behind them of rows without a type, for those that were met.
        let mut met = vec![[None::<u8>; 2]; known.len() + 1];
        for (at, row) in (0..batch.num_rows()).zip(&mut rows) {
            if page != Some(row / SLICE_ROWS) {
                place += u32::from(page.is_some());
                page = Some(row / SLICE_ROWS);
            }
            let entry = names.and_then(|names| names.key(at)).filter(|key| *key < known.len()).unwrap_or(known.len());
            let is_native = part.natives.as_ref().is_some_and(|natives| natives.contains(row));
            let Some(met) = met.get_mut(entry).and_then(|met| met.get_mut(usize::from(is_native))) else { continue };
            let class = *met.get_or_insert_with(|| {
                let stix_type = known.get(entry).copied().flatten();
                let is_same = |class: &Class| class.is_native == is_native && class.stix_type == stix_type;
                let place = classes.iter().position(is_same).unwrap_or_else(|| {
                    classes.push(Class { is_native, stix_type, pages: Pages::default() });
                    classes.len() - 1
                });
                // There are fewer types than that.
                place as u8
            });
            if let Some(class) = classes.get_mut(usize::from(class)) {
                class.pages.insert(place);
            }
            class_of.push(class);
        }
    }
    Ok((classes, class_of))
}

/// Both, in an order that says nothing.
pub(crate) fn united(a: &[&'static str], b: &[&'static str]) -> Vec<&'static str> {
    let mut both = a.to_vec();
    both.extend(b.iter().filter(|column| !a.contains(column)));
    both
}

/// Only the columns that the types in this segment need; the documents of native objects only where the slice has some.
pub(crate) fn columns_of(shape: Shape, options: &RenderOptions, part: &Part) -> Vec<&'static str> {
    if shape != Shape::Objects {
        return render::manifest_columns().to_vec();
    }
    let types = types_of(&part.view.segment);
    if has_natives(part) {
        render::columns(options, Some(&types))
    } else {
        render::indicator_columns(options, Some(&types))
    }
}

/// All columns that pages over a segment are made of, whichever rows they hold.
pub(crate) fn columns_of_any(options: &RenderOptions, segment: &Segment) -> Vec<&'static str> {
    let types = types_of(segment);
    let columns = match segment.meta().natives {
        0 => render::indicator_columns(options, Some(&types)),
        _ => render::columns(options, Some(&types)),
    };
    united(&columns, render::manifest_columns())
}

fn types_of(segment: &Segment) -> Vec<StixType> {
    segment.meta().types.keys().filter_map(|name| StixType::named(name)).collect()
}

/// Whether there are native objects among the rows.
pub(crate) fn has_natives(part: &Part) -> bool {
    part.natives.as_ref().is_some_and(|natives| match natives {
        Rows::All => true,
        Rows::Some(rows) => part.ranges.iter().any(|range| rows.range_cardinality(range.clone()) > 0),
    })
}
