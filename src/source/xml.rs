//! XML from outside, token by token (spec/taxii-1.md §6): no DTD, no entity but the five of XML itself, bounded depth, bounded
//! names, attributes and texts. Namespaces are told apart by URI, and only by family: each version of STIX has its own.

use std::io::{self, BufRead, BufReader, Read};

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use crate::source::body::Body;

/// Elements within elements.
const MAX_DEPTH: usize = 200;

/// Attributes of one element, and prefixes that are declared at one place.
const MAX_ATTRIBUTES: usize = 512;
const MAX_PREFIXES: usize = 2_048;

/// Where a name belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// STIX 1.x, its vocabularies and extensions.
    Stix,
    /// CybOX 2.x and its objects.
    Cybox,
    /// Data markings, TLP among them.
    Marking,
    Taxii10,
    Taxii11,
    /// `xsi:type` and the like.
    Instance,
    /// No namespace.
    Unnamed,
    /// Something else.
    Other,
}

impl Family {
    fn of(uri: &[u8]) -> Self {
        let starts = |prefix: &str| uri.starts_with(prefix.as_bytes());
        if uri.is_empty() {
            Family::Unnamed
        } else if starts("http://stix.mitre.org/") || starts("http://docs.oasis-open.org/cti/ns/stix") {
            Family::Stix
        } else if starts("http://cybox.mitre.org/") || starts("http://docs.oasis-open.org/cti/ns/cybox") {
            Family::Cybox
        } else if starts("http://data-marking.mitre.org/") || starts("http://docs.oasis-open.org/cti/ns/data-marking") {
            Family::Marking
        } else if uri == b"http://taxii.mitre.org/messages/taxii_xml_binding-1" {
            Family::Taxii10
        } else if starts("http://taxii.mitre.org/messages/taxii_xml_binding-1.1")
            || starts("http://docs.oasis-open.org/cti/ns/taxii/xml/binding")
        {
            Family::Taxii11
        } else if uri == b"http://www.w3.org/2001/XMLSchema-instance" {
            Family::Instance
        } else {
            Family::Other
        }
    }

    pub(super) fn is_taxii(self) -> bool {
        matches!(self, Family::Taxii10 | Family::Taxii11)
    }

    /// Whether STIX content may be made of it.
    pub(super) fn is_content(self) -> bool {
        matches!(self, Family::Stix | Family::Cybox | Family::Marking)
    }
}

/// Why a text cannot be read on.
#[derive(Debug)]
pub(super) enum XmlError {
    /// It is not well-formed, or forbidden.
    Broken {
        line: u64,
        offset: u64,
        reason: String,
    },
    Io(io::Error),
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// An element begins; see [`Xml::element`].
    Start,
    /// The element at [`Xml::depth`] + 1 has ended.
    End,
    /// Text; see [`Xml::text`].
    Text,
    /// The document has ended.
    Eof,
}

/// An attribute with its prefix resolved.
#[derive(Clone, Debug)]
pub(super) struct Attribute {
    family: Family,
    name: String,
    value: String,
}

/// An element's start tag.
#[derive(Clone, Debug)]
pub(super) struct Element {
    pub(super) family: Family,
    pub(super) name: String,
    pub(super) attributes: Vec<Attribute>,
    /// `xsi:type`, without its prefix; [`Family::Other`] where that is none of ours.
    pub(super) kind: Option<(Family, String)>,
}

impl Element {
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        find(&self.attributes, name)
    }
}

fn find<'a>(attributes: &'a [Attribute], name: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|attribute| attribute.name == name && attribute.family != Family::Instance);
    found.map(|attribute| attribute.value.as_str())
}

#[derive(Clone, Debug)]
struct Binding {
    prefix: Vec<u8>,
    family: Family,
    depth: usize,
}

/// Reads a document.
#[derive(Debug)]
pub(super) struct Xml {
    reader: Reader<Guard>,
    buffer: Vec<u8>,
    bindings: Vec<Binding>,
    /// Where the document's own bytes begin in the body.
    base: u64,
    base_line: u64,
    max_text: usize,
    depth: usize,
    is_fragment: bool,
    pub(super) element: Element,
    pub(super) text: String,
}

