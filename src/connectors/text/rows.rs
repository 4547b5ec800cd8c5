//! Rows of text → a chunk of good rows and rejects, within the limits of a batch.

use std::fmt::Display;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::compute::filter;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::data::text::Builder;
use crate::data::{BatchLimit, Chunk, Reject, Schema, Type};
use crate::failure::Failure;

/// Bad rows that end a chunk, so that a file full of them stays within memory and meets the stage's bound soon.
const MOST_REJECTS: usize = 1000;
/// Bytes of a bad row that are kept.
const MOST_REJECT_BYTES: usize = 1 << 20;

/// Rows that are taken in chunks.
pub(in crate::connectors) trait Rows: Send {
    /// Reads until the chunk is full or the rows end; `None` when nothing was left.
    fn fill(&mut self, out: &mut RowsOut) -> Result<Option<Chunk>, Failure>;
}

/// A chunk in the making. A row goes into all columns first; a bad one is taken out again when the chunk is done.
pub(in crate::connectors) struct RowsOut {
    /// One builder a wanted column.
    pub columns: Vec<Builder>,
    /// Where each wanted column stands in a row of the source, where places matter.
    pub places: Vec<usize>,
    schema: Schema,
    limit: BatchLimit,
    /// Bytes that a row takes beside its text.
    fixed: usize,
    keep: Vec<bool>,
    kept: usize,
    bytes: usize,
    rejects: Vec<Reject>,
}

impl RowsOut {
    /// An empty chunk. Columns whose type was guessed take only what their type does not change.
    pub(in crate::connectors) fn new(schema: &Schema, guessed: &[bool], places: Vec<usize>, limit: BatchLimit) -> Self {
        let columns = schema.columns.iter().zip(guessed).map(|(column, guessed)| Builder::new(&column.ty, *guessed)).collect();
        let fixed = schema.columns.iter().map(|column| width(&column.ty)).sum();
        Self { columns, places, schema: schema.clone(), limit, fixed, keep: Vec::new(), kept: 0, bytes: 0, rejects: Vec::new() }
    }

    /// Whether the chunk must be handed on.
    #[inline]
    pub(in crate::connectors) fn is_full(&self) -> bool {
        self.keep.len() >= self.limit.rows || self.bytes >= self.limit.bytes || self.rejects.len() >= MOST_REJECTS
    }

    /// All columns got a value of the row.
    #[inline]
    pub(in crate::connectors) fn good(&mut self, text_bytes: usize) {
        self.keep.push(true);
        self.kept += 1;
        self.bytes += text_bytes + self.fixed;
    }

    /// All columns got something, but the row is bad.
    pub(in crate::connectors) fn bad(&mut self, origin: impl Display, reason: String, raw: &str) {
        self.keep.push(false);
        self.reject(origin, reason, raw);
    }

    /// The row is bad, and no column got anything of it.
    pub(in crate::connectors) fn reject(&mut self, origin: impl Display, reason: String, raw: &str) {
        let mut row = raw.to_owned();
        if row.len() > MOST_REJECT_BYTES {
            row.truncate(row.floor_char_boundary(MOST_REJECT_BYTES));
            row.push('…');
        }
        self.bytes += row.len();
        self.rejects.push(Reject { origin: origin.to_string(), reason, row });
    }

    /// The chunk, after which the next one begins; `None` when nothing is in it.
    pub(in crate::connectors) fn take(&mut self, source_bytes: u64) -> Result<Option<Chunk>, Failure> {
        if self.keep.is_empty() && self.rejects.is_empty() {
            return Ok(None);
        }
        let mut arrays: Vec<ArrayRef> = self.columns.iter_mut().map(Builder::finish).collect();
        let keep = std::mem::take(&mut self.keep);
        if self.kept < keep.len() {
            // Bad rows hold NULLs, in columns that promise none as well: they go before the batch is made.
            let mask = BooleanArray::from(keep);
            let good = arrays.iter().map(|array| filter(array, &mask)).collect::<Result<_, _>>();
            arrays = good.map_err(|error| Failure::permanent("bad rows cannot be taken out of a batch").cause(error))?;
        }
        let options = RecordBatchOptions::new().with_row_count(Some(self.kept));
        let batch = RecordBatch::try_new_with_options(self.schema.to_arrow(), arrays, &options)
            .map_err(|error| Failure::permanent("a batch does not fit its columns").cause(error))?;
        self.kept = 0;
        self.bytes = 0;
        Ok(Some(Chunk { rejects: std::mem::take(&mut self.rejects), bytes: source_bytes, ..Chunk::of(batch) }))
    }
}

/// Bytes of a value in memory beside its text.
fn width(ty: &Type) -> usize {
    ty.to_arrow().primitive_width().unwrap_or(4)
}

/// The reason of a reject, with the way out.
pub(in crate::connectors) fn bad_value(column: &str, text: &str, reason: &str) -> String {
    let shown: String = if text.chars().count() > 60 { text.chars().take(59).chain(['…']).collect() } else { text.to_owned() };
    format!(
        "column `{column}`: the value `{shown}` {reason}; declare `columns: {{ {column}: text }}`, or raise `sample` so that the type is guessed from more rows"
    )
}
