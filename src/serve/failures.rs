//! Slowing those down who guess passwords, without shutting anybody out.
//!
//! Three things are counted, and only failures count:
//!
//! - A user name from one address: after three failures the next try has to wait, at first a second, then twice as long each
//!   time, up to a minute.
//! - A user name from anywhere, and an address with any names: each may fail thirty times at once and then six times a
//!   minute; who comes sooner waits ten seconds at most.
//!
//! Who has given the right password from an address within the last day is held there by the first rule only. So whoever
//! guesses at a user from elsewhere, or sits behind the same proxy as others, holds up those for ten seconds at a time who
//! come for the first time, and the others not at all. A success forgets the failures of its name and address, a quarter of
//! an hour without one forgets the rest. Waiting means being told so (429 and `Retry-After`): no request is held.
//!
//! Names are kept as keyed hashes, in two generations of bounded size, so that nobody can fill the memory with them.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::serve::client::network;

/// Failures of a name from one address that cost nothing: people mistype.
const FREE: u32 = 3;
/// Longest wait for a name from one address.
const LONGEST: Duration = Duration::from_secs(60);
/// When failures are forgotten.
const FORGOTTEN: Duration = Duration::from_secs(15 * 60);
/// Failures of a name from anywhere, or of an address with any names, that may come at once.
const BURST: u32 = 30;
/// One more of those in each such span.
const PERIOD: Duration = Duration::from_secs(10);
/// How long an address from which somebody came in stays known for that.
const GOOD_FOR: Duration = Duration::from_secs(24 * 3600);
/// Entries of one generation.
const GENERATION: usize = 16_384;

/// The failures of a server.
#[derive(Debug, Default)]
pub(super) struct Failures {
    hasher: RandomState,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    /// By name and address.
    pairs: Aging<Pair>,
    /// By name, and by address: when the budget will be whole again.
    budgets: Aging<Instant>,
    /// By name and address: until when they are known.
    good: Aging<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Pair {
    failures: u32,
    last: Instant,
}

/// Under which keys a try counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pair: u64,
    name: u64,
    address: u64,
}

impl Failures {
    /// A try with that name from that address.
    pub(super) fn attempt(&self, name: &str, address: IpAddr) -> Attempt {
        let address = network(address);
        let key = |what: (u8, Option<&str>, Option<IpAddr>)| self.hasher.hash_one(what);
        Attempt {
            pair: key((0, Some(name), Some(address))),
            name: key((1, Some(name), None)),
            address: key((2, None, Some(address))),
        }
    }

    /// How long the try has to wait, if it has to.
    pub(super) fn wait(&self, attempt: Attempt, now: Instant) -> Option<Duration> {
        let tables = self.tables.lock();
        let of_pair = tables.pairs.get(attempt.pair).and_then(|pair| pair.wait(now));
        let known = tables.good.get(attempt.pair).is_some_and(|until| until > now);
        let of_budget = |key| tables.budgets.get(key).and_then(|whole| over_budget(whole, now));
        let of_budgets = if known { None } else { of_budget(attempt.name).max(of_budget(attempt.address)) };
        of_pair.max(of_budgets)
    }

    /// The try failed.
    pub(super) fn failed(&self, attempt: Attempt, now: Instant) {
        let mut tables = self.tables.lock();
        let before = tables.pairs.get(attempt.pair).filter(|pair| now.saturating_duration_since(pair.last) < FORGOTTEN);
        let failures = before.map_or(0, |pair| pair.failures).saturating_add(1);
        tables.pairs.put(attempt.pair, Pair { failures, last: now });
        for key in [attempt.name, attempt.address] {
            let whole = tables.budgets.get(key).map_or(now, |whole| whole.max(now));
            tables.budgets.put(key, whole + PERIOD);
        }
    }

    /// The try was right.
    pub(super) fn succeeded(&self, attempt: Attempt, now: Instant) {
        let mut tables = self.tables.lock();
        tables.pairs.remove(attempt.pair);
        tables.good.put(attempt.pair, now + GOOD_FOR);
    }
}

impl Pair {
    fn wait(self, now: Instant) -> Option<Duration> {
        let doublings = self.failures.checked_sub(FREE)?;
        let delay = Duration::from_secs(1_u64.checked_shl(doublings).unwrap_or(u64::MAX)).min(LONGEST);
        (self.last + delay).checked_duration_since(now).filter(|wait| !wait.is_zero())
    }
}

/// How long until one more failure fits into a budget that is whole again at `whole`.
fn over_budget(whole: Instant, now: Instant) -> Option<Duration> {
    let used = whole.saturating_duration_since(now);
    used.checked_sub(PERIOD * (BURST - 1)).filter(|wait| !wait.is_zero())
}

