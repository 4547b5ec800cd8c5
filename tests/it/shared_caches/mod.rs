//! Caches in Redis, which processes share: real servers, real deaths.

mod outages;
mod races;

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use haul::cache::Cache;
use haul::define::pipeline::{Cache as Spec, CacheHome, CacheMode, Connection, Engine, OnBackendError};
use haul::load::template::Holes;
use haul::secret::Secret;
use haul::transform::Tally;

use crate::support::redis::{self, ask, connect, redis as server};
use crate::support::{Project, Said, golden, loads};

/// Waits until something is so.
#[track_caller]
fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !so() {
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The end of a stage, from what `haul run --json` said.
fn ended(said: &Said, stage: &str) -> serde_json::Value {
    let end = |line: &&str| line.contains("stage_finished") && line.contains(&format!("\"stage\":\"{stage}\""));
    serde_json::from_str(said.stdout.lines().find(end).unwrap_or_else(|| panic!("no end of {stage}: {said:?}"))).expect("JSON")
}

/// Whether a run told this, wherever.
fn told(said: &Said, text: &str) -> bool {
    said.stdout.contains(text) || said.stderr.contains(text)
}

/// Texts out of a SQLite database of the project.
fn rows(project: &Project, database: &str, query: &str) -> Vec<String> {
    let database = rusqlite::Connection::open(project.path(database)).expect("the database");
    let mut statement = database.prepare(query).expect(query);
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).expect("rows");
    rows.collect::<rusqlite::Result<_>>().expect("texts")
}

/// A project over a SQLite database of customers 1 to 3 and a server.
fn project(url: &str, cache: &str, stages: &str) -> Project {
    let project = Project::new();
    let database = rusqlite::Connection::open(project.path("shop.db")).expect("a database");
    database
        .execute_batch(
            "create table customers (id bigint primary key, name text, score double, revision bigint);
             insert into customers values (1, 'Ada', 0.1, 5), (2, null, null, 5), (3, 'Cy:%', -1e300, 5)",
        )
        .expect("customers");
    let text = format!(
        "connections:
  shop: {{ url: 'sqlite:shop.db' }}
  out: {{ url: 'sqlite:out.db' }}
  cache: {{ url: '{url}' }}
defaults: {{ retry: {{ attempts: 1 }} }}
stages:
  customers:
    kind: cache
    key: [id]
    in: {{ redis: cache, key: 'customer:{{{{ id }}}}', as: hash }}
{cache}{stages}"
    );
    project.file("pipelines/p.yaml", text);
    project
}

