//! JSON text written anew: compact, keys sorted by code point at every depth, each once. From text to text in one pass;
//! no values are built.
//!
//! Members are written in the order they come, and only where that was not the order of their keys are the bytes put
//! right afterwards. What is no JSON, or nested too deep, gives `None`, and then the buffer may hold a part of it.

use std::borrow::Cow;
use std::ops::Range;

use crate::model::json::{escape_into, python_number_into};

/// Deeper text is given up. Ingest refuses documents of more than 128 levels, and consumers stop at about that depth.
const MAX_DEPTH: usize = 160;

/// What is changed besides the order of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Changes {
    /// Nothing.
    None,
    /// STIX has no nulls, no empty lists and no empty dictionaries: such members and elements are left out.
    Pruned,
    /// Numbers as Python writes them after reading them.
    Pythonic,
}

/// A member of an object that is being written.
#[derive(Clone, Debug)]
struct Member {
    /// From the quote of its key to the end of its value.
    bytes: Range<usize>,
    /// The key as written, without quotes.
    key: Range<usize>,
}

/// Writes JSON text anew. Kept between calls for its memory.
#[derive(Debug, Default)]
pub(super) struct Rewriter {
    /// The members so far of all objects that are open.
    members: Vec<Member>,
    moved: Vec<u8>,
}

impl Rewriter {
    /// Appends the value that is all of `text`, blanks aside.
    pub(super) fn whole(&mut self, text: &str, changes: Changes, out: &mut Vec<u8>) -> Option<()> {
        let mut reader = Reader { text, at: 0 };
        self.value(&mut reader, changes, out)?;
        reader.is_at_end().then_some(())
    }

    /// Appends the value that comes next.
    pub(super) fn value(&mut self, reader: &mut Reader<'_>, changes: Changes, out: &mut Vec<u8>) -> Option<()> {
        self.members.clear();
        self.nested(reader, changes, 0, out)
    }

    fn nested(&mut self, reader: &mut Reader<'_>, changes: Changes, depth: usize, out: &mut Vec<u8>) -> Option<()> {
        match reader.peek()? {
            b'{' if depth < MAX_DEPTH => self.object(reader, changes, depth, out),
            b'[' if depth < MAX_DEPTH => self.array(reader, changes, depth, out),
            b'{' | b'[' => None,
            b'"' => {
                out.push(b'"');
                reader.string(out)?;
                out.push(b'"');
                Some(())
            }
            b't' => reader.literal("true", out),
            b'f' => reader.literal("false", out),
            b'n' => reader.literal("null", out),
            _ => {
                let number = reader.number()?;
                match changes {
                    Changes::Pythonic => python_number_into(number, out),
                    Changes::None | Changes::Pruned => out.extend_from_slice(number.as_bytes()),
                }
                Some(())
            }
        }
    }

    fn array(&mut self, reader: &mut Reader<'_>, changes: Changes, depth: usize, out: &mut Vec<u8>) -> Option<()> {
        reader.expect(b'[')?;
        out.push(b'[');
        let open = out.len();
        if reader.skip(b']') {
            out.push(b']');
            return Some(());
        }
        loop {
            let start = out.len();
            if start > open {
                out.push(b',');
            }
            let value = out.len();
            self.nested(reader, changes, depth + 1, out)?;
            if changes == Changes::Pruned && says_nothing(out.get(value..)?) {
                out.truncate(start);
            }
            if !reader.skip(b',') {
                reader.expect(b']')?;
                out.push(b']');
                return Some(());
            }
        }
    }

    fn object(&mut self, reader: &mut Reader<'_>, changes: Changes, depth: usize, out: &mut Vec<u8>) -> Option<()> {
        reader.expect(b'{')?;
        out.push(b'{');
        let (open, first) = (out.len(), self.members.len());
        let mut is_sorted = true;
        if reader.skip(b'}') {
            out.push(b'}');
            return Some(());
        }
        loop {
            let before = out.len();
            if before > open {
                out.push(b',');
            }
            let start = out.len();
            out.push(b'"');
            let key_start = out.len();
            reader.string(out)?;
            let key = key_start..out.len();
            out.extend_from_slice(b"\":");
            reader.expect(b':')?;
            let value = out.len();
            self.nested(reader, changes, depth + 1, out)?;
            if changes == Changes::Pruned && says_nothing(out.get(value..)?) {
                // Of repeated keys the last one counts, even if it says nothing.
                is_sorted = false;
            }
            if is_sorted && let Some(last) = self.members.get(first..).and_then(<[Member]>::last) {
                is_sorted = precedes(out.get(last.key.clone())?, out.get(key.clone())?);
            }
            self.members.push(Member { bytes: start..out.len(), key });
            if !reader.skip(b',') {
                break;
            }
        }
        reader.expect(b'}')?;
        if !is_sorted {
            self.put_right(first, open, changes, out)?;
        }
        self.members.truncate(first);
        out.push(b'}');
        Some(())
    }

