//! Brings batches of foreign make (DataFusion, Parquet) into the one Arrow layout of their logical types.

use arrow::compute::{CastOptions, cast_with_options};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::Schema;
use crate::failure::Failure;

/// Casts every column whose Arrow type differs from the schema's, and puts the schema's own metadata on. A value that does not fit is an
/// error, never a NULL; so is a NULL in a column that promises none.
pub fn normalize(batch: &RecordBatch, schema: &Schema) -> Result<RecordBatch, Failure> {
    let arrow = schema.to_arrow();
    if batch.num_columns() != arrow.fields().len() {
        return Err(Failure::permanent(format!(
            "a batch of {} columns came where {} were planned",
            batch.num_columns(),
            arrow.fields().len()
        )));
    }
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (array, field) in batch.columns().iter().zip(arrow.fields()) {
        if array.data_type() == field.data_type() {
            columns.push(array.clone());
        } else {
            let array = cast_with_options(array, field.data_type(), &strict).map_err(|error| {
                Failure::bad_rows(format!("a value of column `{}` is no {}", field.name(), field.data_type())).cause(error)
            })?;
            columns.push(array);
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(arrow, columns, &options)
        .map_err(|error| Failure::bad_rows("a batch does not fit its planned columns").cause(error))
}
