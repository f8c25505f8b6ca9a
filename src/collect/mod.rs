//! What taxiway does with other people's servers: which sources there are, when each is fetched, and what became of it.

mod definition;
pub(crate) mod disk;
pub mod files;
mod log;
mod registry;
mod run;
mod schedule;
pub mod seal;

pub use definition::{
    Definition, FieldError, IdentityFiles, Limits, MASK, Material, Span, Spoken, Unit, id_of_name, is_id, new_id,
};
pub use log::{CollectionReport, Known, Outcome, Report, State, Trigger, reports, state};
pub use registry::{FOLDER, Origin, Registry, RegistryError, Source};
pub use run::{CollectError, Collector, Kept, Progress, Request, Standing, is_running};
pub use schedule::{Scheduler, Watched, due};
