//! Writing: what a plan says, marks, claims, upserts.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use haul::connectors::{FoundLoad, Load, Sink};
use haul::data::{Column, Grade, Schema, Type};
use haul::define::pipeline::{SchemaMode, SqlSink, Verify, WriteMode};
use haul::failure::FailureKind;

use super::{Database, assert_nothing_left, spec, upsert};
use crate::support::loads::{self, assert_same_rows, ids};

/// The codes and messages of a plan's problems.
async fn problems(sink: &Arc<dyn Sink>, schema: &Schema) -> Vec<String> {
    let problems = sink.plan(schema).await.expect("a plan").expect_err("problems");
    problems.into_iter().map(|problem| format!("{}: {}", problem.code, problem.message)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_says_what_would_happen() {
    let database = Database::new();
    let (schema, _) = loads::awkward_batch(&[Type::Decimal(15, 2), Type::UInt(64), Type::Enum(vec!["a".to_owned()].into())], 1);
    let target = |spec: SqlSink| {
        let (database, schema) = (&database, &schema);
        async move { database.sink_of(spec).plan(schema).await.expect("a plan").expect("no problems") }
    };
    let plain = target(SqlSink { primary_key: Some(vec!["id".to_owned()]), ..spec("s.t") });
    database.sql("create schema s");
    let plain = plain.await;
    assert_eq!(plain.ddl, ["create table \"s\".\"t\" (\"id\" bigint not null, \"c0\" numeric(15,2), \"c1\" numeric(20,0), \"c2\" text)"]);
    assert!(!plain.exists && plain.writers > 1 && !plain.whole);
    let grades: Vec<Grade> = plain.columns.iter().map(|mapped| mapped.grade).collect();
    assert_eq!(grades, [Grade::Exact, Grade::Exact, Grade::Widened, Grade::Widened]);
    let keyed = target(SqlSink { mode: upsert(&["id"]), ..spec("s.t") }).await;
    assert!(keyed.ddl[0].ends_with("primary key (\"id\"))"), "{:?}", keyed.ddl);

    database.sql("create table s.t (id bigint, c0 numeric(15,2), c1 bigint)");
    let evolved = target(SqlSink { schema: SchemaMode::Evolve, ..spec("s.t") }).await;
    assert_eq!(evolved.ddl, ["alter table \"s\".\"t\" add column \"c2\" text"]);
    assert_eq!(evolved.columns[2].grade, Grade::Lossy);
    let replaced = target(SqlSink { schema: SchemaMode::Evolve, mode: WriteMode::Replace, ..spec("s.t") }).await;
    assert_eq!(replaced.ddl.len(), 2);
    assert!(replaced.guarantee.contains("takes the target's place"), "{}", replaced.guarantee);
    assert_eq!(database.sql("select count(*) from pg_class where relname like 'haul%'"), "0", "a plan changes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_problem_of_a_target_is_named_at_once() {
    let database = Database::new();
    database.sql(
        "create table t (id bigint, name date, needed text not null, filled text not null default '', made bigint generated always as (id * 2) stored);
         create view v as select 1 as id; create role reader login; grant select on t to reader",
    );
    let (schema, _) = ids(0..1, "x");
    let more = Schema { columns: schema.columns.iter().cloned().chain([Column::new("extra", Type::Text)]).collect() };
    let found = problems(&database.sink("t", upsert(&["id", "nope"])), &more).await;
    assert_eq!(
        found,
        [
            "target-type: column `name`: text does not fit date",
            "target-columns: `public.t` has no column `extra`",
            "target-columns: `public.t` needs a value in `needed`, and none comes",
            "target-key: the key's column `nope` does not come in",
            "target-key: `public.t` does not keep id, nope unique, which an upsert needs",
        ]
    );
    assert_eq!(problems(&database.sink("v", WriteMode::Append), &schema).await, ["target-kind: `public.v` is a view, not a table"]);
    let required = database.sink_of(SqlSink { schema: SchemaMode::Require, ..spec("missing") });
    assert_eq!(problems(&required, &schema).await, ["target-missing: there is no table `public.missing`"]);
    assert_eq!(problems(&database.sink("nope.t", WriteMode::Append), &schema).await, ["target-schema: there is no schema `nope`"]);

    database.sql("create table u (id bigint, name text); grant select on u to reader");
    let reader = super::server(&database.url.replace("postgres@", "reader@")).expect("a server");
    let found = problems(&reader.sink(&spec("u")), &schema).await;
    assert_eq!(
        found,
        [
            "target-privilege: this role may not create tables in the schema \"public\"",
            "target-privilege: this role may not insert on \"public\".\"u\""
        ]
    );

    database.sql(
        "grant create on schema public to reader; create table w (id bigint); grant select, insert on w to reader;
         alter table w enable row level security; create policy sees on w for select using (id > 0)",
    );
    let evolve = SqlSink { schema: SchemaMode::Evolve, ..spec("w") };
    let found = problems(&reader.sink(&evolve), &schema).await;
    assert_eq!(
        found,
        [
            "target-privilege: policies apply to this role on `public.w`, and COPY cannot write through them",
            "target-privilege: only the owner of `public.w` may add columns to it"
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_goes_on_where_it_stopped() {
    for mode in [WriteMode::Append, WriteMode::Replace, upsert(&["id"])] {
        let database = Database::new();
        let (schema, first) = ids(0..10, "a");
        let (_, second) = ids(10..30, "a");
        let sink = database.sink("t", mode.clone());
        let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
        loads::write(&sink, &load, "0000", &first).await.expect("a commit");
        // The worker dies in the middle of the next split.
        let mut writer = sink.writer(&load, "0001", None).await.expect("a writer");
        writer.write(second.clone()).await.expect("a write");
        drop((writer, sink));

        let sink = super::server(&database.url).expect("a server").sink(&SqlSink { mode: mode.clone(), ..spec("t") });
        let claim = sink.claim(&loads::key("run 2")).await.expect("a claim");
        let found = claim.found.expect("the load");
        assert_eq!((found.run.as_str(), found.note.as_str(), found.published), ("run 1", "a note", false));
        assert_eq!(found.marks, [loads::mark("0000", &first)]);
        let load = Load { key: loads::key("run 2"), epoch: claim.epoch, schema: schema.clone(), verify: Verify::Digest };
        assert_eq!(loads::write(&sink, &load, "0000", &first).await.expect("a split that is there"), 10);
        loads::write(&sink, &load, "0001", &second).await.expect("a commit");
        sink.publish(&load).await.expect("a publication");
        sink.publish(&load).await.expect("a second publication");
        assert_eq!(database.sql("select count(*), count(distinct id) from t"), "30|30", "{mode:?}");

        // The same run finds it published; the next one finds nothing, and adds its rows to those that are there.
        let claim = sink.claim(&loads::key("run 2")).await.expect("a claim");
        assert!(matches!(claim.found, Some(FoundLoad { published: true, .. })));
        let claim = sink.claim(&loads::key("run 3")).await.expect("a claim");
        assert!(claim.found.is_none() && claim.left_behind == 0);
        assert_nothing_left(&database);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_of_another_plan_is_not_gone_on_with() {
    let database = Database::new();
    let (schema, batch) = ids(0..10, "a");
    for (mode, left) in [(WriteMode::Append, 10), (WriteMode::Replace, 0)] {
        let sink = database.sink(&format!("t{left}"), mode);
        let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
        loads::write(&sink, &load, "0000", &batch).await.expect("a commit");
        let mut key = loads::key("run 1");
        key.plan_hash = "plan 2".to_owned();
        let claim = sink.claim(&key).await.expect("a claim");
        assert!(claim.found.is_none());
        assert_eq!(claim.left_behind, left);
        sink.abandon(&key).await.expect("an end");
        sink.abandon(&key).await.expect("a second end");
        assert_eq!(database.sql("select count(*) from pg_class where relname like 'haul_stage%'"), "0");
        assert!(sink.claim(&loads::key("run 1")).await.expect("a claim").found.is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_is_committed_once_and_only_by_the_newest_worker() {
    let database = Database::new();
    let sink = database.sink("t", WriteMode::Append);
    let (schema, batch) = ids(0..10, "a");
    let first = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
    // Two workers with the same split at the same time: one of them writes it.
    let write = || loads::write(&sink, &first, "0000", &batch);
    let (one, two) = futures::future::join(write(), write()).await;
    assert_eq!((one.expect("a commit"), two.expect("a commit")), (10, 10));
    assert_eq!(write().await.expect("a third commit"), 10);
    assert_eq!(database.sql("select count(*) from t"), "10");

    // A newer claim refuses what an older worker had begun, and what it begins.
    let mut begun = sink.writer(&first, "0001", None).await.expect("a writer");
    begun.write(batch.clone()).await.expect("a write");
    let again = database.sink("t", WriteMode::Append);
    again.claim(&loads::key("run 1")).await.expect("a claim");
    let failure = begun.commit(loads::mark("0001", &batch)).await.expect_err("an older worker");
    assert_eq!(failure.kind, FailureKind::Fenced);
    let failure = loads::write(&sink, &first, "0002", &batch).await.expect_err("an older worker");
    assert_eq!(failure.kind, FailureKind::Fenced);
    assert_eq!(sink.publish(&first).await.expect_err("an older worker").kind, FailureKind::Fenced);
    assert_eq!(sink.prepare(&first, "").await.expect_err("an older worker").kind, FailureKind::Fenced);
    assert_eq!(database.sql("select count(*) from t"), "10");
    assert_nothing_left(&database);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upsert_keeps_the_last_row_of_a_key() {
    let database = Database::new();
    database.sql("create table t (id bigint primary key, name text, kept text default 'default'); insert into t values (1, 'old', 'mine'), (9, 'other', 'mine')");
    let sink = database.sink("t", upsert(&["id"]));
    let (schema, _) = ids(0..1, "");
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![3, 1, 2, 1, 3, 1]));
    let names: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c", "d", "e", "f"]));
    let batch = loads::batch_of(&schema, vec![ids, names]);
    let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
    assert_eq!(loads::write(&sink, &load, "all", &batch).await.expect("a commit"), 3);
    sink.publish(&load).await.expect("a publication");
    assert_eq!(database.sql("select * from t order by id"), "1|f|mine\n2|c|default\n3|e|default\n9|other|mine");

    let nulls = Schema { columns: vec![Column::new("id", Type::Int(64)), Column::new("name", Type::Text)] };
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![None, Some(4)]));
    let names: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    let batch = loads::batch_of(&nulls, vec![ids, names]);
    let load = loads::begin(&sink, &loads::key("run 2"), &nulls).await.expect("a load");
    let failure = loads::write(&sink, &load, "all", &batch).await.expect_err("a row without a key");
    assert_eq!(failure.kind, FailureKind::BadRows);
    assert_eq!(database.sql("select count(*) from t"), "4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upsert_that_the_target_changes_is_rolled_back() {
    let database = Database::new();
    database.sql(
        "create table t (id bigint primary key, name text);
         create function meddle() returns trigger language plpgsql as $$ begin if new.id in (3, 7) then new.name := 'other'; end if; return new; end $$;
         create trigger meddle before insert or update on t for each row execute function meddle()",
    );
    let (schema, batch) = ids(0..10, "a");
    let sink = database.sink("t", upsert(&["id"]));
    let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
    let failure = loads::write(&sink, &load, "all", &batch).await.expect_err("a trigger");
    assert!(failure.message.ends_with("of them: 3 7"), "{failure}");
    assert_eq!(database.sql("select count(*) from t"), "0");
    let counting = Load { verify: Verify::Count, ..load };
    loads::write(&sink, &counting, "all", &batch).await.expect("rows are not compared when that is not asked for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_identity_and_serial_columns() {
    let database = Database::new();
    database.sql(
        "create table t (id bigint generated always as identity primary key, name text, twice text generated always as (name || name) stored, n serial);
         insert into t (name) values ('there')",
    );
    let schema =
        Schema { columns: vec![Column::new("id", Type::Int(64)), Column::new("name", Type::Text), Column::new("twice", Type::Text)] };
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![40, 41]));
    let names: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    let twice: ArrayRef = Arc::new(StringArray::from(vec!["aa", "bb"]));
    let batch = loads::batch_of(&schema, vec![ids, names, twice]);
    for (mode, expected) in [
        (WriteMode::Append, "1|there|therethere|1\n40|a|aa|2\n41|b|bb|3"),
        (upsert(&["id"]), "1|there|therethere|1\n40|a|aa|2\n41|b|bb|3"),
        (WriteMode::Replace, "40|a|aa|6\n41|b|bb|7"),
    ] {
        let sink = database.sink("t", mode.clone());
        let target = sink.plan(&schema).await.expect("a plan").expect("no problems");
        assert!(target.wire.is_none() && target.columns[2].reason.contains("computed by the target"));
        let load = loads::load(&sink, &format!("{mode:?}"), &schema, &batch).await.unwrap_or_else(|failure| panic!("{mode:?}: {failure}"));
        assert_eq!(database.sql("select * from t order by id"), expected, "{mode:?}");
        if mode == WriteMode::Replace {
            assert_same_rows(&loads::read_back(&sink, &load).await.expect("the rows"), &batch);
        }
    }
    assert_eq!(database.sql("insert into t (name) values ('next') returning id, n"), "42|8", "sequences go on behind what was written");
    assert_eq!(
        database.sql("select pg_get_serial_sequence('t', 'id'), pg_get_serial_sequence('t', 'n')"),
        "public.t_id_seq|public.t_n_seq"
    );
}
