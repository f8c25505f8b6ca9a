//! `Content-Range` as servers of TAXII 2.0 write it (spec/taxii-2.md §6).

/// `items 0-49/500`; the parts that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub(super) first: Option<u64>,
    pub(super) total: Option<u64>,
}

impl ContentRange {
    /// Reads `items 0-49/500`, `items=0-49/*`, `items */500`, `0-49/500`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix("items").unwrap_or(text).trim_start_matches([' ', '=', ':']);
        let (range, total) = text.split_once('/')?;
        let first = range.split('-').next().and_then(|first| first.trim().parse().ok());
        let total = total.trim().parse().ok();
        let is_range = first.is_some() || range.trim() == "*";
        is_range.then_some(ContentRange { first, total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_read() {
        let cases = [
            ("items 0-49/500", Some((Some(0), Some(500)))),
            ("items=10-49/*", Some((Some(10), None))),
            (" items */500", Some((None, Some(500)))),
            ("5-9/10", Some((Some(5), Some(10)))),
            ("items undefined-undefined/undefined", None),
            ("items", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|(first, total)| ContentRange { first, total });
            assert_eq!(ContentRange::parse(text), expected, "{text}");
        }
    }
}
