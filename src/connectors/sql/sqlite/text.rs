//! The text forms in which values that SQLite has no type for are kept, and their way back.
//!
//! Dates and times are what SQLite's own date functions read. Years outside 0 to 9999 follow ISO 8601 with a sign: year 0 is 1 BC.
//! Intervals are ISO 8601 durations whose months, days and seconds are kept apart, because none of them is a fixed number of another.

use std::fmt::Write;

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// Positive infinity of dates and timestamps.
const INFINITY: &str = "infinity";
/// Negative infinity of dates and timestamps.
const NEGATIVE_INFINITY: &str = "-infinity";

/// `2013-01-31`, `-0043-03-15`, `+12000-01-01`, `infinity`.
pub(super) fn write_date(out: &mut String, days: i32) {
    match days {
        i32::MAX => out.push_str(INFINITY),
        i32::MIN => out.push_str(NEGATIVE_INFINITY),
        _ => write_civil(out, i64::from(days)),
    }
}

/// `05:00:00`, `23:59:59.000001`, `24:00:00`.
pub(super) fn write_time(out: &mut String, micros: i64) {
    let seconds = micros / SECOND;
    push(out, format_args!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60));
    write_fraction(out, micros % SECOND, 6);
}

/// `2013-01-31 05:00:00`, with microseconds only when there are any.
pub(super) fn write_timestamp(out: &mut String, micros: i64) {
    match micros {
        i64::MAX => out.push_str(INFINITY),
        i64::MIN => out.push_str(NEGATIVE_INFINITY),
        _ => {
            write_civil(out, micros.div_euclid(DAY));
            out.push(' ');
            write_time(out, micros.rem_euclid(DAY));
        }
    }
}

/// As [`write_timestamp`], in UTC and ending in `Z`.
pub(super) fn write_timestamp_tz(out: &mut String, micros: i64) {
    write_timestamp(out, micros);
    if micros != i64::MAX && micros != i64::MIN {
        out.push('Z');
    }
}

/// `P14M3DT14706.5S`; every part may be negative.
pub(super) fn write_interval(out: &mut String, months: i32, days: i32, nanos: i64) {
    push(out, format_args!("P{months}M{days}DT{}{}", if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs() / 1_000_000_000));
    write_fraction(out, (nanos.unsigned_abs() % 1_000_000_000) as i64, 9);
    out.push('S');
}

/// Eight, four, four, four and twelve hexadecimal digits.
pub(super) fn write_uuid(out: &mut String, bytes: &[u8]) {
    for (place, byte) in bytes.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        push(out, format_args!("{byte:02x}"));
    }
}

/// Reads what [`write_date`] writes.
pub(super) fn parse_date(text: &str) -> Option<i32> {
    match text {
        INFINITY => Some(i32::MAX),
        NEGATIVE_INFINITY => Some(i32::MIN),
        _ => i32::try_from(parse_civil(text)?).ok().filter(|days| *days != i32::MAX && *days != i32::MIN),
    }
}

/// Reads `05:00`, `05:00:00` and `05:00:00.123456`; more than six digits are only read when the rest are zeros.
pub(super) fn parse_time(text: &str) -> Option<i64> {
    let (clock, fraction) = text.split_once('.').map_or((text, None), |(clock, fraction)| (clock, Some(fraction)));
    let mut parts = clock.split(':').map(two_digits);
    let (hours, minutes) = (parts.next()??, parts.next()??);
    let seconds = match parts.next() {
        Some(seconds) => seconds?,
        None if fraction.is_none() => 0,
        None => return None,
    };
    let micros = fraction.map_or(Some(0), |digits| parse_fraction(digits, 6))?;
    let total = ((hours * 60 + minutes) * 60 + seconds) * SECOND + micros;
    (parts.next().is_none() && minutes < 60 && seconds < 60 && total <= DAY).then_some(total)
}

/// Reads `2013-01-31 05:00:00`, with a space or a `T`, without a zone; a date alone is midnight, as it is for SQLite.
pub(super) fn parse_timestamp(text: &str) -> Option<i64> {
    match text {
        INFINITY => return Some(i64::MAX),
        NEGATIVE_INFINITY => return Some(i64::MIN),
        _ => {}
    }
    let (date, time) = text.split_once([' ', 'T']).map_or((text, None), |(date, time)| (date, Some(time)));
    let time = time.map_or(Some(0), parse_time).filter(|time| *time < DAY)?;
    parse_civil(date)?.checked_mul(DAY)?.checked_add(time).filter(|micros| *micros != i64::MAX && *micros != i64::MIN)
}

