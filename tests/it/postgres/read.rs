//! Reading: splits, snapshots, keys, and connections that end.

use std::collections::BTreeMap;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use futures::StreamExt;
use haul::connectors::{ReadRequest, Source, SplitGoal, Splits};
use haul::data::Digest;
use haul::define::pipeline::{SqlRead, WriteMode};
use haul::failure::FailureKind;

use super::{Database, assert_nothing_left};
use crate::support::loads::{self, awkward_batch};

const MANY: SplitGoal = SplitGoal { most: 7, bytes: 1 };

fn table(name: &str, filter: Option<&str>) -> SqlRead {
    SqlRead::Table { name: vec![name.to_owned()], columns: Vec::new(), filter: filter.map(str::to_owned) }
}

/// How often each `id` comes, over all splits, reading two at a time.
async fn ids(source: &dyn Source, between: impl Fn()) -> (Splits, BTreeMap<i64, u32>) {
    let reading = source.open(ReadRequest { columns: Some(vec!["id".to_owned()]), ..ReadRequest::default() }).await.expect("a reading");
    between();
    let splits = reading.splits(MANY).await.expect("splits");
    let mut seen = BTreeMap::new();
    for split in &splits.splits {
        between();
        let mut stream = reading.read(split, None).await.expect("a stream");
        while let Some(chunk) = stream.next().await {
            for id in chunk.expect("a chunk").batch.column(0).as_primitive::<Int64Type>().values() {
                *seen.entry(*id).or_insert(0) += 1;
            }
        }
    }
    (splits, seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn splits_cover_every_row_of_the_snapshot_once_while_others_write() {
    let database = Database::new();
    database.sql(
        "create table t (id bigint primary key, name text, key uuid, note text);
         insert into t select i, case when i % 10 > 0 then 'Name ' || chr(65 + (i % 60)::int) || i end, gen_random_uuid(), repeat('x', 100) from generate_series(1, 5000) i;
         create table parted (like t) partition by range (id);
         create table parted_1 partition of parted for values from (0) to (2000);
         create table parted_2 partition of parted for values from (2000) to (9000);
         insert into parted select * from t; create view v as select * from t; create materialized view mv as select * from t;
         create table child () inherits (t); insert into child select i, 'child', gen_random_uuid() from generate_series(5001, 5100) i; analyze",
    );
    let churn = || {
        for name in ["t", "parted"] {
            database.sql(&format!("update {name} set note = note || 'y' where id % 3 = 0; insert into {name} select max(id) + 1 from {name}; delete from {name} where id = (select min(id) from {name})"));
        }
    };
    let sources = [
        (database.table("t"), "blocks ", true),
        (database.table("parted"), "blocks ", true),
        (database.table("mv"), "blocks ", true),
        (database.source(table("t", None), Some("id")), "id ", false),
        (database.source(table("v", None), Some("name")), "name ", false),
        (database.source(table("v", None), Some("key")), "key ", false),
        (database.source(SqlRead::Query("select * from t where id > 0".to_owned()), Some("id")), "id ", false),
    ];
    for (source, label, fingerprinted) in sources {
        let before: Vec<i64> = expected(&database, label, &source).await;
        let (splits, seen) = ids(&*source, churn).await;
        assert!(splits.splits.len() > 3 && splits.splits.iter().all(|split| split.label.starts_with(label)), "{splits:?}");
        assert_eq!(splits.fingerprint.is_some(), fingerprinted);
        assert!(seen.values().all(|count| *count == 1), "{label}: rows that came twice");
        assert_eq!(seen.into_keys().collect::<Vec<_>>(), before, "{label}");
    }
    assert_nothing_left(&database);
}

/// The ids there are now, read as one split.
async fn expected(database: &Database, label: &str, source: &std::sync::Arc<dyn Source>) -> Vec<i64> {
    let request = ReadRequest { columns: Some(vec!["id".to_owned()]), ..ReadRequest::default() };
    let (rows, _) = loads::read(source, request, 1).await.unwrap_or_else(|failure| panic!("{label}: {failure}"));
    let mut ids = rows.column(0).as_primitive::<Int64Type>().values().to_vec();
    ids.sort_unstable();
    assert!(ids.len() > 4000 && database.sql("select 1") == "1");
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fingerprint_changes_with_the_rows_and_only_then() {
    let database = Database::new();
    database.sql("create table t (id bigint, name text); insert into t select i, repeat('x', 500) from generate_series(1, 1000) i");
    let source = database.table("t");
    let first = source.open(ReadRequest::default()).await.expect("a reading").splits(MANY).await.expect("splits").fingerprint;
    let again = || async { source.open(ReadRequest::default()).await.expect("a reading").fingerprint().await.expect("a fingerprint") };
    assert!(first.is_some());
    assert_eq!(again().await, first);
    database.sql("vacuum analyze t");
    assert_eq!(again().await, first, "housekeeping moves no rows");
    database.sql("update t set name = 'y' where id = 1");
    assert_ne!(again().await, first);
    let second = again().await;
    database.sql("vacuum full t");
    assert_ne!(again().await, second, "a rewrite moves rows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_columns_and_estimates() {
    let database = Database::new();
    database.sql("create table t (id bigint primary key, a text, b text); insert into t select i, 'a' || i, 'b' from generate_series(1, 100) i; analyze t");
    let read = SqlRead::Table {
        name: vec!["t".to_owned()],
        columns: vec!["b".to_owned(), "id".to_owned()],
        filter: Some("id > 50 -- rest".to_owned()),
    };
    let source = database.source(read, None);
    let described = source.describe().await.expect("a description");
    assert_eq!(described.key, ["id"]);
    assert!(described.rows.is_some_and(|rows| (20..80).contains(&rows)), "{:?}", described.rows);
    let request =
        ReadRequest { columns: Some(vec!["id".to_owned()]), filter: Some("id <= 60 or false".to_owned()), ..ReadRequest::default() };
    let (rows, _) = loads::read(&source, request, 3).await.expect("rows");
    assert_eq!(rows.num_rows(), 10);
    let failure = database.table("T").describe().await.expect_err("no such table");
    assert_eq!((failure.kind, failure.help.as_deref()), (FailureKind::Permanent, Some("did you mean `public.t`?")));
    let failure = database.source(table("t", None), Some("nope")).open(ReadRequest::default()).await.expect("a reading").splits(MANY).await;
    assert!(failure.expect_err("no such column").to_string().contains("no column `nope`"));
    let failure = database.query("select 1 as a, 2 as a").describe().await.expect_err("two columns of one name");
    assert!(failure.to_string().contains("specified more than once"), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_rows_are_the_typed_rows() {
    let database = Database::new();
    let (schema, batch) = awkward_batch(&loads::all_types(), 500);
    loads::load(&database.sink("t", WriteMode::Append), "run 1", &schema, &batch).await.expect("a load");
    let source = database.table("t");
    let described = source.describe().await.expect("a description");
    for (mode, run) in [(WriteMode::Append, "run 2"), (WriteMode::Replace, "run 3"), (super::upsert(&["id"]), "run 4")] {
        database.sql("drop table if exists copy; drop table if exists haul_marks, haul_loads");
        let sink = database.sink("copy", mode.clone());
        let target = sink.plan(&described.schema).await.expect("a plan").expect("no problems");
        assert_eq!(target.wire, described.wire, "{mode:?}");
        assert!(target.wire.is_some());
        let load = loads::begin(&sink, &loads::key(run), &described.schema).await.expect("a load");
        let reading = source.open(ReadRequest::default()).await.expect("a reading");
        let mut sent = Digest::default();
        for split in reading.splits(MANY).await.expect("splits").splits {
            let mut writer = sink.writer(&load, &split.id, None).await.expect("a writer");
            let mut stream = reading.read_raw(&split).await.expect("a stream");
            let mut digest = Digest::default();
            while let Some(chunk) = stream.next().await {
                let chunk = chunk.expect("a chunk");
                digest += chunk.digest;
                writer.write_raw(chunk).await.expect("a write");
            }
            let mark = haul::connectors::Mark { split: split.id.clone(), rows: digest.rows, digest, rejects: 0, position: None };
            assert_eq!(writer.commit(mark).await.expect("a commit").rows, digest.rows);
            sent += digest;
        }
        let mut back = Digest::default();
        let mut stream = sink.read_back_raw(&load).await.expect("a stream");
        while let Some(chunk) = stream.next().await {
            back += chunk.expect("a chunk").digest;
        }
        assert_eq!(back, sent, "{mode:?}");
        sink.publish(&load).await.expect("a publication");
        assert_eq!(
            database.sql(
                "select (select count(*) from copy) || ' ' || (select count(*) from t join copy using (id) where t::text = copy::text)"
            ),
            "500 500"
        );
    }
    assert_nothing_left(&database);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_dropped_leaves_no_session_behind() {
    let database = Database::new();
    database.sql("create table t as select i::bigint as id, repeat('x', 1000) as name from generate_series(1, 100000) i");
    let source = database.table("t");
    let reading = source.open(ReadRequest::default()).await.expect("a reading");
    let split = reading.splits(SplitGoal { most: 1, bytes: 1 }).await.expect("splits").splits.remove(0);
    assert_eq!(split.id, "all");
    let mut typed = reading.read(&split, None).await.expect("a stream");
    typed.next().await.expect("a chunk").expect("a good chunk");
    let mut raw = reading.read_raw(&split).await.expect("a stream");
    raw.next().await.expect("a chunk").expect("a good chunk");
    let busy = "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'haul' and state <> 'idle'";
    assert_eq!(database.sql(busy), "3", "a view and two readers");
    drop((typed, raw));
    // The view stays for other splits, and only it.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while database.sql(busy) != "1" {
        assert!(std::time::Instant::now() < deadline, "readers that were dropped are still there");
    }
    let (whole, _) = loads::drain(reading.schema(), reading.read(&split, None).await.expect("a stream")).await.expect("all rows");
    assert_eq!(whole.num_rows(), 100_000);
    drop(reading);
    assert_nothing_left(&database);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn computed_columns_are_read_as_one_split_and_as_many() {
    let database = Database::new();
    database.sql(
        "create table t (id bigint primary key, twice bigint generated always as (id * 2) stored);
         insert into t select i from generate_series(1, 5000) i; analyze t",
    );
    let source = database.table("t");
    for most in [1, 7] {
        let (rows, _) = loads::read(&source, ReadRequest::default(), most).await.expect("rows");
        let column = |place: usize| rows.column(place).as_primitive::<Int64Type>().values().iter().sum::<i64>();
        assert_eq!((rows.num_rows(), column(0) * 2), (5000, column(1)), "{most}");
    }
}
