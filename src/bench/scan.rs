//! Reads a page as it arrives: how many objects it holds, their ids, `more` and `next`.
//!
//! A page may be larger than memory should be, and a measuring client must cost little beside what it measures. So the body is
//! passed over once, in the pieces in which it comes, and nothing is built from it. What is checked is that it is one JSON
//! object and whole; the inside of the objects is not.

use twox_hash::XxHash3_64;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
/// No id and no cursor that anybody uses is longer; what is longer is cut.
const MAX_CAPTURED: usize = 64 * 1024;

/// What a page says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Elements of `objects`.
    pub(super) objects: u64,
    pub(super) more: bool,
    pub(super) next: Option<String>,
    /// Id of the first object that has one.
    pub(super) first_id: Option<String>,
}

/// Why a body is no page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// It ends before its JSON does.
    CutShort,
    /// It is no JSON object.
    NotJson,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Between,
    Text,
    Escape,
}

/// A key of the outermost object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Objects,
    More,
    Next,
    Other,
}

/// What the text under way is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Nothing,
    Key,
    Next,
    Id,
}

/// The scan of one body. The outermost object is at depth 1, `objects` at 2, an object in it at 3.
#[derive(Debug)]
pub(super) struct Scanner {
    facts: Facts,
    flaw: Option<Flaw>,
    mode: Mode,
    want: Want,
    captured: Vec<u8>,
    escaped: bool,
    depth: u32,
    /// Whether the containers of depths 1 to 3 are objects.
    is_object: [bool; 4],
    in_list: bool,
    /// The next value in the list begins another element.
    element_due: bool,
    key_due: bool,
    in_word: bool,
    key: Key,
    key_is_id: bool,
    ended: bool,
}

impl Scanner {
    pub(super) fn new() -> Self {
        Scanner {
            facts: Facts::default(),
            flaw: None,
            mode: Mode::Between,
            want: Want::Nothing,
            captured: Vec::new(),
            escaped: false,
            depth: 0,
            is_object: [false; 4],
            in_list: false,
            element_due: false,
            key_due: false,
            in_word: false,
            key: Key::Other,
            key_is_id: false,
            ended: false,
        }
    }

    /// Takes the next piece in; `ids` gets the hash of each id in it.
    pub(super) fn feed(&mut self, mut rest: &[u8], ids: &mut impl FnMut(u64)) {
        while self.flaw.is_none() && !rest.is_empty() {
            match self.mode {
                Mode::Text => {
                    let (plain, tail) = rest.split_at(plain_length(rest));
                    self.capture(plain);
                    let Some((&special, tail)) = tail.split_first() else { return };
                    rest = tail;
                    if special == b'"' {
                        self.mode = Mode::Between;
                        self.text_ended(ids);
                    } else {
                        self.mode = Mode::Escape;
                        self.escaped = true;
                        self.capture(b"\\");
                    }
                }
                Mode::Escape => {
                    let (escape, tail) = rest.split_at(1);
                    self.capture(escape);
                    self.mode = Mode::Text;
                    rest = tail;
                }
                Mode::Between => {
                    let Some((&byte, tail)) = rest.split_first() else { return };
                    rest = tail;
                    self.step(byte);
                }
            }
        }
    }

    /// The facts, once all of the body was fed.
    pub(super) fn finish(self) -> Result<Facts, Flaw> {
        match self.flaw {
            Some(flaw) => Err(flaw),
            None if self.ended => Ok(self.facts),
            None => Err(Flaw::CutShort),
        }
    }

    fn capture(&mut self, bytes: &[u8]) {
        if self.want != Want::Nothing && self.captured.len() + bytes.len() <= MAX_CAPTURED {
            self.captured.extend_from_slice(bytes);
        }
    }