impl Xml {
    /// `max_text`: largest single text, tag or tree, in bytes.
    pub(super) fn new(mut body: Body, max_text: usize) -> io::Result<Self> {
        let start = body.start(4)?;
        let form = match *start.as_slice() {
            [0xff, 0xfe, ..] | [b'<', 0, ..] => Form::Utf16 { is_big: false },
            [0xfe, 0xff, ..] | [0, b'<', ..] => Form::Utf16 { is_big: true },
            _ => Form::Utf8,
        };
        Ok(Self::over(body, form, max_text, 0, 1))
    }

    fn over(body: Body, form: Form, max_text: usize, base: u64, base_line: u64) -> Self {
        let decoded = Decoded { body, form, decoded: Vec::new(), at: 0, rest: Vec::new() };
        let guard = Guard { inner: BufReader::with_capacity(64 << 10, decoded), left: 0, lines: 0 };
        let mut reader = Reader::from_reader(guard);
        let config = reader.config_mut();
        config.expand_empty_elements = true;
        config.allow_dangling_amp = true;
        config.allow_unmatched_ends = base > 0;
        Xml {
            reader,
            buffer: Vec::new(),
            bindings: Vec::new(),
            base,
            base_line,
            max_text,
            depth: 0,
            is_fragment: base > 0,
            element: Element { family: Family::Unnamed, name: String::new(), attributes: Vec::new(), kind: None },
            text: String::new(),
        }
    }

    /// Elements that are open.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// Line and byte reached.
    pub(super) fn place(&self) -> (u64, u64) {
        (self.base_line + self.reader.get_ref().lines, self.base + self.reader.buffer_position())
    }

    pub(super) fn next(&mut self) -> Result<Token, XmlError> {
        loop {
            self.buffer.clear();
            self.reader.get_mut().left = self.max_text;
            let position = self.reader.buffer_position();
            let event = match self.reader.read_event_into(&mut self.buffer) {
                Ok(event) => event,
                Err(error) => return Err(self.failure(&error)),
            };
            match event {
                Event::Start(start) | Event::Empty(start) => {
                    let depth = self.depth + 1;
                    let fault = if depth > MAX_DEPTH {
                        Some("it is nested deeper than 200 elements")
                    } else {
                        read_start(&start, &mut self.bindings, depth, &mut self.element)
                    };
                    if let Some(reason) = fault {
                        return Err(self.broken(reason));
                    }
                    self.depth = depth;
                    return Ok(Token::Start);
                }
                Event::End(_) => {
                    if self.depth == 0 {
                        // A fragment's own surroundings end.
                        return Ok(Token::Eof);
                    }
                    while self.bindings.last().is_some_and(|binding| binding.depth >= self.depth) {
                        self.bindings.pop();
                    }
                    self.depth -= 1;
                    return Ok(Token::End);
                }
                Event::Text(text) => {
                    self.text.clear();
                    self.text.push_str(&String::from_utf8_lossy(&text));
                    return Ok(Token::Text);
                }
                Event::CData(text) => {
                    self.text.clear();
                    self.text.push_str(&String::from_utf8_lossy(&text));
                    return Ok(Token::Text);
                }
                Event::GeneralRef(name) => {
                    self.text.clear();
                    let name = String::from_utf8_lossy(&name).into_owned();
                    match quick_xml::escape::unescape(&format!("&{name};")) {
                        Ok(text) => self.text.push_str(&text),
                        // Nothing is ever expanded: what is unknown stays as it is written.
                        Err(_) => {
                            self.text.push('&');
                            self.text.push_str(&name);
                            self.text.push(';');
                        }
                    }
                    return Ok(Token::Text);
                }
                Event::DocType(_) => {
                    return Err(
                        self.broken("it holds a document type definition, which is refused for what entities can do")
                    );
                }
                Event::Decl(declaration) => {
                    let encoding = declaration.encoding().and_then(Result::ok).map(|name| name.to_ascii_lowercase());
                    let is_known = match encoding.as_deref() {
                        None | Some(b"utf-8" | b"utf8" | b"us-ascii" | b"ascii") => true,
                        Some(name) => {
                            name.starts_with(b"utf-16") && self.reader.get_ref().inner.get_ref().form != Form::Utf8
                        }
                    };
                    if !is_known {
                        return Err(self.broken("its encoding is neither UTF-8 nor UTF-16"));
                    }
                }
                Event::Comment(_) | Event::PI(_) => {}
                Event::Eof if self.depth > 0 && !self.is_fragment || position == 0 && self.base == 0 => {
                    return Err(self.ended());
                }
                Event::Eof => return Ok(Token::Eof),
            }
        }
    }

