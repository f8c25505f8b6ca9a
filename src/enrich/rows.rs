//! Which values a stored row is found by.

use std::borrow::Cow;
use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch, StringArray, TypedDictionaryArray};
use arrow::datatypes::Int32Type;
use serde::Deserialize;

use crate::enrich::pattern;
use crate::enrich::value::{Shape, Value, read};
use crate::model::kind::{self, StixType};
use crate::model::schema::{column, kind_value};

/// The columns that say so, but for [`column::DOCUMENT`], which only some rows need.
pub(crate) const COLUMNS: [&str; 8] = [
    column::KIND,
    column::STIX_TYPE,
    column::TYPE,
    column::VALUE,
    column::MD5,
    column::SHA1,
    column::SHA256,
    column::SHA512,
];
/// Columns of hashes, with the names that ECS and STIX have for them.
const HASHES: [(&str, &str, &str); 4] = [
    (column::MD5, "md5", "MD5"),
    (column::SHA1, "sha1", "SHA-1"),
    (column::SHA256, "sha256", "SHA-256"),
    (column::SHA512, "sha512", "SHA-512"),
];

type Names<'a> = TypedDictionaryArray<'a, Int32Type, StringArray>;

/// Text of a column of low-cardinality text.
pub(crate) fn name<'a>(names: Option<Names<'a>>, row: usize) -> Option<&'a str> {
    let names = names.filter(|names| names.is_valid(row))?;
    let key = usize::try_from(names.keys().value(row)).ok()?;
    (key < names.values().len()).then(|| names.values().value(key))
}

/// Text of a column of any text.
pub(crate) fn text(texts: Option<&StringArray>, row: usize) -> Option<&str> {
    texts.filter(|texts| texts.is_valid(row)).map(|texts| texts.value(row))
}

pub(crate) fn names<'a>(batch: &'a RecordBatch, column: &str) -> Option<Names<'a>> {
    batch.column_by_name(column)?.as_dictionary_opt::<Int32Type>()?.downcast_dict::<StringArray>()
}

pub(crate) fn texts<'a>(batch: &'a RecordBatch, column: &str) -> Option<&'a StringArray> {
    batch.column_by_name(column)?.as_string_opt::<i32>()
}

/// The columns of a batch.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    kinds: Option<Names<'a>>,
    stix_types: Option<Names<'a>>,
    types: Option<Names<'a>>,
    values: Option<&'a StringArray>,
    hashes: [Option<&'a StringArray>; 4],
    documents: Option<&'a StringArray>,
}

/// What of a row its document alone knows.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Native<'a> {
    #[serde(borrow)]
    pattern: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pattern_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    hashes: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
    #[serde(borrow)]
    external_references: Option<Vec<Reference<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
struct Reference<'a> {
    #[serde(borrow)]
    url: Option<Cow<'a, str>>,
}

impl Native<'_> {
    /// Where to read on.
    pub(crate) fn reference(&self) -> Option<&str> {
        self.external_references.iter().flatten().find_map(|reference| reference.url.as_deref())
    }

    /// Its hashes by their names in ECS.
    fn hash(&self, at: usize) -> Option<&str> {
        let (_, _, name) = HASHES.get(at)?;
        // STIX 2.0 and many producers write `SHA256` and the like.
        let plain = |name: &str| name.replace('-', "").to_ascii_uppercase();
        let found = self.hashes.iter().flatten().find(|(own, _)| plain(own) == plain(name));
        found.map(|(_, digits)| digits.as_ref())
    }
}

/// One value of a row.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) value: Value<'a>,
    pub(crate) stix_type: StixType,
    /// As it is written in the record.
    pub(crate) text: &'a str,
}

impl<'a> Rows<'a> {
    pub(crate) fn bind(batch: &'a RecordBatch) -> Self {
        Rows {
            kinds: names(batch, column::KIND),
            stix_types: names(batch, column::STIX_TYPE),
            types: names(batch, column::TYPE),
            values: texts(batch, column::VALUE),
            hashes: HASHES.map(|(name, ..)| texts(batch, name)),
            documents: texts(batch, column::DOCUMENT),
        }
    }

    /// Whether it is a STIX object, kept as it came.
    pub(crate) fn is_native(&self, row: usize) -> bool {
        name(self.kinds, row) == Some(kind_value::OBJECT)
    }

