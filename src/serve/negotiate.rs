//! `Accept`, parsed (RFC 9110 §12.5.1): lenient in, one exact type out.

use axum::extract::Request;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::serve::discovery::LANDING_PATH;
use crate::serve::error::{ServeError, cut};

/// The one spelling that string-comparing clients know (spec/taxii-2.md §14).
pub(super) const TAXII_21: &str = "application/taxii+json;version=2.1";

/// Refuses what cannot be answered with [`TAXII_21`].
pub(super) async fn negotiate(request: Request, next: Next) -> Response {
    if request.uri().path() != LANDING_PATH
        && let Err(refusal) = accepts(request.headers())
    {
        return refusal.into_response();
    }
    next.run(request).await
}

/// Whether the headers allow a TAXII 2.1 answer. A request without `Accept` takes anything.
fn accepts(headers: &HeaderMap) -> Result<(), ServeError> {
    let values: Vec<&[u8]> = headers.get_all(ACCEPT).iter().map(HeaderValue::as_bytes).collect();
    let whole = String::from_utf8_lossy(&values.join(&b","[..])).into_owned();
    if whole.trim().is_empty() || best_weight(&whole) > 0 {
        return Ok(());
    }
    Err(ServeError::NotAcceptable { accept: cut(&whole) })
}

/// How exactly a range names our type; a more exact range decides over a wider one, whatever their order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Anything,
    Application,
    /// `application/json` or a STIX type: not what the standard names, but what clients send.
    Related,
    Taxii,
    TaxiiVersion,
}

/// The weight, 0–1000, that the header gives to our type; 0 also when no range fits.
fn best_weight(accept: &str) -> u32 {
    let fitting = split_quoted(accept, ',').filter_map(range);
    // Of two equally exact ranges the kinder one counts.
    fitting.max().map_or(0, |(_, weight)| weight)
}

/// One range, if it fits our type.
fn range(text: &str) -> Option<(Fit, u32)> {
    let mut parts = split_quoted(text, ';');
    let essence: String = parts.next()?.chars().filter(|c| !c.is_whitespace()).collect();
    let mut version = None;
    let mut weight = 1000;
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let value = value.trim().trim_matches('"').trim();
        match name.trim().to_ascii_lowercase().as_str() {
            "version" => version = Some(value.to_owned()),
            "q" => weight = parse_weight(value)?,
            _ => {}
        }
    }
    let version_fits = version.as_deref().is_none_or(|version| version == "2.1");
    let fit = match essence.to_ascii_lowercase().as_str() {
        "*/*" | "*" => Fit::Anything,
        "application/*" => Fit::Application,
        // Refusing these says nothing about our own type.
        "application/json" if weight > 0 => Fit::Related,
        "application/stix+json" if version_fits && weight > 0 => Fit::Related,
        "application/taxii+json" if version_fits && version.is_some() => Fit::TaxiiVersion,
        "application/taxii+json" if version_fits => Fit::Taxii,
        _ => return None,
    };
    Some((fit, weight))
}

/// `0`–`1` with up to three decimals, in thousandths; more decimals are cut.
fn parse_weight(text: &str) -> Option<u32> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !matches!(whole, "0" | "1" | "") || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(3);
    let thousandths = digits.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Some(if whole == "1" { 1000 } else { thousandths })
}

/// Splits at `separator`, except inside double quotes.
fn split_quoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c: char| {
        quoted ^= c == '"';
        c == separator && !quoted
    })
    .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT, HeaderValue::from_static(value));
        }
        accepts(&headers).is_ok()
    }

    #[test]
    fn what_can_be_answered_is() {
        let cases: &[&[&str]] = &[
            &[],
            &[""],
            &["*/*"],
            &["*"],
            &["application/*"],
            &["application/json"],
            &["application/taxii+json"],
            &["application/taxii+json;version=2.1"],
            &["application/taxii+json; version=2.1"],
            &["application/taxii+json ; version = 2.1"],
            &["application/taxii+json;version=\"2.1\""],
            &["APPLICATION/TAXII+JSON;VERSION=2.1"],
            &["application/taxii+json;version=2.1;charset=utf-8"],
            &["application/stix+json;version=2.1"],
            &["text/html, application/taxii+json;version=2.1;q=0.1"],
            &["text/html,application/xhtml+xml,*/*;q=0.8"],
            &["application/vnd.oasis.taxii+json; version=2.0, application/taxii+json;version=2.1"],
            &["application/taxii+json;version=2.2, application/taxii+json"],
            &["text/html", "application/taxii+json"],
            &["text/plain;note=\"a,b;q=0\", */*;q=0.001"],
            &["application/*;q=0, application/taxii+json"],
            &["application/json;q=0, */*"],
            &[",, */*"],
        ];
        for case in cases {
            assert!(check(case), "{case:?}");
        }
    }

    #[test]
    fn what_cannot_be_answered_is_refused() {
        let cases: &[&[&str]] = &[
            &["text/html"],
            &["image/*"],
            &["application/xml"],
            &["application/taxii+json;version=2.0"],
            &["application/taxii+json;version=3"],
            &["application/vnd.oasis.taxii+json; version=2.0"],
            &["application/vnd.oasis.stix+json; version=2.0"],
            &["application/stix+json;version=2.0"],
            &["*/*;q=0"],
            &["application/taxii+json;version=2.1;q=0, */*"],
            &["application/taxii+json;q=0.000"],
            &["application/taxii+json;q=high"],
            &["text/plain;note=\"*/*, application/json\""],
            &["application/taxii+jsonx"],
        ];
        for case in cases {
            assert!(!check(case), "{case:?}");
        }
    }
}
