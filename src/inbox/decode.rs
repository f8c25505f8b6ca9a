//! A body to rows, on the cores of the pool that this runs on.

use std::sync::Arc;

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::status::{Detail, Status};
use super::{InboxError, Post};
use crate::feed::api::StixVersion;
use crate::ingest::{DecodeOptions, Posted, decode_posted, unpack_posted};
use crate::model::ids::IdSpace;
use crate::model::time::Timestamp;
use crate::store::{NewRows, StoreError};

/// Objects read at a time, at most, and their bytes.
const BLOCK: (usize, usize) = (4_096, 1 << 20);

/// What a post comes to: rows, and the status in which each of them still waits for its version.
pub(super) fn read(
    post: &Post,
    requested: Timestamp,
    ids: Arc<IdSpace>,
    object_bytes: usize,
) -> Result<(Vec<NewRows>, Pending), InboxError> {
    let malformed = |reason| InboxError::Malformed { reason };
    let text = text_of(&post.body).map_err(malformed)?;
    let is_bundle = post.version == StixVersion::V20;
    let pieces = unpack_posted(text, is_bundle).map_err(malformed)?;
    let options = DecodeOptions { inbox: Some(post.collection.clone()), ..DecodeOptions::new(ids) };

    let mut blocks = Vec::new();
    let mut rest = pieces.as_slice();
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take(BLOCK.0).take_while(|piece| {
            let fits = bytes < BLOCK.1;
            bytes += piece.len();
            fits
        });
        let (block, after) = rest.split_at(fits.count());
        blocks.push(block);
        rest = after;
    }
    let decode = |block| decode_posted(text, block, &options, is_bundle, object_bytes);
    let decoded: Result<Vec<Posted>, _> = blocks.into_par_iter().map(decode).collect();
    let decoded = decoded.map_err(|error| InboxError::from(StoreError::from(error)))?;

    let mut rows = Vec::new();
    let mut taken = Vec::with_capacity(pieces.len());
    let mut failures = Vec::new();
    let objects = decoded.into_iter().flat_map(|Posted { rows: parsed, objects }| {
        if !parsed.keys.is_empty() {
            rows.push(NewRows { batch: parsed.batch, keys: parsed.keys, digests: parsed.digests });
        }
        objects
    });
    for (place, object) in objects.enumerate() {
        match (object.refused, object.id) {
            (None, Some(id)) => taken.push((id, object.made)),
            (refused, id) => failures.push(Detail {
                id: id.unwrap_or_else(|| format!("objects[{place}]")),
                version: object.made.unwrap_or(requested),
                message: refused,
            }),
        }
    }
    let status = Status {
        id: uuid::Uuid::new_v4(),
        root: post.root.clone(),
        user: post.user.clone(),
        requested,
        successes: Vec::new(),
        failures,
    };
    Ok((rows, Pending { status, taken }))
}

/// A status whose rows are not written yet.
#[derive(Debug)]
pub(super) struct Pending {
    /// Without successes.
    pub(super) status: Status,
    /// For each row its id, and its version if it names one.
    pub(super) taken: Vec<(String, Option<Timestamp>)>,
}

