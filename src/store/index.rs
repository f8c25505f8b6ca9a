//! The index beside each segment: which row holds a key or an id, and the checksums that guard the segment's bytes.
//!
//! Sorted arrays, a structure each, little-endian, meant to be mapped: nothing of it has to be in memory, and it can
//! be rebuilt from the segment. Per row 20 bytes for the identity key (8 key, 8 digest of the content, 4 row), 12 for each id, and 12
//! for each end of an edge. Indexes of the first version know no ends; they are read as well.
//! Keys are 64-bit hashes: an entry is a candidate, and who needs certainty compares the row itself.
//!
//! A search interpolates first, since hashed keys are spread evenly, then narrows by halves.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use rayon::slice::ParallelSliceMut;
use twox_hash::XxHash3_64;

use super::error::StoreError;
use super::fs::{Content, ReadAt};
use crate::model::ids;

const MAGIC: &[u8; 8] = b"TXIDX\0\0\x02";
/// The first version, which files no ends.
const MAGIC_1: &[u8; 8] = b"TXIDX\0\0\x01";

/// Length of the header: magic, a count and a checksum for each section, and the checksum of the header itself.
const fn header(sections: usize) -> usize {
    8 + sections * 8 + sections * 8 + 8
}

/// Hash of a STIX id as the index files it: the leading half of the UUID where the id has the usual form, else a hash of the text.
pub(crate) fn id_key(stix_id: &str) -> u64 {
    match ids::split_stix_id(stix_id) {
        Some((_, uuid)) => uuid_key(&uuid),
        None => XxHash3_64::oneshot(stix_id.as_bytes()),
    }
}

/// As [`id_key`], for a UUID at hand.
pub(crate) fn uuid_key(uuid: &[u8; 16]) -> u64 {
    let mut half = [0; 8];
    half.copy_from_slice(&uuid[..8]);
    u64::from_be_bytes(half)
}

/// One identity: key, digest of the content, row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyEntry {
    pub(crate) key: u64,
    pub(crate) row: u32,
    pub(crate) digest: u64,
}

/// The sections of an index of fewer rows are made one after the other.
const ROWS_AT_ONCE: usize = 16_384;

/// Writes an index. `id_rows` and `end_rows` are what rows are found by: their own ids, and the ends of edges. `sums` guard the segment:
/// a checksum per column chunk (row group by row group), the one of its tail, and last where that tail begins.
pub(crate) fn encode(
    keys: Vec<KeyEntry>,
    id_rows: Vec<(u64, u32)>,
    end_rows: Vec<(u64, u32)>,
    sums: &[u64],
) -> Vec<u8> {
    let key_section = |mut keys: Vec<KeyEntry>| {
        keys.par_sort_unstable();
        let mut section = Vec::with_capacity(keys.len() * 20);
        keys.iter().for_each(|entry| section.extend_from_slice(&entry.key.to_le_bytes()));
        keys.iter().for_each(|entry| section.extend_from_slice(&entry.digest.to_le_bytes()));
        keys.iter().for_each(|entry| section.extend_from_slice(&entry.row.to_le_bytes()));
        (keys.len(), section)
    };
    let is_short = keys.len() < ROWS_AT_ONCE;
    let row_sections = || (rows_section(id_rows), rows_section(end_rows));
    let ((keys, key_section), ((ids, id_section), (ends, end_section))) = match is_short {
        true => (key_section(keys), row_sections()),
        false => rayon::join(|| key_section(keys), row_sections),
    };
    let sum_section: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
    assemble(MAGIC, &[(sums.len(), &sum_section), (keys, &key_section), (ids, &id_section), (ends, &end_section)])
}

/// As the first version wrote it.
#[cfg(test)]
pub(crate) fn without_ends(index: &SegmentIndex) -> Vec<u8> {
    let section = |range: &Range<usize>| index.content[range.clone()].to_vec();
    let [sums, keys, ids] = [section(&index.sums), section(&index.keys), section(&index.ids)];
    assemble(MAGIC_1, &[(sums.len() / 8, &sums), (keys.len() / 20, &keys), (ids.len() / 12, &ids)])
}

