//! Field names and the columns behind them (spec/xsoar-taxii2-server.md §8.2).

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use crate::model::schema::column as c;

/// What a field name stands for, and so how its values read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Every field: full text.
    Anything,
    /// The indicator's value.
    Value,
    /// The XSOAR type name.
    Type,
    /// 0–3, by number or word.
    Verdict,
    /// `A - Completely reliable`, or its letter.
    Reliability,
    /// `active` or `expired`, from the expiration and the time of asking.
    ExpirationStatus,
    /// Text compared in any case.
    Keyword(&'static str),
    /// Text stored in lower case.
    LowerCase(&'static str),
    /// Traffic-light colour.
    Tlp,
    /// Text compared exactly.
    Exact(&'static str),
    /// Text searched for what it contains.
    Phrase(&'static str),
    /// List of text.
    List(&'static str),
    /// 0–100.
    Confidence,
    /// Timestamp column.
    Time(&'static str),
    /// Boolean column.
    Flag(&'static str),
    /// Somewhere in a JSON column.
    Json(&'static str, Cow<'static, str>, JsonKind),
    /// A path in the document, or else another.
    Either(&'static str, &'static str),
}

/// What a JSON path is known to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JsonKind {
    Any,
    Phrase,
    Time,
    /// A number of elements.
    Count,
}

const fn document(path: &'static str, kind: JsonKind) -> Target {
    Target::Json(c::DOCUMENT, Cow::Borrowed(path), kind)
}

/// Names as their users know them. Case and `_` do not count.
const FIELDS: &[(&str, Target)] = &[
    ("*", Target::Anything),
    ("type", Target::Type),
    ("indicator_type", Target::Type),
    ("value", Target::Value),
    ("name", Target::Value),
    ("id", document("id", JsonKind::Any)),
    ("verdict", Target::Verdict),
    ("reputation", Target::Verdict),
    ("score", Target::Verdict),
    ("aggregatedReliability", Target::Reliability),
    ("reliability", Target::Reliability),
    ("sourceBrands", Target::List(c::SOURCE_BRANDS)),
    ("sourceBrand", Target::List(c::SOURCE_BRANDS)),
    ("source", Target::List(c::SOURCE_BRANDS)),
    ("sourceInstances", Target::List(c::SOURCE_INSTANCES)),
    ("sourceInstance", Target::List(c::SOURCE_INSTANCES)),
    ("tags", Target::List(c::TAGS)),
    ("killchainphases", Target::List(c::KILL_CHAIN_PHASES)),
    ("objectrefs", Target::List(c::OBJECT_REFS)),
    ("reportobjectreferences", Target::List(c::OBJECT_REFS)),
    ("reportobjectreferences.objectstixid", Target::List(c::OBJECT_REFS)),
    ("expirationStatus", Target::ExpirationStatus),
    ("expiration", Target::Time(c::EXPIRATION)),
    ("added", Target::Time(c::ADDED)),
    ("created", Target::Time(c::CREATED)),
    ("createdTime", Target::Time(c::CREATED)),
    ("timestamp", Target::Time(c::CREATED)),
    ("modified", Target::Time(c::MODIFIED)),
    ("firstSeen", Target::Time(c::FIRST_SEEN)),
    ("lastSeen", Target::Time(c::LAST_SEEN)),
    ("published", Target::Time(c::PUBLISHED)),
    ("confidence", Target::Confidence),
    ("isrevoked", Target::Flag(c::REVOKED)),
    ("revoked", Target::Flag(c::REVOKED)),
    ("ismalwarefamily", Target::Flag(c::IS_FAMILY)),
    ("description", Target::Phrase(c::DESCRIPTION)),
    ("trafficlightprotocol", Target::Tlp),
    ("tlp", Target::Tlp),
    ("kind", Target::LowerCase(c::KIND)),
    ("inbox", Target::Keyword(c::INBOX)),
    ("stixType", Target::LowerCase(c::STIX_TYPE)),
    ("relationshipType", Target::LowerCase(c::RELATIONSHIP_TYPE)),
    ("md5", Target::LowerCase(c::MD5)),
    ("sha1", Target::LowerCase(c::SHA1)),
    ("sha256", Target::LowerCase(c::SHA256)),
    ("sha512", Target::LowerCase(c::SHA512)),
    ("ssdeep", Target::Exact(c::SSDEEP)),
    ("specVersion", Target::Exact(c::SPEC_VERSION)),
    ("stixid", Target::Keyword(c::STIX_ID)),
    ("sourceRef", Target::Keyword(c::SOURCE_REF)),
    ("targetRef", Target::Keyword(c::TARGET_REF)),
    ("mitreid", Target::Keyword(c::MITRE_ID)),
    ("accounttype", Target::Keyword(c::ACCOUNT_TYPE)),
    ("userid", Target::Keyword(c::USER_ID)),
    ("identityclass", Target::Keyword(c::IDENTITY_CLASS)),
    ("subject", Target::Keyword(c::SUBJECT)),
    ("issuer", Target::Keyword(c::ISSUER)),
    ("validitynotbefore", Target::Keyword(c::VALIDITY_NOT_BEFORE)),
    ("validitynotafter", Target::Keyword(c::VALIDITY_NOT_AFTER)),
    ("keyvalue", Target::Json(c::REGISTRY_VALUES, Cow::Borrowed(""), JsonKind::Any)),
    ("lastReputationRun", document("lastReputationRun", JsonKind::Time)),
    ("modifiedTime", document("modifiedTime", JsonKind::Time)),
    ("calculatedTime", document("calculatedTime", JsonKind::Time)),
    ("timeline.date", document("timeline.date", JsonKind::Time)),
    ("expirationSource", document("expirationSource", JsonKind::Any)),
    ("comments", document("comments.content", JsonKind::Phrase)),
    ("investigationIDs", document("investigationIDs", JsonKind::Any)),
    ("investigationsCount", document("investigationIDs.#", JsonKind::Count)),
    // The document holds the ids of its incidents and nothing else about them.
    ("incident.id", Target::Either("investigationIDs", "incident.id")),
    ("incident.type", document("incident.type", JsonKind::Any)),
    ("isShared", document("isShared", JsonKind::Any)),
    ("isDetectable", document("isDetectable", JsonKind::Any)),
    ("isPreventable", document("isPreventable", JsonKind::Any)),
    ("firstSeenEntryID", document("firstSeenEntryID", JsonKind::Any)),
    ("lastSeenEntryID", document("lastSeenEntryID", JsonKind::Any)),
    ("manuallyEditedFields", document("manuallyEditedFields", JsonKind::Any)),
];

/// Keys of the document that queries reach into: `comments.user`.
const DOCUMENT_KEYS: &[&str] =
    &["comments", "expirationSource", "incident", "insightCache", "moduleToFeedMap", "timeline"];

/// Custom fields so common that a misspelling of them is worth a word.
const COMMON_CUSTOM: &[&str] = &[
    "aliases",
    "associatedfilenames",
    "category",
    "feedrelatedindicators",
    "firstseenbyfeed",
    "firstseenbysource",
    "isdeprecated",
    "lastseenbyfeed",
    "lastseenbysource",
    "publications",
    "region",
    "service",
    "sourcetimestamp",
    "updateddate",
];

static KNOWN: LazyLock<HashMap<String, &'static Target>> =
    LazyLock::new(|| FIELDS.iter().map(|(name, target)| (key(name), target)).collect());

/// All names worth suggesting, with their keys.
static NAMES: LazyLock<Vec<(String, &'static str)>> = LazyLock::new(|| {
    let names = FIELDS.iter().map(|(name, _)| *name).chain(COMMON_CUSTOM.iter().copied());
    names.map(|name| (key(name), name)).collect()
});

/// The custom fields that fill a column. Values that the column cannot hold stay among the custom fields, and are
/// looked for there.
pub(super) fn kept(column: &str) -> &'static [&'static str] {
    match column {
        c::CONFIDENCE => &["confidence"],
        c::TLP => &["trafficlightprotocol"],
        c::REVOKED => &["isrevoked", "revoked"],
        c::IS_FAMILY => &["ismalwarefamily"],
        c::PUBLISHED => &["published"],
        c::MD5 => &["md5"],
        c::SHA1 => &["sha1"],
        c::SHA256 => &["sha256"],
        c::SHA512 => &["sha512"],
        _ => &[],
    }
}

fn key(name: &str) -> String {
    name.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect()
}

/// What the name stands for, and a warning if nobody knows it. Custom fields are open, so every other name is one.
pub(super) fn find(name: &str) -> (Target, Option<String>) {
    // As the document has it; queries name the field alone.
    let name = match name.split_once('.') {
        Some((head, field)) if head.eq_ignore_ascii_case("CustomFields") && !field.is_empty() => field,
        _ => name,
    };
    let folded = key(name);
    if let Some(target) = KNOWN.get(&folded) {
        return ((*target).clone(), None);
    }
    let (head, tail) = name.split_once('.').unwrap_or((name, ""));
    let key_of_document = DOCUMENT_KEYS.iter().find(|known| known.eq_ignore_ascii_case(head));
    if let (Some(known), false) = (key_of_document, tail.is_empty()) {
        return (Target::Json(c::DOCUMENT, format!("{known}.{tail}").into(), JsonKind::Any), None);
    }
    if head.eq_ignore_ascii_case("keyvalue") {
        return (Target::Json(c::REGISTRY_VALUES, tail.to_owned().into(), JsonKind::Any), None);
    }
    let custom = |name: &str| Target::Json(c::CUSTOM, name.to_owned().into(), JsonKind::Any);
    let folded_head = key(head);
    if let Some(common) = COMMON_CUSTOM.iter().find(|common| **common == folded_head) {
        let path = if tail.is_empty() { (*common).to_owned() } else { format!("{common}.{tail}") };
        return (custom(&path), None);
    }
    let warning = match closest(&folded) {
        Some(close) => Some(format!("unknown field `{name}`, taken for a custom field; did you mean `{close}`?")),
        None if head.chars().any(char::is_uppercase) => {
            Some(format!("unknown field `{name}`, taken for a custom field; names of custom fields are in lower case"))
        }
        None => None,
    };
    (custom(name), warning)
}

fn closest(folded: &str) -> Option<&'static str> {
    let most = match folded.chars().count() {
        0..=2 => return None,
        3..=6 => 1,
        7..=12 => 2,
        _ => 3,
    };
    let near = NAMES.iter().filter(|(key, _)| key.len().abs_diff(folded.len()) <= most);
    let distances = near.map(|(key, name)| (strsim::osa_distance(folded, key), *name));
    distances.filter(|(distance, _)| *distance <= most).min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}
