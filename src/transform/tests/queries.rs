//! Steps that look at many rows: `sql` and `dedupe`.

use super::*;

#[tokio::test]
async fn dedupe_keeps_the_first_that_arrived() {
    check(&[dedupe(&["REF"]), Step::Select(names(&["id"]))], &["|1|", "|2|", "|4|"]).await;
    check(&[filter("id > 1"), dedupe(&["paid", "ref"]), Step::Select(names(&["id"]))], &["|2|", "|3|", "|4|"]).await;
    let steps = [dedupe(&["ref"])];
    assert_eq!(compiled(&steps).await.schema(), &orders().0);
    assert!(!compiled(&steps).await.rowwise());
}

#[tokio::test]
async fn queries_join_group_and_look_around() {
    check(&[query("select count(*) as n, sum(total) as total, min(placed_at) as first from orders")], &["|4|11.51|1970-01-01T00:00:00Z|"])
        .await;
    check(&[query("select a.id, b.id as other from orders a join orders b on a.ref = b.ref and a.id < b.id order by 1")], &["|1|3|"]).await;
    check(&[query("select id, sum(id) over (order by id) as running from input order by id desc")], &["|4|10|", "|3|6|", "|2|3|", "|1|1|"])
        .await;
    check(
        &[
            filter("id < 4"),
            query("select paid, count(*) as n from input group by paid order by paid nulls last"),
            set(&[("twice", "n * 2")]),
            query("select twice from input where paid is null"),
        ],
        &["|2|"],
    )
    .await;
    check(&[query("select id from orders order by id limit 1")], &["|1|"]).await;
    check(&[query("select id as Nr from orders order by nr limit 1"), Step::Select(names(&["Nr"]))], &["|1|"]).await;
    let compiled = compiled(&[query("select *, doc as copy from orders")]).await;
    let mut expected = orders().0;
    expected.columns.push(Column::new("copy", Type::Json));
    assert_eq!(compiled.schema(), &expected);
}

#[tokio::test]
async fn several_inputs_meet_in_the_first_query() {
    let (schema, batch) = orders();
    let names = Schema { columns: vec![Column::new("Id", Type::Int(64)), Column::new("name", Type::Text)] };
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![1, 3])), Arc::new(StringArray::from(vec!["a", "ç"]))];
    let people = RecordBatch::try_new(names.to_arrow(), columns).expect("a batch");
    let inputs = [InputColumns { name: "orders".to_owned(), schema }, InputColumns { name: "people".to_owned(), schema: names }];
    let sql = "select o.id, p.name from Orders o join people p on o.id = p.\"Id\" order by o.id";
    let compiled = compile(&inputs, &[query(sql)], None, &Tables::new()).await.unwrap_or_else(|problems| panic!("{problems:#?}"));
    let spill = tempfile::tempdir().expect("a folder");
    let streams = vec![stream(vec![batch]), stream(vec![people])];
    let run = compiled.run(streams, 64 << 20, BatchLimit::default(), spill.path()).expect("a stream");
    let chunks: Vec<Chunk> = run.try_collect().await.expect("rows");
    assert_eq!(chunks.iter().map(|chunk| chunk.batch.num_rows()).sum::<usize>(), 2);
    assert!(chunks.iter().map(|chunk| chunk.bytes).sum::<u64>() > 0);
    let unread = compile(&inputs, &[query("select id from orders")], None, &Tables::new()).await.expect_err("an unread input");
    assert_eq!(unread[0].message, "the input `people` is not read by the query");
}

