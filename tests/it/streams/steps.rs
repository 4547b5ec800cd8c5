//! Steps on the changes of a table: at every moment the target is what the steps make of the source.

use rusqlite::Connection;

use super::sql;
use crate::support::{Project, postgres};

const TABLES: &str = "
    create table regions (region int primary key, title text not null);
    insert into regions values (0, 'north'), (1, 'south'), (2, 'west');
    create table items (id int primary key, name text, status text not null, n int not null, region int, big text);
    alter table items alter big set storage external;
    insert into items select i, 'name ' || i, case when i % 5 = 0 then 'test' else 'new' end, i, i % 4, repeat(md5(i::text), 100)
    from generate_series(1, 200) i;";

fn project(from: &str, to: &str) -> Project {
    let project = Project::new();
    project.file(
        "pipelines/steps.yaml",
        format!(
            "connections:
  from: {{ url: \"{from}\" }}
  to: {{ url: \"{to}\" }}
stages:
  regions:
    kind: cache
    key: [region]
    from: {{ sql: from, table: regions }}
  items:
    kind: stream
    from: {{ sql: from, changes: items }}
    transform:
      - filter: \"status <> 'test'\"
      - lookup: {{ cache: regions, on: region, add: [title], missing: drop }}
      - set: {{ label: \"upper(name)\", n: \"100 / n\" }}
      - select: [label, title, big, id, n]
      - rename: {{ id: number }}
      - cast: {{ n: int64 }}
    to: {{ sql: to, table: items, mode: upsert, key: [number] }}
    rejects: {{ to: {{ files: rejects, path: \"bad.ndjson\" }}, at_most: 100 }}
    batch: {{ rows: 64, every: 10ms }}
    retry: {{ backoff: {{ initial: 50ms, max: 500ms }} }}
"
        )
        .replacen("connections:\n", "connections:\n  rejects: { url: \"file:.\" }\n", 1),
    );
    project
}

#[track_caller]
fn assert_stepped(from: &str, to: &str) {
    let wanted = "select count(*), md5(string_agg(concat_ws('|', upper(name), title, big, id, 100 / n), ' ' order by id))
                  from (select * from items where n <> 0) i join regions using (region) where status <> 'test'";
    let found = "select count(*), md5(string_agg(concat_ws('|', label, title, big, number, n), ' ' order by number)) from items";
    assert_eq!(sql(from, wanted), sql(to, found));
}

#[test]
fn steps_work_on_changes() {
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(&from, TABLES);
    let project = project(&from, &to);
    let catch_up = || project.haul(&["run", "steps", "--until", "caught-up"]);
    catch_up().expect(0);
    assert_stepped(&from, &to);
    // An update that leaves a large value as it is does not send it, and the steps need whole rows. The plan says so before.
    let warned = || project.haul(&["plan", "steps"]).expect(0).stderr;
    assert!(warned().contains("partial-rows") && warned().contains("`name` or `status` or `big`"), "{}", warned());
    let said = project.haul(&["validate", "--online"]).expect(0).stdout;
    assert!(said.contains("partial-rows") && said.contains("1 warning"), "{said}");
    sql(&from, "update items set name = 'again' where id = 1");
    let said = catch_up().expect(1).stdout;
    assert!(said.contains("`big`") && said.contains("replica identity full"), "{said}");
    sql(&from, "alter table items replica identity full");
    assert!(!warned().contains("partial-rows"), "{}", warned());
    project.haul(&["run", "steps", "--until", "caught-up", "--fresh"]).expect(0);
    assert_stepped(&from, &to);
    for change in [
        "insert into items values (1000, 'new', 'new', 3, 1, 'x'), (1001, 'hidden', 'test', 3, 1, 'x'), (1002, null, 'new', 9, 2, null)",
        "update items set name = name || '.' where id between 10 and 20",
        // Rows that leave the filter are gone at the target, and those that enter it come.
        "update items set status = 'test' where id between 30 and 40; update items set status = 'new' where id between 44 and 60",
        "begin; insert into items values (2000, 'at first', 'new', 3, 1, 'x'); update items set status = 'test' where id = 2000; commit",
        "begin; update items set status = 'test' where id = 61; update items set status = 'new', n = 7 where id = 61; commit",
        // A lookup that finds nothing any more, or something again.
        "update items set region = 3 where id between 70 and 80; update items set region = 2 where id between 83 and 90",
        "delete from items where id between 100 and 110 or id = 1001",
        "update items set id = id + 5000 where id between 120 and 130; update items set id = 9000, status = 'test' where id = 131",
        "begin; update items set id = -1 where id = 141; update items set id = 141 where id = 142; update items set id = 142 where id = -1; commit",
        // A row that a step refuses is nowhere but with the bad rows, until it is put right.
        "update items set n = 0 where id = 152",
        "update items set n = 5 where id = 152",
        "begin; truncate items; insert into items values (1, 'first', 'new', 1, 1, 'y'), (2, 'second', 'test', 1, 1, 'y'); commit",
    ] {
        sql(&from, change);
        catch_up().expect(0);
        assert_stepped(&from, &to);
    }
    let bad = project.read("bad.ndjson");
    assert!(bad.contains("id=152") && !bad.contains("haul row"), "{bad}");
    project.haul(&["drop", "steps"]).expect(0);
}

#[test]
fn a_step_must_not_lose_the_key() {
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(&from, TABLES);
    let project = Project::new();
    for (step, said) in [
        ("drop: [id]", "`id` is part of the table's key"),
        ("set: { id: \"id + 1\" }", "`id` is part of the table's key"),
        ("rename: { id: other }", "the key's column `id` does not come in"),
        ("filter: \"zzzzzzzz > 1\"", "the columns are `id`, `name`, `status`, `n`, `region`, `big`"),
    ] {
        project.file(
            "pipelines/lost.yaml",
            format!(
                "connections:\n  from: {{ url: \"{from}\" }}\n  to: {{ url: \"{to}\" }}\nstages:\n  items:\n    kind: stream
    from: {{ sql: from, changes: items }}\n    transform: [{{ {step} }}]\n    to: {{ sql: to, table: items, mode: upsert, key: [id] }}\n"
            ),
        );
        let plan = project.haul(&["plan", "lost"]).expect(2);
        let all = format!("{}{}", plan.stdout, plan.stderr);
        assert!(all.contains(said), "{step}:\n{all}");
    }
}

#[test]
fn types_of_the_server_alone_come_as_text_where_steps_or_targets_need_it() {
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(
        &from,
        "create domain address as inet;
         create table hosts (ip inet primary key, name text, own address, ips inet[], spot point);
         insert into hosts values ('10.0.0.1', 'one', '::1', '{10.0.0.1,null}', '(1,2)'), ('10.0.0.2', 'two', null, null, null)",
    );
    let project = Project::new();
    project.file(
        "pipelines/hosts.yaml",
        format!(
            "connections:
  from: {{ url: \"{from}\" }}
  to: {{ url: \"{to}\" }}
  lite: {{ url: \"sqlite:to.db\" }}
stages:
  plain:
    kind: stream
    from: {{ sql: from, changes: hosts }}
    to: {{ sql: lite, table: hosts, mode: upsert, key: [ip] }}
  steps:
    kind: stream
    from: {{ sql: from, changes: hosts }}
    transform:
      - filter: \"ip <> '10.0.0.9/32' and cast(spot as text) <> '(9,9)'\"
      - mask: {{ own: {{ hash: pepper }} }}
    to: {{ sql: to, table: hosts, mode: upsert, key: [ip] }}
"
        ),
    );
    let wanted = |columns: &str, table: &str| {
        sql(&from, &format!("select string_agg(concat_ws('|', {columns}), ' ' order by ip::text collate \"C\") from {table}"))
    };
    let check = || {
        project.haul(&["run", "hosts", "--until", "caught-up"]).expect(0);
        let lite = Connection::open(project.path("to.db")).expect("the database");
        let rest: String = ["name", "own", "ips", "spot"].map(|column| format!(" || coalesce('|' || {column}, '')")).concat();
        let query = format!("select group_concat(ip{rest}, ' ') from (select * from hosts order by ip)");
        let found: String = lite.query_row(&query, [], |row| row.get(0)).expect("rows");
        assert_eq!(found, wanted("ip::text, name, own::text, ips::text, spot::text", "hosts"));
        let own = "encode(sha256(convert_to('pepper' || own::text, 'UTF8')), 'hex')";
        assert_eq!(
            sql(&to, "select string_agg(concat_ws('|', ip, name, own, ips::text, spot), ' ' order by ip collate \"C\") from hosts"),
            wanted(&format!("ip::text, name, {own}, ips::text, spot::text"), "hosts where ip <> '10.0.0.9' and spot::text <> '(9,9)'")
        );
    };
    check();
    for change in [
        "insert into hosts select '10.0.1.0'::inet + i, 'host ' || i, '10.1.0.0'::inet + i, array['::1'::inet], point(i, 1) from generate_series(0, 2500) i",
        "insert into hosts values ('10.0.0.9', 'hidden', '::2', '{}', '(1,1)'), ('10.0.0.8', 'hidden too', null, null, '(9,9)')",
        "update hosts set ip = '10.0.0.7', spot = null where ip = '10.0.0.1'; update hosts set own = '10.0.0.0/8' where ip = '10.0.1.5'",
        "delete from hosts where ip > '10.0.2.0'; update hosts set spot = '(9,9)' where ip = '10.0.1.7'",
    ] {
        sql(&from, change);
        check();
    }
    project.haul(&["drop", "hosts"]).expect(0);
}
