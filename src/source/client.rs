//! One client for all versions: finds out what a URL is, lists collections, and walks through them.

use std::sync::Arc;

use futures::stream::BoxStream;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

use crate::model::time::Timestamp;
use crate::source::error::SourceError;
use crate::source::http::Http;
use crate::source::options::{Endpoint, Options, Version, shown};
use crate::source::page::{Objects, Page, Place};
use crate::source::taxii1::Taxii1;
use crate::source::taxii2::{Root, Seen, Taxii2, What, below};
use crate::source::walk1::Walk1;
use crate::source::walk2::Walk2;

/// Where a server may be found when a URL names nothing but a host.
const USUAL_2: [&str; 2] = ["/taxii2/", "/taxii/"];
const USUAL_1: [&str; 3] = ["/taxii-discovery-service", "/services/discovery", "/taxii/discovery"];

/// The pages of a collection, in order.
pub type Pages = BoxStream<'static, Result<Page, SourceError>>;

/// Something that can be fetched: a collection of 2.x or 1.1, a feed of 1.0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collection {
    /// The protocol it is fetched by.
    pub version: Version,
    /// Its API root (2.x) or poll service (1.x).
    #[serde(serialize_with = "write_url", deserialize_with = "read_url")]
    pub root: Url,
    /// What its API root calls itself.
    pub root_title: String,
    /// Its id (2.x) or name (1.x).
    pub id: String,
    /// Its title, or its id where it has none.
    pub title: String,
    /// Another name in place of the id (2.1).
    pub alias: Option<String>,
    /// What it says of itself.
    pub description: Option<String>,
    /// Whether we may read it.
    pub can_read: bool,
    /// Media types (2.x) or content bindings (1.x); none: the usual one, or any.
    pub media_types: Vec<String>,
    /// How much it holds, where the server says so (1.1).
    pub volume: Option<u64>,
    /// Whether it can be fetched from a point in time on; a data set (1.1) is fetched whole each time.
    pub is_ordered: bool,
}

fn write_url<S: Serializer>(url: &Url, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(url.as_str())
}

fn read_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    let text = String::deserialize(deserializer)?;
    Url::parse(&text).map_err(|error| serde::de::Error::custom(format!("`{text}` is no URL: {error}")))
}

impl Collection {
    /// What its place is kept under: id and path of its root, so that another host name changes nothing.
    pub fn key(&self) -> String {
        format!("{}#{}", self.root.path(), self.id)
    }

    /// Whether somebody who writes `name` means this: by id, alias or title.
    pub fn is_named(&self, name: &str) -> bool {
        let name = name.trim();
        self.id.eq_ignore_ascii_case(name)
            || self.alias.as_deref() == Some(name)
            || self.title.eq_ignore_ascii_case(name)
    }
}

/// A look into a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// Its oldest objects.
    pub objects: Objects,
    /// How much there is, where the server says so.
    pub total: Option<u64>,
    /// Whether there is more than was looked at.
    pub more: bool,
    /// What is odd about the server.
    pub warnings: Vec<String>,
}

#[derive(Debug)]
enum Entry {
    Two { taxii: Arc<Taxii2>, roots: Vec<Root>, only: Option<String> },
    One { taxii: Arc<Taxii1>, version: Version, lists: Vec<Url>, poll: Option<Url> },
}

/// A server that was found to speak TAXII.
#[derive(Debug)]
pub struct Client {
    http: Arc<Http>,
    entry: Entry,
    notes: Vec<String>,
}

/// What one address turned out to be.
type Found = (Entry, Vec<String>);

