//! The configuration as written: a tree of values that know their place, and typed reading with problems collected.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use crate::config::{Place, Problem};

/// Prefix of the variables that belong to us.
const PREFIX: &str = "TAXIWAY_";
/// Variables with that prefix that are no settings: the CLI's own.
const NOT_SETTINGS: [&str; 6] = [
    "TAXIWAY_CONFIG",
    "TAXIWAY_SOURCE_PASSWORD",
    "TAXIWAY_SOURCE_TOKEN",
    "TAXIWAY_SOURCE_API_KEY",
    "TAXIWAY_SOURCE_PASSPHRASE",
    "TAXIWAY_SOURCE_PROXY_PASSWORD",
];

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    value: Value,
    place: Place,
}

#[derive(Clone, Debug)]
enum Value {
    Text(String),
    Integer(i64),
    Flag(bool),
    List(Vec<Node>),
    Table(BTreeMap<String, Entry>),
    /// Kinds that no setting has, by name.
    Other(&'static str),
}

#[derive(Clone, Debug)]
struct Entry {
    /// Place of the key.
    place: Place,
    node: Node,
}

/// The whole configuration as written.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    root: BTreeMap<String, Entry>,
}

impl Tree {
    /// Reads TOML; all of its syntax errors at once.
    pub(super) fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let lines = Lines::of(text);
        let (table, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Ok(Self { root: lines.table(table.get_ref()) });
        }
        let problem = |error: &toml::de::Error| Problem {
            place: lines.place(error.span().map_or(0, |span| span.start)),
            text: format!("not TOML: {}", error.message()),
        };
        let mut problems: Vec<Problem> = errors.iter().map(problem).collect();
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        Err(problems)
    }

    /// Lays `TAXIWAY_STORE__LOCATION=…` and the like over the file: two underscores go one table down. Returns the
    /// names of those that it took.
    pub(super) fn lay_over(&mut self, variables: impl IntoIterator<Item = (String, String)>) -> Vec<String> {
        let mut taken = Vec::new();
        for (name, value) in variables {
            let Some(path) = name.strip_prefix(PREFIX) else { continue };
            if NOT_SETTINGS.contains(&name.as_str()) || is_of_kubernetes(path, &value) {
                continue;
            }
            let place = Place::Variable(name.clone());
            let keys = path.to_ascii_lowercase();
            let keys: Vec<&str> = keys.split("__").collect();
            let leaf = Node { value: Value::Text(value), place: place.clone() };
            set(&mut self.root, &keys, leaf);
            taken.push(name.clone());
        }
        taken
    }

    /// The top-level table.
    pub(super) fn root<'a>(&'a self, problems: &'a Problems) -> Section<'a> {
        Section { table: Some(&self.root), path: String::new(), known: Vec::new(), problems }
    }
}

/// Whether Kubernetes sets that variable in every pod, for a Service named `taxiway`: `SERVICE_HOST`, `SERVICE_PORT`,
/// `SERVICE_PORT_<name>`, `PORT=tcp://…`, `PORT_9000_TCP` and `PORT_9000_TCP_ADDR`, `…_PORT`, `…_PROTO`.
fn is_of_kubernetes(path: &str, value: &str) -> bool {
    let of_port = |rest: &str| {
        let (number, rest) = rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count());
        let protocol = ["_TCP", "_UDP", "_SCTP"].into_iter().find_map(|protocol| rest.strip_prefix(protocol));
        !number.is_empty() && protocol.is_some_and(|rest| ["", "_ADDR", "_PORT", "_PROTO"].contains(&rest))
    };
    match path {
        "SERVICE_HOST" | "SERVICE_PORT" => true,
        // A bare number was meant for us, by somebody who should hear of `listen`.
        "PORT" => value.contains("://"),
        _ => path.starts_with("SERVICE_PORT_") || path.strip_prefix("PORT_").is_some_and(of_port),
    }
}

fn set(table: &mut BTreeMap<String, Entry>, keys: &[&str], leaf: Node) {
    let Some((key, below)) = keys.split_first() else { return };
    let place = leaf.place.clone();
    if below.is_empty() {
        table.insert((*key).to_owned(), Entry { place, node: leaf });
        return;
    }
    let empty = || Node { value: Value::Table(BTreeMap::new()), place: place.clone() };
    let entry = table.entry((*key).to_owned()).or_insert_with(|| Entry { place: place.clone(), node: empty() });
    if !matches!(entry.node.value, Value::Table(_)) {
        entry.node = empty();
    }
    if let Value::Table(inner) = &mut entry.node.value {
        set(inner, below, leaf);
    }
}

