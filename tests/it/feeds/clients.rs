//! What clients get over each protocol, and where they go on.

use std::net::TcpStream;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::stream::MaybeTlsStream;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

use super::*;

/// The objects of a WebSocket's messages.
pub fn socket(address: &str, query: &str) -> WebSocket<MaybeTlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("patience");
    client::client(format!("ws://{address}/feeds/a{query}"), MaybeTlsStream::Plain(stream)).expect("a WebSocket").0
}

pub fn message(socket: &mut WebSocket<MaybeTlsStream<TcpStream>>) -> Value {
    loop {
        match socket.read().expect("a message") {
            Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn every_protocol_gives_every_event() {
    let (project, haul, address) = filled(", key: id", "", 3000);
    let mut lines = get(&address, "/feeds/a?from=start", &[]);
    assert_eq!((lines.status, lines.header("content-type")), (200, "application/x-ndjson"));
    let mut events = get(&address, "/feeds/a?from=start", &[("Accept", "text/event-stream")]);
    assert_eq!(events.header("content-type"), "text/event-stream");
    let mut messages = socket(&address, "?from=start");
    for start in [lines.object(), events.event(), message(&mut messages)] {
        let expected = json!({ "@feed": "start", "feed": "a", "identity": lines.header("haul-feed-identity"), "place": "0", "snapshot": false,
            "oldest": 1, "head": 3000, "lost": 0 });
        assert_eq!(start, expected);
    }
    follow_on(|| lines.object(), 0, 3000);
    follow_on(|| events.event(), 0, 3000);
    follow_on(|| message(&mut messages), 0, 3000);
    // What is new comes by itself.
    add(&project, 3001..=3100);
    follow_on(|| lines.object(), 3000, 3100);
    follow_on(|| events.event(), 3000, 3100);
    assert_eq!(events.id, "3100");
    follow_on(|| message(&mut messages), 3000, 3100);
    let (mut next, mut got) = ("start".to_owned(), Vec::new());
    while got.len() < 3100 {
        let answer = get(&address, &format!("/feeds/a?as=poll&limit=700&from={next}"), &[]);
        assert_eq!(answer.header("content-type"), "application/json");
        let answer = answer.json();
        let events = answer["events"].as_array().expect("events").clone();
        assert!(!events.is_empty() && events.len() <= 700);
        got.extend(events);
        answer["next"].as_str().expect("a place").clone_into(&mut next);
    }
    let mut got = got.into_iter();
    follow_on(|| got.next().expect("an event"), 0, 3100);
    assert_eq!(next, "3100");
    haul.stop();
    // Clients are told that it is over.
    assert_eq!(lines.object(), json!({ "@feed": "end", "reason": "closing", "place": "3100" }));
    assert_eq!(lines.line(), None);
    assert_eq!(message(&mut messages)["@feed"], "end");
}

#[test]
fn clients_go_on_where_they_were() {
    let (project, _haul, address) = filled(", key: id, keep: { rows: 500 }", "", 200);
    let check = |path: &str, headers: &[(&str, &str)], place: &str, lost: &str| {
        let mut answer = get(&address, path, headers);
        assert_eq!((answer.header("haul-feed-place"), answer.header("haul-feed-lost")), (place, lost), "{path} {headers:?}");
        let note = answer.object();
        assert_eq!((&note["place"], note["lost"].to_string()), (&json!(place), lost.replace("unknown", "null")), "{path}");
        answer
    };
    let mut now = check("/feeds/a", &[], "200", "0");
    let mut some = check("/feeds/a?from=150", &[], "150", "0");
    follow_on(|| some.object(), 150, 200);
    // The header of a client that comes again counts for more than its URL.
    let mut again = check("/feeds/a?from=start", &[("Last-Event-ID", "190")], "190", "0");
    follow_on(|| again.object(), 190, 200);
    // The feed never had this one: it is another feed by now.
    check("/feeds/a?from=201", &[], "0", "unknown");
    add(&project, 201..=201);
    follow_on(|| now.object(), 200, 201);
    // Many small blocks: the oldest go, as wholes.
    for part in 0..20 {
        add(&project, 202 + part * 50..=251 + part * 50);
        follow_on(|| now.object(), 201 + part * 50, 251 + part * 50);
    }
    let oldest = get(&address, "/feeds/a?as=poll&from=start&limit=1", &[]).json()["events"][0]["@id"].as_u64().expect("a number");
    assert!((652..=752).contains(&oldest), "{oldest}");
    let mut late = check("/feeds/a?from=150", &[], &(oldest - 1).to_string(), &(oldest - 151).to_string());
    follow_on(|| late.object(), oldest - 1, 1201);
    let mut there = check(&format!("/feeds/a?from={}", oldest - 1), &[], &(oldest - 1).to_string(), "0");
    follow_on(|| there.object(), oldest - 1, 1201);
}

#[test]
fn an_answer_waits_for_what_is_new() {
    let (project, _haul, address) = filled("", "", 5);
    let answer = get(&address, "/feeds/a?as=poll&from=5&wait=50ms", &[]).json();
    assert_eq!((&answer["events"], &answer["next"]), (&json!([]), &json!("5")));
    let waiting = std::thread::spawn(move || get(&address, "/feeds/a?from=5&wait=60s", &[("Accept", "application/json")]).json());
    std::thread::sleep(Duration::from_millis(100));
    add(&project, 6..=6);
    let answer = waiting.join().expect("an answer");
    is_row(&answer["events"][0], 6);
    assert_eq!(answer["next"], "6");
}

#[test]
fn what_cannot_be_asked_for_is_said() {
    let (_project, _haul, address) = filled("", "", 1);
    let check = |path: &str, status: u16, part: &str| {
        let mut answer = get(&address, path, &[]);
        assert_eq!(answer.status, status, "{path}");
        let said = answer.line().expect("a word");
        assert!(said.contains(part), "{path}: {said}");
    };
    check("/feeds/b", 404, "no feed `b`");
    check("/feeds/..%2Fstate", 404, "no feed");
    check("/feeds/a?from=later", 400, "`start`, `now`, `snapshot`");
    check("/feeds/a?from=snapshot", 400, "has no key");
    check("/feeds/a?as=xml", 400, "`sse`");
    check("/feeds/a?as=poll&limit=0", 400, "limit");
    check("/feeds/a?as=poll&wait=long", 400, "wait");
}

#[test]
fn a_silent_connection_shows_that_it_lives() {
    let (_project, _haul, address) = filled("", ", keep_alive: 50ms", 1);
    let mut lines = get(&address, "/feeds/a", &[]);
    lines.object();
    assert_eq!((lines.line(), lines.line()), (Some(String::new()), Some(String::new())));
    let mut events = get(&address, "/feeds/a?as=sse", &[]);
    events.event();
    assert_eq!((events.line(), events.line(), events.line()), (Some(":".to_owned()), Some(String::new()), Some(":".to_owned())));
    let mut messages = socket(&address, "");
    message(&mut messages);
    assert!(matches!(messages.read(), Ok(Message::Ping(_))));
}
