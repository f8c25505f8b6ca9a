//! From the tree as written to options that hold together.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::config::raw::{Located, Problems, Section, Tree, nearest};
use crate::config::{CollectionDefaults, Config, LogFormat, LogLevel, LogOptions, Place, Problem, StoreOptions};
use crate::feed::collection::{CollectionSpec, Options as FeedOptions, QueryText, Relationships};
use crate::model::ids::IdScheme;
use crate::model::kind::StixType;
use crate::render::envelope::EmptyList;
use crate::render::{ExtensionFields, IndicatorTypes, Profile, StixVersion};
use crate::serve::options::{parse_api_root, parse_base_url};
use crate::serve::{AuthOptions, Limits, Options as ServeOptions, TlsFiles};

/// Most objects in a page that may be configured: what one request can ask of the server has to end somewhere.
const MAX_PAGE_SIZE: u64 = 10_000_000;
/// A hundred years: longer than any store.
const MAX_HISTORY: Duration = Duration::from_secs(100 * 365 * 86_400);
/// Longest time limit.
const MAX_TIMEOUT: Duration = Duration::from_secs(86_400);
/// Most requests at once that may be configured.
const MAX_CONCURRENT_REQUESTS: u64 = 100_000;

const PROFILES: [(&str, Profile); 2] = [("standard", Profile::Standard), ("xsoar", Profile::Xsoar)];
const VERSIONS: [(&str, StixVersion); 2] = [("2.0", StixVersion::V20), ("2.1", StixVersion::V21)];

/// Reads the whole tree; relative paths of the file begin at `folder`, those of variables at the working directory.
/// What has a problem is left at its default.
pub(super) fn validate(tree: &Tree, folder: &Path) -> (Config, Vec<Problem>) {
    let problems = Problems::default();
    let reader = Reader { problems: &problems, folder };
    let mut root = tree.root(&problems);

    let store = reader.store(root.section("store"));
    let (taxii, feed, shared) = reader.taxii(root.section("taxii"));
    let auth = reader.auth(root.section("auth"), &store);
    let (tls, hsts) = reader.tls(root.section("tls"));
    let limits = reader.limits(root.section("limits"));
    let log = reader.log(root.section("log"));
    let mut collections: Vec<Located<CollectionSpec>> =
        root.sections("collection").into_iter().filter_map(|section| reader.collection(section, &shared)).collect();
    collections.extend(reader.xsoar_collections(root.section("xsoar_collections"), &shared));
    reader.tell_apart(&collections);

    let defaults = ServeOptions::default();
    let serve = ServeOptions {
        listen: root.parsed("listen", parse_listen).map_or(defaults.listen, value),
        admin_listen: root.parsed("admin_listen", parse_listen).map(value),
        base_url: root.parsed("base_url", parse_base_url).map(value),
        api_root: taxii.api_root.unwrap_or(defaults.api_root),
        title: taxii.title,
        description: taxii.description,
        profile: feed.profile,
        versions: taxii.versions,
        default_version: feed.default_version,
        tls,
        hsts,
        auth,
        limits,
    };
    root.finish();

    let collections = collections.into_iter().map(value).collect();
    let config = Config { file: None, variables: Vec::new(), serve, store, feed, defaults: shared, collections, log };
    (config, problems.into_sorted())
}

/// The part of `[taxii]` that belongs to the server.
struct Taxii {
    api_root: Option<String>,
    title: Option<String>,
    description: Option<String>,
    versions: Vec<StixVersion>,
}

struct Reader<'a> {
    problems: &'a Problems,
    folder: &'a Path,
}

