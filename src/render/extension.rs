//! What of the original record goes along with an object (spec/xsoar-taxii2-server.md §6, STIX 2.1 §7.3).
//!
//! The record is the document it came as, wherever there is one; from plain lists and tables it is made of the columns.
//! Documents are kept as they came last, while the columns are merged from all inputs, so what merging may have changed
//! since (the verdict and the custom fields) is taken from the columns: whoever reads the extension back gets the
//! record as it is served.
//!
//! `xsoar` sends it as the original does: all of it, or the fields asked for, nulls included. Names of STIX properties
//! are lower case, so `standard` has first-level fields in snake case, and the custom fields beside them by their
//! machine names; XSOAR's own feed reads custom fields from there too. What says nothing is left out. 2.0 has no
//! extensions but custom properties: there it is `x_cortex_xsoar_tim`.

use std::ops::Range;

use super::columns::{Bound, Text, Texts, Times};
use super::encoder::{Manner, Source};
use super::rewrite::{Changes, Reader, Rewriter, compare, says_nothing};
use super::text::{close, string_into};
use super::{ExtensionFields, Extensions};
use crate::model::ids::write_uuid;
use crate::model::kind::StixType;
use crate::model::schema::column as c;
use crate::model::words;

const CUSTOM_FIELDS: &str = "CustomFields";
const EXTENSION_TYPE: &str = "extension_type";
const MIN_NAME_BYTES: usize = 3;
const MAX_NAME_BYTES: usize = 250;

/// How a column tells a field.
#[derive(Clone, Copy)]
enum Told {
    Text(for<'a> fn(&Bound<'a>) -> Text<'a>),
    /// A hash; that of the value is no field of its own.
    Hash(for<'a> fn(&Bound<'a>) -> Text<'a>),
    /// JSON.
    Json(for<'a> fn(&Bound<'a>) -> Text<'a>),
    Texts(for<'a> fn(&Bound<'a>) -> Texts<'a>),
    Time(for<'a> fn(&Bound<'a>) -> Times<'a>),
    Score,
    Confidence,
    IsFamily,
}

/// Whose word counts where document and column both have one.
#[derive(Clone, Copy, PartialEq)]
enum Whose {
    /// The document's: the column only repeats it.
    Document,
    /// The column's, if it says something else: inputs after the document may have changed it.
    Column,
}

/// A field with a column: its name in documents, and where it lies.
type Field = (&'static str, &'static str, Told, Whose);

/// First-level fields of records without a document; of those with one the verdict only.
const FIRST_LEVEL: &[Field] = &[
    ("score", c::SCORE, Told::Score, Whose::Column),
    ("value", c::VALUE, Told::Text(|bound| bound.value), Whose::Document),
    ("indicator_type", c::TYPE, Told::Text(|bound| bound.xsoar_type), Whose::Document),
    ("timestamp", c::CREATED, Told::Time(|bound| bound.created), Whose::Document),
    ("modified", c::MODIFIED, Told::Time(|bound| bound.modified), Whose::Document),
    ("expiration", c::EXPIRATION, Told::Time(|bound| bound.expiration), Whose::Document),
    ("firstSeen", c::FIRST_SEEN, Told::Time(|bound| bound.first_seen), Whose::Document),
    ("lastSeen", c::LAST_SEEN, Told::Time(|bound| bound.last_seen), Whose::Document),
    ("sourceBrands", c::SOURCE_BRANDS, Told::Texts(|bound| bound.source_brands), Whose::Document),
    ("sourceInstances", c::SOURCE_INSTANCES, Told::Texts(|bound| bound.source_instances), Whose::Document),
    ("aggregatedReliability", c::RELIABILITY, Told::Text(|bound| bound.reliability), Whose::Document),
];

