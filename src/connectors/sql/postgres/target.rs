//! What becomes of the incoming columns in a target table: the plan of a load, and the statements that prepare it.

use sqlx::postgres::types::Oid;

use super::catalog::{self, Table, TableColumn, ident, quoted};
use super::error::failure;
use super::fit::{self, Fit, Form};
use super::session::Session;
use super::types::{self, PgType};
use crate::connectors::TargetProblem;
use crate::data::{Column, Mapped, Schema};
use crate::define::pipeline::{SchemaMode, SqlSink, WriteMode};
use crate::failure::Failure;

/// Where rows go, as the catalog knows it now.
pub(super) struct Place {
    /// Unquoted.
    pub schema: String,
    /// Unquoted.
    pub name: String,
    /// The table, when there is one of that name.
    pub table: Option<Table>,
}

impl Place {
    /// Finds the target. A table without a schema is looked for along the search path, and created in its first schema.
    pub(super) async fn find(session: &mut Session, spec: &SqlSink) -> Result<Self, Failure> {
        let table = catalog::find_table(session, &spec.table).await?;
        if let Some(table) = table {
            return Ok(Self { schema: table.schema.clone(), name: table.name.clone(), table: Some(table) });
        }
        let name = spec.table.last().cloned().unwrap_or_default();
        let schema = match &spec.table[..] {
            [schema, _] => schema.clone(),
            _ => {
                let current: Option<String> =
                    sqlx::query_scalar("select current_schema()::text").fetch_one(session.raw()).await.map_err(failure)?;
                current.ok_or_else(|| {
                    Failure::permanent(format!("the table `{name}` has no schema to be in"))
                        .help("write it with its schema: `table: public.name`")
                })?
            }
        };
        Ok(Self { schema, name, table: None })
    }

    /// The quoted name.
    pub(super) fn quoted(&self) -> Result<String, Failure> {
        quoted(&[self.schema.clone(), self.name.clone()])
    }
}

/// One incoming column and what it becomes.
pub(super) struct Planned {
    pub name: String,
    pub ty: PgType,
    pub fit: Fit,
    /// False for a column that the target computes itself.
    pub written: bool,
    /// Whether the target has it already.
    pub exists: bool,
    not_null: bool,
}

/// A target and the columns that fit it.
pub(super) struct Blueprint {
    pub place: Place,
    pub columns: Vec<Planned>,
}

impl Blueprint {
    /// Matches the incoming columns with the target. Every problem at once.
    pub(super) async fn draw(
        session: &mut Session,
        spec: &SqlSink,
        incoming: &Schema,
    ) -> Result<Result<Self, Vec<TargetProblem>>, Failure> {
        let place = Place::find(session, spec).await?;
        let mut problems = Vec::new();
        if let Some(table) = &place.table {
            if !matches!(table.kind, 'r' | 'p') {
                let message = format!("`{}.{}` is a {}, not a table", place.schema, place.name, kind_name(table.kind));
                return Ok(Err(vec![problem("target-kind", "table", message, "name a table, or a name that is free")]));
            }
        } else if matches!(&*place.name, "haul_loads" | "haul_marks") {
            problems.push(problem(
                "target-name",
                "table",
                format!("`{}` is where haul keeps its marks", place.name),
                "choose another name",
            ));
        } else if spec.schema == SchemaMode::Require {
            let message = format!("there is no table `{}.{}`", place.schema, place.name);
            problems.push(problem("target-missing", "table", message, "create it first, or let haul create it: `schema: create`"));
        }
        let natives = natives(session, incoming).await?;
        let mut columns = Vec::new();
        for (column, native) in incoming.columns.iter().zip(natives) {
            match plan_column(column, native, place.table.as_ref(), spec.schema) {
                Ok(planned) => columns.push(planned),
                Err(problem) => problems.push(problem),
            }
        }
        if let Some(table) = &place.table {
            problems.extend(unfed(table, incoming));
            if table.row_security {
                let message =
                    format!("policies apply to this role on `{}.{}`, and COPY cannot write through them", place.schema, place.name);
                problems.push(problem("target-privilege", "table", message, "write as the table's owner, or as a role with `bypassrls`"));
            }
        }
        problems.extend(key_problems(session, spec, &place, incoming).await?);
        problems.extend(privileges(session, spec, &place).await?);
        if place.table.as_ref().is_some_and(|table| !table.owned) && columns.iter().any(|planned| !planned.exists) {
            let message = format!("only the owner of `{}.{}` may add columns to it", place.schema, place.name);
            problems.push(problem("target-privilege", "schema", message, "add the columns first, or write as the owner"));
        }
        Ok(if problems.is_empty() { Ok(Self { place, columns }) } else { Err(problems) })
    }

    /// What each incoming column becomes.
    pub(super) fn mapped(&self) -> Vec<Mapped> {
        let mapped = self.columns.iter().map(|planned| Mapped {
            name: planned.name.clone(),
            native: planned.ty.name.clone(),
            grade: planned.fit.grade,
            reason: planned.fit.reason.clone(),
        });
        mapped.collect()
    }

