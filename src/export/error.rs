//! Why there is no export.

use std::io;
use std::path::{Path, PathBuf};

use crate::feed::api::FeedError;
use crate::render::RenderError;
use crate::runtime::Unfinished;

/// Why an export ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The rows could not be had.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// A file could not be written.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// What is there is not ours to replace.
    #[error("`{}` {what}; name another place, or replace it with `--force`", path.display())]
    NotOurs {
        /// The file or folder.
        path: PathBuf,
        /// Why it is left alone.
        what: String,
    },
    /// The manifest cannot be believed.
    #[error("`{}` cannot be used: {reason}; remove it, or begin anew with `--force`", path.display())]
    BadManifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process exports to the same place.
    #[error("another export to `{}` is running; wait for it, or name another place", path.display())]
    Running {
        /// The place.
        path: PathBuf,
    },
    /// What was asked for does not go together.
    #[error("{0}")]
    Request(String),
    /// The work itself failed.
    #[error("{what}: {reason}")]
    Internal {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        reason: String,
    },
}

impl ExportError {
    /// Makes one of a failure of the file system.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| ExportError::Io { action, path, source }
    }

    /// Makes one of any other failure.
    pub(super) fn internal<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| ExportError::Internal { what, reason: error.to_string() }
    }
}

impl From<Unfinished> for ExportError {
    fn from(source: Unfinished) -> Self {
        ExportError::Feed(source.into())
    }
}

impl From<RenderError> for ExportError {
    fn from(source: RenderError) -> Self {
        ExportError::internal("render rows")(source)
    }
}
