//! Cuts a stream of bytes into whole elements without parsing them and without IO.
//!
//! The splitter is fed the stream in pieces cut anywhere and names each element by its offsets in the stream, so that
//! the caller, who owns the bytes, copies nothing. What counts as an element depends on the [`Framing`]; the result
//! never depends on where the pieces were cut.

use memchr::{memchr, memchr2};

use crate::model::json::first_special;

/// The longest element taken; longer ones are refused and skipped.
pub(crate) const MAX_ELEMENT_BYTES: u64 = 64 << 20;

/// The longest CSV record taken: an unclosed quote costs at most this much look-ahead, and then only its first line.
pub(crate) const MAX_CSV_RECORD_BYTES: u64 = 1 << 20;

/// How many bytes of an over-long element are kept to be shown.
pub(crate) const SHOWN_BYTES: u64 = 1 << 20;

/// What separates elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// JSON: one value a line, or documents one after the other whose lists (`[…]`, `{"iocs":[…]}`,
    /// `{"objects":[…]}`) are unpacked. Which of the two shows when the first value ends. An object whose `type` or
    /// `id` before the list says that it is no bundle is an element with its lists.
    Json,
    /// One element a line. Lines end with a line feed, a carriage return, or both.
    Lines,
    /// CSV records, which end as lines do; quoted fields may hold line ends.
    Csv {
        /// Between two fields.
        delimiter: u8,
    },
}

/// Why a span is not a whole element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Longer than [`MAX_ELEMENT_BYTES`]; the span shows its beginning.
    TooLong,
    /// The input ends inside it.
    Unfinished,
    /// The input ends before the list around the elements does; the span is empty.
    Unclosed,
    /// The next record begins before this one is complete.
    Overrun,
    /// A quote is opened and not closed within [`MAX_CSV_RECORD_BYTES`]; the span is the record's first line.
    OpenQuote,
}

/// One element: offsets are counted from the first byte fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Line the element begins on, from 1.
    pub(crate) line: u64,
    pub(crate) fault: Option<Fault>,
}

/// Where the scan stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Between top-level JSON values.
    Top,
    /// Between the elements of an unpacked list.
    List,
    /// Inside an object or array, outside of text.
    Value,
    /// Inside JSON text.
    Text,
    /// Inside JSON text, after a backslash.
    Escape,
    /// Inside a number, a literal or rubbish.
    Scalar,
    /// Inside a line.
    Line,
    /// CSV: at the first byte of a record.
    RecordStart,
    /// CSV: at the first byte of a later field.
    FieldStart,
    /// CSV: inside a field without quotes, or after its closing quote.
    Field,
    /// CSV: inside quotes.
    Quoted,
    /// CSV: after a quote inside quotes: the end, or the first of a doubled one.
    Quote,
    /// CSV: inside a comment line.
    Comment,
}

/// What is known about JSON input: lines or documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// No value has begun.
    Fresh,
    /// The first object began on this line; a line end right after it means one value a line.
    First,
    /// Documents that may span lines.
    Documents,
}

/// Long enough for the names of lists (`objects`); longer keys are counted, not kept.
const KEY_BYTES: usize = 8;

/// The scanner's state between two pieces.
#[derive(Debug)]
pub(crate) struct Splitter {
    framing: Framing,
    place: Place,
    layout: Layout,
    pos: u64,
    line: u64,
    /// Begin of the element being read, when there is one.
    start: Option<u64>,
    start_line: u64,
    /// The element was already reported as too long.
    refused: bool,
    /// CSV: the first line end inside the record, and whether it is a carriage return.
    first_break: Option<(u64, bool)>,
    /// CSV: the byte before was a carriage return, so that a line feed now says nothing new.
    after_return: bool,
    depth: u64,
    /// Depth of the unpacked list; 0 outside of one.
    list_depth: u64,
    /// For each of the innermost 64 open containers, whether it is an array; the innermost is the lowest bit.
    arrays: u64,
    /// The last byte of the previous piece.
    previous: u8,
    /// The last byte of the previous pieces that is not blank.
    significant: u8,
    /// The last text at depth 1 of a top-level object.
    key: [u8; KEY_BYTES],
    key_len: usize,
    role: Role,
    /// Whether the top-level object wraps others, as far as it has been read.
    wraps: Wraps,
}

