//! STIX 1.0 to 1.2.1 as a stream: indicators and observables become indicator documents, one at a time.
//!
//! The reader goes through a TAXII 1.x poll response, or a bare package, token by token; only a single indicator,
//! observable or header is ever held as a tree. Indicators that refer to observables elsewhere are put together at the
//! end of their package, from a table of bounded size; what the table cannot hold is handed on as merely observed.

mod document;
mod observable;
#[cfg(test)]
mod tests;
mod values;

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use base64::Engine;

use crate::model::time::Timestamp;
use crate::model::words;
use crate::source::body::Body;
use crate::source::envelope::Envelope;
use crate::source::page::{Facts, Objects};
use crate::source::stix1::document::{About, Documents};
use crate::source::stix1::observable::{Collector, Found, is_true};
use crate::source::stix1::values::Value;
use crate::source::xml::{Element, Node, Token, Tree, Xml, XmlError};

/// A page is handed on when its documents take so many bytes.
const PAGE_BYTES: usize = 4 << 20;

/// So much memory is spent on what may be referred to, and on what waits for it.
const TABLE_BYTES: usize = 64 << 20;

/// So many values are remembered as those of indicators.
const MAX_JUDGED: usize = 4 << 20;

/// References from observables to observables.
const MAX_CHAIN: usize = 16;

/// Indicators within indicators.
const MAX_NESTING: usize = 32;

/// What a poll response says besides its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::source) struct Poll {
    /// Whether it is a poll response at all.
    pub(in crate::source) is_poll: bool,
    pub(in crate::source) more: bool,
    pub(in crate::source) result_id: Option<String>,
    pub(in crate::source) part: Option<u32>,
    pub(in crate::source) end: Option<Timestamp>,
    pub(in crate::source) count: Option<u64>,
    /// Newest label of a block.
    pub(in crate::source) newest: Option<Timestamp>,
    pub(in crate::source) blocks: u64,
    pub(in crate::source) message: Option<String>,
}

/// What is open around the reader.
#[derive(Debug)]
enum Context {
    /// A content block, and what is known about it.
    Block { binding: Option<String> },
    /// Its content, and the text in it.
    Content { text: String, has_content: bool },
    /// A STIX package.
    Package(Box<Package>),
}

#[derive(Clone, Debug, Default)]
struct Package {
    /// What its indicators do not say themselves.
    about: About,
    /// Colours and what they cover, as XPath.
    colours: Vec<(String, &'static str)>,
}

impl Package {
    /// The strictest colour that covers an element of that id.
    fn colour(&self, id: Option<&str>) -> Option<&'static str> {
        let covers = |path: &str| !path.contains('[') || id.is_some_and(|id| !id.is_empty() && path.contains(id));
        self.colours
            .iter()
            .filter(|(path, _)| covers(path))
            .map(|(_, colour)| *colour)
            .max_by_key(|colour| strictness(colour))
    }
}

/// What can be referred to.
#[derive(Debug, Default)]
struct Entry {
    values: Vec<Value>,
    references: Vec<u64>,
    /// Said of it where no indicator refers to it; none: it is part of an indicator or of another entry.
    about: Option<Arc<About>>,
    /// The entry it is part of.
    owner: u64,
    is_used: bool,
}

/// An indicator that waits for what it refers to.
#[derive(Debug)]
struct Waiting {
    reference: u64,
    about: Arc<About>,
}

/// A file of STIX 1.x, read as a stream: what a poll would make of it.
#[derive(Debug)]
pub struct StixFile {
    reader: Reader,
}

impl StixFile {
    /// Opens a package, or a saved poll response; objects and texts beyond `max_object_bytes` are left out and counted.
    pub fn open(path: &std::path::Path, max_object_bytes: usize) -> std::io::Result<Self> {
        let body = Body::of_file(std::fs::File::open(path)?)?;
        Ok(StixFile { reader: Reader::new(body, max_object_bytes)? })
    }

    /// The next indicator documents; none at the end. What is left out goes into `facts`, where it adds up.
    pub fn next_page(&mut self, facts: &mut Facts) -> std::io::Result<Option<Objects>> {
        self.reader.next(facts)
    }
}

