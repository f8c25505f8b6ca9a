//! Our scalar functions. They compare in any case, take `*` and `?`, look into lists and JSON, and never answer null.
//!
//! ```sql
//! text_match(column, 'op', 'literal', …)
//! list_match(column, 'op', 'literal', …)          any element matches
//! json_match(column, 'path.to.key', 'op', 'literal', …)
//! ```
//! Operations are `eq`, `like`, `contains`, `gt`, `ge`, `lt`, `le` (one of the literals must match) and `empty`
//! (missing, null, or without content; no literals). In JSON, lists met on the way or at the end match by any element,
//! an object at the end by any scalar inside, a key is spelled as in the path or in lower case, and a path ending in
//! `#` stands for the number of elements. Numbers and flags of JSON, and dates, also compare as such; text that looks
//! like a number does in `gt`, `ge`, `lt` and `le`. Text that is not JSON matches nothing.

use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArray};
use arrow::buffer::BooleanBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int32Type};
use datafusion::common::{Result, ScalarValue, plan_datafusion_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::matcher::{Matcher, Number, Op};
use super::rule::Function;
use crate::model::schema::text_list_type;

/// Our functions, to register in a session so that the SQL text of a query runs there.
pub fn functions() -> Vec<ScalarUDF> {
    [Function::Text, Function::List, Function::Json].map(|function| function_of(function).as_ref().clone()).to_vec()
}

/// The function's shared instance.
pub(super) fn function_of(function: Function) -> Arc<ScalarUDF> {
    static TEXT: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| instance(Function::Text));
    static LIST: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| instance(Function::List));
    static JSON: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| instance(Function::Json));
    Arc::clone(match function {
        Function::Text => &TEXT,
        Function::List => &LIST,
        Function::Json => &JSON,
    })
}

fn instance(function: Function) -> Arc<ScalarUDF> {
    let signature = Signature::variadic_any(Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(MatchFunction { function, signature }))
}

/// Segment of a path that stands for the number of elements.
pub(super) const COUNT: &str = "#";

#[derive(Debug, PartialEq, Eq, Hash)]
struct MatchFunction {
    function: Function,
    signature: Signature,
}

/// What the literal arguments say.
struct Call {
    path: Vec<Segment>,
    counts: bool,
    op: Op,
    matcher: Matcher,
}

impl MatchFunction {
    fn call<'a>(&self, literals: impl Iterator<Item = Option<&'a ScalarValue>>) -> Result<Call> {
        let name = self.name();
        let texts: Option<Vec<&str>> = literals.map(|literal| literal.and_then(|l| l.try_as_str().flatten())).collect();
        let Some(texts) = texts else {
            return Err(plan_datafusion_err!("every argument of `{name}` after the first must be a text literal"));
        };
        let json = self.function == Function::Json;
        let (path, rest) = match texts.split_first() {
            Some((path, rest)) if json => (*path, rest),
            _ => ("", texts.as_slice()),
        };
        let Some((op_name, literals)) = rest.split_first() else {
            return Err(plan_datafusion_err!("`{name}` lacks its operation; write it like `{}`", self.usage()));
        };
        let Some(op) = Op::from_name(op_name) else {
            let known = Op::ALL.map(Op::name).join("`, `");
            return Err(plan_datafusion_err!("`{op_name}` is no operation of `{name}`; use one of `{known}`"));
        };
        if literals.is_empty() != (op == Op::Empty) {
            return Err(plan_datafusion_err!(
                "`{name}` with `{op_name}` takes {}",
                if op == Op::Empty { "no literals" } else { "at least one literal" }
            ));
        }
        let mut path: Vec<Segment> = path.split('.').filter(|key| !key.is_empty()).map(Segment::new).collect();
        let counts = path.pop_if(|last| last.key == COUNT).is_some();
        Ok(Call { path, counts, op, matcher: Matcher::new(op, literals, json) })
    }

    fn usage(&self) -> &'static str {
        match self.function {
            Function::Text => "text_match(description, 'contains', 'word')",
            Function::List => "list_match(tags, 'eq', 'word')",
            Function::Json => "json_match(custom, 'key', 'eq', 'word')",
        }
    }
}

