//! Streams: everything arrives once, whoever is killed, stopped, cut off or late.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::support::{Project, dice, postgres};

mod altered;
mod changes;
mod changes_sqlite;
mod cut;
mod kill;
mod large;
mod logins;
mod poison;
mod poll;
mod post;
mod post_changes;
mod redis;
mod redis_channel;
mod redis_source;
mod restart;
mod roll;
mod steps;
mod tables;

/// The longest anything here may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Starts the pipeline and lets it run.
fn start(project: &Project, name: &str) -> Child {
    let log = std::fs::File::create(project.path("log.txt")).expect("a log");
    let mut command: Command = project.command(&["run", name]);
    command.stdout(log.try_clone().expect("the same log")).stderr(log).spawn().expect("haul can be started")
}

/// Waits until `look` gives what is wanted.
#[track_caller]
fn until(project: &Project, what: &str, look: impl FnMut() -> bool) {
    until_within(PATIENCE, project, what, look);
}

/// The same with other patience.
#[track_caller]
fn until_within(patience: Duration, project: &Project, what: &str, mut look: impl FnMut() -> bool) {
    let end = Instant::now() + patience;
    while !look() {
        assert!(Instant::now() < end, "{what} did not come about; haul said:\n{}", project.read("log.txt"));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Starts a pipeline of streams and kills it, again and again, mostly behind a commit, which moves `position`. Fails when too few kills met a
/// stream that had committed.
#[track_caller]
fn kill_again<P: PartialEq>(project: &Project, name: &str, wanted: usize, position: impl Fn() -> P) {
    let (mut dice, seed) = dice();
    let (mut moved, mut last) = (0, position());
    // One of four kills waits for no commit, whatever the dice say: with few kills they might leave too many without.
    let hasty = dice.usize(0..4);
    for number in 0..wanted {
        let mut haul = start(project, name);
        if number % 4 != hasty {
            until(project, "a commit", || position() != last);
        }
        std::thread::sleep(Duration::from_millis(dice.u64(1..300)));
        if let Some(status) = haul.try_wait().expect("haul can be asked") {
            panic!("haul ended with {status}; seed {seed}:\n{}", project.read("log.txt"));
        }
        haul.kill().expect("haul can be killed");
        haul.wait().expect("haul can be waited for");
        let now = position();
        moved += usize::from(now != last);
        last = now;
    }
    println!("{wanted} kills, {moved} of them after a commit; seed {seed}");
    assert!(moved * 2 >= wanted, "of {wanted} kills only {moved} met a stream that had committed");
}

fn signal(child: &Child, signal: &str) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill can be started");
    assert!(status.success());
}

/// How many rows a table has, and how many ids; nothing as long as it does not exist.
fn rows(url: &str, table: &str) -> String {
    if sql(url, &format!("select to_regclass('{table}') is null")) == "t" {
        return String::new();
    }
    sql(url, &format!("select count(*), count(distinct id) from {table}"))
}

fn sql(url: &str, text: &str) -> String {
    postgres().sql(url, text)
}
