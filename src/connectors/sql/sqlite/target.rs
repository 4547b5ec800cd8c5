//! The shape of the table that a load writes to: what is there, what would be created, and everything that stands against it.

use rusqlite::{Connection as Sqlite, params};

use super::marks;
use super::source::table_name;
use super::table::{Kind, Table};
use super::types::{self, Affinity};
use crate::connectors::TargetProblem;
use crate::data::{Column, Grade, Mapped, Schema, Type};
use crate::define::pipeline::{SchemaMode, SqlSink, WriteMode};
use crate::dialect::Dialect;

/// SQLite's limit on the columns of a table.
const MOST_COLUMNS: usize = 2000;

/// The table as the load needs it.
#[derive(Debug)]
pub(super) struct Shape {
    /// As the database spells it, when it exists.
    pub(super) table: String,
    pub(super) existing: Option<Table>,
    /// One for each incoming column.
    pub(super) columns: Vec<TargetColumn>,
    /// The target's names of the columns that an upsert meets rows by.
    pub(super) key: Vec<String>,
    /// The primary key of a new table.
    primary_key: Vec<String>,
    pub(super) publish: Publish,
}

#[derive(Debug)]
pub(super) struct TargetColumn {
    pub(super) name: String,
    /// Quoted for SQL.
    pub(super) quoted: String,
    pub(super) declared: String,
    pub(super) affinity: Affinity,
    /// Whether the table exists and this column must be added to it.
    added: bool,
    not_null: bool,
    /// Whether a NULL would make SQLite invent a value.
    pub(super) row_number: bool,
    grade: Grade,
    reason: String,
}

impl TargetColumn {
    /// Name and type, as DDL says them. SQLite takes any text as a type when it is quoted like a name.
    fn definition(&self) -> String {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b' ';
        let name = self.declared.split_once('(').map_or(self.declared.as_str(), |(name, _)| name);
        let arguments = &self.declared[name.len()..];
        let plain = name.bytes().all(word) && arguments.bytes().all(|byte| byte.is_ascii_digit() || b"(), ".contains(&byte));
        let declared = if plain { self.declared.clone() } else { quote(&self.declared) };
        format!("{} {declared}", self.quoted)
    }
}

/// How a load becomes visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Publish {
    /// With every commit.
    AtOnce,
    /// The staging table takes the place of the target, or becomes it.
    Rename,
    /// The target's rows are deleted and the staged ones inserted, in one transaction: indexes, triggers, views and grants of others stay.
    InPlace,
}

impl Shape {
    /// Compares what comes in with what is there. `connection` is `None` when the file does not exist.
    pub(super) fn of(
        connection: Option<&Sqlite>,
        spec: &SqlSink,
        incoming: &Schema,
    ) -> Result<Result<Self, Vec<TargetProblem>>, rusqlite::Error> {
        let mut problems = Vec::new();
        let name = match table_name(&spec.table) {
            Ok(name) => name.to_owned(),
            Err(message) => return Ok(Err(vec![problem("target-name", "table", message, "name the table alone")])),
        };
        let existing = connection.map(|connection| Table::find(connection, &name)).transpose()?.flatten();
        check_name(&name, &mut problems);
        if let Some(table) = &existing {
            check_kind(table, &mut problems);
        } else if spec.schema == SchemaMode::Require {
            let help = "create it first, or let `schema: create` do it";
            problems.push(problem("target-missing", "table", format!("there is no table `{name}`"), help));
        }
        let primary_key = spec.primary_key.clone().unwrap_or_else(|| key_of(&spec.mode).to_vec());
        let columns = columns(existing.as_ref(), spec, incoming, &primary_key, &mut problems);
        if let Some(table) = &existing {
            check_unfilled(table, &columns, &mut problems);
        }
        let key = check_keys(existing.as_ref(), spec, incoming, &primary_key, &mut problems);
        if !problems.is_empty() {
            return Ok(Err(problems));
        }
        let table = existing.as_ref().map_or(name, |table| table.name.clone());
        let mut shape = Self { table, existing, columns, key, primary_key, publish: Publish::AtOnce };
        if spec.mode == WriteMode::Replace {
            shape.publish = if shape.can_rename(connection)? { Publish::Rename } else { Publish::InPlace };
        }
        Ok(Ok(shape))
    }

