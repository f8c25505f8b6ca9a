//! Rows of collections that have few rows of a segment, beside each other in memory.
//!
//! In the segment each of them costs a data page of every column that is read for it, most of them for that row alone. So where a collection
//! has few rows, they are read once, in the background, and pages are made from what was read. Rows of a segment never change: which of them
//! are here is a matter of speed, never of what is served.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use parking_lot::Mutex;
use roaring::RoaringBitmap;

use crate::store::{Segment, StoreError, row_runs};

/// A collection has few rows of a segment when it has no more than one in so many: four in a data page.
const ONE_IN: u64 = 256;
/// A row takes about that much at least, so nobody reads what will not fit.
const ROW_BYTES: usize = 256;
/// Rows read at a time, since some are long.
const READ_ROWS: usize = 64;

/// Some rows of a segment.
#[derive(Debug)]
pub(crate) struct Gathered {
    /// Their numbers in the segment, rising.
    rows: Vec<u32>,
    batch: RecordBatch,
    bytes: usize,
}

impl Gathered {
    /// Reads them, unless they would take more than `room` bytes.
    fn read(
        segment: &Segment,
        rows: &RoaringBitmap,
        columns: &[&str],
        room: usize,
    ) -> Result<Option<Self>, StoreError> {
        let Some(batch) = segment.read_within(&row_runs(rows), columns, READ_ROWS, room)? else { return Ok(None) };
        let rows: Vec<u32> = rows.iter().collect();
        let bytes = batch.get_array_memory_size() + size_of_val(rows.as_slice());
        Ok((bytes <= room).then_some(Gathered { rows, batch, bytes }))
    }

    fn has_columns(&self, columns: &[&str]) -> bool {
        columns.iter().all(|column| self.batch.schema_ref().column_with_name(column).is_some())
    }

    fn has_rows(&self, rows: &RoaringBitmap) -> bool {
        rows.iter().all(|row| self.rows.binary_search(&row).is_ok())
    }

    /// These columns of these rows; `None` where something is missing.
    pub(crate) fn rows(&self, ranges: &[Range<u32>], columns: &[&str]) -> Result<Option<RecordBatch>, StoreError> {
        if !self.has_columns(columns) {
            return Ok(None);
        }
        let mut runs: Vec<Range<usize>> = Vec::new();
        for range in ranges.iter().filter(|range| !range.is_empty()) {
            let start = self.rows.partition_point(|row| *row < range.start);
            let run = start..start + range.len();
            let own = self.rows.get(run.clone()).unwrap_or_default();
            if own.first() != Some(&range.start) || own.last() != Some(&(range.end - 1)) {
                return Ok(None);
            }
            match runs.last_mut() {
                Some(last) if last.end == run.start => last.end = run.end,
                _ => runs.push(run),
            }
        }
        let schema = self.batch.schema_ref();
        let mut places: Vec<usize> = columns.iter().map(|column| schema.index_of(column)).collect::<Result<_, _>>()?;
        // In the order that a segment gives them in, too.
        places.sort_unstable();
        places.dedup();
        let all = self.batch.project(&places)?;
        Ok(Some(match runs.as_slice() {
            [] => all.slice(0, 0),
            // As most pages have it: what is here are the rows of a collection, one after another.
            [run] => all.slice(run.start, run.len()),
            runs => {
                take_record_batch(&all, &runs.iter().cloned().flatten().map(|row| row as u32).collect::<UInt32Array>())?
            }
        }))
    }
}

/// The rows of one collection that are kept, by segment.
pub(crate) type OfCollection = HashMap<String, Arc<Gathered>>;

/// What is kept, by collection, within a budget of memory. Only the background adds to it.
#[derive(Debug)]
pub(crate) struct Gathering {
    kept: Mutex<HashMap<String, Arc<OfCollection>>>,
    budget_bytes: usize,
}

impl Gathering {
    pub(crate) fn new(budget_bytes: usize) -> Self {
        Gathering { kept: Mutex::default(), budget_bytes }
    }

    /// What is kept of a collection.
    pub(crate) fn of(&self, collection: &str) -> Arc<OfCollection> {
        self.kept.lock().get(collection).cloned().unwrap_or_default()
    }

    /// Forgets what is not wanted any more.
    pub(crate) fn retain(&self, collection: impl Fn(&str) -> bool, segment: impl Fn(&str) -> bool) {
        let mut kept = self.kept.lock();
        kept.retain(|id, _| collection(id));
        for own in kept.values_mut() {
            if own.keys().any(|id| !segment(id)) {
                Arc::make_mut(own).retain(|id, _| segment(id));
            }
        }
    }

