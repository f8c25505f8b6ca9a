//! The page plan: which rows make a page, from bitmaps and narrow columns alone, before anything wide is read.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use arrow::util::bit_iterator::BitIndexIterator;
use roaring::RoaringBitmap;

use crate::feed::api::Versions;
use crate::feed::edges::Related;
use crate::feed::gathered::{Gathered, OfCollection};
use crate::feed::matching::{MatchIndex, Predicate, Records, Rows, Within};
use crate::model::schema::column;
use crate::model::time::Timestamp;
use crate::store::{SegmentView, Snapshot, StoreError};

/// Candidates are tested against a clocked condition so many at a time.
const RESIDUAL_ROWS: usize = 8_192;
/// Chunks of rows that the first look for a page goes through.
const AT_ONCE: u32 = 2;

/// What a page is taken from.
#[derive(Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) index: &'a MatchIndex,
    /// Records and definitions of the collection.
    pub(crate) base: &'a Records,
    /// Its relationships.
    pub(crate) edges: &'a Related<'a>,
    /// Holds for relationships, of any collection and version.
    pub(crate) is_edge: &'a Predicate,
    /// Holds for native objects and relationships.
    pub(crate) is_native: &'a Predicate,
    /// What is kept of its rows.
    pub(crate) gathered: &'a OfCollection,
    /// All must hold; none of them looks at the clock.
    pub(crate) filters: &'a [Predicate],
    /// Must hold as well, and depends on the time of asking.
    pub(crate) clocked: Option<&'a Predicate>,
    /// Which versions of a record.
    pub(crate) versions: &'a Versions,
    /// Which of the forms that a version may be there in.
    pub(crate) forms: Forms,
    /// Holds for rows whose version is one of the exact ones asked for.
    pub(crate) exact: Option<&'a Predicate>,
    /// Whether versions are written, and so asked for, in whole milliseconds.
    pub(crate) in_millis: bool,
    /// Only these rows, by segment, when ids were asked for.
    pub(crate) only: Option<&'a HashMap<usize, RoaringBitmap>>,
}

/// The forms of an object: an inbox may hold it as it is in STIX 2.0 and in 2.1 (TAXII 2.1 §3.4, `match[spec_version]`). The newest
/// version of the newest form is the one that is not superseded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forms {
    /// No version has more than one.
    One,
    /// The versions of the newest. With `apart`, not all forms count, and the newest of those that do may be superseded.
    Newest {
        /// See above.
        apart: bool,
    },
    /// Every one.
    Each,
    /// Every version, but each of them in one form only.
    Either,
}

/// The rows of a page.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Runs of rows, in order.
    pub(crate) parts: Vec<Part>,
    pub(crate) rows: u64,
    pub(crate) first: Option<Timestamp>,
    pub(crate) last: Option<Timestamp>,
    /// A further row follows.
    pub(crate) more: bool,
}

/// Rows of one segment.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) view: SegmentView,
    pub(crate) ranges: Vec<Range<u32>>,
    /// Which of them are native objects, whose documents have to be read; `None` when the segment has none. Says nothing of other rows.
    pub(crate) natives: Option<Rows>,
    /// What is kept of the collection's rows of that segment, which may be these.
    pub(crate) gathered: Option<Arc<Gathered>>,
}

impl Part {
    /// These columns of its rows, if they are kept.
    pub(crate) fn kept(&self, columns: &[&str]) -> Result<Option<RecordBatch>, StoreError> {
        self.gathered.as_ref().map_or(Ok(None), |gathered| gathered.rows(&self.ranges, columns))
    }
}

