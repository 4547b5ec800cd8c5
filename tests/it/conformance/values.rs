//! Values arrive unchanged: of every type, in tables of every shape.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, StringArray};
use arrow::record_batch::RecordBatch;
use haul::connectors::{Mark, ReadRequest};
use haul::data::{Column, Digest, Grade, Schema, Type};

use super::{System, every_connector, loads};
use crate::support::loads::{assert_same_rows, awkward_batch, batch_of};

every_connector!(awkward_values, no_rows, one_column, a_thousand_columns, a_cell_of_100_mib, names_of_every_kind);

/// Loads a batch and asks for it in every way: back from the sink, and from a source.
async fn arrives(system: &System, schema: &Schema, batch: &RecordBatch) {
    let sink = system.sink(&system.modes[0]);
    let load = loads::begin(&sink, &loads::key("run 1"), schema).await.expect("a load");
    loads::write(&sink, &load, "all", batch).await.expect("a commit");
    assert_same_rows(&system.held(&sink, &load).await, batch);
    sink.publish(&load).await.expect("published");
    assert_same_rows(&system.held(&sink, &load).await, batch);
    let (rows, rejects) = loads::read(&system.source(schema), ReadRequest::default(), 4).await.expect("rows");
    assert_eq!(rejects, []);
    let columns = Schema::from_arrow(&rows.schema()).expect("logical columns").columns;
    assert_eq!(names(&columns), names(&schema.columns));
    // Whatever the source calls a type the sink widened: the columns it calls by the same name hold the same values.
    let same: Vec<usize> = (0..columns.len()).filter(|place| columns[*place].ty == schema.columns[*place].ty).collect();
    for place in same {
        let (found, expected) = (rows.project(&[place]).expect("a column"), batch.project(&[place]).expect("a column"));
        assert_eq!(loads::values(&found), loads::values(&expected), "{found:?}\nexpected {expected:?}");
    }
}

fn names(columns: &[Column]) -> Vec<&str> {
    columns.iter().map(|column| column.name.as_str()).collect()
}

/// In every mode; and what is graded exact is the same type to whoever reads the target next.
pub(super) async fn awkward_values(make: fn() -> System) {
    let mut types = loads::all_types();
    let lacks = make().lacks;
    types.retain(|ty| !lacks(ty));
    let (schema, batch) = awkward_batch(&types, 40);
    arrives(&make(), &schema, &batch).await;
    for mode in make().modes {
        let system = make();
        let sink = system.sink(&mode);
        let target = sink.plan(&schema).await.expect("a plan").expect("no problems");
        for (column, mapped) in schema.columns.iter().zip(&target.columns) {
            assert_ne!(mapped.grade, Grade::Lossy, "{column:?} {mapped:?}");
            assert_eq!(mapped.grade == Grade::Exact, mapped.reason.is_empty(), "a grade has its reason: {mapped:?}");
        }
        let load = loads::load(&sink, "run 1", &schema, &batch).await.expect("a load");
        assert_same_rows(&system.held(&sink, &load).await, &batch);
    }
}

pub(super) async fn no_rows(make: fn() -> System) {
    let (schema, batch) = awkward_batch(&[Type::Text, Type::Date], 0);
    let system = make();
    let sink = system.sink(&system.modes[0]);
    let load = loads::load(&sink, "run 1", &schema, &batch).await.expect("a load");
    assert_eq!(system.held(&sink, &load).await.num_rows(), 0);
    let (rows, rejects) = loads::read(&system.source(&schema), ReadRequest::default(), 4).await.expect("rows");
    assert_eq!((rows.num_rows(), rejects.len()), (0, 0));
}

pub(super) async fn one_column(make: fn() -> System) {
    let schema = Schema { columns: vec![Column::new("only", Type::Text)] };
    let values: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some(""), Some("b"), None]));
    arrives(&make(), &schema, &batch_of(&schema, vec![values])).await;
}

pub(super) async fn a_thousand_columns(make: fn() -> System) {
    let columns = (0..1000).map(|place| Column::new(format!("column_{place}"), Type::Int(32))).collect();
    let schema = Schema { columns };
    let arrays = (0..1000).map(|place| Arc::new(Int32Array::from(vec![Some(place), None, Some(-place)])) as ArrayRef).collect();
    arrives(&make(), &schema, &batch_of(&schema, arrays)).await;
}

pub(super) async fn a_cell_of_100_mib(make: fn() -> System) {
    let schema = Schema { columns: vec![Column::new("id", Type::Int(32)), Column::new("text", Type::Text)] };
    let large = "0123456789abcdef".repeat(100 * 65_536);
    let ids: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["small", &large]));
    let batch = batch_of(&schema, vec![ids, texts]);
    let system = make();
    let sink = system.sink(&system.modes[0]);
    let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
    let mut writer = sink.writer(&load, "all", None).await.expect("a writer");
    writer.write(batch).await.expect("written");
    // Hashing so much takes long in a build for tests: the texts themselves are compared.
    let mark = Mark { split: "all".to_owned(), rows: 2, digest: Digest::default(), rejects: 0, position: None };
    loads::committed(writer, mark).await.expect("a commit");
    sink.publish(&load).await.expect("published");
    let (rows, _) = loads::read(&system.source(&schema), ReadRequest::default(), 1).await.expect("rows");
    let mut found: Vec<&str> = rows.column(1).as_string::<i32>().iter().flatten().collect();
    found.sort_by_key(|text| text.len());
    assert!(found == ["small", &large], "{:?}", found.iter().map(|text| text.len()).collect::<Vec<_>>());
}

pub(super) async fn names_of_every_kind(make: fn() -> System) {
    let names =
        ["select", "UPPER", "Größe", "日本語 🦀", "with space", "quote\"d", "it's", "a.b", "a,b;c", "100%", "$1", "{{ x }}", "-- no", "\\"];
    let schema = Schema { columns: names.iter().map(|name| Column::new(*name, Type::Int(32))).collect() };
    let arrays = (0..names.len() as i32).map(|place| Arc::new(Int32Array::from(vec![place])) as ArrayRef).collect();
    arrives(&make(), &schema, &batch_of(&schema, arrays)).await;
}
