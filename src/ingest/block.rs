//! One block of elements to one [`Parsed`]: the step that runs on all cores.

use std::sync::Arc;

use arrow::error::ArrowError;

use crate::ingest::builder::{BatchBuilder, Parsed, Reject, TextList};
use crate::ingest::detect::{Format, Layout};
use crate::ingest::element::{Element, Key};
use crate::ingest::indicator::Hashes;
use crate::ingest::split::{Fault, SHOWN_BYTES, Span};
use crate::ingest::{edge, json, list, posted, stix, xsoar};
use crate::model::ids::IdSpace;

/// What is known of the inputs beforehand.
#[derive(Clone, Debug)]
pub struct DecodeOptions {
    /// The form of the input; `None` to tell it from the content and the name.
    pub format: Option<Format>,
    /// Type of the values of lists and of table rows that do not name one; any spelling [`Format::Csv`] takes. `None` to
    /// tell it from each value.
    pub default_type: Option<String>,
    /// Source of the records that do not name one.
    pub default_source: Option<String>,
    /// Tags that every record gets besides its own.
    pub default_tags: Vec<String>,
    /// Table columns mapped by hand: (column, field). The field is a name that would be recognised as a column's, `-` to
    /// ignore the column, or any other name for a custom field.
    pub csv_columns: Vec<(String, String)>,
    /// Whether `hxxp://a[.]example` in lists and tables means `http://a.example`.
    pub refang: bool,
    /// Id of the inbox collection that the records are put into, as if they were posted to it: then all of them have to be STIX
    /// objects. `None`: they are records of the store.
    pub inbox: Option<String>,
    /// Makes the ids.
    pub ids: Arc<IdSpace>,
}

impl DecodeOptions {
    /// Everything told from the content, nothing added.
    pub fn new(ids: Arc<IdSpace>) -> Self {
        DecodeOptions {
            format: None,
            default_type: None,
            default_source: None,
            default_tags: Vec::new(),
            csv_columns: Vec::new(),
            refang: true,
            inbox: None,
            ids,
        }
    }
}

/// Elements, and the bytes they are in.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) bytes: Vec<u8>,
    /// Offset of the first byte in the stream.
    pub(crate) base: u64,
    pub(crate) spans: Vec<Span>,
}

/// Buffers reused from row to row.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) hashes: Hashes,
    pub(crate) list: TextList,
    pub(crate) joined: String,
    pub(crate) registry_values: Vec<u8>,
    pub(crate) custom: Vec<u8>,
    pub(crate) document: Vec<u8>,
}

impl Scratch {
    pub(crate) fn clear(&mut self) {
        self.hashes.clear();
        self.list.clear();
        self.joined.clear();
        self.registry_values.clear();
        self.custom.clear();
        self.document.clear();
    }
}

/// The rows of a block being decoded.
#[derive(Debug)]
pub(crate) struct Rows<'o> {
    pub(crate) options: &'o DecodeOptions,
    pub(crate) builder: BatchBuilder,
    pub(crate) scratch: Scratch,
    rejects: Vec<Reject>,
    read: u64,
}

/// Lists inside of lists are unpacked so deep.
const MAX_UNPACKED_LISTS: usize = 4;

/// Decodes a block, in order.
pub(crate) fn decode_block(layout: &Layout, options: &DecodeOptions, block: &Block) -> Result<Parsed, ArrowError> {
    let mut rows = Rows::new(options, block.spans.len(), block.bytes.len());
    let mut bytes_read = 0;
    for span in &block.spans {
        bytes_read += span.end - span.start;
        let offset = |at: u64| usize::try_from(at.saturating_sub(block.base)).unwrap_or(usize::MAX);
        let bytes = block.bytes.get(offset(span.start)..offset(span.end)).unwrap_or_default();
        match span.fault {
            Some(fault) => rows.reject(span.line, fault_reason(fault).to_owned(), bytes),
            None => rows.element(layout, bytes, span.line),
        }
    }
    let Rows { builder, rejects, read, .. } = rows;
    builder.finish(rejects, read, bytes_read)
}

/// Decodes JSON elements that somebody has cut already, in order; the line of each is its number, from 1. `bytes` is about how long
/// they are together.
pub fn decode_each<'t>(
    texts: impl ExactSizeIterator<Item = &'t [u8]>,
    bytes: usize,
    options: &DecodeOptions,
) -> Result<Parsed, ArrowError> {
    let mut rows = Rows::new(options, texts.len(), bytes);
    let mut bytes_read = 0;
    for (number, text) in texts.enumerate() {
        bytes_read += text.len() as u64;
        rows.element(&Layout::Json, text, number as u64 + 1);
    }
    let Rows { builder, rejects, read, .. } = rows;
    builder.finish(rejects, read, bytes_read)
}

fn fault_reason(fault: Fault) -> &'static str {
    match fault {
        Fault::TooLong => "longer than 64 MiB",
        Fault::Unfinished => "the input ends in the middle of this record",
        Fault::Unclosed => "the input ends before the list around its records does",
        Fault::Overrun => "the next record begins before this one is complete",
        Fault::OpenQuote => "a quote is opened and not closed",
    }
}

