//! Polled rows sent to an HTTP API that is busy, breaks down, and takes rows without saying so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::Connection;

use super::{signal, start, until};
use crate::support::web::{Web, answer};
use crate::support::{Project, dice, kills};

/// Kills the stream has to survive.
const KILLS: usize = 20;

/// What a server that heeds the keys of requests has taken, in the order it came.
type Taken = Arc<Mutex<(BTreeMap<String, usize>, Vec<usize>)>>;

/// Takes what bears a new key. Of seven requests one is too many, one meets a fault, and one is taken without an answer.
fn server(taken: &Taken) -> Web {
    let taken = Arc::clone(taken);
    Web::start(move |asked, out| {
        match asked.number % 7 {
            2 => return answer(out, 429, &[("Retry-After", "0")], "busy"),
            4 => return answer(out, 500, &[], "broken"),
            _ => {}
        }
        {
            let (keys, rows) = &mut *taken.lock().expect("the rows");
            let count = keys.entry(asked.header("idempotency-key").to_owned()).or_default();
            *count += 1;
            if *count == 1 {
                let lines = std::str::from_utf8(&asked.body).expect("text").lines();
                rows.extend(
                    lines.map(|line| {
                        serde_json::from_str::<serde_json::Value>(line).expect("a row")["id"].as_u64().expect("an id") as usize
                    }),
                );
            }
        }
        if asked.number % 7 == 5 { Ok(()) } else { answer(out, 200, &[], "") }
    })
}

fn project(url: &str) -> (Project, Connection) {
    let project = Project::new();
    project.file(
        "pipelines/post.yaml",
        format!(
            "connections:
  from: {{ url: \"sqlite:from.db\" }}
  api: {{ url: \"{url}\" }}
stages:
  items:
    kind: stream
    from: {{ sql: from, table: items, cursor: id, every: 20ms }}
    to: {{ http: api, path: /in, batch: {{ rows: 10 }} }}
    retry: {{ backoff: {{ initial: 5ms, max: 50ms }} }}
"
        ),
    );
    let source = Connection::open(project.path("from.db")).expect("a database");
    source.execute_batch("pragma journal_mode = wal; create table items (id integer primary key)").expect("a table");
    (project, source)
}

fn add(source: &Connection, from: usize, to: usize) {
    let sql = "insert into items with recursive i(v) as (select ?1 union all select v + 1 from i where v < ?2) select v from i";
    source.execute(sql, [from as i64, to as i64]).expect("rows");
}

/// What is sent again bears its key, so that a server which heeds it has every row once, whatever it answers.
#[test]
fn a_server_with_faults_gets_every_row_once() {
    let taken = Taken::default();
    let web = server(&taken);
    let (project, source) = project(&web.url());
    add(&source, 1, 300);
    let haul = &mut start(&project, "post");
    for part in 0..10 {
        std::thread::sleep(Duration::from_millis(20));
        add(&source, 301 + part * 30, 330 + part * 30);
    }
    let rows = || taken.lock().expect("the rows").1.clone();
    until(&project, "all rows", || rows().len() >= 600);
    signal(haul, "-TERM");
    assert_eq!(haul.wait().expect("haul ends").code(), Some(143), "{}", project.read("log.txt"));
    project.haul(&["run", "post", "--until", "caught-up"]).expect(0);
    assert_eq!(rows(), (1..=600).collect::<Vec<_>>());
    assert!(taken.lock().expect("the rows").0.values().any(|count| *count > 1), "no answer was swallowed");
}

/// Killed again and again: no row is left out, and rows come in their order but for those that are sent again.
#[test]
fn kills_leave_no_row_unsent() {
    let taken = Taken::default();
    let web = server(&taken);
    let (project, source) = project(&web.url());
    let (mut dice, seed) = dice();
    let wanted = kills(KILLS);
    let mut rows = 0;
    for _ in 0..wanted {
        let mut haul = start(&project, "post");
        let before = taken.lock().expect("the rows").1.len();
        for _ in 0..dice.usize(1..6) {
            add(&source, rows + 1, rows + 25);
            rows += 25;
            std::thread::sleep(Duration::from_millis(dice.u64(1..20)));
        }
        if dice.bool() {
            until(&project, "a request", || taken.lock().expect("the rows").1.len() > before);
        }
        if let Some(status) = haul.try_wait().expect("haul can be asked") {
            panic!("haul ended with {status}; seed {seed}:\n{}", project.read("log.txt"));
        }
        haul.kill().expect("haul can be killed");
        haul.wait().expect("haul can be waited for");
    }
    project.haul(&["run", "post", "--until", "caught-up"]).expect(0);
    let mut next = 1;
    for row in &taken.lock().expect("the rows").1 {
        assert!(*row <= next, "row {row} came before row {next}; seed {seed}");
        next += usize::from(*row == next);
    }
    assert_eq!(next, rows + 1, "seed {seed}");
}
