//! What a list holds, before it is written.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use ipnet::IpNet;
use rayon::slice::ParallelSliceMut;
use twox_hash::XxHash3_64;

use super::item::{Item, network_into};
use super::networks::Networks;
use super::{ListOptions, Reader};
use crate::export::ExportError;
use crate::feed::Slice;
use crate::model::time::Timestamp;
use crate::runtime::CpuPool;

/// What counts as one item of a list.
#[derive(Debug)]
pub(super) enum Entry<'a> {
    /// A line, with its line feed.
    Line(&'a [u8]),
    /// An address or network that is held.
    Network(IpNet),
}

/// Names a line.
pub(super) fn hash(line: &[u8]) -> u64 {
    XxHash3_64::oneshot(line)
}

/// The entries of an item. `scratch` is for lines of addresses.
pub(super) fn entries(
    item: &Item,
    lines: &[u8],
    holds_networks: bool,
    scratch: &mut Vec<u8>,
    mut each: impl FnMut(Entry<'_>),
) {
    let net = match item {
        Item::V4(net) => IpNet::V4(*net),
        Item::V6(net) => IpNet::V6(*net),
        Item::Line => return each(Entry::Line(lines)),
        Item::Lines => return lines.split_inclusive(|byte| *byte == b'\n').for_each(|line| each(Entry::Line(line))),
        Item::Unwanted | Item::Unfit => return,
    };
    if holds_networks {
        return each(Entry::Network(net));
    }
    scratch.clear();
    network_into(&net, scratch);
    each(Entry::Line(scratch));
}

/// The entries of some rows, in order.
#[derive(Debug, Default)]
pub(super) struct SurveyedSlice {
    hashes: Vec<u64>,
    kinds: Vec<Kind>,
    networks: Networks,
    unfit: u64,
    next_expiration: Option<Timestamp>,
    last_expired: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Line,
    V4,
    V6,
}

impl SurveyedSlice {
    pub(super) fn of(slice: &Slice, reader: &Reader, holds_networks: bool) -> Result<Self, ExportError> {
        let mut found = SurveyedSlice::default();
        let (mut next, mut last) = (None, None);
        let mut scratch = Vec::new();
        let expires = |at: Timestamp| {
            if at > reader.now {
                next = Some(next.map_or(at, |next: Timestamp| next.min(at)));
            } else {
                last = last.max(Some(at));
            }
        };
        reader.read(slice, expires, |item, lines| {
            found.unfit += u64::from(item == Item::Unfit);
            let SurveyedSlice { hashes, kinds, networks, .. } = &mut found;
            entries(&item, lines, holds_networks, &mut scratch, |entry| match entry {
                Entry::Line(line) => {
                    hashes.push(hash(line));
                    kinds.push(Kind::Line);
                }
                Entry::Network(IpNet::V4(net)) => {
                    hashes.push(of_network(&IpNet::V4(net)));
                    kinds.push(Kind::V4);
                    networks.v4.push(net);
                }
                Entry::Network(IpNet::V6(net)) => {
                    hashes.push(of_network(&IpNet::V6(net)));
                    kinds.push(Kind::V6);
                    networks.v6.push(net);
                }
            });
        })?;
        (found.next_expiration, found.last_expired) = (next, last);
        Ok(found)
    }
}

fn of_network(net: &IpNet) -> u64 {
    let mut hasher = XxHash3_64::default();
    net.hash(&mut hasher);
    hasher.finish()
}

/// All entries.
#[derive(Debug, Default)]
pub(super) struct Survey {
    all: SurveyedSlice,
    slices: Vec<u32>,
}

impl Survey {
    /// Adds the entries of the next slice.
    pub(super) fn take(&mut self, mut slice: SurveyedSlice) {
        self.slices.push(slice.hashes.len() as u32);
        let all = &mut self.all;
        all.hashes.append(&mut slice.hashes);
        all.kinds.append(&mut slice.kinds);
        all.networks.append(slice.networks);
        all.unfit += slice.unfit;
        all.next_expiration = match (all.next_expiration, slice.next_expiration) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        all.last_expired = all.last_expired.max(slice.last_expired);
    }

    /// Decides which of them are in the list.
    pub(super) fn settle(self, max_items: Option<u64>, pool: &CpuPool) -> Settled {
        let Survey { all: SurveyedSlice { hashes, kinds, networks, unfit, next_expiration, last_expired }, slices } =
            self;
        let skipped = max_items.map_or(0, |most| newest(&hashes, most));
        let (front, kinds) = kinds.split_at(skipped);
        let of = |kind: Kind| front.iter().filter(|of| **of == kind).count();
        let networks = networks.without_first(of(Kind::V4), of(Kind::V6));
        let rest = hashes.split_at(skipped).1;
        let mut lines: Vec<u64> =
            rest.iter().zip(kinds).filter(|(_, kind)| **kind == Kind::Line).map(|(hash, _)| *hash).collect();
        let mut digest = XxHash3_64::default();
        lines.iter().for_each(|line| digest.write_u64(*line));
        pool.run_blocking(|| lines.par_sort_unstable());
        let repeats = lines.windows(2).filter(|pair| pair.first() == pair.last()).count();
        let repeated = lines.windows(2).filter(|pair| pair.first() == pair.last()).filter_map(|pair| pair.first());
        Settled {
            repeated: repeated.copied().collect(),
            lines: (lines.len() - repeats) as u64,
            skipped: skipped as u64,
            digest: digest.finish(),
            networks,
            slices,
            unfit,
            next_expiration,
            last_expired,
        }
    }
}

/// Where the last `most` different entries begin.
fn newest(hashes: &[u64], most: u64) -> usize {
    if hashes.len() as u64 <= most {
        return 0;
    }
    let mut seen = HashSet::new();
    let beyond = |hash: &u64| seen.insert(*hash) && seen.len() as u64 > most;
    hashes.iter().rposition(beyond).map_or(0, |at| at + 1)
}

/// What of a survey is in the list.
#[derive(Debug)]
pub(super) struct Settled {
    /// Held addresses, in the order they came.
    pub(super) networks: Networks,
    /// Hashes that several lines have.
    pub(super) repeated: HashSet<u64>,
    /// Lines that are no held addresses, each counted once.
    pub(super) lines: u64,
    /// Entries of each slice.
    pub(super) slices: Vec<u32>,
    /// Entries in front that are left out.
    pub(super) skipped: u64,
    pub(super) unfit: u64,
    /// The next instant at which an entry leaves the list.
    pub(super) next_expiration: Option<Timestamp>,
    last_expired: Option<Timestamp>,
    digest: u64,
}

impl Settled {
    /// The last instant at which an entry left the list.
    pub(super) fn last_expired(&self, now: Timestamp) -> Option<Timestamp> {
        self.last_expired.filter(|at| *at <= now)
    }

    /// Names the content.
    pub(super) fn etag(&self, networks: &Networks, options: &ListOptions) -> String {
        let mut first = XxHash3_64::with_seed(self.digest);
        networks.v4.hash(&mut first);
        networks.v6.hash(&mut first);
        let mut second = XxHash3_64::default();
        options.hash(&mut second);
        (self.lines, networks.len(), self.digest).hash(&mut second);
        format!("{:016x}{:016x}", first.finish(), second.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_different_ones_are_kept() {
        let cases: [(&[u64], u64, usize); 7] = [
            (&[], 3, 0),
            (&[1, 2, 3], 3, 0),
            (&[1, 2, 3], 2, 1),
            (&[1, 2, 3], 0, 3),
            (&[1, 2, 2, 3, 3], 2, 1),
            (&[1, 2, 1, 2, 1], 1, 4),
            (&[5, 1, 2, 1, 2], 2, 1),
        ];
        for (hashes, most, expected) in cases {
            assert_eq!(newest(hashes, most), expected, "{hashes:?} {most}");
        }
    }
}