impl Reader<'_> {
    fn store(&self, mut section: Section<'_>) -> StoreOptions {
        let defaults = StoreOptions::default();
        let location = section.parsed("location", parse_location).map(|location| self.path(location));
        let options = StoreOptions {
            location: location.unwrap_or_else(|| self.folder.join(defaults.location)),
            license_id: section.filled("license_id").map(value),
            history: section.duration("history", MAX_HISTORY).unwrap_or(defaults.history),
            id_scheme: section.word("id_scheme", &[("stix", IdScheme::Stix), ("xsoar", IdScheme::Xsoar)]),
        };
        section.finish();
        options
    }

    fn taxii(&self, mut section: Section<'_>) -> (Taxii, FeedOptions, CollectionDefaults) {
        let defaults = FeedOptions::default();
        let given_max = section.count("max_page_size", MAX_PAGE_SIZE);
        let given_size = section.count("page_size", MAX_PAGE_SIZE);
        let max_page_size = given_max.as_ref().map_or(defaults.max_page_size, |given| given.value);
        let page_size = given_size.as_ref().map_or(defaults.page_size.min(max_page_size), |given| given.value);
        if let Some(place) = given_size.map(|given| given.place).filter(|_| page_size > max_page_size) {
            let text = format!("`taxii.page_size` is {page_size}, more than `taxii.max_page_size`, {max_page_size}");
            self.problems.add(&place, text);
        }
        let (versions, default_version) = self.versions(&mut section);
        let feed = FeedOptions {
            default_version,
            page_size,
            max_page_size,
            profile: section.word("profile", &PROFILES).unwrap_or(defaults.profile),
            empty_objects: section
                .word("empty_objects", &[("omit", EmptyList::Omitted), ("list", EmptyList::Written)])
                .unwrap_or(defaults.empty_objects),
            hide_query: section.flag("hide_query").map_or(defaults.hide_query, value),
        };
        let taxii = Taxii {
            api_root: section.parsed("api_root", parse_api_root).map(value),
            title: section.filled("title").map(value),
            description: section.text("description").map(value).filter(|text| !text.is_empty()),
            versions,
        };
        let shared = self.collection_settings(&mut section, "taxii", &CollectionDefaults::default());
        section.finish();
        (taxii, feed, shared)
    }

    /// What is served, and what those get who do not say.
    fn versions(&self, section: &mut Section<'_>) -> (Vec<StixVersion>, StixVersion) {
        let defaults = ServeOptions::default();
        let place = section.place_of("versions");
        let mut versions = Vec::new();
        for Located { value, place } in section.texts("versions").unwrap_or_default() {
            match VERSIONS.iter().find(|(name, _)| *name == value) {
                Some((_, version)) if versions.contains(version) => {}
                Some((_, version)) => versions.push(*version),
                None => self.problems.add(&place, format!("`taxii.versions` can hold `2.0` and `2.1`, not `{value}`")),
            }
        }
        versions.sort_by_key(|version| version.as_str());
        if let Some(place) = place
            && versions.is_empty()
        {
            self.problems.add(&place, "`taxii.versions` names no version; write `[\"2.0\", \"2.1\"]` or one of them");
        }
        if versions.is_empty() {
            versions = defaults.versions;
        }
        let place = section.place_of("default_version");
        let default_version = match section.word("default_version", &VERSIONS) {
            Some(version) => {
                if let Some(place) = place.filter(|_| !versions.contains(&version)) {
                    let text =
                        format!("`taxii.default_version` is `{}`, which `taxii.versions` lacks", version.as_str());
                    self.problems.add(&place, text);
                }
                version
            }
            // The newest there is.
            None => versions.last().copied().unwrap_or(defaults.default_version),
        };
        (versions, default_version)
    }

    /// What a collection can say for itself, and `[taxii]` for all of them.
    fn collection_settings(
        &self,
        section: &mut Section<'_>,
        table: &str,
        defaults: &CollectionDefaults,
    ) -> CollectionDefaults {
        let indicator_types = section.texts("indicator_types").map(|names| self.indicator_types(names));
        let fields = section.texts("extension_fields").map(|fields| self.extension_fields(table, fields));
        let relationships = section.flag("relationships").map(value);
        let revoked = section.flag("revoked_relationships").map(value);
        CollectionDefaults {
            indicator_types: indicator_types.unwrap_or(defaults.indicator_types),
            extension_fields: fields.unwrap_or_else(|| defaults.extension_fields.clone()),
            relationships: Relationships {
                left_out: relationships.map_or(defaults.relationships.left_out, |wanted| !wanted),
                revoked: revoked.or(defaults.relationships.revoked),
            },
        }
    }

    /// `none`, `all` or names of fields; as in the original, the names may stand in one text with commas.
    fn extension_fields(&self, table: &str, texts: Vec<Located<String>>) -> Option<ExtensionFields> {
        let mut names: Vec<Box<str>> = Vec::new();
        for Located { value, place } in &texts {
            for name in value.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                let stands_alone = name.eq_ignore_ascii_case("all") || name.eq_ignore_ascii_case("none");
                if stands_alone && (texts.len() > 1 || value.trim() != name) {
                    let text = format!("`{table}.extension_fields` can hold `{name}` only by itself");
                    self.problems.add(place, text);
                } else if name.eq_ignore_ascii_case("all") {
                    return Some(ExtensionFields::All);
                } else if !stands_alone && !names.iter().any(|known| **known == *name) {
                    names.push(name.into());
                }
            }
        }
        (!names.is_empty()).then(|| ExtensionFields::Named(names.into()))
    }

    fn auth(&self, mut section: Section<'_>, store: &StoreOptions) -> AuthOptions {
        let options = AuthOptions {
            users: section.filled("users").map_or_else(|| store.location.join("users.json"), |path| self.path(path)),
            anonymous: section.flag("anonymous").map(value),
            anonymous_off_loopback: section.flag("anonymous_off_loopback").is_some_and(value),
        };
        section.finish();
        options
    }

    fn tls(&self, mut section: Section<'_>) -> (Option<TlsFiles>, bool) {
        let (cert, key) = (section.filled("cert"), section.filled("key"));
        let hsts = section.flag("hsts").filter(|hsts| hsts.value);
        section.finish();
        if let (None, None, Some(Located { place, .. })) = (&cert, &key, &hsts) {
            let text = "`tls.hsts` needs HTTPS; set `tls.cert` and `tls.key`, or have the proxy that does HTTPS add it";
            self.problems.add(place, text);
        }
        let files = match (cert, key) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert: self.path(cert), key: self.path(key) }),
            (Some(Located { place, .. }), None) => {
                self.problems.add(&place, "`tls.cert` needs its private key; set `tls.key` as well");
                None
            }
            (None, Some(Located { place, .. })) => {
                self.problems.add(&place, "`tls.key` needs its certificate; set `tls.cert` as well");
                None
            }
            (None, None) => None,
        };
        (files, hsts.is_some())
    }

    fn limits(&self, mut section: Section<'_>) -> Limits {
        let defaults = Limits::default();
        let concurrent = section.count("concurrent_requests", MAX_CONCURRENT_REQUESTS);
        let limits = Limits {
            concurrent_requests: concurrent
                .and_then(|count| usize::try_from(count.value).ok())
                .unwrap_or(defaults.concurrent_requests),
            request_timeout: section.duration("request_timeout", MAX_TIMEOUT).unwrap_or(defaults.request_timeout),
            header_timeout: section.duration("header_timeout", MAX_TIMEOUT).unwrap_or(defaults.header_timeout),
            idle_timeout: section.duration("idle_timeout", MAX_TIMEOUT).unwrap_or(defaults.idle_timeout),
            write_timeout: section.duration("write_timeout", MAX_TIMEOUT).unwrap_or(defaults.write_timeout),
            shutdown_timeout: section.duration("shutdown_timeout", MAX_TIMEOUT).unwrap_or(defaults.shutdown_timeout),
        };
        section.finish();
        limits
    }

    fn log(&self, mut section: Section<'_>) -> LogOptions {
        let levels = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
        let options = LogOptions {
            format: section.word("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]).unwrap_or_default(),
            level: section.word("level", &levels.map(|level| (level.as_str(), level))).unwrap_or_default(),
        };
        section.finish();
        options
    }

    fn collection(
        &self,
        located: Located<Section<'_>>,
        shared: &CollectionDefaults,
    ) -> Option<Located<CollectionSpec>> {
        let Located { value: mut section, place } = located;
        let title = section.filled("title");
        if title.is_none() && section.place_of("title").is_none() {
            self.problems.add(&place, "this collection has no `title`");
        }
        let query = self.collection_query(&mut section, &place);
        let own = self.collection_settings(&mut section, "collection", shared);
        let spec = CollectionSpec {
            title: title.as_ref().map(|title| title.value.trim().to_owned()).unwrap_or_default(),
            description: section.text("description").map(value).filter(|text| !text.is_empty()),
            alias: section.parsed("alias", parse_alias).map(value),
            id: section.parsed("id", parse_uuid).map(value),
            query,
            profile: section.word("profile", &PROFILES),
            indicator_types: own.indicator_types,
            extension_fields: own.extension_fields,
            relationships: own.relationships,
        };
        section.finish();
        Some(Located { value: spec, place: title?.place })
    }

    /// Either `query` or `sql`; `place` is that of the collection.
    fn collection_query(&self, section: &mut Section<'_>, place: &Place) -> QueryText {
        let (query_place, sql_place) = (section.place_of("query"), section.place_of("sql"));
        let (query, sql) = (section.text("query"), section.text("sql"));
        if query_place.is_none() && sql_place.is_none() {
            self.problems.add(place, "this collection has no `query`; write `query = \"\"` for everything");
        }
        if let (Some(_), Some(place)) = (&query_place, &sql_place) {
            self.problems.add(place, "this collection has both `query` and `sql`; keep one of them");
        }
        let query = query.map(|query| Located { value: QueryText::Xsoar(query.value), place: query.place });
        let sql = sql.map(|sql| Located { value: QueryText::Sql(sql.value), place: sql.place });
        for (key, text) in [("query", &query), ("sql", &sql)] {
            if let Some(text) = text {
                self.check_query(&text.place, &format!("`collection.{key}` does not compile"), &text.value);
            }
        }
        // Without either, a problem was reported and this value goes nowhere.
        query.or(sql).map_or_else(|| QueryText::Xsoar(String::new()), value)
    }

    fn indicator_types(&self, names: Vec<Located<String>>) -> IndicatorTypes {
        let mut types = Vec::new();
        let possible: Vec<&str> =
            StixType::ALL.iter().filter(|stix_type| stix_type.can_be_indicator()).map(|t| t.as_str()).collect();
        for name in names {
            match StixType::named(&name.value) {
                _ if name.value == "all" => types.extend(StixType::ALL),
                Some(stix_type) if stix_type.can_be_indicator() => types.push(stix_type),
                _ => {
                    let hint = nearest(&name.value, &possible).map_or_else(
                        || format!("these can: {}, all", possible.join(", ")),
                        |near| format!("did you mean `{near}`?"),
                    );
                    let text = format!("`{}` cannot be served as `indicator`; {hint}", name.value);
                    self.problems.add(&name.place, text);
                }
            }
        }
        types.into_iter().collect()
    }

    /// The original's collections: an object of title → query, or title → `{query, description}`
    /// (spec/xsoar-taxii2-server.md §1).
    fn xsoar_collections(&self, mut section: Section<'_>, shared: &CollectionDefaults) -> Vec<Located<CollectionSpec>> {
        let file = section.filled("file");
        section.finish();
        let Some(Located { value: name, place }) = file else { return Vec::new() };
        let path = self.path(Located { value: name, place: place.clone() });
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                self.problems.add(&place, format!("read `{}`: {error}", path.display()));
                return Vec::new();
            }
        };
        let inside = Place::OtherFile(path);
        let Titles(titles) = match serde_json::from_str(&text) {
            Ok(titles) => titles,
            Err(error) => {
                self.problems.add(&inside, format!("must be a JSON object of title and query: {error}"));
                return Vec::new();
            }
        };
        let mut specs = Vec::new();
        for (title, entry) in titles {
            let (query, description) = match entry {
                Some(XsoarCollection::Query(query)) => (Some(query), None),
                Some(XsoarCollection::Full { query, description }) => (query, description),
                None => (None, None),
            };
            let Some(query) = query else {
                self.problems.add(&inside, format!("collection `{title}` has no query; write `\"\"` for everything"));
                continue;
            };
            let query = QueryText::Xsoar(query);
            self.check_query(&inside, &format!("the query of collection `{title}` does not compile"), &query);
            let spec = CollectionSpec {
                description: description.filter(|text| !text.is_empty()),
                indicator_types: shared.indicator_types,
                extension_fields: shared.extension_fields.clone(),
                relationships: shared.relationships,
                ..CollectionSpec::new(&title, query)
            };
            specs.push(Located { value: spec, place: inside.clone() });
        }
        specs
    }

    fn check_query(&self, place: &Place, what: &str, text: &QueryText) {
        if let Err(error) = text.compile() {
            self.problems.add(place, format!("{what}\n{}", error.render()));
        }
    }

    /// No two collections may share a title (ids follow from it, and some clients choose by it), an id or an alias.
    fn tell_apart(&self, collections: &[Located<CollectionSpec>]) {
        let mut titles: BTreeMap<&str, &Place> = BTreeMap::new();
        let mut names: BTreeMap<&str, (&str, &Place)> = BTreeMap::new();
        for Located { value: spec, place } in collections {
            let title = spec.title.as_str();
            match titles.get(title) {
                Some(other) => {
                    let text = format!(
                        "a collection with the title `{title}` is {} already; give one of them another title or take \
                         it out, since ids follow from titles",
                        within(other)
                    );
                    self.problems.add(place, text);
                }
                None => {
                    titles.insert(title, place);
                }
            }
            for name in [&spec.id, &spec.alias].into_iter().flatten() {
                match names.get(name.as_str()) {
                    Some((other, at)) => {
                        let text = format!(
                            "collection `{title}` has the id or alias `{name}` of collection `{other}` {}; give one of \
                             them another",
                            within(at)
                        );
                        self.problems.add(place, text);
                    }
                    None => {
                        names.insert(name, (title, place));
                    }
                }
            }
        }
    }

    fn path(&self, path: Located<String>) -> PathBuf {
        match path.place {
            Place::Variable(_) => PathBuf::from(path.value),
            Place::File { .. } | Place::OtherFile(_) | Place::Whole => self.folder.join(path.value),
        }
    }
}

