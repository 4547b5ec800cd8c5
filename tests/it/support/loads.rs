//! Loads without an executor: what it does with a source and a sink, step by step, so that a test can stop between any two.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Decimal256Array, FixedSizeBinaryArray, Float32Array, Float64Array,
    Int8Array, Int16Array, Int32Array, Int64Array, IntervalMonthDayNanoArray, ListArray, StringArray, Time64MicrosecondArray,
    TimestampMicrosecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{DataType, IntervalMonthDayNano, i256};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use futures::StreamExt;
use haul::connectors::{Committed, Load, LoadKey, Mark, ReadRequest, Sink, Source, SplitGoal, Writer};
use haul::data::{BatchLimit, BatchStream, Column, Digest, Position, Reject, RowHasher, Schema, Type};
use haul::define::pipeline::Verify;
use haul::failure::Failure;

include!("all_types.rs");

/// Values of a type that copies tend to lose, and a NULL.
pub fn awkward(ty: &Type) -> ArrayRef {
    const WIDEST: &str = "9999999999999999999999999999999999999999999999999999999999999999999999999999";
    match ty {
        Type::Bool => Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
        Type::Int(8) => Arc::new(Int8Array::from(vec![Some(i8::MIN), Some(i8::MAX), None])),
        Type::Int(16) => Arc::new(Int16Array::from(vec![Some(i16::MIN), Some(i16::MAX), None])),
        Type::Int(32) => Arc::new(Int32Array::from(vec![Some(i32::MIN), Some(i32::MAX), None])),
        Type::Int(_) => Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), Some(9_007_199_254_740_993), None])),
        Type::UInt(8) => Arc::new(UInt8Array::from(vec![Some(0), Some(u8::MAX), None])),
        Type::UInt(16) => Arc::new(UInt16Array::from(vec![Some(0), Some(u16::MAX), None])),
        Type::UInt(32) => Arc::new(UInt32Array::from(vec![Some(0), Some(u32::MAX), None])),
        Type::UInt(_) => Arc::new(UInt64Array::from(vec![Some(0), Some(u64::MAX), Some(9_223_372_036_854_775_808), None])),
        Type::Float(32) => Arc::new(Float32Array::from(vec![
            Some(0.1),
            Some(-0.0),
            Some(1.0),
            Some(f32::MAX),
            Some(f32::from_bits(1)),
            Some(f32::NAN),
            Some(f32::INFINITY),
            Some(f32::NEG_INFINITY),
            None,
        ])),
        Type::Float(_) => Arc::new(Float64Array::from(vec![
            Some(0.1 + 0.2),
            Some(-0.0),
            Some(1.0),
            Some(f64::MAX),
            Some(f64::MIN_POSITIVE),
            Some(5e-324),
            Some(f64::NAN),
            Some(f64::INFINITY),
            Some(f64::NEG_INFINITY),
            None,
        ])),
        Type::Decimal(precision, scale) if *precision <= 38 => {
            let most = 10_i128.pow(u32::from(*precision)) - 1;
            let values = vec![Some(110), Some(-1), Some(0), Some(most), Some(-most), None];
            Arc::new(Decimal128Array::from(values).with_precision_and_scale(*precision, *scale).expect("a decimal"))
        }
        Type::Decimal(precision, scale) => {
            let most = i256::from_string(&WIDEST[..*precision as usize]).expect("digits");
            let values = vec![Some(i256::from_i128(-110)), Some(i256::ZERO), Some(most), Some(most.wrapping_neg()), None];
            Arc::new(Decimal256Array::from(values).with_precision_and_scale(*precision, *scale).expect("a decimal"))
        }
        Type::Number => Arc::new(StringArray::from(vec![
            Some("1.10"),
            Some("-0.0000000000000000000000000000000001"),
            Some("123456789012345678901234567890.123456789"),
            Some("NaN"),
            Some("Infinity"),
            Some("-Infinity"),
            None,
        ])),
        Type::Text => Arc::new(StringArray::from(vec![
            Some(""),
            Some(" 007 "),
            Some("007"),
            Some("NULL"),
            Some("\\N"),
            Some("it's \"quoted\", \\ and, split\r\n\tin lines"),
            Some("żółć 日本語 🦀 \u{1F468}\u{200D}\u{1F469}\u{200D}\u{1F467} e\u{301}"),
            None,
        ])),
        Type::Bytes | Type::Native { .. } => {
            Arc::new(BinaryArray::from(vec![Some(&b""[..]), Some(&b"\x00\xff\n"[..]), Some(&b"text"[..]), None]))
        }
        // 44 BC, the year 1 BC, the first of the year 1, an ordinary day, a leap day, the last day of 9999, both infinities.
        Type::Date => Arc::new(Date32Array::from(vec![
            Some(-735_160),
            Some(-719_163),
            Some(-719_162),
            Some(0),
            Some(19_782),
            Some(2_932_896),
            Some(i32::MAX),
            Some(i32::MIN),
            None,
        ])),
        Type::Time => Arc::new(Time64MicrosecondArray::from(vec![Some(0), Some(86_399_999_999), Some(86_400_000_000), Some(1), None])),
        Type::Timestamp => Arc::new(TimestampMicrosecondArray::from(moments())),
        Type::TimestampTz => Arc::new(TimestampMicrosecondArray::from(moments()).with_timezone("UTC")),
        Type::Interval => Arc::new(IntervalMonthDayNanoArray::from(vec![
            Some(IntervalMonthDayNano::new(14, -3, 14_706_500_000_000)),
            Some(IntervalMonthDayNano::new(-14, 3, -1_000)),
            Some(IntervalMonthDayNano::new(0, 0, 0)),
            None,
        ])),
        Type::Uuid => {
            let values = [Some([0; 16]), Some([0xff; 16]), Some(*b"0123456789abcdef"), None];
            Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(values.into_iter(), 16).expect("16 bytes each"))
        }
        Type::Json => Arc::new(StringArray::from(vec![
            Some("{\"b\": 1, \"a\": [1.10, null]}"),
            Some("12345678901234567890.5"),
            Some("\"text\""),
            Some("null"),
            None,
        ])),
        Type::Enum(values) => Arc::new(StringArray::from_iter(values.iter().map(Some).chain([None]))),
        Type::Array(item) => {
            let items = awkward(item);
            let count = i32::try_from(items.len()).expect("few items");
            let DataType::List(field) = ty.to_arrow() else { panic!("an array is a list") };
            let nulls = NullBuffer::from(vec![true, true, false]);
            Arc::new(ListArray::new(field, OffsetBuffer::new(vec![0, count, count, count].into()), items, Some(nulls)))
        }
    }
}

