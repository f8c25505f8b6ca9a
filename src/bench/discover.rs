//! From whatever URL a user has (discovery, API root, collection, its objects, or just the host) to one readable collection.

use reqwest::header::{ACCEPT, CONTENT_TYPE, SERVER};
use reqwest::{Client, Url};
use serde_json::Value;

use super::BenchError;
use super::client::{Ask, Encoding, Failure, Place, Size, Target, Version, innermost, said};

/// No resource that describes a server is larger.
const MAX_RESOURCE: usize = 16 << 20;
/// Collections that an error names.
const NAMED: usize = 20;

/// The collection to measure.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) target: Target,
    pub(super) id: String,
    pub(super) title: String,
    /// What the server calls itself.
    pub(super) server: Option<String>,
    pub(super) remarks: Vec<String>,
}

/// A resource and how it came.
struct Resource {
    value: Value,
    version: Version,
}

struct Collection {
    url: Url,
    version: Version,
    id: String,
    title: String,
    alias: Option<String>,
    readable: bool,
}

/// Finds the collection of that id, alias or title, or the only one there is.
pub(super) async fn find(
    client: &Client,
    url: &Url,
    wanted: Option<&str>,
    version: Option<Version>,
) -> Result<Found, BenchError> {
    let mut search = Search { client, origin: url.clone(), remarks: Vec::new(), server: None };
    let collections = search.collections(url, version).await?;
    let chosen = choose(url, collections, wanted)?;
    Ok(Found {
        target: Target { url: chosen.url, version: chosen.version },
        id: chosen.id,
        title: chosen.title,
        server: search.server,
        remarks: search.remarks,
    })
}

fn choose(url: &Url, mut collections: Vec<Collection>, wanted: Option<&str>) -> Result<Collection, BenchError> {
    let list = |collections: &[Collection]| {
        let mut names: Vec<String> =
            collections.iter().take(NAMED).map(|it| format!("`{}` ({})", it.title, it.id)).collect();
        if collections.len() > NAMED {
            names.push(format!("{} more", collections.len() - NAMED));
        }
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    if let Some(name) = wanted {
        let is_it =
            |it: &Collection| it.id.eq_ignore_ascii_case(name) || it.alias.as_deref() == Some(name) || it.title == name;
        let Some(at) = collections.iter().position(is_it) else {
            return Err(BenchError::NoSuchCollection { name: name.to_owned(), there: list(&collections) });
        };
        let chosen = collections.swap_remove(at);
        return if chosen.readable { Ok(chosen) } else { Err(BenchError::NotReadable { name: chosen.title }) };
    }
    collections.retain(|it| it.readable);
    if collections.len() > 1 {
        return Err(BenchError::Several { there: list(&collections) });
    }
    collections.pop().ok_or_else(|| BenchError::NoCollections { url: url.to_string() })
}

struct Search<'a> {
    client: &'a Client,
    origin: Url,
    remarks: Vec<String>,
    server: Option<String>,
}

