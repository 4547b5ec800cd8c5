//! The swap: a staging table becomes everything the old table was, and takes its name, in one transaction.

use sqlx::postgres::types::Oid;

use super::catalog::{Table, ident, quoted};
use super::error::failure;
use super::session::Session;
use super::target::Place;
use crate::dialect::Dialect;
use crate::failure::Failure;

/// The owner of `$1`, the old table. This query and those below give statements, with `@staged` where the staging table's name goes.
const OWNER: &str = "
    select format('alter table @staged owner to %I', pg_get_userbyid(c.relowner)) from pg_catalog.pg_class c
    where c.oid = $1 and pg_get_userbyid(c.relowner) <> current_user";

/// Sequences that would be dropped with the old table.
const SEQUENCES: &str = "
    select format('alter sequence %s owned by @staged.%I', d.objid::regclass, a.attname)
    from pg_catalog.pg_depend d join pg_catalog.pg_class s on s.oid = d.objid and s.relkind = 'S'
      join pg_catalog.pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
    where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = $1 and d.deptype = 'a'";

/// What default privileges have granted on `$1`, the staging table.
const REVOKES: &str = "
    select distinct format('revoke all on @staged from %s', case when x.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(x.grantee)) end)
    from pg_catalog.pg_class c cross join lateral aclexplode(c.relacl) x where c.oid = $1";

/// Grants on the old table.
const GRANTS: &str = "
    select format('grant %s on @staged to %s%s', x.privilege_type,
      case when x.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(x.grantee)) end,
      case when x.is_grantable and x.grantee <> c.relowner then ' with grant option' else '' end)
    from pg_catalog.pg_class c cross join lateral aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) x where c.oid = $1";

/// The comment on the old table; those on its columns came with the staging table's creation.
const COMMENT: &str = "
    select format('comment on table @staged is %L', obj_description($1, 'pg_class')) where obj_description($1, 'pg_class') is not null";

/// Puts the staging table in the place of `table`.
pub(super) async fn swap(session: &mut Session, place: &Place, table: &Table, staged: &str) -> Result<(), Failure> {
    let target = place.quoted()?;
    let mut renames = constraints(session, table, staged).await?;
    renames.extend(indexes(session, table, place, staged).await?);
    renames.extend(identities(session, table, staged).await?);
    // Readers of the old table are waited for only now, when all the slow work is done.
    session.run(format!("lock table {target} in access exclusive mode")).await?;
    let staged_oid: Oid = sqlx::query_scalar("select to_regclass($1)::oid").bind(staged).fetch_one(session.raw()).await.map_err(failure)?;
    let old = Oid(table.oid);
    for (query, of) in [(OWNER, old), (SEQUENCES, old), (REVOKES, staged_oid), (GRANTS, old), (COMMENT, old)] {
        let statements: Vec<String> = sqlx::query_scalar(query).bind(of).fetch_all(session.raw()).await.map_err(failure)?;
        for statement in statements {
            session.run(statement.replace("@staged", staged)).await?;
        }
    }
    session.run(format!("drop table {target}; alter table {staged} rename to {}", ident(&place.name)?)).await?;
    for rename in renames {
        session.run(rename).await?;
    }
    Ok(())
}

/// Builds the constraints that have an index, under names of their own; gives the statements that rename them.
async fn constraints(session: &mut Session, table: &Table, staged: &str) -> Result<Vec<String>, Failure> {
    let found: Vec<(String, String, Option<String>)> = sqlx::query_as(
        "select conname::text, pg_get_constraintdef(oid), obj_description(oid, 'pg_constraint') from pg_catalog.pg_constraint
         where conrelid = $1 and contype in ('p', 'u', 'x') order by contype, oid",
    )
    .bind(Oid(table.oid))
    .fetch_all(session.raw())
    .await
    .map_err(failure)?;
    let target = quoted(&[table.schema.clone(), table.name.clone()])?;
    let mut renames = Vec::new();
    for (number, (name, definition, comment)) in found.into_iter().enumerate() {
        let name = ident(&name)?;
        session.run(format!("alter table {staged} add constraint haul_constraint_{number}_{} {definition}", table.oid)).await.map_err(
            |failure| {
                failure.during(format_args!("rebuilding the constraint {name}")).help("the new rows break it; look at them in a transform")
            },
        )?;
        renames.push(format!("alter table {target} rename constraint haul_constraint_{number}_{} to {name}", table.oid));
        if let Some(comment) = comment {
            let comment = Dialect::Postgres.text(&comment).map_err(Failure::permanent)?;
            renames.push(format!("comment on constraint {name} on {target} is {comment}"));
        }
    }
    Ok(renames)
}

/// Builds the other indexes, likewise.
async fn indexes(session: &mut Session, table: &Table, place: &Place, staged: &str) -> Result<Vec<String>, Failure> {
    let found: Vec<(String, String, String, Option<String>)> = sqlx::query_as(
        "select x.relname::text, pg_get_indexdef(x.oid),
           format('CREATE %sINDEX %I ON %I.%I ', case when i.indisunique then 'UNIQUE ' else '' end, x.relname, n.nspname, c.relname),
           obj_description(x.oid, 'pg_class')
         from pg_catalog.pg_index i join pg_catalog.pg_class x on x.oid = i.indexrelid join pg_catalog.pg_class c on c.oid = i.indrelid
           join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where i.indrelid = $1 and i.indisvalid and not exists (select from pg_catalog.pg_constraint k where k.conindid = x.oid and k.conrelid = $1)
         order by x.oid",
    )
    .bind(Oid(table.oid))
    .fetch_all(session.raw())
    .await
    .map_err(failure)?;
    let schema = ident(&place.schema)?;
    let mut renames = Vec::new();
    for (number, (name, definition, head, comment)) in found.into_iter().enumerate() {
        let name = ident(&name)?;
        // The definition is the server's own text; what stands before the method is known word for word.
        let rest = definition
            .strip_prefix(&head)
            .ok_or_else(|| Failure::permanent(format!("the definition of index {name} is not understood: {definition}")))?;
        let unique = if head.starts_with("CREATE UNIQUE") { "unique " } else { "" };
        session.run(format!("create {unique}index haul_index_{number}_{} on {staged} {rest}", table.oid)).await.map_err(|failure| {
            failure.during(format_args!("rebuilding the index {name}")).help("the new rows do not fit it; look at them in a transform")
        })?;
        renames.push(format!("alter index {schema}.haul_index_{number}_{} rename to {name}", table.oid));
        if let Some(comment) = comment {
            let comment = Dialect::Postgres.text(&comment).map_err(Failure::permanent)?;
            renames.push(format!("comment on index {schema}.{name} is {comment}"));
        }
    }
    Ok(renames)
}

/// The statements that give the sequences of identity columns the names they had.
async fn identities(session: &mut Session, table: &Table, staged: &str) -> Result<Vec<String>, Failure> {
    let target = quoted(&[table.schema.clone(), table.name.clone()])?;
    let sql = "select format('alter sequence %s rename to %I', pg_get_serial_sequence($2, a.attname), s.relname)
         from pg_catalog.pg_attribute a join pg_catalog.pg_class s on s.oid = pg_get_serial_sequence($3, a.attname)::regclass
         where a.attrelid = $1 and a.attidentity <> '' and not a.attisdropped";
    let query = sqlx::query_scalar(sql).bind(Oid(table.oid)).bind(staged).bind(target);
    query.fetch_all(session.raw()).await.map_err(failure)
}
