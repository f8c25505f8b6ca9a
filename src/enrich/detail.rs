//! What is told of an indicator: read from its row once, kept as the bytes that are written.

use std::sync::Arc;

use arrow::array::{Array, AsArray, FixedSizeBinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{ArrowPrimitiveType, Int8Type, Int16Type, TimestampMicrosecondType};

use crate::enrich::Format;
use crate::enrich::index::Index;
use crate::enrich::rows::{COLUMNS, Native, Rows, name, names, text, texts};
use crate::enrich::runs::{Row, Runs};
use crate::enrich::value::{Key, OwnedKey, Value};
use crate::model::ids::{Uuid16, write_uuid};
use crate::model::json::string_into;
use crate::model::kind::StixType;
use crate::model::schema::{column, kind_value};
use crate::model::time::Timestamp;
use crate::store::StoreError;

const OWN_COLUMNS: [&str; 13] = [
    column::INDICATOR_ID,
    column::STIX_ID,
    column::SCORE,
    column::MODIFIED,
    column::FIRST_SEEN,
    column::LAST_SEEN,
    column::EXPIRATION,
    column::TAGS,
    column::SOURCE_BRANDS,
    column::RELIABILITY,
    column::CONFIDENCE,
    column::TLP,
    column::DESCRIPTION,
];

/// An indicator's row, as far as it is told.
#[derive(Debug)]
pub(crate) struct Detail {
    /// One for each value it is found by.
    entries: Box<[Entry]>,
    /// What is the same whichever value it was, for after it.
    common: Box<[u8]>,
    /// The part that ECS has no names for; of the flat form it is in `common`.
    own: Box<[u8]>,
    /// A JSON text.
    id: Box<[u8]>,
    /// 0–3; unknown where nothing is said.
    pub(crate) score: u8,
    /// When it ends, if it does.
    expiration: Option<Timestamp>,
    revoked: bool,
}

#[derive(Debug)]
struct Entry {
    key: OwnedKey,
    /// Members that tell what it is.
    head: Box<[u8]>,
    /// A JSON text.
    value: Box<[u8]>,
}

/// One value of an indicator that was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told<'a> {
    detail: &'a Detail,
    entry: &'a Entry,
}

impl Detail {
    /// The value that is what was asked for; `None`: the hashes met, and no more.
    pub(crate) fn told(&self, asked: Key<'_>, above: bool) -> Option<Told<'_>> {
        let entry = self.entries.iter().find(|entry| entry.key.answers(asked, above))?;
        Some(Told { detail: self, entry })
    }

    /// Whether it holds at that time: neither expired nor withdrawn.
    pub(crate) fn holds_at(&self, now: Timestamp) -> bool {
        !self.revoked && self.expiration.is_none_or(|expiration| expiration > now)
    }

    /// Bytes of memory.
    pub(crate) fn weight(&self) -> u64 {
        let entry = |entry: &Entry| entry.key.weight() + entry.head.len() + entry.value.len() + 2 * size_of::<Entry>();
        let entries: usize = self.entries.iter().map(entry).sum();
        (size_of::<Self>() + entries + self.common.len() + self.own.len() + self.id.len()) as u64
    }
}

impl Told<'_> {
    /// Appends the object of ECS that an indicator is.
    pub(crate) fn indicator_into(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        out.extend_from_slice(&self.entry.head);
        out.extend_from_slice(&self.detail.common);
        out.push(b'}');
    }

    /// Appends one of ECS' enrichments; `field` is a JSON text.
    pub(crate) fn enrichment_into(&self, field: &[u8], relation: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"indicator\":");
        self.indicator_into(out);
        out.extend_from_slice(b",\"matched\":{\"atomic\":");
        out.extend_from_slice(&self.entry.value);
        if !field.is_empty() {
            out.extend_from_slice(b",\"field\":");
            out.extend_from_slice(field);
        }
        out.extend_from_slice(b",\"id\":");
        out.extend_from_slice(&self.detail.id);
        out.extend_from_slice(b",\"type\":\"");
        out.extend_from_slice(relation.as_bytes());
        out.extend_from_slice(b"\"},\"taxiway\":{");
        out.extend_from_slice(&self.detail.own);
        out.extend_from_slice(b"}}");
    }

    /// Appends the members of the flat form, behind others.
    pub(crate) fn flat_into(&self, field: &[u8], relation: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"ti_field\":");
        out.extend_from_slice(field);
        out.extend_from_slice(b",\"ti_match\":\"");
        out.extend_from_slice(relation.as_bytes());
        out.extend_from_slice(b"\",\"ti_value\":");
        out.extend_from_slice(&self.entry.value);
        out.push(b',');
        out.extend_from_slice(&self.entry.head);
        out.extend_from_slice(&self.detail.common);
    }
}

