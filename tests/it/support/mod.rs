//! What the areas share: stores in temporary folders, records to put in, pages to pull out.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use futures::StreamExt;
use serde_json::{Value, json};
use taxiway::feed::api::{Body, Feed, FeedError, Filters, Given, Page, PageRequest, Shape};
use taxiway::feed::collection::{Catalog, Collection, CollectionSpec, Options, QueryText};
use taxiway::feed::{FeedOptions, StoreFeed};
use taxiway::ingest::{self, DecodeOptions, Importer, Input, Summary};
use taxiway::model::time::Timestamp;
use taxiway::store::{Store, StoreOptions};

/// A store in a folder that goes away with it.
pub(crate) struct TempStore {
    pub(crate) store: Store,
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) fn options(folder: &Path) -> StoreOptions {
    StoreOptions {
        location: folder.to_string_lossy().into_owned(),
        license_id: Some("test".to_owned()),
        ..StoreOptions::default()
    }
}

pub(crate) fn temp_store() -> TempStore {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(options(folder.path())).unwrap();
    TempStore { store, folder }
}

/// The program, to be run in a folder.
pub(crate) fn taxiway(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taxiway"));
    command.current_dir(folder).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Reads what a server says at its start; gives the lines up to the address, and the address.
pub(crate) fn listening(server: &mut Child) -> (Vec<String>, String) {
    let mut said = Vec::new();
    for line in BufReader::new(server.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(url) = line.strip_prefix("listening on ") {
            return (said, url.to_owned());
        }
        said.push(line);
    }
    panic!("the server ended: {said:#?}");
}

/// A server that ends with its test.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
}

impl Server {
    /// Runs `command`, which is a server, until it listens.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (_, url) = listening(&mut child);
        Server { child, url }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An XSOAR document.
pub(crate) fn indicator(kind: &str, value: &str, score: u8, tags: &[&str]) -> Value {
    json!({
        "indicator_type": kind, "value": value, "score": score, "timestamp": "2024-01-01T00:00:00Z",
        "modified": "2024-01-02T00:00:00Z", "CustomFields": { "tags": tags },
    })
}

/// Imports text, as a file of that name would be.
pub(crate) fn import_text(store: &Store, name: &str, text: &str) -> Summary {
    let input =
        Input::from_reader(name, Some(text.len() as u64), std::io::Cursor::new(text.as_bytes().to_vec())).unwrap();
    let mut importer = Importer::new(store, false);
    let options = DecodeOptions::new(Arc::clone(store.ids()));
    ingest::decode(input, &options, |parsed| importer.push(parsed).map(|_| ())).unwrap();
    importer.finish().unwrap()
}

pub(crate) fn import(store: &Store, records: &[Value]) -> Summary {
    let text: String = records.iter().map(|record| format!("{record}\n")).collect();
    import_text(store, "records.ndjson", &text)
}

pub(crate) fn spec(title: &str, query: &str) -> CollectionSpec {
    CollectionSpec::new(title, QueryText::Xsoar(query.to_owned()))
}

/// A feed over one collection.
pub(crate) struct OneCollection {
    pub(crate) feed: StoreFeed,
    pub(crate) collection: Arc<Collection>,
    runtime: tokio::runtime::Runtime,
}

/// A page, pulled whole.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pulled {
    pub(crate) objects: Vec<Value>,
    pub(crate) more: bool,
    pub(crate) next: Option<String>,
    pub(crate) first: Option<Timestamp>,
    pub(crate) last: Option<Timestamp>,
    pub(crate) total: Option<u64>,
    /// Whether another page follows, as the plan says; 2.0 answers have no key for it.
    pub(crate) more_by_number: bool,
}

