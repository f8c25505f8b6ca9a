//! Files that load, files that do not, and what is said about those.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::feed::collection::QueryText;
use crate::model::kind::StixType;
use crate::render::envelope::EmptyList;
use crate::render::{Profile, StixVersion};
use crate::serve::{ClientAuth, Cors, Limits, TlsFiles};
use crate::source::Credentials;

const EXAMPLE: &str = "taxiway.example.toml";
const COLLECTIONS: &str = "data/collections.json";

fn load(file: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load_with(Some(Path::new(file)), variables)
}

fn problems(result: Result<Config, ConfigError>) -> String {
    match result {
        Err(ConfigError::Invalid(problems)) => problems.to_string(),
        other => panic!("no problems found: {other:?}"),
    }
}

fn text(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("c.toml");
    fs::write(&file, text).expect("write");
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load_with(Some(&file), variables)
}

#[test]
fn the_example_holds_the_defaults() {
    let config = load(EXAMPLE, &[]).expect("the example is valid");
    assert_eq!(config, Config { file: Some(PathBuf::from(EXAMPLE)), ..Config::default() });
}

#[test]
fn the_example_holds_every_setting() {
    let example = fs::read_to_string(EXAMPLE).expect("the example is there");
    let uncommented: String = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => {
                format!("{setting}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("c.toml");
    let samples = fs::read_to_string(COLLECTIONS).expect("the sample of collections is there");
    fs::write(folder.path().join("collections.json"), &samples).expect("write");
    fs::write(&file, &uncommented).expect("write");
    let config = Config::load_with(Some(&file), []).expect("every setting is known and its value valid");
    assert_eq!(config.collections.len(), 1 + 6);

    // Any setting the example forgot would be offered here: one unknown key per table lists what there can be.
    let tables = [
        "",
        "store",
        "taxii",
        "xsoar_collections",
        "tls",
        "auth",
        "admin",
        "cors",
        "limits",
        "cache",
        "enrich",
        "sources",
        "log",
    ];
    let tree: toml::Table = uncommented.parse().expect("TOML");
    for table in tables {
        let odd = if table.is_empty() { "qqq = 1".to_owned() } else { format!("[{table}]\nqqq = 1") };
        let said = problems(text(&odd, &[]));
        let offered = said.split_once("here can be: ").expect("a list of settings").1;
        let written = if table.is_empty() { &tree } else { tree[table].as_table().expect("a table") };
        for key in offered.lines().next().expect("a line").split(", ") {
            assert!(written.contains_key(key), "`{key}` of [{table}] is missing in {EXAMPLE}");
        }
    }
    let source = "[[source]]\nname = \"x\"\nurl = \"https://x.example/\"\n";
    let lists = [
        ("collection", "[[collection]]\ntitle = \"x\"\nquery = \"\"\nqqq = 1".to_owned(), &tree["collection"][0]),
        ("source", format!("{source}qqq = 1"), &tree["source"][0]),
        ("source.limits", format!("{source}[source.limits]\nqqq = 1"), &tree["source"][0]["limits"]),
    ];
    for (table, odd, written) in lists {
        let said = problems(text(&odd, &[]));
        let offered = said.split_once("here can be: ").expect("a list of settings").1;
        let written = written.as_table().expect("a table");
        for key in offered.split(", ") {
            assert!(
                written.contains_key(key) || example.contains(&format!("\n# {key} = ")),
                "`{key}` of [[{table}]] is missing in {EXAMPLE}"
            );
        }
    }
    assert_eq!(config.definitions.len(), 1);
}

/// What the documents show works as it stands: settings beside the sample of collections, and curl with brackets.
#[test]
fn the_documents_can_be_followed() {
    for (document, expected) in [("README.md", 6), ("docs/xsoar-configuration.md", 1)] {
        let text = fs::read_to_string(document).expect("the document is there");
        let blocks: Vec<&str> = text
            .split("```")
            .skip(1)
            .step_by(2)
            .filter_map(|block| block.split_once('\n'))
            .map(|(_, text)| text)
            .collect();
        let settings: Vec<&&str> =
            blocks.iter().filter(|block| block.lines().any(|line| line.starts_with('['))).collect();
        assert_eq!(settings.len(), expected, "{document}");
        for block in settings {
            let folder = tempfile::tempdir().expect("folder");
            fs::copy(COLLECTIONS, folder.path().join("collections.json")).expect("copy");
            fs::write(folder.path().join("c.toml"), block).expect("write");
            let config = Config::load_with(Some(&folder.path().join("c.toml")), []);
            config.unwrap_or_else(|error| panic!("{document}: {error}\n{block}"));
        }
        let lines = blocks
            .iter()
            .flat_map(|block| block.split("\ncurl ").map(|command| command.strip_prefix("curl ").unwrap_or(command)));
        for command in lines.filter(|command| command.contains("match[")) {
            assert!(command.starts_with("-g "), "curl takes `[…]` for a pattern without -g: {command}");
        }
    }
}

#[test]
fn a_full_file_reads_as_written() {
    let config = load("tests/config/good/full.toml", &[]).expect("valid");
    let folder = Path::new("tests/config/good");
    assert_eq!(config.serve.listen.to_string(), "127.0.0.1:8443");
    assert_eq!(config.serve.base_url.as_deref(), Some("https://feeds.example.org/intel"));
    assert_eq!(config.serve.default_root(), "feeds");
    assert_eq!((config.serve.title.as_deref(), config.serve.description.as_deref()), (Some("Feeds"), Some("Ours")));
    assert_eq!((config.serve.profile, config.feed.profile), (Profile::Xsoar, Profile::Xsoar));
    assert_eq!(config.serve.versions, [StixVersion::V20]);
    assert_eq!((config.serve.default_version, config.feed.default_version), (StixVersion::V20, StixVersion::V20));
    assert!(config.serve.hsts);
    let tls = TlsFiles {
        client_ca: Some(folder.join("ca.crt")),
        client_crl: Some(folder.join("ca.crl")),
        client_auth: ClientAuth::Required,
        ..TlsFiles::new(folder.join("server.crt"), PathBuf::from("/etc/ssl/server.key"))
    };
    assert_eq!(config.serve.tls, Some(tls));
    assert_eq!(config.serve.auth.users, folder.join("users.json"));
    assert_eq!((config.serve.auth.anonymous, config.serve.auth.anonymous_off_loopback), (Some(true), true));
    assert!(config.serve.plain_http_off_loopback && config.serve.admin_off_loopback);
    for (address, trusted) in [("10.9.9.9", true), ("192.0.2.7", true), ("2001:db8::1", true), ("192.0.2.8", false)] {
        assert_eq!(config.serve.trusts(address.parse().expect("an address")), trusted, "{address}");
    }
    let origins = ["https://soc.example.org", "http://localhost:8080"].map(str::to_owned).to_vec();
    assert_eq!(config.serve.cors, Cors::Origins(origins));
    assert_eq!(config.serve.audit, Some(folder.join("audit.jsonl")));
    let limits = Limits {
        connections: 20,
        connections_per_address: 5,
        concurrent_requests: 10,
        concurrent_requests_per_client: 3,
        requests_per_minute: Some(600),
        url_bytes: 4000,
        headers_bytes: 5000,
        match_values: 6,
        body_bytes: 7000,
        bodies_bytes: 8000,
        body_timeout: Duration::from_secs(9),
        request_timeout: Duration::from_millis(500),
        ..config.serve.limits.clone()
    };
    assert_eq!(config.serve.limits, limits);
    assert_eq!(config.store.location, folder.join("store"));
    assert_eq!(config.store.license_id.as_deref(), Some("test"));
    assert_eq!(config.store.history, Duration::from_secs(14 * 86_400));
    assert_eq!(config.store.id_scheme, Some(IdScheme::Xsoar));
    assert_eq!((config.feed.page_size, config.feed.max_page_size), (500, 5000));
    assert_eq!((config.feed.empty_objects, config.feed.hide_query), (EmptyList::Written, true));
    assert_eq!(config.log, LogOptions { format: LogFormat::Json, level: LogLevel::Warn });

    let titles: Vec<&str> = config.collections.iter().map(|spec| spec.title.as_str()).collect();
    assert_eq!(titles, ["AllIPs", "All", "Sql", "Zebras", "Apes", "Everything"]);
    let ips = &config.collections[0];
    assert_eq!(ips.alias.as_deref(), Some("ips"));
    assert_eq!(ips.id.as_deref(), Some("1cd9cb8e-9a0d-4c5c-a7e3-1d7f3f0a6a51"));
    assert!(ips.indicator_types.contains(StixType::Ipv6Addr) && !ips.indicator_types.contains(StixType::Url));
    assert_eq!(config.collections[2].query, QueryText::Sql("type = 'IP' and score = 3".to_owned()));
    assert!(config.collections[1].indicator_types.contains(StixType::Url));
    // Said for all, said otherwise, and left as the profile has it.
    let [ips, all, sql, zebras] = [0, 1, 2, 3].map(|at| &config.collections[at]);
    assert_eq!([ips.profile, all.profile, zebras.profile], [Some(Profile::Standard), None, None]);
    let named = Some(ExtensionFields::Named(["score", "service", "region"].map(Box::from).into()));
    let every = Some(ExtensionFields::All);
    assert_eq!((&ips.extension_fields, &sql.extension_fields), (&None, &named));
    assert_eq!((&all.extension_fields, &zebras.extension_fields), (&every, &every));
    let none = Relationships { left_out: true, revoked: Some(true) };
    assert_eq!([all.relationships, zebras.relationships], [none; 2]);
    assert_eq!(sql.relationships, Relationships { left_out: false, revoked: Some(false) });
    assert!(zebras.indicator_types.contains(StixType::Url) && !zebras.indicator_types.contains(StixType::File));
    let (apes, everything) = (&config.collections[4], &config.collections[5]);
    assert_eq!((apes.query.as_str(), apes.description.as_deref()), ("tags:ape", Some("Tagged by hand")));
    assert_eq!((everything.query.as_str(), everything.description.as_deref()), ("", None));
}

/// Every `tests/config/bad/*.toml` gives the text of the `.txt` beside it; `UPDATE=1` rewrites those.
#[test]
fn bad_files_give_all_their_problems() {
    let mut seen = 0;
    for entry in fs::read_dir("tests/config/bad").expect("folder") {
        let path = entry.expect("entry").path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        seen += 1;
        let said = problems(load(path.to_str().expect("UTF-8"), &[])) + "\n";
        let expected = path.with_extension("txt");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&expected, &said).expect("write");
        }
        let expected = fs::read_to_string(&expected).expect("the expected text is there");
        assert_eq!(said, expected, "{}", path.display());
    }
    assert!(seen >= 4);
}