fn moments() -> Vec<Option<i64>> {
    // 44 BC, the first of the year 1, a microsecond before 1970, an ordinary one, one in 9999, both infinities.
    let day = 86_400_000_000;
    vec![
        Some(-735_160 * day),
        Some(-719_162 * day),
        Some(-1),
        Some(1_357_016_400_000_000),
        Some(2_932_896 * day + 1),
        Some(i64::MAX),
        Some(i64::MIN),
        None,
    ]
}

/// One column `id` that counts from 0, and one for each type, `c0`, `c1`, …, whose awkward values repeat over the rows.
pub fn awkward_batch(types: &[Type], rows: usize) -> (Schema, RecordBatch) {
    let mut columns = vec![Column { nullable: false, ..Column::new("id", Type::Int(64)) }];
    let mut arrays: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(0..rows as i64))];
    for (place, ty) in types.iter().enumerate() {
        let values = awkward(ty);
        let places = UInt32Array::from_iter_values((0..rows).map(|row| (row % values.len()) as u32));
        columns.push(Column::new(format!("c{place}"), ty.clone()));
        arrays.push(take(&values, &places, None).expect("places within the values"));
    }
    let schema = Schema { columns };
    let batch = batch_of(&schema, arrays);
    (schema, batch)
}

/// A batch of a schema's Arrow form.
pub fn batch_of(schema: &Schema, arrays: Vec<ArrayRef>) -> RecordBatch {
    let options = RecordBatchOptions::new().with_row_count(arrays.first().map(|array| array.len()));
    RecordBatch::try_new_with_options(schema.to_arrow(), arrays, &options).expect("a batch of the schema")
}

/// The columns `id` and `name` with a row for each id.
pub fn ids(range: std::ops::Range<i64>, name: &str) -> (Schema, RecordBatch) {
    let schema = Schema { columns: vec![Column { nullable: false, ..Column::new("id", Type::Int(64)) }, Column::new("name", Type::Text)] };
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(range.clone().map(|id| format!("{name} {id}"))));
    let batch = batch_of(&schema, vec![Arc::new(Int64Array::from_iter_values(range)), names]);
    (schema, batch)
}

/// The digest of a batch.
pub fn digest(batch: &RecordBatch) -> Digest {
    RowHasher::default().digest(batch)
}

/// The identity of a load of a run.
pub fn key(run: &str) -> LoadKey {
    LoadKey { pipeline: "shop".to_owned(), stage: "orders".to_owned(), output: 0, run: run.to_owned(), plan_hash: "plan 1".to_owned() }
}

/// The mark of a split of one batch.
pub fn mark(split: &str, batch: &RecordBatch) -> Mark {
    Mark { split: split.to_owned(), rows: batch.num_rows() as u64, digest: digest(batch), rejects: 0, position: None }
}