impl ScalarUDFImpl for MatchFunction {
    fn name(&self) -> &str {
        match self.function {
            Function::Text => "text_match",
            Function::List => "list_match",
            Function::Json => "json_match",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.call(args.scalar_arguments.iter().skip(1).copied())?;
        let Some(first) = args.arg_fields.first() else {
            return Err(plan_datafusion_err!("`{}` needs a column; write it like `{}`", self.name(), self.usage()));
        };
        let list = matches!(
            first.data_type(),
            DataType::List(_) | DataType::LargeList(_) | DataType::ListView(_) | DataType::LargeListView(_)
        );
        if list != (self.function == Function::List) && !first.data_type().is_null() {
            let wanted = if list { "text, not a list" } else { "a list" };
            return Err(plan_datafusion_err!("the first argument of `{}` must be {wanted}", self.name()));
        }
        Ok(Arc::new(Field::new(self.name(), DataType::Boolean, false)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut call = self.call(args.args.iter().skip(1).map(|argument| match argument {
            ColumnarValue::Scalar(literal) => Some(literal),
            ColumnarValue::Array(_) => None,
        }))?;
        let Some(column) = args.args.first() else {
            return Err(plan_datafusion_err!("`{}` needs a column", self.name()));
        };
        let evaluate = |array: &ArrayRef, call: &mut Call| match self.function {
            Function::Text => text_rows(array, |text| call.text(text)),
            Function::List => list_rows(array, call),
            Function::Json => text_rows(array, |text| call.json(text)),
        };
        match column {
            ColumnarValue::Array(array) => Ok(ColumnarValue::Array(Arc::new(evaluate(array, &mut call)?))),
            ColumnarValue::Scalar(value) => {
                let one = evaluate(&value.to_array_of_size(1)?, &mut call)?;
                Ok(ColumnarValue::Scalar(ScalarValue::Boolean(Some(one.value(0)))))
            }
        }
    }
}

/// Answers for text, plain or as a dictionary; of a dictionary each entry is looked at once.
fn text_rows(array: &ArrayRef, mut test: impl FnMut(Option<&str>) -> bool) -> Result<BooleanArray> {
    if let Some(dictionary) = array.as_dictionary_opt::<Int32Type>() {
        let of_null = test(None);
        let of_entry = text_rows(dictionary.values(), test)?;
        let keys = dictionary.keys().iter();
        let answers = keys.map(|key| match key.and_then(|key| usize::try_from(key).ok()) {
            Some(key) => of_entry.value(key),
            None => of_null,
        });
        return Ok(BooleanArray::new(BooleanBuffer::from_iter(answers), None));
    }
    let converted;
    let texts: &StringArray = match array.as_string_opt::<i32>() {
        Some(texts) => texts,
        None => {
            converted = cast(array, &DataType::Utf8)?;
            converted.as_string()
        }
    };
    Ok(BooleanArray::new(BooleanBuffer::from_iter(texts.iter().map(test)), None))
}

fn list_rows(array: &ArrayRef, call: &mut Call) -> Result<BooleanArray> {
    let converted;
    let array = match array.data_type() {
        DataType::List(item) if *item.data_type() == DataType::Utf8 => array,
        _ => {
            converted = cast(array, &text_list_type())?;
            &converted
        }
    };
    let lists = array.as_list::<i32>();
    let items = lists.values().as_string::<i32>();
    let mut row = |index: usize| {
        let offsets = lists.value_offsets();
        let range = if lists.is_null(index) { 0..0 } else { offsets[index] as usize..offsets[index + 1] as usize };
        let mut texts = range.filter(|item| items.is_valid(*item)).map(|item| items.value(item));
        match call.op {
            Op::Empty => !texts.any(|text| !text.is_empty()),
            _ => texts.any(|text| call.matcher.text(text)),
        }
    };
    let answers: BooleanBuffer = (0..lists.len()).map(&mut row).collect();
    Ok(BooleanArray::new(answers, None))
}

impl Call {
    fn text(&mut self, text: Option<&str>) -> bool {
        match (self.op, text) {
            (Op::Empty, text) => text.is_none_or(str::is_empty),
            (_, Some(text)) => self.matcher.text(text),
            (_, None) => false,
        }
    }

    fn json(&mut self, text: Option<&str>) -> bool {
        let mut found = Found {
            matcher: &mut self.matcher,
            op: self.op,
            counts: self.counts,
            matched: false,
            present: false,
            elements: 0,
        };
        if let Some(text) = text {
            // Most documents lack most keys: look before walking, where absence is the answer no.
            let absence_is_no = !self.counts && self.op != Op::Empty;
            if absence_is_no && self.path.first().is_some_and(|first| !first.may_be_in(text)) {
                return false;
            }
            let mut json = serde_json::Deserializer::from_str(text);
            let walk = Walk { path: &self.path, found: &mut found };
            if walk.deserialize(&mut json).is_err() || json.end().is_err() {
                return false;
            }
        }
        match found.op {
            Op::Empty => !found.present,
            _ if found.counts => found.matcher.number(Number::Integer(found.elements)),
            _ => found.matched,
        }
    }
}

/// A key of a path.
struct Segment {
    key: String,
    lower: String,
    quoted: String,
    quoted_lower: String,
}

impl Segment {
    fn new(key: &str) -> Self {
        let lower = key.to_lowercase();
        Segment { quoted: format!("\"{key}\""), quoted_lower: format!("\"{lower}\""), key: key.to_owned(), lower }
    }

    fn is(&self, key: &str) -> bool {
        key == self.key || key == self.lower
    }

    /// False only if no key of the JSON text can be this one; a text with `\u` may spell it that way.
    fn may_be_in(&self, json: &str) -> bool {
        json.contains(&self.quoted_lower) || json.contains(&self.quoted) || json.contains("\\u")
    }
}

/// What a walk over one JSON text has seen.
struct Found<'a> {
    matcher: &'a mut Matcher,
    op: Op,
    counts: bool,
    matched: bool,
    present: bool,
    elements: i128,
}

impl Found<'_> {
    /// Nothing left to learn: the rest of the text is only checked to be JSON.
    fn is_settled(&self) -> bool {
        self.matched || (self.op == Op::Empty && self.present)
    }
}

/// Walks JSON without building it, along a path.
struct Walk<'p, 'f, 'm> {
    path: &'p [Segment],
    found: &'f mut Found<'m>,
}

