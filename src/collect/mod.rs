//! What taxiway does with other people's servers: which sources there are, when each is fetched, and what became of it.

pub(crate) mod disk;
pub mod seal;
