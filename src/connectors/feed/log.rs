//! What readers see of a feed: its edges, events behind a number, and the newest row of each key. All of it blocks.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection as Sqlite, Transaction, params};

use super::file::{self, FORMAT, Settings, database};
use crate::connectors::sql::sqlite::Database;
use crate::failure::Failure;

/// Page cache of one reader, in KiB: blocks are read once and in order.
const CACHE_KIB: i64 = 256;

/// A feed that is read.
pub struct Log {
    database: Arc<Database>,
    connection: Sqlite,
    feed: String,
}

/// Where a feed begins and ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edges {
    /// Another one when the feed was removed and made anew.
    pub identity: String,
    /// The number of the oldest event that is kept; that of the next one when none is.
    pub oldest: u64,
    /// The number of the newest event; 0 before there was one.
    pub head: u64,
    /// How it is served.
    pub settings: Settings,
}

/// Events with numbers that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The number of the first.
    pub first: u64,
    /// The number of the last.
    pub last: u64,
    /// Each a JSON object on a line, without its number.
    pub lines: Bytes,
}

impl Block {
    /// The events behind a number, of which this block has at least one.
    #[must_use]
    pub fn behind(&self, id: u64) -> Self {
        if id < self.first {
            return self.clone();
        }
        let skipped = usize::try_from(id - self.first).unwrap_or(usize::MAX);
        let start =
            self.lines.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(skipped).map_or(self.lines.len(), |(at, _)| at + 1);
        Self { first: id + 1, last: self.last, lines: self.lines.slice(start..) }
    }
}

impl Log {
    /// Opens a feed of the project in `base`; `None` when it was never written.
    pub fn open(base: &Path, feed: &str) -> Result<Option<Self>, Failure> {
        if !file::path(base, feed).exists() {
            return Ok(None);
        }
        let database = database(base, feed)?;
        let connection = database.open_reader()?;
        let tables = || {
            connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
            connection.query_row("select count(*) from sqlite_schema where name = 'feed'", [], |row| row.get::<_, i64>(0))
        };
        if tables().map_err(|error| database.failure(error))? == 0 {
            return Ok(None);
        }
        let format: i64 = connection.query_row("select format from feed", [], |row| row.get(0)).map_err(|error| database.failure(error))?;
        if format != FORMAT {
            return Err(Failure::permanent(format!("the feed `{feed}` was written by another version of haul (format {format})"))
                .help(format!("serve it with that version, or remove {}", file::path(base, feed).display())));
        }
        Ok(Some(Self { database, connection, feed: feed.to_owned() }))
    }

    /// The edges alone.
    pub fn edges(&mut self) -> Result<Edges, Failure> {
        self.view(|_, _| Ok(())).map(|(edges, ())| edges)
    }

    /// The edges, and events behind a number until they fill so many bytes.
    pub fn behind(&mut self, id: u64, most_bytes: usize) -> Result<(Edges, Vec<Block>), Failure> {
        self.view(|transaction, _| {
            // The block that holds the next event may begin before it.
            let begins = "coalesce((select max(first) from blocks where first <= ?1), 0)";
            let query = format!("select first, last, lines from blocks where first >= {begins} order by first");
            let mut select = transaction.prepare_cached(&query)?;
            let mut rows = select.query([number(id.saturating_add(1))])?;
            let (mut blocks, mut bytes) = (Vec::new(), 0);
            while let Some(row) = rows.next()? {
                let block = Block { first: id_of(row.get(0)?), last: id_of(row.get(1)?), lines: Bytes::from(row.get::<_, Vec<u8>>(2)?) };
                if block.last <= id {
                    continue;
                }
                bytes += block.lines.len();
                blocks.push(block.behind(id));
                if bytes >= most_bytes {
                    break;
                }
            }
            Ok(blocks)
        })
    }

    /// The edges, and the number behind which the last so many bytes of events stand, in whole blocks.
    pub fn tail(&mut self, bytes: usize) -> Result<(Edges, u64), Failure> {
        self.view(|transaction, edges| {
            let mut select = transaction.prepare_cached("select first, length(lines) from blocks order by first desc")?;
            let mut rows = select.query([])?;
            let (mut behind, mut left) = (edges.head, bytes);
            while let Some(row) = rows.next()? {
                let Some(rest) = left.checked_sub(row.get::<_, i64>(1)?.unsigned_abs() as usize) else { break };
                behind = id_of(row.get(0)?) - 1;
                left = rest;
            }
            Ok(behind)
        })
    }

    /// The edges, and the last events of keys in the order of their numbers, behind one number and up to another, until they fill so many bytes.
    /// Those that tell of rows which are gone are left out, or not.
    pub fn newest(&mut self, id: u64, up_to: u64, gone: bool, most_bytes: usize) -> Result<(Edges, Vec<Block>), Failure> {
        self.view(|transaction, _| {
            let query = "select id, line from newest where id > ? and id <= ? and gone <= ? order by id";
            let mut select = transaction.prepare_cached(query)?;
            let mut rows = select.query(params![number(id), number(up_to), gone])?;
            let (mut blocks, mut bytes) = (Vec::new(), 0);
            while let Some(row) = rows.next()? {
                let id = id_of(row.get(0)?);
                let mut line: Vec<u8> = row.get(1)?;
                line.push(b'\n');
                bytes += line.len();
                blocks.push(Block { first: id, last: id, lines: line.into() });
                if bytes >= most_bytes {
                    break;
                }
            }
            Ok(blocks)
        })
    }

    /// Looks at one state of the feed.
    fn view<T>(&mut self, look: impl FnOnce(&Transaction<'_>, &Edges) -> rusqlite::Result<T>) -> Result<(Edges, T), Failure> {
        let feed = &self.feed;
        let look = |connection: &mut Sqlite| {
            let transaction = connection.transaction()?;
            let query = "select id, next, settings, coalesce((select min(first) from blocks), next) from feed";
            let (identity, next, settings, oldest): (String, i64, String, i64) =
                transaction.prepare_cached(query)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
            let settings = serde_json::from_str(&settings).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
            let edges = Edges { identity, oldest: id_of(oldest), head: id_of(next - 1), settings };
            let found = look(&transaction, &edges)?;
            transaction.finish()?;
            Ok((edges, found))
        };
        look(&mut self.connection).map_err(|error| self.database.failure(error).during(format!("reading the feed `{feed}`")))
    }
}

fn number(id: u64) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}

fn id_of(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
