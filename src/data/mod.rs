//! What crosses an edge: Arrow batches, logical types, fidelity grades, digests.
//!
//! Nothing here does I/O, knows an engine, or turns a row into JSON.

pub mod change;
mod digest;
mod grade;
mod normalize;
mod schema;
pub(crate) mod text;

use std::pin::Pin;

use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::Stream;

pub use digest::{Digest, RowHasher};
pub use grade::{Grade, Mapped};
pub use normalize::normalize;
#[cfg(test)]
pub(crate) use schema::samples;
pub use schema::{Column, Schema, TYPE_NAMES, Type};
pub(crate) use schema::{NATIVE_KEY, TYPE_KEY};

use crate::failure::Failure;

/// How large a batch may grow before a source hands it on. Whichever bound is met first ends the batch; a single row may be
/// larger than `bytes`, and is then a batch of its own.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimit {
    /// Most rows in a batch.
    pub rows: usize,
    /// Most bytes in a batch, by the memory of its arrays.
    pub bytes: usize,
}

impl Default for BatchLimit {
    fn default() -> Self {
        Self { rows: 16 * 1024, bytes: 4 << 20 }
    }
}

/// One row that could not be read, cast or written, kept as the source had it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Where it came from, such as `orders.csv:17` or `id=42`.
    pub origin: String,
    /// Why it was refused, naming the column where one is at fault.
    pub reason: String,
    /// The row as the source had it: the text of the line, or the values as JSON.
    pub row: String,
}

/// A place in a split or stream that a read may go on from: text that only the connector that made it understands. It is stored with the
/// target, so its form says its own version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Position(pub String);

/// How far a stream is behind its source, as the source saw it when it handed a chunk on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Everything that the source held when this read began has been handed on.
    pub caught_up: bool,
    /// Milliseconds since the source got the last of these rows, when it can tell.
    pub behind_ms: Option<u64>,
    /// Bytes that the source holds behind these rows, when it can tell.
    pub bytes: Option<u64>,
    /// Bytes of its log that the source keeps for this stream and might throw away otherwise, when it keeps any.
    pub kept: Option<u64>,
}

/// What a source hands on: a batch of good rows, and the rows that were refused while it was made.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The good rows; may be empty when only rejects are handed on.
    pub batch: RecordBatch,
    /// Refused rows, in the order of the source.
    pub rejects: Vec<Reject>,
    /// Bytes read from the source for this chunk, as they came over the wire or from the file.
    pub bytes: u64,
    /// Once everything up to and including this chunk is committed, a read may go on from here. `None`: only from an earlier position.
    pub position: Option<Position>,
    /// Only in streams.
    pub lag: Option<Lag>,
}

impl Chunk {
    /// A chunk without rejects, whose source bytes are the memory of its arrays.
    pub fn of(batch: RecordBatch) -> Self {
        let bytes = batch.get_array_memory_size() as u64;
        Self { batch, rejects: Vec::new(), bytes, position: None, lag: None }
    }
}

/// Batches of one split, in order. Dropping it stops the read and gives its connection back (or closes it).
pub type BatchStream = Pin<Box<dyn Stream<Item = Result<Chunk, Failure>> + Send>>;

/// Raw bytes of one split in a wire format that the sink understands. Every item holds whole rows.
pub type RawStream = Pin<Box<dyn Stream<Item = Result<RawChunk, Failure>> + Send>>;

/// Whole rows in a wire format, undecoded.
#[derive(Clone, Debug)]
pub struct RawChunk {
    /// The bytes, without the format's header or trailer.
    pub bytes: Bytes,
    /// How many rows they hold.
    pub rows: u64,
    /// The digest of these rows over their wire form; see [`WireFormat`].
    pub digest: Digest,
}

/// A wire format that a source and a sink may agree on, to pass rows through undecoded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum WireFormat {
    /// PostgreSQL's COPY BINARY tuples; the type names, in column order, must agree.
    PgCopyBinary(Vec<String>),
}
