//! The SQLite connector on real files.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Int64Type};
use futures::StreamExt;
use haul::connectors::sql::sqlite::Database;
use haul::connectors::{Load, LoadKey, Mark, ReadRequest, Sink, Source, SplitGoal};
use haul::data::{BatchLimit, Column, Digest, Grade, Schema, Type};
use haul::define::pipeline::{Connection, Engine, SchemaMode, SqlRead, SqlSink, SqlSource, Verify, WriteMode};
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

#[test]
fn urls_name_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |url: &str| database(url, folder.path()).err().map(|failure| failure.to_string());
    for url in ["sqlite:shop.db", "sqlite://shop.db", "sqlite:///tmp/shop.db"] {
        assert_eq!(refused(url), None);
    }
    for (url, said) in [
        ("sqlite::memory:", "asks for a database in memory"),
        ("sqlite://:memory:", "asks for a database in memory"),
        ("sqlite:", "names no file"),
        ("sqlite:shop.db?mode=ro", "has options"),
        ("postgres://localhost", "is no SQLite URL"),
    ] {
        assert!(refused(url).is_some_and(|text| text.contains(said)), "{url}: {:?}", refused(url));
    }
}

#[tokio::test]
async fn a_table_that_haul_made_is_replaced_by_renaming_and_keeps_its_shape() {
    let file = File::new();
    let sink = file.sink_of(SqlSink { primary_key: Some(vec!["id".to_owned()]), ..spec("orders", WriteMode::Replace) });
    let (schema, batch) = loads::ids(0..10, "old");
    loads::load(&sink, "run 1", &schema, &batch).await.expect("a load");
    let made = file.text("select sql from sqlite_schema where name = 'orders'");
    let target = sink.plan(&schema).await.expect("a plan").expect("no problems");
    assert!(target.guarantee.contains("renaming"), "{}", target.guarantee);
    assert!(target.ddl.is_empty());
    loads::load(&sink, "run 2", &schema, &loads::ids(5..8, "new").1).await.expect("a load");
    assert_eq!(file.text("select group_concat(name) from orders"), "Text(\"new 5,new 6,new 7\")");
    assert_eq!(file.text("select sql from sqlite_schema where name = 'orders'"), made);
    // With something that leans on the table it is filled in place instead, even when that came after the rows were staged.
    let load = loads::begin(&sink, &loads::key("run 3"), &schema).await.expect("a load");
    loads::write(&sink, &load, "all", &batch).await.expect("a commit");
    file.execute("create view names as select name from orders");
    assert!(sink.plan(&schema).await.expect("a plan").expect("no problems").guarantee.contains("in place"));
    sink.publish(&load).await.expect("published");
    assert_eq!(file.count("select count(*) from names where name like 'old %'"), 10);
}

#[tokio::test]
async fn what_was_staged_without_rules_never_becomes_the_table() {
    let file = File::new();
    let sink = file.sink_of(SqlSink { primary_key: Some(vec!["id".to_owned()]), ..spec("orders", WriteMode::Replace) });
    let (schema, batch) = loads::ids(0..3, "a");
    loads::load(&sink, "run 1", &schema, &batch).await.expect("a load");
    file.execute("create view names as select name from orders");
    let load = loads::begin(&sink, &loads::key("run 2"), &schema).await.expect("a load");
    loads::write(&sink, &load, "all", &batch).await.expect("a commit");
    file.execute("drop view names");
    sink.publish(&load).await.expect("published");
    assert!(file.text("select sql from sqlite_schema where name = 'orders'").contains("PRIMARY KEY"));
    assert_eq!(file.count("select count(*) from orders"), 3);
}

