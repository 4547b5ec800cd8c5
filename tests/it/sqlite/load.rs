//! Splits, marks and claims: what is committed, once, and by whom.

use super::{File, spec, upsert};
use crate::support::loads::{self};
use arrow::compute::concat_batches;
use haul::connectors::{Load, LoadKey, Mark};
use haul::data::{Column, Digest, Schema, Type};
use haul::define::pipeline::{SqlSink, Verify, WriteMode};
use haul::failure::FailureKind;

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
async fn an_upsert_keeps_the_last_row_of_a_key_and_proves_it() {
    let file = File::new();
    file.execute("create table orders (id integer primary key, name text); insert into orders values (1, 'old'), (99, 'kept');");
    let sink = file.sink("orders", upsert(&["id"]));
    let (schema, first) = loads::ids(0..3, "first");
    let (_, last) = loads::ids(1..4, "last");
    let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
    let both = concat_batches(&schema.to_arrow(), [&first, &last]).expect("one batch");
    let mut writer = sink.writer(&load, "all", None).await.expect("a writer");
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
async fn a_split_larger_than_memory_is_gathered_outside_the_database() {
    let file = File::new();
    file.execute("create table orders (id integer primary key, name text)");
    let sink = file.sink("orders", WriteMode::Append);
    let (schema, _) = loads::ids(0..1, "");
    let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
    let mut digest = Digest::default();
    let batches: Vec<_> = (0..5).map(|part| loads::ids(part * 100..part * 100 + 100, &"x".repeat(100_000)).1).collect();
    for keep in [false, true] {
        let mut writer = sink.writer(&load, "all", None).await.expect("a writer");
        for batch in &batches {
            writer.write(batch.clone()).await.expect("written");
            // Nobody is kept out while rows are gathered.
            file.execute("create table if not exists other (x); insert into other values (1);");
        }
        if keep {
            digest += batches.iter().map(loads::digest).sum();
            let committed =
                writer.commit(Mark { split: "all".to_owned(), rows: 500, digest, rejects: 0, position: None }).await.expect("committed");
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
        writers.push(sink.writer(&load, "all", None).await.expect("a writer"));
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
