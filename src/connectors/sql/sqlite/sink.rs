//! A table of a SQLite file as a sink: what `prepare` makes, and which worker may go on.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection as Sqlite, Transaction, TransactionBehavior};

use super::connection::{Database, blocking};
use super::marks;
use super::publish;
use super::reading::Reader;
use super::tables::{Table, make};
use super::target::{Publish, Shape, quote};
use super::writer::SqliteWriter;
use crate::connectors::refused::as_written;
use crate::connectors::{Claim, Load, LoadKey, Mark, Sink, Target, TargetProblem, Writer};
use crate::data::{BatchLimit, BatchStream, Schema};
use crate::define::pipeline::{SqlSink, WriteMode};
use crate::failure::{Failure, FailureKind};
use crate::tasks;

/// A table of a SQLite file.
pub(super) struct SqliteSink {
    database: Arc<Database>,
    spec: Arc<SqlSink>,
}

impl SqliteSink {
    pub(super) fn new(database: Arc<Database>, spec: Arc<SqlSink>) -> Self {
        Self { database, spec }
    }

    fn table(&self, load: &Load) -> Table {
        Table { spec: self.spec.clone(), schema: load.schema.clone() }
    }

    /// Runs work in one transaction that has the file's only place to write.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let turn = self.database.turn().await;
        let database = self.database.clone();
        let opening = database.clone();
        let connection = tasks::blocking(move || opening.writer()).await?;
        let (connection, result) = blocking(connection, move |connection, _| {
            let _turn = turn;
            in_transaction(&database, connection, work)
        })
        .await?;
        self.database.keep(connection);
        Ok(result)
    }
}

/// Begins a transaction that may write at once, and commits it when the work succeeds.
pub(in crate::connectors) fn in_transaction<T>(
    database: &Database,
    connection: &mut Sqlite,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let failed = |error| database.failure(error);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let result = work(&transaction)?;
    transaction.commit().map_err(failed)?;
    Ok(result)
}

/// The name of the table that holds the rows of a load until it is published. It is the same for every run of an output, so that what one
/// left behind is found by the next.
pub(super) fn staging_name(key: &LoadKey) -> String {
    let identity = format!("{}\0{}\0{}", key.pipeline, key.stage, key.output);
    format!("haul_staging_{:016x}", xxhash_rust::xxh3::xxh3_64(identity.as_bytes()))
}

/// Refuses to go on when a newer worker has claimed the load. Says whether the load is published.
pub(in crate::connectors) fn check_epoch(database: &Database, connection: &Sqlite, load: &Load) -> Result<bool, Failure> {
    let found = marks::epoch(connection, &load.key).map_err(|error| database.failure(error))?;
    let (newest, published) =
        found.ok_or_else(|| Failure::permanent(format!("the record of the load of stage `{}` is gone from its target", load.key.stage)))?;
    if newest == load.epoch {
        return Ok(published);
    }
    Err(Failure::new(FailureKind::Fenced, format!("another worker took over the load of stage `{}`", load.key.stage)))
}

/// The shape of the target for a load that was planned: problems that were not there then are a failure now.
pub(super) fn shape_now(database: &Database, connection: &Sqlite, spec: &SqlSink, incoming: &Schema) -> Result<Shape, Failure> {
    let shape = Shape::of(Some(connection), spec, incoming).map_err(|error| database.failure(error))?;
    shape.map_err(|problems| {
        let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
        let failure = Failure::permanent(format!("`{}` cannot take these rows: {}", spec.table.join("."), messages.join("; ")));
        problems.first().map(|problem| problem.help.clone()).into_iter().fold(failure, Failure::help)
    })
}

#[async_trait]
impl Sink for SqliteSink {
    async fn plan(&self, incoming: &Schema) -> Result<Result<Target, Vec<TargetProblem>>, Failure> {
        let (database, spec, incoming) = (self.database.clone(), self.spec.clone(), incoming.clone());
        tasks::blocking(move || {
            let connection = if database.path().exists() { Some(database.open_reader()?) } else { None };
            let shape = Shape::of(connection.as_ref(), &spec, &incoming).map_err(|error| database.failure(error))?;
            let unwritable = database.unwritable();
            Ok(match (shape, unwritable) {
                (Ok(shape), None) => Ok(target(&shape, &spec)),
                (shape, unwritable) => Err(shape.err().into_iter().flatten().chain(unwritable).collect()),
            })
        })
        .await
    }

    async fn claim(&self, key: &LoadKey) -> Result<Claim, Failure> {
        let (database, key, staged) = (self.database.clone(), key.clone(), self.staged());
        let claim = move |transaction: &Transaction<'_>| marks::create(transaction).and_then(|()| marks::claim(transaction, &key, staged));
        self.write(move |transaction| claim(transaction).map_err(|error| database.failure(error))).await
    }