impl Client {
    /// Finds out what the URL of the endpoint is and which version is spoken there: 2.1, then 2.0, 1.1, 1.0, unless the
    /// endpoint says which. A few small requests.
    pub async fn connect(endpoint: Endpoint, options: Options) -> Result<Self, SourceError> {
        let wanted = endpoint.version;
        let http = Arc::new(Http::new(endpoint, options)?);
        let url = http.endpoint().url.clone();
        let versions: Vec<Version> =
            Version::ALL.into_iter().filter(|version| wanted.is_none_or(|v| v == *version)).collect();
        let mut refused: Vec<SourceError> = Vec::new();
        let is_bare = matches!(url.path(), "" | "/");
        let taxii2 = Arc::new(Taxii2::new(Arc::clone(&http)));
        let of_2: Vec<Version> = versions.iter().copied().filter(|version| version.is_2()).collect();
        let mut places = vec![url.clone()];
        if is_bare {
            places.extend(USUAL_2.iter().filter_map(|path| url.join(path).ok()));
        }
        for place in places.iter().filter(|_| !of_2.is_empty()) {
            match find_2(&taxii2, place, &of_2, wanted).await {
                Ok((entry, notes)) => return Ok(Client { http, entry, notes }),
                Err(error) if error.is_final() => return Err(error),
                Err(error) => refused.push(error),
            }
        }
        let taxii1 = Arc::new(Taxii1::new(Arc::clone(&http)));
        let mut polls = None;
        for version in versions.iter().copied().filter(|version| !version.is_2()) {
            let mut places = vec![url.clone()];
            if is_bare {
                places.extend(USUAL_1.iter().filter_map(|path| url.join(path).ok()));
            }
            for place in places {
                match find_1(&taxii1, &place, version).await {
                    Ok((entry, notes)) => return Ok(Client { http, entry, notes }),
                    Err(error) if error.is_final() => return Err(error),
                    Err(error) => {
                        // A service of 1.x that knows neither of our questions: it polls.
                        if matches!(error, SourceError::Refused { .. }) && polls.is_none() {
                            polls = Some((version, place));
                        }
                        refused.push(error);
                    }
                }
            }
        }
        if let Some((version, poll)) = polls {
            let entry = Entry::One { taxii: taxii1, version, lists: Vec::new(), poll: Some(poll) };
            return Ok(Client { http, entry, notes: Vec::new() });
        }
        Err(none_found(&url, wanted, refused))
    }

    /// The version spoken; of several API roots, that of the first.
    pub fn version(&self) -> Version {
        match &self.entry {
            Entry::Two { roots, .. } => roots.first().map_or(Version::V21, |root| root.version),
            Entry::One { version, .. } => *version,
        }
    }

    /// What was odd on the way here.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The server's clock now, as far as its answers tell: what "the last seven days" are to be counted from.
    pub fn server_now(&self) -> Option<Timestamp> {
        self.http.server_now()
    }

    /// What can be fetched here. Of several API roots those that refuse are left out, unless all do.
    pub async fn collections(&self) -> Result<Vec<Collection>, SourceError> {
        let mut found: Vec<Collection> = Vec::new();
        let mut refused = None;
        let mut answered = false;
        match &self.entry {
            Entry::Two { taxii, roots, only } => {
                for root in roots {
                    let listed = match only {
                        Some(id) => taxii.collection(root, id).await.map(|collection| vec![collection]),
                        None => taxii.collections(root).await,
                    };
                    match listed {
                        Ok(listed) => {
                            answered = true;
                            found.extend(listed);
                        }
                        Err(error) => refused = refused.or(Some(error)),
                    }
                }
            }
            Entry::One { taxii, version, lists, poll } => {
                for list in lists {
                    match taxii.collections(list, *version, poll.as_ref()).await {
                        Ok((listed, _)) => {
                            answered = true;
                            let is_new = |collection: &Collection| !found.iter().any(|known| known.id == collection.id);
                            let fresh: Vec<Collection> = listed.into_iter().filter(is_new).collect();
                            found.extend(fresh);
                        }
                        Err(error) => refused = refused.or(Some(error)),
                    }
                }
                answered |= lists.is_empty();
            }
        }
        match refused {
            Some(error) if !answered => Err(error),
            _ => Ok(found),
        }
    }

    /// The collection of that id, alias, name or title. A poll service without a list takes any name.
    pub async fn collection(&self, name: &str) -> Result<Collection, SourceError> {
        let all = self.collections().await?;
        if let (true, Entry::One { version, poll: Some(poll), lists, .. }) = (all.is_empty(), &self.entry)
            && lists.is_empty()
        {
            return Ok(unlisted(name, *version, poll));
        }
        if let Some(found) = all.iter().find(|collection| collection.id == name) {
            return Ok(found.clone());
        }
        let named: Vec<&Collection> = all.iter().filter(|collection| collection.is_named(name)).collect();
        if let [one] = named.as_slice() {
            return Ok((*one).clone());
        }
        let shown_some = |list: &[&Collection]| {
            let names: Vec<String> =
                list.iter().take(10).map(|collection| format!("`{}` ({})", collection.title, collection.id)).collect();
            if list.is_empty() { "none that we may know of".to_owned() } else { names.join(", ") }
        };
        let known = if named.is_empty() {
            shown_some(&all.iter().collect::<Vec<_>>())
        } else {
            format!("several of that title: {}", shown_some(&named))
        };
        Err(SourceError::NoCollection { url: shown(&self.http.endpoint().url), name: name.to_owned(), known })
    }

