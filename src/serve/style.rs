//! How a request is answered: in which version, by whose rules, and what it is about. Settled before anything else, so
//! that every failure on the way is written in the same manner as the answer would have been.

use axum::extract::Request;

use crate::feed::api::{Profile, StixVersion};
use crate::serve::negotiate::{Negotiated, STIX_20, TAXII_21, negotiated, taxii_type};
use crate::serve::parameters::decode;
use crate::serve::router::App;

/// Travels with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    /// Version of TAXII.
    pub(super) version: StixVersion,
    /// The collection's profile, elsewhere the server's.
    pub(super) profile: Profile,
    /// Which resource the path names.
    pub(super) about: About,
}

/// The resources, as XSOAR's errors name them (spec/xsoar-taxii2-server.md §2.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    Discovery,
    ApiRoot,
    Collections,
    Collection,
    Manifest,
    Objects,
    Other,
}

impl About {
    /// Title of an error.
    pub(super) fn error_title(self) -> &'static str {
        match self {
            About::Discovery => "Discovery Request Error",
            About::ApiRoot => "API Root Request Error",
            About::Collections => "Collections Request Error",
            About::Collection => "Collection Request Error",
            About::Manifest => "Manifest Request Error",
            About::Objects => "Objects Request Error",
            About::Other => "Request Error",
        }
    }

    /// What precedes `request` in an error's description, with its blank.
    pub(super) fn error_subject(self) -> &'static str {
        match self {
            About::Discovery => "discovery ",
            About::ApiRoot => "API Root ",
            About::Collections => "collections ",
            About::Collection => "collection ",
            About::Manifest => "manifest ",
            About::Objects => "objects ",
            About::Other => "",
        }
    }
}

impl Style {
    /// Settles it for a request, with what its `Accept` came down to.
    pub(super) fn of(app: &App, request: &Request) -> (Self, Negotiated) {
        let path = request.uri().path();
        let negotiated = negotiated(request.headers(), path, &app.options);
        let (about, collection) = about(path, &app.options.api_root);
        let collection = collection.and_then(decode).and_then(|name| app.feed.catalog().get(&name).cloned());
        let profile = collection.map_or(app.options.profile, |collection| collection.options.profile);
        (Self { version: negotiated.version, profile, about }, negotiated)
    }

    /// Content type of everything but objects.
    pub(super) fn taxii_type(self) -> &'static str {
        taxii_type(self.version)
    }

    /// Content type of objects that were found: in 2.0 they are no TAXII resource.
    pub(super) fn objects_type(self) -> &'static str {
        match self.version {
            StixVersion::V20 => STIX_20,
            StixVersion::V21 => TAXII_21,
        }
    }
}

/// What a path is about, and the name of its collection as it stands there.
fn about<'a>(path: &'a str, api_root: &str) -> (About, Option<&'a str>) {
    let path = path.trim_matches('/');
    if matches!(path, "taxii" | "taxii2") {
        return (About::Discovery, None);
    }
    let Some(below) = path.strip_prefix(api_root) else { return (About::Other, None) };
    let segments: Vec<&str> = below.split('/').skip(1).collect();
    match segments.as_slice() {
        [] if below.is_empty() => (About::ApiRoot, None),
        ["collections"] => (About::Collections, None),
        ["collections", name] => (About::Collection, Some(name)),
        ["collections", name, "manifest"] => (About::Manifest, Some(name)),
        ["collections", name, "objects", ..] => (About::Objects, Some(name)),
        _ => (About::Other, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_about_something() {
        let cases = [
            ("/", About::Other, None),
            ("/taxii", About::Discovery, None),
            ("/taxii2/", About::Discovery, None),
            ("/a/b/", About::ApiRoot, None),
            ("/a/bc", About::Other, None),
            ("/a", About::Other, None),
            ("/a/b/status/1", About::Other, None),
            ("/a/b/collections/", About::Collections, None),
            ("/a/b/collections/x", About::Collection, Some("x")),
            ("/a/b/collections/x/manifest/", About::Manifest, Some("x")),
            ("/a/b/collections/x/objects", About::Objects, Some("x")),
            ("/a/b/collections/x/objects/url--1/versions/", About::Objects, Some("x")),
            ("/a/b/collections/x/other", About::Other, None),
        ];
        for (path, what, collection) in cases {
            assert_eq!(about(path, "a/b"), (what, collection), "{path}");
        }
    }
}
