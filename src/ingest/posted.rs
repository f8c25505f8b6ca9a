//! Posted STIX objects: a body is cut into objects, and those become rows of an inbox (TAXII 2.1 §5.5, TAXII 2.0 §5.5).
//!
//! The body is walked once by the grammar, without values and without recursion: that finds where its objects are, and refuses what
//! is no JSON with its place. Then each object is read as an import reads it, and stands or falls by itself.

use std::borrow::Cow;

use arrow::error::ArrowError;
use serde::de::IgnoredAny;

use crate::ingest::block::{DecodeOptions, Rows};
use crate::ingest::builder::Parsed;
use crate::ingest::element::{Element, Key};
use crate::ingest::json::{self, Doubts};
use crate::ingest::stix;
use crate::model::ids::parse_uuid;
use crate::model::time::{Timestamp, YEAR_ONE};

/// Longer ids are not repeated to whoever sent them.
const SHOWN_ID_BYTES: usize = 300;

/// Where an object stands in its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    start: usize,
    end: usize,
    /// Line it begins on, from 1.
    line: u64,
}

impl Piece {
    /// Its length in bytes.
    pub(crate) fn len(self) -> usize {
        self.end - self.start
    }
}

/// What became of some objects of a body.
#[derive(Debug)]
pub(crate) struct Posted {
    /// Those taken.
    pub(crate) rows: Parsed,
    /// All of them, in order: the n-th that is not refused is the n-th row.
    pub(crate) objects: Vec<PostedObject>,
}

/// One object of a body.
#[derive(Debug)]
pub(crate) struct PostedObject {
    /// Its id, as far as it has one; an object that was taken has.
    pub(crate) id: Option<String>,
    /// Its version: `modified`, else `created`.
    pub(crate) made: Option<Timestamp>,
    /// Why it was not taken.
    pub(crate) refused: Option<String>,
}

/// Finds the objects of an envelope, or with `is_bundle` of a STIX 2.0 bundle. The error says what is wrong with the whole, and
/// where.
pub(crate) fn unpack_posted(text: &str, is_bundle: bool) -> Result<Vec<Piece>, String> {
    let bytes = text.as_bytes();
    let mut walk = Walk { text, sound: None, objects: None, counted: 0, line: 1, trouble: None };
    let mut frame = Frame::default();
    let open = json::blank_end(bytes, 0);
    let end = json::each_member(text, open, 0, &mut Doubts::default(), |key, start, doubts| {
        let is_list = bytes.get(start) == Some(&b'[');
        let end = match (&*key, is_list) {
            ("objects", true) => walk.list(start)?,
            _ => walk.value_end(start, 1, doubts)?,
        };
        let value = text.get(start..end)?;
        match &*key {
            "objects" if frame.has_objects => {
                walk.trouble = walk.trouble.take().or(Some("the key `objects` is there twice"))
            }
            "objects" => {
                frame.has_objects = true;
                if !is_list {
                    walk.trouble = walk.trouble.take().or(Some("`objects` is not a list"));
                }
            }
            "type" => frame.named = Some(value),
            "id" => frame.id = Some(value),
            "spec_version" => frame.spec_version = Some(value),
            _ => {}
        }
        Some(end)
    });
    match end.map(|end| json::blank_end(bytes, end)) {
        Some(end) if end == bytes.len() => {}
        _ => return Err(refusal(text, if is_bundle { "a STIX 2.0 bundle" } else { "a TAXII 2.1 envelope" })),
    }
    if let Some(trouble) = walk.trouble {
        return Err(trouble.to_owned());
    }
    if is_bundle {
        frame.check_bundle()?
    } else {
        frame.check_envelope()?
    }
    Ok(walk.objects.unwrap_or_default())
}

/// Why a body is none.
fn refusal(text: &str, wanted: &str) -> String {
    match serde_json::from_str::<IgnoredAny>(text) {
        Err(error) if error.is_eof() && text.trim().is_empty() => format!("the body is empty; it has to be {wanted}"),
        Err(error) => {
            let message = error.to_string();
            let message = message.rfind(" at line ").and_then(|at| message.get(..at)).unwrap_or(&message);
            format!("not valid JSON: {message} (line {}, column {})", error.line(), error.column())
        }
        Ok(_) => format!("the body is not a JSON object; it has to be {wanted}"),
    }
}

