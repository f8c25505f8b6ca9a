//! What can go wrong between us and somebody else's server, and what the reader should do about it.
//!
//! URLs are shown without user, password and query. What a server says is cut, stripped of control characters and of
//! whatever we keep secret.

use std::time::Duration;

use crate::source::options::Version;

/// Why nothing was fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// A setting of the source that cannot be used.
    #[error("`{setting}` {reason}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// No connection, or one that ended too early.
    #[error("no answer from `{url}`: {reason}")]
    Connect {
        /// Where to.
        url: String,
        /// What happened and what to do.
        reason: String,
    },
    /// Certificates that do not fit.
    #[error("no trust between us and `{url}`: {reason}")]
    Trust {
        /// Where to.
        url: String,
        /// What happened and what to do.
        reason: String,
    },
    /// The server was silent too long.
    #[error("`{url}` took too long: {reason}")]
    Timeout {
        /// Where to.
        url: String,
        /// Which limit.
        reason: String,
    },
    /// An answer that ends before it is complete.
    #[error("the answer of `{url}` ends half-way ({reason}); nothing of it was kept")]
    Truncated {
        /// Where from.
        url: String,
        /// How that shows.
        reason: String,
    },
    /// An answer beyond a limit.
    #[error(
        "the answer of `{url}` is larger than {limit} bytes; raise the size limit of the source, or ask for smaller pages"
    )]
    TooLarge {
        /// Where from.
        url: String,
        /// The limit.
        limit: u64,
    },
    /// Credentials are missing or wrong.
    #[error(
        "`{url}` does not accept who we are ({detail}); check user, password, key or client certificate of the source"
    )]
    Unauthorized {
        /// Where to.
        url: String,
        /// Status, and what the server said.
        detail: String,
    },
    /// Credentials are good, but not for this.
    #[error("`{url}` refuses ({detail}); ask its operator for access, or leave this collection out")]
    Forbidden {
        /// Where to.
        url: String,
        /// Status, and what the server said.
        detail: String,
    },
    /// There is nothing at that place.
    #[error("there is nothing at `{url}` ({detail}); check the URL, and look at the collections anew")]
    NotFound {
        /// Where to.
        url: String,
        /// Status, and what the server said.
        detail: String,
    },
    /// The server has too much to do, or asks to come back.
    #[error("`{url}` asks to wait ({detail}){}", wait_text(*.wait))]
    Busy {
        /// Where to.
        url: String,
        /// Status, and what the server said.
        detail: String,
        /// How long, if it says so.
        wait: Option<Duration>,
    },
    /// Any other status.
    #[error("`{url}` answered {status}{}", said(.detail))]
    Status {
        /// Where to.
        url: String,
        /// HTTP status.
        status: u16,
        /// What the server said.
        detail: String,
    },
    /// A redirect that is not followed.
    #[error("`{url}` sends us to `{target}`, which is not followed: {reason}")]
    Redirect {
        /// Where from.
        url: String,
        /// Where to.
        target: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// A status message of TAXII 1.x, other than those above.
    #[error("`{url}` answered with TAXII status {status}{}; {advice}", said(.detail))]
    Refused {
        /// Where to.
        url: String,
        /// `@status_type`.
        status: String,
        /// What the server said.
        detail: String,
        /// What to do.
        advice: &'static str,
    },
    /// Something else answers there.
    #[error("`{url}` does not speak TAXII {}: {reason}", versions(.version))]
    NotTaxii {
        /// Where to.
        url: String,
        /// The version asked for; none: any.
        version: Option<Version>,
        /// How that shows, and what to do.
        reason: String,
    },
    /// The server repeats itself.
    #[error("`{url}` does not get on: {reason}")]
    NoProgress {
        /// Where to.
        url: String,
        /// How that shows, and what to do.
        reason: String,
    },
    /// No such collection.
    #[error("no collection `{name}` at `{url}`; it has {known}")]
    NoCollection {
        /// Where.
        url: String,
        /// As asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A stored place that cannot be read.
    #[error("the stored place of collection `{collection}` cannot be used ({reason}); fetch it from the start")]
    Place {
        /// Whose.
        collection: String,
        /// Why.
        reason: String,
    },
    /// The disk on which answers wait.
    #[error("cannot keep an answer in `{folder}`: {reason}; make room there, or set another folder")]
    Spool {
        /// Where.
        folder: String,
        /// What happened.
        reason: String,
    },
}

impl SourceError {
    /// Whether the same request may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            SourceError::Connect { .. }
            | SourceError::Timeout { .. }
            | SourceError::Truncated { .. }
            | SourceError::Busy { .. } => true,
            SourceError::Status { status, .. } => *status == 408 || *status == 425 || *status >= 500 && *status != 501,
            SourceError::Refused { status, .. } => matches!(status.as_str(), "FAILURE" | "NETWORK_ERROR" | "PENDING"),
            _ => false,
        }
    }

    /// How long the server asked to be left alone.
    pub fn wait(&self) -> Option<Duration> {
        match self {
            SourceError::Busy { wait, .. } => *wait,
            _ => None,
        }
    }

    /// Whether no other version, spelling or address would fare better.
    pub(super) fn is_final(&self) -> bool {
        matches!(
            self,
            SourceError::Setting { .. }
                | SourceError::Connect { .. }
                | SourceError::Trust { .. }
                | SourceError::Timeout { .. }
                | SourceError::Unauthorized { .. }
                | SourceError::Busy { .. }
                | SourceError::TooLarge { .. }
                | SourceError::Spool { .. }
        )
    }

    /// Whether the request may have reached the server, so that a server that keeps state has moved on.
    pub(super) fn may_have_arrived(&self) -> bool {
        match self {
            SourceError::Timeout { .. } | SourceError::Truncated { .. } | SourceError::Connect { .. } => true,
            SourceError::Status { status, .. } => *status >= 500,
            _ => false,
        }
    }

    pub(super) fn setting(setting: &'static str, reason: impl Into<String>) -> Self {
        SourceError::Setting { setting, reason: reason.into() }
    }
}

fn wait_text(wait: Option<Duration>) -> String {
    match wait {
        Some(wait) => format!("; it names {} s", wait.as_secs()),
        None => "; try again later, or fetch less often".to_owned(),
    }
}

fn said(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

fn versions(version: &Option<Version>) -> String {
    version.map_or_else(|| "1.x or 2.x".to_owned(), |version| version.to_string())
}

/// What a server says, fit for a message: one line, no control characters, at most 200 characters.
pub(super) fn quoted(text: &str) -> String {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    let mut line = words.join(" ");
    if let Some((end, _)) = line.char_indices().nth(200) {
        line.truncate(end);
        line.push_str("...");
    }
    line
}
