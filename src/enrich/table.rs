//! Keys to rows: what is kept in memory of the indicators, and how it is searched.
//!
//! ```text
//! filter       every key of all segments, 10 bits each: a text that is no indicator is told so by one cache line
//! part         one a segment: sorted keys, the rows they are of, and where each run of leading bits begins; 13 bytes a key
//! reach        where networks of IPv4 lie, roughly
//! networks     keys as well, of address bits and length: an address asks for each length that occurs, longest first
//! ```
//! A part never changes, as its segment does not. A new version of the store keeps the parts it has and adds those it lacks; only the
//! filter is copied. Keys are hashes, so what is found here is a candidate, to be compared with the row itself.

use std::net::IpAddr;
use std::sync::Arc;

use crate::enrich::value::{Key, Kind};

/// Keys that share their leading bits, on average.
const KEYS_A_RUN: usize = 4;

/// The keys of one segment.
#[derive(Debug, Default)]
pub(crate) struct Table {
    keys: Vec<u64>,
    rows: Vec<u32>,
    /// Where the keys begin that have so many as their leading bits.
    starts: Vec<u32>,
    /// Bits behind the leading ones.
    shift: u32,
}

impl Table {
    /// From pairs in any order.
    fn new(mut pairs: Vec<(u64, u32)>, sort: fn(&mut [(u64, u32)])) -> Self {
        sort(&mut pairs);
        pairs.dedup();
        let bits = (pairs.len() / KEYS_A_RUN).checked_ilog2().unwrap_or(0);
        let shift = 64 - bits;
        let mut starts = Vec::with_capacity((1 << bits) + 1);
        for (at, (key, _)) in pairs.iter().enumerate() {
            let run = leading(*key, shift);
            while starts.len() <= run {
                starts.push(at as u32);
            }
        }
        starts.resize((1 << bits) + 1, pairs.len() as u32);
        let rows = pairs.iter().map(|(_, row)| *row).collect();
        let keys = pairs.into_iter().map(|(key, _)| key).collect();
        Table { keys, rows, starts, shift }
    }

    /// The rows of a key.
    pub(crate) fn find(&self, key: u64) -> impl Iterator<Item = u32> + '_ {
        let run = leading(key, self.shift);
        let start = self.starts.get(run).map_or(0, |start| *start as usize);
        let end = self.starts.get(run + 1).map_or(0, |end| *end as usize);
        let pairs =
            self.keys.get(start..end).unwrap_or_default().iter().zip(self.rows.get(start..end).unwrap_or_default());
        pairs.skip_while(move |(own, _)| **own < key).take_while(move |(own, _)| **own == key).map(|(_, row)| *row)
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    fn bytes(&self) -> usize {
        self.keys.capacity() * 8 + self.rows.capacity() * 4 + self.starts.capacity() * 4
    }
}

fn leading(key: u64, shift: u32) -> usize {
    key.checked_shr(shift).unwrap_or(0) as usize
}

/// Lengths of networks, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lengths {
    pub(crate) v4: u64,
    pub(crate) v6: u128,
}

impl Lengths {
    fn add(&mut self, is_v4: bool, length: u8) {
        if is_v4 {
            self.v4 |= 1u64.checked_shl(length.into()).unwrap_or(0);
        } else {
            self.v6 |= 1u128.checked_shl(length.into()).unwrap_or(0);
        }
    }

    fn union(self, other: Self) -> Self {
        Lengths { v4: self.v4 | other.v4, v6: self.v6 | other.v6 }
    }

    /// The lengths up to `most`, longest first.
    pub(crate) fn descending(self, is_v4: bool, most: u8) -> impl Iterator<Item = u8> {
        let mut left = if is_v4 { u128::from(self.v4) } else { self.v6 };
        left &= u128::MAX.checked_shr(127 - u32::from(most.min(127))).unwrap_or(0);
        std::iter::from_fn(move || {
            let length = left.checked_ilog2()?;
            left ^= 1 << length;
            Some(length as u8)
        })
    }
}

/// Leading bits of IPv4 addresses by which networks are told apart roughly.
const REACH_BITS: u32 = 20;

/// Where networks of IPv4 lie, a bit for each 4,096 addresses: most addresses are in none, and are told so at once.
#[derive(Clone, Debug)]
struct Reach(Vec<u64>);

