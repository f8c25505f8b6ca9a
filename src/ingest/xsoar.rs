//! XSOAR indicator documents (spec/xsoar-taxii2-server.md §7).
//!
//! Only `value` and `indicator_type` must be right. Scripts that write such documents by hand tend to say `type`
//! instead: that is taken where it names one of our types, in any spelling that tables may use, and no STIX type. Any
//! other field may be missing, null, blank or of another kind than documented: what can be read is read, a custom field
//! that does not fit its column stays among the custom fields, and an unreadable timestamp is counted.

use std::borrow::Cow;

use crate::ingest::block::Rows;
use crate::ingest::builder::{BatchBuilder, Col, TextList};
use crate::ingest::element::{CustomKey, Element, Key};
use crate::ingest::indicator::{self, Identity};
use crate::ingest::names::TypeName;
use crate::ingest::{document, json};
use crate::model::ids::ScoFacts;
use crate::model::json::string_into;
use crate::model::kind::{self, StixType};
use crate::model::time::{Timestamp, YEAR_ONE};
use crate::model::words;

/// Whether an element is meant as an indicator document.
pub(crate) fn is_indicator(element: &Element<'_>) -> bool {
    element.has(Key::IndicatorType)
        || (element.has(Key::Value)
            && json::string(element.get(Key::Type))
                .is_some_and(|name| StixType::named(&name).is_none() && TypeName::named(&name) != TypeName::Own))
}

/// Appends the row of one indicator document; the error is the reason why it is none.
pub(crate) fn append(rows: &mut Rows<'_>, mut element: Element<'_>, text: &str, line: u64) -> Result<(), String> {
    let Rows { builder, scratch, options, .. } = rows;
    scratch.clear();
    let named_by = if element.has(Key::IndicatorType) { Key::IndicatorType } else { Key::Type };
    let name = required(&element, named_by)?;
    let written = required(&element, Key::Value)?;
    let (xsoar_type, value) = match named_by {
        Key::IndicatorType => (Cow::Borrowed(name.as_ref()), written.as_ref()),
        _ => TypeName::named(&name).apply(&name, &written),
    };
    kind::validate(&xsoar_type, value)?;

    if xsoar_type == "File" {
        scratch.hashes.put_value(value);
    }
    for (key, col) in [
        (CustomKey::Md5, Col::Md5),
        (CustomKey::Sha1, Col::Sha1),
        (CustomKey::Sha256, Col::Sha256),
        (CustomKey::Sha512, Col::Sha512),
    ] {
        element.read_custom(key, |raw| json::text(raw).filter(|hash| scratch.hashes.put(col, hash)));
    }
    element.read_custom(CustomKey::KeyValue, |raw| {
        let is_read = xsoar_type == "Registry Key" && registry_values(raw, &mut scratch.registry_values, builder);
        is_read.then_some(())
    });
    let registry_values = as_text(&scratch.registry_values);
    let mitre_id = element.read_custom(CustomKey::MitreId, json::text);
    let account_type = element.read_custom(CustomKey::AccountType, json::text);
    let user_id = element.read_custom(CustomKey::UserId, json::text);
    let stix_id = element.read_custom(CustomKey::StixId, json::text);
    let facts = ScoFacts {
        account_type: account_type.as_deref(),
        user_id: user_id.as_deref(),
        registry_values,
        ..scratch.hashes.facts(value)
    };
    let identity =
        Identity { xsoar_type: &xsoar_type, facts, mitre_id: mitre_id.as_deref(), stix_id: stix_id.as_deref() };
    indicator::begin(builder, &options.ids, &identity);
    builder.text_opt(Col::MitreId, mitre_id.as_deref());
    builder.text_opt(Col::AccountType, account_type.as_deref());
    builder.text_opt(Col::UserId, user_id.as_deref());
    builder.text_opt(Col::RegistryValues, registry_values);

    let score = json::text(element.get(Key::Score));
    let read_score = score.as_deref().and_then(words::score);
    if score.is_some() && read_score.is_none() {
        builder.warn_field(Col::Score);
    }
    builder.number(Col::Score, read_score);
    for (key, col) in
        [(Key::Timestamp, Col::Created), (Key::FirstSeenXsoar, Col::FirstSeen), (Key::LastSeenXsoar, Col::LastSeen)]
    {
        let at = time(builder, col, element.get(key));
        builder.time(col, at);
    }
    let expiration = time(builder, Col::Expiration, element.get(Key::Expiration));
    let modified = time(builder, Col::Modified, element.get(Key::Modified));
    let expiration = expiration.or_else(|| expired_at(builder, &element, modified));
    builder.time(Col::Expiration, expiration);
    builder.time(Col::Modified, modified);
    builder.time(Col::SourceModified, modified);

    let list = &mut scratch.list;
    texts(element.get(Key::SourceBrands), list);
    if let Some(source) = options.default_source.as_deref().filter(|_| list.is_empty()) {
        list.push(source);
    }
    builder.list(Col::SourceBrands, list);
    list.clear();
    texts(element.get(Key::SourceInstances), list);
    builder.list(Col::SourceInstances, list);
    list.clear();
    element.read_custom(CustomKey::Tags, |raw| {
        texts(raw, list);
        (!list.is_empty()).then_some(())
    });
    options.default_tags.iter().for_each(|tag| list.push(tag));
    builder.list(Col::Tags, list);
    list.clear();
    element.read_custom(CustomKey::ObjectRefs, |raw| {
        report_refs(raw).for_each(|id| list.push(&id));
        (!list.is_empty()).then_some(())
    });
    builder.list(Col::ObjectRefs, list);
    list.clear();
    element.read_custom(CustomKey::KillChainPhases, |raw| {
        kill_chain_phases(raw, list);
        (!list.is_empty()).then_some(())
    });
    builder.list(Col::KillChainPhases, list);

    builder.text_opt(Col::Reliability, json::text(element.get(Key::Reliability)).as_deref());
    for (key, col) in [
        (CustomKey::Description, Col::Description),
        (CustomKey::Ssdeep, Col::Ssdeep),
        (CustomKey::IdentityClass, Col::IdentityClass),
        (CustomKey::NotBefore, Col::ValidityNotBefore),
        (CustomKey::NotAfter, Col::ValidityNotAfter),
    ] {
        builder.text_opt(col, element.read_custom(key, json::text).as_deref());
    }
    for (key, col) in [(CustomKey::Subject, Col::Subject), (CustomKey::Issuer, Col::Issuer)] {
        scratch.joined.clear();
        let found = element.read_custom(key, |raw| titled(raw, &mut scratch.joined));
        builder.text_opt(col, found.as_deref());
    }
    let is_asn = xsoar_type == "ASN";
    builder.text_opt(
        Col::AsName,
        element.read_custom(CustomKey::Name, |raw| json::text(raw).filter(|_| is_asn)).as_deref(),
    );
    builder.text_opt(Col::Tlp, element.read_custom(CustomKey::Tlp, |raw| words::tlp(&json::text(raw)?)));
    builder.number(
        Col::Confidence,
        element.read_custom(CustomKey::Confidence, |raw| words::confidence(&json::text(raw)?)),
    );
    builder.boolean(Col::IsFamily, element.read_custom(CustomKey::IsFamily, truth));
    let revoked = element.read_custom(CustomKey::Revoked, truth);
    let is_revoked = element.read_custom(CustomKey::IsRevoked, truth);
    builder.boolean(Col::Revoked, revoked.max(is_revoked));
    let published = element.read_custom(CustomKey::Published, |raw| time(builder, Col::Published, raw));
    builder.time(Col::Published, published);

    custom(&mut element.other_custom, &mut scratch.custom);
    builder.text_opt(Col::Custom, as_text(&scratch.custom));
    builder.text_aside(Col::Document, one_line(text, &mut scratch.document));
    for key in document::TELLING {
        let raw = element.get(key);
        if document::tells(raw) {
            builder.count_as_content(Col::Document, key.as_str());
            scratch.custom.clear();
            json::compact(raw, &mut scratch.custom);
            builder.count_as_content(Col::Document, as_text(&scratch.custom).unwrap_or(raw));
        }
    }
    builder.end_row((&xsoar_type, value), line);
    Ok(())
}

