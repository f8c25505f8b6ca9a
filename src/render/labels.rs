//! `labels`: tags in lower case with `-` for blanks, each once.

use super::text::slug_into;

const OPEN: &[u8] = br#""labels":["#;

/// Writes lists of labels. Kept between rows for its memory.
#[derive(Debug, Default)]
pub(super) struct Labels {
    /// Where the labels of the row at hand lie, each with its quotes.
    spans: Vec<(usize, usize)>,
    moved: Vec<u8>,
}

impl Labels {
    /// Appends `"labels":[…],` of the row's verdict and tags, in that order; of `otherwise` when there are none of both,
    /// and nothing when there is no such thing.
    pub(super) fn write<'a>(
        &mut self,
        verdict: Option<&'a str>,
        tags: impl Iterator<Item = &'a str>,
        otherwise: Option<&str>,
        out: &mut Vec<u8>,
    ) {
        self.spans.clear();
        verdict.into_iter().chain(tags).for_each(|label| self.add(label, out));
        if self.spans.is_empty()
            && let Some(label) = otherwise
        {
            self.add(label, out);
        }
        if !self.spans.is_empty() {
            out.extend_from_slice(b"],");
        }
    }

    /// The same, sorted.
    pub(super) fn write_sorted<'a>(
        &mut self,
        verdict: Option<&'a str>,
        tags: impl Iterator<Item = &'a str>,
        otherwise: Option<&str>,
        out: &mut Vec<u8>,
    ) {
        let before = out.len();
        self.write(verdict, tags, otherwise, out);
        self.moved.clear();
        self.moved.extend_from_slice(out.get(before..).unwrap_or_default());
        let moved = &self.moved;
        let label = |(from, to): (usize, usize)| moved.get(from - before..to - before).unwrap_or_default();
        if self.spans.is_sorted_by_key(|span| label(*span)) {
            return;
        }
        self.spans.sort_unstable_by(|a, b| label(*a).cmp(label(*b)));
        out.truncate(before);
        for (at, span) in self.spans.iter().enumerate() {
            out.extend_from_slice(if at == 0 { OPEN } else { b"," });
            out.extend_from_slice(label(*span));
        }
        out.extend_from_slice(b"],");
    }

    fn add(&mut self, label: &str, out: &mut Vec<u8>) {
        let before = out.len();
        out.extend_from_slice(if self.spans.is_empty() { OPEN } else { b"," });
        let start = out.len();
        out.push(b'"');
        slug_into(label, out);
        out.push(b'"');
        let added = out.get(start..);
        if self.spans.iter().any(|&(from, to)| out.get(from..to) == added) {
            return out.truncate(before);
        }
        self.spans.push((start, out.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_written_once() {
        let cases: [(Option<&str>, &[&str], Option<&str>, &str, &str); 5] = [
            (None, &[], None, "", ""),
            (None, &[], Some("unknown"), r#""labels":["unknown"],"#, r#""labels":["unknown"],"#),
            (
                Some("benign"),
                &["B C", "b c", "a\"", "Benign"],
                Some("x"),
                r#""labels":["benign","b-c","a\""],"#,
                r#""labels":["a\"","b-c","benign"],"#,
            ),
            (None, &["b", "a", "c"], None, r#""labels":["b","a","c"],"#, r#""labels":["a","b","c"],"#),
            (Some("x"), &[], None, r#""labels":["x"],"#, r#""labels":["x"],"#),
        ];
        for (verdict, tags, otherwise, expected, sorted) in cases {
            let (mut labels, mut out) = (Labels::default(), b"before".to_vec());
            labels.write(verdict, tags.iter().copied(), otherwise, &mut out);
            assert_eq!(String::from_utf8(out.split_off(6)).unwrap(), expected);
            labels.write_sorted(verdict, tags.iter().copied(), otherwise, &mut out);
            assert_eq!(String::from_utf8(out.split_off(6)).unwrap(), sorted);
        }
    }
}
