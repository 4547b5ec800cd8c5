//! Feeds: pages asked for again and again, long answers, events and WebSockets, from servers that break off in the middle of a row.

use std::io::{self, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::routing::get;

use super::{each_once, name, project, rows};
use crate::support::Project;
use crate::support::web::{Web, answer, head, json};

/// The longest anything here may take.
const PATIENCE: Duration = Duration::from_secs(120);

fn row(id: usize) -> String {
    serde_json::json!({ "id": id, "name": name(id), "more": [id] }).to_string()
}

fn follow(url: &str, from: &str) -> Project {
    project(&format!(
        "connections:\n  api: {{ url: \"{url}\", idle_timeout: 10s }}\n  db: {{ url: \"sqlite:target.db\" }}
stages:
  a:
    kind: stream
    from: {{ http: api, columns: {{ id: int64, name: text }}, {from} }}
    to: {{ sql: db, table: a, mode: append }}
    batch: {{ every: 10ms }}
    retry: {{ backoff: {{ initial: 5ms }} }}
"
    ))
}

fn start(project: &Project) -> Child {
    let log = std::fs::File::create(project.path("log.txt")).expect("a log");
    project.command(&["run", "p"]).stdout(Stdio::null()).stderr(log).spawn().expect("haul can be started")
}

/// Waits until the target has so many rows.
#[track_caller]
fn until(project: &Project, count: usize) {
    let end = Instant::now() + PATIENCE;
    let found = || -> Option<usize> {
        let database = rusqlite::Connection::open(project.path("target.db")).ok()?;
        database.query_row("select count(*) from a", [], |row| row.get::<_, i64>(0)).ok().map(|count| count as usize)
    };
    while found().unwrap_or(0) < count {
        assert!(Instant::now() < end, "{count} rows did not come, but {:?}; haul said:\n{}", found(), project.read("log.txt"));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn stop(project: &Project, mut haul: Child) {
    let status = Command::new("kill").args(["-TERM", &haul.id().to_string()]).status().expect("kill can be started");
    assert!(status.success());
    let status = haul.wait().expect("haul can be waited for");
    assert_eq!(status.code(), Some(143), "{}", project.read("log.txt"));
}

/// Kills, starts again, and stops at last; each row is there once.
fn survives(project: &Project, count: usize, kills: usize) {
    for part in 1..=kills {
        let mut haul = start(project);
        until(project, count * part / (kills + 1));
        haul.kill().expect("haul can be killed");
        haul.wait().expect("haul can be waited for");
    }
    let haul = start(project);
    until(project, count);
    stop(project, haul);
    assert_eq!(rows(&project.path("target.db"), "a"), each_once(count));
}

#[test]
fn pages_are_asked_for_again_behind_the_last_cursor() {
    let began = Instant::now();
    let web = Web::start(move |asked, out| {
        if asked.number % 5 == 3 {
            return answer(out, 503, &[("Retry-After", "0")], "");
        }
        // Rows come about while they are read.
        let there = (began.elapsed().as_millis() as usize / 4).min(500);
        let after = asked.number_of("after", 0);
        let rows: Vec<String> = (after + 1..=there.min(after + 20)).map(row).collect();
        json(out, &format!("[{}]", rows.join(",")))
    });
    let project = follow(&web.url(), "path: /rows, every: 20ms, paginate: { by: cursor, param: after, column: id }");
    survives(&project, 500, 3);
    project.haul(&["run", "p", "--until", "caught-up"]).expect(0);
    assert_eq!(rows(&project.path("target.db"), "a"), each_once(500));
}

/// Rows behind a place, a few of them, and then the connection breaks in the middle of one.
fn broken(out: &mut TcpStream, after: usize, write: impl Fn(usize) -> String) -> io::Result<()> {
    for id in after + 1..=(after + 40).min(400) {
        out.write_all(write(id).as_bytes())?;
    }
    if after + 40 >= 400 {
        // A live feed: nothing more for now.
        loop {
            std::thread::sleep(Duration::from_millis(200));
            out.write_all(write(0).as_bytes())?;
        }
    }
    let half = write(after + 41);
    out.write_all(&half.as_bytes()[..half.len() / 2])
}

#[test]
fn a_long_answer_goes_on_behind_its_last_row() {
    let web = Web::start(|asked, out| {
        head(out, 200, &[("Content-Type", "application/x-ndjson")])?;
        broken(out, asked.number_of("since", 0), |id| if id == 0 { "\n".to_owned() } else { row(id) + "\n" })
    });
    survives(&follow(&web.url(), "path: /feed, follow: ndjson, paginate: { by: cursor, param: since, column: id }"), 400, 2);
}

#[test]
fn events_go_on_behind_their_last_id() {
    let web = Web::start(|asked, out| {
        assert_eq!(asked.header("accept"), "text/event-stream");
        head(out, 200, &[("Content-Type", "text/event-stream")])?;
        let after = asked.header("last-event-id").strip_prefix("e-").map_or(0, |id| id.parse().expect("an id"));
        out.write_all(b"retry: 20\n\n")?;
        broken(out, after, |id| {
            let row = row(id);
            let (one, other) = row.split_at(1);
            if id == 0 { ": still here\n".to_owned() } else { format!("event: row\nid: e-{id}\ndata: {one}\ndata: {other}\n\n") }
        })
    });
    survives(&follow(&web.url(), "path: /events, follow: sse"), 400, 2);
}

/// Without a place to go on from, what was committed stays, and what comes is written once.
#[test]
fn messages_of_a_websocket_arrive_and_breaks_are_mended() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(1));
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (numbers, tokens) = (Arc::clone(&next), Arc::clone(&seen));
    let app = axum::Router::new().route(
        "/v1/live",
        get(move |headers: axum::http::HeaderMap, upgrade: WebSocketUpgrade| async move {
            let token = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
            tokens.lock().expect("the tokens").push(token);
            upgrade.on_upgrade(move |mut socket| async move {
                for place in 0.. {
                    let id = numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if id > 300 {
                        std::future::pending::<()>().await;
                    }
                    let message = if id % 2 == 0 { Message::Text(row(id).into()) } else { Message::Binary(row(id).into_bytes().into()) };
                    if socket.send(message).await.is_err() {
                        return;
                    }
                    if place == 100 {
                        // Let what was sent arrive; the connection breaks without a word.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        return;
                    }
                }
            })
        }),
    );
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
    let url = format!("http://{}/v1", listener.local_addr().expect("an address"));
    runtime.spawn(async move { axum::serve(listener, app).await });
    let project = project(&format!(
        "connections:\n  api: {{ url: \"{url}\", auth: {{ bearer: word }} }}\n  db: {{ url: \"sqlite:target.db\" }}
stages:
  a:
    kind: stream
    from: {{ http: api, path: /live, follow: websocket, columns: {{ id: int64, name: text }} }}
    to: {{ sql: db, table: a, mode: append }}
    retry: {{ backoff: {{ initial: 5ms }} }}
"
    ));
    let said = project.haul(&["plan", "p"]).expect(0);
    assert!(said.stdout.contains("at most once"), "{}", said.stdout);
    let haul = start(&project);
    until(&project, 300);
    stop(&project, haul);
    assert_eq!(rows(&project.path("target.db"), "a"), each_once(300));
    let seen = seen.lock().expect("the tokens");
    assert!(seen.len() >= 3 && seen.iter().all(|token| token == "Bearer word"), "{seen:?}");
}

/// A feed that falls silent is left and asked for again.
#[test]
fn a_silent_feed_is_asked_for_again() {
    let web = Web::start(|asked, out| {
        head(out, 200, &[])?;
        if asked.number < 2 {
            std::thread::sleep(Duration::from_secs(20));
            return Ok(());
        }
        loop {
            out.write_all((if asked.number == 2 { row(1) } else { String::new() } + "\n").as_bytes())?;
            std::thread::sleep(if asked.number == 2 { Duration::from_secs(20) } else { Duration::from_millis(50) });
        }
    });
    let project = follow(&web.url(), "path: /feed, follow: ndjson");
    let text = project.read("pipelines/p.yaml").replace("idle_timeout: 10s", "idle_timeout: 200ms");
    project.file("pipelines/p.yaml", text);
    let haul = start(&project);
    until(&project, 1);
    stop(&project, haul);
    assert!(web.asked().len() >= 3);
}

/// An answer that ends held everything there was; its last line may lack its end. Events and messages never say so.
#[test]
fn a_feed_has_caught_up_when_its_answer_ends() {
    let web = Web::start(|asked, out| {
        let after = asked.number_of("after", 0);
        let rows: Vec<String> = (after + 1..=30).map(row).collect();
        answer(out, 200, &[], rows.join("\n"))
    });
    let project = follow(&web.url(), "path: /rows, follow: ndjson, paginate: { by: cursor, param: after, column: id }");
    for _ in 0..2 {
        project.haul(&["run", "p", "--until", "caught-up"]).expect(0);
        assert_eq!(rows(&project.path("target.db"), "a"), each_once(30));
    }
    for kind in ["sse", "websocket"] {
        let project = follow(&web.url(), &format!("path: /rows, follow: {kind}"));
        let said = project.haul(&["run", "p", "--until", "caught-up"]).expect(1);
        assert!((said.stdout + &said.stderr).contains("never says that it has sent everything"), "{kind}");
    }
}
