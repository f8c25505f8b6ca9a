//! JSON as text: checked once by the grammar, then read in place.
//!
//! Nothing here recurses or builds values. [`each_member`] and [`checked_end`] accept what RFC 8259 does, which a test
//! compares with serde_json. The other functions are for text that was accepted; on anything else they give nonsense but
//! never panic or loop.

use std::borrow::Cow;

/// Deeper documents are refused: consumers' own parsers stop at about this depth.
pub(crate) const MAX_DEPTH: usize = 128;

/// What the grammar allows and no reader can hold, by where it is seen first. Kept, it would break whatever page it
/// comes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Doubts {
    /// An escape that is half of a surrogate pair, and no character.
    pub(crate) surrogate: Option<usize>,
    /// A number beyond all floats.
    pub(crate) number: Option<usize>,
}

/// Visits the members of the object that opens at `open`, inside of `depth` other containers, and gives the position
/// behind it. `visit` gets a member's key and where its value begins, and gives where that ends
/// ([`checked_end`], or a nested `each_member`). `None`: not JSON, or too deep.
pub(crate) fn each_member<'a>(
    text: &'a str,
    open: usize,
    depth: usize,
    doubts: &mut Doubts,
    mut visit: impl FnMut(Cow<'a, str>, usize, &mut Doubts) -> Option<usize>,
) -> Option<usize> {
    let bytes = text.as_bytes();
    if bytes.get(open) != Some(&b'{') || depth >= MAX_DEPTH {
        return None;
    }
    let mut at = blank_end(bytes, open + 1);
    if bytes.get(at) == Some(&b'}') {
        return Some(at + 1);
    }
    loop {
        let (key_end, is_plain) = checked_string(bytes, at, doubts)?;
        let key = match is_plain {
            true => Cow::Borrowed(text.get(at + 1..key_end - 1)?),
            // Escapes that are no characters stay as they are written.
            false => string(text.get(at..key_end)?).unwrap_or(Cow::Borrowed(text.get(at..key_end)?)),
        };
        let value = value_start(bytes, key_end)?;
        at = blank_end(bytes, visit(key, value, doubts)?);
        match bytes.get(at)? {
            b',' => at = blank_end(bytes, at + 1),
            b'}' => return Some(at + 1),
            _ => return None,
        }
    }
}

/// Position behind the value that begins at `start`, inside of `depth` containers. `None`: not JSON, or too deep.
pub(crate) fn checked_end(text: &str, start: usize, depth: usize, doubts: &mut Doubts) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = start;
    let mut open = 0;
    // For each open container whether it is an object; the innermost is the lowest bit.
    let mut objects: u128 = 0;
    const { assert!(MAX_DEPTH <= u128::BITS as usize) };
    loop {
        match *bytes.get(at)? {
            b'"' => at = checked_string_end(bytes, at, doubts)?,
            opening @ (b'{' | b'[') => {
                if depth + open >= MAX_DEPTH {
                    return None;
                }
                let is_object = opening == b'{';
                at = blank_end(bytes, at + 1);
                if bytes.get(at) == Some(if is_object { &b'}' } else { &b']' }) {
                    at += 1;
                } else {
                    open += 1;
                    objects = objects << 1 | u128::from(is_object);
                    if is_object {
                        at = value_start(bytes, checked_string_end(bytes, at, doubts)?)?;
                    }
                    continue;
                }
            }
            b't' => at = literal_end(bytes, at, b"true")?,
            b'f' => at = literal_end(bytes, at, b"false")?,
            b'n' => at = literal_end(bytes, at, b"null")?,
            _ => at = number_end(bytes, at, doubts)?,
        }
        loop {
            if open == 0 {
                return Some(at);
            }
            at = blank_end(bytes, at);
            let in_object = objects & 1 == 1;
            match (*bytes.get(at)?, in_object) {
                (b',', true) => {
                    let key = blank_end(bytes, at + 1);
                    at = value_start(bytes, checked_string_end(bytes, key, doubts)?)?;
                    break;
                }
                (b',', false) => {
                    at = blank_end(bytes, at + 1);
                    break;
                }
                (b'}', true) | (b']', false) => {
                    at += 1;
                    open -= 1;
                    objects >>= 1;
                }
                _ => return None,
            }
        }
    }
}

/// Past the colon behind a key.
fn value_start(bytes: &[u8], key_end: usize) -> Option<usize> {
    let colon = blank_end(bytes, key_end);
    (bytes.get(colon) == Some(&b':')).then(|| blank_end(bytes, colon + 1))
}

pub(crate) fn blank_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\r' | b'\n') = bytes.get(at) {
        at += 1;
    }
    at
}

fn literal_end(bytes: &[u8], at: usize, literal: &[u8]) -> Option<usize> {
    let end = at + literal.len();
    (bytes.get(at..end)? == literal).then_some(end)
}