#[tokio::test]
async fn rejects_and_failures_of_the_inputs_come_through_a_query() {
    let compiled = compiled(&[query("select count(*) as n from orders")]).await;
    let spill = tempfile::tempdir().expect("a folder");
    let reject = |number: usize| Reject { origin: format!("a.csv:{number}"), reason: "ragged".to_owned(), row: String::new() };
    let chunks = (0..100).map(move |number| Ok(Chunk { rejects: vec![reject(number)], ..Chunk::of(orders().1) }));
    let run = compiled.run(vec![futures::stream::iter(chunks).boxed()], 64 << 20, BatchLimit::default(), spill.path()).expect("a stream");
    let done: Vec<Chunk> = run.try_collect().await.expect("rows");
    assert_eq!(done.iter().map(|chunk| chunk.rejects.len()).sum::<usize>(), 100);
    assert_eq!(done.iter().map(|chunk| chunk.batch.num_rows()).sum::<usize>(), 1);
    let broken = futures::stream::iter([Ok(Chunk::of(orders().1)), Err(Failure::transient("the connection was lost").help("wait"))]);
    let run = compiled.run(vec![broken.boxed()], 64 << 20, BatchLimit::default(), spill.path()).expect("a stream");
    let failure = run.try_collect::<Vec<Chunk>>().await.expect_err("a failure");
    assert_eq!((failure.kind, failure.to_string().as_str()), (FailureKind::Transient, "the connection was lost"));
    assert_eq!(failure.help.as_deref(), Some("wait"));
}

/// Rows of a fact table, made on the way: ids, a key that repeats, and some text to fill memory.
fn facts(rows: i64) -> BatchStream {
    const BATCH: i64 = 4096;
    let batch = move |start: i64| {
        let end = rows.min(start + BATCH);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(Int64Array::from_iter_values(start..end))),
            ("key", Arc::new(Int64Array::from_iter_values((start..end).map(|id| id * 7919 % 50_000)))),
            ("text", Arc::new(StringArray::from_iter_values((start..end).map(|id| format!("{id:0>64}"))))),
        ];
        RecordBatch::try_from_iter(columns).expect("a batch")
    };
    futures::stream::iter((0..rows).step_by(BATCH as usize).map(move |start| Ok(Chunk::of(batch(start))))).boxed()
}

#[tokio::test]
async fn what_does_not_fit_in_memory_spills() {
    const ROWS: i64 = 120_000;
    const MEMORY: u64 = 8 << 20;
    let schema =
        Schema { columns: vec![Column::new("id", Type::Int(64)), Column::new("key", Type::Int(64)), Column::new("text", Type::Text)] };
    let table = |name: &str| InputColumns { name: name.to_owned(), schema: schema.clone() };
    let sql = "with joined as (select a.id, a.key, b.text from a join b on a.id = b.id),
                    placed as (select *, row_number() over (partition by key order by id) as place from joined)
               select key, count(*) as n, max(place) as places, sum(id) as ids, max(text) as text from placed group by key";
    let spill = tempfile::tempdir().expect("a folder");
    let compiled =
        compile(&[table("a"), table("b")], &[query(sql)], None, &Tables::new()).await.unwrap_or_else(|problems| panic!("{problems:#?}"));
    let mut run = compiled.run(vec![facts(ROWS), facts(ROWS)], MEMORY, BatchLimit::default(), spill.path()).expect("a stream");
    let (mut keys, mut rows, mut ids, mut most) = (0, 0, 0, 0_u64);
    while let Some(chunk) = run.try_next().await.expect("rows") {
        use arrow::array::AsArray;
        use arrow::datatypes::Int64Type;
        most = most.max(bytes_below(spill.path()));
        keys += chunk.batch.num_rows();
        rows += chunk.batch.column(1).as_primitive::<Int64Type>().values().iter().sum::<i64>();
        ids += chunk.batch.column(3).as_primitive::<Int64Type>().values().iter().sum::<i64>();
    }
    assert_eq!((keys, rows, ids), (50_000, ROWS, ROWS * (ROWS - 1) / 2));
    assert!(most > MEMORY, "only {most} bytes were spilled");
    drop(run);
    assert_eq!(bytes_below(spill.path()), 0, "spill files stay behind");
    // The same rows, deduplicated: the first of each key, in the order of arrival, in less memory than their keys take.
    let compiled = compile(&[table("a")], &[dedupe(&["key"])], None, &Tables::new()).await.expect("compiled");
    for (memory, spilled) in [(MEMORY / 4, true), (MEMORY * 8, false)] {
        let mut run = compiled.run(vec![facts(ROWS)], memory, BatchLimit::default(), spill.path()).expect("a stream");
        let (mut ids, mut most) = (Vec::new(), 0);
        while let Some(chunk) = run.try_next().await.expect("rows") {
            use arrow::array::AsArray;
            ids.extend_from_slice(chunk.batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().values());
            most = most.max(bytes_below(spill.path()));
        }
        assert_eq!(ids, (0..50_000).collect::<Vec<i64>>());
        assert_eq!(most > 0, spilled, "{most} bytes were spilled");
    }
    let compiled =
        compile(&[table("a")], &[dedupe(&["key"]), query("select count(*) as n, max(id) as last from input")], None, &Tables::new())
            .await
            .expect("compiled");
    let run = compiled.run(vec![facts(ROWS)], MEMORY, BatchLimit::default(), spill.path()).expect("a stream");
    let chunks: Vec<Chunk> = run.try_collect().await.expect("rows");
    let batches: Vec<RecordBatch> = chunks.into_iter().map(|chunk| chunk.batch).collect();
    let shown = pretty_format_batches(&batches).expect("a table").to_string();
    assert!(shown.contains("| 50000 | 49999 |"), "{shown}");
}