/// Reads a poll response or a package.
#[derive(Debug)]
pub(in crate::source) struct Reader {
    xml: Option<Xml>,
    tree: Tree,
    contexts: Vec<(usize, Context)>,
    documents: Documents,
    table: HashMap<u64, Entry>,
    /// In the order they came, for what nobody refers to.
    order: Vec<u64>,
    waiting: Vec<Waiting>,
    table_bytes: usize,
    is_table_full: bool,
    /// The values that an indicator was about.
    judged: HashSet<u64>,
    label: Option<Timestamp>,
    /// The start tag of content blocks as it is written.
    block_tag: Option<Vec<u8>>,
    max_object_bytes: usize,
    pub(in crate::source) poll: Poll,
}

impl Reader {
    pub(in crate::source) fn new(mut body: Body, max_object_bytes: usize) -> std::io::Result<Self> {
        let block_tag = block_tag(&body.start(64 << 10)?);
        Ok(Reader {
            xml: Some(Xml::new(body, max_object_bytes)?),
            tree: Tree::default(),
            contexts: Vec::new(),
            documents: Documents::default(),
            table: HashMap::new(),
            order: Vec::new(),
            waiting: Vec::new(),
            table_bytes: 0,
            is_table_full: false,
            judged: HashSet::new(),
            label: None,
            block_tag,
            max_object_bytes,
            poll: Poll::default(),
        })
    }

    /// The next documents; none at the end. Only the disk can fail: broken parts are counted and left out.
    pub(in crate::source) fn next(&mut self, facts: &mut Facts) -> std::io::Result<Option<Objects>> {
        while let Some(mut xml) = self.xml.take() {
            match self.step(&mut xml, facts) {
                Ok(true) => self.xml = Some(xml),
                Ok(false) => self.finish(facts),
                Err(XmlError::Io(error)) => return Err(error),
                Err(XmlError::Broken { line, offset, reason, .. }) => {
                    facts.reject(line, offset, reason);
                    self.close_packages(0, facts);
                    self.contexts.clear();
                    // Behind it the next block may be good.
                    if let Some(tag) = self.block_tag.clone() {
                        self.xml = xml.resume_at(&tag)?;
                    }
                    if self.xml.is_none() {
                        self.finish(facts);
                    }
                }
            }
            if self.documents.bytes.len() >= PAGE_BYTES {
                return Ok(Some(self.take()));
            }
        }
        Ok((!self.documents.ranges.is_empty()).then(|| self.take()))
    }

    fn take(&mut self) -> Objects {
        let Documents { bytes, ranges } = std::mem::take(&mut self.documents);
        Objects::new(bytes, ranges)
    }

    /// Takes the next token; `false` at the end.
    fn step(&mut self, xml: &mut Xml, facts: &mut Facts) -> Result<bool, XmlError> {
        match xml.next()? {
            Token::Start => self.start(xml, facts)?,
            Token::End => self.end(xml.depth() + 1, facts),
            Token::Text => {
                if let Some((depth, Context::Content { text, .. })) = self.contexts.last_mut()
                    && *depth == xml.depth()
                {
                    let room = self.max_object_bytes.saturating_sub(text.len());
                    if xml.text.len() <= room {
                        text.push_str(&xml.text);
                    } else {
                        let (line, offset) = xml.place();
                        return Err(XmlError::Broken {
                            line,
                            offset,
                            reason: "the text of a block is larger than the limit for one object".to_owned(),
                        });
                    }
                }
            }
            Token::Eof => return Ok(false),
        }
        Ok(true)
    }