    async fn prepare(&self, load: &Load, note: &str) -> Result<(), Failure> {
        let (database, spec, load, note) = (self.database.clone(), self.spec.clone(), load.clone(), note.to_owned());
        self.write(move |transaction| {
            let failed = |error| database.failure(error);
            check_epoch(&database, transaction, &load)?;
            let staging = staging_name(&load.key);
            transaction.execute_batch(&format!("drop table if exists {}", quote(&staging))).map_err(failed)?;
            let shape = shape_now(&database, transaction, &spec, &load.schema)?;
            let statements = if shape.publish == Publish::AtOnce { shape.ddl() } else { vec![shape.create_staging(&staging)] };
            for statement in statements {
                transaction.execute_batch(&statement).map_err(failed)?;
            }
            marks::begin(transaction, &load.key, &note).map_err(failed)
        })
        .await
    }

    async fn evolve(&self, load: &Load) -> Result<(), Failure> {
        let (database, table, load) = (self.database.clone(), self.table(load), load.clone());
        self.write(move |transaction| make(&[table], &database, transaction, &load)).await
    }

    async fn writer(&self, load: &Load, split: &str, from: Option<&Mark>) -> Result<Box<dyn Writer>, Failure> {
        let table = self.table(load);
        Ok(Box::new(SqliteWriter::new(self.database.clone(), vec![table], load.clone(), split.to_owned(), from.cloned())))
    }

    async fn publish(&self, load: &Load) -> Result<(), Failure> {
        let turn = self.database.turn().await;
        let (database, spec, load) = (self.database.clone(), self.spec.clone(), load.clone());
        let opening = database.clone();
        let connection = tasks::blocking(move || opening.open_writer()).await?;
        blocking(connection, move |connection, _| {
            let _turn = turn;
            publish::publish(&database, connection, &spec, &load)
        })
        .await?;
        Ok(())
    }

    async fn read_back(&self, load: &Load, limit: BatchLimit) -> Result<BatchStream, Failure> {
        let (database, spec, load) = (self.database.clone(), self.spec.clone(), load.clone());
        let (connection, query, reader) = tasks::blocking(move || {
            let (connection, shape, table) = loaded(&database, &spec, &load)?;
            let query = format!("select {} from {}", shape.column_list(), quote(&table));
            let reader = Reader { schema: Arc::new(load.schema), origin: Vec::new(), label: shape.table, limit, lenient: true, database };
            Ok((connection, query, reader))
        })
        .await?;
        Ok(as_written(reader.start(connection, query, drop)))
    }

    async fn count(&self, load: &Load) -> Result<u64, Failure> {
        let (database, spec, load) = (self.database.clone(), self.spec.clone(), load.clone());
        tasks::blocking(move || {
            let (connection, _, table) = loaded(&database, &spec, &load)?;
            let count = connection.query_row(&format!("select count(*) from {}", quote(&table)), [], |row| row.get::<_, i64>(0));
            count.map(i64::unsigned_abs).map_err(|error| database.failure(error))
        })
        .await
    }

    fn staged(&self) -> bool {
        self.spec.mode == WriteMode::Replace
    }

    async fn abandon(&self, key: &LoadKey) -> Result<(), Failure> {
        if !self.database.path().exists() {
            return Ok(());
        }
        let (database, key) = (self.database.clone(), key.clone());
        self.write(move |transaction| {
            let staging = quote(&staging_name(&key));
            let abandon = || {
                marks::create(transaction)?;
                transaction.execute_batch(&format!("drop table if exists {staging}"))?;
                marks::forget(transaction, &key)
            };
            abandon().map_err(|error| database.failure(error))
        })
        .await
    }
}

fn target(shape: &Shape, spec: &SqlSink) -> Target {
    let published = match shape.publish {
        Publish::AtOnce => "",
        Publish::Rename => "; published by renaming a staging table",
        Publish::InPlace => "; published in place, which keeps indexes, triggers and views",
    };
    let upsert = if matches!(spec.mode, WriteMode::Upsert { .. }) { "; the last row of a key wins" } else { "" };
    Target {
        columns: shape.mapped(),
        ddl: shape.ddl(),
        exists: shape.existing.is_some(),
        wire: None,
        writers: 1,
        whole: false,
        checkpoints: true,
        guarantee: format!("effectively once: rows and mark in one transaction{published}{upsert}"),
        reads_as: shape.reads_as(),
        tables: Vec::new(),
    }
}

/// The table that holds the rows of a load as it stands now, on a connection that reads.
fn loaded(database: &Database, spec: &SqlSink, load: &Load) -> Result<(Sqlite, Shape, String), Failure> {
    let connection = database.open_reader()?;
    let published = marks::epoch(&connection, &load.key).map_err(|error| database.failure(error))?.is_some_and(|(_, published)| published);
    let shape = shape_now(database, &connection, spec, &load.schema)?;
    let staged = shape.publish != Publish::AtOnce && !published;
    let table = if staged { staging_name(&load.key) } else { shape.table.clone() };
    Ok((connection, shape, table))
}