/// Whatever the size of its sides, a join gives the same rows; one with a small side keeps the large one out of memory and off the disk.
#[tokio::test]
async fn joins_with_a_small_side_are_those_without() {
    let schema =
        Schema { columns: vec![Column::new("id", Type::Int(64)), Column::new("key", Type::Int(64)), Column::new("text", Type::Text)] };
    let table = |name: &str| InputColumns { name: name.to_owned(), schema: schema.clone() };
    let joins = [
        "a join b on a.id = b.key",
        "a left join b on a.id = b.key",
        "b left join a on a.id = b.key and a.id > 100",
        "a full join b on a.id = b.key and b.id >= 100",
        "a join b on a.key = b.key left join b as c on a.id = c.id",
    ];
    for join in joins {
        let sql = format!("select a.id, a.text, b.id as other, b.text as more from {join}");
        let compiled = compile(&[table("a"), table("b")], &[query(&sql)], None, &Tables::new())
            .await
            .unwrap_or_else(|problems| panic!("{problems:#?}"));
        let mut seen = Vec::new();
        // In a mebibyte not even a thousand rows are small: both sides are sorted then.
        for (memory, spills) in [(8 << 20, false), (1 << 20, true)] {
            let spill = tempfile::tempdir().expect("a folder");
            let mut run = compiled.run(vec![facts(30_000), facts(1_000)], memory, BatchLimit::default(), spill.path()).expect("a stream");
            let (mut found, mut most) = (Vec::new(), 0);
            while let Some(chunk) = run.try_next().await.expect("rows") {
                most = most.max(bytes_below(spill.path()));
                let shown = pretty_format_batches(&[chunk.batch]).expect("a table").to_string();
                found.extend(shown.lines().skip(3).filter(|line| line.starts_with("| ")).map(|line| line.replace(' ', "")));
            }
            assert_eq!(most > 0, spills, "{join}: {most} bytes were spilled");
            found.sort();
            seen.push(found);
        }
        assert!(seen[0].len() > 500, "{join} gives {} rows", seen[0].len());
        assert!(seen[0] == seen[1], "{join} gives other rows when a side is small");
    }
}

fn bytes_below(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| if entry.path().is_dir() { bytes_below(&entry.path()) } else { entry.metadata().map_or(0, |data| data.len()) })
        .sum()
}

#[tokio::test]
async fn a_query_that_cannot_spill_says_what_it_needs() {
    let schema =
        Schema { columns: vec![Column::new("id", Type::Int(64)), Column::new("key", Type::Int(64)), Column::new("text", Type::Text)] };
    let input = InputColumns { name: "a".to_owned(), schema };
    let compiled = compile(&[input], &[query("select array_agg(text) as all from a")], None, &Tables::new())
        .await
        .unwrap_or_else(|problems| panic!("{problems:#?}"));
    let spill = tempfile::tempdir().expect("a folder");
    let run = compiled.run(vec![facts(200_000)], 4 << 20, BatchLimit::default(), spill.path()).expect("a stream");
    let failure = run.try_collect::<Vec<Chunk>>().await.expect_err("too much");
    assert_eq!(failure.kind, FailureKind::Permanent);
    assert!(failure.to_string().starts_with("the query needs more than the 4194304 bytes it may use"), "{failure}");
    assert!(failure.help.is_some_and(|help| help.contains("limits: memory")));
}

