//! `taxiway collections`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use clap::Args;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::{col, lit};
use serde_json::{Value, json};

use super::output::{self, grouped, say};
use super::place::{Place, catalog, start_log, store_options};
use super::query::session;
use super::{CliError, Outcome};
use crate::feed::api::Feed;
use crate::feed::collection::Collection;
use crate::feed::{FeedOptions, StoreFeed, selected, served};
use crate::model::kind::StixType;
use crate::model::schema::{column, kind_value};
use crate::serve::{collection_resources, roots_of};
use crate::store::{IndicatorTable, Store};

/// List the collections, their ids and how many objects each serves.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  taxiway collections --verbose\n  taxiway collections --output json")]
pub(super) struct CollectionsArgs {
    #[command(flatten)]
    place: Place,
    /// Count each collection's records by STIX type, and those that have no STIX form and are not served by XSOAR type.
    #[arg(long)]
    verbose: bool,
    /// Form of the result; json gives the collection resources as the server does, without queries under `hide_query`,
    /// and with --verbose the counts beside them.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    output: output::Form,
}

pub(super) fn run(args: &CollectionsArgs) -> Result<Outcome, CliError> {
    let config = args.place.config()?;
    start_log(&config, Some("warn"));
    let store = Store::open(store_options(&config))?;
    let feed = StoreFeed::new(store.clone(), catalog(&config, &store)?, &FeedOptions::default())?;
    let catalog = feed.catalog();
    let mut resources = collection_resources(&catalog, &config.serve);
    if args.output == output::Form::Json {
        if args.verbose {
            for resource in &mut resources {
                let collection = resource["id"].as_str().and_then(|id| catalog.get(id));
                if let Some(collection) = collection {
                    add_counts(resource, &Census::take(&store, &feed, collection)?);
                }
            }
        }
        say(&serde_json::to_string_pretty(&resources)?)?;
        return Ok(Outcome::Done);
    }
    let listed: Vec<&Arc<Collection>> =
        resources.iter().filter_map(|resource| catalog.get(resource["id"].as_str()?)).collect();
    // Of one API root there is nothing to tell.
    let with_roots = config.serve.api_roots.len() > 1;
    let mut rows = Vec::new();
    for collection in &listed {
        let mut row = vec![
            collection.title.clone(),
            collection.id.clone(),
            grouped(feed.count_blocking(collection)?),
            collection.alias.clone().unwrap_or_default(),
            if collection.inbox { "(inbox)".to_owned() } else { collection.query_text.clone() },
        ];
        if with_roots {
            row.insert(
                4,
                roots_of(&config.serve, &collection.api_roots)
                    .map(|root| root.path.as_str())
                    .collect::<Vec<_>>()
                    .join(" "),
            );
        }
        rows.push(row);
    }
    let mut header = vec!["title", "id", "objects", "alias", "query"];
    if with_roots {
        header.insert(4, "API roots");
    }
    say(&output::table(&header, &rows))?;
    if args.verbose {
        for collection in listed {
            say(&format!("\n{}\n{}", collection.title, Census::take(&store, &feed, collection)?.shown(collection)))?;
        }
    }
    Ok(Outcome::Done)
}

/// What a collection's query selects.
#[derive(Debug, Default, PartialEq, Eq)]
struct Census {
    /// Objects that the collection serves.
    objects: u64,
    /// Of those, how many are records of each STIX type.
    served: BTreeMap<String, u64>,
    /// Records without a form in that version of STIX, by XSOAR type.
    unserved: BTreeMap<String, u64>,
}

impl Census {
    fn take(store: &Store, feed: &StoreFeed, collection: &Arc<Collection>) -> Result<Self, CliError> {
        let context = session(1);
        context.register_table("indicators", Arc::new(IndicatorTable::live(store.snapshot()?)))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let batches = runtime.block_on(async {
            context
                .table("indicators")
                .await?
                // Whether an edge or a definition belongs is not for the query to say.
                .filter(col(column::KIND).in_list(vec![lit(kind_value::INDICATOR), lit(kind_value::OBJECT)], false))?
                .filter(selected(collection, store.now()))?
                .aggregate(
                    vec![
                        col(column::STIX_TYPE),
                        col(column::TYPE),
                        served(collection, &collection.options).alias("served"),
                    ],
                    vec![count(lit(1))],
                )?
                .collect()
                .await
        })?;
        let mut census = Census { objects: feed.count_blocking(collection)?, ..Census::default() };
        for batch in &batches {
            let [stix_types, types] = [0, 1].map(|at| cast(batch.column(at), &DataType::Utf8));
            let texts = [stix_types?, types?];
            let is_served = batch.column(2).as_boolean();
            let counts = batch.column(3).as_primitive::<Int64Type>();
            for (row, count) in counts.values().iter().enumerate() {
                let [stix_type, xsoar_type] = texts.each_ref().map(|column| {
                    let column: &StringArray = column.as_string();
                    column.is_valid(row).then(|| column.value(row))
                });
                let (place, name) = match stix_type {
                    None => (&mut census.unserved, xsoar_type.unwrap_or("(no type)").to_owned()),
                    Some(stix_type) if is_served.is_valid(row) && is_served.value(row) => {
                        (&mut census.served, stix_type.to_owned())
                    }
                    Some(stix_type) => {
                        let name = xsoar_type.unwrap_or(stix_type);
                        let version = collection.options.version.as_str();
                        (&mut census.unserved, format!("{name} (not in STIX {version})"))
                    }
                };
                *place.entry(name).or_default() += u64::try_from(*count).unwrap_or_default();
            }
        }
        Ok(census)
    }

