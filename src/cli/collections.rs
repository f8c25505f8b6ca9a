//! `taxiway collections`.

use clap::Args;
use serde_json::{Value, json};

use super::output::{self, grouped, say};
use super::place::{Place, catalog, start_log, store_options};
use super::{CliError, Outcome};
use crate::feed::api::Feed;
use crate::feed::collection::Collection;
use crate::feed::{FeedOptions, StoreFeed};
use crate::store::Store;

/// List the collections, their ids and how many objects each serves.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taxiway collections --output json")]
pub(super) struct CollectionsArgs {
    #[command(flatten)]
    place: Place,
    /// Form of the result; json gives the collection resources as the server does, without queries under `hide_query`.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    output: output::Form,
}

pub(super) fn run(args: &CollectionsArgs) -> Result<Outcome, CliError> {
    let config = args.place.config()?;
    start_log(&config, Some("warn"));
    let store = Store::open(store_options(&config))?;
    let feed = StoreFeed::new(store.clone(), catalog(&config, &store)?, &FeedOptions::default())?;
    let mut rows = Vec::new();
    let mut resources = Vec::new();
    for collection in feed.catalog().iter() {
        resources.push(resource(collection));
        if args.output == output::Form::Table {
            let count = feed.count_blocking(collection)?;
            rows.push(vec![
                collection.title.clone(),
                collection.id.clone(),
                grouped(count),
                collection.alias.clone().unwrap_or_default(),
                collection.query_text.clone(),
            ]);
        }
    }
    if args.output == output::Form::Table {
        say(&output::table(&["title", "id", "objects", "alias", "query"], &rows))?;
    } else {
        say(&serde_json::to_string_pretty(&resources)?)?;
    }
    Ok(Outcome::Done)
}

/// What the server answers for the collection: keys without a value are absent, and so is a query that it hides.
fn resource(collection: &Collection) -> Value {
    let mut resource = json!({
        "id": collection.id, "title": collection.title, "can_read": true, "can_write": false,
        "media_types": ["application/stix+json;version=2.1"],
    });
    let query = Some(&collection.query_text).filter(|_| !collection.hide_query);
    let description = collection.description.as_ref().filter(|text| !text.is_empty());
    for (key, value) in [("description", description), ("alias", collection.alias.as_ref()), ("query", query)] {
        if let Some(value) = value {
            resource[key] = json!(value);
        }
    }
    resource
}
