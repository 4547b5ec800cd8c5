//! One Arrow column by its logical type, so that what encodes it matches once a column and not once a value.

use arrow::array::{ArrayRef, AsArray, BinaryArray, BooleanArray, FixedSizeBinaryArray, ListArray, PrimitiveArray, StringArray};
use arrow::datatypes::{
    Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use crate::data::Type;

/// The values of one column.
pub(crate) enum Cells<'a> {
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
    /// The column must have the Arrow type of the logical type, as every batch of a load has.
    pub(crate) fn new(array: &'a ArrayRef, ty: &'a Type) -> Self {
        match ty {
            Type::Bool => Self::Bool(array.as_boolean()),
            Type::Int(8) => Self::Int8(array.as_primitive()),
            Type::Int(16) => Self::Int16(array.as_primitive()),
            Type::Int(32) => Self::Int32(array.as_primitive()),
            Type::Int(_) => Self::Int64(array.as_primitive()),
            Type::UInt(8) => Self::UInt8(array.as_primitive()),
            Type::UInt(16) => Self::UInt16(array.as_primitive()),
            Type::UInt(32) => Self::UInt32(array.as_primitive()),
            Type::UInt(_) => Self::UInt64(array.as_primitive()),
            Type::Float(32) => Self::Float32(array.as_primitive()),
            Type::Float(_) => Self::Float64(array.as_primitive()),
            Type::Decimal(precision, scale) if *precision <= 38 => Self::Decimal128(array.as_primitive(), *scale),
            Type::Decimal(_, scale) => Self::Decimal256(array.as_primitive(), *scale),
            Type::Number | Type::Text | Type::Json | Type::Enum(_) => Self::Text(array.as_string()),
            Type::Bytes | Type::Native { .. } => Self::Bytes(array.as_binary()),
            Type::Date => Self::Date(array.as_primitive()),
            Type::Time => Self::Time(array.as_primitive()),
            Type::Timestamp => Self::Timestamp(array.as_primitive()),
            Type::TimestampTz => Self::TimestampTz(array.as_primitive()),
            Type::Interval => Self::Interval(array.as_primitive()),
            Type::Uuid => Self::Uuid(array.as_fixed_size_binary()),
            Type::Array(item) => Self::Array(array.as_list(), item),
        }
    }
}
