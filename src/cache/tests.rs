//! Races and times that no run from outside could bring about on purpose.

use std::collections::BTreeMap;

use arrow::array::{AsArray, Int64Array, StringArray};
use arrow::datatypes::Int64Type;

use super::*;
use crate::connectors::{Connections, Load, LoadKey, Mark};
use crate::data::{Column, Type};
use crate::define::pipeline::{CacheLoad, Connection, Engine, Limits, Pipeline, Verify};
use crate::dialect::Dialect;
use crate::secret::Secret;
use crate::transform::Tally;

const LONG: Duration = Duration::from_secs(60);

/// The settings of a cache of names by id.
fn spec(loads: bool) -> Spec {
    let load = CacheLoad {
        connection: "db".to_owned(),
        query: format!("select id, name from customers where id in ({})", CacheLoad::KEYS),
        dialect: Dialect::Sqlite,
        batch: 2,
        linger: Duration::ZERO,
        at: String::new(),
    };
    Spec {
        key: vec![("id".to_owned(), String::new())],
        ttl: Some(LONG),
        home: None,
        on_backend_error: crate::define::pipeline::OnBackendError::Fail,
        memory_ttl: None,
        load: loads.then_some(load),
        filled: false,
        jitter: 0.0,
        negative_ttl: Some(LONG),
        stale_if_error: Duration::ZERO,
        version: None,
        memory_bytes: 1 << 20,
        refresh: None,
        rate: None,
        min_rows: None,
    }
}

/// A database of customers 1 and 2, and a cache over it.
struct World {
    folder: tempfile::TempDir,
    cache: Arc<Cache>,
}

impl World {
    fn new(spec: &Spec) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = Secret::new(format!("sqlite:{}", folder.path().join("shop.db").display()));
        let connection = Connection {
            name: "db".to_owned(),
            engine: Some(Engine::Sqlite),
            url,
            max_connections: 4,
            http: Default::default(),
            at: String::new(),
        };
        let pipeline = Pipeline {
            name: "p".to_owned(),
            description: None,
            params: Vec::new(),
            connections: BTreeMap::from([("db".to_owned(), connection)]),
            schedule: None,
            stages: Vec::new(),
            limits: Limits { stages: 1, splits: 1, memory: 1 << 20, drain: LONG },
            base: folder.path().to_owned(),
        };
        let connections = Arc::new(Connections::new(&pipeline));
        let origin = spec.load.as_ref().map(|load| Origin::new(load, &connections));
        let cache = Cache::new("customers", spec, &schema(), (vec![0], None), (origin, None)).expect("a cache");
        let world = Self { folder, cache };
        world.sql("create table customers (id bigint primary key, name text); insert into customers values (1, 'Ada'), (2, 'Bob')");
        world
    }

    fn sql(&self, text: &str) {
        let database = rusqlite::Connection::open(self.folder.path().join("shop.db")).expect("the database");
        database.execute_batch(text).expect(text);
    }

    /// What lookups of some ids give, `-` for none.
    async fn find(&self, ids: &[i64], tally: &Tally) -> Result<Vec<String>, Failure> {
        let keys: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
        let looked = self.cache.table().rows.find(&[keys], &[1, 0], tally).await?;
        let (names, found) = (looked.columns[0].as_string::<i32>(), looked.columns[1].as_primitive::<Int64Type>());
        Ok((0..ids.len())
            .map(|row| {
                if looked.found.value(row) {
                    assert_eq!(found.value(row), ids[row], "the row of another key");
                    names.value(row).to_owned()
                } else {
                    "-".to_owned()
                }
            })
            .collect())
    }

    /// The same, one word a key.
    async fn names(&self, ids: &[i64]) -> String {
        self.find(ids, &Tally::default()).await.expect("rows").join(" ")
    }

    fn load(&self, epoch: u64) -> Load {
        let key = LoadKey { pipeline: "p".into(), stage: "customers".into(), output: 0, run: "r".into(), plan_hash: "h".into() };
        Load { key, epoch, schema: schema(), verify: Verify::None }
    }

    /// Changes a row as another stage does.
    async fn change(&self, mode: CacheMode, id: i64, name: &str) {
        let sink = self.cache.sink(mode, None);
        let mut writer = sink.writer(&self.load(1), "all", None).await.expect("a writer");
        writer.write(batch(&[(id, name)])).await.expect("written");
        writer.commit(mark()).await.expect("committed");
    }
}

