//! Text → one Arrow column of a logical type.

use std::sync::Arc;

use arrow::array::{
    ArrayBuilder, ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Decimal256Builder, FixedSizeBinaryBuilder,
    Float32Builder, Float64Builder, Int8Builder, Int16Builder, Int32Builder, Int64Builder, IntervalMonthDayNanoBuilder, ListArray,
    StringBuilder, Time64MicrosecondBuilder, TimestampMicrosecondBuilder, UInt8Builder, UInt16Builder, UInt32Builder, UInt64Builder,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, i256};

use super::number::{finite_as_written, float_keeps, parts, plain, scaled, short_scaled};
use super::parse::{self, Zone};
use crate::data::Type;

/// Builds one column, value by value. After a refused value the caller appends a NULL in its place.
pub(crate) struct Builder {
    ty: Type,
    strict: bool,
    cells: Cells,
}

enum Cells {
    Bool(BooleanBuilder),
    Int8(Int8Builder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    UInt8(UInt8Builder),
    UInt16(UInt16Builder),
    UInt32(UInt32Builder),
    UInt64(UInt64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Decimal128(Decimal128Builder, u8, i8),
    Decimal256(Decimal256Builder, u8, i8),
    Number(StringBuilder),
    Text(StringBuilder),
    Json(StringBuilder),
    Enum(StringBuilder, Arc<[String]>),
    Bytes(BinaryBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    TimestampTz(TimestampMicrosecondBuilder),
    Interval(IntervalMonthDayNanoBuilder),
    Uuid(FixedSizeBinaryBuilder),
    Array { items: Box<Builder>, ends: Vec<i32>, valid: Vec<bool> },
}

impl Builder {
    /// An empty column. A `strict` one takes only texts that its type does not change, as a column whose type was guessed must: `007` is no
    /// integer then, and a decimal number with more digits than a float keeps is no float.
    pub(crate) fn new(ty: &Type, strict: bool) -> Self {
        let cells = match ty {
            Type::Bool => Cells::Bool(BooleanBuilder::new()),
            Type::Int(8) => Cells::Int8(Int8Builder::new()),
            Type::Int(16) => Cells::Int16(Int16Builder::new()),
            Type::Int(32) => Cells::Int32(Int32Builder::new()),
            Type::Int(_) => Cells::Int64(Int64Builder::new()),
            Type::UInt(8) => Cells::UInt8(UInt8Builder::new()),
            Type::UInt(16) => Cells::UInt16(UInt16Builder::new()),
            Type::UInt(32) => Cells::UInt32(UInt32Builder::new()),
            Type::UInt(_) => Cells::UInt64(UInt64Builder::new()),
            Type::Float(32) => Cells::Float32(Float32Builder::new()),
            Type::Float(_) => Cells::Float64(Float64Builder::new()),
            Type::Decimal(precision, scale) if *precision <= 38 => {
                Cells::Decimal128(Decimal128Builder::new().with_data_type(ty.to_arrow()), *precision, *scale)
            }
            Type::Decimal(precision, scale) => {
                Cells::Decimal256(Decimal256Builder::new().with_data_type(ty.to_arrow()), *precision, *scale)
            }
            Type::Number => Cells::Number(StringBuilder::new()),
            Type::Text => Cells::Text(StringBuilder::new()),
            Type::Json => Cells::Json(StringBuilder::new()),
            Type::Enum(values) => Cells::Enum(StringBuilder::new(), Arc::clone(values)),
            Type::Bytes | Type::Native { .. } => Cells::Bytes(BinaryBuilder::new()),
            Type::Date => Cells::Date(Date32Builder::new()),
            Type::Time => Cells::Time(Time64MicrosecondBuilder::new()),
            Type::Timestamp => Cells::Timestamp(TimestampMicrosecondBuilder::new()),
            Type::TimestampTz => Cells::TimestampTz(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
            Type::Interval => Cells::Interval(IntervalMonthDayNanoBuilder::new()),
            Type::Uuid => Cells::Uuid(FixedSizeBinaryBuilder::new(16)),
            Type::Array(item) => Cells::Array { items: Box::new(Self::new(item, strict)), ends: Vec::new(), valid: Vec::new() },
        };
        Self { ty: ty.clone(), strict, cells }
    }

    /// Appends the value of a text. The error ends the sentence "the value …".
    #[inline]
    pub(crate) fn append(&mut self, text: &str) -> Result<(), String> {
        // The commonest types first, and nothing else in this function, so that it stays small in the loop over a row.
        match &mut self.cells {
            Cells::Text(cells) => {
                cells.append_value(text);
                Ok(())
            }
            Cells::Int64(cells) => match text.parse() {
                Ok(value) if !self.strict || as_printed(text) => {
                    cells.append_value(value);
                    Ok(())
                }
                _ => Err(self.refusal()),
            },
            _ => self.append_rare(text),
        }
    }

    /// Appends the value of a system that keeps bytes as they are, and everything else as text.
    pub(crate) fn append_raw(&mut self, value: &[u8]) -> Result<(), String> {
        if let Cells::Bytes(cells) = &mut self.cells {
            cells.append_value(value);
            return Ok(());
        }
        match std::str::from_utf8(value) {
            Ok(text) => self.append(text),
            Err(_) => Err("is not UTF-8".to_owned()),
        }
    }

    /// Appends a point in time, in microseconds since 1970 UTC, to a column of timestamps.
    pub(crate) fn append_instant(&mut self, micros: i64) -> Result<(), String> {
        match &mut self.cells {
            Cells::Timestamp(cells) | Cells::TimestampTz(cells) => cells.append_value(micros),
            _ => return Err(self.refusal()),
        }
        Ok(())
    }

    fn append_rare(&mut self, text: &str) -> Result<(), String> {
        let strict = self.strict;
        macro_rules! keep {
            ($cells:expr, $value:expr) => {
                match $value {
                    Some(value) => {
                        $cells.append_value(value);
                        return Ok(());
                    }
                    None => {}
                }
            };
        }
        match &mut self.cells {
            Cells::Bool(cells) => keep!(cells, boolean(text).filter(|_| !strict || text.len() > 1)),
            Cells::Int8(cells) => keep!(cells, text.parse().ok()),
            Cells::Int16(cells) => keep!(cells, text.parse().ok()),
            Cells::Int32(cells) => keep!(cells, text.parse().ok()),
            Cells::Int64(cells) => keep!(cells, text.parse().ok()),
            Cells::UInt8(cells) => keep!(cells, text.parse().ok()),
            Cells::UInt16(cells) => keep!(cells, text.parse().ok()),
            Cells::UInt32(cells) => keep!(cells, text.parse().ok()),
            Cells::UInt64(cells) => keep!(cells, text.parse().ok()),
            Cells::Float32(cells) => keep!(cells, text.parse().ok().filter(|value: &f32| finite_as_written(text, value.is_finite()))),
            Cells::Float64(cells) => {
                if let Some(value) = text.parse().ok().filter(|value: &f64| finite_as_written(text, value.is_finite())) {
                    // A zero below zero is a float of its own.
                    if strict && !as_printed(text) && text != "-0" {
                        return Err(self.refusal());
                    }
                    if strict && !float_keeps(text, value) {
                        return Err("has more digits than float64 keeps".to_owned());
                    }
                    cells.append_value(value);
                    return Ok(());
                }
            }
            Cells::Decimal128(cells, precision, scale) => {
                if !strict || as_printed(text) {
                    keep!(cells, short_scaled(text, *precision, *scale));
                }
                if let Some(value) = decimal(text, |parts| scaled(parts, *precision, *scale)).filter(|_| !strict || as_printed(text)) {
                    cells.append_value(value.map_err(|reason| format!("{reason} than {}", self.ty))?);
                    return Ok(());
                }
            }
            Cells::Decimal256(cells, precision, scale) => {
                if let Some(value) = decimal(text, |parts| wide(parts, *precision, *scale)).filter(|_| !strict || as_printed(text)) {
                    cells.append_value(value.map_err(|reason| format!("{reason} than {}", self.ty))?);
                    return Ok(());
                }
            }
            Cells::Number(cells) => {
                keep!(cells, number_word(text).map(str::to_owned).or_else(|| plain(text).filter(|_| !strict || as_printed(text))))
            }
            Cells::Text(cells) => keep!(cells, Some(text)),
            Cells::Json(cells) => keep!(cells, serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok().then_some(text)),
            Cells::Enum(cells, values) => keep!(cells, values.iter().any(|value| value == text).then_some(text)),
            Cells::Bytes(cells) => keep!(cells, parse::bytes(text)),
            Cells::Date(cells) => keep!(cells, parse::date(text.as_bytes())),
            Cells::Time(cells) => keep!(cells, parse::time(text.as_bytes())),
            Cells::Timestamp(cells) => match parse::timestamp(text.as_bytes()) {
                Some((_, Zone::Given)) => return Err("has a zone, and the column is a timestamp without one".to_owned()),
                other => keep!(cells, other.map(|(value, _)| value)),
            },
            Cells::TimestampTz(cells) => match parse::timestamp(text.as_bytes()) {
                Some((_, Zone::Missing)) => return Err("has no zone, and the column is an instant".to_owned()),
                other => keep!(cells, other.map(|(value, _)| value)),
            },
            Cells::Interval(cells) => keep!(cells, parse::interval(text)),
            Cells::Uuid(cells) => {
                if let Ok(uuid) = uuid::Uuid::try_parse(text) {
                    return cells.append_value(uuid.as_bytes()).map_err(|error| error.to_string());
                }
            }
            Cells::Array { .. } => return self.append_array(text),
        }
        Err(self.refusal())
    }

    /// Appends an array from its JSON form; items that are strings hold the text form of the item's type.
    fn append_array(&mut self, text: &str) -> Result<(), String> {
        let refusal = self.refusal();
        let Cells::Array { items, ends, valid } = &mut self.cells else { return Err(refusal) };
        let values = super::json::array_items(text).ok_or(refusal)?;
        for (place, value) in values.iter().enumerate() {
            match value {
                None => items.append_null(),
                // Items before a refused one stay behind as the content of the NULL that the caller appends, where nobody sees them.
                Some(text) => items.append(text).map_err(|reason| format!("{reason} (item {})", place + 1))?,
            }
        }
        ends.push(items.len() as i32);
        valid.push(true);
        Ok(())
    }

    /// Appends a NULL.
    pub(crate) fn append_null(&mut self) {
        match &mut self.cells {
            Cells::Bool(cells) => cells.append_null(),
            Cells::Int8(cells) => cells.append_null(),
            Cells::Int16(cells) => cells.append_null(),
            Cells::Int32(cells) => cells.append_null(),
            Cells::Int64(cells) => cells.append_null(),
            Cells::UInt8(cells) => cells.append_null(),
            Cells::UInt16(cells) => cells.append_null(),
            Cells::UInt32(cells) => cells.append_null(),
            Cells::UInt64(cells) => cells.append_null(),
            Cells::Float32(cells) => cells.append_null(),
            Cells::Float64(cells) => cells.append_null(),
            Cells::Decimal128(cells, ..) => cells.append_null(),
            Cells::Decimal256(cells, ..) => cells.append_null(),
            Cells::Number(cells) | Cells::Text(cells) | Cells::Json(cells) | Cells::Enum(cells, _) => cells.append_null(),
            Cells::Bytes(cells) => cells.append_null(),
            Cells::Date(cells) => cells.append_null(),
            Cells::Time(cells) => cells.append_null(),
            Cells::Timestamp(cells) | Cells::TimestampTz(cells) => cells.append_null(),
            Cells::Interval(cells) => cells.append_null(),
            Cells::Uuid(cells) => cells.append_null(),
            Cells::Array { items, ends, valid } => {
                ends.push(items.len() as i32);
                valid.push(false);
            }
        }
    }

    /// Values so far.
    fn len(&mut self) -> usize {
        if let Cells::Array { ends, .. } = &self.cells { ends.len() } else { self.cells().len() }
    }

    fn cells(&mut self) -> &mut dyn ArrayBuilder {
        match &mut self.cells {
            Cells::Bool(cells) => cells,
            Cells::Int8(cells) => cells,
            Cells::Int16(cells) => cells,
            Cells::Int32(cells) => cells,
            Cells::Int64(cells) => cells,
            Cells::UInt8(cells) => cells,
            Cells::UInt16(cells) => cells,
            Cells::UInt32(cells) => cells,
            Cells::UInt64(cells) => cells,
            Cells::Float32(cells) => cells,
            Cells::Float64(cells) => cells,
            Cells::Decimal128(cells, ..) => cells,
            Cells::Decimal256(cells, ..) => cells,
            Cells::Number(cells) | Cells::Text(cells) | Cells::Json(cells) | Cells::Enum(cells, _) => cells,
            Cells::Bytes(cells) => cells,
            Cells::Date(cells) => cells,
            Cells::Time(cells) => cells,
            Cells::Timestamp(cells) | Cells::TimestampTz(cells) => cells,
            Cells::Interval(cells) => cells,
            Cells::Uuid(cells) => cells,
            Cells::Array { items, .. } => items.cells(),
        }
    }

    /// The column; the builder is empty again.
    pub(crate) fn finish(&mut self) -> ArrayRef {
        if let Cells::Array { items, ends, valid } = &mut self.cells {
            let DataType::List(field) = self.ty.to_arrow() else { unreachable!("an array type is a list in Arrow") };
            let offsets = std::iter::once(0).chain(std::mem::take(ends)).collect::<Vec<i32>>();
            let valid = NullBuffer::from(std::mem::take(valid));
            return Arc::new(ListArray::new(field, OffsetBuffer::new(offsets.into()), items.finish(), Some(valid)));
        }
        self.cells().finish()
    }

    fn refusal(&self) -> String {
        match &self.ty {
            Type::Bytes => "is no bytes (`\\x` and hexadecimal digits)".to_owned(),
            ty => format!("is no {ty}"),
        }
    }
}

/// Whether a number stands as a machine prints it: no plus, no leading zero, no minus before zero. A code such as `007` does not.
fn as_printed(text: &str) -> bool {
    !matches!(text.as_bytes(), [b'+', ..] | [b'0', b'0'..=b'9', ..] | [b'-', b'0', b'0'..=b'9', ..] | b"-0")
}

fn boolean(text: &str) -> Option<bool> {
    const WORDS: [(&str, bool); 6] = [("true", true), ("false", false), ("t", true), ("f", false), ("1", true), ("0", false)];
    WORDS.iter().find(|(word, _)| text.eq_ignore_ascii_case(word)).map(|(_, value)| *value)
}

fn number_word(text: &str) -> Option<&'static str> {
    ["NaN", "Infinity", "-Infinity"].into_iter().find(|word| text.eq_ignore_ascii_case(word))
}

/// Reads a number of any form for a decimal; `None` when it is no number.
fn decimal<V>(text: &str, read: impl Fn(&super::number::Parts<'_>) -> Result<V, &'static str>) -> Option<Result<V, &'static str>> {
    let found = parts(text.as_bytes())?;
    if found.exponent.is_none() {
        return Some(read(&found));
    }
    let text = plain(text)?;
    Some(read(&parts(text.as_bytes())?))
}

fn wide(parts: &super::number::Parts<'_>, precision: u8, scale: i8) -> Result<i256, &'static str> {
    let scale = scale.max(0) as usize;
    let (fraction, beyond) = parts.fraction.split_at(parts.fraction.len().min(scale));
    if beyond.iter().any(|digit| *digit != b'0') {
        return Err("has more digits after the point");
    }
    let whole = &parts.whole[parts.whole.iter().take_while(|digit| **digit == b'0').count()..];
    let mut digits = [whole, fraction].concat();
    digits.resize(whole.len() + scale, b'0');
    if digits.len() > usize::from(precision) && digits.iter().take(digits.len() - usize::from(precision)).any(|digit| *digit != b'0') {
        return Err("has more digits");
    }
    let text = String::from_utf8_lossy(&digits);
    let value = if digits.is_empty() { Some(i256::ZERO) } else { i256::from_string(&text) };
    let value = value.ok_or("has more digits")?;
    Ok(if parts.negative { value.wrapping_neg() } else { value })
}