fn text_of(body: &[u8]) -> Result<&str, String> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    std::str::from_utf8(body).map_err(|error| {
        let before = body.get(..error.valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        format!("the body is not UTF-8 (line {line}, column {column})")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{fuzz, outcome};
    use crate::model::ids::IdScheme;

    fn read_body(body: &[u8], version: StixVersion) -> Result<Pending, InboxError> {
        rows_of(body, version).map(|(_, pending)| pending)
    }

    fn rows_of(body: &[u8], version: StixVersion) -> Result<(Vec<NewRows>, Pending), InboxError> {
        let post = Post {
            collection: "c".to_owned(),
            root: "r".to_owned(),
            user: None,
            version,
            body: bytes::Bytes::copy_from_slice(body),
        };
        read(&post, Timestamp(7), Arc::new(IdSpace::new("test", IdScheme::Stix)), 1 << 20)
    }

    #[test]
    fn what_is_no_text_is_refused_with_its_place() {
        let cases: [(&[u8], &str); 3] = [
            (b"\xff", "the body is not UTF-8 (line 1, column 1)"),
            (b"{\n\"a\":\"\xc3\x28\"}", "the body is not UTF-8 (line 2, column 6)"),
            (b"\xef\xbb\xbf{}{", "not valid JSON: trailing characters (line 1, column 3)"),
        ];
        for (body, expected) in cases {
            let error = read_body(body, StixVersion::V21).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn objects_without_an_id_are_named_by_their_place() {
        let pending = read_body(br#"{"objects":[1,{"id":"x","type":"x"},{"id":5}]}"#, StixVersion::V21).unwrap();
        let failures: Vec<_> = pending.status.failures.iter().map(|failure| failure.id.as_str()).collect();
        assert_eq!(failures, ["objects[0]", "x", "objects[2]"]);
        assert!(pending.status.failures.iter().all(|failure| failure.version == Timestamp(7)));
    }

    #[test]
    fn fuzz_body() {
        const WORDS: [&str; 26] = [
            "{\"objects\":[",
            "\"objects\":",
            "]}",
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "null",
            "true",
            "\"type\":\"bundle\",",
            "\"type\":\"indicator\",",
            "\"id\":\"indicator--0a0a0a0a-0000-4000-8000-000000000001\",",
            "\"id\":\"bundle--0a0a0a0a-0000-4000-8000-000000000002\",",
            "\"spec_version\":\"2.0\",",
            "\"spec_version\":\"2.1\",",
            "\"created\":\"2024-05-01T00:00:00.000Z\",",
            "\"modified\":\"2024-05-01T00:00:00.000Z\",",
            "\"object_refs\":[\"a\"],",
            "\"\\ud800\"",
            "\"\\u0000\"",
            "\\",
            "\u{feff}",
            "[[[[[[[[[[[[[[[[",
            "1e400",
        ];
        fuzz("body", &WORDS, |input| {
            let mut outcomes = Vec::new();
            for version in [StixVersion::V20, StixVersion::V21] {
                match rows_of(input, version) {
                    Ok((rows, pending)) => {
                        let rows: usize = rows.iter().map(|rows| rows.keys.len()).sum();
                        let failures = &pending.status.failures;
                        assert_eq!(rows, pending.taken.len(), "every object that was taken is a row");
                        let bare = input.strip_prefix(b"\xef\xbb\xbf").unwrap_or(input);
                        // Sound as a whole; strings and numbers that no tree can hold are a matter of the objects they are in.
                        let sound = serde_json::from_slice::<serde::de::IgnoredAny>(bare);
                        assert!(sound.is_ok(), "{sound:?}");
                        if let Ok(body) = serde_json::from_slice::<serde_json::Value>(bare) {
                            let objects = body.get("objects").and_then(|list| list.as_array()).map_or(0, Vec::len);
                            assert_eq!(rows + failures.len(), objects, "none is lost, none comes twice");
                        }
                        let why = failures.iter().map(|failure| {
                            let said = failure.message.as_deref().unwrap_or_default();
                            assert!(!said.is_empty() && !failure.id.is_empty());
                            said.split('`').step_by(2).collect::<String>()
                        });
                        outcomes.push((rows, why.collect::<Vec<_>>()));
                    }
                    Err(error) => outcomes.push((0, vec![error.to_string().split(['`', '(']).step_by(2).collect()])),
                }
            }
            outcome(outcomes)
        });
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(body: Vec<u8>, bundle: bool) {
            let version = if bundle { StixVersion::V20 } else { StixVersion::V21 };
            let _ = read_body(&body, version);
            let mut inside = b"{\"objects\":[".to_vec();
            inside.extend_from_slice(&body);
            inside.extend_from_slice(b"]}");
            let _ = read_body(&inside, version);
        }
    }
}