    fn start(&mut self, xml: &mut Xml, facts: &mut Facts) -> Result<(), XmlError> {
        let Element { family, name, .. } = &xml.element;
        let family = *family;
        if family.is_taxii() {
            return self.start_of_message(xml, facts);
        }
        let depth = xml.depth();
        let is_content = family.is_content();
        let in_content = matches!(self.contexts.last(), Some((at, Context::Content { .. })) if at + 1 == depth);
        if in_content {
            let is_root =
                is_content && matches!(name.as_str(), "STIX_Package" | "Observables" | "Observable" | "Indicator");
            if !is_root {
                facts.skip(&format!("content `{}`", values::shown(name)));
            }
            if let Some((_, Context::Content { has_content, .. })) = self.contexts.last_mut() {
                *has_content = true;
            }
            if !is_root {
                return xml.skip();
            }
        }
        match name.as_str() {
            name if !is_content && (depth == 1 || in_content) => {
                facts.skip(&format!("document `{}`", values::shown(name)));
                return xml.skip();
            }
            _ if !is_content => {}
            "STIX_Package" => {
                let about = About { modified: time(xml.element.attribute("timestamp")), ..About::default() };
                self.contexts.push((depth, Context::Package(Box::new(Package { about, colours: Vec::new() }))));
            }
            "STIX_Header" => {
                let is_read = self.read_tree(xml, facts)?;
                if is_read {
                    self.header();
                }
            }
            "Indicator" => {
                let is_read = self.read_tree(xml, facts)?;
                if is_read {
                    self.indicator(facts);
                }
            }
            "Observable" => {
                let is_read = self.read_tree(xml, facts)?;
                if is_read {
                    self.observable(facts);
                }
            }
            // What belongs to victims, what answers an attack, and what only repeats.
            "Affected_Assets"
            | "Victim"
            | "Victim_Targeting"
            | "Parameter_Observables"
            | "Sightings"
            | "Test_Mechanisms" => {
                xml.skip()?;
            }
            _ => {}
        }
        Ok(())
    }

    fn read_tree(&mut self, xml: &mut Xml, facts: &mut Facts) -> Result<bool, XmlError> {
        let name = xml.element.name.clone();
        let is_read = xml.tree(&mut self.tree)?;
        if !is_read {
            let (line, offset) = self.tree.place();
            facts.reject(
                line,
                offset,
                format!("an element `{}` is larger than the limit for one object", values::shown(&name)),
            );
        }
        Ok(is_read)
    }

    fn start_of_message(&mut self, xml: &mut Xml, facts: &mut Facts) -> Result<(), XmlError> {
        let depth = xml.depth();
        match xml.element.name.as_str() {
            "Poll_Response" => {
                let attribute = |name: &str| xml.element.attribute(name);
                self.poll = Poll {
                    is_poll: true,
                    more: attribute("more").is_some_and(is_true),
                    result_id: attribute("result_id").map(str::to_owned).filter(|id| !id.is_empty()),
                    part: attribute("result_part_number").and_then(|part| part.trim().parse().ok()),
                    ..Poll::default()
                };
            }
            "Content_Block" => {
                self.poll.blocks += 1;
                self.label = None;
                self.contexts.push((depth, Context::Block { binding: None }));
            }
            "Content" => {
                let is_encrypted = matches!(self.contexts.last(), Some((_, Context::Block { binding: Some(binding) })) if is_encrypted(binding));
                if is_encrypted {
                    facts.skip("encrypted content");
                    return xml.skip();
                }
                self.contexts.push((depth, Context::Content { text: String::new(), has_content: false }));
            }
            "Content_Binding" | "Timestamp_Label" | "Inclusive_End_Timestamp" | "Record_Count" | "Message" => {
                let is_read = self.read_tree(xml, facts)?;
                if is_read {
                    self.part_of_message(facts);
                }
            }
            "Exclusive_Begin_Timestamp"
            | "Inclusive_Begin_Timestamp"
            | "Subscription_ID"
            | "Padding"
            | "Extended_Headers" => {
                xml.skip()?;
            }
            _ => {}
        }
        Ok(())
    }

    fn part_of_message(&mut self, facts: &mut Facts) {
        let Some(root) = self.tree.root() else { return };
        let text = root.text();
        let in_block = matches!(self.contexts.last(), Some((_, Context::Block { .. })));
        match root.name() {
            "Content_Binding" => {
                let given = root.attribute("binding_id").or(text).map(str::to_owned);
                if let Some((_, Context::Block { binding })) = self.contexts.last_mut() {
                    *binding = given;
                }
            }
            "Timestamp_Label" if in_block => {
                self.label = time(text);
                self.poll.newest = self.poll.newest.max(self.label);
            }
            "Inclusive_End_Timestamp" => {
                self.poll.end = time(text);
                if text.is_some() && self.poll.end.is_none() {
                    facts.warn("the server's Inclusive_End_Timestamp is no timestamp");
                }
            }
            "Record_Count" => self.poll.count = text.and_then(|text| text.parse().ok()),
            "Message" if !in_block => self.poll.message = text.map(str::to_owned),
            _ => {}
        }
    }

