//! Races made on purpose: loads against loads of other processes, fillings against changes, rows against the end of their time.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use haul::define::pipeline::CacheMode;
use haul::failure::FailureKind;

use super::{ended, filled, project, rows, wait_until};
use crate::support::redis::{ask, connect, redis as server, standalone};
use crate::support::{self, Project, Said, loads};

/// A pipeline whose loads wait until an advisory lock of the origin is free.
fn waiting(redis: &str, database: &str) -> Project {
    let project = Project::new();
    let text = format!(
        "connections:
  shop: {{ url: '{database}' }}
  out: {{ url: 'sqlite:out.db' }}
  cache: {{ url: '{redis}' }}
stages:
  customers:
    kind: cache
    key: [id]
    in: {{ redis: cache, key: 'customer:{{{{ id }}}}' }}
    load: {{ sql: shop, query: 'select c.* from (select pg_advisory_xact_lock_shared(1)) w, customers c where id in ({{{{ keys }}}})' }}
  orders:
    kind: batch
    from: {{ generate: 1000, columns: {{ n: i, id: '7' }} }}
    transform:
      - lookup: {{ cache: customers, on: id, add: [name], missing: fail }}
    to: {{ sql: out, table: orders }}
    splits: {{ most: 8, bytes: 1KiB, concurrency: 8 }}
"
    );
    for folder in ["one", "two"] {
        project.file(&format!("{folder}/pipelines/p.yaml"), &text);
    }
    project
}

fn start(project: &Project, folder: &str) -> Child {
    let mut command = project.command(&["run", "p", "--json"]);
    command.current_dir(project.path(folder)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("haul can be started")
}

fn end(child: Child) -> Said {
    let output = child.wait_with_output().expect("an end");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }.expect(0)
}

fn origin() -> String {
    let database = support::postgres().fresh_database();
    support::postgres().sql(&database, "create table customers (id bigint, name text); insert into customers values (7, 'Eve')");
    database
}

/// Keeps loads from being answered until it is dropped.
struct Gate(Child);

