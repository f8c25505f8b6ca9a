//! From the tree as written to options that hold together.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::config::raw::{Located, Problems, Section, Tree, nearest};
use crate::config::{
    CacheOptions, CollectionDefaults, Config, EnrichOptions, LogFormat, LogLevel, LogOptions, Place, Problem,
    StoreOptions,
};
use crate::feed::collection::{Access, CollectionSpec, Options as FeedOptions, QueryText, Relationships};
use crate::model::ids::IdScheme;
use crate::model::kind::StixType;
use crate::render::envelope::EmptyList;
use crate::render::{ExtensionFields, IndicatorTypes, Profile, StixVersion};
use crate::serve::options::ApiRoot;
use crate::serve::options::{parse_api_root, parse_base_url, parse_origin};
use crate::serve::{AdminOptions, AuthOptions, ClientAuth, Cors, Limits, Options as ServeOptions, TlsFiles};

/// Most objects in a page that may be configured: what one request can ask of the server has to end somewhere.
const MAX_PAGE_SIZE: u64 = 10_000_000;
/// A hundred years: longer than any store.
const MAX_HISTORY: Duration = Duration::from_secs(100 * 365 * 86_400);
/// Longest time limit.
const MAX_TIMEOUT: Duration = Duration::from_secs(86_400);
/// Most requests at once that may be configured.
const MAX_CONCURRENT_REQUESTS: u64 = 100_000;
/// Most connections.
const MAX_CONNECTIONS: u64 = 1_000_000;
/// Longest URL: HTTP/1 takes none of 64 KiB.
const MAX_URL_BYTES: u64 = 65_000;
/// Largest header fields.
const MAX_HEADERS_BYTES: u64 = 1 << 20;
/// Most values in a `match` parameter; no URL holds more.
const MAX_MATCH_VALUES: u64 = 65_000;
/// Most memory for a cache.
const MAX_CACHE_BYTES: u64 = 1 << 40;
/// Largest body, and most memory for bodies.
const MAX_BODY_BYTES: u64 = 1 << 40;

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
    let api_roots = reader.api_roots(taxii.api_root, root.sections("api_root"));
    let auth = reader.auth(root.section("auth"), &store);
    let (tls, hsts) = reader.tls(root.section("tls"));
    let admin_listen = root.parsed("admin_listen", parse_listen).map(value);
    let admin = reader.admin(root.section("admin"), admin_listen.is_some(), tls.is_some());
    let limits = reader.limits(root.section("limits"));
    let cache = reader.cache(root.section("cache"));
    let (log, audit) = reader.log(root.section("log"));
    let enrich = reader.enrich(root.section("enrich"));
    let of_sources = super::sources::Reader { problems: &problems, folder };
    let sources = of_sources.options(root.section("sources"));
    let definitions = of_sources.definitions(root.sections("source"));
    let mut collections: Vec<Located<CollectionSpec>> = root
        .sections("collection")
        .into_iter()
        .filter_map(|section| reader.collection(section, &shared, &api_roots))
        .collect();
    collections.extend(reader.xsoar_collections(root.section("xsoar_collections"), &shared));
    reader.tell_apart(&collections);

    let defaults = ServeOptions::default();
    let serve = ServeOptions {
        listen: root.parsed("listen", parse_listen).map_or(defaults.listen, value),
        admin_listen,
        plain_http_off_loopback: root.flag("plain_http_off_loopback").is_some_and(value),
        admin_off_loopback: root.flag("admin_off_loopback").is_some_and(value),
        admin,
        trusted_proxies: reader.networks(&mut root, "trusted_proxies"),
        cors: reader.cors(root.section("cors")),
        base_url: root.parsed("base_url", parse_base_url).map(value),
        api_roots,
        title: taxii.title,
        description: taxii.description,
        profile: feed.profile,
        versions: taxii.versions,
        default_version: feed.default_version,
        tls,
        hsts,
        auth,
        limits,
        audit,
    };
    root.finish();

    let collections = collections.into_iter().map(value).collect();
    let config = Config {
        file: None,
        variables: Vec::new(),
        serve,
        store,
        feed,
        cache,
        defaults: shared,
        collections,
        enrich,
        sources,
        definitions,
        log,
    };
    (config, problems.into_sorted())
}

