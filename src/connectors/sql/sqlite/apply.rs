//! Changes of rows, made in a table one after the other, as they were made in the table that they come from.

use arrow::array::{Array, AsArray, StringArray};
use arrow::record_batch::RecordBatch;
use rusqlite::Connection as Sqlite;

use super::connection::{Database, Interrupt};
use super::encode::Binder;
use super::insert::named;
use super::target::{Shape, quote};
use crate::data::Schema;
use crate::data::change::{EMPTIED, GONE, MOVED};
use crate::failure::Failure;

/// Applies the changes of batches.
pub(super) struct Changes<'a> {
    pub(super) database: &'a Database,
    pub(super) shape: &'a Shape,
    pub(super) schema: &'a Schema,
    pub(super) interrupt: &'a Interrupt,
}

impl Changes<'_> {
    /// Applies the changes of a batch. Gives how many rows were put or removed.
    pub(super) fn apply(&self, connection: &Sqlite, batch: &RecordBatch) -> Result<u64, Failure> {
        let broken = || Failure::permanent("a batch of changes does not say what happened");
        let text = |behind: usize| -> Option<&StringArray> { batch.column(batch.num_columns() - behind).as_string_opt() };
        let (words, kept) = (text(2).ok_or_else(broken)?, text(1).ok_or_else(broken)?);
        let columns = self.shape.columns.iter().zip(&self.schema.columns).zip(batch.columns());
        let mut cells: Vec<Binder<'_>> = columns.map(|((target, column), array)| Binder::new(&column.ty, array, target.affinity)).collect();
        let table = quote(&self.shape.table);
        let key: Vec<usize> = (0..cells.len()).filter(|place| self.is_key(*place)).collect();
        let by_key = self.pairs(&key, " and ");
        let (put, remove) = (self.put(), format!("delete from {table} where {by_key}"));
        let mut rows = 0;
        let mut row = 0;
        while row < batch.num_rows() {
            let mut run = |sql: &str, values: &[(usize, usize)]| self.run(connection, sql, &mut cells, values);
            let kept_by = |row: usize| kept.is_valid(row).then(|| kept.value(row)).filter(|kept| !kept.is_empty());
            // A row that takes another key keeps what did not come.
            let moved = words.value(row) == MOVED && row + 1 < words.len() && kept_by(row + 1).is_some();
            let from = row;
            row += usize::from(moved);
            match (words.value(row), kept_by(row)) {
                (EMPTIED, _) => run(&format!("delete from {table}"), &[])?,
                (GONE | MOVED, _) => run(&remove, &key.iter().map(|place| (*place, row)).collect::<Vec<_>>())?,
                (_, None) => run(&put, &(0..self.shape.columns.len()).map(|place| (place, row)).collect::<Vec<_>>())?,
                (_, Some(kept)) => {
                    let came = |place: &usize| (moved || !key.contains(place)) && !kept.contains(&format!(",{place},"));
                    let came: Vec<usize> = (0..self.shape.columns.len()).filter(came).collect();
                    if !came.is_empty() {
                        let sql = format!("update {table} set {} where {by_key}", self.pairs(&came, ", "));
                        let values = came.iter().map(|place| (*place, row)).chain(key.iter().map(|place| (*place, from)));
                        if run(&sql, &values.collect::<Vec<_>>())? == 0 {
                            return Err(Failure::permanent(format!("a changed row is missing in {table}: somebody else has removed it"))
                                .help("`--fresh` copies the table again"));
                        }
                    }
                    1
                }
            };
            rows += 1;
            row += 1;
            if self.interrupt.fired() {
                return Err(Failure::cancelled());
            }
        }
        Ok(rows)
    }

    fn is_key(&self, place: usize) -> bool {
        self.shape.key.contains(&self.shape.columns[place].name)
    }

    /// Columns, each with the value that it is or gets.
    fn pairs(&self, places: &[usize], between: &str) -> String {
        places.iter().map(|place| format!("{} = ?", self.shape.columns[*place].quoted)).collect::<Vec<_>>().join(between)
    }

    fn put(&self) -> String {
        let values = vec!["?"; self.shape.columns.len()].join(", ");
        self.shape.upsert(&format!("values ({values})"))
    }

    /// Runs a statement with values of these columns of these rows. Gives how many rows it met.
    fn run(&self, connection: &Sqlite, sql: &str, cells: &mut [Binder<'_>], values: &[(usize, usize)]) -> Result<usize, Failure> {
        let failed = |error| self.database.failure(error);
        let mut statement = connection.prepare_cached(sql).map_err(failed)?;
        for (number, (place, row)) in values.iter().enumerate() {
            statement.raw_bind_parameter(number + 1, cells[*place].value(*row)).map_err(failed)?;
        }
        statement.raw_execute().map_err(|error| {
            let failure = self.database.failure(error);
            match values.last() {
                Some((_, row)) => failure.during(named(cells, self.shape, *row)),
                None => failure,
            }
        })
    }
}
