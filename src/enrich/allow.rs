//! The allow-list: what is known to be harmless, whatever a feed says of it.
//!
//! A value a line: addresses, networks (everything in them), domains (and all below them; `*.example.com` only those below), URLs,
//! hashes, e-mail addresses. Blank lines and what follows a `#` at the beginning or behind a blank count for nothing. What is listed
//! is not looked up at all, so that neither it nor a network or domain around it is reported. A domain says nothing of the URLs and
//! addresses under it, which a feed names one by one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::enrich::find;
use crate::enrich::table::{Filed, Gathered, Keys};
use crate::enrich::value::{OwnedKey, Shape, Value, read};

/// Largest file that is read.
const MOST_BYTES: u64 = 256 << 20;
/// Lines that cannot be read and are named.
const SHOWN: usize = 10;

/// Why there is no allow-list.
#[derive(Debug, thiserror::Error)]
pub enum AllowError {
    /// The file cannot be read.
    #[error("cannot read the allow-list `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is larger than is read.
    #[error("the allow-list `{}` has more than {MOST_BYTES} bytes; name networks and domains instead of each address", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Lines of it are no values.
    #[error("the allow-list `{}` has lines that are no address, network, domain, URL, hash or e-mail address: {lines}", path.display())]
    Lines {
        /// The file.
        path: PathBuf,
        /// The first of them, with their numbers.
        lines: String,
    },
}

/// Values that are never reported.
#[derive(Debug)]
pub struct AllowList {
    seed: u64,
    keys: Keys,
    entries: Vec<OwnedKey>,
}

impl Default for AllowList {
    fn default() -> Self {
        Self::of(Vec::new())
    }
}

impl AllowList {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, AllowError> {
        let failed = |source| AllowError::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(failed)?.len() > MOST_BYTES {
            return Err(AllowError::TooLarge { path: path.to_owned() });
        }
        let text = std::fs::read(path).map_err(failed)?;
        Self::parse(&text).map_err(|lines| AllowError::Lines { path: path.to_owned(), lines })
    }

    /// Reads its text; the error names lines that are no values.
    fn parse(text: &[u8]) -> Result<Self, String> {
        let (mut entries, mut scratch) = (Vec::new(), Vec::new());
        let (mut wrong, mut count) = (Vec::new(), 0);
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let value = without_comment(line).trim_ascii();
            if value.is_empty() {
                continue;
            }
            if let Some(value) = read(Shape::Any, value, &mut scratch) {
                entries.push(value.with_key(|key| key.keep()));
                continue;
            }
            count += 1;
            if count <= SHOWN {
                let shown: String = String::from_utf8_lossy(value).chars().take(64).collect();
                wrong.push(format!("line {} `{}`", number + 1, shown.escape_debug()));
            }
        }
        match count {
            0 => Ok(Self::of(entries)),
            count if count > SHOWN => Err(format!("{} and {} more", wrong.join(", "), count - SHOWN)),
            _ => Err(wrong.join(", ")),
        }
    }

    fn of(entries: Vec<OwnedKey>) -> Self {
        let seed = fresh_seed();
        let mut gathered = Gathered::new(seed);
        entries.iter().enumerate().for_each(|(number, entry)| gathered.add(entry.key(), number as u32));
        let part = gathered.finish(<[(u64, u32)]>::sort_unstable);
        AllowList { seed, keys: Keys::new(vec![Arc::new(part)], None), entries }
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a value is listed, or something that it lies in.
    pub(crate) fn holds(&self, value: &Value<'_>) -> bool {
        if self.entries.is_empty() {
            return false;
        }
        let mut listed = false;
        find::keys(
            value,
            |address| self.keys.lengths(address),
            |asked| {
                let entry = |row: u32| self.entries.get(row as usize);
                self.keys.find(Filed::of(asked.key, self.seed), |_, row| {
                    listed |= entry(row).is_some_and(|entry| entry.answers(asked.key, asked.above));
                });
            },
        );
        listed
    }
}

/// A number that nobody outside knows, for keys.
pub(crate) fn fresh_seed() -> u64 {
    use std::hash::BuildHasher;
    std::hash::RandomState::new().hash_one(0)
}

fn without_comment(line: &[u8]) -> &[u8] {
    let starts = |at: &usize| {
        line.get(*at) == Some(&b'#')
            && at.checked_sub(1).is_none_or(|before| line.get(before).is_some_and(u8::is_ascii_whitespace))
    };
    let end = (0..line.len()).find(starts).unwrap_or(line.len());
    line.get(..end).unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_is_held_with_what_lies_in_it() {
        let list = AllowList::parse(
            b"# ours\n10.0.0.0/8\n192.0.2.1 # the gateway\n2001:db8::/32\r\n\n example.com\n*.cdn.example\nhttp://a.example/x#y\nD41D8CD98F00B204E9800998ECF8427E\nann@b.example\n",
        )
        .unwrap();
        assert_eq!(list.len(), 8);
        let cases = [
            ("10.1.2.3", true),
            ("10.1.0.0/16", true),
            ("10.0.0.0/8", true),
            ("10.0.0.0/7", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
            ("Example.com", true),
            ("a.b.example.com", true),
            ("badexample.com", false),
            ("cdn.example", false),
            ("x.cdn.example", true),
            ("http://a.example/x", true),
            ("a.example/x", true),
            ("http://example.com/x", false),
            ("d41d8cd98f00b204e9800998ecf8427e", true),
            ("ann@b.example", true),
            ("bob@example.com", false),
        ];
        let mut scratch = Vec::new();
        for (text, expected) in cases {
            let value = read(Shape::Any, text.as_bytes(), &mut scratch).unwrap();
            assert_eq!(list.holds(&value), expected, "{text}");
        }
        assert!(AllowList::default().is_empty());
    }

    #[test]
    fn lines_that_are_no_values_are_named() {
        assert_eq!(
            AllowList::parse(b"10.0.0.0/8\nlocalhost\n\nx y\n").unwrap_err(),
            "line 2 `localhost`, line 4 `x y`"
        );
        let many = AllowList::parse(&b"?\n".repeat(12)).unwrap_err();
        assert!(many.ends_with("line 10 `?` and 2 more"), "{many}");
    }
}
