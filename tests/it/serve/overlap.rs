//! What happens when runs of a pipeline meet, whoever started them.

use haul::journal::{Journal, Tick, TickState};

use super::{DEFAULT_URL, SLOW, done, serve, ticks, wait};
use crate::support::Project;
use crate::support::web::{Web, answer};

#[test]
fn overlap_holds_for_runs_by_hand() {
    for (overlap, rows) in [("skip", 2_000_000_000_u64), ("queue", 3_000_000), ("cancel_running", 2_000_000_000)] {
        let project = Project::new();
        project.file("pipelines/slow.yaml", format!("schedule: {{ every: 1d, overlap: {overlap} }}\n{SLOW}"));
        let first = std::fs::File::create(project.path("first")).expect("a log");
        let mut first = project.command(&["run", "slow", "--param", &format!("rows={rows}")]).stderr(first).spawn().expect("started");
        wait("the first run", &project, "first", || project.read("first").contains("a started"));
        let second = project.haul(&["run", "slow"]);
        if overlap == "skip" {
            assert!(second.expect(3).stderr.contains("is being run by process "));
            first.kill().expect("killed");
            first.wait().expect("dead");
            continue;
        }
        let second = second.expect(0);
        assert!(second.stderr.contains("waiting: pipeline `slow` is being run by process "), "{second:?}");
        let code = first.wait().expect("it ends").code();
        assert_eq!(code, Some(if overlap == "queue" { 0 } else { 1 }), "{overlap}");
        let runs: serde_json::Value = serde_json::from_str(&project.haul(&["runs", "--json"]).expect(0).stdout).expect("JSON");
        let outcomes: Vec<_> = runs.as_array().expect("a list").iter().map(|run| run["outcome"].as_str()).collect();
        assert_eq!(outcomes, [Some("done"), Some(if overlap == "queue" { "done" } else { "interrupted" })]);
    }
}

#[test]
fn overlap_holds_between_ticks_and_runs_by_hand() {
    for overlap in ["skip", "queue", "cancel_running"] {
        let project = Project::new();
        project.file("pipelines/slow.yaml", format!("schedule: {{ every: 1s, overlap: {overlap} }}\n{SLOW}"));
        let log = std::fs::File::create(project.path("by hand")).expect("a log");
        let mut by_hand = project.command(&["run", "slow", "--param", "rows=2000000000"]).stderr(log).spawn().expect("started");
        wait("the run by hand", &project, "by hand", || project.read("by hand").contains("a started"));
        let served = serve(&project, "log", &[]);
        match overlap {
            "skip" => {
                let left_out = |tick: &Tick| tick.reason.starts_with("the pipeline is being run by process ");
                wait("a tick that is left out", &project, "log", || ticks(&project, "slow").iter().any(left_out));
            }
            "queue" => wait("ticks that wait", &project, "log", || ticks(&project, "slow").len() >= 3),
            _ => wait("the run by hand to stop", &project, "by hand", || by_hand.try_wait().expect("it can be asked").is_some()),
        }
        if overlap == "cancel_running" {
            assert_eq!(by_hand.wait().expect("it has ended").code(), Some(1));
        } else {
            assert_eq!(done(&project, "slow"), 0, "{overlap}");
            let retry = std::fs::File::create(project.path("retry")).expect("a log");
            let mut retry = project.command(&["retry"]).stderr(retry).spawn().expect("started");
            wait("word of the run by hand", &project, "retry", || project.read("retry").contains("is being run by process "));
            if overlap == "skip" {
                assert_eq!(retry.wait().expect("it has ended").code(), Some(3));
            }
            let _ = retry.kill();
            retry.wait().expect("dead");
            by_hand.kill().expect("killed");
            by_hand.wait().expect("dead");
        }
        wait("a tick that is done", &project, "log", || done(&project, "slow") >= 1);
        assert_eq!(served.stop(), Some(143));
    }
}

