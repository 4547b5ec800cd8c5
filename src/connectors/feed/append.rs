//! Events at the end of a feed, within a transaction: their numbers, their blocks, the newest row of each key, and what is dropped for them.

use rusqlite::{CachedStatement, Connection as Sqlite, OptionalExtension, Result, Row, params};

use super::encode::{Encoder, Event, Op};
use crate::connectors::sql::sqlite::Database;
use crate::define::pipeline::FeedKeep;
use crate::failure::Failure;

/// Bytes of events that fill a block.
const BLOCK_BYTES: usize = 32 << 10;

/// Appends events to a feed.
pub(super) struct Append<'a> {
    connection: &'a Sqlite,
    database: &'a Database,
    encoder: &'a Encoder,
    keyed: bool,
    now_ms: i64,
    /// The number of the block's first event, and of the next one.
    first: i64,
    next: i64,
    /// Bytes of all events so far.
    written: i64,
    lines: Vec<u8>,
    /// The row that the next event takes over from another key.
    moved: Option<Vec<u8>>,
    find: CachedStatement<'a>,
    put: CachedStatement<'a>,
}

impl<'a> Append<'a> {
    /// Begins at the feed's end.
    pub(super) fn new(
        connection: &'a Sqlite,
        database: &'a Database,
        encoder: &'a Encoder,
        keyed: bool,
        now_ms: i64,
    ) -> Result<Self, Failure> {
        let begin = || {
            let (next, written) = connection.query_row("select next, written from feed", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let find = connection.prepare_cached("select line from newest where \"key\" = ? and gone = 0")?;
            let put = connection.prepare_cached("insert or replace into newest values (?, ?, ?, ?)")?;
            Ok(Self { connection, database, encoder, keyed, now_ms, first: next, next, written, lines: Vec::new(), moved: None, find, put })
        };
        begin().map_err(|error| database.failure(error))
    }

    /// Appends one event.
    pub(super) fn push(&mut self, event: Event<'_>) -> Result<(), Failure> {
        let moved = self.moved.take();
        let filled = match event.kept {
            None => None,
            Some(kept) => {
                let before = match moved {
                    Some(moved) => Some(moved),
                    None => self.newest(event.key)?,
                };
                let before = before.ok_or_else(|| lost(event.key))?;
                Some(self.encoder.fill(event.line, kept, &before)?)
            }
        };
        let line = filled.as_deref().unwrap_or(event.line);
        if event.op == Op::Move {
            self.moved = self.newest(event.key)?;
        }
        if self.keyed {
            self.remember(event.op, event.key, line).map_err(|error| self.database.failure(error))?;
        }
        self.lines.extend_from_slice(line);
        self.lines.push(b'\n');
        self.next += 1;
        if self.lines.len() >= BLOCK_BYTES { self.end_block().map_err(|error| self.database.failure(error)) } else { Ok(()) }
    }

    fn newest(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        self.find.query_row([key], |row| row.get(0)).optional().map_err(|error| self.database.failure(error))
    }

    /// Keeps the last event of a key, which tells late readers of a row that is gone as well.
    fn remember(&mut self, op: Op, key: &[u8], line: &[u8]) -> Result<()> {
        if op == Op::Clear {
            self.connection.execute("delete from newest", [])?;
        }
        self.put.execute(params![self.next, key, op != Op::Put, line]).map(drop)
    }

    fn end_block(&mut self) -> Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        self.written += self.lines.len() as i64;
        let mut insert = self.connection.prepare_cached("insert into blocks values (?, ?, ?, ?, ?)")?;
        insert.execute(params![self.first, self.next - 1, self.now_ms, self.written, self.lines])?;
        self.lines.clear();
        self.first = self.next;
        Ok(())
    }

    /// Ends the last block, and drops what is not to be kept any more: whole blocks, oldest first.
    pub(super) fn finish(mut self, keep: &FeedKeep) -> Result<(), Failure> {
        let end = |append: &mut Self| {
            append.end_block()?;
            append.connection.execute("update feed set next = ?, written = ?", params![append.next, append.written])?;
            append.drop_old(keep)
        };
        end(&mut self).map_err(|error| self.database.failure(error))
    }

    fn drop_old(&self, keep: &FeedKeep) -> Result<()> {
        let least = |most: u64, all: i64| all.saturating_sub(i64::try_from(most).unwrap_or(i64::MAX));
        let (number, written) = (least(keep.rows, self.next - 1), least(keep.bytes, self.written));
        let age_ms = i64::try_from(keep.age.as_millis()).unwrap_or(i64::MAX);
        let before_ms = self.now_ms.saturating_sub(age_ms);
        let mut oldest = self.connection.prepare_cached("select first, last, at_ms, written from blocks order by first limit 1")?;
        let mut remove = self.connection.prepare_cached("delete from blocks where first = ?")?;
        let mut dropped = None;
        loop {
            let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
            let found: Option<(i64, i64, i64, i64)> = oldest.query_row([], read).optional()?;
            let Some((first, last, at_ms, end)) = found else { break };
            if last > number && end > written && at_ms >= before_ms {
                break;
            }
            remove.execute([first])?;
            dropped = Some(last);
        }
        if let Some(last) = dropped {
            // Whoever is as far behind as that is told that events are lost, those of rows that are gone included.
            self.connection.execute("delete from newest where gone = 1 and id <= ?", [last])?;
        }
        Ok(())
    }
}

/// What a row misses that was changed in part.
fn lost(key: &[u8]) -> Failure {
    let key = String::from_utf8_lossy(key).into_owned();
    Failure::permanent(format!("a row was changed in part, and the feed does not have its row {key}"))
        .help("`--fresh` copies the table again")
}
