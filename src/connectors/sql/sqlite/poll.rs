//! Following a table or query by its cursor.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::types::ValueRef;
use rusqlite::{Connection as Sqlite, OptionalExtension};
use serde_json::{Value, json};

use super::connection::Database;
use super::reading::{Reader, Select};
use super::source::{Shape, quoted};
use crate::connectors::sql::cursor::{Following, Page, Pages, Place};
use crate::connectors::{Description, ReadRequest, Reading, Source, requested};
use crate::data::{BatchLimit, Position, Schema};
use crate::define::pipeline::PollSource;
use crate::dialect::Dialect;
use crate::failure::Failure;
use crate::tasks;

/// A table, view or query that is followed.
pub(super) struct SqlitePoll {
    pub(super) database: Arc<Database>,
    pub(super) spec: PollSource,
}

impl SqlitePoll {
    fn look(database: &Database, spec: &PollSource) -> Result<(Shape, Ranking), Failure> {
        let connection = database.open_reader()?;
        let shape = Shape::of(database, &connection, &spec.sql)?;
        let ranking = Ranking::of(&shape, spec)?;
        Ok((shape, ranking))
    }
}

#[async_trait]
impl Source for SqlitePoll {
    async fn describe(&self) -> Result<Description, Failure> {
        let (database, spec) = (self.database.clone(), self.spec.clone());
        tasks::blocking(move || {
            let (shape, _) = Self::look(&database, &spec)?;
            let lag = if spec.lag.is_zero() { String::new() } else { format!(", {:?} late", spec.lag) };
            let consistency = format!("followed by {} every {:?}{lag}; deleted rows are not seen", spec.cursor, spec.every);
            Ok(Description { schema: shape.schema, key: shape.key, rows: None, bytes: None, wire: None, consistency })
        })
        .await
    }

    async fn open(&self, request: ReadRequest) -> Result<Arc<dyn Reading>, Failure> {
        let (database, spec) = (self.database.clone(), self.spec.clone());
        tasks::blocking(move || {
            let (shape, ranking) = Self::look(&database, &spec)?;
            let schema = requested(&shape.schema, &request)?;
            let select = Select::new(&shape, &schema, &request)?;
            let all = Select::new(&shape, &schema, &ReadRequest { filter: None, ..request.clone() })?;
            let label = shape.label.clone();
            let pages = SqlitePages {
                database,
                select: Arc::new(select),
                all: Arc::new(all),
                ranking,
                schema: Arc::new(schema.clone()),
                limit: request.limit,
            };
            let reading: Arc<dyn Reading> = Arc::new(Following { schema, label, every: spec.every, pages: Arc::new(pages) });
            Ok(reading)
        })
        .await
    }

    fn dialect(&self) -> Option<Dialect> {
        Some(Dialect::Sqlite)
    }
}

/// The order of rows: the cursor, then the key, quoted.
struct Ranking {
    columns: Vec<String>,
    /// The condition that keeps back rows which are too young.
    settled: Option<String>,
}