    fn broken(&self, reason: impl Into<String>) -> XmlError {
        let (line, offset) = self.place();
        XmlError::Broken { line, offset, reason: reason.into() }
    }

    fn ended(&self) -> XmlError {
        let (line, offset) = self.place();
        XmlError::Broken { line, offset, reason: "its XML does not end".to_owned() }
    }

    fn failure(&self, error: &quick_xml::Error) -> XmlError {
        if let quick_xml::Error::Io(error) = &error {
            if error.get_ref().is_some_and(|inner| inner.is::<TooLong>()) {
                return self.broken("a tag or text of it is larger than the limit for one object");
            }
            return XmlError::Io(io::Error::new(error.kind(), error.to_string()));
        }
        let (line, offset) = self.place();
        XmlError::Broken { line, offset, reason: format!("its XML is broken: {error}") }
    }

    /// Leaves out the rest of the element that just began.
    pub(super) fn skip(&mut self) -> Result<(), XmlError> {
        let depth = self.depth;
        while self.depth >= depth {
            if self.next()? == Token::Eof {
                return Err(self.ended());
            }
        }
        Ok(())
    }

    /// Reads the element that just began into `tree`; `false` when it is too large, and then it is left out.
    pub(super) fn tree(&mut self, tree: &mut Tree) -> Result<bool, XmlError> {
        tree.clear();
        tree.open(&self.element, self.place());
        let depth = self.depth;
        while self.depth >= depth {
            match self.next()? {
                Token::Start => tree.open(&self.element, (0, 0)),
                Token::Text => tree.add(&self.text),
                Token::End => tree.close(),
                Token::Eof => return Err(self.ended()),
            }
            if tree.bytes() > self.max_text {
                while self.depth >= depth {
                    if self.next()? == Token::Eof {
                        return Err(self.ended());
                    }
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Goes on behind broken text at the next element of that name (as it is written, prefix included), which is to be
    /// found at the same depth; gives the body back when there is none. Only the prefixes of the document's root are
    /// kept.
    pub(super) fn resume_at(self, tag: &[u8]) -> io::Result<Option<Self>> {
        let (line, _) = self.place();
        let from = self.base + self.reader.error_position().max(self.reader.buffer_position()).saturating_sub(1);
        let decoded = self.reader.into_inner().inner.into_inner();
        if decoded.form != Form::Utf8 {
            return Ok(None);
        }
        let mut body = decoded.body;
        body.skip_to(from)?;
        let Some((offset, lines)) = find_tag(&mut body, tag)? else { return Ok(None) };
        let base = from + offset;
        body.skip_to(base)?;
        let mut fragment = Self::over(body, Form::Utf8, self.max_text, base, line + lines);
        fragment.bindings = self.bindings.into_iter().filter(|binding| binding.depth <= 1).collect();
        fragment.bindings.iter_mut().for_each(|binding| binding.depth = 0);
        Ok(Some(fragment))
    }
}

/// The distance to the next `<tag`, and the line ends before it.
fn find_tag(body: &mut Body, tag: &[u8]) -> io::Result<Option<(u64, u64)>> {
    let mut window = Vec::new();
    let (mut offset, mut lines) = (0, 0);
    let needle = [b"<", tag].concat();
    let mut piece = vec![0; 64 << 10];
    loop {
        let read = body.read(&mut piece)?;
        window.extend_from_slice(piece.get(..read).unwrap_or_default());
        let ends_name = |at: usize| {
            window.get(at + needle.len()).is_none_or(|byte| byte.is_ascii_whitespace() || matches!(byte, b'>' | b'/'))
        };
        let found = window.windows(needle.len()).enumerate().find(|(at, text)| *text == needle && ends_name(*at));
        let done = found.map(|(at, _)| at);
        let keep = needle.len().min(window.len());
        let gone = done.unwrap_or(if read == 0 { window.len() } else { window.len() - keep });
        lines += window.iter().take(gone).filter(|byte| **byte == b'\n').count() as u64;
        offset += gone as u64;
        window.drain(..gone);
        if done.is_some() {
            return Ok(Some((offset, lines)));
        }
        if read == 0 {
            return Ok(None);
        }
    }
}

/// Reads a start tag; a reason when it goes beyond a limit.
fn read_start(
    start: &BytesStart<'_>,
    bindings: &mut Vec<Binding>,
    depth: usize,
    element: &mut Element,
) -> Option<&'static str> {
    element.attributes.clear();
    element.kind = None;
    let mut plain: Vec<(Vec<u8>, String)> = Vec::new();
    for (count, attribute) in start.attributes().with_checks(false).enumerate() {
        if count >= MAX_ATTRIBUTES {
            return Some("an element has more than 512 attributes");
        }
        let Ok(attribute) = attribute else { return Some("an attribute is not well-formed") };
        let key = attribute.key.as_ref();
        if key == b"xmlns" || key.starts_with(b"xmlns:") {
            if bindings.len() >= MAX_PREFIXES {
                return Some("it declares more than 2048 prefixes");
            }
            let prefix = key.get(6..).unwrap_or_default().to_vec();
            bindings.push(Binding { prefix, family: Family::of(attribute.value.trim_ascii()), depth });
            continue;
        }
        let raw = String::from_utf8_lossy(&attribute.value);
        let value = quick_xml::escape::unescape(&raw).map_or_else(|_| raw.to_string(), |text| text.into_owned());
        plain.push((key.to_vec(), value));
    }
    for (key, value) in plain {
        let (prefix, name) = split_name(&key);
        // An attribute without prefix is in no namespace.
        let family = if prefix.is_empty() { Family::Unnamed } else { resolve(bindings, prefix) };
        let name = String::from_utf8_lossy(name).into_owned();
        if family == Family::Instance && name == "type" {
            let (prefix, local) = split_name(value.trim().as_bytes());
            let family = resolve(bindings, prefix);
            element.kind = Some((family, String::from_utf8_lossy(local).into_owned()));
        }
        element.attributes.push(Attribute { family, name, value });
    }
    let name = start.name();
    let (prefix, local) = split_name(name.as_ref());
    element.family = resolve(bindings, prefix);
    element.name.clear();
    element.name.push_str(&String::from_utf8_lossy(local));
    None
}

fn split_name(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().position(|byte| *byte == b':') {
        Some(at) => (name.get(..at).unwrap_or_default(), name.get(at + 1..).unwrap_or_default()),
        None => (&[], name),
    }
}

fn resolve(bindings: &[Binding], prefix: &[u8]) -> Family {
    match bindings.iter().rev().find(|binding| binding.prefix == prefix) {
        Some(binding) => binding.family,
        None if prefix.is_empty() => Family::Unnamed,
        None => Family::Other,
    }
}

#[derive(Debug)]
struct TooLong;

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("too long")
    }
}

impl std::error::Error for TooLong {}

/// Lets no single token grow beyond a limit, and counts lines.
#[derive(Debug)]
struct Guard {
    inner: BufReader<Decoded>,
    left: usize,
    lines: u64,
}

impl Read for Guard {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut rest = self.fill_buf()?;
        let count = rest.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Guard {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Err(io::Error::other(TooLong));
        }
        let left = self.left;
        let filled = self.inner.fill_buf()?;
        Ok(filled.get(..left.min(filled.len())).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        let taken = self.inner.buffer().get(..count).unwrap_or_default();
        self.lines += taken.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.left = self.left.saturating_sub(count);
        self.inner.consume(count);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Utf8,
    Utf16 { is_big: bool },
}

/// The body as UTF-8.
#[derive(Debug)]
struct Decoded {
    body: Body,
    form: Form,
    decoded: Vec<u8>,
    at: usize,
    /// Bytes of a character that is not whole yet.
    rest: Vec<u8>,
}

impl Read for Decoded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Form::Utf16 { is_big } = self.form else { return self.body.read(buffer) };
        while self.at >= self.decoded.len() {
            let mut piece = [0; 16 << 10];
            let read = self.body.read(&mut piece)?;
            let mut bytes = std::mem::take(&mut self.rest);
            bytes.extend_from_slice(piece.get(..read).unwrap_or_default());
            if bytes.is_empty() {
                return Ok(0);
            }
            let (pairs, odd) = bytes.as_chunks::<2>();
            let mut units: Vec<u16> = pairs
                .iter()
                .map(|pair| if is_big { u16::from_be_bytes(*pair) } else { u16::from_le_bytes(*pair) })
                .collect();
            self.rest = odd.to_vec();
            if read > 0 && units.last().is_some_and(|unit| (0xd800..0xdc00).contains(unit)) {
                // The other half of the character comes with the next piece.
                let kept = units.len() - 1;
                units.truncate(kept);
                self.rest = bytes.get(kept * 2..).unwrap_or_default().to_vec();
            }
            if read == 0 {
                self.rest.clear();
            }
            let text: String = char::decode_utf16(units)
                .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
                .filter(|c| *c != '\u{feff}')
                .collect();
            self.decoded = text.into_bytes();
            self.at = 0;
            if read == 0 && self.decoded.is_empty() {
                return Ok(0);
            }
        }
        let mut rest = self.decoded.get(self.at..).unwrap_or_default();
        let count = rest.read(buffer)?;
        self.at += count;
        Ok(count)
    }
}