impl Plan {
    /// Plans at most `limit` rows added after `after`, leaving out the first `skip` of them.
    pub(crate) fn page(
        scope: &Scope<'_>,
        after: Option<Timestamp>,
        mut skip: u64,
        limit: u64,
    ) -> Result<Plan, StoreError> {
        let mut plan = Plan::default();
        let history = History::of(scope)?;
        for (position, view) in scope.snapshot.segments().iter().enumerate() {
            if after.is_some_and(|after| view.segment.meta().last_added <= after.0) {
                continue;
            }
            if scope.only.is_some_and(|only| !only.contains_key(&position)) {
                continue;
            }
            let start = match after {
                Some(after) => view.segment.first_row_after(after)?,
                None => 0,
            };
            if skip > 0 {
                let here = count_from(scope, &history, position, view, start)?;
                if here <= skip {
                    skip -= here;
                    continue;
                }
            }
            // One row beyond the page tells whether more follow.
            let wanted = limit.saturating_add(1).saturating_sub(plan.rows).saturating_add(skip);
            let mut ranges = rows_of(scope, &history, position, view, start, wanted)?;
            skip -= drop_front(&mut ranges, skip);
            let room = limit - plan.rows;
            let found: u64 = ranges.iter().map(|range| range.len() as u64).sum();
            if found > room {
                cut(&mut ranges, room);
                plan.more = true;
            }
            let kept = found.min(room);
            if let (Some(first), Some(last)) = (ranges.first(), ranges.last()) {
                if plan.first.is_none() {
                    plan.first = Some(view.segment.added(first.start)?);
                }
                plan.last = Some(view.segment.added(last.end - 1)?);
                plan.rows += kept;
                // Opened now: a slow reader may take longer than the files of this version are kept.
                view.segment.file()?;
                let natives = match view.segment.meta().natives {
                    0 => None,
                    _ => Some(scope.index.rows_within(&view.segment, scope.is_native, first.start..last.end)?.rows),
                };
                let gathered = scope.gathered.get(view.segment.id()).cloned();
                plan.parts.push(Part { view: view.clone(), ranges, natives, gathered });
            }
            if plan.more {
                break;
            }
        }
        Ok(plan)
    }

    /// Finds out what pages over a segment are planned from; gives the rows they may hold.
    pub(crate) fn find_out(scope: &Scope<'_>, position: usize, view: &SegmentView) -> Result<Rows, StoreError> {
        if view.segment.meta().natives > 0 {
            scope.index.rows(&view.segment, scope.is_native)?;
        }
        Ok(fixed_rows(scope, position, view, 0..view.segment.rows())?.rows)
    }

    /// How many rows were added after `after`.
    pub(crate) fn count(scope: &Scope<'_>, after: Option<Timestamp>) -> Result<u64, StoreError> {
        let history = History::of(scope)?;
        let mut count = 0;
        for (position, view) in scope.snapshot.segments().iter().enumerate() {
            let passed = after.is_some_and(|after| view.segment.meta().last_added <= after.0);
            if passed || scope.only.is_some_and(|only| !only.contains_key(&position)) {
                continue;
            }
            let start = match after {
                Some(after) => view.segment.first_row_after(after)?,
                None => 0,
            };
            count += count_from(scope, &history, position, view, start)?;
        }
        Ok(count)
    }
}

/// Removes up to `count` rows from the front; says how many.
fn drop_front(ranges: &mut Vec<Range<u32>>, count: u64) -> u64 {
    let mut left = count;
    ranges.retain_mut(|range| {
        let gone = left.min(range.len() as u64);
        range.start += gone as u32;
        left -= gone;
        range.start < range.end
    });
    count - left
}

/// Keeps the first `count` rows.
fn cut(ranges: &mut Vec<Range<u32>>, count: u64) {
    let mut left = count;
    ranges.retain_mut(|range| {
        let kept = left.min(range.len() as u64);
        range.end = range.start + kept as u32;
        left -= kept;
        range.start < range.end
    });
}

