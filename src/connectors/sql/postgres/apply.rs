//! Changes of rows that are put into a table by their keys: what is in the temporary table goes into the target as if every change had been
//! made there one after the other.

use sqlx::AssertSqlSafe;

use super::error::failure;
use super::session::Session;
use super::upsert::{ORDER, TABLE};
use crate::data::change::{EMPTIED, GONE, MOVED, PUT};
use crate::failure::Failure;

/// The last change of every key.
const LAST: &str = "pg_temp.haul_last";
/// The two columns behind those of the row, in the temporary table.
pub(super) const EXTRA: [&str; 2] = ["\"haul change\"", "\"haul kept\""];

/// Where changes go.
pub(super) struct Changes<'a> {
    /// Quoted, as are the columns and the key.
    pub target: &'a str,
    /// The columns that are written, with their places in the incoming row.
    pub columns: Vec<(usize, &'a str)>,
    pub key: &'a [String],
}

impl Changes<'_> {
    /// Applies everything; gives the number of rows that were put or removed.
    pub(super) async fn apply(&self, session: &mut Session) -> Result<u64, Failure> {
        let (target, [change, kept]) = (self.target, EXTRA);
        let key = self.key.join(", ");
        let emptied: Option<i64> = scalar(session, format!("select max({ORDER}) from {TABLE} where {change} = '{EMPTIED}'")).await?;
        if let Some(last) = emptied {
            session.run(format!("delete from {target}; delete from {TABLE} where {ORDER} <= {last}")).await?;
        }
        self.follow_moves(session).await?;
        session
            .run(format!(
                "create temporary table haul_last on commit drop as select distinct on ({key}) * from {TABLE} order by {key}, {ORDER} desc;
                 analyze {LAST}"
            ))
            .await?;
        self.fill_in(session).await?;
        let same_key = |other: &str| self.key.iter().map(|name| format!("t.{name} = {other}.{name}")).collect::<Vec<_>>().join(" and ");
        let names = self.columns.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
        let others: Vec<&(usize, &str)> = self.columns.iter().filter(|(_, name)| !self.key.iter().any(|key| key == name)).collect();
        let set = others.iter().map(|(_, name)| format!("{name} = excluded.{name}")).collect::<Vec<_>>().join(", ");
        let conflict = if set.is_empty() { "do nothing".to_owned() } else { format!("do update set {set}") };
        // First the rows that go, so that what they held is free for those that come.
        session
            .run(format!(
                "delete from {target} t using {LAST} l where l.{change} in ('{GONE}', '{MOVED}') and {};
                 insert into {target} ({names}) overriding system value select {names} from {LAST}
                 where {change} = '{PUT}' and {kept} is null order by {key} on conflict ({key}) {conflict}",
                same_key("l")
            ))
            .await?;
        let partly: Option<i64> = scalar(session, format!("select count(*) from {LAST} where {kept} is not null")).await?;
        if partly.unwrap_or(0) > 0 && !others.is_empty() {
            let set = others
                .iter()
                .map(|(place, name)| format!("{name} = case when l.{kept} like '%,{place},%' then t.{name} else l.{name} end"));
            let set = set.collect::<Vec<_>>().join(", ");
            let changed =
                session.run(format!("update {target} t set {set} from {LAST} l where l.{kept} is not null and {}", same_key("l"))).await?;
            if Some(changed as i64) != partly {
                return Err(Failure::permanent(format!("changed rows are missing in {target}: somebody else has removed them"))
                    .help("`--fresh` copies the table again"));
            }
        }
        let rows: Option<i64> = scalar(session, format!("select count(*) from {LAST}")).await?;
        session.run(format!("drop table {LAST}")).await?;
        Ok(rows.unwrap_or(0).unsigned_abs())
    }

    /// A row that moved to another key without sending a large value has it from its old key: from an earlier change there, or from the target,
    /// where the old row still is. One move after the other, since a row may move again.
    async fn follow_moves(&self, session: &mut Session) -> Result<(), Failure> {
        let (target, [change, kept]) = (self.target, EXTRA);
        let moves = format!(
            "select m.{ORDER}, n.{kept} from {TABLE} m join {TABLE} n on n.{ORDER} = m.{ORDER} + 1
             where m.{change} = '{MOVED}' and n.{kept} is not null order by 1"
        );
        let moves: Vec<(i64, String)> =
            sqlx::query_as(AssertSqlSafe(moves)).persistent(false).fetch_all(session.raw()).await.map_err(failure)?;
        let same_key = |other: &str| self.key.iter().map(|name| format!("{other}.{name} = m.{name}")).collect::<Vec<_>>().join(" and ");
        for (order, places) in moves {
            for (place, name) in self.columns.iter().filter(|(place, _)| places.contains(&format!(",{place},"))) {
                session
                    .run(format!(
                        "update {TABLE} n set {name} = s.value, {kept} = nullif(replace(n.{kept}, ',{place},', ','), ',')
                         from (select 1 as rank, x.{ORDER} as at, x.{name} as value from {TABLE} m join {TABLE} x on {}
                               where m.{ORDER} = {order} and x.{ORDER} < {order} and x.{change} = '{PUT}'
                                 and (x.{kept} is null or x.{kept} not like '%,{place},%')
                               union all
                               select 2, 0, t.{name} from {TABLE} m join {target} t on {} where m.{ORDER} = {order}
                               order by 1, 2 desc limit 1) s
                         where n.{ORDER} = {order} + 1",
                        same_key("x"),
                        same_key("t"),
                    ))
                    .await?;
            }
        }
        Ok(())
    }

    /// A value that the last change of a row did not send may have come with an earlier one.
    async fn fill_in(&self, session: &mut Session) -> Result<(), Failure> {
        let [change, kept] = EXTRA;
        let places =
            format!("select distinct unnest(string_to_array(trim(both ',' from {kept}), ','))::int from {LAST} where {kept} is not null");
        let places: Vec<i32> =
            sqlx::query_scalar(AssertSqlSafe(places)).persistent(false).fetch_all(session.raw()).await.map_err(failure)?;
        let key = self.key.join(", ");
        for place in places {
            let Some((_, name)) = self.columns.iter().find(|(other, _)| *other as i64 == i64::from(place)) else { continue };
            let same_key = self.key.iter().map(|name| format!("l.{name} = s.{name}")).collect::<Vec<_>>().join(" and ");
            session
                .run(format!(
                    "update {LAST} l set {name} = s.value, {kept} = nullif(replace(l.{kept}, ',{place},', ','), ',')
                     from (select distinct on ({key}) {key}, {name} as value from {TABLE}
                           where {change} = '{PUT}' and ({kept} is null or {kept} not like '%,{place},%') order by {key}, {ORDER} desc) s
                     where l.{kept} like '%,{place},%' and {same_key}"
                ))
                .await?;
        }
        Ok(())
    }
}

async fn scalar(session: &mut Session, sql: String) -> Result<Option<i64>, Failure> {
    sqlx::query_scalar(AssertSqlSafe(sql)).persistent(false).fetch_one(session.raw()).await.map_err(failure)
}
