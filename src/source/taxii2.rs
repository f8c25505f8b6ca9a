//! Resources of TAXII 2.0 and 2.1, read leniently (spec/taxii-2.md §15): whatever of discovery, API root, collections or
//! collection answers is known by its keys, with or without slash, under any media type.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use reqwest::header::{HeaderMap, RANGE};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use url::Url;

use crate::model::time::Timestamp;
use crate::source::client::Collection;
use crate::source::error::SourceError;
use crate::source::http::{Answer, Ask, Http};
use crate::source::options::{Version, shown};
use crate::source::range::ContentRange;

/// Documents other than objects are read up to this size.
const MAX_DOCUMENT_BYTES: usize = 64 << 20;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Media {
    V21,
    /// TAXII resources of 2.0.
    V20,
    /// Objects of 2.0.
    Stix20,
}

impl Media {
    pub(super) fn of(version: Version) -> Self {
        if version == Version::V20 { Media::V20 } else { Media::V21 }
    }

    /// What `Accept` says, in the order in which it is tried where a server refuses: the standard's own spelling, then
    /// those of servers that compare texts, then anything.
    fn accepts(self) -> &'static [&'static str] {
        match self {
            Media::V21 => &[
                "application/taxii+json;version=2.1",
                "application/taxii+json",
                "application/taxii+json; version=2.1",
                "application/json",
                "*/*",
            ],
            Media::V20 => &[
                "application/vnd.oasis.taxii+json; version=2.0",
                "application/vnd.oasis.taxii+json",
                "application/vnd.oasis.stix+json; version=2.0",
                "application/json",
                "*/*",
            ],
            Media::Stix20 => &[
                "application/vnd.oasis.stix+json; version=2.0",
                "application/vnd.oasis.stix+json",
                "application/vnd.oasis.taxii+json; version=2.0",
                "application/json",
                "*/*",
            ],
        }
    }
}

/// Asks one server in the words it was found to understand.
#[derive(Debug)]
pub(super) struct Taxii2 {
    pub(super) http: Arc<Http>,
    accepts: [AtomicUsize; 3],
    without_slash: AtomicBool,
}

impl Taxii2 {
    pub(super) fn new(http: Arc<Http>) -> Self {
        Taxii2 { http, accepts: Default::default(), without_slash: AtomicBool::new(false) }
    }

    pub(super) async fn get(&self, url: &Url, media: Media, extra: &HeaderMap) -> Result<Answer, SourceError> {
        self.get_checked(url, media, extra, SourceError::is_transient, |_| Ok(())).await
    }

    /// Asks in the standard's own words alone.
    async fn get_strictly(&self, url: &Url, media: Media) -> Result<Answer, SourceError> {
        let accept = media.accepts().first().copied().unwrap_or("*/*");
        let ask = Ask::get(slashed(url, self.without_slash.load(Ordering::Relaxed)), accept);
        self.http.send_checked(&ask, SourceError::is_transient, |_| Ok(())).await
    }

