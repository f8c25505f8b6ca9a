//! Tables with a header: which column means what, and one record as a row.
//!
//! Records are cut by [`split`](crate::ingest::split), so that blocks can be decoded on all cores; here a record's text is
//! taken apart by the same rules (RFC 4180, blanks before a quote allowed).

use std::borrow::Cow;

use crate::ingest::block::Rows;
use crate::ingest::builder::Col;
use crate::ingest::detect::FormatError;
use crate::ingest::json::{Doubts, checked_end};
use crate::ingest::list::{Given, begin, describe, detect, refang};
use crate::ingest::names::{self, Field, TypeName};
use crate::ingest::split::lines;
use crate::ingest::xsoar::{as_text, registry_values};
use crate::model::json::string_into;
use crate::model::kind;
use crate::model::time::{Timestamp, YEAR_ONE};
use crate::model::words;

/// The delimiters tried, in this order.
const DELIMITERS: [u8; 4] = *b",;\t|";

/// Written as a field name, it says that the column is of no interest.
const IGNORED: &str = "-";

/// What is in a column.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Field(Field),
    /// A custom field, by its key.
    Custom(String),
    Ignored,
}

/// How the records of one table are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) delimiter: u8,
    /// Line of the header; 0 when it stands in a comment, which is skipped anyway.
    header_line: u64,
    targets: Vec<Target>,
    /// The columns with custom fields, by key.
    custom_columns: Vec<usize>,
    /// Those among them whose key another column has too, so that they got a number behind it.
    renamed: Vec<usize>,
}

impl Table {
    /// Finds the header at the beginning of a table: its first record, or a comment right above it.
    /// `None`: nothing there names the column of the values.
    pub(crate) fn find(prefix: &str, columns: &[(String, String)]) -> Result<Option<Self>, FormatError> {
        let mut comment = None;
        for (number, text) in (1u64..).zip(lines(prefix)) {
            let text = text.trim_end();
            if let Some(inside) = text.strip_prefix('#') {
                comment = Some(inside.trim_start());
            } else if !text.is_empty() {
                let found = Table::of_header(text, number, columns);
                let above = comment.map(|header| Table::of_header(header, 0, columns));
                // A record may happen to hold the name of a column: whoever names more of them is the header.
                return match (found, above) {
                    (found, Some(Ok(Some(above)))) => match found {
                        Ok(Some(found)) if found.fields() >= above.fields() => Ok(Some(found)),
                        _ => Ok(Some(above)),
                    },
                    (found, _) => found,
                };
            }
        }
        Ok(None)
    }

    fn of_header(header: &str, header_line: u64, columns: &[(String, String)]) -> Result<Option<Self>, FormatError> {
        let mut best: Option<Vec<String>> = None;
        let mut delimiter = DELIMITERS[0];
        for candidate in DELIMITERS {
            let cells: Vec<String> = cells(header, candidate).map(|cell| cell.into_owned()).collect();
            if best.as_ref().is_none_or(|best| cells.len() > best.len()) {
                best = Some(cells);
                delimiter = candidate;
            }
        }
        let names: Vec<String> = best.unwrap_or_default().iter().map(|name| names::fold(name)).collect();
        let mut fields: Vec<Option<Target>> =
            names::assign(&names).into_iter().map(|field| field.map(Target::Field)).collect();
        for (column, field) in columns {
            let Some(at) = names.iter().position(|name| *name == names::fold(column)) else {
                return Err(FormatError::NoSuchColumn {
                    column: column.clone(),
                    header: header.chars().take(200).collect(),
                });
            };
            let folded = names::fold(field);
            let target = match names::field(&folded) {
                _ if field == IGNORED => Target::Ignored,
                Some(field) => Target::Field(field),
                None => Target::Custom(folded),
            };
            // What is mapped by hand takes the field from the column that was found by name.
            if matches!(target, Target::Field(_)) {
                fields
                    .iter_mut()
                    .filter(|present| present.as_ref() == Some(&target))
                    .for_each(|present| *present = None);
            }
            fields[at] = Some(target);
        }
        if !fields.contains(&Some(Target::Field(Field::Value))) {
            return Ok(None);
        }
        let unnamed = |name: String| if name.is_empty() { Target::Ignored } else { Target::Custom(name) };
        let mut targets: Vec<Target> =
            fields.into_iter().zip(names).map(|(target, name)| target.unwrap_or_else(|| unnamed(name))).collect();
        let renamed = tell_apart(&mut targets);
        let mut custom: Vec<(&str, usize)> = Vec::new();
        for (at, target) in targets.iter().enumerate() {
            if let Target::Custom(name) = target {
                custom.push((name, at));
            }
        }
        custom.sort_unstable();
        let custom_columns = custom.into_iter().map(|(_, at)| at).collect();
        Ok(Some(Table { delimiter, header_line, targets, custom_columns, renamed }))
    }