    /// The columns as a source would describe them, once a new table has its key.
    pub(super) fn reads_as(&self, primary_key: &[String]) -> Schema {
        let keyed = |planned: &Planned| self.place.table.is_none() && primary_key.contains(&planned.name);
        let columns = self.columns.iter().map(|planned| Column {
            name: planned.name.clone(),
            ty: planned.ty.logical(),
            nullable: !(planned.not_null || keyed(planned)),
            native: Some(planned.ty.name.clone()),
        });
        Schema { columns: columns.collect() }
    }

    /// The statement that creates a table of these columns.
    pub(super) fn create(&self, quoted_name: &str, primary_key: &[String]) -> Result<String, Failure> {
        let mut parts = Vec::new();
        for planned in &self.columns {
            let null = if planned.not_null || primary_key.contains(&planned.name) { " not null" } else { "" };
            parts.push(format!("{} {}{null}", ident(&planned.name)?, planned.ty.name));
        }
        if !primary_key.is_empty() {
            parts.push(format!("primary key ({})", idents(primary_key)?));
        }
        Ok(format!("create table {quoted_name} ({})", parts.join(", ")))
    }

    /// The statements that add what the target lacks.
    pub(super) fn additions(&self) -> Result<Vec<String>, Failure> {
        let table = self.place.quoted()?;
        let missing = self.columns.iter().filter(|planned| !planned.exists);
        missing.map(|planned| Ok(format!("alter table {table} add column {} {}", ident(&planned.name)?, planned.ty.name))).collect()
    }
}

/// The columns that a COPY into an existing table is made of: all that come in but those the table computes itself.
pub(super) struct Copied {
    /// The incoming place and the form of each.
    pub forms: Vec<(usize, Form)>,
    /// Their quoted names.
    pub names: Vec<String>,
}

/// Matches the incoming columns with those of the table that is about to be written.
pub(super) fn copied(table: &Table, incoming: &Schema) -> Result<Copied, Failure> {
    let mut copied = Copied { forms: Vec::new(), names: Vec::new() };
    for (place, column) in incoming.columns.iter().enumerate() {
        let changed = || {
            Failure::permanent(format!(
                "the target {}.{} has changed: column `{}` is not what the plan saw",
                table.schema, table.name, column.name
            ))
            .help("run again, so that a new plan is made")
        };
        let found = table.columns.iter().find(|found| found.name == column.name).ok_or_else(changed)?;
        if !found.generated {
            copied.forms.push((place, fit::fit(column, &found.ty).map_err(|_| changed())?.form));
            copied.names.push(ident(&column.name)?);
        }
    }
    Ok(copied)
}

/// Quoted names, separated by commas.
pub(super) fn idents(names: &[String]) -> Result<String, Failure> {
    Ok(names.iter().map(|name| ident(name)).collect::<Result<Vec<_>, _>>()?.join(", "))
}

fn problem(code: &'static str, field: &'static str, message: impl Into<String>, help: impl Into<String>) -> TargetProblem {
    TargetProblem { code, field, message: message.into(), help: help.into() }
}

fn kind_name(kind: char) -> &'static str {
    match kind {
        'v' => "view",
        'm' => "materialized view",
        'f' => "foreign table",
        _ => "relation",
    }
}

/// The types the incoming columns had at their source, where this database has them too. Only canonical names are found, so another
/// engine's `INTEGER` or `VARCHAR(20)`, which promise something else, are not.
async fn natives(session: &mut Session, incoming: &Schema) -> Result<Vec<Option<PgType>>, Failure> {
    let mut names: Vec<String> = incoming.columns.iter().filter_map(|column| column.native.clone()).collect();
    names.sort();
    names.dedup();
    let found = types::by_name(session, &names).await?;
    let same = |column: &Column| found.get(column.native.as_ref()?).filter(|found| !found.as_text && found.logical() == column.ty).cloned();
    Ok(incoming.columns.iter().map(same).collect())
}

fn plan_column(column: &Column, native: Option<PgType>, table: Option<&Table>, mode: SchemaMode) -> Result<Planned, TargetProblem> {
    let name = column.name.clone();
    if let Err(failure) = ident(&name) {
        return Err(problem("target-name", "table", failure.message, "rename the column in a transform: `rename: { old: new }`"));
    }
    if let Some(table) = table {
        if let Some(found) = table.columns.iter().find(|found| found.name == name) {
            return existing_column(column, found);
        }
        if mode != SchemaMode::Evolve {
            let message = format!("`{}.{}` has no column `{name}`", table.schema, table.name);
            let help = "drop or rename it in a transform, or let haul add it: `schema: evolve`";
            return Err(problem("target-columns", "table", message, help));
        }
    }
    let created = native.or_else(|| fit::natural(&column.ty));
    let fit = created.as_ref().map(|created| fit::fit(column, created));
    match (created, fit) {
        (Some(ty), Some(Ok(fit))) => {
            Ok(Planned { name, ty, fit, written: true, exists: false, not_null: !column.nullable && table.is_none() })
        }
        _ => {
            let message = format!("column `{name}` is {}, which PostgreSQL has no type for", column.ty);
            Err(problem("target-type", "table", message, "cast it in a transform: `cast: { column: text }`"))
        }
    }
}

