//! Rows and changes → events: each a JSON object on one line, its operation first and then the row's columns. Its number comes when it is read.

use arrow::record_batch::RecordBatch;

use crate::connectors::files::JsonObjects;
use crate::connectors::text::print_event;
use crate::data::change::{Changes, EMPTIED, GONE, MOVED, PUT, is_kept};
use crate::data::text::Printer;
use crate::data::text::json::{json_string, members_of};
use crate::data::{Reject, Schema};
use crate::failure::Failure;

/// What an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// The row is new, or takes the place of the one with its key.
    Put,
    /// The row is gone.
    Delete,
    /// The row is gone, and the next event is the same row by its new key.
    Move,
    /// All rows are gone.
    Clear,
}

/// Events that wait to be committed.
#[derive(Default)]
pub(super) struct Events {
    /// The key and the line of each event, one behind the other.
    bytes: Vec<u8>,
    items: Vec<Item>,
}

struct Item {
    op: Op,
    key_end: usize,
    end: usize,
    /// The columns whose values are those of the row before.
    kept: Option<String>,
}

/// One event.
#[derive(Clone, Copy)]
pub(super) struct Event<'a> {
    pub op: Op,
    /// The row's key as JSON; empty when the feed has none.
    pub key: &'a [u8],
    /// The object.
    pub line: &'a [u8],
    /// The columns whose values are those of the row before: their places, each between commas.
    pub kept: Option<&'a str>,
}

impl Events {
    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len() + self.items.len() * size_of::<Item>()
    }

    /// In their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Event<'_>> {
        let mut start = 0;
        self.items.iter().map(move |item| {
            let (key, line) = (&self.bytes[start..item.key_end], &self.bytes[item.key_end..item.end]);
            start = item.end;
            Event { op: item.op, key, line, kept: item.kept.as_deref() }
        })
    }

    fn end(&mut self, op: Op, key_end: usize, kept: Option<String>) {
        self.items.push(Item { op, key_end, end: self.bytes.len(), kept });
    }
}

/// Makes events.
pub(super) struct Encoder {
    schema: Schema,
    objects: JsonObjects,
    /// Places of the key's columns.
    key: Vec<usize>,
}

impl Encoder {
    /// Of rows with these columns, named by some of them.
    pub(super) fn new(schema: &Schema, key: &[String]) -> Self {
        let key = key.iter().filter_map(|name| schema.find(name)).map(|(place, _)| place).collect();
        Self { schema: schema.clone(), objects: JsonObjects::new(schema), key }
    }

    /// Takes a batch of rows or of changes. `origin` says where its first row stands; rows that cannot be events are refused.
    pub(super) fn take(&self, batch: &RecordBatch, origin: u64, out: &mut Events, refused: &mut Vec<Reject>) -> Result<(), Failure> {
        let columns = batch.columns().iter().zip(&self.schema.columns);
        let columns: Vec<Printer<'_>> = columns.map(|(array, column)| Printer::new(array, &column.ty)).collect();
        let changes = Changes::of(batch);
        for row in 0..batch.num_rows() {
            let (what, kept) = changes.map_or((PUT, None), |changes| (changes.what(row), changes.kept(row)));
            let start = out.bytes.len();
            if let Err(reason) = self.event(&columns, row, what, kept, out) {
                out.bytes.truncate(start);
                let mut text = Vec::new();
                let _ = self.objects.print(&columns, row, &mut text);
                let origin = format!("row {}", origin + row as u64 + 1);
                refused.push(Reject { origin, reason, row: String::from_utf8_lossy(&text).into_owned() });
            }
        }
        Ok(())
    }

    /// One event. The error says why the row cannot be one.
    fn event(&self, columns: &[Printer<'_>], row: usize, what: &str, kept: Option<&str>, out: &mut Events) -> Result<(), String> {
        let op = match what {
            PUT => Op::Put,
            GONE => Op::Delete,
            MOVED => Op::Move,
            EMPTIED => Op::Clear,
            other => return Err(format!("it is a change of a kind `{other}` that is not known")),
        };
        if op != Op::Clear {
            self.key(columns, row, &mut out.bytes)?;
        }
        let key_end = out.bytes.len();
        let word = match op {
            Op::Put => "put",
            Op::Delete | Op::Move => "delete",
            Op::Clear => "clear",
        };
        print_event(word, &mut out.bytes, |out| match op {
            Op::Put => self.objects.print(columns, row, out).map_err(|(column, what)| format!("column `{column}` holds {what}")),
            Op::Delete | Op::Move => self.key(columns, row, out),
            Op::Clear => {
                out.extend_from_slice(b"{}");
                Ok(())
            }
        })?;
        out.end(op, key_end, kept.map(str::to_owned));
        Ok(())
    }

    /// The key of a row as a JSON object; nothing when the feed has none.
    fn key(&self, columns: &[Printer<'_>], row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        for (number, &place) in self.key.iter().enumerate() {
            let column = &self.schema.columns[place];
            if columns[place].is_null(row) {
                return Err(format!("column `{}` of its key is NULL", column.name));
            }
            out.push(if number == 0 { b'{' } else { b',' });
            json_string(&column.name, out);
            out.push(b':');
            columns[place].print_json(row, &column.ty, out);
        }
        if !self.key.is_empty() {
            out.push(b'}');
        }
        Ok(())
    }

    /// The line of an event that left out values which stay as they were, filled from the line of the row before.
    pub(super) fn fill(&self, line: &[u8], kept: &str, before: &[u8]) -> Result<Vec<u8>, Failure> {
        let broken = |_| Failure::permanent("an event of a feed is no JSON object");
        let read = |line| -> Result<Vec<_>, Failure> {
            let mut members = Vec::new();
            let text = std::str::from_utf8(line).map_err(|error| broken(error.to_string()))?;
            let read = members_of(text, |name, value| {
                members.push((name, value.raw()));
                Ok(())
            });
            read.map(|()| members).map_err(broken)
        };
        let (new, old) = (read(line)?, read(before)?);
        let mut filled = b"{\"@op\":\"put\"".to_vec();
        for (place, column) in self.schema.columns.iter().enumerate() {
            let from = if is_kept(kept, place) { &old } else { &new };
            if let Some((name, value)) = from.iter().find(|(name, _)| *name == column.name) {
                filled.push(b',');
                json_string(name, &mut filled);
                filled.push(b':');
                filled.extend_from_slice(value.as_bytes());
            }
        }
        filled.push(b'}');
        Ok(filled)
    }
}
