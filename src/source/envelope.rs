//! Takes the objects out of an envelope or a bundle as the bytes they are, without a tree and in bounded memory.
//!
//! The reader knows strings, brackets and the first level of keys, no more: whether an object is good JSON is for who
//! decodes it. Pages are cut when they are large enough; what stands beside the objects (`more`, `next`) is known at the
//! end.

use std::io::{self, Read};
use std::ops::Range;

use serde::de::DeserializeOwned;

use crate::model::json::first_special;
use crate::source::body::Body;
use crate::source::page::{Facts, Objects};

/// A page is handed on when it holds so many bytes.
const PAGE_BYTES: usize = 4 << 20;

/// So much is read from the body at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Objects nested deeper are left out.
const MAX_DEPTH: usize = 128;

/// What stands beside the objects is kept up to this size.
const MAX_MEMBER_BYTES: usize = 1 << 20;

/// Why a body is no envelope.
#[derive(Debug)]
pub(super) enum Fault {
    /// It ends before it is complete.
    Ends,
    /// It is something else.
    Other(String),
    Io(io::Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before the document.
    Top,
    /// In the document, before a key or its end.
    Key,
    /// After a key.
    Colon,
    /// Before a member's value.
    Value,
    /// In the value of a member other than the list.
    Member,
    /// After a member's value.
    Comma,
    /// Before the first object or the end of the list.
    List,
    /// Before a further object.
    Item,
    /// After an object.
    ItemComma,
    /// In an object.
    Object,
    /// After the document.
    End,
}

/// Reads one answer.
#[derive(Debug)]
pub(super) struct Envelope {
    body: Body,
    piece: Vec<u8>,
    /// The part of `piece` not yet looked at.
    rest: Range<usize>,
    offset: u64,
    line: u64,
    at: At,
    list: &'static str,
    /// A document that is just a list.
    is_bare_list: bool,
    depth: usize,
    in_text: bool,
    is_escaped: bool,
    /// What began the value being read: `{`, `[`, `"`, or any other.
    opening: u8,
    key: Vec<u8>,
    value: Vec<u8>,
    members: Vec<(String, Vec<u8>)>,
    max_object_bytes: usize,
    object_place: (u64, u64),
    /// Why the object being read is left out.
    refused: Option<&'static str>,
    objects: Vec<u8>,
    ranges: Vec<Range<usize>>,
    object_start: usize,
    count: u64,
}

impl Envelope {
    /// The objects in the list `objects` of a body.
    pub(super) fn new(body: Body, max_object_bytes: usize) -> Self {
        Envelope {
            body,
            piece: vec![0; PIECE_BYTES],
            rest: 0..0,
            offset: 0,
            line: 1,
            at: At::Top,
            list: "objects",
            is_bare_list: false,
            depth: 0,
            in_text: false,
            is_escaped: false,
            opening: 0,
            key: Vec::new(),
            value: Vec::new(),
            members: Vec::new(),
            max_object_bytes,
            object_place: (1, 0),
            refused: None,
            objects: Vec::new(),
            ranges: Vec::new(),
            object_start: 0,
            count: 0,
        }
    }

    /// Reads a body through once, only to see that it is whole, where its pages would be handed on before that shows.
    pub(super) fn check_whole(body: &mut Body) -> Result<(), Fault> {
        if body.len() <= PAGE_BYTES as u64 {
            return Ok(());
        }
        body.rewind().map_err(Fault::Io)?;
        let whole = std::mem::replace(body, Body::of(bytes::Bytes::new()));
        let mut envelope = Envelope::new(whole, usize::MAX);
        let mut result = Ok(());
        loop {
            match envelope.next(&mut Facts::default()) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(fault) => {
                    result = Err(fault);
                    break;
                }
            }
        }
        *body = envelope.body;
        body.rewind().map_err(Fault::Io)?;
        result
    }

