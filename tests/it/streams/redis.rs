//! Streams into Redis, looked at with another client.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{kill_again, sql};
use crate::support::redis::{ask, cluster, connect, redis};
use crate::support::{Project, kills, postgres};

type Documents = BTreeMap<i64, serde_json::Value>;

/// Kills the streams have to survive.
const KILLS: usize = 80;

fn pipeline(project: &Project, name: &str, from: &str, to: &str, stages: &str) {
    let connections = format!("connections:\n  from: {{ url: \"{from}\" }}\n  to: {{ url: \"{to}\" }}\n");
    project.file(&format!("pipelines/{name}.yaml"), format!("{connections}stages:\n{stages}"));
}

/// The JSON objects, or the hashes as JSON objects, of all keys that begin with a text, in the order of their numbers.
fn documents(url: &str, begin: &str) -> Documents {
    let mut redis = connect(url);
    let keys: Vec<String> = ask(&mut redis, &["KEYS", &format!("{begin}*")]);
    let id = |key: &String| key[begin.len()..].parse().expect("a number");
    let document = |key: &String| match ask::<String>(&mut connect(url), &["TYPE", key]).as_str() {
        "hash" => serde_json::to_value(ask::<BTreeMap<String, String>>(&mut connect(url), &["HGETALL", key])).expect("a hash"),
        _ => serde_json::from_str(&ask::<String>(&mut connect(url), &["GET", key])).expect("JSON"),
    };
    keys.iter().map(|key| (id(key), document(key))).collect()
}

/// The same of a table, by its column `id`; as texts and without NULLs when it is to be compared with hashes.
fn table(url: &str, table: &str, texts: bool) -> Documents {
    let row = if texts {
        "select json_object_agg(key, value) from json_each_text(to_json(t)) where value is not null"
    } else {
        "select to_json(t)"
    };
    let rows = sql(url, &format!("select id || ' ' || ({row})::text from {table} t"));
    let split = |line: &str| {
        let (id, document) = line.split_once(' ').expect("an id");
        (id.parse().expect("a number"), serde_json::from_str(document).expect("JSON"))
    };
    rows.lines().map(split).collect()
}

#[track_caller]
fn assert_same(found: &Documents, expected: &Documents) {
    let other = |id: &&i64| found.get(id) != expected.get(id);
    if let Some(id) = found.keys().chain(expected.keys()).find(other) {
        panic!("{} keys and {} rows; {id} is {:?}, and should be {:?}", found.len(), expected.len(), found.get(id), expected.get(id));
    }
}

#[test]
fn every_kind_of_change_arrives() {
    const FOLLOW: &str = "redis_kinds";
    let (from, to) = (postgres().fresh_database(), redis().fresh_database());
    sql(
        &from,
        "create table items (id int primary key, name text, n int, big text, doc jsonb); alter table items alter big set storage external;
         alter table items alter doc set storage external;
         insert into items select i, 'name ' || i, i, repeat(md5(i::text), 200), case when i % 3 = 0 then jsonb_build_object('j', repeat('j', 5000)) end
         from generate_series(1, 120) i",
    );
    let project = Project::new();
    let stage = |name: &str, shape: &str| {
        format!(
            "  {name}:\n    kind: stream\n    from: {{ sql: from, changes: items }}\n    to: {{ redis: to, {shape} }}\n    batch: {{ rows: 50, every: 20ms }}\n"
        )
    };
    let stages = stage("hashes", "hash: \"hash:{{ id }}\"") + &stage("documents", "json: \"json:{{ id }}\"");
    pipeline(&project, FOLLOW, &from, &to, &stages);
    ask::<()>(&mut connect(&to), &["SET", "other:1", "stays"]);
    let same = || {
        project.haul(&["run", FOLLOW, "--until", "caught-up"]).expect(0);
        assert_same(&documents(&to, "hash:"), &table(&from, "items", true));
        let mut expected = table(&from, "items", false);
        // A NULL in a column of JSON is a member that is not there: `null` is a value.
        expected.values_mut().for_each(|row| drop(row["doc"].is_null().then(|| row.as_object_mut().expect("a row").remove("doc"))));
        assert_same(&documents(&to, "json:"), &expected);
        assert_eq!(ask::<String>(&mut connect(&to), &["GET", "other:1"]), "stays");
    };
    same();
    for change in [
        "insert into items values (1000, 'new', null, null, '[null]'), (1001, '', 1, '', '{\"a\": [1]}')",
        // Large values stay behind, alone, after one that came in the same transaction, and before one that takes them away.
        "update items set name = 'renamed' where id between 10 and 20",
        "begin; update items set big = repeat('x', 5000) where id = 30; update items set name = 'after it' where id = 30; commit",
        "begin; update items set name = 'before it' where id = 31; update items set big = null where id = 31; commit",
        "begin; insert into items values (2000, 'new', 1, repeat('y', 5000), null); update items set name = 'at once' where id = 2000; commit",
        "delete from items where id between 40 and 45",
        // Keys move, swap places through a third, and come back.
        "update items set id = 5000 where id = 50; update items set id = id + 10000 where id between 60 and 69",
        "begin; update items set id = -1 where id = 71; update items set id = 71 where id = 72; update items set id = 72 where id = -1; commit",
        "begin; update items set id = 6000 where id = 75; update items set name = 'moved twice', id = 6001 where id = 6000; commit",
        "begin; delete from items where id = 80; insert into items (id, name) values (80, 'again'); commit",
        "begin; insert into items (id, name) values (3000, 'never seen'); delete from items where id = 3000; commit",
        "begin; update items set name = 'rolled back'; rollback",
        // More than is held in memory, in one transaction, with keys that move to and fro in between.
        "begin; insert into items select i, 'many', i, repeat(md5(i::text), 150), null from generate_series(20000, 24999) i;
         update items set id = id + 100000 where id between 20000 and 20009; delete from items where id between 20010 and 24000;
         update items set name = 'last' where id > 24500; commit",
        "begin; insert into items (id, name) values (3001, 'gone with the rest'); truncate items;
         insert into items select i, 'many', i, repeat(md5(i::text), 150), null from generate_series(1, 5000) i; update items set n = 7 where id < 9; commit",
        "truncate items",
        "insert into items (id, name) values (1, 'first'), (2, 'second')",
    ] {
        sql(&from, change);
        same();
    }
    let removed = "a row was changed in part, and its key `json:7` is missing";
    sql(&from, "insert into items values (7, 'seven', 1, repeat('7', 5000))");
    same();
    ask::<i64>(&mut connect(&to), &["DEL", "json:7"]);
    sql(&from, "update items set n = 8 where id = 7");
    let said = project.haul(&["run", FOLLOW, "--until", "caught-up"]).expect(1);
    assert!(said.stdout.contains(removed), "{said:?}");
    project.haul(&["drop", FOLLOW]).expect(0);
}

