//! Values of one column, from their binary form into an Arrow array.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanArray, BooleanBufferBuilder, FixedSizeBinaryArray, ListArray, NullBufferBuilder, PrimitiveArray,
    StringBuilder,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type, i256,
};

use super::numeric;
use super::texts::{Texts, utf8};
use super::types::{Kind, PgType};
use crate::data::Type;
use crate::failure::Failure;

/// Days from 1970-01-01 to 2000-01-01, where PostgreSQL counts from.
pub(super) const EPOCH_DAYS: i32 = 10_957;
/// The same in microseconds.
pub(super) const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The values of one column so far.
pub(super) struct Values {
    form: Form,
    nulls: NullBufferBuilder,
}

enum Form {
    Bool(BooleanBufferBuilder),
    I8(Vec<i8>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>, Width),
    U64(Vec<u64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Decimal128(Vec<i128>, u8, i8),
    Decimal256(Vec<i256>, u8, i8),
    Number(StringBuilder, String),
    Text(Texts),
    /// Text behind one byte that holds the version of the form.
    Jsonb(StringBuilder),
    Bytes(BinaryBuilder),
    Date(Vec<i32>),
    Time(Vec<i64>),
    Timestamp(Vec<i64>, bool),
    Interval(Vec<IntervalMonthDayNano>),
    Uuid(Vec<u8>),
    List(Box<Values>, Vec<i32>, Type),
}

/// How an unsigned 32-bit integer stands in the wire.
#[derive(Clone, Copy)]
enum Width {
    Four,
    Eight,
}

impl Values {
    /// Values of the PostgreSQL type `from`, as the logical type `to`. The pairs that go together are those of [`PgType::logical`], and
    /// those that the sink makes: the logical types PostgreSQL lacks, in the type that holds them.
    pub(super) fn new(from: &PgType, to: &Type) -> Result<Self, Failure> {
        let form = match (&from.kind, to) {
            (Kind::Bool, Type::Bool) => Form::Bool(BooleanBufferBuilder::new(0)),
            (Kind::Int2, Type::Int(8)) => Form::I8(Vec::new()),
            (Kind::Int2, Type::UInt(8)) => Form::U8(Vec::new()),
            (Kind::Int2, Type::Int(16)) => Form::I16(Vec::new()),
            (Kind::Int4, Type::UInt(16)) => Form::U16(Vec::new()),
            (Kind::Int4, Type::Int(32)) => Form::I32(Vec::new()),
            (Kind::Int8, Type::UInt(32)) => Form::U32(Vec::new(), Width::Eight),
            (Kind::Oid, Type::UInt(32)) => Form::U32(Vec::new(), Width::Four),
            (Kind::Int8, Type::Int(64)) => Form::I64(Vec::new()),
            (Kind::Numeric(_), Type::UInt(64)) => Form::U64(Vec::new()),
            (Kind::Float4, Type::Float(32)) => Form::F32(Vec::new()),
            (Kind::Float8, Type::Float(64)) => Form::F64(Vec::new()),
            (Kind::Numeric(_), Type::Decimal(precision, scale)) if *precision <= 38 => Form::Decimal128(Vec::new(), *precision, *scale),
            (Kind::Numeric(_), Type::Decimal(precision, scale)) => Form::Decimal256(Vec::new(), *precision, *scale),
            (Kind::Numeric(_), Type::Number) => Form::Number(StringBuilder::new(), String::new()),
            (Kind::Text | Kind::Json | Kind::Enum(_), Type::Text | Type::Json | Type::Enum(_)) => Form::Text(Texts::new()),
            (Kind::Jsonb, Type::Json) => Form::Jsonb(StringBuilder::new()),
            (Kind::Bytea, Type::Bytes) | (Kind::Opaque, Type::Native { .. }) => Form::Bytes(BinaryBuilder::new()),
            (Kind::Date, Type::Date) => Form::Date(Vec::new()),
            (Kind::Time, Type::Time) => Form::Time(Vec::new()),
            (Kind::Timestamp, Type::Timestamp) => Form::Timestamp(Vec::new(), false),
            (Kind::TimestampTz, Type::TimestampTz) => Form::Timestamp(Vec::new(), true),
            (Kind::Interval, Type::Interval) => Form::Interval(Vec::new()),
            (Kind::Uuid, Type::Uuid) => Form::Uuid(Vec::new()),
            (Kind::Array(item), Type::Array(to)) => Form::List(Box::new(Self::new(item, to)?), vec![0], (**to).clone()),
            _ => return Err(Failure::permanent(format!("PostgreSQL's {} cannot be read as {to}", from.name))),
        };
        Ok(Self { form, nulls: NullBufferBuilder::new(0) })
    }