/// What stands around the objects.
#[derive(Debug, Default)]
struct Frame<'a> {
    has_objects: bool,
    named: Option<&'a str>,
    id: Option<&'a str>,
    spec_version: Option<&'a str>,
}

impl Frame<'_> {
    fn check_envelope(&self) -> Result<(), String> {
        let named = self.named.and_then(json::string);
        match named {
            // Taken as an empty post, it would be lost without a word.
            Some(named) if !self.has_objects => Err(format!(
                "the body is a STIX object of type `{}`; put it into an envelope, `{{\"objects\":[...]}}`",
                stix::shown(&named)
            )),
            _ => Ok(()),
        }
    }

    fn check_bundle(&self) -> Result<(), String> {
        let text = |key: &str, raw: Option<&str>| {
            let found = raw.and_then(json::string).map(Cow::into_owned);
            found.ok_or_else(|| format!("the bundle has no `{key}`"))
        };
        let named = text("type", self.named)?;
        if named != "bundle" {
            return Err(format!(
                "the body has the type `{}`; TAXII 2.0 takes a bundle of objects",
                stix::shown(&named)
            ));
        }
        let id = text("id", self.id)?;
        if id.strip_prefix("bundle--").is_none_or(|uuid| parse_uuid(uuid.as_bytes()).is_none()) {
            return Err(format!("`{}` is not the id of a bundle; it must be `bundle--` and a UUID", stix::shown(&id)));
        }
        let version = text("spec_version", self.spec_version)?;
        if version != "2.0" {
            return Err(format!(
                "the bundle has the `spec_version` `{}`; TAXII 2.0 takes `2.0`",
                stix::shown(&version)
            ));
        }
        Ok(())
    }
}

/// The walk over a body.
struct Walk<'a> {
    text: &'a str,
    /// Whether the body is JSON apart from its depth; asked once, and only when something is too deep.
    sound: Option<bool>,
    objects: Option<Vec<Piece>>,
    /// Lines are counted up to here.
    counted: usize,
    line: u64,
    trouble: Option<&'static str>,
}

impl Walk<'_> {
    /// End of the value at `start`, inside of `depth` containers.
    fn value_end(&mut self, start: usize, depth: usize, doubts: &mut Doubts) -> Option<usize> {
        if let Some(end) = json::checked_end(self.text, start, depth, doubts) {
            return Some(end);
        }
        let text = self.text;
        let sound = *self.sound.get_or_insert_with(|| serde_json::from_str::<IgnoredAny>(text).is_ok());
        // What is too deep costs its own object only.
        sound.then(|| json::value_end(text.as_bytes(), start))
    }

    /// The elements of the list that opens at `open`; gives its end.
    fn list(&mut self, open: usize) -> Option<usize> {
        let bytes = self.text.as_bytes();
        let mut pieces = Vec::new();
        let mut at = json::blank_end(bytes, open + 1);
        if bytes.get(at) == Some(&b']') {
            self.objects = Some(pieces);
            return Some(at + 1);
        }
        loop {
            let passed = bytes.get(self.counted..at).unwrap_or_default();
            self.line += passed.iter().filter(|byte| **byte == b'\n').count() as u64;
            self.counted = at;
            // Each object may be as deep as if it came alone.
            let end = self.value_end(at, 0, &mut Doubts::default())?;
            pieces.push(Piece { start: at, end, line: self.line });
            at = json::blank_end(bytes, end);
            match bytes.get(at)? {
                b',' => at = json::blank_end(bytes, at + 1),
                b']' => {
                    self.objects = Some(pieces);
                    return Some(at + 1);
                }
                _ => return None,
            }
        }
    }
}