#[tokio::test]
async fn replacing_a_table_neither_cascades_nor_breaks_references() {
    let file = File::new();
    file.execute("create table orders (id integer primary key, name text);");
    file.execute("create table lines (id integer primary key, order_id integer references orders on delete cascade);");
    file.execute("insert into orders values (1, 'a'), (20, 'b'); insert into lines values (1, 1), (2, 20);");
    let sink = file.sink("orders", WriteMode::Replace);
    let (schema, batch) = loads::ids(0..10, "new");
    let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
    loads::write(&sink, &load, "all", &batch).await.expect("a commit");
    let failure = sink.publish(&load).await.expect_err("a line of order 20");
    assert!(failure.to_string().contains("rows of `lines` that refer to rows `orders` does not have"), "{failure}");
    assert_eq!((failure.kind, file.count("select count(*) from orders")), (FailureKind::Permanent, 2));
    file.execute("delete from lines where order_id = 20");
    sink.publish(&load).await.expect("published");
    assert_eq!((file.count("select count(*) from orders"), file.count("select count(*) from lines")), (10, 1));
}

#[tokio::test]
async fn an_existing_table_of_another_maker_keeps_values_or_says_why_not() {
    let file = File::new();
    file.execute("create table t (a real, b decimal(10,2), c decimal(20,2), d varchar, e datetime, f blob, g integer)");
    let columns = [
        ("a", Type::Float(64), Some(Grade::Widened)),
        ("b", Type::Decimal(10, 2), Some(Grade::Exact)),
        ("c", Type::Decimal(20, 2), Some(Grade::Lossy)),
        ("d", Type::Date, Some(Grade::Widened)),
        ("e", Type::Timestamp, Some(Grade::Exact)),
        ("f", Type::Text, None),
        ("g", Type::Int(32), Some(Grade::Widened)),
    ];
    let sink = file.sink("t", WriteMode::Append);
    for (name, ty, grade) in columns {
        let schema = Schema { columns: vec![Column::new(name, ty.clone())] };
        let planned = sink.plan(&schema).await.expect("a plan");
        assert_eq!(planned.as_ref().ok().map(|target| target.columns[0].grade), grade, "{name}: {planned:?}");
        if grade.is_some_and(|grade| grade != Grade::Lossy) {
            file.execute("delete from t");
            let batch = loads::batch_of(&schema, vec![loads::awkward(&ty)]);
            let load = loads::load(&sink, &format!("run {name}"), &schema, &batch).await.expect("a load");
            assert_same_rows(&loads::read_back(&sink, &load).await.expect("rows"), &batch);
        }
    }
}

#[tokio::test]
async fn an_upsert_keeps_the_last_row_of_a_key_and_proves_it() {
    let file = File::new();
    file.execute("create table orders (id integer primary key, name text); insert into orders values (1, 'old'), (99, 'kept');");
    let sink = file.sink("orders", upsert(&["id"]));
    let (schema, first) = loads::ids(0..3, "first");
    let (_, last) = loads::ids(1..4, "last");
    let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
    let both = concat_batches(&schema.to_arrow(), [&first, &last]).expect("one batch");
    let mut writer = sink.writer(&load, "all").await.expect("a writer");
    writer.write(first).await.expect("written");
    writer.write(last).await.expect("written");
    let committed = writer.commit(loads::mark("all", &both)).await.expect("committed");
    assert_eq!(committed.rows, 4);
    assert_eq!(
        file.text("select group_concat(name) from (select name from orders order by id)"),
        "Text(\"first 0,last 1,last 2,last 3,kept\")"
    );

    // Something in the target changes a value on its way in.
    file.execute("create trigger meddle after update on orders begin update orders set name = 'meddled' where id = 2 and id = new.id; end");
    let (_, batch) = loads::ids(0..5, "again");
    let failure = loads::write(&sink, &load, "0001", &batch).await.expect_err("a difference");
    assert!(failure.to_string().contains("1 rows of `orders` differ") && failure.to_string().contains("id: the integer 2"), "{failure}");
    assert_eq!(file.count("select count(*) from orders where name like 'again%' or name = 'meddled'"), 0);
    let unproven = Load { verify: Verify::None, ..load };
    assert_eq!(loads::write(&sink, &unproven, "0001", &batch).await.expect("committed"), 5);
}

