//! Following a table by its cursor.

use rusqlite::Connection;

use super::{rows, signal, sql, start, until};
use crate::support::{Project, postgres};

const FOLLOW: &str = "follow";

fn pipeline(project: &Project, from: &str, to: &str, input: &str, output: &str, more: &str) {
    project.file(
        &format!("pipelines/{FOLLOW}.yaml"),
        format!(
            "connections:
  from: {{ url: \"{from}\" }}
  to: {{ url: \"{to}\" }}
stages:
  items:
    kind: stream
    from: {{ sql: from, {input} }}
    to: {{ sql: to, table: items, {output} }}
{more}"
        ),
    );
}

fn catch_up(project: &Project) {
    project.haul(&["run", FOLLOW, "--until", "caught-up"]).expect(0);
}

/// Many rows share a cursor, more than a page has, and pages end in the middle of them.
#[test]
fn rows_with_the_same_cursor_arrive_once() {
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(&from, "create table items (id text primary key, at date not null); insert into items select 'B' || i, '2024-01-01' from generate_series(1, 50) i;
                insert into items select 'a' || i, date '2024-01-01' + i / 40 from generate_series(1, 95) i");
    let project = Project::new();
    pipeline(&project, &from, &to, "table: items, cursor: at, every: 100ms", "mode: append", "    batch: { rows: 7 }\n");
    catch_up(&project);
    catch_up(&project);
    sql(&from, "insert into items select 'c' || i, date '2024-01-03' from generate_series(1, 10) i");
    catch_up(&project);
    assert_eq!(sql(&to, "select count(*), count(distinct id), min(at), max(at) from items"), "155|155|2024-01-01|2024-01-03");
    assert_eq!(sql(&to, "select count(*) from haul_marks where position is not null and rows = 155"), "1");
}

#[test]
fn sqlite_is_followed_by_integers_texts_and_blobs() {
    let project = Project::new();
    let source = Connection::open(project.path("from.db")).expect("a database");
    source
        .execute_batch(
            "create table items (at integer, name text, tag blob, primary key (name, tag)) without rowid;
             insert into items values (null, 'never', x''), (1, 'it''s', x'00ff'), (1, 'it''s', x'00'), (1, 'a', x'01'), (2, 'b', x'');",
        )
        .expect("rows");
    let to = format!("sqlite:{}", project.path("to.db").display());
    pipeline(&project, "sqlite:from.db", &to, "table: items, cursor: at, every: 100ms", "mode: append", "    batch: { rows: 1 }\n");
    catch_up(&project);
    source.execute_batch("insert into items values (2, 'b', x'02'), (2, 'a', x'07'), (3, 'z', x'')").expect("rows");
    catch_up(&project);
    let target = Connection::open(project.path("to.db")).expect("the target");
    let rows = "select group_concat(at || name || hex(tag), ' ') from (select * from items order by at, name, tag)";
    let rows: String = target.query_row(rows, [], |row| row.get(0)).expect("rows");
    // (2, 'a') sorts before (2, 'b'), which had been read: a cursor that is used again must grow.
    assert_eq!(rows, "1a01 1it's00 1it's00FF 2b 2b02 3z");
}

/// The first transaction takes its time before the second does, and commits after it.
#[test]
fn a_late_commit_is_seen_within_the_lag() {
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(&from, "create table items (id int primary key, at timestamptz not null default clock_timestamp())");
    let project = Project::new();
    pipeline(&project, &from, &to, "table: items, cursor: at, every: 50ms, lag: 3s", "mode: append", "");
    let mut haul = start(&project, FOLLOW);
    let slow = {
        let from = from.clone();
        std::thread::spawn(move || sql(&from, "begin; insert into items values (1); select pg_sleep(1.5); commit"))
    };
    std::thread::sleep(std::time::Duration::from_millis(300));
    sql(&from, "insert into items values (2)");
    slow.join().expect("the slow transaction");
    until(&project, "both rows", || rows(&to, "items") == "2|2");
    signal(&haul, "-TERM");
    assert_eq!(haul.wait().expect("haul ends").code(), Some(143), "{}", project.read("log.txt"));
}

#[test]
fn a_signal_commits_and_the_next_run_goes_on() {
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(&from, "create table items (id bigint primary key); insert into items select generate_series(1, 1000)");
    let project = Project::new();
    // Only the signal can bring these rows about before an hour has passed.
    pipeline(&project, &from, &to, "table: items, cursor: id, every: 50ms", "mode: append", "    batch: { every: 1h }\n");
    let mut haul = start(&project, FOLLOW);
    let waiting = "select count(*) from pg_stat_activity where datname = current_database() and query like 'copy %from stdin%'";
    until(&project, "an open copy", || sql(&to, waiting) == "1");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(sql(&to, "select count(*) from items"), "0");
    signal(&haul, "-INT");
    assert_eq!(haul.wait().expect("haul ends").code(), Some(130), "{}", project.read("log.txt"));
    assert_eq!(sql(&to, "select count(*) from items"), "1000");
    sql(&from, "insert into items select generate_series(1001, 1500)");
    catch_up(&project);
    assert_eq!(sql(&to, "select count(*), count(distinct id) from items"), "1500|1500");
}

/// Every session of both ends is cut again and again while rows come in.
#[test]
fn cut_connections_are_made_again() {
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(&from, "create table items (id bigserial primary key, note text)");
    let project = Project::new();
    let more = "    retry: { backoff: { initial: 20ms, max: 100ms } }\n    batch: { rows: 20 }\n";
    pipeline(&project, &from, &to, "table: items, cursor: id, every: 20ms", "mode: append", more);
    let mut haul = start(&project, FOLLOW);
    sql(&from, "insert into items (note) values ('first')");
    until(&project, "the first row", || rows(&to, "items") == "1|1");
    for _ in 0..20 {
        sql(&from, "insert into items (note) select 'n' from generate_series(1, 100)");
        let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database() and application_name = 'haul'";
        sql(&from, cut);
        std::thread::sleep(std::time::Duration::from_millis(100));
        sql(&to, cut);
    }
    until(&project, "all rows", || rows(&to, "items") == "2001|2001");
    assert!(haul.try_wait().expect("haul can be asked").is_none(), "{}", project.read("log.txt"));
    signal(&haul, "-TERM");
    assert_eq!(haul.wait().expect("haul ends").code(), Some(143), "{}", project.read("log.txt"));
    assert_eq!(sql(&to, "select count(*), count(distinct id) from items"), "2001|2001");
}

#[test]
fn bad_rows_go_to_a_file_that_grows_and_one_too_many_stops_the_stream() {
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(
        &from,
        "create table items (id int primary key, n text); insert into items select i, i from generate_series(1, 20) i; update items set n = 'x' where id = 7",
    );
    let project = Project::new();
    let more = "    transform: [{ cast: { n: int32 } }]\n    rejects: { to: { files: bad, path: bad.ndjson }, at_most: 2 }\n";
    pipeline(&project, &from, &to, "table: items, cursor: id, every: 50ms", "mode: append", more);
    let text = project.read(&format!("pipelines/{FOLLOW}.yaml")).replace("stages:", "  bad: { url: \"file:.\" }\nstages:");
    project.file(&format!("pipelines/{FOLLOW}.yaml"), text);
    catch_up(&project);
    assert_eq!(project.read("bad.ndjson").lines().count(), 1);
    sql(&from, "insert into items values (21, 'y'), (22, '22')");
    catch_up(&project);
    assert_eq!(project.read("bad.ndjson").lines().count(), 2);
    assert_eq!(sql(&to, "select count(*), max(id) from items"), "20|22");
    sql(&from, "insert into items values (23, 'z')");
    project.haul(&["run", FOLLOW, "--until", "caught-up"]).expect(1);
    assert_eq!(sql(&to, "select count(*), max(id) from items"), "20|22");
}

/// The position stays when only the transform changes, and is refused when another table is followed.
#[test]
fn a_changed_transform_goes_on_and_another_table_does_not() {
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(
        &from,
        "create table items (id int primary key, n int); insert into items values (1, 1); create table others as table items; alter table others add primary key (id)",
    );
    let project = Project::new();
    let input = |table: &str| format!("table: {table}, cursor: id, every: 50ms");
    pipeline(&project, &from, &to, &input("items"), "mode: append", "");
    catch_up(&project);
    sql(&from, "insert into items values (2, 2)");
    pipeline(&project, &from, &to, &input("items"), "mode: append", "    transform: [{ set: { n: \"cast(n * 10 as int)\" } }]\n");
    catch_up(&project);
    assert_eq!(sql(&to, "select string_agg(id || ':' || n, ' ' order by id) from items"), "1:1 2:20");
    pipeline(&project, &from, &to, &input("others"), "mode: append", "");
    let said = project.haul(&["run", FOLLOW, "--until", "caught-up"]).expect(1);
    assert!(said.stderr.contains("another definition") || said.stdout.contains("another definition"), "{said:?}");
}
