//! Paths of the API, read segment by segment: several of them name different things by different methods, and end in names
//! that clients chose.

use axum::http::Method;

use crate::collect::files::{Storage, check_label};
use crate::serve::parameters::decode;

const SOURCE: &str = "StixTaxiiEnrichmentSource";
/// Words of the paths, which no pool or installation can be called.
const WORDS: [&str; 9] =
    ["PluginConfiguration", "Uploads", "Plugins", SOURCE, "PublicUpload", "publicupload", "upload", "list", "orders"];
/// Stands in the paths of orders for the pool of what is everybody's.
pub(super) const PUBLIC_POOL: &str = "public";
/// Stands there for the installation of what belongs to a pool.
pub(super) const NO_INSTALLATION: &str = "uploads";

/// One installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Installed {
    pub(super) pool: String,
    pub(super) logpoint: String,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    UploadCertificate(Storage),
    ListCertificates(Storage),
    DeleteCertificate(Storage, String),
    CreateSource(Installed),
    EditSource(Installed, String),
    DeleteSource(Installed, String),
    ListSources(Installed),
    ShowSource(Installed, String),
    General(Installed),
    RefreshList(Installed),
    ShowOrder(Installed, String),
    UploadPackage(Storage),
    ListPackages(Storage),
    TrashPackage(Storage, String),
    Install(Installed),
    ListPlugins(Installed),
    Uninstall(Installed, String),
}

/// Why a path and a method name nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Nothing {
    /// There is nothing at this path.
    Path,
    /// A pool or installation cannot be called so.
    Label(String, &'static str),
    /// There are these methods only.
    Method(String),
}

/// What a request asks for.
pub(super) fn read(method: &Method, path: &str) -> Result<Call, Nothing> {
    let bare = path.strip_prefix('/').unwrap_or(path);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    let segments: Option<Vec<String>> = bare.split('/').map(|segment| Some(decode(segment)?.into_owned())).collect();
    let segments = segments.ok_or(Nothing::Path)?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let calls = calls(&segments)?;
    let wanted = if method == Method::HEAD { &Method::GET } else { method };
    if calls.is_empty() {
        return Err(Nothing::Path);
    }
    let allowed: Vec<&str> = calls.iter().map(|(method, _)| method.as_str()).collect();
    let allowed = allowed.join(", ");
    let found = calls.into_iter().find(|(method, _)| method == wanted);
    found.map(|(_, call)| call).ok_or(Nothing::Method(allowed))
}

/// Everything there is at a path.
fn calls(segments: &[&str]) -> Result<Vec<(Method, Call)>, Nothing> {
    let [api, rest @ ..] = segments else { return Ok(Vec::new()) };
    match *api {
        "configapi" => {}
        "monitorapi" => {
            return match rest {
                [pool, logpoint, "orders", id] => {
                    Ok(vec![(Method::GET, Call::ShowOrder(installed(pool, logpoint)?, (*id).to_owned()))])
                }
                _ => Ok(Vec::new()),
            };
        }
        _ => return Ok(Vec::new()),
    }
    match rest {
        ["PluginConfiguration", SOURCE, name] => Ok(certificates(Storage::Public, name, "publicupload")),
        ["Uploads", rest @ ..] => uploads(rest),
        [pool, "PluginConfiguration", SOURCE, name] => Ok(certificates(private(pool)?, name, "upload")),
        [pool, logpoint, "PluginConfiguration", rest @ ..] => {
            let at = installed(pool, logpoint)?;
            Ok(match rest {
                [SOURCE] => vec![(Method::POST, Call::CreateSource(at))],
                ["Ti_stixtaxii"] => vec![(Method::GET, Call::ListSources(at))],
                ["Ti_stixtaxii", id] => vec![(Method::GET, Call::ShowSource(at, (*id).to_owned()))],
                ["Ti_general"] => vec![(Method::GET, Call::General(at))],
                [SOURCE, "refreshlist"] => vec![(Method::POST, Call::RefreshList(at))],
                [SOURCE, id] => vec![
                    (Method::PUT, Call::EditSource(at.clone(), (*id).to_owned())),
                    (Method::DELETE, Call::DeleteSource(at, (*id).to_owned())),
                ],
                _ => Vec::new(),
            })
        }
        [pool, logpoint, "Plugins"] => Ok(vec![(Method::GET, Call::ListPlugins(installed(pool, logpoint)?))]),
        [pool, logpoint, "Plugins", id] => {
            Ok(vec![(Method::DELETE, Call::Uninstall(installed(pool, logpoint)?, (*id).to_owned()))])
        }
        _ => Ok(Vec::new()),
    }
}