/// A small part of a document as a tree: one indicator, one observable, one header. Elements of other families are left
/// out with all below them, when they are read.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: Vec<Kept>,
    open: Vec<usize>,
    texts: usize,
    place: (u64, u64),
}

#[derive(Debug)]
struct Kept {
    element: Element,
    text: String,
    /// The node after the last one below this.
    end: usize,
}

impl Tree {
    fn clear(&mut self) {
        self.nodes.clear();
        self.open.clear();
        self.texts = 0;
    }

    fn bytes(&self) -> usize {
        self.texts + self.nodes.len() * size_of::<Kept>()
    }

    fn open(&mut self, element: &Element, place: (u64, u64)) {
        if self.nodes.is_empty() {
            self.place = place;
        }
        self.open.push(self.nodes.len());
        self.texts += element.name.len();
        self.texts +=
            element.attributes.iter().map(|a| a.name.len() + a.value.len() + size_of::<Attribute>()).sum::<usize>();
        self.nodes.push(Kept { element: element.clone(), text: String::new(), end: 0 });
    }

    fn add(&mut self, text: &str) {
        self.texts += text.len();
        if let Some(node) = self.open.last().and_then(|at| self.nodes.get_mut(*at)) {
            node.text.push_str(text);
        }
    }

    fn close(&mut self) {
        let end = self.nodes.len();
        if let Some(node) = self.open.pop().and_then(|at| self.nodes.get_mut(at)) {
            node.end = end;
        }
    }