    /// Asks until media type and slash are to the server's taste.
    pub(super) async fn get_checked(
        &self,
        url: &Url,
        media: Media,
        extra: &HeaderMap,
        again: impl Fn(&SourceError) -> bool,
        check: impl Fn(&mut Answer) -> Result<(), SourceError> + Copy + Send + 'static,
    ) -> Result<Answer, SourceError> {
        let known = &self.accepts[media as usize];
        let accepts = media.accepts();
        let mut choice = known.load(Ordering::Relaxed);
        let mut refusals = 0;
        let mut without_slash = self.without_slash.load(Ordering::Relaxed);
        let mut may_toggle = true;
        let mut first = None;
        loop {
            let accept = accepts.get(choice).copied().unwrap_or("*/*");
            let mut ask = Ask::get(slashed(url, without_slash), accept);
            ask.headers.extend(extra.clone());
            match self.http.send_checked(&ask, &again, check).await {
                Ok(answer) => {
                    known.store(choice, Ordering::Relaxed);
                    self.without_slash.store(without_slash, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error @ SourceError::Status { status: 406 | 415, .. }) => {
                    choice = (choice + 1) % accepts.len();
                    refusals += 1;
                    first = first.or(Some(error));
                }
                Err(error @ SourceError::NotFound { .. }) if may_toggle => {
                    may_toggle = false;
                    without_slash = !without_slash;
                    first = first.or(Some(error));
                }
                Err(error) => return Err(first.unwrap_or(error)),
            }
            if refusals >= accepts.len() {
                return Err(first.unwrap_or_else(|| not_taxii(url, None, "it refuses every media type")));
            }
        }
    }

    async fn read<T: DeserializeOwned>(
        &self,
        mut answer: Answer,
        version: Version,
    ) -> Result<(T, Answer), SourceError> {
        let text = answer.body.start(MAX_DOCUMENT_BYTES).map_err(|error| SourceError::Spool {
            folder: self.http.options().spool_folder.display().to_string(),
            reason: error.to_string(),
        })?;
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
        match serde_json::from_slice(text) {
            Ok(read) => Ok((read, answer)),
            Err(error) => {
                let reason = match text.trim_ascii_start().first() {
                    Some(b'<') => "it answers with HTML or XML; check the URL".to_owned(),
                    _ => format!(
                        "its answer is not the JSON that was asked for: {}",
                        self.http.clean(&error.to_string())
                    ),
                };
                Err(not_taxii(&answer.url, Some(version), &reason))
            }
        }
    }

    /// What there is at an address; of these versions, the first that it speaks. Each is tried in the words of the
    /// standard before any is tried in others.
    pub(super) async fn look(&self, url: &Url, versions: &[Version]) -> Result<Seen, SourceError> {
        let mut refused = None;
        for (version, strictly) in versions.iter().map(|v| (*v, true)).chain(versions.iter().map(|v| (*v, false))) {
            let media = Media::of(version);
            let answer = if strictly {
                self.get_strictly(url, media).await
            } else {
                self.get(url, media, &HeaderMap::new()).await
            };
            let seen = match answer {
                Ok(answer) => self.seen(answer, version).await,
                Err(error) => Err(error),
            };
            match seen {
                Ok(seen) => return Ok(seen),
                Err(error) if error.is_final() => return Err(error),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.unwrap_or_else(|| not_taxii(url, None, "no version is left to try")))
    }

    async fn seen(&self, answer: Answer, version: Version) -> Result<Seen, SourceError> {
        let spoken = spoken(&answer, version);
        let (found, answer): (Anything, Answer) = self.read(answer, version).await?;
        let url = answer.url.clone();
        let what = if let Some(api_roots) = found.api_roots {
            What::Discovery { api_roots, default: found.default }
        } else if found.versions.is_some() || found.max_content_length.is_some() {
            let versions = found.versions.unwrap_or_default();
            What::Root { title: found.title.unwrap_or_default(), versions }
        } else if found.collections.is_some() {
            What::Collections
        } else if found.can_read.is_some() && found.id.is_some() {
            What::Collection
        } else if found.objects.is_some() || found.more.is_some() || found.kind.as_deref() == Some("bundle") {
            What::Objects
        } else if found.title.is_some() {
            What::Discovery { api_roots: Vec::new(), default: found.default }
        } else if url.path().trim_end_matches('/').ends_with("/collections") {
            // The standard leaves the key out where there are none.
            What::Collections
        } else if url.path().trim_end_matches('/').ends_with("/objects") {
            What::Objects
        } else {
            return Err(not_taxii(&url, Some(version), "its answer is no TAXII resource; check the URL"));
        };
        Ok(Seen { url, version: spoken, what })
    }

    /// The collections of an API root.
    pub(super) async fn collections(&self, root: &Root) -> Result<Vec<Collection>, SourceError> {
        let url = below(&root.url, &["collections"]);
        let mut found: Vec<Collection> = Vec::new();
        loop {
            // Servers of 2.0 may send them in ranges.
            let mut extra = HeaderMap::new();
            if !found.is_empty() {
                let range = format!("items={}-{}", found.len(), found.len() + 99);
                extra.extend(range.parse().ok().map(|value| (RANGE, value)));
            }
            let answer = match self.get(&url, Media::of(root.version), &extra).await {
                Err(SourceError::Status { status: 416, .. }) if !found.is_empty() => break,
                answer => answer?,
            };
            let range = answer.header("content-range").and_then(ContentRange::parse);
            let (list, _): (Collections, Answer) = self.read(answer, root.version).await?;
            let before = found.len();
            for resource in list.collections {
                let collection = resource.collection(root);
                if !found.iter().any(|known| known.id == collection.id) {
                    found.push(collection);
                }
            }
            let total = range.and_then(|range| range.total).unwrap_or(0);
            if found.len() == before || found.len() as u64 >= total || root.version != Version::V20 {
                break;
            }
        }
        Ok(found)
    }

    /// One collection.
    pub(super) async fn collection(&self, root: &Root, id: &str) -> Result<Collection, SourceError> {
        let url = below(&root.url, &["collections", id]);
        let answer = self.get(&url, Media::of(root.version), &HeaderMap::new()).await?;
        let (resource, _): (Resource, Answer) = self.read(answer, root.version).await?;
        Ok(resource.collection(root))
    }

    /// The newest date at which one of these objects was added, from the manifest.
    pub(super) async fn newest_of(
        &self,
        collection: &Collection,
        ids: &[String],
    ) -> Result<Option<Timestamp>, SourceError> {
        let mut url = below(&collection.root, &["collections", &collection.id, "manifest"]);
        url.query_pairs_mut().append_pair("match[id]", &ids.join(","));
        let answer = self.get(&url, Media::of(collection.version), &HeaderMap::new()).await?;
        let (manifest, _): (Manifest, Answer) = self.read(answer, collection.version).await?;
        // A server that does not know `match[id]` lists them all.
        let listed =
            manifest.objects.into_iter().filter(|record| record.id.as_ref().is_some_and(|id| ids.contains(id)));
        Ok(listed.filter_map(|record| Timestamp::parse(record.date_added?.trim()).ok()).max())
    }
}

/// The version an answer is in: what its media type says, else what was asked for.
fn spoken(answer: &Answer, asked: Version) -> Version {
    let media_type = answer.media_type();
    if media_type.contains("vnd.oasis.") || media_type.contains("version=2.0") {
        Version::V20
    } else if media_type.starts_with("application/taxii+json") {
        Version::V21
    } else {
        asked
    }
}

pub(super) fn not_taxii(url: &Url, version: Option<Version>, reason: &str) -> SourceError {
    SourceError::NotTaxii { url: shown(url), version, reason: reason.to_owned() }
}

/// The address so many steps below another, with a slash at its end.
pub(super) fn below(base: &Url, steps: &[&str]) -> Url {
    let mut url = base.clone();
    url.set_query(None);
    url.set_fragment(None);
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(steps).push("");
    }
    url
}

fn slashed(url: &Url, without: bool) -> Url {
    let mut url = url.clone();
    let path = url.path().to_owned();
    let bare = path.trim_end_matches('/');
    let wanted = if without && !bare.is_empty() { bare.to_owned() } else { format!("{bare}/") };
    url.set_path(&wanted);
    url
}

/// An API root.
#[derive(Clone, Debug)]
pub(super) struct Root {
    pub(super) url: Url,
    pub(super) version: Version,
    pub(super) title: String,
}

/// What there is at an address.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) url: Url,
    pub(super) version: Version,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Discovery { api_roots: Vec<String>, default: Option<String> },
    Root { title: String, versions: Vec<String> },
    Collections,
    Collection,
    Objects,
}

