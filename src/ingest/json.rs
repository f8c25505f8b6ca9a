//! Small readers over the text of JSON values that serde_json has already accepted.
//!
//! They walk the text once, without recursion and without building values. On text that is not JSON they give nonsense
//! but never panic or loop.

use std::borrow::Cow;

/// Deeper documents are refused: consumers' own parsers stop at about this depth.
pub(crate) const MAX_DEPTH: usize = 128;

/// The text of a scalar: of a string its content, of a number or a truth value how it is written, of a list its first
/// text. `None` for null, blank text, objects, and escapes that are no characters.
pub(crate) fn text(raw: &str) -> Option<Cow<'_, str>> {
    let text = match raw.as_bytes().first()? {
        b'"' => string(raw)?,
        b'[' => return items(raw).filter(|item| !item.starts_with('[')).find_map(text),
        b'{' | b'n' => return None,
        _ => Cow::Borrowed(raw),
    };
    (!text.trim().is_empty()).then_some(text)
}

/// The content of a JSON string; `None` for anything else.
pub(crate) fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.as_bytes().contains(&b'\\') {
        serde_json::from_str(raw).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// The elements of an array; of null nothing; of anything else the value itself.
pub(crate) fn items(raw: &str) -> Items<'_> {
    match raw.as_bytes().first() {
        Some(b'[') => Items { raw, at: 1, single: false },
        None | Some(b'n') => Items { raw: "", at: 0, single: false },
        Some(_) => Items { raw, at: 0, single: true },
    }
}

/// See [`items`].
#[derive(Debug)]
pub(crate) struct Items<'a> {
    raw: &'a str,
    at: usize,
    single: bool,
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.single {
            self.single = false;
            return Some(std::mem::take(&mut self.raw));
        }
        let start = skip_between(self.raw.as_bytes(), self.at);
        self.at = value_end(self.raw.as_bytes(), start);
        self.raw.get(start..self.at).filter(|item| !item.is_empty())
    }
}

/// The members of an object, keys with their quotes; of anything else nothing.
pub(crate) fn members(raw: &str) -> impl Iterator<Item = (&str, &str)> {
    let list = if raw.starts_with('{') { raw } else { "" };
    let mut parts = Items { raw: list, at: 1, single: false };
    std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
}

/// The value of an object's member, by the key as written without quotes.
pub(crate) fn member<'a>(raw: &'a str, key: &str) -> Option<&'a str> {
    members(raw).find(|(name, _)| name.trim_matches('"') == key).map(|(_, value)| value)
}

/// Position of the next value at or after `at`: past blanks, commas and colons.
fn skip_between(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    let skipped = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',' | b':'));
    at + skipped.unwrap_or(rest.len())
}

/// End of the value that begins at `start`; `start` itself where a container ends.
fn value_end(bytes: &[u8], start: usize) -> usize {
    match bytes.get(start) {
        Some(b'"') => string_end(bytes, start),
        Some(b'{' | b'[') => container_end(bytes, start),
        _ => {
            let rest = bytes.get(start..).unwrap_or_default();
            let ends = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',' | b':' | b']' | b'}');
            start + rest.iter().position(ends).unwrap_or(rest.len())
        }
    }
}

fn string_end(bytes: &[u8], quote: usize) -> usize {
    let mut at = quote + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn container_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    let mut depth = 0usize;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = string_end(bytes, at);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// Appends the value without insignificant blanks: keys, their order and the spelling of numbers and text stay.
pub(crate) fn compact(raw: &str, out: &mut Vec<u8>) {
    let bytes = raw.as_bytes();
    let mut kept_from = 0;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = string_end(bytes, at),
            b' ' | b'\t' | b'\r' | b'\n' => {
                out.extend_from_slice(bytes.get(kept_from..at).unwrap_or_default());
                at += 1;
                kept_from = at;
            }
            _ => at += 1,
        }
    }
    out.extend_from_slice(bytes.get(kept_from..).unwrap_or_default());
}

/// Whether containers are nested deeper than [`MAX_DEPTH`].
pub(crate) fn too_deep(raw: &str) -> bool {
    let bytes = raw.as_bytes();
    // Few documents open so many containers at all, and counting them is a vector loop.
    if bytes.iter().map(|byte| usize::from(byte | 0x20 == b'{')).sum::<usize>() <= MAX_DEPTH {
        return false;
    }
    let mut at = 0;
    let mut depth = 0usize;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = string_end(bytes, at);
                continue;
            }
            b'{' | b'[' if depth == MAX_DEPTH => return true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_taken_from_whatever_holds_it() {
        let cases = [
            ("\"a b\"", Some("a b")),
            ("\"\\u00e9\\\"\"", Some("\u{e9}\"")),
            ("12.50", Some("12.50")),
            ("true", Some("true")),
            ("[null,\"\",\"x\",\"y\"]", Some("x")),
            ("null", None),
            ("\" \"", None),
            ("{\"a\":1}", None),
            ("[[\"x\"]]", None),
            ("\"\\ud800\"", None),
            ("", None),
        ];
        for (raw, expected) in cases {
            assert_eq!(text(raw).as_deref(), expected, "{raw}");
        }
    }

    #[test]
    fn items_and_members_are_cut_at_their_ends() {
        let list = "[ 1 ,\"a,]\\\"\", {\"b\":[2,3]} ,[],null]";
        assert_eq!(items(list).collect::<Vec<_>>(), ["1", "\"a,]\\\"\"", "{\"b\":[2,3]}", "[]", "null"]);
        assert_eq!(items("[]").count() + items("null").count() + items("").count() + items("[ ]").count(), 0);
        assert_eq!(items("\"x\"").collect::<Vec<_>>(), ["\"x\""]);
        let object = "{ \"a\" : 1,\"b\":{\"a\":2} , \"c\":\"}\"}";
        assert_eq!(members(object).collect::<Vec<_>>(), [("\"a\"", "1"), ("\"b\"", "{\"a\":2}"), ("\"c\"", "\"}\"")]);
        assert_eq!(member(object, "c"), Some("\"}\""));
        assert_eq!(members("[1,2]").count(), 0);
    }

    #[test]
    fn compact_keeps_every_significant_byte() {
        let mut out = Vec::new();
        compact(" { \"b\" : 1.50e+3 ,\r\n\t\"a\": [ \" x \\\" \" , {} ] } ", &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "{\"b\":1.50e+3,\"a\":[\" x \\\" \",{}]}");
    }

    #[test]
    fn depth_counts_open_containers_only() {
        assert!(!too_deep(&format!("[{}]", "[],".repeat(500))));
        assert!(!too_deep(&format!("[\"{}\"]", "[".repeat(500))));
        assert!(!too_deep(&format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH))));
        assert!(too_deep(&format!("{}{}", "[{\"a\":".repeat(MAX_DEPTH / 2) + "[", "]}")));
        assert!(too_deep(&"[".repeat(100_000)));
    }

    proptest::proptest! {
        #[test]
        fn nothing_here_panics_on_rubbish(raw in "[\\[\\]{}\",: \\\\ax\u{e9}]{0,40}") {
            let mut out = Vec::new();
            compact(&raw, &mut out);
            let _ = (text(&raw), too_deep(&raw), items(&raw).count(), members(&raw).count());
        }
    }
}