/// Byte offsets to lines and columns.
struct Lines<'a> {
    text: &'a str,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        Self { text }
    }

    fn place(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        Place::File { line: before.matches('\n').count() + 1, column }
    }

    fn table(&self, table: &DeTable<'_>) -> BTreeMap<String, Entry> {
        let entry = |(key, value): (&toml::Spanned<toml::de::DeString<'_>>, &toml::Spanned<DeValue<'_>>)| {
            let node = Node { value: self.value(value.get_ref()), place: self.place(value.span().start) };
            (key.get_ref().to_string(), Entry { place: self.place(key.span().start), node })
        };
        table.iter().map(entry).collect()
    }

    fn value(&self, value: &DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or(Value::Other("a number too large"), Value::Integer),
            DeValue::Boolean(flag) => Value::Flag(*flag),
            DeValue::Array(items) => {
                let node = |item: &toml::Spanned<DeValue<'_>>| Node {
                    value: self.value(item.get_ref()),
                    place: self.place(item.span().start),
                };
                Value::List(items.iter().map(node).collect())
            }
            DeValue::Table(table) => Value::Table(self.table(table)),
            DeValue::Float(_) => Value::Other("a fraction"),
            DeValue::Datetime(_) => Value::Other("a date"),
        }
    }
}

/// The problems found so far.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub(super) fn add(&self, place: &Place, text: impl Into<String>) {
        self.0.borrow_mut().push(Problem { place: place.clone(), text: text.into() });
    }

    /// All of them, in the order of the text they are about.
    pub(super) fn into_sorted(self) -> Vec<Problem> {
        let mut problems = self.0.into_inner();
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        problems
    }
}

/// A value read, and where it stood.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// One table while it is being read. Every key asked for becomes a known one; [`Section::finish`] reports the others.
pub(super) struct Section<'a> {
    table: Option<&'a BTreeMap<String, Entry>>,
    path: String,
    known: Vec<&'static str>,
    problems: &'a Problems,
}

