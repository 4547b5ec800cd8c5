//! Several tables of one server, written together: what a transaction changed in any of them commits in one transaction with the mark.

use std::collections::BTreeSet;

use async_trait::async_trait;
use sqlx::postgres::types::Oid;

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

/// How tables that are written refer to each other, and to themselves, by foreign keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum References {
    /// They do not.
    None,
    /// A row that is referred to cannot go.
    Plain,
    /// A row that goes takes what refers to it with it, or changes that.
    Act,
}

/// The numbers of tables in an order in which none refers to a later one by a foreign key, as far as there is one, and what they refer by. Tables
/// that refer to each other stay in the order that they came in.
pub(super) async fn in_order(session: &mut Session, tables: &[u32]) -> Result<(Vec<usize>, References), Failure> {
    let oids: Vec<Oid> = tables.iter().map(|oid| Oid(*oid)).collect();
    let keys: Vec<(Oid, Oid, bool)> = sqlx::query_as(
        "select conrelid, confrelid, confdeltype in ('c', 'n', 'd') from pg_catalog.pg_constraint
         where contype = 'f' and conrelid = any($1) and confrelid = any($1)",
    )
    .bind(oids)
    .fetch_all(session.raw())
    .await
    .map_err(failure)?;
    let references = keys.iter().map(|(.., acts)| if *acts { References::Act } else { References::Plain }).max();
    let number = |oid: Oid| tables.iter().position(|table| *table == oid.0);
    let refers = keys.into_iter().filter(|(from, to, _)| from != to).filter_map(|(from, to, _)| Some((number(from)?, number(to)?)));
    Ok((sorted(tables.len(), &refers.collect()), references.unwrap_or(References::None)))
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
