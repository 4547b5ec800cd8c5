//! PostgreSQL as a source and as a target, against a real server. What is there is looked at with `psql`, which shares no code with haul.

mod faults;
mod publish;
mod read;
mod tls;
mod values;
mod write;

use std::sync::Arc;
use std::time::{Duration, Instant};

use haul::connectors::sql::postgres::Server;
use haul::connectors::{Sink, Source};
use haul::define::pipeline::{Connection, SchemaMode, SqlRead, SqlSink, SqlSource, WriteMode};
use haul::failure::Failure;
use haul::secret::Secret;

use crate::support::postgres;

/// A database of its own.
struct Database {
    url: String,
    server: Arc<Server>,
}

impl Database {
    fn new() -> Self {
        let url = postgres().fresh_database();
        let server = server(&url).expect("a server");
        Self { url, server }
    }

    /// Runs SQL behind haul's back.
    #[track_caller]
    fn sql(&self, sql: &str) -> String {
        postgres().sql(&self.url, sql)
    }

    fn source(&self, read: SqlRead, split_by: Option<&str>) -> Arc<dyn Source> {
        self.server.source(&SqlSource { connection: "pg".to_owned(), read, split_by: split_by.map(str::to_owned) })
    }

    fn table(&self, name: &str) -> Arc<dyn Source> {
        self.source(SqlRead::Table { name: name.split('.').map(str::to_owned).collect(), columns: Vec::new(), filter: None }, None)
    }

    fn query(&self, query: &str) -> Arc<dyn Source> {
        self.source(SqlRead::Query(query.to_owned()), None)
    }

    fn sink(&self, table: &str, mode: WriteMode) -> Arc<dyn Sink> {
        self.sink_of(SqlSink { mode, ..spec(table) })
    }

    fn sink_of(&self, spec: SqlSink) -> Arc<dyn Sink> {
        self.server.sink(&spec)
    }
}

fn spec(table: &str) -> SqlSink {
    let table = table.split('.').map(str::to_owned).collect();
    SqlSink { connection: "pg".to_owned(), table, mode: WriteMode::Append, schema: SchemaMode::Create, primary_key: None }
}

fn server(url: &str) -> Result<Arc<Server>, Failure> {
    let url = Secret::new(url.to_owned());
    Server::new(&Connection { name: "pg".to_owned(), engine: None, url, max_connections: 8, http: Default::default(), at: String::new() })
}

fn upsert(key: &[&str]) -> WriteMode {
    WriteMode::Upsert { key: key.iter().map(|&name| name.to_owned()).collect() }
}

/// Waits until haul has no connection left that is doing anything or sits in a transaction.
#[track_caller]
fn assert_nothing_left(database: &Database) {
    let left = "select pid, state, left(query, 60) from pg_stat_activity where datname = current_database() and application_name = 'haul' and state <> 'idle'";
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let found = database.sql(left);
        if found.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "sessions that should be gone: {found}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