impl Reach {
    fn new() -> Self {
        Reach(vec![0; 1 << (REACH_BITS - 6)])
    }

    fn add(&mut self, network: u32, length: u8) {
        let first = network >> (32 - REACH_BITS);
        let count = 1u32 << REACH_BITS.saturating_sub(length.into());
        for place in first..first.saturating_add(count) {
            if let Some(word) = self.0.get_mut((place / 64) as usize) {
                *word |= 1 << (place % 64);
            }
        }
    }

    #[inline]
    fn holds(&self, address: u32) -> bool {
        let place = address >> (32 - REACH_BITS);
        self.0.get((place / 64) as usize).is_some_and(|word| word >> (place % 64) & 1 == 1)
    }
}

/// What is kept of one segment.
#[derive(Debug, Default)]
pub(crate) struct PartKeys {
    /// Everything but networks.
    values: Table,
    networks: Table,
    lengths: Lengths,
    /// Networks of IPv4.
    v4: Vec<(u32, u8)>,
}

/// Keys on their way into a part.
#[derive(Debug)]
pub(crate) struct Gathered {
    seed: u64,
    values: Vec<(u64, u32)>,
    networks: Vec<(u64, u32)>,
    lengths: Lengths,
    v4: Vec<(u32, u8)>,
}

impl Gathered {
    pub(crate) fn new(seed: u64) -> Self {
        Gathered { seed, values: Vec::new(), networks: Vec::new(), lengths: Lengths::default(), v4: Vec::new() }
    }

    pub(crate) fn add(&mut self, key: Key<'_>, row: u32) {
        let place = (key.hash(self.seed), row);
        if key.kind != Kind::Network {
            return self.values.push(place);
        }
        self.networks.push(place);
        match *key.bytes {
            [a, b, c, d, length] => {
                self.lengths.add(true, length);
                self.v4.push((u32::from_be_bytes([a, b, c, d]), length));
            }
            [.., length] => self.lengths.add(false, length),
            [] => {}
        }
    }

    /// Takes over what others gathered.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.values.append(&mut other.values);
        self.networks.append(&mut other.networks);
        self.v4.append(&mut other.v4);
        self.lengths = self.lengths.union(other.lengths);
    }

    pub(crate) fn finish(mut self, sort: fn(&mut [(u64, u32)])) -> PartKeys {
        self.v4.shrink_to_fit();
        PartKeys {
            values: Table::new(self.values, sort),
            networks: Table::new(self.networks, sort),
            lengths: self.lengths,
            v4: self.v4,
        }
    }
}

impl PartKeys {
    pub(crate) fn len(&self) -> usize {
        self.values.len() + self.networks.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.values.bytes() + self.networks.bytes() + self.v4.capacity() * size_of::<(u32, u8)>()
    }
}

/// Bits of a block: those of a cache line.
const BLOCK_BITS: u64 = 512;
const WORDS: usize = 8;
const BITS_A_KEY: usize = 10;
/// Bits a key sets in its block.
const PROBES: u32 = 5;

/// Whether a key may be there: a blocked Bloom filter. With 10 bits a key it errs in about two of a hundred.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    blocks: Vec<[u64; WORDS]>,
    keys: usize,
    most: usize,
}

impl Filter {
    /// Room for so many keys.
    pub(crate) fn new(keys: usize) -> Self {
        let most = keys.max(64);
        let blocks = (most * BITS_A_KEY).div_ceil(BLOCK_BITS as usize);
        Filter { blocks: vec![[0; WORDS]; blocks], keys: 0, most }
    }

    pub(crate) fn has_room(&self, keys: usize) -> bool {
        self.keys + keys <= self.most
    }

