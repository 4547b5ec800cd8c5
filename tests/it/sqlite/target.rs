//! What becomes of a table that rows go to.

use super::{File, spec, upsert};
use crate::support::loads::{self, assert_same_rows, awkward_batch};
use haul::connectors::ReadRequest;
use haul::data::{Column, Grade, Schema, Type};
use haul::define::pipeline::{SchemaMode, SqlSink, WriteMode};
use haul::failure::FailureKind;

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
