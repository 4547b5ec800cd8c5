//! What is sent: every kind of body, servers that refuse and forget to answer, and what a kill leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::{KILLS, project, run_until_asked};
use crate::support::web::{Asked, Web, answer};
use crate::support::{dice, kills};

/// The ids of the rows of a request.
fn ids(asked: &Asked) -> Vec<i64> {
    let text = std::str::from_utf8(&asked.body).expect("UTF-8");
    let id = |row: &Value| row["id"].as_i64().expect("an id");
    match asked.header("content-type") {
        "application/x-ndjson" => text.lines().map(|line| id(&serde_json::from_str(line).expect("JSON"))).collect(),
        "application/json" => match serde_json::from_str(text).expect("JSON") {
            Value::Array(rows) => rows.iter().map(id).collect(),
            row => vec![id(&row)],
        },
        other => panic!("the media type is {other}"),
    }
}

/// What a server holds that heeds the keys of requests: the ids, each with how often it came under different keys.
fn held(asked: &[Asked]) -> BTreeMap<i64, usize> {
    let mut bodies: BTreeMap<&str, &[u8]> = BTreeMap::new();
    let mut held = BTreeMap::new();
    for asked in asked {
        match bodies.insert(asked.header("idempotency-key"), &asked.body) {
            Some(before) => assert_eq!(before, asked.body, "one key came with two bodies"),
            None => ids(asked).into_iter().for_each(|id| *held.entry(id).or_default() += 1),
        }
    }
    held
}

fn each_once(count: i64) -> BTreeMap<i64, usize> {
    (0..count).map(|id| (id, 1)).collect()
}