/// What a text at depth 1 is, as far as that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A key, or the value of some other key.
    Other,
    TypeKey,
    IdKey,
    /// The value of `type`.
    Type,
    /// The value of `id`.
    Id,
}

/// Whether `objects` and `iocs` of an object are a list of elements, or belong to an object that is an element itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wraps {
    /// No `type` yet: responses and envelopes have none.
    Untold,
    /// A bundle.
    Yes,
    No,
}

impl Splitter {
    pub(crate) fn new(framing: Framing) -> Self {
        let place = match framing {
            Framing::Json => Place::Top,
            Framing::Lines => Place::Line,
            Framing::Csv { .. } => Place::RecordStart,
        };
        Splitter {
            framing,
            place,
            layout: Layout::Fresh,
            pos: 0,
            line: 1,
            start: (place == Place::Line).then_some(0),
            start_line: 1,
            refused: false,
            first_break: None,
            after_return: false,
            depth: 0,
            list_depth: 0,
            arrays: 0,
            previous: b'\n',
            significant: b'\n',
            key: [0; KEY_BYTES],
            key_len: 0,
            role: Role::Other,
            wraps: Wraps::Untold,
        }
    }

    /// Offset of the next byte wanted. It goes back when a broken CSV record is given up: always feed from here.
    pub(crate) fn position(&self) -> u64 {
        self.pos
    }

    /// The first offset still needed; everything before it that is not in a reported span may be thrown away.
    pub(crate) fn keep_from(&self) -> u64 {
        match self.start {
            Some(start) if !self.refused => start,
            _ => self.pos,
        }
    }

    /// The line [`position`](Self::position) is on, from 1.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    /// Takes the bytes that follow [`position`](Self::position) and appends the elements that end in them.
    pub(crate) fn feed(&mut self, bytes: &[u8], out: &mut Vec<Span>) {
        match self.framing {
            Framing::Json => self.feed_json(bytes, out),
            Framing::Lines => self.feed_list(bytes, out),
            Framing::Csv { delimiter } => return self.feed_csv(bytes, delimiter, out),
        }
        self.pos += bytes.len() as u64;
        if let Some(&last) = bytes.last() {
            self.previous = last;
            self.significant = last_significant(bytes).unwrap_or(self.significant);
        }
        self.refuse_long(self.pos, out);
    }

    /// Ends the input. `false`: a broken CSV record was given up, feed again from [`position`](Self::position).
    pub(crate) fn finish(&mut self, out: &mut Vec<Span>) -> bool {
        let end = self.pos;
        match self.place {
            Place::Top | Place::RecordStart | Place::Comment => {}
            Place::Line | Place::Field | Place::FieldStart | Place::Quote => self.emit(end, out),
            Place::Scalar => {
                self.emit(end, out);
                if self.list_depth > 0 {
                    self.fault(end, end, Fault::Unclosed, out);
                }
            }
            Place::Quoted => {
                let Some(first_break) = self.first_break else {
                    self.fault(self.start.unwrap_or(end), end, Fault::OpenQuote, out);
                    return true;
                };
                self.give_up_record(first_break, out);
                return false;
            }
            Place::List | Place::Value | Place::Text | Place::Escape => match self.start {
                Some(start) if !self.refused => self.fault(start, end, Fault::Unfinished, out),
                _ => {
                    self.start_line = self.line;
                    self.fault(end, end, Fault::Unclosed, out);
                }
            },
        }
        true
    }

    /// Reports the element that ends at `end`, unless it was refused before.
    fn emit(&mut self, end: u64, out: &mut Vec<Span>) {
        self.refuse_long(end, out);
        if let Some(start) = self.start.take()
            && !self.refused
            && start < end
        {
            out.push(Span { start, end, line: self.start_line, fault: None });
        }
        self.refused = false;
    }

    fn fault(&self, start: u64, end: u64, fault: Fault, out: &mut Vec<Span>) {
        out.push(Span { start, end, line: self.start_line, fault: Some(fault) });
    }