/// Reads rows, given by part and row: rising, each once, as they are told of.
pub(crate) fn load(
    index: &Index,
    runs: &Runs,
    wanted: &[(u32, u32)],
    format: Format,
) -> Result<Vec<Arc<Detail>>, StoreError> {
    let columns = [&COLUMNS[..], &OWN_COLUMNS[..], &[column::REVOKED]].concat();
    let found = runs.rows(index, wanted, &columns)?;
    let bound: Vec<(Rows<'_>, &Row)> = found.iter().map(|row| (Rows::bind(&row.0), row)).collect();
    let is_native = |(rows, (_, row)): &(Rows<'_>, &Row)| rows.is_native(*row);
    // Of XSOAR's records documents are long and hold nothing that the columns do not, and this id is not the one that is told.
    let of_natives: Vec<usize> = (0..bound.len()).filter(|at| bound.get(*at).is_some_and(is_native)).collect();
    let documents = if of_natives.is_empty() {
        None
    } else {
        let places = of_natives.iter().filter_map(|at| wanted.get(*at)).map(|(part, row)| (*part as usize, *row));
        Some(index.snapshot.read_rows(&places.collect::<Vec<_>>(), &[column::KIND, column::ID, column::DOCUMENT])?)
    };
    let documents = documents.as_ref().map(|batch| (Rows::bind(batch), Columns { batch }));
    let detail = |(at, (rows, (batch, row))): (usize, &(Rows<'_>, &Row))| {
        let place = documents.as_ref().and_then(|documents| Some((documents, of_natives.binary_search(&at).ok()?)));
        let of_native = place.map(|((own, columns), at)| (own.native(at), columns.uuid(column::ID, at)));
        let (native, own_id) = of_native.unwrap_or_default();
        Arc::new(Columns { batch }.detail(rows, *row, &native, own_id, format))
    };
    Ok(bound.iter().enumerate().map(detail).collect())
}

struct Columns<'a> {
    batch: &'a RecordBatch,
}

impl<'a> Columns<'a> {
    fn text(&self, column: &str, row: usize) -> Option<&'a str> {
        text(texts(self.batch, column), row).filter(|text| !text.is_empty())
    }

    fn name(&self, column: &str, row: usize) -> Option<&'a str> {
        name(names(self.batch, column), row).filter(|name| !name.is_empty())
    }

    fn number<T: ArrowPrimitiveType>(&self, column: &str, row: usize) -> Option<T::Native> {
        let numbers = self.batch.column_by_name(column)?.as_primitive_opt::<T>()?;
        numbers.is_valid(row).then(|| numbers.value(row))
    }

    fn time(&self, column: &str, row: usize) -> Option<Timestamp> {
        self.number::<TimestampMicrosecondType>(column, row).map(Timestamp)
    }

    fn uuid(&self, column: &str, row: usize) -> Option<Uuid16> {
        let ids = self.batch.column_by_name(column)?.as_any().downcast_ref::<FixedSizeBinaryArray>()?;
        ids.is_valid(row).then(|| ids.value(row).try_into().ok()).flatten()
    }

    fn list(&self, column: &str, row: usize) -> Option<StringArray> {
        let lists = self.batch.column_by_name(column)?.as_list_opt::<i32>()?;
        let list = lists.is_valid(row).then(|| lists.value(row))?;
        list.as_string_opt::<i32>().filter(|list| !list.is_empty()).cloned()
    }

    /// The id of the object: of an indicator record that of its `indicator`, of a native object its own.
    fn id(&self, row: usize, own_id: Option<Uuid16>) -> Vec<u8> {
        let own = |stix_type: &str, uuid: Uuid16| {
            let mut id = format!("\"{stix_type}--").into_bytes();
            write_uuid(&uuid, &mut id);
            id.push(b'"');
            id
        };
        if self.name(column::KIND, row) == Some(kind_value::INDICATOR) {
            let uuid = self.uuid(column::INDICATOR_ID, row).unwrap_or_default();
            return own(StixType::Indicator.as_str(), uuid);
        }
        match self.text(column::STIX_ID, row) {
            Some(id) => quoted(id),
            None => own(self.name(column::STIX_TYPE, row).unwrap_or_default(), own_id.unwrap_or_default()),
        }
    }

    /// `native` and `own_id` are of a native object.
    fn detail(
        &self,
        rows: &Rows<'_>,
        row: usize,
        native: &Native<'_>,
        own_id: Option<Uuid16>,
        format: Format,
    ) -> Detail {
        let mut entries: Vec<Entry> = Vec::new();
        let mut scratch = Vec::new();
        rows.each(row, native, &mut scratch, |found| {
            let key = found.value.with_key(|key| key.keep());
            if entries.iter().any(|entry| entry.key == key) {
                return;
            }
            let mut head = Members::new(format, false);
            match format {
                Format::Ecs => {
                    head.text("type", found.stix_type.as_str());
                    head.text("name", found.text);
                    ecs_value(&mut head, &found.value, found.text, rows, row, native);
                }
                Format::Flat => head.text("type", found.stix_type.as_str()),
            }
            entries.push(Entry { key, head: head.finish(), value: quoted(found.text).into() });
        });
        let score = self.number::<Int8Type>(column::SCORE, row).map_or(0, |score| score.clamp(0, 3) as u8);
        let expiration = self.time(column::EXPIRATION, row);
        let revoked = self.batch.column_by_name(column::REVOKED).and_then(|flags| flags.as_boolean_opt());
        let revoked = revoked.is_some_and(|flags| flags.is_valid(row) && flags.value(row));
        let id = self.id(row, own_id);
        let (mut common, mut own) = (Members::new(format, true), Members::new(format, false));
        if format == Format::Flat {
            common.raw("id", &id);
        }
        self.describe(row, native, format, &mut common);
        let beside = if format == Format::Ecs { &mut own } else { &mut common };
        self.judge(row, score, expiration, revoked, beside);
        Detail {
            entries: entries.into(),
            common: common.finish(),
            own: own.finish(),
            id: id.into(),
            score,
            expiration,
            revoked,
        }
    }

    /// What ECS has names for.
    fn describe(&self, row: usize, native: &Native<'_>, format: Format, out: &mut Members) {
        let ecs = format == Format::Ecs;
        let confidence = self.number::<Int16Type>(column::CONFIDENCE, row);
        if let Some(confidence) = confidence {
            if ecs { out.text("confidence", in_words(confidence)) } else { out.raw("confidence", &number(confidence)) }
        }
        if let Some(colour) = self.name(column::TLP, row) {
            let colour = colour.to_ascii_uppercase();
            if ecs {
                let mut marking = b"{\"tlp\":".to_vec();
                string_into(&colour, &mut marking);
                marking.push(b'}');
                out.raw("marking", &marking);
            } else {
                out.text("tlp", &colour);
            }
        }
        let modified = if ecs { "modified_at" } else { "modified" };
        for (name, column) in
            [("first_seen", column::FIRST_SEEN), ("last_seen", column::LAST_SEEN), (modified, column::MODIFIED)]
        {
            if let Some(time) = self.time(column, row) {
                out.time(name, time);
            }
        }
        if ecs && let Some(sources) = self.list(column::SOURCE_BRANDS, row) {
            out.text("provider", sources.value(0));
        }
        if let Some(description) = self.text(column::DESCRIPTION, row) {
            out.text("description", description);
        }
        if let Some(reference) = native.reference() {
            out.text("reference", reference);
        }
    }

    /// What ECS has no names for.
    fn judge(&self, row: usize, score: u8, expiration: Option<Timestamp>, revoked: bool, out: &mut Members) {
        out.text("verdict", VERDICTS.get(usize::from(score)).copied().unwrap_or_default());
        out.raw("score", &number(score.into()));
        // The flat form has it among the others.
        if out.format == Format::Ecs
            && let Some(confidence) = self.number::<Int16Type>(column::CONFIDENCE, row)
        {
            out.raw("confidence", &number(confidence));
        }
        if let Some(reliability) = self.name(column::RELIABILITY, row) {
            out.text("reliability", reliability);
        }
        for (name, column) in [("tags", column::TAGS), ("sources", column::SOURCE_BRANDS)] {
            if let Some(list) = self.list(column, row) {
                out.list(name, &list);
            }
        }
        if let Some(expiration) = expiration {
            out.time("expires", expiration);
        }
        if revoked {
            out.raw("revoked", b"true");
        }
    }
}

