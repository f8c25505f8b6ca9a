//! The index beside each segment: which row holds a key or an id, and the checksums that guard the segment's bytes.
//!
//! Sorted arrays, a structure each, little-endian, meant to be mapped: nothing of it has to be in memory, and it can
//! be rebuilt from the segment. Per row 20 bytes for the identity key (8 key, 8 digest of the content, 4 row) and 12 for each id.
//! Keys are 64-bit hashes: an entry is a candidate, and who needs certainty compares the row itself.
//!
//! A search interpolates first, since hashed keys are spread evenly, then narrows by halves.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use twox_hash::XxHash3_64;

use super::error::StoreError;
use super::fs::{Content, ReadAt};
use crate::model::ids;

const MAGIC: &[u8; 8] = b"TXIDX\0\0\x01";
/// Magic, three counts, three section checksums and the checksum of the header itself.
const HEADER: usize = 8 + 3 * 8 + 3 * 8 + 8;

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

/// Writes an index. `sums` guard the segment: a checksum per column chunk (row group by row group), the one of its tail, and last
/// where that tail begins.
pub(crate) fn encode(mut keys: Vec<KeyEntry>, mut id_rows: Vec<(u64, u32)>, sums: &[u64]) -> Vec<u8> {
    keys.sort_unstable();
    id_rows.sort_unstable();
    id_rows.dedup();
    let mut key_section = Vec::with_capacity(keys.len() * 20);
    keys.iter().for_each(|entry| key_section.extend_from_slice(&entry.key.to_le_bytes()));
    keys.iter().for_each(|entry| key_section.extend_from_slice(&entry.digest.to_le_bytes()));
    keys.iter().for_each(|entry| key_section.extend_from_slice(&entry.row.to_le_bytes()));
    let mut id_section = Vec::with_capacity(id_rows.len() * 12);
    id_rows.iter().for_each(|(id, _)| id_section.extend_from_slice(&id.to_le_bytes()));
    id_rows.iter().for_each(|(_, row)| id_section.extend_from_slice(&row.to_le_bytes()));
    let sum_section: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();

    let mut out = Vec::with_capacity(HEADER + sum_section.len() + key_section.len() + id_section.len());
    out.extend_from_slice(MAGIC);
    for count in [sums.len(), keys.len(), id_rows.len()] {
        out.extend_from_slice(&(count as u64).to_le_bytes());
    }
    for section in [&sum_section, &key_section, &id_section] {
        out.extend_from_slice(&XxHash3_64::oneshot(section).to_le_bytes());
    }
    let header_sum = XxHash3_64::oneshot(&out);
    out.extend_from_slice(&header_sum.to_le_bytes());
    out.extend_from_slice(&sum_section);
    out.extend_from_slice(&key_section);
    out.extend_from_slice(&id_section);
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
    section_sums: [u64; 3],
    keys_verified: OnceLock<bool>,
    ids_verified: OnceLock<bool>,
}

impl SegmentIndex {
    /// Opens and checks header and checksum table; the large sections are checked when first used.
    pub(crate) fn open(file: &Arc<dyn ReadAt>, path: String) -> Result<Self, StoreError> {
        let content = file.whole().map_err(StoreError::io("read", &path))?;
        let damaged = |detail: &str| StoreError::damaged(&path, detail);
        if content.len() < HEADER || &content[..8] != MAGIC {
            return Err(damaged("it is no segment index"));
        }
        if XxHash3_64::oneshot(&content[..HEADER - 8]) != word(&content, HEADER - 8) {
            return Err(damaged("the checksum of its header does not fit"));
        }
        let [sum_count, key_count, id_count] = [8, 16, 24].map(|at| word(&content, at) as usize);
        let section_sums = [32, 40, 48].map(|at| word(&content, at));
        let sums = HEADER..HEADER.saturating_add(sum_count.saturating_mul(8));
        let keys = sums.end..sums.end.saturating_add(key_count.saturating_mul(20));
        let ids = keys.end..keys.end.saturating_add(id_count.saturating_mul(12));
        if ids.end != content.len() {
            return Err(damaged("its length does not fit its header"));
        }
        if XxHash3_64::oneshot(&content[sums.clone()]) != section_sums[0] {
            return Err(damaged("the checksum of its checksum table does not fit"));
        }
        Ok(SegmentIndex {
            content,
            path,
            sums,
            keys,
            ids,
            section_sums,
            keys_verified: OnceLock::new(),
            ids_verified: OnceLock::new(),
        })
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
        let array = self.id_array()?;
        let mut at = array.lower_bound(id, 0);
        let mut rows = Vec::new();
        while at < array.count && array.key(at) == id {
            let offset = self.ids.start + array.count * 8 + at * 4;
            rows.push(u32::from_le_bytes(self.content[offset..offset + 4].try_into().unwrap_or_default()));
            at += 1;
        }
        Ok(rows)
    }

    /// Candidate rows of each id: calls `found(position in ids, row)`. `ids` must be sorted.
    pub(crate) fn find_ids(&self, ids: &[u64], mut found: impl FnMut(usize, u32)) -> Result<(), StoreError> {
        let array = self.id_array()?;
        let mut from = 0;
        for (position, id) in ids.iter().enumerate() {
            from = array.lower_bound(*id, from);
            let mut at = from;
            while at < array.count && array.key(at) == *id {
                let offset = self.ids.start + array.count * 8 + at * 4;
                found(position, u32::from_le_bytes(self.content[offset..offset + 4].try_into().unwrap_or_default()));
                at += 1;
            }
            if from >= array.count {
                break;
            }
        }
        Ok(())
    }

    /// Checks every section.
    pub(crate) fn verify(&self) -> Result<(), StoreError> {
        let keys = self.key_array()?;
        let ids = self.id_array()?;
        for (array, what) in [(keys, "key"), (ids, "id")] {
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

    /// First position at or after `from` whose key is not below `key`.
    fn lower_bound(&self, key: u64, from: usize) -> usize {
        let (mut low, mut high) = (from, self.count);
        // Where evenly spread keys would put it; a window around the guess replaces most of the halving.
        let guess = ((u128::from(key) * self.count as u128) >> 64) as usize;
        for reach in [64, 4_096] {
            let (left, right) = (guess.saturating_sub(reach).max(low), (guess + reach).min(high));
            if left >= right {
                break;
            }
            let left_fits = left == low || self.key(left - 1) < key;
            let right_fits = right == high || self.key(right) >= key;
            if left_fits && right_fits {
                (low, high) = (left, right);
                break;
            }
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
            let index = open(encode(entries.clone(), id_rows, &[1, 2, 3])).unwrap();
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
            proptest::prop_assert_eq!(found, expected);
            for key in &sorted {
                let mut rows = index.find_id(*key).unwrap();
                rows.sort_unstable();
                let expected: Vec<u32> = (0..stored.len() as u32).filter(|row| stored[*row as usize] == *key).collect();
                proptest::prop_assert_eq!(rows, expected);
            }
        }
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let entries = (0..50u64).map(|n| KeyEntry { key: n * 1_000_003, row: n as u32, digest: n }).collect();
        let good = encode(entries, (0..50).map(|n| (n * 77, n as u32)).collect(), &[9, 8]);
        assert!(open(good.clone()).unwrap().verify().is_ok());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(open(bad).and_then(|index| index.verify()).is_err(), "byte {at}");
        }
    }
}