fn existing_column(column: &Column, found: &TableColumn) -> Result<Planned, TargetProblem> {
    let name = column.name.clone();
    let mut fit = fit::fit(column, &found.ty).map_err(|why| {
        problem("target-type", "table", format!("column `{name}`: {why}"), "cast it in a transform, or change the target's column")
    })?;
    if found.generated {
        fit = Fit { grade: fit.grade, reason: "computed by the target, not written".to_owned(), ..fit };
    }
    Ok(Planned { name, ty: found.ty.clone(), fit, written: !found.generated, exists: true, not_null: found.not_null })
}

/// Columns of the target that need a value and get none.
fn unfed(table: &Table, incoming: &Schema) -> Vec<TargetProblem> {
    let needy = table.columns.iter().filter(|column| column.not_null && !column.fills_itself && !column.generated);
    let unfed = needy.filter(|column| incoming.find(&column.name).is_none());
    unfed
        .map(|column| {
            let message = format!("`{}.{}` needs a value in `{}`, and none comes", table.schema, table.name, column.name);
            problem("target-columns", "table", message, "add the column in a transform (`set`), or give it a default in the target")
        })
        .collect()
}

async fn key_problems(session: &mut Session, spec: &SqlSink, place: &Place, incoming: &Schema) -> Result<Vec<TargetProblem>, Failure> {
    let mut problems = Vec::new();
    let key: &[String] = match &spec.mode {
        WriteMode::Upsert { key } => key,
        _ => &[],
    };
    let primary: &[String] = spec.primary_key.as_deref().unwrap_or_default();
    for (field, names) in [("key", key), ("primary_key", primary)] {
        for name in names.iter().filter(|name| incoming.find(name).is_none()) {
            let message = format!("the key's column `{name}` does not come in");
            problems.push(problem("target-key", field, message, "name columns that the stage writes"));
        }
    }
    let Some(table) = place.table.as_ref().filter(|_| !key.is_empty()) else { return Ok(problems) };
    let unique = catalog::unique_keys(session, table.oid).await?;
    let same = |columns: &Vec<String>| columns.len() == key.len() && key.iter().all(|name| columns.contains(name));
    if !unique.iter().any(|(columns, _)| same(columns)) {
        let message = format!("`{}.{}` does not keep {} unique, which an upsert needs", place.schema, place.name, key.join(", "));
        let help = format!("create the index first: `create unique index on {} ({})`", place.quoted()?, idents(key)?);
        problems.push(problem("target-key", "key", message, help));
    }
    Ok(problems)
}

async fn privileges(session: &mut Session, spec: &SqlSink, place: &Place) -> Result<Vec<TargetProblem>, Failure> {
    let rights: Option<(bool, bool, bool)> = sqlx::query_as(
        "select has_schema_privilege(n.oid, 'usage'), has_schema_privilege(n.oid, 'create'),
           has_database_privilege(current_database(), 'temp') from pg_catalog.pg_namespace n where n.nspname = $1",
    )
    .bind(&place.schema)
    .fetch_optional(session.raw())
    .await
    .map_err(failure)?;
    let schema = ident(&place.schema)?;
    let Some((usage, create, temporary)) = rights else {
        let message = format!("there is no schema `{}`", place.schema);
        return Ok(vec![problem("target-schema", "table", message, format!("create it first: `create schema {schema}`"))]);
    };
    let mut problems = Vec::new();
    let mut need = |has: bool, what: &str, grant: String| {
        if !has {
            problems.push(problem("target-privilege", "table", format!("this role may not {what}"), format!("grant it: `{grant}`")));
        }
    };
    need(usage, &format!("use the schema {schema}"), format!("grant usage on schema {schema} to …"));
    let ledger: bool = sqlx::query_scalar("select exists (select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = 'haul_loads')")
        .bind(&place.schema)
        .fetch_one(session.raw())
        .await
        .map_err(failure)?;
    if place.table.is_none() || spec.mode == WriteMode::Replace || !ledger {
        need(create, &format!("create tables in the schema {schema}"), format!("grant create on schema {schema} to …"));
    }
    if matches!(spec.mode, WriteMode::Upsert { .. }) {
        need(temporary, "create temporary tables", "grant temporary on database … to …".to_owned());
    }
    if let Some(table) = &place.table {
        let wanted: &[&str] = match &spec.mode {
            WriteMode::Append => &["insert", "select"],
            WriteMode::Replace => &["insert", "select", "delete"],
            WriteMode::Upsert { .. } => &["insert", "select", "update"],
        };
        for right in wanted {
            let has: bool = sqlx::query_scalar("select has_table_privilege($1, $2)")
                .bind(Oid(table.oid))
                .bind(right)
                .fetch_one(session.raw())
                .await
                .map_err(failure)?;
            let name = place.quoted()?;
            need(has, &format!("{right} on {name}"), format!("grant {right} on {name} to …"));
        }
    }
    Ok(problems)
}