impl<'a> Section<'a> {
    /// The table below `key`; an absent one reads as empty.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'a> {
        let table = self.get(key).and_then(|entry| match &entry.node.value {
            Value::Table(table) => Some(table),
            _ => {
                self.mismatch(key, &entry.node, "a table");
                None
            }
        });
        Section { table, path: self.name(key), known: Vec::new(), problems: self.problems }
    }

    /// The tables of `[[key]]`, each with its place.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Located<Section<'a>>> {
        let Some(entry) = self.get(key) else { return Vec::new() };
        if let Place::Variable(_) = entry.node.place {
            self.problems.add(&entry.place, format!("`{key}` can be set in the file only"));
            return Vec::new();
        }
        let nodes = match &entry.node.value {
            Value::List(nodes) => nodes.as_slice(),
            _ => {
                self.mismatch(key, &entry.node, "a list of tables: write its head as `[[…]]`");
                return Vec::new();
            }
        };
        let mut sections = Vec::new();
        for node in nodes {
            match &node.value {
                Value::Table(table) => {
                    let section = Section {
                        table: Some(table),
                        path: self.name(key),
                        known: Vec::new(),
                        problems: self.problems,
                    };
                    sections.push(Located { value: section, place: node.place.clone() });
                }
                _ => self.mismatch(key, node, "a list of tables: write its head as `[[…]]`"),
            }
        }
        sections
    }

    /// A text.
    pub(super) fn text(&mut self, key: &'static str) -> Option<Located<String>> {
        let node = &self.get(key)?.node;
        match &node.value {
            Value::Text(text) => Some(Located { value: text.clone(), place: node.place.clone() }),
            _ => {
                self.mismatch(key, node, "a text in quotes");
                None
            }
        }
    }

    /// A text with more than blanks in it.
    pub(super) fn filled(&mut self, key: &'static str) -> Option<Located<String>> {
        let text = self.text(key)?;
        if text.value.trim().is_empty() {
            self.problems.add(&text.place, format!("`{}` is empty; give it a value or leave it out", self.name(key)));
            return None;
        }
        Some(text)
    }

    /// A text that `parse` understands; its error finishes the sentence "`key` …".
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Located<T>> {
        let text = self.filled(key)?;
        match parse(text.value.trim()) {
            Ok(value) => Some(Located { value, place: text.place }),
            Err(reason) => {
                self.problems.add(&text.place, format!("`{}` {reason}", self.name(key)));
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let found = self.parsed(key, |text| {
            let word = words.iter().find(|(word, _)| *word == text);
            word.map(|(_, value)| *value).ok_or_else(|| {
                let all: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
                format!("must be {}, not `{text}`", all.join(" or "))
            })
        });
        found.map(|located| located.value)
    }

    /// A whole number from 1 to `max`.
    pub(super) fn count(&mut self, key: &'static str, max: u64) -> Option<Located<u64>> {
        let node = &self.get(key)?.node;
        let number = match &node.value {
            Value::Integer(number) => Some(*number),
            Value::Text(text) if from_variable(node) => text.trim().parse().ok(),
            _ => None,
        };
        match number.and_then(|number| u64::try_from(number).ok()).filter(|number| (1..=max).contains(number)) {
            Some(value) => Some(Located { value, place: node.place.clone() }),
            None => {
                self.mismatch(key, node, &format!("a whole number from 1 to {max}"));
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str) -> Option<Located<bool>> {
        let node = &self.get(key)?.node;
        let flag = match &node.value {
            Value::Flag(flag) => Some(*flag),
            Value::Text(text) if from_variable(node) => text.trim().parse().ok(),
            _ => None,
        };
        if flag.is_none() {
            self.mismatch(key, node, "true or false, without quotes");
        }
        flag.map(|value| Located { value, place: node.place.clone() })
    }

    /// A time span such as `30d`, no longer than `max`.
    pub(super) fn duration(&mut self, key: &'static str, max: Duration) -> Option<Duration> {
        if let Some(Entry { node, .. }) = self.table.and_then(|table| table.get(key))
            && let Value::Integer(_) = node.value
        {
            self.known.push(key);
            self.mismatch(key, node, "a time span with its unit and in quotes, such as \"90s\" or \"30d\"");
            return None;
        }
        let found = self.parsed(key, |text| match parse_duration(text)? {
            span if span > max => Err(format!("is longer than the {}d allowed", max.as_secs() / 86_400)),
            span => Ok(span),
        });
        found.map(|located| located.value)
    }

    /// A list of texts, or one text that stands for such a list; in a variable, commas separate.
    pub(super) fn texts(&mut self, key: &'static str) -> Option<Vec<Located<String>>> {
        let node = &self.get(key)?.node;
        match &node.value {
            Value::Text(text) if from_variable(node) => {
                let item = |item: &str| Located { value: item.trim().to_owned(), place: node.place.clone() };
                Some(text.split(',').map(item).collect())
            }
            Value::Text(text) => Some(vec![Located { value: text.clone(), place: node.place.clone() }]),
            Value::List(nodes) => {
                let mut texts = Vec::new();
                for node in nodes {
                    match &node.value {
                        Value::Text(text) => texts.push(Located { value: text.clone(), place: node.place.clone() }),
                        _ => self.mismatch(key, node, "a list of texts in quotes"),
                    }
                }
                Some(texts)
            }
            _ => {
                self.mismatch(key, node, "a list of texts in quotes");
                None
            }
        }
    }

    /// Where the key stands, if it is there.
    pub(super) fn place_of(&mut self, key: &'static str) -> Option<Place> {
        self.get(key).map(|entry| entry.place.clone())
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        let Some(table) = self.table else { return };
        for (key, entry) in table.iter().filter(|(key, _)| !self.known.contains(&key.as_str())) {
            let mut text = format!("there is no setting `{}`", self.name(key));
            match nearest(key, &self.known) {
                Some(near) => text.push_str(&format!("; did you mean `{}`?", self.name(near))),
                None => text.push_str(&format!("; here can be: {}", self.known.join(", "))),
            }
            self.problems.add(&entry.place, text);
        }
    }

    fn get(&mut self, key: &'static str) -> Option<&'a Entry> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.table?.get(key)
    }

    fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn mismatch(&self, key: &str, node: &Node, wanted: &str) {
        let found = match &node.value {
            Value::Text(text) if text.chars().count() <= 40 => format!("`{text}`"),
            Value::Text(_) => "a text".to_owned(),
            Value::Integer(number) => format!("`{number}`"),
            Value::Flag(flag) => format!("`{flag}`"),
            Value::List(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
            Value::Other(kind) => (*kind).to_owned(),
        };
        self.problems.add(&node.place, format!("`{}` must be {wanted}, not {found}", self.name(key)));
    }
}

fn from_variable(node: &Node) -> bool {
    matches!(node.place, Place::Variable(_))
}

/// The known key that was probably meant.
pub(crate) fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(key, candidate), *candidate))
        .filter(|(likeness, _)| *likeness > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `500ms`, `90s`, `15m`, `12h`, `30d`, `2w`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 6] =
        [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim();
    let millis = UNITS.iter().find(|(name, _)| *name == unit).and_then(|(_, millis)| {
        let number: u64 = number.parse().ok().filter(|number| *number > 0)?;
        number.checked_mul(*millis)
    });
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| format!("must be a time span such as `90s`, `15m`, `12h` or `30d`, not `{text}`"))
}
