//! From SQLite's values to Arrow: every value either fits its column's logical type, or is refused with its row.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanArray, BooleanBuilder, FixedSizeBinaryBuilder, IntervalMonthDayNanoBuilder, PrimitiveBuilder,
    StringBuilder,
};
use arrow::compute::filter;
use arrow::datatypes::{
    Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type, i256,
};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use rusqlite::types::ValueRef;

use super::value::{digits, double, integer, is_json, is_number, narrow, plain, shown, single, size_of_value, unsigned, utf8};
use crate::data::text::parse::{self, Zone};
use crate::data::text::{Builder, DAY_MICROS};
use crate::data::{Schema, Type};
use crate::failure::Failure;

/// A value that does not fit its column.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    pub(super) column: usize,
    /// What the value is, for people, cut when long.
    pub(super) value: String,
}

/// Gathers rows into one batch.
pub(super) struct Decoder {
    schema: Schema,
    columns: Vec<Cells>,
    lenient: bool,
    rows: usize,
    bytes: usize,
    /// Rows of the batch that hold a value that does not fit; their places are filled with NULLs until the batch is made.
    refused: Vec<usize>,
}

impl Decoder {
    /// `lenient` also takes numbers from the texts that a column for text turns them into.
    pub(super) fn new(schema: &Schema, lenient: bool) -> Self {
        let columns = schema.columns.iter().map(|column| Cells::new(&column.ty)).collect();
        Self { schema: schema.clone(), columns, lenient, rows: 0, bytes: 0, refused: Vec::new() }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes one row; `value` gives the value of a column. A row that does not fit is left out of the batch.
    pub(super) fn push<'a>(&mut self, mut value: impl FnMut(usize) -> ValueRef<'a>) -> Result<(), Misfit> {
        let mut misfit = None;
        for (place, cells) in self.columns.iter_mut().enumerate() {
            let value = if misfit.is_some() { ValueRef::Null } else { value(place) };
            self.bytes += size_of_value(value);
            let fits = match value {
                ValueRef::Null => {
                    cells.null();
                    misfit.is_some() || self.schema.columns[place].nullable
                }
                value => {
                    cells.push(value, self.lenient) || {
                        cells.null();
                        false
                    }
                }
            };
            if !fits {
                misfit = Some(Misfit { column: place, value: shown(value) });
            }
        }
        self.rows += 1;
        match misfit {
            None => Ok(()),
            Some(misfit) => {
                self.refused.push(self.rows - 1);
                Err(misfit)
            }
        }
    }

    /// The batch so far, and how many bytes its values had in SQLite. The decoder is empty afterwards.
    pub(super) fn finish(&mut self) -> Result<(RecordBatch, u64), Failure> {
        let mut columns: Vec<ArrayRef> = self.columns.iter_mut().map(Cells::finish).collect();
        let mut rows = self.rows;
        if !self.refused.is_empty() {
            let mut keep = vec![true; rows];
            self.refused.iter().for_each(|row| keep[*row] = false);
            rows -= self.refused.len();
            let keep = BooleanArray::from(keep);
            columns = columns.iter().map(|column| filter(column, &keep)).collect::<Result<_, _>>().map_err(broken)?;
            self.refused.clear();
        }
        let bytes = self.bytes as u64;
        (self.rows, self.bytes) = (0, 0);
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok((RecordBatch::try_new_with_options(self.schema.to_arrow(), columns, &options).map_err(broken)?, bytes))
    }
}

fn broken(error: arrow::error::ArrowError) -> Failure {
    Failure::permanent("a batch could not be made of the rows read").cause(error)
}

/// The cells of one column.
enum Cells {
    Bool(BooleanBuilder),
    Int8(PrimitiveBuilder<Int8Type>),
    Int16(PrimitiveBuilder<Int16Type>),
    Int32(PrimitiveBuilder<Int32Type>),
    Int64(PrimitiveBuilder<Int64Type>),
    UInt8(PrimitiveBuilder<UInt8Type>),
    UInt16(PrimitiveBuilder<UInt16Type>),
    UInt32(PrimitiveBuilder<UInt32Type>),
    UInt64(PrimitiveBuilder<UInt64Type>),
    Float32(PrimitiveBuilder<Float32Type>),
    Float64(PrimitiveBuilder<Float64Type>),
    Decimal128(PrimitiveBuilder<Decimal128Type>, u8, i8),
    Decimal256(PrimitiveBuilder<Decimal256Type>, u8, i8),
    Number(StringBuilder),
    Text(StringBuilder),
    Json(StringBuilder),
    Enum(StringBuilder, Arc<[String]>),
    Bytes(BinaryBuilder),
    Date(PrimitiveBuilder<Date32Type>),
    Time(PrimitiveBuilder<Time64MicrosecondType>),
    Timestamp(PrimitiveBuilder<TimestampMicrosecondType>),
    TimestampTz(PrimitiveBuilder<TimestampMicrosecondType>),
    Interval(IntervalMonthDayNanoBuilder),
    Uuid(FixedSizeBinaryBuilder),
    Array(Builder),
}