const CUSTOM: &[Field] = &[
    ("stixid", c::STIX_ID, Told::Text(|bound| bound.stix_id), Whose::Column),
    ("tags", c::TAGS, Told::Texts(|bound| bound.tags), Whose::Column),
    ("description", c::DESCRIPTION, Told::Text(|bound| bound.description), Whose::Column),
    ("trafficlightprotocol", c::TLP, Told::Text(|bound| bound.tlp), Whose::Column),
    ("confidence", c::CONFIDENCE, Told::Confidence, Whose::Column),
    ("mitreid", c::MITRE_ID, Told::Text(|bound| bound.mitre_id), Whose::Document),
    ("accounttype", c::ACCOUNT_TYPE, Told::Text(|bound| bound.account_type), Whose::Document),
    ("userid", c::USER_ID, Told::Text(|bound| bound.user_id), Whose::Document),
    ("md5", c::MD5, Told::Hash(|bound| bound.md5), Whose::Document),
    ("sha1", c::SHA1, Told::Hash(|bound| bound.sha1), Whose::Document),
    ("sha256", c::SHA256, Told::Hash(|bound| bound.sha256), Whose::Document),
    ("sha512", c::SHA512, Told::Hash(|bound| bound.sha512), Whose::Document),
    ("ssdeep", c::SSDEEP, Told::Text(|bound| bound.ssdeep), Whose::Document),
    ("published", c::PUBLISHED, Told::Time(|bound| bound.published), Whose::Document),
    ("ismalwarefamily", c::IS_FAMILY, Told::IsFamily, Whose::Document),
    ("identityclass", c::IDENTITY_CLASS, Told::Text(|bound| bound.identity_class), Whose::Document),
    ("name", c::AS_NAME, Told::Text(|bound| bound.as_name), Whose::Document),
    ("keyvalue", c::REGISTRY_VALUES, Told::Json(|bound| bound.registry_values), Whose::Document),
    ("subject", c::SUBJECT, Told::Text(|bound| bound.subject), Whose::Document),
    ("issuer", c::ISSUER, Told::Text(|bound| bound.issuer), Whose::Document),
    ("validitynotbefore", c::VALIDITY_NOT_BEFORE, Told::Text(|bound| bound.validity_not_before), Whose::Document),
    ("validitynotafter", c::VALIDITY_NOT_AFTER, Told::Text(|bound| bound.validity_not_after), Whose::Document),
    ("killchainphases", c::KILL_CHAIN_PHASES, Told::Texts(|bound| bound.kill_chain_phases), Whose::Document),
];

/// The columns that the fields are read from.
pub(super) fn columns(fields: &ExtensionFields) -> impl Iterator<Item = &'static str> + use<'_> {
    let first_level = |name: &str| FIRST_LEVEL.iter().any(|(known, ..)| *known == name);
    let wants_custom = match fields {
        ExtensionFields::All => true,
        ExtensionFields::Named(names) => names.iter().any(|wanted| !first_level(looked_up(wanted))),
    };
    let told = FIRST_LEVEL.iter().chain(CUSTOM).filter(|(name, ..)| wants(fields, name)).map(|(_, column, ..)| *column);
    told.chain([c::DOCUMENT]).chain(wants_custom.then_some(c::CUSTOM))
}

/// What documents call a field that is asked for by that name.
fn looked_up(name: &str) -> &str {
    match name {
        "name" => "value",
        "type" => "indicator_type",
        same => same,
    }
}

/// What the original calls a field that is asked for by that name.
fn original_name(name: &str) -> &str {
    match name {
        "value" => "name",
        "indicator_type" => "type",
        same => same,
    }
}

/// A member, in [`Extender::written`].
#[derive(Clone, Debug)]
struct Entry {
    /// The key without quotes.
    key: Range<usize>,
    value: Range<usize>,
}

