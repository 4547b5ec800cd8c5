//! kill -9 at random moments under a write load, then the truth: source and target are the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{sql, start, until};
use crate::support::{Project, dice, kills, postgres};

/// Kills the stream has to survive.
const KILLS: usize = 200;

/// How far the target's own mark says that the stream has come.
fn position(to: &str) -> String {
    if sql(to, "select to_regclass('haul_marks') is null") == "t" {
        return String::new();
    }
    sql(to, "select rows from haul_marks where stage = 'log'")
}

#[test]
fn a_followed_table_arrives_whole() {
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(
        &from,
        "create table log (id bigserial primary key, note text not null);
         create sequence version; create table items (id int primary key, note text not null, version bigint not null);
         create unique index on items (version)",
    );
    let project = Project::new();
    project.file(
        "pipelines/follow.yaml",
        format!(
            "connections:
  from: {{ url: \"{from}\" }}
  to: {{ url: \"{to}\" }}
stages:
  log:
    kind: stream
    from: {{ sql: from, table: log, cursor: id, every: 10ms }}
    to: {{ sql: to, table: log, mode: append }}
    batch: {{ rows: 50, every: 10ms }}
  items:
    kind: stream
    from: {{ sql: from, table: items, cursor: version, every: 10ms }}
    to: {{ sql: to, table: items, mode: upsert, key: [id] }}
    batch: {{ rows: 50, every: 10ms }}
"
        ),
    );
    let wanted = kills(KILLS);
    let (mut dice, seed) = dice();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (from, stop) = (from.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                sql(
                    &from,
                    "insert into log (note) select repeat('x', (random() * 100)::int) from generate_series(1, 60);
                     insert into items select (random() * 500)::int, 'new', nextval('version') on conflict (id)
                     do update set note = 'changed ' || excluded.version, version = excluded.version;
                     update items set note = note || '.', version = nextval('version') where id % 50 = (random() * 50)::int",
                );
            }
        })
    };
    let mut moved = 0;
    let mut last = String::new();
    for _ in 0..wanted {
        let mut haul = start(&project, "follow");
        if dice.u8(0..4) > 0 {
            until(&project, "a commit", || position(&to) != last);
        }
        std::thread::sleep(Duration::from_millis(dice.u64(1..300)));
        if let Some(status) = haul.try_wait().expect("haul can be asked") {
            panic!("haul ended with {status}; seed {seed}:\n{}", project.read("log.txt"));
        }
        haul.kill().expect("haul can be killed");
        haul.wait().expect("haul can be waited for");
        let doubled = "select coalesce((select count(*) - count(distinct id) from log), 0)";
        if sql(&to, "select to_regclass('log') is not null") == "t" {
            assert_eq!(sql(&to, doubled), "0", "rows doubled; seed {seed}");
            let now = position(&to);
            moved += usize::from(now != last);
            last = now;
        }
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("the writer");
    project.haul(&["run", "follow", "--until", "caught-up"]).expect(0);
    for table in ["log", "items"] {
        let digest = format!("select count(*), md5(string_agg(t::text, ' ' order by id)) from {table} t");
        assert_eq!(sql(&from, &digest), sql(&to, &digest), "{table} differs; seed {seed}");
    }
    println!("{wanted} kills, {moved} of them after a commit; seed {seed}");
    assert!(moved * 4 >= wanted, "of {wanted} kills only {moved} met a stream that had committed");
}
