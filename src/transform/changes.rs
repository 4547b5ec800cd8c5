//! Steps on the changes of a table.
//!
//! Only rows that are put go through the steps; what happened to the others is said by their key alone, which has to come through the steps as
//! it is. A row that does not come out again, because a filter leaves it out or a step refuses it, is gone at the target: it may have been
//! there before.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray, UInt64Array, new_null_array};
use arrow::compute::{interleave, take};
use arrow::datatypes::{Int64Type, SchemaRef};

use super::builder::{Builder, problem};
use super::compile::{Compiled, Segment};
use super::lookup::Tables;
use super::rows::{Value, What};
use super::sql::Fault;
use super::{InputColumns, Problem};
use crate::data::change::{self, CHANGE, EMPTIED, GONE, KEPT, MOVED, PUT, ROW, is_kept};
use crate::data::{Chunk, Column, Schema, Type};
use crate::define::pipeline::Step;
use crate::failure::Failure;

/// How changes go through steps.
#[derive(Clone, Debug)]
pub(super) struct Changes {
    /// The columns of the rows that go in: those of the table, and the row's number.
    before: SchemaRef,
    /// The columns that come out: those after the steps, and the two of a change.
    after: SchemaRef,
    /// The place of the row's number behind the steps.
    row: usize,
    /// For each column that comes out, its place in the row that came in, when it is part of the key.
    keys: Vec<Option<usize>>,
}

/// Types steps against the changes of a table with this key. A step at `at` that loses the key is a problem.
pub async fn compile_changes(
    input: &InputColumns,
    key: &[String],
    steps: &[Step],
    tables: &Tables,
    at: &str,
) -> Result<Compiled, Vec<Problem>> {
    let mut numbered = input.clone();
    numbered.schema.columns.push(Column { nullable: false, ..Column::new(ROW, Type::Int(64)) });
    let mut builder = Builder::new(std::slice::from_ref(&numbered), None);
    builder.tables = tables.clone();
    for step in steps {
        builder.step(step).await;
    }
    let mut compiled = builder.finish()?;
    if !compiled.rowwise() {
        // What cannot be done in any stream is said by who plans it.
        return Ok(compiled);
    }
    let origins = origins(&compiled.segments, numbered.schema.columns.len());
    let place = |name: &str| numbered.schema.find(name).and_then(|(place, _)| origins.iter().position(|origin| *origin == Some(place)));
    if let Some(lost) = key.iter().find(|name| place(name).is_none()) {
        let message =
            format!("`{lost}` is part of the table's key, which says what rows a change is about, and a step changes or drops it");
        let fault =
            Fault::new("stream-transform", message).help("keep the columns of the key as they are; `rename` may give them other names");
        return Err(vec![problem(fault, &at.to_owned())]);
    }
    let Some(row) = place(ROW) else {
        let message = "a step uses a name that haul keeps for itself";
        return Err(vec![problem(Fault::new("stream-transform", message).help(format!("do without `{ROW}`")), &at.to_owned())]);
    };
    compiled.schema.columns.remove(row);
    let mut keys = origins;
    keys.remove(row);
    for origin in &mut keys {
        *origin = origin.filter(|&place| key.contains(&numbered.schema.columns[place].name));
    }
    let names = |(column, origin): (&Column, &Option<usize>)| origin.map(|_| column.name.clone());
    compiled.key = compiled.schema.columns.iter().zip(&keys).filter_map(names).collect();
    let mut after: Vec<Column> = compiled.schema.columns.iter().map(|column| Column { nullable: true, ..column.clone() }).collect();
    after.extend([CHANGE, KEPT].map(|name| Column::new(name, Type::Text)));
    let (before, after) = (numbered.schema.to_arrow(), Schema { columns: after }.to_arrow());
    compiled.changes = (!steps.is_empty()).then_some(Changes { before, after, row, keys });
    Ok(compiled)
}

/// For each column behind the steps, the one in front of them that it is, unchanged.
fn origins(segments: &[Segment], count: usize) -> Vec<Option<usize>> {
    let mut origins: Vec<Option<usize>> = (0..count).map(Some).collect();
    for segment in segments {
        match segment {
            Segment::Rows(rows) => {
                for step in &rows.steps {
                    let before = std::mem::take(&mut origins);
                    origins = match &step.what {
                        What::Filter(_) => before,
                        What::Columns(places) => places.iter().map(|place| before[*place]).collect(),
                        What::Set(values) => values
                            .iter()
                            .map(|value| match value {
                                Value::Column(place) => before[*place],
                                Value::Computed(_) => None,
                            })
                            .collect(),
                        What::Cast(casts) => without(before, casts.iter().map(|(place, ..)| *place)),
                        What::Mask(masks) => without(before, masks.iter().map(|(place, _)| *place)),
                    };
                }
            }
            Segment::Lookup(lookup) => origins.extend(lookup.add.iter().map(|_| None)),
            Segment::Dedupe(_) | Segment::Query(_) => {}
        }
    }
    origins
}

