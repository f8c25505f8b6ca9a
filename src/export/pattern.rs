//! The values that a STIX pattern looks for, where each of them alone is what it looks for.
//!
//! A list of values can stand for a pattern that is an alternative of plain comparisons (`=`, `IN`, `ISSUBSET`), or that puts the
//! hashes of one file together; not for one in which a value counts only beside something else. Of such patterns nothing is
//! taken: blocking an address that is bad on one port only would be wrong.

use std::borrow::Cow;

use crate::model::kind::{HashAlgorithm, StixType, detect, stix_type};

/// A value of a pattern, and the type of observable it belongs to.
pub(super) type Found<'a> = (StixType, Cow<'a, str>);

/// The values; none when the pattern is more than a list, or cannot be read.
pub(super) fn values(pattern: &str) -> Vec<Found<'_>> {
    read(pattern).unwrap_or_default()
}

#[derive(Debug, PartialEq)]
enum Token<'a> {
    /// Word, number or object path.
    Word(&'a str),
    Text(Cow<'a, str>),
    Sign(char),
}

fn read(pattern: &str) -> Option<Vec<Found<'_>>> {
    let mut tokens = tokens(pattern)?.into_iter().peekable();
    let mut found = Vec::new();
    let (mut joined, mut only_hashes) = (false, true);
    while let Some(token) = tokens.next() {
        let path = match token {
            Token::Sign('[' | ']' | '(' | ')') => continue,
            Token::Word("OR") => continue,
            Token::Word("AND") => {
                joined = true;
                continue;
            }
            Token::Word(path) if path.contains(':') => path,
            // Sequences, qualifiers, negation.
            _ => return None,
        };
        let list = match (tokens.next()?, tokens.peek()) {
            (Token::Sign('=') | Token::Word("ISSUBSET"), _) => false,
            (Token::Word("IN"), Some(Token::Sign('('))) => true,
            // Anything else that is compared, or negated, is an alternative without a value, if it is one.
            _ => return None,
        };
        let mut values = Vec::new();
        if list {
            tokens.next();
            loop {
                match tokens.next()? {
                    Token::Text(text) => values.push(text),
                    Token::Sign(',') => {}
                    Token::Sign(')') => break,
                    Token::Sign(_) | Token::Word(_) => return None,
                }
            }
        } else {
            match tokens.next()? {
                Token::Text(text) => values.push(text),
                // A number or a truth value: no value of ours, but something that is asked for.
                Token::Word(_) => found.push((None, Cow::Borrowed(""))),
                Token::Sign(_) => return None,
            }
        }
        let (object, property) = path.split_once(':')?;
        // It only says what the other end of the reference is.
        if property.ends_with("_ref.type") {
            continue;
        }
        let is_hash = object == "file" && property.starts_with("hashes.");
        only_hashes &= is_hash;
        found.extend(values.into_iter().map(|value| (of_path(object, property, &value), value)));
    }
    if joined && found.len() > 1 && !only_hashes {
        return None;
    }
    // A comparison without a value of ours, joined to one with, narrows it.
    if joined && found.iter().any(|(stix_type, _)| stix_type.is_none()) {
        return None;
    }
    Some(found.into_iter().filter_map(|(stix_type, value)| Some((stix_type?, value))).collect())
}

fn of_path(object: &str, property: &str, value: &str) -> Option<StixType> {
    let of_value = || detect(value).and_then(|name| stix_type(name, value));
    match (object, property) {
        ("ipv4-addr", "value") => Some(StixType::Ipv4Addr),
        ("ipv6-addr", "value") => Some(StixType::Ipv6Addr),
        ("domain-name", "value") => Some(StixType::DomainName),
        ("url", "value") => Some(StixType::Url),
        ("email-addr", "value") => Some(StixType::EmailAddr),
        ("email-message", "from_ref.value" | "sender_ref.value") => Some(StixType::EmailAddr),
        ("network-traffic", "src_ref.value" | "dst_ref.value") => {
            of_value().filter(|found| matches!(found, StixType::Ipv4Addr | StixType::Ipv6Addr | StixType::DomainName))
        }
        ("file", _) if property.starts_with("hashes.") => HashAlgorithm::of(value).map(|_| StixType::File),
        _ => None,
    }
}

fn tokens(pattern: &str) -> Option<Vec<Token<'_>>> {
    let mut tokens = Vec::new();
    let mut rest = pattern.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\'' => {
                let (text, length) = constant(rest)?;
                tokens.push(Token::Text(text));
                length
            }
            '[' | ']' | '(' | ')' | ',' | '=' => {
                tokens.push(Token::Sign(first));
                1
            }
            _ => {
                let length = word(rest);
                let (word, _) = rest.split_at_checked(length).filter(|(word, _)| !word.is_empty())?;
                tokens.push(Token::Word(word));
                length
            }
        };
        rest = rest.get(length..)?.trim_start();
    }
    Some(tokens)
}