fn schema() -> Schema {
    Schema { columns: vec![Column::new("id", Type::Int(64)), Column::new("name", Type::Text)] }
}

fn batch(rows: &[(i64, &str)]) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|(id, _)| *id)));
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, name)| *name)));
    RecordBatch::try_new(schema().to_arrow(), vec![ids, names]).expect("a batch")
}

fn mark() -> Mark {
    Mark { split: "all".into(), rows: 1, digest: Default::default(), rejects: 0, position: None }
}

fn count(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(std::sync::atomic::Ordering::Relaxed)
}

#[tokio::test]
async fn what_is_missing_is_loaded_once_and_what_is_nowhere_is_remembered() {
    let world = World::new(&spec(true));
    let tally = Tally::default();
    assert_eq!(world.find(&[1, 9, 1, 2], &tally).await.expect("rows"), ["Ada", "-", "Ada", "Bob"]);
    assert_eq!((count(&tally.keys), count(&tally.misses), count(&tally.loads)), (3, 3, 2), "three keys, two a query");
    world.sql("update customers set name = 'Zoe'; insert into customers values (9, 'Cy')");
    assert_eq!(world.find(&[9, 2, 1], &tally).await.expect("rows"), ["-", "Bob", "Ada"]);
    assert_eq!((count(&tally.hits), count(&tally.negative_hits), count(&tally.loads)), (2, 1, 2));

    let forgetting = World::new(&Spec { negative_ttl: None, ..spec(true) });
    assert_eq!(forgetting.names(&[9]).await, "-");
    forgetting.sql("insert into customers values (9, 'Cy')");
    assert_eq!(forgetting.names(&[9]).await, "Cy");
}

#[tokio::test]
async fn a_row_is_served_for_its_time_and_past_it_only_when_the_origin_fails() {
    let short = Spec { ttl: Some(Duration::from_millis(40)), stale_if_error: LONG, ..spec(true) };
    let world = World::new(&short);
    assert_eq!(world.names(&[1, 2]).await, "Ada Bob");
    world.sql("update customers set name = 'Zoe'");
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(world.names(&[1]).await, "Zoe", "the row's time was over");
    world.sql("drop table customers");
    tokio::time::sleep(Duration::from_millis(60)).await;
    let tally = Tally::default();
    assert_eq!(world.find(&[1, 2], &tally).await.expect("stale rows"), ["Zoe", "Bob"]);
    assert_eq!((count(&tally.stale_served), count(&tally.hits)), (2, 0));
    let failure = world.find(&[1, 5], &tally).await.expect_err("a key that never came");
    assert!(failure.to_string().contains("loading rows of the cache `customers`"), "{failure}");

    let strict = World::new(&Spec { stale_if_error: Duration::ZERO, ..short });
    assert_eq!(strict.names(&[1]).await, "Ada");
    strict.sql("drop table customers");
    tokio::time::sleep(Duration::from_millis(60)).await;
    strict.find(&[1], &tally).await.expect_err("no stale rows are wanted");
}

#[tokio::test]
async fn a_thousand_at_once_that_miss_a_key_ask_for_it_once() {
    let world =
        World::new(&Spec { load: spec(true).load.map(|load| CacheLoad { linger: Duration::from_millis(20), ..load }), ..spec(true) });
    let tally = Tally::default();
    let all = futures::future::join_all((0..1000).map(|_| world.find(&[1, 2], &tally))).await;
    assert!(all.into_iter().all(|found| found.expect("rows") == ["Ada", "Bob"]));
    assert_eq!((count(&tally.loads), count(&tally.coalesced) + count(&tally.hits)), (1, 2 * 999));
}