/// Reads objects of the body `text`, each by itself. Longer ones than `max_bytes` are refused, and with `only_20` those of STIX 2.1.
/// `options` name the inbox.
pub(crate) fn decode_posted(
    text: &str,
    pieces: &[Piece],
    options: &DecodeOptions,
    only_20: bool,
    max_bytes: usize,
) -> Result<Posted, ArrowError> {
    let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut rows = Rows::new(options, pieces.len(), bytes);
    let mut objects = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let raw = text.get(piece.start..piece.end).unwrap_or_default();
        let mut object = PostedObject { id: None, made: None, refused: None };
        let taken = Element::parse(raw, piece.line).and_then(|element| {
            let id = json::string(element.get(Key::Id)).filter(|id| !id.is_empty() && id.len() <= SHOWN_ID_BYTES);
            object.id = id.map(Cow::into_owned);
            object.made = version(&element);
            if raw.len() > max_bytes {
                return Err(format!("longer than {} MiB", max_bytes >> 20));
            }
            element.check_readable(raw, piece.line)?;
            check(&element)?;
            if only_20 && stix::spec_version(&element) != "2.0" {
                return Err("an object of STIX 2.1, which TAXII 2.0 does not take; post it by TAXII 2.1".to_owned());
            }
            stix::append(&mut rows, &element, raw, piece.line)
        });
        object.refused = taken.err();
        objects.push(object);
    }
    let rows = rows.builder.finish(Vec::new(), pieces.len() as u64, bytes as u64)?;
    Ok(Posted { rows, objects })
}

fn version(element: &Element<'_>) -> Option<Timestamp> {
    let time =
        |key| json::string(element.get(key)).and_then(|text| Timestamp::parse(&text).ok()).filter(|at| *at != YEAR_ONE);
    time(Key::Modified).or_else(|| time(Key::Created))
}