/// Length of the word or path at the start; quoted steps and indexes belong to a path.
fn word(text: &str) -> usize {
    let (mut quoted, mut is_path) = (false, false);
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '\'' if quoted || is_path => quoted = !quoted,
            _ if quoted => {}
            ':' => is_path = true,
            '[' if is_path => depth += 1,
            ']' if depth > 0 => depth -= 1,
            '\'' | '[' | ']' | '(' | ')' | ',' | '=' => return at,
            c if c.is_whitespace() => return at,
            _ => {}
        }
    }
    text.len()
}

/// The constant at the start without its escapes, and how long it stands there.
fn constant(text: &str) -> Option<(Cow<'_, str>, usize)> {
    let inside = text.get(1..)?;
    let mut plain = String::new();
    let (mut escaped, mut has_escapes) = (false, false);
    for (at, c) in inside.char_indices() {
        match c {
            _ if escaped => {
                plain.push(c);
                escaped = false;
            }
            '\\' => {
                has_escapes = true;
                escaped = true;
            }
            '\'' => {
                let text = if has_escapes { Cow::Owned(plain) } else { Cow::Borrowed(inside.get(..at)?) };
                return Some((text, at + 2));
            }
            _ => plain.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn alternatives_are_values_and_what_goes_together_is_not() {
        const MD5: &str = "d41d8cd98f00b204e9800998ecf8427e";
        let sha1 = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
        let joined = format!("[file:hashes.MD5 = '{MD5}' AND file:hashes.'SHA-1' = '{sha1}']");
        let by_name = format!("[file:hashes.MD5 = '{MD5}' AND file:name = 'x.exe']");
        let either = format!("[file:hashes.MD5='{MD5}'OR file:name = 'x.exe']");
        let cases: Vec<(&str, Vec<(&str, &str)>)> = vec![
            ("[ipv4-addr:value = '192.0.2.1']", vec![("ipv4-addr", "192.0.2.1")]),
            ("  [ ( ipv4-addr:value='192.0.2.0/24' ) ]  ", vec![("ipv4-addr", "192.0.2.0/24")]),
            ("[ipv4-addr:value ISSUBSET '198.51.100.0/24']", vec![("ipv4-addr", "198.51.100.0/24")]),
            (
                "[domain-name:value = 'a.example' OR url:value = 'http://a.example/?q=it\\'s\\\\']",
                vec![("domain-name", "a.example"), ("url", "http://a.example/?q=it's\\")],
            ),
            (
                "[ipv6-addr:value IN ('2001:db8::1', '2001:db8::2')]",
                vec![("ipv6-addr", "2001:db8::1"), ("ipv6-addr", "2001:db8::2")],
            ),
            (
                "[url:value = 'http://x/'] OR [email-addr:value = 'a@b.example']",
                vec![("url", "http://x/"), ("email-addr", "a@b.example")],
            ),
            (
                "[network-traffic:dst_ref.type = 'ipv4-addr' AND network-traffic:dst_ref.value = '192.0.2.9']",
                vec![("ipv4-addr", "192.0.2.9")],
            ),
            ("[network-traffic:dst_ref.value = '192.0.2.9' AND network-traffic:dst_port = 80]", vec![]),
            ("[network-traffic:extensions.'http-ext'.x[*].y = 'z']", vec![]),
            (&joined, vec![("file", MD5), ("file", sha1)]),
            (&by_name, vec![]),
            (&either, vec![("file", MD5)]),
            ("[ipv4-addr:value = '192.0.2.1' AND domain-name:value = 'a.example']", vec![]),
            ("[ipv4-addr:value = '192.0.2.1'] AND [domain-name:value = 'a.example']", vec![]),
            ("[ipv4-addr:value = '192.0.2.1'] FOLLOWEDBY [domain-name:value = 'a.example']", vec![]),
            ("[ipv4-addr:value = '192.0.2.1'] REPEATS 5 TIMES", vec![]),
            ("[ipv4-addr:value != '192.0.2.1']", vec![]),
            ("[ipv4-addr:value NOT = '192.0.2.1']", vec![]),
            ("[domain-name:value LIKE '%.example']", vec![]),
            ("[file:hashes.MD5 = 'short']", vec![]),
            ("[ipv4-addr:value = '192.0.2.1", vec![]),
            ("rule x { condition: true }", vec![]),
            ("", vec![]),
        ];
        for (pattern, expected) in cases {
            let found = values(pattern);
            let found: Vec<(&str, &str)> = found.iter().map(|(kind, value)| (kind.as_str(), &**value)).collect();
            assert_eq!(found, expected, "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panics(text in prop_oneof![any::<String>(), "[\\[\\]()',=\\\\a:. ANDOR]{0,40}"]) {
            let _ = values(&text);
        }

        #[test]
        fn constants_read_back(value in any::<String>()) {
            let escaped = value.replace('\\', "\\\\").replace('\'', "\\'");
            let pattern = format!("[url:value = '{escaped}']");
            prop_assert_eq!(values(&pattern), vec![(StixType::Url, Cow::Borrowed(value.as_str()))]);
        }
    }
}