    /// Appends NULL.
    pub(super) fn push_null(&mut self) {
        match &mut self.form {
            Form::Bool(values) => values.append(false),
            Form::I8(values) => values.push(0),
            Form::I16(values) => values.push(0),
            Form::I32(values) | Form::Date(values) => values.push(0),
            Form::I64(values) | Form::Time(values) | Form::Timestamp(values, _) => values.push(0),
            Form::U8(values) => values.push(0),
            Form::U16(values) => values.push(0),
            Form::U32(values, _) => values.push(0),
            Form::U64(values) => values.push(0),
            Form::F32(values) => values.push(0.0),
            Form::F64(values) => values.push(0.0),
            Form::Decimal128(values, ..) => values.push(0),
            Form::Decimal256(values, ..) => values.push(i256::ZERO),
            Form::Text(values) => values.push(&[]),
            Form::Number(values, _) | Form::Jsonb(values) => return values.append_null(),
            Form::Bytes(values) => return values.append_null(),
            Form::Interval(values) => values.push(IntervalMonthDayNano::ZERO),
            Form::Uuid(values) => values.extend_from_slice(&[0; 16]),
            Form::List(items, offsets, _) => offsets.push(items.len()),
        }
        self.nulls.append_null();
    }

    /// Appends a value. An error says why it is none of the column's type; the caller then appends NULL in its place.
    pub(super) fn push(&mut self, wire: &[u8]) -> Result<(), String> {
        match &mut self.form {
            Form::Bool(values) => values.append(fixed::<1>(wire)? != [0]),
            Form::I8(values) => values.push(narrow(i16::from_be_bytes(fixed(wire)?))?),
            Form::I16(values) => values.push(i16::from_be_bytes(fixed(wire)?)),
            Form::I32(values) => values.push(i32::from_be_bytes(fixed(wire)?)),
            Form::I64(values) => values.push(i64::from_be_bytes(fixed(wire)?)),
            Form::U8(values) => values.push(narrow(i16::from_be_bytes(fixed(wire)?))?),
            Form::U16(values) => values.push(narrow(i32::from_be_bytes(fixed(wire)?))?),
            Form::U32(values, Width::Four) => values.push(u32::from_be_bytes(fixed(wire)?)),
            Form::U32(values, Width::Eight) => values.push(narrow(i64::from_be_bytes(fixed(wire)?))?),
            Form::U64(values) => values.push(narrow(numeric::to_i128(wire, 20, 0)?)?),
            Form::F32(values) => values.push(f32::from_be_bytes(fixed(wire)?)),
            Form::F64(values) => values.push(f64::from_be_bytes(fixed(wire)?)),
            Form::Decimal128(values, precision, scale) => values.push(numeric::to_i128(wire, *precision, *scale)?),
            Form::Decimal256(values, precision, scale) => values.push(numeric::to_i256(wire, *precision, *scale)?),
            Form::Number(values, text) => {
                text.clear();
                numeric::write_text(wire, text)?;
                values.append_value(&text);
                return Ok(());
            }
            Form::Text(values) => values.push(wire),
            Form::Jsonb(values) => {
                let (version, text) = wire.split_first().ok_or("it is empty")?;
                if *version != 1 {
                    return Err(format!("version {version} of jsonb is unknown"));
                }
                values.append_value(utf8(text)?);
                return Ok(());
            }
            Form::Bytes(values) => {
                values.append_value(wire);
                return Ok(());
            }
            Form::Date(values) => values.push(date(i32::from_be_bytes(fixed(wire)?))?),
            Form::Time(values) => values.push(i64::from_be_bytes(fixed(wire)?)),
            Form::Timestamp(values, _) => values.push(timestamp(i64::from_be_bytes(fixed(wire)?))?),
            Form::Interval(values) => values.push(interval(fixed(wire)?)?),
            Form::Uuid(values) => values.extend_from_slice(&fixed::<16>(wire)?),
            Form::List(items, offsets, _) => {
                items.push_array(wire)?;
                offsets.push(items.len());
            }
        }
        self.nulls.append_non_null();
        Ok(())
    }

