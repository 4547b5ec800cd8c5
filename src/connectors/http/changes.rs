//! Changes of rows → what an API is told of them: events, or requests to the places of the rows.

use arrow::array::{Array, AsArray, StringArray};
use arrow::record_batch::RecordBatch;
use reqwest::Method;

use crate::connectors::files::JsonObjects;
use crate::connectors::text::print_event;
use crate::data::change::{EMPTIED, GONE, MOVED, PUT, is_changes};
use crate::data::text::Printer;
use crate::define::pipeline::HttpSink;
use crate::failure::Failure;

/// The changes of a batch.
pub(super) struct Changes<'a> {
    words: &'a StringArray,
    kept: &'a StringArray,
    spec: &'a HttpSink,
}

impl<'a> Changes<'a> {
    /// `None` when the batch holds rows.
    pub(super) fn of(batch: &'a RecordBatch, spec: &'a HttpSink) -> Result<Option<Self>, Failure> {
        if !is_changes(batch) {
            return Ok(None);
        }
        let count = batch.num_columns();
        let text = |place: usize| -> Option<&'a StringArray> { batch.column(place).as_string_opt() };
        let broken = || Failure::permanent("a batch of changes does not say what happened");
        let (words, kept) = (text(count - 2).ok_or_else(broken)?, text(count - 1).ok_or_else(broken)?);
        Ok(Some(Self { words, kept, spec }))
    }

    /// Whether the next change is the rest of this one.
    pub(super) fn is_moved(&self, row: usize) -> bool {
        self.words.value(row) == MOVED
    }

    /// The method of a change that goes to the place of its row.
    pub(super) fn method(&self, row: usize) -> Method {
        match self.words.value(row) {
            PUT if self.kept(row).is_some() => Method::PATCH,
            PUT => Method::PUT,
            _ => Method::DELETE,
        }
    }

    /// The places of the columns that were not sent, each between commas.
    fn kept(&self, row: usize) -> Option<&str> {
        self.kept.is_valid(row).then(|| self.kept.value(row)).filter(|kept| !kept.is_empty())
    }

    /// What can be told of a change at all.
    pub(super) fn check(&self, row: usize) -> Result<(), Failure> {
        let next = row + 1;
        if self.is_moved(row) && next < self.words.len() && self.kept(next).is_some() {
            return Err(Failure::permanent(
                "a row took another key and left a large value as it was, which the API cannot be told: it did not come",
            )
            .help("`alter table … replica identity full` lets updates send all values; then `haul run … --fresh` begins behind it"));
        }
        if self.spec.path.constant().is_none() && self.words.value(row) == EMPTIED {
            return Err(Failure::permanent("the table was emptied at once (TRUNCATE), and places of single rows cannot be told").help(
                "empty it there too and begin again with `--fresh`; `method: post` to a path without columns would send an event, `clear`",
            ));
        }
        Ok(())
    }

    /// Writes the object of a change. The error is the name of the column that cannot be written so, and what it holds.
    pub(super) fn print(
        &self,
        row: usize,
        objects: &JsonObjects,
        columns: &[Printer<'_>],
        out: &mut Vec<u8>,
    ) -> Result<(), (String, &'static str)> {
        let kept = self.kept(row);
        let op = match self.words.value(row) {
            PUT if kept.is_some() => "patch",
            PUT => "put",
            GONE | MOVED => "delete",
            _ => "clear",
        };
        let object = |out: &mut Vec<u8>| match kept {
            _ if op == "put" => objects.print(columns, row, out),
            Some(kept) => objects.print_some(columns, row, |place| !kept.contains(&format!(",{place},")), out),
            // Of a row that is gone only the key came.
            None => objects.print_some(columns, row, |place| !columns[place].is_null(row), out),
        };
        if self.spec.by_place() { object(out) } else { print_event(op, out, object) }
    }
}
