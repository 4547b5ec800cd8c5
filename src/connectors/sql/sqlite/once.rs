//! Rows and their mark in one transaction, once, however often it is tried.

use std::sync::Arc;

use rusqlite::{Connection as Sqlite, Transaction};

use super::connection::Database;
use super::marks;
use super::sink::{check_epoch, in_transaction};
use crate::connectors::{Load, Mark, moved_on};
use crate::failure::{Failure, FailureKind};

/// The commit of a split, or of a part of it.
pub(in crate::connectors) struct Once {
    /// The file that holds rows and marks.
    pub database: Arc<Database>,
    /// The load that the rows belong to.
    pub load: Load,
    /// The mark that the rows go on from.
    pub from: Option<Mark>,
    /// The mark behind them.
    pub mark: Mark,
}

impl Once {
    /// Commits what `rows` writes together with the mark, unless it is there already. Gives how many rows the target has because of it.
    pub(in crate::connectors) fn run(
        &self,
        connection: &mut Sqlite,
        rows: impl FnOnce(&Transaction<'_>) -> Result<u64, Failure>,
    ) -> Result<u64, Failure> {
        self.settle(in_transaction(&self.database, connection, |transaction| self.write(transaction, rows)))
    }

    /// Ends the transaction that all rows but not their mark are in.
    pub(in crate::connectors) fn end(&self, connection: &Sqlite, rows: u64) -> Result<u64, Failure> {
        let end = || {
            marks::put(connection, &self.load.key, self.load.epoch, &self.mark)?;
            connection.execute_batch("commit")
        };
        self.settle(end().map(|()| rows).map_err(|error| self.database.failure(error)))
    }

    fn settle(&self, result: Result<u64, Failure>) -> Result<u64, Failure> {
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

    fn write(&self, transaction: &Transaction<'_>, rows: impl FnOnce(&Transaction<'_>) -> Result<u64, Failure>) -> Result<u64, Failure> {
        let failed = |error| self.database.failure(error);
        let published = check_epoch(&self.database, transaction, &self.load)?;
        let found = marks::mark(transaction, &self.load.key, &self.mark.split).map_err(failed)?;
        if let Some(done) = found.as_ref().filter(|found| found.position.is_none() || **found == self.mark) {
            return Ok(done.rows);
        }
        if found != self.from {
            return Err(moved_on(&self.mark.split));
        }
        if published {
            return Err(Failure::permanent(format!("the load of stage `{}` is published already", self.load.key.stage)));
        }
        let rows = rows(transaction)?;
        marks::put(transaction, &self.load.key, self.load.epoch, &self.mark).map_err(failed)?;
        Ok(rows)
    }
}
