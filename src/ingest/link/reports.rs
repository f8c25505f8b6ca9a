//! What edges add to the references of reports, and take away.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, ListBuilder, RecordBatch, StringBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::TimestampMicrosecondType;

use super::CHUNK_EDGES;
use super::rows::{Rows, is_report, set, sorted, text, uuid, where_named};
use crate::ingest::edge::stix_id;
use crate::ingest::{json, xsoar};
use crate::model::ids::Uuid16;
use crate::model::kind::StixType;
use crate::model::schema::column as c;
use crate::model::time::Timestamp;
use crate::store::{Dates, Snapshot, StoreError, id_key, row_runs};

/// What an edge adds to the references of a report.
#[derive(Debug, Clone)]
pub(super) struct Added {
    id: String,
    indicator: Option<Uuid16>,
}

pub(super) type ByReport = HashMap<String, Vec<Added>>;

/// Notes what edges that were not withdrawn add to the reports they touch, where those are wanted.
pub(super) fn note_added(
    edges: &RecordBatch,
    wanted: impl Fn(&str) -> bool,
    by_report: &mut ByReport,
) -> Result<(), StoreError> {
    let rows = Rows::bind(edges)?;
    let revoked = edges.column_by_name(c::REVOKED).and_then(|array| array.as_boolean_opt());
    let indicators = [c::SOURCE_INDICATOR_ID, c::TARGET_INDICATOR_ID]
        .map(|name| edges.column_by_name(name).and_then(|a| a.as_fixed_size_binary_opt()));
    for at in 0..edges.num_rows() {
        if revoked.is_some_and(|revoked| revoked.is_valid(at) && revoked.value(at)) {
            continue;
        }
        let (Some(source), Some(target)) = (text(rows.source_ref, at), text(rows.target_ref, at)) else { continue };
        for (report, other, indicator) in [(source, target, indicators[1]), (target, source, indicators[0])] {
            if !is_report(report) || !wanted(report) {
                continue;
            }
            let added = by_report.entry(report.to_owned()).or_default();
            if other != report {
                added.push(Added { id: other.to_owned(), indicator: uuid(indicator, at) });
            }
            added.extend(rows.stix_id(at).map(|id| Added { id, indicator: None }));
        }
    }
    Ok(())
}

/// What the live edges of the log add to these reports.
pub(super) fn added_in(log: &Snapshot, reports: &BTreeSet<String>) -> Result<ByReport, StoreError> {
    let mut by_report = ByReport::new();
    let columns = [
        c::KIND,
        c::STIX_TYPE,
        c::ID,
        c::STIX_ID,
        c::REVOKED,
        c::SOURCE_REF,
        c::TARGET_REF,
        c::SOURCE_INDICATOR_ID,
        c::TARGET_INDICATOR_ID,
    ];
    for (segment, rows) in log.find_edges(&sorted(reports.iter().map(|id| id_key(id))))? {
        let Some(view) = log.view(segment) else { continue };
        for batch in view.segment.read(&row_runs(&rows), &columns, CHUNK_EDGES)? {
            note_added(&batch?, |report| reports.contains(report), &mut by_report)?;
        }
    }
    Ok(by_report)
}

/// The references that a report has of its own, without those that `added` says its edges added.
fn own_refs(refs: &ListArray, document: Option<&str>, added: &[Added], at: usize) -> Vec<String> {
    if refs.is_null(at) {
        return Vec::new();
    }
    let said: HashSet<Cow<'_, str>> = document
        .and_then(|document| json::member(json::member(document, "CustomFields")?, "reportobjectreferences"))
        .map(|raw| xsoar::report_refs(raw).collect())
        .unwrap_or_default();
    let added: HashSet<&str> = added.iter().map(|added| added.id.as_str()).collect();
    let refs = refs.value(at);
    let all = refs.as_string_opt::<i32>().into_iter().flat_map(|refs| refs.iter().flatten());
    all.filter(|id| !added.contains(id) || said.contains(*id)).map(str::to_owned).collect()
}

