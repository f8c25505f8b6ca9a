//! cli

pub(crate) mod config;
pub(crate) mod user;