fn pipeline(web: &Web, rows: i64, to: &str) -> String {
    format!(
        "connections:\n  api: {{ url: \"{}/v1\", auth: {{ bearer: word }} }}\n  bad: {{ url: \"file:.\" }}
stages:
  a:
    kind: batch
    from: {{ generate: {rows}, columns: {{ id: i, name: \"'name \\\" ' || i\", part: \"case when i % 2 = 0 then null else 'a/b ü' || i end\" }} }}
    to: {{ http: api, {to} }}
    batch: {{ rows: 50 }}
    retry: {{ attempts: 50, backoff: {{ initial: 5ms }} }}
",
        web.url()
    )
}

#[test]
fn every_kind_of_request_carries_its_rows() {
    let web = Web::start(|_, out| answer(out, 201, &[], "{}"));
    let kinds: [(&str, &str, usize); 5] = [
        ("POST", "path: /rows, query: { source: haul }, batch: { rows: 100 }", 13),
        ("PUT", "path: /rows, method: put, body: array, batch: { bytes: 1KiB }", 2),
        ("PATCH", "path: \"/rows/{{ id }}\", method: patch, body: object", 1234),
        ("POST", "path: /rows, template: '{\"id\": {{ id }}, \"inner\": {\"name\": {{ name }}, \"part\": {{ part }}}}'", 1234),
        ("POST", "path: \"/by name/{{ name }}/x\", body: object", 1234),
    ];
    let mut before = 0;
    for (method, to, least) in kinds {
        let project = project(&pipeline(&web, 1234, to));
        project.haul(&["run", "p"]).expect(0);
        let asked = web.asked().split_off(before);
        before += asked.len();
        assert!(asked.len() >= least, "{to}: {} requests", asked.len());
        assert!(asked.iter().all(|asked| asked.method == method && asked.header("authorization") == "Bearer word"), "{to}");
        assert_eq!(held(&asked), each_once(1234), "{to}");
        let keys: BTreeSet<&str> = asked.iter().map(|asked| asked.header("idempotency-key")).collect();
        assert_eq!(keys.len(), asked.len(), "{to}: two requests bear the same key");
        let first = asked.iter().find(|asked| ids(asked).contains(&7)).expect("row 7");
        let text = String::from_utf8_lossy(&first.body).into_owned();
        assert!(text.contains(r#""name":"name \" 7""#) || text.contains(r#""name": "name \" 7""#), "{text}");
        assert!(text.contains("a/b ü7"), "{text}");
        match to {
            to if to.contains("/by name/") => assert_eq!(first.path, "/v1/by%20name/name%20%22%207/x"),
            to if to.contains("rows/{{") => assert_eq!(first.path, "/v1/rows/7"),
            _ => assert_eq!(first.path, "/v1/rows"),
        }
    }
    assert!(web.asked().iter().take(13).all(|asked| asked.query.get("source").is_some_and(|word| word == "haul")));
}

/// The server takes rows and forgets to answer, is busy, or fails: the same rows come again under the same key, and no earlier than it wants.
#[test]
fn what_is_sent_again_bears_its_key() {
    let web = Web::start(|asked, out| match asked.number % 7 {
        1 => Ok(()),
        3 => answer(out, 503, &[("Retry-After", "1")], "busy"),
        4 => answer(out, 500, &[], ""),
        5 => answer(out, 409, &[], "still at it"),
        _ => answer(out, 204, &[], ""),
    });
    let project = project(&(pipeline(&web, 200, "path: /rows, batch: { rows: 20 }") + "    splits: { most: 1 }\n"));
    project.haul(&["run", "p"]).expect(0);
    let asked = web.asked();
    assert!(asked.len() > 15, "{} requests", asked.len());
    assert!(asked[4].at - asked[3].at >= Duration::from_secs(1), "the server asked for a second");
    assert_eq!(held(&asked), each_once(200));
}

/// An answer is lost while the server is still at work on the request, which it says of each further try: the rows must not come under other keys.
#[test]
fn rows_that_are_still_worked_on_are_not_sent_under_other_keys() {
    let tries = std::sync::Mutex::new(BTreeMap::<String, usize>::new());
    let web = Web::start(move |asked, out| {
        let mut tries = tries.lock().expect("the tries");
        let tries = tries.entry(asked.header("idempotency-key").to_owned()).or_default();
        *tries += 1;
        match *tries {
            1 => Ok(()),
            2 => answer(out, 409, &[("Retry-After", "1")], "still at it"),
            3..=8 => answer(out, 409, &[], "still at it"),
            _ => answer(out, 204, &[], ""),
        }
    });
    let project = project(&(pipeline(&web, 40, "path: /rows, batch: { rows: 20 }") + "    splits: { most: 1 }\n"));
    project.haul(&["run", "p"]).expect(0);
    let asked = web.asked();
    assert_eq!(held(&asked), each_once(40));
    let first: Vec<&Asked> = asked.iter().filter(|other| other.header("idempotency-key") == asked[0].header("idempotency-key")).collect();
    assert!(first[2].at - first[1].at >= Duration::from_secs(1), "the server asked for a second");
}

/// A run is killed while the server is at work on its rows, and gone on with at once. The server says that it is at it, and not until when.
#[test]
fn rows_that_a_killed_run_has_sent_come_under_no_other_keys() {
    let begun = std::sync::Mutex::new((String::new(), 0));
    let web = Web::start(move |asked, out| {
        let key = asked.header("idempotency-key");
        if asked.number == 0 {
            begun.lock().expect("the first").0 = key.to_owned();
            std::thread::sleep(Duration::from_secs(10));
            return Ok(());
        }
        let mut begun = begun.lock().expect("the first");
        if begun.0 == key && begun.1 < 6 {
            begun.1 += 1;
            return answer(out, 409, &[], "still at it");
        }
        answer(out, 204, &[], "")
    });
    let project = project(&(pipeline(&web, 40, "path: /rows, batch: { rows: 20 }") + "    splits: { most: 1 }\n"));
    assert!(!run_until_asked(&project, &web, 1), "it was done without an answer");
    project.haul(&["run", "p"]).expect(0);
    assert_eq!(held(&web.asked()), each_once(40));
}

/// No answer comes to a request, and to its further tries a refusal that looks like work on an earlier one: it is one in the end.
#[test]
fn rows_that_are_in_the_way_of_each_other_are_refused_in_the_end() {
    let web = Web::start(|asked, out| match asked.number {
        0 => answer(out, 504, &[], "no answer"),
        _ if ids(asked).contains(&2) => answer(out, 409, &[], "2 is there already"),
        _ => answer(out, 204, &[], ""),
    });
    let text = pipeline(&web, 8, "path: /rows, batch: { rows: 4 }").replace("auth: {", "idle_timeout: 200ms, auth: {").replace("50,", "3,");
    let project = project(&(text + "    splits: { most: 1 }\n    rejects: { to: { files: bad, path: bad.ndjson }, at_most: 1 }\n"));
    project.haul(&["run", "p"]).expect(0);
    let bad = project.read("bad.ndjson");
    assert!(bad.lines().count() == 1 && bad.contains("2 is there already"), "{bad}");
    let asked = web.asked();
    let first = asked.iter().filter(|other| other.header("idempotency-key") == asked[0].header("idempotency-key"));
    let waited = first.map(|asked| asked.at).max().expect("a request") - asked[0].at;
    assert!(waited >= Duration::from_secs(2), "refused after {waited:?}");
}

/// kill -9 at random moments: a server that heeds keys holds each row once, and what was recorded as sent does not come again.
#[test]
fn a_killed_run_goes_on_behind_what_it_recorded() {
    let web = Web::start(|_, out| {
        std::thread::sleep(Duration::from_millis(5));
        answer(out, 200, &[], "")
    });
    let text = pipeline(&web, 10_000, "path: /rows, batch: { rows: 100 }");
    let (mut dice, seed) = dice();
    let wanted = kills(KILLS);
    let (mut dealt, mut before) = (0, 0);
    while dealt < wanted {
        let project = project(&text);
        while !run_until_asked(&project, &web, web.asked().len() + dice.usize(1..60)) {
            dealt += 1;
        }
        let asked = web.asked().split_off(before);
        before += asked.len();
        assert_eq!(held(&asked), each_once(10_000), "seed {seed}");
        assert!(asked.len() < 100 * 6, "{} requests for 100: nothing was recorded; seed {seed}", asked.len());
    }
}

#[test]
fn rows_that_the_server_refuses_are_found_and_kept() {
    let web =
        Web::start(
            |asked, out| {
                if ids(asked).iter().any(|id| id % 100 == 7) { answer(out, 422, &[], "no sevens") } else { answer(out, 200, &[], "") }
            },
        );
    let text = pipeline(&web, 1000, "path: /rows, body: array");
    let keeping = project(&format!("{text}    rejects: {{ to: {{ files: bad, path: bad.ndjson }}, at_most: 10 }}\n"));
    let said = keeping.haul(&["run", "p"]).expect(0);
    let bad = keeping.read("bad.ndjson");
    assert_eq!(bad.lines().count(), 10, "{bad}");
    assert!(
        bad.lines().all(|line| line.contains("422 Status: no sevens") || line.contains("422 Unprocessable Entity: no sevens")),
        "{bad}"
    );
    assert!((said.stdout + &said.stderr).contains("990"), "the rows that arrived are counted without the refused ones");
    let taken: BTreeSet<i64> = web.asked().iter().filter(|asked| !ids(asked).iter().any(|id| id % 100 == 7)).flat_map(ids).collect();
    assert_eq!(taken.len(), 990);
    let said = project(&text).haul(&["run", "p"]).expect(1);
    assert!(said.stderr.contains("row 8 of split all") && said.stderr.contains("no sevens"), "{}", said.stderr);
    let few = project(&format!("{text}    rejects: {{ to: {{ files: bad, path: bad.ndjson }}, at_most: 3 }}\n"));
    few.haul(&["run", "p"]).expect(1);
}

#[test]
fn a_refusal_that_is_not_the_rows_fault_ends_the_run() {
    let web = Web::start(|_, out| answer(out, 401, &[], "who are you"));
    let text = pipeline(&web, 10, "path: /rows") + "    rejects: { to: { files: bad, path: bad.ndjson }, at_most: 10 }\n";
    let said = project(&text).haul(&["run", "p"]).expect(1);
    assert!(said.stderr.contains("POST /v1/rows was answered 401 Unauthorized: who are you"), "{}", said.stderr);
    assert_eq!(web.asked().len(), 1, "a refusal of this kind is not tried again");
    let said = project(&text).haul(&["plan", "p"]).expect(0);
    assert!(said.stdout.contains("at least once: what is sent again bears the same Idempotency-Key"), "{}", said.stdout);
}