    /// Keeps the rows that a collection has of a segment, if they are few and there is room.
    pub(crate) fn keep(
        &self,
        collection: &str,
        segment: &Segment,
        rows: &RoaringBitmap,
        columns: &[&str],
    ) -> Result<(), StoreError> {
        let before = self.of(collection).get(segment.id()).cloned();
        let is_few = !rows.is_empty() && rows.len() * ONE_IN <= u64::from(segment.rows());
        if is_few && before.as_ref().is_some_and(|before| before.has_columns(columns) && before.has_rows(rows)) {
            return Ok(());
        }
        if before.is_some() {
            self.change(collection, |own| drop(own.remove(segment.id())));
        }
        let taken: usize = self.kept.lock().values().flat_map(|own| own.values()).map(|gathered| gathered.bytes).sum();
        let room = self.budget_bytes.saturating_sub(taken);
        if !is_few || rows.len() as usize * ROW_BYTES > room {
            return Ok(());
        }
        if let Some(gathered) = Gathered::read(segment, rows, columns, room)? {
            self.change(collection, |own| drop(own.insert(segment.id().to_owned(), Arc::new(gathered))));
        }
        Ok(())
    }

    fn change(&self, collection: &str, change: impl FnOnce(&mut OfCollection)) {
        change(Arc::make_mut(self.kept.lock().entry(collection.to_owned()).or_default()));
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, StringArray};
    use arrow::compute::concat_batches;
    use futures::TryStreamExt;

    use super::*;
    use crate::feed::api::{Body, Feed, PageRequest, Shape};
    use crate::feed::collection::{Catalog, CollectionSpec, Options, QueryText};
    use crate::feed::{FeedOptions, StoreFeed};
    use crate::model::schema::column;
    use crate::render::StixVersion;
    use crate::store::tests::{domains, import};
    use crate::store::{Store, StoreOptions};

    /// Two segments: of the first, `value:h100*` matches 11 rows of 5,000; of the second all that there are.
    fn store(folder: &tempfile::TempDir) -> Store {
        let location = folder.path().join("store").display().to_string();
        let store = Store::open_or_create(StoreOptions { location, ..StoreOptions::default() }).unwrap();
        import(&store, &domains(0..5_000, 3)).unwrap();
        import(&store, &domains(10_000..10_005, 3)).unwrap();
        store
    }

    fn feed(store: &Store, query: &str) -> StoreFeed {
        let spec = CollectionSpec::new("few", QueryText::Xsoar(query.to_owned()));
        let collection = spec.build(store.ids(), &Options::default()).unwrap();
        // Every page is made anew.
        let options = FeedOptions { rendered_bytes: 0, ..FeedOptions::default() };
        StoreFeed::new(store.clone(), Catalog::new(vec![collection]).unwrap(), &options).unwrap()
    }

    fn warm(feed: &StoreFeed) -> Vec<(String, Vec<u32>)> {
        let catalog = feed.catalog();
        feed.shared().forget(&catalog).unwrap();
        let collection = catalog.iter().next().unwrap();
        assert!(feed.shared().warm(collection, &|| true).unwrap());
        let kept = feed.shared().gathering().of(&collection.id);
        kept.iter().map(|(segment, gathered)| (segment.clone(), gathered.rows.clone())).collect()
    }

    async fn answers(feed: &StoreFeed) -> Vec<String> {
        let collection = Arc::clone(feed.catalog().iter().next().unwrap());
        let mut all = Vec::new();
        for version in [StixVersion::V21, StixVersion::V20] {
            for shape in [Shape::Objects, Shape::Manifest] {
                for limit in [1, 4, 1_000] {
                    let mut request = PageRequest { limit: Some(limit), version, ..PageRequest::default() };
                    loop {
                        let page = feed.page(&collection, shape, request.clone()).await.unwrap();
                        let body = match page.body {
                            Body::Whole(bytes) => bytes.to_vec(),
                            Body::Stream(chunks) => chunks.try_collect::<Vec<_>>().await.unwrap().concat(),
                        };
                        let body = String::from_utf8(body).unwrap();
                        let next =
                            body.split("\"next\":\"").nth(1).map(|rest| rest[..rest.find('"').unwrap()].to_owned());
                        // The id of a bundle is random.
                        all.push(body.split_once("\"objects\"").unwrap().1.to_owned());
                        request.next = next.filter(|_| page.more);
                        if request.next.is_none() {
                            break;
                        }
                    }
                }
            }
        }
        all
    }

