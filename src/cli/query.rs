//! `taxiway query`.

use std::sync::Arc;

use clap::Args;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::{Expr, col, lit};
use datafusion::physical_plan::displayable;
use datafusion::prelude::SessionConfig;
use futures::StreamExt;

use super::output::{self, Batches, complain, say};
use super::place::{Place, start_log, store_options};
use super::{CliError, Outcome};
use crate::model::schema::{column, kind_value};
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

/// Records in a table, unless more are asked for.
const SHOWN_ROWS: usize = 20;

/// Show the records that an indicator query selects, oldest first.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  taxiway query 'type:IP and verdict:malicious' --limit 20\n  taxiway query 'tags:(apt phishing) and modified:>=\"7 days ago\"' --explain"
)]
pub(super) struct QueryArgs {
    /// The query, in XSOAR's indicator query language; empty means everything.
    #[arg(allow_hyphen_values = true)]
    query: String,
    #[command(flatten)]
    place: Place,
    /// Most records shown [default: 20 in tables; all in json and csv].
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,
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
    // A table is for people and ends early, saying so; programs get everything.
    let cut = args.limit.is_none() && args.output == output::Format::Table;
    let limit = if cut { Some(SHOWN_ROWS) } else { args.limit };
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
            // Definitions are what objects are served with, no records of anybody's.
            .filter(col(column::KIND).not_eq(lit(kind_value::DEFINITION)).and(compiled.expr(now)))?
            .sort(vec![col(column::ADDED).sort(true, true)])?
            // One more, to know of further ones without counting them.
            .limit(0, limit.map(|limit| limit + usize::from(cut && !args.explain)))?
            .select(shown)?;
        if args.explain {
            let plan = frame.create_physical_plan().await?;
            say(&format!("tree\n{}", indent(&compiled.tree())))?;
            say(&format!(
                "SQL\n{}",
                indent(&format!(
                    "SELECT {} FROM indicators WHERE kind <> 'definition' AND ({}) ORDER BY added{}",
                    names.join(", "),
                    compiled.sql(now),
                    limit.map(|limit| format!(" LIMIT {limit}")).unwrap_or_default()
                ))
            ))?;
            say(&format!("plan\n{}", indent(&displayable(plan.as_ref()).indent(false).to_string())))?;
            return Ok(Outcome::Done);
        }
        let mut stream = frame.execute_stream().await?;
        let mut batches = Batches::begin(args.output, stream.schema())?;
        let mut more = false;
        while let Some(batch) = stream.next().await {
            let mut batch = batch?;
            if cut {
                let room = SHOWN_ROWS - batches.rows() as usize;
                more |= batch.num_rows() > room;
                batch = batch.slice(0, batch.num_rows().min(room));
            }
            batches.print(&batch)?;
        }
        if more {
            complain(&format!(
                "the first {SHOWN_ROWS} records; more match: `--limit NUMBER` shows as many, `--output json` all"
            ));
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
