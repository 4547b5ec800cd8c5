//! CSV, NDJSON and Parquet files, local or in an object store.
//!
//! - `root`: a connection: its URL, and what is read and written below it.
//! - `store`: the two kinds of place, behind one set of blocking calls. `paths`: which paths may be named.
//! - `source`, `look`, `reading`, `cuts`: which files, what columns, which splits. `csv`, `ndjson`, `parquet`: the formats, both ways. `rows`,
//!   `lines`: what text formats share. `encoding`, `codec`: characters and compression.
//! - `sink`, `part`, `state`, `publish`, `manifest`: how rows get into files once. `grades`: what becomes of types.
//! - `roll`: part after part of a stream. `rejects`: the file of bad rows.
//!
//! Everything that blocks runs on blocking threads. Nothing is ever written under its final name before it is whole.

mod codec;
mod csv;
mod cuts;
mod encoding;
mod grades;
mod lines;
mod look;
mod manifest;
mod ndjson;
mod parquet;
mod part;
mod paths;
mod publish;
mod reading;
mod rejects;
mod roll;
mod root;
mod sink;
mod source;
mod state;
mod store;
mod stream;
#[cfg(test)]
mod tests;

pub(super) use codec::{Content, decompress};
pub(super) use csv::{CsvRows, header};
pub(super) use grades::{can_be_json, json_columns};
pub(super) use ndjson::{JsonObjects, NdjsonRows};
pub use rejects::{RejectLog, RejectWriter};
pub use root::Root;
pub(super) use store::{Local, Store};
