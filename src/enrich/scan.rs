//! One pass over a line: is it a JSON object, where does it end, which texts does it hold.
//!
//! Nothing is built: texts are handed out as the bytes between their quotes, and names of fields are put together only when a list of
//! wanted fields has to be compared, or something was found. The grammar is that of RFC 8259, but for the encoding: bytes that are no
//! UTF-8 stay as they are.

use crate::model::json::first_special;

/// Objects and lists inside each other that are followed: a bit each.
const MOST_DEPTH: u32 = 128;

/// Why a line is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// It does not begin with `{`.
    #[error("not a JSON object")]
    NoObject,
    /// It is not JSON from there on.
    #[error("not JSON at character {}", at + 1)]
    Syntax {
        /// Byte, from 0.
        at: usize,
    },
    /// It ends before the object does.
    #[error("the JSON object is cut off")]
    CutOff,
    /// Something follows the object.
    #[error("text behind the JSON object, at character {}", at + 1)]
    Behind {
        /// Byte, from 0.
        at: usize,
    },
    /// It nests deeper than is followed.
    #[error("nested deeper than {MOST_DEPTH} levels")]
    Deep,
}

/// An event, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    /// Where its closing brace is.
    pub(crate) end: usize,
    /// Nothing is in it.
    pub(crate) empty: bool,
    /// It has a field `threat`.
    pub(crate) has_threat: bool,
    /// It was enriched before, by us or others.
    pub(crate) enriched: bool,
}

/// The fields that are searched; a field stands for all that is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    names: Vec<Box<[u8]>>,
    /// Lengths that occur among them, a bit each; the last one stands for all longer ones.
    lengths: u64,
}

impl Fields {
    pub(crate) fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let names: Vec<Box<[u8]>> = names.into_iter().map(|name| name.as_bytes().into()).collect();
        let lengths = names.iter().fold(0, |lengths, name| lengths | 1 << name.len().min(63));
        Fields { names, lengths }
    }

    fn holds(&self, name: &[u8]) -> bool {
        self.lengths >> name.len().min(63) & 1 == 1 && self.names.iter().any(|wanted| **wanted == *name)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Level {
    /// The key whose value is being read, between its quotes.
    start: usize,
    end: usize,
    escaped: bool,
    /// Length of the path before that key.
    path: usize,
}

/// Scans lines; keeps its memory from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    levels: Vec<Level>,
    /// The name of the field so far, kept up only where fields are wanted.
    path: Vec<u8>,
}

/// A text of an event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a> {
    /// Between the quotes.
    pub(crate) raw: &'a [u8],
    /// Whether there is a `\` in it.
    pub(crate) escaped: bool,
    /// Where the name of its field is found.
    scanner: &'a Scanner,
    line: &'a [u8],
}

impl Text<'_> {
    /// Appends the name of the field: keys joined with dots, lists left out.
    pub(crate) fn field_into(&self, out: &mut Vec<u8>) {
        for (at, level) in self.scanner.levels.iter().enumerate() {
            if at > 0 {
                out.push(b'.');
            }
            level.key_into(self.line, out);
        }
    }
}

impl Level {
    fn key_into(&self, line: &[u8], out: &mut Vec<u8>) {
        let key = line.get(self.start..self.end).unwrap_or_default();
        if self.escaped { unescape_into(key, out) } else { out.extend_from_slice(key) }
    }
}

#[inline]
fn byte(line: &[u8], at: usize) -> u8 {
    line.get(at).copied().unwrap_or(0)
}

#[inline]
fn skip_blanks(line: &[u8], mut at: usize) -> usize {
    while matches!(byte(line, at), b' ' | b'\t' | b'\r' | b'\n') {
        at += 1;
    }
    at
}

/// Where a text ends whose first byte is at `at`, and whether it holds a `\`.
#[inline]
fn text_end(line: &[u8], at: usize) -> Result<(usize, bool), Fault> {
    let rest = line.get(at..).unwrap_or_default();
    let end = at + first_special(rest).ok_or(Fault::CutOff)?;
    if byte(line, end) == b'"' { Ok((end, false)) } else { text_end_behind(line, end) }
}

