//! People who are told of runs.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use super::streams::World;
use super::{done, rows, serve, wait};
use crate::support::Project;

/// Takes one request, and answers it.
fn take(listener: &TcpListener, status: &str) -> String {
    listener.set_nonblocking(true).expect("a listener");
    let deadline = Instant::now() + Duration::from_secs(300);
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                assert!(Instant::now() < deadline, "no request comes");
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => panic!("{error}"),
        }
    };
    stream.set_nonblocking(false).expect("a stream");
    let (mut text, mut part) = (String::new(), [0; 4096]);
    let whole = |text: &str| {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok())?;
        (body.len() >= length).then_some(())
    };
    while whole(&text).is_none() {
        let size = stream.read(&mut part).expect("bytes");
        text.push_str(&String::from_utf8_lossy(&part[..size]));
    }
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").expect("answered");
    text
}

fn key(request: &str) -> Option<String> {
    request.lines().find_map(|line| line.strip_prefix("idempotency-key: ")).map(str::to_owned)
}

#[test]
fn people_are_told_of_failures_and_recoveries_until_they_have_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let project = Project::new();
    let port = listener.local_addr().expect("an address").port();
    project.file("token", "s3cret\n");
    project.file(
        "haul.yaml",
        format!(
            "notify:\n  - url: \"http://127.0.0.1:{port}/hook\"\n    headers: {{ X-Token: \"{{{{ secret.file('token') }}}}\" }}\n\
            \x20   body: {{ text: \"{{{{ pipeline.name }}}} {{{{ event.kind }}}} in '{{{{ event.stage }}}}': {{{{ event.message }}}}\" }}\n"
        ),
    );
    project.file(
        "pipelines/often.yaml",
        rows("often", "{ every: 1s, pause_on_failure: 1 }").replace("table: ticks", "table: ticks, schema: require"),
    );
    let served = serve(&project, "log", &[]);
    let first = take(&listener, "503 Service Unavailable");
    assert!(first.starts_with("POST /hook ") && first.contains("x-token: s3cret"), "{first}");
    let second = take(&listener, "200 OK");
    let body: serde_json::Value = serde_json::from_str(second.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON");
    let text = body["text"].as_str().expect("a text");
    assert!(text.starts_with("often failure in 'plan': ") && text.contains("ticks"), "{text}");
    assert!(key(&first).is_some() && key(&first) == key(&second), "{first}\n{second}");
    project.file("pipelines/often.yaml", rows("often", "{ every: 1s }"));
    wait("the new definition", &project, "log", || project.read("log").matches("definitions read").count() == 2);
    project.haul(&["resume", "often"]).expect(0);
    let third = take(&listener, "200 OK");
    assert_ne!(key(&third), key(&second));
    assert!(third.contains("often recovery in '': done again after a failure"), "{third}");
    assert_eq!(served.stop(), Some(143));
    assert!(!project.read("log").contains("s3cret"));
}

#[test]
fn people_are_told_when_the_run_that_failed_is_gone_on_with() {
    let (project, listener) = (Project::new(), TcpListener::bind("127.0.0.1:0").expect("a port"));
    project.file("haul.yaml", format!("notify:\n  - url: \"http://{}/hook\"\n", listener.local_addr().expect("an address")));
    let text = "connections:\n  db: { url: \"sqlite:db.db\" }\nstages:\n  a:\n    kind: batch\n    from: { sql: db, table: given }\n\
        \x20   transform:\n      - cast: { v: int64 }\n    to: { sql: db, table: taken }\n";
    project.file("pipelines/p.yaml", text);
    let database = rusqlite::Connection::open(project.path("db.db")).expect("a database");
    database.execute_batch("create table given (v text); insert into given values ('two')").expect("a table");
    let served = serve(&project, "log", &[]);
    wait("the daemon", &project, "log", || project.read("log").contains("definitions read"));
    project.haul(&["run", "p"]).expect(1);
    assert!(take(&listener, "200 OK").contains("\"event\":\"failure\""));
    database.execute_batch("update given set v = '2'").expect("mended");
    project.haul(&["retry", "latest"]).expect(0);
    assert!(take(&listener, "200 OK").contains("\"event\":\"recovery\""));
    assert_eq!(served.stop(), Some(143));
}

#[test]
fn notices_outlive_a_daemon_and_no_receiver_waits_for_another() {
    let project = Project::new();
    // The first one takes connections and never says a word.
    let (silent, heard) = (TcpListener::bind("127.0.0.1:0").expect("a port"), TcpListener::bind("127.0.0.1:0").expect("a port"));
    let url = |listener: &TcpListener| format!("http://{}/hook", listener.local_addr().expect("an address"));
    project.file("haul.yaml", format!("notify:\n  - url: \"{}\"\n  - url: \"{}\"\n", url(&silent), url(&heard)));
    let text = rows("often", "{ every: 1s, pause_on_failure: 1 }").replace("table: ticks", "table: ticks, schema: require");
    project.file("pipelines/often.yaml", text);
    project.file("pipelines/fine.yaml", rows("fine", "{ every: 1s }"));
    let mut served = serve(&project, "log", &[]);
    let first = take(&heard, "503 Service Unavailable");
    served.child.kill().expect("killed");
    served.child.wait().expect("dead");
    let served = serve(&project, "log", &[]);
    let second = take(&heard, "200 OK");
    assert!(key(&first).is_some() && key(&first) == key(&second), "{first}\n{second}");
    assert!(second.contains("\"event\":\"failure\""), "{second}");
    let before = done(&project, "fine");
    wait("runs while the silent one is waited for", &project, "log", || done(&project, "fine") >= before + 3);
    wait("word of the silent one", &project, "log", || project.read("log").contains("a notification did not arrive"));
    assert_eq!(done(&project, "often"), 0);
    assert_eq!(served.stop(), Some(143));
}

#[test]
fn people_are_told_once_when_a_stream_fails_and_once_when_it_has_gone_on() {
    let mut world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    world.project.file("haul.yaml", format!("notify:\n  - url: \"http://{}/\"\n", listener.local_addr().expect("an address")));
    let served = serve(&world.project, "log", &[]);
    world.flows("at first");
    world.source.execute_batch("alter table items rename to gone").expect("renamed");
    let failure = take(&listener, "200 OK");
    assert!(failure.contains("\"event\":\"failure\"") && failure.contains("\"pipeline\":\"follow\""), "{failure}");
    world.said("; it starts again after ", 3);
    world.source.execute_batch("alter table gone rename to items").expect("renamed");
    world.flows("after failures");
    // Further failures would have come before it.
    let recovery = take(&listener, "200 OK");
    assert!(recovery.contains("\"event\":\"recovery\"") && recovery.contains("goes on again after a failure"), "{recovery}");
    assert_eq!(served.stop(), Some(143));
}
