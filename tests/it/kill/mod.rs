//! kill -9 at random moments, then the truth: nothing lost, nothing twice, nothing left behind.
//!
//! Each test runs the real binary on one sink, kills it with SIGKILL after a random time, and runs it again until it is done; then over again
//! on fresh ground, until at least [`KILLS`] kills have been dealt. After every kill the target may hold only what its mode allows a reader to
//! see; at the end of each cycle it must hold exactly the expected rows, and nothing else may be left. All looks at the target are by `psql`, by
//! SQLite's own library or by reading files, never through haul.
//!
//! Breaks of the protocol, made by hand, that these tests were seen to catch:
//!
//! 1. rows of SQLite committed without their mark: rows doubled;
//! 2. the mark committed before its rows: rows lost;
//! 3. a load that was found ignored, and begun again over what it had committed: rows doubled;
//! 4. splits cut anew when a load is gone on with, instead of those recorded at its start: rows lost;
//! 5. commits of an older epoch let through: two workers wrote the same rows;
//! 6. a folder of files that took the half-moved parts of its own load for somebody else's: the load could never end;
//! 7. a published load of files whose rubbish nobody removed: files left behind.
//!
//! The seed of a failing run is in its message: `HAUL_KILL_SEED=… cargo test kill::` deals the same waits again. `HAUL_KILLS=…` sets their number.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::Value;

use crate::support::{self, Project};

mod checkpoints;
mod files;
mod redis;
mod redis_keys;
mod rows;
mod sql;
mod two;

/// Kills a sink has to survive.
const KILLS: usize = 200;

/// The longest wait before the first kill, in milliseconds; those before later ones are found by trying.
const LONGEST_MS: u64 = 300;

/// The pipeline of every test.
const PIPELINE: &str = "kill";

/// What is written, and how it is looked at without haul.
trait Target {
    /// Puts the target back to what it was before the run.
    fn reset(&self);

    /// What a reader may see after a kill at any moment. The journal says that at least `recorded` rows are committed.
    fn after_kill(&self, recorded: u64) -> Result<(), String>;

    /// What must be there, and what must not, when the run is done.
    fn at_end(&self) -> Result<(), String>;

    /// Whether the last kill hit a load that was under way, of which the journal says that `splits` are committed.
    fn halfway(&self, splits: usize) -> bool {
        splits > 0
    }
}

/// Runs and kills until enough kills are dealt.
fn torture(project: &Project, target: &dyn Target) {
    torture_for(project, target, support::kills(KILLS));
}

/// The same for another number of kills.
fn torture_for(project: &Project, target: &dyn Target, wanted: usize) {
    let (mut dice, seed) = support::dice();
    let (mut kills, mut cycles, mut halfway) = (0, 0, 0);
    let mut longest_ms = LONGEST_MS;
    while kills < wanted {
        let journal = Journal(project.path(".haul"));
        target.reset();
        let _ = std::fs::remove_dir_all(&journal.0);
        let said = cycle(project, target, &journal, &mut dice, &mut longest_ms, (&mut kills, &mut halfway));
        let said = said.and_then(|()| target.at_end()).and_then(|()| journal.at_end(rows::COUNT as u64));
        if let Err(wrong) = said {
            panic!("{wrong}\nafter {kills} kills, in cycle {}; HAUL_KILL_SEED={seed} repeats the waits", cycles + 1);
        }
        cycles += 1;
    }
    println!("{kills} kills in {cycles} cycles, {halfway} of them in the middle of a load; seed {seed}");
    assert!(
        halfway * 4 >= kills,
        "of {kills} kills only {halfway} hit a load that was under way: the waits or the splits are badly chosen"
    );
}

/// From the first start to the end of one run, with as many kills as it takes.
fn cycle(
    project: &Project,
    target: &dyn Target,
    journal: &Journal,
    dice: &mut fastrand::Rng,
    longest_ms: &mut u64,
    (kills, halfway): (&mut usize, &mut usize),
) -> Result<(), String> {
    for attempt in 1_u32.. {
        // What a run does last may need longer than any wait, and none of it is kept: after some kills of one run the waits grow.
        let wait = Duration::from_millis(dice.u64(10..=*longest_ms << (attempt / 10).min(8)));
        if let Some(code) = run_for(project, wait) {
            if attempt == 1 {
                *longest_ms = shorter(*longest_ms);
            }
            let log = || project.read("log.txt");
            return if code == 0 { Ok(()) } else { Err(format!("haul gave exit code {code} in attempt {attempt}:\n{}", log())) };
        }
        *kills += 1;
        let state = journal.state()?;
        target.after_kill(state.rows)?;
        let hit = target.halfway(state.splits) && !state.finished;
        *halfway += usize::from(hit);
        // Each machine has its own pace, and so has each moment of a busy one: half of the kills are to meet a load under way, so that few
        // are in vain and no run gets far. Once waits grow for another reason, nothing is to be learnt from them.
        if attempt < 10 {
            *longest_ms = if hit { shorter(*longest_ms) } else { (*longest_ms * 9 / 8).min(10_000) };
        }
        if state.finished {
            // The kill came between the last word in the journal and the exit: another start would rightly be a new run.
            return Ok(());
        }
    }
    unreachable!("attempts have no end")
}