impl Ranking {
    fn of(shape: &Shape, spec: &PollSource) -> Result<Self, Failure> {
        let key = if spec.key.is_empty() { &shape.key } else { &spec.key };
        if key.is_empty() {
            return Err(Failure::permanent(format!("{} has no key that could tell rows with the same cursor apart", shape.label))
                .help("name columns that are unique together: `key: [id]`"));
        }
        let names = std::iter::once(&spec.cursor).chain(key.iter().filter(|name| **name != spec.cursor));
        let columns = names.map(|name| {
            let found = shape.schema.find(name);
            let (_, column) = found.ok_or_else(|| Failure::permanent(format!("{} has no column `{name}`", shape.label)))?;
            quoted(&column.name)
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let settled = (!spec.lag.is_zero()).then(|| {
            // Times are texts or Julian days here; numbers that count something else are no times.
            let cursor = columns.first().map_or("null", String::as_str);
            format!("julianday({cursor}) <= julianday('now') - {:.9}", spec.lag.as_secs_f64() / 86_400.0)
        });
        Ok(Self { columns, settled })
    }

    fn list(&self) -> String {
        self.columns.join(", ")
    }

    /// Rows before (`<=`) or behind (`>`) a place.
    fn condition(&self, sign: &str, place: &[Value]) -> Result<String, Failure> {
        let literals = place.iter().map(literal).collect::<Result<Vec<_>, _>>()?.join(", ");
        Ok(format!("({}) {sign} ({literals})", self.list()))
    }
}

/// The value of a cursor or key as it is kept in a position: numbers and texts as themselves, blobs in hexadecimal digits.
fn kept(value: ValueRef<'_>) -> Result<Value, Failure> {
    Ok(match value {
        ValueRef::Integer(value) => value.into(),
        ValueRef::Text(text) => {
            let text = std::str::from_utf8(text).map_err(|error| Failure::permanent("a cursor or key is no text in UTF-8").cause(error))?;
            text.into()
        }
        ValueRef::Blob(bytes) => json!({ "blob": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
        ValueRef::Null => {
            return Err(Failure::permanent("a column of the key holds NULL").help("name columns in `key` that are never NULL"));
        }
        ValueRef::Real(_) => {
            return Err(Failure::permanent("a cursor or key holds a floating point number").help("follow an integer or a text"));
        }
    })
}

fn literal(value: &Value) -> Result<String, Failure> {
    let strange = || Failure::permanent("the position of the stream is none of SQLite's");
    match value {
        Value::Number(number) => number.as_i64().map(|number| number.to_string()).ok_or_else(strange),
        Value::String(text) => Dialect::Sqlite.text(text).map_err(Failure::permanent),
        other => {
            let digits = other.get("blob").and_then(Value::as_str).ok_or_else(strange)?;
            if digits.chars().all(|digit| digit.is_ascii_hexdigit()) { Ok(format!("x'{digits}'")) } else { Err(strange()) }
        }
    }
}

struct SqlitePages {
    database: Arc<Database>,
    /// With the condition of the transform.
    select: Arc<Select>,
    /// Without it: a position moves past rows that a transform leaves out.
    all: Arc<Select>,
    ranking: Ranking,
    schema: Arc<Schema>,
    limit: BatchLimit,
}

#[async_trait]
impl Pages for SqlitePages {
    async fn after(&self, from: Option<&Position>) -> Result<Page, Failure> {
        let count = self.ranking.columns.len();
        let behind = match from {
            Some(position) => self.ranking.condition(">", &Place::read(position, count)?)?,
            None => self.ranking.columns.first().map(|cursor| format!("{cursor} is not null")).unwrap_or_default(),
        };
        let conditions = std::iter::once(behind).chain(self.ranking.settled.clone()).collect::<Vec<_>>().join(" and ");
        let (most, list) = (self.limit.rows.max(1), self.ranking.list());
        let ranked = format!("{} and {conditions} order by {list} limit {most}", self.all.rest);
        let end = format!(
            "select (select count(*) from (select 1 {ranked})), {list} {} and {conditions} order by {list} limit 1 offset
             max(0, (select count(*) from (select 1 {ranked})) - 1)",
            self.all.rest
        );
        let database = self.database.clone();
        let (connection, found) = tasks::blocking(move || end_of_page(&database, &end, count)).await?;
        let Some((rows, place)) = found else { return Ok(Page { found: None, more: false, behind_ms: None }) };
        let until = self.ranking.condition("<=", &place)?;
        let query = format!("select {} {} and {conditions} and {until} order by {list}", self.select.columns, self.select.rest);
        let reader = Reader::of(&self.select, self.database.clone(), self.schema.clone(), self.limit);
        Ok(Page { found: Some((Place::new(place), reader.start(connection, query, drop))), more: rows >= most, behind_ms: None })
    }
}

type End = Option<(usize, Vec<Value>)>;

/// The last row of the next page, and the connection that is still in the same snapshot.
fn end_of_page(database: &Database, query: &str, columns: usize) -> Result<(Sqlite, End), Failure> {
    let connection = database.open_reader()?;
    let ask = || {
        connection.execute_batch("begin")?;
        connection
            .query_row(query, [], |row| {
                let place = (0..columns).map(|place| Ok(kept(row.get_ref(place + 1)?))).collect::<rusqlite::Result<Vec<_>>>()?;
                Ok((row.get::<_, i64>(0)?, place))
            })
            .optional()
    };
    let Some((rows, place)) = ask().map_err(|error| database.failure(error))? else { return Ok((connection, None)) };
    let place = place.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok((connection, Some((usize::try_from(rows).unwrap_or(0), place))))
}