fn certificates(storage: Storage, name: &str, upload: &str) -> Vec<(Method, Call)> {
    let mut calls = Vec::new();
    if name == upload {
        calls.push((Method::POST, Call::UploadCertificate(storage.clone())));
    }
    if name == "list" {
        calls.push((Method::GET, Call::ListCertificates(storage.clone())));
    }
    calls.push((Method::DELETE, Call::DeleteCertificate(storage, name.to_owned())));
    calls
}

fn uploads(rest: &[&str]) -> Result<Vec<(Method, Call)>, Nothing> {
    let mut calls = Vec::new();
    match rest {
        [name] => {
            if *name == "PublicUpload" {
                calls.push((Method::POST, Call::UploadPackage(Storage::Public)));
            } else if *name == "list" {
                calls.push((Method::GET, Call::ListPackages(Storage::Public)));
            } else if let Ok(storage) = private(name) {
                calls.push((Method::POST, Call::UploadPackage(storage)));
            }
            calls.push((Method::DELETE, Call::TrashPackage(Storage::Public, (*name).to_owned())));
        }
        [pool, name] => {
            let storage = private(pool)?;
            if *name == "list" {
                calls.push((Method::GET, Call::ListPackages(storage.clone())));
            }
            calls.push((Method::DELETE, Call::TrashPackage(storage, (*name).to_owned())));
        }
        [pool, logpoint, "install"] => calls.push((Method::POST, Call::Install(installed(pool, logpoint)?))),
        _ => {}
    }
    Ok(calls)
}

fn private(pool: &str) -> Result<Storage, Nothing> {
    Ok(Storage::Private(label(pool)?))
}

fn installed(pool: &str, logpoint: &str) -> Result<Installed, Nothing> {
    Ok(Installed { pool: label(pool)?, logpoint: label(logpoint)? })
}