    /// Number of columns whose meaning is known.
    fn fields(&self) -> usize {
        self.targets.iter().filter(|target| matches!(target, Target::Field(_))).count()
    }

    /// Number of columns.
    pub(crate) fn width(&self) -> usize {
        self.targets.len()
    }

    /// Appends the row of one record; `Ok(false)` when it holds none.
    pub(crate) fn append(&self, rows: &mut Rows<'_>, text: &str, line: u64) -> Result<bool, String> {
        if line == self.header_line || text.trim().is_empty() {
            return Ok(false);
        }
        let record: Vec<Cow<'_, str>> = cells(text, self.delimiter).collect();
        if record.iter().skip(self.targets.len()).any(|cell| !cell.is_empty()) {
            return Err(format!("{} cells, but the header names {}", record.len(), self.targets.len()));
        }
        let filled = || self.targets.iter().zip(&record).filter(|(_, cell)| !cell.is_empty());
        let cell =
            |field: Field| filled().find(|(target, _)| **target == Target::Field(field)).map(|(_, cell)| cell.as_ref());
        let written = cell(Field::Value).ok_or_else(|| "the value is empty".to_owned())?;
        let refanged = if rows.options.refang { refang(written) } else { Cow::Borrowed(written) };
        let (xsoar_type, value) = match cell(Field::Type).or(rows.options.default_type.as_deref()) {
            Some(name) => TypeName::named(name).apply(name, &refanged),
            None => (Cow::Borrowed(detect(&refanged)?), refanged.as_ref()),
        };
        kind::validate(&xsoar_type, value)?;
        rows.scratch.clear();
        for (target, cell) in filled() {
            if let Target::Field(Field::Hash(col)) = target
                && !rows.scratch.hashes.put(*col, cell)
            {
                rows.builder.warn_field(*col);
            }
        }
        // Two custom fields have a column for one type of indicator only.
        let own_custom = match xsoar_type.as_ref() {
            "ASN" => Some("name"),
            "Registry Key" => Some("keyvalue"),
            _ => None,
        };
        let own_custom = own_custom.and_then(|name| {
            let position =
                self.targets.iter().position(|target| matches!(target, Target::Custom(own) if own == name))?;
            Some((position, record.get(position).filter(|cell| !cell.is_empty())?))
        });
        let own_custom = own_custom.filter(|(_, cell)| {
            xsoar_type != "Registry Key" || {
                let mut doubts = Doubts::default();
                let is_json = checked_end(cell, 0, 0, &mut doubts) == Some(cell.len()) && doubts == Doubts::default();
                is_json && registry_values(cell, &mut rows.scratch.registry_values, &mut rows.builder)
            }
        });
        let given = Given {
            mitre_id: cell(Field::Text(Col::MitreId)),
            stix_id: cell(Field::StixId),
            account_type: cell(Field::Text(Col::AccountType)),
            user_id: cell(Field::Text(Col::UserId)),
        };
        begin(rows, &xsoar_type, value, &given);
        let score = cell(Field::Score).and_then(words::score);
        describe(rows, score, cell(Field::Tags).unwrap_or_default(), cell(Field::Source));
        let Rows { builder, scratch, .. } = rows;
        if score.is_none() && cell(Field::Score).is_some() {
            builder.warn_field(Col::Score);
        }
        for (target, cell) in filled() {
            match target {
                Target::Field(Field::Text(col)) => builder.text(*col, cell),
                Target::Field(Field::List(col)) => {
                    scratch.list.clear();
                    cell.split([',', ';', '|']).for_each(|text| scratch.list.push(text));
                    builder.list(*col, &scratch.list);
                }
                Target::Field(Field::Flag(col)) => match words::truth(cell) {
                    Some(flag) => builder.boolean(*col, Some(flag)),
                    None => builder.warn_field(*col),
                },
                Target::Field(Field::Tlp) => match words::tlp(cell) {
                    Some(colour) => builder.text(Col::Tlp, colour),
                    None => builder.warn_field(Col::Tlp),
                },
                Target::Field(Field::Confidence) => match words::confidence(cell) {
                    Some(confidence) => builder.number(Col::Confidence, Some(confidence)),
                    None => builder.warn_field(Col::Confidence),
                },
                Target::Field(Field::Time(col)) => match Timestamp::parse(cell) {
                    Ok(YEAR_ONE) => {}
                    Ok(at) => {
                        builder.time(*col, Some(at));
                        if *col == Col::Modified {
                            builder.time(Col::SourceModified, Some(at));
                        }
                    }
                    Err(_) => builder.warn_field(*col),
                },
                _ => {}
            }
        }
        if let Some((_, name)) = own_custom.filter(|_| xsoar_type == "ASN") {
            builder.text(Col::AsName, name);
        }
        let out = &mut scratch.custom;
        for at in &self.custom_columns {
            let (Some(Target::Custom(name)), Some(cell)) = (self.targets.get(*at), record.get(*at)) else { continue };
            if cell.is_empty() || own_custom.is_some_and(|(own, _)| own == *at) {
                continue;
            }
            if self.renamed.contains(at) {
                builder.warn_field(Col::Custom);
            }
            out.push(if out.is_empty() { b'{' } else { b',' });
            string_into(name, out);
            out.push(b':');
            string_into(cell, out);
        }
        if !out.is_empty() {
            out.push(b'}');
        }
        builder.text_opt(Col::Custom, as_text(out));
        builder.end_row((&xsoar_type, value), line);
        Ok(true)
    }
}

