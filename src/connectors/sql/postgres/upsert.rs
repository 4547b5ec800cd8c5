//! Upserts: rows come into a temporary table first, and go from there into the target by key.

use super::apply::{Changes, EXTRA};
use super::came::Came;
use super::catalog::{Table, TableColumn, ident, quoted};
use super::error::failure;
use super::read;
use super::session::Session;
use super::sink::PgSink;
use super::target::idents;
use super::types::Kind;
use crate::data::{BatchLimit, Digest, Schema};
use crate::failure::Failure;

/// Its own column: the order in which rows came.
pub(super) const ORDER: &str = "\"haul row\"";
/// Most keys that a difference names.
const KEYS: usize = 20;

/// What came in, and where it goes.
pub(super) struct Incoming {
    /// The temporary table, which lives as long as the transaction.
    pub(super) rows: String,
    /// Which of several tables that are written together it is.
    number: usize,
    target: String,
    /// Quoted.
    columns: Vec<String>,
    /// Quoted.
    key: Vec<String>,
    /// Those of the target, in the order of `columns`.
    own: Vec<TableColumn>,
    /// Of changes: their kinds.
    pub(super) came: Came,
}

impl Incoming {
    /// Creates the temporary table, of the target's own types.
    pub(super) async fn create(
        session: &mut Session,
        table: &Table,
        columns: Vec<String>,
        key: &[String],
        came: Option<Came>,
        number: usize,
    ) -> Result<Self, Failure> {
        let rows = format!("haul_rows_{number}");
        let target = quoted(&[table.schema.clone(), table.name.clone()])?;
        let key = key.iter().map(|name| ident(name)).collect::<Result<Vec<_>, _>>()?;
        let mut own = Vec::new();
        for column in &table.columns {
            let quoted = ident(&column.name)?;
            if let Some(place) = columns.iter().position(|name| *name == quoted) {
                own.push((place, column.clone()));
            }
        }
        own.sort_by_key(|(place, _)| *place);
        let own = own.into_iter().map(|(_, column)| column).collect();
        let list = columns.join(", ");
        let extra: String = came.iter().flat_map(|_| EXTRA).map(|name| format!(", add column {name} text")).collect();
        session
            .run(format!(
                "create temporary table {rows} on commit drop as select {list} from {target} with no data;
                 alter table pg_temp.{rows} add column {ORDER} bigint generated always as identity{extra}"
            ))
            .await?;
        Ok(Self { rows: format!("pg_temp.{rows}"), number, target, columns, key, own, came: came.unwrap_or_default() })
    }

