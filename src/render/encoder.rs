//! What each row of a batch becomes, decided once, and the dispatch on it.

use arrow::array::RecordBatch;

use super::columns::{Bound, require};
use super::extension::Extender;
use super::labels::Labels;
use super::{IndicatorTypes, Profile, RenderError, RenderOptions, StixVersion};
use super::{definition, edge, indicator, left_out, observed, sco, sdo, text, xsoar};
use crate::model::ids::{Uuid16, to_v4, write_uuid};
use crate::model::json::make_ascii;
use crate::model::kind::StixType;
use crate::model::schema::kind_value;
use crate::model::time::Timestamp;

/// Version and profile as constants: what follows from them is decided when this is compiled, not for every row.
pub(super) trait Manner {
    /// Objects as XSOAR's server sends them.
    const XSOAR: bool;
    /// Objects valid by STIX 2.0, which is less than `standard` in 2.1 can say.
    const STRICT_20: bool;
    /// What `spec_version` says.
    const VERSION: StixVersion;
}

/// `standard` in 2.1.
pub(super) enum Standard21 {}
/// `standard` in 2.0.
pub(super) enum Standard20 {}
/// `xsoar` in 2.1.
pub(super) enum Xsoar21 {}
/// `xsoar` in 2.0.
pub(super) enum Xsoar20 {}

impl Manner for Standard21 {
    const XSOAR: bool = false;
    const STRICT_20: bool = false;
    const VERSION: StixVersion = StixVersion::V21;
}

impl Manner for Standard20 {
    const XSOAR: bool = false;
    const STRICT_20: bool = true;
    const VERSION: StixVersion = StixVersion::V20;
}

impl Manner for Xsoar21 {
    const XSOAR: bool = true;
    const STRICT_20: bool = false;
    const VERSION: StixVersion = StixVersion::V21;
}

impl Manner for Xsoar20 {
    const XSOAR: bool = true;
    const STRICT_20: bool = false;
    const VERSION: StixVersion = StixVersion::V20;
}

/// Evaluates `$call` with `$manner` standing for the [`Manner`] of version and profile.
macro_rules! in_manner {
    ($profile:expr, $version:expr, $manner:ident => $call:expr) => {
        match ($profile, $version) {
            ($crate::render::Profile::Standard, $crate::render::StixVersion::V21) => {
                type $manner = $crate::render::encoder::Standard21;
                $call
            }
            ($crate::render::Profile::Standard, $crate::render::StixVersion::V20) => {
                type $manner = $crate::render::encoder::Standard20;
                $call
            }
            ($crate::render::Profile::Xsoar, $crate::render::StixVersion::V21) => {
                type $manner = $crate::render::encoder::Xsoar21;
                $call
            }
            ($crate::render::Profile::Xsoar, $crate::render::StixVersion::V20) => {
                type $manner = $crate::render::encoder::Xsoar20;
                $call
            }
        }
    };
}
pub(super) use in_manner;

/// What a row is rendered as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Nothing: no STIX type, or one that has no form in that version and profile.
    Skip,
    /// The document as it came.
    Native,
    Sco(StixType),
    /// An `observed-data` object around that observable, which 2.0 does not have by itself.
    Observed(StixType),
    /// An `indicator` object with a pattern for that observable.
    Indicator(StixType),
    Sdo(StixType),
    /// A relationship made of columns.
    Edge,
    /// A marking or extension definition.
    Definition(StixType),
}

impl Shape {
    /// What an XSOAR-style indicator of that type becomes.
    pub(super) fn of_indicator(stix_type: StixType, options: &RenderOptions) -> Self {
        let strict_20 = (options.profile, options.version) == (Profile::Standard, StixVersion::V20);
        if options.indicator_types.contains(stix_type) {
            Shape::Indicator(stix_type)
        } else if sco::KNOWN.contains(&stix_type) {
            if strict_20 { Shape::Observed(stix_type) } else { Shape::Sco(stix_type) }
        } else if sdo::KNOWN.contains(&stix_type) && !left_out(options).contains(&stix_type) {
            Shape::Sdo(stix_type)
        } else {
            Shape::Skip
        }
    }

