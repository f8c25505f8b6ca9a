//! Which columns rendering reads, and typed access to them.
//!
//! Every column is downcast once per batch. Text may come as the schema has it or as readers like to give it (plain,
//! large, view, dictionary): the difference ends here.

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, Int32Array, LargeStringArray, ListArray,
    PrimitiveArray, RecordBatch, StringArray, StringViewArray,
};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Int8Type, Int16Type, Int32Type, TimeUnit, TimestampMicrosecondType,
};

use super::encoder::Shape;
use super::{Profile, RenderError, RenderOptions, StixVersion, extension};
use crate::model::ids::{Uuid16, parse_uuid};
use crate::model::kind::StixType;
use crate::model::schema::{column as c, schema};
use crate::model::time::Timestamp;

type Names = &'static [&'static str];

const INDICATOR_PREFIX: &str = "indicator--";

const IDENTITY: Names = &[c::KIND, c::STIX_TYPE, c::ID];
const DATES: Names = &[c::ADDED, c::CREATED, c::MODIFIED];
const MANIFEST: Names =
    &[c::ADDED, c::KIND, c::STIX_TYPE, c::ID, c::INDICATOR_ID, c::STIX_ID, c::SPEC_VERSION, c::CREATED, c::MODIFIED];

/// The columns to read, in schema order, for rows whose `stix_type` is one of `types` (`None`: any), native objects
/// among them. Where there are none, [`indicator_columns`] spares reading `document`, by far the widest.
pub fn columns(options: &RenderOptions, types: Option<&[StixType]>) -> Vec<&'static str> {
    named_by(shapes(options, types).chain([Shape::Native]), options)
}

/// The columns to read when every row is written from its columns: indicators, definitions, and relationships that are
/// not native.
pub fn indicator_columns(options: &RenderOptions, types: Option<&[StixType]>) -> Vec<&'static str> {
    named_by(shapes(options, types), options)
}

/// The columns to read for [`manifest`](super::manifest), [`versions`](super::versions) and [`Ids`](super::Ids).
pub fn manifest_columns() -> &'static [&'static str] {
    MANIFEST
}

fn shapes(options: &RenderOptions, types: Option<&[StixType]>) -> impl Iterator<Item = Shape> {
    types.unwrap_or(StixType::ALL).iter().map(|&stix_type| match stix_type {
        StixType::Relationship => Shape::Edge,
        StixType::ExtensionDefinition | StixType::MarkingDefinition => Shape::of_definition(stix_type, options),
        _ => Shape::of_indicator(stix_type, options),
    })
}

fn named_by(shapes: impl Iterator<Item = Shape>, options: &RenderOptions) -> Vec<&'static str> {
    let mut names: Vec<&str> = IDENTITY.to_vec();
    shapes.for_each(|shape| needs(shape, options, &mut |columns| names.extend(columns)));
    let schema = schema();
    names.sort_by_key(|name| schema.index_of(name).ok());
    names.dedup();
    names
}

