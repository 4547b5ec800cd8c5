//! Writes one split. Rows are gathered without touching the target, and are committed with their mark in one transaction.
//!
//! The first rows wait in memory; when they are more than a stated amount, they go to a table in the connection's own temporary file, which
//! needs no lock. An upsert gathers there from the start, because that table keeps the last row of each key.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection as Sqlite, ErrorCode, Transaction};

use super::connection::{Database, Interrupt, blocking, blocking_open};
use super::decode::{Decoder, shown};
use super::encode::Cells;
use super::marks;
use super::sink::{check_epoch, in_transaction, shape_now, staging_name};
use super::target::{Publish, Shape, quote, quoted_list};
use crate::connectors::{Committed, Load, Mark, Writer};
use crate::data::{RowHasher, Schema};
use crate::define::pipeline::{SqlSink, Verify, WriteMode};
use crate::failure::{Failure, FailureKind};

/// Bytes of a split that wait in memory before it moves to a temporary file.
const MEMORY: usize = 32 << 20;

/// The table in the temporary file.
const GATHERED: &str = "temp.haul_gathered";

/// The column of that table that holds a row's hash, in upserts whose rows are compared after they are written.
const HASH: &str = "haul_row_hash";

/// Keys named when rows differ.
const KEYS_NAMED: usize = 5;

/// Columns that name a row that was refused.
const COLUMNS_NAMED: usize = 4;

/// Rows read back at a time.
const COMPARED: usize = 4096;

/// Writes one split of a load.
pub(super) struct SqliteWriter {
    database: Arc<Database>,
    spec: Arc<SqlSink>,
    load: Load,
    split: String,
    waiting: Vec<RecordBatch>,
    waiting_bytes: usize,
    /// All bytes that arrived.
    bytes: u64,
    /// The connection with the temporary table, once there is one.
    gathered: Option<Sqlite>,
}

impl SqliteWriter {
    pub(super) fn new(database: Arc<Database>, spec: Arc<SqlSink>, load: Load, split: String) -> Self {
        Self { database, spec, load, split, waiting: Vec::new(), waiting_bytes: 0, bytes: 0, gathered: None }
    }

    fn upserts(&self) -> bool {
        matches!(self.spec.mode, WriteMode::Upsert { .. })
    }