/// The same from its first byte on that is not plain.
fn text_end_behind(line: &[u8], mut at: usize) -> Result<(usize, bool), Fault> {
    let mut escaped = false;
    loop {
        match byte(line, at) {
            b'"' => return Ok((at, escaped)),
            b'\\' => {
                escaped = true;
                at += match byte(line, at + 1) {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
                    b'u' => {
                        let digits = line.get(at + 2..at + 6).ok_or(Fault::CutOff)?;
                        digits.iter().all(u8::is_ascii_hexdigit).then_some(6).ok_or(Fault::Syntax { at })?
                    }
                    _ if at + 1 >= line.len() => return Err(Fault::CutOff),
                    _ => return Err(Fault::Syntax { at }),
                };
            }
            _ => return Err(Fault::Syntax { at }),
        }
        at += first_special(line.get(at..).unwrap_or_default()).ok_or(Fault::CutOff)?;
    }
}

/// Where a number or one of `true`, `false`, `null` ends.
fn scalar_end(line: &[u8], at: usize) -> Result<usize, Fault> {
    if matches!(byte(line, at), b't' | b'f' | b'n' | 0) {
        let rest = line.get(at..).unwrap_or_default();
        for word in [&b"true"[..], b"false", b"null"] {
            if rest.starts_with(word) {
                return Ok(at + word.len());
            }
            if word.starts_with(rest) {
                return Err(Fault::CutOff);
            }
        }
        return Err(Fault::Syntax { at });
    }
    let mut end = at;
    let digits = |end: &mut usize| {
        let start = *end;
        while byte(line, *end).is_ascii_digit() {
            *end += 1;
        }
        *end - start
    };
    if byte(line, end) == b'-' {
        end += 1;
    }
    let first = byte(line, end);
    let whole = digits(&mut end);
    let mut right = whole == 1 || whole > 1 && first != b'0';
    if right && byte(line, end) == b'.' {
        end += 1;
        right = digits(&mut end) > 0;
    }
    if right && matches!(byte(line, end), b'e' | b'E') {
        end += 1;
        if matches!(byte(line, end), b'+' | b'-') {
            end += 1;
        }
        right = digits(&mut end) > 0;
    }
    if right { Ok(end) } else { Err(broken(line, end)) }
}

fn broken(line: &[u8], at: usize) -> Fault {
    if at >= line.len() { Fault::CutOff } else { Fault::Syntax { at } }
}

impl Scanner {
    /// Reads a line without its line end. `visit` gets the texts that are values, of the fields that are wanted.
    pub(crate) fn scan(
        &mut self,
        line: &[u8],
        wanted: Option<&Fields>,
        mut visit: impl FnMut(Text<'_>),
    ) -> Result<Object, Fault> {
        self.levels.clear();
        self.path.clear();
        let mut at = skip_blanks(line, if line.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 });
        if byte(line, at) != b'{' {
            return Err(Fault::NoObject);
        }
        let mut object = Object { end: 0, empty: false, has_threat: false, enriched: false };
        // What is open: a bit each, set for objects, the innermost lowest.
        let (mut open, mut depth) = (1u128, 1u32);
        // The depth from which on everything is wanted; 0: nowhere.
        let mut all_from = if wanted.is_none() { 1 } else { 0 };
        self.levels.push(Level::default());
        at = skip_blanks(line, at + 1);
        if byte(line, at) == b'}' {
            object.empty = true;
            (object.end, depth) = (at, 0);
            at += 1;
        } else {
            at = self.key(line, at, wanted.filter(|_| all_from == 0), &mut all_from, depth, &mut object)?;
        }
        while depth > 0 {
            // Here a value begins.
            match byte(line, at) {
                b'"' => {
                    let (end, escaped) = text_end(line, at + 1)?;
                    if all_from > 0 {
                        let raw = line.get(at + 1..end).unwrap_or_default();
                        visit(Text { raw, escaped, scanner: self, line });
                    }
                    at = end + 1;
                }
                opening @ (b'{' | b'[') => {
                    if depth == MOST_DEPTH {
                        return Err(Fault::Deep);
                    }
                    let is_object = opening == b'{';
                    open = open << 1 | u128::from(is_object);
                    depth += 1;
                    at = skip_blanks(line, at + 1);
                    let empty = byte(line, at) == if is_object { b'}' } else { b']' };
                    if is_object {
                        if all_from == 0 {
                            self.name(line);
                        }
                        let path = self.path.len();
                        self.levels.push(Level { path, ..Level::default() });
                    }
                    if !empty {
                        if is_object {
                            at = self.key(
                                line,
                                at,
                                wanted.filter(|_| all_from == 0),
                                &mut all_from,
                                depth,
                                &mut object,
                            )?;
                        }
                        continue;
                    }
                }
                _ => at = scalar_end(line, at)?,
            }
            // Here a value has ended; what it ends goes with it.
            if all_from == depth && wanted.is_some() {
                all_from = 0;
            }
            loop {
                at = skip_blanks(line, at);
                let in_object = open & 1 == 1;
                match byte(line, at) {
                    b',' => {
                        at = skip_blanks(line, at + 1);
                        if in_object {
                            at = self.key(
                                line,
                                at,
                                wanted.filter(|_| all_from == 0),
                                &mut all_from,
                                depth,
                                &mut object,
                            )?;
                        }
                        break;
                    }
                    b'}' if in_object => {
                        self.levels.pop();
                    }
                    b']' if !in_object => {}
                    _ => return Err(broken(line, at)),
                }
                object.end = at;
                at += 1;
                depth -= 1;
                open >>= 1;
                if depth == 0 {
                    break;
                }
                if all_from == depth && wanted.is_some() && open & 1 == 1 {
                    all_from = 0;
                }
            }
        }
        at = skip_blanks(line, at);
        if at < line.len() { Err(Fault::Behind { at }) } else { Ok(object) }
    }