#[tokio::test]
async fn a_key_without_a_value_is_refused() {
    let file = File::new();
    let schema = Schema { columns: vec![Column::new("id", Type::Int(64))] };
    let batch = loads::batch_of(&schema, vec![loads::awkward(&Type::Int(64))]);
    for (table, sink) in [
        ("a", file.sink("a", upsert(&["id"]))),
        ("b", file.sink_of(SqlSink { primary_key: Some(vec!["id".to_owned()]), ..spec("b", WriteMode::Append) })),
    ] {
        let failure = loads::load(&sink, "run 1", &schema, &batch).await.expect_err("a NULL");
        assert_eq!(failure.kind, FailureKind::BadRows);
        assert!(failure.to_string().contains("no value in `id`"), "{failure}");
        assert_eq!(file.count(&format!("select count(*) from {table}")), 0);
    }
}

#[tokio::test]
async fn a_row_that_breaks_a_rule_is_named() {
    let file = File::new();
    file.execute("create table orders (id integer primary key, name text check (name <> 'a 21'))");
    let (schema, batch) = loads::ids(0..40, "a");
    let failure = loads::load(&file.sink("orders", WriteMode::Append), "run 1", &schema, &batch).await.expect_err("a rule");
    assert_eq!(failure.kind, FailureKind::BadRows);
    let said = failure.to_string();
    assert!(said.contains("the row with id: the integer 21, name: the text 'a 21'") && said.contains("CHECK constraint failed"), "{said}");
    assert_eq!(file.count("select count(*) from orders"), 0);
}

#[tokio::test]
async fn every_problem_of_a_target_is_told_at_once() {
    let file = File::new();
    file.execute("create table orders (id integer, day date, must text not null, sum integer generated always as (id + 1)); create view v as select 1;");
    let schema = Schema {
        columns: vec![
            Column::new("id", Type::Int(64)),
            Column::new("day", Type::Bytes),
            Column::new("sum", Type::Int(64)),
            Column::new("new", Type::Text),
            Column::new("NEW", Type::Text),
        ],
    };
    let problems = |spec: SqlSink| {
        let sink = file.sink_of(spec);
        let schema = &schema;
        async move {
            let problems = sink.plan(schema).await.expect("a plan").err().unwrap_or_default();
            problems.into_iter().map(|problem| format!("{} {}: {}", problem.code, problem.field, problem.message)).collect::<Vec<_>>()
        }
    };
    assert_eq!(
        problems(spec("orders", upsert(&["id", "gone"]))).await,
        [
            "target-type : column `day`: a column of type `date` is not for values of type bytes",
            "target-columns : the column `sum` of `orders` is generated and cannot be written",
            "target-columns : SQLite does not tell the columns `new` and `NEW` apart",
            "target-columns schema: the table has no column `new`, `NEW`",
            "target-columns : no value arrives for `must`, which `orders` requires",
            "target-key key: no column `gone` arrives",
            "target-key key: no primary key or unique index of `orders` has the columns `id`, `gone`",
        ]
    );
    assert!(problems(spec("v", WriteMode::Append)).await.iter().any(|problem| problem.starts_with("target-kind table: `v` is a view")));
    assert!(problems(spec("haul_marks", WriteMode::Append)).await.iter().any(|problem| problem.starts_with("target-name")));
    assert!(problems(spec("sqlite_x", WriteMode::Append)).await.iter().any(|problem| problem.starts_with("target-name")));
    let required = SqlSink { schema: SchemaMode::Require, ..spec("missing", WriteMode::Append) };
    assert!(problems(required).await.contains(&"target-missing table: there is no table `missing`".to_owned()));
    let elsewhere = SqlSink { table: vec!["sales".to_owned(), "orders".to_owned()], ..spec("", WriteMode::Append) };
    assert!(problems(elsewhere).await[0].contains("a SQLite file has only `main`"));
}

