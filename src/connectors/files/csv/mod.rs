//! CSV and its dialects.

mod read;
mod scan;
mod write;

pub(super) use read::Boundaries;
pub(in crate::connectors) use read::{CsvRows, header};
pub(super) use write::CsvWriter;
