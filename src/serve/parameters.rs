//! Query parameters of the page resources (TAXII 2.1 §3.4, §3.5; TAXII 2.0 §3.5): which there are, what is well-formed.
//!
//! A parameter that the resource takes and that is malformed or doubled is refused by name. Anything else is ignored,
//! since clients and the proxies before them add parameters of their own.
//!
//! In the profile `xsoar` all that XSOAR's server takes is taken (spec/xsoar-taxii2-server.md §2.9, §2.10): it reads the
//! first of several, passes over empty ones, has blanks around values, JSON lists of types, `limit=0`, and does not look
//! at `match[spec_version]` at all.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::feed::api::{Given, PageRequest, Profile, Shape, StixVersion, Versions};
use crate::model::time::Timestamp;
use crate::serve::error::{ServeError, cut};

const ADDED_AFTER: &str = "added_after";
const LIMIT: &str = "limit";
const NEXT: &str = "next";
const MATCH_ID: &str = "match[id]";
const MATCH_TYPE: &str = "match[type]";
const MATCH_VERSION: &str = "match[version]";
const MATCH_SPEC_VERSION: &str = "match[spec_version]";

const ALL: [&str; 7] = [ADDED_AFTER, LIMIT, NEXT, MATCH_ID, MATCH_TYPE, MATCH_VERSION, MATCH_SPEC_VERSION];
const OF_OBJECT: [&str; 5] = [ADDED_AFTER, LIMIT, NEXT, MATCH_VERSION, MATCH_SPEC_VERSION];
const OF_DELETION: [&str; 2] = [MATCH_VERSION, MATCH_SPEC_VERSION];
const OF_VERSIONS: [&str; 4] = [ADDED_AFTER, LIMIT, NEXT, MATCH_SPEC_VERSION];
const ALL_20: [&str; 4] = [ADDED_AFTER, MATCH_ID, MATCH_TYPE, MATCH_VERSION];
const OF_OBJECT_20: [&str; 1] = [MATCH_VERSION];

/// What decides how a query is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Of TAXII: 2.0 has fewer parameters.
    pub(super) version: StixVersion,
    /// The collection's: the original takes more.
    pub(super) profile: Profile,
    /// The resource.
    pub(super) shape: Shape,
    /// What of the collection the request is about.
    pub(super) target: Target,
    /// Limits above it are cut to it.
    pub(super) max_page_size: u64,
    /// Most values in one `match` parameter.
    pub(super) match_values: usize,
}

/// What of a collection a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// All of it.
    Objects,
    /// One of the resources under `objects/{id}`.
    Object,
    /// Versions of an object that are to go (TAXII 2.1 §5.7).
    Deletion,
}

impl Rules {
    fn taken(&self) -> &'static [&'static str] {
        match (self.version, self.shape, self.target) {
            (_, _, Target::Deletion) => &OF_DELETION,
            (StixVersion::V20, _, Target::Object) => &OF_OBJECT_20,
            (StixVersion::V20, _, Target::Objects) => &ALL_20,
            (StixVersion::V21, Shape::Versions, _) => &OF_VERSIONS,
            (StixVersion::V21, Shape::Objects | Shape::Manifest, Target::Object) => &OF_OBJECT,
            (StixVersion::V21, Shape::Objects | Shape::Manifest, Target::Objects) => &ALL,
        }
    }
}

/// Reads the query of a page resource, or of a deletion.
pub(super) fn parse(query: Option<&str>, rules: Rules) -> Result<PageRequest, ServeError> {
    let taken = rules.taken();
    let lenient = rules.profile == Profile::Xsoar;
    let mut request = PageRequest::default();
    if rules.shape == Shape::Versions {
        request.filters.versions = Versions::All;
    }
    let mut seen: Vec<&'static str> = Vec::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(key) = decode(key) else { continue };
        let Some(name) = taken.iter().copied().find(|name| *name == key) else { continue };
        if seen.contains(&name) {
            if lenient {
                continue;
            }
            return Err(bad(name, "may be given only once"));
        }
        seen.push(name);
        let value = decode(value).ok_or_else(|| bad(name, "is not percent-encoded UTF-8"))?;
        if name.starts_with("match[") && value.split(',').count() > rules.match_values {
            return Err(bad(
                name,
                format!("may hold {} values; ask for fewer in several requests", rules.match_values),
            ));
        }
        if lenient {
            take_as_original(&mut request, name, value.trim(), rules.max_page_size)?;
        } else {
            take(&mut request, name, &value, rules.max_page_size)?;
        }
    }
    Ok(request)
}