const VERDICTS: [&str; 4] = ["unknown", "benign", "suspicious", "malicious"];

/// The scale None/Low/Medium/High of STIX 2.1 (appendix A), as ECS spells it.
fn in_words(confidence: i16) -> &'static str {
    match confidence {
        ..=0 => "None",
        1..=29 => "Low",
        30..=69 => "Medium",
        70.. => "High",
    }
}

fn number(number: i16) -> Vec<u8> {
    number.to_string().into_bytes()
}

fn quoted(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    string_into(text, &mut out);
    out
}

/// The fields that ECS has for values of that type.
fn ecs_value(out: &mut Members, value: &Value<'_>, text: &str, rows: &Rows<'_>, row: usize, native: &Native<'_>) {
    let nested = |path: &[&str], value: &str| {
        let mut object = Vec::new();
        for name in path {
            object.push(b'{');
            string_into(name, &mut object);
            object.push(b':');
        }
        string_into(value, &mut object);
        object.extend(path.iter().map(|_| b'}'));
        object
    };
    match value {
        Value::Address(address) => out.text("ip", &address.to_string()),
        // Fields of addresses take no networks.
        Value::Network(..) | Value::Below(_) => {}
        Value::Domain(name) => out.raw("url", &nested(&["domain"], &String::from_utf8_lossy(name))),
        Value::Url { .. } => out.raw("url", &nested(&["full"], text)),
        Value::Email { .. } => out.raw("email", &nested(&["address"], text)),
        Value::Hash(digits) => {
            let found = String::from_utf8_lossy(digits);
            let name = match digits.len() {
                32 => "md5",
                40 => "sha1",
                64 => "sha256",
                _ => "sha512",
            };
            let mut hashes = Members::new(Format::Ecs, false);
            hashes.text(name, &found);
            for (other, digits) in rows.hashes(row, native).filter(|(other, _)| *other != name) {
                hashes.text(other, &digits.to_ascii_lowercase());
            }
            let object = [&b"{\"hash\":{"[..], &hashes.finish(), b"}}"].concat();
            out.raw("file", &object);
        }
    }
}