    /// The statement that creates the target's table under a name.
    pub(super) fn create(&self, name: &str) -> String {
        let mut lines: Vec<String> = self
            .columns
            .iter()
            .map(|column| {
                let not_null = if column.not_null { " NOT NULL" } else { "" };
                format!("  {}{not_null}", column.definition())
            })
            .collect();
        if !self.primary_key.is_empty() {
            lines.push(format!("  PRIMARY KEY ({})", quoted_list(self.primary_key.iter().map(String::as_str))));
        }
        format!("CREATE TABLE {} (\n{}\n)", quote(name), lines.join(",\n"))
    }

    /// The statement that creates a table for the rows of a load, to be copied into the existing target.
    pub(super) fn create_staging(&self, name: &str) -> String {
        if self.publish == Publish::Rename { self.create(name) } else { self.create_gathered(&quote(name)) }
    }

    /// The statement that creates a table of the same columns without any rule, so that rows can be copied as they are.
    pub(super) fn create_gathered(&self, table: &str) -> String {
        let columns: Vec<String> = self.columns.iter().map(TargetColumn::definition).collect();
        format!("CREATE TABLE {table} ({})", columns.join(", "))
    }

    /// The statements that add what the existing table lacks.
    pub(super) fn additions(&self) -> Vec<String> {
        let added = self.columns.iter().filter(|column| column.added);
        added.map(|column| format!("ALTER TABLE {} ADD COLUMN {}", quote(&self.table), column.definition())).collect()
    }

    /// Everything that is done to the target's shape.
    pub(super) fn ddl(&self) -> Vec<String> {
        if self.existing.is_none() { vec![self.create(&self.table)] } else { self.additions() }
    }

    /// The quoted names of the incoming columns, joined by commas.
    pub(super) fn column_list(&self) -> String {
        self.columns.iter().map(|column| column.quoted.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The statement that puts rows into the table by the key.
    pub(super) fn upsert(&self, rows: &str) -> String {
        let others = self.columns.iter().filter(|column| !self.key.contains(&column.name));
        let others: Vec<String> = others.map(|column| format!("{0} = excluded.{0}", column.quoted)).collect();
        let action = if others.is_empty() { "nothing".to_owned() } else { format!("update set {}", others.join(", ")) };
        let (table, key) = (quote(&self.table), quoted_list(self.key.iter().map(String::as_str)));
        format!("insert into {table} ({}) {rows} on conflict ({key}) do {action}", self.column_list())
    }

    pub(super) fn mapped(&self) -> Vec<Mapped> {
        let mapped = |column: &TargetColumn| Mapped {
            name: column.name.clone(),
            native: column.declared.clone(),
            grade: column.grade,
            reason: column.reason.clone(),
        };
        self.columns.iter().map(mapped).collect()
    }

    /// The columns as this connector's source will describe them.
    pub(super) fn reads_as(&self) -> Schema {
        let column = |name: &str, declared: &str, nullable: bool| {
            let ty = types::logical(declared).unwrap_or(Type::Text);
            Column { name: name.to_owned(), ty, nullable, native: Some(declared.to_owned()) }
        };
        let existing = self.existing.iter().flat_map(|table| {
            table.columns.iter().enumerate().map(|(place, found)| column(&found.name, &found.declared, !table.never_null(place)))
        });
        let new = self.columns.iter().filter(|new| new.added || self.existing.is_none());
        let new = new.map(|new| column(&new.name, &new.declared, !new.not_null));
        Schema { columns: existing.chain(new).collect() }
    }

    /// A table that haul made in this very shape, and that nothing else in the file speaks of, may be replaced by another one.
    fn can_rename(&self, connection: Option<&Sqlite>) -> Result<bool, rusqlite::Error> {
        let (Some(table), Some(connection)) = (&self.existing, connection) else { return Ok(self.existing.is_none()) };
        if table.sql != self.create(&self.table) {
            return Ok(false);
        }
        connection.query_row(
            "select not exists (select 1 from sqlite_schema where sql is not null and not (type = 'table' and name = ?1)
             and (tbl_name = ?1 or instr(lower(sql), lower(?1)) > 0))",
            params![self.table],
            |row| row.get(0),
        )
    }
}

fn key_of(mode: &WriteMode) -> &[String] {
    match mode {
        WriteMode::Upsert { key } => key,
        WriteMode::Append | WriteMode::Replace => &[],
    }
}

fn problem(code: &'static str, field: &'static str, message: impl Into<String>, help: impl Into<String>) -> TargetProblem {
    TargetProblem { code, field, message: message.into(), help: help.into() }
}

/// Names were checked before they come here; a NUL cannot be among them.
pub(super) fn quote(name: &str) -> String {
    Dialect::Sqlite.ident(name).unwrap_or_default()
}

pub(super) fn quoted_list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(quote).collect::<Vec<_>>().join(", ")
}

