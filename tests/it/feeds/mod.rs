//! Feeds: every event once and in order, over every protocol, whoever breaks off, lags behind, is killed or comes late.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::Value;

use crate::support::Project;

mod changes;
mod client;
mod clients;
mod herd;
mod kill;
mod log;
mod open;
mod served;
mod slow;

use client::{Answer, get};

/// The longest anything here may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A project whose table `a` is followed into the feed `a`, with more said of the feed and of the project.
fn project(output: &str, feeds: &str) -> Project {
    let project = Project::new();
    project.file("haul.yaml", format!("feeds: {{ listen: \"127.0.0.1:0\"{feeds} }}\n"));
    project.file(
        "pipelines/p.yaml",
        format!(
            "connections:\n  db: {{ url: \"sqlite:source.db\" }}
stages:
  a:
    kind: stream
    from: {{ sql: db, table: a, cursor: id, every: 20ms }}
    to: {{ feed: a{output} }}
    batch: {{ every: 10ms }}
"
        ),
    );
    let database = Connection::open(project.path("source.db")).expect("a database");
    database.execute_batch("pragma journal_mode = wal; create table a (id integer primary key, name text not null)").expect("a table");
    project
}

/// Adds rows to the table, in one transaction.
fn add(project: &Project, ids: std::ops::RangeInclusive<u64>) {
    let mut database = Connection::open(project.path("source.db")).expect("a database");
    database.busy_timeout(PATIENCE).expect("patience");
    let transaction = database.transaction().expect("a transaction");
    for id in ids {
        transaction.execute("insert into a values (?, ?)", (id as i64, name(id))).expect("a row");
    }
    transaction.commit().expect("committed");
}

fn name(id: u64) -> String {
    format!("row {id} \u{1F980} \"quoted\"\nin lines")
}

/// A haul that goes, killed with the value.
struct Haul {
    child: Child,
    log: std::path::PathBuf,
}

impl Drop for Haul {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Haul {
    fn start(project: &Project, arguments: &[&str]) -> Self {
        let log = project.path(&format!("log-{}.txt", fastrand::u32(..)));
        let file = std::fs::File::create(&log).expect("a log");
        let child = project.command(arguments).stdout(Stdio::null()).stderr(file).spawn().expect("haul can be started");
        Self { child, log }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The address it says that it serves feeds at.
    #[track_caller]
    fn address(&self) -> String {
        let mut found = None;
        self.until("an address", || {
            let said = self.said();
            found = said.split("feeds are served on http://").nth(1).and_then(|rest| Some(rest.split_once('/')?.0.to_owned()));
            found.is_some()
        });
        found.expect("it came about")
    }

    #[track_caller]
    fn until(&self, what: &str, mut look: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !look() {
            assert!(Instant::now() < end, "{what} did not come about; haul said:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the feed has so many events.
    #[track_caller]
    fn until_head(&self, project: &Project, head: u64) {
        self.until(&format!("{head} events"), || self::head(project) >= head);
    }

    fn stop(mut self) {
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().expect("kill can be started");
        assert!(status.success());
        let status = self.child.wait().expect("haul can be waited for");
        assert_eq!(status.code(), Some(143), "{}", self.said());
    }

    fn kill(mut self) {
        self.child.kill().expect("haul can be killed");
        self.child.wait().expect("haul can be waited for");
    }
}

/// The number of the newest event of the feed `a`, read beside haul.
fn head(project: &Project) -> u64 {
    let path = project.path(".haul/feeds/a.db");
    if !Path::new(&path).exists() {
        return 0;
    }
    let find = || Connection::open(&path)?.query_row("select next - 1 from feed", [], |row| row.get::<_, i64>(0));
    find().map_or(0, |head: i64| head as u64)
}

/// A feed that holds the rows 1 to `count`, served by a haul that goes on.
fn filled(output: &str, feeds: &str, count: u64) -> (Project, Haul, String) {
    let project = project(output, feeds);
    let haul = Haul::start(&project, &["run", "p"]);
    if count > 0 {
        add(&project, 1..=count);
    }
    haul.until_head(&project, count);
    // The file is there as soon as the stream has begun.
    haul.until("the feed", || {
        project.path(".haul/feeds/a.db").exists()
            && Connection::open(project.path(".haul/feeds/a.db")).is_ok_and(|feed| feed.prepare("select 1 from feed").is_ok())
    });
    let address = haul.address();
    (project, haul, address)
}

/// An event is the row of its number, since the table only grows.
#[track_caller]
fn is_row(event: &Value, id: u64) {
    let expected = serde_json::json!({ "@id": id, "@op": "put", "id": id, "name": name(id) });
    assert_eq!(*event, expected);
}

/// Reads a WebSocket, or a stream, until it has the events up to a number, which must follow on each other.
#[track_caller]
fn follow_on(mut next: impl FnMut() -> Value, behind: u64, head: u64) {
    let mut at = behind;
    while at < head {
        let value = next();
        if value["@feed"].is_null() {
            at += 1;
            is_row(&value, at);
        }
    }
}