/// Reads a timestamp that ends in `Z` or an offset such as `+02:00`.
pub(super) fn parse_timestamp_tz(text: &str) -> Option<i64> {
    if matches!(text, INFINITY | NEGATIVE_INFINITY) {
        return parse_timestamp(text);
    }
    if let Some(local) = text.strip_suffix(['Z', 'z']) {
        return parse_timestamp(local.trim_end()).filter(|_| local.contains(':'));
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let sign = match offset.as_bytes()[0] {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let offset = parse_time(&offset[1..])?;
    parse_timestamp(local.trim_end()).filter(|_| local.contains(':'))?.checked_sub(sign * offset)
}

/// Reads what [`write_interval`] writes: months, days and nanoseconds.
pub(super) fn parse_interval(text: &str) -> Option<(i32, i32, i64)> {
    let (months, rest) = text.strip_prefix('P')?.split_once('M')?;
    let (days, rest) = rest.split_once("DT")?;
    let seconds = rest.strip_suffix('S')?;
    let (negative, seconds) = seconds.strip_prefix('-').map_or((false, seconds), |seconds| (true, seconds));
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let nanos = i128::from(whole.parse::<u64>().ok()?) * 1_000_000_000 + i128::from(parse_fraction(fraction, 9)?);
    Some((months.parse().ok()?, days.parse().ok()?, i64::try_from(if negative { -nanos } else { nanos }).ok()?))
}

/// Reads a UUID with or without its hyphens, in any case.
pub(super) fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    uuid::Uuid::try_parse(text).ok().map(uuid::Uuid::into_bytes)
}

fn push(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(arguments);
}

fn write_fraction(out: &mut String, fraction: i64, digits: usize) {
    if fraction != 0 {
        push(out, format_args!(".{fraction:0digits$}"));
        out.truncate(out.trim_end_matches('0').len());
    }
}

fn parse_fraction(text: &str, digits: usize) -> Option<i64> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (kept, beyond) = text.split_at(text.len().min(digits));
    if !beyond.bytes().all(|byte| byte == b'0') {
        return None;
    }
    let value: i64 = if kept.is_empty() { 0 } else { kept.parse().ok()? };
    Some(value * 10_i64.pow((digits - kept.len()) as u32))
}

fn two_digits(text: &str) -> Option<i64> {
    (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Writes days since 1970-01-01 in the proleptic Gregorian calendar. The algorithm is Howard Hinnant's `civil_from_days`.
fn write_civil(out: &mut String, days: i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    match year {
        0..=9999 => push(out, format_args!("{year:04}-{month:02}-{day:02}")),
        _ => push(out, format_args!("{year:+05}-{month:02}-{day:02}")),
    }
}

fn parse_civil(text: &str) -> Option<i64> {
    let (sign, unsigned) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let (year, rest) = unsigned.split_once('-')?;
    let (month, day) = rest.split_once('-')?;
    if year.len() < 4 || year.len() > 9 || !year.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, month, day) = (sign * year.parse::<i64>().ok()?, two_digits(month)?, two_digits(day)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=last).contains(&day) {
        return None;
    }
    let shifted_year = year - i64::from(month <= 2);
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    Some(era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut String)) -> String {
        let mut out = String::new();
        write(&mut out);
        out
    }

    #[test]
    fn forms_are_those_of_sqlite() {
        assert_eq!(written(|out| write_date(out, 15_736)), "2013-01-31");
        assert_eq!(written(|out| write_date(out, -735_160)), "-0043-03-15");
        assert_eq!(written(|out| write_date(out, 3_663_417)), "+12000-02-05");
        assert_eq!(written(|out| write_timestamp(out, 1_357_016_400_000_000)), "2013-01-01 05:00:00");
        assert_eq!(written(|out| write_timestamp_tz(out, -1)), "1969-12-31 23:59:59.999999Z");
        assert_eq!(written(|out| write_interval(out, 14, -3, -1_500_000_000)), "P14M-3DT-1.5S");
        assert_eq!(parse_timestamp("2013-01-01T05:00"), Some(1_357_016_400_000_000));
        assert_eq!(parse_timestamp_tz("2013-01-01 05:00:00+02:00"), Some(1_357_009_200_000_000));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for text in ["", "2013-02-29", "2013-1-01", "13-01-01", "2013-01-01 ", "2013-00-01", "2013-13-01", "1e4-01-01"] {
            assert_eq!(parse_date(text), None, "{text}");
        }
        for text in ["24:00:01", "5:00:00", "05:60:00", "05:00:60", "05:00:00.1234567", "05:00.5", "05", "05:00:00:00"] {
            assert_eq!(parse_time(text), None, "{text}");
        }
        for text in ["2013-01-01 24:00:00", "2013-01-01 05:00:00Z", "1357016400", "now"] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
        for text in ["2013-01-01 05:00:00", "2013-01-01Z", "2013-01-01+02:00", "é"] {
            assert_eq!(parse_timestamp_tz(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_value_comes_back(days: i32, micros: i64, time in 0..=DAY, months: i32, nanos: i64, bytes: [u8; 16]) {
            prop_assert_eq!(parse_date(&written(|out| write_date(out, days))), Some(days));
            prop_assert_eq!(parse_timestamp(&written(|out| write_timestamp(out, micros))), Some(micros));
            prop_assert_eq!(parse_timestamp_tz(&written(|out| write_timestamp_tz(out, micros))), Some(micros));
            prop_assert_eq!(parse_time(&written(|out| write_time(out, time))), Some(time));
            prop_assert_eq!(parse_interval(&written(|out| write_interval(out, months, days, nanos))), Some((months, days, nanos)));
            prop_assert_eq!(parse_uuid(&written(|out| write_uuid(out, &bytes))), Some(bytes));
        }
    }
}
