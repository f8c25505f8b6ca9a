//! `[sources]` and `[[source]]`: other people's servers (design §9).

use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use crate::collect::{Definition, IdentityFiles, Limits, Material, Span, id_of_name};
use crate::config::SourceOptions;
use crate::config::raw::{Located, Problems, Section};
use crate::source::{Credentials, Proxy, Secret};

/// Longest time limit.
const MAX_TIMEOUT: Duration = Duration::from_secs(86_400);
/// Most sources fetched at once.
const MAX_AT_ONCE: u64 = 64;
/// Largest file with a secret.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// The keys under which a secret may stand: itself, the file it is in, the environment variable it is in.
type SecretKeys = [&'static str; 3];

const PASSWORD: SecretKeys = ["password", "password_file", "password_env"];
const TOKEN: SecretKeys = ["token", "token_file", "token_env"];
const API_KEY: SecretKeys = ["api_key", "api_key_file", "api_key_env"];
const PASSPHRASE: SecretKeys = ["passphrase", "passphrase_file", "passphrase_env"];
const PROXY_PASSWORD: SecretKeys = ["proxy_password", "proxy_password_file", "proxy_password_env"];

/// Reads what concerns sources; relative paths begin at `folder`.
pub(super) struct Reader<'a> {
    pub(super) problems: &'a Problems,
    pub(super) folder: &'a Path,
}

impl Reader<'_> {
    /// `[sources]`.
    pub(super) fn options(&self, mut section: Section<'_>) -> SourceOptions {
        let defaults = SourceOptions::default();
        let options = SourceOptions {
            enabled: section.flag("enabled").map_or(defaults.enabled, |flag| flag.value),
            key_file: section.filled("key_file").map(|path| self.folder.join(path.value)),
            at_once: section
                .count("at_once", MAX_AT_ONCE)
                .map_or(defaults.at_once, |count| usize::try_from(count.value).unwrap_or(defaults.at_once)),
        };
        section.finish();
        options
    }

    /// `[[source]]`.
    pub(super) fn definitions(&self, sections: Vec<Located<Section<'_>>>) -> Vec<Definition> {
        let mut definitions: Vec<Definition> = Vec::new();
        for Located { value: section, place } in sections {
            let name_place = place.clone();
            let Some(definition) = self.definition(Located { value: section, place }) else { continue };
            let taken = definitions
                .iter()
                .find(|other| other.id == definition.id || other.name.to_lowercase() == definition.name.to_lowercase());
            match taken {
                Some(other) => {
                    let text = format!("there is a source `{}` already; give each another name and id", other.name);
                    self.problems.add(&name_place, text);
                }
                None => definitions.push(definition),
            }
        }
        definitions
    }

    fn definition(&self, located: Located<Section<'_>>) -> Option<Definition> {
        let Located { value: mut section, place } = located;
        let name = section.filled("name");
        if name.is_none() && section.place_of("name").is_none() {
            self.problems.add(&place, "this source has no `name`; what is fetched is found by it, as `sourceBrands`");
        }
        let url = section.parsed("url", |text| Url::parse(text).map_err(|error| format!("is no URL: {error}")));
        if url.is_none() && section.place_of("url").is_none() {
            self.problems.add(&place, "this source has no `url`");
        }
        let id = section.filled("id");
        let text_name = name.as_ref().map(|name| name.value.trim().to_owned()).unwrap_or_default();
        let usable_url = Url::parse("https://unset.invalid/").ok();
        let mut definition =
            Definition::new(text_name.clone(), url.as_ref().map(|url| url.value.clone()).or(usable_url)?);
        definition.id = id.map_or_else(|| id_of_name(&text_name), |id| id.value);
        definition.enabled = section.flag("enabled").is_none_or(|flag| flag.value);
        if let Some(version) = section.parsed("version", str::parse) {
            definition.version = version.value;
        }
        definition.credentials = self.credentials(&mut section, &place);
        definition.identity = self.identity(&mut section, &place);
        definition.authorities = section.filled("ca").map(|path| Material::File(self.folder.join(path.value)));
        definition.proxy = self.proxy(&mut section);
        let texts = |section: &mut Section<'_>, key| -> Vec<String> {
            section.texts(key).unwrap_or_default().into_iter().map(|text| text.value).collect()
        };
        definition.trusted_hosts = texts(&mut section, "trusted_hosts");
        definition.collections = texts(&mut section, "collections");
        definition.tags = texts(&mut section, "tags");
        definition.subscription = section.filled("subscription").map(|text| text.value);
        definition.begin = section.parsed("begin", str::parse).map(|span| span.value);
        if let Some(interval) = section.parsed("interval", interval) {
            definition.interval = interval.value;
        }
        let small = |number: Located<u64>| u32::try_from(number.value).unwrap_or(u32::MAX);
        definition.page_size = section.count("page_size", 1_000_000).map(small);
        definition.user_agent = section.filled("user_agent").map(|text| text.value);
        let scores = [("unknown", 0), ("good", 1), ("suspicious", 2), ("bad", 3)];
        definition.score = section.word("score", &scores);
        definition.limits = limits(section.section("limits"));
        section.finish();
        definition.settle();
        // What is missing was said above.
        let (Some(_), Some(_)) = (&name, &url) else { return None };
        let problems = definition.problems();
        for problem in &problems {
            self.problems.add(&place, format!("source `{}`: {problem}", definition.name));
        }
        problems.is_empty().then_some(definition)
    }

    fn credentials(&self, section: &mut Section<'_>, place: &crate::config::Place) -> Credentials {
        let username = section.filled("username");
        let password = self.secret(section, PASSWORD);
        let token = self.secret(section, TOKEN);
        let header = section.filled("api_key_header");
        let key = self.secret(section, API_KEY);
        let login = section.parsed("login_url", |text| Url::parse(text).map_err(|error| format!("is no URL: {error}")));
        let ways = [username.is_some() || password.is_some(), token.is_some(), header.is_some() || key.is_some()];
        if ways.iter().filter(|way| **way).count() > 1 {
            let text =
                "a source comes with a user and password, or with a `token`, or with an `api_key`; keep one of them";
            self.problems.add(place, text);
            return Credentials::None;
        }
        match (username, password, token, header, key) {
            (Some(username), Some(password), ..) => match login {
                Some(url) => Credentials::Login { url: url.value, username: username.value, password },
                None => Credentials::Basic { username: username.value, password },
            },
            (Some(_), None, ..) => {
                self.problems.add(place, "`username` stands without `password`, `password_file` or `password_env`");
                Credentials::None
            }
            (None, Some(_), ..) => {
                self.problems.add(place, "a password stands without `username`");
                Credentials::None
            }
            (_, _, Some(token), ..) => Credentials::Bearer(token),
            (_, _, _, header, Some(key)) => {
                let header = header.map_or_else(|| "X-API-Key".to_owned(), |header| header.value);
                Credentials::ApiKey { header, key }
            }
            (_, _, _, Some(_), None) => {
                self.problems.add(place, "`api_key_header` stands without `api_key`, `api_key_file` or `api_key_env`");
                Credentials::None
            }
            _ => Credentials::None,
        }
    }

    fn identity(&self, section: &mut Section<'_>, place: &crate::config::Place) -> Option<IdentityFiles> {
        let certificate = section.filled("certificate");
        let key = section.filled("private_key");
        let passphrase = self.secret(section, PASSPHRASE);
        match (certificate, key) {
            (Some(certificate), Some(key)) => Some(IdentityFiles {
                certificate: Material::File(self.folder.join(certificate.value)),
                key: Material::File(self.folder.join(key.value)),
                passphrase,
            }),
            (None, None) => None,
            _ => {
                self.problems.add(place, "`certificate` and `private_key` go together");
                None
            }
        }
    }

    fn proxy(&self, section: &mut Section<'_>) -> Option<Proxy> {
        let url = section.parsed("proxy", |text| Url::parse(text).map_err(|error| format!("is no URL: {error}")));
        let username = section.filled("proxy_username");
        let password = self.secret(section, PROXY_PASSWORD);
        let credentials = username.map(|username| (username.value, password.unwrap_or_default()));
        Some(Proxy { url: url?.value, credentials })
    }

    /// A secret, wherever it stands.
    fn secret(&self, section: &mut Section<'_>, keys: SecretKeys) -> Option<Secret> {
        let [plain, file, variable] = keys;
        let found = [plain, file, variable].map(|key| section.filled(key));
        if found.iter().flatten().count() > 1 {
            let place = found.iter().flatten().next().map(|found| found.place.clone());
            let text = format!("`{plain}`, `{file}` and `{variable}` say the same; keep one of them");
            self.problems.add(&place?, text);
            return None;
        }
        let [plain, file, variable] = found;
        if let Some(text) = plain {
            return Some(Secret::new(text.value));
        }
        if let Some(Located { value, place }) = variable {
            return match std::env::var(&value) {
                Ok(text) if !text.is_empty() => Some(Secret::new(text)),
                _ => {
                    self.problems.add(&place, format!("the environment variable `{value}` is not set, or empty"));
                    None
                }
            };
        }
        let Located { value, place } = file?;
        let path = self.folder.join(value);
        match first_line(&path) {
            Ok(text) if !text.is_empty() => Some(Secret::new(text)),
            Ok(_) => {
                self.problems.add(&place, format!("the first line of `{}` is empty", path.display()));
                None
            }
            Err(error) => {
                self.problems.add(&place, format!("read `{}`: {error}", path.display()));
                None
            }
        }
    }
}

