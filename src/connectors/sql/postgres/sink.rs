//! Writing tables: the plan, and the life of a load from claim to publication.

use std::sync::Arc;

use async_trait::async_trait;
use xxhash_rust::xxh3::xxh3_64;

use super::catalog::{self, ident, quoted};
use super::decode::Decoder;
use super::error::failure;
use super::fit;
use super::marks::{Ledger, State};
use super::publish::{self, Way};
use super::read;
use super::session::{Pool, Session, Use};
use super::tables::evolve;
use super::target::{Blueprint, Place};
use super::values::Values;
use super::writer::{PgWriter, Table};
use crate::connectors::refused::as_written;
use crate::connectors::{Claim, Load, LoadKey, Mark, Sink, Target, TargetProblem, Writer};
use crate::data::{BatchLimit, BatchStream, RawStream, Schema, WireFormat};
use crate::define::pipeline::{SqlSink, WriteMode};
use crate::failure::Failure;

/// Most splits that are written at the same time, whatever the connection allows.
const WRITERS: usize = 16;

/// A table of one server.
#[derive(Clone)]
pub(super) struct PgSink {
    pub(super) pool: Arc<Pool>,
    pub(super) spec: Arc<SqlSink>,
}

impl PgSink {
    /// The staging table of a load, unquoted. It depends on neither run nor plan, so that what an earlier load left is found.
    fn staging_name(&self, key: &LoadKey, place: &Place) -> String {
        let of = format!("{}\0{}\0{}\0{}\0{}", key.pipeline, key.stage, key.output, place.schema, place.name);
        format!("haul_stage_{:016x}", xxh3_64(of.as_bytes()))
    }

    pub(super) fn replaces(&self) -> bool {
        self.spec.mode == WriteMode::Replace
    }

    /// The key a table is created with.
    fn primary_key(&self) -> &[String] {
        match (&self.spec.primary_key, &self.spec.mode) {
            (Some(key), _) | (None, WriteMode::Upsert { key }) => key,
            _ => &[],
        }
    }

    /// What `prepare` runs besides the ledger: the statements, and whether they create the target.
    pub(super) fn statements(&self, blueprint: &Blueprint, staging: Option<&str>) -> Result<Vec<String>, Failure> {
        let place = &blueprint.place;
        let mut statements = Vec::new();
        match (&place.table, staging) {
            (None, None) => {
                // Only an upsert needs its key while rows come in; otherwise the index is built once, at the end.
                let key: &[String] = if matches!(self.spec.mode, WriteMode::Upsert { .. }) { self.primary_key() } else { &[] };
                statements.push(blueprint.create(&place.quoted()?, key)?);
            }
            (None, Some(staging)) => statements.push(blueprint.create(&quoted(&[place.schema.clone(), staging.to_owned()])?, &[])?),
            (Some(_), None) => statements.extend(blueprint.additions()?),
            (Some(_), Some(staging)) => {
                statements.extend(blueprint.additions()?);
                statements.push(format!(
                    "create table {} (like {} including all excluding indexes excluding statistics)",
                    quoted(&[place.schema.clone(), staging.to_owned()])?,
                    place.quoted()?
                ));
            }
        }
        Ok(statements)
    }

    /// The table that holds the load's rows now: the staging table until it is published.
    pub(super) async fn written_to(&self, session: &mut Session, load: &Load) -> Result<catalog::Table, Failure> {
        let place = Place::find(session, &self.spec).await?;
        let mut table = place.table;
        if self.replaces() {
            let ledger = Ledger::of(&place.schema)?;
            let row = if ledger.exists(session).await? { ledger.look(session, &load.key).await? } else { None };
            if let Some(staging) = row.and_then(|row| row.staging) {
                table = catalog::find_table(session, &[place.schema, staging]).await?;
            }
        }
        table.ok_or_else(|| {
            Failure::permanent(format!("the table `{}` is gone", self.spec.table.join("."))).help("start the load again with `--fresh`")
        })
    }

    /// The ledger of the target's schema.
    pub(super) async fn ledger(&self, session: &mut Session) -> Result<Ledger, Failure> {
        Ledger::of(&Place::find(session, &self.spec).await?.schema)
    }

