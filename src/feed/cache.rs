//! Slices that were rendered and packed, kept for those who ask for the same.
//!
//! A slice follows from rows of one segment and from how they are written, and neither ever changes: so what is here is right
//! for ever, and goes only when room is needed or nobody asks for it any more. A slice is kept when it is made for the second
//! time within a while: what one client reads once, on its way through everything, takes no room.

use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use twox_hash::XxHash3_64;

use crate::feed::api::{Coding, Shape};
use crate::feed::coding::Packed;
use crate::render::{RenderOptions, Rendered};

/// Slices remembered as made once.
const SEEN: usize = 1 << 16;
/// What a slice is taken to have, to size the tables.
const SLICE_BYTES: usize = 64 << 10;

/// Names a slice: equal keys, equal bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SliceKey {
    pub(crate) segment: Arc<str>,
    pub(crate) ranges: Vec<Range<u32>>,
    pub(crate) shape: Shape,
    pub(crate) coding: Coding,
    pub(crate) options: Arc<RenderOptions>,
}

/// A slice as it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    pub(crate) packed: Packed,
    pub(crate) rendered: Rendered,
}

#[derive(Clone, Debug)]
struct Bytes;

impl Weighter<SliceKey, Slice> for Bytes {
    fn weight(&self, key: &SliceKey, slice: &Slice) -> u64 {
        (slice.packed.bytes.len() + key.ranges.len() * size_of::<Range<u32>>() + 256) as u64
    }
}

/// The slices, within a budget of bytes.
#[derive(Debug)]
pub(crate) struct SliceCache {
    slices: Cache<SliceKey, Slice, Bytes>,
    /// Fingerprints of slices made lately, by the low bits of their hash: newer ones take the place of older ones.
    seen: Vec<AtomicU32>,
    budget_bytes: usize,
}

impl SliceCache {
    pub(crate) fn new(budget_bytes: usize) -> Self {
        let items = (budget_bytes / SLICE_BYTES).max(16);
        SliceCache {
            slices: Cache::with_weighter(items, budget_bytes as u64, Bytes),
            seen: (0..SEEN).map(|_| AtomicU32::new(0)).collect(),
            budget_bytes,
        }
    }

    pub(crate) fn get(&self, key: &SliceKey) -> Option<Slice> {
        if self.budget_bytes == 0 { None } else { self.slices.get(key) }
    }

    /// Whether a slice that was just made is worth keeping.
    pub(crate) fn wants(&self, key: &SliceKey) -> bool {
        if self.budget_bytes == 0 {
            return false;
        }
        let mut hasher = XxHash3_64::default();
        key.hash(&mut hasher);
        let hash = hasher.finish();
        let fingerprint = (hash >> 32) as u32;
        let place = self.seen.get(hash as usize % SEEN);
        place.is_some_and(|place| place.swap(fingerprint, Ordering::Relaxed) == fingerprint)
    }

    pub(crate) fn put(&self, key: SliceKey, slice: Slice) {
        self.slices.insert(key, slice);
    }

    #[cfg(test)]
    fn bytes(&self) -> u64 {
        self.slices.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::coding::pack;

    fn key(segment: &str, row: u32) -> SliceKey {
        SliceKey {
            segment: segment.into(),
            ranges: std::iter::once(row..row + 10).collect(),
            shape: Shape::Objects,
            coding: Coding::Identity,
            options: Arc::default(),
        }
    }

    fn slice(bytes: usize) -> Slice {
        let packed = pack(Coding::Identity, &vec![b'x'; bytes]).unwrap();
        Slice { packed, rendered: Rendered::default() }
    }

    #[test]
    fn what_is_made_twice_is_kept_within_the_budget() {
        let cache = SliceCache::new(1 << 20);
        assert!(!cache.wants(&key("a", 0)), "seen for the first time");
        assert!(cache.wants(&key("a", 0)));
        cache.put(key("a", 0), slice(1_000));
        assert_eq!(cache.get(&key("a", 0)).map(|slice| slice.packed.bytes.len()), Some(1_000));
        let gzip = SliceKey { coding: Coding::Gzip, ..key("a", 0) };
        for other in [key("b", 0), key("a", 1), SliceKey { shape: Shape::Manifest, ..key("a", 0) }, gzip] {
            assert!(cache.get(&other).is_none() && !cache.wants(&other), "{other:?}");
        }
        for row in 0..100 {
            cache.put(key("a", row), slice(100_000));
        }
        assert!(cache.bytes() <= 1 << 20, "{}", cache.bytes());
        assert!(cache.bytes() > 500_000, "{}", cache.bytes());
    }

    #[test]
    fn without_a_budget_nothing_is_kept() {
        let cache = SliceCache::new(0);
        assert!(!cache.wants(&key("a", 0)) && !cache.wants(&key("a", 0)));
        assert!(cache.get(&key("a", 0)).is_none());
    }
}
