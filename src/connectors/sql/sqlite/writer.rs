//! Writes one split. Rows are gathered without touching the target, and are committed with their mark in one transaction.
//!
//! The first rows wait in memory; when all writers of the database hold more than a stated amount, they go to a table in the connection's own
//! temporary file, which needs no lock. An upsert gathers there from the start, because that table keeps the last row of each key.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use rusqlite::types::ValueRef;
use rusqlite::{Connection as Sqlite, Transaction};
use tokio::sync::OwnedSemaphorePermit;

use super::compare::Comparison;
use super::connection::{Database, Interrupt, blocking};
use super::insert::Rows;
use super::once::Once;
use super::sift::{Sift, Sifted};
use super::sink::staging_name;
use super::tables::Table;
use super::target::{Publish, Shape, quote, quoted_list};
use crate::connectors::{Committed, Load, Mark, Writer};
use crate::data::Reject;
use crate::data::change::is_changes;
use crate::define::pipeline::{Verify, WriteMode};
use crate::failure::Failure;
use crate::tasks;

/// Most bytes of a stream's commit that wait in memory to be sifted. What is larger is gathered, and not sifted.
const MOST_KEPT: u64 = 32 << 20;

/// The table in the temporary file.
pub(super) const GATHERED: &str = "temp.haul_gathered";

/// The column of that table that holds a row's hash, in upserts whose rows are compared after they are written.
pub(super) const HASH: &str = "haul_row_hash";

/// Writes one split of a load.
pub(super) struct SqliteWriter {
    database: Arc<Database>,
    tables: Vec<Table>,
    load: Load,
    split: String,
    /// The split's mark in the target, as far as this writer knows.
    from: Option<Mark>,
    waiting: Vec<RecordBatch>,
    /// The room in memory of what waits.
    room: Option<OwnedSemaphorePermit>,
    /// All bytes that arrived.
    bytes: u64,
    /// The connection with the temporary table, once there is one.
    gathered: Option<Sqlite>,
    /// Rows that the target refuses are found and given back.
    sifts: bool,
    /// What waited is in the target, and only its commit is missing.
    sifted: Option<Sifted>,
}

impl SqliteWriter {
    pub(super) fn new(database: Arc<Database>, tables: Vec<Table>, load: Load, split: String, from: Option<Mark>) -> Self {
        Self { database, tables, load, split, from, waiting: Vec::new(), room: None, bytes: 0, gathered: None, sifts: false, sifted: None }
    }

    fn upserts(&self) -> bool {
        matches!(self.first().spec.mode, WriteMode::Upsert { .. })
    }

    /// The table of rows that are no changes.
    fn first(&self) -> &Table {
        &self.tables[0]
    }

    /// Moves the batches that wait into the temporary table.
    async fn gather(&mut self) -> Result<(), Failure> {
        let (database, table) = (self.database.clone(), self.first().clone());
        let connection = match self.gathered.take() {
            Some(connection) => connection,
            None => {
                let (database, table) = (database.clone(), table.clone());
                tasks::blocking(move || {
                    let connection = database.open_writer()?;
                    let shape = table.shape(&database, &connection)?;
                    connection.execute_batch(&create_gathered(&shape)).map_err(|error| database.failure(error))?;
                    Ok(connection)
                })
                .await?
            }
        };
        let waiting = std::mem::take(&mut self.waiting);
        let room = self.room.take();
        let (connection, ()) = blocking(connection, move |connection, interrupt| {
            let shape = table.shape(&database, connection)?;
            // A transaction that only writes the temporary file takes no lock on the database.
            let transaction = connection.transaction().map_err(|error| database.failure(error))?;
            let writing = Rows { database: &database, shape: &shape, schema: &table.schema, interrupt };
            for batch in &waiting {
                writing.insert(&transaction, GATHERED, batch, !shape.key.is_empty())?;
            }
            drop(room);
            transaction.commit().map_err(|error| database.failure(error))
        })
        .await?;
        self.gathered = Some(connection);
        Ok(())
    }
}