    fn refuse_long(&mut self, end: u64, out: &mut Vec<Span>) {
        if let Some(start) = self.start
            && !self.refused
            && end - start > MAX_ELEMENT_BYTES
        {
            self.refused = true;
            self.fault(start, start + SHOWN_BYTES, Fault::TooLong, out);
        }
    }

    fn begin(&mut self, at: u64) {
        self.start = Some(at);
        self.start_line = self.line;
        self.refused = false;
    }

    fn feed_lines(&mut self, bytes: &[u8], mut from: usize, out: &mut Vec<Span>) {
        while let Some(found) = memchr(b'\n', &bytes[from..]) {
            let end = self.pos + (from + found) as u64;
            self.emit(end, out);
            self.line += 1;
            self.begin(end + 1);
            from += found + 1;
        }
    }

    /// As [`feed_lines`](Self::feed_lines), but a carriage return ends a line too: in JSON it is a blank.
    fn feed_list(&mut self, bytes: &[u8], out: &mut Vec<Span>) {
        let mut from = 0;
        while let Some(found) = memchr2(b'\n', b'\r', &bytes[from..]) {
            let at = from + found;
            let end = self.pos + at as u64;
            let before = at.checked_sub(1).map_or(self.previous, |before| bytes[before]);
            from = at + 1;
            // The second byte of one line end.
            if bytes[at] != b'\n' || before != b'\r' {
                self.emit(end, out);
                self.line += 1;
            }
            self.begin(end + 1);
        }
    }

    fn feed_json(&mut self, bytes: &[u8], out: &mut Vec<Span>) {
        let mut at = 0;
        while at < bytes.len() {
            at = match self.place {
                Place::Value => self.value(bytes, at, out),
                Place::Text => self.text(bytes, at, out),
                Place::Escape => self.escape(bytes, at, out),
                Place::Scalar => self.scalar(bytes, at, out),
                Place::Line => {
                    self.feed_lines(bytes, at, out);
                    bytes.len()
                }
                _ => self.between(bytes[at], at),
            };
        }
    }

    /// A byte between two values: at the top, or between the elements of a list.
    fn between(&mut self, byte: u8, at: usize) -> usize {
        let here = self.pos + at as u64;
        let top = self.place == Place::Top;
        match byte {
            b'\n' if top && self.layout == Layout::First => {
                self.line += 1;
                self.place = Place::Line;
                self.begin(here + 1);
            }
            b'\n' => self.line_end(),
            b' ' | b'\t' | b'\r' | b',' => {}
            b'[' if top => {
                self.layout = Layout::Documents;
                self.open(byte);
                self.enter_list();
            }
            b']' if !top => self.leave_list(),
            b'{' | b'[' => {
                if top {
                    self.layout = if self.layout == Layout::Fresh { Layout::First } else { Layout::Documents };
                }
                self.begin_value(here, byte);
            }
            _ if top && self.layout == Layout::Fresh => {
                self.place = Place::Line;
                self.begin(here);
                return at;
            }
            _ => {
                self.begin(here);
                self.place = if byte == b'"' { Place::Text } else { Place::Scalar };
            }
        }
        at + 1
    }

    /// Inside a container, up to the next text or to its end.
    fn value(&mut self, bytes: &[u8], mut at: usize, out: &mut Vec<Span>) -> usize {
        while let Some(&byte) = bytes.get(at) {
            if !STRUCTURAL[usize::from(byte)] {
                at += 1;
                continue;
            }
            match byte {
                b'"' => {
                    self.key_len = 0;
                    if self.depth == 1 && self.list_depth == 0 {
                        let is_value = last_significant(&bytes[..at]).unwrap_or(self.significant) == b':';
                        self.role = match self.role {
                            Role::TypeKey if is_value => Role::Type,
                            Role::IdKey if is_value => Role::Id,
                            _ => Role::Other,
                        };
                    }
                    self.place = Place::Text;
                    return at + 1;
                }
                b'\n' => self.line_end(),
                b'{' if self.overruns(bytes, at) => {
                    let here = self.pos + at as u64;
                    if let Some(start) = self.start
                        && !self.refused
                    {
                        self.fault(start, here, Fault::Overrun, out);
                    }
                    self.depth = self.list_depth;
                    if self.list_depth == 0 {
                        self.layout = Layout::First;
                    }
                    self.begin_value(here, byte);
                }
                b'[' if self.depth == 1 && self.list_depth == 0 && self.opens_list() => {
                    self.start = None;
                    self.layout = Layout::Documents;
                    self.open(byte);
                    self.enter_list();
                    return at + 1;
                }
                b'{' | b'[' => self.open(byte),
                _ => {
                    self.depth -= 1;
                    self.arrays >>= 1;
                    if self.depth == self.list_depth {
                        self.end_value(self.pos + at as u64 + 1, out);
                        return at + 1;
                    }
                }
            }
            at += 1;
        }
        at
    }