    /// The element at that depth has ended.
    fn end(&mut self, depth: usize, facts: &mut Facts) {
        while self.contexts.last().is_some_and(|(at, _)| *at >= depth) {
            match self.contexts.pop() {
                Some((_, Context::Package(package))) => {
                    let is_outermost = !self.contexts.iter().any(|(_, context)| matches!(context, Context::Package(_)));
                    if is_outermost {
                        self.end_package(&package, facts);
                    }
                }
                Some((_, Context::Content { text, has_content })) => self.end_content(&text, has_content, facts),
                _ => {}
            }
        }
    }

    fn close_packages(&mut self, depth: usize, facts: &mut Facts) {
        self.end(depth, facts);
        self.end_package(&Package::default(), facts);
    }

    /// All has been read: what still waits, waits in vain.
    fn finish(&mut self, facts: &mut Facts) {
        self.close_packages(0, facts);
        let left = self.waiting.len() as u64;
        if left > 0 {
            facts.warn(format!("{left} references of indicators lead to nothing in this answer"));
            *facts.skipped.entry("references to what is not there".to_owned()).or_default() += left;
        }
        if self.is_table_full {
            facts.warn("more observables with ids than can be remembered: some were taken as observed only, whatever refers to them");
        }
        self.waiting.clear();
        self.table.clear();
        self.order.clear();
    }

    /// Content that came as text: XML once more, STIX 2, or either in base64.
    fn end_content(&mut self, text: &str, has_content: bool, facts: &mut Facts) {
        let text = text.trim().trim_start_matches('\u{feff}');
        if text.is_empty() {
            if !has_content {
                facts.skip("empty content");
            }
            return;
        }
        if has_content {
            return;
        }
        if text.starts_with('<') {
            return self.nested(text.as_bytes().to_vec(), facts);
        }
        if text.starts_with(['{', '[']) {
            return self.stix2(text.as_bytes().to_vec(), facts);
        }
        let packed: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        if let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(packed) {
            match bytes.trim_ascii_start().first() {
                Some(b'<') => return self.nested(bytes, facts),
                Some(b'{' | b'[') => return self.stix2(bytes, facts),
                _ => {}
            }
        }
        facts.skip("content that is neither STIX nor XML");
    }

    /// A document of its own within the text of a block.
    fn nested(&mut self, bytes: Vec<u8>, facts: &mut Facts) {
        let Ok(mut xml) = Xml::new(Body::of(bytes.into()), self.max_object_bytes) else { return };
        let outer = std::mem::take(&mut self.contexts);
        loop {
            match self.step(&mut xml, facts) {
                Ok(true) => {}
                Ok(false) => break,
                Err(XmlError::Io(_)) => break,
                Err(XmlError::Broken { line, offset, reason, .. }) => {
                    facts.reject(
                        0,
                        0,
                        format!("in the text of block {}, line {line} (byte {offset}): {reason}", self.poll.blocks),
                    );
                    break;
                }
            }
        }
        self.end(0, facts);
        self.contexts = outer;
    }