    fn step(&mut self, byte: u8) {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => self.in_word = false,
            _ if self.ended => self.flaw = Some(Flaw::NotJson),
            b'{' | b'[' => self.open(byte == b'{'),
            b'}' | b']' => self.close(byte == b'}'),
            _ if self.depth == 0 => self.flaw = Some(Flaw::NotJson),
            b'"' => {
                let is_key = std::mem::take(&mut self.key_due);
                self.want = match (self.depth, is_key) {
                    (1 | 3, true) => Want::Key,
                    (1, false) if self.key == Key::Next => Want::Next,
                    (3, false) if self.in_element() && self.key_is_id => Want::Id,
                    _ => Want::Nothing,
                };
                self.value_begins();
                self.captured.clear();
                self.escaped = false;
                self.mode = Mode::Text;
            }
            b',' => {
                self.in_word = false;
                self.key_due = self.keys_matter();
                self.element_due = self.in_list && self.depth == 2;
            }
            b':' => self.in_word = false,
            _ => {
                if !std::mem::replace(&mut self.in_word, true) {
                    self.value_begins();
                    if self.depth == 1 && self.key == Key::More {
                        self.facts.more = byte == b't';
                    }
                }
            }
        }
    }

    fn open(&mut self, object: bool) {
        if self.depth == 0 && !object {
            self.flaw = Some(Flaw::NotJson);
            return;
        }
        self.value_begins();
        self.depth += 1;
        if let Some(kind) = self.is_object.get_mut(self.depth as usize) {
            *kind = object;
        }
        if self.depth == 2 {
            self.in_list = self.key == Key::Objects && !object;
            self.element_due = self.in_list;
        }
        self.key_due = self.keys_matter();
        self.key_is_id = false;
    }

    fn close(&mut self, object: bool) {
        if self.depth == 0 || self.is_object.get(self.depth as usize).is_some_and(|kind| *kind != object) {
            self.flaw = Some(Flaw::NotJson);
            return;
        }
        self.depth -= 1;
        self.in_list &= self.depth >= 2;
        self.in_word = false;
        self.key_due = false;
        self.key_is_id = false;
        self.ended = self.depth == 0;
    }

    fn in_element(&self) -> bool {
        self.in_list && self.is_object[3]
    }

    /// Whether the keys of the container that is open are looked at.
    fn keys_matter(&self) -> bool {
        self.depth == 1 || self.depth == 3 && self.in_element()
    }

    fn value_begins(&mut self) {
        if self.depth == 2 && std::mem::take(&mut self.element_due) {
            self.facts.objects += 1;
        }
    }

    fn text_ended(&mut self, ids: &mut impl FnMut(u64)) {
        if self.want == Want::Nothing {
            return;
        }
        if self.escaped {
            // Rare: a cursor with `\/`, a key in disguise. What is no proper JSON text stays as it is.
            let quoted = [b"\"", self.captured.as_slice(), b"\""].concat();
            if let Ok(text) = serde_json::from_slice::<String>(&quoted) {
                self.captured = text.into_bytes();
            }
        }
        match self.want {
            Want::Key if self.depth == 1 => {
                self.key = match self.captured.as_slice() {
                    b"objects" => Key::Objects,
                    b"more" => Key::More,
                    b"next" => Key::Next,
                    _ => Key::Other,
                };
            }
            Want::Key => self.key_is_id = self.captured == b"id",
            Want::Next => self.facts.next = Some(String::from_utf8_lossy(&self.captured).into_owned()),
            Want::Id => {
                ids(XxHash3_64::oneshot(&self.captured));
                if self.facts.first_id.is_none() {
                    self.facts.first_id = Some(String::from_utf8_lossy(&self.captured).into_owned());
                }
            }
            Want::Nothing => {}
        }
        self.want = Want::Nothing;
    }
}