fn required<'a>(element: &Element<'a>, key: Key) -> Result<Cow<'a, str>, String> {
    let found = json::string(element.get(key)).filter(|text| !json::is_blank(text));
    found.ok_or_else(|| format!("`{}` is missing, empty or not text", key.as_str()))
}

/// A timestamp; nothing for XSOAR's "never", and for what cannot be read, which is counted.
pub(crate) fn time(builder: &mut BatchBuilder, col: Col, raw: &str) -> Option<Timestamp> {
    if raw.is_empty() {
        return None;
    }
    let found = json::string(raw).map(|text| Timestamp::parse(&text));
    let found = match found {
        Some(Ok(at)) => Ok(at),
        _ => Timestamp::parse(json::text(raw)?.trim()),
    };
    match found {
        Ok(YEAR_ONE) => None,
        Ok(at) => Some(at),
        Err(_) => {
            builder.warn_field(col);
            None
        }
    }
}

/// When a document expired that only says that it did: when that was set, else when it last changed or came to be.
/// Without a date it would be active for ever.
fn expired_at(builder: &mut BatchBuilder, element: &Element<'_>, modified: Option<Timestamp>) -> Option<Timestamp> {
    let status = json::string(element.get(Key::ExpirationStatus))?;
    if !status.trim().eq_ignore_ascii_case("expired") {
        return None;
    }
    let set = json::member(element.get(Key::ExpirationSource), "setTime");
    let set = set.and_then(|raw| time(builder, Col::Expiration, raw));
    // An unreadable one was counted where it got its own column.
    let created = || json::text(element.get(Key::Timestamp)).and_then(|text| Timestamp::parse(text.trim()).ok());
    set.or(modified).or_else(|| created().filter(|at| *at != YEAR_ONE))
}

