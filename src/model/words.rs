//! The words for verdicts, colours, confidence and truth. Import and queries read them here alike, so that a query
//! finds a record by the text it was imported with.

const VERDICTS: [(&str, u8); 17] = [
    ("unknown", 0),
    ("none", 0),
    ("info", 0),
    ("informational", 0),
    ("benign", 1),
    ("good", 1),
    ("clean", 1),
    ("harmless", 1),
    ("safe", 1),
    ("suspicious", 2),
    ("low", 2),
    ("medium", 2),
    ("moderate", 2),
    ("malicious", 3),
    ("bad", 3),
    ("high", 3),
    ("critical", 3),
];

/// The score 0–3 that a verdict's word stands for.
pub fn verdict(word: &str) -> Option<u8> {
    VERDICTS.into_iter().find(|(known, _)| word.eq_ignore_ascii_case(known)).map(|(_, score)| score)
}

/// A verdict as a number 0–3 or a word.
pub fn score(text: &str) -> Option<u8> {
    if let [digit @ b'0'..=b'3'] = text.as_bytes() {
        return Some(digit - b'0');
    }
    let text = text.trim();
    match text.parse::<f64>() {
        Ok(number) => [0u8, 1, 2, 3].into_iter().find(|score| f64::from(*score) == number),
        Err(_) => verdict(text),
    }
}

/// A traffic-light colour, with or without `TLP:`, in any case.
pub fn tlp(text: &str) -> Option<&'static str> {
    let text = text.trim();
    let colour = match text.split_at_checked(3) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case("tlp") => rest.trim_start_matches([':', ' ', '-', '_']),
        _ => text,
    };
    let strict = ["amber+strict", "amber strict", "amber_strict", "amber-strict"];
    if strict.iter().any(|spelling| colour.eq_ignore_ascii_case(spelling)) {
        return Some("amber+strict");
    }
    ["clear", "white", "green", "amber", "red"].into_iter().find(|name| colour.eq_ignore_ascii_case(name))
}

/// 0–100, fractions cut.
pub fn confidence(text: &str) -> Option<u8> {
    if let [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] = text.as_bytes() {
        return Some((tens - b'0') * 10 + ones - b'0');
    }
    let number = text.trim().trim_end_matches('%').parse::<f64>().ok()?;
    (0.0..=100.0).contains(&number).then_some(number as u8)
}

/// A truth value as JSON, XSOAR (`T`, `F`) or people write it.
pub fn truth(text: &str) -> Option<bool> {
    let is = |words: [&str; 4]| words.iter().any(|word| text.trim().eq_ignore_ascii_case(word));
    if is(["true", "t", "yes", "1"]) { Some(true) } else { is(["false", "f", "no", "0"]).then_some(false) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_verdicts_and_colours() {
        for (text, expected) in
            [("3", Some(3)), ("2.0", Some(2)), (" Malicious", Some(3)), ("4", None), ("x", None), ("", None)]
        {
            assert_eq!(score(text), expected, "{text}");
        }
        let colours = [
            ("TLP:RED", Some("red")),
            ("Amber", Some("amber")),
            ("tlp:amber strict", Some("amber+strict")),
            ("pink", None),
        ];
        for (text, expected) in colours {
            assert_eq!(tlp(text), expected, "{text}");
        }
        for (text, expected) in
            [("80", Some(80)), ("99.9", Some(99)), ("101", None), ("-1", None), ("high", None), ("NaN", None)]
        {
            assert_eq!(confidence(text), expected, "{text}");
        }
        for (text, expected) in
            [("True", Some(true)), ("T", Some(true)), ("f", Some(false)), ("no", Some(false)), ("maybe", None)]
        {
            assert_eq!(truth(text), expected, "{text}");
        }
    }
}