/// As [`take`], for the clients of the original server.
fn take_as_original(
    request: &mut PageRequest,
    name: &'static str,
    value: &str,
    max_page_size: u64,
) -> Result<(), ServeError> {
    if value.is_empty() {
        return Ok(());
    }
    let old_words = |text: String| Err(ServeError::OldWords { name, text });
    match name {
        ADDED_AFTER if Timestamp::parse(value).is_err() => old_words(format!(
            "Added after time format should be YYYY-MM-DDTHH:mm:ss.[s+]Z. It is {}",
            python_repr(&cut(value))
        )),
        LIMIT => match value.strip_prefix('+').unwrap_or(value) {
            number if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => {
                request.limit = Some(number.parse().unwrap_or(u64::MAX).min(max_page_size));
                Ok(())
            }
            _ => old_words(format!("invalid literal for int() with base 10: {}", python_repr(&cut(value)))),
        },
        MATCH_ID | MATCH_TYPE | MATCH_VERSION => {
            let listed: Option<Vec<String>> = serde_json::from_str(value).ok();
            let items = listed.map_or_else(|| value.to_owned(), |items| items.join(","));
            let items: Vec<&str> = items.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
            if items.is_empty() { Ok(()) } else { take(request, name, &items.join(","), max_page_size) }
        }
        // What the original never looks at cannot be wrong there.
        MATCH_SPEC_VERSION if parse_spec_versions(value).is_err() => Ok(()),
        _ => take(request, name, value, max_page_size),
    }
}

/// A text as Python shows it.
fn python_repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut shown = String::from(quote);
    for c in text.chars() {
        if c == quote || c == '\\' {
            shown.push('\\');
        }
        shown.push(c);
    }
    shown.push(quote);
    shown
}

fn take(request: &mut PageRequest, name: &'static str, value: &str, max_page_size: u64) -> Result<(), ServeError> {
    let PageRequest { filters, given, limit, next, .. } = request;
    let Given { added_after, ids, types, versions, spec_versions } = given;
    match name {
        ADDED_AFTER => {
            filters.added_after = Some(timestamp(name, value)?);
            *added_after = true;
        }
        LIMIT => *limit = Some(parse_limit(value)?.min(max_page_size)),
        // Some clients write the cursor they do not have as an empty one.
        NEXT => *next = Some(value.to_owned()).filter(|next| !next.is_empty()),
        MATCH_ID => {
            filters.ids = list(name, value)?;
            *ids = true;
        }
        MATCH_TYPE => {
            filters.types = list(name, value)?;
            *types = true;
        }
        MATCH_VERSION => {
            filters.versions = parse_versions(value)?;
            *versions = true;
        }
        _ => {
            filters.spec_versions = parse_spec_versions(value)?;
            *spec_versions = true;
        }
    }
    Ok(())
}

fn bad(name: &'static str, reason: impl Into<Cow<'static, str>>) -> ServeError {
    ServeError::BadParameter { name, reason: reason.into() }
}

fn timestamp(name: &'static str, value: &str) -> Result<Timestamp, ServeError> {
    Timestamp::parse(value).map_err(|_| {
        bad(name, format!("holds `{}`, which is no timestamp; write it as 2024-05-01T08:30:00Z", cut(value)))
    })
}

/// A number of any size is a limit; those beyond `u64` are as good as the largest.
fn parse_limit(value: &str) -> Result<u64, ServeError> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse::<u64>() {
        Ok(limit) if digits && limit > 0 => Ok(limit),
        Err(_) if digits => Ok(u64::MAX),
        _ => Err(bad(LIMIT, format!("must be a whole number from 1 up, not `{}`", cut(value)))),
    }
}

