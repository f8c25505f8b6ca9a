//! `taxiway info`.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::json;

use super::output::{self, grouped, say};
use super::place::{Place, start_log, store_options, versions};
use super::{CliError, Outcome};
use crate::model::time::Timestamp;
use crate::serve::discovery_resource;
use crate::store::Store;

/// Show the server's discovery information and what the store holds.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taxiway info --output json")]
pub(super) struct InfoArgs {
    #[command(flatten)]
    place: Place,
    /// Form of the result; json gives the discovery resource as the server does, with the store's facts under `store`.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    output: output::Form,
}

pub(super) fn run(args: &InfoArgs) -> Result<Outcome, CliError> {
    let config = args.place.config()?;
    start_log(&config, Some("warn"));
    let store = Store::open(store_options(&config))?;
    let snapshot = store.snapshot()?;
    let scheme = if config.serve.tls.is_some() { "https" } else { "http" };
    let base = config.serve.base_url.clone().unwrap_or_else(|| format!("{scheme}://{}", config.serve.listen));
    let roots: Vec<String> = config.serve.api_roots.iter().map(|root| format!("{base}/{}/", root.path)).collect();
    let mut types: BTreeMap<String, u64> = BTreeMap::new();
    let (mut rows, mut bytes) = (0, 0);
    for view in snapshot.segments() {
        let meta = view.segment.meta();
        rows += view.record_rows();
        bytes += meta.bytes + meta.index_bytes;
        for (name, count) in view.types()? {
            let name = if name.is_empty() { "(not served)".to_owned() } else { name };
            *types.entry(name).or_default() += count;
        }
    }
    let last_change = (snapshot.version() > 0).then(|| Timestamp(snapshot.manifest().published).to_string());
    // What the server answers to a client that asks for its discovery.
    let mut discovery = discovery_resource(&config.serve, &base);
    if args.output == output::Form::Table {
        let lines = [
            ("title", discovery["title"].as_str().unwrap_or_default().to_owned()),
            (if roots.len() == 1 { "API root" } else { "API roots" }, roots.join(" ")),
            ("TAXII", versions(&config.serve)),
            ("store", store.location().to_owned()),
            ("version", snapshot.version().to_string()),
            ("last change", last_change.unwrap_or_else(|| "never".to_owned())),
            ("records", grouped(snapshot.live_rows())),
            ("waiting edges", grouped(snapshot.waiting_rows())),
            ("rows", format!("{} in {} segments, {}", grouped(rows), snapshot.segments().len(), output::bytes(bytes))),
            ("license id", store.properties().license_id.clone()),
            ("id scheme", store.properties().id_scheme.clone()),
        ];
        for (name, value) in lines {
            say(&format!("{name:<13} {value}"))?;
        }
        let counts: Vec<Vec<String>> = types.iter().map(|(name, count)| vec![name.clone(), grouped(*count)]).collect();
        say(&output::table(&["STIX type", "rows"], &counts))?;
    } else {
        discovery["store"] = json!({
            "location": store.location(), "version": snapshot.version(), "last_change": last_change,
            "records": snapshot.live_rows(), "waiting_edges": snapshot.waiting_rows(), "rows": rows, "segments": snapshot.segments().len(), "bytes": bytes,
            "license_id": store.properties().license_id, "id_scheme": store.properties().id_scheme, "types": types,
        });
        say(&discovery.to_string())?;
    }
    Ok(Outcome::Done)
}
