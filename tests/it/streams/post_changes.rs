//! The changes of a table sent to an HTTP API: as events, and each to the place of its row.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::{kill_again, sql};
use crate::support::web::{Asked, Web, answer};
use crate::support::{Project, kills, postgres};

/// Kills the stream has to survive.
const KILLS: usize = 8;

/// What the server holds: its rows by their ids, and how many requests it took.
#[derive(Default)]
struct Held {
    rows: BTreeMap<i64, Value>,
    took: usize,
}

type Shared = Arc<Mutex<Held>>;

impl Held {
    fn event(&mut self, event: &Value) {
        let op = event["@op"].as_str().expect("an operation");
        let mut row = event.clone();
        row.as_object_mut().expect("an object").remove("@op");
        match op {
            "put" => self.put(row),
            "patch" => self.patch(&row),
            "delete" => {
                assert_eq!(row.as_object().expect("an object").len(), 1, "only the key came: {row}");
                self.rows.remove(&id(&row));
            }
            "clear" => self.rows.clear(),
            other => panic!("an operation `{other}`"),
        }
    }

    fn put(&mut self, mut row: Value) {
        // NULL is a missing member in JSON columns.
        row.as_object_mut().expect("an object").entry("doc").or_insert(Value::Null);
        assert_eq!(row.as_object().expect("an object").len(), 4, "a whole row: {row}");
        self.rows.insert(id(&row), row);
    }

    fn patch(&mut self, row: &Value) {
        // What is sent again may patch a row that is gone; its removal comes again behind it.
        let Some(held) = self.rows.get_mut(&id(row)) else { return };
        for (name, value) in row.as_object().expect("an object") {
            held[name] = value.clone();
        }
    }

    fn request(&mut self, asked: &Asked) -> u16 {
        let body = std::str::from_utf8(&asked.body).expect("text");
        self.took += 1;
        let Some(place) = asked.path.strip_prefix("/items/") else {
            body.lines().for_each(|line| self.event(&serde_json::from_str(line).expect("an event")));
            return 200;
        };
        let row: Value = if body.is_empty() { Value::Null } else { serde_json::from_str(body).expect("a row") };
        assert!(row.is_null() || id(&row).to_string() == place, "{row} at {place}");
        match asked.method.as_str() {
            "PUT" => self.put(row),
            "PATCH" => self.patch(&row),
            "DELETE" => {
                assert!(row.is_null());
                let held = self.rows.remove(&place.parse().expect("an id"));
                return if held.is_some() { 204 } else { 404 };
            }
            other => panic!("a method {other}"),
        }
        200
    }
}

fn id(row: &Value) -> i64 {
    row["id"].as_i64().expect("an id")
}

/// Takes changes. Of eleven requests one is too many, one meets a fault, and one is taken without an answer.
fn server(held: &Shared) -> Web {
    let held = Arc::clone(held);
    Web::start(move |asked, out| {
        match asked.number % 11 {
            2 => return answer(out, 429, &[("Retry-After", "0")], "busy"),
            4 => return answer(out, 503, &[], "broken"),
            _ => {}
        }
        let status = held.lock().expect("the rows").request(asked);
        if asked.number % 11 == 5 { Ok(()) } else { answer(out, status, &[], "") }
    })
}

/// A table with a value that is kept out of line, and so is not sent when it does not change.
const ITEMS: &str = "
    create table items (id int primary key, name text not null, doc jsonb, big text);
    alter table items alter big set storage external;
    insert into items select i, 'name ' || i, '{\"a\": [1, null]}', repeat(md5(i::text), 100) from generate_series(1, 120) i;";

/// Events, requests to the places of rows, and events to places.
const WAYS: [&str; 3] =
    ["path: /in, batch: { rows: 10 }", "path: \"/items/{{ id }}\", method: put, body: object", "path: \"/in/{{ id }}\", body: object"];