    /// Reads a key and what follows up to its value.
    #[inline]
    fn key(
        &mut self,
        line: &[u8],
        at: usize,
        wanted: Option<&Fields>,
        all_from: &mut u32,
        depth: u32,
        object: &mut Object,
    ) -> Result<usize, Fault> {
        if byte(line, at) != b'"' {
            return Err(broken(line, at));
        }
        let start = at + 1;
        let (end, escaped) = text_end(line, start)?;
        let colon = skip_blanks(line, end + 1);
        if byte(line, colon) != b':' {
            return Err(broken(line, colon));
        }
        let levels = self.levels.len();
        if let Some(level) = self.levels.last_mut() {
            (level.start, level.end, level.escaped) = (start, end, escaped);
            if levels <= 2 {
                note(object, levels, line.get(start..end).unwrap_or_default());
            }
        }
        if let (Some(wanted), Some(level)) = (wanted, self.levels.last()) {
            let length = level.path + usize::from(levels > 1) + end - start;
            if escaped || wanted.lengths >> length.min(63) & 1 == 1 {
                self.name(line);
                if wanted.holds(&self.path) {
                    *all_from = depth;
                }
            }
        }
        Ok(skip_blanks(line, colon + 1))
    }

    /// Puts together the name of the field whose value is being read.
    fn name(&mut self, line: &[u8]) {
        let levels = self.levels.len();
        let Some(level) = self.levels.last() else { return };
        self.path.truncate(level.path);
        if levels > 1 {
            self.path.push(b'.');
        }
        level.key_into(line, &mut self.path);
    }
}

/// Whether a key tells that the event was enriched before.
fn note(object: &mut Object, levels: usize, key: &[u8]) {
    match (levels, key) {
        (1, b"threat") => object.has_threat = true,
        (1, b"threat.enrichments" | b"ti_count") => object.enriched = true,
        // Of whichever field: only `threat` has such a one in practice, and it was seen just before.
        (2, b"enrichments") if object.has_threat => object.enriched = true,
        _ => {}
    }
}

