//! Columns as rows of bytes, and back.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef};
use arrow::buffer::NullBuffer;
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, Rows, SortField};

use crate::failure::Failure;

/// One order of columns in Arrow's row form.
pub struct RowForm {
    converter: RowConverter,
}

impl RowForm {
    /// Fails when a type has no row form.
    pub fn new(columns: Vec<DataType>) -> Result<Self, Failure> {
        let fields = columns.into_iter().map(SortField::new).collect();
        let converter = RowConverter::new(fields).map_err(|error| Failure::permanent("failed to keep such columns by row").cause(error))?;
        Ok(Self { converter })
    }

    /// The rows of some columns.
    pub fn encode(&self, columns: &[ArrayRef]) -> Result<Rows, Failure> {
        self.converter.convert_columns(columns).map_err(|error| Failure::permanent("failed to turn columns into rows").cause(error))
    }

    /// The columns of some rows.
    pub fn decode<'a>(&self, rows: impl Iterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>, Failure> {
        let parser = self.converter.parser();
        // The parser borrows itself for as long as its rows live: what it is given must live as long.
        let rows: Vec<&[u8]> = rows.collect();
        let columns = self.converter.convert_rows(rows.iter().map(|row| parser.parse(row)));
        columns.map_err(|error| Failure::permanent("failed to turn rows into columns").cause(error))
    }
}

/// The keys of a batch, each once.
pub struct Distinct {
    /// The row at which each key stands first.
    pub firsts: Vec<usize>,
    /// The number of the key of each row; `None` for a key that holds a NULL.
    pub of_row: Vec<Option<u32>>,
}

impl Distinct {
    /// Numbers the keys of a batch in the order they come.
    pub fn of(keys: &[ArrayRef], rows: &Rows) -> Self {
        let nulls = keys.iter().fold(None, |nulls, column| NullBuffer::union(nulls.as_ref(), column.nulls()));
        let mut numbers: HashMap<&[u8], u32> = HashMap::with_capacity(rows.num_rows());
        let mut distinct = Self { firsts: Vec::new(), of_row: Vec::with_capacity(rows.num_rows()) };
        for (at, row) in rows.iter().enumerate() {
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(at)) {
                distinct.of_row.push(None);
                continue;
            }
            let number = *numbers.entry(row.data()).or_insert_with(|| {
                distinct.firsts.push(at);
                (distinct.firsts.len() - 1) as u32
            });
            distinct.of_row.push(Some(number));
        }
        distinct
    }
}
