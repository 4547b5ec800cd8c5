//! Daemons that stop, and what they keep and forget.

use std::net::TcpListener;

use super::{SLOW, done, rows, serve, ticks, wait};
use crate::support::Project;

/// Rows of one run, many enough that a stop comes between its first commit and its last.
const ROWS: i64 = 400_000;

#[test]
fn a_run_that_a_stop_cuts_is_gone_on_with_by_the_next_daemon() {
    let project = Project::new();
    let text =
        rows("slow", "{ every: 2s, overlap: skip }").replace("generate: 1, columns: {", &format!("generate: {ROWS}, columns: {{ id: i,"));
    project.file("pipelines/slow.yaml", format!("limits: {{ drain: 100ms }}\n{text}    splits: {{ most: 64, bytes: 64KiB }}\n"));
    let served = serve(&project, "first", &[]);
    let committed = || project.path("slow.db").exists() && count(&project, "select count(*) from ticks") > 0;
    wait("the first commit", &project, "first", committed);
    assert_eq!(served.stop(), Some(143));
    let log = project.read("first");
    assert!(
        log.contains("stopping: no new runs; 1 going to commit what they have begun") && log.contains("everything has come to rest"),
        "{log}"
    );
    let cut = ticks(&project, "slow").remove(0);
    let written = count(&project, "select count(*) from ticks");
    assert!(written < ROWS, "the stop came too late to cut anything");
    let served = serve(&project, "second", &[]);
    wait("its end", &project, "second", || project.read("second").contains(&format!("run {} is done", cut.run)));
    assert!(project.read("second").contains(&format!("goes on with run {}", cut.run)));
    assert_eq!(served.stop(), Some(143));
    let of_run = "select count(*) * 1000000 + count(distinct id) from ticks where tick = (select min(tick) from ticks)";
    assert_eq!(count(&project, of_run), ROWS * 1_000_000 + ROWS, "rows of the run that was cut, and how many of them differ");
}

fn count(project: &Project, sql: &str) -> i64 {
    let database = rusqlite::Connection::open(project.path("slow.db")).expect("the database");
    database.busy_timeout(std::time::Duration::from_secs(30)).expect("patience");
    database.query_row(sql, [], |row| row.get(0)).unwrap_or(0)
}

#[test]
fn a_run_that_commits_nothing_is_given_up_when_its_time_to_stop_is_over() {
    // It takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let project = Project::new();
    project.file(
        "pipelines/mute.yaml",
        format!(
            "schedule: {{ every: 1s }}\nlimits: {{ drain: 300ms }}\nconnections:\n  api: {{ url: \"http://{}\", idle_timeout: 1h }}\nstages:\n  a:\n\
            \x20   kind: batch\n    from: {{ http: api, path: /rows, columns: {{ id: int64 }} }}\n    to: {{ discard: \"a test\" }}\n",
            silent.local_addr().expect("an address")
        ),
    );
    let mut served = serve(&project, "log", &[]);
    wait("a run", &project, "log", || project.read("log").contains("starts run"));
    let _asked = silent.accept().expect("a request");
    served.signal("-TERM");
    wait("the end", &project, "log", || served.child.try_wait().expect("it can be asked").is_some());
    assert_eq!(served.child.wait().expect("it has ended").code(), Some(143));
}

#[test]
fn old_runs_are_forgotten_with_their_logs() {
    let project = Project::new();
    project.file("pipelines/often.yaml", rows("often", "{ every: 1s, overlap: queue }"));
    project.file("pipelines/slow.yaml", format!("schedule: {{ every: 1d }}\n{SLOW}"));
    let served = serve(&project, "log", &[]);
    wait("some runs", &project, "log", || done(&project, "often") >= 6);
    assert_eq!(served.stop(), Some(143));
    project.file("pipelines/often.yaml", rows("often", "{ every: 1d }"));
    let counts = || {
        let runs: serde_json::Value = serde_json::from_str(&project.haul(&["runs", "--json"]).expect(0).stdout).expect("JSON");
        let logs = std::fs::read_dir(project.path(".haul/logs/often")).expect("its logs").count();
        (runs.as_array().expect("a list").len(), logs)
    };
    let before = counts();
    assert!(before.0 >= 6 && before.0 == before.1, "{before:?} runs and logs");
    for (argument, value, left) in [("--keep-runs", "4", 4), ("--keep-for", "1s", 1)] {
        let served = serve(&project, "log", &[argument, value]);
        wait("the old ones to be forgotten", &project, "log", || project.read("log").contains("old runs are forgotten"));
        assert_eq!(served.stop(), Some(143));
        assert_eq!(counts(), (left, left), "{argument} {value}");
    }
}
