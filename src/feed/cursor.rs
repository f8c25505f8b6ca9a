//! The paging cursor: where to go on, up to where, and the filters the walk began with.
//!
//! It is opaque and signed, because a client can send anything back; versioned, because cursors outlive releases; and
//! stateless, because a server's memory dies with it and another node may answer. It holds the filters themselves, since
//! some clients repeat them beside `next` and some do not.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use twox_hash::XxHash3_64;

use crate::feed::api::{FeedError, Filters, Given, Versions};
use crate::model::time::Timestamp;

const VERSION: u8 = 1;
const SIGNATURE_BYTES: usize = 16;
/// Longer texts are not decoded at all.
const LONGEST: usize = 48 << 10;

/// A walk's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Whose walk: collection, query and form of its objects.
    pub(crate) fingerprint: u64,
    /// `added` of the last row served.
    pub(crate) after: Timestamp,
    /// Version of the store the walk began on.
    pub(crate) snapshot: u64,
    /// When the walk began: what relative dates count from.
    pub(crate) asked: Timestamp,
    /// The object or versions resource's object.
    pub(crate) object: Option<String>,
    /// What the walk began with.
    pub(crate) filters: Filters,
}

/// Names a walk that cursors may not cross.
pub(crate) fn fingerprint(parts: &[&str]) -> u64 {
    XxHash3_64::oneshot(parts.join("\0").as_bytes())
}

impl Cursor {
    pub(crate) fn encode(&self, key: &[u8; 32]) -> String {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.fingerprint.to_le_bytes());
        for number in [self.after.0, self.snapshot as i64, self.asked.0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        put_list(&mut out, self.object.as_slice());
        put_instants(&mut out, self.filters.added_after.as_slice());
        put_filters(&mut out, &self.filters);
        let signature = sign(key, &out);
        out.extend_from_slice(&signature[..SIGNATURE_BYTES]);
        URL_SAFE_NO_PAD.encode(out)
    }

    pub(crate) fn decode(text: &str, key: &[u8; 32], fingerprint: u64) -> Result<Self, FeedError> {
        let bad = |reason| FeedError::BadCursor { reason };
        if text.len() > LONGEST {
            return Err(bad("it is too long to be one of this server's"));
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad("it is not one of this server's"))?;
        let split = bytes.len().checked_sub(SIGNATURE_BYTES).ok_or_else(|| bad("it is not one of this server's"))?;
        let (body, signature) = bytes.split_at(split);
        let mut mac = keyed(key);
        mac.update(body);
        mac.verify_truncated_left(signature).map_err(|_| bad("it is not one of this server's, or it was changed"))?;
        let mut reader = Reader { rest: body };
        if reader.byte() != Some(VERSION) {
            return Err(bad("it is of another release's kind"));
        }
        let cursor =
            reader.cursor().filter(|_| reader.rest.is_empty()).ok_or_else(|| bad("it is of another release's kind"))?;
        if cursor.fingerprint != fingerprint {
            return Err(bad("it belongs to another collection or resource, or the collection's definition changed"));
        }
        Ok(cursor)
    }

    /// Filters repeated beside the cursor must be the ones the walk began with; an `added_after` may be later, see
    /// [`begins_anew`](Self::begins_anew).
    pub(crate) fn check(&self, filters: &Filters, given: Given) -> Result<(), FeedError> {
        let own = &self.filters;
        let differing = [
            ("added_after", given.added_after && filters.added_after < own.added_after),
            ("match[id]", given.ids && filters.ids != own.ids),
            ("match[type]", given.types && filters.types != own.types),
            ("match[version]", given.versions && filters.versions != own.versions),
            ("match[spec_version]", given.spec_versions && filters.spec_versions != own.spec_versions),
        ];
        match differing.into_iter().find(|(_, differs)| *differs) {
            Some((name, _)) => Err(FeedError::FiltersDiffer { name }),
            None => Ok(()),
        }
    }

    /// Whether a request beside the cursor asks for a new walk in truth: its `added_after` is later than the one that the
    /// cursor's walk began with. OpenCTI's connector never lets go of the `next` that a run ended with, and sends it with the
    /// date of each later run; others move the date along with `next`. All of them get what they wait for from that date on,
    /// in the newest state; an error, or the rest of the old walk, would leave them with nothing for good.
    pub(crate) fn begins_anew(&self, filters: &Filters, given: Given) -> bool {
        given.added_after && filters.added_after > self.filters.added_after
    }
}