/// Tells what a row of that shape is made of. Skipped shapes need nothing, so they cost nothing.
fn needs(shape: Shape, options: &RenderOptions, add: &mut dyn FnMut(&[&'static str])) {
    let is_xsoar = options.profile == Profile::Xsoar;
    let is_21 = options.version == StixVersion::V21;
    let from_indicator = matches!(shape, Shape::Sco(_) | Shape::Observed(_) | Shape::Indicator(_) | Shape::Sdo(_));
    if from_indicator {
        add(&[c::VALUE]);
        add(if is_xsoar { &[c::STIX_ID] } else { &[c::TLP] });
        if let Some(extensions) = &options.extensions {
            extension::columns(&extensions.fields).for_each(|column| add(&[column]));
        }
    }
    match shape {
        Shape::Skip => {}
        Shape::Native => add(&[c::SPEC_VERSION, c::DOCUMENT]),
        Shape::Sco(stix_type) => {
            if is_xsoar {
                add(DATES);
            }
            add(own_properties(stix_type, !is_xsoar));
        }
        Shape::Observed(stix_type) => {
            add(DATES);
            add(&[c::FIRST_SEEN, c::LAST_SEEN, c::TAGS, c::REVOKED]);
            add(own_properties(stix_type, true));
        }
        Shape::Indicator(_) => {
            add(DATES);
            add(&[c::INDICATOR_ID, c::SCORE, c::EXPIRATION, c::TAGS, c::DESCRIPTION]);
            if !is_xsoar {
                add(&[c::REVOKED, c::KILL_CHAIN_PHASES]);
                add(if is_21 { &[c::CONFIDENCE] } else { &[] });
            }
        }
        Shape::Sdo(stix_type) => {
            add(DATES);
            add(&[c::DESCRIPTION]);
            if is_xsoar {
                add(match stix_type {
                    StixType::Malware if is_21 => &[c::TAGS, c::IS_FAMILY],
                    StixType::Report if is_21 => &[c::TAGS, c::PUBLISHED, c::OBJECT_REFS, c::OBJECT_REF_INDICATORS],
                    StixType::Report => &[c::TAGS, c::OBJECT_REFS, c::OBJECT_REF_INDICATORS],
                    StixType::Malware | StixType::ThreatActor | StixType::Tool => &[c::TAGS],
                    StixType::Identity if !is_21 => &[c::IDENTITY_CLASS],
                    _ => &[],
                });
                return;
            }
            add(&[c::TAGS, c::REVOKED]);
            add(if is_21 { &[c::CONFIDENCE] } else { &[] });
            add(match stix_type {
                StixType::AttackPattern => &[c::KILL_CHAIN_PHASES, c::MITRE_ID],
                StixType::Malware if is_21 => &[c::KILL_CHAIN_PHASES, c::IS_FAMILY],
                StixType::Infrastructure | StixType::Malware | StixType::Tool => &[c::KILL_CHAIN_PHASES],
                StixType::Report => &[c::PUBLISHED, c::OBJECT_REFS, c::OBJECT_REF_INDICATORS],
                StixType::Identity => &[c::IDENTITY_CLASS],
                _ => &[],
            });
        }
        Shape::Edge => {
            add(DATES);
            add(&[
                c::SPEC_VERSION,
                c::DESCRIPTION,
                c::SOURCE_REF,
                c::TARGET_REF,
                c::SOURCE_INDICATOR_ID,
                c::TARGET_INDICATOR_ID,
                c::RELATIONSHIP_TYPE,
            ]);
            add(&[c::REVOKED]);
            add(if is_xsoar { &[c::SOURCE_STIX_ID, c::TARGET_STIX_ID] } else { &[] });
        }
        Shape::Definition(StixType::MarkingDefinition) => {}
        Shape::Definition(_) => {
            add(DATES);
            add(&[c::TYPE, c::VALUE]);
        }
    }
}

/// What observables of that type show besides their value.
fn own_properties(stix_type: StixType, with_ssdeep: bool) -> Names {
    match stix_type {
        StixType::File if with_ssdeep => &[c::MD5, c::SHA1, c::SHA256, c::SHA512, c::SSDEEP],
        StixType::File => &[c::MD5, c::SHA1, c::SHA256, c::SHA512],
        StixType::WindowsRegistryKey => &[c::REGISTRY_VALUES],
        StixType::UserAccount => &[c::ACCOUNT_TYPE, c::USER_ID],
        StixType::AutonomousSystem => &[c::AS_NAME],
        StixType::X509Certificate => &[c::SUBJECT, c::ISSUER, c::VALIDITY_NOT_BEFORE, c::VALIDITY_NOT_AFTER],
        _ => &[],
    }
}

/// The columns of a batch, bound. A column that was not read, or holds nothing, gives nulls.
pub(crate) struct Bound<'a> {
    pub(crate) added: Times<'a>,
    pub(crate) kind: Text<'a>,
    pub(crate) stix_type: Text<'a>,
    pub(crate) id: Uuids<'a>,
    pub(crate) indicator_id: Uuids<'a>,
    pub(crate) stix_id: Text<'a>,
    pub(crate) spec_version: Text<'a>,
    pub(crate) xsoar_type: Text<'a>,
    pub(crate) value: Text<'a>,
    pub(crate) score: Integers<'a, Int8Type>,
    pub(crate) created: Times<'a>,
    pub(crate) modified: Times<'a>,
    pub(crate) first_seen: Times<'a>,
    pub(crate) last_seen: Times<'a>,
    pub(crate) expiration: Times<'a>,
    pub(crate) tags: Texts<'a>,
    pub(crate) source_brands: Texts<'a>,
    pub(crate) source_instances: Texts<'a>,
    pub(crate) reliability: Text<'a>,
    pub(crate) confidence: Integers<'a, Int16Type>,
    pub(crate) tlp: Text<'a>,
    pub(crate) description: Text<'a>,
    pub(crate) revoked: Booleans<'a>,
    pub(crate) source_ref: Text<'a>,
    pub(crate) target_ref: Text<'a>,
    pub(crate) source_stix_id: Text<'a>,
    pub(crate) target_stix_id: Text<'a>,
    pub(crate) source_indicator_id: Uuids<'a>,
    pub(crate) target_indicator_id: Uuids<'a>,
    pub(crate) relationship_type: Text<'a>,
    pub(crate) mitre_id: Text<'a>,
    pub(crate) account_type: Text<'a>,
    pub(crate) user_id: Text<'a>,
    pub(crate) md5: Text<'a>,
    pub(crate) sha1: Text<'a>,
    pub(crate) sha256: Text<'a>,
    pub(crate) sha512: Text<'a>,
    pub(crate) ssdeep: Text<'a>,
    pub(crate) published: Times<'a>,
    pub(crate) is_family: Booleans<'a>,
    pub(crate) identity_class: Text<'a>,
    pub(crate) as_name: Text<'a>,
    pub(crate) registry_values: Text<'a>,
    pub(crate) subject: Text<'a>,
    pub(crate) issuer: Text<'a>,
    pub(crate) validity_not_before: Text<'a>,
    pub(crate) validity_not_after: Text<'a>,
    pub(crate) object_refs: Texts<'a>,
    pub(crate) object_ref_indicators: Texts<'a>,
    pub(crate) kill_chain_phases: Texts<'a>,
    pub(crate) custom: Text<'a>,
    pub(crate) document: Text<'a>,
}

impl<'a> Bound<'a> {
    pub(crate) fn bind(batch: &'a RecordBatch) -> Result<Self, RenderError> {
        Ok(Bound {
            added: times(batch, c::ADDED)?,
            kind: text(batch, c::KIND)?,
            stix_type: text(batch, c::STIX_TYPE)?,
            id: uuids(batch, c::ID)?,
            indicator_id: uuids(batch, c::INDICATOR_ID)?,
            stix_id: text(batch, c::STIX_ID)?,
            spec_version: text(batch, c::SPEC_VERSION)?,
            xsoar_type: text(batch, c::TYPE)?,
            value: text(batch, c::VALUE)?,
            score: integers(batch, c::SCORE)?,
            created: times(batch, c::CREATED)?,
            modified: times(batch, c::MODIFIED)?,
            first_seen: times(batch, c::FIRST_SEEN)?,
            last_seen: times(batch, c::LAST_SEEN)?,
            expiration: times(batch, c::EXPIRATION)?,
            tags: texts(batch, c::TAGS)?,
            source_brands: texts(batch, c::SOURCE_BRANDS)?,
            source_instances: texts(batch, c::SOURCE_INSTANCES)?,
            reliability: text(batch, c::RELIABILITY)?,
            confidence: integers(batch, c::CONFIDENCE)?,
            tlp: text(batch, c::TLP)?,
            description: text(batch, c::DESCRIPTION)?,
            revoked: booleans(batch, c::REVOKED)?,
            source_ref: text(batch, c::SOURCE_REF)?,
            target_ref: text(batch, c::TARGET_REF)?,
            source_stix_id: text(batch, c::SOURCE_STIX_ID)?,
            target_stix_id: text(batch, c::TARGET_STIX_ID)?,
            source_indicator_id: uuids(batch, c::SOURCE_INDICATOR_ID)?,
            target_indicator_id: uuids(batch, c::TARGET_INDICATOR_ID)?,
            relationship_type: text(batch, c::RELATIONSHIP_TYPE)?,
            mitre_id: text(batch, c::MITRE_ID)?,
            account_type: text(batch, c::ACCOUNT_TYPE)?,
            user_id: text(batch, c::USER_ID)?,
            md5: text(batch, c::MD5)?,
            sha1: text(batch, c::SHA1)?,
            sha256: text(batch, c::SHA256)?,
            sha512: text(batch, c::SHA512)?,
            ssdeep: text(batch, c::SSDEEP)?,
            published: times(batch, c::PUBLISHED)?,
            is_family: booleans(batch, c::IS_FAMILY)?,
            identity_class: text(batch, c::IDENTITY_CLASS)?,
            as_name: text(batch, c::AS_NAME)?,
            registry_values: text(batch, c::REGISTRY_VALUES)?,
            subject: text(batch, c::SUBJECT)?,
            issuer: text(batch, c::ISSUER)?,
            validity_not_before: text(batch, c::VALIDITY_NOT_BEFORE)?,
            validity_not_after: text(batch, c::VALIDITY_NOT_AFTER)?,
            object_refs: texts(batch, c::OBJECT_REFS)?,
            object_ref_indicators: texts(batch, c::OBJECT_REF_INDICATORS)?,
            kill_chain_phases: texts(batch, c::KILL_CHAIN_PHASES)?,
            custom: text(batch, c::CUSTOM)?,
            document: text(batch, c::DOCUMENT)?,
        })
    }

    /// When the object came to be: `created`, else `modified`, else `added`.
    pub(crate) fn created(&self, row: usize) -> Option<Timestamp> {
        self.created.get(row).or_else(|| self.modified.get(row)).or_else(|| self.added.get(row))
    }

    /// The object's version: `modified`, else `created`, else `added`; never before it came to be.
    pub(crate) fn version(&self, row: usize) -> Option<Timestamp> {
        self.modified.get(row).max(self.created(row))
    }

    /// What a report refers to, each with the UUID of the `indicator` that it may be served as.
    pub(crate) fn references(&self, row: usize) -> impl Iterator<Item = (&'a str, Option<Uuid16>)> + use<'a> {
        let (references, indicators) = (self.object_refs, self.object_ref_indicators);
        (0..references.len(row)).filter_map(move |at| {
            let uuid = |text: &str| parse_uuid(text.strip_prefix(INDICATOR_PREFIX).unwrap_or(text).as_bytes());
            let reference = references.at(row, at).map(str::trim).filter(|text| !text.is_empty())?;
            Some((reference, indicators.at(row, at).and_then(|text| uuid(text.trim()))))
        })
    }
}

/// Checks that a batch holding rows of these shapes, and the named columns, was read whole.
pub(crate) fn require(batch: &RecordBatch, shapes: &[Shape], options: &RenderOptions) -> Result<(), RenderError> {
    let mut found = require_named(batch, IDENTITY);
    for &shape in shapes {
        needs(shape, options, &mut |names| {
            if found.is_ok() {
                found = require_named(batch, names);
            }
        });
    }
    found
}

pub(crate) fn require_named(batch: &RecordBatch, names: &[&'static str]) -> Result<(), RenderError> {
    match names.iter().find(|name| batch.column_by_name(name).is_none()) {
        Some(&column) => Err(RenderError::MissingColumn { column }),
        None => Ok(()),
    }
}

/// Text, in any of the forms Arrow has for it.
#[derive(Clone, Copy)]
pub(crate) enum Text<'a> {
    Absent,
    Plain(&'a StringArray),
    Large(&'a LargeStringArray),
    View(&'a StringViewArray),
    Dictionary { keys: &'a Int32Array, values: &'a StringArray },
}

impl<'a> Text<'a> {
    fn of(array: &'a ArrayRef) -> Option<Self> {
        Some(match array.data_type() {
            DataType::Null => Text::Absent,
            DataType::Utf8 => Text::Plain(array.as_string_opt()?),
            DataType::LargeUtf8 => Text::Large(array.as_string_opt()?),
            DataType::Utf8View => Text::View(array.as_string_view_opt()?),
            DataType::Dictionary(..) => {
                let dictionary = array.as_dictionary_opt::<Int32Type>()?;
                Text::Dictionary { keys: dictionary.keys(), values: dictionary.values().as_string_opt()? }
            }
            _ => return None,
        })
    }

    pub(crate) fn get(&self, row: usize) -> Option<&'a str> {
        match *self {
            Text::Absent => None,
            Text::Plain(array) => array.is_valid(row).then(|| array.value(row)),
            Text::Large(array) => array.is_valid(row).then(|| array.value(row)),
            Text::View(array) => array.is_valid(row).then(|| array.value(row)),
            Text::Dictionary { keys, values } => {
                let key = keys.is_valid(row).then(|| keys.value(row) as usize)?;
                (key < values.len() && values.is_valid(key)).then(|| values.value(key))
            }
        }
    }

    /// What is written: text that is there and not empty.
    pub(crate) fn filled(&self, row: usize) -> Option<&'a str> {
        self.get(row).filter(|text| !text.is_empty())
    }

    /// `of` of every row, computed once for each dictionary value.
    pub(crate) fn map<T: Copy>(&self, rows: usize, of: impl Fn(Option<&str>) -> T) -> Vec<T> {
        match *self {
            Text::Dictionary { keys, values } => {
                let null = of(None);
                let table: Vec<T> = values.iter().map(&of).collect();
                keys.iter().map(|key| key.and_then(|key| table.get(key as usize)).copied().unwrap_or(null)).collect()
            }
            _ => (0..rows).map(|row| of(self.get(row))).collect(),
        }
    }
}

/// Lists of text.
#[derive(Clone, Copy)]
pub(crate) struct Texts<'a>(Option<(&'a ListArray, Text<'a>)>);

impl<'a> Texts<'a> {
    /// The row's texts that are not null, blanks around them removed, empty ones left out.
    pub(crate) fn get(&self, row: usize) -> impl Iterator<Item = &'a str> + use<'a> {
        let bound = self.0.filter(|(lists, _)| lists.is_valid(row));
        bound.into_iter().flat_map(move |(lists, values)| {
            let offsets = lists.value_offsets();
            let range = offsets[row] as usize..offsets[row + 1] as usize;
            range.filter_map(move |at| values.get(at)).map(str::trim).filter(|text| !text.is_empty())
        })
    }

    /// The number of entries in the row's list, whatever they are.
    fn len(&self, row: usize) -> usize {
        self.0.filter(|(lists, _)| lists.is_valid(row)).map_or(0, |(lists, _)| lists.value_length(row) as usize)
    }

    /// One entry of it, as it is.
    fn at(&self, row: usize, at: usize) -> Option<&'a str> {
        let (lists, values) = self.0.filter(|_| at < self.len(row))?;
        values.get(*lists.value_offsets().get(row)? as usize + at)
    }
}

/// Instants.
#[derive(Clone, Copy)]
pub(crate) struct Times<'a>(Option<&'a PrimitiveArray<TimestampMicrosecondType>>);

impl Times<'_> {
    pub(crate) fn get(&self, row: usize) -> Option<Timestamp> {
        let array = self.0?;
        array.is_valid(row).then(|| Timestamp(array.value(row)))
    }
}