#[test]
fn variables_win_over_the_file() {
    let file = "listen = \"127.0.0.1:1\"\n[store]\nlocation = \"file-store\"\nhistory = \"1d\"\n";
    let variables = [
        ("TAXIWAY_LISTEN", "127.0.0.1:2"),
        ("TAXIWAY_STORE__LOCATION", "env-store"),
        ("TAXIWAY_TAXII__PAGE_SIZE", "7"),
        ("TAXIWAY_TAXII__HIDE_QUERY", "true"),
        ("TAXIWAY_TAXII__VERSIONS", "2.1, 2.0"),
        ("TAXIWAY_TAXII__DEFAULT_VERSION", "2.0"),
        ("TAXIWAY_TAXII__PROFILE", "xsoar"),
        ("TAXIWAY_TAXII__INDICATOR_TYPES", "url,file"),
        ("TAXIWAY_TAXII__EXTENSION_FIELDS", "score,tags"),
        ("TAXIWAY_TAXII__RELATIONSHIPS", "false"),
        ("TAXIWAY_CONFIG", "/elsewhere.toml"),
        ("PATH", "/bin"),
    ];
    let config = text(file, &variables).expect("valid");
    assert_eq!(config.serve.listen.port(), 2);
    assert_eq!(config.store.location, PathBuf::from("env-store"));
    assert_eq!(config.serve.auth.users, PathBuf::from("env-store/users.json"));
    assert_eq!(config.store.history, Duration::from_secs(86_400));
    assert_eq!((config.feed.page_size, config.feed.hide_query), (7, true));
    assert_eq!(config.serve.versions, [StixVersion::V20, StixVersion::V21]);
    assert_eq!((config.serve.default_version, config.serve.profile), (StixVersion::V20, Profile::Xsoar));
    let defaults = &config.defaults;
    assert!(
        defaults.indicator_types.contains(StixType::File) && !defaults.indicator_types.contains(StixType::Ipv4Addr)
    );
    let fields = ExtensionFields::Named(["score", "tags"].map(Box::from).into());
    assert_eq!((&defaults.extension_fields, defaults.relationships.left_out), (&Some(fields), true));
    let set: Vec<&str> = variables[..10].iter().map(|(name, _)| *name).collect();
    assert_eq!(config.variables, set);
}

