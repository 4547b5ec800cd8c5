//! Makes a staged load visible, in one transaction.

use rusqlite::{Connection as Sqlite, Error, Transaction};

use super::connection::Database;
use super::marks::{self, State};
use super::sink::{check_epoch, in_transaction, shape_now, staging_name};
use super::table::Table;
use super::target::{Publish, Shape, quote};
use crate::connectors::Load;
use crate::define::pipeline::SqlSink;
use crate::failure::Failure;

/// Publishes the load, or does nothing when it is published. Blocks.
pub(super) fn publish(database: &Database, connection: &mut Sqlite, spec: &SqlSink, load: &Load) -> Result<(), Failure> {
    let failed = |error| database.failure(error);
    // Deleting the old rows must not cascade into other tables. References are checked below, before the commit.
    connection.pragma_update(None, "foreign_keys", false).map_err(failed)?;
    // Renaming must not rewrite views and triggers that speak of the old table.
    connection.pragma_update(None, "legacy_alter_table", true).map_err(failed)?;
    in_transaction(database, connection, |transaction| {
        if check_epoch(database, transaction, load)? {
            return Ok(());
        }
        let shape = shape_now(database, transaction, spec, &load.schema)?;
        let name = staging_name(&load.key);
        let staging = quote(&name);
        let made: Option<String> = Table::find(transaction, &name).map_err(failed)?.map(|table| table.sql);
        match shape.publish {
            Publish::AtOnce => {}
            // What was staged may lack the target's rules, when views or indexes went away since.
            Publish::Rename if made.is_some_and(|sql| sql == shape.create(&name)) => {
                rename(transaction, &shape, &staging).map_err(failed)?
            }
            Publish::Rename | Publish::InPlace => {
                copy(transaction, &shape, &staging).map_err(failed)?;
                check_references(database, transaction, &shape.table)?;
            }
        }
        marks::set_state(transaction, &load.key, State::Published).map_err(failed)
    })
}

fn rename(transaction: &Transaction<'_>, shape: &Shape, staging: &str) -> Result<(), Error> {
    let table = quote(&shape.table);
    transaction.execute_batch(&format!("drop table if exists {table}; alter table {staging} rename to {table};"))
}

fn copy(transaction: &Transaction<'_>, shape: &Shape, staging: &str) -> Result<(), Error> {
    for statement in shape.additions() {
        transaction.execute_batch(&statement)?;
    }
    let (table, columns) = (quote(&shape.table), shape.column_list());
    transaction.execute_batch(&format!(
        "delete from {table}; insert into {table} ({columns}) select {columns} from {staging}; drop table {staging};"
    ))
}

/// Rows of other tables may refer to rows that are gone now.
fn check_references(database: &Database, transaction: &Transaction<'_>, table: &str) -> Result<(), Failure> {
    let broken = || -> Result<Option<(String, String)>, Error> {
        let mut statement =
            transaction.prepare("select \"table\", parent from pragma_foreign_key_check() where \"table\" = ?1 or parent = ?1")?;
        let mut rows = statement.query([table])?;
        rows.next()?.map(|row| Ok((row.get(0)?, row.get(1)?))).transpose()
    };
    match broken().map_err(|error| database.failure(error))? {
        None => Ok(()),
        Some((child, parent)) => {
            let message = format!("replacing `{table}` would leave rows of `{child}` that refer to rows `{parent}` does not have");
            Err(Failure::permanent(message).help("load the tables in another order, or use `mode: upsert`"))
        }
    }
}