    /// Line and byte at which it begins.
    pub(super) fn place(&self) -> (u64, u64) {
        self.place
    }

    pub(super) fn root(&self) -> Option<Node<'_>> {
        (!self.nodes.is_empty()).then_some(Node { tree: self, at: 0 })
    }
}

/// An element in a tree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node<'a> {
    tree: &'a Tree,
    at: usize,
}

impl<'a> Node<'a> {
    fn kept(&self) -> Option<&'a Kept> {
        self.tree.nodes.get(self.at)
    }

    pub(super) fn name(&self) -> &'a str {
        self.kept().map_or("", |kept| kept.element.name.as_str())
    }

    /// `xsi:type` without its prefix, and whose it is.
    pub(super) fn kind(&self) -> Option<(Family, &'a str)> {
        let (family, name) = self.kept()?.element.kind.as_ref()?;
        Some((*family, name.as_str()))
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&'a str> {
        find(&self.kept()?.element.attributes, name)
    }

    /// Its own text, without blanks around; none when it is blank.
    pub(super) fn text(&self) -> Option<&'a str> {
        self.kept().map(|kept| kept.text.trim()).filter(|text| !text.is_empty())
    }

    /// Its own text and that of all below it.
    pub(super) fn whole_text(&self) -> String {
        let end = self.kept().map_or(0, |kept| kept.end);
        let below = self.tree.nodes.get(self.at..end).unwrap_or_default();
        below.iter().map(|kept| kept.text.trim()).filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ")
    }

    pub(super) fn children(&self) -> Children<'a> {
        Children { tree: self.tree, next: self.at + 1, end: self.kept().map_or(0, |kept| kept.end) }
    }

    pub(super) fn children_named(&self, name: &'a str) -> impl Iterator<Item = Node<'a>> + use<'a> {
        self.children().filter(move |node| node.name() == name)
    }

    pub(super) fn child(&self, name: &str) -> Option<Node<'a>> {
        self.children().find(|node| node.name() == name)
    }

    /// The first element down these steps.
    pub(super) fn path(&self, steps: &[&str]) -> Option<Node<'a>> {
        steps.iter().try_fold(*self, |node, step| node.child(step))
    }

    /// The text down these steps.
    pub(super) fn text_at(&self, steps: &[&str]) -> Option<&'a str> {
        self.path(steps)?.text()
    }
}