/// Appends what a text means whose escapes are right; halves of surrogates become U+FFFD.
pub(crate) fn unescape_into(raw: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        if byte != b'\\' {
            out.push(byte);
            at += 1;
            continue;
        }
        let escape = raw.get(at + 1).copied().unwrap_or(b'\\');
        at += 2;
        match escape {
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'u' => {
                let unit = |at: usize| hex(raw.get(at..at + 4)?);
                let first = unit(at).unwrap_or(0xfffd);
                at += 4;
                let second = || (raw.get(at..at + 2) == Some(b"\\u")).then(|| unit(at + 2)).flatten();
                let point = match (first, second()) {
                    (0xd800..=0xdbff, Some(low @ 0xdc00..=0xdfff)) => {
                        at += 6;
                        0x10000 + (first - 0xd800) * 0x400 + (low - 0xdc00)
                    }
                    _ => first,
                };
                let c = char::from_u32(point).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            other => out.push(other),
        }
    }
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number, digit| Some(number * 16 + char::from(*digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
    use serde_json::{Map, Value, json};

    use super::*;

    type Found = Vec<(String, String)>;

    fn scan(line: &[u8], fields: Option<&[&str]>) -> Result<(Object, Found), Fault> {
        let fields = fields.map(|fields| Fields::new(fields.iter().copied()));
        let mut found = Vec::new();
        let object = Scanner::default().scan(line, fields.as_ref(), |text| {
            let (mut field, mut value) = (Vec::new(), Vec::new());
            text.field_into(&mut field);
            unescape_into(text.raw, &mut value);
            assert_eq!(text.escaped, text.raw.contains(&b'\\'));
            found.push((String::from_utf8_lossy(&field).into_owned(), String::from_utf8_lossy(&value).into_owned()));
        })?;
        Ok((object, found))
    }

    fn texts(line: &str, fields: Option<&[&str]>) -> Vec<String> {
        let (_, found) = scan(line.as_bytes(), fields).unwrap();
        found.into_iter().map(|(field, value)| format!("{field}={value}")).collect()
    }

    #[test]
    fn texts_come_with_the_names_of_their_fields() {
        let line = r#"{"a":"1","b":{"c":["2",{"d":"3","e":[["4"]]},5],"f":"6"},"g.h":"7","i":{"j.k":{"l":"8"}},"m":[],"n":{},"o":"9"}"#;
        assert_eq!(texts(line, None), ["a=1", "b.c=2", "b.c.d=3", "b.c.e=4", "b.f=6", "g.h=7", "i.j.k.l=8", "o=9"]);
        let cases: [(&[&str], &[&str]); 12] = [
            (&["a"], &["a=1"]),
            (&["b"], &["b.c=2", "b.c.d=3", "b.c.e=4", "b.f=6"]),
            (&["b.c"], &["b.c=2", "b.c.d=3", "b.c.e=4"]),
            (&["b.c.d"], &["b.c.d=3"]),
            (&["b.c.e"], &["b.c.e=4"]),
            (&["b.f", "o"], &["b.f=6", "o=9"]),
            (&["g.h"], &["g.h=7"]),
            (&["g"], &[]),
            (&["i.j.k.l"], &["i.j.k.l=8"]),
            (&["i.j.k", "m", "n"], &["i.j.k.l=8"]),
            (&["c", "d", "l"], &[]),
            (&[], &[]),
        ];
        for (fields, expected) in cases {
            assert_eq!(texts(line, Some(fields)), expected, "{fields:?}");
        }
        assert_eq!(texts(r#"{"\u0061\"b":{"\n":"x\/\ud83d\ude00\ud83d"}}"#, None), ["a\"b.\n=x/\u{1f600}\u{fffd}"]);
        assert_eq!(texts(r#"{"\u0061":"x","b":"y"}"#, Some(&["a"])), ["a=x"]);
    }

    #[test]
    fn what_is_no_object_is_told() {
        let deep = format!("{}{}", "{\"a\":".repeat(128), "1");
        let cases = [
            ("", Fault::NoObject),
            ("[]", Fault::NoObject),
            ("null", Fault::NoObject),
            ("text", Fault::NoObject),
            ("{", Fault::CutOff),
            ("{\"a", Fault::CutOff),
            ("{\"a\"", Fault::CutOff),
            ("{\"a\":", Fault::CutOff),
            ("{\"a\":tr", Fault::CutOff),
            ("{\"a\":1", Fault::CutOff),
            ("{\"a\":\"\\", Fault::CutOff),
            ("{\"a\":\"\\u00", Fault::CutOff),
            ("{\"a\":1}}", Fault::Behind { at: 7 }),
            ("{} {}", Fault::Behind { at: 3 }),
            ("{\"a\" 1}", Fault::Syntax { at: 5 }),
            ("{a:1}", Fault::Syntax { at: 1 }),
            ("{\"a\":1,}", Fault::Syntax { at: 7 }),
            ("{\"a\":[1,]}", Fault::Syntax { at: 8 }),
            ("{\"a\":[1}", Fault::Syntax { at: 7 }),
            ("{\"a\":01}", Fault::Syntax { at: 7 }),
            ("{\"a\":1.}", Fault::Syntax { at: 7 }),
            ("{\"a\":-}", Fault::Syntax { at: 6 }),
            ("{\"a\":1e}", Fault::Syntax { at: 7 }),
            ("{\"a\":nul}", Fault::Syntax { at: 5 }),
            ("{\"a\":\"\\x\"}", Fault::Syntax { at: 6 }),
            ("{\"a\":\"\\u00g0\"}", Fault::Syntax { at: 6 }),
            ("{\"a\":\"\t\"}", Fault::Syntax { at: 6 }),
            (deep.as_str(), Fault::CutOff),
        ];
        for (line, fault) in cases {
            assert_eq!(scan(line.as_bytes(), None).map(|_| ()), Err(fault), "{line}");
        }
        let deeper = format!("{{\"a\":{deep}");
        assert_eq!(scan(deeper.as_bytes(), None).map(|_| ()), Err(Fault::Deep));
    }

    #[test]
    fn ends_and_earlier_enrichments_are_seen() {
        let cases = [
            ("{}", 1, true, false, false),
            (" { } ", 3, true, false, false),
            ("\u{feff}{\"a\":[{}]}\r", 12, false, false, false),
            (r#"{"threat":{"framework":"x"}}"#, 27, false, true, false),
            (r#"{"threat":{"enrichments":[]}}"#, 28, false, true, true),
            (r#"{"threat.enrichments":[]}"#, 24, false, false, true),
            (r#"{"a":{"threat":{"enrichments":[]}}}"#, 34, false, false, false),
            (r#"{"ti_count":1}"#, 13, false, false, true),
        ];
        for (line, end, empty, has_threat, enriched) in cases {
            let (object, _) = scan(line.as_bytes(), None).unwrap();
            assert_eq!(object, Object { end, empty, has_threat, enriched }, "{line}");
        }
    }

    fn naive(value: &Value, field: &str, wanted: Option<&[&str]>, inside: bool, found: &mut Found) {
        let inside = inside || wanted.is_none_or(|wanted| wanted.contains(&field));
        match value {
            Value::String(text) if inside => found.push((field.to_owned(), text.clone())),
            Value::Array(items) => items.iter().for_each(|item| naive(item, field, wanted, inside, found)),
            Value::Object(members) => {
                for (key, member) in members {
                    let field = if field.is_empty() { key.clone() } else { format!("{field}.{key}") };
                    naive(member, &field, wanted, inside, found);
                }
            }
            _ => {}
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a\"\\\\\u{1}-\u{1f}\u{fc}\u{1f600} .]{0,10}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ab\"]{1,2}", inner, 0..4)
                    .prop_map(|members| Value::Object(Map::from_iter(members))),
            ]
        })
    }

    proptest! {
        #[test]
        fn finds_what_a_tree_holds(
            members in prop::collection::btree_map("[ab\"]{1,2}", value(), 0..5),
            fields in prop::option::of(prop::collection::vec(prop::sample::select(vec!["a", "b", "a.b", "b.a", "ab", "a.a.b"]), 0..3)),
            pretty in any::<bool>(),
        ) {
            let value = Value::Object(Map::from_iter(members));
            let line = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let mut expected = Vec::new();
            // The root has no name of its own.
            if let Value::Object(members) = &value {
                for (key, member) in members {
                    naive(member, key, fields.as_deref(), false, &mut expected);
                }
            }
            let (object, found) = scan(line.as_bytes(), fields.as_deref()).unwrap();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(object.end + 1, line.len());
        }

        #[test]
        fn agrees_with_serde_on_what_is_json(line in prop_oneof![
            "[{}\\[\\]\",:a0.eE\\\\u -]{0,12}",
            "\\{\"a\":[{}\\[\\]\",:a0-9.eE+\\\\untrfls -]{0,12}\\}",
        ]) {
            let ours = scan(line.as_bytes(), None);
            let theirs = serde_json::from_str::<Map<String, Value>>(&line);
            // Numbers beyond doubles and lone surrogates are JSON.
            let lenient = |error: &serde_json::Error| {
                let text = error.to_string();
                text.contains("out of range") || text.contains("surrogate") || text.contains("hex escape")
            };
            match (ours, theirs) {
                (Ok(_), Err(error)) => prop_assert!(lenient(&error), "{} {}", line, error),
                (Err(fault), Ok(_)) => prop_assert!(false, "{} {}", line, fault),
                _ => {}
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(line in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = scan(&line, None);
        }
    }
}