    #[inline]
    fn place(&self, key: u64) -> (usize, u64) {
        // The block from the high half of a product, the bits from another mix.
        let block = (u128::from(key) * self.blocks.len() as u128) >> 64;
        (block as usize, key.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn add(&mut self, key: u64) {
        let (block, mut bits) = self.place(key);
        if let Some(block) = self.blocks.get_mut(block) {
            for _ in 0..PROBES {
                let bit = bits & (BLOCK_BITS - 1);
                block[(bit / 64) as usize] |= 1 << (bit % 64);
                bits >>= 9;
            }
        }
        self.keys += 1;
    }

    #[inline]
    pub(crate) fn may_hold(&self, key: u64) -> bool {
        let (block, mut bits) = self.place(key);
        let Some(block) = self.blocks.get(block) else { return false };
        // All bits, though the first one tells in half of all cases: a processor that guesses which half is wrong as often, and has to wait.
        let mut all = 1;
        for _ in 0..PROBES {
            let bit = bits & (BLOCK_BITS - 1);
            all &= block[(bit / 64) as usize] >> (bit % 64);
            bits >>= 9;
        }
        all == 1
    }

    fn bytes(&self) -> usize {
        self.blocks.capacity() * WORDS * 8
    }
}

/// Under what a key is filed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filed {
    hash: u64,
    of_network: bool,
}

impl Filed {
    #[inline]
    pub(crate) fn of(key: Key<'_>, seed: u64) -> Self {
        Filed { hash: key.hash(seed), of_network: key.kind == Kind::Network }
    }
}

/// The keys of a version of the store.
#[derive(Debug)]
pub(crate) struct Keys {
    parts: Vec<Arc<PartKeys>>,
    values: Filter,
    networks: Filter,
    reach: Reach,
    lengths: Lengths,
}

impl Keys {
    /// Of these parts, from what was there before: nothing is read again that is known.
    pub(crate) fn new(parts: Vec<Arc<PartKeys>>, before: Option<&Keys>) -> Self {
        let is_in = |parts: &[Arc<PartKeys>], part: &Arc<PartKeys>| parts.iter().any(|own| Arc::ptr_eq(own, part));
        // Filters forget nothing, so they are of use only as long as nothing went that they know.
        let before = before.filter(|before| before.parts.iter().all(|part| is_in(&parts, part)));
        let fresh: Vec<&Arc<PartKeys>> =
            parts.iter().filter(|part| before.is_none_or(|before| !is_in(&before.parts, part))).collect();
        let lengths = parts.iter().fold(Lengths::default(), |all, part| all.union(part.lengths));
        let filter = |table: fn(&PartKeys) -> &Table, before: Option<&Filter>| {
            let added: usize = fresh.iter().map(|part| table(part).len()).sum();
            match before.filter(|before| before.has_room(added)) {
                Some(before) => {
                    let mut filter = before.clone();
                    fresh.iter().flat_map(|part| &table(part).keys).for_each(|key| filter.add(*key));
                    filter
                }
                None => {
                    let all: usize = parts.iter().map(|part| table(part).len()).sum();
                    // Room to grow by an eighth before it is made anew.
                    let mut filter = Filter::new(all + all / 8);
                    parts.iter().flat_map(|part| &table(part).keys).for_each(|key| filter.add(*key));
                    filter
                }
            }
        };
        let values = filter(|part| &part.values, before.map(|before| &before.values));
        let networks = filter(|part| &part.networks, before.map(|before| &before.networks));
        let mut reach = before.map_or_else(Reach::new, |before| before.reach.clone());
        fresh.iter().flat_map(|part| &part.v4).for_each(|(network, length)| reach.add(*network, *length));
        drop(fresh);
        Keys { parts, values, networks, reach, lengths }
    }

    /// Lengths that networks around this address may have.
    #[inline]
    pub(crate) fn lengths(&self, address: IpAddr) -> Lengths {
        match address {
            IpAddr::V4(v4) if !self.reach.holds(v4.to_bits()) => Lengths::default(),
            _ => self.lengths,
        }
    }

    /// The filter and the tables that a key is in, if it is there.
    #[inline]
    fn filed(&self, key: Filed) -> (&Filter, fn(&PartKeys) -> &Table) {
        if key.of_network { (&self.networks, |part| &part.networks) } else { (&self.values, |part| &part.values) }
    }

    /// Whether it may be there: `false` is certain.
    #[inline]
    pub(crate) fn may_hold(&self, key: Filed) -> bool {
        self.filed(key).0.may_hold(key.hash)
    }

    /// Whether it is there.
    pub(crate) fn holds(&self, key: Filed) -> bool {
        let (_, table) = self.filed(key);
        self.parts.iter().any(|part| table(part).find(key.hash).next().is_some())
    }

