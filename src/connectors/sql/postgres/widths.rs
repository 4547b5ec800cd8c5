//! Columns of numbers whose width is not that of the field they go into.

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

/// Integers of any width.
pub(super) enum Whole<'a> {
    I8(&'a [i8]),
    I16(&'a [i16]),
    I32(&'a [i32]),
    I64(&'a [i64]),
    U8(&'a [u8]),
    U16(&'a [u16]),
    U32(&'a [u32]),
    U64(&'a [u64]),
}

impl<'a> Whole<'a> {
    pub(super) fn of(array: &'a ArrayRef) -> Option<Self> {
        Some(match array.data_type() {
            DataType::Int8 => Self::I8(array.as_primitive::<Int8Type>().values()),
            DataType::Int16 => Self::I16(array.as_primitive::<Int16Type>().values()),
            DataType::Int32 => Self::I32(array.as_primitive::<Int32Type>().values()),
            DataType::Int64 => Self::I64(array.as_primitive::<Int64Type>().values()),
            DataType::UInt8 => Self::U8(array.as_primitive::<UInt8Type>().values()),
            DataType::UInt16 => Self::U16(array.as_primitive::<UInt16Type>().values()),
            DataType::UInt32 => Self::U32(array.as_primitive::<UInt32Type>().values()),
            DataType::UInt64 => Self::U64(array.as_primitive::<UInt64Type>().values()),
            _ => return None,
        })
    }

    /// Any but the largest unsigned values, which no integer of PostgreSQL holds.
    pub(super) fn small(&self, row: usize) -> Result<i64, String> {
        Ok(match self {
            Self::I8(values) => values[row].into(),
            Self::I16(values) => values[row].into(),
            Self::I32(values) => values[row].into(),
            Self::I64(values) => values[row],
            Self::U8(values) => values[row].into(),
            Self::U16(values) => values[row].into(),
            Self::U32(values) => values[row].into(),
            Self::U64(values) => return i64::try_from(values[row]).map_err(|_| out_of_range(values[row])),
        })
    }

    pub(super) fn get(&self, row: usize) -> i128 {
        match self {
            Self::I8(values) => values[row].into(),
            Self::I16(values) => values[row].into(),
            Self::I32(values) => values[row].into(),
            Self::I64(values) => values[row].into(),
            Self::U8(values) => values[row].into(),
            Self::U16(values) => values[row].into(),
            Self::U32(values) => values[row].into(),
            Self::U64(values) => values[row].into(),
        }
    }
}

/// Floats of either width.
pub(super) enum Real<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
}

impl<'a> Real<'a> {
    pub(super) fn of(array: &'a ArrayRef) -> Option<Self> {
        match array.data_type() {
            DataType::Float32 => Some(Self::F32(array.as_primitive::<Float32Type>().values())),
            DataType::Float64 => Some(Self::F64(array.as_primitive::<Float64Type>().values())),
            _ => None,
        }
    }

    pub(super) fn get(&self, row: usize) -> f64 {
        match self {
            Self::F32(values) => values[row].into(),
            Self::F64(values) => values[row],
        }
    }
}

/// Why an integer cannot be written.
pub(super) fn out_of_range(value: impl std::fmt::Display) -> String {
    format!("{value} is out of range")
}
