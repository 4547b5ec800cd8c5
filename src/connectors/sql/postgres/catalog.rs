//! What the catalog says of tables, views and queries.

use sqlx::Row;
use sqlx::postgres::types::Oid;

use super::error::failure;
use super::session::Session;
use super::types::{self, PgType};
use crate::dialect::Dialect;
use crate::failure::Failure;

/// One column of a table or query.
#[derive(Clone, Debug)]
pub(super) struct TableColumn {
    /// Unquoted.
    pub name: String,
    /// Domains stand as their base type.
    pub ty: PgType,
    /// Whether the table promises that there is a value.
    pub not_null: bool,
    /// Whether an insert may leave it out: it has a default, or numbers itself.
    pub fills_itself: bool,
    /// Computed from other columns; it cannot be written.
    pub generated: bool,
    /// Numbers itself, and is not to be updated.
    pub identity_always: bool,
    /// Whether two of its texts are the same only when their bytes are.
    pub exact: bool,
}

/// A table, view or anything else that has rows and a name.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// In this database.
    pub oid: u32,
    /// Its schema, unquoted.
    pub schema: String,
    /// Its name, unquoted.
    pub name: String,
    /// `r` table, `p` partitioned table, `v` view, `m` materialized view, `f` foreign table.
    pub kind: char,
    /// In their order.
    pub columns: Vec<TableColumn>,
    /// Whether this role may use the schema and read all columns.
    pub readable: bool,
    /// Whether policies hide rows from this role.
    pub row_security: bool,
    /// Whether other tables inherit from it, partitions included.
    pub has_children: bool,
    /// Whether this role owns it, or is in the role that does.
    pub owned: bool,
}

/// What the catalog estimates of a table and all that inherits from it.
#[derive(Clone, Debug)]
pub(super) struct Size {
    /// `None` before the first ANALYZE.
    pub rows: Option<u64>,
    /// On disk, large values included.
    pub bytes: u64,
    /// Blocks of the largest table among them.
    pub blocks: u64,
    /// Bytes of all blocks, without large values.
    pub heap_bytes: u64,
    /// Whether every one of them is stored in heap blocks, which can be read range by range.
    pub heap: bool,
}

/// The quoted form of a name of one or two parts.
pub(super) fn quoted(parts: &[String]) -> Result<String, Failure> {
    Dialect::Postgres.qualified(parts).map_err(|why| Failure::permanent(format!("`{}` cannot be a table: {why}", parts.join("."))))
}

/// The quoted form of a column's name. Names that the server gave always have one.
pub(super) fn ident(name: &str) -> Result<String, Failure> {
    Dialect::Postgres.ident(name).map_err(|why| Failure::permanent(format!("no such column can be: {why}")))
}

/// Looks a table up by name; `None` when there is none.
pub(super) async fn find_table(session: &mut Session, name: &[String]) -> Result<Option<Table>, Failure> {
    let row = sqlx::query(
        "select c.oid, n.nspname::text, c.relname::text, c.relkind::text,
           has_schema_privilege(n.oid, 'usage') and (has_table_privilege(c.oid, 'select') or coalesce((
             select bool_and(has_column_privilege(c.oid, a.attnum, 'select'))
             from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped), false)),
           row_security_active(c.oid), exists (select from pg_catalog.pg_inherits i where i.inhparent = c.oid),
           pg_has_role(c.relowner, 'usage')
         from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where c.oid = to_regclass($1) and c.relkind in ('r', 'p', 'v', 'm', 'f')",
    )
    .bind(quoted(name)?)
    .fetch_optional(session.raw())
    .await
    .map_err(failure)?;
    let Some(row) = row else { return Ok(None) };
    let get = || -> Result<Table, sqlx::Error> {
        Ok(Table {
            oid: row.try_get::<Oid, _>(0)?.0,
            schema: row.try_get(1)?,
            name: row.try_get(2)?,
            kind: row.try_get::<String, _>(3)?.chars().next().unwrap_or('r'),
            columns: Vec::new(),
            readable: row.try_get(4)?,
            row_security: row.try_get(5)?,
            has_children: row.try_get(6)?,
            owned: row.try_get(7)?,
        })
    };
    let mut table = get().map_err(failure)?;
    table.columns = columns(session, table.oid).await?;
    Ok(Some(table))
}