#[async_trait]
impl Writer for SqliteWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<(), Failure> {
        let bytes = batch.get_array_memory_size();
        self.bytes += bytes as u64;
        self.waiting.push(batch);
        if self.sifts && self.gathered.is_none() && self.sifted.is_none() && self.bytes <= MOST_KEPT {
            return Ok(());
        }
        if self.waiting.iter().any(is_changes) {
            return self.apply().await;
        }
        let waits = !self.upserts() && self.gathered.is_none() && !self.sifts;
        match waits.then(|| self.database.room(bytes)).flatten() {
            Some(more) => match &mut self.room {
                Some(room) => room.merge(more),
                none => *none = Some(more),
            },
            None => self.gather().await?,
        }
        Ok(())
    }

    fn give_back(&mut self) {
        self.sifts = true;
    }

    async fn refused(&mut self) -> Result<Vec<Reject>, Failure> {
        if !self.sifts || self.waiting.is_empty() || self.gathered.is_some() || self.sifted.is_some() {
            return Ok(Vec::new());
        }
        let (begun, sift) = self.begun().await?;
        let (connection, (rows, refused)) =
            blocking(begun.connection, move |connection, interrupt| sift.run(connection, interrupt)).await?;
        self.sifted = Some(Sifted { connection, turn: begun.turn, rows });
        Ok(refused)
    }

    async fn checkpoint(&mut self, mark: Mark) -> Result<Committed, Failure> {
        let committed = self.put(mark.clone()).await?;
        self.from = Some(mark);
        Ok(committed)
    }

    async fn commit(mut self: Box<Self>, mark: Mark) -> Result<Committed, Failure> {
        self.put(mark).await
    }
}

impl SqliteWriter {
    /// The transaction that changes are written in, and what waits for it.
    async fn begun(&mut self) -> Result<(Sifted, Sift), Failure> {
        let sift = Sift {
            database: self.database.clone(),
            tables: self.tables.clone(),
            load: self.load.clone(),
            waiting: std::mem::take(&mut self.waiting),
        };
        if let Some(begun) = self.sifted.take() {
            return Ok((begun, sift));
        }
        let turn = self.database.turn().await;
        let database = self.database.clone();
        let connection = tasks::blocking(move || database.writer()).await?;
        let (split, from) = (self.split.clone(), self.from.clone());
        let (connection, sift) =
            blocking(connection, move |connection, _| sift.begin(connection, &split, from.as_ref()).map(|()| sift)).await?;
        Ok((Sifted { connection, turn, rows: 0 }, sift))
    }

    /// Applies the changes that wait, more than are held in memory, ahead of their commit.
    async fn apply(&mut self) -> Result<(), Failure> {
        let (begun, sift) = self.begun().await?;
        let (connection, rows) = blocking(begun.connection, move |connection, interrupt| sift.apply(connection, interrupt)).await?;
        self.sifted = Some(Sifted { connection, turn: begun.turn, rows: begun.rows + rows });
        Ok(())
    }

    /// Commits what waits together with its mark.
    async fn put(&mut self, mark: Mark) -> Result<Committed, Failure> {
        if mark.split != self.split {
            return Err(Failure::permanent(format!("a mark of split `{}` came for split `{}`", mark.split, self.split)));
        }
        if let Some(Sifted { connection, turn, rows }) = self.sifted.take() {
            let once = self.once(mark);
            let bytes = std::mem::take(&mut self.bytes);
            let (connection, rows) = blocking(connection, move |connection, _| {
                let _turn = turn;
                let rows = once.end(connection, rows)?;
                connection.pragma_update(None, "foreign_keys", true).map_err(|error| once.database.failure(error))?;
                Ok(rows)
            })
            .await?;
            self.database.keep(connection);
            return Ok(Committed { rows, bytes });
        }
        let turn = self.database.turn().await;
        let database = self.database.clone();
        let gathered = self.gathered.is_some();
        let connection = match self.gathered.take() {
            Some(connection) => connection,
            None => {
                let database = database.clone();
                tasks::blocking(move || database.writer()).await?
            }
        };
        let work = Commit { once: self.once(mark), table: self.first().clone(), waiting: std::mem::take(&mut self.waiting), gathered };
        let room = self.room.take();
        let bytes = std::mem::take(&mut self.bytes);
        let (connection, rows) = blocking(connection, move |connection, interrupt| {
            let _held = (turn, room);
            work.once.run(connection, |transaction| work.write(transaction, interrupt))
        })
        .await?;
        if !gathered {
            database.keep(connection);
        }
        Ok(Committed { rows, bytes })
    }