fn shorter(wait_ms: u64) -> u64 {
    (wait_ms * 7 / 8).max(40)
}

/// Starts haul and kills it after a while. Gives its exit code when it was quicker.
fn run_for(project: &Project, wait: Duration) -> Option<i32> {
    let log = std::fs::File::create(project.path("log.txt")).expect("a log in the project");
    let mut command = project.command(&["run", PIPELINE]);
    command.stdout(log.try_clone().expect("a second handle")).stderr(log);
    let mut haul = command.spawn().expect("haul can be started");
    let end = Instant::now() + wait;
    while Instant::now() < end {
        if let Some(status) = haul.try_wait().expect("haul can be waited for") {
            return Some(status.code().unwrap_or(-1));
        }
        std::thread::sleep(Duration::from_millis(2).min(end.saturating_duration_since(Instant::now())));
    }
    haul.kill().expect("haul can be killed");
    haul.wait().expect("haul can be waited for").code()
}

/// The journal, read as a plain SQLite file.
struct Journal(PathBuf);

/// What the journal says.
#[derive(Default)]
struct State {
    /// Splits that it calls committed.
    splits: usize,
    /// Their rows.
    rows: u64,
    /// Whether it calls the run done.
    finished: bool,
}

impl Journal {
    /// All events in order, read from a copy, so that the next start finds the files as the kill left them.
    fn events(&self) -> Result<Vec<Value>, String> {
        let copy = tempfile::tempdir().map_err(|error| error.to_string())?;
        for name in ["state.db", "state.db-wal"] {
            if self.0.join(name).exists() {
                std::fs::copy(self.0.join(name), copy.path().join(name)).map_err(|error| error.to_string())?;
            }
        }
        let wrong = |error: rusqlite::Error| format!("the journal cannot be read: {error}");
        let journal = Connection::open(copy.path().join("state.db")).map_err(wrong)?;
        let tables = "select count(*) from sqlite_schema where name = 'haul_journal_events'";
        if journal.query_row(tables, [], |row| row.get::<_, i64>(0)).map_err(wrong)? == 0 {
            return Ok(Vec::new());
        }
        let mut query = journal.prepare("select event from haul_journal_events order by run, place").map_err(wrong)?;
        let texts = query.query_map([], |row| row.get::<_, String>(0)).map_err(wrong)?;
        texts.map(|text| serde_json::from_str(&text.map_err(wrong)?).map_err(|error| error.to_string())).collect()
    }

    fn state(&self) -> Result<State, String> {
        let events = self.events()?;
        let splits: BTreeMap<&str, u64> = of_kind(&events, "split_finished")
            .map(|event| (event["split"].as_str().unwrap_or_default(), event["rows"].as_u64().unwrap_or_default()))
            .collect();
        Ok(State { splits: splits.len(), rows: splits.values().sum(), finished: of_kind(&events, "run_finished").next().is_some() })
    }

    /// A cycle is one run, done once, with all its rows, however often it was killed.
    fn at_end(&self, rows: u64) -> Result<(), String> {
        let events = self.events()?;
        let mut runs: Vec<&Value> = events.iter().map(|event| &event["run"]).collect();
        runs.dedup();
        let starts: Vec<bool> = of_kind(&events, "run_started").map(|event| event["resumed"] == true).collect();
        let ends: Vec<&Value> = of_kind(&events, "run_finished").map(|event| &event["outcome"]).collect();
        let reported: Vec<u64> = of_kind(&events, "stage_finished").filter_map(|event| event["outputs"][0]["rows"].as_u64()).collect();
        let honest = runs.len() == 1
            && starts.iter().enumerate().all(|(place, resumed)| *resumed == (place > 0))
            && ends == ["done"]
            && reported.last() == Some(&rows);
        if honest {
            return Ok(());
        }
        Err(format!("the journal tells another story: runs {runs:?}, resumed {starts:?}, outcomes {ends:?}, rows {reported:?} of {rows}"))
    }
}

fn of_kind<'a>(events: &'a [Value], kind: &'static str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["event"] == kind)
}
