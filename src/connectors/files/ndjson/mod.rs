//! NDJSON: one JSON object a line.

mod read;
mod write;

pub(in crate::connectors) use read::NdjsonRows;
pub(in crate::connectors) use write::JsonObjects;
pub(super) use write::NdjsonWriter;
