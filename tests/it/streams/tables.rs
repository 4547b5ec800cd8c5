//! Following several tables as one stream: one slot, one order, and transactions that stay whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{kill_again, sql};
use crate::support::{Project, kills, postgres};

fn pipeline(project: &Project, name: &str, (from, to): (&str, &str), tables: &str, output: &str) {
    project.file(
        &format!("pipelines/{name}.yaml"),
        format!(
            "connections:
  from: {{ url: \"{from}\" }}
  to: {{ url: \"{to}\" }}
stages:
  shop:
    kind: stream
    from: {{ sql: from, changes: [{tables}] }}
    to: {{ sql: to, {output}mode: upsert }}
    batch: {{ rows: 100, every: 10ms }}
    retry: {{ backoff: {{ initial: 50ms, max: 500ms }} }}
"
        ),
    );
}

fn catch_up(project: &Project, name: &str) {
    project.haul(&["run", name, "--until", "caught-up"]).expect(0);
}

#[track_caller]
fn assert_same(from: &str, to: &str, tables: &[(&str, &str)]) {
    for (table, copy) in tables {
        let digest = |table: &str| format!("select count(*), md5(string_agg(t::text, ' ' order by t::text)) from {table} t");
        assert_eq!(sql(from, &digest(table)), sql(to, &digest(copy)), "{table}");
    }
}

/// Customers, who have orders, which have lines of a key of two columns.
const SHOP: &str = "
    create table customers (id int primary key, name text not null, about text);
    create table orders (id int primary key, customer int not null references customers, total numeric(10,2));
    create table lines (order_id int references orders, line int, what text, primary key (order_id, line));
    alter table customers alter about set storage external;
    insert into customers select i, 'customer ' || i, repeat(md5(i::text), 200) from generate_series(1, 50) i;
    insert into orders select i, 1 + i % 50, i / 7.0 from generate_series(1, 300) i;
    insert into lines select i, n, 'thing' from generate_series(1, 300) i, generate_series(1, 3) n;";

const TABLES: [(&str, &str); 3] = [("lines", "lines"), ("orders", "orders"), ("customers", "customers")];

#[test]
fn transactions_over_several_tables_arrive_whole_and_in_order() {
    const FOLLOW: &str = "shop";
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(&from, SHOP);
    // The target refers from table to table as the source does, so what goes and what comes must do so in the right order.
    sql(&to, SHOP);
    sql(&to, "truncate lines, orders, customers");
    let project = Project::new();
    pipeline(&project, FOLLOW, (&from, &to), "lines, orders, public.customers", "");
    catch_up(&project, FOLLOW);
    assert_same(&from, &to, &TABLES);
    for change in [
        "begin; insert into customers values (100, 'new', 'short'); insert into orders values (1000, 100, 5); insert into lines values (1000, 1, 'first'); commit",
        "begin; delete from lines where order_id = 7; delete from orders where id = 7; commit",
        "begin; delete from lines where order_id in (select id from orders where customer = 3); delete from orders where customer = 3; delete from customers where id = 3; commit",
        // A key of two columns moves; a large value of another table stays behind.
        "begin; update lines set line = line + 10 where order_id = 8; update customers set name = 'renamed' where id = 9; update orders set total = -1 where customer = 9; commit",
        "begin; update orders set total = 1 where id = 20; update customers set about = repeat('x', 4000) where id = 21; update customers set name = 'after it' where id = 21; commit",
        "begin; insert into customers values (200, 'gone', null); insert into orders values (2000, 200, 1); rollback",
        // A truncate concerns its own table, and what comes before it in others stays.
        "begin; update customers set name = 'before'; truncate lines; insert into lines values (1000, 2, 'after'); commit",
        "begin; truncate lines, orders; delete from customers where id = 11; insert into orders values (1, 12, 3); commit",
        "begin; truncate lines, orders, customers; insert into customers values (1, 'first', null); insert into orders values (1, 1, 2); commit",
    ] {
        sql(&from, change);
        catch_up(&project, FOLLOW);
        assert_same(&from, &to, &TABLES);
    }
    let plan = project.haul(&["plan", FOLLOW]).expect(0).stdout;
    assert!(plan.contains("public.lines: 3 columns, key order_id, line") && plan.contains("public.orders → orders"), "{plan}");
    let slots = sql(&from, "select count(*) from pg_replication_slots where database = current_database()");
    let published = sql(&from, "select count(*) from pg_publication_tables");
    assert_eq!((slots.as_str(), published.as_str()), ("1", "3"));
    let said = project.haul(&["drop", FOLLOW]).expect(0).stdout;
    assert!(said.contains("haul_shop_shop_"), "{said}");
    let left =
        "select (select count(*) from pg_replication_slots where database = current_database()) + (select count(*) from pg_publication)";
    assert_eq!(sql(&from, left), "0");
}

#[test]
fn tables_are_made_under_the_names_that_are_asked_for() {
    const FOLLOW: &str = "names";
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(&from, SHOP);
    sql(&from, "create table \"odd.One\" (\"The Key\" text primary key, n int); insert into \"odd.One\" values ('a', 1)");
    sql(&to, "create schema copies");
    let project = Project::new();
    pipeline(&project, FOLLOW, (&from, &to), "orders, customers, '\"odd.One\"'", "table: 'copies.the_{{ table }}', ");
    catch_up(&project, FOLLOW);
    sql(&from, "begin; update \"odd.One\" set \"The Key\" = 'b'; update orders set total = 0 where id = 1; commit");
    catch_up(&project, FOLLOW);
    let made = [("orders", "copies.the_orders"), ("customers", "copies.the_customers"), ("\"odd.One\"", "copies.\"the_odd.One\"")];
    assert_same(&from, &to, &made);
    // The position is kept once, in the schema of the first.
    assert_eq!(sql(&to, "select count(*) from copies.haul_marks"), "1");
    project.haul(&["drop", FOLLOW]).expect(0);
}

/// What refers to a row that goes may refer to another one from then on; what the source lets through must not stop at the target, and nothing
/// may go there that stays here.
#[test]
fn rows_whose_references_move_stay_with_what_refers_to_them() {
    for (name, deletes) in [("refer", ""), ("cascade", "on delete cascade")] {
        let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
        let shop = format!(
            "create table customers (id int primary key, name text);
             create table orders (id int primary key, customer int not null references customers on update cascade {deletes}, note text unique);
             create table lines (id int primary key, order_id int references orders {deletes}, line int, unique (order_id, line));"
        );
        sql(&from, &shop);
        sql(&to, &shop);
        sql(
            &from,
            "insert into customers select i, 'customer ' || i from generate_series(1, 9) i; insert into orders select i, 1 + i % 9, 'note ' || i from generate_series(1, 90) i;
             insert into lines select i * 10 + n, i, n from generate_series(1, 90) i, generate_series(1, 2) n",
        );
        let project = Project::new();
        pipeline(&project, name, (&from, &to), "customers, orders, lines", "");
        catch_up(&project, name);
        for change in [
            "begin; update orders set customer = 2 where customer = 1; delete from customers where id = 1; commit",
            "update customers set id = 100 where id = 3",
            "begin; insert into customers values (200, 'new'); update orders set customer = 200 where customer in (4, 5); delete from customers where id in (4, 5); delete from lines where order_id = 7; commit",
            // A value that must be unique goes from row to row, against the order of the keys.
            "update orders set note = 'free' where id = 9; update orders set note = 'note 9' where id = 8; update orders set note = 'note 8' where id = 6",
            // It comes from rows that go.
            "begin; update orders set note = note || '!' where id = 12; delete from lines where order_id = 12; insert into lines values (9001, 12, 1), (9002, 12, 2); commit",
            "begin; delete from lines where order_id = 11; delete from orders where id = 11; insert into orders values (500, 2, 'note 11'); commit",
        ] {
            sql(&from, change);
            catch_up(&project, name);
            assert_same(&from, &to, &TABLES);
        }
        // Neither order fits: what refers to the row that goes stays, and the row that comes has its unique value.
        sql(
            &from,
            "begin; update lines set order_id = 14, line = line + 10 where order_id = 13; delete from orders where id = 13; insert into orders values (501, 2, 'note 13'); commit",
        );
        let before = sql(&to, "select count(*) from lines");
        project.haul(&["run", name, "--until", "caught-up"]).expect(1);
        assert_eq!(sql(&to, "select count(*) from lines"), before, "nothing went with the row");
        sql(&to, "alter table orders drop constraint orders_note_key, add unique (note) deferrable initially deferred");
        catch_up(&project, name);
        assert_same(&from, &to, &TABLES);
        project.haul(&["drop", name]).expect(0);
    }
}

/// A source that does not refer from table to table, as its target does, may empty a table in the transaction that removes what refers to it.
#[test]
fn tables_are_emptied_behind_what_refers_to_them() {
    const FOLLOW: &str = "linked";
    const LINKED: [(&str, &str); 2] = [("orders", "orders"), ("lines", "lines")];
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    let shop = |refers: &str| {
        format!(
            "create table orders (id int primary key, note text unique); create table lines (id int primary key, order_id int {refers});"
        )
    };
    sql(&from, &shop(""));
    sql(&to, &shop("references orders"));
    let rows = "insert into orders select i, 'note ' || i from generate_series(1, 5) i; insert into lines select i, 1 + i % 5 from generate_series(1, 9) i";
    sql(&from, rows);
    let project = Project::new();
    pipeline(&project, FOLLOW, (&from, &to), "orders, lines", "");
    catch_up(&project, FOLLOW);
    assert_same(&from, &to, &LINKED);
    for change in [
        "begin; delete from lines; truncate orders; commit",
        &format!("begin; {rows}; commit"),
        "begin; truncate orders; delete from lines; commit",
    ] {
        sql(&from, change);
        catch_up(&project, FOLLOW);
        assert_same(&from, &to, &LINKED);
    }
    project.haul(&["drop", FOLLOW]).expect(0);
}

/// Kills the stream has to survive.
const KILLS: usize = 30;

#[test]
fn sums_over_two_tables_agree_in_every_snapshot_under_kills() {
    const FOLLOW: &str = "sums";
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    let accounts = "create table accounts (id int primary key, amount int not null); create table savings (id int primary key, amount int not null, note text);";
    sql(&from, accounts);
    sql(
        &from,
        "insert into accounts select i, 1000 from generate_series(1, 100) i; insert into savings select i, 1000, repeat('x', 3000) from generate_series(1, 100) i",
    );
    sql(&to, accounts);
    let project = Project::new();
    pipeline(&project, FOLLOW, (&from, &to), "accounts, savings", "");
    catch_up(&project, FOLLOW);
    let stop = Arc::new(AtomicBool::new(false));
    let load = [
        // Money moves from one table to the other, keys move, rows leave one table for the other: the sum over both stays what it is.
        "update accounts set amount = amount - 7 where id = n; update savings set amount = amount + 7 where id = n",
        "update savings set amount = amount - 3 where id between n and n + 5; update accounts set amount = amount + 3 where id between n and n + 5",
        "with gone as (delete from accounts where id = n returning *) insert into savings select id + 1000, amount, 'moved' from gone",
        "with gone as (delete from savings where id = n + 1000 returning *) insert into accounts select id - 1000, amount from gone",
        "update accounts set id = -id where id in (n, -n)",
    ];
    let writers: Vec<_> = load
        .into_iter()
        .map(|load| {
            let (from, stop) = (from.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                // An update that finds only one of its two rows would change the sum: it is rolled back.
                let text = format!(
                    "do $$ declare n int := 1 + random() * 94; begin {load};
                     if (select sum(amount) from (select amount from accounts union all select amount from savings) a) <> 200000 then raise 'no'; end if;
                     exception when others then null; end $$"
                );
                while !stop.load(Ordering::Relaxed) {
                    sql(&from, &format!("set default_transaction_isolation = 'repeatable read'; {text}"));
                    std::thread::sleep(Duration::from_millis(10));
                }
            })
        })
        .collect();
    let looking = {
        let (to, stop) = (to.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut seen = std::collections::BTreeSet::new();
            while !stop.load(Ordering::Relaxed) {
                let found = sql(
                    &to,
                    "select (select sum(amount) from accounts) + (select sum(amount) from savings), (select sum(amount) from accounts)",
                );
                let (sum, part) = found.split_once('|').expect("two numbers");
                assert_eq!(sum, "200000", "a snapshot of the target that the source never was in");
                seen.insert(part.to_owned());
                std::thread::sleep(Duration::from_millis(5));
            }
            seen.len()
        })
    };
    let position = || sql(&to, "select position from haul_marks");
    kill_again(&project, FOLLOW, kills(KILLS), position);
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().expect("a writer");
    }
    let seen = looking.join().expect("every snapshot agrees");
    catch_up(&project, FOLLOW);
    assert_same(&from, &to, &[("accounts", "accounts"), ("savings", "savings")]);
    assert!(seen > 5, "only {seen} states of the target were seen");
    project.haul(&["drop", FOLLOW]).expect(0);
}
