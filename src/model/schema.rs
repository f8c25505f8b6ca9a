//! The record: Arrow schema and column names, the single source of truth.
//!
//! One row is one *version* of one record. A record is an XSOAR-style indicator (`kind = indicator`), a native STIX
//! object kept as it came (`object`), an edge between two of them (`relationship`), or a marking or extension definition
//! that other rows are rendered with (`definition`).

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

/// Version of the columns and their meaning, written into every store; a store of a newer version is refused.
pub const SCHEMA_VERSION: u32 = 2;

/// Column names. Every module names columns through these.
pub mod column {
    /// When this version was committed: unique, strictly rising; the sort key of the store and the TAXII `date_added`.
    pub const ADDED: &str = "added";
    /// `indicator`, `object` (a native STIX object), `relationship` or `definition`.
    pub const KIND: &str = "kind";
    /// STIX type of the object this row is served as (before `indicator_types` turns an observable into an
    /// `indicator`); null when the record has no STIX form and is never served.
    pub const STIX_TYPE: &str = "stix_type";
    /// UUID part of the STIX id (SCO or SDO).
    pub const ID: &str = "id";
    /// UUID part of the id of the `indicator` SDO made from this row; null for native objects.
    pub const INDICATOR_ID: &str = "indicator_id";
    /// Of indicators XSOAR's `stixid` as it came, whatever it is: where it is an id of the type served, its UUID is in
    /// `id` or `indicator_id` too. Of native objects the whole id where it is not `<stix_type>--<id>`.
    pub const STIX_ID: &str = "stix_id";
    /// `2.0` or `2.1` for native objects; null for indicators, which are rendered in the version asked for.
    pub const SPEC_VERSION: &str = "spec_version";
    /// XSOAR indicator type, as it came (`IP`, `Domain`, …); null for native objects.
    pub const TYPE: &str = "type";
    /// The indicator's value; for native objects their `value` or `name`.
    pub const VALUE: &str = "value";
    /// Verdict: 0 unknown, 1 benign, 2 suspicious, 3 malicious.
    pub const SCORE: &str = "score";
    /// When the record came into being at its producer.
    pub const CREATED: &str = "created";
    /// Version of the record as consumers see it: rises with every change.
    pub const MODIFIED: &str = "modified";
    /// Newest `modified` any input gave; decides which of two inputs is the fresher one.
    pub const SOURCE_MODIFIED: &str = "source_modified";
    /// First sighting.
    pub const FIRST_SEEN: &str = "first_seen";
    /// Last sighting.
    pub const LAST_SEEN: &str = "last_seen";
    /// End of validity; null when it never expires.
    pub const EXPIRATION: &str = "expiration";
    /// Tags (labels of native objects).
    pub const TAGS: &str = "tags";
    /// Feeds and enrichers that reported it.
    pub const SOURCE_BRANDS: &str = "source_brands";
    /// Instances of those.
    pub const SOURCE_INSTANCES: &str = "source_instances";
    /// XSOAR's `aggregatedReliability`, the full text.
    pub const RELIABILITY: &str = "reliability";
    /// 0–100.
    pub const CONFIDENCE: &str = "confidence";
    /// Traffic-light colour, lower case: `clear`, `white`, `green`, `amber`, `amber+strict`, `red`.
    pub const TLP: &str = "tlp";
    /// Free text.
    pub const DESCRIPTION: &str = "description";
    /// Withdrawn by its producer.
    pub const REVOKED: &str = "revoked";
    /// STIX id of the edge's source.
    pub const SOURCE_REF: &str = "source_ref";
    /// STIX id of the edge's target.
    pub const TARGET_REF: &str = "target_ref";
    /// UUID of the `indicator` that the edge's source is served as where `indicator_types` says so; null when it is no
    /// observable of ours.
    pub const SOURCE_INDICATOR_ID: &str = "source_indicator_id";
    /// The same of the edge's target.
    pub const TARGET_INDICATOR_ID: &str = "target_indicator_id";
    /// XSOAR's `stixid` of the edge's source, as it came; null when it has none. The id that the `xsoar` profile serves it under.
    pub const SOURCE_STIX_ID: &str = "source_stix_id";
    /// The same of the edge's target.
    pub const TARGET_STIX_ID: &str = "target_stix_id";
    /// Name of the edge: of XSOAR relationships verbatim, which may hold blanks.
    pub const RELATIONSHIP_TYPE: &str = "relationship_type";
    /// Id of the collection it was posted to; null for everything else.
    pub const INBOX: &str = "inbox";
    /// `CustomFields.mitreid`.
    pub const MITRE_ID: &str = "mitre_id";
    /// `CustomFields.accounttype`.
    pub const ACCOUNT_TYPE: &str = "account_type";
    /// `CustomFields.userid`.
    pub const USER_ID: &str = "user_id";
    /// MD5 of a file, lower case (from the value or the custom fields).
    pub const MD5: &str = "md5";
    /// SHA-1 of a file.
    pub const SHA1: &str = "sha1";
    /// SHA-256 of a file.
    pub const SHA256: &str = "sha256";
    /// SHA-512 of a file.
    pub const SHA512: &str = "sha512";
    /// SSDEEP of a file.
    pub const SSDEEP: &str = "ssdeep";
    /// `CustomFields.published` of a report.
    pub const PUBLISHED: &str = "published";
    /// `CustomFields.ismalwarefamily`.
    pub const IS_FAMILY: &str = "is_family";
    /// `CustomFields.identityclass`.
    pub const IDENTITY_CLASS: &str = "identity_class";
    /// `CustomFields.name` of an ASN.
    pub const AS_NAME: &str = "as_name";
    /// `values` of a registry key, as the STIX JSON array (`[{"name":…,"data":…,"data_type":…}]`).
    pub const REGISTRY_VALUES: &str = "registry_values";
    /// Subject of a certificate, joined: `CN=x, O=y`.
    pub const SUBJECT: &str = "subject";
    /// Issuer of a certificate, joined likewise.
    pub const ISSUER: &str = "issuer";
    /// `CustomFields.validitynotbefore`, as it came.
    pub const VALIDITY_NOT_BEFORE: &str = "validity_not_before";
    /// `CustomFields.validitynotafter`, as it came.
    pub const VALIDITY_NOT_AFTER: &str = "validity_not_after";
    /// STIX ids a report refers to: those it names itself, then those its edges add.
    pub const OBJECT_REFS: &str = "object_refs";
    /// As many entries as `object_refs`: the id of the `indicator` that the object referred to may be served as, empty
    /// where there is none. Null when none has one.
    pub const OBJECT_REF_INDICATORS: &str = "object_ref_indicators";
    /// Kill-chain phases, each `chain/phase` or just `phase`.
    pub const KILL_CHAIN_PHASES: &str = "kill_chain_phases";
    /// All other custom fields: a JSON object, keys sorted.
    pub const CUSTOM: &str = "custom";
    /// The original as it came: XSOAR document or STIX object, compact JSON text. The content of native objects.
    pub const DOCUMENT: &str = "document";
}

