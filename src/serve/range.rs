//! Pages by number, as TAXII 2.0 has them (§3.4): `Range: items=0-99` and what is answered to it.
//!
//! Both spellings that the standard left room for are read, `items=0-99` as HTTP has it and `items 0-99` as its examples
//! do, and so is a `Content-Range` in the request, which goes before `Range` as in XSOAR's server. In the standard's
//! profile both ends are inclusive. XSOAR's server leaves out the last item of what it is asked for (`items 0-4` gives four;
//! spec/xsoar-taxii2-server.md §2.9), and its clients count on that. It refuses the spelling with `=`, so no client of it
//! counts on anything there: that one has inclusive ends in both profiles, which taxii2-client needs to miss nothing.

use axum::http::header::{CONTENT_RANGE, RANGE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};

use crate::feed::api::{ItemRange, Page, Profile};
use crate::serve::error::{ServeError, cut};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// Number of the first item.
    pub(super) first: u64,
    /// How many; `None`: to the end.
    pub(super) count: Option<u64>,
    /// Whether it is written as the original's clients write it.
    as_original: bool,
}

impl Asked {
    /// For the feed, which knows how much is too much.
    pub(super) fn items(self, page_size: u64) -> ItemRange {
        ItemRange { first: self.first, count: self.count.unwrap_or(page_size) }
    }
}

/// Reads the range of a request; `None` when there is none that has to be followed.
pub(super) fn asked(headers: &HeaderMap, profile: Profile) -> Result<Option<Asked>, ServeError> {
    let Some(value) = headers.get(CONTENT_RANGE).or_else(|| headers.get(RANGE)) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    match read(text.trim(), profile) {
        Read::Items(asked) => Ok(Some(asked)),
        // The original refuses these; HTTP has servers pass over units they do not know and forms they do not support.
        Read::Unsupported if profile == Profile::Standard => Ok(None),
        Read::Unsupported | Read::Malformed => Err(ServeError::BadRange { header: cut(&text) }),
    }
}

enum Read {
    Items(Asked),
    Unsupported,
    Malformed,
}

fn read(text: &str, profile: Profile) -> Read {
    let unit_ends = text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (unit, rest) = text.split_at(unit_ends);
    if !unit.eq_ignore_ascii_case("items") {
        return Read::Unsupported;
    }
    let rest = rest.trim_start();
    let equals = rest.strip_prefix('=');
    let as_original = profile == Profile::Xsoar && equals.is_none();
    let (range, total) = equals.unwrap_or(rest).split_once('/').unwrap_or((equals.unwrap_or(rest), "*"));
    if total.trim() != "*" && number(total).is_none() {
        return Read::Malformed;
    }
    if range.contains(',') || range.trim_start().starts_with('-') {
        return Read::Unsupported;
    }
    let Some((first, end)) = range.split_once('-') else { return Read::Malformed };
    let Some(first) = number(first) else { return Read::Malformed };
    if end.trim().is_empty() {
        return Read::Items(Asked { first, count: None, as_original });
    }
    match number(end).and_then(|end| end.checked_sub(first)) {
        Some(distance) => {
            let count = if as_original { distance } else { distance.saturating_add(1) };
            Read::Items(Asked { first, count: Some(count), as_original })
        }
        None => Read::Malformed,
    }
}

/// A number of any size; those beyond `u64` are as good as the largest.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Status and `Content-Range` of a page.
pub(super) fn answered(asked: Option<Asked>, page: &Page, profile: Profile) -> (StatusCode, Option<HeaderValue>) {
    let first = asked.map_or(0, |asked| asked.first);
    let total = page.total.map_or_else(|| "*".to_owned(), |total| total.to_string());
    let as_original = asked.map_or(profile == Profile::Xsoar, |asked| asked.as_original);
    let text = match page.objects {
        // Offset and count, not first and last (spec/xsoar-taxii2-server.md §2.8).
        objects if as_original => format!("items {first}-{objects}/{total}"),
        0 => format!("items */{total}"),
        objects => format!("items {first}-{}/{total}", first.saturating_add(objects - 1)),
    };
    let partial = profile == Profile::Standard && page.objects > 0 && (asked.is_some() || page.more);
    let status = if partial { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    (status, HeaderValue::try_from(text).ok())
}

/// `Content-Range` of an answer to a range behind the last item.
pub(super) fn behind(total: u64) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("items */{total}")).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Profile::{Standard, Xsoar};

    fn with(range: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_str(range).expect("a header"));
        headers
    }

    fn pair(range: &str, profile: Profile) -> Option<(u64, Option<u64>)> {
        asked(&with(range), profile).ok()?.map(|asked| (asked.first, asked.count))
    }

    #[test]
    fn ends_are_the_profiles() {
        let cases = [
            ("items 0-9", 0, 10, 9),
            ("items 0-4/5", 0, 5, 4),
            ("items 10-19/*", 10, 10, 9),
            // Numbers, not texts.
            ("items 8-10", 8, 3, 2),
            ("items 90-100", 90, 11, 10),
            ("items 9000-10000", 9000, 1001, 1000),
            ("items 3-3", 3, 1, 0),
            ("items0-9", 0, 10, 9),
            ("Items   0 - 9 / 20", 0, 10, 9),
            ("items 0-99999999999999999999999", 0, u64::MAX, u64::MAX),
            ("items 007-010", 7, 4, 3),
        ];
        for (range, first, standard, xsoar) in cases {
            assert_eq!(pair(range, Standard), Some((first, Some(standard))), "{range}");
            assert_eq!(pair(range, Xsoar), Some((first, Some(xsoar))), "{range}");
            let equals = range.replacen("items", "items=", 1).replacen("Items", "Items =", 1);
            for profile in [Standard, Xsoar] {
                assert_eq!(pair(&equals, profile), Some((first, Some(standard))), "{equals}");
            }
        }
        for profile in [Standard, Xsoar] {
            assert_eq!(pair("items=50-", profile), Some((50, None)));
            assert_eq!(asked(&HeaderMap::new(), profile).ok(), Some(None));
        }
    }

    #[test]
    fn content_range_goes_first() {
        for profile in [Standard, Xsoar] {
            let mut headers = with("items=0-9");
            headers.insert(CONTENT_RANGE, HeaderValue::from_static("items=20-29/500"));
            let first = asked(&headers, profile).ok().flatten().map(|asked| asked.first);
            assert_eq!(first, Some(20));
        }
    }

    #[test]
    fn odd_ranges_are_refused_or_passed_over() {
        let malformed =
            ["items", "items 8-2/10", "items=8-2", "items a-b", "items 5", "items 1-2/x", "items 1-2-3", "items 1.5-2"];
        for range in malformed {
            for profile in [Standard, Xsoar] {
                let refused = asked(&with(range), profile);
                assert!(matches!(refused, Err(ServeError::BadRange { header }) if header == range), "{range}");
            }
        }
        for range in ["bytes=0-99", "items=0-1,3-4", "items=-50", "0-9", "item 0-9"] {
            assert_eq!(asked(&with(range), Standard).ok(), Some(None), "{range}");
            assert!(asked(&with(range), Xsoar).is_err(), "{range}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(items)?[ =]?[0-9]{0,30}[ -~]{0,30}") {
            let _ = asked(&with(&text), Standard);
            let _ = asked(&with(&text), Xsoar);
        }
    }
}
