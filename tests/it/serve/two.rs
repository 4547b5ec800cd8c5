//! Daemons on several machines with one journal in PostgreSQL.

use std::collections::BTreeSet;

use haul::journal::TickState;

use super::{serve, ticks_in, wait};
use crate::support::{Project, postgres};

#[test]
fn daemons_on_one_postgresql_journal_never_start_a_tick_twice() {
    let (state, target) = (postgres().fresh_database(), postgres().fresh_database());
    let pipeline = format!(
        "schedule: {{ every: 1s, overlap: queue, catch_up: all }}\nconnections:\n  out: {{ url: \"{target}\" }}\nstages:\n  a:\n    kind: batch\n\
        \x20   from: {{ generate: 1, columns: {{ tick: \"{{{{ run.scheduled_at }}}}\" }} }}\n    to: {{ sql: out, table: ticks }}\n"
    );
    let machines = [Project::new(), Project::new()];
    for machine in &machines {
        machine.file("haul.yaml", format!("state: \"{state}\"\n")).file("pipelines/often.yaml", &pipeline);
    }
    let [one, other] = &machines;
    let done = || ticks_in(one, &state, "often").iter().filter(|tick| tick.state == TickState::Done).count();
    let mut first = serve(one, "log", &[]);
    wait("a tick", one, "log", || done() >= 1);
    let second = serve(other, "log", &[]);
    wait("the second", other, "log", || other.read("log").contains("standing by: "));
    assert!(second.get(other, "/metrics").contains("haul_leads 0\n"));
    let before = done();
    wait("ticks of the first", one, "log", || done() >= before + 3);
    assert!(!other.read("log").contains("starts run"), "the second runs nothing while the first lives");
    first.child.kill().expect("killed");
    first.child.wait().expect("dead");
    wait("the second to lead", other, "log", || other.read("log").contains("definitions read"));
    let before = done();
    wait("ticks of the second", other, "log", || done() >= before + 3);
    assert!(one.haul(&["schedule"]).expect(0).stdout.starts_with("often\n"), "somebody serves, though not on this machine");
    assert_eq!(second.stop(), Some(143));
    let ticks = ticks_in(one, &state, "often");
    let times: Vec<i64> = ticks.iter().map(|tick| tick.at_ms).collect();
    assert_eq!(times, (times[0]..=times[times.len() - 1]).step_by(1000).collect::<Vec<_>>());
    let runs: BTreeSet<&str> = ticks.iter().map(|tick| tick.run.as_str()).collect();
    assert_eq!(runs.len(), ticks.len());
    let written = postgres().sql(&target, "select count(*), count(distinct tick) from ticks");
    let (rows, different) = written.split_once('|').expect("two numbers");
    assert!(rows == different && rows.parse::<usize>().expect("a number") >= done(), "{written}, {} done", done());
}