    /// Relationships and the definitions that come along with objects.
    fn others(&self) -> u64 {
        self.objects.saturating_sub(self.served.values().sum())
    }

    fn shown(&self, collection: &Collection) -> String {
        let as_indicator = |name: &str| {
            StixType::named(name).is_some_and(|stix_type| collection.options.indicator_types.contains(stix_type))
        };
        let mut rows: Vec<Vec<String>> = Vec::new();
        for (name, count) in &self.served {
            let note = if as_indicator(name) { "as indicator" } else { "" };
            rows.push(vec!["  served".to_owned(), name.clone(), grouped(*count), note.to_owned()]);
        }
        if self.others() > 0 {
            let name = "relationships and definitions".to_owned();
            rows.push(vec!["  served".to_owned(), name, grouped(self.others()), String::new()]);
        }
        for (name, count) in &self.unserved {
            rows.push(vec!["  not served".to_owned(), name.clone(), grouped(*count), String::new()]);
        }
        if rows.is_empty() {
            return "  no record".to_owned();
        }
        output::table(&["", "type", "records", ""], &rows)
    }
}

fn add_counts(resource: &mut Value, census: &Census) {
    for (key, value) in [
        ("objects", json!(census.objects)),
        ("stix_types", json!(census.served)),
        ("not_served", json!(census.unserved)),
    ] {
        resource[key] = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::collection::{Catalog, CollectionSpec, Options, QueryText};
    use crate::ingest::{self, DecodeOptions, Importer, Input};
    use crate::store::StoreOptions;

    fn counts(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
        pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn what_has_no_stix_form_is_counted_by_its_type() {
        let folder = tempfile::tempdir().expect("folder");
        let location = folder.path().to_string_lossy().into_owned();
        let store = Store::open_or_create(StoreOptions { location, ..StoreOptions::default() }).expect("a store");
        let record = |kind: &str, value: &str, score: u8| {
            format!(
                "{{\"indicator_type\":\"{kind}\",\"value\":\"{value}\",\"score\":{score},\"timestamp\":\"2024-01-01T00:00:00Z\"}}\n"
            )
        };
        let text: String = [
            ("IP", "192.0.2.1", 3),
            ("IP", "192.0.2.2", 1),
            ("Domain", "a.example", 3),
            ("Host", "h1", 3),
            ("Host", "h2", 3),
            ("Host", "h3", 1),
            ("Mutex", "m", 3),
        ]
        .map(|(kind, value, score)| record(kind, value, score))
        .concat();
        let input = Input::from_reader("in.ndjson", None, std::io::Cursor::new(text.into_bytes())).expect("an input");
        let mut importer = Importer::new(&store, false);
        ingest::decode(input, &DecodeOptions::new(Arc::clone(store.ids())), |parsed| importer.push(parsed).map(|_| ()))
            .expect("decodes");
        importer.finish().expect("imports");

        let spec = |query: &str| CollectionSpec {
            indicator_types: [StixType::Ipv4Addr].into_iter().collect(),
            ..CollectionSpec::new(query, QueryText::Xsoar(query.to_owned()))
        };
        let cases = [
            ("", counts(&[("ipv4-addr", 2), ("domain-name", 1)]), counts(&[("Host", 3), ("Mutex", 1)])),
            (
                "verdict:malicious",
                counts(&[("ipv4-addr", 1), ("domain-name", 1)]),
                counts(&[("Host", 2), ("Mutex", 1)]),
            ),
            ("type:Domain", counts(&[("domain-name", 1)]), counts(&[])),
            ("type:Mutex", counts(&[]), counts(&[("Mutex", 1)])),
            ("type:URL", counts(&[]), counts(&[])),
        ];
        let collections =
            cases.iter().map(|(query, ..)| spec(query).build(store.ids(), &Options::default()).expect("a good query"));
        let catalog = Catalog::new(collections.collect()).expect("names differ");
        let feed = StoreFeed::new(store.clone(), catalog, &FeedOptions::default()).expect("a feed");
        for (collection, (query, served, unserved)) in feed.catalog().configured().zip(cases) {
            let census = Census::take(&store, &feed, collection).expect("counts");
            assert_eq!(census, Census { objects: served.values().sum(), served, unserved }, "{query}");
        }
        let all = feed.catalog().configured().next().cloned().expect("the first");
        let shown = Census::take(&store, &feed, &all).expect("counts").shown(&all);
        let words: Vec<Vec<&str>> = shown.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[1], ["served", "ipv4-addr", "2", "as", "indicator"], "{shown}");
        assert_eq!(words[2], ["not", "served", "Host", "3"], "{shown}");
    }
}