#[tokio::test]
async fn an_update_during_a_filling_survives_it_and_a_removal_does_too() {
    let world = World::new(&Spec { filled: true, ttl: None, ..spec(false) });
    let sink = world.cache.sink(CacheMode::Fill, None);
    let fill = async |rows: &[(i64, &str)], meanwhile: &[(CacheMode, i64, &str)]| {
        let load = world.load(sink.claim(&world.load(0).key).await.expect("a claim").epoch);
        sink.prepare(&load, "").await.expect("prepared");
        let mut writer = sink.writer(&load, "all", None).await.expect("a writer");
        for (mode, id, name) in meanwhile {
            world.change(*mode, *id, name).await;
        }
        writer.write(batch(rows)).await.expect("written");
        writer.commit(mark()).await.expect("committed");
        sink.publish(&load).await.expect("published");
    };
    fill(&[(1, "old"), (2, "old"), (3, "old")], &[]).await;
    assert_eq!(world.names(&[1, 2, 3, 4]).await, "old old old -");
    world.change(CacheMode::Update, 1, "updated").await;
    assert_eq!(world.names(&[1, 2]).await, "updated old");
    // The filling begins after that update, and before these changes.
    let changes = [(CacheMode::Update, 2, "new"), (CacheMode::Invalidate, 3, ""), (CacheMode::Update, 4, "more")];
    fill(&[(1, "read"), (2, "read"), (3, "read")], &changes).await;
    assert_eq!(world.names(&[1, 2, 3, 4]).await, "read new - more");
}

#[tokio::test]
async fn a_filling_that_is_overtaken_changes_nothing() {
    let world = World::new(&Spec { filled: true, ttl: None, ..spec(false) });
    let sink = world.cache.sink(CacheMode::Fill, None);
    let begin = async || {
        let load = world.load(sink.claim(&world.load(0).key).await.expect("a claim").epoch);
        sink.prepare(&load, "").await.expect("prepared");
        load
    };
    let old = begin().await;
    let mut writer = sink.writer(&old, "all", None).await.expect("a writer");
    writer.write(batch(&[(1, "old")])).await.expect("written");
    let new = begin().await;
    assert_eq!(sink.publish(&old).await.expect_err("fenced").kind, crate::failure::FailureKind::Fenced);
    let mut writer = sink.writer(&new, "all", None).await.expect("a writer");
    assert!(!world.cache.is_warm(), "nothing is seen before all is there");
    writer.write(batch(&[(1, "new")])).await.expect("written");
    sink.publish(&new).await.expect("published");
    assert_eq!(world.names(&[1]).await, "new");
}

#[tokio::test]
async fn a_load_that_began_before_an_update_does_not_overwrite_it() {
    let world = World::new(&spec(true));
    // The load has its row in hand when the update comes.
    let began_us = world.cache.now_us();
    tokio::time::sleep(Duration::from_millis(2)).await;
    world.change(CacheMode::Update, 1, "updated").await;
    let key = world.cache.keys_of(batch(&[(1, "")]).columns()).expect("a key").1.row(0).data().to_vec();
    world.cache.keep(std::slice::from_ref(&key), &batch(&[(1, "late")]), began_us).expect("kept");
    assert_eq!(world.names(&[1]).await, "updated");
    // Nor does one that found nothing.
    world.cache.keep(std::slice::from_ref(&key), &batch(&[]), began_us).expect("kept");
    assert_eq!(world.names(&[1]).await, "updated");
    // A removal is not undone by it either: the key is asked for again.
    world.change(CacheMode::Invalidate, 1, "").await;
    world.cache.keep(&[key], &batch(&[(1, "late")]), began_us).expect("kept");
    assert_eq!(world.names(&[1]).await, "Ada");
}