    /// What a definition of that type becomes.
    pub(super) fn of_definition(stix_type: StixType, options: &RenderOptions) -> Self {
        if super::definitions(options).contains(&stix_type) { Shape::Definition(stix_type) } else { Shape::Skip }
    }
}

/// The shape of every row.
pub(super) fn shapes(bound: &Bound<'_>, rows: usize, options: &RenderOptions) -> Vec<Shape> {
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Indicator,
        Object,
        Relationship,
        Definition,
        Unknown,
    }
    let kinds = bound.kind.map(rows, |kind| match kind {
        Some(kind_value::INDICATOR) => Kind::Indicator,
        Some(kind_value::OBJECT) => Kind::Object,
        Some(kind_value::RELATIONSHIP) => Kind::Relationship,
        Some(kind_value::DEFINITION) => Kind::Definition,
        _ => Kind::Unknown,
    });
    // The id of a native object starts with its type, whatever that is, so without one it has no id.
    let of_types = bound.stix_type.map(rows, |name| {
        let known = name.and_then(StixType::named);
        let native = if name.is_some_and(|name| !name.is_empty()) { Shape::Native } else { Shape::Skip };
        let indicator = known.map_or(Shape::Skip, |known| Shape::of_indicator(known, options));
        let definition = known.map_or(Shape::Skip, |known| Shape::of_definition(known, options));
        (native, indicator, definition)
    });
    let rows = kinds.into_iter().zip(of_types).enumerate();
    let shape = |(row, (kind, (native, indicator, definition)))| match kind {
        Kind::Indicator => indicator,
        Kind::Object => native,
        // Those made from XSOAR's have no version, since they are written in the one asked for.
        Kind::Relationship if bound.spec_version.filled(row).is_none() => Shape::Edge,
        Kind::Relationship => native,
        Kind::Definition => definition,
        Kind::Unknown => Shape::Skip,
    };
    rows.map(shape).collect()
}

/// What the rows of a batch are written from, and scratch space.
pub(super) struct Source<'a> {
    pub(super) bound: Bound<'a>,
    pub(super) indicator_types: IndicatorTypes,
    pub(super) extender: Option<Box<Extender<'a>>>,
    pub(super) labels: Labels,
}

/// A batch ready to be rendered row by row.
pub(super) struct Encoder<'a> {
    source: Source<'a>,
    shapes: Vec<Shape>,
    profile: Profile,
    version: StixVersion,
}

impl<'a> Encoder<'a> {
    pub(super) fn bind(batch: &'a RecordBatch, options: &'a RenderOptions) -> Result<Self, RenderError> {
        let bound = Bound::bind(batch)?;
        let shapes = shapes(&bound, batch.num_rows(), options);
        let mut present: Vec<Shape> = Vec::new();
        for &shape in &shapes {
            if present.last() != Some(&shape) && !present.contains(&shape) {
                present.push(shape);
            }
        }
        require(batch, &present, options)?;
        let extender = options.extensions.as_deref().map(|extensions| Box::new(Extender::new(extensions)));
        let source = Source { bound, indicator_types: options.indicator_types, extender, labels: Labels::default() };
        Ok(Encoder { source, shapes, profile: options.profile, version: options.version })
    }

    /// Appends the object; `None` when the row lacks what it needs, and then `out` may hold a part of it.
    pub(super) fn object(&mut self, row: usize, out: &mut Vec<u8>) -> Option<()> {
        in_manner!(self.profile, self.version, M => self.object_in::<M>(row, out))
    }

    fn object_in<M: Manner>(&mut self, row: usize, out: &mut Vec<u8>) -> Option<()> {
        let start = out.len();
        let source = &mut self.source;
        match *self.shapes.get(row)? {
            Shape::Skip => return None,
            Shape::Native => {
                out.extend_from_slice(source.bound.document.filled(row)?.as_bytes());
                return Some(());
            }
            Shape::Sco(stix_type) => sco::write::<M>(source, stix_type, row, out)?,
            Shape::Observed(stix_type) => observed::write::<M>(source, stix_type, row, out)?,
            Shape::Indicator(stix_type) if M::XSOAR => xsoar::indicator::<M>(source, stix_type, row, out)?,
            Shape::Indicator(stix_type) => indicator::write::<M>(source, stix_type, row, out)?,
            Shape::Sdo(stix_type) if M::XSOAR => xsoar::sdo::<M>(source, stix_type, row, out)?,
            Shape::Sdo(stix_type) => sdo::write::<M>(source, stix_type, row, out)?,
            Shape::Edge => edge::write::<M>(source, row, out)?,
            Shape::Definition(stix_type) => definition::write::<M>(source, stix_type, row, out)?,
        }
        if M::XSOAR {
            make_ascii(out, start);
        }
        Some(())
    }
}