    /// STIX 2 in a server of 1.x: handed on as it is.
    fn stix2(&mut self, bytes: Vec<u8>, facts: &mut Facts) {
        let mut envelope = Envelope::new(Body::of(bytes.into()), self.max_object_bytes);
        loop {
            match envelope.next(facts) {
                Ok(Some(objects)) => {
                    for text in objects.iter() {
                        let start = self.documents.bytes.len();
                        self.documents.bytes.extend_from_slice(text);
                        self.documents.ranges.push(start..self.documents.bytes.len());
                        self.documents.bytes.push(b'\n');
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    facts.reject(0, 0, format!("the text of block {} is neither STIX nor XML", self.poll.blocks));
                    break;
                }
            }
        }
    }

    fn package(&self) -> Package {
        let packages = self.contexts.iter().rev().filter_map(|(_, context)| match context {
            Context::Package(package) => Some(package),
            _ => None,
        });
        let mut all = Package::default();
        for package in packages {
            all.about = all.about.completed_by(&package.about);
            if all.colours.is_empty() {
                all.colours.clone_from(&package.colours);
            }
        }
        all.about.modified = all.about.modified.or(all.about.created).or(self.label);
        all
    }

    fn header(&mut self) {
        let Some(header) = self.tree.root() else { return };
        let produced = header.path(&["Information_Source", "Time", "Produced_Time"]).and_then(|node| time(node.text()));
        let producer = name_of(header.child("Information_Source"));
        let colours = colours(header);
        if let Some((_, Context::Package(package))) =
            self.contexts.iter_mut().rev().find(|(_, context)| matches!(context, Context::Package(_)))
        {
            package.about.created = produced;
            package.about.producer = producer;
            package.colours = colours;
        }
    }

    fn indicator(&mut self, facts: &mut Facts) {
        let package = self.package();
        let tree = std::mem::take(&mut self.tree);
        if let Some(root) = tree.root() {
            self.take_indicator(root, &About::default(), &package, 0, tree.place(), facts);
        }
        self.tree = tree;
    }

    fn take_indicator(
        &mut self,
        node: Node<'_>,
        outer: &About,
        package: &Package,
        depth: usize,
        place: (u64, u64),
        facts: &mut Facts,
    ) {
        if depth > MAX_NESTING {
            return facts.reject(place.0, place.1, "indicators are nested deeper than 32 levels");
        }
        if node.attribute("negate").is_some_and(is_true) {
            return facts.skip("negated indicators");
        }
        let related =
            node.children_named("Related_Indicators").flat_map(|list| list.children_named("Related_Indicator"));
        for relation in related {
            if relation.text_at(&["Relationship"]).is_some_and(|text| text.eq_ignore_ascii_case("Revokes")) {
                facts.skip("revocations of other indicators");
                continue;
            }
            if let Some(other) = relation.child("Indicator") {
                self.take_indicator(other, &About::default(), package, depth + 1, place, facts);
            }
        }
        let has_content = node.child("Observable").is_some() || node.child("Composite_Indicator_Expression").is_some();
        if !has_content {
            // One that only refers to another is taken where that stands.
            if node.attribute("idref").is_none() {
                facts.skip("indicators without observables");
            }
            return;
        }
        let mut about = about_indicator(node).completed_by(outer);
        let mut collector = Collector { found: Found::default(), facts, place };
        node.children_named("Observable").for_each(|observable| collector.observable(observable, 0));
        let found = collector.found;
        let composite = node.child("Composite_Indicator_Expression");
        let is_and = composite.is_some_and(|composite| {
            composite.attribute("operator").is_none_or(|operator| operator.eq_ignore_ascii_case("AND"))
                && composite.children_named("Indicator").nth(1).is_some()
        });
        about.is_all_of |= is_and || found.is_all_of && found.values.len() + found.references.len() > 1;
        about.tlp = about.tlp.or_else(|| package.colour(node.attribute("id")));
        for part in composite.into_iter().flat_map(|composite| composite.children_named("Indicator")) {
            self.take_indicator(part, &about, package, depth + 1, place, facts);
        }
        let about = about.completed_by(&package.about);
        if self.judged.len() >= MAX_JUDGED {
            self.judged.clear();
        }
        found.values.iter().for_each(|value| {
            self.judged.insert(value_hash(value));
            self.documents.push(value, &about);
        });
        if !found.references.is_empty() {
            let about = Arc::new(about);
            for reference in &found.references {
                self.wait(Waiting { reference: *reference, about: Arc::clone(&about) }, facts);
            }
        }
        // Others may refer to what is here; it is no more than that to them.
        if self.table_bytes < TABLE_BYTES / 2 {
            self.remember(found, None);
        }
    }

    fn observable(&mut self, facts: &mut Facts) {
        let package = self.package();
        let tree = std::mem::take(&mut self.tree);
        if let Some(root) = tree.root() {
            let mut collector = Collector { found: Found::default(), facts, place: tree.place() };
            collector.observable(root, 0);
            let found = collector.found;
            let about = About {
                id: root.attribute("id").map(str::to_owned),
                title: root.text_at(&["Title"]).map(str::to_owned),
                description: root.child("Description").map(|node| node.whole_text()).filter(|text| !text.is_empty()),
                confidence: Some(15),
                tlp: package.colour(root.attribute("id")),
                is_observed: true,
                is_all_of: found.is_all_of && found.values.len() + found.references.len() > 1,
                ..About::default()
            };
            let about = about.completed_by(&package.about);
            if found.ids.is_empty() || self.table_bytes >= TABLE_BYTES {
                self.is_table_full |= !found.ids.is_empty();
                let judged = &self.judged;
                let merely_seen = found.values.iter().filter(|value| !judged.contains(&value_hash(value)));
                merely_seen.for_each(|value| self.documents.push(value, &about));
                // What it refers to is handed on by itself.
            } else {
                self.remember(found, Some(&Arc::new(about)));
            }
        }
        self.tree = tree;
    }

    /// Keeps what may be referred to. The outermost id stands for all of it.
    fn remember(&mut self, found: Found, about: Option<&Arc<About>>) {
        let Found { values, references, ids, .. } = found;
        let count = ids.len();
        let Some(owner) = ids.last().map(|(id, ..)| *id) else { return };
        for (at, (id, of_values, of_references)) in ids.into_iter().enumerate() {
            let about = about.filter(|_| at + 1 == count).cloned();
            let entry = Entry {
                values: values.get(of_values).unwrap_or_default().to_vec(),
                references: references.get(of_references).unwrap_or_default().to_vec(),
                owner,
                is_used: about.is_none(),
                about,
            };
            self.table_bytes += size_of::<Entry>() + 24 + entry.references.len() * 8;
            self.table_bytes += entry.values.iter().map(Value::bytes).sum::<usize>();
            self.table_bytes += entry.about.as_ref().map_or(0, |about| about.bytes());
            if entry.about.is_some() {
                self.order.push(id);
            }
            self.table.insert(id, entry);
        }
    }

    fn wait(&mut self, waiting: Waiting, facts: &mut Facts) {
        if !self.resolve(&waiting) {
            self.table_bytes += size_of::<Waiting>() + waiting.about.bytes();
            if self.table_bytes > TABLE_BYTES {
                facts.skip("references to what is not there");
            } else {
                self.waiting.push(waiting);
            }
        }
    }

    /// Hands on what is referred to, as part of the indicator that refers to it.
    fn resolve(&mut self, waiting: &Waiting) -> bool {
        let mut left = vec![(waiting.reference, 0)];
        let mut seen = Vec::new();
        let mut is_found = false;
        while let Some((reference, depth)) = left.pop() {
            if depth > MAX_CHAIN || seen.contains(&reference) || seen.len() > 10_000 {
                continue;
            }
            seen.push(reference);
            let Some(entry) = self.table.get_mut(&reference) else { continue };
            is_found = true;
            entry.is_used = true;
            entry.values.iter().for_each(|value| {
                self.judged.insert(value_hash(value));
                self.documents.push(value, &waiting.about);
            });
            left.extend(entry.references.iter().map(|reference| (*reference, depth + 1)));
            let owner = entry.owner;
            if let Some(whole) = self.table.get_mut(&owner) {
                whole.is_used = true;
            }
        }
        is_found
    }

    /// What waits is put together, and what nobody refers to is handed on as observed.
    fn end_package(&mut self, _package: &Package, facts: &mut Facts) {
        for waiting in std::mem::take(&mut self.waiting) {
            if !self.resolve(&waiting) {
                self.waiting.push(waiting);
            }
        }
        for id in std::mem::take(&mut self.order) {
            let Some(entry) = self.table.get_mut(&id) else { continue };
            if let (false, Some(about)) = (entry.is_used, &entry.about) {
                // What an indicator says of a value is more than that somebody saw it.
                let judged = &self.judged;
                let merely_seen = entry.values.iter().filter(|value| !judged.contains(&value_hash(value)));
                merely_seen.for_each(|value| self.documents.push(value, about));
                entry.is_used = true;
            }
        }
        // Later blocks may refer to it, as long as there is room.
        if self.table_bytes > TABLE_BYTES / 2 {
            self.table.clear();
            self.table_bytes = self.waiting.iter().map(|waiting| size_of::<Waiting>() + waiting.about.bytes()).sum();
            if self.table_bytes > TABLE_BYTES / 2 {
                for _ in self.waiting.drain(..) {
                    facts.skip("references to what is not there");
                }
                self.table_bytes = 0;
            }
        }
    }
}

fn value_hash(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    (value.kind, &value.text).hash(&mut hasher);
    hasher.finish()
}

/// How content blocks are written in this message: the name with its prefix.
fn block_tag(start: &[u8]) -> Option<Vec<u8>> {
    let at = start
        .windows(14)
        .position(|text| text == b"Content_Block ")
        .or_else(|| start.windows(14).position(|text| text == b"Content_Block>"))?;
    let open = start.get(..at)?.iter().rposition(|byte| *byte == b'<')?;
    let tag = start.get(open + 1..at + 13)?;
    tag.iter()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b':'))
        .then(|| tag.to_vec())
}