#[test]
fn what_changes_cannot_be_applied_to_is_told() {
    let from = postgres().fresh_database();
    sql(&from, "create table items (id int, part int, name text, primary key (id, part))");
    let project = Project::new();
    let cluster = cluster();
    let server = redis().fresh_database();
    for (url, to, part) in [
        (&server, "hash: \"item:{{ id }}\"", "write a key with {{ id }} and {{ part }} and no other column"),
        (&server, "hash: \"item:{{ id }}:{{ part }}:{{ name }}\"", "changes name their rows by (id, part)"),
        (&cluster.nodes[0].url(), "hash: \"item:{{ id }}:{{ part }}\"", "cannot be applied exactly once"),
    ] {
        let stage = format!("  s:\n    kind: stream\n    from: {{ sql: from, changes: items }}\n    to: {{ redis: to, {to} }}\n");
        pipeline(&project, "refused", &from, url, &stage);
        let said = project.haul(&["plan", "refused"]).expect(2);
        assert!(said.stderr.contains(part), "{to}: {}", said.stderr);
    }
}

/// A table that only grows into a list, one that changes into hashes, and its changes into JSON, with kills at random moments.
#[test]
fn what_is_followed_arrives_whole_under_kills() {
    const FOLLOW: &str = "redis_kills";
    let (from, to) = (postgres().fresh_database(), redis().fresh_database());
    sql(
        &from,
        "create table log (id bigserial primary key, value text not null);
         create sequence version; create sequence fresh start 1001; create table items (id int primary key, name text not null, version bigint not null);
         create table moving (id int primary key, n int not null, big text); alter table moving alter big set storage external;
         insert into moving select i, 0, repeat(md5(i::text), 100) from generate_series(1, 200) i",
    );
    let project = Project::new();
    let stage = |name: &str, from: &str, more: &str, to: &str| {
        format!(
            "  {name}:\n    kind: stream\n    from: {{ sql: from, {from} }}\n{more}    to: {{ redis: to, {to} }}\n    batch: {{ rows: 50, every: 10ms }}\n"
        )
    };
    let stages = stage(
        "log",
        "table: log, cursor: id, every: 10ms",
        "    transform: [{ set: { value: \"id || ' ' || value\" } }, { select: [value] }]\n",
        "list: log",
    ) + &stage("items", "table: items, cursor: version, every: 10ms", "", "hash: \"item:{{ id }}\"")
        + &stage("moving", "changes: moving", "", "json: \"moving:{{ id }}\"");
    pipeline(&project, FOLLOW, &from, &to, &stages);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (from, stop) = (from.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                sql(
                    &from,
                    "insert into log (value) select repeat('x', (random() * 100)::int) from generate_series(1, 40);
                     insert into items select (random() * 300)::int, 'new', nextval('version') on conflict (id)
                     do update set name = 'changed ' || excluded.version, version = excluded.version;
                     update moving set n = n + 1 where id % 10 = (random() * 9)::int;
                     begin; update moving set id = nextval('fresh') where id < 1000 and id % 25 = (random() * 24)::int;
                     update moving set n = n + 1 where id % 7 = (random() * 6)::int;
                     delete from moving where id > 1000 and id % 5 = (random() * 4)::int;
                     insert into moving select i, 1, repeat('y', 3000) from generate_series(1, 200) i where i % 20 = (random() * 19)::int
                     on conflict do nothing; commit",
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        })
    };
    let items = || ask::<Vec<String>>(&mut connect(&to), &["LRANGE", "log", "0", "-1"]);
    kill_again(&project, FOLLOW, kills(KILLS), || ask::<usize>(&mut connect(&to), &["LLEN", "log"]));
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("the writer");
    project.haul(&["run", FOLLOW, "--until", "caught-up"]).expect(0);
    let expected = sql(&from, "select id || ' ' || value from log order by id");
    assert!(items().iter().map(String::as_str).eq(expected.lines()), "the list is not the table");
    assert_same(&documents(&to, "item:"), &table(&from, "items", true));
    assert_same(&documents(&to, "moving:"), &table(&from, "moving", false));
    project.haul(&["drop", FOLLOW]).expect(0);
}