/// The name of a pool or installation.
fn label(text: &str) -> Result<String, Nothing> {
    let refused = |reason| Nothing::Label(text.chars().take(64).flat_map(char::escape_debug).collect(), reason);
    check_label(text).map_err(refused)?;
    if WORDS.contains(&text) {
        return Err(refused("is a word of the API's paths"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::*;

    fn at() -> Installed {
        Installed { pool: "p-1".to_owned(), logpoint: "l_2".to_owned() }
    }

    fn of_pool() -> Storage {
        Storage::Private("p-1".to_owned())
    }

    #[test]
    fn every_call_of_the_table_is_found() {
        let id = || "5c81f48e10959135395cabea".to_owned();
        let name = |name: &str| name.to_owned();
        let source = "PluginConfiguration/StixTaxiiEnrichmentSource";
        let cases = [
            ("POST", format!("/configapi/p-1/{source}/upload"), Call::UploadCertificate(of_pool())),
            ("POST", format!("/configapi/{source}/publicupload"), Call::UploadCertificate(Storage::Public)),
            ("GET", format!("/configapi/p-1/{source}/list"), Call::ListCertificates(of_pool())),
            ("GET", format!("/configapi/{source}/list"), Call::ListCertificates(Storage::Public)),
            (
                "DELETE",
                format!("/configapi/p-1/{source}/a%20b.crt"),
                Call::DeleteCertificate(of_pool(), name("a b.crt")),
            ),
            ("DELETE", format!("/configapi/{source}/list"), Call::DeleteCertificate(Storage::Public, name("list"))),
            ("POST", format!("/configapi/p-1/l_2/{source}"), Call::CreateSource(at())),
            ("PUT", format!("/configapi/p-1/l_2/{source}/{}", id()), Call::EditSource(at(), id())),
            ("DELETE", format!("/configapi/p-1/l_2/{source}/{}/", id()), Call::DeleteSource(at(), id())),
            ("GET", "/configapi/p-1/l_2/PluginConfiguration/Ti_stixtaxii".to_owned(), Call::ListSources(at())),
            ("HEAD", "/configapi/p-1/l_2/PluginConfiguration/Ti_general".to_owned(), Call::General(at())),
            ("POST", format!("/configapi/p-1/l_2/{source}/refreshlist"), Call::RefreshList(at())),
            ("GET", format!("/monitorapi/p-1/l_2/orders/{}", id()), Call::ShowOrder(at(), id())),
            ("POST", "/configapi/Uploads/p-1/".to_owned(), Call::UploadPackage(of_pool())),
            ("POST", "/configapi/Uploads/PublicUpload".to_owned(), Call::UploadPackage(Storage::Public)),
            ("GET", "/configapi/Uploads/p-1/list".to_owned(), Call::ListPackages(of_pool())),
            ("GET", "/configapi/Uploads/list".to_owned(), Call::ListPackages(Storage::Public)),
            ("POST", "/configapi/Uploads/p-1/l_2/install".to_owned(), Call::Install(at())),
            ("GET", "/configapi/p-1/l_2/Plugins".to_owned(), Call::ListPlugins(at())),
            ("DELETE", format!("/configapi/p-1/l_2/Plugins/{}", id()), Call::Uninstall(at(), id())),
            ("DELETE", "/configapi/Uploads/p-1/x.pak".to_owned(), Call::TrashPackage(of_pool(), name("x.pak"))),
            ("DELETE", "/configapi/Uploads/x.pak".to_owned(), Call::TrashPackage(Storage::Public, name("x.pak"))),
        ];
        for (method, path, call) in cases {
            assert_eq!(read(&method.parse().unwrap(), &path), Ok(call), "{method} {path}");
        }
    }

    #[test]
    fn what_is_not_there_says_why() {
        let cases = [
            ("GET", "/configapi", Nothing::Path),
            ("GET", "/", Nothing::Path),
            ("GET", "/configapi/p-1/l_2/PluginConfiguration/Ti_other", Nothing::Path),
            ("GET", "/configapi/%zz/list", Nothing::Path),
            (
                "PATCH",
                "/configapi/p-1/l_2/PluginConfiguration/StixTaxiiEnrichmentSource/x",
                Nothing::Method("PUT, DELETE".to_owned()),
            ),
            ("PUT", "/configapi/Uploads/p-1", Nothing::Method("POST, DELETE".to_owned())),
        ];
        for (method, path, nothing) in cases {
            assert_eq!(read(&method.parse().unwrap(), path), Err(nothing), "{method} {path}");
        }
        for path in [
            "/configapi/..%2Fx/l/Plugins",
            "/configapi/p/%2e%2e/Plugins",
            "/configapi/Uploads//l/install",
            "/configapi/p/Uploads/Plugins",
        ] {
            assert!(matches!(read(&Method::GET, path), Err(Nothing::Label(..))), "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "/(configapi|monitorapi)(/(Uploads|list|p|%2[ef]|StixTaxiiEnrichmentSource|PluginConfiguration|Plugins|.{0,3})){0,6}") {
            for method in [Method::GET, Method::POST, Method::DELETE] {
                let _ = read(&method, &path);
            }
        }
    }
}
