//! Schedules: what is shown of them.

use crate::support::{Project, golden};

const STAGES: &str = "stages:\n  a:\n    kind: batch\n    from: { generate: 1, columns: { id: i } }\n    to: { discard: \"a test\" }\n";

/// A project whose pipelines have these schedules and generate one row.
fn project(schedules: &[(&str, &str)]) -> Project {
    let project = Project::new();
    for (name, schedule) in schedules {
        let schedule = if schedule.is_empty() { String::new() } else { format!("schedule: {schedule}\n") };
        project.file(&format!("pipelines/{name}.yaml"), format!("{schedule}{STAGES}"));
    }
    project
}

#[test]
fn what_runs_when_is_shown() {
    let project = project(&[
        ("nightly", "{ cron: \"30 2 * * *\", timezone: Europe/Berlin, jitter: 5m }"),
        ("often", "[{ every: 15m }, { after: { pipeline: nightly } }]"),
        ("manual", ""),
        ("broken", "{ every: 15m, timezon: UTC }"),
        ("last", "{ after: { pipeline: nihgtly } }"),
    ]);
    let said = project.haul(&["schedule", "--from", "2026-03-28T00:00:00Z", "--next", "3"]).expect(0);
    golden("verbs/schedule.txt", &said.stdout);
    let said = project.haul(&["schedule", "nightly", "--from", "2026-03-28T00:00:00Z", "--next", "2", "--json"]).expect(0);
    golden("verbs/schedule.json", &said.stdout);
    let said = project.haul(&["schedule", "nihgtly"]).expect(3);
    assert!(said.stderr.contains("did you mean `nightly`?"), "{said:?}");
    project.haul(&["schedule", "--from", "tomorrow"]).expect(2);
    assert!(Project::new().file("haul.yaml", "").haul(&["schedule"]).expect(0).stdout.starts_with("no pipeline runs by itself"));
}

#[test]
fn pipelines_that_run_after_each_other_are_checked_together() {
    let project = project(&[
        ("a", "{ after: { pipeline: c } }"),
        ("b", "{ after: { pipeline: a } }"),
        ("c", "[{ every: 1h }, { after: { pipeline: b } }]"),
        ("d", "{ after: { pipeline: a } }"),
        ("e", "{ after: { pipeline: dd } }"),
    ]);
    golden("verbs/schedule-triggers.txt", &project.haul(&["validate"]).expect(2).stdout);
}