    #[tokio::test]
    async fn pages_are_the_same_whether_rows_are_kept_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let (cold, warmed) = (feed(&store, "value:h100*"), feed(&store, "value:h100*"));
        let kept = warm(&warmed);
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert!(kept[0].1.len() >= 11);
        let expected = answers(&cold).await;
        assert!(expected.iter().any(|page| page.contains("h1005.example.com")));
        assert_eq!(answers(&warmed).await, expected);
        // One record goes: what is kept has it still, and nobody is served it.
        import(&store, &domains(1_005..1_006, 2)).unwrap();
        let expected = answers(&cold).await;
        assert_eq!(answers(&warmed).await, expected);
        warm(&warmed);
        assert_eq!(answers(&warmed).await, expected);
        // That it was they which were served: with another value, they show it.
        let collection = Arc::clone(warmed.catalog().iter().next().unwrap());
        warmed.shared().gathering().change(&collection.id, |own| {
            for kept in own.values_mut() {
                let Gathered { rows, batch, bytes } = &**kept;
                let values: ArrayRef = Arc::new(StringArray::from(vec!["kept.example.com"; rows.len()]));
                let place = batch.schema_ref().index_of(column::VALUE).unwrap();
                let columns = batch.columns().iter().enumerate();
                let columns = columns.map(|(at, own)| if at == place { Arc::clone(&values) } else { Arc::clone(own) });
                let batch = RecordBatch::try_new(batch.schema(), columns.collect()).unwrap();
                *kept = Arc::new(Gathered { rows: rows.clone(), batch, bytes: *bytes });
            }
        });
        assert!(answers(&warmed).await.iter().any(|page| page.contains("kept.example.com")));
    }

    #[test]
    fn what_is_not_there_any_more_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let feed = feed(&store, "value:h100*");
        let before = warm(&feed);
        store.compact(&crate::store::CompactOptions::default()).unwrap();
        let after = warm(&feed);
        assert_eq!(after.len(), 1);
        assert_ne!(before[0].0, after[0].0);
        feed.replace_catalog(Catalog::new(Vec::new()).unwrap());
        feed.shared().forget(&feed.catalog()).unwrap();
        assert!(feed.shared().gathering().kept.lock().is_empty());
    }

    #[test]
    fn only_what_is_few_and_fits_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let snapshot = store.snapshot().unwrap();
        let segment = &snapshot.segments()[0].segment;
        let rows = |count: u32| (0..count).map(|row| row * 7).collect::<RoaringBitmap>();
        let columns = [column::ID, column::VALUE];
        let kept = |budget: usize, count: u32| {
            let gathering = Gathering::new(budget);
            gathering.keep("c", segment, &rows(count), &columns).unwrap();
            gathering.of("c").values().map(|gathered| gathered.rows.len()).sum::<usize>()
        };
        let few = segment.rows() / ONE_IN as u32;
        for (budget, count, expected) in [
            (1 << 20, few, few),
            (1 << 20, few + 1, 0),
            (1 << 20, 0, 0),
            (0, few, 0),
            (few as usize * ROW_BYTES, few, few),
        ] {
            assert_eq!(kept(budget, count), expected as usize, "{count} rows in {budget} bytes");
        }
    }

    #[test]
    fn rows_come_as_they_are_in_the_segment() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let snapshot = store.snapshot().unwrap();
        let segment = &snapshot.segments()[0].segment;
        let columns = [column::ID, column::VALUE, column::TAGS, column::STIX_TYPE];
        let rows: RoaringBitmap = [3, 4, 5, 90, 2_000, 2_001].into_iter().collect();
        let gathered = Gathered::read(segment, &rows, &columns, 1 << 20).unwrap().unwrap();
        let cases: [(&[u32], bool); 9] = [
            (&[3, 4, 5], true),
            (&[4, 90, 2_000, 2_001], true),
            (&[5, 90], true),
            (&[3, 5, 2_001], true),
            (&[], true),
            (&[2, 3], false),
            (&[3, 4, 5, 6], false),
            (&[90, 91], false),
            (&[2_001, 2_002], false),
        ];
        for (asked, there) in cases {
            let ranges = row_runs(&asked.iter().copied().collect());
            for columns in [&columns[..], &columns[1..2], &columns[2..]] {
                let found = gathered.rows(&ranges, columns).unwrap();
                assert_eq!(found.is_some(), there, "{ranges:?}");
                let Some(found) = found else { continue };
                let read = segment.read(&ranges, columns, 1_024).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
                let read = concat_batches(&found.schema(), &read).unwrap();
                let shown = |batch: &RecordBatch| {
                    arrow::util::pretty::pretty_format_batches(std::slice::from_ref(batch)).unwrap().to_string()
                };
                assert_eq!(shown(&found), shown(&read), "{ranges:?}");
            }
        }
        assert!(gathered.rows(&[], &[column::SCORE]).unwrap().is_none());
    }
}