    /// The same as changes to apply; `places` are those of the columns in the incoming row.
    pub(super) fn changes(&self, places: impl Iterator<Item = usize>, copied: u64) -> Changes<'_> {
        let columns = places.zip(self.columns.iter().map(String::as_str)).collect();
        let last = format!("haul_last_{}", self.number);
        Changes { target: &self.target, rows: &self.rows, last, columns, key: &self.key, came: &self.came, copied }
    }

    /// Reads the temporary table back and compares it with what came in.
    pub(super) async fn verify_arrival(
        &self,
        session: &mut Session,
        sink: &PgSink,
        written: &Schema,
        came: Digest,
        raw: bool,
    ) -> Result<(), Failure> {
        let there = if raw {
            read::digest_raw(session, &format!("copy {} ({}) to stdout (format binary)", self.rows, self.columns.join(", "))).await?
        } else {
            let (copy, decoder) = sink.reading(&self.rows, &self.own, written, BatchLimit::default())?;
            read::digest(session, &copy, decoder).await?
        };
        if there == came {
            return Ok(());
        }
        Err(Failure::permanent(format!("what arrived in {} is not what was sent: {there} instead of {came}", self.target))
            .help("the split was rolled back; look for columns whose mapping is lossy, or write with `verify: count`"))
    }

    /// Puts the last row of every key into the target, in the order of the key, so that two splits never wait for each other in a circle.
    pub(super) async fn merge(&self, session: &mut Session) -> Result<u64, Failure> {
        let keyless = self.key.iter().map(|name| format!("{name} is null")).collect::<Vec<_>>().join(" or ");
        let nulls: i64 = sqlx::query_scalar(&format!("select count(*) from {} where {keyless}", self.rows))
            .persistent(false)
            .fetch_one(session.raw())
            .await
            .map_err(failure)?;
        let key = self.key.join(", ");
        if nulls > 0 {
            return Err(Failure::bad_rows(format!("{nulls} rows have no value in the key ({key}) of {}", self.target))
                .help("filter them out in a transform, or choose another key"));
        }
        let columns = self.columns.join(", ");
        let own = self.columns.iter().zip(&self.own);
        let changed =
            own.filter(|(name, own)| !self.key.contains(name) && !own.identity_always).map(|(name, _)| format!("{name} = excluded.{name}"));
        let changed = changed.collect::<Vec<_>>().join(", ");
        let conflict = if changed.is_empty() { "do nothing".to_owned() } else { format!("do update set {changed}") };
        let last = self.last_rows();
        session
            .run(format!(
                "analyze {}; insert into {} ({columns}) overriding system value select {columns} from ({last}) last order by {key}
                 on conflict ({key}) {conflict}",
                self.rows, self.target
            ))
            .await?;
        // Rows that a key-only table held already count as in the target too.
        let rows: i64 = sqlx::query_scalar(&format!("select count(*) from ({last}) last"))
            .persistent(false)
            .fetch_one(session.raw())
            .await
            .map_err(failure)?;
        Ok(rows as u64)
    }

    fn last_rows(&self) -> String {
        let key = self.key.join(", ");
        format!("select distinct on ({key}) * from {} order by {key}, {ORDER} desc", self.rows)
    }

    /// Compares the target with the last row of every key that came in.
    pub(super) async fn verify_merge(&self, session: &mut Session) -> Result<(), Failure> {
        let same_key = self.key.iter().map(|name| format!("t.{name} = s.{name}")).collect::<Vec<_>>().join(" and ");
        let own = self.columns.iter().zip(&self.own).filter(|(name, _)| !self.key.contains(name));
        let differs = own.map(|(name, own)| match has_equality(&own.ty.kind) {
            true => format!("t.{name} is distinct from s.{name}"),
            false => format!("t.{name}::text is distinct from s.{name}::text"),
        });
        let first = self.key.first().map_or("null", String::as_str);
        let differs = std::iter::once(format!("t.{first} is null")).chain(differs).collect::<Vec<_>>().join(" or ");
        let shown = self.key.iter().map(|name| format!("s.{name}::text")).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "select concat_ws(',', {shown}) from ({}) s left join {} t on {same_key} where {differs} limit {KEYS}",
            self.last_rows(),
            self.target
        );
        let keys: Vec<String> = sqlx::query_scalar(&sql).persistent(false).fetch_all(session.raw()).await.map_err(failure)?;
        if keys.is_empty() {
            return Ok(());
        }
        let names = self.key.join(",");
        Err(Failure::permanent(format!("rows of {} are not what was written; ({names}) of them: {}", self.target, keys.join(" ")))
            .help("the split was rolled back; look for a trigger or rule on the target that changes rows"))
    }
}

/// Quoted names of a key, for conditions.
pub(super) fn on_key(key: &[String], left: &str, right: &str) -> Result<String, Failure> {
    let parts = key.iter().map(|name| ident(name).map(|name| format!("{left}.{name} = {right}.{name}"))).collect::<Result<Vec<_>, _>>()?;
    Ok(parts.join(" and "))
}

/// What an insert does with a row whose key exists.
pub(super) fn on_conflict(key: &[String], columns: &[String]) -> Result<String, Failure> {
    let others: Vec<String> = columns.iter().filter(|name| !key.contains(name)).cloned().collect();
    let set = others.iter().map(|name| ident(name).map(|name| format!("{name} = excluded.{name}"))).collect::<Result<Vec<_>, _>>()?;
    let action = if set.is_empty() { "do nothing".to_owned() } else { format!("do update set {}", set.join(", ")) };
    Ok(format!("on conflict ({}) {action}", idents(key)?))
}

/// Types without an equality of their own are json, point and the like, and arrays of them.
fn has_equality(kind: &Kind) -> bool {
    match kind {
        Kind::Json | Kind::Opaque => false,
        Kind::Array(item) => has_equality(&item.kind),
        _ => true,
    }
}