/// Anything a TAXII 2.x server answers with.
#[derive(Deserialize)]
struct Anything {
    #[serde(default, deserialize_with = "lenient")]
    title: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    default: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    api_roots: Option<Vec<String>>,
    #[serde(default, deserialize_with = "lenient")]
    versions: Option<Vec<String>>,
    #[serde(default)]
    max_content_length: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    collections: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    can_read: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    id: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    objects: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    more: Option<serde::de::IgnoredAny>,
    #[serde(default, rename = "type", deserialize_with = "lenient")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Collections {
    #[serde(default, deserialize_with = "nullable")]
    collections: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(deserialize_with = "text_or_number")]
    id: String,
    #[serde(default, deserialize_with = "lenient")]
    title: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    description: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    alias: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    can_read: Option<bool>,
    #[serde(default, deserialize_with = "lenient")]
    media_types: Option<Vec<String>>,
}

impl Resource {
    fn collection(self, root: &Root) -> Collection {
        Collection {
            version: root.version,
            root: root.url.clone(),
            root_title: root.title.clone(),
            title: self.title.filter(|title| !title.is_empty()).unwrap_or_else(|| self.id.clone()),
            id: self.id,
            alias: self.alias,
            description: self.description.filter(|text| !text.is_empty()),
            can_read: self.can_read.unwrap_or(true),
            media_types: self.media_types.unwrap_or_default(),
            volume: None,
            is_ordered: true,
        }
    }
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default, deserialize_with = "nullable")]
    objects: Vec<Record>,
}

#[derive(Deserialize)]
struct Record {
    #[serde(default, deserialize_with = "lenient")]
    id: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    date_added: Option<String>,
}

/// A value, or nothing where it is of another kind than documented.
fn lenient<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    let raw: Box<serde_json::value::RawValue> = Deserialize::deserialize(deserializer)?;
    Ok(serde_json::from_str(raw.get()).ok())
}

fn nullable<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}

fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let raw: Box<serde_json::value::RawValue> = Deserialize::deserialize(deserializer)?;
    Ok(serde_json::from_str::<String>(raw.get()).unwrap_or_else(|_| raw.get().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_put_together() {
        let cases = [
            ("https://h/root", &["collections"][..], "https://h/root/collections/"),
            ("https://h/root/?a=b#c", &["collections", "a/b c"], "https://h/root/collections/a%2Fb%20c/"),
            ("https://h", &["collections", "x", "objects"], "https://h/collections/x/objects/"),
        ];
        for (base, steps, expected) in cases {
            assert_eq!(below(&Url::parse(base).unwrap(), steps).as_str(), expected);
        }
        for (url, without, expected) in [
            ("https://h/a/?x=y", true, "https://h/a?x=y"),
            ("https://h/a", false, "https://h/a/"),
            ("https://h/", true, "https://h/"),
        ] {
            assert_eq!(slashed(&Url::parse(url).unwrap(), without).as_str(), expected);
        }
    }
}
