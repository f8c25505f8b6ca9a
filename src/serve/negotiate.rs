//! `Accept`, parsed (RFC 9110 §12.5.1): lenient in, one exact type out. It says which TAXII version a request means,
//! since both are served at the same paths.
//!
//! A version is told by its own media type, whatever the blanks, case and company. `*/*`, `application/json`,
//! `application/taxii+json` without a version, and no header at all do not tell: then the path of a discovery does,
//! `/taxii/` being that of 2.0 and `/taxii2/` that of 2.1, and elsewhere the configured default. What a path would have
//! and the server does not serve is answered in the version that is served.

use axum::extract::Request;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::feed::api::{Profile, StixVersion};
use crate::serve::discovery::{DISCOVERY_20, DISCOVERY_21, LANDING_PATH};
use crate::serve::enrich::{ENRICH_PATH, LOOKUP_PATH};
use crate::serve::error::{ServeError, cut};
use crate::serve::lists::is_list;
use crate::serve::options::Options;

/// TAXII 2.1, in the one spelling that string-comparing clients know (spec/taxii-2.md §14).
pub(super) const TAXII_21: &str = "application/taxii+json;version=2.1";
/// STIX 2.1.
pub(super) const STIX_21: &str = "application/stix+json;version=2.1";
/// TAXII 2.0, in the spelling that string-comparing clients know.
pub(super) const TAXII_20: &str = "application/vnd.oasis.taxii+json; version=2.0";
/// STIX 2.0.
pub(super) const STIX_20: &str = "application/vnd.oasis.stix+json; version=2.0";

/// Content type of a TAXII resource in that version.
pub(super) fn taxii_type(version: StixVersion) -> &'static str {
    match version {
        StixVersion::V20 => TAXII_20,
        StixVersion::V21 => TAXII_21,
    }
}

const VERSIONS: [StixVersion; 2] = [StixVersion::V20, StixVersion::V21];

/// What a request's `Accept` comes down to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Negotiated {
    /// Version of the answer, errors included.
    pub(super) version: StixVersion,
    /// Why there is none, if so.
    pub(super) refusal: Option<Refusal>,
}

/// Nothing that is served fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    accept: String,
    unserved: Option<StixVersion>,
    served: Vec<StixVersion>,
}

/// Refuses what cannot be answered in any version that is served.
pub(super) async fn negotiate(mut request: Request, next: Next) -> Response {
    let refusal = request.extensions_mut().remove::<Refusal>();
    // Lists and what enriches are no TAXII resources.
    let path = request.uri().path();
    let other = [LANDING_PATH, ENRICH_PATH, LOOKUP_PATH].contains(&path) || is_list(path);
    match refusal.filter(|_| !other) {
        Some(Refusal { accept, unserved, served }) => {
            ServeError::NotAcceptable { accept, unserved, served }.into_response()
        }
        None => next.run(request).await,
    }
}

/// Reads `Accept` for a request to `path`.
pub(super) fn negotiated(headers: &HeaderMap, path: &str, options: &Options) -> Negotiated {
    let by_path = match path.trim_end_matches('/') {
        DISCOVERY_20 => StixVersion::V20,
        DISCOVERY_21 => StixVersion::V21,
        _ => options.default_version,
    };
    let preferred = if options.serves(by_path) { by_path } else { options.default_version };
    let values: Vec<&[u8]> = headers.get_all(ACCEPT).iter().map(HeaderValue::as_bytes).collect();
    let whole = String::from_utf8_lossy(&values.join(&b","[..])).into_owned();
    if whole.trim().is_empty() {
        return Negotiated { version: preferred, refusal: None };
    }
    let ranges: Vec<Range> = split_quoted(&whole, ',').filter_map(range).collect();
    // The original of version 2.0 takes the types of 2.1 as well (spec/xsoar-taxii2-server.md §2.5).
    let takes_newer = options.profile == Profile::Xsoar && !options.serves(StixVersion::V21);
    let rank = |version: StixVersion| {
        let own = best(&ranges, version);
        if takes_newer && version == StixVersion::V20 { own.max(best(&ranges, StixVersion::V21)) } else { own }
    };
    let fitting = |version: &StixVersion| rank(*version).weight > 0;
    let served = VERSIONS.into_iter().filter(|version| options.serves(*version)).filter(fitting);
    match served.max_by_key(|version| (rank(*version), *version == preferred)) {
        Some(version) => Negotiated { version, refusal: None },
        None => {
            let unserved = VERSIONS.into_iter().find(fitting);
            let refusal = Refusal { accept: cut(&whole), unserved, served: options.versions.clone() };
            Negotiated { version: preferred, refusal: Some(refusal) }
        }
    }
}

