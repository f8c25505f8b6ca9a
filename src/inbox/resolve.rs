//! What becomes of each object that is put into an inbox, given what is there.
//!
//! An object is its inbox and its STIX id. Its versions are told apart by `modified`, else `created`, and by the version of STIX it
//! is written in; an object that names no time is as new as its arrival, and there already when the same content is. What is there is
//! not written again; the newest version is live, an older one that comes late goes into the history.

use std::collections::HashMap;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimestampMicrosecondType};

use crate::feed::api::Versions;
use crate::ingest::inbox_key;
use crate::model::ids::split_stix_id;
use crate::model::schema::column as c;
use crate::model::time::Timestamp;
use crate::store::{NewRows, Snapshot, StoreError};

/// What to write of some rows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Resolved {
    /// Those to write, in order.
    pub(super) written: Vec<u32>,
    /// Those of them, by position in `written`, that are born superseded.
    pub(super) stale: Vec<u32>,
    /// Rows of the snapshot that are replaced: segment, row.
    pub(super) superseded: Vec<(usize, u32)>,
    /// For each row where its version is.
    pub(super) kept: Vec<Kept>,
}

/// Where a version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// There already, of this version.
    Before(Timestamp),
    /// Among the rows written, by position.
    Now(u32),
}

/// The columns that tell objects and versions apart.
const COLUMNS: [&str; 8] =
    [c::ADDED, c::STIX_TYPE, c::ID, c::STIX_ID, c::SPEC_VERSION, c::CREATED, c::MODIFIED, c::INBOX];

/// An object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Identity<'a> {
    inbox: &'a str,
    stix_type: &'a str,
    id: &'a [u8],
    /// Where the id is not made of the two.
    whole: Option<&'a str>,
}

/// A version's rank among those of its object: what it is written in, then when it was made. An object is served in its newest STIX
/// version where nothing else is asked for (TAXII 2.1 §3.4.3), so the newest of those is the live one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_21: bool,
    made: i64,
}

#[derive(Clone, Copy, Debug)]
struct Version {
    place: Place,
    rank: Rank,
    /// Whether the object itself says when it was made.
    is_dated: bool,
    digest: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Stored(usize, u32),
    New(u32),
}

#[derive(Debug, Default)]
struct Record {
    versions: Vec<Version>,
    /// Position of the newest one.
    live: Option<usize>,
}

/// Rows by the columns above.
struct Bound {
    inbox: StringArray,
    stix_type: StringArray,
    id: FixedSizeBinaryArray,
    whole: StringArray,
    spec_version: StringArray,
    created: TimestampMicrosecondArray,
    modified: TimestampMicrosecondArray,
    /// Only of rows of the store.
    added: Option<TimestampMicrosecondArray>,
}

impl Bound {
    fn bind(batch: &RecordBatch) -> Result<Self, StoreError> {
        let named =
            |name: &str| -> Result<&ArrayRef, StoreError> { Ok(batch.column(batch.schema_ref().index_of(name)?)) };
        let text = |name| -> Result<StringArray, StoreError> {
            Ok(cast(named(name)?, &DataType::Utf8)?.as_string::<i32>().clone())
        };
        let time = |name| -> Result<TimestampMicrosecondArray, StoreError> {
            Ok(named(name)?.as_primitive::<TimestampMicrosecondType>().clone())
        };
        Ok(Bound {
            inbox: text(c::INBOX)?,
            stix_type: text(c::STIX_TYPE)?,
            id: named(c::ID)?.as_fixed_size_binary().clone(),
            whole: text(c::STIX_ID)?,
            spec_version: text(c::SPEC_VERSION)?,
            created: time(c::CREATED)?,
            modified: time(c::MODIFIED)?,
            added: batch.column_by_name(c::ADDED).map(|_| time(c::ADDED)).transpose()?,
        })
    }

    fn rows(&self) -> usize {
        self.id.len()
    }

