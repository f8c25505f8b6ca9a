//! `taxiway query`.

use std::sync::Arc;

use clap::Args;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::{Expr, col};
use datafusion::physical_plan::displayable;
use datafusion::prelude::SessionConfig;
use futures::StreamExt;

use super::output::{self, Batches, complain, say};
use super::place::{Place, start_log, store_options};
use super::{CliError, Outcome};
use crate::model::schema::column;
use crate::query;
use crate::store::{IndicatorTable, Store};

/// The columns a table shows unless others are asked for.
const SHOWN: [&str; 8] = [
    column::ADDED,
    column::TYPE,
    column::STIX_TYPE,
    column::VALUE,
    column::SCORE,
    column::MODIFIED,
    column::TAGS,
    column::SOURCE_BRANDS,
];

/// Show the records that an indicator query selects, oldest first.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  taxiway query 'type:IP and verdict:malicious' --limit 20\n  taxiway query 'tags:(apt phishing) and modified:>=\"7 days ago\"' --explain"
)]
pub(super) struct QueryArgs {
    /// The query, in XSOAR's indicator query language; empty means everything.
    query: String,
    #[command(flatten)]
    place: Place,
    /// Most records shown.
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// Columns to show, separated by commas; `*` means all.
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    columns: Vec<String>,
    /// Show how the query is understood, as SQL and as a plan, instead of running it.
    #[arg(long)]
    explain: bool,
    /// Form of the result.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    output: output::Format,
}

pub(super) fn run(args: &QueryArgs) -> Result<Outcome, CliError> {
    let config = args.place.config()?;
    start_log(&config, Some("warn"));
    let compiled = match query::compile(&args.query) {
        Ok(compiled) => compiled,
        Err(error) => return Err(format!("the query cannot be read\n{}", error.render()).into()),
    };
    for warning in compiled.warnings() {
        complain(&format!("warning: {warning}"));
    }
    let store = Store::open(store_options(&config))?;
    let now = store.now();
    let context = session(1);
    context.register_table("indicators", Arc::new(IndicatorTable::live(store.snapshot()?)))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let names: Vec<&str> = match args.columns.as_slice() {
            [] => SHOWN.to_vec(),
            [all] if all == "*" => crate::model::schema::schema_names(),
            names => names.iter().map(String::as_str).collect(),
        };
        let shown: Vec<Expr> = names.iter().map(|name| col(*name)).collect();
        let frame = context
            .table("indicators")
            .await?
            .filter(compiled.expr(now))?
            .sort(vec![col(column::ADDED).sort(true, true)])?
            .limit(0, Some(args.limit))?
            .select(shown)?;
        if args.explain {
            let plan = frame.create_physical_plan().await?;
            say(&format!("tree\n{}", indent(&compiled.tree())))?;
            say(&format!(
                "SQL\n{}",
                indent(&format!(
                    "SELECT {} FROM indicators WHERE {} ORDER BY added LIMIT {}",
                    names.join(", "),
                    compiled.sql(now),
                    args.limit
                ))
            ))?;
            say(&format!("plan\n{}", indent(&displayable(plan.as_ref()).indent(false).to_string())))?;
            return Ok(Outcome::Done);
        }
        let mut stream = frame.execute_stream().await?;
        let mut batches = Batches::begin(args.output, stream.schema())?;
        while let Some(batch) = stream.next().await {
            batches.print(&batch?)?;
        }
        if batches.rows() == 0 && args.output == output::Format::Table {
            say("no record matches")?;
        }
        Ok(Outcome::Done)
    })
}

/// A session that knows the query language's functions.
pub(super) fn session(partitions: usize) -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(partitions).with_information_schema(true);
    let context = SessionContext::new_with_config(config);
    for function in query::functions() {
        context.register_udf(function);
    }
    context
}

fn indent(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("  {line}\n")).collect()
}
