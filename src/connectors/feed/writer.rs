//! Writes one split: events are gathered without touching the feed, in memory and then in a temporary table, and committed with their mark.

use std::path::Path;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use rusqlite::{Connection as Sqlite, Transaction, params};

use super::append::Append;
use super::encode::{Encoder, Event, Events, Op};
use super::file::database;
use crate::clock;
use crate::connectors::sql::sqlite::{Database, Once, blocking};
use crate::connectors::{Committed, Load, Mark, Writer};
use crate::data::Reject;
use crate::define::pipeline::FeedSink;
use crate::failure::Failure;
use crate::tasks;

/// Bytes of events that wait in memory before they move to a temporary table.
const MEMORY: usize = 32 << 20;

/// Writes one split of a load.
pub(super) struct FeedWriter {
    database: Arc<Database>,
    spec: Arc<FeedSink>,
    encoder: Arc<Encoder>,
    load: Load,
    split: String,
    /// The split's mark in the feed, as far as this writer knows.
    from: Option<Mark>,
    events: Events,
    /// The connection with the temporary table, once there is one.
    gathered: Option<Sqlite>,
    /// Rows of the split that came before.
    came: u64,
    bytes: u64,
    refused: Vec<Reject>,
}

impl FeedWriter {
    pub(super) fn new(base: &Path, spec: Arc<FeedSink>, load: &Load, split: &str, from: Option<&Mark>) -> Result<Self, Failure> {
        Ok(Self {
            database: database(base, &spec.feed)?,
            encoder: Arc::new(Encoder::new(&load.schema, &spec.key)),
            spec,
            load: load.clone(),
            split: split.to_owned(),
            from: from.cloned(),
            events: Events::default(),
            gathered: None,
            came: from.map_or(0, |mark| mark.rows + mark.rejects),
            bytes: 0,
            refused: Vec::new(),
        })
    }

    /// Moves the events that wait into the temporary table, which is a file of its own and needs no lock on the feed.
    async fn gather(&mut self) -> Result<(), Failure> {
        let database = Arc::clone(&self.database);
        let connection = match self.gathered.take() {
            Some(connection) => connection,
            None => {
                let database = Arc::clone(&database);
                tasks::blocking(move || {
                    let connection = database.open_writer()?;
                    let create = "create table temp.gathered (op INTEGER, \"key\" BLOB, line BLOB, kept TEXT)";
                    connection.execute_batch(create).map_err(|error| database.failure(error))?;
                    Ok(connection)
                })
                .await?
            }
        };
        let events = std::mem::take(&mut self.events);
        let (connection, ()) = blocking(connection, move |connection, _| {
            let write = |connection: &mut Sqlite| {
                let transaction = connection.transaction()?;
                let mut insert = transaction.prepare_cached("insert into temp.gathered values (?, ?, ?, ?)")?;
                for event in events.iter() {
                    insert.execute(params![event.op as i64, event.key, event.line, event.kept])?;
                }
                drop(insert);
                transaction.commit()
            };
            write(connection).map_err(|error| database.failure(error))
        })
        .await?;
        self.gathered = Some(connection);
        Ok(())
    }

    /// Commits what waits together with its mark.
    async fn put(&mut self, mark: Mark) -> Result<Committed, Failure> {
        let turn = self.database.turn().await;
        let database = Arc::clone(&self.database);
        let gathered = self.gathered.is_some();
        let connection = match self.gathered.take() {
            Some(connection) => connection,
            None => {
                let database = Arc::clone(&database);
                tasks::blocking(move || database.writer()).await?
            }
        };
        let once = Once { database: Arc::clone(&database), load: self.load.clone(), from: self.from.clone(), mark };
        let commit =
            Commit { spec: Arc::clone(&self.spec), encoder: Arc::clone(&self.encoder), events: std::mem::take(&mut self.events), gathered };
        let (connection, rows) = blocking(connection, move |connection, _| {
            let _turn = turn;
            once.run(connection, |transaction| commit.write(&once, transaction))
        })
        .await?;
        if !gathered {
            database.keep(connection);
        }
        Ok(Committed { rows, bytes: std::mem::take(&mut self.bytes) })
    }
}

/// What a commit appends.
struct Commit {
    spec: Arc<FeedSink>,
    encoder: Arc<Encoder>,
    events: Events,
    gathered: bool,
}

impl Commit {
    fn write(&self, once: &Once, transaction: &Transaction<'_>) -> Result<u64, Failure> {
        let mut append = Append::new(transaction, &once.database, &self.encoder, !self.spec.key.is_empty(), clock::now_ms())?;
        let mut count = 0;
        if self.gathered {
            let failed = |error| once.database.failure(error);
            let mut select = transaction.prepare("select op, \"key\", line, kept from temp.gathered order by rowid").map_err(failed)?;
            let mut rows = select.query([]).map_err(failed)?;
            while let Some(row) = rows.next().map_err(failed)? {
                let op = match row.get::<_, i64>(0).map_err(failed)? {
                    op if op == Op::Put as i64 => Op::Put,
                    op if op == Op::Delete as i64 => Op::Delete,
                    op if op == Op::Move as i64 => Op::Move,
                    _ => Op::Clear,
                };
                let blob = |place| row.get_ref(place).and_then(|value| Ok(value.as_blob()?)).map_err(failed);
                let kept: Option<String> = row.get(3).map_err(failed)?;
                append.push(Event { op, key: blob(1)?, line: blob(2)?, kept: kept.as_deref() })?;
                count += 1;
            }
        }
        for event in self.events.iter() {
            append.push(event)?;
            count += 1;
        }
        append.finish(&self.spec.keep)?;
        Ok(count)
    }
}

#[async_trait]
impl Writer for FeedWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<(), Failure> {
        let before = self.events.bytes();
        self.encoder.take(&batch, self.came, &mut self.events, &mut self.refused)?;
        self.came += batch.num_rows() as u64;
        self.bytes += (self.events.bytes() - before) as u64;
        if self.gathered.is_some() || self.events.bytes() > MEMORY { self.gather().await } else { Ok(()) }
    }

    async fn refused(&mut self) -> Result<Vec<Reject>, Failure> {
        Ok(std::mem::take(&mut self.refused))
    }

    async fn checkpoint(&mut self, mark: Mark) -> Result<Committed, Failure> {
        let committed = self.put(mark.clone()).await?;
        self.from = Some(mark);
        Ok(committed)
    }

    async fn commit(mut self: Box<Self>, mark: Mark) -> Result<Committed, Failure> {
        if mark.split != self.split {
            return Err(Failure::permanent(format!("a mark of split `{}` came for split `{}`", mark.split, self.split)));
        }
        self.put(mark).await
    }
}