/// Whether an object without a list of elements is a bundle, response or envelope that has none. Anything else is a
/// record, or was meant as one, and must not vanish.
fn is_empty_response(element: &Element<'_>, is_bundle: bool) -> Result<bool, String> {
    let frame = [Key::More, Key::Next, Key::Total, Key::SearchAfter, Key::Objects, Key::Data];
    if !is_bundle && element.get(Key::Iocs) != "null" && !element.has(Key::Iocs) && !element.has_only(&frame) {
        return Ok(false);
    }
    match [Key::Iocs, Key::Objects, Key::Data].into_iter().find(|key| element.has(*key)) {
        Some(key) => Err(format!("`{}` is not a list", key.as_str())),
        None => Ok(true),
    }
}

impl<'o> Rows<'o> {
    /// For about so many rows, whose originals are `bytes` long together.
    pub(crate) fn new(options: &'o DecodeOptions, rows: usize, bytes: usize) -> Self {
        Rows {
            options,
            builder: BatchBuilder::new(rows, bytes),
            scratch: Scratch::default(),
            rejects: Vec::new(),
            read: 0,
        }
    }

    fn reject(&mut self, line: u64, reason: String, bytes: &[u8]) {
        self.read += 1;
        let shown = bytes.get(..SHOWN_BYTES as usize).unwrap_or(bytes);
        self.rejects.push(Reject { line, reason, text: String::from_utf8_lossy(shown).into_owned() });
    }

    fn element(&mut self, layout: &Layout, bytes: &[u8], line: u64) {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text.trim(),
            Err(error) => {
                let reason = format!("not UTF-8 at byte {}", error.valid_up_to() + 1);
                return self.reject(line, reason, bytes);
            }
        };
        if text.is_empty() {
            return;
        }
        let appended = match layout {
            Layout::Json => return self.json(text, line, 0),
            Layout::List => list::append(self, text, line),
            Layout::Csv(table) => table.append(self, text, line),
        };
        match appended {
            Ok(appended) => self.read += u64::from(appended),
            Err(reason) => self.reject(line, reason, bytes),
        }
    }

    /// Appends one JSON element, or the elements of the list it wraps.
    fn json(&mut self, text: &str, line: u64, lists_around: usize) {
        // Lines of an array that was cut out of its brackets.
        let text = text.strip_suffix(',').unwrap_or(text);
        let appended = Element::parse(text, line).and_then(|element| {
            if !self.unpack(&element, text, line, lists_around)? {
                self.record(element, text, line)?;
                self.read += 1;
            }
            Ok(())
        });
        if let Err(reason) = appended {
            self.reject(line, reason, text.as_bytes());
        }
    }

    fn record(&mut self, element: Element<'_>, text: &str, line: u64) -> Result<(), String> {
        element.check_readable(text, line)?;
        if self.options.inbox.is_some() {
            posted::check(&element)?;
            return stix::append(self, &element, text, line);
        }
        match self.options.format {
            Some(Format::Stix) => stix::append(self, &element, text, line),
            _ if xsoar::is_indicator(&element) => xsoar::append(self, element, text, line),
            _ if element.has(Key::EntityA) && element.has(Key::EntityB) => edge::append(self, element, text, line),
            Some(Format::Xsoar) => Err("not an XSOAR indicator (no `indicator_type`)".to_owned()),
            _ if stix::is_meant(&element) => stix::append(self, &element, text, line),
            _ => {
                Err("neither an XSOAR indicator (no `indicator_type`) nor a STIX object (no `type` and `id`)"
                    .to_owned())
            }
        }
    }

    /// Appends the elements of a search response, bundle or envelope; `false` when it is none.
    fn unpack(&mut self, element: &Element<'_>, text: &str, line: u64, lists_around: usize) -> Result<bool, String> {
        let is_bundle = json::string(element.get(Key::Type)).is_some_and(|name| name == "bundle");
        if element.has(Key::IndicatorType) || (element.has(Key::Type) && !is_bundle) {
            return Ok(false);
        }
        // A search for relationships answers with `data`, which anything else may have as well.
        let is_search = !element.has(Key::Id) && !element.has(Key::Value) && !element.has(Key::EntityA);
        let data = if is_search { element.get(Key::Data) } else { "" };
        let lists = [element.get(Key::Iocs), element.get(Key::Objects), data];
        if lists.iter().all(|list| !list.starts_with('[')) {
            return is_empty_response(element, is_bundle);
        }
        if lists_around >= MAX_UNPACKED_LISTS {
            return Err(format!("lists nested deeper than {MAX_UNPACKED_LISTS} levels"));
        }
        let (mut counted, mut line) = (text.as_ptr(), line);
        let mut lists: Vec<&str> = lists.into_iter().filter(|list| list.starts_with('[')).collect();
        // In the order of the text, which the lines are counted along.
        lists.sort_unstable_by_key(|list| list.as_ptr());
        for item in lists.into_iter().flat_map(json::items) {
            let between = (item.as_ptr() as usize).wrapping_sub(counted as usize);
            let start = (counted as usize).wrapping_sub(text.as_ptr() as usize);
            let passed = text.as_bytes().get(start..start.wrapping_add(between)).unwrap_or_default();
            line += passed.iter().filter(|byte| **byte == b'\n').count() as u64;
            counted = item.as_ptr();
            self.json(item, line, lists_around + 1);
        }
        Ok(true)
    }
}
