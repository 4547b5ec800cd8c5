//! Rows that the target refuses: found, put aside within the budget, and never without a word.

use std::collections::BTreeSet;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;

use super::{rows, signal, sql, start, until};
use crate::support::{Project, dice, kills, postgres};

/// Kills in the midst of a search for bad rows.
const KILLS: usize = 20;

fn pipeline(project: &Project, from: &str, to: &str, input: &str, output: &str, at_most: u64) {
    project.file(
        "pipelines/poison.yaml",
        format!(
            "connections:
  from: {{ url: \"{from}\" }}
  to: {{ url: \"{to}\" }}
  bad: {{ url: \"file:.\" }}
stages:
  items:
    kind: stream
    from: {{ sql: from, {input} }}
    to: {{ sql: to, table: items, {output} }}
    rejects: {{ to: {{ files: bad, path: bad.ndjson }}, at_most: {at_most} }}
    batch: {{ rows: 200 }}
    retry: {{ backoff: {{ initial: 20ms, max: 100ms }} }}
"
        ),
    );
}

fn rejects(project: &Project) -> Vec<Value> {
    let text = std::fs::read_to_string(project.path("bad.ndjson")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn origins(project: &Project) -> Vec<String> {
    rejects(project).iter().map(|reject| reject["origin"].as_str().expect("an origin").to_owned()).collect()
}

fn catch_up(project: &Project, code: i32) -> String {
    let said = project.haul(&["run", "poison", "--until", "caught-up"]).expect(code);
    said.stdout + &said.stderr
}

/// A check, a unique index, a reference and a trigger, in a table that is appended to.
#[test]
fn postgresql_gives_back_each_row_that_breaks_a_rule() {
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(
        &from,
        "create table items (id int primary key, n int, parent int); insert into items select i, i, 1 from generate_series(1, 1000) i",
    );
    sql(
        &to,
        "create table parents (id int primary key); insert into parents values (1);
         create table items (id int primary key, n int check (n <> 500) unique deferrable initially deferred,
                             parent int references parents deferrable initially deferred);
         create function no() returns trigger language plpgsql as $$ begin raise exception 'never %', new.n; end $$;
         create trigger no before insert on items for each row when (new.n = 777) execute function no()",
    );
    sql(
        &from,
        "update items set n = 3 where id = 4; update items set parent = 2 where id in (1, 1000); update items set n = 777 where id = 200",
    );
    let project = Project::new();
    pipeline(&project, &from, &to, "table: items, cursor: id, every: 50ms", "mode: append", 6);
    catch_up(&project, 0);
    // Of two rows with the same number the later one is refused.
    assert_eq!(origins(&project), ["id=1", "id=4", "id=200", "id=500", "id=777", "id=1000"]);
    assert_eq!(rejects(&project)[1]["row"], r#"{"id":4,"n":3,"parent":1}"#);
    assert!(rejects(&project)[2]["reason"].as_str().is_some_and(|reason| reason.contains("never 777")), "{:?}", rejects(&project)[2]);
    assert_eq!(sql(&to, "select count(*), count(distinct id), max(id) from items"), "994|994|999");
    assert_eq!(sql(&to, "select rows, rejects from haul_marks"), "994|6");
    // One more than the budget stops the stream before anything of its commit is written, and again.
    sql(&from, "insert into items values (1001, 1001, 1), (1002, 1002, 9)");
    for _ in 0..2 {
        let said = catch_up(&project, 1);
        assert!(said.contains("more than 6 bad rows; the last was id=1002"), "{said}");
        assert_eq!(sql(&to, "select max(id) from items"), "999");
        assert_eq!(origins(&project).len(), 6);
    }
    pipeline(&project, &from, &to, "table: items, cursor: id, every: 50ms", "mode: append", 7);
    catch_up(&project, 0);
    assert_eq!(sql(&to, "select count(*), max(id) from items"), "995|1001");
    assert_eq!(origins(&project)[6], "id=1002");
}

/// Without `rejects` the first bad row stops the stream, by name.
#[test]
fn a_refused_row_without_a_place_to_go_stops_the_stream() {
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(&from, "create table items (id int primary key, n int); insert into items select i, i from generate_series(1, 300) i");
    sql(&to, "create table items (id int primary key, n int check (n <> 250))");
    let project = Project::new();
    pipeline(&project, &from, &to, "table: items, cursor: id, every: 50ms", "mode: upsert, key: [id]", 1);
    let text = project.read("pipelines/poison.yaml");
    let text: Vec<&str> = text.lines().filter(|line| !line.contains("rejects:") && !line.contains("bad:")).collect();
    project.file("pipelines/poison.yaml", text.join("\n"));
    let said = catch_up(&project, 1);
    assert!(said.contains("id=250") && said.contains("violates check constraint"), "{said}");
    assert_eq!(rows(&to, "items"), "200|200");
}

/// Changes are applied by their keys: a refused one leaves the row as it was, and the two halves of a moved row stay together.
#[test]
fn refused_changes_of_rows_are_put_aside() {
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(&from, "create table items (id int primary key, n int); insert into items select i, i from generate_series(1, 50) i");
    sql(&to, "create table items (id int primary key check (id < 1000), n int check (n <> 13))");
    let project = Project::new();
    pipeline(&project, &from, &to, "changes: items", "mode: upsert, key: [id]", 10);
    catch_up(&project, 0);
    assert_eq!(origins(&project), ["id=13"]);
    sql(
        &from,
        "begin; update items set n = 13 where id = 7; update items set n = 70 where id = 8; update items set id = 1000 where id = 9;
                delete from items where id = 10; insert into items values (60, 60), (61, 13); commit",
    );
    catch_up(&project, 0);
    assert_eq!(origins(&project)[1..], ["id=7", "the removal of id=9", "id=1000", "id=61"]);
    assert_eq!(sql(&to, "select count(*) from items"), "49");
    assert_eq!(
        sql(&to, "select string_agg(id || ':' || n, ' ' order by id) from items where id in (7, 8, 9, 10, 60, 61)"),
        "7:7 8:70 9:9 60:60"
    );
    project.haul(&["drop", "poison"]).expect(0);
}

#[test]
fn sqlite_gives_back_each_row_that_breaks_a_rule() {
    for (output, mut expected) in
        [("mode: append", vec!["id=3", "id=150", "id=777"]), ("mode: upsert, key: [id]", vec!["id=3", "id=150", "id=777"])]
    {
        let project = Project::new();
        let source = Connection::open(project.path("from.db")).expect("a database");
        source
            .execute_batch(
                "create table items (id integer primary key, n int, parent int);
                 insert into items with recursive i(v) as (select 1 union all select v + 1 from i where v < 1000) select v, v, 1 from i;
                 update items set n = -1 where id in (3, 777); update items set parent = 2 where id = 150;",
            )
            .expect("rows");
        let target = Connection::open(project.path("to.db")).expect("the target");
        target
            .execute_batch(
                "create table parents (id integer primary key); insert into parents values (1);
                 create table items (id integer primary key, n int check (n > 0), parent int references parents (id));",
            )
            .expect("tables");
        let to = format!("sqlite:{}", project.path("to.db").display());
        pipeline(&project, "sqlite:from.db", &to, "table: items, cursor: id, every: 50ms", output, 4);
        catch_up(&project, 0);
        assert_eq!(origins(&project), expected, "{output}");
        let count = |what: &str| target.query_row(&format!("select {what}"), [], |row| row.get::<_, i64>(0)).expect("a count");
        assert_eq!(count("count(*) from items"), 997, "{output}");
        assert_eq!(count("rows * 10 + rejects from haul_marks"), 9973, "{output}");
        source.execute_batch("insert into items values (1001, 1, 1), (1002, -5, 1), (1003, 3, 7)").expect("rows");
        let said = catch_up(&project, 1);
        assert!(said.contains("more than 4 bad rows; the last was id=1003"), "{said}");
        assert_eq!(count("count(*) from items"), 997, "{output}");
        source.execute_batch("update items set parent = 1 where id = 1003").expect("rows");
        catch_up(&project, 0);
        expected.push("id=1002");
        assert_eq!(origins(&project), expected, "{output}");
        assert_eq!(count("count(*) from items"), 999, "{output}");
    }
}

/// Two outputs into one file: the second must not wait for the first one's transaction. Each refuses rows of its own.
#[test]
fn two_outputs_of_one_database_refuse_rows_of_their_own() {
    let project = Project::new();
    let source = Connection::open(project.path("from.db")).expect("a database");
    source
        .execute_batch("create table items (id integer primary key, n int); insert into items values (1, 1), (2, 2), (3, 3), (4, 4)")
        .expect("rows");
    let target = Connection::open(project.path("to.db")).expect("the target");
    target
        .execute_batch("create table items (id integer primary key, n int check (n <> 2)); create table others (id integer primary key, n int check (n <> 3))")
        .expect("tables");
    let to = format!("sqlite:{}", project.path("to.db").display());
    pipeline(&project, "sqlite:from.db", &to, "table: items, cursor: id, every: 50ms", "mode: upsert, key: [id]", 2);
    let text = project.read("pipelines/poison.yaml");
    let one = "    to: { sql: to, table: items, mode: upsert, key: [id] }\n";
    let two = "    to: [{ sql: to, table: items, mode: upsert, key: [id] }, { sql: to, table: others, mode: upsert, key: [id] }]\n";
    project.file("pipelines/poison.yaml", text.replace(one, two));
    catch_up(&project, 0);
    assert_eq!(origins(&project), ["id=2", "id=3"]);
    let ids = |table: &str| {
        let sql = format!("select group_concat(id, ' ') from (select id from {table} order by id)");
        target.query_row(&sql, [], |row| row.get::<_, String>(0)).expect("ids")
    };
    assert_eq!((ids("items"), ids("others")), ("1 3 4".to_owned(), "1 2 4".to_owned()));
}

/// Killed again and again while it looks for bad rows: every good row is in the target once, every bad one in the file once.
#[test]
fn a_kill_in_the_search_loses_and_doubles_nothing() {
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(&from, "create table items (id int primary key, n int); insert into items select i, i from generate_series(1, 6000) i");
    sql(&to, "create table items (id int primary key, n int check (n % 97 <> 0))");
    let project = Project::new();
    pipeline(&project, &from, &to, "table: items, cursor: id, every: 20ms", "mode: append", 1000);
    let wanted = kills(KILLS);
    let (mut dice, seed) = dice();
    let mut last = 0;
    let mut moved = 0;
    for round in 0..wanted {
        let first = 6001 + round * 300;
        sql(&from, &format!("insert into items select i, i from generate_series({first}, {}) i", first + 299));
        let mut haul = start(&project, "poison");
        let done = || sql(&to, "select coalesce((select max(id) from items), 0)").parse::<i64>().expect("a number");
        if round % 2 == 0 {
            until(&project, "a commit", || done() > last);
        }
        std::thread::sleep(Duration::from_millis(dice.u64(1..300)));
        if let Some(status) = haul.try_wait().expect("haul can be asked") {
            panic!("haul ended with {status}; seed {seed}:\n{}", project.read("log.txt"));
        }
        haul.kill().expect("haul can be killed");
        haul.wait().expect("haul can be waited for");
        moved += usize::from(done() > last);
        last = done();
    }
    let mut haul = start(&project, "poison");
    let all = 6000 + wanted * 300;
    let good = (1..=all).filter(|n| n % 97 != 0).count();
    until(&project, "all good rows", || rows(&to, "items") == format!("{good}|{good}"));
    until(&project, "all bad rows", || rejects(&project).len() >= all / 97);
    signal(&haul, "-TERM");
    assert_eq!(haul.wait().expect("haul ends").code(), Some(143), "{}", project.read("log.txt"));
    let origins = origins(&project);
    let distinct: BTreeSet<&String> = origins.iter().collect();
    assert_eq!((origins.len(), distinct.len()), (all / 97, all / 97), "seed {seed}");
    assert_eq!(sql(&to, "select rows, rejects from haul_marks"), format!("{good}|{}", all / 97), "seed {seed}");
    assert!(moved * 4 >= wanted, "of {wanted} kills only {moved} met a stream that had committed");
}