    /// The COPY that reads the incoming columns of `table` back, and the types they come in.
    pub(super) fn reading(
        &self,
        table: &str,
        own: &[catalog::TableColumn],
        incoming: &Schema,
        limit: BatchLimit,
    ) -> Result<(String, Decoder), Failure> {
        let mut selected = Vec::new();
        let mut types = Vec::new();
        for column in &incoming.columns {
            let name = ident(&column.name)?;
            let missing = || Failure::permanent(format!("the target has no column `{}` any more", column.name));
            let found = own.iter().find(|found| found.name == column.name).ok_or_else(missing)?;
            if Values::new(&found.ty, &column.ty).is_ok() {
                selected.push(name);
                types.push(found.ty.clone());
            } else {
                let natural = fit::natural(&column.ty).ok_or_else(missing)?;
                selected.push(format!("{name}::{}", natural.name));
                types.push(natural);
            }
        }
        let decoder = Decoder::new(incoming, &types, &[], limit, table.to_owned())?;
        Ok((format!("copy (select {} from {table}) to stdout (format binary)", selected.join(", ")), decoder))
    }

    async fn reader(&self, load: &Load) -> Result<(Session, catalog::Table, String), Failure> {
        let mut session = self.pool.session(Use::Read).await?;
        let table = self.written_to(&mut session, load).await?;
        session.run("begin isolation level repeatable read read only").await?;
        let name = quoted(&[table.schema.clone(), table.name.clone()])?;
        Ok((session, table, name))
    }
}

#[async_trait]
impl Sink for PgSink {
    async fn plan(&self, incoming: &Schema) -> Result<Result<Target, Vec<TargetProblem>>, Failure> {
        let mut session = self.pool.session(Use::Write).await?;
        let blueprint = match Blueprint::draw(&mut session, &self.spec, incoming).await? {
            Ok(blueprint) => blueprint,
            Err(problems) => return Ok(Err(problems)),
        };
        let place = &blueprint.place;
        let mut guarantee = "effectively once: rows and mark commit in one transaction".to_owned();
        if self.replaces() {
            match &place.table {
                None => guarantee.push_str("; seen when the staging table is renamed"),
                Some(table) => match publish::way(&mut session, table).await? {
                    Ok(way) => guarantee.push_str(&format!("; {}", way.describe())),
                    Err(problem) => return Ok(Err(vec![problem])),
                },
            }
        }
        session.release();
        if let Some(weakness) = self.pool.weakness() {
            guarantee.push_str(&format!("; {weakness}"));
        }
        // The staging table's real name depends on the load, which a plan knows nothing of.
        let staging = self.replaces().then_some("haul_stage_…");
        let ddl = self.statements(&blueprint, staging)?;
        let raw = blueprint.columns.iter().all(|planned| planned.written && planned.ty.portable);
        let wire = raw.then(|| WireFormat::PgCopyBinary(blueprint.columns.iter().map(|planned| planned.ty.name.clone()).collect()));
        Ok(Ok(Target {
            columns: blueprint.mapped(),
            ddl,
            exists: place.table.is_some(),
            wire,
            writers: WRITERS,
            whole: false,
            checkpoints: true,
            guarantee,
            reads_as: blueprint.reads_as(self.primary_key()),
            tables: Vec::new(),
        }))
    }

    async fn claim(&self, key: &LoadKey) -> Result<Claim, Failure> {
        let mut session = self.pool.session(Use::Write).await?;
        let ledger = self.ledger(&mut session).await?;
        ledger.ensure(&mut session).await?;
        let claim = ledger.claim(&mut session, key).await?;
        session.release();
        Ok(claim)
    }

    async fn prepare(&self, load: &Load, note: &str) -> Result<(), Failure> {
        let mut session = self.pool.session(Use::Write).await?;
        let blueprint = match Blueprint::draw(&mut session, &self.spec, &load.schema).await? {
            Ok(blueprint) => blueprint,
            Err(problems) => return Err(refused(problems)),
        };
        let place = &blueprint.place;
        let ledger = Ledger::of(&place.schema)?;
        let staging = self.replaces().then(|| self.staging_name(&load.key, place));
        session.run("begin; set local lock_timeout = '1min'").await?;
        let before = ledger.own(&mut session, load).await?;
        for leftover in before.staging.iter().chain(&staging) {
            session.run(format!("drop table if exists {}", quoted(&[place.schema.clone(), leftover.clone()])?)).await?;
        }
        for statement in self.statements(&blueprint, staging.as_deref())? {
            session.run(statement.clone()).await.map_err(|failure| failure.during(format_args!("running `{statement}`")))?;
        }
        // What an earlier attempt created and never finished is still this load's to finish.
        let created = place.table.is_none() || (before.created && before.state == State::Writing);
        ledger.start(&mut session, load, note, staging.as_deref(), created).await?;
        session.finish().await
    }