/// The elements right below another, but those of no family of ours.
#[derive(Debug)]
pub(super) struct Children<'a> {
    tree: &'a Tree,
    next: usize,
    end: usize,
}

impl<'a> Iterator for Children<'a> {
    type Item = Node<'a>;

    fn next(&mut self) -> Option<Node<'a>> {
        while self.next < self.end {
            let at = self.next;
            let kept = self.tree.nodes.get(at)?;
            self.next = kept.end.max(at + 1);
            if kept.element.family != Family::Other {
                return Some(Node { tree: self.tree, at });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn xml(text: &[u8]) -> Xml {
        Xml::new(Body::of(text.to_vec().into()), 10_000).unwrap()
    }

    /// What the tokens say, or the reason why they end.
    fn tokens(mut xml: Xml) -> Result<String, String> {
        let mut said = String::new();
        loop {
            match xml.next() {
                Ok(Token::Start) => {
                    let Element { family, name, attributes, kind } = &xml.element;
                    said.push_str(&format!("<{family:?}:{name}"));
                    attributes.iter().for_each(|a| said.push_str(&format!(" {}={}", a.name, a.value)));
                    kind.iter().for_each(|(family, name)| said.push_str(&format!(" is {family:?}:{name}")));
                    said.push('>');
                }
                Ok(Token::End) => said.push_str("</>"),
                Ok(Token::Text) => said.push_str(&xml.text),
                Ok(Token::Eof) => return Ok(said),
                Err(XmlError::Broken { line, offset, reason, .. }) => return Err(format!("{line}:{offset} {reason}")),
                Err(XmlError::Io(error)) => return Err(error.to_string()),
            }
        }
    }

    #[test]
    fn namespaces_are_told_by_their_names() {
        let cases = [
            (r#"<a xmlns="http://stix.mitre.org/stix-1" b="c&lt;"/>"#, "<Stix:a b=c<></>"),
            (
                r#"<q:a xmlns:q="http://taxii.mitre.org/messages/taxii_xml_binding-1.1"><b xmlns="http://taxii.mitre.org/messages/taxii_xml_binding-1"/></q:a>"#,
                "<Taxii11:a><Taxii10:b></></>",
            ),
            (
                r#"<x xmlns:i="http://www.w3.org/2001/XMLSchema-instance" xmlns:o="http://cybox.mitre.org/objects#AddressObject-2" i:type="o:AddressObjectType"/>"#,
                "<Unnamed:x type=o:AddressObjectType is Cybox:AddressObjectType></>",
            ),
            ("<a xmlns='urn:x'><b xmlns=''/><p:c/></a>", "<Other:a><Unnamed:b></><Other:c></></>"),
            ("<a>1 &amp; &#50;<![CDATA[<3>]]>&unknown;</a>", "<Unnamed:a>1 & 2<3>&unknown;</>"),
        ];
        for (text, expected) in cases {
            assert_eq!(tokens(xml(text.as_bytes())).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_does_harm_is_refused() {
        let many = |count: usize, of: &str| (0..count).map(|n| of.replace('#', &n.to_string())).collect::<String>();
        let cases = [
            ("<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><a>&x;</a>".to_owned(), "document type definition"),
            ("<!DOCTYPE a [<!ENTITY x 'ha'><!ENTITY y '&x;&x;'>]><a>&y;</a>".to_owned(), "document type definition"),
            (many(300, "<a>"), "deeper than 200"),
            (format!("<a {}/>", many(600, " b#=''")), "512 attributes"),
            (format!("<a>{}</a>", "x".repeat(20_000)), "larger than the limit"),
            ("<?xml version='1.0' encoding='EBCDIC'?><a/>".to_owned(), "neither UTF-8 nor UTF-16"),
            ("<a>\n<b></a>".to_owned(), "2:"),
            ("<a><b>".to_owned(), "does not end"),
            (String::new(), "does not end"),
        ];
        for (text, expected) in cases {
            let reason = tokens(xml(text.as_bytes())).unwrap_err();
            assert!(reason.contains(expected), "{reason}: {expected}");
        }
        let prefixes =
            (0..150).map(|n| format!("<a {}>", many(400, &format!("xmlns:p{n}x#='u' ")))).collect::<String>();
        let mut reader = Xml::new(Body::of(prefixes.into()), 1 << 20).unwrap();
        while let Ok(token) = reader.next() {
            assert_ne!(token, Token::Eof, "so many prefixes are refused");
        }
    }

    #[test]
    fn utf_16_is_read() {
        let text = "<?xml version='1.0' encoding='UTF-16'?><a>b\u{e4}\u{1f600}</a>";
        for (is_big, has_mark) in [(true, true), (false, true), (true, false), (false, false)] {
            let marked = if has_mark { format!("\u{feff}{text}") } else { text.to_owned() };
            let bytes: Vec<u8> = marked
                .encode_utf16()
                .flat_map(|unit| if is_big { unit.to_be_bytes() } else { unit.to_le_bytes() })
                .collect();
            assert_eq!(tokens(xml(&bytes)).as_deref(), Ok("<Unnamed:a>b\u{e4}\u{1f600}</>"), "{is_big} {has_mark}");
        }
    }

    #[test]
    fn reading_goes_on_behind_broken_text() {
        let text = "<r xmlns:s='http://stix.mitre.org/stix-1'>\n<b><c></b>\n<b>\n<s:ok/></b><bb/><b/></r>";
        let mut reader = xml(text.as_bytes());
        let mut broken = 0;
        loop {
            match reader.next() {
                Ok(Token::Eof) => break,
                Ok(_) => {}
                Err(_) => {
                    broken += 1;
                    let fragment = reader.resume_at(b"b").unwrap().expect("another b");
                    assert_eq!(fragment.place(), (3, 54));
                    assert_eq!(
                        tokens(fragment).as_deref(),
                        Ok("<Unnamed:b>\n<Stix:ok></></><Unnamed:bb></><Unnamed:b></>")
                    );
                    break;
                }
            }
        }
        assert_eq!(broken, 1);
    }

    proptest! {
        #[test]
        fn any_bytes_do_no_harm(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = tokens(xml(&text));
        }
    }
}
