//! What is installed where. The enrichment source is built in, so an installation has it until a package is uninstalled
//! there, and again once one is installed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::collect::disk;
use crate::collect::new_id;
use crate::serve::manage::orders::seconds_now;

/// Most packages of one installation.
const MAX_PLUGINS: usize = 100;

/// A package that is installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plugin {
    /// 24 hexadecimal digits; uninstalling needs it.
    pub(super) id: String,
    /// What stands before the version in the name of the file.
    pub(super) name: String,
    pub(super) version: String,
    pub(super) file_name: String,
    pub(super) file_location: String,
    pub(super) application_type: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
    /// Seconds since 1970.
    pub(super) installed: i64,
}

/// What is installed on one installation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Installation {
    /// Whether the source was switched off here.
    #[serde(default)]
    pub(super) off: bool,
    pub(super) plugins: Vec<Plugin>,
}

/// A package that is to be installed.
#[derive(Clone, Debug)]
pub(super) struct Package<'a> {
    pub(super) file_name: &'a str,
    pub(super) file_location: &'a str,
    pub(super) application_type: &'a str,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// Why nothing was installed or uninstalled.
#[derive(Debug, thiserror::Error)]
pub(super) enum InstallError {
    #[error("no package with the id `{0}` is installed")]
    Unknown(String),
    #[error("{MAX_PLUGINS} packages are installed; uninstall one first")]
    TooMany,
    #[error("keep what is installed")]
    Io(#[from] io::Error),
}

/// All installations.
#[derive(Debug)]
pub(super) struct Installations {
    folder: PathBuf,
    changing: Mutex<()>,
}

impl Installations {
    /// Those below the folder of sources.
    pub(super) fn new(sources: &Path) -> Self {
        Self { folder: sources.join("installations"), changing: Mutex::default() }
    }

    /// One of them; names are checked by whoever asks.
    pub(super) fn get(&self, pool: &str, logpoint: &str) -> io::Result<Installation> {
        match fs::read(self.path(pool, logpoint)) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("not as it was written: {error}"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Installation::default()),
            Err(error) => Err(error),
        }
    }

    /// Installs a package, in place of another version of it, and switches the source on. On disk when this returns.
    pub(super) fn install(&self, pool: &str, logpoint: &str, package: &Package<'_>) -> Result<Plugin, InstallError> {
        let _alone = self.changing.lock();
        let mut installation = self.get(pool, logpoint)?;
        let (name, version) = name_and_version(package.file_name);
        let is_full = installation.plugins.len() >= MAX_PLUGINS;
        let known = installation.plugins.iter_mut().find(|plugin| plugin.name.eq_ignore_ascii_case(name));
        let plugin = Plugin {
            id: known.as_ref().map_or_else(new_id, |plugin| plugin.id.clone()),
            name: name.to_owned(),
            version: version.to_owned(),
            file_name: package.file_name.to_owned(),
            file_location: package.file_location.to_owned(),
            application_type: package.application_type.to_owned(),
            bytes: package.bytes,
            sha256: package.sha256.clone(),
            installed: seconds_now(),
        };
        match known {
            Some(known) => *known = plugin.clone(),
            None if is_full => return Err(InstallError::TooMany),
            None => installation.plugins.push(plugin.clone()),
        }
        installation.off = false;
        self.put(pool, logpoint, &installation)?;
        Ok(plugin)
    }

    /// Uninstalls a package; with the last one goes the source. On disk when this returns.
    pub(super) fn uninstall(&self, pool: &str, logpoint: &str, id: &str) -> Result<Plugin, InstallError> {
        let _alone = self.changing.lock();
        let mut installation = self.get(pool, logpoint)?;
        let at = installation.plugins.iter().position(|plugin| plugin.id == id);
        let at = at.ok_or_else(|| InstallError::Unknown(id.chars().take(64).collect()))?;
        let plugin = installation.plugins.remove(at);
        installation.off = installation.plugins.is_empty();
        self.put(pool, logpoint, &installation)?;
        Ok(plugin)
    }

    fn put(&self, pool: &str, logpoint: &str, installation: &Installation) -> io::Result<()> {
        disk::replace_private(&self.path(pool, logpoint), &serde_json::to_vec_pretty(installation)?)
    }

    fn path(&self, pool: &str, logpoint: &str) -> PathBuf {
        self.folder.join(pool).join(format!("{logpoint}.json"))
    }
}

/// `StixTaxii_6.2.0.pak`: `StixTaxii` and `6.2.0`.
fn name_and_version(file_name: &str) -> (&str, &str) {
    let bare = match file_name.rsplit_once('.') {
        Some((bare, ending)) if !bare.is_empty() && !ending.bytes().all(|byte| byte.is_ascii_digit()) => bare,
        _ => file_name,
    };
    match bare.rsplit_once(['_', '-']) {
        Some((name, version)) if !name.is_empty() && version.starts_with(|c: char| c.is_ascii_digit()) => {
            (name, version)
        }
        _ => (bare, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(file_name: &str) -> Package<'_> {
        let (file_location, application_type) = ("private", "Application");
        Package { file_name, file_location, application_type, bytes: 3, sha256: "00".to_owned() }
    }

    #[test]
    fn what_is_uninstalled_is_off_until_it_is_installed_again() {
        let folder = tempfile::tempdir().unwrap();
        let all = Installations::new(folder.path());
        assert_eq!(all.get("p", "l").unwrap(), Installation::default(), "it is built in, so it is on");
        let first = all.install("p", "l", &package("StixTaxii_6.1.0.pak")).unwrap();
        let newer = all.install("p", "l", &package("stixtaxii_6.2.0.pak")).unwrap();
        assert_eq!((&first.id, &*newer.version), (&newer.id, "6.2.0"), "one package, two versions");
        let other = all.install("p", "l", &package("Other.pak")).unwrap();
        assert_eq!(all.get("p", "l").unwrap().plugins, [newer.clone(), other.clone()]);
        assert_eq!(all.get("p", "m").unwrap(), Installation::default());
        all.uninstall("p", "l", &newer.id).unwrap();
        assert!(!all.get("p", "l").unwrap().off);
        assert!(matches!(all.uninstall("p", "l", &newer.id), Err(InstallError::Unknown(_))));
        all.uninstall("p", "l", &other.id).unwrap();
        let again = Installations::new(folder.path());
        assert!(again.get("p", "l").unwrap().off);
        again.install("p", "l", &package("StixTaxii_6.2.0.pak")).unwrap();
        assert!(!again.get("p", "l").unwrap().off);
    }

    #[test]
    fn names_of_files_hold_versions() {
        for (file, name, version) in [
            ("StixTaxii_6.2.0.pak", "StixTaxii", "6.2.0"),
            ("StixTaxii.pak", "StixTaxii", ""),
            ("Stix_Taxii-6.pak", "Stix_Taxii", "6"),
            ("Stix_Taxii.pak", "Stix_Taxii", ""),
            ("StixTaxii_6.2.0", "StixTaxii", "6.2.0"),
            ("_6.pak", "_6", ""),
            ("x", "x", ""),
        ] {
            assert_eq!(name_and_version(file), (name, version), "{file}");
        }
    }
}
