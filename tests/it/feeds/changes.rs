//! The changes of a PostgreSQL table as a feed: rows that go, rows that get other keys, values that were not sent, and the newest row of each.

use std::collections::BTreeMap;

use super::*;
use crate::support::postgres;

/// The rows of a client that applies every event.
#[derive(Default)]
struct Mirror(BTreeMap<i64, Value>);

impl Mirror {
    fn apply(&mut self, event: &Value) {
        match event["@op"].as_str() {
            Some("put") => {
                let mut row = event.clone();
                for own in ["@id", "@op"] {
                    row.as_object_mut().expect("an object").remove(own);
                }
                self.0.insert(row["id"].as_i64().expect("a key"), row);
            }
            Some("delete") => {
                assert_eq!(event.as_object().expect("an object").len(), 3, "a key and nothing else: {event}");
                self.0.remove(&event["id"].as_i64().expect("a key")).unwrap_or_else(|| panic!("{event} is of no row"));
            }
            Some("clear") => self.0.clear(),
            _ => panic!("{event}"),
        }
    }

    /// As the database has them.
    fn table(url: &str) -> BTreeMap<i64, Value> {
        let text = postgres().sql(url, "select coalesce(json_object_agg(id, row_to_json(a)), '{}') from a");
        let rows: BTreeMap<String, Value> = serde_json::from_str(&text).expect("JSON");
        rows.into_iter().map(|(id, row)| (id.parse().expect("a number"), row)).collect()
    }
}

#[test]
fn changes_become_events_and_the_newest_rows_are_those_of_the_table() {
    let source = postgres().fresh_database();
    let project = Project::new();
    project.file("haul.yaml", "feeds: { listen: \"127.0.0.1:0\" }\n");
    project.file(
        "pipelines/p.yaml",
        "connections:\n  db: { url: \"{{ env.SOURCE_URL }}\" }
stages:
  a:
    kind: stream
    from: { sql: db, changes: public.a }
    to: { feed: a, key: id }
    batch: { every: 10ms }
",
    );
    project.file(".env", format!("SOURCE_URL={source}\n"));
    let sql = |text: &str| postgres().sql(&source, text);
    // Values this large are kept apart, and not sent when they stay as they are.
    sql("create table a (id bigint primary key, name text, large text);
         alter table a alter large set storage external;
         insert into a select i, 'row ' || i, repeat(md5(i::text), 400) from generate_series(1, 200) i");
    let haul = Haul::start(&project, &["run", "p"]);
    haul.until_head(&project, 200);
    let address = haul.address();
    let mut client = get(&address, "/feeds/a?from=start", &[]);
    client.object();
    let mut mirror = Mirror::default();
    let mut follow = |mirror: &mut Mirror, what: &str| {
        let expected = Mirror::table(&source);
        let mut count = 0;
        while mirror.0 != expected {
            count += 1;
            assert!(count < 5000, "{what}");
            mirror.apply(&client.object());
        }
    };
    follow(&mut mirror, "the copy");
    sql("update a set name = name || '!' where id % 2 = 0; delete from a where id % 5 = 0");
    follow(&mut mirror, "updates that leave large values as they are");
    sql("update a set id = -id where id <= 20");
    follow(&mut mirror, "other keys");
    // A late client begins with the newest rows, and goes on with what is new; so does one that speaks another protocol.
    let mut late = get(&address, "/feeds/a?from=snapshot&as=sse", &[]);
    let start = late.event();
    assert_eq!(start["snapshot"], true);
    sql("update a set name = 'late' where id % 3 = 0; delete from a where id = 31");
    let mut newest = Mirror::default();
    let mut up_to = None;
    while up_to.is_none() {
        let event = late.event();
        if event["@feed"] == "snapshot_end" {
            up_to = event["place"].as_str().map(str::to_owned);
        } else {
            assert!(!newest.0.contains_key(&event["id"].as_i64().expect("a key")), "one row of each key: {event}");
            newest.apply(&event);
        }
    }
    assert_eq!(up_to.as_deref(), start["place"].as_str().and_then(|place| place.split('/').next()));
    let expected = Mirror::table(&source);
    while newest.0 != expected {
        newest.apply(&late.event());
    }
    follow(&mut mirror, "the late changes");
    sql("truncate a; insert into a values (7, 'after', null)");
    follow(&mut mirror, "an emptied table");
    let (mut next, mut polled) = ("snapshot".to_owned(), Mirror::default());
    while polled.0 != mirror.0 {
        let answer = get(&address, &format!("/feeds/a?as=poll&limit=3&from={next}"), &[]).json();
        answer["events"].as_array().expect("events").iter().for_each(|event| polled.apply(event));
        answer["next"].as_str().expect("a place").clone_into(&mut next);
    }
    haul.stop();
    project.haul(&["drop", "p"]).expect(0);
}
