//! Reading a JSON object key by key: everything that is wrong is found and named, and every key that nobody asked for.
//!
//! A key that looks like a misspelling of one we know is refused: it would else be ignored in silence. Any other unknown key
//! is left out of account with a warning in the order, since scripts written for the original may send more than we know of.

use std::cell::RefCell;

use serde_json::{Map, Value};

/// How alike an unknown key is to the one that was probably meant.
const ALIKE: f64 = 0.85;
/// Most problems that are told at once.
const MAX_TOLD: usize = 50;

/// A field that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Its key, with those above it: `basic_auth_mode.username`.
    pub(super) field: String,
    /// What is wrong with it; goes on the sentence.
    pub(super) reason: String,
}

impl Problem {
    pub(super) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

/// What was found while reading.
#[derive(Debug, Default)]
pub(super) struct Found {
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<String>>,
}

impl Found {
    pub(super) fn problem(&self, field: impl Into<String>, reason: impl Into<String>) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() < MAX_TOLD {
            problems.push(Problem::new(field, reason));
        }
    }

    fn warning(&self, text: String) {
        let mut warnings = self.warnings.borrow_mut();
        if warnings.len() < MAX_TOLD {
            warnings.push(text);
        }
    }

    /// The warnings, if there are no problems.
    pub(super) fn settle(self) -> Result<Vec<String>, Vec<Problem>> {
        let problems = self.problems.into_inner();
        if problems.is_empty() { Ok(self.warnings.into_inner()) } else { Err(problems) }
    }
}

/// One object while it is being read.
pub(super) struct Object<'a> {
    /// `None`: it is not there, or no object; that was said.
    map: Option<&'a Map<String, Value>>,
    path: String,
    known: Vec<&'static str>,
    found: &'a Found,
}

impl<'a> Object<'a> {
    /// The whole body.
    pub(super) fn whole(value: &'a Value, found: &'a Found) -> Self {
        let map = value.as_object();
        if map.is_none() {
            found.problem("body", format!("must be an object such as {{\"data\": {{}}}}, not {}", kind(value)));
        }
        Self { map, path: String::new(), known: Vec::new(), found }
    }