/// The first `wanted` rows of a segment from `start` on.
fn rows_of(
    scope: &Scope<'_>,
    history: &History,
    position: usize,
    view: &SegmentView,
    start: u32,
    wanted: u64,
) -> Result<Vec<Range<u32>>, StoreError> {
    let hidden = history.hidden(position, view);
    let mut taken = Taken { ranges: Vec::new(), rows: 0, wanted };
    let (mut next, end) = (start, view.segment.rows());
    // A page of what matches often finds its rows at once, and leaves the rest of the segment for later; one of what matches seldom
    // looks ever further.
    let mut ahead = wanted.max(u64::from(scope.index.chunk_rows().saturating_mul(AT_ONCE))).min(u64::from(end)) as u32;
    while next < end {
        let within = next..end.min(next.saturating_add(ahead));
        let Within { mut rows, mut until } = fixed_rows(scope, position, view, within.clone())?;
        if let Some(exact) = scope.exact.filter(|_| !history.takes_newest(scope.versions)) {
            // Rows outside the history have one version, which must be one of those asked for.
            let exact = scope.index.rows_within(&view.segment, exact, within)?;
            (rows, until) = (rows.intersect(exact.rows), until.min(exact.until));
        }
        let extra = history.shown.get(&position);
        let candidates = Candidates { rows: &rows, hidden: &hidden, extra, next, end: until };
        if !take(view, scope.clocked, &candidates, &mut taken)? {
            break;
        }
        next = until;
        ahead = ahead.saturating_mul(4);
    }
    Ok(taken.ranges)
}

/// Takes candidates; `false` when enough is taken.
fn take(
    view: &SegmentView,
    clocked: Option<&Predicate>,
    candidates: &Candidates<'_>,
    taken: &mut Taken,
) -> Result<bool, StoreError> {
    let Some(clocked) = clocked else {
        candidates.for_each_run(|run| taken.push(run))?;
        return Ok(taken.rows < taken.wanted);
    };
    let mut pending: Vec<Range<u32>> = Vec::new();
    let mut pending_rows = 0;
    candidates.for_each_run(|run| {
        let mut run = run;
        while !run.is_empty() {
            let here = run.len().min(RESIDUAL_ROWS - pending_rows);
            pending.push(run.start..run.start + here as u32);
            pending_rows += here;
            run.start += here as u32;
            if pending_rows == RESIDUAL_ROWS {
                pending_rows = 0;
                if !test(view, clocked, &std::mem::take(&mut pending), taken)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    })?;
    test(view, clocked, &pending, taken)
}

/// How many rows of a segment there are from `start` on: set algebra where nothing depends on the clock or on versions.
fn count_from(
    scope: &Scope<'_>,
    history: &History,
    position: usize,
    view: &SegmentView,
    start: u32,
) -> Result<u64, StoreError> {
    if history.active || scope.clocked.is_some() {
        let ranges = rows_of(scope, history, position, view, start, u64::MAX)?;
        return Ok(ranges.iter().map(|range| range.len() as u64).sum());
    }
    let end = view.segment.rows();
    let (all, hidden) = match fixed_rows(scope, position, view, start..end)?.rows {
        Rows::All => (u64::from(end.saturating_sub(start)), view.superseded.range_cardinality(start..end)),
        Rows::Some(rows) => {
            (rows.range_cardinality(start..end), (&*rows & &*view.superseded).range_cardinality(start..end))
        }
    };
    Ok(all - hidden)
}

fn is_edge(scope: &Scope<'_>, view: &SegmentView, row: u32) -> Result<bool, StoreError> {
    scope.index.holds(&view.segment, scope.is_edge, row)
}

/// What of `within`, and perhaps of what follows, is served without looking at the clock or at versions.
fn fixed_rows(
    scope: &Scope<'_>,
    position: usize,
    view: &SegmentView,
    within: Range<u32>,
) -> Result<Within, StoreError> {
    // Rows asked for by id were tested one by one: building bitmaps for them would scan the segment.
    if let Some(only) = scope.only {
        let rows = Rows::Some(Arc::new(only.get(&position).cloned().unwrap_or_default()));
        return Ok(Within { rows, until: view.segment.rows() });
    }
    let Within { mut rows, mut until } = scope.base.rows_within(scope.index, &view.segment, within.clone())?;
    if let Some(edges) = scope.edges.of_segment(position)? {
        rows = rows.union(edges);
    }
    for predicate in scope.filters {
        let filtered = scope.index.rows_within(&view.segment, predicate, within.clone())?;
        (rows, until) = (rows.intersect(filtered.rows), until.min(filtered.until));
    }
    Ok(Within { rows, until })
}

struct Taken {
    ranges: Vec<Range<u32>>,
    rows: u64,
    wanted: u64,
}

impl Taken {
    /// Adds a run; `false` when enough is taken.
    fn push(&mut self, run: Range<u32>) -> Result<bool, StoreError> {
        let kept = (run.len() as u64).min(self.wanted - self.rows);
        let run = run.start..run.start + kept as u32;
        self.rows += kept;
        match self.ranges.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ if run.is_empty() => {}
            _ => self.ranges.push(run),
        }
        Ok(self.rows < self.wanted)
    }
}

/// Keeps those of `ranges` for which the clocked condition holds; `false` when enough is taken.
fn test(view: &SegmentView, clocked: &Predicate, ranges: &[Range<u32>], taken: &mut Taken) -> Result<bool, StoreError> {
    if ranges.is_empty() {
        return Ok(taken.rows < taken.wanted);
    }
    let mut numbers = ranges.iter().cloned().flatten();
    for batch in view.segment.read(ranges, clocked.columns(), RESIDUAL_ROWS)? {
        let batch = batch?;
        let rows: Vec<u32> = numbers.by_ref().take(batch.num_rows()).collect();
        let bits = clocked.matches(&batch)?;
        let values = bits.values();
        for bit in BitIndexIterator::new(values.values(), values.offset(), values.len()) {
            if let Some(row) = rows.get(bit)
                && !taken.push(*row..row + 1)?
            {
                return Ok(false);
            }
        }
    }
    Ok(taken.rows < taken.wanted)
}

/// Matching rows of a segment from `next` on: those not hidden, and the extra ones.
struct Candidates<'a> {
    rows: &'a Rows,
    hidden: &'a RoaringBitmap,
    extra: Option<&'a RoaringBitmap>,
    next: u32,
    end: u32,
}