fn check_name(name: &str, problems: &mut Vec<TargetProblem>) {
    if let Err(message) = Dialect::Sqlite.ident(name) {
        problems.push(problem("target-name", "table", message, "choose another name"));
    } else if name.to_ascii_lowercase().starts_with("sqlite_") {
        problems.push(problem("target-name", "table", format!("SQLite keeps names such as `{name}` for itself"), "choose another name"));
    } else if marks::TABLES.iter().any(|own| own.eq_ignore_ascii_case(name)) {
        problems.push(problem("target-name", "table", format!("`{name}` is where haul keeps its marks"), "choose another name"));
    }
}

fn check_kind(table: &Table, problems: &mut Vec<TargetProblem>) {
    let what = match table.kind {
        Kind::Table | Kind::WithoutRowid => return,
        Kind::View => "a view",
        Kind::Virtual => "a virtual table",
    };
    problems.push(problem("target-kind", "table", format!("`{}` is {what}, and rows go to tables only", table.name), "name a table"));
}

fn columns(
    existing: Option<&Table>,
    spec: &SqlSink,
    incoming: &Schema,
    primary_key: &[String],
    problems: &mut Vec<TargetProblem>,
) -> Vec<TargetColumn> {
    if incoming.columns.len() > MOST_COLUMNS {
        let message = format!("{} columns arrive, and a table of SQLite has at most {MOST_COLUMNS}", incoming.columns.len());
        problems.push(problem("target-columns", "", message, "leave columns out with `select:` or `drop:`"));
        return Vec::new();
    }
    if incoming.columns.is_empty() {
        problems.push(problem("target-columns", "", "no columns arrive", "keep at least one"));
    }
    let mut columns: Vec<TargetColumn> = Vec::with_capacity(incoming.columns.len());
    for column in &incoming.columns {
        let quoted = Dialect::Sqlite.ident(&column.name).unwrap_or_else(|message| {
            problems.push(problem("target-columns", "", message, "rename the column with `rename:`"));
            String::new()
        });
        if let Some(clash) = columns.iter().find(|earlier| earlier.name.eq_ignore_ascii_case(&column.name)) {
            let message = format!("SQLite does not tell the columns `{}` and `{}` apart", clash.name, column.name);
            problems.push(problem("target-columns", "", message, "rename one of them with `rename:`"));
        }
        let found = existing.and_then(|table| table.column(&column.name).map(|(place, found)| (table, place, found)));
        columns.push(match found {
            Some((table, place, found)) => {
                if found.generated {
                    let message = format!("the column `{}` of `{}` is generated and cannot be written", found.name, table.name);
                    problems.push(problem("target-columns", "", message, "leave it out with `drop:`"));
                }
                let (grade, reason) = types::fit(&column.ty, &found.declared).unwrap_or_else(|message| {
                    let message = format!("column `{}`: {message}", column.name);
                    problems.push(problem("target-type", "", message, "cast the column with `cast:`, or change the table"));
                    (Grade::Lossy, String::new())
                });
                TargetColumn {
                    quoted: quote(&found.name),
                    name: found.name.clone(),
                    affinity: Affinity::of(&found.declared),
                    declared: found.declared.clone(),
                    added: false,
                    not_null: table.never_null(place),
                    row_number: table.row_number == Some(place),
                    grade,
                    reason,
                }
            }
            None => {
                let row_number = primary_key == [column.name.clone()] && matches!(column.ty, Type::Int(_) | Type::UInt(8 | 16 | 32));
                let created = types::create(&column.ty, row_number && existing.is_none());
                TargetColumn {
                    name: column.name.clone(),
                    quoted,
                    affinity: Affinity::of(&created.declared),
                    declared: created.declared,
                    added: existing.is_some(),
                    not_null: existing.is_none() && (!column.nullable || primary_key.contains(&column.name)),
                    row_number: row_number && existing.is_none(),
                    grade: created.grade,
                    reason: created.reason,
                }
            }
        });
    }
    let missing: Vec<&str> = columns.iter().filter(|column| column.added).map(|column| column.name.as_str()).collect();
    if !missing.is_empty() && spec.schema != SchemaMode::Evolve {
        let message = format!("the table has no column {}", named(&missing));
        problems.push(problem(
            "target-columns",
            "schema",
            message,
            "let `schema: evolve` add what is missing, or leave it out with `drop:`",
        ));
    }
    columns
}