#[tokio::test]
async fn a_table_evolves_when_it_may() {
    let file = File::new();
    file.execute("create table orders (id integer primary key); create index i on orders (id);");
    let (schema, batch) = loads::ids(0..10, "a");
    for (run, mode) in [("run 1", WriteMode::Append), ("run 2", WriteMode::Replace), ("run 3", upsert(&["id"]))] {
        let sink = file.sink_of(SqlSink { schema: SchemaMode::Evolve, ..spec("orders", mode.clone()) });
        let target = sink.plan(&schema).await.expect("a plan").expect("no problems");
        assert_eq!(target.ddl, ["ALTER TABLE \"orders\" ADD COLUMN \"name\" TEXT"]);
        let load = loads::load(&sink, run, &schema, &batch).await.unwrap_or_else(|failure| panic!("{mode:?}: {failure}"));
        assert_same_rows(&loads::read_back(&sink, &load).await.expect("rows"), &batch);
        assert_eq!(file.table("orders").describe().await.expect("a description").schema, target.reads_as);
        file.execute("delete from orders; alter table orders drop column name");
    }
}

/// The ids that each split gives, in order.
async fn ids_of(source: &Arc<dyn Source>, most: usize) -> Vec<Vec<String>> {
    let request = ReadRequest { columns: Some(vec!["id".to_owned()]), ..ReadRequest::default() };
    let reading = source.open(request).await.expect("a view");
    let splits = reading.splits(SplitGoal { most, bytes: 1 }).await.expect("splits");
    let mut ids = Vec::new();
    for split in splits.splits {
        let (rows, rejects) = loads::drain(reading.schema(), reading.read(&split).await.expect("a stream")).await.expect("rows");
        assert_eq!(rejects, []);
        let texts = cast(rows.column(0), &DataType::Utf8).expect("texts");
        let mut texts: Vec<String> = texts.as_string::<i32>().iter().map(|text| text.unwrap_or("NULL").to_owned()).collect();
        texts.sort();
        ids.push(texts);
    }
    ids
}

#[tokio::test]
async fn splits_hold_every_row_once() {
    let file = File::new();
    file.execute("pragma journal_mode = wal");
    file.execute("create table t (id integer primary key, part integer, word text);");
    file.execute("insert into t values (-9223372036854775808, 1, '10'), (-5, 2, '9'), (0, null, null), (7, 'x', '1e3'), (9223372036854775807, 1000, 'b');");
    file.execute("create table keyed (id integer primary key, x) without rowid; insert into keyed select id, 1 from t;");
    file.execute("create table words (id text primary key) without rowid; insert into words select word from t where word is not null;");
    file.execute("create view v as select id from t;");
    let table = |name: &str, split_by| {
        file.source(SqlRead::Table { name: vec![name.to_owned()], columns: vec!["id".to_owned()], filter: None }, split_by)
    };
    let mut all: Vec<String> = ["-9223372036854775808", "-5", "0", "7", "9223372036854775807"].map(str::to_owned).to_vec();
    all.sort();
    for (source, least) in [
        (table("t", None), 2),
        (table("t", Some("id")), 2),
        (table("keyed", None), 2),
        (table("v", None), 1),
        (table("v", Some("id")), 2),
        (file.source(SqlRead::Query("select cast(id as text) as id, part from t".to_owned()), Some("part")), 1),
        (file.source(SqlRead::Query("select cast(id as text) as id, word from t -- every".to_owned()), Some("word")), 1),
    ] {
        let splits = ids_of(&source, 4).await;
        assert!(splits.len() >= least && splits.len() <= 4, "{splits:?}");
        let mut found = splits.concat();
        found.sort();
        assert_eq!(found, all);
    }
    assert_eq!(ids_of(&table("words", None), 4).await, [["10", "1e3", "9", "b"]]);
    assert_eq!(ids_of(&table("t", None), 1).await.len(), 1);
    let missing = table("t", Some("nowhere")).describe().await.expect_err("no such column");
    assert!(missing.to_string().contains("`split_by` names the column `nowhere`"), "{missing}");
}

