//! `taxiway sql`.

use std::sync::Arc;

use clap::Args;
use datafusion::execution::context::SQLOptions;
use futures::StreamExt;

use super::output::{self, Batches, say};
use super::place::{Place, start_log, store_options};
use super::query::session;
use super::{CliError, Outcome};
use crate::store::{IndicatorTable, Store};

/// Run a SQL query over the store.
///
/// Tables: `indicators` (the newest version of every record) and `versions` (superseded ones as well). `json_match` and `list_match`
/// are the functions that indicator queries compile to. The store cannot be changed this way.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  taxiway sql 'SELECT type, count(*) FROM indicators GROUP BY type'\n  taxiway sql 'DESCRIBE indicators'"
)]
pub(super) struct SqlArgs {
    /// The query.
    #[arg(allow_hyphen_values = true)]
    sql: String,
    #[command(flatten)]
    place: Place,
    /// Form of the result.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    output: output::Format,
}

pub(super) fn run(args: &SqlArgs) -> Result<Outcome, CliError> {
    let config = args.place.config()?;
    start_log(&config, Some("warn"));
    let store = Store::open(store_options(&config))?;
    let snapshot = store.snapshot()?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let context = session(cores);
    context.register_table("indicators", Arc::new(IndicatorTable::live(Arc::clone(&snapshot))))?;
    context.register_table("versions", Arc::new(IndicatorTable::all_versions(snapshot)))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        let frame = context.sql_with_options(&args.sql, read_only).await?;
        let mut stream = frame.execute_stream().await?;
        let mut batches = Batches::begin(args.output, stream.schema())?;
        while let Some(batch) = stream.next().await {
            batches.print(&batch?)?;
        }
        if batches.rows() == 0 && args.output == output::Format::Table {
            say("no rows")?;
        }
        Ok(Outcome::Done)
    })
}
