//! Collections: what configuration says of one, what the feed needs of it, and the catalogue of all.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::ids::{IdSpace, write_uuid};
use crate::query::{self, Compiled, QueryError};
use crate::render::envelope::EmptyList;
use crate::render::{ExtensionFields, Extensions, IndicatorTypes, Profile, RenderOptions, StixVersion};

/// What holds for every collection of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Items in a page when the client names no limit.
    pub page_size: u64,
    /// Most items in a page; larger limits are cut to it.
    pub max_page_size: u64,
    /// Rendering profile.
    pub profile: Profile,
    /// Form of an empty answer.
    pub empty_objects: EmptyList,
    /// Leave the query text out of the collection resource.
    pub hide_query: bool,
    /// Version served to clients that name none.
    pub default_version: StixVersion,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            page_size: 10_000,
            max_page_size: 1_000_000,
            profile: Profile::Standard,
            empty_objects: EmptyList::Omitted,
            hide_query: false,
            default_version: StixVersion::V21,
        }
    }
}

/// What a collection holds, as written; the empty text means everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryText {
    /// In XSOAR's query language.
    Xsoar(String),
    /// A SQL condition over the record's columns.
    Sql(String),
}

impl QueryText {
    /// The text as written.
    pub fn as_str(&self) -> &str {
        match self {
            QueryText::Xsoar(text) | QueryText::Sql(text) => text,
        }
    }

    /// Compiles the text in its language.
    pub fn compile(&self) -> Result<Compiled, QueryError> {
        match self {
            QueryText::Xsoar(text) => query::compile(text),
            QueryText::Sql(text) => query::compile_sql(text),
        }
    }
}

/// A collection as configured, before its id is known: that depends on the store's id space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionSpec {
    /// Shown to people, and what the id is derived from.
    pub title: String,
    /// Shown to people.
    pub description: Option<String>,
    /// A readable name that stands for the id in paths.
    pub alias: Option<String>,
    /// A pinned id; without it the id follows from the title.
    pub id: Option<String>,
    /// What the collection holds.
    pub query: QueryText,
    /// Observable types served as `indicator` objects.
    pub indicator_types: IndicatorTypes,
    /// Rendering profile; `None`: the server's.
    pub profile: Option<Profile>,
    /// What of the original record goes along; nothing when `None`.
    pub extension_fields: Option<ExtensionFields>,
    /// Which relationships it holds.
    pub relationships: Relationships,
    /// Holds what clients post to it, and nothing else; the query is not looked at.
    pub inbox: bool,
    /// Who may read and write it.
    pub access: Access,
    /// Paths of the API roots it is in; empty: the first one.
    pub api_roots: Vec<String>,
}

/// Who may read and who may write, as configured; what the names mean is the server's business.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Names of those who may read; `None`: as whatever the collection is in has it.
    pub read: Option<Vec<String>>,
    /// Names of those who may write; `None`: as whatever the collection is in has it. Only an inbox can be written to.
    pub write: Option<Vec<String>>,
}

/// Which relationships a collection holds. One belongs to it only when both of its ends do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Relationships {
    /// None at all.
    pub left_out: bool,
    /// Those that were withdrawn as well, marked as such; `None`: as the profile has it (`standard` serves them, `xsoar` does not).
    pub revoked: Option<bool>,
}

/// A collection ready to be served.
#[derive(Clone, Debug)]
pub struct Collection {
    /// UUID text.
    pub id: String,
    /// Stands for the id in paths.
    pub alias: Option<String>,
    /// Shown to people.
    pub title: String,
    /// Shown to people.
    pub description: Option<String>,
    /// The query as configured.
    pub query_text: String,
    /// The query, compiled.
    pub query: Compiled,
    /// How its rows become objects, for clients that name no version.
    pub options: RenderOptions,
    /// Which relationships it holds.
    pub relationships: Relationships,
    /// Holds what clients post to it, and nothing else: rows whose `inbox` is this collection's id.
    pub inbox: bool,
    /// Who may read and write it.
    pub access: Access,
    /// Paths of the API roots it is in; empty: the first one.
    pub api_roots: Vec<String>,
    /// Form of an empty answer.
    pub empty_objects: EmptyList,
    /// Leave the query text out of the collection resource.
    pub hide_query: bool,
    /// Items in a page when the client names no limit.
    pub page_size: u64,
    /// Most items in a page.
    pub max_page_size: u64,
}