/// A map that forgets what was not written for long, once there is much of it.
#[derive(Debug)]
struct Aging<V> {
    young: HashMap<u64, V>,
    old: HashMap<u64, V>,
}

impl<V> Default for Aging<V> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<V: Copy> Aging<V> {
    fn get(&self, key: u64) -> Option<V> {
        self.young.get(&key).or_else(|| self.old.get(&key)).copied()
    }

    fn put(&mut self, key: u64, value: V) {
        if self.young.len() >= GENERATION && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    fn remove(&mut self, key: u64) {
        self.young.remove(&key);
        self.old.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "192.0.2.1";
    const THERE: &str = "198.51.100.1";

    struct Door {
        failures: Failures,
        now: Instant,
    }

    impl Door {
        fn new() -> Self {
            Self { failures: Failures::default(), now: Instant::now() }
        }

        fn at(&self, name: &str, address: &str) -> Attempt {
            self.failures.attempt(name, address.parse().expect("an address"))
        }

        fn wait(&self, name: &str, address: &str) -> u64 {
            self.failures
                .wait(self.at(name, address), self.now)
                .map_or(0, |wait| wait.as_millis().div_ceil(1000) as u64)
        }

        fn fail(&self, name: &str, address: &str) {
            self.failures.failed(self.at(name, address), self.now);
        }

        fn pass(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }
    }

    #[test]
    fn the_wait_of_a_name_from_an_address_grows_and_is_forgotten() {
        let mut door = Door::new();
        let mut waits = Vec::new();
        for _ in 0..12 {
            waits.push(door.wait("ann", HERE));
            door.pass(waits.last().copied().unwrap_or_default());
            door.fail("ann", HERE);
        }
        assert_eq!(waits, [0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!((door.wait("ann", HERE), door.wait("ann", THERE), door.wait("bob", HERE)), (60, 0, 0));
        door.pass(FORGOTTEN.as_secs());
        door.fail("ann", HERE);
        assert_eq!(door.wait("ann", HERE), 0, "the first failure again");

        (0..5).for_each(|_| door.fail("ann", HERE));
        assert!(door.wait("ann", HERE) > 0);
        door.failures.succeeded(door.at("ann", HERE), door.now);
        assert_eq!(door.wait("ann", HERE), 0);
    }

    /// Whoever guesses at a user from everywhere keeps the user out for seconds, and not at all where they are known.
    #[test]
    fn a_name_guessed_at_from_elsewhere_is_not_locked() {
        let mut door = Door::new();
        door.failures.succeeded(door.at("ann", HERE), door.now);
        for host in 0..10_000 {
            door.fail("ann", &format!("10.0.{}.{}", host / 256, host % 256));
            if door.wait("ann", THERE) > 0 {
                // The attacker keeps to the waits, as it must.
                door.pass(10);
            }
        }
        assert!(door.wait("ann", THERE) <= PERIOD.as_secs());
        assert_eq!(door.wait("ann", HERE), 0);
        door.pass(GOOD_FOR.as_secs());
        (0..30).for_each(|_| door.fail("ann", "203.0.113.1"));
        assert!(door.wait("ann", HERE) > 0, "known for a day");
    }

    #[test]
    fn an_address_has_a_budget_for_all_names() {
        let mut door = Door::new();
        door.failures.succeeded(door.at("ann", HERE), door.now);
        for number in 0..30 {
            assert_eq!(door.wait(&format!("user{number}"), HERE), 0, "{number}");
            door.fail(&format!("user{number}"), HERE);
        }
        assert_eq!((door.wait("new", HERE), door.wait("new", THERE), door.wait("ann", HERE)), (10, 0, 0));
        door.pass(10);
        assert_eq!(door.wait("new", HERE), 0);
        door.fail("new", HERE);
        assert_eq!(door.wait("newer", HERE), 10);
        // One network of version 6 is one address, one of version 4 written as 6 is the same.
        let door = Door::new();
        for number in 0..30 {
            door.fail(&format!("user{number}"), &format!("2001:db8::{number:x}"));
            door.fail(&format!("user{number}"), &format!("::ffff:{HERE}"));
        }
        assert_eq!((door.wait("new", "2001:db8::ffff:0:0:1"), door.wait("new", "2001:db8:0:1::1")), (10, 0));
        assert_eq!(door.wait("new", HERE), 10);
    }

    #[test]
    fn memory_is_bounded_whatever_is_tried() {
        let door = Door::new();
        for number in 0..5 * GENERATION {
            door.fail(&format!("user{number}"), HERE);
        }
        let tables = door.failures.tables.lock();
        assert!(tables.pairs.young.len() + tables.pairs.old.len() <= 2 * GENERATION);
        assert!(tables.budgets.young.len() + tables.budgets.old.len() <= 2 * GENERATION);
    }
}