/// Writes the extensions of a batch. Kept from row to row for its memory.
pub(super) struct Extender<'a> {
    extensions: &'a Extensions,
    /// Fields with a column that are asked for.
    first_level: Vec<Field>,
    custom_level: Vec<Field>,
    rewriter: Rewriter,
    /// Keys and values of the row at hand.
    written: Vec<u8>,
    /// First-level members without the custom fields. Of equal keys the last one counts, in all three.
    first: Vec<Entry>,
    custom: Vec<Entry>,
    /// Whether the document has custom fields, if none that say anything.
    has_custom: bool,
    /// What is sent.
    sent: Vec<Entry>,
}

impl<'a> Extender<'a> {
    pub(super) fn new(extensions: &'a Extensions) -> Self {
        let wanted = |fields: &[Field]| -> Vec<Field> {
            fields.iter().filter(|(name, ..)| wants(&extensions.fields, name)).copied().collect()
        };
        Extender {
            extensions,
            first_level: wanted(FIRST_LEVEL),
            custom_level: wanted(CUSTOM),
            rewriter: Rewriter::default(),
            written: Vec::new(),
            first: Vec::new(),
            custom: Vec::new(),
            has_custom: false,
            sent: Vec::new(),
        }
    }

    /// Reads the row's record.
    fn gather(&mut self, bound: &Bound<'_>, row: usize, changes: Changes) {
        self.clear();
        let document = bound.document.filled(row);
        let has_document = document.is_some_and(|text| self.read_document(text, changes).is_some());
        if !has_document {
            self.clear();
        }
        if let Some(text) = bound.custom.filled(row) {
            let before = self.custom.len();
            if self.read_custom(&mut Reader::new(text), changes).is_none() {
                self.custom.truncate(before);
            }
        }
        for at in 0..self.first_level.len() {
            let Some(&(name, _, told, whose)) = self.first_level.get(at) else { continue };
            if whose == Whose::Column || !has_document {
                self.tell(false, (name, told, whose), bound, row, changes);
            }
        }
        for at in 0..self.custom_level.len() {
            let Some(&(name, _, told, whose)) = self.custom_level.get(at) else { continue };
            self.tell(true, (name, told, whose), bound, row, changes);
        }
    }

    fn clear(&mut self) {
        self.written.clear();
        self.first.clear();
        self.custom.clear();
        self.has_custom = false;
        self.sent.clear();
    }

    fn read_document(&mut self, text: &str, changes: Changes) -> Option<()> {
        let mut reader = Reader::new(text);
        reader.expect(b'{')?;
        if reader.skip(b'}') {
            return Some(());
        }
        loop {
            let key = self.read_key(&mut reader)?;
            let name = self.written.get(key.clone())?;
            if name == CUSTOM_FIELDS.as_bytes() && reader.comes(b'{') {
                // A document with two of them means the last one.
                self.custom.clear();
                self.has_custom = true;
                self.read_custom(&mut reader, changes)?;
            } else if wants_written(&self.extensions.fields, name) {
                let value = self.read_value(&mut reader, changes)?;
                self.first.push(Entry { key, value });
            } else {
                reader.pass()?;
            }
            if !reader.skip(b',') {
                reader.expect(b'}')?;
                return reader.is_at_end().then_some(());
            }
        }
    }

    /// Reads an object's members as custom fields.
    fn read_custom(&mut self, reader: &mut Reader<'_>, changes: Changes) -> Option<()> {
        reader.expect(b'{')?;
        if reader.skip(b'}') {
            return Some(());
        }
        loop {
            let key = self.read_key(reader)?;
            if wants_written(&self.extensions.fields, self.written.get(key.clone())?) {
                let value = self.read_value(reader, changes)?;
                self.custom.push(Entry { key, value });
            } else {
                reader.pass()?;
            }
            if !reader.skip(b',') {
                return reader.expect(b'}');
            }
        }
    }

    fn read_key(&mut self, reader: &mut Reader<'_>) -> Option<Range<usize>> {
        let start = self.written.len();
        reader.string(&mut self.written)?;
        let key = start..self.written.len();
        reader.expect(b':')?;
        Some(key)
    }