/// Sorted keys, then their rows.
fn rows_section(mut rows: Vec<(u64, u32)>) -> (usize, Vec<u8>) {
    rows.par_sort_unstable();
    rows.dedup();
    let mut section = Vec::with_capacity(rows.len() * 12);
    rows.iter().for_each(|(key, _)| section.extend_from_slice(&key.to_le_bytes()));
    rows.iter().for_each(|(_, row)| section.extend_from_slice(&row.to_le_bytes()));
    (rows.len(), section)
}

fn assemble(magic: &[u8; 8], sections: &[(usize, &Vec<u8>)]) -> Vec<u8> {
    let length: usize = sections.iter().map(|(_, section)| section.len()).sum();
    let mut out = Vec::with_capacity(header(sections.len()) + length);
    out.extend_from_slice(magic);
    for (count, _) in sections {
        out.extend_from_slice(&(*count as u64).to_le_bytes());
    }
    for (_, section) in sections {
        out.extend_from_slice(&XxHash3_64::oneshot(section).to_le_bytes());
    }
    let header_sum = XxHash3_64::oneshot(&out);
    out.extend_from_slice(&header_sum.to_le_bytes());
    sections.iter().for_each(|(_, section)| out.extend_from_slice(section));
    out
}

/// An opened index.
#[derive(Debug)]
pub(crate) struct SegmentIndex {
    content: Content,
    path: String,
    sums: Range<usize>,
    keys: Range<usize>,
    ids: Range<usize>,
    /// `None`: written by the first version.
    ends: Option<Range<usize>>,
    section_sums: [u64; 4],
    keys_verified: OnceLock<bool>,
    ids_verified: OnceLock<bool>,
    ends_verified: OnceLock<bool>,
}

impl SegmentIndex {
    /// Opens and checks header and checksum table; the large sections are checked when first used.
    pub(crate) fn open(file: &Arc<dyn ReadAt>, path: String) -> Result<Self, StoreError> {
        let content = file.whole().map_err(StoreError::io("read", &path))?;
        let damaged = |detail: &str| StoreError::damaged(&path, detail);
        let sections = match content.get(..8) {
            Some(magic) if magic == MAGIC => 4,
            Some(magic) if magic == MAGIC_1 => 3,
            _ => return Err(damaged("it is no segment index")),
        };
        let header = header(sections);
        if content.len() < header {
            return Err(damaged("it is no segment index"));
        }
        if XxHash3_64::oneshot(&content[..header - 8]) != word(&content, header - 8) {
            return Err(damaged("the checksum of its header does not fit"));
        }
        let mut section_sums = [0; 4];
        let mut ranges = [const { 0..0 }; 4];
        let mut end = header;
        for (section, width) in [8usize, 20, 12, 12].into_iter().enumerate().take(sections) {
            let count = word(&content, 8 + section * 8) as usize;
            section_sums[section] = word(&content, 8 + (sections + section) * 8);
            ranges[section] = end..end.saturating_add(count.saturating_mul(width));
            end = ranges[section].end;
        }
        if end != content.len() {
            return Err(damaged("its length does not fit its header"));
        }
        let [sums, keys, ids, ends] = ranges;
        if XxHash3_64::oneshot(&content[sums.clone()]) != section_sums[0] {
            return Err(damaged("the checksum of its checksum table does not fit"));
        }
        Ok(SegmentIndex {
            content,
            path,
            sums,
            keys,
            ids,
            ends: (sections == 4).then_some(ends),
            section_sums,
            keys_verified: OnceLock::new(),
            ids_verified: OnceLock::new(),
            ends_verified: OnceLock::new(),
        })
    }