impl Search<'_> {
    async fn collections(&mut self, url: &Url, version: Option<Version>) -> Result<Vec<Collection>, BenchError> {
        let mut given = with_slash(url);
        given.set_query(None);
        given.set_fragment(None);
        let segments: Vec<&str> = given.path().split('/').filter(|part| !part.is_empty()).collect();
        if segments.last() == Some(&"objects") || segments.last() == Some(&"manifest") {
            let up = given.join("..").unwrap_or_else(|_| given.clone());
            return self.direct(up, version).await;
        }
        let mut places = vec![given.clone()];
        if segments.is_empty() {
            places = ["taxii2/", "taxii/"].iter().filter_map(|path| given.join(path).ok()).chain(places).collect();
        }
        let mut first_error = None;
        for place in places {
            match self.resource(&place, version).await {
                Ok(resource) => return self.understand(&place, &resource).await,
                Err(error @ (BenchError::Unauthorized { .. } | BenchError::Unreachable { .. })) => return Err(error),
                Err(error) => _ = first_error.get_or_insert(error),
            }
        }
        // A collection may be served without a resource of its own.
        if segments.iter().rev().nth(1) == Some(&"collections") {
            return self.direct(given, version).await;
        }
        Err(first_error.unwrap_or_else(|| BenchError::NotTaxii { url: given.to_string() }))
    }

    async fn understand(&mut self, url: &Url, resource: &Resource) -> Result<Vec<Collection>, BenchError> {
        let Resource { value, version } = resource;
        if let Some(roots) = value["api_roots"].as_array() {
            let mut found = Vec::new();
            let mut first_error = None;
            for root in roots.iter().filter_map(Value::as_str) {
                match self.root(url, root, *version).await {
                    Ok(collections) => found.extend(collections),
                    Err(error) => _ = first_error.get_or_insert(error),
                }
            }
            return match first_error {
                Some(error) if found.is_empty() => Err(error),
                _ => Ok(found),
            };
        }
        if let Some(list) = value["collections"].as_array() {
            return Ok(list.iter().filter_map(|entry| collection(url, entry, *version)).collect());
        }
        if value["can_read"].is_boolean() {
            return Ok(vec![describe(url.clone(), value, *version)]);
        }
        if value["versions"].is_array() || value["max_content_length"].is_number() {
            return self.list(url, *version).await;
        }
        // A list without collections has no key for them.
        if url.path().ends_with("/collections/") {
            return Ok(Vec::new());
        }
        Err(BenchError::NotTaxii { url: url.to_string() })
    }

    async fn root(&mut self, discovery: &Url, root: &str, version: Version) -> Result<Vec<Collection>, BenchError> {
        let mut url = with_slash(&discovery.join(root).map_err(|_| BenchError::BadRoot { root: root.to_owned() })?);
        if url.origin() != self.origin.origin() {
            // Servers behind proxies name themselves as they see themselves. Credentials stay with the server that was named.
            self.remarks.push(format!("the server names its API root `{url}`; asked for it where the discovery is"));
            let mut here = self.origin.clone();
            here.set_path(url.path());
            here.set_query(None);
            url = here;
        }
        self.list(&url, version).await
    }

    async fn list(&mut self, root: &Url, version: Version) -> Result<Vec<Collection>, BenchError> {
        let url = root.join("collections/").map_err(|_| BenchError::BadRoot { root: root.to_string() })?;
        // A root may be of one version and its discovery of another.
        let resource = match self.ask(&url, version).await {
            Err(BenchError::Refused { .. }) => self.resource(&url, None).await?,
            other => other?,
        };
        let list = resource.value["collections"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(list.iter().filter_map(|entry| collection(&url, entry, resource.version)).collect())
    }

    /// A collection of which only the URL is known.
    async fn direct(&mut self, url: Url, version: Option<Version>) -> Result<Vec<Collection>, BenchError> {
        if let Ok(resource) = self.resource(&url, version).await
            && resource.value["can_read"].is_boolean()
        {
            return self.understand(&url, &resource).await;
        }
        let mut first_error = None;
        for version in version.map_or(vec![Version::V21, Version::V20], |version| vec![version]) {
            let target = Target { url: url.clone(), version };
            let ask = Ask {
                place: &Place::Start,
                size: Size::Objects(1),
                encoding: Encoding::Plain,
                types: None,
                object: None,
            };
            match target.page(self.client, &ask, &mut |_| ()).await {
                Ok(_) => {
                    let id = url.path_segments().and_then(|parts| parts.rev().find(|part| !part.is_empty()));
                    let id = id.unwrap_or_default().to_owned();
                    let title = id.clone();
                    return Ok(vec![Collection { url, version, id, title, alias: None, readable: true }]);
                }
                Err(failure) => {
                    let said =
                        failure.detail().map_or_else(|| failure.kind(), |said| format!("{}: {said}", failure.kind()));
                    _ = first_error.get_or_insert(match failure {
                        Failure::Status(401 | 403, _) => BenchError::Unauthorized { url: url.to_string(), said },
                        _ => BenchError::Refused { url: url.to_string(), said },
                    });
                }
            }
        }
        Err(first_error.unwrap_or_else(|| BenchError::NotTaxii { url: url.to_string() }))
    }

    /// The resource in that version, or in the newest one that the server speaks there.
    async fn resource(&mut self, url: &Url, version: Option<Version>) -> Result<Resource, BenchError> {
        if let Some(version) = version {
            return self.ask(url, version).await;
        }
        match self.ask(url, Version::V21).await {
            Err(error @ (BenchError::Unauthorized { .. } | BenchError::Unreachable { .. })) => Err(error),
            Err(error) => self.ask(url, Version::V20).await.map_err(|_| error),
            found => found,
        }
    }

    async fn ask(&mut self, url: &Url, version: Version) -> Result<Resource, BenchError> {
        let named = url.to_string();
        let sent = self.client.get(url.clone()).header(ACCEPT, version.media()).send().await;
        let mut answer =
            sent.map_err(|error| BenchError::Unreachable { url: named.clone(), said: innermost(&error) })?;
        let status = answer.status();
        let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let media = header(CONTENT_TYPE).unwrap_or_default();
        let server = header(SERVER);
        let mut body = Vec::new();
        while let Ok(Some(piece)) = answer.chunk().await {
            body.extend_from_slice(&piece);
            if body.len() > MAX_RESOURCE {
                return Err(BenchError::NotTaxii { url: named });
            }
        }
        if matches!(status.as_u16(), 401 | 403) {
            return Err(BenchError::Unauthorized { url: named, said: format!("status {}", status.as_u16()) });
        }
        if !status.is_success() {
            let mut text = format!("status {}", status.as_u16());
            let words = said(&body);
            if !words.is_empty() {
                text = format!("{text}: {words}");
            }
            return Err(BenchError::Refused { url: named, said: text });
        }
        let value: Value = serde_json::from_slice(&body).map_err(|_| BenchError::NotTaxii { url: named.clone() })?;
        if !value.is_object() {
            return Err(BenchError::NotTaxii { url: named });
        }
        let version = if media.contains("vnd.oasis") { Version::V20 } else { version };
        if server.is_some() {
            self.server = server;
        }
        Ok(Resource { value, version })
    }
}

fn with_slash(url: &Url) -> Url {
    let mut url = url.clone();
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    url
}

/// An entry of a list of collections, which lies below the list.
fn collection(list: &Url, entry: &Value, version: Version) -> Option<Collection> {
    let mut url = list.clone();
    url.path_segments_mut().ok()?.pop_if_empty().push(entry["id"].as_str()?).push("");
    Some(describe(url, entry, version))
}

fn describe(url: Url, entry: &Value, version: Version) -> Collection {
    let text = |key: &str| entry[key].as_str().map(str::to_owned);
    let id = text("id").unwrap_or_default();
    Collection {
        url,
        version,
        title: text("title").unwrap_or_else(|| id.clone()),
        id,
        alias: text("alias"),
        readable: entry["can_read"].as_bool().unwrap_or(true),
    }
}
