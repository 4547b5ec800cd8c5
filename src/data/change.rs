//! Changes of rows, as batches carry them: behind the columns of the row stand two more, which say what happened to it. In a stream of several
//! tables each batch is of one of them, and its schema says of which.

use std::sync::Arc;

use arrow::array::{Array, AsArray, StringArray};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

/// The name of the column that says what happened: one of the words below.
pub const CHANGE: &str = "haul change";

/// The name of the column that lists columns whose value did not change and was not sent: their places in the row, each between commas, such
/// as `,2,5,`. NULL when there are none.
pub const KEPT: &str = "haul kept";

/// The row is new, or takes the place of the one with its key.
pub const PUT: &str = "p";

/// The row with this key is gone; the other columns are NULL.
pub const GONE: &str = "g";

/// The row with this key is gone, because it has the key of the next row from now on: what that one kept, it kept from here.
pub const MOVED: &str = "m";

/// All rows before this one are gone; every column is NULL.
pub const EMPTIED: &str = "e";

/// The name of the column that numbers the rows of a batch while it goes through steps.
pub const ROW: &str = "haul row";

/// The word in a schema's metadata behind which the number of the table stands.
const TABLE: &str = "haul table";

/// The schema of batches of this table, counted from 0.
pub fn schema_of(table: usize, schema: &SchemaRef) -> SchemaRef {
    let mut metadata = schema.metadata().clone();
    metadata.insert(TABLE.to_owned(), table.to_string());
    Arc::new(Schema::clone(schema).with_metadata(metadata))
}

/// The table that a batch is of; 0 where there is only one.
pub fn table(batch: &RecordBatch) -> usize {
    batch.schema_ref().metadata().get(TABLE).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Whether a batch holds changes.
pub fn is_changes(batch: &RecordBatch) -> bool {
    let fields = batch.schema_ref().fields();
    fields.len() >= 2 && fields[fields.len() - 2].name() == CHANGE && fields[fields.len() - 1].name() == KEPT
}

/// What happened to the rows of a batch.
#[derive(Clone, Copy)]
pub struct Changes<'a> {
    words: &'a StringArray,
    kept: &'a StringArray,
}

impl<'a> Changes<'a> {
    /// `None` when the batch holds rows and no changes.
    pub fn of(batch: &'a RecordBatch) -> Option<Self> {
        let column = |behind: usize| batch.column(batch.num_columns() - behind).as_string();
        is_changes(batch).then(|| Self { words: column(2), kept: column(1) })
    }

    /// What happened to a row: one of the words above.
    pub fn what(self, row: usize) -> &'a str {
        self.words.value(row)
    }

    /// Whether the row behind this one is the same row by its new key.
    pub fn is_moved(self, row: usize) -> bool {
        self.what(row) == MOVED
    }

    /// Whether the row behind this one is the same row by its new key, and some of its values stand here only.
    pub fn is_moved_in_part(self, row: usize) -> bool {
        self.is_moved(row) && row + 1 < self.words.len() && self.kept(row + 1).is_some()
    }

    /// The columns of a row whose values did not change and were not sent, as [`is_kept`] reads them.
    pub fn kept(self, row: usize) -> Option<&'a str> {
        self.kept.is_valid(row).then(|| self.kept.value(row)).filter(|kept| !kept.is_empty())
    }
}

/// Whether a column is among those that were not sent.
pub fn is_kept(kept: &str, place: usize) -> bool {
    kept.split(',').any(|number| number.parse() == Ok(place))
}