/// What Kubernetes sets in every pod for a Service named `taxiway` is no setting; nothing else goes unnoticed with it.
#[test]
fn variables_of_kubernetes_are_no_settings() {
    let set_by_kubernetes = [
        ("TAXIWAY_SERVICE_HOST", "10.0.0.11"),
        ("TAXIWAY_SERVICE_PORT", "9000"),
        ("TAXIWAY_SERVICE_PORT_HTTP", "9000"),
        ("TAXIWAY_PORT", "tcp://10.0.0.11:9000"),
        ("TAXIWAY_PORT_9000_TCP", "tcp://10.0.0.11:9000"),
        ("TAXIWAY_PORT_9000_TCP_PROTO", "tcp"),
        ("TAXIWAY_PORT_9000_TCP_PORT", "9000"),
        ("TAXIWAY_PORT_9000_TCP_ADDR", "10.0.0.11"),
    ];
    let config = text("", &set_by_kubernetes).expect("valid");
    assert_eq!(config.variables, Vec::<String>::new());
    for (name, value) in [
        ("TAXIWAY_PORT", "9000"),
        ("TAXIWAY_PORTS", "tcp://10.0.0.11:9000"),
        ("TAXIWAY_SERVICE", "x"),
        ("TAXIWAY_SERVICE_HOSTS", "x"),
        ("TAXIWAY_PORT_RANGE", "1-2"),
    ] {
        let said = problems(text("", &[(name, value)]));
        assert!(said.contains(&format!("environment variable {name}: there is no setting")), "{said}");
    }
}