pub(crate) fn truth(raw: &str) -> Option<bool> {
    words::truth(&json::text(raw)?)
}

/// The texts of a list; a single text is a list with commas.
pub(crate) fn texts(raw: &str, list: &mut TextList) {
    if raw.starts_with('"') {
        json::text(raw).iter().flat_map(|text| text.split(',')).for_each(|part| list.push(part));
    } else {
        json::items(raw).filter_map(json::text).for_each(|text| list.push(&text));
    }
}

/// The objects that a report names itself, from its `reportobjectreferences`.
pub(crate) fn report_refs(raw: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let references = json::items(raw).map(|row| json::member(row, "objectstixid").unwrap_or(row));
    references.filter_map(json::text)
}

/// Phases as text, or as STIX writes them (`kill_chain_name`, `phase_name`), which become `chain/phase`.
fn kill_chain_phases(raw: &str, list: &mut TextList) {
    if !raw.contains('{') {
        return texts(raw, list);
    }
    for item in json::items(raw) {
        let part = |key: &str| json::member(item, key).and_then(json::text);
        match (part("kill_chain_name"), part("phase_name")) {
            (Some(chain), Some(phase)) => list.push(&format!("{chain}/{phase}")),
            (None, Some(phase)) => list.push(&phase),
            _ => json::text(item).iter().for_each(|text| list.push(text)),
        }
    }
}

/// Rows of `name`, `type`, `data` as the STIX array of registry values; `false` when there are none. Types that STIX
/// does not have are left out here, and counted, since the id is made of what is left.
pub(crate) fn registry_values(raw: &str, out: &mut Vec<u8>, builder: &mut BatchBuilder) -> bool {
    out.push(b'[');
    for row in json::items(raw) {
        let parts = [("name", "name"), ("data", "data"), ("data_type", "type")];
        let mut parts = parts.map(|(name, key)| (name, json::member(row, key).and_then(json::text)));
        let [_, _, (_, data_type)] = &mut parts;
        if let Some(given) = data_type.take() {
            *data_type = kind::registry_data_type(&given).map(Cow::Borrowed);
            if data_type.is_none() {
                builder.warn_field(Col::RegistryValues);
            }
        }
        let mut separator = if out.len() > 1 { ",{" } else { "{" };
        for (name, text) in &parts {
            let Some(text) = text else { continue };
            out.extend_from_slice(separator.as_bytes());
            string_into(name, out);
            out.push(b':');
            string_into(text, out);
            separator = ",";
        }
        if separator == "," {
            out.push(b'}');
        }
    }
    if out.len() == 1 {
        out.clear();
        return false;
    }
    out.push(b']');
    true
}

/// Rows of `title` and `data` joined as `CN=x, O=y`; plain text as it is.
fn titled<'a>(raw: &'a str, out: &'a mut String) -> Option<Cow<'a, str>> {
    if !raw.contains('{') || raw.starts_with('"') {
        return json::text(raw);
    }
    for row in json::items(raw) {
        let part = |key: &str| json::member(row, key).and_then(json::text);
        let (Some(title), Some(data)) = (part("title"), part("data")) else { continue };
        if !out.is_empty() {
            out.push_str(", ");
        }
        out.push_str(&title);
        out.push('=');
        out.push_str(&data);
    }
    (!out.is_empty()).then_some(Cow::Borrowed(out.as_str()))
}

/// The remaining custom fields as one JSON object: keys sorted, values compact, nulls left out; of repeated keys the
/// last one counts.
fn custom(fields: &mut Vec<(Cow<'_, str>, &str)>, out: &mut Vec<u8>) {
    fields.reverse();
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    fields.dedup_by(|(a, _), (b, _)| a == b);
    for (name, raw) in fields.iter().filter(|(_, raw)| *raw != "null") {
        out.push(if out.is_empty() { b'{' } else { b',' });
        string_into(name, out);
        out.push(b':');
        json::compact(raw, out);
    }
    if !out.is_empty() {
        out.push(b'}');
    }
}

/// What was written into a buffer; `None` when nothing was.
pub(crate) fn as_text(buffer: &[u8]) -> Option<&str> {
    std::str::from_utf8(buffer).ok().filter(|text| !text.is_empty())
}

/// The text itself when it is one line, else without insignificant blanks.
pub(crate) fn one_line<'a>(text: &'a str, buffer: &'a mut Vec<u8>) -> &'a str {
    if memchr::memchr(b'\n', text.as_bytes()).is_none() {
        return text;
    }
    json::compact(text, buffer);
    as_text(buffer).unwrap_or(text)
}
