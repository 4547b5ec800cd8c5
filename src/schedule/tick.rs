//! The ticks of a schedule: when the next one is, and the one before.
//!
//! Clocks of time zones jump. What a cron pattern means then is decided by its hour field:
//!
//! | hour field | a clock that goes forward (gap) | a clock that goes back (repeated times) |
//! |---|---|---|
//! | names hours: `2`, `1,14`, `9-17` | what falls into the gap runs once, at the first moment after it | runs in the first pass only |
//! | begins with `*` | what falls into the gap is not there | runs in both passes |
//!
//! `every` counts from 1970-01-01 UTC and knows no time zone.

use croner::errors::CronError;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

use crate::define::pipeline::{Cron, Entry, When};

/// The first tick after a time, both in milliseconds since 1970. `None` when none comes any more, or when it is not a matter of time.
pub fn next(when: &When, after_ms: i64) -> Option<i64> {
    match when {
        When::Every(length) => {
            let length = i64::try_from(length.as_millis()).ok().filter(|length| *length > 0)?;
            after_ms.div_euclid(length).checked_add(1)?.checked_mul(length)
        }
        When::Cron(cron) => {
            let after = Timestamp::from_millisecond(after_ms).ok()?;
            let found = if names_hours(cron) { next_named(cron, after) } else { next_counted(cron, after) };
            found.map(Timestamp::as_millisecond)
        }
        When::After(_) => None,
    }
}

/// The last tick before a time.
pub fn previous(when: &When, before_ms: i64) -> Option<i64> {
    match when {
        When::Every(length) => {
            let length = i64::try_from(length.as_millis()).ok().filter(|length| *length > 0)?;
            before_ms.checked_sub(1)?.div_euclid(length).checked_mul(length)
        }
        When::Cron(cron) => {
            let before = Timestamp::from_millisecond(before_ms).ok()?;
            let found = if names_hours(cron) { previous_named(cron, before) } else { previous_counted(cron, before) };
            found.map(Timestamp::as_millisecond)
        }
        When::After(_) => None,
    }
}

/// How much later than its ticks an entry starts: below its jitter, and the same each time for a pipeline.
pub fn delay_ms(pipeline: &str, entry: &Entry) -> i64 {
    let jitter = u64::try_from(entry.jitter.as_millis()).unwrap_or(u64::MAX);
    let spread = xxhash_rust::xxh3::xxh3_64(pipeline.as_bytes()).checked_rem(jitter).unwrap_or(0);
    i64::try_from(spread).unwrap_or(i64::MAX)
}

/// A tick on the clock of its schedule's time zone: `Mon 2026-01-05 02:00:00 +01:00`.
pub fn shown(when: &When, tick_ms: i64) -> String {
    let zone = match when {
        When::Cron(cron) => cron.zone.clone(),
        When::Every(_) | When::After(_) => TimeZone::UTC,
    };
    let time = Timestamp::from_millisecond(tick_ms).map(|time| time.to_zoned(zone).strftime("%a %Y-%m-%d %H:%M:%S %:z").to_string());
    time.unwrap_or_else(|_| tick_ms.to_string())
}

fn names_hours(cron: &Cron) -> bool {
    !cron.pattern.pattern.hours.from_wildcard
}

/// Walks the wall clock, where every time is there once, and asks the zone when that is.
fn next_named(cron: &Cron, after: Timestamp) -> Option<Timestamp> {
    let mut civil = cron.zone.to_datetime(after);
    loop {
        civil = found(cron.pattern.find_next_occurrence(&civil, false))?;
        // In the second pass of a repeated hour the first pass of it is over.
        let tick = instant(&cron.zone, civil)?;
        if tick > after {
            return Some(tick);
        }
    }
}

fn previous_named(cron: &Cron, before: Timestamp) -> Option<Timestamp> {
    let mut civil = cron.zone.to_datetime(before).checked_add(jiff::SignedDuration::from_secs(1)).ok()?;
    // In the second pass of a repeated hour all of the first pass is before, also what the wall clock shows later.
    let transition = cron.zone.preceding(before).next();
    if let Some(transition) = transition {
        let last = transition.timestamp().checked_sub(jiff::SignedDuration::from_secs(1)).ok()?;
        let shown = cron.zone.to_datetime(last).checked_add(jiff::SignedDuration::from_secs(1)).ok()?;
        civil = civil.max(shown);
    }
    loop {
        civil = found(cron.pattern.find_previous_occurrence(&civil, false))?;
        let tick = instant(&cron.zone, civil)?;
        if tick < before {
            return Some(tick);
        }
    }
}

/// When a wall clock shows a time: the first time it does, or the end of the gap that the time falls into.
fn instant(zone: &TimeZone, civil: DateTime) -> Option<Timestamp> {
    match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(civil).ok(),
        AmbiguousOffset::Fold { before, after } => {
            let first = before.to_timestamp(civil).ok()?;
            // Where a zone's rules begin, they may tell of a pass that its clocks never made: America/Nuuk in October 2023.
            if zone.to_datetime(first) == civil { Some(first) } else { after.to_timestamp(civil).ok() }
        }
        AmbiguousOffset::Gap { after, .. } => {
            let early = after.to_timestamp(civil).ok()?;
            Some(zone.following(early).next()?.timestamp())
        }
    }
}

/// Walks time itself, from one change of the zone's offset to the next: in between the wall clock is regular.
fn next_counted(cron: &Cron, after: Timestamp) -> Option<Timestamp> {
    let (mut from, mut inclusive) = (after, false);
    loop {
        let offset = cron.zone.to_offset(from);
        let tick = offset.to_timestamp(found(cron.pattern.find_next_occurrence(&offset.to_datetime(from), inclusive))?).ok()?;
        match cron.zone.following(from).next() {
            Some(change) if tick >= change.timestamp() => (from, inclusive) = (change.timestamp(), true),
            _ => return Some(tick),
        }
    }
}

fn previous_counted(cron: &Cron, before: Timestamp) -> Option<Timestamp> {
    let second = jiff::SignedDuration::from_secs(1);
    let mut before = before;
    loop {
        // The offset that holds just before a change at `before` itself.
        let last = before.checked_sub(jiff::SignedDuration::from_nanos(1)).ok()?;
        let offset = cron.zone.to_offset(last);
        let civil = offset.to_datetime(last);
        // A time within a second is after that second.
        let civil = if civil.subsec_nanosecond() > 0 { civil.checked_add(second).ok()? } else { civil };
        let tick = offset.to_timestamp(found(cron.pattern.find_previous_occurrence(&civil, false))?).ok()?;
        match cron.zone.preceding(before).next() {
            Some(change) if tick < change.timestamp() => before = change.timestamp(),
            _ => return Some(tick),
        }
    }
}

fn found(result: Result<DateTime, CronError>) -> Option<DateTime> {
    result.ok()
}
