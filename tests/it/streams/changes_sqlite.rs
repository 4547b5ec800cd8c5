//! The changes of a PostgreSQL table into SQLite.

use rusqlite::Connection;

use super::{kill_again, sql};
use crate::support::{Project, kills, postgres};

/// Kills the stream has to survive.
const KILLS: usize = 12;

/// A table with a value that is kept out of line, and so is not sent when it does not change.
const ITEMS: &str = "
    create table items (id int, part text, name text not null, n numeric(12,3), at timestamptz default now(), big text, primary key (id, part));
    alter table items alter big set storage external;
    insert into items (id, part, name, n, big) select i, 'a', 'name ' || i, i / 8.0, repeat(md5(i::text), 100) from generate_series(1, 300) i;";

fn pipeline(project: &Project, name: &str, from: &str, more: &str) {
    project.file(
        &format!("pipelines/{name}.yaml"),
        format!(
            "connections:
  from: {{ url: \"{from}\" }}
  to: {{ url: \"sqlite:to.db\" }}
  kept: {{ url: \"file:kept\" }}
stages:
  items:
    kind: stream
    from: {{ sql: from, changes: items }}
    to: {{ sql: to, table: items, mode: upsert, key: [id, part] }}
    batch: {{ rows: 50, every: 10ms }}
{more}"
        ),
    );
}

fn catch_up(project: &Project, name: &str) {
    project.haul(&["run", name, "--until", "caught-up"]).expect(0);
}

#[track_caller]
fn assert_same(project: &Project, from: &str) {
    let there = sql(
        from,
        "select id, part, name, coalesce(n::text, ''), extract(epoch from at)::bigint, coalesce(length(big), 0), coalesce(right(big, 9), '')
         from items order by id, part",
    );
    let database = Connection::open(project.path("to.db")).expect("the database");
    let mut select = database
        .prepare(
            "select id || '|' || part || '|' || name || '|' || coalesce(n, '') || '|' || cast(round(unixepoch(at, 'subsec')) as integer) || '|'
               || coalesce(length(big), 0) || '|' || coalesce(substr(big, -9), '') from items order by id, part",
        )
        .expect("a query");
    let here: Vec<String> = select.query_map([], |row| row.get(0)).expect("rows").map(|row| row.expect("a row")).collect();
    let there: Vec<&str> = there.lines().collect();
    assert_eq!(here.len(), there.len());
    here.iter().zip(there).for_each(|(here, there)| assert_eq!(here, there));
}

#[test]
fn every_kind_of_change_arrives_in_sqlite() {
    const FOLLOW: &str = "lite_kinds";
    let from = postgres().fresh_database();
    sql(&from, ITEMS);
    let project = Project::new();
    pipeline(&project, FOLLOW, &from, "");
    catch_up(&project, FOLLOW);
    assert_same(&project, &from);
    for change in [
        "insert into items (id, part, name, n) values (1000, 'b', 'né ''w''', 0.125), (1000, 'B', '', null)",
        "update items set name = 'renamed' where id between 10 and 20",
        "begin; update items set big = repeat('x', 5000) where id = 30; update items set name = 'after it' where id = 30; commit",
        "begin; insert into items (id, part, name, big) values (2000, 'a', 'new', repeat('y', 5000)); update items set name = 'at once' where id = 2000; commit",
        "delete from items where id between 40 and 45",
        // Keys move with what did not come, swap places through a third, and come back.
        "update items set id = 5000 where id = 50; update items set part = 'moved' where id between 60 and 69",
        "begin; update items set id = -1 where id = 71; update items set id = 71 where id = 72; update items set id = 72 where id = -1; commit",
        "begin; delete from items where id = 80; insert into items (id, part, name) values (80, 'a', 'again'); commit",
        "begin; insert into items (id, part, name) values (3000, 'a', 'never seen'); delete from items where id = 3000; commit",
        "begin; update items set name = 'rolled back'; rollback",
        // More than is held in memory, in one transaction.
        "begin; insert into items (id, part, name, big) select i, 'many', 'many', repeat(md5(i::text), 150) from generate_series(10000, 19999) i;
         update items set name = 'changed' where id % 10 = 0; delete from items where id % 10 = 1; update items set id = -id where id between 10002 and 10009; commit",
        "begin; insert into items (id, part, name) values (3001, 'a', 'gone with the rest'); truncate items; insert into items (id, part, name) values (1, 'a', 'first'); commit",
    ] {
        sql(&from, change);
        catch_up(&project, FOLLOW);
        assert_same(&project, &from);
    }
    let plan = project.haul(&["plan", FOLLOW]).expect(0).stdout;
    assert!(plan.contains("effectively once: rows and mark in one transaction"), "{plan}");
    project.haul(&["drop", FOLLOW]).expect(0);
}

#[test]
fn changes_that_sqlite_refuses_are_kept() {
    const FOLLOW: &str = "lite_refused";
    let from = postgres().fresh_database();
    sql(&from, ITEMS);
    let project = Project::new();
    let rejects = "    rejects: { to: { files: kept, path: bad.ndjson }, at_most: 5 }\n";
    pipeline(&project, FOLLOW, &from, rejects);
    Connection::open(project.path("to.db"))
        .and_then(|database| {
            database.execute_batch(
                "create table items (id integer, part text, name text check (name <> 'bad'), n numeric, at text, big text, primary key (id, part))",
            )
        })
        .expect("a table");
    catch_up(&project, FOLLOW);
    sql(
        &from,
        "begin; update items set name = 'bad', big = 'x' where id in (7, 9); update items set name = 'good' where id = 8;
         update items set id = 500, name = 'bad', big = 'x' where id = 11; delete from items where id = 12; commit",
    );
    catch_up(&project, FOLLOW);
    let database = Connection::open(project.path("to.db")).expect("the database");
    let row = |sql: &str| database.query_row(sql, [], |row| row.get::<_, String>(0)).expect("a row");
    assert_eq!(
        row("select group_concat(id || name, ' ') from (select * from items where id in (7, 8, 9, 11, 12, 500) order by id)"),
        "7name 7 8good 9name 9 11name 11"
    );
    let kept = project.read("kept/bad.ndjson");
    assert_eq!(kept.lines().count(), 4, "the removal and the new row of a changed key go together: {kept}");
    // What is not there any more cannot be changed in part.
    database.execute_batch("delete from items where id = 20").expect("a row that goes");
    sql(&from, "update items set name = 'x' where id = 20");
    let said = project.haul(&["run", FOLLOW, "--until", "caught-up"]).expect(1);
    assert!(said.stdout.contains("a changed row is missing in \"items\": somebody else has removed it"), "{said:?}");
    project.haul(&["drop", FOLLOW]).expect(0);
}

#[test]
fn sqlite_holds_what_the_table_holds_after_kills() {
    const FOLLOW: &str = "lite_kills";
    let from = postgres().fresh_database();
    sql(&from, &format!("{ITEMS} create sequence fresh start 1000;"));
    let project = Project::new();
    pipeline(&project, FOLLOW, &from, "");
    let position = || {
        sql(
            &from,
            "insert into items (id, part, name) values (nextval('fresh'), 'new', 'new'); update items set name = name || '.' where id % 13 = extract(second from now())::int % 13;
             delete from items where (id, part) in (select id, part from items order by random() limit 1);
             update items set id = nextval('fresh') where id in (select id from items order by random() limit 2)",
        );
        let database = Connection::open(project.path("to.db")).expect("the database");
        database.query_row("select position from haul_marks", [], |row| row.get::<_, Option<String>>(0)).unwrap_or_default()
    };
    kill_again(&project, FOLLOW, kills(KILLS), position);
    catch_up(&project, FOLLOW);
    assert_same(&project, &from);
    project.haul(&["drop", FOLLOW]).expect(0);
}