    fn read_value(&mut self, reader: &mut Reader<'_>, changes: Changes) -> Option<Range<usize>> {
        let start = self.written.len();
        self.rewriter.value(reader, changes, &mut self.written)?;
        Some(start..self.written.len())
    }

    /// Adds what a column tells, unless the record says it already.
    fn tell(
        &mut self,
        is_custom: bool,
        (name, told, whose): (&'static str, Told, Whose),
        bound: &Bound<'_>,
        row: usize,
        changes: Changes,
    ) {
        let start = self.written.len();
        let out = &mut self.written;
        let is_written = match told {
            Told::Text(of) => of(bound).filled(row).map(|text| string_into(text, out)),
            Told::Hash(of) => {
                let is_value = |hash: &&str| bound.value.get(row).is_some_and(|value| value.eq_ignore_ascii_case(hash));
                of(bound).filled(row).filter(|hash| !is_value(hash)).map(|text| string_into(text, out))
            }
            Told::Json(of) => of(bound).filled(row).and_then(|json| self.rewriter.whole(json, changes, out)),
            Told::Texts(of) => texts_into(of(bound).get(row), out),
            Told::Time(of) => of(bound).get(row).map(|at| {
                out.push(b'"');
                at.write_to(out);
                out.push(b'"');
            }),
            Told::Score => bound.score.get(row).map(|score| number_into(score.into(), out)),
            Told::Confidence => bound.confidence.get(row).map(|confidence| number_into(confidence.into(), out)),
            Told::IsFamily => bound.is_family.get(row).then(|| out.extend_from_slice(b"true")),
        };
        let list = if is_custom { &self.custom } else { &self.first };
        let is_new = is_written.is_some() && {
            let told_text = text(&self.written, &(start..self.written.len()));
            let said = find(list, &self.written, name).map(|said| text(&self.written, &said));
            match said.filter(|said| says_something(said)) {
                None => true,
                Some(said) => whose == Whose::Column && !agree(name, told, said, told_text),
            }
        };
        if !is_new {
            return self.written.truncate(start);
        }
        let value = start..self.written.len();
        self.written.extend_from_slice(name.as_bytes());
        let entry = Entry { key: value.end..self.written.len(), value };
        if is_custom { self.custom.push(entry) } else { self.first.push(entry) }
    }

    /// Chooses what is sent, as the profile has it.
    fn choose<M: Manner>(&mut self, bound: &Bound<'_>, row: usize) {
        let extensions = self.extensions;
        match &extensions.fields {
            ExtensionFields::All if M::XSOAR => {
                let start = self.written.len();
                self.written.push(b'{');
                let mut custom = std::mem::take(&mut self.custom);
                members_into(&mut custom, &mut self.written);
                self.written.push(b'}');
                let is_sent = self.has_custom || !custom.is_empty();
                self.custom = custom;
                let value = start..self.written.len();
                self.sent.append(&mut self.first);
                if is_sent {
                    self.send(CUSTOM_FIELDS, value);
                }
            }
            ExtensionFields::All => {
                let (custom, first) = (std::mem::take(&mut self.custom), std::mem::take(&mut self.first));
                for Entry { key, value } in custom.iter().chain(&first) {
                    self.send_as_property(key.clone(), value.clone());
                }
                (self.custom, self.first) = (custom, first);
            }
            ExtensionFields::Named(names) => {
                for name in names {
                    let value = self.named(name, bound, row);
                    match value {
                        Some(value) if M::XSOAR => self.send(original_name(name), value),
                        Some(value) => {
                            let start = self.written.len();
                            self.written.extend_from_slice(name.as_bytes());
                            self.send_as_property(start..self.written.len(), value);
                        }
                        None => {}
                    }
                }
                if M::XSOAR {
                    self.send_nulls(names);
                }
            }
        }
    }

    /// Where the value of a field lies that is asked for by name.
    fn named(&mut self, name: &str, bound: &Bound<'_>, row: usize) -> Option<Range<usize>> {
        let plain = match looked_up(name) {
            "value" => bound.value.filled(row),
            "indicator_type" => bound.xsoar_type.filled(row),
            _ => None,
        };
        if let Some(plain) = plain {
            let start = self.written.len();
            string_into(plain, &mut self.written);
            return Some(start..self.written.len());
        }
        let first = find(&self.first, &self.written, name).filter(|value| says_something(text(&self.written, value)));
        first.or_else(|| find(&self.custom, &self.written, name))
    }

    /// Sends a null for every field asked for that is not there.
    fn send_nulls(&mut self, names: &[Box<str>]) {
        let start = self.written.len();
        self.written.extend_from_slice(b"null");
        let null = start..self.written.len();
        for name in names {
            let name = original_name(name);
            if find(&self.sent, &self.written, name).is_none() {
                self.send(name, null.clone());
            }
        }
    }

    fn send(&mut self, name: &str, value: Range<usize>) {
        let start = self.written.len();
        crate::model::json::escape_into(name, &mut self.written);
        self.sent.push(Entry { key: start..self.written.len(), value });
    }

    /// Sends a value that says something under its key as STIX wants names of properties: `[a-z0-9_]`, 3 to 250 of
    /// them, a letter first.
    fn send_as_property(&mut self, key: Range<usize>, value: Range<usize>) {
        if says_nothing(text(&self.written, &value)) {
            return;
        }
        let start = self.written.len();
        let starts_right = self.written.get(key.start).is_some_and(u8::is_ascii_alphabetic);
        if key.len() < 3 || !starts_right {
            self.written.extend_from_slice(b"x_");
        }
        let mut after_lower = false;
        for at in key {
            let byte = self.written.get(at).copied().unwrap_or_default();
            if byte.is_ascii_uppercase() && after_lower {
                self.written.push(b'_');
            }
            after_lower = byte.is_ascii_lowercase() || byte.is_ascii_digit();
            self.written.push(if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'_' });
        }
        while self.written.len() < start + MIN_NAME_BYTES {
            self.written.push(b'_');
        }
        self.written.truncate(start + MAX_NAME_BYTES);
        self.sent.push(Entry { key: start..self.written.len(), value });
    }