/// A place, inside a sentence about another one.
fn within(place: &Place) -> String {
    match place {
        Place::File { line, .. } => format!("in line {line} of the configuration file"),
        Place::Variable(name) => format!("in the environment variable {name}"),
        Place::OtherFile(path) => format!("in `{}`", path.display()),
        Place::Whole => "in the configuration".to_owned(),
    }
}

fn value<T>(located: Located<T>) -> T {
    located.value
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let expanded = match text.split_once(':') {
        Some(("localhost", port)) => format!("127.0.0.1:{port}"),
        Some(("" | "*", port)) => format!("0.0.0.0:{port}"),
        _ => text.to_owned(),
    };
    expanded
        .parse()
        .map_err(|_| format!("must be an address and a port, such as `127.0.0.1:9000` or `[::]:9000`, not `{text}`"))
}

fn parse_location(text: &str) -> Result<String, String> {
    match text.split_once("://") {
        None => Ok(text.to_owned()),
        Some(("file", path)) if path.starts_with('/') => Ok(path.to_owned()),
        Some(("file", _)) => Err(format!("must be a path or `file:///` and a path, not `{text}`")),
        Some((scheme, _)) => Err(format!("names a `{scheme}://` store, which is not supported yet; give a folder")),
    }
}

fn parse_alias(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    if !text.bytes().all(plain) || matches!(text, "." | "..") {
        return Err(format!("must be letters, digits and `-_.~`, since it stands in URLs, not `{text}`"));
    }
    Ok(text.to_owned())
}

fn parse_uuid(text: &str) -> Result<String, String> {
    uuid::Uuid::try_parse(text)
        .map(|id| id.hyphenated().to_string())
        .map_err(|_| format!("must be a UUID such as `1cd9cb8e-9a0d-4c5c-a7e3-1d7f3f0a6a51`, not `{text}`"))
}

/// What stands behind a title in the original's Collection JSON.
#[derive(Deserialize)]
#[serde(untagged)]
enum XsoarCollection {
    Query(String),
    Full { query: Option<String>, description: Option<String> },
}

/// Titles in the order of the text, doubled ones included, so that those can be reported.
struct Titles(Vec<(String, Option<XsoarCollection>)>);

impl<'de> Deserialize<'de> for Titles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Titles;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of title and query")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Titles, A::Error> {
                let mut titles = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    titles.push(entry);
                }
                Ok(Titles(titles))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}
