//! Caches and lookups, from the command line.

use crate::support::{self, Project, golden};

/// A project whose pipeline looks ids up in a cache of customers, and writes CSV.
fn pipeline(cache: &str, orders: &str, transform: &str) -> Project {
    let project = Project::new();
    let text = format!(
        "connections:\n  files: {{ url: 'file:files' }}\nstages:\n  customers:\n    kind: cache\n{cache}  orders:\n    kind: batch\n    \
         from: {{ files: files, path: orders.csv, columns: {{ id: int32 }} }}\n    transform:\n{transform}    \
         to: {{ files: files, path: out.csv }}\n    rejects: {{ to: {{ files: files, path: bad.ndjson }}, at_most: 2 }}\n"
    );
    project.file("pipelines/p.yaml", text).file("files/orders.csv", orders);
    project.file("files/customers.csv", "id,tenant,name\n1,a,Ada\n2,a,\n2,b,Bob\n3,b,Cy\n");
    project
}

const CUSTOMERS: &str = "    key: [id]\n    from: { files: files, path: customers.csv, columns: { id: int64 } }\n";
const ORDERS: &str = "n,id,tenant\n1,3,b\n2,9,b\n3,,a\n4,1,a\n5,3,b\n";

/// What a run of the pipeline writes, or says when it fails.
fn out(project: &Project) -> String {
    let said = project.haul(&["run", "p"]);
    if said.code == Some(0) { project.read("files/out.csv") } else { said.stdout + &said.stderr }
}

