//! Following the changes of a table by the database's log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{kill_again, rows, signal, sql, start, until};
use crate::support::{Project, kills, postgres};

/// Slots of a server share one space of names, and every test has its own pipeline.
pub(super) fn pipeline(project: &Project, name: &str, from: &str, to: &str, batch: &str) {
    project.file(
        &format!("pipelines/{name}.yaml"),
        format!(
            "connections:
  from: {{ url: \"{from}\" }}
  to: {{ url: \"{to}\" }}
stages:
  items:
    kind: stream
    from: {{ sql: from, changes: items }}
    to: {{ sql: to, table: items, mode: upsert, key: [id] }}
    batch: {{ {batch} }}
    retry: {{ backoff: {{ initial: 50ms, max: 500ms }} }}
"
        ),
    );
}

pub(super) fn catch_up(project: &Project, name: &str) {
    project.haul(&["run", name, "--until", "caught-up"]).expect(0);
}

#[track_caller]
pub(super) fn assert_same(from: &str, to: &str) {
    let digest = "select count(*), md5(string_agg(md5(t::text), ' ' order by id)) from items t";
    assert_eq!(sql(from, digest), sql(to, digest));
}

/// A table with a value that is kept out of line, and so is not sent when it does not change.
const ITEMS: &str = "
    create type mood as enum ('good', 'bad');
    create table items (id int primary key, name text not null, n numeric, at timestamptz default now(), tags text[], doc jsonb, mood mood,
                        big text, twice int generated always as (id * 2) stored);
    alter table items alter big set storage external;
    insert into items select i, 'name ' || i, i / 3.0, now(), array['a', null], '{\"a\": 1}', 'good', repeat(md5(i::text), 200)
    from generate_series(1, 300) i;";

#[test]
fn every_kind_of_change_arrives() {
    const FOLLOW: &str = "kinds";
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(&from, ITEMS);
    sql(&to, ITEMS);
    sql(&to, "truncate items");
    let project = Project::new();
    pipeline(&project, FOLLOW, &from, &to, "rows: 50, every: 20ms");
    catch_up(&project, FOLLOW);
    assert_same(&from, &to);
    for change in [
        "insert into items (id, name, n) values (1000, 'new', 'NaN'), (1001, '', null)",
        // Large values stay behind, alone and after one that came in the same transaction.
        "update items set name = 'renamed' where id between 10 and 20",
        "begin; update items set big = repeat('x', 5000) where id = 30; update items set name = 'after it' where id = 30; commit",
        "begin; insert into items (id, name, big) values (2000, 'new', repeat('y', 5000)); update items set name = 'at once' where id = 2000; commit",
        "delete from items where id between 40 and 45",
        // Keys move, swap places through a third, and come back.
        "update items set id = 5000 where id = 50; update items set id = id + 10000 where id between 60 and 69",
        "begin; update items set id = -1 where id = 71; update items set id = 71 where id = 72; update items set id = 72 where id = -1; commit",
        "begin; delete from items where id = 80; insert into items (id, name) values (80, 'again'); commit",
        "begin; insert into items (id, name) values (3000, 'never seen'); delete from items where id = 3000; commit",
        "begin; update items set name = 'rolled back'; rollback",
        "begin; insert into items (id, name) values (3001, 'gone with the rest'); truncate items; insert into items (id, name) values (1, 'first'), (2, 'second'); commit",
        "insert into items (id, name, big) select i, 'many', repeat(md5(i::text), 100) from generate_series(10, 2000) i; update items set n = 7",
    ] {
        sql(&from, change);
        catch_up(&project, FOLLOW);
        assert_same(&from, &to);
    }
    // What waits is committed piece by piece, where transactions end.
    sql(
        &from,
        "do $$ begin for n in 1..40 loop insert into items (id, name) select 100000 + n * 20 + i, 'waits' from generate_series(0, 19) i; commit; end loop; end $$",
    );
    catch_up(&project, FOLLOW);
    assert_same(&from, &to);
    let commits: usize = sql(&to, "select count(distinct xmin::text) from items where id >= 100000").parse().expect("a number");
    assert!(commits >= 8, "800 rows by 50 a commit went in {commits}");
    let plan = project.haul(&["plan", FOLLOW]).expect(0).stdout;
    let slot = sql(&from, "select slot_name from pg_replication_slots where database = current_database()");
    assert!(slot.starts_with("haul_kinds_items_") && plan.contains(&slot), "{slot}\n{plan}");
    let said = project.haul(&["drop", FOLLOW]).expect(0).stdout;
    assert!(said.contains(&slot), "{said}");
    let left =
        "select (select count(*) from pg_replication_slots where database = current_database()) + (select count(*) from pg_publication)";
    assert_eq!(sql(&from, left), "0");
    // Without a position, the next run begins anew.
    sql(&from, "delete from items where id = 1");
    catch_up(&project, FOLLOW);
    assert_eq!(sql(&to, "select count(*) from items where id = 1"), "1", "a copy adds, and removes nothing");
    project.haul(&["drop", FOLLOW]).expect(0);
}

/// Whether two texts are one key is the target's to say.
#[test]
fn keys_that_the_target_takes_for_one_are_one() {
    const FOLLOW: &str = "one_key";
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(&from, "create table items (id text primary key, name text)");
    sql(
        &to,
        "create collation any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         create table items (id text collate any_case primary key, name text)",
    );
    let project = Project::new();
    pipeline(&project, FOLLOW, &from, &to, "every: 20ms");
    catch_up(&project, FOLLOW);
    sql(&from, "begin; insert into items values ('a', 'first'), ('b', 'first'); insert into items values ('A', 'second'); commit");
    catch_up(&project, FOLLOW);
    assert_eq!(sql(&to, "select string_agg(id || name, ' ' order by id) from items"), "Asecond bfirst");
    project.haul(&["drop", FOLLOW]).expect(0);
}

#[test]
fn a_slot_that_is_gone_is_said_plainly() {
    const FOLLOW: &str = "gone";
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(&from, "create table items (id int primary key); insert into items values (1)");
    let project = Project::new();
    pipeline(&project, FOLLOW, &from, &to, "rows: 50");
    catch_up(&project, FOLLOW);
    let slots = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database()";
    sql(&from, slots);
    sql(&from, "insert into items values (2)");
    let said = project.haul(&["run", FOLLOW, "--until", "caught-up"]).expect(1);
    assert!(said.stdout.contains("is gone, and with it the changes") && said.stdout.contains("--fresh"), "{said:?}");
    project.haul(&["run", FOLLOW, "--until", "caught-up", "--fresh"]).expect(0);
    assert_same(&from, &to);
    // A column that the plan does not know stops the stream while it runs; the next run knows it.
    let mut haul = start(&project, FOLLOW);
    sql(&from, "insert into items values (3)");
    until(&project, "the third row", || rows(&to, "items") == "3|3");
    sql(&from, "alter table items add note text; insert into items values (4, 'noted')");
    until(&project, "the end", || haul.try_wait().expect("haul can be asked").is_some());
    assert!(project.read("log.txt").contains("column `note`"), "{}", project.read("log.txt"));
    sql(&to, "alter table items add note text");
    catch_up(&project, FOLLOW);
    assert_same(&from, &to);
    // An idle table does not hold the log back: its slot moves on with what other tables write.
    let mut haul = start(&project, FOLLOW);
    let held = "select confirmed_flush_lsn from pg_replication_slots where database = current_database()";
    let before = sql(&from, held);
    sql(&from, "create table other as select generate_series(1, 1000)");
    until(&project, "an advanced slot", || sql(&from, held) != before);
    // Nor does the server keep log for it: what it keeps begins where other tables had already been written.
    let begins =
        "select restart_lsn > (select pg_lsn '0/0' + place from written) from pg_replication_slots where database = current_database()";
    sql(&from, "create table written as select pg_current_wal_lsn() - '0/0' as place");
    until(&project, "log that may be removed", || {
        sql(&from, "insert into other values (1); checkpoint");
        sql(&from, begins) == "t"
    });
    signal(&haul, "-TERM");
    haul.wait().expect("haul ends");
    project.haul(&["drop", FOLLOW]).expect(0);
}

/// Kills the stream has to survive.
const KILLS: usize = 200;

#[test]
fn two_tables_stay_the_same_under_kills() {
    const FOLLOW: &str = "kills";
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(&from, "create table items (id int primary key, name text, n int, big text); alter table items alter big set storage external");
    sql(&from, "insert into items select i, 'name', 0, repeat(md5(i::text), 100) from generate_series(1, 400) i");
    let project = Project::new();
    pipeline(&project, FOLLOW, &from, &to, "rows: 100, every: 10ms");
    let stop = Arc::new(AtomicBool::new(false));
    let load = [
        "update items set n = n + 1, name = name || '.' where id % 10 = (random() * 9)::int",
        "begin; delete from items where id % 40 = (random() * 39)::int; insert into items select (random() * 1000)::int, 'new', 0, repeat('x', 3000) on conflict do nothing; commit",
        "begin; update items set id = id + 1000 where id < 1000 and id % 25 = (random() * 24)::int;
         delete from items a using items b where a.id = b.id - 1000 and b.id > 1500; commit",
        "insert into items select i, 'row', 0, repeat(md5(i::text), 80) from generate_series((random() * 300)::int, 320) i on conflict (id) do update set big = excluded.big, n = 0;
         delete from items where id > 2000",
    ];
    let writers: Vec<_> = load
        .into_iter()
        .map(|load| {
            let (from, stop) = (from.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // Writers get in each other's way, as they do in life; what fails is tried again.
                    sql(
                        &from,
                        &format!(
                            "do $$ begin {}; exception when others then null; end $$",
                            load.replace("begin; ", "").replace("; commit", "")
                        ),
                    );
                    std::thread::sleep(Duration::from_millis(20));
                }
            })
        })
        .collect();
    let position = || {
        let there = sql(&to, "select to_regclass('haul_marks') is not null") == "t";
        if there { sql(&to, "select rows from haul_marks") } else { String::new() }
    };
    kill_again(&project, FOLLOW, kills(KILLS), position);
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().expect("a writer");
    }
    catch_up(&project, FOLLOW);
    assert_same(&from, &to);
    project.haul(&["drop", FOLLOW]).expect(0);
}