    /// Calls `found(part, row)` for each candidate.
    #[inline]
    pub(crate) fn find(&self, key: Filed, found: impl FnMut(u32, u32)) {
        let (filter, table) = self.filed(key);
        if filter.may_hold(key.hash) {
            self.each(table, key.hash, found);
        }
    }

    fn each(&self, table: fn(&PartKeys) -> &Table, key: u64, mut found: impl FnMut(u32, u32)) {
        for (number, part) in self.parts.iter().enumerate() {
            table(part).find(key).for_each(|row| found(number as u32, row));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.bytes()).sum::<usize>()
            + self.values.bytes()
            + self.networks.bytes()
            + self.reach.0.len() * 8
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    fn table(pairs: Vec<(u64, u32)>) -> Table {
        Table::new(pairs, <[(u64, u32)]>::sort_unstable)
    }

    #[test]
    fn lengths_come_longest_first() {
        let mut lengths = Lengths::default();
        for length in [0, 8, 24, 31] {
            lengths.add(true, length);
        }
        for length in [0, 32, 127] {
            lengths.add(false, length);
        }
        let listed = |is_v4, most| lengths.descending(is_v4, most).collect::<Vec<_>>();
        assert_eq!(listed(true, 32), [31, 24, 8, 0]);
        assert_eq!(listed(true, 24), [24, 8, 0]);
        assert_eq!(listed(true, 23), [8, 0]);
        assert_eq!(listed(true, 0), [0]);
        assert_eq!(listed(false, 128), [127, 32, 0]);
        assert_eq!(listed(false, 126), [32, 0]);
    }

    #[test]
    fn the_filter_errs_seldom() {
        let spread =
            |n: u64| n.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ n.wrapping_mul(0xa076_1d64_78bd_642f).rotate_left(31);
        let mut filter = Filter::new(100_000);
        (0..100_000).for_each(|n| filter.add(spread(n)));
        assert!((0..100_000).all(|n| filter.may_hold(spread(n))));
        let wrong = (100_000..200_000).filter(|n| filter.may_hold(spread(*n))).count();
        assert!(wrong < 2_500, "{wrong}");
        assert!(!filter.has_room(1));
    }

    #[test]
    fn a_new_version_keeps_what_it_knows() {
        let part = |keys: &[u64]| {
            let pairs = keys.iter().map(|key| (*key, *key as u32)).collect();
            Arc::new(PartKeys { values: table(pairs), ..PartKeys::default() })
        };
        let (a, b, c) = (part(&[1, u64::MAX]), part(&[2, 1 << 40]), part(&[3]));
        let found = |keys: &Keys, key| {
            let mut rows = Vec::new();
            if keys.values.may_hold(key) {
                keys.each(|part| &part.values, key, |part, row| rows.push((part, row)));
            }
            rows
        };
        let first = Keys::new(vec![Arc::clone(&a), Arc::clone(&b)], None);
        let grown = Keys::new(vec![Arc::clone(&a), Arc::clone(&b), Arc::clone(&c)], Some(&first));
        let merged = Keys::new(vec![part(&[1, 2, 3])], Some(&grown));
        assert_eq!((found(&first, 2), found(&first, 3)), (vec![(1, 2)], vec![]));
        assert_eq!(
            (found(&grown, 2), found(&grown, 3), found(&grown, u64::MAX)),
            (vec![(1, 2)], vec![(2, 3)], vec![(0, u32::MAX)])
        );
        assert_eq!((found(&merged, 2), found(&merged, 1 << 40), merged.len()), (vec![(0, 2)], vec![], 3));
    }

    proptest! {
        #[test]
        fn every_row_of_a_key_is_found(pairs in prop::collection::vec((prop_oneof![0..20u64, any::<u64>(), (0..20u64).prop_map(|n| u64::MAX - n)], 0..5u32), 0..300), others in prop::collection::vec(any::<u64>(), 0..20)) {
            let mut expected: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
            let mut sorted = pairs.clone();
            sorted.sort_unstable();
            sorted.dedup();
            sorted.iter().for_each(|(key, row)| expected.entry(*key).or_default().push(*row));
            let table = table(pairs);
            for (key, rows) in &expected {
                prop_assert_eq!(&table.find(*key).collect::<Vec<_>>(), rows);
            }
            for key in others.iter().filter(|key| !expected.contains_key(key)) {
                prop_assert!(table.find(*key).next().is_none());
            }
        }
    }
}