/// How exactly a range names a type of ours; a more exact range decides over a wider one, whatever their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Anything,
    Application,
    /// `application/json`: not what the standard names, but what clients send.
    Json,
    /// A STIX type, or one that names the version in the other version's way.
    Related,
    Taxii,
    TaxiiVersion,
}

/// One range of the header.
#[derive(Clone, Copy, Debug)]
struct Range {
    /// For 2.0 and 2.1.
    fits: [Option<Fit>; 2],
    /// 0–1000.
    weight: u32,
}

/// What the header gives a version: the kindest come first, of those the most exactly named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// 0–1000; 0 also when no range fits.
    weight: u32,
    fit: Option<Fit>,
}

fn best(ranges: &[Range], version: StixVersion) -> Rank {
    let at = usize::from(version == StixVersion::V21);
    let fitting = ranges.iter().filter_map(|range| Some((range.fits.get(at).copied().flatten()?, range.weight)));
    // Of two equally exact ranges the kinder one counts.
    fitting.max().map_or(Rank::default(), |(fit, weight)| Rank { weight, fit: Some(fit) })
}

/// One range, if it fits a type of ours.
fn range(text: &str) -> Option<Range> {
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
    let both = |fit| [Some(fit), Some(fit)];
    let fits = match (essence.to_ascii_lowercase().as_str(), version.as_deref()) {
        ("*/*" | "*", _) => both(Fit::Anything),
        ("application/*", _) => both(Fit::Application),
        ("application/taxii+json", None) => both(Fit::Taxii),
        ("application/taxii+json", Some("2.1")) => [None, Some(Fit::TaxiiVersion)],
        ("application/vnd.oasis.taxii+json", None) => [Some(Fit::Taxii), None],
        ("application/vnd.oasis.taxii+json", Some("2.0")) => [Some(Fit::TaxiiVersion), None],
        // Refusing these says nothing about our own types.
        _ if weight == 0 => return None,
        ("application/json", _) => both(Fit::Json),
        ("application/stix+json", None) => both(Fit::Json),
        ("application/vnd.oasis.stix+json", None) => [Some(Fit::Related), None],
        (
            "application/taxii+json"
            | "application/stix+json"
            | "application/vnd.oasis.taxii+json"
            | "application/vnd.oasis.stix+json",
            Some(version),
        ) => match version {
            "2.0" => [Some(Fit::Related), None],
            "2.1" => [None, Some(Fit::Related)],
            _ => return None,
        },
        _ => return None,
    };
    Some(Range { fits, weight })
}

