//! Definitions that rows are rendered with: an extension definition for each STIX type of indicators, a marking definition for each
//! colour they bear (spec/xsoar-taxii2-server.md §6, STIX 2.1 §7.2.1.4).
//!
//! They are rows of the log, committed once, before the first row that needs them, with ids that follow from their names: so
//! they are served, paged and resumed like anything else. What a definition says is rendered by code.

use std::collections::{BTreeSet, HashSet};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, TimestampMicrosecondType};

use crate::ingest::builder::{BatchBuilder, Col};
use crate::ingest::edge::stix_id;
use crate::model::ids::{IdSpace, TlpMarking};
use crate::model::kind::StixType;
use crate::model::schema::{column as c, kind_value};
use crate::model::time::Timestamp;
use crate::store::{NewRows, Snapshot, StoreError};

/// A column whose texts need a definition each.
const SUBJECTS: [(&str, StixType); 2] =
    [(c::STIX_TYPE, StixType::ExtensionDefinition), (c::TLP, StixType::MarkingDefinition)];

/// The name under which the manifest knows a definition.
fn name(stix_type: &str, subject: &str) -> String {
    format!("{stix_type}:{subject}")
}

/// The definitions that the indicators of `batch` need and that are not `known`, which they are then. One that the log, or the batch
/// itself with its `keys`, holds as a native object is not made again.
pub(crate) fn missing(
    batch: &RecordBatch,
    keys: impl Fn(u64) -> bool,
    known: &mut BTreeSet<String>,
    snapshot: &Snapshot,
    ids: &IdSpace,
) -> Result<Option<NewRows>, StoreError> {
    let mut wanted: Vec<(usize, StixType, String)> = Vec::new();
    for (column, stix_type) in SUBJECTS {
        for (row, subject) in first_rows(batch, column) {
            // STIX 2.0 has another colour for some, which needs its definition as well.
            let stand_in = TlpMarking::of(&subject).map(|marking| marking.in_stix_20().colour.to_owned());
            for subject in std::iter::once(subject).chain(stand_in.filter(|_| stix_type == StixType::MarkingDefinition))
            {
                let is_known = known.contains(&name(stix_type.as_str(), &subject));
                if !is_known && !wanted.iter().any(|(_, of, other)| (*of, other) == (stix_type, &subject)) {
                    wanted.push((row, stix_type, subject));
                }
            }
        }
    }
    if wanted.is_empty() {
        return Ok(None);
    }
    // Of several, those that are needed first come first.
    wanted.sort();
    let times = |column: &str, row: usize| {
        let column = batch.column_by_name(column)?.as_primitive_opt::<TimestampMicrosecondType>()?;
        column.is_valid(row).then(|| Timestamp(column.value(row)))
    };
    let types = batch.column_by_name(c::TYPE).and_then(|array| array.as_dictionary_opt::<Int32Type>());
    let types = types.and_then(|types| types.downcast_dict::<arrow::array::StringArray>());
    let mut builder = BatchBuilder::new(wanted.len(), 0);
    for (row, stix_type, subject) in wanted {
        let uuid = match stix_type {
            StixType::MarkingDefinition => TlpMarking::of(&subject).map(|marking| marking.id),
            _ => Some(ids.extension_definition(&subject)),
        };
        let Some(uuid) = uuid else { continue };
        let id = stix_id(stix_type, &uuid);
        let key = crate::ingest::builder::identity_key(("stix", &id), &mut Vec::new());
        let is_native = keys(key) || snapshot.find_keys(&[key])?.iter().any(|found| found.live);
        known.insert(name(stix_type.as_str(), &subject));
        if is_native {
            continue;
        }
        builder.text_aside(Col::Kind, kind_value::DEFINITION);
        builder.text_aside(Col::StixType, stix_type.as_str());
        builder.uuid(Col::Id, &uuid);
        if let Some(types) = types.filter(|types| stix_type == StixType::ExtensionDefinition && types.is_valid(row)) {
            let keys = types.keys();
            builder.text_aside(Col::Type, types.values().value(keys.value(row) as usize));
        }
        builder.text(Col::Value, &subject);
        builder.time(Col::Created, times(c::CREATED, row));
        builder.time(Col::Modified, times(c::MODIFIED, row));
        builder.end_row(("stix", &id), 0);
    }
    let parsed = builder.finish(Vec::new(), 0, 0)?;
    Ok((!parsed.keys.is_empty()).then_some(NewRows { batch: parsed.batch, keys: parsed.keys, digests: parsed.digests }))
}

/// The first row of an indicator with each text of a dictionary column.
fn first_rows(batch: &RecordBatch, column: &str) -> Vec<(usize, String)> {
    let of = |name: &str| {
        let array = batch.column_by_name(name)?.as_dictionary_opt::<Int32Type>()?;
        Some((array.keys(), array.values().as_string_opt::<i32>()?))
    };
    let (Some((kinds, kind_names)), Some((keys, names))) = (of(c::KIND), of(column)) else { return Vec::new() };
    let indicator: HashSet<i32> = (0..kind_names.len() as i32)
        .filter(|key| kind_names.is_valid(*key as usize) && kind_names.value(*key as usize) == kind_value::INDICATOR)
        .collect();
    let mut seen = vec![false; names.len()];
    let mut first = Vec::new();
    for row in 0..batch.num_rows() {
        if !keys.is_valid(row) {
            continue;
        }
        let key = keys.value(row) as usize;
        if seen.get(key) == Some(&false) && indicator.contains(&kinds.value(row)) {
            seen[key] = true;
            first.push((row, names.value(key).to_owned()));
        }
    }
    // A dictionary may hold a text twice.
    let mut known = HashSet::new();
    first.retain(|(_, name)| known.insert(name.clone()));
    first
}