const ORDERS: &str = "  orders:
    kind: batch
    from: { generate: 5, columns: { id: i } }
    transform:
      - lookup: { cache: customers, on: id, add: { found: id, name: name, score: score } }
      - set: { said: \"id || '|' || coalesce(found::text, '-') || '|' || coalesce(name, '-') || '|' || coalesce(score::text, '-')\" }
      - select: [id, said]
    to: { sql: out, table: orders, mode: replace, primary_key: [id] }
";
const LOAD: &str = "    load: { sql: shop, query: 'select * from customers where id in ({{ keys }})' }\n";
const FROM: &str = "    from: { sql: shop, table: customers }\n";
const FOUND: [&str; 5] = ["0|-|-|-", "1|1|Ada|0.1", "2|2|-|-", "3|3|Cy:%|-1e300", "4|-|-|-"];
const SAID: &str = "select said from orders order by id";

fn keys(connection: &mut ::redis::Connection, pattern: &str) -> Vec<String> {
    let mut keys: Vec<String> = ask(connection, &["KEYS", pattern]);
    keys.sort();
    keys
}

#[test]
fn rows_are_hashes_that_the_next_process_finds() {
    let url = server().fresh_database();
    let project = project(&url, &format!("{LOAD}    negative_ttl: 1m\n    ttl: {{ base: 5m }}\n"), ORDERS);
    let first = project.haul(&["run", "p", "--json"]).expect(0);
    assert_eq!(rows(&project, "out.db", SAID), FOUND);
    assert_eq!(ended(&first, "orders")["lookups"][0]["loads"], 1);
    let mut connection = connect(&url);
    assert_eq!(ask::<Vec<String>>(&mut connection, &["HKEYS", "customer:2"]), ["haul:row", "id", "revision"], "NULL is no field");
    assert_eq!(ask::<String>(&mut connection, &["HGET", "customer:1", "name"]), "Ada");
    let left: i64 = ask(&mut connection, &["PTTL", "customer:1"]);
    assert!((1..=300_000).contains(&left), "{left}");
    let second = project.haul(&["run", "p", "--json"]).expect(0);
    let lookups = &ended(&second, "orders")["lookups"][0];
    let counts: Vec<_> = ["hits", "negative_hits", "misses", "loads"].iter().map(|count| lookups[*count].as_i64()).collect();
    assert_eq!((counts, rows(&project, "out.db", SAID)), (vec![Some(3), Some(2), Some(0), Some(0)], FOUND.map(str::to_owned).to_vec()));

    // Another pipeline that knows other columns takes nothing for its own; it loads.
    let text = project.read("pipelines/p.yaml").replace("select * from customers", "select id, name, score from customers");
    project.file("pipelines/p.yaml", text);
    let third = project.haul(&["run", "p", "--json"]).expect(0);
    assert_eq!(
        (&ended(&third, "orders")["lookups"][0]["loads"], rows(&project, "out.db", SAID)),
        (&1.into(), FOUND.map(str::to_owned).to_vec())
    );
}

#[test]
fn a_filling_is_seen_as_a_whole_and_one_that_dies_leaves_the_old_rows() {
    let url = server().fresh_database();
    let mut connection = connect(&url);
    let project = project(&url, FROM, ORDERS);
    // What others have, however much it looks like a row, is left alone.
    ask::<()>(&mut connection, &["SET", "customer:1@1", "theirs"]);
    ask::<()>(&mut connection, &["HSET", "customer:joe@1", "name", "theirs"]);
    let said = project.haul(&["run", "p"]).expect(1);
    assert!(told(&said, "`customer:1@1` in `cache` holds something that no cache has written"), "{said:?}");
    for generation in ["2", "3"] {
        project.haul(&["run", "p"]).expect(0);
        assert_eq!(rows(&project, "out.db", SAID), FOUND);
        assert_eq!(ask::<String>(&mut connection, &["HGET", "haul:{customer:*}:cache", "current"]), generation);
    }
    let theirs = ["customer:1@1", "customer:joe@1"];
    let and_theirs = |rows: [&str; 3]| {
        let mut keys: Vec<String> = rows.iter().chain(&theirs).map(|key| (*key).to_owned()).collect();
        keys.sort();
        keys
    };
    let swept = "the first filling is swept away";
    assert_eq!(keys(&mut connection, "customer:*"), and_theirs(["customer:1@3", "customer:2@3", "customer:3@3"]), "{swept}");

    let slow = project.read("pipelines/p.yaml");
    let slow = slow
        .replace(FROM, "    from: { generate: 50000000, columns: { id: i, name: \"'dead'\", score: 'cast(1 as double)', revision: i } }\n");
    project.file("pipelines/slow.yaml", slow);
    let mut child = project.command(&["run", "slow"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("haul can be started");
    wait_until("rows of the new filling", || ask::<bool>(&mut connection, &["EXISTS", "customer:1@4"]));
    child.kill().expect("killed");
    child.wait().expect("an end");
    project.haul(&["run", "p", "--only", "orders"]).expect(0);
    assert_eq!(rows(&project, "out.db", SAID), FOUND, "the old rows are served");
    project.haul(&["run", "p", "--fresh"]).expect(0);
    assert_eq!(
        keys(&mut connection, "customer:*"),
        and_theirs(["customer:1@5", "customer:2@5", "customer:3@5"]),
        "what died is swept away"
    );

    let small =
        project.read("pipelines/p.yaml").replace(FROM, &FROM.replace("customers }", "customers, where: 'id < 3' }\n    min_rows: 90%"));
    project.file("pipelines/small.yaml", small);
    let said = project.haul(&["run", "small"]).expect(1);
    assert!(told(&said, "was filled with 2 rows, and `min_rows` asks for 3"), "{said:?}");
    project.haul(&["run", "p", "--only", "orders"]).expect(0);
    assert_eq!(rows(&project, "out.db", SAID), FOUND, "too few rows replace nothing");

    ask::<()>(&mut connection, &["FLUSHDB"]);
    let said = project.haul(&["run", "p", "--only", "orders", "--fresh"]).expect(1);
    assert!(told(&said, "is not filled: there is no `haul:{customer:*}:cache`"), "{said:?}");
}

#[test]
fn rows_that_are_never_loaded_end_with_their_filling() {
    let url = server().fresh_database();
    let project = project(&url, &format!("{FROM}    ttl: {{ base: 1h }}\n"), ORDERS);
    project.haul(&["run", "p"]).expect(0);
    let mut connection = connect(&url);
    assert_eq!(ask::<i64>(&mut connection, &["PTTL", "customer:1@1"]), -1, "a row that went by itself would be taken for one that is not");
    ask::<()>(&mut connection, &["HINCRBY", "haul:{customer:*}:cache", "since", "-3600000000"]);
    let said = project.haul(&["run", "p", "--only", "orders"]).expect(1);
    assert!(told(&said, "are older than its `ttl` of 3600s"), "{said:?}");
}

#[test]
fn changes_reach_the_server_and_the_memory_at_once_and_older_ones_change_nothing() {
    let url = server().fresh_database();
    let stages = "  before:
    kind: batch
    from: { generate: 5, columns: { id: i } }
    transform:
      - lookup: { cache: customers, on: id, add: [name] }
    to: { discard: 'warms the memory' }
  changes:
    kind: batch
    after: [before]
    from: { generate: 2, columns: { id: 'i + 1', name: \"'new'\", score: 'cast(i as double)', revision: 'i * 9' } }
    to: { cache: customers }
  removals:
    kind: batch
    after: [changes]
    from: { generate: 1, columns: { id: '3', revision: '7' } }
    to: { cache: customers, mode: invalidate }
";
    let cache = format!("    version: revision\n{FROM}    levels: {{ memory: {{ ttl: 1h }} }}\n");
    let orders = ORDERS.replace("kind: batch\n", "kind: batch\n    after: [removals]\n");
    let project = project(&url, &cache, &format!("{stages}{orders}"));
    project.haul(&["run", "p"]).expect(0);
    // The change of 1 is older than the row (0 < 5), that of 2 newer (9 > 5); 3 is gone.
    assert_eq!(rows(&project, "out.db", SAID), ["0|-|-|-", "1|1|Ada|0.1", "2|2|new|1.0", "3|-|-|-", "4|-|-|-"]);
    golden("fixtures/caches/shared.txt", &project.haul(&["plan", "p"]).expect(0).stdout);
}

#[test]
fn names_of_several_columns_never_meet_and_a_cluster_holds_them() {
    let cluster = redis::cluster();
    let project = Project::new();
    let pairs = "{ generate: 4000, columns: { a: \"case when i % 2 = 0 then 'x:' || i else 'x' end\", \
                 b: \"case when i % 2 = 0 then 'y' else (i - 1) || ':y' end\", n: i } }";
    project.file(
        "pipelines/p.yaml",
        format!(
            "connections:
  out: {{ url: 'sqlite:out.db' }}
  cache: {{ url: '{}' }}
stages:
  pairs:
    kind: cache
    key: [b, a]
    in: {{ redis: cache, key: 'pair:{{{{ a }}}}:{{{{ b }}}}' }}
    from: {pairs}
  looked:
    kind: batch
    from: {}
    transform:
      - lookup: {{ cache: pairs, on: {{ a: a, b: b }}, add: [n], missing: fail }}
    to: {{ sql: out, table: looked }}
",
            cluster.nodes[0].url(),
            pairs.replace("n: i", "i: i")
        ),
    );
    for generation in 1..=2 {
        project.haul(&["run", "p", "--fresh"]).expect(0);
        assert_eq!(
            rows(&project, "out.db", "select count(*) || ' ' || sum(n = i) from looked"),
            [format!("{} {}", 4000 * generation, 4000 * generation)]
        );
    }
    let held: usize = cluster.nodes.iter().map(|node| node.ask::<usize>(&["DBSIZE"])).sum();
    assert_eq!(held, 4001, "the rows of one generation, and the control hash");
}

/// A filled cache of the rows of a schema by `id`, as one process sees it.
fn filled(url: &str, schema: &haul::data::Schema, memory_ttl: Option<Duration>) -> Arc<Cache> {
    let holes = Holes::cut("all:{{ id }}").expect("a template");
    let name = holes.fill(&holes.text).expect("a key");
    let connection = Connection {
        name: "r".to_owned(),
        engine: Some(Engine::Redis),
        url: Secret::new(url.to_owned()),
        max_connections: 4,
        at: String::new(),
        http: Default::default(),
    };
    let spec = Spec {
        key: vec![("id".to_owned(), String::new())],
        home: Some(CacheHome { connection: "r".to_owned(), name, at: String::new() }),
        on_backend_error: OnBackendError::Fail,
        memory_ttl,
        load: None,
        filled: true,
        ttl: None,
        jitter: 0.0,
        negative_ttl: None,
        stale_if_error: Duration::ZERO,
        version: None,
        memory_bytes: 1 << 20,
        refresh: None,
        rate: None,
        min_rows: None,
    };
    let redis = haul::connectors::redis::Server::new(&connection, Path::new(".")).expect("a server");
    Cache::new("all", &spec, schema, (vec![0], None), (None, Some(redis))).expect("a cache")
}

#[tokio::test]
async fn values_of_every_type_come_back_as_they_went() {
    let (schema, batch) = loads::awkward_batch(&loads::all_types(), 200);
    let url = server().fresh_database();
    for memory_ttl in [None, Some(Duration::from_secs(60))] {
        let cache = filled(&url, &schema, memory_ttl);
        let sink = cache.sink(CacheMode::Fill, None);
        let load = loads::begin(&sink, &loads::key("run"), &schema).await.expect("a load");
        loads::write(&sink, &load, "all", &batch).await.expect("committed");
        sink.publish(&load).await.expect("published");
        let columns: Vec<usize> = (0..schema.columns.len()).collect();
        // Twice, so that the second time is from memory where there is such a level.
        for _ in 0..2 {
            let tally = Tally::default();
            let looked = cache.table().rows.find(&[Arc::clone(batch.column(0))], &columns, &tally).await.expect("rows");
            assert_eq!(looked.found.true_count(), batch.num_rows());
            loads::assert_same_rows(&loads::batch_of(&schema, looked.columns), &batch);
        }
    }
}

#[test]
fn what_others_keep_is_never_overwritten() {
    let url = server().fresh_database();
    let mut connection = connect(&url);
    let foreign = ["customer:2@1", "customer:2"];
    for key in foreign {
        ask::<i64>(&mut connection, &["HSET", key, "name", "theirs"]);
    }
    for (cache, key) in [(FROM, foreign[0]), (LOAD, foreign[1])] {
        let said = project(&url, cache, ORDERS).haul(&["run", "p"]).expect(1);
        assert!(told(&said, &format!("`{key}` in `cache` holds something that no cache has written")), "{said:?}");
        assert_eq!(ask::<Vec<String>>(&mut connection, &["HGETALL", key]), ["name", "theirs"]);
    }
    let update = "  changes:
    kind: batch
    from: { generate: 1, columns: { id: '2', name: \"'ours'\", score: 'cast(i as double)', revision: 'i' } }
    to: { cache: customers }
";
    let said = project(&url, LOAD, update).haul(&["run", "p"]).expect(1);
    assert!(told(&said, "`customer:2` in `cache` holds something that no cache has written"), "{said:?}");
    assert_eq!(ask::<Vec<String>>(&mut connection, &["HGETALL", "customer:2"]), ["name", "theirs"]);
    // Nor is a key of another type, which a lookup meets first.
    ask::<i64>(&mut connection, &["DEL", "customer:2"]);
    ask::<()>(&mut connection, &["SET", "customer:2", "theirs"]);
    let said = project(&url, LOAD, ORDERS).haul(&["run", "p"]).expect(1);
    assert!(told(&said, "`customer:2` in `cache` holds something that no cache has written"), "{said:?}");
    assert_eq!(ask::<String>(&mut connection, &["GET", "customer:2"]), "theirs");
}
