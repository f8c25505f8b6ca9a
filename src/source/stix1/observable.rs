//! The values in a CybOX observable, in whatever it is wrapped.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use crate::source::page::Facts;
use crate::source::stix1::values::{self, Expected, FileHashes, Value};
use crate::source::xml::{Family, Node};

/// Observables within observables.
const MAX_NESTING: usize = 32;

/// A reference or an id, cut down to a number: texts of them would fill the memory.
pub(super) fn id_hash(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.trim().hash(&mut hasher);
    hasher.finish()
}

/// What an observable holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) values: Vec<Value>,
    /// Observables and objects that are elsewhere.
    pub(super) references: Vec<u64>,
    /// Ids of parts of it, with their places in `values` and `references`.
    pub(super) ids: Vec<(u64, Range<usize>, Range<usize>)>,
    /// Whether several observables have to occur together.
    pub(super) is_all_of: bool,
}

/// Collects from one tree.
#[derive(Debug)]
pub(super) struct Collector<'f> {
    pub(super) found: Found,
    pub(super) facts: &'f mut Facts,
    /// Where the tree begins, for what is rejected.
    pub(super) place: (u64, u64),
}

impl Collector<'_> {
    fn reject(&mut self, reason: impl Into<String>) {
        self.facts.reject(self.place.0, self.place.1, reason);
    }

    /// An element `Observable`, or a part of an object.
    pub(super) fn observable(&mut self, node: Node<'_>, depth: usize) {
        if depth > MAX_NESTING {
            return self.reject("observables are nested deeper than 32 levels");
        }
        if node.attribute("negate").is_some_and(is_true) {
            return self.facts.skip("negated observables");
        }
        let start = (self.found.values.len(), self.found.references.len());
        if let Some(reference) = node.attribute("idref") {
            self.found.references.push(id_hash(reference));
        }
        for child in node.children() {
            match child.name() {
                "Object" => self.object(child, depth + 1),
                "Event" => self.event(child, depth + 1),
                "Observable" => self.observable(child, depth + 1),
                "Observable_Composition" => {
                    let is_all =
                        child.attribute("operator").is_none_or(|operator| operator.eq_ignore_ascii_case("AND"));
                    self.found.is_all_of |= is_all && child.children_named("Observable").nth(1).is_some();
                    child.children_named("Observable").for_each(|part| self.observable(part, depth + 1));
                }
                _ => {}
            }
        }
        self.note_id(node, start);
    }

    fn note_id(&mut self, node: Node<'_>, start: (usize, usize)) {
        if let Some(id) = node.attribute("id") {
            let values = start.0..self.found.values.len();
            let references = start.1..self.found.references.len();
            self.found.ids.push((id_hash(id), values, references));
        }
    }

    /// Objects in the actions of an event.
    fn event(&mut self, node: Node<'_>, depth: usize) {
        if depth > MAX_NESTING {
            return self.reject("events are nested deeper than 32 levels");
        }
        for child in node.children() {
            match child.name() {
                "Object" | "Associated_Object" => self.object(child, depth + 1),
                "Event" | "Actions" | "Action" | "Associated_Objects" => self.event(child, depth + 1),
                _ => {}
            }
        }
    }

    /// An `Object`, `Related_Object` or `Associated_Object`.
    fn object(&mut self, node: Node<'_>, depth: usize) {
        if depth > MAX_NESTING {
            return self.reject("objects are nested deeper than 32 levels");
        }
        let start = (self.found.values.len(), self.found.references.len());
        if let Some(reference) = node.attribute("idref") {
            self.found.references.push(id_hash(reference));
        }
        for child in node.children() {
            match child.name() {
                "Properties" => self.properties(child, depth + 1),
                // CybOX 1 had the object's own name here; 2.0 has it in few places still.
                "Defined_Object" => self.properties(child, depth + 1),
                "Related_Objects" => {
                    child.children_named("Related_Object").for_each(|related| self.object(related, depth + 1));
                }
                _ => {}
            }
        }
        self.note_id(node, start);
    }

    /// The properties of an object, by its type.
    fn properties(&mut self, node: Node<'_>, depth: usize) {
        if depth > MAX_NESTING {
            return self.reject("objects are nested deeper than 32 levels");
        }
        let Some((family, kind)) = node.kind() else { return self.guess(node) };
        if family == Family::Other {
            return self.facts.skip(&format!("object type {kind} of another vocabulary"));
        }
        match kind {
            "AddressObjectType" => self.address(node),
            "DomainNameObjectType" => match node.attribute("type") {
                Some("TLD") => self.facts.skip("top-level domains"),
                _ => self.texts(node, "Value", Expected::Domain),
            },
            "HostnameObjectType" => self.texts(node, "Hostname_Value", Expected::Domain),
            "URIObjectType" => {
                let expected = match node.attribute("type") {
                    Some("Domain Name") => Expected::Domain,
                    Some("General URN") => return self.facts.skip("URNs"),
                    _ => Expected::Url,
                };
                self.texts(node, "Value", expected);
            }
            "LinkObjectType" => self.texts(node, "Value", Expected::Url),
            "EmailMessageObjectType" => self.email(node),
            "WindowsRegistryKeyObjectType" => self.registry_key(node),
            "ASObjectType" => self.texts(node, "Number", Expected::Asn),
            "SocketAddressObjectType" => self.socket(node),
            "NetworkConnectionObjectType" => {
                // The other end is the one to look for; this end is often that of whom it happened to.
                let ends = node.child("Destination_Socket_Address").or_else(|| node.child("Source_Socket_Address"));
                ends.into_iter().for_each(|end| self.socket(end));
                if let Some(session) = node.path(&["Layer7_Connections", "HTTP_Session"]) {
                    self.http_session(session);
                }
            }
            "HTTPSessionObjectType" => self.http_session(node),
            "DNSRecordObjectType" => self.dns_record(node),
            "DNSQueryObjectType" => self.dns_query(node),
            // File objects have many subtypes, all of which have hashes.
            _ if node.child("Hashes").is_some() || kind.contains("File") => self.file(node),
            _ => self.facts.skip(kind),
        }
    }

    /// An object that does not say what it is.
    fn guess(&mut self, node: Node<'_>) {
        if node.child("Address_Value").is_some() {
            self.address(node);
        } else if node.child("Hashes").is_some() {
            self.file(node);
        } else if node.child("Hostname_Value").is_some() {
            self.texts(node, "Hostname_Value", Expected::Domain);
        } else if node.child("Value").is_some() {
            self.texts(node, "Value", Expected::Url);
        } else {
            self.facts.skip("objects without a type");
        }
    }

    fn address(&mut self, node: Node<'_>) {
        let expected = match node.attribute("category").map(str::to_ascii_lowercase).as_deref() {
            Some("mac" | "atm" | "ipv4-net-mask" | "ipv6-net-mask") => {
                return self.facts.skip("addresses of hardware and masks");
            }
            Some("asn") => Expected::Asn,
            Some("e-mail") => Expected::Email,
            _ => Expected::Address,
        };
        self.texts(node, "Address_Value", expected);
    }

    fn socket(&mut self, node: Node<'_>) {
        if let Some(address) = node.child("IP_Address") {
            self.address(address);
        }
        if let Some(host) = node.child("Hostname") {
            self.texts(host, "Hostname_Value", Expected::Domain);
        }
    }

    fn http_session(&mut self, node: Node<'_>) {
        for pair in node.children_named("HTTP_Request_Response") {
            let header = ["HTTP_Client_Request", "HTTP_Request_Header", "Parsed_Header", "Host", "Domain_Name"];
            if let Some(domain) = pair.path(&header) {
                self.texts(domain, "Value", Expected::Domain);
            }
        }
    }

    fn dns_record(&mut self, node: Node<'_>) {
        if let Some(domain) = node.child("Domain_Name") {
            self.texts(domain, "Value", Expected::Domain);
        }
        if let Some(address) = node.child("IP_Address") {
            self.address(address);
        }
    }

    fn dns_query(&mut self, node: Node<'_>) {
        for question in node.children_named("Question") {
            if let Some(name) = question.child("QName") {
                self.texts(name, "Value", Expected::Url);
            }
        }
        let resources = ["Answer_Resource_Records", "Authority_Resource_Records", "Additional_Records"];
        for list in resources.iter().filter_map(|name| node.child(name)) {
            list.children_named("Resource_Record").for_each(|record| self.dns_record(record));
        }
    }

    /// Who sent it and whom answers go to; those it was sent to are its victims.
    fn email(&mut self, node: Node<'_>) {
        let Some(header) = node.child("Header") else { return self.facts.skip("e-mails without a header") };
        let before = self.found.values.len();
        for part in ["From", "Sender", "Reply_To"] {
            if let Some(address) = header.child(part) {
                self.texts(address, "Address_Value", Expected::Email);
            }
        }
        for part in ["X_Originating_IP", "X_Originating_IP_Address"] {
            if let Some(address) = header.child(part) {
                self.address(address);
            }
        }
        if self.found.values.len() == before {
            self.facts.skip("e-mails without a sender");
        }
    }

    fn registry_key(&mut self, node: Node<'_>) {
        if !self.is_exact(node.child("Key")) {
            return;
        }
        match values::registry_key(node.text_at(&["Hive"]), node.text_at(&["Key"])) {
            Some(value) => self.found.values.push(value),
            None => self.facts.skip("registry keys without a hive"),
        }
    }

    fn file(&mut self, node: Node<'_>) {
        let mut hashes = FileHashes::default();
        let mut has_any = false;
        for hash in node.child("Hashes").into_iter().flat_map(|list| list.children()) {
            let name = hash.text_at(&["Type"]);
            for part in ["Simple_Hash_Value", "Fuzzy_Hash_Value"] {
                let Some(value) = hash.child(part) else { continue };
                if !self.is_exact(Some(value)) {
                    continue;
                }
                let Some(text) = value.text() else { continue };
                let delimiter = value.attribute("delimiter").unwrap_or("##comma##");
                let by_delimiter = !delimiter.is_empty() && text.contains(delimiter);
                let is_fuzzy = part == "Fuzzy_Hash_Value" || text.contains(':');
                let parts: Vec<&str> = match (by_delimiter, is_fuzzy) {
                    (true, _) => text.split(delimiter).collect(),
                    // Fuzzy hashes may hold commas.
                    (false, true) => vec![text],
                    (false, false) => text.split(',').collect(),
                };
                for text in parts.into_iter().filter(|text| !text.trim().is_empty()) {
                    has_any = true;
                    let is_known_other =
                        matches!(text.trim().len(), 56 | 96) && text.trim().bytes().all(|b| b.is_ascii_hexdigit());
                    if is_known_other {
                        self.facts.skip("hashes of other algorithms");
                    } else if let Err(reason) = hashes.put(name, text) {
                        self.reject(reason);
                    }
                }
            }
        }
        if !has_any {
            return self.facts.skip("files without a hash");
        }
        let name = node.child("File_Name").filter(|name| name.attribute("condition").is_none_or(|c| c == "Equals"));
        self.found.values.extend(hashes.values(name.and_then(|name| name.text())));
    }

    /// The values of an element, of which there may be several.
    fn texts(&mut self, node: Node<'_>, name: &'static str, expected: Expected) {
        let mut is_missing = true;
        for value in node.children_named(name) {
            is_missing = false;
            let is_range = value.attribute("condition") == Some("InclusiveBetween");
            if let (true, Expected::Address, Some(text)) = (is_range, expected, value.text()) {
                match values::networks(text, value.attribute("delimiter").unwrap_or("##comma##")) {
                    Some(networks) => self.found.values.extend(networks),
                    None => self.reject(format!("`{}` is no range of addresses", values::shown(text))),
                }
                continue;
            }
            if !self.is_exact(Some(value)) {
                continue;
            }
            let Some(text) = value.text() else {
                self.facts.skip("empty values");
                continue;
            };
            for part in values::list(expected, text, value.attribute("delimiter").unwrap_or("##comma##")) {
                match values::read(expected, &part) {
                    Ok(value) => self.found.values.push(value),
                    Err(reason) => self.reject(reason),
                }
            }
        }
        if is_missing {
            self.facts.skip(&format!("objects without {name}"));
        }
    }

    /// Whether a value is meant as it stands: patterns and what must not be are no values.
    fn is_exact(&mut self, value: Option<Node<'_>>) -> bool {
        let Some(value) = value else { return true };
        if value.attribute("apply_condition").is_some_and(|apply| apply.eq_ignore_ascii_case("NONE")) {
            self.facts.skip("values that must not occur");
            return false;
        }
        match value.attribute("condition") {
            None | Some("Equals") => match value.attribute("pattern_type") {
                Some(_) => {
                    self.facts.skip("patterns");
                    false
                }
                None => true,
            },
            Some("DoesNotEqual" | "DoesNotContain") => {
                self.facts.skip("values that must not occur");
                false
            }
            Some(_) => {
                self.facts.skip("patterns");
                false
            }
        }
    }
}

pub(super) fn is_true(text: &str) -> bool {
    matches!(text.trim(), "true" | "1")
}
