use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array, StringArray,
    TimestampMicrosecondArray,
};
use arrow::record_batch::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use futures::{StreamExt, TryStreamExt};

use super::*;
use crate::data::{BatchLimit, BatchStream, Chunk, Column, Reject, Type};
use crate::define::pipeline::{Expr, Mask, Step};
use crate::dialect::Dialect;
use crate::failure::{Failure, FailureKind};
use crate::secret::Secret;

fn expr(sql: &str) -> Expr {
    Expr { sql: sql.to_owned(), written: None, at: "/step".to_owned() }
}

fn filter(sql: &str) -> Step {
    Step::Filter(expr(sql))
}

fn set(columns: &[(&str, &str)]) -> Step {
    Step::Set(columns.iter().map(|(name, sql)| ((*name).to_owned(), expr(sql))).collect())
}

fn query(sql: &str) -> Step {
    Step::Sql(expr(sql))
}

fn names(names: &[&str]) -> Vec<(String, String)> {
    names.iter().map(|name| ((*name).to_owned(), format!("/step/{name}"))).collect()
}

fn cast(casts: &[(&str, Type)]) -> Step {
    Step::Cast(casts.iter().map(|(name, ty)| ((*name).to_owned(), ty.clone(), format!("/step/{name}"))).collect())
}

fn dedupe(key: &[&str]) -> Step {
    Step::Dedupe { key: key.iter().map(|name| (*name).to_owned()).collect(), at: "/step".to_owned() }
}

/// Four orders: NULLs, unicode, every kind of column.
fn orders() -> (Schema, RecordBatch) {
    let column = |name: &str, ty: Type| Column::new(name, ty);
    let schema = Schema {
        columns: vec![
            Column { nullable: false, native: Some("bigint".to_owned()), ..column("id", Type::Int(64)) },
            column("Total", Type::Decimal(12, 2)),
            column("status", Type::Text),
            column("placed_at", Type::TimestampTz),
            column("day", Type::Date),
            column("number", Type::Number),
            column("ref", Type::Uuid),
            column("doc", Type::Json),
            column("paid", Type::Bool),
        ],
    };
    let uuid = [7_u8; 16];
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![1, 2, 3, 4])),
        Arc::new(Decimal128Array::from(vec![Some(1050), None, Some(-99), Some(200)]).with_precision_and_scale(12, 2).expect("decimals")),
        Arc::new(StringArray::from(vec![Some("new"), Some("été"), None, Some("test")])),
        Arc::new(TimestampMicrosecondArray::from(vec![Some(0), Some(i64::MAX), None, Some(1_577_836_800_000_000)]).with_timezone("UTC")),
        Arc::new(Date32Array::from(vec![Some(0), Some(i32::MAX), None, Some(18_262)])),
        Arc::new(StringArray::from(vec![Some("1.5"), Some("NaN"), None, Some("2")])),
        Arc::new(
            FixedSizeBinaryArray::try_from_sparse_iter_with_size([Some(uuid), None, Some(uuid), Some([0; 16])].into_iter(), 16)
                .expect("uuids"),
        ),
        Arc::new(StringArray::from(vec![Some("{\"a\": 1}"), Some("[]"), None, Some("null")])),
        Arc::new(BooleanArray::from(vec![Some(true), Some(false), None, Some(true)])),
    ];
    let batch = RecordBatch::try_new(schema.to_arrow(), columns).expect("a batch");
    (schema, batch)
}

fn inputs(schema: &Schema) -> Vec<InputColumns> {
    vec![InputColumns { name: "orders".to_owned(), schema: schema.clone() }]
}

fn stream(batches: Vec<RecordBatch>) -> BatchStream {
    futures::stream::iter(batches.into_iter().map(|batch| Ok(Chunk::of(batch)))).boxed()
}

