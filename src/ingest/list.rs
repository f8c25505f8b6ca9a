//! Plain lists: one value a line, comments after `#`, `;` and `//`.

use std::borrow::Cow;

use crate::ingest::block::Rows;
use crate::ingest::builder::Col;
use crate::ingest::indicator::{self, Identity};
use crate::ingest::names::TypeName;
use crate::model::kind;

/// Addresses that a `hosts` file gives to the names it blocks.
const BLOCKED: [&str; 4] = ["0.0.0.0", "127.0.0.1", "::", "::1"];

/// Appends the row of one line; `Ok(false)` when it holds no value.
pub(crate) fn append(rows: &mut Rows<'_>, text: &str, line: u64) -> Result<bool, String> {
    let Some(written) = value_of(text) else { return Ok(false) };
    let refanged = if rows.options.refang { refang(written) } else { Cow::Borrowed(written) };
    let (xsoar_type, value) = match rows.options.default_type.as_deref() {
        Some(name) => TypeName::named(name).apply(name, &refanged),
        None => (Cow::Borrowed(detect(&refanged)?), refanged.as_ref()),
    };
    kind::validate(&xsoar_type, value)?;
    rows.scratch.clear();
    begin(rows, &xsoar_type, value);
    describe(rows, None, "", None);
    rows.builder.end_row((&xsoar_type, value), line);
    Ok(true)
}

/// Begins the row of a value that was found valid; hashes given beside it are in the scratch already.
pub(crate) fn begin(rows: &mut Rows<'_>, xsoar_type: &str, value: &str) {
    let Rows { builder, scratch, options, .. } = rows;
    if xsoar_type == "File" {
        scratch.hashes.put_value(value);
    }
    let facts = scratch.hashes.facts(value);
    indicator::begin(builder, &options.ids, &Identity { xsoar_type, facts, ..Identity::default() });
}

/// Appends verdict, tags (separated by commas, semicolons or bars) and source, or what the options say instead.
pub(crate) fn describe(rows: &mut Rows<'_>, score: Option<u8>, tags: &str, source: Option<&str>) {
    let Rows { builder, scratch, options, .. } = rows;
    let list = &mut scratch.list;
    builder.number(Col::Score, score);
    list.clear();
    tags.split([',', ';', '|']).for_each(|tag| list.push(tag));
    options.default_tags.iter().for_each(|tag| list.push(tag));
    builder.list(Col::Tags, list);
    list.clear();
    source.or(options.default_source.as_deref()).iter().for_each(|source| list.push(source));
    builder.list(Col::SourceBrands, list);
}

/// The type of a bare value.
pub(crate) fn detect(value: &str) -> Result<&'static str, String> {
    kind::detect(value).ok_or_else(|| {
        let shown: String = value.chars().take(64).collect();
        format!("cannot tell the type of `{shown}`; give it with `--type`")
    })
}

/// The value on a line: without comments, quotes and a comma at the end, and the name in a line of a `hosts` file.
fn value_of(text: &str) -> Option<&str> {
    let text = text.trim();
    if text.starts_with(['#', ';']) || text.starts_with("//") {
        return None;
    }
    let comment = text.char_indices().find(|(at, c)| *c == '#' && text[..*at].ends_with([' ', '\t']));
    let text = comment.map_or(text, |(at, _)| text.split_at(at).0).trim_end();
    let text = text.strip_suffix(',').unwrap_or(text).trim_matches(['"', '\'']);
    let text = match text.split_once([' ', '\t']) {
        Some((address, name)) if BLOCKED.contains(&address) => name.trim(),
        _ => text,
    };
    (!text.is_empty()).then_some(text)
}

/// Undoes the usual ways of making a value unclickable: `hxxp`, `[.]`, `(.)`, `[dot]`, `[:]`, `[://]`, `[@]`, `[at]`.
pub(crate) fn refang(value: &str) -> Cow<'_, str> {
    let scheme = value.split_at_checked(4).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("hxxp"));
    let bracketed = value.contains(['[', '(', '{']);
    if scheme.is_none() && !bracketed {
        return Cow::Borrowed(value);
    }
    let mut plain = scheme.map_or_else(|| value.to_owned(), |(_, rest)| format!("http{rest}"));
    let marks = [
        ("[.]", "."),
        ("(.)", "."),
        ("{.}", "."),
        ("[dot]", "."),
        ("(dot)", "."),
        ("[:]", ":"),
        ("[://]", "://"),
        ("[@]", "@"),
        ("[at]", "@"),
    ];
    for (mark, meant) in marks {
        if plain.contains(mark) {
            plain = plain.replace(mark, meant);
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_is_what_is_no_comment() {
        let cases = [
            ("192.0.2.1", Some("192.0.2.1")),
            ("  a.example \t# why", Some("a.example")),
            ("http://a.example/#part", Some("http://a.example/#part")),
            ("\"a.example\",", Some("a.example")),
            ("0.0.0.0 a.example", Some("a.example")),
            ("# comment", None),
            ("; comment", None),
            ("// comment", None),
            ("", None),
        ];
        for (line, expected) in cases {
            assert_eq!(value_of(line), expected, "{line}");
        }
    }

    #[test]
    fn defanged_values_are_restored() {
        let cases = [
            ("hxxps://a[.]example/x", "https://a.example/x"),
            ("HXXP[://]a(.)example", "http://a.example"),
            ("a[dot]example", "a.example"),
            ("user[@]a[.]example", "user@a.example"),
            ("192[.]0[.]2[.]1", "192.0.2.1"),
            ("http://[2001:db8::1]/", "http://[2001:db8::1]/"),
            ("\u{e9}\u{e9}\u{e9}[.]example", "\u{e9}\u{e9}\u{e9}.example"),
        ];
        for (written, meant) in cases {
            assert_eq!(refang(written), meant, "{written}");
        }
    }
}
