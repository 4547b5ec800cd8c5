//! Publication: how staged rows take the place of the old ones, and what a load finishes at its end.

use sqlx::postgres::types::Oid;

use super::catalog::{self, Table, ident, quoted};
use super::error::failure;
use super::session::Session;
use super::swap;
use super::target::{Place, idents};
use super::upsert::{on_conflict, on_key};
use crate::connectors::TargetProblem;
use crate::data::Schema;
use crate::define::pipeline::SqlSink;
use crate::failure::Failure;

/// How the rows of an existing target are replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The staging table gets the target's indexes, grants and owner, and takes its name.
    Rename,
    /// The target is emptied and filled again; for the reason given.
    Refill(String),
    /// Rows that are gone are deleted, the others inserted or updated by key, so that foreign keys of other tables hold; for the reason given.
    Merge { key: Vec<String>, reason: String },
}

/// Why a table cannot simply be replaced by another one, most telling first.
const REASONS: &str = "
    select array_remove(array[
      case when c.relkind = 'p' then 'it is partitioned' end,
      case when c.relispartition or exists (select from pg_catalog.pg_inherits i where c.oid in (i.inhrelid, i.inhparent))
        then 'it inherits or is inherited from' end,
      case when exists (select from pg_catalog.pg_constraint f where f.contype = 'f' and f.conrelid = c.oid) then 'it has foreign keys' end,
      case when exists (select from pg_catalog.pg_depend d where d.deptype = 'n'
        and (d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid
          or d.refclassid = 'pg_type'::regclass and d.refobjid in (c.reltype, (select t.typarray from pg_catalog.pg_type t where t.oid = c.reltype)))
        and not exists (select from pg_catalog.pg_constraint own where d.classid = 'pg_constraint'::regclass and own.oid = d.objid and own.conrelid = c.oid)
        and not exists (select from pg_catalog.pg_attrdef own where d.classid = 'pg_attrdef'::regclass and own.oid = d.objid and own.adrelid = c.oid))
        then 'views or other objects depend on it' end,
      case when exists (select from pg_catalog.pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal) then 'it has triggers' end,
      case when exists (select from pg_catalog.pg_rewrite r where r.ev_class = c.oid) then 'it has rules' end,
      case when c.relrowsecurity or exists (select from pg_catalog.pg_policy p where p.polrelid = c.oid) then 'it has policies' end,
      case when exists (select from pg_catalog.pg_publication_tables p
        where p.tablename = c.relname and p.schemaname = (select n.nspname from pg_catalog.pg_namespace n where n.oid = c.relnamespace))
        then 'it is published' end,
      case when exists (select from pg_catalog.pg_statistic_ext s where s.stxrelid = c.oid) then 'it has extended statistics' end,
      case when exists (select from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attacl is not null) then 'it has grants on columns' end,
      case when c.relpersistence <> 'p' or c.reltablespace <> 0 or c.reloptions is not null or c.relreplident <> 'd'
        then 'it has storage settings of its own' end,
      case when not pg_has_role(c.relowner, 'usage') then 'this role does not own it' end], null),
    exists (select from pg_catalog.pg_constraint f where f.contype = 'f' and f.confrelid = c.oid and f.conrelid <> c.oid)
    from pg_catalog.pg_class c where c.oid = $1";

/// Chooses how to replace the rows of a table.
pub(super) async fn way(session: &mut Session, table: &Table) -> Result<Result<Way, TargetProblem>, Failure> {
    let (reasons, referenced): (Vec<String>, bool) =
        sqlx::query_as(REASONS).bind(Oid(table.oid)).fetch_one(session.raw()).await.map_err(failure)?;
    if referenced {
        let key = catalog::key(session, table.oid).await?;
        if key.is_empty() {
            return Ok(Err(TargetProblem {
                code: "target-key",
                field: "mode",
                message: format!("foreign keys refer to `{}.{}`, which has no key to replace rows by", table.schema, table.name),
                help: "give it a primary key, or write with `mode: upsert`".to_owned(),
            }));
        }
        let updates: bool = sqlx::query_scalar("select has_table_privilege($1, 'update')")
            .bind(Oid(table.oid))
            .fetch_one(session.raw())
            .await
            .map_err(failure)?;
        if !updates {
            let name = quoted(&[table.schema.clone(), table.name.clone()])?;
            return Ok(Err(TargetProblem {
                code: "target-privilege",
                field: "table",
                message: format!("this role may not update {name}, whose rows are replaced by key"),
                help: format!("grant it: `grant update on {name} to …`"),
            }));
        }
        return Ok(Ok(Way::Merge { key, reason: "foreign keys of other tables refer to it".to_owned() }));
    }
    Ok(Ok(reasons.into_iter().next().map_or(Way::Rename, Way::Refill)))
}