    /// Objects taken so far.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// A member beside the objects, once the answer has been read.
    pub(super) fn member<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let (_, text) = self.members.iter().rev().find(|(key, _)| key == name)?;
        serde_json::from_slice(text).ok()
    }

    /// The next objects; none when the answer is done. What is left out goes into `facts`.
    pub(super) fn next(&mut self, facts: &mut Facts) -> Result<Option<Objects>, Fault> {
        loop {
            while self.rest.start < self.rest.end {
                self.step(facts)?;
                if self.objects.len() >= PAGE_BYTES && self.at != At::Object {
                    return Ok(Some(self.take()));
                }
            }
            let read = self.body.read(&mut self.piece).map_err(Fault::Io)?;
            self.rest = 0..read;
            if read == 0 {
                return match self.at {
                    At::End if !self.ranges.is_empty() => Ok(Some(self.take())),
                    At::End => Ok(None),
                    _ => Err(Fault::Ends),
                };
            }
        }
    }

    fn take(&mut self) -> Objects {
        self.object_start = 0;
        Objects::new(std::mem::take(&mut self.objects), std::mem::take(&mut self.ranges))
    }

    /// Looks at the next byte, or at as many as belong together.
    fn step(&mut self, facts: &mut Facts) -> Result<(), Fault> {
        if self.at == At::Object || self.at == At::Member {
            return self.step_in_value(facts);
        }
        let Some(&byte) = self.piece.get(self.rest.start) else { return Ok(()) };
        if matches!(self.at, At::Key) && self.in_text {
            return self.step_in_key(byte);
        }
        if byte.is_ascii_whitespace() {
            self.advance(byte);
            return Ok(());
        }
        // A byte-order mark.
        if self.at == At::Top && self.offset < 3 && matches!(byte, 0xef | 0xbb | 0xbf) {
            self.advance(byte);
            return Ok(());
        }
        let place = (self.line, self.offset);
        match (self.at, byte) {
            (At::Top, b'{') => self.at = At::Key,
            (At::Top, b'[') => (self.at, self.is_bare_list) = (At::List, true),
            (At::Key, b'"') => {
                self.key.clear();
                self.in_text = true;
            }
            (At::Key, b'}') | (At::Comma, b'}') => self.at = At::End,
            (At::Colon, b':') => self.at = At::Value,
            (At::Comma, b',') => self.at = At::Key,
            (At::Value, b'[') if self.key == self.list.as_bytes() => self.at = At::List,
            (At::ItemComma, b',') => self.at = At::Item,
            (At::List | At::ItemComma, b']') => self.at = if self.is_bare_list { At::End } else { At::Comma },
            (At::Value | At::List | At::Item, b'}' | b']' | b',') => return Err(self.unexpected(byte)),
            (At::Value | At::List | At::Item, _) => {
                // The value begins with this byte, which is not taken here.
                let in_list = self.at != At::Value;
                self.at = if in_list { At::Object } else { At::Member };
                self.opening = byte;
                (self.depth, self.in_text, self.is_escaped) = (0, false, false);
                self.object_place = place;
                self.refused = (in_list && byte != b'{').then_some("it is no JSON object");
                self.value.clear();
                self.object_start = self.objects.len();
                return Ok(());
            }
            _ => return Err(self.unexpected(byte)),
        }
        self.advance(byte);
        Ok(())
    }

    fn step_in_key(&mut self, byte: u8) -> Result<(), Fault> {
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' => self.is_escaped = true,
            b'"' => {
                self.in_text = false;
                self.at = At::Colon;
            }
            _ if self.key.len() > 1_024 => return Err(Fault::Other("a key of it is endless".to_owned())),
            _ => {}
        }
        if self.in_text {
            self.key.push(byte);
        }
        self.advance(byte);
        Ok(())
    }

    /// Takes as much of a value as there is in the piece.
    fn step_in_value(&mut self, facts: &mut Facts) -> Result<(), Fault> {
        let rest = self.piece.get(self.rest.clone()).unwrap_or_default();
        let mut taken = 0;
        let mut is_done = false;
        let mut lines = 0;
        while let Some(&byte) = rest.get(taken) {
            if self.in_text && !self.is_escaped {
                // Plain text at one go.
                let plain = first_special(rest.get(taken..).unwrap_or_default()).unwrap_or(rest.len() - taken);
                if plain > 0 {
                    taken += plain;
                    continue;
                }
            }
            if self.in_text {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => self.in_text = false,
                    b'\n' => lines += 1,
                    _ => {}
                }
                taken += 1;
                if !self.in_text && self.depth == 0 {
                    is_done = true;
                    break;
                }
                continue;
            }
            match byte {
                b'"' => self.in_text = true,
                b'{' | b'[' => {
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        self.refused = Some("it is nested deeper than 128 levels");
                    }
                }
                // A number or a literal ends before what follows it.
                b'}' | b']' | b',' if self.depth == 0 => {
                    is_done = true;
                    break;
                }
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        taken += 1;
                        is_done = true;
                        break;
                    }
                }
                b'\n' => lines += 1,
                _ => {}
            }
            taken += 1;
        }
        let taken_bytes = rest.get(..taken).unwrap_or_default();
        match self.at {
            At::Object if self.refused.is_none() => {
                if self.objects.len() - self.object_start + taken > self.max_object_bytes {
                    self.refused = Some("it is larger than the limit for one object");
                    self.objects.truncate(self.object_start);
                } else {
                    self.objects.extend_from_slice(taken_bytes);
                }
            }
            At::Member if self.value.len() + taken <= MAX_MEMBER_BYTES => self.value.extend_from_slice(taken_bytes),
            At::Member => self.value.clear(),
            _ => {}
        }
        self.rest.start += taken;
        self.offset += taken as u64;
        self.line += lines;
        if is_done {
            self.end_value(facts);
        }
        Ok(())
    }

    fn end_value(&mut self, facts: &mut Facts) {
        if self.at == At::Member {
            self.at = At::Comma;
            let key = String::from_utf8_lossy(&self.key).into_owned();
            if self.members.len() < 64 {
                self.members.push((key, std::mem::take(&mut self.value)));
            }
            return;
        }
        self.at = At::ItemComma;
        match self.refused.take() {
            Some(reason) => {
                self.objects.truncate(self.object_start);
                facts.reject(self.object_place.0, self.object_place.1, reason);
            }
            None => {
                self.ranges.push(self.object_start..self.objects.len());
                self.objects.push(b'\n');
                self.count += 1;
            }
        }
    }

    fn advance(&mut self, byte: u8) {
        self.rest.start += 1;
        self.offset += 1;
        self.line += u64::from(byte == b'\n');
    }

    fn unexpected(&self, byte: u8) -> Fault {
        let what = match self.at {
            At::Top if byte == b'<' => "it is HTML or XML, not JSON".to_owned(),
            At::Top => "it is no JSON object".to_owned(),
            At::End => "something follows the JSON document".to_owned(),
            _ => format!("its JSON is broken at `{}`", byte.escape_ascii()),
        };
        Fault::Other(format!("{what} (line {}, byte {})", self.line, self.offset))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Objects, members and facts of a text, or the fault's kind.
    fn read(text: &[u8], max: usize) -> Result<(Vec<String>, Envelope, Facts), String> {
        let mut envelope = Envelope::new(Body::of(text.to_vec().into()), max);
        let (mut found, mut facts) = (Vec::new(), Facts::default());
        loop {
            match envelope.next(&mut facts) {
                Ok(Some(objects)) => {
                    found.extend(objects.iter().map(|text| String::from_utf8_lossy(text).into_owned()))
                }
                Ok(None) => return Ok((found, envelope, facts)),
                Err(Fault::Ends) => return Err("ends".to_owned()),
                Err(Fault::Other(reason)) => return Err(reason),
                Err(Fault::Io(error)) => return Err(error.to_string()),
            }
        }
    }

    #[test]
    fn objects_come_as_they_are() {
        let cases: [(&str, &[&str]); 9] = [
            (r#"{}"#, &[]),
            (r#" {"more":false} "#, &[]),
            (r#"{"objects":[]}"#, &[]),
            (r#"{"objects":[{"a":1}, {"b":"]}\"" }]}"#, &[r#"{"a":1}"#, r#"{"b":"]}\"" }"#]),
            ("{\"objects\" : [ {\n\"a\" : 1.50e0 }\n],\"more\":true}", &["{\n\"a\" : 1.50e0 }"]),
            (r#"{"type":"bundle","objects":[{"objects":[{}]}],"id":"x"}"#, &[r#"{"objects":[{}]}"#]),
            (r#"[{"a":1}]"#, &[r#"{"a":1}"#]),
            ("\u{feff}{\"objects\":[{}]}", &["{}"]),
            (r#"{"x":{"objects":[{"no":1}]},"objects":[{"yes":1}]}"#, &[r#"{"yes":1}"#]),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text.as_bytes(), 1_000).unwrap().0, expected, "{text}");
        }
    }

    #[test]
    fn what_stands_beside_the_objects_is_read() {
        let text = r#"{"next":"a\"b","objects":[{}],"more":true,"n":12,"x":null,"deep":{"next":1}}"#;
        let (_, envelope, _) = read(text.as_bytes(), 100).unwrap();
        assert_eq!(envelope.member::<String>("next").as_deref(), Some("a\"b"));
        assert_eq!((envelope.member::<bool>("more"), envelope.member::<u64>("n")), (Some(true), Some(12)));
        assert_eq!(envelope.member::<bool>("x"), None);
    }

    #[test]
    fn what_is_no_object_is_counted() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(600_000));
        let text = format!("{{\"objects\":[1,\"x,]\",null,{{\"ok\":1}},[{{}}],{deep},\n{large},{{\"ok\":2}}]}}");
        let (found, _, facts) = read(text.as_bytes(), 500_000).unwrap();
        assert_eq!(found, [r#"{"ok":1}"#, r#"{"ok":2}"#]);
        assert_eq!(facts.rejected, 6);
        let last = facts.rejections.last().unwrap();
        assert_eq!((last.line, last.reason.as_str()), (2, "it is larger than the limit for one object"));
    }

    #[test]
    fn what_is_no_envelope_is_refused() {
        let cases = [
            ("", "ends"),
            ("{\"objects\":[{\"a\":", "ends"),
            ("{\"objects\":[{}]", "ends"),
            ("<html>", "it is HTML or XML, not JSON (line 1, byte 0)"),
            ("hello", "it is no JSON object (line 1, byte 0)"),
            ("{}\n{}", "something follows the JSON document (line 2, byte 3)"),
            ("{,}", "its JSON is broken at `,` (line 1, byte 1)"),
            ("{\"a\":}", "its JSON is broken at `}` (line 1, byte 5)"),
            ("{\"objects\":[{} {}]}", "its JSON is broken at `{` (line 1, byte 15)"),
            ("{\"objects\":[{},]}", "its JSON is broken at `]` (line 1, byte 15)"),
            ("{\"objects\":[}", "its JSON is broken at `}` (line 1, byte 12)"),
            ("{\"a\" 1}", "its JSON is broken at `1` (line 1, byte 5)"),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text.as_bytes(), 100).map(|_| ()), Err(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn large_answers_come_in_pieces() {
        let one = format!("{{\"a\":\"{}\"}}", "x".repeat(1_000));
        let text = format!("{{\"objects\":[{}],\"more\":true}}", vec![one.as_str(); 10_000].join(","));
        let mut envelope = Envelope::new(Body::of(text.into()), 10_000);
        let (mut facts, mut pages, mut count) = (Facts::default(), 0, 0);
        while let Some(objects) = envelope.next(&mut facts).unwrap() {
            assert!(objects.text().len() < PAGE_BYTES + 10_000);
            assert!(objects.iter().all(|text| text == one.as_bytes()));
            (pages, count) = (pages + 1, count + objects.len());
        }
        assert_eq!((pages, count, envelope.member::<bool>("more")), (3, 10_000, Some(true)));
    }

    proptest! {
        #[test]
        fn any_bytes_do_no_harm(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&text, 50);
        }

        #[test]
        fn changed_envelopes_do_no_harm(at in 0usize..90, byte in prop_oneof![Just(b'"'), Just(b'['), Just(b']'), Just(b'{'), Just(b'}'), Just(b'\\'), Just(b','), any::<u8>()]) {
            let mut text = br#"{"next":"a","objects":[{"a":"\"x","b":[1,{"c":null}]},{"d":1.5e3}],"more":true,"x":[{}]}"#.to_vec();
            if let Some(place) = text.get_mut(at) {
                *place = byte;
            }
            let _ = read(&text, 1_000);
        }

        #[test]
        fn what_serde_reads_is_found(objects in proptest::collection::vec(proptest::collection::btree_map("[a-z\"\\\\{}]{0,6}", prop_oneof![
            any::<String>().prop_map(serde_json::Value::from), any::<i64>().prop_map(serde_json::Value::from), Just(serde_json::json!([{"x": []}, null]))
        ], 0..4), 0..6)) {
            let texts: Vec<String> = objects.iter().map(|object| serde_json::to_string(object).unwrap()).collect();
            let whole = format!("{{\"more\":true,\"objects\":[{}]}}", texts.join(" ,\n"));
            prop_assert_eq!(read(whole.as_bytes(), 1 << 20).unwrap().0, texts);
        }
    }
}