    /// Moves the batches that wait into the temporary table.
    async fn gather(&mut self) -> Result<(), Failure> {
        let (database, spec, load) = (self.database.clone(), self.spec.clone(), self.load.clone());
        let connection = match self.gathered.take() {
            Some(connection) => connection,
            None => {
                let (database, spec, load) = (database.clone(), spec.clone(), load.clone());
                blocking_open(move || {
                    let connection = database.open_writer()?;
                    let shape = shape_now(&database, &connection, &spec, &load.schema)?;
                    connection.execute_batch(&create_gathered(&shape)).map_err(|error| database.failure(error))?;
                    Ok(connection)
                })
                .await?
            }
        };
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let (connection, ()) = blocking(connection, move |connection, interrupt| {
            let shape = shape_now(&database, connection, &spec, &load.schema)?;
            // A transaction that only writes the temporary file takes no lock on the database.
            let transaction = connection.transaction().map_err(|error| database.failure(error))?;
            let writing = Rows { database: &database, shape: &shape, schema: &load.schema, interrupt };
            for batch in &waiting {
                writing.insert(&transaction, GATHERED, batch, !shape.key.is_empty())?;
            }
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
        self.waiting_bytes += bytes;
        self.waiting.push(batch);
        if self.upserts() || self.gathered.is_some() || self.waiting_bytes > MEMORY {
            self.gather().await?;
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>, mark: Mark) -> Result<Committed, Failure> {
        if mark.split != self.split {
            return Err(Failure::permanent(format!("a mark of split `{}` came for split `{}`", mark.split, self.split)));
        }
        let turn = self.database.turn().await;
        let database = self.database.clone();
        let gathered = self.gathered.is_some();
        let connection = match self.gathered.take() {
            Some(connection) => connection,
            None => {
                let database = database.clone();
                blocking_open(move || database.writer()).await?
            }
        };
        let work = Commit { database: self.database, spec: self.spec, load: self.load, mark, waiting: self.waiting, gathered };
        let bytes = self.bytes;
        let (connection, rows) = blocking(connection, move |connection, interrupt| {
            let _turn = turn;
            work.run(connection, interrupt)
        })
        .await?;
        if !gathered {
            database.keep(connection);
        }
        Ok(Committed { rows, bytes })
    }
}

/// The last step of a split.
struct Commit {
    database: Arc<Database>,
    spec: Arc<SqlSink>,
    load: Load,
    mark: Mark,
    waiting: Vec<RecordBatch>,
    gathered: bool,
}

impl Commit {
    fn run(&self, connection: &mut Sqlite, interrupt: &Interrupt) -> Result<u64, Failure> {
        let result = in_transaction(&self.database, connection, |transaction| self.write(transaction, interrupt));
        match result {
            // Whether a commit that failed took place is told by the mark, on a fresh connection.
            Err(failure) if failure.kind == FailureKind::Permanent => match self.settled() {
                Some(rows) => Ok(rows),
                None => Err(failure),
            },
            result => result,
        }
    }

    fn settled(&self) -> Option<u64> {
        let connection = self.database.open_reader().ok()?;
        let found = marks::mark(&connection, &self.load.key, &self.mark.split).ok()??;
        (found == self.mark).then_some(found.rows)
    }

    fn write(&self, transaction: &Transaction<'_>, interrupt: &Interrupt) -> Result<u64, Failure> {
        let failed = |error| self.database.failure(error);
        let published = check_epoch(&self.database, transaction, &self.load)?;
        if let Some(mark) = marks::mark(transaction, &self.load.key, &self.mark.split).map_err(failed)? {
            return Ok(mark.rows);
        }
        if published {
            return Err(Failure::permanent(format!("the load of stage `{}` is published already", self.load.key.stage)));
        }
        let shape = shape_now(&self.database, transaction, &self.spec, &self.load.schema)?;
        let table = if shape.publish == Publish::AtOnce { quote(&shape.table) } else { quote(&staging_name(&self.load.key)) };
        let mut rows = 0;
        if self.gathered {
            rows += transaction.execute(&move_gathered(&shape, &table), []).map_err(|error| self.refused(error))? as u64;
            if !shape.key.is_empty() && self.load.verify == Verify::Digest {
                self.compare(transaction, &shape)?;
            }
        }
        let writing = Rows { database: &self.database, shape: &shape, schema: &self.load.schema, interrupt };
        for batch in &self.waiting {
            writing.insert(transaction, &table, batch, false)?;
            rows += batch.num_rows() as u64;
        }
        marks::insert(transaction, &self.load.key, self.load.epoch, &self.mark).map_err(failed)?;
        Ok(rows)
    }

    fn refused(&self, error: rusqlite::Error) -> Failure {
        self.database.failure(error).during(format!("failed to write split `{}` to `{}`", self.mark.split, self.spec.table.join(".")))
    }

    /// Reads the rows that were upserted back by their keys, and compares each with the hash of what arrived.
    fn compare(&self, transaction: &Transaction<'_>, shape: &Shape) -> Result<(), Failure> {
        let failed = |error| self.database.failure(error);
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
        let mut comparison = Comparison::new(&self.load.schema, &shape.key);
        while let Some(row) = found.next().map_err(failed)? {
            let hash: Vec<u8> = row.get(shape.columns.len()).map_err(failed)?;
            comparison.push(|place| row.get_ref(place).unwrap_or(ValueRef::Null), hash)?;
        }
        comparison.finish(&shape.table)
    }
}

/// Rows read back from an upsert, against the hashes of the rows that arrived.
struct Comparison<'a> {
    schema: &'a Schema,
    key: Vec<usize>,
    decoder: Decoder,
    expected: Vec<Vec<u8>>,
    names: Vec<String>,
    hasher: RowHasher,
    differing: Vec<String>,
    count: u64,
}

impl<'a> Comparison<'a> {
    fn new(schema: &'a Schema, key: &[String]) -> Self {
        let places = schema.columns.iter().enumerate();
        let key =
            places.filter(|(_, column)| key.iter().any(|name| name.eq_ignore_ascii_case(&column.name))).map(|(place, _)| place).collect();
        let decoder = Decoder::new(schema, true);
        Self {
            schema,
            key,
            decoder,
            expected: Vec::new(),
            names: Vec::new(),
            hasher: RowHasher::default(),
            differing: Vec::new(),
            count: 0,
        }
    }

    fn push<'v>(&mut self, value: impl Fn(usize) -> ValueRef<'v>, hash: Vec<u8>) -> Result<(), Failure> {
        let parts: Vec<String> =
            self.key.iter().map(|place| format!("{}: {}", self.schema.columns[*place].name, shown(value(*place)))).collect();
        match self.decoder.push(&value) {
            Ok(()) => {
                self.expected.push(hash);
                self.names.push(parts.join(", "));
            }
            Err(misfit) => {
                self.differs(format!("{} (column `{}` is {})", parts.join(", "), self.schema.columns[misfit.column].name, misfit.value))
            }
        }
        if self.decoder.rows() >= COMPARED { self.flush() } else { Ok(()) }
    }

    fn differs(&mut self, name: String) {
        self.count += 1;
        if self.differing.len() < KEYS_NAMED {
            self.differing.push(name);
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let (batch, _) = self.decoder.finish()?;
        let columns: Vec<usize> = (0..batch.num_columns()).collect();
        let hashes: Vec<u128> = self.hasher.hashes(&batch, &columns).collect();
        let expected = std::mem::take(&mut self.expected);
        let names = std::mem::take(&mut self.names);
        for ((hash, expected), name) in hashes.into_iter().zip(expected).zip(names) {
            if hash.to_le_bytes()[..] != expected[..] {
                self.differs(name);
            }
        }
        Ok(())
    }

    fn finish(mut self, table: &str) -> Result<(), Failure> {
        self.flush()?;
        if self.count == 0 {
            return Ok(());
        }
        let more = if self.count > self.differing.len() as u64 { ", …" } else { "" };
        Err(Failure::permanent(format!(
            "{} rows of `{table}` differ from what was written to them, by key: {}{more}",
            self.count,
            self.differing.join("; ")
        ))
        .help("a trigger, a collation of the key or the types of the table's columns change values on their way in"))
    }
}

/// The temporary table of a split: columns as the target's, so that SQLite can copy whole rows; for an upsert, values as they arrive.
fn create_gathered(shape: &Shape) -> String {
    if shape.key.is_empty() {
        return shape.create_gathered(GATHERED);
    }
    let mut columns: Vec<String> = shape.columns.iter().map(|column| column.quoted.clone()).collect();
    columns.push(HASH.to_owned());
    columns.push(format!("UNIQUE ({}) ON CONFLICT REPLACE", quoted_list(shape.key.iter().map(String::as_str))));
    format!("CREATE TABLE {GATHERED} ({})", columns.join(", "))
}

/// The statement that moves gathered rows into the target, in the order they came.
fn move_gathered(shape: &Shape, table: &str) -> String {
    let columns = shape.column_list();
    if shape.key.is_empty() {
        return format!("insert into {table} ({columns}) select {columns} from {GATHERED}");
    }
    let key = quoted_list(shape.key.iter().map(String::as_str));
    let others: Vec<String> = shape
        .columns
        .iter()
        .filter(|column| !shape.key.contains(&column.name))
        .map(|column| format!("{0} = excluded.{0}", column.quoted))
        .collect();
    let action = if others.is_empty() { "nothing".to_owned() } else { format!("update set {}", others.join(", ")) };
    format!("insert into {table} ({columns}) select {columns} from {GATHERED} where true order by rowid on conflict ({key}) do {action}")
}

/// Rows that one statement inserts: a quarter less CPU than one row each, and no more is won with more rows (measured with 9 columns).
const ROWS_AT_ONCE: usize = 16;

/// SQLite's limit on the values that a statement takes.
const MOST_VALUES: usize = 32_766;

/// Inserts the rows of batches.
struct Rows<'a> {
    database: &'a Database,
    shape: &'a Shape,
    schema: &'a Schema,
    interrupt: &'a Interrupt,
}

/// A batch on its way into a table.
struct Insertion<'a> {
    /// The statement for many rows, and how many they are.
    many: (String, usize),
    /// The statement for one.
    one: String,
    cells: Vec<Cells<'a>>,
    hashes: Vec<u128>,
}

