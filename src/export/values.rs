//! What a row comes down to for those who take values alone: firewalls and MISP.
//!
//! An indicator is its value. A native observable is its value or its hashes, a native `indicator` what its pattern looks for.

use std::borrow::Cow;
use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use serde::Deserialize;

use crate::export::ExportError;
use crate::export::pattern;
use crate::model::kind::{HashAlgorithm, StixType};
use crate::model::schema::{column as c, kind_value};
use crate::render::Bound;

/// What every row is read with.
pub(super) const COLUMNS: &[&str] = &[c::KIND, c::STIX_TYPE, c::TYPE, c::VALUE];
/// What native objects are read with besides.
pub(super) const NATIVE_COLUMNS: &[&str] = &[c::DOCUMENT];

/// One value.
#[derive(Debug, PartialEq)]
pub(super) struct Value<'a> {
    /// The type of observable; `None` for what STIX has no type for.
    pub(super) stix_type: Option<StixType>,
    /// XSOAR's name of the type, of native objects STIX's.
    pub(super) name: &'a str,
    /// The value as it stands there.
    pub(super) text: Cow<'a, str>,
}

/// The values of a batch's rows.
pub(super) struct Values<'a> {
    /// The columns, for whoever wants more of a row.
    pub(super) bound: Bound<'a>,
    stix_types: Vec<Option<StixType>>,
    is_native: Vec<bool>,
}

/// The properties of a native object that may hold values.
#[derive(Deserialize)]
struct Native<'a> {
    #[serde(borrow)]
    pattern: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pattern_type: Option<Cow<'a, str>>,
    hashes: Option<BTreeMap<String, String>>,
}

impl<'a> Values<'a> {
    /// Binds the columns.
    pub(super) fn bind(batch: &'a RecordBatch) -> Result<Self, ExportError> {
        let bound = Bound::bind(batch)?;
        let rows = batch.num_rows();
        let stix_types = bound.stix_type.map(rows, |name| name.and_then(StixType::named));
        let is_native = bound.kind.map(rows, |kind| kind == Some(kind_value::OBJECT));
        Ok(Values { bound, stix_types, is_native })
    }

    /// Calls `each` with every value of the row; says whether there was one.
    pub(super) fn each(&self, row: usize, mut each: impl FnMut(Value<'_>)) -> bool {
        let stix_type = self.stix_types.get(row).copied().flatten();
        let value = self.bound.value.filled(row);
        if !self.is_native.get(row).copied().unwrap_or_default() {
            let name = self.bound.xsoar_type.get(row).unwrap_or_default();
            return value.map(|text| each(Value { stix_type, name, text: Cow::Borrowed(text) })).is_some();
        }
        let Some(stix_type) = stix_type else { return false };
        let own = |text| Value { stix_type: Some(stix_type), name: stix_type.as_str(), text: Cow::Borrowed(text) };
        match stix_type {
            StixType::Ipv4Addr | StixType::Ipv6Addr | StixType::DomainName | StixType::Url | StixType::EmailAddr => {
                value.map(|text| each(own(text))).is_some()
            }
            StixType::Indicator | StixType::File => {
                let text = self.bound.document.get(row).unwrap_or_default();
                let Ok(native) = serde_json::from_str::<Native<'_>>(text) else { return false };
                let mut found = false;
                if stix_type == StixType::File {
                    for hash in native.hashes.iter().flatten().map(|(_, hash)| hash) {
                        if HashAlgorithm::of(hash).is_some() {
                            each(own(hash));
                            found = true;
                        }
                    }
                } else if native.pattern_type.as_deref().is_none_or(|name| name == "stix") {
                    for (stix_type, text) in native.pattern.iter().flat_map(|text| pattern::values(text)) {
                        each(Value { stix_type: Some(stix_type), name: stix_type.as_str(), text });
                        found = true;
                    }
                }
                found
            }
            _ => false,
        }
    }
}
