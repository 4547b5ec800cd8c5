//! Pipelines that never end: kept going whatever happens to them, until somebody stops them.

use rusqlite::Connection;

use super::{Served, serve, wait};
use crate::support::Project;

const FOLLOW: &str = "connections:\n  from: { url: \"sqlite:from.db\" }\n  to: { url: \"sqlite:to.db\" }\nstages:\n  items:\n    kind: stream\n\
    \x20   from: { sql: from, table: items, cursor: id, every: 50ms }\n    to: { sql: to, table: items, mode: append }\n";

/// The rows that have arrived, and how many of them differ.
fn arrived(project: &Project) -> (i64, i64) {
    let Ok(target) = Connection::open(project.path("to.db")) else { return (0, 0) };
    let count = target.query_row("select count(*), count(distinct id) from items", [], |row| Ok((row.get(0)?, row.get(1)?)));
    count.unwrap_or((0, 0))
}

/// A pipeline that follows a table, and the table.
pub struct World {
    pub project: Project,
    pub source: Connection,
    sent: i64,
}

impl World {
    pub fn new() -> Self {
        let project = Project::new();
        project.file("pipelines/follow.yaml", FOLLOW);
        let source = Connection::open(project.path("from.db")).expect("a database");
        source.busy_timeout(std::time::Duration::from_secs(30)).expect("patience");
        source.execute_batch("create table items (id integer primary key)").expect("a table");
        Self { project, source, sent: 0 }
    }

    fn send(&mut self) {
        self.sent += 100;
        let sql = "insert into items select value from (with recursive n(value) as (select ?1 union all select value + 1 from n limit 100) select * from n)";
        self.source.execute(sql, [self.sent - 99]).expect("rows");
    }

    /// Sends rows, and waits until they have arrived.
    #[track_caller]
    pub fn flows(&mut self, when: &str) {
        self.send();
        wait(&format!("rows {when}"), &self.project, "log", || arrived(&self.project) == (self.sent, self.sent));
    }

    #[track_caller]
    pub fn said(&self, text: &str, times: usize) {
        wait(text, &self.project, "log", || self.project.read("log").matches(text).count() >= times);
    }

    fn metric(&self, served: &Served, name: &str) -> Option<String> {
        let metrics = served.get(&self.project, "/metrics");
        metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned)
    }
}

#[test]
fn streams_are_kept_going_until_they_are_paused() {
    let mut world = World::new();
    let served = serve(&world.project, "log", &["--runs", "1"]);
    world.flows("at first");
    let rows = "haul_stream_rows{pipeline=\"follow\",stage=\"items\"}";
    assert_eq!(world.metric(&served, rows).as_deref(), Some("100"));
    for part in ["lag_seconds", "last_commit_timestamp_seconds"] {
        let name = rows.replace("rows", part);
        wait(part, &world.project, "log", || world.metric(&served, &name).is_some());
    }
    // A new definition: what goes is drained, and goes on.
    world.project.file("pipelines/follow.yaml", format!("description: The same again.\n{FOLLOW}"));
    world.said("goes on with run", 1);
    world.flows("after a reload");
    // It fails as long as its table is away.
    world.source.execute_batch("alter table items rename to gone").expect("renamed");
    world.said("; it starts again after ", 2);
    let restarts = world.metric(&served, "haul_stream_restarts_total{pipeline=\"follow\"}").expect("a count");
    assert!(restarts.parse::<u64>().is_ok_and(|count| count >= 2), "{restarts}");
    world.source.execute_batch("alter table gone rename to items").expect("renamed");
    world.flows("after failures");
    assert_eq!(world.project.haul(&["pause", "follow"]).expect(0).stdout, "paused follow\n");
    wait("the pause", &world.project, "log", || world.metric(&served, rows).is_none());
    world.send();
    let shown = world.project.haul(&["schedule"]).expect(0).stdout;
    assert!(shown.contains("kept going by `haul serve`") && shown.contains("will not run: paused since "), "{shown}");
    assert!(arrived(&world.project).0 < world.sent);
    world.project.haul(&["resume", "follow"]).expect(0);
    world.flows("after the pause");
    assert_eq!(served.stop(), Some(143), "{}", world.project.read("log"));
    assert_eq!(arrived(&world.project), (world.sent, world.sent));
    assert!(world.project.haul(&["runs"]).expect(0).stdout.contains("  serve  "));
}

#[test]
fn a_killed_daemon_leaves_a_stream_to_the_next_one() {
    let mut world = World::new();
    world.project.file(
        "pipelines/asks.yaml",
        format!("params: {{ who: {{ type: text }} }}\ndescription: x\n{FOLLOW}").replace("items, mode", "\"{{ params.who }}\", mode"),
    );
    let mut first = serve(&world.project, "log", &[]);
    world.flows("at first");
    world.said("it is not kept going: its param `who` has no default", 1);
    world.send();
    first.child.kill().expect("killed");
    first.child.wait().expect("dead");
    let second = serve(&world.project, "log", &[]);
    world.flows("after the kill");
    assert!(world.project.read("log").contains("goes on with run"));
    world.project.file("pipelines/follow.yaml", FOLLOW.replace("stages:", "staged:"));
    world.said("its last good version goes on", 1);
    world.flows("after a wrong edit");
    std::fs::remove_file(world.project.path("pipelines/follow.yaml")).expect("removed");
    world.said("stopping: it is not to go on", 1);
    assert_eq!(second.stop(), Some(143));
    assert_eq!(arrived(&world.project), (world.sent, world.sent));
}
