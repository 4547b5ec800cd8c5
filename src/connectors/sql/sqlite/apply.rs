//! Changes of rows, made in a table one after the other, as they were made in the table that they come from.

use arrow::record_batch::RecordBatch;
use rusqlite::Connection as Sqlite;

use super::encode::Binder;
use super::insert::{Rows, named};
use super::target::quote;
use crate::data::change::{Changes, EMPTIED, GONE, MOVED, is_kept};
use crate::failure::Failure;

impl Rows<'_> {
    /// Applies the changes of a batch. Gives how many rows were put or removed.
    pub(super) fn apply(&self, connection: &Sqlite, batch: &RecordBatch, changes: Changes<'_>) -> Result<u64, Failure> {
        let mut cells = self.cells(batch);
        let (table, count) = (quote(&self.shape.table), cells.len());
        let key: Vec<usize> = (0..count).filter(|place| self.shape.key.contains(&self.shape.columns[*place].name)).collect();
        let by_key = self.pairs(&key, " and ");
        let put = self.shape.upsert(&format!("values ({})", vec!["?"; count].join(", ")));
        let remove = format!("delete from {table} where {by_key}");
        let mut rows = 0;
        let mut row = 0;
        while row < batch.num_rows() {
            // A row that takes another key keeps what did not come.
            let moved = changes.is_moved_in_part(row);
            let from = row;
            row += usize::from(moved);
            let keyed = key.iter().map(|place| (*place, from));
            match (changes.what(row), changes.kept(row)) {
                (EMPTIED, _) => self.run(connection, &format!("delete from {table}"), &mut cells, std::iter::empty())?,
                (GONE | MOVED, _) => self.run(connection, &remove, &mut cells, keyed)?,
                (_, None) => self.run(connection, &put, &mut cells, (0..count).map(|place| (place, row)))?,
                (_, Some(kept)) => {
                    let came = |place: &usize| (moved || !key.contains(place)) && !is_kept(kept, *place);
                    let came: Vec<usize> = (0..count).filter(came).collect();
                    if !came.is_empty() {
                        let sql = format!("update {table} set {} where {by_key}", self.pairs(&came, ", "));
                        let values = came.iter().map(|place| (*place, row)).chain(keyed);
                        if self.run(connection, &sql, &mut cells, values)? == 0 {
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

    /// Columns, each with the value that it is or gets.
    fn pairs(&self, places: &[usize], between: &str) -> String {
        places.iter().map(|place| format!("{} = ?", self.shape.columns[*place].quoted)).collect::<Vec<_>>().join(between)
    }

    /// Runs a statement with the values of these columns of these rows. Gives how many rows it met.
    fn run(
        &self,
        connection: &Sqlite,
        sql: &str,
        cells: &mut [Binder<'_>],
        values: impl Iterator<Item = (usize, usize)>,
    ) -> Result<usize, Failure> {
        let failed = |error| self.database.failure(error);
        let mut statement = connection.prepare_cached(sql).map_err(failed)?;
        let mut last = None;
        for (number, (place, row)) in values.enumerate() {
            statement.raw_bind_parameter(number + 1, cells[place].value(row)).map_err(failed)?;
            last = Some(row);
        }
        statement.raw_execute().map_err(|error| match last {
            Some(row) => failed(error).during(named(cells, self.shape, row)),
            None => failed(error),
        })
    }
}