/// What a writer of a table goes by, in words that change with it: the table that has its name, and that one's columns.
pub(super) async fn shape(session: &mut Session, table: &Table) -> Result<String, Failure> {
    let name = quoted(&[table.schema.clone(), table.name.clone()])?;
    sqlx::query_scalar(
        "select concat_ws(' ', to_regclass($1)::oid, string_agg(
           concat_ws(' ', attname, atttypid, atttypmod, attcollation, attnotnull, attgenerated, attidentity), ',' order by attnum))
         from pg_catalog.pg_attribute where attrelid = to_regclass($1) and attnum > 0 and not attisdropped",
    )
    .bind(name)
    .fetch_one(session.raw())
    .await
    .map_err(failure)
}

/// Names like the one that was not found, for the error.
pub(super) async fn similar_tables(session: &mut Session, name: &[String]) -> Result<Vec<String>, Failure> {
    let last = name.last().map_or("", String::as_str);
    sqlx::query_scalar(
        "select n.nspname || '.' || c.relname from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
           and (lower(c.relname) = lower($1) or lower(c.relname) in (lower($1) || 's', rtrim(lower($1), 's')))
         order by 1 limit 3",
    )
    .bind(last)
    .fetch_all(session.raw())
    .await
    .map_err(failure)
}

async fn columns(session: &mut Session, table: u32) -> Result<Vec<TableColumn>, Failure> {
    type Found = (String, Oid, i32, bool, bool, bool, bool, bool);
    let rows: Vec<Found> = sqlx::query_as(
        "select attname::text, atttypid, atttypmod, attnotnull, atthasdef or attidentity <> '', attgenerated <> '', attidentity = 'a',
           coalesce((select l.collisdeterministic from pg_catalog.pg_collation l where l.oid = attcollation), false)
         from pg_catalog.pg_attribute where attrelid = $1 and attnum > 0 and not attisdropped order by attnum",
    )
    .bind(Oid(table))
    .fetch_all(session.raw())
    .await
    .map_err(failure)?;
    let wanted: Vec<(u32, i32)> = rows.iter().map(|row| (row.1.0, row.2)).collect();
    let types = types::resolve(session, &wanted).await?;
    let columns = rows.into_iter().zip(types).map(|(row, ty)| {
        let (name, _, _, not_null, fills_itself, generated, identity_always, deterministic) = row;
        TableColumn { name, exact: deterministic && ty.is_text(), ty, not_null, fills_itself, generated, identity_always }
    });
    Ok(columns.collect())
}

/// The columns of a query. A temporary view that is rolled back tells all, modifiers included; where the server or the role allows
/// none (a standby), the query's own description must do, and a numeric's precision shows only when it is a plain column.
pub(super) async fn query_columns(session: &mut Session, query: &str) -> Result<Vec<TableColumn>, Failure> {
    session.run("begin").await?;
    let view = format!("create temporary view haul_query as {query}");
    let made = sqlx::query(&view).persistent(false).execute(session.raw()).await;
    let columns = match made {
        Ok(_) => match find_table(session, &["pg_temp".to_owned(), "haul_query".to_owned()]).await {
            Ok(view) => Ok(view.map(|view| view.columns).unwrap_or_default()),
            Err(failure) => Err(failure),
        },
        Err(error) => Err(failure(error)),
    };
    session.run("rollback").await?;
    match columns {
        Err(failure) if failure.message.contains("SQLSTATE 25006") || failure.message.contains("SQLSTATE 42501") => {
            described_columns(session, query).await.map_err(|_| failure)
        }
        columns => columns,
    }
}

async fn described_columns(session: &mut Session, query: &str) -> Result<Vec<TableColumn>, Failure> {
    use sqlx::{Column, Executor, Statement};
    let statement = session.raw().prepare(query).await.map_err(failure)?;
    let mut wanted = Vec::new();
    for column in statement.columns() {
        let origin = column.relation_id().zip(column.relation_attribute_no());
        let modifier: Option<i32> = match origin {
            Some((table, number)) => {
                sqlx::query_scalar("select atttypmod from pg_catalog.pg_attribute where attrelid = $1 and attnum = $2")
                    .bind(table)
                    .bind(number)
                    .fetch_optional(session.raw())
                    .await
                    .map_err(failure)?
            }
            None => None,
        };
        wanted.push((column.type_info().oid().map_or(0, |oid| oid.0), modifier.unwrap_or(-1)));
    }
    let types = types::resolve(session, &wanted).await?;
    let columns = statement.columns().iter().zip(types).map(|(column, ty)| TableColumn {
        name: column.name().to_owned(),
        ty,
        not_null: false,
        fills_itself: false,
        generated: false,
        identity_always: false,
        exact: false,
    });
    Ok(columns.collect())
}

