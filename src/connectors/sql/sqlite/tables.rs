//! Several tables of one file, written together: what a transaction changed in any of them commits in one transaction with the mark.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use rusqlite::{Connection as Sqlite, Transaction};

use super::connection::Database;
use super::marks;
use super::sink::{SqliteSink, check_epoch, shape_now};
use super::target::Shape;
use super::writer::SqliteWriter;
use crate::connectors::{Claim, Load, LoadKey, Mark, Sink, Target, TargetProblem, Writer, no_common_rows};
use crate::data::{BatchLimit, BatchStream, Schema, change};
use crate::define::pipeline::SqlSink;
use crate::failure::Failure;

/// A table that is written, and the columns that come for it.
#[derive(Clone)]
pub(super) struct Table {
    pub(super) spec: Arc<SqlSink>,
    pub(super) schema: Schema,
}

impl Table {
    /// What the table is now.
    pub(super) fn shape(&self, database: &Database, connection: &Sqlite) -> Result<Shape, Failure> {
        shape_now(database, connection, &self.spec, &self.schema)
    }
}

/// The tables that these batches are of, as they are now, by their numbers.
pub(super) fn shapes(
    tables: &[Table],
    database: &Database,
    connection: &Sqlite,
    batches: &[RecordBatch],
) -> Result<BTreeMap<usize, Shape>, Failure> {
    let came: BTreeSet<usize> = batches.iter().map(change::table).collect();
    let unknown = || Failure::permanent("rows came for a table that is not written");
    came.into_iter().map(|number| Ok((number, tables.get(number).ok_or_else(unknown)?.shape(database, connection)?))).collect()
}

/// Makes of tables what the columns of a load need.
pub(super) fn make(tables: &[Table], database: &Database, connection: &Sqlite, load: &Load) -> Result<(), Failure> {
    check_epoch(database, connection, load)?;
    for table in tables {
        for statement in table.shape(database, connection)?.ddl() {
            connection.execute_batch(&statement).map_err(|error| database.failure(error))?;
        }
    }
    Ok(())
}

/// The tables that a stream of several goes to, by their numbers.
pub(super) struct SqliteTables {
    database: Arc<Database>,
    tables: Vec<Table>,
}

impl SqliteTables {
    pub(super) fn new(database: Arc<Database>, tables: Vec<(SqlSink, Schema)>) -> Self {
        let tables = tables.into_iter().map(|(spec, schema)| Table { spec: Arc::new(spec), schema }).collect();
        Self { database, tables }
    }

    fn sink(&self, table: &Table) -> SqliteSink {
        SqliteSink::new(self.database.clone(), table.spec.clone())
    }

    /// The load is recorded as if there were only this one.
    fn first(&self) -> SqliteSink {
        self.sink(&self.tables[0])
    }
}

#[async_trait]
impl Sink for SqliteTables {
    async fn plan(&self, _: &Schema) -> Result<Result<Target, Vec<TargetProblem>>, Failure> {
        let (mut targets, mut problems) = (Vec::new(), Vec::new());
        for table in &self.tables {
            match self.sink(table).plan(&table.schema).await? {
                Ok(target) => targets.push(target),
                Err(found) => problems.extend(found),
            }
        }
        Ok(if problems.is_empty() { Ok(Target::of_tables(targets)) } else { Err(problems) })
    }

    async fn claim(&self, key: &LoadKey) -> Result<Claim, Failure> {
        self.first().claim(key).await
    }

    async fn prepare(&self, load: &Load, note: &str) -> Result<(), Failure> {
        let (database, tables, load, note) = (self.database.clone(), self.tables.clone(), load.clone(), note.to_owned());
        let prepare = move |transaction: &Transaction<'_>| {
            make(&tables, &database, transaction, &load)?;
            marks::begin(transaction, &load.key, &note).map_err(|error| database.failure(error))
        };
        self.first().write(prepare).await
    }

    async fn evolve(&self, load: &Load) -> Result<(), Failure> {
        let (database, tables, load) = (self.database.clone(), self.tables.clone(), load.clone());
        self.first().write(move |transaction| make(&tables, &database, transaction, &load)).await
    }

    async fn writer(&self, load: &Load, split: &str, from: Option<&Mark>) -> Result<Box<dyn Writer>, Failure> {
        Ok(Box::new(SqliteWriter::new(self.database.clone(), self.tables.clone(), load.clone(), split.to_owned(), from.cloned())))
    }

    /// There is nothing to do: only streams write several tables, and they have no end.
    async fn publish(&self, _: &Load) -> Result<(), Failure> {
        Ok(())
    }

    async fn read_back(&self, _: &Load, _: BatchLimit) -> Result<BatchStream, Failure> {
        Err(no_common_rows())
    }

    fn staged(&self) -> bool {
        false
    }

    async fn abandon(&self, key: &LoadKey) -> Result<(), Failure> {
        self.first().abandon(key).await
    }
}