    /// Whether a `{` that begins a line cannot belong to the value around it: no JSON has one there, so a record
    /// before it was cut short. (Inside deeper nesting than 64 the answer may be wrong, which costs that record only.)
    fn overruns(&self, bytes: &[u8], at: usize) -> bool {
        let before = &bytes[..at];
        if before.last().copied().unwrap_or(self.previous) != b'\n' || self.start.is_none() {
            return false;
        }
        match last_significant(before).unwrap_or(self.significant) {
            b':' | b'[' => false,
            b',' => self.arrays & 1 == 0,
            _ => true,
        }
    }

    fn text(&mut self, bytes: &[u8], from: usize, out: &mut Vec<Span>) -> usize {
        let rest = &bytes[from..];
        let length = text_length(rest);
        if self.depth == 1 && self.list_depth == 0 {
            let kept = self.key_len.min(KEY_BYTES);
            let taken = length.min(KEY_BYTES - kept);
            self.key[kept..kept + taken].copy_from_slice(&rest[..taken]);
            self.key_len += length;
        }
        let at = from + length;
        match rest.get(length) {
            None => return at,
            Some(b'\\') => {
                self.key_len = usize::MAX / 2;
                self.place = Place::Escape;
            }
            // A raw line end is not allowed in JSON text: the closing quote is missing, and the record is broken. Going
            // on outside of text keeps the damage to this record.
            Some(b'\n') => {
                self.line_end();
                self.end_text(self.pos + at as u64, out);
            }
            Some(_) => self.end_text(self.pos + at as u64 + 1, out),
        }
        at + 1
    }

    fn escape(&mut self, bytes: &[u8], at: usize, out: &mut Vec<Span>) -> usize {
        self.place = Place::Text;
        if bytes[at] == b'\n' { self.text(bytes, at, out) } else { at + 1 }
    }

    fn scalar(&mut self, bytes: &[u8], from: usize, out: &mut Vec<Span>) -> usize {
        let ends = |byte: &u8| is_blank(*byte) || matches!(byte, b',' | b']' | b'}' | b'[' | b'{' | b'"');
        let Some(length) = bytes[from..].iter().position(ends) else { return bytes.len() };
        let at = from + length;
        self.end_value(self.pos + at as u64, out);
        at
    }

    fn end_text(&mut self, end: u64, out: &mut Vec<Span>) {
        if self.depth == self.list_depth {
            self.end_value(end, out);
        } else {
            if self.depth == 1 && self.list_depth == 0 {
                self.note_text();
            }
            self.place = Place::Value;
        }
    }

    /// Takes note of the text that ended: `type` tells whether the object wraps others, and where it stands behind the
    /// list, as in sorted keys, the `id` before it.
    fn note_text(&mut self) {
        let text = self.key.get(..self.key_len.min(KEY_BYTES)).unwrap_or_default();
        let whole = self.key_len == text.len();
        match self.role {
            Role::Type => self.wraps = if whole && text == b"bundle" { Wraps::Yes } else { Wraps::No },
            Role::Id if self.wraps == Wraps::Untold && text != b"bundle--" => self.wraps = Wraps::No,
            _ => {}
        }
        self.role = match text {
            b"type" if self.role == Role::Other && whole => Role::TypeKey,
            b"id" if self.role == Role::Other && whole => Role::IdKey,
            _ => Role::Other,
        };
    }

    fn begin_value(&mut self, here: u64, opening: u8) {
        self.begin(here);
        self.open(opening);
        self.key_len = 0;
        self.role = Role::Other;
        self.wraps = Wraps::Untold;
        self.place = Place::Value;
    }

