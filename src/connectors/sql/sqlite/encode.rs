//! From Arrow to SQLite: a batch's columns as cells that bind to a statement.

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, FixedSizeBinaryArray, ListArray, PrimitiveArray, StringArray};
use arrow::datatypes::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use rusqlite::types::{ToSqlOutput, ValueRef};

use super::text;
use super::types::Affinity;
use super::value::NEGATIVE_ZERO;
use crate::data::Type;

/// One column of a batch, ready to be written row by row.
pub(super) struct Cells<'a> {
    array: &'a ArrayRef,
    kind: Kind<'a>,
    affinity: Affinity,
    scratch: String,
}

enum Kind<'a> {
    Bool(&'a BooleanArray),
    Int8(&'a PrimitiveArray<Int8Type>),
    Int16(&'a PrimitiveArray<Int16Type>),
    Int32(&'a PrimitiveArray<Int32Type>),
    Int64(&'a PrimitiveArray<Int64Type>),
    UInt8(&'a PrimitiveArray<UInt8Type>),
    UInt16(&'a PrimitiveArray<UInt16Type>),
    UInt32(&'a PrimitiveArray<UInt32Type>),
    UInt64(&'a PrimitiveArray<UInt64Type>),
    Float32(&'a PrimitiveArray<Float32Type>),
    Float64(&'a PrimitiveArray<Float64Type>),
    Decimal128(&'a PrimitiveArray<Decimal128Type>, i8),
    Decimal256(&'a PrimitiveArray<Decimal256Type>, i8),
    Text(&'a StringArray),
    Bytes(&'a BinaryArray),
    Date(&'a PrimitiveArray<Date32Type>),
    Time(&'a PrimitiveArray<Time64MicrosecondType>),
    Timestamp(&'a PrimitiveArray<TimestampMicrosecondType>),
    TimestampTz(&'a PrimitiveArray<TimestampMicrosecondType>),
    Interval(&'a PrimitiveArray<IntervalMonthDayNanoType>),
    Uuid(&'a FixedSizeBinaryArray),
    Array(&'a ListArray, &'a Type),
}

impl<'a> Cells<'a> {
    /// A column of a logical type, on its way into a column of that affinity.
    pub(super) fn new(ty: &'a Type, array: &'a ArrayRef, affinity: Affinity) -> Self {
        let kind = match ty {
            Type::Bool => Kind::Bool(array.as_boolean()),
            Type::Int(8) => Kind::Int8(array.as_primitive()),
            Type::Int(16) => Kind::Int16(array.as_primitive()),
            Type::Int(32) => Kind::Int32(array.as_primitive()),
            Type::Int(_) => Kind::Int64(array.as_primitive()),
            Type::UInt(8) => Kind::UInt8(array.as_primitive()),
            Type::UInt(16) => Kind::UInt16(array.as_primitive()),
            Type::UInt(32) => Kind::UInt32(array.as_primitive()),
            Type::UInt(_) => Kind::UInt64(array.as_primitive()),
            Type::Float(32) => Kind::Float32(array.as_primitive()),
            Type::Float(_) => Kind::Float64(array.as_primitive()),
            Type::Decimal(precision, scale) if *precision <= 38 => Kind::Decimal128(array.as_primitive(), *scale),
            Type::Decimal(_, scale) => Kind::Decimal256(array.as_primitive(), *scale),
            Type::Number | Type::Text | Type::Json | Type::Enum(_) => Kind::Text(array.as_string()),
            Type::Bytes | Type::Native { .. } => Kind::Bytes(array.as_binary()),
            Type::Date => Kind::Date(array.as_primitive()),
            Type::Time => Kind::Time(array.as_primitive()),
            Type::Timestamp => Kind::Timestamp(array.as_primitive()),
            Type::TimestampTz => Kind::TimestampTz(array.as_primitive()),
            Type::Interval => Kind::Interval(array.as_primitive()),
            Type::Uuid => Kind::Uuid(array.as_fixed_size_binary()),
            Type::Array(item) => Kind::Array(array.as_list(), item),
        };
        Self { array, kind, affinity, scratch: String::new() }
    }

    pub(super) fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    /// The value of one row as SQLite takes it; it lives until the next call.
    pub(super) fn value(&mut self, row: usize) -> ToSqlOutput<'_> {
        ToSqlOutput::Borrowed(if self.array.is_null(row) { ValueRef::Null } else { self.value_ref(row) })
    }

    fn value_ref(&mut self, row: usize) -> ValueRef<'_> {
        let out = &mut self.scratch;
        out.clear();
        match &self.kind {
            Kind::Bool(array) => return ValueRef::Integer(i64::from(array.value(row))),
            Kind::Int8(array) => return small(array, row),
            Kind::Int16(array) => return small(array, row),
            Kind::Int32(array) => return small(array, row),
            Kind::Int64(array) => return small(array, row),
            Kind::UInt8(array) => return small(array, row),
            Kind::UInt16(array) => return small(array, row),
            Kind::UInt32(array) => return small(array, row),
            Kind::UInt64(array) => push(out, array.value(row)),
            Kind::Float32(array) => {
                let value = array.value(row);
                match float(f64::from(value), self.affinity) {
                    Some(value) => return value,
                    None => push(out, value),
                }
            }
            Kind::Float64(array) => match float(array.value(row), self.affinity) {
                Some(value) => return value,
                None => push(out, array.value(row)),
            },
            Kind::Decimal128(array, scale) => write_decimal(out, &array.value(row).to_string(), *scale),
            Kind::Decimal256(array, scale) => write_decimal(out, &array.value(row).to_string(), *scale),
            Kind::Text(array) => return ValueRef::Text(array.value(row).as_bytes()),
            Kind::Bytes(array) => return ValueRef::Blob(array.value(row)),
            Kind::Date(array) => text::write_date(out, array.value(row)),
            Kind::Time(array) => text::write_time(out, array.value(row)),
            Kind::Timestamp(array) => text::write_timestamp(out, array.value(row)),
            Kind::TimestampTz(array) => text::write_timestamp_tz(out, array.value(row)),
            Kind::Interval(array) => {
                let value = array.value(row);
                text::write_interval(out, value.months, value.days, value.nanoseconds);
            }
            Kind::Uuid(array) => text::write_uuid(out, array.value(row)),
            Kind::Array(array, item) => write_array(out, &array.value(row), item),
        }
        ValueRef::Text(self.scratch.as_bytes())
    }
}

fn small<T: ArrowPrimitiveType>(array: &PrimitiveArray<T>, row: usize) -> ValueRef<'static>
where
    T::Native: Into<i64>,
{
    ValueRef::Integer(array.value(row).into())
}

/// SQLite turns NaN into NULL, and a numeric column turns -0.0 into 0: both become texts. A column for text would round a float to 15
/// digits: `None` asks for its shortest exact text instead.
fn float(value: f64, affinity: Affinity) -> Option<ValueRef<'static>> {
    if value.is_nan() {
        Some(ValueRef::Text(b"NaN"))
    } else if affinity == Affinity::Text {
        None
    } else if value == 0.0 && value.is_sign_negative() && affinity.numeric() {
        Some(ValueRef::Text(NEGATIVE_ZERO.as_bytes()))
    } else {
        Some(ValueRef::Real(value))
    }
}

fn push(out: &mut String, value: impl std::fmt::Display) {
    use std::fmt::Write;
    // Writing to a string cannot fail.
    let _ = write!(out, "{value}");
}

/// Puts the point into the digits of an unscaled value.
fn write_decimal(out: &mut String, unscaled: &str, scale: i8) {
    let (sign, digits) = unscaled.strip_prefix('-').map_or(("", unscaled), |digits| ("-", digits));
    let scale = scale.unsigned_abs() as usize;
    out.push_str(sign);
    if scale == 0 {
        out.push_str(digits);
    } else if digits.len() > scale {
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        out.push_str(whole);
        out.push('.');
        out.push_str(fraction);
    } else {
        out.push_str("0.");
        (digits.len()..scale).for_each(|_| out.push('0'));
        out.push_str(digits);
    }
}

/// A JSON array: numbers and truth as such, everything else as its text; bytes in hexadecimal digits, inner arrays as arrays. A float that
/// JSON has no number for is a text.
fn write_array(out: &mut String, items: &ArrayRef, ty: &Type) {
    let mut cells = Cells::new(ty, items, Affinity::Blob);
    out.push('[');
    for row in 0..items.len() {
        if row > 0 {
            out.push(',');
        }
        if cells.is_null(row) {
            out.push_str("null");
            continue;
        }
        match (cells.value_ref(row), ty) {
            (ValueRef::Integer(value), Type::Bool) => push(out, value == 1),
            (ValueRef::Integer(value), _) => push(out, value),
            (ValueRef::Real(value), Type::Float(32)) if value.is_finite() => push(out, format_args!("{:?}", value as f32)),
            (ValueRef::Real(value), _) if value.is_finite() => push(out, format_args!("{value:?}")),
            (ValueRef::Real(value), _) => push(out, format_args!("\"{value}\"")),
            (ValueRef::Blob(bytes), _) => {
                out.push('"');
                bytes.iter().for_each(|byte| push(out, format_args!("{byte:02x}")));
                out.push('"');
            }
            (ValueRef::Text(bytes), Type::Array(_)) => out.push_str(&String::from_utf8_lossy(bytes)),
            (ValueRef::Text(bytes), _) => push(out, serde_json::Value::from(String::from_utf8_lossy(bytes))),
            (ValueRef::Null, _) => out.push_str("null"),
        }
    }
    out.push(']');
}
