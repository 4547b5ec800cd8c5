//! Finds the rows of a stream that the target refuses: everything is written behind savepoints, and what is refused is cut in halves until the
//! rows at fault stand alone. The transaction stays open for the mark.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use rusqlite::Connection as Sqlite;
use tokio::sync::OwnedMutexGuard;

use super::connection::{Database, Interrupt};
use super::insert::Rows;
use super::marks;
use super::sink::check_epoch;
use super::tables::{Table, shapes};
use super::target::{Shape, quote};
use super::writer::{GATHERED, create_gathered, move_gathered};
use crate::connectors::refused::{Halves, reject, tied};
use crate::connectors::{Load, Mark, moved_on};
use crate::data::Reject;
use crate::data::change::{self, Changes, is_changes};
use crate::define::pipeline::WriteMode;
use crate::failure::{Failure, FailureKind};

/// A transaction that lacks only its mark.
pub(super) struct Sifted {
    pub(super) connection: Sqlite,
    /// The right to write, which ends with the transaction.
    pub(super) turn: OwnedMutexGuard<()>,
    pub(super) rows: u64,
}

/// What came since the last commit of a stream.
pub(super) struct Sift {
    pub(super) database: Arc<Database>,
    pub(super) tables: Vec<Table>,
    pub(super) load: Load,
    pub(super) waiting: Vec<RecordBatch>,
}

impl Sift {
    /// Begins the transaction.
    pub(super) fn begin(&self, connection: &Sqlite, split: &str, from: Option<&Mark>) -> Result<(), Failure> {
        if self.tables.len() > 1 {
            // Each table is told of its own changes, and not in one order with those of the others: what refers to a row that goes must not go
            // with it.
            self.execute(connection, "pragma foreign_keys = off")?;
        }
        self.execute(connection, "begin immediate")?;
        check_epoch(&self.database, connection, &self.load)?;
        let found = marks::mark(connection, &self.load.key, split).map_err(|error| self.database.failure(error))?;
        if found.as_ref() == from { Ok(()) } else { Err(moved_on(split)) }
    }

    fn rows<'a>(&'a self, number: usize, shape: &'a Shape, interrupt: &'a Interrupt) -> Rows<'a> {
        Rows { database: &self.database, shape, schema: &self.tables[number].schema, interrupt }
    }

    /// Applies changes and looks for none that are refused. Gives the number of rows that were put or removed.
    pub(super) fn apply(&self, connection: &Sqlite, interrupt: &Interrupt) -> Result<u64, Failure> {
        let shapes = shapes(&self.tables, &self.database, connection, &self.waiting)?;
        let apply = |batch| {
            let changes = Changes::of(batch).ok_or_else(|| Failure::permanent("rows came that are no changes, which is a bug in haul"))?;
            let number = change::table(batch);
            self.rows(number, &shapes[&number], interrupt).apply(connection, batch, changes)
        };
        self.waiting.iter().filter(|batch| batch.num_rows() > 0).map(apply).sum()
    }

    /// Writes what waits. Gives the number of rows in the target, and those that it refuses: of several tables one alone would then say what was
    /// never so, and a row that is refused fails the write.
    pub(super) fn run(&self, connection: &Sqlite, interrupt: &Interrupt) -> Result<(u64, Vec<Reject>), Failure> {
        if self.tables.len() > 1 {
            return Ok((self.apply(connection, interrupt)?, Vec::new()));
        }
        let shape = self.tables[0].shape(&self.database, connection)?;
        let gathers = !shape.key.is_empty() && !self.waiting.iter().any(is_changes);
        if gathers {
            self.execute(connection, &create_gathered(&shape))?;
        }
        let (mut rows, mut refused) = (0, Vec::new());
        for batch in &self.waiting {
            rows += self.batch(connection, interrupt, &shape, batch, &mut refused)?;
        }
        if gathers {
            self.execute(connection, &format!("drop table {GATHERED}"))?;
        }
        Ok((rows, refused))
    }

    fn batch(
        &self,
        connection: &Sqlite,
        interrupt: &Interrupt,
        shape: &Shape,
        batch: &RecordBatch,
        refused: &mut Vec<Reject>,
    ) -> Result<u64, Failure> {
        let Table { spec, schema } = &self.tables[0];
        let key = match &spec.mode {
            WriteMode::Upsert { key } => key.as_slice(),
            _ => spec.primary_key.as_deref().unwrap_or_default(),
        };
        let mut rows = 0;
        let mut halves = Halves::of(batch.num_rows());
        while let Some(part) = halves.next() {
            self.execute(connection, "savepoint haul_part")?;
            match self.part(connection, interrupt, shape, &batch.slice(part.start, part.len())) {
                Ok(put) => rows += put,
                Err(failure) if failure.kind == FailureKind::BadRows => {
                    self.execute(connection, "rollback to haul_part")?;
                    if !halves.cut(&part, tied(batch)) {
                        refused.extend(part.map(|row| reject(schema, key, batch, row, &failure)));
                    }
                }
                Err(failure) => return Err(failure),
            }
            self.execute(connection, "release haul_part")?;
        }
        Ok(rows)
    }

    /// Writes some rows as if they were all.
    fn part(&self, connection: &Sqlite, interrupt: &Interrupt, shape: &Shape, batch: &RecordBatch) -> Result<u64, Failure> {
        let writing = self.rows(0, shape, interrupt);
        if let Some(changes) = Changes::of(batch) {
            return writing.apply(connection, batch, changes);
        }
        let table = quote(&shape.table);
        if shape.key.is_empty() {
            writing.insert(connection, &table, batch, false)?;
            return Ok(batch.num_rows() as u64);
        }
        writing.insert(connection, GATHERED, batch, true)?;
        let rows = connection.execute(&move_gathered(shape, &table), []).map_err(|error| self.database.failure(error))?;
        self.execute(connection, &format!("delete from {GATHERED}"))?;
        Ok(rows as u64)
    }

    fn execute(&self, connection: &Sqlite, sql: &str) -> Result<(), Failure> {
        connection.execute_batch(sql).map_err(|error| self.database.failure(error))
    }
}