fn named(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Columns that must have a value and would get none.
fn check_unfilled(table: &Table, columns: &[TargetColumn], problems: &mut Vec<TargetProblem>) {
    let filled = |name: &str| columns.iter().any(|column| column.name == name);
    let unfilled: Vec<&str> = table
        .columns
        .iter()
        .filter(|column| column.not_null && !column.has_default && !column.generated && !filled(&column.name))
        .filter(|column| table.row_number.is_none_or(|place| table.columns[place].name != column.name))
        .map(|column| column.name.as_str())
        .collect();
    if !unfilled.is_empty() {
        let message = format!("no value arrives for {}, which `{}` requires", named(&unfilled), table.name);
        problems.push(problem("target-columns", "", message, "add it with `set:`, or give the table's column a default"));
    }
}

/// The target's names of the upsert key.
fn check_keys(
    existing: Option<&Table>,
    spec: &SqlSink,
    incoming: &Schema,
    primary_key: &[String],
    problems: &mut Vec<TargetProblem>,
) -> Vec<String> {
    let key = key_of(&spec.mode);
    for (field, names) in [("key", key), ("primary_key", spec.primary_key.as_deref().unwrap_or_default())] {
        let unknown: Vec<&str> = names.iter().filter(|name| incoming.find(name).is_none()).map(String::as_str).collect();
        if !unknown.is_empty() {
            let message = format!("no column {} arrives", named(&unknown));
            problems.push(problem("target-key", field, message, "name columns that arrive"));
        }
    }
    let same = |one: &[String], other: &[String]| {
        one.len() == other.len() && one.iter().all(|name| other.iter().any(|other| other.eq_ignore_ascii_case(name)))
    };
    let Some(table) = existing else {
        if !key.is_empty() && !same(key, primary_key) {
            let message = "the table to be created would have another primary key than the upsert's";
            problems.push(problem("target-key", "primary_key", message, "leave `primary_key` out, or name the columns of `key`"));
        }
        return key.to_vec();
    };
    if !key.is_empty() && !table.unique.iter().any(|unique| same(unique, key)) {
        let names: Vec<&str> = key.iter().map(String::as_str).collect();
        let message = format!("no primary key or unique index of `{}` has the columns {}", table.name, named(&names));
        let index = format!(
            "CREATE UNIQUE INDEX {} ON {} ({})",
            quote(&format!("{}_key", table.name)),
            quote(&table.name),
            quoted_list(names.into_iter())
        );
        problems.push(problem("target-key", "key", message, format!("create one: {index}")));
    }
    key.iter().filter_map(|name| table.column(name)).map(|(_, column)| column.name.clone()).collect()
}