    /// Appends the items of an array. After an error some of them stand there; the NULL that takes the array's place then spans them.
    fn push_array(&mut self, wire: &[u8]) -> Result<(), String> {
        const MALFORMED: &str = "it is no well-formed array";
        let (dimensions, rest) = wire.split_first_chunk::<4>().ok_or(MALFORMED)?;
        let (_has_null_and_type, rest) = rest.split_first_chunk::<8>().ok_or(MALFORMED)?;
        match i32::from_be_bytes(*dimensions) {
            0 => return Ok(()),
            1 => {}
            more => {
                return Err(format!(
                    "an array of {more} dimensions has no flat form; read the column as text in a query: `select \"c\"::text`"
                ));
            }
        }
        let (length, rest) = rest.split_first_chunk::<4>().ok_or(MALFORMED)?;
        let (lower, mut rest) = rest.split_first_chunk::<4>().ok_or(MALFORMED)?;
        if i32::from_be_bytes(*lower) != 1 {
            return Err(
                "an array that does not start at index 1 would lose its bounds; read the column as text in a query: `select \"c\"::text`"
                    .to_owned(),
            );
        }
        for _ in 0..i32::from_be_bytes(*length) {
            match take_item(&mut rest)? {
                None => self.push_null(),
                Some(item) => {
                    // Texts are checked at the end of the batch, where an item no longer knows its row.
                    if let Form::Text(_) = self.form {
                        utf8(item)?;
                    }
                    self.push(item)?;
                }
            }
        }
        Ok(())
    }

    fn len(&self) -> i32 {
        let length = match &self.form {
            Form::Number(values, _) | Form::Jsonb(values) => values.offsets_slice().len() - 1,
            Form::Bytes(values) => values.offsets_slice().len() - 1,
            _ => self.nulls.len(),
        };
        // A batch holds less than 2 GiB, so it has fewer items than that.
        i32::try_from(length).unwrap_or(i32::MAX)
    }