#[test]
fn a_key_that_is_not_there_is_null_or_left_out_or_bad_or_fatal() {
    let looked_up = |missing: &str| {
        let step = format!("      - lookup: {{ cache: customers, on: id, add: {{ customer: name }}{missing} }}\n      - drop: [tenant]\n");
        pipeline(CUSTOMERS, ORDERS, &step)
    };
    for missing in ["", ", missing: null", ", missing: \"null\""] {
        assert_eq!(out(&looked_up(missing)), "n,id,customer\n1,3,Cy\n2,9,\n3,,\n4,1,Ada\n5,3,Cy\n");
    }
    assert_eq!(out(&looked_up(", missing: drop")), "n,id,customer\n1,3,Cy\n4,1,Ada\n5,3,Cy\n");
    let rejecting = looked_up(", missing: reject");
    assert_eq!(out(&rejecting), "n,id,customer\n1,3,Cy\n4,1,Ada\n5,3,Cy\n");
    let bad = rejecting.read("files/bad.ndjson");
    assert_eq!(bad.lines().count(), 2, "{bad}");
    assert!(bad.contains("the cache `customers` has no row of this key") && bad.contains(r#"\"n\":2,\"id\":9"#), "{bad}");
    let said = out(&looked_up(", missing: fail"));
    assert!(said.contains("the cache `customers` has no row of 2 keys of a batch, by `id`: 9; NULL"), "{said}");
}

#[test]
fn keys_of_several_columns_find_their_row_whatever_their_order() {
    let cache = "    key: [tenant, id]\n    from: { files: files, path: customers.csv, columns: { id: uint8 } }\n";
    let step = "      - lookup: { cache: customers, on: { id: id, tenant: tenant }, add: [name] }\n";
    let project = pipeline(cache, "id,tenant\n2,b\n2,a\n3,a\n300,b\n-1,b\n", step);
    assert_eq!(out(&project), "id,tenant,name\n2,b,Bob\n2,a,\n3,a,\n300,b,\n-1,b,\n");
}

#[test]
fn a_cache_takes_transformed_rows_of_another_stage_and_is_verified_again() {
    let project = Project::new();
    project.file(
        "pipelines/p.yaml",
        "connections:
  db: { url: 'sqlite:out.db' }
stages:
  numbers:
    kind: batch
    from: { generate: 60000, columns: { id: i } }
  squares:
    kind: cache
    key: [id]
    from: { stage: numbers }
    transform:
      - set: { square: 'id * id' }
    batch: { rows: 100 }
  looked:
    kind: batch
    from: { generate: 50000, columns: { n: 'i', id: '(i * 7919) % 70000' } }
    transform:
      - filter: 'n >= 0'
      - lookup: { cache: squares, on: id, add: [square], missing: drop }
      - filter: 'square >= 0'
    to: { sql: db, table: looked, mode: replace, primary_key: [n] }
    splits: { most: 8, bytes: 1KiB }
",
    );
    let said = project.haul(&["run", "p", "--json"]).expect(0);
    let database = rusqlite::Connection::open(project.path("out.db")).expect("the database");
    let count = |condition: &str| -> i64 {
        database.query_row(&format!("select count(*) from looked where {condition}"), [], |row| row.get(0)).expect("a count")
    };
    let expected = (0..50_000_i64).filter(|n| (n * 7919) % 70_000 < 60_000).count() as i64;
    assert_eq!((count("true"), count("square = id * id")), (expected, expected));
    let event = |line: &&str| line.contains("stage_finished") && line.contains("\"stage\":\"looked\"");
    let event: serde_json::Value = serde_json::from_str(said.stdout.lines().find(event).expect("the stage's end")).expect("JSON");
    let lookups = &event["lookups"][0];
    assert_eq!((lookups["cache"].as_str(), lookups["keys"].as_i64()), (Some("squares"), Some(50_000)), "{event}");
    assert_eq!((lookups["hits"].as_i64(), lookups["misses"].as_i64()), (Some(expected), Some(50_000 - expected)), "{event}");

    project.haul(&["verify", "p"]).expect(0);
    assert_eq!(database.execute("update looked set square = 5 where n = 1", []), Ok(1));
    let said = project.haul(&["verify", "p"]).expect(1);
    assert!(said.stdout.contains("n=1: its values differ"), "{}", said.stdout);
}

#[test]
fn a_filling_that_is_too_small_or_too_large_fails_before_anybody_looks() {
    for (settings, reason) in [
        ("    min_rows: 4\n", "was filled with 3 rows, and `min_rows` asks for 4"),
        ("    levels: { memory: { max: 512B } }\n", "needs more than the 512 bytes it may use"),
    ] {
        let step = "      - lookup: { cache: customers, on: id, add: [name] }\n";
        let project = pipeline(&format!("{CUSTOMERS}{settings}"), ORDERS, step);
        let said = project.haul(&["run", "p"]).expect(1);
        assert!(said.stdout.contains(reason) || said.stderr.contains(reason), "{}{}", said.stdout, said.stderr);
        assert!(!project.path("files/out.csv").exists(), "a stage looked into a cache that was never warm");
    }
}

#[test]
fn a_cache_that_is_left_out_is_told_apart_from_one_without_the_key() {
    let project = pipeline(CUSTOMERS, ORDERS, "      - lookup: { cache: customers, on: id, add: [name] }\n");
    let said = project.haul(&["run", "p", "--only", "orders"]).expect(1);
    assert!(said.stderr.contains("the cache `customers` has not been filled"), "{}{}", said.stdout, said.stderr);
}

#[test]
fn what_a_lookup_cannot_know_offline_is_told_by_the_plan_all_at_once() {
    let cache = "    key: [tenant, id]\n    from: { files: files, path: customers.csv }\n";
    let step = "      - lookup: { cache: customers, on: id, add: [nam] }
      - lookup: { cache: customers, on: { tenant: n, idd: id, id: id }, add: [name] }
      - lookup: { cache: customers, on: { tenant: tenant, id: ide }, add: { n: name } }
      - lookup: { cache: customers, on: { tenant: tenant, id: id }, add: { a: name, b: nowhere } }\n";
    let said = pipeline(cache, ORDERS, step).haul(&["plan", "p"]).expect(2);
    golden("fixtures/caches/plan.txt", &said.stderr);
    let cache = "    key: [tenant, nr]\n    from: { files: files, path: customers.csv }\n";
    let said =
        pipeline(cache, ORDERS, "      - lookup: { cache: customers, on: { tenant: tenant, nr: id }, add: [name] }\n").haul(&["plan", "p"]);
    golden("fixtures/caches/key.txt", &said.expect(2).stderr);
}

/// The end of a stage, from what `haul run --json` said.
fn ended(stdout: &str, stage: &str) -> serde_json::Value {
    let line = stdout.lines().find(|line| line.contains("stage_finished") && line.contains(&format!("\"stage\":\"{stage}\"")));
    serde_json::from_str(line.unwrap_or_else(|| panic!("no end of {stage}:\n{stdout}"))).expect("JSON")
}

#[test]
fn splits_that_miss_the_same_keys_at_once_ask_the_database_for_each_once() {
    let url = support::postgres().fresh_database();
    support::postgres().sql(
        &url,
        "create table customers (tenant text, id bigint, name varchar(9), seen uuid);
         insert into customers select case when i % 2 = 0 then 'e''ven' else 'odd' end, i, 'n' || i, gen_random_uuid() from generate_series(0, 1499) i;
         analyze customers",
    );
    let project = Project::new();
    project.file(
        "pipelines/p.yaml",
        format!(
            "connections:
  shop: {{ url: '{url}' }}
  db: {{ url: 'sqlite:out.db' }}
stages:
  customers:
    kind: cache
    key: [tenant, id]
    load: {{ sql: shop, query: 'select * from customers where (tenant, id) in ({{{{ keys }}}})', batch: 400, linger: 20ms }}
    negative_ttl: 1m
  orders:
    kind: batch
    from: {{ generate: 80000, columns: {{ n: i, id: 'i % 2000', tenant: \"case when i % 2 = 0 then 'e''ven' else 'odd' end\" }} }}
    transform:
      - lookup: {{ cache: customers, on: {{ tenant: tenant, id: id }}, add: [name, seen] }}
    to: {{ sql: db, table: orders, primary_key: [n] }}
    splits: {{ most: 8, bytes: 1KiB, concurrency: 8 }}
"
        ),
    );
    let said = project.haul(&["run", "p", "--json"]).expect(0);
    let database = rusqlite::Connection::open(project.path("out.db")).expect("the database");
    let count = |condition: &str| -> i64 {
        database.query_row(&format!("select count(*) from orders where {condition}"), [], |row| row.get(0)).expect("a count")
    };
    assert_eq!((count("name = 'n' || id and seen is not null"), count("name is null")), (60_000, 20_000));
    let lookups = &ended(&said.stdout, "orders")["lookups"][0];
    assert_eq!(lookups["loads"], 5, "2000 keys, 400 a query: {lookups}");
    // The table has no index: each query is one scan of it.
    let scans = "select pg_stat_force_next_flush(); select seq_scan from pg_stat_user_tables where relname = 'customers'";
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut seen = String::new();
    while std::time::Instant::now() < deadline {
        seen = support::postgres().sql(&url, scans).trim().lines().last().unwrap_or_default().trim().to_owned();
        if seen.parse::<i64>().is_ok_and(|scans| scans >= 5) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    assert_eq!(seen, "5", "one query a load");
}

#[test]
fn a_stage_changes_a_cache_after_its_database_and_older_rows_change_nothing() {
    let project = Project::new();
    let database = rusqlite::Connection::open(project.path("shop.db")).expect("a database");
    database
        .execute_batch(
            "create table customers (id bigint primary key, name text, revision bigint);
             insert into customers values (1, 'Ada', 5), (2, 'Bob', 5), (3, 'Cy', 5)",
        )
        .expect("customers");
    project.file("files/changes.csv", "id,name,revision\n1,Zoe,6\n2,late,4\n4,Dan,1\n").file("files/gone.csv", "id,at\n3,7\n");
    project.file("files/orders.csv", "id\n1\n2\n3\n4\n");
    project.file(
        "pipelines/p.yaml",
        "connections:
  shop: { url: 'sqlite:shop.db' }
  files: { url: 'file:files' }
stages:
  customers:
    kind: cache
    key: [id]
    version: revision
    from: { sql: shop, table: customers }
  changes:
    kind: batch
    from: { files: files, path: changes.csv }
    to:
      - { cache: customers }
      - { sql: shop, table: customers, mode: upsert, key: [id] }
  removals:
    kind: batch
    after: [changes]
    from: { files: files, path: gone.csv }
    to: { cache: customers, mode: invalidate, version: at }
  orders:
    kind: batch
    after: [removals]
    from: { files: files, path: orders.csv }
    transform:
      - lookup: { cache: customers, on: id, add: [name, revision] }
    to: { files: files, path: out.csv }
",
    );
    project.haul(&["run", "p"]).expect(0);
    assert_eq!(project.read("files/out.csv"), "id,name,revision\n1,Zoe,6\n2,Bob,5\n3,,\n4,Dan,1\n");
    let plan = project.haul(&["plan", "p"]).expect(0).stdout;
    golden("fixtures/caches/changes.txt", &plan);

    // What the database refuses, the cache does not show: its part is committed after the other.
    database.execute_batch("create trigger no before update on customers begin select raise(abort, 'refused'); end").expect("a trigger");
    project.file("files/changes.csv", "id,name,revision\n1,wrong,9\n");
    let said = project.haul(&["run", "p"]).expect(1);
    assert!(said.stdout.contains("refused") || said.stderr.contains("refused"), "{}{}", said.stdout, said.stderr);
    assert!(!project.read("files/out.csv").contains("wrong"));
}

#[test]
fn what_a_cache_cannot_load_or_take_is_told_by_the_plan_all_at_once() {
    let project = Project::new();
    let database = rusqlite::Connection::open(project.path("shop.db")).expect("a database");
    database.execute_batch("create table customers (id bigint, price double, at timestamp, name text)").expect("customers");
    project.file(
        "pipelines/p.yaml",
        "connections:
  shop: { url: 'sqlite:shop.db' }
stages:
  wrong:
    kind: cache
    key: [id]
    load: { sql: shop, query: 'select * from custmers where id in ({{ keys }})' }
  key:
    kind: cache
    key: [price]
    version: name
    load: { sql: shop, query: 'select * from customers where price in ({{ keys }})' }
  less:
    kind: cache
    key: [id]
    from: { sql: shop, table: customers }
    load: { sql: shop, query: 'select id, cast(at as bigint) as at, price from customers where id in ({{ keys }})' }
  fine:
    kind: cache
    key: [id]
    version: at
    load: { sql: shop, query: 'select * from customers where id in ({{ keys }})' }
  orders:
    kind: batch
    from: { generate: 3, columns: { id: i, price: '1' } }
    to: { cache: fine }
  gone:
    kind: batch
    from: { generate: 3, columns: { id: i, at: \"'x'\" } }
    to: { cache: fine, mode: invalidate }
",
    );
    let said = project.haul(&["plan", "p"]).expect(2).stderr.replace(&*project.path("").to_string_lossy(), "PROJECT/");
    golden("fixtures/caches/refused.txt", &said);
}

#[test]
fn a_cache_is_filled_again_while_a_stream_looks_into_it() {
    let url = support::redis::redis().fresh_database();
    for (home, first) in [(String::new(), None), ("    in: { redis: cache, key: 'customer:{{ id }}' }\n".to_owned(), Some("1"))] {
        let project = Project::new();
        let shop = rusqlite::Connection::open(project.path("shop.db")).expect("a database");
        let change = |sql: &str| shop.execute_batch(sql).expect(sql);
        change(
            "create table customers (id bigint primary key, name text); insert into customers values (1, 'old');
             create table events (id integer primary key, customer bigint)",
        );
        let connection = if first.is_some() { format!("  cache: {{ url: '{url}' }}\n") } else { String::new() };
        project.file(
            "pipelines/p.yaml",
            format!(
                "connections:
  shop: {{ url: 'sqlite:shop.db' }}
  out: {{ url: 'sqlite:out.db' }}
{connection}stages:
  customers:
    kind: cache
    key: [id]
{home}    from: {{ sql: shop, table: customers }}
    refresh: {{ every: 50ms }}
    min_rows: 100%
    retry: {{ attempts: 1 }}
  events:
    kind: stream
    from: {{ sql: shop, table: events, cursor: id, every: 50ms }}
    transform:
      - lookup: {{ cache: customers, on: customer, add: [name], missing: fail }}
    to: {{ sql: out, table: events, mode: append }}
"
            ),
        );
        let log = std::fs::File::create(project.path("log.txt")).expect("a log");
        let mut run = project.command(&["run", "p", "--json"]).stdout(log).spawn().expect("haul can be started");
        let until = |what: &str, look: &mut dyn FnMut() -> bool| {
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
            while !look() {
                assert!(std::time::Instant::now() < deadline, "{what} did not come about:\n{}", project.read("log.txt"));
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        };
        // An event that comes in now, and the name that it is given.
        let mut events = 0;
        let mut name = || {
            change("insert into events (customer) values (1)");
            events += 1;
            let mut found = String::new();
            until("an event", &mut || {
                let out = rusqlite::Connection::open(project.path("out.db")).expect("the database");
                found = out.query_row("select name from events where id = ?1", [events], |row| row.get(0)).unwrap_or_default();
                !found.is_empty()
            });
            found
        };
        assert_eq!(name(), "old");
        change("update customers set name = 'new'");
        until("a new filling", &mut || name() == "new");
        change("delete from customers");
        until("a filling with too few rows", &mut || {
            project.read("log.txt").contains("could not be filled again, and keeps the rows before")
        });
        assert_eq!(name(), "new");
        change("insert into customers values (1, 'newer')");
        until("the end of the failures", &mut || project.read("log.txt").contains("filled again after all"));
        assert_eq!(name(), "newer");
        let stopped = std::process::Command::new("kill").args(["-TERM", &run.id().to_string()]).status().expect("kill can be started");
        assert!(stopped.success());
        assert_eq!(run.wait().expect("an end").code(), Some(143));
        assert!(project.read("log.txt").contains(" times while the run lasted"), "{}", project.read("log.txt"));
        if let Some(first) = first {
            let mut redis = support::redis::connect(&url);
            let generation: i64 = support::redis::ask(&mut redis, &["HGET", "haul:{customer:*}:cache", "current"]);
            assert!(generation > first.parse().expect("a number"), "{generation}");
        }
    }
}
