//! Ticks against the tables of the documentation, and what is due of them.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::due::GRACE_MS;
use super::{Due, Missed, due, tick};
use crate::define::pipeline::{CatchUp, When};
use crate::define::schedule::cron;

fn when(pattern: &str, zone: &str) -> When {
    When::Cron(Box::new(cron(pattern, TimeZone::get(zone).expect("a zone")).expect("a pattern")))
}

fn ms(text: &str) -> i64 {
    text.parse::<Timestamp>().expect("a time").as_millisecond()
}

/// The ticks of a pattern between two times, on the zone's clock; and the same backwards.
#[track_caller]
fn check(pattern: &str, zone: &str, from: &str, to: &str, expected: &[&str]) {
    let when = when(pattern, zone);
    let (from, to) = (ms(from), ms(to));
    let forward: Vec<i64> =
        std::iter::successors(tick::next(&when, from - 1), |last| tick::next(&when, *last)).take_while(|tick| *tick < to).collect();
    let shown: Vec<String> = forward.iter().map(|ms| tick::shown(&when, *ms)[4..].to_owned()).collect();
    assert_eq!(shown, expected, "{pattern} in {zone}");
    let mut backward: Vec<i64> =
        std::iter::successors(tick::previous(&when, to), |last| tick::previous(&when, *last)).take_while(|tick| *tick >= from).collect();
    backward.reverse();
    assert_eq!(backward, forward, "{pattern} in {zone}, backwards");
}

#[test]
fn a_fixed_time_runs_once_in_a_gap() {
    let day = ("2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z");
    let named = &["2026-03-29 03:00:00 +02:00", "2026-03-30 02:30:00 +02:00"];
    check("30 2 * * *", "Europe/Berlin", day.0, day.1, named);
    check("*/20 2 * * *", "Europe/Berlin", day.0, "2026-03-29T12:00:00Z", &["2026-03-29 03:00:00 +02:00"]);
    // 02:30 and 03:00 fall together, and are one tick.
    let both = &["2026-03-29 03:00:00 +02:00", "2026-03-29 03:30:00 +02:00"];
    check("0,30 2,3 * * *", "Europe/Berlin", day.0, "2026-03-29T12:00:00Z", both);
    let counted = &["2026-03-29 00:30:00 +01:00", "2026-03-29 01:30:00 +01:00", "2026-03-29 03:30:00 +02:00"];
    check("30 * * * *", "Europe/Berlin", "2026-03-28T23:00:00Z", "2026-03-29T02:00:00Z", counted);
    // A gap at midnight, one of half an hour, and one of a whole day.
    check("0 0 * * *", "America/Havana", "2026-03-07T12:00:00Z", "2026-03-08T12:00:00Z", &["2026-03-08 01:00:00 -04:00"]);
    check("10 2 4 * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", "2026-10-05T00:00:00Z", &["2026-10-04 02:30:00 +11:00"]);
    let apia = &["2011-12-29 08:00:00 -10:00", "2011-12-31 00:00:00 +14:00", "2011-12-31 08:00:00 +14:00"];
    check("0 8 * * *", "Pacific/Apia", "2011-12-29T12:00:00Z", "2011-12-31T12:00:00Z", apia);
}

#[test]
fn a_fixed_time_runs_once_in_a_repeated_hour() {
    let day = ("2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z");
    check("30 2 * * *", "Europe/Berlin", day.0, day.1, &["2026-10-25 02:30:00 +02:00"]);
    let passes = &["2026-10-25 02:30:00 +02:00", "2026-10-25 02:30:00 +01:00"];
    check("30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", "2026-10-25T02:00:00Z", passes);
    check(
        "15 * 25 10 *",
        "Europe/Berlin",
        "2026-10-25T00:00:00Z",
        "2026-10-25T02:00:00Z",
        &["2026-10-25 02:15:00 +02:00", "2026-10-25 02:15:00 +01:00"],
    );
    // A pass that only the rules know, and no clock has shown.
    check("30 23 * * *", "America/Nuuk", "2023-10-28T12:00:00Z", "2023-10-29T12:00:00Z", &["2023-10-28 23:30:00 -02:00"]);
    // In the middle of the second pass, the first one is over.
    let when = when("0,15,30,45 2 * * *", "Europe/Berlin");
    assert_eq!(tick::shown(&when, tick::next(&when, ms("2026-10-25T01:20:00Z")).expect("a tick")), "Mon 2026-10-26 02:00:00 +01:00");
    assert_eq!(tick::shown(&when, tick::previous(&when, ms("2026-10-25T01:20:00Z")).expect("a tick")), "Sun 2026-10-25 02:45:00 +02:00");
}

