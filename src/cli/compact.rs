//! `taxiway compact`.

use clap::Args;
use serde_json::json;

use super::output::{self, grouped, say};
use super::place::{Place, start_log, store_options};
use super::{CliError, Outcome};
use crate::store::{CompactOptions, Extent, Store};

/// Merge small segments and drop superseded versions that are older than the history.
///
/// Order and dates stay; consumers, readers and writers notice nothing. A server does as much of it by itself as keeps it quick.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taxiway compact --store /var/lib/taxiway")]
pub(super) struct CompactArgs {
    #[command(flatten)]
    place: Place,
    /// Rewrite every segment.
    #[arg(long)]
    all: bool,
    /// Form of the result.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    output: output::Form,
}

pub(super) fn run(args: &CompactArgs) -> Result<Outcome, CliError> {
    let config = args.place.config()?;
    start_log(&config, Some("warn"));
    let store = Store::open(store_options(&config))?;
    let extent = if args.all { Extent::All } else { Extent::Possible };
    let report = store.compact(&CompactOptions { extent, ..CompactOptions::default() })?;
    if args.output == output::Form::Json {
        let text = json!({
            "segments_before": report.segments_before, "segments_after": report.segments_after,
            "rewritten": report.rewritten, "dropped": report.dropped,
        });
        say(&text.to_string())?;
        return Ok(Outcome::Done);
    }
    say(&format!(
        "{} segments became {}; {} rows rewritten, {} superseded ones dropped",
        report.segments_before,
        report.segments_after,
        grouped(report.rewritten),
        grouped(report.dropped)
    ))?;
    Ok(Outcome::Done)
}