    /// The first objects of a collection, at most `most`.
    pub async fn preview(&self, collection: &Collection, most: usize) -> Result<Preview, SourceError> {
        let mut walk = self.walk(collection, Place::start())?;
        let mut preview =
            Preview { objects: Objects::default(), total: collection.volume, more: false, warnings: Vec::new() };
        match &mut walk {
            Walk::Two(walk) => walk.limit_to(u32::try_from(most).unwrap_or(u32::MAX)),
            Walk::One(walk) => preview.total = walk.count().await.or(preview.total),
        }
        let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
        let mut pages = 0;
        while let Some(page) = walk.next_page().await? {
            pages += 1;
            for text in page.objects.iter() {
                if ranges.len() >= most {
                    preview.more = true;
                    break;
                }
                let start = bytes.len();
                bytes.extend_from_slice(text);
                ranges.push(start..bytes.len());
                bytes.push(b'\n');
            }
            preview.more |= page.facts.more;
            preview.total = preview.total.or(page.facts.total);
            preview.warnings.extend(page.facts.warnings);
            if ranges.len() >= most || pages >= 20 {
                break;
            }
            preview.more = false;
        }
        preview.objects = Objects::new(bytes, ranges);
        Ok(preview)
    }

    /// The pages of a collection from that place on, one request after the other as they are taken. Ends after the first
    /// error; what was handed on before is good, and its places too. Dropping the stream stops fetching.
    pub fn pages(&self, collection: &Collection, from: Place) -> Result<Pages, SourceError> {
        let walk = self.walk(collection, from)?;
        Ok(Box::pin(futures::stream::try_unfold(walk, |mut walk| async move {
            Ok(walk.next_page().await?.map(|page| (page, walk)))
        })))
    }

    fn walk(&self, collection: &Collection, from: Place) -> Result<Walk, SourceError> {
        let trusted = self.http.trusts(&collection.root);
        if !trusted {
            return Err(SourceError::NoCollection {
                url: shown(&self.http.endpoint().url),
                name: collection.title.clone(),
                known: format!("it is on the host of `{}`: look at the collections anew", shown(&collection.root)),
            });
        }
        Ok(if collection.version.is_2() {
            let taxii = match &self.entry {
                Entry::Two { taxii, .. } => Arc::clone(taxii),
                Entry::One { .. } => Arc::new(Taxii2::new(Arc::clone(&self.http))),
            };
            Walk::Two(Box::new(Walk2::new(taxii, collection.clone(), from)?))
        } else {
            let taxii = match &self.entry {
                Entry::One { taxii, .. } => Arc::clone(taxii),
                Entry::Two { .. } => Arc::new(Taxii1::new(Arc::clone(&self.http))),
            };
            Walk::One(Box::new(Walk1::new(taxii, collection.clone(), from)?))
        })
    }
}

#[derive(Debug)]
enum Walk {
    One(Box<Walk1>),
    Two(Box<Walk2>),
}

impl Walk {
    async fn next_page(&mut self) -> Result<Option<Page>, SourceError> {
        match self {
            Walk::One(walk) => walk.next_page().await,
            Walk::Two(walk) => walk.next_page().await,
        }
    }
}

fn unlisted(name: &str, version: Version, poll: &Url) -> Collection {
    Collection {
        version,
        root: poll.clone(),
        root_title: String::new(),
        id: name.to_owned(),
        title: name.to_owned(),
        alias: None,
        description: None,
        can_read: true,
        media_types: Vec::new(),
        volume: None,
        is_ordered: true,
    }
}

