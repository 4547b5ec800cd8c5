//! The daemon: it runs what is due, takes new definitions in, stops and crashes without losing or doubling a tick.

mod behind;
mod kill;
mod missed;
mod overlap;
mod stopping;
mod streams;
mod told;
mod two;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use haul::journal::{DEFAULT_URL, Journal, Tick, TickState};

use crate::support::Project;

/// A pipeline that appends one row with its tick to a table of its name.
fn rows(name: &str, schedule: &str) -> String {
    format!(
        "schedule: {schedule}\nconnections:\n  out: {{ url: \"sqlite:{name}.db\" }}\nstages:\n  a:\n    kind: batch\n\
        \x20   from: {{ generate: 1, columns: {{ tick: \"{{{{ run.scheduled_at }}}}\", since: \"{{{{ run.interval_start }}}}\" }} }}\n\
        \x20   to: {{ sql: out, table: ticks }}\n"
    )
}

/// A daemon, which dies with the test.
struct Served {
    child: Child,
    log: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(project: &Project, log: &str, arguments: &[&str]) -> Served {
    let file = std::fs::File::create(project.path(log)).expect("a log");
    let mut command = project.command(&[&["serve", "--listen", "127.0.0.1:0"], arguments].concat());
    Served { child: command.stderr(file).spawn().expect("haul can be started"), log: log.to_owned() }
}

impl Served {
    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill can be started").success());
    }

    /// Asks it to stop, and gives its exit code.
    fn stop(mut self) -> Option<i32> {
        self.signal("-TERM");
        self.child.wait().expect("it ends").code()
    }