/// Whether an object can be kept in an inbox, beyond what every STIX object has to be. The error says what is wrong.
pub(crate) fn check(element: &Element<'_>) -> Result<(), String> {
    if json::string(element.get(Key::Type)).is_some_and(|name| name == "bundle") {
        return Err("a bundle is no object of a list; send its objects".to_owned());
    }
    for key in [Key::Created, Key::Modified] {
        let raw = element.get(key);
        if element.has(key) && json::string(raw).is_none_or(|text| Timestamp::parse(&text).is_err()) {
            return Err(format!(
                "`{}` is `{}`, which is no timestamp; write it as 2024-05-01T08:30:00.000Z",
                key.as_str(),
                stix::shown(raw.trim_matches('"'))
            ));
        }
    }
    let spec_version = stix::spec_version(element);
    if !matches!(&*spec_version, "2.0" | "2.1") {
        return Err(format!("`spec_version` is `{}`; objects of 2.0 and 2.1 are taken", stix::shown(&spec_version)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::ids::{IdScheme, IdSpace};

    fn options() -> DecodeOptions {
        let ids = Arc::new(IdSpace::new("test", IdScheme::Stix));
        DecodeOptions { inbox: Some("box".to_owned()), ..DecodeOptions::new(ids) }
    }

    fn take(text: &str, is_bundle: bool) -> Result<Posted, String> {
        let pieces = unpack_posted(text, is_bundle)?;
        Ok(decode_posted(text, &pieces, &options(), is_bundle, 1 << 20).unwrap())
    }

    const UUID: &str = "0f9a5f1c-3f2b-4bb4-9d0e-4d6a1f0c9a11";

    #[test]
    fn bodies_are_taken_or_refused_as_a_whole() {
        let bundle = |rest: &str| format!(r#"{{"type":"bundle","id":"bundle--{UUID}","spec_version":"2.0"{rest}}}"#);
        let envelopes: Vec<(String, Result<usize, &str>)> = vec![
            ("{}".into(), Ok(0)),
            (" \n{ } ".into(), Ok(0)),
            (r#"{"objects":[]}"#.into(), Ok(0)),
            (r#"{"more":false,"next":"x","x_mine":{"objects":[1]},"objects":[{},1 , "a"]}"#.into(), Ok(3)),
            (bundle(r#","objects":[{}]"#), Ok(1)),
            (
                format!(r#"{{"objects":[{0}{1},{{}}],"x_deep":{0}{1}}}"#, "[".repeat(100_000), "]".repeat(100_000)),
                Ok(2),
            ),
            ("".into(), Err("the body is empty; it has to be a TAXII 2.1 envelope")),
            ("[{}]".into(), Err("the body is not a JSON object; it has to be a TAXII 2.1 envelope")),
            ("{\"objects\":[{},\n{\"a\":]}".into(), Err("not valid JSON: expected value (line 2, column 6)")),
            (r#"{"objects":[{}]} x"#.into(), Err("not valid JSON: trailing characters (line 1, column 18)")),
            (r#"{"objects":["#.into(), Err("not valid JSON: EOF while parsing a list (line 1, column 12)")),
            (r#"{"objects":{"0":{}}}"#.into(), Err("`objects` is not a list")),
            (r#"{"objects":null}"#.into(), Err("`objects` is not a list")),
            (r#"{"objects":[],"objects":[{}]}"#.into(), Err("the key `objects` is there twice")),
            (
                r#"{"type":"indicator","id":"x"}"#.into(),
                Err("the body is a STIX object of type `indicator`; put it into an envelope, `{\"objects\":[...]}`"),
            ),
        ];
        for (text, expected) in envelopes {
            let got = unpack_posted(&text, false).map(|pieces| pieces.len());
            assert_eq!(got, expected.map_err(str::to_owned), "{}", &text[..text.len().min(200)]);
        }
        let bundles: Vec<(String, Result<usize, &str>)> = vec![
            (bundle(""), Ok(0)),
            (bundle(r#","objects":[{},{}]"#), Ok(2)),
            (r#"{"objects":[]}"#.into(), Err("the bundle has no `type`")),
            (r#"{"type":"bundle"}"#.into(), Err("the bundle has no `id`")),
            (
                r#"{"type":"bundle","id":"bundle--1"}"#.into(),
                Err("`bundle--1` is not the id of a bundle; it must be `bundle--` and a UUID"),
            ),
            (bundle("").replace(r#","spec_version":"2.0""#, ""), Err("the bundle has no `spec_version`")),
            (bundle("").replace("2.0", "2.1"), Err("the bundle has the `spec_version` `2.1`; TAXII 2.0 takes `2.0`")),
            ("".into(), Err("the body is empty; it has to be a STIX 2.0 bundle")),
        ];
        for (text, expected) in bundles {
            let got = unpack_posted(&text, true).map(|pieces| pieces.len());
            assert_eq!(got, expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn objects_stand_and_fall_by_themselves() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let long = "x".repeat(1 << 20);
        let id = format!("x-a--{UUID}");
        let object = |rest: &str| format!(r#"{{"type":"x-a","id":"{id}"{rest}}}"#);
        let cases = [
            (object(""), None, None),
            (
                object(r#","modified":"2024-05-01T00:00:00Z","created":"2023-01-01T00:00:00Z""#),
                None,
                Some("2024-05-01"),
            ),
            (object(r#","created":"2023-01-01T00:00:00Z""#), None, Some("2023-01-01")),
            (object(r#","spec_version":"2.1""#), None, None),
            ("7".to_owned(), Some("not a JSON object"), None),
            ("{}".to_owned(), Some("a STIX object without `type`"), None),
            (r#"{"type":"x-a"}"#.to_owned(), Some("a STIX object without `id`"), None),
            (
                r#"{"type":"x-a","id":"x-a--1"}"#.to_owned(),
                Some("`x-a--1` is not the id of a `x-a`; it must be `x-a--` and a UUID"),
                None,
            ),
            (
                object(r#","id":"x-a--2""#),
                Some("`x-a--2` is not the id of a `x-a`; it must be `x-a--` and a UUID"),
                None,
            ),
            (object(r#","a":1,"a":2"#), Some("the key `a` is there twice"), None),
            (
                object(r#","modified":"soon""#),
                Some("`modified` is `soon`, which is no timestamp; write it as 2024-05-01T08:30:00.000Z"),
                None,
            ),
            (
                object(r#","spec_version":"2.2""#),
                Some("`spec_version` is `2.2`; objects of 2.0 and 2.1 are taken"),
                None,
            ),
            (object(&format!(r#","x":{deep}"#)), Some("nested deeper than 128 levels"), None),
            (
                object(r#","x":"\ud800""#),
                Some("it holds half of a surrogate pair, which is no character (line 1, column"),
                None,
            ),
            (object(&format!(r#","x":"{long}""#)), Some("longer than 1 MiB"), None),
            (
                format!(r#"{{"type":"bundle","id":"bundle--{UUID}","objects":[]}}"#),
                Some("a bundle is no object of a list; send its objects"),
                None,
            ),
        ];
        let good = object(r#","n":1"#);
        for (text, reason, made) in cases {
            let posted = take(&format!(r#"{{"objects":[{good},{text} ,{good}]}}"#), false).unwrap();
            let shown = &text[..text.len().min(200)];
            assert_eq!(posted.objects.len(), 3, "{shown}");
            let refused = posted.objects[1].refused.as_deref();
            match reason {
                None => assert_eq!(refused, None, "{shown}"),
                Some(reason) => {
                    assert!(refused.is_some_and(|refused| refused.starts_with(reason)), "{refused:?} {shown}")
                }
            }
            assert_eq!(posted.rows.keys.len(), 3 - usize::from(refused.is_some()), "{shown}");
            assert_eq!(posted.objects[0].refused, None);
            assert_eq!(posted.objects[2].refused, None);
            assert_eq!(posted.objects[2].id.as_deref(), Some(id.as_str()));
            if let Some(made) = made {
                assert_eq!(posted.objects[1].made, Timestamp::parse(made).ok(), "{shown}");
            }
        }
    }

    #[test]
    fn stix_21_is_not_taken_by_taxii_20() {
        let text = format!(
            r#"{{"type":"bundle","id":"bundle--{UUID}","spec_version":"2.0","objects":[
                {{"type":"ipv4-addr","id":"ipv4-addr--{UUID}","value":"198.51.100.1"}},
                {{"type":"indicator","id":"indicator--{UUID}","spec_version":"2.1"}},
                {{"type":"indicator","id":"indicator--{UUID}"}}]}}"#
        );
        let posted = take(&text, true).unwrap();
        assert_eq!(
            posted.objects.iter().map(|object| object.refused.is_some()).collect::<Vec<_>>(),
            [true, true, false]
        );
    }

    proptest::proptest! {
        #[test]
        fn no_body_panics(raw in "[\\[\\]{}\",: \\\\ax0\u{e9}\n]{0,60}", is_bundle: bool) {
            for text in [raw.clone(), format!("{{\"objects\":[{raw}]}}"), format!("{{\"objects\":{raw}")] {
                let _ = take(&text, is_bundle);
            }
        }

        #[test]
        fn what_is_json_is_unpacked_and_nothing_else(parts in proptest::collection::vec(
            proptest::sample::select(vec!["{", "}", "[", "]", ",", ":", "\"objects\"", "\"a\"", "1", "null", " ", "\n", "{}", "[]"]),
            0..10,
        )) {
            let text = format!("{{{}}}", parts.concat());
            let sound = serde_json::from_str::<IgnoredAny>(&text).is_ok();
            match unpack_posted(&text, false) {
                Ok(_) => proptest::prop_assert!(sound, "{}", text),
                Err(reason) => proptest::prop_assert_eq!(!sound, reason.starts_with("not valid JSON"), "{} {}", text, reason),
            }
        }

        #[test]
        fn good_objects_survive_bad_neighbours(bad in proptest::collection::vec(
            proptest::sample::select(vec!["1", "null", "[]", "{}", "\"\"", "{\"type\":\"x\"}", "{\"id\":1,\"type\":[]}", "{\"a\":1,\"a\":1}"]),
            0..8,
        ), at in 0usize..8) {
            let good = format!("{{\"type\":\"x-a\",\"id\":\"x-a--{UUID}\"}}");
            let mut objects: Vec<&str> = bad;
            let at = at.min(objects.len());
            objects.insert(at, &good);
            let posted = take(&format!("{{\"objects\":[{}]}}", objects.join(",")), false).unwrap();
            for (place, object) in posted.objects.iter().enumerate() {
                proptest::prop_assert_eq!(object.refused.is_none(), place == at);
            }
        }
    }
}