/// Why collections cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CollectionError {
    /// The query does not compile.
    #[error("collection `{title}` has a bad query\n{}", source.render())]
    Query {
        /// Title of the collection.
        title: String,
        /// Where and why.
        source: QueryError,
    },
    /// Two collections cannot be told apart.
    #[error("collections `{first}` and `{second}` share the name `{name}`; give one of them another id or alias")]
    Ambiguous {
        /// The id or alias.
        name: String,
        /// Title of the one.
        first: String,
        /// Title of the other.
        second: String,
    },
}

impl CollectionSpec {
    /// A collection of that title and query, and defaults for everything else.
    pub fn new(title: &str, query: QueryText) -> Self {
        CollectionSpec {
            title: title.to_owned(),
            description: None,
            alias: None,
            id: None,
            query,
            indicator_types: IndicatorTypes::default(),
            profile: None,
            extension_fields: None,
            relationships: Relationships::default(),
            inbox: false,
            access: Access::default(),
            api_roots: Vec::new(),
        }
    }

    /// Compiles the query and settles the id.
    pub fn build(&self, ids: &IdSpace, options: &Options) -> Result<Collection, CollectionError> {
        let query =
            self.query.compile().map_err(|source| CollectionError::Query { title: self.title.clone(), source })?;
        let id = self.id.clone().unwrap_or_else(|| {
            let mut text = Vec::with_capacity(36);
            write_uuid(&ids.collection(&self.title), &mut text);
            String::from_utf8(text).unwrap_or_default()
        });
        Ok(Collection {
            id,
            alias: self.alias.clone(),
            title: self.title.clone(),
            description: self.description.clone(),
            query_text: self.query.as_str().to_owned(),
            query,
            options: RenderOptions {
                version: options.default_version,
                profile: self.profile.unwrap_or(options.profile),
                indicator_types: self.indicator_types,
                extensions: self.extension_fields.clone().map(|fields| Arc::new(Extensions::new(fields, ids))),
            },
            relationships: self.relationships,
            inbox: self.inbox,
            access: self.access.clone(),
            api_roots: self.api_roots.clone(),
            empty_objects: options.empty_objects,
            hide_query: options.hide_query,
            page_size: options.page_size,
            max_page_size: options.max_page_size,
        })
    }
}

/// All collections of a server.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    ordered: Vec<Arc<Collection>>,
    configured: Vec<Arc<Collection>>,
    by_name: HashMap<String, usize>,
}

impl Catalog {
    /// Orders the collections; no id or alias may stand for two of them.
    pub fn new(collections: Vec<Collection>) -> Result<Self, CollectionError> {
        let configured: Vec<Arc<Collection>> = collections.into_iter().map(Arc::new).collect();
        let mut ordered = configured.clone();
        ordered.sort_by(|a, b| a.id.cmp(&b.id));
        let mut by_name: HashMap<String, usize> = HashMap::new();
        for (position, collection) in ordered.iter().enumerate() {
            for name in [Some(&collection.id), collection.alias.as_ref()].into_iter().flatten() {
                let other = by_name.insert(name.clone(), position).and_then(|earlier| ordered.get(earlier));
                if let Some(other) = other {
                    return Err(CollectionError::Ambiguous {
                        name: name.clone(),
                        first: other.title.clone(),
                        second: collection.title.clone(),
                    });
                }
            }
        }
        Ok(Self { ordered, configured, by_name })
    }

    /// The collection with that id (in any case) or alias.
    pub fn get(&self, name: &str) -> Option<&Arc<Collection>> {
        let position = self.by_name.get(name).or_else(|| self.by_name.get(&name.to_ascii_lowercase()))?;
        self.ordered.get(*position)
    }

    /// Ascending by id, the order TAXII interoperability tests ask for.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Collection>> {
        self.ordered.iter()
    }

    /// In the order of the configuration, the order XSOAR's server lists them in.
    pub fn configured(&self) -> impl Iterator<Item = &Arc<Collection>> {
        self.configured.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ordered.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ordered.is_empty()
    }
}