fn is_encrypted(binding: &str) -> bool {
    let binding = binding.trim();
    binding.starts_with("http://www.w3.org/2001/04/xmlenc#")
        || matches!(binding, "application/pkcs7-mime" | "application/x-pkcs7-mime")
}

fn time(text: Option<&str>) -> Option<Timestamp> {
    Timestamp::parse(text?.trim()).ok()
}

/// Who is named as the source of something.
fn name_of(source: Option<Node<'_>>) -> Option<String> {
    let identity = source?.child("Identity")?;
    let name = identity.text_at(&["Name"]).map(str::to_owned);
    name.or_else(|| {
        // The name of a CIQ identity.
        let party = identity.path(&["Specification", "PartyName"])?;
        Some(party.whole_text()).filter(|text| !text.is_empty())
    })
}

fn strictness(colour: &str) -> usize {
    ["clear", "white", "green", "amber", "amber+strict", "red"].iter().position(|known| *known == colour).unwrap_or(0)
}

/// The colours that `Handling` gives, and what each covers.
fn colours(node: Node<'_>) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    for handling in node.children_named("Handling") {
        for marking in handling.children_named("Marking") {
            let covers = marking.text_at(&["Controlled_Structure"]).unwrap_or_default();
            for structure in marking.children_named("Marking_Structure") {
                if let Some(colour) = structure.attribute("color").and_then(words::tlp) {
                    found.push((covers.to_owned(), colour));
                }
            }
        }
    }
    found
}