#[tokio::test]
async fn unions_have_what_all_of_their_branches_agree_on() {
    for (sql, ty) in [
        ("select doc as d from orders union all select 'n/a'", Type::Text),
        ("select 'n/a' as d union all select doc from orders", Type::Text),
        ("select status as d from orders union select doc from orders", Type::Text),
        ("select number as d from orders union all select status from orders", Type::Text),
        ("select max(d) as d from (select doc as d from orders union all select status from orders) as t", Type::Text),
        ("select t.d from orders join (select id, doc as d from orders union all select 9, 'x') as t on orders.id = t.id", Type::Text),
        ("select doc as d from orders union all select doc from orders where id > 1 union all select null", Type::Json),
        ("select null as d union all select ref from orders", Type::Uuid),
        ("select ref as d from orders union all select ref from orders", Type::Uuid),
    ] {
        assert_eq!(compiled(&[query(sql)]).await.schema().columns[0].ty, ty, "{sql}");
    }
    for (sql, native) in [
        ("select id from orders union all select id from orders", Some("bigint")),
        ("select id from orders union all select id + 1 from orders", None),
        ("select id from orders union all select 1", None),
    ] {
        assert_eq!(compiled(&[query(sql)]).await.schema().columns[0].native.as_deref(), native, "{sql}");
    }
    check(&[query("select doc from orders where id = 1 union all select 'n/a' where 1 = 1 order by 1")], &["|n/a|", "|{\"a\": 1}|"]).await;
}

#[tokio::test]
async fn queries_compute_with_no_bytes_of_an_engine() {
    let inet = |name: &str| Column {
        native: Some("inet".to_owned()),
        ..Column::new(name, Type::Native { engine: "postgres", name: "inet".to_owned() })
    };
    let table = |name: &str, columns| InputColumns { name: name.to_owned(), schema: Schema { columns } };
    let ips = table("ips", vec![Column::new("id", Type::Int(64)), inet("ip")]);
    let texts = table("texts", vec![Column::new("id", Type::Int(64)), Column::new("ip", Type::Text)]);
    for (sql, both, carried) in [
        ("select ip as address, id + 1 as n from ips where ip is not null", false, true),
        ("select ip from ips union all select ip from ips union all select null", false, true),
        ("select distinct ip from ips", false, true),
        ("select a.id from ips a join ips b using (ip)", false, true),
        ("with t(addr) as (select ip from ips) select * from t", false, true),
        ("with t(addr) as (select ip from ips) select * from t where addr = '10.0.0.1'", false, false),
        ("select * from (select ip from ips) as t(addr) where cast(addr as text) = '10.0.0.1'", false, false),
        ("select id, ip from ips order by 2 limit 1", false, false),
        ("select max(ip) as ip from ips", false, false),
        ("select row_number() over (order by ip) as n from ips", false, false),
        ("select ips.id from ips join texts using (ip)", true, false),
        ("select ips.id from ips natural join texts", true, false),
        ("select ip from ips union all select ip from texts", true, false),
        ("select ip from texts intersect select ip from ips", true, false),
    ] {
        let inputs: Vec<InputColumns> = [ips.clone()].into_iter().chain(both.then(|| texts.clone())).collect();
        let outcome = compile(&inputs, &[query(sql)], None, &Tables::new()).await;
        assert_eq!(outcome.is_ok(), carried, "{sql}: {outcome:?}");
        if let Err(problems) = outcome {
            assert!(problems[0].message.starts_with("only its own engine can compute with column"), "{sql}: {problems:?}");
        }
    }
    for step in [filter("ip = '10.0.0.1'"), cast(&[("ip", Type::Text)]), set(&[("ip", "upper(ip)")])] {
        let problems = compile(std::slice::from_ref(&ips), std::slice::from_ref(&step), None, &Tables::new()).await;
        assert!(problems.is_err_and(|problems| problems[0].message.contains("its own engine")), "{step:?}");
    }
}