    /// `None`: the row is in no inbox.
    fn identity(&self, row: usize) -> Option<Identity<'_>> {
        Some(Identity {
            inbox: text_at(&self.inbox, row)?,
            stix_type: text_at(&self.stix_type, row)?,
            id: self.id.value(row),
            whole: text_at(&self.whole, row),
        })
    }

    /// When the object says its version was made.
    fn made(&self, row: usize) -> Option<i64> {
        let valid = |times: &TimestampMicrosecondArray| times.is_valid(row).then(|| times.value(row));
        valid(&self.modified).or_else(|| valid(&self.created))
    }

    fn is_21(&self, row: usize) -> bool {
        text_at(&self.spec_version, row) != Some("2.0")
    }

    fn added(&self, row: usize) -> i64 {
        self.added.as_ref().map_or(0, |added| added.value(row))
    }
}

fn text_at(texts: &StringArray, row: usize) -> Option<&str> {
    texts.is_valid(row).then(|| texts.value(row))
}

/// The version that each row names.
pub(super) fn versions(batch: &RecordBatch) -> Result<Vec<Option<Timestamp>>, StoreError> {
    let bound = Bound::bind(batch)?;
    Ok((0..bound.rows()).map(|row| bound.made(row).map(Timestamp)).collect())
}

/// What the store holds under some keys, deleted rows left out: places, digests, whether live, and the columns.
struct Stored {
    rows: Vec<(Place, u64, bool)>,
    bound: Bound,
}

impl Stored {
    /// `keys` must be sorted.
    fn find(snapshot: &Snapshot, keys: &[u64]) -> Result<Option<Self>, StoreError> {
        let mut places = Vec::new();
        let mut rows = Vec::new();
        for found in snapshot.find_keys(keys)? {
            let is_deleted =
                snapshot.segments().get(found.segment).is_some_and(|view| view.deleted.contains(found.row));
            if !is_deleted {
                places.push((found.segment, found.row));
                rows.push((Place::Stored(found.segment, found.row), found.digest, found.live));
            }
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let bound = Bound::bind(&snapshot.read_rows(&places, &COLUMNS)?)?;
        Ok(Some(Stored { rows, bound }))
    }

    /// Files the versions under their objects. Keys are hashes: the columns decide.
    fn file<'a>(&'a self, mut file: impl FnMut(Identity<'a>, Version, bool)) {
        for (row, (place, digest, live)) in self.rows.iter().enumerate().take(self.bound.rows()) {
            let Some(identity) = self.bound.identity(row) else { continue };
            let made = self.bound.made(row);
            let rank = Rank { made: made.unwrap_or_else(|| self.bound.added(row)), is_21: self.bound.is_21(row) };
            file(identity, Version { place: *place, rank, is_dated: made.is_some(), digest: *digest }, *live);
        }
    }
}

/// Decides what becomes of rows that are put into inboxes, in order, at about `now`.
pub(super) fn resolve(snapshot: &Snapshot, rows: &NewRows, now: Timestamp) -> Result<Resolved, StoreError> {
    let mut keys = rows.keys.clone();
    keys.sort_unstable();
    keys.dedup();
    let stored = Stored::find(snapshot, &keys)?;
    let bound = Bound::bind(&rows.batch)?;
    let mut records: HashMap<Identity<'_>, Record> = HashMap::with_capacity(keys.len());
    if let Some(stored) = &stored {
        stored.file(|identity, version, live| {
            let record = records.entry(identity).or_default();
            if live {
                record.live = Some(record.versions.len());
            }
            record.versions.push(version);
        });
    }
    // Later than all that was added before.
    let arrival = now.0.max(snapshot.clock().0.saturating_add(1));
    let mut resolved = Resolved::default();
    for (row, digest) in rows.digests.iter().enumerate().take(bound.rows()) {
        // All rows that come here are in an inbox; one that is not stands alone.
        let place = resolved.written.len() as u32;
        let Some(identity) = bound.identity(row) else {
            resolved.written.push(row as u32);
            resolved.kept.push(Kept::Now(place));
            continue;
        };
        let made = bound.made(row);
        let rank = Rank { made: made.unwrap_or(arrival), is_21: bound.is_21(row) };
        let record = records.entry(identity).or_default();
        let is_same = |version: &&Version| match made {
            Some(_) => version.is_dated && version.rank == rank,
            None => !version.is_dated && version.rank.is_21 == rank.is_21 && version.digest == *digest,
        };
        if let Some(same) = record.versions.iter().find(is_same) {
            resolved.kept.push(match same.place {
                Place::Stored(..) => Kept::Before(Timestamp(same.rank.made)),
                Place::New(place) => Kept::Now(place),
            });
            continue;
        }
        resolved.written.push(row as u32);
        resolved.kept.push(Kept::Now(place));
        let live = record.live.and_then(|live| record.versions.get(live));
        if live.is_some_and(|live| rank < live.rank) {
            resolved.stale.push(place);
        } else {
            match live.map(|live| live.place) {
                Some(Place::Stored(segment, row)) => resolved.superseded.push((segment, row)),
                Some(Place::New(place)) => resolved.stale.push(place),
                None => {}
            }
            record.live = Some(record.versions.len());
        }
        record.versions.push(Version { place: Place::New(place), rank, is_dated: made.is_some(), digest: *digest });
    }
    Ok(resolved)
}

/// What to delete, and what comes to the front instead.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) deleted: Vec<(usize, u32)>,
    pub(super) revived: Option<(usize, u32)>,
}

