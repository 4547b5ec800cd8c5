//! NDJSON: one JSON object a line.

mod read;
mod write;

pub(super) use read::NdjsonRows;
pub(super) use write::NdjsonWriter;
