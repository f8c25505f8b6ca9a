//! The vocabulary every other module speaks: columns, kinds, identifiers, time, words. No IO, no async.

pub mod ids;
pub mod json;
pub mod kind;
pub mod schema;
pub mod time;
pub mod words;
