//! What is written, and that it reads back as it was.

use std::sync::Arc;

use arrow::array::{Array, AsArray, StringArray};
use haul::connectors::ReadRequest;
use haul::data::{Column, Grade, Schema, Type};
use haul::define::pipeline::{CsvDialect, FileFormat, FilesSink};
use haul::failure::FailureKind;

use super::{Folder, csv, from, to};
use crate::support::loads::{self, all_types, assert_same_rows, awkward_batch, batch_of, read_back};

#[tokio::test]
async fn every_type_comes_back_from_csv_and_ndjson() {
    for path in ["all.csv", "all.csv.gz", "all.csv.zst", "all.ndjson", "all.ndjson.gz", "all.ndjson.zst", "parts.csv/", "parts.ndjson.gz/"]
    {
        let folder = Folder::new();
        let (schema, batch) = awkward_batch(&all_types(), 40);
        let sink = folder.sink(to(path));
        let target = sink.plan(&schema).await.expect("a folder").expect("no problems");
        assert!(target.columns.iter().all(|column| column.grade <= Grade::Widened), "{path}");
        let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
        loads::write(&sink, &load, "0000", &batch.slice(0, 7)).await.expect("rows");
        loads::write(&sink, &load, "0001", &batch.slice(7, 33)).await.expect("rows");
        assert_same_rows(&read_back(&sink, &load).await.expect(path), &batch);
        sink.publish(&load).await.expect(path);
        assert_same_rows(&read_back(&sink, &load).await.expect(path), &batch);
    }
}

#[tokio::test]
async fn every_type_but_infinite_times_comes_back_from_parquet() {
    let (schema, batch) = awkward_batch(&all_types(), 40);
    let whole = |ty: &Type| !matches!(ty, Type::Date | Type::Time | Type::Timestamp | Type::TimestampTz | Type::Array(_));
    let kept: Vec<usize> = (0..schema.columns.len()).filter(|place| whole(&schema.columns[*place].ty)).collect();
    let mut columns: Vec<Column> = kept.iter().map(|place| schema.columns[*place].clone()).collect();
    let mut arrays: Vec<_> = kept.iter().map(|place| batch.column(*place).clone()).collect();
    for (ty, values) in finite() {
        columns.push(Column::new(ty.to_string(), ty));
        arrays.push(
            arrow::compute::take(&values, &arrow::array::UInt32Array::from_iter_values((0..40).map(|row| row % 3)), None).expect("rows"),
        );
    }
    let schema = Schema { columns };
    let batch = batch_of(&schema, arrays);
    for path in ["all.parquet", "parts.parquet/"] {
        let folder = Folder::new();
        let sink = folder.sink(to(path));
        let target = sink.plan(&schema).await.expect("a folder").expect("no problems");
        let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
        loads::write(&sink, &load, "0000", &batch.slice(0, 7)).await.expect("rows");
        loads::write(&sink, &load, "0001", &batch.slice(7, 33)).await.expect("rows");
        assert_same_rows(&read_back(&sink, &load).await.expect(path), &batch);
        sink.publish(&load).await.expect(path);
        assert_same_rows(&read_back(&sink, &load).await.expect(path), &batch);
        // A source sees the same types, as the plan said it would.
        let source = folder.source(from(path));
        let described = source.describe().await.expect(path);
        assert_eq!(described.schema, target.reads_as);
        assert_eq!(described.rows, Some(40));
        let (rows, rejects) = loads::read(&source, ReadRequest::default(), 4).await.expect(path);
        assert!(rejects.is_empty());
        assert_eq!(loads::digest(&rows), loads::digest(&batch));
    }
}

