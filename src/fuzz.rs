//! Fuzzing of what outsiders send: seeds are mutated, and what brings out a new kind of outcome becomes a seed.
//!
//! A target says by a number what became of an input: which error, how many items. That stands in for the coverage that
//! an instrumented build would measure, and needs no other compiler. As part of the tests a target runs a thousand
//! inputs, the same each time; `TAXIWAY_FUZZ_SECONDS=600 cargo test --release fuzz_ -- --test-threads 1` runs each for
//! ten minutes from another place. Seeds are in `tests/fuzz/<target>/`; an input that fails is written beside them.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use twox_hash::XxHash3_64;

/// Inputs of a run as part of the tests.
const QUICK: u64 = 1_000;
/// Most seeds held.
const SEEDS: usize = 20_000;
/// Longest input made by mutation; seeds may be longer.
const LONGEST: usize = 16 << 10;
/// What parsers count, compare or index with.
const NUMBERS: [&str; 10] = [
    "0",
    "-1",
    "1",
    "255",
    "65536",
    "2147483648",
    "4294967295",
    "9223372036854775807",
    "18446744073709551616",
    "1e400",
];

/// A short number for an outcome: equal ones teach nothing new.
pub(crate) fn outcome(of: impl Hash) -> u64 {
    let mut hasher = XxHash3_64::default();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Gives `attempt` seeds and mutations of them, into which `words` are mixed. Panics with the input that made it panic.
pub(crate) fn fuzz(target: &str, words: &[&str], attempt: impl Fn(&[u8]) -> u64) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(target);
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    let mut files: Vec<_> = std::fs::read_dir(&folder).expect("seeds").flatten().map(|entry| entry.path()).collect();
    files.sort();
    for file in files {
        seeds.push(std::fs::read(file).expect("a seed"));
    }
    assert!(!seeds.is_empty(), "no seeds for `{target}`");
    let seconds =
        std::env::var("TAXIWAY_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let start = seconds.and_then(|_| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok());
    let mut random = Random(start.map_or(0x9e37_79b9_7f4a_7c15, |since| since.as_nanos() as u64 | 1));
    let began = Instant::now();
    let mut seen = HashSet::new();
    let mut run = |input: &[u8]| -> bool {
        match catch_unwind(AssertUnwindSafe(|| attempt(input))) {
            Ok(outcome) => seen.insert(outcome),
            Err(panic) => {
                let file = folder.join(format!("found-{:016x}", XxHash3_64::oneshot(input)));
                std::fs::write(&file, input).expect("write the input that failed");
                eprintln!("`{target}` fails on {}: {:?}", file.display(), String::from_utf8_lossy(input));
                std::panic::resume_unwind(panic);
            }
        }
    };
    let mut inputs = 0_u64;
    for seed in &seeds {
        run(seed);
        inputs += 1;
    }
    while seconds.map_or(inputs < QUICK, |seconds| began.elapsed() < seconds) {
        let input = mutated(&seeds, words, &mut random);
        if run(&input) && seeds.len() < SEEDS {
            seeds.push(input);
        }
        inputs += 1;
    }
    if seconds.is_some() {
        eprintln!("`{target}`: {inputs} inputs, {} outcomes, {:?}", seen.len(), began.elapsed());
    }
}

fn mutated(seeds: &[Vec<u8>], words: &[&str], random: &mut Random) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(6) {
        let (from, to) = random.range(input.len());
        match random.below(9) {
            0 if !input.is_empty() => {
                let at = random.below(input.len());
                input[at] ^= 1 << random.below(8);
            }
            1 => input.insert(from, random.next() as u8),
            2 => drop(input.drain(from..to)),
            3 => {
                let piece = input[from..to].to_vec();
                let times = if random.below(40) == 0 { 300 } else { 1 + random.below(3) };
                input.splice(to..to, piece.repeat(times));
            }
            4 if !words.is_empty() => drop(input.splice(from..from, words[random.below(words.len())].bytes())),
            5 => drop(input.splice(from..to, NUMBERS[random.below(NUMBERS.len())].bytes())),
            6 => {
                let other = &seeds[random.below(seeds.len())];
                let (start, end) = random.range(other.len());
                input.splice(from..to, other[start..end].iter().copied());
            }
            7 => input.truncate(to),
            _ if !words.is_empty() => drop(input.splice(from..to, words[random.below(words.len())].bytes())),
            _ => {}
        }
    }
    input.truncate(LONGEST);
    input
}

/// Xorshift: what is needed is speed and the same numbers again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// A piece of something so long; mostly a short one.
    fn range(&mut self, length: usize) -> (usize, usize) {
        let from = self.below(length + 1);
        let longest = if self.below(4) == 0 { length - from } else { (length - from).min(8) };
        (from, from + self.below(longest + 1))
    }
}