/// Does the same with the builder of every kind of cells but arrays.
macro_rules! with_builder {
    ($cells:expr, $builder:ident => $do:expr, $array:ident => $other:expr) => {
        match $cells {
            Cells::Bool($builder) => $do,
            Cells::Int8($builder) => $do,
            Cells::Int16($builder) => $do,
            Cells::Int32($builder) => $do,
            Cells::Int64($builder) => $do,
            Cells::UInt8($builder) => $do,
            Cells::UInt16($builder) => $do,
            Cells::UInt32($builder) => $do,
            Cells::UInt64($builder) => $do,
            Cells::Float32($builder) => $do,
            Cells::Float64($builder) => $do,
            Cells::Decimal128($builder, ..) => $do,
            Cells::Decimal256($builder, ..) => $do,
            Cells::Number($builder) | Cells::Text($builder) | Cells::Json($builder) | Cells::Enum($builder, _) => $do,
            Cells::Bytes($builder) => $do,
            Cells::Date($builder) => $do,
            Cells::Time($builder) => $do,
            Cells::Timestamp($builder) | Cells::TimestampTz($builder) => $do,
            Cells::Interval($builder) => $do,
            Cells::Uuid($builder) => $do,
            Cells::Array($array) => $other,
        }
    };
}

impl Cells {
    fn new(ty: &Type) -> Self {
        match ty {
            Type::Bool => Self::Bool(BooleanBuilder::new()),
            Type::Int(8) => Self::Int8(PrimitiveBuilder::new()),
            Type::Int(16) => Self::Int16(PrimitiveBuilder::new()),
            Type::Int(32) => Self::Int32(PrimitiveBuilder::new()),
            Type::Int(_) => Self::Int64(PrimitiveBuilder::new()),
            Type::UInt(8) => Self::UInt8(PrimitiveBuilder::new()),
            Type::UInt(16) => Self::UInt16(PrimitiveBuilder::new()),
            Type::UInt(32) => Self::UInt32(PrimitiveBuilder::new()),
            Type::UInt(_) => Self::UInt64(PrimitiveBuilder::new()),
            Type::Float(32) => Self::Float32(PrimitiveBuilder::new()),
            Type::Float(_) => Self::Float64(PrimitiveBuilder::new()),
            Type::Decimal(precision, scale) if *precision <= 38 => {
                Self::Decimal128(PrimitiveBuilder::new().with_data_type(ty.to_arrow()), *precision, *scale)
            }
            Type::Decimal(precision, scale) => Self::Decimal256(PrimitiveBuilder::new().with_data_type(ty.to_arrow()), *precision, *scale),
            Type::Number => Self::Number(StringBuilder::new()),
            Type::Text => Self::Text(StringBuilder::new()),
            Type::Json => Self::Json(StringBuilder::new()),
            Type::Enum(values) => Self::Enum(StringBuilder::new(), values.clone()),
            Type::Bytes | Type::Native { .. } => Self::Bytes(BinaryBuilder::new()),
            Type::Date => Self::Date(PrimitiveBuilder::new()),
            Type::Time => Self::Time(PrimitiveBuilder::new()),
            Type::Timestamp => Self::Timestamp(PrimitiveBuilder::new()),
            Type::TimestampTz => Self::TimestampTz(PrimitiveBuilder::new().with_data_type(ty.to_arrow())),
            Type::Interval => Self::Interval(IntervalMonthDayNanoBuilder::new()),
            Type::Uuid => Self::Uuid(FixedSizeBinaryBuilder::new(16)),
            Type::Array(_) => Self::Array(Builder::new(ty, false)),
        }
    }

    fn null(&mut self) {
        with_builder!(self, builder => builder.append_null(), array => array.append_null());
    }

    fn finish(&mut self) -> ArrayRef {
        with_builder!(self, builder => Arc::new(builder.finish()), array => array.finish())
    }

