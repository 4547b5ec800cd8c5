//! What text formats share: rows → a chunk of good rows and rejects, within the limits of a batch.

use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::data::text::Builder;
use crate::data::{BatchLimit, Chunk, Reject, Schema, Type};
use crate::failure::Failure;

/// Bad rows that end a chunk, so that a file full of them stays within memory and meets the stage's bound soon.
const MOST_REJECTS: usize = 1000;
/// Bytes of a bad row that are kept.
const MOST_REJECT_BYTES: usize = 1 << 20;

/// A file's rows, taken in chunks.
pub(super) trait Rows: Send {
    /// Reads until the chunk is full or the file ends; `None` when nothing was left.
    fn fill(&mut self, out: &mut RowsOut) -> Result<Option<Chunk>, Failure>;
}

/// A chunk in the making. A row goes into all columns first; a bad one is taken out again when the chunk is done.
pub(super) struct RowsOut {
    /// One builder a wanted column.
    pub columns: Vec<Builder>,
    /// Where each wanted column stands in the file.
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
    pub(super) fn new(schema: &Schema, guessed: &[bool], places: Vec<usize>, limit: BatchLimit) -> Self {
        let columns = schema.columns.iter().zip(guessed).map(|(column, guessed)| Builder::new(&column.ty, *guessed)).collect();
        let fixed = schema.columns.iter().map(|column| width(&column.ty)).sum();
        Self { columns, places, schema: schema.clone(), limit, fixed, keep: Vec::new(), kept: 0, bytes: 0, rejects: Vec::new() }
    }

    /// Whether the chunk must be handed on.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.keep.len() >= self.limit.rows || self.bytes >= self.limit.bytes || self.rejects.len() >= MOST_REJECTS
    }

    /// All columns got a value of the row.
    #[inline]
    pub(super) fn good(&mut self, text_bytes: usize) {
        self.keep.push(true);
        self.kept += 1;
        self.bytes += text_bytes + self.fixed;
    }

    /// All columns got something, but the row is bad.
    pub(super) fn bad(&mut self, path: &str, line: u64, reason: String, raw: &str) {
        self.keep.push(false);
        self.reject(path, line, reason, raw);
    }

    /// The row is bad, and no column got anything of it.
    pub(super) fn reject(&mut self, path: &str, line: u64, reason: String, raw: &str) {
        let mut row = raw.to_owned();
        if row.len() > MOST_REJECT_BYTES {
            row.truncate(row.floor_char_boundary(MOST_REJECT_BYTES));
            row.push('…');
        }
        self.bytes += row.len();
        self.rejects.push(Reject { origin: format!("{path}:{line}"), reason, row });
    }

    /// The chunk, after which the next one begins; `None` when nothing is in it.
    pub(super) fn take(&mut self, source_bytes: u64) -> Result<Option<Chunk>, Failure> {
        if self.keep.is_empty() && self.rejects.is_empty() {
            return Ok(None);
        }
        let arrays = self.columns.iter_mut().map(Builder::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.keep.len()));
        let batch = RecordBatch::try_new_with_options(self.schema.to_arrow(), arrays, &options)
            .map_err(|error| Failure::permanent("a batch of a file does not fit its columns").cause(error))?;
        let keep = std::mem::take(&mut self.keep);
        let batch = if self.kept == keep.len() {
            batch
        } else {
            filter_record_batch(&batch, &BooleanArray::from(keep))
                .map_err(|error| Failure::permanent("bad rows cannot be taken out of a batch").cause(error))?
        };
        self.kept = 0;
        self.bytes = 0;
        Ok(Some(Chunk { rejects: std::mem::take(&mut self.rejects), bytes: source_bytes, ..Chunk::of(batch) }))
    }
}

/// Bytes of a value in memory beside its text.
fn width(ty: &Type) -> usize {
    ty.to_arrow().primitive_width().unwrap_or(4)
}

/// A column that other files of the pattern, or an earlier look at this one, had.
pub(super) fn column_gone(path: &str, name: &str) -> Failure {
    Failure::permanent(format!("`{path}` has no column `{name}`")).help("all files of one pattern must have the same columns")
}

/// The reason of a reject, with the way out.
pub(super) fn bad_value(column: &str, text: &str, reason: &str) -> String {
    let shown: String = if text.chars().count() > 60 { text.chars().take(59).chain(['…']).collect() } else { text.to_owned() };
    format!(
        "column `{column}`: the value `{shown}` {reason}; declare `columns: {{ {column}: text }}`, or raise `sample` so that the type is guessed from more rows"
    )
}