/// Three values, NULL last, of the types whose awkward values hold what Parquet refuses.
fn finite() -> Vec<(Type, arrow::array::ArrayRef)> {
    use arrow::array::{Date32Array, IntervalMonthDayNanoArray, ListArray, Time64MicrosecondArray, TimestampMicrosecondArray};
    use arrow::buffer::{NullBuffer, OffsetBuffer};
    use arrow::datatypes::{DataType, IntervalMonthDayNano};
    let uuids = loads::awkward(&Type::Uuid);
    let intervals = Arc::new(IntervalMonthDayNanoArray::from(vec![Some(IntervalMonthDayNano::new(14, -3, 500)), None]));
    let list = |item: Type, items: arrow::array::ArrayRef| {
        let ty = Type::Array(Box::new(item));
        let DataType::List(field) = ty.to_arrow() else { panic!("an array is a list") };
        let count = items.len() as i32;
        let nulls = NullBuffer::from(vec![true, true, false]);
        let list: arrow::array::ArrayRef =
            Arc::new(ListArray::new(field, OffsetBuffer::new(vec![0, count, count, count].into()), items, Some(nulls)));
        (ty, list)
    };
    vec![
        (Type::Date, Arc::new(Date32Array::from(vec![Some(-735_160), Some(2_932_896), None]))),
        (Type::Time, Arc::new(Time64MicrosecondArray::from(vec![Some(0), Some(86_399_999_999), None]))),
        (Type::Timestamp, Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), Some(1), None]))),
        (Type::TimestampTz, Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), Some(1), None]).with_timezone("UTC"))),
        list(Type::Uuid, uuids),
        list(Type::Interval, intervals),
        list(Type::Json, loads::awkward(&Type::Json)),
        list(Type::Text, loads::awkward(&Type::Text)),
    ]
}

#[tokio::test]
async fn parquet_refuses_what_it_cannot_hold() {
    for ty in [Type::Date, Type::Time, Type::Timestamp, Type::TimestampTz, Type::Array(Box::new(Type::TimestampTz))] {
        let folder = Folder::new();
        let (schema, batch) = awkward_batch(std::slice::from_ref(&ty), 12);
        let sink = folder.sink(to("x.parquet"));
        let failure = loads::load(&sink, "run 1", &schema, &batch).await.expect_err("an infinite value");
        assert_eq!(failure.kind, FailureKind::BadRows, "{failure}");
        assert!(failure.message.contains("column `c0`"), "{failure}");
        assert!(folder.visible().is_empty(), "{:?}", folder.all());
    }
}

#[tokio::test]
async fn null_and_empty_text_differ_in_csv() {
    let check = async |dialect: CsvDialect, expected: &str| {
        let folder = Folder::new();
        let schema = Schema { columns: vec![Column::new("a", Type::Text), Column::new("b c", Type::Text)] };
        let values = || Arc::new(StringArray::from(vec![None, Some(""), Some("NA"), Some("x;y"), Some("\"q\"\n"), Some("plain")]));
        let batch = batch_of(&schema, vec![values(), values()]);
        let sink = folder.sink(FilesSink { format: FileFormat::Csv(dialect), ..to("x.csv") });
        let load = loads::load(&sink, "run 1", &schema, &batch).await.expect("rows");
        assert_eq!(folder.read("x.csv"), expected);
        assert_same_rows(&read_back(&sink, &load).await.expect("rows"), &batch);
    };
    check(csv(), "a,b c\n,\n\"\",\"\"\nNA,NA\nx;y,x;y\n\"\"\"q\"\"\n\",\"\"\"q\"\"\n\"\nplain,plain\n").await;
    let odd = CsvDialect { delimiter: b';', quote: Some(b'\''), escape: Some(b'\\'), null: vec!["NA".to_owned()], header: false, ..csv() };
    check(odd, "NA;NA\n'';''\n'NA';'NA'\n'x;y';'x;y'\n'\"q\"\n';'\"q\"\n'\nplain;plain\n").await;
}

#[tokio::test]
async fn a_single_nullable_column_keeps_its_nulls() {
    let folder = Folder::new();
    let schema = Schema { columns: vec![Column::new("a", Type::Int(64))] };
    let batch = batch_of(&schema, vec![Arc::new(arrow::array::Int64Array::from(vec![None, Some(1), None, None]))]);
    for path in ["one.csv", "one.ndjson", "one.parquet"] {
        let sink = folder.sink(to(path));
        loads::load(&sink, "run 1", &schema, &batch).await.expect(path);
        let (rows, _) = loads::read(&folder.source(from(path)), ReadRequest::default(), 1).await.expect(path);
        assert_eq!(rows.column(0).as_primitive::<arrow::datatypes::Int64Type>().null_count(), 3, "{path}");
        assert_eq!(rows.num_rows(), 4, "{path}");
    }
}

#[tokio::test]
async fn a_load_without_rows_leaves_a_readable_file() {
    let folder = Folder::new();
    let (schema, _) = loads::ids(0..0, "x");
    for path in ["none.csv", "none.csv.gz", "none.parquet"] {
        let sink = folder.sink(to(path));
        let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect(path);
        sink.publish(&load).await.expect(path);
        let described = folder.source(from(path)).describe().await.expect(path);
        assert_eq!(described.schema.columns.len(), 2, "{path}");
        assert_eq!(described.rows, Some(0), "{path}");
    }
}
