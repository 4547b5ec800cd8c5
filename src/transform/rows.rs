//! Steps that look at one row at a time, on batches.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray, new_null_array};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::physical_plan::PhysicalExpr;

use super::values::{self, Misfit};
use crate::data::{Chunk, Reject, Type};
use crate::failure::Failure;
use crate::secret::Secret;

/// One compiled step.
#[derive(Clone, Debug)]
pub(super) struct RowStep {
    pub what: What,
    /// The columns after it.
    pub after: SchemaRef,
}

/// What a compiled step does.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// Keeps rows for which the condition is true.
    Filter(Arc<dyn PhysicalExpr>),
    /// Keeps these columns, in this order; only their names may change.
    Columns(Vec<usize>),
    /// The value of each column after the step.
    Set(Vec<Value>),
    /// Casts columns: place, type before, type after.
    Cast(Vec<(usize, Type, Type)>),
    /// Hides columns.
    Mask(Vec<(usize, Hidden)>),
}

/// Where the value of a column comes from.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// A column as it was before the step.
    Column(usize),
    /// An expression over the columns before the step.
    Computed(Arc<dyn PhysicalExpr>),
}

/// How a column is hidden.
#[derive(Clone, Debug)]
pub(super) enum Hidden {
    /// The type before, and the salt.
    Hash(Type, Secret<String>),
    /// This text instead.
    Redact(String),
    /// NULL instead; the Arrow type stays.
    Null,
}

/// Compiled steps, run one after another.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    pub steps: Vec<RowStep>,
}

impl Rows {
    /// Runs every step. Rows that do not fit are rejected one by one; good rows keep their order.
    pub(super) fn apply(&self, chunk: Chunk) -> Result<Chunk, Failure> {
        if self.steps.is_empty() {
            return Ok(chunk);
        }
        let Chunk { batch, mut rejects, bytes, position, lag } = chunk;
        let batch = match self.run(&batch) {
            Ok(done) => done,
            Err(_) => {
                let mut good = Vec::new();
                self.bisect(&batch, &mut good, &mut rejects)?;
                let after = self.steps.last().map_or_else(|| batch.schema(), |step| step.after.clone());
                concat_batches(&after, &good).map_err(|error| Failure::permanent("failed to put a batch together again").cause(error))?
            }
        };
        Ok(Chunk { batch, rejects, bytes, position, lag })
    }

    fn run(&self, batch: &RecordBatch) -> Result<RecordBatch, Misfit> {
        let mut batch = batch.clone();
        for step in &self.steps {
            batch = step.run(&batch)?;
        }
        Ok(batch)
    }

    /// Halves the batch until each failing part is one row.
    fn bisect(&self, batch: &RecordBatch, good: &mut Vec<RecordBatch>, rejects: &mut Vec<Reject>) -> Result<(), Failure> {
        match self.run(batch) {
            Ok(done) => good.push(done),
            Err(misfit) if batch.num_rows() <= 1 => {
                if batch.num_rows() == 0 {
                    return Err(Failure::permanent(format!("failed to transform an empty batch: {}", misfit.reason)));
                }
                rejects.push(values::reject(batch, misfit));
            }
            Err(_) => {
                let half = batch.num_rows() / 2;
                self.bisect(&batch.slice(0, half), good, rejects)?;
                self.bisect(&batch.slice(half, batch.num_rows() - half), good, rejects)?;
            }
        }
        Ok(())
    }
}

impl RowStep {
    fn run(&self, batch: &RecordBatch) -> Result<RecordBatch, Misfit> {
        let rows = batch.num_rows();
        let mut columns = batch.columns().to_vec();
        match &self.what {
            What::Filter(condition) => {
                let kept = evaluate(condition, batch).map_err(|reason| Misfit::new("filter", reason))?;
                let kept = kept.as_boolean_opt().ok_or_else(|| Misfit::new("filter", "the condition gave no truth value"))?;
                // `filter_record_batch` counts a NULL as false.
                return filter_record_batch(batch, kept).map_err(|error| Misfit::new("filter", error));
            }
            What::Columns(places) => columns = places.iter().map(|place| batch.column(*place).clone()).collect(),
            What::Set(values) => {
                let named = values.iter().zip(self.after.fields());
                let value = |(value, field): (&Value, &Arc<arrow::datatypes::Field>)| match value {
                    Value::Column(place) => Ok(batch.column(*place).clone()),
                    Value::Computed(expr) => evaluate(expr, batch).map_err(|reason| Misfit::new(field.name(), reason)),
                };
                columns = named.map(value).collect::<Result<_, _>>()?;
            }
            What::Cast(casts) => {
                for (place, from, to) in casts {
                    let named = |reason: String| Misfit::new(self.after.field(*place).name(), reason);
                    columns[*place] = values::cast(&columns[*place], from, to).map_err(named)?;
                }
            }
            What::Mask(masks) => {
                for (place, hidden) in masks {
                    let named = |reason: String| Misfit::new(self.after.field(*place).name(), reason);
                    columns[*place] = hide(&columns[*place], hidden, self.after.field(*place).data_type()).map_err(named)?;
                }
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.after.clone(), columns, &options).map_err(|error| Misfit::new("the row", error))
    }
}

fn evaluate(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef, String> {
    let value = expr.evaluate(batch).and_then(|value| value.into_array(batch.num_rows()));
    let array = value.map_err(|error| super::session::words(&error))?;
    values::in_range(&array)?;
    Ok(array)
}

fn hide(array: &ArrayRef, hidden: &Hidden, after: &DataType) -> Result<ArrayRef, String> {
    Ok(match hidden {
        Hidden::Null => new_null_array(after, array.len()),
        Hidden::Redact(text) => {
            let texts = (0..array.len()).map(|row| array.is_valid(row).then_some(text.as_str()));
            Arc::new(texts.collect::<StringArray>())
        }
        Hidden::Hash(ty, salt) => values::hash(array, ty, salt)?,
    })
}
