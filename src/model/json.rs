//! JSON text written straight into byte buffers: string escaping and the canonical form (RFC 8785, "JCS").
//!
//! Both need the same escapes: `"`, `\` and U+0000–U+001F and nothing else, so one escaper serves the deterministic ids
//! and everything that is rendered. What must look as Python writes it is turned into that afterwards ([`make_ascii`]).

use serde_json::{Number, Value};

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `text` as the inside of a JSON string (no quotes around it); UTF-8 stays as it is.
pub fn escape_into(text: &str, out: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    while let Some(at) = first_special(rest) {
        let (plain, tail) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((&special, tail)) = tail.split_first() else { return };
        escape_byte_into(special, out);
        rest = tail;
    }
    out.extend_from_slice(rest);
}

/// Appends `text` as a JSON string, quotes included.
pub fn string_into(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    escape_into(text, out);
    out.push(b'"');
}

/// Appends one byte of a JSON string's inside, escaped if it must be.
pub fn escape_byte_into(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'"' => out.extend_from_slice(br#"\""#),
        b'\\' => out.extend_from_slice(br"\\"),
        0x08 => out.extend_from_slice(br"\b"),
        0x09 => out.extend_from_slice(br"\t"),
        0x0a => out.extend_from_slice(br"\n"),
        0x0c => out.extend_from_slice(br"\f"),
        0x0d => out.extend_from_slice(br"\r"),
        0x00..0x20 => {
            out.extend_from_slice(br"\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
        _ => out.push(byte),
    }
}

/// Turns the JSON text from `start` on into one of printable ASCII alone, as Python writes it: what is not ASCII, and
/// DEL, becomes `\uXXXX`, beyond U+FFFF a pair of them. Outside of strings JSON has no such characters.
pub fn make_ascii(out: &mut Vec<u8>, start: usize) {
    // Nearly all text is ASCII already, and these two look at many bytes at a time.
    if out.get(start..).is_none_or(|text| text.is_ascii() && !text.contains(&0x7f)) {
        return;
    }
    let tail = out.split_off(start);
    for chunk in tail.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c < '\x7f' {
                out.push(c as u8);
            } else {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| escaped_unit_into(*unit, out));
            }
        }
        if !chunk.invalid().is_empty() {
            escaped_unit_into(0xfffd, out);
        }
    }
}

fn escaped_unit_into(unit: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(br"\u");
    out.extend([12, 8, 4, 0].map(|shift| HEX[usize::from(unit >> shift & 15)]));
}

/// Position of the first byte that must be escaped.
#[inline]
pub fn first_special(bytes: &[u8]) -> Option<usize> {
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let found = special_bits(u64::from_le_bytes(*word));
        if found != 0 {
            return Some(index * 8 + (found.trailing_zeros() / 8) as usize);
        }
    }
    let in_tail = tail.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\')?;
    Some(words.len() * 8 + in_tail)
}

/// Marks the high bit of bytes below 0x20, `"` and `\`. A borrow can mark bytes above the first hit wrongly, never
/// below it, and only the first is used.
#[inline]
fn special_bits(word: u64) -> u64 {
    let below = |word: u64, bound: u64| word.wrapping_sub(ONES * bound) & !word;
    let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    (below(word, 0x20) | equal(b'"') | equal(b'\\')) & HIGH_BITS
}

/// Appends `value` in the canonical form of RFC 8785: keys sorted by UTF-16 units, numbers as ECMAScript prints them.
pub fn canonical_into(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => canonical_number_into(number, out),
        Value::String(text) => string_into(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                canonical_into(item, out);
            }
            out.push(b']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<(&String, &Value)> = members.iter().collect();
            sorted.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            out.push(b'{');
            for (index, (key, member)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                string_into(key, out);
                out.push(b':');
                canonical_into(member, out);
            }
            out.push(b'}');
        }
    }
}