impl Rows<'_> {
    /// With `hashed`, the last column takes each row's hash.
    fn insert(&self, connection: &Sqlite, table: &str, batch: &RecordBatch, hashed: bool) -> Result<(), Failure> {
        let mut names: Vec<&str> = self.shape.columns.iter().map(|column| column.quoted.as_str()).collect();
        let mut hashes = Vec::new();
        if hashed {
            names.push(HASH);
            hashes = RowHasher::default().hashes(batch, &(0..batch.num_columns()).collect::<Vec<_>>()).collect();
        }
        let columns = self.shape.columns.iter().zip(&self.schema.columns).zip(batch.columns());
        let cells = columns.map(|((target, column), array)| Cells::new(&column.ty, array, target.affinity)).collect();
        let at_once = ROWS_AT_ONCE.min(MOST_VALUES / names.len().max(1)).max(1);
        let values = format!("({})", vec!["?"; names.len()].join(", "));
        let one = format!("insert into {table} ({}) values {values}", names.join(", "));
        let many = (format!("{one}{}", format!(", {values}").repeat(at_once - 1)), at_once);
        let mut insertion = Insertion { many, one, cells, hashes };
        let mut row = 0;
        while row < batch.num_rows() {
            let count = if batch.num_rows() - row >= at_once { at_once } else { 1 };
            if let Err(error) = self.insert_rows(connection, &mut insertion, row, count)? {
                return Err(self.refused(connection, &mut insertion, row, count, error));
            }
            row += count;
            if self.interrupt.fired() {
                return Err(Failure::cancelled());
            }
        }
        Ok(())
    }

    /// Inserts some rows with one statement; the inner error is what SQLite said to them.
    fn insert_rows(
        &self,
        connection: &Sqlite,
        insertion: &mut Insertion<'_>,
        first: usize,
        count: usize,
    ) -> Result<Result<(), rusqlite::Error>, Failure> {
        let failed = |error| self.database.failure(error);
        let sql = if count == insertion.many.1 { &insertion.many.0 } else { &insertion.one };
        let mut statement = connection.prepare_cached(sql).map_err(failed)?;
        let mut parameter = 0;
        for row in first..first + count {
            for (place, cells) in insertion.cells.iter_mut().enumerate() {
                if cells.is_null(row) {
                    self.check_null(place)?;
                }
                parameter += 1;
                statement.raw_bind_parameter(parameter, cells.value(row)).map_err(failed)?;
            }
            if let Some(hash) = insertion.hashes.get(row) {
                parameter += 1;
                statement.raw_bind_parameter(parameter, hash.to_le_bytes().as_slice()).map_err(failed)?;
            }
        }
        Ok(statement.raw_execute().map(|_| ()))
    }

    /// SQLite would take a NULL in these places without a word, and make a row number of it, or a second row of the same key.
    fn check_null(&self, place: usize) -> Result<(), Failure> {
        let column = &self.shape.columns[place];
        if !column.row_number && !self.shape.key.contains(&column.name) {
            return Ok(());
        }
        Err(Failure::bad_rows(format!("a row has no value in `{}`, a key column of `{}`", column.name, self.shape.table))
            .help("leave such rows out with `filter:`"))
    }

    /// Names the row that breaks a rule: the first of those that were inserted together which cannot be inserted alone.
    fn refused(&self, connection: &Sqlite, insertion: &mut Insertion<'_>, first: usize, count: usize, error: rusqlite::Error) -> Failure {
        if error.sqlite_error_code() != Some(ErrorCode::ConstraintViolation) {
            return self.database.failure(error);
        }
        for row in first..first + count {
            match self.insert_rows(connection, insertion, row, 1) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return self.database.failure(error).during(self.name(insertion, row)),
                Err(failure) => return failure,
            }
        }
        self.database.failure(error)
    }

    fn name(&self, insertion: &mut Insertion<'_>, row: usize) -> String {
        let cells = insertion.cells.iter_mut().zip(&self.shape.columns).take(COLUMNS_NAMED);
        let values = cells.filter_map(|(cells, column)| match cells.value(row) {
            ToSqlOutput::Borrowed(value) => Some(format!("{}: {}", column.name, shown(value))),
            _ => None,
        });
        format!("the row with {}", values.collect::<Vec<_>>().join(", "))
    }
}