/// Why there is nothing to delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    Object,
    Version,
}

/// The deletions of one commit, in order: each sees what those before it left.
#[derive(Debug, Default)]
pub(super) struct Deletions {
    gone: Vec<(usize, u32)>,
    /// What is live since, of the objects that were touched.
    revived: Vec<(usize, u32)>,
}

impl Deletions {
    /// The rows that came to the front and are still there.
    pub(super) fn revived(&self) -> impl Iterator<Item = (usize, u32)> {
        self.revived.iter().copied().filter(|place| !self.gone.contains(place))
    }

    /// The rows that go.
    pub(super) fn gone(&self) -> &[(usize, u32)] {
        &self.gone
    }

    /// Chooses the versions of an object that go.
    pub(super) fn choose(
        &mut self,
        snapshot: &Snapshot,
        inbox: &str,
        id: &str,
        wanted: &Versions,
        spec_versions: &[String],
    ) -> Result<Result<Gone, Absent>, StoreError> {
        let Some(stored) = Stored::find(snapshot, &[inbox_key(inbox, id)])? else { return Ok(Err(Absent::Object)) };
        let split = split_stix_id(id);
        let mut versions: Vec<(Rank, (usize, u32), bool)> = Vec::new();
        stored.file(|identity, version, live| {
            let is_it = match (split, identity.whole) {
                (_, Some(whole)) => whole == id,
                (Some((stix_type, uuid)), None) => identity.stix_type == stix_type && identity.id == uuid,
                (None, None) => false,
            };
            if let Place::Stored(segment, row) = version.place
                && is_it
                && identity.inbox == inbox
                && !self.gone.contains(&(segment, row))
            {
                versions.push((version.rank, (segment, row), live || self.revived.contains(&(segment, row))));
            }
        });
        if versions.is_empty() {
            return Ok(Err(Absent::Object));
        }
        versions.sort_unstable();
        // As in answers, only the newest STIX version of an object is meant where none is named; all of it is all of it.
        let newest_form = versions.last().is_some_and(|(rank, ..)| rank.is_21);
        let in_spec = |is_21: bool| match spec_versions {
            [] => *wanted == Versions::All || is_21 == newest_form,
            named => named.iter().any(|asked| asked == if is_21 { "2.1" } else { "2.0" }),
        };
        let asked: Vec<_> = versions.iter().filter(|(rank, ..)| in_spec(rank.is_21)).copied().collect();
        let newest = asked.len().saturating_sub(1);
        let goes = |at: usize, rank: Rank| match wanted {
            Versions::All => true,
            Versions::Last => at == newest,
            Versions::Some { first, last, exact } => {
                (*first && at == 0) || (*last && at == newest) || exact.contains(&Timestamp(rank.made))
            }
        };
        let deleted: Vec<_> = asked
            .iter()
            .enumerate()
            .filter(|(at, (rank, ..))| goes(*at, *rank))
            .map(|(_, (_, place, _))| *place)
            .collect();
        if deleted.is_empty() {
            return Ok(Err(Absent::Version));
        }
        let live_goes = versions.iter().any(|(_, place, live)| *live && deleted.contains(place));
        let left = versions.iter().rev().find(|(_, place, _)| !deleted.contains(place));
        let revived = left.filter(|_| live_goes).map(|(_, place, _)| *place);
        self.gone.extend(&deleted);
        self.revived.extend(revived);
        Ok(Ok(Gone { deleted, revived }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ingest::{DecodeOptions, decode_posted, unpack_posted};
    use crate::store::{Store, StoreOptions};

    const UUID: &str = "0f9a5f1c-3f2b-4bb4-9d0e-4d6a1f0c9a11";

    fn store() -> Store {
        Store::on_object_store(Arc::new(object_store::memory::InMemory::new()), StoreOptions::default()).unwrap()
    }

    /// `a@3` is version 3 of the object `a` in the box `x`, `a@3/2.1` of STIX 2.1, `y:a@3` in the box `y`; `a=1` is unversioned.
    fn rows(store: &Store, names: &str) -> NewRows {
        let parts = names.split_whitespace().map(|name| {
            let (inbox, name) = name.split_once(':').unwrap_or(("x", name));
            let (name, spec) = name.split_once('/').unwrap_or((name, "2.0"));
            let object = match (name.split_once('@'), name.split_once('=')) {
                (Some((id, version)), _) => (id, format!(r#""modified":"2024-01-{version:0>2}T00:00:00Z""#)),
                (None, Some((id, content))) => (id, format!(r#""content":{content}"#)),
                _ => panic!("`{name}`"),
            };
            let text = format!(
                r#"{{"objects":[{{"type":"x-{0}","id":"x-{0}--{UUID}",{1},"spec_version":"{spec}"}}]}}"#,
                object.0, object.1
            );
            let options =
                DecodeOptions { inbox: Some(inbox.to_owned()), ..DecodeOptions::new(Arc::clone(store.ids())) };
            let pieces = unpack_posted(&text, false).unwrap();
            let posted = decode_posted(&text, &pieces, &options, false, 1 << 20).unwrap();
            assert_eq!(posted.objects[0].refused, None, "{name}");
            NewRows { batch: posted.rows.batch, keys: posted.rows.keys, digests: posted.rows.digests }
        });
        crate::store::joined(&parts.collect::<Vec<_>>()).unwrap()
    }

    fn put(store: &Store, names: &str) -> Resolved {
        let rows = rows(store, names);
        let mut writer = store.writer().unwrap();
        let resolved = resolve(writer.snapshot(), &rows, store.now()).unwrap();
        let picked = arrow::array::UInt32Array::from(resolved.written.clone());
        let rows = NewRows {
            batch: arrow::compute::take_record_batch(&rows.batch, &picked).unwrap(),
            keys: resolved.written.iter().map(|row| rows.keys[*row as usize]).collect(),
            digests: resolved.written.iter().map(|row| rows.digests[*row as usize]).collect(),
        };
        resolved.superseded.iter().for_each(|(segment, row)| writer.supersede(*segment, *row));
        writer.append(rows, &resolved.stale).unwrap();
        writer.publish().unwrap();
        resolved
    }

    /// Live versions by day of the month, of all objects in the order of the log.
    fn live(store: &Store) -> Vec<(String, i64)> {
        let snapshot = store.snapshot().unwrap();
        let mut all = Vec::new();
        for (segment, view) in snapshot.segments().iter().enumerate() {
            for row in (0..view.segment.rows()).filter(|row| !view.superseded.contains(*row)) {
                let batch = snapshot.read_rows(&[(segment, row)], &COLUMNS).unwrap();
                let bound = Bound::bind(&batch).unwrap();
                let day = bound.made(0).map_or(0, |made| made / 86_400_000_000 - 19_723 + 1);
                all.push((bound.identity(0).unwrap().stix_type.to_owned(), day));
            }
        }
        all
    }

    /// What is there, what comes, which of it is written, which of that is stale, and what is live afterwards.
    #[test]
    fn each_version_is_kept_once_and_the_newest_is_live() {
        let cases: [(&str, &str, &[u32], &[u32], &[(&str, i64)]); 14] = [
            ("", "a@1 b@1", &[0, 1], &[], &[("x-a", 1), ("x-b", 1)]),
            ("a@1", "a@1", &[], &[], &[("x-a", 1)]),
            ("a@1", "a@2", &[0], &[], &[("x-a", 2)]),
            ("a@2", "a@1", &[0], &[0], &[("x-a", 2)]),
            ("a@2", "a@1 a@3 a@2", &[0, 1], &[0], &[("x-a", 3)]),
            ("", "a@1 a@3 a@2 a@1", &[0, 1, 2], &[0, 2], &[("x-a", 3)]),
            ("a@1 a@2", "a@1 a@2", &[], &[], &[("x-a", 2)]),
            ("a@1", "a@1/2.1", &[0], &[], &[("x-a", 1)]),
            ("a@1/2.1", "a@1", &[0], &[0], &[("x-a", 1)]),
            ("a@1", "y:a@1", &[0], &[], &[("x-a", 1), ("x-a", 1)]),
            ("a=1", "a=1 a=2", &[1], &[], &[("x-a", 0)]),
            ("a=1 a=2", "a=1", &[], &[], &[("x-a", 0)]),
            ("a=1", "a=2 a=2", &[0], &[], &[("x-a", 0)]),
            ("a=1", "a@3", &[0], &[0], &[("x-a", 0)]),
        ];
        for (before, names, written, stale, expected) in cases {
            let store = store();
            if !before.is_empty() {
                put(&store, before);
            }
            let resolved = put(&store, names);
            let name = format!("{before} then {names}");
            let mut found_stale = resolved.stale.clone();
            found_stale.sort_unstable();
            assert_eq!((resolved.written.as_slice(), found_stale.as_slice()), (written, stale), "{name}");
            assert_eq!(resolved.kept.len(), names.split_whitespace().count(), "{name}");
            let live = live(&store);
            let live: Vec<(&str, i64)> = live.iter().map(|(id, day)| (id.as_str(), *day)).collect();
            assert_eq!(live, expected, "{name}");
            assert!(put(&store, names).written.is_empty(), "{name}, once more");
        }
    }

    #[test]
    fn equal_keys_of_different_objects_are_told_apart() {
        let store = store();
        let mut both = rows(&store, "a@1 b@1");
        both.keys = vec![7, 7];
        let mut writer = store.writer().unwrap();
        let resolved = resolve(writer.snapshot(), &both, store.now()).unwrap();
        assert_eq!(resolved.written, [0, 1]);
        assert!(resolved.stale.is_empty());
        writer.append(both, &[]).unwrap();
        writer.publish().unwrap();
        let mut third = rows(&store, "c@1");
        third.keys = vec![7];
        let resolved = resolve(&store.snapshot().unwrap(), &third, store.now()).unwrap();
        assert_eq!((resolved.written.as_slice(), resolved.superseded.as_slice()), (&[0][..], &[][..]));
    }

    /// What is there, what is asked for, and what is live afterwards (`None`: nothing of it); the error where there is one.
    #[test]
    fn deletions_bring_the_version_before_to_the_front() {
        let day = |day: u8| Timestamp::parse(&format!("2024-01-{day:0>2}")).unwrap();
        let some = |first, last, exact: &[u8]| Versions::Some {
            first,
            last,
            exact: exact.iter().map(|number| day(*number)).collect(),
        };
        type Expected = Result<Option<i64>, Absent>;
        let cases: Vec<(&str, Versions, &[&str], Expected)> = vec![
            ("a@1 a@2 a@3", Versions::Last, &[], Ok(Some(2))),
            ("a@3 a@1 a@2", Versions::Last, &[], Ok(Some(2))),
            ("a@1", Versions::Last, &[], Ok(None)),
            ("a@1 a@2 a@3", Versions::All, &[], Ok(None)),
            ("a@1 a@2 a@3", some(true, false, &[]), &[], Ok(Some(3))),
            ("a@1 a@2 a@3", some(false, false, &[2]), &[], Ok(Some(3))),
            ("a@1 a@2 a@3", some(false, false, &[2, 3]), &[], Ok(Some(1))),
            ("a@1 a@2 a@3", some(true, true, &[]), &[], Ok(Some(2))),
            ("a@1 a@2", some(false, false, &[7]), &[], Err(Absent::Version)),
            ("a@1 a@2/2.1", Versions::Last, &["2.0"], Ok(Some(2))),
            ("a@1 a@2/2.1", Versions::Last, &["2.1"], Ok(Some(1))),
            ("a@1 a@2/2.1", Versions::All, &["2.1"], Ok(Some(1))),
            ("a@1", Versions::All, &["2.1"], Err(Absent::Version)),
            ("b@1", Versions::All, &[], Err(Absent::Object)),
            ("y:a@1", Versions::All, &[], Err(Absent::Object)),
            ("a=1 a=2", Versions::Last, &[], Ok(Some(0))),
        ];
        for (before, versions, spec, expected) in cases {
            let store = store();
            before.split(' ').for_each(|one| drop(put(&store, one)));
            let mut writer = store.writer().unwrap();
            let snapshot = Arc::clone(writer.snapshot());
            let spec: Vec<String> = spec.iter().map(|one| (*one).to_owned()).collect();
            let id = format!("x-a--{UUID}");
            let mut deletions = Deletions::default();
            let chosen = deletions.choose(&snapshot, "x", &id, &versions, &spec).unwrap();
            deletions.gone().iter().for_each(|(segment, row)| writer.delete(*segment, *row));
            deletions.revived().for_each(|(segment, row)| writer.revive(segment, row));
            writer.publish().unwrap();
            let name = format!("{before} {versions:?} {spec:?}");
            match expected {
                Err(absent) => assert_eq!(chosen, Err(absent), "{name}"),
                Ok(day) => {
                    assert!(chosen.is_ok(), "{name}: {chosen:?}");
                    let live = live(&store);
                    assert_eq!(live.iter().map(|(_, day)| *day).collect::<Vec<_>>(), Vec::from_iter(day), "{name}");
                }
            }
        }
    }

    #[test]
    fn deletions_of_one_commit_see_each_other() {
        let store = store();
        ["a@1", "a@2", "a@3"].into_iter().for_each(|one| drop(put(&store, one)));
        let id = format!("x-a--{UUID}");
        let mut writer = store.writer().unwrap();
        let snapshot = Arc::clone(writer.snapshot());
        let mut deletions = Deletions::default();
        for expected in [true, true, true, false] {
            let chosen = deletions.choose(&snapshot, "x", &id, &Versions::Last, &[]).unwrap();
            assert_eq!(chosen.is_ok(), expected);
        }
        assert_eq!((deletions.gone().len(), deletions.revived().count()), (3, 0));
        deletions.gone().iter().for_each(|(segment, row)| writer.delete(*segment, *row));
        writer.publish().unwrap();
        assert_eq!(live(&store), []);
        // What was deleted may come again.
        assert_eq!(put(&store, "a@2").written, [0]);
        assert_eq!(live(&store), [("x-a".to_owned(), 2)]);
    }
}