    /// Sorts the members of one object, which lie in `out` from `open` on.
    fn put_right(&mut self, first: usize, open: usize, changes: Changes, out: &mut Vec<u8>) -> Option<()> {
        self.moved.clear();
        self.moved.extend_from_slice(out.get(open..)?);
        out.truncate(open);
        let moved = &self.moved;
        let within = |range: &Range<usize>| moved.get(range.start - open..range.end - open).unwrap_or_default();
        let members = self.members.get_mut(first..)?;
        members.sort_by(|a, b| compare(within(&a.key), within(&b.key)));
        for (at, member) in members.iter().enumerate() {
            let is_repeated = members.get(at + 1).is_some_and(|next| !precedes(within(&member.key), within(&next.key)));
            let value = member.key.end + 2..member.bytes.end;
            if is_repeated || changes == Changes::Pruned && says_nothing(within(&value)) {
                continue;
            }
            if out.len() > open {
                out.push(b',');
            }
            out.extend_from_slice(within(&member.bytes));
        }
        Some(())
    }
}

/// Whether a written value is one that STIX leaves out.
pub(super) fn says_nothing(value: &[u8]) -> bool {
    matches!(value, b"null" | b"[]" | b"{}")
}

fn precedes(a: &[u8], b: &[u8]) -> bool {
    compare(a, b).is_lt()
}

/// Compares keys as written by their code points.
pub(super) fn compare(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    if a.contains(&b'\\') || b.contains(&b'\\') { unescaped(a).cmp(&unescaped(b)) } else { a.cmp(b) }
}

/// What a written key says.
fn unescaped(written: &[u8]) -> Cow<'_, [u8]> {
    let text = std::str::from_utf8(written).unwrap_or_default();
    match serde_json::from_str::<String>(&format!("\"{text}\"")) {
        Ok(key) => Cow::Owned(key.into_bytes()),
        Err(_) => Cow::Borrowed(written),
    }
}