fn keyed(key: &[u8; 32]) -> Hmac<Sha256> {
    // HMAC takes keys of any length; the fallback is never reached.
    Hmac::<Sha256>::new_from_slice(key).unwrap_or_else(|_| Hmac::<Sha256>::new(&Default::default()))
}

fn sign(key: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
    let mut mac = keyed(key);
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

/// About how many bytes a usual STIX id takes in a cursor.
pub(crate) const PACKED_ID_BYTES: usize = 30;

/// How many bytes of a cursor its filters take.
pub(crate) fn packed_bytes(filters: &Filters) -> usize {
    let mut out = Vec::new();
    put_filters(&mut out, filters);
    out.len()
}

fn put_filters(out: &mut Vec<u8>, filters: &Filters) {
    out.extend_from_slice(&(filters.ids.len() as u16).to_le_bytes());
    filters.ids.iter().for_each(|id| put_id(out, id));
    put_list(out, &filters.types);
    put_list(out, &filters.spec_versions);
    match &filters.versions {
        Versions::Last => out.push(0),
        Versions::All => out.push(1),
        Versions::Some { first, last, exact } => {
            out.push(2 + u8::from(*first) + 2 * u8::from(*last));
            put_instants(out, exact);
        }
    }
}

/// An id as its type and sixteen bytes, if that gives the same text back; else as it is.
fn put_id(out: &mut Vec<u8>, id: &str) {
    let packed = id.rsplit_once("--").and_then(|(stix_type, text)| {
        let uuid = uuid::Uuid::try_parse(text).ok().filter(|uuid| uuid.hyphenated().to_string() == text)?;
        Some((u8::try_from(stix_type.len()).ok().filter(|length| *length < WHOLE_ID)?, stix_type, uuid))
    });
    match packed {
        Some((length, stix_type, uuid)) => {
            out.push(length);
            out.extend_from_slice(stix_type.as_bytes());
            out.extend_from_slice(uuid.as_bytes());
        }
        None => {
            out.push(WHOLE_ID);
            put_list(out, std::slice::from_ref(&id.to_owned()));
        }
    }
}

/// In place of the type's length: the id is written whole.
const WHOLE_ID: u8 = u8::MAX;

fn put_list(out: &mut Vec<u8>, texts: &[String]) {
    out.extend_from_slice(&(texts.len() as u16).to_le_bytes());
    for text in texts {
        out.extend_from_slice(&(text.len() as u16).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    }
}

fn put_instants(out: &mut Vec<u8>, instants: &[Timestamp]) {
    out.extend_from_slice(&(instants.len() as u16).to_le_bytes());
    instants.iter().for_each(|instant| out.extend_from_slice(&instant.0.to_le_bytes()));
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(count)?;
        self.rest = tail;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn count(&mut self) -> Option<usize> {
        Some(usize::from(u16::from_le_bytes(self.take(2)?.try_into().ok()?)))
    }

    fn list(&mut self) -> Option<Vec<String>> {
        (0..self.count()?)
            .map(|_| {
                self.count().and_then(|length| self.take(length)).and_then(|text| String::from_utf8(text.to_vec()).ok())
            })
            .collect()
    }

    fn id(&mut self) -> Option<String> {
        match self.byte()? {
            WHOLE_ID => self.list()?.pop(),
            length => {
                let stix_type = std::str::from_utf8(self.take(usize::from(length))?).ok()?;
                let uuid = uuid::Uuid::from_slice(self.take(16)?).ok()?;
                Some(format!("{stix_type}--{}", uuid.hyphenated()))
            }
        }
    }

    fn instants(&mut self) -> Option<Vec<Timestamp>> {
        (0..self.count()?).map(|_| self.number().map(Timestamp)).collect()
    }

    fn cursor(&mut self) -> Option<Cursor> {
        let fingerprint = self.number()? as u64;
        let (after, snapshot, asked) = (Timestamp(self.number()?), self.number()? as u64, Timestamp(self.number()?));
        let object = self.list()?.pop();
        let added_after = self.instants()?.pop();
        let ids = (0..self.count()?).map(|_| self.id()).collect::<Option<Vec<String>>>()?;
        let (types, spec_versions) = (self.list()?, self.list()?);
        let versions = match self.byte()? {
            0 => Versions::Last,
            1 => Versions::All,
            flags @ 2..=5 => {
                Versions::Some { first: (flags - 2) & 1 != 0, last: (flags - 2) & 2 != 0, exact: self.instants()? }
            }
            _ => return None,
        };
        let filters = Filters { added_after, ids, types, versions, spec_versions };
        Some(Cursor { fingerprint, after, snapshot, asked, object, filters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_cursor() -> impl Strategy<Value = Cursor> {
        let texts = || proptest::collection::vec("[a-z0-9-]{0,40}", 0..4);
        let id = prop_oneof![
            "[a-z0-9-]{0,40}",
            any::<[u8; 16]>().prop_map(|bytes| format!("ipv4-addr--{}", uuid::Uuid::from_bytes(bytes))),
            any::<[u8; 16]>().prop_map(|bytes| format!("x--{:X}", uuid::Uuid::from_bytes(bytes))),
        ];
        let ids = proptest::collection::vec(id, 0..4);
        let instants = || proptest::collection::vec(any::<i64>().prop_map(Timestamp), 0..3);
        let versions = prop_oneof![
            Just(Versions::Last),
            Just(Versions::All),
            (any::<bool>(), any::<bool>(), instants()).prop_map(|(first, last, exact)| Versions::Some {
                first,
                last,
                exact
            }),
        ];
        let filters = (proptest::option::of(any::<i64>().prop_map(Timestamp)), ids, texts(), versions, texts())
            .prop_map(|(added_after, ids, types, versions, spec_versions)| Filters {
                added_after,
                ids,
                types,
                versions,
                spec_versions,
            });
        (any::<i64>(), any::<u64>(), any::<i64>(), proptest::option::of("[a-z-]{1,30}"), filters).prop_map(
            |(after, snapshot, asked, object, filters)| Cursor {
                fingerprint: 9,
                after: Timestamp(after),
                snapshot,
                asked: Timestamp(asked),
                object,
                filters,
            },
        )
    }

    proptest! {
        #[test]
        fn reads_back_what_it_wrote(cursor in any_cursor()) {
            let text = cursor.encode(&[1; 32]);
            prop_assert_eq!(Cursor::decode(&text, &[1; 32], 9).unwrap(), cursor);
        }

        #[test]
        fn one_changed_character_is_refused(cursor in any_cursor(), at in any::<prop::sample::Index>(), replacement in "[A-Za-z0-9_-]") {
            let text = cursor.encode(&[1; 32]);
            let at = at.index(text.len());
            let mut forged = text.clone();
            forged.replace_range(at..=at, &replacement);
            prop_assume!(forged != text);
            prop_assert!(Cursor::decode(&forged, &[1; 32], 9).is_err());
        }

        #[test]
        fn no_text_panics(text in ".{0,200}") {
            prop_assert!(Cursor::decode(&text, &[1; 32], 9).is_err());
        }
    }

    /// Both what a client can send, and what reading would meet if a signature were no protection.
    #[test]
    fn fuzz_cursor() {
        use crate::fuzz::{fuzz, outcome};
        const KEY: [u8; 32] = [1; 32];
        fuzz("cursor", &["\x01", "\0\0", "\x09\0\0\0\0\0\0\0", "indicator", "AQID", "-", "_", "="], |input| {
            assert!(Cursor::decode(&String::from_utf8_lossy(input), &KEY, 9).is_err(), "a text without a signature");
            let signature = sign(&KEY, input);
            let text = URL_SAFE_NO_PAD.encode([input, &signature[..SIGNATURE_BYTES]].concat());
            let read = Cursor::decode(&text, &KEY, 9);
            if let Ok(cursor) = &read {
                assert_eq!(Cursor::decode(&cursor.encode(&KEY), &KEY, 9).ok().as_ref(), Some(cursor));
            }
            let lengths = |cursor: Cursor| {
                let filters = cursor.filters;
                let lists = [filters.ids.len(), filters.types.len(), filters.spec_versions.len()];
                (lists.map(|length| length.min(4)), cursor.object.is_some(), format!("{:?}", filters.versions).len())
            };
            outcome((read.map(lengths).map_err(|error| error.to_string()), input.len().min(80)))
        });
    }

    #[test]
    fn another_server_or_collection_is_refused() {
        let cursor = Cursor {
            fingerprint: 9,
            after: Timestamp(5),
            snapshot: 1,
            asked: Timestamp(6),
            object: None,
            filters: Filters::default(),
        };
        let text = cursor.encode(&[1; 32]);
        assert!(Cursor::decode(&text, &[2; 32], 9).is_err());
        assert!(Cursor::decode(&text, &[1; 32], 8).is_err());
    }
}
