//! Tables, views and queries of SQLite as sources.

use super::{File, database, spec};
use crate::support::loads::{self};
use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use futures::StreamExt;
use haul::connectors::{ReadRequest, Source, SplitGoal};
use haul::data::BatchLimit;
use haul::define::pipeline::{SqlRead, WriteMode};
use haul::failure::FailureKind;
use std::sync::Arc;

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

/// The ids that each split gives, in order.
async fn ids_of(source: &Arc<dyn Source>, most: usize) -> Vec<Vec<String>> {
    let request = ReadRequest { columns: Some(vec!["id".to_owned()]), ..ReadRequest::default() };
    let reading = source.open(request).await.expect("a view");
    let splits = reading.splits(SplitGoal { most, bytes: 1 }).await.expect("splits");
    let mut ids = Vec::new();
    for split in splits.splits {
        let (rows, rejects) = loads::drain(reading.schema(), reading.read(&split, None).await.expect("a stream")).await.expect("rows");
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
        let (rows, _) = loads::drain(reading.schema(), reading.read(split, None).await.expect("a stream")).await.expect("rows");
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
    let (rows, _) = loads::drain(reading.schema(), reading.read(&splits[0], None).await.expect("a stream")).await.expect("rows");
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
        let mut stream = reading.read(&split, None).await.expect("a stream");
        let first = stream.next().await.expect("a chunk").expect("rows");
        assert_eq!(first.batch.num_rows(), 64);
    }
    let mut stream = reading.read(&split, None).await.expect("a stream");
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
}

#[tokio::test]
async fn missing_folders_are_made_with_the_file() {
    let file = File::new();
    let (schema, batch) = loads::ids(0..3, "");
    let sink = database("sqlite:missing/deeper/shop.db", file.folder.path()).expect("a URL").sink(&spec("t", WriteMode::Append));
    sink.plan(&schema).await.expect("a plan").expect("no problem");
    assert!(!file.folder.path().join("missing").exists(), "a plan makes nothing");
    loads::load(&sink, "r1", &schema, &batch).await.expect("loaded");
    assert!(file.folder.path().join("missing/deeper/shop.db").is_file());
}