async fn compiled(steps: &[Step]) -> Compiled {
    compile(&inputs(&orders().0), steps, None, &Tables::new()).await.unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// Runs steps over the orders, one step on each input batch where it can; the rows and the rejects.
async fn ran(steps: &[Step]) -> (Vec<RecordBatch>, Vec<Reject>) {
    let compiled = compiled(steps).await;
    let spill = tempfile::tempdir().expect("a folder");
    let (_, batch) = orders();
    // Two batches, the second one empty in between.
    let batches = vec![batch.slice(0, 2), batch.slice(0, 0), batch.slice(2, 2)];
    let run = compiled.run(vec![stream(batches)], 64 << 20, BatchLimit::default(), spill.path()).expect("a stream");
    let chunks: Vec<Chunk> = run.try_collect().await.expect("rows");
    for chunk in &chunks {
        assert_eq!(chunk.batch.schema(), compiled.schema().to_arrow());
    }
    let rejects = chunks.iter().flat_map(|chunk| chunk.rejects.clone()).collect();
    (chunks.into_iter().map(|chunk| chunk.batch).collect(), rejects)
}

async fn check(steps: &[Step], expected: &[&str]) {
    let (batches, rejects) = ran(steps).await;
    assert_eq!(rejects, []);
    let shown = pretty_format_batches(&batches).expect("a table").to_string();
    let rows: Vec<&str> = shown.lines().filter(|line| line.starts_with('|')).skip(1).collect();
    let rows: Vec<String> = rows.iter().map(|row| row.split('|').map(str::trim).collect::<Vec<_>>().join("|")).collect();
    assert_eq!(rows, expected, "{steps:?}");
}

#[tokio::test]
async fn filters_keep_true_rows_only() {
    check(&[filter("status <> 'test'"), Step::Select(names(&["id", "status"]))], &["|1|new|", "|2|été|"]).await;
    check(&[filter("orders.id in (1, 3) and input.PAID is not false"), Step::Select(names(&["id"]))], &["|1|", "|3|"]).await;
    check(&[filter("id > 100")], &[]).await;
    check(&[filter("ref = '07070707-0707-0707-0707-070707070707'"), Step::Select(names(&["id"]))], &["|1|", "|3|"]).await;
    check(&[filter("\"Total\" > 2"), Step::Select(names(&["id"]))], &["|1|"]).await;
}

#[tokio::test]
async fn columns_are_chosen_dropped_and_renamed() {
    let steps = [
        Step::Select(names(&["ref", "total", "ID", "doc"])),
        Step::Drop(names(&["ref"])),
        Step::Rename(vec![("Total".to_owned(), "id".to_owned(), "/a".to_owned()), ("id".to_owned(), "Total".to_owned(), "/b".to_owned())]),
    ];
    check(&steps, &["|10.50|1|{\"a\": 1}|", "||2|[]|", "|-0.99|3||", "|2.00|4|null|"]).await;
    let compiled = compiled(&steps).await;
    let types: Vec<String> = compiled.schema().columns.iter().map(|column| format!("{} {}", column.name, column.ty)).collect();
    assert_eq!(types, ["id decimal(12,2)", "Total int64", "doc json"]);
    assert_eq!(compiled.schema().columns[1].native.as_deref(), Some("bigint"));
    assert_eq!(compiled.describe(), ["select: ref, total, ID, doc", "drop: ref", "rename: Total → id, id → Total"]);
}

#[tokio::test]
async fn set_sees_the_columns_as_they_were() {
    let steps = [
        set(&[
            ("id", "id + 1"),
            ("cents", "cast(total * 100 as bigint)"),
            ("old", "id"),
            ("shout", "upper(status) || '!'"),
            ("same", "doc"),
        ]),
        Step::Select(names(&["id", "old", "cents", "shout", "same"])),
    ];
    check(&steps, &["|2|1|1050|NEW!|{\"a\": 1}|", "|3|2||ÉTÉ!|[]|", "|4|3|-99|||", "|5|4|200|TEST!|null|"]).await;
    let types: Vec<Type> = compiled(&steps).await.schema().columns.iter().map(|column| column.ty.clone()).collect();
    assert_eq!(types, [Type::Int(64), Type::Int(64), Type::Int(64), Type::Text, Type::Json]);
}

#[tokio::test]
async fn instants_are_compared_in_microseconds() {
    // 9999 is beyond what nanoseconds reach; infinity is greater than all of them.
    check(&[filter("placed_at < '9999-12-31'"), Step::Select(names(&["id"]))], &["|1|", "|4|"]).await;
    check(&[filter("placed_at >= DATE '2020-01-01'"), Step::Select(names(&["id"]))], &["|2|", "|4|"]).await;
    check(&[filter("placed_at between timestamp '1000-01-01' and '2020-01-01T00:00:00Z'"), Step::Select(names(&["id"]))], &["|1|", "|4|"])
        .await;
    check(&[filter("day > placed_at"), Step::Select(names(&["id"]))], &[]).await;
    check(&[filter("day >= timestamp '9999-12-31' and cast(day as timestamptz) = placed_at"), Step::Select(names(&["id"]))], &["|2|"])
        .await;
    check(
        &[query("select id from orders where day > timestamp '2019-01-01' and coalesce(placed_at, day) = day order by id")],
        &["|2|", "|4|"],
    )
    .await;
    let steps = [set(&[("t", "cast('9999-12-31 23:59:59.123456' as timestamp)")]), Step::Select(names(&["t"]))];
    let all = ["|9999-12-31T23:59:59.123456|"; 4];
    check(&steps, &all).await;
    for (sql, ty) in [
        ("cast('2026-01-31T10:00:00Z' as timestamptz)", Type::TimestampTz),
        ("timestamp with time zone '2026-01-31'", Type::TimestampTz),
        ("cast(placed_at as timestamp)", Type::Timestamp),
        ("cast(day as timestamptz)", Type::TimestampTz),
        ("to_timestamp(id)", Type::Timestamp),
    ] {
        let steps = [set(&[("t", sql)]), Step::Select(names(&["t"]))];
        assert_eq!(compiled(&steps).await.schema().columns[0].ty, ty, "{sql}");
        let steps = [query(&format!("select {sql} as t from orders"))];
        assert_eq!(compiled(&steps).await.schema().columns[0].ty, ty, "{sql}");
    }
}

#[tokio::test]
async fn casts_are_exact_or_reject() {
    let steps = [
        cast(&[
            ("id", Type::Text),
            ("total", Type::Number),
            ("number", Type::Float(64)),
            ("ref", Type::Text),
            ("day", Type::Timestamp),
            ("paid", Type::Int(8)),
        ]),
        Step::Select(names(&["id", "total", "number", "ref", "paid"])),
    ];
    check(
        &steps,
        &[
            "|1|10.50|1.5|07070707-0707-0707-0707-070707070707|1|",
            "|2||NaN||0|",
            "|3|-0.99||07070707-0707-0707-0707-070707070707||",
            "|4|2.00|2.0|00000000-0000-0000-0000-000000000000|1|",
        ],
    )
    .await;
    let (batches, rejects) = ran(&[cast(&[("total", Type::Int(32))]), Step::Select(names(&["id", "Total"]))]).await;
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
    assert_eq!(
        rejects.iter().map(|reject| format!("{} {}", reject.origin, reject.reason)).collect::<Vec<_>>(),
        ["id=1 `Total`: `10.50` is no int32", "id=3 `Total`: `-0.99` is no int32"]
    );
    assert_eq!(
        rejects[0].row,
        "{\"id\":1,\"Total\":\"10.50\",\"status\":\"new\",\"placed_at\":\"1970-01-01T00:00:00Z\",\"day\":\"1970-01-01\",\"number\":\"1.5\",\
         \"ref\":\"07070707-0707-0707-0707-070707070707\",\"doc\":\"{\\\"a\\\": 1}\",\"paid\":true}"
    );
    assert!(rejects[1].row.contains("\"status\":null"));
}

#[tokio::test]
async fn every_text_is_read_exactly_or_refused() {
    let read = |text: &str, ty: Type| {
        let array: ArrayRef = Arc::new(StringArray::from(vec![text]));
        values::cast(&array, &Type::Text, &ty).and_then(|array| values::text(&array, &ty)).map(|texts| texts.value(0).to_owned())
    };
    let fits = |text: &str, ty: Type, expected: &str| assert_eq!(read(text, ty).as_deref(), Ok(expected), "{text}");
    let refused = |text: &str, ty: Type| assert!(read(text, ty.clone()).is_err_and(|said| said.contains(text)), "{text} {ty}");
    fits("12.30", Type::Decimal(12, 2), "12.30");
    fits("-0012.3000", Type::Decimal(4, 2), "-12.30");
    fits(&"9".repeat(76), Type::Decimal(76, 0), &"9".repeat(76));
    fits("infinity", Type::Date, "infinity");
    fits("-infinity", Type::TimestampTz, "-infinity");
    fits("2020-02-29", Type::Date, "2020-02-29");
    fits("0001-01-01", Type::Date, "0001-01-01");
    fits("2020-01-01T00:00:00+02:00", Type::TimestampTz, "2019-12-31T22:00:00Z");
    fits("2020-01-01 00:00:00", Type::TimestampTz, "2020-01-01T00:00:00Z");
    fits("2020-01-01", Type::Timestamp, "2020-01-01T00:00:00");
    fits("2020-01-01 00:00:00.1234560", Type::Timestamp, "2020-01-01T00:00:00.123456");
    fits("23:59:59.5", Type::Time, "23:59:59.5");
    fits("24:00:00", Type::Time, "24:00:00");
    fits("\\xFF00", Type::Bytes, "\\xff00");
    fits("{\"b\":1, \"a\":2}", Type::Json, "{\"b\":1, \"a\":2}");
    fits("-Infinity", Type::Number, "-Infinity");
    fits("9223372036854775807", Type::Int(64), "9223372036854775807");
    fits("9007199254740992", Type::Float(64), "9007199254740992");
    fits("0.10", Type::Float(32), "0.1");
    fits("-Infinity", Type::Float(32), "-Infinity");
    for (text, ty) in [
        ("12.345", Type::Decimal(12, 2)),
        ("123", Type::Decimal(4, 2)),
        ("1e3", Type::Decimal(12, 2)),
        ("9223372036854775808", Type::Int(64)),
        ("-1", Type::UInt(64)),
        ("1.0", Type::Int(64)),
        ("2020-02-30", Type::Date),
        ("2020-01-01 10:00:00", Type::Date),
        ("2024-03-31 23:30:00-05:00", Type::Date),
        ("2020-01-01 00:00:00.1234567", Type::Timestamp),
        ("2020-01-01 00:00:00+02:00", Type::Timestamp),
        ("2020-01-01 00:00:00.1234567Z", Type::TimestampTz),
        ("05:00:00.1234567", Type::Time),
        ("0530", Type::Time),
        ("not-a-uuid", Type::Uuid),
        ("{", Type::Json),
        ("\\xF", Type::Bytes),
        ("1,5", Type::Number),
        ("9007199254740993", Type::Float(64)),
        ("1e400", Type::Float(64)),
        ("1e-400", Type::Float(64)),
        ("16777217", Type::Float(32)),
        ("1e40", Type::Float(32)),
        ("maybe", Type::Bool),
    ] {
        refused(text, ty);
    }
}

#[tokio::test]
async fn numbers_cast_only_where_nothing_is_lost() {
    let one = |array: ArrayRef, from: Type, to: Type| values::cast(&array, &from, &to).map(drop);
    assert!(one(Arc::new(Int64Array::from(vec![300])), Type::Int(64), Type::Int(8)).is_err());
    assert!(one(Arc::new(Int64Array::from(vec![127])), Type::Int(64), Type::Int(8)).is_ok());
    assert!(one(Arc::new(Float64Array::from(vec![1.5])), Type::Float(64), Type::Int(64)).is_err());
    assert!(one(Arc::new(Float64Array::from(vec![f64::NAN])), Type::Float(64), Type::Int(64)).is_err());
    assert!(one(Arc::new(Int64Array::from(vec![(1 << 53) + 1])), Type::Int(64), Type::Float(64)).is_err());
    assert!(one(Arc::new(Int32Array::from(vec![2])), Type::Int(32), Type::Bool).is_err());
    assert!(one(Arc::new(Int32Array::from(vec![None])), Type::Int(32), Type::Bool).is_ok());
}

#[tokio::test]
async fn bad_values_of_set_and_filter_are_rejected_one_by_one() {
    let (batches, rejects) = ran(&[set(&[("n", "cast(status as int)")])]).await;
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
    let said: Vec<String> = rejects.iter().map(|reject| format!("{} {}", reject.origin, reject.reason)).collect();
    assert_eq!(said[0], "id=1 `n`: cannot cast string 'new' to value of Int32 type");
    assert_eq!(said.len(), 3);
    let (_, rejects) = ran(&[filter("10 / (id - 2) > 0")]).await;
    assert_eq!(rejects.len(), 1);
    assert_eq!((rejects[0].origin.as_str(), rejects[0].reason.as_str()), ("id=2", "`filter`: divide by zero error"));
}

#[tokio::test]
async fn integers_never_wrap() {
    for sql in
        ["id + 9223372036854775805", "-(id - 4 - 9223372036854775807 - 1)", "id * 4611686018427387904", "0 - 9223372036854775807 - id"]
    {
        let (batches, rejects) = ran(&[set(&[("n", sql)])]).await;
        assert!(!rejects.is_empty(), "{sql}");
        assert!(rejects.iter().all(|reject| reject.reason.to_lowercase().contains("overflow")), "{sql}: {rejects:?}");
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>() + rejects.len(), 4, "{sql}");
    }
    for sql in [
        "select id + 9223372036854775805 as n from orders",
        "select sum(id + 4611686018427387900) as n from orders",
        "select sum(id + 4611686018427387900) over (order by id) as n from orders",
        "select sum(distinct id + 4611686018427387900) as n from orders",
        "select sum(distinct id + 4611686018427387900) as n, sum(distinct id) as m from orders",
        "select id % 2 as k, sum(id + 4611686018427387910) as n from orders group by id % 2",
        "select id % 2 as k, sum(cast('99000000000000000000000000000000000000' as decimal(38,0))) as n from orders group by id % 2",
        // Four of them wrap around 128 bits, to a value that has digits to spare.
        "select sum(cast('99000000000000000000000000000000000000' as decimal(38,0))) as n from orders",
        "select sum(cast(concat('9900000000000000000000000000000000000', cast(id as text)) as decimal(38,0))) over () as n from orders",
    ] {
        let compiled = compiled(&[query(sql)]).await;
        let spill = tempfile::tempdir().expect("a folder");
        let run = compiled.run(vec![stream(vec![orders().1])], 64 << 20, BatchLimit::default(), spill.path()).expect("a stream");
        let failure = run.try_collect::<Vec<Chunk>>().await.expect_err(sql);
        assert_eq!(failure.kind, FailureKind::BadRows, "{failure}");
        assert!(failure.to_string().to_lowercase().contains("overflow"), "{failure}");
    }
    check(&[query("select sum(id) as n, sum(id) filter (where id > 9) as none from orders")], &["|10||"]).await;
    let grouped = "select id % 2 as k, sum(id) as n, sum(id) filter (where id > 3) as f from orders group by id % 2 order by k";
    check(&[query(grouped)], &["|0|6|4|", "|1|4||"]).await;
    let decimals = "select id % 2 as k, sum(cast(id as decimal(38,2))) as d from orders group by id % 2 order by k";
    check(&[query(decimals)], &["|0|6.00|", "|1|4.00|"]).await;
    check(
        &[query("select sum(distinct id / 2) as n, sum(distinct id) as m, sum(distinct id % 2) filter (where id > 9) as none from orders")],
        &["|3|10||"],
    )
    .await;
    check(&[query("select sum(id) over (order by id rows 1 preceding) as n from orders order by id")], &["|1|", "|3|", "|5|", "|7|"]).await;
}

