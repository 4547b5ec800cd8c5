//! Several tables of one server, written together: what a transaction changed in any of them commits in one transaction with the mark.

use std::collections::BTreeSet;

use async_trait::async_trait;
use sqlx::postgres::types::Oid;

use super::catalog::ident;
use super::error::failure;
use super::marks::Ledger;
use super::session::{Session, Use};
use super::sink::{PgSink, refused};
use super::target::Blueprint;
use super::writer::{PgWriter, Table};
use crate::connectors::{Claim, Load, LoadKey, Mark, Sink, Target, TargetProblem, Writer, no_common_rows};
use crate::data::{BatchLimit, BatchStream, Schema};
use crate::failure::Failure;

/// The tables that a stream of several goes to, by their numbers. The schema of the first holds the ledger.
pub(super) struct PgTables {
    pub(super) tables: Vec<Table>,
}

impl PgTables {
    fn first(&self) -> &PgSink {
        &self.tables[0].sink
    }
}

#[async_trait]
impl Sink for PgTables {
    async fn plan(&self, _: &Schema) -> Result<Result<Target, Vec<TargetProblem>>, Failure> {
        let (mut targets, mut problems) = (Vec::new(), Vec::new());
        for Table { sink, schema } in &self.tables {
            match sink.plan(schema).await? {
                Ok(target) => targets.push(target),
                Err(found) => problems.extend(found),
            }
        }
        if !problems.is_empty() {
            return Ok(Err(problems));
        }
        Ok(Ok(Target::of_tables(targets)))
    }

    async fn claim(&self, key: &LoadKey) -> Result<Claim, Failure> {
        self.first().claim(key).await
    }

    async fn prepare(&self, load: &Load, note: &str) -> Result<(), Failure> {
        let (mut session, ledger) = begin(&self.tables, load).await?;
        ledger.start(&mut session, load, note, None, false).await?;
        session.finish().await
    }

    async fn evolve(&self, load: &Load) -> Result<(), Failure> {
        evolve(&self.tables, load).await
    }

    async fn writer(&self, load: &Load, split: &str, from: Option<&Mark>) -> Result<Box<dyn Writer>, Failure> {
        Ok(Box::new(PgWriter::new(self.tables.clone(), load.clone(), split.to_owned(), from.cloned())))
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

/// Begins a transaction in which the tables are what the load's columns need.
async fn begin(tables: &[Table], load: &Load) -> Result<(Session, Ledger), Failure> {
    let first = &tables[0].sink;
    let mut session = first.pool.session(Use::Write).await?;
    let (mut statements, mut problems) = (Vec::new(), Vec::new());
    for Table { sink, schema } in tables {
        match Blueprint::draw(&mut session, &sink.spec, schema).await? {
            Ok(blueprint) => statements.extend(sink.statements(&blueprint, None)?),
            Err(found) => problems.extend(found),
        }
    }
    if !problems.is_empty() {
        return Err(refused(problems));
    }
    let ledger = first.ledger(&mut session).await?;
    session.run("begin; set local lock_timeout = '1min'").await?;
    ledger.own(&mut session, load).await?;
    for statement in statements {
        session.run(statement.clone()).await.map_err(|failure| failure.during(format_args!("running `{statement}`")))?;
    }
    Ok((session, ledger))
}

/// Makes the tables of a load that goes on what its columns need.
pub(super) async fn evolve(tables: &[Table], load: &Load) -> Result<(), Failure> {
    let (session, _) = begin(tables, load).await?;
    session.finish().await
}

/// A foreign key between two tables that are written, or of one to itself.
pub(super) struct Reference {
    /// The number of the table whose rows refer.
    pub from: usize,
    /// Its columns, quoted.
    pub columns: Vec<String>,
    /// The number of the table that they refer to.
    pub to: usize,
    /// Its columns, quoted.
    pub to_columns: Vec<String>,
    /// A row that goes takes what refers to it with it, or changes that.
    pub acts: bool,
}

type Found = (Oid, Oid, bool, Vec<String>, Vec<String>);

/// The foreign keys between these tables.
pub(super) async fn references(session: &mut Session, tables: &[u32]) -> Result<Vec<Reference>, Failure> {
    let oids: Vec<Oid> = tables.iter().map(|oid| Oid(*oid)).collect();
    let names = |table: &str, numbers: &str| {
        format!(
            "array(select a.attname::text from unnest({numbers}) with ordinality k(number, place)
             join pg_catalog.pg_attribute a on a.attrelid = {table} and a.attnum = k.number order by k.place)"
        )
    };
    let found: Vec<Found> = sqlx::query_as(&format!(
        "select conrelid, confrelid, confdeltype in ('c', 'n', 'd'), {}, {} from pg_catalog.pg_constraint
         where contype = 'f' and conrelid = any($1) and confrelid = any($1)",
        names("conrelid", "conkey"),
        names("confrelid", "confkey")
    ))
    .bind(oids)
    .fetch_all(session.raw())
    .await
    .map_err(failure)?;
    let number = |oid: Oid| tables.iter().position(|table| *table == oid.0).unwrap_or_default();
    let quoted = |names: Vec<String>| names.iter().map(|name| ident(name)).collect::<Result<Vec<_>, _>>();
    let reference = |(from, to, acts, columns, to_columns)| {
        Ok(Reference { from: number(from), columns: quoted(columns)?, to: number(to), to_columns: quoted(to_columns)?, acts })
    };
    found.into_iter().map(reference).collect()
}

/// The numbers of tables in an order in which none refers to a later one, as far as there is one. Tables that refer to each other stay in the
/// order that they came in.
pub(super) fn in_order(count: usize, references: &[Reference]) -> Vec<usize> {
    let others = references.iter().filter(|reference| reference.from != reference.to);
    sorted(count, &others.map(|reference| (reference.from, reference.to)).collect())
}

/// Numbers below `count`, each behind those that it refers to.
fn sorted(count: usize, refers: &BTreeSet<(usize, usize)>) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::with_capacity(count);
    while order.len() < count {
        let waits = |number: usize| refers.iter().any(|(from, to)| *from == number && !order.contains(to));
        let left: Vec<usize> = (0..count).filter(|number| !order.contains(number)).collect();
        let next = left.iter().copied().find(|&number| !waits(number)).or(left.first().copied());
        order.extend(next);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_stand_behind_those_that_they_refer_to() {
        let check = |refers: &[(usize, usize)], expected: &[usize]| {
            assert_eq!(sorted(expected.len(), &refers.iter().copied().collect()), expected);
        };
        check(&[], &[0, 1, 2]);
        check(&[(0, 1), (1, 2)], &[2, 1, 0]);
        check(&[(0, 2), (1, 2)], &[2, 0, 1]);
        check(&[(0, 1), (1, 0), (2, 0)], &[0, 1, 2]);
    }
}
