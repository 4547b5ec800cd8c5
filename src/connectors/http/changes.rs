//! Changes of rows → what an API is told of them: events, or requests to the places of the rows.

use reqwest::Method;

use crate::connectors::files::JsonObjects;
use crate::connectors::text::print_event;
use crate::data::change::{self, EMPTIED, GONE, MOVED, PUT, is_kept};
use crate::data::text::Printer;
use crate::define::pipeline::HttpSink;
use crate::failure::Failure;

/// The changes of a batch.
pub(super) struct Changes<'a> {
    pub(super) rows: change::Changes<'a>,
    pub(super) spec: &'a HttpSink,
}

impl Changes<'_> {
    /// The method of a change that goes to the place of its row.
    pub(super) fn method(&self, row: usize) -> Method {
        match self.rows.what(row) {
            PUT if self.rows.kept(row).is_some() => Method::PATCH,
            PUT => Method::PUT,
            _ => Method::DELETE,
        }
    }

    /// What can be told of a change at all.
    pub(super) fn check(&self, row: usize) -> Result<(), Failure> {
        if self.rows.is_moved_in_part(row) {
            return Err(Failure::permanent(
                "a row took another key and left a large value as it was, which the API cannot be told: it did not come",
            )
            .help("`alter table … replica identity full` lets updates send all values; then `haul run … --fresh` begins behind it"));
        }
        if self.spec.path.constant().is_none() && self.rows.what(row) == EMPTIED {
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
        let kept = self.rows.kept(row);
        let op = match self.rows.what(row) {
            PUT if kept.is_some() => "patch",
            PUT => "put",
            GONE | MOVED => "delete",
            _ => "clear",
        };
        let object = |out: &mut Vec<u8>| match kept {
            _ if op == "put" => objects.print(columns, row, out),
            Some(kept) => objects.print_some(columns, row, |place| !is_kept(kept, place), out),
            // Of a row that is gone only the key came.
            None => objects.print_some(columns, row, |place| !columns[place].is_null(row), out),
        };
        if self.spec.by_place() { object(out) } else { print_event(op, out, object) }
    }
}