#[tokio::test]
async fn masks_hide() {
    let steps = [
        Step::Mask(vec![
            ("status".to_owned(), Mask::Hash { salt: Secret::new("pepper".to_owned()) }, "/a".to_owned()),
            ("doc".to_owned(), Mask::Redact("***".to_owned()), "/b".to_owned()),
            ("id".to_owned(), Mask::Null, "/c".to_owned()),
        ]),
        Step::Select(names(&["id", "status", "doc"])),
    ];
    // printf 'pepper%s' new | sha256sum
    check(
        &steps,
        &[
            "||e5e80f2ddddf231853e5bcc6ce5c41068d23b2f239b78468dc781daeebfb06c7|***|",
            "||7b3fb28175faf2e4615f5745fe58418d6ca733c0999727195e34a4a13e50e27d|***|",
            "||||",
            "||4272aee9383259f3302e0cdda01e0a1351bb9d5de26676bb9fcf492f62169bf9|***|",
        ],
    )
    .await;
    assert!(!format!("{:?}", compiled(&steps).await).contains("pepper"));
}

#[test]
fn syntax_is_checked_without_columns() {
    assert!(check_expression(&expr("anything + 1 > other")).is_ok());
    assert!(check_expression(&expr("a +")).is_err());
    assert!(check_query(&expr("with a as (select 1 as b) select * from a join c using (b)")).is_ok());
    assert!(check_query(&expr("delete from a")).is_err());
}

mod plans;
mod queries;