#[tokio::test]
async fn all_splits_of_a_view_see_one_state() {
    let file = File::new();
    file.execute("pragma journal_mode = wal; create table t (id integer primary key); insert into t values (1), (2), (3), (4);");
    let source = file.table("t");
    let reading = source.open(ReadRequest::default()).await.expect("a view");
    let splits = reading.splits(SplitGoal { most: 2, bytes: 1 }).await.expect("splits").splits;
    file.execute("delete from t where id = 4; insert into t values (5);");
    let mut found = Vec::new();
    for split in &splits {
        let (rows, _) = loads::drain(reading.schema(), reading.read(split).await.expect("a stream")).await.expect("rows");
        found.extend(rows.column(0).as_primitive::<Int64Type>().values().to_vec());
    }
    assert_eq!(found, [1, 2, 3, 4]);
    assert_eq!(ids_of(&source, 1).await, [["1", "2", "3", "5"]]);
}

#[tokio::test]
async fn a_file_without_a_log_is_read_whole_and_written_from_itself() {
    let file = File::new();
    file.execute(
        "create table t (id integer primary key, name text); insert into t select value, 'a ' || value from json_each('[1,2,3,4]');",
    );
    let source = file.table("t");
    let reading = source.open(ReadRequest::default()).await.expect("a view");
    let splits = reading.splits(SplitGoal { most: 4, bytes: 1 }).await.expect("splits").splits;
    assert_eq!(splits.len(), 1);
    let (rows, _) = loads::drain(reading.schema(), reading.read(&splits[0]).await.expect("a stream")).await.expect("rows");
    // The view is still open while its file is written.
    loads::load(&file.sink("copy", WriteMode::Append), "run 1", reading.schema(), &rows).await.expect("a load");
    assert_eq!(file.count("select count(*) from copy"), 4);
    assert_eq!(file.text("pragma journal_mode"), "Text(\"delete\")");
}

#[tokio::test]
async fn queries_take_their_types_from_columns_or_from_a_sample() {
    let file = File::new();
    file.execute("create table t (id integer primary key, day date, total decimal(8,2), any, odd string);");
    file.execute("insert into t values (1, '2013-01-31', 1.5, 1, 'x'), (2, null, 2, 'two', 'y'), (3, null, 3, 2.5, 'z');");
    let types = |query: &str| {
        let source = file.query(query);
        async move {
            let schema = source.describe().await.map(|description| description.schema);
            schema.map(|schema| schema.columns.iter().map(|column| format!("{} {}", column.name, column.ty)).collect::<Vec<_>>())
        }
    };
    assert_eq!(
        types("select id, day as d, total, odd, id + 1 as next, id / 2.0 as half, null as none, x'00' as b from t;").await.expect("types"),
        ["id int64", "d date", "total decimal(8,2)", "odd text", "next int64", "half float64", "none text", "b bytes"]
    );
    for (query, said) in [
        ("select any from t", "hold values of several: integer, text, real"),
        ("select id, total as ID from t", "two columns named `ID`"),
        ("delete from t returning id", "changes the database"),
        ("select gone from t", "no such column: gone"),
        ("select 1; select 2", "Multiple statements"),
    ] {
        let failure = types(query).await.expect_err(query);
        assert!(failure.kind == FailureKind::Permanent && failure.to_string().contains(said), "{query}: {failure}");
    }
    // Beyond the sample a value may differ: it is a bad row, not a NULL.
    file.execute("delete from t; insert into t (any) select value from (with recursive n(value) as (select 1 union all select value + 1 from n where value < 1000) select value from n)")
        .execute("insert into t (any) values ('odd one')");
    let (rows, rejects) = loads::read(&file.query("select any from t"), ReadRequest::default(), 1).await.expect("rows");
    assert_eq!((rows.num_rows(), rejects.len()), (1000, 1));
    assert_eq!(rejects[0].reason, "column `any`: the text 'odd one' does not fit int64");
}