    fn get(&self, project: &Project, path: &str) -> String {
        let log = project.read(&self.log);
        let rest = log.split("listening on http://").nth(1).expect("an address");
        let address: String = rest.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
        let mut stream = TcpStream::connect(address).expect("it listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    /// Its memory, in KiB.
    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// The files and connections it has open.
    fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("the process").count()
    }
}

#[track_caller]
fn wait(what: &str, project: &Project, log: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !done() {
        assert!(Instant::now() < deadline, "{what} does not come; the log is\n{}", project.read(log));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Asks a journal something.
fn ask<T>(project: &Project, url: &str, question: impl AsyncFnOnce(Journal) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { question(Journal::open(url, &project.path("")).await.expect("the journal")).await })
}

/// A pipeline's ticks, oldest first.
fn ticks(project: &Project, pipeline: &str) -> Vec<Tick> {
    ticks_in(project, DEFAULT_URL, pipeline)
}

fn ticks_in(project: &Project, url: &str, pipeline: &str) -> Vec<Tick> {
    let mut ticks = ask(project, url, async |journal| journal.ticks(pipeline, 100_000).await.expect("its ticks"));
    ticks.reverse();
    ticks
}

fn done(project: &Project, pipeline: &str) -> usize {
    ticks(project, pipeline).iter().filter(|tick| tick.state == TickState::Done).count()
}

/// The rows of a pipeline's table, and the different ticks in them.
fn written(project: &Project, pipeline: &str) -> (i64, i64) {
    let database = rusqlite::Connection::open(project.path(&format!("{pipeline}.db"))).expect("the database");
    let sql = "select count(*), count(distinct tick) from ticks";
    database.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("the table")
}

/// Rows enough for a run that is still going when something else happens.
const SLOW: &str = "params: { rows: { type: int, default: 1 } }\nlimits: { drain: 500ms }\nstages:\n  a:\n    kind: batch\n\
    \x20   from: { generate: \"{{ params.rows }}\", columns: { id: \"i\" } }\n    to: { discard: \"a test\" }\n";

#[test]
fn what_is_due_runs_and_what_goes_comes_to_rest() {
    let project = Project::new();
    project.file("pipelines/often.yaml", rows("often", "{ every: 1s, overlap: queue }"));
    project.file("pipelines/then.yaml", rows("then", "{ after: { pipeline: often }, overlap: queue }"));
    let twice = "[{ every: 1s, overlap: queue, params: { word: one } }, { every: 1s, params: { word: two } }]";
    let given = rows("given", twice).replace("run.scheduled_at", "params.word");
    project.file("pipelines/given.yaml", format!("params: {{ word: {{ type: text }} }}\n{given}"));
    let served = serve(&project, "log", &["--log", "json"]);
    wait("three ticks", &project, "log", || done(&project, "then") >= 3 && done(&project, "given") >= 3);
    let before = served.files();
    assert!(served.get(&project, "/livez").ends_with("ok\n"));
    assert!(served.get(&project, "/readyz").starts_with("HTTP/1.1 200 OK"));
    wait("more ticks", &project, "log", || done(&project, "then") >= 8);
    let metrics = served.get(&project, "/metrics");
    for wanted in ["haul_leads 1\n", "haul_pipelines{state=\"right\"} 3\n", "haul_runs_total{pipeline=\"often\",outcome=\"done\"} "] {
        assert!(metrics.contains(wanted), "{metrics}");
    }
    // Runs that are going have files of their own: only those that stay open count.
    wait("the end of what runs have open", &project, "log", || served.files() <= before + 3);
    let shown = || project.haul(&["schedule", "often"]).expect(0).stdout;
    wait("a tick that is shown as done", &project, "log", || shown().contains("done: run "));
    assert_eq!(served.stop(), Some(143));
    for line in project.read("log").lines() {
        let said: serde_json::Value = serde_json::from_str(line).expect("one document a line");
        assert!(said["at_ms"].is_i64() && said["level"] == "info" && said["message"].is_string(), "{line}");
    }
    for pipeline in ["often", "then"] {
        let ticks = ticks(&project, pipeline);
        assert!(ticks.iter().all(|tick| matches!(tick.state, TickState::Done | TickState::Open)), "{ticks:?}");
        let done = done(&project, pipeline) as i64;
        let (rows, different) = written(&project, pipeline);
        assert!(rows >= done && rows <= ticks.len() as i64, "{rows} rows of {done} runs that are done");
        assert!(pipeline == "then" || rows == different, "{rows} rows of {different} ticks");
        let logs = std::fs::read_dir(project.path(".haul/logs").join(pipeline)).expect("its logs").count() as i64;
        assert!(logs >= done);
    }
    assert_eq!(written(&project, "given").1, 2, "each schedule gives its own params");
    let database = rusqlite::Connection::open(project.path("often.db")).expect("the database");
    let intervals = "select count(*) from ticks where strftime('%s', tick) - strftime('%s', since) <> 1";
    assert_eq!(database.query_row(intervals, [], |row| row.get::<_, i64>(0)), Ok(0), "an interval begins with the tick before");
    let often = ticks(&project, "often");
    let said = project.haul(&["show", &often[0].run]).expect(0).stdout;
    assert!(said.contains("(schedule)") && said.contains("  scheduled "), "{said}");
    assert!(project.haul(&["runs"]).expect(0).stdout.contains("  after  "));
}

#[test]
fn a_wrong_definition_leaves_the_last_good_one_at_work() {
    let project = Project::new();
    project.file("pipelines/often.yaml", rows("often", "{ every: 1s }"));
    let served = serve(&project, "log", &[]);
    wait("a tick", &project, "log", || done(&project, "often") >= 1);
    project.file("pipelines/often.yaml", rows("often", "{ evry: 1s }"));
    wait("a word on it", &project, "log", || project.read("log").contains("its last good version goes on"));
    assert!(project.read("log").contains("did you mean `every`?"));
    let before = done(&project, "often");
    wait("more ticks", &project, "log", || done(&project, "often") >= before + 2);
    assert!(served.get(&project, "/metrics").contains("haul_pipelines{state=\"wrong\"} 1\n"));
    project.file("pipelines/often.yaml", rows("often", "{ every: 1d }"));
    wait("the new definition", &project, "log", || {
        project.read("log").matches("1 of 1 pipelines run by themselves, 0 are wrong").count() == 2
    });
    std::thread::sleep(Duration::from_millis(1500));
    let before = ticks(&project, "often").len();
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(ticks(&project, "often").len(), before, "the new definition is at work");
    assert_eq!(served.stop(), Some(143));
}

#[test]
fn a_pull_of_many_files_is_one_reload() {
    let (upstream, project) = (Project::new(), Project::new());
    let git = |at: &Project, arguments: &[&str]| {
        let who = ["-c", "user.name=a", "-c", "user.email=a@example.com"];
        let done = Command::new("git").args(who).args(arguments).current_dir(at.path("")).output().expect("git can be started");
        assert!(done.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    upstream.file("pipelines/first.yaml", rows("first", "{ every: 1d }"));
    let commit = || {
        git(&upstream, &["add", "pipelines"]);
        git(&upstream, &["commit", "-qm", "Change pipelines"]);
    };
    git(&upstream, &["init", "-q", "-b", "main"]);
    commit();
    git(&project, &["init", "-q", "-b", "main"]);
    let from = upstream.path("").to_string_lossy().into_owned();
    let pull = ["pull", "-q", &from, "main"];
    git(&project, &pull);
    let served = serve(&project, "log", &[]);
    let reads = || project.read("log").matches("definitions read").count() as u64;
    wait("the first read", &project, "log", || reads() == 1);
    for number in 0..100 {
        upstream.file(&format!("pipelines/many/{number}.yaml"), rows("many", "{ every: 1d }"));
    }
    commit();
    let begun = Instant::now();
    git(&project, &pull);
    let took = begun.elapsed();
    wait("all of them", &project, "log", || project.read("log").contains("101 of 101 pipelines run by themselves, 0 are wrong"));
    // Only a pull that stands still for a second on its way can be read in parts.
    assert!(reads() <= 2 + took.as_secs(), "{} reads after a pull of {took:?}", reads());
    assert_eq!(served.stop(), Some(143));
}

#[test]
fn a_second_daemon_stands_by_and_takes_over() {
    let project = Project::new();
    project.file("pipelines/often.yaml", rows("often", "{ every: 1s, overlap: queue, catch_up: all }"));
    let mut first = serve(&project, "first", &[]);
    wait("a tick", &project, "first", || done(&project, "often") >= 1);
    let second = serve(&project, "second", &[]);
    wait("the second", &project, "second", || project.read("second").contains("standing by: process "));
    assert!(second.get(&project, "/readyz").ends_with("standing by\n"));
    first.child.kill().expect("killed");
    first.child.wait().expect("dead");
    wait("the second to lead", &project, "second", || project.read("second").contains("definitions read"));
    let before = done(&project, "often");
    wait("more ticks", &project, "second", || done(&project, "often") >= before + 3);
    assert_eq!(second.stop(), Some(143));
    kill::exactly_once(&project, "often", 1000);
}

#[test]
fn failures_pause_a_pipeline_until_it_is_resumed() {
    let project = Project::new();
    let failing = rows("often", "{ every: 1s, pause_on_failure: 2 }").replace("generate: 1", "sql: out, table: missing");
    let failing = failing.split(", columns:").next().expect("a head").to_owned() + " }\n    to: { sql: out, table: ticks }\n";
    project.file("pipelines/often.yaml", failing);
    let served = serve(&project, "log", &[]);
    wait("the pause", &project, "log", || project.read("log").contains("paused: 2 runs in a row have failed"));
    let said = project.haul(&["schedule", "often"]).expect(0).stdout;
    assert!(said.contains("will not run: paused since ") && said.contains("`haul resume often` lets it go on"), "{said}");
    let said = project.haul(&["show"]).expect(0).stdout;
    assert!(said.contains("its plan could not be made: there is no database file"), "{said}");
    wait("a tick that is left out", &project, "log", || project.read("log").contains("skipped "));
    project.file("pipelines/often.yaml", rows("often", "{ every: 1s, pause_on_failure: 2 }"));
    wait("the new definition", &project, "log", || project.read("log").matches("definitions read").count() == 2);
    assert_eq!(project.haul(&["resume", "often"]).expect(0).stdout, "resumed often\n");
    wait("a run that is done", &project, "log", || done(&project, "often") >= 1);
    assert_eq!(project.haul(&["pause", "often", "--reason", "a test"]).expect(0).stdout, "paused often\n");
    assert!(project.haul(&["schedule"]).expect(0).stdout.contains(": a test; `haul resume often` lets it go on"));
    assert_eq!(served.stop(), Some(143));
    project.file("pipelines/manual.yaml", SLOW);
    assert!(project.haul(&["pause", "manual"]).expect(2).stderr.contains("there is nothing to hold back"));
}

#[test]
fn retry_goes_on_with_the_run_it_names() {
    let project = Project::new();
    let text = "connections:\n  db: { url: \"sqlite:db.db\" }\nstages:\n  first:\n    kind: batch\n    from: { generate: 3, columns: { id: \"i\" } }\n\
        \x20   to: { sql: db, table: made }\n  second:\n    kind: batch\n    after: [first]\n    from: { sql: db, table: given }\n\
        \x20   transform:\n      - cast: { v: int64 }\n    to: { sql: db, table: taken }\n";
    project.file("pipelines/p.yaml", text);
    let database = rusqlite::Connection::open(project.path("db.db")).expect("a database");
    database.execute_batch("create table given (v text); insert into given values ('1'), ('two')").expect("a table");
    project.haul(&["run", "p"]).expect(1);
    project.haul(&["retry"]).expect(1);
    database.execute_batch("update given set v = '2' where v = 'two'").expect("mended");
    let said = project.haul(&["retry", "latest"]).expect(0).stdout;
    assert!(said.contains("done: 2 stages"), "{said}");
    let count: i64 = database.query_row("select count(*) from made", [], |row| row.get(0)).expect("a count");
    assert_eq!(count, 3, "what was done is not done again");
    let runs: serde_json::Value = serde_json::from_str(&project.haul(&["runs", "--json"]).expect(0).stdout).expect("JSON");
    assert_eq!((runs.as_array().map(Vec::len), runs[0]["resumes"].as_i64()), (Some(1), Some(2)));
    let run = runs[0]["run"].as_str().expect("an id");
    assert!(project.haul(&["retry", run]).expect(1).stderr.contains("is done: there is nothing to retry"));
    database.execute_batch("update given set v = 'two'").expect("broken again");
    project.haul(&["run", "p"]).expect(1);
    let failed = project.haul(&["runs", "--json"]).expect(0).stdout;
    let failed: serde_json::Value = serde_json::from_str(&failed).expect("JSON");
    let failed = failed[0]["run"].as_str().expect("an id").to_owned();
    project.haul(&["run", "p", "--fresh"]).expect(1);
    assert!(project.haul(&["retry", &failed]).expect(1).stderr.contains("a later run of `p` came after run"));
    project.file("pipelines/p.yaml", text.replace("generate: 3", "generate: 4"));
    assert!(project.haul(&["retry"]).expect(1).stderr.contains("is no longer that of pipeline `p`"));
}
