//! Changes of rows that are put into a table by their keys: what is in the temporary table goes into the target as if every change had been
//! made there one after the other.

use super::came::Came;
use super::error::failure;
use super::session::Session;
use super::tables::{Reference, in_order};
use super::upsert::ORDER;
use crate::data::change::{EMPTIED, GONE, MOVED, PUT};
use crate::failure::{Failure, FailureKind};

/// The two columns behind those of the row, in the temporary table.
pub(super) const EXTRA: [&str; 2] = ["\"haul change\"", "\"haul kept\""];

/// Where changes go.
pub(super) struct Changes<'a> {
    /// Quoted, as are the columns and the key.
    pub target: &'a str,
    /// The temporary table that holds them.
    pub rows: &'a str,
    /// The name of the temporary table for the last change of every key.
    pub last: String,
    /// The columns that are written, with their places in the incoming row.
    pub columns: Vec<(usize, &'a str)>,
    pub key: &'a [String],
    pub came: &'a Came,
    /// How many changes came.
    pub copied: u64,
}

/// Applies the changes of tables with these foreign keys between them. Gives the number of rows that were put or removed.
pub(super) async fn apply(session: &mut Session, tables: &[Changes<'_>], references: &[Reference]) -> Result<u64, Failure> {
    let mut rows = 0;
    for table in tables {
        rows += table.gather(session).await?;
    }
    bring(session, tables, references).await?;
    run(session, tables.iter().filter(|table| !table.came.is_plain()).map(|table| format!("drop table {}", table.changes()))).await?;
    Ok(rows)
}

/// Puts and removes rows: those that go, go from the tables first that refer to others, and those that come, come to the others first.
async fn bring(session: &mut Session, tables: &[Changes<'_>], references: &[Reference]) -> Result<(), Failure> {
    let order = in_order(tables.len(), references);
    // Rows of one table that refer to each other are emptied at once.
    let holds = |reference: &Reference| reference.from != reference.to || !tables[reference.to].came.emptied;
    let is_held = |table: &usize| references.iter().any(|reference| reference.to == *table && holds(reference));
    let (held, free): (Vec<usize>, Vec<usize>) = order.iter().rev().partition(|table| is_held(table));
    let removals = |order: &[usize]| order.iter().filter_map(|table| tables[*table].removal()).collect::<Vec<_>>();
    // What rows have held that nothing refers to is free for those that come.
    let (free, before) = (removals(&free), removals(&held));
    let puts: Vec<String> = order.iter().map(|table| tables[*table].put()).collect();
    let behind: Vec<String> = held.iter().filter_map(|table| tables[*table].late_removal()).collect();
    if behind.is_empty() {
        return in_turn(session, tables, [free, puts].concat(), Vec::new()).await;
    }
    // What refers to a row that goes may refer to another one from now on, and must not stand in its way, or go with it.
    session.run("savepoint haul_order").await?;
    match in_turn(session, tables, [&*free, &*puts].concat(), behind).await {
        Ok(()) => session.run("release haul_order").await.map(drop),
        Err(failure) if failure.kind == FailureKind::BadRows => {
            session.run("rollback to haul_order").await?;
            for reference in references.iter().filter(|reference| reference.acts) {
                if takes_others(session, tables, reference).await? {
                    return Err(failure);
                }
            }
            // A value that must be unique may still be held by a row that goes.
            in_turn(session, tables, [free, before, puts].concat(), Vec::new()).await
        }
        Err(failure) => Err(failure),
    }
}

/// Runs statements, fills in what was not sent, and runs the others.
async fn in_turn(session: &mut Session, tables: &[Changes<'_>], first: Vec<String>, last: Vec<String>) -> Result<(), Failure> {
    run(session, first).await?;
    complete(session, tables).await?;
    run(session, last).await
}

/// Whether a row that goes would take one with it that does not go by itself.
async fn takes_others(session: &mut Session, tables: &[Changes<'_>], reference: &Reference) -> Result<bool, Failure> {
    let (from, to) = (&tables[reference.from], &tables[reference.to]);
    let refers = reference.columns.iter().zip(&reference.to_columns).map(|(column, other)| format!("t.{column} = p.{other}"));
    let sql = format!(
        "select exists (select from {} t join {} p on {} where {} and not {})",
        from.target,
        to.target,
        refers.collect::<Vec<_>>().join(" and "),
        to.goes("p"),
        from.goes("t"),
    );
    sqlx::query_scalar(&sql).persistent(false).fetch_one(session.raw()).await.map_err(failure)
}

/// Runs statements in one go.
async fn run(session: &mut Session, statements: impl IntoIterator<Item = String>) -> Result<(), Failure> {
    let sql = statements.into_iter().collect::<Vec<_>>().join(";\n");
    if sql.is_empty() { Ok(()) } else { session.run(sql).await.map(drop) }
}

async fn complete(session: &mut Session, tables: &[Changes<'_>]) -> Result<(), Failure> {
    for table in tables.iter().filter(|table| !table.came.is_plain()) {
        table.complete(session).await?;
    }
    Ok(())
}

impl Changes<'_> {
    /// Finds the last change of every key, and gives their number.
    async fn gather(&self, session: &mut Session) -> Result<u64, Failure> {
        if self.came.is_plain() {
            return self.forget_outdated(session).await;
        }
        let (rows, last, [change, _]) = (self.rows, &self.last, EXTRA);
        let key = self.key.join(", ");
        if self.came.emptied {
            let before = format!("select max({ORDER}) from {rows} where {change} = '{EMPTIED}'");
            session.run(format!("delete from {rows} where {ORDER} <= ({before})")).await?;
        }
        if self.came.moved && self.came.kept {
            self.follow_moves(session).await?;
        }
        let found = session
            .run(format!(
                "create temporary table {last} on commit drop as select distinct on ({key}) * from {rows} order by {key}, {ORDER} desc;
                 analyze pg_temp.{last}"
            ))
            .await?;
        if self.came.kept {
            self.fill_in(session).await?;
        }
        Ok(found)
    }

    /// Leaves the last change of every key where the changes came in.
    async fn forget_outdated(&self, session: &mut Session) -> Result<u64, Failure> {
        let outdated = &self.came.outdated;
        if outdated.is_empty() {
            return Ok(self.copied);
        }
        let sql = format!("delete from {} r using unnest($1::bigint[]) o (number) where r.{ORDER} = o.number", self.rows);
        let gone = sqlx::query(&sql).bind(outdated).persistent(false).execute(session.raw()).await.map_err(failure)?.rows_affected();
        if gone != outdated.len() as u64 {
            return Err(Failure::permanent(format!("{gone} of {} outdated changes were found, which is a bug in haul", outdated.len())));
        }
        Ok(self.copied - gone)
    }

    /// The table that holds one change for every key.
    fn changes(&self) -> String {
        if self.came.is_plain() { self.rows.to_owned() } else { format!("pg_temp.{}", self.last) }
    }

    fn same_key(&self, other: &str) -> String {
        self.key.iter().map(|name| format!("t.{name} = {other}.{name}")).collect::<Vec<_>>().join(" and ")
    }

    /// Whether a row of the target, under this name, goes before any comes.
    fn goes(&self, row: &str) -> String {
        let (changes, [change, _]) = (self.changes(), EXTRA);
        let same_key = self.key.iter().map(|name| format!("l.{name} = {row}.{name}")).collect::<Vec<_>>().join(" and ");
        if self.came.emptied {
            "true".to_owned()
        } else {
            format!("exists (select from {changes} l where l.{change} in ('{GONE}', '{MOVED}') and {same_key})")
        }
    }

    /// The columns that are no part of the key, with their places in the incoming row.
    fn others(&self) -> Vec<&(usize, &str)> {
        self.columns.iter().filter(|(_, name)| !self.key.iter().any(|key| key == name)).collect()
    }

    /// Removes the rows that go, before any come.
    fn removal(&self) -> Option<String> {
        if self.came.emptied { Some(format!("delete from {}", self.target)) } else { self.late_removal() }
    }

    /// The same when all have come: of a table that was emptied what did not come again.
    fn late_removal(&self) -> Option<String> {
        let (target, changes, same_key, [change, _]) = (self.target, self.changes(), self.same_key("l"), EXTRA);
        if self.came.emptied {
            return Some(format!(
                "delete from {target} t where not exists (select from {changes} l where l.{change} = '{PUT}' and {same_key})"
            ));
        }
        let gone = || format!("delete from {target} t using {changes} l where l.{change} in ('{GONE}', '{MOVED}') and {same_key}");
        (self.came.gone || self.came.moved).then(gone)
    }

    /// In the order in which the rows came, so that a value that must be unique can go from one to the next.
    fn put(&self) -> String {
        let (target, changes, [change, kept]) = (self.target, self.changes(), EXTRA);
        let key = self.key.join(", ");
        let names = self.columns.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
        let set = self.others().iter().map(|(_, name)| format!("{name} = excluded.{name}")).collect::<Vec<_>>().join(", ");
        let conflict = if set.is_empty() { "do nothing".to_owned() } else { format!("do update set {set}") };
        format!(
            "insert into {target} ({names}) overriding system value select {names} from {changes}
             where {change} = '{PUT}' and {kept} is null order by {ORDER} on conflict ({key}) {conflict}"
        )
    }

    /// Changes the rows of which some values were not sent.
    async fn complete(&self, session: &mut Session) -> Result<(), Failure> {
        let (target, changes, [_, kept]) = (self.target, self.changes(), EXTRA);
        let others = self.others();
        if self.came.kept && !others.is_empty() {
            let partly: Option<i64> = scalar(session, format!("select count(*) from {changes} where {kept} is not null")).await?;
            let set = others
                .iter()
                .map(|(place, name)| format!("{name} = case when l.{kept} like '%,{place},%' then t.{name} else l.{name} end"));
            let set = set.collect::<Vec<_>>().join(", ");
            let same_key = self.same_key("l");
            let changed =
                session.run(format!("update {target} t set {set} from {changes} l where l.{kept} is not null and {same_key}")).await?;
            if Some(changed as i64) != partly {
                return Err(Failure::permanent(format!("changed rows are missing in {target}: somebody else has removed them"))
                    .help("`--fresh` copies the table again"));
            }
        }
        Ok(())
    }

    /// A row that moved to another key without sending a large value has it from its old key: from an earlier change there, or from the target,
    /// where the old row still is. One move after the other, since a row may move again.
    async fn follow_moves(&self, session: &mut Session) -> Result<(), Failure> {
        let (target, rows, [change, kept]) = (self.target, self.rows, EXTRA);
        let moves = format!(
            "select m.{ORDER}, n.{kept} from {rows} m join {rows} n on n.{ORDER} = m.{ORDER} + 1
             where m.{change} = '{MOVED}' and n.{kept} is not null order by 1"
        );
        let moves: Vec<(i64, String)> = sqlx::query_as(&moves).persistent(false).fetch_all(session.raw()).await.map_err(failure)?;
        let same_key = |other: &str| self.key.iter().map(|name| format!("{other}.{name} = m.{name}")).collect::<Vec<_>>().join(" and ");
        for (order, places) in moves {
            for (place, name) in self.columns.iter().filter(|(place, _)| places.contains(&format!(",{place},"))) {
                session
                    .run(format!(
                        "update {rows} n set {name} = s.value, {kept} = nullif(replace(n.{kept}, ',{place},', ','), ',')
                         from (select 1 as rank, x.{ORDER} as at, x.{name} as value from {rows} m join {rows} x on {}
                               where m.{ORDER} = {order} and x.{ORDER} < {order} and x.{change} = '{PUT}'
                                 and (x.{kept} is null or x.{kept} not like '%,{place},%')
                               union all
                               select 2, 0, t.{name} from {rows} m join {target} t on {} where m.{ORDER} = {order}
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
        let (rows, last, [change, kept]) = (self.rows, &self.last, EXTRA);
        let places = format!(
            "select distinct unnest(string_to_array(trim(both ',' from {kept}), ','))::int from pg_temp.{last} where {kept} is not null"
        );
        let places: Vec<i32> = sqlx::query_scalar(&places).persistent(false).fetch_all(session.raw()).await.map_err(failure)?;
        let key = self.key.join(", ");
        for place in places {
            let Some((_, name)) = self.columns.iter().find(|(other, _)| *other as i64 == i64::from(place)) else { continue };
            let same_key = self.key.iter().map(|name| format!("l.{name} = s.{name}")).collect::<Vec<_>>().join(" and ");
            session
                .run(format!(
                    "update pg_temp.{last} l set {name} = s.value, {kept} = nullif(replace(l.{kept}, ',{place},', ','), ',')
                     from (select distinct on ({key}) {key}, {name} as value from {rows}
                           where {change} = '{PUT}' and ({kept} is null or {kept} not like '%,{place},%') order by {key}, {ORDER} desc) s
                     where l.{kept} like '%,{place},%' and {same_key}"
                ))
                .await?;
        }
        Ok(())
    }
}

async fn scalar(session: &mut Session, sql: String) -> Result<Option<i64>, Failure> {
    sqlx::query_scalar(&sql).persistent(false).fetch_one(session.raw()).await.map_err(failure)
}
