//! CSV and its dialects.

mod read;
mod scan;
mod write;

pub(super) use read::{Boundaries, CsvRows, header};
pub(super) use write::CsvWriter;