/// What every object made of an indicator has, observables by themselves aside.
pub(super) struct Head<'a> {
    pub(super) value: &'a str,
    pub(super) id: RowId<'a>,
    pub(super) created: Timestamp,
    pub(super) modified: Timestamp,
}

impl<'a> Head<'a> {
    /// `None` where the row lacks some of it.
    pub(super) fn of<M: Manner>(bound: &Bound<'a>, shape: Shape, row: usize) -> Option<Self> {
        Some(Head {
            value: bound.value.get(row)?,
            id: RowId::of::<M>(bound, shape, row)?,
            created: bound.created(row)?,
            modified: bound.version(row)?,
        })
    }
}

/// The id a row is served under.
pub(super) enum RowId<'a> {
    /// Kept as text: a native object's, or any `stixid` for those who want it as it is.
    Whole(&'a str),
    Parts(&'a str, Uuid16),
}

impl<'a> RowId<'a> {
    pub(super) fn of<M: Manner>(bound: &Bound<'a>, shape: Shape, row: usize) -> Option<Self> {
        if M::XSOAR
            && matches!(shape, Shape::Sco(_) | Shape::Sdo(_) | Shape::Indicator(_))
            && let Some(whole) = bound.stix_id.filled(row)
        {
            return Some(RowId::Whole(whole));
        }
        let own = |id: Option<&Uuid16>| id.map(|id| if M::STRICT_20 { to_v4(id) } else { *id });
        Some(match shape {
            Shape::Skip => return None,
            Shape::Native => match bound.stix_id.filled(row) {
                Some(whole) => RowId::Whole(whole),
                None => RowId::Parts(bound.stix_type.get(row)?, *bound.id.get(row)?),
            },
            // An indicator's own `stixid` counts where it is an id of the type served, and then ingest has put its UUID
            // into these columns. Of another type, or no id at all, it would make the object invalid.
            Shape::Sco(stix_type) | Shape::Sdo(stix_type) => RowId::Parts(stix_type.as_str(), own(bound.id.get(row))?),
            Shape::Observed(_) => RowId::Parts(StixType::ObservedData.as_str(), own(bound.id.get(row))?),
            Shape::Indicator(_) => RowId::Parts(StixType::Indicator.as_str(), own(bound.indicator_id.get(row))?),
            Shape::Edge => RowId::Parts(StixType::Relationship.as_str(), own(bound.id.get(row))?),
            Shape::Definition(StixType::MarkingDefinition) => {
                definition::marking::<M>(bound, row)?;
                RowId::Parts(StixType::MarkingDefinition.as_str(), *bound.id.get(row)?)
            }
            Shape::Definition(stix_type) => RowId::Parts(stix_type.as_str(), *bound.id.get(row)?),
        })
    }

    /// Appends the bare text.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            RowId::Whole(text) => out.extend_from_slice(text.as_bytes()),
            RowId::Parts(stix_type, uuid) => {
                out.extend_from_slice(stix_type.as_bytes());
                out.extend_from_slice(b"--");
                write_uuid(uuid, out);
            }
        }
    }

    /// Appends the text as the inside of a JSON string.
    pub(super) fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            RowId::Whole(whole) => text::escape_into(whole, out),
            RowId::Parts(stix_type, uuid) => {
                text::escape_into(stix_type, out);
                out.extend_from_slice(b"--");
                write_uuid(uuid, out);
            }
        }
    }

    /// Appends the member `id` and its comma.
    pub(super) fn member_into(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#""id":""#);
        self.write_json(out);
        out.extend_from_slice(b"\",");
    }
}