    fn once(&self, mark: Mark) -> Once {
        Once { database: self.database.clone(), load: self.load.clone(), from: self.from.clone(), mark }
    }
}

/// The last step of a split, or of a part of it.
struct Commit {
    once: Once,
    table: Table,
    waiting: Vec<RecordBatch>,
    gathered: bool,
}

impl Commit {
    fn write(&self, transaction: &Transaction<'_>, interrupt: &Interrupt) -> Result<u64, Failure> {
        let Once { database, load, .. } = &self.once;
        let shape = self.table.shape(database, transaction)?;
        let table = if shape.publish == Publish::AtOnce { quote(&shape.table) } else { quote(&staging_name(&load.key)) };
        let mut rows = 0;
        if self.gathered {
            rows += transaction.execute(&move_gathered(&shape, &table), []).map_err(|error| self.refused(error))? as u64;
            if !shape.key.is_empty() && load.verify == Verify::Digest {
                self.compare(transaction, &shape)?;
            }
        }
        let writing = Rows { database, shape: &shape, schema: &self.table.schema, interrupt };
        for batch in &self.waiting {
            writing.insert(transaction, &table, batch, false)?;
            rows += batch.num_rows() as u64;
        }
        Ok(rows)
    }

    fn refused(&self, error: rusqlite::Error) -> Failure {
        let Once { database, mark, .. } = &self.once;
        database.failure(error).during(format!("failed to write split `{}` to `{}`", mark.split, self.table.spec.table.join(".")))
    }

    /// Reads the rows that were upserted back by their keys, and compares each with the hash of what arrived.
    fn compare(&self, transaction: &Transaction<'_>, shape: &Shape) -> Result<(), Failure> {
        let failed = |error| self.once.database.failure(error);
        let columns: Vec<String> = shape.columns.iter().map(|column| format!("target.{}", column.quoted)).collect();
        let on: Vec<String> = shape.key.iter().map(|name| format!("target.{0} = arrived.{0}", quote(name))).collect();
        let query = format!(
            "select {}, arrived.{HASH} from {GATHERED} arrived left join {} target on {}",
            columns.join(", "),
            quote(&shape.table),
            on.join(" and ")
        );
        let mut statement = transaction.prepare(&query).map_err(failed)?;
        let mut found = statement.query([]).map_err(failed)?;
        let mut comparison = Comparison::new(&self.table.schema, &shape.key);
        while let Some(row) = found.next().map_err(failed)? {
            let hash: Vec<u8> = row.get(shape.columns.len()).map_err(failed)?;
            comparison.push(|place| row.get_ref(place).unwrap_or(ValueRef::Null), hash)?;
        }
        comparison.finish(&shape.table)
    }
}

/// The temporary table of a split: columns as the target's, so that SQLite can copy whole rows; for an upsert, values as they arrive.
pub(super) fn create_gathered(shape: &Shape) -> String {
    if shape.key.is_empty() {
        return shape.create_gathered(GATHERED);
    }
    let mut columns: Vec<String> = shape.columns.iter().map(|column| column.quoted.clone()).collect();
    columns.push(HASH.to_owned());
    columns.push(format!("UNIQUE ({}) ON CONFLICT REPLACE", quoted_list(shape.key.iter().map(String::as_str))));
    format!("CREATE TABLE {GATHERED} ({})", columns.join(", "))
}

/// The statement that moves gathered rows into the target, in the order they came.
pub(super) fn move_gathered(shape: &Shape, table: &str) -> String {
    let columns = shape.column_list();
    if shape.key.is_empty() {
        return format!("insert into {table} ({columns}) select {columns} from {GATHERED}");
    }
    shape.upsert(&format!("select {columns} from {GATHERED} where true order by rowid"))
}