    /// The whole file.
    pub(crate) fn whole(&self) -> &[u8] {
        &self.content
    }

    /// Checksums of the segment's column chunks and of its tail, then where that tail begins.
    pub(crate) fn sums(&self) -> Vec<u64> {
        self.content[self.sums.clone()].chunks_exact(8).map(|bytes| word(bytes, 0)).collect()
    }

    /// Number of identity entries: one a row.
    pub(crate) fn key_count(&self) -> usize {
        self.keys.len() / 20
    }

    /// Number of id entries.
    pub(crate) fn id_count(&self) -> usize {
        self.ids.len() / 12
    }

    /// Number of entries of ends; `None` in an index that files none.
    pub(crate) fn end_count(&self) -> Option<usize> {
        self.ends.as_ref().map(|ends| ends.len() / 12)
    }

    /// Candidate rows of each key: calls `found(position in keys, entry)`. `keys` must be sorted, which makes the search a merge.
    pub(crate) fn find_keys(&self, keys: &[u64], mut found: impl FnMut(usize, KeyEntry)) -> Result<(), StoreError> {
        let array = self.key_array()?;
        let mut from = 0;
        for (position, key) in keys.iter().enumerate() {
            from = array.lower_bound(*key, from);
            let mut at = from;
            while at < array.count && array.key(at) == *key {
                found(position, self.entry(at));
                at += 1;
            }
            if from >= array.count {
                break;
            }
        }
        Ok(())
    }