/// Numbers.
#[derive(Clone, Copy)]
pub(crate) struct Integers<'a, T: ArrowPrimitiveType>(Option<&'a PrimitiveArray<T>>);

impl<T: ArrowPrimitiveType> Integers<'_, T> {
    pub(crate) fn get(&self, row: usize) -> Option<T::Native> {
        let array = self.0?;
        array.is_valid(row).then(|| array.value(row))
    }
}

/// Truth values; null is false.
#[derive(Clone, Copy)]
pub(crate) struct Booleans<'a>(Option<&'a BooleanArray>);

impl Booleans<'_> {
    pub(crate) fn get(&self, row: usize) -> bool {
        self.0.is_some_and(|array| array.is_valid(row) && array.value(row))
    }
}

/// UUIDs.
#[derive(Clone, Copy)]
pub(crate) struct Uuids<'a>(Option<&'a FixedSizeBinaryArray>);

impl<'a> Uuids<'a> {
    pub(crate) fn get(&self, row: usize) -> Option<&'a Uuid16> {
        let array = self.0?;
        array.is_valid(row).then(|| array.value(row))?.try_into().ok()
    }
}

/// The column, unless it was not read or holds nulls only.
fn filled<'a>(batch: &'a RecordBatch, column: &'static str) -> Option<&'a ArrayRef> {
    batch
        .column_by_name(column)
        .filter(|array| array.null_count() < array.len() && array.data_type() != &DataType::Null)
}