/// Puts the staged rows in the place of the target's, within the caller's transaction.
pub(super) async fn replace(session: &mut Session, place: &Place, staging: &str, primary_key: &[String]) -> Result<(), Failure> {
    let staged = quoted(&[place.schema.clone(), staging.to_owned()])?;
    let Some(table) = &place.table else {
        session.run(format!("alter table {staged} rename to {}", ident(&place.name)?)).await?;
        return add_primary_key(session, place, primary_key).await;
    };
    let target = place.quoted()?;
    let columns: Vec<String> = table.columns.iter().filter(|column| !column.generated).map(|column| column.name.clone()).collect();
    let listed = idents(&columns)?;
    match way(session, table).await? {
        Err(problem) => return Err(Failure::permanent(problem.message).help(problem.help)),
        Ok(Way::Rename) => return swap::swap(session, place, table, &staged).await,
        Ok(Way::Refill(_)) => {
            let truncates: bool = sqlx::query_scalar("select has_table_privilege($1, 'truncate')")
                .bind(Oid(table.oid))
                .fetch_one(session.raw())
                .await
                .map_err(failure)?;
            let empty = if truncates { format!("truncate {target}") } else { format!("delete from {target}") };
            session
                .run(format!(
                    "lock table {target} in share row exclusive mode; {empty};
                              insert into {target} ({listed}) overriding system value select {listed} from {staged}"
                ))
                .await?;
        }
        Ok(Way::Merge { key, .. }) => {
            let gone = on_key(&key, "s", "t")?;
            let on_conflict = on_conflict(&key, &columns)?;
            session
                .run(format!(
                    "lock table {target} in share row exclusive mode; analyze {staged};
                     delete from {target} t where not exists (select from {staged} s where {gone});
                     insert into {target} ({listed}) overriding system value select {listed} from {staged} {on_conflict}"
                ))
                .await?;
        }
    }
    session.run(format!("drop table {staged}")).await?;
    Ok(())
}

/// Adds the primary key of a table that the load created, unless it has one.
pub(super) async fn add_primary_key(session: &mut Session, place: &Place, key: &[String]) -> Result<(), Failure> {
    if key.is_empty() {
        return Ok(());
    }
    let has: bool =
        sqlx::query_scalar("select exists (select from pg_catalog.pg_index i where i.indrelid = to_regclass($1) and i.indisprimary)")
            .bind(place.quoted()?)
            .fetch_one(session.raw())
            .await
            .map_err(failure)?;
    if !has {
        session.run(format!("alter table {} add primary key ({})", place.quoted()?, idents(key)?)).await.map_err(|failure| {
            failure.during("building the primary key").help("the rows repeat a key: use `dedupe`, another `primary_key`, or `mode: upsert`")
        })?;
    }
    Ok(())
}

/// Moves sequences behind the columns that were written past their largest value, so that the next row the application adds has a free number.
/// Sequences that this role may not set are left alone.
pub(super) async fn advance_sequences(session: &mut Session, spec: &SqlSink, incoming: &Schema) -> Result<(), Failure> {
    let Some(table) = catalog::find_table(session, &spec.table).await? else { return Ok(()) };
    let name = quoted(&[table.schema.clone(), table.name.clone()])?;
    for column in table.columns.iter().filter(|column| column.fills_itself && !column.generated && incoming.find(&column.name).is_some()) {
        let sequence: Option<String> = sqlx::query_scalar(
            "select s from pg_get_serial_sequence($1, $2) s where has_sequence_privilege(s, 'update') and has_sequence_privilege(s, 'select')",
        )
        .bind(&name)
        .bind(&column.name)
        .fetch_optional(session.raw())
        .await
        .map_err(failure)?
        .flatten();
        let Some(sequence) = sequence else { continue };
        let quoted_column = ident(&column.name)?;
        let sql = format!(
            "select setval('{}', largest) from (select max({quoted_column})::bigint from {name}) m(largest), {sequence} s
             where largest >= s.last_value and largest > 0",
            sequence.replace('\'', "''")
        );
        sqlx::query(&sql).persistent(false).execute(session.raw()).await.map_err(failure)?;
    }
    Ok(())
}