    /// The array of all values, which are then forgotten. `refuse` is told the rows whose value turns out to be none, and why; they hold NULL.
    pub(super) fn finish(&mut self, refuse: &mut dyn FnMut(usize, String)) -> ArrayRef {
        let nulls = match &self.form {
            Form::Number(..) | Form::Jsonb(_) | Form::Bytes(_) => None,
            _ => self.nulls.finish(),
        };
        fn primitive<T: ArrowPrimitiveType>(values: &mut Vec<T::Native>, nulls: Option<arrow::buffer::NullBuffer>) -> PrimitiveArray<T> {
            let capacity = values.len();
            PrimitiveArray::new(ScalarBuffer::from(std::mem::replace(values, Vec::with_capacity(capacity))), nulls)
        }
        match &mut self.form {
            Form::Bool(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Form::I8(values) => Arc::new(primitive::<Int8Type>(values, nulls)),
            Form::I16(values) => Arc::new(primitive::<Int16Type>(values, nulls)),
            Form::I32(values) => Arc::new(primitive::<Int32Type>(values, nulls)),
            Form::I64(values) => Arc::new(primitive::<Int64Type>(values, nulls)),
            Form::U8(values) => Arc::new(primitive::<UInt8Type>(values, nulls)),
            Form::U16(values) => Arc::new(primitive::<UInt16Type>(values, nulls)),
            Form::U32(values, _) => Arc::new(primitive::<UInt32Type>(values, nulls)),
            Form::U64(values) => Arc::new(primitive::<UInt64Type>(values, nulls)),
            Form::F32(values) => Arc::new(primitive::<Float32Type>(values, nulls)),
            Form::F64(values) => Arc::new(primitive::<Float64Type>(values, nulls)),
            Form::Decimal128(values, precision, scale) => {
                Arc::new(primitive::<Decimal128Type>(values, nulls).with_data_type(DataType::Decimal128(*precision, *scale)))
            }
            Form::Decimal256(values, precision, scale) => {
                Arc::new(primitive::<Decimal256Type>(values, nulls).with_data_type(DataType::Decimal256(*precision, *scale)))
            }
            Form::Text(values) => Arc::new(values.finish(nulls, refuse)),
            Form::Number(values, _) | Form::Jsonb(values) => {
                // The next batch is likely to be as large.
                let next = StringBuilder::with_capacity(values.offsets_slice().len(), values.values_slice().len());
                Arc::new(std::mem::replace(values, next).finish())
            }
            Form::Bytes(values) => {
                let next = BinaryBuilder::with_capacity(values.offsets_slice().len(), values.values_slice().len());
                Arc::new(std::mem::replace(values, next).finish())
            }
            Form::Date(values) => Arc::new(primitive::<Date32Type>(values, nulls)),
            Form::Time(values) => Arc::new(primitive::<Time64MicrosecondType>(values, nulls)),
            Form::Timestamp(values, zoned) => {
                let array = primitive::<TimestampMicrosecondType>(values, nulls);
                Arc::new(if *zoned { array.with_timezone("UTC") } else { array })
            }
            Form::Interval(values) => Arc::new(primitive::<IntervalMonthDayNanoType>(values, nulls)),
            Form::Uuid(values) => Arc::new(FixedSizeBinaryArray::new(16, Buffer::from_vec(std::mem::take(values)), nulls)),
            Form::List(items, offsets, item) => {
                let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])));
                let DataType::List(field) = Type::Array(Box::new(item.clone())).to_arrow() else {
                    unreachable!("the Arrow type of an array is a list");
                };
                Arc::new(ListArray::new(field, offsets, items.finish(refuse), nulls))
            }
        }
    }
}

fn fixed<const N: usize>(wire: &[u8]) -> Result<[u8; N], String> {
    wire.try_into().map_err(|_| format!("it has {} bytes where {N} were expected", wire.len()))
}

fn narrow<T: Copy + std::fmt::Display, N: TryFrom<T>>(value: T) -> Result<N, String> {
    N::try_from(value).map_err(|_| format!("{value} is out of range"))
}

fn date(days: i32) -> Result<i32, String> {
    match days {
        // The infinities are the same in Arrow as in the wire.
        i32::MAX | i32::MIN => Ok(days),
        _ => days.checked_add(EPOCH_DAYS).ok_or_else(|| format!("day {days} after 2000-01-01 is out of range")),
    }
}

fn timestamp(micros: i64) -> Result<i64, String> {
    match micros {
        i64::MAX | i64::MIN => Ok(micros),
        // The very last microsecond would read as infinity.
        _ => micros
            .checked_add(EPOCH_MICROS)
            .filter(|micros| *micros != i64::MAX)
            .ok_or_else(|| "a time after the year 294246 is out of range".to_owned()),
    }
}

fn interval(wire: [u8; 16]) -> Result<IntervalMonthDayNano, String> {
    let wire = i128::from_be_bytes(wire);
    let (micros, days, months) = ((wire >> 64) as i64, (wire >> 32) as i32, wire as i32);
    let nanos = micros.checked_mul(1000).ok_or("more than 292 years in hours are out of range")?;
    Ok(IntervalMonthDayNano::new(months, days, nanos))
}

fn take_item<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, &'static str> {
    let (length, after) = rest.split_first_chunk::<4>().ok_or("an array ends too early")?;
    let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
        *rest = after;
        return Ok(None);
    };
    let (item, after) = after.split_at_checked(length).ok_or("an array ends too early")?;
    *rest = after;
    Ok(Some(item))
}