/// Takes from reports of the store what their edges added, so that they compare with what an input says.
pub(crate) fn without_added(log: &Snapshot, batch: RecordBatch) -> Result<RecordBatch, StoreError> {
    if where_named(&batch, c::STIX_TYPE, StixType::Report.as_str()).is_none() || !log.has_edges() {
        return Ok(batch);
    }
    let rows = Rows::bind(&batch)?;
    let of_row: Vec<Option<String>> =
        (0..batch.num_rows()).map(|at| rows.stix_id(at).filter(|_| rows.is_report(at))).collect();
    let added = added_in(log, &of_row.iter().flatten().cloned().collect())?;
    if added.is_empty() {
        return Ok(batch);
    }
    let none = Vec::new();
    let refs = references(&batch, |at| match &of_row[at] {
        Some(id) => Some((added.get(id).unwrap_or(&none).as_slice(), &[])),
        None => None,
    })?;
    drop(rows);
    refs.set(batch)
}

/// New columns of references.
pub(super) struct References {
    refs: ArrayRef,
    indicators: ArrayRef,
    pub(super) changed: Vec<bool>,
}

impl References {
    pub(super) fn set(self, mut batch: RecordBatch) -> Result<RecordBatch, StoreError> {
        set(&mut batch, c::OBJECT_REFS, self.refs)?;
        set(&mut batch, c::OBJECT_REF_INDICATORS, self.indicators)?;
        Ok(batch)
    }
}

/// References of each row: its own, found by taking away what was added, then what is added now. Rows for which nothing is said keep
/// theirs.
pub(super) fn references<'a>(
    batch: &RecordBatch,
    added: impl Fn(usize) -> Option<(&'a [Added], &'a [Added])>,
) -> Result<References, StoreError> {
    let column = |name| -> Result<&ListArray, StoreError> {
        Ok(batch.column(batch.schema_ref().index_of(name)?).as_list::<i32>())
    };
    let (old, old_indicators) = (column(c::OBJECT_REFS)?, column(c::OBJECT_REF_INDICATORS)?);
    let documents = batch.column_by_name(c::DOCUMENT).and_then(|array| array.as_string_opt::<i32>());
    let mut refs = ListBuilder::new(StringBuilder::new());
    let mut indicators = ListBuilder::new(StringBuilder::new());
    let mut changed = Vec::with_capacity(batch.num_rows());
    let texts = |list: &ListArray, at: usize| -> Vec<String> {
        let items = list.is_valid(at).then(|| list.value(at));
        let items = items.as_ref().and_then(|items| items.as_string_opt::<i32>());
        items.into_iter().flat_map(|items| items.iter().map(|item| item.unwrap_or_default().to_owned())).collect()
    };
    let put = |builder: &mut ListBuilder<StringBuilder>, texts: &[String]| {
        texts.iter().for_each(|text| builder.values().append_value(text));
        builder.append(!texts.is_empty());
    };
    for at in 0..batch.num_rows() {
        let (before, before_indicators) = (texts(old, at), texts(old_indicators, at));
        let Some((was, is)) = added(at) else {
            put(&mut refs, &before);
            put(&mut indicators, &before_indicators);
            changed.push(false);
            continue;
        };
        let mut now = own_refs(old, text(documents, at), was, at);
        let mut now_indicators = vec![String::new(); now.len()];
        let mut known: HashSet<String> = now.iter().cloned().collect();
        for added in is {
            if known.insert(added.id.clone()) {
                now.push(added.id.clone());
                now_indicators
                    .push(added.indicator.map(|uuid| stix_id(StixType::Indicator, &uuid)).unwrap_or_default());
            }
        }
        if now_indicators.iter().all(String::is_empty) {
            now_indicators.clear();
        }
        changed.push(now != before || now_indicators != before_indicators);
        put(&mut refs, &now);
        put(&mut indicators, &now_indicators);
    }
    Ok(References { refs: Arc::new(refs.finish()), indicators: Arc::new(indicators.finish()), changed })
}

/// `modified` of reports that changed: a changed object is a newer version (STIX 2.1 §3.6).
pub(super) fn newer(batch: &RecordBatch, now: Timestamp, dates: Dates) -> Result<ArrayRef, StoreError> {
    let before = batch.column(batch.schema_ref().index_of(c::MODIFIED)?).as_primitive::<TimestampMicrosecondType>();
    let now_ms = now.0 / 1_000 * 1_000;
    let bump = |before: Option<i64>| match (before, dates) {
        (Some(before), Dates::OfCommit) => now_ms.max(before + 1_000),
        (Some(before), Dates::OfRows) => before + 1_000,
        (None, _) => now_ms,
    };
    let modified: TimestampMicrosecondArray = before.iter().map(|before| Some(bump(before))).collect();
    Ok(Arc::new(modified.with_timezone("UTC")))
}
