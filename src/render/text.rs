//! The spellings inside JSON strings: escapes, labels, pattern constants; dates between quotes; and members, each with
//! the comma after it, so that an object is written without looking back ([`close`]).

use super::encoder::Manner;
use crate::model::json::escape_byte_into;
use crate::model::time::Timestamp;

pub(super) use crate::model::json::{escape_into, string_into};

/// Appends a member: `key` is `"key":"`, with everything before the text.
pub(super) fn text_into(key: &[u8], text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(key);
    escape_into(text, out);
    out.extend_from_slice(b"\",");
}

/// Appends a member, or nothing when there is no text.
pub(super) fn filled_into(key: &[u8], text: Option<&str>, out: &mut Vec<u8>) {
    if let Some(text) = text {
        text_into(key, text, out);
    }
}

/// Appends a member that is an instant.
pub(super) fn time_into<M: Manner>(key: &[u8], at: Timestamp, out: &mut Vec<u8>) {
    out.extend_from_slice(key);
    instant_into::<M>(at, out);
    out.extend_from_slice(b"\",");
}

/// Appends an instant with as many digits as the version wants.
pub(super) fn instant_into<M: Manner>(at: Timestamp, out: &mut Vec<u8>) {
    if M::STRICT_20 { at.write_millis_to(out) } else { at.write_to(out) }
}

/// Ends an object or a list: puts `with` in the place of the comma after its last member, if it has one.
pub(super) fn close(with: u8, out: &mut Vec<u8>) {
    match out.last_mut() {
        Some(last) if *last == b',' => *last = with,
        _ => out.push(with),
    }
}

/// Appends `text` in lower case with `-` for blanks, as labels and phase names are spelt, escaped for JSON.
pub(super) fn slug_into(text: &str, out: &mut Vec<u8>) {
    for c in text.chars() {
        match c {
            ' ' => out.push(b'-'),
            _ if c.is_ascii() => escape_byte_into((c as u8).to_ascii_lowercase(), out),
            _ => {
                for lower in c.to_lowercase() {
                    out.extend_from_slice(lower.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
        }
    }
}

/// Appends `text` as the inside of a string constant of a pattern (`\` and `'` escaped, nothing else), itself inside a
/// JSON string: a backslash comes out as four.
pub(super) fn pattern_constant_into(text: &str, out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '\'']) {
        let (plain, tail) = rest.split_at(at);
        escape_into(plain, out);
        out.extend_from_slice(if tail.starts_with('\\') { br"\\\\" } else { br"\\'" });
        rest = tail.get(1..).unwrap_or_default();
    }
    escape_into(rest, out);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn in_json(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = vec![b'"'];
        write(&mut out);
        out.push(b'"');
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn labels_are_lower_case_and_hyphenated() {
        let cases =
            [("APT 28", "apt-28"), ("\u{c9}T\u{c9}", "\u{e9}t\u{e9}"), ("a\"B\\\tC", "a\"b\\\tc"), ("x-y_z", "x-y_z")];
        for (text, expected) in cases {
            assert_eq!(in_json(|out| slug_into(text, out)), expected);
        }
    }

    #[test]
    fn a_backslash_in_a_pattern_is_four_in_json() {
        let mut out = Vec::new();
        pattern_constant_into(r#"C:\it's "x""#, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), r#"C:\\\\it\\'s \"x\""#);
    }

    proptest! {
        #[test]
        fn pattern_constants_read_back(text in prop_oneof![any::<String>(), "['\\\\\"a\n]{0,20}"]) {
            let constant = in_json(|out| pattern_constant_into(&text, out));
            let mut read = String::new();
            let mut chars = constant.chars();
            while let Some(c) = chars.next() {
                prop_assert_ne!(c, '\'');
                read.push(if c == '\\' { chars.next().filter(|c| matches!(c, '\\' | '\'')).unwrap() } else { c });
            }
            prop_assert_eq!(read, text);
        }
    }
}