#[test]
fn bad_variables_are_named() {
    let variables = [
        ("TAXIWAY_LISTNE", "127.0.0.1:2"),
        ("TAXIWAY_STORE__HISTORY", "long"),
        ("TAXIWAY_TAXII__PAGE_SIZE", "many"),
        ("TAXIWAY_COLLECTION", "x"),
        ("TAXIWAY_LOG", "json"),
    ];
    let said = problems(text("", &variables));
    let expected = [
        "environment variable TAXIWAY_LISTNE: there is no setting `listne`; did you mean `listen`?",
        "environment variable TAXIWAY_STORE__HISTORY: `store.history` must be a time span such as `90s`, `15m`, `12h` or \
         `30d`, not `long`",
        "environment variable TAXIWAY_TAXII__PAGE_SIZE: `taxii.page_size` must be a whole number from 1 to 10000000, not \
         `many`",
        "environment variable TAXIWAY_COLLECTION: `collection` can be set in the file only",
        "environment variable TAXIWAY_LOG: `log` must be a table, not `json`",
    ];
    for line in expected {
        assert!(said.lines().any(|said| said == line), "{line}\n---\n{said}");
    }
    assert_eq!(said.lines().count(), 1 + expected.len(), "{said}");
}

#[test]
fn a_named_file_must_be_there() {
    let missing = load("tests/config/not-there.toml", &[]);
    assert!(matches!(missing, Err(ConfigError::Read { .. })), "{missing:?}");
}

