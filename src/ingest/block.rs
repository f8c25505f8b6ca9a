//! One block of elements to one [`Parsed`]: the step that runs on all cores.

use std::sync::Arc;

use arrow::error::ArrowError;

use crate::ingest::builder::{BatchBuilder, Parsed, Reject, TextList};
use crate::ingest::detect::{Format, Layout};
use crate::ingest::element::{Element, Key};
use crate::ingest::indicator::Hashes;
use crate::ingest::split::{Fault, SHOWN_BYTES, Span};
use crate::ingest::{edge, json, list, stix, xsoar};
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
    let mut rows = Rows {
        options,
        builder: BatchBuilder::new(block.spans.len(), block.bytes.len()),
        scratch: Scratch::default(),
        rejects: Vec::new(),
        read: 0,
    };
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

fn fault_reason(fault: Fault) -> &'static str {
    match fault {
        Fault::TooLong => "longer than 64 MiB",
        Fault::Unfinished => "the input ends in the middle of this record",
        Fault::Unclosed => "the input ends before the list around its records does",
        Fault::Overrun => "the next record begins before this one is complete",
        Fault::OpenQuote => "a quote is opened and not closed",
    }
}

impl Rows<'_> {
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

    fn record(&mut self, mut element: Element<'_>, text: &str, line: u64) -> Result<(), String> {
        let is_stix = element.has(Key::Type) && element.has(Key::Id);
        match self.options.format {
            Some(Format::Stix) => stix::append(self, &element, text, line),
            _ if element.has(Key::IndicatorType) => xsoar::append(self, element, text, line),
            _ if element.has(Key::EntityA) && element.has(Key::EntityB) => edge::append(self, &mut element, line),
            Some(Format::Xsoar) => Err("not an XSOAR indicator (no `indicator_type`)".to_owned()),
            _ if is_stix => stix::append(self, &element, text, line),
            _ => {
                Err("neither an XSOAR indicator (no `indicator_type`) nor a STIX object (no `type` and `id`)"
                    .to_owned())
            }
        }
    }

    /// Appends the elements of a search response, bundle or envelope; `false` when it is none.
    fn unpack(&mut self, element: &Element<'_>, text: &str, line: u64, lists_around: usize) -> Result<bool, String> {
        let is_record =
            element.has(Key::IndicatorType) || (element.has(Key::Id) && element.get(Key::Type) != "\"bundle\"");
        let lists = [Key::Iocs, Key::Objects].map(|key| element.get(key));
        let is_empty_response = !lists[0].is_empty() || !element.get(Key::More).is_empty() || element.has(Key::Type);
        if is_record || (lists.iter().all(|list| !list.starts_with('[')) && !is_empty_response) {
            return Ok(false);
        }
        if lists_around >= MAX_UNPACKED_LISTS {
            return Err(format!("lists nested deeper than {MAX_UNPACKED_LISTS} levels"));
        }
        let (mut counted, mut line) = (text.as_ptr(), line);
        for item in lists.into_iter().filter(|list| list.starts_with('[')).flat_map(json::items) {
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