/// Gives columns with the key of an earlier one a key of their own: `foobar2` for the second that folds to `foobar`.
/// Answers which those are.
fn tell_apart(targets: &mut [Target]) -> Vec<usize> {
    let mut renamed = Vec::new();
    for at in 0..targets.len() {
        let (before, rest) = targets.split_at(at);
        let Some(Target::Custom(name)) = rest.first() else { continue };
        if !before.contains(&Target::Custom(name.clone())) {
            continue;
        }
        let free = |target: &Target| !targets.contains(target);
        if let Some(own) = (2u32..).map(|number| Target::Custom(format!("{name}{number}"))).find(free) {
            targets[at] = own;
            renamed.push(at);
        }
    }
    renamed
}

/// The cells of a record, trimmed, quotes taken off.
fn cells(record: &str, delimiter: u8) -> impl Iterator<Item = Cow<'_, str>> {
    let delimiter = char::from(delimiter);
    let mut rest = Some(record.trim_end_matches(['\r', '\n']));
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(quoted) = text.trim_start_matches(' ').strip_prefix('"') else {
            let (cell, after) = text.split_once(delimiter).map_or((text, None), |(cell, after)| (cell, Some(after)));
            rest = after;
            return Some(Cow::Borrowed(cell.trim()));
        };
        let mut from = 0;
        let (inside, after) = loop {
            let Some(quote) = quoted.get(from..).and_then(|tail| tail.find('"')) else { break (quoted, "") };
            let (inside, after) = quoted.split_at(from + quote);
            let after = after.get(1..).unwrap_or_default();
            if !after.starts_with('"') {
                break (inside, after);
            }
            from += quote + 2;
        };
        // What stands between the closing quote and the delimiter belongs to no cell.
        rest = after.split_once(delimiter).map(|(_, after)| after);
        let inside = inside.trim();
        Some(if inside.contains('"') { Cow::Owned(inside.replace("\"\"", "\"")) } else { Cow::Borrowed(inside) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_cut_and_unquoted() {
        let cases: [(&str, &[&str]); 7] = [
            ("a,b", &["a", "b"]),
            ("a, \"b,c\" ,d\r", &["a", "b,c", "d"]),
            ("\"a\"\"b\",\"\"", &["a\"b", ""]),
            ("", &[""]),
            (",", &["", ""]),
            ("\"open, x", &["open, x"]),
            ("\"\"\"\",\"x\ny\"", &["\"", "x\ny"]),
        ];
        for (record, expected) in cases {
            assert_eq!(cells(record, b',').collect::<Vec<_>>(), expected, "{record}");
        }
    }

    fn fields(prefix: &str, columns: &[(&str, &str)]) -> Option<(u8, u64, Vec<String>)> {
        let columns: Vec<_> = columns.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let table = Table::find(prefix, &columns).unwrap()?;
        let show = |target: &Target| match target {
            Target::Field(field) => format!("{field:?}"),
            Target::Custom(name) => name.clone(),
            Target::Ignored => "-".to_owned(),
        };
        Some((table.delimiter, table.header_line, table.targets.iter().map(show).collect()))
    }

    #[test]
    fn headers_are_found_and_mapped() {
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let found = fields("\n# hello\nIOC;Type;My Note\n1;2;3", &[]);
        assert_eq!(found, Some((b';', 3, strings(&["Value", "Type", "mynote"]))));
        // abuse.ch writes its header as the last comment.
        let found =
            fields("# title\n# \"first_seen_utc\", \"ioc_value\",\"ioc_type\"\n\"2024-01-01\", \"x\",\"url\"", &[]);
        assert_eq!(found, Some((b',', 0, strings(&["Time(FirstSeen)", "Value", "Type"]))));
        let found = fields("a\tvalue\tc\td", &[("A", "value"), ("c", "My Field"), ("d", "-")]);
        assert_eq!(found, Some((b'\t', 1, strings(&["Value", "value", "myfield", "-"]))));
        let found = fields("value,Foo Bar,foo_bar,foobar2,FooBar\n", &[]);
        assert_eq!(found, Some((b',', 1, strings(&["Value", "foobar", "foobar3", "foobar2", "foobar4"]))));
        assert_eq!(fields("192.0.2.1,bad\n", &[]), None);
        assert_eq!(fields("", &[]), None);
        let missing = Table::find("value,b\n", &[("x".to_owned(), "value".to_owned())]);
        assert!(matches!(missing, Err(FormatError::NoSuchColumn { .. })));
    }
}