/// The primary key, else the shortest unique key whose columns promise a value; empty when there is none.
pub(super) async fn key(session: &mut Session, table: u32) -> Result<Vec<String>, Failure> {
    Ok(unique_keys(session, table).await?.into_iter().find(|(_, not_null)| *not_null).map(|(key, _)| key).unwrap_or_default())
}

/// Every set of columns that the table keeps unique, the primary key first, and whether all of them promise a value.
pub(super) async fn unique_keys(session: &mut Session, table: u32) -> Result<Vec<(Vec<String>, bool)>, Failure> {
    sqlx::query_as(
        "select array_agg(a.attname::text order by k.place), bool_and(a.attnotnull)
         from pg_catalog.pg_index i
           cross join lateral unnest(i.indkey::int2[]) with ordinality as k(number, place)
           join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
         where i.indrelid = $1 and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null and i.indexprs is null
           and k.place <= i.indnkeyatts
         group by i.indexrelid, i.indisprimary order by i.indisprimary desc, count(*), i.indexrelid",
    )
    .bind(Oid(table))
    .fetch_all(session.raw())
    .await
    .map_err(failure)
}

/// The tables that hold the rows of `$1`: itself and everything that inherits from it.
const TREE: &str = "with recursive tree(oid) as (
    select $1::oid union select i.inhrelid from tree join pg_catalog.pg_inherits i on i.inhparent = tree.oid)";

/// Estimates of a table.
pub(super) async fn size(session: &mut Session, table: u32) -> Result<Size, Failure> {
    let sql = format!(
        "{TREE} select case when bool_or(c.reltuples < 0) then -1 else sum(c.reltuples)::float8 end,
           coalesce(sum(pg_table_size(c.oid)), 0)::int8, coalesce(max(pg_relation_size(c.oid)), 0)::int8,
           coalesce(sum(pg_relation_size(c.oid)), 0)::int8, current_setting('block_size')::int8,
           coalesce(bool_and(c.relkind in ('r', 'm') and am.amname = 'heap'), false)
         from tree join pg_catalog.pg_class c on c.oid = tree.oid left join pg_catalog.pg_am am on am.oid = c.relam
         where c.relkind in ('r', 'm', 'f')"
    );
    let (rows, bytes, largest, heap_bytes, block, heap): (Option<f64>, i64, i64, i64, i64, bool) =
        sqlx::query_as(&sql).bind(Oid(table)).fetch_one(session.raw()).await.map_err(failure)?;
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(Size {
        rows: rows.filter(|rows| *rows >= 0.0).map(|rows| rows as u64),
        bytes: count(bytes),
        blocks: count(largest) / count(block).max(1),
        heap_bytes: count(heap_bytes),
        heap,
    })
}

/// A value that changes when the table's rows do, as far as the server's counters tell: see "Splits" in `docs/postgresql.md`. Where
/// nothing counts (a standby, `track_counts` off) every write to the whole server changes it.
pub(super) async fn fingerprint(session: &mut Session, table: u32) -> Result<String, Failure> {
    session.run("select pg_stat_clear_snapshot()").await?;
    let sql = format!(
        "{TREE} select md5(string_agg(concat_ws(':', c.oid, c.relfilenode, pg_stat_get_tuples_inserted(c.oid),
             pg_stat_get_tuples_updated(c.oid), pg_stat_get_tuples_deleted(c.oid)), ',' order by c.oid))
           || case when pg_is_in_recovery() then ':' || pg_last_wal_replay_lsn()::text
                   when current_setting('track_counts') = 'off' then ':' || pg_current_wal_lsn()::text else '' end
         from tree join pg_catalog.pg_class c on c.oid = tree.oid"
    );
    sqlx::query_scalar(&sql).bind(Oid(table)).fetch_one(session.raw()).await.map_err(failure)
}

/// What the planner expects of a query: rows, and bytes of all of them.
pub(super) async fn expected(session: &mut Session, select: &str) -> Result<(u64, u64), Failure> {
    let plan: serde_json::Value = {
        let sql = format!("explain (format json) {select}");
        let text: String =
            sqlx::query(&sql).persistent(false).fetch_one(session.raw()).await.and_then(|row| row.try_get_unchecked(0)).map_err(failure)?;
        serde_json::from_str(&text).unwrap_or_default()
    };
    let number = |key: &str| plan.pointer(&format!("/0/Plan/{key}")).and_then(serde_json::Value::as_u64).unwrap_or(0);
    let rows = number("Plan Rows");
    Ok((rows, rows * number("Plan Width")))
}
