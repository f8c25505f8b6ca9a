//! Comparing one value with the literals of a condition.
//!
//! A [`Matcher`] is prepared once per batch; per value it folds case into a reused buffer and looks up. Text compares
//! in any case throughout: that is what the language's keywords do.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;

use super::time::Moment;
use crate::model::time::Timestamp;

/// How a value is compared with the literals; it must satisfy one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Op {
    Equal,
    /// Wildcards `*` and `?`, with `\` before those that are plain.
    Like,
    Contains,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    /// Missing or without content; takes no literals.
    Empty,
}

impl Op {
    pub(super) const ALL: [Op; 8] =
        [Op::Equal, Op::Like, Op::Contains, Op::Greater, Op::GreaterOrEqual, Op::Less, Op::LessOrEqual, Op::Empty];

    /// Its name in the functions' arguments.
    pub(super) fn name(self) -> &'static str {
        match self {
            Op::Equal => "eq",
            Op::Like => "like",
            Op::Contains => "contains",
            Op::Greater => "gt",
            Op::GreaterOrEqual => "ge",
            Op::Less => "lt",
            Op::LessOrEqual => "le",
            Op::Empty => "empty",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Op> {
        Op::ALL.into_iter().find(|op| op.name() == name)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A number as text or JSON gives it. Integers stay exact: ids of twenty digits are not floats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Integer(i128),
    Float(f64),
}

impl Number {
    /// Reads `-12`, `+3`, `0.5`; no exponents, `inf` or `nan`, which are words.
    pub(super) fn parse(text: &str) -> Option<Number> {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        if digits.len() > 38 || !digits.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(whole) || !all_digits(fraction) || digits.ends_with('.') {
            return None;
        }
        match fraction {
            "" => text.parse().ok().map(Number::Integer),
            _ => text.parse().ok().map(Number::Float),
        }
    }

    pub(super) fn as_f64(self) -> f64 {
        match self {
            Number::Integer(whole) => whole as f64,
            Number::Float(float) => float,
        }
    }

    fn compare(self, other: Number) -> Option<Ordering> {
        match (self, other) {
            (Number::Integer(a), Number::Integer(b)) => Some(a.cmp(&b)),
            (a, b) => a.as_f64().partial_cmp(&b.as_f64()),
        }
    }
}

/// Reads `T`, `F`, `true`, `false`, in any case.
pub(super) fn parse_flag(text: &str) -> Option<bool> {
    match text {
        "t" | "T" => Some(true),
        "f" | "F" => Some(false),
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// Prepared literals.
#[derive(Debug)]
pub(super) struct Matcher {
    op: Op,
    words: HashSet<String>,
    /// The word if there is just one.
    sole: Option<String>,
    needles: Vec<String>,
    globs: Vec<Glob>,
    bounds: Vec<Bound>,
    numbers: Vec<Number>,
    days: Vec<(Timestamp, Timestamp)>,
    flags: Vec<bool>,
    folded: String,
}

/// Literal of an order comparison.
#[derive(Debug)]
struct Bound {
    word: String,
    number: Option<Number>,
    window: Option<(Timestamp, Timestamp)>,
}

impl Matcher {
    /// `typed`: equality also holds with numbers and flags, and between spellings of one date. JSON values are open to
    /// that, keyword columns are not. Text is no number, though: version `1.10` is not `1.1`, nor number `007` `7`.
    /// Order is another matter: there text that looks like a number counts as one.
    pub(super) fn new(op: Op, literals: &[&str], typed: bool) -> Self {
        let mut matcher = Matcher {
            op,
            words: HashSet::new(),
            sole: None,
            needles: Vec::new(),
            globs: Vec::new(),
            bounds: Vec::new(),
            numbers: Vec::new(),
            days: Vec::new(),
            flags: Vec::new(),
            folded: String::new(),
        };
        let window = |text: &str| Moment::parse_absolute(text).map(|moment| moment.window(Timestamp(0)));
        for literal in literals {
            match op {
                Op::Equal => {
                    matcher.words.insert(fold(literal));
                    if typed {
                        matcher.numbers.extend(Number::parse(literal));
                        matcher.days.extend(window(literal));
                        matcher.flags.extend(parse_flag(literal));
                    }
                }
                Op::Like => matcher.globs.push(Glob::new(&fold(literal))),
                Op::Contains => matcher.needles.push(fold(literal)),
                Op::Empty => {}
                _ => {
                    let (number, window) = (Number::parse(literal), window(literal));
                    matcher.bounds.push(Bound { word: fold(literal), number, window });
                }
            }
        }
        if let (1, [only]) = (matcher.words.len(), literals) {
            matcher.sole = Some(fold(only));
        }
        matcher.numbers.sort_by(|a, b| a.compare(*b).unwrap_or(Ordering::Equal));
        matcher
    }

    pub(super) fn text(&mut self, text: &str) -> bool {
        let sole = self.sole.as_deref().filter(|_| text.is_ascii());
        if sole.is_none() {
            fold_into(&mut self.folded, text);
        }
        let folded = self.folded.as_str();
        match self.op {
            Op::Equal => {
                sole.map_or_else(|| self.words.contains(folded), |word| text.eq_ignore_ascii_case(word))
                    || (!self.days.is_empty() && Timestamp::parse(text).is_ok_and(|at| self.has_date(at)))
            }
            Op::Like => self.globs.iter().any(|glob| glob.matches(folded)),
            Op::Contains => self.needles.iter().any(|needle| folded.contains(needle.as_str())),
            Op::Empty => false,
            _ => self.bounds.iter().any(|bound| {
                let order = match (bound.number, bound.window) {
                    (Some(limit), _) => Number::parse(text).and_then(|number| number.compare(limit)),
                    (None, Some(window)) => return Timestamp::parse(text).is_ok_and(|at| self.within(at, window)),
                    (None, None) => Some(folded.cmp(bound.word.as_str())),
                };
                order.is_some_and(|order| self.holds(order))
            }),
        }
    }

    pub(super) fn number(&mut self, number: Number) -> bool {
        match self.op {
            Op::Equal => self.has_number(number),
            Op::Like | Op::Contains => {
                let text = match number {
                    Number::Integer(whole) => whole.to_string(),
                    Number::Float(float) => float.to_string(),
                };
                self.text(&text)
            }
            Op::Empty => false,
            _ => {
                let limits = self.bounds.iter().filter_map(|bound| bound.number);
                limits.filter_map(|limit| number.compare(limit)).any(|order| self.holds(order))
            }
        }
    }

    pub(super) fn flag(&mut self, flag: bool) -> bool {
        self.op == Op::Equal && self.flags.contains(&flag)
    }

    fn has_number(&self, number: Number) -> bool {
        self.numbers.binary_search_by(|known| known.compare(number).unwrap_or(Ordering::Less)).is_ok()
    }

    fn has_date(&self, at: Timestamp) -> bool {
        self.days.iter().any(|(start, end)| (*start..*end).contains(&at))
    }

    /// Order against a date: what is "after a day" comes after its end.
    fn within(&self, at: Timestamp, (start, end): (Timestamp, Timestamp)) -> bool {
        match self.op {
            Op::Greater => at >= end,
            Op::GreaterOrEqual => at >= start,
            Op::Less => at < start,
            Op::LessOrEqual => at < end,
            _ => false,
        }
    }

    fn holds(&self, order: Ordering) -> bool {
        match self.op {
            Op::Greater => order.is_gt(),
            Op::GreaterOrEqual => order.is_ge(),
            Op::Less => order.is_lt(),
            Op::LessOrEqual => order.is_le(),
            _ => false,
        }
    }
}

/// Lower case, as compared.
pub(super) fn fold(text: &str) -> String {
    let mut out = String::new();
    fold_into(&mut out, text);
    out
}

fn fold_into(out: &mut String, text: &str) {
    out.clear();
    if text.is_ascii() {
        out.push_str(text);
        out.make_ascii_lowercase();
    } else {
        out.extend(text.chars().flat_map(char::to_lowercase));
    }
}

/// A pattern, in folded case.
#[derive(Debug, PartialEq)]
enum Glob {
    Start(String),
    End(String),
    Inside(String),
    Mixed(Vec<Token>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token {
    Char(char),
    One,
    Any,
}

impl Glob {
    fn new(pattern: &str) -> Self {
        let mut tokens = Vec::with_capacity(pattern.len());
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            let token = match c {
                '*' => Token::Any,
                '?' => Token::One,
                '\\' => Token::Char(chars.next().unwrap_or(c)),
                _ => Token::Char(c),
            };
            if token != Token::Any || tokens.last() != Some(&Token::Any) {
                tokens.push(token);
            }
        }
        let plain = |tokens: &[Token]| -> Option<String> {
            tokens.iter().map(|token| if let Token::Char(c) = token { Some(*c) } else { None }).collect()
        };
        let simple = match tokens.as_slice() {
            [Token::Any, middle @ .., Token::Any] => plain(middle).map(Glob::Inside),
            [Token::Any, end @ ..] => plain(end).map(Glob::End),
            [start @ .., Token::Any] => plain(start).map(Glob::Start),
            _ => None,
        };
        simple.unwrap_or(Glob::Mixed(tokens))
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Glob::Start(start) => text.starts_with(start.as_str()),
            Glob::End(end) => text.ends_with(end.as_str()),
            Glob::Inside(part) => text.contains(part.as_str()),
            Glob::Mixed(tokens) => matches_tokens(tokens, text),
        }
    }
}

/// Greedy, going back only to the last `*`: no pattern takes more than pattern × text steps.
fn matches_tokens(tokens: &[Token], text: &str) -> bool {
    let mut next = 0;
    let mut rest = text.chars();
    let mut last_any: Option<(usize, std::str::Chars<'_>)> = None;
    loop {
        let fits = match tokens.get(next) {
            Some(Token::Any) => {
                last_any = Some((next + 1, rest.clone()));
                true
            }
            Some(Token::One) => rest.next().is_some(),
            Some(Token::Char(wanted)) => rest.next() == Some(*wanted),
            None if rest.as_str().is_empty() => return true,
            None => false,
        };
        if fits {
            next += 1;
            continue;
        }
        let Some((after, from)) = &mut last_any else { return false };
        if from.next().is_none() {
            return false;
        }
        next = *after;
        rest = from.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        let cases = [
            ("*xample.com", "www.example.com", true),
            ("*xample.com", "example.com.evil", false),
            ("10.0.*", "10.0.255.255", true),
            ("*bad*", "so BAD indeed", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a?c", "a\u{e9}c", true),
            ("a*b*c", "aXXbYYbZc", true),
            ("a*b*c", "aXXbYYbZ", false),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("a\\?", "a?", true),
            ("*", "", true),
            ("?*", "", false),
            ("", "", true),
            ("\u{c4}*", "\u{e4}rger", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(Matcher::new(Op::Like, &[pattern], false).text(text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn typed_values() {
        let cases = [
            (Op::Equal, "75", "75", true),
            (Op::Equal, "75", "75.0", false),
            (Op::Equal, "7", "007", false),
            (Op::GreaterOrEqual, "7", "007", true),
            (Op::Equal, "75", "x75", false),
            (Op::Equal, "12345678901234567890", "12345678901234567891", false),
            (Op::Greater, "9", "10", true),
            (Op::Greater, "9", "x", false),
            (Op::Greater, "x", "y", true),
            (Op::Less, "-1", "-1.5", true),
            (Op::Equal, "2024-05-01", "2024-05-01T10:00:00Z", true),
            (Op::Equal, "2024-05-01T12:00:00 +0200", "2024-05-01T10:00:00.000Z", true),
            (Op::Greater, "2024-05-01", "2024-05-01T10:00:00Z", false),
            (Op::LessOrEqual, "2024-05-01", "2024-05-01T10:00:00Z", true),
            (Op::GreaterOrEqual, "2024-05-01", "2024-05-01T00:00:00Z", true),
            (Op::Less, "2024-05-01", "soon", false),
            (Op::Equal, "inf", "INF", true),
            (Op::Greater, "inf", "5", false),
        ];
        for (op, literal, text, expected) in cases {
            assert_eq!(Matcher::new(op, &[literal], true).text(text), expected, "{text} {op} {literal}");
        }
        assert!(Matcher::new(Op::Equal, &["T"], true).flag(true));
        assert!(!Matcher::new(Op::Equal, &["1.0"], false).text("1"));
        assert!(Matcher::new(Op::GreaterOrEqual, &["3"], true).number(Number::Float(3.0)));
        assert!(Matcher::new(Op::Equal, &["3", "2", "1.5"], true).number(Number::Integer(2)));
        assert!(Matcher::new(Op::Equal, &["75.0"], true).number(Number::Integer(75)));
    }
}