#[test]
fn patterns_know_seconds_names_and_last_and_nearest_days() {
    let year = ("2026-01-01T00:00:00Z", "2026-04-01T00:00:00Z");
    let last = &["2026-01-31 06:00:00 +00:00", "2026-02-28 06:00:00 +00:00", "2026-03-31 06:00:00 +00:00"];
    check("0 6 L * *", "UTC", year.0, year.1, last);
    // The 15th of February and March 2026 are Sundays.
    let near = &["2026-01-15 06:00:00 +00:00", "2026-02-16 06:00:00 +00:00", "2026-03-16 06:00:00 +00:00"];
    check("0 6 15W * *", "UTC", year.0, year.1, near);
    check("30 59 23 * * FRI#2", "UTC", year.0, "2026-02-01T00:00:00Z", &["2026-01-09 23:59:30 +00:00"]);
    check("@monthly", "Asia/Kathmandu", year.0, "2026-02-20T00:00:00Z", &["2026-02-01 00:00:00 +05:45"]);
    for wrong in ["", "* * * *", "* * * * * * 2026", "61 * * * *", "0 2 * * FOO", "@often", "0 0 32 * *", "1/5 * * * *"] {
        assert!(cron(wrong, TimeZone::UTC).is_err(), "{wrong}");
    }
}

#[test]
fn equal_distances_count_from_1970() {
    let when = When::Every(Duration::from_secs(900));
    assert_eq!(tick::next(&when, ms("2026-01-01T00:00:00Z")), Some(ms("2026-01-01T00:15:00Z")));
    assert_eq!(tick::previous(&when, ms("2026-01-01T00:15:00Z")), Some(ms("2026-01-01T00:00:00Z")));
    assert_eq!((tick::next(&when, -1), tick::previous(&when, 0)), (Some(0), Some(-900_000)));
    assert_eq!((tick::next(&when, i64::MAX - 1), tick::next(&When::After("x".to_owned()), 0)), (None, None));
}

const MINUTE: i64 = 60_000;
const NONE: CatchUp = CatchUp { most: 0, window: Duration::from_secs(86_400) };
const LATEST: CatchUp = CatchUp { most: 1, ..NONE };
const ALL: CatchUp = CatchUp { most: 3, ..NONE };

/// What is due of a tick each minute, in minutes.
#[track_caller]
fn check_due(catch_up: CatchUp, decided: i64, now_ms: i64, start: &[i64], missed: Option<(i64, i64, u64)>) {
    let found = due(&When::Every(Duration::from_secs(60)), catch_up, decided * MINUTE, now_ms);
    let missed = missed.map(|(first, last, count)| Missed { first_ms: first * MINUTE, last_ms: last * MINUTE, count });
    assert_eq!(found, Due { start: start.iter().map(|minute| minute * MINUTE).collect(), missed });
}

#[test]
fn what_is_due_is_on_time_made_up_for_or_missed() {
    assert_eq!(GRACE_MS, MINUTE);
    check_due(NONE, 10, 10 * MINUTE + 59_999, &[], None);
    check_due(NONE, 10, 11 * MINUTE, &[11], None);
    check_due(NONE, 10, 11 * MINUTE + 5, &[11], None);
    check_due(NONE, 10, 15 * MINUTE + 5, &[15], Some((11, 14, 4)));
    check_due(LATEST, 10, 15 * MINUTE + 5, &[15], Some((11, 14, 4)));
    check_due(ALL, 10, 15 * MINUTE + 5, &[12, 13, 14, 15], Some((11, 11, 1)));
    let short = CatchUp { window: Duration::from_secs(150), ..ALL };
    check_due(short, 10, 15 * MINUTE + 5, &[13, 14, 15], Some((11, 12, 2)));
    // A clock that was set back: what was decided is not due again.
    check_due(ALL, 10, 5 * MINUTE, &[], None);
    let hourly = When::Every(Duration::from_secs(3600));
    let late = |catch_up| due(&hourly, catch_up, 0, 5 * 60 * MINUTE + 2 * MINUTE);
    assert_eq!(late(LATEST).start, [5 * 60 * MINUTE]);
    assert_eq!(late(NONE).missed.map(|missed| missed.count), Some(5));
    assert_eq!(late(ALL).missed.map(|missed| missed.count), Some(2));
}

#[test]
fn years_of_missed_seconds_are_not_counted_one_by_one() {
    let second = When::Every(Duration::from_secs(1));
    let found = due(&second, LATEST, 0, ms("2026-01-01T00:00:00Z"));
    assert_eq!(found.start.len(), 60);
    let missed = found.missed.expect("missed");
    assert_eq!((missed.first_ms, missed.count), (1000, 10_000));
}