    /// Every identity entry, in key order.
    pub(crate) fn entries(&self) -> Result<impl Iterator<Item = KeyEntry> + '_, StoreError> {
        let array = self.key_array()?;
        Ok((0..array.count).map(|at| self.entry(at)))
    }

    /// Candidate rows of a STIX id.
    pub(crate) fn find_id(&self, id: u64) -> Result<Vec<u32>, StoreError> {
        let mut rows = Vec::new();
        self.find_ids(&[id], |_, row| rows.push(row))?;
        Ok(rows)
    }

    /// Candidate rows of each id: calls `found(position in ids, row)`. `ids` must be sorted.
    pub(crate) fn find_ids(&self, ids: &[u64], found: impl FnMut(usize, u32)) -> Result<(), StoreError> {
        self.id_array()?.join(ids, found);
        Ok(())
    }

    /// Candidate edges of each end: calls `found(position in ends, row)`. `ends` must be sorted. `false`: no ends are filed here.
    pub(crate) fn find_ends(&self, ends: &[u64], found: impl FnMut(usize, u32)) -> Result<bool, StoreError> {
        let Some(array) = self.end_array()? else { return Ok(false) };
        array.join(ends, found);
        Ok(true)
    }

    /// Every key by which a row is found: identities and ids, in no order.
    pub(crate) fn all_keys(&self) -> Result<impl Iterator<Item = u64> + '_, StoreError> {
        let (keys, ids) = (self.key_array()?, self.id_array()?);
        Ok((0..keys.count).map(move |at| keys.key(at)).chain((0..ids.count).map(move |at| ids.key(at))))
    }

    /// Every end with its edge, in the order of ends.
    pub(crate) fn ends(&self) -> Result<impl Iterator<Item = (u64, u32)> + '_, StoreError> {
        let array = self.end_array()?;
        Ok(array.into_iter().flat_map(|array| (0..array.count).map(move |at| (array.key(at), array.row(at)))))
    }

    /// Checks every section.
    pub(crate) fn verify(&self) -> Result<(), StoreError> {
        let sections = [(Some(self.key_array()?), "key"), (Some(self.id_array()?), "id"), (self.end_array()?, "end")];
        for (array, what) in sections {
            let Some(array) = array else { continue };
            if (1..array.count).any(|at| array.key(at - 1) > array.key(at)) {
                return Err(StoreError::damaged(&self.path, format!("its {what} section is not sorted")));
            }
        }
        Ok(())
    }

    fn entry(&self, at: usize) -> KeyEntry {
        let count = self.key_count();
        let key = word(&self.content, self.keys.start + at * 8);
        let digest = word(&self.content, self.keys.start + count * 8 + at * 8);
        let offset = self.keys.start + count * 16 + at * 4;
        let row = u32::from_le_bytes(self.content[offset..offset + 4].try_into().unwrap_or_default());
        KeyEntry { key, row, digest }
    }

    fn key_array(&self) -> Result<SortedWords<'_>, StoreError> {
        self.checked(&self.keys_verified, self.keys.clone(), self.section_sums[1], "key")?;
        Ok(SortedWords { bytes: &self.content[self.keys.clone()], count: self.key_count() })
    }

    fn id_array(&self) -> Result<SortedWords<'_>, StoreError> {
        self.checked(&self.ids_verified, self.ids.clone(), self.section_sums[2], "id")?;
        Ok(SortedWords { bytes: &self.content[self.ids.clone()], count: self.id_count() })
    }

    fn end_array(&self) -> Result<Option<SortedWords<'_>>, StoreError> {
        let Some(ends) = &self.ends else { return Ok(None) };
        self.checked(&self.ends_verified, ends.clone(), self.section_sums[3], "end")?;
        Ok(Some(SortedWords { bytes: &self.content[ends.clone()], count: ends.len() / 12 }))
    }

    fn checked(&self, verified: &OnceLock<bool>, range: Range<usize>, sum: u64, what: &str) -> Result<(), StoreError> {
        match verified.get_or_init(|| XxHash3_64::oneshot(&self.content[range]) == sum) {
            true => Ok(()),
            false => Err(StoreError::damaged(&self.path, format!("the checksum of its {what} section does not fit"))),
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[derive(Clone, Copy)]
struct SortedWords<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl SortedWords<'_> {
    fn key(&self, at: usize) -> u64 {
        word(self.bytes, at * 8)
    }

    /// The row of an entry, where rows follow the keys.
    fn row(&self, at: usize) -> u32 {
        let offset = self.count * 8 + at * 4;
        self.bytes.get(offset..offset + 4).and_then(|row| row.try_into().ok()).map_or(0, u32::from_le_bytes)
    }

    /// Calls `found(position, row)` for every entry of the sorted `keys`, driven by whichever side is shorter.
    fn join(&self, keys: &[u64], mut found: impl FnMut(usize, u32)) {
        if self.count < keys.len() {
            for at in 0..self.count {
                let key = self.key(at);
                let first = keys.partition_point(|asked| *asked < key);
                let equal = keys.iter().enumerate().skip(first).take_while(|(_, asked)| **asked == key);
                equal.for_each(|(position, _)| found(position, self.row(at)));
            }
            return;
        }
        let mut from = 0;
        for (position, key) in keys.iter().enumerate() {
            from = self.lower_bound(*key, from);
            let mut at = from;
            while at < self.count && self.key(at) == *key {
                found(position, self.row(at));
                at += 1;
            }
            if from >= self.count {
                break;
            }
        }
    }

    /// First position at or after `from` whose key is not below `key`.
    fn lower_bound(&self, key: u64, from: usize) -> usize {
        let (mut low, mut high) = (from, self.count);
        if low >= high || self.key(low) >= key {
            return low;
        }
        // Where evenly spread keys would put it, counted from where the last search ended: so near keys are found near by, and
        // the guess is off by about the root of how far it goes.
        let distance = ((u128::from(key - self.key(low)) * self.count as u128) >> 64) as usize;
        let guess = from.saturating_add(distance).min(high);
        let mut reach = 8 + (2 << ((usize::BITS - distance.leading_zeros()) / 2));
        while reach < self.count {
            let (left, right) = (guess.saturating_sub(reach).max(low), guess.saturating_add(reach).min(high));
            let left_fits = left == low || self.key(left - 1) < key;
            let right_fits = right == high || self.key(right) >= key;
            if left_fits && right_fits {
                (low, high) = (left, right);
                break;
            }
            reach *= 8;
        }
        while low < high {
            let middle = low.midpoint(high);
            if self.key(middle) < key { low = middle + 1 } else { high = middle }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug)]
    struct Held(Vec<u8>);

    impl ReadAt for Held {
        fn read_at(&self, range: Range<u64>) -> io::Result<bytes::Bytes> {
            Ok(bytes::Bytes::copy_from_slice(&self.0[range.start as usize..range.end as usize]))
        }
        fn whole(&self) -> io::Result<Content> {
            Ok(Content::Held(self.0.clone().into()))
        }
    }

    fn open(bytes: Vec<u8>) -> Result<SegmentIndex, StoreError> {
        let file: Arc<dyn ReadAt> = Arc::new(Held(bytes));
        SegmentIndex::open(&file, "test.idx".to_owned())
    }

    proptest::proptest! {
        #[test]
        fn finds_what_a_plain_search_finds(stored in proptest::collection::vec(proptest::prop_oneof![0u64..20, proptest::num::u64::ANY], 0..300),
                                           asked in proptest::collection::vec(proptest::prop_oneof![0u64..20, proptest::num::u64::ANY], 0..50)) {
            let entries: Vec<KeyEntry> = stored.iter().enumerate()
                .map(|(row, key)| KeyEntry { key: *key, row: row as u32, digest: key ^ 7 }).collect();
            let id_rows: Vec<(u64, u32)> = stored.iter().enumerate().map(|(row, key)| (*key, row as u32)).collect();
            let index = open(encode(entries.clone(), id_rows.clone(), id_rows, &[1, 2, 3])).unwrap();
            proptest::prop_assert_eq!(index.sums(), vec![1, 2, 3]);
            let mut sorted = [asked, stored.clone()].concat();
            sorted.sort_unstable();
            let mut found = Vec::new();
            index.find_keys(&sorted, |position, entry| found.push((position, entry.row))).unwrap();
            found.sort_unstable();
            let mut expected = Vec::new();
            for (position, key) in sorted.iter().enumerate() {
                for entry in entries.iter().filter(|entry| entry.key == *key) {
                    expected.push((position, entry.row));
                }
            }
            expected.sort_unstable();
            proptest::prop_assert_eq!(&found, &expected);
            for key in &sorted {
                let mut rows = index.find_id(*key).unwrap();
                rows.sort_unstable();
                let expected: Vec<u32> = (0..stored.len() as u32).filter(|row| stored[*row as usize] == *key).collect();
                proptest::prop_assert_eq!(rows, expected);
            }
            let mut found = Vec::new();
            proptest::prop_assert!(index.find_ends(&sorted, |position, row| found.push((position, row))).unwrap());
            found.sort_unstable();
            proptest::prop_assert_eq!(&found, &expected);
            let old = open(without_ends(&index)).unwrap();
            proptest::prop_assert_eq!(old.end_count(), None);
            proptest::prop_assert!(!old.find_ends(&sorted, |_, _| unreachable!()).unwrap());
            found.clear();
            old.find_ids(&sorted, |position, row| found.push((position, row))).unwrap();
            found.sort_unstable();
            proptest::prop_assert_eq!(&found, &expected);
        }
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let entries = (0..50u64).map(|n| KeyEntry { key: n * 1_000_003, row: n as u32, digest: n }).collect();
        let rows = |step: u64| (0..50).map(|n| (n * step, n as u32)).collect();
        let newest = encode(entries, rows(77), rows(55), &[9, 8]);
        let first = without_ends(&open(newest.clone()).unwrap());
        for good in [newest, first] {
            assert!(open(good.clone()).unwrap().verify().is_ok());
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 0x10;
                assert!(open(bad).and_then(|index| index.verify()).is_err(), "byte {at}");
            }
        }
    }
}
