//! NDJSON: one JSON object a line.

mod read;
mod scan;
mod write;

pub(super) use read::{NdjsonRows, NdjsonSample};
pub(super) use scan::array_items;
pub(super) use write::NdjsonWriter;