impl Gate {
    fn shut(database: &str) -> Self {
        let mut psql = support::postgres().psql(database);
        let mut psql = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("psql can be started");
        let input = psql.stdin.as_mut().expect("a pipe was asked for");
        std::io::Write::write_all(input, b"select pg_advisory_lock(1);\nselect 'shut';\n").expect("psql listens");
        let said =
            BufReader::new(psql.stdout.as_mut().expect("a pipe was asked for")).lines().map_while(Result::ok).find(|line| line == "shut");
        assert!(said.is_some(), "psql did not take the lock");
        Self(psql)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn calls(server: &support::redis::Redis) -> u64 {
    let stats: String = server.ask(&["INFO", "commandstats"]);
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next()?.parse().ok());
    calls.unwrap_or(0)
}

#[test]
fn two_processes_that_miss_a_key_a_thousand_times_at_once_ask_for_it_once() {
    let (server, database) = (standalone(), origin());
    let project = waiting(&server.url(), &database);
    let gate = Gate::shut(&database);
    let children = [start(&project, "one"), start(&project, "two")];
    // The one that has the lock keeps it with a call every few seconds; the other one asks for it again and again.
    wait_until("both processes to miss the key", || calls(&server) >= 20);
    drop(gate);
    let lookups = children.map(|child| ended(&end(child), "orders")["lookups"][0].clone());
    let sum = |count: &str| lookups.iter().map(|lookups| lookups[count].as_i64().expect("a count")).sum::<i64>();
    assert!(lookups.iter().all(|lookups| lookups["misses"].as_i64() > Some(0)), "both missed it: {lookups:?}");
    assert_eq!(sum("loads"), 1, "{lookups:?}");
    // A server process reports what it did before it is gone. The table has no index: each query is one scan of it.
    let others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
    wait_until("the origin's processes to end", || support::postgres().sql(&database, others).trim() == "0");
    let scans = "select seq_scan from pg_stat_user_tables where relname = 'customers'";
    assert_eq!(support::postgres().sql(&database, scans).trim(), "1");
    for folder in ["one", "two"] {
        assert_eq!(rows(&project, &format!("{folder}/out.db"), "select count(*) || name from orders group by name"), ["1000Eve"]);
    }
}

#[test]
fn a_process_that_dies_while_it_loads_blocks_nobody_for_longer_than_its_lease() {
    let (url, database) = (server().fresh_database(), origin());
    let project = waiting(&url, &database);
    let mut connection = connect(&url);
    let gate = Gate::shut(&database);
    let mut dying = start(&project, "one");
    wait_until("the lock", || ask::<bool>(&mut connection, &["HEXISTS", "customer:7", "haul:lock"]));
    dying.kill().expect("killed");
    dying.wait().expect("an end");
    assert!(ask::<bool>(&mut connection, &["HEXISTS", "customer:7", "haul:lock"]), "the lock outlives its owner");
    let other = start(&project, "two");
    drop(gate);
    assert_eq!(ended(&end(other), "orders")["lookups"][0]["loads"], 1);
    let fields: Vec<String> = ask(&mut connection, &["HKEYS", "customer:7"]);
    assert_eq!(fields, ["haul:row", "id", "name"], "the lock is gone");
}

#[test]
fn a_change_during_a_filling_is_newer_than_what_the_filling_reads() {
    let url = server().fresh_database();
    let mut connection = connect(&url);
    // One row in ten seconds: the filling is under way for as long as the test needs.
    let slow = project(&url, "    from: { sql: shop, table: customers }\n    rate: 1\n", "");
    let changes = "  changes:
    kind: batch
    from: { generate: 2, columns: { id: 'i * 2 + 1', name: \"'new'\", score: 'cast(i as double)', revision: 'i' } }
    to: { cache: customers }
  removals:
    kind: batch
    after: [changes]
    from: { generate: 1, columns: { id: '2' } }
    to: { cache: customers, mode: invalidate }
";
    let other = project(&url, "    from: { sql: shop, table: customers }\n", changes);
    other.haul(&["run", "p", "--only", "customers"]).expect(0);
    let filling = slow.command(&["run", "p", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("haul can be started");
    wait_until("the first row of the new filling", || ask::<bool>(&mut connection, &["EXISTS", "customer:1@2"]));
    other.haul(&["run", "p", "--only", "changes", "--only", "removals"]).expect(0);
    assert_eq!(ask::<String>(&mut connection, &["HGET", "haul:{customer:*}:cache", "current"]), "1", "the filling is still under way");
    for generation in 1..=2 {
        assert_eq!(ask::<String>(&mut connection, &["HGET", &format!("customer:1@{generation}"), "name"]), "new");
    }
    end(filling);
    let names = ["1", "2", "3"].map(|id| ask::<Option<String>>(&mut connection, &["HGET", &format!("customer:{id}@2"), "name"]));
    assert_eq!(names, [Some("new".to_owned()), None, Some("new".to_owned())]);
    assert_eq!(ask::<Vec<String>>(&mut connection, &["HKEYS", "customer:2@2"]), ["haul:row"], "a removed row does not come back");
    assert_eq!(ask::<String>(&mut connection, &["HGET", "haul:{customer:*}:cache", "current"]), "2");
}

/// Rows that are there when a load that began before them has found none.
#[test]
fn a_load_that_found_nothing_undoes_no_row_that_came_meanwhile() {
    let (url, database) = (server().fresh_database(), origin());
    let project = waiting(&url, &database);
    let text = project.read("one/pipelines/p.yaml").replace("id: '7'", "id: '8'").replace(", missing: fail", "");
    let update =
        "  update:\n    kind: batch\n    from: { generate: 1, columns: { id: '8', name: \"'new'\" } }\n    to: { cache: customers }\n";
    for (folder, text) in [("one", text.clone()), ("two", text + update)] {
        project.file(&format!("{folder}/pipelines/p.yaml"), text.replace("  orders:\n", "    negative_ttl: 1m\n  orders:\n"));
    }
    let mut connection = connect(&url);
    let gate = Gate::shut(&database);
    let loading = start(&project, "one");
    wait_until("the lock", || ask::<bool>(&mut connection, &["HEXISTS", "customer:8", "haul:lock"]));
    let mut update = project.command(&["run", "p", "--only", "update"]);
    assert!(update.current_dir(project.path("two")).output().expect("haul can be started").status.success());
    drop(gate);
    let lookups = ended(&end(loading), "orders")["lookups"][0].clone();
    assert_eq!((&lookups["loads"], &lookups["hits"]), (&1.into(), &0.into()), "{lookups}");
    assert_eq!(ask::<Vec<String>>(&mut connection, &["HMGET", "customer:8", "id", "name"]), ["8", "new"]);
    let fields: Vec<String> = ask(&mut connection, &["HKEYS", "customer:8"]);
    assert_eq!(fields, ["haul:row", "id", "name"], "the lock is gone");
}

/// What is known to be nowhere is as new as the row that was there before.
#[test]
fn an_old_change_brings_no_row_back_that_the_origin_has_removed() {
    let url = server().fresh_database();
    let changes = "  changes:
    kind: batch
    from: { generate: 1, columns: { id: '1', name: \"'old'\", score: 'cast(i as double)', revision: 'i + 4' } }
    to: { cache: customers }
";
    let cache = format!("    version: revision\n{}    negative_ttl: 1m\n", super::LOAD);
    let project = project(&url, &cache, &format!("{changes}{}", super::ORDERS));
    let run = |stage: &str| project.haul(&["run", "p", "--fresh", "--only", stage]).expect(0);
    let mut connection = connect(&url);
    run("orders");
    // Its time is over, and the origin has it no more.
    let held: String = ask(&mut connection, &["HGET", "customer:1", "haul:row"]);
    let (facts, _) = held.rsplit_once(' ').expect("when its time is over");
    ask::<i64>(&mut connection, &["HSET", "customer:1", "haul:row", &format!("{facts} 1")]);
    let shop = rusqlite::Connection::open(project.path("shop.db")).expect("the origin");
    shop.execute("delete from customers where id = 1", []).expect("a removal");
    run("orders");
    for _ in 0..2 {
        let held: String = ask(&mut connection, &["HGET", "customer:1", "haul:row"]);
        assert!(held.contains(" n 8000000000000005 "), "{held}");
        // Its revision is 4, and that of the row was 5.
        run("changes");
    }
}

/// A load that fails gives its lock back, but not one that somebody else has by now.
#[test]
fn a_lock_is_given_back_by_its_owner_alone() {
    for stranger in [None, Some("stranger 99999999999999999")] {
        let (url, database) = (server().fresh_database(), origin());
        let project = waiting(&url, &database);
        let text = project.read("one/pipelines/p.yaml").replace("generate: 1000", "generate: 1");
        project.file("one/pipelines/p.yaml", text.replace("stages:\n", "defaults: { retry: { attempts: 1 } }\nstages:\n"));
        let mut connection = connect(&url);
        let _gate = Gate::shut(&database);
        let loading = start(&project, "one");
        wait_until("the lock", || ask::<bool>(&mut connection, &["HEXISTS", "customer:7", "haul:lock"]));
        if let Some(lock) = stranger {
            ask::<i64>(&mut connection, &["HSET", "customer:7", "haul:lock", lock]);
        }
        let cancel = "select coalesce(bool_or(pg_cancel_backend(pid)), false) from pg_stat_activity
                      where datname = current_database() and wait_event = 'advisory'";
        wait_until("the load", || support::postgres().sql(&database, cancel).trim() == "t");
        let output = loading.wait_with_output().expect("an end");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let lock: Option<String> = ask(&mut connection, &["HGET", "customer:7", "haul:lock"]);
        assert_eq!(lock.as_deref(), stranger);
    }
}

/// The keys of one cache may look like those of another one, generation and all.
#[test]
fn a_filling_sweeps_nothing_of_another_cache_away() {
    let url = server().fresh_database();
    let project = project(&url, super::FROM, "");
    let other = project.read("pipelines/p.yaml").replace("'customer:{{ id }}'", "'customer:old:{{ id }}'");
    project.file("pipelines/other.yaml", other);
    for pipeline in ["other", "p", "p"] {
        project.haul(&["run", pipeline]).expect(0);
    }
    let kept = ["customer:1@2", "customer:2@2", "customer:3@2", "customer:old:1@1", "customer:old:2@1", "customer:old:3@1"];
    assert_eq!(super::keys(&mut connect(&url), "customer:*"), kept);
}

/// Of two fillings the one that began last is seen, whichever ends first.
#[tokio::test]
async fn a_filling_that_began_before_another_one_is_never_seen() {
    for older_ends_first in [true, false] {
        let url = server().fresh_database();
        let (schema, batch) = loads::ids(0..100, "row");
        let sinks = [1, 2].map(|_| filled(&url, &schema, None).sink(CacheMode::Fill, None));
        let mut fillings = Vec::new();
        for sink in &sinks {
            let load = loads::begin(sink, &loads::key("run"), &schema).await.expect("a load");
            loads::write(sink, &load, "all", &batch).await.expect("written");
            fillings.push(load);
        }
        let fenced = async || sinks[0].publish(&fillings[0]).await.expect_err("the older filling was shown").kind;
        if older_ends_first {
            assert_eq!(fenced().await, FailureKind::Fenced);
        }
        sinks[1].publish(&fillings[1]).await.expect("the newer filling");
        if !older_ends_first {
            assert_eq!(fenced().await, FailureKind::Fenced);
        }
        let mut connection = connect(&url);
        assert_eq!(ask::<String>(&mut connection, &["HGET", "haul:{all:*}:cache", "current"]), "2");
        assert_eq!(ask::<i64>(&mut connection, &["HEXISTS", "haul:{all:*}:cache", "filling"]), 0);
    }
}

#[test]
fn a_row_near_the_end_of_its_time_is_served_or_loaded_and_never_missing() {
    let url = server().fresh_database();
    let orders = "  orders:
    kind: batch
    from: { generate: 60000, columns: { n: i, id: 'i % 3 + 1' } }
    transform:
      - lookup: { cache: customers, on: id, add: { found: id }, missing: fail }
      - filter: 'found <> id'
    to: { sql: out, table: orders }
    batch: { rows: 50 }
";
    let cache = "    load: { sql: shop, query: 'select * from customers where id in ({{ keys }})' }
    ttl: { base: 40ms, jitter: 50% }
    levels: { memory: { ttl: 5ms } }
";
    let said = project(&url, cache, orders).haul(&["run", "p", "--json"]).expect(0);
    let end = ended(&said, "orders");
    let lookups = &end["lookups"][0];
    assert!(lookups["loads"].as_i64() > Some(3) && lookups["memory_hits"].as_i64() > Some(0), "{lookups}");
    assert!(lookups["hits"].as_i64() > lookups["memory_hits"].as_i64(), "the server had some as well: {lookups}");
    assert_eq!(end["rows_out"], 0, "a row of another key");
}