#[test]
fn runs_that_may_overlap_go_at_once_and_each_has_one_process() {
    let project = Project::new();
    let slow = SLOW.replace("default: 1", "default: 2000000000");
    project.file("pipelines/slow.yaml", format!("schedule: {{ every: 1s, overlap: allow }}\n{slow}"));
    let served = serve(&project, "log", &["--runs", "3"]);
    wait("the daemon", &project, "log", || project.read("log").contains("definitions read"));
    wait("three runs at once", &project, "log", || served.get(&project, "/metrics").contains("haul_runs_going 3\n"));
    project.haul(&["run", "slow", "--param", "rows=1"]).expect(0);
    let going = ticks(&project, "slow")[0].run.clone();
    let retry = std::fs::File::create(project.path("retry")).expect("a log");
    let mut retry = project.command(&["retry", &going]).stderr(retry).spawn().expect("started");
    wait("word of the other process", &project, "retry", || {
        project.read("retry").contains("waiting: pipeline `slow` is being run by process ")
    });
    retry.kill().expect("killed");
    retry.wait().expect("dead");
    assert_eq!(served.stop(), Some(143));
    let runs: serde_json::Value = serde_json::from_str(&project.haul(&["runs", "--json"]).expect(0).stdout).expect("JSON");
    let count = |outcome: &str| runs.as_array().expect("a list").iter().filter(|run| run["outcome"] == outcome).count();
    assert_eq!((count("interrupted"), count("done")), (3, 1), "{runs}");
}

#[test]
fn failures_pause_a_pipeline_whose_newer_runs_still_go() {
    let web = Web::start(|_, out| {
        std::thread::sleep(std::time::Duration::from_secs(4));
        answer(out, 404, &[], "")
    });
    let project = Project::new();
    let text = format!(
        "schedule: {{ every: 1s, overlap: allow, pause_on_failure: 2 }}\nconnections:\n  api: {{ url: \"{}\" }}\nstages:\n  a:\n\
        \x20   kind: batch\n    from: {{ http: api, path: /rows, columns: {{ id: int64 }} }}\n    to: {{ discard: \"a test\" }}\n",
        web.url()
    );
    project.file("pipelines/p.yaml", text);
    let served = serve(&project, "log", &["--runs", "8"]);
    wait("the pause", &project, "log", || project.read("log").contains("runs in a row have failed"));
    assert_eq!(served.stop(), Some(143));
}

#[test]
fn any_of_the_runs_that_may_overlap_can_be_retried() {
    let project = Project::new();
    let text = "schedule: { every: 1d, overlap: allow }\nconnections:\n  db: { url: \"sqlite:db.db\" }\n  out: { url: \"file:out\" }\nstages:\n  a:\n\
        \x20   kind: batch\n    from: { sql: db, table: given }\n    transform:\n      - cast: { v: int64 }\n\
        \x20   to: { files: out, path: \"{{ run.id }}.csv\" }\n";
    project.file("pipelines/p.yaml", text);
    let database = rusqlite::Connection::open(project.path("db.db")).expect("a database");
    database.execute_batch("create table given (v text); insert into given values ('two')").expect("a table");
    project.haul(&["run", "p"]).expect(1);
    project.haul(&["run", "p", "--fresh"]).expect(1);
    database.execute_batch("update given set v = '2'").expect("mended");
    let runs: serde_json::Value = serde_json::from_str(&project.haul(&["runs", "--json"]).expect(0).stdout).expect("JSON");
    for run in runs.as_array().expect("a list").iter().rev() {
        let run = run["run"].as_str().expect("an id");
        project.haul(&["retry", run]).expect(0);
        assert_eq!(project.read(&format!("out/{run}.csv")), "v\n2\n");
    }
    project.haul(&["run", "p"]).expect(0);
    assert_eq!(std::fs::read_dir(project.path("out")).expect("a folder").flatten().filter(|file| file.path().is_file()).count(), 3);
}

/// Ticks wait when their pipeline is paused, and the journal cannot be written for a while: they are left out as soon as it can.
#[test]
fn ticks_that_a_pause_leaves_out_are_written_down_in_the_end() {
    let project = Project::new();
    project.file("pipelines/often.yaml", format!("schedule: {{ every: 5s, overlap: queue }}\n{SLOW}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let journal = runtime.block_on(Journal::open(DEFAULT_URL, &project.path(""))).expect("the journal");
    let lease = runtime.block_on(journal.lease("often")).expect("nobody else has it");
    let served = serve(&project, "log", &[]);
    let is_open = |tick: &Tick| tick.state == TickState::Open;
    wait("a tick that waits", &project, "log", || ticks(&project, "often").iter().any(is_open));
    project.haul(&["pause", "often", "--reason", "a test"]).expect(0);
    let other = rusqlite::Connection::open(project.path(DEFAULT_URL.trim_start_matches("sqlite:"))).expect("the journal's file");
    other.execute_batch("begin immediate").expect("the lock");
    wait("a failure", &project, "log", || project.read("log").contains("trying again"));
    other.execute_batch("rollback").expect("unlocked");
    wait("the ticks to be left out", &project, "log", || !ticks(&project, "often").iter().any(is_open));
    assert!(ticks(&project, "often").iter().any(|tick| tick.reason == "paused: a test"));
    drop(lease);
    assert_eq!(served.stop(), Some(143));
}
