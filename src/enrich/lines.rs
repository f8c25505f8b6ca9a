//! A stream of bytes cut into blocks of whole lines.

use memchr::{memchr, memchr_iter, memrchr};

/// Bytes of a block, as soon as so many have come.
pub(crate) const BLOCK_BYTES: usize = 1 << 20;
/// Longest line that is looked at; longer ones go through as they are, in pieces.
pub const MOST_LINE_BYTES: usize = 8 << 20;

/// Lines that stand together.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// With their line ends; only the last line of all may lack its own.
    pub bytes: Vec<u8>,
    /// Number of the first one, from 1.
    pub first_line: u64,
    /// A piece of one line that is too long.
    pub of_long_line: bool,
}

/// Gathers bytes and gives out blocks.
#[derive(Debug)]
pub struct Lines {
    pending: Vec<u8>,
    /// In `pending` no line end comes before that.
    searched: usize,
    /// Number of the first line of `pending`.
    line: u64,
    /// Line ends in the first `counted` bytes of it.
    ends: u64,
    counted: usize,
    in_long_line: bool,
    most_line_bytes: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Self::new(MOST_LINE_BYTES)
    }
}

impl Lines {
    fn new(most_line_bytes: usize) -> Self {
        Lines { pending: Vec::new(), searched: 0, line: 1, ends: 0, counted: 0, in_long_line: false, most_line_bytes }
    }

    /// Where bytes are to be appended.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.pending
    }

    /// Number of the line that the bytes end in.
    pub fn line(&mut self) -> u64 {
        self.ends += line_ends(self.pending.get(self.counted..).unwrap_or_default());
        self.counted = self.pending.len();
        self.line + self.ends
    }

    /// A block, if one is full.
    pub fn full(&mut self) -> Option<Block> {
        if self.pending.len() < BLOCK_BYTES.min(self.most_line_bytes) { None } else { self.whole_lines() }
    }

    /// What there is of whole lines.
    pub fn whole_lines(&mut self) -> Option<Block> {
        if self.in_long_line {
            return self.of_long_line();
        }
        let fresh = self.pending.get(self.searched..).unwrap_or_default();
        let Some(end) = memrchr(b'\n', fresh) else {
            self.searched = self.pending.len();
            if self.pending.len() <= self.most_line_bytes {
                return None;
            }
            self.in_long_line = true;
            return self.of_long_line();
        };
        Some(self.cut(self.searched + end + 1, false))
    }

    /// What is left at the end.
    pub fn rest(&mut self) -> Option<Block> {
        if self.pending.is_empty() {
            return None;
        }
        if let Some(block) = self.whole_lines() {
            return Some(block);
        }
        Some(self.cut(self.pending.len(), self.in_long_line))
    }

    /// The next piece of a line that is too long, to its end.
    fn of_long_line(&mut self) -> Option<Block> {
        let end = memchr(b'\n', &self.pending);
        let length = end.map_or(self.pending.len(), |end| end + 1);
        if length == 0 {
            return None;
        }
        let block = self.cut(length, true);
        self.in_long_line = end.is_none();
        Some(block)
    }

    fn cut(&mut self, length: usize, of_long_line: bool) -> Block {
        // As long as it was this time, or it would be copied as it grows; but for what a long line took.
        let mut rest = Vec::with_capacity(self.pending.capacity().min(2 * BLOCK_BYTES));
        let last = self.line();
        rest.extend(self.pending.drain(length.min(self.pending.len())..));
        let bytes = std::mem::replace(&mut self.pending, rest);
        self.searched = 0;
        let first_line = self.line;
        // What is left is short, nearly always.
        (self.ends, self.counted) = (line_ends(&self.pending), self.pending.len());
        self.line = last - self.ends;
        Block { bytes, first_line, of_long_line }
    }
}

fn line_ends(bytes: &[u8]) -> u64 {
    memchr_iter(b'\n', bytes).count() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    proptest! {
        #[test]
        fn any_cut_gives_the_same_lines(
            lines in prop::collection::vec(prop_oneof![".{0,6}", Just("x".repeat(25))], 0..12),
            ends in proptest::bool::ANY,
            cuts in prop::collection::vec(1..40usize, 1..20),
            eager in proptest::bool::ANY,
        ) {
            let mut text = lines.join("\n").into_bytes();
            if ends {
                text.push(b'\n');
            }
            let mut cutter = Lines::new(20);
            let (mut blocks, mut at) = (Vec::new(), 0);
            for cut in cuts.iter().cycle().take(1_000) {
                let piece = &text[at..(at + cut).min(text.len())];
                at += piece.len();
                cutter.buffer().extend_from_slice(piece);
                while let Some(block) = if eager { cutter.whole_lines() } else { cutter.full() } {
                    blocks.push(block);
                }
                prop_assert!(cutter.pending.len() <= 20 + cut, "{}", cutter.pending.len());
                prop_assert_eq!(cutter.line(), 1 + line_ends(&text[..at]));
            }
            while let Some(block) = cutter.rest() {
                blocks.push(block);
            }
            let mut line = 1;
            for (number, block) in blocks.iter().enumerate() {
                prop_assert_eq!(block.first_line, line);
                line += block.bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
                let is_last = number + 1 == blocks.len();
                prop_assert!(block.of_long_line || is_last || block.bytes.ends_with(b"\n"));
                for line in block.bytes.split(|byte| *byte == b'\n').filter(|_| !block.of_long_line) {
                    prop_assert!(line.len() <= 20 + 40);
                }
            }
            prop_assert_eq!(blocks.concat_bytes(), text);
        }
    }

    trait Concat {
        fn concat_bytes(&self) -> Vec<u8>;
    }

    impl Concat for Vec<Block> {
        fn concat_bytes(&self) -> Vec<u8> {
            self.iter().flat_map(|block| block.bytes.iter().copied()).collect()
        }
    }
}