fn number_end(bytes: &[u8], start: usize, doubts: &mut Doubts) -> Option<usize> {
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let some_digits = |at: usize| Some(digits(at)).filter(|end| *end > at);
    let whole = start + usize::from(bytes.get(start) == Some(&b'-'));
    let mut at = if bytes.get(whole) == Some(&b'0') { whole + 1 } else { some_digits(whole)? };
    if bytes.get(at) == Some(&b'.') {
        at = some_digits(at + 1)?;
    }
    let has_exponent = matches!(bytes.get(at), Some(b'e' | b'E'));
    if has_exponent {
        at = some_digits(at + 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-'))))?;
    }
    if doubts.number.is_none() && (has_exponent || at - start > f64::MAX_10_EXP as usize) {
        let number = std::str::from_utf8(bytes.get(start..at)?).ok()?.parse::<f64>();
        doubts.number = number.is_ok_and(f64::is_infinite).then_some(start);
    }
    Some(at)
}

fn checked_string_end(bytes: &[u8], quote: usize, doubts: &mut Doubts) -> Option<usize> {
    checked_string(bytes, quote, doubts).map(|(end, _)| end)
}

/// Position behind a string, and whether it is free of escapes.
fn checked_string(bytes: &[u8], quote: usize, doubts: &mut Doubts) -> Option<(usize, bool)> {
    if bytes.get(quote) != Some(&b'"') {
        return None;
    }
    let mut at = quote + 1;
    let mut is_plain = true;
    loop {
        at = special_at(bytes, at)?;
        if bytes.get(at) == Some(&b'"') {
            return Some((at + 1, is_plain));
        }
        is_plain = false;
        match bytes.get(at..)? {
            [b'\\', b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => at += 2,
            _ => {
                let (first, second) = (escaped_unit(bytes, at)?, || escaped_unit(bytes, at + 6));
                at += match first {
                    0xd800..0xdc00 if second().is_some_and(|second| matches!(second, 0xdc00..0xe000)) => 12,
                    0xd800..0xe000 => {
                        doubts.surrogate.get_or_insert(at);
                        6
                    }
                    _ => 6,
                };
            }
        }
    }
}

/// The number of the escape `\uXXXX` at `at`.
fn escaped_unit(bytes: &[u8], at: usize) -> Option<u32> {
    let [b'\\', b'u', digits @ ..] = bytes.get(at..at + 6)? else { return None };
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
}

/// Position of the first quote, backslash or control character from `at` on. As `first_special`, without its
/// preparations: most strings end within two words.
fn special_at(bytes: &[u8], mut at: usize) -> Option<usize> {
    while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let found = special_bits(u64::from_le_bytes(*word));
        if found != 0 {
            return Some(at + (found.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    bytes.get(at..)?.iter().position(|byte| *byte < 0x20 || matches!(byte, b'"' | b'\\')).map(|found| at + found)
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// Marks the high bit of zero bytes; a borrow can mark bytes above the first one wrongly, never below it.
fn zero_bits(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & (ONES << 7)
}

/// Marks, in the same way, quotes, backslashes and control characters.
fn special_bits(word: u64) -> u64 {
    let control = word.wrapping_sub(ONES * 0x20) & !word & (ONES << 7);
    control | zero_bits(word ^ (ONES * b'"' as u64)) | zero_bits(word ^ (ONES * b'\\' as u64))
}

/// The text of a scalar: of a string its content, of a number or a truth value how it is written, of a list its first
/// text. `None` for null, blank text, objects, and escapes that are no characters.
pub(crate) fn text(raw: &str) -> Option<Cow<'_, str>> {
    let text = match raw.as_bytes().first()? {
        b'"' => string(raw)?,
        b'[' => return items(raw).filter(|item| !item.starts_with('[')).find_map(text),
        b'{' | b'n' => return None,
        _ => Cow::Borrowed(raw),
    };
    (!is_blank(&text)).then_some(text)
}

/// Whether there is nothing but blanks.
pub(crate) fn is_blank(text: &str) -> bool {
    // Almost every text shows with its first byte that it is not.
    !text.as_bytes().first().is_some_and(u8::is_ascii_graphic) && text.trim().is_empty()
}

/// The content of a JSON string; `None` for anything else.
pub(crate) fn string(raw: &str) -> Option<Cow<'_, str>> {
    let ([b'"', inner @ .., b'"'], true) = (raw.as_bytes(), raw.len() > 1) else { return None };
    if has_backslash(inner) {
        serde_json::from_str(raw).ok().map(Cow::Owned)
    } else {
        raw.get(1..raw.len() - 1).map(Cow::Borrowed)
    }
}

/// Eight bytes at a time, the last ones overlapping: most strings are too short for anything longer to pay.
fn has_backslash(bytes: &[u8]) -> bool {
    let in_word = |word: [u8; 8]| zero_bits(u64::from_le_bytes(word) ^ (ONES * b'\\' as u64)) != 0;
    match bytes.last_chunk::<8>() {
        Some(last) => bytes.as_chunks::<8>().0.iter().any(|word| in_word(*word)) || in_word(*last),
        None => bytes.contains(&b'\\'),
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
pub(crate) fn value_end(bytes: &[u8], start: usize) -> usize {
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
    while let Some(special) = special_at(bytes, at) {
        at = special;
        match bytes.get(at) {
            Some(b'"') => return at + 1,
            Some(b'\\') => at += 2,
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
    if !matches!(bytes.first(), Some(b'{' | b'[' | b' ' | b'\t' | b'\r' | b'\n')) {
        return out.extend_from_slice(bytes);
    }
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

    /// Whether the whole text is a value.
    fn accepts(text: &str) -> bool {
        checked_end(text, 0, 0, &mut Doubts::default()) == Some(text.len())
    }

    #[test]
    fn what_no_reader_holds_is_seen_where_it_is_first() {
        let huge = format!("[1.5,-{}]", "9".repeat(400));
        let cases = [
            (r#"["\ud83d\ude00\u00e9\\ud800"]"#, None, None),
            (r#"["x\ud83d"]"#, Some(3), None),
            (r#"["\ude00\ud83d"]"#, Some(2), None),
            (r#"["\ud83d\ud83d\ude00"]"#, Some(2), None),
            (r#"["\uD83Dx\uDE00"]"#, Some(2), None),
            (r#"{"a":{"\udfff":1}}"#, Some(7), None),
            ("[1e308,1E-999,-0.0e0,1e999,1e1000]", None, Some(21)),
            (huge.as_str(), None, Some(5)),
        ];
        for (text, surrogate, number) in cases {
            let mut doubts = Doubts::default();
            assert_eq!(checked_end(text, 0, 0, &mut doubts), Some(text.len()), "{text}");
            assert_eq!(doubts, Doubts { surrogate, number }, "{text}");
            let readable = serde_json::from_str::<serde_json::Value>(text).is_ok();
            assert_eq!(readable, surrogate.is_none() && number.is_none(), "{text}");
        }
    }

    #[test]
    fn depth_counts_open_containers_only() {
        assert!(accepts(&format!("[{}1]", "[],".repeat(500))));
        assert!(accepts(&format!("[\"{}\"]", "[".repeat(500))));
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(accepts(&nested(MAX_DEPTH)));
        assert!(!accepts(&nested(MAX_DEPTH + 1)));
        assert_eq!(checked_end(&nested(2), 0, MAX_DEPTH - 1, &mut Doubts::default()), None);
        assert!(!accepts(&nested(100_000)));
        assert_eq!(each_member("{}", 0, MAX_DEPTH, &mut Doubts::default(), |_, _, _| None), None);
    }

    #[test]
    fn the_grammar_is_that_of_serde_json() {
        let parts = [
            "0",
            "-0",
            "01",
            "-",
            "1.",
            ".5",
            "1.5",
            "1e",
            "1e5",
            "1E+05",
            "1e-",
            "+1",
            "1.e1",
            "true",
            "tru",
            "false",
            "nul",
            "null",
            "\"\"",
            "\"\\",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12F4\"",
            "\"\\ud800\"",
            "\"\u{1}\"",
            "\"\u{7f}\"",
            "\"\n\"",
            "\"\\n\\/\"",
            "{}",
            "[]",
            "[1,]",
            "[,1]",
            "{\"a\":1,}",
            "{\"a\"}",
            "{\"a\" : [ {} , 1 ] }",
            "{a:1}",
            "{1:1}",
            "[1 2]",
            "{\"a\":1 \"b\":2}",
            "[}",
            "{]",
            "[1",
            "{\"a\":",
            "",
            " ",
            "\u{feff}1",
            "NaN",
            "[\u{c}1]",
        ];
        for text in parts {
            assert_eq!(accepts(text), serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok(), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn random_text_is_accepted_as_serde_json_does(parts in proptest::collection::vec(
            proptest::sample::select(vec!["{", "}", "[", "]", ",", ":", "\"a\"", "\"", "\\", "1", "-", ".", "e", "null", " ", "\n"]),
            0..12,
        )) {
            let text = parts.concat();
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(text.trim_start()).is_ok();
            proptest::prop_assert_eq!(accepts(text.trim()), theirs, "{}", text);
        }

        #[test]
        fn nothing_here_panics_on_rubbish(raw in "[\\[\\]{}\",: \\\\ax\u{e9}]{0,40}") {
            let mut out = Vec::new();
            compact(&raw, &mut out);
            let _ = (text(&raw), items(&raw).count(), members(&raw).count());
            let _ = checked_end(&raw, 0, 0, &mut Doubts::default());
        }
    }
}
