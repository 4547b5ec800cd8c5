//! The replication slot and the publication of a stream: made by it, named in its plan, and removed by `haul drop`.

use sqlx::postgres::types::Oid;

use super::followed::Followed;
use super::place;
use crate::connectors::sql::postgres::error::failure;
use crate::connectors::sql::postgres::session::Session;
use crate::failure::{Failure, FailureKind};

/// A slot and a publication of the same name.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// Small letters, digits and `_`.
    pub name: String,
}

impl Slot {
    /// Makes both anew, so that the slot knows every transaction that no later snapshot holds.
    pub(super) async fn make(&self, session: &mut Session, tables: &[Followed]) -> Result<(), Failure> {
        self.remove(session).await?;
        let name = &self.name;
        let tables = tables.iter().map(|table| table.table.as_str()).collect::<Vec<_>>().join(", ");
        let refused = |failure: Failure| {
            match failure.kind {
            FailureKind::Permanent => failure.during(format!("making the slot and publication {name}")).help(
                "the role needs REPLICATION and the tables' ownership, and the server `wal_level = logical` and a free one of `max_replication_slots`",
            ),
            _ => failure,
        }
        };
        // The publication comes first: a slot knows only what was published when its transactions ran.
        session.run(format!("create publication {name} for table {tables}")).await.map_err(refused)?;
        session.run(format!("select pg_create_logical_replication_slot('{name}', 'pgoutput')")).await.map_err(refused)?;
        Ok(())
    }

    /// Removes both. True when there was anything to remove.
    pub(super) async fn remove(&self, session: &mut Session) -> Result<bool, Failure> {
        let name = &self.name;
        let there: bool = sqlx::query_scalar(
            "select exists (select from pg_replication_slots where slot_name = $1 and database = current_database()) or exists (select from pg_publication where pubname = $1)",
        )
        .bind(name)
        .fetch_one(session.raw())
        .await
        .map_err(failure)?;
        session.run(format!("select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{name}' and database = current_database()")).await?;
        session.run(format!("set client_min_messages = error; drop publication if exists {name}; reset client_min_messages")).await?;
        Ok(there)
    }

    /// Makes sure that the slot still holds what comes behind the stream's position, and that the publication tells of the tables. Gives the
    /// bytes of log that the server keeps for it.
    pub(super) async fn check(&self, session: &mut Session, tables: &[Followed]) -> Result<u64, Failure> {
        let kept = self.kept(session).await?;
        let names: Vec<&str> = tables.iter().map(|table| table.table.as_str()).collect();
        let oids: Vec<Oid> = tables.iter().map(|table| Oid(table.oid)).collect();
        let gone: Option<i64> = sqlx::query_scalar(
            "select min(t.place) from unnest($2::text[], $3::oid[]) with ordinality t(name, oid, place)
             where to_regclass(t.name)::oid is distinct from t.oid or not exists (
               select from pg_catalog.pg_publication_rel r join pg_catalog.pg_publication p on p.oid = r.prpubid
               where p.pubname = $1 and r.prrelid = t.oid)",
        )
        .bind(&self.name)
        .bind(names)
        .bind(oids)
        .fetch_one(session.raw())
        .await
        .map_err(failure)?;
        let Some(table) = gone.and_then(|place| tables.get(place as usize - 1)) else { return Ok(kept) };
        Err(Failure::permanent(format!(
            "the publication {} does not tell of {}: the table was dropped, renamed, made again, or taken out of it",
            self.name, table.label
        ))
        .help("`haul run … --fresh` copies the table again and follows it from there"))
    }

    async fn kept(&self, session: &mut Session) -> Result<u64, Failure> {
        let found: Option<(Option<String>, Option<i64>)> = sqlx::query_as(
            "select wal_status, pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn)::bigint
             from pg_replication_slots where slot_name = $1 and database = current_database()",
        )
        .bind(&self.name)
        .fetch_optional(session.raw())
        .await
        .map_err(failure)?;
        let kept = found.as_ref().and_then(|(_, kept)| *kept).unwrap_or(0).max(0).unsigned_abs();
        let lost = match found.as_ref().map(|(status, _)| status.as_deref()) {
            None => format!("the replication slot {} is gone, and with it the changes since the stream stopped", self.name),
            Some(Some("lost")) => {
                format!("the server has invalidated the replication slot {}: the log it needed was removed", self.name)
            }
            Some(_) => return Ok(kept),
        };
        Err(Failure::permanent(lost).help(
            "`haul run … --fresh` copies the table again and follows it from there; `max_slot_wal_keep_size` bounds what a slot may hold",
        ))
    }

    /// The end of what the server has flushed of its log, which is what it decodes.
    pub(super) async fn end_of_log(session: &mut Session) -> Result<u64, Failure> {
        // The end of what was inserted may stand behind the header of a page that has no record yet.
        let ask = "select least(pg_current_wal_insert_lsn(), pg_current_wal_flush_lsn())::text";
        let end: String = sqlx::query_scalar(ask).fetch_one(session.raw()).await.map_err(failure)?;
        place::parse(&end)
    }
}