/// The mark of a split of which these batches are written, and which goes on from a position.
pub fn checkpoint(split: &str, position: &str, batches: &[&RecordBatch]) -> Mark {
    let digest: Digest = batches.iter().map(|batch| digest(batch)).sum();
    Mark { split: split.to_owned(), rows: digest.rows, digest, rejects: 0, position: Some(Position(position.to_owned())) }
}

/// Claims and prepares a load, as its first worker does.
pub async fn begin(sink: &Arc<dyn Sink>, key: &LoadKey, schema: &Schema) -> Result<Load, Failure> {
    let claim = sink.claim(key).await?;
    let load = Load { key: key.clone(), epoch: claim.epoch, schema: schema.clone(), verify: Verify::Digest };
    sink.prepare(&load, "a note").await?;
    Ok(load)
}

/// Writes one split of one batch and commits it.
pub async fn write(sink: &Arc<dyn Sink>, load: &Load, split: &str, batch: &RecordBatch) -> Result<u64, Failure> {
    let mut writer = sink.writer(load, split, None).await?;
    writer.write(batch.clone()).await?;
    Ok(committed(writer, mark(split, batch)).await?.rows)
}

/// Commits as the executor does, which first has the target take everything and say what it refuses: nothing, here.
pub async fn committed(mut writer: Box<dyn Writer>, mark: Mark) -> Result<Committed, Failure> {
    assert_eq!(writer.refused().await?, []);
    writer.commit(mark).await
}

/// Commits a part of a split in the same way.
pub async fn checkpointed(writer: &mut Box<dyn Writer>, mark: Mark) -> Result<Committed, Failure> {
    assert_eq!(writer.refused().await?, []);
    writer.checkpoint(mark).await
}

/// A whole load of one split.
pub async fn load(sink: &Arc<dyn Sink>, run: &str, schema: &Schema, batch: &RecordBatch) -> Result<Load, Failure> {
    let load = begin(sink, &key(run), schema).await?;
    write(sink, &load, "all", batch).await?;
    sink.publish(&load).await?;
    Ok(load)
}

/// Takes a stream to its end: one batch, and what was refused.
pub async fn drain(schema: &Schema, mut stream: BatchStream) -> Result<(RecordBatch, Vec<Reject>), Failure> {
    let (mut batches, mut rejects) = (Vec::new(), Vec::new());
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        assert_eq!(chunk.batch.schema(), schema.to_arrow(), "every batch has the columns that were promised");
        batches.push(chunk.batch);
        rejects.extend(chunk.rejects);
    }
    Ok((concat_batches(&schema.to_arrow(), &batches).expect("batches of one schema"), rejects))
}

/// All rows of a source through one view, over as many splits as it gives.
pub async fn read(source: &Arc<dyn Source>, request: ReadRequest, most: usize) -> Result<(RecordBatch, Vec<Reject>), Failure> {
    let reading = source.open(request).await?;
    let (mut batches, mut rejects) = (Vec::new(), Vec::new());
    for split in reading.splits(SplitGoal { most, bytes: 1 }).await?.splits {
        let (batch, refused) = drain(reading.schema(), reading.read(&split, None).await?).await?;
        batches.push(batch);
        rejects.extend(refused);
    }
    Ok((concat_batches(&reading.schema().to_arrow(), &batches).expect("batches of one schema"), rejects))
}

/// What the sink reads back of a load.
pub async fn read_back(sink: &Arc<dyn Sink>, load: &Load) -> Result<RecordBatch, Failure> {
    let stream = sink.read_back(load, BatchLimit::default()).await?;
    Ok(drain(&load.schema, stream).await?.0)
}

/// The digests of a batch's rows over their values alone, whatever the columns' metadata says.
pub fn values(batch: &RecordBatch) -> Digest {
    let mut digest = Digest::default();
    if batch.num_columns() == 0 {
        return digest;
    }
    let columns: Vec<usize> = (0..batch.num_columns()).collect();
    RowHasher::default().hashes(batch, &columns).for_each(|hash| digest.add_row(hash));
    digest
}

/// Compares rows without regard to their order, and shows the first column in which they differ when both have an order.
#[track_caller]
pub fn assert_same_rows(actual: &RecordBatch, expected: &RecordBatch) {
    if digest(actual) == digest(expected) {
        return;
    }
    for (place, field) in expected.schema().fields().iter().enumerate() {
        let (actual, expected) = (actual.project(&[place]).expect("a column"), expected.project(&[place]).expect("a column"));
        if digest(&actual) != digest(&expected) {
            panic!("column `{}` differs: {:?}\nexpected {:?}", field.name(), actual.column(0), expected.column(0));
        }
    }
    panic!("rows differ though every column holds the same values: {actual:?}\nexpected {expected:?}");
}
