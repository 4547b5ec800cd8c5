//! The SQLite connector on real files.

use std::path::PathBuf;
use std::sync::Arc;

use haul::connectors::sql::sqlite::Database;
use haul::connectors::{ReadRequest, Sink, Source};
use haul::data::{Grade, Type};
use haul::define::pipeline::{Connection, Engine, SchemaMode, SqlRead, SqlSink, SqlSource, WriteMode};
use haul::failure::FailureKind;
use haul::secret::Secret;

use crate::support::loads::{self, assert_same_rows, awkward_batch};

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
        self.sink_of(SqlSink {
            connection: "shop".to_owned(),
            table: vec![table.to_owned()],
            mode,
            schema: SchemaMode::Create,
            primary_key: None,
        })
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
        at: "/connections/shop".to_owned(),
    };
    Database::new(&connection, base)
}

fn upsert(key: &[&str]) -> WriteMode {
    WriteMode::Upsert { key: key.iter().map(|name| (*name).to_owned()).collect() }
}

#[tokio::test]
async fn awkward_values_of_every_type_arrive_and_read_back_in_every_mode() {
    let types = loads::all_types();
    let (schema, batch) = awkward_batch(&types, 40);
    for mode in [WriteMode::Append, WriteMode::Replace, upsert(&["id"])] {
        let file = File::new();
        let sink = file.sink("orders", mode.clone());
        let target = sink.plan(&schema).await.expect("a plan").expect("no problems");
        for (column, mapped) in schema.columns.iter().zip(&target.columns) {
            let widened = matches!(column.ty, Type::UInt(64) | Type::Enum(_));
            assert_eq!(mapped.grade, if widened { Grade::Widened } else { Grade::Exact }, "{}: {mapped:?}", column.ty);
        }
        let load = loads::load(&sink, "run 1", &schema, &batch).await.unwrap_or_else(|failure| panic!("{mode:?}: {failure}"));
        assert_same_rows(&loads::read_back(&sink, &load).await.expect("the rows"), &batch);

        let source = file.table("orders");
        let description = source.describe().await.expect("a description");
        assert_eq!(description.schema, target.reads_as, "a later stage is promised what the source then gives");
        for ((column, described), mapped) in schema.columns.iter().zip(&description.schema.columns).zip(&target.columns) {
            assert_eq!(column.ty == described.ty, mapped.grade == Grade::Exact, "{column:?} {described:?}");
        }
        let exact: Vec<String> = schema
            .columns
            .iter()
            .zip(&target.columns)
            .filter(|(_, mapped)| mapped.grade == Grade::Exact)
            .map(|(column, _)| column.name.clone())
            .collect();
        let places: Vec<usize> = exact.iter().map(|name| schema.find(name).expect("a column").0).collect();
        let request = ReadRequest { columns: Some(exact), ..ReadRequest::default() };
        let (rows, rejects) = loads::read(&source, request, 4).await.expect("the rows");
        assert_eq!(rejects, []);
        assert_same_rows(&rows, &batch.project(&places).expect("columns"));
    }
}

#[tokio::test]
async fn replace_shows_the_old_rows_until_it_is_published() {
    let file = File::new();
    file.execute("create table orders (id integer primary key, name text); insert into orders values (7, 'old');");
    file.execute("create index by_name on orders (name); create view names as select name from orders;");
    let sink = file.sink("orders", WriteMode::Replace);
    let (schema, batch) = loads::ids(0..10, "new");
    let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
    loads::write(&sink, &load, "all", &batch).await.expect("a commit");
    assert_eq!(file.text("select group_concat(name) from orders"), "Text(\"old\")");
    assert_same_rows(&loads::read_back(&sink, &load).await.expect("staged rows"), &batch);
    sink.publish(&load).await.expect("published");
    sink.publish(&load).await.expect("published again");
    assert_eq!(file.count("select count(*) from names where name like 'new %'"), 10);
    assert_eq!(file.count("select count(*) from sqlite_schema where name like 'haul_staging%'"), 0);
}

#[tokio::test]
async fn a_split_is_committed_once_and_only_by_the_newest_worker() {
    let file = File::new();
    let sink = file.sink("orders", WriteMode::Append);
    let (schema, batch) = loads::ids(0..10, "a");
    let first = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
    assert_eq!(loads::write(&sink, &first, "0000", &batch).await.expect("a commit"), 10);
    assert_eq!(loads::write(&sink, &first, "0000", &batch).await.expect("a second commit of the same split"), 10);
    assert_eq!(file.count("select count(*) from orders"), 10);

    let again = file.sink("orders", WriteMode::Append);
    let claim = again.claim(&loads::key("run 1")).await.expect("a claim");
    let found = claim.found.expect("the unfinished load");
    assert_eq!((found.note.as_str(), found.published), ("a note", false));
    assert_eq!(found.marks, [loads::mark("0000", &batch)]);
    let failure = loads::write(&sink, &first, "0001", &batch).await.expect_err("an older worker");
    assert_eq!(failure.kind, FailureKind::Fenced);
    assert_eq!(file.count("select count(*) from orders"), 10);
}

#[tokio::test]
async fn a_value_that_does_not_fit_is_refused_with_its_row() {
    let file = File::new();
    file.execute("create table t (id integer primary key, day date, total decimal(5,2));");
    file.execute("insert into t values (1, '2013-01-31', 1.10), (2, 'soon', 2), (3, null, 1234.5), (4, 20130131, 0.125);");
    let (rows, rejects) = loads::read(&file.table("t"), ReadRequest::default(), 1).await.expect("rows");
    assert_eq!(rows.num_rows(), 1);
    let said: Vec<String> = rejects.iter().map(|reject| format!("{}: {} {}", reject.origin, reject.reason, reject.row)).collect();
    assert_eq!(
        said,
        [
            "t id=2: column `day`: the text 'soon' does not fit date {\"id\":2,\"day\":\"soon\",\"total\":2}",
            "t id=3: column `total`: the float 1234.5 does not fit decimal(5,2) {\"id\":3,\"day\":null,\"total\":1234.5}",
            "t id=4: column `day`: the integer 20130131 does not fit date {\"id\":4,\"day\":20130131,\"total\":0.125}",
        ]
    );
    let (rows, _) =
        loads::read(&file.query("select total * 2 as double from t where id < 3"), ReadRequest::default(), 1).await.expect("rows");
    assert_eq!(rows.num_rows(), 2);
}