fn none_found(url: &Url, wanted: Option<Version>, refused: Vec<SourceError>) -> SourceError {
    if wanted.is_some()
        && let Some(first) = refused.into_iter().next()
    {
        return first;
    }
    SourceError::NotTaxii {
        url: shown(url),
        version: None,
        reason: "neither a discovery, an API root or a collection (2.x) nor a discovery, management or poll service (1.x) answers there; check the URL".to_owned(),
    }
}

/// What a URL of 2.x is.
async fn find_2(
    taxii: &Arc<Taxii2>,
    url: &Url,
    versions: &[Version],
    wanted: Option<Version>,
) -> Result<Found, SourceError> {
    let seen = taxii.look(url, versions).await?;
    let spoken = wanted.unwrap_or(seen.version);
    let root_of = |url: Url, title: String| Root { url, version: spoken, title };
    let two = |roots: Vec<Root>, only: Option<String>| Entry::Two { taxii: Arc::clone(taxii), roots, only };
    let Seen { url, what, .. } = seen;
    let url = below(&url, &[]);
    Ok(match what {
        What::Discovery { api_roots, default } => {
            let mut notes = Vec::new();
            let roots = roots(taxii, &url, api_roots, default, wanted, spoken, &mut notes).await?;
            (two(roots, None), notes)
        }
        What::Root { title, versions } => {
            let version = wanted.unwrap_or_else(|| version_of(&versions, spoken));
            (two(vec![Root { url, version, title }], None), Vec::new())
        }
        What::Collections => {
            let root = above(&url, &["collections"]).unwrap_or_else(|| url.clone());
            (two(vec![root_of(root, String::new())], None), Vec::new())
        }
        What::Collection | What::Objects => {
            let steps: &[&str] =
                if matches!(what, What::Objects) { &["collections", "*", "objects"] } else { &["collections", "*"] };
            let Some((root, id)) = collection_at(&url, steps) else {
                return Err(SourceError::NotTaxii {
                    url: shown(&url),
                    version: Some(spoken),
                    reason: "its path is not that of a collection (.../collections/ID/); give the URL of the API root"
                        .to_owned(),
                });
            };
            (two(vec![root_of(root, String::new())], Some(id)), Vec::new())
        }
    })
}

/// The API roots of a discovery, the default one first, each with the version it speaks.
async fn roots(
    taxii: &Arc<Taxii2>,
    url: &Url,
    mut references: Vec<String>,
    default: Option<String>,
    wanted: Option<Version>,
    spoken: Version,
    notes: &mut Vec<String>,
) -> Result<Vec<Root>, SourceError> {
    if let Some(default) = default
        && let at = references.iter().position(|root| *root == default)
    {
        if let Some(at) = at {
            references.remove(at);
        }
        references.insert(0, default);
    }
    // The version of the discovery first: most servers have but one.
    let mut versions: Vec<Version> = Version::ALL.into_iter().filter(|version| version.is_2()).collect();
    versions.sort_by_key(|version| *version != spoken);
    versions.retain(|version| wanted.is_none_or(|wanted| wanted == *version));
    let mut roots: Vec<Root> = Vec::new();
    let mut refused = None;
    for reference in references {
        let (root, note) = match taxii.http.place(url, &reference) {
            Ok(placed) => placed,
            Err(error) => {
                refused = refused.or(Some(error));
                continue;
            }
        };
        let root = below(&root, &[]);
        notes.extend(note);
        if roots.iter().any(|known| known.url == root) {
            continue;
        }
        let found = match taxii.look(&root, &versions).await {
            Ok(Seen { what: What::Root { title, versions }, version, .. }) => {
                let version = wanted.unwrap_or_else(|| version_of(&versions, version));
                Ok(Root { url: root.clone(), version, title })
            }
            // Some leave the API root itself out and have only what is below it.
            Ok(_) => Ok(Root { url: root.clone(), version: spoken, title: String::new() }),
            Err(error) if error.is_final() && !matches!(error, SourceError::Unauthorized { .. }) => return Err(error),
            Err(error) => Err(error),
        };
        match found {
            Ok(root) => roots.push(root),
            Err(error) => {
                notes.push(format!("the API root `{}` is left out: {error}", shown(&root)));
                refused = refused.or(Some(error));
            }
        }
    }
    match refused {
        Some(error) if roots.is_empty() => Err(error),
        _ => Ok(roots),
    }
}