    async fn evolve(&self, load: &Load) -> Result<(), Failure> {
        let table = Table { sink: self.clone(), schema: load.schema.clone() };
        evolve(&[table], load).await
    }

    async fn writer(&self, load: &Load, split: &str, from: Option<&Mark>) -> Result<Box<dyn Writer>, Failure> {
        let tables = vec![Table { sink: self.clone(), schema: load.schema.clone() }];
        Ok(Box::new(PgWriter::new(tables, load.clone(), split.to_owned(), from.cloned())))
    }

    async fn publish(&self, load: &Load) -> Result<(), Failure> {
        let mut session = self.pool.session(Use::Write).await?;
        let place = Place::find(&mut session, &self.spec).await?;
        let ledger = Ledger::of(&place.schema)?;
        session.run("begin; set local lock_timeout = '1min'").await?;
        let row = ledger.own(&mut session, load).await?;
        if row.state == State::Published {
            return session.finish().await;
        }
        match &row.staging {
            Some(staging) => publish::replace(&mut session, &place, staging, self.primary_key()).await?,
            None if row.created => publish::add_primary_key(&mut session, &place, self.primary_key()).await?,
            None => {}
        }
        publish::advance_sequences(&mut session, &self.spec, &load.schema).await?;
        ledger.end(&mut session, &load.key, State::Published).await?;
        session.run("commit").await?;
        if row.staging.is_some() || row.created {
            // A table that is new as a whole has no statistics; of others the server knows when to renew them, and a few rows into a large one
            // must not cost a scan. Rows are safe and visible already, and a role that may not analyze gets a warning and no error.
            let _ = session.run(format!("analyze {}", place.quoted()?)).await;
        }
        session.release();
        Ok(())
    }

    async fn read_back(&self, load: &Load, limit: BatchLimit) -> Result<BatchStream, Failure> {
        let (session, table, name) = self.reader(load).await?;
        let (copy, decoder) = self.reading(&name, &table.columns, &load.schema, limit)?;
        let rows = read::batches(session, copy, decoder);
        // Others may have values in the target that these columns cannot hold: their rows are left out each time.
        Ok(if self.replaces() { as_written(rows) } else { rows })
    }

    async fn read_back_raw(&self, load: &Load) -> Result<RawStream, Failure> {
        let (session, table, name) = self.reader(load).await?;
        let columns = load.schema.columns.iter().map(|column| ident(&column.name)).collect::<Result<Vec<_>, _>>()?.join(", ");
        // COPY of a table leaves its children out, and knows no partitioned tables.
        let from =
            if table.has_children || table.kind != 'r' { format!("(select {columns} from {name})") } else { format!("{name} ({columns})") };
        Ok(read::raw(session, format!("copy {from} to stdout (format binary)")))
    }

    async fn count(&self, load: &Load) -> Result<u64, Failure> {
        let (mut session, _, name) = self.reader(load).await?;
        let sql = format!("select count(*) from {name}");
        let rows: i64 = sqlx::query_scalar(&sql).fetch_one(session.raw()).await.map_err(failure)?;
        session.finish().await?;
        Ok(rows.unsigned_abs())
    }

    fn staged(&self) -> bool {
        self.replaces()
    }

    async fn abandon(&self, key: &LoadKey) -> Result<(), Failure> {
        let mut session = self.pool.session(Use::Write).await?;
        let place = Place::find(&mut session, &self.spec).await?;
        let ledger = Ledger::of(&place.schema)?;
        if ledger.exists(&mut session).await? {
            session.run("begin; set local lock_timeout = '1min'").await?;
            if let Some(row) = ledger.lock(&mut session, key).await? {
                if let Some(staging) = row.staging {
                    session.run(format!("drop table if exists {}", quoted(&[place.schema, staging])?)).await?;
                }
                ledger.abandon(&mut session, key).await?;
            }
            session.run("commit").await?;
        }
        session.release();
        Ok(())
    }
}

pub(super) fn refused(problems: Vec<TargetProblem>) -> Failure {
    let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
    let failure = Failure::permanent(format!("the target does not fit: {}", messages.join("; ")));
    match problems.into_iter().next() {
        Some(problem) => failure.help(problem.help),
        None => failure,
    }
}

impl Way {
    /// For the plan's line on the guarantee.
    fn describe(&self) -> String {
        match self {
            Self::Rename => "seen when the staging table takes the target's place; grants, owner, indexes and comments are kept".to_owned(),
            Self::Refill(reason) => format!("refilled in place in one transaction, because {reason}"),
            Self::Merge { reason, .. } => format!("rows of the target are changed in place in one transaction, because {reason}"),
        }
    }
}
