//! Fuzzing of request heads.

use axum::http::header::{ACCEPT, CONTENT_RANGE, RANGE};
use axum::http::{HeaderMap, HeaderValue};

use crate::feed::api::{Profile, Shape, StixVersion};
use crate::fuzz::{fuzz, outcome};
use crate::serve::parameters::Target;
use crate::serve::{Options, negotiate, parameters, range};

/// The lines of `input` as values of headers; bytes that no header can hold are left to hyper, which refuses them.
fn values(input: &[u8]) -> impl Iterator<Item = HeaderValue> {
    input.split(|byte| *byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok())
}

#[test]
fn fuzz_accept() {
    const WORDS: [&str; 14] = [
        "application/taxii+json",
        ";version=2.1",
        "; version=\"2.0\"",
        "application/vnd.oasis.stix+json",
        "*/*",
        "application/*",
        ";q=0.5",
        ";q=",
        ",",
        "\"",
        "\\\"",
        ";charset=utf-8",
        "version",
        "\n",
    ];
    let options = [vec![StixVersion::V20], vec![StixVersion::V21], vec![StixVersion::V20, StixVersion::V21]]
        .map(|versions| Options { default_version: versions[0], versions, ..Options::default() });
    fuzz("accept", &WORDS, |input| {
        let mut headers = HeaderMap::new();
        for value in values(input) {
            headers.append(ACCEPT, value);
        }
        let of = |options: &Options, path: &str| {
            let negotiated = negotiate::negotiated(&headers, path, options);
            assert!(options.serves(negotiated.version), "a version that is not served");
            (negotiated.version.as_str(), negotiated.refusal.is_some())
        };
        let answers: Vec<_> = options.iter().flat_map(|options| [of(options, "/taxii/"), of(options, "/x/")]).collect();
        outcome((answers, input.len() / 16))
    });
}

#[test]
fn fuzz_range() {
    const WORDS: [&str; 8] = ["items", "items=", "items ", "bytes=", "-", ",", "/*", "\n"];
    fuzz("range", &WORDS, |input| {
        let mut headers = HeaderMap::new();
        for (name, value) in [RANGE, CONTENT_RANGE].into_iter().zip(values(input)) {
            headers.insert(name, value);
        }
        let read = [Profile::Standard, Profile::Xsoar].map(|profile| {
            let asked = range::asked(&headers, profile).map_err(|error| error.to_string())?;
            Ok::<_, String>(asked.map(|asked| {
                let items = asked.items(1_000);
                // What the feed does with it must not overflow.
                (items.first.checked_add(items.count).is_some(), items.count == 0, items.first == 0)
            }))
        });
        outcome((read.map(|read| read.map_err(|error| error.len())), input.len() / 8))
    });
}

#[test]
fn fuzz_parameters() {
    const WORDS: [&str; 22] = [
        "added_after=",
        "limit=",
        "next=",
        "match[id]=",
        "match%5Btype%5D=",
        "match[version]=",
        "match[spec_version]=",
        "match[",
        "&",
        "=",
        "%",
        "%00",
        "%ff",
        "+",
        ",",
        "2024-05-01T00:00:00.000000Z",
        "-02:00",
        "last",
        "first",
        "all",
        "indicator--",
        "2.1",
    ];
    fuzz("parameters", &WORDS, |input| {
        let text = String::from_utf8_lossy(input);
        let mut outcomes = Vec::new();
        for version in [StixVersion::V20, StixVersion::V21] {
            for profile in [Profile::Standard, Profile::Xsoar] {
                for (shape, target) in [
                    (Shape::Objects, Target::Objects),
                    (Shape::Objects, Target::Object),
                    (Shape::Versions, Target::Object),
                    (Shape::Objects, Target::Deletion),
                ] {
                    let rules =
                        parameters::Rules { version, profile, shape, target, max_page_size: 1_000, match_values: 100 };
                    let parsed = parameters::parse(Some(&text), rules);
                    if let Ok(request) = &parsed {
                        assert!(request.limit.is_none_or(|limit| limit <= 1_000), "a limit above the largest page");
                    }
                    outcomes.push(
                        parsed
                            .map(|parsed| {
                                (
                                    parsed.given.ids,
                                    parsed.filters.ids.len().min(3),
                                    parsed.limit.is_some(),
                                    parsed.filters.versions,
                                )
                            })
                            .map_err(|error| {
                                error.to_string().split('`').step_by(2).map(str::to_owned).collect::<String>()
                            }),
                    );
                }
            }
        }
        outcome(outcomes)
    });
}
