//! The changes of PostgreSQL tables into SQLite.

use std::cell::Cell;

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

/// What is followed, and where it goes.
const ONE: (&str, &str) = ("items", "table: items, key: [id, part]");

fn pipeline(project: &Project, name: &str, from: &str, (changes, output): (&str, &str), more: &str) {
    project.file(
        &format!("pipelines/{name}.yaml"),
        format!(
            "connections:
  from: {{ url: \"{from}\" }}
  to: {{ url: \"sqlite:to.db\" }}
  kept: {{ url: \"file:kept\" }}
stages:
  rows:
    kind: stream
    from: {{ sql: from, changes: {changes} }}
    to: {{ sql: to, mode: upsert, {output} }}
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
    pipeline(&project, FOLLOW, &from, ONE, "");
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
    pipeline(&project, FOLLOW, &from, ONE, rejects);
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
    pipeline(&project, FOLLOW, &from, ONE, "");
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

/// Customers, who have orders, which have lines: who goes takes everything below with it.
const SHOP: &str = "
    create table customers (id int primary key, name text not null, about text);
    create table orders (id int primary key, customer int not null references customers on delete cascade, total numeric(10,2));
    create table lines (order_id int references orders on delete cascade, line int, what text, primary key (order_id, line));
    alter table customers alter about set storage external;
    insert into customers select i, 'customer ' || i, repeat(md5(i::text), 200) from generate_series(1, 50) i;
    insert into orders select i, 1 + i % 50, i / 7.0 from generate_series(1, 300) i;
    insert into lines select i, n, 'thing' from generate_series(1, 300) i, generate_series(1, 3) n;";

#[track_caller]
fn assert_same_shop(project: &Project, from: &str, prefix: &str) {
    let database = Connection::open(project.path("to.db")).expect("the database");
    for (table, here, there) in [
        (
            "customers",
            "id || name || coalesce(length(about), '') || coalesce(substr(about, -9), '')",
            "id || name || coalesce(length(about)::text, '') || coalesce(right(about, 9), '')",
        ),
        ("orders", "id || ' ' || customer || ' ' || total", "id || ' ' || customer || ' ' || total"),
        ("lines", "order_id || ' ' || line || ' ' || what", "order_id || ' ' || line || ' ' || what"),
    ] {
        let mut select = database.prepare(&format!("select {here} from {prefix}{table}")).expect("a query");
        let mut here: Vec<String> = select.query_map([], |row| row.get(0)).expect("rows").map(|row| row.expect("a row")).collect();
        let there = sql(from, &format!("select {there} from {table}"));
        let mut there: Vec<&str> = there.lines().collect();
        here.sort();
        there.sort_unstable();
        assert_eq!(here, there, "{table}");
    }
}

#[test]
fn transactions_over_several_tables_arrive_whole_in_sqlite() {
    const FOLLOW: &str = "lite_shop";
    let from = postgres().fresh_database();
    sql(&from, SHOP);
    let project = Project::new();
    // The target refers from table to table as the source does, and would remove what refers to a row that goes.
    Connection::open(project.path("to.db"))
        .and_then(|database| {
            database.execute_batch(
                "create table customers (id integer primary key, name text not null, about text);
                 create table orders (id integer primary key, customer integer not null references customers on delete cascade, total text);
                 create table lines (order_id integer references orders on delete cascade, line integer, what text, primary key (order_id, line));",
            )
        })
        .expect("tables");
    pipeline(&project, FOLLOW, &from, ("[lines, public.orders, public.customers]", ""), "");
    catch_up(&project, FOLLOW);
    assert_same_shop(&project, &from, "");
    for change in [
        "begin; insert into customers values (100, 'new', 'short'); insert into orders values (1000, 100, 5); insert into lines values (1000, 1, 'first'); commit",
        // Everything below goes too, and the log tells of it from above.
        "delete from customers where id in (3, 4)",
        "begin; update lines set line = line + 10 where order_id = 8; update customers set name = 'renamed' where id = 9; update orders set total = -1 where customer = 9; commit",
        "begin; update customers set about = repeat('x', 4000) where id = 21; update customers set name = 'after it' where id = 21; update orders set customer = 22 where customer = 21; commit",
        "begin; insert into customers values (200, 'gone', null); insert into orders values (2000, 200, 1); rollback",
        "begin; update orders set customer = 2 where customer = 1; delete from customers where id = 1; commit",
        "begin; delete from customers where id = 10; insert into customers values (10, 'again', null); insert into orders values (3000, 10, 1); insert into lines values (3000, 1, 'again'); commit",
        "begin; update customers set name = 'before'; truncate lines; insert into lines values (1000, 2, 'after'); commit",
        // More than is held in memory.
        "begin; insert into customers select i, 'many', repeat(md5(i::text), 150) from generate_series(10000, 19999) i;
         insert into orders select i, i, 1 from generate_series(10000, 19999) i; insert into lines select i, 1, 'of many' from generate_series(10000, 19999) i;
         delete from customers where id % 10 = 1; commit",
        "begin; truncate lines, orders, customers; insert into customers values (1, 'first', null); insert into orders values (1, 1, 2); commit",
    ] {
        sql(&from, change);
        catch_up(&project, FOLLOW);
        assert_same_shop(&project, &from, "");
    }
    let plan = project.haul(&["plan", FOLLOW]).expect(0).stdout;
    assert!(plan.contains("public.orders → orders") && plan.contains("effectively once: rows and mark in one transaction"), "{plan}");
    project.haul(&["drop", FOLLOW]).expect(0);
}

#[test]
fn several_tables_are_made_in_sqlite_and_a_refused_row_stops_their_stream() {
    const FOLLOW: &str = "lite_made";
    let from = postgres().fresh_database();
    sql(&from, SHOP);
    let project = Project::new();
    let rejects = "    rejects: { to: { files: kept, path: bad.ndjson }, at_most: 5 }\n";
    pipeline(&project, FOLLOW, &from, ("[orders, lines, customers]", "table: 'the_{{ table }}'"), rejects);
    catch_up(&project, FOLLOW);
    assert_same_shop(&project, &from, "the_");
    let database = Connection::open(project.path("to.db")).expect("the database");
    database
        .execute_batch("create trigger no before update on the_orders when new.total like '-%' begin select raise(abort, 'owed'); end")
        .expect("a trigger");
    sql(&from, "begin; update customers set name = 'paid' where id = 7; update orders set total = -1 where id = 9; commit");
    let said = project.haul(&["run", FOLLOW, "--until", "caught-up"]).expect(1);
    assert!(said.stdout.contains("owed"), "{said:?}");
    let name: String = database.query_row("select name from the_customers where id = 7", [], |row| row.get(0)).expect("a row");
    assert_eq!(name, "customer 7", "the other table does not say what was never so");
    database.execute_batch("drop trigger no").expect("no trigger");
    catch_up(&project, FOLLOW);
    assert_same_shop(&project, &from, "the_");
    project.haul(&["drop", FOLLOW]).expect(0);
}

#[test]
fn sums_over_two_tables_agree_in_every_view_of_sqlite_under_kills() {
    const FOLLOW: &str = "lite_sums";
    let from = postgres().fresh_database();
    sql(
        &from,
        "create table accounts (id int primary key, amount int not null); create table savings (id int primary key, amount int not null, note text);
         insert into accounts select i, 1000 from generate_series(1, 100) i; insert into savings select i, 1000, repeat('x', 3000) from generate_series(1, 100) i",
    );
    let project = Project::new();
    pipeline(&project, FOLLOW, &from, ("[accounts, savings]", ""), "");
    catch_up(&project, FOLLOW);
    let database = Connection::open(project.path("to.db")).expect("the database");
    let number = Cell::new(0);
    let position = || {
        for _ in 0..5 {
            number.set(number.get() + 1);
            let n = number.get() % 90 + 1;
            sql(
                &from,
                &format!(
                    "begin; update accounts set amount = amount - 7 where id = {n}; update savings set amount = amount + 7 where id = {n}; commit;
                     with gone as (delete from accounts where id = {n} + 1 returning *) insert into savings select id + 1000, amount, 'moved' from gone;
                     with gone as (delete from savings where id = {n} + 1001 returning *) insert into accounts select id - 1000, amount from gone"
                ),
            );
        }
        let sum = "select (select sum(amount) from accounts) + (select sum(amount) from savings)";
        assert_eq!(database.query_row(sum, [], |row| row.get::<_, i64>(0)).expect("a sum"), 200_000);
        database
            .query_row("select position from haul_marks", [], |row| row.get::<_, Option<String>>(0))
            .expect("a mark")
            .unwrap_or_default()
    };
    kill_again(&project, FOLLOW, kills(KILLS), position);
    catch_up(&project, FOLLOW);
    for table in ["accounts", "savings"] {
        let all = format!("select id || ' ' || amount from {table} order by id");
        let mut select = database.prepare(&all).expect("a query");
        let here: Vec<String> = select.query_map([], |row| row.get(0)).expect("rows").map(|row| row.expect("a row")).collect();
        assert_eq!(here.join("\n"), sql(&from, &all), "{table}");
    }
    project.haul(&["drop", FOLLOW]).expect(0);
}