/// Comma-separated values, none of them empty. They are alternatives, so order and repeats mean nothing: sorted and
/// once each, they compare equal with those of the request that a `next` came from.
fn list(name: &'static str, value: &str) -> Result<Vec<String>, ServeError> {
    let odd = |item: &str| item.is_empty() || item.chars().any(|c| c.is_whitespace() || c.is_control());
    if value.split(',').any(odd) {
        return Err(bad(name, "must be values separated by commas, without blanks"));
    }
    Ok(value.split(',').collect::<BTreeSet<_>>().into_iter().map(str::to_owned).collect())
}

fn parse_versions(value: &str) -> Result<Versions, ServeError> {
    if value == "all" {
        return Ok(Versions::All);
    }
    let (mut first, mut last, mut exact) = (false, false, BTreeSet::new());
    for item in value.split(',') {
        match item {
            "all" => return Err(bad(MATCH_VERSION, "may hold `all` only by itself")),
            "first" => first = true,
            "last" => last = true,
            _ => {
                exact.insert(Timestamp::parse(item).map_err(|_| {
                    bad(MATCH_VERSION, format!("takes `first`, `last`, `all` or timestamps, not `{}`", cut(item)))
                })?);
            }
        }
    }
    let exact: Vec<Timestamp> = exact.into_iter().collect();
    Ok(if last && !first && exact.is_empty() { Versions::Last } else { Versions::Some { first, last, exact } })
}

/// Any `major.minor` is well-formed; one that no object has matches nothing.
fn parse_spec_versions(value: &str) -> Result<Vec<String>, ServeError> {
    let number = |text: &str| !text.is_empty() && text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    let versions = list(MATCH_SPEC_VERSION, value)?;
    let well_formed = |version: &String| version.split_once('.').is_some_and(|(a, b)| number(a) && number(b));
    match versions.iter().find(|version| !well_formed(version)) {
        Some(odd) => {
            Err(bad(MATCH_SPEC_VERSION, format!("takes versions such as `2.0` and `2.1`, not `{}`", cut(odd))))
        }
        None => Ok(versions),
    }
}