    /// An object that has to be there.
    pub(super) fn object(&mut self, key: &'static str) -> Object<'a> {
        let value = self.required(key);
        let map = value.and_then(|value| match value {
            Value::Object(map) => Some(map),
            other => {
                self.wrong(key, "an object", other);
                None
            }
        });
        Object { map, path: self.name(key), known: Vec::new(), found: self.found }
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        let value = self.required(key)?;
        let flag = value.as_bool();
        if flag.is_none() {
            self.wrong(key, "true or false, without quotes", value);
        }
        flag
    }

    /// The same, which may be missing.
    pub(super) fn optional_flag(&mut self, key: &'static str) -> Option<bool> {
        self.is_given(key).then(|| self.flag(key)).flatten()
    }

    /// A whole number of a range. One in quotes is taken, too: it can mean nothing else, and the original sends such.
    pub(super) fn number(&mut self, key: &'static str, least: u64, most: u64) -> Option<u64> {
        let value = self.required(key)?;
        let number = match value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) if text.trim().bytes().all(|byte| byte.is_ascii_digit()) => text.trim().parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| (least..=most).contains(number));
        if number.is_none() {
            self.wrong(key, &format!("a whole number from {least} to {most}"), value);
        }
        number
    }

    /// The same, which may be missing.
    pub(super) fn optional_number(&mut self, key: &'static str, least: u64, most: u64) -> Option<u64> {
        self.is_given(key).then(|| self.number(key, least, most)).flatten()
    }

    /// A text, without blanks at its ends; it may be empty.
    pub(super) fn text(&mut self, key: &'static str) -> Option<&'a str> {
        let value = self.required(key)?;
        let text = value.as_str().map(str::trim);
        if text.is_none() {
            self.wrong(key, "a text in quotes", value);
        }
        text
    }

    /// A text with something in it.
    pub(super) fn filled(&mut self, key: &'static str) -> Option<&'a str> {
        let text = self.text(key)?;
        if text.is_empty() {
            self.problem(key, "is empty");
            return None;
        }
        Some(text)
    }

    /// A text that may be missing, null or empty.
    pub(super) fn optional_text(&mut self, key: &'static str) -> Option<&'a str> {
        self.is_given(key).then(|| self.text(key)).flatten().filter(|text| !text.is_empty())
    }

    /// A text that is taken as it is, and never repeated; it may be missing, null or empty.
    pub(super) fn secret(&mut self, key: &'static str) -> Option<&'a str> {
        if !self.is_given(key) {
            return None;
        }
        let text = self.map.and_then(|map| map.get(key)).and_then(Value::as_str);
        if text.is_none() {
            self.problem(key, "must be a text in quotes");
        }
        text.filter(|text| !text.is_empty())
    }

    /// A text or number, as text.
    pub(super) fn word(&mut self, key: &'static str) -> Option<String> {
        match self.required(key)? {
            Value::String(text) => Some(text.trim().to_owned()),
            Value::Number(number) => Some(number.to_string()),
            other => {
                self.wrong(key, "a text in quotes", other);
                None
            }
        }
    }

    /// A list of texts that may be missing.
    pub(super) fn optional_texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        if !self.is_given(key) {
            return None;
        }
        let value = self.map.and_then(|map| map.get(key))?;
        let texts: Option<Vec<String>> =
            value.as_array().and_then(|list| list.iter().map(|item| item.as_str().map(str::to_owned)).collect());
        if texts.is_none() {
            self.wrong(key, "a list of texts in quotes", value);
        }
        texts
    }

    /// Takes note of keys that may be there and mean nothing to us.
    pub(super) fn pass_over(&mut self, keys: &[&'static str]) {
        self.known.extend(keys);
    }

    /// Whether the key is there, with more than null.
    pub(super) fn is_given(&mut self, key: &'static str) -> bool {
        self.known.push(key);
        self.map.and_then(|map| map.get(key)).is_some_and(|value| !value.is_null())
    }

    pub(super) fn problem(&self, key: &str, reason: impl Into<String>) {
        self.found.problem(self.name(key), reason);
    }

    /// The key with those above it.
    pub(super) fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Calls the keys below by their own names alone, as people know them.
    pub(super) fn into_root(mut self) -> Self {
        self.path.clear();
        self
    }

    /// Says what is there that nobody asked for.
    pub(super) fn finish(self) {
        let Some(map) = self.map else { return };
        for key in map.keys().filter(|key| !self.known.contains(&key.as_str())) {
            let shown: String = key.chars().take(64).flat_map(char::escape_debug).collect();
            match nearest(key, &self.known) {
                Some(near) => {
                    self.problem(&shown, format!("is not known; did you mean `{}`?", self.name(near)));
                }
                None => {
                    self.found.warning(format!("`{}` is not known, and was left out of account", self.name(&shown)))
                }
            }
        }
    }

    fn required(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        let value = self.map?.get(key).filter(|value| !value.is_null());
        if value.is_none() {
            self.problem(key, "is missing");
        }
        value
    }

    fn wrong(&self, key: &str, wanted: &str, value: &Value) {
        self.problem(key, format!("must be {wanted}, not {}", kind(value)));
    }
}

/// A value, as it may be repeated: short, or by its kind.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => format!("`{flag}`"),
        Value::Number(number) => format!("`{number}`"),
        Value::String(text) if text.chars().count() <= 40 => format!("\"{}\"", text.escape_debug()),
        Value::String(_) => "a long text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// The known key that was probably meant.
fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let wanted = plain(key);
    known
        .iter()
        .map(|known| (strsim::jaro_winkler(&wanted, &plain(known)), *known))
        .filter(|(likeness, _)| *likeness > ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_wrong_is_named_at_once() {
        let body = json!({
            "flag": "yes", "number": -1, "quoted": " 7 ", "fraction": 1.5, "much": 99, "text": 5, "empty": " ",
            "object": [], "list": ["a", 1], "secret": 1234567, "nothing": null, "flga": true, "other": 1,
            "below": { "x": true, "y": "secret text of more than forty characters in all" },
        });
        let found = Found::default();
        let mut object = Object::whole(&body, &found);
        assert_eq!(object.flag("flag"), None);
        assert_eq!(object.number("number", 0, 9), None);
        assert_eq!(object.number("quoted", 0, 9), Some(7));
        assert_eq!(object.number("fraction", 0, 9), None);
        assert_eq!(object.number("much", 0, 9), None);
        assert_eq!(object.text("text"), None);
        assert_eq!(object.filled("empty"), None);
        assert_eq!(object.optional_text("nothing"), None);
        assert_eq!(object.secret("secret"), None);
        assert!(object.optional_texts("list").is_none());
        assert_eq!(object.filled("missing"), None);
        object.object("object").finish();
        let mut below = object.object("below");
        assert_eq!(below.number("y", 0, 9), None);
        below.finish();
        object.finish();
        let problems = found.settle().unwrap_err();
        let told: Vec<String> = problems.iter().map(|it| format!("{} {}", it.field, it.reason)).collect();
        let expected = [
            "flag must be true or false, without quotes, not \"yes\"",
            "number must be a whole number from 0 to 9, not `-1`",
            "fraction must be a whole number from 0 to 9, not `1.5`",
            "much must be a whole number from 0 to 9, not `99`",
            "text must be a text in quotes, not `5`",
            "empty is empty",
            "secret must be a text in quotes",
            "list must be a list of texts in quotes, not a list",
            "missing is missing",
            "object must be an object, not a list",
            "below.y must be a whole number from 0 to 9, not a long text",
            "flga is not known; did you mean `flag`?",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn strangers_are_warned_of() {
        let body = json!({ "flag": true, "colour": "red" });
        let found = Found::default();
        let mut object = Object::whole(&body, &found);
        assert_eq!(object.flag("flag"), Some(true));
        object.finish();
        assert_eq!(found.settle().unwrap(), ["`colour` is not known, and was left out of account"]);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(text in any::<String>(), number in any::<f64>()) {
            for value in [json!(text), json!(number), json!([text]), json!({ "a": text, "b": number })] {
                let found = Found::default();
                let mut object = Object::whole(&value, &found);
                let _ = (object.flag("a"), object.number("b", 1, 5), object.text("a"), object.word("b"), object.secret("a"));
                object.finish();
                assert!(found.settle().is_err());
            }
        }
    }
}