/// Members of a JSON object, without its braces.
struct Members {
    format: Format,
    /// They stand behind others.
    behind: bool,
    out: Vec<u8>,
}

impl Members {
    fn new(format: Format, behind: bool) -> Self {
        Members { format, behind, out: Vec::new() }
    }

    fn name(&mut self, name: &str) {
        if self.behind || !self.out.is_empty() {
            self.out.push(b',');
        }
        self.out.extend_from_slice(if self.format == Format::Flat { b"\"ti_" } else { b"\"" });
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        string_into(text, &mut self.out);
    }

    fn raw(&mut self, name: &str, json: &[u8]) {
        self.name(name);
        self.out.extend_from_slice(json);
    }

    fn time(&mut self, name: &str, time: Timestamp) {
        self.name(name);
        self.out.push(b'"');
        time.write_millis_to(&mut self.out);
        self.out.push(b'"');
    }

    fn list(&mut self, name: &str, list: &StringArray) {
        self.name(name);
        self.out.push(b'[');
        for (at, item) in list.iter().flatten().enumerate() {
            if at > 0 {
                self.out.push(b',');
            }
            string_into(item, &mut self.out);
        }
        self.out.push(b']');
    }

    fn finish(self) -> Box<[u8]> {
        self.out.into()
    }
}
