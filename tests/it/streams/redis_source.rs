//! Streams that read Redis: everything arrives once, whoever is killed, and what was missed is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{kill_again, sql, start, until};
use crate::support::redis::{ask, connect, redis};
use crate::support::{Project, kills, postgres};

/// Kills the streams have to survive.
const KILLS: usize = 40;

fn pipeline(project: &Project, name: &str, from: &str, to: &str, stages: &str) {
    let connections = format!("connections:\n  from: {{ url: \"{from}\" }}\n  to: {{ url: \"{to}\" }}\n");
    project.file(&format!("pipelines/{name}.yaml"), format!("{connections}stages:\n{stages}"));
}

const STAGES: &str = "  entries:
    kind: stream
    from: { redis: from, stream: orders, columns: { n: int64, note: text } }
    to: { sql: to, table: entries, mode: append }
    batch: { rows: 50, every: 10ms }
  items:
    kind: stream
    from: { redis: from, list: queue }
    to: { sql: to, table: items, mode: append }
    batch: { rows: 50, every: 10ms }
";

#[test]
fn entries_and_items_arrive_once_under_kills() {
    const FOLLOW: &str = "redis_source_kills";
    let (from, to) = (redis().fresh_database(), postgres().fresh_database());
    let project = Project::new();
    pipeline(&project, FOLLOW, &from, &to, STAGES);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (from, stop) = (from.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut redis = connect(&from);
            let mut count = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let mut pipe = redis::pipe();
                for _ in 0..60 {
                    count += 1;
                    pipe.cmd("XADD").arg("orders").arg("*").arg("n").arg(count).arg("note").arg("x".repeat(count as usize % 90)).ignore();
                    pipe.cmd("RPUSH").arg("queue").arg(count).ignore();
                }
                pipe.exec(&mut redis).expect("entries and items");
                std::thread::sleep(Duration::from_millis(10));
            }
            count
        })
    };
    let rows = |table: &str| {
        if sql(&to, &format!("select to_regclass('{table}') is null")) == "t" {
            String::new()
        } else {
            sql(&to, &format!("select count(*) from {table}"))
        }
    };
    kill_again(&project, FOLLOW, kills(KILLS), || rows("entries"));
    stop.store(true, Ordering::Relaxed);
    let count = writer.join().expect("the writer");
    project.haul(&["run", FOLLOW, "--until", "caught-up"]).expect(0);
    let expected = format!("{count}|{count}|1|{count}");
    let ordered = "bool_and(n = place) from (select *, row_number() over (order by split_part(entry_id, '-', 1)::bigint, split_part(entry_id, '-', 2)::bigint) as place from entries) e";
    assert_eq!(sql(&to, &format!("select count(*), count(distinct n), min(n), max(n), {ordered}")), format!("{expected}|t"));
    let ordered = "bool_and(value::bigint = index + 1) from items";
    let of_items = "count(*), count(distinct value), min(value::bigint), max(value::bigint)";
    assert_eq!(sql(&to, &format!("select {of_items}, {ordered}")), format!("{expected}|t"));
    // The server knows how far everything is committed, and keeps nothing else.
    let mut redis = connect(&from);
    let groups: Vec<std::collections::BTreeMap<String, redis::Value>> = ask(&mut redis, &["XINFO", "GROUPS", "orders"]);
    assert_eq!(groups[0]["lag"], redis::Value::Int(0), "{groups:?}");
    assert_eq!(ask::<Vec<String>>(&mut redis, &["KEYS", "haul:{*:taken:*"]), Vec::<String>::new());
    let said = project.haul(&["drop", FOLLOW]).expect(0).stdout;
    assert!(said.contains("the consumer group haul_redis_source_kill"), "{said}");
    assert_eq!(ask::<Vec<String>>(&mut redis, &["KEYS", "haul:{*"]), Vec::<String>::new());
}