/// The best version of those an API root names, which are written in many ways.
fn version_of(versions: &[String], spoken: Version) -> Version {
    let has = |number: &str| versions.iter().any(|text| text.contains(number));
    match spoken {
        Version::V20 if !has("2.0") && has("2.1") => Version::V21,
        Version::V21 if !has("2.1") && has("2.0") => Version::V20,
        spoken => spoken,
    }
}

/// The address without these steps at its end.
fn above(url: &Url, steps: &[&str]) -> Option<Url> {
    collection_at(url, steps).map(|(root, _)| root)
}

/// Root and id in `{root}/collections/{id}/objects/`; `*` in `steps` stands for the id.
fn collection_at(url: &Url, steps: &[&str]) -> Option<(Url, String)> {
    let segments: Vec<&str> = url.path_segments()?.filter(|segment| !segment.is_empty()).collect();
    let at = segments.len().checked_sub(steps.len())?;
    let mut id = String::new();
    for (segment, step) in segments.get(at..)?.iter().zip(steps) {
        if *step == "*" {
            let pair = format!("x={}", segment.replace('+', "%2B"));
            id = url::form_urlencoded::parse(pair.as_bytes()).next()?.1.into_owned();
        } else if segment != step {
            return None;
        }
    }
    let mut root = url.clone();
    root.set_query(None);
    let path: String = segments.get(..at)?.iter().map(|segment| format!("/{segment}")).collect();
    root.set_path(&format!("{path}/"));
    Some((root, id))
}

/// What a URL of 1.x is: a discovery or a management service, told by what it answers.
async fn find_1(taxii: &Arc<Taxii1>, url: &Url, version: Version) -> Result<Found, SourceError> {
    let one = |lists: Vec<Url>, poll: Option<Url>| Entry::One { taxii: Arc::clone(taxii), version, lists, poll };
    let error = match taxii.discover(url, version).await {
        Ok((services, notes)) => {
            let of = |kinds: &[&str]| -> Vec<Url> {
                let mut urls: Vec<Url> = Vec::new();
                for service in services.iter().filter(|service| kinds.contains(&service.kind.as_str())) {
                    if !urls.contains(&service.address) {
                        urls.push(service.address.clone());
                    }
                }
                urls
            };
            let lists = of(&["COLLECTION_MANAGEMENT", "FEED_MANAGEMENT"]);
            let poll = of(&["POLL"]).into_iter().next();
            if lists.is_empty() && poll.is_none() {
                return Err(SourceError::NotTaxii {
                    url: shown(url),
                    version: Some(version),
                    reason: "its discovery lists neither collections nor a poll service of this version".to_owned(),
                });
            }
            return Ok((one(lists, poll), notes));
        }
        Err(error) if error.is_final() => return Err(error),
        Err(error) => error,
    };
    match taxii.collections(url, version, None).await {
        Ok((_, notes)) => return Ok((one(vec![url.clone()], None), notes)),
        Err(error) if error.is_final() => return Err(error),
        Err(_) => {}
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_are_found_in_addresses() {
        let cases = [
            (
                "https://h/a/b/collections/x%20y/objects/",
                &["collections", "*", "objects"][..],
                Some(("https://h/a/b/", "x y")),
            ),
            ("https://h/collections/x/", &["collections", "*"], Some(("https://h/", "x"))),
            ("https://h/a/collections/?q", &["collections"], Some(("https://h/a/", ""))),
            ("https://h/a/", &["collections", "*"], None),
            ("https://h/a/feeds/x/", &["collections", "*"], None),
        ];
        for (url, steps, expected) in cases {
            let found = collection_at(&Url::parse(url).unwrap(), steps);
            let expected = expected.map(|(root, id)| (Url::parse(root).unwrap(), id.to_owned()));
            assert_eq!(found, expected, "{url}");
        }
    }

    #[test]
    fn versions_are_read_however_they_are_written() {
        let cases = [
            (&["application/taxii+json;version=2.1"][..], Version::V20, Version::V21),
            (&["taxii-2.0"], Version::V21, Version::V20),
            (&["2.0", "2.1"], Version::V21, Version::V21),
            (&["2.0", "2.1"], Version::V20, Version::V20),
            (&[], Version::V21, Version::V21),
        ];
        for (versions, spoken, expected) in cases {
            let versions: Vec<String> = versions.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(version_of(&versions, spoken), expected);
        }
    }
}