/// `more` stands among the stage's fields.
fn pipeline(project: &Project, name: &str, from: &str, web: &Web, way: &str, more: &str) {
    project.file(
        &format!("pipelines/{name}.yaml"),
        format!(
            "connections:
  from: {{ url: \"{from}\" }}
  api: {{ url: \"{}\" }}
  kept: {{ url: \"file:kept\" }}
stages:
  items:
    kind: stream
    from: {{ sql: from, changes: items }}
    to: {{ http: api, {way} }}
{more}    batch: {{ rows: 50, every: 10ms }}
    retry: {{ attempts: 9, backoff: {{ initial: 5ms, max: 50ms }} }}
",
            web.url()
        ),
    );
}

fn assert_same(from: &str, held: &Shared) {
    let rows = sql(from, "select coalesce(json_agg(to_jsonb(i) order by id), '[]') from items i");
    let rows: Vec<Value> = serde_json::from_str(&rows).expect("rows");
    let held: Vec<Value> = held.lock().expect("the rows").rows.values().cloned().collect();
    assert_eq!(held.len(), rows.len());
    held.iter().zip(&rows).for_each(|(held, row)| assert_eq!(held, row));
}

#[test]
fn an_api_with_faults_holds_what_the_table_holds() {
    for (name, way) in ["post_events", "post_places", "post_events_to_places"].into_iter().zip(WAYS) {
        let from = postgres().fresh_database();
        sql(&from, ITEMS);
        let (held, project) = (Shared::default(), Project::new());
        let web = server(&held);
        pipeline(&project, name, &from, &web, way, "");
        let catch_up = || {
            project.haul(&["run", name, "--until", "caught-up"]).expect(0);
            assert_same(&from, &held);
        };
        catch_up();
        for change in [
            "insert into items (id, name, doc) values (1000, 'né \"w\"', 'null'), (1001, '', null)",
            "update items set name = 'renamed', doc = null where id between 10 and 20",
            "begin; update items set big = repeat('x', 5000) where id = 30; update items set name = 'after it' where id = 30; commit",
            "delete from items where id between 40 and 45",
            "update items set id = 5000, big = 'short' where id = 50",
            "begin; delete from items where id = 80; insert into items (id, name) values (80, 'again'); commit",
            "begin; insert into items (id, name) values (3000, 'never seen'); delete from items where id = 3000; commit",
        ] {
            sql(&from, change);
            catch_up();
        }
        let methods: Vec<_> = web.asked().into_iter().map(|asked| asked.method).collect();
        let used = |method: &str| methods.iter().any(|used| used == method);
        assert_eq!(used("POST"), name != "post_places");
        assert!(["PUT", "PATCH", "DELETE"].iter().all(|method| used(method) == (name == "post_places")), "{methods:?}");
        let told = "the table was emptied at once";
        sql(&from, "begin; truncate items; insert into items (id, name) values (1, 'first'); commit");
        let said = project.haul(&["run", name, "--until", "caught-up"]);
        if name == "post_events" {
            said.expect(0);
            assert_same(&from, &held);
        } else {
            assert!(said.expect(1).stdout.contains(told));
        }
        project.haul(&["drop", name]).expect(0);
    }
}

/// An API cannot be told what it had under another key and what did not come.
#[test]
fn a_moved_row_with_a_value_that_did_not_come_stops_the_stream() {
    const FOLLOW: &str = "post_moved";
    let from = postgres().fresh_database();
    sql(&from, ITEMS);
    let (held, project) = (Shared::default(), Project::new());
    let web = server(&held);
    pipeline(&project, FOLLOW, &from, &web, WAYS[0], "");
    project.haul(&["run", FOLLOW, "--until", "caught-up"]).expect(0);
    sql(&from, "update items set id = 5000 where id = 50");
    let said = project.haul(&["run", FOLLOW, "--until", "caught-up"]).expect(1);
    assert!(said.stdout.contains("a row took another key and left a large value as it was"), "{said:?}");
    assert!(said.stdout.contains("replica identity full"), "{said:?}");
    project.haul(&["drop", FOLLOW]).expect(0);
}

/// What the steps leave out is removed, and what the API refuses is kept with what was sent with it.
#[test]
fn steps_and_rejects_hold_for_changes() {
    const FOLLOW: &str = "post_steps";
    let from = postgres().fresh_database();
    sql(
        &from,
        "create table items (id int primary key, name text); insert into items select i, 'name ' || i from generate_series(1, 40) i",
    );
    let seen = Arc::new(Mutex::new(BTreeMap::new()));
    let web = {
        let seen = Arc::clone(&seen);
        Web::start(move |asked, out| {
            let events = std::str::from_utf8(&asked.body).expect("text").lines();
            let events: Vec<Value> = events.map(|line| serde_json::from_str(line).expect("an event")).collect();
            if events.iter().any(|event| event["name"] == "bad") {
                return answer(out, 422, &[], "no such name");
            }
            for event in events {
                seen.lock().expect("the events").insert(event["number"].as_i64().expect("a number"), event["@op"].clone());
            }
            answer(out, 200, &[], "")
        })
    };
    let steps = "    transform: [{ filter: \"name <> 'out'\" }, { rename: { id: number } }]
    rejects: { to: { files: kept, path: bad.ndjson }, at_most: 4 }\n";
    let project = Project::new();
    pipeline(&project, FOLLOW, &from, &web, WAYS[0], steps);
    let catch_up = || project.haul(&["run", FOLLOW, "--until", "caught-up"]).expect(0);
    catch_up();
    sql(
        &from,
        "begin; update items set name = 'out' where id = 7; update items set name = 'bad' where id in (8, 21); update items set name = 'good' where id = 22;
             update items set id = 500, name = 'bad' where id = 11; commit",
    );
    catch_up();
    let seen = seen.lock().expect("the events");
    assert_eq!((seen.len(), &seen[&7], &seen[&22], &seen[&11]), (40, &"delete".into(), &"put".into(), &"put".into()));
    let kept = project.read("kept/bad.ndjson");
    assert_eq!(kept.lines().count(), 4, "the removal and the new row of a changed key go together: {kept}");
    assert!(kept.contains("no such name") && kept.contains("\\\"number\\\":21"), "{kept}");
    project.haul(&["drop", FOLLOW]).expect(0);
}

#[test]
fn places_that_do_not_name_rows_are_refused() {
    let from = postgres().fresh_database();
    sql(&from, "create table items (id int, part int, name text, primary key (id, part))");
    let (held, project) = (Shared::default(), Project::new());
    let web = server(&held);
    for way in [WAYS[1], "path: \"/items/{{ name }}\", body: object"] {
        pipeline(&project, "refused", &from, &web, way, "");
        let said = project.haul(&["plan", "refused"]).expect(2).stderr;
        assert!(said.contains("changes name their rows by (id, part), and the path of"), "{way}: {said}");
        assert!(said.contains("write a path with {{ id }} and {{ part }} and no other column"), "{way}: {said}");
    }
}

/// Killed again and again while rows change: in the end the API holds what the table holds.
#[test]
fn kills_leave_an_api_with_what_the_table_holds() {
    for (name, way) in ["post_events_killed", "post_places_killed"].into_iter().zip(WAYS) {
        let from = postgres().fresh_database();
        sql(&from, &format!("{ITEMS} create sequence fresh start 1000;"));
        let (held, project) = (Shared::default(), Project::new());
        let web = server(&held);
        pipeline(&project, name, &from, &web, way, "");
        let position = || {
            sql(
                &from,
                "insert into items (id, name) values (nextval('fresh'), 'new'); update items set name = name || '.' where id % 13 = extract(second from now())::int % 13;
                 delete from items where id in (select id from items order by random() limit 1);
                 update items set id = nextval('fresh') where big is null and id % 7 = 0 and id > 1000",
            );
            held.lock().expect("the rows").took
        };
        // A copy that is cut begins anew, and removes nothing.
        project.haul(&["run", name, "--until", "caught-up"]).expect(0);
        kill_again(&project, name, kills(KILLS), position);
        project.haul(&["run", name, "--until", "caught-up"]).expect(0);
        assert_same(&from, &held);
        project.haul(&["drop", name]).expect(0);
    }
}
