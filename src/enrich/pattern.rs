//! The values in a STIX pattern that each alone fulfil it (STIX 2.1 §9, STIX 2.0 part 5).
//!
//! `[ipv4-addr:value = '192.0.2.1' OR domain-name:value IN ('a.example', 'b.example')]` holds three of them. Half of an `AND` fulfils
//! nothing and gives none, with one exception: several facts of one file, among them its hashes, since a hash stands for the whole file. `NOT`,
//! `LIKE`, `MATCHES` and orders of events give none either.

use crate::enrich::value::Shape;

/// Parentheses inside each other.
const MOST_DEPTH: usize = 64;
/// Values of one pattern that are kept.
const MOST_VALUES: usize = 10_000;

/// A value that fulfils a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Atom {
    pub(crate) shape: Shape,
    pub(crate) value: String,
}

/// The values of a pattern; empty when it has none, or is not one that can be read.
pub(crate) fn atoms(pattern: &str) -> Vec<Atom> {
    let mut parser = Parser { rest: pattern, depth: 0 };
    let found = parser.observations().filter(|_| parser.token() == Some(Token::End));
    let mut atoms = found.unwrap_or_default();
    atoms.truncate(MOST_VALUES);
    atoms
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// `[`, `]`, `(`, `)`, `,`.
    Mark(char),
    /// `=`, `!=`, `<` and so on.
    Operator(&'a str),
    /// Keywords, paths, numbers.
    Word(&'a str),
    Text(String),
    End,
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

/// What a comparison says.
struct Comparison {
    atoms: Vec<Atom>,
    /// It is about a file.
    of_file: bool,
}

impl<'a> Parser<'a> {
    /// The next token; `None`: nothing a pattern holds.
    fn token(&mut self) -> Option<Token<'a>> {
        let rest = self.rest.trim_start();
        let Some(first) = rest.chars().next() else {
            self.rest = rest;
            return Some(Token::End);
        };
        let (token, length) = match first {
            '[' | ']' | '(' | ')' | ',' => (Token::Mark(first), 1),
            '=' | '!' | '<' | '>' => {
                let length = rest.find(|c| !matches!(c, '=' | '!' | '<' | '>')).unwrap_or(rest.len());
                (Token::Operator(rest.get(..length)?), length)
            }
            '\'' => quoted(rest)?,
            // Timestamps, binary and hexadecimal literals: `t'…'`.
            't' | 'b' | 'h' if rest.get(1..2) == Some("'") => {
                let (text, length) = quoted(rest.get(1..)?)?;
                (text, length + 1)
            }
            _ => {
                let length = word_length(rest);
                (Token::Word(rest.get(..length).filter(|word| !word.is_empty())?), length)
            }
        };
        self.rest = rest.get(length..)?;
        Some(token)
    }

    fn takes(&mut self, word: &str) -> bool {
        let rest = self.rest;
        let is_it = match self.token() {
            Some(Token::Word(found)) => found.eq_ignore_ascii_case(word),
            Some(Token::Mark(mark)) => word.chars().eq([mark]),
            _ => false,
        };
        if !is_it {
            self.rest = rest;
        }
        is_it
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        self.depth += 1;
        let parsed = if self.depth > MOST_DEPTH { None } else { parse(self) };
        self.depth -= 1;
        parsed
    }

    /// `[…] OR […]`; `AND` and `FOLLOWEDBY` bind tighter, and need more than one event.
    fn observations(&mut self) -> Option<Vec<Atom>> {
        let mut all = Vec::new();
        loop {
            let mut one = self.observation()?;
            while self.takes("AND") || self.takes("FOLLOWEDBY") {
                self.observation()?;
                one.clear();
            }
            all.append(&mut one);
            if !self.takes("OR") {
                return Some(all);
            }
        }
    }

    fn observation(&mut self) -> Option<Vec<Atom>> {
        let mut atoms = if self.takes("[") {
            let found = self.either()?;
            self.takes("]").then_some(found.atoms)?
        } else if self.takes("(") {
            let found = self.deeper(Self::observations)?;
            self.takes(")").then_some(found)?
        } else {
            return None;
        };
        loop {
            if self.takes("REPEATS") {
                let once = matches!(self.token()?, Token::Word("1"));
                self.takes("TIMES").then_some(())?;
                if !once {
                    atoms.clear();
                }
            } else if self.takes("WITHIN") {
                self.token()?;
                self.takes("SECONDS").then_some(())?;
            } else if self.takes("START") {
                self.token()?;
                self.takes("STOP").then_some(())?;
                self.token()?;
            } else {
                return Some(atoms);
            }
        }
    }

    fn either(&mut self) -> Option<Comparison> {
        let mut all = self.both()?;
        while self.takes("OR") {
            let mut other = self.both()?;
            all.atoms.append(&mut other.atoms);
            all.of_file &= other.of_file;
        }
        Some(all)
    }

    fn both(&mut self) -> Option<Comparison> {
        let mut all = self.comparison()?;
        while self.takes("AND") {
            let mut other = self.comparison()?;
            all.of_file &= other.of_file;
            all.atoms.append(&mut other.atoms);
            if !all.of_file {
                all.atoms.clear();
            }
        }
        Some(all)
    }

    fn comparison(&mut self) -> Option<Comparison> {
        if self.takes("(") {
            let found = self.deeper(Self::either)?;
            return self.takes(")").then_some(found);
        }
        if self.takes("EXISTS") {
            self.token()?;
            return Some(Comparison { atoms: Vec::new(), of_file: false });
        }
        let Token::Word(path) = self.token()? else { return None };
        let denied = self.takes("NOT");
        let (equal, is_list) = match self.token()? {
            Token::Operator("=" | "==") => (true, false),
            Token::Word(word) if word.eq_ignore_ascii_case("IN") => (true, true),
            // A network that holds a value is one to be matched by the values in it.
            Token::Word(word) if word.eq_ignore_ascii_case("ISSUBSET") => (true, false),
            _ => (false, false),
        };
        let mut values = Vec::new();
        if is_list {
            self.takes("(").then_some(())?;
            while !self.takes(")") {
                match self.token()? {
                    Token::Text(text) => values.push(text),
                    Token::Word(_) | Token::Mark(',') => {}
                    _ => return None,
                }
            }
        } else {
            match self.token()? {
                Token::Text(text) => values.push(text),
                Token::Word(_) => {}
                _ => return None,
            }
        }
        let of_file = path.starts_with("file:");
        let Some(shape) = target(path).filter(|_| equal && !denied) else {
            // What is not looked up must not be passed over in an `AND`, except beside a file's hashes.
            return Some(Comparison { atoms: Vec::new(), of_file: of_file && !denied });
        };
        let atoms = values.into_iter().map(|value| Atom { shape, value }).collect();
        Some(Comparison { atoms, of_file })
    }
}

/// What a path is compared with, if that is looked up.
fn target(path: &str) -> Option<Shape> {
    Some(match path.split_once(':')? {
        ("ipv4-addr" | "ipv6-addr", "value") => Shape::Address,
        ("domain-name", "value") => Shape::Domain,
        ("url", "value") => Shape::Url,
        ("email-addr", "value") => Shape::Email,
        ("file", property) if property.starts_with("hashes") => Shape::Hash,
        // References that lead to a value.
        ("network-traffic", "dst_ref.value" | "src_ref.value") => Shape::Any,
        ("email-message", "from_ref.value" | "sender_ref.value") => Shape::Email,
        _ => return None,
    })
}

/// A text in quotes and the bytes it takes.
fn quoted(rest: &str) -> Option<(Token<'static>, usize)> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => text.push(chars.next()?.1),
            '\'' => return Some((Token::Text(text), at + 1)),
            c => text.push(c),
        }
    }
    None
}

