//! How far a stream of changes is behind: what its target lacks, and the log that the server keeps for it.

use std::io::Write;
use std::process::Stdio;

use super::{Served, serve, wait};
use crate::support::{Project, postgres};

/// A gauge of the stream.
fn gauge(project: &Project, served: &Served, name: &str) -> Option<f64> {
    let name = format!("haul_stream_{name}{{pipeline=\"behind\",stage=\"items\"}} ");
    served.get(project, "/metrics").lines().find_map(|line| line.strip_prefix(name.as_str())?.parse().ok())
}

#[test]
fn what_a_target_lacks_is_seen_while_it_stands_still() {
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    postgres().sql(&from, "create table items (id int primary key, text text); insert into items values (1, 'first')");
    let project = Project::new();
    project.file(
        "pipelines/behind.yaml",
        format!(
            "connections:\n  from: {{ url: \"{from}\" }}\n  to: {{ url: \"{to}\" }}\nstages:\n  items:\n    kind: stream\n\
            \x20   from: {{ sql: from, changes: items }}\n    to: {{ sql: to, mode: upsert }}\n    batch: {{ rows: 100, every: 10ms }}\n"
        ),
    );
    let served = serve(&project, "log", &[]);
    wait("an address", &project, "log", || project.read("log").contains("listening on http://"));
    let held = |name: &str, wanted: &dyn Fn(f64) -> bool| {
        wait(name, &project, "log", || gauge(&project, &served, name).is_some_and(wanted));
    };
    held("kept_bytes", &|bytes| bytes >= 0.0);
    held("last_commit_timestamp_seconds", &|_| true);
    // The target's table is locked: the stream cannot commit what comes now.
    let mut locking = postgres().psql(&to).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("psql can be started");
    let mut orders = locking.stdin.take().expect("psql listens");
    orders.write_all(b"begin; lock table items;\n").expect("psql takes it");
    let locked = "select count(*) from pg_locks where relation = 'items'::regclass and mode = 'AccessExclusiveLock' and granted";
    wait("the lock", &project, "log", || postgres().sql(&to, locked) == "1");
    for part in 0..20 {
        let rows = format!("insert into items select i, repeat('x', 1000) from generate_series({part}00 + 1000, {part}99 + 1000) i");
        postgres().sql(&from, &rows);
    }
    held("lag_bytes", &|bytes| bytes > 1_000_000.0);
    held("lag_seconds", &|seconds| seconds > 1.0);
    held("kept_bytes", &|bytes| bytes > 1_000_000.0);
    drop(orders);
    locking.wait().expect("psql ends");
    held("lag_bytes", &|bytes| bytes < 100_000.0);
    held("lag_seconds", &|seconds| seconds < 1.0);
    wait("the last rows", &project, "log", || postgres().sql(&to, "select count(*) from items") == "2001");
    assert_eq!(served.stop(), Some(143), "{}", project.read("log"));
    project.haul(&["drop", "behind"]).expect(0);
}
