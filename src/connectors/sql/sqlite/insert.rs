//! Inserts the rows of batches, and names the one that breaks a rule.

use arrow::record_batch::RecordBatch;
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection as Sqlite, ErrorCode};

use super::connection::{Database, Interrupt};
use super::encode::Binder;
use super::target::Shape;
use super::value::shown;
use super::writer::HASH;
use crate::data::{RowHasher, Schema};
use crate::failure::Failure;

/// Columns that name a row that was refused.
const COLUMNS_NAMED: usize = 4;

/// Rows that one statement inserts: a quarter less CPU than one row each, and no more is won with more rows (measured with 9 columns).
const ROWS_AT_ONCE: usize = 16;

/// SQLite's limit on the values that a statement takes.
const MOST_VALUES: usize = 32_766;

/// Writes the rows of batches.
pub(super) struct Rows<'a> {
    pub(super) database: &'a Database,
    pub(super) shape: &'a Shape,
    pub(super) schema: &'a Schema,
    pub(super) interrupt: &'a Interrupt,
}

/// A batch on its way into a table.
struct Insertion<'a> {
    /// The statement for many rows, and how many they are.
    many: (String, usize),
    /// The statement for one.
    one: String,
    cells: Vec<Binder<'a>>,
    hashes: Vec<u128>,
}

impl<'a> Rows<'a> {
    /// With `hashed`, the last column takes each row's hash.
    pub(super) fn insert(&self, connection: &Sqlite, table: &str, batch: &RecordBatch, hashed: bool) -> Result<(), Failure> {
        let mut names: Vec<&str> = self.shape.columns.iter().map(|column| column.quoted.as_str()).collect();
        let mut hashes = Vec::new();
        if hashed {
            names.push(HASH);
            hashes = RowHasher::default().hashes(batch, &(0..batch.num_columns()).collect::<Vec<_>>()).collect();
        }
        let cells = self.cells(batch);
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

    /// The values of a batch's columns.
    pub(super) fn cells<'b>(&self, batch: &'b RecordBatch) -> Vec<Binder<'b>>
    where
        'a: 'b,
    {
        let columns = self.shape.columns.iter().zip(&self.schema.columns).zip(batch.columns());
        columns.map(|((target, column), array)| Binder::new(&column.ty, array, target.affinity)).collect()
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
                Ok(Err(error)) => return self.database.failure(error).during(named(&mut insertion.cells, self.shape, row)),
                Err(failure) => return failure,
            }
        }
        self.database.failure(error)
    }
}

/// Names a row by its first columns.
pub(super) fn named(cells: &mut [Binder<'_>], shape: &Shape, row: usize) -> String {
    let cells = cells.iter_mut().zip(&shape.columns).take(COLUMNS_NAMED);
    let values = cells.filter_map(|(cells, column)| match cells.value(row) {
        ToSqlOutput::Borrowed(value) => Some(format!("{}: {}", column.name, shown(value))),
        _ => None,
    });
    format!("the row with {}", values.collect::<Vec<_>>().join(", "))
}