/// Reads JSON text from front to back.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Reader { text, at: 0 }
    }

    /// The byte that comes next, past blanks.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match *self.text.as_bytes().get(self.at)? {
                b' ' | b'\t' | b'\r' | b'\n' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    pub(super) fn is_at_end(&mut self) -> bool {
        self.peek().is_none()
    }

    /// Passes that byte if it comes next.
    pub(super) fn skip(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Whether that byte comes next.
    pub(super) fn comes(&mut self, byte: u8) -> bool {
        self.peek() == Some(byte)
    }

    pub(super) fn expect(&mut self, byte: u8) -> Option<()> {
        self.skip(byte).then_some(())
    }

    fn literal(&mut self, literal: &'static str, out: &mut Vec<u8>) -> Option<()> {
        self.at = self.text.get(self.at..)?.starts_with(literal).then_some(self.at + literal.len())?;
        out.extend_from_slice(literal.as_bytes());
        Some(())
    }

    fn number(&mut self) -> Option<&'a str> {
        let rest = self.text.get(self.at..)?;
        let digits = |from: usize| {
            let bytes = rest.bytes().skip(from);
            from + bytes.take_while(u8::is_ascii_digit).count()
        };
        let some_digits = |from: usize| Some(digits(from)).filter(|end| *end > from);
        let byte = |at: usize| rest.as_bytes().get(at).copied();
        let whole = usize::from(byte(0) == Some(b'-'));
        let mut end = if byte(whole) == Some(b'0') { whole + 1 } else { some_digits(whole)? };
        if byte(end) == Some(b'.') {
            end = some_digits(end + 1)?;
        }
        if matches!(byte(end), Some(b'e' | b'E')) {
            end = some_digits(end + 1 + usize::from(matches!(byte(end + 1), Some(b'+' | b'-'))))?;
        }
        self.at += end;
        rest.get(..end)
    }

    /// Appends the inside of the string that comes next, escaped no more than it must be. Half of a surrogate pair,
    /// which is no character, becomes U+FFFD.
    pub(super) fn string(&mut self, out: &mut Vec<u8>) -> Option<()> {
        self.expect(b'"')?;
        loop {
            let rest = self.text.get(self.at..)?;
            let length = rest.bytes().position(|byte| matches!(byte, b'"' | b'\\'))?;
            escape_into(rest.get(..length)?, out);
            self.at += length + 1;
            if rest.as_bytes().get(length) == Some(&b'"') {
                return Some(());
            }
            let c = match *self.text.as_bytes().get(self.at)? {
                b'u' => {
                    let first = self.unit(self.at + 1)?;
                    self.at += 5;
                    self.character(first)
                }
                plain => {
                    self.at += 1;
                    match plain {
                        b'"' | b'\\' | b'/' => char::from(plain),
                        b'b' => '\u{8}',
                        b'f' => '\u{c}',
                        b'n' => '\n',
                        b'r' => '\r',
                        b't' => '\t',
                        _ => return None,
                    }
                }
            };
            escape_into(c.encode_utf8(&mut [0; 4]), out);
        }
    }

    /// The character whose first UTF-16 unit was read; passes the second one if there must be one.
    fn character(&mut self, first: u16) -> char {
        let second = || self.text.get(self.at..)?.starts_with("\\u").then(|| self.unit(self.at + 2))?;
        let pair = second().map(|second| char::decode_utf16([first, second]).next());
        match (char::decode_utf16([first]).next(), pair) {
            (Some(Ok(c)), _) => c,
            (_, Some(Some(Ok(c)))) => {
                self.at += 6;
                c
            }
            _ => char::REPLACEMENT_CHARACTER,
        }
    }

    /// The number of four hexadecimal digits at `at`.
    fn unit(&self, at: usize) -> Option<u16> {
        let digits = self.text.get(at..at + 4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        u16::from_str_radix(digits, 16).ok()
    }

    /// Passes the value that comes next, without looking closely at it.
    pub(super) fn pass(&mut self) -> Option<()> {
        let mut open = 0usize;
        loop {
            match self.peek()? {
                b'"' => self.pass_string()?,
                b'{' | b'[' => {
                    open += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' => {
                    open = open.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' if open > 0 => {
                    self.at += 1;
                    continue;
                }
                b't' | b'n' => self.at += 4,
                b'f' => self.at += 5,
                _ => _ = self.number()?,
            }
            if open == 0 {
                return Some(());
            }
        }
    }

    fn pass_string(&mut self) -> Option<()> {
        self.expect(b'"')?;
        loop {
            let rest = self.text.as_bytes().get(self.at..)?;
            let length = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
            self.at += length + 1;
            match rest.get(length) {
                Some(b'"') => return Some(()),
                _ => self.at += 1,
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn rewritten(text: &str, changes: Changes) -> Option<String> {
        let mut out = b"before".to_vec();
        // Twice, since the rewriter is used for one row after another.
        let mut rewriter = Rewriter::default();
        let first = rewriter.whole(text, changes, &mut Vec::new());
        rewriter.whole(text, changes, &mut out)?;
        first?;
        Some(String::from_utf8(out).unwrap().split_off("before".len()))
    }

    #[test]
    fn text_is_written_anew() {
        let cases = [
            (r#" { "b" : 1 , "a" : [ 1 , 2.50 , -0 ] } "#, Some(r#"{"a":[1,2.50,-0],"b":1}"#)),
            (r#"{"a":1,"B":2,"a":{"z":null,"y":[]}}"#, Some(r#"{"B":2,"a":{"y":[],"z":null}}"#)),
            (
                r##"{"\u0061b":1,"aa":2,"\"":3,"\n":4,"!":5,"#":6}"##,
                Some(r##"{"\n":4,"!":5,"\"":3,"#":6,"aa":2,"ab":1}"##),
            ),
            (r#""\/\u00e9\ud83d\ude00\u007f\u001F\b""#, Some("\"/\u{e9}\u{1f600}\u{7f}\\u001f\\b\"")),
            (
                r#"["\ud83d","\ud83dx","\ude00\ud83d","\ud83d\n"]"#,
                Some("[\"\u{fffd}\",\"\u{fffd}x\",\"\u{fffd}\u{fffd}\",\"\u{fffd}\\n\"]"),
            ),
            ("{}", Some("{}")),
            ("[ ]", Some("[]")),
            ("true", Some("true")),
            ("{\"\u{fb33}\":1,\"\u{1f600}\":2}", Some("{\"\u{fb33}\":1,\"\u{1f600}\":2}")),
            ("", None),
            ("{", None),
            ("{\"a\"}", None),
            ("[1,]", None),
            ("[1 2]", None),
            ("tru", None),
            ("\"a", None),
            ("\"\\x\"", None),
            ("\"\\u12\u{e9}\"", None),
            ("1 1", None),
        ];
        for (text, expected) in cases {
            assert_eq!(rewritten(text, Changes::None).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn what_says_nothing_is_pruned_from_within() {
        let cases = [
            (r#"{"a":null,"b":[],"c":{"d":{"e":[null,[],{}]}},"f":[1,null,2],"g":""}"#, r#"{"f":[1,2],"g":""}"#),
            (r#"{"a":{"b":null}}"#, "{}"),
            (r#"{"b":1,"a":1,"b":null}"#, r#"{"a":1}"#),
            (r#"{"a":1,"a":null}"#, "{}"),
        ];
        for (text, expected) in cases {
            assert_eq!(rewritten(text, Changes::Pruned).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(
            rewritten(r#"{"b":1.50,"a":[1e2,null]}"#, Changes::Pythonic).unwrap(),
            r#"{"a":[100.0,null],"b":1.5}"#
        );
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(rewritten(&nested(MAX_DEPTH), Changes::None).is_some());
        for depth in [MAX_DEPTH + 1, 200_000] {
            assert_eq!(rewritten(&nested(depth), Changes::None), None);
            let mut reader = Reader::new("");
            let text = nested(depth);
            reader.text = &text;
            assert!(reader.pass().is_some() && reader.is_at_end());
        }
    }

    pub(in crate::render) fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[a-c\"\\\\\n\u{e9}]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 60, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec(("[a-c\"\\\\\n\u{e9}\u{1f600}\u{fb33}]{0,3}", inner), 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// Members in the order given, so that there is something to sort; keys repeated first with a value that loses.
    fn shuffled(value: &Value, out: &mut String) {
        match value {
            Value::Object(members) => {
                out.push('{');
                let mut first = true;
                for (key, lost) in members.keys().rev().zip([true, false].into_iter().cycle()) {
                    let key_text = serde_json::to_string(key).unwrap();
                    if !first {
                        out.push_str(" ,");
                    }
                    first = false;
                    if lost {
                        out.push_str(&format!("{key_text}:[{{\"x\":1}}],"));
                    }
                    out.push_str(&format!("{key_text}: "));
                    shuffled(&members[key], out);
                }
                out.push('}');
            }
            Value::Array(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    out.push_str(if at > 0 { ",\n" } else { "" });
                    shuffled(item, out);
                }
                out.push(']');
            }
            plain => out.push_str(&plain.to_string()),
        }
    }

    proptest! {
        /// serde_json's map sorts keys as Rust does text: by code point.
        #[test]
        fn any_json_comes_out_as_serde_sorts_it(value in any_json()) {
            let mut text = String::new();
            shuffled(&value, &mut text);
            prop_assert_eq!(rewritten(&text, Changes::None), Some(value.to_string()));
            let mut reader = Reader::new(&text);
            prop_assert!(reader.pass().is_some() && reader.is_at_end());
        }

        #[test]
        fn any_text_ends_without_a_panic(text in prop_oneof![any::<String>(), "[{}\\[\\]\",:\\\\u0d8eE.tfn -]{0,40}"]) {
            for changes in [Changes::None, Changes::Pruned, Changes::Pythonic] {
                let written = rewritten(&text, changes);
                prop_assert!(written.is_some() || serde_json::from_str::<Value>(&text).is_err());
                if let Some(written) = written {
                    prop_assert!(serde_json::from_str::<Box<serde_json::value::RawValue>>(&written).is_ok(), "{}", written);
                }
            }
            Reader::new(&text).pass();
        }
    }
}
