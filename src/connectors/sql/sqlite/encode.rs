//! From Arrow to SQLite: a batch's columns as cells that bind to a statement.
//!
//! What SQLite has no type for is kept in the text forms of [`crate::data::text`]; those of dates and times are what SQLite's own date functions
//! read and write.

use arrow::array::{ArrayRef, PrimitiveArray};
use arrow::datatypes::ArrowPrimitiveType;
use rusqlite::types::{ToSqlOutput, ValueRef};

use super::types::Affinity;
use super::value::NEGATIVE_ZERO;
use crate::data::Type;
use crate::data::text::{Cells, Printer};

/// One column of a batch, ready to be written row by row.
pub(super) struct Binder<'a> {
    printer: Printer<'a>,
    affinity: Affinity,
    text: Vec<u8>,
}

impl<'a> Binder<'a> {
    /// A column of a logical type, on its way into a column of that affinity.
    pub(super) fn new(ty: &'a Type, array: &'a ArrayRef, affinity: Affinity) -> Self {
        Self { printer: Printer::new(array, ty).spaced(), affinity, text: Vec::new() }
    }

    /// Whether the row's value is NULL.
    pub(super) fn is_null(&self, row: usize) -> bool {
        self.printer.is_null(row)
    }

    /// The value of one row as SQLite takes it; it lives until the next call.
    pub(super) fn value(&mut self, row: usize) -> ToSqlOutput<'_> {
        if self.is_null(row) {
            return ToSqlOutput::Borrowed(ValueRef::Null);
        }
        let kept = match self.printer.cells() {
            Cells::Bool(cells) => Some(ValueRef::Integer(cells.value(row).into())),
            Cells::Int8(cells) => Some(integer(cells, row)),
            Cells::Int16(cells) => Some(integer(cells, row)),
            Cells::Int32(cells) => Some(integer(cells, row)),
            Cells::Int64(cells) => Some(integer(cells, row)),
            Cells::UInt8(cells) => Some(integer(cells, row)),
            Cells::UInt16(cells) => Some(integer(cells, row)),
            Cells::UInt32(cells) => Some(integer(cells, row)),
            Cells::Float32(cells) => float(cells.value(row).into(), self.affinity),
            Cells::Float64(cells) => float(cells.value(row), self.affinity),
            Cells::Text(cells) => Some(ValueRef::Text(cells.value(row).as_bytes())),
            Cells::Bytes(cells) => Some(ValueRef::Blob(cells.value(row))),
            _ => None,
        };
        ToSqlOutput::Borrowed(kept.unwrap_or_else(|| {
            self.text.clear();
            self.printer.print(row, &mut self.text);
            ValueRef::Text(&self.text)
        }))
    }
}

fn integer<T: ArrowPrimitiveType>(cells: &PrimitiveArray<T>, row: usize) -> ValueRef<'static>
where
    T::Native: Into<i64>,
{
    ValueRef::Integer(cells.value(row).into())
}

/// SQLite turns NaN into NULL, and a numeric column turns -0.0 into 0: both become texts. A column for text would round a float to 15
/// digits: `None` asks for its text form instead.
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