/// An empty list of fields is none, as it is in the original; case does not matter there either.
#[test]
fn extension_fields_read_as_the_original_has_them() {
    let cases = [
        ("\"none\"", None),
        ("\"\"", None),
        ("[]", None),
        ("\"All\"", Some(ExtensionFields::All)),
        ("[\"ALL\"]", Some(ExtensionFields::All)),
        ("\"tags, score,,tags\"", Some(ExtensionFields::Named(["tags", "score"].map(Box::from).into()))),
    ];
    for (written, expected) in cases {
        let config = text(&format!("[taxii]\nextension_fields = {written}\n"), &[]).expect("valid");
        assert_eq!(config.defaults.extension_fields, expected, "{written}");
    }
}

#[test]
fn the_default_version_is_the_newest_served() {
    for (written, expected) in
        [("[\"2.0\"]", StixVersion::V20), ("[\"2.1\"]", StixVersion::V21), ("[\"2.1\", \"2.0\"]", StixVersion::V21)]
    {
        let config = text(&format!("[taxii]\nversions = {written}\n"), &[]).expect("valid");
        assert_eq!(config.serve.default_version, expected, "{written}");
    }
}

#[test]
fn sources_are_read_and_every_problem_said() {
    let folder = tempfile::tempdir().expect("folder");
    fs::write(folder.path().join("secret"), "from-file\nrest").expect("write");
    let file = folder.path().join("c.toml");
    let load = |text: &str| {
        fs::write(&file, text).expect("write");
        Config::load_with(Some(&file), [])
    };
    let config = load(
        "[sources]\nenabled = false\nkey_file = \"k\"\nat_once = 5\n\
         [[source]]\nname = \"A\"\nurl = \"https://ann:pw@a.example/taxii2/?k=v\"\nbegin = \"6mo\"\ninterval = \"manual\"\n\
         [[source]]\nname = \"B\"\nurl = \"http://b.example/\"\nversion = \"1\"\ntoken_file = \"secret\"\nscore = \"bad\"\n\
         certificate = \"c.pem\"\nprivate_key = \"c.key\"\ncollections = \"one\"\n[source.limits]\nread_timeout = \"90s\"\n",
    )
    .expect("valid");
    assert!(!config.sources.enabled);
    assert_eq!((config.sources.at_once, &config.sources.key_file), (5, &Some(folder.path().join("k"))));
    let [a, b] = config.definitions.as_slice() else { panic!("two sources") };
    assert_eq!((a.interval, a.begin.map(|span| span.to_string()).as_deref()), (None, Some("6 months")));
    assert!(matches!(&a.credentials, Credentials::Basic { username, .. } if username == "ann"));
    assert_eq!(a.url.as_str(), "https://a.example/taxii2/?k=v");
    assert!(matches!(&b.credentials, Credentials::Bearer(token) if token.reveal() == "from-file"));
    assert_eq!((b.score, b.limits.read_timeout, b.version.as_str()), (Some(3), Some(90), "1"));
    assert_eq!(b.collections, ["one"]);
    assert!(!format!("{config:?}").contains("from-file"));

    let said = problems(load(
        "[[source]]\nurl = \"nowhere\"\n[[source]]\nname = \"C\"\nurl = \"https://c.example/\"\nusername = \"x\"\n\
         token = \"t\"\nbegin = \"soon\"\ncertificate = \"c.pem\"\npage_size = 0\napi_key_file = \"missing\"\n\
         [[source]]\nname = \"D\"\nurl = \"ftp://d.example/\"\n[[source]]\nname = \"E\"\nurl = \"https://e.example/\"\n\
         [[source]]\nname = \"e\"\nurl = \"https://f.example/\"\ntoken_env = \"TAXIWAY_TEST_UNSET\"\n",
    ));
    for part in [
        "no `name`",
        "`source.url` is no URL",
        "keep one of them",
        "`source.begin` must be a time span",
        "go together",
        "`source.page_size`",
        "missing",
        "source `D`: `url` must begin",
        "there is a source `E` already",
        "`TAXIWAY_TEST_UNSET` is not set",
    ] {
        assert!(said.contains(part), "{part}:\n{said}");
    }
}