/// Bytes of a word: a path may hold quoted parts (`file:hashes.'SHA-256'`) and places of lists (`[*]`).
fn word_length(rest: &str) -> usize {
    let (mut in_quotes, mut in_list) = (false, false);
    let end = rest.find(|c: char| {
        match c {
            '\'' => in_quotes = !in_quotes,
            _ if in_quotes => {}
            '[' => in_list = true,
            ']' if in_list => in_list = false,
            c => return c.is_whitespace() || matches!(c, ']' | '(' | ')' | ',' | '=' | '!' | '<' | '>'),
        }
        false
    });
    end.unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pattern: &str) -> Vec<String> {
        atoms(pattern).into_iter().map(|atom| format!("{:?} {}", atom.shape, atom.value)).collect()
    }

    #[test]
    fn values_that_fulfil_a_pattern_alone() {
        let cases: [(&str, &[&str]); 27] = [
            ("[ipv4-addr:value = '192.0.2.1']", &["Address 192.0.2.1"]),
            (" [ ipv4-addr:value='192.0.2.1' ] ", &["Address 192.0.2.1"]),
            (
                "[ipv4-addr:value = '192.0.2.1' OR ipv6-addr:value = '2001:db8::1']",
                &["Address 192.0.2.1", "Address 2001:db8::1"],
            ),
            (
                "[ipv4-addr:value = '192.0.2.1'] OR [url:value = 'http://a.example/']",
                &["Address 192.0.2.1", "Url http://a.example/"],
            ),
            (
                "([ipv4-addr:value = '192.0.2.1'] OR [url:value = 'http://a.example/'])",
                &["Address 192.0.2.1", "Url http://a.example/"],
            ),
            ("[domain-name:value IN ('a.example', 'b.example')]", &["Domain a.example", "Domain b.example"]),
            ("[ipv4-addr:value ISSUBSET '198.51.100.0/24']", &["Address 198.51.100.0/24"]),
            ("[file:hashes.'SHA-256' = 'aa']", &["Hash aa"]),
            ("[file:hashes.MD5 = 'aa' AND file:hashes.'SHA-1' = 'bb' AND file:name = 'x]']", &["Hash aa", "Hash bb"]),
            ("[file:hashes.MD5 = 'aa' OR file:name = 'x']", &["Hash aa"]),
            ("[(file:hashes.MD5 = 'aa' OR file:hashes.MD5 = 'bb') AND file:size = 25]", &["Hash aa", "Hash bb"]),
            ("[file:hashes.MD5 = 'aa' AND process:name = 'x']", &[]),
            ("[domain-name:value = 'a.example' AND domain-name:resolves_to_refs[*].value = '192.0.2.1']", &[]),
            ("[domain-name:value = 'a.example' AND ipv4-addr:value = '192.0.2.1']", &[]),
            (
                "[domain-name:value = 'a.example' AND ipv4-addr:value = '192.0.2.1' OR url:value = 'http://b.example']",
                &["Url http://b.example"],
            ),
            ("[url:value = 'a'] FOLLOWEDBY [url:value = 'b']", &[]),
            ("[url:value = 'a'] AND [url:value = 'b'] OR [url:value = 'c']", &["Url c"]),
            ("[url:value NOT = 'a']", &[]),
            ("[url:value != 'a']", &[]),
            ("[url:value LIKE 'a%']", &[]),
            ("[url:value MATCHES '^a']", &[]),
            ("[url:value = 'it\\'s \\\\ \u{fc}']", &["Url it's \\ \u{fc}"]),
            ("[url:value = 'a'] START t'2020-01-01T00:00:00Z' STOP t'2021-01-01T00:00:00Z'", &["Url a"]),
            ("[url:value = 'a'] REPEATS 5 TIMES WITHIN 60 SECONDS", &[]),
            (
                "[network-traffic:dst_ref.value = '192.0.2.1' OR email-message:from_ref.value = 'a@b.example']",
                &["Any 192.0.2.1", "Email a@b.example"],
            ),
            ("[mutex:name = 'x']", &[]),
            ("[EXISTS url:value OR url:value = 'a']", &["Url a"]),
        ];
        for (pattern, expected) in cases {
            assert_eq!(values(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn what_is_no_pattern_has_no_values() {
        let deep = format!("{}[url:value = 'a']{}", "(".repeat(100), ")".repeat(100));
        let shallow = format!("{}[url:value = 'a']{}", "(".repeat(10), ")".repeat(10));
        for pattern in [
            "",
            "[",
            "[url:value]",
            "[url:value = 'a'",
            "[url:value = 'a']]",
            "url:value = 'a'",
            "[url:value = a",
            "rule x { condition: true }",
            &deep,
        ] {
            assert_eq!(values(pattern), <[&str; 0]>::default(), "{pattern}");
        }
        assert_eq!(values(&shallow), ["Url a"]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(pattern in "(\\[|\\(|\\]|\\)|'|\\\\| |=|,|ipv4-addr:value|AND|OR|NOT|IN|a|\u{fc}|t'|file:hashes.'MD5'){0,20}") {
            let _ = atoms(&pattern);
        }
    }
}
