//! Tables, views and queries as sources: what columns they have, and the views that stages read.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::types::Type as StorageClass;
use rusqlite::{Connection as Sqlite, Error};

use super::connection::Database;
use super::reading::SqliteReading;
use super::table::{Kind, Table};
use super::types::{self, Affinity};
use crate::connectors::{Description, ReadRequest, Reading, Source, requested};
use crate::data::{Column, Schema, Type};
use crate::define::pipeline::{SqlRead, SqlSource};
use crate::dialect::Dialect;
use crate::failure::Failure;
use crate::tasks;

/// Rows looked at to find the type of a column whose declared type says nothing.
const SAMPLE: usize = 1000;

/// A table, view or query of a SQLite file.
pub(super) struct SqliteSource {
    database: Arc<Database>,
    spec: SqlSource,
}

/// What is read, in SQL and in columns.
pub(super) struct Shape {
    /// All columns that can be asked for.
    pub(super) schema: Schema,
    /// A quoted table, or a query in parentheses.
    pub(super) from: String,
    /// The condition the pipeline set, in parentheses.
    pub(super) filter: Option<String>,
    /// For people: the table's name, or `query`.
    pub(super) label: String,
    /// The quoted columns that name a row when it is refused.
    pub(super) origin: Vec<String>,
    /// The quoted column by whose integers splits are cut, if there is one, and its name for people.
    pub(super) split_by: Option<(String, String)>,
    /// Whether the ranges of `split_by` mean other rows once the file is vacuumed.
    pub(super) unstable: bool,
    pub(super) key: Vec<String>,
    rows: Option<u64>,
}

impl SqliteSource {
    pub(super) fn new(database: Arc<Database>, spec: SqlSource) -> Self {
        Self { database, spec }
    }
}

#[async_trait]
impl Source for SqliteSource {
    async fn describe(&self) -> Result<Description, Failure> {
        let (database, spec) = (self.database.clone(), self.spec.clone());
        tasks::blocking(move || {
            let connection = database.open_reader()?;
            let shape = Shape::of(&database, &connection, &spec)?;
            let snapshot = has_snapshots(&connection).map_err(|error| database.failure(error))?;
            let consistency = if snapshot {
                "all splits read one snapshot of the file"
            } else {
                "one statement reads everything; with a write-ahead log (`pragma journal_mode = wal`) splits could share a snapshot"
            };
            let consistency = consistency.to_owned();
            Ok(Description { schema: shape.schema, key: shape.key, rows: shape.rows, bytes: None, wire: None, consistency })
        })
        .await
    }

    async fn open(&self, request: ReadRequest) -> Result<Arc<dyn Reading>, Failure> {
        let (database, spec) = (self.database.clone(), self.spec.clone());
        tasks::blocking(move || {
            let connection = database.open_reader()?;
            let shape = Shape::of(&database, &connection, &spec)?;
            let schema = requested(&shape.schema, &request)?;
            let reading: Arc<dyn Reading> = Arc::new(SqliteReading::new(database, connection, shape, schema, request)?);
            Ok(reading)
        })
        .await
    }

    fn dialect(&self) -> Option<Dialect> {
        Some(Dialect::Sqlite)
    }
}

/// Whether a reader keeps its state of the file while others write to it.
pub(super) fn has_snapshots(connection: &Sqlite) -> Result<bool, Error> {
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    Ok(mode.eq_ignore_ascii_case("wal"))
}

/// Quotes a name for this engine.
pub(super) fn quoted(name: &str) -> Result<String, Failure> {
    Dialect::Sqlite.ident(name).map_err(Failure::permanent)
}

/// The name of a table in the file's one schema.
pub(super) fn table_name(parts: &[String]) -> Result<&str, String> {
    match parts {
        [name] => Ok(name),
        [schema, name] if schema.eq_ignore_ascii_case("main") => Ok(name),
        _ => Err(format!("`{}` names a schema, and a SQLite file has only `main`", parts.join("."))),
    }
}

