//! The SQLite connector on real files.

mod load;
mod source;
mod target;

use std::path::PathBuf;
use std::sync::Arc;

use haul::connectors::sql::sqlite::Database;
use haul::connectors::{Sink, Source};
use haul::define::pipeline::{Connection, Engine, SchemaMode, SqlRead, SqlSink, SqlSource, WriteMode};
use haul::secret::Secret;

/// A folder with one database file, which need not exist yet.
struct File {
    folder: tempfile::TempDir,
}

impl File {
    fn new() -> Self {
        Self { folder: tempfile::Builder::new().prefix("haul-test-").tempdir().expect("a temporary folder") }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("shop.db")
    }

    /// Another connection, as another program would hold.
    fn other(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path()).expect("the file opens")
    }

    fn execute(&self, sql: &str) -> &Self {
        self.other().execute_batch(sql).expect(sql);
        self
    }

    fn text(&self, query: &str) -> String {
        self.other().query_row(query, [], |row| row.get::<_, rusqlite::types::Value>(0)).map(|value| format!("{value:?}")).expect(query)
    }

    fn count(&self, query: &str) -> i64 {
        self.other().query_row(query, [], |row| row.get(0)).expect(query)
    }

    fn database(&self) -> Arc<Database> {
        database("sqlite:shop.db", self.folder.path()).expect("a file's URL")
    }

    fn source(&self, read: SqlRead, split_by: Option<&str>) -> Arc<dyn Source> {
        self.database().source(&SqlSource { connection: "shop".to_owned(), read, split_by: split_by.map(str::to_owned) })
    }

    fn table(&self, name: &str) -> Arc<dyn Source> {
        self.source(SqlRead::Table { name: vec![name.to_owned()], columns: Vec::new(), filter: None }, None)
    }

    fn query(&self, query: &str) -> Arc<dyn Source> {
        self.source(SqlRead::Query(query.to_owned()), None)
    }

    fn sink(&self, table: &str, mode: WriteMode) -> Arc<dyn Sink> {
        self.sink_of(spec(table, mode))
    }

    fn sink_of(&self, spec: SqlSink) -> Arc<dyn Sink> {
        self.database().sink(&spec)
    }
}

fn database(url: &str, base: &std::path::Path) -> Result<Arc<Database>, haul::failure::Failure> {
    let connection = Connection {
        name: "shop".to_owned(),
        engine: Some(Engine::Sqlite),
        url: Secret::new(url.to_owned()),
        max_connections: 4,
        http: Default::default(),
        at: "/connections/shop".to_owned(),
    };
    Database::new(&connection, base)
}

fn spec(table: &str, mode: WriteMode) -> SqlSink {
    SqlSink { connection: "shop".to_owned(), table: vec![table.to_owned()], mode, schema: SchemaMode::Create, primary_key: None }
}

fn upsert(key: &[&str]) -> WriteMode {
    WriteMode::Upsert { key: key.iter().map(|name| (*name).to_owned()).collect() }
}