impl Candidates<'_> {
    /// Calls `run` with runs of rows, in order, until it says `false`.
    fn for_each_run(&self, mut run: impl FnMut(Range<u32>) -> Result<bool, StoreError>) -> Result<(), StoreError> {
        if self.next >= self.end {
            return Ok(());
        }
        match (self.rows, self.extra) {
            (Rows::All, None) => {
                self.visible(self.next..self.end, &mut run)?;
            }
            (Rows::Some(rows), None) => {
                // Runs whole: a page takes its rows from the front, however long the run goes on.
                let mut rows = rows.range(self.next..self.end);
                while let Some(found) = rows.next_range() {
                    if !self.visible(*found.start()..found.end() + 1, &mut run)? {
                        return Ok(());
                    }
                }
            }
            (rows, Some(extra)) => {
                let mut shown = match rows {
                    Rows::All => RoaringBitmap::from_iter(self.next..self.end),
                    Rows::Some(rows) => RoaringBitmap::clone(rows),
                };
                shown -= self.hidden;
                shown |= extra;
                let mut shown = shown.range(self.next..self.end);
                while let Some(found) = shown.next_range() {
                    if !run(*found.start()..found.end() + 1)? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Calls `run` with what of `rows` is not hidden; `false` when it says so.
    fn visible(
        &self,
        rows: Range<u32>,
        run: &mut impl FnMut(Range<u32>) -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        let mut at = rows.start;
        for hidden in self.hidden.range(rows.clone()) {
            if hidden > at && !run(at..hidden)? {
                return Ok(false);
            }
            at = hidden + 1;
        }
        if at < rows.end { run(at..rows.end) } else { Ok(true) }
    }
}

/// Records with more than one version, when a request asks for other versions than the newest (TAXII 2.1 §3.4, `match[version]`).
#[derive(Debug, Default)]
struct History {
    active: bool,
    /// Rows of records with several versions: decided by `shown`, not by the general rule.
    decided: HashMap<usize, RoaringBitmap>,
    /// Those of them that are served.
    shown: HashMap<usize, RoaringBitmap>,
}

#[derive(Clone, Copy)]
struct Version {
    segment: usize,
    row: u32,
    version: i64,
    /// Whether it is written in STIX 2.1.
    is_21: bool,
    live: bool,
}

impl History {
    fn of(scope: &Scope<'_>) -> Result<Self, StoreError> {
        let is_simple = match scope.forms {
            Forms::One | Forms::Newest { apart: false } => *scope.versions == Versions::Last,
            Forms::Newest { apart: true } | Forms::Each | Forms::Either => false,
        };
        if is_simple {
            return Ok(History::default());
        }
        let mut history = History { active: true, ..History::default() };
        let views = scope.snapshot.segments();
        let of_view = |(position, view): (usize, &SegmentView)| {
            fixed_rows(scope, position, view, 0..view.segment.rows()).map(|within| within.rows)
        };
        let fixed = views.iter().enumerate().map(of_view).collect::<Result<Vec<Rows>, _>>()?;
        let keys = multi_version_keys(scope)?;
        let mut groups: Vec<Vec<Version>> = vec![Vec::new(); keys.len()];
        for found in scope.snapshot.find_keys(&keys)? {
            // What was deleted never was.
            if found.deleted {
                continue;
            }
            if let (Some(group), Some(fixed)) = (groups.get_mut(found.position), fixed.get(found.segment)) {
                // A version that the query leaves out is no version of this collection; a relationship is in it or not as a whole.
                if fixed.contains(found.row) || (!found.live && is_edge(scope, &views[found.segment], found.row)?) {
                    let (segment, row, live) = (found.segment, found.row, found.live);
                    group.push(Version { segment, row, version: 0, is_21: false, live });
                } else {
                    history.decided.entry(found.segment).or_default().insert(found.row);
                }
            }
        }
        read_versions(scope.snapshot, &mut groups)?;
        for group in &mut groups {
            for version in group.iter() {
                history.decided.entry(version.segment).or_default().insert(version.row);
            }
            // A record whose newest version left the collection has left it whole. No version leaves an inbox, but the newest may be of
            // a form that is not asked for.
            if scope.forms != Forms::One || group.iter().any(|version| version.live) {
                for chosen in choose(group, scope.versions, scope.forms, scope.in_millis) {
                    history.shown.entry(chosen.segment).or_default().insert(chosen.row);
                }
            }
        }
        if let Some(only) = scope.only {
            for (segment, rows) in &mut history.shown {
                match only.get(segment) {
                    Some(only) => *rows &= only,
                    None => rows.clear(),
                }
            }
        }
        Ok(history)
    }

    /// Whether records with a single version are served without looking at it.
    fn takes_newest(&self, versions: &Versions) -> bool {
        match versions {
            Versions::Last | Versions::All => true,
            Versions::Some { first, last, .. } => *first || *last,
        }
    }

    fn hidden(&self, position: usize, view: &SegmentView) -> Arc<RoaringBitmap> {
        match self.decided.get(&position) {
            Some(decided) if self.active => Arc::new(&*view.superseded | decided),
            _ => Arc::clone(&view.superseded),
        }
    }
}

/// Identity keys of records that have a former version, sorted.
fn multi_version_keys(scope: &Scope<'_>) -> Result<Vec<u64>, StoreError> {
    let mut keys = Vec::new();
    for (position, view) in scope.snapshot.segments().iter().enumerate() {
        match scope.only {
            None if view.superseded.len() == view.deleted.len() => {}
            None => {
                let is_former = |row| view.superseded.contains(row) && !view.deleted.contains(row);
                keys.extend(view.segment.keys_where(is_former)?);
            }
            Some(only) => {
                if let Some(rows) = only.get(&position) {
                    keys.extend(view.segment.keys_where(|row| rows.contains(row))?);
                }
            }
        }
    }
    keys.sort_unstable();
    keys.dedup();
    Ok(keys)
}

/// Fills in when each version was made (its `modified`, else `created`, else when it was added), and what it is written in.
fn read_versions(snapshot: &Snapshot, groups: &mut [Vec<Version>]) -> Result<(), StoreError> {
    for (position, view) in snapshot.segments().iter().enumerate() {
        let mut rows: Vec<u32> =
            groups.iter().flatten().filter(|version| version.segment == position).map(|version| version.row).collect();
        rows.sort_unstable();
        rows.dedup();
        if rows.is_empty() {
            continue;
        }
        let ranges: Vec<Range<u32>> = rows.iter().map(|row| *row..row + 1).collect();
        let mut made: HashMap<u32, (i64, bool)> = HashMap::with_capacity(rows.len());
        let mut numbers = rows.into_iter();
        let columns = [column::ADDED, column::SPEC_VERSION, column::CREATED, column::MODIFIED];
        for batch in view.segment.read(&ranges, &columns, RESIDUAL_ROWS)? {
            let batch = batch?;
            let [added, created, modified] =
                [0, 2, 3].map(|at| batch.column(at).as_primitive::<TimestampMicrosecondType>());
            let forms = cast(batch.column(1), &DataType::Utf8)?;
            let forms = forms.as_string::<i32>();
            for at in 0..batch.num_rows() {
                let source = [modified, created, added].into_iter().find(|column| column.is_valid(at));
                if let (Some(row), Some(source)) = (numbers.next(), source) {
                    made.insert(row, (source.value(at), forms.is_valid(at) && forms.value(at) != "2.0"));
                }
            }
        }
        for version in groups.iter_mut().flatten().filter(|version| version.segment == position) {
            (version.version, version.is_21) = made.get(&version.row).copied().unwrap_or_default();
        }
    }
    Ok(())
}

/// The versions of one record that are asked for. Of two rows with the same version (and form, where these are told apart) the later
/// one counts.
fn choose(group: &mut Vec<Version>, versions: &Versions, forms: Forms, in_millis: bool) -> Vec<Version> {
    // Only the newest STIX version of an object, whatever its dates, unless both are asked for (TAXII 2.1 §3.4.3).
    if matches!(forms, Forms::Newest { .. }) && group.iter().any(|version| version.is_21) {
        group.retain(|version| version.is_21);
    }
    let form = |version: &Version| forms != Forms::One && version.is_21;
    group.sort_by_key(|version| (version.version, form(version), version.segment, version.row));
    group.reverse();
    group.dedup_by_key(|version| (version.version, forms == Forms::Each && version.is_21));
    group.reverse();
    let (Some(oldest), Some(newest)) =
        (group.first().map(|version| version.version), group.last().map(|version| version.version))
    else {
        return Vec::new();
    };
    match versions {
        Versions::Last => group.iter().filter(|version| version.version == newest).copied().collect(),
        Versions::All => group.clone(),
        Versions::Some { first, last, exact } => {
            let asked = |version: Timestamp| match in_millis {
                false => exact.contains(&version),
                true => exact.iter().any(|exact| exact.floor_milli() == version.floor_milli()),
            };
            let wanted = |version: &&Version| {
                (*first && version.version == oldest)
                    || (*last && version.version == newest)
                    || asked(Timestamp(version.version))
            };
            group.iter().filter(wanted).copied().collect()
        }
    }
}
