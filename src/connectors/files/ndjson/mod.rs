//! NDJSON: one JSON object a line.

mod read;
mod write;

pub(in crate::connectors) use read::NdjsonRows;
pub(super) use write::NdjsonWriter;
