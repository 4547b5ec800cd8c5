//! One view of a SQLite file: its splits, and their rows.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::stream;
use rusqlite::types::ValueRef;
use rusqlite::{Connection as Sqlite, Error};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use super::connection::{Database, Interrupt, OnDrop, blocking};
use super::decode::Decoder;
use super::source::{Shape, has_snapshots, quoted};
use super::value::size_of_value;
use crate::connectors::{ReadRequest, Reading, Split, SplitGoal, Splits};
use crate::data::{BatchLimit, BatchStream, Chunk, Position, Reject, Schema};
use crate::failure::Failure;
use crate::tasks;

/// Chunks that wait between the thread that reads and the stage that takes them.
const CHUNKS_WAITING: usize = 2;

/// How often a view is begun anew because somebody wrote while its readers started.
const VIEW_ATTEMPTS: usize = 100;

/// A view that several splits are read through at the same time.
pub(super) struct SqliteReading {
    database: Arc<Database>,
    schema: Arc<Schema>,
    select: Select,
    unstable: bool,
    /// Whether splits see the same state of the file.
    snapshot: bool,
    limit: BatchLimit,
    pool: Arc<Pool>,
}

/// The query without its range.
pub(super) struct Select {
    pub(super) columns: String,
    /// The table and the conditions.
    pub(super) rest: String,
    split_by: Option<(String, String)>,
    origin: Vec<String>,
    label: String,
}

/// Connections of one view. With a write-ahead log each holds a transaction on the same snapshot.
struct Pool {
    free: Mutex<Vec<Sqlite>>,
    permits: Arc<Semaphore>,
}

impl Pool {
    fn take(&self) -> Option<Sqlite> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give(&self, connection: Sqlite) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

impl SqliteReading {
    /// Begins the view. Blocks.
    pub(super) fn new(database: Arc<Database>, first: Sqlite, shape: Shape, schema: Schema, request: ReadRequest) -> Result<Self, Failure> {
        let snapshot = has_snapshots(&first).map_err(|error| database.failure(error))?;
        let mut readers = vec![first];
        if snapshot {
            while readers.len() < database.readers() {
                readers.push(database.open_reader()?);
            }
            begin_view(&database, &readers)?;
        }
        let select = Select::new(&shape, &schema, &request)?;
        let permits = Arc::new(Semaphore::new(readers.len()));
        let pool = Arc::new(Pool { free: Mutex::new(readers), permits });
        Ok(Self { database, schema: Arc::new(schema), select, unstable: shape.unstable, snapshot, limit: request.limit, pool })
    }

    /// Runs a short query on a connection of the view.
    async fn ask<T: Send + 'static>(&self, work: impl FnOnce(&Sqlite) -> Result<T, Error> + Send + 'static) -> Result<T, Failure> {
        let (_permit, connection) = self.connection().await?;
        let database = self.database.clone();
        let (connection, answer) =
            blocking(connection, move |connection, _| work(connection).map_err(|error| database.failure(error))).await?;
        self.pool.give(connection);
        Ok(answer)
    }

    async fn connection(&self) -> Result<(tokio::sync::OwnedSemaphorePermit, Sqlite), Failure> {
        let gone = || Failure::permanent("a view of a SQLite file lost its connections");
        let permit = self.pool.permits.clone().acquire_owned().await.map_err(|_| gone())?;
        Ok((permit, self.pool.take().ok_or_else(gone)?))
    }
}

/// Starts a read transaction on every reader, all on the same snapshot: when nobody committed while they started, by the count that SQLite
/// keeps for the guard, they all see the same.
fn begin_view(database: &Database, readers: &[Sqlite]) -> Result<(), Failure> {
    let guard = database.open_reader()?;
    let attempt = || -> Result<bool, Error> {
        let version = || guard.pragma_query_value(None, "data_version", |row| row.get::<_, i64>(0));
        let before = version()?;
        for reader in readers {
            if !reader.is_autocommit() {
                reader.execute_batch("rollback")?;
            }
            reader.execute_batch("begin")?;
            reader.query_row("select count(*) from (select 1 from sqlite_schema limit 1)", [], |_| Ok(()))?;
        }
        Ok(version()? == before)
    };
    for _ in 0..VIEW_ATTEMPTS {
        if attempt().map_err(|error| database.failure(error))? {
            return Ok(());
        }
    }
    Err(Failure::transient(format!("{} was written so often that no common snapshot could be taken", database.path().display())))
}