    /// Takes a value that is not NULL, and says whether it fits. The caller fills the place of one that does not.
    fn push(&mut self, value: ValueRef<'_>, lenient: bool) -> bool {
        match self {
            Self::Bool(cells) => {
                put(integer(value, lenient).filter(|value| matches!(value, 0 | 1)), |value| cells.append_value(value == 1))
            }
            Self::Int8(cells) => put(narrow(value, lenient), |value| cells.append_value(value)),
            Self::Int16(cells) => put(narrow(value, lenient), |value| cells.append_value(value)),
            Self::Int32(cells) => put(narrow(value, lenient), |value| cells.append_value(value)),
            Self::Int64(cells) => put(integer(value, lenient), |value| cells.append_value(value)),
            Self::UInt8(cells) => put(narrow(value, lenient), |value| cells.append_value(value)),
            Self::UInt16(cells) => put(narrow(value, lenient), |value| cells.append_value(value)),
            Self::UInt32(cells) => put(narrow(value, lenient), |value| cells.append_value(value)),
            Self::UInt64(cells) => put(unsigned(value), |value| cells.append_value(value)),
            Self::Float32(cells) => put(single(value, lenient), |value| cells.append_value(value)),
            Self::Float64(cells) => put(double(value, lenient), |value| cells.append_value(value)),
            Self::Decimal128(cells, precision, scale) => {
                put(digits(value, *precision, *scale).and_then(|digits| digits.parse().ok()), |value| cells.append_value(value))
            }
            Self::Decimal256(cells, precision, scale) => {
                put(digits(value, *precision, *scale).and_then(|digits| i256::from_string(&digits)), |value| cells.append_value(value))
            }
            Self::Number(cells) => match value {
                ValueRef::Integer(value) => put(Some(value.to_string()), |value| cells.append_value(value)),
                ValueRef::Real(value) => put(Some(plain(value)), |value| cells.append_value(value)),
                value => put(utf8(value).filter(|text| is_number(text)), |value| cells.append_value(value)),
            },
            Self::Text(cells) => put(utf8(value), |value| cells.append_value(value)),
            Self::Json(cells) => match value {
                // A column of type JSON turns texts that are bare numbers into numbers.
                ValueRef::Integer(value) => put(Some(value.to_string()), |value| cells.append_value(value)),
                ValueRef::Real(value) => {
                    put(Some(value).filter(|value| value.is_finite()), |value| cells.append_value(format!("{value:?}")))
                }
                value => put(utf8(value).filter(|text| is_json(text)), |value| cells.append_value(value)),
            },
            Self::Enum(cells, values) => {
                put(utf8(value).filter(|text| values.iter().any(|value| value == text)), |value| cells.append_value(value))
            }
            Self::Bytes(cells) => match value {
                ValueRef::Blob(bytes) => put(Some(bytes), |value| cells.append_value(value)),
                _ => false,
            },
            Self::Date(cells) => put(utf8(value).and_then(|text| parse::date(text.as_bytes())), |value| cells.append_value(value)),
            Self::Time(cells) => put(utf8(value).and_then(|text| parse::time(text.as_bytes())), |value| cells.append_value(value)),
            Self::Timestamp(cells) => put(utf8(value).and_then(timestamp), |value| cells.append_value(value)),
            Self::TimestampTz(cells) => put(utf8(value).and_then(instant), |value| cells.append_value(value)),
            Self::Interval(cells) => put(utf8(value).and_then(parse::interval), |value| cells.append_value(value)),
            Self::Uuid(cells) => {
                let bytes = match value {
                    ValueRef::Blob(bytes) => bytes.try_into().ok(),
                    value => utf8(value).and_then(|text| uuid::Uuid::try_parse(text).ok()).map(uuid::Uuid::into_bytes),
                };
                bytes.is_some_and(|bytes: [u8; 16]| cells.append_value(bytes).is_ok())
            }
            Self::Array(cells) => utf8(value).is_some_and(|text| cells.append(text).is_ok()),
        }
    }
}

/// A timestamp without a zone; a date alone is midnight, as it is for SQLite.
fn timestamp(text: &str) -> Option<i64> {
    match parse::timestamp(text.as_bytes()) {
        Some((micros, zone)) => (zone != Zone::Given).then_some(micros),
        None => i64::from(parse::date(text.as_bytes())?).checked_mul(DAY_MICROS),
    }
}

/// A timestamp with a zone.
fn instant(text: &str) -> Option<i64> {
    parse::timestamp(text.as_bytes()).filter(|(_, zone)| *zone != Zone::Missing).map(|(micros, _)| micros)
}

fn put<T>(value: Option<T>, append: impl FnOnce(T)) -> bool {
    value.map(append).is_some()
}
