//! Runs that were cut and go on: what is done stays done, and what counts is what is in the targets.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::{pipeline, rows};
use crate::support::Project;

/// Waits until a query says so.
fn wait_for(database: &Path, query: &str, wanted: &str) {
    let begun = Instant::now();
    while rows(database, query) != [wanted] {
        assert!(begun.elapsed() < Duration::from_secs(30), "{query}: {:?}", rows(database, query));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Two stages that append to one table in turn, of which the second fails when most of its rows are there.
fn in_turn(project: &Project) -> Connection {
    pipeline(
        project,
        "turns",
        "  one:
    kind: batch
    from: { generate: 10, columns: { id: 'i' } }
    to: { sql: db, table: numbers, mode: append }
  two:
    kind: batch
    after: [one]
    from: { generate: 2000, columns: { id: 'i' } }
    to: { sql: db, table: numbers, mode: append }
    splits: { most: 4, bytes: 1KiB, concurrency: 1 }
",
    );
    let database = Connection::open(project.path("out.db")).expect("the database");
    let refuse = "create table numbers (id integer);
        create trigger refuse before insert on numbers when new.id = 1999 begin select raise(abort, 'not this one'); end";
    database.execute_batch(refuse).expect("a table that refuses a row");
    database
}

#[test]
fn a_stage_that_is_done_stays_done_when_a_later_run_leaves_it_out() {
    let project = Project::new();
    let database = in_turn(&project);
    project.haul(&["run", "turns"]).expect(1);
    assert_eq!(rows(&project.path("out.db"), "select count(*) > 10 from numbers"), ["1"]);
    project.haul(&["run", "turns", "--only", "two"]).expect(1);
    let shown = project.haul(&["show", "latest"]).expect(0).stdout;
    assert!(!shown.contains("skipped"), "{shown}");
    database.execute_batch("drop trigger refuse").expect("no refusal");
    project.haul(&["run", "turns"]).expect(0);
    assert_eq!(rows(&project.path("out.db"), "select count(*), sum(id) from numbers"), ["2010|1999045"]);
}

#[test]
fn a_stage_begins_only_when_the_journal_has_the_end_of_the_one_before() {
    let project = Project::new();
    let database = in_turn(&project);
    database.execute_batch("drop trigger refuse; pragma journal_mode = wal; begin immediate").expect("a lock");
    let mut child = project.command(&["run", "turns"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("haul can be started");
    let journal = project.path(".haul/state.db");
    let begun = Instant::now();
    while !journal.exists() {
        assert!(begun.elapsed() < Duration::from_secs(30), "no journal");
        std::thread::sleep(Duration::from_millis(20));
    }
    let exists = "select count(*) from sqlite_schema where name = 'haul_journal_events'";
    wait_for(&journal, exists, "1");
    wait_for(&journal, "select count(*) > 0 from haul_journal_events", "1");
    let lock = Connection::open(&journal).expect("the journal");
    lock.busy_timeout(Duration::from_secs(10)).expect("patience");
    lock.execute_batch("begin immediate").expect("a lock");
    database.execute_batch("commit").expect("no lock");
    let out = project.path("out.db");
    wait_for(&out, "select count(*) from sqlite_schema where name = 'haul_loads'", "1");
    wait_for(&out, "select count(*) from haul_loads where stage = 'one' and state = 'published'", "1");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(rows(&out, "select count(*) from haul_loads where stage = 'two'"), ["0"]);
    lock.execute_batch("commit").expect("no lock");
    assert!(child.wait().expect("haul ends").success());
    assert_eq!(rows(&out, "select count(*) from numbers"), ["2010"]);
}

#[test]
fn marks_of_another_cut_of_the_source_do_not_count() {
    let project = Project::new();
    project.file(
        "pipelines/two.yaml",
        "connections:
  source: { url: 'sqlite:source.db' }
  one: { url: 'sqlite:one.db' }
  two: { url: 'sqlite:two.db' }
stages:
  numbers:
    kind: batch
    from: { sql: source, table: numbers }
    to:
      - { sql: one, table: numbers, mode: replace }
      - { sql: two, table: numbers, mode: replace }
    splits: { most: 2, bytes: 1KiB, concurrency: 1 }
",
    );
    let source = Connection::open(project.path("source.db")).expect("the source");
    let numbers = "pragma journal_mode = wal; create table numbers (n integer);
        insert into numbers with recursive i(n) as (select 1 union all select n + 1 from i where n < 1000) select n from i;
        update numbers set n = 'x' where n = 900";
    source.execute_batch(numbers).expect("numbers, and one that is none");
    project.haul(&["run", "two"]).expect(1);
    assert_eq!(rows(&project.path("two.db"), "select count(*) from haul_marks"), ["1"]);

    let copy = |from: &Path, to: &Path| {
        let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp can be started");
        assert!(copied.success());
    };
    for name in ["one.db", "two.db", ".haul"] {
        copy(&project.path(name), &project.path(&format!("cut-{name}")));
    }
    let change = "update numbers set n = n + 1000 where n < 500; update numbers set n = 900 where n = 'x'; create table other (n integer)";
    source.execute_batch(change).expect("another state, and another version of the schema");
    project.haul(&["run", "two"]).expect(0);
    let note = rows(&project.path("one.db"), "select note from haul_loads").remove(0);

    // As if that run had been cut right after it began the first of the two loads anew.
    for name in ["one.db", "two.db", ".haul"] {
        let there = project.path(name);
        let _ = if there.is_dir() { std::fs::remove_dir_all(&there) } else { std::fs::remove_file(&there) };
        copy(&project.path(&format!("cut-{name}")), &there);
    }
    let one = Connection::open(project.path("one.db")).expect("the first target");
    one.execute("update haul_loads set note = ?1", [note]).expect("another note");
    let staging = rows(&project.path("one.db"), "select name from sqlite_schema where name like 'haul_staging%'").remove(0);
    one.execute_batch(&format!("delete from haul_marks; delete from {staging}")).expect("no marks");
    project.haul(&["run", "two"]).expect(0);
    let sums = |name: &str| rows(&project.path(name), "select count(*), sum(n) from numbers");
    assert_eq!((sums("one.db"), sums("two.db")), (sums("source.db"), sums("source.db")));
}

#[test]
fn bad_rows_of_what_is_committed_are_counted_once() {
    let project = Project::new();
    project.file("files/people.csv", "id,name\n1,a\n2\n3,c\n4,d,e\n5,f\n");
    pipeline(
        &project,
        "people",
        "  people:
    kind: batch
    from: { files: files, path: people.csv }
    to:
      - { sql: db, table: one, mode: append }
      - { sql: db, table: two, mode: append }
    rejects: { to: { files: files, path: bad.ndjson }, at_most: 3 }
",
    );
    let database = Connection::open(project.path("out.db")).expect("the database");
    let refuse = "create table two (id integer, name text);
        create trigger refuse before insert on two begin select raise(abort, 'not now'); end";
    database.execute_batch(refuse).expect("a table that refuses rows");
    project.haul(&["run", "people"]).expect(1);
    assert_eq!(rows(&project.path("out.db"), "select output, rejects from haul_marks"), ["0|2"]);
    database.execute_batch("drop trigger refuse").expect("no refusal");
    project.haul(&["run", "people"]).expect(0);
    assert_eq!(rows(&project.path("out.db"), "select (select count(*) from one), (select count(*) from two)"), ["3|3"]);
    assert_eq!(project.read("files/bad.ndjson").lines().count(), 2);
}

#[test]
fn a_run_can_be_retried_when_those_after_it_came_to_nothing() {
    let project = Project::new();
    let connections = "params:\n  day: { type: int }\nconnections:\n  db: { url: 'sqlite:out.db' }\n";
    let stage = "  numbers:
    kind: batch
    from: { generate: 2000, columns: { n: 'i', day: '{{ params.day }}' } }
    to: { sql: db, table: numbers, mode: append }
    splits: { most: 4, bytes: 1KiB, concurrency: 1 }
";
    project.file("pipelines/daily.yaml", format!("{connections}stages:\n{stage}"));
    let database = Connection::open(project.path("out.db")).expect("the database");
    let tables = "create table numbers (n integer, day integer);
        create trigger refuse before insert on numbers when new.n = 1999 begin select raise(abort, 'not this one'); end";
    database.execute_batch(tables).expect("tables");
    project.haul(&["run", "daily", "--param", "day=1"]).expect(1);
    let cut = rows(&project.path(".haul/state.db"), "select run from haul_journal_runs").remove(0);
    assert_eq!(rows(&project.path("out.db"), "select count(*) > 0 from numbers"), ["1"]);
    for _ in 0..2 {
        let said = project.haul(&["run", "daily", "--param", "day=2"]).expect(1);
        assert!(said.stdout.contains(&format!("`haul retry {cut}`")), "{}", said.stdout);
    }
    database.execute_batch("drop trigger refuse").expect("no refusal");
    project.haul(&["retry", &cut]).expect(0);
    assert_eq!(rows(&project.path("out.db"), "select count(*), min(day), max(day) from numbers"), ["2000|1|1"]);
    project.haul(&["run", "daily", "--param", "day=2"]).expect(0);
    assert_eq!(rows(&project.path("out.db"), "select count(*), sum(day = 2) from numbers"), ["4000|2000"]);
    project.haul(&["retry", &cut]).expect(1);
}