/// `0`–`1` with up to three decimals, in thousandths; more decimals are cut.
pub(super) fn parse_weight(text: &str) -> Option<u32> {
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
    use StixVersion::{V20, V21};

    fn read(values: &[&'static str], path: &str, options: &Options) -> Result<StixVersion, Option<StixVersion>> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT, HeaderValue::from_static(value));
        }
        let Negotiated { version, refusal } = negotiated(&headers, path, options);
        refusal.map_or(Ok(version), |refusal| Err(refusal.unserved))
    }

    const ROOT: &str = "/threatintel/";

    #[test]
    fn what_does_not_tell_gets_the_default() {
        let cases: &[&[&str]] = &[
            &[],
            &[""],
            &["*/*"],
            &["*"],
            &["application/*"],
            &["application/json"],
            &["application/taxii+json"],
            &["application/stix+json"],
            &["application/taxii+json;version=2.2, application/taxii+json"],
            &["application/vnd.oasis.taxii+json; version=2.0, application/taxii+json;version=2.1"],
            &["application/stix+json;version=2.1, application/vnd.oasis.stix+json"],
            &["text/html,application/xhtml+xml,*/*;q=0.8"],
            &["text/html", "application/taxii+json"],
            &["text/plain;note=\"a,b;q=0\", */*;q=0.001"],
            &["application/*;q=0, application/taxii+json"],
            &["application/json;q=0, */*"],
            &[",, */*"],
        ];
        for case in cases {
            for version in VERSIONS {
                let options = Options { default_version: version, ..Options::default() };
                assert_eq!(read(case, ROOT, &options), Ok(version), "{case:?}");
                // The path of a discovery tells where the header does not.
                assert_eq!(read(case, "/taxii/", &options), Ok(V20), "{case:?}");
                assert_eq!(read(case, "/taxii2", &options), Ok(V21), "{case:?}");
                let only = Options { versions: vec![version], ..options };
                for path in [ROOT, "/taxii", "/taxii2/"] {
                    assert_eq!(read(case, path, &only), Ok(version), "{case:?} {path}");
                }
            }
        }
    }

    #[test]
    fn what_tells_gets_its_version() {
        let cases: &[(StixVersion, &[&str])] = &[
            (V21, &["application/taxii+json;version=2.1"]),
            (V21, &["application/taxii+json; version=2.1"]),
            (V21, &["application/taxii+json ; version = 2.1"]),
            (V21, &["application/taxii+json;version=\"2.1\""]),
            (V21, &["APPLICATION/TAXII+JSON;VERSION=2.1"]),
            (V21, &["application/taxii+json;version=2.1;charset=utf-8"]),
            (V21, &["application/stix+json;version=2.1"]),
            (V21, &["application/stix+json; version=2.1"]),
            // What drafts of 2.1 called it.
            (V21, &["application/vnd.oasis.taxii+json; version=2.1"]),
            (V21, &["text/html, application/taxii+json;version=2.1;q=0.1"]),
            (V21, &["application/taxii+json;version=2.1, */*"]),
            (V21, &["application/vnd.oasis.taxii+json;q=0.5, application/json"]),
            (V21, &["application/vnd.oasis.taxii+json;version=2.0;q=0, */*"]),
            (V20, &["application/vnd.oasis.taxii+json; version=2.0"]),
            (V20, &["application/vnd.oasis.taxii+json;version=2.0"]),
            (V20, &["application/vnd.oasis.taxii+json"]),
            (V20, &["application/vnd.oasis.stix+json; version=2.0"]),
            (V20, &["application/vnd.oasis.stix+json;version=2.0"]),
            (V20, &["application/vnd.oasis.stix+json"]),
            (V20, &["Application/Vnd.Oasis.Stix+Json;Version=2.0;q=0.2"]),
            (V20, &["application/taxii+json;version=2.0"]),
            (V20, &["application/stix+json;version=2.0"]),
            (V20, &["application/vnd.oasis.stix+json; version=2.0, application/json"]),
            (V20, &["application/taxii+json;version=2.1;q=0.4", "application/vnd.oasis.taxii+json;q=0.5"]),
            (V20, &["application/taxii+json;version=2.1;q=0, */*"]),
            (V20, &["application/vnd.oasis.taxii+json;version=2.0;q=0.9, application/taxii+json;q=0.8"]),
        ];
        for (version, case) in cases {
            for default_version in VERSIONS {
                let options = Options { default_version, ..Options::default() };
                for path in [ROOT, "/taxii/", "/taxii2/"] {
                    assert_eq!(read(case, path, &options), Ok(*version), "{case:?} {path}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_answered_is_refused() {
        let cases: &[&[&str]] = &[
            &["text/html"],
            &["image/*"],
            &["application/xml"],
            &["application/taxii+json;version=3"],
            &["application/vnd.oasis.taxii+json; version=1.1"],
            &["application/stix+json;version=1"],
            &["*/*;q=0"],
            &["application/taxii+json;q=0.000"],
            &["application/taxii+json;q=high"],
            &["text/plain;note=\"*/*, application/json\""],
            &["application/taxii+jsonx"],
            &["application/json;q=0"],
        ];
        for case in cases {
            assert_eq!(read(case, ROOT, &Options::default()), Err(None), "{case:?}");
        }
    }

    #[test]
    fn a_version_that_is_not_served_is_refused_as_that() {
        let only = |profile, version| Options {
            profile,
            versions: vec![version],
            default_version: version,
            ..Options::default()
        };
        let cases = [
            (Profile::Standard, V21, TAXII_20, Err(Some(V20))),
            (Profile::Standard, V21, STIX_20, Err(Some(V20))),
            (Profile::Standard, V21, "application/vnd.oasis.taxii+json;version=2.0,*/*;q=0.1", Ok(V21)),
            (Profile::Standard, V20, TAXII_21, Err(Some(V21))),
            (Profile::Standard, V20, "text/html", Err(None)),
            (Profile::Xsoar, V21, TAXII_20, Err(Some(V20))),
            (Profile::Xsoar, V21, "application/vnd.oasis.stix+json;version=2.0", Err(Some(V20))),
            (Profile::Xsoar, V20, TAXII_21, Ok(V20)),
            (Profile::Xsoar, V20, STIX_21, Ok(V20)),
            (Profile::Xsoar, V20, TAXII_20, Ok(V20)),
            (Profile::Xsoar, V20, "text/html", Err(None)),
        ];
        for (profile, version, accept, expected) in cases {
            for path in [ROOT, "/taxii/", "/taxii2/"] {
                assert_eq!(read(&[accept], path, &only(profile, version)), expected, "{version:?} {accept} {path}");
            }
        }
    }
}
