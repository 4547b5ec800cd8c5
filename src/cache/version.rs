//! Versions of rows: numbers that are greater for what is newer.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, UInt64Type};

use crate::data::Type;
use crate::failure::Failure;

/// Whether values of a type have an order that versions can follow.
pub fn orders(ty: &Type) -> bool {
    matches!(ty, Type::Int(_) | Type::UInt(_) | Type::Date | Type::Timestamp | Type::TimestampTz)
}

/// The versions of a column, in the order of its values. NULL is older than everything.
pub fn of_column(column: &ArrayRef) -> Result<Vec<u64>, Failure> {
    let failed = |error| Failure::permanent("failed to read the versions of rows").cause(error);
    if matches!(column.data_type(), DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64) {
        let numbers = cast(column, &DataType::UInt64).map_err(failed)?;
        let numbers = numbers.as_primitive::<UInt64Type>();
        return Ok((0..numbers.len()).map(|row| if numbers.is_null(row) { 0 } else { numbers.value(row) }).collect());
    }
    let numbers = match column.data_type() {
        // A date has no way to a number of 64 bits but through one of 32.
        DataType::Date32 => cast(column, &DataType::Int32).and_then(|days| cast(&days, &DataType::Int64)),
        _ => cast(column, &DataType::Int64),
    };
    let numbers = numbers.map_err(failed)?;
    let numbers = numbers.as_primitive::<Int64Type>();
    // Negative numbers come before positive ones when the sign is flipped.
    let version = |row: usize| if numbers.is_null(row) { 0 } else { (numbers.value(row) as u64) ^ (1 << 63) };
    Ok((0..numbers.len()).map(version).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Date32Array, Int16Array, TimestampMicrosecondArray, UInt64Array};

    use super::*;

    #[test]
    fn versions_follow_the_order_of_the_values() {
        let columns: [ArrayRef; 4] = [
            Arc::new(Int16Array::from(vec![None, Some(i16::MIN), Some(-1), Some(0), Some(7)])),
            Arc::new(UInt64Array::from(vec![None, Some(1), Some(u64::MAX - 1), Some(u64::MAX)])),
            Arc::new(Date32Array::from(vec![None, Some(-400), Some(20_000)])),
            Arc::new(TimestampMicrosecondArray::from(vec![None, Some(i64::MIN + 1), Some(1), Some(i64::MAX)]).with_timezone("UTC")),
        ];
        for column in columns {
            let versions = of_column(&column).expect("versions");
            assert!(versions.is_sorted_by(|a, b| a < b), "{column:?}: {versions:?}");
        }
    }
}
