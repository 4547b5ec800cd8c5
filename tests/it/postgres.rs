//! PostgreSQL as a source and as a target, against a real server. What is there is looked at with `psql`, which shares no code with haul.

use std::sync::Arc;

use haul::connectors::sql::postgres::Server;
use haul::connectors::{ReadRequest, Sink, Source};
use haul::data::{Grade, Type};
use haul::define::pipeline::{Connection, SchemaMode, SqlRead, SqlSink, SqlSource, WriteMode};
use haul::failure::Failure;
use haul::secret::Secret;

use crate::support::loads::{self, assert_same_rows, awkward_batch};
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
    Server::new(&Connection { name: "pg".to_owned(), engine: None, url, max_connections: 8, at: String::new() })
}

fn upsert(key: &[&str]) -> WriteMode {
    WriteMode::Upsert { key: key.iter().map(|&name| name.to_owned()).collect() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn awkward_values_of_every_type_arrive_and_read_back_in_every_mode() {
    let types = loads::all_types();
    let (schema, batch) = awkward_batch(&types, 200);
    for mode in [WriteMode::Append, WriteMode::Replace, upsert(&["id"])] {
        let database = Database::new();
        let sink = database.sink("awkward", mode.clone());
        let target = sink.plan(&schema).await.expect("a plan").expect("no problems");
        for (column, mapped) in schema.columns.iter().zip(&target.columns) {
            assert_ne!(mapped.grade, Grade::Lossy, "{} as {}: {}", column.ty, mapped.native, mapped.reason);
        }
        let load = loads::load(&sink, "run 1", &schema, &batch).await.unwrap_or_else(|failure| panic!("{mode:?}: {failure}"));
        assert_same_rows(&loads::read_back(&sink, &load).await.expect("the rows"), &batch);
        assert_eq!(database.sql("select count(*), count(distinct id) from awkward"), "200|200");
        // As a source, the table has the columns that the plan promised.
        let source = database.table("awkward");
        assert_eq!(source.describe().await.expect("a description").schema, target.reads_as);
        let (rows, rejects) = loads::read(&source, ReadRequest::default(), 4).await.expect("the rows");
        assert_eq!((rows.num_rows(), rejects.len()), (200, 0));
        assert_eq!(database.sql("select relname from pg_class where relname like 'haul_stage%'"), "", "{mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_psql_sees_is_what_was_written() {
    let database = Database::new();
    let (schema, batch) = awkward_batch(&[Type::Date, Type::Timestamp, Type::Number, Type::Time, Type::Interval], 9);
    loads::load(&database.sink("t", WriteMode::Append), "run 1", &schema, &batch).await.expect("a load");
    let dates = "0044-03-15 BC\n0001-12-31 BC\n0001-01-01\n1970-01-01\n2024-02-29\n9999-12-31\ninfinity\n-infinity";
    assert_eq!(database.sql("select c0 from t where c0 is not null order by id"), dates);
    assert_eq!(
        database.sql("select c1 from t where id in (0, 2, 4, 5) order by id"),
        "0044-03-15 00:00:00 BC\n1969-12-31 23:59:59.999999\n9999-12-31 00:00:00.000001\ninfinity"
    );
    assert_eq!(
        database.sql("select c2 from t where id < 6 order by id"),
        "1.10\n-0.0000000000000000000000000000000001\n123456789012345678901234567890.123456789\nNaN\nInfinity\n-Infinity"
    );
    assert_eq!(database.sql("select c3 from t where id in (1, 2) order by id"), "23:59:59.999999\n24:00:00");
    assert_eq!(database.sql("select c4 from t where id = 0"), "1 year 2 mons -3 days +04:05:06.5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_is_described_with_its_precisions() {
    let database = Database::new();
    let source = database.query("select 1::numeric(10,2) as price, 'x'::varchar(7) as code, now() as at;\n");
    let described = source.describe().await.expect("a description");
    let natives: Vec<_> = described.schema.columns.iter().map(|column| column.native.clone().expect("a native type")).collect();
    assert_eq!(natives, ["numeric(10,2)", "character varying(7)", "timestamp with time zone"]);
    assert_eq!(described.schema.columns[0].ty, Type::Decimal(10, 2));
    let (rows, _) = loads::read(&source, ReadRequest::default(), 4).await.expect("rows");
    assert_eq!(rows.num_rows(), 1);
}
