//! What can go wrong in the store. Every variant names the file or folder it is about.

use std::io;

/// Errors of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing a file failed: permission, full disk, broken device.
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        /// What was tried: `read`, `write`, …
        action: &'static str,
        /// The file or folder.
        path: String,
        /// The system's own words.
        source: io::Error,
    },
    /// An object store answered with an error.
    #[error("cannot {action} `{path}` in the object store: {source}")]
    Object {
        /// What was tried.
        action: &'static str,
        /// The object.
        path: String,
        /// The object store's own words.
        source: object_store::Error,
    },
    /// A file of the store is not what was written.
    #[error(
        "`{path}` is damaged: {detail}; restore it from a backup or a replica, or import the data into a new store"
    )]
    Damaged {
        /// The bad file.
        path: String,
        /// What does not fit.
        detail: String,
    },
    /// The folder holds no store.
    #[error("`{path}` holds no taxiway store; `taxiway import` and `taxiway serve` make one")]
    Missing {
        /// The location.
        path: String,
    },
    /// The folder holds something else.
    #[error("`{path}` is not empty and holds no taxiway store (no `store.json`); give an empty or a new folder")]
    NotAStore {
        /// The location.
        path: String,
    },
    /// The store was written by a newer taxiway.
    #[error(
        "the store `{path}` has {what} version {found}, this taxiway knows up to {known}; use the newer taxiway that wrote it"
    )]
    Newer {
        /// The location.
        path: String,
        /// `schema` or `format`.
        what: &'static str,
        /// Version found.
        found: u32,
        /// Newest version known here.
        known: u32,
    },
    /// A property fixed at creation is asked to be another one.
    #[error(
        "the store `{path}` was made with {property} `{found}`, the configuration says `{asked}`; it is fixed at creation because ids depend on it"
    )]
    PropertyDiffers {
        /// The location.
        path: String,
        /// Name of the property.
        property: &'static str,
        /// Value in the store.
        found: String,
        /// Value in the configuration.
        asked: String,
    },
    /// Another process writes.
    #[error(
        "another process is writing to the store `{path}` and did not finish within {waited_s} s; wait for it or stop it"
    )]
    Locked {
        /// The location.
        path: String,
        /// Seconds waited.
        waited_s: u64,
    },
    /// Another writer published the version this writer prepared.
    #[error(
        "another writer published version {version} of the store `{path}` at the same time; nothing of this batch was committed, try again"
    )]
    Conflict {
        /// The location.
        path: String,
        /// The version both wanted.
        version: u64,
    },
    /// The URL scheme of a location is not supported by this build.
    #[error("store locations of the kind `{scheme}` are not supported by this build; use a folder")]
    Scheme {
        /// The scheme.
        scheme: String,
    },
    /// Parquet could not be read or written.
    #[error("cannot {action} segment `{path}`: {source}")]
    Parquet {
        /// What was tried.
        action: &'static str,
        /// The segment's file.
        path: String,
        /// The library's own words.
        source: parquet::errors::ParquetError,
    },
    /// An Arrow kernel failed.
    #[error("cannot process records: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    /// DataFusion failed.
    #[error("query engine: {0}")]
    Engine(#[from] datafusion::error::DataFusionError),
}

impl StoreError {
    #[expect(clippy::needless_pass_by_value, reason = "paths and details are made where they are passed")]
    pub(crate) fn io(action: &'static str, path: impl ToString) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.to_string();
        move |source| StoreError::Io { action, path, source }
    }

    #[expect(clippy::needless_pass_by_value, reason = "paths and details are made where they are passed")]
    pub(crate) fn damaged(path: impl ToString, detail: impl ToString) -> StoreError {
        StoreError::Damaged { path: path.to_string(), detail: detail.to_string() }
    }
}
