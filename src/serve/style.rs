//! How a request is answered: in which version, by whose rules, and what it is about. Settled before anything else, so
//! that every failure on the way is written in the same manner as the answer would have been; and again, with what the
//! requester may know of, once that is known.

use std::sync::{Arc, OnceLock};

use axum::extract::Request;

use crate::feed::api::{Profile, StixVersion};
use crate::serve::auth::Identity;
use crate::serve::negotiate::{Negotiated, STIX_20, TAXII_21, negotiated, taxii_type};
use crate::serve::options::{ApiRoot, Options};
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
    /// The API root that the path is in, by its number.
    root: Option<usize>,
}

/// The style of a request as it was settled once its sender was known. Outlives the request, so that whoever writes the
/// answer finds it, however that came about.
#[derive(Clone, Debug, Default)]
pub(super) struct Known(Arc<OnceLock<Style>>);

impl Known {
    pub(super) fn get(&self) -> Option<Style> {
        self.0.get().copied()
    }
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
    /// For a request of which nobody knows yet who sent it, with what its `Accept` came down to: it tells nothing of
    /// API roots and collections.
    pub(super) fn of(app: &App, request: &Request) -> (Self, Negotiated) {
        let path = request.uri().path();
        let negotiated = negotiated(request.headers(), path, &app.options);
        let about = if is_discovery(path) { About::Discovery } else { About::Other };
        (Self { version: negotiated.version, profile: app.options.profile, about, root: None }, negotiated)
    }

    /// Settles it anew for a request of `identity`, with what it may know of.
    pub(super) fn settle(app: &App, identity: &Identity, request: &mut Request) {
        let style = Self::known_to(app, identity, request);
        if let Some(Known(known)) = request.extensions().get() {
            // Once for each request.
            let _ = known.set(style);
        }
        request.extensions_mut().insert(style);
    }

    fn known_to(app: &App, identity: &Identity, request: &Request) -> Self {
        let path = request.uri().path();
        let style = request.extensions().get().copied().unwrap_or_else(|| Self::of(app, request).0);
        let Some((at, below)) = in_root(path, &app.options.api_roots) else { return style };
        let Some(root) = app.options.api_roots.get(at) else { return style };
        let rights = app.rights();
        if !rights.knows_root(identity, &root.path) {
            return style;
        }
        let (about, collection) = about(below);
        let collection = collection.and_then(decode).and_then(|name| rights.known(identity, &root.path, &name).ok());
        let profile = collection.map_or(style.profile, |(collection, _)| collection.options.profile);
        Self { profile, about, root: Some(at), ..style }
    }

    /// Path of the API root that the request is in, or the first one.
    pub(super) fn root(self, options: &Options) -> &str {
        let root = self.root.and_then(|at| options.api_roots.get(at));
        root.map_or(options.default_root(), |root| root.path.as_str())
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

fn is_discovery(path: &str) -> bool {
    matches!(path.trim_matches('/'), "taxii" | "taxii2")
}

/// The longest API root that a path is in, by its number, and what follows.
fn in_root<'a>(path: &'a str, roots: &[ApiRoot]) -> Option<(usize, &'a str)> {
    let path = path.trim_matches('/');
    let below = |root: &ApiRoot| {
        let below = path.strip_prefix(root.path.as_str())?;
        (below.is_empty() || below.starts_with('/')).then_some(below)
    };
    let found = roots.iter().enumerate().filter_map(|(at, root)| Some((at, below(root)?)));
    found.min_by_key(|(_, below)| below.len())
}

/// What the part of a path below its API root is about, and the name of its collection as it stands there.
fn about(below: &str) -> (About, Option<&str>) {
    let mut segments = below.trim_matches('/').split('/');
    match [(); 4].map(|()| segments.next()) {
        [Some(""), None, ..] => (About::ApiRoot, None),
        [Some("collections"), None, ..] => (About::Collections, None),
        [Some("collections"), name, None, _] => (About::Collection, name),
        [Some("collections"), name, Some("manifest"), None] => (About::Manifest, name),
        [Some("collections"), name, Some("objects"), _] => (About::Objects, name),
        _ => (About::Other, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_about_something() {
        let roots = ["a/b", "a", "x", "a/b/c"].map(ApiRoot::new);
        let cases = [
            ("/", None),
            ("/taxii2/", None),
            ("/ab", None),
            ("/a/b/", Some((0, About::ApiRoot, None))),
            ("/a/bc", Some((1, About::Other, None))),
            ("/a", Some((1, About::ApiRoot, None))),
            ("/a/b/c/", Some((3, About::ApiRoot, None))),
            ("/x/collections", Some((2, About::Collections, None))),
            ("/a/b/status/1", Some((0, About::Other, None))),
            ("/a/b/collections/", Some((0, About::Collections, None))),
            ("/a/b/collections/x", Some((0, About::Collection, Some("x")))),
            ("/a/collections/x", Some((1, About::Collection, Some("x")))),
            ("/a/b/collections/x/manifest/", Some((0, About::Manifest, Some("x")))),
            ("/a/b/collections/x/manifest/y", Some((0, About::Other, None))),
            ("/a/b/collections/x/objects", Some((0, About::Objects, Some("x")))),
            ("/a/b/collections/x/objects/url--1/versions/", Some((0, About::Objects, Some("x")))),
            ("/a/b/collections/x/other", Some((0, About::Other, None))),
        ];
        for (path, expected) in cases {
            let found = in_root(path, &roots).map(|(at, below)| {
                let (what, collection) = about(below);
                (at, what, collection)
            });
            assert_eq!(found, expected, "{path}");
        }
        assert!(["/taxii", "/taxii2/"].into_iter().all(is_discovery) && !is_discovery("/taxii3/"));
    }
}