/// The first line of a small file.
fn first_line(path: &PathBuf) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_SECRET_BYTES).read_to_string(&mut text)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn interval(text: &str) -> Result<Option<Span>, String> {
    match text {
        "manual" => Ok(None),
        text => text.parse().map(Some).map_err(|reason| format!("{reason}; or `manual`")),
    }
}

fn limits(mut section: Section<'_>) -> Limits {
    let small = |number: Located<u64>| u32::try_from(number.value).unwrap_or(u32::MAX);
    let seconds = |time: Duration| time.as_secs().max(1);
    let limits = Limits {
        requests_per_minute: section.count("requests_per_minute", 1_000_000).map(small),
        objects_per_fetch: section.count("objects_per_fetch", i64::MAX as u64).map(|number| number.value),
        answer_bytes: section.count("answer_bytes", 1 << 40).map(|number| number.value),
        object_bytes: section.count("object_bytes", 1 << 30).map(|number| number.value),
        connect_timeout: section.duration("connect_timeout", MAX_TIMEOUT).map(seconds),
        read_timeout: section.duration("read_timeout", MAX_TIMEOUT).map(seconds),
        answer_timeout: section.duration("answer_timeout", MAX_TIMEOUT).map(seconds),
        attempts: section.count("attempts", 100).map(small),
        longest_wait: section.duration("longest_wait", MAX_TIMEOUT).map(seconds),
        poll_window: section.parsed("poll_window", str::parse).map(|span| span.value),
    };
    section.finish();
    limits
}