impl Select {
    pub(super) fn new(shape: &Shape, schema: &Schema, request: &ReadRequest) -> Result<Self, Failure> {
        let mut columns = Vec::new();
        for column in &schema.columns {
            let name = quoted(&column.name)?;
            columns.push(if request.as_text.contains(&column.name) { format!("cast({name} as text)") } else { name });
        }
        columns.extend(shape.origin.iter().cloned());
        if columns.is_empty() {
            columns.push("null".to_owned());
        }
        let conditions: Vec<String> =
            shape.filter.iter().cloned().chain(request.filter.iter().map(|filter| format!("({filter}\n)"))).collect();
        let conditions = if conditions.is_empty() { "true".to_owned() } else { conditions.join(" and ") };
        Ok(Self {
            columns: columns.join(", "),
            rest: format!("from {} where {conditions}", shape.from),
            split_by: shape.split_by.clone(),
            origin: shape.origin.clone(),
            label: shape.label.clone(),
        })
    }

    /// The query of one split. The lowest range also holds rows without a value, the highest everything that SQLite sorts behind numbers.
    fn of(&self, split: &Split) -> Result<String, Failure> {
        let bound = |name: &str| split.range.get(name).and_then(serde_json::Value::as_i64);
        let query = format!("select {} {}", self.columns, self.rest);
        let Some((column, _)) = &self.split_by else { return Ok(query) };
        Ok(match (bound("above"), bound("to")) {
            (None, None) if split.id == "all" => query,
            (None, Some(to)) => format!("{query} and ({column} <= {to} or {column} is null)"),
            (Some(above), Some(to)) => format!("{query} and {column} > {above} and {column} <= {to}"),
            (Some(above), None) => format!("{query} and {column} > {above}"),
            (None, None) => return Err(Failure::permanent(format!("the split `{}` has no range of this source", split.id))),
        })
    }
}

#[async_trait]
impl Reading for SqliteReading {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Without a write-ahead log there is one split: several would see several states of the file, and their readers would keep out the
    /// writer of a stage that writes to the same file.
    async fn splits(&self, goal: SplitGoal) -> Result<Splits, Failure> {
        let fingerprint = self.fingerprint().await?;
        let mut splits = Vec::new();
        if let Some((column, label)) = self.select.split_by.clone().filter(|_| self.snapshot && goal.most > 1) {
            let query = format!("select min({column}), max({column}) {}", self.select.rest);
            let (bounds, size) = self
                .ask(move |connection| {
                    let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
                    let page: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
                    let bounds = connection.query_row(&query, [], |row| Ok((integer(row.get_ref(0)?), integer(row.get_ref(1)?))))?;
                    Ok((bounds, (pages * page).unsigned_abs()))
                })
                .await?;
            if let (Some(low), Some(high)) = bounds {
                let most = size.div_ceil(goal.bytes.max(1)).min(goal.most as u64);
                splits = ranges(low, high, most, &label);
            }
        }
        if splits.len() < 2 {
            splits = vec![Split { id: "all".to_owned(), range: json!({}), label: self.select.label.clone(), rows: None }];
        }
        Ok(Splits { splits, fingerprint })
    }

    /// Row numbers that no column holds change when the file is vacuumed, which counts up the version of its schema.
    async fn fingerprint(&self) -> Result<Option<String>, Failure> {
        if !self.unstable {
            return Ok(None);
        }
        let version = self.ask(|connection| connection.pragma_query_value(None, "schema_version", |row| row.get::<_, i64>(0))).await?;
        Ok(Some(format!("schema version {version}")))
    }

    async fn read(&self, split: &Split, _: Option<&Position>) -> Result<BatchStream, Failure> {
        let query = self.select.of(split)?;
        let (permit, connection) = self.connection().await?;
        let reader = Reader::of(&self.select, self.database.clone(), self.schema.clone(), self.limit);
        let pool = self.pool.clone();
        let give_back = move |connection| {
            pool.give(connection);
            drop(permit);
        };
        Ok(reader.start(connection, query, give_back))
    }
}

fn integer(value: ValueRef<'_>) -> Option<i64> {
    match value {
        ValueRef::Integer(value) => Some(value),
        _ => None,
    }
}

/// Ranges of equal width from below the lowest to above the highest value, so that together they hold every row whatever is written later.
fn ranges(low: i64, high: i64, most: u64, label: &str) -> Vec<Split> {
    let width = (i128::from(high) - i128::from(low) + 1).max(1);
    let count = i128::from(most.max(1)).min(width);
    let bound = |part: i128| i64::try_from(i128::from(low) - 1 + width * part / count).unwrap_or(i64::MAX);
    (0..count)
        .map(|part| {
            let above = (part > 0).then(|| bound(part));
            let to = (part + 1 < count).then(|| bound(part + 1));
            Split {
                id: format!("{part:04}"),
                range: json!({ "above": above, "to": to }),
                label: format!("{label} {}..{}", bound(part).saturating_add(1), bound(part + 1)),
                rows: u64::try_from(width / count).ok(),
            }
        })
        .collect()
}

/// Reads the rows of one query on a thread of its own.
pub(super) struct Reader {
    pub(super) database: Arc<Database>,
    pub(super) schema: Arc<Schema>,
    /// The columns that the query gives behind the schema's, to name a row by.
    pub(super) origin: Vec<String>,
    pub(super) label: String,
    pub(super) limit: BatchLimit,
    /// See [`Decoder::new`].
    pub(super) lenient: bool,
}