    /// Appends the members of the extension, with nothing around them; the row's record must have been read.
    fn sent_into(&mut self, out: &mut Vec<u8>) {
        let mut sent = std::mem::take(&mut self.sent);
        sort(&mut sent, &self.written);
        for Entry { key, value } in &sent {
            out.push(b'"');
            out.extend_from_slice(text(&self.written, key));
            out.extend_from_slice(b"\":");
            out.extend_from_slice(text(&self.written, value));
            out.push(b',');
        }
        self.sent = sent;
    }
}

/// Appends `"extensions":{…},` to an object made from an indicator; nothing where none are asked for.
pub(super) fn extensions_into<M: Manner>(source: &mut Source<'_>, stix_type: StixType, row: usize, out: &mut Vec<u8>) {
    let Some(extender) = source.extender.as_deref_mut() else { return };
    let Some(definition) = extender.extensions.definitions.get(stix_type as usize) else { return };
    extender.gather(&source.bound, row, if M::XSOAR { Changes::Pythonic } else { Changes::Pruned });
    extender.choose::<M>(&source.bound, row);
    let start = extender.written.len();
    // The original's spelling is none that STIX knows.
    let spelling: &[u8] = if M::XSOAR { br#""property_extension""# } else { br#""property-extension""# };
    extender.written.extend_from_slice(spelling);
    let value = start..extender.written.len();
    extender.send(EXTENSION_TYPE, value);
    out.extend_from_slice(br#""extensions":{"extension-definition--"#);
    write_uuid(definition, out);
    out.extend_from_slice(b"\":{");
    extender.sent_into(out);
    close(b'}', out);
    out.extend_from_slice(b"},");
}

/// Appends `"x_cortex_xsoar_tim":{…},`, which is what 2.0 has in place of extensions.
pub(super) fn custom_property_into<M: Manner>(source: &mut Source<'_>, row: usize, out: &mut Vec<u8>) {
    let Some(extender) = source.extender.as_deref_mut() else { return };
    extender.gather(&source.bound, row, Changes::Pruned);
    extender.choose::<M>(&source.bound, row);
    if extender.sent.is_empty() {
        return;
    }
    out.extend_from_slice(br#""x_cortex_xsoar_tim":{"#);
    extender.sent_into(out);
    close(b'}', out);
    out.push(b',');
}

fn wants(fields: &ExtensionFields, name: &str) -> bool {
    match fields {
        ExtensionFields::All => true,
        ExtensionFields::Named(names) => names.iter().any(|wanted| **wanted == *name || looked_up(wanted) == name),
    }
}

/// The same of a key as written.
fn wants_written(fields: &ExtensionFields, key: &[u8]) -> bool {
    match fields {
        ExtensionFields::All => true,
        ExtensionFields::Named(_) => std::str::from_utf8(key).is_ok_and(|name| wants(fields, name)),
    }
}

/// Whether a field counts as there: as Python has it, except that zero and false say something.
fn says_something(value: &[u8]) -> bool {
    !says_nothing(value) && value != b"\"\""
}

fn text<'w>(written: &'w [u8], range: &Range<usize>) -> &'w [u8] {
    written.get(range.clone()).unwrap_or_default()
}

/// Where the value of a key lies, of several the last one's.
fn find(list: &[Entry], written: &[u8], name: &str) -> Option<Range<usize>> {
    let entry = list.iter().rfind(|entry| text(written, &entry.key) == name.as_bytes())?;
    Some(entry.value.clone())
}

/// Whether what the document says and what the column tells, both as JSON, mean the same.
fn agree(name: &str, told: Told, said: &[u8], column: &[u8]) -> bool {
    if said == column {
        return true;
    }
    let plain = |value: &[u8]| -> String {
        let text = String::from_utf8_lossy(value);
        serde_json::from_str::<String>(&text).unwrap_or_else(|_| text.into_owned())
    };
    match told {
        Told::Score => words::score(&plain(said)) == words::score(&plain(column)),
        Told::Confidence => words::confidence(&plain(said)) == words::confidence(&plain(column)),
        Told::Text(_) if name == "trafficlightprotocol" => words::tlp(&plain(said)) == words::tlp(&plain(column)),
        // What is no text in the document was not taken from it either.
        Told::Text(_) => said.first() != Some(&b'"'),
        Told::Texts(_) => {
            let list = |value: &[u8]| -> Option<Vec<String>> {
                let mut list: Vec<String> = match serde_json::from_slice(value) {
                    Ok(list) => list,
                    Err(_) => plain(value).split(',').map(str::to_owned).collect(),
                };
                list.iter_mut().for_each(|text| *text = text.trim().to_owned());
                list.retain(|text| !text.is_empty());
                let mut seen = std::collections::HashSet::new();
                list.retain(|text| seen.insert(text.clone()));
                Some(list)
            };
            list(said) == list(column)
        }
        _ => true,
    }
}

/// Appends a list; `None` when it is empty.
fn texts_into<'a>(texts: impl Iterator<Item = &'a str>, out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    out.push(b'[');
    for text in texts {
        string_into(text, out);
        out.push(b',');
    }
    if out.len() == start + 1 {
        out.truncate(start);
        return None;
    }
    close(b']', out);
    Some(())
}