/// The part of `[taxii]` that belongs to the server.
struct Taxii {
    api_root: ApiRoot,
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
            compaction: section.flag("compaction").map_or(defaults.compaction, value),
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
        let path = section.parsed("api_root", parse_api_root).map(value);
        let path = path.unwrap_or_else(|| ServeOptions::default().default_root().to_owned());
        let taxii = Taxii {
            api_root: ApiRoot { access: self.access(&mut section, "taxii"), ..ApiRoot::new(&path) },
            title: section.filled("title").map(value),
            description: section.text("description").map(value).filter(|text| !text.is_empty()),
            versions,
        };
        let shared = self.collection_settings(&mut section, "taxii", &CollectionDefaults::default());
        section.finish();
        (taxii, feed, shared)
    }

    /// The first one, and those of `[[api_root]]`.
    fn api_roots(&self, first: ApiRoot, sections: Vec<Located<Section<'_>>>) -> Vec<ApiRoot> {
        let mut roots = vec![first];
        for Located { value: mut section, place } in sections {
            let path = section.parsed("path", parse_api_root);
            if path.is_none() && section.place_of("path").is_none() {
                self.problems.add(&place, "this API root has no `path`; write one such as `path = \"partners\"`");
            }
            let mut root = ApiRoot::new("");
            root.title = section.filled("title").map(value);
            root.description = section.text("description").map(value).filter(|text| !text.is_empty());
            root.access = self.access(&mut section, "api_root");
            section.finish();
            let Some(Located { value: path, place }) = path else { continue };
            if let Some(reason) = roots.iter().find_map(|other| in_the_way(&path, &other.path)) {
                self.problems.add(&place, format!("`api_root.path` cannot be `{path}`: {reason}"));
                continue;
            }
            roots.push(ApiRoot { path, ..root });
        }
        roots
    }

    /// Who may read and write.
    fn access(&self, section: &mut Section<'_>, table: &str) -> Access {
        Access { read: self.names(section, table, "read"), write: self.names(section, table, "write") }
    }

    /// Names of users, `@` and names of groups, and what stands for all of them. None at all means nobody.
    fn names(&self, section: &mut Section<'_>, table: &str, key: &'static str) -> Option<Vec<String>> {
        let mut names = Vec::new();
        for Located { value, place } in section.texts(key)? {
            let name = value.trim();
            let reason = match name {
                "" | "@" => "names nobody; take it out",
                "@*" => "is no group; write `*` for everyone or `@users` for every user",
                "@anonymous" => "is no group; write `anonymous` for requests without credentials",
                "users" => "would be a user of that name; write `@users` for every user",
                name if name.contains(':') || name.chars().any(char::is_control) => {
                    "cannot be the name of a user or group, which hold no `:` and no control characters"
                }
                name => {
                    if !names.iter().any(|known| known == name) {
                        names.push(name.to_owned());
                    }
                    continue;
                }
            };
            self.problems.add(&place, format!("`{name}` in `{table}.{key}` {reason}"));
        }
        Some(names)
    }

    /// The API roots that a collection names, each of which has to be there.
    fn placed_in(&self, section: &mut Section<'_>, roots: &[ApiRoot]) -> Vec<String> {
        let place = section.place_of("api_roots");
        let Some(named) = section.texts("api_roots") else { return Vec::new() };
        if let Some(place) = place.filter(|_| named.is_empty()) {
            let text = "`collection.api_roots` names none; without it the collection is in the first API root";
            self.problems.add(&place, text);
        }
        let known: Vec<&str> = roots.iter().map(|root| root.path.as_str()).collect();
        let mut paths: Vec<String> = Vec::new();
        for Located { value, place } in named {
            let path = value.trim().trim_matches('/');
            if !known.contains(&path) {
                let hint = nearest(path, &known).map_or_else(
                    || format!("there are: {}", known.join(", ")),
                    |near| format!("did you mean `{near}`?"),
                );
                self.problems.add(&place, format!("there is no API root `{path}`; {hint}"));
            } else if !paths.iter().any(|known| known == path) {
                paths.push(path.to_owned());
            }
        }
        paths
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
        let fields = section.texts("extension_fields").map(|fields| self.extension_fields(table, &fields));
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
    fn extension_fields(&self, table: &str, texts: &[Located<String>]) -> Option<ExtensionFields> {
        let mut names: Vec<Box<str>> = Vec::new();
        for Located { value, place } in texts {
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

    /// What there is on the admin listener besides monitoring.
    fn admin(&self, mut section: Section<'_>, listens: bool, has_tls: bool) -> AdminOptions {
        let defaults = AdminOptions::default();
        let (manage_place, tls) = (section.place_of("manage"), section.flag("tls"));
        if let Some(place) = manage_place.filter(|_| !listens) {
            self.problems
                .add(&place, "`admin.manage` needs a listener; set `admin_listen`, such as \"127.0.0.1:9001\"");
        }
        if let Some(Located { value: true, place }) = &tls
            && !has_tls
        {
            self.problems.add(place, "`admin.tls` needs a certificate; set `tls.cert` and `tls.key`");
        }
        let options = AdminOptions {
            manage: self.names(&mut section, "admin", "manage"),
            tls: tls.is_some_and(value),
            package_bytes: section.count("package_bytes", MAX_BODY_BYTES).map_or(defaults.package_bytes, value),
        };
        section.finish();
        options
    }

    /// Networks, or single addresses.
    fn networks(&self, section: &mut Section<'_>, key: &'static str) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for Located { value, place } in section.texts(key).unwrap_or_default() {
            let text = value.trim();
            let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
            match network {
                Some(network) => networks.push(network),
                None => {
                    let text = format!(
                        "`{key}` must be addresses such as `10.0.0.7` and networks such as `10.0.0.0/8`, not `{text}`"
                    );
                    self.problems.add(&place, text);
                }
            }
        }
        networks
    }

    fn cors(&self, mut section: Section<'_>) -> Cors {
        let place = section.place_of("origins");
        let given = section.texts("origins").unwrap_or_default();
        section.finish();
        let any = given.iter().any(|origin| origin.value.trim() == "*");
        if let Some(place) = place.filter(|_| any && given.len() > 1) {
            self.problems.add(&place, "`cors.origins` can hold `*` only by itself");
        }
        let mut origins = Vec::new();
        for Located { value, place } in given.into_iter().filter(|origin| origin.value.trim() != "*") {
            match parse_origin(value.trim()) {
                Ok(origin) => origins.push(origin),
                Err(reason) => self.problems.add(&place, format!("`cors.origins` {reason}")),
            }
        }
        match origins.is_empty() {
            _ if any => Cors::Any,
            true => Cors::Off,
            false => Cors::Origins(origins),
        }
    }

    fn tls(&self, mut section: Section<'_>) -> (Option<TlsFiles>, bool) {
        let (cert, key) = (section.filled("cert"), section.filled("key"));
        let hsts = section.flag("hsts").filter(|hsts| hsts.value);
        let (client_ca, client_crl) = (section.filled("client_ca"), section.filled("client_crl"));
        let auth_place = section.place_of("client_auth");
        let client_auth = section
            .word("client_auth", &[("optional", ClientAuth::Optional), ("required", ClientAuth::Required)])
            .unwrap_or_default();
        section.finish();
        if let (None, None, Some(Located { place, .. })) = (&cert, &key, &hsts) {
            let text = "`tls.hsts` needs HTTPS; set `tls.cert` and `tls.key`, or have the proxy that does HTTPS add it";
            self.problems.add(place, text);
        }
        if let (None, None, Some(Located { place, .. })) = (&cert, &key, &client_ca) {
            self.problems.add(place, "`tls.client_ca` needs HTTPS; set `tls.cert` and `tls.key` as well");
        }
        if client_ca.is_none() {
            let others =
                [("client_crl", client_crl.as_ref().map(|crl| &crl.place)), ("client_auth", auth_place.as_ref())];
            for (name, place) in others {
                if let Some(place) = place {
                    let text = format!("`tls.{name}` has no effect without `tls.client_ca`; set that as well");
                    self.problems.add(place, text);
                }
            }
        }
        let files = match (cert, key) {
            (Some(cert), Some(key)) => Some(TlsFiles {
                client_ca: client_ca.map(|path| self.path(path)),
                client_crl: client_crl.map(|path| self.path(path)),
                client_auth,
                ..TlsFiles::new(self.path(cert), self.path(key))
            }),
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

    fn cache(&self, mut section: Section<'_>) -> CacheOptions {
        let defaults = CacheOptions::default();
        let mut bytes = |key, default| bytes(&mut section, key, default);
        let cache = CacheOptions {
            matches: bytes("matches_bytes", defaults.matches),
            gathered: bytes("gathered_bytes", defaults.gathered),
            rendered: bytes("rendered_bytes", defaults.rendered),
            warm: section.flag("warm").map_or(defaults.warm, |given| given.value),
        };
        section.finish();
        cache
    }

    fn limits(&self, mut section: Section<'_>) -> Limits {
        let defaults = Limits::default();
        let mut count = |key, max: u64, default: usize| {
            let given: Option<Located<u64>> = section.count(key, max);
            given.and_then(|given| usize::try_from(given.value).ok()).unwrap_or(default)
        };
        let concurrent_requests = count("concurrent_requests", MAX_CONCURRENT_REQUESTS, defaults.concurrent_requests);
        let concurrent_requests_per_client =
            count("concurrent_requests_per_client", MAX_CONCURRENT_REQUESTS, defaults.concurrent_requests_per_client);
        let connections = count("connections", MAX_CONNECTIONS, defaults.connections);
        let connections_per_address =
            count("connections_per_address", MAX_CONNECTIONS, defaults.connections_per_address);
        let url_bytes = count("url_bytes", MAX_URL_BYTES, defaults.url_bytes);
        let headers_bytes = count("headers_bytes", MAX_HEADERS_BYTES, defaults.headers_bytes);
        let match_values = count("match_values", MAX_MATCH_VALUES, defaults.match_values);
        let rate = section.count("requests_per_minute", u64::from(u32::MAX));
        let bodies = section.count("bodies_bytes", MAX_BODY_BYTES);
        let body = section.count("body_bytes", MAX_BODY_BYTES);
        let body_bytes = body.as_ref().map_or(defaults.body_bytes, |given| given.value);
        let bodies_bytes = bodies.as_ref().map_or(defaults.bodies_bytes.max(body_bytes), |given| given.value);
        if let Some(place) = bodies.map(|given| given.place).filter(|_| bodies_bytes < body_bytes) {
            let text = format!(
                "`limits.bodies_bytes` is {bodies_bytes}, less than one body may have, `limits.body_bytes`, {body_bytes}"
            );
            self.problems.add(&place, text);
        }
        let limits = Limits {
            concurrent_requests,
            concurrent_requests_per_client,
            connections,
            connections_per_address,
            requests_per_minute: rate.and_then(|rate| u32::try_from(rate.value).ok()),
            body_bytes,
            bodies_bytes,
            body_timeout: section.duration("body_timeout", MAX_TIMEOUT).unwrap_or(defaults.body_timeout),
            url_bytes,
            headers_bytes,
            match_values,
            request_timeout: section.duration("request_timeout", MAX_TIMEOUT).unwrap_or(defaults.request_timeout),
            header_timeout: section.duration("header_timeout", MAX_TIMEOUT).unwrap_or(defaults.header_timeout),
            idle_timeout: section.duration("idle_timeout", MAX_TIMEOUT).unwrap_or(defaults.idle_timeout),
            write_timeout: section.duration("write_timeout", MAX_TIMEOUT).unwrap_or(defaults.write_timeout),
            shutdown_timeout: section.duration("shutdown_timeout", MAX_TIMEOUT).unwrap_or(defaults.shutdown_timeout),
        };
        section.finish();
        limits
    }

    fn enrich(&self, mut section: Section<'_>) -> EnrichOptions {
        let defaults = EnrichOptions::default();
        let options = EnrichOptions {
            enabled: section.flag("enabled").map_or(defaults.enabled, value),
            allow: section.filled("allow").map(|path| self.path(path)),
            rows: bytes(&mut section, "rows_bytes", defaults.rows),
        };
        section.finish();
        options
    }

    fn log(&self, mut section: Section<'_>) -> (LogOptions, Option<PathBuf>) {
        let levels = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
        let options = LogOptions {
            format: section.word("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]).unwrap_or_default(),
            level: section.word("level", &levels.map(|level| (level.as_str(), level))).unwrap_or_default(),
        };
        let audit = section.filled("audit").map(|path| self.path(path));
        section.finish();
        (options, audit)
    }

    fn collection(
        &self,
        located: Located<Section<'_>>,
        shared: &CollectionDefaults,
        roots: &[ApiRoot],
    ) -> Option<Located<CollectionSpec>> {
        let Located { value: mut section, place } = located;
        let title = section.filled("title");
        if title.is_none() && section.place_of("title").is_none() {
            self.problems.add(&place, "this collection has no `title`");
        }
        let inbox = section.flag("inbox").is_some_and(value);
        let query = self.collection_query(&mut section, &place, inbox);
        let write_place = section.place_of("write");
        let access = self.access(&mut section, "collection");
        if let Some(place) = write_place.filter(|_| !inbox) {
            self.problems.add(&place, "only an inbox can be written to; write `inbox = true` in place of the query");
        }
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
            inbox,
            access,
            api_roots: self.placed_in(&mut section, roots),
        };
        section.finish();
        Some(Located { value: spec, place: title?.place })
    }

    /// Either `query` or `sql`; `place` is that of the collection.
    fn collection_query(&self, section: &mut Section<'_>, place: &Place, inbox: bool) -> QueryText {
        let (query_place, sql_place) = (section.place_of("query"), section.place_of("sql"));
        let (query, sql) = (section.text("query"), section.text("sql"));
        if inbox {
            for place in [&query_place, &sql_place].into_iter().flatten() {
                self.problems.add(place, "an inbox holds what is posted to it and has no query; take one of them away");
            }
            return QueryText::Xsoar(String::new());
        }
        if query_place.is_none() && sql_place.is_none() {
            self.problems
                .add(place, "this collection has no `query`; write `query = \"\"` for everything, or `inbox = true`");
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

/// Memory for something.
fn bytes(section: &mut Section<'_>, key: &'static str, default: usize) -> usize {
    let given = section.count(key, MAX_CACHE_BYTES);
    given.and_then(|given| usize::try_from(given.value).ok()).unwrap_or(default)
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

/// Why a path cannot be that of an API root beside another one.
fn in_the_way(path: &str, other: &str) -> Option<String> {
    let resource_of = |path: &str, root: &str| {
        let below = path.strip_prefix(root)?.strip_prefix('/')?;
        matches!(below.split('/').next(), Some("collections" | "status")).then_some(())
    };
    if path == other {
        return Some("there is an API root of that path already".to_owned());
    }
    let inside = if resource_of(path, other).is_some() { other } else { path };
    let taken = resource_of(path, other).or_else(|| resource_of(other, path));
    taken.map(|()| format!("the collections and statuses of the API root `{inside}` are at such paths"))
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