    fn end_value(&mut self, end: u64, out: &mut Vec<Span>) {
        self.emit(end, out);
        self.place = if self.list_depth > 0 { Place::List } else { Place::Top };
    }

    fn open(&mut self, opening: u8) {
        self.depth += 1;
        self.arrays = self.arrays << 1 | u64::from(opening == b'[');
    }

    fn enter_list(&mut self) {
        self.list_depth = self.depth;
        self.place = Place::List;
    }

    /// Back to the object whose list ended, whose other keys are skipped, or to the top.
    fn leave_list(&mut self) {
        self.depth = self.list_depth - 1;
        self.arrays >>= 1;
        self.list_depth = 0;
        self.key_len = 0;
        self.place = if self.depth == 0 { Place::Top } else { Place::Value };
    }

    fn line_end(&mut self) {
        self.line += 1;
        if self.layout == Layout::First {
            self.layout = Layout::Documents;
        }
    }

    /// Whether the `[` that follows is a list of elements. What is not unpacked here stays one element, whose decoder
    /// knows all of its keys; it only has to fit an element.
    fn opens_list(&self) -> bool {
        self.wraps != Wraps::No && matches!(self.key.get(..self.key_len), Some(b"iocs" | b"objects"))
    }

    fn feed_csv(&mut self, bytes: &[u8], delimiter: u8, out: &mut Vec<Span>) {
        let base = self.pos;
        for (at, &byte) in bytes.iter().enumerate() {
            let here = base + at as u64;
            let is_return = byte == b'\r';
            let after_return = std::mem::replace(&mut self.after_return, is_return);
            if after_return && byte == b'\n' {
                continue;
            }
            let byte = if is_return { b'\n' } else { byte };
            if self.place == Place::RecordStart {
                self.place = match byte {
                    b'\n' => Place::RecordStart,
                    b'#' => Place::Comment,
                    _ => {
                        self.begin(here);
                        self.first_break = None;
                        Place::FieldStart
                    }
                };
                if self.place != Place::FieldStart {
                    self.line += u64::from(byte == b'\n');
                    continue;
                }
            }
            self.place = match (self.place, byte) {
                (Place::Comment, b'\n') => {
                    self.line += 1;
                    Place::RecordStart
                }
                (Place::Comment, _) => Place::Comment,
                (Place::Quoted, b'"') => Place::Quote,
                (Place::Quoted, b'\n') => {
                    self.line += 1;
                    self.first_break.get_or_insert((here, is_return));
                    Place::Quoted
                }
                (Place::Quoted, _) => Place::Quoted,
                (Place::Quote, b'"') | (Place::FieldStart, b'"') => Place::Quoted,
                (_, b'\n') => {
                    if let Some(first_break) = self.over_long_record(here) {
                        return self.give_up_record(first_break, out);
                    }
                    self.emit(here, out);
                    self.line += 1;
                    Place::RecordStart
                }
                (_, byte) if byte == delimiter => Place::FieldStart,
                (Place::FieldStart, b' ') => Place::FieldStart,
                _ => Place::Field,
            };
        }
        self.pos = base + bytes.len() as u64;
        match self.over_long_record(self.pos) {
            Some(first_break) => self.give_up_record(first_break, out),
            None => self.refuse_long(self.pos, out),
        }
    }

    /// Where the first line of the open record ends, when the record is too long to be meant as one.
    fn over_long_record(&self, end: u64) -> Option<(u64, bool)> {
        let start = self.start?;
        self.first_break.filter(|_| end - start > MAX_CSV_RECORD_BYTES)
    }

    /// Refuses the first line of the record and goes back to the line after it.
    fn give_up_record(&mut self, (first_break, is_return): (u64, bool), out: &mut Vec<Span>) {
        if let Some(start) = self.start.take()
            && !self.refused
        {
            self.fault(start, first_break, Fault::OpenQuote, out);
        }
        self.refused = false;
        self.first_break = None;
        self.after_return = is_return;
        self.pos = first_break + 1;
        self.line = self.start_line + 1;
        self.place = Place::RecordStart;
    }
}

/// Bytes that matter outside of JSON text.
const STRUCTURAL: [bool; 256] = table(b"\"{}[]\n");

