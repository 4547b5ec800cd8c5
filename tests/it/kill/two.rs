//! Two workers on one load, as after a network that split: the first is stopped, the second takes the load over, the first wakes up.
//!
//! Each has a journal of its own, so that only the epoch in the target keeps them apart. Whoever wins, the load arrives whole: once, or twice
//! when the second began only after the first had published, but never in part.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::rows::{COUNT, Mode, Rows, payload};
use super::sql::{Postgres, Sqlite, pipeline, postgres_source, sqlite_source};
use super::{PIPELINE, Target};
use crate::support::{Project, dice, postgres};

/// Times the workers meet.
const MEETINGS: usize = 25;

#[test]
fn sqlite_workers_fence_each_other() {
    let (first, second) = (Project::new(), Project::new());
    let target = Sqlite { path: first.path("target.db"), mode: Mode::Append };
    sqlite_source(&first);
    let of = |name: &str| format!("sqlite:{}", first.path(name).display());
    let text = pipeline(&of("source.db"), "items", &of("target.db"), "items", Mode::Append, "");
    meet(&first, &second, &text, &target, || target.rows());
}

#[test]
fn postgres_workers_fence_each_other() {
    let (first, second) = (Project::new(), Project::new());
    let target = Postgres { url: postgres().fresh_database(), mode: Mode::Append };
    let text = pipeline(&postgres_source(), "public.items", &target.url, "public.items", Mode::Append, "");
    meet(&first, &second, &text, &target, || Ok(target.rows()));
}

fn meet(first: &Project, second: &Project, text: &str, target: &dyn Target, rows: impl Fn() -> Result<Rows, String>) {
    let (mut dice, seed) = dice();
    let mut refused = 0;
    for project in [first, second] {
        project.file(&format!("pipelines/{PIPELINE}.yaml"), text);
    }
    for meeting in 1..=MEETINGS {
        for project in [first, second] {
            let _ = std::fs::remove_dir_all(project.path(".haul"));
        }
        target.reset();
        let mut codes = one_meeting(first, second, &mut dice);
        refused += usize::from(codes[0] != 0);
        while !codes.contains(&0) {
            // Both were refused, the second because a lock did not come back in time: the load is still to be finished.
            codes[1] = second.haul(&["run", PIPELINE]).code.unwrap_or(-1);
        }
        let times = whole_times(&rows().expect("the target can be read"));
        let most = codes.iter().filter(|code| **code == 0).count();
        assert!(
            times.as_ref().is_ok_and(|times| (1..=most).contains(times)),
            "meeting {meeting} of seed {seed}: exit codes {codes:?}, {times:?}\nfirst:\n{}\nsecond:\n{}",
            first.read("log.txt"),
            second.read("log.txt"),
        );
    }
    println!("{MEETINGS} meetings, the first worker was refused in {refused}; seed {seed}");
    assert!(refused > 0, "the first worker was never refused: the waits or the splits are badly chosen (seed {seed})");
}

/// Both exit codes.
fn one_meeting(first: &Project, second: &Project, dice: &mut fastrand::Rng) -> [i32; 2] {
    let mut one = start(first);
    std::thread::sleep(Duration::from_millis(dice.u64(50..=500)));
    signal(&one, "-STOP");
    let mut two = start(second);
    // A stopped worker may hold locks that the second waits for, so the second is given a while, not for ever.
    let deadline = Instant::now() + Duration::from_millis(dice.u64(200..=4000));
    while Instant::now() < deadline && two.try_wait().expect("haul can be waited for").is_none() {
        std::thread::sleep(Duration::from_millis(10));
    }
    signal(&one, "-CONT");
    [&mut one, &mut two].map(|worker| worker.wait().expect("haul can be waited for").code().unwrap_or(-1))
}

fn start(project: &Project) -> Child {
    let log = std::fs::File::create(project.path("log.txt")).expect("a log in the project");
    let mut command = project.command(&["run", PIPELINE]);
    command.stdout(log.try_clone().expect("a second handle")).stderr(log);
    command.spawn().expect("haul can be started")
}

/// A process that is gone already takes no signal, which is as good.
fn signal(worker: &Child, signal: &str) {
    let mut kill = Command::new("kill");
    kill.args([signal, &worker.id().to_string()]).stderr(std::process::Stdio::null());
    kill.status().expect("kill can be started");
}

/// How many times all rows of the source are there, when that is the same for each.
fn whole_times(rows: &Rows) -> Result<usize, String> {
    let mut counts = vec![0_usize; COUNT as usize];
    for (id, payloads) in rows.range(1..=COUNT) {
        if payloads.iter().any(|found| *found != payload(*id)) {
            return Err(format!("the id {id} holds {payloads:?}"));
        }
        counts[*id as usize - 1] = payloads.len();
    }
    let (least, most) = (counts.iter().min().copied().unwrap_or(0), counts.iter().max().copied().unwrap_or(0));
    if least == most { Ok(least) } else { Err(format!("some rows are there {least} times, some {most} times")) }
}
