//! What every indicator row begins with, whatever format it came in: identity, STIX type and ids.

use crate::ingest::builder::{BatchBuilder, Col};
use crate::model::ids::{IdSpace, ScoFacts, Uuid16, split_stix_id};
use crate::model::kind::{self, HashAlgorithm, StixType};
use crate::model::schema::kind_value;

/// What the ids of an indicator depend on.
#[derive(Debug, Default)]
pub(crate) struct Identity<'a> {
    pub(crate) xsoar_type: &'a str,
    pub(crate) facts: ScoFacts<'a>,
    /// MITRE id, which names attack patterns.
    pub(crate) mitre_id: Option<&'a str>,
    /// The id the record came with.
    pub(crate) stix_id: Option<&'a str>,
}

/// Appends kind, type, value, hashes and ids.
pub(crate) fn begin(builder: &mut BatchBuilder, ids: &IdSpace, identity: &Identity<'_>) {
    let Identity { xsoar_type, facts, mitre_id, stix_id } = identity;
    let value = facts.value;
    builder.text_aside(Col::Kind, kind_value::INDICATOR);
    builder.text(Col::Type, xsoar_type);
    builder.text(Col::Value, value);
    builder.text_opt(Col::Md5, facts.md5);
    builder.text_opt(Col::Sha1, facts.sha1);
    builder.text_opt(Col::Sha256, facts.sha256);
    builder.text_opt(Col::Sha512, facts.sha512);

    let stix_type = kind::stix_type(xsoar_type, value);
    match stix_type {
        Some(stix_type) => builder.text_aside(Col::StixType, stix_type.as_str()),
        None => builder.warn_type(xsoar_type),
    }
    let mut id = own_id(ids, stix_type, xsoar_type, facts, *mitre_id);
    let mut indicator_id = ids.indicator(value);
    if let Some(text) = *stix_id {
        builder.text(Col::StixId, text);
        match split_stix_id(text) {
            Some((given, uuid)) if stix_type.is_some_and(|own| own.as_str() == given) => id = uuid,
            Some((given, uuid)) if given == StixType::Indicator.as_str() => indicator_id = uuid,
            _ => {}
        }
    }
    builder.uuid(Col::Id, &id);
    builder.uuid(Col::IndicatorId, &indicator_id);
}

/// The id made from content.
fn own_id(
    ids: &IdSpace,
    stix_type: Option<StixType>,
    xsoar_type: &str,
    facts: &ScoFacts<'_>,
    mitre_id: Option<&str>,
) -> Uuid16 {
    match stix_type {
        Some(stix_type) if stix_type.is_sco() => ids.sco(stix_type.as_str(), facts),
        Some(StixType::AttackPattern) => ids.sdo(StixType::AttackPattern.as_str(), mitre_id.unwrap_or(facts.value)),
        Some(stix_type) => ids.sdo(stix_type.as_str(), facts.value),
        // Never served, but every row has an id.
        None => ids.sdo(xsoar_type, facts.value),
    }
}

/// The file hashes of a record, lower case.
#[derive(Debug, Default)]
pub(crate) struct Hashes {
    digits: [String; 4],
}

impl Hashes {
    pub(crate) fn clear(&mut self) {
        self.digits.iter_mut().for_each(String::clear);
    }

    /// Keeps a hash for the column of its kind; the first one given stays. `false`: it is no hash of that kind.
    pub(crate) fn put(&mut self, col: Col, text: &str) -> bool {
        let text = text.trim();
        let slot = HashAlgorithm::of(text).map(column_of).filter(|(_, own)| *own == col).map(|(slot, _)| slot);
        let Some(digits) = slot.and_then(|slot| self.digits.get_mut(slot)) else { return false };
        if digits.is_empty() {
            digits.push_str(text);
            digits.make_ascii_lowercase();
        }
        true
    }

    /// Keeps the value of a file indicator in the column of its kind.
    pub(crate) fn put_value(&mut self, value: &str) {
        if let Some((_, col)) = HashAlgorithm::of(value).map(column_of) {
            self.put(col, value);
        }
    }

    /// The facts of an indicator with these hashes.
    pub(crate) fn facts<'a>(&'a self, value: &'a str) -> ScoFacts<'a> {
        let [md5, sha1, sha256, sha512] =
            self.digits.each_ref().map(|digits| Some(digits.as_str()).filter(|d| !d.is_empty()));
        ScoFacts { value, md5, sha1, sha256, sha512, ..ScoFacts::default() }
    }
}

fn column_of(algorithm: HashAlgorithm) -> (usize, Col) {
    match algorithm {
        HashAlgorithm::Md5 => (0, Col::Md5),
        HashAlgorithm::Sha1 => (1, Col::Sha1),
        HashAlgorithm::Sha256 => (2, Col::Sha256),
        HashAlgorithm::Sha512 => (3, Col::Sha512),
    }
}
