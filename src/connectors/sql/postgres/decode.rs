//! Tuples of COPY BINARY into batches.

use std::collections::BTreeSet;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::filter;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::tuples;
use super::types::PgType;
use super::values::Values;
use crate::data::{BatchLimit, Chunk, Reject, Schema, change};
use crate::failure::Failure;

/// However large the limit, a batch must stay below the 2 GiB that offsets can name, with room for one more row of 1 GiB.
const MOST_BYTES: usize = 512 << 20;

/// Collects tuples into batches within a limit.
pub(super) struct Decoder {
    schema: SchemaRef,
    columns: Vec<Values>,
    limit: BatchLimit,
    /// What is read, for the origin of refused rows.
    origin: String,
    /// Places of the key's columns, for the origin of refused rows.
    key: Vec<usize>,
    rows: usize,
    bytes: usize,
    read: u64,
    refused: Vec<Refused>,
}

struct Refused {
    row: usize,
    /// The number of the row within the split, from 1.
    number: u64,
    /// `None` when it is refused because of the row that it belongs to.
    column: Option<usize>,
    reason: String,
}

impl Decoder {
    /// `types` are the wire's, in the order of the schema's columns.
    pub(super) fn new(schema: &Schema, types: &[PgType], key: &[String], limit: BatchLimit, origin: String) -> Result<Self, Failure> {
        let columns =
            schema.columns.iter().zip(types).map(|(column, ty)| {
                Values::new(ty, &column.ty).map_err(|failure| failure.during(format_args!("column `{}`", column.name)))
            });
        let limit = BatchLimit { rows: limit.rows.max(1), bytes: limit.bytes.min(MOST_BYTES) };
        Ok(Self {
            schema: schema.to_arrow(),
            columns: columns.collect::<Result<_, _>>()?,
            limit,
            origin,
            key: key.iter().map_while(|name| schema.find(name).map(|(place, _)| place)).collect(),
            rows: 0,
            bytes: 0,
            read: 0,
            refused: Vec::new(),
        })
    }

    /// The batches are of this table of a stream of several.
    pub(super) fn of_table(self, table: usize) -> Self {
        Self { schema: change::schema_of(table, &self.schema), ..self }
    }

    /// Takes one whole tuple.
    pub(super) fn tuple(&mut self, tuple: &[u8]) -> Result<(), Failure> {
        let Self { columns, refused, rows, read, .. } = self;
        *read += 1;
        let count = tuples::fields(tuple, |place, value| {
            let Some(column) = columns.get_mut(place) else { return };
            let pushed = value.map(|value| column.push(value));
            match pushed {
                Some(Ok(())) => {}
                None => column.push_null(),
                Some(Err(reason)) => {
                    column.push_null();
                    refused.push(Refused { row: *rows, number: *read, column: Some(place), reason });
                }
            }
        });
        if count != Some(self.columns.len()) {
            return Err(Failure::transient(format!(
                "a row of {} has {count:?} columns where {} were asked for",
                self.origin,
                self.columns.len()
            )));
        }
        self.rows += 1;
        self.bytes += tuple.len();
        Ok(())
    }

    /// Whether the batch has reached its limit.
    pub(super) fn is_full(&self) -> bool {
        self.rows >= self.limit.rows || self.bytes >= self.limit.bytes
    }

    /// How many tuples came in all.
    pub(super) fn taken(&self) -> u64 {
        self.read
    }

    /// How many tuples wait, and their bytes.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.rows, self.bytes)
    }

    /// Whether there is nothing to hand on.
    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The batch so far; the next one begins.
    pub(super) fn finish(&mut self) -> Result<Chunk, Failure> {
        let mut rows = std::mem::take(&mut self.rows);
        let bytes = std::mem::take(&mut self.bytes) as u64;
        let mut refused = std::mem::take(&mut self.refused);
        let first = self.read - rows as u64 + 1;
        let arrays = self.columns.iter_mut().enumerate().map(|(column, values)| {
            values.finish(&mut |row, reason| refused.push(Refused { row, number: first + row as u64, column: Some(column), reason }))
        });
        let mut arrays: Vec<ArrayRef> = arrays.collect();
        for row in self.torn(&arrays, &refused) {
            let reason = "the other half of a changed key is refused".to_owned();
            refused.push(Refused { row, number: first + row as u64, column: None, reason });
        }
        refused.sort_by_key(|refused| (refused.row, refused.column));
        let rejects = self.rejects(&arrays, &refused);
        if !rejects.is_empty() {
            let mut keep = vec![true; rows];
            for refused in &refused {
                keep[refused.row] = false;
            }
            rows -= rejects.len();
            let keep = BooleanArray::from(keep);
            arrays = arrays.iter().map(|array| filter(array, &keep)).collect::<Result<_, _>>().map_err(|error| self.misfit(error))?;
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options).map_err(|error| self.misfit(error))?;
        Ok(Chunk { rejects, bytes, ..Chunk::of(batch) })
    }

    /// Rows of changed keys of which only the other half is refused: the removal and the row behind it go together.
    fn torn(&self, arrays: &[ArrayRef], refused: &[Refused]) -> Vec<usize> {
        let fields = self.schema.fields();
        let Some(place) = fields.iter().position(|field| field.name() == change::CHANGE).filter(|_| !refused.is_empty()) else {
            return Vec::new();
        };
        let words = arrays[place].as_string::<i32>();
        let bad: BTreeSet<usize> = refused.iter().map(|refused| refused.row).collect();
        let halves = (1..words.len()).filter(|row| words.value(row - 1) == change::MOVED);
        let torn = halves.filter_map(|row| match (bad.contains(&(row - 1)), bad.contains(&row)) {
            (true, false) => Some(row),
            (false, true) => Some(row - 1),
            _ => None,
        });
        torn.collect()
    }

    fn misfit(&self, error: arrow::error::ArrowError) -> Failure {
        Failure::bad_rows(format!("rows of {} do not fit their columns", self.origin)).cause(error)
    }

    /// One reject a row, whatever the number of its bad values.
    fn rejects(&self, arrays: &[ArrayRef], refused: &[Refused]) -> Vec<Reject> {
        let rows = refused.chunk_by(|a, b| a.row == b.row);
        rows.map(|bad| {
            let reasons = bad.iter().map(|bad| match bad.column {
                Some(column) => format!("column `{}`: {}", self.schema.field(column).name(), bad.reason),
                None => bad.reason.clone(),
            });
            let reason = reasons.collect::<Vec<_>>().join("; ");
            let text = |place: usize| {
                if bad.iter().any(|bad| bad.column == Some(place)) {
                    return Some("(not readable)".to_owned());
                }
                let options = FormatOptions::new().with_display_error(true);
                let shown = arrays[place].is_valid(bad[0].row).then(|| ArrayFormatter::try_new(&arrays[place], &options));
                shown.and_then(|formatter| Some(formatter.ok()?.value(bad[0].row).to_string()))
            };
            let values = self
                .schema
                .fields()
                .iter()
                .enumerate()
                .map(|(place, field)| (field.name().clone(), text(place).map_or(serde_json::Value::Null, serde_json::Value::String)));
            let key = self.key.iter().filter(|place| !bad.iter().any(|bad| bad.column == Some(**place)));
            let key: Vec<String> =
                key.filter_map(|place| Some(format!("{}={}", self.schema.field(*place).name(), text(*place)?))).collect();
            let origin = if key.is_empty() { format!("{} row {}", self.origin, bad[0].number) } else { key.join(",") };
            Reject { origin, reason, row: serde_json::Value::Object(values.collect()).to_string() }
        })
        .collect()
    }
}