fn canonical_number_into(number: &Number, out: &mut Vec<u8>) {
    // Integers beyond 2^53 are rounded as the doubles that every JCS number is.
    const EXACT: u64 = 1 << 53;
    match number.as_i64() {
        Some(integer) if integer.unsigned_abs() <= EXACT => {
            out.extend_from_slice(itoa::Buffer::new().format(integer).as_bytes());
        }
        _ => double_into(number.as_f64().unwrap_or_default(), out),
    }
}

/// Appends a finite double as ECMAScript's `Number::toString` does (ECMA-262 §6.1.6.1.20).
fn double_into(double: f64, out: &mut Vec<u8>) {
    if double == 0.0 {
        out.push(b'0');
        return;
    }
    if double < 0.0 {
        out.push(b'-');
    }
    let (digits, point) = shortest_digits(double);
    let count = digits.len() as i32;
    let zeros = |out: &mut Vec<u8>, count: i32| out.extend(std::iter::repeat_n(b'0', count.max(0) as usize));
    if (1..=21).contains(&point) {
        let (whole, fraction) = digits.split_at(point.min(count) as usize);
        out.extend_from_slice(whole);
        zeros(out, point - count);
        if !fraction.is_empty() {
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
    } else if (-5..=0).contains(&point) {
        out.extend_from_slice(b"0.");
        zeros(out, -point);
        out.extend_from_slice(&digits);
    } else {
        let (whole, fraction) = digits.split_at(1.min(digits.len()));
        out.extend_from_slice(whole);
        if !fraction.is_empty() {
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
        out.extend_from_slice(if point > 0 { b"e+" } else { b"e-" });
        out.extend_from_slice(itoa::Buffer::new().format((point - 1).unsigned_abs()).as_bytes());
    }
}

/// The shortest digits that read back, and how many of them stand before the decimal point.
fn shortest_digits(double: f64) -> (Vec<u8>, i32) {
    // Rust's `e` form holds just these, as ECMAScript and Python ask for them too.
    let scientific = format!("{:e}", double.abs());
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).collect();
    (digits, exponent.parse::<i32>().unwrap_or_default() + 1)
}

/// Appends a JSON number as Python writes it after reading it: whole numbers keep their digits, all others become
/// doubles (`1.50` is `1.5`, `1e2` is `100.0`). What is beyond all doubles stays as it is.
pub fn python_number_into(number: &str, out: &mut Vec<u8>) {
    if !number.contains(['.', 'e', 'E']) {
        return out.extend_from_slice(if number == "-0" { b"0" } else { number.as_bytes() });
    }
    let Some(double) = number.parse::<f64>().ok().filter(|double| double.is_finite()) else {
        return out.extend_from_slice(number.as_bytes());
    };
    if double.is_sign_negative() {
        out.push(b'-');
    }
    let (digits, point) = if double == 0.0 { (vec![b'0'], 1) } else { shortest_digits(double) };
    let zeros = |out: &mut Vec<u8>, count: i32| out.extend(std::iter::repeat_n(b'0', count.max(0) as usize));
    if (-3..=16).contains(&point) {
        let (whole, fraction) = digits.split_at(point.clamp(0, digits.len() as i32) as usize);
        out.extend_from_slice(if whole.is_empty() { b"0" } else { whole });
        zeros(out, point - digits.len() as i32);
        out.push(b'.');
        zeros(out, -point);
        out.extend_from_slice(if fraction.is_empty() { b"0" } else { fraction });
    } else {
        let (whole, fraction) = digits.split_at(1.min(digits.len()));
        out.extend_from_slice(whole);
        if !fraction.is_empty() {
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
        let exponent = point - 1;
        out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
        if exponent.abs() < 10 {
            out.push(b'0');
        }
        out.extend_from_slice(itoa::Buffer::new().format(exponent.unsigned_abs()).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(text: &str) -> String {
        let mut out = Vec::new();
        string_into(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_print_as_ecmascript_does() {
        let cases = [
            ("10.0", "10"),
            ("-0.0", "0"),
            ("1e21", "1e+21"),
            ("1e20", "100000000000000000000"),
            ("1e-7", "1e-7"),
            ("1e-6", "0.000001"),
            ("0.3333333333333333", "0.3333333333333333"),
            ("-1.25e-9", "-1.25e-9"),
            ("123.456", "123.456"),
            ("9007199254740993", "9007199254740992"),
            ("18446744073709551615", "18446744073709552000"),
            ("-42", "-42"),
            ("5e-324", "5e-324"),
        ];
        for (text, expected) in cases {
            let mut out = Vec::new();
            canonical_into(&serde_json::from_str(text).unwrap(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn numbers_print_as_python_does() {
        // json.dumps(json.loads(text)) of CPython 3.11.
        let cases = [
            ("10.0", "10.0"),
            ("-0.0", "-0.0"),
            ("-0", "0"),
            ("0e5", "0.0"),
            ("1.50", "1.5"),
            ("1e2", "100.0"),
            ("1E15", "1000000000000000.0"),
            ("1e16", "1e+16"),
            ("123456789012345678.5", "1.2345678901234568e+17"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("-1.25e-9", "-1.25e-09"),
            ("1e-100", "1e-100"),
            ("0.1", "0.1"),
            ("123.456", "123.456"),
            ("9999999999999998.0", "9999999999999998.0"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("1e999", "1e999"),
            ("5e-324", "5e-324"),
        ];
        for (text, expected) in cases {
            let mut out = Vec::new();
            python_number_into(text, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn text_becomes_ascii_as_python_escapes_it() {
        let cases = [
            ("[\"a<>&/\\n\"]", "[\"a<>&/\\n\"]"),
            ("\"b\u{fc}cher\"", r#""b\u00fccher""#),
            ("\"\u{7f}\u{20ac}\u{1f600}x\"", r#""\u007f\u20ac\ud83d\ude00x""#),
        ];
        for (text, expected) in cases {
            let mut out = "before \u{e9}".as_bytes().to_vec();
            let start = out.len();
            out.extend_from_slice(text.as_bytes());
            make_ascii(&mut out, start);
            assert_eq!(String::from_utf8(out).unwrap(), format!("before \u{e9}{expected}"));
        }
    }

    #[test]
    fn keys_sort_by_utf16_units() {
        // U+1F600 is a surrogate pair beginning 0xd83d, so it precedes U+FB33, though its UTF-8 bytes follow.
        let mut out = Vec::new();
        canonical_into(&serde_json::from_str("{\"\u{fb33}\":1,\"\u{1f600}\":2,\"a\":[true,null]}").unwrap(), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "{\"a\":[true,null],\"\u{1f600}\":2,\"\u{fb33}\":1}");
    }

    #[test]
    fn every_control_character_is_escaped_as_serde_does() {
        for code in 0..0x80u8 {
            let text = format!("1234567{}8{}", char::from(code), char::from(code));
            assert_eq!(escaped(&text), serde_json::to_string(&text).unwrap(), "{code:#x}");
        }
    }

    proptest! {
        #[test]
        fn any_string_is_escaped_as_serde_does(text in prop_oneof![any::<String>(), "[\u{0}-\u{7f}]{0,40}", "[a\"\\\\\n\u{e9}\u{7f}-\u{ff}]{0,40}"]) {
            let ours = escaped(&text);
            prop_assert_eq!(&ours, &serde_json::to_string(&text).unwrap());
            prop_assert_eq!(serde_json::from_str::<String>(&ours).unwrap(), text);
        }

        #[test]
        fn doubles_read_back(bits in any::<u64>()) {
            let double = f64::from_bits(bits);
            prop_assume!(double.is_finite());
            let (mut out, mut python) = (Vec::new(), Vec::new());
            double_into(double, &mut out);
            python_number_into(&format!("{double:e}"), &mut python);
            prop_assert_eq!(String::from_utf8(out).unwrap().parse::<f64>().unwrap(), double);
            prop_assert_eq!(String::from_utf8(python).unwrap().parse::<f64>().unwrap(), double);
        }

        #[test]
        fn ascii_text_says_the_same(text in any::<String>()) {
            let mut out = Vec::new();
            string_into(&text, &mut out);
            make_ascii(&mut out, 0);
            prop_assert!(out.iter().all(|byte| (0x20..0x7f).contains(byte)));
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