fn number_into(number: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Sorts by key and keeps of each the last one.
fn sort(list: &mut Vec<Entry>, written: &[u8]) {
    let key = |entry: &Entry| written.get(entry.key.clone()).unwrap_or_default();
    list.reverse();
    list.sort_by(|a, b| compare(key(a), key(b)));
    list.dedup_by(|a, b| key(a) == key(b));
}

/// Appends the members, sorted, to the text they lie in.
fn members_into(list: &mut Vec<Entry>, written: &mut Vec<u8>) {
    sort(list, written);
    for (at, Entry { key, value }) in list.iter().enumerate() {
        written.extend_from_slice(if at > 0 { b",\"" } else { b"\"" });
        written.extend_from_within(key.clone());
        written.extend_from_slice(b"\":");
        written.extend_from_within(value.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::encoder::{Standard21, Xsoar21};
    use super::super::rewrite::tests::any_json;
    use super::*;
    use crate::model::ids::{IdScheme, IdSpace};

    /// What is sent of a document when the columns say nothing.
    fn sent<M: Manner>(document: &str, changes: Changes) -> Value {
        let extensions = Extensions::new(ExtensionFields::All, &IdSpace::new("test", IdScheme::Stix));
        let mut extender = Extender::new(&extensions);
        let column: ArrayRef = Arc::new(StringArray::from(vec![document]));
        let batch = RecordBatch::try_from_iter([(c::DOCUMENT, column)]).unwrap();
        let bound = Bound::bind(&batch).unwrap();
        let mut out = vec![b'{'];
        extender.gather(&bound, 0, changes);
        extender.choose::<M>(&bound, 0);
        extender.sent_into(&mut out);
        close(b'}', &mut out);
        serde_json::from_slice(&out).unwrap()
    }

    fn says_all(value: &Value) -> bool {
        match value {
            Value::Null => false,
            Value::Array(items) => !items.is_empty() && items.iter().all(says_all),
            Value::Object(members) => !members.is_empty() && members.values().all(says_all),
            _ => true,
        }
    }

    proptest! {
        #[test]
        fn any_document_is_sent_whole(
            members in prop::collection::vec(("[a-zA-Z\"\\\\\u{e9}]{0,4}|CustomFields", any_json()), 0..6),
            custom in prop::collection::vec(("[a-z]{0,4}", any_json()), 0..6),
        ) {
            let mut document: serde_json::Map<String, Value> = members.into_iter().collect();
            document.insert("CustomFields".into(), Value::Object(custom.into_iter().collect()));
            let document = Value::Object(document);
            prop_assert_eq!(&sent::<Xsoar21>(&document.to_string(), Changes::Pythonic), &document);
            let Value::Object(flat) = sent::<Standard21>(&document.to_string(), Changes::Pruned) else { panic!() };
            for (name, value) in flat {
                let is_right = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
                prop_assert!(name.len() >= 3 && name.chars().all(is_right) && !name.starts_with('_'), "{}", name);
                prop_assert!(says_all(&value), "{}", value);
            }
        }
    }

    #[test]
    fn names_become_names_of_properties() {
        let long = "a".repeat(300);
        let cases = [
            ("sourceBrands", "source_brands"),
            ("investigationIDs", "investigation_ids"),
            ("firstSeenEntryID", "first_seen_entry_id"),
            ("trafficlightprotocol", "trafficlightprotocol"),
            ("id", "x_id"),
            ("", "x__"),
            ("2fa", "x_2fa"),
            ("a b-\u{e9}", "a_b___"),
            (&long, &long[..250]),
        ];
        let extensions = Extensions::new(ExtensionFields::All, &IdSpace::new("test", IdScheme::Stix));
        let mut extender = Extender::new(&extensions);
        for (name, expected) in cases {
            extender.clear();
            extender.written.extend_from_slice(name.as_bytes());
            extender.written.push(b'1');
            extender.send_as_property(0..name.len(), name.len()..name.len() + 1);
            let mut out = Vec::new();
            extender.sent_into(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("\"{expected}\":1,"), "{name}");
        }
    }
}