/// Bytes before the next quote or backslash, eight at a time.
fn plain_length(bytes: &[u8]) -> usize {
    let zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGH_BITS;
    let (words, tail) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let hits = zero(word ^ (ONES * u64::from(b'"'))) | zero(word ^ (ONES * u64::from(b'\\')));
        if hits != 0 {
            return at * 8 + hits.trailing_zeros() as usize / 8;
        }
    }
    let rest = tail.iter().position(|byte| matches!(byte, b'"' | b'\\')).unwrap_or(tail.len());
    words.len() * 8 + rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    /// The facts and the hashes of the ids, the body coming in pieces of that size.
    fn scan(body: &[u8], piece: usize) -> (Result<Facts, Flaw>, Vec<u64>) {
        let (mut scanner, mut ids) = (Scanner::new(), Vec::new());
        body.chunks(piece).for_each(|piece| scanner.feed(piece, &mut |id| ids.push(id)));
        (scanner.finish(), ids)
    }

    fn hash(id: &str) -> u64 {
        XxHash3_64::oneshot(id.as_bytes())
    }

    #[test]
    fn pages_as_servers_write_them() {
        let facts = |objects, more, next: Option<&str>, first_id: Option<&str>| {
            let text = |text: Option<&str>| text.map(str::to_owned);
            Ok(Facts { objects, more, next: text(next), first_id: text(first_id) })
        };
        let cases: [(&str, Result<Facts, Flaw>); 22] = [
            ("{}", facts(0, false, None, None)),
            (" {\n} \n", facts(0, false, None, None)),
            (r#"{"more":false}"#, facts(0, false, None, None)),
            (r#"{"objects":[]}"#, facts(0, false, None, None)),
            (r#"{"more":true,"next":"a\/b\u002b","objects":[{"id":"x"}]}"#, facts(1, true, Some("a/b+"), Some("x"))),
            (r#"{"objects":[{"id":"x","id2":"y"},{"type":"t"}],"more":true}"#, facts(2, true, None, Some("x"))),
            (r#"{"objects":[{"a":{"id":"deep","next":"no"},"id":"x"}]}"#, facts(1, false, None, Some("x"))),
            (r#"{"objects":[{"a":[{"id":"deep"},",{"],"id":"x"}]}"#, facts(1, false, None, Some("x"))),
            (r#"{"a":{"objects":[{"id":"x"}],"more":true},"objects":[{}]}"#, facts(1, false, None, None)),
            (r#"{"a":[{"id":"x"}],"b":{"id":"y"},"next":null,"more":null}"#, facts(0, false, None, None)),
            (r#"{"\u006fbjects":[{"\u0069d":"x"}]}"#, facts(1, false, None, Some("x"))),
            (r#"{"objects":[{"x":"\\","id":"a\"b"},{"id":"}"}]}"#, facts(2, false, None, Some("a\"b"))),
            (r#"{"objects":[1,"two",[3,{"id":"no"}],null,{}]}"#, facts(5, false, None, None)),
            (r#"{"type":"bundle","id":"bundle--1","objects":[{"id":"x"}]}"#, facts(1, false, None, Some("x"))),
            (r#"{"objects":{"id":"x"}}"#, facts(0, false, None, None)),
            ("", Err(Flaw::CutShort)),
            (r#"{"objects":[{"id":"x"}"#, Err(Flaw::CutShort)),
            (r#"{"objects":[{"id":"x"#, Err(Flaw::CutShort)),
            ("[]", Err(Flaw::NotJson)),
            ("<html>", Err(Flaw::NotJson)),
            ("{}{}", Err(Flaw::NotJson)),
            (r#"{"objects":[}"#, Err(Flaw::NotJson)),
        ];
        for (body, expected) in cases {
            for piece in [1, 2, 3, 7, 1_000] {
                assert_eq!(scan(body.as_bytes(), piece).0, expected, "{body} in pieces of {piece}");
            }
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let text =
            prop_oneof!["[a-z\"\\\\{}\\[\\],:é\u{0}-\u{1f}]{0,12}", Just("id".to_owned()), Just("next".to_owned())];
        let key =
            prop_oneof!["[a-z\"\\\\]{0,4}", Just("id".to_owned()), Just("objects".to_owned()), Just("more".to_owned())];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            any::<f32>().prop_map(|number| json!(number)),
            text.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((key.clone(), inner), 0..6)
                    .prop_map(|pairs| Value::from(pairs.into_iter().collect::<Map<String, Value>>())),
            ]
        })
    }

    proptest! {
        /// What the scan finds is what serde_json finds, however the body is written and cut.
        #[test]
        fn the_scan_agrees_with_a_parser(
            objects in prop::collection::vec(any_value(), 0..8),
            others in prop::collection::vec(("[a-z]{1,5}", any_value()), 0..4),
            more in prop::option::of(any::<bool>()),
            next in prop::option::of("[a-zA-Z0-9+/=\"\\\\é]{0,20}"),
            pretty in any::<bool>(),
            piece in 1_usize..40,
        ) {
            let mut page: Map<String, Value> = others.into_iter().collect();
            page.insert("objects".to_owned(), Value::from(objects));
            more.map(|more| page.insert("more".to_owned(), json!(more)));
            next.map(|next| page.insert("next".to_owned(), json!(next)));
            let page = Value::from(page);
            let body = if pretty { serde_json::to_string_pretty(&page) } else { serde_json::to_string(&page) };
            let (facts, ids) = scan(body.expect("a text").as_bytes(), piece);
            let facts = facts.expect("a page");
            let objects = page["objects"].as_array().expect("a list");
            let expected: Vec<&str> = objects.iter().filter_map(|object| object["id"].as_str()).collect();
            prop_assert_eq!(facts.objects, objects.len() as u64);
            prop_assert_eq!(facts.more, page["more"].as_bool().unwrap_or(false));
            prop_assert_eq!(facts.next.as_deref(), page["next"].as_str());
            prop_assert_eq!(facts.first_id.as_deref(), expected.first().copied());
            prop_assert_eq!(ids, expected.into_iter().map(hash).collect::<Vec<_>>());
        }

        /// Nothing that a server sends makes it panic.
        #[test]
        fn any_bytes_are_survived(body in prop::collection::vec(any::<u8>(), 0..200), piece in 1_usize..40) {
            let _ = scan(&body, piece);
        }
    }
}