impl OneCollection {
    pub(crate) fn new(store: &Store, spec: &CollectionSpec) -> Self {
        let collection = spec.build(store.ids(), &Options::default()).unwrap();
        let catalog = Catalog::new(vec![collection]).unwrap();
        let feed = StoreFeed::new(
            store.clone(),
            catalog,
            &FeedOptions { threads: 2, match_rows: 3, small_page_rows: 2, ..FeedOptions::default() },
        )
        .unwrap();
        let collection = Arc::clone(feed.catalog().iter().next().unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        OneCollection { feed, collection, runtime }
    }

    /// Another collection of the same feed.
    pub(crate) fn other(&self, spec: &CollectionSpec) -> Self {
        let collection = Arc::new(spec.build(self.feed.store().ids(), &Options::default()).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        OneCollection { feed: self.feed.clone(), collection, runtime }
    }

    pub(crate) fn request(&self, shape: Shape, request: PageRequest) -> Result<Pulled, FeedError> {
        self.runtime.block_on(async {
            let page = self.feed.page(&self.collection, shape, request).await?;
            let (first, last, total, more_by_number) = (page.first, page.last, page.total, page.more);
            let text = body(page).await?;
            let value: Value = serde_json::from_slice(&text)
                .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&text)));
            let list = if shape == Shape::Versions { "versions" } else { "objects" };
            Ok(Pulled {
                objects: value[list].as_array().cloned().unwrap_or_default(),
                more: value["more"].as_bool().unwrap_or(false),
                next: value["next"].as_str().map(str::to_owned),
                first,
                last,
                total,
                more_by_number,
            })
        })
    }

    /// A page as it is sent, and its tag.
    pub(crate) fn sent(&self, request: PageRequest) -> (Vec<u8>, u64) {
        self.runtime.block_on(async {
            let page = self.feed.page(&self.collection, Shape::Objects, request).await.unwrap();
            let tag = page.tag;
            (body(page).await.unwrap(), tag)
        })
    }

    pub(crate) fn page(&self, after: Option<Timestamp>, next: Option<&str>, limit: Option<u64>) -> Pulled {
        let filters = Filters { added_after: after, ..Filters::default() };
        let given = Given { added_after: after.is_some(), ..Given::default() };
        let request = PageRequest { filters, given, limit, next: next.map(str::to_owned), ..PageRequest::default() };
        self.request(Shape::Objects, request).unwrap()
    }

    /// Everything, page by page through `next`.
    pub(crate) fn walk(&self, shape: Shape, filters: &Filters, limit: Option<u64>) -> Vec<Value> {
        let mut objects = Vec::new();
        let mut next = None;
        loop {
            let request = PageRequest { filters: filters.clone(), limit, next: next.take(), ..PageRequest::default() };
            let page = self.request(shape, request).unwrap();
            assert!(limit.is_none_or(|limit| page.objects.len() as u64 <= limit), "more objects than the limit");
            assert_eq!(page.more, page.next.is_some(), "`next` goes with `more`");
            objects.extend(page.objects);
            match page.next {
                Some(cursor) => next = Some(cursor),
                None => return objects,
            }
        }
    }
}

async fn body(page: Page) -> Result<Vec<u8>, FeedError> {
    match page.body {
        Body::Whole(bytes) => Ok(bytes.to_vec()),
        Body::Stream(mut stream) => {
            let mut all = Vec::new();
            while let Some(piece) = stream.next().await {
                all.extend_from_slice(&piece?);
            }
            Ok(all)
        }
    }
}

pub(crate) fn values(objects: &[Value]) -> Vec<String> {
    objects
        .iter()
        .map(|object| object["value"].as_str().or(object["name"].as_str()).unwrap_or_default().to_owned())
        .collect()
}

/// Objects by id, which must not repeat.
pub(crate) fn by_id(objects: &[Value]) -> BTreeMap<String, Value> {
    let map: BTreeMap<String, Value> =
        objects.iter().map(|object| (object["id"].as_str().unwrap().to_owned(), object.clone())).collect();
    assert_eq!(map.len(), objects.len(), "an id was served twice");
    map
}