#[tokio::test]
async fn filters_and_columns_are_read_by_the_database() {
    let file = File::new();
    file.execute("create table t (id integer primary key, name text); insert into t values (1, 'a'), (2, 'b'), (3, 'c');");
    let read = SqlRead::Table {
        name: vec!["main".to_owned(), "t".to_owned()],
        columns: vec!["name".to_owned(), "id".to_owned()],
        filter: Some("id > 1 or false -- why".to_owned()),
    };
    let source = file.source(read, None);
    let request =
        ReadRequest { columns: Some(vec!["name".to_owned()]), filter: Some("name <> 'c' or null".to_owned()), ..ReadRequest::default() };
    let (rows, _) = loads::read(&source, request, 1).await.expect("rows");
    assert_eq!(rows.column(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["b"]);
    assert_eq!(rows.num_columns(), 1);
}

#[tokio::test]
async fn batches_stay_within_their_limits_and_a_dropped_stream_gives_its_connection_back() {
    let file = File::new();
    file.execute("pragma journal_mode = wal; create table t (id integer primary key, name text);");
    file.execute("insert into t select value, iif(value % 100 = 0, hex(zeroblob(5000)), 'a') from (with recursive n(value) as (select 1 union all select value + 1 from n where value < 20000) select value from n)");
    let limit = BatchLimit { rows: 64, bytes: 4096 };
    let source = file.table("t");
    let reading = source.open(ReadRequest { limit, ..ReadRequest::default() }).await.expect("a view");
    let split = reading.splits(SplitGoal { most: 1, bytes: 1 }).await.expect("splits").splits.remove(0);
    for _ in 0..20 {
        let mut stream = reading.read(&split).await.expect("a stream");
        let first = stream.next().await.expect("a chunk").expect("rows");
        assert_eq!(first.batch.num_rows(), 64);
    }
    let mut stream = reading.read(&split).await.expect("a stream");
    let mut rows = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.expect("rows");
        rows += chunk.batch.num_rows();
        assert!(chunk.batch.num_rows() <= 64);
        assert!(chunk.bytes <= 4096 || chunk.batch.num_rows() == 1, "a row that is larger than the limit is a batch of its own");
    }
    assert_eq!(rows, 20_000);
}

#[tokio::test]
async fn a_split_larger_than_memory_is_gathered_outside_the_database() {
    let file = File::new();
    file.execute("create table orders (id integer primary key, name text)");
    let sink = file.sink("orders", WriteMode::Append);
    let (schema, _) = loads::ids(0..1, "");
    let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
    let mut digest = Digest::default();
    let batches: Vec<_> = (0..5).map(|part| loads::ids(part * 100..part * 100 + 100, &"x".repeat(100_000)).1).collect();
    for keep in [false, true] {
        let mut writer = sink.writer(&load, "all").await.expect("a writer");
        for batch in &batches {
            writer.write(batch.clone()).await.expect("written");
            // Nobody is kept out while rows are gathered.
            file.execute("create table if not exists other (x); insert into other values (1);");
        }
        if keep {
            digest += batches.iter().map(loads::digest).sum();
            let committed = writer.commit(Mark { split: "all".to_owned(), rows: 500, digest, rejects: 0 }).await.expect("committed");
            assert_eq!(committed.rows, 500);
        } else {
            drop(writer);
            assert_eq!(file.count("select count(*) from orders"), 0);
        }
    }
    assert_eq!(loads::digest(&loads::read_back(&sink, &load).await.expect("rows")), digest);
}

#[tokio::test]
async fn writers_of_one_file_never_wait_for_each_others_rows() {
    let file = File::new();
    let database = file.database();
    let sinks = ["a", "b"].map(|table| database.sink(&spec(table, WriteMode::Append)));
    let (schema, batch) = loads::ids(0..1000, "a");
    let mut writers = Vec::new();
    for (output, sink) in sinks.iter().enumerate() {
        let key = LoadKey { output, ..loads::key("run 1") };
        let load = loads::begin(sink, &key, &schema).await.expect("a load");
        writers.push(sink.writer(&load, "all").await.expect("a writer"));
    }
    for _ in 0..3 {
        for writer in &mut writers {
            writer.write(batch.clone()).await.expect("written");
        }
    }
    let mark = Mark { rows: 3000, ..loads::mark("all", &batch) };
    while let Some(writer) = writers.pop() {
        writer.commit(mark.clone()).await.expect("committed");
    }
    assert_eq!(file.count("select (select count(*) from a) + (select count(*) from b)"), 6000);
}

