//! Values and types, there and back.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
use haul::connectors::ReadRequest;
use haul::data::{Column, Grade, Schema, Type};
use haul::define::pipeline::WriteMode;

use super::{Database, upsert};
use crate::support::loads::{self, assert_same_rows, awkward_batch};

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

/// Columns of types that only PostgreSQL has, and what they are read as.
const NATIVE: &str = "
    create type mood as enum ('sad', 'ok', 'happy');
    create type point3 as (x int, y int, z int);
    create domain price as numeric(12,2) check (value >= 0);
    create extension citext;
    create table native (
      id int primary key, mood mood not null, p price, small smallint, o oid, t timetz, ip inet, ips inet[], range int4range, bits varbit(9),
      n name, c char(5), ci citext, j json, jb jsonb, moods mood[], composite point3, class regclass, letter \"char\", money money, x xml,
      v tsvector, u numeric, wide numeric(60,20), stamps timestamp(3)[], m int4multirange);
    insert into native values
      (1, 'happy', 12.50, -32768, 4294967295, '23:59:59.5+02', '10.0.0.1/8', '{::1,null}', '[1,5)', B'101', 'a name', 'ab', 'CiText',
       '{\"a\":1, \"a\":2}', '{\"b\":1,\"a\":2}', '{sad,null,happy}', '(1,2,)', 'native', 'x', '12.34', '<a>b</a>', 'a:1 b:2', 1e-400, 1e30,
       '{2020-01-01 00:00:00.123,infinity}', '{[1,3),[7,9)}'),
      (2, 'sad', null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, 'NaN', null,
       null, null)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_types_are_described_and_survive_a_copy_to_the_same_engine() {
    let database = Database::new();
    database.sql(NATIVE);
    let source = database.table("native");
    let described = source.describe().await.expect("a description");
    let shown: Vec<String> = described.schema.columns.iter().map(|column| format!("{} {}", column.name, column.ty)).collect();
    assert_eq!(
        shown.join("; "),
        "id int32; mood enum(sad,ok,happy); p decimal(12,2); small int16; o uint32; t postgres time with time zone; ip postgres inet; \
         ips postgres inet[]; range postgres int4range; bits postgres bit varying(9); n text; c text; ci text; j json; jb json; \
         moods array(enum(sad,ok,happy)); composite text; class text; letter text; money postgres money; x postgres xml; \
         v postgres tsvector; u decimal; wide decimal(60,20); stamps array(timestamp); m postgres int4multirange"
    );
    assert_eq!(described.key, ["id"]);
    assert!(described.wire.is_none(), "the array of a user's own type is not portable");

    let (rows, rejects) = loads::read(&source, ReadRequest::default(), 1).await.expect("the rows");
    assert!(rejects.is_empty(), "{rejects:?}");
    let sink = database.sink("copy", WriteMode::Append);
    let target = sink.plan(&described.schema).await.expect("a plan").expect("no problems");
    for (column, mapped) in described.schema.columns.iter().zip(&target.columns) {
        let native = column.native.as_deref().unwrap_or("text");
        assert_eq!((mapped.grade, mapped.native.as_str()), (Grade::Exact, native), "{}: {}", column.name, mapped.reason);
    }
    let load = loads::load(&sink, "run 1", &described.schema, &rows).await.expect("a load");
    assert_same_rows(&loads::read_back(&sink, &load).await.expect("the rows"), &rows);
    // Composite and object types went as text; everything else is the same for the server too.
    let same = "select count(*) from native join copy using (id) where native::text = copy::text";
    assert_eq!(database.sql(same), "2");

    // What another engine cannot take is read in its text form.
    let request = ReadRequest {
        columns: Some(vec!["ip".to_owned(), "range".to_owned()]),
        as_text: vec!["ip".to_owned(), "range".to_owned()],
        ..ReadRequest::default()
    };
    let (texts, _) = loads::read(&source, request, 1).await.expect("the rows");
    assert_eq!(texts.column(0).as_string::<i32>().value(0), "10.0.0.1/8");
    assert_eq!(texts.column(1).as_string::<i32>().value(0), "[1,5)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_without_a_logical_form_are_refused_one_by_one() {
    let database = Database::new();
    database.sql(
        "create table t (id int primary key, n numeric(5,2), a int[], at timestamp, i interval);
         insert into t values (1, 1, '{1}', 'infinity', '1 day'), (2, 'NaN', '{}', null, null), (3, null, '{{1,2},{3,4}}', null, null),
           (4, null, '[0:1]={1,2}', null, null), (5, null, null, '294276-12-31 23:59:59.999999', null), (6, 'NaN', '{{1}}', null, null),
           (7, null, null, null, '3000000 hours')",
    );
    let (rows, rejects) = loads::read(&database.table("t"), ReadRequest::default(), 1).await.expect("the rows");
    assert_eq!(rows.column(0).as_primitive::<arrow::datatypes::Int32Type>().values(), &[1]);
    let shown: Vec<(&str, &str)> = rejects.iter().map(|reject| (reject.origin.as_str(), &reject.reason[..20])).collect();
    assert_eq!(
        shown,
        [
            ("id=2", "column `n`: NaN is n"),
            ("id=3", "column `a`: an array"),
            ("id=4", "column `a`: an array"),
            ("id=5", "column `at`: a time "),
            ("id=6", "column `n`: NaN is n"),
            ("id=7", "column `i`: more tha"),
        ]
    );
    assert!(rejects[4].reason.contains("column `a`"), "both faults of a row are named: {}", rejects[4].reason);
    assert!(rejects[1].reason.contains("::text"), "the way out is named: {}", rejects[1].reason);
    assert_eq!(rejects[1].row, r#"{"id":"3","n":null,"a":"(not readable)","at":null,"i":null}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_widths_of_all_kinds() {
    let database = Database::new();
    for mode in [WriteMode::Append, WriteMode::Replace, upsert(&["select"])] {
        let names = ["select", "Mixed Case", "d\"quote", "żółć 日本", "100%", "tab\tand\nline"];
        let columns = names.map(|name| Column { nullable: name != "select", ..Column::new(name, Type::Int(64)) });
        let schema = Schema { columns: columns.to_vec() };
        let arrays = names.map(|_| -> ArrayRef { Arc::new(Int64Array::from_iter_values(0..3)) });
        let batch = loads::batch_of(&schema, arrays.to_vec());
        let sink = database.sink("Odd \"Table\" ☃", mode);
        let load = loads::load(&sink, "run 1", &schema, &batch).await.expect("a load");
        assert_same_rows(&loads::read_back(&sink, &load).await.expect("the rows"), &batch);
        let (rows, _) = loads::read(&database.table("Odd \"Table\" ☃"), ReadRequest::default(), 4).await.expect("the rows");
        assert_eq!(rows.num_columns(), names.len());
        database.sql("drop table \"Odd \"\"Table\"\" ☃\"");
    }
    for (count, rows) in [(1, 3), (1000, 20), (3, 0)] {
        let schema = Schema { columns: (0..count).map(|place| Column::new(format!("c{place}"), Type::Text)).collect() };
        let array: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("row {row}"))));
        let batch = loads::batch_of(&schema, vec![array; count]);
        let sink = database.sink(&format!("wide_{count}"), WriteMode::Replace);
        let load = loads::load(&sink, "run 1", &schema, &batch).await.expect("a load");
        assert_same_rows(&loads::read_back(&sink, &load).await.expect("the rows"), &batch);
        let (read, _) = loads::read(&database.table(&format!("wide_{count}")), ReadRequest::default(), 4).await.expect("the rows");
        assert_eq!((read.num_rows(), read.num_columns()), (rows, count));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_of_a_hundred_mebibytes_goes_both_ways() {
    let database = Database::new();
    let schema = Schema { columns: vec![Column::new("id", Type::Int(64)), Column::new("big", Type::Text)] };
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..3));
    let big: ArrayRef = Arc::new(StringArray::from_iter_values(["small".to_owned(), "ż".repeat(50 << 20), String::new()]));
    let batch = loads::batch_of(&schema, vec![ids, big]);
    let sink = database.sink("big", WriteMode::Append);
    let load = loads::load(&sink, "run 1", &schema, &batch).await.expect("a load");
    assert_same_rows(&loads::read_back(&sink, &load).await.expect("the rows"), &batch);
    assert_eq!(
        database.sql("select octet_length(big), md5(big) = md5(repeat('ż', 50 * 1024 * 1024)) from big where id = 1"),
        "104857600|t"
    );
}