/// Values of [`column::KIND`].
pub mod kind_value {
    /// XSOAR-style indicator.
    pub const INDICATOR: &str = "indicator";
    /// Native STIX object.
    pub const OBJECT: &str = "object";
    /// Edge.
    pub const RELATIONSHIP: &str = "relationship";
    /// A marking definition (`value`: the colour) or an extension definition (`value`: the STIX type it extends, `type`: the
    /// XSOAR type it was first needed for), written before the first row that is rendered with it.
    pub const DEFINITION: &str = "definition";
}

/// The Arrow type of every timestamp column: microseconds, UTC.
pub fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The Arrow type of low-cardinality text.
pub fn dictionary_type() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

/// The Arrow type of the UUID columns.
pub fn uuid_type() -> DataType {
    DataType::FixedSizeBinary(16)
}

/// The Arrow type of the text-list columns.
pub fn text_list_type() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)))
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    use column as c;
    let text = || DataType::Utf8;
    Arc::new(Schema::new(vec![
        Field::new(c::ADDED, timestamp_type(), false),
        Field::new(c::KIND, dictionary_type(), false),
        Field::new(c::STIX_TYPE, dictionary_type(), true),
        Field::new(c::ID, uuid_type(), false),
        Field::new(c::INDICATOR_ID, uuid_type(), true),
        Field::new(c::STIX_ID, text(), true),
        Field::new(c::SPEC_VERSION, dictionary_type(), true),
        Field::new(c::TYPE, dictionary_type(), true),
        Field::new(c::VALUE, text(), true),
        Field::new(c::SCORE, DataType::Int8, true),
        Field::new(c::CREATED, timestamp_type(), true),
        Field::new(c::MODIFIED, timestamp_type(), true),
        Field::new(c::SOURCE_MODIFIED, timestamp_type(), true),
        Field::new(c::FIRST_SEEN, timestamp_type(), true),
        Field::new(c::LAST_SEEN, timestamp_type(), true),
        Field::new(c::EXPIRATION, timestamp_type(), true),
        Field::new(c::TAGS, text_list_type(), true),
        Field::new(c::SOURCE_BRANDS, text_list_type(), true),
        Field::new(c::SOURCE_INSTANCES, text_list_type(), true),
        Field::new(c::RELIABILITY, dictionary_type(), true),
        Field::new(c::CONFIDENCE, DataType::Int16, true),
        Field::new(c::TLP, dictionary_type(), true),
        Field::new(c::DESCRIPTION, text(), true),
        Field::new(c::REVOKED, DataType::Boolean, true),
        Field::new(c::SOURCE_REF, text(), true),
        Field::new(c::TARGET_REF, text(), true),
        Field::new(c::SOURCE_INDICATOR_ID, uuid_type(), true),
        Field::new(c::TARGET_INDICATOR_ID, uuid_type(), true),
        Field::new(c::SOURCE_STIX_ID, text(), true),
        Field::new(c::TARGET_STIX_ID, text(), true),
        Field::new(c::RELATIONSHIP_TYPE, dictionary_type(), true),
        Field::new(c::INBOX, text(), true),
        Field::new(c::MITRE_ID, text(), true),
        Field::new(c::ACCOUNT_TYPE, text(), true),
        Field::new(c::USER_ID, text(), true),
        Field::new(c::MD5, text(), true),
        Field::new(c::SHA1, text(), true),
        Field::new(c::SHA256, text(), true),
        Field::new(c::SHA512, text(), true),
        Field::new(c::SSDEEP, text(), true),
        Field::new(c::PUBLISHED, timestamp_type(), true),
        Field::new(c::IS_FAMILY, DataType::Boolean, true),
        Field::new(c::IDENTITY_CLASS, text(), true),
        Field::new(c::AS_NAME, text(), true),
        Field::new(c::REGISTRY_VALUES, text(), true),
        Field::new(c::SUBJECT, text(), true),
        Field::new(c::ISSUER, text(), true),
        Field::new(c::VALIDITY_NOT_BEFORE, text(), true),
        Field::new(c::VALIDITY_NOT_AFTER, text(), true),
        Field::new(c::OBJECT_REFS, text_list_type(), true),
        Field::new(c::OBJECT_REF_INDICATORS, text_list_type(), true),
        Field::new(c::KILL_CHAIN_PHASES, text_list_type(), true),
        Field::new(c::CUSTOM, text(), true),
        Field::new(c::DOCUMENT, text(), true),
    ]))
});

static INPUT_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| Arc::new(Schema::new(SCHEMA.fields()[1..].to_vec())));

/// The whole record, `added` first.
pub fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

/// The record before it is committed: everything but `added`, which the store gives.
pub fn input_schema() -> SchemaRef {
    Arc::clone(&INPUT_SCHEMA)
}

/// The names of all columns, in schema order.
pub fn schema_names() -> Vec<&'static str> {
    SCHEMA.fields().iter().map(|field| field.name().as_str()).collect()
}