/// An idle server is not asked again and again: it says by itself when something is new.
#[test]
fn the_server_is_waited_for_when_nothing_is_new() {
    const FOLLOW: &str = "idle";
    let (from, to) = (redis().fresh_database(), postgres().fresh_database());
    let project = Project::new();
    pipeline(&project, FOLLOW, &from, &to, STAGES);
    let mut redis = connect(&from);
    let own = format!("db={} ", from.rsplit('/').next().expect("a database"));
    let mut haul = start(&project, FOLLOW);
    for round in 1..=3 {
        for command in ["cmd=xread ", "cmd=blmove "] {
            until(&project, command, || {
                let clients: String = ask(&mut connect(&from), &["CLIENT", "LIST"]);
                clients.lines().any(|client| client.contains(&own) && client.contains(command) && client.contains("flags=b"))
            });
        }
        ask::<String>(&mut redis, &["XADD", "orders", "*", "n", "1", "note", "new"]);
        ask::<i64>(&mut redis, &["RPUSH", "queue", "new"]);
        for table in ["entries", "items"] {
            until(&project, "the rows", || {
                sql(&to, &format!("select to_regclass('{table}') is not null")) == "t"
                    && sql(&to, &format!("select count(*) from {table}")) == round.to_string()
            });
        }
    }
    super::signal(&haul, "-TERM");
    assert_eq!(haul.wait().expect("haul ends").code(), Some(143), "{}", project.read("log.txt"));
    assert_eq!(sql(&to, "select string_agg(index::text, ' ' order by index) from items"), "0 1 2");
}

#[test]
fn entries_that_were_missed_are_told() {
    const FOLLOW: &str = "missed";
    let (from, to) = (redis().fresh_database(), postgres().fresh_database());
    let project = Project::new();
    pipeline(&project, FOLLOW, &from, &to, STAGES.split("  items:").next().expect("a stage"));
    let mut redis = connect(&from);
    let add = |numbers: std::ops::Range<u32>| {
        numbers.for_each(|n| drop(ask::<String>(&mut connect(&from), &["XADD", "orders", "*", "n", &n.to_string()])))
    };
    let run = || project.haul(&["run", FOLLOW, "--until", "caught-up"]);
    add(0..20);
    // What is gone before the stream begins was never its own.
    ask::<i64>(&mut redis, &["XTRIM", "orders", "MAXLEN", "10"]);
    run().expect(0);
    assert_eq!(sql(&to, "select count(*), min(n) from entries"), "10|10");
    // What was read may go.
    add(20..30);
    ask::<i64>(&mut redis, &["XTRIM", "orders", "MAXLEN", "10"]);
    run().expect(0);
    assert_eq!(sql(&to, "select count(*), max(n) from entries"), "20|29");
    add(30..40);
    ask::<i64>(&mut redis, &["XTRIM", "orders", "MAXLEN", "7"]);
    let said = run().expect(1);
    assert!(said.stdout.contains("3 entries of the stream `orders` were trimmed or deleted before they were read"), "{said:?}");
    assert_eq!(sql(&to, "select count(*) from entries"), "20");
}

/// A value that does not fit is a bad row, and another type of key ends the stream.
#[test]
fn what_does_not_fit_is_told() {
    const FOLLOW: &str = "misfits";
    let (from, to) = (redis().fresh_database(), postgres().fresh_database());
    let project = Project::new();
    let rejects = "    rejects: { to: { files: here, path: bad.ndjson }, at_most: 3 }\n";
    pipeline(&project, FOLLOW, &from, &to, &(STAGES.split("  items:").next().expect("a stage").to_owned() + rejects));
    let text = project.read(&format!("pipelines/{FOLLOW}.yaml")).replace("stages:", "  here: { url: \"file:.\" }\nstages:");
    project.file(&format!("pipelines/{FOLLOW}.yaml"), text);
    let mut redis = connect(&from);
    for (n, note) in [("1", "a"), ("two", "b"), ("3", "c")] {
        ask::<String>(&mut redis, &["XADD", "orders", "*", "n", n, "note", note]);
    }
    project.haul(&["run", FOLLOW, "--until", "caught-up"]).expect(0);
    assert_eq!(sql(&to, "select string_agg(n || note, ' ' order by n) from entries"), "1a 3c");
    assert!(project.read("bad.ndjson").contains("the value `two`"), "{}", project.read("bad.ndjson"));
    ask::<i64>(&mut redis, &["DEL", "orders"]);
    ask::<()>(&mut redis, &["SET", "orders", "text"]);
    let said = project.haul(&["run", FOLLOW, "--until", "caught-up"]).expect(1);
    assert!(said.stdout.contains("WRONGTYPE"), "{said:?}");
}
