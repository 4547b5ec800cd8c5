//! Tables that change their shape while they are followed, and tables that cannot be followed.

use rusqlite::Connection;

use super::{sql, start, until};
use crate::support::{Project, postgres};

fn pipeline(project: &Project, name: &str, from: &str, to: &str, more: &str) {
    project.file(
        &format!("pipelines/{name}.yaml"),
        format!(
            "connections:
  from: {{ url: \"{from}\" }}
  to: {{ url: \"{to}\" }}
  kept: {{ url: \"file:kept\" }}
stages:
  items:
    kind: stream
    from: {{ sql: from, changes: items }}
    to: {{ sql: to, mode: upsert, schema: evolve }}
    batch: {{ every: 10ms }}
{more}"
        ),
    );
}

fn catch_up(project: &Project, name: &str) {
    project.haul(&["run", name, "--until", "caught-up"]).expect(0);
}

fn items(url: &str) -> String {
    sql(url, "select string_agg(items::text, ' ' order by id) from items")
}

#[test]
fn a_new_column_is_added_to_the_target_and_rows_from_before_it_arrive() {
    const FOLLOW: &str = "grown";
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(&from, "create table items (id int primary key, name text); insert into items values (1, 'a'), (2, 'b')");
    let project = Project::new();
    pipeline(&project, FOLLOW, &from, &to, "");
    catch_up(&project, FOLLOW);
    // Rows that nobody has read yet are told of as they were.
    sql(&from, "insert into items values (3, 'c'); update items set name = 'B' where id = 2; delete from items where id = 1");
    sql(&from, "alter table items add note text; insert into items values (4, 'd', 'noted'); update items set note = 'late' where id = 3");
    catch_up(&project, FOLLOW);
    assert_eq!(items(&to), "(2,B,) (3,c,late) (4,d,noted)");
    // While it runs, what came before the new column is committed, and the next run has the column.
    let mut haul = start(&project, FOLLOW);
    sql(&from, "insert into items values (5, 'e', 'running')");
    until(&project, "the fifth row", || sql(&to, "select count(*) from items") == "4");
    sql(
        &from,
        "begin; insert into items values (6, 'f', 'before'); commit; alter table items add more int; insert into items values (7, 'g', 'more', 1)",
    );
    until(&project, "the end", || haul.try_wait().expect("haul can be asked").is_some());
    assert!(project.read("log.txt").contains("column `more`"), "{}", project.read("log.txt"));
    catch_up(&project, FOLLOW);
    assert_eq!(items(&to), "(2,B,,) (3,c,late,) (4,d,noted,) (5,e,running,) (6,f,before,) (7,g,more,1)");
    // A column that is gone is passed over in what was written before.
    sql(&from, "insert into items values (8, 'h', 'dropped', 2); alter table items drop note; insert into items values (9, 'i', 3)");
    catch_up(&project, FOLLOW);
    assert_eq!(sql(&to, "select string_agg(items::text, ' ' order by id) from items where id > 7"), "(8,h,,2) (9,i,,3)");
    project.haul(&["drop", FOLLOW]).expect(0);
}

#[test]
fn a_new_column_is_added_to_sqlite() {
    const FOLLOW: &str = "grown_lite";
    let from = postgres().fresh_database();
    sql(&from, "create table items (id int primary key, name text); insert into items values (1, 'a')");
    let project = Project::new();
    pipeline(&project, FOLLOW, &from, "sqlite:to.db", "");
    catch_up(&project, FOLLOW);
    sql(&from, "insert into items values (2, 'b'); alter table items add note text; insert into items values (3, 'c', 'noted')");
    catch_up(&project, FOLLOW);
    let database = Connection::open(project.path("to.db")).expect("the database");
    let all = "select group_concat(id || name || coalesce(note, '-'), ' ') from (select * from items order by id)";
    assert_eq!(database.query_row(all, [], |row| row.get::<_, String>(0)).expect("a row"), "1a- 2b- 3cnoted");
    project.haul(&["drop", FOLLOW]).expect(0);
}

#[test]
fn values_of_another_type_are_never_read_as_if_they_were_of_the_old_one() {
    const FOLLOW: &str = "retyped";
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(&from, "create table items (id int primary key, n bigint); insert into items values (1, 1)");
    let project = Project::new();
    pipeline(&project, FOLLOW, &from, &to, "    rejects: { to: { files: kept, path: bad.ndjson }, at_most: 5 }\n");
    catch_up(&project, FOLLOW);
    let mut haul = start(&project, FOLLOW);
    sql(&from, "insert into items values (2, 2)");
    until(&project, "the second row", || items(&to) == "(1,1) (2,2)");
    sql(&from, "begin; insert into items values (3, 3); commit; alter table items alter n type float8; insert into items values (4, 1.0)");
    until(&project, "the end", || haul.try_wait().expect("haul can be asked").is_some());
    let log = project.read("log.txt");
    assert!(log.contains("the column `n` of public.items has another type in the log than in the plan"), "{log}");
    assert_eq!(items(&to), "(1,1) (2,2) (3,3)", "what came before is committed, so that the next plan need not understand it");
    sql(&to, "alter table items alter n type float8");
    catch_up(&project, FOLLOW);
    assert_eq!(items(&to), "(1,1) (2,2) (3,3) (4,1)");
    // What nobody has read before the change can never be read with a plan made after it.
    sql(&from, "insert into items values (5, 0.5); alter table items alter n type numeric(10, 2); insert into items values (6, 6)");
    sql(&to, "alter table items alter n type numeric(10, 2)");
    let said = project.haul(&["run", FOLLOW, "--until", "caught-up"]).expect(1);
    assert!(said.stdout.contains("has another type in the log") && said.stdout.contains("--fresh"), "{said:?}");
    project.haul(&["run", FOLLOW, "--until", "caught-up", "--fresh"]).expect(0);
    assert_eq!(items(&to), items(&from));
    project.haul(&["drop", FOLLOW]).expect(0);
}

#[test]
fn a_renamed_column_is_not_passed_over() {
    const FOLLOW: &str = "renamed";
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(&from, "create table items (id int primary key, total int); insert into items values (1, 1)");
    let project = Project::new();
    pipeline(&project, FOLLOW, &from, &to, "");
    catch_up(&project, FOLLOW);
    sql(&from, "insert into items values (2, 7); alter table items rename total to amount");
    sql(&to, "alter table items rename total to amount");
    let said = project.haul(&["run", FOLLOW, "--until", "caught-up"]).expect(1);
    assert!(said.stdout.contains("the column `amount` of public.items is not in the log yet, but `total` is"), "{said:?}");
    project.haul(&["run", FOLLOW, "--until", "caught-up", "--fresh"]).expect(0);
    assert_eq!(items(&to), "(1,1) (2,7)");
    // Old rows have no name by a new key.
    sql(&from, "delete from items where id = 1; alter table items rename id to number");
    sql(&to, "alter table items rename id to number");
    let said = project.haul(&["run", FOLLOW, "--until", "caught-up"]).expect(1);
    assert!(said.stdout.contains("the column `number` of public.items is not in the log yet"), "{said:?}");
    project.haul(&["drop", FOLLOW]).expect(0);
}

#[test]
fn a_table_that_was_made_again_is_not_taken_for_the_old_one() {
    const FOLLOW: &str = "remade";
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(&from, "create table items (id int primary key); insert into items values (1)");
    let project = Project::new();
    pipeline(&project, FOLLOW, &from, &to, "");
    catch_up(&project, FOLLOW);
    sql(
        &from,
        "create table fresh (like items including all); drop table items; alter table fresh rename to items; insert into items values (2)",
    );
    let refused = |said: &str| said.contains("does not tell of public.items") && said.contains("--fresh");
    let said = project.haul(&["run", FOLLOW, "--until", "caught-up"]).expect(1);
    assert!(refused(&said.stdout), "{said:?}");
    project.haul(&["run", FOLLOW, "--until", "caught-up", "--fresh"]).expect(0);
    assert_eq!(items(&to), "(1) (2)", "a copy adds, and removes nothing");
    // A table that takes the name over while the stream runs.
    let mut haul = start(&project, FOLLOW);
    sql(&from, "insert into items values (3)");
    until(&project, "the third row", || items(&to) == "(1) (2) (3)");
    sql(&from, "alter table items rename to old; create table items (id int primary key)");
    until(&project, "the end", || haul.try_wait().expect("haul can be asked").is_some());
    assert!(refused(&project.read("log.txt")), "{}", project.read("log.txt"));
    project.haul(&["drop", FOLLOW]).expect(0);
}

#[test]
fn tables_whose_rows_the_log_cannot_name_are_refused_before_anything_is_published() {
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    let project = Project::new();
    for (name, table, why) in [
        ("unnamed", "create table items (id int not null unique, n int)", "have no name"),
        ("inherited", "create table items (id int primary key); create table more () inherits (items)", "tables inherit from public.items"),
    ] {
        sql(&from, &format!("drop table if exists items cascade; {table}; insert into items values (1)"));
        pipeline(&project, name, &from, &to, "");
        let said = project.haul(&["plan", name]).expect(2);
        assert!(said.stderr.contains(why) || said.stdout.contains(why), "{said:?}");
        sql(&from, "update items set id = 2");
    }
    // All of an old row names it too.
    sql(&from, "drop table items cascade; create table items (id int not null unique, n int); alter table items replica identity full");
    pipeline(&project, "whole", &from, &to, "");
    catch_up(&project, "whole");
    sql(&from, "insert into items values (1, 1), (2, 2); update items set n = 3 where id = 1; update items set id = 4 where id = 2");
    catch_up(&project, "whole");
    assert_eq!(items(&to), "(1,3) (4,2)");
    project.haul(&["drop", "whole"]).expect(0);
}

#[test]
fn both_halves_of_a_changed_key_are_refused_when_one_cannot_be_read() {
    const FOLLOW: &str = "halves";
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(
        &from,
        "create table items (id int primary key, price numeric(10, 2), name text, big text); alter table items alter big set storage external;
         insert into items select i, i, 'name', repeat(md5(i::text), 200) from generate_series(1, 9) i",
    );
    let project = Project::new();
    pipeline(&project, FOLLOW, &from, &to, "    rejects: { to: { files: kept, path: bad.ndjson }, at_most: 5 }\n");
    catch_up(&project, FOLLOW);
    sql(&from, "begin; update items set id = 20, price = 'NaN' where id = 1; update items set name = 'x' where id = 7; commit");
    catch_up(&project, FOLLOW);
    let digests = "select string_agg(id || name || md5(big), ' ' order by id) from items where id in (1, 7, 20)";
    let there = sql(&to, digests);
    let expected = sql(&from, "select '1name' || md5(repeat(md5('1'), 200)) || ' 7x' || md5(repeat(md5('7'), 200))");
    assert_eq!(there, expected);
    let kept = project.read("kept/bad.ndjson");
    assert!(kept.lines().count() == 2 && kept.contains("the other half of a changed key is refused"), "{kept}");
    project.haul(&["drop", FOLLOW]).expect(0);
}
