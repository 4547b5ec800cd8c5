//! Daemons that are killed: every tick is accounted for exactly once.

use std::collections::BTreeSet;
use std::time::Duration;

use haul::journal::TickState;

use super::{done, rows, serve, ticks, wait, written};
use crate::support::{Project, kills, setting};

/// Every tick between the first and the last one has one record, and one row once it is done.
#[track_caller]
pub fn exactly_once(project: &Project, pipeline: &str, every_ms: usize) {
    let ticks = ticks(project, pipeline);
    let times: Vec<i64> = ticks.iter().map(|tick| tick.at_ms).collect();
    let expected: Vec<i64> = (times[0]..=times[times.len() - 1]).step_by(every_ms).collect();
    assert_eq!(times, expected, "{pipeline}");
    let runs: BTreeSet<&str> = ticks.iter().map(|tick| tick.run.as_str()).collect();
    assert_eq!(runs.len(), ticks.len(), "{pipeline} has runs of several ticks");
    let wrong: Vec<_> = ticks.iter().filter(|tick| !matches!(tick.state, TickState::Done | TickState::Open)).collect();
    assert!(wrong.is_empty(), "{pipeline}: {wrong:?}");
    let done = ticks.iter().filter(|tick| tick.state == TickState::Done).count() as i64;
    let (rows, different) = written(project, pipeline);
    assert!(rows == different && rows >= done && rows <= ticks.len() as i64, "{pipeline}: {rows} rows of {different} ticks, {done} done");
}

/// Daemons are killed at any moment, and the last one goes on for a while. `HAUL_KILLS` and `HAUL_RUNS` in the environment say how often and
/// for how many runs; a few are enough to find what always goes wrong.
#[test]
fn every_tick_survives_daemons_that_are_killed() {
    let (kills, runs) = (kills(8), setting("HAUL_RUNS").map_or(30, |runs| runs as usize));
    let project = Project::new();
    let names = ["a", "b", "c"];
    for name in names {
        project.file(&format!("pipelines/{name}.yaml"), rows(name, "{ every: 2s, overlap: queue, catch_up: { mode: all, most: 1000 } }"));
    }
    for _ in 0..kills {
        let mut served = serve(&project, "log", &["--runs", "3"]);
        std::thread::sleep(Duration::from_millis(fastrand::u64(200..2500)));
        served.child.kill().expect("killed");
        served.child.wait().expect("dead");
    }
    let served = serve(&project, "log", &["--runs", "3"]);
    let open = |name: &str| ticks(&project, name).iter().filter(|tick| tick.state == TickState::Open).count();
    wait("the last daemon", &project, "log", || project.read("log").contains("definitions read"));
    wait("everything made up for", &project, "log", || names.iter().all(|name| done(&project, name) > 0 && open(name) <= 1));
    let all = || names.iter().map(|name| done(&project, name)).sum::<usize>();
    // Run by run, so that many of them take as long as they take.
    let goes_on = |runs: usize| {
        let begun = all();
        (1..=runs).for_each(|run| wait("another run", &project, "log", || all() >= begun + run));
    };
    goes_on(runs / 3);
    let (files, kib) = (served.files(), served.resident_kib());
    goes_on(runs - runs / 3);
    assert!(served.files() <= files + 3, "{} files are open, {files} were before", served.files());
    assert!(served.resident_kib() <= kib + 16 * 1024, "{} KiB are used, {kib} were before", served.resident_kib());
    println!(
        "{} runs over {kills} kills; {kib} KiB and {files} files, then {} KiB and {} files",
        all(),
        served.resident_kib(),
        served.files()
    );
    assert_eq!(served.stop(), Some(143));
    for name in names {
        exactly_once(&project, name, 2000);
    }
}