    fn stix_type(&self, row: usize) -> Option<StixType> {
        StixType::named(name(self.stix_types, row)?)
    }

    /// Whether the row has values in its document.
    pub(crate) fn needs_document(&self, row: usize) -> bool {
        self.is_native(row) && matches!(self.stix_type(row), Some(StixType::Indicator | StixType::File))
    }

    /// What the document of a native object says.
    pub(crate) fn native(&self, row: usize) -> Native<'a> {
        let document = text(self.documents.filter(|_| self.is_native(row)), row);
        // One that says it in other types than STIX has says nothing.
        document.and_then(|document| serde_json::from_str(document).ok()).unwrap_or_default()
    }

    /// The hashes of a file, as `(name in ECS, digits)`.
    pub(crate) fn hashes<'n>(
        &'n self,
        row: usize,
        native: &'n Native<'_>,
    ) -> impl Iterator<Item = (&'static str, &'n str)> + 'n {
        HASHES
            .iter()
            .zip(&self.hashes)
            .enumerate()
            .filter_map(move |(at, ((_, name, _), own))| Some((*name, text(*own, row).or_else(|| native.hash(at))?)))
    }

    /// Calls `found` for each value of a row. `native` is what its document says.
    pub(crate) fn each(
        &self,
        row: usize,
        native: &Native<'_>,
        scratch: &mut Vec<u8>,
        mut found: impl FnMut(Found<'_>),
    ) {
        let mut take = |shape: Shape, text: &str| {
            if let Some(value) = read(shape, text.as_bytes(), scratch) {
                found(Found { value, stix_type: type_of(&value), text: text.trim() });
            }
        };
        let content = match name(self.kinds, row) {
            Some(kind_value::INDICATOR) => of_xsoar(name(self.types, row).unwrap_or_default()),
            Some(kind_value::OBJECT) => self.stix_type(row).and_then(of_native),
            _ => None,
        };
        match content {
            Some(Content::Value(shape)) => {
                if let Some(value) = text(self.values, row) {
                    take(shape, value);
                }
                if matches!(shape, Shape::Hash | Shape::Any) {
                    self.hashes(row, native).for_each(|(_, digits)| take(Shape::Hash, digits));
                }
            }
            Some(Content::Pattern) => {
                let is_stix = native.pattern_type.as_deref().is_none_or(|name| name.eq_ignore_ascii_case("stix"));
                let pattern = native.pattern.as_deref().filter(|_| is_stix);
                pattern.map(pattern::atoms).unwrap_or_default().iter().for_each(|atom| take(atom.shape, &atom.value));
            }
            None => {}
        }
    }
}

/// The type of the observable that a value is.
pub(crate) fn type_of(value: &Value<'_>) -> StixType {
    match value {
        Value::Address(address) | Value::Network(address, _) if address.is_ipv4() => StixType::Ipv4Addr,
        Value::Address(_) | Value::Network(..) => StixType::Ipv6Addr,
        Value::Domain(_) | Value::Below(_) => StixType::DomainName,
        Value::Hash(_) => StixType::File,
        Value::Url { .. } => StixType::Url,
        Value::Email { .. } => StixType::EmailAddr,
    }
}

/// What a row holds that is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// A value of that shape, or a file's hashes.
    Value(Shape),
    /// A pattern.
    Pattern,
}

/// What indicators of that type hold; `None`: nothing that is looked up.
fn of_xsoar(name: &str) -> Option<Content> {
    match kind::XSOAR_TYPES.iter().find(|(known, _)| *known == name) {
        Some((_, stix_type)) => of_native(*stix_type),
        // A type of somebody's own: the value tells.
        None => Some(Content::Value(Shape::Any)),
    }
}

fn of_native(stix_type: StixType) -> Option<Content> {
    Some(Content::Value(match stix_type {
        StixType::Ipv4Addr | StixType::Ipv6Addr => Shape::Address,
        StixType::DomainName => Shape::Domain,
        StixType::Url => Shape::Url,
        StixType::EmailAddr => Shape::Email,
        StixType::File => Shape::Hash,
        StixType::Indicator => return Some(Content::Pattern),
        _ => return None,
    }))
}