#[tokio::test]
async fn a_commit_waits_for_the_lock_of_another_process() {
    let file = File::new();
    let sink = file.sink("orders", WriteMode::Append);
    let (schema, batch) = loads::ids(0..10, "a");
    let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
    let other = file.other();
    other.execute_batch("begin immediate").expect("the lock");
    let release = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        other.execute_batch("commit").expect("the lock is free");
    });
    loads::write(&sink, &load, "all", &batch).await.expect("a commit after the other");
    release.join().expect("the other process");
    assert_eq!(file.count("select count(*) from orders"), 10);
}

#[tokio::test]
async fn files_that_cannot_be_used_are_told_apart() {
    let file = File::new();
    let describe = |file: &File| {
        let source = file.table("t");
        async move { source.describe().await.expect_err("no table").to_string() }
    };
    assert!(describe(&file).await.contains("there is no database file at"));
    file.execute("create table other (x)");
    assert!(describe(&file).await.contains("there is no table or view `t`"));
    std::fs::write(file.path(), "id,name\n1,this is a text file\n".repeat(100)).expect("written");
    assert!(describe(&file).await.contains("is no SQLite database"));

    let file = File::new();
    file.execute(
        "create table t (id integer primary key, x); insert into t select value, hex(randomblob(500)) from (with recursive n(value) as (select 1 union all select value + 1 from n where value < 1000) select value from n)",
    );
    let mut bytes = std::fs::read(file.path()).expect("the file");
    let page = 4096;
    bytes[page * 20..].chunks_mut(page).for_each(|page| page[..200].fill(0x5a));
    std::fs::write(file.path(), bytes).expect("written");
    let failure = loads::read(&file.table("t"), ReadRequest::default(), 1).await.expect_err("a damaged file");
    assert!(failure.kind == FailureKind::Permanent && failure.to_string().contains("is damaged"), "{failure}");
    assert!(failure.help.expect("a way out").contains("backup"));

    let nowhere = database("sqlite:missing/shop.db", file.folder.path()).expect("a URL").sink(&spec("t", WriteMode::Append));
    let problems = nowhere.plan(&loads::ids(0..1, "").0).await.expect("a plan").expect_err("no folder");
    assert!(problems[0].message.contains("does not exist"), "{problems:?}");
}

#[tokio::test]
async fn claims_tell_what_to_go_on_with_and_what_was_left_behind() {
    let file = File::new();
    let sink = file.sink("orders", WriteMode::Append);
    let (schema, batch) = loads::ids(0..10, "a");
    let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
    loads::write(&sink, &load, "0000", &batch).await.expect("a commit");
    // Another plan finds nothing to go on with, and is told of the rows.
    let other = LoadKey { plan_hash: "plan 2".to_owned(), ..loads::key("run 2") };
    let claim = sink.claim(&other).await.expect("a claim");
    assert!(claim.found.is_none() && claim.left_behind == 10 && claim.epoch == 2);
    // A later run of the same plan goes on with the unfinished load, and finds it again when it is finished.
    let claim = sink.claim(&loads::key("run 3")).await.expect("a claim");
    assert_eq!((claim.found.map(|found| (found.run, found.marks.len())), claim.left_behind), (Some(("run 1".to_owned(), 1)), 0));
    let load = Load { key: loads::key("run 3"), epoch: claim.epoch, ..load };
    sink.publish(&load).await.expect("published");
    for run in ["run 1", "run 3"] {
        let found = sink.claim(&loads::key(run)).await.expect("a claim").found.expect("the load");
        assert!(found.published, "{run}");
    }
    // The next run starts from nothing, even when it is interrupted before it has prepared anything.
    for _ in 0..2 {
        let claim = sink.claim(&loads::key("run 4")).await.expect("a claim");
        assert!(claim.found.is_none() && claim.left_behind == 0);
    }
    sink.abandon(&loads::key("run 4")).await.expect("abandoned");
    assert_eq!(file.count("select count(*) from haul_marks"), 0);
    assert!(sink.claim(&loads::key("run 1")).await.expect("a claim").found.is_none());
    assert_eq!(file.count("select count(*) from orders"), 10);
}