impl Shape {
    pub(super) fn of(database: &Database, connection: &Sqlite, spec: &SqlSource) -> Result<Self, Failure> {
        let mut shape = match &spec.read {
            SqlRead::Table { name, columns, filter } => Self::of_table(database, connection, name, columns, filter.as_deref())?,
            SqlRead::Query(query) => Self::of_query(database, connection, query)?,
        };
        if let Some(name) = &spec.split_by {
            let (place, column) = shape
                .schema
                .find(name)
                .ok_or_else(|| Failure::permanent(format!("`split_by` names the column `{name}`, which {} does not have", shape.label)))?;
            let integers = column.native.as_deref().is_some_and(|declared| Affinity::of(declared) == Affinity::Integer);
            // Without the affinity of integers, a comparison with a number could be one of texts; the plus sign takes the affinity away.
            let sign = if integers { "" } else { "+" };
            shape.split_by = Some((format!("{sign}{}", quoted(&shape.schema.columns[place].name)?), name.clone()));
            shape.unstable = false;
        }
        Ok(shape)
    }

    fn of_table(
        database: &Database,
        connection: &Sqlite,
        name: &[String],
        columns: &[String],
        filter: Option<&str>,
    ) -> Result<Self, Failure> {
        let failed = |error| database.failure(error);
        let name = table_name(name).map_err(Failure::permanent)?;
        let file = database.path().display();
        let table = Table::find(connection, name).map_err(failed)?.ok_or_else(|| {
            Failure::permanent(format!("there is no table or view `{name}` in {file}")).help("check the name, and the connection's URL")
        })?;
        let from = quoted(&table.name)?;
        let mut schema = if table.kind == Kind::View {
            declared_columns(connection, &format!("select * from {from}")).map_err(failed)?
        } else {
            let column = |(place, column): (usize, &super::table::TableColumn)| {
                let native = Some(column.declared.clone());
                (
                    Column { name: column.name.clone(), ty: Type::Text, nullable: !table.never_null(place), native },
                    types::logical(&column.declared),
                )
            };
            table.columns.iter().enumerate().map(column).collect()
        };
        if !columns.is_empty() {
            schema = columns
                .iter()
                .map(|wanted| {
                    let found = schema.iter().find(|(column, _)| column.name == *wanted).cloned();
                    found.ok_or_else(|| Failure::permanent(format!("`{name}` in {file} has no column `{wanted}`")))
                })
                .collect::<Result<_, _>>()?;
        }
        let key = table.key();
        let origin = match (table.row_number, table.rowid) {
            (Some(place), _) => vec![quoted(&table.columns[place].name)?],
            (None, Some(rowid)) => vec![rowid.to_owned()],
            (None, None) => key.iter().map(|name| quoted(name)).collect::<Result<_, _>>()?,
        };
        let split_by = match (table.rowid, &key[..]) {
            (Some(rowid), _) => Some((rowid.to_owned(), table.row_number.map_or(rowid, |place| &table.columns[place].name).to_owned())),
            (None, [only]) => table
                .column(only)
                .filter(|(_, column)| Affinity::of(&column.declared) == Affinity::Integer)
                .map(|_| Ok::<_, Failure>((quoted(only)?, only.clone())))
                .transpose()?,
            (None, _) => None,
        };
        Ok(Self {
            schema: resolve(database, connection, &from, schema)?,
            rows: estimate(connection, &table).map_err(failed)?,
            filter: filter.map(|filter| format!("({filter}\n)")),
            label: table.name.clone(),
            unstable: table.rowid.is_some() && table.row_number.is_none(),
            key,
            from,
            origin,
            split_by,
        })
    }

    fn of_query(database: &Database, connection: &Sqlite, query: &str) -> Result<Self, Failure> {
        let query = query.trim_end().trim_end_matches(';');
        let reads = connection.prepare(query).is_ok_and(|statement| statement.readonly());
        let columns = declared_columns(connection, query).map_err(|error| database.failure(error).during("failed to prepare the query"))?;
        if !reads {
            return Err(Failure::permanent("the query changes the database").help("a source only reads: write a `select`"));
        }
        for (place, (column, _)) in columns.iter().enumerate() {
            if columns[..place].iter().any(|(earlier, _)| earlier.name.eq_ignore_ascii_case(&column.name)) {
                return Err(
                    Failure::permanent(format!("the query gives two columns named `{}`", column.name)).help("name them apart with `as`")
                );
            }
        }
        let from = format!("({query}\n)");
        Ok(Self {
            schema: resolve(database, connection, &from, columns)?,
            from,
            filter: None,
            label: "query".to_owned(),
            origin: Vec::new(),
            split_by: None,
            unstable: false,
            key: Vec::new(),
            rows: None,
        })
    }
}

