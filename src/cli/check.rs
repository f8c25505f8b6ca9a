//! `taxiway check`.

use clap::Args;
use serde_json::json;

use super::output::{self, complain, grouped, say};
use super::place::{Place, start_log, store_options};
use super::{CliError, Outcome};
use crate::store::Store;

/// Verify the store: checksums, order, counts, indexes, and that no record is there twice.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taxiway check --store /var/lib/taxiway")]
pub(super) struct CheckArgs {
    #[command(flatten)]
    place: Place,
    /// Form of the result.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    output: output::Form,
}

pub(super) fn run(args: &CheckArgs) -> Result<Outcome, CliError> {
    let config = args.place.config()?;
    start_log(&config, Some("warn"));
    let store = Store::open(store_options(&config))?;
    let report = store.check(|path| tracing::info!(path, "checking"))?;
    let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    if args.output == output::Form::Table {
        problems.iter().for_each(|problem| complain(&format!("error: {problem}")));
        let verdict = if problems.is_empty() { "ok" } else { "damaged" };
        say(&format!(
            "{verdict}: version {}, {} records in {} rows, {} waiting edges, {} segments, {}",
            report.version,
            grouped(report.live_rows),
            grouped(report.rows),
            grouped(report.waiting),
            report.segments,
            output::bytes(report.bytes)
        ))?;
    } else {
        let text = json!({
            "ok": problems.is_empty(), "version": report.version, "records": report.live_rows, "rows": report.rows,
            "waiting_edges": report.waiting, "segments": report.segments, "bytes": report.bytes, "types": report.types, "problems": problems,
        });
        say(&text.to_string())?;
    }
    Ok(if problems.is_empty() { Outcome::Done } else { Outcome::Attention })
}