fn about_indicator(node: Node<'_>) -> About {
    let texts = |name| node.children_named(name).map(|node| node.whole_text()).find(|text| !text.is_empty());
    let bound = |name: &'static str| {
        node.children_named("Valid_Time_Position").filter_map(move |position| time(position.text_at(&[name])))
    };
    About {
        id: node.attribute("id").map(str::to_owned),
        title: node.text_at(&["Title"]).map(str::to_owned),
        description: texts("Description").or_else(|| texts("Short_Description")),
        types: node.children_named("Type").filter_map(|node| node.text()).map(str::to_owned).collect(),
        modified: time(node.attribute("timestamp")),
        created: node.path(&["Producer", "Time", "Produced_Time"]).and_then(|node| time(node.text())),
        valid_from: bound("Start_Time").min(),
        valid_until: bound("End_Time").max(),
        confidence: node.text_at(&["Confidence", "Value"]).and_then(confidence),
        // Of an indicator's own markings, all are about it.
        tlp: colours(node).into_iter().map(|(_, colour)| colour).max_by_key(|colour| strictness(colour)),
        producer: name_of(node.child("Producer")),
        is_observed: false,
        is_all_of: false,
    }
}

/// The vocabulary of STIX 1 on the scale of STIX 2, and bare numbers.
fn confidence(text: &str) -> Option<u8> {
    let known = [("high", 85), ("medium", 50), ("low", 15), ("none", 0)];
    let word = known.into_iter().find(|(word, _)| text.trim().eq_ignore_ascii_case(word));
    word.map(|(_, value)| value).or_else(|| words::confidence(text))
}