/// The columns of a query, each with the type its declared type promises, if any.
fn declared_columns(connection: &Sqlite, query: &str) -> Result<Vec<(Column, Option<Type>)>, Error> {
    let statement = connection.prepare(query)?;
    let column = |column: &rusqlite::Column<'_>| {
        let native = column.decl_type().map(str::to_owned);
        let ty = native.as_deref().and_then(types::logical);
        (Column { name: column.name().to_owned(), ty: Type::Text, nullable: true, native }, ty)
    };
    Ok(statement.columns().iter().map(column).collect())
}

/// Gives every column its type. Where the declared type says nothing the first rows decide: a column of integers, of numbers, of texts or
/// of blobs is one; without any value it is text. Columns that mix others are refused, because no type would hold them unchanged.
fn resolve(database: &Database, connection: &Sqlite, from: &str, columns: Vec<(Column, Option<Type>)>) -> Result<Schema, Failure> {
    let unknown: Vec<&Column> = columns.iter().filter(|(_, ty)| ty.is_none()).map(|(column, _)| column).collect();
    let mut found = Vec::new();
    if !unknown.is_empty() {
        let names = unknown.iter().map(|column| quoted(&column.name)).collect::<Result<Vec<_>, _>>()?.join(", ");
        let classes = sample(connection, &format!("select {names} from {from} limit {SAMPLE}"), unknown.len());
        for (column, seen) in unknown.iter().zip(classes.map_err(|error| database.failure(error))?) {
            found.push(type_of_sample(&column.name, &seen)?);
        }
    }
    let mut found = found.into_iter();
    let columns =
        columns.into_iter().map(|(column, ty)| Column { ty: ty.or_else(|| found.next()).unwrap_or(Type::Text), ..column }).collect();
    Ok(Schema { columns })
}

fn type_of_sample(name: &str, seen: &[StorageClass]) -> Result<Type, Failure> {
    use StorageClass::{Blob, Integer, Real, Text};
    match seen {
        [] | [Text] => Ok(Type::Text),
        [Integer] => Ok(Type::Int(64)),
        [Blob] => Ok(Type::Bytes),
        [Real] | [Integer, Real] | [Real, Integer] => Ok(Type::Float(64)),
        _ => {
            let classes: Vec<String> = seen.iter().map(|class| class.to_string().to_lowercase()).collect();
            Err(Failure::permanent(format!(
                "the column `{name}` has no declared type, and its first {SAMPLE} rows hold values of several: {}",
                classes.join(", ")
            ))
            .help(format!("read it with a query that casts it, such as `select cast({name} as text) as {name} …`")))
        }
    }
}

/// The storage classes that each column shows, in the order met, NULLs left out.
fn sample(connection: &Sqlite, query: &str, columns: usize) -> Result<Vec<Vec<StorageClass>>, Error> {
    let mut seen = vec![Vec::new(); columns];
    let mut statement = connection.prepare(query)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        for (place, seen) in seen.iter_mut().enumerate() {
            let class = row.get_ref(place)?.data_type();
            if class != StorageClass::Null && !seen.contains(&class) {
                seen.push(class);
            }
        }
    }
    Ok(seen)
}

/// Rows by the range of row numbers: at least as many as there are, and two lookups in the tree.
fn estimate(connection: &Sqlite, table: &Table) -> Result<Option<u64>, Error> {
    let (Some(rowid), Ok(name)) = (table.rowid, Dialect::Sqlite.ident(&table.name)) else { return Ok(None) };
    let query = format!("select (select min({rowid}) from {name}), (select max({rowid}) from {name})");
    connection.query_row(&query, [], |row| {
        let (low, high): (Option<i64>, Option<i64>) = (row.get(0)?, row.get(1)?);
        Ok(Some(low.zip(high).map_or(0, |(low, high)| high.abs_diff(low).saturating_add(1))))
    })
}