impl Reader {
    /// One for the rows that a selection gives, each of which must fit its columns.
    pub(super) fn of(select: &Select, database: Arc<Database>, schema: Arc<Schema>, limit: BatchLimit) -> Self {
        Self { database, schema, origin: select.origin.clone(), label: select.label.clone(), limit, lenient: false }
    }

    /// Starts to read; dropping the stream interrupts it. The connection is given to `finished` at the end, however the end comes.
    pub(super) fn start(self, connection: Sqlite, query: String, finished: impl FnOnce(Sqlite) + Send + 'static) -> BatchStream {
        let (chunks, incoming) = mpsc::channel(CHUNKS_WAITING);
        let interrupt = Interrupt::new(&connection);
        let guard = OnDrop(interrupt.clone());
        let task = tasks::start_blocking(move || {
            if let Err(failure) = self.read(&connection, &query, &chunks) {
                // A closed channel means that nobody waits for the failure.
                let _ = chunks.blocking_send(Err(failure));
            }
            interrupt.disarm();
            finished(connection);
        });
        Box::pin(stream::unfold((incoming, guard, Some(task)), |(mut incoming, guard, task)| async move {
            if let Some(chunk) = incoming.recv().await {
                return Some((chunk, (incoming, guard, task)));
            }
            // The end of the channel is the end of the rows only when the thread has not died.
            let died = task?.await.err()?;
            Some((Err(tasks::ended(died)), (incoming, guard, None)))
        }))
    }

    fn read(&self, connection: &Sqlite, query: &str, chunks: &mpsc::Sender<Result<Chunk, Failure>>) -> Result<(), Failure> {
        let failed = |error| self.database.failure(error).during(format!("failed to read `{}`", self.label));
        let columns = self.schema.columns.len();
        let mut statement = connection.prepare(query).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let mut decoder = Decoder::new(&self.schema, self.lenient);
        let mut rejects = Vec::new();
        let mut number = 0_u64;
        while let Some(row) = rows.next().map_err(failed)? {
            number += 1;
            let value = |place| row.get_ref(place).unwrap_or(ValueRef::Null);
            let size: usize = (0..columns).map(|place| size_of_value(value(place))).sum();
            let full = decoder.rows() >= self.limit.rows.max(1) || decoder.bytes() + size > self.limit.bytes;
            if decoder.rows() > 0 && full && !self.hand_on(&mut decoder, &mut rejects, chunks)? {
                return Ok(());
            }
            if let Err(misfit) = decoder.push(value) {
                let column = &self.schema.columns[misfit.column];
                rejects.push(Reject {
                    origin: self.origin_of(number, |place| value(columns + place)),
                    reason: format!("column `{}`: {} does not fit {}", column.name, misfit.value, column.ty),
                    row: self.row_of(value),
                });
            }
        }
        if decoder.rows() > 0 {
            self.hand_on(&mut decoder, &mut rejects, chunks)?;
        }
        Ok(())
    }

    /// Says whether anybody still wants chunks.
    fn hand_on(
        &self,
        decoder: &mut Decoder,
        rejects: &mut Vec<Reject>,
        chunks: &mpsc::Sender<Result<Chunk, Failure>>,
    ) -> Result<bool, Failure> {
        let (batch, bytes) = decoder.finish()?;
        Ok(chunks.blocking_send(Ok(Chunk { rejects: std::mem::take(rejects), bytes, ..Chunk::of(batch) })).is_ok())
    }

    /// Names a row: by its row number or key where it has one, else by its place in the answer.
    fn origin_of<'a>(&self, number: u64, value: impl Fn(usize) -> ValueRef<'a>) -> String {
        if self.origin.is_empty() {
            return format!("{} row {number}", self.label);
        }
        let parts: Vec<String> =
            self.origin.iter().enumerate().map(|(place, name)| format!("{}={}", name.trim_matches('"'), as_json(value(place)))).collect();
        format!("{} {}", self.label, parts.join(" "))
    }

    fn row_of<'a>(&self, value: impl Fn(usize) -> ValueRef<'a>) -> String {
        let columns = self.schema.columns.iter().enumerate();
        let row: serde_json::Map<_, _> = columns.map(|(place, column)| (column.name.clone(), as_json(value(place)))).collect();
        serde_json::Value::Object(row).to_string()
    }
}

/// A value as JSON, for people: blobs in hexadecimal digits, floats that JSON cannot hold as texts.
fn as_json(value: ValueRef<'_>) -> serde_json::Value {
    match value {
        ValueRef::Null => serde_json::Value::Null,
        ValueRef::Integer(value) => value.into(),
        ValueRef::Real(value) => serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Into::into),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
        ValueRef::Blob(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
    }
}