const fn table(set: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut at = 0;
    while at < set.len() {
        table[set[at] as usize] = true;
        at += 1;
    }
    table
}

/// Bytes before the next quote, backslash or line end.
fn text_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(special) = bytes.get(at..).and_then(first_special) {
        at += special;
        if let Some(b'"' | b'\\' | b'\n') = bytes.get(at) {
            return at;
        }
        // Another control character.
        at += 1;
    }
    bytes.len()
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn last_significant(bytes: &[u8]) -> Option<u8> {
    bytes.iter().rev().copied().find(|byte| !is_blank(*byte))
}

/// The lines of a text, cut and counted as a [`Splitter`] of [`Framing::Lines`] does.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (line, after) = rest.split_at(rest.find(['\n', '\r']).unwrap_or(rest.len()));
        rest = after.strip_prefix("\r\n").or_else(|| after.get(1..)).unwrap_or_default();
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every element as (line, text or fault), with the input cut into pieces of the given lengths, in turn.
    fn split(framing: Framing, input: &[u8], cuts: &[usize]) -> Vec<(u64, String)> {
        let mut splitter = Splitter::new(framing);
        let mut spans = Vec::new();
        let mut cuts = cuts.iter().copied().cycle();
        loop {
            while (splitter.position() as usize) < input.len() {
                let from = splitter.position() as usize;
                let to = input.len().min(from + cuts.next().unwrap_or(usize::MAX / 2).max(1));
                splitter.feed(&input[from..to], &mut spans);
                assert!(splitter.keep_from() <= splitter.position());
            }
            if splitter.finish(&mut spans) {
                break;
            }
        }
        let show = |span: &Span| {
            let text = String::from_utf8_lossy(&input[span.start as usize..span.end as usize]).into_owned();
            (span.line, span.fault.map_or(text.clone(), |fault| format!("{fault:?} {text}")))
        };
        spans.iter().map(show).collect()
    }

    fn json(input: &str) -> Vec<(u64, String)> {
        split(Framing::Json, input.as_bytes(), &[])
    }

    fn expect(elements: &[(u64, &str)]) -> Vec<(u64, String)> {
        elements.iter().map(|(line, text)| (*line, (*text).to_owned())).collect()
    }

    #[test]
    fn every_form_of_json_gives_its_elements() {
        let cases: [(&str, &[(u64, &str)]); 25] = [
            ("", &[]),
            (" \n\n", &[]),
            ("{\"a\":1}\n{\"b\":\"}\"}", &[(1, "{\"a\":1}"), (2, "{\"b\":\"}\"}")]),
            ("{\"a\":1}\r\n\r\n{\"b\":2}\r\n", &[(1, "{\"a\":1}"), (2, "\r"), (3, "{\"b\":2}\r")]),
            ("{\n \"a\": {\n \"b\": 1 }\n}\n{\n}", &[(1, "{\n \"a\": {\n \"b\": 1 }\n}"), (5, "{\n}")]),
            ("[]", &[]),
            (
                "[{\"a\":[1]},\n {\"b\":\"\\\"]\"}]\n[{\"c\":1}]",
                &[(1, "{\"a\":[1]}"), (2, "{\"b\":\"\\\"]\"}"), (3, "{\"c\":1}")],
            ),
            (
                "{\"total\":2,\"iocs\":[{\"a\":1}\n,{\"b\":{\"iocs\":[1]}}],\"x\":[9]}",
                &[(1, "{\"a\":1}"), (2, "{\"b\":{\"iocs\":[1]}}")],
            ),
            (
                "{\"type\":\"bundle\",\"objects\": [ {\"a\":1} ],\"z\":{\"y\":1}} {\"objects\":[{}]}",
                &[(1, "{\"a\":1}"), (1, "{}")],
            ),
            (
                "{\"type\":\"x-c\",\"objects\":[{\"a\":1}]}\n{\"b\":1}",
                &[(1, "{\"type\":\"x-c\",\"objects\":[{\"a\":1}]}"), (2, "{\"b\":1}")],
            ),
            (
                "{\"id\" :\n \"x-c--1\",\"objects\":[{}],\"type\":\"x-c\"}",
                &[(1, "{\"id\" :\n \"x-c--1\",\"objects\":[{}],\"type\":\"x-c\"}")],
            ),
            ("{\"id\":\"bundle--1\",\"objects\":[{}],\"type\":\"bundle\"}", &[(1, "{}")]),
            ("{\"id\":\"1\",\"type\": \"bundle\",\"objects\":[{}]}", &[(1, "{}")]),
            (
                "{\"type\":\"x-c\"}{\"more\":\"type\",\"x\":\"x-c\",\"objects\":[{}]}",
                &[(1, "{\"type\":\"x-c\"}"), (1, "{}")],
            ),
            ("{\"x\":[\"type\"],\"type\":1,\"id\":{\"type\":\"a\"},\"objects\":[{}]}", &[(1, "{}")]),
            ("{\"iocs\":null,\"objects\":{}}", &[(1, "{\"iocs\":null,\"objects\":{}}")]),
            ("{\"x\":\"iocs\",\"y\":[1]}", &[(1, "{\"x\":\"iocs\",\"y\":[1]}")]),
            ("{\"iocsX\":[1],\"objectss\":[2]}", &[(1, "{\"iocsX\":[1],\"objectss\":[2]}")]),
            ("[1, \"a,]\", null,[2]]", &[(1, "1"), (1, "\"a,]\""), (1, "null"), (1, "[2]")]),
            // Broken input: one line, an element in a list, the end, text without its quote, garbage.
            ("{\"a\":1}\n{\"b\":[\n{\"c\":3}", &[(1, "{\"a\":1}"), (2, "{\"b\":["), (3, "{\"c\":3}")]),
            ("[{\"a\" 1},{\"b\":2}", &[(1, "{\"a\" 1}"), (1, "{\"b\":2}"), (1, "Unclosed ")]),
            ("[{\"a\":1},\n{\"b\":", &[(1, "{\"a\":1}"), (2, "Unfinished {\"b\":")]),
            ("{\"a\":\"x\n{\"b\":2}\n{\"c\":3}\n", &[(1, "Overrun {\"a\":\"x\n"), (2, "{\"b\":2}"), (3, "{\"c\":3}")]),
            ("[\n{\"a\":{\"b\":1},\n{\"c\":2}]", &[(2, "Overrun {\"a\":{\"b\":1},\n"), (3, "{\"c\":2}")]),
            ("oops\n{\"a\":1}", &[(1, "oops"), (2, "{\"a\":1}")]),
        ];
        for (input, expected) in cases {
            assert_eq!(json(input), expect(expected), "{input}");
        }
    }

    #[test]
    fn csv_records_keep_quoted_line_ends_and_survive_an_open_quote() {
        let cases: [(&str, &[(u64, &str)]); 9] = [
            ("a,b\nc,d", &[(1, "a,b"), (2, "c,d")]),
            ("a,b\r\rc,d\r", &[(1, "a,b"), (3, "c,d")]),
            ("# x\r\na,\"b\rc\r\nd\"\r\n\r\ne\r\n", &[(2, "a,\"b\rc\r\nd\""), (6, "e")]),
            ("a,\"b\r\nc,d\re", &[(1, "OpenQuote a,\"b"), (2, "c,d"), (3, "e")]),
            ("a,\"b\nx\"\"\ny\"\nc,d\n", &[(1, "a,\"b\nx\"\"\ny\""), (4, "c,d")]),
            ("# it's \"a comment\n\na,b \"c\"\n", &[(3, "a,b \"c\"")]),
            ("\"a\", \"b,\n\"\nc", &[(1, "\"a\", \"b,\n\""), (3, "c")]),
            ("a,\"b\nc,d\ne", &[(1, "OpenQuote a,\"b"), (2, "c,d"), (3, "e")]),
            ("a,\"b", &[(1, "OpenQuote a,\"b")]),
        ];
        for (input, expected) in cases {
            assert_eq!(split(Framing::Csv { delimiter: b',' }, input.as_bytes(), &[]), expect(expected), "{input}");
        }
    }

    #[test]
    fn lines_end_with_either_byte_or_both() {
        let input = "a\n\nb\r\nc\r\rd\n\re";
        let expected = [(1, "a"), (3, "b"), (4, "c"), (6, "d"), (8, "e")];
        for cuts in [&[][..], &[1], &[2, 3]] {
            assert_eq!(split(Framing::Lines, input.as_bytes(), cuts), expect(&expected));
        }
        let numbered = (1..).zip(lines(input)).filter(|(_, line)| !line.is_empty());
        assert_eq!(numbered.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn an_open_quote_costs_one_line_however_much_follows() {
        let mut input = b"a,\"b\n".to_vec();
        let lines = 2 * MAX_CSV_RECORD_BYTES / 4;
        input.extend(b"c,d\n".repeat(lines as usize));
        for cuts in [&[][..], &[1000], &[1 << 20, 7]] {
            let found = split(Framing::Csv { delimiter: b',' }, &input, cuts);
            assert_eq!(found.len() as u64, 1 + lines);
            assert_eq!(found[0], (1, "OpenQuote a,\"b".to_owned()));
            assert_eq!(found[1], (2, "c,d".to_owned()));
        }
    }

    #[test]
    fn an_over_long_element_is_refused_alone() {
        let mut input = b"{\"a\":1}\n{\"b\":\"".to_vec();
        input.resize(input.len() + MAX_ELEMENT_BYTES as usize, b'x');
        input.extend_from_slice(b"\"}\n{\"c\":3}\n");
        let spans = |cut: usize| {
            let mut splitter = Splitter::new(Framing::Json);
            let mut spans = Vec::new();
            for piece in input.chunks(cut) {
                splitter.feed(piece, &mut spans);
            }
            assert!(splitter.finish(&mut spans));
            spans
        };
        let found = spans(input.len());
        assert_eq!(
            found.iter().map(|span| (span.line, span.fault)).collect::<Vec<_>>(),
            [(1, None), (2, Some(Fault::TooLong)), (3, None)]
        );
        assert_eq!(found[1].end - found[1].start, SHOWN_BYTES);
        assert_eq!(found, spans(1 << 20));
    }

    #[test]
    fn nesting_costs_no_stack() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(json(&format!("[{deep}]")), [(1, deep.clone())]);
        assert_eq!(json(&format!("{{\"a\":{deep}}}\n{{}}")).len(), 2);
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_elements(
            tokens in prop::collection::vec(
                prop::sample::select(vec![
                    "{", "}", "[", "]", "\"", "\\", "\n", ",", ":", " ", "{\"iocs\":[", "{\"objects\": [", "\"a\":1",
                    "\"type\":\"", "bundle", "\"id\" : \"", ",\"objects\":[",
                    "{\"value\":\"1.2.3.4\"}", "{\"value\":\"1.2.3.4\"}\n", "null", "x", "#", "\r\n", "\r", "\"\"",
                ]),
                0..60,
            ),
            cuts in prop::collection::vec(1usize..9, 1..6),
        ) {
            let input = tokens.concat();
            for framing in [Framing::Json, Framing::Lines, Framing::Csv { delimiter: b',' }] {
                let whole = split(framing, input.as_bytes(), &[]);
                prop_assert_eq!(&whole, &split(framing, input.as_bytes(), &cuts));
                prop_assert_eq!(&whole, &split(framing, input.as_bytes(), &[1]));
            }
        }

        #[test]
        fn all_framings_of_the_same_records_agree(
            records in prop::collection::vec("\\{\"[a-z]{1,4}\":(\"[a-z{}\\[\\],: ]{0,9}\"|[0-9]{1,3}|\\[\\{\\}\\])\\}", 1..12),
            cut in 1usize..40,
        ) {
            let forms = [
                records.join("\n"),
                format!("[{}]", records.join(",")),
                format!("[\n  {}\n]\n", records.join(",\n  ")),
                format!("{{\"total\":3,\"iocs\":[{}]}}", records.join(" ,")),
                format!("{{\"type\":\"bundle\",\n\"objects\":[{}],\"id\":\"x\"}}", records.join(",\n")),
                records.join(" "),
            ];
            for form in forms {
                let found: Vec<String> = split(Framing::Json, form.as_bytes(), &[cut]).into_iter().map(|(_, text)| text).collect();
                prop_assert_eq!(&found, &records, "{}", form);
            }
        }
    }
}