/// Percent-decodes. `+` stays `+`: a blank never belongs in these values, the sign of a time offset does, and clients
/// forget to encode it.
pub(super) fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            let &[high, low] = digits else { return None };
            bytes.push(hex(high)? << 4 | hex(low)?);
            rest = after;
        } else {
            bytes.push(*byte);
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::api::Filters;

    const MAX: u64 = 1000;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).expect("a timestamp")
    }

    const RULES: Rules = Rules {
        version: StixVersion::V21,
        profile: Profile::Standard,
        shape: Shape::Objects,
        target: Target::Objects,
        max_page_size: MAX,
        match_values: 5,
    };

    fn objects(query: &str) -> Result<PageRequest, ServeError> {
        parse(Some(query), RULES)
    }

    fn as_original(query: &str) -> Result<PageRequest, ServeError> {
        parse(Some(query), Rules { profile: Profile::Xsoar, ..RULES })
    }

    #[test]
    fn filters_read_as_written() {
        let some = |first, last, exact| Versions::Some { first, last, exact };
        let strings = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
        let cases = [
            ("", Filters::default()),
            ("&&", Filters::default()),
            ("fresh=1&match[colour]=red&match[colour]=blue&%zz=1", Filters::default()),
            ("added_after=2024-05-01T00:00:00Z", Filters { added_after: Some(at("2024-05-01")), ..Filters::default() }),
            (
                "added_after=2024-05-01T00%3A00%3A00.123456Z",
                Filters { added_after: Some(at("2024-05-01T00:00:00.123456Z")), ..Filters::default() },
            ),
            (
                "added_after=2024-05-01T02:00:00+02:00",
                Filters { added_after: Some(at("2024-05-01")), ..Filters::default() },
            ),
            ("match[id]=url--1,file--2,url--1", Filters { ids: strings(&["file--2", "url--1"]), ..Filters::default() }),
            (
                "match%5Btype%5D=indicator%2Curl&match%5bspec_version%5d=2.0,2.1",
                Filters {
                    types: strings(&["indicator", "url"]),
                    spec_versions: strings(&["2.0", "2.1"]),
                    ..Filters::default()
                },
            ),
            ("match[version]=all", Filters { versions: Versions::All, ..Filters::default() }),
            ("match[version]=last", Filters::default()),
            ("match[version]=first,last", Filters { versions: some(true, true, vec![]), ..Filters::default() }),
            (
                "match[version]=first,2018-03-02T01:01:01.123Z",
                Filters { versions: some(true, false, vec![at("2018-03-02T01:01:01.123Z")]), ..Filters::default() },
            ),
        ];
        for (query, expected) in cases {
            assert_eq!(objects(query).map(|request| request.filters).ok(), Some(expected), "{query}");
        }
    }

    #[test]
    fn order_and_repeats_of_values_mean_nothing() {
        let cases = [
            ("match[id]=file--2,url--1", "match[id]=url--1,file--2,url--1"),
            ("match[type]=a,b", "match[type]=b,a"),
            ("match[spec_version]=2.0,2.1", "match[spec_version]=2.1,2.0,2.1"),
            ("match[version]=last", "match[version]=last,last"),
            ("match[version]=first,last", "match[version]=last,first,last"),
            (
                "match[version]=first,2018-03-02T01:01:01Z,2019-03-02",
                "match[version]=2019-03-02,2018-03-02T01:01:01.000Z,first,2018-03-02T02:01:01+01:00",
            ),
        ];
        for (one, other) in cases {
            let [one_read, other_read] = [one, other].map(|query| objects(query).expect("well-formed"));
            assert_eq!(one_read, other_read, "{one} {other}");
        }
    }

    #[test]
    fn what_was_given_is_known() {
        let request = objects("match[version]=last&added_after=2024-05-01&next=abc&limit=7").expect("well-formed");
        assert_eq!(request.given, Given { added_after: true, versions: true, ..Given::default() });
        assert_eq!((request.next.as_deref(), request.limit), (Some("abc"), Some(7)));
        assert_eq!(objects("next=").map(|request| request.next).ok(), Some(None));
    }

    #[test]
    fn limits_are_cut_not_refused() {
        for (value, expected) in
            [("1", 1), ("1000", 1000), ("1001", 1000), ("99999999999999999999999", 1000), ("007", 7)]
        {
            assert_eq!(objects(&format!("limit={value}")).map(|r| r.limit).ok(), Some(Some(expected)), "{value}");
        }
    }

    #[test]
    fn malformed_parameters_are_named() {
        let cases = [
            ("limit=0", LIMIT),
            ("limit=-1", LIMIT),
            ("limit=+1", LIMIT),
            ("limit=1.5", LIMIT),
            ("limit=ten", LIMIT),
            ("limit=", LIMIT),
            ("limit", LIMIT),
            ("limit=1&limit=1", LIMIT),
            ("next=a&next=b", NEXT),
            ("next=%ff", NEXT),
            ("added_after=yesterday", ADDED_AFTER),
            ("added_after=", ADDED_AFTER),
            ("added_after=2024-05-01&added_after=2024-05-02", ADDED_AFTER),
            ("match[id]=a&match%5Bid%5D=b", MATCH_ID),
            ("match[id]=", MATCH_ID),
            ("match[id]=a,,b", MATCH_ID),
            ("match[id]=a,%20b", MATCH_ID),
            ("match[type]=indicator&match[type]=url", MATCH_TYPE),
            ("match[type]=url,", MATCH_TYPE),
            ("match[version]=all,last", MATCH_VERSION),
            ("match[version]=newest", MATCH_VERSION),
            ("match[version]=", MATCH_VERSION),
            ("match[spec_version]=latest", MATCH_SPEC_VERSION),
            ("match[spec_version]=2.", MATCH_SPEC_VERSION),
            ("match[spec_version]=2.1&match[spec_version]=2.0", MATCH_SPEC_VERSION),
            ("match[id]=%4", MATCH_ID),
            ("match[id]=a,b,c,d,e,f", MATCH_ID),
            ("match[type]=a,a,a,a,a,a", MATCH_TYPE),
        ];
        for (query, expected) in cases {
            let name = match objects(query) {
                Err(ServeError::BadParameter { name, .. }) => Some(name),
                _ => None,
            };
            assert_eq!(name, Some(expected), "{query}");
        }
    }

    #[test]
    fn deletions_look_at_their_own_parameters_only() {
        let deletion = Rules { target: Target::Deletion, ..RULES };
        let cases = [
            ("", Filters::default()),
            ("limit=0&match[version]=all&added_after=x", Filters { versions: Versions::All, ..Filters::default() }),
            (
                "match%5Bversion%5D=all&x&match[spec_version]=2.0",
                Filters { versions: Versions::All, spec_versions: vec!["2.0".to_owned()], ..Filters::default() },
            ),
        ];
        for (query, expected) in cases {
            let request = parse(Some(query), deletion).expect(query);
            assert_eq!((request.filters, request.limit), (expected, None), "{query}");
        }
        assert!(parse(Some("match[version]=all&match[version]=last"), deletion).is_err(), "both are looked at");
    }

    #[test]
    fn resources_ignore_what_they_do_not_take() {
        let object = Rules { target: Target::Object, ..RULES };
        let versions = Rules { shape: Shape::Versions, ..object };
        let manifest = Rules { shape: Shape::Manifest, ..RULES };
        let request = parse(Some("match[id]=&match[type]=&limit=2"), object).expect("ignored");
        assert_eq!((request.filters, request.limit), (Filters::default(), Some(2)));
        let request = parse(Some("match[version]=nonsense"), versions).expect("ignored");
        assert_eq!(request.filters.versions, Versions::All);
        for rules in [object, manifest, Rules { version: StixVersion::V20, ..object }] {
            assert!(parse(Some("match[version]=nonsense"), rules).is_err(), "{rules:?}");
        }

        let all = "limit=0&next=abc&match[spec_version]=x&match[spec_version]=y";
        let filters = "added_after=2024-05-01&match[id]=url--1&match[type]=url&match[version]=all";
        for shape in [Shape::Objects, Shape::Manifest] {
            let old = Rules { version: StixVersion::V20, shape, ..RULES };
            let request = parse(Some(all), old).expect("ignored");
            assert_eq!(request, PageRequest::default());
            let request = parse(Some(filters), old).expect("read");
            assert_eq!(request, objects(filters).expect("read"));
        }
        let request = parse(Some(filters), Rules { version: StixVersion::V20, ..object }).expect("read");
        assert_eq!(request.filters, Filters { versions: Versions::All, ..Filters::default() });
    }

    #[test]
    fn the_originals_clients_may_go_on_as_they_did() {
        let plain = [
            ("limit=4&next=4", "limit=4&next=4"),
            ("limit=%204%20", "limit=4"),
            ("limit=+4", "limit=4"),
            ("limit=4&limit=x&next=&next=7", "limit=4"),
            ("match[type]=ipv4-addr,%20file&match[type]=url", "match[type]=ipv4-addr,file"),
            ("match[type]=[\"ipv4-addr\",\"file\"]", "match[type]=file,ipv4-addr"),
            ("match%5Btype%5D=%5B%22file%22%5D", "match[type]=file"),
            ("match[id]=&match[version]=&match[type]=,&added_after=&limit=", ""),
            ("match[spec_version]=latest", ""),
            ("match[spec_version]=2.1", "match[spec_version]=2.1"),
            ("match[version]=first,%20last", "match[version]=first,last"),
            ("added_after=2023-07-06T10:57:15.133309Z", "added_after=2023-07-06T10:57:15.133309Z"),
        ];
        for (query, same) in plain {
            assert_eq!(as_original(query).ok(), objects(same).ok(), "{query}");
        }
        assert_eq!(as_original("limit=0").map(|request| request.limit).ok(), Some(Some(0)));
        assert_eq!(as_original("limit=5000").map(|request| request.limit).ok(), Some(Some(MAX)));
        let old_words = [
            ("limit=ten", "invalid literal for int() with base 10: 'ten'"),
            ("limit=-1", "invalid literal for int() with base 10: '-1'"),
            ("limit=it's", "invalid literal for int() with base 10: \"it's\""),
            ("added_after=yesterday", "Added after time format should be YYYY-MM-DDTHH:mm:ss.[s+]Z. It is 'yesterday'"),
        ];
        for (query, expected) in old_words {
            let said = match as_original(query) {
                Err(ServeError::OldWords { text, .. }) => Some(text),
                _ => None,
            };
            assert_eq!(said.as_deref(), Some(expected), "{query}");
        }
        assert!(matches!(as_original("match[version]=newest"), Err(ServeError::BadParameter { .. })));
    }
}