impl Walk<'_, '_, '_> {
    fn scalar(self, has_content: bool, test: impl FnOnce(&mut Matcher) -> bool) {
        if !self.path.is_empty() || !has_content {
            return;
        }
        self.found.present = true;
        if self.found.counts {
            self.found.elements += 1;
        } else if !self.found.matched {
            self.found.matched = test(self.found.matcher);
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> std::result::Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, flag: bool) -> std::result::Result<(), E> {
        self.scalar(true, |matcher| matcher.flag(flag));
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> std::result::Result<(), E> {
        self.scalar(true, |matcher| matcher.number(Number::Integer(number.into())));
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> std::result::Result<(), E> {
        self.scalar(true, |matcher| matcher.number(Number::Integer(number.into())));
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> std::result::Result<(), E> {
        self.scalar(true, |matcher| matcher.number(Number::Float(number)));
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<(), E> {
        self.scalar(!text.is_empty(), |matcher| matcher.text(text));
        Ok(())
    }

    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        let before = self.found.elements;
        let mut length = 0;
        loop {
            let element = if self.found.is_settled() {
                list.next_element::<IgnoredAny>()?.map(drop)
            } else {
                list.next_element_seed(Walk { path: self.path, found: self.found })?
            };
            if element.is_none() {
                break;
            }
            length += 1;
        }
        // A list at the path's end counts its elements, whatever they hold.
        if self.path.is_empty() {
            self.found.elements = before + length;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let here = self.path.first();
        let below = self.path.get(1..).unwrap_or_default();
        while let Some(wanted) = map.next_key_seed(IsKey(here))? {
            if wanted && !self.found.is_settled() {
                map.next_value_seed(Walk { path: below, found: self.found })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Whether a key is the one of the segment; at the end of the path every key is.
struct IsKey<'s>(Option<&'s Segment>);

impl<'de> DeserializeSeed<'de> for IsKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> std::result::Result<bool, D::Error> {
        key.deserialize_str(self)
    }
}

impl Visitor<'_> for IsKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> std::result::Result<bool, E> {
        Ok(self.0.is_none_or(|segment| segment.is(key)))
    }
}
