//! Text to tokens.
//!
//! What a character means depends on where it stands (`:` ends a field name but is plain inside a value, `>` is an
//! operator only at the start of a value), so the parser says which kind of place it is at.

use super::ast::{Comparison, Content, Piece, Span, Value};
use super::error::{Problem, QueryError, Warnings};

/// A token and where it stands.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) span: Span,
}

#[derive(Debug, PartialEq)]
pub(super) enum Kind {
    Open,
    Close,
    Minus,
    And,
    Or,
    Not,
    /// A field name and its colon.
    Field(String),
    Value(Value),
    Operator(Comparison),
    /// Start of a range; whether its low end belongs to it.
    Range(bool),
    End,
}

/// The kind of place a token is wanted at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Where a clause or an operator may stand.
    Clause,
    /// The same inside `field:( … )`.
    Group,
}

#[derive(Debug)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    pub(super) warnings: Warnings<'a>,
}

fn is_blank(c: char) -> bool {
    c.is_whitespace() || c == '\u{feff}'
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Lexer { text, at: 0, warnings: Warnings::new(text, Vec::new()) }
    }

    pub(super) fn error(&self, offset: usize, problem: Problem, expected: &[&'static str]) -> QueryError {
        QueryError::new(self.text, offset, problem, expected.to_vec())
    }

    /// The text as written.
    pub(super) fn raw(&self, span: Span) -> &'a str {
        self.text.get(span.start..span.end).unwrap_or_default()
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_blanks(&mut self) {
        self.at = self.text.len() - self.rest().trim_start_matches(is_blank).len();
    }

    fn token(&self, start: usize, kind: Kind) -> Token {
        Token { kind, span: Span { start, end: self.at } }
    }

    /// One-character token.
    fn single(&mut self, c: char, kind: Kind) -> Token {
        let start = self.at;
        self.at += c.len_utf8();
        self.token(start, kind)
    }

    /// The next token at a place where conditions and operators stand.
    ///
    /// A `-` with a blank behind it is prose more often than logic (`A - Completely reliable`): before a field or a
    /// parenthesis it negates, before anything else it is skipped, each with a warning.
    pub(super) fn next(&mut self, place: Place) -> Result<Token, QueryError> {
        let mut lone_dash = None;
        loop {
            self.skip_blanks();
            if !self.at_lone_dash() {
                break;
            }
            lone_dash = Some(self.at);
            self.at += 1;
        }
        let start = self.at;
        let token = self.next_solid(place)?;
        let Some(dash) = lone_dash else { return Ok(token) };
        if matches!(token.kind, Kind::Field(_) | Kind::Open) {
            self.warnings
                .push(dash, "the `-` is read as a negation although a blank follows it; remove the blank".into());
            self.at = start;
            return Ok(Token { kind: Kind::Minus, span: Span { start: dash, end: dash + 1 } });
        }
        self.warnings.push(dash, "the `-` standing alone is ignored; quote values that hold blanks".into());
        Ok(token)
    }

    fn at_lone_dash(&self) -> bool {
        self.rest()
            .strip_prefix('-')
            .is_some_and(|after| after.is_empty() || after.starts_with(|c| is_blank(c) || c == ')'))
    }

    fn next_solid(&mut self, place: Place) -> Result<Token, QueryError> {
        let Some(first) = self.peek() else { return Ok(self.token(self.at, Kind::End)) };
        match first {
            '(' => return Ok(self.single(first, Kind::Open)),
            ')' => return Ok(self.single(first, Kind::Close)),
            '-' => return Ok(self.single(first, Kind::Minus)),
            _ => {}
        }
        if let Some(keyword) = self.keyword() {
            return Ok(keyword);
        }
        if place == Place::Group {
            return self.test_start();
        }
        if let Some(field) = self.field() {
            return Ok(field);
        }
        if let Some(after) = self.rest().strip_prefix(':') {
            // `::1` and the like are values.
            if !after.starts_with(':') {
                return Err(self.error(self.at, Problem::StrayColon, &[]));
            }
        }
        self.value()
    }

    fn keyword(&mut self) -> Option<Token> {
        let rest = self.rest();
        let length = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(length);
        let ends = match after.chars().next() {
            None | Some('(' | ')' | '"') => true,
            Some(c) => is_blank(c),
        };
        // `or:x` asks for a field of that name, as the colon says.
        if !ends {
            return None;
        }
        let kind = match word {
            _ if word.eq_ignore_ascii_case("and") => Kind::And,
            _ if word.eq_ignore_ascii_case("or") => Kind::Or,
            _ if word.eq_ignore_ascii_case("not") => Kind::Not,
            _ => return None,
        };
        let start = self.at;
        self.at += length;
        Some(self.token(start, kind))
    }

    /// A field name with its colon. Addresses with a scheme (`http://…`) and IPv6 addresses are not taken for one.
    fn field(&mut self) -> Option<Token> {
        let rest = self.rest();
        let length = match rest.strip_prefix('*') {
            Some(_) => 1,
            None if rest.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '-'))).unwrap_or(rest.len())
            }
            None => return None,
        };
        let (name, after) = rest.split_at(length);
        let value = after.strip_prefix(':')?;
        if value.starts_with(':') || value.starts_with("//") {
            return None;
        }
        let start = self.at;
        self.at += length + 1;
        Some(self.token(start, Kind::Field(name.to_owned())))
    }

    /// What stands right after `field:`.
    pub(super) fn after_colon(&mut self, field: &str) -> Result<Token, QueryError> {
        let colon_end = self.at;
        self.skip_blanks();
        let missing = match self.peek() {
            None | Some(')') => true,
            Some('(') => return Ok(self.single('(', Kind::Open)),
            // `type: and …` is a forgotten value, `tags:and` a strange one.
            Some(_) => self.at > colon_end && self.upcoming_keyword(),
        };
        if missing {
            return Err(self.missing_value(field));
        }
        self.test_start()
    }

    fn upcoming_keyword(&self) -> bool {
        let word = self.rest().split(|c: char| is_blank(c) || c == '(' || c == ')').next().unwrap_or_default();
        ["and", "or", "not"].iter().any(|keyword| word.eq_ignore_ascii_case(keyword))
    }

    fn missing_value(&self, field: &str) -> QueryError {
        self.error(self.at, Problem::MissingValue { field: field.to_owned() }, &["a value", "`(`"])
    }

    fn test_start(&mut self) -> Result<Token, QueryError> {
        let rest = self.rest();
        match rest.chars().next() {
            Some(open @ ('[' | '{')) => return Ok(self.single(open, Kind::Range(open == '['))),
            Some('<' | '>') if !starts_with_placeholder(rest) => {}
            _ => return self.value(),
        }
        let operator = match rest.as_bytes() {
            [b'>', b'=', ..] => Comparison::GreaterOrEqual,
            [b'<', b'=', ..] => Comparison::LessOrEqual,
            [b'>', ..] => Comparison::Greater,
            _ => Comparison::Less,
        };
        let start = self.at;
        self.at += operator.symbol().len();
        Ok(self.token(start, Kind::Operator(operator)))
    }

    /// The value an operator compares with.
    pub(super) fn after_operator(&mut self, field: &str) -> Result<Value, QueryError> {
        self.skip_blanks();
        if matches!(self.peek(), None | Some('(' | ')')) || self.upcoming_keyword() {
            return Err(self.missing_value(field));
        }
        self.value_with(|_| false)
    }

    fn value(&mut self) -> Result<Token, QueryError> {
        let start = self.at;
        let value = self.value_with(|_| false)?;
        Ok(self.token(start, Kind::Value(value)))
    }

    fn value_with(&mut self, ends: impl Fn(char) -> bool) -> Result<Value, QueryError> {
        let start = self.at;
        let content = if self.peek() == Some('"') { self.quoted()? } else { self.word(&ends)? };
        match self.peek() {
            None | Some(')') => {}
            Some(c) if is_blank(c) || ends(c) => {}
            Some(found) => return Err(self.error(self.at, Problem::Glued { found }, &["a blank"])),
        }
        Ok(Value { content, span: Span { start, end: self.at } })
    }

    fn quoted(&mut self) -> Result<Content, QueryError> {
        let start = self.at;
        let mut out = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((index, c)) = chars.next() {
            match c {
                '"' => {
                    self.at = start + index + 1;
                    return Ok(Content::Quoted(out));
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => out.push('\n'),
                    Some((_, 'r')) => out.push('\r'),
                    Some((_, 't')) => out.push('\t'),
                    Some((_, escaped)) => out.push(escaped),
                    None => break,
                },
                _ => out.push(c),
            }
        }
        Err(self.error(start, Problem::UnterminatedQuote, &["`\"`"]))
    }

    fn word(&mut self, ends: impl Fn(char) -> bool) -> Result<Content, QueryError> {
        let start = self.at;
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut chars = self.rest().char_indices();
        let mut length = self.rest().len();
        while let Some((index, c)) = chars.next() {
            let wildcard = match c {
                '*' => Piece::Any,
                '?' => Piece::One,
                '\\' => {
                    let Some((_, escaped)) = chars.next() else {
                        return Err(self.error(start + index, Problem::TrailingEscape, &["a character"]));
                    };
                    text.push(escaped);
                    continue;
                }
                _ if matches!(c, '(' | ')' | '"') || is_blank(c) || ends(c) => {
                    length = index;
                    break;
                }
                _ => {
                    text.push(c);
                    continue;
                }
            };
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(wildcard);
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        self.at = start + length;
        Ok(Content::Word(pieces))
    }

    /// The rest of a range whose opening bracket has been read: both bounds and whether the high one belongs to it.
    pub(super) fn range_end(&mut self) -> Result<(Option<Value>, Option<Value>, bool), QueryError> {
        let low = self.bound()?;
        self.skip_blanks();
        let word = self.rest().split(is_blank).next().unwrap_or_default();
        if !word.eq_ignore_ascii_case("to") {
            return Err(self.error(self.at, Problem::BadRange, &["`TO`"]));
        }
        self.at += word.len();
        let high = self.bound()?;
        self.skip_blanks();
        let inclusive = match self.peek() {
            Some(']') => true,
            Some('}') => false,
            _ => return Err(self.error(self.at, Problem::BadRange, &["`]`", "`}`"])),
        };
        self.at += 1;
        match self.peek() {
            None | Some(')') => {}
            Some(c) if is_blank(c) => {}
            Some(found) => return Err(self.error(self.at, Problem::Glued { found }, &["a blank"])),
        }
        Ok((low, high, inclusive))
    }

    fn bound(&mut self) -> Result<Option<Value>, QueryError> {
        self.skip_blanks();
        let start = self.at;
        let value = match self.peek() {
            None | Some('(' | ')' | ']' | '}') => None,
            Some(_) => Some(self.value_with(|c| matches!(c, ']' | '}'))?),
        };
        match value {
            Some(value) if !self.raw(value.span).eq_ignore_ascii_case("to") => {
                Ok((!value.is_anything()).then_some(value))
            }
            _ => Err(self.error(start, Problem::BadRange, &["a value", "`*`"])),
        }
    }
}

/// Whether the text begins with a template's placeholder such as `<date>`, which is a word and no comparison.
fn starts_with_placeholder(text: &str) -> bool {
    let Some(name) = text.strip_prefix('<') else { return false };
    let length =
        name.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))).unwrap_or(name.len());
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name[length..].starts_with('>')
}