fn without(mut origins: Vec<Option<usize>>, changed: impl Iterator<Item = usize>) -> Vec<Option<usize>> {
    changed.for_each(|place| origins[place] = None);
    origins
}

impl Changes {
    /// The rows that go through the steps, each with its number, and what happened to every row.
    pub(super) fn split(&self, chunk: Chunk) -> Result<(Chunk, RecordBatch), Failure> {
        let all = chunk.batch.clone();
        let changes = of(&all)?;
        if let Some(kept) = (0..all.num_rows()).find_map(|row| changes.kept(row)) {
            return Err(self.partial(kept));
        }
        let puts = (0..all.num_rows()).filter(|row| changes.what(*row) == PUT);
        let puts = UInt64Array::from_iter_values(puts.map(|row| row as u64));
        let rows = all.columns()[..all.num_columns() - 2].iter().map(|column| take(column, &puts, None));
        let mut columns: Vec<ArrayRef> = rows.collect::<Result<_, _>>().map_err(failed)?;
        columns.push(Arc::new(Int64Array::from_iter_values(puts.values().iter().map(|row| *row as i64))));
        let options = RecordBatchOptions::new().with_row_count(Some(puts.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.before), columns, &options).map_err(failed)?;
        Ok((Chunk { batch, ..chunk }, all))
    }

    /// Puts the rows that came out among the others again, in the order of the changes.
    pub(super) fn join(&self, done: Chunk, all: &RecordBatch) -> Result<Chunk, Failure> {
        let changes = of(all)?;
        let mut from = vec![None; all.num_rows()];
        let numbers = done.batch.column(self.row).as_primitive_opt::<Int64Type>().ok_or_else(|| failed("no row numbers"))?;
        for (at, row) in numbers.values().iter().enumerate() {
            from[*row as usize] = Some(at);
        }
        let mut came = done.batch.columns().to_vec();
        came.remove(self.row);
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(came.len() + 2);
        for (column, key) in came.iter().zip(&self.keys) {
            let other = key.map_or_else(|| new_null_array(column.data_type(), 1), |place| Arc::clone(all.column(place)));
            let place = |(row, from): (usize, &Option<usize>)| from.map_or((1, if key.is_some() { row } else { 0 }), |at| (0, at));
            let places: Vec<(usize, usize)> = from.iter().enumerate().map(place).collect();
            columns.push(interleave(&[column.as_ref(), other.as_ref()], &places).map_err(failed)?);
        }
        let happened = from.iter().enumerate().map(|(row, at)| match at {
            Some(_) => PUT,
            None if changes.what(row) == EMPTIED => EMPTIED,
            // Where the row comes out by its new key, the two belong together.
            None if changes.is_moved(row) && from.get(row + 1).is_some_and(Option::is_some) => MOVED,
            None => GONE,
        });
        columns.push(Arc::new(StringArray::from_iter_values(happened)));
        columns.push(new_null_array(&arrow::datatypes::DataType::Utf8, all.num_rows()));
        let batch = RecordBatch::try_new(Arc::clone(&self.after), columns).map_err(failed)?;
        Ok(Chunk { batch, ..done })
    }

    /// An update that left out large values which did not change.
    fn partial(&self, kept: &str) -> Failure {
        let names = self.before.fields().iter().enumerate().filter(|(place, _)| is_kept(kept, *place));
        let names = names.map(|(_, field)| format!("`{}`", field.name())).collect::<Vec<_>>().join(", ");
        Failure::permanent(format!(
            "an update did not send large values that it left as they were ({names}), and the steps need whole rows"
        ))
        .help("`alter table … replica identity full` lets updates send them; then, and when the column was added after the update, `haul run … --fresh` begins behind it")
    }
}

/// What happened to each row.
fn of(batch: &RecordBatch) -> Result<change::Changes<'_>, Failure> {
    change::Changes::of(batch).ok_or_else(|| failed("a batch does not say what happened"))
}

fn failed(why: impl std::fmt::Display) -> Failure {
    Failure::permanent(format!("failed to put changes through the steps: {why}"))
}