fn bound<'a, T>(
    batch: &'a RecordBatch,
    column: &'static str,
    downcast: impl FnOnce(&'a ArrayRef) -> Option<T>,
) -> Result<Option<T>, RenderError> {
    let Some(array) = filled(batch, column) else { return Ok(None) };
    match downcast(array) {
        Some(bound) => Ok(Some(bound)),
        None => Err(RenderError::ColumnType { column, found: array.data_type().clone() }),
    }
}

fn text<'a>(batch: &'a RecordBatch, column: &'static str) -> Result<Text<'a>, RenderError> {
    Ok(bound(batch, column, Text::of)?.unwrap_or(Text::Absent))
}

fn texts<'a>(batch: &'a RecordBatch, column: &'static str) -> Result<Texts<'a>, RenderError> {
    bound(batch, column, |array| {
        let lists = array.as_list_opt::<i32>()?;
        Some((lists, Text::of(lists.values())?))
    })
    .map(Texts)
}

fn times<'a>(batch: &'a RecordBatch, column: &'static str) -> Result<Times<'a>, RenderError> {
    let microseconds = |array: &ArrayRef| matches!(array.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _));
    bound(batch, column, |array| array.as_primitive_opt().filter(|_| microseconds(array))).map(Times)
}

fn integers<'a, T: ArrowPrimitiveType>(
    batch: &'a RecordBatch,
    column: &'static str,
) -> Result<Integers<'a, T>, RenderError> {
    bound(batch, column, |array| array.as_primitive_opt()).map(Integers)
}

fn booleans<'a>(batch: &'a RecordBatch, column: &'static str) -> Result<Booleans<'a>, RenderError> {
    bound(batch, column, |array| array.as_boolean_opt()).map(Booleans)
}

fn uuids<'a>(batch: &'a RecordBatch, column: &'static str) -> Result<Uuids<'a>, RenderError> {
    bound(batch, column, |array| array.as_fixed_size_binary_opt().filter(|ids| ids.value_length() == 16)).map(Uuids)
}
